//! How a worker processes a packet:
//!
//! 1. **Parse** into a [`View`], once; check that its sender may use its source address.
//! 2. **Established flow**: a hit in the worker's flow table under the current epoch. The cached
//!    verdict holds; count, track TCP's state, forward. Nearly every packet ends here, most of them
//!    on the [fast path](super::fast_path), which reads only a few header fields in step 1. A pod's
//!    packet to a service is translated first, see [`super::services`].
//! 3. **New flow, or an old epoch**: addresses to identities, the source's egress table, the
//!    destination's ingress table, a verdict and its cause. Costs about ten times a flow table hit,
//!    once per flow and epoch; less if the decision is cached ([`super::decisions`]).
//! 4. **Inspected flow**: payload goes through the flow's stream editor, which forwards, holds or
//!    denies it.
//! 5. **Transmit**: in batches per link, with one wakeup per link and round (see
//!    [`super::egress`]); **events** for verdicts, drops and flow ends.
//!
//! # Rules
//! - *TCP without a SYN.* A segment that belongs to no flow opens one only if policy allows the
//!   flow without inspection in both orientations (as opened by either end): its opener is unknown,
//!   and a server's segment must not turn an inspected or revoked connection into a plain one. If
//!   policy would allow or inspect the flow as opened by one of its ends, the segment is dropped
//!   and its sender is reset (RFC 9293 §3.10.7.1), so that an end whose flow was lost in a restart
//!   learns that at once; so is its receiver, if policy denies neither orientation. A segment that
//!   is denied in both orientations is dropped silently. Resets are rate limited per link, and per
//!   source outside of the node, and counted, and no reset is sent in reply to a reset.
//! - *A verdict that changes to deny* ends the flow: an inspected one is reset at both ends, a
//!   plain one is removed, and the rule above applies to later segments. A plain flow that a new
//!   policy requires to be inspected is denied too, because the beginning of its stream was not
//!   seen.
//! - *L7 rules without an inspector.* HTTP, Kafka and TLS are inspected over TCP, DNS over TCP and
//!   UDP. A flow that needs another inspector is denied.
//! - *DNS over UDP* is inspected from any datagram on, so a plain flow becomes an inspected one at
//!   the client's next datagram when a new policy says so; the server's datagrams are dropped until
//!   then. A datagram of a DNS server opens no flow towards a client whose queries are inspected:
//!   it would let them pass as replies.
//! - *TTL.* podgate is one router hop between two pods (TTL minus one) and transparent between a
//!   pod and its node (TTL unchanged: the kernel routes and decrements).
//! - *Multicast and broadcast*, of IP or of Ethernet, are never forwarded. A subnet's broadcast
//!   address can't be recognized, since pod addresses have no subnet: policy applies to it, and it
//!   goes to the node, whose kernel doesn't forward it by default (`bc_forwarding`).
//! - *Fragments* wait until their datagram is complete, and are decided as one packet; see
//!   [`super::reassembly`]. The packet is fragmented again on transmit, into fragments no larger
//!   than the largest one received.
//! - *Packets larger than the MTU* are fragmented if IPv4 allows it, else an ICMP error is sent, as
//!   for packets whose TTL is used up; see [`super::forward`] and [`super::icmp_reply`].
//! - *TCP connections* respect the path MTU of both links: the MSS of SYNs is clamped
//!   ([`crate::packet::mss`]).
//! - *VLANs*: tagged frames are dropped on every link: policy doesn't know the addresses of another
//!   network. A tag that only sets a priority (VLAN 0) is kept.
//! - *Partial checksums* are completed: TCP, UDP and SCTP, before the packet is fragmented or
//!   quoted in an ICMP error, and before it is transmitted, unless the kernel accepts partial ones
//!   ([`has_tx_metadata`](crate::mem::Umem::has_tx_metadata)).
//! - *TCP resets* after the handshake shorten the flow's timeout; a later segment of the reset's
//!   sender reverts that, since the reset was then forged or ignored ([`tcp`]). Sequence numbers of
//!   plain flows are not tracked.
//! - *A full flow table* evicts flows in a stated order ([`crate::flow`]), counted as evictions: a
//!   new flow of an opener (a pod's link, or a group of outside sources) that has used up its share
//!   evicts a flow of the same opener, or is denied. The same holds for inspected flows.
//! - *A detached flow* was inspected and has nothing left to inspect (a WebSocket, for example). It
//!   is plain, without an inspector; but a new policy may require its inspection if its rules are
//!   of the same protocol, and a SYN on its tuple begins a new flow, which is inspected.
//! - *An inspected connection that podgate closes* is removed as soon as the client has the
//!   response and has closed its side, and the server is closed, too; where both ends were reset,
//!   it may be evicted at once and is removed after a second.
//! - *ICMP replies* need the flow that their query opened. *ICMP errors* pass if they quote a
//!   packet of a known flow, come from the link that it was forwarded to, and are sent to its
//!   sender. Their source may be a router in between.
//! - *A local pod's address as the source* of a packet from the host link is accepted only if the
//!   kernel received the packet from the host link: then it is the pod's own packet, which podgate
//!   forwarded and the kernel sent back with another destination, such as a service's backend on
//!   this node. A program at the host link's egress hook marks such packets by their Ethernet
//!   source ([`HostFrame::Hairpin`]). Any other such packet, from outside, from pods that are not
//!   attached, or from the node itself, is dropped as spoofed.
//! - *This node's address as the source* of a packet from the host link counts as the node only if
//!   the node itself sent the packet, unfragmented: the same program marks such packets
//!   ([`HostFrame::Local`]). Other such packets are masqueraded, forged or fragments, and belong to
//!   `world`. A flow keeps the sender of its first packet. If a pod's segment picks up a TCP
//!   connection, the node at the other end counts as `world`, too.
//! - *A pod that reaches itself through a service* is masqueraded by the kernel. The mark of a
//!   hairpin names the link of the pod that sent the packet; if that is the destination's link, the
//!   flow is exempt from policy whatever its source is
//!   ([`ProvenSender::Destination`]).
//! - *ICMP of link scope* (neighbour and router discovery, redirects) never crosses links: the
//!   kernels at both ends of a link exchange it past the workers.
//! - *Tunnels* ([`podgate_tables::tunnel`]): a pod's packet that a node's kernel would decapsulate
//!   is dropped, and so is a flow from a node whose replies would be such packets.
//! - *Datagrams of a revoked flow* are dropped as long as either end sends them: otherwise those of
//!   the server would open the flow from its end, and let the client's pass as replies.

