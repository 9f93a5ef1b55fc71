//! Router functions of a complete worker: fragmentation, TTL, ICMP errors, MSS clamping, checksums;
//! and packets that are never forwarded.

#![allow(clippy::unwrap_used, reason = "a test may fail here")]

use etherparse::{
    Icmpv4Slice, Ipv4Header, Ipv4Options, PacketBuilder, SlicedPacket, TransportSlice,
};
use podgate_dataplane::packet::{FragmentInfo, L4, parse, quoted};
use podgate_tables::address::Address;
use podgate_tables::drop_reason::DropReason;
use podgate_tables::ids::LinkId;
use podgate_tables::proto;
use podgate_test_support::*;

/// Pods with large links and small ones: A's takes 9000 bytes, B's 1500.
fn uneven() -> Rig {
    let rig = Rig::new(1);
    rig.shared.publish(snapshot_with(1, IngressOfB::Open, [9000, 9000, 1500]));
    rig
}

/// A UDP packet from A to B; over IPv4 with these "don't fragment" and options.
fn datagram(v4: bool, len: usize, dont_fragment: bool, options: &[u8]) -> Vec<u8> {
    let payload: Vec<u8> = (0..len).map(|at| (at * 7) as u8).collect();
    let link = PacketBuilder::ethernet2(pod_mac(A), link_mac(A));
    let step = match v4 {
        true => {
            let udp = etherparse::IpNumber::UDP;
            let mut header = Ipv4Header::new(0, 64, udp, ADDRESSES[1], ADDRESSES[2]).unwrap();
            header.dont_fragment = dont_fragment;
            header.identification = 77;
            header.options = Ipv4Options::try_from(options).unwrap();
            link.ip(etherparse::IpHeaders::Ipv4(header, Default::default()))
        }
        false => link.ipv6(ADDRESSES_V6[1], ADDRESSES_V6[2], 64),
    };
    let mut bytes = Vec::new();
    step.udp(40_000, 80).write(&mut bytes, &payload).unwrap();
    bytes
}

fn with_ttl(mut bytes: Vec<u8>, v4: bool, ttl: u8) -> Vec<u8> {
    match v4 {
        true => {
            let (mut header, _) = Ipv4Header::from_slice(&bytes[14..]).unwrap();
            header.time_to_live = ttl;
            header.header_checksum = header.calc_header_checksum();
            let len = header.header_len();
            bytes[14..14 + len].copy_from_slice(&header.to_bytes());
        }
        false => bytes[14 + 7] = ttl,
    }
    bytes
}

/// Parses a transmitted ICMP error and verifies its checksums: type, code, the word after the
/// checksum, and the quote.
fn icmp_error(bytes: &[u8], from: [u8; 2]) -> (u8, u8, u32, Vec<u8>) {
    let view = parse(bytes, bytes.len() as u32).unwrap();
    let (node, pod) = match view.is_v4() {
        true => (Address::v4(ADDRESSES[0]), Address::v4(ADDRESSES[usize::from(from[1])])),
        false => (Address::v6(ADDRESSES_V6[0]), Address::v6(ADDRESSES_V6[usize::from(from[1])])),
    };
    assert_eq!((view.tuple.src, view.tuple.dst), (node, pod));
    assert!(matches!(view.l4_kind, L4::IcmpError { .. }), "{view:?}");
    assert!(quoted(bytes, &view).is_some(), "{view:?}");
    let sliced = SlicedPacket::from_ethernet(bytes).unwrap();
    match sliced.transport.unwrap() {
        TransportSlice::Icmpv4(icmp) => {
            assert_eq!(bytes.len().min(590), bytes.len(), "576 bytes at most");
            assert!(
                icmp.header().checksum == icmp.header().icmp_type.calc_checksum(icmp.payload())
            );
            let icmp = Icmpv4Slice::from_slice(icmp.slice()).unwrap();
            (
                icmp.type_u8(),
                icmp.code_u8(),
                u32::from_be_bytes(icmp.bytes5to8()),
                icmp.payload().to_vec(),
            )
        }
        TransportSlice::Icmpv6(icmp) => {
            assert!(bytes.len() <= 14 + 1280);
            assert!(icmp.is_checksum_valid(ADDRESSES_V6[0], ADDRESSES_V6[usize::from(from[1])]));
            let word = u32::from_be_bytes(icmp.bytes5to8());
            (icmp.type_u8(), icmp.code_u8(), word, icmp.payload().to_vec())
        }
        other => panic!("{other:?}"),
    }
}

const TO_A: [u8; 2] = [0, 1];

