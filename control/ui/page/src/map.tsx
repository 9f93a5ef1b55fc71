// The map: workloads and services by namespace, with edges of allowed and denied flows.

import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { Graph, layout } from "@dagrejs/dagre";
import { type MapEdge, type MapNode, store } from "./store";
import { Blank, brief, number, useStore } from "./parts";

const NODE_HEIGHT = 34;
const CHARACTER = 7.1;
/** Smallest scale at which the map is drawn to fit; a larger one scrolls. */
const SCALE_MIN = 0.6;
/** Least time between two layouts, milliseconds. */
const LAYOUT_PERIOD = 800;

interface Point {
  x: number;
  y: number;
}

interface Placed {
  width: number;
  height: number;
  nodes: { node: MapNode; x: number; y: number; width: number }[];
  groups: { namespace: string; x: number; y: number; width: number; height: number }[];
  edges: { edge: MapEdge; points: Point[]; label: Point | null }[];
}

function place(nodes: MapNode[], edges: MapEdge[]): Placed {
  const graph = new Graph({ compound: true, multigraph: true });
  graph.setGraph({ rankdir: "LR", nodesep: 18, ranksep: 44, edgesep: 14, marginx: 16, marginy: 16 });
  graph.setDefaultEdgeLabel(() => ({}));
  const width = (node: MapNode) => Math.min(260, 30 + node.name.length * CHARACTER);
  for (const node of nodes) {
    graph.setNode(node.id, { width: width(node), height: NODE_HEIGHT });
    if (node.namespace) {
      const group = `ns ${node.namespace}`;
      if (!graph.hasNode(group)) graph.setNode(group, {});
      graph.setParent(node.id, group);
    }
  }
  for (const edge of edges) {
    if (edge.from === edge.to) continue;
    graph.setEdge(
      edge.from,
      edge.to,
      { width: labelWidth(edge) + 6, height: 18, labelpos: "c" },
      String(edge.denied),
    );
  }
  layout(graph);
  const groups = new Set(nodes.map((node) => node.namespace).filter(Boolean));
  const size = graph.graph() as { width?: number; height?: number };
  return {
    width: size.width ?? 0,
    height: size.height ?? 0,
    nodes: nodes.map((node) => {
      const { x, y } = graph.node(node.id) as unknown as Point;
      return { node, x, y, width: width(node) };
    }),
    groups: [...groups].map((namespace) => {
      const box = graph.node(`ns ${namespace}`) as unknown as Point & { width: number; height: number };
      return { namespace, x: box.x, y: box.y, width: box.width, height: box.height };
    }),
    edges: edges.map((edge) => {
      if (edge.from === edge.to) {
        return { edge, points: [], label: null };
      }
      const placed = graph.edge(edge.from, edge.to, String(edge.denied)) as unknown as {
        points: Point[];
        x?: number;
        y?: number;
      };
      const label = placed.x === undefined ? null : { x: placed.x, y: placed.y! };
      return { edge, points: placed.points, label };
    }),
  };
}

function portsOf(edge: MapEdge): string {
  const ports = [...edge.ports].sort((a, b) => b[1] - a[1]).map(([port]) => port);
  return ports.slice(0, 2).join(", ") + (ports.length > 2 ? ` +${ports.length - 2}` : "");
}

const labelOf = (edge: MapEdge) => `${edge.denied ? "✕ " : ""}${portsOf(edge)}`;
const labelWidth = (edge: MapEdge) => labelOf(edge).length * 6.7 + 8;

/** A line with rounded corners. */
function path(points: Point[]): string {
  const [first, ...rest] = points;
  if (!first) return "";
  let text = `M${first.x},${first.y}`;
  for (let i = 0; i < rest.length - 1; i++) {
    const [here, next] = [rest[i]!, rest[i + 1]!];
    text += ` Q${here.x},${here.y} ${(here.x + next.x) / 2},${(here.y + next.y) / 2}`;
  }
  const last = rest.at(-1) ?? first;
  return `${text} L${last.x},${last.y}`;
}

interface Props {
  namespace: string;
  showFlows: (terms: [string, string][]) => void;
}

