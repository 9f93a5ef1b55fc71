//! Every packet that is dropped has an event that names the reason, or an event of its connection
//! does. On memory links.

#![allow(clippy::unwrap_used, reason = "a test may fail here")]

use podgate_tables::address::Address;
use podgate_tables::drop_reason::DropReason;
use podgate_tables::event::{Ethernet, Event, EventKind};
use podgate_tables::ids::LinkId;
use podgate_tables::l7::{HttpRule, HttpRuleSpec, L7Rules};
use podgate_tables::proto;
use podgate_tables::tuple::Tuple;
use podgate_test_support::*;

fn only_docs() -> IngressOfB {
    let spec = HttpRuleSpec { path: Some("/docs".to_owned()), ..HttpRuleSpec::default() };
    IngressOfB::FromAnyone(L7Rules::http(vec![HttpRule::new(spec).unwrap()]))
}

fn query(port: u16) -> Vec<u8> {
    udp(A, ADDRESSES[1], ADDRESSES[2], [port, 53], b"query")
}

fn a_to_b(ports: [u16; 2], protocol: u8) -> Tuple {
    let [src, dst] = [ADDRESSES[1], ADDRESSES[2]].map(Address::v4);
    Tuple { src, dst, src_port: ports[0], dst_port: ports[1], protocol }
}

/// Link, reason and tuple of each event of a drop.
fn drops(rig: &Rig) -> Vec<(LinkId, DropReason, Tuple)> {
    let of_drop = |event: Event| match event.kind {
        EventKind::Drop { reason } | EventKind::Unparsed { reason, .. } => {
            Some((event.link, reason, event.tuple))
        }
        _ => None,
    };
    rig.events().into_iter().filter_map(of_drop).collect()
}

/// Sends a frame that can't be parsed from pod A. Returns what its event says.
fn unparsed(frame: &[u8]) -> (DropReason, Ethernet, bool, Tuple) {
    let mut rig = Rig::with(IngressOfB::Open);
    assert!(rig.send(A, frame).is_empty());
    let events = rig.events();
    let [Event { link: A, tuple, kind, .. }] = events[..] else { panic!("{events:?}") };
    let EventKind::Unparsed { reason, ethernet, has_addresses } = kind else { panic!("{kind:?}") };
    assert_eq!(rig.dropped(reason), 1);
    rig.assert_no_frame_is_lost();
    (reason, ethernet, has_addresses, tuple)
}

#[test]
fn a_malformed_packet_has_an_event_with_what_is_known_of_it() {
    let whole = query(4000);
    let of_a = Ethernet { source: pod_mac(A), destination: link_mac(A) };
    let unknown = Address::v4([0; 4]);
    // Nothing of an IP header: the source is the pod of the link.
    let of_link = Tuple { dst: unknown, ..a_to_b([0, 0], 0) };
    for (length, ethernet) in [(13, of_a), (20, of_a), (33, of_a), (10, Ethernet::default())] {
        let expected = (DropReason::TruncatedHeader, ethernet, false, of_link);
        assert_eq!(unparsed(&whole[..length]), expected, "{length} bytes");
    }
    let mut other_type = whole.clone();
    other_type[12..14].copy_from_slice(&[0x88, 0xcc]);
    assert_eq!(unparsed(&other_type), (DropReason::UnsupportedL3, of_a, false, of_link));
    let mut tagged = whole.clone();
    tagged.splice(12..12, [0x81, 0, 0, 5]);
    assert_eq!(unparsed(&tagged), (DropReason::VlanTagged, of_a, false, of_link));
    // An IP header with a wrong checksum still names the ends, and so does one before half a UDP
    // header.
    let known = a_to_b([4000, 53], proto::UDP);
    let mut wrong_checksum = whole.clone();
    wrong_checksum[24] ^= 1;
    assert_eq!(unparsed(&wrong_checksum), (DropReason::Malformed, of_a, true, known));
    let mut wrong_length = whole.clone();
    wrong_length[38..40].copy_from_slice(&[0, 7]);
    assert_eq!(unparsed(&wrong_length), (DropReason::Malformed, of_a, true, known));
    let no_ports = a_to_b([0, 0], proto::UDP);
    assert_eq!(unparsed(&whole[..36]), (DropReason::TruncatedHeader, of_a, true, no_ports));
    let mut v6 = udp_v6(A, ADDRESSES_V6[1], ADDRESSES_V6[2], [4000, 53], b"query");
    v6[18..20].copy_from_slice(&[0xff, 0xff]);
    // The source is another pod's.
    let mut spoofed = udp(A, ADDRESSES[2], ADDRESSES[1], [4000, 53], b"query");
    spoofed[24] ^= 1;
    assert_eq!(unparsed(&spoofed), (DropReason::Malformed, of_a, false, of_link));
    let (reason, _, has_addresses, tuple) = unparsed(&v6);
    assert_eq!((reason, has_addresses), (DropReason::TruncatedHeader, true));
    assert_eq!((tuple.src, tuple.src_port), (Address::v6(ADDRESSES_V6[1]), 4000));
}

