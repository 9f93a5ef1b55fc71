//! The whole worker on memory links: parse, flows, policy, forwarding, counting.

mod support;

use std::sync::Arc;

use etherparse::PacketBuilder;
use podgate_dataplane::packet::checksum::Sum;
use podgate_dataplane::packet::{FOREIGN_MAC, HAIRPIN_MAC, LOCAL_MAC};
use podgate_tables::address::Address;
use podgate_tables::drop_reason::DropReason;
use podgate_tables::event::EventKind;
use podgate_tables::ids::LinkId;
use podgate_tables::policy::{AddressRow, Cause, PolicyTables, Snapshot, Verdict};
use podgate_tables::route::RouteTable;
use podgate_tables::tunnel::Tunnels;
use proptest::prelude::*;
use support::*;

const CLIENT: u16 = 40_000;

fn a_to_b(flags: &str, ack: Option<u32>) -> Vec<u8> {
    let (src, dst) = (ADDRESSES[1], ADDRESSES[2]);
    tcp(A, &TcpPacket { src, dst, ports: [CLIENT, 80], seq: 100, ack, flags, payload: b"" })
}

fn b_to_a(flags: &str, ack: Option<u32>) -> Vec<u8> {
    let (src, dst) = (ADDRESSES[2], ADDRESSES[1]);
    tcp(B, &TcpPacket { src, dst, ports: [80, CLIENT], seq: 900, ack, flags, payload: b"" })
}

#[test]
fn an_allowed_flow_is_routed_both_ways() {
    let mut bench = Bench::with(IngressOfB::FromA(None));
    let sent = a_to_b("S", None);
    let out = bench.send(A, &sent);
    assert_eq!(out.len(), 1);
    let (link, packet) = &out[0];
    assert_eq!(*link, B);
    assert_eq!(packet[..6], pod_mac(B));
    assert_eq!(packet[6..12], link_mac(B));
    assert_eq!(packet[22], 63, "one router hop between pods");
    assert_eq!(packet[26..], sent[26..], "addresses and payload are as sent");
    let ip = etherparse::Ipv4HeaderSlice::from_slice(&packet[14..]).unwrap().to_header();
    assert_eq!(ip.header_checksum, ip.calc_header_checksum());

    let out = bench.send(B, &b_to_a("S", Some(101)));
    assert_eq!(out.len(), 1, "the reply needs no rule of its own");
    assert_eq!(out[0].0, A);
    bench.assert_no_frame_is_lost();
}

#[test]
fn a_default_denial_is_silent_counted_and_names_who_isolates() {
    let mut bench = Bench::with(IngressOfB::Closed);
    assert!(bench.send(A, &a_to_b("S", None)).is_empty());
    assert_eq!(bench.dropped(DropReason::PolicyDefaultDeny), 1);
    let events = bench.events();
    assert!(matches!(
        events[..],
        [podgate_tables::event::Event {
            kind: EventKind::Verdict {
                verdict: Verdict::Deny,
                egress: Cause::Unenforced,
                ingress: Cause::DefaultDeny(DENY_SET),
                ..
            },
            ..
        }]
    ));
    bench.assert_no_frame_is_lost();
}

#[test]
fn a_port_that_no_rule_names_is_denied() {
    let mut bench = Bench::with(IngressOfB::FromA(None));
    let (src, dst) = (ADDRESSES[1], ADDRESSES[2]);
    for port in [79, 81] {
        let ports = [CLIENT, port];
        let packet = TcpPacket { src, dst, ports, seq: 1, ack: None, flags: "S", payload: b"" };
        assert!(bench.send(A, &tcp(A, &packet)).is_empty());
    }
    assert!(bench.send(A, &udp(A, src, dst, [CLIENT, 80], b"x")).is_empty());
    assert_eq!(bench.dropped(DropReason::PolicyDefaultDeny), 3);
}

#[test]
fn a_pod_sends_only_from_its_own_addresses() {
    let mut bench = Bench::with(IngressOfB::Open);
    let spoofed_ip = udp(A, [10, 1, 0, 9], ADDRESSES[2], [1, 2], b"x");
    let spoofed_mac = udp(B, ADDRESSES[1], ADDRESSES[2], [1, 2], b"x");
    assert!(bench.send(A, &spoofed_ip).is_empty());
    assert!(bench.send(A, &spoofed_mac).is_empty());
    assert_eq!(bench.dropped(DropReason::SpoofedSource), 2);
}

