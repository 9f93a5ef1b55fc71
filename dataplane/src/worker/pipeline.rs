//! A packet's way through a worker:
//!
//! 1. **Parse** into a [`View`], once; check that the sender may send it.
//! 2. **Established flow**: a hit in the worker's flow table under the current epoch. The cached
//!    verdict holds; count, follow TCP's state, forward. Nearly every packet ends here, most of
//!    them in the [fast lane](super::fast_lane), which takes a glance for step 1.
//! 3. **New flow, or an old epoch**: addresses to identities, the source's egress table, the
//!    destination's ingress table, a verdict and its cause. Some ten times a hit's cost, once per
//!    flow and epoch; less if a flow like it was decided before ([`super::decisions`]).
//! 4. **Inspected flow**: payload goes through the flow's L7 follower, which forwards, holds or
//!    refuses it.
//! 5. **Transmit**: each link's packets together, with one wakeup for all of a round (see
//!    [`super::egress`]); **tell** what is worth an event.
//!
//! # Stated rules
//! - *TCP without a SYN.* A segment that belongs to no flow opens one only if policy allows the
//!   flow plainly in both orientations: we can't know who had opened it, and a server's segment
//!   must not turn an inspected or revoked connection into a plain one. If policy would allow or
//!   inspect the flow as opened by one of its ends, the segment is dropped and its sender is reset
//!   (RFC 9293 §3.10.7.1), so that an end whose connection was lost in a restart knows at once. A
//!   segment between strangers, denied both ways, is dropped silently. Resets are limited for each
//!   link and worker and counted, and no reset answers a reset.
//! - *A verdict that turns to deny* kills the flow: an inspected one is reset at both ends, a plain
//!   one is forgotten, and the rule above holds for what its ends still send. A plain flow that a
//!   new policy wants inspected is refused too, because its beginning was not seen.
//! - *L7 rules without an inspector.* Of L7 protocols only HTTP/1 over TCP is inspected. A flow
//!   that would need another inspector is refused whole.
//! - *Hop count.* podgate is one router hop between two pods (TTL minus one) and a wire between a
//!   pod and its node (TTL unchanged: the kernel routes and counts).
//! - *Multicast and broadcast*, of IP or of Ethernet, never cross links. A subnet's broadcast
//!   address can't be told from others, since pods have addresses without a subnet: it goes by
//!   policy and to the node, whose kernel forwards no such packet by default (`bc_forwarding`).
//! - *Fragments* wait until their datagram is whole, and are judged as that one packet; see
//!   [`super::reassembly`]. It leaves in fragments again, none larger than the largest that came.
//! - *Packets too big* for the link that they leave by are cut if IPv4 allows it, else answered
//!   with an ICMP error, and so are those whose hops run out; see [`super::oversize`].
//! - *TCP connections* keep to the path MTU of both their links: a SYN announces no larger segments
//!   ([`crate::packet::mss`]).
//! - *VLANs*: frames with a tag are refused, whatever the link: the addresses of another network
//!   are not those that policy knows. A tag that only gives a priority (VLAN 0) is kept.
//! - *Checksums* that a sender left to its device are completed: TCP, UDP and SCTP, before the
//!   packet is inspected, cut or quoted in an ICMP error, and before it is sent, unless the kernel
//!   passes the debt on ([`finishes_checksums`](crate::xsk::Umem::finishes_checksums)).
//! - *TCP resets* after the handshake let the flow be forgotten soon, but a reset that its sender
//!   didn't mean is taken back by its next segment ([`tcp`]). Sequence numbers are the ends' own.
//! - *A full flow table* makes room in a stated order ([`crate::flow`]), counted as evictions:
//!   whoever has its share of the places yields a flow of its own, or its new flow is refused. The
//!   same holds for the flows that may be inspected.
//! - *An inspected connection that was refused* gives its place back as soon as the server was
//!   reset and the client has the answer and has closed its side; where both ends were reset, it
//!   yields to other flows at once and is forgotten after a second.
//! - *ICMP replies* need the flow that their query opened. *ICMP errors* pass if they quote a
//!   packet of a flow that we know, from the link it went to, towards that packet's sender; whoever
//!   says so may be a router in between.
//! - *A local pod's address as the source* of a packet from the host link is believed only if the
//!   kernel had that packet from the host link itself: it is then the pod's own, which we let out
//!   and the kernel sent back with another destination, as a service's backend on this node. A
//!   program at the kernel's end says so by the Ethernet source
//!   ([`HAIRPIN_MAC`]), packet by packet. Without the program,
//!   from outside, from pods that are not attached, or from the node itself, such a packet is
//!   dropped as spoofed.
//! - *This node's address as the source* of a packet from the host link makes it the node's only if
//!   the node itself sent it, whole, and from no link: the same program says so ([`LOCAL_MAC`]). What
//!   is translated on the way (masqueraded), forged or a fragment is decided as world. A flow
//!   remembers who sent its first packet. In the middle of a TCP connection that a pod's segment
//!   picks up, the node at the other end counts as world, too.
//! - *Neighbour discovery* (RFC 4861) holds between a link's two ends, whose kernels speak it past
//!   the workers: it never crosses links.
//! - *Tunnels* ([`podgate_tables::tunnel`]): a pod's packet that a node's kernel would decapsulate is
//!   refused, and so is a flow from a node whose replies would be such packets.
//! - *Datagrams of a revoked flow* are refused while either end goes on to send them: the server's
//!   would else open the flow from its end, and let the client's pass as replies.

