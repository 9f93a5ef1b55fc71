//! Inspected flows in a complete worker: HTTP requests allowed, denied, revoked.

#![allow(clippy::unwrap_used, reason = "a test may fail here")]

use podgate_test_support::*;

use podgate_tables::drop_reason::DropReason;
use podgate_tables::event::{Event, EventKind};
use podgate_tables::ids::LinkId;
use podgate_tables::l7::{HttpRule, HttpRuleSpec, KafkaRule, KafkaRuleSpec, L7Rules, NamePattern};
use podgate_tables::policy::Verdict;
use podgate_tables::proto;

const CLIENT: u16 = 40_000;
const CLIENT_SEQ: u32 = 1_001;
const SERVER_SEQ: u32 = 9_001;

fn only_docs() -> IngressOfB {
    let spec = HttpRuleSpec {
        method: Some("GET".to_owned()),
        path: Some("/docs".to_owned()),
        ..HttpRuleSpec::default()
    };
    IngressOfB::FromA(Some(L7Rules::http(vec![HttpRule::new(spec).unwrap()])))
}

fn segment(from: LinkId, seq: u32, ack: Option<u32>, flags: &str, payload: &[u8]) -> Vec<u8> {
    let [a, b] = [ADDRESSES[1], ADDRESSES[2]];
    let (src, dst, ports) = if from == A { (a, b, [CLIENT, 80]) } else { (b, a, [80, CLIENT]) };
    tcp(from, &TcpPacket { src, dst, ports, seq, ack, flags, payload })
}

/// A worker with an established connection from pod A to pod B.
fn connected(policy: IngressOfB) -> Rig {
    let mut rig = Rig::with(policy);
    let left = rig.send(A, &segment(A, CLIENT_SEQ - 1, None, "S", b""));
    assert_eq!(left[0].0, B);
    let left = rig.send(B, &segment(B, SERVER_SEQ - 1, Some(CLIENT_SEQ), "S", b""));
    assert_eq!(left[0].0, A);
    rig.send(A, &segment(A, CLIENT_SEQ, Some(SERVER_SEQ), "", b""));
    rig
}

fn request(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: b\r\n\r\n").into_bytes()
}

fn payload(frame: &[u8]) -> &[u8] {
    etherparse::SlicedPacket::from_ethernet(frame)
        .ok()
        .and_then(|sliced| match sliced.transport {
            Some(etherparse::TransportSlice::Tcp(tcp)) => Some(tcp.payload()),
            _ => None,
        })
        .unwrap()
}

fn requests(rig: &Rig) -> Vec<bool> {
    let of = |event: Event| match event.kind {
        EventKind::Request { allowed, .. } => Some(allowed),
        _ => None,
    };
    rig.events().into_iter().filter_map(of).collect()
}

#[test]
fn an_allowed_request_reaches_the_server_unchanged() {
    let mut rig = connected(only_docs());
    let left = rig.send(A, &segment(A, CLIENT_SEQ, Some(SERVER_SEQ), "P", &request("/docs")));
    assert_eq!(left.len(), 1);
    assert_eq!((left[0].0, payload(&left[0].1)), (B, &request("/docs")[..]));
    assert_eq!(requests(&rig), [true]);
    rig.assert_no_frame_is_lost();
}

