//! Regular expressions of HTTP rules, in the language of RE2 (module `re2`).
//!
//! # Why dense DFAs
//! A pattern is compiled to a DFA when the policy is. Matching is then one table lookup per byte
//! and needs no memory, for every pattern and every input, and all workers share the table. The
//! price is size: a few patterns (such as `(a|b)*a(a|b){20}`) need exponentially many states. They
//! are rejected with a [`RuleError`], which the author of the policy sees, instead of being matched
//! by another engine that needs scratch memory per flow.

use regex_automata::dfa::{Automaton, StartKind, dense};
use regex_automata::nfa::thompson;
use regex_automata::util::primitives::StateID;
use regex_automata::util::start;
use regex_automata::{Anchored, MatchKind};

use super::{RuleError, RuleField, re2};

/// Longest pattern accepted, bytes.
const PATTERN_MAX: usize = 4096;
/// Largest DFA of one pattern, bytes.
const DFA_MAX: usize = 2 * 1024 * 1024;
/// Most memory for building one DFA, bytes.
const BUILD_MAX: usize = 4 * 1024 * 1024;

/// Remaining budget for the patterns of one policy, bytes.
///
/// A pattern costs the size of its DFA and the work to build it, since a small DFA may take long to
/// build. The work grows with the transitions of the DFA times the states of the NFA.
#[derive(Clone, Debug)]
pub struct PatternBudget(usize);

/// Budget of one policy, bytes.
const BUDGET: usize = 32 * 1024 * 1024;
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
        let hir = re2::parse(source).map_err(|error| field.error(error.to_string()))?;
        // A pattern that exceeds a limit costs the work of finding that out.
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

    /// Whether the pattern matches the whole of `value`, which may be any bytes.
    pub(super) fn matches(&self, value: &[u8]) -> bool {
        let Some(mut state) = self.start() else { return false };
        for &byte in value {
            let Some(next) = self.next(state, byte) else { return false };
            state = next;
        }
        self.matches_at_end(state)
    }

    /// The state before the first byte. [`None`] if no value matches.
    pub(super) fn start(&self) -> Option<StateID> {
        // Only DFAs with quit bytes have no start state; these have none.
        let state = self.0.start_state(&start::Config::new().anchored(Anchored::Yes)).ok()?;
        (!self.0.is_dead_state(state)).then_some(state)
    }

    /// The state after one more byte. [`None`] if no value that begins with these bytes matches.
    #[inline]
    pub(super) fn next(&self, state: StateID, byte: u8) -> Option<StateID> {
        let state = self.0.next_state(state, byte);
        (!self.0.is_dead_state(state) && !self.0.is_quit_state(state)).then_some(state)
    }

    /// Whether a value that led to `state` matches.
    #[inline]
    pub(super) fn matches_at_end(&self, state: StateID) -> bool {
        self.0.is_match_state(self.0.next_eoi_state(state))
    }

    /// Whether `byte`, which is not zero, begins a class of the DFA: `byte - 1` is in another one.
    pub(super) fn is_class_start(&self, byte: u8) -> bool {
        let classes = self.0.byte_classes();
        classes.get(byte) != classes.get(byte - 1)
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

    /// RE2 encodes surrogates, and its class of all characters beyond ASCII matches some invalid
    /// UTF-8.
    #[test]
    fn values_that_are_not_utf_8_match_as_in_re2() {
        for (pattern, value, expected) in [
            ("(?s)/.*", &b"/\xff"[..], false),
            ("(?s)/.*", b"/\xc3", false),
            (r"/\C*", b"/\xff\xc3", true),
            (r"/\C\C", "/é".as_bytes(), true),
            (".", b"\xed\xa0\x80", true),
            (r"\x{d800}", b"\xed\xa0\x80", true),
            (r"[^\x{d800}-\x{dfff}]", b"\xed\xa0\x80", false),
            ("[^é]", b"\xed\xa0\x80", true),
            (".", b"\xe0\x80\x80", true),
            (".", b"\xf4\xbf\xbf\xbf", true),
            (".", b"\xf5\x80\x80\x80", false),
            (".", b"\xc0\x80", false),
            ("[^é]", b"\xe0\x80\x80", false),
            ("[^é]", b"\xf4\xbf\xbf\xbf", false),
        ] {
            let found = new(pattern).unwrap().matches(value);
            assert_eq!(found, expected, "{pattern:?} against {}", value.escape_ascii());
        }
    }

    /// RE2's own results: a pattern, values that it matches and others, as Latin-1 text.
    #[test]
    fn patterns_match_as_in_re2() {
        type Verdicts = (String, Option<Vec<String>>, Option<Vec<String>>);
        let frozen = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/corpora/re2/verdicts.jsonl");
        for line in std::fs::read_to_string(frozen).unwrap().lines() {
            let (source, matching, others): Verdicts = serde_json::from_str(line).unwrap();
            let pattern = new(&source);
            let Some((matching, others)) = matching.zip(others) else {
                assert!(pattern.is_err(), "RE2 rejects {source:?}");
                continue;
            };
            let pattern = match pattern {
                Ok(pattern) => pattern,
                // Alternatives that RE2 extends.
                Err(error) if error.reason.starts_with("RE2 matches more") => continue,
                Err(error) => panic!("{source:?}: {error}"),
            };
            for (values, expected) in [(matching, true), (others, false)] {
                for value in values {
                    let value: Vec<u8> = value.chars().map(|c| c as u8).collect();
                    let found = pattern.matches(&value);
                    assert_eq!(found, expected, "{source:?} against {}", value.escape_ascii());
                }
            }
        }
    }

    #[test]
    fn a_pattern_cannot_escape_its_anchors() {
        for pattern in ["/a)|(.*", "/a)|(?:.*", "(?x)/a #", "/a\\", r"/a\Q", r"/a[^)\z]"] {
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
            pattern in "[ab.|()*+?^$]{0,10}", value in "[ab\n]{0,8}",
        ) {
            // RE2 takes a group of no flags, the other engine does not.
            prop_assume!(!pattern.contains("(?)"));
            let Ok(ours) = new(&pattern) else { return Ok(()) };
            let theirs = regex_automata::meta::Builder::new()
                .syntax(regex_automata::util::syntax::Config::new().unicode(false).utf8(false))
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
