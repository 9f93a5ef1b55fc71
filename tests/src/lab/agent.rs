//! The real `podgate`: as an agent on the lab's node, and as a client of it.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::process::{output, run, wait_for};
use super::{Daemon, Host, Lab};

/// Timeout for the agent to become ready, or to exit after a signal.
const AGENT_BOUND: Duration = Duration::from_secs(60);
/// Timeout of one client command.
const CLIENT_BOUND: Duration = Duration::from_secs(30);

/// Which endpoints an agent is started with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Endpoints {
    /// One for every pod of the lab.
    AllPods,
    /// Those that it has saved.
    Saved,
}

/// An agent that runs on the node. Dropping it kills it; the pods stay cut off until the lab is
/// dropped.
#[derive(Debug)]
pub struct Agent<'lab> {
    lab: &'lab Lab,
    daemon: Daemon,
}

impl<'lab> Agent<'lab> {
    /// Starts the agent with an endpoint for every pod of the lab, and waits until it is ready.
    ///
    /// # Errors
    /// When it ends or doesn't become ready; the error carries the end of its log.
    pub fn start(lab: &'lab Lab, workers: u16) -> Result<Self> {
        Self::start_with(lab, workers, &[])
    }

    /// As [`Self::start`], with more options.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_with(lab: &'lab Lab, workers: u16, options: &[&str]) -> Result<Self> {
        let mut agent = Self::launch(
            lab,
            workers,
            "--manifests",
            &lab.manifests(),
            Endpoints::AllPods,
            options,
        )?;
        agent.wait_ready()?;
        Ok(agent)
    }

    /// As [`Self::start_with`], without endpoints.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_bare(lab: &'lab Lab, workers: u16, options: &[&str]) -> Result<Self> {
        let manifests = lab.manifests();
        let mut agent =
            Self::launch(lab, workers, "--manifests", &manifests, Endpoints::Saved, options)?;
        agent.wait_ready()?;
        Ok(agent)
    }

    /// As [`Self::start`], with objects from the API server that `kubeconfig` names, and without
    /// waiting.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start_for_cluster(lab: &'lab Lab, workers: u16, kubeconfig: &Path) -> Result<Self> {
        Self::launch(lab, workers, "--kubeconfig", kubeconfig, Endpoints::AllPods, &[])
    }

    /// Starts the agent again after it has stopped, with the endpoints that it has saved.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn restart(lab: &'lab Lab, workers: u16) -> Result<Self> {
        Self::start_bare(lab, workers, &[])
    }

    /// As [`Self::restart`], without waiting until it is ready.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn restart_without_waiting(lab: &'lab Lab, workers: u16) -> Result<Self> {
        Self::launch(lab, workers, "--manifests", &lab.manifests(), Endpoints::Saved, &[])
    }

    fn launch(
        lab: &'lab Lab,
        workers: u16,
        option: &str,
        source: &Path,
        endpoints: Endpoints,
        options: &[&str],
    ) -> Result<Self> {
        let mut command = lab.node().netns.daemon(program()?);
        command.arg("run").arg(option).arg(source).arg("--state-dir").arg(lab.state_dir());
        command.args(["--workers", &workers.to_string()]).args(options);
        if endpoints == Endpoints::AllPods {
            let file = lab.file("endpoints.yaml");
            fs::write(&file, endpoint_file(lab))?;
            command.arg("--endpoints").arg(file);
        }
        let daemon = Daemon::start("podgate", command, lab.file("podgate.log"))?;
        Ok(Self { lab, daemon })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.daemon.pid()
    }

    /// Waits until the agent is ready.
    ///
    /// # Errors
    /// When it ends or doesn't become ready; the error carries the end of its log.
    pub fn wait_ready(&mut self) -> Result<()> {
        self.wait_until("podgate to be ready", |lab| {
            let status = lab.podgate(&["status", "--brief"])?;
            Ok(status.status.success().then_some(()))
        })
    }

    /// Waits until `probe` yields a value while the agent runs.
    ///
    /// # Errors
    /// When a minute passes or the agent exits; the error carries the end of its log.
    pub fn wait_until<T>(
        &mut self,
        what: &str,
        mut probe: impl FnMut(&Lab) -> Result<Option<T>>,
    ) -> Result<T> {
        let lab = self.lab;
        self.daemon.wait_until(what, AGENT_BOUND, |_| probe(lab))
    }

    /// Waits until a thread of the agent is blocked in opening a FIFO that has no writer.
    ///
    /// # Errors
    /// As [`Self::wait_until`].
    pub fn wait_for_hanging_open(&mut self) -> Result<()> {
        let tasks = format!("/proc/{}/task", self.pid());
        self.wait_until("a thread to block in open", |_| {
            let threads = fs::read_dir(&tasks)?.flatten();
            let waits = threads.map(|task| fs::read_to_string(task.path().join("wchan")));
            Ok(waits.flatten().any(|wait| wait.contains("wait_for_partner")).then_some(()))
        })
    }

    /// Fails if the agent has exited.
    ///
    /// # Errors
    /// With the end of its log.
    pub fn assert_alive(&mut self) -> Result<()> {
        let exited = self.daemon.exited()?;
        ensure!(exited.is_none(), "podgate ended ({exited:?}): {}", self.daemon.log());
        Ok(())
    }

    /// Makes the agent reload its manifests (SIGHUP).
    ///
    /// # Errors
    /// When it has ended.
    pub fn reload(&self) -> Result<()> {
        self.daemon.signal(Signal::SIGHUP)
    }

    /// Suspends the agent until [`Self::resume`] (SIGSTOP).
    ///
    /// # Errors
    /// When it has ended.
    pub fn suspend(&self) -> Result<()> {
        self.daemon.signal(Signal::SIGSTOP)
    }

    /// Resumes the agent (SIGCONT).
    ///
    /// # Errors
    /// When it has ended.
    pub fn resume(&self) -> Result<()> {
        self.daemon.signal(Signal::SIGCONT)
    }

    /// Stops the agent by SIGTERM, as systemd would.
    ///
    /// # Errors
    /// When it doesn't exit, or with another status than 0.
    pub fn stop(self) -> Result<()> {
        let (status, log) = self.end(Signal::SIGTERM)?;
        ensure!(status.success(), "podgate ended with {status}: {log}");
        Ok(())
    }

    /// Requests a stop by SIGTERM that can't be clean. Returns the log.
    ///
    /// # Errors
    /// When it doesn't exit, or with another status than 1.
    pub fn stop_uncleanly(self) -> Result<String> {
        let (status, log) = self.end(Signal::SIGTERM)?;
        ensure!(status.code() == Some(1), "podgate ended with {status}: {log}");
        Ok(log)
    }

    /// Kills the agent (SIGKILL).
    ///
    /// # Errors
    /// When it doesn't exit.
    pub fn kill(self) -> Result<()> {
        self.end(Signal::SIGKILL).map(drop)
    }

    fn end(mut self, signal: Signal) -> Result<(ExitStatus, String)> {
        self.daemon.signal(signal)?;
        let status = self.daemon.wait_exit(AGENT_BOUND)?;
        Ok((status, self.daemon.log()))
    }
}

