//! Reading objects from files: YAML or JSON, several documents a file, lists taken apart.
//!
//! What can't be read becomes a [`Refusal`] that names file and line; everything else goes on.
//! Sizes, nesting and aliases are bounded, so that no file can hang or exhaust the reader.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use crate::refusal::{Refusal, SourceLocation};

/// Largest file, bytes.
const FILE_MAX: u64 = 64 * 1024 * 1024;
/// Most files of one directory.
const FILES_MAX: usize = 10_000;
/// Deepest nesting of a document.
const DEPTH_MAX: usize = 64;
/// Most YAML events of one document: a list of a hundred thousand pods has some ten million.
const EVENTS_MAX: usize = 50_000_000;
/// Most nodes that aliases of one document may add by repetition.
const ALIASED_MAX: usize = 100_000;

/// One object of a file, or one part of it that can't be read.
#[derive(Clone, Debug)]
pub struct Document {
    /// Where it begins.
    pub location: SourceLocation,
    /// The object as JSON.
    pub value: Result<Value, Refusal>,
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
        Err(error) => return vec![broken(path, 1, format!("can't be listed: {error}"))],
    };
    let excess = files.len() > FILES_MAX;
    let mut documents: Vec<_> =
        files.iter().take(FILES_MAX).flat_map(|file| load_file(file)).collect();
    if excess {
        let reason = format!("has {} files; only the first {FILES_MAX} were read", files.len());
        documents.push(broken(path, 1, reason));
    }
    documents
}

fn list(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        let extension = path.extension().and_then(|extension| extension.to_str());
        let known = matches!(extension, Some("yaml" | "yml" | "json"));
        if known && !hidden && path.is_file() {
            files.push(path);
        }
    }
    files.sort_unstable();
    Ok(files)
}

fn load_file(path: &Path) -> Vec<Document> {
    let text = match read(path) {
        Ok(text) => text,
        Err(reason) => return vec![broken(path, 1, reason)],
    };
    parse(&text, path)
}

fn read(path: &Path) -> Result<String, String> {
    use std::io::Read as _;

    let unreadable = |error: std::io::Error| format!("can't be read: {error}");
    let file = fs::File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    // One byte more than allowed tells a file that is too large, even if it grows meanwhile.
    file.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(format!("is larger than {FILE_MAX} bytes"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let line = 1 + error.as_bytes()[..valid].iter().filter(|b| **b == b'\n').count();
        format!("is not UTF-8 (line {line})")
    })
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

fn parse_json(text: &str, file: &Arc<Path>, documents: &mut Vec<Document>) {
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    loop {
        let rest = &text[stream.byte_offset()..];
        let blank = rest.len() - rest.trim_start().len();
        let before = &text[..stream.byte_offset() + blank];
        let line = 1 + before.bytes().filter(|b| *b == b'\n').count();
        match stream.next() {
            None => return,
            Some(Ok(value)) => flatten(value, line as u32, file, documents),
            Some(Err(error)) => {
                documents.push(broken(file, error.line() as u32, error.to_string()));
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
    let Some(first) = part.lines().position(is_content) else { return };
    match serde_saphyr::from_str_with_options::<Value>(part, yaml_options()) {
        Ok(Value::Null) => {}
        Ok(value) => flatten(value, lines_before + first as u32 + 1, file, documents),
        Err(error) => {
            let location = error.location();
            let line = location.map_or(first as u32 + 1, |location| location.line() as u32);
            documents.push(broken(file, lines_before + line, error.without_snippet().to_string()));
        }
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
fn flatten(value: Value, line: u32, file: &Arc<Path>, documents: &mut Vec<Document>) {
    let is_list = value.get("kind").and_then(Value::as_str).is_some_and(|k| k.ends_with("List"));
    match value {
        Value::Object(mut map) if is_list && map.get("items").is_some_and(Value::is_array) => {
            let Some(Value::Array(items)) = map.remove("items") else { return };
            for item in items {
                flatten(item, line, file, documents);
            }
        }
        value => {
            let location = SourceLocation { file: Arc::clone(file), line };
            documents.push(Document { location, value: Ok(value) });
        }
    }
}

fn broken(path: &Path, line: u32, reason: String) -> Document {
    let location = SourceLocation { file: path.into(), line };
    let refusal = Refusal {
        object: path.display().to_string(),
        source: Some(location.clone()),
        field: String::new(),
        reason,
        fix: None,
    };
    Document { location, value: Err(refusal) }
}
