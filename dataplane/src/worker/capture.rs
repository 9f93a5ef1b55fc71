//! Copies of packets for `podgate capture`: as they were received, and as they were transmitted.
//!
//! A worker gets a capture by a command, so that without one it only tests a local field for each
//! batch and for each packet off the fast path. With one, all its packets take the slow path, which
//! is equivalent. Copies go to a bounded ring. What doesn't fit is lost, and counted.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crossbeam::queue::ArrayQueue;
use podgate_tables::address::Address;
use podgate_tables::drop_reason::DropReason;
use podgate_tables::event::EventKind;
use podgate_tables::ids::{Epoch, LinkId, RuleId};
use podgate_tables::policy::Cause;
use podgate_tables::proto;
use podgate_tables::time::Nanos;
use podgate_tables::tuple::Tuple;

use crate::mem::{Packet, Umem};
use crate::packet::parse;

use super::egress::Origin;

/// Copies that may wait for the control thread.
const WAITING_MAX: usize = 8192;

/// Bytes of them.
const WAITING_BYTES_MAX: u64 = 32 << 20;

/// A pod whose packets are captured.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CapturedPod {
    /// Its link.
    pub link: LinkId,
    /// Its addresses.
    pub addresses: Vec<Address>,
}

/// Which packets of the pods are captured: those that match all of what is set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CaptureFilter {
    /// The protocol; ICMP selects ICMPv6, too.
    pub protocol: Option<u8>,
    /// A port of either end.
    pub port: Option<u16>,
    /// An address of either end.
    pub address: Option<Address>,
    /// Whether they were dropped.
    pub dropped: Option<bool>,
}

impl CaptureFilter {
    /// Whether a packet can match, before its disposition is known.
    fn matches(&self, tuple: &Tuple) -> bool {
        let protocol = match tuple.protocol {
            proto::ICMPV6 => proto::ICMP,
            protocol => protocol,
        };
        let ends = [(tuple.src, tuple.src_port), (tuple.dst, tuple.dst_port)];
        self.protocol.is_none_or(|wanted| wanted == protocol)
            && self.port.is_none_or(|wanted| ends.iter().any(|(_, port)| *port == wanted))
            && self.address.is_none_or(|wanted| ends.iter().any(|(address, _)| *address == wanted))
    }
}

/// What is captured, and how much.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CaptureSpec {
    /// Packets from and to these pods.
    pub pods: Vec<CapturedPod>,
    /// Those of them that match one of these; without any, all.
    pub filters: Vec<CaptureFilter>,
    /// Bytes of each packet.
    pub snap_len: u32,
    /// Copies, at most.
    pub packets: u64,
    /// Bytes of all copies, at most.
    pub bytes: u64,
}

/// Where a copy was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CapturePoint {
    /// Before policy: as it was received from a link.
    Received(Disposition),
    /// After policy: as it was transmitted to a link.
    Transmitted,
    /// Transmitted; podgate made it.
    Made,
}

/// Disposition of a received packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Disposition {
    /// It was forwarded.
    Forwarded,
    /// It was dropped.
    Dropped(DropReason),
    /// It was handed off to the worker that owns its flow.
    HandedOff,
    /// It waits for the rest of its datagram or request, or its payload was taken over. If it is
    /// dropped later, there is another copy for that.
    Held,
}

/// What a worker knew of a packet's verdict.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CapturedVerdict {
    /// What decided the egress and ingress of its flow; `None` where no rule did, or there is no
    /// flow.
    pub causes: [Option<Cause>; 2],
    /// The request that this packet completed: whether it was allowed, and by which rule.
    pub request: Option<(bool, Option<RuleId>)>,
}

/// A copy of a packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CapturedPacket {
    /// Time on the worker's clock.
    pub time: Nanos,
    /// Epoch of the tables; zero if there were none.
    pub epoch: Epoch,
    /// The worker.
    pub worker: u16,
    /// The link that it was received from or transmitted to.
    pub link: LinkId,
    /// Where the copy was made.
    pub point: CapturePoint,
    /// What is known of its verdict.
    pub verdict: CapturedVerdict,
    /// Addresses and ports, if its headers can be parsed.
    pub tuple: Option<Tuple>,
    /// Its length, bytes.
    pub len: u32,
    /// Its first bytes.
    pub data: Box<[u8]>,
}

/// A running capture, which all workers share.
#[derive(Debug)]
pub struct Capture {
    spec: CaptureSpec,
    ring: ArrayQueue<CapturedPacket>,
    waiting_bytes: AtomicU64,
    packets: AtomicU64,
    bytes: AtomicU64,
    lost: AtomicU64,
}

