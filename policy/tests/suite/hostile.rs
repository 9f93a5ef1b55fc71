//! Bad input is rejected or enforced: it causes no panic, and no field is ignored.

use std::path::Path;

use podgate_tables::policy::{LocalEnds, Subject};
use podgate_tables::proto;
use podgate_tables::tuple::Tuple;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};

use podgate_policy::{Store, compile, manifest};

use crate::generate::{cilium_policy, cluster, cluster_policy, flow, network_policy, request};
use crate::support::{ask_oracle, ask_tables};

fn policy() -> impl Strategy<Value = Value> {
    prop_oneof![network_policy(), cilium_policy(), cluster_policy()].prop_map(|mut policy| {
        policy["metadata"]["name"] = "policy".into();
        policy
    })
}

/// Values of every type, some of them nearly right somewhere.
fn junk() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        "[a-z0-9:/.-]{0,12}".prop_map(Value::from),
        Just(json!("10.0.0.0/33")),
        Just(json!("(a|b)*a(a|b){30}")),
        Just(json!("(((((((((((((((((((((((((((((((((((((")),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-zA-Z]{1,8}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Every mapping and list in a value, by pointer.
fn containers(value: &Value, at: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            found.push(at.to_owned());
            for (key, value) in map {
                let key = key.replace('~', "~0").replace('/', "~1");
                containers(value, &format!("{at}/{key}"), found);
            }
        }
        Value::Array(items) => {
            found.push(at.to_owned());
            for (index, value) in items.iter().enumerate() {
                containers(value, &format!("{at}/{index}"), found);
            }
        }
        _ => {}
    }
}

/// Puts a value somewhere in another one, in place of an element or in addition to them.
fn damage(target: &mut Value, place: Index, element: Index, value: Value) {
    let mut places = Vec::new();
    containers(target, "", &mut places);
    if places.is_empty() {
        return;
    }
    match target.pointer_mut(&places[place.index(places.len())]).unwrap() {
        Value::Object(map) => {
            let keys: Vec<String> = map.keys().cloned().chain(["extra".to_owned()]).collect();
            map.insert(keys[element.index(keys.len())].clone(), value);
        }
        Value::Array(items) => {
            let index = element.index(items.len() + 1);
            if index < items.len() { items[index] = value } else { items.push(value) }
        }
        _ => unreachable!("only containers are listed"),
    }
}

/// Whether a pointer is that of an element of `from` or `to`.
fn is_peer(place: &str) -> bool {
    place.rsplit_once('/').is_some_and(|(list, _)| list.ends_with("/from") || list.ends_with("/to"))
}

/// The last length that is accepted, and the next one.
fn lengths(max: usize) -> [(String, bool); 2] {
    [("x".repeat(max), true), ("x".repeat(max + 1), false)]
}

#[test]
fn names_and_labels_are_as_long_as_the_api_lets_them_be() {
    let longest = format!("{}x", "x.".repeat(126));
    assert_eq!(longest.len(), 253);
    let too_long = format!("{longest}x");
    let pod = |name: &str, namespace: &str, key: &str, value: &str| {
        json!({"apiVersion": "v1", "kind": "Pod",
               "metadata": {"name": name, "namespace": namespace, "labels": {key: value},
                            "annotations": {"any key": "x".repeat(100_000), "": 7}}})
    };
    let namespace =
        |name: &str| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    let mut cases = vec![
        (pod(&longest, "a", "b", "c"), true),
        (pod(&too_long, "a", "b", "c"), false),
        (pod("a", "a", &format!("{}/x", longest), ""), true),
        (pod("a", "a", &format!("{}/x", too_long), ""), false),
        (pod("a", "a", "a/b/c", ""), false),
        (pod("a", "a", "", ""), false),
        (pod("a", "a", "-a", ""), false),
        (pod("a", "a", "a", "ä"), false),
        (pod("a.b", "a", "A.b_c/x", ""), false),
        (pod("a.b", "a", "a.b-c/X_.y", "X_.y"), true),
        (pod("a", "", "a", ""), false),
        (namespace("a.b"), false),
        (namespace("A"), false),
        (namespace(""), false),
    ];
    for (text, accepted) in lengths(63) {
        cases.push((pod("a", &text, "b", "c"), accepted));
        cases.push((pod("a", "a", &text, "c"), accepted));
        cases.push((pod("a", "a", "b", &text), accepted));
        cases.push((namespace(&text), accepted));
    }
    for (object, accepted) in cases {
        assert_eq!(
            Store::new().apply(&object, None).is_ok(),
            accepted,
            "{:.300}",
            object.to_string()
        );
    }
}

