//! Whole streams against the HTTP/1 inspector, cut in every way.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod responses;
mod upgrades;

use std::sync::Arc;

use podgate_dataplane::l7::http1::{
    FORBIDDEN, FORBIDDEN_CLOSE, HEAD_TOO_LARGE, Http1, REQUEST_TIMEOUT, bad_request,
};
use podgate_dataplane::l7::inspector::{Inspector, Op};
use podgate_tables::drop_reason::DropReason;
use podgate_tables::event::{EventKind, RequestLine, RequestRecord, ResponseStatus};
use podgate_tables::ids::RuleId;
use podgate_tables::l7::http1::{Flaw, HttpLimits};
use podgate_tables::l7::{HttpRule, HttpRuleSpec, L7Entry, L7Policy, L7Rules};
use podgate_tables::time::Nanos;
use podgate_tables::tuple::FlowDirection::{Original, Reply};
use podgate_test_support::{Connection, docs_only, http1_corpus as corpus};
use proptest::prelude::*;

const FOLDERS: [&str; 5] = ["allowed", "denied", "malformed", "broken-body", "not-http1"];

type Http = Connection<Http1>;

fn run<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Http {
    let (mut http, policy) = (Http::default(), docs_only());
    pieces.into_iter().for_each(|piece| http.send(Original, piece, &policy));
    http
}

/// What the server gets, what the client gets from us, each verdict, and how it ended.
fn outcome(http: &Http) -> (Vec<u8>, Vec<u8>, Vec<bool>, Option<DropReason>, bool) {
    // Whether an answer is sent before a reset depends on timing.
    let is_reset = http.reset.is_some();
    let answered = if is_reset { Vec::new() } else { http.responses.received.clone() };
    (http.requests.received.clone(), answered, http.verdicts(), http.reset, http.closed)
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n")
}

fn is_bad_request(answer: &[u8]) -> bool {
    Flaw::ALL.iter().any(|flaw| answer == bad_request(*flaw))
}

fn statuses(http: &Http) -> Vec<u16> {
    let status = |event: &EventKind| match event {
        EventKind::Response { status: ResponseStatus::Http { status, .. }, .. } => Some(*status),
        _ => None,
    };
    http.events.iter().filter_map(status).collect()
}

#[test]
fn allowed_streams_pass() {
    for (name, stream) in corpus("allowed") {
        let http = run([&stream[..]]);
        let expected = if name.starts_with("incomplete") { &[][..] } else { &stream };
        assert_eq!(http.requests.received, expected, "{name}");
        assert!(http.reset.is_none() && http.responses.received.is_empty(), "{name}");
    }
}

#[test]
fn denied_streams_end_before_the_denied_unit() {
    for folder in &FOLDERS[1..] {
        for (name, stream) in corpus(folder) {
            let http = run([&stream[..]]);
            let passed = http.requests.received.escape_ascii().to_string();
            assert!(!passed.contains("secret"), "{folder}/{name} passes {passed}");
            let answer = &http.responses.received;
            let is_right = match *folder {
                "denied" => {
                    let is_head = name == "head-method";
                    let whole = [FORBIDDEN, FORBIDDEN_CLOSE].contains(&&answer[..]);
                    whole || is_head || name.starts_with("path-after")
                }
                "malformed" => {
                    is_bad_request(answer) || answer == HEAD_TOO_LARGE || name == "after-allowed"
                }
                "broken-body" => is_bad_request(answer) && http.closed,
                _ => http.reset == Some(DropReason::L7Unsupported),
            };
            let answer = answer.escape_ascii().to_string();
            assert!(is_right, "{folder}/{name}: {answer}, {:?}", http.reset);
        }
    }
}