#[test]
fn a_pod_keeps_to_its_own_addresses_in_the_midst_of_a_flow() {
    let mut bench = Bench::with(IngressOfB::Open);
    let (client, server) = (ADDRESSES[1], ADDRESSES[2]);
    let query = udp(A, client, server, [1, 2], b"q");
    assert_eq!(bench.send(A, &query).len(), 1);
    assert_eq!(bench.send(B, &udp(B, server, client, [2, 1], b"a")).len(), 1);
    // From its own MAC by another link, and from another MAC by its own.
    assert!(bench.send(B, &query).is_empty());
    assert!(bench.send(A, &udp(B, client, server, [1, 2], b"q")).is_empty());
    assert_eq!(bench.dropped(DropReason::SpoofedSource), 2);
    assert_eq!(bench.send(A, &query).len(), 1);
}

#[test]
fn the_node_reaches_its_pods_whatever_policy_says_and_no_hop_is_counted() {
    let mut bench = Bench::with(IngressOfB::Closed);
    let out = bench.send(HOST, &udp(HOST, ADDRESSES[0], ADDRESSES[2], [9, 80], b"probe"));
    assert_eq!(out.len(), 1);
    assert_eq!((out[0].0, out[0].1[22]), (B, 64));
    let out = bench.send(B, &udp(B, ADDRESSES[2], ADDRESSES[0], [80, 9], b"fine"));
    assert_eq!((out[0].0, out[0].1[22]), (HOST, 64));
}

#[test]
fn a_pod_sends_no_tunnel_packets_to_a_node_but_may_to_pods() {
    let mut bench = Bench::with(IngressOfB::Open);
    for port in [4789, 8472, 6081] {
        let (pod, node) = (ADDRESSES[1], ADDRESSES[0]);
        assert!(bench.send(A, &udp(A, pod, node, [CLIENT, port], b"inner")).is_empty());
        let left = bench.send(A, &udp(A, pod, ADDRESSES[2], [CLIENT, port], b"inner"));
        assert_eq!(left.len(), 1);
    }
    assert_eq!(bench.dropped(DropReason::TunnelToNode), 3);
    assert_eq!(bench.send(A, &udp(A, ADDRESSES[1], ADDRESSES[0], [CLIENT, 53], b"q")).len(), 1);
}

/// A snapshot in which this node has a tunnel on UDP port 5555, and a local prefix.
fn with_tunnel(epoch: u32) -> Snapshot {
    let mut snapshot = snapshot(epoch, IngressOfB::Open);
    let tunnels = Tunnels::new(Some(&[5555]), [(Address::v4([198, 51, 100, 0]), 24)]);
    let routes = RouteTable::clone(&snapshot.routes).with_tunnels(tunnels);
    snapshot.routes = Arc::new(routes);
    snapshot
}

#[test]
fn a_pod_sends_nothing_to_the_port_of_a_nodes_tunnel_wherever_the_node_takes_it() {
    let mut bench = Bench::with(IngressOfB::Open);
    let (pod, node) = (ADDRESSES[1], ADDRESSES[0]);
    let to = |dst, port| udp(A, pod, dst, [CLIENT, port], b"inner");
    assert_eq!(bench.send(A, &to(node, 5555)).len(), 1);
    bench.shared.publish(with_tunnel(2));
    assert!(bench.send(A, &to(node, 5555)).is_empty(), "a flow from before is judged again");
    assert!(bench.send(A, &to([198, 51, 100, 255], 5555)).is_empty(), "the local prefix");
    assert!(bench.send(A, &to([198, 51, 100, 255], 4789)).is_empty());
    assert_eq!(bench.send(A, &to(node, 5556)).len(), 1);
    assert_eq!(bench.send(A, &to([198, 51, 101, 1], 5555)).len(), 1, "outside");
    assert_eq!(bench.send(A, &to(ADDRESSES[2], 5555)).len(), 1, "another pod");
    let refused = [DropReason::TunnelToNode, DropReason::PolicyRevoked].map(|r| bench.dropped(r));
    assert_eq!(refused, [2, 1]);
}

#[test]
fn a_pod_sends_no_tunnel_packet_as_the_reply_to_a_nodes_either() {
    let mut bench = Bench::with(IngressOfB::Open);
    let (pod, node) = (ADDRESSES[1], ADDRESSES[0]);
    let reply = udp(A, pod, node, [7, 5555], b"inner");
    assert_eq!(bench.send(HOST, &udp(HOST, node, pod, [5555, 7], b"before")).len(), 1);
    assert_eq!(bench.send(A, &reply).len(), 1);
    bench.shared.publish(with_tunnel(2));
    assert!(bench.send(A, &reply).is_empty());
    assert!(bench.send(HOST, &udp(HOST, node, pod, [5555, 8], b"after")).is_empty());
    assert!(bench.send(A, &udp(A, pod, node, [8, 5555], b"inner")).is_empty());
    assert_eq!(bench.send(HOST, &udp(HOST, OUTSIDE, pod, [5555, 8], b"no node")).len(), 1);
    assert_eq!(bench.dropped(DropReason::TunnelToNode), 2);
}

