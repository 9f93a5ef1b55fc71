//! Resource limits (getrlimit(2)) that the command line's numbers need, raised before the start.

use std::fs;

use anyhow::{Result, bail};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::cli::RunArgs;

/// File descriptors of the agent without links and workers: BPF program and maps, netlink sockets,
/// log, files under way, the control socket, the read-only one and Hubble's API
/// with all their clients (64 each), and the metrics endpoint with its own (16).
const FILES_OF_AGENT: u64 = 476;
/// Of each worker: epoll and its waker, with a little to spare.
const FILES_OF_WORKER: u64 = 4;
/// Of each link beside its sockets: the attached programs.
const FILES_OF_LINK: u64 = 4;
/// Sockets of each link and worker: one to receive, one to transmit.
const SOCKETS: u64 = 2;
/// Bytes of a frame of the UMEM, which is locked memory.
const FRAME: u64 = 4096;
/// Locked memory beside the UMEM, bytes.
const LOCKED_OF_AGENT: u64 = 64 << 20;
/// `CAP_IPC_LOCK` of `include/uapi/linux/capability.h`: no limit of locked memory applies.
const CAP_IPC_LOCK: u64 = 14;

/// What the agent needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Requirements {
    /// Open file descriptors.
    files: u64,
    /// Locked memory, bytes.
    locked: u64,
}

impl Requirements {
    fn of(workers: u16, endpoints_max: u16, frames: u32) -> Self {
        let (workers, links) = (u64::from(workers), u64::from(endpoints_max) + 1);
        Self {
            files: FILES_OF_AGENT
                + FILES_OF_WORKER * workers
                + links * (SOCKETS * workers + FILES_OF_LINK),
            locked: u64::from(frames) * FRAME + LOCKED_OF_AGENT,
        }
    }
}

/// Raises the limits of open files and of locked memory to what `args` need.
///
/// # Errors
/// When a limit can't be raised that far: one line says what to do.
pub(super) fn raise(args: &RunArgs) -> Result<()> {
    let required = Requirements::of(args.workers, args.max_endpoints, args.frames);
    if let Err(limit) = raise_to(Resource::RLIMIT_NOFILE, required.files) {
        bail!(
            "--max-endpoints {} with --workers {} needs {} open files, and the limit is {limit}: \
             raise it (`ulimit -n {}`, LimitNOFILE= of the systemd unit), or lower an option",
            args.max_endpoints,
            args.workers,
            required.files,
            required.files
        );
    }
    if let Err(limit) = raise_to(Resource::RLIMIT_MEMLOCK, required.locked)
        && !may_lock_memory()
    {
        bail!(
            "--frames {} needs {} KiB of locked memory, and the limit is {} KiB: raise it \
             (`ulimit -l {}`, LimitMEMLOCK= of the systemd unit), grant CAP_IPC_LOCK, or lower \
             --frames",
            args.frames,
            required.locked >> 10,
            limit >> 10,
            required.locked >> 10
        );
    }
    Ok(())
}

/// Raises a soft limit, and the hard one if this process may. The error is the limit that remains.
fn raise_to(resource: Resource, needed: u64) -> Result<(), u64> {
    let Ok((soft, hard)) = getrlimit(resource) else { return Err(0) };
    if soft >= needed {
        return Ok(());
    }
    setrlimit(resource, needed, hard.max(needed)).map_err(|_| hard)
}

/// Whether this process has CAP_IPC_LOCK (proc_pid_status(5), `CapEff`).
fn may_lock_memory() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = effective.and_then(|text| u64::from_str_radix(text.trim(), 16).ok());
    bits.is_some_and(|bits| bits >> CAP_IPC_LOCK & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_link_needs_two_sockets_for_each_worker() {
        // What failed: 199 endpoints, two workers and the usual limit of 1024.
        let required = Requirements::of(2, 199, 65536);
        assert_eq!(required.files, 476 + 2 * 4 + 200 * (2 * 2 + 4));
        assert!(required.files > 1024);
        assert_eq!(required.locked, (256 << 20) + (64 << 20));
        // 31 endpoints stay below what every shell has, and the most that can be asked for doesn't
        // overflow.
        assert!(Requirements::of(1, 31, 65536).files < 1024);
        assert_eq!(Requirements::of(64, 4095, 4_194_304).files, 476 + 256 + 4096 * 132);
    }

    #[test]
    fn a_limit_that_is_high_enough_is_left_alone_and_one_that_is_not_is_raised() {
        // A limit is the whole process's, also on a thread of its own, so this only raises it.
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        raise_to(Resource::RLIMIT_NOFILE, soft - 1).unwrap();
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (soft, hard));
        // Above `fs.nr_open` the kernel denies it even to root.
        assert_eq!(raise_to(Resource::RLIMIT_NOFILE, u64::MAX - 1), Err(hard));
    }
}
