//! A minimal AF_XDP forwarder: no policy, no flows, no parsing.
//!
//! It is the baseline for the cost of policy, so it is written to be fast: batches of 64, frames
//! reused in LIFO order, so that they are in the cache, and one system call per batch.

use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};
use aya::Ebpf;
use aya::maps::XskMap;
use aya::programs::{Xdp, XdpMode};
use nix::errno::Errno;
use xsk_rs::{FrameDesc, Umem};

use super::load_object;
use super::xsk::{self, BATCH, RING, Rings};

/// Number of frames: as many as both links' fill and TX rings can hold.
const FRAMES: u32 = 4 * RING;
/// Number of rounds without a packet before the forwarder sleeps.
const SPIN: u32 = 10_000;
/// Maximum sleep, milliseconds, and so the maximum delay of a stop.
const SLEEP_MS: libc::c_int = 100;

/// The host's end of a pod's veth.
#[derive(Clone, Debug)]
pub(crate) struct PodLink {
    /// Its name, in the calling thread's namespace.
    pub(crate) name: String,
    /// Its Ethernet address.
    pub(crate) mac: [u8; 6],
    /// The pod's.
    pub(crate) pod_mac: [u8; 6],
}

/// Forwards all packets between two pods until `stop`, and sets the Ethernet addresses of the
/// output link. Calls `ready` before the first packet.
///
/// # Errors
/// When XDP or AF_XDP is not available on a link, or a system call fails.
pub(crate) fn forward(links: &[PodLink; 2], stop: &AtomicBool, ready: impl FnOnce()) -> Result<()> {
    let (umem, mut free) = xsk::umem(FRAMES)?;
    let mut served = [ServedLink::open(&umem, &links[0])?, ServedLink::open(&umem, &links[1])?];
    for link in &mut served {
        link.missing = RING as usize;
        link.refill(&mut free);
    }
    ready();
    let mut idle = 0;
    while !stop.load(Ordering::Relaxed) {
        let [a, b] = &mut served;
        let moved = pass(&umem, a, b, &mut free)? + pass(&umem, b, a, &mut free)?;
        idle = if moved == 0 { idle + 1 } else { 0 };
        if idle > SPIN {
            sleep(&served)?;
        }
    }
    Ok(())
}

struct ServedLink {
    rings: Rings,
    /// Number of frames missing in its fill ring.
    missing: usize,
    /// The first twelve bytes of frames sent here: destination (the pod) and source (the link).
    addresses: [u8; 12],
    /// Whether the last sent descriptor is not the last one of its packet.
    inside_packet: bool,
    _program: Ebpf,
}

impl ServedLink {
    fn open(umem: &Umem, link: &PodLink) -> Result<Self> {
        let rings = xsk::open(umem, &link.name)?;
        let mut ebpf = load_object(0, 0)?;
        let mut map = XskMap::try_from(ebpf.map_mut("SOCKET").context("no map SOCKET")?)?;
        map.set(0, rings.rx.fd().as_raw_fd(), 0)?;
        let program = ebpf.program_mut("redirect").context("no program redirect")?;
        let program: &mut Xdp = program.try_into()?;
        program.load()?;
        program.attach(&link.name, XdpMode::Driver)?;
        let mut addresses = [0; 12];
        addresses[..6].copy_from_slice(&link.pod_mac);
        addresses[6..].copy_from_slice(&link.mac);
        Ok(Self { rings, missing: 0, addresses, inside_packet: false, _program: ebpf })
    }

    /// Refills the fill ring from `free`.
    fn refill(&mut self, free: &mut Vec<FrameDesc>) {
        let from = free.len() - self.missing.min(free.len());
        // SAFETY: the frames are of the only UMEM, and are removed from `free` here.
        let given = unsafe { self.rings.fill.produce(&free[from..]) };
        free.truncate(free.len() - given);
        self.missing -= given;
    }
}

/// Forwards one batch; returns the number of descriptors.
fn pass(
    umem: &Umem,
    from: &mut ServedLink,
    to: &mut ServedLink,
    free: &mut Vec<FrameDesc>,
) -> Result<usize> {
    let mut batch = [FrameDesc::default(); BATCH];
    // SAFETY: there is only one UMEM; `batch` only receives descriptors.
    let count = unsafe { from.rings.rx.consume(&mut batch) };
    if count == 0 {
        return Ok(0);
    }
    from.missing += count;
    let batch = &mut batch[..count];
    for desc in batch.iter_mut() {
        let more = desc.has_more_frames();
        if !to.inside_packet {
            // SAFETY: the kernel passed this frame of this UMEM to us; it is returned below.
            let mut data = unsafe { umem.data_mut(desc) };
            if let Some(addresses) = data.contents_mut().first_chunk_mut() {
                *addresses = to.addresses;
            }
        }
        to.inside_packet = more;
    }
    // SAFETY: the frames are from the RX ring, and no copy of them is kept.
    while unsafe { to.rings.tx.produce(batch) } == 0 {
        to.rings.flush()?;
        // The kernel sends nothing while the completion ring is full.
        // SAFETY: `free` has frames of the only UMEM.
        unsafe { to.rings.reclaim(free) };
    }
    to.rings.flush()?;
    // SAFETY: `free` has frames of the only UMEM.
    unsafe { to.rings.reclaim(free) };
    from.refill(free);
    Ok(count)
}

/// Waits for a packet, at most [`SLEEP_MS`].
fn sleep(served: &[ServedLink; 2]) -> Result<()> {
    let poll = |link: &ServedLink| libc::pollfd {
        fd: link.rings.rx.fd().as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    let mut fds = [poll(&served[0]), poll(&served[1])];
    // SAFETY: `fds` is an array of the given length, and outlives the call.
    let ready = unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, SLEEP_MS) };
    match Errno::result(ready) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => bail!("poll: {error}"),
    }
}