#[test]
fn a_tunnel_to_an_address_that_becomes_a_nodes_ends() {
    let mut bench = Bench::with(IngressOfB::Open);
    let outside = [198, 51, 100, 7];
    let packet = udp(A, ADDRESSES[1], outside, [CLIENT, 4789], b"inner");
    assert_eq!(bench.send(A, &packet).len(), 1);
    let mut snapshot = snapshot(2, IngressOfB::Open);
    let row = AddressRow { identity: PolicyTables::REMOTE_NODE, named_ports: None };
    Arc::make_mut(&mut snapshot.policy).addresses.set(Address::v4(outside), Some(row));
    bench.shared.publish(snapshot);
    assert!(bench.send(A, &packet).is_empty());
    assert_eq!(bench.dropped(DropReason::PolicyRevoked), 1);
}

#[test]
fn what_the_kernel_translated_goes_back_to_the_kernel() {
    let mut bench = Bench::with(IngressOfB::FromA(None));
    let (src, dst) = (ADDRESSES[1], ADDRESSES[2]);
    let packet =
        TcpPacket { src, dst, ports: [CLIENT, 80], seq: 1, ack: None, flags: "S", payload: b"" };
    let out = bench.send(HOST, &hairpin(&tcp(HOST, &packet)));
    assert_eq!(out[0].0, B);
    let out = bench.send(B, &b_to_a("S", Some(2)));
    assert_eq!(out[0].0, HOST, "not straight to pod A: the kernel must translate the reply");
}

/// The same frame with the mark that the kernel had it from the host link.
fn hairpin(frame: &[u8]) -> Vec<u8> {
    [&frame[..6], &HAIRPIN_MAC, &frame[12..]].concat()
}

#[test]
fn a_local_pods_address_from_the_host_link_needs_the_mark_in_every_packet() {
    let mut bench = Bench::with(IngressOfB::Open);
    let (src, dst, ports) = (ADDRESSES[1], ADDRESSES[2], [CLIENT, 80]);
    let segment = |flags, ack| TcpPacket { src, dst, ports, seq: 101, ack, flags, payload: b"" };
    let [syn, ack] = [("S", None), ("", Some(901))]
        .map(|(flags, ack)| tcp(HOST, &TcpPacket { ..segment(flags, ack) }));
    let datagram = udp(HOST, src, dst, ports, b"q");
    let mut datagram_v6 = Vec::new();
    let builder = PacketBuilder::ethernet2(pod_mac(HOST), link_mac(HOST));
    let builder = builder.ipv6(ADDRESSES_V6[1], ADDRESSES_V6[2], 64).udp(CLIENT, 80);
    builder.write(&mut datagram_v6, b"q").unwrap();
    for (dropped, spoofed) in (1..).zip([&syn, &ack, &datagram, &datagram_v6]) {
        assert!(bench.send(HOST, spoofed).is_empty());
        assert_eq!(bench.dropped(DropReason::SpoofedSource), dropped);
    }
    let before = bench.dropped(DropReason::SpoofedSource);
    // Not in the middle of a flow that the pod has, either.
    assert_eq!(bench.send(HOST, &hairpin(&syn)).len(), 1);
    assert_eq!(bench.send(B, &b_to_a("S", Some(102))).len(), 1);
    for frame in [&ack, &datagram, &datagram_v6] {
        for _ in 0..3 {
            assert_eq!(bench.send(HOST, &hairpin(frame)).len(), 1);
        }
    }
    let answer = udp(B, dst, src, [80, CLIENT], b"a");
    assert_eq!(bench.send(B, &answer)[0].0, HOST);
    for (dropped, frame) in (before + 1..).zip([&ack, &datagram, &datagram_v6]) {
        assert_eq!(bench.send(HOST, &hairpin(frame)).len(), 1);
        assert!(bench.send(HOST, frame).is_empty());
        assert_eq!(bench.dropped(DropReason::SpoofedSource), dropped);
    }
    // Who is not local needs none.
    assert_eq!(bench.send(HOST, &udp(HOST, OUTSIDE, dst, ports, b"q")).len(), 1);
}

/// The same frame with another Ethernet source.
fn marked(frame: &[u8], mac: [u8; 6]) -> Vec<u8> {
    [&frame[..6], &mac, &frame[12..]].concat()
}

