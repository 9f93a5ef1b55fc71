//! AF_XDP, thin and safe: rings and sockets over a [`Umem`].
//!
//! A [`Port`] (one worker's rings on one link) turns received frames into [`Packet`]s and transmits
//! packets. Its rings are shared with the kernel ([`open_link`]) or with a test ([`memory`]).
//!
//! Soundness rests on two rules. A frame's bytes are reached only through its one handle
//! ([`crate::mem`]); a ring's slots are accessed only by the end whose turn it is (`ring`,
//! "Protocol").
//!
//! [`Umem`]: crate::mem::Umem
//! [`Packet`]: crate::mem::Packet
#![allow(unsafe_code)]

mod assemble;
mod link;
pub mod memory;
mod open;
mod port;
mod ring;
mod socket;
mod sys;

pub use assemble::PACKET_FRAMES_MAX;
pub use link::RingSizes;
pub use open::{OpenError, open_link};
pub use port::{LinkState, Port, XskStatistics, close_ports};
