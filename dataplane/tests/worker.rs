//! A complete worker on memory links: parsing, flows, policy, forwarding, counters.

use std::num::NonZeroU16;
use std::sync::Arc;

use etherparse::PacketBuilder;
use podgate_dataplane::packet::HostFrame;
use podgate_dataplane::packet::checksum::Sum;
use podgate_tables::address::Address;
use podgate_tables::drop_reason::DropReason;
use podgate_tables::event::EventKind;
use podgate_tables::ids::LinkId;
use podgate_tables::policy::{AddressRow, Cause, PolicyTables, Snapshot, Verdict};
use podgate_tables::route::RouteTable;
use podgate_tables::tunnel::Tunnels;
use podgate_test_support::*;
use proptest::prelude::*;

const CLIENT: u16 = 40_000;
const HAIRPIN: HostFrame = HostFrame::Hairpin { sender: None };

fn a_to_b(flags: &str, ack: Option<u32>) -> Vec<u8> {
    let (src, dst) = (ADDRESSES[1], ADDRESSES[2]);
    tcp(A, &TcpPacket { src, dst, ports: [CLIENT, 80], seq: 100, ack, flags, payload: b"" })
}

fn b_to_a(flags: &str, ack: Option<u32>) -> Vec<u8> {
    let (src, dst) = (ADDRESSES[2], ADDRESSES[1]);
    tcp(B, &TcpPacket { src, dst, ports: [80, CLIENT], seq: 900, ack, flags, payload: b"" })
}

#[test]
fn an_allowed_flow_is_forwarded_in_both_directions() {
    let mut rig = Rig::with(IngressOfB::FromA(None));
    let sent = a_to_b("S", None);
    let out = rig.send(A, &sent);
    assert_eq!(out.len(), 1);
    let (link, packet) = &out[0];
    assert_eq!(*link, B);
    assert_eq!(packet[..6], pod_mac(B));
    assert_eq!(packet[6..12], link_mac(B));
    assert_eq!(packet[22], 63, "one router hop between pods");
    assert_eq!(packet[26..], sent[26..], "addresses and payload are as sent");
    let ip = etherparse::Ipv4HeaderSlice::from_slice(&packet[14..]).unwrap().to_header();
    assert_eq!(ip.header_checksum, ip.calc_header_checksum());

    let out = rig.send(B, &b_to_a("S", Some(101)));
    assert_eq!(out.len(), 1, "the reply needs no rule of its own");
    assert_eq!(out[0].0, A);
    rig.assert_no_frame_is_lost();
}

#[test]
fn a_default_deny_drops_counts_and_reports_its_cause() {
    let mut rig = Rig::with(IngressOfB::Closed);
    assert!(rig.send(A, &a_to_b("S", None)).is_empty());
    rig.expect_counters(&[(Count::Received, 1), (Count::Dropped(DropReason::PolicyDenied), 1)]);
    let events = rig.events();
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
    rig.assert_no_frame_is_lost();
}

#[test]
fn a_port_that_no_rule_names_is_denied() {
    let mut rig = Rig::with(IngressOfB::FromA(None));
    let (src, dst) = (ADDRESSES[1], ADDRESSES[2]);
    for port in [79, 81] {
        let ports = [CLIENT, port];
        let packet = TcpPacket { src, dst, ports, seq: 1, ack: None, flags: "S", payload: b"" };
        assert!(rig.send(A, &tcp(A, &packet)).is_empty());
    }
    assert!(rig.send(A, &udp(A, src, dst, [CLIENT, 80], b"x")).is_empty());
    rig.expect_counters(&[(Count::Received, 3), (Count::Dropped(DropReason::PolicyDenied), 3)]);
}

#[test]
fn a_pod_sends_only_from_its_own_addresses() {
    let mut rig = Rig::with(IngressOfB::Open);
    let spoofed_ip = udp(A, [10, 1, 0, 9], ADDRESSES[2], [1, 2], b"x");
    let spoofed_mac = udp(B, ADDRESSES[1], ADDRESSES[2], [1, 2], b"x");
    assert!(rig.send(A, &spoofed_ip).is_empty());
    assert!(rig.send(A, &spoofed_mac).is_empty());
    rig.expect_counters(&[(Count::Received, 2), (Count::Dropped(DropReason::SpoofedSource), 2)]);
}

#[test]
fn a_pod_sends_only_from_its_own_addresses_in_an_established_flow() {
    let mut rig = Rig::with(IngressOfB::Open);
    let (client, server) = (ADDRESSES[1], ADDRESSES[2]);
    let query = udp(A, client, server, [1, 2], b"q");
    assert_eq!(rig.send(A, &query).len(), 1);
    assert_eq!(rig.send(B, &udp(B, server, client, [2, 1], b"a")).len(), 1);
    // From its own MAC on another link, and from another MAC on its own link.
    assert!(rig.send(B, &query).is_empty());
    assert!(rig.send(A, &udp(B, client, server, [1, 2], b"q")).is_empty());
    rig.expect_counters(&[
        (Count::Received, 4),
        (Count::Forwarded, 2),
        (Count::Dropped(DropReason::SpoofedSource), 2),
        (Count::FlowsOpened, 1),
        (Count::Flows, 1),
    ]);
    assert_eq!(rig.send(A, &query).len(), 1);
}

