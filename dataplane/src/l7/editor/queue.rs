//! Segments that segment before the bytes in front of them.

use std::collections::VecDeque;

use podgate_tables::time::Nanos;

use super::segment::TcpSegment;
use super::seq::Seq;
use crate::l7::io::FlowIo;

/// Frames of out-of-order segments that one flow may hold: what a sender has in flight behind a
/// segment that was lost. Less than that, and one loss becomes many, because the segments that are
/// dropped here have to be retransmitted, too. All flows together are bounded by
/// [`FlowIo::hold`].
const FRAMES_MAX: usize = 4096;
/// Capacity that is kept while the queue is empty, segments.
const CAPACITY_KEPT: usize = 4;

/// Segments on either side of one that a block is looked for in.
const BLOCK_REACH: usize = 32;

/// Segments in the order of their positions, bounded.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: VecDeque<(Nanos, TcpSegment)>,
    frames: usize,
}

impl Queue {
    /// Frames that are held.
    pub(super) const fn frames(&self) -> usize {
        self.frames
    }

    /// Segments that are held.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Keeps a segment that came at `since`, or gives it back if there is no room or an equal one
    /// waits already.
    pub(super) fn push(
        &mut self,
        since: Nanos,
        segment: TcpSegment,
        io: &mut impl FlowIo,
    ) -> Option<TcpSegment> {
        let frames = segment.packet.frames();
        let room = self.frames + frames <= FRAMES_MAX;
        let before = |other: &TcpSegment| other.start().since(segment.start()) <= 0;
        let index = self.waiting.partition_point(|(_, other)| before(other));
        let previous = index.checked_sub(1).and_then(|previous| self.waiting.get(previous));
        let repeats = previous.is_some_and(|(_, other)| {
            other.start() == segment.start()
                && !other.end_with_fin().is_before(segment.end_with_fin())
        });
        if !room || repeats || !io.hold(frames) {
            return Some(segment);
        }
        self.waiting.insert(index, (since, segment));
        self.frames += frames;
        None
    }

    /// The block of adjacent bytes around the segment at `start` (RFC 2018 §4), or around the last
    /// segment if there is none at `start`. Of a long block only the part near the segment, because
    /// the other parts were told before.
    pub(super) fn block_at(&self, start: Seq) -> Option<(Seq, Seq)> {
        let found = self.waiting.partition_point(|(_, other)| other.start().since(start) < 0);
        let index = found.min(self.waiting.len().checked_sub(1)?);
        let segment = &self.waiting.get(index)?.1;
        let (mut from, mut to) = (segment.start(), segment.end());
        for (_, before) in self.waiting.range(..index).rev().take(BLOCK_REACH) {
            if before.end().is_before(from) {
                break;
            }
            from = before.start();
        }
        for (_, behind) in self.waiting.range(index + 1..).take(BLOCK_REACH) {
            if behind.start().is_after(to) {
                break;
            }
            to = to.later(behind.end());
        }
        Some((from, to))
    }

    /// The first segment, if it does not begin behind `position`, and when it came.
    pub(super) fn pop_up_to(
        &mut self,
        position: Seq,
        io: &mut impl FlowIo,
    ) -> Option<(Nanos, TcpSegment)> {
        let first = &self.waiting.front()?.1;
        if first.start().is_after(position) {
            return None;
        }
        self.remove(0, io)
    }

    /// Any segment that waits since `then` or longer.
    pub(super) fn pop_older_than(
        &mut self,
        then: Nanos,
        io: &mut impl FlowIo,
    ) -> Option<TcpSegment> {
        let index = self.waiting.iter().position(|(since, _)| *since <= then)?;
        Some(self.remove(index, io)?.1)
    }

    /// Any segment.
    pub(super) fn pop(&mut self, io: &mut impl FlowIo) -> Option<TcpSegment> {
        let last = self.waiting.len().checked_sub(1)?;
        Some(self.remove(last, io)?.1)
    }

    fn remove(&mut self, index: usize, io: &mut impl FlowIo) -> Option<(Nanos, TcpSegment)> {
        let (since, segment) = self.waiting.remove(index)?;
        let frames = segment.packet.frames();
        self.frames -= frames;
        io.release(frames);
        if self.waiting.is_empty() {
            self.waiting.shrink_to(CAPACITY_KEPT);
        }
        Some((since, segment))
    }
}
