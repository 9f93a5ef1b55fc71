//! Opens a link: two sockets for each worker on the link's queue 0, over one UMEM.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::{Arc, PoisonError, Weak};
use std::time::{Duration, Instant};

use podgate_tables::ids::LinkId;

use super::link::{RingSizes, XskLink};
use super::link_queue::LinkQueue;
use super::ring::{Completion, Consumer, Entry, Fill, Producer, RingMemory, Rx, Tx};
use super::socket::{Socket, Sockets};
use super::sys::{self, MmapOffsets, RingOffsets, SockaddrXdp, UmemReg};
use crate::mem::{FRAME_SIZE, Mapping, Registrant, Umem};

/// How long to wait for the kernel to release a queue whose sockets were just closed. It does that
/// from a work queue (`xp_put_pool`), somewhat later than close(2).
const QUEUE_RELEASE_MAX: Duration = Duration::from_secs(2);

/// The queue that all sockets bind to: a veth has one by default.
const QUEUE: u32 = 0;

/// Why a link can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The kernel requires ring sizes to be powers of two.
    #[error("ring sizes must be powers of two: {0:?}")]
    RingSizes(RingSizes),
    /// No worker was given.
    #[error("a link needs at least one worker")]
    NoWorker,
    /// A queue of another link with this number is still open.
    #[error("{0:?} is open")]
    Open(LinkId),
    /// A system call failed.
    #[error("AF_XDP socket on netdev {ifindex}: {step}: {error}{}", advice(.error))]
    System {
        /// Index of the netdev.
        ifindex: u32,
        /// The call or option that failed.
        step: &'static str,
        /// The kernel's error.
        #[source]
        error: io::Error,
    },
}

/// A hint at the cause of an error.
fn advice(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EAFNOSUPPORT) => " (the kernel was built without CONFIG_XDP_SOCKETS)",
        Some(libc::EPERM) => " (CAP_NET_RAW is needed)",
        Some(libc::ENOBUFS) => {
            " (packet memory exceeds RLIMIT_MEMLOCK and CAP_IPC_LOCK is missing)"
        }
        Some(libc::EBUSY) => " (another program has AF_XDP sockets on queue 0)",
        Some(libc::ENODEV) => " (the netdev is gone)",
        Some(libc::EINVAL) => " (the link is open already, or Linux is older than 6.6)",
        _ => "",
    }
}

/// Binds two sockets for each worker to queue 0 of the netdev, in copy mode, and returns their
/// queues in the order of the workers. The fill ring is filled with free frames.
///
/// The first link registers `umem` with the kernel; later links bind to the first link's socket.
/// When that link is gone, the next one registers the memory again: to the kernel that is another
/// UMEM at the same address, to us nothing changes.
///
/// The queues receive once the XDP program redirects to their sockets.
///
/// # Errors
/// When the netdev doesn't exist or has sockets of another program, when `link` is open, or when
/// the kernel lacks support or we lack privileges.
pub fn open_link(
    umem: &Arc<Umem>,
    ifindex: u32,
    link: LinkId,
    workers: usize,
    sizes: RingSizes,
) -> Result<Vec<LinkQueue>, OpenError> {
    if !sizes.are_powers_of_two() {
        return Err(OpenError::RingSizes(sizes));
    }
    if workers == 0 {
        return Err(OpenError::NoWorker);
    }
    let claim = umem.claim(link).ok_or(OpenError::Open(link))?;
    let failed = |(step, error)| OpenError::System { ifindex, step, error };
    let mut queues = Vec::with_capacity(workers);
    for _ in 0..workers {
        queues.push(Queue::new(sizes).map_err(failed)?);
    }
    let first = &queues[0].sockets.rx;
    let (fill, completion) = shared_rings(first, sizes).map_err(failed)?;
    // Locked until the registrant is stored, so that two links opened at once share one UMEM.
    let mut registrant = umem.registrant.lock().unwrap_or_else(PoisonError::into_inner);
    let current = registrant.as_ref().and_then(Weak::upgrade);
    let registered = bind_first(first, umem, current, ifindex).map_err(failed)?;
    let others = queues.iter().flat_map(|queue| [&queue.sockets.rx, &queue.sockets.tx]).skip(1);
    for socket in others {
        bind(socket, ifindex, Some(first.as_fd())).map_err(|e| failed(("bind", e)))?;
    }
    let (sockets, rings): (_, Vec<_>) =
        queues.into_iter().map(|l| (l.sockets, (l.rx, l.tx))).unzip();
    let shared = Arc::new(XskLink::new(claim, fill, completion, sizes, sockets));
    if registered {
        let link: Arc<dyn Registrant> = Arc::<XskLink>::clone(&shared);
        *registrant = Some(Arc::downgrade(&link));
    }
    shared.service(&mut umem.pool());
    let rings = rings.into_iter().enumerate();
    Ok(rings
        .map(|(worker, (rx, tx))| LinkQueue::new(worker, rx, tx, Arc::clone(&shared)))
        .collect())
}

