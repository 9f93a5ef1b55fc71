//! What touches the file system: listing the directory, reading files, watching.
//!
//! Such calls never return if the server of a network file system is dead. So each is a job for a
//! thread of a small pool: one that hangs occupies one thread, and when all threads hang, more are
//! started, up to [`THREADS_MAX`].

use std::collections::{BTreeSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::inotify::{AddWatchFlags, Inotify};
use nix::sys::statfs::{self, FsType, statfs};
use podgate_policy::DocumentKind;
use podgate_policy::manifest::{self, Document, ReadError};
use tracing::error;

use super::file_state::{Content, FileObservation, Stamp, UnknownPart};
use super::last_good::{LastGood, digest_of_key};
use super::messages::{Check, Done, Entry, FileMetadata, Identity, Listing, Message};
use crate::sources::checked_file::digest;

/// Threads while nothing hangs.
const THREADS_MIN: usize = 2;
/// Most threads.
const THREADS_MAX: usize = 16;
/// Time from which a job counts as hanging.
pub(super) const HANGS_AFTER: Duration = Duration::from_secs(2);

/// File systems that other machines or programs change without inotify events.
const FS_WITHOUT_INOTIFY: [FsType; 6] = [
    statfs::NFS_SUPER_MAGIC,
    statfs::SMB_SUPER_MAGIC,
    statfs::FUSE_SUPER_MAGIC,
    // include/uapi/linux/magic.h: CIFS_SUPER_MAGIC, SMB2_SUPER_MAGIC, V9FS_MAGIC.
    FsType(0xFF53_4D42_u32 as _),
    FsType(0xFE53_4D42_u32 as _),
    FsType(0x0102_1997),
];

/// The directory, and what is needed to read it.
#[derive(Debug)]
pub(super) struct WatchedDirectory {
    /// The directory; a single file may stand in its directory.
    pub(super) dir: Arc<Path>,
    /// `None` if the kernel gives none.
    pub(super) inotify: Option<Arc<Inotify>>,
    pub(super) last_good: LastGood,
}

impl WatchedDirectory {
    /// Where an entry of the directory is.
    pub(super) fn path(&self, name: &OsStr) -> Arc<Path> {
        // A single file is an entry of its own name.
        match self.dir.file_name() == Some(name) && self.dir.is_file() {
            true => Arc::clone(&self.dir),
            false => self.dir.join(name).into(),
        }
    }
}

/// Something to do.
#[derive(Debug)]
pub(super) enum Job {
    /// List the directory and watch it. Of too many files, these are read in any case.
    List { known: BTreeSet<OsString> },
    /// See whether the directory is still the same, and whether these symbolic links lead to other
    /// content.
    Check { symlinks: Vec<OsString> },
    /// Read a file.
    Read {
        name: OsString,
        path: Arc<Path>,
        /// Digest of a content that need not be parsed again.
        known: Option<u128>,
        /// Whether the objects of the last good state are needed.
        needs_last_good: bool,
        /// Why the file itself must not be touched, if so.
        unreadable: Option<String>,
    },
}

impl Job {
    fn run(self, directory: &WatchedDirectory) -> Done {
        match self {
            Self::List { known } => Done::List(list(directory, &known)),
            Self::Check { symlinks } => Done::Check(check(directory, symlinks)),
            Self::Read { name, path, known, needs_last_good, unreadable } => {
                let seen = match unreadable {
                    Some(reason) => FileObservation::Unreadable { reason, is_manifest: true },
                    None => observe_file(&path, known),
                };
                let last_good = match needs_last_good {
                    true => directory.last_good.load(&name, &path).map(|(_, kept)| kept),
                    false => Ok(Vec::new()),
                };
                Done::Read {
                    last_good: last_good.map(|kept| without_unchanged(kept, &seen)),
                    name,
                    seen,
                }
            }
        }
    }
}

fn check(directory: &WatchedDirectory, symlinks: Vec<OsString>) -> Check {
    let begin = Instant::now();
    let identity = fs::metadata(&directory.dir);
    let identity = identity.map(|metadata| Identity::of(&metadata)).map_err(|e| e.to_string());
    let metadata = |name: OsString| {
        let metadata = FileMetadata::of(&directory.path(&name));
        (name, metadata)
    };
    let symlinks = symlinks.into_iter().map(metadata).collect();
    Check { identity, symlinks, took: begin.elapsed() }
}

fn list(directory: &WatchedDirectory, known: &BTreeSet<OsString>) -> Result<Listing, String> {
    let begin = Instant::now();
    let dir = &directory.dir;
    let metadata = fs::metadata(dir).map_err(|error| format!("can't be read: {error}"))?;
    let identity = Identity::of(&metadata);
    if metadata.is_file() {
        let name = dir.file_name().unwrap_or(dir.as_os_str()).to_owned();
        let entries = vec![Entry { name, metadata: FileMetadata::of(dir), is_symlink: true }];
        let took = begin.elapsed();
        return Ok(Listing { identity, entries, excess: None, watch: None, is_file: true, took });
    }
    if !metadata.is_dir() {
        return Err("is neither a directory nor a regular file".to_owned());
    }
    // Before it is listed, so that no change is missed.
    let silent = statfs(&**dir).is_ok_and(|fs| FS_WITHOUT_INOTIFY.contains(&fs.filesystem_type()));
    let watch = directory.inotify.as_ref().filter(|_| !silent);
    let watch = watch.and_then(|inotify| inotify.add_watch(&**dir, events()).ok());
    let (present, excess) = names(dir, known)?;
    let entry = |(name, is_symlink): (OsString, bool)| {
        let metadata = FileMetadata::of(&dir.join(&name));
        Entry { name, metadata, is_symlink }
    };
    let entries = present.into_iter().map(entry).collect();
    Ok(Listing { identity, entries, excess, watch, is_file: false, took: begin.elapsed() })
}

fn events() -> AddWatchFlags {
    AddWatchFlags::IN_MODIFY
        | AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_ATTRIB
        | AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_DELETE_SELF
        | AddWatchFlags::IN_MOVE_SELF
        | AddWatchFlags::IN_ONLYDIR
        // Not of files that have no name any more.
        | AddWatchFlags::from_bits_retain(nix::libc::IN_EXCL_UNLINK)
}

type Names = (Vec<(OsString, bool)>, Option<(usize, OsString)>);

/// The names of manifests, and whether each is a symbolic link: the known ones, then others up to
/// the bound; and what is beyond the bound.
fn names(dir: &Path, known: &BTreeSet<OsString>) -> Result<Names, String> {
    let failed = |error: io::Error| format!("can't be listed: {error}");
    let (mut present, mut others, mut beyond) = (Vec::new(), BTreeSet::new(), 0);
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        if !manifest::is_manifest(&name) {
            continue;
        }
        let is_symlink = entry.file_type().is_ok_and(|kind| kind.is_symlink());
        if known.contains(&name) {
            present.push((name, is_symlink));
        } else {
            others.insert((name, is_symlink));
            // One more than can be read, so that it can be named.
            if others.len() > manifest::FILES_MAX + 1 {
                others.pop_last();
                beyond += 1;
            }
        }
    }
    let room = manifest::FILES_MAX.saturating_sub(present.len());
    let mut others = others.into_iter();
    present.extend(others.by_ref().take(room));
    let first = others.next();
    let excess = first.map(|(name, _)| (beyond + 1 + others.len(), name));
    Ok((present, excess))
}

