//! Whole TLS connections against the inspector of server names, cut in every way.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::sync::Arc;

use podgate_dataplane::l7::tls::Tls;
use podgate_tables::drop_reason::DropReason;
use podgate_tables::event::{EventKind, RequestRecord};
use podgate_tables::ids::RuleId;
use podgate_tables::l7::tls::{HELLO_MAX, HELLO_RECORDS_MAX};
use podgate_tables::l7::{L7Entry, L7Policy, L7Rules, NamePattern};
use podgate_tables::tuple::FlowDirection::{self, Original, Reply};
use podgate_test_support::{
    ALERT, APPLICATION_DATA, CHANGE_CIPHER_SPEC, Connection, Conversation, HANDSHAKE, client_hello,
    client_hello_message, conversations, hello_retry_request, server_hello, tls_record,
};
use proptest::prelude::*;

const ALLOWED: &str = "allowed.example";
const DENIED: &str = "denied.example";

fn names(patterns: &[&str]) -> L7Policy {
    let patterns = patterns.iter().map(|pattern| NamePattern::server_name(pattern).unwrap());
    let rules = Some(Arc::new(L7Rules::ServerNames(patterns.collect())));
    L7Policy { egress: vec![L7Entry { rule: RuleId(7), rules }], ..L7Policy::default() }
}

fn policy() -> L7Policy {
    names(&[ALLOWED])
}

type Turn = (FlowDirection, Vec<u8>);

/// Sends what both ends send, in turn, each cut into pieces of `size` bytes.
fn run(turns: &[Turn], size: usize, policy: &L7Policy) -> Connection<Tls> {
    let mut tls = Connection::default();
    for (direction, bytes) in turns {
        bytes.chunks(size).for_each(|piece| tls.send(*direction, piece, policy));
    }
    tls
}

fn client(bytes: &[u8]) -> Connection<Tls> {
    run(&[(Original, bytes.to_vec())], usize::MAX, &policy())
}

/// Names and verdicts of the hellos, in order.
fn hellos(tls: &Connection<Tls>) -> Vec<(String, bool)> {
    let hello = |event: &EventKind| match event {
        EventKind::Request { allowed, request: RequestRecord::ServerName(name), .. } => {
            Some((String::from_utf8_lossy(name.bytes()).into_owned(), *allowed))
        }
        _ => None,
    };
    tls.events.iter().filter_map(hello).collect()
}

fn all_of(turns: &[Turn], direction: FlowDirection) -> Vec<u8> {
    let sent = turns.iter().filter(|(of, _)| *of == direction);
    sent.flat_map(|(_, bytes)| bytes.clone()).collect()
}

#[test]
fn captured_connections_pass_whole_and_in_pieces() {
    for Conversation { name, turns } in conversations("tls") {
        let retries = name.contains("hello-retry");
        for size in [usize::MAX, 1400, 100, 7, 1] {
            let tls = run(&turns, size, &policy());
            assert_eq!(tls.reset, None, "{name} in pieces of {size}");
            assert_eq!(tls.requests.received, all_of(&turns, Original), "{name}");
            assert_eq!(tls.responses.received, all_of(&turns, Reply), "{name}");
            assert_eq!(hellos(&tls), vec![(ALLOWED.to_owned(), true); 1 + usize::from(retries)]);
        }
    }
}

#[test]
fn captured_connections_to_a_denied_name_are_reset_before_a_byte_passes() {
    for Conversation { name, turns } in conversations("tls") {
        for size in [usize::MAX, 1] {
            let tls = run(&turns, size, &names(&[DENIED, "*.example.org"]));
            assert_eq!(tls.reset, Some(DropReason::L7Denied), "{name}");
            assert!(tls.requests.received.is_empty() && tls.responses.received.is_empty());
            assert_eq!(hellos(&tls), [(ALLOWED.to_owned(), false)]);
        }
    }
}

#[test]
fn nothing_of_a_hello_passes_before_it_is_complete() {
    let hello = client_hello(ALLOWED);
    for cut in 0..hello.len() {
        let tls = client(&hello[..cut]);
        assert!(tls.requests.received.is_empty() && tls.reset.is_none(), "cut at {cut}");
    }
    let early = [hello.clone(), tls_record(APPLICATION_DATA, &[1; 3000])].concat();
    for denied in [true, false] {
        let policy = names(&[if denied { DENIED } else { ALLOWED }]);
        let tls = run(&[(Original, early.clone())], usize::MAX, &policy);
        assert_eq!(tls.requests.received, if denied { vec![] } else { early.clone() });
    }
}

