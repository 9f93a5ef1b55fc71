//! The part of the AF_XDP user API that we use, as defined in the kernel's headers, and its system
//! calls.
//!
//! The definitions are repeated here because the C headers of the oldest distribution that we build
//! on (Linux 6.1) predate multi-buffer support (6.6) and the transmit budget (6.17). Source of
//! every item, unless noted otherwise: `include/uapi/linux/if_xdp.h`, Linux 6.18.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

/// Level of the socket options (`include/linux/socket.h`).
const SOL_XDP: libc::c_int = 283;

/// Option: [`MmapOffsets`].
pub(super) const XDP_MMAP_OFFSETS: libc::c_int = 1;
/// Option: entries of the receive ring, `u32`.
pub(super) const XDP_RX_RING: libc::c_int = 2;
/// Option: entries of the transmit ring, `u32`.
pub(super) const XDP_TX_RING: libc::c_int = 3;
/// Option: [`UmemReg`].
pub(super) const XDP_UMEM_REG: libc::c_int = 4;
/// Option: entries of the fill ring, `u32`.
pub(super) const XDP_UMEM_FILL_RING: libc::c_int = 5;
/// Option: entries of the completion ring, `u32`.
pub(super) const XDP_UMEM_COMPLETION_RING: libc::c_int = 6;
/// Option: [`Statistics`].
pub(super) const XDP_STATISTICS: libc::c_int = 7;
/// Option: descriptors that one `sendto` transmits at most, `u32`; 32 by default.
pub(super) const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;

/// Bind flag: share the UMEM of [`SockaddrXdp::shared_umem_fd`]. No other flag may be set.
pub(super) const XDP_SHARED_UMEM: u16 = 1 << 0;
/// Bind flag: never zero-copy.
pub(super) const XDP_COPY: u16 = 1 << 1;
/// Bind flag: the kernel sets [`XDP_RING_NEED_WAKEUP`] when it needs a wakeup.
pub(super) const XDP_USE_NEED_WAKEUP: u16 = 1 << 3;
/// Bind flag: packets of several frames.
pub(super) const XDP_USE_SG: u16 = 1 << 4;

/// mmap offset of a socket's receive ring.
pub(super) const XDP_PGOFF_RX_RING: i64 = 0;
/// mmap offset of a socket's transmit ring.
pub(super) const XDP_PGOFF_TX_RING: i64 = 0x8000_0000;
/// mmap offset of a socket's fill ring.
pub(super) const XDP_UMEM_PGOFF_FILL_RING: i64 = 0x1_0000_0000;
/// mmap offset of a socket's completion ring.
pub(super) const XDP_UMEM_PGOFF_COMPLETION_RING: i64 = 0x1_8000_0000;

/// UMEM flag: [`UmemReg::tx_metadata_len`] bytes before the data of a packet may be transmit
/// metadata.
pub(super) const XDP_UMEM_TX_METADATA_LEN: u32 = 1 << 2;

/// Descriptor option: the packet has transmit metadata.
pub(super) const XDP_TX_METADATA: u32 = 1 << 1;
/// Metadata flag: complete the checksum.
pub(super) const XDP_TXMD_FLAGS_CHECKSUM: u64 = 1 << 1;

/// Length of `struct xsk_tx_metadata`, bytes: flags (`u64`), `csum_start` and `csum_offset` (`u16`
/// each), and fields that we don't use.
pub(super) const TX_METADATA_LEN: u32 = 24;

/// Descriptor option: the packet continues in the next descriptor.
pub(super) const XDP_PKT_CONTD: u32 = 1 << 0;

/// Ring flag: the kernel needs a wakeup (`sendto` for a transmit ring).
pub(super) const XDP_RING_NEED_WAKEUP: u32 = 1 << 0;

/// `struct xdp_desc`: one entry of a receive or transmit ring.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Desc {
    /// Offset of the data in the UMEM, bytes.
    pub(super) addr: u64,
    /// Length of the data, bytes.
    pub(super) len: u32,
    /// [`XDP_PKT_CONTD`], [`XDP_TX_METADATA`], both or neither.
    pub(super) options: u32,
}