impl Lab {
    /// The agent's state directory.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.file("state")
    }

    /// Runs a client command, on the node, against the lab's agent.
    ///
    /// # Errors
    /// When the program can't be found or started; not when it exits with another status than 0.
    pub fn podgate(&self, args: &[&str]) -> Result<Output> {
        output(&mut self.podgate_command(args)?)
    }

    /// Runs a client command and parses what it prints as JSON.
    ///
    /// # Errors
    /// When it fails, or prints no JSON.
    pub fn podgate_json(&self, args: &[&str]) -> Result<Value> {
        let text = run(self.podgate_command(args)?.args(["-o", "json"]))?;
        serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))
    }

    /// Runs `podgate flows`, or `observe`, and parses the records that it prints.
    ///
    /// # Errors
    /// When it fails, or a line is not JSON.
    pub fn podgate_json_lines(&self, args: &[&str]) -> Result<Vec<Value>> {
        let text = run(self.podgate_command(args)?.args(["-o", "record"]))?;
        let parse = |line| serde_json::from_str(line).with_context(|| format!("not JSON: {line}"));
        text.lines().map(parse).collect()
    }

    /// Packets dropped so far for `reason`, a label of the metrics.
    ///
    /// # Errors
    /// When the agent doesn't answer.
    pub fn drops(&self, reason: &str) -> Result<u64> {
        let status = self.podgate_json(&["status"])?;
        let drops = status["drops"].as_array().context("status has no drops")?;
        let found = drops.iter().find(|drop| drop["reason"] == reason);
        Ok(found.and_then(|drop| drop["packets"].as_u64()).unwrap_or(0))
    }

    /// The value of a metric without labels, or the sum over its labels.
    ///
    /// # Errors
    /// When there is no such metric.
    pub fn metric(&self, name: &str) -> Result<u64> {
        let families = self.podgate_json(&["metrics"])?;
        let mut families = families.as_array().into_iter().flatten();
        let family = families.find(|family| family["name"] == name);
        let samples = family.with_context(|| format!("no metric {name}"))?["samples"].as_array();
        Ok(samples.into_iter().flatten().filter_map(|sample| sample["value"].as_u64()).sum())
    }

    /// Waits until the endpoint of `pod` is in `state`.
    ///
    /// # Errors
    /// When that takes longer than a minute.
    pub fn wait_for_endpoint(&self, pod: &Host, state: &str) -> Result<()> {
        wait_for(&format!("{} to be {state}", pod.name), AGENT_BOUND, || {
            let list = self.podgate_json(&["endpoint", "list"])?;
            let mut endpoints = list.as_array().into_iter().flatten();
            let is_in_state = |e: &Value| e["pod"] == pod.name.as_str() && e["state"] == state;
            Ok(endpoints.any(is_in_state).then_some(()))
        })
    }

    /// Makes the agent attach a pod.
    ///
    /// # Errors
    /// When the agent rejects the request.
    pub fn add_endpoint(&self, pod: &Host) -> Result<()> {
        let netns = pod.netns.path();
        let mut command = self.podgate_command(&["endpoint", "add", "--link", &pod.link])?;
        run(command.args(["--pod", &pod.name, "--netns"]).arg(netns)).map(drop)
    }

    fn podgate_command(&self, args: &[&str]) -> Result<Command> {
        let path = program()?.to_str().context("the path of podgate is not UTF-8")?;
        let mut command = self.node().netns.bounded(path, CLIENT_BOUND);
        command.args(args).env("PODGATE_SOCKET", self.state_dir().join("podgate.sock"));
        Ok(command)
    }

    /// Runs `podgate cleanup`: removes pinned programs, the host link and routes.
    pub(super) fn podgate_cleanup(&self) -> Result<()> {
        let state = self.state_dir();
        if state.exists() {
            run(self.podgate_command(&["cleanup", "--state-dir"])?.arg(state))?;
        }
        Ok(())
    }
}

