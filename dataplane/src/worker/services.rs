//! (2) Services: packets of pods to cluster IPs, node ports of this node and external addresses,
//! translated before policy decides on them.
//!
//! # Two entries
//! The worker that a pod's packet to a service is steered to chooses the backend, and stores the
//! choice in its flow table as a *translation* ([`Flow::is_translation`]): an entry with the tuple
//! of those packets. It replaces the packet's destination and hands the packet off to the worker
//! that owns the translated tuple, which may be itself. There it is a packet like any other: policy
//! decides on the backend, and inspectors see the backend's port. The flow stores the service's
//! address and port ([`Targets`]). Replies are steered to the flow's owner directly, and have their
//! source replaced when they are forwarded ([`super::forward`]).
//!
//! # Rules
//! - *Who.* TCP, UDP and SCTP of pods. Packets from the host link are not translated: the kernel
//!   has already translated those that it should. Other protocols to a service's address are not
//!   translated either; policy sees that address.
//! - *Which backend.* [`ServicePort::choose`], which depends on the client's address, its port
//!   without affinity, and the backends. Without affinity, the worker prefers backends whose flow
//!   it owns itself, so that few packets are handed off. With affinity, a client keeps the backend
//!   that it had last ([`super::affinity`]) until the service's timeout after its last new flow.
//! - *No backend, or no such port*: the packet is dropped, and its sender is notified: of TCP by a
//!   reset, of UDP and SCTP by "port unreachable". With backends on other nodes only, and
//!   `internalTrafficPolicy: Local`, it is dropped silently, as by kube-proxy.
//! - *A backend that is gone*: TCP and SCTP connections continue until they end. A UDP flow and a
//!   SYN get another backend with the next packet.
//! - *A pod that reaches itself*: the pod must not see its own address as the source, so the source
//!   is replaced, too, by the service's address. The pod's replies are sent to that address and
//!   find the flow. Such a flow is exempt from policy, as a pod may always reach itself.
//! - *Conflicts.* A client may use one port for a service and for its backend directly, or for two
//!   services with one backend. The flows then have the same tuple, and replies can't be told
//!   apart. Segments of the second TCP connection are dropped while the first one is open; a UDP
//!   flow ends when the client sends to the other destination.
//! - *Existing flows to an address and port that become a service's*: TCP connections continue as
//!   they are, others are translated.
//! - *Backends that are services themselves.* A backend with the very address and port that the
//!   packet was sent to is a process of a node; the packet is not translated, and policy decides on
//!   that address. Packets to any other backend that is a service's address and port are dropped.
//! - *Bounds.* A translation uses an entry of the flow table, with the share, the timeouts and the
//!   order of eviction of a flow. One that is evicted is created again with the same choice.
//!   Neither of the two entries of a connection is evicted for the other one: if nothing else can
//!   be evicted, the new connection is dropped. Since only the opener's packets have the
//!   translation's tuple, and an ACK of the opener proves nothing, the worker that has the flow
//!   reports when the other end has answered, and when it has reset the connection ([`Notice`]).
//!   Until then the entry counts as half-open: it expires soon, and is evicted first. If the ring
//!   is full, or the flow had been answered before the translation was created again, the worker
//!   asks at the second packet.

use podgate_tables::drop_reason::DropReason;
use podgate_tables::ids::LinkId;
use podgate_tables::policy::{ProvenSender, Subject, Verdict};
use podgate_tables::proto;
use podgate_tables::service::{Affinity, L4Addr, NoPort, ServicePort, WithoutBackends};
use podgate_tables::time::Nanos;
use podgate_tables::tuple::{FlowDirection, Tuple};

use crate::flow::{Flow, FlowIx, FlowLinks, FlowPlace, tcp};
use crate::mem::Packet;
use crate::packet::icmp_error::IcmpError;
use crate::packet::translate::{translate, translate_error};
use crate::packet::{L4, View};

use super::affinity::{AffinityKey, AffinityRecord, Recorded};
use super::ctx::{Evaluation, PacketCtx};
use super::egress::Egress;
use super::icmp_reply::send_icmp_error;
use super::notice::{FlowNotice, Notice};
use super::open::count_over_quota;
use super::pipeline::Pipeline;
use super::reset::reset_sender;
use super::service_tuples::{Relation, destination, source, translated, untranslated};
use super::steering::{Steering, steer};

