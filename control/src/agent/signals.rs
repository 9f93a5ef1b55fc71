//! SIGTERM and SIGINT stop the agent, SIGHUP makes it read its input again.
//!
//! The first stop signal requests a clean stop; the process ends within [`STOP_BOUND`] even if it
//! hangs, with [`FAILED`] then. A second one ends it at once.

use std::sync::mpsc as std_mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal};
use tokio::sync::{mpsc, oneshot};
use tracing::error;

/// Exit code after a second stop signal (128 + SIGINT, as shells report it).
const INTERRUPTED: i32 = 130;

/// Exit code if the clean stop was not finished in time.
const FAILED: i32 = 1;

/// Longest time from the first stop signal to the end of the process.
const STOP_BOUND: Duration = Duration::from_millis(800);

/// Signals on their way to the control thread.
#[derive(Debug)]
pub(crate) struct Signals {
    /// The first stop signal.
    pub(crate) stop: oneshot::Receiver<Signal>,
    /// One element per SIGHUP; SIGHUPs that come before one is handled are coalesced.
    pub(crate) reload: mpsc::Receiver<()>,
}

impl Signals {
    /// Blocks the signals in this thread and all that it starts from here on, and waits for them in
    /// a thread of its own, which ends the process even if the runtime is busy.
    ///
    /// # Errors
    /// When a thread can't be started.
    pub(crate) fn listen() -> Result<Self> {
        let mut signals = SigSet::empty();
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
            signals.add(signal);
        }
        signals.thread_block().context("can't block signals")?;
        let (stopping, stop) = oneshot::channel();
        let (reloading, reload) = mpsc::channel(1);
        let (bound, bounded) = std_mpsc::sync_channel(1);
        // Started now: at the stop there may be no resources for a thread.
        spawn("pg-stop", move || end_after_bound(&bounded))?;
        spawn("pg-signals", move || wait(signals, stopping, &reloading, &bound))?;
        Ok(Self { stop, reload })
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<()> {
    let spawned = thread::Builder::new().name(name.to_owned()).spawn(run);
    spawned.map(drop).with_context(|| format!("can't start the thread {name}"))
}

fn wait(
    signals: SigSet,
    stopping: oneshot::Sender<Signal>,
    reloading: &mpsc::Sender<()>,
    bound: &std_mpsc::SyncSender<()>,
) {
    let mut stopping = Some(stopping);
    while let Ok(signal) = signals.wait() {
        if signal == Signal::SIGHUP {
            // A full channel has a reload that has not begun yet.
            let _ = reloading.try_send(());
            continue;
        }
        let Some(stopping) = stopping.take() else { std::process::exit(INTERRUPTED) };
        let _ = bound.try_send(());
        // Fails if the agent has ended already.
        let _ = stopping.send(signal);
    }
}

/// Ends the process a while after the stop signal, unless a clean stop ended it before.
fn end_after_bound(bounded: &std_mpsc::Receiver<()>) {
    if bounded.recv().is_err() {
        return;
    }
    thread::sleep(STOP_BOUND);
    error!(
        "the clean stop takes more than {STOP_BOUND:?}: ending now; flows and DNS names may not be \
         saved, so connections may be reset when podgate runs again"
    );
    std::process::exit(FAILED);
}
