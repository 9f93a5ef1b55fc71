//! What the workers' queues of one link share: the fill and completion rings, and the frames.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, TryLockError};

use podgate_tables::ids::LinkId;

use super::fill_level::FillLevel;
use super::ring::{Completion, Fill};
use super::socket::Sockets;
use crate::mem::{Claim, FrameOwnership, FramePool, Registrant, Umem};

/// Entries of a link's rings. Each must be a power of two.
///
/// They bound the frames of one link: at most `fill` wait for received data, and each worker adds
/// at most `rx` received ones and `tx` to be transmitted.
///
/// The default takes 8 MiB for a link's fill ring, idle or not. It covers a worker that is
/// preempted for a time slice (3 ms) during a TCP stream at full speed: on two busy cores, streams
/// of 3 s lost thousands of packets with rings of 512 entries and nearly none with 2048, at MTU
/// 1500, 9000 and 65000.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RingSizes {
    /// Frames to receive into, shared by the link's workers.
    pub fill: u32,
    /// Those of them that are filled while the link is idle; this may be any number. The fill ring
    /// is kept full if it is not less than `fill`.
    pub idle: u32,
    /// Transmitted frames that are not reclaimed yet, shared by the link's workers.
    pub completion: u32,
    /// Received frames, per worker. With `rx` = `fill` a slow worker runs out of receive slots no
    /// sooner than the link runs out of frames.
    pub rx: u32,
    /// Frames to transmit, per worker.
    pub tx: u32,
}

impl RingSizes {
    pub(super) fn are_powers_of_two(&self) -> bool {
        [self.fill, self.completion, self.rx, self.tx].iter().all(|size| size.is_power_of_two())
    }
}

impl Default for RingSizes {
    fn default() -> Self {
        Self { fill: 2048, idle: 2048, completion: 2048, rx: 2048, tx: 2048 }
    }
}

/// What the queues of one link share.
pub(super) struct XskLink {
    // Fields are dropped in this order, and the claim must be dropped last. The kernel closes a
    // socket when its descriptor is closed and its rings are unmapped. From then on it accesses no
    // frame: in copy mode, packets in flight are copies.
    rings: Mutex<SharedRings>,
    /// By worker; none on a memory link.
    sockets: Vec<Sockets>,
    claim: Claim,
}

struct SharedRings {
    fill: Fill,
    completion: Completion,
    level: FillLevel,
}

impl XskLink {
    pub(super) fn new(
        claim: Claim,
        fill: Fill,
        completion: Completion,
        sizes: RingSizes,
        sockets: Vec<Sockets>,
    ) -> Self {
        let level = FillLevel::new(sizes.idle, sizes.fill);
        Self { rings: Mutex::new(SharedRings { fill, completion, level }), sockets, claim }
    }

    /// The worker's sockets.
    pub(super) fn sockets(&self, worker: usize) -> Option<&Sockets> {
        self.sockets.get(worker)
    }

    pub(super) fn id(&self) -> LinkId {
        self.claim.link()
    }

    pub(super) fn umem(&self) -> &Arc<Umem> {
        self.claim.umem()
    }

    /// Transfers frames between us and its rings.
    #[inline]
    pub(super) fn ownership(&self) -> FrameOwnership<'_> {
        self.umem().ownership(self.id())
    }

    /// Reclaims transmitted frames and refills the fill ring; `None` if another worker is doing
    /// that.
    pub(super) fn service(&self, pool: &mut FramePool) -> Option<Serviced> {
        let mut rings = match self.rings.try_lock() {
            Ok(rings) => rings,
            // A panic at any step leaves the rings' ends consistent.
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        let false_completions = self.reclaim(&mut rings.completion, pool);
        let SharedRings { fill, level, .. } = &mut *rings;
        let starved = self.refill(fill, level, pool);
        Some(Serviced { false_completions, starved })
    }

    /// Keeps workers from servicing the link, as a worker that services it keeps the others.
    #[cfg(test)]
    pub(super) fn lock_rings(&self) -> impl Sized {
        self.rings.lock().unwrap()
    }

    fn reclaim(&self, completion: &mut Completion, pool: &mut FramePool) -> u64 {
        let ownership = self.ownership();
        // A memory link has no kernel whose cache could be hot. (Unit tests pretend that it has.)
        let has_kernel = !self.sockets.is_empty() || cfg!(test);
        let (a, b) = completion.peek(u32::MAX);
        let mut false_completions = 0;
        for run in [a, b] {
            for address in run {
                match ownership.reclaim(*address) {
                    Some(frame) if has_kernel => pool.put_transmitted(frame),
                    Some(frame) => pool.put_from_ring(frame),
                    None => false_completions += 1,
                }
            }
        }
        let seen = (a.len() + b.len()) as u32;
        if seen > 0 {
            completion.release(seen);
        }
        false_completions
    }

    /// Returns whether frames ran out.
    fn refill(&self, fill: &mut Fill, level: &mut FillLevel, pool: &mut FramePool) -> bool {
        let (in_ring, ownership) = (fill.in_use(), self.ownership());
        let missing = level.missing(in_ring, pool.refill_time(), || self.umem().spare_frames());
        let frame = || pool.take_for_ring().map(|frame| ownership.to_kernel(frame));
        let filled = fill.produce(missing, frame);
        fill.publish();
        level.refilled(in_ring.saturating_add(filled));
        filled < missing
    }
}

/// Result of [`XskLink::service`].
pub(super) struct Serviced {
    /// Completions of frames that the link didn't hold.
    pub(super) false_completions: u64,
    /// Whether the pool ran out of free frames for the fill ring.
    pub(super) starved: bool,
}

impl Registrant for XskLink {
    fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.sockets(0).map(|sockets| sockets.rx.as_fd())
    }
}
