//! Request targets (RFC 9112 §3.2), and the normal form of paths.
//!
//! # Normal form
//! A path is in normal form if percent-decoding it, however often, and resolving its dot segments
//! does not change which resource it names:
//!
//! - it has no empty segment (`//`), except at the end, and no segment `.` or `..`, not even with
//!   parameters (`..;x` or `..%3Bx`, as Java containers remove parameters before they resolve dot
//!   segments), nor with characters that compatibility normalization (NFKC) turns into dots
//!   (`%EF%BC%8E`, the full-width one);
//! - it has visible ASCII characters only, and neither a backslash nor `#`;
//! - each `%` begins a percent-encoding, and none encodes an unreserved character (`%2e`), a slash,
//!   a backslash, a control character, a full-width slash or backslash, or a part of an overlong
//!   UTF-8 sequence (`%c0%ae`, `%e0%80%ae`);
//! - an encoded percent sign (`%25`) counts as a percent sign, so `%252e` is treated as `%2e`.
//!
//! The query, after the first `?`, may have anything but `#`: servers do not resolve queries.

/// The parts of a request target that rules match.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Target<'a> {
    /// The authority; only the absolute form and the authority form have one.
    pub(super) authority: Option<&'a [u8]>,
    /// Path and query, as HTTP/2's `:path`; empty in the authority form.
    pub(super) path: &'a [u8],
}

