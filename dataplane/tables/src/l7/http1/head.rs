//! The request head: method, target, host, and the length of the body.

use std::mem::MaybeUninit;

use httparse::Header;

use super::target::{self, Target};
use super::{Denial, FIELDS_CEILING, Flaw, HttpRequest};
use crate::event::HttpVersion;

/// Room for the header fields of a head.
pub type Fields<'a> = [MaybeUninit<Header<'a>>; FIELDS_CEILING];

/// Room that is not in use; making it costs nothing.
#[must_use]
#[inline]
pub const fn no_fields<'a>() -> Fields<'a> {
    [const { MaybeUninit::uninit() }; FIELDS_CEILING]
}

/// A parsed request head.
#[derive(Debug)]
pub struct Head<'a> {
    /// The request, as rules match it.
    pub request: HttpRequest<'a>,
    /// The request target, as sent.
    pub target: &'a [u8],
    /// HTTP/1.0 or HTTP/1.1.
    pub version: HttpVersion,
    /// Length of the body.
    pub body: BodyLength,
    /// What may end HTTP on the connection, if the server agrees.
    pub offer: Option<Offer>,
    /// If it is denied, no later request can follow: HTTP/1.0 without `keep-alive`, or `close`.
    /// Also set where a denial makes it uncertain what follows (`Expect`, RFC 9110 §10.1.1;
    /// `CONNECT`).
    pub is_last: bool,
}

/// What a request offers to use the connection for, in place of HTTP/1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Offer {
    /// `Upgrade`, `websocket` among its protocols (RFC 6455).
    WebSocket,
    /// `Upgrade`, `h2c` among its protocols and `websocket` not (RFC 7540 §3.2).
    Http2,
    /// `Upgrade` to others.
    Other,
    /// A tunnel (`CONNECT`, RFC 9110 §9.3.6).
    Tunnel,
}

/// Length of the body of a request (RFC 9112 §6.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BodyLength {
    /// No body follows.
    None,
    /// `Content-Length`, bytes; not zero.
    Fixed(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

/// Parses a head, which must be the whole of `unit`.
///
/// httparse splits it into tokens; it also rejects folded lines and space before a colon. The
/// scanner has checked the line ends.
///
/// # Errors
/// If the head is malformed or ambiguous, if it has more fields than there is room for, or if it
/// asks for what is not supported.
pub fn parse<'a>(
    unit: &'a [u8],
    fields: &'a mut [MaybeUninit<Header<'a>>],
) -> Result<Head<'a>, Denial> {
    let mut parsed = httparse::Request::new(&mut []);
    match parsed.parse_with_uninit_headers(unit, fields) {
        Ok(httparse::Status::Complete(taken)) if taken == unit.len() => {}
        Ok(_) => return Err(Denial::malformed(Flaw::LineEnd)),
        Err(error) => return Err(denial_of(error)),
    }
    let (Some(method), Some(target), Some(version)) = (parsed.method, parsed.path, parsed.version)
    else {
        return Err(Denial::malformed(Flaw::RequestLine));
    };
    let (method, target) = (method.as_bytes(), target.as_bytes());
    let headers: &'a [Header<'a>] = parsed.headers;
    let framing = Framing::read(unit, headers)?;
    let body = framing.body(version).ok_or(Denial::malformed(Flaw::BodyLength))?;
    let parts = Target::parse(method, target).ok_or(Denial::malformed(Flaw::Target))?;
    let host = framing.authority(version, &parts).ok_or(Denial::malformed(Flaw::Host))?;
    let is_connect = method == b"CONNECT";
    if is_connect && body != BodyLength::None {
        // What follows is the tunnel's to some servers, and a body to others.
        return Err(Denial::malformed(Flaw::BodyLength));
    }
    let request = HttpRequest {
        method,
        path: parts.path,
        path_is_normal: target::is_normal(parts.path),
        host,
        headers,
    };
    if body == BodyLength::Chunked && framing.announces_trailers {
        // Its trailers would be rejected; at this point the client can still get a response.
        return Err(Denial::UNSUPPORTED);
    }
    let offer = if is_connect { Some(Offer::Tunnel) } else { framing.offer };
    let is_last = is_connect || framing.expects || framing.is_last(version);
    let version = if version == 0 { HttpVersion::Http10 } else { HttpVersion::Http11 };
    Ok(Head { request, target, version, body, offer, is_last })
}

const fn denial_of(error: httparse::Error) -> Denial {
    Denial::malformed(match error {
        httparse::Error::TooManyHeaders => return Denial::HEAD_TOO_LARGE,
        httparse::Error::HeaderName => Flaw::FieldName,
        httparse::Error::HeaderValue => Flaw::FieldValue,
        httparse::Error::NewLine => Flaw::LineEnd,
        httparse::Error::Version => Flaw::Version,
        httparse::Error::Token | httparse::Error::Status => Flaw::RequestLine,
    })
}

/// The fields that determine framing and routing, each at most once, and what others say about the
/// connection.
#[derive(Default)]
struct Framing<'a> {
    host: Option<&'a [u8]>,
    content_length: Option<&'a [u8]>,
    transfer_encoding: Option<&'a [u8]>,
    /// `Expect`.
    expects: bool,
    /// `Trailer`.
    announces_trailers: bool,
    /// The protocols of `Upgrade` (RFC 9110 §7.8).
    offer: Option<Offer>,
    /// Options of `Connection`.
    close: bool,
    keep_alive: bool,
}

