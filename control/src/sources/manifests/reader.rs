//! The thread that follows the directory. It touches no file itself (see [`super::io`]), so nothing
//! that hangs keeps it from the other files.

mod directory;
mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::inotify::WatchDescriptor;
use podgate_policy::Missing;
use podgate_policy::manifest::{self, Document};
use tokio::sync::mpsc;
use tracing::warn;

use super::Settings;
use super::file_state::{Action, FileObservation, FileState, Stamp};
use super::io::{Job, Pool, WatchedDirectory};
use super::last_good::{Header, LastGood, NotSaved, Save, log_damaged};
use super::messages::{Change, Done, FileMetadata, FileUpdate, Identity, Message, ReadRequests};
use super::saver::{RETRY_SOON, Saver};
use crate::sources::Update;

/// How often the directory's identity and the targets of links are checked.
const CHECK_PERIOD: Duration = Duration::from_millis(500);
/// How often the directory is listed without a notification: inotify doesn't report changes by way
/// of memory maps or other hard links.
const LIST_PERIOD: Duration = Duration::from_secs(60);
/// Polling takes at most this fraction (1/N) of a core.
const SHARE: u32 = 100;
/// Changes of a file within this time are read as one.
const QUIET: Duration = Duration::from_millis(20);
/// Most files whose changes are sent to the control thread together.
const BATCH: usize = 256;
/// What is said of a file that is not read for that reason.
const OPEN_FOR_WRITING: &str = "is open for writing, and is read when it is closed";
/// Capacity of the reader's channel; senders block when it is full.
const MESSAGES_MAX: usize = 1024;

/// One manifest.
#[derive(Debug)]
struct File {
    path: Arc<Path>,
    state: FileState<Arc<[Document]>>,
    metadata: Option<FileMetadata>,
    /// Whether anything was seen of it in this run.
    observed: bool,
    /// Bytes of its content, as it was read last; 0 if that was not possible.
    bytes: u64,
    /// Since when a job reads it.
    reading: Option<Instant>,
    /// Whether it is to be read when that job is done.
    reread_after: bool,
    read_at: Option<Instant>,
    /// When it may be read next, so that a large file that keeps changing takes no whole core.
    earliest_read: Option<Instant>,
    /// Since when a program writes to it that has not closed it.
    open_since: Option<Instant>,
    hangs: bool,
    /// Whether it is to be parsed even if its content is known.
    must_parse: bool,
    /// The content whose objects are on disk, or about to be.
    saved: Option<Stamp>,
    tick_at: Option<Instant>,
}

impl File {
    /// Whether the whole of it was read, and it is not about to be read again.
    fn is_read(&self) -> bool {
        self.read_at.is_none() && self.reading.is_none() && self.state.is_read()
    }

    fn new(path: Arc<Path>, last_good: Option<&Header>) -> Self {
        let state = last_good.map_or_else(FileState::new, |header| {
            FileState::from_last_good(header.stamp(), header.objects.clone())
        });
        Self::with_state(path, state, last_good.map(Header::stamp))
    }

    const fn with_state(
        path: Arc<Path>,
        state: FileState<Arc<[Document]>>,
        saved: Option<Stamp>,
    ) -> Self {
        Self {
            path,
            state,
            metadata: None,
            observed: false,
            bytes: 0,
            reading: None,
            reread_after: false,
            read_at: None,
            earliest_read: None,
            open_since: None,
            hangs: false,
            must_parse: false,
            saved,
            tick_at: None,
        }
    }
}

