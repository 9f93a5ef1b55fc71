//! Objects as the API server sends them, trimmed while they are decoded.

use std::fmt;

use podgate_policy::{Kind, ObjectKey};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, de};
use serde_json::{Map, Value};

/// The annotation of the bookmark that ends the initial events of a streaming list.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// Any JSON value, of an object without the fields that are not read ([`Part::of`]).
#[derive(Clone, Default, Debug)]
pub(crate) struct Object(Value);

impl Object {
    /// The key, if the object has a name (and a namespace, where its kind has one).
    pub(super) fn key(&self, kind: Kind) -> Option<ObjectKey> {
        let namespace = match kind.is_namespaced() {
            true => Some(self.metadata("namespace")?.to_owned()),
            false => None,
        };
        Some(ObjectKey { kind, namespace, name: self.metadata("name")?.to_owned() })
    }

    /// A field of `metadata` that is text and not empty.
    pub(super) fn metadata(&self, field: &str) -> Option<&str> {
        self.0["metadata"][field].as_str().filter(|text| !text.is_empty())
    }

    /// `metadata.generation`.
    pub(super) fn generation(&self) -> Option<i64> {
        self.0["metadata"]["generation"].as_i64()
    }

    /// Whether this is the bookmark at the end of a streaming list.
    pub(super) fn ends_list(&self) -> bool {
        self.0["metadata"]["annotations"][INITIAL_EVENTS_END] == "true"
    }

    /// The whole, as far as it was kept.
    pub(super) fn value(&self) -> &Value {
        &self.0
    }

    /// The object as a manifest would have it. Items of a list don't name their kind.
    pub(super) fn into_manifest(self, kind: Kind) -> Value {
        let mut value = match self.0 {
            Value::Object(fields) => Value::Object(fields),
            _ => Value::Object(Map::new()),
        };
        value["apiVersion"] = kind.api_version().into();
        value["kind"] = kind.name().into();
        value
    }
}

impl From<Value> for Object {
    fn from(value: Value) -> Self {
        // A value that exists can be read again.
        serde_json::from_value(value).unwrap_or_default()
    }
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Part::Object.deserialize(deserializer).map(Self)
    }
}

/// A part of an object, which decides what of it is kept.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Object,
    Metadata,
    Annotations,
    Status,
    /// Kept as it is.
    Whole,
}

impl Part {
    /// What the field `name` of this part is; `None` if it is skipped.
    fn of(self, name: &str) -> Option<Self> {
        match (self, name) {
            (Self::Object, "metadata") => Some(Self::Metadata),
            (Self::Object, "status") => Some(Self::Status),
            (Self::Metadata, "annotations") => Some(Self::Annotations),
            (
                Self::Metadata,
                "name" | "namespace" | "labels" | "uid" | "generation" | "resourceVersion"
                | "creationTimestamp" | "ownerReferences",
            )
            | (Self::Annotations, INITIAL_EVENTS_END) => Some(Self::Whole),
            (Self::Metadata | Self::Annotations, _)
            | (
                Self::Status,
                "images"
                | "containerStatuses"
                | "initContainerStatuses"
                | "ephemeralContainerStatuses"
                | "volumesInUse"
                | "volumesAttached",
            ) => None,
            (Self::Object | Self::Status | Self::Whole, _) => Some(Self::Whole),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Part {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        match self {
            Self::Whole => Value::deserialize(deserializer),
            _ => deserializer.deserialize_any(self),
        }
    }
}

/// Takes whatever is there: a server that sends a wrong type must not end the watch.
impl<'de> Visitor<'de> for Part {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            match self.of(&name) {
                Some(part) => drop(fields.insert(name, map.next_value_seed(part)?)),
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(Value::Object(fields))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element::<Value>()? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
}

/// One page of a list.
#[derive(Deserialize, Debug)]
pub(super) struct Page {
    #[serde(default)]
    pub(super) metadata: PageMetadata,
    /// Go writes an empty list as `null`, too.
    pub(super) items: Option<Vec<Object>>,
}

/// What follows a page.
#[derive(Deserialize, Default, Debug)]
#[serde(rename_all = "camelCase")]
pub(super) struct PageMetadata {
    /// The version of the list.
    #[serde(default)]
    pub(super) resource_version: String,
    /// What to ask for the next page; empty after the last.
    #[serde(default)]
    pub(super) r#continue: String,
}

/// One line of a watch.
#[derive(Deserialize, Debug)]
pub(super) struct Line {
    /// `ADDED`, `MODIFIED`, `DELETED`, `BOOKMARK` or `ERROR`.
    pub(super) r#type: String,
    /// The object; of an error its Status.
    pub(super) object: Object,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_nobody_reads_is_left_out() {
        let object: Object = serde_json::from_value(json!({
            "metadata": {"namespace": "a", "name": "x", "labels": {"app": "x"}, "generation": 3,
                         "managedFields": [{"manager": "kubectl"}], "finalizers": ["x"],
                         "creationTimestamp": "2026-01-01T00:00:00Z", "ownerReferences": [{}],
                         "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}"}},
            "spec": {"nodeName": "n"},
            "status": {"podIP": "10.0.0.1", "containerStatuses": [{"name": "c"}]},
        }))
        .unwrap();
        assert_eq!(object.generation(), Some(3));
        assert_eq!(
            object.into_manifest(Kind::Pod),
            json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"namespace": "a", "name": "x", "labels": {"app": "x"},
                             "generation": 3, "annotations": {},
                             "creationTimestamp": "2026-01-01T00:00:00Z",
                             "ownerReferences": [{}]},
                "spec": {"nodeName": "n"},
                "status": {"podIP": "10.0.0.1"},
            })
        );
    }

    #[test]
    fn wrong_types_are_read_and_have_no_key() {
        for text in [
            "3",
            "null",
            "[{}]",
            r#""x""#,
            r#"{"metadata":7,"status":"Failure"}"#,
            r#"{"metadata":{"namespace":"a","name":{}}}"#,
            r#"{"metadata":{"name":"x"}}"#,
        ] {
            let object: Object = serde_json::from_str(text).unwrap();
            assert_eq!(object.key(Kind::Pod), None, "{text}");
            assert!(object.into_manifest(Kind::Pod).is_object());
        }
        assert!(serde_json::from_str::<Object>(&"[".repeat(100_000)).is_err());
    }

    #[test]
    fn the_bookmark_that_ends_a_list_is_recognised() {
        let bookmark = |value: &str| {
            let annotations = json!({INITIAL_EVENTS_END: value});
            let object = json!({"metadata": {"resourceVersion": "7", "annotations": annotations}});
            Object::from(object).ends_list()
        };
        assert!(bookmark("true"));
        assert!(!bookmark("false"));
    }
}
