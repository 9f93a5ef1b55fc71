//! A worker's queues and frames: receive, transmit, hand off and drop packets, emit events. Every
//! packet is transmitted, handed off or dropped, and counted.

use std::sync::Arc;

use podgate_tables::drop_reason::DropReason;
use podgate_tables::event::{Event, EventKind};
use podgate_tables::ids::{Epoch, LinkId};
use podgate_tables::l7::http1::HttpLimits;
use podgate_tables::route::NextHop;
use podgate_tables::service::L4Addr;
use podgate_tables::time::Nanos;
use podgate_tables::tuple::Tuple;

use crate::event_ring::EventRing;
use crate::flow::Opener;
use crate::mem::{CsumPartial, Frame, FramePool, Packet, Umem};
use crate::packet::fragment::FRAGMENTS_MAX;
use crate::packet::{Unparsed, edit, parse};
use crate::share::{FairShare, Quota};
use crate::stats::{LinkStatistics, OverQuota, WorkerStats};
use crate::worker::Shared;
use crate::xsk::{LinkQueue, LinkState, XskStatistics};

use super::capture::Capturing;
use super::dropped::{LinkPod, PodEnd, known_tuple};
use super::handoff_shares::HandoffShares;
use super::notice::Notice;
use super::rate_limit::RateLimit;
use super::rule_counters::RuleCounters;
use super::tx_queue::TxQueue;

/// Whether a transmitted packet was received or built here: they are counted separately.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Origin {
    Received,
    Own,
}

/// Resources that inspected flows share.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Resource {
    /// Frames of held segments.
    Frames,
    /// Bytes of stream buffers.
    Bytes,
}

/// A worker's queues and frames.
#[derive(Debug)]
pub(super) struct Egress {
    index: u16,
    shared: Arc<Shared>,
    umem: Arc<Umem>,
    pool: FramePool,
    /// By link.
    queues: Vec<Option<TxQueue>>,
    /// Counters of closed queues.
    closed: XskStatistics,
    /// Links with packets on their transmit ring that the kernel was not notified of, or with too
    /// few frames in their fill ring, each once.
    unflushed: Vec<LinkId>,
    /// Frames that inspected flows hold, by their opener.
    frame_quota: Quota,
    /// Bytes that inspected flows buffer, by their opener.
    byte_quota: Quota,
    icmp_errors: RateLimit,
    tcp_resets: RateLimit,
    /// Time of the round, and epoch of its tables.
    now: Nanos,
    epoch: Epoch,
    /// Rate limit of the events about dropped packets that no other event reports.
    drop_events: RateLimit,
    /// Events on the ring, by link.
    event_share: FairShare,
    handoff_shares: HandoffShares,
    /// Notices of ours on the ring to each worker, by link.
    notice_shares: Vec<FairShare>,
    /// DNS answers on the ring to the control thread, by link.
    answer_share: FairShare,
    rule_counters: RuleCounters,
    capturing: Option<Box<Capturing>>,
    /// Empty. Kept for its memory.
    fragments: Vec<Packet>,
}

/// Inspected flows of all workers may hold one in this many frames of the UMEM; the rest is for
/// packets in flight.
const HELD_SHARE: usize = 8;

/// L7 buffer budget per inspected flow, bytes: a large request head, which is more than a flow
/// between requests uses. Flows with larger heads use what others leave.
const BUFFERED_PER_FLOW: usize = 16 * 1024;
/// Heads of maximal length that the budget has room for at least.
const HEADS_MIN: usize = 16;