#[test]
fn the_node_reaches_its_pods_despite_policy_and_the_ttl_is_kept() {
    let mut rig = Rig::with(IngressOfB::Closed);
    let out = rig.send(HOST, &udp(HOST, ADDRESSES[0], ADDRESSES[2], [9, 80], b"probe"));
    assert_eq!(out.len(), 1);
    assert_eq!((out[0].0, out[0].1[22]), (B, 64));
    let out = rig.send(B, &udp(B, ADDRESSES[2], ADDRESSES[0], [80, 9], b"fine"));
    assert_eq!((out[0].0, out[0].1[22]), (HOST, 64));
}

#[test]
fn tunnel_packets_of_a_pod_pass_to_pods_but_not_to_nodes() {
    let mut rig = Rig::with(IngressOfB::Open);
    for port in [4789, 8472, 6081] {
        let (pod, node) = (ADDRESSES[1], ADDRESSES[0]);
        assert!(rig.send(A, &udp(A, pod, node, [CLIENT, port], b"inner")).is_empty());
        let left = rig.send(A, &udp(A, pod, ADDRESSES[2], [CLIENT, port], b"inner"));
        assert_eq!(left.len(), 1);
    }
    rig.expect_counters(&[
        (Count::Received, 6),
        (Count::Forwarded, 3),
        (Count::Dropped(DropReason::TunnelToNode), 3),
        (Count::FlowsOpened, 3),
        (Count::Flows, 3),
    ]);
    assert_eq!(rig.send(A, &udp(A, ADDRESSES[1], ADDRESSES[0], [CLIENT, 53], b"q")).len(), 1);
}

/// A snapshot in which this node has a tunnel on UDP port 5555, and a local prefix.
fn with_tunnel(epoch: u64) -> Snapshot {
    let mut snapshot = snapshot(epoch, IngressOfB::Open);
    let tunnels = Tunnels::new(Some(&[5555]), [(Address::v4([198, 51, 100, 0]), 24)]);
    let routes = RouteTable::clone(&snapshot.routes).with_tunnels(tunnels);
    snapshot.routes = Arc::new(routes);
    snapshot
}

#[test]
fn a_pod_sends_nothing_to_a_tunnel_port_on_any_address_of_the_node() {
    let mut rig = Rig::with(IngressOfB::Open);
    let (pod, node) = (ADDRESSES[1], ADDRESSES[0]);
    let to = |dst, port| udp(A, pod, dst, [CLIENT, port], b"inner");
    assert_eq!(rig.send(A, &to(node, 5555)).len(), 1);
    rig.shared.publish(with_tunnel(2));
    assert!(rig.send(A, &to(node, 5555)).is_empty(), "a flow from before is decided again");
    assert!(rig.send(A, &to([198, 51, 100, 255], 5555)).is_empty(), "the local prefix");
    assert!(rig.send(A, &to([198, 51, 100, 255], 4789)).is_empty());
    assert_eq!(rig.send(A, &to(node, 5556)).len(), 1);
    assert_eq!(rig.send(A, &to([198, 51, 101, 1], 5555)).len(), 1, "outside");
    assert_eq!(rig.send(A, &to(ADDRESSES[2], 5555)).len(), 1, "another pod");
    let dropped = [DropReason::TunnelToNode, DropReason::PolicyRevoked].map(|r| rig.dropped(r));
    assert_eq!(dropped, [2, 1]);
}

#[test]
fn a_pod_sends_no_tunnel_packet_in_reply_to_a_node() {
    let mut rig = Rig::with(IngressOfB::Open);
    let (pod, node) = (ADDRESSES[1], ADDRESSES[0]);
    let reply = udp(A, pod, node, [7, 5555], b"inner");
    assert_eq!(rig.send(HOST, &udp(HOST, node, pod, [5555, 7], b"before")).len(), 1);
    assert_eq!(rig.send(A, &reply).len(), 1);
    rig.shared.publish(with_tunnel(2));
    assert!(rig.send(A, &reply).is_empty());
    assert!(rig.send(HOST, &udp(HOST, node, pod, [5555, 8], b"after")).is_empty());
    assert!(rig.send(A, &udp(A, pod, node, [8, 5555], b"inner")).is_empty());
    assert_eq!(rig.send(HOST, &udp(HOST, OUTSIDE, pod, [5555, 8], b"no node")).len(), 1);
    rig.expect_counters(&[
        (Count::Received, 6),
        (Count::Forwarded, 3),
        (Count::Dropped(DropReason::PolicyRevoked), 1),
        (Count::Dropped(DropReason::TunnelToNode), 2),
        (Count::FlowsOpened, 2),
        (Count::Flows, 2),
        (Count::Reevaluated, 1),
    ]);
}

