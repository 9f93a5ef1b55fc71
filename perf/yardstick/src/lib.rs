//! How fast podgate is, on its own and beside its peers: what `scripts/bench` runs.
//!
//! A suite measures, `report` writes what came of it. Each thing has an id, and with it a unit, the
//! values of several rounds and, where it is compared with something, the values of that something
//! from the same rounds. [`suites`] is the list of all there is.
//!
//! It is a crate of its own because its peers bring libraries that the product must not link.
//! `unsafe` is in its traffic generators only.

pub mod alloc;
mod cli;
mod context;
mod fairness;
mod l7;
mod load;
pub mod measure;
mod memory;
mod node;
mod peers;
mod plot;
mod pods;
mod report;
mod restart;
pub mod scale;
pub mod suites;
mod table;
mod tcp;
mod traffic;
mod udp64;

use std::process::ExitCode;

pub use context::Context;

/// Runs the program; its arguments are those of the process.
#[must_use]
pub fn run() -> ExitCode {
    cli::run()
}
