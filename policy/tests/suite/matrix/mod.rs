//! A reachability matrix, generated: a small cluster, one or two policies from the product of
//! kinds × directions × peers × ports × actions, and updates of labels, ports, nodes, references
//! and policies.
//! Each case is a truth table whose rows have no expectation, so all three executors must agree.

mod policies;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use podgate_policy::truth::{self, TruthTable};
use serde_json::{Value, json};

use self::policies::{Kind, Peers, Policy, Ports, TrafficDirection};
use crate::runner::{Outcome, run};

/// Most failures of one case that are shown.
const SHOWN: usize = 5;

#[test]
fn all_executors_agree_on_every_case_of_the_matrix() {
    let cases = cases();
    let (mut verdicts, mut met) = (0, BTreeSet::new());
    let mut failures = String::new();
    let mut effects: BTreeMap<Update, usize> = BTreeMap::new();
    for Case { document, updates } in &cases {
        let outcome = run_case(document);
        verdicts += outcome.by_packets;
        assert_eq!(
            outcome.verdicts.first(),
            outcome.verdicts.last(),
            "not the same once all is undone: {}",
            paste(document)
        );
        for (update, step) in updates.iter().zip(outcome.verdicts.windows(2)) {
            *effects.entry(*update).or_default() += usize::from(step[0] != step[1]);
        }
        met.extend(outcome.verdicts.into_iter().flatten().map(|verdict| format!("{verdict:?}")));
        if !outcome.failures.is_empty() {
            let shown = outcome.failures.iter().take(SHOWN).cloned().collect::<Vec<_>>().join("\n");
            let _ = writeln!(failures, "{shown}\nThe case, as a truth table:\n{}", paste(document));
        }
    }
    assert!(failures.is_empty(), "{failures}");
    assert!(cases.len() > 200, "only {} cases", cases.len());
    assert!(verdicts > 100_000, "only {verdicts} verdicts");
    assert_eq!(met.len(), 3, "not all verdicts are met: {met:?}");
    let all = effects.values().all(|cases| *cases > 0);
    assert!(
        all && effects.len() == Update::FIRST.len() + Update::SECOND.len(),
        "updates without effect: {effects:?}"
    );
    println!("{} cases, {verdicts} verdicts", cases.len());
}

#[test]
fn a_case_of_the_matrix_can_be_pasted_as_a_file() {
    let case = &cases()[0].document;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("case.yaml");
    std::fs::write(&file, paste(case)).unwrap();
    let pasted = truth::load(&file).and_then(run).unwrap();
    assert_eq!(pasted.verdicts, run_case(case).verdicts);
}

fn run_case(case: &Value) -> Outcome {
    let outcome = TruthTable::new(case, Path::new(".")).and_then(run);
    outcome.unwrap_or_else(|error| panic!("{error}\n{}", paste(case)))
}

/// The case as a file of `tests/truth` may have it: one element of a list on a line.
fn paste(case: &Value) -> String {
    let mut text = String::new();
    for (field, value) in case.as_object().unwrap() {
        match value {
            Value::Array(items) => {
                let _ = writeln!(text, "{field}:");
                for item in items {
                    let _ = writeln!(text, "- {item}");
                }
            }
            _ => {
                let _ = writeln!(text, "{field}: {value}");
            }
        }
    }
    text
}

/// What changes in a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
enum Update {
    PeersRelabelled,
    NamespacesRelabelled,
    SubjectRelabelled,
    NamespaceDeleted,
    PortsRenamed,
    NodeMoved,
    AddressesSwapped,
    PolicyDeleted,
    AlwaysEnforced,
    /// Services, groups and names refer to other peers.
    ReferencesChanged,
}

impl Update {
    /// Labels, in turn with everything else.
    const FIRST: [Self; 3] =
        [Self::PeersRelabelled, Self::NamespacesRelabelled, Self::SubjectRelabelled];
    const SECOND: [Self; 7] = [
        Self::NamespaceDeleted,
        Self::PortsRenamed,
        Self::NodeMoved,
        Self::AddressesSwapped,
        Self::PolicyDeleted,
        Self::AlwaysEnforced,
        Self::ReferencesChanged,
    ];