#[test]
fn a_flow_to_an_address_that_becomes_a_nodes_ends_at_a_tunnel_port() {
    let mut rig = Rig::with(IngressOfB::Open);
    let outside = [198, 51, 100, 7];
    let packet = udp(A, ADDRESSES[1], outside, [CLIENT, 4789], b"inner");
    assert_eq!(rig.send(A, &packet).len(), 1);
    let mut snapshot = snapshot(2, IngressOfB::Open);
    let row = AddressRow { identity: PolicyTables::REMOTE_NODE, named_ports: None };
    Arc::make_mut(&mut snapshot.policy).addresses.set(Address::v4(outside), Some(row));
    rig.shared.publish(snapshot);
    assert!(rig.send(A, &packet).is_empty());
    rig.expect_counters(&[
        (Count::Received, 2),
        (Count::Forwarded, 1),
        (Count::Dropped(DropReason::PolicyRevoked), 1),
        (Count::FlowsOpened, 1),
        (Count::Flows, 1),
        (Count::Reevaluated, 1),
    ]);
}

#[test]
fn replies_to_packets_translated_by_the_kernel_go_back_to_the_kernel() {
    let mut rig = Rig::with(IngressOfB::FromA(None));
    let (src, dst) = (ADDRESSES[1], ADDRESSES[2]);
    let packet =
        TcpPacket { src, dst, ports: [CLIENT, 80], seq: 1, ack: None, flags: "S", payload: b"" };
    let out = rig.send(HOST, &hairpin(&tcp(HOST, &packet)));
    assert_eq!(out[0].0, B);
    let out = rig.send(B, &b_to_a("S", Some(2)));
    assert_eq!(out[0].0, HOST, "not straight to pod A: the kernel must translate the reply");
}

/// The same frame with the hairpin mark: the kernel received it from the host link.
fn hairpin(frame: &[u8]) -> Vec<u8> {
    marked(frame, HAIRPIN.mac())
}

#[test]
fn a_local_pods_address_from_the_host_link_needs_the_hairpin_mark_in_every_packet() {
    let mut rig = Rig::with(IngressOfB::Open);
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
        assert!(rig.send(HOST, spoofed).is_empty());
        assert_eq!(rig.dropped(DropReason::SpoofedSource), dropped);
    }
    let before = rig.dropped(DropReason::SpoofedSource);
    // Nor in an established flow of the pod.
    assert_eq!(rig.send(HOST, &hairpin(&syn)).len(), 1);
    assert_eq!(rig.send(B, &b_to_a("S", Some(102))).len(), 1);
    for frame in [&ack, &datagram, &datagram_v6] {
        for _ in 0..3 {
            assert_eq!(rig.send(HOST, &hairpin(frame)).len(), 1);
        }
    }
    let answer = udp(B, dst, src, [80, CLIENT], b"a");
    assert_eq!(rig.send(B, &answer)[0].0, HOST);
    for (dropped, frame) in (before + 1..).zip([&ack, &datagram, &datagram_v6]) {
        assert_eq!(rig.send(HOST, &hairpin(frame)).len(), 1);
        assert!(rig.send(HOST, frame).is_empty());
        assert_eq!(rig.dropped(DropReason::SpoofedSource), dropped);
    }
    // A source outside of the node needs no mark.
    assert_eq!(rig.send(HOST, &udp(HOST, OUTSIDE, dst, ports, b"q")).len(), 1);
}

/// The same frame with another Ethernet source.
fn marked(frame: &[u8], mac: [u8; 6]) -> Vec<u8> {
    [&frame[..6], &mac, &frame[12..]].concat()
}

/// One datagram of each family from the node to pod B.
fn node_to_b(src_port: u16) -> [Vec<u8>; 2] {
    let ports = [src_port, 80];
    [
        udp(HOST, ADDRESSES[0], ADDRESSES[2], ports, b"q"),
        udp_v6(HOST, ADDRESSES_V6[0], ADDRESSES_V6[2], ports, b"q"),
    ]
}

#[test]
fn this_nodes_address_is_the_node_only_if_the_node_sent_the_packet() {
    let mut rig = Rig::with(IngressOfB::Closed);
    let mut denied = 0;
    // In this order, so that no cached decision serves another sender.
    for (port, mac) in (9..).zip([
        HostFrame::Local.mac(),
        HostFrame::Foreign.mac(),
        HAIRPIN.mac(),
        pod_mac(HOST),
        HostFrame::Local.mac(),
    ]) {
        for frame in node_to_b(port) {
            let left = rig.send(HOST, &marked(&frame, mac)).len();
            denied += u64::from(mac != HostFrame::Local.mac());
            assert_eq!(left, usize::from(mac == HostFrame::Local.mac()), "from {mac:x?}");
            assert_eq!(rig.dropped(DropReason::PolicyDenied), denied);
        }
    }
    rig.assert_no_frame_is_lost();
}

