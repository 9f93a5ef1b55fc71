// What is not ready, and how the agent is.

import type { ComponentChildren } from "preact";
import type { PolicyList, Status } from "./types";
import { type Asked, useAnswer } from "./api";
import { Blank, Failed, brief, bytes, day, duration, number, podLink } from "./parts";

interface Problem {
  what: string;
  why: string;
  link?: string;
}

/** Everything that is not as it should be, the worst first. */
export function problemsOf(status: Status, list?: PolicyList): Problem[] {
  const { health } = status;
  const problems: Problem[] = status.not_ready.map((why) => ({ what: "Not ready", why }));
  for (const thread of health.threads) {
    if (!thread.alive)
      problems.push({ what: `Thread ${thread.name}`, why: "it makes no progress" });
  }
  for (const why of status.source.problems) problems.push({ what: status.source.name, why });
  for (const { pod, link, reason } of health.endpoints_not_ready) {
    problems.push({ what: `Endpoint ${pod ?? link}`, why: reason, link: podLink(pod ?? link) });
  }
  const fields = list?.rejected.map((field) => ({
    what: `Rejected ${field.object}`,
    why: `${field.field}: ${field.reason}${field.fix ? `; ${field.fix}` : ""}`,
  }));
  problems.push(
    ...(fields ??
      health.rejected.map(({ object, reason }) => ({
        what: `Rejected ${object}`,
        why: reason,
      }))),
  );
  for (const why of status.problems) problems.push({ what: "Node", why });
  for (const { name, problem } of health.certificates) {
    if (problem) problems.push({ what: `Certificate ${name}`, why: problem });
  }
  for (const { name, used, capacity } of health.tables) {
    if (capacity > 0 && used / capacity >= 0.9) {
      problems.push({
        what: `Table ${name}`,
        why: `${number.format(used)} of ${number.format(capacity)} entries are in use`,
      });
    }
  }
  // A policy that is rejected may be named by several parts of the status.
  const seen = new Set<string>();
  return problems.filter(
    ({ what, why }) => !seen.has(`${what} ${why}`) && seen.add(`${what} ${why}`),
  );
}

