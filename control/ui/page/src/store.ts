// Flows from the server, in bounded memory: the last ones, and sums for the map and the chart.

import type { Batch, End, Flow } from "./types";
import { options } from "./filter";

/** Most flows that are stored. */
export const FLOWS_MAX = 20_000;
/** Most nodes and edges of the map. */
export const NODES_MAX = 150;
export const EDGES_MAX = 400;
/** Most ports of an edge. */
const PORTS_MAX = 20;
/** Seconds of the chart. */
export const SECONDS = 60;
/** Past flows that are asked for. */
const LAST = 2000;
/** Least time between two updates of what is shown, milliseconds. */
const UPDATE_PERIOD = 150;

/** The last values that were added. */
export class Ring<T> {
  private items: T[] = [];
  private next = 0;
  constructor(private readonly max: number) {}
  get length(): number {
    return this.items.length;
  }
  push(item: T): void {
    if (this.items.length < this.max) {
      this.items.push(item);
    } else {
      this.items[this.next] = item;
      this.next = (this.next + 1) % this.max;
    }
  }
  /** The newest is at 0. */
  at(index: number): T | undefined {
    const { length } = this.items;
    if (index < 0 || index >= length) return undefined;
    return this.items[(this.next + length - 1 - index + length) % length];
  }
  /** All, newest first. */
  all(): T[] {
    return Array.from({ length: this.length }, (_, index) => this.at(index)!);
  }
  clear(): void {
    this.items = [];
    this.next = 0;
  }
}

export interface MapNode {
  id: string;
  namespace: string;
  name: string;
  /** An option of the filter that chooses the node as an end. */
  option: [string, string];
}

export interface MapEdge {
  id: string;
  from: string;
  to: string;
  denied: boolean;
  flows: number;
  /** Flows by protocol and port. */
  ports: Map<string, number>;
  last: number;
}

export type Connection =
  | { state: "connecting" }
  | { state: "live" }
  | { state: "problem"; reason: string; ended?: boolean }
  | { state: "rejected"; reason: string };

export const isDenied = (flow: Flow) => flow.verdict === "DROPPED" || flow.verdict === "ERROR";
export const isAllowed = (flow: Flow) => flow.verdict === "FORWARDED" || flow.verdict === "REDIRECTED";

/** The name of an end, in the table. */
export function nameOf(end: End): string {
  if (end.pod) return `${end.namespace ?? ""}/${end.pod}`;
  return end.service ?? end.dns ?? end.ip;
}

/** What an end is on the map. */
function nodeOf(end: End): MapNode {
  if (end.pod) {
    const name = end.workload ?? end.pod;
    const namespace = end.namespace ?? "";
    const option: [string, string] = end.workload
      ? ["workload", end.workload]
      : ["pod", `${namespace}/${end.pod}`];
    return { id: `${namespace}/${name}`, namespace, name, option };
  }
  if (end.service) {
    const [namespace = "", name = ""] = end.service.split("/");
    return { id: end.service, namespace, name, option: ["service", end.service] };
  }
  if (end.dns) return { id: `dns:${end.dns}`, namespace: "", name: end.dns, option: ["fqdn", end.dns] };
  const name = end.reserved || "unknown";
  return { id: `:${name}`, namespace: "", name, option: ["identity", name] };
}

type Listener = () => void;

export class Store {
  readonly flows = new Ring<Flow>(FLOWS_MAX);
  readonly nodes = new Map<string, MapNode>();
  readonly edges = new Map<string, MapEdge>();
  readonly namespaces = new Set<string>();
  /** Flows and denied flows of each of the last seconds, the oldest first. */
  chart: { second: number; flows: number; denied: number }[] = [];
  connection: Connection = { state: "connecting" };
  seen = 0;
  skipped = 0;
  lost = 0;
  /** Edges that did not fit. */
  edgesLeftOut = 0;
  /** Counts changes of nodes and edges. */
  layoutVersion = 0;
  filter = "";
  version = 0;
  private source: EventSource | null = null;
  private listeners = new Set<Listener>();
  private timer = 0;
  private clock = 0;
  private nextId = 1;
  /** How far this browser's clock is ahead of the server's, milliseconds. */
  private ahead = 0;

  subscribe(listener: Listener): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  private changed(): void {
    if (this.timer) return;
    this.timer = window.setTimeout(() => {
      this.timer = 0;
      this.version++;
      for (const listener of this.listeners) listener();
    }, UPDATE_PERIOD);
  }

  private clear(): void {
    this.flows.clear();
    this.nodes.clear();
    this.edges.clear();
    this.chart = [];
    this.seen = this.skipped = this.lost = this.edgesLeftOut = 0;
    this.layoutVersion++;
  }

