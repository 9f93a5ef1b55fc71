//! Fair sharing between links: exact limits, on memory links.

#![allow(clippy::unwrap_used, reason = "a test may fail here")]

use podgate_test_support::*;

use podgate_tables::drop_reason::DropReason;
use podgate_tables::ids::LinkId;
use podgate_tables::l7::{HttpRule, HttpRuleSpec, L7Rules};
use podgate_tables::time::Nanos;

fn only_docs() -> IngressOfB {
    let spec = HttpRuleSpec { path: Some("/docs".to_owned()), ..HttpRuleSpec::default() };
    IngressOfB::FromAnyone(L7Rules::http(vec![HttpRule::new(spec).unwrap()]))
}

/// A client behind a link, with connections to port 80 of pod B.
#[derive(Clone, Copy)]
struct Client {
    link: LinkId,
    address: [u8; 4],
}

const IN_POD_A: Client = Client { link: A, address: ADDRESSES[1] };
const IN_OFFICE: Client = Client { link: HOST, address: OUTSIDE };

impl Client {
    fn segment(self, port: u16, seq: u32, payload: &[u8]) -> Vec<u8> {
        let Self { link, address: src } = self;
        let (dst, ports, ack, flags) = (ADDRESSES[2], [port, 80], Some(9_001), "P");
        tcp(link, &TcpPacket { src, dst, ports, seq, ack, flags, payload })
    }

    /// Opens a connection; the client's first byte has number 1001.
    fn connect(self, rig: &mut Rig, port: u16) {
        let Self { link, address } = self;
        let (src, dst, ports, payload) = (address, ADDRESSES[2], [port, 80], &b""[..]);
        let syn = TcpPacket { src, dst, ports, seq: 1_000, ack: None, flags: "S", payload };
        rig.send(link, &tcp(link, &syn));
        let (ports, ack) = ([80, port], Some(1_001));
        let (src, dst) = (dst, src);
        let answer = TcpPacket { src, dst, ports, seq: 9_000, ack, flags: "S", payload };
        rig.send(B, &tcp(B, &answer));
        rig.send(link, &self.segment(port, 1_001, b""));
    }
}

/// Advances the time beyond every idle timeout.
fn outlive_all_flows(rig: &mut Rig) {
    rig.now = rig.now.plus_secs(10 * 86_400);
    for _ in 0..512 {
        rig.now = rig.now.plus_millis(10);
        rig.run();
    }
}

/// Opens connections, and sends 16 segments on each without the first byte: all of them are held.
fn send_incomplete_requests(rig: &mut Rig, client: Client, connections: u16) {
    for port in 1..=connections {
        client.connect(rig, port);
        for nth in (1..=16).rev() {
            rig.send(client.link, &client.segment(port, 1_001 + 100 * nth, &[b'a'; 100]));
        }
    }
}

#[test]
fn incomplete_requests_of_one_pod_leave_frames_to_others() {
    let mut rig = Rig::with(only_docs());
    // One in eight frames may be held, which is 256: half of them by flows of one link.
    send_incomplete_requests(&mut rig, IN_POD_A, 32);
    assert_eq!(rig.workers[0].stats().held_frames.get(), 128);
    assert!(rig.dropped(DropReason::L7Limit) > 0);

    for port in 100..110 {
        assert!(
            is_served_out_of_order(&mut rig, IN_OFFICE, port),
            "the request goes on as it came"
        );
    }
    outlive_all_flows(&mut rig);
    rig.assert_no_frame_is_lost();
}

