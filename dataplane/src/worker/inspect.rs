//! (4) Inspected flows in the pipeline: segments of connections, datagrams, timers, and DNS answers
//! that the control thread has released.

use podgate_tables::drop_reason::DropReason;
use podgate_tables::tuple::FlowDirection;

use crate::flow::FlowIx;
use crate::l7::datagram::{self, DatagramCtx, DatagramOp, HeldResponse};
use crate::l7::dns::Reply;
use crate::l7::editor::Progress;
use crate::l7::io::FlowIo;
use crate::mem::Packet;
use crate::packet::{View, edit};
use crate::worker::Shared;

use super::ctx::PacketCtx;
use super::datagrams::{Datagrams, HeldDatagram, Inspection, payload, payload_again};
use super::egress::Resource;
use super::flow_io::InspectedIo;
use super::inspectors::Inspected;
use super::pipeline::Pipeline;

impl Pipeline {
    /// (4) Processes a segment of an inspected flow.
    pub(super) fn inspect(
        &mut self,
        cx: &mut PacketCtx<'_>,
        (index, slot): (FlowIx, u32),
        direction: FlowDirection,
        view: &View,
        packet: Packet,
    ) {
        let Some(inspected) = self.inspectors.get_mut(slot) else {
            debug_assert!(false, "a flow's inspector lives as long as the flow");
            let link = self.flows.get(index).link(direction);
            return cx.egress.drop_packet(link, packet, DropReason::L7Unsupported);
        };
        let flow = self.flows.get(index);
        let frontend = self.targets.frontend_of(flow);
        let mut io = InspectedIo { flow, frontend, cx };
        let now = io.cx.now;
        inspected.editor.segment(now, direction, view, packet, &inspected.policy, &mut io);
        if !offer_answer(inspected, slot, &mut io, &mut self.datagrams) {
            io.cx.egress.count_answer_over_quota(flow.link(FlowDirection::Original));
        }
        self.after_inspection(cx, slot, index);
    }

    /// Runs the timers of an inspected flow, under the current epoch: what waits may be decided
    /// now.
    pub(super) fn tick_inspected(&mut self, cx: &mut PacketCtx<'_>, slot: u32) {
        let Some(inspected) = self.inspectors.get_mut(slot) else { return };
        let index = inspected.flow;
        if !self.is_allowed(cx, index) {
            return self.end_flow(cx, index);
        }
        let Some(inspected) = self.inspectors.get_mut(slot) else { return };
        let flow = self.flows.get(index);
        let frontend = self.targets.frontend_of(flow);
        let mut io = InspectedIo { flow, frontend, cx };
        inspected.editor.tick(io.cx.now, &inspected.policy, &mut io);
        offer_answer(inspected, slot, &mut io, &mut self.datagrams);
        self.after_inspection(cx, slot, index);
    }

    /// Updates a flow after its connection has been inspected.
    fn after_inspection(&mut self, cx: &mut PacketCtx<'_>, slot: u32, index: FlowIx) {
        let Some(inspected) = self.inspectors.get_mut(slot) else { return };
        let (now, requested) = (cx.now, self.flows.get(index).requested());
        match inspected.editor.progress() {
            Progress::Opened => {}
            Progress::Requested if requested => {}
            Progress::Requested => self.flows.set_requested(index, now),
            Progress::Detached => return self.detach(cx, slot, index),
            Progress::Answered => self.flows.set_answered(index, now),
            Progress::Reset => self.flows.set_reset(index, now),
            Progress::Over => return self.end_flow(cx, index),
        }
        self.inspectors.set_timer(slot);
    }

    /// Turns a flow whose inspector has nothing more to do into a plain one.
    fn detach(&mut self, cx: &mut PacketCtx<'_>, slot: u32, index: FlowIx) {
        let Some(inspected) = self.inspectors.take(slot) else { return };
        let Inspected { editor, .. } = *inspected;
        let protocol = editor.inspector().of_rules();
        let flow = self.flows.get(index);
        let frontend = self.targets.frontend_of(flow);
        editor.detach(&mut InspectedIo { flow, frontend, cx });
        self.flows.set_detached(index, protocol, cx.now);
    }