#[test]
fn a_translated_flow_is_decided_as_world_again_under_each_policy() {
    let mut rig = Rig::with(IngressOfB::Open);
    let flows = [HostFrame::Foreign.mac(), HAIRPIN.mac(), HostFrame::Local.mac()]
        .map(|mac| (mac, u16::from(mac[5]) + 9));
    let send_all = |rig: &mut Rig, mac, port| {
        node_to_b(port).map(|frame| rig.send(HOST, &marked(&frame, mac)).len())
    };
    for (mac, port) in flows {
        assert_eq!(send_all(&mut rig, mac, port), [1, 1], "an open pod lets world in");
    }
    rig.shared.publish(snapshot(2, IngressOfB::Closed));
    for (mac, port) in flows {
        let left = usize::from(mac == HostFrame::Local.mac());
        assert_eq!(send_all(&mut rig, mac, port), [left; 2], "from {mac:x?}");
    }
    assert_eq!(rig.dropped(DropReason::PolicyRevoked), 4);
}

#[test]
fn a_revoked_translated_connection_is_not_picked_up_from_the_pods_end() {
    let mut rig = Rig::with(IngressOfB::Open);
    let (node, pod, ports) = (ADDRESSES[0], ADDRESSES[2], [CLIENT, 80]);
    let segment = |flags, ack| {
        let packet = TcpPacket { src: node, dst: pod, ports, seq: 100, ack, flags, payload: b"" };
        marked(&tcp(HOST, &packet), HostFrame::Foreign.mac())
    };
    let (src, dst, ports) = (pod, node, [80, CLIENT]);
    let answer = |flags| {
        tcp(B, &TcpPacket { src, dst, ports, seq: 900, ack: Some(101), flags, payload: b"" })
    };
    assert_eq!(rig.send(HOST, &segment("S", None)).len(), 1);
    assert_eq!(rig.send(B, &answer("S")).len(), 1);
    assert_eq!(rig.send(HOST, &segment("", Some(901))).len(), 1);
    rig.shared.publish(snapshot(2, IngressOfB::Closed));
    assert!(rig.send(HOST, &segment("P", Some(901))).is_empty());
    let left = rig.send(B, &answer("P"));
    assert_eq!((left.len(), left[0].0), (1, B), "the server's end is reset");
    let left = rig.send(HOST, &segment("P", Some(901)));
    assert!(left.iter().all(|(link, _)| *link == HOST), "at most a reset to its sender");
}

#[test]
fn neighbour_discovery_never_crosses_links() {
    let mut rig = Rig::with(IngressOfB::Open);
    let senders = [(HOST, v6_outside(), HostFrame::Local.mac()), (A, ADDRESSES_V6[1], pod_mac(A))];
    for (link, src, mac) in senders {
        for kind in 128..=138_u8 {
            let builder = PacketBuilder::ethernet2(mac, link_mac(link));
            let builder = builder.ipv6(src, ADDRESSES_V6[2], 255).icmpv6_raw(kind, 0, [0, 7, 0, 7]);
            let mut frame = Vec::new();
            builder.write(&mut frame, &[0; 24]).unwrap();
            let before = rig.dropped(DropReason::LinkScopeIcmp);
            let left = rig.send(link, &frame).len();
            let discovery = (133..=137).contains(&kind);
            assert!(!discovery || left == 0, "type {kind}");
            let dropped = rig.dropped(DropReason::LinkScopeIcmp) - before;
            assert_eq!(dropped, u64::from(discovery), "type {kind}");
        }
    }
}

#[test]
fn redirects_and_router_discovery_of_ipv4_never_cross_links() {
    let mut rig = Rig::with(IngressOfB::Open);
    let (node, pod) = (ADDRESSES[0], ADDRESSES[1]);
    let sent = udp(A, pod, OUTSIDE, [7, 80], b"q");
    assert_eq!(rig.send(A, &sent).len(), 1);
    let about = unreachable(HOST, node, pod, &sent);
    assert_eq!(rig.send(HOST, &about).len(), 1, "an error about the flow");
    for (dropped, kind) in (1..).zip([5, 9, 10]) {
        let builder = ethernet(HOST).ipv4(node, pod, 64).icmpv4_raw(kind, 1, node);
        let mut frame = Vec::new();
        builder.write(&mut frame, &sent[14..42]).unwrap();
        assert!(rig.send(HOST, &frame).is_empty(), "type {kind}");
        assert_eq!(rig.dropped(DropReason::LinkScopeIcmp), dropped, "type {kind}");
    }
}

