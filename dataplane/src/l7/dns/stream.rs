//! DNS over TCP: messages with their length in front (RFC 1035 §4.2.2, RFC 7766).

use std::collections::VecDeque;

use podgate_tables::drop_reason::DropReason;
use podgate_tables::event::EventKind;
use podgate_tables::ids::LinkId;
use podgate_tables::l7::dns::{HEADER_LEN, Header, rcode};
use podgate_tables::time::Nanos;
use podgate_tables::tuple::FlowDirection;

use super::exchange::{Answered, Exchange, QueryOutcome};
use super::{DnsContext, HOLD_MS, Reply};
use crate::l7::inspector::{AfterInjection, Injection, InspectCtx, Inspector, Op, Step};

/// Longest query that is read, bytes; a name and EDNS with padding need much less. A longer one is
/// malformed.
const QUERY_MAX: usize = 4096;
/// Our replies that wait for their place in the server's stream, at most; further queries are not
/// read meanwhile.
const REPLIES_MAX: usize = 8;

/// What a response waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wait {
    /// This many free entries of the ring to the control thread.
    Room(usize),
    /// To be read again: it has room now.
    Offer,
    /// The release of this ticket.
    Release(u64),
}

/// A response that waits.
#[derive(Clone, Copy, Debug)]
struct HeldMessage {
    wait: Wait,
    since: Nanos,
    asked: Nanos,
}

/// The state of one connection, both directions. Denied queries are answered between the server's
/// responses, in any order (RFC 7766 §7).
#[derive(Debug, Default)]
pub struct DnsStream {
    dns: Option<(DnsContext, LinkId)>,
    exchange: Exchange,
    replies: VecDeque<Reply>,
    held: Option<HeldMessage>,
}

impl DnsStream {
    /// For a connection whose answers are learned through `dns`, as those that a client of link
    /// `client` asked for.
    #[must_use]
    pub fn new(dns: &DnsContext, client: LinkId) -> Self {
        Self { dns: Some((dns.clone(), client)), ..Self::default() }
    }

    /// The ticket of the response that waits for its release.
    #[must_use]
    pub fn awaited(&self) -> Option<u64> {
        match self.held?.wait {
            Wait::Release(ticket) => Some(ticket),
            Wait::Room(_) | Wait::Offer => None,
        }
    }

    /// Entries of the ring to the control thread that a response waits for; see
    /// [`Self::grant_room`].
    #[must_use]
    pub fn wanted_room(&self) -> Option<usize> {
        match self.held?.wait {
            Wait::Room(records) => Some(records),
            Wait::Offer | Wait::Release(_) => None,
        }
    }

    /// The response that waits for room may be put on the ring.
    pub fn grant_room(&mut self) {
        if let Some(HeldMessage { wait: wait @ Wait::Room(_), .. }) = &mut self.held {
            *wait = Wait::Offer;
        }
    }

    fn inspect_query(&mut self, cx: &InspectCtx<'_>, bytes: &[u8]) -> Step {
        let Some(len) = length(bytes) else { return Op::More.into() };
        let (end, message) = (2 + len, &bytes[2..]);
        if len < HEADER_LEN {
            return Step::reset(DropReason::L7Malformed);
        }
        if len > QUERY_MAX && message.len() >= HEADER_LEN {
            return self.too_long(end, message);
        }
        if len > QUERY_MAX || bytes.len() < end {
            return Op::More.into();
        }
        if self.replies.len() >= REPLIES_MAX || self.exchange.is_full(cx.now) {
            return Op::Stall.into();
        }
        let denied = self.dns.as_ref().map_or_else(Default::default, |(dns, _)| dns.denied);
        let (message, mut reply) = (&message[..len], Reply::default());
        let (outcome, event) = self.exchange.query(cx.now, cx.policy, denied, message, &mut reply);
        let op = match outcome {
            QueryOutcome::Pass { .. } => Op::Pass(end),
            QueryOutcome::Drop => Op::Drop(end as u64),
            QueryOutcome::Answer => {
                self.replies.push_back(reply);
                Op::Drop(end as u64)
            }
        };
        Step { op, event: Some(event) }
    }

