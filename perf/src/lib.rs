//! Replay of captures, and how fast podgate is.
//!
//! [`replay`] is `podgate replay`: it runs a capture through the worker code that the agent runs,
//! without privileges, and tells each flow's verdict and what the packets cost. [`mod@bench`] is
//! `podgate bench`: it builds a cluster and measures policy at its size. [`alloc`] counts
//! allocations for both, in programs that install its allocator: the tests and `scripts/bench` do,
//! `podgate` does not. [`rig`], a worker on memory links, and the [`pods`] around it serve
//! `scripts/bench` too.

#![forbid(unsafe_code)]

pub mod alloc;
pub mod bench;
mod latency;
mod memory;
pub mod pods;
mod progress;
pub mod replay;
pub mod rig;

pub use latency::Latency;
