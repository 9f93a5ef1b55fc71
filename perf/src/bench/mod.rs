//! `podgate bench`: how fast podgate is at a size that is given.

mod changes;
mod cluster;
mod control;
mod decisions;
mod node;
mod policies;
mod policy;
mod report;
mod swaps;
mod table;

use std::io::{self, Write};

use clap::Subcommand;
use podgate_tables::route::AddressTaken;

pub use cluster::{Labels, Size};
pub use node::Node;
pub use policy::{Args, measure};
pub use report::{Bar, ClusterInfo, Decisions, Measurement, Memory, Part, Report, Statistic};

/// The benchmarks.
#[derive(Subcommand, Clone, Debug)]
pub enum Command {
    /// Compile policy for a cluster, change it, decide by it, and tell what each took.
    Policy(Args),
}

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

/// Runs a benchmark and prints its report to `out`.
///
/// # Errors
/// When it can't be run. With [`Error::Missed`] the report was printed.
pub fn run(command: &Command, out: &mut impl Write) -> Result<(), Error> {
    match command {
        Command::Policy(args) => policy::run(args, out),
    }
}
