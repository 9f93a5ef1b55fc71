//! Structural validity of the definitions, and that they and the schemas of tests agree.

use std::collections::BTreeSet;
use std::path::Path;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

use super::*;

/// A table of fields in `policy/tests/schema`.
fn table(name: &str) -> Value {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policy/tests/schema");
    let text = std::fs::read_to_string(dir.join(name)).unwrap();
    serde_saphyr::from_str(&text).unwrap()
}

fn texts(value: &Value) -> impl Iterator<Item = &str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str)
}

/// The schema of a field, such as `a.b[].c`.
fn at<'s>(schema: &'s Value, path: &str) -> Option<&'s Value> {
    path.split('.').try_fold(schema, |schema, part| {
        let name = part.trim_end_matches("[]");
        let field = schema.get("properties")?.get(name)?;
        if part.ends_with("[]") { field.get("items") } else { Some(field) }
    })
}

/// The word of the tables for a schema's type.
fn word(schema: &Value) -> &str {
    match schema["type"].as_str() {
        Some("array") => "list",
        Some("object") if schema.get("additionalProperties").is_some() => "map",
        Some(other) => other,
        None if schema["x-kubernetes-preserve-unknown-fields"] == true => "integer or string",
        None => "nothing",
    }
}

fn schema_of<'d>(definitions: &'d [Value], kind: &str) -> &'d Value {
    let found = definitions.iter().find(|crd| crd["spec"]["names"]["kind"] == kind);
    &found.unwrap()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
}

#[test]
fn every_field_of_the_policies_schemas_is_there_with_its_type() {
    let definitions = all();
    for name in ["cilium.yaml", "cluster-network-policy.yaml"] {
        let table = table(name);
        for kind in texts(&table["kinds"]) {
            for root in texts(&table["roots"]) {
                let root = root.replace("[0]", "[]");
                let schema = at(schema_of(&definitions, kind), &root).unwrap();
                for field in table["fields"].as_array().unwrap() {
                    let path = field["path"].as_str().unwrap();
                    let sections: Vec<_> = match field["of"].as_str() {
                        Some(of) => texts(&table["sections"][of]).collect(),
                        None => vec![""],
                    };
                    for section in sections {
                        let path = match section {
                            "" => path.to_owned(),
                            section => format!("{section}[].{path}"),
                        };
                        let found = at(schema, &path).map(word);
                        assert_eq!(found, field["type"].as_str(), "{kind}: {root}.{path}");
                    }
                }
            }
        }
    }
}

/// What "structural" means (CustomResourceDefinition, "Specifying a structural schema"): each node
/// has a type, and lists have one schema for their items.
fn check_structural(schema: &Value, path: &str) {
    let known: BTreeSet<_> = [
        "type",
        "properties",
        "items",
        "additionalProperties",
        "required",
        "enum",
        "format",
        "x-kubernetes-preserve-unknown-fields",
        "x-kubernetes-list-type",
        "x-kubernetes-list-map-keys",
    ]
    .into();
    for member in schema.as_object().unwrap().keys() {
        assert!(known.contains(member.as_str()), "{path} has {member}");
    }
    let is_any = schema.as_object().unwrap().len() == 1
        && schema["x-kubernetes-preserve-unknown-fields"] == true;
    assert_eq!(schema["type"].is_string(), !is_any, "{path}");
    let (properties, map) = (schema.get("properties"), schema.get("additionalProperties"));
    assert!(properties.is_none() || map.is_none(), "{path}");
    assert_eq!(schema["type"] == "array", schema.get("items").is_some(), "{path}");
    for (name, below) in properties.and_then(Value::as_object).into_iter().flatten() {
        check_structural(below, &format!("{path}.{name}"));
    }
    for required in schema.get("required").into_iter().flat_map(texts) {
        assert!(schema["properties"].get(required).is_some(), "{path} requires {required}");
    }
    for below in schema.get("items").into_iter().chain(map) {
        check_structural(below, &format!("{path}[]"));
    }
}

#[test]
fn definitions_are_those_of_every_custom_kind_and_their_schemas_are_structural() {
    let definitions = all();
    let custom = Kind::ALL.iter().filter(|kind| kind.is_custom()).count();
    assert_eq!(definitions.len(), custom);
    for definition in &definitions {
        let typed: CustomResourceDefinition = serde_json::from_value(definition.clone()).unwrap();
        let names = &typed.spec.names;
        let name = format!("{}.{}", names.plural, typed.spec.group);
        assert_eq!(typed.metadata.name.as_deref(), Some(name.as_str()));
        let stored = typed.spec.versions.iter().filter(|version| version.storage).count();
        assert_eq!(stored, 1, "{name}");
        // Nothing is lost in the typed form: no member is misspelt.
        assert_eq!(&serde_json::to_value(&typed).unwrap()["spec"], &definition["spec"], "{name}");
        for version in definition["spec"]["versions"].as_array().unwrap() {
            check_structural(&version["schema"]["openAPIV3Schema"], &name);
        }
    }
}

#[test]
fn fields_that_are_not_known_stay_so_that_the_policy_is_rejected() {
    fn check(schema: &Value, path: &str) {
        let keeps = schema["x-kubernetes-preserve-unknown-fields"] == true;
        let is_closed = schema.get("properties").is_some() && !keeps;
        assert!(!is_closed, "{path} drops unknown fields");
        for (name, below) in schema["properties"].as_object().into_iter().flatten() {
            check(below, &format!("{path}.{name}"));
        }
        schema.get("items").into_iter().for_each(|below| check(below, &format!("{path}[]")));
    }
    let definitions = all();
    for kind in ["CiliumNetworkPolicy", "ClusterNetworkPolicy"] {
        check(&schema_of(&definitions, kind)["properties"]["spec"], kind);
    }
}

#[test]
fn the_yaml_says_the_same() {
    let definitions = all();
    let text = to_yaml(&definitions);
    let documents: Vec<_> = text.split("---\n").skip(1).collect();
    assert_eq!(documents.len(), definitions.len());
    for (document, definition) in documents.into_iter().zip(&definitions) {
        let read: Value = serde_saphyr::from_str(document).unwrap();
        assert_eq!(&read, definition);
    }
}

/// Writes the chart's file instead if the environment variable is set.
#[test]
fn the_charts_definitions_are_these() {
    let chart =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/helm/podgate/crds/podgate.yaml");
    let text = to_yaml(&all());
    if std::env::var_os("PODGATE_UPDATE_GENERATED").is_some() {
        std::fs::write(&chart, &text).unwrap();
    }
    let found = std::fs::read_to_string(&chart).unwrap();
    assert!(found == text, "outdated: set PODGATE_UPDATE_GENERATED=1 to write it");
}
