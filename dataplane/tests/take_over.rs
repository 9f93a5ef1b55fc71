//! Flows that outlive their workers: handed out by those of one bench, taken over by those of
//! another.

mod support;

use std::sync::Arc;

use podgate_dataplane::flow::SavedFlow;
use podgate_dataplane::packet::FOREIGN_MAC;
use podgate_dataplane::worker::Worker;
use podgate_tables::address::Address;
use podgate_tables::drop_reason::DropReason;
use podgate_tables::ids::LinkId;
use podgate_tables::l7::L7Rules;
use podgate_tables::policy::{NodeSource, Snapshot};
use podgate_tables::proto;
use podgate_tables::time::Nanos;
use proptest::prelude::*;
use support::*;

const CLIENT: u16 = 40_000;

fn a_to_b(port: u16, flags: &str, ack: Option<u32>) -> Vec<u8> {
    let (src, dst) = (ADDRESSES[1], ADDRESSES[2]);
    tcp(A, &TcpPacket { src, dst, ports: [port, 80], seq: 100, ack, flags, payload: b"" })
}

fn b_to_a(port: u16, flags: &str, ack: Option<u32>) -> Vec<u8> {
    let (src, dst) = (ADDRESSES[2], ADDRESSES[1]);
    tcp(B, &TcpPacket { src, dst, ports: [80, port], seq: 900, ack, flags, payload: b"" })
}

/// A bench with an established connection from pod A to pod B.
fn connected() -> Bench {
    let mut bench = Bench::with(IngressOfB::FromA(None));
    connect(&mut bench, CLIENT);
    bench
}

fn connect(bench: &mut Bench, port: u16) {
    bench.send(A, &a_to_b(port, "S", None));
    bench.send(B, &b_to_a(port, "S", Some(101)));
    assert_eq!(bench.send(A, &a_to_b(port, "", Some(901))).len(), 1);
}

fn saved(bench: &Bench) -> Vec<SavedFlow> {
    bench.workers.iter().flat_map(|worker| worker.saved_flows(bench.now)).collect()
}

/// Lets workers of another agent take flows over under `snapshot`, which is then published.
fn restarted(workers: u16, flows: &[SavedFlow], snapshot: Snapshot) -> (Bench, usize) {
    let mut bench = Bench::new(workers);
    let snapshot = Arc::new(snapshot);
    let now = bench.now;
    let take = |worker: &mut Worker| worker.take_over(now, &snapshot, flows);
    let taken = bench.workers.iter_mut().map(take).sum();
    bench.shared.publish(snapshot);
    (bench, taken)
}

/// Sends at every worker, of which the one that owns the flow knows it.
fn send_at_all(bench: &mut Bench, link: LinkId, packet: &[u8]) -> Vec<(LinkId, Vec<u8>)> {
    for worker in 0..bench.workers.len() {
        assert!(bench.links[link.index()].inject(worker, packet));
    }
    bench.run()
}

#[test]
fn an_established_connection_goes_on_both_ways_with_another_number_of_workers() {
    let flows = saved(&connected());
    assert_eq!(flows.len(), 1);
    assert_eq!((flows[0].links, flows[0].packets), ([A, B], [2, 1]));
    for workers in [1, 2, 3, 7] {
        let (mut bench, taken) = restarted(workers, &flows, guarded(1, IngressOfB::FromA(None)));
        assert_eq!(taken, 1, "one worker owns it");
        let forwarded =
            |left: &[(LinkId, Vec<u8>)], to| left.iter().filter(|(link, _)| *link == to).count();
        let left = send_at_all(&mut bench, A, &a_to_b(CLIENT, "P", Some(901)));
        assert_eq!(forwarded(&left, B), 1);
        let left = send_at_all(&mut bench, B, &b_to_a(CLIENT, "P", Some(101)));
        assert_eq!(forwarded(&left, A), 1);
        bench.assert_no_frame_is_lost();
    }
}

