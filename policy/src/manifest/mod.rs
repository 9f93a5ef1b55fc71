//! Reading objects from files: YAML or JSON, several documents a file, lists taken apart.
//!
//! An object that can't be read becomes a [`Rejection`] that names file and line; other objects are
//! not affected. Sizes, nesting and aliases are bounded, so that no file can hang or exhaust the
//! reader.

mod cut;
mod json;
mod places;

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use nix::fcntl::OFlag;
use serde_json::Value;
use serde_saphyr::localizer::Localizer;
use serde_saphyr::{Location, SnippetMode, UserMessageFormatter};

use crate::fields::{FieldPath, RENDER, TEMPLATE, printable};
use crate::rejection::{Rejection, SourceLocation};
use crate::relevance::Relevance;
use cut::{DocumentText, split_json, split_yaml};
use json::Exact;
use places::{Places, Position};

/// Largest file, bytes.
pub const FILE_MAX: u64 = 64 * 1024 * 1024;
/// Most files of one directory.
pub const FILES_MAX: usize = 10_000;
/// Most bytes of the files of one directory together, where an agent follows it.
pub const DIRECTORY_MAX: u64 = 256 * 1024 * 1024;
/// Deepest nesting of a document.
const DEPTH_MAX: usize = 64;
/// Most YAML events of one document: a list of a hundred thousand pods has some ten million.
const EVENTS_MAX: usize = 50_000_000;
/// Most nodes that aliases of one document may add by repetition.
const ALIASED_MAX: usize = 100_000;

/// One object of a file, or one part of it that can't be read.
#[derive(Clone, Debug)]
pub struct Document {
    /// Where it was read.
    pub source: Source,
    /// The object as JSON.
    pub value: Result<Value, Rejection>,
}

/// Where an object was read, and the text that it was read from.
#[derive(Clone, Debug)]
pub struct Source {
    /// Where it begins; for an element of a list, where the outermost list begins.
    pub location: SourceLocation,
    part: Arc<Part>,
    /// For an element of a list: its index in `items`, and so on into the lists in it.
    items: Vec<usize>,
}

/// One document of a file.
#[derive(Debug)]
struct Part {
    text: Box<str>,
    /// Position of its first character in the file.
    start: Position,
    /// Computed at the first rejection.
    places: OnceLock<Option<Places>>,
}

impl Source {
    /// Of an object that begins at `object` in a part of a file that begins at `start`.
    fn new(file: &Arc<Path>, text: &str, start: Position, object: Position) -> Self {
        Self {
            location: SourceLocation {
                file: Arc::clone(file),
                line: object.line,
                column: object.column,
            },
            part: Arc::new(Part { text: text.into(), start, places: OnceLock::new() }),
            items: Vec::new(),
        }
    }

    /// Of an element of the list that this is the source of.
    fn item(&self, index: usize) -> Self {
        let mut item = self.clone();
        item.items.push(index);
        item
    }

    /// Where a field of the object is, or would belong.
    pub(crate) fn locate(&self, field: &FieldPath) -> SourceLocation {
        let places = self.part.places.get_or_init(|| Places::of(&self.part.text)).as_ref();
        let Some(object) = places.and_then(|places| places.item(&self.items)) else {
            return self.location.clone();
        };
        let Position { line, column } = self.part.start.then(object.find(field));
        SourceLocation { file: Arc::clone(&self.location.file), line, column }
    }

    /// The text of a number or a boolean, as it is written.
    pub(crate) fn written(&self, field: &FieldPath) -> Option<&str> {
        let places = self.part.places.get_or_init(|| Places::of(&self.part.text)).as_ref();
        let Position { line, column } = places?.item(&self.items)?.value(field)?;
        let line = self.part.text.split('\n').nth(line as usize - 1)?;
        let (start, _) = line.char_indices().nth(column as usize - 1)?;
        let text = &line[start..];
        let is_part = |c: char| c.is_ascii_alphanumeric() || "+-._".contains(c);
        let end = text.find(|c| !is_part(c)).unwrap_or(text.len());
        (end > 0).then(|| &text[..end])
    }
}

/// Reads a file, or all `*.yaml`, `*.yml` and `*.json` files of a directory (not of directories in
/// it), in the order of their names. Names that begin with a dot are left out.
#[must_use]
pub fn load(path: &Path) -> Vec<Document> {
    if !path.is_dir() {
        return load_file(path);
    }
    let files = match list(path) {
        Ok(files) => files,
        Err(error) => {
            return vec![broken(path, Position::START, format!("can't be listed: {error}"))];
        }
    };
    let excess = files.len() > FILES_MAX;
    let mut documents: Vec<_> =
        files.iter().take(FILES_MAX).flat_map(|file| load_file_of_directory(file)).collect();
    if excess {
        let reason = format!("has {} files; only the first {FILES_MAX} were read", files.len());
        documents.push(broken(path, Position::START, reason));
    }
    documents
}

