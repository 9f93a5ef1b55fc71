//! Parsing of HTTP/1.1 request heads: where a head ends ([`scan`]), what it says ([`head`]), and
//! whether its path is in normal form.
//!
//! The parser rejects every head that two servers could parse differently (RFC 9112 §11 describes
//! the attacks). The inspector, which follows a connection, is in the dataplane; `explain` uses the
//! same parser.

pub mod head;
mod limits;
pub mod scan;
pub(in crate::l7) mod target;

pub use head::{Fields, no_fields};
pub use limits::{FIELDS_CEILING, HttpLimits};

use crate::drop_reason::DropReason;
use scan::{Scanner, UnitKind};

/// A parsed request, as rules match it.
#[derive(Clone, Copy, Debug)]
pub struct HttpRequest<'a> {
    /// Method.
    pub method: &'a [u8],
    /// Path and query, as HTTP/2's `:path`; empty for `CONNECT`.
    pub path: &'a [u8],
    /// Whether the path is in normal form, which an empty one is not.
    pub path_is_normal: bool,
    /// Host and port, as HTTP/2's `:authority`; empty if an HTTP/1.0 request has none.
    pub host: &'a [u8],
    /// Header fields, in order.
    pub headers: &'a [httparse::Header<'a>],
}

/// What the client gets for a request that is denied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DenialResponse {
    /// 403: denied by policy.
    Forbidden,
    /// 400 and close: not a valid request, for this reason.
    BadRequest(Flaw),
    /// 408 and close: not complete in time.
    Timeout,
    /// 431 and close: the head is too long, or has too many fields.
    HeadTooLarge,
    /// Reset: the client does not speak HTTP/1.1, or expects no response at this point.
    Reset,
}

/// What is invalid about a request, or has several readings. The client's 400 says so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flaw {
    /// The request line, in general.
    RequestLine,
    /// The request target.
    Target,
    /// The HTTP version.
    Version,
    /// The name of a field, or a line without one.
    FieldName,
    /// The value of a field.
    FieldValue,
    /// A CR or LF that is no line end, or a NUL.
    LineEnd,
    /// Lines before the request.
    EmptyLines,
    /// `Host` is missing, repeated or invalid, or differs from the target.
    Host,
    /// `Content-Length` or `Transfer-Encoding`.
    BodyLength,
    /// A body that would be taken for a request by a server that does not read the body.
    BodyLikeRequest,
    /// The line with the size of a chunk.
    ChunkSize,
    /// A chunk is longer or shorter than its size.
    ChunkEnd,
    /// A field after the last chunk.
    Trailer,
    /// The client closed within a request.
    Incomplete,
}

impl Flaw {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::RequestLine,
        Self::Target,
        Self::Version,
        Self::FieldName,
        Self::FieldValue,
        Self::LineEnd,
        Self::EmptyLines,
        Self::Host,
        Self::BodyLength,
        Self::BodyLikeRequest,
        Self::ChunkSize,
        Self::ChunkEnd,
        Self::Trailer,
        Self::Incomplete,
    ];
}

/// Why a request is denied, and what the client gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Denial {
    /// Reason for counters and events.
    pub reason: DropReason,
    /// What the client gets.
    pub response: DenialResponse,
    /// The method was `HEAD`, so that the response must not have a body.
    pub head_only: bool,
}

impl Denial {
    /// Denied by the rules.
    pub const BY_RULES: Self = Self::new(DropReason::L7Denied, DenialResponse::Forbidden);
    /// Denied because rules match the path, and it is not in normal form.
    pub const PATH_NOT_NORMAL: Self = Self::new(DropReason::L7Malformed, DenialResponse::Forbidden);
    /// HTTP/1.1 that the inspector does not support (announced trailers).
    pub const UNSUPPORTED: Self = Self::new(DropReason::L7Unsupported, DenialResponse::Forbidden);
    /// Another protocol: TLS, HTTP/2, or the one that a 101 response switched to.
    pub const NOT_HTTP1: Self = Self::new(DropReason::L7Unsupported, DenialResponse::Reset);
    /// A head that is too long, or has too many fields.
    pub const HEAD_TOO_LARGE: Self = Self::new(DropReason::L7Limit, DenialResponse::HeadTooLarge);
    /// A line with the size of a chunk that is too long.
    pub const CHUNK_LINE_TOO_LONG: Self =
        Self::new(DropReason::L7Limit, DenialResponse::BadRequest(Flaw::ChunkSize));

    /// A denial whose response has a body.
    #[must_use]
    #[inline]
    pub const fn new(reason: DropReason, response: DenialResponse) -> Self {
        Self { reason, response, head_only: false }
    }

    /// Invalid, or with several readings.
    #[must_use]
    #[inline]
    pub const fn malformed(flaw: Flaw) -> Self {
        Self::new(DropReason::L7Malformed, DenialResponse::BadRequest(flaw))
    }
}

/// Parses one request head, which ends with its empty line, as an inspector with the default limits
/// does.
///
/// # Errors
/// How the inspector would deny the request, whatever the rules are.
pub fn read_head<'a>(
    head: &'a [u8],
    fields: &'a mut Fields<'a>,
) -> Result<HttpRequest<'a>, Denial> {
    let limits = HttpLimits::default();
    let scanned = Scanner::default().scan(UnitKind::Section, limits.head as usize, head);
    match scanned {
        Ok((len, true)) if len == head.len() => {}
        Err(scan::Malformed::TooLong) => return Err(Denial::HEAD_TOO_LARGE),
        _ => return Err(Denial::malformed(Flaw::LineEnd)),
    }
    head::parse(head, &mut fields[..usize::from(limits.fields)]).map(|head| head.request)
}

/// Whether the byte may occur in a `token` (RFC 9110 §5.6.2).
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
