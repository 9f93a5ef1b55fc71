//! A reachability matrix, generated: a small cluster, one or two policies from the product of
//! kinds × directions × peers × ports × actions, and updates of labels, ports, nodes and policies.
//! Each case is a truth table whose rows have no expectation, so all three executors must agree.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use podgate_policy::truth::{self, TruthTable};
use serde_json::{Value, json};

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

/// A flow's direction, as policies of the matrix have it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Side {
    Ingress,
    Egress,
}

impl Side {
    const ALL: [Self; 2] = [Self::Ingress, Self::Egress];

    fn section(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }

    /// What Cilium's and Kubernetes' fields of peers begin with.
    fn prefix(self) -> &'static str {
        match self {
            Self::Ingress => "from",
            Self::Egress => "to",
        }
    }
}

/// Who is at the other end of a rule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Peers {
    Anyone,
    /// Pods of the policy's namespace with one label.
    Labelled(&'static str),
    OwnNamespace,
    EveryNamespace,
    Team,
    /// Namespace and pod in one element.
    TeamAndLabelled,
    /// Namespace and pod in two elements.
    TeamOrLabelled,
    NotLabelled,
    Block,
    BlockWithout,
}

impl Peers {
    const ALL: [Self; 10] = [
        Self::Anyone,
        Self::Labelled("b"),
        Self::OwnNamespace,
        Self::EveryNamespace,
        Self::Team,
        Self::TeamAndLabelled,
        Self::TeamOrLabelled,
        Self::NotLabelled,
        Self::Block,
        Self::BlockWithout,
    ];
}

/// Which ports a rule is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ports {
    All,
    One,
    Range,
    Named,
    Protocol,
    Udp,
    Sctp,
    /// Cilium's ANY.
    Any,
    /// An echo request.
    Echo,
    /// HTTP rules on a port.
    Http,
}

impl Ports {
    const PLAIN: [Self; 7] =
        [Self::All, Self::One, Self::Range, Self::Named, Self::Protocol, Self::Udp, Self::Sctp];
    const CILIUM: [Self; 3] = [Self::Any, Self::Echo, Self::Http];
}

/// What kind of policy, and what its rule does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    NetworkPolicy,
    /// A NetworkPolicy without rules.
    Isolation,
    Cilium,
    CiliumDeny,
    /// A Cilium policy with `enableDefaultDeny` off.
    CiliumOpen,
    Clusterwide,
    ClusterwideDeny,
    /// A ClusterNetworkPolicy: its tier, and the action of its rule.
    Cluster(&'static str, &'static str),
}

/// A policy of the matrix.
#[derive(Clone, Copy, Debug)]
struct Policy {
    kind: Kind,
    /// Value of the label that the policy selects by.
    subject: &'static str,
    side: Side,
    peers: Peers,
    ports: Ports,
}

impl Policy {
    /// Whether there are fields for what the policy says.
    fn can_be_written(self) -> bool {
        match self.kind {
            Kind::NetworkPolicy => !Ports::CILIUM.contains(&self.ports),
            // One is enough.
            Kind::Isolation => self.peers == Peers::Anyone && self.ports == Ports::All,
            Kind::CiliumDeny | Kind::ClusterwideDeny => self.ports != Ports::Http,
            Kind::Cilium | Kind::CiliumOpen | Kind::Clusterwide => true,
            Kind::Cluster(..) => {
                let by_networks = matches!(self.peers, Peers::Anyone | Peers::Block);
                self.peers != Peers::BlockWithout
                    && !Ports::CILIUM.contains(&self.ports)
                    && !(by_networks && (self.side == Side::Ingress || self.ports == Ports::Named))
            }
        }
    }

    fn object(self, name: &str, v6: bool) -> Value {
        match self.kind {
            Kind::NetworkPolicy | Kind::Isolation => self.network_policy(name, v6),
            Kind::Cilium | Kind::CiliumDeny | Kind::CiliumOpen => {
                self.cilium("CiliumNetworkPolicy", name, v6)
            }
            Kind::Clusterwide | Kind::ClusterwideDeny => {
                self.cilium("CiliumClusterwideNetworkPolicy", name, v6)
            }
            Kind::Cluster(tier, action) => self.cluster(tier, action, name, v6),
        }
    }

