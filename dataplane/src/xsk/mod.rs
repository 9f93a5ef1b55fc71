//! AF_XDP, thin and safe: shared UMEM, owned frames, rings, sockets.
//!
//! This module and its children are the only place of the crate where `unsafe` is allowed. What
//! the rest sees is: a [`Frame`] that can't be copied, a [`FramePool`] to get one from and give it
//! back to, and a [`Port`] (one worker's rings on one link) that turns received frames into
//! [`Packet`]s and takes packets to transmit.
#![allow(unsafe_code)]

mod frame;
mod umem;

pub use frame::{Frame, FramePool, Packet};
pub use umem::{FRAME_HEADROOM, FRAME_SIZE, Umem};
