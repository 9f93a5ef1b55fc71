//! The part of the AF_XDP user API that we use, as the kernel's headers define it.
//!
//! Written down here because the C headers of the oldest distribution that we build on (Linux 6.1)
//! are older than multi-buffer support (6.6) and the transmit budget (6.17).
//! Source of every item: `include/uapi/linux/if_xdp.h`, Linux 6.18.

/// `struct xdp_desc`: one entry of a receive or transmit ring.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Desc {
    /// Where the data begins, bytes from the start of the UMEM.
    pub(super) addr: u64,
    /// Bytes of data.
    pub(super) len: u32,
    /// [`XDP_PKT_CONTD`] or zero.
    pub(super) options: u32,
}

/// Descriptor option: the packet goes on in the next descriptor.
pub(super) const XDP_PKT_CONTD: u32 = 1 << 0;

/// Ring flag: the kernel sleeps until it is called (`sendto` for a transmit ring).
pub(super) const XDP_RING_NEED_WAKEUP: u32 = 1 << 0;

/// `struct xdp_ring_offset`: where a ring's parts lie in its mapping, bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RingOffsets {
    pub(super) producer: u64,
    pub(super) consumer: u64,
    pub(super) desc: u64,
    pub(super) flags: u64,
}
