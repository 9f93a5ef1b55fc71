//! Inspected flows of datagrams (DNS over UDP), and the answers that wait for their release.

use std::collections::VecDeque;

use podgate_tables::drop_reason::DropReason;
use podgate_tables::ids::LinkId;
use podgate_tables::l7::L7Policy;
use podgate_tables::time::Nanos;
use podgate_tables::tuple::{FlowDirection, Tuple};

use crate::flow::FlowIx;
use crate::l7::datagram::{self, DatagramCtx, DatagramFlow, DatagramOp, Held};
use crate::l7::dns::{Admitted, DnsContext, HOLD_MS, Reply};
use crate::l7::io::FlowIo;
use crate::mem::{Packet, Umem};
use crate::packet::offset::udp;
use crate::packet::{View, edit, parse};
use crate::share::Quota;
use crate::worker::Shared;

use super::ctx::PacketCtx;
use super::egress::Resource;
use super::flow_io::InspectedIo;
use super::pipeline::Pipeline;
use super::release::Releases;

/// Answers that wait for their release, at most; those of one link leave half of the places free.
const WAITING_MAX: usize = 1024;

/// A flow of datagrams.
#[derive(Debug, Default)]
struct Inspection {
    flow: DatagramFlow,
    policy: L7Policy,
}

/// An answer that waits.
#[derive(Debug)]
struct Waiting {
    held: Held,
    since: Nanos,
    /// The flow, which may end meanwhile.
    tuple: Tuple,
    /// The link whose share of frames it uses.
    charged: LinkId,
    packet: Packet,
}

/// A connection whose next answer waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stalled {
    ticket: u64,
    slot: u32,
}

/// All inspected flows of datagrams of one worker.
#[derive(Debug)]
pub(super) struct Datagrams {
    /// By the slot number in the flow. What a flow has allocated is used by the next one.
    slots: Vec<Inspection>,
    unused: Vec<u32>,
    /// In the order of their tickets; those without a ticket are last.
    waiting: VecDeque<Waiting>,
    /// Places in `waiting`, by the link of the flow's opener.
    places: Quota,
    stalled: VecDeque<Stalled>,
    pub(super) dns: DnsContext,
    admitted: Admitted,
    pub(super) releases: Releases,
    /// A datagram that lies in several frames.
    joined: Vec<u8>,
}

impl Datagrams {
    pub(super) fn new(index: u16, shared: &Shared) -> Self {
        let answers = shared.answers.ring(index);
        let config = &shared.config;
        Self {
            slots: Vec::new(),
            unused: Vec::new(),
            waiting: VecDeque::with_capacity(WAITING_MAX),
            places: Quota::new(WAITING_MAX),
            stalled: VecDeque::with_capacity(WAITING_MAX),
            dns: DnsContext { denied: config.dns_denied, answers: answers.clone() },
            admitted: Admitted::default(),
            releases: Releases::new(answers, config.workers),
            joined: Vec::new(),
        }
    }

