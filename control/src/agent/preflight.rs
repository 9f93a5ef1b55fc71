//! What must be so before the agent starts, checked first and said in one line.

use std::fs;

use anyhow::{Context, Result, ensure};
use tracing::warn;

use crate::cli::RunArgs;

/// Whether this process may do what the agent does, on a kernel that can, with what it is given.
///
/// # Errors
/// Says what is missing.
pub(crate) fn check(args: &RunArgs) -> Result<()> {
    require_root("run", "attaches XDP programs and opens AF_XDP sockets")?;
    let protocols =
        fs::read_to_string("/proc/net/protocols").context("can't read /proc/net/protocols")?;
    ensure!(
        protocols.lines().any(|line| line.starts_with("XDP ")),
        "this kernel has no AF_XDP: it needs CONFIG_XDP_SOCKETS, and Linux 6.6 or newer"
    );
    if let Some(dir) = &args.source.manifests {
        ensure!(dir.is_dir(), "{} is no directory; --manifests wants one", dir.display());
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if usize::from(args.workers) > cores {
        warn!("{} workers share {cores} cores; --workers {cores} is faster", args.workers);
    }
    Ok(())
}

/// Whether this process is root, which `podgate` `command` needs because it does what `why` says.
///
/// # Errors
/// Says so.
pub(crate) fn require_root(command: &str, why: &str) -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "{command} needs root: it {why}; use sudo");
    Ok(())
}

/// A bpffs that only this process's mount namespace sees ends with the process, and the pinned
/// programs with it: pods would be set free when the agent stops.
pub(crate) fn warn_of_private_mounts() {
    let [own, first] = ["/proc/self/ns/mnt", "/proc/1/ns/mnt"].map(|path| fs::read_link(path).ok());
    if let (Some(own), Some(first)) = (own, first)
        && own != first
    {
        warn!(
            "the agent has a mount namespace of its own (`ip netns exec` makes one; use `nsenter \
             --net`): when it ends, its XDP programs may go with it, and pods are set free"
        );
    }
}
