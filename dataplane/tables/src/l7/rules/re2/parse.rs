//! The parser of patterns: groups, flags, alternatives and repetitions.

use regex_syntax::hir::Look;

use super::code_points::{CodePoints, MAX};
use super::cursor::{Cursor, PatternError};
use super::escape::{self, Case};
use super::node::{self, Item, Node};
use super::{class, unicode};

/// Largest count of a repetition, and of nested ones multiplied (`re2/parse.cc`,
/// `maximum_repeat_count` and `RepetitionWalker`).
const REPEAT_MAX: u32 = 1000;
/// Most digits of a count. With more of them a brace is a character.
const COUNT_DIGITS_MAX: usize = 9;

const REPEAT_SIZE: &str = "invalid repetition size";
const PERL_OPERATOR: &str = "invalid perl operator";
const GROUP_NAME: &str = "invalid named capture group";

pub(super) fn parse(pattern: &str) -> Result<Node, PatternError> {
    let mut parser = Parser {
        cursor: Cursor::new(pattern),
        flags: Flags { case: Case::Sensitive, multi_line: false, dot_is_any: false },
        group: Group::default(),
        outer: Vec::new(),
        repetition: None,
    };
    while let Some(next) = parser.cursor.peek() {
        parser.token(next)?;
    }
    if !parser.outer.is_empty() {
        return Err(parser.cursor.error("missing )", 0));
    }
    Ok(parser.group.finish()?.node)
}

#[derive(Clone, Copy)]
struct Flags {
    case: Case,
    /// `^` and `$` match at lines' ends, too.
    multi_line: bool,
    /// `.` matches a line feed, too.
    dot_is_any: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum GroupKind {
    Capturing,
    #[default]
    Plain,
}

/// A group that is not closed yet, or the whole pattern.
#[derive(Default)]
struct Group {
    kind: GroupKind,
    /// The alternatives before the current one.
    alternatives: Vec<Item>,
    /// The parts of the current alternative.
    parts: Vec<Item>,
}

impl Group {
    fn end_alternative(&mut self) -> Result<(), PatternError> {
        let parts = std::mem::take(&mut self.parts);
        self.alternatives.push(node::concat(parts)?);
        Ok(())
    }

    fn finish(mut self) -> Result<Item, PatternError> {
        self.end_alternative()?;
        let item = node::alternate(self.alternatives)?;
        match self.kind {
            GroupKind::Capturing => item.capture(),
            GroupKind::Plain => Ok(item),
        }
    }
}

struct Parser<'a> {
    cursor: Cursor<'a>,
    flags: Flags,
    /// The innermost group.
    group: Group,
    /// The groups around it, with the flags that are in force after them, outermost first.
    outer: Vec<(Group, Flags)>,
    /// Where the repetition before the next token begins, if the last token was one.
    repetition: Option<usize>,
}

