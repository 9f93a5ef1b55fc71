//! (3) New flows: decided, inserted into the table, and their first packet forwarded or inspected.

use podgate_tables::drop_reason::DropReason;
use podgate_tables::ids::LinkId;
use podgate_tables::policy::{Cause, Decision, ProvenSender, Snapshot, Subject, Verdict};
use podgate_tables::service::L4Addr;
use podgate_tables::tuple::FlowDirection;

use crate::flow::{Flow, FlowIx, tcp};
use crate::l7::editor::Editor;
use crate::l7::protocol::FlowInspector;
use crate::mem::Packet;
use crate::packet::icmp::{self, Role};
use crate::packet::{HostFrame, L4, View};

use super::checks::is_tunnel_to_node;
use super::ctx::{Evaluation, OpenerLink, PacketCtx};
use super::egress::Origin;
use super::forward::{self, Path};
use super::inspectors::Inspected;
use super::pipeline::Pipeline;
use super::reset::{MidStream, reset_receiver, reset_sender};
use super::services::reset_opener;

impl Pipeline {
    /// (3) Processes a packet that belongs to no flow; `frontend` is where it was sent to, if it is
    /// translated.
    pub(super) fn open_flow(
        &mut self,
        cx: &mut PacketCtx<'_>,
        link: LinkId,
        view: &View,
        packet: Packet,
        frontend: Option<L4Addr>,
    ) {
        let subject = Subject { tuple: view.tuple, icmp_type: icmp_type_of(view) };
        if matches!(icmp::role(view.tuple.protocol, subject.icmp_type), Role::Reply { .. }) {
            return cx.drop_with_event(link, view.tuple, packet, DropReason::IcmpUnrelated);
        }
        let opener = OpenerLink::of(cx.snapshot, link);
        let sender = match opener {
            OpenerLink::Host => sender(cx.snapshot, view),
            OpenerLink::Pod => ProvenSender::Unknown,
        };
        let (ends, decision) = self.decisions.decide(cx.snapshot, &subject, sender);
        let Some(links) = cx.links(ends, opener) else {
            return cx.drop_with_event(link, view.tuple, packet, DropReason::Unroutable);
        };
        if is_tunnel_to_node(cx.snapshot, &view.tuple, opener) {
            return cx.drop_with_event(link, view.tuple, packet, DropReason::TunnelToNode);
        }
        let flags = view.tcp().map_or(0, |segment| segment.flags);
        if view.tcp().is_some() && !tcp::opens(flags) {
            let action = MidStream::of(cx, &subject, ends, &decision, flags);
            if matches!(action, MidStream::ResetSender | MidStream::ResetBoth) {
                if frontend.is_none() {
                    reset_sender(cx, link, view, &packet);
                }
                if action == MidStream::ResetBoth {
                    reset_receiver(cx, (link, links.responder), view, &packet);
                }
                if let Some(frontend) = frontend {
                    return reset_opener(cx, link, view, packet, frontend);
                }
            }
            if !matches!(action, MidStream::PickUp | MidStream::Deny) {
                return cx.drop_with_event(link, view.tuple, packet, DropReason::TcpNoFlow);
            }
        }
        let denied = decision.verdict == Verdict::Deny;
        let denied_bytes = if denied { u64::from(view.ip_len()) } else { 0 };
        let packet_of = (flags, frontend);
        cx.emit_verdict(link, &subject, &decision, packet_of, Evaluation::First, denied_bytes);
        if decision.verdict == Verdict::Deny {
            return cx.egress.drop_counted(packet, denial_reason(&decision));
        }
        if decision.verdict == Verdict::Inspect && !decision.l7.has_inspector(view.tuple.protocol) {
            return cx.drop_with_event(link, view.tuple, packet, DropReason::L7Unsupported);
        }
        let is_plain_udp = view.tuple.is_udp() && decision.verdict == Verdict::Allow;
        if is_plain_udp && cx.decide_reversed(&subject, ends).verdict == Verdict::Inspect {
            return cx.drop_with_event(link, view.tuple, packet, DropReason::DnsUnsolicited);
        }
        let mut flow = Flow::new(view, cx.snapshot.epoch, links, cx.now);
        flow.set_rules([decision.egress, decision.ingress]);
        flow.set_hairpin(opener.is_hairpin(ends));
        flow.set_sender(sender);
        self.forward_first(cx, (link, frontend), flow, decision, view, packet);
    }

