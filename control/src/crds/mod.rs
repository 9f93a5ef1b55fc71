//! `podgate crds`: the CustomResourceDefinitions of the kinds that podgate reads.
//!
//! Schemas give types to the fields that `policy/FIELDS.md` lists, and keep unknown ones
//! (`x-kubernetes-preserve-unknown-fields`): an API server that removed an unknown field would
//! widen a policy, while podgate rejects the policy and names the field.

mod cilium;
mod cluster_network_policy;

use podgate_policy::Kind;
use serde_json::{Value, json};

/// The annotation that groups of Kubernetes' own domain need.
const APPROVED: &str = "api-approved.kubernetes.io";

/// All definitions, in the order of [`Kind::ALL`].
#[must_use]
pub(crate) fn all() -> Vec<Value> {
    let custom = Kind::ALL.iter().filter(|kind| kind.is_custom());
    custom.filter_map(|kind| Some(definition(*kind, &details(*kind)?))).collect()
}

/// The definitions as YAML documents.
#[must_use]
pub(crate) fn to_yaml(definitions: &[Value]) -> String {
    let mut text = String::new();
    for definition in definitions {
        text.push_str("---\n");
        write_yaml(definition, 0, &mut text);
    }
    text
}

/// What differs between the kinds.
struct Details {
    singular: &'static str,
    short_names: &'static [&'static str],
    /// Properties of the object beside its metadata.
    properties: Value,
    required: &'static [&'static str],
    /// Columns of `kubectl get`: name, type and path.
    columns: &'static [[&'static str; 3]],
}

fn details(kind: Kind) -> Option<Details> {
    let policy = |singular, short_names| Details {
        singular,
        short_names,
        properties: cilium::policy(),
        required: &[],
        columns: &[["Valid", "string", ".status.conditions[?(@.type=='Valid')].status"]],
    };
    match kind {
        Kind::CiliumNetworkPolicy => Some(policy("ciliumnetworkpolicy", &["cnp", "ciliumnp"])),
        Kind::CiliumClusterwideNetworkPolicy => {
            Some(policy("ciliumclusterwidenetworkpolicy", &["ccnp"]))
        }
        Kind::CiliumCidrGroup => Some(Details {
            singular: "ciliumcidrgroup",
            short_names: &["ccg"],
            properties: cilium::cidr_group(),
            required: &["spec"],
            columns: &[],
        }),
        Kind::ClusterNetworkPolicy => Some(Details {
            singular: "clusternetworkpolicy",
            // Its own short name, `cnp`, is Cilium's, too.
            short_names: &[],
            properties: cluster_network_policy::policy(),
            required: &["spec"],
            columns: &[["Tier", "string", ".spec.tier"], ["Priority", "integer", ".spec.priority"]],
        }),
        _ => None,
    }
}

/// The name of the definition of a custom kind.
pub(crate) fn name_of(kind: Kind) -> String {
    format!("{}.{}", kind.plural(), group(kind))
}

fn group(kind: Kind) -> &'static str {
    kind.api_version().split_once('/').map_or("", |(group, _)| group)
}

fn definition(kind: Kind, details: &Details) -> Value {
    let (group, name, plural) = (group(kind), kind.name(), kind.plural());
    let mut columns: Vec<_> = details.columns.iter().map(|column| column_of(*column)).collect();
    columns.push(column_of(["Age", "date", ".metadata.creationTimestamp"]));
    let mut schema = json!({
        "type": "object",
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
        },
    });
    merge(&mut schema["properties"], details.properties.clone());
    if !details.required.is_empty() {
        schema["required"] = json!(details.required);
    }
    let versions = kind.api_versions().iter().enumerate().map(|(index, version)| {
        let version = version.rsplit('/').next();
        json!({
            "name": version, "served": true, "storage": index == 0,
            "additionalPrinterColumns": columns,
            "schema": {"openAPIV3Schema": schema},
            "subresources": {"status": {}},
        })
    });
    let scope = if kind.is_namespaced() { "Namespaced" } else { "Cluster" };
    let mut definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": name_of(kind)},
        "spec": {
            "group": group,
            "names": {
                "kind": name, "listKind": format!("{name}List"), "plural": plural,
                "singular": details.singular, "shortNames": details.short_names,
            },
            "scope": scope,
            "versions": versions.collect::<Vec<_>>(),
        },
    });
    if group.ends_with(".k8s.io") {
        // API servers reject groups of this domain without it.
        definition["metadata"]["annotations"] = json!({APPROVED: "unapproved, installed by podgate; the kind is that of \
                              network-policy-api"});
    }
    definition
}

