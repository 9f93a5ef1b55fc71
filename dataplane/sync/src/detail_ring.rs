//! A bounded ring of items, some of which have a detail in a ring of its own.

use crate::SleepFlag;
use crate::atomic::ArrayQueue;

/// A bounded ring with one writer and one reader. Each item may have a detail, which lies in a
/// second ring, in the order of the items that have one: details are large, and most items have
/// none.
#[derive(Debug)]
pub struct DetailRing<T, D> {
    items: ArrayQueue<T>,
    details: ArrayQueue<D>,
}

impl<T, D> DetailRing<T, D> {
    /// A ring of `capacity` items.
    ///
    /// # Panics
    /// When `capacity` is zero.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        // One detail more: the reader takes an item first, and then its detail.
        Self { items: ArrayQueue::new(capacity), details: ArrayQueue::new(capacity + 1) }
    }

    /// Items in the ring.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there are none.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.items.len() == 0
    }

    /// Items that fit.
    #[must_use]
    #[inline]
    pub fn capacity(&self) -> usize {
        self.items.capacity()
    }

    /// Pushes an item without a detail. Returns false, and drops it, when the ring is full.
    #[must_use]
    #[inline]
    pub fn push(&self, item: T) -> bool {
        self.items.push(item).is_ok()
    }

    /// Pushes an item and its detail. Returns false, and drops both, when the ring is full.
    #[must_use]
    #[inline]
    pub fn push_with_detail(&self, item: T, detail: D) -> bool {
        // There is one writer, so a ring that has room now has room below.
        if self.items.is_full() {
            return false;
        }
        // The detail before the item, so that a reader of the item can always pop its detail. There
        // is room: no more details are in the ring than items, and one whose item was just popped.
        let pushed = self.details.push(detail);
        debug_assert!(pushed.is_ok(), "there is room for a detail of each item");
        self.items.push(item).is_ok()
    }

    /// Whether the reader has to be woken for the item that was just pushed: it sleeps, and the
    /// ring was empty. Only the writer may ask, after each push.
    ///
    /// The reader announces its sleep, and then sleeps only if the ring is empty. If this call
    /// finds older items, the reader has not emptied the ring, so it sees the new item before it
    /// sleeps.
    #[must_use]
    #[inline]
    pub fn must_wake(&self, reader: &SleepFlag) -> bool {
        self.items.len() == 1 && reader.must_wake()
    }

    /// Pops the oldest item. `has_detail` says whether it was pushed with one.
    #[must_use]
    #[inline]
    pub fn pop(&self, has_detail: impl FnOnce(&T) -> bool) -> Option<(T, Option<D>)> {
        let item = self.items.pop()?;
        let detail = if has_detail(&item) { self.details.pop() } else { None };
        Some((item, detail))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const EVEN: fn(&u64) -> bool = |number| number % 2 == 0;

    #[test]
    fn items_are_popped_with_their_own_details_and_a_full_ring_drops_both() {
        let ring = DetailRing::new(4);
        for turn in 0..5 {
            let numbers = turn * 10..turn * 10 + 6;
            let push = |number: &u64| match EVEN(number) {
                true => ring.push_with_detail(*number, *number),
                false => ring.push(*number),
            };
            let pushed: Vec<_> = numbers.clone().filter(push).collect();
            assert_eq!(pushed, numbers.clone().take(4).collect::<Vec<_>>());
            assert_eq!(ring.len(), ring.capacity());
            for number in numbers.take(4) {
                assert_eq!(ring.pop(EVEN), Some((number, EVEN(&number).then_some(number))));
            }
            assert!(ring.is_empty() && ring.pop(EVEN).is_none());
        }
    }

    #[test]
    fn a_detail_fits_while_the_reader_is_between_an_item_and_its_detail() {
        let ring = DetailRing::new(4);
        assert!((0..4).all(|number| ring.push_with_detail(number, number)));
        assert_eq!(ring.items.pop(), Some(0));
        assert!(ring.push_with_detail(4, 4));
        assert_eq!(ring.details.pop(), Some(0));
        for number in 1..=4 {
            assert_eq!(ring.pop(|_| true), Some((number, Some(number))));
        }
        assert_eq!(ring.details.len(), 0);
    }
}