/// UDP over IPv6 from the host link.
fn udp_v6(src: [u8; 16], dst: [u8; 16], ports: [u16; 2]) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(LOCAL_MAC, link_mac(HOST)).ipv6(src, dst, 64);
    builder.udp(ports[0], ports[1]).write(&mut frame, b"q").unwrap();
    frame
}

/// One datagram of each family from the node to pod B.
fn node_to_b(src_port: u16) -> [Vec<u8>; 2] {
    let ports = [src_port, 80];
    [
        udp(HOST, ADDRESSES[0], ADDRESSES[2], ports, b"q"),
        udp_v6(ADDRESSES_V6[0], ADDRESSES_V6[2], ports),
    ]
}

#[test]
fn this_nodes_address_is_the_node_only_if_the_node_sent_the_packet() {
    let mut bench = Bench::with(IngressOfB::Closed);
    let mut denied = 0;
    // In this order, so that no cached decision serves another sender.
    for (port, mac) in (9..).zip([LOCAL_MAC, FOREIGN_MAC, HAIRPIN_MAC, pod_mac(HOST), LOCAL_MAC]) {
        for frame in node_to_b(port) {
            let left = bench.send(HOST, &marked(&frame, mac)).len();
            denied += u64::from(mac != LOCAL_MAC);
            assert_eq!(left, usize::from(mac == LOCAL_MAC), "from {mac:x?}");
            assert_eq!(bench.dropped(DropReason::PolicyDefaultDeny), denied);
        }
    }
    bench.assert_no_frame_is_lost();
}

#[test]
fn a_translated_flow_is_decided_as_world_again_under_each_policy() {
    let mut bench = Bench::with(IngressOfB::Open);
    let flows = [FOREIGN_MAC, HAIRPIN_MAC, LOCAL_MAC].map(|mac| (mac, u16::from(mac[5]) + 9));
    let send_all = |bench: &mut Bench, mac, port| {
        node_to_b(port).map(|frame| bench.send(HOST, &marked(&frame, mac)).len())
    };
    for (mac, port) in flows {
        assert_eq!(send_all(&mut bench, mac, port), [1, 1], "an open pod lets world in");
    }
    bench.shared.publish(snapshot(2, IngressOfB::Closed));
    for (mac, port) in flows {
        let left = usize::from(mac == LOCAL_MAC);
        assert_eq!(send_all(&mut bench, mac, port), [left; 2], "from {mac:x?}");
    }
    assert_eq!(bench.dropped(DropReason::PolicyRevoked), 4);
}

#[test]
fn a_revoked_translated_connection_is_not_picked_up_from_the_pods_end() {
    let mut bench = Bench::with(IngressOfB::Open);
    let (node, pod, ports) = (ADDRESSES[0], ADDRESSES[2], [CLIENT, 80]);
    let segment = |flags, ack| {
        let packet = TcpPacket { src: node, dst: pod, ports, seq: 100, ack, flags, payload: b"" };
        marked(&tcp(HOST, &packet), FOREIGN_MAC)
    };
    let (src, dst, ports) = (pod, node, [80, CLIENT]);
    let answer = |flags| {
        tcp(B, &TcpPacket { src, dst, ports, seq: 900, ack: Some(101), flags, payload: b"" })
    };
    assert_eq!(bench.send(HOST, &segment("S", None)).len(), 1);
    assert_eq!(bench.send(B, &answer("S")).len(), 1);
    assert_eq!(bench.send(HOST, &segment("", Some(901))).len(), 1);
    bench.shared.publish(snapshot(2, IngressOfB::Closed));
    assert!(bench.send(HOST, &segment("P", Some(901))).is_empty());
    let left = bench.send(B, &answer("P"));
    assert_eq!((left.len(), left[0].0), (1, B), "the server's end is reset");
    let left = bench.send(HOST, &segment("P", Some(901)));
    assert!(left.iter().all(|(link, _)| *link == HOST), "at most a reset to its sender");
}

#[test]
fn neighbour_discovery_never_crosses_links() {
    let mut bench = Bench::with(IngressOfB::Open);
    let senders = [(HOST, v6_outside(), LOCAL_MAC), (A, ADDRESSES_V6[1], pod_mac(A))];
    for (link, src, mac) in senders {
        for kind in 128..=138_u8 {
            let builder = PacketBuilder::ethernet2(mac, link_mac(link));
            let builder = builder.ipv6(src, ADDRESSES_V6[2], 255).icmpv6_raw(kind, 0, [0, 7, 0, 7]);
            let mut frame = Vec::new();
            builder.write(&mut frame, &[0; 24]).unwrap();
            let before = bench.dropped(DropReason::NeighbourDiscovery);
            let left = bench.send(link, &frame).len();
            let discovery = (133..=137).contains(&kind);
            assert!(!discovery || left == 0, "type {kind}");
            let dropped = bench.dropped(DropReason::NeighbourDiscovery) - before;
            assert_eq!(dropped, u64::from(discovery), "type {kind}");
        }
    }
}

