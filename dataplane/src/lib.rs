//! The podgate dataplane: AF_XDP links, pinned packet workers, compiled policy tables and the
//! inline L7 inspectors.
//!
//! This crate knows packets and compiled tables. It does not know Kubernetes, YAML, or text: the
//! names behind a [`policy::RuleId`] live with whoever compiled the tables.
//!
//! A packet's way is told in `worker/pipeline.rs`; [`worker`] is the ring loop around it.

pub mod drop_reason;
pub mod event;
pub mod flow;
pub mod l7;
pub mod mem;
pub mod packet;
pub mod policy;
pub mod route;
pub mod share;
pub mod stats;
pub mod tunnel;
pub mod types;
pub mod worker;
pub mod xsk;
