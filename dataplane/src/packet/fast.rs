//! The reduced header check of the fast path: reads what a flow lookup and forwarding need, at a
//! quarter of the cost of a full parse into a [`View`](super::View).

use std::num::NonZeroU32;

use podgate_tables::address::{Address, Mac};
use podgate_tables::service::L4Addr;
use podgate_tables::{proto, tcp_flags};

use super::checksum;
use super::offset::{ipv4, tcp, udp};
use crate::mem::CsumPartial;

/// Offset of the IP header.
const L3: usize = 14;
/// Offset of the L4 header.
const L4: usize = L3 + ipv4::HEADER_LEN;
/// Length of all headers without TCP options, bytes.
const HEADERS: usize = L4 + tcp::HEADER_LEN;

/// Headers of an untagged single-frame packet: IPv4 without options, not fragmented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FastHeaders {
    /// Source and destination address as in the packet, little-endian.
    pub addresses: u64,
    /// Source and destination port, likewise; meaningless for protocols without ports.
    pub ports: u32,
    /// Protocol.
    pub protocol: u8,
    /// What forwarding needs, if the packet is eligible for the fast path.
    pub eligible: Option<FastPathPacket>,
}

/// A packet that the fast path can forward if its flow allows: UDP (as long as its IP packet), or a
/// TCP segment that neither opens nor ends a connection.
///
/// [`parse`](fn@super::parse) accepts it with the same result, provided its addresses are valid.
/// Addresses are not validated here; a flow-table hit implies that they are valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FastPathPacket {
    /// Length of the IP packet, bytes.
    pub ip_len: u16,
    /// The L4 checksum field.
    pub checksum: u16,
    /// TTL, protocol and header checksum.
    pub ttl_word: TtlProtoChecksum,
}

/// The third word of an IPv4 header (TTL, protocol, header checksum) as in the packet,
/// little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TtlProtoChecksum(NonZeroU32);

impl FastHeaders {
    /// Reads the frame of a single-frame packet. `None` if it has other headers, is malformed, or
    /// `source` excludes its Ethernet source.
    #[must_use]
    #[inline]
    pub fn read(frame: &[u8], source: SourceFilter) -> Option<Self> {
        let mut padded;
        let h = match frame.first_chunk() {
            Some(headers) => headers,
            None => {
                padded = [0; HEADERS];
                padded[..frame.len()].copy_from_slice(frame);
                &padded
            }
        };
        let half = |at: usize| u16::from_be_bytes([h[at], h[at + 1]]);
        // Ethernet type, then version and header length; "more fragments" and fragment offset;
        // Ethernet group address.
        if word(h, 12) & 0xff_ffff != 0x45_0008
            || half(L3 + ipv4::FRAGMENT) & 0x3fff != 0
            || h[0] & 1 == 1
        {
            return None;
        }
        if !source.accepts(h) {
            return None;
        }
        let [src, dst] = [word(h, L3 + ipv4::SRC), word(h, L3 + ipv4::DST)].map(u64::from);
        let third = word(h, L3 + ipv4::TTL);
        let sum =
            u64::from(word(h, L3)) + u64::from(word(h, L3 + 4)) + u64::from(third) + src + dst;
        let ip_len = half(L3 + ipv4::TOTAL_LEN);
        if !checksum::is_right(sum) || L3 + usize::from(ip_len) > frame.len() {
            return None;
        }
        let ttl_word = TtlProtoChecksum(NonZeroU32::new(third)?);
        let (addresses, ports, protocol) = (src | dst << 32, word(h, L4), ttl_word.protocol());
        let l4_len = ip_len.checked_sub(ipv4::HEADER_LEN as u16)?;
        // Branch-free: with mixed traffic a branch between the two protocols is mispredicted.
        let is_udp = protocol == proto::UDP;
        let eligible_udp = is_udp & (l4_len >= 8) & (half(L4 + udp::LEN) == l4_len);
        let eligible_tcp = (protocol == proto::TCP) & is_mid_connection(h, l4_len);
        if !(eligible_udp | eligible_tcp) {
            return Some(Self { addresses, ports, protocol, eligible: None });
        }
        let checksum_at = |field: u8| half(L4 + usize::from(field));
        let (of_udp, of_tcp) = (checksum_at(checksum::UDP_FIELD), checksum_at(checksum::TCP_FIELD));
        let checksum = if is_udp { of_udp } else { of_tcp };
        let eligible = Some(FastPathPacket { ip_len, checksum, ttl_word });
        Some(Self { addresses, ports, protocol, eligible })
    }
}

