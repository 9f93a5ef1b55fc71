//! Single-producer, single-consumer rings in shared memory.
//!
//! The other end of a ring is used by the kernel, or for a memory link by [`super::memory`]. A ring
//! is accessed through its two ends only, and each end offers only what is legal there:
//!
//! | ring | entry | our end | the kernel's end |
//! |---|---|---|---|
//! | [`Fill`] | frame address | producer | consumer |
//! | [`Completion`] | frame address | consumer | producer |
//! | [`Rx`] | descriptor | consumer | producer |
//! | [`Tx`] | descriptor | producer | consumer |
//!
//! # Protocol
//! Indices count entries and wrap at 2³²; a slot is the index modulo the ring's size. The producer
//! writes entries and then its index with release order; the consumer reads that index with
//! acquire order, then the entries, and then writes its own index with release order; the producer
//! reads that one with acquire order before it writes those slots again
//! (`net/xdp/xsk_queue.h`, "The structure of the shared state of the rings").

use std::cell::UnsafeCell;
use std::num::Wrapping;
use std::ptr::NonNull;
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::sys::{Desc, RingOffsets, XDP_RING_NEED_WAKEUP};
use crate::mem::Mapping;

/// Frames for received data.
pub(super) type Fill = Producer<u64>;
/// Transmitted frames.
pub(super) type Completion = Consumer<u64>;
/// Received data.
pub(super) type Rx = Consumer<Desc>;
/// Data to transmit.
pub(super) type Tx = Producer<Desc>;

/// Type of a ring's entries.
///
/// # Safety
/// Every bit pattern must be a valid value: the other end may write anything. The alignment must be
/// at most 8 bytes.
pub(super) unsafe trait Entry: Copy + Send {}
// SAFETY: a plain number.
unsafe impl Entry for u64 {}
// SAFETY: plain numbers without padding.
unsafe impl Entry for Desc {}

/// Memory of a ring, kept while one of its ends exists.
///
/// # Safety
/// `base` must point to [`RingMemory::len`] initialised bytes, aligned to 8, that stay at this
/// address until the value is dropped and are only accessed through rings.
pub(super) unsafe trait RingMemory: Send + Sync {
    /// Start of the memory.
    fn base(&self) -> NonNull<u8>;
    /// Bytes.
    fn len(&self) -> usize;
}

/// The shared state of one ring.
struct Ring<T> {
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    entries: NonNull<T>,
    size: u32,
    /// Keeps the memory that the pointers point to.
    _memory: Arc<dyn RingMemory>,
}

// SAFETY: the pointers lead into `_memory`, which may be sent; an end is used by one thread at a
// time (its methods take `&mut self`) and the two ends keep apart by the ring's protocol.
unsafe impl<T: Entry> Send for Ring<T> {}

impl<T: Entry> Ring<T> {
    /// # Panics
    /// When `size` is no power of two or the parts don't lie in the memory.
    fn new(memory: Arc<dyn RingMemory>, at: RingOffsets, size: u32) -> Self {
        assert!(size.is_power_of_two(), "a ring of {size} entries");
        let part = |offset: u64, bytes: usize| {
            let offset = usize::try_from(offset).unwrap_or(usize::MAX);
            let end = offset.checked_add(bytes);
            assert!(end.is_some_and(|end| end <= memory.len()), "ring part outside of its memory");
            assert!(offset.is_multiple_of(align_of::<u32>()), "ring part is not aligned");
            // SAFETY: the offset lies within the memory, as was just asserted.
            unsafe { memory.base().add(offset) }
        };
        assert!(at.desc.is_multiple_of(8), "ring entries are not aligned");
        Self {
            producer: part(at.producer, size_of::<u32>()).cast(),
            consumer: part(at.consumer, size_of::<u32>()).cast(),
            flags: part(at.flags, size_of::<u32>()).cast(),
            entries: part(at.desc, size as usize * size_of::<T>()).cast(),
            size,
            _memory: memory,
        }
    }

    fn producer(&self) -> &AtomicU32 {
        // SAFETY: points into `_memory`, aligned, initialised, and only accessed atomically.
        unsafe { self.producer.as_ref() }
    }

    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as `producer`.
        unsafe { self.consumer.as_ref() }
    }

    fn flags(&self) -> &AtomicU32 {
        // SAFETY: as `producer`.
        unsafe { self.flags.as_ref() }
    }

    /// The slots of `n` entries from index `from`, as two contiguous runs if they wrap: first slot
    /// and length of each.
    fn runs(&self, from: Wrapping<u32>, n: u32) -> [(NonNull<T>, usize); 2] {
        assert!(n <= self.size, "{n} entries of a ring of {}", self.size);
        let start = from.0 & (self.size - 1);
        let first = n.min(self.size - start);
        // SAFETY: `start` is less than `size`, and `entries` has `size` slots.
        let run = unsafe { self.entries.add(start as usize) };
        [(run, first as usize), (self.entries, (n - first) as usize)]
    }
}

