//! Owned frames, packets made of them, and each worker's stock of free ones.

use std::fmt;
use std::sync::Arc;

use thin_vec::ThinVec;

use super::umem::{FRAME_HEADROOM, FRAME_SIZE, Umem};

/// The only handle to one frame of a [`Umem`], with the extent of the data in it.
///
/// It is neither `Clone` nor `Copy` and has to end in exactly one of: a transmit or fill ring, a
/// [`FramePool`], or a packet that somebody holds. The pool counts, so a lost frame is found.
///
/// Two numbers and no more: a processor that reads at once what was just written in parts waits for
/// the writes, and handles are moved a lot.
#[must_use = "a frame that is dropped is lost to the pool"]
pub struct Frame {
    /// Number of the memory, and in it, in the low half.
    identity: u64,
    /// Where the data begins, bytes into the frame, and its length in the high half.
    extent: u32,
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (offset, len) = (self.offset(), self.len());
        write!(f, "Frame {} of UMEM {}, {len} bytes at {offset}", self.index(), self.umem())
    }
}

impl Frame {
    /// A handle to frame `index` with no data in it.
    ///
    /// Only [`Umem`] calls this, and only when no other handle exists.
    pub(super) const fn new(umem: u32, index: u32) -> Self {
        Self { identity: (umem as u64) << 32 | index as u64, extent: FRAME_HEADROOM }
    }

    #[inline]
    pub(super) const fn umem(&self) -> u32 {
        (self.identity >> 32) as u32
    }

    #[inline]
    const fn index(&self) -> u32 {
        self.identity as u32
    }

    #[inline]
    const fn offset(&self) -> u32 {
        self.extent & 0xffff
    }

    /// Where the data begins, bytes from the start of the area.
    pub(super) const fn position(&self) -> usize {
        self.index() as usize * FRAME_SIZE as usize + self.offset() as usize
    }

    /// Ends the handle, whose frame the caller notes elsewhere: its index and position.
    pub(super) const fn end(self) -> (u32, usize) {
        (self.index(), self.position())
    }

    /// Bytes of data.
    #[must_use]
    pub const fn len(&self) -> u32 {
        self.extent >> 16
    }

    /// Whether there is no data.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of data that the frame could hold, from where its data begins.
    #[must_use]
    pub const fn capacity(&self) -> u32 {
        FRAME_SIZE - self.offset()
    }

    /// Sets the extent of the data: `len` bytes from `offset` bytes into the frame.
    ///
    /// # Panics
    /// When that is outside of the frame.
    pub fn set_extent(&mut self, offset: u32, len: u32) {
        assert!(self.try_set_extent(offset, len), "{len} bytes at {offset} leave the frame");
    }

    /// The same; false, and nothing has changed, when that is outside of the frame.
    #[inline]
    pub(super) fn try_set_extent(&mut self, offset: u32, len: u32) -> bool {
        let fits = offset.checked_add(len).is_some_and(|end| end <= FRAME_SIZE);
        if fits {
            self.extent = len << 16 | offset;
        }
        fits
    }

    /// Shows `work` the `len` bytes before the data in place of it.
    ///
    /// # Panics
    /// When there are fewer in the frame.
    pub(super) fn with_extent_before(&mut self, len: u32, work: impl FnOnce(&mut Self)) {
        let (offset, data) = (self.offset(), self.len());
        assert!(len <= offset, "{len} bytes before {offset} leave the frame");
        self.set_extent(offset - len, len);
        work(self);
        self.set_extent(offset, data);
    }

    /// Shortens or lengthens the data at its end.
    ///
    /// # Panics
    /// When `len` is more than [`Self::capacity`].
    pub fn set_len(&mut self, len: u32) {
        self.set_extent(self.offset(), len);
    }
}

/// One packet: a frame with all headers, and the frames its payload goes on in.
#[derive(Debug)]
#[must_use = "a packet that is dropped is lost to the pool"]
pub struct Packet {
    /// First frame: Ethernet, IP and L4 headers, and as much payload as fits.
    pub head: Frame,
    /// Further frames in order; empty (and unallocated) for all but large packets. A vector of one
    /// word, since packets are moved a lot.
    pub tail: ThinVec<Frame>,
    /// Bytes of the largest IP fragment that it came in; zero if it came whole.
    pub largest_fragment: u16,
    /// The checksum that the kernel is to complete, see [`Umem::finishes_checksums`].
    pub unfinished: Unfinished,
}

