//! Translation of addresses and ports in place, with incremental checksums (RFC 1624).

use podgate_tables::address::Address;
use podgate_tables::proto;
use podgate_tables::tuple::Tuple;

use super::checksum::{self, Sum};
use super::offset::{ipv4, ipv6, sctp, tcp, udp};
use super::{L4, View, edit, ip};

/// Length of ports at the start of an L4 header, bytes.
const PORTS: usize = 4;
/// Length of an ICMP header, bytes.
const ICMP_HEADER: usize = 8;
/// Offset of the checksum in an ICMP header, bytes.
const ICMP_CHECKSUM: usize = 2;

/// Replaces addresses and ports of a TCP, UDP or SCTP packet by those of `to`, of the same IP
/// version. The packet is given as for [`edit::complete_checksum`].
///
/// A complete checksum stays right or wrong as it is, a partial one stays partial, and a UDP
/// datagram without checksum gets none.
pub fn translate<'a>(
    (head, tail): (&mut [u8], impl Iterator<Item = &'a [u8]>),
    view: &mut View,
    to: &Tuple,
) {
    let from = view.tuple;
    debug_assert!(from.src.is_v4() == to.src.is_v4() && from.protocol == to.protocol);
    let l4 = usize::from(view.l4);
    if view.l4_kind == L4::Sctp {
        let ports_change = (from.src_port, from.dst_port) != (to.src_port, to.dst_port);
        let header = &mut head[usize::from(view.l3)..];
        replace_addresses(header, to.src, to.dst);
        if ports_change {
            edit::with_crc32c((head, tail), view, |header| write_ports(header, to));
        }
        view.tuple = *to;
        return;
    }
    let is_partial = edit::csum_is_partial(head, view);
    replace_addresses(&mut head[usize::from(view.l3)..], to.src, to.dst);
    let header = &mut head[l4..];
    write_ports(header, to);
    view.tuple = *to;
    let (at, is_udp) = match view.l4_kind {
        L4::Udp => (udp::CHECKSUM, true),
        _ => (tcp::CHECKSUM, false),
    };
    let field = u16::from_be_bytes([header[at], header[at + 1]]);
    if field == 0 && is_udp {
        return;
    }
    let new = match is_partial {
        true => {
            let covered = edit::l4_covered(head, view);
            Sum::pseudo_header(to.src, to.dst, to.protocol, covered).folded()
        }
        false => match checksum::update(field, words_of(&from), words_of(to)) {
            // Zero would mean "no checksum" (RFC 768).
            0 if is_udp => 0xffff,
            new => new,
        },
    };
    head[l4 + at..l4 + at + 2].copy_from_slice(&new.to_be_bytes());
}

/// Replaces addresses and ports of the packet that an ICMP error quotes by those of `quoted`, and
/// the error's own addresses by those of `outer`. Checksums that the quoted part contains are
/// updated, too: its sender may compare it with what it sent (RFC 5927 §4).
///
/// The error was parsed into `view`, and [`quoted`](super::quoted()) found the tuple of what it
/// quotes.
pub fn translate_error(
    head: &mut [u8],
    view: &mut View,
    quoted: &Tuple,
    outer: (Address, Address),
) {
    let (l4, end) = (usize::from(view.l4), head.len().min(view.end as usize));
    let is_v4 = view.is_v4();
    let sum = |head: &[u8], (src, dst): (Address, Address)| {
        let mut sum = match is_v4 {
            true => Sum::default(),
            false => Sum::pseudo_header(src, dst, 0, 0),
        };
        sum.add(&head[l4 + ICMP_HEADER..end]);
        sum.folded()
    };
    let old = sum(head, (view.tuple.src, view.tuple.dst));
    translate_quoted(&mut head[l4 + ICMP_HEADER..end], quoted);
    let new = sum(head, outer);
    let at = l4 + ICMP_CHECKSUM;
    let field = u16::from_be_bytes([head[at], head[at + 1]]);
    head[at..at + 2].copy_from_slice(&checksum::update(field, old, new).to_be_bytes());
    replace_addresses(&mut head[usize::from(view.l3)..], outer.0, outer.1);
    (view.tuple.src, view.tuple.dst) = outer;
}

