//! Random policies of Cilium, and what they refer to.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Value, json};

use super::{KEYS, NAMESPACES, block, labels, list, mapping, port_range, selector};

/// A selector of Cilium's, which can match more than the pod's labels.
fn cilium_selector() -> impl Strategy<Value = Value> {
    let keys = vec![
        "app",
        "tier",
        "k8s:app",
        "any:tier",
        "container:app",
        "io.cilium.k8s.namespace.labels.app",
        "k8s:io.cilium.k8s.namespace.labels.tier",
    ];
    let namespace = option::weighted(
        0.3,
        (
            select(&["io.kubernetes.pod.namespace", "k8s:io.kubernetes.pod.namespace"]),
            select(&NAMESPACES),
        ),
    );
    let special = option::weighted(
        0.15,
        select(&[
            ("reserved:host", "Exists"),
            ("reserved:world", "Exists"),
            ("reserved:world-ipv6", "DoesNotExist"),
            ("reserved:remote-node", "Exists"),
            ("io.kubernetes.pod.namespace", "Exists"),
            ("io.kubernetes.pod.namespace", "DoesNotExist"),
            ("io.cilium.k8s.policy.cluster", "Exists"),
            ("any:world", "DoesNotExist"),
        ]),
    );
    let account = option::weighted(0.1, Just(("io.cilium.k8s.policy.serviceaccount", "robot")));
    (selector(keys), namespace, special, account).prop_map(
        |(mut selector, namespace, special, account)| {
            for (key, value) in namespace.into_iter().chain(account) {
                selector["matchLabels"][key] = value.into();
            }
            if let Some((key, operator)) = special {
                let expression = json!({"key": key, "operator": operator});
                match selector.get_mut("matchExpressions") {
                    Some(Value::Array(list)) => list.push(expression),
                    _ => selector["matchExpressions"] = json!([expression]),
                }
            }
            selector
        },
    )
}

/// Names that DNS rules, `toFQDNs` and server names match.
const NAMES: [&str; 6] =
    ["example.com", "WWW.example.com.", "*.example.com", "**.example.com", "*", "w*.e*.com"];

/// `{matchName: …}` or `{matchPattern: …}`.
fn name_match() -> impl Strategy<Value = Value> {
    select(&NAMES).prop_map(|name| match name.contains('*') {
        true => json!({"matchPattern": name}),
        false => json!({"matchName": name}),
    })
}

fn group() -> impl Strategy<Value = Value> {
    let except = option::weighted(0.3, Just(json!(["203.0.113.2/32", "2001:db8::/64"])));
    let reference = prop_oneof![
        select(&["g0", "g1", "g2"]).prop_map(|name| ("cidrGroupRef", name.into())),
        selector(KEYS.to_vec()).prop_map(|labels| ("cidrGroupSelector", labels)),
    ];
    (reference, except)
        .prop_map(|((field, groups), except)| mapping([(field, Some(groups)), ("except", except)]))
}

fn service() -> impl Strategy<Value = Value> {
    let namespace = || option::weighted(0.7, select(&NAMESPACES));
    prop_oneof![
        (select(&["s0", "s1"]), namespace()).prop_map(|(name, namespace)| {
            let namespace = namespace.map(Into::into);
            let fields = [("serviceName", Some(name.into())), ("namespace", namespace)];
            json!({"k8sService": mapping(fields)})
        }),
        (selector(KEYS.to_vec()), namespace()).prop_map(|(labels, namespace)| {
            let namespace = namespace.map(Into::into);
            let fields = [("selector", Some(labels)), ("namespace", namespace)];
            json!({"k8sServiceSelector": mapping(fields)})
        }),
    ]
}

/// An object that policies refer to by name or labels.
pub(super) fn referred() -> impl Strategy<Value = Value> {
    let addresses = [
        "203.0.113.1",
        "203.0.113.2",
        "2001:db8::1",
        "192.168.0.1",
        "192.168.0.2",
        "10.0.0.1",
        "fd00::2",
    ];
    let addresses = || subsequence(addresses.to_vec(), 0..=3);
    let place = || select(&["red", "blue"]);
    let name = || select(&["s0", "s1"]);
    let service = (place(), name(), labels(), option::weighted(0.6, labels())).prop_map(
        |(namespace, name, labels, selector)| {
            json!({"apiVersion": "v1", "kind": "Service",
                   "metadata": {"name": name, "namespace": namespace, "labels": labels},
                   "spec": mapping([("selector", selector)])})
        },
    );
    let of = prop_oneof![
        3 => (place(), name()),
        2 => Just(("default", "kubernetes")),
    ];
    let slice =
        (of, select(&["e0", "e1"]), addresses()).prop_map(|((namespace, of), name, list)| {
            json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
               "metadata": {"name": name, "namespace": namespace,
                            "labels": {"kubernetes.io/service-name": of}},
               "endpoints": [{"addresses": list}]})
        });
    let networks = ["203.0.113.0/30", "203.0.113.1/32", "2001:db8::/32", "10.0.0.0/29", "::/0"];
    let networks = subsequence(networks.to_vec(), 0..=2);
    let group = (select(&["g0", "g1"]), labels(), networks).prop_map(|(name, labels, networks)| {
        json!({"apiVersion": "cilium.io/v2", "kind": "CiliumCIDRGroup",
                   "metadata": {"name": name, "labels": labels},
                   "spec": {"externalCIDRs": networks}})
    });
    prop_oneof![service, slice, group]
}

