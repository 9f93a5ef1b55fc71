//! What is seen of the directory: notifications, listings, and checks of what is not notified.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::thread;
use std::time::Instant;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent};
use podgate_policy::manifest;
use tracing::{info, warn};

use super::super::messages::{Check, Entry, Listing, Message};
use super::{CHECK_PERIOD, File, QUIET, Reader, SHARE};

/// Starts a thread that forwards inotify events; `None` if inotify is not available.
pub(super) fn watch(messages: &SyncSender<Message>) -> Option<Arc<Inotify>> {
    let inotify = match Inotify::init(InitFlags::IN_CLOEXEC) {
        Ok(inotify) => Arc::new(inotify),
        Err(error) => {
            warn!("no inotify ({error}): manifests are polled twice a second");
            return None;
        }
    };
    let (events, messages) = (Arc::clone(&inotify), messages.clone());
    let run = move || forward_inotify_events(&events, &messages);
    thread::Builder::new().name("pg-inotify".into()).spawn(run).ok()?;
    Some(inotify)
}

fn forward_inotify_events(inotify: &Inotify, messages: &SyncSender<Message>) {
    loop {
        match inotify.read_events() {
            Ok(events) => {
                if messages.send(Message::Events(events)).is_err() {
                    return;
                }
            }
            Err(nix::errno::Errno::EINTR) => {}
            Err(error) => {
                warn!("inotify ended ({error}): changes may be seen a minute late");
                let _ = messages.send(Message::EventsEnded);
                return;
            }
        }
    }
}

impl Reader {
    pub(super) fn on_inotify_event(&mut self, event: InotifyEvent) {
        let mask = event.mask;
        if mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            self.forget_writers();
            return self.list_now();
        }
        if self.watch != Some(event.wd) {
            // Perhaps of the watch that the listing in progress has made.
            self.list_again |= self.listing;
            return;
        }
        let Some(name) = event.name else {
            let whole = AddWatchFlags::IN_DELETE_SELF
                | AddWatchFlags::IN_MOVE_SELF
                | AddWatchFlags::IN_UNMOUNT
                | AddWatchFlags::IN_IGNORED;
            if mask.intersects(whole) {
                self.list_now();
            }
            return;
        };
        // The kubelet changes a volume by renaming the link `..data`.
        if name.as_encoded_bytes().starts_with(b"..") {
            return self.list_now();
        }
        if !manifest::is_manifest(&name) {
            return;
        }
        if !self.files.contains_key(&name) {
            if self.files.len() >= manifest::FILES_MAX {
                return self.list_now();
            }
            let path = self.path(&name);
            self.insert(name.clone(), self.new_file(path));
        }
        let Some(file) = self.files.get_mut(&name) else { return };
        let now = Instant::now();
        if mask.contains(AddWatchFlags::IN_MODIFY) {
            if file.open_since.is_none() {
                file.open_since = Some(now);
                self.read_not_before(&name, now + self.settings.settle);
            }
            return;
        }
        // The kernel reports the close also if the writer was killed.
        if !mask.intersects(AddWatchFlags::IN_ATTRIB | AddWatchFlags::IN_CREATE) {
            file.open_since = None;
        }
        if file.open_since.is_none() {
            self.read_at(&name, now + QUIET);
        }
    }

    pub(super) fn on_check_done(&mut self, check: Check) {
        self.checking = false;
        let now = Instant::now();
        self.check_at = self.check_at.max(now + check.took * SHARE);
        let same = match (&check.identity, self.identity) {
            (Ok(identity), Some(known)) => *identity == known && self.fault.is_none(),
            _ => false,
        };
        if !same {
            self.list_now();
        }
        for (name, metadata) in check.symlinks {
            if self.files.get(&name).is_some_and(|file| file.metadata != metadata) {
                if let Some(file) = self.files.get_mut(&name) {
                    file.metadata = metadata;
                }
                self.read_at(&name, now);
            }
        }
    }

    pub(super) fn on_listing_done(&mut self, listing: Result<Listing, String>) {
        self.listing = false;
        self.listed = true;
        if std::mem::take(&mut self.list_again) {
            self.list_at = Instant::now();
        }
        let listing = match listing {
            Ok(listing) => listing,
            Err(reason) => return self.suspend_deletions(&reason),
        };
        let replaced = self.identity != Some(listing.identity);
        let in_force = self.files.values().any(|file| !file.state.in_force().is_empty());
        if self.watch != listing.watch {
            // No event will report when writers of files in the former directory close them.
            self.forget_writers();
        }
        self.watch = listing.watch;
        self.is_file = listing.is_file;
        if listing.entries.is_empty() && in_force && replaced {
            let reason = "was replaced by an empty directory; put a file in it to delete the \
                          objects that are no longer there";
            return self.suspend_deletions(reason);
        }
        let now = Instant::now();
        if listing.watch.is_none() {
            self.list_at = self.list_at.min(now + CHECK_PERIOD.max(listing.took * SHARE));
        }
        self.identity = Some(listing.identity);
        self.unproven |= replaced && in_force;
        if self.fault.take().is_some() {
            info!("{} can be read again", self.dir.display());
            self.postpone_all(now + self.settings.settle);
        }
        self.excess = listing.excess;
        self.apply_entries(listing.entries, now);
    }

    fn apply_entries(&mut self, entries: Vec<Entry>, now: Instant) {
        let mut gone: BTreeSet<OsString> = self.files.keys().cloned().collect();
        for Entry { name, metadata, is_symlink } in entries {
            gone.remove(&name);
            let path = self.path(&name);
            if !self.files.contains_key(&name) {
                self.insert(name.clone(), self.new_file(Arc::clone(&path)));
            }
            let Some(file) = self.files.get_mut(&name) else { continue };
            file.path = path;
            match is_symlink {
                true => self.symlinks.insert(name.clone()),
                false => self.symlinks.remove(&name),
            };
            let changed = file.metadata != metadata || !file.observed;
            file.metadata = metadata;
            // A file that was open for writing when events were lost is read when it was unchanged
            // for the settle time.
            if changed && file.open_since.is_none() && file.read_at.is_none() {
                self.read_at(&name, now);
            }
        }
        for name in gone {
            if let Some(file) = self.files.get_mut(&name) {
                file.metadata = None;
            }
            // A read makes sure, and brings the last good objects.
            self.read_at(&name, now);
        }
    }

    /// Keeps all objects, because the directory can't be read.
    pub(super) fn suspend_deletions(&mut self, reason: &str) {
        self.fault = Some(reason.to_owned());
        let now = Instant::now();
        let unobserved = self.files.iter().filter(|(_, file)| !file.observed);
        for name in unobserved.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            self.read(&name, now, Some(format!("{} {reason}", self.dir.display())));
        }
    }

    /// Whether nothing shows yet that a directory in place of the former one is meant to have the
    /// manifests: none in it can be read.
    pub(super) fn is_unproven(&mut self) -> bool {
        self.unproven = self.unproven && !self.files.values().any(File::is_read);
        self.unproven
    }

    /// Whether a manifest can be read, or is still to be read.
    pub(super) fn may_be_proven(&self) -> bool {
        let may_be_read =
            |file: &File| file.read_at.is_some() || file.reading.is_some() || file.state.is_read();
        self.files.values().any(may_be_read)
    }

    fn postpone_all(&mut self, until: Instant) {
        let names: Vec<_> = self.ticks.iter().map(|(_, name)| name.clone()).collect();
        for name in names {
            if let Some(file) = self.files.get_mut(&name) {
                file.state.postpone(until);
            }
            self.reschedule(&name);
        }
    }
}