const fn v6_outside() -> [u8; 16] {
    [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]
}

#[test]
fn traffic_between_two_outside_addresses_is_not_ours() {
    let mut bench = Bench::with(IngressOfB::Open);
    assert!(bench.send(HOST, &udp(HOST, OUTSIDE, [192, 0, 2, 8], [1, 2], b"x")).is_empty());
    assert_eq!(bench.dropped(DropReason::Unroutable), 1);
}

#[test]
fn a_revoked_flow_stops_at_once_and_is_not_picked_up_from_the_other_end() {
    let mut bench = Bench::with(IngressOfB::FromA(None));
    bench.send(A, &a_to_b("S", None));
    bench.send(B, &b_to_a("S", Some(101)));
    assert_eq!(bench.send(A, &a_to_b("", Some(901))).len(), 1);
    bench.shared.publish(snapshot(2, IngressOfB::Closed));
    assert!(bench.send(A, &a_to_b("P", Some(901))).is_empty());
    assert_eq!(bench.dropped(DropReason::PolicyRevoked), 1);
    let left = bench.send(B, &b_to_a("P", Some(101)));
    assert_eq!((left.len(), left[0].0), (1, B), "the server's end is reset");
    assert_eq!(bench.dropped(DropReason::TcpNoFlow), 1);
}

#[test]
fn a_flow_that_the_new_policy_still_allows_goes_on() {
    let mut bench = Bench::with(IngressOfB::Open);
    bench.send(A, &a_to_b("S", None));
    bench.shared.publish(snapshot(2, IngressOfB::FromA(None)));
    assert_eq!(bench.send(B, &b_to_a("S", Some(101))).len(), 1);
    assert_eq!(bench.workers[0].stats().reevaluated.get(), 1);
    assert_eq!(bench.send(A, &a_to_b("", Some(901))).len(), 1);
    assert_eq!(bench.workers[0].stats().reevaluated.get(), 1, "once for each epoch");
}

#[test]
fn the_middle_of_a_connection_is_picked_up_only_if_either_end_might_have_opened_it() {
    let mut bench = Bench::with(IngressOfB::Open);
    assert_eq!(bench.send(B, &b_to_a("P", Some(5))).len(), 1);

    let mut bench = Bench::with(IngressOfB::Closed);
    for (from, segment) in [(B, b_to_a("P", Some(5))), (A, a_to_b("P", Some(5)))] {
        let left = bench.send(from, &segment);
        assert_eq!((left.len(), left[0].0), (1, from), "only a reset to its sender");
    }
    assert_eq!(bench.dropped(DropReason::TcpNoFlow), 2);
}

#[test]
fn an_icmp_error_passes_only_about_a_flow_that_we_know() {
    let mut bench = Bench::with(IngressOfB::Open);
    let request = udp(A, ADDRESSES[1], ADDRESSES[2], [5000, 53], b"query");
    let error = unreachable(B, ADDRESSES[2], ADDRESSES[1], &request);
    assert!(bench.send(B, &error).is_empty());
    assert_eq!(bench.dropped(DropReason::IcmpUnrelated), 1);
    bench.send(A, &request);
    let out = bench.send(B, &error);
    assert_eq!(out.len(), 1);
    assert_eq!(out[0].0, A);
}

#[test]
fn an_icmp_error_is_handed_to_the_worker_that_owns_the_flow() {
    let mut bench = Bench::new(2);
    bench.shared.publish(snapshot(1, IngressOfB::Open));
    // The test delivers each request to worker 0 and to worker 1: one of them is the owner.
    let mut handed = 0;
    for port in 5000..5016 {
        let request = udp(A, ADDRESSES[1], ADDRESSES[2], [port, 53], b"query");
        for worker in 0..2 {
            assert!(bench.links[A.index()].inject(worker, &request));
            bench.run();
        }
        let error = unreachable(B, ADDRESSES[2], ADDRESSES[1], &request);
        assert_eq!(bench.send(B, &error).len(), 1);
        handed = bench.workers[0].stats().handed_off.get();
    }
    assert!((1..16).contains(&handed), "{handed} of 16 belong to the other worker");
    bench.assert_no_frame_is_lost();
}