impl Capture {
    /// A capture of what `spec` says.
    #[must_use]
    pub fn new(spec: CaptureSpec) -> Arc<Self> {
        let (waiting_bytes, packets, bytes, lost) = Default::default();
        let ring = ArrayQueue::new(WAITING_MAX);
        Arc::new(Self { spec, ring, waiting_bytes, packets, bytes, lost })
    }

    /// Takes the copy that has waited longest.
    #[must_use]
    pub fn pop(&self) -> Option<CapturedPacket> {
        let packet = self.ring.pop()?;
        self.waiting_bytes.fetch_sub(packet.data.len() as u64, Relaxed);
        Some(packet)
    }

    /// Whether copies wait.
    #[must_use]
    pub fn has_waiting(&self) -> bool {
        !self.ring.is_empty()
    }

    /// Copies that were lost because too many waited.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }

    /// Whether it has all packets or bytes that it may have.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.packets.load(Relaxed) >= self.spec.packets
            || self.bytes.load(Relaxed) >= self.spec.bytes
    }

    fn push(&self, packet: CapturedPacket) {
        let bytes = packet.data.len() as u64;
        if self.is_full() {
            return;
        }
        let waiting = self.waiting_bytes.fetch_add(bytes, Relaxed);
        if waiting + bytes > WAITING_BYTES_MAX || self.ring.push(packet).is_err() {
            self.waiting_bytes.fetch_sub(bytes, Relaxed);
            self.lost.fetch_add(1, Relaxed);
            return;
        }
        self.packets.fetch_add(1, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
    }

    /// Whether a packet on `link` with this tuple is captured.
    fn wants(&self, link: LinkId, tuple: Option<&Tuple>) -> bool {
        let of_pod = |pod: &CapturedPod| {
            let has = |address| pod.addresses.contains(address);
            pod.link == link || tuple.is_some_and(|tuple| has(&tuple.src) || has(&tuple.dst))
        };
        let filters = &self.spec.filters;
        let matches = |filter: &CaptureFilter| match tuple {
            Some(tuple) => filter.matches(tuple),
            None => CaptureFilter { dropped: None, ..*filter } == CaptureFilter::default(),
        };
        self.spec.pods.iter().any(of_pod) && (filters.is_empty() || filters.iter().any(matches))
    }

    /// Whether a filter selects a packet with this outcome.
    fn wants_outcome(&self, tuple: Option<&Tuple>, dropped: bool) -> bool {
        let filters = &self.spec.filters;
        let matches = |filter: &CaptureFilter| {
            filter.dropped.is_none_or(|wanted| wanted == dropped)
                && tuple.is_none_or(|tuple| filter.matches(tuple))
        };
        filters.is_empty() || filters.iter().any(matches)
    }
}

/// One worker's part of a capture.
#[derive(Debug)]
pub(super) struct Capturing {
    capture: Arc<Capture>,
    worker: u16,
    now: Nanos,
    epoch: Epoch,
    /// Copies of the packet that is processed, and of what was transmitted because of it.
    pending: Vec<CapturedPacket>,
    verdict: CapturedVerdict,
    /// Whether another worker has received the packet, and made a copy: then this one is for its
    /// drop only.
    is_second: bool,
    /// The first frame of the packet that is processed.
    frame: u32,
    /// Packets that wait, by their first frame. The tuple tells them from packets that were made in
    /// the same frame since.
    held: HashMap<u32, HeldPacket>,
    /// The one of these packets that was transmitted last, with its first frame.
    transmitted: Option<(u32, HeldPacket)>,
}

/// The link that a packet was received from, and its tuple.
type HeldPacket = (LinkId, Option<Tuple>);

impl Capturing {
    pub(super) fn new(capture: Arc<Capture>, worker: u16) -> Self {
        let (now, epoch, pending, verdict, is_second) = Default::default();
        let (frame, held, transmitted) = Default::default();
        Self { capture, worker, now, epoch, pending, verdict, is_second, frame, held, transmitted }
    }

    /// Sets the time and epoch of a round's packets.
    pub(super) fn begin_round(&mut self, now: Nanos, epoch: Epoch) {
        (self.now, self.epoch) = (now, epoch);
    }

    /// Copies a packet that was received from `link`. Its disposition is not known yet.
    pub(super) fn received(&mut self, umem: &Umem, link: LinkId, packet: &Packet) {
        self.frame = packet.head.index();
        self.held.remove(&self.frame);
        let copy = self.copy(umem, link, packet, CapturePoint::Received(Disposition::Held));
        self.pending.extend(copy);
    }

