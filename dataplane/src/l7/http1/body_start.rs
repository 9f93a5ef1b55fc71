//! The beginning of a body that a server may take for the next request.
//!
//! Servers that don't read the body of a `GET` (CPython's `http.server` is one) find it where they
//! expect the next request. So no such body may begin like a request line: with a token and white
//! space after it. Nor may it be letters as a whole: the next request's method would follow them
//! (`UN`, `LOCK`).

use podgate_tables::l7::http1::{Denial, Flaw, is_token};

/// What a body has had so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum BodyStart {
    /// It need not be watched, or no longer.
    #[default]
    Harmless,
    /// White space only.
    Space,
    /// Then letters (or hyphens), which could be a method or the beginning of one.
    Letters,
    /// Then a token that has other characters, too.
    Token,
}

impl BodyStart {
    /// Of a request with this method.
    pub(super) fn of(method: &[u8]) -> Self {
        match method {
            b"GET" | b"HEAD" | b"DELETE" | b"OPTIONS" | b"TRACE" => Self::Space,
            _ => Self::Harmless,
        }
    }

    /// Whether the next bytes of the body have to be watched.
    pub(super) fn is_open(self) -> bool {
        self != Self::Harmless
    }

    /// Takes the next of `bytes`, of which there is at least one. Returns how many may pass.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<usize, Denial> {
        for (index, byte) in bytes.iter().enumerate() {
            *self = match (*self, *byte) {
                (Self::Space, byte) if is_space(byte) => Self::Space,
                (Self::Letters | Self::Token, byte) if is_space(byte) => {
                    return if index > 0 { Ok(index) } else { Err(Self::denial()) };
                }
                (Self::Space | Self::Letters, b'A'..=b'Z' | b'a'..=b'z' | b'-') => Self::Letters,
                (_, byte) if is_token(byte) => Self::Token,
                _ => {
                    *self = Self::Harmless;
                    return Ok(index + 1);
                }
            };
        }
        Ok(bytes.len())
    }

    /// The body is over.
    pub(super) fn end(self) -> Result<(), Denial> {
        if self == Self::Letters { Err(Self::denial()) } else { Ok(()) }
    }

    fn denial() -> Denial {
        Denial::malformed(Flaw::BodyLikeRequest)
    }
}

/// What Python's `str.split` takes for white space in Latin-1.
const fn is_space(byte: u8) -> bool {
    matches!(byte, b'\t'..=b'\r' | 0x1c..=0x20 | 0x85 | 0xa0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How much passes, whatever pieces the body comes in; `Err` is a denial.
    fn outcome(body: &[u8]) -> Result<usize, usize> {
        let run = |size: usize| {
            let (mut start, mut passed) = (BodyStart::of(b"GET"), 0);
            while start.is_open() && passed < body.len() {
                let shown = size.min(body.len() - passed);
                match start.take(&body[passed..][..shown]) {
                    Ok(count) => passed += count,
                    Err(_) => return Err(passed),
                }
            }
            start.end().map(|()| passed).map_err(|_| passed)
        };
        let whole = run(usize::MAX);
        assert_eq!(run(1), whole, "byte by byte");
        assert_eq!(run(3), whole, "by three");
        whole
    }

    #[test]
    fn a_token_and_a_space_are_denied_and_json_and_forms_pass() {
        for body in [
            &b"GET /secret HTTP/1.1\r\n\r\n"[..],
            b"\r\nGET /secret HTTP/1.1\r\n\r\n",
            b"\r\n\r\n \tGET /secret",
            b"GET\t/secret",
            b"GET\r\n",
            b"GET\x85/secret\xa0HTTP/1.1\r\n",
            b"\x1cGET\x0b/secret",
            b"hello world",
            b"UN",
            b"\r\nUN",
            b"5 /secret",
        ] {
            assert!(outcome(body).is_err(), "{}", body.escape_ascii());
        }
        for (body, passes) in [
            (&b"{\"query\": 1}"[..], 1),
            (b"\r\n{", 3),
            (b"a=b&c=d e", 2),
            (b"\x00\x01", 1),
            (b"<a b>", 1),
            (b"\r\n", 2),
            (b"123", 3),
            (b"id-5", 4),
        ] {
            assert_eq!(outcome(body), Ok(passes), "{}", body.escape_ascii());
        }
        assert!(!BodyStart::of(b"POST").is_open());
    }
}
