//! Parsing and editing, compared with packets that etherparse built.

use etherparse::{
    Icmpv4Type, Icmpv6Type, IpAuthHeader, IpHeaders, IpNumber, Ipv4Extensions, Ipv4Header,
    Ipv4Options, Ipv6Extensions, Ipv6Header, Ipv6RawExtHeader, Ipv6RoutingExtensions,
    PacketBuilder, TcpHeader, VlanHeader, VlanId,
};
use podgate_tables::address::Address;
use podgate_tables::drop_reason::DropReason;
use podgate_tables::proto;
use podgate_tables::tuple::Tuple;
use proptest::prelude::*;
use std::iter;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::fast::{FastHeaders, SourceFilter, Ttl};
use super::*;

/// Bytes of a packet in each of its frames.
const RECEIVE_BYTES: usize = 4096 - 256;
const POD_MAC: Mac = [2, 0, 0, 0, 0, 1];
const HOST_MAC: Mac = [2, 0, 0, 0, 0, 2];

/// A packet and the view that it must parse to.
#[derive(Clone, Debug)]
struct Sample {
    bytes: Vec<u8>,
    view: View,
}

#[derive(Clone, Debug)]
enum Segment {
    Tcp { header: TcpHeader, flags: u8 },
    Udp { ports: (u16, u16) },
    Echo { reply: bool, id: u16 },
}

fn build(vlans: usize, ip: IpHeaders, segment: &Segment, payload: &[u8]) -> Sample {
    let (src, dst, ttl, v4) = match &ip {
        IpHeaders::Ipv4(h, _) => {
            (Address::v4(h.source), Address::v4(h.destination), h.time_to_live, true)
        }
        IpHeaders::Ipv6(h, _) => {
            (Address::v6(h.source), Address::v6(h.destination), h.hop_limit, false)
        }
    };
    let l3 = 14 + 4 * vlans;
    let l4 = l3 + ip.header_len();
    let link = PacketBuilder::ethernet2(POD_MAC, HOST_MAC);
    // A tag that gives a priority and names no VLAN.
    let id = VlanId::ZERO;
    let net = match vlans {
        0 => link.ip(ip),
        1 => link.single_vlan(id).ip(ip),
        _ => link.vlan(double_tag(id)).ip(ip),
    };
    let mut bytes = Vec::new();
    let (protocol, ports, header_len, kind) = match segment {
        Segment::Tcp { header, flags } => {
            net.tcp_header(header.clone()).write(&mut bytes, payload).unwrap();
            let tcp = Tcp {
                seq: header.sequence_number,
                ack: header.acknowledgment_number,
                flags: *flags,
                window: header.window_size,
            };
            let ports = (header.source_port, header.destination_port);
            (proto::TCP, ports, header.header_len(), L4::Tcp(tcp))
        }
        Segment::Udp { ports } => {
            net.udp(ports.0, ports.1).write(&mut bytes, payload).unwrap();
            (proto::UDP, *ports, 8, L4::Udp)
        }
        Segment::Echo { reply, id } => {
            let echo = etherparse::IcmpEchoHeader { id: *id, seq: 1 };
            let (protocol, query, kind) = match (v4, reply) {
                (true, false) => (proto::ICMP, 8, 8),
                (true, true) => (proto::ICMP, 8, 0),
                (false, false) => (proto::ICMPV6, 128, 128),
                (false, true) => (proto::ICMPV6, 128, 129),
            };
            match (v4, reply) {
                (true, false) => {
                    net.icmpv4(Icmpv4Type::EchoRequest(echo)).write(&mut bytes, payload)
                }
                (true, true) => net.icmpv4(Icmpv4Type::EchoReply(echo)).write(&mut bytes, payload),
                (false, false) => {
                    net.icmpv6(Icmpv6Type::EchoRequest(echo)).write(&mut bytes, payload)
                }
                (false, true) => net.icmpv6(Icmpv6Type::EchoReply(echo)).write(&mut bytes, payload),
            }
            .unwrap();
            let ports = if *reply { (query, *id) } else { (*id, query) };
            (protocol, ports, 8, L4::Icmp { kind, code: 0 })
        }
    };
    let view = View {
        eth_src: POD_MAC,
        eth_dst: HOST_MAC,
        l3: l3 as u16,
        l4: l4 as u16,
        payload: (l4 + header_len) as u16,
        end: bytes.len() as u32,
        ttl,
        tuple: Tuple { src, dst, src_port: ports.0, dst_port: ports.1, protocol },
        l4_kind: kind,
    };
    Sample { bytes, view }
}

