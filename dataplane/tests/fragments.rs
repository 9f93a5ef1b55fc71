//! Fragments in a complete worker: reassembled, decided as one packet, fragmented again.

#![allow(clippy::unwrap_used, reason = "a test may fail here")]

use etherparse::PacketBuilder;
use podgate_dataplane::packet::{L4, parse};
use podgate_tables::drop_reason::DropReason;
use podgate_tables::ids::LinkId;
use podgate_tables::proto;
use podgate_test_support::*;

/// A UDP datagram from pod A to pod B, as one packet.
fn datagram(v4: bool, port: u16, len: usize) -> Vec<u8> {
    let payload: Vec<u8> = (0..len).map(|at| (at * 7 + at / 256) as u8).collect();
    let link = PacketBuilder::ethernet2(pod_mac(A), link_mac(A));
    let step = match v4 {
        true => link.ipv4(ADDRESSES[1], ADDRESSES[2], 64),
        false => link.ipv6(ADDRESSES_V6[1], ADDRESSES_V6[2], 64),
    };
    let mut bytes = Vec::new();
    step.udp(40_000, port).write(&mut bytes, &payload).unwrap();
    bytes
}

/// The data of the fragments of one datagram, in order of their offsets.
fn joined(fragments: &[Vec<u8>]) -> Vec<u8> {
    let mut parts: Vec<_> = fragments
        .iter()
        .map(|bytes| {
            let view = parse(bytes, bytes.len() as u32).unwrap();
            let L4::Fragment(piece) = view.l4_kind else { panic!("{view:?}") };
            (piece, &bytes[usize::from(view.l4)..view.end as usize])
        })
        .collect();
    parts.sort_by_key(|(piece, _)| piece.offset);
    let mut whole = Vec::new();
    for (index, (piece, part)) in parts.iter().enumerate() {
        assert_eq!(usize::from(piece.offset), whole.len());
        assert_eq!((piece.more, piece.id), (index + 1 < parts.len(), parts[0].0.id));
        whole.extend(*part);
    }
    whole
}

fn body(frame: &[u8]) -> &[u8] {
    let view = parse(frame, frame.len() as u32).unwrap();
    &frame[usize::from(view.l4)..]
}

/// Injects all of them into pod A's link; returns the transmitted packets.
fn send_all(rig: &mut Rig, fragments: &[Vec<u8>]) -> Vec<(LinkId, Vec<u8>)> {
    fragments.iter().flat_map(|fragment| rig.send(A, fragment)).collect()
}

fn reversed(mut fragments: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    fragments.reverse();
    fragments
}

#[test]
fn an_allowed_datagram_is_reassembled_in_any_order_and_fragmented_again() {
    for v4 in [true, false] {
        let mut rig = Rig::with(IngressOfB::FromAAt(proto::UDP));
        let sent = datagram(v4, 80, 8000);
        for (id, fragments) in
            [cut(&sent, 1, 1500), reversed(cut(&sent, 2, 1500))].iter().enumerate()
        {
            let out = send_all(&mut rig, fragments);
            assert_eq!(out.len(), fragments.len());
            let left: Vec<_> = out
                .into_iter()
                .map(|(link, bytes)| {
                    assert_eq!((link, &bytes[..6]), (B, &pod_mac(B)[..]));
                    assert!(bytes.len() <= 1514);
                    let view = parse(&bytes, bytes.len() as u32).unwrap();
                    assert_eq!(view.ttl, 63);
                    let L4::Fragment(piece) = view.l4_kind else { panic!("{view:?}") };
                    assert_eq!(piece.id, id as u32 + 1);
                    bytes
                })
                .collect();
            assert_eq!(joined(&left), body(&sent));
        }
        let stats = rig.workers[0].stats();
        assert_eq!(stats.flows_opened.get(), 1, "both are packets of one flow");
        assert_eq!(stats.fragments_joined.get(), stats.fragments_made.get());
        assert_eq!(stats.received.packets.get(), stats.forwarded.packets.get());
        rig.assert_no_frame_is_lost();
    }
}

