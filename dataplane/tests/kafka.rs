//! Whole Kafka connections against the inspector, cut in every way.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::sync::Arc;

use podgate_dataplane::l7::inspector::Inspector;
use podgate_dataplane::l7::kafka::Kafka;
use podgate_tables::drop_reason::DropReason;
use podgate_tables::event::{EventKind, KafkaResult, RequestRecord, ResponseStatus};
use podgate_tables::ids::RuleId;
use podgate_tables::l7::{KafkaRule, KafkaRuleSpec, L7Entry, L7Policy, L7Rules};
use podgate_tables::time::Nanos;
use podgate_tables::tuple::FlowDirection::{Original, Reply};
use podgate_test_support::{Connection, from_hex};
use proptest::prelude::*;

type Conn = Connection<Kafka>;

/// Rules for these topics, of any role; `""` is any topic.
fn topics(topics: &[&str]) -> L7Policy {
    let rule = |topic: &&str| {
        let spec = KafkaRuleSpec { topic: Some((*topic).into()), ..KafkaRuleSpec::default() };
        KafkaRule::new(spec).unwrap()
    };
    let rules = Some(Arc::new(L7Rules::Kafka(topics.iter().map(rule).collect())));
    L7Policy { egress: vec![L7Entry { rule: RuleId(7), rules }], ..L7Policy::default() }
}

/// API key, version, frame: requests of every version, for `orders` and `jobs`.
fn corpus(file: &str) -> Vec<(i16, i16, Vec<u8>)> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/corpora/kafka/");
    let text = std::fs::read_to_string(format!("{path}{file}")).unwrap();
    let read = |line: &str| {
        let [key, version, frame] = line.split(' ').collect::<Vec<_>>()[..] else { panic!() };
        (key.parse().unwrap(), version.parse().unwrap(), from_hex(frame))
    };
    text.lines().filter(|line| !line.starts_with('#')).map(read).collect()
}

fn frame(body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32).to_be_bytes()[..], body].concat()
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u16).to_be_bytes()[..], text.as_bytes()].concat()
}

fn request(key: i16, version: i16, id: i32, body: &[u8]) -> Vec<u8> {
    let [key, version] = [key, version].map(i16::to_be_bytes);
    frame(&[&key[..], &version, &id.to_be_bytes(), &string("me"), body].concat())
}

/// Produce, version 3: topics, each with records of this size for one partition.
fn produce(id: i32, acks: i16, topics: &[(&str, usize)]) -> Vec<u8> {
    let mut body = [&[0xff, 0xff][..], &acks.to_be_bytes(), &[0, 0, 0, 9]].concat();
    body.extend((topics.len() as u32).to_be_bytes());
    for (topic, size) in topics {
        body.extend(string(topic));
        body.extend([0, 0, 0, 1, 0, 0, 0, 5]);
        body.extend((*size as u32).to_be_bytes());
        body.extend(vec![b'r'; *size]);
    }
    request(0, 3, id, &body)
}

/// Metadata, version 1.
fn metadata(id: i32, topics: &[&str]) -> Vec<u8> {
    let names: Vec<u8> = topics.iter().flat_map(|topic| string(topic)).collect();
    request(3, 1, id, &[&(topics.len() as u32).to_be_bytes()[..], &names].concat())
}

/// A response of the broker with this body.
fn response(id: i32, body: &[u8]) -> Vec<u8> {
    frame(&[&id.to_be_bytes()[..], body].concat())
}

/// The denial of [`produce`] for these topics.
fn produce_denial(id: i32, topics: &[&str]) -> Vec<u8> {
    let mut body = (topics.len() as u32).to_be_bytes().to_vec();
    for topic in topics {
        body.extend(string(topic));
        body.extend([0, 0, 0, 1, 0, 0, 0, 5, 0, 29]);
        body.extend([0xff; 16]);
    }
    response(id, &[&body[..], &[0; 4]].concat())
}