impl Egress {
    pub(super) fn new(index: u16, shared: &Arc<Shared>, pool: FramePool) -> Self {
        let config = &shared.config;
        let workers = usize::from(config.workers);
        let umem_frames = pool.umem().frames() as usize;
        let frames = umem_frames / (workers * HELD_SHARE);
        let heads = HEADS_MIN * (config.http.head as usize).next_power_of_two();
        let bytes = (config.inspected_per_worker as usize * BUFFERED_PER_FLOW).max(heads);
        Self {
            index,
            shared: Arc::clone(shared),
            umem: Arc::clone(pool.umem()),
            pool,
            queues: Vec::new(),
            closed: XskStatistics::default(),
            unflushed: Vec::new(),
            frame_quota: Quota::new(frames),
            byte_quota: Quota::new(bytes),
            icmp_errors: RateLimit::icmp_errors(),
            tcp_resets: RateLimit::tcp_resets(),
            now: Nanos::default(),
            epoch: Epoch::default(),
            drop_events: RateLimit::drop_events(),
            event_share: FairShare::default(),
            handoff_shares: HandoffShares::new(workers, umem_frames),
            notice_shares: (0..workers).map(|_| FairShare::default()).collect(),
            answer_share: FairShare::default(),
            rule_counters: RuleCounters::default(),
            capturing: None,
            fragments: Vec::with_capacity(FRAGMENTS_MAX as usize),
        }
    }

    pub(super) fn stats(&self) -> &WorkerStats {
        &self.shared.stats[usize::from(self.index)]
    }

    /// What this worker counts of policy rules.
    pub(super) fn rule_counters(&mut self) -> &mut RuleCounters {
        &mut self.rule_counters
    }

    pub(super) fn http_limits(&self) -> HttpLimits {
        self.shared.config.http
    }

    pub(super) fn umem(&self) -> &Umem {
        &self.umem
    }

    /// One more than the highest link number.
    pub(super) fn links(&self) -> usize {
        self.queues.len()
    }

    pub(super) fn queues(&self) -> impl Iterator<Item = &LinkQueue> {
        self.queues.iter().flatten().map(|tx| &tx.queue)
    }

    fn queue_mut(&mut self, link: LinkId) -> Option<&mut TxQueue> {
        self.queues.get_mut(link.index())?.as_mut()
    }

    pub(super) fn add_queue(&mut self, mut queue: LinkQueue) {
        let slot = queue.link().index();
        if self.queues.len() <= slot {
            self.queues.resize_with(slot + 1, || None);
            self.unflushed.reserve(slot + 1);
        }
        drop(self.take_queue(queue.link()));
        queue.service(&mut self.pool);
        let (link, needs_refill) = (queue.link(), queue.needs_refill());
        self.queues[slot] = Some(TxQueue::new(queue));
        if needs_refill {
            self.retry_refill(link);
        }
    }

    /// Removes the queue on `link`. Adds up its counters and frees the frames that it holds.
    pub(super) fn take_queue(&mut self, link: LinkId) -> Option<LinkQueue> {
        self.unflushed.retain(|unflushed| *unflushed != link);
        let TxQueue { mut queue, .. } = self.queues.get_mut(link.index()).and_then(Option::take)?;
        self.closed += queue.statistics();
        queue.free_held_frames(&mut self.pool);
        Some(queue)
    }

    /// Sum of the counters of all queues, closed ones included. Two system calls per queue.
    pub(super) fn socket_statistics(&self) -> XskStatistics {
        self.queues().fold(self.closed, |mut sum, queue| {
            sum += queue.statistics();
            sum
        })
    }

    /// Receives up to `max` packets from `link` into `batch`, and refills the link's fill ring.
    pub(super) fn receive(&mut self, link: LinkId, batch: &mut Vec<Packet>, max: usize) -> usize {
        let Some(Some(TxQueue { queue, received: total, .. })) = self.queues.get_mut(link.index())
        else {
            return 0;
        };
        let received = queue.receive(&mut self.pool, batch, max);
        if received > 0 {
            queue.service(&mut self.pool);
            *total += received as u64;
            if queue.needs_refill() {
                self.retry_refill(link);
            }
        }
        received
    }

    /// Has [`Self::flush`] refill the fill ring of `link` until frames suffice.
    #[cold]
    fn retry_refill(&mut self, link: LinkId) {
        let Some(Some(tx)) = self.queues.get_mut(link.index()) else { return };
        if !std::mem::replace(&mut tx.unflushed, true) {
            self.unflushed.push(link);
        }
    }

    /// Whether `link`'s receive ring has packets.
    pub(super) fn has_received(&mut self, link: LinkId) -> bool {
        self.queue_mut(link).is_some_and(|tx| tx.queue.has_received())
    }

