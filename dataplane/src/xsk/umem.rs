//! The packet memory that all links share with the kernel.

use std::io;
use std::ptr::NonNull;
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crossbeam::queue::ArrayQueue;

use super::frame::{Frame, FramePool};
use crate::types::LinkId;

/// Bytes of one frame (a "chunk" of the UMEM). A page, the largest the kernel takes
/// (`net/xdp/xdp_umem.c`, `xdp_umem_reg`).
pub const FRAME_SIZE: u32 = 4096;

/// Bytes that the kernel leaves free before received data (`XDP_PACKET_HEADROOM`,
/// `include/uapi/linux/bpf.h`), and that we leave free before data of our own.
pub const FRAME_HEADROOM: u32 = 256;

/// Frames of one UMEM are told from those of another by this number, so that a handle can never
/// reach foreign memory.
static NEXT_ID: AtomicU32 = AtomicU32::new(1);

/// Marks a frame that userspace owns: exactly one [`Frame`] handle exists for it.
const OWNED_BY_US: u32 = 0;

/// Marks a frame that `link`'s rings hold.
const fn held_by(link: LinkId) -> u32 {
    link.0 as u32 + 1
}

/// An area of frames, registered with the kernel by the sockets that use it.
///
/// # Ownership
/// A frame's bytes belong to whoever holds its one [`Frame`] handle. Handing the frame to the
/// kernel ([`Umem::give`]) destroys the handle and notes the link it went to; taking it back
/// ([`Umem::take`]) makes a new handle, and only if the note says that this link's rings hold it.
/// So no sequence of ring entries, not even from a faulty kernel, makes two handles for one frame.
#[derive(Debug)]
pub struct Umem {
    area: NonNull<u8>,
    frames: u32,
    id: u32,
    /// For each frame [`OWNED_BY_US`] or [`held_by`] the link whose rings hold it.
    holder: Box<[AtomicU32]>,
    /// Free frames that no worker keeps for itself.
    pub(super) spare: ArrayQueue<Frame>,
}

// SAFETY: `area` points to memory that lives as long as the `Umem` and is only ever reached
// through a `Frame` handle, of which there is exactly one for each frame (see "Ownership").
unsafe impl Send for Umem {}
// SAFETY: as above; shared access to a `Umem` reaches bytes only with a `&Frame` or `&mut Frame`,
// which carries the aliasing rules over to the bytes.
unsafe impl Sync for Umem {}

impl Umem {
    /// Maps `frames` frames (rounded up to at least one), all of them spare.
    ///
    /// # Errors
    /// When the memory can't be mapped.
    pub fn new(frames: u32) -> io::Result<Arc<Self>> {
        let frames = frames.max(1);
        let len = frames as usize * FRAME_SIZE as usize;
        // SAFETY: an anonymous private mapping at an address of the kernel's choice aliases
        // nothing; the result is checked below.
        let area = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if area == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let area = NonNull::new(area.cast::<u8>())
            .ok_or_else(|| io::Error::other("mmap returned address zero"))?;
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let spare = ArrayQueue::new(frames as usize);
        let holder = (0..frames).map(|_| AtomicU32::new(OWNED_BY_US)).collect();
        let umem = Arc::new(Self { area, frames, id, holder, spare });
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

    /// Start of the area and its length in bytes, for `XDP_UMEM_REG`.
    pub(super) fn area(&self) -> (NonNull<u8>, usize) {
        (self.area, self.frames as usize * FRAME_SIZE as usize)
    }

    fn check(&self, frame: &Frame) {
        assert_eq!(frame.umem(), self.id, "frame of another UMEM");
    }

    /// The bytes of a frame.
    #[must_use]
    pub fn data<'a>(&'a self, frame: &'a Frame) -> &'a [u8] {
        self.check(frame);
        // SAFETY: `check` ties the frame to this area and `Frame` keeps index, offset and length
        // inside of it; the one handle is borrowed, so nobody writes to these bytes meanwhile.
        unsafe {
            slice::from_raw_parts(self.area.as_ptr().add(frame.position()), frame.len() as usize)
        }
    }

    /// The bytes of a frame, to edit.
    #[must_use]
    pub fn data_mut<'a>(&'a self, frame: &'a mut Frame) -> &'a mut [u8] {
        self.check(frame);
        // SAFETY: as in `data`; the one handle is borrowed mutably, so nobody else reads or
        // writes these bytes meanwhile.
        unsafe {
            slice::from_raw_parts_mut(
                self.area.as_ptr().add(frame.position()),
                frame.len() as usize,
            )
        }
    }

    /// Gives a frame to `link`'s rings. Returns its address for a descriptor.
    pub(super) fn give(&self, frame: Frame, link: LinkId) -> u64 {
        self.check(&frame);
        let (index, position) = (frame.index(), frame.position() as u64);
        frame.forget();
        let before = self.holder[index as usize].swap(held_by(link), Ordering::AcqRel);
        debug_assert_eq!(before, OWNED_BY_US, "frame {index} was already with the kernel");
        position
    }

    /// Takes back the frame at `address` from `link`'s rings, with no data in it. `None` if the
    /// link doesn't hold it: the descriptor is false.
    pub(super) fn take(&self, address: u64, link: LinkId) -> Option<Frame> {
        let index = u32::try_from(address / u64::from(FRAME_SIZE)).ok()?;
        let holder = self.holder.get(index as usize)?;
        holder
            .compare_exchange(held_by(link), OWNED_BY_US, Ordering::AcqRel, Ordering::Relaxed)
            .ok()?;
        Some(Frame::new(self.id, index))
    }

    /// Makes every frame spare that `link`'s rings still hold.
    ///
    /// Call it only when all sockets of the link are closed: the kernel must be done with them.
    pub(super) fn take_all(&self, link: LinkId) {
        let size = u64::from(FRAME_SIZE);
        let held = (0..self.frames)
            .filter(|index| self.holder[*index as usize].load(Ordering::Relaxed) == held_by(link));
        self.spare_again(held.filter_map(|index| self.take(u64::from(index) * size, link)));
    }

    /// Puts frames in the stock that all workers share.
    pub(super) fn spare_again(&self, frames: impl Iterator<Item = Frame>) {
        for frame in frames {
            self.check(&frame);
            let pushed = self.spare.push(frame);
            debug_assert!(pushed.is_ok(), "the shared stock holds every frame there is");
        }
    }

    /// Number of frames in `link`'s rings.
    #[must_use]
    pub fn held_by(&self, link: LinkId) -> usize {
        self.holder.iter().filter(|h| h.load(Ordering::Relaxed) == held_by(link)).count()
    }
}

impl Drop for Umem {
    fn drop(&mut self) {
        let (area, len) = self.area();
        // SAFETY: the mapping of `new`, unmapped once; handles that outlive it are inert, since
        // their bytes are only reached through this `Umem`.
        unsafe { libc::munmap(area.as_ptr().cast(), len) };
    }
}