fn run(bytes: &[u8], size: usize, policy: &L7Policy) -> Conn {
    let mut kafka = Conn::default();
    for piece in bytes.chunks(size) {
        let room =
            kafka.inspector.heap_with(Original, kafka.requests.undecided.len() + piece.len());
        kafka.send(Original, piece, policy);
        let heap = kafka.inspector.heap();
        assert!(heap <= room, "more memory than was announced: {heap} > {room}");
    }
    kafka
}

#[test]
fn allowed_requests_of_every_version_pass_unchanged() {
    let both = topics(&["orders", "jobs"]);
    for (key, version, request) in corpus("requests.txt") {
        let by_id = matches!((key, version), (0, 13) | (1, 13..) | (8..=9, 10));
        let policy = if by_id { topics(&[""]) } else { both.clone() };
        for size in [usize::MAX, 1, 9] {
            let kafka = run(&request, size, &policy);
            assert_eq!(kafka.requests.received, request, "API {key} version {version}");
            assert_eq!((kafka.verdicts(), kafka.reset), (vec![true], None));
        }
    }
}

/// The answers are those that were compared with the message definitions.
#[test]
fn denied_requests_of_every_version_are_answered_and_dropped() {
    let requests = corpus("requests.txt");
    for (key, version, answer) in corpus("answers.txt") {
        let same = |(k, v, _): &&(i16, i16, Vec<u8>)| (*k, *v) == (key, version);
        let request = &requests.iter().find(same).unwrap().2;
        let nobody = topics(&[]);
        for size in [usize::MAX, 1, 9] {
            let kafka = run(request, size, &nobody);
            assert!(kafka.requests.received.is_empty(), "API {key} version {version}");
            assert_eq!(kafka.responses.received, answer, "API {key} version {version}");
            assert_eq!((kafka.verdicts(), kafka.reset), (vec![false], None));
        }
    }
}

#[test]
fn a_request_passes_only_if_each_of_its_topics_may() {
    let policy = topics(&["a", "b"]);
    for (names, allowed) in [
        (&["a"][..], true),
        (&["a", "b", "a"], true),
        (&[], true),
        (&["c"], false),
        (&["a", "c"], false),
        (&["c", "a"], false),
        (&["a", ""], false),
    ] {
        let kafka = run(&metadata(1, names), usize::MAX, &policy);
        assert_eq!(kafka.verdicts(), [allowed], "{names:?}");
        assert_eq!(kafka.requests.received.is_empty(), !allowed);
    }
}

#[test]
fn later_requests_go_on_and_answers_keep_their_places() {
    let policy = topics(&["a"]);
    let denied = |id| produce_denial(id, &["x"]);
    let requests = [
        metadata(1, &["a"]),
        produce(2, 1, &[("x", 3000)]),
        produce(3, 1, &[("a", 3000)]),
        produce(4, 1, &[("x", 10)]),
    ];
    let first = response(1, &[0; 8]);
    let third = response(3, &[0; 8]);
    for size in [usize::MAX, 1000, 1] {
        let mut kafka = run(&requests.concat(), size, &policy);
        assert_eq!(kafka.verdicts(), [true, false, true, false]);
        assert_eq!(kafka.requests.received, [&requests[0][..], &requests[2]].concat());
        assert!(kafka.responses.received.is_empty(), "the broker owes a response before");
        for piece in first.chunks(size).chain(third.chunks(size)) {
            kafka.send(Reply, piece, &policy);
        }
        let expected = [first.clone(), denied(2), third.clone(), denied(4)].concat();
        assert_eq!(kafka.responses.received, expected);
        let statuses = kafka.events.iter().filter(|event| {
            let EventKind::Response { status: ResponseStatus::Kafka(result), .. } = event else {
                return false;
            };
            result.error_code == 0
        });
        assert_eq!((statuses.count(), kafka.reset), (2, None));
    }
}

