//! Policy at the size of a cluster: what `yardstick policy` measures.

mod changes;
mod cluster;
mod control;
mod decisions;
mod node;
mod policies;
mod policy;
mod report;
mod resident;
mod swaps;
mod table;

use std::io;

use podgate_tables::route::AddressTaken;

pub use cluster::{Labels, Size};
pub use node::Node;
pub use policy::{Args, measure, run};
pub use report::{Bar, ClusterInfo, Decisions, Measurement, Memory, Part, Report, Statistic};

/// Why there is no result, or not the one that was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An object of the cluster was refused.
    #[error("an object of the benchmark was refused, which is a bug: {0}")]
    Refused(String),
    /// Can't be: pods have addresses of their own.
    #[error(transparent)]
    AddressTaken(#[from] AddressTaken),
    /// There are too few pods.
    #[error("no pod is on this node; ask for more pods")]
    NoLocalPod,
    /// No memory for frames.
    #[error("no memory for packets")]
    Memory(#[source] io::Error),
    /// The worker's thread panicked.
    #[error("the worker failed, which is a bug")]
    Worker,
    /// The report can't be written.
    #[error("can't write the report")]
    Output(#[source] io::Error),
    /// With `--check`: the report is printed, and some bar was missed.
    #[error("missed: {}", .0.join("; "))]
    Missed(Vec<String>),
}