#[test]
fn no_fragment_of_a_denied_datagram_passes_in_any_order() {
    for v4 in [true, false] {
        let mut rig = Rig::with(IngressOfB::FromAAt(proto::UDP));
        let allowed = datagram(v4, 80, 8000);
        let denied = datagram(v4, 81, 8000);
        // An allowed flow between the same addresses makes no difference.
        assert!(!send_all(&mut rig, &cut(&allowed, 1, 1500)).is_empty());
        let fragments = cut(&denied, 2, 1500);
        assert!(send_all(&mut rig, &fragments).is_empty());
        assert!(send_all(&mut rig, &reversed(cut(&denied, 3, 1500))).is_empty());
        // A denied datagram counts as one packet.
        rig.expect_counters(&[
            (Count::Received, 18),
            (Count::Forwarded, 6),
            (Count::Dropped(DropReason::PolicyDenied), 2),
            (Count::FragmentsJoined, 15),
            (Count::FragmentsMade, 5),
            (Count::FlowsOpened, 1),
            (Count::Flows, 1),
        ]);
        rig.assert_no_frame_is_lost();
    }
}

#[test]
fn fragments_of_an_inspected_flow_are_inspected() {
    // TCP in fragments: reassembled, it is a segment without a connection, and no fragment of it
    // passes on its own.
    let mut rig = Rig::with(IngressOfB::FromA(None));
    let packet = TcpPacket {
        src: ADDRESSES[1],
        dst: ADDRESSES[2],
        ports: [40_000, 81],
        seq: 1,
        ack: None,
        flags: "S",
        payload: &[0; 64],
    };
    assert!(send_all(&mut rig, &cut(&tcp(A, &packet), 1, 60)).is_empty());
    rig.expect_counters(&[
        (Count::Received, 3),
        (Count::Dropped(DropReason::PolicyDenied), 1),
        (Count::FragmentsJoined, 2),
    ]);
    let packet = TcpPacket { ports: [40_000, 80], ..packet };
    let out = send_all(&mut rig, &cut(&tcp(A, &packet), 2, 60));
    assert_eq!(out.len(), 1, "it fits what every host takes, and so leaves whole");
    assert_eq!(body(&out[0].1), body(&tcp(A, &packet)));
    rig.assert_no_frame_is_lost();
}

#[test]
fn the_worker_that_owns_the_flow_decides() {
    for v4 in [true, false] {
        let mut rig = Rig::new(2);
        rig.shared.publish(snapshot(1, IngressOfB::Open));
        // Both ports are ephemeral, so both take part in the hash.
        for port in 50_000..50_016 {
            // Steered by addresses, all of them are received by worker 0 in this test.
            let fragments = cut(&datagram(v4, port, 3000), port, 1500);
            assert_eq!(send_all(&mut rig, &fragments).len(), fragments.len());
        }
        let flows = rig.workers.iter().map(|worker| worker.flows());
        assert!(flows.clone().all(|flows| flows > 0), "the ports decide");
        assert_eq!(flows.sum::<usize>(), 16);
        let handed = rig.workers[0].stats().handed_off.get();
        assert_eq!(handed, rig.workers[1].flows() as u64);
        rig.assert_no_frame_is_lost();
    }
}

#[test]
fn an_overlapping_fragment_discards_its_datagram() {
    let mut rig = Rig::with(IngressOfB::FromAAt(proto::UDP));
    // The first fragment has port 80; a later one, at offset 8, overlaps with other bytes.
    let fragments = cut(&datagram(true, 80, 100), 1, 60);
    let mut bad = cut(&datagram(true, 80, 100), 1, 28)[1].clone();
    bad[34..].fill(0xff);
    assert!(rig.send(A, &fragments[0]).is_empty());
    assert!(rig.send(A, &bad).is_empty());
    assert!(send_all(&mut rig, &fragments[1..]).is_empty());
    assert_eq!(rig.dropped(DropReason::FragmentOverlap), fragments.len() as u64 + 1);
    rig.assert_no_frame_is_lost();
}