#[test]
fn datagram_flows_and_queries_go_on_too() {
    let mut bench = Bench::with(IngressOfB::FromAAt(proto::UDP));
    let (a, b) = (ADDRESSES[1], ADDRESSES[2]);
    bench.send(A, &udp(A, a, b, [7, 80], b"q"));
    bench.send(A, &echo(A, a, OUTSIDE, 8, 77));
    bench.send(A, &sctp(A, a, OUTSIDE, [5, 6]));
    let flows = saved(&bench);
    assert_eq!(flows.len(), 3);
    let (mut bench, taken) = restarted(1, &flows, snapshot(1, IngressOfB::FromAAt(proto::UDP)));
    assert_eq!(taken, 3);
    assert_eq!(bench.send(B, &udp(B, b, a, [80, 7], b"a")).len(), 1);
    assert_eq!(bench.send(HOST, &echo(HOST, OUTSIDE, a, 0, 77)).len(), 1);
    assert_eq!(bench.send(HOST, &sctp(HOST, OUTSIDE, a, [6, 5])).len(), 1);
    assert_eq!(bench.workers[0].flows(), 3);
}

#[test]
fn a_flow_is_the_nodes_after_a_restart_only_if_it_was_before() {
    let mut bench = Bench::with(IngressOfB::Open);
    let datagram = |port| udp(HOST, ADDRESSES[0], ADDRESSES[2], [port, 80], b"q");
    let translated = [&datagram(8)[..6], &FOREIGN_MAC, &datagram(8)[12..]].concat();
    assert_eq!(bench.send(HOST, &datagram(7)).len(), 1);
    assert_eq!(bench.send(HOST, &translated).len(), 1);
    let flows = saved(&bench);
    assert_eq!(flows.len(), 2);
    assert_eq!(restarted(1, &flows, snapshot(1, IngressOfB::Open)).1, 2);
    let (bench, taken) = restarted(1, &flows, snapshot(1, IngressOfB::Closed));
    assert_eq!(taken, 1);
    assert_eq!(saved(&bench)[0].tuple.src_port, 7);
    assert_eq!(saved(&bench)[0].node_source, NodeSource::Node);
}

#[test]
fn what_policy_no_longer_allows_plainly_is_not_taken_over() {
    let flows = saved(&connected());
    let inspects = IngressOfB::FromA(Some(L7Rules::Http(Vec::new())));
    for (policy, resets) in [(IngressOfB::Closed, 1), (inspects, 1)] {
        let (mut bench, taken) = restarted(1, &flows, snapshot(1, policy));
        assert_eq!((taken, bench.workers[0].flows()), (0, 0));
        let left = bench.send(A, &a_to_b(CLIENT, "P", Some(901)));
        assert_eq!((left.len(), left[0].0), (resets, A), "its sender is reset");
        assert_eq!(bench.dropped(DropReason::TcpNoFlow), 1);
    }
}

#[test]
fn a_flow_between_other_links_than_the_routes_say_is_not_taken_over() {
    let flows = saved(&connected());
    for links in [[B, A], [A, HOST], [HOST, B], [A, A], [LinkId(9), B]] {
        let moved: Vec<_> = flows.iter().map(|f| SavedFlow { links, ..f.clone() }).collect();
        let (_, taken) = restarted(1, &moved, snapshot(1, IngressOfB::Open));
        // What came by the kernel goes back there, whoever its sender is.
        assert_eq!(taken, usize::from(links == [HOST, B]), "{links:?}");
    }
}

#[test]
fn a_picked_up_flow_needs_both_directions_as_ever() {
    let mut bench = Bench::with(IngressOfB::Open);
    bench.send(B, &b_to_a(CLIENT, "P", Some(5)));
    let flows = saved(&bench);
    assert!(flows[0].picked_up);
    assert_eq!(restarted(1, &flows, snapshot(1, IngressOfB::Open)).1, 1);
    assert_eq!(restarted(1, &flows, guarded(1, IngressOfB::Open)).1, 0);
    assert_eq!(restarted(1, &flows, snapshot(1, IngressOfB::Closed)).1, 0);
}