fn double_tag(id: VlanId) -> VlanHeader {
    let tag = |ether_type| etherparse::SingleVlanHeader {
        pcp: etherparse::VlanPcp::ZERO,
        drop_eligible_indicator: false,
        vlan_id: id,
        ether_type,
    };
    VlanHeader::Double(etherparse::DoubleVlanHeader {
        outer: tag(etherparse::EtherType::VLAN_TAGGED_FRAME),
        inner: tag(etherparse::EtherType::IPV4),
    })
}

fn any_v4() -> impl Strategy<Value = IpHeaders> {
    let address = || (1u8..=126, any::<[u8; 3]>()).prop_map(|(a, b)| [a, b[0], b[1], b[2]]);
    // Padding and timestamps (68), the options that a packet may carry and pass.
    let options = (0usize..=9, any::<bool>()).prop_map(|(words, stamp)| {
        let mut options = vec![1u8; words * 4];
        if stamp && words > 0 {
            options[0] = 68;
            options[1] = (words * 4) as u8;
        }
        Ipv4Options::try_from(&options[..]).unwrap()
    });
    (address(), address(), any::<u8>(), options).prop_map(|(src, dst, ttl, options)| {
        let mut header = Ipv4Header::new(0, ttl, IpNumber::TCP, src, dst).unwrap();
        header.options = options;
        IpHeaders::Ipv4(header, Ipv4Extensions::default())
    })
}

fn any_v6() -> impl Strategy<Value = IpHeaders> {
    let address = || {
        any::<[u8; 15]>().prop_map(|low| {
            let mut address = [0x20; 16];
            address[1..].copy_from_slice(&low);
            address
        })
    };
    // PadN over the whole of it.
    let options = || {
        (0usize..4).prop_map(|words| {
            let mut body = vec![0; 6 + 8 * words];
            (body[0], body[1]) = (1, (body.len() - 2) as u8);
            Ipv6RawExtHeader::new_raw(IpNumber::TCP, &body).unwrap()
        })
    };
    // Type 4 (segment routing) with no segments left.
    let routing = Ipv6RawExtHeader::new_raw(IpNumber::TCP, &[4, 0, 0, 0, 0, 0]).unwrap();
    let extensions = (
        prop::option::of(options()),
        prop::option::of(options()),
        prop::option::of(prop::option::of(options())),
        any::<bool>(),
    )
        .prop_map(move |(hop_by_hop_options, destination_options, routed, auth)| Ipv6Extensions {
            hop_by_hop_options,
            destination_options,
            routing: routed.map(|final_destination_options| Ipv6RoutingExtensions {
                routing: routing.clone(),
                final_destination_options,
            }),
            fragment: None,
            auth: auth.then(|| IpAuthHeader::new(IpNumber::TCP, 1, 2, &[3; 12]).unwrap()),
        });
    (address(), address(), any::<u8>(), extensions).prop_map(|(source, destination, ttl, exts)| {
        let header = Ipv6Header { source, destination, hop_limit: ttl, ..Default::default() };
        IpHeaders::Ipv6(header, exts)
    })
}

fn any_segment() -> impl Strategy<Value = Segment> {
    use tcp_flags::{ACK, FIN, PSH, RST, SYN, URG};
    const FLAGS: [u8; 9] =
        [SYN, SYN | ACK, ACK, ACK | PSH, FIN | ACK, FIN | ACK | PSH, RST, RST | ACK, ACK | URG];
    let tcp = (any::<[u16; 3]>(), any::<[u32; 2]>(), prop::sample::select(&FLAGS[..]), 0usize..=10)
        .prop_map(|([src, dst, window], [seq, ack], flags, option_words)| {
            let mut header = TcpHeader::new(src, dst, seq, window);
            header.acknowledgment_number = ack;
            header.fin = flags & FIN != 0;
            header.syn = flags & SYN != 0;
            header.rst = flags & RST != 0;
            header.psh = flags & PSH != 0;
            header.ack = flags & ACK != 0;
            header.urg = flags & URG != 0;
            header.set_options_raw(&vec![1; option_words * 4]).unwrap();
            Segment::Tcp { header, flags }
        });
    prop_oneof![
        tcp,
        any::<(u16, u16)>().prop_map(|ports| Segment::Udp { ports }),
        any::<(bool, u16)>().prop_map(|(reply, id)| Segment::Echo { reply, id }),
    ]
}

