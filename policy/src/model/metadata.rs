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

/// The fields that identify the object of a document.
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
        let (kind, header) = Self::parse_fields(&root);
        match header {
            Some(header) if problems.is_empty() => Ok(header),
            _ => {
                // An object without a valid name is checked further, to report its other problems
                // too.
                if let Some(kind) = kind {
                    super::parse_body(kind, &root);
                }
                Err((shown, problems.into_inner()))
            }
        }
    }

    /// The kind, if objects of that kind and apiVersion are read, and the header.
    fn parse_fields(root: &Field<'_>) -> (Option<Kind>, Option<Self>) {
        let Some(mut object) = root.object() else { return (None, None) };
        let kind_field = object.take("kind").filter(|kind| kind.value() != "");
        let Some(kind_field) = kind_field else {
            root.reject("has no kind: this is not a Kubernetes object");
            return (None, None);
        };
        let version = object.take("apiVersion");
        let Some(kind) = read_kind(&kind_field, version.as_ref()) else { return (None, None) };
        let Some(metadata) = object.take("metadata") else {
            root.reject("has no metadata");
            return (Some(kind), None);
        };
        (Some(kind), Self::parse_metadata(kind, &metadata))
    }

    fn parse_metadata(kind: Kind, metadata: &Field<'_>) -> Option<Self> {
        let mut fields = metadata.object()?;
        let (name, namespace) = (fields.take("name"), fields.take("namespace"));
        let name = match (name, kind) {
            (None, _) => {
                metadata.reject("has no name");
                None
            }
            (Some(name), Kind::Namespace) => checked(&name, is_dns_label, DNS_LABEL),
            (Some(name), _) => checked(&name, is_subdomain, SUBDOMAIN),
        };
        let namespace = match (kind.is_namespaced(), namespace) {
            (false, _) => None,
            (true, None) => Some("default".to_owned()),
            (true, Some(namespace)) => {
                Some(checked(&namespace, is_dns_label, DNS_LABEL)?.to_owned())
            }
        };
        Some(Self { key: ObjectKey { kind, namespace, name: name?.to_owned() } })
    }
}

/// The kind, if objects of that kind and apiVersion are read.
fn read_kind(kind_field: &Field<'_>, version: Option<&Field<'_>>) -> Option<Kind> {
    let name = kind_field.string()?;
    let version = match version {
        Some(field) => field.string()?,
        None => "",
    };
    let group = version.split_once('/').map_or("", |(group, _)| group);
    let Some(kind) = Kind::by_name(name) else {
        let reason = format!("objects of kind {} are not enforced", quote(name));
        let similar = Kind::ALL.iter().find(|kind| kind.name().eq_ignore_ascii_case(name));
        match (counterpart(name, group), similar) {
            (Some(counterpart), _) => kind_field.reject_with_fix(reason, counterpart),
            (None, Some(kind)) => kind_field.reject_with_fix(reason, format!("write {kind}")),
            (None, None) => kind_field.reject(reason),
        }
        return None;
    };
    if kind.api_versions().contains(&version) {
        return Some(kind);
    }
    let known = kind.api_version();
    let own_group = known.split_once('/').map_or("", |(group, _)| group);
    let fix = match counterpart(name, group) {
        Some(counterpart) => counterpart.to_owned(),
        // `extensions/v1beta1` is where NetworkPolicies with just these fields were at first.
        None if ["", own_group, "extensions"].contains(&group) => {
            format!("write apiVersion: {known}")
        }
        None => format!("rewrite it as a {kind} of {known}, which has other fields"),
    };
    kind_field
        .reject_with_fix(format!("{kind} of apiVersion {} is not enforced", quote(version)), fix);
    None
}

/// What policies of other kinds can be written as.
const COUNTERPARTS: &[(&str, &[&str], &str)] = &[
    (
        "AdminNetworkPolicy",
        &[],
        "write it as a ClusterNetworkPolicy of policy.networking.k8s.io/v1alpha2 with tier: Admin, \
         which replaced it (Allow is called Accept there)",
    ),
    (
        "BaselineAdminNetworkPolicy",
        &[],
        "write it as a ClusterNetworkPolicy of policy.networking.k8s.io/v1alpha2 with tier: \
         Baseline, which replaced it (Allow is called Accept there)",
    ),
    (
        "NetworkPolicy",
        CALICO,
        "it is Calico's: write it as a NetworkPolicy of networking.k8s.io/v1 if it only allows, \
         else as a CiliumNetworkPolicy of cilium.io/v2 (ingressDeny, egressDeny, HTTP rules)",
    ),
    (
        "GlobalNetworkPolicy",
        CALICO,
        "it is Calico's: write it as a ClusterNetworkPolicy of policy.networking.k8s.io/v1alpha2 \
         (tiers, priorities, Deny and Pass), or as a CiliumClusterwideNetworkPolicy of cilium.io/v2",
    ),
];

/// API groups of Calico's objects: as its own API server has them, and as they are stored.
const CALICO: &[&str] = &["projectcalico.org", "crd.projectcalico.org"];

/// What a policy of this kind and API group can be written as.
fn counterpart(kind: &str, group: &str) -> Option<&'static str> {
    let is_it = |(name, groups, _): &&(&str, &[&str], &str)| {
        name.eq_ignore_ascii_case(kind) && (groups.is_empty() || groups.contains(&group))
    };
    COUNTERPARTS.iter().find(is_it).map(|(.., advice)| *advice)
}

fn or_unknown(part: Option<String>) -> String {
    part.unwrap_or_else(|| "?".to_owned())
}

fn checked<'a>(field: &Field<'a>, is_valid: fn(&str) -> bool, what: &str) -> Option<&'a str> {
    let text = field.string()?;
    if !is_valid(text) {
        field.reject(format!("must be {what}, but is {}", quote(text)));
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
        check_label_key(field, key);
        let value = field.label_value()?;
        check_label_value(field, value);
        Some((Arc::from(key), Arc::from(value)))
    })?;
    Some(labels.into_iter().collect())
}

/// Rejects what the API would not accept as a label's key.
pub(super) fn check_label_key(field: &Field<'_>, key: &str) {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    if !prefix.is_none_or(is_subdomain) || name.is_empty() || !is_label_text(name) {
        field.reject(format!("{} is not a label key ([prefix/]name)", quote(key)));
    }
}

/// Rejects what the API would not accept as a label's value.
pub(super) fn check_label_value(field: &Field<'_>, value: &str) {
    if !is_label_text(value) {
        let reason = "letters, digits, '-', '_' and '.', at most 63, beginning and ending with a \
                      letter or digit";
        field.reject(format!("{} is not a label value ({reason})", quote(value)));
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