#[test]
fn a_pod_reaches_itself_through_a_translating_service_and_no_other_pod_does() {
    let mut rig = Rig::with(IngressOfB::Closed);
    let by = |link: LinkId| HostFrame::Hairpin { sender: NonZeroU16::new(link.0) };
    // From B, from A, and from B by another program's mark.
    let marks = [by(B).mac(), by(A).mac(), HAIRPIN.mac(), HostFrame::sender_mac(B.0)];
    for (port, mark) in (9..).zip(marks) {
        for frame in node_to_b(port) {
            let left = rig.send(HOST, &marked(&frame, mark)).len();
            assert_eq!(left, usize::from(mark == by(B).mac()), "mark {mark:x?}");
        }
    }
    // Under the next policy, too, in the flow and for the replies.
    rig.shared.publish(snapshot(2, IngressOfB::Closed));
    for frame in node_to_b(9) {
        assert_eq!(rig.send(HOST, &marked(&frame, by(B).mac())).len(), 1);
    }
    let reply = udp(B, ADDRESSES[2], ADDRESSES[0], [80, 9], b"a");
    assert_eq!(rig.send(B, &reply)[0].0, HOST);
    // The pods have exchanged their addresses: B's is no longer the sender's.
    let mut exchanged = snapshot(3, IngressOfB::Closed);
    let routes = &exchanged.routes;
    let mut endpoints = [A, B].map(|link| routes.endpoint_on(link).unwrap().clone());
    let [of_a, of_b] = &mut endpoints;
    std::mem::swap(&mut of_a.addresses, &mut of_b.addresses);
    let host = routes.next_hop(HOST).copied();
    exchanged.routes = Arc::new(RouteTable::new(endpoints, host).unwrap().with_node(routes.node()));
    rig.shared.publish(exchanged);
    for frame in node_to_b(9) {
        assert!(rig.send(HOST, &marked(&frame, by(B).mac())).is_empty());
    }
}

/// The kernel may have decapsulated the packet, and the inner header may have another pod's
/// address.
#[test]
fn a_pod_sends_nothing_through_the_kernel_with_the_address_of_another_pod() {
    let mut rig = Rig::with(IngressOfB::Open);
    let mark = |link: LinkId| HostFrame::Hairpin { sender: NonZeroU16::new(link.0) }.mac();
    let frame = udp(HOST, ADDRESSES[1], ADDRESSES[2], [7, 80], b"q");
    assert_eq!(rig.send(HOST, &marked(&frame, mark(B))).len(), 0);
    assert_eq!(rig.dropped(DropReason::SpoofedSource), 1);
    assert_eq!(rig.send(HOST, &marked(&frame, mark(A))).len(), 1);
}

#[test]
fn a_packet_to_the_host_link_says_from_which_link_it_is() {
    let mut rig = Rig::with(IngressOfB::Open);
    for (link, src) in [(A, ADDRESSES[1]), (B, ADDRESSES[2])] {
        // The first packet, and those of the fast path.
        for _ in 0..3 {
            let out = rig.send(link, &udp(link, src, OUTSIDE, [7, 80], b"q"));
            assert_eq!((out.len(), out[0].0), (1, HOST));
            assert_eq!(out[0].1[6..12], HostFrame::sender_mac(link.0));
            rig.send(HOST, &udp(HOST, OUTSIDE, src, [80, 7], b"a"));
        }
    }
}

const fn v6_outside() -> [u8; 16] {
    [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]
}

#[test]
fn traffic_between_two_outside_addresses_is_unroutable() {
    let mut rig = Rig::with(IngressOfB::Open);
    assert!(rig.send(HOST, &udp(HOST, OUTSIDE, [192, 0, 2, 8], [1, 2], b"x")).is_empty());
    rig.expect_counters(&[(Count::Received, 1), (Count::Dropped(DropReason::Unroutable), 1)]);
}

#[test]
fn a_revoked_flow_stops_at_once_and_is_not_picked_up_from_the_other_end() {
    let mut rig = Rig::with(IngressOfB::FromA(None));
    rig.send(A, &a_to_b("S", None));
    rig.send(B, &b_to_a("S", Some(101)));
    assert_eq!(rig.send(A, &a_to_b("", Some(901))).len(), 1);
    rig.shared.publish(snapshot(2, IngressOfB::Closed));
    assert!(rig.send(A, &a_to_b("P", Some(901))).is_empty());
    rig.expect_counters(&[
        (Count::Received, 4),
        (Count::Forwarded, 3),
        (Count::Dropped(DropReason::PolicyRevoked), 1),
        (Count::FlowsOpened, 1),
        (Count::Reevaluated, 1),
    ]);
    let left = rig.send(B, &b_to_a("P", Some(101)));
    assert_eq!((left.len(), left[0].0), (1, B), "the server's end is reset");
    rig.expect_counters(&[
        (Count::Received, 1),
        (Count::Dropped(DropReason::TcpNoFlow), 1),
        (Count::Originated, 1),
        (Count::ResetsSent, 1),
    ]);
}

#[test]
fn a_flow_that_the_new_policy_still_allows_continues() {
    let mut rig = Rig::with(IngressOfB::Open);
    rig.send(A, &a_to_b("S", None));
    rig.shared.publish(snapshot(2, IngressOfB::FromA(None)));
    assert_eq!(rig.send(B, &b_to_a("S", Some(101))).len(), 1);
    rig.expect_counters(&[
        (Count::Received, 2),
        (Count::Forwarded, 2),
        (Count::FlowsOpened, 1),
        (Count::Flows, 1),
        (Count::Reevaluated, 1),
    ]);
    assert_eq!(rig.send(A, &a_to_b("", Some(901))).len(), 1);
    // The flow is evaluated again once for each epoch.
    rig.expect_counters(&[(Count::Received, 1), (Count::Forwarded, 1)]);
}