    fn step(self, policies: &[Value]) -> Value {
        match self {
            Self::PeersRelabelled => json!({"apply": [
                pod("x", "b", "c", 80), pod("x", "c", "b", 80), pod("z", "b", "a", 80)]}),
            Self::NamespacesRelabelled => {
                json!({"apply": [namespace("y", None), namespace("z", Some("blue"))]})
            }
            Self::SubjectRelabelled => {
                json!({"apply": [pod("x", "a", "c", 80), pod("x", "c", "a", 80)]})
            }
            Self::NamespaceDeleted => json!({"delete": "Namespace y"}),
            Self::PortsRenamed => {
                json!({"apply": [pod("x", "a", "a", 81), pod("y", "b", "b", 80)]})
            }
            Self::NodeMoved => json!({"apply": [node(["203.0.113.1", "2001:db8::1"])]}),
            Self::AddressesSwapped => {
                let (mut one, mut other) = (pod("x", "b", "b", 80), pod("y", "b", "b", 81));
                std::mem::swap(&mut one["status"], &mut other["status"]);
                json!({"apply": [one, other]})
            }
            Self::PolicyDeleted => {
                let last = policies.last().unwrap();
                let (kind, metadata) = (last["kind"].as_str().unwrap(), &last["metadata"]);
                let name = metadata["name"].as_str().unwrap();
                let namespace = metadata.get("namespace").and_then(Value::as_str);
                let namespace = namespace.map(|namespace| format!("{namespace}/"));
                json!({"delete": format!("{kind} {}{name}", namespace.unwrap_or_default())})
            }
            Self::AlwaysEnforced => json!({"mode": "always"}),
            Self::ReferencesChanged => json!({
                "apply": references("c", ["203.0.113.129", "2001:db8:1::1"]),
                "learned": names(["203.0.113.129", "2001:db8:1::1"])}),
        }
    }
}

fn namespace(name: &str, team: Option<&str>) -> Value {
    let labels = team.map_or(json!({}), |team| json!({"team": team}));
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
}

fn node(addresses: [&str; 2]) -> Value {
    let addresses = addresses.map(|ip| json!({"type": "InternalIP", "address": ip}));
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "other"},
           "status": {"addresses": addresses}})
}

/// A pod whose addresses come from its name, and whose port `web` is as given.
fn pod(namespace: &str, name: &str, app: &str, web: u16) -> Value {
    let place = |text: &str, first: u8| text.as_bytes()[0] - first;
    let (net, host) = (place(namespace, b'x'), place(name, b'a') + 1);
    let ips = [format!("10.0.{net}.{host}"), format!("fd00::{net}:{host}")];
    json!({"apiVersion": "v1", "kind": "Pod",
           "metadata": {"name": name, "namespace": namespace, "labels": {"app": app}},
           "spec": {"containers": [{"name": "c", "ports": [{"name": "web", "containerPort": web}]}]},
           "status": {"podIPs": ips.map(|ip| json!({"ip": ip}))}})
}

/// Two services, the API server and a group. The first service stands for pods, everything else for
/// addresses; the API server is on the other node too.
fn references(app: &str, outside: [&str; 2]) -> Vec<Value> {
    let service = |name: &str, spec: Value| {
        json!({"apiVersion": "v1", "kind": "Service", "spec": spec,
               "metadata": {"name": name, "namespace": "x", "labels": {"kind": name}}})
    };
    let slice = |namespace: &str, service: &str, addresses: &[&str]| {
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
               "metadata": {"name": service, "namespace": namespace,
                            "labels": {"kubernetes.io/service-name": service}},
               "endpoints": [{"addresses": addresses}]})
    };
    let on_node = ["192.168.0.2", "fd00:99::2"];
    vec![
        service("inside", json!({"selector": {"app": app}})),
        service("outside", json!({})),
        slice("x", "outside", &outside),
        slice("default", "kubernetes", &[outside, on_node].concat()),
        json!({"apiVersion": "cilium.io/v2", "kind": "CiliumCIDRGroup",
               "metadata": {"name": "office"}, "spec": {"externalCIDRs": outside}}),
    ]
}

fn names(addresses: [&str; 2]) -> Value {
    json!({"www.example.com": addresses})
}

/// What references stand for at first.
const OUTSIDE: [&str; 2] = ["203.0.113.1", "2001:db8::1"];

const PODS: [&str; 9] = ["x/a", "x/b", "x/c", "y/a", "y/b", "y/c", "z/a", "z/b", "z/c"];
/// Pods that policies of the matrix select at some step.
const SUBJECTS: [&str; 3] = ["x/a", "x/c", "y/a"];

