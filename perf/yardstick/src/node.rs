//! The real agent on a node with many pods: its CPU usage when idle, and the time to attach one
//! more pod.

use std::fmt::Write as _;
use std::fs;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use podgate_tests::lab::{Agent, Host, Lab, program};

use crate::context::Context;
use crate::measure::{Limit, Measurement};

pub(crate) const IDLE: &str = "idle.cpu";
pub(crate) const ATTACH: &str = "attach.250";

/// Percent of a core.
const BAR_IDLE: f64 = 1.0;
const BAR_ATTACH_MS: f64 = 50.0;

/// Number of attached pods while the agent is idle.
const IDLE_PODS: usize = 100;
/// Number of pods, including the last one, whose attachment is timed.
const PODS: usize = 250;

/// Duration of one measurement of the idle agent.
const WATCH: Duration = Duration::from_secs(5);
const WATCH_QUICK: Duration = Duration::from_secs(2);

/// Measures the agent.
///
/// # Errors
/// When the lab can't be built, or a pod can't be attached.
pub(crate) fn measure(context: &Context) -> Result<Vec<Measurement>> {
    let pods = if context.wants(ATTACH) { PODS } else { IDLE_PODS };
    context.status(format!("making {pods} pods"));
    let folder = tempfile::tempdir()?;
    fs::write(folder.path().join("pods.yaml"), manifest(pods))?;
    let lab = Lab::new(folder.path())?;
    let room = pods.to_string();
    let agent = Agent::start_bare(&lab, 1, &["--max-endpoints", &room])?;
    let pods: Vec<&Host> = lab.pods().collect();
    let mut results = Vec::new();
    let mut attached = 0;
    if context.wants(IDLE) {
        attach_all(context, &lab, &pods[..IDLE_PODS])?;
        attached = IDLE_PODS;
        results.push(idle(context, &agent)?);
    }
    if context.wants(ATTACH) {
        attach_all(context, &lab, &pods[attached..PODS - 1])?;
        results.push(attach_last(context, &lab, pods[PODS - 1])?);
    }
    agent.stop()?;
    Ok(results)
}

/// A namespace with `pods` pods in it.
pub(crate) fn manifest(pods: usize) -> String {
    let mut text = "apiVersion: v1\nkind: Namespace\nmetadata: {name: many}\n".to_owned();
    for pod in 0..pods {
        let _ = write!(
            text,
            "---\napiVersion: v1\nkind: Pod\n\
             metadata: {{name: pod-{pod:03}, namespace: many, labels: {{app: idle}}}}\n\
             status: {{phase: Running, podIPs: [{{ip: 10.64.1.{pod}}}, {{ip: \"fd00:64::{pod:x}\"}}]}}\n"
        );
    }
    text
}

fn attach_all(context: &Context, lab: &Lab, pods: &[&Host]) -> Result<()> {
    for (done, pod) in pods.iter().enumerate() {
        context.status(format!("attaching pod {} of {}", done + 1, pods.len()));
        attach(lab, pod)?;
    }
    Ok(())
}

/// CPU time of the idle agent's threads, percent of a core.
fn idle(context: &Context, agent: &Agent<'_>) -> Result<Measurement> {
    let watch = if context.quick { WATCH_QUICK } else { WATCH };
    let mut values = Vec::new();
    for round in 0..context.rounds {
        context.status(format!("{IDLE}: round {} of {}", round + 1, context.rounds));
        let (before, begin) = (cpu_time(agent.pid())?, Instant::now());
        thread::sleep(watch);
        let (used, passed) = (cpu_time(agent.pid())? - before, begin.elapsed());
        values.push(used.as_secs_f64() / passed.as_secs_f64() * 100.0);
    }
    let threads = tasks(agent.pid())?.len();
    Ok(Measurement::new(IDLE, "% of a core", values)
        .bar(Limit::AtMost(BAR_IDLE))
        .note(format!("{IDLE_PODS} pods attached, one worker, all {threads} threads of the agent")))
}

/// CPU time of all threads of a process.
pub(crate) fn cpu_time(pid: u32) -> Result<Duration> {
    let mut total = Duration::ZERO;
    for task in tasks(pid)? {
        // The first field is nanoseconds on a CPU (Documentation/scheduler/sched-stats.rst).
        let path = task.join("schedstat");
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let nanos = text.split_whitespace().next().and_then(|number| number.parse().ok());
        total += Duration::from_nanos(nanos.with_context(|| format!("not a number: {text}"))?);
    }
    Ok(total)
}

/// Folders of the process's threads in `/proc`.
fn tasks(pid: u32) -> Result<Vec<std::path::PathBuf>> {
    let folder = format!("/proc/{pid}/task");
    let entries = fs::read_dir(&folder).with_context(|| folder.clone())?;
    Ok(entries.map(|entry| Ok(entry?.path())).collect::<Result<_, std::io::Error>>()?)
}

/// Attaches and detaches the last pod in each round.
fn attach_last(context: &Context, lab: &Lab, pod: &Host) -> Result<Measurement> {
    let (mut values, mut starts) = (Vec::new(), Vec::new());
    for round in 0..context.rounds {
        context.status(format!("{ATTACH}: round {} of {}", round + 1, context.rounds));
        values.push(attach(lab, pod)?.as_secs_f64() * 1e3);
        starts.push(client(lab, &["version"])?.as_secs_f64() * 1e3);
        client(lab, &["endpoint", "remove", "--link", &pod.link])?;
    }
    let start = Measurement::new("", "ms", starts).median();
    Ok(Measurement::new(ATTACH, "ms", values).bar(Limit::AtMost(BAR_ATTACH_MS)).note(format!(
        "duration of `podgate endpoint add`, of which starting the program takes {start:.1} ms"
    )))
}

/// Attaches a pod. Returns the duration of the client command.
fn attach(lab: &Lab, pod: &Host) -> Result<Duration> {
    let netns = pod.netns.path().display().to_string();
    let (link, name) = (&pod.link, &pod.name);
    client(lab, &["endpoint", "add", "--link", link, "--pod", name, "--netns", &netns])
}

/// Runs a client command and returns its duration. The lab's method would start two more programs
/// around it.
fn client(lab: &Lab, args: &[&str]) -> Result<Duration> {
    let mut command = Command::new(program()?);
    command.args(args).env("PODGATE_SOCKET", lab.state_dir().join("podgate.sock"));
    command.stdin(Stdio::null());
    let begin = Instant::now();
    let output = command.output().context("can't start podgate")?;
    let took = begin.elapsed();
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "podgate {}: {}", args.join(" "), said.trim());
    Ok(took)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_process_uses_cpu_time() {
        let before = cpu_time(std::process::id()).unwrap();
        while cpu_time(std::process::id()).unwrap() == before {}
    }

    #[test]
    fn pods_have_distinct_names_and_addresses() {
        let text = manifest(250);
        assert_eq!(text.matches("kind: Pod").count(), 250);
        assert!(text.contains("name: pod-249") && text.contains("ip: 10.64.1.249"));
        assert!(text.contains("fd00:64::f9"));
    }
}
