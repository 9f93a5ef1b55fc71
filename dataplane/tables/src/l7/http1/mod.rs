//! Parsing of HTTP/1.1 request heads: where a head ends ([`scan`]), what it says ([`head`]), and
//! whether its path is in normal form.
//!
//! The parser rejects every head that two servers could parse differently (RFC 9112 §11 describes
//! the attacks). The inspector, which follows a connection, is in the dataplane; `explain` uses the
//! same parser.

pub mod head;
pub mod scan;
pub(in crate::l7) mod target;

pub use head::FIELDS_MAX;

use crate::drop_reason::DropReason;
use scan::{Scanner, UnitKind};

/// A parsed request, as rules match it.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Method.
    pub method: &'a [u8],
    /// Path and query, as HTTP/2's `:path`.
    pub path: &'a [u8],
    /// Whether the path is in normal form.
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
    /// 400 and close: not a valid request.
    BadRequest,
    /// 408 and close: not complete in time.
    Timeout,
    /// 431 and close: the head is too long, or has too many fields.
    HeadTooLarge,
    /// Reset: the client does not speak HTTP/1.1, or expects no response at this point.
    Reset,
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
    /// Not HTTP/1.1, or ambiguous.
    pub const MALFORMED: Self = Self::new(DropReason::L7Malformed, DenialResponse::BadRequest);
    /// HTTP/1.1 that the inspector does not support (`CONNECT`, announced trailers).
    pub const UNSUPPORTED: Self = Self::new(DropReason::L7Unsupported, DenialResponse::Forbidden);
    /// Another protocol: TLS, HTTP/2, or the one that a 101 response switched to.
    pub const NOT_HTTP1: Self = Self::new(DropReason::L7Unsupported, DenialResponse::Reset);
    /// A head that is too long, or has too many fields.
    pub const HEAD_TOO_LARGE: Self =
        Self::new(DropReason::L7Malformed, DenialResponse::HeadTooLarge);
    /// An invalid body, after a part of the message was forwarded.
    pub const BROKEN_BODY: Self = Self::new(DropReason::L7Malformed, DenialResponse::BadRequest);

    /// A denial whose response has a body.
    #[must_use]
    #[inline]
    pub const fn new(reason: DropReason, response: DenialResponse) -> Self {
        Self { reason, response, head_only: false }
    }
}

/// Parses one request head, which ends with its empty line, as the inspector does.
///
/// # Errors
/// How the inspector would deny the request, whatever the rules are.
pub fn read_head<'a>(
    head: &'a [u8],
    fields: &'a mut [httparse::Header<'a>; FIELDS_MAX],
) -> Result<Request<'a>, Denial> {
    let scanned = Scanner::default().scan(UnitKind::Section, head);
    if scanned != Ok((head.len(), true)) {
        return Err(Denial::MALFORMED);
    }
    head::parse(head, fields).map(|head| head.request)
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