/// Namespaces x, y and z with pods a, b and c each, which have these labels; y is of the blue team.
/// Pods of y call port 81 what others call 80.
fn cluster() -> Vec<Value> {
    let namespaces = [("x", Some("red")), ("y", Some("blue")), ("z", None)];
    let mut objects: Vec<Value> =
        namespaces.iter().map(|(name, team)| namespace(name, *team)).collect();
    objects.push(node(["192.168.0.2", "fd00:99::2"]));
    for name in PODS {
        let (namespace, name) = name.split_once('/').unwrap();
        objects.push(pod(namespace, name, name, if namespace == "y" { 81 } else { 80 }));
    }
    objects.extend(references("b", OUTSIDE));
    objects
}

/// A case, and what changes in its steps before the last one, which restores everything.
struct Case {
    document: Value,
    updates: [Update; 2],
}

/// The case of these policies; `turn` chooses what is not multiplied out.
fn case(policies: &[Policy], turn: usize) -> Case {
    let v6 = turn % 2 == 1;
    let objects = policies.iter().enumerate();
    let objects: Vec<Value> =
        objects.map(|(index, policy)| policy.object(&format!("p{index}"), v6)).collect();
    let (first, second) = (Update::FIRST, Update::SECOND);
    let updates = [first[turn / 2 % first.len()], second[turn / 2 % second.len()]];
    let mut all = cluster();
    all.extend(objects.iter().cloned());
    let restore = json!({"apply": all, "mode": "default", "learned": names(OUTSIDE)});
    let shown = policies.iter().map(|policy| format!("{policy:?}"));
    let document = json!({
        "title": shown.collect::<Vec<_>>().join(", "),
        "host": ["192.168.0.1", "fd00:99::1"],
        "remote": "z/c",
        "learned": names(OUTSIDE),
        "objects": all,
        "rows": rows(policies, v6, turn),
        "steps": [updates[0].step(&objects), updates[1].step(&objects), restore],
    });
    Case { document, updates }
}

/// Every pod, node and outsider with every pod that a policy selects, on ports that the policies
/// name and on others.
fn rows(policies: &[Policy], v6: bool, turn: usize) -> Value {
    let outside = match v6 {
        false => ["192.168.0.1", "192.168.0.2", "203.0.113.1", "203.0.113.129"],
        true => ["fd00:99::1", "fd00:99::2", "2001:db8::1", "2001:db8:1::1"],
    };
    let everyone: Vec<&str> = PODS.into_iter().chain(outside).collect();
    let others: Vec<&str> =
        everyone.iter().copied().filter(|name| !SUBJECTS.contains(name)).collect();
    let echo = if v6 { "icmpv6/128" } else { "icmp/8" };
    let mut on = vec!["80/TCP", "81/TCP"];
    on.push(["80/UDP", "80/SCTP", echo][turn % 3]);
    let by_ports = policies.iter().filter_map(|policy| match policy.ports {
        Ports::Udp | Ports::Any | Ports::Dns => Some("80/UDP"),
        Ports::Sctp => Some("80/SCTP"),
        Ports::Echo => Some(echo),
        _ => None,
    });
    for port in by_ports {
        if !on.contains(&port) {
            on.push(port);
        }
    }
    let family = if v6 { 6 } else { 4 };
    let mut rows = vec![
        json!({"from": SUBJECTS, "to": everyone, "on": on, "family": family}),
        json!({"from": others, "to": SUBJECTS, "on": on, "family": family}),
    ];
    let mut asked = BTreeSet::new();
    for (column, requests) in policies.iter().filter_map(|policy| policy.ports.requests()) {
        let some = ["x/b", "y/b", "y/c", outside[2]];
        let is_new = asked.insert(column);
        for (from, to) in [(json!("x/a"), json!(some)), (json!(some), json!("x/a"))] {
            let on = "80/TCP";
            let row = json!({"from": from, "to": to, "on": on, column: requests, "family": family});
            rows.extend(is_new.then_some(row));
        }
    }
    rows.into()
}

/// All cases.
fn cases() -> Vec<Case> {
    let mut sets = lone_policies();
    sets.extend(conflicts());
    sets.extend(both_ends());
    sets.extend(cilium_peers());
    sets.extend(l7_protocols());
    sets.extend(tiers());
    sets.extend(stacks());
    sets.retain(|set| set.iter().all(|policy| policy.can_be_written()));
    sets.iter().enumerate().map(|(turn, set)| case(set, turn)).collect()
}

