//! Flows that outlive their worker: saved when it stops, and restored by those of the next agent.

use podgate_tables::policy::{Subject, Verdict};
use podgate_tables::proto;
use podgate_tables::service::{L4Addr, is_translated};
use podgate_tables::time::Nanos;

use crate::flow::{FlowLinks, SavedFlow};
use crate::packet::icmp::{self, Role};

use super::checks::{is_detached_from, is_tunnel_to_node};
use super::ctx::{OpenerLink, PacketCtx};
use super::pipeline::Pipeline;
use super::service_tuples::{destination, is_loop, untranslated};
use super::steering::steer;

impl Pipeline {
    /// The flows that can outlive this worker ([`SavedFlow::of`]), in no order.
    pub(super) fn saved_flows(&self, now: Nanos) -> impl Iterator<Item = SavedFlow> {
        let flows = self.flows.iter().map(|(_, flow)| flow);
        flows.filter_map(move |flow| SavedFlow::of(flow, self.targets.frontend_of(flow), now))
    }

    /// Restores a flow that a previous worker saved, if the tables allow it plainly as opened by
    /// its opener, between the same links; or require its inspection, and it is detached from an
    /// inspector of the same protocol. It evicts no other flow. Returns whether it did.
    pub(super) fn restore_flow(&mut self, cx: &PacketCtx<'_>, saved: &SavedFlow) -> bool {
        let is_here = steer(&saved.tuple, self.workers) == self.index;
        let is_restored = is_here && self.restore_flow_here(cx, saved);
        // Of a flow that belongs to another worker, the translation may belong to this one.
        if is_restored || !is_here {
            self.restore_translation(cx, saved);
        }
        is_restored
    }

    fn restore_flow_here(&mut self, cx: &PacketCtx<'_>, saved: &SavedFlow) -> bool {
        let tuple = saved.tuple;
        let subject = Subject { tuple, icmp_type: saved.icmp_type() };
        let role = icmp::role(tuple.protocol, subject.icmp_type);
        let is_reply = matches!(role, Role::Reply { .. } | Role::Error);
        let (ends, decision) = self.decisions.decide(cx.snapshot, &subject, saved.sender);
        let opener_link = OpenerLink::of(cx.snapshot, saved.links.opener);
        let is_tunnel = is_tunnel_to_node(cx.snapshot, &tuple, opener_link);
        let allowed = match decision.verdict {
            Verdict::Allow if saved.picked_up => {
                cx.decide_reversed(&subject, ends).verdict == Verdict::Allow
            }
            Verdict::Allow => true,
            Verdict::Inspect => is_detached_from(saved.detached, &decision),
            Verdict::Deny => false,
        };
        let opener = self.flows.opener(saved.links.opener, tuple.src);
        let fits = cx.links(ends, opener_link) == Some(saved.links)
            && self.flows.lookup(&tuple).is_none()
            && !self.flows.must_evict(&opener)
            && saved.frontend.is_none_or(|frontend| is_valid(&frontend, saved));
        if is_reply || is_tunnel || !allowed || !fits {
            return false;
        }
        let Some(mut flow) = saved.restored(cx.snapshot.epoch, cx.now) else {
            return false;
        };
        flow.set_rules([decision.egress, decision.ingress]);
        flow.set_hairpin(opener_link.is_hairpin(ends));
        let link = saved.links.opener;
        let target = match saved.frontend.map(|frontend| self.targets.acquire(link, frontend)) {
            Some(None) => return false,
            target => target.flatten(),
        };
        flow.set_target(target);
        let inserted = self.flows.insert(flow).is_ok();
        if let Some(target) = target.filter(|_| !inserted) {
            self.targets.release(link, target);
        }
        inserted
    }

    /// Restores the translation of a saved flow, if this worker has it. It evicts no other flow.
    fn restore_translation(&mut self, cx: &PacketCtx<'_>, saved: &SavedFlow) {
        let Some(frontend) = saved.frontend.filter(|frontend| is_valid(frontend, saved)) else {
            return;
        };
        let tables = &cx.snapshot.policy;
        let port = tables.service(frontend, saved.tuple.protocol).and_then(Result::ok);
        let has_backend = port.is_some_and(|port| port.has(destination(&saved.tuple)));
        // As for a packet: the address of a pod belongs to no service, and a UDP flow whose backend
        // is gone gets another one.
        if tables.is_pod(frontend.address) || saved.tuple.protocol == proto::UDP && !has_backend {
            return;
        }
        let tuple = untranslated(&saved.tuple, frontend);
        let link = saved.links.opener;
        let opener = self.flows.opener(link, tuple.src);
        let fits = cx.snapshot.routes.local_link(tuple.src) == Some(link)
            && steer(&tuple, self.workers) == self.index
            && self.flows.lookup(&tuple).is_none()
            && !self.flows.must_evict(&opener);
        let original = SavedFlow {
            tuple,
            links: FlowLinks::new(link, link),
            frontend: None,
            picked_up: false,
            detached: None,
            ..saved.clone()
        };
        let Some(mut flow) = original.restored(cx.snapshot.epoch, cx.now).filter(|_| fits) else {
            return;
        };
        let Some(target) = self.targets.acquire(link, destination(&saved.tuple)) else { return };
        flow.set_translation(target);
        if self.flows.insert(flow).is_err() {
            self.targets.release(link, target);
        }
    }
}

/// Whether a saved flow can be to this service. Those of a pod to itself are not restored.
fn is_valid(frontend: &L4Addr, saved: &SavedFlow) -> bool {
    let SavedFlow { tuple, .. } = saved;
    let families = [frontend.address, tuple.src, tuple.dst].map(|address| address.is_v4());
    is_translated(tuple.protocol)
        && families.iter().all(|is_v4| *is_v4 == families[0])
        && !is_loop(tuple, *frontend)
}