/// Accepted Ethernet sources: a value and a mask.
#[derive(Clone, Copy, Debug)]
pub struct SourceFilter {
    bits: u64,
    mask: u64,
}

impl SourceFilter {
    /// Accepts every source.
    pub const ANY: Self = Self { bits: 0, mask: 0 };
    /// Accepts no source.
    pub const NONE: Self = Self { bits: 1, mask: 0 };

    /// Accepts this source.
    #[must_use]
    pub const fn exactly([a, b, c, d, e, f]: Mac) -> Self {
        Self { bits: u64::from_le_bytes([a, b, c, d, e, f, 0, 0]), mask: u64::MAX >> 16 }
    }

    #[inline]
    const fn accepts(self, h: &[u8; HEADERS]) -> bool {
        let source = u64::from_le_bytes([h[6], h[7], h[8], h[9], h[10], h[11], h[12], h[13]]);
        source & self.mask == self.bits
    }
}

impl FastPathPacket {
    /// Bytes that the L4 checksum covers.
    #[must_use]
    #[inline]
    pub const fn l4_len(&self) -> u16 {
        self.ip_len - ipv4::HEADER_LEN as u16
    }
}

/// The end of a packet that a translation replaces.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// Source address and port.
    Source,
    /// Destination address and port.
    Destination,
}

/// An IPv4 address and a port as in a packet, little-endian.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EndV4 {
    /// Address.
    pub address: u32,
    /// Port.
    pub port: u16,
}

impl EndV4 {
    /// From an address and a port in host byte order. `None` for an IPv6 address.
    #[must_use]
    #[inline]
    pub fn new(address: Address, port: u16) -> Option<Self> {
        Some(Self { address: address.as_v4_bits()?.swap_bytes(), port: port.swap_bytes() })
    }

    /// As a service's address and port.
    #[must_use]
    #[inline]
    pub const fn as_frontend(self) -> L4Addr {
        let address = Address::v4(self.address.to_le_bytes());
        L4Addr { address, port: self.port.swap_bytes() }
    }

    /// The sum of its address, and of its port if `port` is set.
    #[inline]
    const fn sum(self, port: bool) -> u16 {
        let address = self.address.swap_bytes();
        let port = if port { self.port.swap_bytes() } else { 0 };
        checksum::fold((address >> 16) as u64 + (address & 0xffff) as u64 + port as u64)
    }
}

/// The translation of one end of a [`FastPathPacket`]: the same as
/// [`translate`](fn@super::translate::translate).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EndTranslation {
    end: End,
    to: EndV4,
    /// The new L4 checksum field.
    checksum: u16,
    /// The new third word.
    ttl_word: TtlProtoChecksum,
}

impl EndTranslation {
    /// Replaces `from` by `to`. `csum_partial` says whether the packet's L4 checksum is partial.
    #[must_use]
    #[inline]
    pub const fn new(
        packet: &FastPathPacket,
        end: End,
        [from, to]: [EndV4; 2],
        csum_partial: bool,
    ) -> Self {
        let field = packet.checksum;
        let is_udp = packet.ttl_word.protocol() == proto::UDP;
        let checksum = if csum_partial {
            !checksum::update(!field, from.sum(false), to.sum(false))
        } else if is_udp && field == 0 {
            0
        } else {
            match checksum::update(field, from.sum(true), to.sum(true)) {
                // Zero would mean "no checksum" (RFC 768).
                0 if is_udp => 0xffff,
                new => new,
            }
        };
        let ttl_word = packet.ttl_word.translated(from.sum(false), to.sum(false));
        Self { end, to, checksum, ttl_word }
    }

    /// TTL, protocol and header checksum after the translation.
    #[must_use]
    #[inline]
    pub const fn ttl_word(&self) -> TtlProtoChecksum {
        self.ttl_word
    }

