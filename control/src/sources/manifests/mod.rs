//! Objects from the manifests of a directory, followed as they change.
//!
//! [`reader`] is a thread that watches the directory, by inotify where it reports changes, and by
//! polling elsewhere; [`file_state`] decides which objects are in force; [`io`] reads, on threads
//! that may hang; [`saver`] writes last good objects to disk. [`Manifests`] is the control thread's
//! side: it applies changes to the store, at the cost of the changed files only.

mod file_state;
mod io;
mod reader;
mod saver;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use podgate_api::SourceStatus;
use podgate_policy::manifest::Document;
use podgate_policy::{Missing, Rejection, Store};
use tokio::sync::mpsc;

pub(super) use self::file_state::Stamp;
use super::{Update, log_rejections};

/// Changes of the directory.
#[derive(Debug)]
pub(crate) struct Event {
    files: Vec<FileUpdate>,
    /// Whether all that there is can be known.
    synced: bool,
    /// What is wrong, one line each.
    problems: Vec<String>,
}

/// A change of one file.
#[derive(Debug)]
struct FileUpdate {
    file: Arc<Path>,
    /// Its objects from before the start that are still in force.
    last_good: Vec<Document>,
    change: Option<Change>,
}

#[derive(Debug)]
enum Change {
    Content(Arc<[Document]>, Missing),
    DeleteMissing,
    Remove,
}

/// What the control thread wants of the reader.
#[derive(Debug)]
pub(crate) struct Wishes {
    messages: SyncSender<reader::Message>,
    rescan: AtomicBool,
    read_again: Mutex<BTreeSet<Arc<Path>>>,
}

impl Wishes {
    fn new(messages: SyncSender<reader::Message>) -> Self {
        Self { messages, rescan: AtomicBool::new(false), read_again: Mutex::default() }
    }

    /// Wants everything read again.
    fn rescan(&self) {
        self.rescan.store(true, Ordering::Release);
        self.wake();
    }

    /// Wants these files read again.
    fn read_again(&self, files: BTreeSet<Arc<Path>>) {
        if files.is_empty() {
            return;
        }
        self.read_again.lock().unwrap_or_else(PoisonError::into_inner).extend(files);
        self.wake();
    }

    fn wake(&self) {
        // If messages wait already, the reader is about to look.
        let _ = self.messages.try_send(reader::Message::Wake);
    }

    /// What is wanted: everything, or these files.
    fn take(&self) -> (bool, BTreeSet<Arc<Path>>) {
        let mut files = self.read_again.lock().unwrap_or_else(PoisonError::into_inner);
        (self.rescan.swap(false, Ordering::AcqRel), std::mem::take(&mut files))
    }
}

/// What is known of the directory.
#[derive(Debug)]
pub(crate) struct Manifests {
    dir: PathBuf,
    synced: bool,
    problems: Vec<String>,
    /// What is rejected of each file, so that it is logged once.
    rejected: BTreeMap<Arc<Path>, Vec<Rejection>>,
    wishes: Arc<Wishes>,
}

impl Manifests {
    /// Starts to follow `dir`: what is in it goes to `updates`. `state_dir` is where last good
    /// objects are kept, and `settle` how long a file must be still for what it lacks to count.
    ///
    /// # Errors
    /// When the thread can't be started.
    pub(crate) fn follow(
        dir: &Path,
        state_dir: &Path,
        settle: Duration,
        updates: mpsc::Sender<Update>,
    ) -> Result<Self> {
        let wishes = reader::start(dir, state_dir, settle, updates);
        let wishes = wishes.context("can't start the thread that reads manifests")?;
        let (problems, rejected) = (Vec::new(), BTreeMap::new());
        Ok(Self { dir: dir.to_owned(), synced: false, problems, rejected, wishes })
    }

    /// Reads everything again.
    pub(crate) fn reload(&self) {
        self.wishes.rescan();
    }

    /// Brings the store up to date, and says in the log what is rejected that was not rejected
    /// before. Returns whether anything may have changed.
    pub(crate) fn apply(&mut self, event: Event, store: &mut Store) -> bool {
        let changed = !event.files.is_empty() || event.synced != self.synced;
        for update in event.files {
            self.take_file(update, store);
        }
        (self.synced, self.problems) = (event.synced, event.problems);
        changed
    }

    fn take_file(&mut self, update: FileUpdate, store: &mut Store) {
        let FileUpdate { file, last_good, change } = update;
        if !last_good.is_empty() {
            store.sync_file(&file, &last_good, Missing::Delete);
        }
        let mut read_again = match change {
            None => return,
            Some(Change::Content(documents, missing)) => {
                let synced = store.sync_file(&file, &documents, missing);
                self.log_new(&file, synced.rejections);
                synced.read_again
            }
            Some(Change::DeleteMissing) => store.delete_missing(&file),
            Some(Change::Remove) => {
                self.rejected.remove(&file);
                store.remove_file(&file)
            }
        };
        read_again.remove(&file);
        self.wishes.read_again(read_again);
    }

    fn log_new(&mut self, file: &Arc<Path>, rejections: Vec<Rejection>) {
        let former = self.rejected.remove(file).unwrap_or_default();
        log_rejections(rejections.iter().filter(|rejection| !former.contains(rejection)));
        if !rejections.is_empty() {
            self.rejected.insert(Arc::clone(file), rejections);
        }
    }

    /// Whether all that there is can be known, and what is wrong.
    #[must_use]
    pub(crate) fn status(&self) -> SourceStatus {
        SourceStatus {
            name: format!("manifests {}", self.dir.display()),
            synced: self.synced,
            problems: self.problems.clone(),
        }
    }
}

#[cfg(test)]
mod tests;
