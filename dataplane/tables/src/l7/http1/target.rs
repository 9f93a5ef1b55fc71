//! Request targets (RFC 9112 §3.2), and the normal form of paths.
//!
//! # Normal form
//! A path is in normal form if percent-decoding it and resolving its dot segments does not change
//! which resource it names:
//!
//! - it has no empty segment (`//`), except at the end, and no segment `.` or `..`, not even with
//!   parameters (`..;x`, as Java containers remove parameters before they resolve dot segments);
//! - it has visible ASCII characters only, and neither a backslash nor `#`;
//! - each `%` begins a percent-encoding, and none encodes an unreserved character (`%2e`), a slash,
//!   a backslash, a control character, or the first byte of an overlong UTF-8 sequence (`%c0`,
//!   `%c1`).
//!
//! The query, after the first `?`, may have anything but `#`: servers do not resolve queries.
//! A server that decodes twice is not protected, as it is not by Envoy's path normalization.

/// The parts of a request target that rules match.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Target<'a> {
    /// The authority; only the absolute form has one.
    pub(super) authority: Option<&'a [u8]>,
    /// Path and query, as HTTP/2's `:path`.
    pub(super) path: &'a [u8],
}

impl<'a> Target<'a> {
    /// Parses the target of any method but `CONNECT`. `None` if it has no valid form.
    pub(super) fn parse(method: &[u8], target: &'a [u8]) -> Option<Self> {
        if target.first() == Some(&b'/') || (target == b"*" && method == b"OPTIONS") {
            return Some(Self { authority: None, path: target });
        }
        let (scheme, rest) = target.split_at_checked(b"http://".len())?;
        if !scheme.eq_ignore_ascii_case(b"http://") {
            return None;
        }
        let end = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let path = if path.is_empty() { b"/" } else { path };
        (!authority.is_empty() && is_authority(authority))
            .then_some(Self { authority: Some(authority), path })
    }
}

/// Whether every character may occur in `host [ ":" port ]` (RFC 9110 §7.2). User information is
/// not allowed.
pub(in crate::l7) fn is_authority(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| {
        byte.is_ascii_alphanumeric()
            || matches!(byte, b'.' | b'-' | b'_' | b'~' | b':' | b'[' | b']')
    })
}

/// Whether the path part of `path_and_query` is in normal form.
pub(in crate::l7) fn is_normal(path_and_query: &[u8]) -> bool {
    let mut parts = path_and_query.splitn(2, |byte| *byte == b'?');
    let path = parts.next().unwrap_or_default();
    if parts.next().is_some_and(|query| query.contains(&b'#')) {
        return false;
    }
    if path == b"*" {
        return true;
    }
    let Some(segments) = path.strip_prefix(b"/") else { return false };
    let mut segments = segments.split(|byte| *byte == b'/').peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        if !(segment.is_empty() && is_last || segment_is_normal(segment)) {
            return false;
        }
    }
    true
}

fn segment_is_normal(segment: &[u8]) -> bool {
    let name = segment.split(|byte| *byte == b';').next().unwrap_or_default();
    if matches!(name, b"" | b"." | b"..") {
        return false;
    }
    let mut rest = segment;
    while let [first, tail @ ..] = rest {
        rest = match (first, tail) {
            (b'%', [high, low, tail @ ..]) => match decode(*high, *low) {
                Some(byte) if may_be_encoded(byte) => tail,
                _ => return false,
            },
            (b'%' | b'\\' | b'#', _) => return false,
            (b'!'..=b'~', tail) => tail,
            _ => return false,
        };
    }
    true
}

fn decode(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    Some((digit(high)? << 4 | digit(low)?) as u8)
}

fn may_be_encoded(byte: u8) -> bool {
    let unreserved = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    !(unreserved || byte.is_ascii_control() || matches!(byte, b'/' | b'\\' | 0xc0 | 0xc1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_in_normal_form_are_accepted() {
        for path in [
            "/",
            "/docs",
            "/docs/",
            "/api/v1/users?id=1&x=/../",
            "/a.b/..c/c../...",
            "/a;v=1/b",
            "/a%20b",
            "/%E2%82%AC",
            "/%e2%82%ac",
            "/a:b@c!$&'()*+,=",
            "/x?%zz&\\",
            "/x?a?b//c",
            "/[a]{b}|^\"<>`",
            "*",
            "/100%25",
        ] {
            assert!(is_normal(path.as_bytes()), "{path}");
        }
    }

    #[test]
    fn paths_that_a_server_might_resolve_to_another_are_not_in_normal_form() {
        for path in [
            "",
            "docs",
            "//",
            "//docs",
            "/docs//secret",
            "/a//",
            "/.",
            "/..",
            "/./a",
            "/a/.",
            "/a/..",
            "/a/../b",
            "/a/..?x",
            "/%2e/a",
            "/%2E%2e/a",
            "/a/.%2e/b",
            "/a/..;/b",
            "/a/..;x=1/b",
            "/a/.;/b",
            "/;/a",
            "/a%2fb",
            "/a%2Fb",
            "/a%5cb",
            "/a%5Cb",
            "/a\\b",
            "/a\\..\\b",
            "/%41",
            "/%7e",
            "/%5f",
            "/%2d",
            "/%30",
            "/a%00",
            "/a%0a",
            "/a%0d%0aX",
            "/a%7f",
            "/%",
            "/%4",
            "/%zz",
            "/a%u002e",
            "/%c0%ae%c0%ae/",
            "/%C1%9c",
            "/a#b",
            "/a?b#c",
            "/é",
            "/a b",
            "/a\tb",
            "/..",
            "/..%2f",
        ] {
            assert!(!is_normal(path.as_bytes()), "{path}");
        }
    }

    #[test]
    fn targets_are_parsed_by_form() {
        let parse = |method: &str, target: &'static str| {
            Target::parse(method.as_bytes(), target.as_bytes()).map(|target| {
                let text = |bytes| std::str::from_utf8(bytes).unwrap();
                (target.authority.map(text), text(target.path))
            })
        };
        assert_eq!(parse("GET", "/a?b"), Some((None, "/a?b")));
        assert_eq!(parse("GET", "http://h:80/a"), Some((Some("h:80"), "/a")));
        assert_eq!(parse("GET", "HTTP://h"), Some((Some("h"), "/")));
        assert_eq!(parse("OPTIONS", "*"), Some((None, "*")));
        for target in [
            "*",
            "a",
            "",
            "h:80",
            "https://h/",
            "ftp://h/",
            "http:/h",
            "http:///a",
            "http://",
            "http://u@h/a",
            "http://h?x",
            "http://h#x",
            "http://h\\x/a",
            "?x",
            "#",
            "http://h%41/",
        ] {
            assert_eq!(parse("GET", target), None, "{target}");
        }
    }
}
