//! One worker's rings on one link.

use std::ops::AddAssign;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use podgate_tables::ids::LinkId;

use super::assemble::{Assembler, PACKET_FRAMES_MAX};
use super::link::{Serviced, XskLink};
use super::ring::{FreeSlot, Rx, Tx};
use super::socket::Socket;
use super::sys::{
    self, Desc, TX_METADATA_LEN, XDP_PKT_CONTD, XDP_TX_METADATA, XDP_TXMD_FLAGS_CHECKSUM,
};
use crate::mem::{CsumPartial, FRAME_HEADROOM, Frame, FrameOwnership, FramePool, Packet, Umem};

const _: () = assert!(FRAME_HEADROOM >= TX_METADATA_LEN);

/// System calls in one flush, at most: enough to empty a ring of 2048 entries where a call
/// transmits 32 of them (`TX_BATCH_SIZE`, `net/xdp/xsk.c`).
const WAKEUPS_MAX: u32 = 64;

/// Frames that the kernel may leave on a link's transmit ring before the link is stalled: one in
/// [`UNSENT_SHARE`] of the spare ones, and [`UNSENT_MIN`] in any case.
const UNSENT_SHARE: u32 = 4;
const UNSENT_MIN: u32 = 64;

/// Receives from and transmits to one link, for one worker.
///
/// A round is: [`LinkQueue::receive`], [`LinkQueue::transmit`] for each packet,
/// [`LinkQueue::flush`] and [`LinkQueue::service`]. When the last queue of a link is dropped, the
/// link's sockets are closed and the frames in its rings are freed.
pub struct LinkQueue {
    rx: Rx,
    tx: Tx,
    assembler: Assembler,
    /// Whether the kernel may have left published entries on the transmit ring.
    unsent: bool,
    /// Whether the kernel has left more frames on the ring than a link that doesn't take them may
    /// keep.
    stalled: bool,
    /// Whether the fill ring may lack frames.
    needs_refill: bool,
    state: LinkState,
    counters: Counters,
    worker: usize,
    /// Copies of the link's number and UMEM, to save an indirection.
    id: LinkId,
    umem: Arc<Umem>,
    // Dropped after the rings: they must be unmapped before the last queue closes the link.
    link: Arc<XskLink>,
}

/// State of the link at the last transmit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkState {
    /// It transmits.
    Up,
    /// It is administratively down and may come up again.
    Down,
    /// It was removed; its sockets can't be used again.
    Gone,
}

/// Counters kept by the queue itself.
#[derive(Default)]
struct Counters {
    false_completions: u64,
    starved: u64,
    wakeups: u64,
    wakeup_errors: u64,
}

/// Counters of one queue: our own, and the kernel's `XDP_STATISTICS` of its sockets (zero on a
/// memory link).
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct XskStatistics {
    /// Receive descriptors and completions of a frame that the link did not hold, or of bytes
    /// outside of a frame. Zero with a correct kernel.
    pub false_descriptors: u64,
    /// Packets dropped for having more than [`PACKET_FRAMES_MAX`] frames.
    pub oversized: u64,
    /// Times that the free frames did not suffice to refill the fill ring.
    pub starved: u64,
    /// System calls to transmit.
    pub wakeups: u64,
    /// Those of them that failed for another reason than a busy or removed link.
    pub wakeup_errors: u64,
    /// Packets that the kernel dropped because the fill ring was empty.
    pub rx_dropped: u64,
    /// Addresses in the fill ring that the kernel rejected.
    pub rx_invalid: u64,
    /// Descriptors in the transmit ring that the kernel rejected.
    pub tx_invalid: u64,
    /// Packets that the kernel dropped because the receive ring was full.
    pub rx_ring_full: u64,
    /// Times that the kernel found the link's fill ring empty; the first worker's queue counts it.
    pub fill_ring_empty: u64,
    /// Times that the kernel found the transmit ring empty.
    pub tx_ring_empty: u64,
}

impl AddAssign for XskStatistics {
    fn add_assign(&mut self, other: Self) {
        let Self {
            false_descriptors,
            oversized,
            starved,
            wakeups,
            wakeup_errors,
            rx_dropped,
            rx_invalid,
            tx_invalid,
            rx_ring_full,
            fill_ring_empty,
            tx_ring_empty,
        } = self;
        *false_descriptors += other.false_descriptors;
        *oversized += other.oversized;
        *starved += other.starved;
        *wakeups += other.wakeups;
        *wakeup_errors += other.wakeup_errors;
        *rx_dropped += other.rx_dropped;
        *rx_invalid += other.rx_invalid;
        *tx_invalid += other.tx_invalid;
        *rx_ring_full += other.rx_ring_full;
        *fill_ring_empty += other.fill_ring_empty;
        *tx_ring_empty += other.tx_ring_empty;
    }
}