#[test]
fn a_packet_that_must_not_be_fragmented_causes_an_icmp_error_with_the_mtu() {
    for v4 in [true, false] {
        let mut rig = uneven();
        let sent = datagram(v4, 4000, true, &[]);
        let out = rig.send(A, &sent);
        assert_eq!((out.len(), out[0].0), (1, A), "an answer, and nothing else");
        let (kind, code, word, quote) = icmp_error(&out[0].1, TO_A);
        assert_eq!((kind, code, word), if v4 { (3, 4, 1500) } else { (2, 0, 1500) });
        assert_eq!(quote, sent[14..14 + quote.len()], "the packet as it was sent");
        assert_eq!(quote.len(), if v4 { 548 } else { 1232 });
        rig.expect_counters(&[
            (Count::Received, 1),
            (Count::Dropped(DropReason::PacketTooBig), 1),
            (Count::Originated, 1),
            (Count::FlowsOpened, 1),
            (Count::Flows, 1),
        ]);
        let stats = rig.workers[0].stats();
        assert_eq!((stats.originated.packets.get(), stats.forwarded.packets.get()), (1, 0));
        rig.assert_no_frame_is_lost();
    }
}

#[test]
fn an_ipv4_packet_that_may_be_cut_is_and_only_some_options_are_repeated() {
    let mut rig = uneven();
    // Router alert is for all fragments (copied), a timestamp for the first.
    let options = [148, 4, 0, 0, 68, 8, 5, 0, 0, 0, 0, 0, 1, 0, 0, 0];
    let sent = datagram(true, 4000, false, &options);
    let out = rig.send(A, &sent);
    assert_eq!(out.len(), 3);
    let mut whole: Vec<u8> = Vec::new();
    for (index, (link, bytes)) in out.iter().enumerate() {
        assert_eq!(*link, B);
        assert!(bytes.len() <= 1514);
        let view = parse(bytes, bytes.len() as u32).unwrap();
        let more = index < 2;
        let offset = whole.len() as u16;
        assert_eq!(view.l4_kind, L4::Fragment(FragmentInfo { id: 77, offset, more }));
        assert_eq!((view.ttl, view.end as usize), (63, bytes.len()));
        let header = Ipv4Header::from_slice(&bytes[14..]).unwrap().0;
        assert_eq!(&header.options[..], if index == 0 { &options[..] } else { &options[..4] });
        whole.extend(&bytes[usize::from(view.l4)..]);
    }
    assert_eq!(whole, sent[14 + 36..]);
    rig.expect_counters(&[
        (Count::Received, 1),
        (Count::Forwarded, 3),
        (Count::FragmentsMade, 2),
        (Count::FlowsOpened, 1),
        (Count::Flows, 1),
    ]);
    rig.assert_no_frame_is_lost();
}

#[test]
fn an_expired_ttl_causes_an_icmp_error_between_pods_only() {
    for v4 in [true, false] {
        let mut rig = uneven();
        let sent = with_ttl(datagram(v4, 100, true, &[]), v4, 1);
        let out = rig.send(A, &sent);
        assert_eq!((out.len(), out[0].0), (1, A));
        let (kind, code, word, quote) = icmp_error(&out[0].1, TO_A);
        assert_eq!((kind, code, word), if v4 { (11, 0, 0) } else { (3, 0, 0) });
        assert_eq!(quote, sent[14..]);
        rig.expect_counters(&[
            (Count::Received, 1),
            (Count::Dropped(DropReason::TtlExceeded), 1),
            (Count::Originated, 1),
            (Count::FlowsOpened, 1),
            (Count::Flows, 1),
        ]);
        rig.assert_no_frame_is_lost();
    }
    let mut rig = uneven();
    let sent = udp(A, ADDRESSES[1], OUTSIDE, [1, 2], b"x");
    let out = rig.send(A, &with_ttl(sent, true, 1));
    assert_eq!((out.len(), out[0].0), (1, HOST), "the kernel says what becomes of it");
}

#[test]
fn no_icmp_error_is_sent_about_an_error() {
    let mut rig = uneven();
    let request = udp(B, ADDRESSES[2], ADDRESSES[1], [5000, 53], b"query");
    assert_eq!(rig.send(B, &request).len(), 1);
    let error = unreachable(A, ADDRESSES[1], ADDRESSES[2], &request);
    assert!(rig.send(A, &with_ttl(error, true, 1)).is_empty());
    rig.expect_counters(&[
        (Count::Received, 2),
        (Count::Forwarded, 1),
        (Count::Dropped(DropReason::TtlExceeded), 1),
        (Count::FlowsOpened, 1),
        (Count::Flows, 1),
    ]);
    rig.assert_no_frame_is_lost();
}