/// The reader's state.
#[derive(Debug)]
pub(super) struct Reader {
    dir: Arc<Path>,
    settings: Settings,
    updates: mpsc::Sender<Update>,
    requests: Arc<ReadRequests>,
    messages: Receiver<Message>,
    pool: Pool,
    saver: Saver,
    /// Bytes of all files, as they were read last.
    bytes: u64,
    /// Files that are not read because of the bytes of the others.
    excluded: BTreeSet<OsString>,
    files: BTreeMap<OsString, File>,
    /// Files that are symbolic links: no event reports a change of what they name.
    symlinks: BTreeSet<OsString>,
    reads: BTreeSet<(Instant, OsString)>,
    ticks: BTreeSet<(Instant, OsString)>,
    /// Files with a problem.
    troubled: BTreeSet<OsString>,
    unobserved: usize,
    /// Whether the directory is a single file.
    is_file: bool,
    watch: Option<WatchDescriptor>,
    identity: Option<Identity>,
    /// What is wrong with the directory; nothing is taken to be gone meanwhile.
    fault: Option<String>,
    /// Whether the directory is another one than before, and no manifest was read in it yet:
    /// nothing is taken to be gone meanwhile.
    unproven: bool,
    excess: Option<(usize, OsString)>,
    listed: bool,
    listing: bool,
    list_again: bool,
    checking: bool,
    list_at: Instant,
    check_at: Instant,
    batch: Vec<FileUpdate>,
    synced: bool,
    /// Why some of the last good state can't be used.
    damaged: Vec<String>,
    /// The status that was reported last.
    last_status: Option<(bool, Vec<String>)>,
    /// The number of manifests without last good objects on disk that was reported last.
    reported_unsaved: usize,
}

/// Starts the reader. It ends when the receiver of its updates is dropped.
///
/// # Errors
/// When a thread can't be started.
pub(super) fn start(
    dir: &Path,
    state_dir: &Path,
    settings: Settings,
    updates: mpsc::Sender<Update>,
) -> std::io::Result<Arc<ReadRequests>> {
    let (sender, messages) = sync_channel(MESSAGES_MAX);
    let requests = Arc::new(ReadRequests::new(sender.clone()));
    let (dir, state_dir): (Arc<Path>, _) = (dir.into(), state_dir.to_owned());
    let reader_requests = Arc::clone(&requests);
    let run = move || {
        let inotify = directory::watch(&sender);
        let last_good = LastGood::new(&state_dir, &dir);
        let (index, damaged) = last_good.index();
        log_damaged(&damaged);
        let place =
            WatchedDirectory { dir: Arc::clone(&dir), inotify, last_good: last_good.clone() };
        let pool = Pool::new(Arc::new(place), sender.clone());
        let saver = Saver::start(last_good, sender);
        let reader = Reader::new(dir, settings, updates, reader_requests, messages, pool, saver);
        reader.run(&index, damaged);
    };
    thread::Builder::new().name("pg-manifests".into()).spawn(run)?;
    Ok(requests)
}

impl Reader {
    fn new(
        dir: Arc<Path>,
        settings: Settings,
        updates: mpsc::Sender<Update>,
        requests: Arc<ReadRequests>,
        messages: Receiver<Message>,
        pool: Pool,
        saver: Saver,
    ) -> Self {
        let now = Instant::now();
        Self {
            dir,
            settings,
            updates,
            requests,
            messages,
            pool,
            saver,
            bytes: 0,
            excluded: BTreeSet::new(),
            files: BTreeMap::new(),
            symlinks: BTreeSet::new(),
            reads: BTreeSet::new(),
            ticks: BTreeSet::new(),
            troubled: BTreeSet::new(),
            unobserved: 0,
            is_file: false,
            watch: None,
            identity: None,
            fault: None,
            unproven: false,
            excess: None,
            listed: false,
            listing: false,
            list_again: false,
            checking: false,
            list_at: now,
            check_at: now + CHECK_PERIOD,
            batch: Vec::new(),
            synced: false,
            damaged: Vec::new(),
            last_status: None,
            reported_unsaved: 0,
        }
    }