#[test]
fn a_first_fragment_without_its_whole_header_is_dropped() {
    let mut rig = Rig::with(IngressOfB::Open);
    let packet = TcpPacket {
        src: ADDRESSES[1],
        dst: ADDRESSES[2],
        ports: [40_000, 80],
        seq: 1,
        ack: None,
        flags: "S",
        payload: &[0; 64],
    };
    assert!(send_all(&mut rig, &cut(&tcp(A, &packet), 1, 36)).is_empty());
    rig.expect_counters(&[
        (Count::Received, 6),
        (Count::Dropped(DropReason::FragmentTiny), 1),
        (Count::FragmentsWaiting, 5),
    ]);
    rig.now = rig.now.plus_secs(31);
    rig.run();
    rig.expect_counters(&[
        (Count::Dropped(DropReason::FragmentTimeout), 5),
        (Count::FragmentsWaiting, -5),
    ]);
    rig.assert_no_frame_is_lost();
}

#[test]
fn fragments_with_a_spoofed_source_are_dropped() {
    let mut rig = Rig::with(IngressOfB::Open);
    for fragment in cut(&datagram(true, 80, 3000), 1, 1500) {
        assert!(rig.send(B, &fragment).is_empty());
    }
    rig.expect_counters(&[(Count::Received, 3), (Count::Dropped(DropReason::SpoofedSource), 3)]);
    rig.assert_no_frame_is_lost();
}

#[test]
fn incomplete_datagrams_time_out_and_are_counted() {
    let mut rig = Rig::with(IngressOfB::Open);
    let fragments = cut(&datagram(true, 80, 3000), 1, 1500);
    send_all(&mut rig, &fragments[1..]);
    rig.expect_counters(&[(Count::Received, 2), (Count::FragmentsWaiting, 2)]);
    rig.now = rig.now.plus_secs(30);
    rig.run();
    rig.expect_counters(&[
        (Count::Dropped(DropReason::FragmentTimeout), 2),
        (Count::FragmentsWaiting, -2),
    ]);
    assert!(rig.send(A, &fragments[0]).is_empty(), "too late");
    rig.now = rig.now.plus_secs(30);
    rig.run();
    rig.assert_no_frame_is_lost();
}

#[test]
fn incomplete_datagrams_of_one_pod_do_not_displace_others() {
    let mut rig = Rig::with(IngressOfB::Open);
    let first = |id: u16| cut(&datagram(true, 80, 3000), id, 1500).swap_remove(0);
    for id in 0..2000 {
        assert!(rig.send(A, &first(id)).is_empty());
    }
    let waiting = rig.workers[0].stats().fragments_waiting.get();
    assert!(waiting <= 64, "{waiting}: half of one in sixteen of 2048 frames");
    assert_eq!(rig.dropped(DropReason::FragmentLimit) + waiting, 2000);
    // The node's fragments to pod B are still reassembled.
    let mut from_node = datagram(true, 80, 3000);
    from_node[26..30].copy_from_slice(&OUTSIDE);
    let fragments = cut(&from_node, 7, 1500);
    let out: Vec<_> = fragments.iter().flat_map(|bytes| rig.send(HOST, bytes)).collect();
    assert_eq!(out.len(), 3);
    rig.now = rig.now.plus_secs(30);
    rig.run();
    rig.assert_no_frame_is_lost();
}