#[test]
fn a_malformed_frame_of_the_host_link_has_no_source() {
    let mut rig = Rig::with(IngressOfB::Open);
    rig.send(HOST, &query(1)[..20]);
    let unknown = Address::v4([0; 4]);
    let tuple = Tuple { src: unknown, dst: unknown, ..a_to_b([0, 0], 0) };
    assert_eq!(drops(&rig), [(HOST, DropReason::TruncatedHeader, tuple)]);
}

#[test]
fn a_flood_of_malformed_packets_is_bounded_and_leaves_events_to_others() {
    let mut rig = Rig::with(IngressOfB::Closed);
    for _ in 0..5_000 {
        rig.send(A, &query(1)[..20]);
    }
    let flood = rig.dropped(DropReason::TruncatedHeader);
    // Also to the denials of the same pod.
    for link in [A, HOST] {
        let from = if link == A { ADDRESSES[1] } else { OUTSIDE };
        for port in 1..=100 {
            rig.send(link, &udp(link, from, ADDRESSES[2], [port, 80], b"x"));
        }
    }
    let events = rig.events();
    let of_flood = events.iter().filter(|it| matches!(it.kind, EventKind::Unparsed { .. })).count();
    assert!((100..2_000).contains(&of_flood), "{of_flood}");
    for link in [A, HOST] {
        let denied = |it: &&Event| it.link == link && matches!(it.kind, EventKind::Verdict { .. });
        assert_eq!(events.iter().filter(denied).count(), 100);
    }
    let lost = rig.workers[0].stats().events_lost.get();
    assert_eq!(lost + of_flood as u64, flood, "what has no event is counted as lost");
}

#[test]
fn a_packet_that_finds_no_room_in_a_ring_has_an_event() {
    let mut rig = Rig::with(IngressOfB::Open);
    let now = rig.now;
    // Pod B's link never completes its transmit ring. On the fast path after the first one.
    for _ in 0..200 {
        assert!(rig.links[A.index()].inject(0, &query(7)));
        rig.workers[0].round(now);
    }
    let full = rig.dropped(DropReason::TxRingFull) as usize;
    assert_eq!(full, 200 - 128);
    let expected = (A, DropReason::TxRingFull, a_to_b([7, 53], proto::UDP));
    assert_eq!(drops(&rig), vec![expected; full]);

    let mut rig = Rig::new(2);
    rig.shared.publish(snapshot(1, IngressOfB::Open));
    for port in 1..=1_200 {
        let (there, about) = (ADDRESSES[2], ADDRESSES[1]);
        let error = unreachable(A, about, there, &udp(B, there, about, [port, 53], b"query"));
        assert!(rig.links[A.index()].inject(0, &error));
        rig.workers[0].round(now);
    }
    let full = rig.dropped(DropReason::HandoffFull) as usize;
    let unrelated = rig.dropped(DropReason::IcmpUnrelated) as usize;
    let drops = drops(&rig);
    assert!(full > 20, "{full}");
    let of_full = drops.iter().filter(|(_, reason, _)| *reason == DropReason::HandoffFull);
    assert_eq!((of_full.count(), drops.len()), (full, full + unrelated));
}

