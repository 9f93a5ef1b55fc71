//! Checks by promtool (Debian's package prometheus): metrics, alerts and the dashboard.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use podgate_api::FamilyKind;
use serde_json::Value;

use super::sample::with_sample;
use super::{collect, to_text};

fn deployed(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(file)
}

fn promtool(args: &[&str], input: &str) {
    let mut child = Command::new("promtool")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is in Debian's package prometheus");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(output.status.success() && err.is_empty(), "{out}{err}");
}

#[test]
fn promtool_has_nothing_to_say_about_the_metrics() {
    promtool(&["check", "metrics"], &with_sample(|measured| to_text(&collect(measured))));
}

#[test]
fn the_alerts_are_valid_and_fire_when_they_should() {
    let [rules, tests] = ["prometheus/alerts.yaml", "prometheus/alerts_test.yaml"].map(deployed);
    promtool(&["check", "rules", rules.to_str().unwrap()], "");
    promtool(&["test", "rules", tests.to_str().unwrap()], "");
}

/// Names of metrics in an expression of PromQL, beginning with one of our prefixes.
fn names(expression: &str) -> impl Iterator<Item = &str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = expression.split(move |c| !is_part(c));
    words.filter(|word| {
        ["podgate_", "cilium_", "hubble_", "process_"].iter().any(|prefix| word.starts_with(prefix))
    })
}

/// All names that samples have.
fn sample_names() -> BTreeSet<String> {
    let mut known = BTreeSet::new();
    for family in with_sample(collect) {
        if family.kind == FamilyKind::Histogram {
            let suffixes = ["_bucket", "_sum", "_count"];
            known.extend(suffixes.map(|suffix| format!("{}{suffix}", family.name)));
        } else {
            known.insert(family.name);
        }
    }
    known
}

/// Every string below a member of this name.
fn strings<'v>(value: &'v Value, member: &str, found: &mut Vec<&'v str>) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                match value.as_str() {
                    Some(text) if name == member => found.push(text),
                    _ => strings(value, member, found),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| strings(value, member, found)),
        _ => {}
    }
}

#[test]
fn every_metric_of_the_dashboard_and_the_alerts_exists() {
    let known = sample_names();
    let dashboard = fs::read_to_string(deployed("grafana/podgate.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    let mut expressions = Vec::new();
    strings(&dashboard, "expr", &mut expressions);
    assert!(expressions.len() > 10, "{expressions:?}");
    let alerts = fs::read_to_string(deployed("prometheus/alerts.yaml")).unwrap();
    expressions.extend(alerts.lines().filter(|line| line.trim_start().starts_with("expr:")));
    for expression in expressions {
        let mut used = names(expression).peekable();
        assert!(used.peek().is_some(), "{expression}");
        for name in used {
            assert!(known.contains(name), "{name} in {expression}");
        }
    }
}
