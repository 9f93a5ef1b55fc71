//! Sends ICMP errors.

use podgate_tables::ids::LinkId;

use crate::mem::{FRAME_HEADROOM, Packet};
use crate::packet::icmp_error::{self, IcmpError};
use crate::packet::{View, edit};

use super::ctx::PacketCtx;
use super::egress::{Egress, Origin};

/// Sends an ICMP error to the sender of a packet from link `from`, if the RFCs and its rate limit
/// allow.
///
/// The source is the node's address. For the kernel, which would drop a packet from its own
/// address, it is the packet's destination.
pub(super) fn send_icmp_error(
    cx: &mut PacketCtx<'_>,
    from: LinkId,
    packet: &mut Packet,
    view: &View,
    error: IcmpError,
) {
    let Some(next_hop) = cx.snapshot.routes.next_hop(from) else { return };
    if !icmp_error::may_be_about(view) || !cx.may_reply(from, view.tuple.src, Egress::icmp_errors) {
        return;
    }
    let routes = &cx.snapshot.routes;
    // The sender may compare the quote with what it sent.
    if edit::complete_checksum(cx.egress.umem().bytes_mut(packet), view) {
        cx.egress.stats().checksums_completed.add(1);
    }
    let source = match routes.is_host(from) {
        false => routes.node().for_peer(view.tuple.src).unwrap_or(view.tuple.dst),
        true => view.tuple.dst,
    };
    let Some(mut frame) = cx.egress.alloc() else { return };
    frame.set_extent(FRAME_HEADROOM, icmp_error::FRAME_MAX as u32);
    let umem = cx.egress.umem();
    let quoted = umem.data(&packet.head);
    let len = icmp_error::write(umem.data_mut(&mut frame), error, source, view, quoted);
    frame.set_len(len as u32);
    cx.egress.transmit(from, next_hop, Packet::single(frame), Origin::Own);
}
