//! The Prometheus endpoint, and `podgate status`, of a real agent.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use podgate_tests::lab::{Agent, Family, Get, Lab, Outcome, run, wait_for};
use podgate_tests::scenario::MANIFESTS;

const BOUND: Duration = Duration::from_secs(30);
const ADDRESS: &str = "127.0.0.1:9965";

/// What the endpoint answers.
fn scrape(lab: &Lab) -> Result<String> {
    let mut curl = lab.node().netns.bounded("curl", BOUND);
    run(curl.args(["-sSf", "--noproxy", "*", &format!("http://{ADDRESS}/metrics")]))
}

/// Sum of the samples of a metric whose labels have `label`.
fn sum(text: &str, name: &str, label: &str) -> f64 {
    let samples = text.lines().filter(|line| {
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']))
            && line.contains(label)
    });
    samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

fn promtool(text: &str) -> Result<()> {
    let mut child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("promtool is in Debian's package prometheus")?;
    child.stdin.take().context("it has an input")?.write_all(text.as_bytes())?;
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() && said.is_empty(), "{said}");
    Ok(())
}

#[test]
fn metrics_of_all_parts_are_served() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let mut agent = Agent::start_with(&lab, 2, &["--metrics-listen", ADDRESS])?;
    // Threads are counted each second, by names that they give themselves when they run.
    let text = agent.wait_until("workers to be alive", |lab| {
        let text = scrape(lab)?;
        let is_alive =
            |worker| text.contains(&format!("podgate_worker_alive{{worker=\"{worker}\"}} 1\n"));
        Ok((0..2).all(is_alive).then_some(text))
    })?;
    promtool(&text)?;
    assert!(sum(&text, "podgate_memory_bytes", "kind=\"bpf\"") > 0.0, "{text}");
    agent.stop()
}

#[test]
fn each_request_of_a_rule_is_counted() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let agent = Agent::start_with(&lab, 2, &["--metrics-listen", ADDRESS])?;
    let (admin, stranger) = (lab.host("admin/adminapp")?, lab.host("other/stranger")?);
    let nginx = lab.host("backend/nginx")?;
    let before = scrape(&lab)?;
    let requests = 5;
    for _ in 0..requests {
        let outcome = Get::path("/docs").fetch(admin, nginx, Family::V4)?;
        let is_ok = matches!(&outcome, Outcome::Answer(answer) if answer.status == 200);
        assert!(is_ok, "{outcome:?}");
    }
    assert_eq!(Get::path("/docs").fetch(stranger, nginx, Family::V4)?, Outcome::NoAnswer);
    let after = scrape(&lab)?;
    promtool(&after)?;
    let grown = |name: &str, label: &str| sum(&after, name, label) - sum(&before, name, label);
    // Each request is a connection of its own: the rule decides on both.
    let hits = grown("podgate_rule_hits_total", "verdict=\"allowed\"");
    assert!(hits >= f64::from(2 * requests), "{hits}: {after}");
    assert!(grown("podgate_default_deny_packets_total", "ingress") > 0.0, "{after}");
    assert_eq!(grown("podgate_l7_responses_total", "result=\"2xx\""), f64::from(requests));
    let counted = grown("cilium_proxy_upstream_reply_seconds_count", "protocol_l7=\"http\"");
    assert_eq!(counted, f64::from(requests));
    agent.stop()
}

#[test]
fn bytes_of_live_flows_are_counted_for_their_rule() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let agent = Agent::start_with(&lab, 2, &["--metrics-listen", ADDRESS])?;
    let bytes = || -> Result<f64> {
        Ok(sum(&scrape(&lab)?, "podgate_rule_bytes_total", "verdict=\"allowed\""))
    };
    assert_eq!(bytes()?, 0.0);
    let (admin, nginx) = (lab.host("admin/adminapp")?, lab.host("backend/nginx")?);
    let _connection = admin.connect(nginx, 80, Family::V4)?;
    // They are added every ten seconds.
    wait_for("the bytes of the rule", BOUND, || Ok((bytes()? > 0.0).then_some(())))?;
    agent.stop()
}

#[test]
fn the_status_names_what_is_rejected_and_what_is_not_ready() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    lab.write_manifest("bad.yaml", BAD)?;
    let agent = Agent::start(&lab, 1)?;
    let status = lab.podgate_json(&["status", "--wait", "--wait-duration", "60s"])?;
    let rejected = status["health"]["rejected"].to_string();
    assert!(rejected.contains("backend/bad"), "{rejected}");
    let tables = status["health"]["tables"].as_array().map(Vec::len);
    assert_eq!(tables, Some(6));
    let verbose = String::from_utf8(lab.podgate(&["status", "--verbose"])?.stdout)?;
    for expected in ["rejected: NetworkPolicy backend/bad: ", "pg-worker-0", "inspected_flows"] {
        assert!(verbose.contains(expected), "{expected}: {verbose}");
    }
    let known = lab.podgate_json(&["ip", "list"])?.to_string();
    assert!(known.contains("\"pod\":\"backend/nginx\""), "{known}");
    agent.stop()?;
    // No agent: not ready, as soon as the time to wait is over.
    let output = lab.podgate(&["status", "--brief", "--wait", "--wait-duration", "0s"])?;
    assert_eq!(output.status.code(), Some(3));
    Ok(())
}

const BAD: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: backend, name: bad}
spec:
  podSelector: {}
  ingress: [{ports: [{port: 70000}]}]
";