    /// Inspected flows.
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.unused.len()
    }

    /// Reserves a slot, to be filled by [`Self::put`] or released by [`Self::remove`].
    pub(super) fn reserve(&mut self) -> u32 {
        self.unused.pop().unwrap_or_else(|| {
            self.slots.push(Inspection::default());
            self.slots.len() as u32 - 1
        })
    }

    /// Sets the rules of a flow.
    pub(super) fn put(&mut self, slot: u32, policy: L7Policy) {
        self.slots[slot as usize].policy = policy;
    }

    pub(super) fn remove(&mut self, slot: u32) {
        let inspection = &mut self.slots[slot as usize];
        inspection.flow.clear();
        inspection.policy = L7Policy::default();
        self.unused.push(slot);
    }

    /// Whether answers wait, whose timeout needs a round every few milliseconds.
    pub(super) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    pub(super) fn held_frames(&self) -> usize {
        self.waiting.iter().map(|waiting| waiting.packet.frames()).sum()
    }

    /// The connection of `slot` waits for the release of an answer. If too many do, it is resumed
    /// by its timer.
    pub(super) fn note_stalled(&mut self, slot: u32, ticket: u64) {
        let stalled = Stalled { ticket, slot };
        if self.stalled.back() != Some(&stalled) && self.stalled.len() < WAITING_MAX {
            self.stalled.push_back(stalled);
        }
    }

    fn next_stalled(&mut self) -> Option<u32> {
        let in_force = self.dns.answers.in_force();
        self.stalled.pop_front_if(|stalled| stalled.ticket <= in_force).map(|stalled| stalled.slot)
    }

    /// Whether an answer waits for room on the way to the control thread.
    fn is_congested(&self) -> bool {
        self.waiting.back().is_some_and(|last| last.held.ticket.is_none())
    }

    /// Offers the answers that the control thread has not taken yet, as far as there is room.
    fn offer_again(&mut self, umem: &Umem) {
        let first = self.waiting.partition_point(|waiting| waiting.held.ticket.is_some());
        let (dns, joined) = (&self.dns, &mut self.joined);
        for waiting in self.waiting.range_mut(first..) {
            let payload = payload_again(umem, &waiting.packet, joined);
            if !waiting.held.offer(payload, dns) {
                break;
            }
        }
    }

    /// The next answer that waits no longer, if there is one: it is released, or too old.
    fn next_due(&mut self, now: Nanos) -> Option<Waiting> {
        let in_force = self.dns.answers.in_force();
        self.waiting.pop_front_if(|waiting| {
            let released = waiting.held.ticket.is_some_and(|ticket| ticket <= in_force);
            released || is_too_old(waiting, now)
        })
    }
}

fn is_too_old(waiting: &Waiting, now: Nanos) -> bool {
    now.since(waiting.since) >= HOLD_MS * 1_000_000
}

/// The payload of a datagram, copied to `joined` if it lies in several frames.
fn payload<'a>(
    umem: &'a Umem,
    packet: &'a Packet,
    view: &View,
    joined: &'a mut Vec<u8>,
) -> &'a [u8] {
    let (head, tail) = umem.bytes(packet);
    let l4 = usize::from(view.l4);
    let word = |at: usize| usize::from(u16::from_be_bytes([head[at], head[at + 1]]));
    let (start, end) = (usize::from(view.payload), l4 + word(l4 + udp::LEN));
    if let Some(payload) = head.get(start..end) {
        return payload;
    }
    joined.clear();
    joined.extend_from_slice(&head[start..]);
    tail.for_each(|bytes| joined.extend_from_slice(bytes));
    joined.truncate(end - start);
    joined
}

/// The same for a packet that was parsed before.
fn payload_again<'a>(umem: &'a Umem, packet: &'a Packet, joined: &'a mut Vec<u8>) -> &'a [u8] {
    match parse(umem.data(&packet.head), packet.len()) {
        Ok(view) => payload(umem, packet, &view, joined),
        Err(_) => b"",
    }
}

impl Pipeline {
    /// Processes a datagram of an inspected flow.
    pub(super) fn inspect_datagram(
        &mut self,
        cx: &mut PacketCtx<'_>,
        (index, slot): (FlowIx, u32),
        direction: FlowDirection,
        view: &View,
        mut packet: Packet,
    ) {
        let umem = cx.egress.umem();
        if edit::complete_checksum(umem.bytes_mut(&mut packet), view) {
            cx.egress.stats().checksums_completed.add(1);
        }
        let umem = cx.egress.umem();
        if !edit::l4_checksum_is_right(umem.bytes(&packet), view) {
            return cx.egress.drop_packet(packet, DropReason::BadChecksum);
        }
        let datagrams = &mut self.datagrams;
        let is_congested = datagrams.is_congested();
        let Datagrams { slots, dns, admitted, joined, .. } = datagrams;
        let Some(Inspection { flow, policy }) = slots.get_mut(slot as usize) else {
            debug_assert!(false, "a flow's inspection lives as long as the flow");
            return cx.egress.drop_packet(packet, DropReason::L7Unsupported);
        };
        let (now, epoch) = (cx.now, cx.snapshot.epoch);
        let context = DatagramCtx { now, policy, dns, admitted, epoch, is_congested };
        let mut reply = Reply::default();
        let message = payload(umem, &packet, view, joined);
        let step = flow.decide(&context, direction, message, &mut reply);
        let stats = cx.egress.stats();
        stats.dns_replaced.add(u64::from(step.replaced));
        let flow = self.flows.get(index);
        let frontend = self.targets.frontend_of(flow);
        let mut io = InspectedIo { flow, frontend, cx };
        if let Some(event) = step.event {
            io.event(event);
        }
        match step.op {
            DatagramOp::Pass => io.forward(direction, packet, view),
            DatagramOp::Drop(reason) => io.discard(packet, reason),
            DatagramOp::Answer => {
                if let Some(frame) = io.alloc() {
                    let umem = io.umem();
                    let answer =
                        datagram::answer(view, umem.data(&packet.head), &reply, umem, frame);
                    io.originate(direction.reverse(), answer);
                }
                io.discard(packet, DropReason::L7Denied);
            }
            DatagramOp::Hold(held) => self.hold_answer(cx, index, held, packet),
        }
    }