#[test]
fn the_hello_behind_a_retry_request_is_decided_too() {
    let ccs = tls_record(CHANGE_CIPHER_SPEC, &[1]);
    let early = tls_record(APPLICATION_DATA, b"early");
    for between in [vec![], ccs.clone(), [early.clone(), ccs.clone()].concat()] {
        for name in [ALLOWED, DENIED, ""] {
            for size in [usize::MAX, 1] {
                let turns = [
                    (Original, client_hello(ALLOWED)),
                    (Reply, [hello_retry_request(), ccs.clone()].concat()),
                    (Original, [between.clone(), client_hello(name)].concat()),
                    (Reply, server_hello()),
                    (Original, b"\x17\x03\x03\x00\x02xxwhatever it is".to_vec()),
                ];
                let tls = run(&turns, size, &policy());
                let allowed = name == ALLOWED;
                assert_eq!(hellos(&tls), [(ALLOWED.into(), true), (name.into(), allowed)]);
                assert_eq!(tls.reset.is_none(), allowed);
                let received = match allowed {
                    true => all_of(&turns, Original),
                    false => [client_hello(ALLOWED), between.clone()].concat(),
                };
                assert_eq!(tls.requests.received, received);
            }
        }
    }
}

#[test]
fn a_second_hello_is_decided_even_if_the_server_did_not_ask_for_it() {
    let tls = client(&[client_hello(ALLOWED), client_hello(DENIED)].concat());
    assert_eq!(hellos(&tls), [(ALLOWED.into(), true), (DENIED.into(), false)]);
    assert_eq!(
        (tls.reset, tls.requests.received),
        (Some(DropReason::L7Denied), client_hello(ALLOWED))
    );
}

#[test]
fn a_warning_of_the_server_is_not_its_hello() {
    let turns = [
        (Original, client_hello(ALLOWED)),
        (Reply, tls_record(ALERT, &[1, 112])),
        (Original, client_hello(DENIED)),
    ];
    let tls = run(&turns, usize::MAX, &policy());
    assert_eq!(
        (tls.reset, tls.responses.received),
        (Some(DropReason::L7Denied), turns[1].1.clone())
    );
}

#[test]
fn what_is_no_tls_is_reset_at_once() {
    let key_exchange = tls_record(HANDSHAKE, &[16, 0, 0, 1, 0]);
    for (what, turns, reason) in [
        ("HTTP", vec![(Original, b"GET /".to_vec())], DropReason::L7Unsupported),
        ("SSL 2.0", vec![(Original, vec![0x80, 0x2e, 1, 3, 1])], DropReason::L7Unsupported),
        ("an alert", vec![(Original, tls_record(ALERT, &[2, 0]))], DropReason::L7Malformed),
        ("a server that speaks first", vec![(Reply, server_hello())], DropReason::L7Malformed),
        ("a banner", vec![(Reply, b"SSH-2.0-x\r\n".to_vec())], DropReason::L7Unsupported),
        (
            "another message",
            vec![(Original, client_hello(ALLOWED)), (Original, key_exchange)],
            DropReason::L7Malformed,
        ),
        (
            "an answer in plaintext",
            vec![(Original, client_hello(ALLOWED)), (Reply, b"HTTP/1.1 400".to_vec())],
            DropReason::L7Unsupported,
        ),
        (
            "plaintext after the hello",
            vec![(Original, client_hello(ALLOWED)), (Original, b"GET /".to_vec())],
            DropReason::L7Unsupported,
        ),
    ] {
        for size in [usize::MAX, 1] {
            let tls = run(&turns, size, &policy());
            let last = turns.last().unwrap();
            let other = if last.0.is_reply() { &tls.responses } else { &tls.requests };
            assert_eq!(tls.reset, Some(reason), "{what}");
            assert!(!other.received.ends_with(&last.1), "{what}");
            let drops = tls.events.iter().filter(|e| matches!(e, EventKind::Drop { .. })).count();
            assert_eq!(drops, 1, "{what}");
        }
    }
}