#[test]
fn a_cut_anywhere_and_single_bytes_change_nothing() {
    for folder in FOLDERS {
        for (name, stream) in corpus(folder) {
            let expected = outcome(&run([&stream[..]]));
            assert_eq!(outcome(&run(stream.chunks(1))), expected, "{folder}/{name} byte by byte");
            // Long streams are long in one field, whose bytes are all alike.
            let step = if stream.len() < 20_000 { 1 } else { 499 };
            for cut in (0..stream.len()).step_by(step) {
                let (first, second) = stream.split_at(cut);
                let pieces = [first, second].into_iter().filter(|piece| !piece.is_empty());
                assert_eq!(outcome(&run(pieces)), expected, "{folder}/{name} cut at {cut}");
            }
        }
    }
}

/// Reasons of the denials and drops that were recorded; rules have none.
fn denials(http: &Http) -> Vec<Option<DropReason>> {
    let denial = |event: &EventKind| match *event {
        EventKind::Request { allowed: false, reason, .. } => Some(reason),
        EventKind::Drop { reason } => Some(Some(reason)),
        _ => None,
    };
    http.events.iter().filter_map(denial).collect()
}

/// Each way that a connection or request ends by our denial: one record, and an answer that says
/// why, or a reset.
#[test]
fn every_end_by_a_denial_is_one_record_and_says_why_where_the_protocol_can() {
    let chunked = "POST /docs HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
    let trailer = chunked.replace("\r\n\r\n", "\r\nTrailer: x\r\n\r\n");
    let long = format!("GET /docs HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n", "x".repeat(61_440));
    let fields = format!("GET /docs HTTP/1.1\r\nHost: h\r\n{}\r\n", "X: y\r\n".repeat(100));
    let body_line = format!("{chunked}5;a={}\r\n", "b".repeat(300));
    let like = "GET /docs HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nGET /x";
    let is = bad_request;
    use DropReason::{L7Limit, L7Malformed, L7Unsupported};
    for (stream, answer, reason) in [
        (get("/secret"), FORBIDDEN, None),
        (get("/docs/../secret"), FORBIDDEN, Some(L7Malformed)),
        (trailer, FORBIDDEN_CLOSE, Some(L7Unsupported)),
        (long, HEAD_TOO_LARGE, Some(L7Limit)),
        (fields, HEAD_TOO_LARGE, Some(L7Limit)),
        (body_line, is(Flaw::ChunkSize), Some(L7Limit)),
        (get("/docs").replace("Host: h\r\n", ""), is(Flaw::Host), Some(L7Malformed)),
        (get("/docs").replace("1.1", "1.2"), is(Flaw::Version), Some(L7Malformed)),
        (get("docs"), is(Flaw::Target), Some(L7Malformed)),
        (get("/docs").replace("Host", "Ho st"), is(Flaw::FieldName), Some(L7Malformed)),
        (get("/docs").replace("h\r", "\x01\r"), is(Flaw::FieldValue), Some(L7Malformed)),
        (get("/docs").replace("Host", "A\n: b\r\nHost"), is(Flaw::LineEnd), Some(L7Malformed)),
        (" ".to_owned(), is(Flaw::RequestLine), Some(L7Malformed)),
        ("\r\n".repeat(3), is(Flaw::EmptyLines), Some(L7Malformed)),
        (like.to_owned(), is(Flaw::BodyLikeRequest), Some(L7Malformed)),
        (format!("{chunked}zz\r\n"), is(Flaw::ChunkSize), Some(L7Malformed)),
        (format!("{chunked}1\r\nxx"), is(Flaw::ChunkEnd), Some(L7Malformed)),
        (format!("{chunked}0\r\nX: y\r\n\r\n"), is(Flaw::Trailer), Some(L7Malformed)),
        ("\x16\x03\x01".to_owned(), b"", Some(L7Unsupported)),
        ("SSH-2.0-OpenSSH_9.2p1\r\n".to_owned(), b"", Some(L7Unsupported)),
    ] {
        let http = run([stream.as_bytes()]);
        let shown = &stream[..stream.len().min(80)];
        assert_eq!(http.responses.received, answer, "{shown:?}");
        assert_eq!(denials(&http), [reason], "{shown:?}");
        assert_eq!(http.reset, reason.filter(|_| answer.is_empty()), "{shown:?}");
        assert_eq!(http.closed, !answer.is_empty() && answer != FORBIDDEN, "{shown:?}");
    }
    let mut cut = run([&b"GET /docs HTT"[..]]);
    cut.end(Original, &docs_only());
    assert_eq!(cut.responses.received, bad_request(Flaw::Incomplete));
    assert_eq!(denials(&cut), [Some(L7Malformed)]);
    let mut slow = run([&b"GET /docs HTT"[..]]);
    let step = slow.inspector.timed_out();
    assert_eq!(step.op, Op::Drop(u64::MAX));
    assert!(matches!(step.event, Some(EventKind::Drop { reason: DropReason::L7Timeout })));
    assert_eq!(slow.inspector.injection(Reply).unwrap().bytes, REQUEST_TIMEOUT);
}

