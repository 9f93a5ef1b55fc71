//! (1) Fragments in the pipeline: gathered by the worker that they come to, judged as a whole by
//! the one that owns their flow.

use podgate_tables::drop_reason::DropReason;
use podgate_tables::event::EventKind;
use podgate_tables::ids::LinkId;

use crate::packet::{L4, Piece, View, parse};
use crate::xsk::Packet;

use super::egress::Egress;
use super::pipeline::{Pipeline, steer};
use super::surroundings::Surroundings;

impl Pipeline {
    /// A fragment, from a sender that may send it. If it completes its datagram, that goes the way
    /// of all packets.
    #[cold]
    pub(super) fn gather(
        &mut self,
        around: &mut Surroundings<'_>,
        link: LinkId,
        view: &View,
        piece: Piece,
        packet: Packet,
    ) {
        match self.reassembly.offer(around.egress, around.now, link, *view, piece, packet) {
            Ok(None) => {}
            Ok(Some(whole)) => self.process_whole(around, link, whole),
            Err((packet, reason)) => around.refuse(link, view.tuple, packet, reason),
        }
    }

    /// Fragments were steered by their addresses, which need not be where their flow lives.
    fn process_whole(&mut self, around: &mut Surroundings<'_>, link: LinkId, packet: Packet) {
        let owner = match parse(around.egress.umem().data(&packet.head), packet.len()) {
            // It finds its own way.
            Ok(View { l4_kind: L4::IcmpError { .. }, .. }) => None,
            Ok(view) => Some(steer(&view.tuple, self.workers)),
            Err(reason) => return around.egress.discard(packet, reason),
        };
        match owner {
            Some(owner) if owner != self.index => around.egress.hand_off(owner, link, packet),
            _ => self.run(around, link, packet, owner.is_some()),
        }
    }

    /// Drops datagrams that did not become whole in time, and tells.
    pub(super) fn expire_fragments(&mut self, around: &mut Surroundings<'_>) {
        while let Some((link, tuple)) = self.reassembly.next_expired(around.egress, around.now) {
            around.tell(link, tuple, EventKind::Drop { reason: DropReason::FragmentTimeout });
        }
    }

    /// Drops the fragments of a link that is gone.
    pub(super) fn forget_fragments(&mut self, egress: &mut Egress, link: LinkId) {
        self.reassembly.forget(egress, link);
    }
}
