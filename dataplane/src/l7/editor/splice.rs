//! Translation of sequence numbers across the edits of a stream.
//!
//! One direction has two sequence spaces: *in*, as its sender counts, and *out*, as its receiver
//! does. Each edit takes bytes out or puts bytes in, and shifts what follows. Linux's
//! `net/netfilter/nf_conntrack_seqadj.c` keeps one edit; here several may be in flight.

use super::seq::Seq;

/// Edits that may be in flight at once: as many as requests of one connection may be outstanding
/// (128), if every second one is denied. When there is no room, the next edit has to wait until the
/// receiver has acknowledged the first.
const SPLICES_MAX: usize = 64;

/// One edit: the bytes from `at_in` on, `removed` of them, became the `inserted` ones at `at_out`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Splice {
    at_in: Seq,
    removed: u32,
    at_out: Seq,
    inserted: u32,
}

impl Splice {
    const fn end_in(&self) -> Seq {
        self.at_in.plus(self.removed)
    }

    const fn end_out(&self) -> Seq {
        self.at_out.plus(self.inserted)
    }
}

/// The edits of one direction that the receiver has not acknowledged yet, in order, and the offset
/// of all edits before them.
#[derive(Debug, Default)]
pub(super) struct Splices {
    /// A position in both spaces, after every edit that is not listed any more.
    base_in: Seq,
    base_out: Seq,
    /// There was an edit before the base.
    has_base: bool,
    list: Vec<Splice>,
}

impl Splices {
    /// No edits; both spaces are equal.
    pub(super) const fn new(start: Seq) -> Self {
        Self { base_in: start, base_out: start, has_base: false, list: Vec::new() }
    }

    /// Whether the two spaces are equal.
    pub(super) fn is_identity(&self) -> bool {
        self.list.is_empty() && self.base_in == self.base_out
    }

    /// The first position of the sender that can be translated: everything before was edited, and
    /// acknowledged by the receiver. [`None`] if there was no edit.
    pub(super) fn floor(&self) -> Option<Seq> {
        self.has_base.then_some(self.base_in)
    }

    /// From the sender's to the receiver's space. A position in removed bytes becomes the one
    /// after the edit.
    pub(super) fn to_out(&self, at: Seq) -> Seq {
        match self.list.iter().rev().find(|splice| !at.is_before(splice.at_in)) {
            Some(splice) => splice.end_out().plus(at.count_since(splice.end_in())),
            None => self.base_out.plus(at.0.wrapping_sub(self.base_in.0)),
        }
    }

    /// From the receiver's to the sender's space, for acknowledgements and window edges: everything
    /// that was removed where it stands counts as received. A position in inserted bytes becomes
    /// the one after the edit.
    pub(super) fn to_in(&self, at: Seq) -> Seq {
        match self.list.iter().rev().find(|splice| !at.is_before(splice.at_out)) {
            Some(splice) => splice.end_in().plus(at.count_since(splice.end_out())),
            None => self.base_in.plus(at.0.wrapping_sub(self.base_out.0)),
        }
    }

    /// A block of a selective acknowledgement in the sender's space. [`None`] if it lies before the
    /// first position that can be translated.
    pub(super) fn block_to_in(&self, (from, to): (Seq, Seq)) -> Option<(Seq, Seq)> {
        let is_known = self.base_in == self.base_out || !from.is_before(self.base_out);
        let block = (self.to_in(from), self.to_in(to));
        (is_known && block.0.is_before(block.1)).then_some(block)
    }

    fn extends_last(&self, at_in: Seq) -> bool {
        self.list.last().is_some_and(|last| last.end_in() == at_in)
    }

    /// Whether there is room for an edit at `at_in`, after all others.
    pub(super) fn has_room(&self, at_in: Seq) -> bool {
        self.list.len() < SPLICES_MAX || self.extends_last(at_in)
    }

    /// Adds an edit after all others. There should be room for it, unless it is the last one.
    pub(super) fn edit(&mut self, at_in: Seq, removed: u32, inserted: u32) {
        if self.extends_last(at_in)
            && let Some(last) = self.list.last_mut()
        {
            last.removed += removed;
            last.inserted += inserted;
            return;
        }
        let at_out = self.to_out(at_in);
        self.list.push(Splice { at_in, removed, at_out, inserted });
    }

    /// Releases unused capacity.
    pub(super) fn shrink_to_fit(&mut self) {
        self.list.shrink_to_fit();
    }

