//! What is in brackets.

use super::code_points::CodePoints;
use super::cursor::{Cursor, PatternError};
use super::escape::{self, Case, Negation};

const RANGE: &str = "invalid character class range";
const BRACKET: &str = "missing ]";

/// Reads a class, which begins with a bracket.
pub(super) fn parse(cursor: &mut Cursor<'_>, case: Case) -> Result<CodePoints, PatternError> {
    let from = cursor.offset();
    cursor.take("[");
    let is_negated = cursor.take("^");
    let mut ranges = Vec::new();
    let mut is_first = true;
    // A bracket that comes first is a character.
    while is_first || !cursor.take("]") {
        is_first = false;
        if cursor.is_at_end() {
            return Err(cursor.error(BRACKET, from));
        }
        let named = match posix_class(cursor, case)? {
            Some(named) => Some(named),
            None => escape::unicode_class(cursor, case)?,
        };
        match named.or_else(|| escape::perl_class(cursor, case)) {
            Some(named) => ranges.extend_from_slice(named.ranges()),
            None => ranges.push(range(cursor, from)?),
        }
    }
    let points = CodePoints::new(ranges);
    Ok(escape::group(points, Negation::negated_if(is_negated), case))
}

/// Reads a code point, or a range of them.
fn range(cursor: &mut Cursor<'_>, class: usize) -> Result<(u32, u32), PatternError> {
    let from = cursor.offset();
    let first = code_point(cursor, class)?;
    // A hyphen before the closing bracket is a character.
    let is_range = cursor.rest().strip_prefix('-').is_some_and(|rest| !rest.starts_with(']'));
    if !is_range || !cursor.take("-") {
        return Ok((first, first));
    }
    let last = code_point(cursor, class)?;
    if last < first {
        return Err(cursor.error(RANGE, from));
    }
    Ok((first, last))
}

fn code_point(cursor: &mut Cursor<'_>, class: usize) -> Result<u32, PatternError> {
    match cursor.peek() {
        Some('\\') => escape::code_point(cursor),
        Some(_) => Ok(cursor.next().map_or(0, u32::from)),
        None => Err(cursor.error(BRACKET, class)),
    }
}

/// Reads `[:name:]` or `[:^name:]`, if one of them is next. Without `:]` it is not a class name,
/// and its bracket is a character.
fn posix_class(cursor: &mut Cursor<'_>, case: Case) -> Result<Option<CodePoints>, PatternError> {
    let from = cursor.offset();
    if !cursor.rest().strip_prefix("[:").is_some_and(|rest| rest.contains(":]")) {
        return Ok(None);
    }
    cursor.take("[:");
    let name = cursor.take_until(":]").unwrap_or_default();
    let (name, is_negated) = name.strip_prefix('^').map_or((name, false), |name| (name, true));
    let ranges: &[(u8, u8)] = match name {
        "alnum" => &[(b'0', b'9'), (b'A', b'Z'), (b'a', b'z')],
        "alpha" => &[(b'A', b'Z'), (b'a', b'z')],
        "ascii" => &[(0, 0x7f)],
        "blank" => &[(b'\t', b'\t'), (b' ', b' ')],
        "cntrl" => &[(0, 0x1f), (0x7f, 0x7f)],
        "digit" => &[(b'0', b'9')],
        "graph" => &[(b'!', b'~')],
        "lower" => &[(b'a', b'z')],
        "print" => &[(b' ', b'~')],
        "punct" => &[(b'!', b'/'), (b':', b'@'), (b'[', b'`'), (b'{', b'~')],
        "space" => &[(b'\t', b'\r'), (b' ', b' ')],
        "upper" => &[(b'A', b'Z')],
        "word" => &[(b'0', b'9'), (b'A', b'Z'), (b'_', b'_'), (b'a', b'z')],
        "xdigit" => &[(b'0', b'9'), (b'A', b'F'), (b'a', b'f')],
        _ => return Err(cursor.error(RANGE, from)),
    };
    let ranges = ranges.iter().map(|(first, last)| (u32::from(*first), u32::from(*last)));
    let negation = Negation::negated_if(is_negated);
    Ok(Some(escape::group(CodePoints::new(ranges), negation, case)))
}
