//! Stopping a generator, which may be inside of a system call that lasts.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// Ends a system call of the generator's thread.
const SIGNAL: Signal = Signal::SIGUSR1;
/// How often that is tried, and how often a condition is looked at.
const INTERVAL: Duration = Duration::from_millis(1);

/// Who asks a generator's thread to stop, and what it knows of that thread.
#[derive(Default)]
pub(super) struct Stop {
    asked: AtomicBool,
    /// Id of the thread; 0 before it sends.
    thread: AtomicI32,
    ended: AtomicBool,
}

/// Says that the thread has ended, however it did.
pub(super) struct OnDrop<'stop>(&'stop Stop);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Release);
    }
}

extern "C" fn nothing(_: libc::c_int) {}

/// Lets [`SIGNAL`] interrupt system calls and do nothing else.
pub(super) fn catch_signal() -> Result<()> {
    // Without SA_RESTART, or the call would begin anew.
    let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::empty(), SigSet::empty());
    // SAFETY: a handler that does nothing is safe at any time.
    unsafe { sigaction(SIGNAL, &action) }.context("can't catch a signal")?;
    Ok(())
}

impl Stop {
    /// Whether the generator shall stop.
    pub(super) fn asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// Says that the calling thread begins to send.
    pub(super) fn begin(&self) {
        self.thread.store(nix::unistd::gettid().as_raw(), Ordering::Release);
    }

    /// Says that the thread has ended when what this returns is dropped.
    pub(super) fn on_drop(&self) -> OnDrop<'_> {
        OnDrop(self)
    }

    /// Waits until the generator sends, or has ended.
    pub(super) fn wait_begun(&self) {
        while self.thread.load(Ordering::Acquire) == 0 && !self.ended() {
            thread::sleep(INTERVAL);
        }
    }

    /// Stops the generator, and returns when it has ended.
    pub(super) fn ask(&self) {
        self.asked.store(true, Ordering::Relaxed);
        let process = nix::unistd::getpid().as_raw();
        // Again and again: a signal just before a system call doesn't end it.
        while !self.ended() {
            let thread = self.thread.load(Ordering::Acquire);
            if thread != 0 {
                // SAFETY: tgkill touches no memory, and the id is of a thread of this process.
                let sent = unsafe {
                    libc::syscall(libc::SYS_tgkill, process, thread, SIGNAL as libc::c_int)
                };
                if sent < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::ESRCH) {
                    return;
                }
            }
            thread::sleep(INTERVAL);
        }
    }

    fn ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }
}