use std::sync::Arc;

use podgate_tables::drop_reason::DropReason;
use podgate_tables::event::{EventKind, Traffic};
use podgate_tables::ids::LinkId;
use podgate_tables::policy::{Decision, ProvenSender, Subject, Verdict};
use podgate_tables::proto;
use podgate_tables::service::L4Addr;
use podgate_tables::time::Nanos;
use podgate_tables::tuple::{FlowDirection, Tuple};

use crate::flow::{FlowIx, FlowTable, Permission, tcp};
use crate::mem::Packet;
#[cfg(doc)]
use crate::packet::HostFrame;
use crate::packet::{L4, View, parse, quoted};
use crate::worker::Shared;

use super::affinity::Affinities;
use super::checks::{check_addresses, is_detached_from, is_link_scope_icmp, is_tunnel_to_node};
use super::ctx::{Evaluation, OpenerLink, PacketCtx};
use super::datagrams::Datagrams;
use super::decisions::DecisionCache;
use super::egress::{Egress, Origin};
use super::fast_path::{FastPath, Ingress};
use super::flow_io::InspectedIo;
use super::forward::{self, Path};
use super::inspectors::Inspectors;
use super::reassembly::Reassembly;
use super::service_tuples::{Relation, is_loop, translate_error_back, tuple_of_ends, untranslated};
use super::steering::{Steering, steer};
use super::targets::Targets;

/// Flows and owners checked for expiry per round, at most.
const EXPIRY_BUDGET: usize = 32;
/// Inspected flows whose timers run per round, at most; the others follow in the next rounds.
const INSPECTED_BUDGET: usize = 256;

/// The permission of translations, which policy doesn't decide on.
pub(super) const ALLOWED: Permission = Permission::Allowed;

