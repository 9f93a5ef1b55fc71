//! Special cases of the grammar, and the tables.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::code_points::CodePoints;
use super::{parse, unicode};

#[test]
fn errors_say_what_is_wrong_and_where() {
    for (pattern, cause, at, part) in [
        (r"a\", r"trailing \", 2, r"\"),
        (r"é\h", "invalid escape sequence", 2, r"\h"),
        (r"\8", "invalid escape sequence", 1, r"\8"),
        (r"\1", "invalid escape sequence", 1, r"\1"),
        (r"(a)\1", "invalid escape sequence", 4, r"\1"),
        (r"\x4", "invalid escape sequence", 1, r"\x4"),
        (r"\x{110000}", "invalid escape sequence", 1, r"\x{110000"),
        (r"[\b]", "invalid escape sequence", 2, r"\b"),
        (r"[a-\d]", "invalid escape sequence", 4, r"\d"),
        (r"\K", "invalid escape sequence", 1, r"\K"),
        (r"x\p{Foo}y", "invalid character class range", 2, r"\p{Foo}"),
        (r"\p{Greek", "invalid character class range", 1, r"\p{Greek"),
        (r"\pé", "invalid character class range", 1, r"\pé"),
        ("a[[:foo:]]", "invalid character class range", 3, "[:foo:]"),
        ("[z-a]", "invalid character class range", 2, "z-a"),
        ("a[bc", "missing ]", 2, "[bc"),
        ("[]", "missing ]", 1, "[]"),
        ("a(b", "missing )", 1, "a(b"),
        ("ab)c", "unexpected )", 3, ")"),
        ("a|*", "no argument for repetition operator", 3, "*"),
        ("(?i)+?", "no argument for repetition operator", 5, "+?"),
        ("a**", "bad repetition operator", 2, "**"),
        ("a{2}{3}", "bad repetition operator", 2, "{2}{3}"),
        ("a{2,1}", "invalid repetition size", 2, "{2,1}"),
        ("a{1001}", "invalid repetition size", 2, "{1001}"),
        ("(a{11}){100}", "invalid repetition size", 8, "{100}"),
        ("a(?=b)", "invalid perl operator", 2, "(?="),
        ("(?<!b)", "invalid perl operator", 1, "(?<"),
        ("(?i-)", "invalid perl operator", 1, "(?i-)"),
        ("(?P=n)", "invalid perl operator", 1, "(?P"),
        ("(?P<n.a>b)", "invalid named capture group", 1, "(?P<n.a>"),
        ("(?<n", "invalid named capture group", 1, "(?<n"),
    ] {
        let expected =
            format!("not a regular expression of RE2: {cause} at character {at}: `{part}`");
        assert_eq!(parse(pattern).unwrap_err().to_string(), expected, "{pattern}");
    }
}

#[test]
fn alternatives_that_re2_extends_are_rejected() {
    for (pattern, is_rejected) in [
        ("[Kk]|x", true),
        ("x|[sS]", true),
        ("/a[Kk]|/ab", true),
        ("(?:x|/a[Kk])|/ab", true),
        ("[Kk]|[Ss]", true),
        ("é|[^é]", true),
        (r"\PL|\pL", true),
        ("[Kk]", false),
        ("k|K|x", false),
        ("(?i)k|x", false),
        ("[Kk]|xy", false),
        ("/a[Kk]|/b[Kk]", false),
        ("([Kk])|x", false),
        (".|x", false),
        ("é|xx|[^é]", false),
    ] {
        match parse(pattern) {
            Ok(_) => assert!(!is_rejected, "{pattern}"),
            Err(error) => {
                assert!(
                    is_rejected && error.to_string().starts_with("RE2 matches more"),
                    "{error}"
                );
            }
        }
    }
}

#[test]
fn classes_with_names_are_those_of_re2() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/corpora/re2/unicode.jsonl");
    let surrogates = CodePoints::new([(0xd800, 0xdfff)]);
    let mut names = 0;
    let mut differences = Vec::new();
    for line in std::fs::read_to_string(file).unwrap().lines() {
        let (name, ranges): (String, Vec<(u32, u32)>) = serde_json::from_str(line).unwrap();
        if name == "(?i)" {
            let ours: BTreeSet<_> = unicode::case_folds().iter().copied().collect();
            let theirs = ranges.into_iter().collect();
            let differ: Vec<_> = ours.symmetric_difference(&theirs).collect();
            assert!(differ.is_empty(), "{differ:x?}");
            continue;
        }
        names += 1;
        let ours = unicode::named(&name).unwrap_or_else(|| panic!("{name} is unknown"));
        let ours = ours.intersect(&surrogates.complement());
        let theirs = CodePoints::new(ranges);
        for (a, b, which) in [(&ours, &theirs, "too many"), (&theirs, &ours, "too few")] {
            let differ = a.intersect(&b.complement());
            if !differ.ranges().is_empty() {
                differences.push(format!("{which} in {name}: {:x?}", differ.ranges()));
            }
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert_eq!(names, unicode::names().count() - 1, "all names but Any");
}

fn points() -> impl Strategy<Value = CodePoints> {
    prop::collection::vec((0..40u32, 0..10u32), 0..6)
        .prop_map(|ranges| CodePoints::new(ranges.into_iter().map(|(at, len)| (at, at + len))))
}

proptest! {
    #[test]
    fn sets_are_sets(a in points(), b in points(), point in 0..60u32) {
        let mut union = a.clone();
        union.union(&b);
        prop_assert_eq!(union.contains(point), a.contains(point) || b.contains(point));
        prop_assert_eq!(a.intersect(&b).contains(point), a.contains(point) && b.contains(point));
        prop_assert_eq!(a.complement().contains(point), !a.contains(point));
        prop_assert_eq!(a.complement().complement(), a);
    }

    #[test]
    fn any_pattern_gets_an_answer(pattern in r"([a-c()\[\]{}|*+?\\pPQExdwWs0-9,:^$.iPU<>é-]|\PC){0,40}") {
        let _ = parse(&pattern);
    }

    #[test]
    fn text_in_quotes_stands_for_itself(text in r"[^\\]{0,20}") {
        let quoted = parse(&format!(r"\Q{text}\E")).unwrap();
        prop_assert_eq!(quoted, regex_syntax::hir::Hir::literal(text.as_bytes()));
    }
}
