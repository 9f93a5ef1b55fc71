//! The Kafka inspector over bytes of both directions: how a stream is cut into segments must not
//! change the outcome.

use std::sync::Arc;

use podgate_dataplane::l7::inspector::Inspector;
use podgate_dataplane::l7::kafka::Kafka;
use podgate_tables::drop_reason::DropReason;
use podgate_tables::ids::RuleId;
use podgate_tables::l7::{KafkaRule, KafkaRuleSpec, L7Entry, L7Policy, L7Rules};
use podgate_tables::tuple::FlowDirection::{Original, Reply};
use podgate_test_support::Connection;

use crate::input::Input;

/// A rule with this topic, and another one for every Fetch, or none.
fn policy(fetches_all: bool) -> L7Policy {
    let orders = KafkaRuleSpec { topic: Some("orders".into()), ..KafkaRuleSpec::default() };
    let fetch = KafkaRuleSpec { api_key: Some("fetch".into()), ..KafkaRuleSpec::default() };
    let specs = if fetches_all { vec![orders, fetch] } else { vec![orders] };
    let rules = specs.into_iter().map(|spec| KafkaRule::new(spec).unwrap()).collect();
    let rules = Some(Arc::new(L7Rules::Kafka(rules)));
    L7Policy { egress: vec![L7Entry { rule: RuleId(7), rules }], ..L7Policy::default() }
}

/// What both ends get, the verdict of each request, and why both ends were reset.
type Outcome = (Vec<u8>, Vec<u8>, Vec<bool>, Option<DropReason>);

/// The requests come a second time after the responses, which open fetch sessions.
fn outcome(requests: &[u8], responses: &[u8], size: usize, policy: &L7Policy) -> Outcome {
    let mut connection = Connection::<Kafka>::default();
    let mut is_full = false;
    for (direction, bytes) in [(Original, requests), (Reply, responses), (Original, requests)] {
        // Which session is known to a request that had to wait depends on timing.
        is_full |= connection.requests.stalled;
        if is_full && direction == Original {
            continue;
        }
        for piece in bytes.chunks(size) {
            let waiting = match direction {
                Original => connection.requests.undecided.len(),
                Reply => connection.responses.undecided.len(),
            };
            let other = connection.inspector.heap_with(direction.reverse(), 1 << 16);
            let room = connection.inspector.heap_with(direction, waiting + piece.len());
            connection.send(direction, piece, policy);
            let heap = connection.inspector.heap();
            assert!(heap <= room.max(other), "more memory than was announced");
        }
    }
    let verdicts = connection.verdicts();
    (connection.requests.received, connection.responses.received, verdicts, connection.reset)
}

/// Input: size of pieces (a byte), the client's stream (a long string), and the broker's.
pub fn kafka(data: &[u8]) {
    let mut input = Input::new(data);
    let size = usize::from(input.u8()) + 1;
    let (requests, responses) = (input.long_string(), input.bytes(usize::MAX));
    for policy in [policy(true), policy(false)] {
        let mut whole = outcome(requests, responses, usize::MAX, &policy);
        for size in [1, size] {
            let mut pieces = outcome(requests, responses, size, &policy);
            if whole.3.is_some() {
                // Whether an answer is sent before a reset depends on timing.
                (whole.1, pieces.1) = (Vec::new(), Vec::new());
            }
            assert_eq!(pieces, whole, "in pieces of {size}");
        }
    }
}
