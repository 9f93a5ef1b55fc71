//! Confinement of the agent: it drops capabilities that it doesn't need, and a seccomp filter
//! denies system calls that it never makes.
//!
//! A capability belongs to a thread, so [`drop_capabilities`] comes before any other thread is
//! started. The seccomp filter comes when the agent has started, and holds for all threads
//! (`SECCOMP_FILTER_FLAG_TSYNC`, seccomp(2)): from then on the agent can run no other program,
//! unmount nothing, and enter only network namespaces. Mounting stays possible, because a bpffs
//! that is unmounted under a running agent is mounted again.

use anyhow::{Context, Result};
use nix::libc;
use rustix::thread::{CapabilitySet, CapabilitySets};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter_all_threads,
};
use tracing::warn;

use crate::cli::Seccomp;

/// Capabilities that the agent keeps (capabilities(7)), and what it needs each one for.
const NEEDED: CapabilitySet = CapabilitySet::empty()
    // Links, addresses, routes, neighbours, XDP on a link, offloads of a pod's end.
    .union(CapabilitySet::NET_ADMIN)
    // AF_XDP sockets (xsk_create, net/xdp/xsk.c).
    .union(CapabilitySet::NET_RAW)
    // Notifications of links in all namespaces (NETLINK_LISTEN_ALL_NSID, netlink(7)).
    .union(CapabilitySet::NET_BROADCAST)
    // Programs and maps.
    .union(CapabilitySet::BPF)
    // Entering pods' network namespaces (setns(2)), and mounting the bpffs at start.
    .union(CapabilitySet::SYS_ADMIN)
    // Opening /proc/PID/ns/net of a pod's process that has another user or more capabilities.
    .union(CapabilitySet::SYS_PTRACE)
    // Packet memory beyond RLIMIT_MEMLOCK (xdp_umem_account_pages, net/xdp/xdp_umem.c).
    .union(CapabilitySet::IPC_LOCK)
    // Reading manifests and kubeconfigs of any owner.
    .union(CapabilitySet::DAC_READ_SEARCH);

/// Drops all capabilities but the needed ones permanently, and sets `PR_SET_NO_NEW_PRIVS`
/// (prctl(2)). Threads that are started later inherit both.
///
/// # Errors
/// When a system call fails.
pub(super) fn drop_capabilities() -> Result<()> {
    let has = rustix::thread::capabilities(None).context("can't read the capabilities")?;
    let keep = has.permitted & NEEDED;
    // In a pod without the node's process ids, namespaces are named by their files only.
    let missing = NEEDED - keep - CapabilitySet::SYS_PTRACE;
    if !missing.is_empty() {
        let missing: Vec<_> = missing.iter_names().map(|(name, _)| name).collect();
        warn!("the agent runs without the capabilities {}", missing.join(", "));
    }
    if has.effective.contains(CapabilitySet::SETPCAP) {
        for capability in (CapabilitySet::all() - NEEDED).iter() {
            // An older kernel doesn't know the latest ones.
            let _ = rustix::thread::remove_capability_from_bounding_set(capability);
        }
    }
    let sets =
        CapabilitySets { effective: keep, permitted: keep, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets).context("can't drop capabilities")?;
    rustix::thread::set_no_new_privs(true).context("can't set NoNewPrivs")
}

/// Filters the system calls of all threads from here on. Unexpected ones fail with EPERM.
///
/// # Errors
/// When the filter can't be installed.
pub(super) fn filter_system_calls(seccomp: Seccomp) -> Result<()> {
    let unexpected = match seccomp {
        Seccomp::Enforce => SeccompAction::Errno(libc::EPERM.cast_unsigned()),
        Seccomp::Log => SeccompAction::Log,
        Seccomp::Off => {
            warn!("system calls are not filtered (--seccomp off)");
            return Ok(());
        }
    };
    let apply = |program: &BpfProgram| {
        apply_filter_all_threads(program).context("can't install the seccomp filter")
    };
    // The flags of clone3 are in memory, where no filter sees them. Without it the C library starts
    // threads by clone.
    let no_clone3 = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
    apply(&program([(libc::SYS_clone3, vec![])], SeccompAction::Allow, no_clone3)?)?;
    apply(&program(expected()?, unexpected, SeccompAction::Allow)?)
}

/// A filter that answers the calls in `rules` by `listed` and all others by `others`.
fn program(
    rules: impl IntoIterator<Item = (i64, Vec<SeccompRule>)>,
    others: SeccompAction,
    listed: SeccompAction,
) -> Result<BpfProgram> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)
        .context("no seccomp filter for this processor; --seccomp off runs without one")?;
    let filter = SeccompFilter::new(rules.into_iter().collect(), others, listed, arch)?;
    Ok(filter.try_into()?)
}

/// Calls that may be made with any arguments: found by strace, and by the end-to-end suites, which
/// run under the filter; with their relatives that other versions of the C library use.
const ANY: &[i64] = &[
    // Files and descriptors.
    libc::SYS_read,
    libc::SYS_pread64,
    libc::SYS_readv,
    libc::SYS_preadv,
    libc::SYS_write,
    libc::SYS_pwrite64,
    libc::SYS_writev,
    libc::SYS_pwritev,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_lseek,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_getcwd,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchown,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_utimensat,
    libc::SYS_copy_file_range,
    libc::SYS_sendfile,
    libc::SYS_flock,
    libc::SYS_fcntl,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_pipe2,
    libc::SYS_eventfd2,
    libc::SYS_signalfd4,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_inotify_init1,
    libc::SYS_inotify_add_watch,
    libc::SYS_inotify_rm_watch,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    // Sockets.
    libc::SYS_socketpair,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_connect,
    libc::SYS_shutdown,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    // Programs and maps, and the bpffs of their pins.
    libc::SYS_bpf,
    libc::SYS_mount,
    // Memory.
    libc::SYS_brk,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_mincore,
    libc::SYS_mlock,
    libc::SYS_munlock,
    libc::SYS_membarrier,
    // Threads, time, signals.
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_setaffinity,
    libc::SYS_getcpu,
    libc::SYS_getrusage,
    libc::SYS_getrandom,
    libc::SYS_uname,
    libc::SYS_sysinfo,
    libc::SYS_prctl,
    libc::SYS_prlimit64,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_tgkill,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // Denied by the filter before.
    libc::SYS_clone3,
];

