//! The BPF programs of podgate: loading, attaching, pinning and their maps.
//!
//! The XDP program, attached in native mode to every link, redirects each IP packet to the AF_XDP
//! socket of the worker that owns its flow ([`Redirect`]). A symmetric hash of the flow selects the
//! worker; userspace can compute the same hash ([`flow_hash`], [`worker_of`]). A pinned link drops
//! IP traffic after the process has ended, until [`unpin`]. Programs at tcx hooks redirect to the
//! workers what the kernel sends to pods ([`Redirect::guard`]), and mark on the host link where the
//! kernel got a packet from ([`Redirect::mark`], [`HostFrame`]). One at the node's socket lookup
//! drops packets from pods to tunnels of the node ([`Redirect::set_tunnel_ports`]). All but those
//! that mark packets count what they drop, and record it for the agent
//! ([`Redirect::take_dropped`]).
//!
//! This crate knows flows, but no policy.

pub mod bpffs;
mod drop_records;
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

pub use drop_records::{DroppedData, DroppedFrame};
pub use error::Error;
pub use frame_drops::FrameDrops;
pub use hash::{FIRST_EPHEMERAL_PORT, flow_hash, worker_of};
pub use host_frame::HostFrame;
pub use pods::Pod;
pub use redirect::{AttachedAgain, Redirect, unpin};