    /// Attributes the packets transmitted since the last call to the link `from`.
    pub(super) fn attribute(&mut self, from: LinkId) {
        for link in &self.unflushed {
            if let Some(tx) = &mut self.queues[link.index()] {
                tx.attribute(from);
            }
        }
    }

    /// Counters of what `link` was denied by its shares, if it has a queue.
    pub(super) fn over_quota(&mut self, link: LinkId) -> Option<&mut OverQuota> {
        Some(&mut self.queue_mut(link)?.over_quota)
    }

    /// Counters of each link. Two system calls per queue.
    pub(super) fn link_statistics(&self) -> Vec<LinkStatistics> {
        let of = |tx: &TxQueue| LinkStatistics {
            link: tx.queue.link(),
            received: tx.received,
            sockets: tx.queue.statistics(),
            over_quota: tx.over_quota,
        };
        self.queues.iter().flatten().map(of).collect()
    }

    pub(super) fn alloc(&mut self) -> Option<Frame> {
        self.pool.alloc()
    }

    pub(super) fn free(&mut self, frame: Frame) {
        self.pool.free(frame);
    }

    /// Frees the frames of a packet that is neither transmitted nor dropped.
    pub(super) fn free_packet(&mut self, packet: Packet) {
        self.pool.free_packet(packet);
    }

    /// An empty list, for the fragments of a packet; see [`Self::put_fragments`].
    pub(super) fn take_fragments(&mut self) -> Vec<Packet> {
        std::mem::take(&mut self.fragments)
    }

    /// Keeps an empty list.
    pub(super) fn put_fragments(&mut self, list: Vec<Packet>) {
        debug_assert!(list.is_empty());
        self.fragments = list;
    }

    /// The UMEM and the pool, to build packets.
    pub(super) fn frames(&mut self) -> (&Umem, &mut FramePool) {
        (&self.umem, &mut self.pool)
    }

    /// The limit of ICMP errors.
    pub(super) fn icmp_errors(&mut self) -> &mut RateLimit {
        &mut self.icmp_errors
    }

    /// The limit of TCP resets for segments of unknown connections.
    pub(super) fn tcp_resets(&mut self) -> &mut RateLimit {
        &mut self.tcp_resets
    }

    /// Reserves `units` of a resource for an inspected flow, within its opener's share. Returns
    /// whether it did.
    pub(super) fn reserve(&mut self, opener: Opener, resource: Resource, units: usize) -> bool {
        let reserved = match resource {
            Resource::Frames => self.frame_quota.take(opener, units),
            Resource::Bytes => self.byte_quota.take(opener, units),
        };
        if !reserved && let Some(over) = self.over_quota(opener.link()) {
            over.buffers += 1;
        }
        reserved
    }

    /// Frames that inspected flows hold.
    pub(super) fn frame_quota(&mut self) -> &mut Quota {
        &mut self.frame_quota
    }

    /// Bytes that inspected flows buffer.
    pub(super) fn byte_quota(&mut self) -> &mut Quota {
        &mut self.byte_quota
    }

    /// Copies packets for this capture, or for none.
    pub(super) fn set_capturing(&mut self, capturing: Option<Capturing>) {
        self.capturing = capturing.map(Box::new);
    }

    /// Whether packets are copied.
    #[inline]
    pub(super) fn is_capturing(&self) -> bool {
        self.capturing.is_some()
    }

    /// The capture that packets are copied for.
    pub(super) fn capturing(&mut self) -> Option<&mut Capturing> {
        self.capturing.as_deref_mut()
    }

    /// Sets the time and epoch of events about dropped packets, and of copies.
    pub(super) fn begin_round(&mut self, now: Nanos, epoch: Epoch) {
        (self.now, self.epoch) = (now, epoch);
        if let Some(capturing) = &mut self.capturing {
            capturing.begin_round(now, epoch);
        }
    }

    /// Copies a received packet.
    pub(super) fn capture_received(&mut self, link: LinkId, packet: &Packet) {
        if let Some(capturing) = &mut self.capturing {
            capturing.received(&self.umem, link, packet);
        }
    }

