//! The HTTP/1.0 and HTTP/1.1 inspector.
//!
//! # Units
//! A request stream is body bytes, which pass unseen, and *units*, which are decided as a whole: a
//! head, a chunk-size line, the line end after a chunk, an empty trailer section. No byte of a unit
//! passes before the unit is decided, so a cut anywhere changes nothing.
//!
//! # Strictness
//! Whatever two parsers could read in two ways is rejected: bare CR or LF, folded lines, space
//! around a field's name, `Content-Length` that is repeated, signed or beside
//! `Transfer-Encoding`, any transfer coding but `chunked`, chunks that a reader with 32 bits would
//! count otherwise, trailers, a missing or repeated `Host`, and so on (RFC 9112 §11 gives the
//! reasons). What remains has one reading, which every server that keeps to the RFC shares, however
//! lenient it is beyond.
//!
//! # Denials
//! A denied request is answered by us, behind the responses to earlier requests, and its bytes are
//! dropped; later requests are decided as ever. The connection is closed after the answer where the
//! rest of the client's stream can't be delimited, and where the client expects no later response.
//!
//! # Responses
//! The server's stream passes whatever it contains, and is followed only to know where a response
//! of ours may stand. It is read as leniently as clients read it. Where its framing is lost,
//! requests go on, and the first denial resets both ends.
//!
//! # Upgrades
//! A request that offers an upgrade is decided like any other. Until it has been answered, nothing
//! more of the request stream passes. After a 101 response to `websocket` the connection is opaque;
//! to any other protocol, a 101 response resets both ends.

mod answer;
mod body;
mod request;
mod response;

use std::collections::VecDeque;

use podgate_tables::drop_reason::DropReason;
use podgate_tables::event::{EventKind, RequestRecord, ResponseStatus};
use podgate_tables::l7::http1::{Denial, DenialResponse};
use podgate_tables::time::Nanos;
use podgate_tables::tuple::FlowDirection;

use super::inspector::{AfterInjection, Injection, InspectCtx, Inspector, Op, Step};
pub use answer::{BAD_REQUEST, FORBIDDEN, FORBIDDEN_CLOSE, HEAD_TOO_LARGE, REQUEST_TIMEOUT};

use answer::Answer;
use request::{Decided, Requests, Unit};
use response::{ResponseHead, Responses};

/// Requests that may wait for their responses at once; further ones are not read meanwhile.
/// Browsers and load generators stay below a tenth of it.
const OWED_MAX: usize = 128;

/// What a client waits for.
#[derive(Clone, Copy, Debug)]
enum Owed {
    /// The server's response.
    Response {
        /// When the request passed.
        released: Nanos,
        /// The response to `HEAD` has no body, whatever its head says (RFC 9112 §6.3).
        head_only: bool,
    },
    /// A response of ours.
    Answer(Answer),
}

/// The state of one connection, both directions.
#[derive(Debug, Default)]
pub struct Http1 {
    requests: Requests,
    responses: Responses,
    owed: VecDeque<Owed>,
    /// A request that offered `websocket` or another protocol is not answered yet.
    upgrading: bool,
}

impl Inspector for Http1 {
    fn inspect(&mut self, cx: &InspectCtx<'_>, direction: FlowDirection, bytes: &[u8]) -> Step {
        match direction {
            FlowDirection::Original => self.inspect_request(cx, bytes),
            FlowDirection::Reply => self.inspect_response(cx, bytes),
        }
    }

    fn ahead(&mut self, direction: FlowDirection) -> Option<Op> {
        if direction.is_reply() {
            return None;
        }
        let count = self.requests.take_opaque()?;
        Some(if self.requests.is_denied() { Op::Drop(count) } else { Op::Skip(count) })
    }

    fn end(&mut self, _: &InspectCtx<'_>, direction: FlowDirection, undecided: usize) -> Step {
        match direction {
            FlowDirection::Reply => Op::Pass(0).into(),
            FlowDirection::Original if undecided > 0 || !self.requests.is_between_messages() => {
                self.fail_unit(self.requests.malformed())
            }
            FlowDirection::Original => Op::Pass(0).into(),
        }
    }

    fn timed_out(&mut self) -> Step {
        self.fail_unit(Denial::new(DropReason::L7Timeout, DenialResponse::Timeout))
    }

    fn injection(&self, direction: FlowDirection) -> Option<Injection<'_>> {
        match self.owed.front() {
            Some(Owed::Answer(answer))
                if direction.is_reply() && self.responses.is_between_messages() =>
            {
                Some(Injection { bytes: answer.text, then: answer.then })
            }
            _ => None,
        }
    }

    fn injected(&mut self, _: FlowDirection) {
        self.owed.pop_front();
    }

    /// What is noted of requests that are owed a response is not counted: 6 KiB, if there are as
    /// many as there may be.
    fn heap(&self) -> usize {
        self.responses.heap()
    }

    fn heap_with(&self, direction: FlowDirection, bytes: usize) -> usize {
        match direction {
            FlowDirection::Original => self.responses.heap(),
            FlowDirection::Reply => self.responses.heap_with(bytes),
        }
    }

    fn release_unused(&mut self) {
        self.owed.shrink_to_fit();
        self.responses.release_unused();
    }
}

