//! What the pipeline needs while it processes a batch: time, tables, links; and its events.

use podgate_tables::address::Address;
use podgate_tables::drop_reason::DropReason;
use podgate_tables::event::{Event, EventKind};
use podgate_tables::ids::LinkId;
use podgate_tables::policy::{Decision, ProvenSender, Snapshot, Subject};
use podgate_tables::service::L4Addr;
use podgate_tables::time::Nanos;
use podgate_tables::tuple::Tuple;

use crate::flow::FlowLinks;
use crate::mem::Packet;

use super::decisions::Ends;
use super::egress::Egress;
use super::rate_limit::RateLimit;

/// Context of the packets of one batch.
pub(super) struct PacketCtx<'a> {
    pub(super) now: Nanos,
    pub(super) snapshot: &'a Snapshot,
    pub(super) egress: &'a mut Egress,
}

/// Where the packets of a flow's opener are received.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum OpenerLink {
    /// On a pod's link.
    Pod,
    /// On the host link, whatever their source is.
    Host,
}

impl OpenerLink {
    #[inline]
    pub(super) fn of(snapshot: &Snapshot, link: LinkId) -> Self {
        if snapshot.routes.is_host(link) { Self::Host } else { Self::Pod }
    }

    /// Whether a flow consists of a local pod's packets that the kernel sent back.
    #[inline]
    pub(super) const fn is_hairpin(self, ends: Ends) -> bool {
        matches!(self, Self::Host) && ends.src.is_some()
    }
}

/// Whether a verdict is a flow's first one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Evaluation {
    First,
    /// The epoch has changed since.
    Again,
}

impl PacketCtx<'_> {
    /// (3) The tables' decision on the opposite direction, whose sender is not known. Not cached:
    /// the destination port is usually a client's, so other flows rarely share it.
    pub(super) fn decide_reversed(&self, subject: &Subject, ends: Ends) -> Decision {
        let (subject, local) = (subject.reversed(), ends.reversed().local());
        self.snapshot.policy.decide_from(&subject, local, ProvenSender::Unknown)
    }

    /// The links of a flow's opener and responder. `None` if no link leads to the responder.
    ///
    /// Replies to a packet from the kernel go back to the kernel even if its source is a local pod:
    /// the kernel may have translated its addresses and must see the replies.
    pub(super) fn links(&self, ends: Ends, opener: OpenerLink) -> Option<FlowLinks> {
        let host = self.snapshot.routes.host_link();
        let opener = match opener {
            OpenerLink::Host => host?,
            OpenerLink::Pod => ends.src.or(host)?,
        };
        let responder = ends.dst.or(host)?;
        (opener != responder).then_some(FlowLinks { opener, responder })
    }

    /// Takes a token of a rate limit for a reply of our own to a packet that `sender` sent and that
    /// was received from the link `from`. Returns whether there was one.
    pub(super) fn may_reply(
        &mut self,
        from: LinkId,
        sender: Address,
        limit: impl FnOnce(&mut Egress) -> &mut RateLimit,
    ) -> bool {
        let limit = limit(self.egress);
        match self.snapshot.routes.is_host(from) {
            true => limit.take_outside(sender, self.now),
            false => limit.take(from, self.now),
        }
    }

    /// Drops a packet for another reason than policy, with an event. `tuple` is what its headers
    /// say, or said before they were translated.
    pub(super) fn drop_with_event(
        &mut self,
        link: LinkId,
        tuple: Tuple,
        packet: Packet,
        reason: DropReason,
    ) {
        self.egress.drop_counted(packet, reason);
        self.emit_event(link, tuple, EventKind::Drop { reason });
    }

    /// Counts and reports a decision; `denied_bytes` are those of the packet if it is dropped.
    pub(super) fn emit_verdict(
        &mut self,
        link: LinkId,
        subject: &Subject,
        decision: &Decision,
        (tcp_flags, frontend): (u8, Option<L4Addr>),
        evaluation: Evaluation,
        denied_bytes: u64,
    ) {
        let causes = [decision.egress, decision.ingress];
        let counters = self.egress.rule_counters();
        counters.decided(self.snapshot.epoch, causes, denied_bytes, self.now);
        if let Some(capturing) = self.egress.capturing() {
            capturing.decided(causes);
        }
        let kind = EventKind::Verdict {
            verdict: decision.verdict,
            egress: decision.egress,
            ingress: decision.ingress,
            tcp_flags,
            icmp_type: subject.icmp_type,
            reevaluated: evaluation == Evaluation::Again,
        };
        self.egress.emit_event(self.event(link, subject.tuple, frontend, kind));
    }

    pub(super) fn emit_event(&mut self, link: LinkId, tuple: Tuple, kind: EventKind<()>) {
        self.egress.emit_event(self.event(link, tuple, None, kind));
    }

    /// An event; `frontend` is the service's address and port, of a translated flow.
    pub(super) fn event<R>(
        &self,
        link: LinkId,
        tuple: Tuple,
        frontend: Option<L4Addr>,
        kind: EventKind<R>,
    ) -> Event<R> {
        Event { time: self.now, epoch: self.snapshot.epoch, link, tuple, frontend, kind }
    }
}
