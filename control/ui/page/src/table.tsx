// The table of flows: only the rows that are visible are in the document.

import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import type { Flow } from "./types";
import { isDenied, nameOf, store } from "./store";
import { Blank, Verdict, clock, number, policyName, useStore } from "./parts";

const ROW_HEIGHT = 26;
/** Rows above and below the visible ones. */
const MARGIN = 6;

/** What is shown while the table does not follow. */
export interface Pause {
  /** The flows, newest first. */
  flows: Flow[];
  /** Flows that had been seen. */
  seen: number;
}

export interface Focus {
  selected: Flow | null;
  /** Whether the details are open. */
  open: boolean;
}

interface Props {
  pause: Pause | null;
  setPause: (pause: Pause | null) => void;
  focus: Focus;
  setFocus: (focus: Focus) => void;
}

/** A reason in words. */
const sentence = (reason: string) => reason.toLowerCase().replaceAll("_", " ");

/** What is shown from now on until the table follows again. */
export const pauseNow = (): Pause => ({ flows: store.flows.all(), seen: store.seen });

export function FlowTable({ pause, setPause, focus, setFocus }: Props) {
  useStore();
  const body = useRef<HTMLDivElement>(null);
  const [top, setTop] = useState(0);
  const [height, setHeight] = useState(600);
  useLayoutEffect(() => {
    const element = body.current!;
    const observer = new ResizeObserver(() => setHeight(element.clientHeight));
    observer.observe(element);
    return () => observer.disconnect();
  }, []);
  useEffect(() => {
    if (!pause && body.current) body.current.scrollTop = 0;
  }, [pause]);

  const count = pause ? pause.flows.length : store.flows.length;
  const at = (index: number) => (pause ? pause.flows[index] : store.flows.at(index));
  const first = pause ? Math.max(0, Math.floor(top / ROW_HEIGHT) - MARGIN) : 0;
  const last = Math.min(count, Math.ceil(((pause ? top : 0) + height) / ROW_HEIGHT) + MARGIN);
  const rows: Flow[] = [];
  for (let index = first; index < last; index++) rows.push(at(index)!);

  const select = (flow: Flow | undefined, open: boolean) => {
    if (!flow) return;
    if (!pause) setPause(pauseNow());
    setFocus({ selected: flow, open });
  };

  const scrolled = () => {
    const element = body.current!;
    setTop(element.scrollTop);
    if (!pause && element.scrollTop > ROW_HEIGHT) setPause(pauseNow());
  };

  const keyed = (event: KeyboardEvent) => {
    const flows = pause?.flows ?? store.flows.all();
    const index = focus.selected ? flows.findIndex((flow) => flow.id === focus.selected!.id) : -1;
    const page = Math.max(1, Math.floor(height / ROW_HEIGHT) - 1);
    const steps: Record<string, number> = {
      ArrowDown: index + 1,
      ArrowUp: index - 1,
      j: index + 1,
      k: index - 1,
      PageDown: index + page,
      PageUp: index - page,
      Home: 0,
      End: flows.length - 1,
    };
    const step = event.ctrlKey || event.metaKey || event.altKey ? undefined : steps[event.key];
    if (step !== undefined) {
      event.preventDefault();
      const next = Math.max(0, Math.min(flows.length - 1, step));
      if (!flows[next]) return;
      if (!pause) setPause({ flows, seen: store.seen });
      setFocus({ selected: flows[next], open: focus.open });
      const element = body.current!;
      const y = next * ROW_HEIGHT;
      if (y < element.scrollTop) element.scrollTop = y;
      const below = y + ROW_HEIGHT - element.clientHeight;
      if (below > element.scrollTop) element.scrollTop = below;
    } else if (event.key === "Enter" && focus.selected) {
      event.preventDefault();
      setFocus({ ...focus, open: true });
    }
  };

  return (
    <div
      class="table"
      role="grid"
      aria-label="Flows, newest first"
      aria-rowcount={count + 1}
      aria-colcount={7}
      aria-activedescendant={focus.selected ? `flow-${focus.selected.id}` : undefined}
      tabIndex={0}
      onKeyDown={keyed}
    >
      <div class="row head" role="row" aria-rowindex={1}>
        {["Time", "Verdict", "Source", "Destination", "Type", "Summary", "Policy"].map((title) => (
          <span role="columnheader" key={title}>{title}</span>
        ))}
      </div>
      <div class="body" ref={body} onScroll={scrolled} role="rowgroup">
        {count === 0 ? <NoFlows /> : (
          <div class="space" style={{ height: `${count * ROW_HEIGHT}px` }} role="presentation">
            <div style={{ transform: `translateY(${first * ROW_HEIGHT}px)` }} role="presentation">
              {rows.map((flow, offset) => (
                <Row
                  key={flow.id}
                  flow={flow}
                  index={first + offset}
                  selected={flow.id === focus.selected?.id}
                  select={() => select(flow, true)}
                />
              ))}
            </div>
          </div>
        )}
      </div>
    </div>
  );
}

