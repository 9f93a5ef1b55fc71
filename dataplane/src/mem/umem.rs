//! The UMEM: packet memory that all links share with the kernel.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::slice;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use std::sync::{Arc, Mutex, PoisonError, Weak};

use crossbeam::queue::ArrayQueue;
use podgate_sync::{FrameOwner, RingId};
use podgate_tables::ids::LinkId;

use super::frame::{FRAME_HEADROOM, FRAME_SIZE, Frame, Packet};
use super::{Mapping, prefetch};

/// One in this many frames is left to packets in flight and to those that flows hold (L7 inspection
/// one in eight, fragments one in sixteen), however busy links are. With many workers, fragments
/// may hold more ([`Umem::raise_held_limit`]).
const RESERVE: u32 = 4;

/// Identifies a UMEM, so that a frame of one can't be used to access another.
static NEXT_ID: AtomicU32 = AtomicU32::new(1);

/// The link that registered a UMEM with the kernel: sockets of other links bind to its socket.
pub(crate) trait Registrant: Send + Sync {
    /// The socket that the UMEM was registered with; `None` for a link without sockets.
    fn socket(&self) -> Option<BorrowedFd<'_>>;
}

/// An area of frames, registered with the kernel by the sockets that use it.
///
/// # Ownership
/// A frame's bytes belong to the holder of its one [`Frame`] handle. Handing the frame to the
/// kernel (`FrameOwnership::to_kernel`) consumes the handle and records the link; reclaiming it
/// (`FrameOwnership::reclaim`) creates a new handle, and only if the record says that this link's
/// rings hold the frame. So a false ring entry can't create a second handle to a frame that is in
/// use (except for two threads that reclaim the same frame at the same moment, see there).
pub struct Umem {
    area: Mapping,
    frames: u32,
    id: u32,
    /// For each frame who owns it: userspace, by exactly one [`Frame`] handle, or a link's rings.
    holder: Box<[FrameOwner]>,
    /// Free frames that are in no worker's [`FramePool`](super::FramePool).
    pub(super) free: ArrayQueue<Frame>,
    /// The link that registered this memory, if one did.
    pub(crate) registrant: Mutex<Option<Weak<dyn Registrant>>>,
    /// Links that may hold frames.
    open: Mutex<HashSet<LinkId>>,
    /// Whether the kernel supports transmit metadata.
    tx_metadata: AtomicBool,
    /// Refills of fill rings by all workers, in thousands ([`super::FramePool::refill_time`]).
    pub(super) refills: AtomicU32,
    /// Frames that are free but not spare: left to packets in flight and to flows, and to links
    /// that will be opened.
    reserve: AtomicU32,
    reserved_for_links: AtomicU32,
}

impl fmt::Debug for Umem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { frames, id, .. } = self;
        write!(f, "Umem {id} of {frames} frames")
    }
}

impl Umem {
    /// Maps `frames` frames (at least one), all of them free.
    ///
    /// # Errors
    /// When mmap(2) fails.
    pub fn new(frames: u32) -> io::Result<Arc<Self>> {
        let frames = frames.max(1);
        let area = Mapping::anonymous(frames as usize * FRAME_SIZE as usize)?;
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let free = ArrayQueue::new(frames as usize);
        let holder = (0..frames).map(|_| FrameOwner::default()).collect();
        let (registrant, open) = Default::default();
        let tx_metadata = AtomicBool::new(false);
        let [refills, reserved_for_links] = [0, 0].map(AtomicU32::new);
        let reserve = AtomicU32::new(frames / RESERVE);
        let umem = Arc::new(Self {
            area,
            frames,
            id,
            holder,
            free,
            registrant,
            open,
            tx_metadata,
            refills,
            reserve,
            reserved_for_links,
        });
        umem.free_frames((0..frames).map(|index| Frame::new(id, index)));
        Ok(umem)
    }

    /// Number of frames.
    #[must_use]
    pub fn frames(&self) -> u32 {
        self.frames
    }

