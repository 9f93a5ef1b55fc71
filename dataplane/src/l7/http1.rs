//! The HTTP/1.0 and HTTP/1.1 inspector.
//!
//! # Units
//! A request stream is body bytes, which pass unseen, and *units*, which are decided as a whole: a
//! head, a chunk-size line, the line end after a chunk, an empty trailer section. No byte of a unit
//! passes before the unit is decided, so a cut anywhere changes nothing. (The beginning of a body
//! that could be taken for a request is decided byte by byte.)
//!
//! # Strictness
//! Whatever two parsers could read in two ways is rejected: bare CR or LF, folded lines, space
//! around a field's name, `Content-Length` that is repeated, signed or together with
//! `Transfer-Encoding`, any transfer coding but `chunked`, chunks that a reader with 32 bits would
//! count otherwise, trailers, a body of a `GET` that begins like a request, a missing or repeated
//! `Host`, and so on (RFC 9112 §11 gives the reasons). What remains has one reading, which is that
//! of every server that conforms to the RFC, however lenient the server is otherwise.
//!
//! # Denials
//! A denied request is answered by us, after the responses to earlier requests, and its bytes are
//! dropped; later requests are decided as before. The connection is closed after the answer where
//! the rest of the client's stream can't be delimited, and where the client expects no later
//! response.
//!
//! # Responses
//! The server's stream passes whatever it contains, and is followed only to know where a response
//! of ours may be inserted. It is read as leniently as clients read it. Where its framing is lost,
//! requests still pass, and the first denial resets both ends. After a response that ends with the
//! connection, no request is answered any more.
//!
//! # Upgrades and tunnels
//! A request that offers an upgrade is decided like any other, and so is `CONNECT`, whose path is
//! empty. Until it has been answered, nothing more of the request stream passes. After a 101
//! response to `websocket`, and after a 2xx response to `CONNECT`, the connection is opaque. After
//! one to `h2c`, it is HTTP/2's ([`Http1::take_upgrade`]). A 101 response to any other protocol
//! resets both ends, and so does one to `h2c` within a chunked body. Where the server declines, the
//! connection continues as HTTP/1.

mod answer;
mod body;
mod body_start;
mod request;
mod request_line;
mod response;

use std::collections::VecDeque;

use podgate_tables::drop_reason::DropReason;
use podgate_tables::event::{EventKind, HttpVersion, RequestRecord, ResponseStatus};
use podgate_tables::l7::http1::{Denial, DenialResponse, Flaw};
use podgate_tables::time::Nanos;
use podgate_tables::tuple::FlowDirection;

use super::http2::Http2Upgrade;
use super::inspector::{AfterInjection, Injection, InspectCtx, Inspector, Op, Step};
pub use answer::{FORBIDDEN, FORBIDDEN_CLOSE, HEAD_TOO_LARGE, REQUEST_TIMEOUT, bad_request};

use answer::Answer;
use request::{Decided, Offered, RequestParser, Unit, line_of_malformed};
use response::{ResponseBody, ResponseHead, Responses, Upgrade};

/// Capacity for outstanding responses: at first, and at most while there are none.
const OUTSTANDING_FIRST: usize = 4;
const OUTSTANDING_IDLE: usize = 32;

/// What a client waits for.
#[derive(Clone, Copy, Debug)]
enum Outstanding {
    /// The server's response.
    Response {
        /// When the request passed.
        released: Nanos,
        body: ResponseBody,
        /// Version of the request.
        version: HttpVersion,
    },
    /// Our response.
    Answer(Answer),
}

