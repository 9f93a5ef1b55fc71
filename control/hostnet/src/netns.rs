//! Work in other network namespaces.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

/// Work in another network namespace that was not done, or not in time.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// The namespace can't be entered.
    #[error("can't enter network namespace {path}: {source}; does the pod still exist?")]
    Enter {
        /// Its path.
        path: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
    /// All threads are occupied, for long.
    #[error(
        "no thread is free for work in network namespace {path}: other namespaces don't answer"
    )]
    Busy {
        /// Its path.
        path: PathBuf,
    },
    /// The time limit was exceeded.
    #[error("work in network namespace {path} took longer than {} s and was given up", .limit.as_secs())]
    TimedOut {
        /// Its path.
        path: PathBuf,
        /// The limit.
        limit: Duration,
    },
}

/// Runs `work` inside the network namespace that `path` names (`/run/netns/NAME`,
/// `/proc/PID/ns/net`), on a thread of its own, and returns its result. Blocks the calling thread.
///
/// # Errors
/// [`NetnsError::Enter`] if the namespace can't be opened or entered.
///
/// # Panics
/// Only if `work` does.
pub fn inside<T: Send>(path: &Path, work: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
    let failed = |source| NetnsError::Enter { path: path.into(), source };
    // A thread stays in the namespace that it has entered, so this one is not used again.
    thread::scope(|scope| {
        thread::Builder::new()
            .name("netns".into())
            .spawn_scoped(scope, move || {
                enter(path)?;
                Ok(work())
            })
            .map_err(failed)?
            .join()
            .unwrap_or_else(|panic| resume_unwind(panic))
            .map_err(failed)
    })
}

/// Moves the calling thread into the network namespace `path`.
fn enter(path: &Path) -> io::Result<()> {
    Ok(setns(File::open(path)?, CloneFlags::CLONE_NEWNET)?)
}

/// Work waits for a free thread for at most this many times the time limit.
const WAIT_FACTOR: u32 = 4;

/// Threads that work in other network namespaces: a bounded number, each for a bounded time.
///
/// A path may be a FIFO, or on a file system that doesn't answer, and a kernel lock may be held for
/// long, so none of this is done on a thread that others wait for.
#[derive(Clone, Debug)]
pub struct NetnsThreads {
    threads: Arc<Semaphore>,
    limit: Duration,
    /// Threads that were abandoned, by the path of their namespace.
    abandoned: Arc<Mutex<HashMap<PathBuf, JoinHandle<()>>>>,
}

impl NetnsThreads {
    /// At most `threads` at a time, each with `limit` for its work. Work waits for a free thread
    /// for at most [`WAIT_FACTOR`] × `limit`.
    #[must_use]
    pub fn new(threads: usize, limit: Duration) -> Self {
        Self { threads: Arc::new(Semaphore::new(threads)), limit, abandoned: Arc::default() }
    }

    /// Runs `work` inside the network namespace `path`, as [`inside`] does, without blocking the
    /// calling thread. A thread that exceeds the limit is abandoned; it counts as one of the
    /// threads until it ends, and does not begin `work` after the limit. Until then no other one
    /// enters `path`.
    ///
    /// # Errors
    /// [`NetnsError::Enter`], [`NetnsError::Busy`] when no thread gets free, and
    /// [`NetnsError::TimedOut`] when the limit is exceeded, or a thread that was abandoned at
    /// `path` has not ended.
    ///
    /// # Panics
    /// Only if `work` does.
    pub async fn run<T: Send + 'static>(
        &self,
        path: &Path,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NetnsError> {
        let timed_out = || NetnsError::TimedOut { path: path.into(), limit: self.limit };
        let failed = |source| NetnsError::Enter { path: path.into(), source };
        if self.is_entered_by_abandoned(path) {
            return Err(timed_out());
        }
        let permit = Arc::clone(&self.threads).acquire_owned();
        let permit = timeout(WAIT_FACTOR * self.limit, permit).await;
        let permit = permit.map_err(|_| NetnsError::Busy { path: path.into() })?;
        let deadline = Instant::now() + self.limit;
        let (report, mut reported) = oneshot::channel();
        let thread = thread::Builder::new().name("netns".into()).spawn({
            let path = path.to_owned();
            move || {
                let _permit = permit;
                let entered = enter(&path);
                // The caller waits no more: the result would be lost.
                if !report.is_closed() {
                    let _ = report.send(entered.map(|()| work()));
                }
            }
        });
        let thread = thread.map_err(failed)?;
        match timeout_at(deadline, &mut reported).await {
            Ok(Ok(result)) => result.map_err(failed),
            // The thread has dropped its sender without a result: it panicked.
            Ok(Err(_)) => match thread.join() {
                Err(panic) => resume_unwind(panic),
                Ok(()) => Err(failed(io::Error::other("its thread ended without a result"))),
            },
            Err(_) => {
                self.abandoned().insert(path.into(), thread);
                Err(timed_out())
            }
        }
    }

