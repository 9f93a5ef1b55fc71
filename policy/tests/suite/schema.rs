//! Every field of every policy kind's schema has one row in `FIELDS.md`, and the field is treated
//! as the row says.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};

use podgate_policy::rules::RuleSet;
use podgate_policy::{Rejection, Store, manifest};

/// What a row says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Treatment {
    Enforced,
    Rejected,
    Metadata,
}

/// A row, its braces taken apart.
#[derive(Debug)]
struct Row {
    written: String,
    /// Paths, some with `.*` at their end.
    paths: Vec<String>,
    treatment: Treatment,
}

impl Row {
    fn covers(&self, path: &str) -> bool {
        let is_below =
            |above: &str| path.strip_prefix(above).is_some_and(|rest| rest.starts_with(['.', '[']));
        self.paths.iter().any(|own| match own.strip_suffix(".*") {
            Some(above) => is_below(above),
            None => own == path || (self.treatment == Treatment::Rejected && is_below(own)),
        })
    }
}

/// A field of the schema, and a specification that has it.
struct Field {
    path: String,
    example: Value,
    instead: Option<Value>,
}

/// The rows below the heading of these kinds.
fn rows(fields: &str, kinds: &[&str]) -> Vec<Row> {
    let heading = format!("## {}", kinds.join(" and "));
    let section = fields.split("\n## ").find(|part| part.starts_with(&heading[3..]));
    let section = section.unwrap_or_else(|| panic!("FIELDS.md has no heading {heading:?}"));
    let lines = section.lines().filter(|line| line.starts_with("| `"));
    lines
        .map(|line| {
            let mut cells = line.trim_matches('|').split('|').map(str::trim);
            let written = cells.next().unwrap().trim_matches('`').to_owned();
            let treatment = match cells.next() {
                Some("enforced") => Treatment::Enforced,
                Some("rejected") => Treatment::Rejected,
                Some("metadata") => Treatment::Metadata,
                other => panic!("{written} has the treatment {other:?}"),
            };
            assert!(cells.next().is_some_and(|meaning| !meaning.is_empty()), "{written}");
            Row { paths: expand(&written), written, treatment }
        })
        .collect()
}

/// Takes `{a,b}` apart, leftmost first.
fn expand(path: &str) -> Vec<String> {
    let Some((before, rest)) = path.split_once('{') else { return vec![path.to_owned()] };
    let (choices, after) = rest.split_once('}').unwrap();
    let choices = choices.split(',').map(|choice| format!("{before}{choice}{after}"));
    choices.flat_map(|path| expand(&path)).collect()
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
}

/// Fields of one file of the schema.
fn fields(schema: &Value) -> Vec<Field> {
    let read = |field: &Value| -> Vec<Field> {
        let path = field["path"].as_str().unwrap();
        assert!(field["type"].is_string(), "{path} has no type");
        let instead = field.get("instead").cloned();
        let Some(of) = field.get("of") else {
            let example = field["example"].clone();
            return vec![Field { path: path.to_owned(), example, instead }];
        };
        let in_section = |section: &str| {
            let mut example = schema["base"].clone();
            example[section] = json!([field["rule"]]);
            Field { path: format!("{section}[].{path}"), example, instead: instead.clone() }
        };
        let sections = &schema["sections"][of.as_str().unwrap()];
        texts(sections).into_iter().map(in_section).collect()
    };
    schema["fields"].as_array().unwrap().iter().flat_map(read).collect()
}

/// A policy whose specification stands at `root`, `spec` or `specs[0]`.
fn policy(schema: &Value, kind: &str, root: &str, spec: &Value) -> Value {
    let (name, spec) = match root.strip_suffix("[0]") {
        Some(list) => (list, json!([spec])),
        None => (root, spec.clone()),
    };
    json!({"apiVersion": schema["apiVersion"], "kind": kind,
           "metadata": {"namespace": "shop", "name": "a"}, name: spec})
}

