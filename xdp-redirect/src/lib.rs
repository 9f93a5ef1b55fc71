//! The BPF programs of podgate and everything that touches them.
//!
//! The XDP program, attached in native mode to every link, hands each IP packet to the AF_XDP
//! socket of the worker that owns its flow ([`Redirect`]). The choice is a symmetric hash that
//! userspace can repeat ([`flow_hash`], [`worker_of`]). A pinned link keeps dropping IP traffic
//! after the process is gone; [`unpin`] ends that. Two programs at the egress hook keep what the
//! kernel sends from pods ([`Redirect::guard`]) and mark on the host link who sent a packet
//! ([`Redirect::mark`], [`HostFrame`]). One at the node's socket lookup keeps pods from its tunnels
//! ([`Redirect::set_tunnel_ports`]).
//!
//! What a packet means beyond its flow is not known here.

pub mod bpffs;
mod error;
mod frame_drops;
mod hash;
mod host_frame;
#[allow(unsafe_code, reason = "bpf(2) has no wrapper for links that does what is needed")]
mod link;
mod pods;
mod redirect;
#[cfg(test)]
mod test_netns;
mod tunnel_ports;

pub use error::Error;
pub use frame_drops::FrameDrops;
pub use hash::{flow_hash, worker_of};
pub use host_frame::HostFrame;
pub use pods::Pod;
pub use redirect::{Redirect, unpin};
