//! The BPF programs of podgate: loading, attaching, pinning and their maps.
//!
//! The XDP program, attached in native mode to every link, redirects each IP packet to the AF_XDP
//! socket of the worker that owns its flow ([`Redirect`]). A symmetric hash of the flow selects the
//! worker; userspace can compute the same hash ([`flow_hash`], [`worker_of`]). A pinned link drops
//! IP traffic after the process has ended, until [`unpin`]. Two programs at the egress hook
//! redirect to the workers what the kernel sends to pods ([`Redirect::guard`]), and mark packets
//! that the kernel received from the host link ([`Redirect::mark`]).
//!
//! This crate knows flows, but no policy.

pub mod bpffs;
mod error;
mod frame_drops;
mod hash;
#[allow(unsafe_code, reason = "bpf(2) has no wrapper for links that does what is needed")]
mod link;
mod pods;
mod redirect;
#[cfg(test)]
mod test_netns;

pub use error::Error;
pub use frame_drops::FrameDrops;
pub use hash::{flow_hash, worker_of};
pub use pods::Pod;
pub use redirect::{Redirect, unpin};

/// Ethernet source of a frame that the kernel received from the host link and sends back to it.
/// `guard.bpf.h` has the same.
pub const HAIRPIN_MAC: [u8; 6] = [0x02, b'p', b'g', 0, 0, 1];

/// Ethernet source of any other frame from the kernel. `guard.bpf.h` has the same.
pub const FOREIGN_MAC: [u8; 6] = [0x02, b'p', b'g', 0, 0, 0];