#[test]
fn a_worker_has_new_tables_until_a_round_has_used_them() {
    let mut rig = Rig::with(IngressOfB::Open);
    rig.run();
    assert!(!rig.workers[0].has_new_tables());
    rig.shared.publish(snapshot(2, IngressOfB::Closed));
    assert!(rig.workers[0].has_new_tables());
    rig.run();
    assert!(!rig.workers[0].has_new_tables());
}

#[test]
fn a_mid_stream_segment_is_picked_up_only_if_either_end_might_have_opened_the_flow() {
    let mut rig = Rig::with(IngressOfB::Open);
    assert_eq!(rig.send(B, &b_to_a("P", Some(5))).len(), 1);

    let mut rig = Rig::with(IngressOfB::Closed);
    for (from, segment) in [(B, b_to_a("P", Some(5))), (A, a_to_b("P", Some(5)))] {
        let left = rig.send(from, &segment);
        assert_eq!((left.len(), left[0].0), (1, from), "only a reset to its sender");
    }
    rig.expect_counters(&[
        (Count::Received, 2),
        (Count::Dropped(DropReason::TcpNoFlow), 2),
        (Count::Originated, 2),
        (Count::ResetsSent, 2),
    ]);
}

#[test]
fn an_icmp_error_passes_only_about_a_known_flow() {
    let mut rig = Rig::with(IngressOfB::Open);
    let request = udp(A, ADDRESSES[1], ADDRESSES[2], [5000, 53], b"query");
    let error = unreachable(B, ADDRESSES[2], ADDRESSES[1], &request);
    assert!(rig.send(B, &error).is_empty());
    rig.expect_counters(&[(Count::Received, 1), (Count::Dropped(DropReason::IcmpUnrelated), 1)]);
    rig.send(A, &request);
    let out = rig.send(B, &error);
    assert_eq!(out.len(), 1);
    assert_eq!(out[0].0, A);
}

#[test]
fn an_icmp_error_is_handed_off_to_the_worker_that_owns_the_flow() {
    let mut rig = Rig::new(2);
    rig.shared.publish(snapshot(1, IngressOfB::Open));
    // The test delivers each request to worker 0 and to worker 1: one of them is the owner.
    let mut handed = 0;
    for port in 5000..5016 {
        let request = udp(A, ADDRESSES[1], ADDRESSES[2], [port, 53], b"query");
        for worker in 0..2 {
            assert!(rig.links[A.index()].inject(worker, &request));
            rig.run();
        }
        let error = unreachable(B, ADDRESSES[2], ADDRESSES[1], &request);
        assert_eq!(rig.send(B, &error).len(), 1);
        handed = rig.workers[0].stats().handed_off.get();
    }
    assert!((1..16).contains(&handed), "{handed} of 16 belong to the other worker");
    rig.assert_no_frame_is_lost();
}

#[test]
fn an_icmp_error_passes_only_from_the_link_that_the_packet_left_by() {
    let mut rig = Rig::with(IngressOfB::Open);
    let request = udp(A, ADDRESSES[1], OUTSIDE, [5000, 53], b"query");
    assert_eq!(rig.send(A, &request)[0].0, HOST);
    let forged = unreachable(B, ADDRESSES[2], ADDRESSES[1], &request);
    assert!(rig.send(B, &forged).is_empty(), "pod B has no part in the flow");
    rig.expect_counters(&[
        (Count::Received, 2),
        (Count::Forwarded, 1),
        (Count::Dropped(DropReason::IcmpUnrelated), 1),
        (Count::FlowsOpened, 1),
        (Count::Flows, 1),
    ]);
    let router = unreachable(HOST, [192, 0, 2, 1], ADDRESSES[1], &request);
    assert_eq!(rig.send(HOST, &router)[0].0, A, "a router on the way may say so");
}

#[test]
fn a_query_is_not_a_reply_whatever_its_identifier() {
    let mut rig = Rig::with(IngressOfB::Open);
    let (a, b) = (ADDRESSES[1], ADDRESSES[2]);
    assert_eq!(rig.send(A, &echo(A, a, b, 8, 8)).len(), 1);
    assert!(rig.send(B, &echo(B, b, a, 8, 8)).is_empty());
    rig.expect_counters(&[
        (Count::Received, 2),
        (Count::Forwarded, 1),
        (Count::Dropped(DropReason::IcmpUnrelated), 1),
        (Count::FlowsOpened, 1),
        (Count::Flows, 1),
    ]);
    assert_eq!(rig.send(B, &echo(B, b, a, 0, 8)).len(), 1);
}