    /// The memory, for `XDP_UMEM_REG`.
    pub(crate) fn area(&self) -> &Mapping {
        &self.area
    }

    /// Address of a frame's data; [`Frame::capacity`] bytes from there are inside the area.
    #[inline]
    fn start(&self, frame: &Frame) -> *mut u8 {
        check(frame, self.id);
        // SAFETY: `check` ties the frame to this area, and `Frame` keeps its position inside.
        unsafe { self.area.base().as_ptr().add(frame.position()) }
    }

    /// The data of a frame.
    ///
    /// # Panics
    /// When the frame belongs to another UMEM.
    #[must_use]
    #[inline]
    pub fn data<'a>(&'a self, frame: &'a Frame) -> &'a [u8] {
        // SAFETY: initialised bytes of the area (`start`), which lives as long as `self`; the one
        // handle is borrowed, so nobody writes to them meanwhile.
        unsafe { slice::from_raw_parts(self.start(frame), frame.len() as usize) }
    }

    /// Prefetches the first cache line of a frame's data.
    #[inline]
    pub(crate) fn prefetch(&self, frame: &Frame) {
        prefetch(self.area.base().as_ptr().wrapping_add(frame.position()));
    }

    /// The data of a frame, to edit.
    ///
    /// # Panics
    /// When the frame belongs to another UMEM.
    #[must_use]
    #[inline]
    pub fn data_mut<'a>(&'a self, frame: &'a mut Frame) -> &'a mut [u8] {
        // SAFETY: as in `data`; the one handle is borrowed mutably, so nobody else reads or
        // writes these bytes meanwhile.
        unsafe { slice::from_raw_parts_mut(self.start(frame), frame.len() as usize) }
    }

    /// The data of a packet: of its first frame, and of each further one.
    #[inline]
    pub fn bytes<'a>(&'a self, packet: &'a Packet) -> (&'a [u8], impl Iterator<Item = &'a [u8]>) {
        (self.data(&packet.head), packet.tail.iter().map(|frame| self.data(frame)))
    }

    /// The same with the first frame's data to edit.
    #[inline]
    pub fn bytes_mut<'a>(
        &'a self,
        packet: &'a mut Packet,
    ) -> (&'a mut [u8], impl Iterator<Item = &'a [u8]>) {
        let Packet { head, tail, .. } = packet;
        (self.data_mut(head), tail.iter().map(|frame| self.data(frame)))
    }

    /// Whether the kernel accepts packets with a partial checksum ([`CsumPartial`]): it leaves the
    /// skb `CHECKSUM_PARTIAL`, and the receiving veth accepts that. Known once the first link is
    /// open; Linux 6.11 and later (`net/xdp/xdp_umem.c`, `XDP_UMEM_TX_METADATA_LEN`).
    ///
    /// [`CsumPartial`]: super::CsumPartial
    #[must_use]
    #[inline]
    pub fn has_tx_metadata(&self) -> bool {
        self.tx_metadata.load(Ordering::Relaxed)
    }

    pub(crate) fn set_tx_metadata(&self, supported: bool) {
        self.tx_metadata.store(supported, Ordering::Relaxed);
    }

    /// Transfers frames between us and `link`'s rings.
    #[inline]
    pub(crate) fn ownership(&self, link: LinkId) -> FrameOwnership<'_> {
        FrameOwnership { holder: &self.holder, umem: self.id, held: RingId::of_link(link.0) }
    }

    /// Allows `link` to hold frames until the claim is dropped. `None` if it has a claim already:
    /// two links of one number could not be distinguished.
    pub(crate) fn claim(self: &Arc<Self>, link: LinkId) -> Option<Claim> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.insert(link).then(|| Claim { umem: Arc::clone(self), link })
    }

    /// Frees every frame that `link`'s rings still hold.
    fn reclaim_all(&self, link: LinkId) {
        let size = u64::from(FRAME_SIZE);
        let held = (0..self.frames)
            .filter(|index| self.holder[*index as usize].is(RingId::of_link(link.0)));
        let ownership = self.ownership(link);
        self.free_frames(held.filter_map(|index| ownership.reclaim(u64::from(index) * size)));
    }

    /// Puts frames on the free list that all workers share.
    pub(crate) fn free_frames(&self, frames: impl Iterator<Item = Frame>) {
        for mut frame in frames {
            check(&frame, self.id);
            frame.set_extent(FRAME_HEADROOM, 0);
            let pushed = self.free.push(frame);
            debug_assert!(pushed.is_ok(), "the free list has room for every frame");
        }
    }

    /// Number of free frames that are in no worker's pool.
    #[must_use]
    pub fn shared_free_frames(&self) -> usize {
        self.free.len()
    }

    /// Leaves `frames` more free to links that will be opened.
    pub fn reserve(&self, frames: u32) {
        self.reserved_for_links.store(frames, Ordering::Relaxed);
    }

    /// Leaves `frames` more free to flows and fragments than one in four.
    pub(crate) fn raise_held_limit(&self, frames: u32) {
        let reserve = (self.frames / RESERVE).saturating_add(frames);
        self.reserve.store(reserve, Ordering::Relaxed);
    }

    /// Free frames that busy links may use beyond what each link needs: those in no worker's pool,
    /// except the ones that are left to packets in flight and to other links.
    #[must_use]
    pub fn spare_frames(&self) -> u32 {
        let free = u32::try_from(self.free.len()).unwrap_or(u32::MAX);
        let reserved = [&self.reserve, &self.reserved_for_links];
        reserved.iter().fold(free, |free, part| free.saturating_sub(part.load(Ordering::Relaxed)))
    }

    /// Number of frames in `link`'s rings.
    #[must_use]
    pub fn held_by(&self, link: LinkId) -> usize {
        self.holder.iter().filter(|holder| holder.is(RingId::of_link(link.0))).count()
    }
}

