//! What the store keeps, what files do to it, and what it reports.

use std::fs;
use std::path::Path;

use podgate_tables::policy::{LocalEnds, PolicyTables, Subject, Verdict};
use podgate_tables::proto;
use podgate_tables::tuple::Tuple;
use serde_json::{Value, json};

use crate::by_names::by_names;
use podgate_policy::{Compiled, Kind, ObjectKey, PolicyState, Store, compile, manifest};

fn pod(name: &str, ip: &str, labels: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
           "metadata": {"namespace": "shop", "name": name, "labels": labels},
           "status": {"podIPs": [{"ip": ip}]}})
}

fn policy(spec: &Value) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
           "metadata": {"namespace": "shop", "name": "web"}, "spec": spec})
}

fn key(kind: Kind, name: &str) -> ObjectKey {
    let namespace = kind.is_namespaced().then(|| "shop".to_owned());
    ObjectKey { kind, namespace, name: name.to_owned() }
}

fn state(store: &Store) -> Vec<(String, PolicyState, usize)> {
    let shown =
        |s: podgate_policy::PolicyStatus<'_>| (s.key.to_string(), s.state, s.rejections.len());
    store.policies().map(shown).collect()
}

#[test]
fn assigned_addresses_are_the_pods_until_its_status_names_some() {
    let addresses = |store: &Store| {
        store.pod("shop", "a").map(|pod| pod.addresses().to_vec()).unwrap_or_default()
    };
    let ip = |text: &str| text.parse::<std::net::IpAddr>().unwrap();
    let assigned = |text: &str| [("shop/a".parse().unwrap(), vec![ip(text)])].into();
    let mut without = pod("a", "10.0.0.1", &json!({"app": "web"}));
    without["status"] = json!({});
    let mut store = Store::new();
    let mut compiler = podgate_policy::Compiler::new();
    store.set_assigned_addresses(assigned("10.0.0.7"));
    store.apply(&without, None).unwrap();
    assert_eq!(addresses(&store), [ip("10.0.0.7")]);
    store.set_assigned_addresses(assigned("10.0.0.8"));
    assert_eq!(addresses(&store), [ip("10.0.0.8")]);
    store.apply(&pod("a", "10.0.0.9", &json!({"app": "web"})), None).unwrap();
    assert_eq!(addresses(&store), [ip("10.0.0.9")]);
    store.apply(&without, None).unwrap();
    compiler.update(&store);
    store.set_assigned_addresses([].into());
    assert!(addresses(&store).is_empty());
    assert!(compiler.update(&store), "compilers follow the change");
}

#[test]
fn the_last_good_version_of_a_rejected_policy_stays_in_force() {
    let mut store = Store::new();
    store.apply(&pod("a", "10.0.0.1", &json!({})), None).unwrap();
    store.apply(&policy(&json!({"podSelector": {}})), None).unwrap();
    let before = compile(&store);
    let name = "NetworkPolicy shop/web".to_owned();
    assert_eq!(state(&store), [(name.clone(), PolicyState::Enforced, 0)]);

    store.apply(&policy(&json!({"podSelector": {}, "ingres": []})), None).unwrap_err();
    assert_eq!(by_names(&compile(&store)), by_names(&before));
    assert_eq!(state(&store), [(name.clone(), PolicyState::Outdated, 1)]);

    store.apply(&policy(&json!({"podSelector": {}, "ingress": []})), None).unwrap();
    assert_eq!(state(&store), [(name.clone(), PolicyState::Enforced, 0)]);
    assert_eq!(store.rejections().count(), 0);

    store.delete(&key(Kind::NetworkPolicy, "web"));
    assert_eq!(state(&store), []);
    store.apply(&policy(&json!({"ingres": []})), None).unwrap_err();
    assert_eq!(state(&store), [(name, PolicyState::Rejected, 1)]);
    store.delete(&key(Kind::NetworkPolicy, "web"));
    assert_eq!(store.rejections().count(), 0);
}

