//! Rejects patterns that RE2 and regex-syntax parse differently.
//!
//! Cilium's HTTP rules are RE2 (<https://github.com/google/re2/wiki/Syntax>, `re2/parse.cc`); the
//! parser here is regex-syntax. Most of their syntax is the same. Where it differs, a pattern would
//! silently match something else: `[^/&&admin]` is a negated set of characters in RE2, and an
//! intersection of two classes in regex-syntax. A pattern is therefore scanned first, and syntax
//! that differs, or that only one of them has, is rejected by name. Syntax that regex-syntax
//! rejects is left to it.
//!
//! RE2 matches UTF-8: `.` and negated classes match a character, and a value that is not UTF-8
//! matches nothing. [`by_character`] converts classes of bytes accordingly. With `(?i)` only ASCII
//! letters match both cases; RE2 also matches U+212A with `k` and U+017F with `s`, so it may match
//! more.

use regex_syntax::hir::{Class, ClassBytes, ClassBytesRange, ClassUnicode, ClassUnicodeRange};
use regex_syntax::hir::{Hir, HirKind, Repetition};

/// Largest count of a repetition, and of nested ones multiplied (`re2/parse.cc`,
/// `maximum_repeat_count` and `RepetitionWalker`).
const REPEAT_MAX: u32 = 1000;

/// Names of POSIX classes, which are the same in both.
const POSIX: [&str; 14] = [
    "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct",
    "space", "upper", "word", "xdigit",
];

/// Result of the scan of a pattern.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Scanned {
    /// A part of the pattern is case-insensitive.
    pub(super) folds_case: bool,
}

/// Scans a pattern.
///
/// # Errors
/// The syntax that differs in RE2, and what to write instead.
pub(super) fn scan(pattern: &str) -> Result<Scanned, String> {
    let mut scanner = Scanner { rest: pattern.as_bytes(), ..Scanner::default() };
    while let Some(byte) = scanner.next() {
        scanner.token(byte)?;
    }
    Ok(Scanned { folds_case: scanner.folds_case })
}

#[derive(Default)]
struct Scanner<'a> {
    rest: &'a [u8],
    folds_case: bool,
    /// Largest product of nested repetition counts in the current group so far.
    counts: u32,
    /// The same for the enclosing groups, outermost first.
    outer: Vec<u32>,
    /// The same for the last item, which a repetition would apply to.
    item: u32,
    /// The last token was a repetition.
    repeated: bool,
}

