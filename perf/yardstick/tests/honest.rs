//! The benchmark detects a slower worker, and its JSON has the documented fields.

#![allow(clippy::unwrap_used, reason = "a test may fail here")]

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

const ID: &str = "pipeline.established.64";

/// Maximum throughput of the slowed worker, relative to the normal one. The slowed worker wastes
/// about a hundred nanoseconds on each packet, about as long as this profile's build takes to
/// process one. The two runs are interleaved.
const SLOWED_MAX: f64 = 0.8;

const FIELDS: [&str; 7] = ["baseline", "id", "max", "median", "min", "ratio", "unit"];

/// `results.json` of a quick run of `program`.
fn results(program: &Path) -> Vec<Value> {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(program)
        .args(["--quick", "--only", ID, "--out"])
        .arg(folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", program.display());
    let text = fs::read_to_string(folder.path().join("results.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn mpps(program: &Path) -> f64 {
    let results = results(program);
    assert_eq!(results.len(), 1, "{results:?}");
    assert_eq!(results[0]["id"], ID);
    results[0]["median"].as_f64().unwrap()
}

/// Builds the slowed program in the profile of this test, beside the others.
fn build_slowed() -> PathBuf {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // The workspace and a test, so that only crates that the feature changes are compiled again.
    command.args(["build", "--workspace", "--bin", "yardstick-slowed", "--test", "tidy"]);
    command.args(["--features", "podgate-yardstick/slowed"]);
    command.arg("--message-format=json-render-diagnostics");
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let messages = String::from_utf8(output.stdout).unwrap();
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut built = messages.filter(|message| message["target"]["name"] == "yardstick-slowed");
    let path = built.find_map(|message| message["executable"].as_str().map(PathBuf::from));
    path.expect("cargo names what it built")
}

#[test]
fn a_slower_worker_is_detected() {
    let as_it_is = Path::new(env!("CARGO_BIN_EXE_yardstick"));
    let slowed = build_slowed();
    let mut ratios: Vec<f64> = (0..3).map(|_| mpps(&slowed) / mpps(as_it_is)).collect();
    ratios.sort_by(f64::total_cmp);
    assert!(ratios[1] < SLOWED_MAX, "slowed to as it is: {ratios:?}");
}

#[test]
fn results_have_exactly_the_seven_fields() {
    for row in results(Path::new(env!("CARGO_BIN_EXE_yardstick"))) {
        let fields: BTreeSet<&str> = row.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(fields, BTreeSet::from(FIELDS));
        for number in ["median", "min", "max"] {
            assert!(row[number].is_f64(), "{row}");
        }
        assert!(row["id"].is_string() && row["unit"].is_string(), "{row}");
        assert!(
            row["baseline"].is_null() && row["ratio"].is_null(),
            "compared with nothing: {row}"
        );
    }
}
