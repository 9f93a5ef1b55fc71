//! Manifests that are truncated, broken or missing for a moment, or over a restart, lift no policy.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use podgate_tests::lab::{Agent, Family, Get, Lab, Outcome};
use podgate_tests::scenario::MANIFESTS;

/// A manifest whose policy denies all ingress to `other/stranger`.
const FILE: &str = "isolated.yaml";

const ISOLATED: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: nobody, namespace: other }
spec: { podSelector: {}, policyTypes: [Ingress] }
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: nobody-either, namespace: other }
spec: { podSelector: {}, policyTypes: [Ingress] }
";

/// Fails unless the policies of [`ISOLATED`] are in force.
fn assert_isolated(lab: &Lab, when: &str) -> Result<()> {
    let seen = lab.node().ping(lab.host("admin/adminapp")?, Family::V4)?;
    ensure!(seen != Outcome::NoAnswer, "{when}: nothing passes at all");
    let seen = lab.host("admin/adminapp")?.ping(lab.host("other/stranger")?, Family::V4)?;
    ensure!(seen == Outcome::NoAnswer, "{when}: the isolated pod was reached: {seen:?}");
    Ok(())
}

fn problems(lab: &Lab) -> Result<Vec<String>> {
    let status = lab.podgate_json(&["status"])?;
    let problems = status["source"]["problems"].as_array().context("no problems in status")?;
    Ok(problems.iter().filter_map(|problem| problem.as_str().map(str::to_owned)).collect())
}

/// Waits until `podgate status` reports a problem with `wanted` in it.
fn wait_for_problem(agent: &mut Agent, wanted: &str) -> Result<()> {
    agent.wait_until(wanted, |lab| {
        Ok(problems(lab)?.iter().any(|problem| problem.contains(wanted)).then_some(()))
    })
}

fn wait_for_no_problem(agent: &mut Agent) -> Result<()> {
    agent.wait_until("no problem", |lab| Ok(problems(lab)?.is_empty().then_some(())))
}

#[test]
fn a_briefly_truncated_or_missing_file_lifts_no_policy() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    lab.write_manifest(FILE, ISOLATED)?;
    let mut agent = Agent::start(&lab, 1)?;
    assert_isolated(&lab, "at the start")?;
    let path = lab.manifests().join(FILE);

    fs::write(&path, "")?;
    wait_for_problem(&mut agent, "is empty")?;
    assert_isolated(&lab, "emptied")?;
    fs::write(&path, ISOLATED.split("---").next().unwrap_or_default())?;
    wait_for_problem(&mut agent, "cut short")?;
    assert_isolated(&lab, "cut at a document boundary")?;
    fs::remove_file(&path)?;
    symlink("nothing", &path)?;
    wait_for_problem(&mut agent, "is a link to nothing")?;
    assert_isolated(&lab, "a link to nothing")?;
    fs::remove_file(&path)?;
    fs::create_dir(&path)?;
    wait_for_problem(&mut agent, "is a directory")?;
    assert_isolated(&lab, "a directory in its place")?;
    fs::remove_dir(&path)?;
    fs::write(&path, ISOLATED)?;
    wait_for_no_problem(&mut agent)?;
    assert_isolated(&lab, "removed and recreated")?;

    let away = lab.file("manifests-away");
    fs::rename(lab.manifests(), &away)?;
    wait_for_problem(&mut agent, "can't be read")?;
    fs::create_dir(lab.manifests())?;
    wait_for_problem(&mut agent, "was replaced by an empty directory")?;
    assert_isolated(&lab, "an empty directory in place of the one that was")?;
    fs::remove_dir(lab.manifests())?;
    fs::rename(&away, lab.manifests())?;
    wait_for_no_problem(&mut agent)?;

    // Once the file is removed for good, so is its policy.
    lab.remove_manifest(FILE)?;
    let (admin, stranger) = (lab.host("admin/adminapp")?, lab.host("other/stranger")?);
    agent.wait_until("the isolated pod to be reached", |_| {
        Ok((admin.ping(stranger, Family::V4)? != Outcome::NoAnswer).then_some(()))
    })?;
    agent.stop()
}