#[test]
fn inspected_revoked_expired_and_reset_flows_are_not_handed_out() {
    let mut bench = Bench::with(IngressOfB::FromA(Some(L7Rules::Http(Vec::new()))));
    bench.send(A, &a_to_b(CLIENT, "S", None));
    assert_eq!((bench.workers[0].flows(), saved(&bench).len()), (1, 0));

    let mut bench = connected();
    bench.send(A, &a_to_b(CLIENT, "R", None));
    assert_eq!((bench.workers[0].flows(), saved(&bench).len()), (1, 0));

    let mut bench = Bench::with(IngressOfB::Open);
    let query = udp(A, ADDRESSES[1], ADDRESSES[2], [1, 2], b"x");
    bench.send(A, &query);
    bench.shared.publish(snapshot(2, IngressOfB::Closed));
    bench.send(A, &query);
    assert_eq!((bench.workers[0].flows(), saved(&bench).len()), (1, 0));

    let mut bench = connected();
    assert_eq!(saved(&bench)[0].idle_ms, 0);
    bench.now = bench.now.plus_secs(7000);
    let idle = saved(&bench)[0].idle_ms;
    assert!((6_999_000..=7_000_000).contains(&idle), "{idle}");
    bench.now = bench.now.plus_secs(500);
    assert_eq!(saved(&bench).len(), 0);
}

#[test]
fn silence_goes_on_counting() {
    let mut flows = saved(&connected());
    flows[0].idle_ms = 7_430_000;
    let (mut bench, taken) = restarted(1, &flows, snapshot(1, IngressOfB::FromA(None)));
    assert_eq!(taken, 1);
    // Late by a quarter of its timeout at most, and never used again after that.
    bench.now = bench.now.plus_secs(1870);
    for _ in 0..32 {
        bench.run();
    }
    assert_eq!(bench.workers[0].flows(), 0);
    flows[0].idle_ms = 7_441_000;
    assert_eq!(restarted(1, &flows, snapshot(1, IngressOfB::FromA(None))).1, 0);
}

#[test]
fn a_table_takes_over_no_more_than_it_has_room_for_and_nothing_twice() {
    let mut bench = Bench::with(IngressOfB::FromA(None));
    (1..=100).for_each(|port| connect(&mut bench, port));
    let flows = saved(&bench);
    let (mut bench, taken) = restarted(1, &flows, snapshot(1, IngressOfB::FromA(None)));
    assert_eq!(taken, 100);
    let same = Arc::new(snapshot(1, IngressOfB::FromA(None)));
    assert_eq!(bench.workers[0].take_over(bench.now, &same, &flows), 0);
    let many: Vec<_> = (1..=1000)
        .map(|port| {
            let mut flow = flows[0].clone();
            flow.tuple.src_port = port;
            flow
        })
        .collect();
    let (bench, taken) = restarted(1, &many, snapshot(1, IngressOfB::FromA(None)));
    assert_eq!((taken, bench.workers[0].flows()), (128, 128), "one link leaves half of the table");
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
    /// Whatever a file says: nothing is taken over that the same tables would not let be opened.
    #[test]
    fn no_flow_is_taken_over_that_policy_denies(
        (src, dst) in (any_address(), any_address()),
        (src_port, dst_port) in (any::<u16>(), prop_oneof![Just(80), any::<u16>()]),
        protocol in prop_oneof![Just(proto::TCP), Just(proto::UDP), Just(proto::ICMP), any::<u8>()],
        links in prop::array::uniform2((0..4u16).prop_map(LinkId)),
        (icmp_type, picked_up, idle_ms) in (any::<u8>(), any::<bool>(), any::<u32>()),
        node_source in prop_oneof![Just(NodeSource::Node), Just(NodeSource::Elsewhere)],
    ) {
        let tuple = podgate_tables::tuple::Tuple { src, dst, src_port, dst_port, protocol };
        let mut flow = saved(&connected()).remove(0);
        flow = SavedFlow { tuple, links, icmp_type, picked_up, node_source, idle_ms, ..flow };
        let (mut bench, taken) =
            restarted(1, std::slice::from_ref(&flow), snapshot(1, IngressOfB::Closed));
        let to_b = [2].iter().any(|pod: &usize| {
            [Address::v4(ADDRESSES[*pod]), Address::v6(ADDRESSES_V6[*pod])].contains(&dst)
        });
        let from_node = node_source == NodeSource::Node
            && [Address::v4(ADDRESSES[0]), Address::v6(ADDRESSES_V6[0])].contains(&src);
        prop_assert!(!(taken == 1 && to_b && !from_node), "pod B is closed: {flow:?}");
        bench.now = Nanos(bench.now.0 + 1_000_000);
        bench.run();
    }
}