#[cfg(doc)]
use super::targets::Targets;
#[cfg(doc)]
use podgate_tables::policy::PolicyTables;

/// The port of the service that a packet from `link` is sent to, see [`PolicyTables::service`].
fn service<'s>(
    cx: &PacketCtx<'s>,
    link: LinkId,
    tuple: &Tuple,
) -> Option<Result<&'s ServicePort, NoPort>> {
    if cx.snapshot.routes.is_host(link) {
        return None;
    }
    cx.snapshot.policy.service(destination(tuple), tuple.protocol)
}

impl Pipeline {
    /// How a packet relates to the flow that has its tuple; `frontend` is where it was sent to, if
    /// it was translated.
    pub(super) fn relation(
        &self,
        cx: &PacketCtx<'_>,
        (index, direction): (FlowIx, FlowDirection),
        link: LinkId,
        view: &View,
        frontend: Option<L4Addr>,
    ) -> Relation {
        let flow = self.flows.get(index);
        let is_tcp = view.tuple.protocol == proto::TCP;
        if direction.is_reply() {
            return if frontend.is_none() { Relation::Same } else { Relation::Conflict };
        }
        let of_flow = self.targets.frontend_of(flow);
        if of_flow != frontend {
            return if is_tcp { Relation::Conflict } else { Relation::Replaces };
        }
        let becomes_translated = of_flow.is_none()
            && flow.epoch() != cx.snapshot.epoch.short()
            && (!is_tcp || view.is_syn())
            && service(cx, link, &view.tuple).is_some();
        if becomes_translated { Relation::Replaces } else { Relation::Same }
    }

    /// Processes a packet that has the tuple of a translation.
    pub(super) fn continue_translation(
        &mut self,
        cx: &mut PacketCtx<'_>,
        link: LinkId,
        (index, direction): (FlowIx, FlowDirection),
        view: &View,
        packet: Packet,
    ) {
        if direction.is_reply() || cx.snapshot.routes.is_host(link) {
            return cx.drop_with_event(link, view.tuple, packet, DropReason::ServiceConflict);
        }
        if self.is_outdated(cx, index, link, view) {
            self.end_flow(cx, index);
            if let Some(packet) = self.open_translation(cx, link, view, packet) {
                self.open_flow(cx, link, view, packet, None);
            }
            return;
        }
        self.flows.update_translation(index, view, cx.now);
        let flow = self.flows.get(index);
        let Some(backend) = self.targets.of(flow) else {
            debug_assert!(false, "a translation has a target");
            return cx.drop_with_event(link, view.tuple, packet, DropReason::ServiceConflict);
        };
        if flow.may_have_missed_notice() {
            self.request_notice(cx, link, &view.tuple, backend);
        }
        self.translate_and_process(cx, link, view, packet, backend);
    }

    /// Asks the worker of a translation's flow, if that is another one, for the flow's notice.
    fn request_notice(&self, cx: &mut PacketCtx<'_>, link: LinkId, from: &Tuple, backend: L4Addr) {
        let (tuple, frontend) = (translated(from, backend), destination(from));
        let owner = steer(&tuple, self.workers);
        if owner != self.index {
            let request = FlowNotice { link, tuple, frontend, confirmed: false };
            cx.egress.send_notice(owner, Notice::Request(request));
        }
    }

    /// Whether a packet needs another choice of a backend than that of its translation.
    fn is_outdated(
        &mut self,
        cx: &PacketCtx<'_>,
        index: FlowIx,
        link: LinkId,
        view: &View,
    ) -> bool {
        let flow = self.flows.get(index);
        let opens = view.tcp().is_some_and(|segment| tcp::opens(segment.flags));
        let is_over = !matches!(flow.tcp(), tcp::State::SynSent | tcp::State::Established);
        if flow.link(FlowDirection::Original) != link || opens && is_over {
            return true;
        }
        if flow.epoch() == cx.snapshot.epoch.short() {
            return false;
        }
        let backend = self.targets.of(flow);
        let port = service(cx, link, &view.tuple).and_then(Result::ok);
        if port.zip(backend).is_some_and(|(port, backend)| port.has(backend)) {
            self.flows.get_mut(index).set_permission(cx.snapshot.epoch, super::pipeline::ALLOWED);
            return false;
        }
        view.tuple.protocol == proto::UDP || opens
    }

