//! Each worker's pool of free frames.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use thin_vec::ThinVec;

use super::frame::{FRAME_HEADROOM, Frame, Packet};
use super::umem::Umem;

/// Free frames that a pool keeps before it returns some to the shared free list, at most and at
/// least.
const CACHE_FRAMES: usize = 1024;
const CACHE_FRAMES_MIN: usize = 32;
/// The pools of all workers together keep one in this many frames before they return some: a worker
/// can't use what another one keeps.
const CACHE_SHARE: usize = 16;
/// Frames moved between a pool and the shared free list at once.
const EXCHANGE_FRAMES: usize = CACHE_FRAMES / 4;

/// Hot frames that a pool keeps, at most: about twice what a worker transmits per round.
const HOT_FRAMES: usize = CACHE_FRAMES / 2;
/// Longest packet that is copied to a hot frame, bytes: headers and little payload. Copying more
/// costs more than it saves.
const HOT_BYTES_MAX: u32 = 128;
/// Offsets at which such a packet may be stored in a frame, a cache line apart. Frames are a page
/// apart, so with one offset all of these packets would compete for a few sets of the L1 cache.
const HOT_OFFSETS: u32 = 32;
const CACHE_LINE: u32 = 64;
/// Refills that a worker counts by itself before it adds them to the count of all workers.
const REFILLS_COUNTED: u32 = 1024;
/// Prefetch distance of the copy, in packets: received data is in another core's cache.
const AHEAD: usize = 16;

/// One worker's free frames, and its frame accounting.
///
/// `outstanding` counts the frames that this worker took from the pool, from a ring or from another
/// worker and has not passed on. After each round it must equal the number of frames that the
/// worker's flows and datagrams hold.
#[derive(Debug)]
pub struct FramePool {
    umem: Arc<Umem>,
    /// Free frames, without data.
    cache: Vec<Frame>,
    /// Hot frames: free frames that the kernel has recently transmitted from, so that they are in
    /// its TLB and cache.
    hot: Vec<Frame>,
    /// Empty `tail` vectors, kept for their capacity so that large packets allocate nothing.
    tails: Vec<ThinVec<Frame>>,
    outstanding: i64,
    /// Limit of `cache` before frames are returned, and of `hot`.
    cache_max: usize,
    hot_max: usize,
    /// Refills of fill rings since the UMEM's count was last increased.
    refills: u32,
}

impl FramePool {
    /// Free frames that one pool keeps, at most.
    pub const CACHED_MAX: usize = CACHE_FRAMES + EXCHANGE_FRAMES + HOT_FRAMES;

    fn new(umem: Arc<Umem>, cache_max: usize) -> Self {
        let hot_max = cache_max / 2;
        Self {
            umem,
            cache: Vec::with_capacity(cache_max + cache_max / 4),
            hot: Vec::with_capacity(hot_max),
            tails: Vec::with_capacity(CACHE_FRAMES),
            outstanding: 0,
            cache_max,
            hot_max,
            refills: 0,
        }
    }

    /// The UMEM that the frames belong to.
    #[must_use]
    pub fn umem(&self) -> &Arc<Umem> {
        &self.umem
    }

    /// Allocates a frame without data; `None` when all are in use.
    pub fn alloc(&mut self) -> Option<Frame> {
        let frame = self.take_for_ring()?;
        self.outstanding += 1;
        Some(frame)
    }

    /// Frees a frame.
    pub fn free(&mut self, mut frame: Frame) {
        frame.set_extent(FRAME_HEADROOM, 0);
        self.put_from_ring(frame);
        self.outstanding -= 1;
    }

    #[cold]
    fn take_from_shared(&mut self) {
        let exchange = self.cache_max / 4;
        self.cache.extend(std::iter::from_fn(|| self.umem.free.pop()).take(exchange));
    }

    #[cold]
    fn give_to_shared(&mut self) {
        self.umem.free_frames(self.cache.drain(self.cache_max..));
    }

    /// Frees all frames of a packet.
    pub fn free_packet(&mut self, packet: Packet) {
        let Packet { head, mut tail, .. } = packet;
        self.free(head);
        for frame in tail.drain(..) {
            self.free(frame);
        }
        self.recycle_tail(tail);
    }

    /// An empty vector for a packet's further frames, recycled if possible.
    #[must_use]
    pub fn tail(&mut self) -> ThinVec<Frame> {
        self.tails.pop().unwrap_or_default()
    }

    /// Keeps an empty vector for reuse.
    pub fn recycle_tail(&mut self, tail: ThinVec<Frame>) {
        debug_assert!(tail.is_empty());
        if tail.capacity() > 0 && self.tails.len() < self.tails.capacity() {
            self.tails.push(tail);
        }
    }