#[test]
fn unacknowledged_requests_of_one_pod_leave_buffers_to_others() {
    let mut rig = Rig::with(only_docs());
    let head = format!("GET /docs HTTP/1.1\r\nHost: b\r\nX-Long: {}\r\n\r\n", "a".repeat(1_000));
    let len = head.len() as u32;
    for port in 1..=32 {
        IN_POD_A.connect(&mut rig, port);
        for nth in 0..48 {
            rig.send(A, &IN_POD_A.segment(port, 1_001 + nth * len, head.as_bytes()));
        }
    }
    // 16 KiB for each of 64 inspected flows; half of it for flows of one link.
    let buffered = rig.workers[0].stats().buffered_bytes.get();
    assert!((400 << 10..=512 << 10).contains(&buffered), "{buffered}");

    for port in 100..110 {
        IN_OFFICE.connect(&mut rig, port);
        let left = rig.send(HOST, &IN_OFFICE.segment(port, 1_001, head.as_bytes()));
        let to_server = left.iter().filter(|(link, frame)| *link == B && frame.len() > head.len());
        assert_eq!(to_server.count(), 1, "the request goes on");
    }
    outlive_all_flows(&mut rig);
    assert_eq!(rig.workers[0].stats().buffered_bytes.get(), 0);
    assert!(rig.dropped(DropReason::L7Limit) > 0, "what had to wait for too long");
    rig.assert_no_frame_is_lost();
}

/// Sends a request in two segments, the later one first. Returns whether both reach pod B.
fn is_served_out_of_order(rig: &mut Rig, client: Client, port: u16) -> bool {
    client.connect(rig, port);
    let (first, second) = b"GET /docs HTTP/1.1\r\nHost: b\r\n\r\n".split_at(20);
    let next = 1_001 + first.len() as u32;
    assert!(rig.send(client.link, &client.segment(port, next, second)).is_empty());
    let left = rig.send(client.link, &client.segment(port, 1_001, first));
    let with_payload = |frame: &[u8]| frame.len() > 14 + 20 + 20;
    left.iter().filter(|(link, frame)| *link == B && with_payload(frame)).count() == 2
}

#[test]
fn incomplete_requests_of_one_outside_client_leave_frames_to_others() {
    let mut rig = Rig::with(only_docs());
    send_incomplete_requests(&mut rig, IN_OFFICE, 16);
    assert_eq!(rig.workers[0].stats().held_frames.get(), 256 / 3 + 1, "a third");
    assert!(rig.dropped(DropReason::L7Limit) > 0);
    let served = clients_outside().filter(|client| is_served_out_of_order(&mut rig, *client, 9));
    let served = served.count();
    assert!(served >= 8, "{served} of 10");
    assert!(is_served_out_of_order(&mut rig, IN_POD_A, 9));
    outlive_all_flows(&mut rig);
    assert_eq!(rig.workers[0].stats().held_frames.get(), 0);
    rig.assert_no_frame_is_lost();
}

/// Sends heads that don't end on 16 connections, and segments of `len` bytes until none has room.
fn send_unfinished_heads(rig: &mut Rig, client: Client, len: usize) {
    let start = b"GET /docs HTTP/1.1\r\nHost: b\r\nX-Long: ";
    let mut sent = [0; 16];
    for _ in 0..64 * 1024 / len {
        for (port, sent) in (1..).zip(&mut sent) {
            match *sent {
                0 => {
                    client.connect(rig, port);
                    rig.send(client.link, &client.segment(port, 1_001, start));
                    *sent = start.len() as u32;
                }
                60_000.. => {}
                before => {
                    rig.send(client.link, &client.segment(port, 1_001 + before, &vec![b'a'; len]));
                    *sent += len as u32;
                }
            }
        }
    }
}

#[test]
fn unfinished_heads_of_one_outside_client_leave_buffers_to_others() {
    let mut rig = Rig::with(only_docs());
    send_unfinished_heads(&mut rig, IN_OFFICE, 1_400);
    // 16 KiB for each of 64 inspected flows; a third of it for flows of one source.
    let buffered = rig.workers[0].stats().buffered_bytes.get();
    assert!((256 << 10..=(1 << 20) / 3).contains(&buffered), "{buffered}");
    let served = clients_outside().filter(|client| is_served(&mut rig, *client, 9, "/docs"));
    let served = served.count();
    assert!(served >= 8, "{served} of 10");
    assert!(is_served(&mut rig, IN_POD_A, 9, "/docs"));
    outlive_all_flows(&mut rig);
    assert_eq!(rig.workers[0].stats().buffered_bytes.get(), 0);
    rig.assert_no_frame_is_lost();
}

