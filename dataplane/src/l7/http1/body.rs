//! Where a message body ends (RFC 9112 §6), the same in both directions.

use super::Next;
use super::scan::{Malformed, Shape};

/// Header fields of a trailer section, at most.
const TRAILERS_MAX: usize = 32;

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
    /// The trailer section, which may be empty.
    Trailers,
}

impl Body {
    pub(super) const fn next(self) -> Next {
        match self {
            Self::Length(count) | Self::Chunk(count) => Next::Pass(count),
            Self::UntilClose => Next::Pass(u64::MAX),
            Self::ChunkSize | Self::ChunkEnd | Self::Trailers => Next::Decide,
        }
    }

    /// The unit that comes next, if it is one.
    pub(super) const fn shape(self) -> Shape {
        match self {
            Self::ChunkEnd => Shape::LineEnd,
            Self::Trailers => Shape::Section,
            _ => Shape::Line,
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
            Self::Trailers => trailers(unit).map(|()| None),
            _ => Ok(Some(Self::ChunkSize)),
        }
    }
}

/// `chunk-size [ chunk-ext ] CRLF`, without the optional space that RFC 9112 §7.1.1 tolerates for
/// old senders.
fn chunk_size(line: &[u8]) -> Result<u64, Malformed> {
    let line = line.strip_suffix(b"\r\n").ok_or(Malformed)?;
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    // Fifteen digits are 2^60: more would overflow in some reader.
    if digits == 0 || digits > 15 {
        return Err(Malformed);
    }
    let (digits, extension) = line.split_at(digits);
    let printable = |byte: &u8| matches!(byte, b'\t' | b' '..=b'~');
    if !(extension.is_empty() || extension[0] == b';' && extension.iter().all(printable)) {
        return Err(Malformed);
    }
    let digits = std::str::from_utf8(digits).map_err(|_| Malformed)?;
    u64::from_str_radix(digits, 16).map_err(|_| Malformed)
}

/// A trailer section must not say anything about framing or routing (RFC 9110 §6.5.1).
fn trailers(section: &[u8]) -> Result<(), Malformed> {
    let mut fields = [httparse::EMPTY_HEADER; TRAILERS_MAX];
    match httparse::parse_headers(section, &mut fields) {
        Ok(httparse::Status::Complete((taken, fields)))
            if taken == section.len() && !fields.iter().any(|f| is_framing(f.name)) =>
        {
            Ok(())
        }
        _ => Err(Malformed),
    }
}

/// Whether a field of this name may decide where a message ends or where it goes. Underscores
/// count as hyphens: gateways in the tradition of CGI take one for the other.
pub(super) fn is_framing(name: &str) -> bool {
    const FRAMING: [&[u8]; 4] = [b"content-length", b"transfer-encoding", b"host", b"connection"];
    let same = |a: u8, b: u8| a == b || a == b'_' && b == b'-';
    FRAMING.iter().any(|framing| {
        name.len() == framing.len()
            && name.bytes().zip(*framing).all(|(a, b)| same(a.to_ascii_lowercase(), *b))
    })
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
            ("fffffffffffffff\r\n", (1 << 60) - 1),
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
            "10000000000000000\r\n",
            "00000000000000005\r\n",
        ] {
            assert_eq!(chunk_size(line.as_bytes()), Err(Malformed), "{line:?}");
        }
    }

    #[test]
    fn trailers_may_not_reframe() {
        assert_eq!(trailers(b"\r\n"), Ok(()));
        assert_eq!(trailers(b"x-checksum: 1\r\n\r\n"), Ok(()));
        for section in [
            "Content-Length: 5\r\n\r\n",
            "transfer-encoding: chunked\r\n\r\n",
            "transfer_encoding: chunked\r\n\r\n",
            "HOST: other\r\n\r\n",
            "a : b\r\n\r\n",
            " a: b\r\n\r\n",
            "a: b\r\n c\r\n\r\n",
            "GET / HTTP/1.1\r\n\r\n",
        ] {
            assert_eq!(trailers(section.as_bytes()), Err(Malformed), "{section:?}");
        }
    }
}