fn list(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.file_name().is_some_and(is_manifest) && !path.is_dir() {
            files.push(path);
        }
    }
    files.sort_unstable();
    Ok(files)
}

/// Whether a directory entry of this name is read: `*.yaml`, `*.yml` and `*.json`, unless the name
/// begins with a dot.
#[must_use]
pub fn is_manifest(name: &OsStr) -> bool {
    let extension = Path::new(name).extension().and_then(|extension| extension.to_str());
    let hidden = name.as_encoded_bytes().starts_with(b".");
    matches!(extension, Some("yaml" | "yml" | "json")) && !hidden
}

/// Why a directory entry is not read.
#[derive(Debug)]
pub enum ReadError {
    /// It is this, and not a regular file.
    NotRegular(&'static str),
    /// It is larger than [`FILE_MAX`].
    TooLarge,
    /// A system call failed.
    Io(io::Error),
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRegular(what) => write!(f, "is {what}, not a regular file"),
            Self::TooLarge => write!(f, "is larger than {FILE_MAX} bytes"),
            Self::Io(error) => write!(f, "can't be read: {error}"),
        }
    }
}

/// Reads a regular file, and what its metadata are, without waiting for the writer of a FIFO or the
/// other end of a device (`O_NONBLOCK`, open(2)).
///
/// # Errors
/// When it is anything else, too large, or can't be read.
pub fn read_regular(path: &Path) -> Result<(Vec<u8>, Metadata), ReadError> {
    // Before it is opened, because opening may be an action of its own, such as a tape's rewind.
    regular(&fs::metadata(path).map_err(ReadError::Io)?)?;
    let mut options = OpenOptions::new();
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = options.read(true).custom_flags(flags.bits()).open(path).map_err(ReadError::Io)?;
    let metadata = file.metadata().map_err(ReadError::Io)?;
    regular(&metadata)?;
    let mut bytes = Vec::new();
    // One byte more than allowed is read, to detect a file that is too large or grows.
    file.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(ReadError::Io)?;
    if bytes.len() as u64 > FILE_MAX { Err(ReadError::TooLarge) } else { Ok((bytes, metadata)) }
}

fn regular(metadata: &Metadata) -> Result<(), ReadError> {
    let kind = metadata.file_type();
    let what = match () {
        () if metadata.is_file() && metadata.len() > FILE_MAX => return Err(ReadError::TooLarge),
        () if metadata.is_file() => return Ok(()),
        () if kind.is_dir() => "a directory",
        () if kind.is_fifo() => "a FIFO",
        () if kind.is_socket() => "a socket",
        () => "a device",
    };
    Err(ReadError::NotRegular(what))
}

/// Whether a text holds nothing but blank lines, comments, marks of YAML documents, and documents
/// that are `null`.
#[must_use]
pub fn is_blank(bytes: &[u8]) -> bool {
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    let mut lines = bytes.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    lines.all(|line| {
        let content = line.strip_prefix(b"---").map_or(line, <[u8]>::trim_ascii_start);
        matches!(content, b"" | b"..." | b"null" | b"~") || content[0] == b'#'
    })
}

/// A document in place of a file that could not be read, with the caller's reason.
#[must_use]
pub fn unreadable(path: &Path, reason: String) -> Document {
    broken(path, Position::START, reason)
}

/// An object that was read before and kept, with the place that it was read from.
#[must_use]
pub fn saved_document(location: &SourceLocation, value: Value) -> Document {
    let at = Position { line: location.line, column: location.column };
    Document { source: Source::new(&location.file, "", at, at), value: Ok(value) }
}

fn load_file_of_directory(path: &Path) -> Vec<Document> {
    match read_regular(path) {
        Ok((bytes, _)) => decode(&bytes, path),
        Err(error) => vec![unreadable(path, error.to_string())],
    }
}

fn load_file(path: &Path) -> Vec<Document> {
    match fs::File::open(path) {
        Ok(file) => load_from(file, path),
        Err(error) => vec![broken(path, Position::START, format!("can't be read: {error}"))],
    }
}

/// Reads the documents of one stream; see [`parse`] for `path`.
#[must_use]
pub fn load_from(stream: impl io::Read, path: &Path) -> Vec<Document> {
    let mut bytes = Vec::new();
    // One byte more than allowed is read, to detect a file that is too large or grows.
    if let Err(error) = stream.take(FILE_MAX + 1).read_to_end(&mut bytes) {
        return vec![broken(path, Position::START, format!("can't be read: {error}"))];
    }
    if bytes.len() as u64 > FILE_MAX {
        return vec![broken(path, Position::START, format!("is larger than {FILE_MAX} bytes"))];
    }
    decode(&bytes, path)
}

