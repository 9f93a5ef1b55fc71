//! The last valid versions of policies and CIDR groups, on disk, for a start at which the API
//! server has a version that is rejected.
//!
//! One file for each object, replaced atomically. It is used only for the object that it was read
//! from (by UID), never for another one of the same name. A thread writes; the control thread reads
//! a file only for an object whose first version since the start is rejected.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use podgate_policy::{Kind, ObjectKey};
use serde_json::Value;
use tracing::{error, info, warn};

use super::object::Object;
use super::watch::Relist;
use crate::sources::checked_file::{Format, digest, file_name};
use crate::{atomic_file, damaged_file};

/// Name of the directory in that of last good states.
const DIRECTORY: &str = "objects";
const FORMAT: Format = Format { magic: "podgate-last-good-object", version: 2 };
/// Most bytes of all files together.
const TOTAL_MAX: u64 = 256 * 1024 * 1024;
/// Most objects that are written together: as many files are open meanwhile.
const BATCH: usize = 16;
/// Delay before what failed is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// How often it is checked whether the directory is still there.
const CHECK: Duration = Duration::from_secs(1);
/// After a write nothing is written for as long as it took, but not longer than this: the disk has
/// others to serve.
const REST_MAX: Duration = Duration::from_secs(1);
/// How long the end of the agent waits for what is not written yet.
const CLOSE_MAX: Duration = Duration::from_millis(200);

/// Whether last valid versions of a kind are stored: of what people write to say what is allowed.
pub(super) fn is_stored(kind: Kind) -> bool {
    kind.is_policy() || kind == Kind::CiliumCidrGroup
}

/// The control thread's side. The thread ends when this is dropped.
#[derive(Debug)]
pub(super) struct LastGood {
    place: PathBuf,
    queue: Arc<Queue>,
}

/// What the thread has to do.
#[derive(Debug, Default)]
struct Queue {
    work: Mutex<Work>,
    added: Condvar,
    ended: Condvar,
}

/// The version to write of each object; `None` removes its file.
type Changes = BTreeMap<ObjectKey, Option<String>>;
/// The objects of a kind, when a list was complete: files of others are removed.
type Lists = BTreeMap<Kind, BTreeSet<ObjectKey>>;

#[derive(Debug, Default)]
struct Work {
    changes: Changes,
    /// Their objects, in the order in which they are written: one that changes again and again
    /// must not keep others from being written.
    order: VecDeque<ObjectKey>,
    listed: Lists,
    /// How many changes are being carried out.
    writing: usize,
    /// Changes that failed, and when they are tried again.
    failed: Changes,
    retry_at: Option<Instant>,
    /// Why the last of them failed.
    failure: Option<String>,
    /// Kinds of which others removed files, until a list has them written again.
    lost: BTreeSet<Kind>,
    /// No more changes come.
    closed: bool,
    /// The thread has ended.
    has_ended: bool,
}

impl Work {
    fn add(&mut self, key: ObjectKey, stored: Option<String>) {
        if self.changes.insert(key.clone(), stored).is_none() {
            self.order.push_back(key);
        }
    }

    /// Takes the next changes, at most [`BATCH`].
    fn take(&mut self) -> Changes {
        let count = self.order.len().min(BATCH);
        let keys = self.order.drain(..count);
        keys.filter_map(|key| self.changes.remove_entry(&key)).collect()
    }
}

impl Queue {
    fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for LastGood {
    fn drop(&mut self) {
        self.queue.work().closed = true;
        self.queue.added.notify_all();
        let is_left = |work: &mut Work| !work.has_ended;
        drop(self.queue.ended.wait_timeout_while(self.queue.work(), CLOSE_MAX, is_left));
    }
}

impl LastGood {
    /// Starts the thread, for the directory of last good states `dir`. Kinds of which others remove
    /// files are listed again by `relists`.
    pub(super) fn start(dir: &Path, relists: BTreeMap<Kind, Relist>) -> Self {
        let (place, queue) = (dir.join(DIRECTORY), Arc::<Queue>::default());
        let writer = Writer { place: place.clone(), files: HashMap::new(), total: 0, relists };
        let waits = Arc::clone(&queue);
        let run = move || writer.run(&waits);
        if let Err(error) = thread::Builder::new().name("pg-last-good".into()).spawn(run) {
            let mut work = queue.work();
            (work.failure, work.has_ended) = (Some(format!("no thread: {error}")), true);
        }
        Self { place, queue }
    }

