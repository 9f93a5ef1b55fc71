//! Inspected flows of datagrams (DNS over UDP), and the answers that wait for their release.

use std::collections::VecDeque;

use podgate_tables::l7::L7Policy;
use podgate_tables::time::Nanos;
use podgate_tables::tuple::Tuple;

use crate::flow::Opener;
use crate::l7::datagram::{DatagramFlow, HeldResponse};
use crate::l7::dns::{Admitted, DnsContext, HOLD_MS};
use crate::mem::{Packet, Umem};
use crate::packet::offset::udp;
use crate::packet::{View, parse};
use crate::share::Quota;
use crate::worker::Shared;

use super::egress::Egress;
use super::release::Releases;
use super::shared::ANSWERS_PER_WORKER;

/// Answers that wait for their release, at most; one link may use half of them.
const WAITING_MAX: usize = 1024;

/// Connections that are noted as waiting for a release, at most: as many as the ring to the control
/// thread has entries, and as many whose answers were taken from it. Each has offered an answer, so
/// one link's share of the ring to the control thread bounds its part of them.
const STALLED_MAX: usize = 2 * ANSWERS_PER_WORKER;

/// A flow of datagrams.
#[derive(Debug, Default)]
pub(super) struct Inspection {
    pub(super) flow: DatagramFlow,
    pub(super) policy: L7Policy,
}

/// An answer that waits.
#[derive(Debug)]
pub(super) struct HeldDatagram {
    pub(super) held: HeldResponse,
    pub(super) since: Nanos,
    /// The flow, which may end meanwhile.
    pub(super) tuple: Tuple,
    /// Whose share of places and frames it uses.
    pub(super) charged: Opener,
    pub(super) packet: Packet,
}

/// A connection whose next answer waits.
#[derive(Clone, Copy, Debug)]
struct Stalled {
    ticket: u64,
    slot: u32,
}

/// All inspected flows of datagrams of one worker.
#[derive(Debug)]
pub(super) struct Datagrams {
    /// By the slot number in the flow. What a flow has allocated is used by the next one.
    pub(super) slots: Vec<Inspection>,
    unused: Vec<u32>,
    /// In the order of their tickets.
    waiting: VecDeque<HeldDatagram>,
    /// Without a ticket, in the order of their arrival: they wait for room on the ring to the
    /// control thread.
    unoffered: VecDeque<HeldDatagram>,
    /// Free entries of that ring, at most, when one of these answers got none.
    unoffered_at: usize,
    /// Places in both, by the flow's opener.
    pub(super) places: Quota,
    stalled: VecDeque<Stalled>,
    pub(super) dns: DnsContext,
    pub(super) admitted: Admitted,
    pub(super) releases: Releases,
    /// A datagram that lies in several frames.
    pub(super) joined: Vec<u8>,
}

impl Datagrams {
    pub(super) fn new(index: u16, shared: &Shared) -> Self {
        let answers = shared.answers.ring(index);
        let config = &shared.config;
        Self {
            slots: Vec::new(),
            unused: Vec::new(),
            waiting: VecDeque::with_capacity(WAITING_MAX),
            unoffered: VecDeque::with_capacity(WAITING_MAX),
            unoffered_at: usize::MAX,
            places: Quota::new(WAITING_MAX),
            stalled: VecDeque::with_capacity(STALLED_MAX),
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
        !self.waiting.is_empty() || !self.unoffered.is_empty()
    }

    pub(super) fn held_frames(&self) -> usize {
        let waiting = self.waiting.iter().chain(&self.unoffered);
        waiting.map(|waiting| waiting.packet.frames()).sum()
    }

    /// The connection of `slot` waits for the release of an answer, which it has just offered. If
    /// more than [`STALLED_MAX`] wait, its timer resumes it.
    pub(super) fn mark_stalled(&mut self, slot: u32, ticket: u64) {
        if self.stalled.len() < STALLED_MAX {
            self.stalled.push_back(Stalled { ticket, slot });
        }
    }

    pub(super) fn next_stalled(&mut self) -> Option<u32> {
        let in_force = self.dns.answers.in_force();
        self.stalled.pop_front_if(|stalled| stalled.ticket <= in_force).map(|stalled| stalled.slot)
    }

    /// Queues an answer that has a place: it waits for its release, or first for room on the ring
    /// to the control thread, within its link's share. Returns whether it got room.
    pub(super) fn wait(&mut self, egress: &mut Egress, mut answer: HeldDatagram) -> bool {
        let offered = self.offer(egress, &mut answer);
        if offered {
            self.waiting.push_back(answer);
        } else {
            self.unoffered.push_back(answer);
            self.unoffered_at = self.unoffered_at.min(self.free_answers());
        }
        offered
    }

    fn offer(&mut self, egress: &mut Egress, answer: &mut HeldDatagram) -> bool {
        if !egress.take_answer_share(answer.charged.link(), answer.held.records) {
            return false;
        }
        let payload = payload_again(egress.umem(), &answer.packet, &mut self.joined);
        answer.held.offer(payload, answer.charged.link(), &self.dns.answers)
    }

    fn free_answers(&self) -> usize {
        let (_, free) = self.dns.answers.waiting_and_free();
        free
    }

    /// Offers the answers that wait for room again, if the ring has more of it than before, or is
    /// empty: the control thread may have emptied it since the share was taken.
    pub(super) fn offer_again(&mut self, egress: &mut Egress) {
        let (waiting, free) = self.dns.answers.waiting_and_free();
        if self.unoffered.is_empty() || (waiting > 0 && free <= self.unoffered_at) {
            return;
        }
        self.unoffered_at = usize::MAX;
        for _ in 0..self.unoffered.len() {
            let Some(answer) = self.unoffered.pop_front() else { break };
            self.wait(egress, answer);
        }
    }

    /// The next answer that waits no longer, if there is one: it is released, or too old.
    pub(super) fn next_due(&mut self, now: Nanos) -> Option<HeldDatagram> {
        let in_force = self.dns.answers.in_force();
        let due = self.waiting.pop_front_if(|waiting| {
            let released = waiting.held.ticket.is_some_and(|ticket| ticket <= in_force);
            released || is_too_old(waiting, now)
        });
        due.or_else(|| self.unoffered.pop_front_if(|waiting| is_too_old(waiting, now)))
    }
}

fn is_too_old(waiting: &HeldDatagram, now: Nanos) -> bool {
    now.since(waiting.since) >= HOLD_MS * 1_000_000
}

/// The payload of a datagram, copied to `joined` if it lies in several frames.
pub(super) fn payload<'a>(
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
pub(super) fn payload_again<'a>(
    umem: &'a Umem,
    packet: &'a Packet,
    joined: &'a mut Vec<u8>,
) -> &'a [u8] {
    match parse(umem.data(&packet.head), packet.len()) {
        Ok(view) => payload(umem, packet, &view, joined),
        Err(_) => b"",
    }
}