    /// Copies a packet that another worker received and handed off, in case it is dropped.
    pub(super) fn received_from_worker(&mut self, umem: &Umem, link: LinkId, packet: &Packet) {
        self.received(umem, link, packet);
        self.is_second = true;
    }

    /// Copies a packet that is about to be transmitted to `link`.
    pub(super) fn transmitted(
        &mut self,
        umem: &Umem,
        link: LinkId,
        packet: &Packet,
        origin: Origin,
    ) {
        self.transmitted = self.take_held(umem, packet).map(|held| (packet.head.index(), held));
        if origin == Origin::Received && self.transmitted.is_none() {
            self.set_disposition(Disposition::Forwarded);
        }
        let point = match origin {
            Origin::Received => CapturePoint::Transmitted,
            Origin::Own => CapturePoint::Made,
        };
        let copy = self.copy(umem, link, packet, point);
        self.pending.extend(copy);
    }

    /// The packet that was copied last was not transmitted to `link`.
    pub(super) fn not_transmitted(&mut self, link: LinkId) {
        let is_it = |last: &mut CapturedPacket| {
            last.link == link && !matches!(last.point, CapturePoint::Received(_))
        };
        let _not_sent = self.pending.pop_if(is_it);
        self.held.extend(self.transmitted.take());
    }

    /// A packet is about to be dropped: the one that is processed, or one that has waited.
    pub(super) fn dropped(&mut self, umem: &Umem, packet: &Packet, reason: DropReason) {
        let disposition = Disposition::Dropped(reason);
        let Some((link, _)) = self.take_held(umem, packet) else {
            return self.set_disposition(disposition);
        };
        let copy = self.copy(umem, link, packet, CapturePoint::Received(disposition));
        if let Some(copy) = copy
            && self.capture.wants_outcome(copy.tuple.as_ref(), true)
        {
            self.capture.push(copy);
        }
    }

    /// A packet was handed off.
    pub(super) fn handed_off(&mut self) {
        self.set_disposition(Disposition::HandedOff);
    }

    /// A flow was decided.
    pub(super) fn decided(&mut self, causes: [Cause; 2]) {
        self.verdict.causes = causes.map(Some);
    }

    /// A request may have been decided.
    pub(super) fn event<R>(&mut self, kind: &EventKind<R>) {
        if let EventKind::Request { allowed, rule, .. } = kind {
            self.verdict.request = Some((*allowed, *rule));
        }
    }

    /// Takes a packet out of those that wait. `None` if it is not one of them.
    fn take_held(&mut self, umem: &Umem, packet: &Packet) -> Option<HeldPacket> {
        let held = self.held.remove(&packet.head.index())?;
        (held.1 == tuple_of(umem, packet)).then_some(held)
    }

    /// Sets the disposition of the packet that is processed.
    fn set_disposition(&mut self, disposition: Disposition) {
        if let Some(CapturedPacket { point: CapturePoint::Received(known), .. }) =
            self.pending.first_mut()
        {
            *known = disposition;
        }
    }

    /// A copy of a packet, if it is captured.
    fn copy(
        &self,
        umem: &Umem,
        link: LinkId,
        packet: &Packet,
        point: CapturePoint,
    ) -> Option<CapturedPacket> {
        let tuple = tuple_of(umem, packet);
        if !self.capture.wants(link, tuple.as_ref()) || self.capture.is_full() {
            return None;
        }
        let len = packet.len();
        let snap_len = self.capture.spec.snap_len.min(len) as usize;
        let mut data = Vec::with_capacity(snap_len);
        let (head, tail) = umem.bytes(packet);
        for part in std::iter::once(head).chain(tail) {
            let room = snap_len - data.len();
            data.extend_from_slice(&part[..part.len().min(room)]);
        }
        let (time, epoch, worker) = (self.now, self.epoch, self.worker);
        let (verdict, data) = (CapturedVerdict::default(), data.into_boxed_slice());
        Some(CapturedPacket { time, epoch, worker, link, point, verdict, tuple, len, data })
    }

