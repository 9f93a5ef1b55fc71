//! Whole streams against the inspector, cut in every way.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use podgate_tables::drop_reason::DropReason;
use podgate_tables::ids::RuleId;
use podgate_tables::l7::http1::DenialResponse;
use podgate_tables::l7::{HttpRule, HttpRuleSpec, L7Entry, L7Rules};
use proptest::prelude::*;

use super::*;

const NOW: Nanos = Nanos(1_000);

/// The rules that the corpus is written for.
pub(in crate::l7) fn docs_only() -> L7Policy {
    let rule = HttpRule::new(HttpRuleSpec {
        method: Some("GET|HEAD|POST".into()),
        path: Some(r"/docs(/.*)?(\?.*)?".into()),
        ..HttpRuleSpec::default()
    });
    let rules = Some(Arc::new(L7Rules::Http(vec![rule.unwrap()])));
    L7Policy { ingress: vec![L7Entry { rule: RuleId(7), rules }], ..L7Policy::default() }
}

/// The streams of one folder of the corpus, with their names.
pub(in crate::l7) fn corpus(folder: &str) -> Vec<(String, Vec<u8>)> {
    let path =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/corpora/http1").join(folder);
    let files = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    let streams: Vec<_> = files
        .map(|path| (path.file_stem().unwrap().to_string_lossy().into(), fs::read(path).unwrap()))
        .collect();
    assert!(!streams.is_empty());
    streams
}

/// What became of a request stream.
#[derive(Debug, PartialEq, Eq, Default)]
struct Outcome {
    /// Bytes that may go on, from the beginning.
    decided: usize,
    requests: usize,
    denial: Option<Denial>,
    waits: bool,
}

/// Shows the inspector a stream in pieces.
fn run<'a>(http: &mut Http1, pieces: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
    let policy = docs_only();
    let mut outcome = Outcome::default();
    let mut unit = Vec::new();
    for piece in pieces {
        let mut rest = piece;
        while !rest.is_empty() {
            match http.next_request_bytes() {
                Next::Wait => return Outcome { waits: true, ..outcome },
                Next::Pass(count) => {
                    assert!(count > 0, "a body of nothing is no body");
                    let count = rest.len().min(usize::try_from(count).unwrap());
                    http.pass_request_bytes(count as u64);
                    outcome.decided += count;
                    rest = &rest[count..];
                }
                Next::Decide => {
                    let decision = http.scan(rest).and_then(|(taken, ended)| {
                        unit.extend_from_slice(&rest[..taken]);
                        rest = &rest[taken..];
                        let judged = if ended { http.decide(NOW, &unit, &policy)? } else { None };
                        judged.map(|judged| judged.verdict).transpose()
                    });
                    match decision {
                        Ok(allowed) => outcome.requests += usize::from(allowed.is_some()),
                        Err(denial) => return Outcome { denial: Some(denial), ..outcome },
                    }
                    if http.end_requests().is_ok() {
                        outcome.decided += unit.len();
                        unit.clear();
                    }
                }
            }
        }
    }
    outcome
}

fn whole(stream: &[u8]) -> Outcome {
    run(&mut Http1::default(), [stream])
}

#[test]
fn allowed_streams_pass() {
    for (name, stream) in corpus("allowed") {
        let outcome = whole(&stream);
        assert_eq!(outcome.denial, None, "{name}");
        assert!(!outcome.waits, "{name}");
        let expected = if name.starts_with("incomplete") { 0 } else { stream.len() };
        assert_eq!(outcome.decided, expected, "{name}");
    }
}

#[test]
fn refused_streams_end_before_the_refused_unit() {
    for (folder, reasons, answer) in [
        (
            "denied",
            &[DropReason::L7Denied, DropReason::L7Malformed, DropReason::L7Unsupported][..],
            DenialResponse::Forbidden,
        ),
        ("malformed", &[DropReason::L7Malformed], DenialResponse::BadRequest),
        ("broken-body", &[DropReason::L7Malformed], DenialResponse::Reset),
        ("not-http1", &[DropReason::L7Unsupported], DenialResponse::Reset),
    ] {
        for (name, stream) in corpus(folder) {
            let outcome = whole(&stream);
            let denial = outcome.denial.unwrap_or_else(|| panic!("{folder}/{name} passes"));
            assert!(reasons.contains(&denial.reason), "{folder}/{name}: {denial:?}");
            assert_eq!(denial.response, answer, "{folder}/{name}");
            let passed = stream[..outcome.decided].escape_ascii().to_string();
            assert!(!passed.contains("secret"), "{folder}/{name} passes {passed}");
        }
    }
}

