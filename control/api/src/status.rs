//! Readiness and counters of the agent.

use podgate_socket::SourceStatus;
use serde::{Deserialize, Serialize};

use crate::health::Health;

/// Readiness and counters of the agent.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Status {
    /// Version of the program.
    pub version: String,
    /// Whether policy is in force for all attached endpoints.
    pub ready: bool,
    /// Why not, one line each.
    pub not_ready: Vec<String>,
    /// Seconds since the agent started.
    pub uptime_s: u64,
    /// Epoch of the published tables; zero before the first.
    pub epoch: u64,
    /// Where objects come from.
    pub source: SourceStatus,
    /// Latencies and writes, if objects come from an API server.
    #[serde(default)]
    pub api_server: Option<ApiServerStatus>,
    /// Problems of the node or the agent's own files, one line each.
    #[serde(default)]
    pub problems: Vec<String>,
    /// Policies in force.
    pub policies: usize,
    /// Objects that were rejected, and files of which nothing could be read.
    pub rejected: usize,
    /// Number of endpoints by state.
    pub endpoints: EndpointCounts,
    /// One for each worker.
    pub workers: Vec<WorkerStatus>,
    /// Packets dropped, by reason; reasons with none are left out.
    pub drops: Vec<DropCount>,
    /// Counters of each link, the host link's first; links that are gone are left out.
    #[serde(default)]
    pub links: Vec<LinkCounts>,
    /// Events that became no flow record: a ring was full, or too many came at once.
    pub flow_records_lost: u64,
    /// Flows of the previous agent, at this one's start.
    #[serde(default)]
    pub flows_taken_over: FlowsTakenOver,
    /// The state of the agent's parts.
    #[serde(default)]
    pub health: Health,
}

/// Outcome of restoring the flows that the previous agent saved when it stopped.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
pub struct FlowsTakenOver {
    /// Flows that were taken over.
    pub taken: usize,
    /// Flows that were not: policy no longer allows them without inspection, their pod or link is
    /// gone, or they timed out.
    pub left_out: usize,
    /// Why the file was not used, if so.
    pub problem: Option<String>,
}

/// Changes from an API server, and what was written there.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
pub struct ApiServerStatus {
    /// Changes whose latency was measured.
    pub changes: u64,
    /// Median, 99th percentile and maximum of the time from the arrival of a change to its use by
    /// every worker, of the last 1,024 changes, microseconds; none before the first.
    pub latency_us: Option<[u64; 3]>,
    /// What was written; none with `--policy-status off`.
    pub writes: Option<ApiServerWrites>,
}

/// Counts of writes to the API server, by outcome.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
pub struct ApiServerWrites {
    /// Statuses of policies that were written.
    pub statuses: u64,
    /// Events that were written, by this node or by another one.
    pub events: u64,
    /// Writes that were tried again.
    pub retried: u64,
    /// Writes that were given up.
    pub failed: u64,
    /// Policies whose writes were dropped because too many waited.
    pub dropped: u64,
    /// Policies whose writes wait.
    pub waiting: u64,
}

/// Number of endpoints by state.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct EndpointCounts {
    /// Under policy.
    pub ready: usize,
    /// Attached, but their pod is not known: cut off.
    pub waiting: usize,
    /// Their link vanished.
    pub gone: usize,
}

/// Counters of one worker.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct WorkerStatus {
    /// Index.
    pub worker: usize,
    /// Packets received.
    pub received: u64,
    /// Packets forwarded.
    pub forwarded: u64,
    /// Packets dropped.
    pub dropped: u64,
    /// Live flows.
    pub flows: u64,
    /// Frames of packets that wait for an L7 verdict.
    pub held_frames: u64,
}

/// Counters of a link since it was attached: packets received, packets lost before policy, exceeded
/// quotas. They show links that send more than the node can process.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
pub struct LinkCounts {
    /// The host's end, or the workers' end of the link to the node.
    pub link: String,
    /// The pod behind it; none for the node and everything outside.
    pub pod: Option<String>,
    /// Packets received.
    pub received: u64,
    /// Packets that the kernel dropped because it had no frame, or for other reasons.
    pub rx_dropped: u64,
    /// Packets that the kernel dropped because the RX ring was full.
    pub rx_ring_full: u64,
    /// Times that the kernel found the fill ring empty.
    pub fill_ring_empty: u64,
    /// New flows dropped because the link, or a source behind it, had used up its share.
    pub over_quota_flows: u64,
    /// The same for flows to be inspected.
    pub over_quota_inspected: u64,
    /// Segments and bytes that inspected flows could not buffer.
    pub over_quota_buffers: u64,
    /// Packets that could not be handed off to the worker that owns their flow.
    pub over_quota_handoffs: u64,
    /// Events that could not be reported.
    pub over_quota_events: u64,
    /// New flows dropped because the link had used up its share of distinct services and backends.
    #[serde(default)]
    pub over_quota_services: u64,
    /// Records of session affinity that were lost.
    #[serde(default)]
    pub over_quota_affinity: u64,
    /// DNS answers that had to wait before the agent could take their addresses.
    #[serde(default)]
    pub over_quota_dns_answers: u64,
}

impl LinkCounts {
    /// Packets lost at the link's rings.
    #[must_use]
    pub const fn ring_drops(&self) -> u64 {
        self.rx_dropped + self.rx_ring_full
    }

    /// Allocations denied by the link's quotas.
    #[must_use]
    pub const fn over_quota(&self) -> u64 {
        self.over_quota_flows
            + self.over_quota_inspected
            + self.over_quota_buffers
            + self.over_quota_handoffs
            + self.over_quota_events
            + self.over_quota_services
            + self.over_quota_affinity
            + self.over_quota_dns_answers
    }
}

/// Packets dropped for one reason.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct DropCount {
    /// Label of the reason.
    pub reason: String,
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}