impl Scanner<'_> {
    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    /// Consumes `bytes` if they are next.
    fn take(&mut self, bytes: &[u8]) -> bool {
        self.rest.strip_prefix(bytes).inspect(|rest| self.rest = rest).is_some()
    }

    fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    /// Scans a token that begins with `byte`.
    fn token(&mut self, byte: u8) -> Result<(), String> {
        let count = match byte {
            b'*' | b'+' | b'?' => Some(1),
            b'{' => Some(self.counted()?),
            _ => None,
        };
        if let Some(count) = count {
            return self.repeat(count);
        }
        self.repeated = false;
        self.item = 1;
        match byte {
            b'\\' => self.escape()?,
            b'[' => self.class()?,
            b'(' => {
                self.group()?;
                self.outer.push(std::mem::replace(&mut self.counts, 1));
            }
            b')' => {
                // The parser rejects one without an opening parenthesis.
                self.item = self.counts.max(1);
                self.counts = self.outer.pop().unwrap_or(1).max(self.item);
            }
            _ => {}
        }
        Ok(())
    }

    /// A repetition of the last item, up to `count` times.
    fn repeat(&mut self, count: u32) -> Result<(), String> {
        if self.repeated {
            return Err(
                "two repetitions in a row are an error in RE2; put the first one in a group".into(),
            );
        }
        self.take(b"?");
        self.repeated = true;
        let product = self.item.max(1).saturating_mul(count.max(1));
        if product > REPEAT_MAX {
            return Err(format!(
                "repetitions of more than {REPEAT_MAX}, or nested ones of more than that together, \
                 are an error in RE2"
            ));
        }
        self.item = product;
        self.counts = self.counts.max(product);
        Ok(())
    }

    /// Scans `n}`, `n,}` or `n,m}`. Returns the larger number.
    fn counted(&mut self) -> Result<u32, String> {
        let mut counted = || {
            let least = self.number()?;
            let most = match self.take(b",") {
                true if self.peek() != Some(b'}') => self.number()?,
                _ => least,
            };
            self.take(b"}").then_some(least.max(most))
        };
        counted().ok_or_else(|| {
            r"a brace that begins no repetition is a character in RE2: write \{ for it".into()
        })
    }

    /// Scans digits without a leading zero.
    fn number(&mut self) -> Option<u32> {
        let len = self.rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (digits, rest) = self.rest.split_at(len);
        if digits.len() > 1 && digits[0] == b'0' {
            return None;
        }
        self.rest = rest;
        let digits = std::str::from_utf8(digits).ok().filter(|digits| !digits.is_empty())?;
        Some(digits.parse().unwrap_or(u32::MAX))
    }

    /// Scans what follows an opening parenthesis: a name or flags, if there are any.
    fn group(&mut self) -> Result<(), String> {
        if !self.take(b"?") {
            return Ok(());
        }
        if self.take(b"P<") || self.take(b"<") {
            let name = self.rest.split(|byte| *byte == b'>').next().unwrap_or_default();
            let plain = name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
            self.rest = &self.rest[name.len()..];
            return plain.then_some(()).ok_or_else(|| {
                "the name of a group has letters, digits and underscores only".into()
            });
        }
        while let Some(flag) = self.peek().filter(|byte| !matches!(byte, b':' | b')')) {
            match flag {
                b'i' => self.folds_case = true,
                b'm' | b's' | b'U' | b'-' => {}
                flag if flag.is_ascii_alphabetic() => {
                    let flag = char::from(flag);
                    return Err(format!("RE2 has no flag `{flag}`; it has i, m, s and U"));
                }
                // The parser rejects it.
                _ => break,
            }
            self.next();
        }
        Ok(())
    }

    /// Scans what follows a backslash outside of a class.
    fn escape(&mut self) -> Result<(), String> {
        match self.peek() {
            Some(assertion @ (b'b' | b'B' | b'A' | b'z')) => {
                self.next();
                if self.peek() == Some(b'{') {
                    let assertion = char::from(assertion);
                    return Err(format!(r"`\{assertion}{{` has another meaning in RE2: write \{{"));
                }
                Ok(())
            }
            Some(bracket @ (b'<' | b'>')) => {
                let bracket = char::from(bracket);
                Err(format!(
                    r"`\{bracket}` is a character in RE2 and not an end of a word: write \b, or {bracket} for the character"
                ))
            }
            _ => self.escaped_character(),
        }
    }

    /// Scans what follows a backslash, if it is an escaped character or a class.
    fn escaped_character(&mut self) -> Result<(), String> {
        match self.next() {
            Some(b'x') => self.hexadecimal(),
            Some(b'd' | b'D' | b's' | b'S' | b'w' | b'W') => Ok(()),
            Some(b'a' | b'f' | b'n' | b'r' | b't' | b'v') => Ok(()),
            Some(other) if other.is_ascii_alphanumeric() => {
                let other = char::from(other);
                Err(format!(r"`\{other}` is not supported, or means something else in RE2"))
            }
            _ => Ok(()),
        }
    }

    /// Scans `hh` or `{h…}`, which must be an ASCII character.
    fn hexadecimal(&mut self) -> Result<(), String> {
        let braced = self.take(b"{");
        let digits = self.rest.iter().take_while(|byte| byte.is_ascii_hexdigit());
        let len = digits.take(if braced { 6 } else { 2 }).count();
        let (digits, rest) = self.rest.split_at(len);
        self.rest = rest;
        let value = std::str::from_utf8(digits).ok().and_then(|d| u32::from_str_radix(d, 16).ok());
        let whole = if braced { self.take(b"}") } else { len == 2 };
        match value {
            Some(0..=0x7f) if whole => Ok(()),
            _ => Err(r"`\x` must be an ASCII character here: \x00 to \x7f".into()),
        }
    }

    /// Scans what follows an opening bracket, up to the closing one.
    fn class(&mut self) -> Result<(), String> {
        const LEFT_TO_THE_PARSER: Result<(), String> = Ok(());
        self.take(b"^");
        if self.take(b"]") && self.peek() == Some(b'-') && !self.rest.starts_with(b"-]") {
            return Err(r"a range that begins with `]` is ambiguous: write \]".into());
        }
        loop {
            let Some(byte) = self.next() else { return LEFT_TO_THE_PARSER };
            match byte {
                b']' => return Ok(()),
                b'\\' => self.escaped_character()?,
                b'[' => self.posix()?,
                b'-' if self.peek() == Some(b'[') => {
                    return Err(r"`-[` in brackets is ambiguous: write \[".into());
                }
                b'&' | b'-' | b'~' if self.peek() == Some(byte) => {
                    let sign = char::from(byte);
                    return Err(format!(
                        r"`{sign}{sign}` in brackets is two characters in RE2 and not an operator: write \{sign} once"
                    ));
                }
                0x80.. => {
                    return Err("a character beyond ASCII is not supported in brackets".into());
                }
                _ => {}
            }
        }
    }

    /// Scans what follows an opening bracket within a class.
    fn posix(&mut self) -> Result<(), String> {
        let name = self.rest.strip_prefix(b":").map(|name| name.strip_prefix(b"^").unwrap_or(name));
        let rest = name.and_then(|name| {
            POSIX.iter().find_map(|known| name.strip_prefix(known.as_bytes())?.strip_prefix(b":]"))
        });
        self.rest = rest
            .ok_or(r"`[` in brackets is a character in RE2 and does not begin a class: write \[")?;
        Ok(())
    }
}

