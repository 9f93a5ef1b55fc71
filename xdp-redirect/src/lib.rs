//! The XDP program of podgate and everything that touches it.
//!
//! One program, attached in native mode to every link, hands each IP packet to the AF_XDP socket
//! of the worker that owns its flow ([`Redirect`]). The choice is a symmetric hash that userspace
//! can repeat ([`flow_hash`], [`worker_of`]). A pinned link keeps dropping IP traffic after the
//! process is gone; [`unpin`] ends that. Beside it live the switches that a link needs before its
//! packets can go through AF_XDP ([`offload`]), and the way into a pod's namespace ([`netns`]).
//!
//! What a packet means beyond its flow is not known here.

pub mod bpffs;
mod error;
mod hash;
#[cfg(test)]
mod lab;
#[allow(unsafe_code, reason = "bpf(2) has no wrapper for links that does what is needed")]
mod link;
pub mod netns;
#[allow(unsafe_code, reason = "no library wraps SIOCETHTOOL")]
pub mod offload;
mod redirect;

pub use error::Error;
pub use hash::{flow_hash, worker_of};
pub use redirect::{Redirect, unpin};
