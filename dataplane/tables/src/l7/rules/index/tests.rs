//! The index finds what trying each rule finds.

use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::l7::HttpRuleSpec;

fn rule(method: &str, path: &str, host: &str) -> HttpRule {
    let given = |source: &str| (!source.is_empty()).then(|| source.to_owned());
    let (method, path, host) = (given(method), given(path), given(host));
    HttpRule::new(HttpRuleSpec { method, path, host, ..HttpRuleSpec::default() }).unwrap()
}

fn request<'a>(method: &'a str, path: &'a [u8], host: &'a str) -> HttpRequest<'a> {
    let (method, host) = (method.as_bytes(), host.as_bytes());
    HttpRequest { method, path, path_is_normal: true, host, headers: &[] }
}

/// The oracle: all rules that match, found one by one.
fn one_by_one(rules: &[HttpRule], request: &HttpRequest<'_>) -> Vec<u32> {
    let matches = |rule: &u32| rules[*rule as usize].matches(request);
    (0..rules.len() as u32).filter(matches).collect()
}

/// The candidates that match. Candidates are ascending.
fn by_index(index: &Index, rules: &[HttpRule], request: &HttpRequest<'_>) -> Vec<u32> {
    let candidates = index.candidates(request);
    assert!(candidates.is_sorted());
    candidates.iter().copied().filter(|rule| rules[*rule as usize].matches(request)).collect()
}

fn services(count: usize) -> Vec<HttpRule> {
    (0..count)
        .map(|number| rule("", &format!("/service-{number}/v[0-9]+/items(/.*)?"), ""))
        .collect()
}

/// Bytes of the automaton.
fn memory(index: &Index) -> usize {
    let lists = index.lists.iter().map(|list| size_of_val(list) + size_of_val::<[u32]>(list));
    size_of_val::<[Next]>(&index.states) + lists.sum::<usize>()
}

#[test]
fn few_of_many_rules_are_tried() {
    let rules = services(1000);
    let index = Index::new(&rules);
    for number in [0, 7, 70, 77, 700, 777, 999] {
        let path = format!("/service-{number}/v2/items/5");
        let request = request("GET", path.as_bytes(), "shop");
        assert_eq!(by_index(&index, &rules, &request), [number]);
        assert!(index.candidates(&request).len() <= FEW, "{path}");
    }
    for path in [&b""[..], b"/", b"/service-", b"/other", b"/service-1000/v2/items"] {
        let request = request("GET", path, "shop");
        assert!(by_index(&index, &rules, &request).is_empty());
        assert!(index.candidates(&request).len() <= FEW, "{}", path.escape_ascii());
    }
}

#[test]
fn rules_that_differ_in_several_fields_are_found_by_all_of_them() {
    let mut rules = Vec::new();
    for tenant in 0..20 {
        for path in 0..20 {
            for method in ["GET|HEAD", "POST"] {
                rules.push(rule(method, &format!("/p{path}/.*"), &format!("t{tenant}[.]test")));
            }
        }
    }
    let index = Index::new(&rules);
    let request = request("POST", b"/p7/x", "t13.test");
    assert_eq!(by_index(&index, &rules, &request), [13 * 40 + 7 * 2 + 1]);
    assert!(index.candidates(&request).len() <= FEW);
}

#[test]
fn a_rule_without_a_pattern_is_always_a_candidate() {
    let mut rules = services(10);
    rules.push(rule("", "", ""));
    let index = Index::new(&rules);
    assert_eq!(by_index(&index, &rules, &request("GET", b"/service-3/v1/items", "")), [3, 10]);
    assert_eq!(by_index(&index, &rules, &request("GET", b"/", "")), [10]);
    let none = Index::new(&[]);
    assert!(none.candidates(&request("GET", b"/", "")).is_empty());
}

