//! Whole Kafka connections against the inspector, cut in every way.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::sync::Arc;

use podgate_dataplane::l7::inspector::Inspector;
use podgate_dataplane::l7::kafka::Kafka;
use podgate_tables::drop_reason::DropReason;
use podgate_tables::event::{EventKind, KafkaResult, RequestRecord, ResponseStatus};
use podgate_tables::ids::RuleId;
use podgate_tables::l7::kafka::schema::{Api, Field, Kind, List, Role};
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

/// Fetch, version 7 or later, of a session with this id and epoch: one partition of each topic.
fn fetch(version: i16, id: i32, (session, epoch): (i32, i32), topics: &[&str]) -> Vec<u8> {
    let is_flexible = version >= 12;
    let count = |count: usize| match is_flexible {
        true => vec![count as u8 + 1],
        false => (count as u32).to_be_bytes().to_vec(),
    };
    let tags: &[u8] = if is_flexible { &[0] } else { &[] };
    let mut body = tags.to_vec();
    if version <= 14 {
        body.extend([0xff; 4]);
    }
    body.extend([[0, 0, 0, 100], [0, 0, 0, 1], [0, 1, 0, 0]].concat());
    body.push(0);
    body.extend([session, epoch].map(i32::to_be_bytes).concat());
    body.extend(count(topics.len()));
    for topic in topics {
        body.extend(if is_flexible { count(topic.len()) } else { string(topic)[..2].to_vec() });
        body.extend(topic.as_bytes());
        body.extend(count(1));
        body.extend([0; 4]);
        let rest = [(9, 4), (0, 8), (12, 4), (5, 8), (0, 4)];
        let rest = rest.iter().filter(|(since, _)| version >= *since);
        body.extend(vec![0; rest.map(|(_, len)| len).sum()]);
        body.extend([tags, tags].concat());
    }
    body.extend(count(0));
    if version >= 11 {
        body.extend(if is_flexible { &[1][..] } else { &[0, 0] });
    }
    body.extend(tags);
    request(1, version, id, &body)
}

/// The response to [`fetch`], without records.
fn fetched(version: i16, id: i32, error: i16, session: i32) -> Vec<u8> {
    let is_flexible = version >= 12;
    let header: &[u8] = if is_flexible { &[0] } else { &[] };
    let topics: &[u8] = if is_flexible { &[1, 0] } else { &[0; 4] };
    let body = [&[0; 4][..], &error.to_be_bytes(), &session.to_be_bytes(), topics];
    response(id, &[header, &body.concat()].concat())
}

/// A broker that expects another epoch of a session (`INVALID_FETCH_SESSION_EPOCH`).
fn session_ended(version: i16, id: i32) -> Vec<u8> {
    fetched(version, id, 71, 0)
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
        let by_id = matches!((key, version), (0, 13) | (1, 13..) | (8..=9, 10))
            || may_have_both(Api::of(key).unwrap().request, version);
        let policy = if by_id { topics(&[""]) } else { both.clone() };
        for size in [usize::MAX, 1, 9] {
            let mut kafka = match (key, version) {
                // It continues a session.
                (1, 7..=12) => with_session(version, 1, &policy),
                _ => Conn::default(),
            };
            let allowed = (true, vec![]);
            let what = format!("API {key} version {version}");
            assert_eq!(ask(&mut kafka, &request, size, &policy), allowed, "{what}");
        }
    }
}

/// Whether a topic of the request may have a name and an id.
fn may_have_both(fields: &[Field], version: i16) -> bool {
    fields.iter().filter(|field| field.is_in(version)).any(|field| match field.kind {
        Kind::Array { fields, list, .. } => {
            let has = |role| fields.iter().any(|field| field.role == role && field.is_in(version));
            list == List::Topics && has(Role::Topic) && has(Role::TopicId)
                || may_have_both(fields, version)
        }
        _ => false,
    })
}