#[test]
fn unfinished_heads_of_many_outside_clients_leave_buffers_to_others() {
    let sizes =
        RigConfig { inspected_per_worker: 1024, flows_per_worker: 1024, ..Default::default() };
    let mut rig = Rig::of(sizes);
    rig.shared.publish(snapshot(1, only_docs()));
    for last in 1..=8 {
        let client = Client { link: HOST, address: [192, 0, 2, last] };
        send_unfinished_heads(&mut rig, client, 1_400);
    }
    // 16 MiB; half of it for flows of few sources, and 16 KiB for each.
    let buffered = rig.workers[0].stats().buffered_bytes.get();
    assert!((6 << 20..=(8 << 20) + (8 << 14)).contains(&buffered), "{buffered}");
    let served = clients_outside().filter(|client| is_served(&mut rig, *client, 9, "/docs"));
    let served = served.count();
    assert!(served >= 7, "{served} of 10");
    for port in 1..=10 {
        assert!(is_served(&mut rig, IN_POD_A, port, "/docs"));
    }
    rig.expire_all();
    assert_eq!(rig.workers[0].stats().buffered_bytes.get(), 0);
    rig.assert_no_frame_is_lost();
}

/// A TCP segment without payload from pod `from` to a server outside, or back if `answers`.
fn outward(rig: &mut Rig, pod: LinkId, port: u16, flags: &str, answers: bool) -> usize {
    let (ends, ports) = ([ADDRESSES[pod.index()], OUTSIDE], [port, 443]);
    let (link, [src, dst], ports) = match answers {
        false => (pod, ends, ports),
        true => (HOST, [ends[1], ends[0]], [ports[1], ports[0]]),
    };
    let ack = (answers || flags.is_empty()).then_some(2);
    let segment = TcpPacket { src, dst, ports, seq: 1, ack, flags, payload: b"" };
    rig.send(link, &tcp(link, &segment)).len()
}

#[test]
fn a_pod_with_half_of_the_table_evicts_no_flow_of_others() {
    let mut rig = Rig::with(IngressOfB::Closed);
    let [a, b] = [ADDRESSES[1], ADDRESSES[2]];
    for port in 1..=200 {
        if outward(&mut rig, A, port, "S", false) == 1 {
            outward(&mut rig, A, port, "S", true);
            outward(&mut rig, A, port, "", false);
        }
    }
    assert_eq!(rig.workers[0].flows(), 128, "half of them, established");
    // Policy allows nothing to pod B: replies pass only in a flow.
    for port in 1..=10 {
        assert_eq!(rig.send(B, &udp(B, b, OUTSIDE, [port, 53], b"query")).len(), 1);
        assert_eq!(outward(&mut rig, B, port, "S", false), 1);
    }
    let before = rig.dropped(DropReason::FlowTableFull);
    for port in 1_000..1_050 {
        assert!(rig.send(A, &udp(A, a, OUTSIDE, [port, 53], b"query")).is_empty());
        assert_eq!(outward(&mut rig, A, port, "S", false), 0);
    }
    assert_eq!(rig.dropped(DropReason::FlowTableFull), before + 100);
    rig.now = rig.now.plus_millis(20);
    for port in 1..=10 {
        assert_eq!(rig.send(HOST, &udp(HOST, OUTSIDE, b, [53, port], b"answer")).len(), 1);
        assert_eq!(outward(&mut rig, B, port, "S", true), 1, "a SYN-ACK");
    }
    assert_eq!(rig.dropped(DropReason::PolicyDenied), 0);
    assert_eq!(rig.workers[0].stats().flows_evicted.get(), 0);
    let of_a = rig.workers[0].link_statistics()[A.index()];
    assert_eq!((of_a.link, of_a.over_quota.flows), (A, before + 100), "it says who wanted more");
    rig.assert_no_frame_is_lost();
}