impl LinkQueue {
    pub(super) fn new(worker: usize, rx: Rx, tx: Tx, link: Arc<XskLink>) -> Self {
        let (assembler, counters) = Default::default();
        let (id, umem) = (link.id(), Arc::clone(link.umem()));
        let state = LinkState::Up;
        let (unsent, stalled, needs_refill) = Default::default();
        Self {
            rx,
            tx,
            assembler,
            unsent,
            stalled,
            needs_refill,
            state,
            counters,
            worker,
            id,
            umem,
            link,
        }
    }

    /// The link.
    #[must_use]
    pub fn link(&self) -> LinkId {
        self.id
    }

    /// The receiving socket, to put in the XSKMAP and to wait for; `None` on a memory link.
    ///
    /// It must not be duplicated: with a socket that outlives its queues the kernel could write to
    /// frames that were freed.
    #[must_use]
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.link.sockets(self.worker).map(|sockets| sockets.rx.as_fd())
    }

    /// State of the link at the last flush.
    #[must_use]
    pub fn state(&self) -> LinkState {
        self.state
    }

    /// Whether flushed packets are still on the ring because the kernel was busy or the link is
    /// down. [`LinkQueue::service`] retries. The kernel doesn't notify when a retry would succeed,
    /// so until then a worker should sleep for milliseconds at most.
    #[must_use]
    pub fn has_unsent(&self) -> bool {
        self.unsent
    }

    /// Whether the fill ring may lack frames: they ran out when it was to be refilled, or another
    /// worker was doing that, and may not have seen what this queue received.
    /// [`LinkQueue::service`] retries. A link with an empty fill ring receives nothing, so a worker
    /// must do that unasked, as with [`LinkQueue::has_unsent`].
    #[must_use]
    pub fn needs_refill(&self) -> bool {
        self.needs_refill
    }

    /// Whether the kernel has left so much on the transmit ring that nothing is added to it. A
    /// pod that drops packets must not keep the frames of others.
    #[must_use]
    pub fn is_stalled(&self) -> bool {
        self.stalled
    }

    /// Whether the receive ring has packets.
    #[must_use]
    pub fn has_received(&mut self) -> bool {
        self.rx.available(1) > 0
    }

    /// Appends up to `max` received packets to `out` and returns their number; fewer than `max` if
    /// the ring became empty.
    ///
    /// An incomplete packet is kept until its last frame is received ([`LinkQueue::held_frames`]).
    #[inline]
    pub fn receive(&mut self, pool: &mut FramePool, out: &mut Vec<Packet>, max: usize) -> usize {
        let ownership = self.umem.ownership(self.id);
        let (mut packets, mut seen) = (0, 0);
        let before = out.len();
        let (a, b) = self.rx.peek(u32::MAX);
        'full: for run in [a, b] {
            for desc in run {
                if packets == max {
                    break 'full;
                }
                seen += 1;
                packets += usize::from(self.assembler.push(desc, &ownership, pool, out));
            }
        }
        if seen > 0 {
            self.rx.release(seen);
        }
        pool.copy_to_hot_frames(&mut out[before..]);
        packets
    }

    /// Whether [`LinkQueue::transmit`] would take packets of this many frames in total.
    #[inline]
    pub fn has_room(&mut self, frames: usize) -> bool {
        self.state == LinkState::Up
            && !self.stalled
            && self.tx.free(u32::try_from(frames).unwrap_or(u32::MAX)) as usize >= frames
    }

    /// Puts a packet on the transmit ring; [`LinkQueue::flush`] transmits it.
    ///
    /// # Errors
    /// The unchanged packet, when the ring has no room for all its frames, when the link is
    /// stalled or not [`LinkState::Up`], or when the kernel would reject the packet because it has
    /// more than [`PACKET_FRAMES_MAX`] frames or an empty one.
    #[inline]
    pub fn transmit(&mut self, pool: &mut FramePool, packet: Packet) -> Result<(), Packet> {
        let frames = packet.frames();
        if !self.has_room(frames) {
            return Err(packet);
        }
        if frames == 1 {
            let Packet { head, tail, largest_fragment, fragment_id, csum_partial } = packet;
            let sent = self.transmit_frame(pool, head, csum_partial);
            return match sent {
                Ok(()) => {
                    pool.recycle_tail(tail);
                    Ok(())
                }
                Err(head) => {
                    Err(Packet { head, tail, largest_fragment, fragment_id, csum_partial })
                }
            };
        }
        if frames > PACKET_FRAMES_MAX
            || packet.head.is_empty()
            || packet.tail.iter().any(Frame::is_empty)
        {
            return Err(packet);
        }
        let Packet { mut head, mut tail, csum_partial, .. } = packet;
        let first = first_options(&self.umem, &mut head, csum_partial) | XDP_PKT_CONTD;
        self.put(head, first);
        let mut left = tail.len();
        for frame in tail.drain(..) {
            left -= 1;
            self.put(frame, if left > 0 { XDP_PKT_CONTD } else { 0 });
        }
        pool.account_sent(frames);
        pool.recycle_tail(tail);
        Ok(())
    }

    /// The same for a packet of one frame.
    ///
    /// # Errors
    /// The frame, in the cases of [`Self::transmit`].
    ///
    /// # Panics
    /// When the frame is one of another UMEM than the link's.
    #[inline(always)]
    pub fn transmit_frame(
        &mut self,
        pool: &mut FramePool,
        mut head: Frame,
        csum_partial: CsumPartial,
    ) -> Result<(), Frame> {
        if self.state != LinkState::Up || self.stalled || head.is_empty() {
            return Err(head);
        }
        let Some(slot) = self.tx.free_slot() else { return Err(head) };
        let options = first_options(&self.umem, &mut head, csum_partial);
        put(slot, self.umem.ownership(self.id), head, options);
        pool.account_sent(1);
        Ok(())
    }

    /// Puts a frame of a packet on the ring, which must have room.
    fn put(&mut self, frame: Frame, options: u32) {
        let Some(slot) = self.tx.free_slot() else { unreachable!("the caller checked for room") };
        put(slot, self.umem.ownership(self.id), frame, options);
    }

    /// Transmits the packets on the transmit ring, usually with one system call. Packets that a
    /// busy kernel leaves on the ring are transmitted by a later flush or [`LinkQueue::service`].
    #[inline]
    pub fn flush(&mut self) {
        self.unsent |= self.tx.publish() && self.state != LinkState::Gone;
        self.send();
    }

    /// Reclaims transmitted frames and refills the fill ring, unless another worker of the link is
    /// doing that. Retries an incomplete flush.
    #[inline]
    pub fn service(&mut self, pool: &mut FramePool) {
        let serviced = self.link.service(pool);
        self.needs_refill = serviced.as_ref().is_none_or(|serviced| serviced.starved);
        if let Some(Serviced { false_completions, starved }) = serviced {
            self.counters.false_completions += false_completions;
            self.counters.starved += u64::from(starved);
        }
        self.send();
    }

    /// [`LinkQueue::service`] while another worker services the link.
    #[cfg(test)]
    pub(super) fn service_beside_another(&mut self, pool: &mut FramePool) {
        let link = Arc::clone(&self.link);
        let _rings = link.lock_rings();
        self.service(pool);
    }

    #[inline]
    fn send(&mut self) {
        if self.unsent {
            self.wake();
        }
    }

    /// Calls the kernel until the transmit ring is empty, or until it stops for another reason than
    /// its budget per call. In particular it stops at each packet that the device drops: a pod that
    /// has set its interface down must not cost us a system call per packet.
    fn wake(&mut self) {
        let Self { link, tx, counters, .. } = self;
        let Some(sockets) = link.sockets(self.worker).filter(|_| tx.needs_wakeup()) else {
            (self.unsent, self.stalled) = (false, false);
            return;
        };
        let mut left = tx.in_use();
        for _ in 0..WAKEUPS_MAX {
            let result = sys::wake(sockets.tx.as_fd());
            counters.wakeups += 1;
            let error = result.err().and_then(|error| error.raw_os_error());
            let state = state_after(error);
            counters.wakeup_errors += u64::from(state.is_none());
            self.state = state.unwrap_or(LinkState::Up);
            let before = std::mem::replace(&mut left, tx.in_use());
            let budget_spent = error == Some(libc::EAGAIN) && left < before;
            if left == 0 || !budget_spent {
                break;
            }
        }
        self.unsent = left > 0 && self.state != LinkState::Gone;
        self.stalled =
            self.unsent && left > UNSENT_MIN.max(self.umem.spare_frames() / UNSENT_SHARE);
    }

    /// Frames of an incomplete packet. They are part of [`FramePool::outstanding`].
    #[must_use]
    pub fn held_frames(&self) -> usize {
        self.assembler.held_frames()
    }

    /// Counters of the queue.
    #[must_use]
    pub fn statistics(&self) -> XskStatistics {
        // The sockets of a removed link still have statistics; on an error, report zeros.
        let of = |socket: &Socket| -> sys::Statistics {
            sys::option(socket.as_fd(), sys::XDP_STATISTICS).unwrap_or_default()
        };
        let sockets = self.link.sockets(self.worker);
        let [rx, tx] =
            sockets.map(|sockets| [of(&sockets.rx), of(&sockets.tx)]).unwrap_or_default();
        XskStatistics {
            false_descriptors: self.assembler.false_descriptors + self.counters.false_completions,
            oversized: self.assembler.oversized,
            starved: self.counters.starved,
            wakeups: self.counters.wakeups,
            wakeup_errors: self.counters.wakeup_errors,
            rx_dropped: rx.rx_dropped,
            rx_invalid: rx.rx_invalid_descs,
            tx_invalid: tx.tx_invalid_descs,
            rx_ring_full: rx.rx_ring_full,
            // Each socket of a link reports the one fill ring (`xsk_getsockopt`,
            // `net/xdp/xsk.c`); count it once.
            fill_ring_empty: if self.worker == 0 { rx.rx_fill_ring_empty_descs } else { 0 },
            tx_ring_empty: tx.tx_ring_empty_descs,
        }
    }

    /// Closes the queue and frees the frames in [`LinkQueue::held_frames`].
    pub fn close(mut self, pool: &mut FramePool) {
        self.free_held_frames(pool);
    }

    /// Frees the frames in [`LinkQueue::held_frames`], before the queue is dropped.
    pub fn free_held_frames(&mut self, pool: &mut FramePool) {
        if let Some(packet) = self.assembler.take_partial() {
            pool.free_packet(packet);
        }
    }
}