fn observe_file(path: &Path, known: Option<u128>) -> FileObservation<Arc<[Document]>> {
    let (bytes, metadata) = match manifest::read_regular(path) {
        Ok(read) => read,
        Err(ReadError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
            if fs::symlink_metadata(path).is_err() {
                return FileObservation::Gone;
            }
            let reason =
                "is a link to nothing; create the file that it points to, or remove it".to_owned();
            return FileObservation::Unreadable { reason, is_manifest: true };
        }
        Err(error) => {
            let is_manifest = !matches!(error, ReadError::NotRegular(_));
            return FileObservation::Unreadable { reason: error.to_string(), is_manifest };
        }
    };
    let digest = digest(&bytes);
    let inode = (metadata.dev(), metadata.ino());
    let stamp = Stamp { digest, len: bytes.len() as u64, inode };
    let documents = match known == Some(digest) {
        true => Vec::new(),
        false => manifest::decode(&bytes, path),
    };
    let mut objects = Vec::new();
    let mut unknown_part = None;
    for document in &documents {
        match (DocumentKind::of(document), &document.value) {
            (DocumentKind::Object(key), _) => objects.push(digest_of_key(&key)),
            (DocumentKind::Ignored, _) => {}
            (DocumentKind::Unreadable(_), Err(rejection)) => {
                let line = document.source.location.line;
                unknown_part =
                    Some(UnknownPart::Broken(format!("line {line}: {}", rejection.reason)));
                break;
            }
            (DocumentKind::Unreadable(rejections), Ok(_)) => {
                let reason = rejections.first().map(|rejection| rejection.reason.as_str());
                let line = document.source.location.line;
                let reason = format!("line {line}: {}", reason.unwrap_or_default());
                unknown_part.get_or_insert(UnknownPart::Rejected(reason));
            }
        }
    }
    objects.sort_unstable();
    objects.dedup();
    let is_blank = manifest::is_blank(&bytes);
    FileObservation::Content(Content {
        stamp,
        objects,
        is_blank,
        unknown_part,
        documents: documents.into(),
    })
}

