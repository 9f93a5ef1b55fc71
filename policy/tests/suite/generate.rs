//! Random clusters, policies and flows, drawn from few names, labels, addresses and ports, so that
//! they meet often.

use std::net::IpAddr;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Map, Value, json};

use podgate_dataplane::policy::Subject;
use podgate_dataplane::types::{Address, Tuple, proto};
use podgate_policy::oracle::{HttpRequest, KafkaRequest, Request};

/// Addresses of this node.
pub(crate) const HOSTS: [&str; 2] = ["192.168.0.1", "fd00:99::1"];

const NAMESPACES: [&str; 3] = ["red", "blue", "void"];
const KEYS: [&str; 2] = ["app", "tier"];
const VALUES: [&str; 2] = ["a", "b"];
const PORT_NAMES: [&str; 2] = ["web", "dns"];
const PORTS: [u16; 6] = [0, 53, 80, 81, 8080, 65535];

/// Builds a mapping without the fields that are `None`.
fn mapping<const N: usize>(fields: [(&str, Option<Value>); N]) -> Value {
    let present = fields.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
    Value::Object(present.collect::<Map<_, _>>())
}

fn labels() -> impl Strategy<Value = Value> {
    (option::of(select(&VALUES)), option::of(select(&VALUES))).prop_map(|(app, tier)| {
        mapping([("app", app.map(Into::into)), ("tier", tier.map(Into::into))])
    })
}

/// Namespaces (one is never defined), a node, and pods; some without addresses, some with each
/// other's.
pub(crate) fn cluster() -> impl Strategy<Value = Vec<Value>> {
    let namespaces = (labels(), labels(), labels()).prop_map(|(red, blue, node)| {
        vec![
            json!({"apiVersion": "v1", "kind": "Namespace",
                   "metadata": {"name": "red", "labels": red}}),
            json!({"apiVersion": "v1", "kind": "Namespace",
                   "metadata": {"name": "blue", "labels": blue}}),
            json!({"apiVersion": "v1", "kind": "Node",
                   "metadata": {"name": "other", "labels": node},
                   "status": {"addresses": [{"type": "InternalIP", "address": "192.168.0.2"},
                                            {"type": "InternalIP", "address": "fd00:99::2"}]}}),
        ]
    });
    (namespaces, vec(pod(), 1..8)).prop_map(|(mut objects, pods)| {
        for (index, mut pod) in pods.into_iter().enumerate() {
            pod["metadata"]["name"] = format!("p{index}").into();
            objects.push(pod);
        }
        objects
    })
}

fn pod() -> impl Strategy<Value = Value> {
    let port = (select(&PORT_NAMES), select(&PORTS[1..]), select(&["TCP", "UDP", "SCTP"]))
        .prop_map(|(name, port, protocol)| {
            json!({"name": name, "containerPort": port, "protocol": protocol})
        });
    let phase = prop_oneof![9 => Just("Running"), 1 => Just("Failed")];
    let account = select(&["default", "robot"]);
    let created = select(&["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"]);
    let host_network = prop::bool::weighted(0.1);
    (select(&NAMESPACES), labels(), 1..7u8, vec(port, 0..3), phase, account, created, host_network)
        .prop_map(|(namespace, labels, ip, ports, phase, account, created, host_network)| {
            json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"namespace": namespace, "labels": labels,
                             "creationTimestamp": created},
                "spec": {"serviceAccountName": account, "hostNetwork": host_network,
                         "containers": [{"name": "c", "ports": ports}]},
                "status": {"phase": phase,
                           "podIPs": [{"ip": format!("10.0.0.{ip}")},
                                      {"ip": format!("fd00::{ip}")}]},
            })
        })
}