    /// Writes it to the frame, which is not read.
    #[inline]
    pub fn write(&self, frame: &mut [u8]) {
        let (address, port) = match self.end {
            End::Source => (L3 + ipv4::SRC, L4),
            End::Destination => (L3 + ipv4::DST, L4 + 2),
        };
        let is_udp = self.ttl_word.protocol() == proto::UDP;
        let field = if is_udp { checksum::UDP_FIELD } else { checksum::TCP_FIELD };
        let field = L4 + usize::from(field);
        let third = L3 + ipv4::TTL;
        let Some(h) = frame.get_mut(..field + 2) else { return };
        h[third..third + 4].copy_from_slice(&self.ttl_word.0.get().to_le_bytes());
        h[address..address + 4].copy_from_slice(&self.to.address.to_le_bytes());
        h[port..port + 2].copy_from_slice(&self.to.port.to_le_bytes());
        h[field..].copy_from_slice(&self.checksum.to_be_bytes());
    }
}

/// Whether a hop decrements the TTL.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Ttl {
    /// The packet crosses a router.
    Decrement,
    /// The packet crosses a link.
    Keep,
}

impl TtlProtoChecksum {
    /// A value that no packet has.
    pub const NONE: Self = Self(NonZeroU32::MAX);

    /// TTL.
    #[must_use]
    #[inline]
    pub const fn ttl(self) -> u8 {
        self.0.get() as u8
    }

    /// Protocol.
    #[must_use]
    #[inline]
    pub const fn protocol(self) -> u8 {
        (self.0.get() >> 8) as u8
    }

    /// The same after an address was changed, from one with the sum `from` to one with the sum
    /// `to`.
    #[inline]
    const fn translated(self, from: u16, to: u16) -> Self {
        let third = self.0.get();
        let checksum = checksum::update(((third >> 16) as u16).swap_bytes(), from, to);
        let third = (third & 0xffff) | (checksum.swap_bytes() as u32) << 16;
        match NonZeroU32::new(third) {
            Some(third) => Self(third),
            // A packet of protocol 0, which is none of ours.
            None => Self::NONE,
        }
    }

    /// Position of the L4 checksum, for the kernel to complete it.
    #[must_use]
    #[inline]
    pub const fn csum_partial(self) -> CsumPartial {
        let is_udp = self.protocol() == proto::UDP;
        CsumPartial::new(L4 as u8, if is_udp { checksum::UDP_FIELD } else { checksum::TCP_FIELD })
    }

    /// Rewrites the headers for the next hop: Ethernet addresses and TTL, which must be more than
    /// one if it is decremented. Only writes to the frame: its bytes may have left the cache since
    /// they were read.
    #[inline]
    pub fn rewrite(self, frame: &mut [u8], dst: Mac, src: Mac, ttl: Ttl) {
        let Some(h) = frame.first_chunk_mut::<L4>() else { return };
        h[..6].copy_from_slice(&dst);
        h[6..12].copy_from_slice(&src);
        if ttl == Ttl::Decrement {
            let third = self.0.get();
            let sum = checksum::of_decremented_ttl(((third >> 16) as u16).swap_bytes());
            let third = u32::from(third as u16 - 1) | u32::from(sum.swap_bytes()) << 16;
            h[L3 + ipv4::TTL..L3 + ipv4::TTL + 4].copy_from_slice(&third.to_le_bytes());
        }
    }
}

/// Four bytes, little-endian: byte order doesn't matter for equality and sums.
#[inline]
const fn word(h: &[u8; HEADERS], at: usize) -> u32 {
    u32::from_le_bytes([h[at], h[at + 1], h[at + 2], h[at + 3]])
}

/// Whether a TCP segment neither opens, closes nor resets a connection; `len` is the length of
/// header and payload, bytes.
#[inline]
const fn is_mid_connection(h: &[u8; HEADERS], len: u16) -> bool {
    use tcp_flags::{ACK, FIN, RST, SYN, URG};
    let header_len = (h[L4 + tcp::DATA_OFFSET] >> 4) as u16 * 4;
    let only_ack = h[L4 + tcp::FLAGS] & (SYN | FIN | RST | URG | ACK) == ACK;
    only_ack & (header_len >= tcp::HEADER_LEN as u16) & (header_len <= len)
}
