//! The ways out of a worker: transmit, hand off, drop. Each packet takes exactly one, and each
//! counts.

use std::sync::Arc;

use podgate_tables::drop_reason::DropReason;
use podgate_tables::event::Event;
use podgate_tables::ids::LinkId;
use podgate_tables::route::NextHop;
use podgate_tables::time::Nanos;

use crate::event_ring::EventRing;
use crate::packet::edit;
use crate::share::{Holdings, Shares};
use crate::stats::{LinkStatistics, ShareRefusals, WorkerStats};
use crate::worker::Shared;
use crate::xsk::{Frame, FramePool, LinkState, Packet, Port, Umem, Unfinished, XskStatistics};

use super::reply_limit::ReplyLimit;

/// Whether a transmitted packet came from somebody or was built here: they count apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Origin {
    Received,
    Own,
}

/// What inspected flows keep.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kept {
    /// Frames of segments that wait.
    Frames,
    /// Bytes of memory for their streams.
    Bytes,
}

/// A worker's ports and frames.
#[derive(Debug)]
pub(super) struct Egress {
    index: u16,
    shared: Arc<Shared>,
    umem: Arc<Umem>,
    pool: FramePool,
    gates: Vec<Option<Gate>>,
    /// What ports counted that are closed.
    closed: XskStatistics,
    /// Links with packets in their transmit ring that the kernel was not told of yet, each once.
    unflushed: Vec<LinkId>,
    /// Frames that inspected flows keep, by the opener's link.
    held_frames: Holdings,
    /// Bytes of memory that inspected flows take for their streams, likewise.
    kept_bytes: Holdings,
    icmp_errors: ReplyLimit,
    tcp_resets: ReplyLimit,
    /// Events on the ring, by link.
    told: Shares,
    /// Packets on our rings to each worker, by link.
    handed: Vec<Shares>,
}

/// A port, and whether its link is one of [`Egress::unflushed`].
#[derive(Debug)]
struct Gate {
    port: Port,
    unflushed: bool,
    /// Packets put on the transmit ring since the last flush, and how many of those were
    /// attributed.
    sent: u32,
    attributed: u32,
    /// Whom they were attributed to. A link that finds no place counts as the last one.
    senders: [(LinkId, u32); SENDERS],
    /// Packets taken off the receive ring.
    received: u64,
    refused: ShareRefusals,
}

/// Links that packets of one round to one link are told apart by.
const SENDERS: usize = 4;

impl Gate {
    /// Notes the link as one with packets that the kernel was not told of.
    #[inline]
    fn note_unflushed(&mut self, links: &mut Vec<LinkId>) {
        self.sent = self.sent.wrapping_add(1);
        if !std::mem::replace(&mut self.unflushed, true) {
            links.push(self.port.link());
        }
    }

    const fn new(port: Port) -> Self {
        Self {
            port,
            unflushed: false,
            sent: 0,
            attributed: 0,
            senders: [(LinkId(0), 0); SENDERS],
            received: 0,
            refused: ShareRefusals { flows: 0, inspected: 0, kept: 0, handoffs: 0, events: 0 },
        }
    }

    /// Notes that packets put on the ring since the last call came by `from`.
    fn attribute(&mut self, from: LinkId) {
        let packets = self.sent.wrapping_sub(self.attributed);
        if packets == 0 {
            return;
        }
        self.attributed = self.sent;
        let at = self.senders.iter().position(|(link, sent)| *sent == 0 || *link == from);
        let (link, sent) = &mut self.senders[at.unwrap_or(SENDERS - 1)];
        (*link, *sent) = (from, *sent + packets);
    }

    /// Divides the time of a flush among those who had it made.
    fn divide(&mut self, nanos: u64, mut charge: impl FnMut(LinkId, u64)) {
        let all: u64 = self.senders.iter().map(|(_, sent)| u64::from(*sent)).sum();
        for (link, sent) in &mut self.senders {
            if *sent > 0 {
                charge(*link, nanos * u64::from(*sent) / all);
            }
            *sent = 0;
        }
    }
}

