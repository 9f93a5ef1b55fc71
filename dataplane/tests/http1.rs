//! Whole streams against the HTTP/1 inspector, cut in every way.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::sync::Arc;

use podgate_dataplane::l7::http1::{
    BAD_REQUEST, FORBIDDEN, FORBIDDEN_CLOSE, HEAD_TOO_LARGE, Http1,
};
use podgate_tables::drop_reason::DropReason;
use podgate_tables::event::{EventKind, RequestLine, RequestRecord, ResponseStatus};
use podgate_tables::ids::RuleId;
use podgate_tables::l7::{HttpRule, HttpRuleSpec, L7Entry, L7Policy, L7Rules};
use podgate_tables::time::Nanos;
use podgate_tables::tuple::FlowDirection::{Original, Reply};
use podgate_test_support::{Connection, docs_only, http1_corpus as corpus};
use proptest::prelude::*;

const FOLDERS: [&str; 5] = ["allowed", "denied", "malformed", "broken-body", "not-http1"];

type Http = Connection<Http1>;

fn run<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Http {
    let mut http = Http::default();
    pieces.into_iter().for_each(|piece| http.send(Original, piece, &docs_only()));
    http
}

/// What the server gets, what the client gets from us, each verdict, and how it ended.
fn outcome(http: &Http) -> (Vec<u8>, Vec<u8>, Vec<bool>, Option<DropReason>, bool) {
    // Whether an answer goes before a reset is a matter of time.
    let is_reset = http.reset.is_some();
    let answered = if is_reset { Vec::new() } else { http.responses.received.clone() };
    (http.requests.received.clone(), answered, http.verdicts(), http.reset, http.closed)
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n")
}

fn statuses(http: &Http) -> Vec<u16> {
    let status = |event: &EventKind| match event {
        EventKind::Response { status: ResponseStatus::Http(status), .. } => Some(*status),
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
                    [BAD_REQUEST, HEAD_TOO_LARGE].contains(&&answer[..]) || name == "after-allowed"
                }
                "broken-body" => answer == BAD_REQUEST && http.closed,
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
            for cut in 0..stream.len().min(2000) {
                let (first, second) = stream.split_at(cut);
                let pieces = [first, second].into_iter().filter(|piece| !piece.is_empty());
                assert_eq!(outcome(&run(pieces)), expected, "{folder}/{name} cut at {cut}");
            }
        }
    }
}

#[test]
fn responses_are_followed_as_leniently_as_clients_read_them() {
    let head_request = "HEAD /docs HTTP/1.1\r\nHost: h\r\n\r\n".to_owned();
    for (request, response, expected) in [
        (get("/docs"), "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", &[200][..]),
        (get("/docs"), "HTTP/1.1 200 OK\nContent-Length: 5\n\nhello", &[200]),
        (get("/docs"), "\r\nHTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello", &[200]),
        (
            get("/docs"),
            "HTTP/1.1 200 OK\r\nX: a\r\n folded\r\nContent-Length:5\r\n\r\nhello",
            &[200],
        ),
        (get("/docs"), "HTTP/1.1 204 No Content\r\n\r\n", &[204]),
        (get("/docs"), "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", &[304]),
        (head_request, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", &[200]),
        (
            get("/docs"),
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n",
            &[200],
        ),
        (
            get("/docs"),
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\nContent-Length: 7\r\n\r\n\
             3 ;x\nabc\n0\n\n",
            &[200],
        ),
        (
            get("/docs"),
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n\
             HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
            &[100, 103, 404],
        ),
    ] {
        for cut in 1..response.len() {
            let mut http = run([request.as_bytes()]);
            let (first, second) = response.as_bytes().split_at(cut);
            http.send(Reply, first, &docs_only());
            // The denial's answer stands behind the response, wherever that is cut.
            http.send(Original, get("/secret").as_bytes(), &docs_only());
            http.send(Reply, second, &docs_only());
            assert_eq!(statuses(&http), expected, "{response:?} cut at {cut}");
            let received = [response.as_bytes(), FORBIDDEN].concat();
            assert_eq!(http.responses.received, received, "{response:?} cut at {cut}");
        }
    }
}

#[test]
fn a_response_without_length_ends_with_the_connection() {
    let mut http = run([get("/docs").as_bytes()]);
    let response = b"HTTP/1.0 200 OK\r\n\r\nanything\r\n\r\nHTTP/1.1 200 OK\r\n\r\n";
    http.send(Reply, response, &docs_only());
    http.send(Original, get("/secret").as_bytes(), &docs_only());
    assert_eq!(http.responses.received, response, "no answer of ours stands within a body");
}

#[test]
fn requests_go_on_where_a_response_has_several_readings() {
    for response in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nContent-Length: 1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n 2\r\n\r\n",
        "ICY 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ] {
        let mut http = run([get("/docs").as_bytes()]);
        http.send(Reply, response.as_bytes(), &docs_only());
        let stream = get("/docs").repeat(200);
        http.send(Original, stream.as_bytes(), &docs_only());
        assert_eq!(http.requests.received.len(), get("/docs").len() * 201, "{response:?}");
        http.send(Original, get("/secret").as_bytes(), &docs_only());
        assert_eq!(http.reset, Some(DropReason::L7Denied), "{response:?}");
    }
    let mut unasked = Http::default();
    let response = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n";
    unasked.send(Reply, response, &docs_only());
    assert_eq!(unasked.responses.received, response);
}