/// Reads the documents of a text; `path` says what to call it, and `*.json` what it is.
#[must_use]
pub fn parse(text: &str, path: &Path) -> Vec<Document> {
    decode(text.as_bytes(), path)
}

/// Reads the documents of a file's content; see [`parse`] for `path`. A document with bytes that
/// are not UTF-8 is broken; its neighbours are not.
#[must_use]
pub fn decode(bytes: &[u8], path: &Path) -> Vec<Document> {
    let (text, broken_at) = to_text(bytes);
    let is_json = path.extension().is_some_and(|extension| extension == "json");
    let parts = if is_json { split_json(&text) } else { split_yaml(&text) };
    let file: Arc<Path> = path.into();
    let mut documents = Vec::new();
    for part in parts {
        let end = part.offset + part.text.len();
        match broken_at.iter().find(|at| (part.offset..end).contains(at)) {
            Some(at) => {
                let at = part.start.after(&part.text[..at - part.offset]);
                documents.push(broken(&file, at, "is not UTF-8".to_owned()));
            }
            None if is_json => parse_json(&part, &file, &mut documents),
            None => parse_yaml(&part, &file, &mut documents),
        }
    }
    documents
}

/// A text, and where in it something stood that is not UTF-8.
fn to_text(bytes: &[u8]) -> (Cow<'_, str>, Vec<usize>) {
    if let Ok(text) = str::from_utf8(bytes) {
        return (text.into(), Vec::new());
    }
    let mut text = String::new();
    let mut broken_at = Vec::new();
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        if !chunk.invalid().is_empty() {
            broken_at.push(text.len());
            text.push(char::REPLACEMENT_CHARACTER);
        }
    }
    (text.into(), broken_at)
}

fn parse_json(part: &DocumentText<'_>, file: &Arc<Path>, documents: &mut Vec<Document>) {
    match serde_json::from_str(part.text) {
        Ok(Exact(value)) => {
            flatten(value, Source::new(file, part.text, part.start, part.start), documents);
        }
        Err(error) => {
            // The library's column is the number of bytes that it has read.
            let line = part.text.split('\n').nth(error.line().saturating_sub(1));
            let before = line.unwrap_or_default().char_indices();
            let before = before.take_while(|(at, _)| at + 1 < error.column());
            let column = 1 + before.count() as u32;
            let at = part.start.then(Position { line: error.line() as u32, column });
            let message = error.to_string();
            let suffix = format!(" at line {} column {}", error.line(), error.column());
            let reason = message.strip_suffix(&suffix).unwrap_or(&message);
            documents.push(broken(file, at, reason.to_owned()));
        }
    }
}

fn parse_yaml(part: &DocumentText<'_>, file: &Arc<Path>, documents: &mut Vec<Document>) {
    // Where the object begins, past the marker, comments, directives and blank lines.
    let is_content = |line: &str| {
        let line = line.strip_prefix("---").unwrap_or(line).trim();
        !line.is_empty() && line != "..." && !line.starts_with(['#', '%'])
    };
    let Some(blank) = part.text.lines().position(is_content) else { return };
    let start = part.start;
    let first = Position { line: start.line + blank as u32, column: 1 };
    match serde_saphyr::from_str_with_options(part.text, yaml_options()) {
        Ok(Exact(Value::Null)) => {}
        Ok(Exact(value)) => flatten(value, Source::new(file, part.text, start, first), documents),
        Err(error) => {
            let template = part.text.lines().position(is_template_line);
            let (at, reason) = match template {
                Some(line) => {
                    let at = Position { line: start.line + line as u32, column: 1 };
                    (at, format!("{TEMPLATE}; {RENDER}"))
                }
                None => {
                    let at = error.location().map_or(first, |found| start.then(found.into()));
                    (at, in_words(&error))
                }
            };
            documents.push(broken(file, at, reason));
        }
    }
}

/// Whether a line has a place to fill in that is not in a text in quotes.
fn is_template_line(line: &str) -> bool {
    let line = line.trim_start();
    let value = line.split_once(": ").map_or(line, |(_, value)| value);
    let value = value.trim_start_matches(['-', ' ']);
    !line.starts_with('#') && (line.starts_with("{{") || value.starts_with("{{"))
}

/// What is wrong, without positions: those of the library count from the start of the document, not
/// of the file.
fn in_words(error: &serde_saphyr::Error) -> String {
    let formatter = UserMessageFormatter.with_localizer(&WithoutLocations);
    error.render_with_options(serde_saphyr::render_options! {
        formatter: &formatter,
        snippets: SnippetMode::Off,
    })
}