/// Threads that close sockets in parallel, at most.
const CLOSING_THREADS: usize = 128;

/// Drops queues, and so closes the sockets of links that have no other queues.
///
/// Closing a bound socket takes an RCU grace period, some 10 ms (`xsk_unbind_dev`,
/// `net/xdp/xsk.c`). Parallel closes share one grace period, hence the threads.
pub fn close_queues(queues: Vec<LinkQueue>) {
    let threads = queues.len().min(CLOSING_THREADS);
    let waiting = Mutex::new(queues.into_iter());
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
    thread::scope(|scope| {
        for _ in 1..threads {
            let close = || while next().map(drop).is_some() {};
            // If no thread can be started, closing only takes longer.
            let _ = thread::Builder::new().name("pg-close".into()).spawn_scoped(scope, close);
        }
        while next().map(drop).is_some() {}
    });
}

/// Writes a frame's descriptor to a slot of the transmit ring.
#[inline]
fn put(slot: FreeSlot<'_, Desc>, ownership: FrameOwnership<'_>, frame: Frame, options: u32) {
    let len = frame.len();
    let addr = ownership.to_kernel(frame);
    slot.put(Desc { addr, len, options });
}

/// Options of a packet's first descriptor.
#[inline]
fn first_options(umem: &Umem, head: &mut Frame, csum_partial: CsumPartial) -> u32 {
    match csum_partial.start_and_offset() {
        None => 0,
        Some(position) => {
            write_csum_metadata(umem, head, position);
            XDP_TX_METADATA
        }
    }
}

