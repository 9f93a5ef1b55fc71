//! Policies of the matrix, and how each kind of object writes them.

use serde_json::{Value, json};

/// A flow's direction, as policies of the matrix have it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum TrafficDirection {
    Ingress,
    Egress,
}

impl TrafficDirection {
    pub(super) const ALL: [Self; 2] = [Self::Ingress, Self::Egress];

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
pub(super) enum Peers {
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
    /// One of Cilium's entities.
    Entity(&'static str),
    /// Services, one with a selector and one with addresses.
    Services,
    /// A group of networks, but for some addresses.
    Group,
    /// A DNS name.
    Name,
}

impl Peers {
    pub(super) const ALL: [Self; 10] = [
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

    /// Those that only Cilium's policies know.
    pub(super) const CILIUM: [Self; 10] = [
        Self::Entity("world"),
        Self::Entity("world-ipv6"),
        Self::Entity("cluster"),
        Self::Entity("host"),
        Self::Entity("remote-node"),
        Self::Entity("kube-apiserver"),
        Self::Entity("none"),
        Self::Services,
        Self::Group,
        Self::Name,
    ];
}

/// The ports that a rule matches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ports {
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
    /// L7 rules on a port.
    Http,
    Kafka,
    Dns,
    ServerNames,
}

impl Ports {
    pub(super) const PLAIN: [Self; 7] =
        [Self::All, Self::One, Self::Range, Self::Named, Self::Protocol, Self::Udp, Self::Sctp];
    pub(super) const CILIUM: [Self; 3] = [Self::Any, Self::Echo, Self::Http];
    pub(super) const INSPECTED: [Self; 4] = [Self::Http, Self::Kafka, Self::Dns, Self::ServerNames];

    /// Requests that are asked about where policies have such rules: a column, and what it holds.
    pub(super) fn requests(self) -> Option<(&'static str, [&'static str; 2])> {
        match self {
            Self::Http => Some(("http", ["GET /", "POST /"])),
            Self::Kafka => Some(("kafka", ["produce orders", "produce logs"])),
            Self::Dns => Some(("dns", ["www.example.com", "www.example.org"])),
            Self::ServerNames => Some(("sni", ["www.example.com", "www.example.org"])),
            _ => None,
        }
    }
}

/// What kind of policy, and what its rule does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    NetworkPolicy,
    /// A NetworkPolicy without rules.
    Isolation,
    Cilium,
    CiliumDeny,
    /// A Cilium policy with `enableDefaultDeny` off.
    CiliumOpen,
    Clusterwide,
    ClusterwideDeny,
    /// A ClusterNetworkPolicy of this tier with this action.
    Cluster(&'static str, &'static str),
}

/// A policy of the matrix.
#[derive(Clone, Copy, Debug)]
pub(super) struct Policy {
    pub(super) kind: Kind,
    /// Value of the label that the policy selects by.
    pub(super) subject: &'static str,
    pub(super) direction: TrafficDirection,
    pub(super) peers: Peers,
    pub(super) ports: Ports,
    /// Priority of a ClusterNetworkPolicy.
    pub(super) priority: u16,
}

impl Policy {
    /// Whether there are fields for what the policy says.
    pub(super) fn can_be_written(self) -> bool {
        let is_known_to_all =
            Ports::PLAIN.contains(&self.ports) && !Peers::CILIUM.contains(&self.peers);
        let is_inspected = Ports::INSPECTED.contains(&self.ports);
        let is_egress = self.direction == TrafficDirection::Egress;
        match self.kind {
            Kind::NetworkPolicy => is_known_to_all,
            // One is enough.
            Kind::Isolation => self.peers == Peers::Anyone && self.ports == Ports::All,
            Kind::CiliumDeny | Kind::ClusterwideDeny => {
                !is_inspected
                    && (self.peers != Peers::Services || is_egress)
                    && self.peers != Peers::Name
            }
            Kind::Cilium | Kind::CiliumOpen | Kind::Clusterwide => {
                let for_egress = [Peers::Services, Peers::Name].contains(&self.peers)
                    || self.ports == Ports::Dns;
                !for_egress || is_egress
            }
            Kind::Cluster(..) => {
                let networks = self.peers == Peers::Block;
                is_known_to_all
                    && self.peers != Peers::BlockWithout
                    && self.ports != Ports::Protocol
                    && !(networks && (!is_egress || self.ports == Ports::Named))
            }
        }
    }

