//! What the threads that follow the directory send each other: the pool of [`super::io`] and the
//! [`super::saver`] to the [`super::reader`], and the reader to the control thread and back.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use nix::sys::inotify::{InotifyEvent, WatchDescriptor};
use podgate_policy::Missing;
use podgate_policy::manifest::Document;

use super::file_state::FileObservation;
use super::last_good::NotSaved;

/// Changes of the directory.
#[derive(Debug)]
pub(crate) struct DirectoryUpdate {
    pub(super) files: Vec<FileUpdate>,
    /// Whether all objects of the directory are known.
    pub(super) synced: bool,
    /// What is wrong, one line each.
    pub(super) problems: Vec<String>,
    /// How many manifests have last good objects that are not on disk yet.
    pub(super) unsaved: usize,
}

/// A change of one file.
#[derive(Debug)]
pub(super) struct FileUpdate {
    pub(super) file: Arc<Path>,
    /// Its objects from before the start that are still in force.
    pub(super) last_good: Vec<Document>,
    pub(super) change: Option<Change>,
}

#[derive(Debug)]
pub(super) enum Change {
    Content(Arc<[Document]>, Missing),
    DeleteMissing,
    Remove,
}

/// What the control thread requests of the reader.
#[derive(Debug)]
pub(crate) struct ReadRequests {
    messages: SyncSender<Message>,
    rescan: AtomicBool,
    read_again: Mutex<BTreeSet<Arc<Path>>>,
}

impl ReadRequests {
    pub(super) fn new(messages: SyncSender<Message>) -> Self {
        Self { messages, rescan: AtomicBool::new(false), read_again: Mutex::default() }
    }

    /// Requests that everything is read again.
    pub(super) fn rescan(&self) {
        self.rescan.store(true, Ordering::Release);
        self.wake();
    }

    /// Requests that these files are read again.
    pub(super) fn read_again(&self, files: BTreeSet<Arc<Path>>) {
        if files.is_empty() {
            return;
        }
        self.read_again.lock().unwrap_or_else(PoisonError::into_inner).extend(files);
        self.wake();
    }

    fn wake(&self) {
        // If the channel is full, the reader is about to wake up.
        let _ = self.messages.try_send(Message::Wake);
    }

    /// What was requested: everything, or these files.
    pub(super) fn take(&self) -> (bool, BTreeSet<Arc<Path>>) {
        let mut files = self.read_again.lock().unwrap_or_else(PoisonError::into_inner);
        (self.rescan.swap(false, Ordering::AcqRel), std::mem::take(&mut files))
    }
}

/// A message to the reader.
#[derive(Debug)]
pub(super) enum Message {
    Events(Vec<InotifyEvent>),
    /// A thread of the pool has done a job.
    Done(usize, Done),
    /// States were written, or not.
    Saved(Vec<(OsString, Result<(), NotSaved>)>),
    /// These saved states were deleted by others.
    StatesRemoved(BTreeSet<PathBuf>),
    /// No more events will come.
    EventsEnded,
    /// There are new requests.
    Wake,
}

/// The result of a job.
#[derive(Debug)]
pub(super) enum Done {
    List(Result<Listing, String>),
    Check(Check),
    Read {
        name: OsString,
        seen: FileObservation<Arc<[Document]>>,
        last_good: Result<Vec<Document>, String>,
    },
}

/// Identity of a directory; an inode number alone may be reused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Identity {
    inode: (u64, u64),
    created: Option<SystemTime>,
}

impl Identity {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self { inode: (metadata.dev(), metadata.ino()), created: metadata.created().ok() }
    }
}

/// Metadata that changes with a file's content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct FileMetadata {
    inode: (u64, u64),
    size: u64,
    changed: (i64, i64),
}

impl FileMetadata {
    pub(super) fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self {
            inode: (metadata.dev(), metadata.ino()),
            size: metadata.size(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

/// An entry of the directory.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: OsString,
    /// `None` if it can't be read.
    pub(super) metadata: Option<FileMetadata>,
    /// Whether it is a symbolic link, whose target may change without inotify events.
    pub(super) is_symlink: bool,
}

/// What the directory holds.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) identity: Identity,
    pub(super) entries: Vec<Entry>,
    /// How many files there are beyond the bound, and the first of them.
    pub(super) excess: Option<(usize, OsString)>,
    /// `None` if changes are not reported, so that they have to be polled for.
    pub(super) watch: Option<WatchDescriptor>,
    /// Whether it is a single file.
    pub(super) is_file: bool,
    pub(super) took: Duration,
}

/// Whether something changed that inotify does not report.
#[derive(Debug)]
pub(super) struct Check {
    pub(super) identity: Result<Identity, String>,
    pub(super) symlinks: Vec<(OsString, Option<FileMetadata>)>,
    pub(super) took: Duration,
}
