//! Packets: parsed once into a small [`View`] of values and offsets, then edited in place.

pub mod checksum;
pub mod cut;
pub mod edit;
pub mod glance;
pub mod icmp;
pub mod icmp_error;
mod ip;
pub mod mss;
mod parse;

pub use parse::{parse, quoted};
pub use podgate_xdp_redirect::{FOREIGN_MAC, HAIRPIN_MAC, LOCAL_MAC};

use podgate_tables::address::Mac;
use podgate_tables::tcp_flags;
use podgate_tables::tuple::Tuple;

/// What a packet is made of: the values policy and flow tracking need, and where its parts lie.
///
/// All headers lie in the packet's first frame; the payload may go on in further ones. Every
/// offset has been checked against the first frame's length, and [`View::end`] against the whole
/// packet's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// Ethernet source.
    pub eth_src: Mac,
    /// Ethernet destination.
    pub eth_dst: Mac,
    /// Offset of the IP header in the first frame, bytes (14 without VLAN tags).
    pub l3: u16,
    /// Offset of the L4 header. Where there is none to parse, the end of the IP headers; of a
    /// fragment: where its part of the datagram begins.
    pub l4: u16,
    /// Offset of the first byte after the L4 header (for ICMP: after its 8 bytes).
    pub payload: u16,
    /// Offset just past the IP packet, over all frames; bytes after it are Ethernet padding.
    pub end: u32,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Addresses, protocol, ports, in the direction of this packet. Protocol is the one after IPv6
    /// extension headers. The ports of an ICMP query are its identifier and its type, and those of
    /// the reply the same reversed, see [`icmp`]; fragments and protocols without ports have zeros.
    pub tuple: Tuple,
    /// What follows the IP headers.
    pub l4_kind: L4,
}

impl View {
    /// Bytes of the IP packet, headers included.
    #[must_use]
    pub fn ip_len(&self) -> u32 {
        self.end - u32::from(self.l3)
    }

    /// Bytes after the L4 header.
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

    /// Whether the IP header is version 4.
    #[must_use]
    pub fn is_v4(&self) -> bool {
        self.tuple.src.is_v4()
    }
}

/// The L4 part of a [`View`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum L4 {
    /// TCP.
    Tcp(Tcp),
    /// UDP. The datagram's own length lies between its header's and the packet's end.
    Udp,
    /// SCTP: ports only.
    Sctp,
    /// ICMP or ICMPv6 that is no error; [`icmp::role`] tells queries from replies.
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
    /// A fragment, first or later. Its ports say nothing: later fragments could change them.
    Fragment(Piece),
    /// Any other protocol.
    Other,
}

/// Which part of a datagram a fragment carries (RFC 791 §3.1, RFC 8200 §4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Identification: the same in all fragments of a datagram. 16 bits of it in IPv4.
    pub id: u32,
    /// Where the part belongs, bytes from the end of the datagram's IP headers. A multiple of 8.
    pub offset: u16,
    /// Whether more of the datagram follows behind this part.
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

    /// Sequence space the segment takes: payload, plus one each for SYN and FIN.
    #[must_use]
    pub const fn seq_len(&self, payload_len: u32) -> u32 {
        payload_len
            + (self.flags & tcp_flags::SYN != 0) as u32
            + (self.flags & tcp_flags::FIN != 0) as u32
    }
}

#[cfg(test)]
mod tests;
