//! The language of RE2: patterns parsed by RE2's grammar, and translated for regex-automata.
//!
//! Envoy, and so Cilium, gives the patterns of HTTP rules to RE2 with its default options
//! (<https://github.com/google/re2/wiki/Syntax>, `re2/parse.cc`). Each pattern is accepted or
//! rejected as by RE2, and an accepted one matches the same bytes. Three kinds of patterns are
//! rejected although RE2 accepts them: those that are nested too deeply, those that need too many
//! states (`pattern.rs`), and those to which RE2 itself adds a character ([`node::alternate`]).
//!
//! Values are bytes. A character of the pattern stands for its UTF-8 encoding, and RE2's encoder
//! is less strict than UTF-8 is: see [`hir`].
//!
//! - [`mod@parse`] reads the pattern: groups, flags, repetitions.
//! - [`escape`] reads what follows a backslash, [`class`] what is in brackets.
//! - [`node`] is the syntax tree, [`hir`] its translation.
//! - [`code_points`] has sets of characters, [`unicode`] those that have names.

mod class;
mod code_points;
mod cursor;
mod escape;
mod hir;
mod node;
mod parse;
mod unicode;

#[cfg(test)]
mod tests;

use regex_syntax::hir::Hir;

pub(super) use cursor::PatternError;

/// Parses a pattern.
///
/// # Errors
/// What is wrong with the pattern, and where.
pub(super) fn parse(pattern: &str) -> Result<Hir, PatternError> {
    Ok(hir::translate(&parse::parse(pattern)?))
}