/// A broker may use the id of a topic, and ignore its name.
#[test]
fn a_topic_with_a_name_and_an_id_must_be_allowed_by_both() {
    let named = topics(&["orders", "jobs"]);
    let mut versions = Vec::new();
    for (key, version, by_both) in corpus("requests.txt") {
        if !may_have_both(Api::of(key).unwrap().request, version) {
            continue;
        }
        versions.push((key, version));
        let mut by_name = by_both.clone();
        for id in [[0x10, 0x00], [0x10, 0x01]] {
            let id = [&[0; 14][..], &id].concat();
            let at = by_both.windows(16).position(|bytes| bytes == id).unwrap();
            by_name[at..at + 16].fill(0);
        }
        let behind = metadata(2, &["orders"]);
        for (request, policy, allowed) in [
            (&by_name, &named, true),
            (&by_name, &topics(&["orders"]), false),
            (&by_both, &named, false),
            (&by_both, &topics(&["orders", "jobs", ""]), true),
        ] {
            for size in [usize::MAX, 1, 9] {
                let kafka = run(&[&request[..], &behind].concat(), size, policy);
                let what = format!("API {key} version {version}");
                assert_eq!(kafka.verdicts(), [allowed, true], "{what}");
                assert_eq!(kafka.reset, None, "{what}");
                assert_eq!(kafka.requests.received.starts_with(request), allowed, "{what}");
            }
        }
    }
    assert_eq!(versions, [(3, 10), (3, 11), (3, 12), (3, 13), (20, 6)]);
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

const SESSION: i32 = 77;

/// Sends a request in pieces. Whether it passed, and what the client got.
fn ask(kafka: &mut Conn, request: &[u8], size: usize, policy: &L7Policy) -> (bool, Vec<u8>) {
    request.chunks(size).for_each(|piece| kafka.send(Original, piece, policy));
    let received = std::mem::take(&mut kafka.requests.received);
    let passed = !received.is_empty();
    assert!(!passed || received == request, "it passes as a whole, and unchanged");
    assert_eq!((kafka.verdicts().last(), kafka.reset), (Some(&passed), None));
    (passed, std::mem::take(&mut kafka.responses.received))
}

/// Sends a Fetch, which must pass, and its response with this error and session.
fn exchange(kafka: &mut Conn, request: &[u8], (error, session): (i16, i32), policy: &L7Policy) {
    assert_eq!(ask(kafka, request, usize::MAX, policy), (true, vec![]));
    let (version, id) = (i16::from_be_bytes([request[6], request[7]]), i32::from(request[11]));
    let response = fetched(version, id, error, session);
    response.chunks(5).for_each(|piece| kafka.send(Reply, piece, policy));
    assert_eq!(std::mem::take(&mut kafka.responses.received), response);
}

/// A connection whose Fetch of a topic of the policy passed, and opened this session.
fn with_session(version: i16, session: i32, policy: &L7Policy) -> Conn {
    let mut kafka = Conn::default();
    let Some(L7Rules::Kafka(rules)) = policy.egress[0].rules.as_deref() else { panic!() };
    let topic = rules[0].spec().topic.as_deref().unwrap();
    exchange(&mut kafka, &fetch(version, 1, (0, 0), &[topic]), (0, session), policy);
    kafka
}

/// Whether a Fetch that continues a session passes. If not, it must be answered as by a broker that
/// expects another epoch of it.
fn continues(kafka: &mut Conn, version: i16, session: i32, policy: &L7Policy) -> bool {
    let (passed, answer) = ask(kafka, &fetch(version, 9, (session, 1), &[]), usize::MAX, policy);
    match passed {
        true => kafka.send(Reply, &fetched(version, 9, 0, session), policy),
        false => assert_eq!(answer, session_ended(version, 9)),
    }
    kafka.responses.received.clear();
    passed
}

#[test]
fn a_fetch_continues_a_session_that_a_full_fetch_opened() {
    let policy = topics(&["a", "b"]);
    for version in 7..=12 {
        for size in [usize::MAX, 1, 9] {
            let mut kafka = with_session(version, SESSION, &policy);
            for (epoch, names) in [(1, &[][..]), (2, &["b"]), (3, &[]), (i32::MAX, &["a", "b"])] {
                let request = fetch(version, 9, (SESSION, epoch), names);
                assert_eq!(ask(&mut kafka, &request, size, &policy), (true, vec![]));
                kafka.send(Reply, &fetched(version, 9, 0, SESSION), &policy);
                kafka.responses.received.clear();
            }
        }
    }
}

#[test]
fn a_session_gets_no_topic_that_is_not_allowed() {
    let policy = topics(&["a"]);
    let mut kafka = with_session(7, SESSION, &policy);
    let (passed, answer) = ask(&mut kafka, &fetch(7, 2, (SESSION, 1), &["x"]), 9, &policy);
    let error_of_x = [&string("x")[..], &[0, 0, 0, 1, 0, 0, 0, 0, 0, 29]].concat();
    assert!(!passed && answer.windows(error_of_x.len()).any(|bytes| bytes == error_of_x));
    assert!(continues(&mut kafka, 7, SESSION, &policy));
}

#[test]
fn a_fetch_of_a_session_from_elsewhere_is_answered_as_by_a_broker_that_expects_another_epoch() {
    let policy = topics(&["a", "b"]);
    for version in (7..=12).chain([13, 15, 16, 18]) {
        for (session, epoch) in [(SESSION, 1), (SESSION, -2), (0, 1), (-1, i32::MIN)] {
            let names = [&[][..], &["a"], &["a", "b"]];
            // Later versions name topics by id.
            let names = &names[..if version > 12 { 1 } else { 3 }];
            for (names, size) in names.iter().flat_map(|n| [(n, usize::MAX), (n, 1), (n, 9)]) {
                let request = fetch(version, 5, (session, epoch), names);
                let mut kafka = Conn::default();
                let denied = (false, session_ended(version, 5));
                assert_eq!(ask(&mut kafka, &request, size, &policy), denied, "version {version}");
                assert!(!continues(&mut kafka, version, session, &policy));
                exchange(&mut kafka, &fetch(12, 6, (0, 0), &["a"]), (0, SESSION), &policy);
                assert!(continues(&mut kafka, 12, SESSION, &policy));
            }
        }
    }
    let mut owner = with_session(12, SESSION, &policy);
    assert!(!continues(&mut Conn::default(), 12, SESSION, &policy));
    assert!(continues(&mut owner, 12, SESSION, &policy));
}

#[test]
fn a_session_ends_with_the_policy_that_allowed_it() {
    let (before, after) = (topics(&["a", "b"]), topics(&["b"]));
    for version in [7, 11, 12] {
        let mut kafka = with_session(version, SESSION, &before);
        assert!(continues(&mut kafka, version, SESSION, &before));
        kafka.inspector.policy_changed();
        for _ in 0..3 {
            assert!(!continues(&mut kafka, version, SESSION, &after));
        }
        let (passed, answer) =
            ask(&mut kafka, &fetch(version, 2, (0, 0), &["a"]), usize::MAX, &after);
        assert!(!passed && answer.windows(2).any(|bytes| bytes == [0, 29]));
        exchange(&mut kafka, &fetch(version, 3, (0, 0), &["b"]), (0, 78), &after);
        assert!(continues(&mut kafka, version, 78, &after));
        assert!(!continues(&mut kafka, version, SESSION, &after));
        // As clients do upon the answer: the broker closes the session and opens another one.
        exchange(&mut kafka, &fetch(version, 4, (SESSION, 0), &["b"]), (0, 79), &after);
        assert!(continues(&mut kafka, version, 79, &after));
    }
}

#[test]
fn a_fetch_that_meets_a_change_of_policy_opens_no_session() {
    let policy = topics(&["a"]);
    let request = fetch(12, 1, (0, 0), &["a"]);
    let response = fetched(12, 1, 0, SESSION);
    let all = [&request[..], &response].concat();
    for change in 1..all.len() {
        let mut kafka = Conn::default();
        for (at, byte) in all.iter().enumerate() {
            if at == change {
                kafka.inspector.policy_changed();
            }
            kafka.send(if at < request.len() { Original } else { Reply }, &[*byte], &policy);
        }
        assert_eq!(kafka.responses.received, response);
        kafka.requests.received.clear();
        kafka.responses.received.clear();
        // Its header alone decides nothing.
        let is_after = change < 17;
        assert_eq!(continues(&mut kafka, 12, SESSION, &policy), is_after, "after {change} bytes");
    }
}

#[test]
fn where_all_topics_are_allowed_sessions_are_not_looked_at() {
    let none = KafkaRuleSpec::default;
    let text = |text: &str| Some(text.to_owned());
    let rules = |specs: Vec<KafkaRuleSpec>| {
        let rules = specs.into_iter().map(|spec| KafkaRule::new(spec).unwrap()).collect();
        vec![L7Entry { rule: RuleId(7), rules: Some(Arc::new(L7Rules::Kafka(rules))) }]
    };
    let any = || rules(vec![KafkaRuleSpec { role: text("consume"), ..none() }]);
    let one = || rules(vec![KafkaRuleSpec { topic: text("a"), ..none() }]);
    let both = rules(vec![
        KafkaRuleSpec { topic: text("a"), ..none() },
        KafkaRuleSpec { api_key: text("fetch"), ..none() },
    ]);
    let plain = || vec![L7Entry { rule: RuleId(8), rules: None }];
    for (egress, ingress, passes) in [
        (any(), vec![], true),
        (vec![], any(), true),
        (any(), any(), true),
        (both, any(), true),
        ([one(), plain()].concat(), any(), true),
        (vec![], vec![], true),
        (any(), one(), false),
        (one(), any(), false),
        (vec![], one(), false),
        (plain(), one(), false),
    ] {
        let policy = L7Policy { egress, ingress };
        for version in [7, 11, 12, 15, 16] {
            let mut kafka = Conn::default();
            assert_eq!(continues(&mut kafka, version, SESSION, &policy), passes, "{policy:?}");
            kafka.inspector.policy_changed();
            assert_eq!(continues(&mut kafka, version, SESSION, &policy), passes);
        }
    }
}

#[test]
fn without_any_rule_for_fetch_a_session_is_denied_as_before() {
    let spec = KafkaRuleSpec { role: Some("produce".into()), ..KafkaRuleSpec::default() };
    let rules = Some(Arc::new(L7Rules::Kafka(vec![KafkaRule::new(spec).unwrap()])));
    let policy =
        L7Policy { egress: vec![L7Entry { rule: RuleId(7), rules }], ..L7Policy::default() };
    let mut kafka = Conn::default();
    let denied = (false, fetched(12, 9, 29, 0));
    let request = fetch(12, 9, (SESSION, 1), &[]);
    assert_eq!(ask(&mut kafka, &request, usize::MAX, &policy), denied);
}

#[test]
fn answers_about_sessions_keep_their_places() {
    let policy = topics(&["a"]);
    let full = |id| fetch(11, id, (0, 0), &["a"]);
    let next = |id| fetch(11, id, (SESSION, 1), &[]);
    let ended = |id| session_ended(11, id);
    let (one, five) = (fetched(11, 1, 0, SESSION), fetched(11, 5, 0, SESSION + 1));
    for size in [usize::MAX, 1, 40] {
        // Nobody can know the session before the response.
        let mut kafka = run(&[full(1), next(2), next(3)].concat(), size, &policy);
        assert_eq!((kafka.verdicts(), kafka.reset), (vec![true, false, false], None));
        assert!(kafka.responses.received.is_empty());
        one.chunks(size).for_each(|piece| kafka.send(Reply, piece, &policy));
        assert_eq!(kafka.responses.received, [&one[..], &ended(2), &ended(3)].concat());
        kafka.responses.received.clear();
        let behind = [next(4), full(5), fetch(11, 6, (1, 1), &[]), next(7)].concat();
        behind.chunks(size).for_each(|piece| kafka.send(Original, piece, &policy));
        assert_eq!(kafka.verdicts()[3..], [true, true, false, true]);
        let (four, seven) = (fetched(11, 4, 0, SESSION), fetched(11, 7, 0, SESSION));
        let responses = [&four[..], &five, &seven].concat();
        responses.chunks(size).for_each(|piece| kafka.send(Reply, piece, &policy));
        let expected = [&four[..], &five, &ended(6), &seven].concat();
        assert_eq!((kafka.responses.received.clone(), kafka.reset), (expected, None));
        kafka.requests.received.clear();
        kafka.responses.received.clear();
        assert!(continues(&mut kafka, 11, SESSION + 1, &policy));
    }
}

#[test]
fn a_fetch_that_fails_or_wants_no_session_opens_none() {
    let policy = topics(&["a"]);
    for version in [7, 11, 12] {
        for (epoch, error, session) in [(0, 1, SESSION), (0, 71, SESSION), (0, 0, 0), (-1, 0, 77)] {
            let mut kafka = Conn::default();
            let request = fetch(version, 1, (0, epoch), &["a"]);
            exchange(&mut kafka, &request, (error, session), &policy);
            assert!(!continues(&mut kafka, version, session, &policy));
        }
        // Nor does the response to another request.
        let mut kafka = Conn::default();
        exchange(&mut kafka, &fetch(version, 1, (0, -1), &["a"]), (0, SESSION), &policy);
        assert!(!continues(&mut kafka, version, SESSION, &policy));
    }
}

#[test]
fn few_sessions_are_known_and_a_full_fetch_closes_its_own() {
    let policy = topics(&["a"]);
    let mut kafka = Conn::default();
    for session in 1..=5 {
        exchange(&mut kafka, &fetch(12, 1, (0, 0), &["a"]), (0, session), &policy);
    }
    // One that is opened again counts once.
    exchange(&mut kafka, &fetch(12, 1, (0, 0), &["a"]), (0, 4), &policy);
    for session in 1..=6 {
        let known = (2..=5).contains(&session);
        assert_eq!(continues(&mut kafka, 12, session, &policy), known, "{session}");
    }
    exchange(&mut kafka, &fetch(12, 1, (3, 0), &["a"]), (0, 6), &policy);
    exchange(&mut kafka, &fetch(12, 1, (4, -1), &["a"]), (0, 0), &policy);
    for session in 1..=6 {
        let known = [2, 5, 6].contains(&session);
        assert_eq!(continues(&mut kafka, 12, session, &policy), known, "{session}");
    }
}

#[test]
fn a_large_denied_request_is_answered_although_nothing_follows() {
    let names: Vec<String> = (0..200).map(|name| format!("{name:0>249}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let policy = topics(&names);
    for size in [usize::MAX, 1400, 50_001, 99_999] {
        let mut kafka = Conn::default();
        let request = fetch(11, 3, (SESSION, 1), &names);
        let denied = (false, session_ended(11, 3));
        assert_eq!(ask(&mut kafka, &request, size, &policy), denied, "in pieces of {size}");
        let denied_last = topics(&names[..199]);
        let (passed, answer) = ask(&mut kafka, &metadata(4, &names), size, &denied_last);
        assert!(!passed && answer[4..8] == [0, 0, 0, 4], "in pieces of {size}");
        exchange(&mut kafka, &fetch(11, 5, (0, 0), &names), (0, SESSION), &policy);
        assert!(continues(&mut kafka, 11, SESSION, &policy));
    }
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
