//! What the workers' ports of one link share: the fill and completion rings, and the frames.

use std::sync::{Arc, Mutex, TryLockError};

use podgate_tables::ids::LinkId;

use super::frame::FramePool;
use super::ring::{Completion, Fill};
use super::socket::Sockets;
use super::umem::{Claim, Desk, Umem};

/// Entries of a link's rings. Each must be a power of two.
///
/// They bound what one link can take of the [`Umem`]: `fill` frames wait to be received into, and
/// each worker adds at most `rx` received and `tx` to be transmitted.
///
/// The default takes 8 MiB for a link's fill ring. It covers a worker that is off its CPU for a
/// time slice (3 ms) under a TCP stream at full speed: on two crowded cores, streams of 3 s lost
/// thousands of packets with rings of 512 and nearly none with 2048, at MTU 1500, 9000 and 65000.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RingSizes {
    /// Frames to receive into, shared by the link's workers.
    pub fill: u32,
    /// Frames transmitted and not reclaimed, shared by the link's workers.
    pub completion: u32,
    /// Received frames, each worker. With `rx` = `fill` a worker that lags is short of receive
    /// slots no sooner than the link is of frames.
    pub rx: u32,
    /// Frames to transmit, each worker.
    pub tx: u32,
}

impl RingSizes {
    pub(super) fn are_powers_of_two(&self) -> bool {
        [self.fill, self.completion, self.rx, self.tx].iter().all(|size| size.is_power_of_two())
    }
}

impl Default for RingSizes {
    fn default() -> Self {
        Self { fill: 2048, completion: 2048, rx: 2048, tx: 2048 }
    }
}

/// One link's shared half.
pub(super) struct Link {
    // The order matters: fields are dropped in it, and the claim must end last. The kernel closes
    // a socket when its descriptor is closed and all its rings are unmapped. From then on it uses
    // no frame: in copy mode, packets on their way are copies.
    rings: Mutex<SharedRings>,
    /// Of each worker; none on a memory link.
    sockets: Vec<Sockets>,
    claim: Claim,
}

struct SharedRings {
    fill: Fill,
    completion: Completion,
}

impl Link {
    pub(super) fn new(
        claim: Claim,
        fill: Fill,
        completion: Completion,
        sockets: Vec<Sockets>,
    ) -> Self {
        Self { rings: Mutex::new(SharedRings { fill, completion }), sockets, claim }
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

    /// Where frames change hands with its rings.
    #[inline]
    pub(super) fn desk(&self) -> Desk<'_> {
        self.umem().desk(self.id())
    }

    /// Reclaims transmitted frames and tops up the fill ring, unless another worker is at it.
    pub(super) fn service(&self, pool: &mut FramePool) -> Serviced {
        let mut rings = match self.rings.try_lock() {
            Ok(rings) => rings,
            // Whatever step a panic interrupted, the rings' ends are consistent after it.
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Serviced::default(),
        };
        let false_completions = self.reclaim(&mut rings.completion, pool);
        let starved = self.top_up(&mut rings.fill, pool);
        Serviced { false_completions, starved }
    }

    fn reclaim(&self, completion: &mut Completion, pool: &mut FramePool) -> u64 {
        let desk = self.desk();
        // Behind a memory link there is no kernel that frames could be near to. (This crate's own
        // tests do as if there were.)
        let kernel_read_them = !self.sockets.is_empty() || cfg!(test);
        let (a, b) = completion.peek(u32::MAX);
        let mut false_completions = 0;
        for run in [a, b] {
            for address in run {
                match desk.take(*address) {
                    Some(frame) if kernel_read_them => pool.put_sent(frame),
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
    fn top_up(&self, fill: &mut Fill, pool: &mut FramePool) -> bool {
        let (room, desk) = (fill.free(u32::MAX), self.desk());
        let filled = fill.produce(room, || pool.take_for_ring().map(|frame| desk.give(frame)));
        fill.publish();
        filled < room
    }
}

/// What a [`Link::service`] ran into.
#[derive(Default)]
pub(super) struct Serviced {
    /// Completions of frames that the link didn't hold.
    pub(super) false_completions: u64,
    /// Whether no free frame was left for the fill ring.
    pub(super) starved: bool,
}
