//! From bytes to a [`View`], checked, in one pass and without copying.

use podgate_tables::drop_reason::DropReason;
use podgate_tables::tuple::Tuple;
use podgate_tables::{proto, tcp_flags};

use super::{L4, Piece, Tcp, View, checksum, icmp, ip};

/// Ethernet types (IANA "IEEE 802 Numbers").
mod ethertype {
    pub(super) const IPV4: u16 = 0x0800;
    pub(super) const IPV6: u16 = 0x86dd;
    pub(super) const VLAN: u16 = 0x8100;
    pub(super) const PROVIDER_VLAN: u16 = 0x88a8;
}

/// VLAN tags that we look through at most (802.1ad: a service tag and a customer tag).
const MAX_VLAN_TAGS: usize = 2;

/// Parses the packet that begins in `frame0` and has `packet_len` bytes over all of its frames.
///
/// All headers must lie in the first frame. A link fills a frame before it goes on in the next, so
/// that only fails for extension headers of kilobytes.
///
/// The IPv4 header checksum is verified (RFC 1812 §5.2.2): it costs some two nanoseconds, and it
/// keeps a packet that its receiver would ignore from changing a flow's state. L4 checksums are
/// not: see [`super::edit::l4_checksum_is_right`].
///
/// # Errors
/// [`DropReason::UnsupportedL3`] for what is not IP, [`DropReason::VlanTagged`] for a packet of a
/// VLAN, [`DropReason::FragmentTiny`] for a first fragment without the whole of its headers,
/// [`DropReason::Truncated`] where a header or
/// the packet ends too early, [`DropReason::Malformed`] for fields that no honest sender writes:
/// wrong versions, lengths or header checksums, martian or IPv4-mapped addresses, source routes,
/// IPv6 extension headers out of order or without end, jumbograms, impossible TCP flags.
#[inline]
pub fn parse(frame0: &[u8], packet_len: u32) -> Result<View, DropReason> {
    let (ethernet, _) = frame0.split_first_chunk::<12>().ok_or(DropReason::Truncated)?;
    let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5] = *ethernet;
    let (l3, version) = network_layer(frame0)?;
    let packet = &frame0[l3..];
    let ip = match version {
        Version::V4 => {
            let ip = ip::v4(packet)?;
            if checksum::of(&packet[..ip.header_len]) != 0 {
                return Err(DropReason::Malformed);
            }
            ip
        }
        Version::V6 => ip::v6(packet)?,
    };
    if ip::is_martian(ip.src, ip.dst) {
        return Err(DropReason::Malformed);
    }
    let end = l3 as u32 + ip.total_len;
    if end > packet_len {
        return Err(DropReason::Truncated);
    }
    let l4 = l3 + ip.header_len;
    let here = frame0.get(l4..frame0.len().min(end as usize)).ok_or(DropReason::Truncated)?;
    let transport = match ip.fragment {
        None => Transport::parse(&ip, here, end - l4 as u32)?,
        Some(piece) => Transport::of_fragment(&ip, piece, here)?,
    };
    Ok(View {
        eth_src: [s0, s1, s2, s3, s4, s5],
        eth_dst: [d0, d1, d2, d3, d4, d5],
        l3: l3 as u16,
        l4: l4 as u16,
        payload: (l4 + transport.header_len) as u16,
        end,
        ttl: ip.ttl,
        tuple: transport.tuple(&ip),
        l4_kind: transport.kind,
    })
}

enum Version {
    V4,
    V6,
}

/// Where the IP header begins, and which one the Ethernet type announces.
#[inline]
fn network_layer(frame: &[u8]) -> Result<(usize, Version), DropReason> {
    let mut at = 12;
    for _ in 0..=MAX_VLAN_TAGS {
        let bytes = frame.get(at..at + 2).ok_or(DropReason::Truncated)?;
        match u16::from_be_bytes([bytes[0], bytes[1]]) {
            ethertype::IPV4 => return Ok((at + 2, Version::V4)),
            ethertype::IPV6 => return Ok((at + 2, Version::V6)),
            ethertype::VLAN | ethertype::PROVIDER_VLAN => {
                refuse_vlan(frame, at + 2)?;
                at += 4;
            }
            _ => break,
        }
    }
    Err(DropReason::UnsupportedL3)
}

