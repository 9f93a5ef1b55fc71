//! (5) Forwards packets as a router does: TTL, checksums, MSS, fragmentation.

use podgate_tables::drop_reason::DropReason;
use podgate_tables::ids::LinkId;
use podgate_tables::route::NextHop;
use podgate_tables::service::L4Addr;
use podgate_tables::tuple::FlowDirection;

use crate::flow::Flow;
use crate::mem::Packet;
use crate::packet::fragment::Fragmenter;
use crate::packet::icmp_error::IcmpError;
use crate::packet::translate::translate;
use crate::packet::{HostFrame, View, edit, mss};

use super::ctx::PacketCtx;
use super::egress::Origin;
use super::icmp_reply::send_icmp_error;
use super::service_tuples::untranslated;

/// Smallest MTU of an IPv4 host, bytes (RFC 791 §3.1): smaller fragments are merged up to this.
const MTU_MIN_V4: u32 = 576;
/// The same for IPv6 (RFC 8200 §5).
const MTU_MIN_V6: u32 = 1280;

/// The links between which a packet is forwarded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Path {
    pub(super) from: LinkId,
    pub(super) to: LinkId,
    pub(super) origin: Origin,
    /// Of a translated flow: the packet's direction, and the service's address and port. Packets of
    /// the opener are translated already, replies are not.
    pub(super) service: Option<(FlowDirection, L4Addr)>,
}

impl Path {
    /// The path of a packet of a flow.
    pub(super) const fn of(
        flow: &Flow,
        frontend: Option<L4Addr>,
        direction: FlowDirection,
        origin: Origin,
    ) -> Self {
        let service = match frontend {
            Some(frontend) => Some((direction, frontend)),
            None => None,
        };
        let (from, to) = (flow.link(direction), flow.link(direction.reverse()));
        Self { from, to, origin, service }
    }
}

/// What to do about a partial checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Csum {
    Complete,
    /// The kernel completes it.
    LeavePartial,
}

/// Forwards a packet, or drops it.
pub(super) fn forward(cx: &mut PacketCtx<'_>, path: Path, mut packet: Packet, view: &View) {
    let routes = &cx.snapshot.routes;
    let Some(&(mut next_hop)) = routes.next_hop(path.to) else {
        return cx.egress.drop_packet(path.from, packet, DropReason::LinkGone);
    };
    if routes.is_host(path.to) {
        next_hop.link_mac = HostFrame::sender_mac(path.from.0);
    }
    let next_hop = &next_hop;
    if view.ip_len() > next_hop.mtu || packet.largest_fragment > 0 {
        return forward_large(cx, path, next_hop, packet, view);
    }
    // A SYN is rewritten below, which needs a complete checksum.
    let umem = cx.egress.umem();
    let partial = match umem.has_tx_metadata() && !view.is_syn() {
        true => edit::csum_partial(umem.data(&packet.head), view),
        false => None,
    };
    let csum = match partial {
        Some(partial) => {
            packet.csum_partial = partial;
            Csum::LeavePartial
        }
        None => Csum::Complete,
    };
    if let Some(packet) = prepare(cx, path, next_hop, packet, view, csum) {
        cx.egress.transmit(path.from, next_hop, packet, path.origin);
    }
}

/// Edits a packet for its next hop. `None` if its TTL is used up; then it is dropped.
#[inline]
fn prepare(
    cx: &mut PacketCtx<'_>,
    path: Path,
    next_hop: &NextHop,
    mut packet: Packet,
    view: &View,
    csum: Csum,
) -> Option<Packet> {
    let routes = &cx.snapshot.routes;
    let between_pods = path.origin == Origin::Received
        && !routes.is_host(next_hop.link)
        && !routes.is_host(path.from);
    if between_pods {
        let head = cx.egress.umem().data_mut(&mut packet.head);
        if let Err(reason) = edit::decrement_ttl(head, view) {
            send_error(cx, path, &mut packet, view, IcmpError::TimeExceeded);
            cx.drop_with_event(path.from, view.tuple, packet, reason);
            return None;
        }
    }
    if csum == Csum::Complete
        && edit::complete_checksum(cx.egress.umem().bytes_mut(&mut packet), view)
    {
        cx.egress.stats().checksums_completed.add(1);
    }
    if view.is_syn() {
        let path_mtu = |next_hop: &NextHop| next_hop.path_mtu.min(next_hop.mtu);
        let of_sender = routes.next_hop(path.from).map_or(u32::MAX, path_mtu);
        let mtu = of_sender.min(path_mtu(next_hop));
        mss::clamp(cx.egress.umem().data_mut(&mut packet.head), view, mtu);
    }
    if let Some((FlowDirection::Reply, frontend)) = path.service {
        let to = untranslated(&view.tuple.reversed(), frontend).reversed();
        let mut view = *view;
        translate(cx.egress.umem().bytes_mut(&mut packet), &mut view, &to);
    }
    Some(packet)
}

