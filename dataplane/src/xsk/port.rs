//! One worker's rings on one link.

use std::ops::AddAssign;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use podgate_tables::ids::LinkId;

use super::assemble::{Assembler, PACKET_FRAMES_MAX};
use super::frame::{Frame, FramePool, Packet, Unfinished};
use super::link::Link;
use super::ring::{Rx, Tx, Vacancy};
use super::socket::Socket;
use super::sys::{self, Desc, XDP_PKT_CONTD, XDP_TX_METADATA};
use super::umem::{Desk, Umem};

/// Calls to the kernel in one flush, at most: enough to empty a ring of 2048 entries where a call
/// takes 32 of them (`TX_BATCH_SIZE`, `net/xdp/xsk.c`).
const WAKEUPS_MAX: u32 = 64;

/// One worker's way to receive from and transmit to one link.
///
/// A round is: [`Port::receive`], [`Port::transmit`] for each packet, [`Port::flush`] and
/// [`Port::service`]. When the last port of a link is dropped its sockets close, and the frames
/// that were in its rings become spare again.
pub struct Port {
    rx: Rx,
    tx: Tx,
    assembler: Assembler,
    /// Whether the kernel may have left published entries on the transmit ring.
    unsent: bool,
    state: LinkState,
    counters: Counters,
    worker: usize,
    /// The link's number and its memory: copies, since the way to the originals is long.
    id: LinkId,
    umem: Arc<Umem>,
    // After the rings: the last port's drop closes the link, which must find them unmapped.
    link: Arc<Link>,
}

/// What the kernel said of the link when it was last asked to transmit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkState {
    /// It takes packets.
    Up,
    /// It is administratively down, and may come up again.
    Down,
    /// It was removed. No socket of it will ever work again.
    Gone,
}

/// What happened on a port, in its own count.
#[derive(Default)]
struct Counters {
    false_completions: u64,
    starved: u64,
    wakeups: u64,
    wakeup_errors: u64,
}

