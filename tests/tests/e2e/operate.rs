//! Commands of operators: flow tables, endpoints' health and log, the monitor.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use podgate_tests::lab::{Agent, Daemon, Download, Family, Get, Lab, Outcome, program, wait_for};
use podgate_tests::scenario::MANIFESTS;

const BOUND: Duration = Duration::from_secs(30);

fn text(lab: &Lab, args: &[&str]) -> Result<String> {
    let output = lab.podgate(args)?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{args:?}: {said}");
    Ok(String::from_utf8(output.stdout)?)
}

#[test]
fn flows_are_listed_with_their_rules_and_a_flushed_one_goes_on_if_policy_allows_it() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let agent = Agent::start(&lab, 2)?;
    let (admin, store) = (lab.host("admin/adminapp")?, lab.host("backend/store")?);
    let mut download = Download::start(&lab, admin, store, 8080, Family::V4)?;
    let list = || lab.podgate_json(&["table", "flow", "list", "backend/store", "--port", "8080"]);
    let table = list()?;
    let flow = &table["flows"][0];
    ensure!(table["matched"] == 1 && flow["state"] == "ESTABLISHED", "{table}");
    ensure!(flow["source"]["pod"] == "admin/adminapp" && flow["verdict"] == "allowed", "{table}");
    ensure!(flow["ingress"]["policy"]["name"] == "store", "{table}");
    let packets = flow["packets"][0].as_u64().context("packets")?;
    ensure!(packets > 0, "{table}");
    let shown = text(&lab, &["table", "flow", "list", "admin/adminapp"])?;
    ensure!(shown.starts_with("WORKER") && shown.contains("ESTABLISHED"), "{shown}");
    let flushed = text(&lab, &["table", "flow", "flush", "admin/adminapp", "--port", "8080"])?;
    ensure!(flushed == "1 entries removed\n", "{flushed}");
    download.wait_for_more()?;
    let table = wait_for("the flow that was picked up", BOUND, || {
        let table = list()?;
        Ok((table["matched"] == 1).then_some(table))
    })?;
    ensure!(table["flows"][0]["state"] == "ESTABLISHED", "{table}");
    drop(download);
    let nothing = text(&lab, &["table", "flow", "list", "--ip", "203.0.113.1"])?;
    ensure!(nothing.lines().count() == 1, "{nothing}");
    let unknown = lab.podgate(&["table", "flow", "list", "shop/none"])?;
    ensure!(unknown.status.code() == Some(1), "{unknown:?}");
    let all = lab.podgate(&["table", "flow", "flush"])?;
    ensure!(all.status.code() == Some(2), "a flush of everything needs --all");
    text(&lab, &["table", "flow", "flush", "--all"])?;
    agent.stop()
}

#[test]
fn an_endpoint_has_a_health_and_a_log() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let _agent = Agent::start(&lab, 1)?;
    let health = text(&lab, &["endpoint", "health", "backend/nginx"])?;
    ensure!(health.contains("Overall Health:   OK"), "{health}");
    let log = text(&lab, &["endpoint", "log", "backend/nginx"])?;
    ensure!(log.starts_with("TIMESTAMP") && log.contains("ready"), "{log}");
    let link = &lab.host("backend/nginx")?.link;
    text(&lab, &["endpoint", "remove", "--link", link])?;
    let log = text(&lab, &["endpoint", "log", link])?;
    ensure!(log.contains("the endpoint was removed"), "{log}");
    let version = text(&lab, &["version"])?;
    ensure!(version.starts_with("podgate "), "{version}");
    Ok(())
}

#[test]
fn the_monitor_shows_verdicts_drops_and_requests_as_they_happen() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let _agent = Agent::start(&lab, 1)?;
    let mut command = lab.node().netns.daemon(program()?);
    command.args(["monitor", "-v", "--related-to", "backend/nginx", "--socket"]);
    command.arg(lab.state_dir().join("podgate.sock"));
    let mut monitor = Daemon::start("monitor", command, lab.file("monitor.log"))?;
    let nginx = lab.host("backend/nginx")?;
    let lines = [
        "action deny, match none",
        "ingress: default deny of",
        "action redirect, match L3-L4",
        "verdict Denied HTTP/1.1 GET",
        "request matches no rule of CiliumNetworkPolicy backend/allow-api-from-admin",
        "<- Response",
    ];
    monitor.wait_until("the lines", BOUND, |monitor| {
        // The monitor misses what happens before it follows the events.
        for (from, path) in [("admin/adminapp", "/docs"), ("admin/adminapp", "/secret")] {
            Get::path(path).fetch(lab.host(from)?, nginx, Family::V4)?;
        }
        let denied = Get::path("/docs").fetch(lab.host("other/stranger")?, nginx, Family::V4)?;
        ensure!(matches!(denied, Outcome::NoAnswer), "{denied:?}");
        let log = monitor.log();
        Ok(lines.iter().all(|line| log.contains(line)).then_some(()))
    })
}