/// Sends an ICMP error about a packet that is about to be dropped. It quotes the packet as its
/// sender knows it.
#[cold]
fn send_error(
    cx: &mut PacketCtx<'_>,
    path: Path,
    packet: &mut Packet,
    view: &View,
    error: IcmpError,
) {
    let mut view = *view;
    if let Some((FlowDirection::Original, frontend)) = path.service {
        let to = untranslated(&view.tuple, frontend);
        translate(cx.egress.umem().bytes_mut(packet), &mut view, &to);
    }
    send_icmp_error(cx, path.from, packet, &view, error);
}

/// How a packet is transmitted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fragmentation {
    /// Unfragmented.
    Whole,
    /// In fragments of at most this many bytes.
    Fragments(u32),
    /// Not at all.
    TooBig,
}

impl Fragmentation {
    /// A reassembled packet is transmitted in fragments no larger than the received ones, as by a
    /// router that doesn't reassemble. An unfragmented packet is fragmented only if its sender
    /// allows it.
    fn of(packet: &Packet, head: &[u8], view: &View, next_hop: &NextHop) -> Self {
        let received = u32::from(packet.largest_fragment);
        let mtu_min = if view.is_v4() { MTU_MIN_V4 } else { MTU_MIN_V6 };
        let size = match received {
            0 => next_hop.mtu,
            received => received.max(mtu_min).min(next_hop.mtu),
        };
        match view.ip_len() <= size {
            true => Self::Whole,
            // Its fragments fit this link.
            false if received > 0 && received <= next_hop.mtu => Self::Fragments(size),
            false if view.is_v4() && !edit::dont_fragment(head, view) => Self::Fragments(size),
            false => Self::TooBig,
        }
    }
}

/// Forwards a packet that was reassembled or exceeds the MTU of `next_hop`.
#[cold]
fn forward_large(
    cx: &mut PacketCtx<'_>,
    path: Path,
    next_hop: &NextHop,
    mut packet: Packet,
    view: &View,
) {
    let head = cx.egress.umem().data(&packet.head);
    let fragmentation = Fragmentation::of(&packet, head, view, next_hop);
    if fragmentation == Fragmentation::TooBig {
        if path.origin == Origin::Received {
            send_error(cx, path, &mut packet, view, IcmpError::TooBig(next_hop.mtu));
        }
        return cx.drop_with_event(path.from, view.tuple, packet, DropReason::PacketTooBig);
    }
    let Some(packet) = prepare(cx, path, next_hop, packet, view, Csum::Complete) else { return };
    match fragmentation {
        Fragmentation::Fragments(size) => {
            transmit_fragments(cx, path, next_hop, packet, view, size);
        }
        _ => cx.egress.transmit(path.from, next_hop, packet, path.origin),
    }
}

fn transmit_fragments(
    cx: &mut PacketCtx<'_>,
    path: Path,
    next_hop: &NextHop,
    packet: Packet,
    view: &View,
    size: u32,
) {
    let mut fragments = match Fragmenter::new(cx.egress.umem(), &packet, view, size) {
        Ok(fragments) => fragments,
        Err(reason) => return cx.drop_with_event(path.from, view.tuple, packet, reason),
    };
    let mut made = cx.egress.take_fragments();
    let failed = loop {
        let (umem, pool) = cx.egress.frames();
        match fragments.next(umem, pool) {
            Some(Ok(fragment)) => made.push(fragment),
            Some(Err(reason)) => break Some(reason),
            None => break cx.egress.make_room(next_hop.link, &made).err(),
        }
    };
    match failed {
        // A part of the fragments is of no use to the receiver.
        Some(reason) => {
            made.drain(..).for_each(|fragment| cx.egress.free_packet(fragment));
            cx.drop_with_event(path.from, view.tuple, packet, reason);
        }
        None => {
            // One of the fragments counts as the packet itself.
            cx.egress.stats().fragments_made.add(made.len() as u64 - 1);
            for fragment in made.drain(..) {
                cx.egress.transmit(path.from, next_hop, fragment, path.origin);
            }
            cx.egress.free_packet(packet);
        }
    }
    cx.egress.put_fragments(made);
}
