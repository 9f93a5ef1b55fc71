//! The thread that writes last good objects to disk, and what could not be written.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use tracing::{error, info};

use super::last_good::{BATCH, LastGood, NotSaved, Save, Writer};
use super::messages::Message;

/// States that may wait to be written.
const WAITING_MAX: usize = 10_000;
/// Bytes of the manifests of those states; the objects take some times as much memory.
const BYTES_MAX: u64 = 16 * 1024 * 1024;
/// How often it is checked whether the files are still there.
const CHECK_PERIOD: Duration = Duration::from_millis(500);
/// Delay before a state is written that was put off without a failure.
pub(super) const RETRY_SOON: Duration = Duration::from_millis(200);
/// How long to wait before what failed is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// Most manifests that are read again for that at one time.
const RETRY_FILES: usize = 256;

/// The reader's side.
#[derive(Debug)]
pub(super) struct Saver {
    /// `None` if the thread could not be started.
    saves: Option<SyncSender<(Save, u64)>>,
    waiting: BTreeSet<OsString>,
    waiting_bytes: u64,
    /// Manifests whose states are not on disk.
    unsaved: BTreeSet<OsString>,
    /// Those of them that are being read again.
    rereading: BTreeSet<OsString>,
    /// Manifests whose states are not on disk, and that can't be read as a whole to write them.
    unreadable: BTreeSet<OsString>,
    /// Why the thread could not be started.
    no_thread: Option<String>,
    /// Why states could not be written, by manifest.
    failures: BTreeMap<OsString, String>,
    /// The reason that was logged last.
    logged: Option<String>,
    retry_at: Option<Instant>,
}

