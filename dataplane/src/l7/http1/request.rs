//! The client's stream: units judged, bodies passed.

use super::body::Body;
use super::head::{self, FIELDS_MAX, Head};
use super::scan::{Scanner, Shape};
use super::{Next, Refusal};
use crate::event::{RequestLine, Text};
use crate::l7::L7Policy;
use crate::policy::RuleId;

/// Empty lines before a request, at most. RFC 9112 §2.2 asks servers to take one, for clients that
/// end a body with a line end too many.
const EMPTY_LINES_MAX: u8 = 2;

/// A request that was allowed.
#[derive(Clone, Copy, Debug)]
pub struct Released {
    /// The rule that allowed it, if any was needed.
    pub rule: Option<RuleId>,
    /// For the event.
    pub line: RequestLine,
    /// The method is `HEAD`.
    pub(super) head_only: bool,
    /// It offers to switch to another protocol.
    pub(super) upgrade: bool,
}

/// A unit that was refused.
#[derive(Clone, Copy, Debug)]
pub struct Refused {
    /// Why, and what to say.
    pub refusal: Refusal,
    /// The request, as far as it could be read.
    pub line: RequestLine,
    /// The method is `HEAD`: the answer must not have a body.
    pub head_only: bool,
}

impl Refused {
    /// A refusal of something that is no readable request.
    #[must_use]
    pub fn unreadable(refusal: Refusal) -> Self {
        let line =
            RequestLine { method: Text::new(b""), path: Text::new(b""), host: Text::new(b"") };
        Self { refusal, line, head_only: false }
    }
}

/// Where the client's stream stands.
#[derive(Debug, Default)]
pub(super) struct Requests {
    /// `None` is at a head.
    body: Option<Body>,
    scanner: Scanner,
    empty_lines: u8,
}

impl Requests {
    pub(super) fn is_between_messages(&self) -> bool {
        self.body.is_none() && self.scanner.is_at_start()
    }

    pub(super) fn end(&self) -> Result<(), Refusal> {
        match self.body {
            _ if self.scanner.is_at_start() => Ok(()),
            None => Err(Refusal::MALFORMED),
            Some(_) => Err(Refusal::BROKEN_BODY),
        }
    }

    pub(super) fn next(&self) -> Next {
        self.body.map_or(Next::Decide, Body::next)
    }

    pub(super) fn pass(&mut self, count: u64) {
        self.body = self.body.and_then(|body| body.after_bytes(count));
    }

    pub(super) fn scan(&mut self, bytes: &[u8]) -> Result<(usize, bool), Refusal> {
        if let (true, Some(first)) = (self.is_between_messages(), bytes.first()) {
            match first {
                // A TLS record, or an old SSL hello: would wait for a line end that never comes.
                0x16 | 0x80.. => return Err(Refusal::NOT_HTTP1),
                b'\r' => {}
                byte if !crate::l7::rules::is_token(*byte) => return Err(Refusal::MALFORMED),
                _ => {}
            }
        }
        let (shape, refusal) = match self.body {
            None => (Shape::Section, Refusal::MALFORMED),
            Some(body) => (body.shape(), Refusal::BROKEN_BODY),
        };
        self.scanner.scan(shape, bytes).map_err(|_| refusal)
    }

    pub(super) fn decide(
        &mut self,
        unit: &[u8],
        policy: &L7Policy,
    ) -> Result<Option<Released>, Refused> {
        if let Some(body) = self.body {
            let next = body.after_unit(unit);
            self.body = next.map_err(|_| Refused::unreadable(Refusal::BROKEN_BODY))?;
            return Ok(None);
        }
        if unit == b"\r\n" {
            self.empty_lines += 1;
            if self.empty_lines > EMPTY_LINES_MAX {
                return Err(Refused::unreadable(Refusal::MALFORMED));
            }
            return Ok(None);
        }
        self.empty_lines = 0;
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let head = head::parse(unit, &mut fields).map_err(Refused::unreadable)?;
        let (line, head_only) = (line_of(&head), head.request.method == b"HEAD");
        match policy.judge(&head.request) {
            Some(rule) => {
                self.body = head.body;
                Ok(Some(Released { rule, line, head_only, upgrade: head.upgrade }))
            }
            None => {
                let normal = head.request.path_is_normal;
                let refusal = if normal { Refusal::DENIED } else { Refusal::NOT_NORMAL };
                Err(Refused { refusal, line, head_only })
            }
        }
    }
}

fn line_of(head: &Head<'_>) -> RequestLine {
    RequestLine {
        method: Text::new(head.request.method),
        path: Text::new(head.target),
        host: Text::new(head.request.host),
    }
}