    /// Whether a thread that was abandoned at this path has not ended.
    fn is_entered_by_abandoned(&self, path: &Path) -> bool {
        let mut abandoned = self.abandoned();
        abandoned.retain(|_, thread| !thread.is_finished());
        abandoned.contains_key(path)
    }

    fn abandoned(&self) -> MutexGuard<'_, HashMap<PathBuf, JoinHandle<()>>> {
        self.abandoned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Instant;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    const OWN: &str = "/proc/self/ns/net";
    /// The same namespace by another path.
    const OTHER: &str = "/proc/thread-self/ns/net";

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_time().build().unwrap().block_on(future)
    }

    #[test]
    fn a_namespace_that_is_gone_is_an_error_with_its_path() {
        let path = Path::new("/run/netns/pg-never-existed");
        let error = inside(path, || unreachable!("there is no such namespace")).unwrap_err();
        assert!(matches!(&error, NetnsError::Enter { .. }));
        assert!(error.to_string().contains("pg-never-existed"), "{error}");
    }

    #[test]
    fn a_file_that_is_no_namespace_is_an_error() {
        assert!(matches!(inside(Path::new("/dev/null"), || ()), Err(NetnsError::Enter { .. })));
    }

    #[test]
    fn a_fifo_is_given_up_and_its_work_is_not_begun_later() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("netns");
        mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        let threads = NetnsThreads::new(2, Duration::from_millis(50));
        let work = || panic!("nobody waits for this work");
        // Its thread has not ended, so that further work there gets none.
        for _ in 0..3 {
            let error = block_on(threads.run(&fifo, work)).unwrap_err();
            assert!(matches!(error, NetnsError::TimedOut { .. }), "{error}");
        }
        block_on(threads.run(Path::new(OWN), || ())).unwrap();
        // Lets the thread continue: a FIFO is no namespace.
        drop(File::options().write(true).open(&fifo).unwrap());
    }

    #[test]
    fn work_is_done_on_another_thread_and_a_panic_is_passed_on() {
        let threads = NetnsThreads::new(1, Duration::from_secs(5));
        let own = thread::current().id();
        let other = block_on(threads.run(Path::new(OWN), || thread::current().id())).unwrap();
        assert_ne!(own, other);
        let panic = std::panic::catch_unwind(|| {
            let work = || panic!("on purpose");
            block_on(threads.run(Path::new(OWN), work))
        });
        assert!(panic.is_err());
    }

    #[test]
    fn work_without_an_end_is_given_up_and_occupies_its_thread_only() {
        let threads = NetnsThreads::new(1, Duration::from_millis(50));
        let (release, released) = mpsc::channel::<()>();
        let work = move || _ = released.recv();
        let error = block_on(threads.run(Path::new(OWN), work)).unwrap_err();
        assert!(matches!(error, NetnsError::TimedOut { .. }), "{error}");
        // The only thread is occupied.
        let error = block_on(threads.run(Path::new(OTHER), || ())).unwrap_err();
        assert!(matches!(error, NetnsError::Busy { .. }), "{error}");
        drop(release);
        let deadline = Instant::now() + Duration::from_secs(10);
        while block_on(threads.run(Path::new(OWN), || ())).is_err() {
            assert!(Instant::now() < deadline, "the thread is still occupied");
        }
    }
}
