//! The client's stream: units decided, bodies passed.

use podgate_tables::event::{HttpVersion, RequestLine, Text};
use podgate_tables::ids::RuleId;
use podgate_tables::l7::http1::head::{self, Head, Offer};
use podgate_tables::l7::http1::scan::{Malformed, Scanner, UnitKind};
use podgate_tables::l7::http1::{Denial, Flaw, HttpLimits, no_fields};
use podgate_tables::l7::{L7Policy, L7Request, L7Verdict};

use super::body::Body;
use super::body_start::BodyStart;
use super::request_line;
use crate::l7::http2::UpgradeSettings;
use crate::l7::inspector::InspectCtx;

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
    /// What may end HTTP/1 on the connection, if the server agrees.
    pub(super) offer: Option<Offered>,
    /// If it is denied, no later request can follow: the client closes, or where its message ends
    /// is not known.
    pub(super) is_last: bool,
}

/// What a request offers to use the connection for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Offered {
    WebSocket,
    Http2(UpgradeSettings),
    Tunnel,
    /// Nothing that could be inspected.
    Other,
}

impl Offered {
    fn of(head: &Head<'_>) -> Option<Self> {
        Some(match head.offer? {
            Offer::WebSocket => Self::WebSocket,
            Offer::Tunnel => Self::Tunnel,
            Offer::Http2 => {
                UpgradeSettings::of(head.request.headers).map_or(Self::Other, Self::Http2)
            }
            Offer::Other => Self::Other,
        })
    }
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
pub(super) struct RequestParser {
    /// `None` is at a head.
    body: Option<Body>,
    body_start: BodyStart,
    /// The message that the body belongs to is denied.
    denied: bool,
    scanner: Scanner,
    /// Bytes of the current unit that were scanned.
    scanned: usize,
    /// Length of the request line, if the current unit is a head that has it.
    line_len: usize,
    empty_lines: u8,
}

impl RequestParser {
    pub(super) const fn is_between_messages(&self) -> bool {
        self.body.is_none() && self.scanned == 0
    }

    /// Whether the next unit is a head.
    pub(super) const fn is_at_head(&self) -> bool {
        self.body.is_none()
    }

    /// Whether the message that the body belongs to is denied.
    pub(super) const fn is_denied(&self) -> bool {
        self.denied
    }

    /// Length of the body bytes that come next and decide nothing, if any. They count as passed.
    pub(super) fn take_opaque(&mut self) -> Option<u64> {
        if self.body_start.is_open() {
            return None;
        }
        let (count, next) = self.body?.opaque()?;
        self.body = next;
        Some(count)
    }

    /// Scans the bytes of the current unit, of which the first were scanned before. Returns its
    /// length, or `None` if it needs more bytes.
    pub(super) fn scan(
        &mut self,
        bytes: &[u8],
        limits: &HttpLimits,
    ) -> Result<Option<usize>, Denial> {
        match self.body {
            None => self.scan_head(bytes, limits),
            Some(Body::Length(left) | Body::Chunk(left)) => {
                // The last byte of a body is a unit of its own: more than its value may decide
                // whether it passes.
                let shown = usize::try_from(left - 1).unwrap_or(usize::MAX).max(1);
                self.body_start.take(&bytes[..shown.min(bytes.len())]).map(Some)
            }
            Some(body) => {
                let unit_kind = body.unit_kind();
                let scanned = self.scan_unit(unit_kind, unit_kind.limit(limits), bytes);
                scanned.map_err(|malformed| body.denial(malformed))
            }
        }
    }