#[test]
fn icmp_errors_are_rate_limited_per_link() {
    let mut rig = uneven();
    let errors = |rig: &mut Rig, link: LinkId, ends: [usize; 2], times| {
        let sent = udp(link, ADDRESSES[ends[0]], ADDRESSES[ends[1]], [1, 2], b"x");
        let sent = with_ttl(sent, true, 1);
        (0..times).map(|_| rig.send(link, &sent).len()).sum::<usize>()
    };
    assert_eq!(errors(&mut rig, A, [1, 2], 1000), 50);
    assert_eq!(errors(&mut rig, B, [2, 1], 10), 10);
    rig.now = rig.now.plus_secs(1);
    assert_eq!(errors(&mut rig, A, [1, 2], 1000), 50);
    rig.expect_counters(&[
        (Count::Received, 2010),
        (Count::Dropped(DropReason::TtlExceeded), 2010),
        (Count::Originated, 110),
        (Count::FlowsOpened, 2),
        (Count::Flows, 2),
    ]);
    rig.assert_no_frame_is_lost();
}

/// A SYN or SYN-ACK that announces this segment size.
fn syn(link: LinkId, v4: bool, ends: [usize; 2], ack: bool, mss: u16) -> Vec<u8> {
    let ether = PacketBuilder::ethernet2(pod_mac(link), link_mac(link));
    let step = match v4 {
        true => ether.ipv4(ADDRESSES[ends[0]], ADDRESSES[ends[1]], 64),
        false => ether.ipv6(ADDRESSES_V6[ends[0]], ADDRESSES_V6[ends[1]], 64),
    };
    let ports = if ack { [80, 40_000] } else { [40_000, 80] };
    let mss = etherparse::TcpOptionElement::MaximumSegmentSize(mss);
    let step = step.tcp(ports[0], ports[1], 1, 64_000).syn().options(&[mss]).unwrap();
    let step = if ack { step.ack(2) } else { step };
    let mut bytes = Vec::new();
    step.write(&mut bytes, b"").unwrap();
    bytes
}

/// The segment size that a packet announces; verifies its checksum.
fn announced(bytes: &[u8]) -> u16 {
    let sliced = SlicedPacket::from_ethernet(bytes).unwrap();
    let Some(TransportSlice::Tcp(tcp)) = &sliced.transport else { panic!("no TCP") };
    let sum = match sliced.net.as_ref().unwrap() {
        etherparse::NetSlice::Ipv4(ip) => {
            tcp.calc_checksum_ipv4(ip.header().source(), ip.header().destination())
        }
        etherparse::NetSlice::Ipv6(ip) => {
            tcp.calc_checksum_ipv6(ip.header().source(), ip.header().destination())
        }
        _ => panic!("no IP"),
    };
    assert_eq!(sum.unwrap(), tcp.checksum());
    let mss = tcp.options_iterator().find_map(|option| match option {
        Ok(etherparse::TcpOptionElement::MaximumSegmentSize(mss)) => Some(mss),
        _ => None,
    });
    mss.unwrap()
}

#[test]
fn the_mss_fits_the_smaller_link_whichever_end_opens_the_connection() {
    for (v4, headers) in [(true, 40), (false, 60)] {
        for (opener, other, ends) in [(A, B, [1, 2]), (B, A, [2, 1])] {
            let mut rig = uneven();
            let out = rig.send(opener, &syn(opener, v4, ends, false, 8960));
            assert_eq!((out[0].0, announced(&out[0].1)), (other, 1500 - headers));
            let ends = [ends[1], ends[0]];
            let out = rig.send(other, &syn(other, v4, ends, true, 8960));
            assert_eq!((out[0].0, announced(&out[0].1)), (opener, 1500 - headers));
        }
        let rig = Rig::new(1);
        rig.shared.publish(snapshot_with(1, IngressOfB::Open, [9000, 9000, 9000]));
        let mut rig = rig;
        let out = rig.send(A, &syn(A, v4, [1, 2], false, 8940));
        assert_eq!(announced(&out[0].1), 8940, "both links are large");
    }
}