/// Writes `struct xsk_tx_metadata` into the headroom of a packet's first frame: the kernel is to
/// complete the checksum that begins at `start` and is stored `offset` bytes after that.
#[inline(never)]
fn write_csum_metadata(umem: &Umem, frame: &mut Frame, (start, offset): (u16, u16)) {
    const LEN: u32 = TX_METADATA_LEN;
    let [start, offset] = [start, offset].map(u16::to_ne_bytes);
    let flags = XDP_TXMD_FLAGS_CHECKSUM.to_ne_bytes();
    let mut metadata = [0; LEN as usize];
    let fields = flags.into_iter().chain(start).chain(offset);
    metadata.iter_mut().zip(fields).for_each(|(to, from)| *to = from);
    frame.with_extent_before(LEN, |before| umem.data_mut(before).copy_from_slice(&metadata));
}

/// The link's state after a wakeup failed with `error` (`__xsk_sendmsg` and `__xsk_generic_xmit`,
/// `net/xdp/xsk.c`); `None` for an unexpected error.
fn state_after(error: Option<i32>) -> Option<LinkState> {
    match error {
        Some(libc::ENXIO | libc::EBADF) => Some(LinkState::Gone),
        Some(libc::ENETDOWN) => Some(LinkState::Down),
        // Budget used up; completion ring, device queue or memory full; or the device dropped a
        // packet.
        None | Some(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS) => Some(LinkState::Up),
        Some(_) => None,
    }
}

impl Drop for LinkQueue {
    fn drop(&mut self) {
        if let Some(packet) = self.assembler.take_partial() {
            self.umem.free_frames(std::iter::once(packet.head).chain(packet.tail));
        }
    }
}

impl std::fmt::Debug for LinkQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LinkQueue").field("link", &self.link()).finish_non_exhaustive()
    }
}
