// One flow, and why it was allowed or denied.

import { useEffect, useState } from "preact/hooks";
import type { Direction, Explained, Flow, Miss } from "./types";
import { isDenied, nameOf } from "./store";
import { Blank, Failed, Rule, Verdict, clock, day, podLink, policyLink, policyName } from "./parts";
import { type Asked, ask } from "./api";

interface Props {
  flow: Flow;
  close: () => void;
  addFilter: (name: string, value: string) => void;
}

export function Detail({ flow, close, addFilter }: Props) {
  return (
    <aside class="detail" aria-label="Details of the selected flow" id="detail">
      <header>
        <Verdict verdict={flow.verdict} />
        <h2>{flow.kind}</h2>
        <button class="icon" onClick={close} aria-label="Close the details" title="Close (Esc)">
          ✕
        </button>
      </header>
      <div class="scroll" tabIndex={0} role="group" aria-label="Details">
        <Why flow={flow} />
        <Facts flow={flow} addFilter={addFilter} />
      </div>
    </aside>
  );
}

function Facts({ flow, addFilter }: { flow: Flow; addFilter: Props["addFilter"] }) {
  const end = (side: "source" | "destination") => {
    const value = flow[side];
    const name = nameOf(value);
    const direction = side === "source" ? "from" : "to";
    return (
      <>
        <span class="value">
          {value.pod ? <a href={podLink(name)}>{name}</a> : name}
          {value.port ? `:${value.port}` : ""}
        </span>
        {name !== value.ip && <span class="sub">{value.ip}</span>}
        {value.reserved && <span class="sub">{value.reserved}</span>}
        {value.service && value.pod && <span class="sub">service {value.service}</span>}
        <button
          class="small"
          onClick={() =>
            addFilter(`${direction}-${value.pod ? "pod" : "ip"}`, value.pod ? name : value.ip)
          }
          aria-label={`Show only flows ${direction} ${name}`}
        >
          only {direction} here
        </button>
      </>
    );
  };
  const facts: [string, preact.ComponentChildren][] = [
    ["Time", `${day(flow.time)} ${clock(flow.time)}`],
    ["Source", end("source")],
    ["Destination", end("destination")],
    ["Protocol", flow.port ? flow.port : flow.protocol],
    ["Direction", [flow.direction, flow.reply && "reply"].filter(Boolean).join(", ")],
    ["Drop reason", flow.reason],
    ["Request", flow.request?.text],
    ["Summary", flow.summary],
    [
      "Policies",
      (flow.policies ?? []).map((policy) => (
        <a class="value" href={policyLink(policy)} key={policyName(policy)}>
          {policy.kind} {policyName(policy)}
        </a>
      )),
    ],
    ["Node", flow.node],
  ];
  return (
    <section>
      <h3>Flow</h3>
      <dl class="facts">
        {facts
          .filter(([, value]) => (Array.isArray(value) ? value.length > 0 : Boolean(value)))
          .map(([name, value]) => (
            <div key={name}>
              <dt>{name}</dt>
              <dd>{value}</dd>
            </div>
          ))}
      </dl>
    </section>
  );
}

/** Parameters of the request to explain a flow; none if it can't be explained. */
function explainParameters(flow: Flow): Record<string, string> | null {
  if (!flow.port) return null;
  const ends = [flow.source, flow.destination];
  if (flow.reply) ends.reverse();
  const [from, to] = ends.map((end) => (end.pod ? `${end.namespace}/${end.pod}` : end.ip));
  const request: Record<string, string> = flow.request
    ? { [flow.request.protocol]: flow.request.text }
    : {};
  return from && to ? { from, to, port: flow.port, ...request } : null;
}

function Why({ flow }: { flow: Flow }) {
  const asked = explainParameters(flow);
  const key = JSON.stringify(asked);
  const [answer, setAnswer] = useState<Asked<Explained> & { key?: string }>({});
  useEffect(() => {
    if (!asked) return;
    let ended = false;
    // Arrow keys pass over many flows.
    const timer = window.setTimeout(() => {
      ask<Explained>("explain", asked).then(
        (value) => !ended && setAnswer({ value, key }),
        (error: Error) => !ended && setAnswer({ error: error.message, key }),
      );
    }, 120);
    return () => {
      ended = true;
      window.clearTimeout(timer);
    };
  }, [key]);
  const current = answer.key === key ? answer : {};
  return (
    <section class="why" id="why" aria-live="polite">
      <h3>Why</h3>
      {!asked ? (
        <p class="muted">There is no port or ICMP type to explain.</p>
      ) : current.error ? (
        <Failed what="It can't be explained" error={current.error} />
      ) : current.value ? (
        <Explanation explained={current.value} flow={flow} />
      ) : (
        <Blank busy title="Asking the agent" />
      )}
    </section>
  );
}

