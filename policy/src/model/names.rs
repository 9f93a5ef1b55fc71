//! Patterns of DNS names as Cilium policies write them (cilium
//! `pkg/policy/api/fqdn.go`, `pkg/fqdn/matchpattern/matchpattern.go`).

use podgate_dataplane::l7::NamePattern;

use crate::fields::{Field, quote};

/// Longest name or pattern (the schema's limit; RFC 1035 §2.3.4 allows names of 253 characters).
const NAME_MAX: usize = 255;

/// Reads `{matchName: …}` or `{matchPattern: …}`.
pub(super) fn parse_name_match(field: &Field<'_>) -> Option<NamePattern> {
    let mut object = field.object()?;
    let (name, pattern) = (object.take("matchName"), object.take("matchPattern"));
    object.finish();
    match (name, pattern) {
        (Some(name), None) => parse(&name, false),
        (None, Some(pattern)) => parse_pattern(&pattern),
        (None, None) => {
            field.refuse_with_fix(
                "needs a matchName or a matchPattern",
                "write matchPattern: \"*\" for every name",
            );
            None
        }
        (Some(_), Some(pattern)) => {
            pattern
                .refuse_with_fix("can't stand in one element with matchName", "write two elements");
            None
        }
    }
}

/// Reads a pattern.
pub(super) fn parse_pattern(field: &Field<'_>) -> Option<NamePattern> {
    parse(field, true)
}

fn parse(field: &Field<'_>, stars: bool) -> Option<NamePattern> {
    let text = field.string()?;
    let is_inner =
        |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_') || (stars && b == b'*');
    let is_label = |label: &str| !label.is_empty() && label.bytes().all(is_inner);
    let labels = text.strip_suffix('.').unwrap_or(text);
    if text.len() > NAME_MAX || !labels.split('.').all(is_label) {
        let stars = if stars { ", '*'" } else { "" };
        field.refuse(format!(
            "{} is no DNS name (letters, digits, '-', '_'{stars} between dots, at most {NAME_MAX})",
            quote(text)
        ));
        return None;
    }
    Some(NamePattern::new(text))
}