/// Converts each class that has bytes beyond ASCII so that it matches whole UTF-8 characters
/// instead. Values must be UTF-8. Captures are removed.
pub(super) fn by_character(hir: Hir, scanned: Scanned) -> Hir {
    let each = |hirs: Vec<Hir>| hirs.into_iter().map(|hir| by_character(hir, scanned)).collect();
    match hir.into_kind() {
        HirKind::Empty => Hir::empty(),
        HirKind::Literal(literal) => Hir::literal(literal.0),
        HirKind::Look(look) => Hir::look(look),
        HirKind::Class(Class::Bytes(class)) => class_by_character(class, scanned),
        HirKind::Class(class) => Hir::class(class),
        HirKind::Repetition(repetition) => {
            let sub = Box::new(by_character(*repetition.sub, scanned));
            Hir::repetition(Repetition { sub, ..repetition })
        }
        HirKind::Capture(capture) => by_character(*capture.sub, scanned),
        HirKind::Concat(hirs) => Hir::concat(each(hirs)),
        HirKind::Alternation(hirs) => Hir::alternation(each(hirs)),
    }
}

fn class_by_character(class: ClassBytes, scanned: Scanned) -> Hir {
    let has = |byte| class.ranges().iter().any(|r| r.start() <= byte && byte <= r.end());
    if !has(0xff) {
        return Hir::class(Class::Bytes(class));
    }
    let below = class.ranges().iter().filter(|range| range.start() < 0x80);
    let below = below.map(|range| (range.start(), range.end().min(0x7f)));
    // Characters beyond ASCII that RE2 folds with an ASCII letter: excluded with that letter.
    let other_cases = [('k', '\u{212a}'), ('s', '\u{17f}')];
    let excluded = other_cases.iter().filter(|(ascii, _)| scanned.folds_case && !has(*ascii as u8));
    let excluded: Vec<_> = excluded.map(|(_, c)| ClassUnicodeRange::new(*c, *c)).collect();
    if !excluded.is_empty() {
        let mut beyond = ClassUnicode::new([ClassUnicodeRange::new('\u{80}', char::MAX)]);
        beyond.difference(&ClassUnicode::new(excluded));
        let below = below.map(|(a, b)| ClassUnicodeRange::new(char::from(a), char::from(b)));
        beyond.union(&ClassUnicode::new(below));
        return Hir::class(Class::Unicode(beyond));
    }
    let bytes = |ranges: &[(u8, u8)]| {
        let ranges = ranges.iter().map(|(a, b)| ClassBytesRange::new(*a, *b));
        Hir::class(Class::Bytes(ClassBytes::new(ranges)))
    };
    // No UTF-8 character begins with a continuation byte, so all that follow belong to this one.
    let more =
        Repetition { min: 0, max: None, greedy: true, sub: Box::new(bytes(&[(0x80, 0xbf)])) };
    let beyond = Hir::concat(vec![bytes(&[(0xc0, 0xff)]), Hir::repetition(more)]);
    Hir::alternation(vec![bytes(&below.collect::<Vec<_>>()), beyond])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syntax_that_is_the_same_is_accepted() {
        for pattern in [
            "",
            "/docs(/.*)?",
            r"/v[0-9]+\.[0-9]+",
            "GET|HEAD",
            "(?i)get",
            "(?i:a)b",
            "(?P<name>a)",
            "(?<name>a)",
            "(?s-i).",
            "a{2}b{3,}c{4,5}?",
            "a*?b+?c??",
            "(a{10}){100}",
            "[]a]",
            "[^]a]",
            "[-a]",
            "[a-]",
            "[]-]",
            r"[a\-z\]\[&~]",
            "[[:alpha:]_]",
            "[[:^digit:]]",
            r"[\d\w\s]",
            r"\x41\x{7f}",
            r"\bx\B",
            r"\Aa\z",
            r"\/\&\{\}\_",
            "a}b]",
            "é",
            "^a$",
            "(a*)*",
            "()",
            "a||b",
        ] {
            assert!(scan(pattern).is_ok(), "{pattern}: {:?}", scan(pattern));
        }
    }

    #[test]
    fn syntax_that_differs_is_rejected_by_name() {
        for (pattern, named) in [
            ("/user/[^/&&admin]+", "`&&`"),
            ("[a--b]", "`--`"),
            ("[--b]", "`--`"),
            ("[a~~b]", "`~~`"),
            ("[a[b]]", "`[`"),
            ("[[]", "`[`"),
            ("[[:foo:]]", "`[`"),
            ("[A-[:digit:]&b]", "`-[`"),
            ("[]-a]", "`]`"),
            ("[é]", "ASCII"),
            (r"\<a", r"`\<`"),
            (r"a\>", r"`\>`"),
            (r"\b{start}a", r"`\b{`"),
            (r"\b{2}", r"`\b{`"),
            ("(?x)a b", "`x`"),
            ("(?ix:a b)", "`x`"),
            ("(?u)a", "`u`"),
            ("(?R)a", "`R`"),
            ("(?P<a.b>c)", "name"),
            (r"\u0041", r"`\u`"),
            (r"\U00000041", r"`\U`"),
            (r"[\u0041]", r"`\u`"),
            (r"\pL", r"`\p`"),
            (r"\p{Greek}", r"`\p`"),
            (r"\Qa+\E", r"`\Q`"),
            (r"\C", r"`\C`"),
            (r"\1", r"`\1`"),
            (r"[\b]", r"`\b`"),
            (r"\xff", r"`\x`"),
            (r"\x{100}", r"`\x`"),
            (r"[\x80-\xff]", r"`\x`"),
            (r"\x4", r"`\x`"),
            ("a**", "two repetitions"),
            ("a+*", "two repetitions"),
            ("a???", "two repetitions"),
            ("a{2}{3}", "two repetitions"),
            ("a{2}*", "two repetitions"),
            ("a{,3}", r"\{"),
            ("a{ 2 }", r"\{"),
            ("a{01}", r"\{"),
            ("a{x}", r"\{"),
            ("a{", r"\{"),
            ("a{1001}", "1000"),
            ("a{2,1001}", "1000"),
            ("(a{11}){100}", "1000"),
            ("((a{10})b){10}c|(d(e{10}|f{11})){99}", "1000"),
        ] {
            let reason = scan(pattern).expect_err(pattern);
            assert!(reason.contains(named), "{pattern}: {reason}");
        }
    }
}