/// # Panics
/// When the frame does not belong to UMEM `umem`.
#[inline]
fn check(frame: &Frame, umem: u32) {
    #[cold]
    fn foreign(of: u32, umem: u32) -> ! {
        panic!("frame of another UMEM: {of}, this is {umem}");
    }
    if frame.umem() != umem {
        foreign(frame.umem(), umem);
    }
}

/// Transfers frames between us and one link's rings, and records who holds each of them. A small
/// copy of the fields it needs, for loops over a ring.
#[derive(Clone, Copy)]
pub(crate) struct FrameOwnership<'u> {
    holder: &'u [FrameOwner],
    umem: u32,
    held: RingId,
}

impl FrameOwnership<'_> {
    /// Transfers a frame to the link's rings. Returns its address for a descriptor.
    #[inline]
    pub(crate) fn to_kernel(self, frame: Frame) -> u64 {
        check(&frame, self.umem);
        let (index, position) = frame.into_parts();
        let holder = &self.holder[index as usize];
        // A plain store is enough: the one handle is consumed, so nobody else changes the holder.
        debug_assert!(holder.is_userspace(), "frame {index} was given");
        holder.give(self.held);
        position as u64
    }

    /// Reclaims the frame at `address` from the link's rings, with no data in it. `None` if the
    /// link doesn't hold it: the descriptor is false. [`FrameOwner::take`] says how far the kernel
    /// is trusted.
    #[inline]
    pub(crate) fn reclaim(self, address: u64) -> Option<Frame> {
        let index = usize::try_from(address / u64::from(FRAME_SIZE)).ok()?;
        let holder = self.holder.get(index)?;
        holder.take(self.held).then(|| Frame::new(self.umem, index as u32))
    }
}

/// A link's permission to hold frames. Dropping it frees the frames that the link's rings still
/// hold, so drop it only after all sockets of the link are closed.
pub(crate) struct Claim {
    umem: Arc<Umem>,
    link: LinkId,
}

impl Claim {
    pub(crate) fn umem(&self) -> &Arc<Umem> {
        &self.umem
    }

    pub(crate) fn link(&self) -> LinkId {
        self.link
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.umem.reclaim_all(self.link);
        self.umem.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.link);
    }
}
