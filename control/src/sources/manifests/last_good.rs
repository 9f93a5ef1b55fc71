//! The last good objects of each manifest, on disk, for a start with a manifest that can't be read.
//!
//! One file for each manifest, in `last-good` in the state directory, replaced atomically: a line
//! with format version and checksum, a line that names the manifest, and a line with the objects.
//! The total size is bounded by [`TOTAL_MAX`]. Files that are damaged or of another version are
//! ignored.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use podgate_policy::manifest::{self, Document};
use podgate_policy::{DocumentKind, Missing, ObjectKey, SourceLocation, Store};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tracing::warn;

use super::file_state::Stamp;
use crate::sources::LAST_GOOD;
use crate::sources::checked_file::{Format, digest, file_name, has_digest_name};
use crate::{atomic_file, damaged_file};

/// Most bytes of all files together.
const TOTAL_MAX: u64 = 256 * 1024 * 1024;

/// Most states that are written together: as many files are open meanwhile.
pub(super) const BATCH: usize = 16;

/// More than the resolution of a file system's times.
const TICK: Duration = Duration::from_secs(2);

const FORMAT: Format = Format { magic: "podgate-last-good", version: 2 };

/// The digest that stands for an object.
#[must_use]
pub(super) fn digest_of_key(key: &ObjectKey) -> u128 {
    digest(key.to_string().as_bytes())
}

/// A manifest's state without its objects.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub(super) struct Header {
    /// The directory of manifests.
    directory: PathBuf,
    /// The manifest's name in it.
    name: OsString,
    digest: u128,
    len: u64,
    inode: (u64, u64),
    /// Digests of the objects' names, sorted.
    pub(super) objects: Vec<u128>,
}

impl Header {
    /// The content that the objects were read from.
    pub(super) const fn stamp(&self) -> Stamp {
        Stamp { digest: self.digest, len: self.len, inode: self.inode }
    }
}

#[derive(Serialize, Deserialize, Debug)]
struct SavedObject {
    line: u32,
    column: u32,
    object: Value,
}

/// The directory of last good states of one directory of manifests.
#[derive(Clone, Debug)]
pub(super) struct LastGood {
    path: PathBuf,
    directory: PathBuf,
}

impl LastGood {
    /// In the state directory `state`, for the manifests of `directory`.
    pub(super) fn new(state: &Path, directory: &Path) -> Self {
        let directory = std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned());
        Self { path: state.join(LAST_GOOD), directory }
    }

    /// Where a manifest's state is.
    pub(super) fn file(&self, name: &OsStr) -> PathBuf {
        let directory = self.directory.as_os_str().as_encoded_bytes();
        let manifest = [directory, b"/", name.as_encoded_bytes()].concat();
        self.path.join(file_name(&manifest))
    }

    /// Everything that is known, by the manifest's name, and why some of it can't be used. What
    /// belongs to other directories of manifests is removed.
    pub(super) fn index(&self) -> (BTreeMap<OsString, Header>, Vec<String>) {
        let (mut index, mut damaged) = (BTreeMap::new(), Vec::new());
        let entries = match fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return (index, damaged),
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                let reason = damaged_file::set_aside_line(&self.path, "it is not a directory");
                return (index, vec![reason]);
            }
            Err(error) => {
                let path = self.path.display();
                return (index, vec![format!("{path} can't be read: {error}")]);
            }
        };
        for path in entries.flatten().map(|entry| entry.path()) {
            if !has_digest_name(&path) || index.len() >= manifest::FILES_MAX {
                continue;
            }
            match read(&path) {
                Ok((header, _)) if header.directory == self.directory => {
                    index.insert(header.name.clone(), header);
                }
                Ok(_) => {
                    // A state that stays is read again at the next start.
                    let _ = fs::remove_file(&path);
                }
                Err(reason) => damaged.push(format!("{}: {reason}", path.display())),
            }
        }
        (index, damaged)
    }

    /// The objects of a manifest, as they were read last; `file` is what to call it.
    ///
    /// # Errors
    /// Why they are not known.
    pub(super) fn load(
        &self,
        name: &OsStr,
        file: &Arc<Path>,
    ) -> Result<(Header, Vec<Document>), String> {
        let path = self.file(name);
        let (header, kept) = read(&path)?;
        if header.name != name || header.directory != self.directory {
            return Err(format!("{} belongs to another manifest", path.display()));
        }
        let kept: Vec<SavedObject> =
            serde_json::from_str(&kept).map_err(|error| error.to_string())?;
        let document = |kept: SavedObject| {
            let (line, column) = (kept.line, kept.column);
            manifest::saved_document(
                &SourceLocation { file: Arc::clone(file), line, column },
                kept.object,
            )
        };
        Ok((header, kept.into_iter().map(document).collect()))
    }
}