/// Part of the UMEM that inspected flows of all workers may keep at most: one in so many frames.
/// The rest is for packets that move.
const HELD_SHARE: usize = 8;

/// Bytes of memory that a worker's inspected flows may take for their streams, for each of those
/// there may be: more than one takes that waits for its next request, and as much as the largest
/// head.
const KEPT_PER_FLOW: usize = 16 * 1024;

impl Egress {
    pub(super) fn new(index: u16, shared: &Arc<Shared>, pool: FramePool) -> Self {
        let config = &shared.config;
        let workers = usize::from(config.workers);
        let frames = pool.umem().frames() as usize / (workers * HELD_SHARE);
        let bytes = config.inspected_per_worker as usize * KEPT_PER_FLOW;
        Self {
            index,
            shared: Arc::clone(shared),
            umem: Arc::clone(pool.umem()),
            pool,
            gates: Vec::new(),
            closed: XskStatistics::default(),
            unflushed: Vec::new(),
            held_frames: Holdings::new(frames),
            kept_bytes: Holdings::new(bytes),
            icmp_errors: ReplyLimit::icmp_errors(),
            tcp_resets: ReplyLimit::tcp_resets(),
            told: Shares::default(),
            handed: (0..workers).map(|_| Shares::default()).collect(),
        }
    }

    pub(super) fn stats(&self) -> &WorkerStats {
        &self.shared.stats[usize::from(self.index)]
    }

    pub(super) fn umem(&self) -> &Umem {
        &self.umem
    }

    pub(super) fn links(&self) -> usize {
        self.gates.len()
    }

    pub(super) fn ports(&self) -> impl Iterator<Item = &Port> {
        self.gates.iter().flatten().map(|gate| &gate.port)
    }

    pub(super) fn add_port(&mut self, mut port: Port) {
        let slot = port.link().index();
        if self.gates.len() <= slot {
            self.gates.resize_with(slot + 1, || None);
            self.unflushed.reserve(slot + 1);
        }
        drop(self.take_port(port.link()));
        port.service(&mut self.pool);
        self.gates[slot] = Some(Gate::new(port));
    }

    /// Gives up the port on `link`, with what it counted added up and its frames settled for.
    pub(super) fn take_port(&mut self, link: LinkId) -> Option<Port> {
        self.unflushed.retain(|unflushed| *unflushed != link);
        let Gate { mut port, .. } = self.gates.get_mut(link.index()).and_then(Option::take)?;
        self.closed += port.statistics();
        port.settle(&mut self.pool);
        Some(port)
    }

    /// What all ports counted so far, those that are closed too. Asks the kernel of each socket.
    pub(super) fn port_statistics(&self) -> XskStatistics {
        self.ports().fold(self.closed, |mut sum, port| {
            sum += port.statistics();
            sum
        })
    }

    /// Fills `batch` from `link`'s receive ring and keeps the link's fill ring topped up.
    pub(super) fn receive(&mut self, link: LinkId, batch: &mut Vec<Packet>, max: usize) -> usize {
        let Some(Some(Gate { port, received: total, .. })) = self.gates.get_mut(link.index())
        else {
            return 0;
        };
        let received = port.receive(&mut self.pool, batch, max);
        if received > 0 {
            port.service(&mut self.pool);
            *total += received as u64;
        }
        received
    }

    /// Whether packets of `link` wait on its receive ring.
    pub(super) fn has_received(&mut self, link: LinkId) -> bool {
        let gate = self.gates.get_mut(link.index()).and_then(Option::as_mut);
        gate.is_some_and(|gate| gate.port.has_received())
    }

    /// Notes that what was transmitted since the last call came by `from`.
    pub(super) fn attribute(&mut self, from: LinkId) {
        for link in &self.unflushed {
            if let Some(gate) = &mut self.gates[link.index()] {
                gate.attribute(from);
            }
        }
    }

    /// Where refusals of `link`'s are counted, if it is served.
    pub(super) fn refused(&mut self, link: LinkId) -> Option<&mut ShareRefusals> {
        Some(&mut self.gates.get_mut(link.index())?.as_mut()?.refused)
    }