    /// All have one priority, so their names decide.
    fn cluster(self, tier: &str, action: &str, name: &str, v6: bool) -> Value {
        let label = |app| json!({"podSelector": {"matchLabels": {"app": app}}});
        let team = json!({"matchLabels": {"team": "blue"}});
        let peers = match self.peers {
            Peers::Anyone => json!([{"networks": ["0.0.0.0/0", "::/0"]}]),
            Peers::Labelled(app) => json!([{"pods": label(app)}]),
            Peers::OwnNamespace => {
                json!([{"namespaces": {"matchLabels": {"kubernetes.io/metadata.name": "x"}}}])
            }
            Peers::EveryNamespace => json!([{"namespaces": {}}]),
            Peers::Team => json!([{"namespaces": team}]),
            Peers::TeamAndLabelled => {
                let mut both = label("b");
                both["namespaceSelector"] = team;
                json!([{"pods": both}])
            }
            Peers::TeamOrLabelled => json!([{"namespaces": team}, {"pods": label("b")}]),
            Peers::NotLabelled => json!([{"pods": {"podSelector": {"matchExpressions": [
                {"key": "app", "operator": "NotIn", "values": ["b"]}]}}}]),
            Peers::Block | Peers::BlockWithout => {
                json!([{"networks": [block(v6, false)["cidr"].clone()]}])
            }
        };
        let one = |transport: &str| json!([{transport: {"destinationPort": {"number": 80}}}]);
        let range =
            |end: u16| json!([{"tcp": {"destinationPort": {"range": {"start": 80, "end": end}}}}]);
        let mut rule = json!({"action": action, self.side.prefix(): peers});
        match self.ports {
            Ports::One => rule["protocols"] = one("tcp"),
            Ports::Range => rule["protocols"] = range(81),
            Ports::Protocol => rule["protocols"] = range(u16::MAX),
            Ports::Named => rule["protocols"] = json!([{"destinationNamedPort": "web"}]),
            Ports::Udp => rule["protocols"] = one("udp"),
            Ports::Sctp => rule["protocols"] = one("sctp"),
            Ports::All | Ports::Any | Ports::Echo | Ports::Http => {}
        }
        json!({"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
               "metadata": {"name": name},
               "spec": {"tier": tier, "priority": 10, "subject": {"pods": label(self.subject)},
                        self.side.section(): [rule]}})
    }