    /// Processes a datagram of an inspected flow.
    pub(super) fn inspect_datagram(
        &mut self,
        cx: &mut PacketCtx<'_>,
        (index, slot): (FlowIx, u32),
        direction: FlowDirection,
        view: &View,
        mut packet: Packet,
    ) {
        let umem = cx.egress.umem();
        if edit::complete_checksum(umem.bytes_mut(&mut packet), view) {
            cx.egress.stats().checksums_completed.add(1);
        }
        let umem = cx.egress.umem();
        if !edit::l4_checksum_is_right(umem.bytes(&packet), view) {
            let link = self.flows.get(index).link(direction);
            return cx.drop_with_event(link, view.tuple, packet, DropReason::BadChecksum);
        }
        let Datagrams { slots, dns, admitted, joined, .. } = &mut self.datagrams;
        let Some(Inspection { flow, policy }) = slots.get_mut(slot as usize) else {
            debug_assert!(false, "a flow's inspection lives as long as the flow");
            let link = self.flows.get(index).link(direction);
            return cx.egress.drop_packet(link, packet, DropReason::L7Unsupported);
        };
        let (now, epoch) = (cx.now, cx.snapshot.epoch);
        let client = self.flows.get(index).link(FlowDirection::Original);
        let context = DatagramCtx { now, policy, client, dns, admitted, epoch };
        let mut reply = Reply::default();
        let message = payload(umem, &packet, view, joined);
        let step = flow.decide(&context, direction, message, &mut reply);
        let stats = cx.egress.stats();
        stats.dns_replaced.add(u64::from(step.replaced));
        let flow = self.flows.get(index);
        let frontend = self.targets.frontend_of(flow);
        let mut io = InspectedIo { flow, frontend, cx };
        if let Some(event) = step.event {
            io.event(event);
        }
        match step.op {
            DatagramOp::Pass => io.forward(direction, packet, view),
            DatagramOp::Drop(reason) => io.drop_counted(packet, reason),
            DatagramOp::Answer => {
                if let Some(frame) = io.alloc() {
                    let umem = io.umem();
                    let answer =
                        datagram::answer(view, umem.data(&packet.head), &reply, umem, frame);
                    io.originate(direction.reverse(), answer);
                }
                io.drop_counted(packet, DropReason::L7Denied);
            }
            DatagramOp::Hold(held) => self.hold_answer(cx, index, held, packet),
        }
    }

    fn hold_answer(
        &mut self,
        cx: &mut PacketCtx<'_>,
        index: FlowIx,
        held: HeldResponse,
        packet: Packet,
    ) {
        let flow = self.flows.get(index);
        let (opener, tuple) = (flow.opener(), flow.tuple());
        let has_place = self.datagrams.places.take(opener, 1);
        if !has_place || !cx.egress.reserve(opener, Resource::Frames, packet.frames()) {
            if has_place {
                self.datagrams.places.release(opener, 1);
            }
            return cx.drop_with_event(opener.link(), tuple, packet, DropReason::DnsHeldFull);
        }
        cx.egress.stats().dns_held.add(1);
        let answer = HeldDatagram { held, since: cx.now, tuple, charged: opener, packet };
        // Those that wait come first.
        self.datagrams.offer_again(cx.egress);
        if !self.datagrams.wait(cx.egress, answer) {
            cx.egress.count_answer_over_quota(opener.link());
        }
    }

    /// Forwards the answers that the control thread has released, and drops those that were not
    /// released in time.
    pub(super) fn release_answers(&mut self, cx: &mut PacketCtx<'_>, shared: &Shared) {
        let others = shared.rounds.iter().enumerate();
        let index = usize::from(self.index);
        let others = others.filter(|(worker, _)| *worker != index).map(|(_, rounds)| &**rounds);
        self.datagrams.releases.advance(&others);
        self.datagrams.offer_again(cx.egress);
        while let Some(waiting) = self.datagrams.next_due(cx.now) {
            self.release_answer(cx, waiting);
        }
        // A slot may have another connection by now, which does no harm.
        while let Some(slot) = self.datagrams.next_stalled() {
            self.tick_inspected(cx, slot);
        }
    }

    fn release_answer(&mut self, cx: &mut PacketCtx<'_>, waiting: HeldDatagram) {
        let HeldDatagram { held, since, tuple, charged, packet } = waiting;
        self.datagrams.places.release(charged, 1);
        cx.egress.frame_quota().release(charged, packet.frames());
        let (link, in_force) = (charged.link(), self.datagrams.dns.answers.in_force());
        if held.ticket.is_none_or(|ticket| ticket > in_force) {
            cx.egress.stats().dns_unreleased.add(1);
            return cx.drop_with_event(link, tuple, packet, DropReason::DnsUnreleased);
        }
        self.datagrams.admitted.add(held.key, cx.snapshot.epoch, since);
        let Some((index, FlowDirection::Original)) = self.flows.lookup(&tuple) else {
            return cx.drop_with_event(link, tuple, packet, DropReason::L7Closed);
        };
        if !self.is_allowed(cx, index) || self.flows.get(index).inspector().is_none() {
            return cx.drop_with_event(link, tuple, packet, DropReason::PolicyRevoked);
        }
        let message = payload_again(cx.egress.umem(), &packet, &mut self.datagrams.joined);
        let event = held.forwarded(message, cx.now);
        let flow = self.flows.get(index);
        let frontend = self.targets.frontend_of(flow);
        let mut io = InspectedIo { flow, frontend, cx };
        if let Some(event) = event {
            io.event(event);
        }
        io.forward_again(FlowDirection::Reply, packet);
    }
}

/// Offers the DNS answer that a connection holds to the control thread, if there is one and its
/// link's share of the ring has room, and notes which release the connection waits for. Returns
/// false if there is no room.
fn offer_answer(
    Inspected { editor, policy, .. }: &mut Inspected,
    slot: u32,
    io: &mut InspectedIo<'_, '_, '_>,
    datagrams: &mut Datagrams,
) -> bool {
    let Some(records) = editor.inspector().wanted_room() else { return true };
    let opener = io.flow.link(FlowDirection::Original);
    if !io.cx.egress.take_answer_share(opener, records) {
        return false;
    }
    editor.inspector_mut().grant_room();
    editor.tick(io.cx.now, policy, io);
    if let Some(ticket) = editor.inspector().awaited_answer() {
        datagrams.mark_stalled(slot, ticket);
    }
    true
}
