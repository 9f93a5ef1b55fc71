//! The plainest forwarder that AF_XDP allows: no policy, no flows, not even a look at the packet.
//!
//! It is the yardstick for what policy costs, so it is written to be fast: batches of 64, frames
//! reused last in, first out, so that they are in the cache, and one system call per batch.

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

/// As many as both links' fill and TX rings can hold.
const FRAMES: u32 = 4 * RING;
/// Rounds without a packet before the forwarder sleeps.
const SPIN: u32 = 10_000;
/// Bound for a sleep, in milliseconds: how late it may see that it shall stop.
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

/// Forwards whatever comes from one pod to the other, with the Ethernet addresses of the link it
/// leaves by, until `stop`. Calls `ready` before the first packet.
///
/// # Errors
/// When XDP or AF_XDP isn't to be had on a link, or a system call fails.
pub(crate) fn forward(links: &[PodLink; 2], stop: &AtomicBool, ready: impl FnOnce()) -> Result<()> {
    let (umem, mut free) = xsk::umem(FRAMES)?;
    let mut ports = [Port::open(&umem, &links[0])?, Port::open(&umem, &links[1])?];
    for port in &mut ports {
        port.owed = RING as usize;
        port.refill(&mut free);
    }
    ready();
    let mut idle = 0;
    while !stop.load(Ordering::Relaxed) {
        let [a, b] = &mut ports;
        let moved = pass(&umem, a, b, &mut free)? + pass(&umem, b, a, &mut free)?;
        idle = if moved == 0 { idle + 1 } else { 0 };
        if idle > SPIN {
            sleep(&ports)?;
        }
    }
    Ok(())
}

struct Port {
    rings: Rings,
    /// Frames that its fill ring lacks.
    owed: usize,
    /// The first twelve bytes of what leaves here: to the pod, from the link.
    addresses: [u8; 12],
    /// Whether the last descriptor sent is not the last of its packet.
    inside_packet: bool,
    _program: Ebpf,
}

impl Port {
    fn open(umem: &Umem, link: &PodLink) -> Result<Self> {
        let rings = xsk::open(umem, &link.name)?;
        let mut ebpf = load_object(0, 0)?;
        let mut map = XskMap::try_from(ebpf.map_mut("SOCKET").context("no map SOCKET")?)?;
        map.set(0, rings.rx.fd().as_raw_fd(), 0)?;
        let program = ebpf.program_mut("hand_over").context("no program hand_over")?;
        let program: &mut Xdp = program.try_into()?;
        program.load()?;
        program.attach(&link.name, XdpMode::Driver)?;
        let mut addresses = [0; 12];
        addresses[..6].copy_from_slice(&link.pod_mac);
        addresses[6..].copy_from_slice(&link.mac);
        Ok(Self { rings, owed: 0, addresses, inside_packet: false, _program: ebpf })
    }

    /// Gives the kernel frames to receive into, as many as it lacks and `free` has.
    fn refill(&mut self, free: &mut Vec<FrameDesc>) {
        let from = free.len() - self.owed.min(free.len());
        // SAFETY: the frames are of the one UMEM there is, and leave `free` here.
        let given = unsafe { self.rings.fill.produce(&free[from..]) };
        free.truncate(free.len() - given);
        self.owed -= given;
    }
}

/// Moves one batch; returns how many descriptors.
fn pass(umem: &Umem, from: &mut Port, to: &mut Port, free: &mut Vec<FrameDesc>) -> Result<usize> {
    let mut batch = [FrameDesc::default(); BATCH];
    // SAFETY: there is one UMEM; `batch` only receives descriptors.
    let count = unsafe { from.rings.rx.consume(&mut batch) };
    if count == 0 {
        return Ok(0);
    }
    from.owed += count;
    let batch = &mut batch[..count];
    for desc in batch.iter_mut() {
        let more = desc.has_more_frames();
        if !to.inside_packet {
            // SAFETY: the kernel gave us this frame of this UMEM, and we give it back below.
            let mut data = unsafe { umem.data_mut(desc) };
            if let Some(addresses) = data.contents_mut().first_chunk_mut() {
                *addresses = to.addresses;
            }
        }
        to.inside_packet = more;
    }
    // SAFETY: the frames came out of the RX ring just now, and we keep no copy.
    while unsafe { to.rings.tx.produce(batch) } == 0 {
        to.rings.flush()?;
    }
    to.rings.flush()?;
    // SAFETY: `free` holds frames of the one UMEM there is.
    unsafe { to.rings.reclaim(free) };
    from.refill(free);
    Ok(count)
}

/// Until a packet comes, but not for long.
fn sleep(ports: &[Port; 2]) -> Result<()> {
    let poll = |port: &Port| libc::pollfd {
        fd: port.rings.rx.fd().as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    let mut fds = [poll(&ports[0]), poll(&ports[1])];
    // SAFETY: `fds` is an array of as many entries as we say, and lives through the call.
    let ready = unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, SLEEP_MS) };
    match Errno::result(ready) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => bail!("poll: {error}"),
    }
}
