//! The `podgate` program as a library: command line, agent, control socket.
#![forbid(unsafe_code)]

mod agent;
mod atomic_file;
mod certificates;
mod cleanup;
pub mod cli;
mod cni;
pub mod commands;
pub mod config;
mod crds;
mod damaged_file;
mod error;
mod explanation;
mod log;
mod metrics;
mod output;
mod redact;
mod sources;
mod validate;
