//! Programs that the lab starts: short ones with a time bound, and daemons that die with us.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::signals;

/// How often a condition is looked at while we wait for it.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Waits until `probe` yields a value, looking every few milliseconds, for at most `bound`.
///
/// # Errors
/// Names `what` when `bound` has passed; passes on an error of `probe` at once; ends after a signal
/// that asks this process to end.
pub fn wait_for<T>(
    what: &str,
    bound: Duration,
    mut probe: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        signals::check()?;
        if let Some(value) = probe()? {
            return Ok(value);
        }
        if start.elapsed() > bound {
            bail!("waited {bound:?} in vain for {what}");
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// `program` under coreutils' `timeout`, which ends it after `bound` (exit status 124).
///
/// It gets a process group of its own, so that a Ctrl-C at the terminal reaches only the lab,
/// which then takes everything down in order.
#[must_use]
pub fn bounded(program: &str, bound: Duration) -> Command {
    let mut command = Command::new("timeout");
    command.arg("--kill-after=1").arg(format!("{:.3}", bound.as_secs_f64())).arg(program);
    command.process_group(0).stdin(Stdio::null());
    command
}

/// Runs `command` to its end.
///
/// # Errors
/// When it can't be started or exits with another status than zero: the error carries the command
/// line and what it wrote.
pub fn run(command: &mut Command) -> Result<String> {
    let output = output(command)?;
    if !output.status.success() {
        bail!(
            "{}: {}{}{}",
            line(command),
            output.status,
            tail("; stderr: ", &output.stderr),
            tail("; stdout: ", &output.stdout)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs `command` to its end and returns whatever came of it.
///
/// # Errors
/// When it can't be started.
pub fn output(command: &mut Command) -> Result<Output> {
    command.output().with_context(|| format!("can't start {}", line(command)))
}

fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

fn tail(label: &str, text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    match text.trim() {
        "" => String::new(),
        text => format!("{label}{text}"),
    }
}

/// A program that runs until we end it. Dropping it kills it.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Daemon {
    /// Starts `command`, in a process group of its own, with both outputs in the file `log`.
    ///
    /// # Errors
    /// When the log can't be created or the program not started.
    pub fn start(name: &str, mut command: Command, log: PathBuf) -> Result<Self> {
        let stdout =
            File::create(&log).with_context(|| format!("can't create {}", log.display()))?;
        let stderr = stdout.try_clone()?;
        command.stdin(Stdio::null()).stdout(stdout).stderr(stderr).process_group(0);
        let child =
            command.spawn().with_context(|| format!("can't start {name}: {}", line(&command)))?;
        Ok(Self { child, name: name.to_owned(), log })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Its exit status, or `None` while it runs.
    ///
    /// # Errors
    /// When the system refuses to tell.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits until `probe` yields a value while the daemon lives.
    ///
    /// # Errors
    /// When `bound` passes or the daemon ends first; the error carries the end of its log.
    pub fn wait_until<T>(
        &mut self,
        what: &str,
        bound: Duration,
        mut probe: impl FnMut(&mut Self) -> Result<Option<T>>,
    ) -> Result<T> {
        let result = wait_for(what, bound, || {
            if let Some(value) = probe(self)? {
                return Ok(Some(value));
            }
            match self.exited()? {
                Some(status) => bail!("{} ended ({status}) before {what}", self.name),
                None => Ok(None),
            }
        });
        result.with_context(|| self.last_words())
    }

    /// Sends `signal`.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(i32::try_from(self.child.id())?), signal)
            .with_context(|| format!("can't send {signal} to {}", self.name))
    }

    /// Waits until it has ended by itself or after a signal.
    ///
    /// # Errors
    /// When it still runs after `bound`; the error carries the end of its log.
    pub fn wait_exit(&mut self, bound: Duration) -> Result<ExitStatus> {
        wait_for(&format!("{} to end", self.name), bound, || self.exited())
            .with_context(|| self.last_words())
    }

    fn last_words(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        let last = lines[lines.len().saturating_sub(30)..].join("\n  | ");
        format!("{} wrote last:\n  | {last}", self.name)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Both fail only when the process has already been reaped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_ends_with_the_condition_or_names_what_was_waited_for() {
        let mut rounds = 0;
        let value = wait_for("three rounds", Duration::from_secs(5), || {
            rounds += 1;
            Ok((rounds == 3).then_some(rounds))
        });
        assert_eq!(value.unwrap(), 3);
        let error = wait_for("pigs to fly", Duration::ZERO, || Ok(None::<()>)).unwrap_err();
        assert!(error.to_string().contains("pigs to fly"), "{error}");
    }

    #[test]
    fn a_bounded_command_that_hangs_is_ended() {
        let output = output(bounded("sleep", Duration::from_millis(50)).arg("60")).unwrap();
        assert_eq!(output.status.code(), Some(124));
    }

    #[test]
    fn a_daemon_dies_with_its_handle_and_its_log_stays_readable() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$; exec sleep 60"]);
        let mut daemon = Daemon::start("sleeper", command, folder.path().join("log")).unwrap();
        let pid = daemon.wait_until("its pid", Duration::from_secs(10), |daemon| {
            Ok(daemon.log().lines().next().map(str::to_owned))
        });
        let proc = PathBuf::from(format!("/proc/{}", pid.unwrap()));
        assert!(proc.exists());
        drop(daemon);
        assert!(!proc.exists());
    }

    #[test]
    fn a_daemon_that_ends_early_is_reported_with_its_last_words() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo no such policy; exit 3"]);
        let mut daemon = Daemon::start("agent", command, folder.path().join("log")).unwrap();
        let error = daemon
            .wait_until("readiness", Duration::from_secs(10), |_| Ok(None::<()>))
            .unwrap_err();
        assert!(format!("{error:#}").contains("no such policy"), "{error:#}");
    }
}