#[test]
fn a_revoked_datagram_flow_is_not_reopened_by_the_servers_datagrams() {
    let mut rig = Rig::with(IngressOfB::Open);
    let (a, b) = (ADDRESSES[1], ADDRESSES[2]);
    let question = udp(A, a, b, [5000, 443], b"more");
    let answer = udp(B, b, a, [443, 5000], b"here");
    assert_eq!(rig.send(A, &question).len(), 1);
    assert_eq!(rig.send(B, &answer).len(), 1);
    rig.shared.publish(snapshot(2, IngressOfB::Closed));
    for _ in 0..3 {
        assert!(rig.send(B, &answer).is_empty());
        assert!(rig.send(A, &question).is_empty());
        rig.now = rig.now.plus_secs(60);
        rig.run();
    }
    rig.expect_counters(&[
        (Count::Received, 8),
        (Count::Forwarded, 2),
        (Count::Dropped(DropReason::PolicyRevoked), 6),
        (Count::FlowsOpened, 1),
        (Count::Flows, 1),
        (Count::Reevaluated, 1),
    ]);
    rig.shared.publish(snapshot(3, IngressOfB::Open));
    assert_eq!(rig.send(A, &question).len(), 1);
    rig.assert_no_frame_is_lost();
}

#[test]
fn segments_without_a_connection_do_not_fill_the_table_permanently() {
    let mut rig = Rig::with(IngressOfB::Open);
    let (src, dst) = (ADDRESSES[1], OUTSIDE);
    for port in 1..=1000 {
        let (ports, ack) = ([port, 80], Some(1));
        let packet = TcpPacket { src, dst, ports, seq: 1, ack, flags: "", payload: b"" };
        rig.send(A, &tcp(A, &packet));
    }
    let reply = udp(B, ADDRESSES[2], OUTSIDE, [1, 53], b"x");
    assert_eq!(rig.send(B, &reply).len(), 1, "another pod's flow finds a place");
}

#[test]
fn one_pod_leaves_entries_of_the_flow_table_to_others() {
    let mut rig = Rig::with(IngressOfB::Open);
    let (src, dst) = (ADDRESSES[1], OUTSIDE);
    for port in 1..=1000 {
        let packet = |from, ack, flags| {
            let (src, dst, ports) =
                if from == A { (src, dst, [port, 80]) } else { (dst, src, [80, port]) };
            tcp(from, &TcpPacket { src, dst, ports, seq: 1, ack, flags, payload: b"" })
        };
        if !rig.send(A, &packet(A, None, "S")).is_empty() {
            rig.send(HOST, &packet(HOST, Some(2), "S"));
            rig.send(A, &packet(A, Some(2), ""));
        }
    }
    assert_eq!(rig.workers[0].flows(), 128, "half of the table is left");
    for port in 1..=32 {
        let query = udp(B, ADDRESSES[2], OUTSIDE, [port, 53], b"x");
        assert_eq!(rig.send(B, &query).len(), 1);
    }
}

#[test]
fn without_a_snapshot_everything_is_dropped() {
    let mut rig = Rig::new(1);
    assert!(rig.send(A, &a_to_b("S", None)).is_empty());
    rig.expect_counters(&[(Count::Received, 1), (Count::Dropped(DropReason::EndpointNotReady), 1)]);
    rig.assert_no_frame_is_lost();
}

#[test]
fn a_packet_of_many_frames_is_forwarded_unchanged() {
    let mut rig = Rig::with(IngressOfB::Open);
    let payload: Vec<u8> = (0..65_000u32).map(|i| i as u8).collect();
    let sent = udp(A, ADDRESSES[1], ADDRESSES[2], [1, 2], &payload);
    let out = rig.send(A, &sent);
    assert_eq!(out.len(), 1);
    assert_eq!(out[0].1[26..], sent[26..]);
    rig.assert_no_frame_is_lost();
}

#[test]
fn flows_expire_by_the_given_time() {
    let mut rig = Rig::with(IngressOfB::Open);
    rig.send(A, &udp(A, ADDRESSES[1], ADDRESSES[2], [1, 2], b"x"));
    assert_eq!(rig.workers[0].flows(), 1);
    rig.now = rig.now.plus_secs(3600);
    for _ in 0..256 {
        rig.run();
    }
    assert_eq!(rig.workers[0].flows(), 0);
    let ended = |e: &podgate_tables::event::Event| matches!(e.kind, EventKind::End { .. });
    assert_eq!(rig.events().iter().filter(|e| ended(e)).count(), 1);
}

#[test]
fn the_end_of_a_flow_says_under_which_tables_its_last_packet_was_decided() {
    let mut rig = Rig::with(IngressOfB::Open);
    let query = udp(A, ADDRESSES[1], ADDRESSES[2], [1, 2], b"x");
    rig.send(A, &query);
    rig.shared.publish(snapshot(7, IngressOfB::Open));
    rig.send(A, &query);
    rig.shared.publish(snapshot(9, IngressOfB::Open));
    rig.now = rig.now.plus_secs(3600);
    for _ in 0..256 {
        rig.run();
    }
    let ends = rig.events().into_iter().filter_map(|event| match event.kind {
        EventKind::End { decided, .. } => Some((event.epoch.0, decided.0)),
        _ => None,
    });
    assert_eq!(ends.collect::<Vec<_>>(), [(9, 7)]);
}