    /// Inserts a new flow, and forwards or inspects its first packet.
    pub(super) fn forward_first(
        &mut self,
        cx: &mut PacketCtx<'_>,
        (link, frontend): (LinkId, Option<L4Addr>),
        flow: Flow,
        decision: Decision,
        view: &View,
        packet: Packet,
    ) {
        let (index, slot) = match self.insert_to(cx, flow, frontend, decision.verdict) {
            Ok(inserted) => inserted,
            Err(reason) => {
                count_over_quota(cx, link, reason);
                return cx.drop_with_event(link, view.tuple, packet, reason);
            }
        };
        cx.egress.stats().flows_opened.add(1);
        match slot {
            None => {
                let flow = self.flows.get(index);
                let path = Path::of(flow, frontend, FlowDirection::Original, Origin::Received);
                forward::forward(cx, path, packet, view);
            }
            Some(slot) if view.tuple.is_udp() => {
                self.datagrams.put(slot, decision.l7);
                self.inspect_datagram(cx, (index, slot), FlowDirection::Original, view, packet);
            }
            Some(slot) => {
                // The caller has checked that there is one; the default denies other protocols.
                let dns = &self.datagrams.dns;
                let inspector = FlowInspector::for_rules(&decision.l7, dns, link);
                let editor = Editor::new(inspector.unwrap_or_default());
                let inspected = Inspected { flow: index, editor, policy: decision.l7 };
                self.inspectors.put(slot, inspected);
                self.inspect(cx, (index, slot), FlowDirection::Original, view, packet);
            }
        }
    }

    /// Inserts a new flow that was opened by a packet to `frontend`, see [`Self::insert`].
    fn insert_to(
        &mut self,
        cx: &mut PacketCtx<'_>,
        mut flow: Flow,
        frontend: Option<L4Addr>,
        verdict: Verdict,
    ) -> Result<(FlowIx, Option<u32>), DropReason> {
        let Some(frontend) = frontend else { return self.insert(cx, flow, verdict) };
        let opener = flow.link(FlowDirection::Original);
        let target = self.targets.acquire(opener, frontend).ok_or(DropReason::ServiceFull)?;
        flow.set_target(Some(target));
        let inserted = self.insert(cx, flow, verdict);
        if inserted.is_err() {
            self.targets.release(opener, target);
        }
        inserted
    }

    /// Inserts a new flow into the table, with an inspector's slot if its verdict is to inspect it.
    /// If its owner has used up its share, another flow of the owner is evicted.
    pub(super) fn insert(
        &mut self,
        cx: &mut PacketCtx<'_>,
        mut flow: Flow,
        verdict: Verdict,
    ) -> Result<(FlowIx, Option<u32>), DropReason> {
        let inspected = verdict == Verdict::Inspect;
        let opener = self.flows.opener(flow.link(FlowDirection::Original), flow.tuple().src);
        // A flow is evicted only if this makes room for the new one. Evicting an inspected flow
        // also frees an entry of the table.
        let free = self.free_inspectors();
        if inspected && self.flows.must_evict_inspected(&opener, free) {
            let victim = self.flows.inspected_victim(&opener, cx.now);
            self.evict(cx, victim.ok_or(DropReason::InspectedFull)?);
        } else if inspected && free == 0 {
            return Err(DropReason::InspectedFull);
        } else if self.flows.must_evict(&opener) {
            let spared = self.other_half(&flow);
            let victim = self.flows.victim(&opener, cx.now, spared);
            self.evict(cx, victim.ok_or(DropReason::FlowTableFull)?);
        }
        let is_udp = flow.tuple().is_udp();
        let slot = match inspected {
            true if is_udp => Some(self.datagrams.reserve()),
            true => Some(self.inspectors.reserve().ok_or(DropReason::InspectedFull)?),
            false => None,
        };
        flow.set_inspector(slot);
        let index = self.flows.insert(flow);
        match (&index, slot) {
            (Err(_), Some(slot)) if is_udp => self.datagrams.remove(slot),
            (Err(_), Some(slot)) => self.inspectors.cancel(slot),
            _ => {}
        }
        Ok((index?, slot))
    }

    /// Flows that may be inspected in addition.
    fn free_inspectors(&self) -> usize {
        self.inspectors.free().saturating_sub(self.datagrams.len())
    }
}

/// Counts the resource of which `link` has used up its share, if a flow could not be opened for
/// this reason.
pub(super) fn count_over_quota(cx: &mut PacketCtx<'_>, link: LinkId, reason: DropReason) {
    if let Some(over) = cx.egress.over_quota(link) {
        let of = match reason {
            DropReason::InspectedFull => &mut over.inspected,
            DropReason::ServiceFull => &mut over.services,
            _ => &mut over.flows,
        };
        *of += 1;
    }
}

/// Who sent a packet from the host link, beyond what its source address says.
fn sender(snapshot: &Snapshot, view: &View) -> ProvenSender {
    match HostFrame::of(view.eth_src) {
        HostFrame::Local => ProvenSender::Node,
        HostFrame::Hairpin { sender: Some(slot) }
            if snapshot.routes.local_link(view.tuple.dst) == Some(LinkId(slot.get())) =>
        {
            ProvenSender::Destination
        }
        HostFrame::Hairpin { .. } | HostFrame::Foreign => ProvenSender::Unknown,
    }
}

fn icmp_type_of(view: &View) -> u8 {
    match view.l4_kind {
        L4::Icmp { kind, .. } => kind,
        _ => 0,
    }
}

/// The drop reason of a deny decision.
fn denial_reason(decision: &Decision) -> DropReason {
    let by_rule = |cause| matches!(cause, Cause::Denied(_) | Cause::Conflicting(_));
    if by_rule(decision.egress) || by_rule(decision.ingress) {
        DropReason::PolicyDenyRule
    } else {
        DropReason::PolicyDenied
    }
}
