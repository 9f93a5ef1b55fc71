//! Finds the end of a unit as its bytes arrive, and rejects bytes that no unit may contain.
//!
//! A unit is what the inspector decides as a whole: a head, a chunk-size line, the line end after a
//! chunk, or an empty trailer section.

use memchr::memchr3;

use super::HttpLimits;

/// Kinds of units, by what ends them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UnitKind {
    /// Only a line end.
    LineEnd,
    /// One line, with its line end.
    Line,
    /// Lines up to the first empty line, which is included.
    Section,
}

impl UnitKind {
    /// Longest unit of the kind under these limits, bytes.
    #[must_use]
    #[inline]
    pub const fn limit(self, limits: &HttpLimits) -> usize {
        match self {
            Self::LineEnd => 2,
            Self::Line => limits.chunk_line as usize,
            Self::Section => limits.head as usize,
        }
    }
}

/// Why bytes are no unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Malformed {
    /// Bytes that are not allowed.
    Invalid,
    /// It is too long.
    TooLong,
}

/// Position within a unit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scanner {
    /// Bytes of the unit so far.
    len: usize,
    /// Bytes of the current line so far.
    line: usize,
    /// The last byte was CR.
    cr: bool,
}

impl Scanner {
    /// Whether no byte of the unit was scanned yet.
    #[inline]
    pub const fn is_at_start(&self) -> bool {
        self.len == 0
    }

    /// Scans bytes up to the end of the unit, which has `limit` bytes at most. Returns the number
    /// of bytes, and whether the unit is complete; if so, the scanner is ready for the next one.
    ///
    /// Lines end with CR LF, and neither byte may occur elsewhere: RFC 9112 §2.2 lets a recipient
    /// accept a bare LF, and servers differ there.
    ///
    /// # Errors
    /// On a bare CR or LF, on NUL, and on a unit that is too long.
    pub fn scan(
        &mut self,
        unit_kind: UnitKind,
        limit: usize,
        bytes: &[u8],
    ) -> Result<(usize, bool), Malformed> {
        let mut at = 0;
        loop {
            if !self.cr {
                let room = limit.saturating_sub(self.len);
                let text = text_len(&bytes[at..], room);
                if text > 0 && unit_kind == UnitKind::LineEnd {
                    return Err(Malformed::Invalid);
                }
                (self.len, self.line, at) = (self.len + text, self.line + text, at + text);
            }
            let Some(byte) = bytes.get(at) else { return Ok((bytes.len(), false)) };
            if self.len >= limit {
                return Err(Malformed::TooLong);
            }
            (self.len, at) = (self.len + 1, at + 1);
            match (byte, self.cr) {
                (b'\r', false) => self.cr = true,
                (b'\n', true) if self.line == 0 || unit_kind == UnitKind::Line => {
                    *self = Self::default();
                    return Ok((at, true));
                }
                (b'\n', true) => (self.line, self.cr) = (0, false),
                _ => return Err(Malformed::Invalid),
            }
        }
    }
}

/// Length of the text at the front of `bytes`, up to a CR, LF or NUL, at most `room`.
fn text_len(bytes: &[u8], room: usize) -> usize {
    let bytes = &bytes[..bytes.len().min(room)];
    memchr3(b'\r', b'\n', 0, bytes).unwrap_or(bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scan(unit_kind: UnitKind, bytes: &[u8]) -> Result<(usize, bool), Malformed> {
        Scanner::default().scan(unit_kind, 100, bytes)
    }

    #[test]
    fn units_end_as_their_kind_says() {
        assert_eq!(scan(UnitKind::LineEnd, b"\r\n\r\n"), Ok((2, true)));
        assert_eq!(scan(UnitKind::Line, b"5\r\nhello"), Ok((3, true)));
        assert_eq!(scan(UnitKind::Section, b"A: b\r\nC: d\r\n\r\nmore"), Ok((14, true)));
        assert_eq!(scan(UnitKind::Section, b"\r\nGET"), Ok((2, true)));
        assert_eq!(scan(UnitKind::Section, b"A: b\r\nC: d\r\n\r"), Ok((13, false)));
    }

    #[test]
    fn bare_cr_bare_lf_and_nul_are_malformed() {
        for bytes in [&b"a\nb"[..], b"a\rb", b"\n", b"a\r\r\n", b"a\0b", b"a\r\n\n", b"a\r\0"] {
            assert_eq!(
                scan(UnitKind::Section, bytes),
                Err(Malformed::Invalid),
                "{}",
                bytes.escape_ascii()
            );
        }
        assert_eq!(scan(UnitKind::LineEnd, b"0"), Err(Malformed::Invalid));
    }

    #[test]
    fn a_unit_has_a_maximum_length() {
        let mut long = vec![b'a'; 96];
        long.extend(b"\r\n\r\n");
        assert_eq!(scan(UnitKind::Section, &long), Ok((long.len(), true)));
        long.insert(0, b'a');
        assert_eq!(scan(UnitKind::Section, &long), Err(Malformed::TooLong));
    }

    /// What a unit is, byte by byte.
    fn byte_by_byte(
        unit_kind: UnitKind,
        limit: usize,
        bytes: &[u8],
    ) -> Result<(usize, bool), Malformed> {
        let (mut line, mut cr) = (0, false);
        for (index, byte) in bytes.iter().enumerate() {
            if index >= limit {
                return Err(Malformed::TooLong);
            }
            match (byte, cr) {
                (b'\n', true) if line == 0 || unit_kind == UnitKind::Line => {
                    return Ok((index + 1, true));
                }
                (b'\n', true) => (line, cr) = (0, false),
                (_, true) | (b'\n' | 0, false) => return Err(Malformed::Invalid),
                (b'\r', false) => cr = true,
                (_, false) if unit_kind == UnitKind::LineEnd => return Err(Malformed::Invalid),
                (_, false) => line += 1,
            }
        }
        Ok((bytes.len(), false))
    }

    proptest! {
        #[test]
        fn scanning_by_lines_gives_the_same_result_as_byte_by_byte(
            bytes in "([a-c]{0,30}(\r\n|\n|\r|\0)?){0,4}", limit in 0usize..60,
        ) {
            for unit_kind in [UnitKind::LineEnd, UnitKind::Line, UnitKind::Section] {
                let scanned = Scanner::default().scan(unit_kind, limit, bytes.as_bytes());
                prop_assert_eq!(scanned, byte_by_byte(unit_kind, limit, bytes.as_bytes()));
            }
        }

        #[test]
        fn scanning_in_two_parts_gives_the_same_result(bytes in "[a\r\n]{0,40}", cut in 0usize..40) {
            let (bytes, cut) = (bytes.as_bytes(), cut.min(bytes.len()));
            for unit_kind in [UnitKind::LineEnd, UnitKind::Line, UnitKind::Section] {
                let mut scanner = Scanner::default();
                let in_two_parts = match scanner.scan(unit_kind, 100, &bytes[..cut]) {
                    Ok((_, false)) => {
                        scanner.scan(unit_kind, 100, &bytes[cut..]).map(|(n, end)| (n + cut, end))
                    }
                    done => done,
                };
                prop_assert_eq!(in_two_parts, scan(unit_kind, bytes));
            }
        }
    }
}
