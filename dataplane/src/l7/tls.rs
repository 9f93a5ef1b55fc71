//! The inspector of TLS server names.
//!
//! # What is read
//! The ClientHello, as a whole and before any byte of it passes, and the beginning of the server's
//! answer. If that is a HelloRetryRequest, the client sends another ClientHello, which is decided
//! like the first. With the ServerHello, inspection ends ([`Op::Detach`]): what follows is
//! encrypted, or about to be.
//!
//! # Denials
//! No answer could be read by the client before it has agreed on keys with the server, so a denial
//! resets both ends, as do bytes that are no TLS, a hello that names no server, or names one in a
//! way that two servers could read differently ([`tls`]). Early data (RFC 8446 §2.3) passes after
//! the hello that it came with.

use podgate_tables::drop_reason::DropReason;
use podgate_tables::event::{EventKind, RequestRecord, Text};
use podgate_tables::ids::RuleId;
use podgate_tables::l7::tls::{
    self, ClientHello, ContentType, RECORD_HEADER, Record, ServerMessage,
};
use podgate_tables::l7::{L7Policy, L7Request, L7Verdict};
use podgate_tables::tuple::FlowDirection;

use super::inspector::{Injection, InspectCtx, Inspector, Op, Step};

/// The state of one connection, both directions.
#[derive(Debug, Default)]
pub struct Tls {
    /// A ClientHello has passed.
    greeted: bool,
    /// Content of the client's current record, and of the server's, that passes unread.
    content: [u16; 2],
}

impl Inspector for Tls {
    fn inspect(&mut self, cx: &InspectCtx<'_>, direction: FlowDirection, bytes: &[u8]) -> Step {
        match direction {
            FlowDirection::Original => self.client(cx.policy, bytes),
            FlowDirection::Reply => self.server(bytes),
        }
    }

    fn ahead(&mut self, direction: FlowDirection) -> Option<Op> {
        let content = std::mem::take(&mut self.content[usize::from(direction.is_reply())]);
        (content > 0).then_some(Op::Skip(u64::from(content)))
    }

    fn end(&mut self, _: &InspectCtx<'_>, direction: FlowDirection, undecided: usize) -> Step {
        match direction {
            FlowDirection::Original if undecided > 0 => Step::reset(DropReason::L7Malformed),
            _ => Op::Pass(undecided).into(),
        }
    }

    fn timed_out(&mut self) -> Step {
        Step::reset(DropReason::L7Timeout)
    }

    fn injection(&self, _: FlowDirection) -> Option<Injection<'_>> {
        None
    }

    fn injected(&mut self, _: FlowDirection) {}

    fn heap(&self) -> usize {
        0
    }

    fn heap_with(&self, _: FlowDirection, _: usize) -> usize {
        0
    }
}

impl Tls {
    fn client(&mut self, policy: &L7Policy, bytes: &[u8]) -> Step {
        if self.greeted {
            match Record::read(bytes) {
                Ok(None) => return Op::More.into(),
                Ok(Some(Record { content: ContentType::Handshake, .. })) => {}
                Ok(Some(record)) => return self.pass_record(FlowDirection::Original, record),
                Err(invalid) => return Step::reset(invalid.reason()),
            }
        }
        match tls::client_hello(bytes) {
            Ok(None) => Op::More.into(),
            Ok(Some(hello)) => self.decide(policy, &hello),
            Err(invalid) => Step::reset(invalid.reason()),
        }
    }

    fn decide(&mut self, policy: &L7Policy, hello: &ClientHello<'_>) -> Step {
        let name = hello.server_name();
        let verdict = match name {
            Ok(name) => match policy.decide(&L7Request::ServerName(name)) {
                L7Verdict::Allow { rule } => Ok(rule),
                L7Verdict::Deny if name.is_some_and(|name| !tls::is_server_name(name)) => {
                    Err(DropReason::L7Malformed)
                }
                L7Verdict::Deny => Err(DropReason::L7Denied),
            },
            Err(_) => Err(DropReason::L7Malformed),
        };
        let event = Some(event(verdict, name.ok().flatten().unwrap_or_default()));
        let op = match verdict {
            Ok(_) => {
                self.greeted = true;
                Op::Pass(hello.len)
            }
            Err(reason) => Op::Reset(reason),
        };
        Step { op, event }
    }

    fn server(&mut self, bytes: &[u8]) -> Step {
        match tls::server_message(bytes) {
            // A TLS server does not send first.
            Ok(_) if !self.greeted => Step::reset(DropReason::L7Malformed),
            Ok(None) => Op::More.into(),
            Ok(Some(ServerMessage::Hello)) => Op::Detach.into(),
            Ok(Some(ServerMessage::RetryRequest { len })) => Op::Pass(len).into(),
            Ok(Some(ServerMessage::Other(record))) => {
                self.pass_record(FlowDirection::Reply, record)
            }
            Err(invalid) => Step::reset(invalid.reason()),
        }
    }

    /// Passes the header of a record; its content follows.
    fn pass_record(&mut self, direction: FlowDirection, record: Record) -> Step {
        self.content[usize::from(direction.is_reply())] = record.len as u16;
        Op::Pass(RECORD_HEADER).into()
    }
}

fn event(verdict: Result<Option<RuleId>, DropReason>, name: &[u8]) -> EventKind {
    EventKind::decided(verdict, RequestRecord::ServerName(Text::new(name)))
}