use std::sync::Arc;

use podgate_tables::drop_reason::DropReason;
use podgate_tables::event::EventKind;
use podgate_tables::ids::LinkId;
use podgate_tables::policy::{Cause, Decision, NodeSource, Snapshot, Subject, Verdict};
use podgate_tables::proto;
use podgate_tables::time::Nanos;
use podgate_tables::tuple::{Direction, Tuple};

use crate::flow::{Flow, FlowIx, FlowTable, SavedFlow, tcp};
use crate::l7::follower::{Follower, Progress};
use crate::packet::icmp::{self, Role};
use crate::packet::{HAIRPIN_MAC, L4, LOCAL_MAC, Tcp, View, edit, parse, quoted};
use crate::worker::Shared;
use crate::xsk::Packet;

use super::decisions::Decisions;
use super::egress::Origin;
use super::fast_lane::Glances;
use super::inspectors::{Inspected, Inspectors};
use super::reassembly::Reassembly;
use super::reset::MidStream;
use super::surroundings::{InspectedIo, Surroundings};

/// Flows looked at for expiry in one round.
const EXPIRY_BUDGET: usize = 32;

/// A worker's flows and inspectors.
#[derive(Debug)]
pub(super) struct Pipeline {
    pub(super) index: u16,
    pub(super) workers: u16,
    pub(super) flows: FlowTable,
    pub(super) decisions: Decisions,
    inspectors: Inspectors,
    pub(super) glances: Glances,
    pub(super) reassembly: Reassembly,
}

impl Pipeline {
    pub(super) fn new(index: u16, shared: &Arc<Shared>, umem_frames: u32) -> Self {
        let workers = shared.config.workers;
        Self {
            index,
            workers,
            flows: FlowTable::new(shared.config.flows_per_worker),
            decisions: Decisions::new(shared.config.flows_per_worker),
            inspectors: Inspectors::new(shared.config.inspected_per_worker),
            glances: Glances::new(),
            reassembly: Reassembly::new(umem_frames, workers),
        }
    }

    pub(super) fn flows(&self) -> usize {
        self.flows.len()
    }

    pub(super) fn held_frames(&self) -> usize {
        self.inspectors.held_frames() + self.reassembly.held_frames()
    }

    /// Bytes of streams that inspected flows keep.
    pub(super) fn kept_bytes(&self) -> usize {
        self.inspectors.kept_bytes()
    }

    /// Whether some flow has timers of a finer grain than flow expiry.
    pub(super) fn has_inspected(&self) -> bool {
        !self.inspectors.is_empty()
    }

    /// The flows that may go on without this worker ([`SavedFlow::of`]), in no order.
    pub(super) fn saved_flows(&self, now: Nanos) -> impl Iterator<Item = SavedFlow> {
        self.flows.iter().filter_map(move |(_, flow)| SavedFlow::of(flow, now))
    }