/// The state of one connection, both directions.
#[derive(Debug, Default)]
pub struct Http1 {
    requests: RequestParser,
    responses: Responses,
    outstanding: VecDeque<Outstanding>,
    /// What the last request offered, while it is not answered.
    offer: Option<Offered>,
    /// The server has accepted HTTP/2. Boxed, because few connections have it, and only for a
    /// moment.
    upgrade: Option<Box<Http2Upgrade>>,
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
                self.fail_unit(Denial::malformed(Flaw::Incomplete), None)
            }
            FlowDirection::Original => Op::Pass(0).into(),
        }
    }

    fn timed_out(&mut self) -> Step {
        self.fail_unit(Denial::new(DropReason::L7Timeout, DenialResponse::Timeout), None)
    }

    fn injection(&self, direction: FlowDirection) -> Option<Injection<'_>> {
        match self.outstanding.front() {
            Some(Outstanding::Answer(answer))
                if direction.is_reply() && self.responses.is_between_messages() =>
            {
                Some(Injection { bytes: answer.text, then: answer.then })
            }
            _ => None,
        }
    }

    fn injected(&mut self, _: FlowDirection) {
        self.outstanding.pop_front();
    }

    fn heap(&self) -> usize {
        self.responses.heap() + self.outstanding.capacity() * size_of::<Outstanding>()
    }

    fn heap_with(&self, direction: FlowDirection, bytes: usize) -> usize {
        match direction {
            FlowDirection::Original => {
                self.responses.heap() + self.outstanding_capacity() * size_of::<Outstanding>()
            }
            FlowDirection::Reply => {
                self.responses.heap_with(bytes)
                    + self.outstanding.capacity() * size_of::<Outstanding>()
            }
        }
    }

    fn shrink_to_fit(&mut self) {
        self.outstanding.shrink_to_fit();
        self.responses.shrink_to_fit();
    }
}

impl Http1 {
    /// What the server has accepted, after its 101 response to `h2c`. From then on the connection
    /// is HTTP/2, in which the request is stream 1.
    pub(super) const fn take_upgrade(&mut self) -> Option<Box<Http2Upgrade>> {
        self.upgrade.take()
    }

    /// Whether the next response may switch to HTTP/2.
    pub(super) const fn offers_http2(&self) -> bool {
        matches!(self.offer, Some(Offered::Http2(_)))
    }

    /// Capacity for the next request's response and for our answer.
    fn outstanding_capacity(&self) -> usize {
        let (capacity, len) = (self.outstanding.capacity(), self.outstanding.len() + 2);
        if len <= capacity { capacity } else { len.next_power_of_two().max(OUTSTANDING_FIRST) }
    }

    fn inspect_request(&mut self, cx: &InspectCtx<'_>, bytes: &[u8]) -> Step {
        self.outstanding.reserve_exact(self.outstanding_capacity() - self.outstanding.len());
        let is_full = self.outstanding.len() >= usize::from(cx.http.requests);
        let must_wait = (is_full && !self.responses.is_last()) || self.offer.is_some();
        if self.requests.is_between_messages() && must_wait {
            return Op::Stall.into();
        }
        let unit = match self.requests.scan(bytes, &cx.http) {
            Ok(None) => return Op::More.into(),
            Ok(Some(len)) => &bytes[..len],
            Err(denial) => return self.fail_unit(denial, Some(bytes)),
        };
        match self.requests.decide(unit, cx) {
            Unit::Framing if self.requests.is_denied() => Op::Drop(unit.len() as u64).into(),
            Unit::Framing => Op::Pass(unit.len()).into(),
            Unit::Malformed(denial) => self.fail_unit(denial, None),
            Unit::Head(decided) => self.head(cx.now, unit.len(), &decided),
        }
    }