    fn scan_head(&mut self, bytes: &[u8], limits: &HttpLimits) -> Result<Option<usize>, Denial> {
        let limit = limits.head as usize;
        let denial = |malformed| match malformed {
            Malformed::TooLong => Denial::HEAD_TOO_LARGE,
            Malformed::Invalid => Denial::malformed(Flaw::LineEnd),
        };
        if self.is_between_messages() {
            self.denied = false;
        }
        if self.line_len == 0 {
            request_line::check_start(bytes)?;
            let scanned = self.scan_unit(UnitKind::Line, limit, bytes).map_err(denial)?;
            let Some(len) = scanned else { return Ok(None) };
            let line = &bytes[..len];
            if line == b"\r\n" {
                return Ok(Some(len));
            }
            request_line::check(line)?;
            (self.line_len, self.scanned) = (len, len);
        }
        let left = limit.saturating_sub(self.line_len);
        let scanned = self.scan_unit(UnitKind::Section, left, bytes).map_err(denial)?;
        if scanned.is_some() {
            self.line_len = 0;
        }
        Ok(scanned)
    }

    fn scan_unit(
        &mut self,
        unit_kind: UnitKind,
        limit: usize,
        bytes: &[u8],
    ) -> Result<Option<usize>, Malformed> {
        let (taken, ended) = self.scanner.scan(unit_kind, limit, &bytes[self.scanned..])?;
        self.scanned += taken;
        Ok(ended.then(|| std::mem::take(&mut self.scanned)))
    }

    /// Decides a whole unit.
    pub(super) fn decide(&mut self, unit: &[u8], cx: &InspectCtx<'_>) -> Unit {
        if let Some(body) = self.body {
            return match self.after_unit(body, unit) {
                Err(denial) => Unit::Malformed(denial),
                Ok(next) => {
                    self.body = next;
                    Unit::Framing
                }
            };
        }
        if unit == b"\r\n" {
            self.empty_lines += 1;
            let too_many = self.empty_lines > EMPTY_LINES_MAX;
            let denial = Denial::malformed(Flaw::EmptyLines);
            return if too_many { Unit::Malformed(denial) } else { Unit::Framing };
        }
        self.empty_lines = 0;
        let mut fields = no_fields();
        let room = usize::from(cx.http.fields).min(fields.len());
        Unit::Head(match head::parse(unit, &mut fields[..room]) {
            Ok(head) => self.decide_head(&head, cx.policy),
            Err(denial) => Decided {
                line: line_of_malformed(unit),
                verdict: Err(denial),
                head_only: false,
                offer: None,
                is_last: true,
            },
        })
    }

    fn after_unit(&mut self, body: Body, unit: &[u8]) -> Result<Option<Body>, Denial> {
        let next = body.after_unit(unit).map_err(|malformed| body.denial(malformed))?;
        if next.is_none() {
            std::mem::take(&mut self.body_start).end()?;
        }
        Ok(next)
    }

    fn decide_head(&mut self, head: &Head<'_>, policy: &L7Policy) -> Decided {
        let request = &head.request;
        let head_only = request.method == b"HEAD";
        let verdict = match policy.decide(&L7Request::Http(*request)) {
            L7Verdict::Allow { rule } => Ok(rule),
            // An empty path is that of `CONNECT`.
            L7Verdict::Deny if request.path_is_normal || request.path.is_empty() => {
                Err(Denial { head_only, ..Denial::BY_RULES })
            }
            L7Verdict::Deny => Err(Denial { head_only, ..Denial::PATH_NOT_NORMAL }),
        };
        self.denied = verdict.is_err();
        self.body = Body::after_head(head.body);
        self.body_start = match (self.denied, self.body) {
            (false, Some(_)) => BodyStart::of(request.method),
            _ => BodyStart::Harmless,
        };
        let line = RequestLine {
            version: head.version,
            method: Text::new(request.method),
            path: Text::new(head.target),
            host: Text::new(request.host),
        };
        Decided { line, verdict, head_only, offer: Offered::of(head), is_last: head.is_last }
    }
}

/// The first two words of the first line.
pub(super) fn line_of_malformed(bytes: &[u8]) -> RequestLine {
    let line = bytes.split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
    let mut words = line.splitn(3, |byte| *byte == b' ');
    RequestLine {
        version: HttpVersion::default(),
        method: Text::new(words.next().unwrap_or_default()),
        path: Text::new(words.next().unwrap_or_default()),
        host: Text::new(b""),
    }
}
