//! What a benchmark found out, for programs; `table` prints the same for people.

use std::fmt;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::cluster::{Labels, Size};
use podgate_replay::latency::Latency;

/// Everything that `yardstick policy` finds out.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct Report {
    /// What was measured on.
    pub cluster: ClusterInfo,
    /// Memory.
    pub memory: Memory,
    /// Times.
    pub measurements: Vec<Measurement>,
    /// Decisions.
    pub decisions: Vec<Decisions>,
    /// Changes that were published per second while batches were measured.
    pub updates_per_second: f64,
    /// The machine's load when it began. With as many cores as that busy otherwise, long times are
    /// mostly waiting for a core.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<f64>,
    /// What reading the clock takes, nanoseconds. It is taken off the decisions' times, and is
    /// contained in all others.
    pub clock_ns: u64,
    /// Whether this is a debug build, so that the figures mean nothing.
    pub debug_build: bool,
}

impl Report {
    /// The bars that were not met, as lines for people.
    #[must_use]
    pub fn missed(&self) -> Vec<String> {
        let times = self.measurements.iter().filter_map(|measurement| {
            let bar = measurement.bar.filter(|bar| !bar.met)?;
            let took = bar.statistic.of(&measurement.ns);
            let (what, Bar { statistic, limit, .. }) = (&measurement.what, bar);
            Some(format!("{what}: {statistic} {took} ns, and the bar is {limit} ns"))
        });
        let memory = self.memory.bar.filter(|bar| !bar.met).map(|bar| {
            let peak = self.memory.peak_resident.unwrap_or_default();
            format!("memory: {peak} bytes, and the bar is {} bytes", bar.limit)
        });
        // Where they are not counted, the tests of this crate count them.
        let allocating = self.decisions.iter().filter_map(|decisions| {
            let n = decisions.allocations.filter(|&n| n > 0)?;
            Some(format!("{}: {n} allocations, and there may be none", decisions.what))
        });
        times.chain(memory).chain(allocating).collect()
    }
}

/// The cluster.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct ClusterInfo {
    /// Its size.
    #[serde(flatten)]
    pub size: Size,
    /// Which pods have the same labels.
    pub labels: Labels,
    /// What it was drawn with.
    pub seed: u64,
    /// Different identities.
    pub identities: u64,
    /// Addresses of pods and nodes.
    pub addresses: u64,
    /// Pods of this node.
    pub local_pods: u64,
}

/// Memory, bytes. Absent what could not be counted.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Memory {
    /// Allocated by the store: the objects as they are kept.
    pub store: Option<u64>,
    /// Allocated by the compiler, with the tables and the catalogue, beside the store.
    pub compiled: Option<u64>,
    /// The most that was resident at one time until the cluster was compiled.
    pub peak_resident: Option<u64>,
    /// The bar of the peak.
    pub bar: Option<Bar>,
}

/// How long one thing takes.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct Measurement {
    /// The thing.
    pub what: String,
    /// How many times it was done.
    pub samples: u64,
    /// Time, nanoseconds.
    pub ns: Latency,
    /// What it may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bar: Option<Bar>,
    /// Its parts, each with its median, nanoseconds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Part>,
}

impl Measurement {
    /// Of what was recorded.
    pub(super) fn new(what: impl Into<String>, histogram: &Histogram<u64>) -> Self {
        let (what, ns) = (what.into(), Latency::of(histogram));
        Self { what, samples: histogram.len(), ns, bar: None, parts: Vec::new() }
    }

    /// With a bar.
    #[must_use]
    pub(super) fn held_to(mut self, statistic: Statistic, limit: u64) -> Self {
        self.bar = Some(Bar { statistic, limit, met: statistic.of(&self.ns) <= limit });
        self
    }
}

/// A part of something.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Part {
    /// The part.
    pub what: String,
    /// Median, nanoseconds.
    pub ns: u64,
}

/// What something may take at most.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bar {
    /// What is held against it.
    pub statistic: Statistic,
    /// Nanoseconds or bytes.
    pub limit: u64,
    /// Whether it is met.
    pub met: bool,
}

/// What is held against a bar.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "lowercase")]
pub enum Statistic {
    /// The median.
    P50,
    /// The 99th percentile.
    P99,
    /// The largest.
    Max,
}

impl Statistic {
    pub(super) fn of(self, latency: &Latency) -> u64 {
        match self {
            Self::P50 => latency.p50,
            Self::P99 => latency.p99,
            Self::Max => latency.max,
        }
    }
}

impl fmt::Display for Statistic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::P50 => "p50",
            Self::P99 => "p99",
            Self::Max => "max",
        })
    }
}

/// What the decisions of one measurement came to.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Decisions {
    /// Name of the measurement.
    pub what: String,
    /// Flows that were allowed.
    pub allowed: u64,
    /// Flows that were denied.
    pub denied: u64,
    /// Allocations; absent if the program does not count them.
    pub allocations: Option<u64>,
}