#[test]
fn an_icmp_error_passes_only_from_where_the_packet_went() {
    let mut bench = Bench::with(IngressOfB::Open);
    let request = udp(A, ADDRESSES[1], OUTSIDE, [5000, 53], b"query");
    assert_eq!(bench.send(A, &request)[0].0, HOST);
    let forged = unreachable(B, ADDRESSES[2], ADDRESSES[1], &request);
    assert!(bench.send(B, &forged).is_empty(), "pod B has no part in the flow");
    assert_eq!(bench.dropped(DropReason::IcmpUnrelated), 1);
    let router = unreachable(HOST, [192, 0, 2, 1], ADDRESSES[1], &request);
    assert_eq!(bench.send(HOST, &router)[0].0, A, "a router on the way may say so");
}

#[test]
fn a_query_is_no_answer_to_a_query_whatever_its_identifier() {
    let mut bench = Bench::with(IngressOfB::Open);
    let (a, b) = (ADDRESSES[1], ADDRESSES[2]);
    assert_eq!(bench.send(A, &echo(A, a, b, 8, 8)).len(), 1);
    assert!(bench.send(B, &echo(B, b, a, 8, 8)).is_empty());
    assert_eq!(bench.dropped(DropReason::IcmpUnrelated), 1);
    assert_eq!(bench.send(B, &echo(B, b, a, 0, 8)).len(), 1);
}

#[test]
fn a_revoked_datagram_flow_is_not_opened_anew_by_what_the_server_still_sends() {
    let mut bench = Bench::with(IngressOfB::Open);
    let (a, b) = (ADDRESSES[1], ADDRESSES[2]);
    let question = udp(A, a, b, [5000, 443], b"more");
    let answer = udp(B, b, a, [443, 5000], b"here");
    assert_eq!(bench.send(A, &question).len(), 1);
    assert_eq!(bench.send(B, &answer).len(), 1);
    bench.shared.publish(snapshot(2, IngressOfB::Closed));
    for _ in 0..3 {
        assert!(bench.send(B, &answer).is_empty());
        assert!(bench.send(A, &question).is_empty());
        bench.now = bench.now.plus_secs(60);
        bench.run();
    }
    assert_eq!(bench.dropped(DropReason::PolicyRevoked), 6);
    assert_eq!(bench.workers[0].stats().reevaluated.get(), 1, "once for each epoch");
    bench.shared.publish(snapshot(3, IngressOfB::Open));
    assert_eq!(bench.send(A, &question).len(), 1);
    bench.assert_no_frame_is_lost();
}

#[test]
fn segments_without_a_connection_do_not_fill_the_table_for_good() {
    let mut bench = Bench::with(IngressOfB::Open);
    let (src, dst) = (ADDRESSES[1], OUTSIDE);
    for port in 1..=1000 {
        let (ports, ack) = ([port, 80], Some(1));
        let packet = TcpPacket { src, dst, ports, seq: 1, ack, flags: "", payload: b"" };
        bench.send(A, &tcp(A, &packet));
    }
    let reply = udp(B, ADDRESSES[2], OUTSIDE, [1, 53], b"x");
    assert_eq!(bench.send(B, &reply).len(), 1, "another pod's flow finds a place");
}

#[test]
fn one_pod_leaves_others_room_in_the_flow_table() {
    let mut bench = Bench::with(IngressOfB::Open);
    let (src, dst) = (ADDRESSES[1], OUTSIDE);
    for port in 1..=1000 {
        let packet = |from, ack, flags| {
            let (src, dst, ports) =
                if from == A { (src, dst, [port, 80]) } else { (dst, src, [80, port]) };
            tcp(from, &TcpPacket { src, dst, ports, seq: 1, ack, flags, payload: b"" })
        };
        if !bench.send(A, &packet(A, None, "S")).is_empty() {
            bench.send(HOST, &packet(HOST, Some(2), "S"));
            bench.send(A, &packet(A, Some(2), ""));
        }
    }
    assert_eq!(bench.workers[0].flows(), 128, "half of the table is left");
    for port in 1..=32 {
        let query = udp(B, ADDRESSES[2], OUTSIDE, [port, 53], b"x");
        assert_eq!(bench.send(B, &query).len(), 1);
    }
}

#[test]
fn without_a_snapshot_everything_is_dropped() {
    let mut bench = Bench::new(1);
    assert!(bench.send(A, &a_to_b("S", None)).is_empty());
    assert_eq!(bench.dropped(DropReason::NotReady), 1);
    bench.assert_no_frame_is_lost();
}

