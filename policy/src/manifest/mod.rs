//! Reading objects from files: YAML or JSON, several documents a file, lists taken apart.
//!
//! What can't be read becomes a [`Refusal`] that names file and line; everything else goes on.
//! Sizes, nesting and aliases are bounded, so that no file can hang or exhaust the reader.

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

use crate::fields::FieldPath;
use crate::refusal::{Refusal, SourceLocation};
use json::Exact;
use places::{Places, Position};

/// Largest file, bytes.
pub const FILE_MAX: u64 = 64 * 1024 * 1024;
/// Most files of one directory.
pub const FILES_MAX: usize = 10_000;
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
    pub value: Result<Value, Refusal>,
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
    /// Found out with the first refusal.
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
    /// The kernel says no.
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
/// other side of a device (`O_NONBLOCK`, open(2)).
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
    // One byte more than allowed tells a file that is too large, even if it grows meanwhile.
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

/// Whether a text holds nothing but blank lines, comments, and marks of YAML documents.
#[must_use]
pub fn is_blank(bytes: &[u8]) -> bool {
    let mut lines = bytes.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    lines.all(|line| line.is_empty() || line == b"---" || line == b"..." || line[0] == b'#')
}

/// What stands for a file of which nothing could be read, for a reason of the caller's.
#[must_use]
pub fn unreadable(path: &Path, reason: String) -> Document {
    broken(path, Position::START, reason)
}

/// An object that was read before and kept, with the place that it was read from.
#[must_use]
pub fn kept(location: SourceLocation, value: Value) -> Document {
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
    // One byte more than allowed tells a file that is too large, even if it grows meanwhile.
    if let Err(error) = stream.take(FILE_MAX + 1).read_to_end(&mut bytes) {
        return vec![broken(path, Position::START, format!("can't be read: {error}"))];
    }
    if bytes.len() as u64 > FILE_MAX {
        return vec![broken(path, Position::START, format!("is larger than {FILE_MAX} bytes"))];
    }
    decode(&bytes, path)
}

/// Reads the documents of a file's content; see [`parse`] for `path`.
#[must_use]
pub fn decode(bytes: &[u8], path: &Path) -> Vec<Document> {
    match str::from_utf8(bytes) {
        Ok(text) => parse(text, path),
        Err(error) => {
            let valid = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
            vec![broken(path, Position::START.after(&valid), "is not UTF-8".to_owned())]
        }
    }
}

/// Reads the documents of a text; `path` says what to call it, and `*.json` what it is.
#[must_use]
pub fn parse(text: &str, path: &Path) -> Vec<Document> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let file: Arc<Path> = path.into();
    let mut documents = Vec::new();
    if path.extension().is_some_and(|extension| extension == "json") {
        parse_json(text, &file, &mut documents);
    } else {
        for (line, part) in split(text) {
            parse_yaml(part, line, &file, &mut documents);
        }
    }
    documents
}

/// Reads a stream of JSON values, up to the first that is broken.
fn parse_json(text: &str, file: &Arc<Path>, documents: &mut Vec<Document>) {
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<Exact>();
    let (mut offset, mut start) = (0, Position::START);
    loop {
        let rest = &text[stream.byte_offset()..];
        let next = text.len() - rest.trim_start().len();
        start = start.after(&text[offset..next]);
        offset = next;
        match stream.next() {
            None => return,
            Some(Ok(Exact(value))) => {
                let source = Source::new(file, &text[offset..stream.byte_offset()], start, start);
                flatten(value, source, documents);
            }
            Some(Err(error)) => {
                // The library counts bytes, and those that it has read.
                let line = text.split('\n').nth(error.line().saturating_sub(1)).unwrap_or_default();
                let before = line.char_indices().take_while(|(at, _)| at + 1 < error.column());
                let column = 1 + before.count() as u32;
                let at = Position { line: error.line() as u32, column };
                let told = error.to_string();
                let suffix = format!(" at line {} column {}", error.line(), error.column());
                let reason = told.strip_suffix(&suffix).unwrap_or(&told);
                documents.push(broken(file, at, reason.to_owned()));
                return;
            }
        }
    }
}

/// Cuts YAML before each line that begins with `---`, which only a document marker may (YAML 1.2.2
/// §9.1.2, `c-forbidden`), so that a broken document does not take the others with it. Yields the
/// number of lines before each part.
fn split(text: &str) -> Vec<(u32, &str)> {
    let mut parts = Vec::new();
    let (mut part_start, mut part_line) = (0, 0);
    let mut offset = 0;
    for (line, content) in text.split_inclusive('\n').enumerate() {
        let after = content.strip_prefix("---").map(|rest| rest.chars().next());
        if offset > 0 && after.is_some_and(|next| next.is_none_or(char::is_whitespace)) {
            parts.push((part_line, &text[part_start..offset]));
            (part_start, part_line) = (offset, line as u32);
        }
        offset += content.len();
    }
    parts.push((part_line, &text[part_start..]));
    parts
}

fn parse_yaml(part: &str, lines_before: u32, file: &Arc<Path>, documents: &mut Vec<Document>) {
    // Where the object begins, past the marker, comments, directives and blank lines.
    let is_content = |line: &str| {
        let line = line.strip_prefix("---").unwrap_or(line).trim();
        !line.is_empty() && !line.starts_with(['#', '%'])
    };
    let Some(blank) = part.lines().position(is_content) else { return };
    let start = Position { line: lines_before + 1, column: 1 };
    let first = Position { line: start.line + blank as u32, column: 1 };
    match serde_saphyr::from_str_with_options(part, yaml_options()) {
        Ok(Exact(Value::Null)) => {}
        Ok(Exact(value)) => flatten(value, Source::new(file, part, start, first), documents),
        Err(error) => {
            let at = error.location().map_or(first, |found| start.then(found.into()));
            documents.push(broken(file, at, in_words(&error)));
        }
    }
}

/// What is wrong, without places: those that the library tells begin to count with the document,
/// not with the file.
fn in_words(error: &serde_saphyr::Error) -> String {
    let formatter = UserMessageFormatter.with_localizer(&Placeless);
    error.render_with_options(serde_saphyr::render_options! {
        formatter: &formatter,
        snippets: SnippetMode::Off,
    })
}

struct Placeless;

impl Localizer for Placeless {
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

/// Takes `List` and `…List` apart.
fn flatten(value: Value, source: Source, documents: &mut Vec<Document>) {
    let is_list = value.get("kind").and_then(Value::as_str).is_some_and(|k| k.ends_with("List"));
    match value {
        Value::Object(mut map) if is_list && map.get("items").is_some_and(Value::is_array) => {
            let Some(Value::Array(items)) = map.remove("items") else { return };
            for (index, item) in items.into_iter().enumerate() {
                flatten(item, source.item(index), documents);
            }
        }
        // Passing over it would pass over all that is in it.
        Value::Object(map) if is_list && map.get("items").is_some_and(|items| !items.is_null()) => {
            let at = source.locate(&FieldPath::key("items"));
            let at = Position { line: at.line, column: at.column };
            documents.push(broken(&source.location.file, at, "items must be a list".to_owned()));
        }
        value => documents.push(Document { source, value: Ok(value) }),
    }
}

fn broken(path: &Path, at: Position, reason: String) -> Document {
    let source = Source::new(&path.into(), "", at, at);
    let refusal = Refusal {
        object: path.display().to_string(),
        source: Some(source.location.clone()),
        field: String::new(),
        reason,
        fix: None,
    };
    Document { source, value: Err(refusal) }
}
