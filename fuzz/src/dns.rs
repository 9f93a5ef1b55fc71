//! DNS over UDP and TCP: inspection of arbitrary messages; how a TCP stream is cut into segments
//! must not change the outcome.

use std::sync::Arc;

use podgate_dataplane::l7::datagram::{DatagramCtx, DatagramFlow, DatagramOp};
use podgate_dataplane::l7::dns::learned::Answers;
use podgate_dataplane::l7::dns::{Admitted, Denied, DnsContext, DnsStream, Reply};
use podgate_tables::drop_reason::DropReason;
use podgate_tables::event::EventKind;
use podgate_tables::ids::{Epoch, LinkId, RuleId};
use podgate_tables::l7::dns::{Header, Query};
use podgate_tables::l7::{L7Entry, L7Policy, L7Rules, NamePattern};
use podgate_tables::time::Nanos;
use podgate_tables::tuple::FlowDirection;
use podgate_test_support::Connection;

use crate::input::Input;

fn policy() -> L7Policy {
    let names = ["*.example.com", "a"].map(|pattern| NamePattern::dns(pattern).unwrap());
    let rules = Some(Arc::new(L7Rules::Dns(names.into())));
    L7Policy { egress: vec![L7Entry { rule: RuleId(7), rules }], ..L7Policy::default() }
}

fn context() -> (DnsContext, Answers) {
    let answers = Answers::new(1, 16);
    (DnsContext { denied: Denied::Refused, answers: Arc::clone(answers.ring(0)) }, answers)
}

/// Input: sizes of pieces (a short string), the client's messages (a long string of long strings),
/// the server's.
pub fn dns(data: &[u8]) {
    let mut input = Input::new(data);
    let (sizes, queries) = (input.string(), input.long_string());
    let responses = input.bytes(usize::MAX);
    datagrams(queries, responses);
    let whole = stream([queries], responses);
    assert_eq!(stream(queries.chunks(1), responses), whole, "byte by byte");
    let mut rest = Input::new(queries);
    let pieces = sizes.iter().map(|size| rest.bytes(usize::from(*size))).collect::<Vec<_>>();
    let pieces = pieces.into_iter().chain([rest.bytes(usize::MAX)]);
    assert_eq!(stream(pieces, responses), whole, "in pieces");
}

/// Messages of one flow over UDP, each client's followed by one of the server.
fn datagrams(queries: &[u8], responses: &[u8]) {
    let (policy, (dns, answers)) = (policy(), context());
    let (mut flow, admitted) = (DatagramFlow::default(), Admitted::default());
    let (mut queries, mut responses) = (Input::new(queries), Input::new(responses));
    let mut allowed = 0;
    while !queries.is_empty() || !responses.is_empty() {
        let cx = DatagramCtx {
            now: Nanos(1),
            policy: &policy,
            client: LinkId(1),
            dns: &dns,
            admitted: &admitted,
            epoch: Epoch(1),
        };
        let mut reply = Reply::default();
        let query = queries.long_string();
        let step = flow.decide(&cx, FlowDirection::Original, query, &mut reply);
        match step.op {
            DatagramOp::Pass => {
                let name = Query::parse(query).unwrap().question.name;
                assert!(name.text() == b"a" || name.text().ends_with(b".example.com"), "{name:?}");
                allowed += 1;
            }
            DatagramOp::Answer => {
                let (asked, said) = (Header::parse(query), Header::parse(reply.message()));
                assert!(said.is_some_and(|said| said.is_response() && said.rcode() != 0));
                assert_eq!(asked.map(|asked| asked.id), said.map(|said| said.id));
            }
            DatagramOp::Drop(_) => {}
            DatagramOp::Hold(_) => panic!("a query has no addresses to learn"),
        }
        let step = flow.decide(&cx, FlowDirection::Reply, responses.long_string(), &mut reply);
        allowed -= i32::from(matches!(step.op, DatagramOp::Pass | DatagramOp::Hold(_)));
        assert!(allowed >= 0, "an answer without a query");
        answers.drain(|_, answer| assert!(!answer.addresses().is_empty()));
    }
}

/// Outcome of a stream of queries, and of the server's stream after it.
#[derive(PartialEq, Eq, Debug)]
struct Outcome {
    forwarded: Vec<u8>,
    verdicts: Vec<bool>,
    reset: Option<DropReason>,
    received: Vec<u8>,
}

fn stream<'a>(queries: impl IntoIterator<Item = &'a [u8]>, responses: &[u8]) -> Outcome {
    let (policy, (dns, answers)) = (policy(), context());
    let inspector = DnsStream::new(&dns, LinkId(1));
    let mut connection = Connection { inspector, ..Connection::<DnsStream>::default() };
    for piece in queries {
        connection.send(FlowDirection::Original, piece, &policy);
    }
    let verdicts = connection.verdicts();
    connection.send(FlowDirection::Reply, responses, &policy);
    // Each answer is given room and released, which lets the next one be read.
    loop {
        connection.inspector.grant_room();
        connection.send(FlowDirection::Reply, b"", &policy);
        let mut last = 0;
        answers.drain(|_, answer| last = answer.ticket);
        if last == 0 {
            break;
        }
        dns.answers.set_in_force(last);
        connection.send(FlowDirection::Reply, b"", &policy);
    }
    let shown = |event: &EventKind| matches!(event, EventKind::Response { .. });
    let shown = connection.events.iter().filter(|event| shown(event)).count();
    assert!(shown <= verdicts.iter().filter(|allowed| **allowed).count());
    let reset = connection.reset;
    let received = match reset {
        None => connection.responses.received,
        // Whether an answer is sent before a reset depends on timing.
        Some(_) => Vec::new(),
    };
    Outcome { forwarded: connection.requests.received, verdicts, reset, received }
}
