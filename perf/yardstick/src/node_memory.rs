//! Memory of the real agent on a node with many pods, the kernel's part included.

use std::fs;

use anyhow::{Context as _, Result};
use podgate_tests::lab::{Agent, Lab};

use crate::context::Context;
use crate::measure::{Limit, Measurement};
use crate::node;
use crate::scale::resident::{self, mebibytes};

const PODS_110: &str = "memory.110";
const PODS_250: &str = "memory.250";

/// The ids of this suite.
pub(crate) const IDS: &[&str] = &[PODS_110, PODS_250];

/// Id, number of pods, and the most memory, MiB.
const CASES: [(&str, usize, f64); 2] = [(PODS_110, 110, 400.0), (PODS_250, 250, 900.0)];

/// Measures the wanted ids.
///
/// # Errors
/// When the lab can't be built, or the agent doesn't start.
pub(crate) fn measure(context: &Context) -> Result<Vec<Measurement>> {
    let mut results = Vec::new();
    for (id, pods, bar) in CASES.into_iter().filter(|(id, ..)| context.wants(id)) {
        context.status(format!("{id}: making {pods} pods"));
        let folder = tempfile::tempdir()?;
        fs::write(folder.path().join("pods.yaml"), node::manifest(pods))?;
        let lab = Lab::new(folder.path())?;
        let (mut taken, mut reported) = (Vec::new(), Vec::new());
        for round in 0..context.rounds {
            context.status(format!("{id}: round {} of {}", round + 1, context.rounds));
            let before = available()?;
            let start = if round == 0 { Agent::start_with } else { Agent::start_bare };
            let agent = start(&lab, 1, &["--max-endpoints", &pods.to_string()])?;
            taken.push(before - available()?);
            reported.push(status_memory(&lab)?);
            agent.stop()?;
        }
        let measured = Measurement::new(id, "MiB", taken).bar(Limit::AtMost(bar));
        results.push(measured.compared_with("the sum in status", reported).note(
            "decrease of the machine's available memory from before the agent's start until all \
             pods are attached; meaningful on a machine that does nothing else",
        ));
    }
    Ok(results)
}

/// Available memory of the machine (`MemAvailable` of proc_meminfo(5)), MiB.
fn available() -> Result<f64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let bytes = resident::field(&text, "MemAvailable:");
    Ok(mebibytes(bytes.context("no MemAvailable in /proc/meminfo")?))
}

/// The sum of all memory in `podgate status`, MiB. `resident` includes `frames`.
fn status_memory(lab: &Lab) -> Result<f64> {
    let status = lab.podgate_json(&["status"])?;
    let memory = &status["health"]["memory"];
    let parts = ["resident", "rings", "pools", "bpf"].map(|part| memory[part].as_f64());
    let bytes: Option<f64> = parts.into_iter().sum();
    Ok(bytes.context("no memory in status")? / f64::from(1 << 20))
}
