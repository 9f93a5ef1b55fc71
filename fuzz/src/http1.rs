//! The HTTP/1 inspector over bytes of both directions: how a stream is cut into segments must not
//! change the outcome.

use std::sync::Arc;

use podgate_dataplane::l7::http1::Http1;
use podgate_dataplane::l7::inspector::Inspector;
use podgate_tables::drop_reason::DropReason;
use podgate_tables::ids::RuleId;
use podgate_tables::l7::{HttpRule, HttpRuleSpec, L7Entry, L7Policy, L7Rules};
use podgate_tables::tuple::FlowDirection;
use podgate_test_support::Connection;

use crate::input::Input;

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
    L7Rules::http([docs, api].map(|spec| HttpRule::new(spec).unwrap()).into())
}

pub(crate) fn policy() -> L7Policy {
    let rules = Some(Arc::new(rules()));
    L7Policy { ingress: vec![L7Entry { rule: RuleId(7), rules }], ..L7Policy::default() }
}

/// Outcome of a request stream.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Outcome {
    /// What the server gets.
    pub(crate) forwarded: Vec<u8>,
    /// What the client gets from us.
    pub(crate) answered: Vec<u8>,
    pub(crate) verdicts: Vec<bool>,
    pub(crate) reset: Option<DropReason>,
    pub(crate) closed: bool,
}

/// Shows an inspector a request stream in pieces.
pub(crate) fn inspect<'a>(
    policy: &L7Policy,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Outcome, Connection<Http1>) {
    let mut connection = Connection::<Http1>::default();
    for piece in pieces {
        connection.send(FlowDirection::Original, piece, policy);
    }
    let outcome = Outcome {
        forwarded: connection.requests.received.clone(),
        // Whether an answer is sent before a reset depends on timing.
        answered: match connection.reset {
            None => connection.responses.received.clone(),
            Some(_) => Vec::new(),
        },
        verdicts: connection.verdicts(),
        reset: connection.reset,
        closed: connection.closed,
    };
    (outcome, connection)
}

/// Input: sizes of pieces (a short string), the request stream (a long string), the response
/// stream.
pub fn http1(data: &[u8]) {
    let mut input = Input::new(data);
    let (sizes, requests) = (input.string(), input.long_string());
    let mut responses = Input::new(input.bytes(usize::MAX));
    let policy = policy();
    let (whole, mut connection) = inspect(&policy, [requests]);
    let (single, _) = inspect(&policy, requests.chunks(1));
    assert_eq!(single, whole, "byte by byte");
    let mut rest = Input::new(requests);
    let pieces = sizes.iter().map(|size| rest.bytes(usize::from(*size))).collect::<Vec<_>>();
    let pieces = pieces.into_iter().chain([rest.bytes(usize::MAX)]);
    assert_eq!(inspect(&policy, pieces).0, whole, "in pieces");

    let mut sizes = sizes.iter().cycle();
    while !responses.is_empty() {
        let size = sizes.next().map_or(usize::MAX, |size| usize::from(*size) + 1);
        let piece = responses.bytes(size);
        let room = connection.inspector.heap_with(FlowDirection::Reply, piece.len());
        connection.send(FlowDirection::Reply, piece, &policy);
        let heap = connection.inspector.heap();
        assert!(heap <= room, "more memory than was announced: {heap} > {room}");
    }
}
