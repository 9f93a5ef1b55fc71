//! The slots of links in the dataplane: which are in use, and which one the next link gets.

use podgate_tables::ids::LinkId;

use crate::agent::host_network::HOST_SLOT;

/// All slots. The first one is the host link's, the others are those of endpoints.
///
/// Endpoints get slots in turn. Workers know a pod by its slot, and a flow keeps the slot until it
/// is evaluated again: a slot that was just freed would make another pod look like the former one.
#[derive(Debug)]
pub(super) struct Slots {
    /// Whether each slot is in use.
    taken: Vec<bool>,
    /// The slot that an endpoint took last.
    last: usize,
}

impl Slots {
    /// Free slots for `endpoints_max` endpoints and the host link.
    pub(super) fn new(endpoints_max: u16) -> Self {
        Self { taken: vec![false; usize::from(endpoints_max) + 1], last: HOST_SLOT.index() }
    }

    /// The free slot for the next endpoint: the first one after the slot that was taken last.
    pub(super) fn free(&self) -> Option<LinkId> {
        let after = self.last + 1..self.taken.len();
        let mut in_turn = after.chain(HOST_SLOT.index() + 1..=self.last);
        let slot = in_turn.find(|slot| !self.taken[*slot])?;
        u16::try_from(slot).ok().map(LinkId)
    }

    /// Notes whether a slot is in use.
    pub(super) fn set(&mut self, slot: LinkId, taken: bool) {
        self.taken[slot.index()] = taken;
        if taken && slot != HOST_SLOT {
            self.last = slot.index();
        }
    }

    /// Slots of endpoints that are in use, and all of them.
    pub(super) fn of_endpoints(&self) -> (usize, usize) {
        let endpoints = &self.taken[HOST_SLOT.index() + 1..];
        (endpoints.iter().filter(|taken| **taken).count(), endpoints.len())
    }

    /// The slots of endpoints that are in use.
    pub(super) fn taken_by_endpoints(&self) -> impl Iterator<Item = LinkId> {
        let slots = (0..).zip(&self.taken).skip(1);
        slots.filter(|(_, taken)| **taken).map(|(slot, _)| LinkId(slot))
    }

    /// Slots that are in use, the host link's included.
    pub(super) fn taken(&self) -> usize {
        self.taken.iter().filter(|taken| **taken).count()
    }

    /// Slots that are not in use.
    pub(super) fn left(&self) -> usize {
        self.taken.len() - self.taken()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes the next free slot.
    fn take(slots: &mut Slots) -> Option<u16> {
        let slot = slots.free()?;
        slots.set(slot, true);
        Some(slot.0)
    }

    #[test]
    fn a_freed_slot_is_given_again_only_after_all_others() {
        let mut slots = Slots::new(4);
        slots.set(HOST_SLOT, true);
        assert_eq!([take(&mut slots), take(&mut slots)], [Some(1), Some(2)]);
        slots.set(LinkId(1), false);
        slots.set(LinkId(2), false);
        // The host link, attached again, does not change whose turn it is.
        slots.set(HOST_SLOT, false);
        slots.set(HOST_SLOT, true);
        let next: Vec<_> = (0..3).map(|_| take(&mut slots)).collect();
        assert_eq!(next, [Some(3), Some(4), Some(1)]);
        assert_eq!(slots.taken_by_endpoints().collect::<Vec<_>>(), [1, 3, 4].map(LinkId));
        assert_eq!((slots.of_endpoints(), slots.taken(), slots.left()), ((3, 4), 4, 1));
    }

    #[test]
    fn the_last_free_slot_is_found_wherever_it_is() {
        for last in 1..=3 {
            let mut slots = Slots::new(3);
            slots.set(HOST_SLOT, true);
            while take(&mut slots).is_some() {}
            assert_eq!(slots.of_endpoints(), (3, 3));
            for _ in 0..2 {
                slots.set(LinkId(last), false);
                assert_eq!(take(&mut slots), Some(last));
            }
        }
        assert_eq!(Slots::new(0).free(), None);
    }
}
