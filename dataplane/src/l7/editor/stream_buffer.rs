//! Bytes of a stream by their positions, until the receiver has acknowledged them: those that
//! decided something (the history), and inserted ones.
//!
//! A pod may send one position of its stream twice with different bytes, and make sure that the
//! server ignores the first packet (a hop limit that runs out, an old timestamp, …). The server
//! must not get anything else than what was inspected, so every packet is compared with the
//! history. Body bytes are not in it: they decide nothing.

use std::collections::VecDeque;

use super::seq::Seq;
use crate::l7::heap::{self, grown};

/// Capacity of an empty buffer until the connection is idle: bytes, enough for most heads, and
/// ranges.
const EMPTY_BYTES: usize = 8 * 1024;
const EMPTY_RANGES: usize = 64;

/// Positions that lie together.
#[derive(Clone, Copy, Debug)]
struct Range {
    start: Seq,
    len: u32,
    /// Bytes of all ranges before it that ever were, wrapping.
    before: u32,
}

impl Range {
    const fn end(self) -> Seq {
        self.start.plus(self.len)
    }
}

/// Ranges of a stream in order, and their bytes. Lookups take logarithmic time: a body in chunks of
/// one byte makes 13,000 ranges of the largest history.
#[derive(Debug, Default)]
pub(super) struct StreamBuffer {
    ranges: VecDeque<Range>,
    /// The bytes of all ranges, one after the other, from `first` on.
    bytes: Vec<u8>,
    first: usize,
}

impl StreamBuffer {
    /// Bytes in the buffer.
    pub(super) const fn len(&self) -> usize {
        self.bytes.len() - self.first
    }

    /// Bytes on the heap.
    pub(super) fn heap(&self) -> usize {
        self.bytes.capacity() + self.ranges.capacity() * size_of::<Range>()
    }

    /// Upper bound of [`Self::heap`] after `bytes` more are appended.
    pub(super) fn heap_with(&self, bytes: usize) -> usize {
        let ranges = grown(self.ranges.capacity(), self.ranges.len() + 1);
        grown(self.bytes.capacity(), self.bytes.len() + bytes) + ranges * size_of::<Range>()
    }

    /// Appends bytes that lie after all others.
    pub(super) fn append(&mut self, start: Seq, bytes: &[u8]) {
        let len = bytes.len() as u32;
        if len == 0 {
            return;
        }
        heap::append(&mut self.bytes, bytes);
        let ranges = grown(self.ranges.capacity(), self.ranges.len() + 1);
        self.ranges.reserve_exact(ranges - self.ranges.len());
        match self.ranges.back_mut() {
            Some(last) if last.end() == start => last.len += len,
            last => {
                let before = last.map_or(0, |last| last.before.wrapping_add(last.len));
                self.ranges.push_back(Range { start, len, before });
            }
        }
    }

    /// Releases unused capacity.
    pub(super) fn shrink_to_fit(&mut self) {
        self.bytes.drain(..std::mem::take(&mut self.first));
        self.bytes.shrink_to_fit();
        self.ranges.shrink_to_fit();
    }

    /// Ranges that end after `position`, each with its bytes.
    fn behind(&self, position: Seq) -> impl Iterator<Item = (Range, &[u8])> {
        let index = self.ranges.partition_point(|range| !range.end().is_after(position));
        let base = self.ranges.front().map_or(0, |range| range.before);
        self.ranges.range(index..).map(move |range| {
            let at = self.first + range.before.wrapping_sub(base) as usize;
            (*range, &self.bytes[at..at + range.len as usize])
        })
    }

    /// Discards what lies before `position`.
    pub(super) fn discard_before(&mut self, position: Seq) {
        while let Some(range) = self.ranges.front_mut() {
            let gone = position.count_since(range.start).min(range.len);
            self.first += gone as usize;
            if gone < range.len {
                range.start = range.start.plus(gone);
                range.len -= gone;
                range.before = range.before.wrapping_add(gone);
                break;
            }
            self.ranges.pop_front();
        }
        if self.ranges.is_empty() {
            self.bytes.clear();
            self.bytes.shrink_to(EMPTY_BYTES);
            self.ranges.shrink_to(EMPTY_RANGES);
            self.first = 0;
        } else if self.first > self.bytes.len() / 2 {
            self.bytes.drain(..self.first);
            self.first = 0;
        }
    }

    /// Whether `bytes` at `start` contradict those in the buffer.
    pub(super) fn contradicts(&self, start: Seq, bytes: &[u8]) -> bool {
        let end = start.plus(bytes.len() as u32);
        let mut overlapping =
            self.behind(start).take_while(|(range, _)| range.start.is_before(end));
        overlapping.any(|(range, ours)| {
            let (from, to) = (range.start.later(start), range.end().earlier(end));
            let len = to.count_since(from) as usize;
            let ours = &ours[from.count_since(range.start) as usize..][..len];
            ours != &bytes[from.count_since(start) as usize..][..len]
        })
    }

