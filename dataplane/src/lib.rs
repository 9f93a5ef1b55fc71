//! The podgate dataplane: AF_XDP links, pinned packet workers and the inline L7 inspectors.
//!
//! This crate knows packets; the tables that it looks up are `podgate_tables`.
//!
//! The path of a packet is in `worker/pipeline.rs`; [`worker`] has the poll loop around it.

pub mod event_ring;
pub mod flow;
pub mod l7;
pub mod mem;
pub mod packet;
pub mod share;
pub mod stats;
pub mod worker;
pub mod xsk;
