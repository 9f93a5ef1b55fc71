//! AF_XDP, thin and safe: rings and sockets over a [`Umem`].
//!
//! A [`LinkQueue`] (one worker's rings on one link) turns received frames into [`Packet`]s and
//! transmits packets. Its rings are shared with the kernel ([`open_link`]) or with a test
//! ([`memory`]).
//!
//! Soundness rests on two rules. A frame's bytes are reached only through its one handle
//! ([`crate::mem`]); a ring's slots are accessed only by the end whose turn it is (`ring`,
//! "Protocol").
//!
//! [`Umem`]: crate::mem::Umem
//! [`Packet`]: crate::mem::Packet
#![allow(unsafe_code)]

mod assemble;
mod fill_level;
mod link;
mod link_queue;
pub mod memory;
mod open;
mod ring;
mod socket;
mod sys;

pub use assemble::PACKET_FRAMES_MAX;
pub use link::RingSizes;
pub use link_queue::{LinkQueue, LinkState, XskStatistics, close_queues};
pub use open::{OpenError, open_link};