/// Refuses a tag that names a VLAN: its addresses are not those of the network that policy knows.
/// The null VLAN ID only gives the frame a priority (IEEE 802.1Q §9.6).
#[cold]
fn refuse_vlan(frame: &[u8], tag: usize) -> Result<(), DropReason> {
    let control = frame.get(tag..tag + 2).ok_or(DropReason::Truncated)?;
    let id = u16::from_be_bytes([control[0], control[1]]) & 0x0fff;
    if id == 0 { Ok(()) } else { Err(DropReason::VlanTagged) }
}

/// The L4 header of a packet.
struct Transport {
    kind: L4,
    src_port: u16,
    dst_port: u16,
    header_len: usize,
}

impl Transport {
    /// `here` is what the first frame holds of it, `len` its length over all frames.
    #[inline]
    fn parse(ip: &ip::Ip, here: &[u8], len: u32) -> Result<Self, DropReason> {
        match (ip.protocol, ip.src.is_v4()) {
            (proto::TCP, _) => Self::tcp(here),
            (proto::UDP, _) => Self::udp(here, len),
            (proto::SCTP, _) => Self::sctp(here),
            (proto::ICMP, true) | (proto::ICMPV6, false) => Self::icmp(ip.protocol, here),
            _ => Ok(Self::without_ports(L4::Other)),
        }
    }

    /// A fragment. The first one has to hold the whole L4 header (RFC 1858 §3, RFC 7112 §5): all
    /// that we judge by then comes out of one fragment, whatever the receiver makes of others.
    #[cold]
    fn of_fragment(ip: &ip::Ip, piece: Piece, here: &[u8]) -> Result<Self, DropReason> {
        if piece.offset == 0 {
            let header = here.get(ip.l4 - ip.header_len..).ok_or(DropReason::FragmentTiny)?;
            let needed = match (ip.protocol, ip.src.is_v4()) {
                (proto::TCP, _) => {
                    let offset = header.get(12).ok_or(DropReason::FragmentTiny)?;
                    (usize::from(offset >> 4) * 4).max(20)
                }
                (proto::SCTP, _) => 12,
                (proto::UDP, _) | (proto::ICMP, true) | (proto::ICMPV6, false) => 8,
                _ => 0,
            };
            if header.len() < needed {
                return Err(DropReason::FragmentTiny);
            }
        }
        Ok(Self::without_ports(L4::Fragment(piece)))
    }

    const fn without_ports(kind: L4) -> Self {
        Self { kind, src_port: 0, dst_port: 0, header_len: 0 }
    }

    const fn tuple(&self, ip: &ip::Ip) -> Tuple {
        Tuple {
            src: ip.src,
            dst: ip.dst,
            src_port: self.src_port,
            dst_port: self.dst_port,
            protocol: ip.protocol,
        }
    }

    /// RFC 9293 §3.1.
    #[inline]
    fn tcp(here: &[u8]) -> Result<Self, DropReason> {
        let h = here.first_chunk::<20>().ok_or(DropReason::Truncated)?;
        let header_len = usize::from(h[12] >> 4) * 4;
        if header_len < 20 || !flags_are_possible(h[13]) {
            return Err(DropReason::Malformed);
        }
        if header_len > here.len() {
            return Err(DropReason::Truncated);
        }
        Ok(Self {
            kind: L4::Tcp(Tcp {
                seq: u32::from_be_bytes([h[4], h[5], h[6], h[7]]),
                ack: u32::from_be_bytes([h[8], h[9], h[10], h[11]]),
                flags: h[13],
                window: u16::from_be_bytes([h[14], h[15]]),
            }),
            src_port: u16::from_be_bytes([h[0], h[1]]),
            dst_port: u16::from_be_bytes([h[2], h[3]]),
            header_len,
        })
    }

