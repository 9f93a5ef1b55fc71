//! Regular expressions of HTTP rules. The syntax is the common subset of RE2 and regex-syntax
//! (module `re2`).
//!
//! # Why dense DFAs
//! A pattern is compiled to a DFA when the policy is. Matching is then one table lookup per byte
//! and needs no memory, for every pattern and every input, and all workers share the table. The
//! price is size: a few patterns (such as `(a|b)*a(a|b){20}`) need exponentially many states. They
//! are rejected with a [`RuleError`], which the author of the policy sees, instead of being matched
//! by another engine that needs scratch memory per flow.

use regex_automata::dfa::{Automaton, StartKind, dense};
use regex_automata::nfa::thompson;
use regex_automata::util::{start, syntax};
use regex_automata::{Anchored, MatchKind};

use super::{RuleError, RuleField, re2};

/// Longest pattern accepted, bytes.
const PATTERN_MAX: usize = 4096;
/// Largest DFA of one pattern, bytes.
const DFA_MAX: usize = 512 * 1024;
/// Most memory for building one DFA, bytes.
const BUILD_MAX: usize = 1024 * 1024;
/// Deepest nesting of groups in a pattern.
const NESTING_MAX: u32 = 100;

/// Remaining budget for the patterns of one policy, bytes.
///
/// A pattern costs the size of its DFA, and the work to build it, as a small DFA may take long to
/// build: that grows with the transitions of the DFA times the states of the NFA.
#[derive(Clone, Debug)]
pub struct PatternBudget(usize);

/// Budget of one policy, bytes.
const BUDGET: usize = 20 * 1024 * 1024;
/// Transitions times states that cost as much as one byte.
const WORK_PER_BYTE: usize = 16;

impl Default for PatternBudget {
    fn default() -> Self {
        Self(BUDGET)
    }
}

impl PatternBudget {
    fn spend(&mut self, cost: usize) {
        self.0 = self.0.saturating_sub(cost);
    }
}

/// A compiled regular expression that matches whole values.
#[derive(Clone)]
pub(super) struct Pattern(dense::DFA<Vec<u32>>);

impl Pattern {
    /// `None` for a pattern that is missing or empty, which matches everything.
    pub(super) fn optional(
        source: Option<&str>,
        field: RuleField,
        budget: &mut PatternBudget,
    ) -> Result<Option<Self>, RuleError> {
        let source = source.filter(|source| !source.is_empty());
        source.map(|source| Self::new(source, field, budget)).transpose()
    }

    fn new(source: &str, field: RuleField, budget: &mut PatternBudget) -> Result<Self, RuleError> {
        if budget.0 == 0 {
            let reason = "the patterns of this policy before it use up its pattern budget";
            return Err(field.error(reason));
        }
        if source.len() > PATTERN_MAX {
            return Err(field.error(format!("the pattern is longer than {PATTERN_MAX} bytes")));
        }
        let scanned =
            re2::scan(source).map_err(|reason| field.error(format!("not as in RE2: {reason}")))?;
        let syntax = syntax::Config::new().unicode(false).utf8(false).nest_limit(NESTING_MAX);
        let hir = syntax::parse_with(source, &syntax).map_err(|e| {
            let text = e.to_string();
            // The parser prints the pattern on several lines, and the cause on the last one.
            let cause = text.lines().last().unwrap_or_default();
            field
                .error(format!("not a regular expression: {}", cause.trim_start_matches("error: ")))
        })?;
        let hir = re2::by_character(hir, scanned);
        // A pattern that exceeds a limit costs the work to find that out.
        let mut too_large = || {
            budget.spend(BUILD_MAX);
            field.error("the pattern needs too many states; simplify it")
        };
        let nfa = thompson::Compiler::new()
            .configure(
                thompson::Config::new()
                    .utf8(false)
                    .which_captures(thompson::WhichCaptures::None)
                    .nfa_size_limit(Some(BUILD_MAX)),
            )
            .build_from_hir(&hir)
            .map_err(|_| too_large())?;
        // All matches, and not only the first alternative's: `a|ab` matches the whole of "ab".
        let config = dense::Config::new()
            .match_kind(MatchKind::All)
            .start_kind(StartKind::Anchored)
            .dfa_size_limit(Some(DFA_MAX))
            .determinize_size_limit(Some(BUILD_MAX));
        let dfa = dense::Builder::new()
            .configure(config)
            .build_from_nfa(&nfa)
            .map_err(|_| too_large())?;
        let bytes = dfa.memory_usage();
        let work = bytes / size_of::<u32>() * nfa.states().len();
        budget.spend(bytes + work / WORK_PER_BYTE);
        Ok(Self(dfa))
    }