    /// Takes over a flow that a worker before handed out, if the tables in force allow it plainly,
    /// as its opener had opened it, between the links that it names. It takes no other flow's
    /// place.
    pub(super) fn take_over(&mut self, around: &Surroundings<'_>, saved: &SavedFlow) -> bool {
        let tuple = saved.tuple;
        let subject = Subject { tuple, icmp_type: saved.icmp_type };
        let is_answer =
            matches!(icmp::role(tuple.protocol, saved.icmp_type), Role::Reply { .. } | Role::Error);
        let (ends, decision) = self.decisions.decide(around.snapshot, &subject, saved.node_source);
        let from_host = around.snapshot.routes.is_host(saved.links[0]);
        let escapes = is_tunnel_to_node(around.snapshot, &tuple, from_host);
        let allowed = decision.verdict == Verdict::Allow
            && (!saved.picked_up
                || around.decide_reversed(&subject, ends).verdict == Verdict::Allow);
        let opener = self.flows.opener(saved.links[0], tuple.src);
        let fits = around.links(ends, from_host) == Some(saved.links)
            && steer(&tuple, self.workers) == self.index
            && self.flows.find(&tuple).is_none()
            && !self.flows.needs_place(&opener);
        if is_answer || escapes || !allowed || !fits {
            return false;
        }
        let Some(mut flow) = saved.restored(around.snapshot.epoch, around.now) else {
            return false;
        };
        flow.set_hairpin(from_host && ends[0].is_some());
        self.flows.insert(flow).is_ok()
    }

    /// A packet that another worker received and passed on.
    pub(super) fn process_handed_over(
        &mut self,
        around: &mut Surroundings<'_>,
        link: LinkId,
        packet: Packet,
    ) {
        self.run(around, link, packet, true);
    }

    #[inline(never)]
    pub(super) fn run(
        &mut self,
        around: &mut Surroundings<'_>,
        link: LinkId,
        packet: Packet,
        owned: bool,
    ) {
        // (1) Parse.
        match parse(around.egress.umem().data(&packet.head), packet.len()) {
            Ok(view) => self.judge(around, link, packet, &view, owned),
            Err(reason) => around.egress.discard(packet, reason),
        }
    }

    fn judge(
        &mut self,
        around: &mut Surroundings<'_>,
        link: LinkId,
        packet: Packet,
        view: &View,
        owned: bool,
    ) {
        if let Err(reason) = admit(around.snapshot, link, view) {
            return around.refuse(link, view.tuple, packet, reason);
        }
        match view.l4_kind {
            L4::IcmpError { .. } => return self.icmp_error(around, link, view, packet, owned),
            L4::Fragment(piece) => return self.gather(around, link, view, piece, packet),
            L4::Tcp(_) | L4::Udp | L4::Sctp | L4::Icmp { .. } | L4::Other => {}
        }
        // (2) Established flow.
        if let Some((index, direction)) = self.flows.find(&view.tuple) {
            if !self.starts_over(index, view) {
                return self.established(around, index, direction, view, packet);
            }
            self.end(around, index);
        }
        // (3) New flow.
        self.open(around, link, view, packet);
    }

    /// Whether a SYN opens a new connection on the tuple of one that is over.
    fn starts_over(&self, index: FlowIx, view: &View) -> bool {
        tcp_of(view).is_some_and(|segment| tcp::reopens(self.flows.get(index).tcp(), segment.flags))
    }

    fn established(
        &mut self,
        around: &mut Surroundings<'_>,
        index: FlowIx,
        direction: Direction,
        view: &View,
        packet: Packet,
    ) {
        if !self.holds(around, index) && !matches!(view.tuple.protocol, proto::UDP | proto::SCTP) {
            let link = self.flows.get(index).link(direction);
            self.end(around, index);
            return around.refuse(link, view.tuple, packet, DropReason::PolicyRevoked);
        }
        let noted = self.flows.note(index, direction, view, around.now);
        let flow = self.flows.get(index);
        if let Err(reason) = noted {
            return around.refuse(flow.link(direction), view.tuple, packet, reason);
        }
        match flow.inspector() {
            None => {
                let out = flow.link(direction.reverse());
                around.forward(flow.link(direction), out, packet, view, Origin::Received);
            }
            Some(slot) => self.inspect(around, slot, direction, view, packet),
        }
    }

    /// Whether a flow is allowed under the current epoch.
    fn holds(&mut self, around: &mut Surroundings<'_>, index: FlowIx) -> bool {
        if self.flows.get(index).epoch() != around.snapshot.epoch {
            let revoked = !self.judge_again(around, index);
            let flow = self.flows.get_mut(index);
            flow.judge(around.snapshot.epoch, revoked);
        }
        !self.flows.get(index).revoked()
    }

