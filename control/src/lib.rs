//! The `podgate` program as a library: command line, agent, control socket.
#![forbid(unsafe_code)]

mod agent;
mod atomic_file;
mod cleanup;
pub mod cli;
mod client;
pub mod commands;
mod error;
mod metrics;
mod netlink;
mod output;
pub mod protocol;
mod sources;
mod validate;