/// What policies say if nothing else is asked for.
const POLICY: Policy = Policy {
    kind: Kind::Cilium,
    subject: "a",
    direction: TrafficDirection::Ingress,
    peers: Peers::Anyone,
    ports: Ports::All,
    priority: 10,
};

/// kinds × peers × ports, in turn for ingress and egress.
fn lone_policies() -> Vec<Vec<Policy>> {
    let mut sets = Vec::new();
    for kind in [Kind::NetworkPolicy, Kind::Cilium, Kind::Clusterwide] {
        for (row, peers) in Peers::ALL.into_iter().enumerate() {
            for (column, ports) in Ports::PLAIN.into_iter().chain(Ports::CILIUM).enumerate() {
                let direction = TrafficDirection::ALL[(row + column) % 2];
                sets.push(vec![Policy { kind, direction, peers, ports, ..POLICY }]);
            }
        }
    }
    sets
}

/// A policy and a second one, of any kind, that says something else of the same, of more, of fewer
/// or of other peers and ports.
fn conflicts() -> Vec<Vec<Policy>> {
    let bases = [
        (Kind::NetworkPolicy, Peers::Labelled("b"), Ports::One),
        (Kind::NetworkPolicy, Peers::Anyone, Ports::All),
        (Kind::Cilium, Peers::Labelled("b"), Ports::Range),
        (Kind::Cilium, Peers::OwnNamespace, Ports::Http),
        (Kind::Clusterwide, Peers::Team, Ports::Any),
    ];
    let kinds = [
        Kind::NetworkPolicy,
        Kind::Isolation,
        Kind::Cilium,
        Kind::CiliumDeny,
        Kind::CiliumOpen,
        Kind::ClusterwideDeny,
    ];
    let peers = [Peers::Anyone, Peers::OwnNamespace, Peers::Labelled("b"), Peers::Labelled("c")];
    let mut sets = Vec::new();
    for (row, (kind, base_peers, base_ports)) in bases.into_iter().enumerate() {
        for (column, other_kind) in kinds.into_iter().enumerate() {
            for other_peers in peers {
                for other_ports in [Ports::All, Ports::One, Ports::Http] {
                    let direction = TrafficDirection::ALL[(row + column) % 2];
                    let base =
                        Policy { kind, direction, peers: base_peers, ports: base_ports, ..POLICY };
                    let other =
                        Policy { kind: other_kind, peers: other_peers, ports: other_ports, ..base };
                    sets.push(vec![base, other]);
                }
            }
        }
    }
    sets
}

/// Ingress of one end against egress of the other.
fn both_ends() -> Vec<Vec<Policy>> {
    let kinds = [Kind::NetworkPolicy, Kind::Cilium, Kind::CiliumDeny, Kind::Clusterwide];
    let mut sets = Vec::new();
    for kind in kinds {
        for other_kind in kinds {
            for (ports, other_ports) in
                [(Ports::All, Ports::One), (Ports::One, Ports::All), (Ports::Http, Ports::Http)]
            {
                let direction = TrafficDirection::Ingress;
                let here = Policy { kind, direction, peers: Peers::OwnNamespace, ports, ..POLICY };
                let there = Policy {
                    kind: other_kind,
                    subject: "b",
                    direction: TrafficDirection::Egress,
                    peers: Peers::Labelled("a"),
                    ports: other_ports,
                    ..POLICY
                };
                sets.push(vec![here, there]);
            }
        }
    }
    sets
}

/// Each of the peers that only Cilium knows, allowed, and denied where everything else is allowed.
fn cilium_peers() -> Vec<Vec<Policy>> {
    let mut sets = Vec::new();
    for peers in Peers::CILIUM {
        for direction in TrafficDirection::ALL {
            for ports in [Ports::All, Ports::One, Ports::Http] {
                let allow = Policy { direction, peers, ports, ..POLICY };
                let deny = Policy { kind: Kind::CiliumDeny, ..allow };
                sets.push(vec![allow]);
                sets.push(vec![Policy { direction, ..POLICY }, deny]);
            }
        }
    }
    sets
}