fn translate_quoted(packet: &mut [u8], to: &Tuple) {
    let Ok(ip) = (if to.src.is_v4() { ip::v4(packet) } else { ip::v6(packet) }) else { return };
    replace_addresses(packet, to.src, to.dst);
    let Some(header) = packet.get_mut(ip.l4..).filter(|header| header.len() >= PORTS) else {
        return;
    };
    let port = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let from = Tuple { src: ip.src, dst: ip.dst, src_port: port(0), dst_port: port(2), ..*to };
    write_ports(header, to);
    let at = match ip.protocol {
        proto::TCP => tcp::CHECKSUM,
        proto::UDP => udp::CHECKSUM,
        _ => return,
    };
    let Some(field) = header.get_mut(at..at + 2) else { return };
    let old = u16::from_be_bytes([field[0], field[1]]);
    if old == 0 && ip.protocol == proto::UDP {
        return;
    }
    let new = match checksum::update(old, words_of(&from), words_of(to)) {
        0 if ip.protocol == proto::UDP => 0xffff,
        new => new,
    };
    field.copy_from_slice(&new.to_be_bytes());
}

/// The sum of all that a translation replaces, as one word.
fn words_of(tuple: &Tuple) -> u16 {
    let ports = u32::from(tuple.src_port) + u32::from(tuple.dst_port);
    Sum::pseudo_header(tuple.src, tuple.dst, 0, ports).folded()
}

fn write_ports(l4: &mut [u8], to: &Tuple) {
    l4[..2].copy_from_slice(&to.src_port.to_be_bytes());
    l4[2..4].copy_from_slice(&to.dst_port.to_be_bytes());
}

/// Replaces the addresses in an IP header, and updates the checksum of IPv4.
fn replace_addresses(header: &mut [u8], src: Address, dst: Address) {
    let (Some(src), Some(dst)) = (src.as_v4_bits(), dst.as_v4_bits()) else {
        header[ipv6::SRC..ipv6::SRC + 16].copy_from_slice(&src.bits().to_be_bytes());
        header[ipv6::DST..ipv6::DST + 16].copy_from_slice(&dst.bits().to_be_bytes());
        return;
    };
    let sum = |header: &[u8]| {
        let mut sum = Sum::default();
        sum.add(&header[ipv4::SRC..ipv4::DST + 4]);
        sum.folded()
    };
    let old = sum(header);
    header[ipv4::SRC..ipv4::SRC + 4].copy_from_slice(&src.to_be_bytes());
    header[ipv4::DST..ipv4::DST + 4].copy_from_slice(&dst.to_be_bytes());
    let new = sum(header);
    let at = ipv4::CHECKSUM;
    let field = u16::from_be_bytes([header[at], header[at + 1]]);
    header[at..at + 2].copy_from_slice(&checksum::update(field, old, new).to_be_bytes());
}

const _: () = assert!(sctp::CHECKSUM >= PORTS);

#[cfg(test)]
mod tests {
    use etherparse::{IpHeaders, IpNumber, PacketBuilder, PacketBuilderStep};
    use proptest::prelude::*;

    use super::super::fast::{End, EndTranslation, EndV4, FastHeaders, SourceFilter};
    use super::super::icmp_error::{self, IcmpError};
    use super::super::{parse, quoted};
    use super::*;

    fn builder(tuple: &Tuple) -> PacketBuilderStep<IpHeaders> {
        let ethernet = PacketBuilder::ethernet2([2; 6], [4; 6]);
        match tuple.src.is_v4() {
            true => {
                let [src, dst] = [tuple.src, tuple.dst].map(|a| (a.bits() as u32).to_be_bytes());
                let header = etherparse::Ipv4Header::new(0, 64, IpNumber(0), src, dst).unwrap();
                ethernet.ip(IpHeaders::Ipv4(header, etherparse::Ipv4Extensions::default()))
            }
            false => {
                let [source, destination] = [tuple.src, tuple.dst].map(|a| a.bits().to_be_bytes());
                let header = etherparse::Ipv6Header {
                    hop_limit: 64,
                    source,
                    destination,
                    ..etherparse::Ipv6Header::default()
                };
                ethernet.ip(IpHeaders::Ipv6(header, etherparse::Ipv6Extensions::default()))
            }
        }
    }

