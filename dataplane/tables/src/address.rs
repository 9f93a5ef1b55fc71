//! IP and Ethernet addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IPv4 or IPv6 address as one 128-bit number; IPv4 is stored IPv4-mapped (RFC 4291 §2.5.5.2).
///
/// IPv6 packets that carry mapped addresses on the wire are dropped by the parser, so the two
/// families can't be confused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address(u128);

const MAPPED_PREFIX: u128 = 0xffff_0000_0000;

impl Address {
    /// From the four bytes of an address field in an IPv4 header.
    #[must_use]
    #[inline]
    pub const fn v4(bytes: [u8; 4]) -> Self {
        Self(MAPPED_PREFIX | u32::from_be_bytes(bytes) as u128)
    }

    /// From the sixteen bytes of an address field in an IPv6 header.
    #[must_use]
    #[inline]
    pub const fn v6(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }

    /// The address as a number, for hashing and prefix matches.
    #[must_use]
    #[inline]
    pub const fn bits(self) -> u128 {
        self.0
    }

    /// The inverse of [`Self::bits`].
    #[must_use]
    #[inline]
    pub const fn from_bits(bits: u128) -> Self {
        Self(bits)
    }

    /// Whether this is an IPv4 (mapped) address.
    #[must_use]
    #[inline]
    pub const fn is_v4(self) -> bool {
        self.0 >> 32 == MAPPED_PREFIX >> 32
    }

    /// The IPv4 address as a number, or `None` for IPv6.
    #[must_use]
    #[inline]
    pub const fn as_v4_bits(self) -> Option<u32> {
        if self.is_v4() { Some(self.0 as u32) } else { None }
    }

    /// The source and destination fields of an IPv4 header, read as one little-endian number.
    /// `None` unless both addresses are IPv4.
    #[must_use]
    #[inline]
    pub const fn v4_header_bits(src: Self, dst: Self) -> Option<u64> {
        let (Some(src), Some(dst)) = (src.as_v4_bits(), dst.as_v4_bits()) else { return None };
        Some(src.swap_bytes() as u64 | (dst.swap_bytes() as u64) << 32)
    }

    /// Whether this is a multicast address (either family) or IPv4 limited broadcast.
    #[must_use]
    #[inline]
    pub fn is_multicast_or_broadcast(self) -> bool {
        match self.ip() {
            IpAddr::V4(ip) => ip.is_multicast() || ip.is_broadcast(),
            IpAddr::V6(ip) => ip.is_multicast(),
        }
    }

    /// The address as [`IpAddr`].
    #[must_use]
    #[inline]
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

/// Whether an address is martian: a source that is multicast, broadcast, unspecified or loopback,
/// or a destination that is unspecified or loopback.
///
/// The rules are the kernel's (`net/ipv4/route.c`, `ip_route_input_slow`; `net/ipv6/ip6_input.c`,
/// `ip6_rcv_core`; RFC 4291 §2.5.2 and §2.5.3), except that loopback destinations are martian even
/// with `route_localnet`: no pod may reach the node's loopback. Packets of duplicate address
/// detection, with an unspecified source, don't get here: the XDP program passes neighbour
/// discovery to the kernel.
#[must_use]
#[inline]
pub fn is_martian(src: Address, dst: Address) -> bool {
    match (src.as_v4_bits(), dst.as_v4_bits()) {
        (Some(src), Some(dst)) => {
            let local = |address: u32| matches!(address >> 24, 0 | 127);
            local(src) || local(dst) || src >> 28 == 0xe || src == u32::MAX
        }
        // `::` and `::1`; ff00::/8.
        _ => src.bits() <= 1 || dst.bits() <= 1 || src.bits() >> 120 == 0xff,
    }
}