    fn network_policy(self, name: &str, v6: bool) -> Value {
        let label = |app| json!({"podSelector": {"matchLabels": {"app": app}}});
        let team = json!({"namespaceSelector": {"matchLabels": {"team": "blue"}}});
        let peers = match self.peers {
            Peers::Anyone => json!([]),
            Peers::Labelled(app) => json!([label(app)]),
            Peers::OwnNamespace => json!([{"podSelector": {}}]),
            Peers::EveryNamespace => json!([{"namespaceSelector": {}}]),
            Peers::Team => json!([team]),
            Peers::TeamAndLabelled => {
                let mut both = team;
                both["podSelector"] = label("b")["podSelector"].clone();
                json!([both])
            }
            Peers::TeamOrLabelled => json!([team, label("b")]),
            Peers::NotLabelled => json!([{"podSelector": {"matchExpressions": [
                {"key": "app", "operator": "NotIn", "values": ["b"]}]}}]),
            Peers::Block => json!([{"ipBlock": block(v6, false)}]),
            Peers::BlockWithout => json!([{"ipBlock": block(v6, true)}]),
        };
        let ports = match self.ports {
            Ports::One => json!([{"port": 80}]),
            Ports::Range => json!([{"port": 80, "endPort": 81}]),
            Ports::Named => json!([{"port": "web"}]),
            Ports::Protocol => json!([{"protocol": "TCP"}]),
            Ports::Udp => json!([{"port": 80, "protocol": "UDP"}]),
            Ports::Sctp => json!([{"port": 80, "protocol": "SCTP"}]),
            Ports::All | Ports::Any | Ports::Echo | Ports::Http => json!([]),
        };
        let section = self.side.section();
        let types = match self.side {
            Side::Ingress => json!(["Ingress"]),
            Side::Egress => json!(["Egress"]),
        };
        let rules = match self.kind {
            Kind::Isolation => json!([]),
            _ => json!([{self.side.prefix(): peers, "ports": ports}]),
        };
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
               "metadata": {"name": name, "namespace": "x"},
               "spec": {"podSelector": {"matchLabels": {"app": self.subject}}, "policyTypes": types,
                        section: rules}})
    }

    fn cilium(self, kind: &str, name: &str, v6: bool) -> Value {
        const TEAM: &str = "io.cilium.k8s.namespace.labels.team";
        let label = |app| json!({"matchLabels": {"app": app}});
        let team = json!({"matchLabels": {TEAM: "blue"}});
        let (field, peers) = match self.peers {
            Peers::Anyone => ("Entities", json!(["all"])),
            Peers::Labelled(app) => ("Endpoints", json!([label(app)])),
            Peers::OwnNamespace => ("Endpoints", json!([{}])),
            Peers::EveryNamespace => (
                "Endpoints",
                json!([{"matchExpressions": [
                {"key": "io.kubernetes.pod.namespace", "operator": "Exists"}]}]),
            ),
            Peers::Team => ("Endpoints", json!([team])),
            Peers::TeamAndLabelled => {
                ("Endpoints", json!([{"matchLabels": {TEAM: "blue", "app": "b"}}]))
            }
            Peers::TeamOrLabelled => ("Endpoints", json!([team, label("b")])),
            Peers::NotLabelled => (
                "Endpoints",
                json!([{"matchExpressions": [
                {"key": "app", "operator": "NotIn", "values": ["b"]}]}]),
            ),
            Peers::Block => ("CIDRSet", json!([block(v6, false)])),
            Peers::BlockWithout => ("CIDRSet", json!([block(v6, true)])),
        };
        let mut rule = json!({format!("{}{field}", self.side.prefix()): peers});
        let ports =
            |port: &str, protocol: &str| json!([{"ports": [{"port": port, "protocol": protocol}]}]);
        match self.ports {
            Ports::All => {}
            Ports::One => rule["toPorts"] = ports("80", "TCP"),
            Ports::Range => {
                rule["toPorts"] = ports("80", "TCP");
                rule["toPorts"][0]["ports"][0]["endPort"] = 81.into();
            }
            Ports::Named => rule["toPorts"] = ports("web", "TCP"),
            Ports::Protocol => rule["toPorts"] = ports("0", "TCP"),
            Ports::Udp => rule["toPorts"] = ports("80", "UDP"),
            Ports::Sctp => rule["toPorts"] = ports("80", "SCTP"),
            Ports::Any => rule["toPorts"] = ports("80", "ANY"),
            Ports::Echo => {
                let family = if v6 { "IPv6" } else { "IPv4" };
                let field = json!({"type": "EchoRequest", "family": family});
                rule["icmps"] = json!([{"fields": [field]}]);
            }
            Ports::Http => {
                rule["toPorts"] = ports("80", "TCP");
                rule["toPorts"][0]["rules"] = json!({"http": [{"method": "GET"}]});
            }
        }
        let deny = matches!(self.kind, Kind::CiliumDeny | Kind::ClusterwideDeny);
        let section = format!("{}{}", self.side.section(), if deny { "Deny" } else { "" });
        let mut spec =
            json!({"endpointSelector": {"matchLabels": {"app": self.subject}}, section: [rule]});
        if self.kind == Kind::CiliumOpen {
            spec["enableDefaultDeny"] = json!({self.side.section(): false});
        }
        let mut metadata = json!({"name": name});
        if kind == "CiliumNetworkPolicy" {
            metadata["namespace"] = "x".into();
        }
        json!({"apiVersion": "cilium.io/v2", "kind": kind, "metadata": metadata, "spec": spec})
    }
}

/// Pods of y, and half of a network outside; `except` leaves out y's pod b.
fn block(v6: bool, except: bool) -> Value {
    match (v6, except) {
        (false, false) => json!({"cidr": "10.0.1.0/24"}),
        (false, true) => {
            json!({"cidr": "0.0.0.0/0", "except": ["10.0.1.2/32", "203.0.113.128/25"]})
        }
        (true, false) => json!({"cidr": "fd00::1:0/112"}),
        (true, true) => json!({"cidr": "::/0", "except": ["fd00::1:2/128", "2001:db8:1::/48"]}),
    }
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
}