#[test]
fn a_large_produce_passes_or_is_dropped_with_its_last_topic() {
    let policy = topics(&["a", "b"]);
    let behind = metadata(9, &["a"]);
    for (produced, passes) in [
        (&[("a", 300_000)][..], true),
        (&[("x", 300_000)], false),
        (&[("a", 300_000), ("b", 300_000)], true),
        (&[("a", 300_000), ("x", 300_000)], false),
        (&[("a", 1_000_000), ("b", 1_000_000), ("a", 9)], true),
        (&[("a", 40_000), ("b", 40_000), ("x", 40_000)], false),
        (&[("a", 1_200_000), ("b", 1_200_000), ("a", 9)], false),
    ] {
        let request = produce(2, 1, produced);
        for size in [usize::MAX, 1400, 50_001] {
            let kafka = run(&[&request[..], &behind].concat(), size, &policy);
            let expected = if passes { [&request[..], &behind].concat() } else { behind.clone() };
            assert!(kafka.requests.received == expected, "{produced:?} in pieces of {size}");
            assert_eq!((kafka.verdicts(), kafka.reset), (vec![passes, true], None));
            let names: Vec<_> = produced.iter().map(|(name, _)| *name).collect();
            let answer = if passes { vec![] } else { produce_denial(2, &names) };
            assert_eq!(kafka.responses.received, answer, "{produced:?} in pieces of {size}");
        }
    }
}

#[test]
fn one_topic_of_a_produce_is_known_before_its_records() {
    let request = produce(2, 1, &[("a", 5000)]);
    let kafka = run(&request[..60], usize::MAX, &topics(&["a"]));
    assert_eq!(kafka.requests.received, request[..60]);
}

#[test]
fn a_denied_produce_without_acknowledgement_gets_no_answer() {
    let policy = topics(&["a"]);
    let requests = [produce(1, 0, &[("x", 50)]), produce(2, 0, &[("a", 50)]), metadata(3, &["x"])];
    let kafka = run(&requests.concat(), usize::MAX, &policy);
    assert_eq!(kafka.verdicts(), [false, true, false]);
    assert_eq!(kafka.requests.received, requests[1]);
    // The request that passed has no response either, so the last denial is answered now.
    assert_eq!(kafka.responses.received[4..8], [0, 0, 0, 3]);
}

#[test]
fn what_is_not_known_needs_a_rule_without_topics() {
    for request in [request(99, 0, 1, b"?"), request(3, 99, 1, b"?"), request(4, 0, 1, b"")] {
        let kafka = run(&request, usize::MAX, &topics(&["a"]));
        assert_eq!((kafka.verdicts(), kafka.reset), (vec![false], Some(DropReason::L7Unsupported)));
        assert!(kafka.requests.received.is_empty());
        let mut kafka = run(&request, usize::MAX, &topics(&[""]));
        assert_eq!((kafka.verdicts(), &kafka.requests.received), (vec![true], &request));
        let answer = response(1, b"whatever");
        kafka.send(Reply, &answer, &topics(&[""]));
        assert_eq!(kafka.responses.received, answer);
    }
}

/// A client that names topics by id in spite of the versions that it was offered.
#[test]
fn topics_by_id_are_denied_as_unauthorized_and_the_connection_lives_on() {
    let policy = topics(&["orders", "jobs"]);
    let (requests, answers) = (corpus("requests.txt"), corpus("answers.txt"));
    let by_id = |(key, version): (i16, i16)| {
        let versions = [(0, 13), (1, 13), (8, 10), (9, 10)];
        versions.iter().any(|(api, first)| *api == key && version >= *first)
    };
    let mut seen = 0;
    for (key, version, request) in requests.into_iter().filter(|(k, v, _)| by_id((*k, *v))) {
        let same = |(k, v, _): &&(i16, i16, Vec<u8>)| (*k, *v) == (key, version);
        let answer = &answers.iter().find(same).unwrap().2;
        let behind = metadata(2, &["orders"]);
        let kafka = run(&[&request[..], &behind].concat(), usize::MAX, &policy);
        assert_eq!((kafka.verdicts(), kafka.reset), (vec![false, true], None));
        assert_eq!(kafka.responses.received, *answer, "API {key} version {version}");
        assert_eq!(kafka.requests.received, behind);
        seen += 1;
    }
    assert_eq!(seen, 9);
}