    /// Denies a query of `end` bytes, of which not all are read.
    fn too_long(&mut self, end: usize, message: &[u8]) -> Step {
        if self.replies.len() >= REPLIES_MAX {
            return Op::Stall.into();
        }
        if let Some(header) = Header::parse(message).filter(|header| !header.is_response()) {
            self.replies.push_back(Reply::bare(&header, rcode::FORMAT_ERROR));
        }
        let event = Some(EventKind::Drop { reason: DropReason::L7Malformed });
        Step { op: Op::Drop(end as u64), event }
    }

    fn inspect_response(&mut self, cx: &InspectCtx<'_>, bytes: &[u8]) -> Step {
        let Some(len) = length(bytes) else { return Op::More.into() };
        let end = 2 + len;
        if len < HEADER_LEN {
            return Step::reset(DropReason::L7Malformed);
        }
        let Some(message) = bytes.get(2..end) else { return Op::More.into() };
        let answered = match self.held {
            None => match self.exchange.response(cx.now, message) {
                Ok(answered) => answered,
                Err(reason) => return dropped(end, reason),
            },
            Some(held) => match Answered::again(message, held.asked) {
                Some(answered) => answered,
                None => return dropped(end, DropReason::L7Malformed),
            },
        };
        if self.held.is_none() && !answered.has_addresses() {
            return Step { op: Op::Pass(end), event: Some(answered.event(cx.now)) };
        }
        let Some((dns, client)) = &self.dns else { return dropped(end, DropReason::DnsUnreleased) };
        let asked = answered.asked();
        let room = Wait::Room(answered.records());
        let held = self.held.get_or_insert(HeldMessage { wait: room, since: cx.now, asked });
        if held.wait == Wait::Offer {
            held.wait = answered.offer(&dns.answers, *client).map_or(room, Wait::Release);
        }
        if matches!(held.wait, Wait::Release(ticket) if ticket <= dns.answers.in_force()) {
            self.held = None;
            return Step { op: Op::Pass(end), event: Some(answered.event(cx.now)) };
        }
        if cx.now.since(held.since) >= HOLD_MS * 1_000_000 {
            self.held = None;
            return dropped(end, DropReason::DnsUnreleased);
        }
        Op::Stall.into()
    }
}

/// The length in front of a message.
fn length(bytes: &[u8]) -> Option<usize> {
    let length = bytes.first_chunk::<2>()?;
    Some(usize::from(u16::from_be_bytes(*length)))
}

fn dropped(len: usize, reason: DropReason) -> Step {
    Step { op: Op::Drop(len as u64), event: Some(EventKind::Drop { reason }) }
}

impl Inspector for DnsStream {
    fn restart(&mut self) {
        *self = Self { dns: self.dns.clone(), ..Self::default() };
    }

    fn inspect(&mut self, cx: &InspectCtx<'_>, direction: FlowDirection, bytes: &[u8]) -> Step {
        match direction {
            FlowDirection::Original => self.inspect_query(cx, bytes),
            FlowDirection::Reply => self.inspect_response(cx, bytes),
        }
    }

    fn ahead(&mut self, _: FlowDirection) -> Option<Op> {
        None
    }

    fn end(&mut self, _: &InspectCtx<'_>, _: FlowDirection, undecided: usize) -> Step {
        match undecided {
            0 => Op::Pass(0).into(),
            _ => Step::reset(DropReason::L7Malformed),
        }
    }

    fn timed_out(&mut self) -> Step {
        Step::reset(DropReason::L7Timeout)
    }

    fn injection(&self, direction: FlowDirection) -> Option<Injection<'_>> {
        let reply = self.replies.front().filter(|_| direction.is_reply())?;
        Some(Injection { bytes: reply.with_length(), then: AfterInjection::Continue })
    }

    fn injected(&mut self, _: FlowDirection) {
        self.replies.pop_front();
    }

    /// Outstanding queries and replies that wait are not counted: they take 6 KiB at most.
    fn heap(&self) -> usize {
        0
    }

    fn heap_with(&self, _: FlowDirection, _: usize) -> usize {
        0
    }
}
