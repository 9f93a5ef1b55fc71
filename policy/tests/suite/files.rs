//! Files that change one by one: the store holds what a first read of all of them would give.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use podgate_policy::manifest::{self, Document};
use podgate_policy::{Missing, Store};
use proptest::collection::vec;
use proptest::prelude::*;

fn file(name: &str) -> Arc<Path> {
    Path::new(name).into()
}

fn policy(name: &str, port: u16) -> String {
    format!(
        "---\n{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, \
         metadata: {{namespace: a, name: {name}}}, \
         spec: {{podSelector: {{}}, ingress: [{{ports: [{{port: {port}}}]}}]}}}}\n"
    )
}

fn documents(name: &str, text: &str) -> Vec<Document> {
    manifest::parse(text, Path::new(name))
}

fn names(store: &Store) -> Vec<&str> {
    store.policies().map(|policy| policy.key.name.as_str()).collect()
}

/// Policies in force with their rules, and all rejections.
fn content(store: &Store) -> (Vec<String>, BTreeSet<String>) {
    let policies = store.all_rule_sets().map(|(key, sets)| format!("{key} {sets:?}"));
    (policies.collect(), store.rejections().map(ToString::to_string).collect())
}

#[test]
fn what_a_file_lacks_is_kept_until_it_is_said_to_be_gone() {
    let (mut store, a) = (Store::new(), file("a.yaml"));
    let both = policy("one", 1) + &policy("two", 2);
    store.sync_file(&a, &documents("a.yaml", &both), Missing::Delete);
    store.sync_file(&a, &documents("a.yaml", &policy("one", 3)), Missing::Keep);
    assert_eq!(names(&store), ["one", "two"]);
    store.delete_missing(&a);
    assert_eq!(names(&store), ["one"]);
    store.sync_file(&a, &[], Missing::Keep);
    assert_eq!(names(&store), ["one"]);
    store.remove_file(&a);
    assert_eq!(store.policies().count(), 0);
}

#[test]
fn what_a_doubtful_file_lacks_is_kept() {
    let (mut store, a) = (Store::new(), file("a.yaml"));
    store.sync_file(&a, &documents("a.yaml", &policy("one", 1)), Missing::Delete);
    for doubtful in ["kind: [", "kidn: NetworkPolicy", "kind: NetworkPolicy\nmetadata: {}"] {
        store.sync_file(&a, &documents("a.yaml", doubtful), Missing::Delete);
        assert_eq!(names(&store), ["one"], "{doubtful}");
        assert_eq!(store.rejected_objects(), 1, "{doubtful}");
    }
}

#[test]
fn an_object_that_moves_to_another_file_is_taken_from_there_at_once() {
    for (from, to) in [("a.yaml", "b.yaml"), ("b.yaml", "a.yaml")] {
        let mut store = Store::new();
        store.sync_file(&file(from), &documents(from, &policy("one", 1)), Missing::Delete);
        store.sync_file(&file(from), &[], Missing::Keep);
        store.sync_file(&file(to), &documents(to, &policy("one", 2)), Missing::Delete);
        assert_eq!(store.rejections().count(), 0);
        assert!(content(&store).0[0].contains('2'), "{:?}", content(&store));
        store.remove_file(&file(from));
        assert_eq!(names(&store), ["one"]);
    }
}

#[test]
fn two_definitions_are_an_error_only_where_they_differ() {
    let mut store = Store::new();
    for name in ["b.yaml", "a.yaml"] {
        store.sync_file(&file(name), &documents(name, &policy("one", 1)), Missing::Delete);
    }
    assert_eq!(store.rejections().count(), 0);
    store.sync_file(&file("b.yaml"), &documents("b.yaml", &policy("one", 2)), Missing::Delete);
    let rejection = store.rejections().next().unwrap().to_string();
    assert!(rejection.contains("b.yaml") && rejection.contains("a.yaml:2"), "{rejection}");
}

/// What happens to one file: these policies and ports are its content, or it is removed.
fn change() -> impl Strategy<Value = (usize, Option<Vec<(usize, u16)>>)> {
    (0..3usize, proptest::option::weighted(0.8, vec((0..3usize, 1..3u16), 0..4)))
}

proptest! {
    #[test]
    fn one_file_after_the_other_is_the_same_as_all_fresh(changes in vec(change(), 1..24)) {
        const FILES: [&str; 3] = ["a.yaml", "b.yaml", "c.yaml"];
        let mut store = Store::new();
        let mut texts: BTreeMap<&str, String> = BTreeMap::new();
        for (index, content) in changes {
            let name = FILES[index];
            let mut again = BTreeSet::new();
            match content {
                Some(objects) => {
                    let text: String = objects
                        .iter()
                        .map(|(object, port)| policy(["one", "two", "three"][*object], *port))
                        .collect();
                    let documents = documents(name, &text);
                    again = store.sync_file(&file(name), &documents, Missing::Delete).read_again;
                    texts.insert(name, text);
                }
                None => {
                    again.extend(store.remove_file(Path::new(name)));
                    texts.remove(name);
                }
            }
            for file in again {
                let name = file.to_str().unwrap();
                let documents = documents(name, &texts[name]);
                let more = store.sync_file(&file, &documents, Missing::Delete).read_again;
                prop_assert!(more.is_empty());
            }
        }
        let all: Vec<_> = texts.iter().flat_map(|(name, text)| documents(name, text)).collect();
        let mut fresh = Store::new();
        fresh.sync(&all);
        prop_assert_eq!(content(&store), content(&fresh));
        store.sync(&all);
        prop_assert_eq!(content(&store), content(&fresh));
        store.sync(&[]);
        prop_assert_eq!(content(&store), (vec![], BTreeSet::new()));
    }
}
