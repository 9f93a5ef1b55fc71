//! Small value types that every module shares.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Slot of a link (a netdev that we attach to) in every per-link table, the XSKMAP included.
///
/// Slots are reused after a link is gone, but never while a worker still holds its rings.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct LinkId(pub u16);

impl LinkId {
    /// The slot as an index.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// Generation of the published snapshot. A flow carries the epoch its verdict was made under.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord, Default)]
pub struct Epoch(pub u32);

/// A point in time: nanoseconds of a monotonic clock that the caller owns.
///
/// Nothing in the packet path reads a clock; time is always an argument.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord, Default)]
pub struct Nanos(pub u64);

impl Nanos {
    /// This instant, `seconds` later.
    #[must_use]
    pub const fn plus_secs(self, seconds: u64) -> Self {
        Self(self.0.saturating_add(seconds.saturating_mul(1_000_000_000)))
    }

    /// This instant, `millis` milliseconds later.
    #[must_use]
    pub const fn plus_millis(self, millis: u64) -> Self {
        Self(self.0.saturating_add(millis.saturating_mul(1_000_000)))
    }

    /// Nanoseconds since `earlier`; zero if `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// An IPv4 or IPv6 address as one 128-bit number; IPv4 is stored IPv4-mapped (RFC 4291 §2.5.5.2).
///
/// IPv6 packets that carry mapped addresses on the wire are dropped by the parser, so the two
/// families can't be confused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address(u128);

const MAPPED_PREFIX: u128 = 0xffff_0000_0000;

impl Address {
    /// From the four bytes of an IPv4 header field.
    #[must_use]
    pub const fn v4(bytes: [u8; 4]) -> Self {
        Self(MAPPED_PREFIX | u32::from_be_bytes(bytes) as u128)
    }

    /// From the sixteen bytes of an IPv6 header field.
    #[must_use]
    pub const fn v6(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }

    /// The number itself, for hashing.
    #[must_use]
    pub const fn bits(self) -> u128 {
        self.0
    }

    /// The inverse of [`Self::bits`].
    #[must_use]
    pub const fn from_bits(bits: u128) -> Self {
        Self(bits)
    }

    /// Whether this is an IPv4 (mapped) address.
    #[must_use]
    pub const fn is_v4(self) -> bool {
        self.0 >> 32 == MAPPED_PREFIX >> 32
    }

    /// The IPv4 address as a number, or `None` for IPv6.
    #[must_use]
    pub const fn as_v4_bits(self) -> Option<u32> {
        if self.is_v4() { Some(self.0 as u32) } else { None }
    }

    /// Two IPv4 addresses as they lie in a header, source before destination, little-endian. `None`
    /// unless both are IPv4.
    #[must_use]
    #[inline]
    pub const fn as_in_v4_header(src: Self, dst: Self) -> Option<u64> {
        let (Some(src), Some(dst)) = (src.as_v4_bits(), dst.as_v4_bits()) else { return None };
        Some(src.swap_bytes() as u64 | (dst.swap_bytes() as u64) << 32)
    }

    /// Multicast (either family), IPv4 limited broadcast, or unspecified: never a flow's end.
    #[must_use]
    pub fn is_multicast_or_broadcast(self) -> bool {
        match self.ip() {
            IpAddr::V4(ip) => ip.is_multicast() || ip.is_broadcast(),
            IpAddr::V6(ip) => ip.is_multicast(),
        }
    }

    /// The address as the standard library's type.
    #[must_use]
    pub fn ip(self) -> IpAddr {
        match self.as_v4_bits() {
            Some(bits) => IpAddr::V4(Ipv4Addr::from_bits(bits)),
            None => IpAddr::V6(Ipv6Addr::from_bits(self.0)),
        }
    }
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => Self::v4(v4.octets()),
            IpAddr::V6(v6) => Self::v6(v6.octets()),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ip().fmt(f)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ip().fmt(f)
    }
}

/// An Ethernet address.
pub type Mac = [u8; 6];

pub use podgate_xdp_redirect::HAIRPIN_MAC;

/// IP protocol numbers (IANA "Assigned Internet Protocol Numbers") that the dataplane knows.
pub mod proto {
    /// ICMP, RFC 792.
    pub const ICMP: u8 = 1;
    /// TCP, RFC 9293.
    pub const TCP: u8 = 6;
    /// UDP, RFC 768.
    pub const UDP: u8 = 17;
    /// ICMPv6, RFC 4443.
    pub const ICMPV6: u8 = 58;
    /// SCTP, RFC 9260.
    pub const SCTP: u8 = 132;
}

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
    pub const fn is_reply(self) -> bool {
        matches!(self, Self::Reply)
    }

    /// The other way.
    #[must_use]
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