const _: () = assert!(size_of::<Packet>() == 32);

/// Where a checksum lies that holds no more than the pseudo-header's sum; or nowhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Unfinished {
    /// Zero for nowhere.
    start: u16,
    offset: u16,
}

impl Unfinished {
    /// The checksum is whole, or there is none.
    pub const NONE: Self = Self { start: 0, offset: 0 };

    /// The checksum covers all from `start` on, the offset of the L4 header in the first frame, and
    /// its field lies `offset` bytes behind that.
    #[must_use]
    #[inline]
    pub const fn new(start: u16, offset: u16) -> Self {
        Self { start, offset }
    }

    /// Where the sum begins, and the field from there, bytes.
    #[inline]
    pub(super) const fn place(self) -> Option<(u16, u16)> {
        if self.start == 0 { None } else { Some((self.start, self.offset)) }
    }
}

impl Packet {
    /// A packet of one frame.
    pub const fn single(head: Frame) -> Self {
        Self::new(head, ThinVec::new())
    }

    /// A packet that came whole.
    pub const fn new(head: Frame, tail: ThinVec<Frame>) -> Self {
        Self { head, tail, largest_fragment: 0, unfinished: Unfinished::NONE }
    }

    /// Bytes over all frames.
    #[must_use]
    #[inline]
    pub fn len(&self) -> u32 {
        if self.tail.is_empty() { self.head.len() } else { self.len_of_all() }
    }

    #[cold]
    fn len_of_all(&self) -> u32 {
        self.head.len() + self.tail.iter().map(Frame::len).sum::<u32>()
    }

    /// Whether there are no bytes at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether it has one frame and came whole.
    #[must_use]
    #[inline]
    pub fn is_usual(&self) -> bool {
        self.tail.is_empty() && self.largest_fragment == 0
    }

    /// Number of frames.
    #[must_use]
    pub fn frames(&self) -> usize {
        1 + self.tail.len()
    }
}

/// Free frames that a worker keeps for itself before it turns to the shared ones.
const CACHE_FRAMES: usize = 1024;
/// Frames moved between a worker's cache and the shared stock at once.
const EXCHANGE_FRAMES: usize = 256;

/// Frames that came back from transmit rings and are kept to be sent from again: as many as are
/// under way in a round of a worker, and then some.
const SENT_FRAMES: usize = 512;
/// Bytes of a packet that is cheaper to copy than to be read by the kernel where it is: headers,
/// and little more.
const NEAR_BYTES_MAX: u32 = 128;
/// Places for such a packet in a frame, and the bytes from one to the next. Frames lie a page
/// apart, so with one place in each all these packets would share a few places of the first cache.
const NEAR_PLACES: u32 = 32;
const CACHE_LINE: u32 = 64;
/// How many packets ahead of a copy its bytes are fetched: they lie in another core's cache.
const AHEAD: usize = 16;

/// One worker's stock of free frames, and its ledger.
///
/// `outstanding` counts the frames that this worker took from the stock, from a ring or from
/// another worker and has not passed on. After each round it must equal what the worker knows it
/// holds.
#[derive(Debug)]
pub struct FramePool {
    umem: Arc<Umem>,
    /// Without data, as all spare frames.
    cache: Vec<Frame>,
    /// The same, of some that the kernel has read to send them: they are near to it.
    sent: Vec<Frame>,
    /// Emptied `tail` vectors, kept for their capacity so that large packets allocate nothing.
    tails: Vec<ThinVec<Frame>>,
    outstanding: i64,
}

impl FramePool {
    /// Free frames that one worker keeps at hand, at most.
    pub const AT_HAND_MAX: usize = CACHE_FRAMES + EXCHANGE_FRAMES + SENT_FRAMES;

    pub(super) fn new(umem: Arc<Umem>) -> Self {
        Self {
            umem,
            cache: Vec::with_capacity(CACHE_FRAMES + EXCHANGE_FRAMES),
            sent: Vec::with_capacity(SENT_FRAMES),
            tails: Vec::with_capacity(CACHE_FRAMES),
            outstanding: 0,
        }
    }

    /// The memory behind the frames.
    #[must_use]
    pub fn umem(&self) -> &Arc<Umem> {
        &self.umem
    }

