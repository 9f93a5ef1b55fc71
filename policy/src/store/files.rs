//! Objects that come from files: which file defines which object, and what a change of one file
//! changes. The cost of a change is that of the file, whatever else the store holds.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::{Store, rejections};
use crate::key::{Kind, ObjectKey};
use crate::manifest::Document;
use crate::model::Header;
use crate::rejection::{Rejection, SourceLocation};
use crate::relevance::Relevance;

/// What the files define.
#[derive(Debug, Default)]
pub(super) struct Files {
    files: BTreeMap<Arc<Path>, File>,
    /// Definitions that are not in force, because another file defines the object too.
    shadowed: BTreeMap<ObjectKey, BTreeMap<Arc<Path>, Shadowed>>,
}

#[derive(Debug, Default)]
struct File {
    /// Objects that this file defines and that are taken from it.
    defines: BTreeMap<ObjectKey, Definition>,
    /// Rejections of documents that can't be identified as an object; one element each.
    unreadable: Vec<Vec<Rejection>>,
}

#[derive(Clone, Copy, Debug)]
struct Definition {
    /// `None` if it has to be applied again in any case.
    digest: Option<Digests>,
    /// Whether the current content of the file lacks the object, which is still in force.
    missing: bool,
}

#[derive(Debug)]
struct Shadowed {
    /// `None` if the file has to be read again to know it.
    document: Option<Document>,
    /// [`Digests::read`] of it.
    digest: Option<u64>,
    location: SourceLocation,
    /// Empty if it is the same as the definition in force.
    rejections: Vec<Rejection>,
}

/// Objects in a set of files. An object that can't be read is counted by its kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ObjectCounts {
    /// Policies.
    pub policies: usize,
    /// Other objects that verdicts depend on, and documents that are no objects.
    pub others: usize,
    /// Objects of kinds that no verdict depends on.
    pub ignored: usize,
}

/// What to do with objects that a file defined before and no longer has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Missing {
    /// They are deleted.
    Delete,
    /// They stay in force, until [`Store::delete_missing`] or the next [`Store::sync_file`].
    Keep,
}

/// Whether verdicts depend on a document.
#[derive(Debug)]
pub enum DocumentKind {
    /// They do: an object. It may still be rejected.
    Object(ObjectKey),
    /// They don't: an object of another kind.
    Ignored,
    /// Unknown: it can't be identified as an object, but may be intended as one.
    Unreadable(Vec<Rejection>),
}

impl DocumentKind {
    /// Of a document.
    #[must_use]
    pub fn of(document: &Document) -> Self {
        let value = match &document.value {
            Ok(value) => value,
            Err(rejection) => return Self::Unreadable(vec![rejection.clone()]),
        };
        if matches!(Relevance::of(value), Relevance::None) {
            return Self::Ignored;
        }
        match Header::parse(value) {
            Ok(header) => Self::Object(header.key),
            Err((shown, problems)) => {
                Self::Unreadable(rejections(&shown, Some(&document.source), problems))
            }
        }
    }
}

/// What [`Store::sync_file`] found.
#[derive(Debug, Default)]
pub struct FileSync {
    /// Objects in the file.
    pub counts: ObjectCounts,
    /// What is rejected or warned of in it.
    pub rejections: Vec<Rejection>,
    /// Files to read and sync again: they define objects that another file defined until now.
    pub read_again: BTreeSet<Arc<Path>>,
}

/// Digests of an object, without the fields that no verdict depends on.
#[derive(Clone, Copy, Debug)]
struct Digests {
    /// As it is written.
    written: u64,
    /// As the API reads it, which has no fields that are null: two definitions with the same one
    /// are one object.
    read: u64,
}

impl Digests {
    fn of(value: &Value) -> Self {
        Self { written: written_digest(value), read: read_digest(value) }
    }
}

