// Small parts that several views use.

import type { ComponentChildren } from "preact";
import { useEffect, useState } from "preact/hooks";
import type { PolicyName, RuleName } from "./types";
import { store } from "./store";

/** Draws again after each update of the store. */
export function useStore(): number {
  const [version, setVersion] = useState(store.version);
  useEffect(() => store.subscribe(() => setVersion(store.version)), []);
  return version;
}

export const number = new Intl.NumberFormat("en");

/** A number in few characters. */
export function brief(value: number): string {
  if (value >= 1e6) return `${(value / 1e6).toFixed(1)}M`;
  if (value >= 1e4) return `${Math.round(value / 1e3)}k`;
  if (value >= 1e3) return `${(value / 1e3).toFixed(1)}k`;
  return value >= 10 || Number.isInteger(value) ? String(Math.round(value)) : value.toFixed(1);
}

export function bytes(value: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${unit ? value.toFixed(1) : value} ${units[unit]}`;
}

export function duration(seconds: number): string {
  const parts: [number, string][] = [[86400, "d"], [3600, "h"], [60, "m"], [1, "s"]];
  const first = parts.findIndex(([size]) => seconds >= size);
  if (first < 0) return "0s";
  let rest = Math.floor(seconds);
  return parts
    .slice(first, first + 2)
    .map(([size, unit]) => {
      const count = Math.floor(rest / size);
      rest -= count * size;
      return count ? `${count}${unit}` : "";
    })
    .join(" ")
    .trim();
}

const two = (value: number, width = 2) => String(value).padStart(width, "0");

/** The local time of day. */
export function clock(milliseconds: number): string {
  const time = new Date(milliseconds);
  const parts = [time.getHours(), time.getMinutes(), time.getSeconds()].map((part) => two(part));
  return `${parts.join(":")}.${two(time.getMilliseconds(), 3)}`;
}

/** The local date. */
export function day(milliseconds: number): string {
  const time = new Date(milliseconds);
  return `${time.getFullYear()}-${two(time.getMonth() + 1)}-${two(time.getDate())}`;
}

export const policyName = (policy: PolicyName) =>
  policy.namespace ? `${policy.namespace}/${policy.name}` : policy.name;

export function Rule({ rule }: { rule: RuleName }) {
  return (
    <span class="rule">
      <a href={policyLink(rule.policy)}>{policyName(rule.policy)}</a> <code>{rule.path}</code>
    </span>
  );
}

export const policyLink = (policy: PolicyName) =>
  `#policies/policy/${[policy.kind, policy.namespace ?? "", policy.name].map(encodeURIComponent).join("/")}`;

export const podLink = (pod: string) => `#policies/pod/${encodeURIComponent(pod)}`;

/** What is shown where there is nothing else to show. */
export function Blank({ title, children, busy }: {
  title: string;
  children?: ComponentChildren;
  busy?: boolean;
}) {
  return (
    <div class="blank" role="status">
      {busy && <span class="spinner" aria-hidden="true" />}
      <strong>{title}</strong>
      {children && <p>{children}</p>}
    </div>
  );
}

export function Failed({ what, error }: { what: string; error: string }) {
  return (
    <div class="failed" role="alert">
      <strong>{what}</strong>
      <p>{error}</p>
    </div>
  );
}

/** Words of verdicts, with their color. */
export function Verdict({ verdict }: { verdict: string }) {
  return <span class={`verdict ${verdict.toLowerCase()}`}>{verdict.toLowerCase()}</span>;
}