struct WithoutLocations;

impl Localizer for WithoutLocations {
    fn attach_location<'a>(&self, message: Cow<'a, str>, _: Location) -> Cow<'a, str> {
        message
    }

    fn alias_defined_at(&self, _: Location) -> String {
        String::new()
    }

    fn alias_used_at(&self, _: Location) -> String {
        String::new()
    }
}

fn yaml_options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: EVENTS_MAX,
            max_nodes: EVENTS_MAX,
            max_depth: DEPTH_MAX,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: ALIASED_MAX,
        },
        // `on` and `yes` are text, as in YAML 1.2.
        strict_booleans: true,
    }
}

/// Takes `List` and `…List` apart. What an element of a `PodList` doesn't say is in the list: that
/// it is a Pod, and of which apiVersion (Kubernetes API conventions, "Lists and Simple kinds").
fn flatten(mut value: Value, source: Source, documents: &mut Vec<Document>) {
    if let Some(reason) = answer_without_objects(&value) {
        let SourceLocation { file, line, column } = source.location;
        return documents.push(broken(&file, Position { line, column }, reason));
    }
    let text = |field| value.get(field).and_then(Value::as_str).map(str::to_owned);
    let (kind, version) = (text("kind"), text("apiVersion"));
    let Some(element) = kind.as_deref().and_then(|kind| kind.strip_suffix("List")) else {
        documents.push(Document { source, value: Ok(value) });
        return;
    };
    let mut reject = |field: FieldPath, reason: &str| {
        let at = source.locate(&field);
        let at = Position { line: at.line, column: at.column };
        documents.push(broken(&source.location.file, at, reason.to_owned()));
    };
    match value.get_mut("items").map(Value::take) {
        Some(Value::Array(items)) => {
            for (index, mut item) in items.into_iter().enumerate() {
                inherit(&mut item, element, version.as_deref());
                flatten(item, source.item(index), documents);
            }
        }
        // Ignoring it would ignore all that is in it. A file that was cut short may end here.
        None | Some(Value::Null) if is_relevant(element, version.as_deref()) => {
            let reason = format!("this {element}List has no items; an empty one has items: []");
            reject(FieldPath::default(), &reason);
        }
        None | Some(Value::Null) => documents.push(Document { source, value: Ok(value) }),
        Some(_) => reject(FieldPath::key("items"), "items must be a list"),
    }
}

/// Kinds of answers of an API server that are not objects of the cluster: what is saved if a
/// program asked for objects and did not get them.
const ANSWERS: [&str; 6] =
    ["Status", "Table", "APIResourceList", "APIGroup", "APIGroupList", "APIVersions"];

/// Why a document says nothing of the objects that were asked for, if it is such an answer.
fn answer_without_objects(value: &Value) -> Option<String> {
    let text = |field| value.get(field).and_then(Value::as_str).unwrap_or_default();
    let group = text("apiVersion").split_once('/').map_or("", |(group, _)| group);
    let kind = text("kind");
    if !ANSWERS.contains(&kind) || !["", "meta.k8s.io"].contains(&group) {
        return None;
    }
    Some(match kind == "Status" && text("status") != "Success" {
        true => format!("is an error answer of an API server: {}", printable(text("message"))),
        false => format!("is an answer of an API server without objects: {kind}"),
    })
}

/// Whether lists of this kind may hold something that verdicts depend on.
fn is_relevant(element: &str, version: Option<&str>) -> bool {
    element.is_empty() || !matches!(Relevance::of_kind(Some(element), version), Relevance::None)
}

/// Sets what an element of a list of `kind` objects leaves to the list: its kind and apiVersion.
fn inherit(item: &mut Value, kind: &str, version: Option<&str>) {
    let Value::Object(item) = item else { return };
    if kind.is_empty() {
        return;
    }
    // The API doesn't tell an empty text from none.
    let is_missing = |value: Option<&Value>| value.is_none_or(|v| v.is_null() || v == "");
    if is_missing(item.get("kind")) {
        item.insert("kind".to_owned(), kind.into());
    }
    let is_same = item.get("kind").and_then(Value::as_str) == Some(kind);
    if let Some(version) = version.filter(|_| is_same && is_missing(item.get("apiVersion"))) {
        item.insert("apiVersion".to_owned(), version.into());
    }
}

fn broken(path: &Path, at: Position, reason: String) -> Document {
    let source = Source::new(&path.into(), "", at, at);
    let rejection = Rejection {
        object: path.display().to_string(),
        source: Some(source.location.clone()),
        field: String::new(),
        reason,
        fix: None,
    };
    Document { source, value: Err(rejection) }
}