#[test]
fn idle_inspected_connections_of_one_pod_evict_no_other_ones() {
    let mut rig = Rig::with(only_docs());
    for port in 1..=100 {
        IN_POD_A.connect(&mut rig, port);
    }
    // A slow handshake.
    let (dst, ports) = (ADDRESSES[2], [7, 80]);
    let syn = TcpPacket { src: OUTSIDE, dst, ports, seq: 1, ack: None, flags: "S", payload: b"" };
    assert_eq!(rig.send(HOST, &tcp(HOST, &syn)).len(), 1);
    for port in 200..300 {
        IN_POD_A.connect(&mut rig, port);
    }
    let ports = [80, 7];
    let answer = TcpPacket { src: dst, dst: OUTSIDE, ports, ack: Some(2), ..syn };
    assert_eq!(rig.send(B, &tcp(B, &answer)).len(), 1, "the SYN-ACK finds its flow");
    rig.assert_no_frame_is_lost();
}

/// A pod whose share of the table has shrunk since, because of other pods.
#[test]
fn an_inspected_flow_is_evicted_only_if_the_new_one_has_room_then() {
    let mut rig = Rig::of(RigConfig { inspected_per_worker: 4, ..RigConfig::default() });
    rig.shared.publish(snapshot(1, only_docs()));
    for port in 1..=2 {
        IN_POD_A.connect(&mut rig, port);
    }
    for (pod, flows) in [(A, 126), (B, 60)] {
        for port in 1_000..1_000 + flows {
            assert_eq!(outward(&mut rig, pod, port, "S", false), 1);
            outward(&mut rig, pod, port, "S", true);
            outward(&mut rig, pod, port, "", false);
        }
    }
    assert_eq!(rig.workers[0].flows(), 2 + 126 + 60);
    // A connection without a request may be evicted now, established plain ones never.
    rig.now = rig.now.plus_secs(3);
    for port in 3..=4 {
        assert!(is_served(&mut rig, IN_POD_A, port, "/docs"));
    }
    assert_eq!(rig.workers[0].stats().flows_evicted.get(), 2);
    assert_eq!(rig.workers[0].flows(), 2 + 126 + 60);
    IN_POD_A.connect(&mut rig, 5);
    assert_eq!(rig.workers[0].stats().flows_evicted.get(), 2, "its connections are in use");
    assert_eq!(rig.dropped(DropReason::FlowTableFull), 0);
    assert!(rig.dropped(DropReason::InspectedFull) > 0);
    rig.assert_no_frame_is_lost();
}

/// Outside clients, few of which share the first one's group of sources.
fn clients_outside() -> impl Iterator<Item = Client> {
    (100..110).map(|last| Client { link: HOST, address: [198, 51, 100, last] })
}

/// Whether a client's request reaches pod B.
fn is_served(rig: &mut Rig, client: Client, port: u16, path: &str) -> bool {
    client.connect(rig, port);
    let request = format!("GET {path} HTTP/1.1\r\nHost: b\r\n\r\n");
    let left = rig.send(client.link, &client.segment(port, 1_001, request.as_bytes()));
    left.iter().any(|(link, frame)| *link == B && frame.len() > request.len())
}

#[test]
fn idle_connections_of_one_outside_client_do_not_block_others() {
    let mut rig = Rig::with(only_docs());
    for port in 1..=100 {
        IN_OFFICE.connect(&mut rig, port);
    }
    assert!(rig.dropped(DropReason::InspectedFull) > 0);
    let served =
        clients_outside().filter(|client| is_served(&mut rig, *client, 9, "/docs")).count();
    assert!(served >= 8, "{served} of 10");
    assert!(is_served(&mut rig, IN_POD_A, 9, "/docs"));
    // An idle connection without a request is evicted for the client's next one.
    rig.now = rig.now.plus_secs(3);
    assert!(is_served(&mut rig, IN_OFFICE, 1_000, "/docs"));
    assert_eq!(rig.workers[0].stats().flows_evicted.get(), 1);
    rig.assert_no_frame_is_lost();
}

