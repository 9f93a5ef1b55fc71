//! The server's stream, followed only to know where a response ends.
//!
//! It passes whatever it contains, so this side reads as leniently as clients do: lines may end by
//! LF alone, heads may be folded, `Transfer-Encoding` wins over `Content-Length`. Where clients
//! would disagree about the end of a response, its framing is lost.

use memchr::{memchr, memchr_iter};
use podgate_tables::l7::http1::head::parse_length;

use crate::l7::heap::{self, grown};
use crate::l7::inspector::InspectCtx;

/// A response head.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ResponseHead {
    /// Status code.
    pub(super) status: u16,
    /// The protocol of `Upgrade`.
    pub(super) upgrade: Upgrade,
}

/// A protocol that a server switches to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Upgrade {
    /// None, or another one.
    #[default]
    Other,
    WebSocket,
    /// HTTP/2 without TLS (`h2c`).
    Http2,
}

impl Upgrade {
    fn of(value: &[u8]) -> Self {
        match value {
            _ if value.eq_ignore_ascii_case(b"websocket") => Self::WebSocket,
            _ if value.eq_ignore_ascii_case(b"h2c") => Self::Http2,
            _ => Self::Other,
        }
    }
}

/// What comes next.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum State {
    #[default]
    Head,
    ChunkSize,
    ChunkEnd,
    Trailers,
    /// The body of the last response, which ends with the connection.
    UntilClose,
    Untracked,
}

/// Whether a response may have a body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ResponseBody {
    /// Its head says so.
    ByHead,
    /// It has none, whatever its head says: the request was `HEAD` (RFC 9112 §6.3).
    None,
}

/// The framing is lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct FramingLost;

/// Longest head, chunk line or trailer section, bytes.
const UNIT_MAX: usize = 256 * 1024;
/// Capacity kept while no unit is incomplete, bytes.
const UNIT_KEPT: usize = 256;

/// Where the server's stream is.
#[derive(Debug, Default)]
pub(super) struct Responses {
    state: State,
    /// The current line has something other than CRs.
    has_text: bool,
    /// The current unit, if its bytes come in pieces.
    unit: Vec<u8>,
    /// Bytes that some servers send as the body of the last response, which must not have one.
    stray: u64,
}

/// What [`Responses::step`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Followed {
    /// Bytes that pass, those of a body after a unit included; `u64::MAX` until the end.
    pub(super) taken: u64,
    pub(super) head: Option<ResponseHead>,
    /// A final response is complete with these bytes.
    pub(super) complete: bool,
}

impl Responses {
    pub(super) fn is_between_messages(&self) -> bool {
        self.state == State::Head && !self.has_text && self.unit.is_empty()
    }

    pub(super) fn is_untracked(&self) -> bool {
        self.state == State::Untracked
    }

    /// Whether no response can follow the one that is coming.
    pub(super) fn is_last(&self) -> bool {
        self.state == State::UntilClose
    }

    pub(super) fn stop_following(&mut self) {
        *self = Self { state: State::Untracked, ..Self::default() };
    }

    /// Number of `bytes` that are a body after a response that must not have one (RFC 9112 §6.3),
    /// to `HEAD`, 204 or 304. Clients discard them. A response begins with an H.
    pub(super) fn skip_unexpected_body(&mut self, bytes: &[u8]) -> u64 {
        if self.stray == 0 || !self.is_between_messages() || bytes.first() == Some(&b'H') {
            return 0;
        }
        let taken = self.stray.min(bytes.len() as u64);
        self.stray -= taken;
        taken
    }

    /// Bytes on the heap.
    pub(super) const fn heap(&self) -> usize {
        self.unit.capacity()
    }

    /// Frees all memory that is not in use.
    pub(super) fn shrink_to_fit(&mut self) {
        self.unit.shrink_to_fit();
    }

    /// Upper bound of [`Self::heap`] after `bytes` more came.
    pub(super) fn heap_with(&self, bytes: usize) -> usize {
        grown(self.unit.capacity(), self.unit.len() + bytes)
    }

    /// Follows some of `bytes`, which must not be empty. `None` if it would have to buffer them and
    /// may not.
    pub(super) fn step(
        &mut self,
        bytes: &[u8],
        body: ResponseBody,
        cx: &InspectCtx<'_>,
    ) -> Option<Result<Followed, FramingLost>> {
        let before = self.has_text;
        let end = self.unit_end(bytes);
        if end.is_none() || !self.unit.is_empty() {
            if !cx.may_buffer {
                self.has_text = before;
                return None;
            }
            heap::append(&mut self.unit, &bytes[..end.unwrap_or(bytes.len())]);
        }
        let Some(end) = end else {
            let taken = bytes.len() as u64;
            let too_long = self.unit.len() > UNIT_MAX;
            let followed = Followed { taken, head: None, complete: false };
            return Some(if too_long { Err(FramingLost) } else { Ok(followed) });
        };
        let mut pieces = std::mem::take(&mut self.unit);
        let unit = if pieces.is_empty() { &bytes[..end] } else { &pieces };
        let followed = self.unit_ended(unit, end as u64, body);
        pieces.clear();
        pieces.shrink_to(UNIT_KEPT);
        self.unit = pieces;
        Some(followed)
    }