/// Leaves out the documents that the content has unchanged.
fn without_unchanged(
    mut kept: Vec<Document>,
    seen: &FileObservation<Arc<[Document]>>,
) -> Vec<Document> {
    if let FileObservation::Content(content) = seen {
        let present = content.documents.iter().filter_map(|document| document.value.as_ref().ok());
        let present: std::collections::HashSet<_> = present.collect();
        kept.retain(|document| document.value.as_ref().is_ok_and(|value| !present.contains(value)));
    }
    kept
}

/// The threads, and the jobs that wait for them.
#[derive(Debug)]
pub(super) struct Pool {
    directory: Arc<WatchedDirectory>,
    messages: SyncSender<Message>,
    threads: Vec<Thread>,
    waiting: VecDeque<Job>,
}

#[derive(Debug)]
struct Thread {
    jobs: SyncSender<Job>,
    /// Since when it runs a job, and the job's file, if it has one.
    busy: Option<(Instant, Option<OsString>)>,
}

impl Pool {
    pub(super) fn new(directory: Arc<WatchedDirectory>, messages: SyncSender<Message>) -> Self {
        Self { directory, messages, threads: Vec::new(), waiting: VecDeque::new() }
    }

    /// Where the last good objects are.
    pub(super) fn last_good(&self) -> &LastGood {
        &self.directory.last_good
    }

    /// Has a job done, now or when a thread is free.
    pub(super) fn run(&mut self, job: Job) {
        self.waiting.push_back(job);
        self.dispatch();
    }

    /// Notes that a thread has done its job.
    pub(super) fn finished(&mut self, thread: usize) {
        self.threads[thread].busy = None;
        self.dispatch();
    }

    /// Files that a thread hangs on.
    pub(super) fn hanging(&self, now: Instant) -> impl Iterator<Item = Option<&OsString>> {
        let hangs = move |thread: &Thread| thread.hangs(now);
        self.threads
            .iter()
            .filter(move |thread| hangs(thread))
            .filter_map(|thread| thread.busy.as_ref().map(|(_, name)| name.as_ref()))
    }

    /// Gives waiting jobs to threads.
    pub(super) fn dispatch(&mut self) {
        while !self.waiting.is_empty() {
            let Some(free) = self.free_thread() else { return };
            let Some(job) = self.waiting.pop_front() else { return };
            let name = match &job {
                Job::Read { name, .. } => Some(name.clone()),
                Job::List { .. } | Job::Check { .. } => None,
            };
            self.threads[free].busy = Some((Instant::now(), name));
            // The thread waits for it.
            let _ = self.threads[free].jobs.try_send(job);
        }
    }

    fn free_thread(&mut self) -> Option<usize> {
        if let Some(free) = self.threads.iter().position(|thread| thread.busy.is_none()) {
            return Some(free);
        }
        let now = Instant::now();
        let all_hang = self.threads.iter().all(|thread| thread.hangs(now));
        let count = self.threads.len();
        if count >= THREADS_MAX || count >= THREADS_MIN && !all_hang {
            return None;
        }
        let (jobs, to_do) = sync_channel::<Job>(1);
        let (directory, messages) = (Arc::clone(&self.directory), self.messages.clone());
        let run = move || {
            for job in to_do {
                let done = job.run(&directory);
                if messages.send(Message::Done(count, done)).is_err() {
                    return;
                }
            }
        };
        match thread::Builder::new().name(format!("pg-files-{count}")).spawn(run) {
            Ok(_) => self.threads.push(Thread { jobs, busy: None }),
            Err(error) => {
                error!("can't start a thread to read manifests: {error}");
                return None;
            }
        }
        Some(count)
    }
}

impl Thread {
    fn hangs(&self, now: Instant) -> bool {
        let since = self.busy.as_ref().map(|(since, _)| *since);
        since.is_some_and(|since| now.saturating_duration_since(since) > HANGS_AFTER)
    }
}