#[test]
fn a_packet_of_many_frames_passes_whole() {
    let mut bench = Bench::with(IngressOfB::Open);
    let payload: Vec<u8> = (0..65_000u32).map(|i| i as u8).collect();
    let sent = udp(A, ADDRESSES[1], ADDRESSES[2], [1, 2], &payload);
    let out = bench.send(A, &sent);
    assert_eq!(out.len(), 1);
    assert_eq!(out[0].1[26..], sent[26..]);
    bench.assert_no_frame_is_lost();
}

#[test]
fn flows_expire_by_the_clock_they_are_given() {
    let mut bench = Bench::with(IngressOfB::Open);
    bench.send(A, &udp(A, ADDRESSES[1], ADDRESSES[2], [1, 2], b"x"));
    assert_eq!(bench.workers[0].flows(), 1);
    bench.now = bench.now.plus_secs(3600);
    for _ in 0..256 {
        bench.run();
    }
    assert_eq!(bench.workers[0].flows(), 0);
    let ended = |e: &podgate_tables::event::Event| matches!(e.kind, EventKind::End { .. });
    assert_eq!(bench.events().iter().filter(|e| ended(e)).count(), 1);
}

#[test]
fn a_full_flow_table_makes_room_or_drops_but_never_grows() {
    let mut bench = Bench::with(IngressOfB::Open);
    for port in 1..=1000 {
        bench.send(A, &udp(A, ADDRESSES[1], ADDRESSES[2], [port, 53], b"x"));
    }
    let flows = bench.workers[0].flows() as u64;
    assert!(flows <= 256);
    let stats = bench.workers[0].stats();
    let (forwarded, evicted) = (stats.forwarded.packets.get(), stats.flows_evicted.get());
    assert_eq!(forwarded + bench.dropped(DropReason::FlowTableFull), 1000);
    assert_eq!(evicted, stats.flows_opened.get() - flows, "no flow's time was over");
    bench.assert_no_frame_is_lost();
}

#[test]
fn a_removed_link_takes_nothing_with_it() {
    let mut bench = Bench::with(IngressOfB::Open);
    bench.send(A, &udp(A, ADDRESSES[1], ADDRESSES[2], [1, 2], b"x"));
    bench.workers[0].remove_port(B);
    assert!(bench.send(A, &udp(A, ADDRESSES[1], ADDRESSES[2], [1, 2], b"x")).is_empty());
    assert_eq!(bench.dropped(DropReason::LinkGone), 1);
    bench.assert_no_frame_is_lost();
}

