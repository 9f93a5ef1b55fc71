//! The packet memory that all links share with the kernel.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::slice;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crossbeam::queue::ArrayQueue;
use podgate_sync::{FrameOwner, RingId};
use podgate_tables::ids::LinkId;

use super::frame::{Frame, FramePool};
use super::link::Link;
use super::sys::{Mapping, TX_METADATA_LEN, XDP_TXMD_FLAGS_CHECKSUM, prefetch};

/// Bytes of one frame (a "chunk" of the UMEM). A page, the largest the kernel takes
/// (`net/xdp/xdp_umem.c`, `xdp_umem_reg`).
pub const FRAME_SIZE: u32 = 4096;

/// Bytes that the kernel leaves free before received data (`XDP_PACKET_HEADROOM`,
/// `include/uapi/linux/bpf.h`), and that we leave free before data of our own.
/// What we tell the kernel about a packet to send lies there, too.
pub const FRAME_HEADROOM: u32 = 256;
const _: () = assert!(FRAME_HEADROOM >= TX_METADATA_LEN);

/// Frames of one UMEM are told from those of another by this number, so that a handle can never
/// reach foreign memory.
static NEXT_ID: AtomicU32 = AtomicU32::new(1);

/// An area of frames, registered with the kernel by the sockets that use it.
///
/// # Ownership
/// A frame's bytes belong to whoever holds its one [`Frame`] handle. Handing the frame to the
/// kernel ([`Desk::give`]) destroys the handle and notes the link it went to; taking it back
/// ([`Desk::take`]) makes a new handle, and only if the note says that this link's rings hold it.
/// So no false ring entry makes a second handle for a frame that somebody holds (but for two
/// threads that take the same one at the same moment, see there).
pub struct Umem {
    area: Mapping,
    frames: u32,
    id: u32,
    /// For each frame who owns it: userspace, by exactly one [`Frame`] handle, or a link's rings.
    holder: Box<[FrameOwner]>,
    /// Free frames that no worker keeps for itself.
    pub(super) spare: ArrayQueue<Frame>,
    /// The link through whose socket other links share this memory's registration.
    pub(super) owner: Mutex<Weak<Link>>,
    /// Links that may hold frames.
    open: Mutex<HashSet<LinkId>>,
    /// Whether the kernel knows of metadata before packets.
    metadata: AtomicBool,
}

impl fmt::Debug for Umem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { frames, id, .. } = self;
        write!(f, "Umem {id} of {frames} frames")
    }
}

impl Umem {
    /// Maps `frames` frames (rounded up to at least one), all of them spare.
    ///
    /// # Errors
    /// When the memory can't be mapped.
    pub fn new(frames: u32) -> io::Result<Arc<Self>> {
        let frames = frames.max(1);
        let area = Mapping::anonymous(frames as usize * FRAME_SIZE as usize)?;
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let spare = ArrayQueue::new(frames as usize);
        let holder = (0..frames).map(|_| FrameOwner::default()).collect();
        let (owner, open) = Default::default();
        let metadata = AtomicBool::new(false);
        let umem = Arc::new(Self { area, frames, id, holder, spare, owner, open, metadata });
        umem.spare_again((0..frames).map(|index| Frame::new(id, index)));
        Ok(umem)
    }

    /// A worker's own cache of free frames.
    #[must_use]
    pub fn pool(self: &Arc<Self>) -> FramePool {
        FramePool::new(Arc::clone(self))
    }

    /// Number of frames.
    #[must_use]
    pub fn frames(&self) -> u32 {
        self.frames
    }

    /// The memory, for `XDP_UMEM_REG`.
    pub(super) fn area(&self) -> &Mapping {
        &self.area
    }

    /// First byte of a frame's data; [`Frame::capacity`] bytes from there are in the area.
    #[inline]
    fn start(&self, frame: &Frame) -> *mut u8 {
        check(frame, self.id);
        // SAFETY: `check` ties the frame to this area, and `Frame` keeps its position inside.
        unsafe { self.area.base().as_ptr().add(frame.position()) }
    }

    /// The bytes of a frame.
    #[must_use]
    #[inline]
    pub fn data<'a>(&'a self, frame: &'a Frame) -> &'a [u8] {
        // SAFETY: initialised bytes of the area (`start`), which lives as long as `self`; the one
        // handle is borrowed, so nobody writes to them meanwhile.
        unsafe { slice::from_raw_parts(self.start(frame), frame.len() as usize) }
    }

    /// Asks for a frame's first bytes, and doesn't wait for them ([`prefetch`]).
    #[inline]
    pub(crate) fn prefetch(&self, frame: &Frame) {
        prefetch(self.area.base().as_ptr().wrapping_add(frame.position()));
    }

    /// The bytes of a frame, to edit.
    #[must_use]
    #[inline]
    pub fn data_mut<'a>(&'a self, frame: &'a mut Frame) -> &'a mut [u8] {
        // SAFETY: as in `data`; the one handle is borrowed mutably, so nobody else reads or
        // writes these bytes meanwhile.
        unsafe { slice::from_raw_parts_mut(self.start(frame), frame.len() as usize) }
    }