#[test]
fn a_full_flow_table_evicts_or_drops_but_never_grows() {
    let mut rig = Rig::with(IngressOfB::Open);
    for port in 1..=1000 {
        rig.send(A, &udp(A, ADDRESSES[1], ADDRESSES[2], [port, 53], b"x"));
    }
    let flows = rig.workers[0].flows() as u64;
    assert!(flows <= 256);
    let stats = rig.workers[0].stats();
    let (forwarded, evicted) = (stats.forwarded.packets.get(), stats.flows_evicted.get());
    assert_eq!(forwarded + rig.dropped(DropReason::FlowTableFull), 1000);
    assert_eq!(evicted, stats.flows_opened.get() - flows, "no flow's time was over");
    rig.assert_no_frame_is_lost();
}

#[test]
fn a_removed_link_leaks_nothing() {
    let mut rig = Rig::with(IngressOfB::Open);
    rig.send(A, &udp(A, ADDRESSES[1], ADDRESSES[2], [1, 2], b"x"));
    rig.workers[0].remove_queue(B);
    assert!(rig.send(A, &udp(A, ADDRESSES[1], ADDRESSES[2], [1, 2], b"x")).is_empty());
    rig.expect_counters(&[
        (Count::Received, 2),
        (Count::Forwarded, 1),
        (Count::Dropped(DropReason::LinkGone), 1),
        (Count::FlowsOpened, 1),
        (Count::Flows, 1),
    ]);
    rig.assert_no_frame_is_lost();
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

    /// A packet of several frames never takes the fast path.
    #[test]
    fn the_fast_and_the_slow_path_transmit_the_same_packet(
        of_tcp in any::<bool>(), from_b in any::<bool>(), ttl in 1..4u8,
        payload in prop::collection::vec(any::<u8>(), 0..80), partial in any::<bool>(),
    ) {
        let mut rig = Rig::with(IngressOfB::Open);
        let (client, server) = (ADDRESSES[1], ADDRESSES[2]);
        if of_tcp {
            rig.send(A, &a_to_b("S", None));
            rig.send(B, &b_to_a("S", Some(101)));
            rig.send(A, &a_to_b("", Some(901)));
        } else {
            rig.send(A, &udp(A, client, server, [CLIENT, 80], b"q"));
            rig.send(B, &udp(B, server, client, [80, CLIENT], b"a"));
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
        let fast = rig.send(link, &frame);
        // The headers must be in the first frame.
        let parts = frame.split_at(frame.len().min(54));
        let parts: Vec<_> = [parts.0, parts.1].into_iter().filter(|p| !p.is_empty()).collect();
        prop_assert!(rig.links[link.index()].inject_parts(0, parts.into_iter()));
        let slow = rig.run();
        if ttl > 1 {
            prop_assert_eq!(fast.len(), 1);
            prop_assert_eq!(fast, slow);
        } else {
            prop_assert_eq!(rig.dropped(DropReason::TtlExceeded), 2);
        }
        let stats = rig.workers[0].stats();
        // In the quote of an ICMP error, too.
        prop_assert_eq!(stats.checksums_completed.get(), if partial { 2 } else { 0 });
        rig.assert_no_frame_is_lost();
    }

    /// Packets of the fast path are forwarded in runs between others that open, end and replace
    /// their flows.
    #[test]
    fn a_batch_is_treated_as_its_packets_one_by_one(
        batches in prop::collection::vec(
            (any::<bool>(), prop::collection::vec((0..3u16, 0..8usize, 1..4u8), 1..64)), 1..6),
    ) {
        let mut together = Rig::with(IngressOfB::Open);
        let mut apart = Rig::with(IngressOfB::Open);
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
                // A SYN-ACK if the server's end sent the SYN.
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
            // In order per link.
            all.sort_by_key(|(link, _)| *link);
            each.sort_by_key(|(link, _)| *link);
            prop_assert_eq!(all, each);
        }
        let counted = |rig: &Rig| {
            let stats = rig.workers[0].stats();
            let dropped = stats.dropped.iter().map(|tally| tally.packets.get()).collect::<Vec<_>>();
            (stats.forwarded.packets.get(), stats.flows_opened.get(), stats.flows.get(), dropped)
        };
        prop_assert_eq!(counted(&together), counted(&apart));
        let events = |rig: &Rig| -> Vec<_> {
            rig.events().iter().map(|event| format!("{event:?}")).collect()
        };
        prop_assert_eq!(events(&together), events(&apart));
        together.assert_no_frame_is_lost();
        apart.assert_no_frame_is_lost();
    }

    /// Whatever is received, each packet ends in exactly one counted way and no frame leaks.
    #[test]
    fn every_packet_is_accounted_for(
        packets in prop::collection::vec(
            (0..3u16, prop::collection::vec(any::<u8>(), 0..200), 0..4u8), 1..40)
    ) {
        let mut rig = Rig::with(IngressOfB::FromA(None));
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
            rig.send(link, &packet);
            count += 1;
        }
        // Noise may be a fragment, which waits for the others.
        rig.expire_all();
        let stats = rig.workers[0].stats();
        let dropped: u64 = stats.dropped.iter().map(|tally| tally.packets.get()).sum();
        prop_assert_eq!(stats.received.packets.get(), count);
        prop_assert_eq!(stats.forwarded.packets.get() + dropped, count);
        rig.assert_no_frame_is_lost();
    }
}
