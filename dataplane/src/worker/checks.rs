//! Checks of packets and flows that are not policy.

use podgate_tables::address::Address;
use podgate_tables::drop_reason::DropReason;
use podgate_tables::ids::LinkId;
use podgate_tables::l7::L7Protocol;
use podgate_tables::policy::{Decision, Snapshot};
use podgate_tables::tuple::Tuple;

use crate::packet::{HostFrame, L4, View, icmp};

use super::ctx::OpenerLink;

/// (1) Checks that a packet from `link` may be sent from `src` to its destination.
#[inline]
pub(super) fn check_addresses(
    snapshot: &Snapshot,
    link: LinkId,
    view: &View,
    src: Address,
) -> Result<(), DropReason> {
    let routes = &snapshot.routes;
    // A router doesn't forward packets to an Ethernet group address (RFC 1812 §5.3.4).
    if view.tuple.dst.is_multicast_or_broadcast() || view.eth_dst[0] & 1 == 1 {
        return Err(DropReason::Multicast);
    }
    if routes.is_host(link) {
        // A pod's packet that comes back from the kernel has the pod's address, or one that the
        // kernel translated it to. It must not have another pod's address: the kernel may have
        // decapsulated it.
        let accepted = match (routes.local_link(src), HostFrame::of(view.eth_src)) {
            (None, _) | (Some(_), HostFrame::Hairpin { sender: None }) => true,
            (Some(link), HostFrame::Hairpin { sender: Some(slot) }) => link == LinkId(slot.get()),
            (Some(_), HostFrame::Foreign | HostFrame::Local) => false,
        };
        return if accepted { Ok(()) } else { Err(DropReason::SpoofedSource) };
    }
    let endpoint = routes.endpoint_on(link).ok_or(DropReason::EndpointNotReady)?;
    let own = view.eth_src == endpoint.next_hop.mac && endpoint.addresses.contains(&src);
    if own { Ok(()) } else { Err(DropReason::SpoofedSource) }
}

/// (1) Whether a packet is ICMP that never crosses links.
pub(super) fn is_link_scope_icmp(view: &View) -> bool {
    match view.l4_kind {
        L4::Icmp { kind, .. } | L4::IcmpError { kind, .. } => {
            icmp::is_link_scope(view.tuple.protocol, kind)
        }
        _ => false,
    }
}

/// Whether a pod's packets of this flow are sent to a node that would decapsulate them. For a flow
/// from the host link, these are the replies.
pub(super) fn is_tunnel_to_node(snapshot: &Snapshot, tuple: &Tuple, opener: OpenerLink) -> bool {
    let by_pod = match opener {
        OpenerLink::Host => tuple.reversed(),
        OpenerLink::Pod => *tuple,
    };
    let tunnels = snapshot.routes.tunnels();
    tunnels.would_decapsulate(&by_pod)
        && (snapshot.policy.is_node(by_pod.dst) || tunnels.is_local(by_pod.dst))
}

/// Whether a flow is detached from an inspector of the same L7 protocol that a decision requires.
pub(super) fn is_detached_from(detached: Option<L7Protocol>, decision: &Decision) -> bool {
    detached.is_some() && decision.l7.protocol().is_ok_and(|wanted| wanted == detached)
}
