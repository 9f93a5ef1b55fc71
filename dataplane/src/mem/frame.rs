//! Frames, and packets made of frames.

use std::fmt;

use thin_vec::ThinVec;

/// Bytes of one frame (a "chunk" of the UMEM): a page, the largest size that the kernel accepts
/// (`net/xdp/xdp_umem.c`, `xdp_umem_reg`).
pub const FRAME_SIZE: u32 = 4096;

/// Bytes that the kernel leaves free before received data (`XDP_PACKET_HEADROOM`,
/// `include/uapi/linux/bpf.h`), and that we leave free before data of our own. Transmit metadata is
/// written there.
pub const FRAME_HEADROOM: u32 = 256;

/// The only handle to one frame of a [`Umem`](super::Umem), with the extent of the data in it.
///
/// It is neither `Clone` nor `Copy` and must end in exactly one of: a transmit or fill ring, a
/// [`FramePool`](super::FramePool), or a [`Packet`]. Pools count frames, so a leak is detected.
///
/// Two fields only: handles are moved often, and a load that spans several recent smaller stores
/// stalls (no store forwarding).
#[must_use = "a dropped frame is leaked"]
pub struct Frame {
    /// Id of the UMEM in the high half, index of the frame in the low half.
    identity: u64,
    /// Length of the data in the high half, its offset in the frame in the low half, bytes.
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
    /// Only [`Umem`](super::Umem) calls this, and only while no other handle exists.
    pub(super) const fn new(umem: u32, index: u32) -> Self {
        Self { identity: (umem as u64) << 32 | index as u64, extent: FRAME_HEADROOM }
    }

    #[inline]
    pub(super) const fn umem(&self) -> u32 {
        (self.identity >> 32) as u32
    }

    /// Number of the frame in its UMEM.
    #[inline]
    pub(crate) const fn index(&self) -> u32 {
        self.identity as u32
    }

    /// Offset of the data in the frame, bytes.
    #[inline]
    pub(crate) const fn offset(&self) -> u32 {
        self.extent & 0xffff
    }

    /// Offset of the data in the UMEM, bytes.
    pub(crate) const fn position(&self) -> usize {
        self.index() as usize * FRAME_SIZE as usize + self.offset() as usize
    }

    /// Consumes the handle: the frame's index and the offset of its data in the UMEM.
    pub(super) const fn into_parts(self) -> (u32, usize) {
        (self.index(), self.position())
    }

    /// Length of the data, bytes.
    #[must_use]
    pub const fn len(&self) -> u32 {
        self.extent >> 16
    }

    /// Whether there is no data.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes from the start of the data to the end of the frame.
    #[must_use]
    pub const fn capacity(&self) -> u32 {
        FRAME_SIZE - self.offset()
    }

    /// Sets offset and length of the data, bytes.
    ///
    /// # Panics
    /// When that exceeds the frame.
    pub fn set_extent(&mut self, offset: u32, len: u32) {
        assert!(self.try_set_extent(offset, len), "{len} bytes at {offset} leave the frame");
    }

    /// The same. Returns false and changes nothing when that exceeds the frame.
    #[inline]
    pub(crate) fn try_set_extent(&mut self, offset: u32, len: u32) -> bool {
        let fits = offset.checked_add(len).is_some_and(|end| end <= FRAME_SIZE);
        if fits {
            self.extent = len << 16 | offset;
        }
        fits
    }

    /// Calls `work` with the extent set to the `len` bytes before the data.
    ///
    /// # Panics
    /// When the headroom is shorter.
    pub(crate) fn with_extent_before(&mut self, len: u32, work: impl FnOnce(&mut Self)) {
        let (offset, data) = (self.offset(), self.len());
        assert!(len <= offset, "{len} bytes before {offset} leave the frame");
        self.set_extent(offset - len, len);
        work(self);
        self.set_extent(offset, data);
    }

    /// Sets the length of the data, bytes.
    ///
    /// # Panics
    /// When `len` is more than [`Self::capacity`].
    pub fn set_len(&mut self, len: u32) {
        self.set_extent(self.offset(), len);
    }
}

/// One packet: a frame with all headers, and further frames of payload.
#[derive(Debug)]
#[must_use = "a dropped packet leaks its frames"]
pub struct Packet {
    /// First frame: Ethernet, IP and L4 headers, and as much payload as fits.
    pub head: Frame,
    /// Further frames in order; empty (and unallocated) for all but large packets. A one-word
    /// vector, since packets are moved often.
    pub tail: ThinVec<Frame>,
    /// Length of the largest IP fragment it was reassembled from, bytes; zero if it was received
    /// unfragmented.
    pub largest_fragment: u16,
    /// Identification of the IPv6 fragments it was reassembled from. That of IPv4 is in the header.
    pub fragment_id: u32,
    /// The L4 checksum that the kernel has to complete, see
    /// [`Umem::has_tx_metadata`](super::Umem::has_tx_metadata).
    pub csum_partial: CsumPartial,
}

const _: () = assert!(size_of::<Packet>() == 32);

/// A partial L4 checksum: the field holds only the pseudo-header sum (`CHECKSUM_PARTIAL`,
/// `include/linux/skbuff.h`). Or none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CsumPartial {
    /// Zero for none.
    start: u8,
    offset: u8,
}

impl CsumPartial {
    /// The checksum is complete, or there is none.
    pub const NONE: Self = Self { start: 0, offset: 0 };

    /// A checksum over all bytes from `start` on (the offset of the L4 header in the first frame),
    /// stored `offset` bytes after `start`.
    #[must_use]
    #[inline]
    pub const fn new(start: u8, offset: u8) -> Self {
        Self { start, offset }
    }

    /// `csum_start`, and `csum_offset` from there, bytes.
    #[inline]
    pub(crate) const fn start_and_offset(self) -> Option<(u16, u16)> {
        if self.start == 0 { None } else { Some((self.start as u16, self.offset as u16)) }
    }
}

impl Packet {
    /// A packet of one frame.
    pub const fn single(head: Frame) -> Self {
        Self::new(head, ThinVec::new())
    }

    /// A packet that was received unfragmented.
    pub const fn new(head: Frame, tail: ThinVec<Frame>) -> Self {
        let csum_partial = CsumPartial::NONE;
        Self { head, tail, largest_fragment: 0, fragment_id: 0, csum_partial }
    }

    /// Length over all frames, bytes.
    #[must_use]
    #[inline]
    pub fn len(&self) -> u32 {
        if self.tail.is_empty() { self.head.len() } else { self.len_of_all() }
    }

    #[cold]
    fn len_of_all(&self) -> u32 {
        self.head.len() + self.tail.iter().map(Frame::len).sum::<u32>()
    }

    /// Whether it has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether it has one frame and was received unfragmented.
    #[must_use]
    #[inline]
    pub fn is_single_frame(&self) -> bool {
        self.tail.is_empty() && self.largest_fragment == 0
    }

    /// Number of frames.
    #[must_use]
    pub fn frames(&self) -> usize {
        1 + self.tail.len()
    }
}