/// A selector over keys that `key` writes.
fn selector(keys: Vec<&'static str>) -> impl Strategy<Value = Value> {
    let keys_of_labels = keys.clone();
    let expression = (select(keys), 0..4usize, subsequence(&VALUES, 1..=2)).prop_map(
        |(key, operator, values)| match operator {
            0 => json!({"key": key, "operator": "In", "values": values}),
            1 => json!({"key": key, "operator": "NotIn", "values": values}),
            2 => json!({"key": key, "operator": "Exists"}),
            _ => json!({"key": key, "operator": "DoesNotExist"}),
        },
    );
    let labels = option::weighted(0.5, (select(keys_of_labels), select(&VALUES)));
    (labels, vec(expression, 0..2)).prop_map(|(labels, expressions)| {
        let labels = labels.map(|(key, value)| json!({key: value}));
        let expressions = (!expressions.is_empty()).then_some(Value::Array(expressions));
        mapping([("matchLabels", labels), ("matchExpressions", expressions)])
    })
}

fn block() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!({"cidr": "10.0.0.0/29"})),
        Just(json!({"cidr": "10.0.0.0/29", "except": ["10.0.0.2/31"]})),
        Just(json!({"cidr": "10.0.0.4/32"})),
        Just(json!({"cidr": "0.0.0.0/0"})),
        Just(json!({"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8", "203.0.113.0/32"]})),
        Just(json!({"cidr": "::/0", "except": ["fd00::/126"]})),
        Just(json!({"cidr": "fd00::/120"})),
        Just(json!({"cidr": "203.0.113.0/30", "except": ["203.0.113.1/32", "203.0.113.3/32"]})),
    ]
}

/// The field, absent, null, empty, or with up to `max` elements.
fn list(
    element: impl Strategy<Value = Value> + 'static,
    max: usize,
) -> impl Strategy<Value = Option<Value>> {
    prop_oneof![
        3 => Just(None),
        1 => Just(Some(Value::Null)),
        1 => Just(Some(json!([]))),
        6 => vec(element, 1..=max).prop_map(|elements| Some(Value::Array(elements))),
    ]
}

fn port_range(numbers: bool) -> impl Strategy<Value = (Value, Option<u16>)> {
    let as_value = move |port: u16| if numbers { json!(port) } else { json!(port.to_string()) };
    prop_oneof![
        4 => select(&PORTS[1..]).prop_map(move |port| (as_value(port), None)),
        2 => (select(&PORTS[1..]), 0..100u16)
            .prop_map(move |(port, more)| (as_value(port), Some(port.saturating_add(more)))),
        2 => select(&PORT_NAMES).prop_map(|name| (json!(name), None)),
    ]
}

pub(crate) fn network_policy() -> impl Strategy<Value = Value> {
    let peer = prop_oneof![
        selector(KEYS.to_vec()).prop_map(|pods| json!({"podSelector": pods})),
        selector(KEYS.to_vec()).prop_map(|spaces| json!({"namespaceSelector": spaces})),
        (selector(KEYS.to_vec()), selector(KEYS.to_vec()))
            .prop_map(|(s, p)| json!({"namespaceSelector": s, "podSelector": p})),
        block().prop_map(|block| json!({"ipBlock": block})),
    ]
    .boxed();
    let port = (option::of(port_range(true)), option::of(select(&["TCP", "UDP", "SCTP"])))
        .prop_map(|(port, protocol)| {
            let (port, end) = port.map_or((None, None), |(port, end)| (Some(port), end));
            mapping([
                ("port", port),
                ("endPort", end.map(Into::into)),
                ("protocol", protocol.map(Into::into)),
            ])
        })
        .boxed();
    let rule = |peers: &'static str| {
        (list(peer.clone(), 2), list(port.clone(), 2))
            .prop_map(move |(from, ports)| mapping([(peers, from), ("ports", ports)]))
    };
    let types =
        option::of(subsequence(&["Ingress", "Egress"], 0..=2)).prop_map(|t| t.map(Into::into));
    let spec = (selector(KEYS.to_vec()), list(rule("from"), 2), list(rule("to"), 2), types);
    (select(&NAMESPACES), spec).prop_map(|(namespace, (pods, ingress, egress, types))| {
        let spec = mapping([
            ("podSelector", Some(pods)),
            ("ingress", ingress),
            ("egress", egress),
            ("policyTypes", types),
        ]);
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
               "metadata": {"namespace": namespace}, "spec": spec})
    })
}