#[test]
fn rules_see_api_version_and_client() {
    let rule = |spec: KafkaRuleSpec| {
        let rules = Some(Arc::new(L7Rules::Kafka(vec![KafkaRule::new(spec).unwrap()])));
        L7Policy { ingress: vec![L7Entry { rule: RuleId(1), rules }], ..L7Policy::default() }
    };
    let text = |text: &str| Some(text.to_owned());
    let none = KafkaRuleSpec::default;
    for (spec, allowed) in [
        (KafkaRuleSpec { role: text("produce"), ..none() }, true),
        (KafkaRuleSpec { role: text("consume"), ..none() }, false),
        (KafkaRuleSpec { api_key: text("produce"), ..none() }, true),
        (KafkaRuleSpec { api_version: text("3"), ..none() }, true),
        (KafkaRuleSpec { api_version: text("4"), ..none() }, false),
        (KafkaRuleSpec { client_id: text("me"), ..none() }, true),
        (KafkaRuleSpec { client_id: text("you"), ..none() }, false),
    ] {
        let kafka = run(&produce(1, 1, &[("a", 9)]), usize::MAX, &rule(spec.clone()));
        assert_eq!(kafka.verdicts(), [allowed], "{spec:?}");
    }
}

#[test]
fn what_is_no_kafka_is_reset_at_once() {
    let policy = topics(&[""]);
    for bytes in [&b"\x16\x03\x01\x02\x00"[..], b"GET / HTTP/1.1\r\n", b"\xff\xff\xff\xff"] {
        let kafka = run(bytes, 1, &policy);
        assert_eq!(kafka.reset, Some(DropReason::L7Malformed));
        assert!(kafka.requests.received.is_empty());
    }
    let mut broken = produce(1, 1, &[("a", 9), ("b", 9)]);
    let len = broken.len();
    broken[len - 13..len - 9].copy_from_slice(&[0, 0, 1, 0]);
    let mut kafka = run(&metadata(1, &["a"])[..9], usize::MAX, &policy);
    kafka.end(Original, &policy);
    assert_eq!(kafka.reset, Some(DropReason::L7Malformed));
}

#[test]
fn the_versions_that_a_broker_offers_are_limited() {
    let policy = topics(&["a"]);
    let offer = |max: u8| response(1, &[&[0, 0, 0, 0, 0, 1][..], &[0, 1, 0, 4, 0, max]].concat());
    for size in [usize::MAX, 1] {
        let mut kafka = run(&request(18, 0, 1, b""), usize::MAX, &policy);
        offer(17).chunks(size).for_each(|piece| kafka.send(Reply, piece, &policy));
        assert_eq!(kafka.responses.received, offer(12));
        kafka.send(Original, &metadata(2, &["x"]), &policy);
        assert_eq!(kafka.responses.received[20..28][4..], [0, 0, 0, 2]);
    }
}

#[test]
fn a_response_that_cannot_be_followed_leaves_no_place_for_a_denial() {
    let policy = topics(&["a"]);
    let mut kafka = run(&metadata(1, &["a"]), usize::MAX, &policy);
    let other = response(2, &[0; 8]);
    kafka.send(Reply, &other, &policy);
    assert_eq!((kafka.reset, &kafka.responses.received), (None, &other));
    kafka.send(Original, &metadata(2, &["a"]), &policy);
    assert_eq!(kafka.reset, None);
    kafka.send(Original, &metadata(3, &["x"]), &policy);
    assert_eq!(kafka.reset, Some(DropReason::L7Denied));
}

