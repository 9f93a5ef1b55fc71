//! The 5-tuple of a flow, and the direction of a packet within its flow.

use crate::address::Address;
use crate::proto;

/// Direction of a packet within its flow, named as conntrack names it (`enum ip_conntrack_dir` in
/// `include/uapi/linux/netfilter/nf_conntrack_tuple_common.h`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FlowDirection {
    /// From the endpoint that opened the flow: the direction that policy is evaluated in.
    Original,
    /// To the endpoint that opened the flow.
    Reply,
}

impl FlowDirection {
    /// Whether this is the direction towards the opener.
    #[must_use]
    #[inline]
    pub const fn is_reply(self) -> bool {
        matches!(self, Self::Reply)
    }

    /// The opposite direction.
    #[must_use]
    #[inline]
    pub const fn reverse(self) -> Self {
        match self {
            Self::Original => Self::Reply,
            Self::Reply => Self::Original,
        }
    }
}

/// Addresses, ports and protocol of a packet or a flow. A flow's tuple is that of the original
/// direction.
///
/// ICMP and ICMPv6 queries have no ports. In their place, the requester's port is the identifier
/// and the responder's port is the type of the query, so that the tuple of a reply is the reversed
/// tuple of its query. Other ICMP messages have zeros. The type of the message itself is not part
/// of the tuple.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Tuple {
    /// Source address.
    pub src: Address,
    /// Destination address.
    pub dst: Address,
    /// Source port, host byte order.
    pub src_port: u16,
    /// Destination port, host byte order.
    pub dst_port: u16,
    /// IP protocol number.
    pub protocol: u8,
}

impl Tuple {
    /// Whether the protocol is UDP.
    #[must_use]
    #[inline]
    pub const fn is_udp(&self) -> bool {
        self.protocol == proto::UDP
    }

    /// The tuple of the opposite direction.
    #[must_use]
    #[inline]
    pub const fn reversed(self) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            src_port: self.dst_port,
            dst_port: self.src_port,
            protocol: self.protocol,
        }
    }
}