function NoFlows() {
  const { connection, filter } = store;
  switch (connection.state) {
    case "connecting":
      return <Blank busy title="Connecting to Hubble's API" />;
    case "problem":
      return <Blank title="No flows">{connection.reason}</Blank>;
    case "rejected":
      return <Blank title="The filter is not valid">{connection.reason}</Blank>;
    case "live":
      return filter
        ? <Blank title="No flow matches yet">New ones appear as they come. Esc in the filter clears it.</Blank>
        : <Blank title="No flows yet">They appear as soon as a pod sends something.</Blank>;
  }
}

function Row({ flow, index, selected, select }: {
  flow: Flow;
  index: number;
  selected: boolean;
  select: () => void;
}) {
  const policies = (flow.policies ?? []).map((policy) => policy.name);
  const summary = isDenied(flow) && flow.reason && !flow.request ? sentence(flow.reason) : flow.summary;
  return (
    <div
      class={`row${isDenied(flow) ? " denied" : ""}${selected ? " selected" : ""}`}
      role="row"
      id={`flow-${flow.id}`}
      aria-rowindex={index + 2}
      aria-selected={selected}
      // Rows move while the table follows, so that a click would begin and end on different ones.
      onPointerDown={(event) => event.button === 0 && select()}
    >
      <span role="gridcell" class="time">{clock(flow.time)}</span>
      <span role="gridcell"><Verdict verdict={flow.verdict} /></span>
      <End flow={flow} end="source" />
      <End flow={flow} end="destination" />
      <span role="gridcell" class="kind" title={flow.kind}>{flow.kind}</span>
      <span role="gridcell" class="summary" title={flow.summary}>{summary}</span>
      <span
        role="gridcell"
        class="policy"
        title={(flow.policies ?? []).map((policy) => `${policy.kind} ${policyName(policy)}`).join("\n")}
      >
        {policies[0] ?? ""}{policies.length > 1 && ` +${policies.length - 1}`}
      </span>
    </div>
  );
}

function End({ flow, end }: { flow: Flow; end: "source" | "destination" }) {
  const { [end]: side } = flow;
  const name = nameOf(side);
  const slash = side.pod || side.service ? name.indexOf("/") + 1 : 0;
  return (
    <span role="gridcell" class="end" title={`${name} ${side.ip}${side.reserved ? ` (${side.reserved})` : ""}`}>
      {end === "destination" && <span class="arrow" aria-hidden="true">→</span>}
      <span class="name">
        {slash > 0 && <span class="namespace">{name.slice(0, slash)}</span>}{name.slice(slash)}
      </span>
      {side.port ? <span class="port">:{side.port}</span> : null}
    </span>
  );
}

/** How much is shown, and what is missing. */
export function Footer({ pause, resume }: { pause: Pause | null; resume: () => void }) {
  useStore();
  const missed = pause ? store.seen - pause.seen : 0;
  return (
    <footer class="counts">
      {pause ? (
        <button class="resume" onClick={resume}>
          ▶ Paused{missed > 0 && `, ${number.format(missed)} newer`} <kbd>p</kbd>
        </button>
      ) : <span class="following"><i /> Following</span>}
      <span id="stored">
        {number.format(pause ? pause.flows.length : store.flows.length)} shown
        {" of "}{number.format(store.seen)} received
      </span>
      {store.skipped > 0 && (
        <span class="warn" id="skipped" title="This browser read too slowly. A filter makes fewer flows.">
          {number.format(store.skipped)} skipped by this page
        </span>
      )}
      {store.lost > 0 && (
        <span class="warn" id="lost" title="The server had no room for them.">
          {number.format(store.lost)} lost at the server
        </span>
      )}
      <span class="keys" aria-hidden="true">
        <kbd>/</kbd> filter <kbd>↑</kbd><kbd>↓</kbd> select <kbd>Enter</kbd> explain <kbd>p</kbd> pause <kbd>?</kbd> keys
      </span>
    </footer>
  );
}