fn column_of([name, of, path]: [&str; 3]) -> Value {
    json!({"name": name, "type": of, "jsonPath": path})
}

/// Adds the members of `more` to the object `to`.
fn merge(to: &mut Value, more: Value) {
    if let (Some(to), Value::Object(more)) = (to.as_object_mut(), more) {
        to.extend(more);
    }
}

/// An object with these properties, which may have others.
fn object(properties: Value) -> Value {
    let mut object = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    object["properties"] = properties;
    object
}

/// An object some of whose properties are required.
fn object_with(required: &[&str], properties: Value) -> Value {
    let mut object = object(properties);
    object["required"] = json!(required);
    object
}

fn list(items: Value) -> Value {
    let mut list = json!({"type": "array"});
    list["items"] = items;
    list
}

fn string() -> Value {
    json!({"type": "string"})
}

fn integer() -> Value {
    json!({"type": "integer"})
}

/// A value of any type. For an integer or a string there is `x-kubernetes-int-or-string`, but API
/// servers such as Kubernetes 1.20's can't merge objects whose schema has it: a server-side apply
/// of one condition would remove the others.
fn any() -> Value {
    json!({"x-kubernetes-preserve-unknown-fields": true})
}

/// A map of texts.
fn map() -> Value {
    json!({"type": "object", "additionalProperties": {"type": "string"}})
}

/// A selector of labels.
fn selector() -> Value {
    object(json!({
        "matchLabels": map(),
        "matchExpressions": list(object_with(&["key", "operator"], json!({
            "key": string(), "operator": string(), "values": list(string()),
        }))),
    }))
}

/// What the `status` of a policy has.
fn status() -> Value {
    let condition = object_with(
        &["type", "status"],
        json!({
            "type": string(), "status": string(), "reason": string(), "message": string(),
            "observedGeneration": integer(),
            "lastTransitionTime": {"type": "string", "format": "date-time"},
        }),
    );
    let mut conditions = list(condition);
    conditions["x-kubernetes-list-type"] = "map".into();
    conditions["x-kubernetes-list-map-keys"] = json!(["type"]);
    object(json!({
        "conditions": conditions,
        "nodes": {
            "type": "object",
            "additionalProperties": {
                "type": "object", "x-kubernetes-preserve-unknown-fields": true,
            },
        },
    }))
}

/// Writes a value in block style. Texts are quoted unless they are plain words.
fn write_yaml(value: &Value, indent: usize, text: &mut String) {
    match value {
        Value::Object(members) if !members.is_empty() => {
            for (name, value) in members {
                text.push_str(&format!("{:indent$}{}:", "", scalar(&Value::from(name.as_str()))));
                write_below(value, indent, text);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                let mut below = String::new();
                write_yaml(item, indent + 2, &mut below);
                text.push_str(&format!("{:indent$}- {}", "", below.trim_start()));
            }
        }
        value => text.push_str(&format!("{:indent$}{}\n", "", scalar(value))),
    }
}

/// Writes a member's value after its name.
fn write_below(value: &Value, indent: usize, text: &mut String) {
    let is_block = match value {
        Value::Object(members) => !members.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => false,
    };
    if is_block {
        text.push('\n');
        write_yaml(value, indent + 2, text);
    } else {
        text.push_str(&format!(" {}\n", scalar(value)));
    }
}

fn scalar(value: &Value) -> String {
    const RESERVED: [&str; 6] = ["true", "false", "null", "yes", "no", "on"];
    match value {
        Value::String(word)
            if word.starts_with(|c: char| c.is_ascii_alphabetic())
                && word.chars().all(|c| c.is_ascii_alphanumeric() || "-./".contains(c))
                && !RESERVED.contains(&word.to_lowercase().as_str()) =>
        {
            word.clone()
        }
        value => value.to_string(),
    }
}

#[cfg(test)]
mod tests;