/// A selector of Cilium's, which can speak of much more than the pod's labels.
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

/// One field of peers, perhaps with another one that is empty.
fn cilium_peers(prefix: &'static str) -> impl Strategy<Value = Vec<(String, Value)>> {
    let name = move |field: &str| format!("{prefix}{field}");
    let endpoints =
        vec(cilium_selector(), 1..3).prop_map(move |l| (name("Endpoints"), json!(l))).boxed();
    let cidrs = subsequence(&["10.0.0.0/29", "203.0.113.0/30", "203.0.113.2", "::/0"], 1..3)
        .prop_map(move |l| (name("CIDR"), json!(l)));
    let sets = vec(block(), 1..3).prop_map(move |l| (name("CIDRSet"), json!(l)));
    let entities = [
        "all",
        "world",
        "world-ipv4",
        "world-ipv6",
        "cluster",
        "host",
        "remote-node",
        "init",
        "none",
    ];
    let entities =
        subsequence(entities.to_vec(), 1..3).prop_map(move |l| (name("Entities"), json!(l)));
    let empty = select(&["Endpoints", "CIDR", "CIDRSet", "Entities"])
        .prop_map(move |field| (name(field), json!([])));
    prop_oneof![
        2 => Just(Vec::new()),
        1 => empty.clone().prop_map(|field| vec![field]),
        1 => (empty, endpoints.clone()).prop_map(|(empty, full)| vec![empty, full]),
        4 => endpoints.prop_map(|field| vec![field]),
        2 => cidrs.prop_map(|field| vec![field]),
        2 => sets.prop_map(|field| vec![field]),
        2 => entities.prop_map(|field| vec![field]),
    ]
}

fn http_rules() -> impl Strategy<Value = Value> {
    let rule = (
        option::of(select(&["GET", "GET|POST", "P.*"])),
        option::of(select(&["/a", "/a/.*", "/(a|b)", "/b?.*"])),
        option::of(select(&["host", "ho.*"])),
        subsequence(&["X-A", "X-B: one"], 0..=2),
    )
        .prop_map(|(method, path, host, headers)| {
            mapping([
                ("method", method.map(Into::into)),
                ("path", path.map(Into::into)),
                ("host", host.map(Into::into)),
                ("headers", Some(headers.into())),
            ])
        });
    vec(rule, 1..3).prop_map(|rules| json!({"http": rules}))
}

