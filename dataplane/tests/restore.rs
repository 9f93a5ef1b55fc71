//! Flows that outlive their workers: saved by those of one rig, restored by those of another.

use std::num::NonZeroU16;
use std::sync::Arc;

use podgate_dataplane::flow::{FlowLinks, SavedFlow};
use podgate_dataplane::packet::HostFrame;
use podgate_dataplane::worker::Worker;
use podgate_tables::address::Address;
use podgate_tables::drop_reason::DropReason;
use podgate_tables::ids::LinkId;
use podgate_tables::l7::L7Rules;
use podgate_tables::policy::{ProvenSender, Snapshot};
use podgate_tables::proto;
use podgate_tables::time::Nanos;
use podgate_tables::tuple::Tuple;
use podgate_test_support::*;
use proptest::prelude::*;

const CLIENT: u16 = 40_000;

fn a_to_b(port: u16, flags: &str, ack: Option<u32>) -> Vec<u8> {
    let (src, dst) = (ADDRESSES[1], ADDRESSES[2]);
    tcp(A, &TcpPacket { src, dst, ports: [port, 80], seq: 100, ack, flags, payload: b"" })
}

fn b_to_a(port: u16, flags: &str, ack: Option<u32>) -> Vec<u8> {
    let (src, dst) = (ADDRESSES[2], ADDRESSES[1]);
    tcp(B, &TcpPacket { src, dst, ports: [80, port], seq: 900, ack, flags, payload: b"" })
}

/// A rig with an established connection from pod A to pod B.
fn connected() -> Rig {
    let mut rig = Rig::with(IngressOfB::FromA(None));
    connect(&mut rig, CLIENT);
    rig
}

fn connect(rig: &mut Rig, port: u16) {
    rig.send(A, &a_to_b(port, "S", None));
    rig.send(B, &b_to_a(port, "S", Some(101)));
    assert_eq!(rig.send(A, &a_to_b(port, "", Some(901))).len(), 1);
}

fn saved(rig: &Rig) -> Vec<SavedFlow> {
    rig.workers.iter().flat_map(|worker| worker.saved_flows(rig.now)).collect()
}

/// Restores flows in workers of another agent under `snapshot`, which is then published.
fn restarted(workers: u16, flows: &[SavedFlow], snapshot: Snapshot) -> (Rig, usize) {
    let mut rig = Rig::new(workers);
    let snapshot = Arc::new(snapshot);
    let now = rig.now;
    let restore = |worker: &mut Worker| worker.restore_flows(now, &snapshot, flows);
    let restored = rig.workers.iter_mut().map(restore).sum();
    rig.shared.publish(snapshot);
    (rig, restored)
}

/// Injects a packet at every worker; one of them owns the flow.
fn send_at_all(rig: &mut Rig, link: LinkId, packet: &[u8]) -> Vec<(LinkId, Vec<u8>)> {
    for worker in 0..rig.workers.len() {
        assert!(rig.links[link.index()].inject(worker, packet));
    }
    rig.run()
}

#[test]
fn an_established_connection_continues_with_another_number_of_workers() {
    let flows = saved(&connected());
    assert_eq!(flows.len(), 1);
    assert_eq!((flows[0].links, flows[0].packets), (FlowLinks::new(A, B), [2, 1]));
    for workers in [1, 2, 3, 7] {
        let (mut rig, restored) = restarted(workers, &flows, guarded(1, IngressOfB::FromA(None)));
        assert_eq!(restored, 1, "one worker owns it");
        let forwarded =
            |left: &[(LinkId, Vec<u8>)], to| left.iter().filter(|(link, _)| *link == to).count();
        let left = send_at_all(&mut rig, A, &a_to_b(CLIENT, "P", Some(901)));
        assert_eq!(forwarded(&left, B), 1);
        let left = send_at_all(&mut rig, B, &b_to_a(CLIENT, "P", Some(101)));
        assert_eq!(forwarded(&left, A), 1);
        rig.assert_no_frame_is_lost();
    }
}

#[test]
fn datagram_flows_and_icmp_queries_continue_too() {
    let mut rig = Rig::with(IngressOfB::FromAAt(proto::UDP));
    let (a, b) = (ADDRESSES[1], ADDRESSES[2]);
    rig.send(A, &udp(A, a, b, [7, 80], b"q"));
    rig.send(A, &echo(A, a, OUTSIDE, 8, 77));
    rig.send(A, &sctp(A, a, OUTSIDE, [5, 6]));
    let flows = saved(&rig);
    assert_eq!(flows.len(), 3);
    let (mut rig, restored) = restarted(1, &flows, snapshot(1, IngressOfB::FromAAt(proto::UDP)));
    assert_eq!(restored, 3);
    assert_eq!(rig.send(B, &udp(B, b, a, [80, 7], b"a")).len(), 1);
    assert_eq!(rig.send(HOST, &echo(HOST, OUTSIDE, a, 0, 77)).len(), 1);
    assert_eq!(rig.send(HOST, &sctp(HOST, OUTSIDE, a, [6, 5])).len(), 1);
    assert_eq!(rig.workers[0].flows(), 3);
}