impl Http1 {
    fn inspect_request(&mut self, cx: &InspectCtx<'_>, bytes: &[u8]) -> Step {
        let must_wait = self.owed.len() >= OWED_MAX || self.upgrading;
        if self.requests.is_between_messages() && must_wait {
            return Op::Stall.into();
        }
        let unit = match self.requests.scan(bytes) {
            Ok(None) => return Op::More.into(),
            Ok(Some(len)) => &bytes[..len],
            Err(denial) => return self.fail_unit(denial),
        };
        match self.requests.decide(unit, cx.policy) {
            Unit::Framing if self.requests.is_denied() => Op::Drop(unit.len() as u64).into(),
            Unit::Framing => Op::Pass(unit.len()).into(),
            Unit::Malformed(denial) => self.fail_unit(denial),
            Unit::Head(decided) => self.head(cx.now, unit.len(), &decided),
        }
    }

    /// A request head was decided.
    fn head(&mut self, now: Nanos, len: usize, decided: &Decided) -> Step {
        let denial = decided.verdict.err();
        let event = Some(EventKind::Request {
            allowed: denial.is_none(),
            rule: decided.verdict.ok().flatten(),
            reason: denial
                .map(|denial| denial.reason)
                .filter(|reason| *reason != DropReason::L7Denied),
            request: RequestRecord::Http(decided.line),
        });
        let op = match denial {
            // What comes back can't be told from HTTP.
            None if decided.upgrade && self.responses.is_untracked() => {
                Op::Reset(Denial::NOT_HTTP1.reason)
            }
            None => {
                let head_only = decided.head_only;
                if !self.responses.is_untracked() {
                    self.owed.push_back(Owed::Response { released: now, head_only });
                }
                self.upgrading = decided.upgrade;
                Op::Pass(len)
            }
            Some(denial) => self.deny(denial, decided, len),
        };
        Step { op, event }
    }

    /// Answers a request whose head is the next `len` bytes.
    fn deny(&mut self, denial: Denial, decided: &Decided, len: usize) -> Op {
        if denial.response == DenialResponse::Reset || self.responses.is_untracked() {
            return Op::Reset(denial.reason);
        }
        let then = if decided.is_last { AfterInjection::Close } else { AfterInjection::GoOn };
        self.owed.push_back(Owed::Answer(Answer::to(denial, then)));
        match then {
            AfterInjection::GoOn => Op::Drop(len as u64),
            AfterInjection::Close => Op::Drop(u64::MAX),
        }
    }

    /// The client's current unit can't pass, and the rest of its stream can't be delimited. If a
    /// part of its message has passed, the client is answered in place of the server, unless the
    /// server has begun to.
    fn fail_unit(&mut self, denial: Denial) -> Step {
        let event = Some(EventKind::Drop { reason: denial.reason });
        let begun = !self.responses.is_between_messages();
        let in_message = !self.requests.is_at_head();
        let is_only = self.owed.len() == 1;
        let reset = Step { op: Op::Reset(denial.reason), event };
        if denial.response == DenialResponse::Reset || self.responses.is_untracked() {
            return reset;
        }
        let answer = Answer::to(denial, AfterInjection::Close);
        match self.owed.back_mut() {
            _ if !in_message => self.owed.push_back(Owed::Answer(answer)),
            Some(Owed::Answer(own)) if self.requests.is_denied() => {
                own.then = AfterInjection::Close;
            }
            _ if self.requests.is_denied() => self.owed.push_back(Owed::Answer(Answer::NONE)),
            Some(last) if !(begun && is_only) => *last = Owed::Answer(answer),
            _ => return reset,
        }
        Step { op: Op::Drop(u64::MAX), event }
    }

    fn inspect_response(&mut self, cx: &InspectCtx<'_>, bytes: &[u8]) -> Step {
        let (released, head_only) = match self.owed.front() {
            _ if self.responses.is_untracked() => return Op::Skip(u64::MAX).into(),
            Some(Owed::Response { released, head_only }) => (*released, *head_only),
            // It stands before what comes now.
            Some(Owed::Answer(_)) => return Op::Stall.into(),
            // Line ends behind a response decide nothing (RFC 9112 §2.2); but what nobody asked for
            // (a 408 before the server closes, say) can't be told from the next response.
            None if bytes.iter().all(|byte| matches!(byte, b'\r' | b'\n')) => {
                return Op::Skip(bytes.len() as u64).into();
            }
            None => return self.lose_track(),
        };
        let Some(step) = self.responses.step(bytes, head_only, cx.may_buffer) else {
            return Op::Stall.into();
        };
        let Ok(step) = step else { return self.lose_track() };
        let event = step.head.map(|head| EventKind::Response {
            status: ResponseStatus::Http(head.status),
            latency_ns: cx.now.since(released),
        });
        if let Some(ResponseHead { status: 101, websocket }) = step.head {
            let reason = Denial::NOT_HTTP1.reason;
            return match websocket && self.upgrading {
                true => Step { op: Op::Detach, event },
                false => {
                    let event = Some(EventKind::Drop { reason });
                    Step { op: Op::Reset(reason), event }
                }
            };
        }
        if step.complete {
            self.owed.pop_front();
            // The offer is in the last request.
            self.upgrading &= !self.owed.is_empty();
        }
        Step { op: Op::Skip(step.taken), event }
    }

    /// The server's stream can't be followed any more. A response of ours that waits, or an upgrade
    /// whose answer can't be recognized, ends the connection.
    fn lose_track(&mut self) -> Step {
        self.responses.lose_track();
        let waits = self.upgrading || self.owed.iter().any(|owed| matches!(owed, Owed::Answer(_)));
        self.owed = VecDeque::new();
        if !waits {
            return Op::Skip(u64::MAX).into();
        }
        let reason = DropReason::L7Malformed;
        Step { op: Op::Reset(reason), event: Some(EventKind::Drop { reason }) }
    }
}
