//! SIGTERM and SIGINT: the first stops the agent in good order, the second at once.

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal};
use tokio::sync::oneshot;

/// Exit code after a signal that did not wait (128 + SIGINT, as shells have it).
const INTERRUPTED: i32 = 130;

/// Blocks both signals in this thread, and so in all that it starts from here on, and waits for
/// them in a thread of its own: one that no busy runtime can keep from ending the process.
///
/// # Errors
/// When the thread can't be started.
pub(crate) fn stop_requested() -> Result<oneshot::Receiver<Signal>> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block().context("can't block signals")?;
    let (stop, stopped) = oneshot::channel();
    std::thread::Builder::new()
        .name("pg-signals".into())
        .spawn(move || {
            let Ok(first) = signals.wait() else { return };
            // An agent that ended meanwhile has nobody to tell.
            let _ = stop.send(first);
            if signals.wait().is_ok() {
                std::process::exit(INTERRUPTED);
            }
        })
        .context("can't start the signal thread")?;
    Ok(stopped)
}
