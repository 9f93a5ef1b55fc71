//! The results as data; `table` prints them for people.

use std::fmt;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::cluster::{Labels, Size};
use podgate_replay::latency::Latency;

/// The results of `yardstick policy`.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct ScaleReport {
    /// The cluster.
    pub cluster: ClusterInfo,
    /// Memory.
    pub memory: Memory,
    /// Times.
    pub measurements: Vec<Measurement>,
    /// Decisions.
    pub decisions: Vec<Decisions>,
    /// Changes published per second during the batches with updates.
    pub updates_per_second: f64,
    /// Load average of the machine at the start. If it is high, long times are mostly waits for a
    /// core.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<f64>,
    /// Cost of reading the clock, nanoseconds. It is subtracted from the decisions' times, and
    /// included in all others.
    pub clock_ns: u64,
    /// Whether this is a debug build, whose figures are meaningless.
    pub debug_build: bool,
}

impl ScaleReport {
    /// The missed bars, as lines of text.
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
        // Without the counting allocator the number is unknown; this crate's tests assert it.
        let allocating = self.decisions.iter().filter_map(|decisions| {
            let n = decisions.allocations.filter(|&n| n > 0)?;
            Some(format!("{}: {n} allocations, and the bar is 0", decisions.what))
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
    /// Its seed.
    pub seed: u64,
    /// Number of identities.
    pub identities: u64,
    /// Number of addresses of pods and nodes.
    pub addresses: u64,
    /// Number of pods of this node.
    pub local_pods: u64,
}

/// Memory, bytes. Absent if it could not be measured.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Memory {
    /// Memory of the store with the objects.
    pub store: Option<u64>,
    /// Memory of the compiler, the tables and the catalogue, in addition to the store.
    pub compiled: Option<u64>,
    /// Peak resident memory until the cluster was compiled.
    pub peak_resident: Option<u64>,
    /// The bar for the peak.
    pub bar: Option<Bar>,
}

/// Time of one operation.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct Measurement {
    /// The operation.
    pub what: String,
    /// Number of repetitions.
    pub samples: u64,
    /// Time, nanoseconds.
    pub ns: Latency,
    /// Its bar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bar: Option<Bar>,
    /// Its parts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Part>,
}

impl Measurement {
    /// A measurement of the times in `histogram`.
    pub(super) fn new(what: impl Into<String>, histogram: &Histogram<u64>) -> Self {
        let (what, ns) = (what.into(), Latency::of(histogram));
        Self { what, samples: histogram.len(), ns, bar: None, parts: Vec::new() }
    }

    /// Adds a bar.
    #[must_use]
    pub(super) fn with_bar(mut self, statistic: Statistic, limit: u64) -> Self {
        self.bar = Some(Bar { statistic, limit, met: statistic.of(&self.ns) <= limit });
        self
    }
}

/// A part of an operation.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Part {
    /// Its name.
    pub what: String,
    /// Its median, nanoseconds.
    pub ns: u64,
}

/// An upper limit.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bar {
    /// The statistic to which it applies.
    pub statistic: Statistic,
    /// The limit, nanoseconds or bytes.
    pub limit: u64,
    /// Whether it is met.
    pub met: bool,
}

/// The statistic to which a bar applies.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "lowercase")]
pub enum Statistic {
    /// The median.
    P50,
    /// The 99th percentile.
    P99,
    /// The maximum.
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

/// Results of the decisions of one measurement.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Decisions {
    /// Name of the measurement.
    pub what: String,
    /// Number of allowed flows.
    pub allowed: u64,
    /// Number of denied flows.
    pub denied: u64,
    /// Number of allocations; absent without the counting allocator.
    pub allocations: Option<u64>,
}