fn written_digest(value: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    let Value::Object(object) = value else {
        value.hash(&mut hasher);
        return hasher.finish();
    };
    for (field, value) in object {
        field.hash(&mut hasher);
        match value {
            Value::Object(metadata) if field == "metadata" => {
                let read = |name: &str| !METADATA_NOT_READ.contains(&name);
                metadata.iter().filter(|(name, _)| read(name)).for_each(|entry| {
                    entry.hash(&mut hasher);
                });
            }
            _ => value.hash(&mut hasher),
        }
    }
    hasher.finish()
}

/// Of objects of one name and kind.
fn read_digest(value: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    let Value::Object(object) = value else {
        value.hash(&mut hasher);
        return hasher.finish();
    };
    let kind = value.get("kind").and_then(Value::as_str).and_then(Kind::by_name);
    let has_status = matches!(kind, Some(Kind::Pod | Kind::Node | Kind::Service));
    for (field, value) in object {
        match (field.as_str(), value) {
            (_, Value::Null) => {}
            ("status", Value::Object(status)) if !has_status || status.is_empty() => {}
            ("metadata", Value::Object(metadata)) => {
                // The names are the same.
                let is_read = |name: &str| {
                    !METADATA_NOT_READ.contains(&name) && !["name", "namespace"].contains(&name)
                };
                for (name, value) in metadata.iter().filter(|(name, _)| is_read(name)) {
                    hash_entry(name, value, &mut hasher);
                }
            }
            _ => hash_entry(field, value, &mut hasher),
        }
    }
    hasher.finish()
}

/// Mappings whose values are text. In these, `null` is an empty text; in others, it is absent.
const TEXT_MAPPINGS: [&str; 3] = ["labels", "matchLabels", "selector"];

fn hash_entry(name: &str, value: &Value, hasher: &mut impl Hasher) {
    if value.is_null() {
        return;
    }
    name.hash(hasher);
    match value {
        Value::Object(texts) if TEXT_MAPPINGS.contains(&name) => texts.hash(hasher),
        _ => hash_value(value, hasher),
    }
}

fn hash_value(value: &Value, hasher: &mut impl Hasher) {
    match value {
        Value::Object(object) => {
            hasher.write_u8(b'{');
            object.values().filter(|value| !value.is_null()).count().hash(hasher);
            object.iter().for_each(|(name, value)| hash_entry(name, value, hasher));
        }
        Value::Array(items) => {
            hasher.write_u8(b'[');
            items.len().hash(hasher);
            items.iter().for_each(|item| hash_value(item, hasher));
        }
        _ => value.hash(hasher),
    }
}

/// Fields of an object's metadata that no verdict depends on.
const METADATA_NOT_READ: [&str; 7] = [
    "annotations",
    "creationTimestamp",
    "generation",
    "managedFields",
    "resourceVersion",
    "selfLink",
    "uid",
];

impl Files {
    /// Rejections of documents that are no objects, or not the definition in force, file by file.
    pub(super) fn rejections(&self) -> impl Iterator<Item = &Vec<Rejection>> {
        let unreadable = self.files.values().flat_map(|file| &file.unreadable);
        let shadowed = self.shadowed.values().flat_map(BTreeMap::values);
        unreadable
            .chain(shadowed.map(|shadowed| &shadowed.rejections).filter(|list| !list.is_empty()))
    }

    fn definition(&self, file: &Path, key: &ObjectKey) -> Option<Definition> {
        self.files.get(file)?.defines.get(key).copied()
    }

    fn remove(&mut self, file: &Path, key: &ObjectKey) {
        if let Some(file) = self.files.get_mut(file) {
            file.defines.remove(key);
        }
    }

    /// Takes a definition of `file` out of those that are not in force, if it is one.
    fn take_shadowed(&mut self, file: &Path, key: &ObjectKey) -> Option<Shadowed> {
        let definitions = self.shadowed.get_mut(key)?;
        let taken = definitions.remove(file);
        if definitions.is_empty() {
            self.shadowed.remove(key);
        }
        taken
    }

