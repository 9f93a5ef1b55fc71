//! Segments that arrived before the bytes in front of them.

use super::arrived::Arrived;
use super::seq::Seq;
use crate::types::Nanos;

/// Packets that one flow may keep waiting. Loss on the few hops of a node is rare, and what does
/// not fit is sent again by the client.
const PACKETS_MAX: usize = 16;
/// Frames that one flow may keep waiting: one packet of the largest size, or many small ones.
const FRAMES_MAX: usize = 32;

/// Segments in the order of their positions, bounded.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: Vec<(Nanos, Arrived)>,
}

impl Queue {
    /// Frames that are held.
    pub(super) fn frames(&self) -> usize {
        self.waiting.iter().map(|(_, arrived)| arrived.packet.frames()).sum()
    }

    /// Segments that are held.
    pub(super) const fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Keeps a segment, or gives it back if there is no room or an equal one waits already.
    pub(super) fn push(&mut self, now: Nanos, arrived: Arrived) -> Option<Arrived> {
        let room = self.waiting.len() < PACKETS_MAX
            && self.frames() + arrived.packet.frames() <= FRAMES_MAX;
        let index =
            self.waiting.partition_point(|(_, other)| other.start().since(arrived.start()) <= 0);
        let repeats = self.waiting[..index].last().is_some_and(|(_, other)| {
            other.start() == arrived.start()
                && !other.end_with_fin().is_before(arrived.end_with_fin())
        });
        if !room || repeats {
            return Some(arrived);
        }
        self.waiting.insert(index, (now, arrived));
        None
    }

    /// The first segment, if it does not begin behind `position`.
    pub(super) fn pop_up_to(&mut self, position: Seq) -> Option<Arrived> {
        let first = &self.waiting.first()?.1;
        (!first.start().is_after(position)).then(|| self.waiting.remove(0).1)
    }

    /// Any segment that waits since `then` or longer.
    pub(super) fn pop_older_than(&mut self, then: Nanos) -> Option<Arrived> {
        let index = self.waiting.iter().position(|(since, _)| *since <= then)?;
        Some(self.waiting.remove(index).1)
    }

    pub(super) fn pop(&mut self) -> Option<Arrived> {
        self.waiting.pop().map(|(_, arrived)| arrived)
    }
}
