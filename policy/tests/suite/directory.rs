//! What policies refer to: groups, services, slices, the API server.

use std::net::IpAddr;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use podgate_policy::rules::{AddressScope, PeerSelector, RuleSet, TrafficDirection};
use podgate_policy::{ObjectKey, Store};

const NAMES: [&str; 3] = ["a", "b", "kubernetes"];
const NAMESPACES: [&str; 3] = ["red", "blue", "default"];

fn labels() -> impl Strategy<Value = Value> {
    select(vec![json!({}), json!({"of": "x"}), json!({"of": "y"})])
}

fn selector() -> impl Strategy<Value = Value> {
    select(vec![
        json!({}),
        json!({"matchLabels": {"of": "x"}}),
        json!({"matchExpressions": [{"key": "of", "operator": "NotIn", "values": ["x"]}]}),
    ])
}

fn group() -> impl Strategy<Value = Value> {
    let network = select(&["10.0.0.0/8", "10.1.0.0/16", "192.0.2.1", "fd00::/64"]);
    (select(&NAMES), labels(), vec(network, 0..3)).prop_map(|(name, labels, networks)| {
        json!({"apiVersion": "cilium.io/v2alpha1", "kind": "CiliumCIDRGroup",
               "metadata": {"name": name, "labels": labels},
               "spec": {"externalCIDRs": networks}})
    })
}

fn service() -> impl Strategy<Value = Value> {
    let selector = select(vec![json!({}), Value::Null, json!({"app": "a"})]);
    (select(&NAMESPACES), select(&NAMES), labels(), selector).prop_map(
        |(namespace, name, labels, selector)| {
            json!({"apiVersion": "v1", "kind": "Service",
                   "metadata": {"namespace": namespace, "name": name, "labels": labels},
                   "spec": {"selector": selector}})
        },
    )
}

fn slice() -> impl Strategy<Value = Value> {
    (select(&NAMESPACES), select(&NAMES), select(&NAMES), vec(1..5u8, 0..3)).prop_map(
        |(namespace, name, service, addresses)| {
            let addresses: Vec<String> =
                addresses.iter().map(|last| format!("192.0.2.{last}")).collect();
            json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                   "metadata": {"namespace": namespace, "name": name,
                                "labels": {"kubernetes.io/service-name": service}},
                   "endpoints": [{"addresses": addresses}]})
        },
    )
}

fn policy() -> impl Strategy<Value = Value> {
    let except = || select(vec![json!([]), json!(["10.1.2.0/24"]), json!(["10.0.0.0/8"])]);
    let namespace = || select(vec![Value::Null, json!("red"), json!("blue")]);
    let peers = prop_oneof![
        (select(&NAMES), except()).prop_map(
            |(name, except)| json!({"toCIDRSet": [{"cidrGroupRef": name, "except": except}]})
        ),
        (selector(), except()).prop_map(
            |(of, except)| json!({"toCIDRSet": [{"cidrGroupSelector": of, "except": except}]})
        ),
        (select(&NAMES), namespace()).prop_map(|(name, namespace)| {
            json!({"toServices": [{"k8sService": {"serviceName": name, "namespace": namespace}}]})
        }),
        (selector(), namespace()).prop_map(|(of, namespace)| {
            json!({"toServices": [{"k8sServiceSelector": {"selector": of, "namespace": namespace}}]})
        }),
        select(&["kube-apiserver", "cluster", "world"])
            .prop_map(|entity| json!({"toEntities": [entity]})),
    ];
    (select(&NAMES), peers, any::<bool>()).prop_map(|(name, peers, deny)| {
        let section = if deny { "egressDeny" } else { "egress" };
        json!({"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy",
               "metadata": {"namespace": "red", "name": name},
               "spec": {"endpointSelector": {}, section: [peers]}})
    })
}

fn object() -> impl Strategy<Value = Value> {
    prop_oneof![group(), service(), slice(), policy()]
}

fn normal_form(store: &Store) -> Vec<(ObjectKey, Vec<RuleSet>)> {
    store.all_rule_sets().map(|(key, sets)| (key.clone(), sets.to_vec())).collect()
}

proptest! {
    /// Objects come, are replaced and go, and the normal form is asked for in between.
    #[test]
    fn the_normal_form_does_not_depend_on_what_came_first(
        former in vec(object(), 0..8),
        objects in vec(object(), 0..12),
        looks in any::<u32>(),
    ) {
        let mut winding = Store::new();
        let mut keys = Vec::new();
        for object in &former {
            keys.push(winding.apply(object, None).unwrap());
            normal_form(&winding);
        }
        let mut last = Vec::new();
        for (index, object) in objects.iter().enumerate() {
            last.push(winding.apply(object, None).unwrap());
            if looks >> index & 1 == 1 {
                normal_form(&winding);
            }
        }
        for key in keys.iter().filter(|key| !last.contains(key)) {
            winding.delete(key);
        }

        // The last version of each object, backwards.
        let mut straight = Store::new();
        for (index, object) in objects.iter().enumerate().rev() {
            if !last[index + 1..].contains(&last[index]) {
                straight.apply(object, None).unwrap();
            }
        }
        prop_assert_eq!(normal_form(&winding), normal_form(&straight));
    }
}

