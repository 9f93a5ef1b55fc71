//! TCP segments without a flow that are not SYNs, and resets for the ends of their connections.

use podgate_tables::ids::LinkId;
use podgate_tables::policy::{Decision, Subject, Verdict};
use podgate_tables::route::NextHop;
use podgate_tables::tcp_flags;
use podgate_tables::tuple::FlowDirection;
use smoltcp::wire::TcpControl;

use crate::l7::reply::{Segment, Template};
use crate::mem::Packet;
use crate::packet::{HostFrame, L4, View};

use super::ctx::PacketCtx;
use super::decisions::Ends;
use super::egress::{Egress, Origin};

/// What to do with a TCP segment that is not a SYN and belongs to no flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum MidStream {
    /// Open a flow: policy allows it plainly, whichever end opened the connection.
    PickUp,
    /// Drop it and reset its sender: policy would allow or inspect the connection, if one of the
    /// ends had opened it.
    ResetSender,
    /// Drop it and reset both ends: policy would inspect the connection as opened by one of them,
    /// and deny it as opened by neither.
    ResetBoth,
    /// Drop it: a reset of a connection that policy would allow.
    Ignore,
    /// Deny it: policy allows no connection between the ends.
    Deny,
}

impl MidStream {
    /// `decision` is that on a connection opened by the sender of the segment, which has these
    /// `flags`.
    pub(super) fn of(
        cx: &PacketCtx<'_>,
        subject: &Subject,
        ends: Ends,
        decision: &Decision,
        flags: u8,
    ) -> Self {
        let is_reset = flags & tcp_flags::RST != 0;
        if is_reset {
            let denied = decision.verdict == Verdict::Deny;
            return if denied { Self::Deny } else { Self::Ignore };
        }
        match (decision.verdict, cx.decide_reversed(subject, ends).verdict) {
            (Verdict::Allow, Verdict::Allow) => Self::PickUp,
            (Verdict::Deny, Verdict::Deny) => Self::Deny,
            (Verdict::Deny, _) | (_, Verdict::Deny) => Self::ResetSender,
            _ => Self::ResetBoth,
        }
    }
}

/// Resets the sender of a segment from `link`, as for a connection that doesn't exist (RFC 9293
/// §3.10.7.1), within its rate limit.
#[cold]
pub(super) fn reset_sender(cx: &mut PacketCtx<'_>, link: LinkId, view: &View, packet: &Packet) {
    let L4::Tcp(segment) = view.l4_kind else { return };
    let Some(&next_hop) = cx.snapshot.routes.next_hop(link) else { return };
    let (seq, ack) = match segment.has(tcp_flags::ACK) {
        true => (segment.ack, None),
        false => {
            let end = segment.seq.wrapping_add(segment.seq_len(view.payload_len()));
            (0, Some(end))
        }
    };
    send_reset(cx, (link, &next_hop), FlowDirection::Reply, (seq, ack), view, packet);
}

/// Resets the receiver of a segment from `link` that is dropped, on the link `to`, within the rate
/// limit of `link`. The reset has the segment's sequence number: it is accepted if that is the next
/// one expected. If that is another one in the window, it is answered by an acknowledgment
/// (RFC 5961 §3.2), whose sender is reset in turn. Below the window, as after a keep-alive probe,
/// it is ignored.
#[cold]
pub(super) fn reset_receiver(
    cx: &mut PacketCtx<'_>,
    (link, to): (LinkId, LinkId),
    view: &View,
    packet: &Packet,
) {
    let L4::Tcp(segment) = view.l4_kind else { return };
    let Some(&(mut next_hop)) = cx.snapshot.routes.next_hop(to) else { return };
    // The receiver of a SYN-ACK has sent a SYN, which it retransmits.
    if segment.has(tcp_flags::SYN) {
        return;
    }
    if cx.snapshot.routes.is_host(to) {
        next_hop.link_mac = HostFrame::sender_mac(link.0);
    }
    let numbers = (segment.seq, Some(segment.ack));
    send_reset(cx, (link, &next_hop), FlowDirection::Original, numbers, view, packet);
}

/// Sends a reset with a sequence and an acknowledgment number to one end of the connection of a
/// segment from `link`, unless that is a reset itself.
fn send_reset(
    cx: &mut PacketCtx<'_>,
    (link, next_hop): (LinkId, &NextHop),
    direction: FlowDirection,
    (seq, ack): (u32, Option<u32>),
    view: &View,
    packet: &Packet,
) {
    let is_reset = view.tcp().is_some_and(|segment| segment.has(tcp_flags::RST));
    if is_reset || !cx.may_reply(link, view.tuple.src, Egress::tcp_resets) {
        return;
    }
    let reset = Segment {
        direction,
        seq,
        ack,
        window: 0,
        control: TcpControl::Rst,
        timestamps: None,
        sack: None,
        payload: &[],
    };
    let Some(frame) = cx.egress.alloc() else { return };
    let umem = cx.egress.umem();
    let template = Template::new(FlowDirection::Original, view, umem.data(&packet.head));
    let reset = template.write(&reset, umem, frame);
    cx.egress.transmit(link, next_hop, reset, Origin::Own);
    cx.egress.stats().resets_sent.add(1);
}