    /// Whether the kernel completes checksums that a packet's sender left to its device: it passes
    /// the debt on, and a pod forgives it, as between the ends of any veth pair. Known from the
    /// first link on; Linux can since 6.11 (`net/xdp/xdp_umem.c`, `XDP_UMEM_TX_METADATA_LEN`).
    #[must_use]
    #[inline]
    pub fn finishes_checksums(&self) -> bool {
        self.metadata.load(Ordering::Relaxed)
    }

    pub(super) fn set_finishes_checksums(&self, finishes: bool) {
        self.metadata.store(finishes, Ordering::Relaxed);
    }

    /// Writes into the headroom of a packet's first frame that its checksum is to be completed:
    /// the sum begins at `start`, and the field lies `offset` bytes behind that.
    #[inline(never)]
    pub(super) fn ask_for_checksum(&self, frame: &mut Frame, (start, offset): (u16, u16)) {
        const LEN: u32 = TX_METADATA_LEN;
        let [start, offset] = [start, offset].map(u16::to_ne_bytes);
        let flags = XDP_TXMD_FLAGS_CHECKSUM.to_ne_bytes();
        let mut metadata = [0; LEN as usize];
        let fields = flags.into_iter().chain(start).chain(offset);
        metadata.iter_mut().zip(fields).for_each(|(to, from)| *to = from);
        frame.with_extent_before(LEN, |before| self.data_mut(before).copy_from_slice(&metadata));
    }

    /// Where frames change hands between us and `link`'s rings.
    #[inline]
    pub(super) fn desk(&self, link: LinkId) -> Desk<'_> {
        Desk { holder: &self.holder, umem: self.id, held: RingId::of_link(link.0) }
    }

    /// Lets `link` hold frames until the claim is dropped. `None` if it may already: then two
    /// links have one number, and the notes couldn't tell their frames apart.
    pub(super) fn claim(self: &Arc<Self>, link: LinkId) -> Option<Claim> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.insert(link).then(|| Claim { umem: Arc::clone(self), link })
    }

    /// Makes every frame spare that `link`'s rings still hold.
    fn take_all(&self, link: LinkId) {
        let size = u64::from(FRAME_SIZE);
        let held = (0..self.frames)
            .filter(|index| self.holder[*index as usize].is(RingId::of_link(link.0)));
        let desk = self.desk(link);
        self.spare_again(held.filter_map(|index| desk.take(u64::from(index) * size)));
    }

    /// Puts frames in the stock that all workers share, with no data in them.
    pub(super) fn spare_again(&self, frames: impl Iterator<Item = Frame>) {
        for mut frame in frames {
            check(&frame, self.id);
            frame.set_extent(FRAME_HEADROOM, 0);
            let pushed = self.spare.push(frame);
            debug_assert!(pushed.is_ok(), "the shared stock holds every frame there is");
        }
    }

    /// Number of free frames that no worker keeps for itself.
    #[must_use]
    pub fn spare_frames(&self) -> usize {
        self.spare.len()
    }

    /// Number of frames in `link`'s rings.
    #[must_use]
    pub fn held_by(&self, link: LinkId) -> usize {
        self.holder.iter().filter(|holder| holder.is(RingId::of_link(link.0))).count()
    }
}

/// # Panics
/// When the frame is not one of memory `umem`.
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

/// Where frames change hands between us and one link's rings: the notes of who holds each of them.
/// A copy of what that takes, so that a loop over a ring has it at hand.
#[derive(Clone, Copy)]
pub(super) struct Desk<'u> {
    holder: &'u [FrameOwner],
    umem: u32,
    held: RingId,
}

impl Desk<'_> {
    /// Gives a frame to the link's rings. Returns its address for a descriptor.
    #[inline]
    pub(super) fn give(self, frame: Frame) -> u64 {
        check(&frame, self.umem);
        let (index, position) = frame.end();
        let holder = &self.holder[index as usize];
        // A plain store: with the one handle gone, nobody else may change the note.
        debug_assert!(holder.is_userspace(), "frame {index} was given");
        holder.give(self.held);
        position as u64
    }

    /// Takes back the frame at `address` from the link's rings, with no data in it. `None` if the
    /// link doesn't hold it: the descriptor is false. How far the kernel is trusted here is said at
    /// [`FrameOwner::take`].
    #[inline]
    pub(super) fn take(self, address: u64) -> Option<Frame> {
        let index = usize::try_from(address / u64::from(FRAME_SIZE)).ok()?;
        let holder = self.holder.get(index)?;
        holder.take(self.held).then(|| Frame::new(self.umem, index as u32))
    }
}

/// A link's claim to frames. Its end makes those spare that the link's rings still held: drop it
/// only when the kernel is done with them, that is when all sockets of the link are closed.
pub(super) struct Claim {
    umem: Arc<Umem>,
    link: LinkId,
}

impl Claim {
    pub(super) fn umem(&self) -> &Arc<Umem> {
        &self.umem
    }

    pub(super) fn link(&self) -> LinkId {
        self.link
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.umem.take_all(self.link);
        self.umem.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.link);
    }
}