    pub(super) fn object(self, name: &str, v6: bool) -> Value {
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
            other => unreachable!("{other:?} can't be written"),
        };
        let ports = match self.ports {
            Ports::One => json!([{"port": 80}]),
            Ports::Range => json!([{"port": 80, "endPort": 81}]),
            Ports::Named => json!([{"port": "web"}]),
            Ports::Protocol => json!([{"protocol": "TCP"}]),
            Ports::Udp => json!([{"port": 80, "protocol": "UDP"}]),
            Ports::Sctp => json!([{"port": 80, "protocol": "SCTP"}]),
            _ => json!([]),
        };
        let section = self.direction.section();
        let types = match self.direction {
            TrafficDirection::Ingress => json!(["Ingress"]),
            TrafficDirection::Egress => json!(["Egress"]),
        };
        let rules = match self.kind {
            Kind::Isolation => json!([]),
            _ => json!([{self.direction.prefix(): peers, "ports": ports}]),
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
            Peers::Entity(name) => ("Entities", json!([name])),
            Peers::Services => (
                "Services",
                json!([
                {"k8sService": {"serviceName": "inside", "namespace": "x"}},
                {"k8sServiceSelector": {"selector": {"matchLabels": {"kind": "outside"}}}}]),
            ),
            Peers::Group => (
                "CIDRSet",
                json!([{"cidrGroupRef": "office",
                "except": ["203.0.113.2/32", "2001:db8::2/128"]}]),
            ),
            Peers::Name => ("FQDNs", json!([{"matchPattern": "*.example.com"}])),
        };
        let mut rule = json!({format!("{}{field}", self.direction.prefix()): peers});
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
            Ports::Kafka => {
                rule["toPorts"] = ports("80", "TCP");
                rule["toPorts"][0]["rules"] = json!({"kafka": [{"topic": "orders"}]});
            }
            Ports::Dns => {
                rule["toPorts"] = ports("80", "ANY");
                rule["toPorts"][0]["rules"] = json!({"dns": [{"matchPattern": "*.example.com"}]});
            }
            Ports::ServerNames => {
                rule["toPorts"] = ports("80", "TCP");
                rule["toPorts"][0]["serverNames"] = json!(["*.example.com"]);
            }
        }
        let deny = matches!(self.kind, Kind::CiliumDeny | Kind::ClusterwideDeny);
        let section = format!("{}{}", self.direction.section(), if deny { "Deny" } else { "" });
        let mut spec =
            json!({"endpointSelector": {"matchLabels": {"app": self.subject}}, section: [rule]});
        if self.kind == Kind::CiliumOpen {
            spec["enableDefaultDeny"] = json!({self.direction.section(): false});
        }
        let mut metadata = json!({"name": name});
        if kind == "CiliumNetworkPolicy" {
            metadata["namespace"] = "x".into();
        }
        json!({"apiVersion": "cilium.io/v2", "kind": kind, "metadata": metadata, "spec": spec})
    }

    fn cluster(self, tier: &str, action: &str, name: &str, v6: bool) -> Value {
        let pods = |namespaces: Value, pods: Value| json!({"pods": {"namespaceSelector": namespaces, "podSelector": pods}});
        let label = |app| json!({"matchLabels": {"app": app}});
        let own = json!({"matchLabels": {"kubernetes.io/metadata.name": "x"}});
        let team = json!({"matchLabels": {"team": "blue"}});
        let peers = match self.peers {
            Peers::Labelled(app) => json!([pods(own, label(app))]),
            Peers::OwnNamespace => json!([{"namespaces": own}]),
            Peers::Team => json!([{"namespaces": team}]),
            Peers::TeamAndLabelled => json!([pods(team, label("b"))]),
            Peers::TeamOrLabelled => json!([{"namespaces": team}, pods(own, label("b"))]),
            Peers::NotLabelled => {
                let not = json!({"matchExpressions": [
                    {"key": "app", "operator": "NotIn", "values": ["b"]}]});
                json!([pods(own, not)])
            }
            Peers::Block => json!([{"networks": [block(v6, false)["cidr"]]}]),
            Peers::Anyone
                if self.direction == TrafficDirection::Egress && self.ports != Ports::Named =>
            {
                json!([{"networks": ["0.0.0.0/0", "::/0"]}])
            }
            _ => json!([{"namespaces": {}}]),
        };
        let one = |protocol: &str| json!([{protocol: {"destinationPort": {"number": 80}}}]);
        let protocols = match self.ports {
            Ports::One => one("tcp"),
            Ports::Udp => one("udp"),
            Ports::Sctp => one("sctp"),
            Ports::Range => {
                json!([{"tcp": {"destinationPort": {"range": {"start": 80, "end": 81}}}}])
            }
            Ports::Named => json!([{"destinationNamedPort": "web"}]),
            _ => Value::Null,
        };
        let mut rule = json!({"action": action, self.direction.prefix(): peers});
        if !protocols.is_null() {
            rule["protocols"] = protocols;
        }
        json!({"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
               "metadata": {"name": name},
               "spec": {"tier": tier, "priority": self.priority,
                        "subject": pods(json!({}), label(self.subject)),
                        self.direction.section(): [rule]}})
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
