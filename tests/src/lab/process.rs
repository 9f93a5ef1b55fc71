//! Programs that the lab starts: short ones with a timeout, and daemons that are killed on drop.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::signals;

/// Interval at which a condition is checked.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Waits until `probe` yields a value, for at most `bound`.
///
/// # Errors
/// Names `what` when `bound` has passed. An error of `probe`, and a signal to end this process, end
/// the wait at once.
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
            bail!("waited {bound:?} for {what}, without success");
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// `program` under coreutils' `timeout`, which kills it after `bound` (exit status 124).
///
/// It has a process group of its own, so that a Ctrl-C at the terminal reaches only the lab, which
/// then removes everything in order.
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
/// When it can't be started or exits with another status than 0; the error has the command line and
/// the output.
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

/// Runs `command` to its end and returns its status and output.
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

/// A long-running program. Dropping it kills it.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Daemon {
    /// Starts `command` in a process group of its own, with stdout and stderr in the file `log`.
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

    /// Its output so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Its exit status, or `None` while it runs.
    ///
    /// # Errors
    /// When `waitpid` fails.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits until `probe` yields a value while the daemon runs.
    ///
    /// # Errors
    /// When `bound` passes or the daemon exits first; the error has the end of its log.
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
                Some(status) => bail!("{} exited ({status}) before {what}", self.name),
                None => Ok(None),
            }
        });
        result.with_context(|| self.log_tail())
    }

    /// Sends `signal`.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(i32::try_from(self.child.id())?), signal)
            .with_context(|| format!("can't send {signal} to {}", self.name))
    }

    /// Waits until it has exited, by itself or after a signal.
    ///
    /// # Errors
    /// When it still runs after `bound`; the error has the end of its log.
    pub fn wait_exit(&mut self, bound: Duration) -> Result<ExitStatus> {
        wait_for(&format!("{} to end", self.name), bound, || self.exited())
            .with_context(|| self.log_tail())
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        let last = lines[lines.len().saturating_sub(30)..].join("\n  | ");
        format!("the end of the output of {}:\n  | {last}", self.name)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Both fail only if the process was reaped already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_with_its_condition_or_names_it_in_the_error() {
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
    fn a_bounded_command_that_hangs_is_killed() {
        let output = output(bounded("sleep", Duration::from_millis(50)).arg("60")).unwrap();
        assert_eq!(output.status.code(), Some(124));
    }

    #[test]
    fn a_dropped_daemon_is_killed_and_its_log_remains() {
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
    fn a_daemon_that_exits_early_is_reported_with_its_last_words() {
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