/// Reads one state: whose it is, and the line of its objects.
fn read(path: &Path) -> Result<(Header, String), String> {
    let text = FORMAT.read(path)?;
    let damaged = || "is damaged: it has no objects".to_owned();
    let (header, objects) = text.split_once('\n').ok_or_else(damaged)?;
    let header = serde_json::from_str(header).map_err(|error| error.to_string())?;
    Ok((header, objects.to_owned()))
}

/// What is to be written.
#[derive(Debug)]
pub(super) enum Save {
    /// The objects of a content, and of the former state those that the content lacks (if they are
    /// kept) or has in a version that can't be enforced.
    Put { name: OsString, stamp: Option<Stamp>, documents: Arc<[Document]>, missing: Missing },
    /// Nothing: the manifest was removed.
    Remove { name: OsString },
}

impl Save {
    /// The manifest that it belongs to.
    pub(super) const fn name(&self) -> &OsString {
        match self {
            Self::Put { name, .. } | Self::Remove { name } => name,
        }
    }
}

/// Why a state is not on disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum NotSaved {
    /// A part of the manifest can't be read, and nothing was saved of it before.
    Unreadable,
    /// It can't be written.
    Failed(String),
}

impl From<String> for NotSaved {
    fn from(reason: String) -> Self {
        Self::Failed(reason)
    }
}

/// Writes states. It keeps account of their sizes.
#[derive(Debug)]
pub(super) struct Writer {
    place: LastGood,
    sizes: HashMap<PathBuf, u64>,
    /// Sum of the sizes.
    total: u64,
    /// Inode and modification time of the directory when all of these files were in it; `None` if
    /// it had changed just before.
    complete: Option<(u64, SystemTime)>,
}

impl Writer {
    /// For a place where these states are.
    pub(super) fn new(place: LastGood) -> Self {
        let entries = fs::read_dir(&place.path).into_iter().flatten().flatten();
        let entries = entries.filter(|entry| has_digest_name(&entry.path()));
        let size = |entry: fs::DirEntry| Some((entry.path(), entry.metadata().ok()?.len()));
        let sizes: HashMap<_, _> = entries.filter_map(size).collect();
        let total = sizes.values().sum();
        Self { place, sizes, total, complete: None }
    }

    /// Files that others removed since they were written, or since the last call.
    pub(super) fn take_removed(&mut self) -> BTreeSet<PathBuf> {
        let found = fs::metadata(&self.place.path).and_then(|m| Ok((m.ino(), m.modified()?))).ok();
        if self.sizes.is_empty() || found.is_some() && found == self.complete {
            return BTreeSet::new();
        }
        let present: HashSet<_> = match fs::read_dir(&self.place.path) {
            Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
            Err(error) if is_gone(&error) => HashSet::new(),
            Err(_) => return BTreeSet::new(),
        };
        let is_removed = |path: &&PathBuf| !present.contains(*path);
        let removed: BTreeSet<_> = self.sizes.keys().filter(is_removed).cloned().collect();
        for path in &removed {
            self.set_size(path, None);
        }
        // A change within a tick of the file system's clock leaves the time as it is.
        let is_still = |(_, at): &(u64, SystemTime)| {
            SystemTime::now().duration_since(*at).is_ok_and(|age| age > TICK)
        };
        self.complete = found.filter(is_still);
        removed
    }