#[test]
fn a_denied_connection_is_removed_when_both_ends_are_done() {
    let mut rig = Rig::with(only_docs());
    for port in 1..=500 {
        IN_OFFICE.connect(&mut rig, port);
        let request = b"GET /secret HTTP/1.1\r\nHost: b\r\nConnection: close\r\n\r\n";
        let left = rig.send(HOST, &IN_OFFICE.segment(port, 1_001, request));
        let answers = left.iter().filter(|(link, _)| *link == HOST);
        let headers = 14 + 20 + 20;
        let bytes: usize = answers.map(|(_, frame)| frame.len() - headers).sum();
        assert!(bytes > 0, "connection {port} is answered");
        let after = 1_001 + request.len() as u32;
        // After the response and its FIN.
        let end = 9_001 + bytes as u32 + 1;
        let (src, dst, ports) = (OUTSIDE, ADDRESSES[2], [port, 80]);
        let fin =
            TcpPacket { src, dst, ports, seq: after, ack: Some(end), flags: "F", payload: b"" };
        rig.send(HOST, &tcp(HOST, &fin));
        assert_eq!(rig.workers[0].flows(), 0, "after connection {port}");
    }
    assert_eq!(rig.workers[0].stats().l7_denied.get(), 500);
    rig.assert_no_frame_is_lost();
}

#[test]
fn a_denied_connection_that_its_client_does_not_close_is_evictable_at_once() {
    let mut rig = Rig::with(only_docs());
    for port in 1..=500 {
        IN_OFFICE.connect(&mut rig, port);
        let request = b"GET /secret HTTP/1.1\r\nHost: b\r\nConnection: close\r\n\r\n";
        let left = rig.send(HOST, &IN_OFFICE.segment(port, 1_001, request));
        assert!(left.iter().any(|(link, _)| *link == B), "the server gets a FIN, {port}");
        let headers = 14 + 20 + 20;
        let answers = left.iter().filter(|(link, _)| *link == HOST);
        let bytes: usize = answers.map(|(_, frame)| frame.len() - headers).sum();
        let (src, dst, ports) = (OUTSIDE, ADDRESSES[2], [port, 80]);
        let ack = Some(9_001 + bytes as u32 + 1);
        let seq = 1_001 + request.len() as u32;
        let acked = TcpPacket { src, dst, ports, seq, ack, flags: "", payload: b"" };
        rig.send(HOST, &tcp(HOST, &acked));
    }
    assert_eq!(rig.dropped(DropReason::InspectedFull), 0);
    rig.now = rig.now.plus_secs(31);
    for _ in 0..8 {
        rig.run();
        rig.now = rig.now.plus_millis(1_500);
    }
    assert_eq!(rig.workers[0].flows(), 0, "and is forgotten soon");
    rig.assert_no_frame_is_lost();
}

#[test]
fn held_frames_are_released_to_the_link_that_holds_them() {
    let mut rig = Rig::with(only_docs());
    for round in 0..4 {
        for port in 1..=32 {
            IN_POD_A.connect(&mut rig, port + 100 * round);
            for nth in (1..=16).rev() {
                let late = IN_POD_A.segment(port + 100 * round, 1_001 + 100 * nth, &[b'a'; 100]);
                rig.send(A, &late);
            }
        }
        assert_eq!(rig.workers[0].stats().held_frames.get(), 128, "in round {round}");
        outlive_all_flows(&mut rig);
        assert_eq!(rig.workers[0].stats().held_frames.get(), 0, "after round {round}");
    }
    rig.assert_no_frame_is_lost();
}