    /// Translates the first packet of a flow to a service. Returns the packet if it is not sent to
    /// one.
    pub(super) fn open_translation(
        &mut self,
        cx: &mut PacketCtx<'_>,
        link: LinkId,
        view: &View,
        packet: Packet,
    ) -> Option<Packet> {
        let port = match service(cx, link, &view.tuple) {
            None => return Some(packet),
            Some(Err(NoPort)) => {
                reject(cx, link, view, packet, DropReason::ServiceNoPort);
                return None;
            }
            Some(Ok(port)) => port,
        };
        let Some(backend) = self.choose(cx, link, port, &view.tuple) else {
            match port.without_backends {
                WithoutBackends::Reject => {
                    reject(cx, link, view, packet, DropReason::ServiceNoBackend);
                }
                WithoutBackends::Drop => {
                    let reason = DropReason::ServiceNoBackend;
                    cx.drop_with_event(link, view.tuple, packet, reason);
                }
                WithoutBackends::LeaveToKernel => return Some(packet),
            }
            return None;
        };
        if backend == destination(&view.tuple) {
            // A process of a node that listens at the service's own address and port.
            return Some(packet);
        }
        let policy = &cx.snapshot.policy;
        if policy.find_service(backend, view.tuple.protocol).is_some() {
            // The kernel would translate it again, to what policy has not decided on.
            cx.drop_with_event(link, view.tuple, packet, DropReason::ServiceConflict);
            return None;
        }
        match self.insert_translation(cx, link, view, backend) {
            Ok(()) => self.translate_and_process(cx, link, view, packet, backend),
            Err(reason) => {
                count_over_quota(cx, link, reason);
                cx.drop_with_event(link, view.tuple, packet, reason);
            }
        }
        None
    }

    fn choose(
        &mut self,
        cx: &mut PacketCtx<'_>,
        link: LinkId,
        port: &ServicePort,
        tuple: &Tuple,
    ) -> Option<L4Addr> {
        let is_own = |backend| steer(&translated(tuple, backend), self.workers) == self.index;
        let Affinity::ClientIp { seconds } = port.affinity else {
            return port.choose(source(tuple), is_own);
        };
        let (client, frontend) = (tuple.src, destination(tuple));
        let key = AffinityKey { client, frontend, protocol: tuple.protocol };
        let last = self.affinities.backend(&key, seconds, cx.now);
        let last = last.filter(|backend| port.has(*backend));
        let backend = last.or_else(|| port.choose(source(tuple), is_own))?;
        let record = AffinityRecord { key, backend, used: cx.now, seconds, link };
        let Recorded { publish, lost } = self.affinities.record(record);
        cx.egress.count_lost_affinity(lost);
        if publish {
            for worker in cx.egress.other_workers() {
                cx.egress.send_notice(worker, Notice::Affinity(record));
            }
        }
        Some(backend)
    }

    fn insert_translation(
        &mut self,
        cx: &mut PacketCtx<'_>,
        link: LinkId,
        view: &View,
        backend: L4Addr,
    ) -> Result<(), DropReason> {
        let target = self.targets.acquire(link, backend).ok_or(DropReason::ServiceFull)?;
        let mut flow = Flow::new(view, cx.snapshot.epoch, FlowLinks::new(link, link), cx.now);
        flow.set_translation(target);
        let inserted = self.insert(cx, flow, Verdict::Allow);
        if inserted.is_err() {
            self.targets.release(link, target);
        }
        inserted.map(|_| ())
    }