    /// Turns edits that the receiver has acknowledged up to `acked` into the common offset.
    pub(super) fn collapse(&mut self, acked: Seq) {
        let done = self.list.iter().take_while(|splice| !acked.is_before(splice.end_out())).count();
        if let Some(last) = done.checked_sub(1) {
            let last = self.list[last];
            (self.base_in, self.base_out) = (last.end_in(), last.end_out());
            self.has_base = true;
            self.list.drain(..done);
        }
    }

    /// The first part of the sender's bytes from `from` to `to` that is forwarded in one piece:
    /// its bounds in the sender's space. [`None`] if nothing of them is.
    pub(super) fn first_piece(&self, from: Seq, to: Seq) -> Option<(Seq, Seq)> {
        let mut from = self.floor().map_or(from, |floor| from.later(floor));
        for splice in &self.list {
            if from.is_before(splice.at_in) {
                let to = to.earlier(splice.at_in);
                return from.is_before(to).then_some((from, to));
            }
            from = from.later(splice.end_in());
        }
        from.is_before(to).then_some((from, to))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn removed_and_inserted_bytes_shift_what_follows() {
        let at = |n: u32| Seq(u32::MAX - 5).plus(n);
        let mut splices = Splices::new(at(0));
        assert!(splices.is_identity());
        splices.edit(at(10), 5, 0);
        splices.edit(at(20), 0, 3);
        assert_eq!(splices.to_out(at(9)), at(9));
        assert_eq!([10, 12, 15, 19].map(|n| splices.to_out(at(n))), [10, 10, 10, 14].map(at));
        assert_eq!(splices.to_out(at(20)), at(18), "behind what was inserted");
        assert_eq!([9, 10, 14].map(|n| splices.to_in(at(n))), [9, 15, 19].map(at));
        assert_eq!([15, 16, 18, 19].map(|n| splices.to_in(at(n))), [20, 20, 20, 21].map(at));
        assert_eq!(splices.first_piece(at(5), at(30)), Some((at(5), at(10))));
        assert_eq!(splices.first_piece(at(10), at(30)), Some((at(15), at(20))));
        assert_eq!(splices.first_piece(at(20), at(30)), Some((at(20), at(30))));
        assert_eq!(splices.first_piece(at(11), at(14)), None);
        splices.collapse(at(10));
        assert_eq!(splices.floor(), Some(at(15)));
        splices.collapse(at(17));
        assert_eq!(splices.to_out(at(20)), at(18));
        splices.collapse(at(18));
        assert_eq!((splices.floor(), splices.to_out(at(25))), (Some(at(20)), at(23)));
    }

    proptest! {
        /// The model is the two streams, byte by byte.
        #[test]
        fn translation_agrees_with_the_streams(
            start: u32,
            edits in prop::collection::vec((0u32..6, 0u32..4, 0u32..4), 0..10),
            acked in 0u32..60,
        ) {
            let at = |n: u32| Seq(start).plus(n);
            let (mut splices, mut forwarded) = (Splices::new(at(0)), Vec::new());
            let (mut end_in, mut end_out) = (0, 0);
            for (passed, removed, inserted) in edits {
                for _ in 0..passed {
                    forwarded.push((end_in, end_out));
                    (end_in, end_out) = (end_in + 1, end_out + 1);
                }
                if removed + inserted > 0 {
                    splices.edit(at(end_in), removed, inserted);
                    (end_in, end_out) = (end_in + removed, end_out + inserted);
                }
            }
            let acked = acked.min(end_out);
            splices.collapse(at(acked));
            for (from, to) in &forwarded {
                if *to >= acked {
                    prop_assert_eq!(splices.to_out(at(*from)), at(*to));
                }
            }
            for ack in acked..=end_out {
                // The first byte that the receiver lacks, and that its sender still has to send.
                let missing = forwarded.iter().find(|(_, to)| *to >= ack);
                let expected = missing.map_or(end_in, |(from, _)| *from);
                let translated = splices.to_in(at(ack));
                prop_assert!(!translated.is_after(at(expected)), "{:?} {}", translated, expected);
                prop_assert_eq!(splices.to_in(at(end_out)), at(end_in));
            }
            let mut pieces = Vec::new();
            let mut from = at(0);
            while let Some((begin, end)) = splices.first_piece(from, at(end_in)) {
                pieces.extend((0..end.count_since(begin)).map(|n| begin.plus(n)));
                from = end;
            }
            let expected: Vec<_> = forwarded.iter().map(|(from, _)| at(*from)).collect();
            prop_assert!(expected.ends_with(&pieces));
        }
    }
}