fn any_sample() -> impl Strategy<Value = Sample> {
    let payload = proptest::collection::vec(any::<u8>(), 0..100);
    (0usize..=2, prop_oneof![any_v4(), any_v6()], any_segment(), payload)
        .prop_map(|(vlans, ip, segment, payload)| build(vlans, ip, &segment, &payload))
}

fn assert_inside(view: &View, frame: &[u8], packet_len: u32) {
    let (l3, l4, payload) = (usize::from(view.l3), usize::from(view.l4), usize::from(view.payload));
    assert!(14 <= l3 && l3 + 20 <= l4 && l4 <= payload && payload <= frame.len());
    assert!(view.end <= packet_len && payload <= view.end as usize);
    assert_eq!(view.ip_len() as usize, view.end as usize - l3);
    assert_eq!(view.is_v4(), frame[l3] >> 4 == 4);
}

proptest! {
    #[test]
    fn a_built_packet_parses_to_what_it_was_built_of(sample in any_sample()) {
        prop_assert_eq!(parse(&sample.bytes, sample.bytes.len() as u32), Ok(sample.view));
    }

    #[test]
    fn ethernet_padding_is_not_part_of_the_packet(sample in any_sample(), padding in 1usize..50) {
        let mut bytes = sample.bytes;
        bytes.resize(bytes.len() + padding, 0xff);
        prop_assert_eq!(parse(&bytes, bytes.len() as u32), Ok(sample.view));
    }

    #[test]
    fn payload_may_continue_in_further_frames_but_headers_may_not(sample in any_sample()) {
        for cut in 0..=sample.bytes.len() {
            let parsed = parse(&sample.bytes[..cut], sample.bytes.len() as u32);
            if cut >= usize::from(sample.view.payload) {
                prop_assert_eq!(parsed, Ok(sample.view));
            } else {
                prop_assert_eq!(parsed, Err(DropReason::TruncatedHeader), "cut at {}", cut);
            }
        }
    }

    #[test]
    fn a_packet_cut_off_anywhere_is_truncated(sample in any_sample()) {
        for cut in 0..sample.bytes.len() {
            let parsed = parse(&sample.bytes[..cut], cut as u32);
            prop_assert_eq!(parsed, Err(DropReason::TruncatedHeader), "cut at {}", cut);
        }
    }

    #[test]
    fn offsets_from_random_bytes_are_in_bounds(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
        ethertype in prop::sample::select(&[0x0800u16, 0x86dd, 0x8100, 0x88a8, 0][..]),
        more in 0u32..100_000,
    ) {
        if bytes.len() > 14 && ethertype != 0 {
            bytes[12..14].copy_from_slice(&ethertype.to_be_bytes());
        }
        let packet_len = bytes.len() as u32 + more;
        if let Ok(view) = parse(&bytes, packet_len) {
            assert_inside(&view, &bytes, packet_len);
        }
    }

    #[test]
    fn offsets_from_mutated_packets_are_in_bounds(
        sample in any_sample(),
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        right_sum in any::<bool>(),
    ) {
        let mut bytes = sample.bytes;
        // The payload is not parsed, so only headers are mutated.
        let headers = usize::from(sample.view.payload);
        for (at, value) in flips {
            bytes[12 + at.index(headers - 12)] = value;
        }
        if right_sum && sample.view.is_v4() {
            // The header checksum is right, as from a sender who computes it for the mutated
            // header.
            write_header_checksum(&mut bytes, usize::from(sample.view.l3));
        }
        for cut in 0..=bytes.len() {
            for packet_len in [cut as u32, bytes.len() as u32] {
                if let Ok(view) = parse(&bytes[..cut], packet_len) {
                    assert_inside(&view, &bytes[..cut], packet_len);
                }
            }
        }
    }

    #[test]
    fn a_wrong_ipv4_header_checksum_is_malformed(sample in any_sample(), error in 1u16..0xffff) {
        if !sample.view.is_v4() {
            return Ok(());
        }
        let mut bytes = sample.bytes;
        let at = usize::from(sample.view.l3) + 10;
        let sum = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        bytes[at..at + 2].copy_from_slice(&sum.wrapping_add(error).to_be_bytes());
        // The two zeros of ones' complement are the same checksum.
        prop_assume!(checksum::of(&bytes[at - 10..usize::from(sample.view.l4)]) != 0);
        prop_assert_eq!(parse(&bytes, bytes.len() as u32), Err(DropReason::Malformed));
    }

    #[test]
    fn an_icmp_error_yields_the_tuple_of_the_quoted_packet(
        inner in any_sample(), kept in any::<prop::sample::Index>(),
    ) {
        let view = inner.view;
        let quote = &inner.bytes[usize::from(view.l3)..];
        let ports_end = usize::from(view.l4 - view.l3) + 8;
        let kept = kept.index(quote.len() + 1);
        let outer = icmp_error(view.is_v4(), &quote[..kept]);
        let parsed = parse(&outer, outer.len() as u32).unwrap();
        let is_error = matches!(parsed.l4_kind, L4::IcmpError { .. });
        prop_assert!(is_error);
        prop_assert_eq!(quoted(&outer, &parsed), (kept >= ports_end).then_some(view.tuple));
    }

    #[test]
    fn decrementing_the_ttl_keeps_the_packet_valid(sample in any_sample()) {
        let mut bytes = sample.bytes.clone();
        let hopped = edit::decrement_ttl(&mut bytes, &sample.view);
        if sample.view.ttl <= 1 {
            prop_assert_eq!(hopped, Err(DropReason::TtlExceeded));
            prop_assert_eq!(bytes, sample.bytes);
        } else {
            prop_assert_eq!(hopped, Ok(()));
            let expected = View { ttl: sample.view.ttl - 1, ..sample.view };
            prop_assert_eq!(parse(&bytes, bytes.len() as u32), Ok(expected));
        }
    }

    #[test]
    fn a_partial_checksum_is_completed_once_over_any_split(
        sample in any_sample(), split in any::<prop::sample::Index>(), padding in 0usize..3,
    ) {
        let Some(at) = checksum_field(&sample.view) else { return Ok(()) };
        let view = sample.view;
        let mut bytes = sample.bytes.clone();
        let covered = view.end - u32::from(view.l4);
        let tuple = view.tuple;
        let pseudo = checksum::Sum::pseudo_header(tuple.src, tuple.dst, tuple.protocol, covered);
        bytes[at..at + 2].copy_from_slice(&pseudo.folded().to_be_bytes());
        bytes.resize(bytes.len() + padding, 0xff);

        let headers = usize::from(view.payload);
        let first = headers + split.index(bytes.len() - headers + 1);
        let second = first + split.index(bytes.len() - first + 1);
        let (head, rest) = bytes.split_at_mut(first);
        let tail = [&rest[..second - first], &rest[second - first..]];
        prop_assert!(edit::complete_checksum((head, tail.into_iter()), &view));
        prop_assert!(edit::l4_checksum_is_right((head, tail.into_iter()), &view));
        if sample.bytes[at..at + 2] != pseudo.folded().to_be_bytes() {
            let again = edit::complete_checksum((head, tail.into_iter()), &view);
            prop_assert!(!again, "completed twice");
        }
        prop_assert_eq!(&bytes[..view.end as usize], &sample.bytes[..]);
    }

    #[test]
    fn fast_headers_agree_with_the_parser(
        sample in any_sample(), changes in prop::collection::vec((0usize..64, any::<u8>()), 0..4),
        cut in 0usize..40, mend in any::<bool>(),
    ) {
        let mut bytes = sample.bytes;
        for (at, value) in changes {
            bytes.get_mut(at).into_iter().for_each(|byte| *byte = value);
        }
        if mend {
            write_header_checksum(&mut bytes, 14);
        }
        bytes.truncate(bytes.len() - cut.min(bytes.len()));
        let fast = FastHeaders::read(&bytes, SourceFilter::ANY);
        let Some(FastHeaders { addresses, ports, protocol, eligible: Some(packet) }) = fast else {
            return Ok(());
        };
        let [a, b, c, d, e, f, g, h] = addresses.to_le_bytes();
        let (src, dst) = (Address::v4([a, b, c, d]), Address::v4([e, f, g, h]));
        let [src_port, dst_port] = [ports as u16, (ports >> 16) as u16].map(u16::swap_bytes);
        let view = match parse(&bytes, bytes.len() as u32) {
            Ok(view) => view,
            // Addresses are the only thing that the fast path doesn't check.
            Err(reason) => {
                prop_assert_eq!(reason, DropReason::Malformed);
                prop_assert!(podgate_tables::address::is_martian(src, dst));
                return Ok(());
            }
        };
        prop_assert_eq!(view.tuple, Tuple { src, dst, src_port, dst_port, protocol });
        let read = |source| FastHeaders::read(&bytes, source);
        prop_assert_eq!(read(SourceFilter::exactly(view.eth_src)), fast);
        prop_assert_eq!(read(SourceFilter::exactly([4; 6])), None);
        prop_assert_eq!(read(SourceFilter::NONE), None);
        prop_assert_eq!((view.ttl, view.ip_len()), (packet.ttl_word.ttl(), packet.ip_len.into()));
        prop_assert_eq!((view.l3, view.l4), (14, 34));
        match view.l4_kind {
            L4::Tcp(segment) => {
                prop_assert!(segment.has(tcp_flags::ACK));
                prop_assert!(!(segment.has(tcp_flags::SYN) || segment.has(tcp_flags::FIN)));
                prop_assert!(!segment.has(tcp_flags::RST));
            }
            kind => prop_assert_eq!(kind, L4::Udp),
        }
        // Both paths find the same checksum, and rewrite the packet alike.
        let flow = checksum::Sum::of_flow(src, dst, protocol);
        let partial = checksum::is_pseudo_header(packet.checksum, flow, packet.l4_len());
        let mut completed = bytes.clone();
        prop_assert_eq!(
            edit::complete_checksum((&mut completed, iter::empty()), &view), partial
        );
        if view.ttl > 1 {
            let mut slow_path = bytes.clone();
            edit::decrement_ttl(&mut slow_path, &view).unwrap();
            edit::set_macs(&mut slow_path, HOST_MAC, POD_MAC);
            packet.ttl_word.rewrite(&mut bytes, HOST_MAC, POD_MAC, Ttl::Decrement);
            prop_assert_eq!(bytes, slow_path);
        }
    }

    #[test]
    fn a_changed_payload_byte_invalidates_the_checksum(
        sample in any_sample(), at in any::<prop::sample::Index>(), change in 1u8..0xff,
    ) {
        let view = sample.view;
        if checksum_field(&view).is_none() || view.payload_len() == 0 {
            return Ok(());
        }
        let mut bytes = sample.bytes;
        prop_assert!(checksum_is_right(&bytes, &view));
        let at = usize::from(view.payload) + at.index(view.payload_len() as usize);
        bytes[at] ^= change;
        prop_assert!(!checksum_is_right(&bytes, &view));
    }
}