fn set_ttl(frame: &mut [u8], ttl: u8) {
    let header = etherparse::Ipv4HeaderSlice::from_slice(&frame[14..]);
    let mut header = header.expect("the frame is IPv4").to_header();
    header.time_to_live = ttl;
    header.header_checksum = header.calc_header_checksum();
    frame[14..34].copy_from_slice(&header.to_bytes());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A packet of several frames never takes the fast lane.
    #[test]
    fn a_packet_leaves_the_same_by_either_lane(
        of_tcp in any::<bool>(), from_b in any::<bool>(), ttl in 1..4u8,
        payload in prop::collection::vec(any::<u8>(), 0..80), partial in any::<bool>(),
    ) {
        let mut bench = Bench::with(IngressOfB::Open);
        let (client, server) = (ADDRESSES[1], ADDRESSES[2]);
        if of_tcp {
            bench.send(A, &a_to_b("S", None));
            bench.send(B, &b_to_a("S", Some(101)));
            bench.send(A, &a_to_b("", Some(901)));
        } else {
            bench.send(A, &udp(A, client, server, [CLIENT, 80], b"q"));
            bench.send(B, &udp(B, server, client, [80, CLIENT], b"a"));
        }
        let link = if from_b { B } else { A };
        let (src, dst, ports) =
            if from_b { (server, client, [80, CLIENT]) } else { (client, server, [CLIENT, 80]) };
        let mut frame = if of_tcp {
            let ack = Some(1);
            let packet =
                TcpPacket { src, dst, ports, seq: 1, ack, flags: "P", payload: &payload };
            tcp(link, &packet)
        } else {
            udp(link, src, dst, ports, &payload)
        };
        set_ttl(&mut frame, ttl);
        if partial {
            let field = if of_tcp { 50 } else { 40 };
            let len = frame.len() as u32 - 34;
            let (src, dst) = (Address::v4(src), Address::v4(dst));
            let sum = Sum::pseudo_header(src, dst, frame[23], len).folded();
            frame[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        }
        let fast = bench.send(link, &frame);
        // The headers have to be in the first part.
        let parts = frame.split_at(frame.len().min(54));
        let parts: Vec<_> = [parts.0, parts.1].into_iter().filter(|p| !p.is_empty()).collect();
        prop_assert!(bench.links[link.index()].inject_parts(0, parts.into_iter()));
        let slow = bench.run();
        if ttl > 1 {
            prop_assert_eq!(fast.len(), 1);
            prop_assert_eq!(fast, slow);
        } else {
            prop_assert_eq!(bench.dropped(DropReason::TtlExceeded), 2);
        }
        let stats = bench.workers[0].stats();
        // Also in what an ICMP error quotes.
        prop_assert_eq!(stats.checksums_completed.get(), if partial { 2 } else { 0 });
        bench.assert_no_frame_is_lost();
    }

    /// Usual packets are passed on in runs between others that open, end and replace their flows.
    #[test]
    fn a_batch_is_treated_as_its_packets_one_by_one(
        batches in prop::collection::vec(
            (any::<bool>(), prop::collection::vec((0..3u16, 0..8usize, 1..4u8), 1..64)), 1..6),
    ) {
        let mut together = Bench::with(IngressOfB::Open);
        let mut apart = Bench::with(IngressOfB::Open);
        for (from_b, packets) in batches {
            let link = if from_b { B } else { A };
            let frame = |(client, kind, ttl): (u16, usize, u8)| {
                let (ours, theirs) = (CLIENT + client, 80);
                let (src, dst, ports) = if from_b {
                    (ADDRESSES[2], ADDRESSES[1], [theirs, ours])
                } else {
                    (ADDRESSES[1], ADDRESSES[2], [ours, theirs])
                };
                let flags = ["S", "", "", "P", "F", "R", "", ""][kind];
                // Of a SYN from the server's end it is the answer.
                let ack = (flags != "S" || from_b).then_some(1);
                let packet = TcpPacket { src, dst, ports, seq: 1, ack, flags, payload: b"data" };
                let mut frame =
                    if kind < 6 { tcp(link, &packet) } else { udp(link, src, dst, ports, b"data") };
                set_ttl(&mut frame, ttl);
                frame
            };
            let frames: Vec<_> = packets.into_iter().map(frame).collect();
            for frame in &frames {
                prop_assert!(together.links[link.index()].inject(0, frame));
            }
            let mut all = together.run();
            let mut each: Vec<_> =
                frames.iter().flat_map(|frame| apart.send(link, frame)).collect();
            // In order by each link.
            all.sort_by_key(|(link, _)| *link);
            each.sort_by_key(|(link, _)| *link);
            prop_assert_eq!(all, each);
        }
        let counted = |bench: &Bench| {
            let stats = bench.workers[0].stats();
            let dropped = stats.dropped.iter().map(|tally| tally.packets.get()).collect::<Vec<_>>();
            (stats.forwarded.packets.get(), stats.flows_opened.get(), stats.flows.get(), dropped)
        };
        prop_assert_eq!(counted(&together), counted(&apart));
        let told = |bench: &Bench| -> Vec<_> {
            bench.events().iter().map(|event| format!("{event:?}")).collect()
        };
        prop_assert_eq!(told(&together), told(&apart));
        together.assert_no_frame_is_lost();
        apart.assert_no_frame_is_lost();
    }

    /// Whatever comes in, each packet ends in exactly one counted way and no frame is lost.
    #[test]
    fn every_packet_is_accounted_for(
        packets in prop::collection::vec(
            (0..3u16, prop::collection::vec(any::<u8>(), 0..200), 0..4u8), 1..40)
    ) {
        let mut bench = Bench::with(IngressOfB::FromA(None));
        let mut count = 0;
        for (link, noise, kind) in packets {
            let link = LinkId(link);
            let (src, dst) = (ADDRESSES[link.index()], ADDRESSES[2]);
            let packet = match kind {
                0 => noise.clone(),
                1 => udp(link, src, dst, [1, 80], &noise),
                2 => tcp(link, &TcpPacket { src, dst, ports: [CLIENT, 80], seq: 1, ack: None, flags: "S", payload: &noise }),
                _ => {
                    let mut bytes = udp(link, src, dst, [1, 80], &noise);
                    for (at, flip) in noise.iter().enumerate().take(40) {
                        let at = (at * 7) % bytes.len();
                        bytes[at] ^= flip & 0x11;
                    }
                    bytes
                }
            };
            if packet.is_empty() { continue }
            bench.send(link, &packet);
            count += 1;
        }
        let stats = bench.workers[0].stats();
        let dropped: u64 = stats.dropped.iter().map(|tally| tally.packets.get()).sum();
        prop_assert_eq!(stats.received.packets.get(), count);
        prop_assert_eq!(stats.forwarded.packets.get() + dropped, count);
        bench.assert_no_frame_is_lost();
    }
}
