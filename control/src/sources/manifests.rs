//! Reading objects from the files of a directory, and again when they change.
//!
//! The directory is looked at twice a second. That costs a stat of each file, and needs no rules
//! for how editors, `git checkout` or a mounted ConfigMap replace files.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use podgate_policy::manifest::{self, Document};
use podgate_policy::{Kind, ObjectKey, Refusal, SourceLocation, Store};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use super::{Update, log_refusals};
use crate::protocol::SourceStatus;

/// How often the directory is looked at.
const PERIOD: Duration = Duration::from_millis(500);

/// What tells one state of a directory from another, without reading files.
#[derive(PartialEq, Eq, Debug, Default)]
struct Fingerprint {
    /// Device, inode, size, and the time of the last change with its nanoseconds.
    files: BTreeMap<PathBuf, [i64; 5]>,
}

impl Fingerprint {
    /// Of all files under `dir`, symbolic links followed. What can't be read has no part in it:
    /// reading it will say so.
    fn of(dir: &Path) -> Self {
        let mut fingerprint = Self::default();
        let mut dirs = vec![dir.to_owned()];
        while let Some(dir) = dirs.pop() {
            for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                let Ok(metadata) = std::fs::metadata(entry.path()) else { continue };
                let values = [
                    metadata.dev() as i64,
                    metadata.ino() as i64,
                    metadata.size() as i64,
                    metadata.ctime(),
                    metadata.ctime_nsec(),
                ];
                fingerprint.files.insert(entry.path(), values);
            }
        }
        fingerprint
    }
}

/// Sends the content of `dir` to `updates` now and after each change, until its receiver is gone.
pub async fn watch(dir: PathBuf, updates: mpsc::Sender<Update>) {
    let dir: Arc<Path> = dir.into();
    let mut last = None;
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let now = Fingerprint::of(&dir);
        if last.as_ref() == Some(&now) {
            continue;
        }
        // A file that is written while we read it has a later change time than the fingerprint,
        // which was taken first: the next look finds it changed and reads it again.
        let documents = {
            let dir = Arc::clone(&dir);
            tokio::task::spawn_blocking(move || manifest::load_dir(&dir)).await
        };
        let Ok(documents) = documents else { return };
        if updates.send(Update::Manifests(documents)).await.is_err() {
            return;
        }
        last = Some(now);
    }
}

/// The object that a document claims to be; `None` if it is of no kind that we know.
fn claimed_key(value: &Value) -> Option<ObjectKey> {
    let metadata = &value["metadata"];
    let kind = Kind::by_name(value["kind"].as_str()?)?;
    let namespace = metadata["namespace"].as_str().unwrap_or("default");
    Some(ObjectKey {
        kind,
        namespace: kind.is_namespaced().then(|| namespace.to_owned()),
        name: metadata["name"].as_str()?.to_owned(),
    })
}

/// An object that the store was given.
#[derive(Debug)]
struct Given {
    value: Value,
    location: SourceLocation,
}

/// What is known of the objects in the directory.
#[derive(Debug)]
pub struct Manifests {
    dir: PathBuf,
    given: HashMap<ObjectKey, Given>,
    refusals: Vec<Refusal>,
    synced: bool,
}

impl Manifests {
    /// Nothing is known yet of the objects in `dir`.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), given: HashMap::new(), refusals: Vec::new(), synced: false }
    }

    /// Brings the store up to date with the directory's content. Returns whether it may have
    /// changed.
    ///
    /// Objects of a file that can't be read as a whole stay as they were.
    pub fn take(&mut self, documents: Vec<Document>, store: &mut Store) -> bool {
        let mut seen = HashSet::new();
        let mut broken_files = HashSet::new();
        let mut refusals = Vec::new();
        let mut changed = !self.synced;
        for Document { location, value } in documents {
            let value = match value {
                Ok(value) => value,
                Err(refusal) => {
                    broken_files.insert(location.file);
                    refusals.push(refusal);
                    continue;
                }
            };
            match claimed_key(&value) {
                Some(key) if seen.contains(&key) => refusals.push(self.duplicate(&key, location)),
                Some(key) => {
                    changed |= self.apply(&key, value, location, store);
                    seen.insert(key);
                }
                None => refusals.extend(store.apply(value, Some(location)).err().into_iter().flatten()),
            }
        }
        self.given.retain(|key, given| {
            let of_broken_file = || broken_files.iter().any(|file| given.location.file.starts_with(file));
            let stays = seen.contains(key) || of_broken_file();
            if !stays {
                changed = true;
                store.delete(key);
            }
            stays
        });
        if self.refusals != refusals {
            log_refusals(&refusals);
            self.refusals = refusals;
        }
        self.synced = true;
        changed
    }

    /// Gives the store one object, unless it has it already.
    fn apply(
        &mut self,
        key: &ObjectKey,
        value: Value,
        location: SourceLocation,
        store: &mut Store,
    ) -> bool {
        let former = self.given.get(key);
        if former.is_some_and(|given| given.value == value && given.location == location) {
            return false;
        }
        if let Err(refusals) = store.apply(value.clone(), Some(location.clone())) {
            log_refusals(&refusals);
        }
        self.given.insert(key.clone(), Given { value, location });
        true
    }

    fn duplicate(&self, key: &ObjectKey, location: SourceLocation) -> Refusal {
        let first = self.given.get(key).map(|given| given.location.to_string());
        Refusal {
            object: key.to_string(),
            source: Some(location),
            field: "metadata.name".into(),
            reason: format!("the object stands already at {}", first.unwrap_or_default()),
            fix: Some("remove one of the two".into()),
        }
    }

    /// Whether the directory was read once; what can't be read is among the refusals.
    #[must_use]
    pub fn status(&self) -> SourceStatus {
        SourceStatus {
            name: format!("manifests {}", self.dir.display()),
            synced: self.synced,
            problems: Vec::new(),
        }
    }

    /// Documents that can't be read.
    #[must_use]
    pub fn refusals(&self) -> &[Refusal] {
        &self.refusals
    }
}
