//! Every truth table, by the naive interpreter, by the compiled tables, and by packets through a
//! whole worker.

use std::path::{Path, PathBuf};

use podgate_dataplane::policy::Verdict;
use podgate_policy::compile;
use podgate_policy::truth::{self, Expect, Row};

use crate::packets::{ask_packets, can_ask};
use crate::support::{Answer, ask_oracle, ask_tables};

fn tables() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/truth");
    let mut files: Vec<_> = folder.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    files
}

fn is_expected(row: &Row, answer: &Answer) -> bool {
    match (row.expect, &row.request) {
        (Expect::Deny, _) => answer.verdict == Verdict::Deny,
        (Expect::Allow, None) => answer.verdict == Verdict::Allow,
        (Expect::Inspect, _) => answer.verdict == Verdict::Inspect,
        (Expect::Allow, Some(_)) => answer.request == Some(true),
        (Expect::Refuse, _) => answer.request == Some(false),
    }
}

#[test]
fn all_executors_agree_with_every_row() {
    let (mut rows, mut by_packets) = (0, 0);
    let mut failures = Vec::new();
    for file in tables() {
        let shown = file.file_name().unwrap().display().to_string();
        let table = truth::load(&file).unwrap_or_else(|error| panic!("{shown}: {error}"));
        let compiled = compile(&table.store);
        for row in &table.rows {
            rows += 1;
            let request = row.request.clone().unwrap_or_default();
            let (answer, causes) = ask_tables(&compiled, &row.subject, row.local, &request);
            let (said, may_be) = ask_oracle(&table.store, &row.subject, row.local, &request);
            let mut fail = |what: String| {
                failures.push(format!("{shown}: {}: {what} (decided by {causes:?})", row.text));
            };
            if !is_expected(row, &answer) {
                fail(format!("expected {:?}, tables say {answer:?}", row.expect));
            }
            if said != answer {
                fail(format!("tables say {answer:?}, oracle says {said:?}"));
            }
            if can_ask(&row.subject, row.local) {
                by_packets += 1;
                let seen = ask_packets(&compiled, &row.subject, row.local, row.request.as_ref());
                if seen.verdict != answer.verdict
                    || row.request.is_some() && seen.request != answer.request
                {
                    fail(format!("tables say {answer:?}, packets see {seen:?}"));
                }
            }
            for ((wanted, seen), may_be) in
                [&row.egress, &row.ingress].into_iter().zip(&causes).zip(&may_be)
            {
                if !may_be.contains(seen) {
                    fail(format!("the oracle has other causes: {may_be:?}"));
                }
                if wanted.as_ref().is_some_and(|wanted| !seen.starts_with(wanted.as_str())) {
                    fail(format!("expected cause {wanted:?}"));
                }
            }
        }
    }
    assert!(rows > 100, "only {rows} rows found");
    assert!(by_packets * 10 > rows * 9, "only {by_packets} of {rows} rows by packets");
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}