    /// Copies a packet that another worker received and handed off.
    pub(super) fn capture_received_from_worker(&mut self, link: LinkId, packet: &Packet) {
        if let Some(capturing) = &mut self.capturing {
            capturing.received_from_worker(&self.umem, link, packet);
        }
    }

    /// Transmits `packet`, which came by the link `from`, to `next_hop`, with its Ethernet
    /// addresses.
    #[inline]
    pub(super) fn transmit(
        &mut self,
        from: LinkId,
        next_hop: &NextHop,
        mut packet: Packet,
        origin: Origin,
    ) {
        let bytes = u64::from(packet.len());
        edit::set_macs(self.umem.data_mut(&mut packet.head), next_hop.mac, next_hop.link_mac);
        if let Some(capturing) = &mut self.capturing {
            capturing.transmitted(&self.umem, next_hop.link, &packet, origin);
        }
        let Some(Some(tx)) = self.queues.get_mut(next_hop.link.index()) else {
            self.not_captured(next_hop.link);
            return self.drop_unsent(from, packet, (DropReason::LinkGone, origin));
        };
        let queue = &mut tx.queue;
        let sent = queue.transmit(&mut self.pool, packet).or_else(|packet| {
            if queue.is_stalled() {
                return Err(packet);
            }
            // The ring is full of packets that are not flushed or not completed.
            queue.flush();
            queue.service(&mut self.pool);
            queue.transmit(&mut self.pool, packet)
        });
        if let Err(packet) = sent {
            let reason = no_room(queue);
            self.not_captured(next_hop.link);
            return self.drop_unsent(from, packet, (reason, origin));
        }
        tx.count_sent(&mut self.unflushed);
        let stats = self.stats();
        let counter = match origin {
            Origin::Received => &stats.forwarded,
            Origin::Own => &stats.originated,
        };
        counter.count(1, bytes);
    }

    /// Checks that the transmit ring of `link` has room for all of `packets`, which are of no use
    /// without each other. Flushes the ring if it has to.
    ///
    /// # Errors
    /// The reason to drop them.
    pub(super) fn make_room(&mut self, link: LinkId, packets: &[Packet]) -> Result<(), DropReason> {
        let frames = packets.iter().map(Packet::frames).sum();
        let Some(Some(TxQueue { queue, .. })) = self.queues.get_mut(link.index()) else {
            return Err(DropReason::LinkGone);
        };
        if !queue.has_room(frames) && !queue.is_stalled() {
            queue.flush();
            queue.service(&mut self.pool);
        }
        if queue.has_room(frames) { Ok(()) } else { Err(no_room(queue)) }
    }

    /// The packet that was copied last was not transmitted.
    #[cold]
    fn not_captured(&mut self, link: LinkId) {
        if let Some(capturing) = &mut self.capturing {
            capturing.not_transmitted(link);
        }
    }

    /// Transmits the frame of a received single-frame packet, whose Ethernet addresses are already
    /// written. Does not count it as forwarded: the caller does that for a batch.
    ///
    /// # Errors
    /// The frame, if the link is not up or its ring is full; [`Self::transmit`] handles that.
    #[inline]
    pub(super) fn transmit_frame(
        &mut self,
        link: LinkId,
        frame: Frame,
        csum_partial: CsumPartial,
    ) -> Result<(), Frame> {
        let Some(Some(tx)) = self.queues.get_mut(link.index()) else { return Err(frame) };
        tx.queue.transmit_frame(&mut self.pool, frame, csum_partial)?;
        tx.count_sent(&mut self.unflushed);
        Ok(())
    }