#[test]
fn a_file_broken_while_the_agent_is_stopped_lifts_no_policy() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    lab.write_manifest(FILE, ISOLATED)?;
    let agent = Agent::start(&lab, 1)?;
    let kept = lab.state_dir().join("last-good");
    let files = fs::read_dir(lab.manifests())?.count();
    podgate_tests::lab::wait_for("last good objects on disk", Duration::from_secs(60), || {
        Ok((fs::read_dir(&kept)?.count() == files).then_some(()))
    })?;
    agent.stop()?;
    lab.write_manifest(FILE, "apiVersion: networking.k8s.io/v1\nkind: [NetworkPolicy\n")?;
    let mut agent = Agent::restart(&lab, 1)?;
    wait_for_problem(&mut agent, "stay in force")?;
    assert_isolated(&lab, "broken over a restart")?;
    agent.stop()?;

    // With no saved objects of the file, nothing passes, and status says why.
    fs::remove_dir_all(&kept)?;
    let mut agent = Agent::restart_without_waiting(&lab, 1)?;
    agent.wait_until("status to name the file", |lab| {
        let output = lab.podgate(&["status", "--brief"])?;
        let text = String::from_utf8_lossy(&output.stdout);
        Ok((output.status.code() == Some(3) && text.contains(FILE)).then_some(()))
    })?;
    let seen = lab.node().ping(lab.host("admin/adminapp")?, Family::V4)?;
    assert_eq!(seen, Outcome::NoAnswer);
    lab.write_manifest(FILE, ISOLATED)?;
    agent.wait_ready()?;
    assert_isolated(&lab, "mended")?;
    agent.stop()
}

#[test]
fn sighup_reloads_the_manifests_and_the_log_filter() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let filter = lab.file("log-filter");
    fs::write(&filter, "info\n")?;
    let argument = format!("@{}", filter.display());
    let mut agent = Agent::start_with(&lab, 1, &["--log", &argument])?;
    fs::write(&filter, "info,podgate::agent=debug\n")?;
    agent.reload()?;
    let log = lab.file("podgate.log");
    let wait_for_line = |agent: &mut Agent, line: &str| {
        agent.wait_until(line, |_| Ok(fs::read_to_string(&log)?.contains(line).then_some(())))
    };
    wait_for_line(&mut agent, "podgate::agent=debug")?;
    fs::write(&filter, "podgate=loudest\n")?;
    agent.reload()?;
    wait_for_line(&mut agent, "the log filter stays as it was")?;
    let (admin, store) = (lab.host("admin/adminapp")?, lab.host("backend/store")?);
    let get = Get { port: 8080, ..Get::path("/items") };
    assert!(matches!(get.fetch(admin, store, Family::V4)?, Outcome::Answer(_)));
    agent.stop()
}

#[test]
fn sigterm_ends_an_agent_with_a_hanging_thread() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let mut agent = Agent::start(&lab, 1)?;
    // Opening a FIFO blocks until it has a writer.
    let fifo = lab.file("netns-that-hangs");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU)?;
    let stranger = lab.host("other/stranger")?;
    let (link, netns) = (stranger.link.as_str(), fifo.to_string_lossy());
    lab.podgate(&["endpoint", "remove", "--link", link])?;
    std::thread::scope(|scope| {
        let args =
            ["endpoint", "add", "--link", link, "--pod", "other/stranger", "--netns", &netns];
        let lab = &lab;
        let client = scope.spawn(move || lab.podgate(&args));
        agent.wait_for_hanging_open()?;
        // The FIFO never gets a writer, so the thread hangs until the agent exits.
        agent.stop()?;
        let client = client.join().map_err(|_| anyhow::anyhow!("the client panicked"))??;
        let message = String::from_utf8_lossy(&client.stderr);
        let gave_up = message.contains("did not answer within");
        ensure!(!gave_up, "the agent waited for its client to give up: {message}");
        Ok(())
    })
}