/// A worker's flows and inspectors.
#[derive(Debug)]
pub(super) struct Pipeline {
    pub(super) index: u16,
    pub(super) workers: u16,
    pub(super) flows: FlowTable,
    pub(super) decisions: DecisionCache,
    /// What flows are translated to.
    pub(super) targets: Targets,
    pub(super) affinities: Affinities,
    pub(super) inspectors: Inspectors,
    pub(super) datagrams: Datagrams,
    fast_path: FastPath,
    pub(super) reassembly: Reassembly,
}

impl Pipeline {
    pub(super) fn new(index: u16, shared: &Arc<Shared>, umem_frames: u32) -> Self {
        let workers = shared.config.workers;
        Self {
            index,
            workers,
            flows: FlowTable::new(shared.config.flows_per_worker),
            decisions: DecisionCache::new(shared.config.flows_per_worker),
            targets: Targets::new(),
            affinities: Affinities::new(),
            inspectors: Inspectors::new(shared.config.inspected_per_worker),
            datagrams: Datagrams::new(index, shared),
            fast_path: FastPath::new(),
            reassembly: Reassembly::new(umem_frames, workers),
        }
    }

    pub(super) fn flows(&self) -> usize {
        self.flows.len()
    }

    pub(super) fn inspected_flows(&self) -> usize {
        self.inspectors.len() + self.datagrams.len()
    }

    pub(super) fn held_frames(&self) -> usize {
        let inspected = self.inspectors.held_frames() + self.datagrams.held_frames();
        inspected + self.reassembly.held_frames()
    }

    /// Bytes that inspected flows buffer.
    pub(super) fn buffered_bytes(&self) -> usize {
        self.inspectors.buffered_bytes()
    }

    /// When a timer of an inspected flow is due; these are finer than flow expiry.
    pub(super) fn next_inspected(&self) -> Option<Nanos> {
        self.inspectors.next_due()
    }

    /// Whether DNS answers wait, whose timeout needs a round every few milliseconds.
    pub(super) fn has_waiting_answers(&self) -> bool {
        self.datagrams.has_waiting()
    }

    /// Processes a batch received from `link`, at most [`BATCH`](super::BATCH) packets.
    #[inline(never)]
    pub(super) fn process_batch(
        &mut self,
        cx: &mut PacketCtx<'_>,
        link: LinkId,
        batch: &mut Vec<Packet>,
    ) {
        if cx.egress.is_capturing() {
            return self.process_captured_batch(cx, link, batch);
        }
        let received = batch.len();
        let ingress = Ingress::new(link, &cx.snapshot.routes);
        let bytes = self.fast_path.read(cx.egress.umem(), ingress, batch);
        cx.egress.stats().received.count(received as u64, bytes);
        let keys = self.fast_path.keys(received);
        if !self.flows.lookup_batch(keys) {
            let new = keys.iter().filter(|key| key.is_new());
            new.for_each(|key| self.decisions.prefetch(key));
        }
        let mut packets = batch.drain(..);
        let mut at = 0;
        while at < received {
            let tables = (&mut self.flows, &self.targets);
            let matched = self.fast_path.match_flows(tables, cx, ingress, at..received);
            let matched = at..at + matched;
            self.fast_path.forward(cx, ingress, matched.clone(), &mut packets);
            at = matched.end + 1;
            if let Some(packet) = packets.next() {
                self.process(cx, link, packet, Steering::Unverified);
            }
        }
    }

    /// The same on the slow path only, with copies for a capture.
    #[cold]
    fn process_captured_batch(
        &mut self,
        cx: &mut PacketCtx<'_>,
        link: LinkId,
        batch: &mut Vec<Packet>,
    ) {
        let bytes = batch.iter().map(|packet| u64::from(packet.len())).sum();
        cx.egress.stats().received.count(batch.len() as u64, bytes);
        for packet in batch.drain(..) {
            cx.egress.capture_received(link, &packet);
            self.process(cx, link, packet, Steering::Unverified);
            self.finish_capture(cx.egress);
        }
    }

