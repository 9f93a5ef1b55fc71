//! How threads of the dataplane synchronize, without the data that they exchange.
//!
//! This is a crate of its own so that [loom](https://docs.rs/loom) can check every interleaving of
//! the threads without building the dataplane:
//!
//! ```text
//! RUSTFLAGS="--cfg loom" cargo test -p podgate-sync --lib loom
//! ```
//!
//! The queues are crossbeam's, whose authors check them; under loom a simple bounded queue stands
//! in for them.
#![forbid(unsafe_code)]

mod atomic;
mod detail_ring;
mod frame_owner;
#[cfg(all(test, loom))]
mod loom_tests;
mod sleep_flag;

pub use detail_ring::DetailRing;
pub use frame_owner::{FrameOwner, RingId};
pub use sleep_flag::SleepFlag;