#[test]
fn a_policy_selects_running_pods_of_its_own() {
    let mut store = Store::new();
    store.apply(&pod("a", "10.0.0.1", &json!({"app": "web"})), None).unwrap();
    store.apply(&pod("b", "10.0.0.2", &json!({"app": "db"})), None).unwrap();
    let mut gone = pod("c", "10.0.0.3", &json!({"app": "web"}));
    gone["status"]["phase"] = "Failed".into();
    store.apply(&gone, None).unwrap();
    let spec = json!({"podSelector": {"matchLabels": {"app": "web"}}});
    let key = store.apply(&policy(&spec), None).unwrap();
    let selected: Vec<String> = store.selected_pods(&key).map(ToString::to_string).collect();
    assert_eq!(selected, ["shop/a"]);
    let selects = |pod: &str| store.selecting(&pod.parse().unwrap())(&key);
    let pods = ["shop/a", "shop/b", "shop/c", "shop/none", "other/a"];
    assert_eq!(pods.map(selects), [true, false, false, false, false]);
}

fn number_at(compiled: &Compiled, ip: &str) -> u32 {
    let ip: std::net::IpAddr = ip.parse().unwrap();
    let index = compiled.tables.resolve(ip.into()).identity_index;
    compiled.catalog.identity(index).unwrap().number
}

#[test]
fn identities_are_shared_by_label_sets_and_keep_their_numbers() {
    let mut store = Store::new();
    store.set_host_addresses(["192.168.0.1".parse().unwrap()]);
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"},
                      "status": {"addresses": [{"type": "InternalIP", "address": "192.168.0.2"}]}});
    store.apply(&node, None).unwrap();
    store.apply(&pod("b", "10.0.0.1", &json!({"app": "web"})), None).unwrap();
    store.apply(&pod("c", "10.0.0.2", &json!({"app": "web"})), None).unwrap();
    let one = compile(&store);
    assert_eq!(number_at(&one, "10.0.0.1"), number_at(&one, "10.0.0.2"));
    assert!(number_at(&one, "10.0.0.1") >= 256);
    let reserved = ["203.0.113.1", "2001:db8::1", "192.168.0.1", "192.168.0.2"];
    assert_eq!(reserved.map(|ip| number_at(&one, ip)), [9, 10, 1, 6], "Cilium's numbers");

    store.apply(&pod("a", "10.0.0.3", &json!({"app": "a"})), None).unwrap();
    let two = compile(&store);
    assert_eq!(number_at(&two, "10.0.0.1"), number_at(&one, "10.0.0.1"));
    assert_ne!(number_at(&two, "10.0.0.3"), number_at(&two, "10.0.0.1"));
    let name = two.catalog.pod_at("10.0.0.3".parse().unwrap()).unwrap();
    assert_eq!(name.to_string(), "shop/a");
    assert_eq!(two.catalog.pod_at("10.0.0.4".parse().unwrap()), None);
    let labels = two
        .catalog
        .identity(
            two.tables
                .resolve("10.0.0.3".parse::<std::net::IpAddr>().unwrap().into())
                .identity_index,
        )
        .unwrap()
        .labels();
    assert_eq!(
        labels[..],
        [
            "k8s:app=a",
            "k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=shop",
            "k8s:io.cilium.k8s.policy.cluster=default",
            "k8s:io.cilium.k8s.policy.serviceaccount=default",
            "k8s:io.kubernetes.pod.namespace=shop",
        ]
    );
}

#[test]
fn an_address_that_two_pods_claim_is_the_younger_ones() {
    let mut store = Store::new();
    for (name, created) in [("a", "2026-01-02T00:00:00Z"), ("b", "2026-01-01T00:00:00Z")] {
        let mut pod = pod(name, "10.0.0.1", &json!({"app": name}));
        pod["metadata"]["creationTimestamp"] = created.into();
        store.apply(&pod, None).unwrap();
    }
    let owner = |store: &Store| {
        let compiled = compile(store);
        compiled.catalog.pod_at("10.0.0.1".parse().unwrap()).map(ToString::to_string)
    };
    assert_eq!(owner(&store).as_deref(), Some("shop/a"));
    store.delete(&key(Kind::Pod, "a"));
    assert_eq!(owner(&store).as_deref(), Some("shop/b"));
    store.set_host_addresses(["10.0.0.1".parse().unwrap()]);
    assert_eq!(owner(&store), None, "the node's own address is never a pod's");
    let index = compile(&store)
        .tables
        .resolve("10.0.0.1".parse::<std::net::IpAddr>().unwrap().into())
        .identity_index;
    assert_eq!(index, PolicyTables::HOST);
}

const FILE: &str = "\
# the web
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: web}
spec: {}
---
apiVersion: v1
kind: ConfigMap
---
kind: [
--- # a list
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Namespace, metadata: {name: shop}}
- {apiVersion: v1, kind: Namespace, metadata: {name: office}}
---
";