#[test]
fn a_restored_flow_has_the_sender_that_it_had() {
    let mut rig = Rig::with(IngressOfB::Open);
    let to_self = HostFrame::Hairpin { sender: NonZeroU16::new(B.0) };
    let senders = [
        (7, HostFrame::Local, Some(ProvenSender::Node)),
        (8, to_self, Some(ProvenSender::Destination)),
        (9, HostFrame::Foreign, None),
    ];
    for (port, mark, _) in senders {
        let frame = udp(HOST, ADDRESSES[0], ADDRESSES[2], [port, 80], b"q");
        let frame = [&frame[..6], &mark.mac(), &frame[12..]].concat();
        assert_eq!(rig.send(HOST, &frame).len(), 1);
    }
    let flows = saved(&rig);
    assert_eq!(restarted(1, &flows, snapshot(1, IngressOfB::Open)).1, 3);
    let (rig, restored) = restarted(1, &flows, snapshot(1, IngressOfB::Closed));
    assert_eq!(restored, 2);
    let flows = saved(&rig);
    for (port, _, sender) in senders {
        let flow = flows.iter().find(|flow| flow.tuple.src_port == port);
        assert_eq!(flow.map(|flow| flow.sender), sender);
    }
}

#[test]
fn a_flow_of_a_pod_to_itself_is_restored_whatever_its_policy() {
    // Through a service whose backend is the pod, without masquerading.
    let links = FlowLinks::new(HOST, B);
    let (src, dst) = (Address::v4(ADDRESSES[2]), Address::v4(ADDRESSES[2]));
    let mut flow = saved(&connected()).remove(0);
    flow = SavedFlow { tuple: Tuple { src, dst, ..flow.tuple }, links, ..flow };
    let closed = || snapshot(1, IngressOfB::Closed);
    let (mut rig, restored) = restarted(1, std::slice::from_ref(&flow), closed());
    assert_eq!(restored, 1);
    // Other packets don't pass because of it: the source alone proves nothing.
    let [src, dst] = [ADDRESSES[2]; 2];
    let ports = [CLIENT, 80];
    let segment = TcpPacket { src, dst, ports, seq: 101, ack: Some(901), flags: "P", payload: b"" };
    let segment = tcp(HOST, &segment);
    for mark in [HostFrame::Local, HostFrame::Foreign] {
        let frame = [&segment[..6], &mark.mac(), &segment[12..]].concat();
        assert_eq!(rig.send(HOST, &frame), [], "{mark:?}");
    }
    rig.assert_no_frame_is_lost();
}

#[test]
fn a_flow_that_policy_no_longer_allows_plainly_is_not_restored() {
    let flows = saved(&connected());
    let inspects = IngressOfB::FromA(Some(L7Rules::http(Vec::new())));
    for (policy, resets) in [(IngressOfB::Closed, 1), (inspects, 2)] {
        let (mut rig, restored) = restarted(1, &flows, snapshot(1, policy));
        assert_eq!((restored, rig.workers[0].flows()), (0, 0));
        let left = rig.send(A, &a_to_b(CLIENT, "P", Some(901)));
        assert_eq!(left.len(), resets, "its sender is reset, and its receiver if it is inspected");
        assert!(left.iter().all(|(_, frame)| is_reset(frame)));
        assert!(left.iter().any(|(link, _)| *link == A));
        rig.expect_counters(&[
            (Count::Received, 1),
            (Count::Dropped(DropReason::TcpNoFlow), 1),
            (Count::Originated, resets as i64),
            (Count::ResetsSent, resets as i64),
        ]);
    }
}

#[test]
fn a_flow_between_other_links_than_its_routes_is_not_restored() {
    let flows = saved(&connected());
    for (opener, responder) in [(B, A), (A, HOST), (HOST, B), (A, A), (LinkId(9), B)] {
        let links = FlowLinks { opener, responder };
        let moved: Vec<_> = flows.iter().map(|f| SavedFlow { links, ..f.clone() }).collect();
        let (_, restored) = restarted(1, &moved, snapshot(1, IngressOfB::Open));
        // Replies to packets from the kernel go back there, whatever their source.
        assert_eq!(restored, usize::from(links == FlowLinks::new(HOST, B)), "{links:?}");
    }
}

#[test]
fn a_picked_up_flow_needs_policy_in_both_directions() {
    let mut rig = Rig::with(IngressOfB::Open);
    rig.send(B, &b_to_a(CLIENT, "P", Some(5)));
    let flows = saved(&rig);
    assert!(flows[0].picked_up);
    assert_eq!(restarted(1, &flows, snapshot(1, IngressOfB::Open)).1, 1);
    assert_eq!(restarted(1, &flows, guarded(1, IngressOfB::Open)).1, 0);
    assert_eq!(restarted(1, &flows, snapshot(1, IngressOfB::Closed)).1, 0);
}