export function Health({ status }: { status: Asked<Status> }) {
  const policies = useAnswer<PolicyList>("policies", {}, 10_000);
  if (!status.value) {
    return status.error ? (
      <Blank title="The agent can't be asked">{status.error}</Blank>
    ) : (
      <Blank busy title="Asking the agent" />
    );
  }
  const value = status.value;
  const { health } = value;
  const problems = problemsOf(value, policies.value);
  return (
    <div class="health scroll" tabIndex={0} role="region" aria-label="Health of the agent">
      {status.error && (
        <Failed what="This is old: the agent can't be asked any more" error={status.error} />
      )}
      <section class="card wide">
        <header>
          <span class={`dot ${value.ready ? "ready" : "rejected"}`} aria-hidden="true" />
          <h2>{value.ready ? "Ready" : "Not ready"}</h2>
          <span class="muted">
            podgate {value.version}, up {duration(value.uptime_s)}, epoch {value.epoch},{" "}
            {value.source.name}
          </span>
        </header>
        {problems.length === 0 ? (
          <p class="good">
            Nothing is wrong: every endpoint is ready, and every object is in force.
          </p>
        ) : (
          <ul class="problems" id="problems">
            {problems.map(({ what, why, link }) => (
              <li key={`${what} ${why}`}>
                <strong>{link ? <a href={link}>{what}</a> : what}</strong> <span>{why}</span>
              </li>
            ))}
          </ul>
        )}
      </section>
      <div class="cards">
        <Card title="Endpoints">
          <Numbers
            rows={[
              ["ready", value.endpoints.ready],
              ["waiting", value.endpoints.waiting],
              ["gone", value.endpoints.gone],
            ]}
          />
        </Card>
        <Card title="Policy">
          <Numbers
            rows={[
              ["policies in force", value.policies],
              ["rejected objects", value.rejected],
              [
                "objects are",
                value.source.current ? "up to date" : `${duration(health.sync_age_s)} old`,
              ],
            ]}
          />
        </Card>
        <Card title="Memory">
          <Numbers
            rows={[
              ["resident", bytes(health.memory.resident)],
              ["frames", bytes(health.memory.frames)],
              ["rings, in the kernel", bytes(health.memory.rings)],
              ["frames and links, in the kernel", bytes(health.memory.pools)],
              ["BPF, in the kernel", bytes(health.memory.bpf)],
            ]}
          />
        </Card>
        <Card title="Drops">
          {value.drops.length === 0 ? (
            <p class="muted">none</p>
          ) : (
            <Numbers
              rows={value.drops
                .toSorted((a, b) => b.packets - a.packets)
                .map(({ reason, packets }) => [reason, number.format(packets)])}
            />
          )}
        </Card>
        <Card title="Tables">
          <ul class="bars">
            {health.tables.map(({ name, used, capacity }) => {
              const part = capacity ? used / capacity : 0;
              return (
                <li key={name}>
                  <span>{name}</span>
                  <meter min={0} max={1} high={0.8} value={part} aria-label={`${name}, fill`} />
                  <span class="muted">
                    {brief(used)} of {brief(capacity)}
                  </span>
                </li>
              );
            })}
          </ul>
        </Card>
        <Card title="Threads">
          <ul class="bars">
            {health.threads.map(({ name, alive, load_percent: load }) => (
              <li key={name}>
                <span>{name}</span>
                <meter min={0} max={100} high={95} value={load} aria-label={`${name}, load`} />
                <span class={alive ? "muted" : "bad"}>{alive ? `${load} %` : "stuck"}</span>
              </li>
            ))}
          </ul>
        </Card>
        <Card title="Workers">
          <table>
            <thead>
              <tr>
                <th>#</th>
                <th>forwarded</th>
                <th>dropped</th>
                <th>flows</th>
                <th>held</th>
              </tr>
            </thead>
            <tbody>
              {value.workers.map((worker) => (
                <tr key={worker.worker}>
                  <td>{worker.worker}</td>
                  <td>{brief(worker.forwarded)}</td>
                  <td>{brief(worker.dropped)}</td>
                  <td>{brief(worker.flows)}</td>
                  <td>{brief(worker.held_frames)}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </Card>
        <Card title="Links with losses">
          <Losses status={value} />
        </Card>
        <Card title="Services">
          <Numbers
            rows={[
              ...health.services.map(({ name, address, detail }): [string, string] => [
                name,
                address ? `${address} ${detail}` : "off",
              ]),
              ...health.certificates.map(({ name, expires_s: expires }): [string, string] => [
                `${name} expires`,
                expires ? day(expires * 1000) : "unknown",
              ]),
            ]}
          />
        </Card>
      </div>
    </div>
  );
}

function Card({ title, children }: { title: string; children: ComponentChildren }) {
  return (
    <section class="card">
      <h3>{title}</h3>
      {children}
    </section>
  );
}

function Numbers({ rows }: { rows: [string, string | number][] }) {
  return (
    <dl class="numbers">
      {rows.map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}

function Losses({ status }: { status: Status }) {
  const lossy = status.links.filter((link) => link.rx_dropped + link.rx_ring_full > 0);
  if (lossy.length === 0) return <p class="muted">none</p>;
  return (
    <table>
      <thead>
        <tr>
          <th>link</th>
          <th>no frame</th>
          <th>ring full</th>
        </tr>
      </thead>
      <tbody>
        {lossy.slice(0, 50).map((link) => (
          <tr key={link.link}>
            <td title={link.link}>{link.pod ?? link.link}</td>
            <td>{brief(link.rx_dropped)}</td>
            <td>{brief(link.rx_ring_full)}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}