#[test]
fn documents_know_their_lines_and_a_broken_one_takes_no_other_with_it() {
    let documents = manifest::parse(FILE, Path::new("x.yaml"));
    let messages: Vec<(u32, Option<String>)> = documents
        .iter()
        .map(|document| {
            let value = document.value.as_ref().ok();
            let kind = value.map(|value| value["kind"].as_str().unwrap().to_owned());
            (document.source.location.line, kind)
        })
        .collect();
    let kind = |kind: &str| Some(kind.to_owned());
    assert_eq!(
        messages,
        [
            (2, kind("NetworkPolicy")),
            (7, kind("ConfigMap")),
            (10, None),
            (12, kind("Namespace")),
            (12, kind("Namespace")),
        ]
    );
    let rejection = documents[2].value.as_ref().unwrap_err();
    assert!(rejection.to_string().starts_with("x.yaml:10: "), "{rejection}");
}

#[test]
fn json_files_hold_several_objects_and_name_the_broken_line() {
    let text = "{\"kind\": \"A\"}\n\n{\"kind\":\n \"B\"}\n{\"kind\": }";
    let documents = manifest::parse(text, Path::new("x.json"));
    let lines: Vec<_> =
        documents.iter().map(|d| (d.source.location.line, d.value.is_ok())).collect();
    assert_eq!(lines, [(1, true), (3, true), (5, false)]);
}

#[test]
fn alias_bombs_deep_nesting_and_double_keys_are_rejected() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..9 {
        let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
        bomb += &format!("a{level}: &a{level} [{aliases}]\n");
    }
    for text in [bomb, "[".repeat(100_000), "{a: ".repeat(100_000), "a: 1\na: 2\n".to_owned()] {
        let documents = manifest::parse(&text, Path::new("x.yaml"));
        assert_eq!(documents.len(), 1);
        assert!(documents[0].value.is_err());
    }
    assert!(manifest::parse(&"[".repeat(100_000), Path::new("x.json"))[0].value.is_err());
}

const WEB: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: web}
spec: {}
";

#[test]
fn files_that_change_break_and_go_are_followed() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let mut store = Store::new();
    store.apply(&pod("watched", "10.0.0.9", &json!({})), None).unwrap();
    fs::write(file("a.yaml"), WEB).unwrap();
    fs::write(file("b.yml"), WEB.replace("web", "other")).unwrap();
    fs::write(file("readme.txt"), "not yaml: [").unwrap();
    fs::write(file(".hidden.yaml"), "not yaml: [").unwrap();
    store.sync(&manifest::load(folder.path()));
    let names = |store: &Store| -> Vec<String> {
        store.policies().map(|status| status.key.name.clone()).collect()
    };
    assert_eq!(
        (names(&store), store.rejections().count()),
        (vec!["other".into(), "web".into()], 0)
    );

    // A broken file: what it held stays.
    fs::write(file("a.yaml"), "kind: [").unwrap();
    store.sync(&manifest::load(folder.path()));
    assert_eq!(
        (names(&store), store.rejections().count()),
        (vec!["other".into(), "web".into()], 1)
    );

    // The same object twice: the first counts, and a difference is reported.
    fs::write(file("a.yaml"), WEB).unwrap();
    fs::write(file("c.yaml"), WEB.replace("{}", "{policyTypes: [Egress]}")).unwrap();
    store.sync(&manifest::load(folder.path()));
    let rejections: Vec<String> = store.rejections().map(ToString::to_string).collect();
    assert_eq!(rejections.len(), 1, "{rejections:?}");
    assert!(rejections[0].contains("is defined otherwise at"), "{}", rejections[0]);

    // A kind that looks like a policy is never ignored.
    for kind in ["AdminNetworkPolicy", "NetworkPolcy", "NetwrokPolicy", "networkpolicies"] {
        fs::write(file("c.yaml"), format!("kind: {kind}")).unwrap();
        store.sync(&manifest::load(folder.path()));
        assert_eq!(store.rejections().count(), 1, "{kind}");
    }

    // A misspelt kind of a policy in force does not allow what the policy denies.
    fs::write(file("a.yaml"), WEB.replace("NetworkPolicy", "CiliumNetworkPolic")).unwrap();
    store.sync(&manifest::load(folder.path()));
    assert_eq!(names(&store), ["other", "web"]);
    fs::write(file("a.yaml"), WEB).unwrap();
    store.sync(&manifest::load(folder.path()));

    fs::remove_file(file("a.yaml")).unwrap();
    fs::remove_file(file("c.yaml")).unwrap();
    store.sync(&manifest::load(folder.path()));
    assert_eq!((names(&store), store.rejections().count()), (vec!["other".into()], 0));
    assert!(store.pod("shop", "watched").is_some(), "what came otherwise stays");

    // No folder at all: everything is in doubt, so everything stays.
    let path = folder.path().to_owned();
    folder.close().unwrap();
    store.sync(&manifest::load(&path));
    assert_eq!((names(&store), store.rejections().count()), (vec!["other".into()], 1));
}