    /// A request head was decided.
    fn head(&mut self, now: Nanos, len: usize, decided: &Decided) -> Step {
        let denial = decided.verdict.err();
        let verdict = decided.verdict.map_err(|denial| denial.reason);
        let event = Some(EventKind::decided(verdict, RequestRecord::Http(decided.line)));
        let op = match denial {
            // What comes back can't be distinguished from HTTP.
            None if decided.offer.is_some() && self.responses.is_untracked() => {
                Op::Reset(Denial::NOT_HTTP1.reason)
            }
            None => {
                let body = match decided.head_only {
                    true => ResponseBody::None,
                    false => ResponseBody::ByHead,
                };
                if !self.responses.is_untracked() && !self.responses.is_last() {
                    let version = decided.line.version;
                    self.outstanding.push_back(Outstanding::Response {
                        released: now,
                        body,
                        version,
                    });
                }
                self.offer = decided.offer;
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
        let then = if decided.is_last { AfterInjection::Close } else { AfterInjection::Continue };
        if !self.responses.is_last() {
            self.outstanding.push_back(Outstanding::Answer(Answer::to(denial, then)));
        }
        match then {
            AfterInjection::Continue => Op::Drop(len as u64),
            AfterInjection::Close => Op::Drop(u64::MAX),
        }
    }

    /// The client's current unit can't pass, and the rest of its stream can't be delimited. If a
    /// part of its message has passed, the client is answered in place of the server, unless the
    /// server has begun to. `head` are the bytes of a head, if they are known.
    fn fail_unit(&mut self, denial: Denial, head: Option<&[u8]>) -> Step {
        let reason = denial.reason;
        let is_request = self.requests.is_at_head() && denial != Denial::NOT_HTTP1;
        let event = Some(match head.filter(|_| is_request).map(line_of_malformed) {
            Some(line) => {
                let request = RequestRecord::Http(line);
                EventKind::Request { allowed: false, rule: None, reason: Some(reason), request }
            }
            None => EventKind::Drop { reason },
        });
        let begun = !self.responses.is_between_messages();
        let in_message = !self.requests.is_at_head();
        let is_only = self.outstanding.len() == 1;
        let reset = Step { op: Op::Reset(denial.reason), event };
        if denial.response == DenialResponse::Reset || self.responses.is_untracked() {
            return reset;
        }
        let answer = Answer::to(denial, AfterInjection::Close);
        match self.outstanding.back_mut() {
            _ if !in_message => self.outstanding.push_back(Outstanding::Answer(answer)),
            Some(Outstanding::Answer(own)) if self.requests.is_denied() => {
                own.then = AfterInjection::Close;
            }
            _ if self.requests.is_denied() => {
                self.outstanding.push_back(Outstanding::Answer(Answer::NONE));
            }
            Some(last) if !(begun && is_only) => *last = Outstanding::Answer(answer),
            _ => return reset,
        }
        Step { op: Op::Drop(u64::MAX), event }
    }

    fn inspect_response(&mut self, cx: &InspectCtx<'_>, bytes: &[u8]) -> Step {
        let stray = self.responses.skip_unexpected_body(bytes);
        if stray > 0 {
            return Op::Skip(stray).into();
        }
        let (released, body, version) = match self.outstanding.front() {
            _ if self.responses.is_untracked() => return Op::Skip(u64::MAX).into(),
            Some(Outstanding::Response { released, body, version }) => (*released, *body, *version),
            // It stands before what comes now.
            Some(Outstanding::Answer(_)) => return Op::Stall.into(),
            // Line ends after a response decide nothing (RFC 9112 §2.2); but a response without a
            // request (a 408 before the server closes, say) can't be distinguished from the next
            // response.
            None if bytes.iter().all(|byte| matches!(byte, b'\r' | b'\n')) => {
                return Op::Skip(bytes.len() as u64).into();
            }
            None => return self.stop_following(),
        };
        if self.offers_http2() && !cx.may_buffer {
            return Op::Stall.into();
        }
        let Some(step) = self.responses.step(bytes, body, cx) else {
            return Op::Stall.into();
        };
        let Ok(step) = step else { return self.stop_following() };
        let event = step.head.map(|head| EventKind::Response {
            status: ResponseStatus::Http { version, status: head.status },
            latency_ns: cx.now.since(released),
        });
        // The offer is in the last request.
        let offer = self.offer.filter(|_| self.outstanding.len() == 1);
        match (step.head, offer) {
            (
                Some(ResponseHead { status: 101, upgrade: Upgrade::WebSocket }),
                Some(Offered::WebSocket),
            )
            | (Some(ResponseHead { status: 200..300, .. }), Some(Offered::Tunnel)) => {
                return Step { op: Op::Detach, event };
            }
            (
                Some(ResponseHead { status: 101, upgrade: Upgrade::Http2 }),
                Some(Offered::Http2(settings)),
            ) if self.requests.is_between_messages() => {
                self.upgrade = Some(Box::new(Http2Upgrade { settings, released }));
            }
            (Some(ResponseHead { status: 101, .. }), _) => {
                let reason = Denial::NOT_HTTP1.reason;
                return Step::reset(reason);
            }
            _ => {}
        }
        if step.complete {
            self.outstanding.pop_front();
            if self.outstanding.is_empty() {
                self.offer = None;
                if self.outstanding.capacity() > OUTSTANDING_IDLE {
                    self.outstanding.shrink_to(OUTSTANDING_FIRST);
                }
            }
        }
        Step { op: Op::Skip(step.taken), event }
    }

    /// The server's stream can't be followed any more. If a response of ours waits, or the answer
    /// to an upgrade can't be recognized, the connection ends.
    fn stop_following(&mut self) -> Step {
        self.responses.stop_following();
        let waits = self.offer.is_some()
            || self.outstanding.iter().any(|next| matches!(next, Outstanding::Answer(_)));
        self.outstanding = VecDeque::new();
        if !waits {
            return Op::Skip(u64::MAX).into();
        }
        let reason = DropReason::L7Malformed;
        Step::reset(reason)
    }
}