    /// Carries out what is to be written, for at most [`BATCH`] manifests, each of them once.
    /// Returns for each why it can't be written; what was there before is still there then.
    /// Removals come last: a manifest that was renamed is always there under one of its names.
    pub(super) fn save(&mut self, saves: Vec<Save>) -> Vec<(OsString, Result<(), NotSaved>)> {
        let (mut results, mut names, mut files) = (Vec::new(), Vec::new(), Vec::new());
        let (removals, puts): (Vec<_>, Vec<_>) =
            saves.into_iter().partition(|save| matches!(save, Save::Remove { .. }));
        for removal in &removals {
            // What is removed takes no room from what is written.
            let path = self.place.file(removal.name());
            self.set_size(&path, None);
        }
        for put in puts {
            let name = put.name().clone();
            match self.prepare(put) {
                Ok(Some(file)) => {
                    names.push(name);
                    files.push(file);
                }
                Ok(None) => results.push((name, Err(NotSaved::Unreadable))),
                Err(reason) => results.push((name, Err(reason.into()))),
            }
        }
        let written = self.write(&files).into_iter().map(|written| written.map_err(Into::into));
        results.extend(names.into_iter().zip(written));
        for removal in removals {
            let removed = match fs::remove_file(self.place.file(removal.name())) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(error.to_string().into())
                }
                _ => Ok(()),
            };
            results.push((removal.name().clone(), removed));
        }
        results
    }

    /// The file that is to be written, with its content, if one is.
    fn prepare(&self, save: Save) -> Result<Option<(PathBuf, Vec<u8>)>, String> {
        let Save::Put { name, stamp, documents, missing } = save else { return Ok(None) };
        let path = self.place.file(&name);
        let file: Arc<Path> = Path::new(&name).into();
        let former = || self.place.load(&name, &file).ok();
        let kept = merge(&documents, missing, || former().map(|(_, kept)| kept));
        let stamp = stamp.or_else(|| former().map(|(header, _)| header.stamp()));
        let Some(stamp) = stamp else { return Ok(None) };
        let bytes = self.encode(&name, stamp, &kept).map_err(|error| error.to_string())?;
        Ok(Some((path, bytes)))
    }

    fn encode(
        &self,
        name: &OsStr,
        stamp: Stamp,
        documents: &[Document],
    ) -> serde_json::Result<Vec<u8>> {
        let mut objects: Vec<u128> =
            documents.iter().filter_map(key).map(|key| digest_of_key(&key)).collect();
        objects.sort_unstable();
        let (directory, name) = (self.place.directory.clone(), name.to_owned());
        let Stamp { digest, len, inode } = stamp;
        let header = Header { directory, name, digest, len, inode, objects };
        let kept = documents.iter().filter_map(|document| {
            let (line, column) = (document.source.location.line, document.source.location.column);
            Some(SavedObject { line, column, object: document.value.clone().ok()? })
        });
        let kept = serde_json::to_string(&kept.collect::<Vec<_>>())?;
        Ok(FORMAT.encode(&format!("{}\n{kept}", serde_json::to_string(&header)?)))
    }

    /// Writes the files that fit the bound. Returns the result of each.
    fn write(&mut self, files: &[(PathBuf, Vec<u8>)]) -> Vec<Result<(), String>> {
        if files.is_empty() {
            return Vec::new();
        }
        let mut builder = fs::DirBuilder::new();
        if let Err(error) = builder.recursive(true).mode(0o700).create(&self.place.path) {
            atomic_file::count_failed(files.len());
            return files.iter().map(|_| Err(error.to_string())).collect();
        }
        let before: Vec<_> = files.iter().map(|(path, _)| self.sizes.get(path).copied()).collect();
        let fits: Vec<_> = files.iter().map(|(path, bytes)| self.reserve(path, bytes)).collect();
        let fitting = files.iter().zip(&fits).filter(|(_, fits)| **fits);
        let fitting: Vec<_> = fitting.map(|((path, bytes), _)| (&**path, &**bytes)).collect();
        let mut written = atomic_file::write_all(&self.place.path, &fitting).into_iter();
        let mut results = Vec::new();
        for (((path, _), fits), before) in files.iter().zip(fits).zip(before) {
            let result = match fits.then(|| written.next()).flatten() {
                Some(result) => result.map_err(|error| error.to_string()),
                None => Err(format!("last good objects would take more than {TOTAL_MAX} bytes")),
            };
            if result.is_err() {
                self.set_size(path, before);
            }
            results.push(result);
        }
        results
    }

    /// Accounts for the file that is about to be written. Returns whether it fits the bound.
    fn reserve(&mut self, path: &Path, bytes: &[u8]) -> bool {
        let len = bytes.len() as u64;
        let others = self.total - self.sizes.get(path).copied().unwrap_or_default();
        let fits = others + len <= TOTAL_MAX && len <= manifest::FILE_MAX;
        if fits {
            self.set_size(path, Some(len));
        }
        fits
    }

    fn set_size(&mut self, path: &Path, size: Option<u64>) {
        let before = match size {
            Some(size) => self.sizes.insert(path.to_owned(), size),
            None => self.sizes.remove(path),
        };
        self.total = self.total - before.unwrap_or_default() + size.unwrap_or_default();
    }
}