fn cluster_policy(spec: &Value) -> Value {
    json!({"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
           "metadata": {"name": "web"}, "spec": spec})
}

#[test]
fn a_rule_with_an_unknown_peer_is_in_force_and_told_of_until_it_is_mended() {
    let mut store = Store::new();
    let spec = |peer: Value| {
        json!({"tier": "Admin", "priority": 1, "subject": {"namespaces": {}},
               "ingress": [{"action": "Pass", "from": [{"namespaces": {}}]}],
               "egress": [{"action": "Accept", "to": [{"namespaces": {}}, peer]}]})
    };
    store.apply(&cluster_policy(&spec(json!({"planets": {}}))), None).unwrap();
    let name = "ClusterNetworkPolicy web".to_owned();
    assert_eq!(state(&store), [(name.clone(), PolicyState::Enforced, 0)]);
    let messages: Vec<String> = store.rejections().map(ToString::to_string).collect();
    let expected = "ClusterNetworkPolicy web: spec.egress[0].to[1]: is not a kind of peer that is \
                    known here, so the rule allows no peer";
    assert_eq!(messages, [expected]);
    assert_eq!(store.policies().next().unwrap().warnings.len(), 1);
    assert_eq!(store.rejected_objects(), 1);

    store.apply(&cluster_policy(&spec(json!({"nodes": {}}))), None).unwrap();
    assert_eq!(store.rejections().count(), 0);
    assert_eq!(state(&store), [(name, PolicyState::Enforced, 0)]);
}

#[test]
fn peers_by_node_labels_follow_the_nodes() {
    let node = |role: &str, ip: &str| {
        json!({"apiVersion": "v1", "kind": "Node",
               "metadata": {"name": "n", "labels": {"role": role}},
               "status": {"addresses": [{"type": "InternalIP", "address": ip}]}})
    };
    let spec = json!({"tier": "Admin", "priority": 1, "subject": {"namespaces": {}},
                      "egress": [{"action": "Deny",
                                  "to": [{"nodes": {"matchLabels": {"role": "edge"}}}]}]});
    let mut store = Store::new();
    store.apply(&cluster_policy(&spec), None).unwrap();
    store.apply(&pod("a", "10.0.0.1", &json!({})), None).unwrap();
    let reaches = |store: &Store, ip: &str| {
        let compiled = compile(store);
        let address = |ip: &str| ip.parse::<std::net::IpAddr>().unwrap().into();
        let tuple = Tuple {
            src: address("10.0.0.1"),
            dst: address(ip),
            src_port: 40_000,
            dst_port: 80,
            protocol: proto::TCP,
        };
        let local = LocalEnds { source: true, destination: false };
        let decision = compiled.tables.decide(&Subject { tuple, icmp_type: 0 }, local);
        decision.verdict == Verdict::Allow
    };
    let seen = |store: &Store| ["192.168.0.2", "192.168.0.3"].map(|ip| reaches(store, ip));
    assert_eq!(seen(&store), [true, true]);
    store.apply(&node("edge", "192.168.0.2"), None).unwrap();
    assert_eq!(seen(&store), [false, true]);
    store.apply(&node("edge", "192.168.0.3"), None).unwrap();
    assert_eq!(seen(&store), [true, false]);
    store.apply(&node("core", "192.168.0.3"), None).unwrap();
    assert_eq!(seen(&store), [true, true]);
    store.apply(&node("edge", "192.168.0.2"), None).unwrap();
    store.delete(&ObjectKey { kind: Kind::Node, namespace: None, name: "n".into() });
    assert_eq!(seen(&store), [true, true]);
}