    /// The end of the current unit in `bytes`: of a line, or of the lines up to an empty one.
    fn unit_end(&mut self, bytes: &[u8]) -> Option<usize> {
        let is_section = matches!(self.state, State::Head | State::Trailers);
        let mut start = 0;
        for end in memchr_iter(b'\n', bytes) {
            let has_text = std::mem::take(&mut self.has_text) || has_text(&bytes[start..end]);
            start = end + 1;
            if !has_text || !is_section {
                return Some(start);
            }
        }
        self.has_text |= has_text(&bytes[start..]);
        None
    }

    fn unit_ended(
        &mut self,
        unit: &[u8],
        len: u64,
        expected: ResponseBody,
    ) -> Result<Followed, FramingLost> {
        let followed = Followed { taken: len, head: None, complete: false };
        match self.state {
            State::Head if unit.iter().all(|byte| matches!(byte, b'\r' | b'\n')) => Ok(followed),
            State::Head => self.head_ended(unit, len, expected),
            State::ChunkSize => {
                let size = chunk_size(unit).ok_or(FramingLost)?;
                self.state = if size == 0 { State::Trailers } else { State::ChunkEnd };
                Ok(Followed { taken: len.saturating_add(size), ..followed })
            }
            State::ChunkEnd if unit.iter().all(|byte| matches!(byte, b'\r' | b'\n')) => {
                self.state = State::ChunkSize;
                Ok(followed)
            }
            State::Trailers => {
                self.state = State::Head;
                Ok(Followed { complete: true, ..followed })
            }
            State::ChunkEnd | State::UntilClose | State::Untracked => Err(FramingLost),
        }
    }

    fn head_ended(
        &mut self,
        unit: &[u8],
        len: u64,
        expected: ResponseBody,
    ) -> Result<Followed, FramingLost> {
        let (head, body) = parse(unit).ok_or(FramingLost)?;
        let followed = Followed { taken: len, head: Some(head), complete: false };
        self.stray = 0;
        if matches!(head.status, 100..200) {
            return Ok(followed);
        }
        if expected == ResponseBody::None || matches!(head.status, 204 | 304) {
            if let BodyEnd::Length(length) = body {
                self.stray = length;
            }
            return Ok(Followed { complete: true, ..followed });
        }
        match body {
            BodyEnd::Length(length) => {
                Ok(Followed { taken: len.saturating_add(length), complete: true, ..followed })
            }
            BodyEnd::Chunked => {
                self.state = State::ChunkSize;
                Ok(followed)
            }
            BodyEnd::Close => {
                self.state = State::UntilClose;
                Ok(Followed { taken: u64::MAX, ..followed })
            }
        }
    }
}

/// Whether a part of a line has something other than CRs.
fn has_text(part: &[u8]) -> bool {
    part.iter().any(|byte| *byte != b'\r')
}

/// Where the body of a response ends (RFC 9112 §6.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum BodyEnd {
    Length(u64),
    Chunked,
    /// With the connection.
    Close,
}

/// `None` where clients read it in several ways.
fn parse(unit: &[u8]) -> Option<(ResponseHead, BodyEnd)> {
    let mut lines = unit
        .split(|byte| *byte == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
        .skip_while(|line| line.is_empty());
    let status = status(lines.next()?)?;
    let (mut length, mut coding, mut upgrade) = (None, None, Upgrade::Other);
    let mut framing_before = false;
    for line in lines {
        if line.first().is_some_and(|byte| matches!(byte, b' ' | b'\t')) {
            // A folded line belongs to the field before it.
            if framing_before {
                return None;
            }
            continue;
        }
        let Some(colon) = memchr(b':', line) else { continue };
        let (name, value) = (line[..colon].trim_ascii(), line[colon + 1..].trim_ascii());
        framing_before = true;
        if name.eq_ignore_ascii_case(b"content-length") {
            for part in value.split(|byte| *byte == b',') {
                let value = parse_length(part.trim_ascii())?;
                if length.replace(value).is_some_and(|before| before != value) {
                    return None;
                }
            }
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            let chunked = value
                .rsplit(|byte| *byte == b',')
                .next()
                .is_some_and(|last| last.trim_ascii().eq_ignore_ascii_case(b"chunked"));
            // Codings that are listed after `chunked` are an error that clients treat differently.
            if coding == Some(true) && !chunked {
                return None;
            }
            coding = Some(chunked);
        } else {
            framing_before = false;
            if name.eq_ignore_ascii_case(b"upgrade") {
                upgrade = Upgrade::of(value);
            }
        }
    }
    let body = match (coding, length) {
        (Some(true), _) => BodyEnd::Chunked,
        (None, Some(length)) => BodyEnd::Length(length),
        (Some(false), None) | (None, None) => BodyEnd::Close,
        (Some(false), Some(_)) => return None,
    };
    Some((ResponseHead { status, upgrade }, body))
}

/// `HTTP/1.1 200 OK`.
fn status(line: &[u8]) -> Option<u16> {
    let rest = line.strip_prefix(b"HTTP/1.")?;
    let digits = rest.get(1..)?.trim_ascii_start().get(..3)?;
    let status = std::str::from_utf8(digits).ok()?.parse().ok()?;
    (status >= 100).then_some(status)
}

/// A chunk's size, whose line may have spaces and extensions after it.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let line = line.trim_ascii();
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let is_end = line.get(digits).is_none_or(|byte| matches!(byte, b';' | b' ' | b'\t'));
    // No digit at all is an error here.
    let size = u64::from_str_radix(std::str::from_utf8(&line[..digits]).ok()?, 16).ok()?;
    is_end.then_some(size)
}
