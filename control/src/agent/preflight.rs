//! Checks before the agent starts, with one line for each failure.

use std::fs;

use anyhow::{Context, Result, ensure};
use tracing::warn;

use crate::cli::RunArgs;

/// Checks permissions, kernel features and arguments.
///
/// # Errors
/// What is missing.
pub(crate) fn check(args: &RunArgs) -> Result<()> {
    require_root("run", "attaches XDP programs and opens AF_XDP sockets")?;
    let protocols =
        fs::read_to_string("/proc/net/protocols").context("can't read /proc/net/protocols")?;
    ensure!(
        protocols.lines().any(|line| line.starts_with("XDP ")),
        "this kernel has no AF_XDP: it needs CONFIG_XDP_SOCKETS, and Linux 6.6 or newer"
    );
    if let Some(dir) = &args.source.manifests {
        ensure!(dir.is_dir(), "--manifests {}: not a directory", dir.display());
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if usize::from(args.workers) > cores {
        warn!("{} workers share {cores} cores; --workers {cores} is faster", args.workers);
    }
    Ok(())
}

/// Checks that this process is root, which `podgate COMMAND` needs for the reason `why`.
///
/// # Errors
/// When it isn't.
pub(crate) fn require_root(command: &str, why: &str) -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "{command} needs root: it {why}; use sudo");
    Ok(())
}

/// Whether the agent has a mount namespace of its own: its bpffs ends with the process, the pinned
/// programs are detached, and pods are without policy when the agent stops.
pub(crate) fn has_private_mounts() -> bool {
    let [own, first] = ["/proc/self/ns/mnt", "/proc/1/ns/mnt"].map(|path| fs::read_link(path).ok());
    own.zip(first).is_some_and(|(own, first)| own != first)
}

/// Warns of a mount namespace of its own.
pub(crate) fn warn_of_private_mounts() {
    if has_private_mounts() {
        warn!(
            "the agent has a mount namespace of its own (`ip netns exec` makes one; use `nsenter \
             --net`): when it ends, its XDP programs may be detached, and pods are without policy"
        );
    }
}
