//! Random clusters, policies and flows, drawn from few names, labels, addresses and ports, so that
//! they meet often.

mod cilium;

use std::collections::BTreeSet;
use std::net::IpAddr;

use podgate_tables::address::Address;
use podgate_tables::policy::{LocalEnds, Subject};
use podgate_tables::proto;
use podgate_tables::tuple::Tuple;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Map, Value, json};

use podgate_policy::oracle::{HttpRequest, KafkaRequest, OracleRequest};

pub(crate) use self::cilium::cilium_policy;
use self::cilium::referred;

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
/// other's; and what policies refer to by name.
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
    (namespaces, vec(pod(), 1..8), vec(referred(), 0..5)).prop_map(
        |(mut objects, pods, referred)| {
            let mut names = BTreeSet::new();
            let mut is_first = |object: &Value| {
                let name = ["namespace", "name"].map(|field| object["metadata"][field].to_string());
                names.insert((object["kind"].to_string(), name))
            };
            objects.extend(referred.into_iter().filter(|object| is_first(object)));
            for (index, mut pod) in pods.into_iter().enumerate() {
                pod["metadata"]["name"] = format!("p{index}").into();
                objects.push(pod);
            }
            objects
        },
    )
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

/// Addresses that DNS names resolved to: those outside of the cluster, and what should never be
/// behind a name.
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
pub(crate) fn flow() -> impl Strategy<Value = (Subject, LocalEnds)> {
    let protocol = prop_oneof![
        6 => Just(proto::TCP),
        2 => Just(proto::UDP),
        1 => Just(proto::SCTP),
        2 => select(&[proto::ICMP, proto::ICMPV6]),
        1 => any::<u8>(),
    ];
    let port = prop_oneof![4 => select(&PORTS), 1 => any::<u16>()];
    let icmp_type = select(&[8u8, 13, 128]);
    let local = prop_oneof![
        5 => Just(LocalEnds::BOTH),
        1 => any::<(bool, bool)>()
            .prop_map(|(source, destination)| LocalEnds { source, destination }),
    ];
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

pub(crate) fn request() -> impl Strategy<Value = OracleRequest> {
    let name = select(&[
        "example.com",
        "www.Example.com.",
        "a.b.example.com",
        "example.org",
        "",
        "no name",
    ]);
    prop_oneof![
        4 => http_request().prop_map(OracleRequest::Http),
        2 => kafka_request().prop_map(OracleRequest::Kafka),
        1 => name.clone().prop_map(|name| OracleRequest::Dns(name.to_owned())),
        1 => name.prop_map(|name| OracleRequest::ServerName(name.to_owned())),
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
