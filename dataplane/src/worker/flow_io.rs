//! What an inspected flow's stream editor needs of the worker.

use podgate_tables::drop_reason::DropReason;
use podgate_tables::event::{EventKind, ResponseStatus};
use podgate_tables::l7::http1::HttpLimits;
use podgate_tables::service::L4Addr;
use podgate_tables::tuple::FlowDirection;

use crate::flow::Flow;
use crate::l7::io::FlowIo;
use crate::mem::{Frame, Packet, Umem};
use crate::packet::{View, parse};

use super::ctx::PacketCtx;
use super::egress::{Origin, Resource};
use super::forward::{self, Path};

/// An editor's access to the worker, for one flow.
pub(super) struct InspectedIo<'f, 'a, 's> {
    pub(super) flow: &'f Flow,
    /// The service's address and port, if the flow is translated.
    pub(super) frontend: Option<L4Addr>,
    pub(super) cx: &'a mut PacketCtx<'s>,
}

impl InspectedIo<'_, '_, '_> {
    fn send(&mut self, direction: FlowDirection, packet: Packet, view: &View, origin: Origin) {
        let path = Path::of(self.flow, self.frontend, direction, origin);
        forward::forward(self.cx, path, packet, view);
    }

    fn parse_and_send(&mut self, direction: FlowDirection, packet: Packet, origin: Origin) {
        match parse(self.cx.egress.umem().data(&packet.head), packet.len()) {
            Ok(view) => self.send(direction, packet, &view, origin),
            Err(reason) => self.drop_packet(direction, packet, reason),
        }
    }

    /// As [`FlowIo::forward`], for a packet that was held without its view, which is large.
    pub(super) fn forward_again(&mut self, direction: FlowDirection, packet: Packet) {
        self.parse_and_send(direction, packet, Origin::Received);
    }
}

impl FlowIo for InspectedIo<'_, '_, '_> {
    fn umem(&self) -> &Umem {
        self.cx.egress.umem()
    }

    fn alloc(&mut self) -> Option<Frame> {
        self.cx.egress.alloc()
    }

    fn free(&mut self, frame: Frame) {
        self.cx.egress.free(frame);
    }

    fn forward(&mut self, direction: FlowDirection, packet: Packet, view: &View) {
        self.send(direction, packet, view, Origin::Received);
    }

    fn originate(&mut self, direction: FlowDirection, packet: Packet) {
        self.parse_and_send(direction, packet, Origin::Own);
    }

    fn drop_packet(&mut self, direction: FlowDirection, packet: Packet, reason: DropReason) {
        self.cx.egress.drop_packet(self.flow.link(direction), packet, reason);
    }

    fn drop_counted(&mut self, packet: Packet, reason: DropReason) {
        self.cx.egress.drop_counted(packet, reason);
    }

    fn reserve_frames(&mut self, frames: usize) -> bool {
        self.cx.egress.reserve(self.flow.opener(), Resource::Frames, frames)
    }

    fn release_frames(&mut self, frames: usize) {
        self.cx.egress.frame_quota().release(self.flow.opener(), frames);
    }

    fn reserve_bytes(&mut self, bytes: usize) -> bool {
        self.cx.egress.reserve(self.flow.opener(), Resource::Bytes, bytes)
    }

    fn release_bytes(&mut self, bytes: usize) {
        self.cx.egress.byte_quota().release(self.flow.opener(), bytes);
    }

    fn http_limits(&self) -> HttpLimits {
        self.cx.egress.http_limits()
    }

    fn event(&mut self, kind: EventKind) {
        let stats = self.cx.egress.stats();
        match kind {
            EventKind::Request { allowed, ref request, .. } => {
                if allowed {
                    stats.l7_allowed.add(1);
                    stats.l7.count_allowed(request);
                } else {
                    stats.l7_denied.add(1);
                    stats.l7.count_denied(request);
                }
            }
            EventKind::Response { status, latency_ns } => {
                stats.l7.count_response(status, latency_ns);
                if matches!(status, ResponseStatus::Dns(_)) {
                    stats.dns_answered.add(1);
                }
            }
            EventKind::Drop { reason: DropReason::DnsUnreleased } => stats.dns_unreleased.add(1),
            _ => {}
        }
        if let EventKind::Request { rule: Some(rule), allowed: true, .. } = kind {
            let (epoch, now) = (self.cx.snapshot.epoch, self.cx.now);
            self.cx.egress.rule_counters().request(epoch, rule, now);
        }
        let (link, tuple) = (self.flow.link(FlowDirection::Original), self.flow.tuple());
        self.cx.egress.emit_event_with_request(self.cx.event(link, tuple, self.frontend, kind));
    }
}