#[test]
fn a_flood_of_dropped_packets_leaves_event_ring_entries_to_other_links() {
    let mut rig = Rig::with(IngressOfB::Closed);
    for port in 1..=6_000 {
        rig.send(A, &udp(A, ADDRESSES[1], ADDRESSES[2], [port, 53], b"x"));
    }
    let node_and_pod = (ADDRESSES[0], ADDRESSES[2]);
    for port in 1..=80 {
        rig.send(HOST, &udp(HOST, node_and_pod.0, node_and_pod.1, [port, 80], b"probe"));
    }
    assert_eq!(rig.workers[0].stats().events_lost.get(), 6_000 - 2_048);
    let events = rig.events();
    let of = |link| events.iter().filter(|event| event.link == link).count();
    assert_eq!((of(A), of(HOST)), (2_048, 80));

    // Once taken off the ring, they no longer count.
    for port in 1..=2_000 {
        rig.send(A, &udp(A, ADDRESSES[1], ADDRESSES[2], [port, 54], b"x"));
    }
    assert_eq!(rig.events().len(), 2_000);
    rig.assert_no_frame_is_lost();
}

#[test]
fn links_are_scheduled_fairly_whatever_their_packets_cost() {
    // Each reading of the clock is a millisecond later, so that every batch leaves its link in
    // debt.
    let ticks = std::cell::Cell::new(0);
    let clock = || {
        ticks.set(ticks.get() + 1);
        Nanos(ticks.get() * 1_000_000)
    };
    let mut rig = Rig::with(IngressOfB::Open);
    let now = rig.now;
    for port in 1..=100 {
        let to_b = udp(A, ADDRESSES[1], ADDRESSES[2], [port, 53], b"x");
        let to_a = udp(HOST, ADDRESSES[0], ADDRESSES[1], [port % 50, 53], b"x");
        assert!(rig.links[A.index()].inject(0, &to_b));
        assert!(rig.links[HOST.index()].inject(0, &to_a));
    }
    let mut left = [0, 0];
    for _ in 0..100 {
        rig.workers[0].round_by_time(now, &clock);
        for (link, left) in [B, A].into_iter().zip(&mut left) {
            *left += rig.links[link.index()].transmitted(0, &mut |_| {});
        }
    }
    assert_eq!(left, [100, 100]);
    rig.assert_no_frame_is_lost();
}

#[test]
fn a_link_that_transmits_nothing_holds_no_more_frames_than_its_rings() {
    let mut rig = Rig::with(IngressOfB::Open);
    let now = rig.now;
    let mut answered = 0;
    for turn in 0..1_000 {
        let to_frozen = udp(A, ADDRESSES[1], ADDRESSES[2], [turn % 50, 53], &[0; 1_000]);
        assert!(rig.links[A.index()].inject(0, &to_frozen));
        let to_another = udp(HOST, ADDRESSES[0], ADDRESSES[1], [turn, 53], b"probe");
        assert!(rig.links[HOST.index()].inject(0, &to_another));
        rig.workers[0].round(now);
        // Pod B's link never completes its transmit ring.
        for link in [HOST, A] {
            answered += rig.links[link.index()].transmitted(0, &mut |_| {});
        }
    }
    assert_eq!(answered, 1_000, "the other link misses nothing");
    // 128 in the fill ring, 128 to be transmitted.
    assert_eq!(rig.umem.held_by(B), 256);
    assert_eq!(rig.dropped(DropReason::TxRingFull), 1_000 - 128);
    rig.run();
    assert_eq!(rig.send(A, &udp(A, ADDRESSES[1], ADDRESSES[2], [1, 53], b"x")).len(), 1);
    rig.assert_no_frame_is_lost();
}