#[test]
fn a_cut_anywhere_and_single_bytes_change_nothing() {
    for folder in ["allowed", "denied", "malformed", "broken-body", "not-http1"] {
        for (name, stream) in corpus(folder) {
            let expected = whole(&stream);
            let bytes = run(&mut Http1::default(), stream.chunks(1));
            assert_eq!(bytes, expected, "{folder}/{name} byte by byte");
            for cut in 0..stream.len().min(2000) {
                let (first, second) = stream.split_at(cut);
                let cut_stream = run(&mut Http1::default(), [first, second]);
                assert_eq!(cut_stream, expected, "{folder}/{name} cut at {cut}");
            }
        }
    }
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n")
}

fn respond(http: &mut Http1, mut bytes: &[u8]) -> Vec<u16> {
    let mut seen = Vec::new();
    while !bytes.is_empty() {
        let (taken, head) = http.respond(NOW.plus_millis(5), bytes).unwrap();
        bytes = &bytes[taken..];
        if let Some(head) = head {
            assert_eq!(head.latency_ns, 5_000_000);
            seen.push(head.status);
        }
    }
    seen
}

fn after(requests: &str) -> Http1 {
    let mut http = Http1::default();
    assert_eq!(run(&mut http, [requests.as_bytes()]).decided, requests.len());
    http
}

#[test]
fn responses_are_framed_whatever_their_form() {
    let head_request = "HEAD /docs HTTP/1.1\r\nHost: h\r\n\r\n".to_owned();
    for (request, response, statuses) in [
        (get("/docs"), "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", &[200][..]),
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
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n\
             HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
            &[100, 103, 404],
        ),
    ] {
        for cut in 0..response.len() {
            let mut http = after(&request);
            assert_eq!(http.responses(), ResponseState::Owed);
            let (first, second) = response.as_bytes().split_at(cut);
            let mut seen = respond(&mut http, first);
            seen.extend(respond(&mut http, second));
            assert_eq!(seen, statuses, "{response:?} cut at {cut}");
            assert_eq!(http.responses(), ResponseState::Complete, "{response:?} cut at {cut}");
        }
    }
}

#[test]
fn a_response_without_length_ends_with_the_connection() {
    let mut http = after(&get("/docs"));
    respond(&mut http, b"HTTP/1.0 200 OK\r\n\r\nanything\r\n\r\nHTTP/1.1 200 OK\r\n\r\n");
    assert_eq!(http.responses(), ResponseState::Owed);
    assert_eq!(http.opaque_response_bytes(), u64::MAX);
}

#[test]
fn responses_of_two_readings_are_not_followed() {
    for response in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        "HTTP/1.1 200 OK\nContent-Length: 5\n\n",
        "ICY 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ] {
        let mut http = after(&get("/docs"));
        respond(&mut http, response.as_bytes());
        assert_eq!(http.responses(), ResponseState::Unknown, "{response:?}");
    }
    let mut unasked = Http1::default();
    respond(&mut unasked, b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(unasked.responses(), ResponseState::Unknown);
}

#[test]
fn a_switch_of_protocols_is_refused() {
    let mut http = after(&get("/docs"));
    let denial = http.respond(NOW, b"HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\n\r\n\0\0");
    assert_eq!(denial.unwrap_err(), Denial::NOT_HTTP1);
}