#[test]
fn inspected_revoked_expired_and_reset_flows_are_not_saved() {
    let mut rig = Rig::with(IngressOfB::FromA(Some(L7Rules::http(Vec::new()))));
    rig.send(A, &a_to_b(CLIENT, "S", None));
    assert_eq!((rig.workers[0].flows(), saved(&rig).len()), (1, 0));

    let mut rig = connected();
    rig.send(A, &a_to_b(CLIENT, "R", None));
    assert_eq!((rig.workers[0].flows(), saved(&rig).len()), (1, 0));

    let mut rig = Rig::with(IngressOfB::Open);
    let query = udp(A, ADDRESSES[1], ADDRESSES[2], [1, 2], b"x");
    rig.send(A, &query);
    rig.shared.publish(snapshot(2, IngressOfB::Closed));
    rig.send(A, &query);
    assert_eq!((rig.workers[0].flows(), saved(&rig).len()), (1, 0));

    let mut rig = connected();
    assert_eq!(saved(&rig)[0].idle_ms, 0);
    rig.now = rig.now.plus_secs(7000);
    let idle = saved(&rig)[0].idle_ms;
    assert!((6_999_000..=7_000_000).contains(&idle), "{idle}");
    rig.now = rig.now.plus_secs(500);
    assert_eq!(saved(&rig).len(), 0);
}

#[test]
fn idle_time_continues() {
    let mut flows = saved(&connected());
    flows[0].idle_ms = 7_430_000;
    let (mut rig, restored) = restarted(1, &flows, snapshot(1, IngressOfB::FromA(None)));
    assert_eq!(restored, 1);
    // Removed at most a quarter of its timeout late, and not used after its timeout.
    rig.now = rig.now.plus_secs(1870);
    for _ in 0..32 {
        rig.run();
    }
    assert_eq!(rig.workers[0].flows(), 0);
    flows[0].idle_ms = 7_441_000;
    assert_eq!(restarted(1, &flows, snapshot(1, IngressOfB::FromA(None))).1, 0);
}

#[test]
fn restored_flows_respect_fair_shares_and_are_not_duplicated() {
    let mut rig = Rig::with(IngressOfB::FromA(None));
    (1..=100).for_each(|port| connect(&mut rig, port));
    let flows = saved(&rig);
    let (mut rig, restored) = restarted(1, &flows, snapshot(1, IngressOfB::FromA(None)));
    assert_eq!(restored, 100);
    let same = Arc::new(snapshot(1, IngressOfB::FromA(None)));
    assert_eq!(rig.workers[0].restore_flows(rig.now, &same, &flows), 0);
    let many: Vec<_> = (1..=1000)
        .map(|port| {
            let mut flow = flows[0].clone();
            flow.tuple.src_port = port;
            flow
        })
        .collect();
    let (rig, restored) = restarted(1, &many, snapshot(1, IngressOfB::FromA(None)));
    assert_eq!((restored, rig.workers[0].flows()), (128, 128), "one link leaves half of the table");
}

fn any_address() -> impl Strategy<Value = Address> {
    prop_oneof![
        prop::sample::select(ADDRESSES.to_vec()).prop_map(Address::v4),
        prop::sample::select(ADDRESSES_V6.to_vec()).prop_map(Address::v6),
        any::<[u8; 4]>().prop_map(Address::v4),
        any::<u128>().prop_map(Address::from_bits),
    ]
}

proptest! {
    /// Whatever a file contains: a flow that the same tables deny is not restored.
    #[test]
    fn no_flow_that_policy_denies_is_restored(
        (src, dst) in (any_address(), any_address()),
        (src_port, dst_port) in (any::<u16>(), prop_oneof![Just(80), any::<u16>()]),
        protocol in prop_oneof![Just(proto::TCP), Just(proto::UDP), Just(proto::ICMP), any::<u8>()],
        (opener, responder) in (0..4u16, 0..4u16),
        (picked_up, idle_ms) in (any::<bool>(), any::<u32>()),
        sender in prop::sample::select(vec![ProvenSender::Node, ProvenSender::Destination, ProvenSender::Unknown]),
    ) {
        let tuple = Tuple { src, dst, src_port, dst_port, protocol };
        let links = FlowLinks::new(LinkId(opener), LinkId(responder));
        let mut flow = saved(&connected()).remove(0);
        flow = SavedFlow { tuple, links, picked_up, sender, idle_ms, ..flow };
        let (mut rig, restored) =
            restarted(1, std::slice::from_ref(&flow), snapshot(1, IngressOfB::Closed));
        let to_b = [2].iter().any(|pod: &usize| {
            [Address::v4(ADDRESSES[*pod]), Address::v6(ADDRESSES_V6[*pod])].contains(&dst)
        });
        let nodes = [Address::v4(ADDRESSES[0]), Address::v6(ADDRESSES_V6[0])];
        let exempt = src == dst
            || sender == ProvenSender::Destination
            || sender == ProvenSender::Node && nodes.contains(&src);
        prop_assert!(!(restored == 1 && to_b && !exempt), "pod B is closed: {flow:?}");
        rig.now = Nanos(rig.now.0 + 1_000_000);
        rig.run();
    }
}