    /// Has the valid version of an object written, without what changes at the server by itself.
    /// An object without a UID is not stored.
    pub(super) fn keep(&self, key: ObjectKey, mut object: Value) {
        if let Some(fields) = object.as_object_mut() {
            fields.remove("status");
        }
        if let Some(metadata) = object["metadata"].as_object_mut() {
            metadata.remove("resourceVersion");
        }
        if uid(&object).is_some() {
            self.change(key, Some(object.to_string()));
        }
    }

    /// Has the file of an object removed.
    pub(super) fn forget(&self, key: ObjectKey) {
        if is_stored(key.kind) {
            self.change(key, None);
        }
    }

    fn change(&self, key: ObjectKey, stored: Option<String>) {
        let mut work = self.queue.work();
        work.failed.remove(&key);
        work.add(key, stored);
        drop(work);
        self.queue.added.notify_all();
    }

    /// Has the files of objects removed that a complete list lacks.
    pub(super) fn retain(&self, kind: Kind, listed: BTreeSet<ObjectKey>) {
        if is_stored(kind) {
            let mut work = self.queue.work();
            work.listed.insert(kind, listed);
            work.lost.remove(&kind);
            drop(work);
            self.queue.added.notify_all();
        }
    }

    /// The last valid version of the object with this UID, if it is on disk.
    pub(super) fn load(&self, key: &ObjectKey, uid: Option<&str>) -> Option<Value> {
        let path = file(&self.place, key);
        if !path.exists() {
            return None;
        }
        let read = FORMAT.read(&path).and_then(|text| parse(&text));
        let (found, stored) = read
            .inspect_err(|reason| warn!("the last valid version of {key} can't be used: {reason}"))
            .ok()?;
        if found != *key {
            warn!("{} has another object than {key}, and is not used", path.display());
        }
        let is_same = found == *key && uid.is_some() && uid == self::uid(&stored);
        is_same.then_some(stored)
    }

    /// How many objects have a last valid version that is not on disk yet.
    pub(super) fn unsaved(&self) -> usize {
        let work = self.queue.work();
        work.changes.len() + work.writing + work.failed.len()
    }

    /// What is wrong, one line each.
    pub(super) fn problems(&self) -> impl Iterator<Item = String> {
        const HARM: &str = "after a restart, a policy whose present version is rejected would have \
                            an older one, or none";
        let work = self.queue.work();
        let failure = work.failure.as_ref().map(|reason| {
            format!("last valid versions of policies can't be written: {reason}; {HARM}")
        });
        let lost = (!work.lost.is_empty()).then(|| {
            let place = self.place.display();
            format!(
                "last valid versions of policies were removed from {place}; these policies are \
                 listed again to write them; until then, {HARM}"
            )
        });
        failure.into_iter().chain(lost)
    }
}

fn uid(object: &Value) -> Option<&str> {
    object["metadata"]["uid"].as_str().filter(|uid| !uid.is_empty())
}

fn file(place: &Path, key: &ObjectKey) -> PathBuf {
    place.join(file_name(key.to_string().as_bytes()))
}

/// Reads a file's text: which object it is of, and the object.
fn parse(text: &str) -> Result<(ObjectKey, Value), String> {
    let stored: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let kind = Kind::ALL.iter().find(|kind| stored["kind"] == kind.name());
    let key = kind.and_then(|kind| Object::from(stored.clone()).key(*kind));
    Ok((key.ok_or("is damaged: it has no object")?, stored))
}

/// The thread's side.
#[derive(Debug)]
struct Writer {
    place: PathBuf,
    files: HashMap<PathBuf, Stored>,
    /// Sum of the sizes of the files.
    total: u64,
    relists: BTreeMap<Kind, Relist>,
}

/// A file.
#[derive(Debug)]
struct Stored {
    key: ObjectKey,
    /// Of its text.
    digest: u128,
    len: u64,
}

impl Queue {
    /// Waits for something to do, at most [`CHECK`]. Returns at most [`BATCH`] changes; `None` at
    /// the end.
    fn next(&self) -> Option<(Changes, Lists)> {
        let is_idle =
            |work: &mut Work| work.changes.is_empty() && work.listed.is_empty() && !work.closed;
        let waited = self.added.wait_timeout_while(self.work(), CHECK, is_idle);
        let mut work = waited.unwrap_or_else(PoisonError::into_inner).0;
        if work.closed && work.changes.is_empty() {
            return None;
        }
        if work.retry_at.is_some_and(|at| at <= Instant::now()) {
            work.retry_at = None;
            for (key, stored) in std::mem::take(&mut work.failed) {
                work.add(key, stored);
            }
        }
        let changes = work.take();
        work.writing = changes.len();
        Some((changes, std::mem::take(&mut work.listed)))
    }