#[test]
fn a_packet_that_cannot_be_forwarded_has_an_event() {
    let mut rig = Rig::with(IngressOfB::Open);
    let tuple = a_to_b([1, 53], proto::UDP);
    let mut last_hop = query(1);
    last_hop[22] = 1;
    last_hop[24..26].fill(0);
    let sum = podgate_dataplane::packet::checksum::of(&last_hop[14..34]);
    last_hop[24..26].copy_from_slice(&sum.to_be_bytes());
    rig.send(A, &last_hop);
    assert_eq!(drops(&rig), [(A, DropReason::TtlExceeded, tuple)]);

    assert_eq!(rig.send(A, &query(1)).len(), 1);
    rig.workers[0].remove_queue(B);
    rig.send(A, &query(1));
    assert_eq!(drops(&rig), [(A, DropReason::LinkGone, tuple)]);

    let mut rig = Rig::new(1);
    rig.shared.publish(snapshot_with(1, IngressOfB::Open, [1500, 1500, 100]));
    let mut large = udp(A, ADDRESSES[1], ADDRESSES[2], [1, 53], &[0; 200]);
    large[20] |= 0x40;
    large[24..26].fill(0);
    let sum = podgate_dataplane::packet::checksum::of(&large[14..34]);
    large[24..26].copy_from_slice(&sum.to_be_bytes());
    rig.send(A, &large);
    assert_eq!(drops(&rig), [(A, DropReason::PacketTooBig, tuple)]);
}

#[test]
fn a_packet_before_the_first_tables_is_only_counted() {
    let mut rig = Rig::new(1);
    rig.send(A, &query(1));
    assert_eq!(drops(&rig), []);
    assert_eq!(rig.dropped(DropReason::EndpointNotReady), 1);
    assert_eq!(rig.workers[0].stats().events_lost.get(), 0);
}

#[test]
fn fragments_that_are_given_up_have_one_event_for_their_datagram() {
    let mut rig = Rig::with(IngressOfB::Open);
    let fragments = cut(&udp(A, ADDRESSES[1], ADDRESSES[2], [1, 53], &[0; 3_000]), 1, 1500);
    rig.send(A, &fragments[1]);
    rig.send(A, &fragments[2]);
    rig.workers[0].remove_queue(A);
    let expected = (A, DropReason::LinkGone, a_to_b([0, 0], proto::UDP));
    assert_eq!(rig.dropped(DropReason::LinkGone), 2);
    assert_eq!(drops(&rig), [expected]);
}

#[test]
fn a_segment_that_the_editor_drops_has_an_event() {
    let (client, server, ports) = (ADDRESSES[1], ADDRESSES[2], [4000, 80]);
    let from_client = |seq, ack, flags, payload| {
        tcp(A, &TcpPacket { src: client, dst: server, ports, seq, ack, flags, payload })
    };
    let mut rig = Rig::with(only_docs());
    rig.send(A, &from_client(100, None, "S", b""));
    let (src, dst, ports, payload) = (server, client, [80, 4000], &b""[..]);
    let answer = TcpPacket { src, dst, ports, seq: 900, ack: Some(101), flags: "S", payload };
    rig.send(B, &tcp(B, &answer));
    rig.send(A, &from_client(101, Some(901), "", b""));
    assert_eq!(drops(&rig), []);

    let mut wrong = from_client(101, Some(901), "P", b"GET");
    let last = wrong.len() - 1;
    wrong[last] ^= 1;
    rig.send(A, &wrong);
    rig.send(A, &from_client(101, Some(5_000), "P", b"GET"));
    rig.send(A, &from_client(90_000_101, Some(901), "P", b"GET"));
    let tuple = a_to_b([4000, 80], proto::TCP);
    let expected = [DropReason::BadChecksum, DropReason::Malformed, DropReason::L7Limit];
    assert_eq!(drops(&rig), expected.map(|reason| (A, reason, tuple)));
    // A segment of the server is reported on the server's link.
    let flags = "P";
    let mut wrong = tcp(B, &TcpPacket { seq: 901, flags, payload: b"HTTP", ..answer });
    let last = wrong.len() - 1;
    wrong[last] ^= 1;
    rig.send(B, &wrong);
    assert_eq!(drops(&rig), [(B, DropReason::BadChecksum, tuple.reversed())]);
}