#[test]
fn limits_are_those_of_the_configuration() {
    let limits = HttpLimits { head: 200, fields: 3, chunk_line: 16, requests: 2 };
    let run = |stream: &str| {
        let mut http = Http { limits, ..Http::default() };
        http.send(Original, stream.as_bytes(), &docs_only());
        http
    };
    let head = |fields: &str| format!("GET /docs HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
    let long = |len: usize| head(&format!("X: {}\r\n", "x".repeat(len - head("X: \r\n").len())));
    assert_eq!((long(200).len(), run(&long(200)).verdicts()), (200, vec![true]));
    assert_eq!(run(&long(201)).responses.received, HEAD_TOO_LARGE);
    assert_eq!(run(&"G".repeat(20)).verdicts(), []);
    assert_eq!(run(&format!("GET /{}", "x".repeat(200))).responses.received, HEAD_TOO_LARGE);
    assert_eq!(run(&head("A: b\r\nC: d\r\n")).verdicts(), [true]);
    assert_eq!(run(&head("A: b\r\nC: d\r\nE: f\r\n")).responses.received, HEAD_TOO_LARGE);
    let chunked = "POST /docs HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert!(run(&format!("{chunked}1;abcdefghijkl\r\nx\r\n0\r\n\r\n")).reset.is_none());
    let too_long = run(&format!("{chunked}1;abcdefghijklm\r\nx\r\n0\r\n\r\n"));
    assert_eq!(too_long.responses.received, bad_request(Flaw::ChunkSize));
    let waiting = run(&get("/docs").repeat(3));
    assert_eq!((waiting.verdicts().len(), waiting.requests.stalled), (2, true));
}

#[test]
fn requests_without_response_are_bounded() {
    let stream = get("/docs").repeat(133);
    let mut http = run([stream.as_bytes()]);
    assert_eq!((http.verdicts().len(), http.requests.stalled), (128, true));
    http.send(Reply, b"HTTP/1.1 204 No Content\r\n\r\n", &docs_only());
    assert_eq!(http.verdicts().len(), 129);
}

#[test]
fn both_ends_of_policy_must_allow() {
    let entry = |path: &str, rule| {
        let spec = HttpRuleSpec { path: Some(path.into()), ..HttpRuleSpec::default() };
        let rules = Some(Arc::new(L7Rules::http(vec![HttpRule::new(spec).unwrap()])));
        L7Entry { rule: RuleId(rule), rules }
    };
    let any = |rule| L7Entry { rule: RuleId(rule), rules: None };
    let decide = |egress: Vec<L7Entry>, ingress: Vec<L7Entry>| {
        let mut http = Http::default();
        http.send(Original, get("/docs").as_bytes(), &L7Policy { egress, ingress });
        match http.events[..] {
            [EventKind::Request { allowed, rule, .. }] => allowed.then_some(rule),
            _ => panic!("one request"),
        }
    };
    assert_eq!(decide(vec![], vec![]), Some(None));
    assert_eq!(decide(vec![entry("/docs", 1)], vec![]), Some(Some(RuleId(1))));
    assert_eq!(decide(vec![entry("/docs", 1)], vec![entry("/docs", 2)]), Some(Some(RuleId(2))));
    assert_eq!(decide(vec![entry("/docs", 1)], vec![entry("/x", 2)]), None);
    assert_eq!(decide(vec![entry("/x", 1)], vec![any(2)]), None);
    assert_eq!(decide(vec![], vec![entry("/x", 1), any(2)]), Some(Some(RuleId(2))));
}

fn line_of(request: RequestRecord) -> RequestLine {
    match request {
        RequestRecord::Http(line) => line,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_event_has_what_was_asked_for() {
    let http = run([&b"HEAD /secret HTTP/1.1\r\nHost: backend\r\n\r\n"[..]]);
    let [EventKind::Request { allowed: false, reason: None, request, .. }] = http.events[..] else {
        panic!("{:?}", http.events)
    };
    let request = line_of(request);
    let line = (request.method.bytes(), request.path.bytes(), request.host.bytes());
    assert_eq!(line, (&b"HEAD"[..], &b"/secret"[..], &b"backend"[..]));
    assert_eq!(http.responses.received, &FORBIDDEN[..FORBIDDEN.len() - 15], "no body");
    let http = run([&b"GET /docs extra HTTP/1.1\r\n\r\n"[..]]);
    let [EventKind::Request { reason: Some(reason), request, .. }] = http.events[..] else {
        panic!("{:?}", http.events)
    };
    assert_eq!((reason, line_of(request).path.bytes()), (DropReason::L7Malformed, &b"/docs"[..]));
}

/// Pieces of requests, good and bad, that random streams are put together from.
fn fragment() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(get("/docs").into_bytes()),
        Just(get("/secret").into_bytes()),
        Just(b"POST /docs HTTP/1.1\r\nHost: h\r\n".to_vec()),
        Just(b"POST /secret HTTP/1.1\r\nHost: h\r\n".to_vec()),
        Just(b"GET /docs HTTP/1.1\r\nHost: h\r\n".to_vec()),
        Just(b"CONNECT h:1 HTTP/1.1\r\nHost: h:1\r\n\r\n".to_vec()),
        Just(b"Upgrade: h2c\r\n".to_vec()),
        Just(b"3\r\nGET\r\n".to_vec()),
        Just(b"a b".to_vec()),
        Just(b"\r\n  x".to_vec()),
        Just(b"Content-Length: 5\r\n".to_vec()),
        Just(b"Transfer-Encoding: chunked\r\n".to_vec()),
        Just(b"\r\n".to_vec()),
        Just(b"5\r\nhello\r\n".to_vec()),
        Just(b"0\r\n\r\n".to_vec()),
        Just(b"hello".to_vec()),
        proptest::collection::vec(any::<u8>(), 0..8),
    ]
}

proptest! {
    #[test]
    fn random_streams_have_one_outcome_however_they_are_cut(
        fragments in proptest::collection::vec(fragment(), 0..12),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let stream = fragments.concat();
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
        cuts.extend([0, stream.len()]);
        cuts.sort_unstable();
        let pieces = cuts.windows(2).map(|pair| &stream[pair[0]..pair[1]]);
        let pieces = run(pieces.filter(|piece| !piece.is_empty()));
        prop_assert_eq!(outcome(&pieces), outcome(&run([&stream[..]])));
    }

    #[test]
    fn random_bytes_of_both_directions_never_panic(
        requests in proptest::collection::vec(fragment(), 0..6),
        responses in proptest::collection::vec(any::<u8>(), 0..100),
    ) {
        let mut http = run(requests.iter().map(Vec::as_slice));
        http.send(Reply, &responses, &docs_only());
    }
}