/// The producer end of a ring.
pub(super) struct Producer<T> {
    ring: Ring<T>,
    /// Index of the next entry to write.
    next: Wrapping<u32>,
    /// The consumer's index when last read.
    consumed: Wrapping<u32>,
}

impl<T: Entry> Producer<T> {
    /// The producer end of the ring at these offsets of `memory`.
    ///
    /// # Safety
    /// There must be no other producer end of this ring.
    ///
    /// # Panics
    /// When `size` is no power of two or the parts don't lie in the memory.
    pub(super) unsafe fn new(memory: Arc<dyn RingMemory>, at: RingOffsets, size: u32) -> Self {
        let ring = Ring::new(memory, at, size);
        let next = Wrapping(ring.producer().load(Ordering::Relaxed));
        let consumed = Wrapping(ring.consumer().load(Ordering::Acquire));
        Self { ring, next, consumed }
    }

    /// Number of free slots. The consumer's index is read only if fewer than `want` were free
    /// before.
    #[inline]
    pub(super) fn free(&mut self, want: u32) -> u32 {
        // An invalid index (more entries in use than slots) leaves none free.
        let free = |end: &Self| end.ring.size.saturating_sub((end.next - end.consumed).0);
        if free(self) < want {
            self.consumed = Wrapping(self.ring.consumer().load(Ordering::Acquire));
        }
        free(self)
    }

    /// Writes entries that `entry` yields into up to `max` free slots, until it yields `None`. They
    /// are invisible to the consumer until [`Producer::publish`]. Returns their number.
    #[inline]
    pub(super) fn produce(&mut self, max: u32, mut entry: impl FnMut() -> Option<T>) -> u32 {
        let room = self.free(max).min(max);
        let mut written = 0;
        'full: for (run, slots) in self.ring.runs(self.next, room) {
            // SAFETY: the slots are free, so by the protocol the consumer doesn't access them, and
            // there is no other producer end; `runs` stays inside of the ring's memory.
            let slots = unsafe { slice::from_raw_parts_mut(run.as_ptr(), slots) };
            for slot in slots {
                let Some(value) = entry() else { break 'full };
                *slot = value;
                written += 1;
            }
        }
        self.next += written;
        written
    }

    /// A free slot, if there is one.
    #[inline]
    pub(super) fn free_slot(&mut self) -> Option<FreeSlot<'_, T>> {
        if self.free(1) > 0 { Some(FreeSlot(self)) } else { None }
    }

    /// Makes all written entries visible to the consumer. Returns whether there were new ones.
    #[inline]
    pub(super) fn publish(&mut self) -> bool {
        let unpublished = self.ring.producer().load(Ordering::Relaxed) != self.next.0;
        if unpublished {
            self.ring.producer().store(self.next.0, Ordering::Release);
        }
        unpublished
    }

    /// Entries that the consumer has not released yet, published or not.
    #[inline]
    pub(super) fn in_use(&mut self) -> u32 {
        self.consumed = Wrapping(self.ring.consumer().load(Ordering::Acquire));
        (self.next - self.consumed).0
    }

    /// Whether the consumer must be woken up for new entries.
    #[inline]
    pub(super) fn needs_wakeup(&self) -> bool {
        self.ring.flags().load(Ordering::Relaxed) & XDP_RING_NEED_WAKEUP != 0
    }
}

/// The next slot of a ring to write to, which is free.
pub(super) struct FreeSlot<'r, T>(&'r mut Producer<T>);

impl<T: Entry> FreeSlot<'_, T> {
    /// Writes an entry; else as [`Producer::produce`].
    #[inline]
    pub(super) fn put(self, entry: T) {
        let Self(Producer { ring, next, .. }) = self;
        let slot = (next.0 & (ring.size - 1)) as usize;
        // SAFETY: `slot` is less than `size`, and `entries` has `size` slots.
        let place = unsafe { ring.entries.add(slot) };
        // SAFETY: the slot is free, so by the protocol the consumer doesn't access it, and there is
        // no other producer end.
        unsafe { place.write(entry) };
        *next += 1;
    }
}

/// The consumer end of a ring.
pub(super) struct Consumer<T> {
    ring: Ring<T>,
    /// Index of the next entry to read.
    next: Wrapping<u32>,
    /// The producer's index when last read.
    produced: Wrapping<u32>,
}