/// None of these is ruled out before the end of the path, so the automaton can't separate them
/// early.
#[test]
fn memory_is_bounded_however_patterns_overlap() {
    let patterns: [fn(usize) -> String; 4] = [
        |number| format!(".*x{number}.*"),
        |number| format!("(/[^/]+)*/x{number}/.*y"),
        |number| format!("/.*[a-f]{number}.{{3}}"),
        |number| format!("/{}/{number}", "a".repeat(400)),
    ];
    for pattern in patterns {
        let rules: Vec<_> = (0..100).map(|number| rule("", &pattern(number), "")).collect();
        let index = Index::new(&rules);
        assert!(memory(&index) <= (16 << 10) + rules.len() * 1280, "{}", pattern(0));
        for path in ["/", "/x7", "/x77/x5/y", "/ab/x31/y", "/.a12bbb", "/aaaa/x7/ya13bbb"] {
            let long = format!("/{}/7", "a".repeat(400));
            for path in [path, &long] {
                let request = request("GET", path.as_bytes(), "");
                let expected = one_by_one(&rules, &request);
                assert_eq!(by_index(&index, &rules, &request), expected, "{path}");
            }
        }
    }
}

/// RE2's own results, all of its patterns in one list.
#[test]
fn lists_match_as_in_re2() {
    type Verdicts = (String, Option<Vec<String>>, Option<Vec<String>>);
    let frozen = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/corpora/re2/verdicts.jsonl");
    let (mut rules, mut values) = (Vec::new(), Vec::new());
    for line in std::fs::read_to_string(frozen).unwrap().lines() {
        let (path, matching, others): Verdicts = serde_json::from_str(line).unwrap();
        let path = Some(path);
        rules.extend(HttpRule::new(HttpRuleSpec { path, ..HttpRuleSpec::default() }));
        let found = matching.into_iter().chain(others).flatten().take(6);
        values.extend(found.map(|value| value.chars().map(|c| c as u8).collect::<Vec<u8>>()));
    }
    assert!(rules.len() > 200 && values.len() > 1000);
    let budgets = [Budget::of(rules.len()), Budget::of(rules.len() * 8)];
    for index in budgets.map(|budget| Index::with_budget(&rules, budget)) {
        for value in &values {
            let request = request("", value, "");
            let expected = one_by_one(&rules, &request);
            assert_eq!(by_index(&index, &rules, &request), expected, "{}", value.escape_ascii());
        }
    }
}

fn pattern() -> impl Strategy<Value = String> {
    let special = [
        "",
        "a",
        "b",
        "/a",
        "/b",
        "(/.*)?",
        ".*",
        "a|b",
        "[^a]",
        "(?i)a",
        r"\bb",
        r"b\b",
        "^a",
        "b$",
        r"\Qa.b\E",
        r"\C",
        r"\x61",
        "(?s).",
        "[[:alpha:]]+",
        "é",
        "a{2}",
        "(a|ab)(c|bcd)",
        r"\w+",
        r"[^\x{d800}-\x{dfff}]",
    ];
    prop::collection::vec(select(special.to_vec()), 0..5).prop_map(|parts| parts.concat())
}

fn budget() -> impl Strategy<Value = Budget> {
    let budget = |(steps, entries, listed)| Budget { steps, entries, listed };
    (0_usize..4000, 0_usize..2000, 0_usize..60).prop_map(budget)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_index_finds_what_is_found_one_by_one(
        sources in prop::collection::vec((pattern(), pattern(), pattern()), 0..12),
        requests in prop::collection::vec(("[ab/]{0,5}", "[abcAB/.é\n]{0,6}", "[ab.]{0,4}"), 1..12),
        bytes: Vec<u8>,
        small in budget(),
    ) {
        let given = |source: String| Some(source).filter(|source| !source.is_empty());
        let specs = sources.into_iter().map(|(method, path, host)| HttpRuleSpec {
            method: given(method),
            path: given(path),
            host: given(host),
            ..HttpRuleSpec::default()
        });
        let rules: Vec<_> = specs.filter_map(|spec| HttpRule::new(spec).ok()).collect();
        for index in [Index::new(&rules), Index::with_budget(&rules, small)] {
            for (method, path, host) in &requests {
                for path in [path.as_bytes(), &bytes] {
                    let request = request(method, path, host);
                    prop_assert_eq!(
                        by_index(&index, &rules, &request),
                        one_by_one(&rules, &request)
                    );
                }
            }
        }
    }
}