    /// A free frame with no data, or `None` when all are in use.
    pub fn alloc(&mut self) -> Option<Frame> {
        let frame = self.take_for_ring()?;
        self.outstanding += 1;
        Some(frame)
    }

    /// Takes a frame back.
    pub fn free(&mut self, mut frame: Frame) {
        frame.set_extent(FRAME_HEADROOM, 0);
        self.put_from_ring(frame);
        self.outstanding -= 1;
    }

    #[cold]
    fn take_from_shared(&mut self) {
        self.cache.extend(std::iter::from_fn(|| self.umem.spare.pop()).take(EXCHANGE_FRAMES));
    }

    #[cold]
    fn give_to_shared(&mut self) {
        self.umem.spare_again(self.cache.drain(CACHE_FRAMES..));
    }

    /// Takes all frames of a packet back.
    pub fn free_packet(&mut self, packet: Packet) {
        let Packet { head, mut tail, .. } = packet;
        self.free(head);
        for frame in tail.drain(..) {
            self.free(frame);
        }
        self.keep_tail(tail);
    }

    /// An empty vector for a packet's further frames, with capacity if one is at hand.
    #[must_use]
    pub fn tail(&mut self) -> ThinVec<Frame> {
        self.tails.pop().unwrap_or_default()
    }

    /// Keeps an emptied vector for later.
    pub fn keep_tail(&mut self, tail: ThinVec<Frame>) {
        debug_assert!(tail.is_empty());
        if tail.capacity() > 0 && self.tails.len() < self.tails.capacity() {
            self.tails.push(tail);
        }
    }

    /// A free frame for a ring, without an entry in the ledger; as [`Self::alloc`].
    #[inline]
    pub(super) fn take_for_ring(&mut self) -> Option<Frame> {
        if self.cache.is_empty() {
            self.take_from_shared();
        }
        self.cache.pop().or_else(|| self.sent.pop())
    }

    /// Takes back a frame with no data in it, without an entry in the ledger: one that comes from a
    /// ring never was in it.
    #[inline]
    pub(super) fn put_from_ring(&mut self, frame: Frame) {
        debug_assert!(frame.is_empty(), "a frame that comes back from a ring has no data in it");
        if self.cache.len() == self.cache.capacity() {
            self.give_to_shared();
        }
        self.cache.push(frame);
    }

    /// The same for a frame that comes from a transmit ring.
    #[inline]
    pub(super) fn put_sent(&mut self, frame: Frame) {
        if self.sent.len() < SENT_FRAMES {
            self.sent.push(frame);
        } else {
            self.put_from_ring(frame);
        }
    }

    /// Moves small packets that were received to frames that the kernel has sent from before, as
    /// long as there are such.
    ///
    /// A received frame is one of thousands, so a kernel that is to send from it, and reads it at
    /// another address than we do, waits for the page table and the cache. A frame that it has just
    /// read is in both, and the one it came in can be received into again at once.
    pub(super) fn bring_near(&mut self, packets: &mut [Packet]) {
        if self.sent.is_empty() {
            return;
        }
        packets.iter().take(AHEAD).for_each(|packet| self.umem.prefetch(&packet.head));
        for at in 0..packets.len() {
            if let Some(later) = packets.get(at + AHEAD) {
                self.umem.prefetch(&later.head);
            }
            if packets[at].is_usual() && packets[at].head.len() <= NEAR_BYTES_MAX {
                self.move_to_sent(&mut packets[at].head);
            }
        }
    }

    fn move_to_sent(&mut self, frame: &mut Frame) {
        let Some(mut near) = self.sent.pop() else { return };
        let place = near.index() % NEAR_PLACES * CACHE_LINE;
        near.set_extent(FRAME_HEADROOM + place, frame.len());
        self.umem.data_mut(&mut near).copy_from_slice(self.umem.data(frame));
        let mut left = std::mem::replace(frame, near);
        left.set_extent(FRAME_HEADROOM, 0);
        self.put_from_ring(left);
    }

    /// Notes frames that came from a ring or from another worker.
    pub(crate) fn note_received(&mut self, frames: usize) {
        self.outstanding += frames as i64;
    }

    /// Notes frames that went to a ring or to another worker.
    pub(crate) fn note_sent(&mut self, frames: usize) {
        self.outstanding -= frames as i64;
    }

