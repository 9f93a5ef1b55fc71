//! Finding where a unit ends, as its bytes come in, and refusing what no unit may contain.

/// What ends a unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    /// A line end, with nothing before it.
    LineEnd,
    /// The first line end.
    Line,
    /// An empty line.
    Section,
}

impl Shape {
    /// Longest unit of the shape, bytes.
    ///
    /// Lines are chunk sizes, and long extensions of those serve attacks only. Sections: nginx
    /// takes heads up to 32 KiB, Apache lines up to 8 KiB, Go 1 MiB, Node and Tomcat 16 and 8 KiB
    /// in all; 16 KiB lets pass what most servers take and bounds what a flow may make us keep.
    const fn limit(self) -> usize {
        match self {
            Self::LineEnd => 2,
            Self::Line => 256,
            Self::Section => 16 * 1024,
        }
    }
}

/// Bytes that no reading allows, or too many of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed;

/// How far into a unit its bytes have come.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scanner {
    /// Bytes of the unit.
    len: usize,
    /// Bytes of its current line.
    line: usize,
    /// The last byte was CR.
    cr: bool,
}

impl Scanner {
    /// Whether no byte of the unit has come yet.
    #[inline]
    pub const fn is_at_start(&self) -> bool {
        self.len == 0
    }

    /// Takes bytes up to the end of the unit. Returns how many, and whether the unit ended; then
    /// the scanner is ready for the next one.
    ///
    /// Lines end with CR LF and neither byte stands anywhere else (RFC 9112 §2.2 lets a recipient
    /// take a bare LF, and that is where readings part). NUL is refused wherever it stands.
    #[inline]
    pub fn scan(&mut self, shape: Shape, bytes: &[u8]) -> Result<(usize, bool), Malformed> {
        for (index, byte) in bytes.iter().enumerate() {
            if self.len == shape.limit() {
                return Err(Malformed);
            }
            self.len += 1;
            match (byte, self.cr) {
                (b'\n', true) => {
                    if self.line == 0 || shape == Shape::Line {
                        *self = Self::default();
                        return Ok((index + 1, true));
                    }
                    (self.line, self.cr) = (0, false);
                }
                (_, true) | (b'\n' | 0, false) => return Err(Malformed),
                (b'\r', false) => self.cr = true,
                (_, false) if shape == Shape::LineEnd => return Err(Malformed),
                (_, false) => self.line += 1,
            }
        }
        Ok((bytes.len(), false))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scan(shape: Shape, bytes: &[u8]) -> Result<(usize, bool), Malformed> {
        Scanner::default().scan(shape, bytes)
    }

    #[test]
    fn units_end_where_their_shape_says() {
        assert_eq!(scan(Shape::LineEnd, b"\r\n\r\n"), Ok((2, true)));
        assert_eq!(scan(Shape::Line, b"5\r\nhello"), Ok((3, true)));
        assert_eq!(scan(Shape::Section, b"A: b\r\nC: d\r\n\r\nmore"), Ok((14, true)));
        assert_eq!(scan(Shape::Section, b"\r\nGET"), Ok((2, true)));
        assert_eq!(scan(Shape::Section, b"A: b\r\nC: d\r\n\r"), Ok((13, false)));
    }

    #[test]
    fn bare_line_ends_and_nul_are_refused_wherever_they_stand() {
        for bytes in [&b"a\nb"[..], b"a\rb", b"\n", b"a\r\r\n", b"a\0b", b"a\r\n\n", b"a\r\0"] {
            assert_eq!(scan(Shape::Section, bytes), Err(Malformed), "{}", bytes.escape_ascii());
        }
        assert_eq!(scan(Shape::LineEnd, b"0"), Err(Malformed));
    }

    #[test]
    fn a_unit_is_bounded() {
        let mut long = vec![b'a'; Shape::Section.limit() - 4];
        long.extend(b"\r\n\r\n");
        assert_eq!(scan(Shape::Section, &long), Ok((long.len(), true)));
        long.insert(0, b'a');
        assert_eq!(scan(Shape::Section, &long), Err(Malformed));
    }

    proptest! {
        #[test]
        fn a_cut_changes_nothing(bytes in "[a\r\n]{0,40}", cut in 0usize..40) {
            let (bytes, cut) = (bytes.as_bytes(), cut.min(bytes.len()));
            for shape in [Shape::LineEnd, Shape::Line, Shape::Section] {
                let mut scanner = Scanner::default();
                let in_two = match scanner.scan(shape, &bytes[..cut]) {
                    Ok((_, false)) => {
                        scanner.scan(shape, &bytes[cut..]).map(|(n, end)| (n + cut, end))
                    }
                    done => done,
                };
                prop_assert_eq!(in_two, scan(shape, bytes));
            }
        }
    }
}
