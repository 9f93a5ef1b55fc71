//! Where a request body ends (RFC 9112 §6).

use podgate_tables::l7::http1::head::BodyLength;
use podgate_tables::l7::http1::scan::{Malformed, UnitKind};
use podgate_tables::l7::http1::{Denial, Flaw, is_token};

/// Largest chunk, bytes. JDK 17's `HttpServer` counts in 32 bits with a sign and wraps silently;
/// what is larger is one chunk to us and a short one, or none, to such a reader.
const CHUNK_MAX: u64 = i32::MAX as u64;
/// Digits of a chunk's size, at most, leading zeros included: as many as the largest has.
const CHUNK_DIGITS_MAX: usize = 8;

/// What comes next of a request body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Body {
    /// This many bytes, then the end of the message.
    Length(u64),
    /// The line with the size of a chunk.
    ChunkSize,
    /// This many bytes of a chunk.
    Chunk(u64),
    /// The line end after a chunk.
    ChunkEnd,
    /// The trailer section. It must be empty: there are servers (cheroot is one) that take the line
    /// after the last chunk for the end of the message, and a trailer for a request.
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

    /// Length of the bytes that come next and decide nothing, and what follows them; `None` if a
    /// unit comes next.
    pub(super) const fn opaque(self) -> Option<(u64, Option<Self>)> {
        match self {
            Self::Length(count) => Some((count, None)),
            Self::Chunk(count) => Some((count, Some(Self::ChunkEnd))),
            Self::ChunkSize | Self::ChunkEnd | Self::Trailers => None,
        }
    }

    /// The unit that comes next, if it is one.
    pub(super) const fn unit_kind(self) -> UnitKind {
        match self {
            Self::ChunkEnd | Self::Trailers => UnitKind::LineEnd,
            _ => UnitKind::Line,
        }
    }

    /// After `unit`, which may be a part of a body's or a chunk's bytes; `None` when the message is
    /// over.
    pub(super) fn after_unit(self, unit: &[u8]) -> Result<Option<Self>, Malformed> {
        match self {
            Self::ChunkSize => Ok(Some(match chunk_size(unit)? {
                0 => Self::Trailers,
                size => Self::Chunk(size),
            })),
            Self::Trailers => Ok(None),
            Self::ChunkEnd => Ok(Some(Self::ChunkSize)),
            Self::Length(left) => Ok(match left - unit.len() as u64 {
                0 => None,
                left => Some(Self::Length(left)),
            }),
            Self::Chunk(left) => Ok(Some(match left - unit.len() as u64 {
                0 => Self::ChunkEnd,
                left => Self::Chunk(left),
            })),
        }
    }

    /// The denial if the unit that comes next is malformed.
    pub(super) const fn denial(self, malformed: Malformed) -> Denial {
        match (self, malformed) {
            (Self::ChunkEnd, _) => Denial::malformed(Flaw::ChunkEnd),
            (Self::Trailers, _) => Denial::malformed(Flaw::Trailer),
            (_, Malformed::TooLong) => Denial::CHUNK_LINE_TOO_LONG,
            (_, Malformed::Invalid) => Denial::malformed(Flaw::ChunkSize),
        }
    }
}

/// `chunk-size [ chunk-ext ] CRLF`, without the optional space that RFC 9112 §7.1.1 tolerates for
/// old senders.
fn chunk_size(line: &[u8]) -> Result<u64, Malformed> {
    let line = line.strip_suffix(b"\r\n").ok_or(Malformed::Invalid)?;
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (digits, extensions) = line.split_at(digits);
    if digits.len() > CHUNK_DIGITS_MAX || !are_extensions(extensions) {
        return Err(Malformed::Invalid);
    }
    let digits = std::str::from_utf8(digits).map_err(|_| Malformed::Invalid)?;
    // No digit at all is an error here.
    let size = u64::from_str_radix(digits, 16).map_err(|_| Malformed::Invalid)?;
    if size > CHUNK_MAX { Err(Malformed::Invalid) } else { Ok(size) }
}

/// Whether `bytes` are `*( ";" token [ "=" ( token / quoted-string ) ] )`. A quoted string must end
/// on its line: a reader that waits for the closing quote would look for the line's end after it.
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
            assert_eq!(chunk_size(line.as_bytes()), Err(Malformed::Invalid), "{line:?}");
        }
    }
}
