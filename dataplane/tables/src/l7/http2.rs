//! Header lists of HTTP/2 requests: which are valid, and which parts of them rules match.
//!
//! A list is rejected where two servers could read two requests in it, or where a gateway could
//! turn it into more than one HTTP/1 request (RFC 9113 §8.2 and §8.3, §10.3).

use httparse::Header;

use super::http1::head::{is_framing, parse_length};
use super::http1::{Denial, Flaw, HttpRequest, is_token, target};

/// Most regular fields of a header list. One with more is answered 431.
pub const FIELDS_MAX: usize = 100;

/// A header list that is malformed or ambiguous.
pub const MALFORMED: Denial = Denial::malformed(Flaw::FieldValue);

/// A header field: name and value.
pub type Field<'a> = (&'a [u8], &'a [u8]);

/// A parsed header list of a request.
#[derive(Debug)]
pub struct Head<'a> {
    /// The request, as rules match it.
    pub request: HttpRequest<'a>,
    /// `content-length`, bytes.
    pub length: Option<u64>,
}

/// Parses the header list of a request (RFC 9113 §8.3.1).
///
/// `CONNECT` has no path, so a rule with a path matches it only in its extended form (RFC 8441),
/// which has one.
///
/// # Errors
/// If the list is malformed or ambiguous.
pub fn parse<'a>(
    fields: impl Iterator<Item = Field<'a>>,
    headers: &'a mut [Header<'a>; FIELDS_MAX],
) -> Result<Head<'a>, Denial> {
    let mut pseudo = Pseudo::default();
    let mut regular = Regular::default();
    let mut count = 0;
    for (name, value) in fields {
        if name.first() == Some(&b':') {
            if count > 0 || !is_value(value) {
                return Err(MALFORMED);
            }
            pseudo.take(name, value).ok_or(MALFORMED)?;
            continue;
        }
        let header = header(name, value).ok_or(MALFORMED)?;
        regular.take(&header).ok_or(MALFORMED)?;
        *headers.get_mut(count).ok_or(Denial::HEAD_TOO_LARGE)? = header;
        count += 1;
    }
    let headers: &'a [Header<'a>] = &headers[..count];
    let request = pseudo.request(regular.host, headers).ok_or(MALFORMED)?;
    let length = match regular.length {
        None => None,
        Some(length) => Some(parse_length(length).ok_or(MALFORMED)?),
    };
    Ok(Head { request, length })
}

/// Whether these may be the trailers of a request (RFC 9113 §8.1).
pub fn are_trailers<'a>(fields: impl Iterator<Item = Field<'a>>) -> bool {
    let mut regular = Regular::default();
    let valid = |(name, value): Field<'a>| {
        header(name, value).is_some_and(|header| regular.take(&header).is_some())
    };
    let mut fields = fields;
    fields.all(valid) && regular.host.is_none() && regular.length.is_none()
}

/// By byte: whether it may occur in the name of a field (RFC 9113 §8.2.1).
const IN_NAME: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < table.len() {
        table[byte] = is_token(byte as u8) && !(byte as u8).is_ascii_uppercase();
        byte += 1;
    }
    table
};

/// A regular field, if it is allowed in HTTP/2 (RFC 9113 §8.2.1).
fn header<'a>(name: &'a [u8], value: &'a [u8]) -> Option<Header<'a>> {
    // All bytes are checked, without a branch for each: nearly all fields are valid.
    let is_name = name.iter().fold(true, |all, byte| all & IN_NAME[usize::from(*byte)]);
    if name.is_empty() || !is_name || !is_value(value) {
        return None;
    }
    Some(Header { name: std::str::from_utf8(name).ok()?, value })
}

/// Whether this may be the value of a field: no control characters, and no space around it.
#[must_use]
pub fn is_value(value: &[u8]) -> bool {
    let is_control = |byte: &u8| ((*byte < b' ') & (*byte != b'\t')) | (*byte == 0x7f);
    let is_space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    let has_control = value.iter().fold(false, |any, byte| any | is_control(byte));
    !is_space(value.first()) && !is_space(value.last()) && !has_control
}

/// The pseudo-header fields, each at most once.
#[derive(Default)]
struct Pseudo<'a> {
    method: Option<&'a [u8]>,
    scheme: Option<&'a [u8]>,
    authority: Option<&'a [u8]>,
    path: Option<&'a [u8]>,
    protocol: Option<&'a [u8]>,
}

