//! Resets for segments of unknown connections.

use std::sync::Arc;

use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use podgate_tables::drop_reason::DropReason;
use podgate_tables::ids::LinkId;
use podgate_tables::l7::L7Rules;
use podgate_tables::policy::Snapshot;
use podgate_test_support::*;
use proptest::prelude::*;

const CLIENT: u16 = 40_000;
const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// A segment from pod A's client port to pod B's port 80, or the other way.
fn segment(v4: bool, from: LinkId, flags: u8, payload: &[u8]) -> Vec<u8> {
    let (ends, ports) = if from == A { ([1, 2], [CLIENT, 80]) } else { ([2, 1], [80, CLIENT]) };
    let ether = PacketBuilder::ethernet2(pod_mac(from), link_mac(from));
    let step = match v4 {
        true => ether.ipv4(ADDRESSES[ends[0]], ADDRESSES[ends[1]], 64),
        false => ether.ipv6(ADDRESSES_V6[ends[0]], ADDRESSES_V6[ends[1]], 64),
    };
    let mut step = step.tcp(ports[0], ports[1], 1000, 64_000);
    if flags & FIN != 0 {
        step = step.fin();
    }
    if flags & SYN != 0 {
        step = step.syn();
    }
    if flags & RST != 0 {
        step = step.rst();
    }
    if flags & ACK != 0 {
        step = step.ack(5000);
    }
    let mut bytes = Vec::new();
    step.write(&mut bytes, payload).expect("well-formed in a test");
    bytes
}

/// Sequence and acknowledgement number of a reset in reply to `segment`; verifies its other fields.
fn reset_for(segment: &[u8], reset: &[u8]) -> (u32, Option<u32>) {
    let [asked, reset] = [segment, reset]
        .map(|bytes| SlicedPacket::from_ethernet(bytes).expect("well-formed in a test"));
    let (asked_tcp, tcp) = match (&asked.transport, &reset.transport) {
        (Some(TransportSlice::Tcp(asked)), Some(TransportSlice::Tcp(reset))) => (asked, reset),
        other => panic!("no TCP: {other:?}"),
    };
    let sum = match (
        asked.net.as_ref().expect("well-formed in a test"),
        reset.net.as_ref().expect("well-formed in a test"),
    ) {
        (NetSlice::Ipv4(asked), NetSlice::Ipv4(ip)) => {
            let (asked, ip) = (asked.header(), ip.header());
            assert_eq!([ip.source(), ip.destination()], [asked.destination(), asked.source()]);
            tcp.calc_checksum_ipv4(ip.source(), ip.destination())
        }
        (NetSlice::Ipv6(asked), NetSlice::Ipv6(ip)) => {
            let (asked, ip) = (asked.header(), ip.header());
            assert_eq!([ip.source(), ip.destination()], [asked.destination(), asked.source()]);
            tcp.calc_checksum_ipv6(ip.source(), ip.destination())
        }
        other => panic!("not of one family: {other:?}"),
    };
    assert_eq!(tcp.checksum(), sum.expect("well-formed in a test"));
    assert_eq!(tcp.source_port(), asked_tcp.destination_port());
    assert_eq!(tcp.destination_port(), asked_tcp.source_port());
    assert!(tcp.rst() && !tcp.syn() && !tcp.fin() && tcp.payload().is_empty());
    (tcp.sequence_number(), tcp.ack().then(|| tcp.acknowledgment_number()))
}

