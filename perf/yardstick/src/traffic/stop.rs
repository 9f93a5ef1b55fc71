//! Stops a generator, which may be inside of a long system call.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// Signal that interrupts a system call of the generator's thread.
const SIGNAL: Signal = Signal::SIGUSR1;
/// Interval of the signals, and of checks of a condition.
const INTERVAL: Duration = Duration::from_millis(1);

/// Stops a generator's thread.
#[derive(Default)]
pub(super) struct Stop {
    asked: AtomicBool,
    /// Id of the thread; 0 before it starts to send.
    thread: AtomicI32,
    ended: AtomicBool,
}

/// Marks the thread as ended when it is dropped, even by a panic.
pub(super) struct OnDrop<'stop>(&'stop Stop);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Release);
    }
}

extern "C" fn nothing(_: libc::c_int) {}

/// Installs an empty handler for [`SIGNAL`], so that it only interrupts system calls.
pub(super) fn catch_signal() -> Result<()> {
    // Without SA_RESTART, which would restart the system call.
    let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::empty(), SigSet::empty());
    // SAFETY: an empty handler is async-signal-safe.
    unsafe { sigaction(SIGNAL, &action) }.context("can't catch a signal")?;
    Ok(())
}

impl Stop {
    /// Whether a stop was requested.
    pub(super) fn requested(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// Marks the calling thread as sending.
    pub(super) fn set_sending(&self) {
        self.thread.store(nix::unistd::gettid().as_raw(), Ordering::Release);
    }

    /// Returns a guard that marks the thread as ended when it is dropped.
    pub(super) fn on_drop(&self) -> OnDrop<'_> {
        OnDrop(self)
    }

    /// Waits until the generator sends, or has ended.
    pub(super) fn wait_until_sending(&self) {
        while self.thread.load(Ordering::Acquire) == 0 && !self.ended() {
            thread::sleep(INTERVAL);
        }
    }

    /// Stops the generator, and returns when it has ended.
    pub(super) fn stop(&self) {
        self.asked.store(true, Ordering::Relaxed);
        let process = nix::unistd::getpid().as_raw();
        // Repeatedly, because a signal just before a system call doesn't interrupt it.
        while !self.ended() {
            let thread = self.thread.load(Ordering::Acquire);
            if thread != 0 {
                // SAFETY: tgkill accesses no memory, and the id is of a thread of this process.
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