    fn run(mut self, last_good: &BTreeMap<OsString, Header>, damaged: Vec<String>) {
        self.damaged = damaged;
        for (name, header) in last_good {
            let path = self.path(name);
            self.insert(name.clone(), File::new(path, Some(header)));
        }
        loop {
            self.handle_requests();
            self.timers(Instant::now());
            if !self.flush() {
                return;
            }
            let now = Instant::now();
            let due = [self.reads.first(), self.ticks.first()].into_iter().flatten();
            let list_at = (!self.listing).then_some(self.list_at);
            let due = due.map(|(at, _)| *at).chain([self.check_at]).chain(list_at).min();
            let wait = due.map_or(CHECK_PERIOD, |due| due.saturating_duration_since(now));
            // What was due and waits for a job is checked again with the next check.
            match self.messages.recv_timeout(wait.clamp(Duration::from_millis(1), CHECK_PERIOD)) {
                Ok(message) => self.on_message(message),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            for _ in 0..BATCH {
                let Ok(message) = self.messages.try_recv() else { break };
                self.on_message(message);
            }
        }
    }

    fn path(&self, name: &OsString) -> Arc<Path> {
        if self.is_file { Arc::clone(&self.dir) } else { self.dir.join(name).into() }
    }

    /// Where a file is to be read. Its path is outdated if the directory was a single file before.
    fn path_to_read(&self, name: &OsString) -> Arc<Path> {
        match self.files.get(name) {
            Some(file) if self.is_file || file.path != self.dir => Arc::clone(&file.path),
            _ => self.path(name),
        }
    }

    /// A file of which nothing is known. At the start, a damaged last good state may be its own.
    fn new_file(&self, path: Arc<Path>) -> File {
        if self.synced || self.damaged.is_empty() {
            return File::new(path, None);
        }
        File::with_state(path, FileState::with_lost_objects(), None)
    }

    fn insert(&mut self, name: OsString, file: File) {
        self.unobserved += 1;
        self.files.insert(name, file);
    }

    /// Forgets which files are open for writing, because their close may be missed. The next write
    /// to one shows that it is still open; the others are read when they were unchanged for the
    /// settle time.
    fn forget_writers(&mut self) {
        let until = Instant::now() + self.settings.settle;
        let open = self.files.iter_mut().filter(|(_, file)| file.open_since.is_some());
        let mut names = Vec::new();
        for (name, file) in open {
            file.open_since = None;
            names.push(name.clone());
        }
        for name in names {
            self.read_not_before(&name, until);
        }
    }

    fn handle_requests(&mut self) {
        let (rescan, wanted) = self.requests.take();
        let now = Instant::now();
        if rescan {
            self.list_now();
            let names: Vec<_> = self.files.keys().cloned().collect();
            for name in names {
                self.read_at(&name, now);
            }
        }
        for path in wanted {
            let Some(name) = path.file_name().map(OsString::from) else { continue };
            if let Some(file) = self.files.get_mut(&name) {
                file.must_parse = true;
                self.read_at(&name, now);
            }
        }
    }

    fn list_now(&mut self) {
        self.list_again |= self.listing;
        self.list_at = Instant::now();
    }

    /// Has a file read at a time, or earlier if a read is due earlier.
    fn read_at(&mut self, name: &OsString, at: Instant) {
        let Some(file) = self.files.get_mut(name) else { return };
        let at = file.earliest_read.map_or(at, |free| at.max(free));
        if file.read_at.is_none_or(|due| at < due) {
            self.set_read_at(name, at);
        }
    }

    /// Has a file read at a time, and not before.
    fn read_not_before(&mut self, name: &OsString, at: Instant) {
        let Some(file) = self.files.get_mut(name) else { return };
        let at = file.earliest_read.map_or(at, |free| at.max(free));
        self.set_read_at(name, at);
    }

    fn set_read_at(&mut self, name: &OsString, at: Instant) {
        let Some(file) = self.files.get_mut(name) else { return };
        if let Some(former) = file.read_at.replace(at) {
            self.reads.remove(&(former, name.clone()));
        }
        self.reads.insert((at, name.clone()));
    }

    fn timers(&mut self, now: Instant) {
        if self.list_at <= now && !self.listing {
            self.listing = true;
            self.list_at = now + LIST_PERIOD;
            let known = self.files.keys().cloned().collect();
            self.pool.run(Job::List { known });
        }
        if self.check_at <= now {
            self.check_at = now + CHECK_PERIOD;
            self.retry_saves(now);
            if !self.checking && self.listed {
                self.checking = true;
                let symlinks = self.symlinks.iter().cloned().collect();
                self.pool.run(Job::Check { symlinks });
            }
        }
        while let Some((at, _)) = self.reads.first()
            && *at <= now
        {
            let Some((_, name)) = self.reads.pop_first() else { break };
            self.read(&name, now, None);
        }
        self.apply_due(now);
        self.mark_hanging_unreadable(now);
        self.pool.dispatch();
    }

    fn retry_saves(&mut self, now: Instant) {
        for name in self.saver.take_due_retries(now) {
            if let Some(file) = self.files.get_mut(&name) {
                file.must_parse = true;
                self.read_at(&name, now);
            } else {
                self.saver.save(Save::Remove { name }, 0);
            }
        }
    }

    /// Starts the job that reads a file, or notes that it is to be read after the present one.
    fn read(&mut self, name: &OsString, now: Instant, mut unreadable: Option<String>) {
        let path = self.path_to_read(name);
        let Some(file) = self.files.get_mut(name) else { return };
        file.read_at = None;
        if let Some(since) = file.open_since
            && unreadable.is_none()
        {
            // What its writer has written so far may be half of it.
            let until = since + self.settings.settle;
            if now < until {
                return self.set_read_at(name, until);
            }
            if file.reading.is_some() {
                // The result of that read must not be taken for the result of this one.
                return self.set_read_at(name, now + self.settings.settle);
            }
            unreadable = Some(OPEN_FOR_WRITING.to_owned());
        }
        let needs_last_good = file.state.needs_last_good();
        if file.reading.is_some() && unreadable.is_none() {
            file.reread_after = true;
            return;
        }
        if unreadable.is_none() {
            file.reading = Some(now);
        }
        let known = file.state.seen().filter(|_| !file.must_parse && !needs_last_good);
        let name = name.clone();
        self.pool.run(Job::Read { name, path, known, needs_last_good, unreadable });
    }

    /// Applies what was due, unless the file is about to be read.
    fn apply_due(&mut self, now: Instant) {
        let suspended = self.fault.is_some() || self.is_unproven();
        while let Some((at, _)) = self.ticks.first()
            && *at <= now
        {
            let Some((_, name)) = self.ticks.pop_first() else { break };
            let Some(file) = self.files.get_mut(&name) else { continue };
            file.tick_at = None;
            let busy = file.read_at.is_some() || file.reading.is_some();
            if suspended || busy {
                let wait = if suspended { self.settings.settle } else { QUIET };
                file.state.postpone(now + wait);
                self.reschedule(&name);
                continue;
            }
            let action = file.state.tick(now);
            self.apply_action(&name, action, Vec::new());
        }
    }

    /// Files whose job hangs are unreadable.
    fn mark_hanging_unreadable(&mut self, now: Instant) {
        let hanging: Vec<Option<OsString>> = self.pool.hanging(now).map(|n| n.cloned()).collect();
        for name in hanging {
            let Some(name) = name else {
                if self.fault.is_none() && (self.listing || self.checking) {
                    self.suspend_deletions("does not answer");
                }
                continue;
            };
            let Some(file) = self.files.get_mut(&name) else { continue };
            if !std::mem::replace(&mut file.hangs, true) {
                let reason = "can't be read: the file system does not answer".to_owned();
                if file.observed {
                    self.troubled.insert(name);
                } else {
                    self.read(&name, now, Some(reason));
                }
            }
        }
    }

    fn on_message(&mut self, message: Message) {
        match message {
            Message::Events(events) => {
                for event in events {
                    self.on_inotify_event(event);
                }
            }
            Message::Done(thread, done) => {
                self.pool.finished(thread);
                match done {
                    Done::List(listing) => self.on_listing_done(listing),
                    Done::Check(check) => self.on_check_done(check),
                    Done::Read { name, seen, last_good } => {
                        self.on_read_done(&name, seen, last_good);
                    }
                }
            }
            Message::Saved(results) => {
                for (name, result) in results {
                    let mut file = self.files.get_mut(&name);
                    if let (Err(_), Some(file)) = (&result, &mut file) {
                        file.saved = None;
                    }
                    let is_lost = file.is_some_and(|file| !file.state.in_force().is_empty());
                    match result {
                        // It has no objects that a start would miss.
                        Err(NotSaved::Unreadable) if !is_lost => self.saver.saved(&name, Ok(())),
                        result => self.saver.saved(&name, result),
                    }
                }
            }
            Message::StatesRemoved(removed) => {
                warn!(
                    "last good objects were removed from the state directory; writing them again"
                );
                for (name, file) in &mut self.files {
                    if !removed.contains(&self.pool.last_good().file(name)) {
                        continue;
                    }
                    file.saved = None;
                    if !file.state.in_force().is_empty() {
                        self.saver.put_off(name.clone());
                    }
                }
                self.check_at = self.check_at.min(Instant::now() + RETRY_SOON);
            }
            Message::EventsEnded => self.forget_writers(),
            Message::Wake => {}
        }
    }

    fn on_read_done(
        &mut self,
        name: &OsString,
        seen: FileObservation<Arc<[Document]>>,
        last_good: Result<Vec<Document>, String>,
    ) {
        if let FileObservation::Unreadable { reason, .. } = &seen
            && reason == OPEN_FOR_WRITING
            && self.files.get(name).is_some_and(|file| file.open_since.is_none())
        {
            // It was closed since, and a read is due or done.
            return;
        }
        let seen = self.within_bounds(name, seen);
        let Some(file) = self.files.get_mut(name) else { return };
        let now = Instant::now();
        if let Some(begun) = file.reading.take() {
            file.earliest_read = Some(now + 4 * (now - begun).min(Duration::from_secs(5)));
        }
        file.hangs = false;
        let reread = std::mem::take(&mut file.reread_after);
        if file.open_since.is_some() && matches!(seen, FileObservation::Content(_)) {
            // It was written to meanwhile: a read is due when it is closed.
            return;
        }
        if !std::mem::replace(&mut file.observed, true) {
            self.unobserved -= 1;
        }
        let last_good = last_good.unwrap_or_else(|reason| {
            warn!("{}: the last good objects can't be used: {reason}", file.path.display());
            file.state.forget_last_good();
            Vec::new()
        });
        let wanted = std::mem::take(&mut file.must_parse);
        let (content, gone) = match &seen {
            FileObservation::Content(content) => {
                (Some((content.stamp, Arc::clone(&content.documents))), false)
            }
            FileObservation::Gone => (None, true),
            FileObservation::Unreadable { .. } => (None, false),
        };
        let action = file.state.observe(now, self.settings.settle, seen);
        let wants = match (&action, content) {
            (Action::Nothing, Some((stamp, documents))) if wanted => {
                let state = &file.state;
                if state.is_whole() && state.accepted() == Some(stamp) {
                    Some(Action::Apply(documents, Missing::Delete))
                } else if state.is_broken() && !state.is_unread() {
                    Some(Action::Apply(documents, Missing::Keep))
                } else {
                    None
                }
            }
            _ => None,
        };
        if gone {
            file.metadata = None;
        }
        self.apply_action(name, wants.unwrap_or(action), last_good);
        if self.saver.reread(name)
            && let Some(file) = self.files.get_mut(name)
        {
            file.must_parse = true;
        }
        if reread {
            self.read_at(name, now + QUIET);
        }
    }

    /// A file that makes the directory too large is not read. When another one becomes smaller,
    /// all such files are read again.
    fn within_bounds(
        &mut self,
        name: &OsString,
        seen: FileObservation<Arc<[Document]>>,
    ) -> FileObservation<Arc<[Document]>> {
        let Some(file) = self.files.get_mut(name) else { return seen };
        let others = self.bytes - file.bytes;
        let max = self.settings.bytes_max;
        let len = if let FileObservation::Content(content) = &seen { content.stamp.len } else { 0 };
        let excluded = others + len > max;
        let bytes = if excluded { 0 } else { len };
        let is_smaller = bytes < std::mem::replace(&mut file.bytes, bytes);
        self.bytes = others + bytes;
        if is_smaller {
            for name in std::mem::take(&mut self.excluded) {
                self.read_at(&name, Instant::now());
            }
        }
        if !excluded {
            self.excluded.remove(name);
            return seen;
        }
        self.excluded.insert(name.clone());
        let reason = format!(
            "is not read: with it, the files of the directory have more than {max} bytes; \
                     remove what is not needed"
        );
        FileObservation::Unreadable { reason, is_manifest: true }
    }

    /// Passes on what is to be done with a file's objects, and has it written to disk.
    fn apply_action(
        &mut self,
        name: &OsString,
        action: Action<Arc<[Document]>>,
        last_good: Vec<Document>,
    ) {
        let Some(file) = self.files.get_mut(name) else { return };
        let path = Arc::clone(&file.path);
        let accepted = file.state.accepted();
        let len = accepted.map_or(0, |stamp| stamp.len);
        let (mut save, mut read_again) = (None, false);
        let change = match action {
            Action::Apply(documents, missing) => {
                let stamp = accepted.filter(|_| !file.state.is_broken());
                if missing == Missing::Keep || file.saved != stamp {
                    file.saved = stamp.filter(|_| missing == Missing::Delete);
                    let (name, documents) = (name.clone(), Arc::clone(&documents));
                    save = Some(Save::Put { name, stamp, documents, missing });
                }
                Some(Change::Content(documents, missing))
            }
            Action::DeleteMissing => {
                // Read once more, so that what is on disk lacks it too.
                file.must_parse = true;
                read_again = true;
                Some(Change::DeleteMissing)
            }
            Action::Remove => {
                save = Some(Save::Remove { name: name.clone() });
                Some(Change::Remove)
            }
            Action::Nothing | Action::ApplyLastGood => file.state.is_unread().then(|| {
                let reason = file.state.reason().unwrap_or_default().to_owned();
                Change::Content([manifest::unreadable(&path, reason)].into(), Missing::Keep)
            }),
        };
        let removed = matches!(change, Some(Change::Remove));
        if change.is_some() || !last_good.is_empty() {
            self.batch.push(FileUpdate { file: path, last_good, change });
        }
        if let Some(save) = save {
            self.saver.save(save, len);
        }
        self.reschedule(name);
        if read_again {
            self.read_at(name, Instant::now());
        }
        if removed {
            self.forget(name);
        }
    }

    fn forget(&mut self, name: &OsString) {
        let Some(file) = self.files.remove(name) else { return };
        if let Some(at) = file.read_at {
            self.reads.remove(&(at, name.clone()));
        }
        if let Some(at) = file.tick_at {
            self.ticks.remove(&(at, name.clone()));
        }
        if !file.observed {
            self.unobserved -= 1;
        }
        self.symlinks.remove(name);
        self.troubled.remove(name);
        self.excluded.remove(name);
        if self.excess.is_some() {
            self.list_now();
        }
    }

    /// Follows a change of a file's state.
    fn reschedule(&mut self, name: &OsString) {
        let Some(file) = self.files.get_mut(name) else { return };
        if let Some(at) = file.tick_at.take() {
            self.ticks.remove(&(at, name.clone()));
        }
        if let Some(due) = file.state.due() {
            file.tick_at = Some(due);
            self.ticks.insert((due, name.clone()));
        }
        if file.state.problem().is_some() || file.hangs {
            self.troubled.insert(name.clone());
        } else {
            self.troubled.remove(name);
        }
    }
}
