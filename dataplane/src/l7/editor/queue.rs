//! Segments that wait: those that arrived before the bytes in front of them, and those of which a
//! part can't be decided yet.

use std::collections::VecDeque;

use podgate_tables::drop_reason::DropReason;
use podgate_tables::time::Nanos;

use super::segment::TcpSegment;
use super::seq::Seq;
use crate::l7::io::FlowIo;

/// Frames of out-of-order segments that one flow may hold: what a sender has in flight after a
/// segment that was lost. Less than that, and one loss becomes many, because the segments that are
/// dropped here have to be retransmitted, too. All flows together are bounded by
/// [`FlowIo::reserve_frames`].
const FRAMES_MAX: usize = 4096;
/// Capacity of an empty queue until the connection is idle, segments.
const IDLE_CAPACITY: usize = 4;

/// Segments on either side of one that are searched for the edges of its block.
const BLOCK_REACH: usize = 32;

/// SACK blocks that are reported at once. With timestamps an acknowledgement has room for three.
pub(super) const BLOCKS_MAX: usize = 3;

/// Segments in the order of their positions, bounded. Most connections never need one, so its
/// memory is allocated when they do.
#[derive(Debug, Default)]
pub(super) struct OutOfOrderQueue(Option<Box<Queued>>);

#[derive(Debug, Default)]
struct Queued {
    segments: VecDeque<(Nanos, TcpSegment)>,
    frames: usize,
    /// No segment came earlier than this.
    oldest: Nanos,
    deferred: Option<Deferred>,
}

/// Segments whose SACK is deferred: the receiver has not acknowledged bytes that were
/// forwarded before they arrived, and the sender would take these bytes for lost (RFC 8985 §6.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Deferred {
    /// Out: until the receiver has acknowledged everything before.
    pub(super) acked: Seq,
    /// They arrived at this time or earlier.
    pub(super) arrived: Nanos,
}

impl OutOfOrderQueue {
    fn segments(&self) -> Option<&VecDeque<(Nanos, TcpSegment)>> {
        self.0.as_deref().map(|waiting| &waiting.segments)
    }

    /// Frames that are held.
    pub(super) fn frames(&self) -> usize {
        self.0.as_ref().map_or(0, |waiting| waiting.frames)
    }

    /// Segments that are held.
    pub(super) fn len(&self) -> usize {
        self.segments().map_or(0, VecDeque::len)
    }

    /// Where the first segment begins.
    pub(super) fn first(&self) -> Option<Seq> {
        self.segments()?.front().map(|(_, segment)| segment.start())
    }

    /// A time before which no segment came; [`None`] if there is none.
    pub(super) fn oldest(&self) -> Option<Nanos> {
        self.0.as_ref().filter(|waiting| !waiting.segments.is_empty()).map(|waiting| waiting.oldest)
    }

    /// Enqueues a segment that came at `since`, or returns it if there is no room or an equal one
    /// is queued.
    pub(super) fn push(
        &mut self,
        since: Nanos,
        segment: TcpSegment,
        io: &mut impl FlowIo,
    ) -> Option<TcpSegment> {
        let Queued { segments, frames: held, oldest, deferred } =
            &mut **self.0.get_or_insert_default();
        let frames = segment.packet.frames();
        let room = *held + frames <= FRAMES_MAX;
        let before = |other: &TcpSegment| other.start().since(segment.start()) <= 0;
        let index = segments.partition_point(|(_, other)| before(other));
        let previous = index.checked_sub(1).and_then(|previous| segments.get(previous));
        let repeats = previous.is_some_and(|(_, other)| {
            other.start() == segment.start()
                && !other.end_with_fin().is_before(segment.end_with_fin())
        });
        if !room || repeats || !io.reserve_frames(frames) {
            return Some(segment);
        }
        if segments.is_empty() {
            (*oldest, *deferred) = (since, None);
        }
        *oldest = since.min(*oldest);
        segments.insert(index, (since, segment));
        *held += frames;
        None
    }

