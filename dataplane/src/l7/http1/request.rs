//! The client's stream: units decided, bodies passed.

use podgate_tables::event::{RequestLine, Text};
use podgate_tables::ids::RuleId;
use podgate_tables::l7::http1::head::{self, FIELDS_MAX, Head};
use podgate_tables::l7::http1::scan::{Malformed, Scanner, UnitKind};
use podgate_tables::l7::http1::{Denial, is_token};
use podgate_tables::l7::{L7Policy, L7Request, L7Verdict};

use super::body::Body;

/// Empty lines before a request, at most. RFC 9112 §2.2 asks servers to take one, for clients that
/// end a body with a line end too many.
const EMPTY_LINES_MAX: u8 = 2;

/// A request head that was decided.
#[derive(Clone, Copy, Debug)]
pub(super) struct Decided {
    /// The request, for the event; of a malformed one what could be read.
    pub(super) line: RequestLine,
    /// The rule that allows it, if any was needed, or why it is denied.
    pub(super) verdict: Result<Option<RuleId>, Denial>,
    /// The method is `HEAD`.
    pub(super) head_only: bool,
    /// It offers to switch to another protocol.
    pub(super) upgrade: bool,
    /// If it is denied, no later request can follow: the client closes, or where its message ends
    /// is not known.
    pub(super) is_last: bool,
}

/// What a unit is.
#[expect(clippy::large_enum_variant, reason = "it lives on the stack for one unit")]
#[derive(Clone, Copy, Debug)]
pub(super) enum Unit {
    /// A request head.
    Head(Decided),
    /// A line of a chunked body, or an empty line before a head.
    Framing,
    /// It can't pass.
    Malformed(Denial),
}

/// Where the client's stream is.
#[derive(Debug, Default)]
pub(super) struct Requests {
    /// `None` is at a head.
    body: Option<Body>,
    /// The message that the body belongs to is denied.
    denied: bool,
    scanner: Scanner,
    /// Bytes of the current unit that were scanned.
    scanned: usize,
    empty_lines: u8,
}

impl Requests {
    pub(super) fn is_between_messages(&self) -> bool {
        self.body.is_none() && self.scanner.is_at_start()
    }

    /// Whether the next unit is a head.
    pub(super) const fn is_at_head(&self) -> bool {
        self.body.is_none()
    }

    /// Whether the message that the body belongs to is denied.
    pub(super) const fn is_denied(&self) -> bool {
        self.denied
    }

    /// The denial if the current unit is malformed.
    pub(super) const fn malformed(&self) -> Denial {
        if self.body.is_none() { Denial::MALFORMED } else { Denial::BROKEN_BODY }
    }

    /// Length of the body bytes that come next, if any. They count as passed.
    pub(super) fn take_opaque(&mut self) -> Option<u64> {
        let (count, next) = self.body?.opaque()?;
        self.body = next;
        Some(count)
    }

    /// Scans the bytes of the current unit, of which the first were scanned before. Returns its
    /// length, or `None` if it needs more bytes.
    pub(super) fn scan(&mut self, bytes: &[u8]) -> Result<Option<usize>, Denial> {
        if let (true, Some(first)) = (self.is_between_messages(), bytes.first()) {
            self.denied = false;
            match first {
                // A TLS record, or an old SSL hello: would wait for a line end that never comes.
                0x16 | 0x80.. => return Err(Denial::NOT_HTTP1),
                b'\r' => {}
                byte if !is_token(*byte) => return Err(Denial::MALFORMED),
                _ => {}
            }
        }
        let unit_kind = match self.body {
            None => UnitKind::Section,
            // An empty section and nothing else.
            Some(Body::Trailers) => UnitKind::LineEnd,
            Some(body) => body.unit_kind(),
        };
        let scanned = self.scanner.scan(unit_kind, &bytes[self.scanned..]);
        let (taken, ended) = scanned.map_err(|malformed| match malformed {
            Malformed::TooLong if self.body.is_none() => Denial::HEAD_TOO_LARGE,
            _ => self.malformed(),
        })?;
        self.scanned += taken;
        Ok(ended.then(|| std::mem::take(&mut self.scanned)))
    }

    /// Decides a whole unit.
    pub(super) fn decide(&mut self, unit: &[u8], policy: &L7Policy) -> Unit {
        if let Some(body) = self.body {
            return match body.after_unit(unit) {
                Err(_) => Unit::Malformed(Denial::BROKEN_BODY),
                Ok(next) => {
                    self.body = next;
                    Unit::Framing
                }
            };
        }
        if unit == b"\r\n" {
            self.empty_lines += 1;
            let too_many = self.empty_lines > EMPTY_LINES_MAX;
            return if too_many { Unit::Malformed(Denial::MALFORMED) } else { Unit::Framing };
        }
        self.empty_lines = 0;
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        Unit::Head(match head::parse(unit, &mut fields) {
            Ok(head) => self.decide_head(&head, policy),
            Err(denial) => Decided {
                line: line_of_malformed(unit),
                verdict: Err(denial),
                head_only: false,
                upgrade: false,
                is_last: true,
            },
        })
    }

    fn decide_head(&mut self, head: &Head<'_>, policy: &L7Policy) -> Decided {
        let request = &head.request;
        let head_only = request.method == b"HEAD";
        let verdict = match policy.decide(&L7Request::Http(*request)) {
            L7Verdict::Allow { rule } => Ok(rule),
            L7Verdict::Deny if request.path_is_normal => {
                Err(Denial { head_only, ..Denial::BY_RULES })
            }
            L7Verdict::Deny => Err(Denial { head_only, ..Denial::PATH_NOT_NORMAL }),
        };
        self.denied = verdict.is_err();
        self.body = Body::after_head(head.body);
        let line = RequestLine {
            method: Text::new(request.method),
            path: Text::new(head.target),
            host: Text::new(request.host),
        };
        Decided { line, verdict, head_only, upgrade: head.upgrade, is_last: head.is_last }
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