/// Of a packet of one frame.
fn checksum_is_right(bytes: &[u8], view: &View) -> bool {
    edit::l4_checksum_is_right((bytes, iter::empty()), view)
}

fn write_header_checksum(bytes: &mut [u8], l3: usize) {
    let header_len = usize::from(bytes[l3] & 0x0f) * 4;
    if let Some(header) = bytes.get_mut(l3..l3 + header_len).filter(|h| h.len() >= 20) {
        header[10..12].fill(0);
        let sum = checksum::of(header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}

fn icmp_error(v4: bool, quote: &[u8]) -> Vec<u8> {
    let link = PacketBuilder::ethernet2(POD_MAC, HOST_MAC);
    let mut bytes = Vec::new();
    if v4 {
        link.ipv4([192, 0, 2, 1], [192, 0, 2, 2], 64)
            .icmpv4_raw(3, 4, [0; 4])
            .write(&mut bytes, quote)
    } else {
        link.ipv6([0x20; 16], [0x21; 16], 64).icmpv6_raw(2, 0, [0; 4]).write(&mut bytes, quote)
    }
    .unwrap();
    bytes
}

fn checksum_field(view: &View) -> Option<usize> {
    match view.l4_kind {
        L4::Tcp(_) => Some(usize::from(view.l4) + 16),
        L4::Udp => Some(usize::from(view.l4) + 6),
        _ => None,
    }
}

fn v4(src: [u8; 4], dst: [u8; 4]) -> IpHeaders {
    IpHeaders::Ipv4(
        Ipv4Header::new(0, 64, IpNumber::UDP, src, dst).unwrap(),
        Ipv4Extensions::default(),
    )
}

fn v6(source: Ipv6Addr, destination: Ipv6Addr) -> IpHeaders {
    let header = Ipv6Header {
        source: source.octets(),
        destination: destination.octets(),
        hop_limit: 64,
        ..Default::default()
    };
    IpHeaders::Ipv6(header, Ipv6Extensions::default())
}

fn udp(ip: IpHeaders) -> Sample {
    build(0, ip, &Segment::Udp { ports: (1000, 53) }, b"hello")
}

#[test]
fn martian_addresses_are_malformed() {
    let good = [192, 0, 2, 1];
    for bad in
        [[0, 0, 0, 0], [0, 1, 2, 3], [127, 0, 0, 1], [224, 0, 0, 1], [239, 1, 1, 1], [255; 4]]
    {
        let bytes = udp(v4(bad, good)).bytes;
        assert_eq!(parse(&bytes, bytes.len() as u32), Err(DropReason::Malformed), "src {bad:?}");
    }
    for bad in [[0, 0, 0, 0], [127, 8, 8, 8]] {
        let bytes = udp(v4(good, bad)).bytes;
        assert_eq!(parse(&bytes, bytes.len() as u32), Err(DropReason::Malformed), "dst {bad:?}");
    }
    let good = "2001:db8::1".parse().unwrap();
    for bad in ["::", "::1", "ff02::1", "::ffff:192.0.2.1"] {
        let bytes = udp(v6(bad.parse().unwrap(), good)).bytes;
        assert_eq!(parse(&bytes, bytes.len() as u32), Err(DropReason::Malformed), "src {bad}");
    }
    for bad in ["::", "::1", "::ffff:192.0.2.1"] {
        let bytes = udp(v6(good, bad.parse().unwrap())).bytes;
        assert_eq!(parse(&bytes, bytes.len() as u32), Err(DropReason::Malformed), "dst {bad}");
    }
}

#[test]
fn multicast_and_class_e_destinations_are_left_to_policy() {
    for dst in [Ipv4Addr::new(224, 0, 0, 251), Ipv4Addr::BROADCAST, Ipv4Addr::new(240, 0, 0, 1)] {
        let sample = udp(v4([192, 0, 2, 1], dst.octets()));
        assert_eq!(parse(&sample.bytes, sample.bytes.len() as u32), Ok(sample.view));
    }
}

#[test]
fn only_valid_tcp_flags_are_accepted() {
    let sample = build(
        0,
        v4([192, 0, 2, 1], [192, 0, 2, 2]),
        &Segment::Tcp { header: TcpHeader::new(1, 2, 3, 4), flags: 0 },
        b"",
    );
    let mut bytes = sample.bytes;
    let possible: Vec<u8> = (0..=255)
        .filter(|flags| {
            bytes[usize::from(sample.view.l4) + 13] = *flags;
            parse(&bytes, bytes.len() as u32).is_ok()
        })
        .collect();
    // Each with and without PSH, ECE and CWR.
    assert_eq!(possible.len(), 9 * 8);
    for flags in [0x02, 0x12, 0x10, 0x18, 0x11, 0x04, 0x14, 0xc2] {
        assert!(possible.contains(&flags), "{flags:#x}");
    }
    for flags in [0x00, 0x03, 0x06, 0x29, 0x01, 0x05, 0x3f] {
        assert!(!possible.contains(&flags), "{flags:#x}");
    }
}

#[test]
fn a_udp_datagram_and_its_checksum_may_end_before_the_packet() {
    let mut sample = udp(v4([192, 0, 2, 1], [192, 0, 2, 2]));
    // A surplus area of 4 bytes after the datagram (RFC 9868).
    sample.bytes.extend([9; 4]);
    let l3 = usize::from(sample.view.l3);
    let ip_len = (sample.bytes.len() - l3) as u16;
    sample.bytes[l3 + 2..l3 + 4].copy_from_slice(&ip_len.to_be_bytes());
    write_header_checksum(&mut sample.bytes, l3);
    let view = parse(&sample.bytes, sample.bytes.len() as u32).unwrap();
    assert_eq!(view, View { end: sample.view.end + 4, ..sample.view });
    assert!(checksum_is_right(&sample.bytes, &view));
}

#[test]
fn a_zero_udp_checksum_means_none_over_ipv4_only() {
    let pods = ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap());
    for (ip, right) in [(v4([192, 0, 2, 1], [192, 0, 2, 2]), true), (v6(pods.0, pods.1), false)] {
        let sample = udp(ip);
        let mut bytes = sample.bytes;
        let at = checksum_field(&sample.view).unwrap();
        bytes[at..at + 2].fill(0);
        let before = bytes.clone();
        assert!(!edit::complete_checksum((&mut bytes, iter::empty()), &sample.view));
        assert_eq!(bytes, before);
        assert_eq!(checksum_is_right(&bytes, &sample.view), right);
    }
}

#[test]
fn the_checksum_of_the_largest_packet_covers_all_frames() {
    let header = TcpHeader::new(1, 2, 3, 4);
    let payload: Vec<u8> = (0..65_000u32).map(|i| (i * 7) as u8).collect();
    let mut header = header;
    header.ack = true;
    let segment = Segment::Tcp { header, flags: tcp_flags::ACK };
    let sample = build(0, v4([192, 0, 2, 1], [192, 0, 2, 2]), &segment, &payload);
    let mut frames = sample.bytes.chunks(RECEIVE_BYTES);
    let head = frames.next().unwrap();
    let view = parse(head, sample.bytes.len() as u32).unwrap();
    assert_eq!(view, sample.view);
    assert!(edit::l4_checksum_is_right((head, frames), &view));
}

#[test]
fn the_kernel_cannot_complete_a_partial_checksum_behind_more_headers_than_a_byte_counts() {
    let pods = ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap());
    for (options, completable) in [(6 + 8 * 20, true), (6 + 8 * 26, false)] {
        let IpHeaders::Ipv6(header, mut extensions) = v6(pods.0, pods.1) else { unreachable!() };
        let options = Ipv6RawExtHeader::new_raw(IpNumber::UDP, &vec![0; options]).unwrap();
        extensions.destination_options = Some(options);
        let mut sample = udp(IpHeaders::Ipv6(header, extensions));
        let view = sample.view;
        assert!(!edit::is_csum_partial(&sample.bytes, &view));
        let (tuple, covered) = (view.tuple, view.end - u32::from(view.l4));
        let pseudo = checksum::Sum::pseudo_header(tuple.src, tuple.dst, tuple.protocol, covered);
        let at = checksum_field(&view).unwrap();
        sample.bytes[at..at + 2].copy_from_slice(&pseudo.folded().to_be_bytes());
        assert!(edit::is_csum_partial(&sample.bytes, &view));
        assert_eq!(edit::csum_partial(&sample.bytes, &view).is_some(), completable);
    }
}