/// One field of peers, perhaps with another one that is empty.
fn cilium_peers(prefix: &'static str, deny: bool) -> impl Strategy<Value = Vec<(String, Value)>> {
    let name = move |field: &str| format!("{prefix}{field}");
    let endpoints =
        vec(cilium_selector(), 1..3).prop_map(move |l| (name("Endpoints"), json!(l))).boxed();
    let cidrs = subsequence(&["10.0.0.0/29", "203.0.113.0/30", "203.0.113.2", "::/0"], 1..3)
        .prop_map(move |l| (name("CIDR"), json!(l)));
    let set = prop_oneof![3 => block(), 2 => group()];
    let sets = vec(set, 1..3).prop_map(move |l| (name("CIDRSet"), json!(l)));
    let entities = [
        "all",
        "world",
        "world-ipv4",
        "world-ipv6",
        "cluster",
        "cluster-mesh",
        "host",
        "remote-node",
        "kube-apiserver",
        "init",
        "none",
    ];
    let entities = subsequence(entities.to_vec(), 1..3)
        .prop_map(move |l| (name("Entities"), json!(l)))
        .boxed();
    let services = match prefix {
        "to" => vec(service(), 1..3).prop_map(move |l| (name("Services"), json!(l))).boxed(),
        _ => entities.clone(),
    };
    let names = match (prefix, deny) {
        ("to", false) => {
            vec(name_match(), 1..3).prop_map(move |l| (name("FQDNs"), json!(l))).boxed()
        }
        _ => entities.clone(),
    };
    let empty = match (prefix, deny) {
        ("to", false) => &["Endpoints", "CIDR", "CIDRSet", "Entities", "Services", "FQDNs"][..],
        ("to", true) => &["Endpoints", "CIDR", "CIDRSet", "Entities", "Services"],
        _ => &["Endpoints", "CIDR", "CIDRSet", "Entities"],
    };
    let empty = select(empty.to_vec()).prop_map(move |field| (name(field), json!([])));
    prop_oneof![
        2 => Just(Vec::new()),
        1 => empty.clone().prop_map(|field| vec![field]),
        1 => (empty, endpoints.clone()).prop_map(|(empty, full)| vec![empty, full]),
        4 => endpoints.prop_map(|field| vec![field]),
        2 => cidrs.prop_map(|field| vec![field]),
        2 => sets.prop_map(|field| vec![field]),
        2 => entities.prop_map(|field| vec![field]),
        1 => services.prop_map(|field| vec![field]),
        1 => names.prop_map(|field| vec![field]),
    ]
}

fn http_rules() -> impl Strategy<Value = Value> {
    let rule = (
        option::of(select(&["GET", "GET|POST", "P.*"])),
        option::of(select(&["/a", "/a/.*", "/(a|b)", "/b?.*"])),
        option::of(select(&["host", "ho.*"])),
        subsequence(&["X-A", "X-B: one"], 0..=2),
        option::weighted(
            0.3,
            select(&["", "LOG"]).prop_map(|mismatch| {
                json!([{"name": "x-b", "value": "one", "mismatch": mismatch}, {"name": "X-A"}])
            }),
        ),
    )
        .prop_map(|(method, path, host, headers, matches)| {
            mapping([
                ("method", method.map(Into::into)),
                ("path", path.map(Into::into)),
                ("host", host.map(Into::into)),
                ("headers", Some(headers.into())),
                ("headerMatches", matches),
            ])
        });
    vec(rule, 1..3).prop_map(|rules| json!({"http": rules}))
}

fn kafka_rules() -> impl Strategy<Value = Value> {
    let api = prop_oneof![
        Just(("role", "produce")),
        Just(("role", "consume")),
        Just(("apiKey", "Fetch")),
        Just(("apiKey", "")),
    ];
    let version = option::of(select(&["0", "1"]));
    let client = option::of(select(&["c", ""]));
    let rule = (api, version, client, option::of(select(&["orders", "logs"]))).prop_map(
        |((field, api), version, client, topic)| {
            mapping([
                (field, Some(api.into())),
                ("apiVersion", version.map(Into::into)),
                ("clientID", client.map(Into::into)),
                ("topic", topic.map(Into::into)),
            ])
        },
    );
    vec(rule, 1..3).prop_map(|rules| json!({"kafka": rules}))
}

/// What the elements of a rule have besides ports. Elements of one rule have L7 rules of one
/// protocol.
#[derive(Clone, Copy, Debug)]
enum Inspection {
    None,
    Http,
    Kafka,
    Dns,
    ServerNames,
}