#[test]
fn the_mss_of_a_connection_by_the_host_link_fits_the_nodes_path_mtu() {
    let mut rig = Rig::with(IngressOfB::Open);
    let mut sent = syn(A, true, [1, 2], false, 64_960);
    sent[30..34].copy_from_slice(&OUTSIDE);
    let (mut header, _) = Ipv4Header::from_slice(&sent[14..]).unwrap();
    header.header_checksum = header.calc_header_checksum();
    sent[14..34].copy_from_slice(&header.to_bytes());
    let view = parse(&sent, sent.len() as u32).unwrap();
    // As with checksum offload: a partial checksum, to be completed first.
    let pseudo = podgate_dataplane::packet::checksum::Sum::pseudo_header(
        view.tuple.src,
        view.tuple.dst,
        6,
        view.end - u32::from(view.l4),
    );
    sent[50..52].copy_from_slice(&pseudo.folded().to_be_bytes());
    let out = rig.send(A, &sent);
    assert_eq!((out[0].0, announced(&out[0].1)), (HOST, 1460));
    rig.expect_counters(&[
        (Count::Received, 1),
        (Count::Forwarded, 1),
        (Count::FlowsOpened, 1),
        (Count::Flows, 1),
        (Count::ChecksumsCompleted, 1),
    ]);
}

#[test]
fn a_partial_sctp_checksum_is_completed() {
    let mut rig = Rig::with(IngressOfB::Open);
    let sent = sctp(A, ADDRESSES[1], ADDRESSES[2], [5000, 80]);
    let out = rig.send(A, &sent);
    let (l4, left) = (34, &out[0].1);
    let mut zeroed = left[l4..].to_vec();
    zeroed[8..12].fill(0);
    assert_eq!(left[l4 + 8..l4 + 12], crc32c::crc32c(&zeroed).to_le_bytes());
    assert_ne!(left[l4 + 8..l4 + 12], [0; 4]);
    rig.expect_counters(&[
        (Count::Received, 1),
        (Count::Forwarded, 1),
        (Count::FlowsOpened, 1),
        (Count::Flows, 1),
        (Count::ChecksumsCompleted, 1),
    ]);
    // A complete checksum is left unchanged, right or wrong.
    let mut sent = sent;
    sent[l4 + 8..l4 + 12].copy_from_slice(&[1, 2, 3, 4]);
    let out = rig.send(A, &sent);
    assert_eq!(out[0].1[l4 + 8..l4 + 12], [1, 2, 3, 4]);
    rig.expect_counters(&[(Count::Received, 1), (Count::Forwarded, 1)]);
}

#[test]
fn packets_with_options_and_extension_headers_are_decided_by_their_ports() {
    let mut rig = Rig::with(IngressOfB::FromAAt(proto::UDP));
    let timestamp = [68, 8, 5, 0, 0, 0, 0, 0, 1, 1, 1, 0];
    let mut v4 = datagram(true, 100, false, &timestamp);
    // A hop-by-hop header and destination options, with padding only.
    let extensions = [60, 0, 1, 4, 0, 0, 0, 0, proto::UDP, 0, 1, 4, 0, 0, 0, 0];
    let mut v6 = datagram(false, 100, false, &[]);
    v6.splice(54..54, extensions);
    v6[20] = 0;
    let length = (v6.len() - 54) as u16;
    v6[18..20].copy_from_slice(&length.to_be_bytes());
    for (sent, headers) in [(&mut v4, 32), (&mut v6, 56)] {
        let l4 = 14 + headers;
        let out = rig.send(A, sent);
        assert_eq!((out.len(), out[0].0), (1, B));
        assert_eq!(out[0].1[l4 - 12..], sent[l4 - 12..], "all of it as it was sent");
        sent[l4 + 3] = 81;
        assert!(rig.send(A, sent).is_empty());
    }
    rig.expect_counters(&[
        (Count::Received, 4),
        (Count::Forwarded, 2),
        (Count::Dropped(DropReason::PolicyDenied), 2),
        (Count::FlowsOpened, 2),
        (Count::Flows, 2),
    ]);
    rig.assert_no_frame_is_lost();
}

/// Puts an 802.1Q tag into a frame.
fn tagged(bytes: &[u8], control: u16) -> Vec<u8> {
    [&bytes[..12], &[0x81, 0x00], &control.to_be_bytes(), &bytes[12..]].concat()
}

#[test]
fn vlan_tags_are_dropped_but_priority_tags_pass() {
    let mut rig = Rig::with(IngressOfB::Open);
    for dst in [ADDRESSES[2], OUTSIDE] {
        let sent = udp(A, ADDRESSES[1], dst, [1, 2], b"x");
        assert!(rig.send(A, &tagged(&sent, 7)).is_empty());
        assert!(rig.send(A, &tagged(&tagged(&sent, 7), 0xe000)).is_empty(), "after a priority");
        let out = rig.send(A, &tagged(&sent, 0xe000));
        assert_eq!(out.len(), 1);
        assert_eq!(out[0].1[12..18], [0x81, 0, 0xe0, 0, 8, 0]);
    }
    rig.expect_counters(&[
        (Count::Received, 6),
        (Count::Forwarded, 2),
        (Count::Dropped(DropReason::VlanTagged), 4),
        (Count::FlowsOpened, 2),
        (Count::Flows, 2),
    ]);
    rig.assert_no_frame_is_lost();
}

