//! Replay of captures, and how fast podgate is.
//!
//! [`replay`] is `podgate replay`: it runs a capture through the worker code that the agent runs,
//! without privileges, and tells each flow's verdict and what the packets cost. [`bench`] is
//! `podgate bench`: it builds a cluster and measures policy at its size. [`alloc`] counts
//! allocations for both.

#![forbid(unsafe_code)]

pub mod alloc;
pub mod bench;
mod latency;
mod memory;
mod progress;
pub mod replay;
mod rig;

pub use latency::Latency;