/// Verifies a reset for the receiver of `segment`, which `link` leads to.
fn expect_reset_of_receiver(segment: &[u8], link: LinkId, reset: &[u8]) {
    assert_eq!((&reset[..6], &reset[6..12]), (&pod_mac(link)[..], &link_mac(link)[..]));
    let [sent, reset] = [segment, reset]
        .map(|bytes| SlicedPacket::from_ethernet(bytes).expect("well-formed in a test"));
    let addresses = |packet: &SlicedPacket<'_>| match &packet.net {
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header();
            [header.source(), header.destination()].map(|address| address.to_vec())
        }
        Some(NetSlice::Ipv6(ip)) => {
            let header = ip.header();
            [header.source(), header.destination()].map(|address| address.to_vec())
        }
        other => panic!("no IP: {other:?}"),
    };
    assert_eq!(addresses(&reset), addresses(&sent));
    let (Some(TransportSlice::Tcp(sent)), Some(TransportSlice::Tcp(tcp))) =
        (&sent.transport, &reset.transport)
    else {
        panic!("no TCP");
    };
    assert_eq!(tcp.source_port(), sent.source_port());
    assert_eq!(tcp.destination_port(), sent.destination_port());
    assert_eq!(tcp.sequence_number(), sent.sequence_number());
    assert!(tcp.rst() && !tcp.syn() && !tcp.fin() && tcp.payload().is_empty());
}

fn resets(rig: &Rig) -> u64 {
    rig.workers.iter().map(|worker| worker.stats().resets_sent.get()).sum()
}

/// A rig with a policy that allows no flows to pod A.
fn with(policy: IngressOfB) -> Rig {
    let rig = Rig::new(1);
    rig.shared.publish(guarded(1, policy));
    rig
}

fn inspected() -> IngressOfB {
    IngressOfB::FromA(Some(L7Rules::http(Vec::new())))
}

#[test]
fn both_ends_of_an_unknown_connection_that_policy_allows_or_inspects_are_reset() {
    for policy in [|| IngressOfB::FromA(None), inspected] {
        for (v4, from) in [(true, A), (true, B), (false, A), (false, B)] {
            let mut rig = with(policy());
            let sent = segment(v4, from, ACK, b"data");
            let left = rig.send(from, &sent);
            assert_eq!(left.len(), 1, "{v4} {from:?}");
            assert_eq!(left[0].0, from, "it goes back to the sender");
            assert_eq!(left[0].1[..6], pod_mac(from));
            assert_eq!(left[0].1[6..12], link_mac(from));
            assert_eq!(reset_for(&sent, &left[0].1), (5000, None));
            rig.expect_counters(&[
                (Count::Received, 1),
                (Count::Dropped(DropReason::TcpNoFlow), 1),
                (Count::Originated, 1),
                (Count::ResetsSent, 1),
            ]);
            assert_eq!((resets(&rig), rig.workers[0].flows()), (1, 0));
            rig.assert_no_frame_is_lost();
        }
    }
}

#[test]
fn both_ends_of_an_unknown_connection_that_policy_inspects_and_denies_to_neither_are_reset() {
    for (v4, from, to) in [(true, A, B), (true, B, A), (false, A, B), (false, B, A)] {
        let mut rig = Rig::with(inspected());
        let sent = segment(v4, from, ACK, b"data");
        let left = rig.send(from, &sent);
        assert_eq!(left.len(), 2, "{v4} {from:?}");
        let reset_of = |link| left.iter().find(|(to, _)| *to == link).expect("a reset");
        assert_eq!(reset_for(&sent, &reset_of(from).1), (5000, None));
        expect_reset_of_receiver(&sent, to, &reset_of(to).1);
        rig.expect_counters(&[
            (Count::Received, 1),
            (Count::Dropped(DropReason::TcpNoFlow), 1),
            (Count::Originated, 2),
            (Count::ResetsSent, 2),
        ]);
        // The receiver of a SYN-ACK retransmits its SYN.
        assert_eq!(rig.send(from, &segment(v4, from, ACK | SYN, b"")).len(), 1);
        rig.assert_no_frame_is_lost();
    }
}

#[test]
fn a_reset_has_the_acknowledged_sequence_number() {
    for v4 in [true, false] {
        let mut rig = with(IngressOfB::FromA(None));
        for (flags, payload) in [(ACK, &b""[..]), (ACK | FIN, b"x"), (ACK | SYN, b"")] {
            let sent = segment(v4, A, flags, payload);
            let left = rig.send(A, &sent);
            assert_eq!(reset_for(&sent, &left[0].1), (5000, None), "{flags}");
        }
        // Without ACK there are only SYNs and resets: the parser rejects others.
        for flags in [FIN, 0] {
            assert!(rig.send(A, &segment(v4, A, flags, b"x")).is_empty());
        }
        assert_eq!((rig.dropped(DropReason::Malformed), resets(&rig)), (2, 3));
    }
}

