//! What the pipeline, and a flow's follower, reach of the worker around them.

use podgate_tables::drop_reason::DropReason;
use podgate_tables::event::{Event, EventKind};
use podgate_tables::ids::LinkId;
use podgate_tables::policy::{Decision, NodeSource, Snapshot, Subject};
use podgate_tables::route::Outlet;
use podgate_tables::time::Nanos;
use podgate_tables::tuple::{Direction, Tuple};

use crate::flow::Flow;
use crate::l7::io::FlowIo;
use crate::packet::icmp_error::Complaint;
use crate::packet::{View, edit, mss, parse};
use crate::xsk::{Frame, Packet, Umem};

use super::decisions::Ends;
use super::egress::{Egress, Kept, Origin};

/// What surrounds the pipeline while it works on one batch.
pub(super) struct Surroundings<'a> {
    pub(super) now: Nanos,
    pub(super) snapshot: &'a Snapshot,
    pub(super) egress: &'a mut Egress,
}

impl Surroundings<'_> {
    /// (3) The verdict of the tables in force on the opposite direction. That a node at the other
    /// end had sent something itself is not known, and so it is not believed. Not worth keeping: as a
    /// rule the port is a client's, and no other flow has it.
    pub(super) fn decide_reversed(&self, subject: &Subject, [src, dst]: Ends) -> Decision {
        let local = [dst.is_some(), src.is_some()];
        self.snapshot.policy.decide_from(&subject.reversed(), local, NodeSource::Elsewhere)
    }

    /// Links of the opener and of the receiver. `None` if no link leads on.
    ///
    /// What came from the kernel goes back there even if its source is a local pod: the kernel may
    /// have translated addresses on the way and must see the replies.
    pub(super) fn links(&self, [src, dst]: Ends, from_host: bool) -> Option<[LinkId; 2]> {
        let host = self.snapshot.routes.host_link();
        let opener = if from_host { host? } else { src.or(host)? };
        let receiver = dst.or(host)?;
        (opener != receiver).then_some([opener, receiver])
    }

    /// (5) Sends a packet that came by `from` on as a router would.
    pub(super) fn forward(
        &mut self,
        from: LinkId,
        out: LinkId,
        mut packet: Packet,
        view: &View,
        origin: Origin,
    ) {
        let snapshot = self.snapshot;
        let Some(outlet) = snapshot.routes.outlet(out) else {
            return self.egress.discard(packet, DropReason::LinkGone);
        };
        if view.ip_len() > outlet.mtu || packet.largest_fragment > 0 {
            return self.forward_large(from, outlet, packet, view, origin);
        }
        // A SYN is small and changed below; of a packet that is cut, each fragment is on its own.
        let leave = self.egress.umem().finishes_checksums() && !view.is_syn();
        let left = leave && edit::leave_checksum(self.egress.umem(), &mut packet, view);
        if let Some(packet) = self.make_ready(from, outlet, packet, view, origin, !left) {
            self.egress.transmit(outlet, packet, origin);
        }
    }

    /// (5) What a router changes in a packet. `None` if that was its last hop; then it is dropped.
    #[inline]
    pub(super) fn make_ready(
        &mut self,
        from: LinkId,
        outlet: &Outlet,
        mut packet: Packet,
        view: &View,
        origin: Origin,
        complete: bool,
    ) -> Option<Packet> {
        let routes = &self.snapshot.routes;
        let between_pods =
            origin == Origin::Received && !routes.is_host(outlet.link) && !routes.is_host(from);
        if between_pods {
            let head = self.egress.umem().data_mut(&mut packet.head);
            if let Err(reason) = edit::decrement_ttl(head, view) {
                self.complain(from, &mut packet, view, Complaint::HopsSpent);
                self.egress.discard(packet, reason);
                return None;
            }
        }
        if complete && edit::complete_checksum(self.egress.umem(), &mut packet, view) {
            self.egress.stats().checksums_completed.add(1);
        }
        if view.is_syn() {
            let path = |outlet: &Outlet| outlet.path_mtu.min(outlet.mtu);
            let mtu = routes.outlet(from).map_or(u32::MAX, path).min(path(outlet));
            mss::clamp(self.egress.umem().data_mut(&mut packet.head), view, mtu);
        }
        Some(packet)
    }

    /// Drops a packet for another reason than policy, and tells.
    pub(super) fn refuse(
        &mut self,
        link: LinkId,
        tuple: Tuple,
        packet: Packet,
        reason: DropReason,
    ) {
        self.egress.discard(packet, reason);
        self.tell(link, tuple, EventKind::Drop { reason });
    }

    pub(super) fn tell_verdict(
        &mut self,
        link: LinkId,
        subject: &Subject,
        decision: &Decision,
        tcp_flags: u8,
        reevaluated: bool,
    ) {
        let kind = EventKind::Verdict {
            verdict: decision.verdict,
            egress: decision.egress,
            ingress: decision.ingress,
            tcp_flags,
            icmp_type: subject.icmp_type,
            reevaluated,
        };
        self.tell(link, subject.tuple, kind);
    }

    pub(super) fn tell(&mut self, link: LinkId, tuple: Tuple, kind: EventKind<()>) {
        self.egress.tell(self.event(link, tuple, kind));
    }

    fn event<R>(&self, link: LinkId, tuple: Tuple, kind: EventKind<R>) -> Event<R> {
        Event { time: self.now, epoch: self.snapshot.epoch, link, tuple, kind }
    }
}