impl Saver {
    /// Starts the thread.
    pub(super) fn start(place: LastGood, messages: SyncSender<Message>) -> Self {
        let (saves, to_save) = sync_channel::<(Save, u64)>(WAITING_MAX);
        let run = move || {
            let mut writer = Writer::new(place);
            let mut check_at = Instant::now() + CHECK_PERIOD;
            // What comes after a batch.
            let mut first = None;
            loop {
                let now = Instant::now();
                if check_at <= now {
                    check_at = now + CHECK_PERIOD;
                    let removed = writer.take_removed();
                    // Without a reader, what waits is written nevertheless.
                    if !removed.is_empty() {
                        let _ = messages.send(Message::StatesRemoved(removed));
                    }
                }
                let wait = check_at.saturating_duration_since(now);
                let next = first.take().map_or_else(|| to_save.recv_timeout(wait), Ok);
                match next {
                    Ok((save, _)) => {
                        let mut batch = vec![save];
                        first = fill(&mut batch, &to_save);
                        let _ = messages.send(Message::Saved(writer.save(batch)));
                    }
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        };
        let started = thread::Builder::new().name("pg-last-good".into()).spawn(run);
        let no_thread = started.as_ref().err().map(|error| format!("no thread: {error}"));
        Self {
            saves: started.is_ok().then_some(saves),
            waiting: BTreeSet::new(),
            waiting_bytes: 0,
            unsaved: BTreeSet::new(),
            rereading: BTreeSet::new(),
            unreadable: BTreeSet::new(),
            no_thread,
            failures: BTreeMap::new(),
            logged: None,
            retry_at: None,
        }
    }

    /// Has a state written, now or later; `len` is the length of the manifest.
    pub(super) fn save(&mut self, save: Save, len: u64) {
        let name = save.name().clone();
        self.unreadable.remove(&name);
        let fits = self.waiting.is_empty() || self.waiting_bytes + len <= BYTES_MAX;
        let sent = fits && self.saves.as_ref().is_some_and(|s| s.try_send((save, len)).is_ok());
        if sent {
            self.waiting_bytes += len;
            self.unsaved.remove(&name);
            self.rereading.remove(&name);
            self.waiting.insert(name);
        } else {
            self.put_off(name);
        }
    }

    /// Notes that a state is not on disk, so that it is written later.
    pub(super) fn put_off(&mut self, name: OsString) {
        self.unreadable.remove(&name);
        self.rereading.remove(&name);
        self.unsaved.insert(name);
        let wait = self.retry_wait();
        self.retry_at.get_or_insert(Instant::now() + wait);
    }

    fn retry_wait(&self) -> Duration {
        if self.no_thread.is_none() && self.failures.is_empty() { RETRY_SOON } else { RETRY }
    }

    /// Takes note of what the thread has done.
    pub(super) fn saved(&mut self, name: &OsString, result: Result<(), NotSaved>) {
        self.waiting.remove(name);
        if self.waiting.is_empty() {
            self.waiting_bytes = 0;
        }
        match result {
            Ok(()) => {
                self.forget_failure(name);
                self.unreadable.remove(name);
            }
            Err(NotSaved::Unreadable) => {
                self.forget_failure(name);
                // Unless it is about to be read again.
                if !self.unsaved.contains(name) && !self.rereading.contains(name) {
                    self.unreadable.insert(name.clone());
                }
            }
            Err(NotSaved::Failed(reason)) => {
                if self.logged.as_ref() != Some(&reason) {
                    error!("last good objects can't be written: {reason}");
                    self.logged = Some(reason.clone());
                }
                self.failures.insert(name.clone(), reason);
                self.put_off(name.clone());
            }
        }
    }

    fn forget_failure(&mut self, name: &OsString) {
        if self.failures.remove(name).is_some() && self.failures.is_empty() {
            info!("last good objects can be written again");
            self.logged = None;
        }
    }

    /// Manifests to read again at `now`, so that their states can be written.
    pub(super) fn take_due_retries(&mut self, now: Instant) -> Vec<OsString> {
        if !self.waiting.is_empty() || self.retry_at.is_none_or(|at| now < at) {
            return Vec::new();
        }
        // What fails again comes back.
        let names: Vec<_> =
            std::iter::from_fn(|| self.unsaved.pop_first()).take(RETRY_FILES).collect();
        self.rereading.extend(names.iter().cloned());
        let wait = self.retry_wait();
        self.retry_at = (!self.unsaved.is_empty()).then_some(now + wait);
        names
    }

    /// A manifest was read again, and what was to be saved of it was passed to [`Self::save`].
    /// Returns whether nothing was, so that it has to be parsed when it can be read as a whole.
    pub(super) fn reread(&mut self, name: &OsString) -> bool {
        let nothing_saved = self.rereading.remove(name);
        if nothing_saved {
            self.unreadable.insert(name.clone());
        }
        nothing_saved
    }

    /// How many manifests have states that are not on disk yet.
    pub(super) fn pending(&self) -> usize {
        self.waiting.len() + self.unsaved.len() + self.rereading.len() + self.unreadable.len()
    }

    /// Whether nothing more is written before a manifest changes.
    pub(super) fn is_idle(&self) -> bool {
        self.pending() == self.unreadable.len()
    }

    /// What is wrong, one line each.
    pub(super) fn problems(&self) -> Vec<String> {
        let failure = self.failures.iter().next().map(|(name, reason)| {
            (format!("last good objects of {}", some_of(name, self.failures.len())), reason)
        });
        let no_thread =
            self.no_thread.as_ref().map(|reason| ("last good objects".to_owned(), reason));
        let unwritten = no_thread.or(failure).map(|(what, reason)| {
            format!(
                "{what} can't be written: {reason}; a start with a manifest that can't be read \
                 would have older ones, or keep pods cut off"
            )
        });
        let lost = self.unreadable.first().map(|name| {
            format!(
                "last good objects of {} are not on disk, and can't be written before it can be \
                 read; a start until then keeps pods cut off",
                some_of(name, self.unreadable.len())
            )
        });
        unwritten.into_iter().chain(lost).collect()
    }
}

/// The first of some manifests, and how many others there are.
fn some_of(first: &OsString, count: usize) -> String {
    let first = first.display();
    match count - 1 {
        0 => first.to_string(),
        others => format!("{first} and {others} more manifests"),
    }
}

/// Adds what waits to a batch, which has each manifest once. Returns one that was taken and doesn't
/// fit.
fn fill(batch: &mut Vec<Save>, to_save: &Receiver<(Save, u64)>) -> Option<(Save, u64)> {
    while batch.len() < BATCH {
        let (save, len) = to_save.try_recv().ok()?;
        if batch.iter().any(|other| other.name() == save.name()) {
            return Some((save, len));
        }
        batch.push(save);
    }
    None
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn what_can_not_be_written_is_told_of_until_it_is_written_itself() {
        let state = tempfile::tempdir().unwrap();
        let (messages, _reader) = sync_channel(1);
        let mut saver = Saver::start(LastGood::new(state.path(), Path::new("/m")), messages);
        let failed = |reason: &str| NotSaved::Failed(reason.to_owned());
        let [one, other] = ["a.yaml", "b.yaml"].map(OsString::from);
        saver.saved(&one, Err(failed("No space left on device")));
        saver.saved(&other, Ok(()));
        let problem = saver.problems().join("; ");
        assert!(problem.contains("of a.yaml can't be written: No space left"), "{problem}");
        saver.saved(&other, Err(failed("File name too long")));
        saver.saved(&one, Ok(()));
        let problem = saver.problems().join("; ");
        assert!(problem.contains("of b.yaml can't be written: File name"), "{problem}");
        saver.saved(&other, Ok(()));
        assert_eq!(saver.problems(), Vec::<String>::new());
    }
}
