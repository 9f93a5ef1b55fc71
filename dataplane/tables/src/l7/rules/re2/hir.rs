//! The translation of a syntax tree for regex-automata.
//!
//! RE2 matches the bytes of encoded code points (`re2/compile.cc`, `AddRuneRangeUTF8`). That
//! differs from strict UTF-8 in two ways:
//! - Surrogates are encoded like other code points (`ED A0 80` to `ED BF BF`).
//! - A class of all code points from U+0080 on, such as `.` and most negated classes, also matches
//!   overlong encodings of three and four bytes, and code points up to U+13FFFF
//!   (`Add_80_10ffff`).

use regex_syntax::hir::{Class, ClassBytes, ClassBytesRange, ClassUnicode, ClassUnicodeRange};
use regex_syntax::hir::{Hir, Repetition};

use super::code_points::{CodePoints, MAX};
use super::node::Node;

const SURROGATES: (u32, u32) = (0xd800, 0xdfff);
/// First byte of an encoded surrogate.
const SURROGATE_BYTE: u8 = 0xed;
/// Bytes of a character after its first one.
const CONTINUATION: (u8, u8) = (0x80, 0xbf);

pub(super) fn translate(node: &Node) -> Hir {
    match node {
        Node::Empty => Hir::empty(),
        Node::Literal(point) => match char::from_u32(*point) {
            Some(c) => Hir::literal(c.encode_utf8(&mut [0; 4]).as_bytes()),
            None => class(&CodePoints::new([(*point, *point)])),
        },
        Node::Class(points) => class(points),
        Node::AnyByte => bytes(&[(0, 0xff)]),
        Node::Look(look) => Hir::look(*look),
        Node::Capture(node) => translate(node),
        Node::Repeat { node, min, max } => {
            let sub = Box::new(translate(node));
            Hir::repetition(Repetition { min: *min, max: *max, greedy: true, sub })
        }
        Node::Concat(nodes) => Hir::concat(nodes.iter().map(translate).collect()),
        Node::Alternate(nodes) => Hir::alternation(nodes.iter().map(translate).collect()),
    }
}

fn class(points: &CodePoints) -> Hir {
    let ascii = points.ranges().iter().filter(|(first, _)| *first < 0x80);
    let ascii = ascii.map(|(first, last)| (*first as u8, (*last).min(0x7f) as u8));
    let ascii: Vec<_> = ascii.collect();
    if points.has_all_beyond_ascii() {
        return all_beyond_ascii(&ascii);
    }
    match points.ranges().last() {
        Some((_, last)) if *last >= 0x80 => of_characters(points),
        _ => bytes(&ascii),
    }
}

/// The class of `ascii`, and of what RE2 takes for all other code points.
fn all_beyond_ascii(ascii: &[(u8, u8)]) -> Hir {
    let encoded = |first: (u8, u8), continuations: usize| {
        let rest = std::iter::repeat_n(CONTINUATION, continuations);
        Hir::concat(std::iter::once(first).chain(rest).map(|range| bytes(&[range])).collect())
    };
    Hir::alternation(vec![
        bytes(ascii),
        encoded((0xc2, 0xdf), 1),
        encoded((0xe0, 0xef), 2),
        encoded((0xf0, 0xf4), 3),
    ])
}

/// The class of characters, and of surrogates.
fn of_characters(points: &CodePoints) -> Hir {
    let (first, last) = SURROGATES;
    let surrogates = points.intersect(&CodePoints::new([SURROGATES]));
    let others = points.intersect(&CodePoints::new([(0, first - 1), (last + 1, MAX)]));
    let others = others.ranges().iter().filter_map(|(first, last)| {
        Some(ClassUnicodeRange::new(char::from_u32(*first)?, char::from_u32(*last)?))
    });
    let others = Hir::class(Class::Unicode(ClassUnicode::new(others)));
    let surrogates = surrogates.ranges().iter().flat_map(|(first, last)| {
        // One row for each second byte.
        (first >> 6..=last >> 6).map(move |row| {
            let (low, high) = ((*first).max(row << 6), (*last).min(row << 6 | 0x3f));
            let third = (continuation(low), continuation(high));
            let all = [(SURROGATE_BYTE, SURROGATE_BYTE), (continuation(row), continuation(row))];
            Hir::concat(all.into_iter().chain([third]).map(|range| bytes(&[range])).collect())
        })
    });
    Hir::alternation(std::iter::once(others).chain(surrogates).collect())
}

/// The byte for the last six bits of `bits`.
const fn continuation(bits: u32) -> u8 {
    CONTINUATION.0 | (bits & 0x3f) as u8
}

fn bytes(ranges: &[(u8, u8)]) -> Hir {
    let ranges = ranges.iter().map(|(first, last)| ClassBytesRange::new(*first, *last));
    Hir::class(Class::Bytes(ClassBytes::new(ranges)))
}
