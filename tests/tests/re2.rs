//! Patterns of HTTP rules against RE2 itself: the same patterns are accepted, and they match the
//! same values.

use std::io::{BufRead, BufReader};
use std::process::{ChildStdout, Command, Stdio};
use std::sync::Mutex;

use podgate_tables::l7::http1::HttpRequest;
use podgate_tables::l7::{HttpRule, HttpRuleSpec};
use podgate_tests::checkout::{in_checkout, python};

const PATTERNS: usize = 20_000;
const SEED: usize = 20_251_105;

/// A pattern, values that it matches and others, or nothing if RE2 rejects the pattern.
type Verdicts = (String, Option<Vec<String>>, Option<Vec<String>>);

/// What came of the patterns.
#[derive(Default)]
struct Outcome {
    patterns: usize,
    rejected: usize,
    too_large: usize,
    extended: usize,
    values: usize,
    matched: usize,
    differences: Vec<String>,
}

fn matches(rule: &HttpRule, value: &str) -> bool {
    // A value is bytes, as Latin-1 text.
    let value: Vec<u8> = value.chars().map(|c| c as u8).collect();
    let request =
        HttpRequest { method: b"", path: &value, path_is_normal: true, host: b"", headers: &[] };
    rule.failed_fields(&request).is_empty()
}

fn compare(line: &str, outcome: &mut Outcome) {
    let (pattern, matching, others): Verdicts = serde_json::from_str(line).expect("JSON");
    outcome.patterns += 1;
    let rule = HttpRule::new(HttpRuleSpec { path: Some(pattern.clone()), ..Default::default() });
    let Some((matching, others)) = matching.zip(others) else {
        outcome.rejected += 1;
        if rule.is_ok() {
            outcome.differences.push(format!("{pattern:?}: only RE2 rejects it"));
        }
        return;
    };
    let rule = match rule {
        Ok(rule) => rule,
        Err(error) if error.reason.contains("too many states") => {
            outcome.too_large += 1;
            return;
        }
        Err(error) if error.reason.starts_with("RE2 matches more") => {
            outcome.extended += 1;
            return;
        }
        Err(error) => return outcome.differences.push(format!("{pattern:?}: {error}")),
    };
    outcome.matched += matching.len();
    for (values, expected) in [(matching, true), (others, false)] {
        outcome.values += values.len();
        let differing = values.iter().filter(|value| matches(&rule, value) != expected);
        let differing =
            differing.map(|v| format!("{pattern:?} against {v:?}: RE2 says {expected}"));
        outcome.differences.extend(differing);
    }
}

/// Compares lines until there are no more.
fn work(lines: &Mutex<BufReader<ChildStdout>>) -> Outcome {
    let mut outcome = Outcome::default();
    loop {
        let mut line = String::new();
        let read = lines.lock().expect("no panic").read_line(&mut line).expect("UTF-8");
        if read == 0 {
            return outcome;
        }
        compare(&line, &mut outcome);
    }
}

#[test]
fn patterns_are_accepted_and_match_as_in_re2() {
    let mut generator = Command::new(python())
        .arg(in_checkout("tests/corpora/re2/generate.py"))
        .args([PATTERNS.to_string(), SEED.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .expect("Python runs");
    let lines = Mutex::new(BufReader::new(generator.stdout.take().expect("stdout is a pipe")));
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let mut all = Outcome::default();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(|| work(&lines))).collect();
        for outcome in workers.into_iter().map(|worker| worker.join().expect("no panic")) {
            all.patterns += outcome.patterns;
            all.rejected += outcome.rejected;
            all.too_large += outcome.too_large;
            all.extended += outcome.extended;
            all.values += outcome.values;
            all.matched += outcome.matched;
            all.differences.extend(outcome.differences);
        }
    });
    assert!(generator.wait().expect("Python ran").success(), "generate.py failed");
    println!(
        "{} patterns, of which RE2 rejects {}; {} are too large here, {} extended by RE2; {} of \
         {} values match",
        all.patterns, all.rejected, all.too_large, all.extended, all.matched, all.values
    );
    assert!(all.differences.is_empty(), "{}", all.differences.join("\n"));
    assert_eq!(all.patterns, PATTERNS);
    // The comparison would be worth little if most patterns were left out, or matched nothing.
    assert!(all.rejected < PATTERNS / 3 && all.matched > PATTERNS, "see the line above");
    assert!(all.too_large < PATTERNS / 100 && all.extended < PATTERNS / 100, "see the line above");
}
