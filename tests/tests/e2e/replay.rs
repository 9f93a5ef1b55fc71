//! `podgate replay` of a capture gives the verdicts of the live run.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use podgate_tests::lab::{Agent, Capture, Lab, wait_for};
use podgate_tests::scenario::{MANIFESTS, ROWS};
use serde_json::Value;

type Flows = BTreeMap<String, FlowResult>;

/// The record of one flow between pods: its verdict with what decided each direction, and each HTTP
/// request with its verdict and rule. As text, for comparison and messages.
#[derive(Debug, Default, PartialEq, Eq)]
struct FlowResult {
    verdict: String,
    requests: BTreeSet<String>,
}

#[test]
fn a_capture_of_the_live_run_replays_to_the_same_verdicts() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let agent = Agent::start(&lab, 2)?;
    for pod in ["admin/adminapp", "other/stranger"] {
        let capture = Capture::start(&lab, lab.host(pod)?)?;
        let rows = ROWS.iter().filter(|row| row.from == pod && row.to != "node");
        let flows = 2 * rows.clone().count();
        for row in rows {
            row.run_both(&lab)?;
        }
        let report = replay(&lab, capture.stop()?.path())?;
        assert_eq!(report["performance"]["deviating"], 0, "{}", report["performance"]);
        let replayed = replayed(&report)?;
        assert_eq!(replayed.len(), flows, "{replayed:#?}");
        let live = wait_for_live(&lab, &replayed)?;
        for (flow, result) in &replayed {
            assert_eq!(live.get(flow), Some(result), "{flow}");
        }
    }
    agent.stop()
}

fn replay(lab: &Lab, capture: &Path) -> Result<Value> {
    let (capture, manifests) = (capture.to_string_lossy(), lab.manifests());
    let manifests = manifests.to_string_lossy();
    lab.podgate_json(&["replay", &capture, "--manifests", &manifests, "--repeat", "1"])
}

/// Waits for the live run's records, which the agent reads from the workers' rings with a delay.
fn wait_for_live(lab: &Lab, replayed: &Flows) -> Result<Flows> {
    wait_for("the live run's records", Duration::from_secs(10), || {
        let live = live(lab)?;
        let complete = replayed.iter().all(|(flow, result)| {
            live.get(flow).is_some_and(|live| live.requests.len() >= result.requests.len())
        });
        Ok(complete.then_some(live))
    })
    .with_context(|| format!("replay found {replayed:#?}"))
}

fn replayed(report: &Value) -> Result<Flows> {
    let flows = report["flows"].as_array().context("the report has no flows")?;
    let between_pods = flows.iter().filter(|flow| is_between_pods(flow));
    let result = |flow: &Value| FlowResult {
        verdict: verdict(flow),
        requests: flow["requests"].as_array().into_iter().flatten().map(request).collect(),
    };
    Ok(between_pods.map(|flow| (name(flow), result(flow))).collect())
}

fn live(lab: &Lab) -> Result<Flows> {
    let mut flows = BTreeMap::<_, FlowResult>::new();
    for record in lab.podgate_json_lines(&["flows", "--last", "4096"])? {
        let result = flows.entry(name(&record)).or_default();
        match record["type"].as_str() {
            Some("policy-verdict") => result.verdict = verdict(&record),
            Some("http-request") => drop(result.requests.insert(request(&record))),
            _ => {}
        }
    }
    Ok(flows)
}

/// Node addresses are not in the manifests, so replay can't know them.
fn is_between_pods(flow: &Value) -> bool {
    flow["egress"].is_object()
        && [&flow["source"], &flow["destination"]].iter().all(|end| end["pod"].is_string())
}

fn name(flow: &Value) -> String {
    let end = |end: &Value| format!("{} {}", end["address"], end["port"]);
    format!("{} {} -> {}", flow["protocol"], end(&flow["source"]), end(&flow["destination"]))
}

fn verdict(flow: &Value) -> String {
    let parts =
        ["verdict", "drop_reason", "egress", "ingress"].map(|field| flow[field].to_string());
    parts.join(" ")
}

fn request(request: &Value) -> String {
    let fields = ["method", "path", "host", "verdict", "drop_reason", "rule"];
    fields.map(|field| request[field].to_string()).join(" ")
}
