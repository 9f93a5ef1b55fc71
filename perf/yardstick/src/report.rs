//! The output files of a run: `results.json` and the plots.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::measure::Measurement;
use crate::plot;

/// The results of a run.
pub(crate) struct BenchReport {
    pub(crate) quick: bool,
    pub(crate) rounds: usize,
    pub(crate) measurements: Vec<Measurement>,
    /// Ids that can't be measured on this machine, and why.
    pub(crate) skipped: Vec<(String, String)>,
    /// Ids whose measurement failed, and why.
    pub(crate) failed: Vec<(String, String)>,
}

/// One row of `results.json`.
#[derive(Serialize, PartialEq, Debug)]
struct Row<'m> {
    id: &'m str,
    median: f64,
    min: f64,
    max: f64,
    unit: &'static str,
    /// Name of the baseline.
    baseline: Option<&'m str>,
    ratio: Option<f64>,
}

impl<'m> Row<'m> {
    fn of(measured: &'m Measurement) -> Self {
        let [min, max] = measured.spread();
        Self {
            id: &measured.id,
            median: measured.median(),
            min,
            max,
            unit: measured.unit,
            baseline: measured.baseline.as_ref().map(|baseline| baseline.name.as_str()),
            ratio: measured.ratio(),
        }
    }
}

fn json(measurements: &[Measurement]) -> Result<String> {
    let rows: Vec<Row<'_>> = measurements.iter().map(Row::of).collect();
    Ok(serde_json::to_string_pretty(&rows)? + "\n")
}

/// Writes `results.json` and the plots that have measurements into `folder`, and removes those of
/// an earlier run. Returns the paths.
///
/// # Errors
/// When a file can't be written.
pub(crate) fn write(report: &BenchReport, folder: &Path) -> Result<Vec<String>> {
    fs::create_dir_all(folder).with_context(|| format!("can't create {}", folder.display()))?;
    let mut written = Vec::new();
    let mut put = |name: &str, text: Option<String>| {
        let path = folder.join(name);
        let Some(text) = text else {
            // A plot of an earlier run must not remain.
            let _ = fs::remove_file(path);
            return Ok(());
        };
        fs::write(&path, text).with_context(|| format!("can't write {}", path.display()))?;
        written.push(path.display().to_string());
        anyhow::Ok(())
    };
    put("results.json", Some(json(&report.measurements)?))?;
    put("rules.svg", plot::rules(&report.measurements))?;
    put("latency.svg", plot::latency(&report.measurements))?;
    Ok(written)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_row_has_exactly_the_seven_fields() {
        let measurements = [
            Measurement::new("flow.bytes", "B", vec![120.0, 118.0, 121.0]).note("not in the JSON"),
            Measurement::new("tcp.bulk.vs_ovs", "Gb/s", vec![8.0, 6.0])
                .compared_with("OVS", vec![2.0, 2.0]),
        ];
        let rows: Value = serde_json::from_str(&json(&measurements).unwrap()).unwrap();
        assert_eq!(
            rows,
            json!([
                {"id": "flow.bytes", "median": 120.0, "min": 118.0, "max": 121.0, "unit": "B",
                 "baseline": null, "ratio": null},
                {"id": "tcp.bulk.vs_ovs", "median": 7.0, "min": 6.0, "max": 8.0, "unit": "Gb/s",
                 "baseline": "OVS", "ratio": 3.5},
            ])
        );
    }

    #[test]
    fn a_run_replaces_the_files_of_an_earlier_one() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("latency.svg"), "old").unwrap();
        let measurements = vec![Measurement::new("flow.bytes", "B", vec![1.0])];
        let (skipped, failed) = Default::default();
        let report = BenchReport { quick: true, rounds: 3, measurements, skipped, failed };
        let written = write(&report, folder.path()).unwrap();
        assert_eq!(written.len(), 1, "{written:?}");
        assert!(!folder.path().join("latency.svg").exists());
    }
}
