//! The HTTP/1 inspector over bytes of both directions: how a stream is cut into segments must not
//! change what becomes of it.

use std::sync::Arc;

use podgate_dataplane::l7::http1::{Http1, Next};
use podgate_tables::ids::RuleId;
use podgate_tables::l7::http1::Denial;
use podgate_tables::l7::{HttpRule, HttpRuleSpec, L7Entry, L7Policy, L7Rules};
use podgate_tables::time::Nanos;

use crate::input::Input;

const NOW: Nanos = Nanos(1_000);

/// `GET|HEAD|POST` below `/docs`, and `/api` with a host and a header: rules of every criterion.
pub(crate) fn rules() -> L7Rules {
    let docs = HttpRuleSpec {
        method: Some("GET|HEAD|POST".into()),
        path: Some(r"/docs(/.*)?(\?.*)?".into()),
        ..HttpRuleSpec::default()
    };
    let api = HttpRuleSpec {
        path: Some("/api/v[0-9]+".into()),
        host: Some("h(ost)?".into()),
        headers: vec!["x-key: 1".into()],
        ..HttpRuleSpec::default()
    };
    L7Rules::Http([docs, api].map(|spec| HttpRule::new(spec).unwrap()).into())
}

pub(crate) fn policy() -> L7Policy {
    let rules = Some(Arc::new(rules()));
    L7Policy { ingress: vec![L7Entry { rule: RuleId(7), rules }], ..L7Policy::default() }
}

/// What became of a request stream.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Outcome {
    /// Bytes that may go on, from the beginning.
    pub(crate) decided: usize,
    pub(crate) requests: usize,
    pub(crate) refusal: Option<Denial>,
    /// Whether the rest waits for a response.
    pub(crate) waits: bool,
}

/// Shows `http` a request stream in pieces.
pub(crate) fn inspect<'a>(
    http: &mut Http1,
    policy: &L7Policy,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> Outcome {
    let mut outcome = Outcome::default();
    let mut unit = Vec::new();
    for piece in pieces {
        let mut rest = piece;
        while !rest.is_empty() {
            match http.next_request_bytes() {
                Next::Wait => return Outcome { waits: true, ..outcome },
                Next::Pass(count) => {
                    assert!(count > 0, "a body of nothing");
                    let count = rest.len().min(usize::try_from(count).unwrap_or(usize::MAX));
                    http.pass_request_bytes(count as u64);
                    outcome.decided += count;
                    rest = &rest[count..];
                }
                Next::Decide => {
                    let decision = http.scan(rest).and_then(|(taken, ended)| {
                        assert!(taken > 0 || ended, "no progress");
                        unit.extend_from_slice(&rest[..taken]);
                        rest = &rest[taken..];
                        let judged = if ended { http.decide(NOW, &unit, policy)? } else { None };
                        judged.map(|judged| judged.verdict).transpose()
                    });
                    match decision {
                        Ok(allowed) => outcome.requests += usize::from(allowed.is_some()),
                        Err(refusal) => return Outcome { refusal: Some(refusal), ..outcome },
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

/// Input: sizes of pieces (a short string), the request stream (a long string), the response
/// stream.
pub fn http1(data: &[u8]) {
    let mut input = Input::new(data);
    let (sizes, requests) = (input.string(), input.long_string());
    let mut responses = Input::new(input.bytes(usize::MAX));
    let policy = policy();
    let mut http = Http1::default();
    let whole = inspect(&mut http, &policy, [requests]);
    let single = inspect(&mut Http1::default(), &policy, requests.chunks(1));
    assert_eq!(single, whole, "byte by byte");
    let mut rest = Input::new(requests);
    let pieces = sizes.iter().map(|size| rest.bytes(usize::from(*size))).collect::<Vec<_>>();
    let pieces = pieces.into_iter().chain([rest.bytes(usize::MAX)]);
    assert_eq!(inspect(&mut Http1::default(), &policy, pieces), whole, "in pieces");
    assert!(whole.decided <= requests.len());

    let mut sizes = sizes.iter().cycle();
    while !responses.is_empty() {
        let size = sizes.next().map_or(usize::MAX, |size| usize::from(*size) + 1);
        let mut piece = responses.bytes(size);
        while !piece.is_empty() {
            let opaque = http.opaque_response_bytes();
            if opaque > 0 {
                let count = piece.len().min(usize::try_from(opaque).unwrap_or(usize::MAX));
                http.skip_response_bytes(count as u64);
                piece = &piece[count..];
                continue;
            }
            let room = http.heap_with_response(piece.len());
            let in_place = http.followed_in_place(piece);
            assert!(in_place <= piece.len());
            let Ok((taken, _)) = http.respond(NOW, piece) else { return };
            assert!(taken > 0, "no progress");
            assert!(http.heap() <= room, "more memory than was said: {} > {room}", http.heap());
            piece = &piece[taken..];
        }
    }
}
