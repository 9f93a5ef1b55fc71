//! Segments that arrived before the bytes in front of them.

use podgate_tables::time::Nanos;

use super::super::io::FlowIo;
use super::arrived::Arrived;
use super::seq::Seq;

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

    /// Keeps a segment that came at `since`, or gives it back if there is no room or an equal one
    /// waits already.
    pub(super) fn push(
        &mut self,
        since: Nanos,
        arrived: Arrived,
        io: &mut impl FlowIo,
    ) -> Option<Arrived> {
        let frames = arrived.packet.frames();
        let room = self.waiting.len() < PACKETS_MAX && self.frames() + frames <= FRAMES_MAX;
        let before = |other: &Arrived| other.start().since(arrived.start()) <= 0;
        let index = self.waiting.partition_point(|(_, other)| before(other));
        let repeats = self.waiting[..index].last().is_some_and(|(_, other)| {
            other.start() == arrived.start()
                && !other.end_with_fin().is_before(arrived.end_with_fin())
        });
        if !room || repeats || !io.hold(frames) {
            return Some(arrived);
        }
        self.waiting.insert(index, (since, arrived));
        None
    }

    /// The first segment, if it does not begin behind `position`, and when it came.
    pub(super) fn pop_up_to(
        &mut self,
        position: Seq,
        io: &mut impl FlowIo,
    ) -> Option<(Nanos, Arrived)> {
        let first = &self.waiting.first()?.1;
        if first.start().is_after(position) {
            return None;
        }
        Some(self.remove(0, io))
    }

    /// Any segment that waits since `then` or longer.
    pub(super) fn pop_older_than(&mut self, then: Nanos, io: &mut impl FlowIo) -> Option<Arrived> {
        let index = self.waiting.iter().position(|(since, _)| *since <= then)?;
        Some(self.remove(index, io).1)
    }

    /// Any segment.
    pub(super) fn pop(&mut self, io: &mut impl FlowIo) -> Option<Arrived> {
        let last = self.waiting.len().checked_sub(1)?;
        Some(self.remove(last, io).1)
    }

    fn remove(&mut self, index: usize, io: &mut impl FlowIo) -> (Nanos, Arrived) {
        let (since, arrived) = self.waiting.remove(index);
        io.release(arrived.packet.frames());
        (since, arrived)
    }
}
