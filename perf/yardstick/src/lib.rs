//! Performance of podgate, by itself and compared with other forwarders: the program
//! that `scripts/bench` runs.
//!
//! Suites measure, and `report` writes the results. Each measurement has an id, a unit, the values
//! of several rounds and, if it is a comparison, the baseline's values from the same rounds.
//! [`suites`] lists all suites.
//!
//! It is a separate crate because the others need libraries that the product must not link.
//! `unsafe` is in its traffic generators only.

pub mod alloc;
mod cli;
mod context;
mod fairness;
mod forwarders;
mod l7;
mod load;
pub mod measure;
mod memory;
mod node;
mod node_memory;
mod observe;
mod plot;
mod pods;
mod report;
mod restart;
pub mod scale;
mod service;
pub mod suites;
mod table;
mod tcp;
mod traffic;
mod udp64;

use std::process::ExitCode;

pub use context::Context;

/// Runs the program with the arguments of the process.
#[must_use]
pub fn run() -> ExitCode {
    cli::run()
}