/// Counters of one port: what userspace counted, and the kernel's `XDP_STATISTICS` of its sockets
/// (all zero on a memory link).
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct XskStatistics {
    /// Receive descriptors and completions that named a frame which the link did not hold, or
    /// bytes outside of a frame. Always zero with a sound kernel.
    pub false_descriptors: u64,
    /// Packets dropped for having more than [`PACKET_FRAMES_MAX`] frames.
    pub oversized: u64,
    /// Times that no free frame was left to fill up the fill ring.
    pub starved: u64,
    /// Calls to the kernel to transmit.
    pub wakeups: u64,
    /// Of these, the ones that failed for another reason than a busy or vanished link.
    pub wakeup_errors: u64,
    /// Packets that the kernel dropped for want of a frame in the fill ring.
    pub rx_dropped: u64,
    /// Addresses in the fill ring that the kernel refused.
    pub rx_invalid: u64,
    /// Descriptors in the transmit ring that the kernel refused.
    pub tx_invalid: u64,
    /// Packets that the kernel dropped because the receive ring was full.
    pub rx_ring_full: u64,
    /// Times that the kernel found the link's fill ring empty; the first worker's port counts it.
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

impl Port {
    pub(super) fn new(worker: usize, rx: Rx, tx: Tx, link: Arc<Link>) -> Self {
        let (assembler, counters) = Default::default();
        let (id, umem) = (link.id(), Arc::clone(link.umem()));
        let state = LinkState::Up;
        Self { rx, tx, assembler, unsent: false, state, counters, worker, id, umem, link }
    }

    /// The link.
    #[must_use]
    pub fn link(&self) -> LinkId {
        self.id
    }

    /// The receiving socket, to put in the XSKMAP and to wait for; `None` on a memory link.
    ///
    /// It must not be duplicated: a socket that stays open beyond its ports would let the kernel
    /// write to frames that were given back.
    #[must_use]
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.link.sockets(self.worker).map(|sockets| sockets.rx.as_fd())
    }

    /// Whether the link still took packets at the last flush.
    #[must_use]
    pub fn state(&self) -> LinkState {
        self.state
    }

    /// Whether flushed packets wait because the kernel was busy or the link is down.
    /// [`Port::service`] tries again, and nothing tells when it would succeed: meanwhile a worker
    /// should sleep for milliseconds at most.
    #[must_use]
    pub fn has_unsent(&self) -> bool {
        self.unsent
    }

    /// Whether the receive ring has packets.
    #[must_use]
    pub fn has_received(&mut self) -> bool {
        self.rx.available(1) > 0
    }

    /// Appends up to `max` received packets to `out` and returns how many. Less than `max` means
    /// that the ring was found empty.
    ///
    /// A packet of which not all frames have come yet stays inside until they have
    /// ([`Port::held_frames`]).
    #[inline]
    pub fn receive(&mut self, pool: &mut FramePool, out: &mut Vec<Packet>, max: usize) -> usize {
        let desk = self.umem.desk(self.id);
        let (mut packets, mut seen) = (0, 0);
        let before = out.len();
        let (a, b) = self.rx.peek(u32::MAX);
        'full: for run in [a, b] {
            for desc in run {
                if packets == max {
                    break 'full;
                }
                seen += 1;
                packets += usize::from(self.assembler.push(desc, &desk, pool, out));
            }
        }
        if seen > 0 {
            self.rx.release(seen);
        }
        pool.bring_near(&mut out[before..]);
        packets
    }

    /// Puts a packet on the transmit ring; [`Port::flush`] sends it.
    ///
    /// # Errors
    /// The packet, untouched, when the ring has no room for all its frames, when the link is not
    /// [`LinkState::Up`], or when the kernel would never take the packet: it has more than
    /// [`PACKET_FRAMES_MAX`] frames or an empty one.
    #[inline]
    pub fn transmit(&mut self, pool: &mut FramePool, packet: Packet) -> Result<(), Packet> {
        let frames = packet.frames();
        if self.state != LinkState::Up || (self.tx.free(frames as u32) as usize) < frames {
            return Err(packet);
        }
        if frames == 1 {
            let Packet { head, tail, largest_fragment, unfinished } = packet;
            let sent = self.transmit_frame(pool, head, unfinished);
            return match sent {
                Ok(()) => {
                    pool.keep_tail(tail);
                    Ok(())
                }
                Err(head) => Err(Packet { head, tail, largest_fragment, unfinished }),
            };
        }
        if frames > PACKET_FRAMES_MAX
            || packet.head.is_empty()
            || packet.tail.iter().any(Frame::is_empty)
        {
            return Err(packet);
        }
        let Packet { mut head, mut tail, unfinished, .. } = packet;
        let first = options(&self.umem, &mut head, unfinished) | XDP_PKT_CONTD;
        self.put(head, first);
        let mut left = tail.len();
        for frame in tail.drain(..) {
            left -= 1;
            self.put(frame, if left > 0 { XDP_PKT_CONTD } else { 0 });
        }
        pool.note_sent(frames);
        pool.keep_tail(tail);
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
        unfinished: Unfinished,
    ) -> Result<(), Frame> {
        if self.state != LinkState::Up || head.is_empty() {
            return Err(head);
        }
        let Some(place) = self.tx.vacancy() else { return Err(head) };
        let options = options(&self.umem, &mut head, unfinished);
        put(place, self.umem.desk(self.id), head, options);
        pool.note_sent(1);
        Ok(())
    }

    /// A frame of a packet whose frames there is room for.
    fn put(&mut self, frame: Frame, options: u32) {
        let Some(place) = self.tx.vacancy() else { unreachable!("the caller looked for room") };
        put(place, self.umem.desk(self.id), frame, options);
    }

    /// Sends what was put on the transmit ring, as a rule with one call to the kernel. What a busy
    /// kernel leaves on the ring is sent by a later flush or [`Port::service`].
    #[inline]
    pub fn flush(&mut self) {
        self.unsent |= self.tx.publish() && self.state != LinkState::Gone;
        self.send();
    }

    /// Reclaims transmitted frames and tops up the fill ring, unless another worker of the link is
    /// at it. Tries again to send what the kernel was too busy for.
    #[inline]
    pub fn service(&mut self, pool: &mut FramePool) {
        let serviced = self.link.service(pool);
        self.counters.false_completions += serviced.false_completions;
        self.counters.starved += u64::from(serviced.starved);
        self.send();
    }

    #[inline]
    fn send(&mut self) {
        if self.unsent {
            self.wake();
        }
    }

    /// Calls the kernel until it has taken all of the transmit ring, or stops for another reason
    /// than the number of entries that it takes at once. In particular it stops at each packet
    /// that the device drops; a pod that has taken its interface down must not cost us a call for
    /// every packet to it.
    fn wake(&mut self) {
        let Self { link, tx, counters, .. } = self;
        let Some(sockets) = link.sockets(self.worker).filter(|_| tx.needs_wakeup()) else {
            self.unsent = false;
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
    }

    /// Frames of a packet whose rest has not come yet. They count as the worker's in
    /// [`FramePool::outstanding`].
    #[must_use]
    pub fn held_frames(&self) -> usize {
        self.assembler.held_frames()
    }

    /// Counters of the port.
    #[must_use]
    pub fn statistics(&self) -> XskStatistics {
        // A socket of a vanished link still tells; should it not, zeros are as good as any.
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
            // Each of the link's sockets tells of the one fill ring (`xsk_getsockopt`,
            // `net/xdp/xsk.c`); one port counts it.
            fill_ring_empty: if self.worker == 0 { rx.rx_fill_ring_empty_descs } else { 0 },
            tx_ring_empty: tx.tx_ring_empty_descs,
        }
    }

    /// Drops the port, and settles with the worker's pool for the frames in
    /// [`Port::held_frames`].
    pub fn close(mut self, pool: &mut FramePool) {
        self.settle(pool);
    }

    /// Gives the frames in [`Port::held_frames`] to the worker's pool, before the port is dropped.
    pub fn settle(&mut self, pool: &mut FramePool) {
        if let Some(packet) = self.assembler.take_partial() {
            pool.free_packet(packet);
        }
    }
}