/// The normal form of a policy, or why there is none.
fn normal_form(schema: &Value, policy: &Value) -> Result<Vec<RuleSet>, Vec<Rejection>> {
    let mut store = Store::new();
    for object in schema.get("objects").and_then(Value::as_array).into_iter().flatten() {
        store.apply(object, None).unwrap();
    }
    let key = store.apply(policy, None)?;
    Ok(store.rule_sets(&key).unwrap().to_vec())
}

/// The policy without the field at a path, or with another value there.
fn changed(policy: &Value, path: &str, instead: Option<&Value>) -> Value {
    let mut policy = policy.clone();
    let pointer = format!("/{}", path.replace('.', "/").replace("[0]", "/0"));
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    let parent = policy.pointer_mut(parent).unwrap_or_else(|| panic!("no {path}"));
    let parent = parent.as_object_mut().unwrap();
    assert!(parent.contains_key(name), "the example has no {path}");
    match instead {
        Some(value) => parent.insert(name.to_owned(), value.clone()),
        None => parent.remove(name),
    };
    policy
}

/// What is wrong with a field's row, if anything.
fn check(schema: &Value, kind: &str, root: &str, field: &Field, row: &Row) -> Option<String> {
    let policy = policy(schema, kind, root, &field.example);
    let path = format!("{root}.{}", field.path.replace("[]", "[0]"));
    let without = changed(&policy, &path, field.instead.as_ref());
    match (row.treatment, normal_form(schema, &policy)) {
        (Treatment::Rejected, Err(rejections)) => {
            let rows = row.paths.iter().map(|own| format!("{root}.{}", own.replace("[]", "[0]")));
            let named: BTreeSet<String> = rows.chain([path]).collect();
            let is_named = rejections.iter().any(|rejection| named.contains(&rejection.field));
            (!is_named).then(|| format!("is rejected, but not by name: {rejections:?}"))
        }
        (Treatment::Rejected, Ok(_)) => Some("is said to be rejected, but is accepted".to_owned()),
        (treatment, Err(rejections)) => {
            Some(format!("is said to be {treatment:?}, but: {rejections:?}"))
        }
        (treatment, Ok(with)) => match (treatment, normal_form(schema, &without)) {
            (_, Err(rejections)) => Some(format!("can't be compared: {rejections:?}")),
            (Treatment::Metadata, Ok(without)) if with != without => {
                Some("changes rules".to_owned())
            }
            (Treatment::Enforced, Ok(without)) if with == without => {
                Some("has no effect".to_owned())
            }
            (_, Ok(_)) => None,
        },
    }
}

#[test]
fn every_field_of_the_schemas_is_enforced_or_rejected_as_the_table_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let table = std::fs::read_to_string(root.join("FIELDS.md")).unwrap();
    let (mut checked, mut failures) = (0, Vec::new());
    for document in manifest::load(&root.join("tests/schema")) {
        let schema = document.value.unwrap();
        let kinds = texts(&schema["kinds"]);
        let rows = rows(&table, &kinds);
        let mut used = BTreeSet::new();
        for field in fields(&schema) {
            let covering: Vec<&Row> = rows.iter().filter(|row| row.covers(&field.path)).collect();
            let [row] = covering.as_slice() else {
                failures.push(format!(
                    "{kinds:?} {}: {} rows cover it",
                    field.path,
                    covering.len()
                ));
                continue;
            };
            used.insert(row.written.as_str());
            for (kind, root) in kinds
                .iter()
                .flat_map(|kind| texts(&schema["roots"]).into_iter().map(move |r| (kind, r)))
            {
                checked += 1;
                let failure = check(&schema, kind, root, &field, row);
                failures.extend(failure.map(|why| format!("{kind} {root}.{}: {why}", field.path)));
            }
        }
        let stale = rows.iter().filter(|row| !used.contains(row.written.as_str()));
        failures.extend(stale.map(|row| format!("{kinds:?}: no field for row {}", row.written)));
    }
    assert!(checked > 1000, "only {checked} fields checked");
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}
