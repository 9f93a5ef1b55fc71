//! A cluster's size: the measurements of `yardstick policy`, and the real agent with as many
//! objects from an API server (`agent`) and from files (`manifests`).

mod agent;
mod changes;
mod cluster;
mod control;
mod decisions;
mod manifests;
mod names;
mod node;
mod objects;
mod policies;
mod policy;
mod report;
pub(crate) mod resident;
mod swaps;
mod table;

use std::io;

use podgate_tables::route::AddressTaken;

pub(crate) use agent::{IDS as AGENT_IDS, measure as measure_agent};
pub use cluster::{Labels, Size};
pub(crate) use manifests::{IDS as MANIFESTS_IDS, measure as measure_manifests};
pub(crate) use names::NameControl;
pub use node::Node;
pub use policy::{Args, measure, run};
pub use report::{Bar, ClusterInfo, Decisions, Measurement, Memory, Part, ScaleReport, Statistic};

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An object of the cluster was rejected.
    #[error("an object of the benchmark was rejected, which is a bug: {0}")]
    Rejected(String),
    /// Impossible: pods have distinct addresses.
    #[error(transparent)]
    AddressTaken(#[from] AddressTaken),
    /// There are too few pods.
    #[error("no pod is on this node; set a larger --pods")]
    NoLocalPod,
    /// No memory for packet buffers.
    #[error("no memory for packets")]
    Memory(#[source] io::Error),
    /// The worker's thread panicked.
    #[error("the worker panicked, which is a bug")]
    Worker,
    /// The report can't be written.
    #[error("can't write the report")]
    Output(#[source] io::Error),
    /// With `--check`: the report was printed, and bars were missed.
    #[error("missed: {}", .0.join("; "))]
    Missed(Vec<String>),
}
