//! What a glance at a packet tells, if it is a usual one: enough to find its flow, at a quarter of
//! the cost of a [`View`](super::View).

use super::{checksum, tcp_flags};
use crate::types::{Mac, proto};
use crate::xsk::Unfinished;

/// Offset of the IP header of a usual packet.
const L3: usize = 14;
/// Offset of its L4 header.
const L4: usize = L3 + 20;

/// A usual packet: untagged, of one frame, IPv4 without options and whole, and either UDP (as long as
/// its packet) or a segment in the middle of a TCP connection. Host byte order.
///
/// [`parse`](super::parse) would accept it and say the same, if its addresses are ones that a flow
/// can have (that is not looked at: who finds a flow by them knows).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Glance {
    /// Source address.
    pub src: u32,
    /// Destination address.
    pub dst: u32,
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// Bytes of the IP packet.
    pub ip_len: u16,
    /// Bytes that the L4 checksum covers.
    pub l4_len: u16,
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
        // The fixed headers and the eight bytes that every L4 header has at least.
        let h = frame.first_chunk::<{ L4 + 8 }>()?;
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
        let room = ip_len.checked_sub(20)?;
        let (l4_len, checksum) = match protocol {
            proto::UDP => {
                let len = half(L4 + 4);
                (len >= 8 && len == room).then_some((len, half(L4 + 6)))?
            }
            proto::TCP => (room, middle_of_tcp(frame, room)?),
            _ => return None,
        };
        Some(Self {
            src: word(L3 + 12),
            dst: word(L3 + 16),
            src_port: half(L4),
            dst_port: half(L4 + 2),
            ip_len,
            l4_len,
            checksum,
            protocol,
            ttl: h[L3 + 8],
        })
    }

    /// Where its checksum lies, if that is to be completed.
    #[must_use]
    #[inline]
    pub const fn unfinished(&self) -> Unfinished {
        match self.protocol {
            proto::UDP => Unfinished::udp(L4 as u16),
            _ => Unfinished::tcp(L4 as u16),
        }
    }

    /// The Ethernet source of a frame that was glanced at.
    #[must_use]
    #[inline]
    pub fn eth_src(frame: &[u8]) -> Mac {
        frame.get(6..12).and_then(|mac| mac.try_into().ok()).unwrap_or_default()
    }
}

/// The checksum field of a TCP segment that opens, ends and resets nothing; `room` is the length of
/// header and payload.
#[inline]
fn middle_of_tcp(frame: &[u8], room: u16) -> Option<u16> {
    use tcp_flags::{ACK, FIN, RST, SYN, URG};
    let h = frame.get(L4..)?.first_chunk::<20>()?;
    let header_len = u16::from(h[12] >> 4) * 4;
    let usual = h[13] & (SYN | FIN | RST | URG | ACK) == ACK;
    (usual && header_len >= 20 && header_len <= room).then(|| u16::from_be_bytes([h[16], h[17]]))
}

/// What a hop changes in a frame that was glanced at: the Ethernet addresses and, if it counts, the
/// TTL, which must be more than one.
#[inline]
pub fn pass_on(frame: &mut [u8], dst: Mac, src: Mac, counts: bool) {
    let Some(h) = frame.first_chunk_mut::<L4>() else { return };
    h[..6].copy_from_slice(&dst);
    h[6..12].copy_from_slice(&src);
    if counts {
        h[L3 + 8] -= 1;
        let sum = checksum::of_one_hop_less(u16::from_be_bytes([h[L3 + 10], h[L3 + 11]]));
        h[L3 + 10..L3 + 12].copy_from_slice(&sum.to_be_bytes());
    }
}