    /// A packet with right checksums.
    fn packet(tuple: &Tuple, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let builder = builder(tuple);
        match tuple.protocol {
            proto::TCP => builder
                .tcp(tuple.src_port, tuple.dst_port, 7, 1000)
                .ack(9)
                .write(&mut bytes, payload)
                .unwrap(),
            proto::UDP => {
                builder.udp(tuple.src_port, tuple.dst_port).write(&mut bytes, payload).unwrap();
            }
            _ => {
                let mut sctp = vec![0; 12];
                write_ports(&mut sctp, tuple);
                sctp.extend(payload);
                let crc = crc32c::crc32c(&sctp);
                sctp[sctp::CHECKSUM..12].copy_from_slice(&crc.to_le_bytes());
                builder.write(&mut bytes, IpNumber(proto::SCTP), &sctp).unwrap();
            }
        }
        bytes
    }

    fn translated(packet: &[u8], to: &Tuple) -> Vec<u8> {
        let mut bytes = packet.to_vec();
        let mut view = parse(&bytes, bytes.len() as u32).unwrap();
        translate((&mut bytes, std::iter::empty()), &mut view, to);
        assert_eq!(parse(&bytes, bytes.len() as u32).unwrap(), view);
        bytes
    }

    fn any_tuples() -> impl Strategy<Value = (Tuple, Tuple)> {
        let end = || (1..255_u8, any::<u64>(), 1..u16::MAX);
        let protocol = prop::sample::select(vec![proto::TCP, proto::UDP, proto::SCTP]);
        (any::<bool>(), protocol, [end(), end(), end(), end()]).prop_map(|(v4, protocol, ends)| {
            let address = |(last, more, _): &(u8, u64, u16)| match v4 {
                true => Address::v4([10, *more as u8, (*more >> 8) as u8, *last]),
                false => {
                    Address::from_bits(0xfd << 120 | u128::from(*more) << 8 | u128::from(*last))
                }
            };
            let of = |src: usize, dst: usize| Tuple {
                src: address(&ends[src]),
                dst: address(&ends[dst]),
                src_port: ends[src].2,
                dst_port: ends[dst].2,
                protocol,
            };
            (of(0, 1), of(2, 3))
        })
    }

