//! The client's stream: units judged, bodies passed.

use podgate_tables::event::{RequestLine, Text};
use podgate_tables::ids::RuleId;
use podgate_tables::l7::http1::head::{self, FIELDS_MAX, Head};
use podgate_tables::l7::http1::scan::{Scanner, UnitKind};
use podgate_tables::l7::http1::{Denial, is_token};
use podgate_tables::l7::{L7Policy, L7Request, L7Verdict};

use super::Next;
use super::body::Body;

/// Empty lines before a request, at most. RFC 9112 §2.2 asks servers to take one, for clients that
/// end a body with a line end too many.
const EMPTY_LINES_MAX: u8 = 2;

/// A request head that was held against the rules.
#[derive(Clone, Copy, Debug)]
pub struct Judged {
    /// The request, for the event; of a malformed one what could be read.
    pub line: RequestLine,
    /// The rule that allows it, if any was needed, or why it may not go on.
    pub verdict: Result<Option<RuleId>, Denial>,
    /// The method is `HEAD`.
    pub(super) head_only: bool,
    /// It offers to switch to another protocol.
    pub(super) upgrade: bool,
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

    pub(super) fn end(&self) -> Result<(), Denial> {
        match self.body {
            _ if self.scanner.is_at_start() => Ok(()),
            None => Err(Denial::MALFORMED),
            Some(_) => Err(Denial::BROKEN_BODY),
        }
    }

    pub(super) fn next(&self) -> Next {
        self.body.map_or(Next::Decide, Body::next)
    }

    pub(super) fn pass(&mut self, count: u64) {
        self.body = self.body.and_then(|body| body.after_bytes(count));
    }

    pub(super) fn scan(&mut self, bytes: &[u8]) -> Result<(usize, bool), Denial> {
        if let (true, Some(first)) = (self.is_between_messages(), bytes.first()) {
            match first {
                // A TLS record, or an old SSL hello: would wait for a line end that never comes.
                0x16 | 0x80.. => return Err(Denial::NOT_HTTP1),
                b'\r' => {}
                byte if !is_token(*byte) => {
                    return Err(Denial::MALFORMED);
                }
                _ => {}
            }
        }
        let (unit_kind, denial) = match self.body {
            None => (UnitKind::Section, Denial::MALFORMED),
            // An empty section and nothing else.
            Some(Body::Trailers) => (UnitKind::LineEnd, Denial::BROKEN_BODY),
            Some(body) => (body.unit_kind(), Denial::BROKEN_BODY),
        };
        self.scanner.scan(unit_kind, bytes).map_err(|_| denial)
    }

    /// `Some` if the unit was a head.
    pub(super) fn decide(
        &mut self,
        unit: &[u8],
        policy: &L7Policy,
    ) -> Result<Option<Judged>, Denial> {
        if let Some(body) = self.body {
            self.body = body.after_unit(unit).map_err(|_| Denial::BROKEN_BODY)?;
            return Ok(None);
        }
        if unit == b"\r\n" {
            self.empty_lines += 1;
            let bearable = self.empty_lines <= EMPTY_LINES_MAX;
            return if bearable { Ok(None) } else { Err(Denial::MALFORMED) };
        }
        self.empty_lines = 0;
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        Ok(Some(match head::parse(unit, &mut fields) {
            Ok(head) => self.judge(&head, policy),
            Err(denial) => {
                let line = line_of_malformed(unit);
                Judged { line, verdict: Err(denial), head_only: false, upgrade: false }
            }
        }))
    }

    fn judge(&mut self, head: &Head<'_>, policy: &L7Policy) -> Judged {
        let request = &head.request;
        let head_only = request.method == b"HEAD";
        let verdict = match policy.decide(&L7Request::Http(*request)) {
            L7Verdict::Allow { rule } => Ok(rule),
            L7Verdict::Deny if request.path_is_normal => {
                Err(Denial { head_only, ..Denial::BY_RULES })
            }
            L7Verdict::Deny => Err(Denial { head_only, ..Denial::PATH_NOT_NORMAL }),
        };
        if verdict.is_ok() {
            self.body = Body::after_head(head.body);
        }
        let line = RequestLine {
            method: Text::new(request.method),
            path: Text::new(head.target),
            host: Text::new(request.host),
        };
        Judged { line, verdict, head_only, upgrade: head.upgrade }
    }
}

/// The first two words of the first line.
fn line_of_malformed(unit: &[u8]) -> RequestLine {
    let line = unit.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut words = line.splitn(3, |byte| *byte == b' ');
    RequestLine {
        method: Text::new(words.next().unwrap_or_default()),
        path: Text::new(words.next().unwrap_or_default()),
        host: Text::new(b""),
    }
}