    /// The first contiguous bytes at or after `position`, and where they begin.
    pub(super) fn first_from(&self, position: Seq) -> Option<(Seq, &[u8])> {
        let (range, bytes) = self.behind(position).next()?;
        let start = range.start.later(position);
        Some((start, &bytes[start.count_since(range.start) as usize..]))
    }

    /// The bytes from `start` up to `end`, or up to the first gap; empty if the one at `start` is
    /// not in the buffer.
    pub(super) fn slice(&self, start: Seq, end: Seq) -> &[u8] {
        match self.first_from(start) {
            Some((at, bytes)) if at == start => {
                &bytes[..bytes.len().min(end.count_since(start) as usize)]
            }
            _ => &[],
        }
    }
}

/// A [`StreamBuffer`] that most connections never need, allocated when they do.
#[derive(Debug, Default)]
pub(super) struct LazyStreamBuffer(Option<Box<StreamBuffer>>);

impl LazyStreamBuffer {
    /// Bytes in the buffer.
    pub(super) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |buffer| buffer.len())
    }

    /// Bytes on the heap.
    pub(super) fn heap(&self) -> usize {
        self.0.as_ref().map_or(0, |buffer| size_of::<StreamBuffer>() + buffer.heap())
    }

    /// Upper bound of [`Self::heap`] after `bytes` more are appended.
    pub(super) fn heap_with(&self, bytes: usize) -> usize {
        size_of::<StreamBuffer>()
            + match &self.0 {
                Some(buffer) => buffer.heap_with(bytes),
                None => StreamBuffer::default().heap_with(bytes),
            }
    }

    /// See [`StreamBuffer::append`].
    pub(super) fn append(&mut self, start: Seq, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.0.get_or_insert_default().append(start, bytes);
        }
    }

    /// See [`StreamBuffer::discard_before`].
    pub(super) fn discard_before(&mut self, position: Seq) {
        if let Some(buffer) = &mut self.0 {
            buffer.discard_before(position);
        }
    }

    /// See [`StreamBuffer::first_from`].
    pub(super) fn first_from(&self, position: Seq) -> Option<(Seq, &[u8])> {
        self.0.as_ref()?.first_from(position)
    }

    /// Releases unused capacity.
    pub(super) fn shrink_to_fit(&mut self) {
        match &mut self.0 {
            Some(buffer) if buffer.len() > 0 => buffer.shrink_to_fit(),
            _ => self.0 = None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges_that_touch_are_one() {
        let mut buffer = StreamBuffer::default();
        buffer.append(Seq(u32::MAX), b"ab");
        buffer.append(Seq(1), b"cd");
        buffer.append(Seq(10), b"xy");
        assert_eq!(buffer.slice(Seq(u32::MAX), Seq(3)), b"abcd");
        assert_eq!(buffer.slice(Seq(0), Seq(20)), b"bcd");
        assert_eq!(buffer.slice(Seq(3), Seq(20)), b"");
        assert_eq!(buffer.slice(Seq(11), Seq(20)), b"y");
        assert_eq!(buffer.first_from(Seq(0)), Some((Seq(0), &b"bcd"[..])));
        assert_eq!(buffer.first_from(Seq(5)), Some((Seq(10), &b"xy"[..])));
        assert_eq!(buffer.first_from(Seq(12)), None);
        buffer.discard_before(Seq(2));
        assert_eq!((buffer.slice(Seq(2), Seq(9)), buffer.len()), (&b"d"[..], 3));
    }

    proptest! {
        /// The model: a map from position to byte.
        #[test]
        fn buffer_contradicts_exactly_what_differs(
            start: u32,
            pieces in proptest::collection::vec((0u32..4, "[a-c]{1,8}", 0u32..12), 1..12),
            probe in (0u32..60, "[a-c]{0,12}"),
        ) {
            let mut buffer = StreamBuffer::default();
            let mut model = std::collections::HashMap::new();
            let (mut end, mut acked) = (0, 0);
            for (gap, bytes, ack) in pieces {
                end += gap;
                buffer.append(Seq(start).plus(end), bytes.as_bytes());
                for byte in bytes.bytes() {
                    model.insert(end, byte);
                    end += 1;
                }
                acked = end.min(acked + ack);
                buffer.discard_before(Seq(start).plus(acked));
                model.retain(|at, _| *at >= acked);
            }
            prop_assert_eq!(buffer.len(), model.len());
            let (at, bytes) = (probe.0, probe.1.as_bytes());
            let differs = bytes.iter().enumerate().any(|(index, byte)| {
                model.get(&(at + index as u32)).is_some_and(|ours| ours != byte)
            });
            prop_assert_eq!(buffer.contradicts(Seq(start).plus(at), bytes), differs);
        }
    }
}
