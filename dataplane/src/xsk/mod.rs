//! AF_XDP, thin and safe: shared UMEM, owned frames, rings, sockets.
//!
//! This module and its children are the only place of the crate where `unsafe` is allowed. What
//! the rest sees is: a [`Frame`] that can't be copied, a [`FramePool`] to get one from and give it
//! back to, and a [`Port`] (one worker's rings on one link) that turns received frames into
//! [`Packet`]s and takes packets to transmit. A port's rings are shared with the kernel
//! ([`open_link`]) or with a test ([`memory`]).
//!
//! The argument for its soundness has two halves. A frame's bytes are reached only through its one
//! handle (`umem`, "Ownership"); a ring's slots only through the end whose turn it is (`ring`,
//! "Protocol").
#![allow(unsafe_code)]

mod assemble;
mod frame;
mod link;
pub mod memory;
mod port;
mod ring;
mod socket;
mod sys;
mod umem;

pub use assemble::PACKET_FRAMES_MAX;
pub use frame::{Frame, FramePool, Packet, Unfinished};
pub use link::RingSizes;
pub use port::{LinkState, Port, XskStatistics, close_ports};
pub use socket::{OpenError, open_link};
pub(crate) use sys::{prefer_huge_pages, prefetch};
pub use umem::{FRAME_HEADROOM, FRAME_SIZE, Umem};