#[test]
fn patterns_that_would_be_catastrophic_elsewhere_are_matched_in_linear_time_or_rejected() {
    let alternatives = |count: usize| {
        let words: Vec<String> = (0..count).map(|i| format!("{i:x}")).collect();
        format!("({})", words.join("|"))
    };
    let deep = format!("{}a{}", "(".repeat(200), ")".repeat(200));
    let deeper = format!("{}b{}", "(a".repeat(300), ")*".repeat(300));
    let cases = [
        ("(x+x+)+y", None),
        ("((((a*)*)*)*)*b", None),
        ("(a{0}){4294967295}", None),
        (r"(?i)(?u)\pL*", Some("invalid perl operator")),
        (&*alternatives(900), None),
        (&*alternatives(10_000), Some("longer than 4096 bytes")),
        ("(a|b)*a(a|b){20}", Some("too many states")),
        (".{1000}{1000}", Some("bad repetition operator")),
        ("((a{0,100}){0,100}){0,100}", Some("invalid repetition size")),
        (r"\pL{200}", Some("too many states")),
        (&*format!("{}{{50}}", alternatives(900)), Some("too many states")),
        (&*deep, None),
        (&*deeper, Some("nested more than 250 deep")),
        ("a{2,1}", Some("invalid repetition size")),
        ("(a)\\1", Some("invalid escape sequence")),
        ("(?=a)", Some("invalid perl operator")),
    ];
    for (pattern, rejection) in cases {
        let ports = json!([{"port": "80", "protocol": "TCP"}]);
        let to_ports = json!([{"ports": ports, "rules": {"http": [{"path": pattern}]}}]);
        let policy = json!({"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy",
            "metadata": {"name": "a"},
            "spec": {"endpointSelector": {}, "ingress": [{"toPorts": to_ports}]}});
        let outcome = Store::new().apply(&policy, None);
        match (outcome, rejection) {
            (Ok(_), None) => {}
            (Err(rejections), Some(reason)) => {
                assert!(rejections[0].reason.contains(reason), "{}", rejections[0]);
            }
            (outcome, _) => panic!("{pattern:.80}: {outcome:?}"),
        }
    }
}

proptest! {
    #[test]
    fn any_json_gets_an_answer(value in junk()) {
        let _ = Store::new().apply(&value, None);
    }

    #[test]
    fn any_damage_to_a_policy_gets_an_answer_and_leaves_oracle_and_tables_agreed(
        cluster in cluster(),
        policy in policy(),
        damages in vec((any::<Index>(), any::<Index>(), junk()), 1..4),
        flows in vec((flow(), request()), 8),
    ) {
        let mut store = Store::new();
        for object in cluster.into_iter().chain([policy]) {
            let mut damaged = object.clone();
            for (place, element, value) in &damages {
                damage(&mut damaged, *place, *element, value.clone());
            }
            for object in [object, damaged] {
                if let Err(rejections) = store.apply(&object, None) {
                    prop_assert!(!rejections.is_empty());
                    for rejection in rejections {
                        prop_assert!(!rejection.reason.is_empty());
                        prop_assert!(!rejection.to_string().chars().any(char::is_control));
                    }
                }
            }
        }
        let compiled = compile(&store);
        for ((subject, local), request) in &flows {
            let (said, _) = ask_oracle(&store, subject, *local, Some(request));
            let (answer, _) = ask_tables(&compiled, subject, *local, Some(request));
            prop_assert_eq!(answer, said);
        }
    }

    #[test]
    fn an_unknown_field_anywhere_in_a_specification_is_rejected_by_name(
        policy in policy(),
        place in any::<Index>(),
    ) {
        let mut places = Vec::new();
        for root in ["spec", "specs"] {
            if let Some(value) = policy.get(root) {
                containers(value, &format!("/{root}"), &mut places);
            }
        }
        // Labels may have any keys, and nothing is known of what an unknown peer holds.
        places.retain(|place| {
            policy.pointer(place).unwrap().is_object()
                && !place.ends_with("matchLabels")
                && !place.ends_with("planets")
        });
        let place = &places[place.index(places.len())];
        let mut policy = policy.clone();
        policy.pointer_mut(place).unwrap()["fromNowhere"] = json!({});
        let mut store = Store::new();
        let outcome = store.apply(&policy, None);
        if policy["kind"] == "ClusterNetworkPolicy" && is_peer(place) {
            // A peer that isn't known makes its rule fail closed, and is reported.
            prop_assert!(outcome.is_ok());
            let warned = store.policies().any(|status| !status.warnings.is_empty());
            prop_assert!(warned && store.rejections().next().is_some());
        } else {
            let rejections = outcome.unwrap_err();
            prop_assert_eq!(rejections.len(), 1, "{:?}", rejections);
            prop_assert!(rejections[0].field.ends_with("fromNowhere"), "{}", rejections[0]);
        }
    }

    #[test]
    fn any_text_gets_documents_or_rejections(text in "\\PC*", lines in vec("[-a-z: &*{}\\[\\]\"'|>%#\t]{0,12}", 0..12)) {
        for text in [&text, &lines.join("\n")] {
            for name in ["x.yaml", "x.json"] {
                let mut store = Store::new();
                store.sync(&manifest::parse(text, Path::new(name)));
                let _compiled = compile(&store);
            }
        }
    }
}