impl<T: Entry> Consumer<T> {
    /// The consumer end of the ring at these offsets of `memory`.
    ///
    /// # Safety
    /// There must be no other consumer end of this ring.
    ///
    /// # Panics
    /// When `size` is no power of two or the parts don't lie in the memory.
    pub(super) unsafe fn new(memory: Arc<dyn RingMemory>, at: RingOffsets, size: u32) -> Self {
        let ring = Ring::new(memory, at, size);
        let next = Wrapping(ring.consumer().load(Ordering::Relaxed));
        Self { ring, next, produced: next }
    }

    /// Number of entries to read. The producer's index is read only if fewer than `want` were
    /// known.
    #[inline]
    pub(super) fn available(&mut self, want: u32) -> u32 {
        if (self.produced - self.next).0 < want {
            self.produced = Wrapping(self.ring.producer().load(Ordering::Acquire));
        }
        // An invalid index (more entries than slots) yields all slots once.
        (self.produced - self.next).0.min(self.ring.size)
    }

    /// The next entries, at most `max`, as two slices if they wrap. They stay in the ring until
    /// [`Consumer::release`].
    #[inline]
    pub(super) fn peek(&mut self, max: u32) -> (&[T], &[T]) {
        let n = self.available(max).min(max);
        let [a, b] = self.ring.runs(self.next, n);
        // SAFETY: the entries are published and not released, so by the protocol the producer
        // doesn't write to them while `self` is borrowed; `runs` stays inside of the memory.
        let a = unsafe { slice::from_raw_parts(a.0.as_ptr(), a.1) };
        // SAFETY: as above.
        let b = unsafe { slice::from_raw_parts(b.0.as_ptr(), b.1) };
        (a, b)
    }

    /// Releases the slots of the next `n` entries to the producer.
    ///
    /// # Panics
    /// When there are fewer.
    #[inline]
    pub(super) fn release(&mut self, n: u32) {
        assert!(n <= self.available(0), "more entries released than there are");
        self.next += n;
        self.ring.consumer().store(self.next.0, Ordering::Release);
    }

    /// Takes the next entry.
    #[inline]
    pub(super) fn pop(&mut self) -> Option<T> {
        let entry = *self.peek(1).0.first()?;
        self.release(1);
        Some(entry)
    }

    /// Requests a wakeup from the producer when it has published entries.
    pub(super) fn ask_for_wakeup(&self) {
        self.ring.flags().fetch_or(XDP_RING_NEED_WAKEUP, Ordering::Relaxed);
    }
}

// SAFETY: mapped, hence initialised, page-aligned and in its place until dropped. Ring mappings
// are handed to nothing but rings.
unsafe impl RingMemory for Mapping {
    fn base(&self) -> NonNull<u8> {
        Self::base(self)
    }

    fn len(&self) -> usize {
        Self::len(self)
    }
}

/// Ring memory on the heap, for rings of memory links.
struct Heap(Box<[UnsafeCell<u64>]>);

// SAFETY: only ever accessed through rings, whose protocol orders the accesses.
unsafe impl Sync for Heap {}

// SAFETY: the box stays in its place until dropped, holds initialised `u64`s, hence is aligned to
// 8, and `UnsafeCell` allows writing through the shared pointer.
unsafe impl RingMemory for Heap {
    fn base(&self) -> NonNull<u8> {
        NonNull::from(&*self.0).cast()
    }

    fn len(&self) -> usize {
        size_of_val(&*self.0)
    }
}

/// Both ends of a new ring of `size` entries in process memory.
///
/// # Panics
/// When `size` is no power of two.
pub(super) fn pair<T: Entry>(size: u32) -> (Producer<T>, Consumer<T>) {
    pair_from(size, 0)
}