    /// (3) Judges a live flow under the new epoch. False if it may not go on.
    fn judge_again(&mut self, around: &mut Surroundings<'_>, index: FlowIx) -> bool {
        around.egress.stats().reevaluated.add(1);
        let flow = self.flows.get_mut(index);
        let tuple = flow.tuple();
        let subject = Subject { tuple, icmp_type: flow.icmp_type };
        let (ends, decision) = self.decisions.decide(around.snapshot, &subject, flow.node_source());
        let goes_on = match (decision.verdict, flow.inspector()) {
            (Verdict::Deny, _) | (Verdict::Inspect, None) => false,
            (Verdict::Allow, None) if flow.picked_up() => {
                around.decide_reversed(&subject, ends).verdict == Verdict::Allow
            }
            (Verdict::Allow, _) => true,
            (Verdict::Inspect, Some(_)) => decision.l7.has_inspector(tuple.protocol),
        };
        let from_host = around.snapshot.routes.is_host(flow.link(Direction::Original));
        let links = around.links(ends, from_host);
        let escapes = is_tunnel_to_node(around.snapshot, &tuple, from_host);
        let (Some(links), true) = (links, goes_on && !escapes) else {
            let verdict = Verdict::Deny;
            let link = flow.link(Direction::Original);
            around.tell_verdict(link, &subject, &Decision { verdict, ..decision }, 0, true);
            return false;
        };
        let (inspector, opener) = (flow.inspector(), flow.link(Direction::Original));
        self.flows.set_links(index, links);
        self.flows.get_mut(index).set_hairpin(from_host && ends[0].is_some());
        if let Some(slot) = inspector
            && let Some(inspected) = self.inspectors.get_mut(slot)
        {
            let openers = [opener, links[0]];
            around.egress.held_frames().pass(openers, inspected.follower.held_frames());
            around.egress.kept_bytes().pass(openers, inspected.follower.kept_bytes());
            inspected.policy = decision.l7;
        }
        true
    }

    /// (3) A packet that belongs to no flow.
    fn open(&mut self, around: &mut Surroundings<'_>, link: LinkId, view: &View, packet: Packet) {
        let subject = Subject { tuple: view.tuple, icmp_type: icmp_type_of(view) };
        if matches!(icmp::role(view.tuple.protocol, subject.icmp_type), Role::Reply { .. }) {
            return around.refuse(link, view.tuple, packet, DropReason::IcmpUnrelated);
        }
        let from_host = around.snapshot.routes.is_host(link);
        let node_source = node_source(from_host, view);
        let (ends, decision) = self.decisions.decide(around.snapshot, &subject, node_source);
        let Some(links) = around.links(ends, from_host) else {
            return around.refuse(link, view.tuple, packet, DropReason::Unroutable);
        };
        if is_tunnel_to_node(around.snapshot, &view.tuple, from_host) {
            return around.refuse(link, view.tuple, packet, DropReason::TunnelToNode);
        }
        let flags = tcp_of(view).map_or(0, |segment| segment.flags);
        if tcp_of(view).is_some() && !tcp::opens(flags) {
            let fate = around.mid_stream(&subject, ends, &decision, flags);
            if fate == MidStream::Reset {
                around.reset_sender(link, view, &packet);
            }
            if matches!(fate, MidStream::Reset | MidStream::Ignore) {
                return around.refuse(link, view.tuple, packet, DropReason::TcpNoFlow);
            }
        }
        around.tell_verdict(link, &subject, &decision, flags, false);
        if decision.verdict == Verdict::Deny {
            return around.egress.discard(packet, denial(&decision));
        }
        if decision.verdict == Verdict::Inspect && !decision.l7.has_inspector(view.tuple.protocol) {
            return around.refuse(link, view.tuple, packet, DropReason::L7Unsupported);
        }
        let mut flow = Flow::new(view, around.snapshot.epoch, links, around.now);
        flow.set_hairpin(from_host && ends[0].is_some());
        flow.set_node_source(node_source);
        let inspected = decision.verdict == Verdict::Inspect;
        let (index, slot) = match self.insert(around, flow, inspected) {
            Ok(inserted) => inserted,
            Err(reason) => {
                if let Some(refused) = around.egress.refused(link) {
                    let inspected = reason == DropReason::InspectedFull;
                    *if inspected { &mut refused.inspected } else { &mut refused.flows } += 1;
                }
                return around.refuse(link, view.tuple, packet, reason);
            }
        };
        around.egress.stats().flows_opened.add(1);
        match slot {
            None => around.forward(links[0], links[1], packet, view, Origin::Received),
            Some(slot) => {
                let inspected =
                    Inspected { flow: index, follower: Follower::new(), policy: decision.l7 };
                self.inspectors.put(slot, inspected);
                self.inspect(around, slot, Direction::Original, view, packet);
            }
        }
    }

