//! A UMEM and sockets in native copy mode, for both users of xsk-rs.

use std::io;
use std::num::NonZeroU32;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use xsk_rs::config::{
    BindFlags, Interface, LibxdpFlags, QueueSize, SocketConfig, UmemConfig, XdpFlags,
};
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, Socket, TxQueue, Umem};

/// Number of descriptors of each ring.
pub(super) const RING: u32 = 2048;
/// Number of descriptors per batch.
pub(super) const BATCH: usize = 64;

/// `SOL_XDP` (include/linux/socket.h) and its option for the maximum number of packets that one
/// system call sends (include/uapi/linux/if_xdp.h, Linux 6.17; 32 by default).
const SOL_XDP: libc::c_int = 283;
const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;

/// A socket's rings.
pub(super) struct Rings {
    pub(super) tx: TxQueue,
    pub(super) rx: RxQueue,
    pub(super) fill: FillQueue,
    pub(super) completed: CompQueue,
}

/// A UMEM with `frames` frames, and their descriptors.
pub(super) fn umem(frames: u32) -> Result<(Umem, Vec<FrameDesc>)> {
    let ring = QueueSize::new(RING)?;
    let config = UmemConfig::builder().fill_queue_size(ring).comp_queue_size(ring).build()?;
    let frames = NonZeroU32::new(frames).context("no frames")?;
    Umem::new(config, frames, false).context("can't register the packet memory")
}

/// Opens a socket on queue 0 of `link` in the calling thread's namespace.
pub(super) fn open(umem: &Umem, link: &str) -> Result<Rings> {
    let ring = QueueSize::new(RING)?;
    let config = SocketConfig::builder()
        .rx_queue_size(ring)
        .tx_queue_size(ring)
        .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
        .xdp_flags(XdpFlags::XDP_FLAGS_DRV_MODE)
        .bind_flags(BindFlags::XDP_COPY | BindFlags::XDP_USE_NEED_WAKEUP | BindFlags::XDP_USE_SG)
        .build();
    let interface: Interface = link.parse()?;
    // SAFETY: libxdp loads no program, as the contract of this function requires.
    let (tx, rx, own) = unsafe { Socket::new(config, umem, &interface, 0) }
        .with_context(|| format!("no AF_XDP socket on {link}"))?;
    let (fill, completed) = own.context("the queue is bound already")?;
    let budget = RING;
    // SAFETY: the option is a 32-bit integer, as `budget` is, which outlives the call.
    let _ignored_before_6_17 = unsafe {
        libc::setsockopt(
            tx.fd().as_raw_fd(),
            SOL_XDP,
            XDP_MAX_TX_SKB_BUDGET,
            (&raw const budget).cast(),
            size_of_val(&budget) as libc::socklen_t,
        )
    };
    Ok(Rings { tx, rx, fill, completed })
}

impl Rings {
    /// Makes the kernel send all packets in the TX ring, by one system call if its budget is large
    /// enough.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        // Bounded, because a link may accept nothing; the packets are then sent the next time.
        for _ in 0..RING {
            self.tx.wakeup()?;
            if self.tx.nb_free_exact() == RING {
                break;
            }
        }
        Ok(())
    }

    /// Returns sent frames to `free`, at most a batch.
    ///
    /// # Safety
    /// `free` must be of the socket's UMEM.
    pub(super) unsafe fn reclaim(&mut self, free: &mut Vec<FrameDesc>) {
        let mut batch = [FrameDesc::default(); BATCH];
        // SAFETY: the ring has frames of its own UMEM; `batch` only receives them.
        let count = unsafe { self.completed.consume(&mut batch) };
        free.extend_from_slice(&batch[..count]);
    }
}