    /// Ends the processing of a packet: its copies go to the ring. `rules_of` has the rules that
    /// allowed a flow.
    pub(super) fn finish(&mut self, rules_of: impl Fn(&Tuple) -> Option<[Option<RuleId>; 2]>) {
        let verdict = std::mem::take(&mut self.verdict);
        let is_second = std::mem::take(&mut self.is_second);
        if self.pending.is_empty() {
            return;
        }
        let dropped = self
            .pending
            .iter()
            .any(|copy| matches!(copy.point, CapturePoint::Received(Disposition::Dropped(_))));
        let of_flow = || {
            let tuples = self.pending.iter().filter_map(|copy| copy.tuple.as_ref());
            let rules = tuples.rev().find_map(&rules_of)?;
            Some(rules.map(|rule| rule.map(Cause::Allowed)))
        };
        let causes = match verdict.causes {
            [None, None] => of_flow().unwrap_or_default(),
            causes => causes,
        };
        for mut copy in self.pending.drain(..) {
            if copy.point == CapturePoint::Received(Disposition::Held) {
                self.held.insert(self.frame, (copy.link, copy.tuple));
            }
            if is_second && !dropped && matches!(copy.point, CapturePoint::Received(_)) {
                continue;
            }
            copy.verdict = CapturedVerdict { causes, ..verdict };
            if self.capture.wants_outcome(copy.tuple.as_ref(), dropped) {
                self.capture.push(copy);
            }
        }
    }
}

fn tuple_of(umem: &Umem, packet: &Packet) -> Option<Tuple> {
    parse(umem.data(&packet.head), packet.len()).ok().map(|view| view.tuple)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuple(last: u8, port: u16) -> Tuple {
        let [src, dst] = [Address::v4([10, 0, 0, 1]), Address::v4([10, 0, 0, last])];
        Tuple { src, dst, src_port: 1000, dst_port: port, protocol: proto::TCP }
    }

    fn spec(filters: &[CaptureFilter]) -> CaptureSpec {
        let addresses = vec![Address::v4([10, 0, 0, 2])];
        let pods = vec![CapturedPod { link: LinkId(2), addresses }];
        CaptureSpec { pods, filters: filters.to_vec(), snap_len: 64, packets: 4, bytes: 1 << 20 }
    }

    fn copy(bytes: usize) -> CapturedPacket {
        CapturedPacket {
            time: Nanos(1),
            epoch: Epoch(1),
            worker: 0,
            link: LinkId(2),
            point: CapturePoint::Transmitted,
            verdict: CapturedVerdict::default(),
            tuple: None,
            len: bytes as u32,
            data: vec![0; bytes].into(),
        }
    }

    #[test]
    fn packets_of_the_pods_link_or_address_are_wanted_if_they_match_a_filter() {
        let all = Capture::new(spec(&[]));
        assert!(all.wants(LinkId(1), Some(&tuple(2, 80))));
        assert!(all.wants(LinkId(2), None));
        assert!(!all.wants(LinkId(1), Some(&tuple(3, 80))));
        assert!(!all.wants(LinkId(1), None));
        let port = |port| CaptureFilter { port: Some(port), ..CaptureFilter::default() };
        let two = Capture::new(spec(&[port(80), port(53)]));
        for (number, wanted) in [(80, true), (53, true), (443, false)] {
            assert_eq!(two.wants(LinkId(2), Some(&tuple(2, number))), wanted);
        }
        assert!(!two.wants(LinkId(2), None), "ports that can't be parsed match no filter");
        let dropped = CaptureFilter { dropped: Some(true), ..CaptureFilter::default() };
        let dropped = Capture::new(spec(&[dropped]));
        assert!(dropped.wants(LinkId(2), None));
        assert!(dropped.wants_outcome(None, true) && !dropped.wants_outcome(None, false));
    }

    #[test]
    fn a_capture_ends_at_its_number_of_packets() {
        let capture = Capture::new(spec(&[]));
        (0..9).for_each(|_| capture.push(copy(10)));
        assert!(capture.is_full());
        assert!(capture.has_waiting());
        assert_eq!(std::iter::from_fn(|| capture.pop()).count(), 4);
        assert!(!capture.has_waiting());
        assert_eq!(capture.lost(), 0, "what is beyond the limit is not lost");
    }

    #[test]
    fn what_waits_is_bounded_in_packets_and_bytes_and_the_rest_is_counted_as_lost() {
        let unlimited = CaptureSpec { packets: u64::MAX, bytes: u64::MAX, ..spec(&[]) };
        let capture = Capture::new(unlimited.clone());
        (0..WAITING_MAX + 7).for_each(|_| capture.push(copy(1)));
        assert_eq!(capture.lost(), 7);
        assert_eq!(std::iter::from_fn(|| capture.pop()).count(), WAITING_MAX);
        let capture = Capture::new(unlimited);
        let half = WAITING_BYTES_MAX as usize / 2;
        (0..3).for_each(|_| capture.push(copy(half)));
        assert_eq!(capture.lost(), 1);
        assert!(capture.pop().is_some());
        capture.push(copy(half));
        assert_eq!(capture.lost(), 1, "there is room again");
    }
}
