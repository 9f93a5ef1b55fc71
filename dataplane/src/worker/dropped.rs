//! Events of frames that were not parsed: what is known of their ends.

use podgate_tables::address::Address;
use podgate_tables::event::{Event, EventKind};
use podgate_tables::ids::LinkId;
use podgate_tables::policy::Snapshot;
use podgate_tables::proto;
use podgate_tables::route::Endpoint;
use podgate_tables::time::Nanos;
use podgate_tables::tuple::Tuple;
use podgate_xdp_redirect::{DroppedData, DroppedFrame};

use crate::packet::Unparsed;

/// Which end of a packet a link's pod is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum PodEnd {
    Source,
    Destination,
}

/// The pod of a link, whose address the headers of a frame have to have.
#[derive(Clone, Copy, Debug)]
pub(super) enum LinkPod<'e> {
    Known(&'e Endpoint),
    /// The headers may have any address.
    Any,
    /// The headers may be forged.
    Unknown,
}

/// The tuple of a frame, and whether it is that of its headers. If they have none, or the address
/// at the pod's end is not known to be the pod's, nothing but the pod is known.
pub(super) fn known_tuple(
    of_headers: Option<Tuple>,
    pod: LinkPod<'_>,
    end: PodEnd,
) -> (Tuple, bool) {
    let at_end = |tuple: &Tuple| match end {
        PodEnd::Source => tuple.src,
        PodEnd::Destination => tuple.dst,
    };
    let is_believed = |tuple: &Tuple| match pod {
        LinkPod::Known(endpoint) => endpoint.addresses.contains(&at_end(tuple)),
        LinkPod::Any => true,
        LinkPod::Unknown => false,
    };
    if let Some(tuple) = of_headers.filter(is_believed) {
        return (tuple, true);
    }
    let unknown = Address::v4([0; 4]);
    let pod = match pod {
        LinkPod::Known(endpoint) => endpoint.addresses.first().copied().unwrap_or(unknown),
        LinkPod::Any | LinkPod::Unknown => unknown,
    };
    let (src, dst) = match end {
        PodEnd::Source => (pod, unknown),
        PodEnd::Destination => (unknown, pod),
    };
    (Tuple { src, dst, protocol: 0, src_port: 0, dst_port: 0 }, false)
}

/// The event of a frame that a BPF program dropped at `time`, by the tables of `snapshot`.
#[must_use]
pub fn event_of_dropped(frame: &DroppedFrame<'_>, time: Nanos, snapshot: &Snapshot) -> Event {
    let reason = frame.reason;
    let host_link = snapshot.routes.host_link();
    let of_slot = LinkId(frame.slot);
    let (link, tuple, ethernet, has_addresses) = match frame.seen {
        DroppedData::Frame(bytes) => {
            let Unparsed { ethernet, tuple } = Unparsed::of(bytes);
            let endpoint = snapshot.routes.endpoint_on(of_slot).filter(|_| frame.is_attached);
            let (end, link) = match reason.is_to_pod() {
                true => (PodEnd::Destination, host_link.unwrap_or(of_slot)),
                false => (PodEnd::Source, of_slot),
            };
            let is_to_attached = end == PodEnd::Destination && frame.is_attached;
            let without = match host_link == Some(of_slot) || is_to_attached {
                true => LinkPod::Any,
                false => LinkPod::Unknown,
            };
            let (tuple, has_addresses) =
                known_tuple(tuple, endpoint.map_or(without, LinkPod::Known), end);
            (link, tuple, Some(ethernet), has_addresses)
        }
        DroppedData::Datagram { source: (src, src_port), destination: (dst, dst_port) } => {
            let [src, dst] = [src, dst].map(Address::from_bits);
            let tuple = Tuple { src, dst, src_port, dst_port, protocol: proto::UDP };
            let link = snapshot.routes.local_link(src).or(host_link).unwrap_or(of_slot);
            (link, tuple, None, true)
        }
    };
    let kind = EventKind::ProgramDrop { reason, ethernet, has_addresses };
    Event { time, epoch: snapshot.epoch, link, tuple, frontend: None, kind }
}
