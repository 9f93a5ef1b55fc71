//! Cutting a text into its documents, so that a broken one does not affect the others.

use std::iter;

use serde::de::IgnoredAny;

use super::places::Position;

/// Marks the encoding, at the start of a text or of a document in it.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// The text of one document.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct DocumentText<'a> {
    pub(super) text: &'a str,
    /// Bytes of the whole text before it.
    pub(super) offset: usize,
    /// Where it begins in the whole text.
    pub(super) start: Position,
}

/// Where a line begins.
#[derive(Clone, Copy)]
struct LineStart {
    offset: usize,
    line: u32,
}

/// Cuts YAML into documents: after `...`, before `---` with the directives above it, and before a
/// byte order mark (YAML 1.2.2 §9). The two markers have no other meaning at the start of a line
/// (§9.1.2, `c-forbidden`). Files are joined without `...` between them, so directives begin a
/// document without it too.
pub(super) fn split_yaml(text: &str) -> Vec<DocumentText<'_>> {
    let mut starts = vec![LineStart { offset: 0, line: 0 }];
    let mut directives = None;
    let mut offset = 0;
    for (line, content) in text.split_inclusive('\n').enumerate() {
        let here = LineStart { offset, line: line as u32 };
        let next = LineStart { offset: offset + content.len(), line: here.line + 1 };
        let bare = content.trim_start_matches(BYTE_ORDER_MARK);
        if bare.len() < content.len() {
            starts.push(here);
            directives = None;
        }
        if is_marker(bare, "---") {
            starts.push(directives.take().unwrap_or(here));
        } else if is_marker(bare, "...") {
            starts.push(next);
            directives = None;
        } else if bare.starts_with("%YAML ") || bare.starts_with("%TAG ") {
            directives.get_or_insert(here);
        } else if !bare.trim().is_empty() && !bare.starts_with('#') {
            directives = None;
        }
        offset = next.offset;
    }
    starts.dedup_by_key(|start| start.offset);
    let ends = starts.iter().skip(1).map(|start| start.offset).chain(iter::once(text.len()));
    let cut = |(start, end): (&LineStart, usize)| {
        let text = text[start.offset..end].trim_start_matches(BYTE_ORDER_MARK);
        let start = Position { line: start.line + 1, column: 1 };
        DocumentText { text, offset: end - text.len(), start }
    };
    starts.iter().zip(ends).map(cut).collect()
}

fn is_marker(line: &str, marker: &str) -> bool {
    let rest = line.strip_prefix(marker);
    rest.is_some_and(|rest| rest.chars().next().is_none_or(char::is_whitespace))
}

/// Splits a stream of JSON values. The end of an invalid value is unknown, so it extends to the
/// next line that begins with `{` and does not continue the line before.
pub(super) fn split_json(text: &str) -> Vec<DocumentText<'_>> {
    let mut cuts = Vec::new();
    let (mut offset, mut start) = (0, Position::START);
    loop {
        let rest = &text[offset..];
        let value = rest.trim_start_matches(|c: char| c.is_whitespace() || c == BYTE_ORDER_MARK);
        let blank = &rest[..rest.len() - value.len()];
        // A mark has no width.
        start = start.after(&blank.replace(BYTE_ORDER_MARK, ""));
        offset += blank.len();
        if value.is_empty() {
            return cuts;
        }
        let mut stream = serde_json::Deserializer::from_str(value).into_iter::<IgnoredAny>();
        let length = match stream.next() {
            Some(Ok(_)) => stream.byte_offset(),
            // The `{` that is not expected may be the next value's.
            Some(Err(error)) if error.column() <= 1 => next_object(value, error.line() - 1),
            Some(Err(error)) => next_object(value, error.line()),
            None => value.len(),
        };
        cuts.push(DocumentText { text: &value[..length], offset, start });
        start = start.after(&value[..length]);
        offset += length;
    }
}

/// The number of lines after which the next value is likely to begin.
fn next_object(text: &str, line: usize) -> usize {
    let mut offset = 0;
    let mut before = "";
    for (index, content) in text.split_inclusive('\n').enumerate() {
        let continues = before.ends_with(['{', '[', ':', ',']);
        if index >= line.max(1) && content.starts_with('{') && !continues {
            return offset;
        }
        offset += content.len();
        if !content.trim().is_empty() {
            before = content.trim_end();
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn yaml(text: &str) -> Vec<(u32, &str)> {
        split_yaml(text).iter().map(|cut| (cut.start.line, cut.text)).collect()
    }

    #[test]
    fn directives_and_marks_belong_to_the_document_behind_them() {
        assert_eq!(yaml("a\n--- b\n---\nc"), [(1, "a\n"), (2, "--- b\n"), (3, "---\nc")]);
        assert_eq!(yaml("%YAML 1.2\n---\na\n"), [(1, "%YAML 1.2\n---\na\n")]);
        assert_eq!(
            yaml("a\n%YAML 1.2\n# x\n\n%TAG ! a\n---\nb\n"),
            [(1, "a\n"), (2, "%YAML 1.2\n# x\n\n%TAG ! a\n---\nb\n")]
        );
        assert_eq!(
            yaml("a\n...\n%YAML 1.2\n---\nb\n...\n"),
            [(1, "a\n...\n"), (3, "%YAML 1.2\n---\nb\n...\n"), (7, "")]
        );
        assert_eq!(
            yaml("a\n\u{feff}b\n\u{feff}---\nc\n"),
            [(1, "a\n"), (2, "b\n"), (3, "---\nc\n")]
        );
        assert_eq!(yaml("a: |\n  ---\n  %YAML 1.2\n ...\n%YAMLS x\n---x\n").len(), 1);
        assert_eq!(
            yaml("\"x\n%YAML 1.2\n y\"\n---\nb"),
            [(1, "\"x\n%YAML 1.2\n y\"\n"), (4, "---\nb")]
        );
    }

    fn json(text: &str) -> Vec<(u32, u32, &str)> {
        split_json(text).iter().map(|cut| (cut.start.line, cut.start.column, cut.text)).collect()
    }

    #[test]
    fn a_broken_value_ends_where_the_next_one_seems_to_begin() {
        assert_eq!(json("{} {}\n[1]"), [(1, 1, "{}"), (1, 4, "{}"), (2, 1, "[1]")]);
        assert_eq!(json("{\"a\": }\n{}\n"), [(1, 1, "{\"a\": }\n"), (2, 1, "{}")]);
        assert_eq!(json("{\"a\": 1\n{}\n"), [(1, 1, "{\"a\": 1\n"), (2, 1, "{}")]);
        let list = "{\"items\": [\n{\"a\" 1},\n{}\n]}\n";
        assert_eq!(json(&format!("{list}{{}}")), [(1, 1, list), (5, 1, "{}")]);
        assert_eq!(json("{}\n\u{feff}{}"), [(1, 1, "{}"), (2, 1, "{}")]);
        assert_eq!(json("\u{feff}"), []);
    }
}