    /// What each link's port counted, and its share refused. Asks the kernel of each socket.
    pub(super) fn link_statistics(&self) -> Vec<LinkStatistics> {
        let of = |gate: &Gate| LinkStatistics {
            link: gate.port.link(),
            received: gate.received,
            sockets: gate.port.statistics(),
            refused: gate.refused,
        };
        self.gates.iter().flatten().map(of).collect()
    }

    pub(super) fn alloc(&mut self) -> Option<Frame> {
        self.pool.alloc()
    }

    pub(super) fn free(&mut self, frame: Frame) {
        self.pool.free(frame);
    }

    /// Takes back a packet that has ended in another way.
    pub(super) fn free_packet(&mut self, packet: Packet) {
        self.pool.free_packet(packet);
    }

    /// The memory and the free frames, to build packets with.
    pub(super) fn frames(&mut self) -> (&Umem, &mut FramePool) {
        (&self.umem, &mut self.pool)
    }

    /// Takes one ICMP error to `link` off the limit, if there is one left.
    pub(super) fn may_complain(&mut self, link: LinkId, now: Nanos) -> bool {
        self.icmp_errors.take(link, now)
    }

    /// The same for a TCP reset.
    pub(super) fn may_reset(&mut self, link: LinkId, now: Nanos) -> bool {
        self.tcp_resets.take(link, now)
    }

    /// Whether flows of `link` may keep so many more frames, or bytes for their streams.
    pub(super) fn take_kept(&mut self, link: LinkId, kept: Kept, places: usize) -> bool {
        let may = match kept {
            Kept::Frames => self.held_frames.take(link, places),
            Kept::Bytes => self.kept_bytes.take(link, places),
        };
        if !may && let Some(refused) = self.refused(link) {
            refused.kept += 1;
        }
        may
    }

    /// Frames that inspected flows keep. Flows of one link keep no more than they leave to others.
    pub(super) fn held_frames(&mut self) -> &mut Holdings {
        &mut self.held_frames
    }

    /// Bytes of memory that inspected flows take for their streams, likewise.
    pub(super) fn kept_bytes(&mut self) -> &mut Holdings {
        &mut self.kept_bytes
    }

    /// Sends `packet` out of `next_hop`, with the MACs that belong there.
    #[inline]
    pub(super) fn transmit(&mut self, next_hop: &NextHop, mut packet: Packet, origin: Origin) {
        let bytes = u64::from(packet.len());
        edit::set_macs(self.umem.data_mut(&mut packet.head), next_hop.mac, next_hop.link_mac);
        let Some(Some(gate)) = self.gates.get_mut(next_hop.link.index()) else {
            return self.discard(packet, DropReason::LinkGone);
        };
        let port = &mut gate.port;
        let sent = port.transmit(&mut self.pool, packet).or_else(|packet| {
            // The ring is full of packets that the kernel was not told of, or has not completed.
            port.flush();
            port.service(&mut self.pool);
            port.transmit(&mut self.pool, packet)
        });
        if let Err(packet) = sent {
            let is_up = port.state() == LinkState::Up;
            let reason = if is_up { DropReason::TxRingFull } else { DropReason::LinkGone };
            return self.discard(packet, reason);
        }
        gate.note_unflushed(&mut self.unflushed);
        let stats = self.stats();
        let tally = match origin {
            Origin::Received => &stats.forwarded,
            Origin::Own => &stats.originated,
        };
        tally.count(1, bytes);
    }

    /// The same for the one frame of a packet that somebody sent and that has its MACs. Doesn't
    /// count it: the caller does that for a batch.
    ///
    /// # Errors
    /// The frame, if the link is not up or its ring is full: [`Self::transmit`] sees to that.
    #[inline]
    pub(super) fn transmit_usual(
        &mut self,
        link: LinkId,
        frame: Frame,
        unfinished: Unfinished,
    ) -> Result<(), Frame> {
        let Some(Some(gate)) = self.gates.get_mut(link.index()) else { return Err(frame) };
        gate.port.transmit_frame(&mut self.pool, frame, unfinished)?;
        gate.note_unflushed(&mut self.unflushed);
        Ok(())
    }