/// An element of `toPorts` without L7 rules.
fn plain_ports() -> impl Strategy<Value = Value> {
    let any = (
        prop_oneof![4 => port_range(false), 1 => Just((json!("0"), None))],
        option::of(select(&["TCP", "UDP", "SCTP", "ANY"])),
    );
    vec(any, 0..3).prop_map(|ports| {
        let ports = ports.into_iter().map(|((port, end), protocol)| {
            mapping([
                ("port", Some(port)),
                ("endPort", end.map(Into::into)),
                ("protocol", protocol.map(Into::into)),
            ])
        });
        json!({"ports": ports.collect::<Vec<_>>()})
    })
}

/// An element of `toPorts` with the L7 rules.
fn inspected_ports(inspection: Inspection) -> BoxedStrategy<Value> {
    let tcp = port_range(false).prop_map(|(port, end)| {
        let end = end.map(Into::into);
        mapping([("port", Some(port)), ("endPort", end), ("protocol", Some("TCP".into()))])
    });
    let rules = match inspection {
        Inspection::None => return plain_ports().boxed(),
        Inspection::Http => http_rules().boxed(),
        Inspection::Kafka => kafka_rules().boxed(),
        Inspection::Dns => {
            let port = (select(&["53", "80", "dns"]), select(&["TCP", "UDP", "ANY"]));
            let port = port.prop_map(|(port, of)| json!({"port": port, "protocol": of}));
            let element = (port, vec(name_match(), 1..3));
            return element
                .prop_map(|(port, names)| json!({"ports": [port], "rules": {"dns": names}}))
                .boxed();
        }
        Inspection::ServerNames => {
            let names = subsequence(NAMES.to_vec(), 1..3);
            return (tcp, names)
                .prop_map(|(port, names)| json!({"ports": [port], "serverNames": names}))
                .boxed();
        }
    };
    (tcp, rules).prop_map(|(port, rules)| json!({"ports": [port], "rules": rules})).boxed()
}

fn to_ports(prefix: &'static str, deny: bool) -> impl Strategy<Value = Option<Value>> {
    let inspections = match (prefix, deny) {
        (_, true) => &[Inspection::None][..],
        ("to", _) => &[
            Inspection::None,
            Inspection::Http,
            Inspection::Kafka,
            Inspection::Dns,
            Inspection::ServerNames,
        ],
        _ => &[Inspection::None, Inspection::Http, Inspection::Kafka, Inspection::ServerNames],
    };
    select(inspections.to_vec()).prop_flat_map(|inspection| {
        list(prop_oneof![2 => plain_ports(), 2 => inspected_ports(inspection)], 2)
    })
}

fn icmps() -> impl Strategy<Value = Value> {
    let field = prop_oneof![
        Just(json!({"type": 8})),
        Just(json!({"type": "EchoRequest", "family": "IPv6"})),
        Just(json!({"type": 13, "family": "IPv4"})),
    ];
    vec(field, 0..3).prop_map(|fields| json!({"fields": fields}))
}

fn cilium_rule(prefix: &'static str, deny: bool) -> impl Strategy<Value = Value> {
    let ports = prop_oneof![
        3 => to_ports(prefix, deny).prop_map(|list| ("toPorts", list)),
        1 => list(icmps(), 2).prop_map(|list| ("icmps", list)),
    ];
    (cilium_peers(prefix, deny), ports).prop_map(|(peers, ports)| {
        let mut rule = mapping([ports]);
        for (field, value) in peers {
            rule[field] = value;
        }
        rule
    })
}

fn cilium_spec() -> impl Strategy<Value = Value> {
    let sections = (
        list(cilium_rule("from", false), 2),
        list(cilium_rule("from", true), 1),
        list(cilium_rule("to", false), 2),
        list(cilium_rule("to", true), 1),
    );
    let default_deny = option::weighted(
        0.3,
        (option::of(any::<bool>()), option::of(any::<bool>())).prop_map(|(ingress, egress)| {
            mapping([("ingress", ingress.map(Into::into)), ("egress", egress.map(Into::into))])
        }),
    );
    (cilium_selector(), sections, default_deny).prop_map(|(subject, sections, default_deny)| {
        let (ingress, ingress_deny, egress, egress_deny) = sections;
        mapping([
            ("endpointSelector", Some(subject)),
            // One section must be there.
            ("ingress", Some(ingress.filter(|list| !list.is_null()).unwrap_or(json!([])))),
            ("ingressDeny", ingress_deny),
            ("egress", egress),
            ("egressDeny", egress_deny),
            ("enableDefaultDeny", default_deny),
        ])
    })
}

pub(crate) fn cilium_policy() -> impl Strategy<Value = Value> {
    let specs = prop_oneof![
        4 => cilium_spec().prop_map(|spec| ("spec", spec)),
        1 => vec(cilium_spec(), 1..3).prop_map(|specs| ("specs", json!(specs))),
    ];
    (option::weighted(0.7, select(&NAMESPACES)), specs).prop_map(|(namespace, (field, specs))| {
        let mut object = match namespace {
            Some(namespace) => json!({"kind": "CiliumNetworkPolicy",
                                      "metadata": {"namespace": namespace}}),
            None => json!({"kind": "CiliumClusterwideNetworkPolicy", "metadata": {}}),
        };
        object["apiVersion"] = "cilium.io/v2".into();
        object[field] = specs;
        object
    })
}
