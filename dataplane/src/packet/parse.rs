//! Parses and validates headers into a [`View`], in one pass and without copying.

use podgate_tables::address::is_martian;
use podgate_tables::drop_reason::DropReason;
use podgate_tables::tuple::Tuple;
use podgate_tables::{proto, tcp_flags};

use super::offset::{tcp, udp};
use super::{FragmentInfo, L4, Tcp, View, checksum, icmp, ip};

/// Ethernet types (IANA "IEEE 802 Numbers").
mod ethertype {
    pub(super) const IPV4: u16 = 0x0800;
    pub(super) const IPV6: u16 = 0x86dd;
    pub(super) const VLAN: u16 = 0x8100;
    pub(super) const PROVIDER_VLAN: u16 = 0x88a8;
}

/// VLAN tags that are parsed, at most (802.1ad: a service tag and a customer tag).
const MAX_VLAN_TAGS: usize = 2;

/// Parses the packet whose first frame is `frame0` and which has `packet_len` bytes over all
/// frames.
///
/// All headers must be in the first frame. A link fills a frame before it continues in the next, so
/// this only fails for kilobytes of extension headers.
///
/// The IPv4 header checksum is verified (RFC 1812 §5.2.2): it costs about two nanoseconds, and a
/// packet that its receiver would drop must not change a flow's state. L4 checksums are not
/// verified: see [`super::edit::l4_checksum_is_right`].
///
/// # Errors
/// [`DropReason::UnsupportedL3`] for anything but IP, [`DropReason::VlanTagged`] for a packet of a
/// VLAN, [`DropReason::FragmentTiny`] for a first fragment without all of its headers,
/// [`DropReason::TruncatedHeader`] where a header or the packet ends too early,
/// [`DropReason::Malformed`] for invalid fields: wrong versions, lengths or header checksums,
/// martian or IPv4-mapped addresses, source routes, IPv6 extension headers out of order or too many
/// of them, jumbograms, impossible TCP flags.
#[inline]
pub fn parse(frame0: &[u8], packet_len: u32) -> Result<View, DropReason> {
    let (ethernet, _) = frame0.split_first_chunk::<12>().ok_or(DropReason::TruncatedHeader)?;
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
    if is_martian(ip.src, ip.dst) {
        return Err(DropReason::Malformed);
    }
    let end = l3 as u32 + ip.total_len;
    if end > packet_len {
        return Err(DropReason::TruncatedHeader);
    }
    let l4 = l3 + ip.header_len;
    let rest = frame0.get(l4..frame0.len().min(end as usize)).ok_or(DropReason::TruncatedHeader)?;
    let transport = match ip.fragment {
        None => Transport::parse(&ip, rest, end - l4 as u32)?,
        Some(fragment) => Transport::of_fragment(&ip, fragment, rest)?,
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

pub(super) enum Version {
    V4,
    V6,
}

/// Offset of the IP header, and its version by the Ethernet type.
#[inline]
pub(super) fn network_layer(frame: &[u8]) -> Result<(usize, Version), DropReason> {
    let mut at = 12;
    for _ in 0..=MAX_VLAN_TAGS {
        let bytes = frame.get(at..at + 2).ok_or(DropReason::TruncatedHeader)?;
        match u16::from_be_bytes([bytes[0], bytes[1]]) {
            ethertype::IPV4 => return Ok((at + 2, Version::V4)),
            ethertype::IPV6 => return Ok((at + 2, Version::V6)),
            ethertype::VLAN | ethertype::PROVIDER_VLAN => {
                check_vlan_tag(frame, at + 2)?;
                at += 4;
            }
            _ => break,
        }
    }
    Err(DropReason::UnsupportedL3)
}

/// Rejects the tag of a VLAN: its addresses belong to another network than policy applies to. The
/// null VLAN ID only sets a priority (IEEE 802.1Q §9.6).
#[cold]
fn check_vlan_tag(frame: &[u8], tag: usize) -> Result<(), DropReason> {
    let control = frame.get(tag..tag + 2).ok_or(DropReason::TruncatedHeader)?;
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
    /// `header` is its part in the first frame, `len` its length over all frames.
    #[inline]
    fn parse(ip: &ip::Ip, header: &[u8], len: u32) -> Result<Self, DropReason> {
        match (ip.protocol, ip.src.is_v4()) {
            (proto::TCP, _) => Self::tcp(header),
            (proto::UDP, _) => Self::udp(header, len),
            (proto::SCTP, _) => Self::sctp(header),
            (proto::ICMP, true) | (proto::ICMPV6, false) => Self::icmp(ip.protocol, header),
            _ => Ok(Self::without_ports(L4::Other)),
        }
    }

    /// A fragment. The first one must contain the whole L4 header (RFC 1858 §3, RFC 7112 §5): then
    /// policy sees the same header as the receiver, however that reassembles.
    #[cold]
    fn of_fragment(ip: &ip::Ip, fragment: FragmentInfo, part: &[u8]) -> Result<Self, DropReason> {
        if fragment.offset == 0 {
            let header = part.get(ip.l4 - ip.header_len..).ok_or(DropReason::FragmentTiny)?;
            let needed = match (ip.protocol, ip.src.is_v4()) {
                (proto::TCP, _) => {
                    let offset = header.get(tcp::DATA_OFFSET).ok_or(DropReason::FragmentTiny)?;
                    (usize::from(offset >> 4) * 4).max(tcp::HEADER_LEN)
                }
                (proto::SCTP, _) => 12,
                (proto::UDP, _) | (proto::ICMP, true) | (proto::ICMPV6, false) => 8,
                _ => 0,
            };
            if header.len() < needed {
                return Err(DropReason::FragmentTiny);
            }
        }
        Ok(Self::without_ports(L4::Fragment(fragment)))
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
    fn tcp(header: &[u8]) -> Result<Self, DropReason> {
        const LEN: usize = tcp::HEADER_LEN;
        let h = header.first_chunk::<LEN>().ok_or(DropReason::TruncatedHeader)?;
        let header_len = usize::from(h[tcp::DATA_OFFSET] >> 4) * 4;
        if header_len < LEN || !flags_are_possible(h[tcp::FLAGS]) {
            return Err(DropReason::Malformed);
        }
        if header_len > header.len() {
            return Err(DropReason::TruncatedHeader);
        }
        Ok(Self {
            kind: L4::Tcp(Tcp {
                seq: be32(h, tcp::SEQ),
                ack: be32(h, tcp::ACK),
                flags: h[tcp::FLAGS],
                window: be16(h, tcp::WINDOW),
            }),
            src_port: be16(h, 0),
            dst_port: be16(h, 2),
            header_len,
        })
    }

    /// RFC 768. The datagram may end before the IP packet does (there are options by RFC 9868), but
    /// not after it.
    #[inline]
    fn udp(header: &[u8], len: u32) -> Result<Self, DropReason> {
        let h = header.first_chunk::<8>().ok_or(DropReason::TruncatedHeader)?;
        match u32::from(be16(h, udp::LEN)) {
            0..8 => Err(DropReason::Malformed),
            datagram if datagram > len => Err(DropReason::TruncatedHeader),
            _ => Ok(Self {
                kind: L4::Udp,
                src_port: be16(h, 0),
                dst_port: be16(h, 2),
                header_len: 8,
            }),
        }
    }

    /// The common header of RFC 9260 §3.1.
    fn sctp(header: &[u8]) -> Result<Self, DropReason> {
        let h = header.first_chunk::<12>().ok_or(DropReason::TruncatedHeader)?;
        Ok(Self { kind: L4::Sctp, src_port: be16(h, 0), dst_port: be16(h, 2), header_len: 12 })
    }

    /// RFC 792 and RFC 4443 §2.1: eight bytes, followed in errors by the quoted packet.
    fn icmp(protocol: u8, header: &[u8]) -> Result<Self, DropReason> {
        let h = header.first_chunk::<8>().ok_or(DropReason::TruncatedHeader)?;
        let (kind, code, identifier) = (h[0], h[1], be16(h, 4));
        let (src_port, dst_port) = icmp::ports(protocol, kind, identifier);
        let kind = match icmp::role(protocol, kind) {
            icmp::Role::Error => L4::IcmpError { kind, code },
            _ => L4::Icmp { kind, code },
        };
        Ok(Self { kind, src_port, dst_port, header_len: 8 })
    }
}

/// Reads a big-endian field of a header.
#[inline]
const fn be16<const N: usize>(header: &[u8; N], at: usize) -> u16 {
    u16::from_be_bytes([header[at], header[at + 1]])
}

/// The same with 32 bits.
#[inline]
const fn be32<const N: usize>(h: &[u8; N], at: usize) -> u32 {
    u32::from_be_bytes([h[at], h[at + 1], h[at + 2], h[at + 3]])
}

/// Whether a TCP segment with these flags is valid. The set is conntrack's
/// (`net/netfilter/nf_conntrack_proto_tcp.c`, `tcp_valid_flags`): PSH and the ECN bits may be set
/// with any others, URG with data or FIN.
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

/// The tuple of the packet that an ICMP error quotes, in that packet's direction; `None` if too
/// little of it is quoted.
///
/// Routers quote at least eight bytes of L4 (RFC 792), which contain the ports. A later fragment
/// has no ports, and no error may be about an error.
#[cold]
#[must_use]
pub fn quoted(frame0: &[u8], error: &View) -> Option<Tuple> {
    let protocol = error.tuple.protocol;
    let end = frame0.len().min(error.end as usize);
    let packet = frame0.get(usize::from(error.payload)..end)?;
    let ip = if protocol == proto::ICMP { ip::v4(packet) } else { ip::v6(packet) }.ok()?;
    if ip.fragment.is_some_and(|fragment| fragment.offset > 0) {
        return None;
    }
    let h = packet.get(ip.l4..)?.first_chunk::<8>()?;
    let (src_port, dst_port) = match ip.protocol {
        proto::TCP | proto::UDP | proto::SCTP => (be16(h, 0), be16(h, 2)),
        proto::ICMP | proto::ICMPV6 if ip.protocol == protocol => {
            match icmp::role(protocol, h[0]) {
                icmp::Role::Error => return None,
                _ => icmp::ports(protocol, h[0], be16(h, 4)),
            }
        }
        _ => (0, 0),
    };
    Some(Tuple { src: ip.src, dst: ip.dst, src_port, dst_port, protocol: ip.protocol })
}