    /// Notes what was done, and which changes failed, each with the reason. What failed is tried
    /// again, unless there is something newer to do. Returns whether no more changes come.
    fn finish(&self, changes: Changes, failed: &BTreeMap<ObjectKey, String>) -> bool {
        let mut work = self.work();
        work.writing = 0;
        let succeeded = changes.len() - failed.len();
        for (key, stored) in changes.into_iter().filter(|(key, _)| failed.contains_key(key)) {
            if !work.changes.contains_key(&key) {
                work.failed.insert(key, stored);
            }
        }
        if let Some(reason) = failed.values().next() {
            if work.failure.as_ref() != Some(reason) {
                error!("last valid versions of policies can't be written: {reason}");
            }
            work.failure = Some(reason.clone());
            work.retry_at.get_or_insert(Instant::now() + RETRY);
        } else if succeeded > 0 && work.failed.is_empty() && work.failure.take().is_some() {
            info!("last valid versions of policies can be written again");
        }
        work.closed
    }
}

impl Writer {
    fn run(mut self, queue: &Queue) {
        self.read_all();
        while let Some((changes, lists)) = queue.next() {
            let begun = Instant::now();
            self.find_lost(queue);
            for (kind, keys) in lists {
                self.remove_unlisted(kind, &keys);
            }
            let failed = self.write(&changes);
            let rest = if changes.is_empty() { Duration::ZERO } else { begun.elapsed() };
            if !queue.finish(changes, &failed) {
                thread::sleep(rest.min(REST_MAX));
            }
        }
        queue.work().has_ended = true;
        queue.ended.notify_all();
    }

    /// Reads which files there are.
    fn read_all(&mut self) {
        let entries = match fs::read_dir(&self.place) {
            Ok(entries) => entries,
            Err(error) => {
                if error.kind() == io::ErrorKind::NotADirectory {
                    warn!("{}", damaged_file::set_aside_line(&self.place, "it is not a directory"));
                }
                return;
            }
        };
        let paths = entries.flatten().map(|entry| entry.path());
        for path in paths.filter(|path| path.extension().is_some_and(|name| name == "json")) {
            match FORMAT.read(&path).and_then(|text| Ok((parse(&text)?.0, text))) {
                Ok((key, text)) if path == file(&self.place, &key) => {
                    self.set(path, Some(Stored::new(key, &text)));
                }
                // Nothing reads it. One that stays is found again at the next start.
                Ok(_) => drop(fs::remove_file(path)),
                Err(reason) => warn!("{} can't be used: it {reason}", path.display()),
            }
        }
    }

    /// Records what is in a file; `None` if there is none.
    fn set(&mut self, path: PathBuf, stored: Option<Stored>) {
        self.total += stored.as_ref().map_or(0, |stored| stored.len);
        let former = match stored {
            Some(stored) => self.files.insert(path, stored),
            None => self.files.remove(&path),
        };
        self.total -= former.map_or(0, |former| former.len);
    }

    /// Has the kinds listed again of which there were files, if others removed the directory.
    fn find_lost(&mut self, queue: &Queue) {
        if self.files.is_empty() || self.place.exists() {
            return;
        }
        self.total = 0;
        let files = std::mem::take(&mut self.files);
        warn!("{} was removed with {} files", self.place.display(), files.len());
        let kinds = BTreeSet::from_iter(files.into_values().map(|stored| stored.key.kind));
        queue.work().lost.extend(&kinds);
        for relist in kinds.iter().filter_map(|kind| self.relists.get(kind)) {
            relist.ask();
        }
    }

    /// Removes the files of objects of a kind that are not in its list.
    fn remove_unlisted(&mut self, kind: Kind, keys: &BTreeSet<ObjectKey>) {
        let is_stale = |stored: &Stored| stored.key.kind == kind && !keys.contains(&stored.key);
        let stale = self.files.iter().filter(|(_, stored)| is_stale(stored));
        for path in Vec::from_iter(stale.map(|(path, _)| path.clone())) {
            // One that stays is of no use: the object has another UID if it comes back.
            let _ = fs::remove_file(&path);
            self.set(path, None);
        }
    }