/// `struct xdp_ring_offset`: offsets of a ring's parts in its mapping, bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RingOffsets {
    pub(super) producer: u64,
    pub(super) consumer: u64,
    pub(super) desc: u64,
    pub(super) flags: u64,
}

/// `struct xdp_mmap_offsets`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct MmapOffsets {
    pub(super) rx: RingOffsets,
    pub(super) tx: RingOffsets,
    pub(super) fill: RingOffsets,
    pub(super) completion: RingOffsets,
}

/// `struct xdp_umem_reg`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct UmemReg {
    pub(super) addr: u64,
    pub(super) len: u64,
    pub(super) chunk_size: u32,
    pub(super) headroom: u32,
    pub(super) flags: u32,
    pub(super) tx_metadata_len: u32,
}

/// `struct sockaddr_xdp`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct SockaddrXdp {
    pub(super) family: u16,
    pub(super) flags: u16,
    pub(super) ifindex: u32,
    pub(super) queue_id: u32,
    pub(super) shared_umem_fd: u32,
}

/// `struct xdp_statistics`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Statistics {
    pub(super) rx_dropped: u64,
    pub(super) rx_invalid_descs: u64,
    pub(super) tx_invalid_descs: u64,
    pub(super) rx_ring_full: u64,
    pub(super) rx_fill_ring_empty_descs: u64,
    pub(super) tx_ring_empty_descs: u64,
}

/// Socket options and addresses: structs of plain numbers without padding.
///
/// # Safety
/// No padding, and every bit pattern valid.
pub(super) unsafe trait Plain: Copy + Default {}
// SAFETY: a number.
unsafe impl Plain for u32 {}
// SAFETY: `u64`s only.
unsafe impl Plain for MmapOffsets {}
// SAFETY: two `u64` and four `u32`: 32 bytes, no padding.
unsafe impl Plain for UmemReg {}
// SAFETY: `u64`s only.
unsafe impl Plain for Statistics {}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `socket(2)`: a new AF_XDP socket.
pub(super) fn socket() -> io::Result<OwnedFd> {
    // SAFETY: takes no pointers.
    let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    check(fd)?;
    // SAFETY: a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `setsockopt(2)` at level `SOL_XDP`.
pub(super) fn set_option<T: Plain>(
    fd: BorrowedFd,
    option: libc::c_int,
    value: &T,
) -> io::Result<()> {
    let (value, len) = (ptr::from_ref(value).cast(), size_of::<T>() as libc::socklen_t);
    // SAFETY: `value` points to `len` initialised bytes (`Plain`) that the call only reads.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), SOL_XDP, option, value, len) })
}

/// `getsockopt(2)` at level `SOL_XDP`. Fails when the kernel's value is shorter than ours.
pub(super) fn option<T: Plain>(fd: BorrowedFd, option: libc::c_int) -> io::Result<T> {
    let (mut value, mut len) = (T::default(), size_of::<T>() as libc::socklen_t);
    let place = ptr::from_mut(&mut value).cast();
    // SAFETY: `place` points to `len` bytes to which any bytes may be written (`Plain`).
    check(unsafe { libc::getsockopt(fd.as_raw_fd(), SOL_XDP, option, place, &mut len) })?;
    if len as usize != size_of::<T>() {
        return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
    }
    Ok(value)
}

/// `bind(2)`.
pub(super) fn bind(fd: BorrowedFd, address: &SockaddrXdp) -> io::Result<()> {
    let (address, len) = (ptr::from_ref(address).cast(), size_of::<SockaddrXdp>());
    // SAFETY: `address` points to `len` initialised bytes that the call only reads.
    check(unsafe { libc::bind(fd.as_raw_fd(), address, len as libc::socklen_t) })
}

/// Makes the kernel transmit the packets on the ring (`xsk_sendmsg`): an empty, non-blocking send.
#[inline]
pub(super) fn wake(fd: BorrowedFd) -> io::Result<()> {
    let (fd, flags) = (fd.as_raw_fd(), libc::MSG_DONTWAIT);
    // SAFETY: no data and no address, so no pointer is followed.
    let sent = unsafe { libc::sendto(fd, ptr::null(), 0, flags, ptr::null(), 0) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