#[test]
fn the_largest_datagrams_pass_unfragmented_and_in_fragments() {
    // 65,535 bytes: including the IPv4 header, without the IPv6 header (RFC 8200 §4.5).
    let sizes_v4 = (65_500..=65_507).map(|len| (true, len));
    let sizes_v6 = (65_512..=65_527).map(|len| (false, len));
    for (v4, len) in sizes_v4.chain(sizes_v6) {
        let mut rig = Rig::with(IngressOfB::Open);
        let sent = datagram(v4, 80, len);
        let fragments = cut(&sent, 9, 1500);
        let out = send_all(&mut rig, &reversed(fragments.clone()));
        assert_eq!(out.len(), fragments.len(), "{len} bytes");
        let left: Vec<_> = out.into_iter().map(|(_, bytes)| bytes).collect();
        assert_eq!(joined(&left), body(&sent));
        if v4 {
            let out = rig.send(A, &sent);
            assert_eq!((out.len(), &out[0].1[26..]), (1, &sent[26..]));
        }
        rig.assert_no_frame_is_lost();
    }
}

/// Extension headers of [`with_extensions`], 8 bytes each.
mod extension {
    pub(super) const HOP_BY_HOP: u8 = 0;
    pub(super) const ROUTING: u8 = 43;
    pub(super) const FRAGMENT: u8 = 44;
    pub(super) const DESTINATION: u8 = 60;
}

/// An unfragmented IPv6 packet with extension headers before what follows its fixed header.
fn with_extensions(frame: &[u8], headers: &[u8]) -> Vec<u8> {
    let mut bytes = frame[..54].to_vec();
    let mut next = std::mem::replace(&mut bytes[20], *headers.first().unwrap_or(&frame[20]));
    for (at, header) in headers.iter().enumerate() {
        next = if at + 1 < headers.len() { headers[at + 1] } else { frame[20] };
        bytes.extend(match *header {
            extension::ROUTING => [next, 0, 4, 0, 0, 0, 0, 0],
            _ => [next, 0, 1, 4, 0, 0, 0, 0],
        });
    }
    assert_eq!(next, frame[20]);
    bytes.extend(&frame[54..]);
    let payload = (bytes.len() - 54) as u16;
    bytes[18..20].copy_from_slice(&payload.to_be_bytes());
    bytes
}

/// Fragments of an IPv6 packet, each of which repeats the first `repeated` extension headers of
/// `headers` ([`with_extensions`]) before its fragment header.
fn cut_with_extensions(frame: &[u8], headers: &[u8], repeated: usize, id: u32) -> Vec<Vec<u8>> {
    const ROOM: usize = 1400;
    let whole = with_extensions(frame, headers);
    let (front, body) = whole.split_at(54 + 8 * repeated);
    let at_next = if repeated == 0 { 20 } else { 54 + 8 * (repeated - 1) };
    let parts = body.chunks(ROOM).enumerate();
    let fragment = |(index, part): (usize, &[u8])| {
        let mut bytes = front.to_vec();
        let next = std::mem::replace(&mut bytes[at_next], extension::FRAGMENT);
        let position = (index * ROOM) as u16 | u16::from((index + 1) * ROOM < body.len());
        bytes.extend([next, 0]);
        bytes.extend(position.to_be_bytes());
        bytes.extend(id.to_be_bytes());
        bytes.extend(part);
        let payload = (bytes.len() - 54) as u16;
        bytes[18..20].copy_from_slice(&payload.to_be_bytes());
        bytes
    };
    parts.map(fragment).collect()
}