impl Parser<'_> {
    fn token(&mut self, next: char) -> Result<(), PatternError> {
        let from = self.cursor.offset();
        let previous = self.repetition.take();
        match next {
            '*' | '+' | '?' | '{' => {
                if let Some((min, max)) = self.counts() {
                    self.repetition = Some(from);
                    return self.repeat(from, previous, min, max);
                }
                self.cursor.next();
                self.literal('{'.into());
            }
            '(' => self.open(from)?,
            ')' => self.close(from)?,
            '[' => {
                let points = class::parse(&mut self.cursor, self.flags.case)?;
                self.class(points);
            }
            '\\' => self.escape()?,
            _ => {
                self.cursor.next();
                match next {
                    '|' => self.group.end_alternative()?,
                    '^' if self.flags.multi_line => self.push(Node::Look(Look::StartLF)),
                    '^' => self.push(Node::Look(Look::Start)),
                    '$' if self.flags.multi_line => self.push(Node::Look(Look::EndLF)),
                    '$' => self.push(Node::Look(Look::End)),
                    '.' if self.flags.dot_is_any => self.class(CodePoints::new([(0, MAX)])),
                    '.' => {
                        let line_feed = u32::from('\n');
                        self.class(CodePoints::new([(line_feed, line_feed)]).complement());
                    }
                    _ => self.literal(next.into()),
                }
            }
        }
        Ok(())
    }

    fn push(&mut self, node: Node) {
        self.group.parts.push(Item::leaf(node));
    }

    fn literal(&mut self, point: u32) {
        if self.flags.case == Case::Sensitive {
            return self.push(Node::Literal(point));
        }
        let mut points = CodePoints::new([(point, point)]);
        unicode::fold_case(&mut points);
        self.class(points);
    }

    fn class(&mut self, points: CodePoints) {
        self.push(match points.ranges() {
            [(first, last)] if first == last => Node::Literal(*first),
            _ => Node::Class(points),
        });
    }

    /// Reads `*`, `+`, `?`, `{n}`, `{n,}` or `{n,m}`. Consumes nothing if a brace begins none.
    fn counts(&mut self) -> Option<(u32, Option<u32>)> {
        let mut cursor = self.cursor;
        let counts = match cursor.next()? {
            '*' => (0, None),
            '+' => (1, None),
            '?' => (0, Some(1)),
            _ => {
                let min = count(&mut cursor)?;
                let max = match cursor.take(",") {
                    true if cursor.rest().starts_with('}') => None,
                    true => Some(count(&mut cursor)?),
                    false => Some(min),
                };
                cursor.take("}").then_some((min, max))?
            }
        };
        self.cursor = cursor;
        Some(counts)
    }

    /// Repeats the last part. The repetition begins at `from`; its counts are consumed.
    fn repeat(
        &mut self,
        from: usize,
        previous: Option<usize>,
        min: u32,
        max: Option<u32>,
    ) -> Result<(), PatternError> {
        // Not greedy.
        self.cursor.take("?");
        if let Some(previous) = previous {
            return Err(self.cursor.error("bad repetition operator", previous));
        }
        let size_error = || self.cursor.error(REPEAT_SIZE, from);
        if min > REPEAT_MAX || max.is_some_and(|max| max < min || max > REPEAT_MAX) {
            return Err(size_error());
        }
        let Some(part) = self.group.parts.pop() else {
            return Err(self.cursor.error("no argument for repetition operator", from));
        };
        if part.copies(min, max) > REPEAT_MAX {
            return Err(size_error());
        }
        self.group.parts.push(part.repeat(min, max)?);
        Ok(())
    }

    /// Reads what begins with an opening parenthesis at `from`: a group, or flags.
    fn open(&mut self, from: usize) -> Result<(), PatternError> {
        self.cursor.take("(");
        if !self.cursor.take("?") {
            self.open_group(GroupKind::Capturing, self.flags);
            return Ok(());
        }
        let is_look_behind = ["<=", "<!"].iter().any(|sign| self.cursor.rest().starts_with(sign));
        if !is_look_behind && (self.cursor.take("P<") || self.cursor.take("<")) {
            let name = self.cursor.take_until(">");
            let name = name.ok_or_else(|| self.cursor.error_to_end(GROUP_NAME, from))?;
            if !unicode::is_group_name(name) {
                return Err(self.cursor.error(GROUP_NAME, from));
            }
            self.open_group(GroupKind::Capturing, self.flags);
            return Ok(());
        }
        self.flags(from)
    }

    fn open_group(&mut self, kind: GroupKind, flags: Flags) {
        let outer = std::mem::replace(&mut self.group, Group { kind, ..Group::default() });
        self.outer.push((outer, self.flags));
        self.flags = flags;
    }

    /// Reads flags, for the rest of the group or for a new group.
    fn flags(&mut self, from: usize) -> Result<(), PatternError> {
        let mut flags = self.flags;
        let mut is_set = true;
        let mut has_flags = false;
        while let Some(flag) = self.cursor.next() {
            match flag {
                'i' if is_set => flags.case = Case::Ignored,
                'i' => flags.case = Case::Sensitive,
                'm' => flags.multi_line = is_set,
                's' => flags.dot_is_any = is_set,
                // Which of `*` and `*?` is greedy.
                'U' => {}
                '-' if is_set => {
                    is_set = false;
                    has_flags = false;
                    continue;
                }
                ':' | ')' if is_set || has_flags => {
                    match flag {
                        ':' => self.open_group(GroupKind::Plain, flags),
                        _ => self.flags = flags,
                    }
                    return Ok(());
                }
                _ => break,
            }
            has_flags = true;
        }
        Err(self.cursor.error(PERL_OPERATOR, from))
    }

    fn close(&mut self, from: usize) -> Result<(), PatternError> {
        self.cursor.take(")");
        let Some((outer, flags)) = self.outer.pop() else {
            return Err(self.cursor.error("unexpected )", from));
        };
        let group = std::mem::replace(&mut self.group, outer);
        self.flags = flags;
        self.group.parts.push(group.finish()?);
        Ok(())
    }

    /// Reads what begins with a backslash.
    fn escape(&mut self) -> Result<(), PatternError> {
        let looks = [
            (r"\b", Look::WordAscii),
            (r"\B", Look::WordAsciiNegate),
            (r"\A", Look::Start),
            (r"\z", Look::End),
        ];
        for (sign, look) in looks {
            if self.cursor.take(sign) {
                self.push(Node::Look(look));
                return Ok(());
            }
        }
        if self.cursor.take(r"\C") {
            self.push(Node::AnyByte);
        } else if self.cursor.take(r"\Q") {
            // Up to the end of the pattern, if nothing ends it.
            while !self.cursor.take(r"\E") {
                let Some(next) = self.cursor.next() else { break };
                self.literal(next.into());
            }
        } else if let Some(points) = escape::unicode_class(&mut self.cursor, self.flags.case)? {
            self.class(points);
        } else if let Some(points) = escape::perl_class(&mut self.cursor, self.flags.case) {
            self.class(points);
        } else {
            let point = escape::code_point(&mut self.cursor)?;
            self.literal(point);
        }
        Ok(())
    }
}

/// Reads a decimal number without a leading zero.
fn count(cursor: &mut Cursor<'_>) -> Option<u32> {
    let rest = cursor.rest();
    let length = rest.bytes().take_while(u8::is_ascii_digit).count();
    let digits = &rest[..length];
    if length > COUNT_DIGITS_MAX || (length > 1 && digits.starts_with('0')) {
        return None;
    }
    let number = digits.parse().ok()?;
    cursor.take(digits);
    Some(number)
}