impl<'a> Target<'a> {
    /// Parses the target of a method. `None` if it has no form that is valid for the method.
    pub(super) fn parse(method: &[u8], target: &'a [u8]) -> Option<Self> {
        if method == b"CONNECT" {
            let is_valid = is_authority(target) && has_port(target);
            return is_valid.then_some(Self { authority: Some(target), path: b"" });
        }
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

/// Whether an authority is a host and a port, as `CONNECT` needs (RFC 9112 §3.2.3).
fn has_port(authority: &[u8]) -> bool {
    let colon = authority.iter().rposition(|byte| *byte == b':');
    colon.is_some_and(|at| {
        let port = &authority[at + 1..];
        at > 0 && !port.is_empty() && port.iter().all(u8::is_ascii_digit)
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
    // Most segments stand for themselves.
    let is_literal = segment.iter().all(|byte| is_literal(*byte));
    is_literal && segment.iter().any(|byte| *byte != b'.') || is_normal_decoded(segment)
}

fn is_normal_decoded(segment: &[u8]) -> bool {
    let mut bytes = Decoded { rest: segment };
    // Of the part before parameters: its dots, and whether it has anything else.
    let (mut dots, mut has_others, mut in_parameters) = (0_usize, false, false);
    while let Some(decoded) = bytes.next() {
        match decoded.and_then(|first| character(first, &mut bytes)) {
            None => return false,
            Some(_) if in_parameters => {}
            Some(Character::Dots(count)) => dots += count,
            Some(Character::Semicolon) => in_parameters = true,
            Some(Character::Other) => has_others = true,
        }
    }
    has_others || dots > 2
}

/// Whether the byte stands for itself, wherever in a segment it is.
const fn is_literal(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~') && !matches!(byte, b'\\' | b'#' | b'%' | b';')
}

/// What a server may take a character for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Character {
    Dots(usize),
    Semicolon,
    Other,
}

/// The character that begins with `first`. `None` if no segment may have it.
fn character(first: u8, rest: &mut Decoded<'_>) -> Option<Character> {
    let mut ahead = rest.clone();
    let mut next = || ahead.next().flatten();
    let character = match first {
        b'.' => return Some(Character::Dots(1)),
        b';' => return Some(Character::Semicolon),
        ..0x80 => return Some(Character::Other),
        0xc0 | 0xc1 | 0xf8.. => return None,
        0xe0 if matches!(next(), Some(0x80..0xa0)) => return None,
        0xf0 if matches!(next(), Some(0x80..0x90)) => return None,
        0xe2 | 0xef => match (first, next(), next()) {
            // U+2024, U+FE52, U+FF0E, and U+2025.
            (0xe2, Some(0x80), Some(0xa4)) => Character::Dots(1),
            (0xef, Some(0xb9), Some(0x92)) => Character::Dots(1),
            (0xef, Some(0xbc), Some(0x8e)) => Character::Dots(1),
            (0xe2, Some(0x80), Some(0xa5)) => Character::Dots(2),
            // U+FE54, U+FF1B.
            (0xef, Some(0xb9), Some(0x94)) | (0xef, Some(0xbc), Some(0x9b)) => Character::Semicolon,
            // Slashes and backslashes: U+FE68, U+FF0F, U+FF3C.
            (0xef, Some(0xb9), Some(0xa8)) | (0xef, Some(0xbc), Some(0x8f | 0xbc)) => return None,
            _ => return Some(Character::Other),
        },
        _ => return Some(Character::Other),
    };
    *rest = ahead;
    Some(character)
}

/// The bytes of a segment, percent-decoded until nothing is left to decode. `None` for what may not
/// stand there.
#[derive(Clone)]
struct Decoded<'a> {
    rest: &'a [u8],
}

impl Iterator for Decoded<'_> {
    type Item = Option<u8>;

    fn next(&mut self) -> Option<Option<u8>> {
        let (first, mut tail) = self.rest.split_first()?;
        if *first != b'%' {
            self.rest = tail;
            return Some((is_literal(*first) || *first == b';').then_some(*first));
        }
        loop {
            let [high, low, rest @ ..] = tail else { return Some(None) };
            let Some(byte) = decode(*high, *low) else { return Some(None) };
            match rest {
                // An encoded percent sign that begins an encoding.
                [high, low, ..] if byte == b'%' && decode(*high, *low).is_some() => tail = rest,
                _ => {
                    self.rest = rest;
                    return Some(may_be_encoded(byte).then_some(byte));
                }
            }
        }
    }
}

fn decode(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    Some((digit(high)? << 4 | digit(low)?) as u8)
}

fn may_be_encoded(byte: u8) -> bool {
    let unreserved = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    !(unreserved || byte.is_ascii_control() || matches!(byte, b'/' | b'\\'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn literal_segments_are_what_they_are_decoded_to(
            segment in r"[a.;%2\#]{0,6}|(\.|%2e|%25|%zz|;|~|é){0,4}",
        ) {
            let segment = segment.as_bytes();
            prop_assert_eq!(segment_is_normal(segment), is_normal_decoded(segment));
        }
    }

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
            "/100%25/a",
            "/100%25%20",
            "/a%2520b",
            "/a%25zz",
            "/a%3Bb",
            "/a%253Bb",
            "/caf%e9",
            "/%e0bc",
            "/a%EF%BC%8Eb",
            "/%E6%96%87%EF%BC%8Etxt",
            "/...",
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
            "/..%3Bx",
            "/..%3bx/b",
            "/.%3B/b",
            "/%3B/b",
            "/..%253Bx",
            "/%252e%252e",
            "/%252e%252e/b",
            "/%25252e",
            "/%25%32%65",
            "/a%252fb",
            "/a%255cb",
            "/a%2500",
            "/a%2541",
            "/%2525%",
            "/%e0%80%ae%e0%80%ae/b",
            "/%f0%80%80%ae",
            "/%f8%80%80%80%ae",
            "/%25c0%25ae",
            "/%ef%bc%8e%ef%bc%8e/b",
            "/%EF%BC%8E",
            "/.%ef%bc%8e",
            "/%ef%25bc%8e",
            "/%e2%80%a4%e2%80%a4",
            "/%e2%80%a5",
            "/%ef%b9%92.",
            "/..%ef%bc%9bx",
            "/..%ef%bc%8fb",
            "/..%ef%bc%bcb",
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
        assert_eq!(parse("CONNECT", "h:80"), Some((Some("h:80"), "")));
        assert_eq!(parse("CONNECT", "[::1]:80"), Some((Some("[::1]:80"), "")));
        for target in ["", "h", "h:", ":80", "h:x", "/a", "http://h:80/", "u@h:80", "*"] {
            assert_eq!(parse("CONNECT", target), None, "{target}");
        }
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