#[test]
fn ipv6_extension_headers_are_before_or_after_the_fragment_header_as_rfc_8200_says() {
    use extension::{DESTINATION, FRAGMENT, HOP_BY_HOP, ROUTING};
    // The headers, how many of them the sender put before the fragment header, and how many belong
    // there: those up to the routing header, else the hop-by-hop options (RFC 8200 §4.5).
    let cases: &[(&[u8], usize, usize)] = &[
        (&[], 0, 0),
        (&[HOP_BY_HOP], 1, 1),
        (&[HOP_BY_HOP, DESTINATION], 1, 1),
        (&[DESTINATION], 1, 0),
        (&[DESTINATION], 0, 0),
        (&[DESTINATION, ROUTING], 2, 2),
        (&[DESTINATION, ROUTING], 0, 2),
        (&[HOP_BY_HOP, DESTINATION, ROUTING, DESTINATION], 3, 3),
    ];
    for (headers, sent_before, before) in cases {
        let mut rig = Rig::with(IngressOfB::FromAAt(proto::UDP));
        let mut sent = datagram(false, 80, 4000);
        let fragments = cut_with_extensions(&sent, headers, *sent_before, 0x1234_5678);
        let out = send_all(&mut rig, &reversed(fragments));
        assert_eq!(out.len(), 3, "{headers:?}");
        sent[..14].copy_from_slice(&out[0].1[..14]);
        sent[21] = 63;
        let expected = with_extensions(&sent, headers);
        let (front, body) = expected.split_at(54 + 8 * before);
        let at_next = if *before == 0 { 20 } else { 54 + 8 * (before - 1) };
        let mut received = Vec::<u8>::new();
        for (index, (link, bytes)) in out.iter().enumerate() {
            assert_eq!(*link, B);
            let mut start = bytes[..front.len()].to_vec();
            assert_eq!(std::mem::replace(&mut start[at_next], front[at_next]), FRAGMENT);
            start[18..20].copy_from_slice(&front[18..20]);
            assert_eq!(start, front, "{headers:?}");
            let header = &bytes[front.len()..front.len() + 8];
            let position = received.len() as u16 | u16::from(index < 2);
            assert_eq!(header[..2], [front[at_next], 0]);
            assert_eq!(header[2..4], position.to_be_bytes());
            assert_eq!(header[4..], [0x12, 0x34, 0x56, 0x78]);
            received.extend(&bytes[front.len() + 8..]);
        }
        assert_eq!(received, body, "{headers:?}");
        rig.assert_no_frame_is_lost();
    }
}

#[test]
fn a_reassembled_ipv6_packet_that_every_link_takes_has_no_fragment_header() {
    let mut rig = Rig::with(IngressOfB::FromAAt(proto::UDP));
    let sent = datagram(false, 80, 1000);
    let out = send_all(&mut rig, &cut(&sent, 1, 600));
    assert_eq!((out.len(), out[0].0), (1, B));
    assert_eq!((&out[0].1[14..21], &out[0].1[22..]), (&sent[14..21], &sent[22..]));
    rig.assert_no_frame_is_lost();
}

#[test]
fn a_fragment_of_several_frames_is_reassembled_and_fragmented_again() {
    let mut rig = Rig::with(IngressOfB::Open);
    let sent = datagram(true, 80, 30_000);
    let out = send_all(&mut rig, &cut(&sent, 1, 9000));
    assert_eq!(out.len(), 4);
    let left: Vec<_> = out.into_iter().map(|(_, bytes)| bytes).collect();
    assert!(left.iter().any(|bytes| bytes.len() > 8900));
    assert_eq!(joined(&left), body(&sent));
    rig.assert_no_frame_is_lost();
}

#[test]
fn an_atomic_fragment_is_an_ordinary_packet() {
    let mut rig = Rig::with(IngressOfB::FromAAt(proto::UDP));
    let atomic = cut(&datagram(false, 80, 100), 1, 1500);
    assert_eq!(atomic.len(), 1);
    let out = rig.send(A, &atomic[0]);
    assert_eq!((out.len(), &out[0].1[22..]), (1, &[&[0x3f][..], &atomic[0][22..]].concat()[1..]));
    assert!(rig.send(A, &cut(&datagram(false, 81, 100), 1, 1500)[0]).is_empty());
    rig.expect_counters(&[
        (Count::Received, 2),
        (Count::Forwarded, 1),
        (Count::Dropped(DropReason::PolicyDenied), 1),
        (Count::FlowsOpened, 1),
        (Count::Flows, 1),
    ]);
    rig.assert_no_frame_is_lost();
}

