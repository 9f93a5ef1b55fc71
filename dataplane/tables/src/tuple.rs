//! The five numbers that identify a flow, and the direction of a packet in it.

use crate::address::Address;

/// Which way a packet of a flow goes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Direction {
    /// From the endpoint that opened the flow: the direction that policy is evaluated in.
    Original,
    /// From the endpoint that was called.
    Reply,
}

impl Direction {
    /// Whether this is the way back to the opener.
    #[must_use]
    #[inline]
    pub const fn is_reply(self) -> bool {
        matches!(self, Self::Reply)
    }

    /// The other way.
    #[must_use]
    #[inline]
    pub const fn reverse(self) -> Self {
        match self {
            Self::Original => Self::Reply,
            Self::Reply => Self::Original,
        }
    }
}

/// The five numbers that name a flow, in the direction of the packet or of the flow's opener
/// (the holder says which).
///
/// For ICMP and ICMPv6 queries the asker's port is the identifier and the other end's port is the
/// query's type, so a reply's tuple is its query's reversed; other messages have zeros. The type of
/// the message itself travels beside the tuple.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Tuple {
    /// Sender.
    pub src: Address,
    /// Receiver.
    pub dst: Address,
    /// Sender's L4 port, host byte order.
    pub src_port: u16,
    /// Receiver's L4 port, host byte order.
    pub dst_port: u16,
    /// IP protocol number.
    pub protocol: u8,
}

impl Tuple {
    /// The same flow seen from the other end.
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