    /// Carries out changes. Returns why some failed, by object.
    fn write(&mut self, changes: &Changes) -> BTreeMap<ObjectKey, String> {
        let mut failed = BTreeMap::new();
        let mut files = Vec::new();
        for (key, text) in changes {
            let path = file(&self.place, key);
            let Some(text) = text else {
                match fs::remove_file(&path) {
                    Err(error) if !is_gone(&error) => {
                        drop(failed.insert(key.clone(), error.to_string()));
                    }
                    _ => self.set(path, None),
                }
                continue;
            };
            let stored = Stored::new(key.clone(), text);
            let former = self.files.get(&path);
            if former.is_some_and(|former| former.digest == stored.digest) && path.exists() {
                continue;
            }
            if self.total - former.map_or(0, |former| former.len) + stored.len > TOTAL_MAX {
                failed.insert(key.clone(), format!("they would take more than {TOTAL_MAX} bytes"));
                continue;
            }
            // A write that fails leaves the former file; it counts as none until one succeeds.
            self.set(path.clone(), Some(stored));
            files.push((key, path, FORMAT.encode(text)));
        }
        let contents: Vec<_> = files.iter().map(|(_, path, bytes)| (&**path, &**bytes)).collect();
        let written = self.write_files(&contents);
        for ((key, path, _), written) in files.into_iter().zip(written) {
            if let Err(error) = written {
                self.set(path, None);
                failed.insert(key.clone(), error.to_string());
            }
        }
        failed
    }

    fn write_files(&self, files: &[(&Path, &[u8])]) -> Vec<io::Result<()>> {
        if files.is_empty() {
            return Vec::new();
        }
        match fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.place) {
            Ok(()) => atomic_file::write_all(&self.place, files),
            Err(error) => {
                atomic_file::count_failed(files.len());
                let again = || io::Error::new(error.kind(), error.to_string());
                files.iter().map(|_| Err(again())).collect()
            }
        }
    }
}

impl Stored {
    fn new(key: ObjectKey, text: &str) -> Self {
        Self { key, digest: digest(text.as_bytes()), len: text.len() as u64 }
    }
}