/// A CiliumNetworkPolicy with `peers` and this many ranges of ports, one within the other.
fn nested_ranges(name: &str, peers: &Value, ranges: std::ops::Range<u16>) -> Value {
    let ports: Vec<Value> = ranges
        .map(|n| json!({"port": n.to_string(), "endPort": u16::MAX - n, "protocol": "TCP"}))
        .collect();
    let elements: Vec<Value> = ports.chunks(40).map(|ports| json!({"ports": ports})).collect();
    let mut rule = peers.clone();
    rule["toPorts"] = elements.into();
    json!({"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy",
           "metadata": {"namespace": "red", "name": name},
           "spec": {"endpointSelector": {}, "egress": [rule]}})
}

#[test]
fn a_policy_is_not_small_because_its_services_are_not_there_yet() {
    let mut store = Store::new();
    let services = json!({"toServices": [{"k8sService": {"serviceName": "a"}}]});
    let policy = nested_ranges("large", &services, 1..1001);
    let rejections = store.apply(&policy, None).unwrap_err();
    assert!(rejections[0].reason.contains("table entries"), "{rejections:?}");
}

#[test]
fn nested_ports_of_many_policies_take_no_room_by_the_square() {
    let mut store = Store::new();
    for (name, ip) in [("a", "10.0.0.1"), ("b", "10.0.0.2")] {
        let pod = json!({"apiVersion": "v1", "kind": "Pod",
                         "metadata": {"name": name, "namespace": "red"},
                         "status": {"podIPs": [{"ip": ip}]}});
        store.apply(&pod, None).unwrap();
    }
    for policy in 0..6 {
        let rule = |index: i32| {
            let (port, end) = (1 + policy + 20 * index, 60_000 - policy - 20 * index);
            json!({"ports": [{"port": port, "endPort": end}]})
        };
        let rules: Vec<_> = (0..300).map(rule).collect();
        let policy = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                            "metadata": {"name": format!("p{policy}"), "namespace": "red"},
                            "spec": {"podSelector": {}, "ingress": rules}});
        store.apply(&policy, None).unwrap();
    }
    let compiled = compile(&store);
    let [a, b] = ["10.0.0.1", "10.0.0.2"].map(|ip| ip.parse::<std::net::IpAddr>().unwrap().into());
    let ingress = &compiled.tables.resolve(b).identity.ingress;
    let entries: usize = ingress.classes.iter().map(|class| class.len()).sum();
    assert_eq!(entries, 6 * 300);
    for dst_port in [0, 1, 2, 7, 500, 6_000, 54_000, 59_995, 59_999, 60_000, 60_001, 65_535] {
        let tuple = Tuple { src: a, dst: b, src_port: 40_000, dst_port, protocol: proto::TCP };
        let subject = Subject { tuple, icmp_type: 0 };
        let (said, may_be) = ask_oracle(&store, &subject, LocalEnds::BOTH, None);
        let (answer, causes) = ask_tables(&compiled, &subject, LocalEnds::BOTH, None);
        assert_eq!(answer, said, "port {dst_port}");
        assert!(causes.iter().zip(&may_be).all(|(cause, may_be)| may_be.contains(cause)));
    }
}