/// A failed call or option, and the kernel's error.
type Failure = (&'static str, io::Error);

/// One worker's rings and sockets on a link. The rings must be unmapped before the sockets close.
struct Queue {
    rx: Rx,
    tx: Tx,
    sockets: Sockets,
}

impl Queue {
    fn new(sizes: RingSizes) -> Result<Self, Failure> {
        let socket = || Socket::new().map_err(|e| ("socket", e));
        let sockets = Sockets { rx: socket()?, tx: socket()? };
        let fd = sockets.rx.as_fd();
        sys::set_option(fd, sys::XDP_RX_RING, &sizes.rx).map_err(|e| ("XDP_RX_RING", e))?;
        let at = offsets(fd)?;
        let rx = map::<sys::Desc>(fd, sys::XDP_PGOFF_RX_RING, at.rx, sizes.rx)?;
        // SAFETY: this process has just made the ring and uses this one reading end.
        let rx = unsafe { Consumer::new(rx, at.rx, sizes.rx) };
        let fd = sockets.tx.as_fd();
        sys::set_option(fd, sys::XDP_TX_RING, &sizes.tx).map_err(|e| ("XDP_TX_RING", e))?;
        // One call then transmits the whole ring. Older kernels transmit 32 descriptors per call,
        // which `LinkQueue::flush` handles.
        let _ = sys::set_option(fd, sys::XDP_MAX_TX_SKB_BUDGET, &sizes.tx);
        let at = offsets(fd)?;
        let tx = map::<sys::Desc>(fd, sys::XDP_PGOFF_TX_RING, at.tx, sizes.tx)?;
        // SAFETY: likewise, and this one writing end.
        let tx = unsafe { Producer::new(tx, at.tx, sizes.tx) };
        Ok(Self { rx, tx, sockets })
    }
}

/// The rings that a link's workers share, created on its first socket.
fn shared_rings(socket: &Socket, sizes: RingSizes) -> Result<(Fill, Completion), Failure> {
    let fd = socket.as_fd();
    sys::set_option(fd, sys::XDP_UMEM_FILL_RING, &sizes.fill)
        .map_err(|e| ("XDP_UMEM_FILL_RING", e))?;
    sys::set_option(fd, sys::XDP_UMEM_COMPLETION_RING, &sizes.completion)
        .map_err(|e| ("XDP_UMEM_COMPLETION_RING", e))?;
    let at = offsets(fd)?;
    let fill = map::<u64>(fd, sys::XDP_UMEM_PGOFF_FILL_RING, at.fill, sizes.fill)?;
    let from = sys::XDP_UMEM_PGOFF_COMPLETION_RING;
    let completion = map::<u64>(fd, from, at.completion, sizes.completion)?;
    // SAFETY: this process has just made the ring and uses this one writing end.
    let fill = unsafe { Producer::new(fill, at.fill, sizes.fill) };
    // SAFETY: likewise, and this one reading end.
    let completion = unsafe { Consumer::new(completion, at.completion, sizes.completion) };
    Ok((fill, completion))
}

fn offsets(fd: BorrowedFd) -> Result<MmapOffsets, Failure> {
    sys::option(fd, sys::XDP_MMAP_OFFSETS).map_err(|e| ("XDP_MMAP_OFFSETS", e))
}

fn map<T: Entry>(
    fd: BorrowedFd,
    from: i64,
    at: RingOffsets,
    size: u32,
) -> Result<Arc<dyn RingMemory>, Failure> {
    let len = at.desc as usize + size as usize * size_of::<T>();
    Ok(Arc::new(Mapping::ring(fd, len, from).map_err(|e| ("mmap of a ring", e))?))
}

/// Binds a link's first socket: to the UMEM of `registrant` if there is one, else to a newly
/// registered one. Returns whether it registered one.
fn bind_first(
    socket: &Socket,
    umem: &Umem,
    registrant: Option<Arc<dyn Registrant>>,
    ifindex: u32,
) -> Result<bool, Failure> {
    if let Some(registrant) = registrant {
        match bind(socket, ifindex, registrant.socket()) {
            Ok(()) => return Ok(false),
            // The registrant's netdev is gone, which unbound its socket (`xsk_bind`).
            Err(error) if error.raw_os_error() == Some(libc::EBADF) => {}
            Err(error) => return Err(("bind", error)),
        }
    }
    let area = umem.area();
    let plain = UmemReg {
        addr: area.base().as_ptr().expose_provenance() as u64,
        len: area.len() as u64,
        chunk_size: FRAME_SIZE,
        ..UmemReg::default()
    };
    let (flags, tx_metadata_len) = (sys::XDP_UMEM_TX_METADATA_LEN, sys::TX_METADATA_LEN);
    let with_metadata = UmemReg { flags, tx_metadata_len, ..plain };
    let register = |region| sys::set_option(socket.as_fd(), sys::XDP_UMEM_REG, region);
    // A kernel that doesn't know the flag rejects it.
    let has_metadata = register(&with_metadata).is_ok();
    if !has_metadata {
        register(&plain).map_err(|e| ("XDP_UMEM_REG", e))?;
    }
    umem.set_tx_metadata(has_metadata);
    bind(socket, ifindex, None).map_err(|e| ("bind", e))?;
    Ok(true)
}

/// Binds a socket, with the UMEM of `shared`, or else the one registered with the socket itself.
fn bind(socket: &Socket, ifindex: u32, shared: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let flags = match shared {
        Some(_) => sys::XDP_SHARED_UMEM,
        None => sys::XDP_COPY | sys::XDP_USE_NEED_WAKEUP | sys::XDP_USE_SG,
    };
    let address = SockaddrXdp {
        family: libc::AF_XDP as u16,
        flags,
        ifindex,
        queue_id: QUEUE,
        shared_umem_fd: shared.map_or(0, |socket| socket.as_raw_fd() as u32),
    };
    let deadline = Instant::now() + QUEUE_RELEASE_MAX;
    loop {
        match sys::bind(socket.as_fd(), &address) {
            // There is no notification that the queue is free: retry.
            Err(error)
                if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline =>
            {
                std::thread::sleep(Duration::from_millis(1));
            }
            result => return result,
        }
    }
}
