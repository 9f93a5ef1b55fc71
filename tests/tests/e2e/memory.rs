//! The agent returns memory to the kernel.

use std::fmt::Write as _;
use std::fs;

use anyhow::{Context, Result, ensure};
use podgate_tests::lab::{Agent, Lab};
use podgate_tests::scenario::MANIFESTS;

const FILE: &str = "many.yaml";
const POLICIES: usize = 5_000;

/// Resident anonymous memory of a process, kB (proc_pid_status(5)).
fn resident_kb(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let number = line.and_then(|line| line.split_whitespace().next()).context("no RssAnon")?;
    Ok(number.parse()?)
}

fn many_policies() -> Result<String> {
    let mut text = String::new();
    for number in 0..POLICIES {
        writeln!(
            text,
            "---\n\
             {{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, \
             metadata: {{namespace: many, name: policy-{number}}}, \
             spec: {{podSelector: {{matchLabels: {{app: app-{number}}}}}, ingress: [{{\
             from: [{{podSelector: {{matchLabels: {{role: role-{number}}}}}}}], \
             ports: [{{port: {}}}]}}]}}}}",
            1 + number % 60_000
        )?;
    }
    Ok(text)
}

#[test]
fn the_memory_of_removed_policies_is_given_back() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let mut agent = Agent::start(&lab, 1)?;
    let pid = agent.pid();
    let before = resident_kb(pid)?;
    lab.write_manifest(FILE, &many_policies()?)?;
    let has_policies = |lab: &Lab, wanted: bool| -> Result<Option<()>> {
        let status = lab.podgate_json(&["status"])?;
        let policies = status["policies"].as_u64().context("no number of policies")?;
        Ok(((policies >= POLICIES as u64) == wanted).then_some(()))
    };
    agent.wait_until("the policies to be in force", |lab| has_policies(lab, true))?;
    let with_policies = resident_kb(pid)?;
    let growth = with_policies.saturating_sub(before);
    ensure!(growth > 20 * 1024, "{POLICIES} policies take only {growth} kB");
    lab.remove_manifest(FILE)?;
    agent.wait_until("the policies to be removed", |lab| has_policies(lab, false))?;
    agent.wait_until("the memory to be returned", |_| {
        Ok((resident_kb(pid)? < before + growth / 4).then_some(()))
    })?;
    agent.stop()
}
