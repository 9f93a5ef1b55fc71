//! What follows a backslash.

use super::code_points::{CodePoints, MAX};
use super::cursor::{Cursor, PatternError};
use super::unicode;

const ESCAPE: &str = "invalid escape sequence";
const RANGE: &str = "invalid character class range";

/// Whether classes that a name stands for match other cases, too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Case {
    Sensitive,
    Ignored,
}

/// Whether a class stands for its characters or for all others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Negation {
    Plain,
    Negated,
}

impl Negation {
    pub(super) const fn negated_if(is_negated: bool) -> Self {
        if is_negated { Self::Negated } else { Self::Plain }
    }
}

/// A class that has a name, or its complement.
pub(super) fn group(mut points: CodePoints, negation: Negation, case: Case) -> CodePoints {
    if case == Case::Ignored {
        unicode::fold_case(&mut points);
    }
    match negation {
        Negation::Plain => points,
        Negation::Negated => points.complement(),
    }
}

/// Reads `\d`, `\s` or `\w`, or the negated ones, if one of them is next.
pub(super) fn perl_class(cursor: &mut Cursor<'_>, case: Case) -> Option<CodePoints> {
    let name = cursor.rest().strip_prefix('\\')?.chars().next()?;
    let ascii = |ranges: &[(char, char)]| {
        CodePoints::new(ranges.iter().map(|(first, last)| (*first as u32, *last as u32)))
    };
    let points = match name.to_ascii_lowercase() {
        'd' => ascii(&[('0', '9')]),
        's' => ascii(&[('\t', '\n'), ('\x0c', '\r'), (' ', ' ')]),
        'w' => ascii(&[('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')]),
        _ => return None,
    };
    cursor.next();
    cursor.next();
    Some(group(points, Negation::negated_if(name.is_ascii_uppercase()), case))
}

/// Reads `\pN`, `\p{Name}` or `\p{^Name}`, or the negated ones with `\P`, if one of them is next.
pub(super) fn unicode_class(
    cursor: &mut Cursor<'_>,
    case: Case,
) -> Result<Option<CodePoints>, PatternError> {
    let from = cursor.offset();
    let sign = cursor.rest();
    if !cursor.take(r"\p") && !cursor.take(r"\P") {
        return Ok(None);
    }
    let name = if cursor.take("{") {
        cursor.take_until("}").ok_or_else(|| cursor.error_to_end(RANGE, from))?
    } else {
        let rest = cursor.rest();
        let length = cursor.next().map_or(0, char::len_utf8);
        &rest[..length]
    };
    let (name, is_inverted) = name.strip_prefix('^').map_or((name, false), |name| (name, true));
    let points = unicode::named(name).ok_or_else(|| cursor.error(RANGE, from))?;
    let negation = Negation::negated_if(sign.starts_with(r"\P") != is_inverted);
    Ok(Some(group(points, negation, case)))
}

/// Reads an escaped code point, which begins with a backslash.
pub(super) fn code_point(cursor: &mut Cursor<'_>) -> Result<u32, PatternError> {
    let from = cursor.offset();
    cursor.take("\\");
    let Some(escaped) = cursor.next() else {
        return Err(cursor.error(r"trailing \", from));
    };
    let point = match escaped {
        '0' => Some(octal(cursor, 0)),
        // One digit alone would be a reference to a group, which RE2 does not support.
        '1'..='7' if cursor.rest().starts_with(|c| matches!(c, '0'..='7')) => {
            Some(octal(cursor, u32::from(escaped) - u32::from('0')))
        }
        'x' => hexadecimal(cursor),
        'a' => Some(0x07),
        'f' => Some(0x0c),
        'n' => Some(0x0a),
        'r' => Some(0x0d),
        't' => Some(0x09),
        'v' => Some(0x0b),
        c if c.is_ascii() && !c.is_ascii_alphanumeric() => Some(u32::from(c)),
        _ => None,
    };
    point.ok_or_else(|| cursor.error(ESCAPE, from))
}

/// Reads up to two more octal digits after `first`.
fn octal(cursor: &mut Cursor<'_>, first: u32) -> u32 {
    let mut point = first;
    for _ in 0..2 {
        match cursor.next_if(|c| c.is_digit(8)).and_then(|c| c.to_digit(8)) {
            Some(digit) => point = point * 8 + digit,
            None => break,
        }
    }
    point
}

/// Reads two hexadecimal digits, or any number of them in braces.
fn hexadecimal(cursor: &mut Cursor<'_>) -> Option<u32> {
    if !cursor.take("{") {
        let high = cursor.next()?.to_digit(16)?;
        return Some(high * 16 + cursor.next()?.to_digit(16)?);
    }
    let mut point = cursor.next()?.to_digit(16)?;
    loop {
        if point > MAX {
            return None;
        }
        match cursor.next()? {
            '}' => return Some(point),
            digit => point = point * 16 + digit.to_digit(16)?,
        }
    }
}
