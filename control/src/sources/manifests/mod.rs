//! Objects from the manifests of a directory, followed as they change.
//!
//! [`reader`] is a thread that watches the directory, by inotify where it reports changes, and by
//! polling elsewhere; [`file_state`] decides which objects are in force; [`io`] reads, on threads
//! that may hang; [`saver`] writes last good objects to disk. [`Manifests`] is the control thread's
//! side: it applies changes to the store, at the cost of the changed files only.

mod file_state;
mod io;
mod last_good;
mod messages;
mod reader;
mod saver;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use podgate_api::SourceStatus;
use podgate_policy::{Missing, Rejection, Store};
use tokio::sync::mpsc;

pub(crate) use self::messages::DirectoryUpdate;
use self::messages::{Change, FileUpdate, ReadRequests};
use super::{Update, log_rejections};

/// What is known of the directory.
#[derive(Debug)]
pub(crate) struct Manifests {
    dir: PathBuf,
    synced: bool,
    problems: Vec<String>,
    /// How many files have last good objects that are not on disk yet.
    unsaved: usize,
    /// What is rejected of each file, so that it is logged once.
    rejected: BTreeMap<Arc<Path>, Vec<Rejection>>,
    requests: Arc<ReadRequests>,
}

/// How a directory is followed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// How long a file must be unchanged for the objects that it lacks to be deleted.
    pub(crate) settle: Duration,
    /// Most bytes of all files together. A file beyond it is not read, like one that is too large.
    pub(crate) bytes_max: u64,
}

impl Manifests {
    /// Starts to follow `dir`: what is in it goes to `updates`. `state_dir` is where last good
    /// objects are saved.
    ///
    /// # Errors
    /// When the thread can't be started.
    pub(crate) fn follow(
        dir: &Path,
        state_dir: &Path,
        settings: Settings,
        updates: mpsc::Sender<Update>,
    ) -> Result<Self> {
        let requests = reader::start(dir, state_dir, settings, updates);
        let requests = requests.context("can't start the thread that reads manifests")?;
        let (problems, rejected) = (Vec::new(), BTreeMap::new());
        Ok(Self { dir: dir.to_owned(), synced: false, problems, unsaved: 0, rejected, requests })
    }

    /// Reads everything again.
    pub(crate) fn reload(&self) {
        self.requests.rescan();
    }

    /// Brings the store up to date, and logs new rejections. Returns whether anything may have
    /// changed.
    pub(crate) fn apply(&mut self, update: DirectoryUpdate, store: &mut Store) -> bool {
        let changed = !update.files.is_empty() || update.synced != self.synced;
        for file in update.files {
            self.apply_file(file, store);
        }
        (self.synced, self.problems) = (update.synced, update.problems);
        self.unsaved = update.unsaved;
        changed
    }

    fn apply_file(&mut self, update: FileUpdate, store: &mut Store) {
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
        self.requests.read_again(read_again);
    }

    fn log_new(&mut self, file: &Arc<Path>, rejections: Vec<Rejection>) {
        let former = self.rejected.remove(file).unwrap_or_default();
        log_rejections(rejections.iter().filter(|rejection| !former.contains(rejection)));
        if !rejections.is_empty() {
            self.rejected.insert(Arc::clone(file), rejections);
        }
    }

    /// Whether everything was read once.
    pub(crate) const fn is_synced(&self) -> bool {
        self.synced
    }

    /// Whether all objects of the directory are known, and what is wrong.
    #[must_use]
    pub(crate) fn status(&self) -> SourceStatus {
        SourceStatus {
            name: format!("manifests {}", self.dir.display()),
            synced: self.synced,
            problems: self.problems.clone(),
            current: self.synced && self.problems.is_empty(),
            unsaved: self.unsaved,
        }
    }
}

#[cfg(test)]
mod tests;
