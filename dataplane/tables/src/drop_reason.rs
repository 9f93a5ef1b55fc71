//! One enum for every way a packet can be refused.
//!
//! The same value is the counter's index, the metric's `reason` label and the Hubble
//! `drop_reason` (cilium `api/v1/flow/flow.proto`, enum `DropReason`).

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = ($label:literal, $hubble:literal),)+) => {
        /// Why a packet was dropped.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u8)]
        pub enum DropReason { $($(#[doc = $doc])+ $name,)+ }

        impl DropReason {
            /// Every reason, in the order of its counter.
            pub const ALL: &[Self] = &[$(Self::$name,)+];
            /// Number of reasons.
            pub const COUNT: usize = Self::ALL.len();

            /// The metric label.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)+ }
            }

            /// The value of Hubble's `DropReason` with the nearest meaning.
            #[must_use]
            pub const fn hubble(self) -> u16 {
                match self { $(Self::$name => $hubble,)+ }
            }
        }
    };
}

drop_reasons! {
    /// No rule allows the flow and some policy put the endpoint into default deny.
    PolicyDefaultDeny = ("policy_denied", 133),
    /// An explicit deny rule matched.
    PolicyDeny = ("policy_deny_rule", 181),
    /// The flow was allowed once and a newer policy took that back.
    PolicyRevoked = ("policy_revoked", 133),
    /// An L7 rule refused the request; the client got an answer.
    L7Denied = ("l7_denied", 133),
    /// The connection was already refused at L7; later segments of it are swallowed.
    L7Closed = ("l7_closed", 133),
    /// The L7 stream is malformed or ambiguous.
    L7Malformed = ("l7_malformed", 134),
    /// The L7 stream uses something that we can't follow (upgrade, HTTP/2, mid-stream start), or
    /// L7 rules hold for a flow whose protocol has no inspector.
    L7Unsupported = ("l7_unsupported", 134),
    /// A retransmission carried other bytes than those inspected.
    L7Mismatch = ("l7_retransmission_mismatch", 134),
    /// Bytes outside of what the follower may hold (out of order too far, or too much).
    L7Limit = ("l7_limit", 198),
    /// A request head stayed incomplete for too long.
    L7Timeout = ("l7_timeout", 134),
    /// The frame is shorter than its headers say, or a header contradicts itself.
    Truncated = ("truncated_header", 135),
    /// A header field is invalid (version, length, mapped or martian address, flags).
    Malformed = ("invalid_packet", 134),
    /// A TCP or UDP checksum is wrong on a flow whose bytes we inspect.
    BadChecksum = ("bad_checksum", 154),
    /// Not IPv4 or IPv6.
    UnsupportedL3 = ("unsupported_l3", 139),
    /// A frame of a VLAN: its addresses are not those of the network that policy knows.
    VlanTagged = ("vlan_tagged", 139),
    /// A fragment that no datagram can have: empty, not cut at a multiple of 8 bytes, beyond 65,535
    /// bytes, or beyond the datagram's end.
    FragmentMalformed = ("fragment_malformed", 134),
    /// A first fragment that does not hold all headers.
    FragmentTiny = ("fragment_tiny", 134),
    /// Fragments that overlap, and all others of the datagram.
    FragmentOverlap = ("fragment_overlap", 134),
    /// A fragment that was there already.
    FragmentDuplicate = ("fragment_duplicate", 134),
    /// The rest of the datagram did not come in time.
    FragmentTimeout = ("fragment_timeout", 174),
    /// More fragments than one datagram, one link or all may have waiting.
    FragmentLimit = ("fragment_limit", 198),
    /// Multicast or broadcast: never forwarded between links.
    Multicast = ("multicast", 151),
    /// The source address or MAC isn't one of the sending endpoint's; or a local endpoint's address
    /// came from the host link, and not as a hairpin of its own packet.
    SpoofedSource = ("spoofed_source", 132),
    /// A message of IPv6 neighbour discovery (RFC 4861) that would have crossed links as IP.
    NeighbourDiscovery = ("neighbour_discovery", 134),
    /// A pod's tunnel packet to a node, whose overlay would believe the addresses inside.
    TunnelToNode = ("tunnel_to_node", 142),
    /// No link or host route leads to the destination.
    Unroutable = ("unroutable", 151),
    /// TTL or hop limit ran out.
    TtlExceeded = ("ttl_exceeded", 196),
    /// A TCP segment that opens no flow and belongs to none.
    TcpNoFlow = ("tcp_no_flow", 134),
    /// An ICMP error about a flow that we don't know.
    IcmpUnrelated = ("icmp_unrelated", 134),
    /// The flow table is full, or the opener has its share of it, and none of the opener's flows
    /// may be evicted.
    FlowTableFull = ("flow_table_full", 155),
    /// As many flows are inspected as may be, or the opener has its share of them, and none of the
    /// opener's may be evicted.
    InspectedFull = ("inspected_full", 155),
    /// No free frame to build the packet's fragments in.
    NoFrame = ("no_frame", 198),
    /// The packet is larger than the egress link's MTU, and can't be cut.
    TooBig = ("packet_too_big", 157),
    /// The egress link's transmit ring is full.
    TxRingFull = ("tx_ring_full", 198),
    /// The egress link went away, or is down.
    LinkGone = ("link_gone", 203),
    /// The ring to the worker that owns the flow is full, or the link had its share of it.
    HandoffFull = ("handoff_full", 198),
    /// No snapshot is published yet, or the sending link has no endpoint.
    NotReady = ("endpoint_not_ready", 203),
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
