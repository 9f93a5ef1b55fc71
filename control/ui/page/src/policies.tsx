// Pods and policies: which policies select a pod, and what they say.

import { useState } from "preact/hooks";
import type { Endpoint, Pod, PolicyDetail, PolicyList } from "./types";
import { type Asked, useAnswer } from "./api";
import { Blank, Failed, podLink, policyLink, policyName } from "./parts";

/** How often the agent is asked, milliseconds. */
const PERIOD = 10_000;
/** Most entries of a list that are drawn. */
const LIST_MAX = 300;

/** What is chosen, by the part of the URL after `#policies/`. */
export function Policies({ chosen }: { chosen: string[] }) {
  const [search, setSearch] = useState("");
  const endpoints = useAnswer<Endpoint[]>("endpoints", {}, PERIOD);
  const policies = useAnswer<PolicyList>("policies", {}, PERIOD);
  const [kind, ...parts] = chosen;
  const matches = (text: string) => text.toLowerCase().includes(search.toLowerCase());
  const pods = (endpoints.value ?? []).filter((endpoint) => matches(endpoint.pod ?? endpoint.link));
  const list = (policies.value?.policies ?? []).filter((policy) => matches(policyName(policy)));
  const here = `#policies/${chosen.map(encodeURIComponent).join("/")}`;
  const entry = (link: string, text: string, state: string, note: string) => (
    <li key={link}>
      <a class="entry" href={link} aria-current={link === here ? "true" : undefined}>
        <span class={`dot ${state}`} aria-hidden="true" />
        <span class="name">{text}</span>
        <span class="muted">{note}</span>
      </a>
    </li>
  );
  return (
    <div class="objects">
      <nav aria-label="Pods and policies" class="scroll">
        <input
          type="search"
          class="search"
          placeholder="Search pods and policies"
          aria-label="Search pods and policies"
          value={search}
          onInput={(event) => setSearch(event.currentTarget.value)}
        />
        <h3>
          Pods of this node <span class="muted">{endpoints.value ? pods.length : ""}</span>
        </h3>
        <ListState asked={endpoints} what="The endpoints can't be read" empty={pods.length === 0} />
        <ul>
          {pods
            .slice(0, LIST_MAX)
            .map((endpoint) =>
              entry(
                podLink(endpoint.pod ?? endpoint.link),
                endpoint.pod ?? endpoint.link,
                endpoint.state,
                endpoint.state === "ready" ? "" : endpoint.state,
              ),
            )}
        </ul>
        <More count={pods.length} />
        <h3>
          Policies <span class="muted">{policies.value ? list.length : ""}</span>
        </h3>
        <ListState asked={policies} what="The policies can't be read" empty={list.length === 0} />
        <ul>
          {list
            .slice(0, LIST_MAX)
            .map((policy) =>
              entry(
                policyLink(policy),
                policyName(policy),
                policy.state,
                policy.state === "enforced"
                  ? `${policy.pods} pod${policy.pods === 1 ? "" : "s"}`
                  : policy.state,
              ),
            )}
        </ul>
        <More count={list.length} />
      </nav>
      <div class="chosen scroll" tabIndex={0} role="region" aria-label="The chosen pod or policy">
        {kind === "pod" && parts[0] ? (
          <OnePod name={parts[0]} />
        ) : kind === "policy" && parts.length === 3 ? (
          <OnePolicy kind={parts[0]!} namespace={parts[1]!} name={parts[2]!} />
        ) : (
          <Blank title="Choose a pod or a policy">A pod shows all policies that select it.</Blank>
        )}
      </div>
    </div>
  );
}

function More({ count }: { count: number }) {
  return count > LIST_MAX ? <p class="muted">{count - LIST_MAX} more: search for them</p> : null;
}

function ListState({
  asked,
  what,
  empty,
}: {
  asked: Asked<unknown>;
  what: string;
  empty: boolean;
}) {
  if (asked.error) return <Failed what={what} error={asked.error} />;
  if (!asked.value) return <p class="muted">Reading…</p>;
  return empty ? <p class="muted">none</p> : null;
}