    fn hold_answer(&mut self, cx: &mut PacketCtx<'_>, index: FlowIx, held: Held, packet: Packet) {
        let flow = self.flows.get(index);
        let (charged, tuple) = (flow.link(FlowDirection::Original), flow.tuple());
        let has_place = self.datagrams.places.take(charged, 1);
        if !has_place || !cx.egress.reserve(charged, Resource::Frames, packet.frames()) {
            self.datagrams.places.release(charged, usize::from(has_place));
            return cx.drop_with_event(charged, tuple, packet, DropReason::DnsHeldFull);
        }
        cx.egress.stats().dns_held.add(1);
        let waiting = Waiting { held, since: cx.now, tuple, charged, packet };
        self.datagrams.waiting.push_back(waiting);
    }

    /// Forwards what the control thread has released, and gives up what it has not for too long.
    pub(super) fn release_answers(&mut self, cx: &mut PacketCtx<'_>, shared: &Shared) {
        let others = shared.rounds.iter().enumerate();
        let index = usize::from(self.index);
        let others = others.filter(|(worker, _)| *worker != index).map(|(_, rounds)| &**rounds);
        self.datagrams.releases.advance(&others);
        if self.datagrams.is_congested() {
            self.datagrams.offer_again(cx.egress.umem());
        }
        while let Some(waiting) = self.datagrams.next_due(cx.now) {
            self.release_answer(cx, waiting);
        }
        while let Some(slot) = self.datagrams.next_stalled() {
            self.resume_stalled(cx, slot);
        }
    }

    fn release_answer(&mut self, cx: &mut PacketCtx<'_>, waiting: Waiting) {
        let Waiting { held, since, tuple, charged, packet } = waiting;
        self.datagrams.places.release(charged, 1);
        cx.egress.frame_quota().release(charged, packet.frames());
        let in_force = self.datagrams.dns.answers.in_force();
        if held.ticket.is_none_or(|ticket| ticket > in_force) {
            cx.egress.stats().dns_unreleased.add(1);
            return cx.drop_with_event(charged, tuple, packet, DropReason::DnsUnreleased);
        }
        self.datagrams.admitted.add(held.key, cx.snapshot.epoch, since);
        let Some((index, FlowDirection::Original)) = self.flows.lookup(&tuple) else {
            return cx.egress.drop_packet(packet, DropReason::L7Closed);
        };
        if !self.is_allowed(cx, index) || self.flows.get(index).inspector().is_none() {
            return cx.drop_with_event(charged, tuple, packet, DropReason::PolicyRevoked);
        }
        let message = payload_again(cx.egress.umem(), &packet, &mut self.datagrams.joined);
        let event = held.forwarded(message, cx.now);
        let flow = self.flows.get(index);
        let frontend = self.targets.frontend_of(flow);
        let mut io = InspectedIo { flow, frontend, cx };
        if let Some(event) = event {
            io.event(event);
        }
        io.forward_again(FlowDirection::Reply, packet);
    }

    /// Lets a connection go on whose answer was released. Its slot may have another one by now,
    /// which does no harm.
    fn resume_stalled(&mut self, cx: &mut PacketCtx<'_>, slot: u32) {
        self.tick_inspected(cx, slot);
        let Some(inspected) = self.inspectors.get_mut(slot) else { return };
        // If it could not be resumed, its timer does it.
        let in_force = self.datagrams.dns.answers.in_force();
        match inspected.editor.inspector().awaited_answer() {
            Some(ticket) if ticket > in_force => self.datagrams.note_stalled(slot, ticket),
            _ => {}
        }
    }
}