    /// Takes a free frame for a ring. Not accounted as outstanding; otherwise as [`Self::alloc`].
    #[inline]
    pub(crate) fn take_for_ring(&mut self) -> Option<Frame> {
        if self.cache.is_empty() {
            self.take_from_shared();
        }
        self.cache.pop().or_else(|| self.hot.pop())
    }

    /// Frees a frame without data that comes from a ring, and so was not outstanding.
    #[inline]
    pub(crate) fn put_from_ring(&mut self, frame: Frame) {
        debug_assert!(frame.is_empty(), "a frame that comes back from a ring has no data");
        if self.cache.len() == self.cache.capacity() {
            self.give_to_shared();
        }
        self.cache.push(frame);
    }

    /// The same for a frame that the kernel has transmitted from.
    #[inline]
    pub(crate) fn put_transmitted(&mut self, frame: Frame) {
        if self.hot.len() < self.hot_max {
            self.hot.push(frame);
        } else {
            self.put_from_ring(frame);
        }
    }

    /// Copies small received packets to hot frames, while there are any.
    ///
    /// A received frame is one of thousands, and the kernel reads it at another virtual address
    /// than we do: to transmit from it costs the kernel a TLB miss and a cache miss. A frame that
    /// it has recently read from costs neither, and the received frame is free again at once.
    pub(crate) fn copy_to_hot_frames(&mut self, packets: &mut [Packet]) {
        if self.hot.is_empty() {
            return;
        }
        packets.iter().take(AHEAD).for_each(|packet| self.umem.prefetch(&packet.head));
        for at in 0..packets.len() {
            if let Some(later) = packets.get(at + AHEAD) {
                self.umem.prefetch(&later.head);
            }
            if packets[at].is_single_frame() && packets[at].head.len() <= HOT_BYTES_MAX {
                self.copy_to_hot_frame(&mut packets[at].head);
            }
        }
    }

    fn copy_to_hot_frame(&mut self, frame: &mut Frame) {
        let Some(mut hot) = self.hot.pop() else { return };
        let offset = hot.index() % HOT_OFFSETS * CACHE_LINE;
        hot.set_extent(FRAME_HEADROOM + offset, frame.len());
        self.umem.data_mut(&mut hot).copy_from_slice(self.umem.data(frame));
        let mut received = std::mem::replace(frame, hot);
        received.set_extent(FRAME_HEADROOM, 0);
        self.put_from_ring(received);
    }

    /// Counts a refill of a fill ring. Returns the time in refills by all workers, in thousands and
    /// wrapping: it passes as fast as links are serviced.
    #[inline]
    pub(crate) fn refill_time(&mut self) -> u32 {
        self.refills += 1;
        if self.refills == REFILLS_COUNTED {
            self.refills = 0;
            self.umem.refills.fetch_add(1, Ordering::Relaxed);
        }
        self.umem.refills.load(Ordering::Relaxed)
    }

    /// Accounts for frames that came from a ring or from another worker.
    pub(crate) fn account_received(&mut self, frames: usize) {
        self.outstanding += frames as i64;
    }

    /// Accounts for frames that went to a ring or to another worker.
    pub(crate) fn account_sent(&mut self, frames: usize) {
        self.outstanding -= frames as i64;
    }

    /// Frames that the worker has taken and not passed on.
    #[must_use]
    pub fn outstanding(&self) -> i64 {
        self.outstanding
    }
}

impl Umem {
    /// A new pool of free frames for a lone worker.
    #[must_use]
    pub fn pool(self: &Arc<Self>) -> FramePool {
        FramePool::new(Arc::clone(self), CACHE_FRAMES)
    }

    /// A new pool of free frames for one of `workers` workers.
    #[must_use]
    pub fn pool_of(self: &Arc<Self>, workers: usize) -> FramePool {
        let share = self.frames() as usize / CACHE_SHARE / workers.max(1);
        FramePool::new(Arc::clone(self), share.clamp(CACHE_FRAMES_MIN, CACHE_FRAMES))
    }
}

impl Drop for FramePool {
    fn drop(&mut self) {
        self.umem.free_frames(self.cache.drain(..).chain(self.hot.drain(..)));
    }
}

#[cfg(test)]
mod tests {
    use podgate_tables::ids::LinkId;

    use super::*;

