//! A position in a pattern, and errors that name one.

use thiserror::Error;

/// Why a pattern is rejected.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub(in super::super) enum PatternError {
    /// RE2 rejects the pattern, too.
    #[error("not a regular expression of RE2: {cause} at character {at}: `{part}`")]
    Syntax {
        /// What is wrong, in RE2's words (`re2/regexp.cc`, `kErrorStrings`).
        cause: &'static str,
        /// The first character of the part, counted from 1.
        at: usize,
        /// The part of the pattern that is wrong.
        part: String,
    },
    /// RE2 accepts the pattern, and its meaning there can't be expressed here.
    #[error("{0}")]
    Unsupported(String),
}

/// Most characters of a pattern that an error quotes.
const QUOTED_MAX: usize = 60;

/// The unread part of a pattern.
#[derive(Clone, Copy)]
pub(super) struct Cursor<'a> {
    pattern: &'a str,
    /// Offset of the next character, bytes.
    offset: usize,
}

impl<'a> Cursor<'a> {
    pub(super) const fn new(pattern: &'a str) -> Self {
        Self { pattern, offset: 0 }
    }

    pub(super) fn rest(&self) -> &'a str {
        &self.pattern[self.offset..]
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.rest().is_empty()
    }

    /// Offset of the next character, bytes.
    pub(super) const fn offset(&self) -> usize {
        self.offset
    }

    pub(super) fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    pub(super) fn next(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.offset += next.len_utf8();
        Some(next)
    }

    /// Consumes the next character if `wanted` is true of it.
    pub(super) fn next_if(&mut self, wanted: impl Fn(char) -> bool) -> Option<char> {
        self.peek().filter(|next| wanted(*next)).inspect(|next| self.offset += next.len_utf8())
    }

    /// Consumes `text` if it is next.
    pub(super) fn take(&mut self, text: &str) -> bool {
        let found = self.rest().starts_with(text);
        self.offset += if found { text.len() } else { 0 };
        found
    }

    /// Consumes everything up to and including `end`, and returns what is before `end`. Consumes
    /// nothing if there is no `end`.
    pub(super) fn take_until(&mut self, end: &str) -> Option<&'a str> {
        let (before, _) = self.rest().split_once(end)?;
        self.offset += before.len() + end.len();
        Some(before)
    }

    /// An error about the part from offset `from` up to here.
    pub(super) fn error(&self, cause: &'static str, from: usize) -> PatternError {
        let part = self.pattern[from..self.offset].chars().take(QUOTED_MAX).collect();
        PatternError::Syntax { cause, at: self.pattern[..from].chars().count() + 1, part }
    }

    /// An error about the part from offset `from` up to the end of the pattern.
    pub(super) fn error_to_end(&self, cause: &'static str, from: usize) -> PatternError {
        Cursor { offset: self.pattern.len(), ..*self }.error(cause, from)
    }
}
