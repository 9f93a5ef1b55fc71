//! Slot numbers of flows by the hash of their tuples: open addressing in one array of 32-bit
//! entries, so that a look-up reads one cache line here and then the flow itself.
//!
//! An entry is a slot number, how far the entry lies from the place where its hash belongs (its
//! home), and, in the bits that are left, a part of the hash: all but one in 16 flows of other
//! tuples (with a table of 2²⁴; far more seldom in smaller ones) are told apart without reading
//! them. At most half of the places are taken, and hashes are keyed, so runs of taken places are
//! short whatever pods send.

use crate::xsk::{prefer_huge_pages, prefetch};

/// No flow. No entry of a flow is equal: slot numbers don't reach the highest that fits.
const EMPTY: u32 = u32::MAX;

/// Bits of an entry's distance from home.
const DISTANCE_BITS: u32 = 3;

/// The highest distance that an entry can say: so far, or farther.
const FAR: usize = (1 << DISTANCE_BITS) - 1;

/// Slots by hash.
#[derive(Debug)]
pub(super) struct Index {
    entries: Box<[u32]>,
    /// Low bits of an entry that are the slot number. The distance lies above them.
    slot_mask: u32,
    /// High bits of an entry that are a part of the hash.
    tag_mask: u32,
    len: usize,
}

impl Index {
    /// An empty index with room for `capacity` slots, numbered from zero. It never grows.
    ///
    /// # Panics
    /// With a capacity of more than 2²⁸.
    pub(super) fn new(capacity: u32) -> Self {
        assert!(capacity <= 1 << 28, "a table of {capacity} flows");
        let places = (2 * capacity as usize).next_power_of_two().max(2);
        let slot_mask = (capacity + 1).next_power_of_two() - 1;
        let mut entries = Vec::with_capacity(places);
        prefer_huge_pages(entries.spare_capacity_mut());
        entries.resize(places, EMPTY);
        let tag_mask = !((slot_mask << DISTANCE_BITS) | FAR as u32);
        Self { entries: entries.into(), slot_mask, tag_mask, len: 0 }
    }

    /// Number of slots in it.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    fn home(&self, hash: u64) -> usize {
        hash as usize & (self.entries.len() - 1)
    }

    fn next(&self, place: usize) -> usize {
        (place + 1) & (self.entries.len() - 1)
    }

    /// How many places `place` lies behind `from`.
    fn distance(&self, from: usize, place: usize) -> usize {
        place.wrapping_sub(from) & (self.entries.len() - 1)
    }

    /// The part of a hash that an entry has.
    fn tag(&self, hash: u64) -> u32 {
        (hash >> 32) as u32 & self.tag_mask
    }

    /// An entry of a tag and a slot.
    fn entry(&self, tag: u32, distance: usize, slot: u32) -> u32 {
        tag | (distance.min(FAR) as u32) << self.slot_mask.count_ones() | slot
    }

    /// The slot with this hash for which `is` holds.
    #[inline]
    pub(super) fn find(&self, hash: u64, is: impl Fn(u32) -> bool) -> Option<u32> {
        let tag = self.tag(hash);
        let mut place = self.home(hash);
        loop {
            let entry = self.entries[place];
            if entry == EMPTY {
                return None;
            }
            let slot = entry & self.slot_mask;
            if entry & self.tag_mask == tag && is(slot) {
                return Some(slot);
            }
            place = self.next(place);
        }
    }

    /// Asks for the place where a hash is looked for first, and doesn't wait ([`prefetch`]).
    #[inline]
    pub(super) fn prefetch(&self, hash: u64) {
        prefetch(&raw const self.entries[self.home(hash)]);
    }

    /// Brings the place where a hash is looked for first into the cache.
    #[inline]
    pub(super) fn touch(&self, hash: u64) -> u32 {
        self.entries[self.home(hash)]
    }

    /// The slot that a flow with this hash is in, if it is in any; all but seldom.
    #[inline]
    pub(super) fn candidate(&self, hash: u64) -> Option<u32> {
        self.find(hash, |_| true)
    }

    /// Adds a slot that is not in it.
    pub(super) fn insert(&mut self, hash: u64, slot: u32) {
        debug_assert!(slot < self.slot_mask && 2 * self.len < self.entries.len());
        let home = self.home(hash);
        let mut place = home;
        while self.entries[place] != EMPTY {
            place = self.next(place);
        }
        self.entries[place] = self.entry(self.tag(hash), self.distance(home, place), slot);
        self.len += 1;
    }

    /// Takes a slot out, if it is in. `hash_of` gives the hash of another slot's flow; only those
    /// far from home are asked for.
    pub(super) fn remove(&mut self, hash: u64, slot: u32, hash_of: impl Fn(u32) -> u64) {
        let mut hole = self.home(hash);
        while self.entries[hole] & self.slot_mask != slot {
            if self.entries[hole] == EMPTY {
                return;
            }
            hole = self.next(hole);
        }
        self.len -= 1;
        // What comes after moves up, unless that would put it before its home.
        let mut place = self.next(hole);
        while self.entries[place] != EMPTY {
            let (entry, gap) = (self.entries[place], self.distance(hole, place));
            let slot = entry & self.slot_mask;
            let mut from_home = ((entry & !self.tag_mask) >> self.slot_mask.count_ones()) as usize;
            if from_home == FAR {
                from_home = self.distance(self.home(hash_of(slot)), place);
            }
            if from_home >= gap {
                self.entries[hole] = self.entry(entry & self.tag_mask, from_home - gap, slot);
                hole = place;
            }
            place = self.next(place);
        }
        self.entries[hole] = EMPTY;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Few homes and tags, so that runs are long and wrap.
        #[test]
        fn an_index_is_a_map(
            capacity in 1..40_u32,
            steps in prop::collection::vec((any::<bool>(), 0..40_u32, 0..9_u64, 0..3_u64), 0..300),
        ) {
            let mut index = Index::new(capacity);
            let mut model: HashMap<u32, u64> = HashMap::new();
            for (add, slot, home, tag) in steps {
                let slot = slot % capacity;
                match (add, model.get(&slot).copied()) {
                    (true, None) => {
                        let hash = tag << 61 | home;
                        index.insert(hash, slot);
                        model.insert(slot, hash);
                    }
                    (false, Some(hash)) => {
                        index.remove(hash, slot, |other| model[&other]);
                        model.remove(&slot);
                    }
                    (true, Some(_)) | (false, None) => {}
                }
                prop_assert_eq!(index.len(), model.len());
                for slot in 0..capacity {
                    let hash = model.get(&slot).copied();
                    let found = hash.and_then(|hash| index.find(hash, |at| at == slot));
                    prop_assert_eq!(found, hash.map(|_| slot));
                }
            }
            prop_assert_eq!(index.entries.iter().filter(|e| **e != EMPTY).count(), model.len());
        }
    }
}