    /// The first by file name of the definitions of `key` that are not in force.
    fn next_shadowed(&mut self, key: &ObjectKey) -> Option<(Arc<Path>, Shadowed)> {
        let definitions = self.shadowed.get_mut(key)?;
        let next = definitions.pop_first();
        if definitions.is_empty() {
            self.shadowed.remove(key);
        }
        next
    }

    /// Adds a rejection to each other definition of `key` that differs from the one at `first`,
    /// which is in force.
    fn report_shadowed(&mut self, key: &ObjectKey, first: &SourceLocation, digest: Option<u64>) {
        for shadowed in self.shadowed.get_mut(key).into_iter().flat_map(BTreeMap::values_mut) {
            let same = shadowed.digest.is_some() && shadowed.digest == digest;
            let rejection = || defined_already(key, &shadowed.location, first);
            shadowed.rejections = if same { Vec::new() } else { vec![rejection()] };
        }
    }

    /// Everything that is taken from `file`.
    fn keys_of(&self, file: &Path) -> BTreeSet<ObjectKey> {
        let in_force = self.files.get(file).into_iter().flat_map(|file| file.defines.keys());
        in_force.cloned().collect()
    }
}

impl Store {
    /// Brings the store up to date with a set of files: [`Self::sync_file`] for each of them, and
    /// [`Self::remove_file`] for files that are no longer in the set. Objects that did not come
    /// from files stay.
    ///
    /// Objects of a file that has an unreadable part stay, because they may be in that part, and
    /// so do those of files in a directory that can't be read. [`Store::rejections`] has
    /// the rejected objects.
    pub fn sync(&mut self, documents: &[Document]) -> ObjectCounts {
        let mut files: BTreeMap<Arc<Path>, Vec<&Document>> = BTreeMap::new();
        for document in documents {
            let file = Arc::clone(&document.source.location.file);
            files.entry(file).or_default().push(document);
        }
        let mut counts = ObjectCounts::default();
        let mut again = BTreeSet::new();
        for (file, documents) in &files {
            let synced = self.sync_documents(file, documents, Missing::Delete);
            counts += synced.counts;
            again.extend(synced.read_again);
        }
        let broken: Vec<_> = documents.iter().filter(|document| document.value.is_err()).collect();
        let in_doubt = |file: &Arc<Path>| {
            broken.iter().any(|broken| file.starts_with(&broken.source.location.file))
        };
        let known = self.files.files.keys();
        let gone = known.filter(|file| !files.contains_key(*file) && !in_doubt(file));
        for file in gone.cloned().collect::<Vec<_>>() {
            again.extend(self.remove_file(&file));
        }
        for file in again {
            if let Some(documents) = files.get(&file) {
                self.sync_documents(&file, documents, Missing::Delete);
            }
        }
        counts
    }

    /// Brings the store up to date with one file. An object that did not change costs only a
    /// comparison. Documents of kinds that policy does not depend on are ignored.
    ///
    /// An object that several files define is taken from the first by name; in one file from the
    /// first document. If a document can't be identified as an object, no missing object is
    /// deleted, because the document may be intended as one of them.
    pub fn sync_file(
        &mut self,
        file: &Arc<Path>,
        documents: &[Document],
        missing: Missing,
    ) -> FileSync {
        self.sync_documents(file, &documents.iter().collect::<Vec<_>>(), missing)
    }

