//! Replay of captures, and how fast the dataplane is.
//!
//! [`replay`] is `podgate replay`: it runs a capture through the worker code that the agent runs,
//! without privileges, and tells each flow's verdict and what the packets cost. [`alloc`] counts
//! allocations for it.

#![forbid(unsafe_code)]

pub mod alloc;
pub mod replay;