    /// Whether the pattern matches the whole of `value`. A value that is not UTF-8 matches no
    /// pattern, as in RE2.
    pub(super) fn matches(&self, value: &[u8]) -> bool {
        let Self(dfa) = self;
        if !value.is_ascii() && std::str::from_utf8(value).is_err() {
            return false;
        }
        let Ok(mut state) = dfa.start_state(&start::Config::new().anchored(Anchored::Yes)) else {
            // Only DFAs with quit bytes have no start state; these have none.
            return false;
        };
        for &byte in value {
            state = dfa.next_state(state, byte);
            if dfa.is_dead_state(state) || dfa.is_quit_state(state) {
                return false;
            }
        }
        dfa.is_match_state(dfa.next_eoi_state(state))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn new(pattern: &str) -> Result<Pattern, RuleError> {
        Pattern::new(pattern, RuleField::Path, &mut PatternBudget::default())
    }

    fn whole(pattern: &str, value: &str) -> bool {
        new(pattern).unwrap().matches(value.as_bytes())
    }

    #[test]
    fn a_pattern_matches_the_whole_value_or_not_at_all() {
        // The pattern `/status` and a query: cilium issue 13280.
        for (pattern, value, expected) in [
            ("/docs", "/docs", true),
            ("/docs", "/docs/", false),
            ("/docs", "/docs2", false),
            ("/docs", "x/docs", false),
            ("/status", "/status?full=1", false),
            ("/status.*", "/status?full=1", true),
            ("/api/v1/.*", "/api/v1/", true),
            ("/api/v1/.*", "/api/v1", false),
            ("/api/v1/.*", "/secret/api/v1/x", false),
            ("a|ab", "ab", true),
            ("a|b", "ab", false),
            ("/a|/b", "/b", true),
            ("^/a$", "/a", true),
            ("/public|.*", "/anything", true),
            ("GET", "get", false),
            ("(?i)get", "GeT", true),
            ("/.", "/\n", false),
            ("/.*", "/a\nb", false),
            ("(?s)/.*", "/a\nb", true),
            ("/a$", "/a\n", false),
            (r"\d+", "٣", false),
            (r"/\d+", "/17", true),
            (r"/\w+", "/é", false),
            // Characters and not bytes, as in RE2.
            ("/.", "/é", true),
            ("/..", "/é", false),
            ("/[^a]", "/é", true),
            ("/[^a]{2}", "/é", false),
            (r"/\W\S", "/é€", true),
            ("(?i)/[^k]", "/\u{212a}", false),
            ("(?i)/[^a]", "/é", true),
            (r"/\bx", "/x", true),
            ("/é", "/é", true),
            ("", "", true),
        ] {
            assert_eq!(whole(pattern, value), expected, "{pattern:?} against {value:?}");
        }
    }

    #[test]
    fn a_value_that_is_not_utf_8_matches_nothing() {
        let any = new("(?s).*").unwrap();
        assert!(any.matches("/é".as_bytes()));
        for value in [&b"/\xff"[..], b"/\xc3", b"\x80", b"/\xed\xa0\x80"] {
            assert!(!any.matches(value), "{}", value.escape_ascii());
        }
    }

    /// The table has RE2's own results; the README in its folder says how it is made.
    #[test]
    fn patterns_match_as_in_re2() {
        let frozen = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/corpora/re2/verdicts.jsonl");
        let table = std::env::var("PODGATE_RE2_VERDICTS").unwrap_or(frozen.to_owned());
        let table = std::fs::read_to_string(table).unwrap();
        let (mut lines, mut accepted) = (0, 0);
        for line in table.lines() {
            lines += 1;
            let (source, value, theirs): (String, Option<String>, Option<bool>) =
                serde_json::from_str(line).unwrap();
            let Ok(pattern) = new(&source) else { continue };
            accepted += 1;
            let Some((value, theirs)) = value.zip(theirs) else {
                panic!("RE2 rejects {source:?}");
            };
            let ours = pattern.matches(value.as_bytes());
            let other_case = source.contains("(?i") && value.contains(['\u{212a}', '\u{17f}']);
            if !(other_case && theirs && !ours) {
                assert_eq!(ours, theirs, "{source:?} against {value:?}");
            }
        }
        assert!(accepted > lines / 3, "only {accepted} of {lines} lines are accepted");
    }

    #[test]
    fn a_pattern_cannot_escape_its_anchors() {
        for pattern in ["/a)|(.*", "/a)|(?:.*", "(?x)/a #", "/a\\"] {
            match new(pattern) {
                Ok(pattern) => assert!(!pattern.matches(b"/secret")),
                Err(error) => assert_eq!(error.field, RuleField::Path),
            }
        }
    }

    #[test]
    fn costly_patterns_exhaust_the_budget_even_if_they_are_rejected() {
        let costly = format!(
            "(?:{}){{0,20}}!",
            (1..128).map(|i| format!(r"\x{i:02x}|")).collect::<String>()
        );
        for pattern in ["(a|b)*a(a|b){10}", "(a|b)*a(a|b){20}", costly.as_str()] {
            let mut budget = PatternBudget::default();
            let outcomes: Vec<_> =
                (0..400).map(|_| Pattern::new(pattern, RuleField::Path, &mut budget)).collect();
            let last = outcomes.last().unwrap().as_ref().err().unwrap();
            assert!(last.reason.contains("patterns of this policy"), "{pattern}: {last}");
        }
        let mut budget = PatternBudget::default();
        for index in 0..2_000 {
            let pattern = format!("/api/v[0-9]+/tenant{index}/[a-zA-Z0-9_-]+(/.*)?");
            assert!(Pattern::new(&pattern, RuleField::Path, &mut budget).is_ok(), "{index}");
        }
    }

    proptest! {
        #[test]
        fn matching_agrees_with_the_meta_engine_on_anchored_patterns(
            pattern in "[ab.|()*+?\\[\\]^$]{0,10}", value in "[ab\n]{0,8}",
        ) {
            let Ok(ours) = new(&pattern) else { return Ok(()) };
            let theirs = regex_automata::meta::Builder::new()
                .syntax(syntax::Config::new().unicode(false).utf8(false))
                .build(&format!(r"\A(?:{pattern})\z"))
                .unwrap();
            prop_assert_eq!(ours.matches(value.as_bytes()), theirs.is_match(value.as_bytes()));
        }

        #[test]
        fn arbitrary_patterns_and_values_do_not_panic(pattern in ".{0,40}", value: Vec<u8>) {
            if let Ok(pattern) = new(&pattern) {
                let _ = pattern.matches(&value);
            }
        }
    }
}