    /// Translates a packet, and processes it or hands it off to the worker that owns its flow.
    fn translate_and_process(
        &mut self,
        cx: &mut PacketCtx<'_>,
        link: LinkId,
        view: &View,
        mut packet: Packet,
        backend: L4Addr,
    ) {
        let frontend = destination(&view.tuple);
        let to = translated(&view.tuple, backend);
        let (from, mut view) = (view.tuple, *view);
        translate(cx.egress.umem().bytes_mut(&mut packet), &mut view, &to);
        match steer(&to, self.workers) {
            owner if owner == self.index => {
                self.process_parsed(cx, link, packet, &view, Steering::Translated(frontend));
                let place = self.flows.lookup(&to);
                let place = place.map_or(FlowPlace::Unknown, |(index, _)| FlowPlace::Here(index));
                self.set_place(&from, place, cx.now);
            }
            owner => {
                self.set_place(&from, FlowPlace::Worker(owner), cx.now);
                cx.egress.hand_off(owner, link, packet, Some(frontend));
            }
        }
    }

    /// Stores where the flow of the translation with this tuple is, if there is still one, for the
    /// next packets.
    fn set_place(&mut self, from: &Tuple, place: FlowPlace, now: Nanos) {
        let Some((index, _)) = self.flows.lookup(from) else { return };
        if !self.flows.get(index).is_translation() {
            return;
        }
        self.flows.get_mut(index).set_place(place);
        // It may have been created again while the flow continued.
        if let FlowPlace::Here(flow) = place {
            let flow = self.flows.get(flow);
            if flow.confirms() && self.targets.frontend_of(flow) == Some(destination(from)) {
                self.flows.set_confirmed(index, true, now);
            }
        }
    }

    /// The tuple of a flow's translation, which may be at another worker.
    pub(super) fn translation_of(&self, index: FlowIx) -> Option<Tuple> {
        Some(self.flow_notice(self.flows.get(index), false)?.translation())
    }

    /// The translation of a new flow, or the flow of a new translation, if it is in this table and
    /// is of no use without the new one. (A datagram creates what is missing.)
    pub(super) fn other_half(&self, flow: &Flow) -> Option<FlowIx> {
        let tuple = flow.tuple();
        let other = match flow.is_translation() {
            _ if tuple.is_udp() => return None,
            true => translated(&tuple, self.targets.of(flow)?),
            false => self.flow_notice(flow, false)?.translation(),
        };
        self.flows.lookup(&other).map(|(index, _)| index)
    }

    /// The notice for a flow's translation; `None` if it has none.
    pub(super) fn flow_notice(&self, flow: &Flow, confirmed: bool) -> Option<FlowNotice> {
        let (link, tuple) = (flow.link(FlowDirection::Original), flow.tuple());
        let frontend = self.targets.frontend_of(flow)?;
        Some(FlowNotice { link, tuple, frontend, confirmed })
    }

    /// Sends a notice of a flow to its translation.
    pub(super) fn notify_translation(
        &mut self,
        cx: &mut PacketCtx<'_>,
        notice: Option<FlowNotice>,
    ) {
        let Some(notice) = notice else { return };
        match steer(&notice.translation(), self.workers) {
            worker if worker == self.index => self.confirm(&notice, cx.now),
            worker => cx.egress.send_notice(worker, Notice::Flow(notice)),
        }
    }

    fn confirm(&mut self, notice: &FlowNotice, now: Nanos) {
        let FlowNotice { link, tuple, confirmed, .. } = notice;
        let Some((index, _)) = self.flows.lookup(&notice.translation()) else { return };
        let flow = self.flows.get(index);
        // The tuple may belong to another translation by now.
        let is_its = flow.is_translation()
            && flow.link(FlowDirection::Original) == *link
            && self.targets.of(flow) == Some(destination(tuple));
        if is_its {
            self.flows.set_confirmed(index, *confirmed, now);
        }
    }

