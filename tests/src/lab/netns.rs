//! Named network namespaces of this process, and removal of those that killed runs left behind.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::process::{bounded, output, run};

/// Every namespace and temporary folder of a lab is named `pglab-<pid>-…`. The pid shows whether
/// the process that created it is alive.
const PREFIX: &str = "pglab-";
const NETNS_FOLDER: &str = "/run/netns";
/// Timeout of `ip` commands.
const IP_BOUND: Duration = Duration::from_secs(30);

/// A name with this process's pid.
#[must_use]
pub(super) fn own_name(suffix: &str) -> String {
    format!("{PREFIX}{}-{suffix}", std::process::id())
}

/// A network namespace. Dropping it kills the processes in it and deletes it.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// Creates the namespace `pglab-<pid>-<suffix>`.
    ///
    /// # Errors
    /// Without root, or when the name is taken.
    pub fn create(suffix: &str) -> Result<Self> {
        let name = own_name(suffix);
        run(bounded("ip", IP_BOUND).args(["netns", "add", &name]))?;
        Ok(Self { name })
    }

    /// Its name, for `ip -n`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that it is mounted at.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from(NETNS_FOLDER).join(&self.name)
    }

    /// `program` inside this namespace, killed after `bound`.
    #[must_use]
    pub fn bounded(&self, program: &str, bound: Duration) -> Command {
        let mut command = bounded("nsenter", bound);
        command.arg(format!("--net={}", self.path().display())).arg(program);
        command
    }

    /// `program` inside this namespace, without a timeout.
    ///
    /// By `nsenter`, because `ip netns exec` also mounts a new `/sys`, which would hide a BPF file
    /// system.
    #[must_use]
    pub fn daemon(&self, program: &std::path::Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg(program);
        command
    }

    /// Runs lines of `ip` commands in this namespace, in order, up to the first that fails.
    ///
    /// # Errors
    /// Names the line that failed.
    pub fn ip(&self, lines: &str) -> Result<()> {
        let mut command = bounded("ip", IP_BOUND);
        command.args(["-n", &self.name, "-batch", "-"]);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().context("can't start ip")?;
        let mut stdin = child.stdin.take().context("ip has no input")?;
        stdin.write_all(lines.as_bytes())?;
        drop(stdin);
        let output = child.wait_with_output()?;
        if !output.status.success() {
            let message = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
            bail!("ip in {}: {message}; the lines were:\n{lines}", self.name);
        }
        Ok(())
    }

    /// The output of `ip -json` in this namespace.
    ///
    /// # Errors
    /// When `ip` doesn't know the command.
    pub fn ip_json(&self, args: &[&str]) -> Result<Value> {
        let text = run(bounded("ip", IP_BOUND).args(["-n", &self.name, "-json"]).args(args))?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Runs `work` inside this namespace on a new thread: sockets opened and files of
    /// `/proc/sys/net` written there belong to the namespace.
    ///
    /// # Errors
    /// When the namespace can't be entered, and whatever `work` returns.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let file = File::open(self.path()).with_context(|| format!("no netns {}", self.name))?;
        let outcome = thread::scope(|scope| {
            let enter_and_work = || {
                setns(&file, CloneFlags::CLONE_NEWNET).context("setns")?;
                work()
            };
            scope.spawn(enter_and_work).join()
        });
        outcome.map_err(|_| anyhow!("a thread inside {} panicked", self.name))?
    }

    /// Sets kernel parameters, each a path below `/proc/sys/net` and its value.
    ///
    /// # Errors
    /// Names the parameter that can't be set.
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.inside(|| {
            for (name, value) in settings {
                fs::write(format!("/proc/sys/net/{name}"), value)
                    .with_context(|| format!("can't set net/{name} to {value}"))?;
            }
            Ok(())
        })
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        destroy(&self.name);
    }
}

/// Kills the processes in the namespace `name` and deletes it. Errors are printed.
fn destroy(name: &str) {
    let pids = output(bounded("ip", IP_BOUND).args(["netns", "pids", name]));
    let pids = pids.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    for pid in pids.unwrap_or_default().lines().filter_map(|line| line.trim().parse().ok()) {
        // The process may have exited meanwhile.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    if let Err(error) = run(bounded("ip", IP_BOUND).args(["netns", "del", name])) {
        eprintln!("lab: {error:#}");
    }
}

/// Unmounts everything below `folder`.
pub(super) fn unmount_below(folder: &str) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let inside = |target: &&str| target.starts_with(&format!("{folder}/"));
    for target in mounts.lines().filter_map(|line| line.split(' ').nth(1)).filter(inside) {
        if let Err(error) = umount2(target, MntFlags::MNT_DETACH) {
            eprintln!("lab: can't unmount {target}: {error}");
        }
    }
}

/// Removes the namespaces, mounts and temporary folders of labs whose process is dead.
pub fn remove_stale() {
    for name in stale_names(NETNS_FOLDER.as_ref()) {
        eprintln!("lab: removing the namespace {name} of a dead process");
        destroy(&name);
    }
    let temporary = std::env::temp_dir();
    for name in stale_names(&temporary) {
        let folder = temporary.join(name);
        unmount_below(&folder.to_string_lossy());
        if let Err(error) = fs::remove_dir_all(&folder) {
            eprintln!("lab: can't remove {}: {error}", folder.display());
        }
    }
}

fn stale_names(folder: &std::path::Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| owner(name).is_some_and(is_dead)).collect()
}

/// The pid in a lab name.
fn owner(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split_once('-')?.0.parse().ok()
}

fn is_dead(pid: u32) -> bool {
    !PathBuf::from(format!("/proc/{pid}")).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lab_names_have_an_owner() {
        assert_eq!(owner(&own_name("node")), Some(std::process::id()));
        assert_eq!(owner("pglab-7-0-backend-nginx"), Some(7));
        for other in ["pg-7-node", "pglab-x-node", "pglab-7", "cni-1234", ""] {
            assert_eq!(owner(other), None, "{other}");
        }
    }
}
