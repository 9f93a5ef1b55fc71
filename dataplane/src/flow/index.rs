//! The flow table's hash index: open addressing in one array of 32-bit entries, so that a lookup
//! reads one cache line here and then the flow itself.
//!
//! An entry consists of a slot number, its distance from the bucket that its hash selects (its
//! home), and, in the remaining bits, a tag: a part of the hash. With a table of 2²⁴ flows the tag
//! rules out 15 of 16 other flows without reading them; with smaller tables, more. At most half of
//! the buckets are used, and hashes are keyed, so probe sequences are short whatever pods send.

use crate::mem::{prefer_huge_pages, prefetch};

/// An unused bucket. No entry is equal: the highest slot number that fits is never used.
const EMPTY: u32 = u32::MAX;

/// Bits of an entry's distance from its home.
const DISTANCE_BITS: u32 = 3;

/// The highest distance that an entry can store: this far, or farther.
const FAR: usize = (1 << DISTANCE_BITS) - 1;

/// Slot numbers by hash.
#[derive(Debug)]
pub(super) struct Index {
    entries: Box<[u32]>,
    /// Bits of an entry with the slot number, the lowest ones. The distance is above them.
    slot_mask: u32,
    /// Bits of an entry with the tag, the highest ones.
    tag_mask: u32,
    len: usize,
}

impl Index {
    /// An empty index with capacity for `capacity` slots, numbered from zero. It never grows.
    ///
    /// # Panics
    /// With a capacity of more than 2²⁸.
    pub(super) fn new(capacity: u32) -> Self {
        assert!(capacity <= 1 << 28, "a table of {capacity} flows");
        let buckets = (2 * capacity as usize).next_power_of_two().max(2);
        let slot_mask = (capacity + 1).next_power_of_two() - 1;
        let mut entries = Vec::with_capacity(buckets);
        prefer_huge_pages(entries.spare_capacity_mut());
        entries.resize(buckets, EMPTY);
        let tag_mask = !((slot_mask << DISTANCE_BITS) | FAR as u32);
        Self { entries: entries.into(), slot_mask, tag_mask, len: 0 }
    }

    /// Number of entries.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    fn home(&self, hash: u64) -> usize {
        hash as usize & (self.entries.len() - 1)
    }

    fn next(&self, bucket: usize) -> usize {
        (bucket + 1) & (self.entries.len() - 1)
    }

    /// Buckets from `from` to `bucket`.
    fn distance(&self, from: usize, bucket: usize) -> usize {
        bucket.wrapping_sub(from) & (self.entries.len() - 1)
    }

    /// The part of a hash that an entry stores.
    fn tag(&self, hash: u64) -> u32 {
        (hash >> 32) as u32 & self.tag_mask
    }

    /// Encodes an entry.
    fn entry(&self, tag: u32, distance: usize, slot: u32) -> u32 {
        tag | (distance.min(FAR) as u32) << self.slot_mask.count_ones() | slot
    }

    /// The slot with this hash for which `is` holds.
    #[inline]
    pub(super) fn find(&self, hash: u64, is: impl Fn(u32) -> bool) -> Option<u32> {
        let tag = self.tag(hash);
        let mut bucket = self.home(hash);
        loop {
            let entry = self.entries[bucket];
            if entry == EMPTY {
                return None;
            }
            let slot = entry & self.slot_mask;
            if entry & self.tag_mask == tag && is(slot) {
                return Some(slot);
            }
            bucket = self.next(bucket);
        }
    }

    /// Prefetches the home of a hash.
    #[inline]
    pub(super) fn prefetch(&self, hash: u64) {
        prefetch(&raw const self.entries[self.home(hash)]);
    }

    /// Loads the home of a hash into the cache.
    #[inline]
    pub(super) fn touch(&self, hash: u64) -> u32 {
        self.entries[self.home(hash)]
    }

    /// The likely slot of a flow with this hash; the caller must compare the key. `None` if there
    /// is no such flow.
    #[inline]
    pub(super) fn candidate(&self, hash: u64) -> Option<u32> {
        self.find(hash, |_| true)
    }

    /// Adds an entry.
    pub(super) fn insert(&mut self, hash: u64, slot: u32) {
        debug_assert!(slot < self.slot_mask && 2 * self.len < self.entries.len());
        let home = self.home(hash);
        let mut bucket = home;
        while self.entries[bucket] != EMPTY {
            bucket = self.next(bucket);
        }
        self.entries[bucket] = self.entry(self.tag(hash), self.distance(home, bucket), slot);
        self.len += 1;
    }

    /// Removes the entry of a slot, if there is one. `hash_of` yields the hash of another slot's
    /// flow; it is called for entries far from their home.
    pub(super) fn remove(&mut self, hash: u64, slot: u32, hash_of: impl Fn(u32) -> u64) {
        let mut hole = self.home(hash);
        while self.entries[hole] & self.slot_mask != slot {
            if self.entries[hole] == EMPTY {
                return;
            }
            hole = self.next(hole);
        }
        self.len -= 1;
        // Move later entries back, unless that would put one before its home.
        let mut bucket = self.next(hole);
        while self.entries[bucket] != EMPTY {
            let (entry, gap) = (self.entries[bucket], self.distance(hole, bucket));
            let slot = entry & self.slot_mask;
            let mut from_home = ((entry & !self.tag_mask) >> self.slot_mask.count_ones()) as usize;
            if from_home == FAR {
                from_home = self.distance(self.home(hash_of(slot)), bucket);
            }
            if from_home >= gap {
                self.entries[hole] = self.entry(entry & self.tag_mask, from_home - gap, slot);
                hole = bucket;
            }
            bucket = self.next(bucket);
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
        /// Few homes and tags, so that probe sequences are long and wrap.
        #[test]
        fn an_index_behaves_like_a_map(
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
