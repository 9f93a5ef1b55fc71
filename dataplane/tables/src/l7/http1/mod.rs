//! HTTP/1.1 request heads: finding where one ends, and reading it so that no other reading is
//! possible.
//!
//! The state of a connection is the inspector's, in the dataplane; this is what it has in common
//! with everything else that reads a request.

pub mod head;
pub mod scan;
mod target;

pub use head::FIELDS_MAX;

use crate::drop_reason::DropReason;
use scan::{Scanner, Shape};

/// A request as the rules see it.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Method.
    pub method: &'a [u8],
    /// Path and query, as HTTP/2's `:path`.
    pub path: &'a [u8],
    /// Whether the path is its own normal form.
    pub path_is_normal: bool,
    /// Host and port, as HTTP/2's `:authority`; empty when an HTTP/1.0 request names none.
    pub host: &'a [u8],
    /// Header fields, in order.
    pub headers: &'a [httparse::Header<'a>],
}

/// How to tell the client that its request stream ends here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// 403 and close: policy says no.
    Forbidden,
    /// 400 and close: not a request that we understand.
    BadRequest,
    /// No HTTP answer would be understood, or none fits here: reset.
    Reset,
}

/// Why a stream ends, and how.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// For counters and events.
    pub reason: DropReason,
    /// For the client.
    pub answer: Answer,
    /// The client asked by `HEAD`, so that the answer must not have a body.
    pub head_only: bool,
}

impl Refusal {
    /// Denied by the rules.
    pub const DENIED: Self = Self::new(DropReason::L7Denied, Answer::Forbidden);
    /// Refused by a rule that would look at the path, for a path that is not in normal form.
    pub const NOT_NORMAL: Self = Self::new(DropReason::L7Malformed, Answer::Forbidden);
    /// Not HTTP/1.1, or readable in two ways.
    pub const MALFORMED: Self = Self::new(DropReason::L7Malformed, Answer::BadRequest);
    /// Understood as HTTP/1.1, but not to be followed (`CONNECT`, announced trailers).
    pub const UNSUPPORTED: Self = Self::new(DropReason::L7Unsupported, Answer::Forbidden);
    /// Another protocol: TLS, HTTP/2, or what a 101 switched to.
    pub const NOT_HTTP1: Self = Self::new(DropReason::L7Unsupported, Answer::Reset);
    /// In the middle of a message that has already gone on in part.
    pub const BROKEN_BODY: Self = Self::new(DropReason::L7Malformed, Answer::Reset);

    /// A refusal with the body that its answer has.
    #[must_use]
    #[inline]
    pub const fn new(reason: DropReason, answer: Answer) -> Self {
        Self { reason, answer, head_only: false }
    }
}

/// Reads one request head, up to and with its empty line, as the inspector does: what `explain`
/// asks about is what a worker would see.
///
/// # Errors
/// What the inspector would answer, whatever the rules say.
pub fn read_head<'a>(
    head: &'a [u8],
    fields: &'a mut [httparse::Header<'a>; FIELDS_MAX],
) -> Result<Request<'a>, Refusal> {
    let unit = Scanner::default().scan(Shape::Section, head);
    if unit != Ok((head.len(), true)) {
        return Err(Refusal::MALFORMED);
    }
    head::parse(head, fields).map(|head| head.request)
}

/// A character of a `token` (RFC 9110 §5.6.2).
#[inline]
pub const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}
