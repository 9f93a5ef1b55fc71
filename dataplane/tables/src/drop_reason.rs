//! Why packets are dropped.
//!
//! Each reason has a counter, a label in metrics and events, and the nearest value of Hubble's
//! `drop_reason` (cilium `api/v1/flow/flow.proto`, enum `DropReason`).

macro_rules! drop_reasons {
    (
        $(#[doc = $of:literal])+
        $reasons:ident:
        $($(#[doc = $doc:literal])+ $name:ident = ($label:literal, $hubble:literal),)+
    ) => {
        $(#[doc = $of])+
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u8)]
        pub enum $reasons { $($(#[doc = $doc])+ $name,)+ }

        impl $reasons {
            /// Every reason, in the order of the counters.
            pub const ALL: &[Self] = &[$(Self::$name,)+];
            /// Number of reasons.
            pub const COUNT: usize = Self::ALL.len();

            /// The label in metrics and events.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)+ }
            }

            /// The nearest value of Hubble's `DropReason`.
            #[must_use]
            pub const fn hubble(self) -> u16 {
                match self { $(Self::$name => $hubble,)+ }
            }
        }
    };
}

drop_reasons! {
    /// Why a worker dropped a packet.
    DropReason:
    /// No rule allows the flow, and a policy puts the endpoint into default deny.
    PolicyDenied = ("policy_denied", 133),
    /// An explicit deny rule matched.
    PolicyDenyRule = ("policy_deny_rule", 181),
    /// The flow was allowed, and a newer policy denies it.
    PolicyRevoked = ("policy_revoked", 133),
    /// L7 rules denied the request; the client got a response or a reset.
    L7Denied = ("l7_denied", 133),
    /// A segment of an inspected connection that podgate answers itself: the connection was closed
    /// or reset, or its bytes were dropped, acknowledged before, or forwarded in other segments.
    L7Closed = ("l7_closed", 133),
    /// The L7 stream is malformed or ambiguous.
    L7Malformed = ("l7_malformed", 134),
    /// The L7 stream uses what the inspector does not support (urgent data, a start in mid-stream,
    /// an unknown protocol), or L7 rules apply to a flow whose protocol has no inspector.
    L7Unsupported = ("l7_unsupported", 134),
    /// A retransmission with other bytes than those inspected.
    L7RetransmissionMismatch = ("l7_retransmission_mismatch", 134),
    /// Bytes beyond the buffer limits of an inspected flow: too far out of order, or too many. Also
    /// a request beyond the limits of its protocol, such as an HTTP head that is too long.
    L7Limit = ("l7_limit", 198),
    /// A request head was not complete in time.
    L7Timeout = ("l7_timeout", 134),
    /// A DNS response that answers no query of its flow, or a datagram from a DNS server to which
    /// no query was sent.
    DnsUnsolicited = ("dns_unsolicited", 134),
    /// A DNS response whose addresses the control thread has not admitted in time.
    DnsUnreleased = ("dns_unreleased", 134),
    /// A DNS response with addresses, while too many others wait for their release.
    DnsHeldFull = ("dns_held_full", 198),
    /// The frame is shorter than its headers say, or a header is inconsistent.
    TruncatedHeader = ("truncated_header", 135),
    /// A header field is invalid (version, length, mapped or martian address, flags).
    Malformed = ("invalid_packet", 134),
    /// Wrong TCP or UDP checksum on an inspected flow.
    BadChecksum = ("bad_checksum", 154),
    /// Not IPv4 or IPv6.
    UnsupportedL3 = ("unsupported_l3", 139),
    /// A frame with a VLAN tag: policy does not know the addresses of that network.
    VlanTagged = ("vlan_tagged", 139),
    /// A fragment that no datagram can have: empty, not a multiple of 8 bytes long, beyond 65,535
    /// bytes, or beyond the end of its datagram.
    FragmentMalformed = ("fragment_malformed", 134),
    /// A first fragment that does not contain all headers.
    FragmentTiny = ("fragment_tiny", 134),
    /// Fragments that overlap, and all others of their datagram.
    FragmentOverlap = ("fragment_overlap", 134),
    /// A duplicate fragment.
    FragmentDuplicate = ("fragment_duplicate", 134),
    /// The datagram was not complete in time.
    FragmentTimeout = ("fragment_timeout", 174),
    /// The limit of waiting fragments of one datagram, of one link, or of all was reached.
    FragmentLimit = ("fragment_limit", 198),
    /// Multicast or broadcast: never forwarded between links.
    Multicast = ("multicast", 151),
    /// The source address or MAC is not one of the sending endpoint; or a local endpoint's address
    /// arrived on the host link without the hairpin mark.
    SpoofedSource = ("spoofed_source", 132),
    /// An ICMP message that is valid on one link only: neighbour or router discovery, a redirect.
    LinkScopeIcmp = ("link_scope_icmp", 134),
    /// A pod's tunnel packet to a node, which would trust the inner addresses.
    TunnelToNode = ("tunnel_to_node", 142),
    /// No link and no host route leads to the destination.
    Unroutable = ("unroutable", 151),
    /// A packet to a service's port that has no backend, or none on this node where
    /// `internalTrafficPolicy: Local` requires one.
    ServiceNoBackend = ("service_no_backend", 158),
    /// A packet to a cluster IP, at a port that its service does not have.
    ServiceNoPort = ("service_no_port", 158),
    /// A packet whose tuple, before or after translation, already belongs to another flow to or
    /// from a service.
    ServiceConflict = ("service_conflict", 134),
    /// The worker has no room for another target of translations (address and port), or the link
    /// has used up its share of them.
    ServiceFull = ("service_full", 155),
    /// TTL or hop limit exceeded in transit.
    TtlExceeded = ("ttl_exceeded", 196),
    /// A TCP segment that belongs to no flow and opens none.
    TcpNoFlow = ("tcp_no_flow", 134),
    /// An ICMP error about an unknown flow.
    IcmpUnrelated = ("icmp_unrelated", 134),
    /// The flow table is full, or the opener has used up its quota, and none of the opener's flows
    /// may be evicted.
    FlowTableFull = ("flow_table_full", 155),
    /// The limit of inspected flows is reached, or the opener has used up its quota, and none of
    /// the opener's inspected flows may be evicted.
    InspectedFull = ("inspected_full", 155),
    /// No free frame for the packet's fragments.
    NoFrame = ("no_frame", 198),
    /// The packet is larger than the egress link's MTU and can't be fragmented.
    PacketTooBig = ("packet_too_big", 157),
    /// The egress link's transmit ring is full.
    TxRingFull = ("tx_ring_full", 198),
    /// The egress link is gone or down.
    LinkGone = ("link_gone", 203),
    /// The ring to the worker that owns the flow is full, or the link has used up its quota of it.
    HandoffFull = ("handoff_full", 198),
    /// No snapshot is published yet, or the ingress link has no endpoint.
    EndpointNotReady = ("endpoint_not_ready", 203),
}

drop_reasons! {
    /// Why a BPF program dropped a frame: `arp_nd_…` and `not_ip` are for frames from pods,
    /// `to_pod_…` for frames that the kernel sends to a pod's link, `to_node_tunnel` for packets
    /// that the kernel delivers to its own sockets.
    ///
    /// In the order of `enum drop_reason` in `xdp-redirect/src/drops.bpf.h`.
    FrameDropReason:
    /// More ARP and neighbour discovery than a pod may send, or a unicast reply without a request.
    ArpNdRateLimit = ("arp_nd_rate_limit", 198),
    /// ARP or neighbour discovery that names another sender than the pod.
    ArpNdSpoofed = ("arp_nd_spoofed", 132),
    /// ARP or neighbour discovery of a pod that is not known, or not ready.
    ArpNdNotReady = ("arp_nd_not_ready", 203),
    /// Neither IP nor well-formed ARP, or ARP with data in fields that receivers ignore.
    NotIp = ("not_ip", 166),
    /// The same, to a pod.
    ToPodNotIp = ("to_pod_not_ip", 166),
    /// A frame with a VLAN tag to a pod.
    ToPodVlanTagged = ("to_pod_vlan_tagged", 139),
    /// Multicast or broadcast to a pod.
    ToPodMulticast = ("to_pod_multicast", 151),
    /// To a pod that is not known, or not ready.
    ToPodNotReady = ("to_pod_not_ready", 203),
    /// To another MAC address than the pod's: a bridge floods such frames.
    ToPodOtherMac = ("to_pod_other_mac", 131),
    /// There is no host link by which the workers could receive it.
    ToPodNoHostLink = ("to_pod_no_host_link", 202),
    /// A pod's packet to a tunnel of this node.
    ToNodeTunnel = ("to_node_tunnel", 142),
    /// More ARP and neighbour discovery than may be sent to a pod.
    ToPodArpNdRateLimit = ("to_pod_arp_nd_rate_limit", 198),
}

impl FrameDropReason {
    /// Whether it is a reason to drop frames that are sent to a pod.
    #[must_use]
    pub const fn is_to_pod(self) -> bool {
        match self {
            Self::ArpNdRateLimit
            | Self::ArpNdSpoofed
            | Self::ArpNdNotReady
            | Self::NotIp
            | Self::ToNodeTunnel => false,
            Self::ToPodNotIp
            | Self::ToPodVlanTagged
            | Self::ToPodMulticast
            | Self::ToPodNotReady
            | Self::ToPodOtherMac
            | Self::ToPodNoHostLink
            | Self::ToPodArpNdRateLimit => true,
        }
    }
}

/// A reason of a worker or of a BPF program.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum AnyDropReason {
    /// Of a worker.
    Worker(DropReason),
    /// Of a program.
    Program(FrameDropReason),
}

impl AnyDropReason {
    /// The reason with this label.
    #[must_use]
    pub fn with_label(label: &str) -> Option<Self> {
        let workers = DropReason::ALL.iter().copied().map(Self::Worker);
        let mut all = workers.chain(FrameDropReason::ALL.iter().copied().map(Self::Program));
        all.find(|reason| reason.label() == label)
    }

    /// The label in metrics and events.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Worker(reason) => reason.label(),
            Self::Program(reason) => reason.label(),
        }
    }

    /// The nearest value of Hubble's `DropReason`.
    #[must_use]
    pub const fn hubble(self) -> u16 {
        match self {
            Self::Worker(reason) => reason.hubble(),
            Self::Program(reason) => reason.hubble(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn labels_are_unique_and_indices_are_dense() {
        let of_workers = DropReason::ALL.iter().map(|reason| reason.label());
        let of_programs = FrameDropReason::ALL.iter().map(|reason| reason.label());
        let labels: HashSet<_> = of_workers.chain(of_programs).collect();
        assert_eq!(labels.len(), DropReason::COUNT + FrameDropReason::COUNT);
        for (index, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
        }
        for (index, reason) in FrameDropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
            assert_eq!(reason.is_to_pod(), reason.label().starts_with("to_pod_"));
        }
        for label in labels {
            assert_eq!(AnyDropReason::with_label(label).map(AnyDropReason::label), Some(label));
        }
        assert_eq!(AnyDropReason::with_label("not_ip "), None);
    }
}
