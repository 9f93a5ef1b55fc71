//! ICMP errors that a router sends: what about, about what, and their bytes.

use podgate_tables::address::{Address, Mac};
use podgate_tables::proto;

use super::checksum::{self, Sum};
use super::{L4, View};

/// What is wrong with a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Complaint {
    /// It doesn't fit its way on, which takes packets of this many bytes, and must not be cut:
    /// "fragmentation needed" (RFC 1191 §4) or "packet too big" (RFC 4443 §3.2).
    TooBig(u32),
    /// It has made all the hops it may: "time exceeded in transit" (RFC 792, RFC 4443 §3.3).
    HopsSpent,
}

impl Complaint {
    /// Type, code and the word behind the checksum.
    const fn message(self, v4: bool) -> (u8, u8, [u8; 4]) {
        match (self, v4) {
            // The MTU has 16 bits here.
            (Self::TooBig(mtu), true) => {
                let [high, low] = if mtu < 0xffff { mtu as u16 } else { 0xffff }.to_be_bytes();
                (3, 4, [0, 0, high, low])
            }
            (Self::TooBig(mtu), false) => (2, 0, mtu.to_be_bytes()),
            (Self::HopsSpent, true) => (11, 0, [0; 4]),
            (Self::HopsSpent, false) => (3, 0, [0; 4]),
        }
    }
}

/// Longest error over IPv4, IP header included (RFC 1812 §4.3.2.3), and over IPv6 (RFC 4443 §2.4).
const LENGTH_MAX: [usize; 2] = [576, 1280];
const ETHERNET_HEADER: usize = 14;
const ICMP_HEADER: usize = 8;
/// Hop limit of our packets; the default of every current stack.
const HOP_LIMIT: u8 = 64;

/// Bytes of the longest error, from its Ethernet header on.
pub const FRAME_MAX: usize = ETHERNET_HEADER + LENGTH_MAX[1];

/// Whether an error may be sent about a packet (RFC 1122 §3.2.2, RFC 4443 §2.4): not about an
/// error or a redirect, nor about what came by an Ethernet broadcast. Multicast destinations, odd
/// sources and later fragments have been sorted out before.
#[must_use]
pub fn may_be_about(view: &View) -> bool {
    const REDIRECT: u8 = 137;
    let answers_nothing = match view.l4_kind {
        L4::IcmpError { .. } | L4::Fragment(_) => true,
        L4::Icmp { kind, .. } => !view.is_v4() && kind == REDIRECT,
        L4::Tcp(_) | L4::Udp | L4::Sctp | L4::Other => false,
    };
    !answers_nothing && view.eth_dst[0] & 1 == 0
}

/// Writes an error from `source` to the sender of a packet, and returns its length. `packet` is
/// that packet's first frame, of which as much is quoted as an error may have.
///
/// The Ethernet addresses are left for whoever transmits it.
///
/// # Panics
/// When `frame` is shorter than [`FRAME_MAX`], or the packet was not parsed into `view`.
pub fn write(
    frame: &mut [u8],
    complaint: Complaint,
    source: Address,
    view: &View,
    packet: &[u8],
) -> usize {
    let v4 = view.is_v4();
    let ip_header = if v4 { 20 } else { 40 };
    let end = packet.len().min(view.end as usize);
    let about = &packet[usize::from(view.l3)..end];
    let quote = &about[..about.len().min(LENGTH_MAX[usize::from(!v4)] - ip_header - ICMP_HEADER)];
    let (none, ethertype): (Mac, u16) = ([0; 6], if v4 { 0x0800 } else { 0x86dd });
    let total = ip_header + ICMP_HEADER + quote.len();
    let frame = &mut frame[..ETHERNET_HEADER + total];
    frame[..6].copy_from_slice(&none);
    frame[6..12].copy_from_slice(&none);
    frame[12..14].copy_from_slice(&ethertype.to_be_bytes());
    let (ip, message) = frame[ETHERNET_HEADER..].split_at_mut(ip_header);
    let (kind, code, word) = complaint.message(v4);
    message[..4].copy_from_slice(&[kind, code, 0, 0]);
    message[4..8].copy_from_slice(&word);
    message[8..].copy_from_slice(quote);
    // ICMPv6 has the pseudo-header in its sum (RFC 4443 §2.3), ICMP has not.
    let mut sum = match v4 {
        true => Sum::default(),
        false => {
            let len = message.len() as u32;
            Sum::pseudo_header(source, view.tuple.src, proto::ICMPV6, len)
        }
    };
    sum.add(message);
    message[2..4].copy_from_slice(&sum.checksum().to_be_bytes());
    match v4 {
        true => write_v4(ip, total as u16, source, view.tuple.src),
        false => write_v6(ip, message.len() as u16, source, view.tuple.src),
    }
    ETHERNET_HEADER + total
}

/// An IPv4 header for ICMP, with the precedence of network control (RFC 1812 §4.3.2.5) and "don't
/// fragment", so that it needs no identification (RFC 6864 §4.1).
fn write_v4(header: &mut [u8], total: u16, source: Address, destination: Address) {
    header.fill(0);
    header[..2].copy_from_slice(&[0x45, 0xc0]);
    header[2..4].copy_from_slice(&total.to_be_bytes());
    header[6] = 0x40;
    header[8..10].copy_from_slice(&[HOP_LIMIT, proto::ICMP]);
    header[12..16].copy_from_slice(&(source.bits() as u32).to_be_bytes());
    header[16..20].copy_from_slice(&(destination.bits() as u32).to_be_bytes());
    let sum = checksum::of(header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
}

fn write_v6(header: &mut [u8], payload: u16, source: Address, destination: Address) {
    header[..4].copy_from_slice(&[0x60, 0, 0, 0]);
    header[4..6].copy_from_slice(&payload.to_be_bytes());
    header[6..8].copy_from_slice(&[proto::ICMPV6, HOP_LIMIT]);
    header[8..24].copy_from_slice(&source.bits().to_be_bytes());
    header[24..40].copy_from_slice(&destination.bits().to_be_bytes());
}