    /// Puts a new flow into the table, with an inspector's slot if it is to be inspected. If its
    /// owner has its share, another one of the owner's flows makes room.
    fn insert(
        &mut self,
        around: &mut Surroundings<'_>,
        mut flow: Flow,
        inspected: bool,
    ) -> Result<(FlowIx, Option<u32>), DropReason> {
        let opener = self.flows.opener(flow.link(Direction::Original), flow.tuple().src);
        if inspected && self.flows.needs_inspected_place(&opener, self.inspectors.left()) {
            let victim = self.flows.inspected_victim(&opener, around.now);
            self.evict(around, victim.ok_or(DropReason::InspectedFull)?);
        }
        if self.flows.needs_place(&opener) {
            let victim = self.flows.victim(&opener, around.now);
            self.evict(around, victim.ok_or(DropReason::FlowTableFull)?);
        }
        let slot = match inspected {
            true => Some(self.inspectors.reserve().ok_or(DropReason::InspectedFull)?),
            false => None,
        };
        flow.set_inspector(slot);
        let index = self.flows.insert(flow);
        if let (Err(_), Some(slot)) = (&index, slot) {
            self.inspectors.cancel(slot);
        }
        Ok((index?, slot))
    }

    /// (4) A segment of an inspected flow.
    fn inspect(
        &mut self,
        around: &mut Surroundings<'_>,
        slot: u32,
        direction: Direction,
        view: &View,
        mut packet: Packet,
    ) {
        let Some(inspected) = self.inspectors.get_mut(slot) else {
            debug_assert!(false, "a flow's inspector lives as long as the flow");
            return around.egress.discard(packet, DropReason::L7Unsupported);
        };
        // The follower verifies checksums, so they have to be whole before it looks.
        if edit::complete_checksum(around.egress.umem(), &mut packet, view) {
            around.egress.stats().checksums_completed.add(1);
        }
        let flow = self.flows.get(inspected.flow);
        let mut io = InspectedIo { flow, around };
        let now = io.around.now;
        inspected.follower.segment(now, direction, view, packet, &inspected.policy, &mut io);
        let index = inspected.flow;
        match inspected.follower.progress() {
            Progress::Opened => {}
            Progress::Requested if flow.requested() => {}
            Progress::Requested => self.flows.note_request(index, now),
            Progress::Answered => self.flows.note_answered(index, now),
            Progress::Reset => self.flows.note_reset(index, now),
            Progress::Over => self.end(around, index),
        }
    }

    /// An ICMP error: passes if it is about a flow of ours, towards the sender it is about.
    fn icmp_error(
        &mut self,
        around: &mut Surroundings<'_>,
        link: LinkId,
        view: &View,
        packet: Packet,
        owned: bool,
    ) {
        let Some(about) = quoted(around.egress.umem().data(&packet.head), view) else {
            return around.refuse(link, view.tuple, packet, DropReason::IcmpUnrelated);
        };
        let owner = steer(&about, self.workers);
        if owner != self.index && !owned {
            return around.egress.hand_off(owner, link, packet);
        }
        let flow = self.flows.find(&about).filter(|_| about.src == view.tuple.dst);
        match flow {
            // Whoever is not where the packet went can't know what became of it.
            Some((index, direction))
                if self.holds(around, index)
                    && self.flows.get(index).link(direction.reverse()) == link =>
            {
                let out = self.flows.get(index).link(direction);
                around.forward(link, out, packet, view, Origin::Received);
            }
            _ => around.refuse(link, view.tuple, packet, DropReason::IcmpUnrelated),
        }
    }

    /// Timers: a bounded number of flows and inspectors each round.
    pub(super) fn maintain(&mut self, around: &mut Surroundings<'_>) {
        let mut budget = EXPIRY_BUDGET;
        while let Some(index) = self.flows.next_expired(around.now, &mut budget) {
            self.end(around, index);
        }
        self.expire_fragments(around);
        let (now, flows) = (around.now, &mut self.flows);
        self.inspectors.tick(now, |inspected| {
            if inspected.follower.is_closed() {
                return;
            }
            let flow = flows.get(inspected.flow);
            inspected.follower.tick(now, &mut InspectedIo { flow, around });
            if inspected.follower.is_closed() {
                flows.note_reset(inspected.flow, now);
            }
        });
    }