    /// Processes packets that another worker received from `link`, at most
    /// [`BATCH`](super::BATCH). `frontends` are the services' addresses and ports that they were
    /// sent to, if they are translated.
    pub(super) fn process_handed_off_batch(
        &mut self,
        cx: &mut PacketCtx<'_>,
        link: LinkId,
        batch: &mut Vec<Packet>,
        frontends: &[Option<L4Addr>],
    ) {
        let steering = |at: usize| frontends[at].map_or(Steering::Verified, Steering::Translated);
        if cx.egress.is_capturing() {
            for (at, packet) in batch.drain(..).enumerate() {
                self.process_handed_off(cx, link, packet, steering(at));
            }
            return;
        }
        let received = batch.len();
        let ingress = Ingress::new(link, &cx.snapshot.routes);
        self.fast_path.read(cx.egress.umem(), ingress, batch);
        self.flows.lookup_batch(self.fast_path.keys(received));
        let mut packets = batch.drain(..);
        let mut at = 0;
        while at < received {
            let tables = (&mut self.flows, &self.targets);
            let run = at..received;
            let matched = self.fast_path.match_handed_off(tables, cx, ingress, run, frontends);
            let matched = at..at + matched;
            self.fast_path.forward(cx, ingress, matched.clone(), &mut packets);
            at = matched.end + 1;
            if let Some(packet) = packets.next() {
                self.process(cx, link, packet, steering(at - 1));
            }
        }
    }

    /// Processes a packet that another worker received.
    pub(super) fn process_handed_off(
        &mut self,
        cx: &mut PacketCtx<'_>,
        link: LinkId,
        packet: Packet,
        steering: Steering,
    ) {
        cx.egress.capture_received_from_worker(link, &packet);
        self.process(cx, link, packet, steering);
        self.finish_capture(cx.egress);
    }

    /// Ends the processing of a packet, for a capture.
    pub(super) fn finish_capture(&self, egress: &mut Egress) {
        let rules_of = |tuple: &Tuple| {
            let (index, _) = self.flows.lookup(tuple)?;
            let flow = self.flows.get(index);
            (!flow.is_translation()).then(|| flow.rules())
        };
        if let Some(capturing) = egress.capturing() {
            capturing.finish(rules_of);
        }
    }

    /// Processes one packet on the slow path.
    #[inline(never)]
    pub(super) fn process(
        &mut self,
        cx: &mut PacketCtx<'_>,
        link: LinkId,
        packet: Packet,
        steering: Steering,
    ) {
        // (1) Parse.
        match parse(cx.egress.umem().data(&packet.head), packet.len()) {
            Ok(view) => self.process_parsed(cx, link, packet, &view, steering),
            Err(reason) => cx.egress.drop_packet(link, packet, reason),
        }
    }

    pub(super) fn process_parsed(
        &mut self,
        cx: &mut PacketCtx<'_>,
        link: LinkId,
        packet: Packet,
        view: &View,
        steering: Steering,
    ) {
        let frontend = steering.frontend();
        let src = match frontend {
            Some(frontend) => untranslated(&view.tuple, frontend).src,
            None => view.tuple.src,
        };
        if let Err(reason) = check_addresses(cx.snapshot, link, view, src) {
            return cx.drop_with_event(link, view.tuple, packet, reason);
        }
        if is_link_scope_icmp(view) {
            return cx.drop_with_event(link, view.tuple, packet, DropReason::LinkScopeIcmp);
        }
        match view.l4_kind {
            L4::IcmpError { .. } => return self.icmp_error(cx, link, view, packet, steering),
            L4::Fragment(fragment) => {
                return self.process_fragment(cx, link, view, fragment, packet);
            }
            L4::Tcp(_) | L4::Udp | L4::Sctp | L4::Icmp { .. } | L4::Other => {}
        }
        // (2) Established flow.
        if let Some((index, direction)) = self.flows.lookup(&view.tuple) {
            let found = (index, direction);
            if self.flows.get(index).is_translation() {
                return match frontend {
                    None => self.continue_translation(cx, link, found, view, packet),
                    // A backend that is a service's address, and is not translated again.
                    Some(_) => {
                        cx.drop_with_event(link, view.tuple, packet, DropReason::ServiceConflict);
                    }
                };
            }
            if !self.reopens(index, direction, view) {
                match self.relation(cx, found, link, view, frontend) {
                    Relation::Same if self.becomes_inspected(cx, index, direction) => {}
                    Relation::Same => return self.established(cx, index, direction, view, packet),
                    Relation::Replaces => {}
                    Relation::Conflict => {
                        let reason = DropReason::ServiceConflict;
                        return cx.drop_with_event(link, view.tuple, packet, reason);
                    }
                }
            }
            self.end_flow(cx, index);
        }
        // (3) New flow.
        match frontend {
            Some(frontend) if is_loop(&view.tuple, frontend) => {
                self.open_loop(cx, link, view, packet, frontend);
            }
            Some(_) => self.open_flow(cx, link, view, packet, frontend),
            None => {
                if let Some(packet) = self.open_translation(cx, link, view, packet) {
                    self.open_flow(cx, link, view, packet, None);
                }
            }
        }
    }

