//! The BPF programs of podgate and everything that touches them.
//!
//! The XDP program, attached in native mode to every link, hands each IP packet to the AF_XDP
//! socket of the worker that owns its flow ([`Redirect`]). The choice is a symmetric hash that
//! userspace can repeat ([`flow_hash`], [`worker_of`]). A pinned link keeps dropping IP traffic
//! after the process is gone; [`unpin`] ends that. Two programs at the egress hook keep what the
//! kernel sends from pods ([`Redirect::guard`]) and tell hairpins from the rest
//! ([`Redirect::mark`]).
//!
//! What a packet means beyond its flow is not known here.

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

/// Ethernet source of a frame from the kernel that the kernel itself had from the host link.
/// `guard.bpf.h` has the same.
pub const HAIRPIN_MAC: [u8; 6] = [0x02, b'p', b'g', 0, 0, 1];

/// Ethernet source of any other frame from the kernel. `guard.bpf.h` has the same.
pub const FOREIGN_MAC: [u8; 6] = [0x02, b'p', b'g', 0, 0, 0];
