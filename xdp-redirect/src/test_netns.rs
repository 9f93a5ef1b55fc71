//! Namespaces for tests.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::panic::resume_unwind;
use std::process::Command;
use std::thread;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Runs `test` on a thread with a network and a mount namespace of its own: netdevs, mounts and
/// pins that it makes collide with no other test's and are gone when it ends, however it ends.
pub(crate) fn in_new_namespaces<T: Send>(test: impl FnOnce() -> T + Send) -> T {
    let enter = || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
            .expect("this test makes namespaces and attaches XDP programs: run it as root");
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        test()
    };
    thread::scope(|scope| scope.spawn(enter).join().unwrap_or_else(|panic| resume_unwind(panic)))
}

/// Runs `ip` in the namespaces of the calling thread and returns what it prints.
pub(crate) fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("iproute2 missing");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// An AF_XDP socket, not bound: the kernel takes it into an XSKMAP all the same.
#[allow(unsafe_code, reason = "nix doesn't know this address family")]
pub(crate) fn af_xdp_socket() -> OwnedFd {
    // SAFETY: no memory is passed.
    let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    assert!(fd >= 0, "can't open an AF_XDP socket: {}", io::Error::last_os_error());
    // SAFETY: the kernel just returned this descriptor; nobody else owns it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
