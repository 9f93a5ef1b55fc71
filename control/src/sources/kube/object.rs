//! Objects as the API server sends them, trimmed while they are decoded.

use std::fmt;

use podgate_policy::{Kind, ObjectKey};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, de, de::Error as _};
use serde_json::{Deserializer as Json, Error, Map, Value};

use super::json::Parts;

/// The annotation of the bookmark that ends the initial events of a streaming list.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// Any JSON value, of an object without the fields that are not read ([`Part::of`]).
#[derive(Clone, Default, Debug)]
pub(crate) struct Object {
    value: Value,
    undecoded: Option<Undecoded>,
}

/// Why a field of an object could not be decoded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Undecoded {
    /// The names of the fields that lead to it.
    pub(super) path: Vec<String>,
    pub(super) reason: String,
}

impl Object {
    /// Decodes an object. Fields that can't be decoded are left out, and the first is noted: an
    /// object must not make others of the same answer unreadable.
    pub(super) fn decode(text: &[u8]) -> Result<Self, Error> {
        serde_json::from_slice(text).or_else(|error| {
            let mut undecoded = None;
            let value = Part::Object.decode_fields(text, &mut Vec::new(), &mut undecoded);
            value.map(|value| Self { value, undecoded }).map_err(|_| error)
        })
    }

    /// The first field that could not be decoded, if there is one.
    pub(super) fn undecoded(&self) -> Option<&Undecoded> {
        self.undecoded.as_ref()
    }

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
        self.value["metadata"][field].as_str().filter(|text| !text.is_empty())
    }

    /// `metadata.generation`.
    pub(super) fn generation(&self) -> Option<i64> {
        self.value["metadata"]["generation"].as_i64()
    }

    /// Whether it names a kind. Items of a list need not.
    pub(super) fn names_kind(&self) -> bool {
        !self.value["kind"].is_null() || !self.value["apiVersion"].is_null()
    }

    /// Whether it names this kind, in this API version.
    pub(super) fn is_of(&self, kind: Kind, version: &str) -> bool {
        self.value["kind"] == kind.name() && self.value["apiVersion"] == version
    }

    /// The kind and API version that it names, for a message.
    pub(super) fn shown_kind(&self) -> String {
        shown_kind(&self.value["kind"], &self.value["apiVersion"])
    }

    /// Whether this is the bookmark at the end of a streaming list.
    pub(super) fn ends_list(&self) -> bool {
        self.value["metadata"]["annotations"][INITIAL_EVENTS_END] == "true"
    }

    /// The whole, as far as it was kept.
    pub(super) fn value(&self) -> &Value {
        &self.value
    }

    /// The object as a manifest would have it. Items of a list don't name their kind.
    pub(super) fn into_manifest(self, kind: Kind) -> Value {
        let mut value = match self.value {
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
        let value = Part::Object.deserialize(deserializer)?;
        Ok(Self { value, undecoded: None })
    }
}

/// A kind and an API version as a server sends them, for a message.
fn shown_kind(kind: &Value, version: &Value) -> String {
    format!("{kind} and apiVersion {version}").chars().take(150).collect()
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

    /// Decodes the fields of this part one by one. Notes the first that can't be decoded, with the
    /// names of the fields that lead there, which begin with `path`.
    fn decode_fields(
        self,
        text: &[u8],
        path: &mut Vec<String>,
        undecoded: &mut Option<Undecoded>,
    ) -> Result<Value, Error> {
        let mut fields = Map::new();
        let mut parts = Parts::of_object(text)?;
        while let Some((name, text)) = parts.next_field()? {
            let Some(part) = self.of(&name) else { continue };
            let Err(error) = part.deserialize(&mut Json::from_slice(text)).map(|value| {
                fields.insert(name.clone(), value);
            }) else {
                continue;
            };
            path.push(name.clone());
            let decoded = match part {
                Self::Whole => None,
                // No other part has one like itself in it, so this ends.
                _ => part.decode_fields(text, path, undecoded).ok(),
            };
            match decoded {
                Some(value) => drop(fields.insert(name, value)),
                None => {
                    let reason = format!("can't be decoded: {error}");
                    undecoded.get_or_insert(Undecoded { path: path.clone(), reason });
                }
            }
            path.pop();
        }
        Ok(Value::Object(fields))
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
#[derive(Default, Debug)]
pub(super) struct Page<'t> {
    pub(super) metadata: PageMetadata,
    /// The text of the list of objects.
    items: Option<&'t [u8]>,
}

impl<'t> Page<'t> {
    /// Decodes all but the objects. A page that is no list of objects of this kind, in this API
    /// version, is an error: what a complete list lacks is deleted.
    pub(super) fn decode(text: &'t [u8], kind: Kind, version: &str) -> Result<Self, Error> {
        let expected = (Value::from(format!("{}List", kind.name())), Value::from(version));
        let mut found = (Value::Null, Value::Null);
        let mut has_items = false;
        let mut page = Self::default();
        let mut fields = Parts::of_object(text)?;
        while let Some((name, text)) = fields.next_field()? {
            match name.as_str() {
                "metadata" => page.metadata = serde_json::from_slice(text)?,
                "kind" => found.0 = serde_json::from_slice(text)?,
                "apiVersion" => found.1 = serde_json::from_slice(text)?,
                "items" => {
                    has_items = true;
                    // Go writes an empty list as `null`, too.
                    page.items = Some(text).filter(|text| text.trim_ascii() != b"null");
                }
                _ => {}
            }
        }
        if found != expected {
            let [found, expected] = [found, expected].map(|(kind, api)| shown_kind(&kind, &api));
            return Err(Error::custom(format!("its kind is {found} instead of {expected}")));
        }
        match has_items {
            true => Ok(page),
            false => Err(Error::missing_field("items")),
        }
    }

    /// The objects, each decoded by itself.
    pub(super) fn objects(&self) -> impl Iterator<Item = Result<Object, Error>> {
        let mut items = Parts::of_list(self.items.unwrap_or(b"[]"));
        std::iter::from_fn(move || match &mut items {
            Ok(items) => match items.next_item() {
                Ok(item) => item.map(Object::decode),
                Err(error) => Some(Err(error)),
            },
            Err(_) => Some(Err(Error::custom("items must be a list"))),
        })
    }
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
#[derive(Debug)]
pub(super) struct Line {
    /// `ADDED`, `MODIFIED`, `DELETED`, `BOOKMARK` or `ERROR`.
    pub(super) r#type: String,
    /// The object; of an error its Status.
    pub(super) object: Object,
}

impl Line {
    pub(super) fn decode(text: &[u8]) -> Result<Self, Error> {
        let (mut r#type, mut object) = (None, None);
        let mut fields = Parts::of_object(text)?;
        while let Some((name, text)) = fields.next_field()? {
            match name.as_str() {
                "type" => r#type = Some(serde_json::from_slice(text)?),
                "object" => object = Some(Object::decode(text)?),
                _ => {}
            }
        }
        Ok(Self {
            r#type: r#type.ok_or_else(|| Error::missing_field("type"))?,
            object: object.ok_or_else(|| Error::missing_field("object"))?,
        })
    }
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