fn to_ports(deny: bool) -> impl Strategy<Value = Value> {
    let any = (
        prop_oneof![4 => port_range(false), 1 => Just((json!("0"), None))],
        option::of(select(&["TCP", "UDP", "SCTP", "ANY"])),
    );
    let plain = vec(any, 0..3).prop_map(|ports| {
        let ports = ports.into_iter().map(|((port, end), protocol)| {
            mapping([
                ("port", Some(port)),
                ("endPort", end.map(Into::into)),
                ("protocol", protocol.map(Into::into)),
            ])
        });
        json!({"ports": ports.collect::<Vec<_>>()})
    });
    let inspected = (port_range(false), http_rules()).prop_map(|((port, end), rules)| {
        let port = mapping([
            ("port", Some(port)),
            ("endPort", end.map(Into::into)),
            ("protocol", Some("TCP".into())),
        ]);
        json!({"ports": [port], "rules": rules})
    });
    if deny { plain.boxed() } else { prop_oneof![2 => plain, 1 => inspected].boxed() }
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
        3 => list(to_ports(deny), 2).prop_map(|list| ("toPorts", list)),
        1 => list(icmps(), 2).prop_map(|list| ("icmps", list)),
    ];
    (cilium_peers(prefix), ports).prop_map(|(peers, ports)| {
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

/// `namespaces` or `pods`: the subject of a ClusterNetworkPolicy, or a peer.
fn pod_selection() -> impl Strategy<Value = Value> {
    let plain = || selector(KEYS.to_vec());
    prop_oneof![
        plain().prop_map(|namespaces| json!({"namespaces": namespaces})),
        (option::of(plain()), plain()).prop_map(|(namespaces, pods)| {
            let selection =
                mapping([("namespaceSelector", namespaces), ("podSelector", Some(pods))]);
            json!({"pods": selection})
        }),
    ]
}

/// A peer of egress that is no pods. Names are for rules that accept.
fn outside_peer(action: &str) -> impl Strategy<Value = Value> {
    let networks = ["0.0.0.0/0", "::/0", "10.0.0.0/30", "fd00::4/126", "203.0.113.1/32"];
    let networks =
        subsequence(networks.to_vec(), 1..3).prop_map(|list| json!({"networks": list})).boxed();
    let nodes = selector(KEYS.to_vec()).prop_map(|nodes| json!({"nodes": nodes}));
    let names = match action {
        "Accept" => subsequence(&["example.com", "*.example.com"], 1..=2)
            .prop_map(|list| json!({"domainNames": list}))
            .boxed(),
        _ => networks.clone(),
    };
    prop_oneof![3 => networks, 2 => nodes, 1 => names]
}

fn cluster_protocol(named: bool) -> impl Strategy<Value = Value> {
    let transport = select(&["tcp", "udp", "sctp"]);
    let number = select(&PORTS[1..]).prop_map(|port| json!({"number": port}));
    let range = (select(&PORTS[1..5]), 1..100u16)
        .prop_map(|(port, more)| json!({"range": {"start": port, "end": port + more}}));
    let ports = prop_oneof![2 => number, 1 => range];
    let by_number =
        (transport, ports).prop_map(|(name, port)| json!({name: {"destinationPort": port}}));
    let by_name = select(&PORT_NAMES).prop_map(|name| json!({"destinationNamedPort": name}));
    prop_oneof![3 => by_number, u32::from(named) => by_name]
}

/// A rule whose peers are in `field`. Only rules that are all about pods can name ports.
fn cluster_rule(field: &'static str) -> impl Strategy<Value = Value> {
    let unknown = select(vec![json!({}), json!({"planets": {}}), json!({"pods": 1, "moons": 2})]);
    let known = pod_selection().boxed();
    let outside = prop::bool::weighted(if field == "to" { 0.4 } else { 0.0 });
    (select(&["Accept", "Deny", "Pass"]), outside).prop_flat_map(move |(action, outside)| {
        let peer = prop_oneof![
            10 => known.clone(),
            u32::from(outside) * 20 => outside_peer(action),
            1 => unknown.clone(),
        ];
        let protocols = option::of(vec(cluster_protocol(!outside), 1..3));
        (vec(peer, 1..3), protocols).prop_map(move |(peers, protocols)| {
            mapping([
                ("action", Some(action.into())),
                (field, Some(peers.into())),
                ("protocols", protocols.map(Into::into)),
            ])
        })
    })
}

pub(crate) fn cluster_policy() -> impl Strategy<Value = Value> {
    let rules = (list(cluster_rule("from"), 3), list(cluster_rule("to"), 3));
    // Few priorities, so that names decide now and then.
    let place = (select(&["Admin", "Baseline"]), select(&[0, 9, 10, 1000]));
    (place, pod_selection(), rules).prop_map(|((tier, priority), subject, (ingress, egress))| {
        let spec = mapping([
            ("tier", Some(tier.into())),
            ("priority", Some(priority.into())),
            ("subject", Some(subject)),
            ("ingress", ingress),
            ("egress", egress),
        ]);
        json!({"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
               "metadata": {}, "spec": spec})
    })
}

/// Policies with names of their own.
pub(crate) fn policies(max: usize) -> impl Strategy<Value = Vec<Value>> {
    let policy = prop_oneof![network_policy(), cilium_policy(), cluster_policy()];
    vec(policy, 0..=max).prop_map(|mut policies| {
        for (index, policy) in policies.iter_mut().enumerate() {
            policy["metadata"]["name"] = format!("policy{index}").into();
        }
        policies
    })
}

/// What DNS names were seen to stand for: outsiders, and what should never be behind a name.
pub(crate) fn learned() -> impl Strategy<Value = Vec<(&'static str, Vec<IpAddr>)>> {
    let names = ["example.com", "www.example.com", "a.b.example.com", "example.org"];
    let addresses =
        ["203.0.113.1", "203.0.113.2", "2001:db8::1", "10.0.0.1", "fd00::1", "192.168.0.2"];
    let addresses = subsequence(addresses.to_vec(), 0..=4)
        .prop_map(|list| list.iter().map(|address| address.parse().unwrap()).collect());
    vec((select(names.to_vec()), addresses), 0..4)
}

fn address(v6: bool) -> impl Strategy<Value = Address> {
    let pod = (1..7u8).prop_map(move |ip| match v6 {
        true => format!("fd00::{ip}"),
        false => format!("10.0.0.{ip}"),
    });
    let fixed = match v6 {
        true => ["fd00:99::1", "fd00:99::2", "2001:db8::1", "fd00::f", "::1"],
        false => ["192.168.0.1", "192.168.0.2", "203.0.113.1", "203.0.113.2", "255.255.255.254"],
    };
    let fixed = select(fixed.to_vec()).prop_map(str::to_owned);
    prop_oneof![4 => pod, 1 => fixed].prop_map(|text| text.parse::<IpAddr>().unwrap().into())
}

/// A flow, and which of its ends are local.
pub(crate) fn flow() -> impl Strategy<Value = (Subject, [bool; 2])> {
    let protocol = prop_oneof![
        6 => Just(proto::TCP),
        2 => Just(proto::UDP),
        1 => Just(proto::SCTP),
        2 => select(&[proto::ICMP, proto::ICMPV6]),
        1 => any::<u8>(),
    ];
    let port = prop_oneof![4 => select(&PORTS), 1 => any::<u16>()];
    let icmp_type = select(&[8u8, 13, 128]);
    let local = prop_oneof![5 => Just([true, true]), 1 => any::<[bool; 2]>()];
    any::<bool>()
        .prop_flat_map(|v6| (address(v6), address(v6)))
        .prop_flat_map(move |ends| {
            (Just(ends), protocol.clone(), port.clone(), icmp_type.clone(), local.clone())
        })
        .prop_map(|((src, dst), protocol, dst_port, icmp_type, local)| {
            let tuple = Tuple { src, dst, src_port: 40_000, dst_port, protocol };
            (Subject { tuple, icmp_type }, local)
        })
}

pub(crate) fn request() -> impl Strategy<Value = Request> {
    let name = select(&["a.example", "b.example.", "A.EXAMPLE", "x.a.example", "", "no name"]);
    prop_oneof![
        4 => http_request().prop_map(Request::Http),
        2 => kafka_request().prop_map(Request::Kafka),
        1 => name.clone().prop_map(|name| Request::Dns(name.to_owned())),
        1 => name.prop_map(|name| Request::ServerName(name.to_owned())),
    ]
}

fn http_request() -> impl Strategy<Value = HttpRequest> {
    let headers = subsequence(&[("x-a", "1"), ("X-B", "one"), ("X-B", "two")], 0..=3);
    (
        select(&["GET", "POST", "PUT", "get"]),
        select(&["/", "/a", "/a/", "/a/b?c", "/b", "/bb", "/c"]),
        select(&["host", "HOST", "hos", ""]),
        headers,
    )
        .prop_map(|(method, path, host, headers)| HttpRequest {
            method: method.to_owned(),
            path: path.to_owned(),
            host: host.to_owned(),
            headers: headers.into_iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect(),
        })
}

fn kafka_request() -> impl Strategy<Value = KafkaRequest> {
    let client = option::of(select(&["c", "d"]));
    (select(&[0i16, 1, 3, 12, 99]), 0..3i16, client, subsequence(&["orders", "logs"], 0..=2))
        .prop_map(|(api_key, api_version, client_id, topics)| KafkaRequest {
            api_key,
            api_version,
            client_id: client_id.map(str::to_owned),
            topics: topics.into_iter().map(str::to_owned).collect(),
        })
}