#[test]
fn a_name_that_is_no_host_name_is_denied_whatever_the_rules() {
    let any = L7Policy {
        egress: [names(&["*"]).egress, vec![L7Entry { rule: RuleId(8), rules: None }]].concat(),
        ..L7Policy::default()
    };
    for name in ["a.", "10.0.0.1", "::1", "a\0.b", "b\u{fc}cher", "a b", "*", "."] {
        let tls = run(&[(Original, client_hello(name))], usize::MAX, &any);
        assert_eq!(tls.reset, Some(DropReason::L7Malformed), "{name:?}");
        assert_eq!(hellos(&tls), [(name.to_owned(), false)]);
    }
    for name in ["a", "A.Example", "xn--bcher-kva.example", "x_y.z"] {
        let tls = run(&[(Original, client_hello(name))], usize::MAX, &names(&["**"]));
        assert_eq!((tls.reset, hellos(&tls)), (None, vec![(name.to_owned(), true)]));
    }
}

/// Rules of names deny a hello without one; a rule without names allows it, like any other.
#[test]
fn a_hello_without_a_name_needs_a_rule_without_names() {
    let tls = run(&[(Original, client_hello(""))], usize::MAX, &names(&["*"]));
    assert_eq!(
        (tls.reset, hellos(&tls)),
        (Some(DropReason::L7Denied), vec![(String::new(), false)])
    );
    let mut beside = names(&["*"]);
    beside.egress.push(L7Entry { rule: RuleId(8), rules: None });
    let tls = run(&[(Original, client_hello(""))], usize::MAX, &beside);
    assert_eq!((tls.reset, hellos(&tls)), (None, vec![(String::new(), true)]));
}

#[test]
fn a_hello_beyond_its_bounds_is_reset() {
    let mut hello = client_hello(ALLOWED);
    hello[6..9].copy_from_slice(&(HELLO_MAX as u32 - 3).to_be_bytes()[1..]);
    assert_eq!(client(&hello).reset, Some(DropReason::L7Limit));
    let body = [&[1, 0, 0x30, 0][..], &[0; 0x3000]].concat();
    let records: Vec<u8> = body.chunks(1).flat_map(|byte| tls_record(HANDSHAKE, byte)).collect();
    assert!(client(&records[..HELLO_RECORDS_MAX]).reset.is_none());
    assert_eq!(client(&records[..=HELLO_RECORDS_MAX]).reset, Some(DropReason::L7Limit));
}

#[test]
fn an_end_within_a_hello_resets_both_ends_and_an_end_of_the_server_passes() {
    let hello = client_hello(ALLOWED);
    let mut tls = client(&hello[..9]);
    tls.end(Original, &policy());
    assert_eq!(tls.reset, Some(DropReason::L7Malformed));
    let mut tls = client(&hello);
    tls.send(Reply, &server_hello()[..9], &policy());
    tls.end(Reply, &policy());
    assert_eq!((tls.reset, &tls.responses.received[..]), (None, &server_hello()[..9]));
}

proptest! {
    #[test]
    fn records_and_segments_of_any_size_change_nothing(
        sizes in prop::collection::vec(1usize..40, 1..9), segment in 1usize..50,
        name in prop::sample::select(vec![ALLOWED, DENIED, ""]),
    ) {
        let message = client_hello_message(name);
        let (mut stream, mut at) = (Vec::new(), 0);
        for size in sizes.into_iter().cycle() {
            let end = message.len().min(at + size);
            stream.extend(tls_record(HANDSHAKE, &message[at..end]));
            at = end;
            if at == message.len() {
                break;
            }
        }
        let tls = run(&[(Original, stream.clone())], segment, &policy());
        let allowed = name == ALLOWED;
        prop_assert_eq!(hellos(&tls), [(name.to_owned(), allowed)]);
        prop_assert_eq!(tls.requests.received, if allowed { stream } else { Vec::new() });
    }

    #[test]
    fn bytes_that_follow_anything_never_panic(
        start in 0usize..80, bytes in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let hello = client_hello(ALLOWED);
        let stream = [&hello[..start.min(hello.len())], &bytes].concat();
        let whole = client(&stream);
        let single = run(&[(Original, stream)], 1, &policy());
        prop_assert_eq!(whole.requests.received, single.requests.received);
        prop_assert_eq!(whole.reset, single.reset);
    }
}
