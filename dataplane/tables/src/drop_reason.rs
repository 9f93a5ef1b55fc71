//! Why packets are dropped.
//!
//! Each reason has a counter, a label in metrics and events, and the nearest value of Hubble's
//! `drop_reason` (cilium `api/v1/flow/flow.proto`, enum `DropReason`).

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = ($label:literal, $hubble:literal),)+) => {
        /// Why a packet was dropped.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u8)]
        pub enum DropReason { $($(#[doc = $doc])+ $name,)+ }

        impl DropReason {
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
    /// A DNS response that answers no query of its flow, or the datagram of a DNS server that no
    /// query was sent to.
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
    /// A packet whose tuple, or that which its translation would have, is that of another flow to
    /// or from a service.
    ServiceConflict = ("service_conflict", 134),
    /// The worker translates to as many distinct addresses and ports as it can.
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn labels_are_unique_and_indices_are_dense() {
        let labels: HashSet<_> = DropReason::ALL.iter().map(|r| r.label()).collect();
        assert_eq!(labels.len(), DropReason::COUNT);
        for (index, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
        }
    }
}