#[test]
fn a_denied_request_that_waits_ends_the_connection_when_the_framing_is_lost() {
    let mut http = run([get("/docs").as_bytes(), get("/secret").as_bytes()]);
    http.send(Reply, b"ICY 200 OK\r\n\r\n", &docs_only());
    assert_eq!(http.reset.unwrap(), DropReason::L7Malformed);
}

#[test]
fn websocket_is_opaque_after_101_and_other_switches_are_reset() {
    let offer = |protocol: &str| {
        format!(
            "GET /docs HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\n"
        )
    };
    let mut http = run([offer("websocket").as_bytes()]);
    http.send(Original, get("/docs").as_bytes(), &docs_only());
    assert!(http.requests.stalled, "nothing passes before the answer");
    http.send(Reply, b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\n\r\n\x81\x01x", &docs_only());
    http.send(Original, get("/secret").as_bytes(), &docs_only());
    let expected = [offer("websocket"), get("/docs"), get("/secret")].concat();
    assert_eq!(http.requests.received, expected.as_bytes());
    let mut behind = run([get("/docs").as_bytes(), offer("websocket").as_bytes()]);
    behind.send(Reply, b"HTTP/1.1 204 No Content\r\n\r\n", &docs_only());
    behind.send(Original, get("/docs").as_bytes(), &docs_only());
    assert!(behind.requests.stalled, "an earlier response is not its answer");
    let mut declined = run([offer("websocket").as_bytes(), get("/docs").as_bytes()]);
    declined.send(Reply, b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", &docs_only());
    assert_eq!(declined.verdicts(), [true, true], "a declined offer goes on as HTTP");
    for (offered, switched) in [("h2c", "h2c"), ("h2c", "websocket x"), ("TLS/1.0", "TLS/1.0")] {
        let mut other = run([offer(offered).as_bytes()]);
        let response = format!("HTTP/1.1 101 S\r\nUpgrade: {switched}\r\n\r\n");
        other.send(Reply, response.as_bytes(), &docs_only());
        assert_eq!(other.reset, Some(DropReason::L7Unsupported), "{switched}");
    }
    let mut unasked = run([get("/docs").as_bytes()]);
    unasked.send(Reply, b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\n\r\n", &docs_only());
    assert_eq!(unasked.reset, Some(DropReason::L7Unsupported));
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
        let rules = Some(Arc::new(L7Rules::Http(vec![HttpRule::new(spec).unwrap()])));
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

#[test]
fn the_latency_of_a_response_is_from_the_release_of_its_request() {
    let mut http = Http { now: Nanos(1_000), ..Http::default() };
    http.send(Original, get("/docs").as_bytes(), &docs_only());
    http.now = http.now.plus_millis(5);
    http.send(Reply, b"HTTP/1.1 204 No Content\r\n\r\n", &docs_only());
    let [_, EventKind::Response { latency_ns, .. }] = http.events[..] else {
        panic!("{:?}", http.events)
    };
    assert_eq!(latency_ns, 5_000_000);
}

/// Pieces of requests, good and bad, that random streams are put together from.
fn fragment() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(get("/docs").into_bytes()),
        Just(get("/secret").into_bytes()),
        Just(b"POST /docs HTTP/1.1\r\nHost: h\r\n".to_vec()),
        Just(b"POST /secret HTTP/1.1\r\nHost: h\r\n".to_vec()),
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