#[test]
fn a_large_packet_is_dropped_for_lack_of_frames_and_small_ones_pass() {
    let mut rig = Rig::with(IngressOfB::Open);
    let now = rig.now;
    // Each takes 18 of 128 entries of a transmit ring that is never completed.
    let large = udp(A, ADDRESSES[1], ADDRESSES[2], [1, 2], &[0; 65_000]);
    for _ in 0..50 {
        assert!(rig.links[A.index()].inject(0, &large));
        rig.workers[0].round(now);
    }
    assert_eq!(rig.dropped(DropReason::TxRingFull), 50 - 128 / 18);
    let small = udp(HOST, ADDRESSES[0], ADDRESSES[1], [9, 53], b"probe");
    assert!(rig.links[HOST.index()].inject(0, &small));
    rig.workers[0].round(now);
    assert_eq!(rig.links[A.index()].transmitted(0, &mut |_| {}), 1);
    rig.assert_no_frame_is_lost();
}

/// As many as a node has by default, so that entries of hand-off rings run out first.
fn rig_with_many_frames(workers: u16) -> Rig {
    let rig = Rig::of(RigConfig { workers, frames: 16_384, ..RigConfig::default() });
    rig.shared.publish(snapshot(1, IngressOfB::Open));
    rig
}

#[test]
fn a_flood_of_handoffs_leaves_ring_entries_to_other_links() {
    let mut rig = rig_with_many_frames(2);
    assert_eq!(hand_off(&mut rig, 0, A, 3_000), 512, "half of the ring");
    let full = rig.dropped(DropReason::HandoffFull);
    assert!(full > 500, "{full}");
    let of_others = hand_off(&mut rig, 0, HOST, 100);
    assert!(of_others > 20, "{of_others} of about 50");
    assert_eq!(rig.dropped(DropReason::HandoffFull), full);
    // Once they are processed, the ring has free entries again.
    rig.run();
    assert!(hand_off(&mut rig, 0, A, 100) > 20);
    rig.run();
    rig.assert_no_frame_is_lost();
}

#[test]
fn a_flood_of_handoffs_from_several_workers_leaves_as_many() {
    let mut rig = rig_with_many_frames(3);
    // Each pair of workers has a ring of its own.
    let [by_one, by_other] = [0, 1].map(|by| hand_off(&mut rig, by, A, 3_000));
    assert_eq!(by_one, by_other);
    let full = rig.dropped(DropReason::HandoffFull);
    // Two of three workers own them: another pod's packets all arrive.
    for by in [0, 1] {
        let of_others = hand_off(&mut rig, by, HOST, 100);
        assert!(of_others > 40, "{of_others} of about 66");
    }
    assert_eq!(rig.dropped(DropReason::HandoffFull), full);
    rig.run();
    rig.assert_no_frame_is_lost();
}

/// Lets worker `by` receive errors about flows of `link` that don't exist. They are handed off to
/// their owner, which doesn't run. Returns the number of hand-offs.
fn hand_off(rig: &mut Rig, by: usize, link: LinkId, times: u16) -> u64 {
    let now = rig.now;
    let before = rig.workers[by].stats().handed_off.get();
    for port in 1..=times {
        let (there, about) = (ADDRESSES[2], ADDRESSES[link.index()]);
        let query = udp(B, there, about, [port, 53], b"query");
        let error = unreachable(link, about, there, &query);
        assert!(rig.links[link.index()].inject(by, &error));
        rig.workers[by].round(now);
    }
    rig.workers[by].stats().handed_off.get() - before
}

#[test]
fn a_link_that_got_no_frame_receives_again_once_there_are_some() {
    let mut rig = Rig::of(RigConfig { frames: 3 * 64, ring: 64, ..RigConfig::default() });
    for port in 1..=64 {
        assert!(rig.links[A.index()].inject(0, &IN_POD_A.segment(port, 1, b"")));
    }
    assert_eq!(rig.links[A.index()].fill_level(), 0);
    // The worker receives all of them at once, so that no frame is free for the fill ring. Then it
    // drops them, and nothing is sent to the link.
    rig.run();
    assert_eq!(rig.links[A.index()].fill_level(), 64);
    assert!(!rig.workers[0].has_unsent());
    rig.assert_no_frame_is_lost();
}