    /// The block of adjacent bytes around the segment at `start` (RFC 2018 §4). Of a long block
    /// only the part near the segment, because the other parts were reported before.
    pub(super) fn block_at(&self, start: Seq) -> Option<(Seq, Seq)> {
        let segments = self.segments()?;
        let index = segments.partition_point(|(_, other)| other.start().since(start) < 0);
        let segment = &segments.get(index)?.1;
        let (mut from, mut to) = (segment.start(), segment.end());
        for (_, before) in segments.range(..index).rev().take(BLOCK_REACH) {
            if before.end().is_before(from) {
                break;
            }
            from = before.start();
        }
        for (_, behind) in segments.range(index + 1..).take(BLOCK_REACH) {
            if behind.start().is_after(to) {
                break;
            }
            to = to.later(behind.end());
        }
        Some((from, to))
    }

    /// The segments whose SACK is deferred; [`None`] if all were reported.
    pub(super) fn deferred(&self) -> Option<Deferred> {
        self.0.as_ref().filter(|waiting| !waiting.segments.is_empty())?.deferred
    }

    /// Defers the SACK of segments. Earlier segments are not deferred further.
    pub(super) fn defer(&mut self, deferred: Deferred) {
        if let Some(waiting) = &mut self.0 {
            waiting.deferred.get_or_insert(deferred);
        }
    }

    /// Ends the deferral of segments that arrived at `arrived` or earlier. Those that arrived later
    /// are deferred until the receiver has acknowledged everything before `acked`.
    pub(super) fn end_deferral(&mut self, arrived: Nanos, acked: Seq) {
        let Some(waiting) = &mut self.0 else { return };
        let latest = waiting.segments.iter().map(|(since, _)| *since).max();
        let later = latest.filter(|latest| *latest > arrived);
        waiting.deferred = later.map(|arrived| Deferred { acked, arrived });
    }

    /// The last blocks of adjacent bytes that arrived at `arrived` or earlier, in their order; the
    /// rest is [`None`].
    pub(super) fn blocks(&self, arrived: Nanos) -> [Option<(Seq, Seq)>; BLOCKS_MAX] {
        let mut blocks = [None; BLOCKS_MAX];
        let segments = self.segments().into_iter().flatten();
        for (_, segment) in segments.filter(|(since, _)| *since <= arrived) {
            match &mut blocks[BLOCKS_MAX - 1] {
                Some((_, to)) if !segment.start().is_after(*to) => *to = to.later(segment.end()),
                _ => {
                    blocks.rotate_left(1);
                    blocks[BLOCKS_MAX - 1] = Some((segment.start(), segment.end()));
                }
            }
        }
        blocks
    }

    /// The first segment, if it does not begin after `position`, and when it came.
    pub(super) fn pop_up_to(
        &mut self,
        position: Seq,
        io: &mut impl FlowIo,
    ) -> Option<(Nanos, TcpSegment)> {
        if self.first()?.is_after(position) {
            return None;
        }
        self.0.as_mut()?.remove(0, io)
    }

    /// Drops the segments that came at `then` or earlier, without an event. Returns how many.
    pub(super) fn drop_older_than(
        &mut self,
        then: Nanos,
        reason: DropReason,
        io: &mut impl FlowIo,
    ) -> usize {
        let Some(Queued { segments, frames, oldest, .. }) = self.0.as_deref_mut() else {
            return 0;
        };
        let before = segments.len();
        *oldest = Nanos(u64::MAX);
        for _ in 0..before {
            let Some((since, segment)) = segments.pop_front() else { break };
            if since > then {
                *oldest = since.min(*oldest);
                segments.push_back((since, segment));
                continue;
            }
            *frames -= segment.packet.frames();
            io.release_frames(segment.packet.frames());
            io.drop_counted(segment.packet, reason);
        }
        before - segments.len()
    }

    /// Any segment.
    pub(super) fn pop(&mut self, io: &mut impl FlowIo) -> Option<TcpSegment> {
        let last = self.len().checked_sub(1)?;
        Some(self.0.as_mut()?.remove(last, io)?.1)
    }

    /// Releases unused capacity.
    pub(super) fn shrink_to_fit(&mut self) {
        match &mut self.0 {
            Some(waiting) if !waiting.segments.is_empty() => waiting.segments.shrink_to_fit(),
            _ => self.0 = None,
        }
    }
}

impl Queued {
    fn remove(&mut self, index: usize, io: &mut impl FlowIo) -> Option<(Nanos, TcpSegment)> {
        let (since, segment) = self.segments.remove(index)?;
        let frames = segment.packet.frames();
        self.frames -= frames;
        io.release_frames(frames);
        if self.segments.is_empty() {
            self.segments.shrink_to(IDLE_CAPACITY);
        }
        Some((since, segment))
    }
}
