//! The slots of links in the dataplane: which are in use, and which one the next link gets.

use std::collections::VecDeque;

use podgate_tables::ids::LinkId;

use crate::agent::host_network::HOST_SLOT;

/// All slots. The first one is the host link's, the others are those of endpoints.
///
/// Endpoints get the slot that has been free for longest. Workers know a pod by its slot, and a
/// flow keeps the slot until it is evaluated again: a slot that was just freed would make another
/// pod look like the former one.
#[derive(Debug)]
pub(super) struct Slots {
    /// Whether each slot is in use.
    taken: Vec<bool>,
    /// Free slots of endpoints, the one that has been free for longest first.
    free: VecDeque<LinkId>,
}

impl Slots {
    /// Free slots for `endpoints_max` endpoints and the host link.
    pub(super) fn new(endpoints_max: u16) -> Self {
        let free = (HOST_SLOT.0 + 1..=endpoints_max).map(LinkId).collect();
        Self { taken: vec![false; usize::from(endpoints_max) + 1], free }
    }

    /// The free slot for the next endpoint.
    pub(super) fn free(&self) -> Option<LinkId> {
        self.free.front().copied()
    }

    /// Notes whether a slot is in use.
    pub(super) fn set(&mut self, slot: LinkId, taken: bool) {
        self.taken[slot.index()] = taken;
        if slot != HOST_SLOT {
            self.free.retain(|free| *free != slot);
            if !taken {
                self.free.push_back(slot);
            }
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
        // The host link, attached again, makes no difference.
        slots.set(HOST_SLOT, false);
        slots.set(HOST_SLOT, true);
        let next: Vec<_> = (0..3).map(|_| take(&mut slots)).collect();
        assert_eq!(next, [Some(3), Some(4), Some(1)]);
        assert_eq!(slots.taken_by_endpoints().collect::<Vec<_>>(), [1, 3, 4].map(LinkId));
        assert_eq!((slots.of_endpoints(), slots.taken(), slots.left()), ((3, 4), 4, 1));
    }

    #[test]
    fn the_slot_that_has_been_free_for_longest_comes_first() {
        let mut slots = Slots::new(4);
        while take(&mut slots).is_some() {}
        slots.set(LinkId(3), false);
        slots.set(LinkId(1), false);
        assert_eq!([take(&mut slots), take(&mut slots)], [Some(3), Some(1)]);
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