    /// Ends a flow to make room for another.
    fn evict(&mut self, around: &mut Surroundings<'_>, index: FlowIx) {
        around.egress.stats().flows_evicted.add(1);
        self.end(around, index);
    }

    /// Forgets a flow and tells what it carried. An inspected one is reset at both ends, unless it
    /// is over already.
    fn end(&mut self, around: &mut Surroundings<'_>, index: FlowIx) {
        let flow = self.flows.remove(index);
        if let Some(mut inspected) = flow.inspector().and_then(|slot| self.inspectors.take(slot)) {
            inspected.follower.close(&mut InspectedIo { flow: &flow, around });
        }
        let kind = EventKind::End { packets: flow.packets(), bytes: flow.bytes() };
        around.tell(flow.link(Direction::Original), flow.tuple(), kind);
    }
}

/// (1) Whether a packet may come from where it comes.
#[inline]
fn admit(snapshot: &Snapshot, link: LinkId, view: &View) -> Result<(), DropReason> {
    let routes = &snapshot.routes;
    // The last is an Ethernet group address: a router takes no packet out of one (RFC 1812 §5.3.4).
    if view.tuple.dst.is_multicast_or_broadcast() || view.eth_dst[0] & 1 == 1 {
        return Err(DropReason::Multicast);
    }
    if is_neighbour_discovery(view) {
        return Err(DropReason::NeighbourDiscovery);
    }
    if routes.is_host(link) {
        let believed = view.eth_src == HAIRPIN_MAC || routes.local(view.tuple.src).is_none();
        return if believed { Ok(()) } else { Err(DropReason::SpoofedSource) };
    }
    let endpoint = routes.behind(link).ok_or(DropReason::NotReady)?;
    let own = view.eth_src == endpoint.outlet.mac && endpoint.addresses.contains(&view.tuple.src);
    if own { Ok(()) } else { Err(DropReason::SpoofedSource) }
}

/// Who sent a packet, if its source is an address of this node.
#[inline]
fn node_source(from_host: bool, view: &View) -> NodeSource {
    let sent_here = from_host && view.eth_src == LOCAL_MAC;
    if sent_here { NodeSource::Node } else { NodeSource::Elsewhere }
}

/// Whether it is a message of neighbour discovery: router or neighbour solicitation or
/// advertisement, or a redirect (RFC 4861 §4).
#[inline]
fn is_neighbour_discovery(view: &View) -> bool {
    view.tuple.protocol == proto::ICMPV6 && matches!(view.l4_kind, L4::Icmp { kind: 133..=137, .. })
}

/// Whether what a pod sends by this flow reaches a node that would decapsulate it. A flow that came
/// `from_host` has the pod at its other end, which sends the replies.
fn is_tunnel_to_node(snapshot: &Snapshot, tuple: &Tuple, from_host: bool) -> bool {
    let by_pod = if from_host { tuple.reversed() } else { *tuple };
    let tunnels = snapshot.routes.tunnels();
    tunnels.would_decapsulate(&by_pod)
        && (snapshot.policy.is_node(by_pod.dst) || tunnels.is_local(by_pod.dst))
}

/// The worker that the XDP program sends the flow's packets to.
pub(super) fn steer(tuple: &Tuple, workers: u16) -> u16 {
    let ported = matches!(tuple.protocol, proto::TCP | proto::UDP | proto::SCTP);
    let (protocol, src_port, dst_port) =
        if ported { (tuple.protocol, tuple.src_port, tuple.dst_port) } else { (0, 0, 0) };
    let (src, dst) = (tuple.src.bits(), tuple.dst.bits());
    let hash = podgate_xdp_redirect::flow_hash(src, dst, protocol, src_port, dst_port);
    podgate_xdp_redirect::worker_of(hash, workers)
}

fn tcp_of(view: &View) -> Option<Tcp> {
    match view.l4_kind {
        L4::Tcp(segment) => Some(segment),
        _ => None,
    }
}

fn icmp_type_of(view: &View) -> u8 {
    match view.l4_kind {
        L4::Icmp { kind, .. } => kind,
        _ => 0,
    }
}

/// Which kind of denial a decision is.
fn denial(decision: &Decision) -> DropReason {
    let by_rule = |cause| matches!(cause, Cause::Denied(_) | Cause::Conflicting(_));
    if by_rule(decision.egress) || by_rule(decision.ingress) {
        DropReason::PolicyDeny
    } else {
        DropReason::PolicyDefaultDeny
    }
}
