//! What a glance at a packet tells: enough to look for its flow and, if it is a usual packet, to
//! pass it on, at a quarter of the cost of a [`View`](super::View).

use std::num::NonZeroU32;

use podgate_tables::address::Mac;
use podgate_tables::{proto, tcp_flags};

use super::checksum;
use crate::xsk::Unfinished;

/// Offset of the IP header of a usual packet.
const L3: usize = 14;
/// Offset of its L4 header.
const L4: usize = L3 + 20;
/// Bytes of all headers, TCP's options left out.
const HEADERS: usize = L4 + 20;

/// A packet that is untagged, of one frame, IPv4 without options and whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Glance {
    /// Addresses of source and destination as they lie in the packet, little-endian.
    pub addresses: u64,
    /// The same of the ports; of what lies in their place, if it has none.
    pub ports: u32,
    /// Protocol.
    pub protocol: u8,
    /// More, if it is a usual packet.
    pub usual: Option<Usual>,
}

/// What is worth knowing of a usual packet when its flow is known: of either UDP (as long as its
/// packet) or a segment in the middle of a TCP connection.
///
/// [`parse`](fn@super::parse) would accept it and say the same, if its addresses are ones that a
/// flow can have (that is not looked at: who finds a flow by them knows).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usual {
    /// Bytes of the IP packet.
    pub ip_len: u16,
    /// The L4 checksum field.
    pub checksum: u16,
    /// What passing it on takes.
    pub hop: Hop,
}

/// What passing a usual packet on takes: the third word of its IP header, TTL, protocol and
/// checksum, as it lies there, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop(NonZeroU32);

impl Glance {
    /// Looks at the frame of a packet of one frame. `None` for one that is something else, has
    /// something wrong, or comes from somebody else.
    #[must_use]
    #[inline]
    pub fn at(frame: &[u8], source: SourceIs) -> Option<Self> {
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
        // Ethernet type, then version and header length in words; more fragments, or an offset.
        if word(h, 12) & 0xff_ffff != 0x45_0008 || half(L3 + 6) & 0x3fff != 0 || h[0] & 1 == 1 {
            return None;
        }
        if !source.is(h) {
            return None;
        }
        let [src, dst] = [word(h, L3 + 12), word(h, L3 + 16)].map(u64::from);
        let third = word(h, L3 + 8);
        let sum =
            u64::from(word(h, L3)) + u64::from(word(h, L3 + 4)) + u64::from(third) + src + dst;
        let ip_len = half(L3 + 2);
        if !checksum::is_right(sum) || L3 + usize::from(ip_len) > frame.len() {
            return None;
        }
        let hop = Hop(NonZeroU32::new(third)?);
        let (addresses, ports, protocol) = (src | dst << 32, word(h, L4), hop.protocol());
        let l4_len = ip_len.checked_sub(20)?;
        // Where both kinds come in turns nobody foresees which is next, so there is no branch
        // between them.
        let is_udp = protocol == proto::UDP;
        let usual_udp = is_udp & (l4_len >= 8) & (half(L4 + 4) == l4_len);
        let usual_tcp = (protocol == proto::TCP) & is_middle_of_tcp(h, l4_len);
        if !(usual_udp | usual_tcp) {
            return Some(Self { addresses, ports, protocol, usual: None });
        }
        let checksum_at = |field: u16| half(L4 + usize::from(field));
        let (of_udp, of_tcp) = (checksum_at(checksum::UDP_FIELD), checksum_at(checksum::TCP_FIELD));
        let checksum = if is_udp { of_udp } else { of_tcp };
        let usual = Some(Usual { ip_len, checksum, hop });
        Some(Self { addresses, ports, protocol, usual })
    }
}

/// Which Ethernet sources a frame may have: as bits that must be equal, and where they must.
#[derive(Clone, Copy, Debug)]
pub struct SourceIs {
    bits: u64,
    mask: u64,
}

impl SourceIs {
    /// Any.
    pub const ANYONE: Self = Self { bits: 0, mask: 0 };
    /// None.
    pub const NOBODY: Self = Self { bits: 1, mask: 0 };

    /// This one.
    #[must_use]
    pub const fn exactly([a, b, c, d, e, f]: Mac) -> Self {
        Self { bits: u64::from_le_bytes([a, b, c, d, e, f, 0, 0]), mask: u64::MAX >> 16 }
    }

    #[inline]
    const fn is(self, h: &[u8; HEADERS]) -> bool {
        let there = u64::from_le_bytes([h[6], h[7], h[8], h[9], h[10], h[11], h[12], h[13]]);
        there & self.mask == self.bits
    }
}

impl Usual {
    /// Bytes that the L4 checksum covers.
    #[must_use]
    #[inline]
    pub const fn l4_len(&self) -> u16 {
        self.ip_len - 20
    }
}

impl Hop {
    /// Of no packet.
    pub const NONE: Self = Self(NonZeroU32::MAX);

    /// TTL.
    #[must_use]
    #[inline]
    pub const fn ttl(self) -> u8 {
        self.0.get() as u8
    }

    /// TCP or UDP.
    #[must_use]
    #[inline]
    pub const fn protocol(self) -> u8 {
        (self.0.get() >> 8) as u8
    }

    /// Where its checksum lies, if that is to be completed.
    #[must_use]
    #[inline]
    pub const fn unfinished(self) -> Unfinished {
        let is_udp = self.protocol() == proto::UDP;
        Unfinished::new(L4 as u16, if is_udp { checksum::UDP_FIELD } else { checksum::TCP_FIELD })
    }

    /// Does what a hop changes in the frame: the Ethernet addresses and, if it counts, the TTL,
    /// which must be more than one. Reads nothing of it, since its bytes may have left the cache.
    #[inline]
    pub fn pass_on(self, frame: &mut [u8], dst: Mac, src: Mac, counts: bool) {
        let Some(h) = frame.first_chunk_mut::<L4>() else { return };
        h[..6].copy_from_slice(&dst);
        h[6..12].copy_from_slice(&src);
        if counts {
            let third = self.0.get();
            let sum = checksum::of_one_hop_less(((third >> 16) as u16).swap_bytes());
            let third = u32::from(third as u16 - 1) | u32::from(sum.swap_bytes()) << 16;
            h[L3 + 8..L3 + 12].copy_from_slice(&third.to_le_bytes());
        }
    }
}

/// Four bytes, little-endian: no byte order is needed where nothing but equality and sums counts.
#[inline]
const fn word(h: &[u8; HEADERS], at: usize) -> u32 {
    u32::from_le_bytes([h[at], h[at + 1], h[at + 2], h[at + 3]])
}

/// Whether a TCP segment opens, ends and resets nothing; `len` is that of header and payload.
#[inline]
const fn is_middle_of_tcp(h: &[u8; HEADERS], len: u16) -> bool {
    use tcp_flags::{ACK, FIN, RST, SYN, URG};
    let header_len = (h[L4 + 12] >> 4) as u16 * 4;
    let usual = h[L4 + 13] & (SYN | FIN | RST | URG | ACK) == ACK;
    usual & (header_len >= 20) & (header_len <= len)
}