/// As [`pair`], with indices that begin at `start`.
fn pair_from<T: Entry>(size: u32, start: u32) -> (Producer<T>, Consumer<T>) {
    // The two indices on cache lines of their own, as the kernel lays them out.
    let at = RingOffsets { producer: 0, consumer: 64, flags: 128, desc: 192 };
    let bytes = at.desc as usize + size as usize * size_of::<T>();
    let words = (0..bytes.div_ceil(size_of::<u64>())).map(|_| UnsafeCell::new(0)).collect();
    let memory: Arc<dyn RingMemory> = Arc::new(Heap(words));
    let ring = Ring::<T>::new(Arc::clone(&memory), at, size);
    ring.producer().store(start, Ordering::Relaxed);
    ring.consumer().store(start, Ordering::Relaxed);
    // SAFETY: the memory is new, so this is its only writing end.
    let producer = unsafe { Producer::new(Arc::clone(&memory), at, size) };
    // SAFETY: likewise, its only reading end.
    let consumer = unsafe { Consumer::new(memory, at, size) };
    (producer, consumer)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        /// Ask for up to `room` entries and yield `yielded` of them.
        Produce {
            room: u32,
            yielded: u32,
        },
        Publish,
        /// Peek up to `max` entries and release all but `kept` of them.
        Consume {
            max: u32,
            kept: u32,
        },
        Pop,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..40_u32, 0..40_u32).prop_map(|(room, yielded)| Step::Produce { room, yielded }),
            Just(Step::Publish),
            (0..40_u32, 0..4_u32).prop_map(|(max, kept)| Step::Consume { max, kept }),
            Just(Step::Pop),
        ]
    }

    proptest! {
        /// Compared with two queues, one of written and one of published entries.
        #[test]
        fn a_ring_is_a_bounded_queue_across_index_wraps(
            size in (0..6_u32).prop_map(|bits| 1 << bits),
            start in prop_oneof![any::<u32>(), (0..100_u32).prop_map(|back| u32::MAX - back)],
            steps in prop::collection::vec(step(), 1..200),
        ) {
            let (mut producer, mut consumer) = pair_from::<u64>(size, start);
            let (mut written, mut published) = (VecDeque::new(), VecDeque::new());
            let mut next = 0_u64;
            for step in steps {
                match step {
                    Step::Produce { room, yielded } => {
                        let in_use = (written.len() + published.len()) as u32;
                        prop_assert!(producer.free(room) <= size - in_use);
                        prop_assert_eq!(producer.free(u32::MAX), size - in_use);
                        let mut values = next..next + u64::from(yielded);
                        let n = producer.produce(room, || values.next());
                        prop_assert_eq!(n, room.min(yielded).min(size - in_use));
                        written.extend(next..next + u64::from(n));
                        next += u64::from(n);
                    }
                    Step::Publish => {
                        prop_assert_eq!(producer.publish(), !written.is_empty());
                        published.append(&mut written);
                    }
                    Step::Consume { max, kept } => {
                        let (a, b) = consumer.peek(max);
                        let seen: Vec<_> = a.iter().chain(b).copied().collect();
                        let n = seen.len();
                        let expected = published.iter().take(max as usize).copied();
                        prop_assert_eq!(&seen, &expected.collect::<Vec<_>>());
                        let released = n.saturating_sub(kept as usize);
                        consumer.release(released as u32);
                        published.drain(..released);
                    }
                    Step::Pop => prop_assert_eq!(consumer.pop(), published.pop_front()),
                }
                prop_assert_eq!(consumer.available(u32::MAX) as usize, published.len());
                prop_assert_eq!(producer.in_use() as usize, published.len() + written.len());
            }
        }
    }

    #[test]
    fn invalid_indices_of_the_other_end_stay_in_bounds() {
        for index in [0, 1, 7, 8, 9, 100, u32::MAX / 2, u32::MAX] {
            let (mut producer, consumer) = pair::<u64>(8);
            producer.produce(4, || Some(1));
            consumer.ring.consumer().store(index, Ordering::Release);
            assert!(producer.free(u32::MAX) <= 8);
            assert!(producer.produce(u32::MAX, || Some(2)) <= 8);

            let (producer, mut consumer) = pair::<u64>(8);
            producer.ring.producer().store(index, Ordering::Release);
            let (a, b) = consumer.peek(u32::MAX);
            let n = (a.len() + b.len()) as u32;
            assert!(n <= 8);
            consumer.release(n);
        }
    }

    #[test]
    #[should_panic(expected = "more entries released")]
    fn releasing_more_than_available_panics() {
        let (mut producer, mut consumer) = pair::<u64>(8);
        producer.produce(2, || Some(1));
        producer.publish();
        consumer.release(3);
    }

    #[test]
    #[should_panic(expected = "a ring of 12 entries")]
    fn a_ring_size_that_is_not_a_power_of_two_panics() {
        let _ = pair::<u64>(12);
    }

    #[test]
    #[should_panic(expected = "outside of its memory")]
    fn ring_parts_outside_of_the_memory_panic() {
        let memory = Arc::new(Heap((0..24).map(|_| UnsafeCell::new(0)).collect()));
        let at = RingOffsets { producer: 0, consumer: 64, flags: 128, desc: 192 };
        let _ = Ring::<u64>::new(memory, at, 1);
    }

    #[test]
    fn two_threads_exchange_entries_in_order() {
        const ENTRIES: u64 = 200_000;
        let (mut producer, mut consumer) = pair_from::<u64>(64, u32::MAX - 1000);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let mut values = 0..ENTRIES;
                while !values.is_empty() {
                    producer.produce(17, || values.next());
                    producer.publish();
                    std::thread::yield_now();
                }
            });
            let mut expected = 0;
            while expected < ENTRIES {
                let (a, b) = consumer.peek(23);
                let n = (a.len() + b.len()) as u32;
                for value in a.iter().chain(b) {
                    assert_eq!(*value, expected);
                    expected += 1;
                }
                consumer.release(n);
                if n == 0 {
                    std::thread::yield_now();
                }
            }
        });
    }
}