impl<'a> Framing<'a> {
    /// Names are compared by their lengths first: most fields are none of these.
    ///
    /// An error if a field that determines framing or routing is repeated, has an underscore in its
    /// name, or is padded with anything but spaces: servers treat tabs differently.
    fn read(unit: &[u8], headers: &'a [Header<'a>]) -> Result<Self, Denial> {
        let mut framing = Self::default();
        for field in headers {
            let is = |name: &str| field.name.eq_ignore_ascii_case(name);
            match field.name.len() {
                4 | 14 | 17 if is_framing(field.name) => framing.take(unit, field)?,
                6 => framing.expects |= is("expect"),
                7 if is("upgrade") => framing.add_offer(field.value),
                7 => framing.announces_trailers |= is("trailer"),
                10 if is("connection") => framing.add_connection_options(field.value),
                _ => {}
            }
        }
        Ok(framing)
    }

    fn take(&mut self, unit: &[u8], field: &'a Header<'a>) -> Result<(), Denial> {
        let (slot, flaw) = match field.name.len() {
            4 => (&mut self.host, Flaw::Host),
            14 => (&mut self.content_length, Flaw::BodyLength),
            _ => (&mut self.transfer_encoding, Flaw::BodyLength),
        };
        if field.name.contains('_')
            || !is_padded_by_spaces_only(unit, field)
            || slot.replace(field.value).is_some()
        {
            return Err(Denial::malformed(flaw));
        }
        Ok(())
    }

    /// WebSocket takes precedence over h2c, and h2c over all others.
    fn add_offer(&mut self, protocols: &[u8]) {
        for protocol in list(protocols) {
            if protocol.eq_ignore_ascii_case(b"websocket") {
                self.offer = Some(Offer::WebSocket);
            } else if protocol.eq_ignore_ascii_case(b"h2c") && self.offer != Some(Offer::WebSocket)
            {
                self.offer = Some(Offer::Http2);
            }
        }
        self.offer.get_or_insert(Offer::Other);
    }

    fn add_connection_options(&mut self, options: &[u8]) {
        for option in list(options) {
            self.close |= option.eq_ignore_ascii_case(b"close");
            self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
        }
    }

    /// Whether the connection ends with the response (RFC 9112 §9.3).
    const fn is_last(&self, version: u8) -> bool {
        if version == 0 { !self.keep_alive } else { self.close }
    }

    /// RFC 9112 §6.1 to §6.3. `None` if the fields are malformed or ambiguous.
    fn body(&self, version: u8) -> Option<BodyLength> {
        match (self.content_length, self.transfer_encoding) {
            (None, None) => Some(BodyLength::None),
            (Some(length), None) => {
                let length = parse_length(length)?;
                Some(if length > 0 { BodyLength::Fixed(length) } else { BodyLength::None })
            }
            (None, Some(coding)) if version == 1 && coding.eq_ignore_ascii_case(b"chunked") => {
                Some(BodyLength::Chunked)
            }
            _ => None,
        }
    }

    /// HTTP/2's `:authority` (RFC 9112 §3.2, §3.3): HTTP/1.1 needs exactly one `Host`, and an
    /// authority in the target must be equal to it.
    fn authority(&self, version: u8, target: &Target<'a>) -> Option<&'a [u8]> {
        if version == 1 && self.host.is_none() {
            return None;
        }
        let host = self.host.or(target.authority).unwrap_or_default();
        let authority = target.authority.unwrap_or(host);
        (target::is_authority(host) && authority.eq_ignore_ascii_case(host)).then_some(authority)
    }
}

/// Parses a `Content-Length`: digits only, without a leading zero (which some parsers read as
/// octal), and few enough not to overflow 64 bits. Bodies above 2 GiB are legitimate, so a server
/// that counts bytes in 32 bits must not be used behind HTTP rules.
#[must_use]
pub fn parse_length(value: &[u8]) -> Option<u64> {
    let has_leading_zero = value.len() > 1 && value[0] == b'0';
    if has_leading_zero || value.len() > 18 || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// The elements of a list (RFC 9110 §5.6.1).
fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

/// Whether there are only spaces between the field's colon, its value and the end of its line.
fn is_padded_by_spaces_only(unit: &[u8], field: &Header<'_>) -> bool {
    let offset = |part: &[u8]| part.as_ptr().addr().checked_sub(unit.as_ptr().addr());
    let (Some(name), Some(value)) = (offset(field.name.as_bytes()), offset(field.value)) else {
        return false;
    };
    let before = unit.get(name + field.name.len()..value);
    let after = unit.get(value + field.value.len()..).unwrap_or_default();
    let mut after = after.iter().skip_while(|byte| **byte == b' ');
    before.is_some_and(|gap| gap[..1] == *b":" && gap[1..].iter().all(|byte| *byte == b' '))
        && after.next() == Some(&b'\r')
}

/// Whether a field of this name may affect framing or routing. Underscores count as hyphens, since
/// CGI gateways confuse the two.
pub(in crate::l7) fn is_framing(name: &str) -> bool {
    const FRAMING: [&[u8]; 4] = [b"content-length", b"transfer-encoding", b"host", b"connection"];
    let same = |a: u8, b: u8| a == b || a == b'_' && b == b'-';
    FRAMING.iter().any(|framing| {
        name.len() == framing.len()
            && name.bytes().zip(*framing).all(|(a, b)| same(a.to_ascii_lowercase(), *b))
    })
}
