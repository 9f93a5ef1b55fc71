//! One request head, read so that only one reading is possible.

use httparse::Header;

use super::target::{self, Target};
use super::{Refusal, Request};

/// Header fields of a head, at most (Apache's and Envoy's default).
pub const FIELDS_MAX: usize = 100;

/// What a request head says.
#[derive(Debug)]
pub struct Head<'a> {
    /// What rules match.
    pub request: Request<'a>,
    /// The target as it was written.
    pub target: &'a [u8],
    /// The body that follows.
    pub body: BodyLength,
    /// The client offers to switch to another protocol.
    pub upgrade: bool,
}

/// How long the body after a request head is (RFC 9112 §6.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BodyLength {
    /// No body follows.
    None,
    /// As `Content-Length` says, bytes; not zero.
    Fixed(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

/// Reads the head that is all of `unit`.
///
/// httparse tells tokens apart; it also refuses folded lines and space before a colon. Line ends
/// were checked when the unit was scanned.
///
/// # Errors
/// When the head has no reading or more than one, or asks for what is not supported.
pub fn parse<'a>(
    unit: &'a [u8],
    fields: &'a mut [Header<'a>; FIELDS_MAX],
) -> Result<Head<'a>, Refusal> {
    if unit.starts_with(b"PRI * HTTP/2") {
        return Err(Refusal::NOT_HTTP1);
    }
    let mut parsed = httparse::Request::new(fields);
    match parsed.parse(unit) {
        Ok(httparse::Status::Complete(taken)) if taken == unit.len() => {}
        _ => return Err(Refusal::MALFORMED),
    }
    let (Some(method), Some(target), Some(version)) = (parsed.method, parsed.path, parsed.version)
    else {
        return Err(Refusal::MALFORMED);
    };
    if method == "CONNECT" {
        return Err(Refusal::UNSUPPORTED);
    }
    let (method, target) = (method.as_bytes(), target.as_bytes());
    let headers: &'a [Header<'a>] = parsed.headers;
    let framing = Framing::read(unit, headers).ok_or(Refusal::MALFORMED)?;
    let body = framing.body(version).ok_or(Refusal::MALFORMED)?;
    let parts = Target::parse(method, target).ok_or(Refusal::MALFORMED)?;
    let host = framing.authority(version, &parts).ok_or(Refusal::MALFORMED)?;
    let request = Request {
        method,
        path: parts.path,
        path_is_normal: target::is_normal(parts.path),
        host,
        headers,
    };
    let has = |name: &str| headers.iter().any(|field| field.name.eq_ignore_ascii_case(name));
    if body == BodyLength::Chunked && has("trailer") {
        // Its trailers would be refused; now the client can still be told.
        return Err(Refusal::UNSUPPORTED);
    }
    let upgrade = has("upgrade");
    Ok(Head { request, target, body, upgrade })
}

/// The fields that decide framing and routing, each at most once.
#[derive(Default)]
struct Framing<'a> {
    host: Option<&'a [u8]>,
    content_length: Option<&'a [u8]>,
    transfer_encoding: Option<&'a [u8]>,
}

impl<'a> Framing<'a> {
    /// `None` if one is repeated, written with a look-alike name, or set off with anything but
    /// spaces: servers differ on tabs.
    fn read(unit: &[u8], headers: &'a [Header<'a>]) -> Option<Self> {
        let mut framing = Self::default();
        for field in headers.iter().filter(|field| is_framing(field.name)) {
            let slot = match field.name.len() {
                4 => &mut framing.host,
                14 => &mut framing.content_length,
                17 => &mut framing.transfer_encoding,
                _ => continue,
            };
            if field.name.contains('_')
                || !is_plainly_set(unit, field)
                || slot.replace(field.value).is_some()
            {
                return None;
            }
        }
        Some(framing)
    }

    /// RFC 9112 §6.1 to §6.3, without the cases that depend on who reads; those are `None`,
    /// as is what is malformed.
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

    /// HTTP/2's `:authority` (RFC 9112 §3.2, §3.3): exactly one `Host` in HTTP/1.1, and an
    /// authority in the target must say the same.
    fn authority(&self, version: u8, target: &Target<'a>) -> Option<&'a [u8]> {
        if version == 1 && self.host.is_none() {
            return None;
        }
        let host = self.host.or(target.authority).unwrap_or_default();
        let authority = target.authority.unwrap_or(host);
        (target::is_authority(host) && authority.eq_ignore_ascii_case(host)).then_some(authority)
    }
}

/// Digits only, without a leading zero (which makes an octal number to some), and few enough that
/// no reader with 64 bits overflows. Bodies above 2 GiB are legitimate, and servers count them in
/// 64 bits; one that wraps at 32 bits must not stand behind HTTP rules.
#[must_use]
pub fn parse_length(value: &[u8]) -> Option<u64> {
    let has_leading_zero = value.len() > 1 && value[0] == b'0';
    if has_leading_zero || value.len() > 18 || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// Whether only spaces stand between the field's colon, its value and the end of its line.
fn is_plainly_set(unit: &[u8], field: &Header<'_>) -> bool {
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

/// Whether a field of this name may decide where a message ends or where it goes. Underscores
/// count as hyphens: gateways in the tradition of CGI take one for the other.
fn is_framing(name: &str) -> bool {
    const FRAMING: [&[u8]; 4] = [b"content-length", b"transfer-encoding", b"host", b"connection"];
    let same = |a: u8, b: u8| a == b || a == b'_' && b == b'-';
    FRAMING.iter().any(|framing| {
        name.len() == framing.len()
            && name.bytes().zip(*framing).all(|(a, b)| same(a.to_ascii_lowercase(), *b))
    })
}
