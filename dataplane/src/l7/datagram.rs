//! The carrier of inspected datagrams: each is decided as a whole, when it arrives.
//!
//! As the stream editor does for TCP, it executes what inspection decides: a datagram passes, is
//! dropped, is answered in place of the server, or is held until its addresses are admitted.
//! DNS is the only protocol over datagrams that is inspected.

use podgate_tables::drop_reason::DropReason;
use podgate_tables::event::EventKind;
use podgate_tables::ids::{Epoch, LinkId};
use podgate_tables::l7::L7Policy;
use podgate_tables::time::Nanos;
use podgate_tables::tuple::FlowDirection;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    IpAddress, IpProtocol, Ipv4Packet, Ipv4Repr, Ipv6Packet, Ipv6Repr, UdpPacket, UdpRepr,
};

use super::dns::learned::AnswerRing;
use super::dns::{
    Admitted, AnswerKey, Answered, DnsContext, Exchange, QueryOutcome, REPLY_MAX, Reply,
};
use crate::mem::{FRAME_HEADROOM, FRAME_SIZE, Frame, Packet, Umem};
use crate::packet::View;

/// Hop limit of our datagrams; the default of every current stack.
const HOP_LIMIT: u8 = 64;
const UDP_HEADER_LEN: usize = 8;
/// Longest Ethernet header (with two VLAN tags), and IPv6 and UDP headers.
const HEADERS_MAX: usize = 22 + 40 + UDP_HEADER_LEN;

const _: () = assert!(FRAME_HEADROOM as usize + HEADERS_MAX + REPLY_MAX <= FRAME_SIZE as usize);

/// What happens to a datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DatagramOp {
    /// It is forwarded.
    Pass,
    /// It is dropped.
    Drop(DropReason),
    /// It is dropped, and its sender gets an answer from the other end.
    Answer,
    /// It waits until the addresses in it are admitted.
    Hold(HeldResponse),
}

/// A response that waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HeldResponse {
    /// The ticket of its release; `None` until [`Self::offer`] gives its addresses to the control
    /// thread.
    pub ticket: Option<u64>,
    /// Entries that it takes on the ring to the control thread.
    pub records: usize,
    /// When its query was forwarded.
    pub asked: Nanos,
    /// What it is remembered by when it is released.
    pub key: AnswerKey,
}

/// What happens to a datagram, and what to report.
#[derive(Clone, Copy, Debug)]
pub struct DatagramStep {
    /// What happens.
    pub op: DatagramOp,
    /// What to report; of a response that waits: nothing yet ([`HeldResponse::forwarded`]).
    pub event: Option<EventKind>,
    /// Whether an older query was forgotten, so that its response will be dropped.
    pub replaced: bool,
}

/// What a decision depends on besides the datagram.
#[derive(Clone, Copy, Debug)]
pub struct DatagramCtx<'a> {
    /// The time.
    pub now: Nanos,
    /// The rules of the flow.
    pub policy: &'a L7Policy,
    /// The link of the client.
    pub client: LinkId,
    /// How DNS is answered and learned.
    pub dns: &'a DnsContext,
    /// Answers that need no release.
    pub admitted: &'a Admitted,
    /// Epoch of the tables in use.
    pub epoch: Epoch,
}

/// The state of one inspected flow of datagrams.
#[derive(Debug, Default)]
pub struct DatagramFlow {
    exchange: Exchange,
}

impl DatagramFlow {
    /// Forgets everything, for the next flow.
    pub fn clear(&mut self) {
        self.exchange.clear();
    }

    /// Decides a datagram of `payload`. Writes the answer to `reply` if there is one.
    pub fn decide(
        &mut self,
        cx: &DatagramCtx<'_>,
        direction: FlowDirection,
        payload: &[u8],
        reply: &mut Reply,
    ) -> DatagramStep {
        match direction {
            FlowDirection::Original => self.query(cx, payload, reply),
            FlowDirection::Reply => self.response(cx, payload),
        }
    }