/// Rules of each two L7 protocols, for peers that overlap or not, and at both ends of a flow.
fn l7_protocols() -> Vec<Vec<Policy>> {
    let mut sets = Vec::new();
    for ports in Ports::INSPECTED {
        for other_ports in Ports::INSPECTED {
            let egress = |ports, peers| Policy {
                direction: TrafficDirection::Egress,
                ports,
                peers,
                ..POLICY
            };
            for peers in [Peers::Anyone, Peers::Labelled("b")] {
                sets.push(vec![egress(ports, Peers::OwnNamespace), egress(other_ports, peers)]);
            }
            let open = Policy { kind: Kind::CiliumOpen, ..egress(other_ports, Peers::Anyone) };
            sets.push(vec![egress(ports, Peers::OwnNamespace), open]);
            let there = Policy { subject: "b", ..egress(other_ports, Peers::Labelled("a")) };
            sets.push(vec![Policy { ports, ..POLICY }, there]);
        }
    }
    sets
}

/// ClusterNetworkPolicies of both tiers beside one other policy, beside each other, and alone.
fn tiers() -> Vec<Vec<Policy>> {
    let actions = ["Accept", "Deny", "Pass"];
    let places = || ["Admin", "Baseline"].into_iter().flat_map(|tier| actions.map(|a| (tier, a)));
    let mut sets = Vec::new();
    for (turn, (tier, action)) in places().enumerate() {
        for (row, peers) in Peers::ALL.into_iter().enumerate() {
            let direction = TrafficDirection::ALL[(turn + row) % 2];
            let ports = Ports::PLAIN[(turn + row) % Ports::PLAIN.len()];
            let kind = Kind::Cluster(tier, action);
            let cluster = Policy { kind, direction, peers, ports, ..POLICY };
            sets.push(vec![cluster]);
            for (kind, peers, ports) in [
                (Kind::NetworkPolicy, Peers::Labelled("b"), Ports::One),
                (Kind::Isolation, Peers::Anyone, Ports::All),
                (Kind::CiliumDeny, Peers::Labelled("b"), Ports::One),
                (Kind::CiliumOpen, Peers::OwnNamespace, Ports::Http),
            ] {
                sets.push(vec![cluster, Policy { kind, direction, peers, ports, ..POLICY }]);
            }
        }
        for (other_tier, other_action) in places() {
            // Priorities decide, or names where they are equal.
            for priority in [0, 10, 20] {
                let one = Policy {
                    kind: Kind::Cluster(tier, action),
                    peers: Peers::OwnNamespace,
                    ports: Ports::One,
                    ..POLICY
                };
                let kind = Kind::Cluster(other_tier, other_action);
                let other = Policy { kind, peers: Peers::Labelled("b"), priority, ..one };
                sets.push(vec![one, other]);
            }
        }
    }
    sets
}

/// ClusterNetworkPolicies before and after every kind of policy between their tiers. Of two, the
/// first is for some peers and ports, and the second for all pods.
fn stacks() -> Vec<Vec<Policy>> {
    let normal = [Kind::NetworkPolicy, Kind::Isolation, Kind::CiliumDeny, Kind::CiliumOpen];
    let (admin, baseline) =
        (|action| Kind::Cluster("Admin", action), |action| Kind::Cluster("Baseline", action));
    let stacks = [
        [admin("Deny"), admin("Accept")],
        [admin("Pass"), admin("Deny")],
        [admin("Pass"), baseline("Deny")],
        [baseline("Accept"), baseline("Deny")],
        [baseline("Pass"), baseline("Deny")],
        [baseline("Deny"), admin("Pass")],
    ];
    let mut sets = Vec::new();
    for (row, kind) in normal.into_iter().enumerate() {
        for (column, [one, other]) in stacks.into_iter().enumerate() {
            for (peers, ports) in [
                (Peers::Labelled("b"), Ports::All),
                (Peers::Team, Ports::One),
                (Peers::Team, Ports::Named),
            ] {
                let direction = TrafficDirection::ALL[(row + column) % 2];
                let between = match kind {
                    Kind::Isolation => Peers::Anyone,
                    _ => Peers::OwnNamespace,
                };
                sets.push(vec![
                    Policy { kind, direction, peers: between, ..POLICY },
                    Policy { kind: one, direction, peers, ports, ..POLICY },
                    Policy { kind: other, direction, peers: Peers::EveryNamespace, ..POLICY },
                ]);
            }
        }
    }
    sets
}
