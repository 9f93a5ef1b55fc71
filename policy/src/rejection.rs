//! Why an object, or a part of a file, is not enforced.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// Where an object, or a field of it, was read from.
#[derive(Clone, PartialEq, Eq, Debug, PartialOrd, Ord, Hash)]
pub struct SourceLocation {
    /// The file.
    pub file: Arc<Path>,
    /// Line, from 1.
    pub line: u32,
    /// Column, from 1, counted in characters.
    pub column: u32,
}

impl fmt::Display for SourceLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// One reason why an object is not enforced as it is written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rejection {
    /// `Kind namespace/name`, as far as it could be read; the file's name for broken files.
    pub object: String,
    /// Where the field was read from, if from a file; for a missing field, where it belongs.
    pub source: Option<SourceLocation>,
    /// The field at fault, such as `spec.ingress[0].toPorts[1].port`; empty for the whole object.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
    /// What to write in its place, where there is one answer.
    pub fix: Option<String>,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = self.source.as_ref().map(ToString::to_string);
        let (object, field) = (&self.object, &self.field);
        f.write_str(&line(source.as_deref(), object, field, &self.reason, self.fix.as_deref()))
    }
}

/// A rejection as one line of text.
#[must_use]
pub fn line(
    source: Option<&str>,
    object: &str,
    field: &str,
    reason: &str,
    fix: Option<&str>,
) -> String {
    let source = source.unwrap_or_default();
    // A part of a file that is no object has the file's name, which the source has already.
    let object = if source.starts_with(object) { "" } else { object };
    let place: String = [source, object, field]
        .iter()
        .filter(|part| !part.is_empty())
        .map(|part| format!("{part}: "))
        .collect();
    let fix = fix.map(|fix| format!("; {fix}")).unwrap_or_default();
    format!("{place}{reason}{fix}")
}

impl std::error::Error for Rejection {}