#[test]
fn a_denied_request_is_answered_403_and_never_reaches_the_server() {
    let mut rig = connected(only_docs());
    let left = rig.send(A, &segment(A, CLIENT_SEQ, Some(SERVER_SEQ), "P", &request("/secret")));
    let to_client: Vec<_> = left.iter().filter(|(link, _)| *link == A).collect();
    let answer = String::from_utf8_lossy(payload(&to_client[0].1));
    assert!(answer.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nAccess denied\r\n"), "{answer}");
    for (_, frame) in left.iter().filter(|(link, _)| *link == B) {
        assert!(!is_reset(frame) && payload(frame).is_empty(), "no byte, and no end either");
    }
    assert_eq!(requests(&rig), [false]);
    rig.assert_no_frame_is_lost();
}

#[test]
fn a_request_in_ip_fragments_is_inspected_like_an_unfragmented_one() {
    for reversed in [false, true] {
        let mut rig = connected(only_docs());
        let mut send = |id, path: &str| -> Vec<_> {
            let whole = segment(A, CLIENT_SEQ, Some(SERVER_SEQ), "P", &request(path));
            let mut fragments = cut(&whole, id, 44);
            assert!(fragments.len() > 1);
            if reversed {
                fragments.reverse();
            }
            fragments.iter().flat_map(|fragment| rig.send(A, fragment)).collect()
        };
        let left = send(1, "/docs");
        assert_eq!((left.len(), left[0].0, payload(&left[0].1)), (1, B, &request("/docs")[..]));
        let mut rig = connected(only_docs());
        let whole = segment(A, CLIENT_SEQ, Some(SERVER_SEQ), "P", &request("/secret"));
        let left: Vec<_> = cut(&whole, 2, 44).iter().flat_map(|f| rig.send(A, f)).collect();
        let answered = |(link, frame): &(LinkId, Vec<u8>)| {
            *link == A && payload(frame).starts_with(b"HTTP/1.1 403 Forbidden")
        };
        assert!(left.iter().any(answered));
        assert!(left.iter().all(|(link, frame)| *link == A || payload(frame).is_empty()));
        assert_eq!(requests(&rig), [false]);
        rig.assert_no_frame_is_lost();
    }
}

#[test]
fn a_request_in_two_segments_is_denied_as_a_whole() {
    let mut rig = connected(only_docs());
    let bytes = request("/docs/../secret");
    let (first, second) = bytes.split_at(9);
    let left = rig.send(A, &segment(A, CLIENT_SEQ, Some(SERVER_SEQ), "P", first));
    assert!(left.iter().all(|(_, frame)| payload(frame).is_empty()));
    let next = CLIENT_SEQ + first.len() as u32;
    let left = rig.send(A, &segment(A, next, Some(SERVER_SEQ), "P", second));
    assert!(left.iter().all(|(link, frame)| *link == A || payload(frame).is_empty()));
    assert_eq!(requests(&rig), [false]);
    rig.assert_no_frame_is_lost();
}

#[test]
fn a_revoked_inspected_flow_is_reset_at_both_ends() {
    let mut rig = connected(only_docs());
    rig.shared.publish(snapshot(2, IngressOfB::Closed));
    let left = rig.send(A, &segment(A, CLIENT_SEQ, Some(SERVER_SEQ), "P", &request("/docs")));
    let resets: Vec<_> = left.iter().filter(|(_, f)| is_reset(f)).map(|(link, _)| *link).collect();
    assert!(resets.contains(&A) && resets.contains(&B), "{resets:?}");
    assert!(left.iter().all(|(_, frame)| payload(frame).is_empty()));
    assert_eq!(rig.dropped(DropReason::PolicyRevoked), 1);
    rig.assert_no_frame_is_lost();
}

#[test]
fn a_changed_rule_applies_from_the_next_request_on() {
    let mut rig = connected(IngressOfB::FromA(Some(L7Rules::http(vec![
        HttpRule::new(HttpRuleSpec::default()).unwrap(),
    ]))));
    let first = request("/secret");
    let left = rig.send(A, &segment(A, CLIENT_SEQ, Some(SERVER_SEQ), "P", &first));
    assert_eq!(payload(&left[0].1), first);
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let seq = CLIENT_SEQ + first.len() as u32;
    rig.send(B, &segment(B, SERVER_SEQ, Some(seq), "P", answer));
    rig.shared.publish(snapshot(2, only_docs()));
    let ack = SERVER_SEQ + answer.len() as u32;
    let left = rig.send(A, &segment(A, seq, Some(ack), "P", &request("/secret")));
    assert!(left.iter().any(|(link, f)| *link == A && payload(f).starts_with(b"HTTP/1.1 403")));
    assert_eq!(requests(&rig), [true, false]);
    rig.assert_no_frame_is_lost();
}

/// Kafka rules for these topics.
fn topics(topics: &[&str]) -> IngressOfB {
    let rule = |topic: &&str| {
        let spec = KafkaRuleSpec { topic: Some((*topic).into()), ..KafkaRuleSpec::default() };
        KafkaRule::new(spec).unwrap()
    };
    IngressOfB::FromA(Some(L7Rules::Kafka(topics.iter().map(rule).collect())))
}

/// A Kafka message in its frame.
fn kafka_frame(parts: &[&[u8]]) -> Vec<u8> {
    let message = parts.concat();
    [&(message.len() as u32).to_be_bytes()[..], &message].concat()
}

/// Fetch, version 7, that continues session 7.
fn next_fetch() -> Vec<u8> {
    let header = [0, 1, 0, 7, 0, 0, 0, 2, 0xff, 0xff];
    let session = [0, 0, 0, 7, 0, 0, 0, 1];
    kafka_frame(&[&header, &[0; 17], &session, &[0; 8]])
}

#[test]
fn a_kafka_fetch_session_lasts_as_long_as_its_rules() {
    for (rules, lasts) in [(["a", "b"], true), (["b", "a"], false), (["a", "c"], false)] {
        let mut rig = connected(topics(&["a", "b"]));
        let first = kafka_request((1, 7), 1, None, &["a"]);
        let left = rig.send(A, &segment(A, CLIENT_SEQ, Some(SERVER_SEQ), "P", &first));
        assert_eq!(payload(&left[0].1), first);
        let seq = CLIENT_SEQ + first.len() as u32;
        // No error, session 7, no topic.
        let answer = kafka_frame(&[&[0, 0, 0, 1], &[0; 6], &[0, 0, 0, 7], &[0; 4]]);
        rig.send(B, &segment(B, SERVER_SEQ, Some(seq), "P", &answer));
        rig.shared.publish(snapshot(2, topics(&rules)));
        let ack = SERVER_SEQ + answer.len() as u32;
        let left = rig.send(A, &segment(A, seq, Some(ack), "P", &next_fetch()));
        let lost = kafka_frame(&[&[0, 0, 0, 2], &[0; 4], &[0, 71], &[0; 8]]);
        let sent = if lasts { (B, next_fetch()) } else { (A, lost) };
        assert!(left.iter().any(|(link, frame)| (*link, payload(frame)) == (sent.0, &sent.1)));
        assert_eq!(requests(&rig), [true, lasts], "{rules:?}");
        rig.assert_no_frame_is_lost();
    }
}

#[test]
fn a_plain_flow_that_must_be_inspected_now_is_denied() {
    let mut rig = connected(IngressOfB::FromA(None));
    rig.shared.publish(snapshot(2, only_docs()));
    let left = rig.send(A, &segment(A, CLIENT_SEQ, Some(SERVER_SEQ), "P", &request("/docs")));
    assert!(left.is_empty());
    let left = rig.send(B, &segment(B, SERVER_SEQ, Some(CLIENT_SEQ), "P", b"data"));
    assert_eq!(left.len(), 2, "both ends are reset, and no flow is opened");
    assert!(left.iter().all(|(_, frame)| is_reset(frame)));
    assert_eq!(rig.dropped(DropReason::TcpNoFlow), 1);
    rig.assert_no_frame_is_lost();
}

fn segment_of(port: u16, from: LinkId, ack: Option<u32>, flags: &str) -> Vec<u8> {
    let [a, b] = [ADDRESSES[1], ADDRESSES[2]];
    let (src, dst, ports) = if from == A { (a, b, [port, 80]) } else { (b, a, [80, port]) };
    tcp(from, &TcpPacket { src, dst, ports, seq: 1, ack, flags, payload: b"" })
}

#[test]
fn half_open_connections_are_evicted_for_an_inspected_one() {
    let mut rig = Rig::with(only_docs());
    for port in 1..=100 {
        let left = rig.send(A, &segment_of(port, A, None, "S"));
        assert!(left.iter().any(|(link, f)| *link == B && f[47] == 2), "SYN {port} passes");
    }
    rig.assert_no_frame_is_lost();
}

#[test]
fn a_connection_that_was_closed_for_its_requests_is_forgotten_soon() {
    let mut rig = connected(only_docs());
    rig.send(A, &segment(A, CLIENT_SEQ, Some(SERVER_SEQ), "", &request("/docs")[..9]));
    assert!(rig.workers[0].stats().buffered_bytes.get() > 0);
    // 30 seconds for the head to be completed, 30 for the ends to close, 10 until it is forgotten.
    for _ in 0..(30 + 30 + 13) * 10 {
        rig.now = rig.now.plus_millis(100);
        rig.run();
    }
    assert_eq!(rig.workers[0].flows(), 0);
    assert_eq!(rig.workers[0].stats().buffered_bytes.get(), 0);
}

#[test]
fn one_pod_leaves_half_of_the_inspectors_to_others() {
    let mut rig = Rig::with(only_docs());
    for port in 1..=100 {
        if !rig.send(A, &segment_of(port, A, None, "S")).is_empty() {
            rig.send(B, &segment_of(port, B, Some(2), "S"));
            rig.send(A, &segment_of(port, A, Some(2), ""));
        }
    }
    assert_eq!(rig.workers[0].flows(), 32);
    assert_eq!(rig.dropped(DropReason::InspectedFull), 68);
    rig.assert_no_frame_is_lost();
}

/// The rules decide which inspector a flow has, from the first connection on.
#[test]
fn a_server_name_that_no_rule_allows_resets_both_ends() {
    let names = vec![NamePattern::server_name("allowed.example").unwrap()];
    for (name, allowed) in [("allowed.example", true), ("denied.example", false)] {
        let mut rig = connected(IngressOfB::FromA(Some(L7Rules::ServerNames(names.clone()))));
        let hello = client_hello(name);
        let left = rig.send(A, &segment(A, CLIENT_SEQ, Some(SERVER_SEQ), "P", &hello));
        let passed = left.iter().any(|(link, frame)| *link == B && payload(frame) == hello);
        assert_eq!(passed, allowed, "{name}");
        let reset = [A, B].map(|end| left.iter().any(|(at, f)| *at == end && is_reset(f)));
        assert_eq!(reset, [!allowed; 2], "{name}");
        assert_eq!(requests(&rig), [allowed]);
        rig.assert_no_frame_is_lost();
    }
}

/// Sends a packet of a flow without inspector: it is dropped with an event.
fn assert_dropped_whole(rig: &mut Rig, packet: &[u8]) {
    let before = rig.dropped(DropReason::L7Unsupported);
    assert!(rig.send(A, packet).is_empty(), "nothing leaves, not even an answer");
    assert_eq!(rig.dropped(DropReason::L7Unsupported), before + 1);
    assert_eq!(rig.workers[0].flows(), 0);
    let kinds: Vec<EventKind> = rig.events().iter().map(|event| event.kind).collect();
    assert!(
        matches!(
            kinds[..],
            [
                EventKind::Verdict { verdict: Verdict::Inspect, .. },
                EventKind::Drop { reason: DropReason::L7Unsupported },
            ]
        ),
        "{kinds:?}"
    );
}

#[test]
fn datagrams_under_rules_of_protocols_over_tcp_are_dropped_whatever_the_rules() {
    let http = L7Rules::http(vec![HttpRule::new(HttpRuleSpec::default()).unwrap()]);
    // QUIC, to a port with server names.
    let tls = L7Rules::ServerNames(vec![NamePattern::server_name("*").unwrap()]);
    let kafka = L7Rules::Kafka(vec![KafkaRule::new(KafkaRuleSpec::default()).unwrap()]);
    for rules in [http, tls, kafka] {
        let [src, dst] = [ADDRESSES[1], ADDRESSES[2]];
        for (protocol, packet) in [
            (proto::UDP, udp(A, src, dst, [CLIENT, 80], b"query")),
            (proto::SCTP, sctp(A, src, dst, [CLIENT, 80])),
        ] {
            let mut rig = Rig::with(IngressOfB::FromAOver(protocol, rules.clone()));
            assert_dropped_whole(&mut rig, &packet);
            assert_dropped_whole(&mut rig, &packet);
            rig.assert_no_frame_is_lost();
        }
    }
}

#[test]
fn a_connection_is_reset_when_its_rules_change_to_another_protocol() {
    let dns = L7Rules::Dns(vec![NamePattern::dns("*").unwrap()]);
    let kafka = L7Rules::Kafka(vec![KafkaRule::new(KafkaRuleSpec::default()).unwrap()]);
    for (epoch, rules) in (2..).zip([dns, kafka]) {
        let mut rig = connected(only_docs());
        rig.shared.publish(snapshot(epoch, IngressOfB::FromA(Some(rules))));
        let left = rig.send(A, &segment(A, CLIENT_SEQ, Some(SERVER_SEQ), "P", &request("/docs")));
        let resets: Vec<_> =
            left.iter().filter(|(_, f)| is_reset(f)).map(|(link, _)| *link).collect();
        assert!(resets.contains(&A) && resets.contains(&B), "{resets:?}");
        assert!(left.iter().all(|(_, frame)| payload(frame).is_empty()));
        assert_eq!(rig.dropped(DropReason::PolicyRevoked), 1);
        rig.assert_no_frame_is_lost();
    }
}

#[test]
fn a_datagram_flow_that_must_be_inspected_now_is_dropped() {
    let mut rig = Rig::with(IngressOfB::Open);
    let [a, b] = [ADDRESSES[1], ADDRESSES[2]];
    assert_eq!(rig.send(A, &udp(A, a, b, [CLIENT, 80], b"query")).len(), 1);
    let tls = L7Rules::ServerNames(vec![NamePattern::server_name("*").unwrap()]);
    rig.shared.publish(snapshot(2, IngressOfB::FromAOver(proto::UDP, tls)));
    assert!(rig.send(A, &udp(A, a, b, [CLIENT, 80], b"query")).is_empty());
    assert!(rig.send(B, &udp(B, b, a, [80, CLIENT], b"answer")).is_empty());
    assert_eq!(rig.dropped(DropReason::PolicyRevoked), 2);
    rig.assert_no_frame_is_lost();
}

#[test]
fn a_revoked_inspected_flow_is_reset_by_its_timer_if_nobody_sends() {
    let mut rig = connected(only_docs());
    rig.send(A, &segment(A, CLIENT_SEQ, Some(SERVER_SEQ), "", &request("/docs")[..9]));
    rig.shared.publish(snapshot(2, IngressOfB::Closed));
    rig.now = rig.workers[0].next_timer().unwrap();
    let left = rig.run();
    let resets: Vec<_> = left.iter().filter(|(_, f)| is_reset(f)).map(|(link, _)| *link).collect();
    assert!(resets.contains(&A) && resets.contains(&B), "{resets:?}");
    assert_eq!(rig.workers[0].flows(), 0);
    rig.assert_no_frame_is_lost();
}