/// Whether there is no such file.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn policy(uid: &str, port: u16) -> Value {
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"namespace": "a", "name": "x", "uid": uid, "resourceVersion": "7"},
            "spec": {"podSelector": {}, "ingress": [{"ports": [{"port": port}]}]},
            "status": {"conditions": []},
        })
    }

    fn key() -> ObjectKey {
        Object::from(policy("u", 1)).key(Kind::NetworkPolicy).unwrap()
    }

    fn keep(last_good: &LastGood, policy: &Value) {
        last_good.keep(key(), policy.clone());
    }

    fn start(dir: &Path) -> LastGood {
        LastGood::start(dir, BTreeMap::new())
    }

    /// Waits until everything is on disk.
    fn settle(last_good: &LastGood) {
        while last_good.unsaved() > 0 || !last_good.queue.work().listed.is_empty() {
            thread::yield_now();
        }
    }

    fn load(last_good: &LastGood, uid: &str) -> Option<u64> {
        let stored = last_good.load(&key(), Some(uid))?;
        stored["spec"]["ingress"][0]["ports"][0]["port"].as_u64()
    }

    #[test]
    fn the_last_version_outlives_the_agent_for_the_same_object() {
        let dir = tempfile::tempdir().unwrap();
        let first = start(dir.path());
        keep(&first, &policy("u", 80));
        keep(&first, &policy("u", 81));
        settle(&first);
        drop(first);
        let second = start(dir.path());
        assert_eq!(load(&second, "u"), Some(81));
        // Another object of this name, and one without a UID.
        assert_eq!(load(&second, "v"), None);
        assert_eq!(second.load(&key(), None), None);
        let stored = second.load(&key(), Some("u")).unwrap();
        assert_eq!(stored["metadata"], json!({"namespace": "a", "name": "x", "uid": "u"}));
        assert_eq!(stored.get("status"), None);
    }

    #[test]
    fn what_is_deleted_or_not_listed_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let last_good = start(dir.path());
        keep(&last_good, &policy("u", 80));
        settle(&last_good);
        last_good.forget(key());
        settle(&last_good);
        assert_eq!(load(&last_good, "u"), None);

        keep(&last_good, &policy("u", 80));
        settle(&last_good);
        last_good.retain(Kind::CiliumNetworkPolicy, BTreeSet::new());
        last_good.retain(Kind::NetworkPolicy, [key()].into());
        settle(&last_good);
        assert_eq!(load(&last_good, "u"), Some(80));
        drop(last_good);
        // It was deleted while no agent ran.
        let next = start(dir.path());
        next.retain(Kind::NetworkPolicy, BTreeSet::new());
        while fs::read_dir(dir.path().join(DIRECTORY)).unwrap().count() > 0 {
            thread::yield_now();
        }
    }

    #[test]
    fn objects_that_change_all_the_time_let_others_be_written() {
        let key = |number: usize| ObjectKey { name: format!("{number:03}"), ..key() };
        let mut work = Work::default();
        (0..BATCH + 1).for_each(|number| work.add(key(number), None));
        let first = work.take();
        // All of them change again, and before they are written once more.
        (0..2).for_each(|_| first.keys().for_each(|key| work.add(key.clone(), None)));
        let second = work.take();
        assert!(second.contains_key(&key(BATCH)) && second.len() == BATCH, "{second:?}");
        assert_eq!((work.take().len(), work.take().len()), (1, 0));
    }

    #[test]
    fn a_damaged_file_is_not_used_and_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let last_good = start(dir.path());
        keep(&last_good, &policy("u", 80));
        settle(&last_good);
        drop(last_good);
        let path = file(&dir.path().join(DIRECTORY), &key());
        let text = fs::read_to_string(&path).unwrap().replace("80", "81");
        fs::write(&path, text).unwrap();
        let next = start(dir.path());
        assert_eq!(load(&next, "u"), None);
        keep(&next, &policy("u", 82));
        settle(&next);
        assert_eq!(load(&next, "u"), Some(82));
    }

    #[test]
    fn what_can_not_be_written_is_told_of_and_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        fs::write(&state, "a file").unwrap();
        let last_good = start(&state);
        keep(&last_good, &policy("u", 80));
        while last_good.problems().count() == 0 {
            thread::yield_now();
        }
        assert_eq!(last_good.unsaved(), 1);
        let problem = last_good.problems().next().unwrap();
        assert!(problem.contains("can't be written"), "{problem}");
        fs::remove_file(&state).unwrap();
        last_good.queue.work().retry_at = Some(Instant::now());
        settle(&last_good);
        assert_eq!((load(&last_good, "u"), last_good.problems().count()), (Some(80), 0));
    }

    #[tokio::test]
    async fn a_directory_that_was_removed_is_written_again_from_a_list() {
        let dir = tempfile::tempdir().unwrap();
        let relist = Relist::default();
        let relists = [(Kind::NetworkPolicy, relist.clone())].into();
        let last_good = LastGood::start(dir.path(), relists);
        keep(&last_good, &policy("u", 80));
        settle(&last_good);
        fs::remove_dir_all(dir.path().join(DIRECTORY)).unwrap();
        relist.asked().await;
        let problem = last_good.problems().next().unwrap();
        assert!(problem.starts_with("last valid versions of policies were removed"), "{problem}");
        keep(&last_good, &policy("u", 80));
        last_good.retain(Kind::NetworkPolicy, [key()].into());
        settle(&last_good);
        assert_eq!((load(&last_good, "u"), last_good.problems().count()), (Some(80), 0));
    }

    #[test]
    fn what_is_not_written_yet_is_written_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let last_good = start(dir.path());
        for port in 0..3 * u16::try_from(BATCH).unwrap() {
            let mut policy = policy("u", port);
            policy["metadata"]["name"] = port.to_string().into();
            last_good.keep(Object::from(policy.clone()).key(Kind::NetworkPolicy).unwrap(), policy);
        }
        drop(last_good);
        assert_eq!(fs::read_dir(dir.path().join(DIRECTORY)).unwrap().count(), 3 * BATCH);
    }

    #[test]
    fn a_file_that_has_another_object_than_its_name_says_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let last_good = start(dir.path());
        keep(&last_good, &policy("u", 80));
        settle(&last_good);
        let place = dir.path().join(DIRECTORY);
        let other = ObjectKey { name: "y".into(), ..key() };
        fs::copy(file(&place, &key()), file(&place, &other)).unwrap();
        assert_eq!(last_good.load(&other, Some("u")), None);
        drop(last_good);
        // A start removes it.
        drop(start(dir.path()));
        assert_eq!(fs::read_dir(&place).unwrap().count(), 1);
        assert_eq!(load(&start(dir.path()), "u"), Some(80));
    }

    /// Another tenant must not find a name that has the file of a policy.
    #[test]
    fn names_with_the_same_short_hash_have_files_of_their_own() {
        let key = |namespace: &str, name: &str| ObjectKey {
            kind: Kind::CiliumNetworkPolicy,
            namespace: Some(namespace.into()),
            name: name.into(),
        };
        // Both have the 64-bit FNV-1a hash 702d4e640cdf242c.
        let found = "fsekt69ular9t7p8m432jplvhg5jya1u0hlrqzz3gbafjpz8tf";
        let place = Path::new("/");
        assert_ne!(file(place, &key("a", found)), file(place, &key("b", "lock")));
    }
}