    /// Tells the kernel of everything transmitted in this round. `charge` is told how many
    /// nanoseconds that took for the packets of which link.
    pub(super) fn flush(
        &mut self,
        clock: &impl Fn() -> Nanos,
        mut charge: impl FnMut(LinkId, u64),
    ) {
        if self.unflushed.is_empty() {
            return;
        }
        let mut begun = clock();
        for index in (0..self.unflushed.len()).rev() {
            let link = self.unflushed[index];
            let Some(gate) = &mut self.gates[link.index()] else { continue };
            gate.port.flush();
            gate.port.service(&mut self.pool);
            let done = clock();
            gate.divide(done.since(begun), &mut charge);
            begun = done;
            if !gate.port.has_unsent() {
                self.unflushed.swap_remove(index);
                gate.unflushed = false;
            }
        }
    }

    /// Whether a flush has to be tried again.
    pub(super) fn has_unsent(&self) -> bool {
        !self.unflushed.is_empty()
    }

    pub(super) fn discard(&mut self, packet: Packet, reason: DropReason) {
        self.stats().dropped[reason as usize].count(1, u64::from(packet.len()));
        self.pool.free_packet(packet);
    }

    /// Drops a packet that came before the first snapshot.
    pub(super) fn discard_unready(&mut self, packet: Packet) {
        self.stats().received.count(1, u64::from(packet.len()));
        self.discard(packet, DropReason::NotReady);
    }

    /// Passes a packet to the worker that owns its flow, unless our ring to that one is full or
    /// `link` has had its share of it.
    pub(super) fn hand_off(&mut self, worker: u16, link: LinkId, packet: Packet) {
        let frames = packet.frames();
        let (waiting, free) = self.shared.handoffs_and_room(self.index, worker);
        let shares = &mut self.handed[usize::from(worker)];
        if waiting == 0 {
            shares.start_over();
        }
        if !shares.take(link, free) {
            if let Some(refused) = self.refused(link) {
                refused.handoffs += 1;
            }
            return self.discard(packet, DropReason::HandoffFull);
        }
        match self.shared.hand_off(self.index, worker, link, packet) {
            Ok(()) => {
                self.pool.note_sent(frames);
                self.stats().handed_off.add(1);
            }
            Err(packet) => self.discard(packet, DropReason::HandoffFull),
        }
    }

    /// Notes that another worker's packet is ours now.
    pub(super) fn note_taken_over(&mut self, packet: &Packet) {
        self.pool.note_received(packet.frames());
    }

    /// Puts an event on the ring to the control thread, unless the ring is full or its link has had
    /// its share: a flood of refused packets must not keep other pods' events out.
    pub(super) fn tell(&mut self, event: Event<()>) {
        if !self.may_tell(event.link) || !self.events().push(event) {
            self.stats().events_lost.add(1);
        }
    }

    /// The same for an event that may be about a request.
    pub(super) fn tell_with_request(&mut self, event: Event) {
        if !self.may_tell(event.link) || !self.events().push_with_request(event) {
            self.stats().events_lost.add(1);
        }
    }

    fn events(&self) -> &EventRing {
        &self.shared.events[usize::from(self.index)]
    }

    /// Whether the ring has a place for `link`; if so, it takes it.
    fn may_tell(&mut self, link: LinkId) -> bool {
        let ring = self.events();
        let (waiting, capacity) = (ring.len(), ring.capacity());
        if waiting == 0 {
            self.told.start_over();
        }
        let may = self.told.take(link, capacity - waiting);
        if !may && let Some(refused) = self.refused(link) {
            refused.events += 1;
        }
        may
    }

    /// Frames that are neither free nor in a ring nor part of a packet that a port is still
    /// receiving.
    pub(super) fn outstanding_frames(&self) -> i64 {
        let partial: usize = self.ports().map(Port::held_frames).sum();
        self.pool.outstanding() - partial as i64
    }
}
