//! Follows the TCP stream of one flow.

use super::L7Policy;
use super::io::FlowIo;
use crate::drop_reason::DropReason;
use crate::packet::View;
use crate::types::{Direction, Nanos};
use crate::xsk::Packet;

/// The follower of one inspected flow.
#[derive(Debug, Default)]
pub struct Follower;

impl Follower {
    /// A follower that waits for the opener's SYN.
    #[must_use]
    pub fn new() -> Self {
        Self
    }

    /// Takes one segment of the flow.
    pub fn segment(
        &mut self,
        _now: Nanos,
        _direction: Direction,
        _view: &View,
        packet: Packet,
        _policy: &L7Policy,
        io: &mut impl FlowIo,
    ) {
        io.discard(packet, DropReason::L7Unsupported);
    }

    /// Lets time pass.
    pub fn tick(&mut self, _now: Nanos, _io: &mut impl FlowIo) {}

    /// Ends the flow: frees everything held and resets both sides.
    pub fn close(&mut self, _io: &mut impl FlowIo) {}

    /// Frames held.
    #[must_use]
    pub fn held_frames(&self) -> usize {
        0
    }
}