#[test]
fn nothing_passes_behind_an_offered_upgrade_before_its_answer() {
    let offer = "GET /docs HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n\r\n";
    let mut http = after(offer);
    let next = get("/docs");
    assert!(run(&mut http, [next.as_bytes()]).waits);
    respond(&mut http, b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n");
    assert!(run(&mut http, [next.as_bytes()]).waits);
    respond(&mut http, b"x");
    assert_eq!(run(&mut http, [next.as_bytes()]).requests, 1);
}

#[test]
fn requests_without_response_are_bounded() {
    let mut http = Http1::default();
    let stream = get("/docs").repeat(OWED_MAX + 5);
    let outcome = run(&mut http, [stream.as_bytes()]);
    assert_eq!((outcome.requests, outcome.waits), (OWED_MAX, true));
    assert_eq!(outcome.decided, OWED_MAX * get("/docs").len());
    respond(&mut http, b"HTTP/1.1 204 No Content\r\n\r\n");
    assert_eq!(run(&mut http, [get("/docs").as_bytes()]).requests, 1);
}

#[test]
fn both_ends_of_policy_must_allow() {
    let entry = |path: &str, rule| {
        let spec = HttpRuleSpec { path: Some(path.into()), ..HttpRuleSpec::default() };
        let rules = Some(Arc::new(L7Rules::Http(vec![HttpRule::new(spec).unwrap()])));
        L7Entry { rule: RuleId(rule), rules }
    };
    let any = |rule| L7Entry { rule: RuleId(rule), rules: None };
    let judge = |egress: Vec<L7Entry>, ingress: Vec<L7Entry>| {
        let stream = get("/docs");
        let mut http = Http1::default();
        http.scan(stream.as_bytes()).unwrap();
        let policy = L7Policy { egress, ingress };
        http.decide(NOW, stream.as_bytes(), &policy).unwrap().unwrap().verdict
    };
    assert_eq!(judge(vec![], vec![]), Ok(None));
    assert_eq!(judge(vec![entry("/docs", 1)], vec![]), Ok(Some(RuleId(1))));
    assert_eq!(judge(vec![entry("/docs", 1)], vec![entry("/docs", 2)]), Ok(Some(RuleId(2))));
    assert_eq!(judge(vec![entry("/docs", 1)], vec![entry("/x", 2)]), Err(Denial::BY_RULES));
    assert_eq!(judge(vec![entry("/x", 1)], vec![any(2)]), Err(Denial::BY_RULES));
    assert_eq!(judge(vec![], vec![entry("/x", 1), any(2)]), Ok(Some(RuleId(2))));
}

#[test]
fn a_refusal_tells_what_was_asked_for() {
    let stream = "HEAD /secret HTTP/1.1\r\nHost: backend\r\n\r\n";
    let mut http = Http1::default();
    http.scan(stream.as_bytes()).unwrap();
    let judged = http.decide(NOW, stream.as_bytes(), &docs_only()).unwrap().unwrap();
    assert!(judged.verdict.unwrap_err().head_only);
    let line = (judged.line.method.bytes(), judged.line.path.bytes(), judged.line.host.bytes());
    assert_eq!(line, (&b"HEAD"[..], &b"/secret"[..], &b"backend"[..]));
    let stream = "GET /docs extra HTTP/1.1\r\n\r\n";
    let mut http = Http1::default();
    http.scan(stream.as_bytes()).unwrap();
    let judged = http.decide(NOW, stream.as_bytes(), &docs_only()).unwrap().unwrap();
    assert_eq!(judged.verdict, Err(Denial::MALFORMED));
    assert_eq!(judged.line.path.bytes(), b"/docs");
}

/// Pieces of requests, good and bad, that random streams are put together from.
fn fragment() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(get("/docs").into_bytes()),
        Just(get("/secret").into_bytes()),
        Just(b"POST /docs HTTP/1.1\r\nHost: h\r\n".to_vec()),
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
        prop_assert_eq!(run(&mut Http1::default(), pieces), whole(&stream));
    }

    #[test]
    fn random_bytes_of_both_directions_never_panic(
        requests in proptest::collection::vec(fragment(), 0..6),
        responses in proptest::collection::vec(any::<u8>(), 0..100),
    ) {
        let mut http = Http1::default();
        run(&mut http, requests.iter().map(Vec::as_slice));
        let mut rest = &responses[..];
        while !rest.is_empty() {
            let Ok((taken, _)) = http.respond(NOW, rest) else { break };
            prop_assert!(taken > 0);
            rest = &rest[taken..];
        }
    }
}