#[test]
fn a_buffered_request_must_be_complete_in_time() {
    let policy = topics(&["a", "b"]);
    let request = produce(2, 1, &[("a", 100_000), ("b", 9)]);
    let mut kafka = run(&request[..50_000], usize::MAX, &policy);
    assert!(kafka.inspector.heap() >= 49_000);
    kafka.now = Nanos(31_000_000_000);
    kafka.send(Original, &request[50_000..60_000], &policy);
    assert_eq!(kafka.reset, Some(DropReason::L7Timeout));
    assert!(kafka.requests.received.is_empty());
}

#[test]
fn an_event_has_what_was_asked_for_and_what_came_of_it() {
    let policy = topics(&["a"]);
    let mut kafka = run(&produce(77, 1, &[("a", 9)]), usize::MAX, &policy);
    let EventKind::Request { allowed: true, rule: Some(RuleId(7)), reason: None, request } =
        kafka.events[0]
    else {
        panic!("{:?}", kafka.events)
    };
    let RequestRecord::Kafka(record) = request else { panic!("{request:?}") };
    assert_eq!((record.api_key, record.api_version, record.correlation_id), (0, 3, 77));
    assert_eq!((record.client_id.bytes(), record.topic.bytes()), (&b"me"[..], &b"a"[..]));
    let body = [&[0, 0, 0, 1][..], &string("a"), &[0, 0, 0, 1, 0, 0, 0, 5, 0, 3], &[0; 20]];
    kafka.now = Nanos(5);
    kafka.send(Reply, &response(77, &body.concat()), &policy);
    let status = ResponseStatus::Kafka(KafkaResult { api_key: 0, error_code: 3 });
    let EventKind::Response { status: found, latency_ns: 5 } = kafka.events[1] else {
        panic!("{:?}", kafka.events)
    };
    assert_eq!(found, status);
}

proptest! {
    /// Requests of random topics, in random pieces: what passes are exactly the requests whose
    /// topics are all allowed.
    #[test]
    fn no_byte_of_a_denied_request_passes(
        requests in prop::collection::vec(
            prop::collection::vec((prop::sample::select(vec!["a", "b", "x"]), 0usize..2000), 1..4),
            1..6,
        ),
        size in 1usize..3000,
    ) {
        let policy = topics(&["a", "b"]);
        let is_allowed =
            |produced: &Vec<(&str, usize)>| produced.iter().all(|(topic, _)| *topic != "x");
        let frames: Vec<_> =
            (1..).zip(&requests).map(|(id, produced)| produce(id, 1, produced)).collect();
        let kafka = run(&frames.concat(), size, &policy);
        let allowed: Vec<bool> = requests.iter().map(is_allowed).collect();
        let passed = frames.iter().zip(&allowed).filter(|(_, allowed)| **allowed);
        let passed: Vec<u8> = passed.flat_map(|(frame, _)| frame.clone()).collect();
        prop_assert_eq!(&kafka.requests.received, &passed);
        prop_assert_eq!(kafka.verdicts(), allowed);
        prop_assert_eq!(kafka.reset, None);
    }

    #[test]
    fn damaged_requests_never_panic_and_are_the_same_in_pieces(
        index in 0usize..210, at in any::<prop::sample::Index>(), value: u8, size in 1usize..40,
    ) {
        let (_, _, mut request) = corpus("requests.txt").swap_remove(index);
        let at = at.index(request.len());
        request[at] = value;
        let policy = topics(&["orders"]);
        let (whole, pieces) = (run(&request, usize::MAX, &policy), run(&request, size, &policy));
        prop_assert_eq!(&whole.requests.received, &pieces.requests.received);
        prop_assert_eq!(whole.verdicts(), pieces.verdicts());
        prop_assert_eq!(whole.reset, pieces.reset);
    }
}
