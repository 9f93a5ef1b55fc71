//! Packets: parsed once into a small [`View`] of values and offsets, then edited in place.
//!
//! Nothing here knows AF_XDP: headers and checksums are byte slices, and only [`fragment`] builds
//! packets, from the frames of [`crate::mem`].

pub mod checksum;
pub mod edit;
pub mod fast;
pub mod fragment;
pub mod icmp;
pub mod icmp_error;
mod ip;
pub mod mss;
pub mod offset;
mod parse;
pub mod tcp_options;
pub mod translate;
mod unparsed;

pub use parse::{parse, quoted};
pub use podgate_xdp_redirect::HostFrame;
pub(crate) use unparsed::Unparsed;

use podgate_tables::address::Mac;
use podgate_tables::tcp_flags;
use podgate_tables::tuple::Tuple;

/// A parsed packet: the header fields that policy and flow tracking need, and offsets.
///
/// All headers are in the packet's first frame; the payload may continue in further ones. Every
/// offset is within the first frame, and [`View::end`] within the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// Ethernet source.
    pub eth_src: Mac,
    /// Ethernet destination.
    pub eth_dst: Mac,
    /// Offset of the IP header in the first frame, bytes (14 without VLAN tags).
    pub l3: u16,
    /// Offset of the L4 header, bytes: the end of the IP headers. Of a fragment: of its data.
    pub l4: u16,
    /// Offset of the first byte after the L4 header (for ICMP: after 8 bytes).
    pub payload: u16,
    /// End of the IP packet over all frames, bytes; what follows is Ethernet padding.
    pub end: u32,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Addresses, protocol, ports, in the direction of this packet. The protocol is the one after
    /// IPv6 extension headers. The ports of an ICMP query are its identifier and its type, and
    /// those of the reply the same reversed, see [`icmp`]. Fragments and protocols without ports
    /// have zeros.
    pub tuple: Tuple,
    /// The L4 protocol's part.
    pub l4_kind: L4,
}

impl View {
    /// Length of the IP packet with its headers, bytes.
    #[must_use]
    pub fn ip_len(&self) -> u32 {
        self.end - u32::from(self.l3)
    }

    /// Length of the L4 payload, bytes.
    #[must_use]
    pub fn payload_len(&self) -> u32 {
        self.end - u32::from(self.payload)
    }

    /// Whether it is a TCP segment with SYN.
    #[must_use]
    #[inline]
    pub const fn is_syn(&self) -> bool {
        matches!(self.l4_kind, L4::Tcp(segment) if segment.has(tcp_flags::SYN))
    }

    /// The TCP header, if it is a TCP segment.
    #[must_use]
    #[inline]
    pub const fn tcp(&self) -> Option<Tcp> {
        match self.l4_kind {
            L4::Tcp(segment) => Some(segment),
            _ => None,
        }
    }

    /// Whether it is an IPv4 packet.
    #[must_use]
    pub const fn is_v4(&self) -> bool {
        self.tuple.src.is_v4()
    }
}

/// The L4 part of a [`View`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum L4 {
    /// TCP.
    Tcp(Tcp),
    /// UDP. The datagram may end before the IP packet does.
    Udp,
    /// SCTP: ports only.
    Sctp,
    /// ICMP or ICMPv6 that is not an error; [`icmp::role`] distinguishes queries from replies.
    Icmp {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
    },
    /// ICMP or ICMPv6 error about another packet, see [`quoted`].
    IcmpError {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
    },
    /// A fragment, first or later. Its ports are not parsed: an overlapping fragment could change
    /// them.
    Fragment(FragmentInfo),
    /// Any other protocol.
    Other,
}

/// Fragmentation fields of a fragment (RFC 791 §3.1, RFC 8200 §4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentInfo {
    /// Identification, equal in all fragments of a datagram; 16 bits in IPv4.
    pub id: u32,
    /// Fragment offset, bytes. A multiple of 8.
    pub offset: u16,
    /// The "more fragments" flag.
    pub more: bool,
}

/// TCP header fields, host byte order (RFC 9293 §3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tcp {
    /// Sequence number of the first payload byte (or of the SYN).
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// See [`tcp_flags`].
    pub flags: u8,
    /// Window field, unscaled.
    pub window: u16,
}

impl Tcp {
    /// Whether all of `flags` are set.
    #[must_use]
    pub const fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }

    /// `SEG.LEN`: the payload, plus one each for SYN and FIN.
    #[must_use]
    pub const fn seq_len(&self, payload_len: u32) -> u32 {
        payload_len
            + (self.flags & tcp_flags::SYN != 0) as u32
            + (self.flags & tcp_flags::FIN != 0) as u32
    }
}

#[cfg(test)]
mod tests;
