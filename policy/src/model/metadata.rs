//! Kind, name and labels of an object, and the syntax of names and labels.

use std::sync::Arc;

use serde_json::Value;

use crate::fields::{Field, Problem, Problems, printable, quote};
use crate::key::{Kind, ObjectKey};
use crate::labels::Labels;

/// Longest name of an object and longest DNS subdomain (RFC 1123, RFC 1035 §2.3.4).
const SUBDOMAIN_MAX: usize = 253;
/// Longest label name, label value and namespace name (RFC 1123 label).
const LABEL_MAX: usize = 63;

/// What [`is_subdomain`] and [`is_dns_label`] ask for.
const SUBDOMAIN: &str = "a lower-case DNS name of at most 253 characters";
const DNS_LABEL: &str = "a lower-case DNS label of at most 63 characters";

/// What says which object a document is.
#[derive(Debug)]
pub(crate) struct Header {
    pub(crate) key: ObjectKey,
}

impl Header {
    /// Reads `apiVersion`, `kind` and the names. The error comes with the object's name as far as
    /// it is known.
    pub(crate) fn parse(value: &Value) -> Result<Self, (String, Vec<Problem>)> {
        let text = |path: &str| value.pointer(path).and_then(Value::as_str);
        let shown = [text("/kind"), text("/metadata/namespace"), text("/metadata/name")];
        let shown = match shown.map(|part| part.map(printable)) {
            [kind, Some(namespace), name] => {
                format!("{} {namespace}/{}", or_unknown(kind), or_unknown(name))
            }
            [None, None, None] => String::new(),
            [kind, None, name] => format!("{} {}", or_unknown(kind), or_unknown(name)),
        };
        let problems = Problems::default();
        let root = Field::root(value, &problems);
        match Self::parse_fields(&root) {
            Some(header) if problems.is_empty() => Ok(header),
            _ => Err((shown, problems.into_inner())),
        }
    }

    fn parse_fields(root: &Field<'_>) -> Option<Self> {
        let mut object = root.object()?;
        let Some(kind_field) = object.take("kind") else {
            root.refuse("has no kind: this is not a Kubernetes object");
            return None;
        };
        let name = kind_field.string()?;
        let Some(kind) = Kind::by_name(name) else {
            let reason = format!("objects of kind {} are not enforced", quote(name));
            match Kind::ALL.iter().find(|kind| kind.name().eq_ignore_ascii_case(name)) {
                Some(kind) => kind_field.refuse_with_fix(reason, format!("write {kind}")),
                None => kind_field.refuse(reason),
            }
            return None;
        };
        let version = object.take("apiVersion");
        let version = version.as_ref().and_then(Field::string).unwrap_or_default();
        if !kind.api_versions().contains(&version) {
            kind_field.refuse_with_fix(
                format!("{kind} of apiVersion {} is not enforced", quote(version)),
                format!("write apiVersion: {}", kind.api_version()),
            );
            return None;
        }
        let Some(metadata) = object.take("metadata") else {
            root.refuse("has no metadata");
            return None;
        };
        let mut metadata_fields = metadata.object()?;
        let Some(name) = metadata_fields.take("name") else {
            metadata.refuse("has no name");
            return None;
        };
        let name = match kind {
            Kind::Namespace => checked(&name, is_dns_label, DNS_LABEL)?,
            _ => checked(&name, is_subdomain, SUBDOMAIN)?,
        };
        let namespace = match (kind.is_namespaced(), metadata_fields.take("namespace")) {
            (false, _) => None,
            (true, None) => Some("default".to_owned()),
            (true, Some(namespace)) => {
                Some(checked(&namespace, is_dns_label, DNS_LABEL)?.to_owned())
            }
        };
        Some(Self { key: ObjectKey { kind, namespace, name: name.to_owned() } })
    }
}

fn or_unknown(part: Option<String>) -> String {
    part.unwrap_or_else(|| "?".to_owned())
}

fn checked<'a>(field: &Field<'a>, is_valid: fn(&str) -> bool, what: &str) -> Option<&'a str> {
    let text = field.string()?;
    if !is_valid(text) {
        field.refuse(format!("must be {what}, but is {}", quote(text)));
        return None;
    }
    Some(text)
}

/// Reads `metadata.labels`.
pub(super) fn parse_labels(root: &Field<'_>) -> Option<Labels> {
    let mut object = root.object()?;
    let metadata = object.take("metadata")?;
    let mut metadata = metadata.object()?;
    let Some(labels) = metadata.take("labels") else {
        return Some(Labels::new());
    };
    let labels = labels.entries(|key, field| {
        let value = field.string()?;
        check_label_key(field, key);
        check_label_value(field, value);
        Some((Arc::from(key), Arc::from(value)))
    })?;
    Some(labels.into_iter().collect())
}

/// Refuses what the API would not accept as a label's key.
pub(super) fn check_label_key(field: &Field<'_>, key: &str) {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    if !prefix.is_none_or(is_subdomain) || name.is_empty() || !is_label_text(name) {
        field.refuse(format!("{} is no label key ([prefix/]name)", quote(key)));
    }
}

/// Refuses what the API would not accept as a label's value.
pub(super) fn check_label_value(field: &Field<'_>, value: &str) {
    if !is_label_text(value) {
        let reason = "letters, digits, '-', '_' and '.', at most 63, beginning and ending with a \
                      letter or digit";
        field.refuse(format!("{} is no label value ({reason})", quote(value)));
    }
}

fn is_label_text(text: &str) -> bool {
    let bytes = text.as_bytes();
    let is_inner = |b: &u8| b.is_ascii_alphanumeric() || b"-_.".contains(b);
    bytes.len() <= LABEL_MAX
        && bytes.iter().all(is_inner)
        && bytes.first().is_none_or(u8::is_ascii_alphanumeric)
        && bytes.last().is_none_or(u8::is_ascii_alphanumeric)
}

pub(super) fn is_dns_label(text: &str) -> bool {
    !text.is_empty()
        && is_label_text(text)
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

pub(super) fn is_subdomain(text: &str) -> bool {
    let is_part = |part: &str| {
        let bytes = part.as_bytes();
        let is_end = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        bytes.first().is_some_and(is_end)
            && bytes.last().is_some_and(is_end)
            && bytes.iter().all(|b| is_end(b) || *b == b'-')
    };
    text.len() <= SUBDOMAIN_MAX && text.split('.').all(is_part)
}