impl Update {
    /// Labels, in turn with everything else.
    const FIRST: [Self; 3] =
        [Self::PeersRelabelled, Self::NamespacesRelabelled, Self::SubjectRelabelled];
    const SECOND: [Self; 6] = [
        Self::NamespaceDeleted,
        Self::PortsRenamed,
        Self::NodeMoved,
        Self::AddressesSwapped,
        Self::PolicyDeleted,
        Self::AlwaysEnforced,
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
    let restore = json!({"apply": all, "mode": "default"});
    let shown = policies.iter().map(|policy| format!("{policy:?}"));
    let document = json!({
        "title": shown.collect::<Vec<_>>().join(", "),
        "host": ["192.168.0.1", "fd00:99::1"],
        "remote": "z/c",
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
        Ports::Udp | Ports::Any => Some("80/UDP"),
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
    if policies.iter().any(|policy| policy.ports == Ports::Http) {
        let http = ["GET /", "POST /"];
        let some = ["x/b", "y/b", "y/c", outside[2]];
        rows.push(
            json!({"from": "x/a", "to": some, "on": "80/TCP", "http": http, "family": family}),
        );
        rows.push(
            json!({"from": some, "to": "x/a", "on": "80/TCP", "http": http, "family": family}),
        );
    }
    rows.into()
}

/// All cases.
fn cases() -> Vec<Case> {
    let mut sets = lone_policies();
    sets.extend(conflicts());
    sets.extend(tiers());
    sets.extend(both_ends());
    sets.retain(|set| set.iter().all(|policy| policy.can_be_written()));
    sets.iter().enumerate().map(|(turn, set)| case(set, turn)).collect()
}

/// kinds × peers × ports, in turn for ingress and egress.
fn lone_policies() -> Vec<Vec<Policy>> {
    let mut sets = Vec::new();
    let kinds =
        [Kind::NetworkPolicy, Kind::Cilium, Kind::Clusterwide, Kind::Cluster("Admin", "Deny")];
    for kind in kinds {
        for (row, peers) in Peers::ALL.into_iter().enumerate() {
            for (column, ports) in Ports::PLAIN.into_iter().chain(Ports::CILIUM).enumerate() {
                let side = Side::ALL[(row + column) % 2];
                sets.push(vec![Policy { kind, subject: "a", side, peers, ports }]);
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
                    let side = Side::ALL[(row + column) % 2];
                    let base =
                        Policy { kind, subject: "a", side, peers: base_peers, ports: base_ports };
                    let other =
                        Policy { kind: other_kind, peers: other_peers, ports: other_ports, ..base };
                    sets.push(vec![base, other]);
                }
            }
        }
    }
    sets
}

/// ClusterNetworkPolicies before and after every kind of policy between their tiers. Of two, the
/// first is about some peers and ports, and the second about all pods.
fn tiers() -> Vec<Vec<Policy>> {
    let normal = [Kind::NetworkPolicy, Kind::Isolation, Kind::CiliumDeny, Kind::CiliumOpen];
    let (admin, baseline) =
        (|action| Kind::Cluster("Admin", action), |action| Kind::Cluster("Baseline", action));
    let stacks: [&[Kind]; 7] = [
        &[admin("Accept")],
        &[admin("Deny"), admin("Accept")],
        &[admin("Pass"), admin("Deny")],
        &[admin("Pass"), baseline("Deny")],
        &[baseline("Accept"), baseline("Deny")],
        &[baseline("Pass"), baseline("Deny")],
        &[baseline("Deny"), admin("Pass")],
    ];
    let mut sets = Vec::new();
    for (row, kind) in normal.into_iter().enumerate() {
        for (column, stack) in stacks.into_iter().enumerate() {
            for (peers, ports) in [
                (Peers::Labelled("b"), Ports::All),
                (Peers::Team, Ports::One),
                (Peers::Team, Ports::Named),
            ] {
                let side = Side::ALL[(row + column) % 2];
                let (subject, everyone) = ("a", Peers::EveryNamespace);
                let between = match kind {
                    Kind::Isolation => Peers::Anyone,
                    _ => Peers::OwnNamespace,
                };
                let mut set =
                    vec![Policy { kind, subject, side, peers: between, ports: Ports::All }];
                for (index, kind) in stack.iter().copied().enumerate() {
                    let (peers, ports) =
                        if index == 0 { (peers, ports) } else { (everyone, Ports::All) };
                    set.push(Policy { kind, subject, side, peers, ports });
                }
                sets.push(set);
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
                let side = Side::Ingress;
                let here = Policy { kind, subject: "a", side, peers: Peers::OwnNamespace, ports };
                let there = Policy {
                    kind: other_kind,
                    subject: "b",
                    side: Side::Egress,
                    peers: Peers::Labelled("a"),
                    ports: other_ports,
                };
                sets.push(vec![here, there]);
            }
        }
    }
    sets
}