/// The older forms of some of these, which only this processor has.
#[cfg(target_arch = "x86_64")]
const ANY_OLD: &[i64] = &[
    libc::SYS_open,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_access,
    libc::SYS_readlink,
    libc::SYS_mkdir,
    libc::SYS_rmdir,
    libc::SYS_unlink,
    libc::SYS_rename,
    libc::SYS_chmod,
    libc::SYS_dup2,
    libc::SYS_pipe,
    libc::SYS_poll,
    libc::SYS_epoll_wait,
    libc::SYS_arch_prctl,
    libc::SYS_time,
];
#[cfg(not(target_arch = "x86_64"))]
const ANY_OLD: &[i64] = &[];

/// Families of sockets (socket(2)).
const FAMILIES: [i32; 5] =
    [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK, libc::AF_XDP];

/// Requests to devices and sockets: whether it is a terminal, non-blocking and close-on-exec modes,
/// and a link's index and name (`linux/sockios.h`).
const IOCTLS: [u64; 6] = [
    libc::TCGETS,
    libc::FIONBIO,
    libc::FIONREAD,
    libc::FIOCLEX,
    libc::SIOCGIFINDEX,
    /* SIOCGIFNAME */ 0x8910,
];

/// Flags of clone that make a namespace (clone(2)).
const NAMESPACES: i32 = libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET;

/// All calls that are expected, with what their arguments may be.
fn expected() -> Result<Vec<(i64, Vec<SeccompRule>)>> {
    let mut calls: Vec<_> = ANY.iter().chain(ANY_OLD).map(|&call| (call, vec![])).collect();
    let any_of = |argument, values: &mut dyn Iterator<Item = u64>| -> Result<Vec<_>> {
        values.map(|value| only(argument, SeccompCmpOp::Eq, value)).collect()
    };
    let families = &mut FAMILIES.iter().map(|&family| u64::from(family.cast_unsigned()));
    calls.push((libc::SYS_socket, any_of(0, families)?));
    calls.push((libc::SYS_ioctl, any_of(1, &mut IOCTLS.into_iter())?));
    // The network namespaces of pods, and no other kind.
    let network = u64::from(libc::CLONE_NEWNET.cast_unsigned());
    calls.push((libc::SYS_setns, vec![only(1, SeccompCmpOp::Eq, network)?]));
    // Threads, and no processes.
    let thread = u64::from(libc::CLONE_THREAD.cast_unsigned());
    let mask = u64::from((libc::CLONE_THREAD | NAMESPACES).cast_unsigned());
    calls.push((libc::SYS_clone, vec![only(0, SeccompCmpOp::MaskedEq(mask), thread)?]));
    Ok(calls)
}

/// A rule that one argument has to satisfy.
fn only(argument: u8, compare: SeccompCmpOp, value: u64) -> Result<SeccompRule> {
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, compare, value)?;
    Ok(SeccompRule::new(vec![condition])?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_expected_call_is_named_once() {
        let calls = expected().unwrap();
        let distinct: BTreeSet<_> = calls.iter().map(|(call, _)| call).collect();
        assert_eq!(distinct.len(), calls.len());
        program(calls, SeccompAction::Trap, SeccompAction::Allow).unwrap();
    }

    #[test]
    fn no_call_is_expected_that_leaves_the_process_or_its_mount_namespace() {
        let calls = expected().unwrap();
        let never = [
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_ptrace,
            libc::SYS_process_vm_readv,
            libc::SYS_process_vm_writev,
            libc::SYS_umount2,
            libc::SYS_pivot_root,
            libc::SYS_chroot,
            libc::SYS_unshare,
            libc::SYS_open_tree,
            libc::SYS_move_mount,
            libc::SYS_fsopen,
            libc::SYS_init_module,
            libc::SYS_finit_module,
            libc::SYS_kexec_load,
            libc::SYS_reboot,
            libc::SYS_setuid,
            libc::SYS_capset,
            libc::SYS_keyctl,
            libc::SYS_perf_event_open,
            libc::SYS_io_uring_setup,
            libc::SYS_userfaultfd,
            libc::SYS_mknodat,
        ];
        assert!(calls.iter().all(|(call, _)| !never.contains(call)));
    }

    #[test]
    fn in_force_it_denies_other_namespaces_and_leaves_the_rest() {
        // A filter can't be removed, so only one thread of the tests' process gets it.
        let denied = std::thread::spawn(|| {
            let eperm = SeccompAction::Errno(libc::EPERM.cast_unsigned());
            let filter = program(expected().unwrap(), eperm, SeccompAction::Allow).unwrap();
            rustix::thread::set_no_new_privs(true).unwrap();
            seccompiler::apply_filter(&filter).unwrap();
            let denied = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS);
            std::fs::read_to_string("/proc/self/status").unwrap();
            denied
        });
        assert_eq!(denied.join().unwrap(), Err(nix::errno::Errno::EPERM));
    }
}