    /// Whether a SYN opens a new connection on the tuple of one that is over, or of a detached one:
    /// a server that has lost it may accept the SYN, and what follows must be inspected.
    fn reopens(&self, index: FlowIx, direction: FlowDirection, view: &View) -> bool {
        view.tcp().is_some_and(|segment| {
            let flow = self.flows.get(index);
            tcp::reopens(flow.tcp(), segment.flags)
                || flow.detached().is_some() && !direction.is_reply() && tcp::opens(segment.flags)
        })
    }

    /// Whether a datagram of the opener makes a plain flow an inspected one: a newer policy says
    /// so.
    fn becomes_inspected(
        &mut self,
        cx: &PacketCtx<'_>,
        index: FlowIx,
        direction: FlowDirection,
    ) -> bool {
        let flow = self.flows.get(index);
        let tuple = flow.tuple();
        let is_current = flow.epoch() == cx.snapshot.epoch.short() && !flow.revoked();
        let is_plain = flow.inspector().is_none();
        if is_current || !is_plain || !tuple.is_udp() || direction.is_reply() {
            return false;
        }
        let subject = Subject { tuple, icmp_type: 0 };
        let (_, decision) = self.decisions.decide(cx.snapshot, &subject, flow.sender());
        decision.verdict == Verdict::Inspect && decision.l7.has_inspector(proto::UDP)
    }

    fn established(
        &mut self,
        cx: &mut PacketCtx<'_>,
        index: FlowIx,
        direction: FlowDirection,
        view: &View,
        packet: Packet,
    ) {
        if !self.is_allowed(cx, index) && !matches!(view.tuple.protocol, proto::UDP | proto::SCTP) {
            let link = self.flows.get(index).link(direction);
            self.end_flow(cx, index);
            return cx.drop_with_event(link, view.tuple, packet, DropReason::PolicyRevoked);
        }
        let flow = self.flows.get(index);
        if view.is_syn() && flow.detached().is_some() {
            let link = flow.link(direction);
            return cx.drop_with_event(link, view.tuple, packet, DropReason::TcpNoFlow);
        }
        let confirmed = flow.confirms();
        let updated = self.flows.update(index, direction, view, cx.now);
        let flow = self.flows.get(index);
        if let Err(reason) = updated {
            return cx.drop_with_event(flow.link(direction), view.tuple, packet, reason);
        }
        if flow.target().is_some() && flow.confirms() != confirmed {
            let notice = self.flow_notice(flow, flow.confirms());
            self.notify_translation(cx, notice);
        }
        let flow = self.flows.get(index);
        match flow.inspector() {
            None => {
                let frontend = self.targets.frontend_of(flow);
                let path = Path::of(flow, frontend, direction, Origin::Received);
                forward::forward(cx, path, packet, view);
            }
            Some(slot) if flow.tuple().is_udp() => {
                self.inspect_datagram(cx, (index, slot), direction, view, packet);
            }
            Some(slot) => self.inspect(cx, (index, slot), direction, view, packet),
        }
    }

    /// Whether a flow is allowed under the current epoch.
    pub(super) fn is_allowed(&mut self, cx: &mut PacketCtx<'_>, index: FlowIx) -> bool {
        if self.flows.get(index).epoch() != cx.snapshot.epoch.short() {
            let permission = self.reevaluate(cx, index);
            self.flows.get_mut(index).set_permission(cx.snapshot.epoch, permission);
        }
        !self.flows.get(index).revoked()
    }

