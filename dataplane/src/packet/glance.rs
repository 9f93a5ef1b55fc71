//! What a glance at a packet tells, if it is a usual one: enough to find its flow, at a quarter of
//! the cost of a [`View`](super::View).

use super::{checksum, tcp_flags};
use crate::types::{Mac, proto};
use crate::xsk::Unfinished;

/// Offset of the IP header of a usual packet.
const L3: usize = 14;
/// Offset of its L4 header.
const L4: usize = L3 + 20;
/// Bytes of all headers, TCP's options left out.
const HEADERS: usize = L4 + 20;

/// A usual packet: untagged, of one frame, IPv4 without options and whole, and either UDP (as long as
/// its packet) or a segment in the middle of a TCP connection. Host byte order.
///
/// [`parse`](super::parse) would accept it and say the same, if its addresses are ones that a flow
/// can have (that is not looked at: who finds a flow by them knows).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Glance {
    /// Address and port of the source and of the destination.
    pub ends: [(u32, u16); 2],
    /// What passing it on takes.
    pub hop: Hop,
}

/// What is worth knowing of a usual packet when its flow is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Hop {
    /// Bytes of the IP packet.
    pub ip_len: u16,
    /// The IP header's checksum field.
    pub header_checksum: u16,
    /// The L4 checksum field.
    pub checksum: u16,
    /// TCP or UDP.
    pub protocol: u8,
    /// TTL.
    pub ttl: u8,
}

impl Glance {
    /// Looks at the frame of a packet of one frame. `None` for a packet that is not a usual one, or
    /// that has something wrong.
    #[must_use]
    #[inline]
    pub fn at(frame: &[u8]) -> Option<Self> {
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
        let word = |at: usize| u32::from_be_bytes([h[at], h[at + 1], h[at + 2], h[at + 3]]);
        // Ethernet type, then version and header length in words; more fragments, or an offset.
        if word(12) >> 8 != 0x08_0045 || half(L3 + 6) & 0x3fff != 0 || h[0] & 1 == 1 {
            return None;
        }
        let native =
            |at: usize| u64::from(u32::from_ne_bytes([h[at], h[at + 1], h[at + 2], h[at + 3]]));
        let sum = native(14) + native(18) + native(22) + native(26) + native(30);
        let ip_len = half(L3 + 2);
        if !checksum::is_right(sum) || L3 + usize::from(ip_len) > frame.len() {
            return None;
        }
        let protocol = h[L3 + 9];
        let l4_len = ip_len.checked_sub(20)?;
        // Where both kinds come in turns nobody foresees which is next, so there is no branch
        // between them.
        let is_udp = protocol == proto::UDP;
        let usual_udp = is_udp & (l4_len >= 8) & (half(L4 + 4) == l4_len);
        let usual_tcp = (protocol == proto::TCP) & is_middle_of_tcp(h, l4_len);
        if !(usual_udp | usual_tcp) {
            return None;
        }
        let checksum = half(L4 + usize::from(checksum_field(is_udp)));
        let (src, dst) = ((word(L3 + 12), half(L4)), (word(L3 + 16), half(L4 + 2)));
        let (header_checksum, ttl) = (half(L3 + 10), h[L3 + 8]);
        let hop = Hop { ip_len, header_checksum, checksum, protocol, ttl };
        Some(Self { ends: [src, dst], hop })
    }

    /// The Ethernet source of a frame that was glanced at.
    #[must_use]
    #[inline]
    pub fn eth_src(frame: &[u8]) -> Mac {
        frame.get(6..12).and_then(|mac| mac.try_into().ok()).unwrap_or_default()
    }
}

impl Hop {
    /// Bytes that the L4 checksum covers.
    #[must_use]
    #[inline]
    pub const fn l4_len(&self) -> u16 {
        self.ip_len - 20
    }

    /// Where its checksum lies, if that is to be completed.
    #[must_use]
    #[inline]
    pub const fn unfinished(&self) -> Unfinished {
        Unfinished::new(L4 as u16, checksum_field(self.protocol == proto::UDP))
    }

    /// Does what a hop changes in the frame: the Ethernet addresses and, if it counts, the TTL, which
    /// must be more than one. Reads nothing of it, since its bytes may have left the cache.
    #[inline]
    pub fn pass_on(&self, frame: &mut [u8], dst: Mac, src: Mac, counts: bool) {
        let Some(h) = frame.first_chunk_mut::<L4>() else { return };
        h[..6].copy_from_slice(&dst);
        h[6..12].copy_from_slice(&src);
        if counts {
            h[L3 + 8] = self.ttl - 1;
            let sum = checksum::of_one_hop_less(self.header_checksum);
            h[L3 + 10..L3 + 12].copy_from_slice(&sum.to_be_bytes());
        }
    }
}

/// Where a UDP or TCP header's checksum lies.
#[inline]
const fn checksum_field(is_udp: bool) -> u16 {
    if is_udp { checksum::UDP_FIELD } else { checksum::TCP_FIELD }
}

/// Whether a TCP segment opens, ends and resets nothing; `len` is that of header and payload.
#[inline]
const fn is_middle_of_tcp(h: &[u8; HEADERS], len: u16) -> bool {
    use tcp_flags::{ACK, FIN, RST, SYN, URG};
    let header_len = (h[L4 + 12] >> 4) as u16 * 4;
    let usual = h[L4 + 13] & (SYN | FIN | RST | URG | ACK) == ACK;
    usual & (header_len >= 20) & (header_len <= len)
}