#[test]
fn multicast_and_broadcast_are_never_forwarded() {
    let mut rig = Rig::with(IngressOfB::Open);
    for dst in [[224, 0, 0, 251], [239, 1, 2, 3], [255; 4]] {
        assert!(rig.send(A, &udp(A, ADDRESSES[1], dst, [1, 2], b"x")).is_empty());
        assert!(rig.send(HOST, &udp(HOST, ADDRESSES[0], dst, [1, 2], b"x")).is_empty());
    }
    let mut v6 = datagram(false, 10, false, &[]);
    v6[38..54].copy_from_slice(&[0xff, 0x05, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    assert!(rig.send(A, &v6).is_empty());
    // An Ethernet broadcast with a pod's address inside (RFC 1812 section 5.3.4).
    let mut broadcast = udp(A, ADDRESSES[1], ADDRESSES[2], [1, 2], b"x");
    broadcast[..6].fill(0xff);
    assert!(rig.send(A, &broadcast).is_empty());
    rig.expect_counters(&[(Count::Received, 8), (Count::Dropped(DropReason::Multicast), 8)]);
    rig.assert_no_frame_is_lost();
}

/// An ICMPv6 error of type `kind` from `src` to A about a packet that it sent.
fn error_v6(from: LinkId, src: [u8; 16], kind: u8, word: [u8; 4], about: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let step = PacketBuilder::ethernet2(pod_mac(from), link_mac(from));
    let quote = &about[14..about.len().min(14 + 1232)];
    let step = step.ipv6(src, ADDRESSES_V6[1], 64).icmpv6_raw(kind, 0, word);
    step.write(&mut bytes, quote).unwrap();
    bytes
}

#[test]
fn errors_of_routers_in_between_reach_the_flows_owner_over_ipv6_too() {
    const ROUTER: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xfe];
    const FAR: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
    let mut rig = Rig::new(2);
    rig.shared.publish(snapshot(1, IngressOfB::Open));
    for port in 5000..5016 {
        let mut sent = Vec::new();
        let link = PacketBuilder::ethernet2(pod_mac(A), link_mac(A));
        link.ipv6(ADDRESSES_V6[1], FAR, 64).udp(port, 53).write(&mut sent, &[1; 600]).unwrap();
        for worker in 0..2 {
            assert!(rig.links[A.index()].inject(worker, &sent));
            rig.run();
        }
        for (kind, word) in [(1, [0; 4]), (2, [0, 0, 5, 0]), (3, [0; 4])] {
            let error = error_v6(HOST, ROUTER, kind, word, &sent);
            let out = rig.send(HOST, &error);
            assert_eq!((out.len(), out[0].0), (1, A), "type {kind}");
            assert!(rig.send(B, &error_v6(B, ADDRESSES_V6[2], kind, word, &sent)).is_empty());
        }
    }
    assert!(rig.workers[0].stats().handed_off.get() > 0);
    rig.expect_counters(&[
        (Count::Received, 128),
        (Count::Forwarded, 80),
        (Count::Dropped(DropReason::IcmpUnrelated), 48),
        (Count::HandedOff, 48),
        (Count::FlowsOpened, 32),
        (Count::Flows, 32),
    ]);
    rig.assert_no_frame_is_lost();
}

#[test]
fn an_error_about_a_first_fragment_reaches_its_flow() {
    let mut rig = uneven();
    let sent = udp(A, ADDRESSES[1], OUTSIDE, [5000, 53], &[1; 600]);
    assert_eq!(rig.send(A, &sent).len(), 1);
    let mut first = sent.clone();
    let (mut header, _) = Ipv4Header::from_slice(&first[14..]).unwrap();
    header.more_fragments = true;
    header.header_checksum = header.calc_header_checksum();
    first[14..34].copy_from_slice(&header.to_bytes());
    let error = unreachable(HOST, [192, 0, 2, 1], ADDRESSES[1], &first);
    assert_eq!(rig.send(HOST, &error).len(), 1);
    header.fragment_offset = 1.try_into().unwrap();
    header.header_checksum = header.calc_header_checksum();
    first[14..34].copy_from_slice(&header.to_bytes());
    let error = unreachable(HOST, [192, 0, 2, 1], ADDRESSES[1], &first);
    assert!(rig.send(HOST, &error).is_empty(), "a later one has no ports");
}