    /// Flushes the transmit rings that were used in this round. Calls `charge` with each source
    /// link and its part of the time that this took, in nanoseconds.
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
            let Some(tx) = &mut self.queues[link.index()] else { continue };
            tx.queue.flush();
            tx.queue.service(&mut self.pool);
            let done = clock();
            tx.charge_sources(done.since(begun), &mut charge);
            begun = done;
            if !tx.queue.has_unsent() && !tx.queue.needs_refill() {
                self.unflushed.swap_remove(index);
                tx.unflushed = false;
            }
        }
    }

    /// Whether the last flush was incomplete, or a refill.
    pub(super) fn has_unsent(&self) -> bool {
        !self.unflushed.is_empty()
    }

    /// Drops a packet that came by the link `from`, with an event that says what its headers say.
    /// Under overload most drops exceed the rate limit: they have no event, and count as lost.
    #[cold]
    #[inline(never)]
    pub(super) fn drop_packet(&mut self, from: LinkId, packet: Packet, reason: DropReason) {
        if self.drop_events.take(from, self.now) {
            let frame = self.umem.data(&packet.head);
            let (tuple, kind) = match parse(frame, packet.len()) {
                Ok(view) => (view.tuple, EventKind::Drop { reason }),
                Err(_) => self.unparsed(from, frame, reason),
            };
            self.emit_event(self.event(from, tuple, kind));
        } else {
            self.stats().events_lost.add(1);
        }
        self.drop_counted(packet, reason);
    }

    /// Drops a packet that could not be sent. podgate's own packets have no sender.
    #[cold]
    fn drop_unsent(&mut self, from: LinkId, packet: Packet, why: (DropReason, Origin)) {
        match why {
            (reason, Origin::Received) => self.drop_packet(from, packet, reason),
            (reason, Origin::Own) => self.drop_counted(packet, reason),
        }
    }

    /// What is known of a frame that can't be parsed.
    fn unparsed(&self, from: LinkId, frame: &[u8], reason: DropReason) -> (Tuple, EventKind<()>) {
        let Unparsed { ethernet, tuple } = Unparsed::of(frame);
        let snapshot = self.shared.snapshot.load();
        let endpoint = snapshot.as_deref().and_then(|tables| tables.routes.endpoint_on(from));
        let is_host = snapshot.as_deref().is_some_and(|tables| tables.routes.is_host(from));
        let without = if is_host { LinkPod::Any } else { LinkPod::Unknown };
        let pod = endpoint.map_or(without, LinkPod::Known);
        let (tuple, has_addresses) = known_tuple(tuple, pod, PodEnd::Source);
        (tuple, EventKind::Unparsed { reason, ethernet, has_addresses })
    }

    /// Reports that packets of one tuple were dropped, which the caller counts.
    pub(super) fn emit_drop(&mut self, link: LinkId, tuple: Tuple, reason: DropReason) {
        self.emit_event(self.event(link, tuple, EventKind::Drop { reason }));
    }

    fn event(&self, link: LinkId, tuple: Tuple, kind: EventKind<()>) -> Event<()> {
        Event { time: self.now, epoch: self.epoch, link, tuple, frontend: None, kind }
    }

    /// Drops and counts a packet that another event reports.
    pub(super) fn drop_counted(&mut self, packet: Packet, reason: DropReason) {
        self.stats().dropped[reason as usize].count(1, u64::from(packet.len()));
        if let Some(capturing) = &mut self.capturing {
            capturing.dropped(&self.umem, &packet, reason);
        }
        self.pool.free_packet(packet);
    }

    /// Drops a packet that was received before the first snapshot: nothing has a name yet.
    pub(super) fn drop_not_ready(&mut self, packet: Packet) {
        self.stats().received.count(1, u64::from(packet.len()));
        self.drop_counted(packet, DropReason::EndpointNotReady);
    }

    /// Hands a packet off to the worker that owns its flow. Drops it if our ring to that worker is
    /// full or `link`'s share of it is used up. `frontend` is the service's address and port that
    /// it was sent to, if it is translated.
    pub(super) fn hand_off(
        &mut self,
        worker: u16,
        link: LinkId,
        packet: Packet,
        frontend: Option<L4Addr>,
    ) {
        let frames = packet.frames();
        let room = |to| self.shared.handoffs.waiting_and_free(self.index, to);
        if !self.handoff_shares.take(worker, link, frames, room) {
            if let Some(over) = self.over_quota(link) {
                over.handoffs += 1;
            }
            return self.drop_packet(link, packet, DropReason::HandoffFull);
        }
        match self.shared.hand_off(self.index, worker, (link, packet, frontend)) {
            Ok(()) => {
                self.pool.account_sent(frames);
                self.stats().handed_off.add(1);
                if let Some(capturing) = &mut self.capturing {
                    capturing.handed_off();
                }
            }
            Err(packet) => self.drop_packet(link, packet, DropReason::HandoffFull),
        }
    }

    /// Sends a notice to another worker, if the ring has room and the share of the notice's link in
    /// it is not used up.
    pub(super) fn send_notice(&mut self, worker: u16, notice: Notice) {
        let room = self.shared.notices.waiting_and_free(self.index, worker);
        let share = &mut self.notice_shares[usize::from(worker)];
        let allowed = share.take_in_ring(notice.link(), room, 1);
        if !allowed || !self.shared.send_notice(self.index, worker, notice) {
            self.stats().notices_lost.add(1);
        }
    }

    /// Takes `records` entries of the ring of DNS answers to the control thread for an answer to
    /// `link`, within its share. Returns whether it did.
    pub(super) fn take_answer_share(&mut self, link: LinkId, records: usize) -> bool {
        let room = self.shared.answers.ring(self.index).waiting_and_free();
        self.answer_share.take_in_ring(link, room, records)
    }

    /// Counts a DNS answer to `link` that waits because the link's share of the ring is used up.
    pub(super) fn count_answer_over_quota(&mut self, link: LinkId) {
        if let Some(over) = self.over_quota(link) {
            over.dns_answers += 1;
        }
    }

    /// Counts a lost record of session affinity for its link, if one was lost.
    pub(super) fn count_lost_affinity(&mut self, lost: Option<LinkId>) {
        let Some(link) = lost else { return };
        self.stats().affinity_lost.add(1);
        if let Some(over) = self.over_quota(link) {
            over.affinity += 1;
        }
    }

    /// The other workers.
    pub(super) fn other_workers(&self) -> impl Iterator<Item = u16> + use<> {
        let index = self.index;
        (0..self.shared.config.workers).filter(move |worker| *worker != index)
    }

    /// Accounts for a packet that another worker handed off to us.
    pub(super) fn account_handoff(&mut self, packet: &Packet) {
        self.pool.account_received(packet.frames());
    }

    /// Puts an event on the ring to the control thread, or counts it as lost if the ring is full or
    /// the link's share of it used up: dropped packets of one pod must not displace other pods'
    /// events.
    pub(super) fn emit_event(&mut self, event: Event<()>) {
        if self.take_event_share(event.link) && self.events().push(event) {
            self.shared.event_reader.wake_for(self.events());
        } else {
            self.stats().events_lost.add(1);
        }
    }

    /// The same for an event that may be about a request.
    pub(super) fn emit_event_with_request(&mut self, event: Event) {
        if let Some(capturing) = &mut self.capturing {
            capturing.event(&event.kind);
        }
        if self.take_event_share(event.link) && self.events().push_with_request(event) {
            self.shared.event_reader.wake_for(self.events());
        } else {
            self.stats().events_lost.add(1);
        }
    }

    fn events(&self) -> &EventRing {
        &self.shared.events[usize::from(self.index)]
    }

    /// Takes an entry of the event ring for `link`, within its share. Returns whether it did.
    fn take_event_share(&mut self, link: LinkId) -> bool {
        let ring = self.events();
        let (waiting, capacity) = (ring.len(), ring.capacity());
        let allowed = self.event_share.take_in_ring(link, (waiting, capacity - waiting), 1);
        if !allowed && let Some(over) = self.over_quota(link) {
            over.events += 1;
        }
        allowed
    }

    /// Frames that are neither free, nor in a ring, nor part of an incomplete packet of a queue.
    pub(super) fn outstanding_frames(&self) -> i64 {
        let partial: usize = self.queues().map(LinkQueue::held_frames).sum();
        self.pool.outstanding() - partial as i64
    }
}

/// The reason to drop a packet that a queue doesn't take.
fn no_room(queue: &LinkQueue) -> DropReason {
    if queue.state() == LinkState::Up { DropReason::TxRingFull } else { DropReason::LinkGone }
}