impl<'a> Pseudo<'a> {
    fn take(&mut self, name: &[u8], value: &'a [u8]) -> Option<()> {
        let slot = match name {
            b":method" => &mut self.method,
            b":scheme" => &mut self.scheme,
            b":authority" => &mut self.authority,
            b":path" => &mut self.path,
            b":protocol" => &mut self.protocol,
            _ => return None,
        };
        slot.replace(value).is_none().then_some(())
    }

    fn request(
        &self,
        host: Option<&'a [u8]>,
        headers: &'a [Header<'a>],
    ) -> Option<HttpRequest<'a>> {
        let method =
            self.method.filter(|m| !m.is_empty() && m.iter().all(|byte| is_token(*byte)))?;
        let host = match (self.authority, host) {
            (Some(authority), Some(host)) if !authority.eq_ignore_ascii_case(host) => return None,
            (Some(authority), _) => authority,
            (None, host) => host?,
        };
        if host.is_empty() || !target::is_authority(host) {
            return None;
        }
        let is_connect = method == b"CONNECT";
        let path = match (self.scheme, self.path) {
            (None, None) if is_connect && self.protocol.is_none() => b"",
            (Some(b"http" | b"https"), Some(path)) if is_connect == self.protocol.is_some() => {
                let has_form = path.first() == Some(&b'/') || path == b"*" && method == b"OPTIONS";
                // A gateway would end an HTTP/1 target at a space.
                if !has_form || path.contains(&b' ') || path.contains(&b'\t') {
                    return None;
                }
                path
            }
            _ => return None,
        };
        let path_is_normal = target::is_normal(path);
        Some(HttpRequest { method, path, path_is_normal, host, headers })
    }
}

/// The regular fields that determine framing and routing, each at most once.
#[derive(Default)]
struct Regular<'a> {
    host: Option<&'a [u8]>,
    length: Option<&'a [u8]>,
}

impl<'a> Regular<'a> {
    /// [`None`] if the field must not occur in HTTP/2 (RFC 9113 §8.2.2), or not twice.
    fn take(&mut self, header: &Header<'a>) -> Option<()> {
        let (name, value) = (header.name, header.value);
        let slot = match name {
            "host" => &mut self.host,
            "content-length" => &mut self.length,
            "te" => return value.eq_ignore_ascii_case(b"trailers").then_some(()),
            "upgrade" | "keep-alive" | "proxy-connection" => return None,
            // `connection`, `transfer-encoding`, and names that CGI gateways take for one of these.
            _ if is_framing(name) => return None,
            _ => return Some(()),
        };
        slot.replace(value).is_none().then_some(())
    }
}