    /// RFC 768. The datagram may end before the packet does (RFC 9868 puts options there), not
    /// after it.
    #[inline]
    fn udp(here: &[u8], len: u32) -> Result<Self, DropReason> {
        let h = here.first_chunk::<8>().ok_or(DropReason::Truncated)?;
        match u32::from(u16::from_be_bytes([h[4], h[5]])) {
            0..8 => Err(DropReason::Malformed),
            datagram if datagram > len => Err(DropReason::Truncated),
            _ => Ok(Self {
                kind: L4::Udp,
                src_port: u16::from_be_bytes([h[0], h[1]]),
                dst_port: u16::from_be_bytes([h[2], h[3]]),
                header_len: 8,
            }),
        }
    }

    /// The common header of RFC 9260 §3.1.
    fn sctp(here: &[u8]) -> Result<Self, DropReason> {
        let h = here.first_chunk::<12>().ok_or(DropReason::Truncated)?;
        Ok(Self {
            kind: L4::Sctp,
            src_port: u16::from_be_bytes([h[0], h[1]]),
            dst_port: u16::from_be_bytes([h[2], h[3]]),
            header_len: 12,
        })
    }

    /// RFC 792 and RFC 4443 §2.1: eight bytes, and for errors the packet that they are about.
    fn icmp(protocol: u8, here: &[u8]) -> Result<Self, DropReason> {
        let h = here.first_chunk::<8>().ok_or(DropReason::Truncated)?;
        let (kind, code, identifier) = (h[0], h[1], u16::from_be_bytes([h[4], h[5]]));
        let (src_port, dst_port) = icmp::ports(protocol, kind, identifier);
        let kind = match icmp::role(protocol, kind) {
            icmp::Role::Error => L4::IcmpError { kind, code },
            _ => L4::Icmp { kind, code },
        };
        Ok(Self { kind, src_port, dst_port, header_len: 8 })
    }
}

/// Whether TCP could send a segment with these flags. The set is that of conntrack
/// (`net/netfilter/nf_conntrack_proto_tcp.c`, `tcp_valid_flags`): PSH and the ECN bits go with
/// anything, URG with data or the end of it.
#[inline]
const fn flags_are_possible(flags: u8) -> bool {
    use tcp_flags::{ACK, FIN, RST, SYN, URG};
    const POSSIBLE: u64 = 1 << SYN
        | 1 << (SYN | URG)
        | 1 << (SYN | ACK)
        | 1 << RST
        | 1 << (RST | ACK)
        | 1 << (FIN | ACK)
        | 1 << (FIN | ACK | URG)
        | 1 << ACK
        | 1 << (ACK | URG);
    POSSIBLE >> (flags & (FIN | SYN | RST | ACK | URG)) & 1 == 1
}

/// The tuple of the packet that an ICMP error quotes, as that packet was sent; `None` if too little
/// of it is quoted.
///
/// Routers quote at least eight bytes of L4 (RFC 792), which hold the ports. Fragments behind the
/// first name no flow, and nothing may answer an error with an error.
#[cold]
#[must_use]
pub fn quoted(frame0: &[u8], error: &View) -> Option<Tuple> {
    let protocol = error.tuple.protocol;
    let end = frame0.len().min(error.end as usize);
    let packet = frame0.get(usize::from(error.payload)..end)?;
    let ip = if protocol == proto::ICMP { ip::v4(packet) } else { ip::v6(packet) }.ok()?;
    if ip.fragment.is_some_and(|piece| piece.offset > 0) {
        return None;
    }
    let h = packet.get(ip.l4..)?.first_chunk::<8>()?;
    let (src_port, dst_port) = match ip.protocol {
        proto::TCP | proto::UDP | proto::SCTP => {
            (u16::from_be_bytes([h[0], h[1]]), u16::from_be_bytes([h[2], h[3]]))
        }
        proto::ICMP | proto::ICMPV6 if ip.protocol == protocol => {
            match icmp::role(protocol, h[0]) {
                icmp::Role::Error => return None,
                _ => icmp::ports(protocol, h[0], u16::from_be_bytes([h[4], h[5]])),
            }
        }
        _ => (0, 0),
    };
    Some(Tuple { src: ip.src, dst: ip.dst, src_port, dst_port, protocol: ip.protocol })
}
