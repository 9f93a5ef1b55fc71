//! Where a message body ends (RFC 9112 §6), the same in both directions.

use podgate_tables::l7::http1::head::BodyLength;
use podgate_tables::l7::http1::is_token;
use podgate_tables::l7::http1::scan::{Malformed, UnitKind};

use super::Next;

/// Largest chunk, bytes. JDK 17's `HttpServer` counts in 32 bits with a sign and wraps silently;
/// what is larger is one chunk to us and a short one, or none, to such a reader.
const CHUNK_MAX: u64 = i32::MAX as u64;
/// Digits of a chunk's size, at most, leading zeros included: as many as the largest has.
const CHUNK_DIGITS_MAX: usize = 8;

/// What comes next of a body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Body {
    /// So many bytes, then the message is over.
    Length(u64),
    /// Everything until the connection closes.
    UntilClose,
    /// The line with the size of a chunk.
    ChunkSize,
    /// So many bytes of a chunk.
    Chunk(u64),
    /// The line end after a chunk.
    ChunkEnd,
    /// The trailer section. A client's must be empty: there are servers (cheroot is one) that take
    /// the line behind the last chunk for the end of the message, and a trailer for a request.
    Trailers,
}

impl Body {
    /// What comes first after a request head; `None` if no body follows.
    pub(super) const fn after_head(length: BodyLength) -> Option<Self> {
        match length {
            BodyLength::None => None,
            BodyLength::Fixed(bytes) => Some(Self::Length(bytes)),
            BodyLength::Chunked => Some(Self::ChunkSize),
        }
    }

    pub(super) const fn next(self) -> Next {
        match self {
            Self::Length(count) | Self::Chunk(count) => Next::Pass(count),
            Self::UntilClose => Next::Pass(u64::MAX),
            Self::ChunkSize | Self::ChunkEnd | Self::Trailers => Next::Decide,
        }
    }

    /// The unit that comes next, if it is one.
    pub(super) const fn unit_kind(self) -> UnitKind {
        match self {
            Self::ChunkEnd => UnitKind::LineEnd,
            Self::Trailers => UnitKind::Section,
            _ => UnitKind::Line,
        }
    }

    /// After `count` bytes passed; `None` when the message is over.
    pub(super) const fn after_bytes(self, count: u64) -> Option<Self> {
        match self {
            Self::Length(left) if count >= left => None,
            Self::Length(left) => Some(Self::Length(left - count)),
            Self::Chunk(left) if count >= left => Some(Self::ChunkEnd),
            Self::Chunk(left) => Some(Self::Chunk(left - count)),
            other => Some(other),
        }
    }

    /// After `unit`; `None` when the message is over.
    pub(super) fn after_unit(self, unit: &[u8]) -> Result<Option<Self>, Malformed> {
        match self {
            Self::ChunkSize => Ok(Some(match chunk_size(unit)? {
                0 => Self::Trailers,
                size => Self::Chunk(size),
            })),
            Self::Trailers => Ok(None),
            _ => Ok(Some(Self::ChunkSize)),
        }
    }
}

/// `chunk-size [ chunk-ext ] CRLF`, without the optional space that RFC 9112 §7.1.1 tolerates for
/// old senders.
fn chunk_size(line: &[u8]) -> Result<u64, Malformed> {
    let line = line.strip_suffix(b"\r\n").ok_or(Malformed)?;
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (digits, extensions) = line.split_at(digits);
    if digits.len() > CHUNK_DIGITS_MAX || !are_extensions(extensions) {
        return Err(Malformed);
    }
    let digits = std::str::from_utf8(digits).map_err(|_| Malformed)?;
    // No digit at all is an error here.
    let size = u64::from_str_radix(digits, 16).map_err(|_| Malformed)?;
    if size > CHUNK_MAX { Err(Malformed) } else { Ok(size) }
}

/// Whether `bytes` are `*( ";" token [ "=" ( token / quoted-string ) ] )`. A quoted string must end
/// on its line: a reader that waits for the closing quote would look for the line's end behind it.
fn are_extensions(mut bytes: &[u8]) -> bool {
    while let [b';', rest @ ..] = bytes {
        let Some(rest) = after_token(rest) else { return false };
        let value = match rest {
            [b'=', b'"', quoted @ ..] => after_quoted(quoted),
            [b'=', value @ ..] => after_token(value),
            _ => Some(rest),
        };
        let Some(rest) = value else { return false };
        bytes = rest;
    }
    bytes.is_empty()
}

/// What follows the token at the front; `None` if there is none.
fn after_token(bytes: &[u8]) -> Option<&[u8]> {
    let len = bytes.iter().take_while(|byte| is_token(**byte)).count();
    (len > 0).then(|| &bytes[len..])
}

/// What follows the closing quote.
fn after_quoted(mut bytes: &[u8]) -> Option<&[u8]> {
    loop {
        bytes = match bytes {
            [b'"', rest @ ..] => return Some(rest),
            [b'\\', b'\t' | b' '..=b'~', rest @ ..] | [b'\t' | b' '..=b'~', rest @ ..] => rest,
            _ => return None,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunk_sizes_have_one_reading() {
        for (line, size) in [
            ("0\r\n", 0),
            ("000\r\n", 0),
            ("5\r\n", 5),
            ("fF\r\n", 255),
            ("5;a=b\r\n", 5),
            ("5;a=\"x y\"\r\n", 5),
            ("5;a;b=c;d=\"\\\"\"\r\n", 5),
            ("00000026\r\n", 0x26),
            ("7fffffff\r\n", i32::MAX as u64),
        ] {
            assert_eq!(chunk_size(line.as_bytes()), Ok(size), "{line:?}");
        }
        for line in [
            "\r\n",
            "5",
            " 5\r\n",
            "5 \r\n",
            "5 ;a\r\n",
            "+5\r\n",
            "-5\r\n",
            "0x5\r\n",
            "5,\r\n",
            "5_0\r\n",
            "g\r\n",
            ";a\r\n",
            "5;\u{7f}\r\n",
            "5;\x0b\r\n",
            "5;\r\n",
            "5;=a\r\n",
            "5;a=\r\n",
            "5; a\r\n",
            "5;a=b c\r\n",
            "5;a=\"b\r\n",
            "5;a=\"b\\\"\r\n",
            "5;a=b\"c\"\r\n",
            "80000000\r\n",
            "ffffffff\r\n",
            "100000000\r\n",
            "100000026\r\n",
            "200000026\r\n",
            "000000026\r\n",
            "00100000026\r\n",
            "1000000000026\r\n",
            "fffffffffffffff\r\n",
            "10000000000000000\r\n",
            "00000000000000005\r\n",
        ] {
            assert_eq!(chunk_size(line.as_bytes()), Err(Malformed), "{line:?}");
        }
    }
}