    /// Frames that the worker holds outside of the pool.
    #[must_use]
    pub fn outstanding(&self) -> i64 {
        self.outstanding
    }
}

impl Drop for FramePool {
    fn drop(&mut self) {
        self.umem.spare_again(self.cache.drain(..).chain(self.sent.drain(..)));
    }
}

#[cfg(test)]
mod tests {
    use podgate_tables::ids::LinkId;

    use super::*;

    #[test]
    fn a_frame_comes_back_only_from_the_link_it_went_to() {
        let umem = Umem::new(4).unwrap();
        let mut pool = umem.pool();
        let frame = pool.alloc().unwrap();
        let desk = umem.desk(LinkId(3));
        let address = desk.give(frame);
        assert!(umem.desk(LinkId(2)).take(address).is_none(), "another link");
        assert!(desk.take(u64::MAX).is_none(), "outside of the area");
        let frame = desk.take(address).unwrap();
        assert!(desk.take(address).is_none(), "twice");
        pool.free(frame);
        assert_eq!(pool.outstanding(), 0);
    }

    #[test]
    fn pools_share_what_they_do_not_need() {
        let umem = Umem::new(3000).unwrap();
        let (mut a, mut b) = (umem.pool(), umem.pool());
        let frames: Vec<_> = std::iter::from_fn(|| a.alloc()).collect();
        assert_eq!(frames.len(), 3000);
        assert!(b.alloc().is_none());
        frames.into_iter().for_each(|frame| a.free(frame));
        assert!(b.alloc().map(|frame| b.free(frame)).is_some());
    }

    #[test]
    fn a_small_packet_is_sent_from_a_frame_that_was_sent_before() {
        let umem = Umem::new(3).unwrap();
        let mut pool = umem.pool();
        let [mut small, mut large, other] = [(); 3].map(|()| pool.alloc().unwrap());
        small.set_len(NEAR_BYTES_MAX);
        umem.data_mut(&mut small).fill(7);
        large.set_len(NEAR_BYTES_MAX + 1);
        let [small_index, other_index] = [small.index(), other.index()];
        let untouched = [small_index, large.index()];
        let mut packets = [small, large].map(Packet::single);
        let frames = |packets: &[Packet; 2]| [0, 1].map(|at| packets[at].head.index());

        pool.bring_near(&mut packets);
        assert_eq!(frames(&packets), untouched, "no frame was sent before");

        pool.note_sent(1);
        pool.put_sent(other);
        pool.bring_near(&mut packets);
        assert_eq!(frames(&packets), [other_index, untouched[1]]);
        assert_eq!(umem.data(&packets[0].head), [7; NEAR_BYTES_MAX as usize]);
        let freed = pool.alloc().unwrap();
        assert_eq!((freed.index(), freed.len()), (small_index, 0), "the frame it came in is free");
        assert_eq!(pool.outstanding(), 3);
        packets.into_iter().for_each(|packet| pool.free_packet(packet));
        pool.free(freed);
        assert_eq!(pool.outstanding(), 0);
    }

    #[test]
    fn frames_that_were_sent_are_free_like_others() {
        let umem = Umem::new(SENT_FRAMES as u32 + 100).unwrap();
        let mut pool = umem.pool();
        let frames: Vec<_> = std::iter::from_fn(|| pool.alloc()).collect();
        pool.note_sent(frames.len());
        frames.into_iter().for_each(|frame| pool.put_sent(frame));
        let again: Vec<_> = std::iter::from_fn(|| pool.alloc()).collect();
        assert_eq!(again.len(), SENT_FRAMES + 100);
        pool.note_sent(again.len());
        again.into_iter().for_each(|frame| pool.put_sent(frame));
        drop(pool);
        assert_eq!(umem.spare_frames(), SENT_FRAMES + 100);
    }

    #[test]
    #[should_panic(expected = "frame of another UMEM")]
    fn a_frame_reaches_only_its_own_memory() {
        let (one, two) = (Umem::new(1).unwrap(), Umem::new(1).unwrap());
        let frame = one.pool().alloc().unwrap();
        let _ = two.data(&frame);
    }

    #[test]
    #[should_panic(expected = "leave the frame")]
    fn an_extent_stays_inside_the_frame() {
        let umem = Umem::new(1).unwrap();
        umem.pool().alloc().unwrap().set_extent(4000, 97);
    }
}