  /** Follows the flows that match. */
  follow(filter: string): void {
    this.source?.close();
    // Rates fall when no flows come.
    this.clock ||= window.setInterval(() => this.changed(), 1000);
    this.filter = filter;
    this.connection = { state: "connecting" };
    this.clear();
    this.changed();
    const query = new URLSearchParams({
      last: String(LAST),
      filter: JSON.stringify(options(filter)),
    });
    const source = new EventSource(`/api/flows?${query}`);
    this.source = source;
    source.addEventListener("hello", (event) => {
      this.ahead = Date.now() - Number((event as MessageEvent<string>).data);
      // Past flows come again after a new connection.
      this.clear();
      this.connection = { state: "live" };
      this.changed();
    });
    source.addEventListener("problem", (event) => {
      this.connection = { state: "problem", reason: (event as MessageEvent<string>).data };
      this.changed();
    });
    source.addEventListener("rejected", (event) => {
      source.close();
      this.connection = { state: "rejected", reason: (event as MessageEvent<string>).data };
      this.changed();
    });
    source.addEventListener("flows", (event) => {
      this.add(JSON.parse((event as MessageEvent<string>).data) as Batch);
    });
    source.onerror = () => {
      if (source.readyState === EventSource.CLOSED) {
        const reason = "`podgate ui` was started again: open the URL that it printed";
        this.connection = { state: "problem", reason, ended: true };
      } else if (this.connection.state === "live" || this.connection.state === "connecting") {
        // A problem that the server has named is not replaced.
        this.connection = { state: "problem", reason: "`podgate ui` can't be reached: it has stopped" };
      }
      this.changed();
    };
  }

  /** Adds flows, oldest first. */
  add(batch: Batch): void {
    this.skipped += batch.skipped;
    this.lost += batch.lost;
    for (const flow of batch.flows) {
      flow.id = this.nextId++;
      this.flows.push(flow);
      this.addToChart(flow.time, 1, isDenied(flow) ? 1 : 0);
      this.addToMap(flow);
    }
    this.seen += batch.flows.length;
    if (batch.skipped) this.addToChart(this.now(), batch.skipped, 0);
    this.changed();
  }

  /** The time at the server, milliseconds since 1970. */
  now(): number {
    return Date.now() - this.ahead;
  }

  private addToChart(time: number, flows: number, denied: number): void {
    const second = Math.floor(time / 1000);
    const now = Math.floor(this.now() / 1000);
    if (second > now || now - second >= SECONDS) return;
    let index = this.chart.length;
    while (index > 0 && this.chart[index - 1]!.second > second) index--;
    let entry = this.chart[index - 1];
    if (entry?.second !== second) {
      entry = { second, flows: 0, denied: 0 };
      this.chart.splice(index, 0, entry);
      if (this.chart.length > SECONDS) this.chart.shift();
    }
    entry.flows += flows;
    entry.denied += denied;
  }

  private node(end: End): MapNode | undefined {
    const node = nodeOf(end);
    const known = this.nodes.get(node.id);
    if (known) return known;
    if (this.nodes.size >= NODES_MAX) return undefined;
    this.nodes.set(node.id, node);
    if (node.namespace) this.namespaces.add(node.namespace);
    this.layoutVersion++;
    return node;
  }

  private addToMap(flow: Flow): void {
    const denied = isDenied(flow);
    if (!denied && !isAllowed(flow)) return;
    const back = flow.reply === true;
    const from = this.node(back ? flow.destination : flow.source);
    const to = this.node(back ? flow.source : flow.destination);
    if (!from || !to) {
      this.edgesLeftOut++;
      return;
    }
    const id = `${from.id} ${to.id} ${denied}`;
    let edge = this.edges.get(id);
    if (!edge) {
      if (this.edges.size >= EDGES_MAX) {
        this.edgesLeftOut++;
        return;
      }
      edge = { id, from: from.id, to: to.id, denied, flows: 0, ports: new Map(), last: 0 };
      this.edges.set(id, edge);
      this.layoutVersion++;
    }
    edge.flows++;
    edge.last = flow.time;
    const port = flow.port || flow.protocol || "other";
    if (edge.ports.has(port) || edge.ports.size < PORTS_MAX) {
      edge.ports.set(port, (edge.ports.get(port) ?? 0) + 1);
    }
  }

  /** Flows and denied flows of the last full seconds, per second. */
  rates(): { flows: number; denied: number } {
    const now = Math.floor(this.now() / 1000);
    const full = this.chart.filter((entry) => entry.second < now && entry.second >= now - 3);
    const sum = full.reduce(
      (total, entry) => ({ flows: total.flows + entry.flows, denied: total.denied + entry.denied }),
      { flows: 0, denied: 0 },
    );
    return { flows: sum.flows / 3, denied: sum.denied / 3 };
  }
}

export const store = new Store();