    fn query(&mut self, cx: &DatagramCtx<'_>, payload: &[u8], reply: &mut Reply) -> DatagramStep {
        let denied = cx.dns.denied;
        let (outcome, event) = self.exchange.query(cx.now, cx.policy, denied, payload, reply);
        let (op, replaced) = match outcome {
            QueryOutcome::Pass { replaced } => (DatagramOp::Pass, replaced),
            QueryOutcome::Answer => (DatagramOp::Answer, false),
            QueryOutcome::Drop => (DatagramOp::Drop(DropReason::L7Malformed), false),
        };
        DatagramStep { op, event: Some(event), replaced }
    }

    fn response(&mut self, cx: &DatagramCtx<'_>, payload: &[u8]) -> DatagramStep {
        let answered = match self.exchange.response(cx.now, payload) {
            Ok(answered) => answered,
            Err(reason) => {
                let event = Some(EventKind::Drop { reason });
                return DatagramStep { op: DatagramOp::Drop(reason), event, replaced: false };
            }
        };
        let key = answered.has_addresses().then(|| cx.admitted.key(&answered, cx.client));
        let held = key.filter(|key| !cx.admitted.has(*key, cx.epoch, cx.now));
        let (op, event) = if let Some(key) = held {
            let (records, asked) = (answered.records(), answered.asked());
            (DatagramOp::Hold(HeldResponse { ticket: None, records, asked, key }), None)
        } else {
            (DatagramOp::Pass, Some(answered.event(cx.now)))
        };
        DatagramStep { op, event, replaced: false }
    }
}

impl HeldResponse {
    /// Gives the addresses of the response `payload` to a client of link `client` to the control
    /// thread. Returns whether there was room.
    pub fn offer(&mut self, payload: &[u8], client: LinkId, answers: &AnswerRing) -> bool {
        if let Some(answered) = Answered::again(payload, self.asked) {
            self.ticket = answered.offer(answers, client);
        }
        self.ticket.is_some()
    }

    /// What to report when the response `payload` is forwarded at `now`.
    #[must_use]
    pub fn forwarded(&self, payload: &[u8], now: Nanos) -> Option<EventKind> {
        Some(Answered::again(payload, self.asked)?.event(now))
    }
}

/// Builds, in `frame`, the answer to a datagram whose headers are `view` and whose first frame is
/// `head`. Ethernet addresses are swapped; the sender of the packet writes those of its link.
pub fn answer(view: &View, head: &[u8], reply: &Reply, umem: &Umem, mut frame: Frame) -> Packet {
    let (tuple, payload) = (view.tuple.reversed(), reply.message());
    let l2 = usize::from(view.l3);
    let ip_header = if view.is_v4() { 20 } else { 40 };
    let len = l2 + ip_header + UDP_HEADER_LEN + payload.len();
    frame.set_extent(FRAME_HEADROOM, len as u32);
    let bytes = umem.data_mut(&mut frame);
    bytes[..l2].copy_from_slice(&head[..l2]);
    bytes[..12].rotate_left(6);
    let checksums = ChecksumCapabilities::default();
    let (src, dst): (IpAddress, IpAddress) = (tuple.src.ip().into(), tuple.dst.ip().into());
    let payload_len = UDP_HEADER_LEN + payload.len();
    let (next_header, hop_limit) = (IpProtocol::Udp, HOP_LIMIT);
    let (ip, udp) = bytes[l2..].split_at_mut(ip_header);
    match (src, dst) {
        (IpAddress::Ipv4(src_addr), IpAddress::Ipv4(dst_addr)) => {
            let repr = Ipv4Repr { src_addr, dst_addr, next_header, payload_len, hop_limit };
            repr.emit(&mut Ipv4Packet::new_unchecked(ip), &checksums);
        }
        (IpAddress::Ipv6(src_addr), IpAddress::Ipv6(dst_addr)) => {
            let repr = Ipv6Repr { src_addr, dst_addr, next_header, payload_len, hop_limit };
            repr.emit(&mut Ipv6Packet::new_unchecked(ip));
        }
        // A tuple's addresses are of one family: they come from one packet.
        _ => {}
    }
    let repr = UdpRepr { src_port: tuple.src_port, dst_port: tuple.dst_port };
    let write = |buffer: &mut [u8]| buffer.copy_from_slice(payload);
    let mut udp = UdpPacket::new_unchecked(udp);
    repr.emit(&mut udp, &src, &dst, payload.len(), write, &checksums);
    Packet::single(frame)
}