/// Whether a `content-type` is gRPC's: `application/grpc`, with or without a subtype
/// (gRPC over HTTP/2, Requests).
#[must_use]
pub fn is_grpc(content_type: &[u8]) -> bool {
    let (start, rest) = content_type.split_at(content_type.len().min(b"application/grpc".len()));
    start.eq_ignore_ascii_case(b"application/grpc") && matches!(rest, [] | [b'+' | b';' | b' ', ..])
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: &[(&str, &str)] =
        &[(":method", "GET"), (":scheme", "http"), (":path", "/a?b"), (":authority", "h:80")];

    fn outcome(fields: &[(&str, &str)]) -> Result<(String, bool, Option<u64>), Denial> {
        let mut headers = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let fields = fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        let head = parse(fields, &mut headers)?;
        let HttpRequest { method, path, host, .. } = head.request;
        let line = [method, b" ", path, b" ", host].concat().escape_ascii().to_string();
        Ok((line, head.request.path_is_normal, head.length))
    }

    fn with(more: &[(&str, &str)]) -> Result<(String, bool, Option<u64>), Denial> {
        outcome(&[GET, more].concat())
    }

    /// [`GET`] with one field replaced, or removed.
    fn replaced(name: &str, value: Option<&str>) -> bool {
        let fields = GET.iter().filter_map(|(n, v)| match value {
            Some(value) if *n == name => Some((*n, value)),
            None if *n == name => None,
            _ => Some((*n, *v)),
        });
        outcome(&fields.collect::<Vec<_>>()).is_ok()
    }

    #[test]
    fn valid_lists_are_requests() {
        let line = || "GET /a?b h:80".to_owned();
        assert_eq!(with(&[]), Ok((line(), true, None)));
        assert_eq!(with(&[("host", "H:80"), ("te", "trailers")]), Ok((line(), true, None)));
        assert_eq!(with(&[("content-length", "7")]), Ok((line(), true, Some(7))));
        let connect = [(":method", "CONNECT"), (":authority", "h:1")];
        assert_eq!(outcome(&connect), Ok(("CONNECT  h:1".to_owned(), false, None)));
        let by_host = [&GET[..3], &[("host", "x")]].concat();
        assert_eq!(outcome(&by_host).unwrap().0, "GET /a?b x");
        assert!(replaced(":scheme", Some("https")) && !replaced(":scheme", Some("ftp")));
        assert!(!with(&[]).unwrap().0.is_empty() && replaced(":path", Some("/../x")));
        assert_eq!(outcome(&[GET, &[(":protocol", "websocket")]].concat()), Err(MALFORMED));
        let extended = [&[(":method", "CONNECT"), (":protocol", "websocket")], &GET[1..]].concat();
        assert_eq!(outcome(&extended).unwrap().0, "CONNECT /a?b h:80");
    }

    #[test]
    fn ambiguous_lists_are_malformed() {
        for (name, value) in [
            (":method", "POST"),
            (":path", "/"),
            (":status", "200"),
            (":x", ""),
            ("X-Upper", ""),
            ("", ""),
            ("a b", ""),
            ("a:", ""),
            ("x", "a\r\nb: c"),
            ("x", "a\0"),
            ("x", "a\n"),
            ("x", " a"),
            ("x", "a\t"),
            ("connection", "close"),
            ("keep-alive", ""),
            ("proxy-connection", ""),
            ("transfer-encoding", "chunked"),
            ("transfer_encoding", "chunked"),
            ("content_length", "1"),
            ("upgrade", "h2c"),
            ("te", "gzip"),
            ("host", "other"),
            ("host", ""),
            ("content-length", "+1"),
            ("content-length", "1, 1"),
        ] {
            assert_eq!(with(&[(name, value)]), Err(MALFORMED), "{name}: {value}");
        }
        assert_eq!(with(&[("x", "y"), (":path", "/")]), Err(MALFORMED));
        assert_eq!(with(&[("host", "h:80"), ("host", "h:80")]), Err(MALFORMED));
        let lengths = [("content-length", "1"), ("content-length", "1")];
        assert_eq!(with(&lengths), Err(MALFORMED));
        let many = [("x", "y"); FIELDS_MAX + 1];
        assert_eq!(with(&many), Err(Denial::HEAD_TOO_LARGE));
        for (name, _) in GET {
            assert!(!replaced(name, None), "without {name}");
            assert!(!replaced(name, Some("")), "{name} is empty");
        }
        for path in ["a", "*", "/a b", "/a\tb", "http://h/", "/a\r\n"] {
            assert!(!replaced(":path", Some(path)), "{path}");
        }
        for authority in ["u@h", "h/a", "h a", "h%41"] {
            assert!(!replaced(":authority", Some(authority)), "{authority}");
        }
        let connect = [(":method", "CONNECT"), (":authority", "h:1"), (":path", "/")];
        assert_eq!(outcome(&connect), Err(MALFORMED));
    }

    #[test]
    fn content_types_of_grpc() {
        for yes in ["application/grpc", "application/grpc+proto", "Application/gRPC; x=y"] {
            assert!(is_grpc(yes.as_bytes()), "{yes}");
        }
        for no in ["", "application/grpc-web", "application/grpcx", "text/plain"] {
            assert!(!is_grpc(no.as_bytes()), "{no}");
        }
    }

    #[test]
    fn trailers_have_regular_fields_only() {
        let check = |name: &str, value: &str| {
            are_trailers(
                [("x", "y"), (name, value)].map(|(n, v)| (n.as_bytes(), v.as_bytes())).into_iter(),
            )
        };
        assert!(check("grpc-status", "0"));
        for (name, value) in
            [(":path", "/"), ("host", "h"), ("content-length", "0"), ("connection", ""), ("A", "")]
        {
            assert!(!check(name, value), "{name}");
        }
    }
}