export function ServiceMap({ namespace, showFlows }: Props) {
  useStore();
  const [chosen, choose] = useState<string | null>(null);
  const placed = useLayoutOf(namespace);
  const canvas = useRef<HTMLDivElement>(null);
  const [room, setRoom] = useState<[number, number]>([0, 0]);
  const empty = placed.nodes.length === 0;
  useLayoutEffect(() => {
    const element = canvas.current;
    if (!element) return;
    const observer = new ResizeObserver(() => setRoom([element.clientWidth, element.clientHeight]));
    observer.observe(element);
    return () => observer.disconnect();
  }, [empty]);
  const edges = placed.edges.map(({ edge }) => edge);
  const nodes = new Map(placed.nodes.map(({ node }) => [node.id, node]));
  const near = (edge: MapEdge) =>
    !chosen || edge.id === chosen || edge.from === chosen || edge.to === chosen;
  useEffect(() => {
    const key = (event: KeyboardEvent) => event.key === "Escape" && choose(null);
    window.addEventListener("keydown", key);
    return () => window.removeEventListener("keydown", key);
  }, []);
  const fitting = room[0] ? Math.min(room[0] / placed.width, room[1] / placed.height) : 1;
  const scale = Math.max(SCALE_MIN, Math.min(1.15, fitting));
  if (empty) {
    const { connection } = store;
    if (connection.state === "connecting") return <Blank busy title="Connecting to Hubble's API" />;
    if (connection.state === "live") {
      return (
        <Blank title={namespace ? `Nothing talks in ${namespace}` : "No connections yet"}>
          The map is drawn from the flows that match the filter.
        </Blank>
      );
    }
    return <Blank title="No flows">{connection.reason}</Blank>;
  }
  const label = (edge: MapEdge) =>
    `${nodes.get(edge.from)?.id.replace(/^:/, "")} to ${nodes.get(edge.to)?.id.replace(/^:/, "")}, ` +
    `${portsOf(edge)}, ${edge.denied ? "denied" : "allowed"}, ${number.format(edge.flows)} flows`;
  return (
    <div class="map">
      <div class="canvas" ref={canvas} tabIndex={0} role="group" aria-label="Service map">
        <svg
          width={placed.width * scale}
          height={placed.height * scale}
          viewBox={`0 0 ${placed.width} ${placed.height}`}
          onClick={(event) => event.target === event.currentTarget && choose(null)}
        >
          <defs>
            {["allowed", "denied"].map((kind) => (
              <marker
                key={kind} id={`arrow-${kind}`} class={`arrowhead ${kind}`} viewBox="0 0 8 8" refX="7" refY="4"
                markerWidth="8" markerHeight="8" markerUnits="userSpaceOnUse" orient="auto"
              >
                <path d="M0,0 L8,4 L0,8 z" />
              </marker>
            ))}
          </defs>
          {placed.groups.map((box) => (
            <g class="group" key={box.namespace}>
              <rect x={box.x - box.width / 2} y={box.y - box.height / 2 - 12} width={box.width} height={box.height + 12} rx="8" />
              <text x={box.x - box.width / 2 + 10} y={box.y - box.height / 2 + 4}>{box.namespace}</text>
            </g>
          ))}
          {placed.edges.map(({ edge, points, label: at }) => points.length > 0 && (
            <g
              key={edge.id}
              class={`edge ${edge.denied ? "denied" : "allowed"}${near(edge) ? "" : " far"}`}
              onClick={() => choose(edge.id)}
            >
              <title>{label(edge)}</title>
              <path class="hit" d={path(points)} />
              <path
                class="line" d={path(points)} marker-end={`url(#arrow-${edge.denied ? "denied" : "allowed"})`}
                stroke-width={1.2 + Math.min(2, Math.log10(edge.flows + 1) * 0.5)}
              />
              {at && (
                <>
                  <rect
                    x={at.x - labelWidth(edge) / 2} y={at.y - 8} width={labelWidth(edge)} height="16" rx="4"
                  />
                  <text x={at.x} y={at.y + 4} text-anchor="middle">{labelOf(edge)}</text>
                </>
              )}
            </g>
          ))}
          {placed.nodes.map(({ node, x, y, width }) => (
            <g
              key={node.id}
              class={`node${node.namespace ? "" : " outside"}${chosen === node.id ? " chosen" : ""}`}
              transform={`translate(${x - width / 2},${y - NODE_HEIGHT / 2})`}
              tabIndex={0}
              role="button"
              aria-pressed={chosen === node.id}
              aria-label={node.namespace ? `${node.name} in ${node.namespace}` : node.name}
              onClick={() => choose(chosen === node.id ? null : node.id)}
              onKeyDown={(event) => {
                if (event.key !== "Enter" && event.key !== " ") return;
                event.preventDefault();
                choose(chosen === node.id ? null : node.id);
              }}
            >
              <rect width={width} height={NODE_HEIGHT} rx="6" />
              <text x={width / 2} y={NODE_HEIGHT / 2 + 4.5} text-anchor="middle">
                {node.name.length > 32 ? `${node.name.slice(0, 31)}…` : node.name}
              </text>
            </g>
          ))}
        </svg>
      </div>
      <Connections
        edges={edges.filter(near)}
        nodes={nodes}
        chosen={chosen}
        choose={choose}
        showFlows={showFlows}
      />
    </div>
  );
}

