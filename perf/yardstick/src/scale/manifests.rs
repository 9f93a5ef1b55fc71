//! The real agent with a directory of many manifests: the time until a changed file is in force,
//! and its CPU usage when nothing changes.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use podgate_tests::lab::{Agent, Lab};

use super::cluster::{Cluster, Labels, Size};
use super::objects;
use super::policies::clusterwide;
use crate::context::Context;
use crate::measure::{Limit, Measurement};
use crate::node::cpu_time;

const CHANGE: &str = "scale.manifests";
const IDLE: &str = "scale.idle";

/// The ids of this suite.
pub(crate) const IDS: &[&str] = &[CHANGE, IDLE];

/// Milliseconds.
const BAR_CHANGE: f64 = 300.0;
/// Percent of a core.
const BAR_IDLE: f64 = 0.5;

const SIZE: Size = Size { namespaces: 1000, pods: 1000, policies: 10_000 };
const SIZE_QUICK: Size = Size { namespaces: 10, pods: 1000, policies: 100 };

/// Duration of one measurement of the idle agent.
const WATCH: Duration = Duration::from_secs(10);
const WATCH_QUICK: Duration = Duration::from_secs(2);
/// Changes of one round.
const CHANGES: u16 = 10;

/// Measures the agent.
///
/// # Errors
/// When the lab can't be built, or a change doesn't come into force.
pub(crate) fn measure(context: &Context) -> Result<Vec<Measurement>> {
    let size = if context.quick { SIZE_QUICK } else { SIZE };
    let cluster = Cluster { size, labels: Labels::Shared, seed: 1 };
    context.status(format!("{CHANGE}: writing {} files", size.policies));
    let lab = Lab::of(&objects::manifests(&cluster, &objects::lab_pods(&cluster, 2)))?;
    // Two more files: the pods, and the policy that changes.
    for index in 0..size.policies - 2 {
        let text = cluster.policy(index, 0).to_string();
        fs::write(lab.manifests().join(format!("policy-{index:05}.yaml")), text)?;
    }
    lab.write_manifest("policy.yaml", &clusterwide(8000).to_string())?;
    let begin = Instant::now();
    let mut agent = Agent::start_with(&lab, 1, &[])?;
    let start = begin.elapsed();
    let mut results = Vec::new();
    if context.wants(IDLE) {
        context.status(format!("{IDLE}: waiting for the last good objects to be on disk"));
        agent.wait_until("the last good objects to be on disk", |lab| {
            let status = lab.podgate_json(&["status"])?;
            Ok((status["source"]["unsaved"] == 0).then_some(()))
        })?;
        let watch = if context.quick { WATCH_QUICK } else { WATCH };
        let mut values = Vec::new();
        for round in 0..context.rounds {
            context.status(format!("{IDLE}: round {} of {}", round + 1, context.rounds));
            let (before, begin) = (cpu_time(agent.pid())?, Instant::now());
            thread::sleep(watch);
            let used = cpu_time(agent.pid())? - before;
            values.push(used.as_secs_f64() / begin.elapsed().as_secs_f64() * 100.0);
        }
        results.push(
            Measurement::new(IDLE, "% of a core", values).bar(Limit::AtMost(BAR_IDLE)).note(
                format!("{} files, two pods attached, one worker, all threads", size.policies),
            ),
        );
    }
    if context.wants(CHANGE) {
        let mut values = Vec::new();
        for round in 0..context.rounds {
            context.status(format!("{CHANGE}: round {} of {}", round + 1, context.rounds));
            let changes = (0..CHANGES).map(|change| {
                // Every one is another policy.
                let port = 8001 + u16::try_from(round)? * CHANGES + change;
                change_one(&lab, port)
            });
            let times = changes.collect::<Result<Vec<_>>>()?;
            values.push(Measurement::new("", "ms", times).spread()[1]);
        }
        results.push(Measurement::new(CHANGE, "ms", values).bar(Limit::AtMost(BAR_CHANGE)).note(
            format!(
                "the longest of {CHANGES} changes of one file of {}, a policy for every pod, until \
                 every worker enforces it; the start with all files took {:.1} s",
                size.policies,
                start.as_secs_f64()
            ),
        ));
    }
    agent.stop()?;
    Ok(results)
}

/// Changes one file. Returns how long it took to be in force, milliseconds.
fn change_one(lab: &Lab, port: u16) -> Result<f64> {
    let status = lab.podgate_json(&["status"])?;
    let epoch = status["epoch"].as_u64().context("no epoch")?;
    let begin = Instant::now();
    lab.write_manifest("policy.yaml", &clusterwide(port).to_string())?;
    lab.podgate_json(&["policy", "wait", &(epoch + 1).to_string()])?;
    Ok(begin.elapsed().as_secs_f64() * 1e3)
}