/// The peers of the only rule of the only policy, networks in text.
fn peers(objects: &[Value]) -> Option<Vec<String>> {
    let mut store = Store::new();
    for object in objects {
        store.apply(object, None).unwrap();
    }
    let (_, sets) = store.all_rule_sets().next().unwrap();
    assert!(
        sets[0].default_deny[TrafficDirection::Egress],
        "the rule counts for the default deny in any case"
    );
    let shown = |peer: &PeerSelector| match peer {
        PeerSelector::Network(peer) => {
            let except: String = peer.except.iter().map(|out| format!(" -{out}")).collect();
            let mark = match peer.scope {
                AddressScope::World => "",
                AddressScope::WorldAndNodes => " and nodes",
                AddressScope::All => " and everyone",
            };
            format!("{}{except}{mark}", peer.network)
        }
        other => format!("{other:?}"),
    };
    let peers = sets[0].rules[0].peers.as_ref()?;
    Some(peers.iter().map(shown).collect())
}

fn egress(rule: &Value) -> Value {
    json!({"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy",
           "metadata": {"namespace": "red", "name": "web"},
           "spec": {"endpointSelector": {}, "egress": [rule]}})
}

fn group_of(networks: &[&str]) -> Value {
    json!({"apiVersion": "cilium.io/v2", "kind": "CiliumCIDRGroup",
           "metadata": {"name": "a"}, "spec": {"externalCIDRs": networks}})
}

#[test]
fn networks_of_a_group_lose_what_is_left_out() {
    let rule = json!({"toCIDRSet": [{"cidrGroupRef": "a",
                                     "except": ["10.1.0.0/16", "10.9.0.0/16", "192.0.2.0/24"]}]});
    let group = group_of(&["10.0.0.0/12", "192.0.2.7", "fd00::/64"]);
    assert_eq!(
        peers(&[egress(&rule), group]).unwrap(),
        ["10.0.0.0/12 -10.1.0.0/16 -10.9.0.0/16", "fd00::/64"]
    );
}

#[test]
fn what_does_not_exist_matches_nobody() {
    let unknown = [
        json!({"toCIDRSet": [{"cidrGroupRef": "a"}]}),
        json!({"toCIDRSet": [{"cidrGroupSelector": {}}]}),
        json!({"toServices": [{"k8sService": {"serviceName": "a"}}]}),
        json!({"toServices": [{"k8sServiceSelector": {"selector": {}}}]}),
        json!({"toEntities": ["kube-apiserver"]}),
        json!({"toEndpoints": []}),
        json!({}),
    ];
    for rule in &unknown {
        assert_eq!(peers(&[egress(rule)]), Some(Vec::new()), "{rule}");
    }
}

#[test]
fn the_api_server_counts_on_nodes_too() {
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                       "metadata": {"namespace": "default", "name": "kubernetes",
                                    "labels": {"kubernetes.io/service-name": "kubernetes"}},
                       "endpoints": [{"addresses": ["192.0.2.9"]}]});
    let rule = json!({"toEntities": ["kube-apiserver"]});
    assert_eq!(peers(&[egress(&rule), slice]).unwrap(), ["192.0.2.9/32 and nodes"]);
}

#[test]
fn a_group_of_too_many_networks_is_rejected() {
    let networks: Vec<String> =
        (0..100_001_u32).map(|bits| IpAddr::from(bits.to_be_bytes()).to_string()).collect();
    let networks: Vec<&str> = networks.iter().map(String::as_str).collect();
    let rejections = Store::new().apply(&group_of(&networks), None).unwrap_err();
    assert_eq!(rejections[0].field, "spec.externalCIDRs");
    assert!(rejections[0].reason.contains("at most 100000"), "{}", rejections[0]);
    assert!(Store::new().apply(&group_of(&networks[1..]), None).is_ok());
}

#[test]
fn what_a_policy_refers_to_does_not_decide_whether_it_is_in_force() {
    let ports: Vec<Value> =
        (0..40).map(|n| json!({"port": (2 * n + 1).to_string(), "protocol": "TCP"})).collect();
    let all_services = json!([{"k8sServiceSelector": {"selector": {}}}]);
    let policy = egress(&json!({"toServices": all_services, "toPorts": [{"ports": ports}]}));
    let services = (0..3000).map(|n| {
        json!({"apiVersion": "v1", "kind": "Service",
               "metadata": {"namespace": "red", "name": format!("s{n}")},
               "spec": {"selector": {"app": format!("s{n}")}}})
    });
    let (mut before, mut after) = (Store::new(), Store::new());
    before.apply(&policy, None).unwrap();
    for service in services {
        before.apply(&service, None).unwrap();
        after.apply(&service, None).unwrap();
    }
    after.apply(&policy, None).unwrap();
    assert_eq!(normal_form(&before), normal_form(&after));
}
