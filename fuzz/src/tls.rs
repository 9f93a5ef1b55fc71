//! The inspector of TLS server names over bytes of both directions: how a stream is cut into
//! segments must not change the outcome, and nothing of a denied hello passes.

use std::sync::Arc;

use podgate_dataplane::l7::tls::Tls;
use podgate_tables::drop_reason::DropReason;
use podgate_tables::ids::RuleId;
use podgate_tables::l7::{L7Entry, L7Policy, L7Rules, NamePattern};
use podgate_tables::tuple::FlowDirection::{Original, Reply};
use podgate_test_support::Connection;

use crate::input::Input;

fn policy() -> L7Policy {
    let names = ["allowed.example", "*.org"].map(|name| NamePattern::server_name(name).unwrap());
    let rules = Some(Arc::new(L7Rules::ServerNames(names.into())));
    L7Policy { egress: vec![L7Entry { rule: RuleId(7), rules }], ..L7Policy::default() }
}

/// What both ends get, the verdict of each hello, and why both ends were reset.
type Outcome = (Vec<u8>, Vec<u8>, Vec<bool>, Option<DropReason>);

fn outcome(stages: [&[u8]; 3], size: usize) -> Outcome {
    let policy = policy();
    let mut connection = Connection::<Tls>::default();
    for (direction, bytes) in [Original, Reply, Original].into_iter().zip(stages) {
        for piece in bytes.chunks(size) {
            connection.send(direction, piece, &policy);
        }
    }
    let verdicts = connection.verdicts();
    (connection.requests.received, connection.responses.received, verdicts, connection.reset)
}

/// Input: size of pieces (a byte), the client's first bytes (a long string), the server's (a long
/// string), and what the client sends after them.
pub fn tls(data: &[u8]) {
    let mut input = Input::new(data);
    let size = usize::from(input.u8()) + 1;
    let stages = [input.long_string(), input.long_string(), input.bytes(usize::MAX)];
    let whole = outcome(stages, usize::MAX);
    assert_eq!(outcome(stages, 1), whole, "byte by byte");
    assert_eq!(outcome(stages, size), whole, "in pieces");
    let (received, _, verdicts, _) = whole;
    assert!(verdicts.contains(&true) || received.is_empty(), "no hello was allowed");
}