#[test]
fn a_connection_allowed_in_one_direction_is_reset() {
    let mut rig = Rig::with(IngressOfB::Closed);
    for from in [A, B] {
        assert_eq!(rig.send(from, &segment(true, from, ACK, b"data")).len(), 1);
    }
    assert_eq!((resets(&rig), rig.dropped(DropReason::TcpNoFlow)), (2, 2));
}

#[test]
fn ends_without_any_allowed_connection_get_no_reset() {
    let mut rig = Rig::new(1);
    rig.shared.publish(strangers());
    for (v4, from) in [(true, A), (true, B), (false, A), (false, B)] {
        for flags in [ACK, ACK | FIN, ACK | SYN] {
            assert!(rig.send(from, &segment(v4, from, flags, b"")).is_empty());
        }
    }
    rig.expect_counters(&[(Count::Received, 12), (Count::Dropped(DropReason::PolicyDenied), 12)]);
    assert_eq!(resets(&rig), 0);
}

#[test]
fn no_reset_is_sent_in_reply_to_a_reset() {
    for policy in [|| IngressOfB::FromA(None), inspected] {
        let mut rig = with(policy());
        for from in [A, B] {
            for flags in [RST, RST | ACK] {
                assert!(rig.send(from, &segment(true, from, flags, b"")).is_empty());
            }
        }
        assert_eq!((resets(&rig), rig.dropped(DropReason::TcpNoFlow)), (0, 2));
        rig.expect_counters(&[
            (Count::Received, 4),
            (Count::Dropped(DropReason::PolicyDenied), 2),
            (Count::Dropped(DropReason::TcpNoFlow), 2),
        ]);
    }
}

#[test]
fn resets_are_rate_limited_per_link() {
    let mut rig = with(IngressOfB::FromA(None));
    let mut flood = |link, times| {
        (0..times).map(|_| rig.send(link, &segment(true, link, ACK, b"")).len()).sum::<usize>()
    };
    assert_eq!(flood(A, 600), 500);
    assert_eq!(flood(B, 10), 10, "another link has its own");
    assert_eq!(resets(&rig), 510);
    rig.expect_counters(&[
        (Count::Received, 610),
        (Count::Dropped(DropReason::TcpNoFlow), 610),
        (Count::Originated, 510),
        (Count::ResetsSent, 510),
    ]);
}

#[test]
fn a_connection_that_policy_allows_from_either_end_continues() {
    let mut rig = Rig::with(IngressOfB::Open);
    let left = rig.send(A, &segment(true, A, ACK, b"data"));
    assert_eq!((left.len(), left[0].0), (1, B));
    assert_eq!(resets(&rig), 0);
}

proptest! {
    #[test]
    fn no_segment_opens_a_flow_or_provokes_a_reset_between_strangers(
        flags in any::<u8>(), from_a in any::<bool>(), v4 in any::<bool>(),
    ) {
        let mut rig = Rig::new(1);
        rig.shared.publish(strangers());
        let from = if from_a { A } else { B };
        prop_assert!(rig.send(from, &segment(v4, from, flags, b"x")).is_empty());
        prop_assert_eq!((resets(&rig), rig.workers[0].flows()), (0, 0));
    }
}

/// Policy allows no flows from or to pod B.
fn strangers() -> Snapshot {
    const POD_B: u32 = 5;
    let mut snapshot = snapshot(1, IngressOfB::Closed);
    let policy = Arc::make_mut(&mut snapshot.policy);
    let mut row = policy.identities.get(POD_B).expect("well-formed in a test").clone();
    row.egress = Arc::new(closed());
    policy.identities.set(POD_B, row);
    snapshot
}