fn endpoint_file(lab: &Lab) -> String {
    let endpoint = |pod: &Host| {
        let netns = pod.netns.path();
        format!("  - {{link: {}, pod: {}, netns: {}}}\n", pod.link, pod.name, netns.display())
    };
    std::iter::once("endpoints:\n".to_owned()).chain(lab.pods().map(endpoint)).collect()
}

/// The `podgate` program: `PODGATE_BIN`, or what cargo builds from this workspace in the profile
/// that the tests were built in. (Cargo names a package's programs to the tests of that package
/// only.)
///
/// # Errors
/// When the build fails.
pub fn program() -> Result<&'static Path> {
    static PROGRAM: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let found = PROGRAM.get_or_init(|| match env::var_os("PODGATE_BIN") {
        Some(path) => Ok(path.into()),
        None => build().map_err(|error| format!("{error:#}")),
    });
    found.as_deref().map_err(|error| anyhow!(error.clone()))
}

fn build() -> Result<PathBuf> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    // With one of the tests, so that crates have the features that `cargo test --workspace` gave
    // them, and are not compiled again.
    command.args(["build", "--workspace", "--bins", "--test", "tidy"]);
    command.arg("--message-format=json-render-diagnostics");
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    // The build must not inherit the variables that cargo set for this package: some build scripts
    // (ring's) run again when they change.
    let of_package = |name: &str| {
        ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|prefix| name.starts_with(prefix))
    };
    for (name, _) in env::vars().filter(|(name, _)| of_package(name)) {
        command.env_remove(name);
    }
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    let messages = run(&mut command)?;
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut programs = messages.filter(|message| message["target"]["name"] == "podgate");
    programs
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .context("cargo built no program podgate")
}
