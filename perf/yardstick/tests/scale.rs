//! `yardstick policy` on a small cluster: completeness of its results, not their values.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests")]

use std::sync::{Mutex, PoisonError};

use clap::{Args as _, Command, Parser};
use podgate_yardstick::alloc::{COUNTING, Counting};
use podgate_yardstick::scale::{Args, Error, Labels, ScaleReport, measure, run};

#[global_allocator]
static ALLOCATOR: Counting = COUNTING;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: Args,
}

fn args(more: &[&str]) -> Args {
    let line = [&["policy", "--quick", "--pods", "600", "--namespaces", "15"], more].concat();
    Cli::parse_from(line).args
}

/// Serialises the tests, because memory is counted for the whole program.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn measured(more: &[&str]) -> ScaleReport {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    measure(&args(more)).unwrap()
}

/// The output and the result of a run.
fn printed(more: &[&str]) -> (String, Result<(), Error>) {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let mut out = Vec::new();
    let result = run(&args(more), &mut out);
    (String::from_utf8(out).unwrap(), result)
}

#[test]
fn the_command_line_is_consistent() {
    Args::augment_args(Command::new("policy")).debug_assert();
}

#[test]
fn every_measurement_is_there_with_its_bar() {
    let report = measured(&[]);
    let whats: Vec<_> = report.measurements.iter().map(|m| m.what.as_str()).collect();
    insta::assert_debug_snapshot!(whats);
    for measurement in &report.measurements {
        let ns = measurement.ns;
        let ascending = [ns.min, ns.p50, ns.p99, ns.p999, ns.max];
        assert!(ascending.is_sorted(), "{measurement:?}");
        assert!(measurement.samples > 0, "{measurement:?}");
        if let Some(bar) = measurement.bar {
            let took = match bar.statistic.to_string().as_str() {
                "p50" => ns.p50,
                "p99" => ns.p99,
                _ => ns.max,
            };
            assert_eq!(bar.met, took <= bar.limit, "{measurement:?}");
        }
    }
    assert!(report.memory.store.unwrap() > 0 && report.memory.compiled.unwrap() > 0);
    assert!(report.memory.peak_resident.unwrap() > report.memory.store.unwrap());
    assert!(report.updates_per_second > 0.0);
    assert!(report.debug_build);
}

#[test]
fn with_unique_labels_every_pod_has_an_identity() {
    let shared = measured(&[]).cluster;
    let unique = measured(&["--labels", "unique"]).cluster;
    assert_eq!((shared.labels, unique.labels), (Labels::Shared, Labels::Unique));
    assert_eq!(shared.addresses, unique.addresses);
    assert!(shared.identities < unique.identities);
    // Two addresses each, and those of the nodes; then the four reserved identities.
    let pods = (unique.addresses - 2 * (600 / 250)) / 2;
    assert_eq!(unique.identities, pods + 4);
}

#[test]
fn the_same_seed_makes_the_same_cluster() {
    let outcome = |seed: &str| {
        let ScaleReport { cluster, decisions, .. } = measured(&["--seed", seed]);
        let allowed: Vec<_> = decisions.iter().map(|d| (d.allowed, d.denied)).collect();
        (cluster, allowed)
    };
    let one = outcome("1");
    assert_eq!(one, outcome("1"));
    assert_ne!(one.1, outcome("2").1);
}

#[test]
fn both_outputs_have_the_whole_report() {
    let (json, result) = printed(&["-o", "json"]);
    result.unwrap();
    let report: ScaleReport = serde_json::from_str(&json).unwrap();
    let (table, result) = printed(&["--check"]);
    for measurement in &report.measurements {
        assert!(table.lines().any(|line| line.starts_with(&measurement.what)), "{table}");
    }
    // Bars may be met or missed here; a miss is reported after the report is printed.
    assert!(matches!(result, Ok(()) | Err(Error::Missed(_))), "{result:?}");
    assert_eq!(result.is_err(), table.contains("MISSED"), "{table}");
}
