//! What is known of a packet whose headers can't be parsed.

use podgate_tables::address::Address;
use podgate_tables::event::Ethernet;
use podgate_tables::proto;
use podgate_tables::tuple::Tuple;

use super::offset::{ipv4, ipv6};
use super::parse::{Version, network_layer};

/// What is known of a packet that [`parse`](super::parse()) returns an error for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Unparsed {
    /// Zeros if the frame is too short.
    pub(crate) ethernet: Ethernet,
    /// Addresses and protocol of an IP header, and ports where the offset of the L4 header is
    /// beyond doubt. `None` without a whole IP header.
    pub(crate) tuple: Option<Tuple>,
}

impl Unparsed {
    /// Reads the first frame of a packet.
    #[cold]
    pub(crate) fn of(frame: &[u8]) -> Self {
        let field = |at: usize| frame.get(at..)?.first_chunk::<6>().copied();
        let ethernet = field(0).zip(field(6));
        let ethernet = ethernet.map(|(destination, source)| Ethernet { source, destination });
        let tuple = network_layer(frame).ok().and_then(|(l3, version)| {
            let packet = &frame[l3..];
            match version {
                Version::V4 => v4(packet),
                Version::V6 => v6(packet),
            }
        });
        Self { ethernet: ethernet.unwrap_or_default(), tuple }
    }
}

fn v4(packet: &[u8]) -> Option<Tuple> {
    let header = packet.first_chunk::<{ ipv4::HEADER_LEN }>()?;
    let address = |at: usize| header[at..].first_chunk::<4>().copied().map(Address::v4);
    let (src, dst) = (address(ipv4::SRC)?, address(ipv4::DST)?);
    let protocol = header[ipv4::PROTOCOL];
    // Version 4 without options, and no fragment.
    let [flags, offset] = [header[ipv4::FRAGMENT], header[ipv4::FRAGMENT + 1]];
    let is_plain = header[ipv4::VERSION_IHL] == 0x45 && flags & 0x3f == 0 && offset == 0;
    let l4 = if is_plain { &packet[ipv4::HEADER_LEN..] } else { &[] };
    (header[ipv4::VERSION_IHL] >> 4 == 4).then(|| tuple(src, dst, protocol, l4))
}

fn v6(packet: &[u8]) -> Option<Tuple> {
    let header = packet.first_chunk::<{ ipv6::HEADER_LEN }>()?;
    let address = |at: usize| header[at..].first_chunk::<16>().copied().map(Address::v6);
    // A mapped address is not the IPv4 address that it would be taken for.
    let address = |at: usize| address(at).filter(|address| !address.is_v4());
    let (src, dst) = (address(ipv6::SRC)?, address(ipv6::DST)?);
    let l4 = &packet[ipv6::HEADER_LEN..];
    (header[0] >> 4 == 6).then(|| tuple(src, dst, header[ipv6::NEXT_HEADER], l4))
}

fn tuple(src: Address, dst: Address, protocol: u8, l4: &[u8]) -> Tuple {
    let ports = match (protocol, l4) {
        (proto::TCP | proto::UDP | proto::SCTP, [s0, s1, d0, d1, ..]) => {
            [[*s0, *s1], [*d0, *d1]].map(u16::from_be_bytes)
        }
        _ => [0, 0],
    };
    Tuple { src, dst, protocol, src_port: ports[0], dst_port: ports[1] }
}
