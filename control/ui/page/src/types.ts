// What the server sends: control/ui/src/row.rs, and the types of control/api.

export interface End {
  ip: string;
  port?: number;
  namespace?: string;
  pod?: string;
  workload?: string;
  service?: string;
  dns?: string;
  reserved?: string;
}

export interface PolicyName {
  kind: string;
  namespace?: string;
  name: string;
}

export interface Flow {
  /** Number of the flow in this page, from 1. */
  id: number;
  time: number;
  verdict: string;
  kind: string;
  reply?: boolean;
  source: End;
  destination: End;
  protocol: string;
  port?: string;
  direction?: string;
  reason?: string;
  summary: string;
  node: string;
  policies?: PolicyName[];
  request?: { protocol: string; text: string };
}

export interface Batch {
  flows: Flow[];
  skipped: number;
  lost: number;
}

export interface RuleName {
  policy: PolicyName;
  path: string;
}

export interface Miss {
  rule: RuleName;
  effect: string;
  failed: { criterion: string; reasons: string[]; further_reasons?: number }[];
  fix?: string;
}

export interface Direction {
  verdict: {
    allowed: boolean;
    by: string;
    rule?: RuleName;
    policies?: PolicyName[];
    [more: string]: unknown;
  };
  request_allowed?: boolean;
  policies: PolicyName[];
  matching: { rule: RuleName; effect: string; l7: boolean }[];
  misses: Miss[];
  further_misses: number;
}

export interface ExplainedEnd {
  address: string;
  namespace?: string;
  pod?: string;
  kind: string;
  local: boolean;
  labels: string[];
}

export interface Explained {
  epoch?: number;
  notes: string[];
  verdict: "allowed" | "inspected" | "denied";
  source: ExplainedEnd;
  destination: ExplainedEnd;
  port: string;
  egress: Direction;
  ingress: Direction;
  no_inspector?: string;
  not_forwarded?: string;
  request?: { request: string; allowed: boolean; rule?: RuleName; denial?: string };
}

export interface Endpoint {
  link: string;
  pod: string | null;
  state: "ready" | "waiting" | "gone";
  reason?: string;
  addresses: string[];
  identity?: number | null;
  ingress_enforced: boolean;
  egress_enforced: boolean;
}

export interface PolicyStatus extends PolicyName {
  state: "enforced" | "outdated" | "rejected";
  pods: number;
}

export interface RejectedField {
  object: string;
  source?: { file: string; line: number };
  field: string;
  reason: string;
  fix?: string;
}

export interface PolicyDetail extends PolicyStatus {
  rejected: RejectedField[];
  specs: {
    subject: string;
    isolates: string[];
    rules: {
      path: string;
      direction: string;
      effect: string;
      tier: string;
      priority: number;
      peers?: string[];
      ports?: { ports: string; l7?: string[] }[];
    }[];
  }[];
  selected: string[];
}

export interface PolicyList {
  epoch: number;
  policies: PolicyStatus[];
  rejected: RejectedField[];
}

export interface Pod {
  endpoint: Endpoint | null;
  policies: PolicyDetail[];
}

export interface Status {
  version: string;
  ready: boolean;
  not_ready: string[];
  uptime_s: number;
  epoch: number;
  source: { name: string; synced: boolean; problems: string[]; current: boolean };
  problems: string[];
  policies: number;
  rejected: number;
  endpoints: { ready: number; waiting: number; gone: number };
  workers: {
    worker: number;
    received: number;
    forwarded: number;
    dropped: number;
    flows: number;
    held_frames: number;
  }[];
  drops: { reason: string; packets: number; bytes: number }[];
  links: {
    link: string;
    pod: string | null;
    received: number;
    rx_dropped: number;
    rx_ring_full: number;
    fill_ring_empty: number;
  }[];
  flow_records_lost: number;
  health: {
    sync_age_s: number;
    threads: { name: string; alive: boolean; load_percent: number }[];
    tables: { name: string; used: number; capacity: number }[];
    memory: { resident: number; frames: number; rings: number; pools: number; bpf: number };
    certificates: { name: string; expires_s: number | null; problem: string | null }[];
    services: { name: string; address: string | null; detail: string }[];
    rejected: { object: string; reason: string }[];
    endpoints_not_ready: { link: string; pod: string | null; reason: string }[];
  };
}
