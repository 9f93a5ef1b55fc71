//! One thread of a running program, stopped while the others run.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::sys::ptrace::{self, Options};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// A stopped thread (ptrace(2)); it resumes when this is dropped.
#[derive(Debug)]
pub struct StoppedThread {
    thread: Pid,
}

impl StoppedThread {
    /// Stops the thread of process `pid` that is named `name`.
    ///
    /// # Errors
    /// When there is none of that name, or it can't be stopped.
    pub fn stop(pid: u32, name: &str) -> Result<Self> {
        let thread = find(pid, name)?;
        ptrace::seize(thread, Options::empty()).with_context(|| format!("can't trace {name}"))?;
        ptrace::interrupt(thread).with_context(|| format!("can't stop {name}"))?;
        match waitpid(thread, Some(WaitPidFlag::__WALL))? {
            WaitStatus::PtraceEvent(..) | WaitStatus::Stopped(..) => Ok(Self { thread }),
            other => bail!("{name} did not stop: {other:?}"),
        }
    }
}

impl Drop for StoppedThread {
    fn drop(&mut self) {
        // Fails only if the thread has ended.
        let _ = ptrace::detach(self.thread, None);
    }
}

fn find(pid: u32, name: &str) -> Result<Pid> {
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        let path = entry?.path();
        if fs::read_to_string(path.join("comm"))?.trim_end() == name {
            return Ok(Pid::from_raw(thread_id(&path)?));
        }
    }
    bail!("process {pid} has no thread named {name}")
}

fn thread_id(path: &Path) -> Result<i32> {
    let name = path.file_name().and_then(|name| name.to_str()).context("a thread's folder")?;
    Ok(name.parse()?)
}