#[test]
fn set_macs_writes_what_the_parser_reads() {
    let mut sample = udp(v4([192, 0, 2, 1], [192, 0, 2, 2]));
    edit::set_macs(&mut sample.bytes, [1; 6], [2; 6]);
    let view = parse(&sample.bytes, sample.bytes.len() as u32).unwrap();
    assert_eq!(view, View { eth_dst: [1; 6], eth_src: [2; 6], ..sample.view });
}

/// Replays `tests/corpora/frames`: each file has a comment on what is wrong, a line
/// `# result: …` and the frame in hex.
#[test]
fn every_frame_of_the_corpus_has_the_result_in_its_file() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/corpora/frames");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let (comments, hex): (Vec<&str>, Vec<&str>) =
            text.lines().partition(|line| line.starts_with('#'));
        let expected = comments.iter().find_map(|line| line.strip_prefix("# result: ")).unwrap();
        let digits: Vec<u32> =
            hex.iter().flat_map(|line| line.chars()).filter_map(|c| c.to_digit(16)).collect();
        let frame: Vec<u8> = digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect();
        let result = match parse(&frame, frame.len() as u32) {
            Err(reason) => reason.label(),
            Ok(view) => {
                assert_inside(&view, &frame, frame.len() as u32);
                match view.l4_kind {
                    L4::Fragment(_) => "fragment",
                    L4::IcmpError { .. } if quoted(&frame, &view).is_none() => {
                        DropReason::IcmpUnrelated.label()
                    }
                    _ => "parsed",
                }
            }
        };
        assert_eq!(result, expected, "{}", path.display());
        seen += 1;
    }
    assert!(seen >= 40, "only {seen} frames in {folder}");
}