/// Threads that close sockets at one time, at most.
const CLOSING_THREADS: usize = 128;

/// Drops ports, and so closes the sockets of the links whose last ports they are.
///
/// Closing a bound socket takes an RCU grace period, some 10 ms (`xsk_unbind_dev`,
/// `net/xdp/xsk.c`). Those that wait at one time wait for the same one, so it is done on many
/// threads.
pub fn close_ports(ports: Vec<Port>) {
    let threads = ports.len().min(CLOSING_THREADS);
    let waiting = Mutex::new(ports.into_iter());
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
    thread::scope(|scope| {
        for _ in 1..threads {
            let close = || while next().map(drop).is_some() {};
            // Without a thread it only takes longer.
            let _ = thread::Builder::new().name("pg-close".into()).spawn_scoped(scope, close);
        }
        while next().map(drop).is_some() {}
    });
}

/// Gives a frame away by a place of the transmit ring.
#[inline]
fn put(place: Vacancy<'_, Desc>, desk: Desk<'_>, frame: Frame, options: u32) {
    let len = frame.len();
    let addr = desk.give(frame);
    place.put(Desc { addr, len, options });
}

/// What the first descriptor of a packet says of it.
#[inline]
fn options(umem: &Umem, head: &mut Frame, unfinished: Unfinished) -> u32 {
    match unfinished.place() {
        None => 0,
        Some(place) => {
            umem.ask_for_checksum(head, place);
            XDP_TX_METADATA
        }
    }
}

/// What a wakeup's error number says of the link (`__xsk_sendmsg` and `__xsk_generic_xmit`,
/// `net/xdp/xsk.c`); `None` if no cause known there explains it.
fn state_after(error: Option<i32>) -> Option<LinkState> {
    match error {
        Some(libc::ENXIO | libc::EBADF) => Some(LinkState::Gone),
        Some(libc::ENETDOWN) => Some(LinkState::Down),
        // Out of budget, of room in the completion ring or the device, of memory; or the device
        // dropped a packet.
        None | Some(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS) => Some(LinkState::Up),
        Some(_) => None,
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        if let Some(packet) = self.assembler.take_partial() {
            self.umem.spare_again(std::iter::once(packet.head).chain(packet.tail));
        }
    }
}

impl std::fmt::Debug for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Port").field("link", &self.link()).finish_non_exhaustive()
    }
}