    fn sync_documents(
        &mut self,
        file: &Arc<Path>,
        documents: &[&Document],
        missing: Missing,
    ) -> FileSync {
        let mut result = FileSync::default();
        let mut former = self.files.files.remove(file).unwrap_or_default().defines;
        let mut seen: BTreeMap<ObjectKey, (&Document, Digests)> = BTreeMap::new();
        let mut unreadable = Vec::new();
        for &document in documents {
            match (DocumentKind::of(document), &document.value) {
                (DocumentKind::Object(key), Ok(value)) => {
                    let digest = Digests::of(value);
                    match seen.get(&key) {
                        // The same object once more.
                        Some((_, first)) if first.read == digest.read => continue,
                        Some((first, _)) => {
                            let (at, first) = (&document.source.location, &first.source.location);
                            unreadable.push(vec![defined_already(&key, at, first)]);
                        }
                        None => {
                            seen.insert(key, (document, digest));
                        }
                    }
                }
                (DocumentKind::Unreadable(rejections), _) => unreadable.push(rejections),
                (DocumentKind::Ignored | DocumentKind::Object(_), _) => {}
            }
            result.counts.count(document);
        }
        let keep = missing == Missing::Keep || has_unidentified(documents);
        result.rejections.extend(unreadable.iter().flatten().cloned());
        self.files.files.insert(Arc::clone(file), File { defines: BTreeMap::new(), unreadable });
        let shadowed = self.shadowed_keys_of(file);
        for key in shadowed.iter().filter(|key| !seen.contains_key(*key)) {
            self.files.take_shadowed(file, key);
        }
        for (key, (document, digest)) in seen {
            let was = former.remove(&key).and_then(|was| was.digest);
            self.define(file, &key, document, digest, was);
            result.rejections.extend(self.rejections_of(file, &key).cloned());
        }
        for (key, definition) in former {
            let shadowed = self.files.shadowed.contains_key(&key);
            if keep && !shadowed {
                let missing = Definition { missing: true, ..definition };
                let Some(file) = self.files.files.get_mut(file) else { continue };
                file.defines.insert(key, missing);
            } else {
                result.read_again.extend(self.withdraw(&key));
            }
        }
        result
    }

    /// Deletes the objects that the file no longer has and that are still in force. Returns files
    /// to read and sync again.
    pub fn delete_missing(&mut self, file: &Path) -> BTreeSet<Arc<Path>> {
        let Some(entry) = self.files.files.get_mut(file) else { return BTreeSet::new() };
        let missing: Vec<_> =
            entry.defines.extract_if(.., |_, definition| definition.missing).collect();
        missing.into_iter().filter_map(|(key, _)| self.withdraw(&key)).collect()
    }

    /// Deletes what a file defines, and what is known of it. Returns files to read and sync again.
    pub fn remove_file(&mut self, file: &Path) -> BTreeSet<Arc<Path>> {
        for key in self.shadowed_keys_of(file) {
            self.files.take_shadowed(file, &key);
        }
        let defines = self.files.keys_of(file);
        self.files.files.remove(file);
        defines.iter().filter_map(|key| self.withdraw(key)).collect()
    }

    /// Objects that `file` defines and that are taken from another one.
    fn shadowed_keys_of(&self, file: &Path) -> BTreeSet<ObjectKey> {
        let shadowed = self.files.shadowed.iter();
        shadowed.filter(|(_, by)| by.contains_key(file)).map(|(key, _)| key.clone()).collect()
    }