/// A packet ends in one way, however many frames are free: it passes whole or is dropped whole.
#[test]
fn a_packet_that_lacks_frames_for_some_fragments_is_dropped_whole() {
    let mut outcomes = [0; 2];
    for frames in 50..80 {
        let mut rig = Rig::of(RigConfig { frames, ring: 16, ..RigConfig::default() });
        rig.shared.publish(snapshot(1, IngressOfB::FromAAt(proto::UDP)));
        let mut forwarded = 0;
        for fragment in cut(&datagram(true, 80, 8000), 1, 1500) {
            if rig.links[A.index()].inject(0, &fragment) {
                forwarded += rig.run().len();
            }
        }
        let dropped = rig.dropped(DropReason::NoFrame);
        let made = rig.workers[0].stats().fragments_made.get();
        assert!(forwarded == 0 && made == 0 || forwarded == 6 && made == 5, "{frames} frames");
        assert!(forwarded == 0 || dropped == 0, "{frames} frames");
        outcomes[usize::from(forwarded > 0)] += u64::from(forwarded > 0).max(dropped);
        rig.expire_all();
        rig.assert_no_frame_is_lost();
    }
    assert!(outcomes.iter().all(|times| *times > 0), "{outcomes:?}");
}

/// The same for room on the transmit ring.
#[test]
fn a_packet_that_lacks_room_for_some_fragments_is_dropped_whole() {
    const RING: u32 = 16;
    for waiting in 0..=RING {
        let mut rig = Rig::of(RigConfig { ring: RING, ..RigConfig::default() });
        rig.shared.publish(snapshot(1, IngressOfB::FromAAt(proto::UDP)));
        // These are on the ring to B, and the kernel takes none of them yet.
        for _ in 0..waiting {
            assert!(rig.links[A.index()].inject(0, &datagram(true, 80, 8)));
            rig.workers[0].round(rig.now);
        }
        for fragment in cut(&datagram(true, 80, 8000), 1, 1500) {
            assert!(rig.links[A.index()].inject(0, &fragment));
            rig.workers[0].round(rig.now);
        }
        let fits = waiting + 6 <= RING;
        let made = rig.workers[0].stats().fragments_made.get();
        let dropped = rig.dropped(DropReason::TxRingFull);
        assert_eq!((made, dropped), if fits { (5, 0) } else { (0, 1) }, "{waiting} waiting");
        let expected = waiting + if fits { 6 } else { 0 };
        assert_eq!(rig.run().len(), expected as usize, "{waiting} waiting");
        rig.counts().check_conservation();
        rig.expire_all();
        rig.assert_no_frame_is_lost();
    }
}

#[test]
fn ethernet_padding_is_not_part_of_a_datagram() {
    let mut rig = Rig::with(IngressOfB::Open);
    let sent = datagram(true, 80, 1470);
    let mut fragments = cut(&sent, 1, 1492);
    assert_eq!(fragments.len(), 2);
    fragments.iter_mut().for_each(|bytes| bytes.extend([0xaa; 20]));
    let out = send_all(&mut rig, &reversed(fragments));
    let left: Vec<_> = out.into_iter().map(|(_, bytes)| bytes).collect();
    assert_eq!(joined(&left), body(&sent));
    rig.assert_no_frame_is_lost();
}

#[test]
fn fragments_of_a_removed_link_are_dropped() {
    let mut rig = Rig::with(IngressOfB::Open);
    let fragments = cut(&datagram(true, 80, 3000), 1, 1500);
    send_all(&mut rig, &fragments[1..]);
    rig.workers[0].remove_queue(A);
    rig.expect_counters(&[(Count::Received, 2), (Count::Dropped(DropReason::LinkGone), 2)]);
    rig.assert_no_frame_is_lost();
}