    /// (3) Decides on an established flow again, under a new epoch.
    fn reevaluate(&mut self, cx: &mut PacketCtx<'_>, index: FlowIx) -> Permission {
        cx.egress.stats().reevaluated.add(1);
        let flow = self.flows.get_mut(index);
        cx.egress.rule_counters().count_flow(flow);
        let flow = self.flows.get(index);
        let (tuple, frontend) = (flow.tuple(), self.targets.frontend_of(flow));
        if frontend.is_some_and(|frontend| is_loop(&tuple, frontend)) {
            let there = cx.snapshot.routes.local_link(tuple.dst);
            let stays = there == Some(flow.link(FlowDirection::Original));
            return if stays { Permission::Allowed } else { Permission::Revoked };
        }
        let subject = Subject { tuple, icmp_type: flow.icmp_type() };
        let (ends, decision) = self.decisions.decide(cx.snapshot, &subject, flow.sender());
        let allowed = match (decision.verdict, flow.inspector()) {
            (Verdict::Deny, _) => false,
            // Its beginning was allowed by rules of the same protocol, and nothing else is decided.
            (Verdict::Inspect, None) => is_detached_from(flow.detached(), &decision),
            (Verdict::Allow, None) if flow.picked_up() => {
                cx.decide_reversed(&subject, ends).verdict == Verdict::Allow
            }
            (Verdict::Allow, _) => true,
            (Verdict::Inspect, Some(_)) if tuple.is_udp() => decision.l7.has_inspector(proto::UDP),
            // An inspector that has followed the connection knows one protocol.
            (Verdict::Inspect, Some(slot)) => {
                let inspected = self.inspectors.get_mut(slot);
                let has = inspected.map(|inspected| inspected.editor.inspector().of_rules());
                has.is_some() && decision.l7.protocol().is_ok_and(|wanted| wanted == has)
            }
        };
        let (before, opener) = (flow.opener(), flow.link(FlowDirection::Original));
        let opener_link = OpenerLink::of(cx.snapshot, opener);
        let is_tunnel = is_tunnel_to_node(cx.snapshot, &tuple, opener_link);
        // A pod that reached itself by this address; another pod may have the address now.
        let is_other_pod = flow.sender() == ProvenSender::Destination
            && cx.snapshot.routes.local_link(tuple.dst) != Some(flow.link(FlowDirection::Reply));
        let allowed = allowed && !is_tunnel && !is_other_pod;
        let (Some(links), true) = (cx.links(ends, opener_link), allowed) else {
            let denied = Decision { verdict: Verdict::Deny, ..decision };
            cx.emit_verdict(opener, &subject, &denied, (0, frontend), Evaluation::Again, 0);
            return Permission::Revoked;
        };
        let inspector = flow.inspector();
        if let Some(target) = flow.target() {
            self.targets.transfer(opener, links.opener, target);
        }
        self.flows.set_links(index, links);
        let flow = self.flows.get_mut(index);
        flow.set_hairpin(opener_link.is_hairpin(ends));
        flow.set_rules([decision.egress, decision.ingress]);
        if let Some(slot) = inspector.filter(|_| tuple.is_udp()) {
            self.datagrams.put(slot, decision.l7);
        } else if let Some(slot) = inspector
            && let Some(inspected) = self.inspectors.get_mut(slot)
        {
            let editor = &inspected.editor;
            let after = self.flows.get(index).opener();
            cx.egress.frame_quota().transfer(before, after, editor.held_frames());
            cx.egress.byte_quota().transfer(before, after, editor.buffered_bytes());
            inspected.set_policy(decision.l7);
        }
        Permission::Allowed
    }