    /// Takes an object from `file`, or records that another file's definition has precedence. `was`
    /// is the digest of what `file` defined before.
    fn define(
        &mut self,
        file: &Arc<Path>,
        key: &ObjectKey,
        document: &Document,
        digest: Digests,
        was: Option<Digests>,
    ) {
        let other = self.sources.get(key).filter(|at| at.file != *file).cloned();
        let other = other.and_then(|at| Some((self.files.definition(&at.file, key)?, at)));
        if let Some((definition, at)) = other {
            if !definition.missing && at.file < *file {
                let location = document.source.location.clone();
                let (kept, digest) = (Some(document.clone()), Some(digest.read));
                let rejections = Vec::new();
                let shadowed = Shadowed { document: kept, digest, location, rejections };
                let by = self.files.shadowed.entry(key.clone()).or_default();
                by.insert(Arc::clone(file), shadowed);
                let first = definition.digest.map(|digest| digest.read);
                return self.files.report_shadowed(key, &at, first);
            }
            self.files.remove(&at.file, key);
            if !definition.missing {
                let digest = definition.digest.map(|digest| digest.read);
                let (document, rejections) = (None, Vec::new());
                let shadowed = Shadowed { document, digest, location: at.clone(), rejections };
                self.files.shadowed.entry(key.clone()).or_default().insert(at.file, shadowed);
            }
        }
        self.files.take_shadowed(file, key);
        let warned = self.policies.get(key).is_some_and(|policy| !policy.warnings.is_empty());
        let same = was.is_some_and(|was| was.written == digest.written);
        if same && !warned && self.rejections.get(key).is_none() {
            self.sources.insert(key.clone(), document.source.location.clone());
        } else if let Ok(value) = &document.value {
            // Rejections are kept in the store.
            let _ = self.apply(value, Some(&document.source));
        }
        self.files.report_shadowed(key, &document.source.location, Some(digest.read));
        if let Some(entry) = self.files.files.get_mut(file) {
            entry.defines.insert(key.clone(), Definition { digest: Some(digest), missing: false });
        }
    }

    /// Why the definition of an object in `file` is not in force as written.
    fn rejections_of(&self, file: &Path, key: &ObjectKey) -> impl Iterator<Item = &Rejection> {
        let shadowed = self.files.shadowed.get(key).and_then(|by| by.get(file));
        let ours = shadowed.is_none();
        let rejected = self.rejections.get(key).filter(|_| ours);
        let warnings = self.policies.get(key).map(|policy| &policy.warnings).filter(|_| ours);
        let shadowed = shadowed.map(|shadowed| &shadowed.rejections);
        [rejected, warnings, shadowed].into_iter().flatten().flatten()
    }

    /// Takes an object from the next file that defines it, or deletes it. Returns a file that has
    /// to be read again for that; until then, the object stays as it is.
    fn withdraw(&mut self, key: &ObjectKey) -> Option<Arc<Path>> {
        let Some((file, next)) = self.files.next_shadowed(key) else {
            self.delete(key);
            return None;
        };
        let digest = match next.document.as_ref().map(|document| (document, &document.value)) {
            Some((document, Ok(value))) => {
                let _ = self.apply(value, Some(&document.source));
                Some(Digests::of(value))
            }
            _ => {
                self.sources.insert(key.clone(), next.location.clone());
                None
            }
        };
        self.files.report_shadowed(key, &next.location, digest.map(|digest| digest.read));
        let entry = self.files.files.entry(Arc::clone(&file)).or_default();
        entry.defines.insert(key.clone(), Definition { digest, missing: false });
        digest.is_none().then_some(file)
    }
}

impl ObjectCounts {
    fn count(&mut self, document: &Document) {
        match document.value.as_ref().map(Relevance::of) {
            Ok(Relevance::Policy) => self.policies += 1,
            Ok(Relevance::None) => self.ignored += 1,
            Ok(Relevance::Other) | Err(_) => self.others += 1,
        }
    }
}

impl std::ops::AddAssign for ObjectCounts {
    fn add_assign(&mut self, other: Self) {
        self.policies += other.policies;
        self.others += other.others;
        self.ignored += other.ignored;
    }
}

/// Whether one of the documents can't be identified as an object.
fn has_unidentified(documents: &[&Document]) -> bool {
    documents
        .iter()
        .any(|document| matches!(DocumentKind::of(document), DocumentKind::Unreadable(_)))
}

fn defined_already(key: &ObjectKey, at: &SourceLocation, first: &SourceLocation) -> Rejection {
    let (object, source) = (key.to_string(), Some(at.clone()));
    let reason = format!("is defined otherwise at {first}, which counts");
    Rejection { object, source, field: String::new(), reason, fix: None }
}