    #[test]
    fn a_frame_is_reclaimed_only_from_the_link_that_holds_it() {
        let umem = Umem::new(4).unwrap();
        let mut pool = umem.pool();
        let frame = pool.alloc().unwrap();
        let ownership = umem.ownership(LinkId(3));
        let address = ownership.to_kernel(frame);
        assert!(umem.ownership(LinkId(2)).reclaim(address).is_none(), "another link");
        assert!(ownership.reclaim(u64::MAX).is_none(), "outside of the area");
        let frame = ownership.reclaim(address).unwrap();
        assert!(ownership.reclaim(address).is_none(), "twice");
        pool.free(frame);
        assert_eq!(pool.outstanding(), 0);
    }

    #[test]
    fn pools_return_surplus_frames_to_the_shared_list() {
        let umem = Umem::new(3000).unwrap();
        let (mut a, mut b) = (umem.pool(), umem.pool());
        let frames: Vec<_> = std::iter::from_fn(|| a.alloc()).collect();
        assert_eq!(frames.len(), 3000);
        assert!(b.alloc().is_none());
        frames.into_iter().for_each(|frame| a.free(frame));
        assert!(b.alloc().map(|frame| b.free(frame)).is_some());
    }

    #[test]
    fn the_pools_of_many_workers_keep_few_frames() {
        for (frames, workers) in [(16_384, 1), (16_384, 2), (16_384, 64), (1024, 2)] {
            let umem = Umem::new(frames).unwrap();
            let mut pools: Vec<_> = (0..workers).map(|_| umem.pool_of(workers)).collect();
            // Each worker frees all frames once, half of them as transmitted ones.
            for pool in &mut pools {
                let all: Vec<_> = std::iter::from_fn(|| pool.alloc()).collect();
                assert!(all.len() * 2 > frames as usize);
                pool.account_sent(all.len());
                for (at, frame) in all.into_iter().enumerate() {
                    let put = [FramePool::put_from_ring, FramePool::put_transmitted][at % 2];
                    put(pool, frame);
                }
            }
            let kept = frames as usize - umem.shared_free_frames();
            assert!(kept * 4 <= frames as usize, "{kept} of {frames}, {workers}");
        }
    }

    #[test]
    fn small_packets_are_copied_to_hot_frames() {
        let umem = Umem::new(3).unwrap();
        let mut pool = umem.pool();
        let [mut small, mut large, other] = [(); 3].map(|()| pool.alloc().unwrap());
        small.set_len(HOT_BYTES_MAX);
        umem.data_mut(&mut small).fill(7);
        large.set_len(HOT_BYTES_MAX + 1);
        let [small_index, other_index] = [small.index(), other.index()];
        let untouched = [small_index, large.index()];
        let mut packets = [small, large].map(Packet::single);
        let frames = |packets: &[Packet; 2]| [0, 1].map(|at| packets[at].head.index());

        pool.copy_to_hot_frames(&mut packets);
        assert_eq!(frames(&packets), untouched, "no frame is hot yet");

        pool.account_sent(1);
        pool.put_transmitted(other);
        pool.copy_to_hot_frames(&mut packets);
        assert_eq!(frames(&packets), [other_index, untouched[1]]);
        assert_eq!(umem.data(&packets[0].head), [7; HOT_BYTES_MAX as usize]);
        let freed = pool.alloc().unwrap();
        assert_eq!((freed.index(), freed.len()), (small_index, 0), "the received frame is free");
        assert_eq!(pool.outstanding(), 3);
        packets.into_iter().for_each(|packet| pool.free_packet(packet));
        pool.free(freed);
        assert_eq!(pool.outstanding(), 0);
    }

    #[test]
    fn transmitted_frames_are_allocated_again() {
        let umem = Umem::new(HOT_FRAMES as u32 + 100).unwrap();
        let mut pool = umem.pool();
        let frames: Vec<_> = std::iter::from_fn(|| pool.alloc()).collect();
        pool.account_sent(frames.len());
        frames.into_iter().for_each(|frame| pool.put_transmitted(frame));
        let again: Vec<_> = std::iter::from_fn(|| pool.alloc()).collect();
        assert_eq!(again.len(), HOT_FRAMES + 100);
        pool.account_sent(again.len());
        again.into_iter().for_each(|frame| pool.put_transmitted(frame));
        drop(pool);
        assert_eq!(umem.shared_free_frames(), HOT_FRAMES + 100);
    }

    #[test]
    #[should_panic(expected = "frame of another UMEM")]
    fn a_frame_of_another_umem_panics() {
        let (one, two) = (Umem::new(1).unwrap(), Umem::new(1).unwrap());
        let frame = one.pool().alloc().unwrap();
        let _ = two.data(&frame);
    }

    #[test]
    #[should_panic(expected = "leave the frame")]
    fn an_extent_beyond_the_frame_panics() {
        let umem = Umem::new(1).unwrap();
        umem.pool().alloc().unwrap().set_extent(4000, 97);
    }
}