    /// Forwards an ICMP error if it is about a flow of this worker and sent to the quoted sender.
    pub(super) fn icmp_error(
        &mut self,
        cx: &mut PacketCtx<'_>,
        link: LinkId,
        view: &View,
        mut packet: Packet,
        steering: Steering,
    ) {
        let Some(about) = quoted(cx.egress.umem().data(&packet.head), view) else {
            return cx.drop_with_event(link, view.tuple, packet, DropReason::IcmpUnrelated);
        };
        let owner = steer(&about, self.workers);
        if owner != self.index && steering == Steering::Unverified {
            return cx.egress.hand_off(owner, link, packet, None);
        }
        let found = self.flows.lookup(&about).filter(|_| about.src == view.tuple.dst);
        match found {
            Some((index, direction)) if self.flows.get(index).is_translation() => match steering {
                Steering::Translated(_) => {
                    cx.drop_with_event(link, view.tuple, packet, DropReason::IcmpUnrelated);
                }
                _ => self.translate_icmp_error(cx, link, (index, direction), view, packet),
            },
            // Only the link that the packet was forwarded to may report an error about it.
            Some((index, direction))
                if self.is_allowed(cx, index)
                    && self.flows.get(index).link(direction.reverse()) == link =>
            {
                let flow = self.flows.get(index);
                let (to, mut view) = (flow.link(direction), *view);
                if let (Some(frontend), FlowDirection::Original) =
                    (self.targets.frontend_of(flow), direction)
                {
                    let head = cx.egress.umem().data_mut(&mut packet.head);
                    translate_error_back(head, &mut view, &about, frontend);
                }
                let path = Path { from: link, to, origin: Origin::Received, service: None };
                forward::forward(cx, path, packet, &view);
            }
            _ => cx.drop_with_event(link, view.tuple, packet, DropReason::IcmpUnrelated),
        }
    }

    /// Runs timers: of a bounded number of flows and inspectors per round.
    pub(super) fn run_timers(&mut self, cx: &mut PacketCtx<'_>) {
        let mut budget = EXPIRY_BUDGET;
        while let Some(index) = self.flows.next_expired(cx.now, &mut budget) {
            let translation = self.translation_of(index);
            self.end_flow(cx, index);
            // The translation was kept because of this flow, and its own next check may be far off.
            if let Some((index, _)) = translation.and_then(|tuple| self.flows.lookup(&tuple))
                && self.flows.get(index).is_translation()
                && self.flows.get(index).is_expired(cx.now)
            {
                self.end_flow(cx, index);
            }
        }
        self.expire_fragments(cx);
        for _ in 0..INSPECTED_BUDGET {
            let Some(slot) = self.inspectors.pop_due(cx.now) else { break };
            self.tick_inspected(cx, slot);
        }
    }

    /// Ends a flow to make room for another one.
    pub(super) fn evict(&mut self, cx: &mut PacketCtx<'_>, index: FlowIx) {
        cx.egress.stats().flows_evicted.add(1);
        self.end_flow(cx, index);
    }

    /// Removes a flow, with an event. An inspected one is reset at both ends unless it is over.
    pub(super) fn end_flow(&mut self, cx: &mut PacketCtx<'_>, index: FlowIx) {
        let mut flow = self.flows.remove(index);
        if flow.target().is_some() && flow.packets()[FlowDirection::Reply as usize] > 0 {
            let notice = self.flow_notice(&flow, false);
            self.notify_translation(cx, notice);
        }
        cx.egress.rule_counters().count_flow(&mut flow);
        let frontend = self.targets.frontend_of(&flow);
        if let Some(target) = flow.target() {
            self.targets.release(flow.link(FlowDirection::Original), target);
        }
        if flow.is_translation() {
            return;
        }
        let slot = flow.inspector();
        if let Some(slot) = slot.filter(|_| flow.tuple().is_udp()) {
            self.datagrams.remove(slot);
        } else if let Some(mut inspected) = slot.and_then(|slot| self.inspectors.take(slot)) {
            inspected.editor.close(&mut InspectedIo { flow: &flow, frontend, cx });
        }
        let traffic = |direction| Traffic {
            packets: flow.packets()[direction as usize],
            bytes: flow.bytes()[direction as usize],
        };
        let kind = EventKind::End {
            original: traffic(FlowDirection::Original),
            reply: traffic(FlowDirection::Reply),
            decided: flow.epoch().nearest_to(cx.snapshot.epoch),
        };
        let (link, tuple) = (flow.link(FlowDirection::Original), tuple_of_ends(&flow, frontend));
        cx.egress.emit_event(cx.event(link, tuple, frontend, kind));
    }
}
