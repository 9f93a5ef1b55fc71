//! Patterns of DNS names as Cilium policies write them (cilium `pkg/policy/api/fqdn.go`).

use podgate_tables::l7::{NameError, NamePattern};

use crate::fields::{Field, quote};

/// Reads `{matchName: …}` or `{matchPattern: …}`.
pub(super) fn parse_name_match(field: &Field<'_>) -> Option<NamePattern> {
    let mut object = field.object()?;
    let (name, pattern) = (object.take("matchName"), object.take("matchPattern"));
    object.finish();
    match (name, pattern) {
        (Some(name), None) => parse_pattern(&name, NamePattern::name),
        (None, Some(pattern)) => parse_pattern(&pattern, NamePattern::dns),
        (None, None) => {
            field.reject("needs a matchName or a matchPattern");
            None
        }
        (Some(_), Some(pattern)) => {
            let reason = "can't be combined with matchName in one element";
            pattern.reject_with_fix(reason, "write two elements, of which either may match");
            None
        }
    }
}

/// Reads a name or pattern of the form that `new` knows.
pub(super) fn parse_pattern(
    field: &Field<'_>,
    new: fn(&str) -> Result<NamePattern, NameError>,
) -> Option<NamePattern> {
    let text = field.string()?;
    match new(text) {
        Ok(pattern) => Some(pattern),
        Err(error) => {
            field.reject(format!("{} {error}", quote(text)));
            None
        }
    }
}