    proptest! {
        #[test]
        fn a_translated_packet_is_as_if_built_so(
            (from, to) in any_tuples(),
            payload in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            prop_assert_eq!(translated(&packet(&from, &payload), &to), packet(&to, &payload));
        }

        /// A partial checksum is completed later, a wrong one stays wrong.
        #[test]
        fn partial_and_wrong_checksums_stay_so(
            (from, to) in any_tuples(),
            payload in prop::collection::vec(any::<u8>(), 0..100),
            error in 1..u16::MAX,
        ) {
            let right = packet(&to, &payload);
            let mut bytes = packet(&from, &payload);
            let view = parse(&bytes, bytes.len() as u32).unwrap();
            let at = usize::from(view.l4) + match from.protocol {
                proto::TCP => tcp::CHECKSUM,
                proto::UDP => udp::CHECKSUM,
                _ => sctp::CHECKSUM,
            };
            let len = view.end - u32::from(view.l4);
            let partial = match from.protocol {
                proto::SCTP => 0,
                _ => Sum::pseudo_header(from.src, from.dst, from.protocol, len).folded(),
            };
            bytes[at..at + 2].copy_from_slice(&partial.to_be_bytes());
            if from.protocol == proto::SCTP {
                bytes[at + 2..at + 4].fill(0);
            }
            let mut partial = translated(&bytes, &to);
            let view = parse(&partial, partial.len() as u32).unwrap();
            prop_assert!(edit::complete_checksum((&mut partial, std::iter::empty()), &view));
            prop_assert_eq!(&partial, &right);
            let mut wrong = packet(&from, &payload);
            let field = u16::from_be_bytes([wrong[at], wrong[at + 1]]) ^ error;
            wrong[at..at + 2].copy_from_slice(&field.to_be_bytes());
            prop_assert_ne!(&translated(&wrong, &to), &right);
        }

        /// The fast path's translation of one end writes the same bytes.
        #[test]
        fn one_end_is_translated_as_on_the_slow_path(
            (from, to) in any_tuples(),
            is_source: bool,
            payload in prop::collection::vec(any::<u8>(), 0..100),
            l4_checksum in prop::option::of(any::<u16>()),
            is_partial: bool,
        ) {
            prop_assume!(from.src.is_v4() && from.protocol != proto::SCTP);
            let mut bytes = packet(&from, &payload);
            let mut view = parse(&bytes, bytes.len() as u32).unwrap();
            let at = usize::from(view.l4) + match from.protocol {
                proto::TCP => tcp::CHECKSUM,
                _ => udp::CHECKSUM,
            };
            let covered = view.end - u32::from(view.l4);
            let partial = Sum::pseudo_header(from.src, from.dst, from.protocol, covered).folded();
            if let Some(field) = if is_partial { Some(partial) } else { l4_checksum } {
                bytes[at..at + 2].copy_from_slice(&field.to_be_bytes());
            }
            let csum_partial = edit::csum_is_partial(&bytes, &view);
            let (end, to, ends) = match is_source {
                true => {
                    let to = Tuple { src: to.src, src_port: to.src_port, ..from };
                    (End::Source, to, [(from.src, from.src_port), (to.src, to.src_port)])
                }
                false => {
                    let to = Tuple { dst: to.dst, dst_port: to.dst_port, ..from };
                    (End::Destination, to, [(from.dst, from.dst_port), (to.dst, to.dst_port)])
                }
            };
            let ends = ends.map(|(address, port)| EndV4::new(address, port).unwrap());
            let read = FastHeaders::read(&bytes, SourceFilter::ANY).unwrap().eligible.unwrap();
            let translation = EndTranslation::new(&read, end, ends, csum_partial);
            let mut expected = bytes.clone();
            translate((&mut expected, std::iter::empty()), &mut view, &to);
            translation.write(&mut bytes);
            prop_assert_eq!(&bytes, &expected);
            let again = FastHeaders::read(&bytes, SourceFilter::ANY).unwrap().eligible.unwrap();
            prop_assert_eq!(again.ttl_word, translation.ttl_word());
        }

        #[test]
        fn an_error_about_a_translated_packet_is_as_if_about_the_original(
            (from, to) in any_tuples(),
            payload in prop::collection::vec(any::<u8>(), 0..900),
        ) {
            let error = |about: &Tuple| {
                let packet = packet(about, &payload);
                let view = parse(&packet, packet.len() as u32).unwrap();
                let mut error = vec![0; icmp_error::FRAME_MAX];
                let kind = IcmpError::TooBig(1400);
                let len = icmp_error::write(&mut error, kind, about.dst, &view, &packet);
                error.truncate(len);
                error
            };
            let mut bytes = error(&to);
            let mut view = parse(&bytes, bytes.len() as u32).unwrap();
            prop_assert_eq!(quoted(&bytes, &view), Some(to));
            translate_error(&mut bytes, &mut view, &from, (from.dst, from.src));
            prop_assert_eq!(parse(&bytes, bytes.len() as u32).unwrap(), view);
            prop_assert_eq!(quoted(&bytes, &view), Some(from));
            let mut expected = error(&from);
            if from.protocol == proto::SCTP {
                // Most of the packet is not quoted, so its CRC32c can't be recomputed.
                let at = usize::from(view.payload) + if view.is_v4() { 20 } else { 40 };
                let crc = at + sctp::CHECKSUM..at + sctp::CHECKSUM + 4;
                for bytes in [&mut bytes, &mut expected] {
                    bytes[crc.clone()].fill(0);
                    bytes[usize::from(view.l4) + 2..usize::from(view.l4) + 4].fill(0);
                }
            }
            prop_assert_eq!(bytes, expected);
        }
    }

    #[test]
    fn a_datagram_without_checksum_gets_none() {
        let tuple = |last| Tuple {
            src: Address::v4([10, 0, 0, 1]),
            dst: Address::v4([10, 0, 0, last]),
            src_port: 5000,
            dst_port: 53,
            protocol: proto::UDP,
        };
        let mut bytes = packet(&tuple(2), b"query");
        let at = 14 + 20 + udp::CHECKSUM;
        bytes[at..at + 2].fill(0);
        let bytes = translated(&bytes, &tuple(3));
        assert_eq!(bytes[at..at + 2], [0, 0]);
    }
}
