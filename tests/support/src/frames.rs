//! Ethernet frames as pods and the node send them.

use etherparse::{Ethernet2Header, IpHeaders, PacketBuilder, PacketBuilderStep, TcpHeader};
use podgate_dataplane::packet::HostFrame;
use podgate_tables::address::Mac;
use podgate_tables::ids::LinkId;
use podgate_tables::tcp_flags;

use crate::tables::HOST;

/// MAC address of the pod behind `link`, or of the node for the host link.
#[must_use]
pub const fn pod_mac(link: LinkId) -> Mac {
    [2, 0, 0, 0, 0, link.0 as u8]
}

/// MAC address of `link` itself: the host's end of the pair.
#[must_use]
pub const fn link_mac(link: LinkId) -> Mac {
    [2, 0, 0, 0, 1, link.0 as u8]
}

/// The Ethernet header of a frame that the pod behind `from` sends; or for the host link, of one
/// that the node itself sends.
#[must_use]
pub fn ethernet(from: LinkId) -> PacketBuilderStep<Ethernet2Header> {
    let source = if from == HOST { HostFrame::Local.mac() } else { pod_mac(from) };
    PacketBuilder::ethernet2(source, link_mac(from))
}

/// Fields of a TCP packet over IPv4.
#[derive(Clone, Copy, Debug)]
pub struct TcpPacket<'p> {
    /// Source address.
    pub src: [u8; 4],
    /// Destination address.
    pub dst: [u8; 4],
    /// Source and destination port.
    pub ports: [u16; 2],
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgment number, if the ACK flag is set.
    pub ack: Option<u32>,
    /// Other flags: any of `SFRP`.
    pub flags: &'p str,
    /// Payload.
    pub payload: &'p [u8],
}

/// Whether a frame of TCP over IPv4 without options is a reset.
#[must_use]
pub fn is_reset(frame: &[u8]) -> bool {
    frame[14 + 20 + 13] & 0x04 != 0
}

/// A TCP packet as the pod (or node) behind `from` would send it.
#[must_use]
pub fn tcp(from: LinkId, packet: &TcpPacket<'_>) -> Vec<u8> {
    let [sport, dport] = packet.ports;
    let mut step =
        ethernet(from).ipv4(packet.src, packet.dst, 64).tcp(sport, dport, packet.seq, 64_000);
    for flag in packet.flags.chars() {
        step = match flag {
            'S' => step.syn(),
            'F' => step.fin(),
            'R' => step.rst(),
            'P' => step.psh(),
            other => panic!("no flag {other}"),
        };
    }
    if let Some(ack) = packet.ack {
        step = step.ack(ack);
    }
    let mut bytes = Vec::new();
    step.write(&mut bytes, packet.payload).unwrap();
    bytes
}

/// Sets the flags of a TCP header ([`tcp_flags`]).
pub fn set_flags(tcp: &mut TcpHeader, flags: u8) {
    let has = |flag| flags & flag != 0;
    tcp.fin = has(tcp_flags::FIN);
    tcp.syn = has(tcp_flags::SYN);
    tcp.rst = has(tcp_flags::RST);
    tcp.psh = has(tcp_flags::PSH);
    tcp.ack = has(tcp_flags::ACK);
    tcp.urg = has(tcp_flags::URG);
}

/// A UDP packet as the pod (or node) behind `from` would send it.
#[must_use]
pub fn udp(from: LinkId, src: [u8; 4], dst: [u8; 4], ports: [u16; 2], payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let step = ethernet(from).ipv4(src, dst, 64).udp(ports[0], ports[1]);
    step.write(&mut bytes, payload).unwrap();
    bytes
}

/// As [`udp`], over IPv6.
#[must_use]
pub fn udp_v6(
    from: LinkId,
    src: [u8; 16],
    dst: [u8; 16],
    ports: [u16; 2],
    payload: &[u8],
) -> Vec<u8> {
    let mut bytes = Vec::new();
    let step = ethernet(from).ipv6(src, dst, 64).udp(ports[0], ports[1]);
    step.write(&mut bytes, payload).unwrap();
    bytes
}

/// An SCTP packet without chunks.
#[must_use]
pub fn sctp(from: LinkId, src: [u8; 4], dst: [u8; 4], ports: [u16; 2]) -> Vec<u8> {
    let mut header = [0; 12];
    header[..2].copy_from_slice(&ports[0].to_be_bytes());
    header[2..4].copy_from_slice(&ports[1].to_be_bytes());
    let mut bytes = Vec::new();
    let step = ethernet(from).ipv4(src, dst, 64);
    step.write(&mut bytes, etherparse::IpNumber::SCTP, &header).unwrap();
    bytes
}

/// An ICMP message of type `kind` with an identifier.
#[must_use]
pub fn echo(from: LinkId, src: [u8; 4], dst: [u8; 4], kind: u8, id: u16) -> Vec<u8> {
    let [high, low] = id.to_be_bytes();
    let mut bytes = Vec::new();
    let step = ethernet(from).ipv4(src, dst, 64).icmpv4_raw(kind, 0, [high, low, 0, 0]);
    step.write(&mut bytes, b"").unwrap();
    bytes
}

/// An ICMP "port unreachable" from `src` to `dst` that quotes `about` (an Ethernet frame).
#[must_use]
pub fn unreachable(from: LinkId, src: [u8; 4], dst: [u8; 4], about: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let kind = etherparse::icmpv4::DestUnreachableHeader::Port;
    let step = ethernet(from)
        .ipv4(src, dst, 64)
        .icmpv4(etherparse::Icmpv4Type::DestinationUnreachable(kind));
    step.write(&mut bytes, &about[14..14 + 28]).unwrap();
    bytes
}

/// Splits a frame into fragments, IP packets of at most `size` bytes.
#[must_use]
pub fn cut(frame: &[u8], id: u16, size: usize) -> Vec<Vec<u8>> {
    let (ip, rest) = IpHeaders::from_slice(&frame[14..]).unwrap();
    let body = rest.payload;
    let header = if matches!(ip, IpHeaders::Ipv4(..)) { 20 } else { 48 };
    let room = (size - header) / 8 * 8;
    let parts = body.chunks(room).enumerate();
    let fragment = |(index, part): (usize, &[u8])| {
        let (offset, more) = (index * room, (index + 1) * room < body.len());
        let mut bytes = frame[..14].to_vec();
        match ip.clone() {
            IpHeaders::Ipv4(mut header, _) => {
                header.identification = id;
                header.dont_fragment = false;
                header.more_fragments = more;
                header.fragment_offset = ((offset / 8) as u16).try_into().unwrap();
                header.total_len = 20 + part.len() as u16;
                header.header_checksum = header.calc_header_checksum();
                header.write(&mut bytes).unwrap();
            }
            IpHeaders::Ipv6(mut header, _) => {
                let next = std::mem::replace(&mut header.next_header, etherparse::IpNumber(44));
                header.payload_length = 8 + part.len() as u16;
                header.write(&mut bytes).unwrap();
                bytes.extend([next.0, 0]);
                bytes.extend((offset as u16 | u16::from(more)).to_be_bytes());
                bytes.extend(u32::from(id).to_be_bytes());
            }
        }
        bytes.extend(part);
        bytes
    };
    parts.map(fragment).collect()
}
