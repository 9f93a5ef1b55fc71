//! Metrics of the API server as the source of objects.

use podgate_api::Family;

use crate::agent::{BOUNDS_US, LatencyCounts};
use crate::sources::kube::WriteCounts;

/// What is counted of the API server.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct SourceCounts {
    /// Time from the arrival of changes to their use by every worker.
    pub(crate) latency: LatencyCounts,
    /// What was written.
    pub(crate) writes: WriteCounts,
    /// Objects without a name that can be read.
    pub(crate) unreadable: u64,
}

/// The families of these counts.
pub(super) fn families(counts: &SourceCounts) -> Vec<Family> {
    let SourceCounts { latency, writes, unreadable } = counts;
    vec![
        latency_family(latency),
        Family::counter(
            "podgate_api_change_latency_unmeasured_total",
            "Changes whose latency was not measured because there were too many",
        )
        .with(&[], latency.skipped),
        Family::counter("podgate_api_writes_total", "Writes to the API server by outcome")
            .with(&[("what", "status"), ("outcome", "written")], writes.statuses)
            .with(&[("what", "event"), ("outcome", "written")], writes.events)
            .with(&[("what", "any"), ("outcome", "retried")], writes.retried)
            .with(&[("what", "any"), ("outcome", "failed")], writes.failed)
            .with(&[("what", "any"), ("outcome", "gone")], writes.gone)
            .with(&[("what", "any"), ("outcome", "dropped")], writes.dropped),
        Family::gauge("podgate_api_writes_waiting", "Policies whose writes wait")
            .with(&[], writes.waiting),
        Family::counter(
            "podgate_api_unreadable_objects_total",
            "Objects of the API server without a name that can be read",
        )
        .with(&[], *unreadable),
    ]
}

fn latency_family(latency: &LatencyCounts) -> Family {
    let bounds = BOUNDS_US.map(|bound| bound as f64 / 1e6);
    Family::histogram(
        "podgate_api_change_latency_seconds",
        "Time from the arrival of a change at the API server to its use by every worker",
    )
    .with_buckets(&[], &bounds, &latency.buckets, latency.sum_us as f64 / 1e6)
}