    /// Applies a notice of another worker.
    pub(super) fn learn(&mut self, egress: &mut Egress, notice: Notice, now: Nanos) {
        match notice {
            Notice::Affinity(record) => {
                let lost = self.affinities.learn(record, now);
                egress.count_lost_affinity(lost);
            }
            Notice::Flow(notice) => self.confirm(&notice, now),
            Notice::Request(FlowNotice { link, tuple, frontend, .. }) => {
                let Some((index, FlowDirection::Original)) = self.flows.lookup(&tuple) else {
                    return;
                };
                let flow = self.flows.get(index);
                let notice = self.flow_notice(flow, true);
                let is_its = |notice: &FlowNotice| {
                    flow.confirms() && (notice.link, notice.frontend) == (link, frontend)
                };
                if let Some(notice) = notice.filter(is_its) {
                    let worker = steer(&notice.translation(), self.workers);
                    egress.send_notice(worker, Notice::Flow(notice));
                }
            }
        }
    }

    /// Opens a flow from a pod to itself through a service.
    pub(super) fn open_loop(
        &mut self,
        cx: &mut PacketCtx<'_>,
        link: LinkId,
        view: &View,
        packet: Packet,
        frontend: L4Addr,
    ) {
        let tuple = Tuple { src: view.tuple.dst, ..view.tuple };
        let subject = Subject { tuple, icmp_type: 0 };
        let flags = view.tcp().map_or(0, |segment| segment.flags);
        if view.tcp().is_some() && !tcp::opens(flags) {
            reset_opener(cx, link, view, packet, frontend);
            return;
        }
        let (_, decision) = self.decisions.decide(cx.snapshot, &subject, ProvenSender::Unknown);
        cx.emit_verdict(link, &subject, &decision, (flags, Some(frontend)), Evaluation::First, 0);
        if decision.verdict != Verdict::Allow {
            return cx.egress.drop_counted(packet, DropReason::PolicyDenyRule);
        }
        let flow = Flow::new(view, cx.snapshot.epoch, FlowLinks::new(link, link), cx.now);
        self.forward_first(cx, (link, Some(frontend)), flow, decision, view, packet);
    }

    /// Translates an ICMP error about a reply that a service's client received, and processes it or
    /// hands it off to the worker that owns the flow.
    #[cold]
    pub(super) fn translate_icmp_error(
        &mut self,
        cx: &mut PacketCtx<'_>,
        link: LinkId,
        (index, direction): (FlowIx, FlowDirection),
        view: &View,
        mut packet: Packet,
    ) {
        let flow = self.flows.get(index);
        let backend = self
            .targets
            .of(flow)
            .filter(|_| direction.is_reply() && flow.link(FlowDirection::Original) == link);
        let Some(backend) = backend else {
            return cx.drop_with_event(link, view.tuple, packet, DropReason::IcmpUnrelated);
        };
        let tuple = flow.tuple();
        let to = translated(&tuple, backend);
        let src = if view.tuple.src == tuple.src { to.src } else { view.tuple.src };
        let mut view = *view;
        let head = cx.egress.umem().data_mut(&mut packet.head);
        translate_error(head, &mut view, &to.reversed(), (src, to.dst));
        let frontend = destination(&tuple);
        match steer(&to, self.workers) {
            owner if owner == self.index => {
                self.icmp_error(cx, link, &view, packet, Steering::Translated(frontend));
            }
            owner => cx.egress.hand_off(owner, link, packet, Some(frontend)),
        }
    }
}

/// Resets the opener of a translated connection that is not known, and drops its segment.
#[cold]
pub(super) fn reset_opener(
    cx: &mut PacketCtx<'_>,
    link: LinkId,
    view: &View,
    mut packet: Packet,
    frontend: L4Addr,
) {
    let (tuple, mut view) = (view.tuple, *view);
    let to = untranslated(&tuple, frontend);
    translate(cx.egress.umem().bytes_mut(&mut packet), &mut view, &to);
    reset_sender(cx, link, &view, &packet);
    cx.drop_with_event(link, tuple, packet, DropReason::TcpNoFlow);
}

/// Rejects a packet to a service.
#[cold]
fn reject(
    cx: &mut PacketCtx<'_>,
    link: LinkId,
    view: &View,
    mut packet: Packet,
    reason: DropReason,
) {
    match view.l4_kind {
        L4::Tcp(_) => reset_sender(cx, link, view, &packet),
        _ => send_icmp_error(cx, link, &mut packet, view, IcmpError::PortUnreachable),
    }
    cx.drop_with_event(link, view.tuple, packet, reason);
}
