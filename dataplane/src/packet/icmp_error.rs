//! ICMP errors that podgate sends as a router.

use podgate_tables::address::{Address, Mac};
use podgate_tables::proto;

use super::checksum::{self, Sum};
use super::offset::{ipv4, ipv6};
use super::{L4, View};

/// The versions of IP, which have different ICMPs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum IpVersion {
    V4,
    V6,
}

/// Errors that podgate sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IcmpError {
    /// The packet exceeds this MTU, bytes, and must not be fragmented: "fragmentation needed" (RFC
    /// 1191 §4) or "packet too big" (RFC 4443 §3.2).
    TooBig(u32),
    /// No backend has the destination's port: "port unreachable" (RFC 792, RFC 4443 §3.1).
    PortUnreachable,
    /// Its TTL or hop limit is used up: "time exceeded in transit" (RFC 792, RFC 4443 §3.3).
    TimeExceeded,
}

impl IcmpError {
    /// Type, code and the four bytes after the checksum.
    const fn message(self, version: IpVersion) -> (u8, u8, [u8; 4]) {
        match (self, version) {
            // The field for the MTU has 16 bits.
            (Self::TooBig(mtu), IpVersion::V4) => {
                let [high, low] = if mtu < 0xffff { mtu as u16 } else { 0xffff }.to_be_bytes();
                (3, 4, [0, 0, high, low])
            }
            (Self::TooBig(mtu), IpVersion::V6) => (2, 0, mtu.to_be_bytes()),
            (Self::PortUnreachable, IpVersion::V4) => (3, 3, [0; 4]),
            (Self::PortUnreachable, IpVersion::V6) => (1, 4, [0; 4]),
            (Self::TimeExceeded, IpVersion::V4) => (11, 0, [0; 4]),
            (Self::TimeExceeded, IpVersion::V6) => (3, 0, [0; 4]),
        }
    }
}

/// Longest error over IPv4 with its IP header, bytes (RFC 1812 §4.3.2.3).
const LENGTH_MAX_V4: usize = 576;
/// The same over IPv6 (RFC 4443 §2.4).
const LENGTH_MAX_V6: usize = 1280;
const ETHERNET_HEADER: usize = 14;
const ICMP_HEADER: usize = 8;
/// Hop limit of our packets; the default of every current stack.
const HOP_LIMIT: u8 = 64;

/// Length of the longest error with its Ethernet header, bytes.
pub const FRAME_MAX: usize = ETHERNET_HEADER + LENGTH_MAX_V6;

/// Whether an error may be sent about a packet (RFC 1122 §3.2.2, RFC 4443 §2.4): not about an error
/// or a redirect, nor about an Ethernet broadcast. Multicast destinations, martian sources and
/// later fragments have been dropped before.
#[must_use]
pub fn may_be_about(view: &View) -> bool {
    const REDIRECT: u8 = 137;
    let excluded = match view.l4_kind {
        L4::IcmpError { .. } | L4::Fragment(_) => true,
        L4::Icmp { kind, .. } => !view.is_v4() && kind == REDIRECT,
        L4::Tcp(_) | L4::Udp | L4::Sctp | L4::Other => false,
    };
    !excluded && view.eth_dst[0] & 1 == 0
}

/// Writes an error from `source` to the sender of a packet, and returns its length in bytes.
/// `packet` is that packet's first frame, of which as much is quoted as is allowed.
///
/// The Ethernet addresses are zero; they are written on transmit.
///
/// # Panics
/// When `frame` is shorter than [`FRAME_MAX`], or the packet was not parsed into `view`.
pub fn write(
    frame: &mut [u8],
    error: IcmpError,
    source: Address,
    view: &View,
    packet: &[u8],
) -> usize {
    let version = if view.is_v4() { IpVersion::V4 } else { IpVersion::V6 };
    let (ip_header, length_max) = match version {
        IpVersion::V4 => (ipv4::HEADER_LEN, LENGTH_MAX_V4),
        IpVersion::V6 => (ipv6::HEADER_LEN, LENGTH_MAX_V6),
    };
    let end = packet.len().min(view.end as usize);
    let about = &packet[usize::from(view.l3)..end];
    let quote = &about[..about.len().min(length_max - ip_header - ICMP_HEADER)];
    let (none, ethertype): (Mac, u16) = (
        [0; 6],
        match version {
            IpVersion::V4 => 0x0800,
            IpVersion::V6 => 0x86dd,
        },
    );
    let total = ip_header + ICMP_HEADER + quote.len();
    let frame = &mut frame[..ETHERNET_HEADER + total];
    frame[..6].copy_from_slice(&none);
    frame[6..12].copy_from_slice(&none);
    frame[12..14].copy_from_slice(&ethertype.to_be_bytes());
    let (ip, message) = frame[ETHERNET_HEADER..].split_at_mut(ip_header);
    let (kind, code, word) = error.message(version);
    message[..4].copy_from_slice(&[kind, code, 0, 0]);
    message[4..8].copy_from_slice(&word);
    message[8..].copy_from_slice(quote);
    // The checksum of ICMPv6 covers the pseudo-header (RFC 4443 §2.3), that of ICMP does not.
    let mut sum = match version {
        IpVersion::V4 => Sum::default(),
        IpVersion::V6 => {
            let len = message.len() as u32;
            Sum::pseudo_header(source, view.tuple.src, proto::ICMPV6, len)
        }
    };
    sum.add(message);
    message[2..4].copy_from_slice(&sum.checksum().to_be_bytes());
    match version {
        IpVersion::V4 => write_v4(ip, total as u16, source, view.tuple.src),
        IpVersion::V6 => write_v6(ip, message.len() as u16, source, view.tuple.src),
    }
    ETHERNET_HEADER + total
}

/// Writes an IPv4 header for ICMP with network control precedence (RFC 1812 §4.3.2.5), and "don't
/// fragment", so that it needs no identification (RFC 6864 §4.1).
fn write_v4(header: &mut [u8], total: u16, source: Address, destination: Address) {
    header.fill(0);
    header[..2].copy_from_slice(&[0x45, 0xc0]);
    header[ipv4::TOTAL_LEN..][..2].copy_from_slice(&total.to_be_bytes());
    header[ipv4::FRAGMENT] = ipv4::DONT_FRAGMENT;
    header[ipv4::TTL..][..2].copy_from_slice(&[HOP_LIMIT, proto::ICMP]);
    header[ipv4::SRC..][..4].copy_from_slice(&(source.bits() as u32).to_be_bytes());
    header[ipv4::DST..][..4].copy_from_slice(&(destination.bits() as u32).to_be_bytes());
    let sum = checksum::of(header);
    header[ipv4::CHECKSUM..][..2].copy_from_slice(&sum.to_be_bytes());
}

fn write_v6(header: &mut [u8], payload: u16, source: Address, destination: Address) {
    header[..4].copy_from_slice(&[0x60, 0, 0, 0]);
    header[ipv6::PAYLOAD_LEN..][..2].copy_from_slice(&payload.to_be_bytes());
    header[ipv6::NEXT_HEADER..][..2].copy_from_slice(&[proto::ICMPV6, HOP_LIMIT]);
    header[ipv6::SRC..][..16].copy_from_slice(&source.bits().to_be_bytes());
    header[ipv6::DST..][..16].copy_from_slice(&destination.bits().to_be_bytes());
}