function OnePod({ name }: { name: string }) {
  const pod = useAnswer<Pod>("pod", { name }, PERIOD);
  if (!pod.value) {
    return pod.error ? (
      <Failed what={`${name} can't be read`} error={pod.error} />
    ) : (
      <Blank busy title="Asking the agent" />
    );
  }
  const { endpoint, policies } = pod.value;
  return (
    <>
      <h2>{name}</h2>
      {pod.error && <Failed what="This is old: it can't be read again" error={pod.error} />}
      {endpoint ? (
        <dl class="facts">
          <div>
            <dt>State</dt>
            <dd>
              <span class={`dot ${endpoint.state}`} /> {endpoint.state}
              {endpoint.reason && `: ${endpoint.reason}`}
            </dd>
          </div>
          <div>
            <dt>Addresses</dt>
            <dd>{endpoint.addresses.join(", ") || "none"}</dd>
          </div>
          <div>
            <dt>Link</dt>
            <dd>{endpoint.link}</dd>
          </div>
          <div>
            <dt>Identity</dt>
            <dd>{endpoint.identity ?? "none"}</dd>
          </div>
          <div>
            <dt>Ingress</dt>
            <dd>{enforced(endpoint.ingress_enforced)}</dd>
          </div>
          <div>
            <dt>Egress</dt>
            <dd>{enforced(endpoint.egress_enforced)}</dd>
          </div>
        </dl>
      ) : (
        <p class="muted">It is not an endpoint of this node.</p>
      )}
      {policies.length === 0 && <p class="muted">No policy selects it: everything is allowed.</p>}
      {policies.map((policy) => (
        <PolicyCard policy={policy} key={`${policy.kind} ${policyName(policy)}`} />
      ))}
    </>
  );
}

const enforced = (on: boolean) => (on ? "only what rules allow" : "everything is allowed");

function OnePolicy(parameters: { kind: string; namespace: string; name: string }) {
  const found = useAnswer<PolicyDetail[]>("policy", parameters, PERIOD);
  if (!found.value) {
    return found.error ? (
      <Failed what={`${parameters.name} can't be read`} error={found.error} />
    ) : (
      <Blank busy title="Asking the agent" />
    );
  }
  const policy = found.value[0];
  if (!policy)
    return (
      <Blank title={`There is no ${parameters.kind} ${parameters.name}`}>
        It was deleted, or never there.
      </Blank>
    );
  return (
    <>
      <PolicyCard policy={policy} />
      <h3>
        Pods that it selects <span class="muted">{policy.selected.length}</span>
      </h3>
      <ul class="pods">
        {policy.selected.slice(0, LIST_MAX).map((pod) => (
          <li key={pod}>
            <a href={podLink(pod)}>{pod}</a>
          </li>
        ))}
      </ul>
      <More count={policy.selected.length} />
    </>
  );
}

function PolicyCard({ policy }: { policy: PolicyDetail }) {
  return (
    <article class="card">
      <header>
        <span class={`dot ${policy.state}`} aria-hidden="true" />
        <h3>
          <a href={policyLink(policy)}>{policyName(policy)}</a>
        </h3>
        <span class="muted">
          {policy.kind}, {policy.state}
        </span>
      </header>
      {policy.rejected.map((field) => (
        <div class="failed" key={field.field}>
          <strong>{field.field}</strong> {field.reason}
          {field.fix && <p>{field.fix}</p>}
        </div>
      ))}
      {policy.specs.map((spec, index) => (
        <section key={index}>
          <p>
            selects {spec.subject}
            {spec.isolates.length > 0 && (
              <>; without a rule, {spec.isolates.join(" and ")} is denied</>
            )}
          </p>
          {spec.rules.length > 0 && (
            <table class="rules">
              <thead>
                <tr>
                  <th>Rule</th>
                  <th>Effect</th>
                  <th>Peers</th>
                  <th>Ports</th>
                  <th>Requests</th>
                </tr>
              </thead>
              <tbody>
                {spec.rules.flatMap((rule) =>
                  (rule.ports ?? [{ ports: "any port" }]).map((ports, at) => (
                    <tr key={`${rule.path} ${at}`}>
                      <td>{at === 0 && <code>{rule.path}</code>}</td>
                      <td class={rule.effect}>{at === 0 && `${rule.effect} ${rule.direction}`}</td>
                      <td>
                        {at === 0 &&
                          (rule.peers
                            ? rule.peers.map((peer) => <div key={peer}>{peer}</div>)
                            : "anyone")}
                      </td>
                      <td>{ports.ports}</td>
                      <td>
                        {"l7" in ports && ports.l7
                          ? ports.l7.map((l7) => (
                              <div key={l7}>
                                <code>{l7}</code>
                              </div>
                            ))
                          : "any"}
                      </td>
                    </tr>
                  )),
                )}
              </tbody>
            </table>
          )}
        </section>
      ))}
    </article>
  );
}
