//! Inspected flows of datagrams (DNS over UDP), and the answers that wait for their release.

use std::collections::VecDeque;

use podgate_tables::ids::LinkId;
use podgate_tables::l7::L7Policy;
use podgate_tables::time::Nanos;
use podgate_tables::tuple::Tuple;

use crate::l7::datagram::{DatagramFlow, HeldResponse};
use crate::l7::dns::{Admitted, DnsContext, HOLD_MS};
use crate::mem::{Packet, Umem};
use crate::packet::offset::udp;
use crate::packet::{View, parse};
use crate::share::Quota;
use crate::worker::Shared;

use super::release::Releases;

/// Answers that wait for their release, at most; those of one link leave half of the places free.
const WAITING_MAX: usize = 1024;

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
    /// The link whose share of frames it uses.
    pub(super) charged: LinkId,
    pub(super) packet: Packet,
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
    pub(super) slots: Vec<Inspection>,
    unused: Vec<u32>,
    /// In the order of their tickets; those without a ticket are last.
    pub(super) waiting: VecDeque<HeldDatagram>,
    /// Places in `waiting`, by the link of the flow's opener.
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
    pub(super) fn mark_stalled(&mut self, slot: u32, ticket: u64) {
        let stalled = Stalled { ticket, slot };
        if self.stalled.back() != Some(&stalled) && self.stalled.len() < WAITING_MAX {
            self.stalled.push_back(stalled);
        }
    }

    pub(super) fn next_stalled(&mut self) -> Option<u32> {
        let in_force = self.dns.answers.in_force();
        self.stalled.pop_front_if(|stalled| stalled.ticket <= in_force).map(|stalled| stalled.slot)
    }

    /// Whether an answer waits for room on the way to the control thread.
    pub(super) fn is_congested(&self) -> bool {
        self.waiting.back().is_some_and(|last| last.held.ticket.is_none())
    }

    /// Offers the answers that the control thread has not taken yet, as far as there is room.
    pub(super) fn offer_again(&mut self, umem: &Umem) {
        let first = self.waiting.partition_point(|waiting| waiting.held.ticket.is_some());
        let (dns, joined) = (&self.dns, &mut self.joined);
        for waiting in self.waiting.range_mut(first..) {
            let payload = payload_again(umem, &waiting.packet, joined);
            if !waiting.held.offer(payload, waiting.charged, dns) {
                break;
            }
        }
    }

    /// The next answer that waits no longer, if there is one: it is released, or too old.
    pub(super) fn next_due(&mut self, now: Nanos) -> Option<HeldDatagram> {
        let in_force = self.dns.answers.in_force();
        self.waiting.pop_front_if(|waiting| {
            let released = waiting.held.ticket.is_some_and(|ticket| ticket <= in_force);
            released || is_too_old(waiting, now)
        })
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
