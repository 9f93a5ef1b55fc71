//! Resets for TCP segments of connections that no flow is known of.

use podgate_tables::ids::LinkId;
use podgate_tables::policy::{Decision, Subject, Verdict};
use podgate_tables::tcp_flags;
use podgate_tables::tuple::FlowDirection;
use smoltcp::wire::TcpControl;

use crate::l7::reply::{Segment, Template};
use crate::packet::{L4, View};
use crate::xsk::Packet;

use super::decisions::Ends;
use super::egress::Origin;
use super::surroundings::Surroundings;

/// What becomes of a TCP segment that is no SYN and belongs to no flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum MidStream {
    /// It opens a flow: policy allows that plainly, whichever end had opened the connection.
    PickUp,
    /// It is dropped, and its sender is reset: policy would allow the connection, or inspect it, if
    /// one of the ends had opened it.
    Reset,
    /// It is dropped: a reset of a connection that policy would allow.
    Ignore,
    /// It is denied: the ends are strangers to each other.
    Deny,
}

impl Surroundings<'_> {
    /// (3) What becomes of a segment with these flags that is no SYN and belongs to no flow.
    /// `decision` is what policy says to a connection that its sender had opened.
    pub(super) fn mid_stream(
        &self,
        subject: &Subject,
        ends: Ends,
        decision: &Decision,
        flags: u8,
    ) -> MidStream {
        let is_reset = flags & tcp_flags::RST != 0;
        if is_reset {
            let denied = decision.verdict == Verdict::Deny;
            return if denied { MidStream::Deny } else { MidStream::Ignore };
        }
        match (decision.verdict, self.decide_reversed(subject, ends).verdict) {
            (Verdict::Allow, Verdict::Allow) => MidStream::PickUp,
            (Verdict::Deny, Verdict::Deny) => MidStream::Deny,
            _ => MidStream::Reset,
        }
    }

    /// Tells the sender of a segment that came by `link` that there is no such connection (RFC 9293
    /// §3.10.7.1), within the limit of its link.
    #[cold]
    pub(super) fn reset_sender(&mut self, link: LinkId, view: &View, packet: &Packet) {
        let L4::Tcp(segment) = view.l4_kind else { return };
        let Some(next_hop) = self.snapshot.routes.next_hop(link) else { return };
        if segment.has(tcp_flags::RST) || !self.egress.may_reset(link, self.now) {
            return;
        }
        let (seq, ack) = match segment.has(tcp_flags::ACK) {
            true => (segment.ack, None),
            false => {
                let end = segment.seq.wrapping_add(segment.seq_len(view.payload_len()));
                (0, Some(end))
            }
        };
        let reset = Segment {
            direction: FlowDirection::Reply,
            seq,
            ack,
            window: 0,
            control: TcpControl::Rst,
            timestamps: None,
            sack: None,
            payload: &[],
        };
        let Some(frame) = self.egress.alloc() else { return };
        let umem = self.egress.umem();
        let template = Template::new(FlowDirection::Original, view, umem.data(&packet.head));
        let reset = template.write(&reset, umem, frame);
        self.egress.transmit(next_hop, reset, Origin::Own);
        self.egress.stats().resets_sent.add(1);
    }
}