function Explanation({ explained, flow }: { explained: Explained; flow: Flow }) {
  const { request } = explained;
  const denied = explained.verdict === "denied" || request?.allowed === false;
  const differs = isDenied(flow) !== denied && explained.verdict !== "inspected";
  const verdict = denied
    ? "Denied"
    : explained.verdict === "inspected"
      ? "Open; each request is inspected"
      : "Allowed";
  const end = (which: "source" | "destination") => {
    const { namespace, pod, address } = explained[which];
    return pod ? `${namespace}/${pod}` : address;
  };
  return (
    <>
      <p class={`outcome ${denied ? "denied" : "allowed"}`}>
        {explained.not_forwarded ? "Not forwarded" : `${verdict} by the policy in force now`}
        {request?.denial && <span class="sub">{request.denial}</span>}
        {explained.not_forwarded && <span class="sub">{explained.not_forwarded}</span>}
        {explained.no_inspector && (
          <span class="sub">{explained.no_inspector} can't be inspected</span>
        )}
      </p>
      {differs && (
        <p class="note">
          The flow was {isDenied(flow) ? "denied" : "forwarded"}, for a reason other than policy or
          under the policy of its time.
        </p>
      )}
      {!explained.not_forwarded && (
        <>
          <Side title={`Egress of ${end("source")}`} direction={explained.egress} />
          <Side title={`Ingress of ${end("destination")}`} direction={explained.ingress} />
        </>
      )}
      {explained.notes.map((note) => (
        <p class="note" key={note}>
          {note}
        </p>
      ))}
    </>
  );
}

function decidedBy({ verdict }: Direction): preact.ComponentChildren {
  const policies = (verdict.policies ?? []).map((policy, index) => (
    <span key={policyName(policy)}>
      {index > 0 && ", "}
      <a href={policyLink(policy)}>{policyName(policy)}</a>
    </span>
  ));
  switch (verdict.by) {
    case "rule":
      return (
        <>
          by <Rule rule={verdict.rule!} />
        </>
      );
    case "conflict":
      return (
        <>
          because another rule requires another L7 protocol than <Rule rule={verdict.rule!} />
        </>
      );
    case "default-deny":
      return policies.length ? (
        <>because no rule of {policies} allows it</>
      ) : (
        "because no rule allows it"
      );
    case "unenforced":
      return "because no policy selects it in this direction";
    case "node":
      return "as traffic between the node and its own pod";
    case "to-self":
      return "as traffic of a pod with itself";
    case "not-local":
      return "here: it is not an endpoint of this node, whose agent applies its policy";
    default:
      return verdict.by;
  }
}

function Side({ title, direction }: { title: string; direction: Direction }) {
  const { verdict, matching, misses, further_misses: further } = direction;
  const requestDenied = verdict.allowed && direction.request_allowed === false;
  const word = requestDenied
    ? "open, but the request is denied"
    : verdict.allowed
      ? "allowed"
      : "denied";
  const shown = verdict.by === "rule" || verdict.by === "conflict" ? verdict.rule : undefined;
  const others = matching.filter(({ rule }) => !shown || ruleKey(rule) !== ruleKey(shown));
  return (
    <div class={`side ${verdict.allowed && !requestDenied ? "allowed" : "denied"}`}>
      <h4>{title}</h4>
      <p>
        <b>{word}</b>
        {requestDenied ? "; opened " : " "}
        {decidedBy(direction)}
      </p>
      {others.length > 0 && (
        <>
          <h5>Rules that match too</h5>
          <ul>
            {others.map(({ rule, effect }) => (
              <li key={ruleKey(rule)}>
                <Rule rule={rule} /> {effect}
              </li>
            ))}
          </ul>
        </>
      )}
      {misses.length > 0 && (
        <>
          <h5>Near misses</h5>
          <ol class="misses">
            {misses.map((miss, index) => (
              <NearMiss miss={miss} key={index} />
            ))}
          </ol>
          {further > 0 && <p class="muted">and {further} further ones</p>}
        </>
      )}
    </div>
  );
}

const ruleKey = (rule: Miss["rule"]) =>
  `${rule.policy.kind} ${policyName(rule.policy)} ${rule.path}`;

function NearMiss({ miss }: { miss: Miss }) {
  return (
    <li>
      <Rule rule={miss.rule} /> <span class="muted">{miss.effect}, but</span>
      <ul>
        {miss.failed.map(({ criterion, reasons, further_reasons: further }) => (
          <li key={criterion}>
            <b>{criterion}</b> {reasons.join("; ")}
            {further ? `; and ${further} further reasons` : ""}
          </li>
        ))}
      </ul>
      {miss.fix && (
        <p class="fix">
          <b>Fix</b> {miss.fix}
        </p>
      )}
    </li>
  );
}
