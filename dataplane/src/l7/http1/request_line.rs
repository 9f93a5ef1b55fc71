//! The first line of a request, checked as it arrives: another protocol is denied at once, and not
//! when a head should have been complete.

use podgate_tables::l7::http1::{Denial, Flaw, is_token};

/// Longest method, bytes. The longest one that IANA lists has 17 (`UPDATEREDIRECTREF`).
const METHOD_MAX: usize = 32;

/// Checks the beginning of a line that may still be incomplete: a method and a space.
pub(super) fn check_start(bytes: &[u8]) -> Result<(), Denial> {
    let method = bytes.iter().take(METHOD_MAX + 1).take_while(|byte| is_token(**byte)).count();
    match bytes.get(method) {
        None => Ok(()),
        Some(_) if method > METHOD_MAX => Err(Denial::NOT_HTTP1),
        Some(b' ') if method > 0 => Ok(()),
        // An empty line, or a line without a space: checked when it is complete.
        Some(b'\r') => Ok(()),
        Some(b'\n' | b'\t' | b' '..=b'~') => Err(Denial::malformed(Flaw::RequestLine)),
        // Above all a TLS record, which would wait for a line end that never comes.
        Some(_) => Err(Denial::NOT_HTTP1),
    }
}

/// Checks a whole line, whose beginning [`check_start`] accepts. The parser does the rest.
pub(super) fn check(line: &[u8]) -> Result<(), Denial> {
    let text = line.strip_suffix(b"\r\n").unwrap_or(line);
    if [b" HTTP/1.1", b" HTTP/1.0"].iter().any(|version| text.ends_with(*version)) {
        return Ok(());
    }
    let mut words = text.splitn(2, |byte| *byte == b' ').skip(1);
    let rest = words.next().unwrap_or_default();
    if rest.starts_with(b"* HTTP/2") {
        return Err(Denial::NOT_HTTP1);
    }
    let has_version = text.windows(5).any(|five| five.eq_ignore_ascii_case(b"HTTP/"));
    match has_version || rest.starts_with(b"/") {
        true => Err(Denial::malformed(Flaw::Version)),
        false => Err(Denial::NOT_HTTP1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_protocols_are_told_from_bad_requests_by_their_first_line() {
        for line in [
            &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
            b"\x80\x2e\x01",
            b"\0\0\0\x23",
            b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n",
            b"*1\r\n",
            b"PING\r\n",
            b"EHLO mail.example\r\n",
            b"PRI * HTTP/2.0\r\n",
            b"get\x01x",
            b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa ",
        ] {
            let outcome = check_start(line).and_then(|()| check(line));
            assert_eq!(outcome, Err(Denial::NOT_HTTP1), "{}", line.escape_ascii());
        }
        for line in [
            &b" GET /docs HTTP/1.1\r\n"[..],
            b"GET\t/docs HTTP/1.1\r\n",
            b"{\"a\": 1}\r\n",
            b"GET /docs\r\n",
            b"GET /docs http/1.1\r\n",
            b"GET /docs HTTP/1.1 \r\n",
            b"GET /docs HTTP/1.2\r\n",
            b"GET /docs HTTP/3\r\n",
        ] {
            let outcome = check_start(line).and_then(|()| check(line));
            assert!(outcome.is_err_and(|denial| denial != Denial::NOT_HTTP1), "{line:?}");
        }
        for line in [&b"GET /docs HTTP/1.1\r\n"[..], b"M-SEARCH * HTTP/1.1\r\n", b"G", b"GET"] {
            assert_eq!(check_start(line), Ok(()));
            assert!(!line.ends_with(b"\n") || check(line).is_ok());
        }
    }
}
