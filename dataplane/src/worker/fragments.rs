//! (1) Fragments in the pipeline: reassembled by the worker that receives them, decided as one
//! packet by the worker that owns their flow.

use podgate_tables::ids::LinkId;

use crate::mem::Packet;
use crate::packet::{FragmentInfo, L4, View, parse};

use super::ctx::PacketCtx;
use super::egress::Egress;
use super::pipeline::Pipeline;
use super::steering::{Steering, steer};

impl Pipeline {
    /// Processes a fragment whose source was checked. If it completes its datagram, the datagram is
    /// processed like any packet.
    #[cold]
    pub(super) fn process_fragment(
        &mut self,
        cx: &mut PacketCtx<'_>,
        link: LinkId,
        view: &View,
        fragment: FragmentInfo,
        packet: Packet,
    ) {
        let sender = self.flows.opener(link, view.tuple.src);
        match self.reassembly.insert(cx.egress, cx.now, sender, *view, fragment, packet) {
            Ok(None) => {}
            Ok(Some(whole)) => self.process_reassembled(cx, link, whole),
            Err((packet, reason)) => cx.drop_with_event(link, view.tuple, packet, reason),
        }
    }

    /// Fragments are steered by their addresses, so their flow may belong to another worker.
    fn process_reassembled(&mut self, cx: &mut PacketCtx<'_>, link: LinkId, packet: Packet) {
        let owner = match parse(cx.egress.umem().data(&packet.head), packet.len()) {
            // It is steered by the packet that it quotes.
            Ok(View { l4_kind: L4::IcmpError { .. }, .. }) => None,
            Ok(view) => Some(steer(&view.tuple, self.workers)),
            Err(reason) => return cx.egress.drop_packet(link, packet, reason),
        };
        match owner {
            Some(owner) if owner != self.index => cx.egress.hand_off(owner, link, packet, None),
            Some(_) => self.process(cx, link, packet, Steering::Verified),
            None => self.process(cx, link, packet, Steering::Unverified),
        }
    }

    /// Drops datagrams that were not completed in time, with an event for each.
    pub(super) fn expire_fragments(&mut self, cx: &mut PacketCtx<'_>) {
        while self.reassembly.drop_expired(cx.egress, cx.now) {}
    }

    /// Drops the fragments of a removed link.
    pub(super) fn drop_fragments(&mut self, egress: &mut Egress, link: LinkId) {
        self.reassembly.drop_link(egress, link);
    }
}
