//! Which worker a packet belongs to.

use podgate_tables::proto;
use podgate_tables::service::L4Addr;
use podgate_tables::tuple::Tuple;

/// Whether a packet is known to be at the worker that owns its flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Steering {
    /// It is where the XDP program steered it. An ICMP error is steered by its own addresses, and
    /// may have to be handed off.
    Unverified,
    /// It was handed off to this worker, or steered by the tuple of its flow.
    Verified,
    /// The same, and it is translated: it was sent to this address and port of a service.
    Translated(L4Addr),
}

impl Steering {
    /// The address and port of the service.
    pub(super) const fn frontend(self) -> Option<L4Addr> {
        match self {
            Self::Translated(frontend) => Some(frontend),
            Self::Unverified | Self::Verified => None,
        }
    }
}

/// The worker that the XDP program steers packets of this tuple to.
pub(super) fn steer(tuple: &Tuple, workers: u16) -> u16 {
    let ported = matches!(tuple.protocol, proto::TCP | proto::UDP | proto::SCTP);
    let (protocol, src_port, dst_port) =
        if ported { (tuple.protocol, tuple.src_port, tuple.dst_port) } else { (0, 0, 0) };
    let (src, dst) = (tuple.src.bits(), tuple.dst.bits());
    let hash = podgate_xdp_redirect::flow_hash(src, dst, protocol, src_port, dst_port);
    podgate_xdp_redirect::worker_of(hash, workers)
}