/** The layout of what there is, made again when there is more, but not at each update. */
function useLayoutOf(namespace: string): Placed {
  const [version, setVersion] = useState(store.layoutVersion);
  const waiting = useRef(0);
  useEffect(() => {
    const check = () => {
      if (waiting.current || store.layoutVersion === version) return;
      waiting.current = window.setTimeout(() => {
        waiting.current = 0;
        setVersion(store.layoutVersion);
      }, LAYOUT_PERIOD);
    };
    check();
    return store.subscribe(check);
  }, [version]);
  useEffect(() => () => window.clearTimeout(waiting.current), []);
  return useMemo(() => {
    const all = [...store.nodes.values()];
    const inside = new Set(
      all.filter((node) => !namespace || node.namespace === namespace).map((node) => node.id),
    );
    const edges = [...store.edges.values()].filter(
      (edge) => inside.has(edge.from) || inside.has(edge.to),
    );
    const ends = new Set(edges.flatMap((edge) => [edge.from, edge.to]));
    return place(all.filter((node) => ends.has(node.id)), edges);
  }, [version, namespace]);
}

function Connections({ edges, nodes, chosen, choose, showFlows }: {
  edges: MapEdge[];
  nodes: Map<string, MapNode>;
  chosen: string | null;
  choose: (id: string | null) => void;
  showFlows: Props["showFlows"];
}) {
  const sorted = edges.toSorted((a, b) => Number(b.denied) - Number(a.denied) || b.flows - a.flows);
  const node = chosen ? nodes.get(chosen) : undefined;
  const show = (edge: MapEdge) => {
    const terms: [string, string][] = [];
    const ends: ["from" | "to", MapNode | undefined][] = [
      ["from", nodes.get(edge.from)],
      ["to", nodes.get(edge.to)],
    ];
    for (const [side, end] of ends) if (end) terms.push([`${side}-${end.option[0]}`, end.option[1]]);
    if (edge.denied) terms.push(["verdict", "DROPPED"]);
    showFlows(terms);
  };
  const name = (id: string) => {
    const end = nodes.get(id);
    return (
      <span class="name">
        {end?.namespace && <span class="namespace">{end.namespace}/</span>}{end?.name}
      </span>
    );
  };
  return (
    <aside class="connections" aria-label="Connections">
      <header>
        <h2>{node ? node.name : "Connections"}</h2>
        {chosen && <button class="small" onClick={() => choose(null)}>Show all</button>}
      </header>
      <ul class="scroll">
        {sorted.map((edge) => (
          <li key={edge.id}>
            <button
              class={`connection${edge.denied ? " denied" : ""}${edge.id === chosen ? " chosen" : ""}`}
              onClick={() => (edge.id === chosen ? show(edge) : choose(edge.id))}
              aria-pressed={edge.id === chosen}
            >
              <span class="ends">{name(edge.from)} <span aria-hidden="true">→</span> {name(edge.to)}</span>
              <span class="ports">{portsOf(edge)}</span>
              <span class={`verdict ${edge.denied ? "dropped" : "forwarded"}`}>
                {edge.denied ? "denied" : "allowed"} {brief(edge.flows)}
              </span>
            </button>
            {edge.id === chosen && (
              <div class="more">
                <table>
                  <tbody>
                    {[...edge.ports].sort((a, b) => b[1] - a[1]).map(([port, flows]) => (
                      <tr key={port}><td>{port}</td><td>{number.format(flows)} flows</td></tr>
                    ))}
                  </tbody>
                </table>
                <button class="small" onClick={() => show(edge)}>Show these flows</button>
              </div>
            )}
          </li>
        ))}
      </ul>
      {store.edgesLeftOut > 0 && (
        <p class="warn">The map is full: {number.format(store.edgesLeftOut)} flows are not on it. Use a filter.</p>
      )}
    </aside>
  );
}