/// Whether there is no such directory.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn key(document: &Document) -> Option<ObjectKey> {
    match DocumentKind::of(document) {
        DocumentKind::Object(key) => Some(key),
        DocumentKind::Ignored | DocumentKind::Unreadable(_) => None,
    }
}

/// What is good of a content: its objects, in the former version where this one can't be enforced.
fn merge(
    documents: &[Document],
    missing: Missing,
    former: impl FnOnce() -> Option<Vec<Document>>,
) -> Vec<Document> {
    let mut good: BTreeMap<ObjectKey, Document> = BTreeMap::new();
    let mut rejected = Vec::new();
    for document in documents {
        let (Some(key), Ok(value)) = (key(document), &document.value) else { continue };
        if good.contains_key(&key) || rejected.contains(&key) {
            continue;
        }
        match Store::new().apply(value, None) {
            Ok(_) => _ = good.insert(key, document.clone()),
            Err(_) => rejected.push(key),
        }
    }
    if missing == Missing::Keep || !rejected.is_empty() {
        for document in former().unwrap_or_default() {
            let Some(key) = key(&document) else { continue };
            if missing == Missing::Keep || rejected.contains(&key) {
                good.entry(key).or_insert(document);
            }
        }
    }
    good.into_values().collect()
}

/// Logs states that can't be used.
pub(super) fn log_damaged(damaged: &[String]) {
    for reason in damaged {
        warn!("saved last good objects can't be used: {reason}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { digest: 1, len: 2, inode: (3, 4) };

    fn policy(name: &str, port: u32) -> String {
        format!(
            "---\n{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, \
             metadata: {{namespace: a, name: {name}}}, \
             spec: {{podSelector: {{}}, ingress: [{{ports: [{{port: {port}}}]}}]}}}}\n"
        )
    }

    fn put(text: &str, missing: Missing) -> Save {
        let documents = manifest::parse(text, Path::new("/m/p.yaml")).into();
        Save::Put { name: "p.yaml".into(), stamp: Some(STAMP), documents, missing }
    }

    fn save_one(writer: &mut Writer, save: Save) -> Result<(), NotSaved> {
        writer.save(vec![save]).pop().unwrap().1
    }

    fn load(place: &LastGood) -> Result<(Header, Vec<Document>), String> {
        place.load("p.yaml".as_ref(), &Path::new("/m/p.yaml").into())
    }

    /// Names and ports of what is known.
    fn known(place: &LastGood) -> Vec<String> {
        let Ok((_, documents)) = load(place) else { return Vec::new() };
        let show = |document: &Document| {
            let value = document.value.as_ref().unwrap();
            let port = &value["spec"]["ingress"][0]["ports"][0]["port"];
            format!("{}:{port}", value["metadata"]["name"].as_str().unwrap())
        };
        documents.iter().map(show).collect()
    }

    #[test]
    fn a_file_in_the_place_of_the_directory_is_set_aside() {
        let state = tempfile::tempdir().unwrap();
        let place = LastGood::new(state.path(), Path::new("/manifests"));
        fs::write(state.path().join(LAST_GOOD), "no directory").unwrap();
        let (index, damaged) = place.index();
        assert!(index.is_empty() && damaged[0].contains("last-good.bad-"), "{damaged:?}");
        assert!(place.index().1.is_empty());
        let mut writer = Writer::new(place);
        let documents = manifest::decode(policy("p", 1).as_bytes(), Path::new("p.yaml")).into();
        let (name, stamp, missing) = ("p.yaml".into(), Some(STAMP), Missing::Delete);
        save_one(&mut writer, Save::Put { name, stamp, documents, missing }).unwrap();
    }

    #[test]
    fn what_can_be_enforced_is_there_at_the_next_start() {
        let state = tempfile::tempdir().unwrap();
        let place = LastGood::new(state.path(), Path::new("/m"));
        let mut writer = Writer::new(place.clone());
        let both = policy("one", 1) + &policy("two", 2);
        save_one(&mut writer, put(&both, Missing::Delete)).unwrap();
        assert_eq!(known(&place), ["one:1", "two:2"]);
        // A version that can't be enforced does not take the former one's place.
        let rejected = policy("one", 123_456) + &policy("two", 3);
        save_one(&mut writer, put(&rejected, Missing::Delete)).unwrap();
        assert_eq!(known(&place), ["one:1", "two:3"]);
        save_one(&mut writer, put(&policy("three", 4), Missing::Keep)).unwrap();
        assert_eq!(known(&place), ["one:1", "three:4", "two:3"]);
        let (index, damaged) = place.index();
        let header = &index[OsStr::new("p.yaml")];
        assert_eq!((header.stamp(), header.objects.len(), damaged.len()), (STAMP, 3, 0));
        let name = OsString::from("p.yaml");
        save_one(&mut writer, Save::Remove { name }).unwrap();
        assert!(place.index().0.is_empty());
    }

    #[test]
    fn what_is_damaged_or_of_another_directory_counts_as_none() {
        let state = tempfile::tempdir().unwrap();
        let place = LastGood::new(state.path(), Path::new("/m"));
        let mut writer = Writer::new(place.clone());
        save_one(&mut writer, put(&policy("one", 1), Missing::Delete)).unwrap();
        let path = place.file("p.yaml".as_ref());
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 4;
            fs::write(&path, &bytes).unwrap();
            assert!(load(&place).is_err(), "byte {at}");
            fs::write(&path, &whole[..at]).unwrap();
            assert!(load(&place).is_err(), "cut at {at}");
        }
        let (index, damaged) = place.index();
        assert_eq!((index.len(), damaged.len()), (0, 1));
        fs::write(&path, &whole).unwrap();
        assert!(LastGood::new(state.path(), Path::new("/n")).index().0.is_empty());
        assert!(!path.exists());
    }

    #[test]
    fn a_removed_directory_is_noticed_and_made_again() {
        let state = tempfile::tempdir().unwrap();
        let place = LastGood::new(&state.path().join("state"), Path::new("/m"));
        let mut writer = Writer::new(place.clone());
        assert!(writer.take_removed().is_empty());
        save_one(&mut writer, put(&policy("one", 1), Missing::Delete)).unwrap();
        fs::remove_dir_all(state.path().join("state")).unwrap();
        assert_eq!(writer.take_removed(), [place.file("p.yaml".as_ref())].into());
        assert!(writer.take_removed().is_empty());
        save_one(&mut writer, put(&policy("one", 1), Missing::Delete)).unwrap();
        assert_eq!(known(&place), ["one:1"]);
        // A file in its place: an error, and the agent continues.
        fs::remove_dir_all(state.path().join("state")).unwrap();
        fs::write(state.path().join("state"), "").unwrap();
        assert!(save_one(&mut writer, put(&policy("one", 1), Missing::Delete)).is_err());
    }

    #[test]
    fn a_removed_file_is_noticed_once() {
        let state = tempfile::tempdir().unwrap();
        let place = LastGood::new(state.path(), Path::new("/m"));
        let mut writer = Writer::new(place.clone());
        let put = |name: &str| {
            let documents = manifest::parse(&policy("one", 1), Path::new("/m/p.yaml")).into();
            let (name, stamp) = (name.into(), Some(STAMP));
            Save::Put { name, stamp, documents, missing: Missing::Delete }
        };
        assert!(writer.save(vec![put("a"), put("b")]).iter().all(|(_, result)| result.is_ok()));
        // Also if the directory has been still for long.
        for is_still in [false, true] {
            if is_still {
                let directory = fs::File::open(&place.path).unwrap();
                directory.set_modified(SystemTime::now() - 2 * TICK).unwrap();
            }
            assert!(writer.take_removed().is_empty());
            assert!(writer.complete.is_some() || !is_still);
            let b = place.file("b".as_ref());
            fs::remove_file(&b).unwrap();
            assert_eq!(writer.take_removed(), [b].into());
            assert!(writer.take_removed().is_empty());
            save_one(&mut writer, put("b")).unwrap();
        }
    }

    #[test]
    fn the_sum_of_sizes_is_that_of_the_files_on_disk() {
        let state = tempfile::tempdir().unwrap();
        let place = LastGood::new(state.path(), Path::new("/m"));
        let mut writer = Writer::new(place.clone());
        let put = |name: &str, text: &str| {
            let documents = manifest::parse(text, Path::new("/m/p.yaml")).into();
            let (name, stamp) = (name.into(), Some(STAMP));
            Save::Put { name, stamp, documents, missing: Missing::Delete }
        };
        let on_disk = || -> u64 {
            let entries = fs::read_dir(&place.path).unwrap();
            entries.map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
        };
        let (short, long) = (policy("one", 1), policy("one", 1) + &policy("two", 2));
        let saved = writer.save(vec![put("a", &short), put("b", &long), put("c", &short)]);
        assert!(saved.iter().all(|(_, result)| result.is_ok()), "{saved:?}");
        assert_eq!(writer.total, on_disk());
        // One longer, one shorter, one removed, one that can't be written.
        fs::create_dir(place.file("d".as_ref())).unwrap();
        let remove = Save::Remove { name: "c".into() };
        let saved = writer.save(vec![put("a", &long), put("b", &short), remove, put("d", &long)]);
        let failed: Vec<_> = saved.iter().filter(|(_, result)| result.is_err()).collect();
        assert!(failed.len() == 1 && failed[0].0 == "d", "{saved:?}");
        assert!(saved.last().is_some_and(|(name, _)| name == "c"), "after all writes: {saved:?}");
        fs::remove_dir(place.file("d".as_ref())).unwrap();
        assert_eq!(writer.total, on_disk());
        assert_eq!(Writer::new(place.clone()).total, on_disk());
        // What does not fit is not written, and the rest of the batch is.
        writer.total = TOTAL_MAX;
        let saved = writer.save(vec![put("a", &short), put("e", &long)]);
        let failed: Vec<_> = saved.iter().filter(|(_, result)| result.is_err()).collect();
        assert!(failed.len() == 1 && failed[0].0 == "e", "{saved:?}");
    }
}