/// The follower's way out.
pub(super) struct InspectedIo<'f, 'a, 's> {
    pub(super) flow: &'f Flow,
    pub(super) around: &'a mut Surroundings<'s>,
}

impl InspectedIo<'_, '_, '_> {
    fn send(&mut self, direction: Direction, packet: Packet, origin: Origin) {
        // Held packets are parsed again, and packets of our own for the first time: rarer than a
        // stored view in every held packet would be large.
        let umem = self.around.egress.umem();
        match parse(umem.data(&packet.head), packet.len()) {
            Ok(view) => {
                let (from, out) = (self.flow.link(direction), self.flow.link(direction.reverse()));
                self.around.forward(from, out, packet, &view, origin);
            }
            Err(reason) => self.around.egress.discard(packet, reason),
        }
    }
}

impl FlowIo for InspectedIo<'_, '_, '_> {
    fn umem(&self) -> &Umem {
        self.around.egress.umem()
    }

    fn alloc(&mut self) -> Option<Frame> {
        self.around.egress.alloc()
    }

    fn free(&mut self, frame: Frame) {
        self.around.egress.free(frame);
    }

    fn forward(&mut self, direction: Direction, packet: Packet) {
        self.send(direction, packet, Origin::Received);
    }

    fn originate(&mut self, direction: Direction, packet: Packet) {
        self.send(direction, packet, Origin::Own);
    }

    fn discard(&mut self, packet: Packet, reason: DropReason) {
        self.around.egress.discard(packet, reason);
    }

    fn hold(&mut self, frames: usize) -> bool {
        self.around.egress.take_kept(self.flow.link(Direction::Original), Kept::Frames, frames)
    }

    fn release(&mut self, frames: usize) {
        self.around.egress.held_frames().give_back(self.flow.link(Direction::Original), frames);
    }

    fn keep(&mut self, bytes: usize) -> bool {
        self.around.egress.take_kept(self.flow.link(Direction::Original), Kept::Bytes, bytes)
    }

    fn forget(&mut self, bytes: usize) {
        self.around.egress.kept_bytes().give_back(self.flow.link(Direction::Original), bytes);
    }

    fn event(&mut self, kind: EventKind) {
        let stats = self.around.egress.stats();
        match kind {
            EventKind::HttpRequest { allowed: true, .. } => stats.l7_allowed.add(1),
            EventKind::HttpRequest { allowed: false, .. } => stats.l7_denied.add(1),
            _ => {}
        }
        let (link, tuple) = (self.flow.link(Direction::Original), self.flow.tuple());
        self.around.egress.tell_with_request(self.around.event(link, tuple, kind));
    }
}
