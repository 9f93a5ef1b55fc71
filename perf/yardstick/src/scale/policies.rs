//! The policies of the cluster, of all common kinds.

use fastrand::Rng;
use serde_json::{Value, json};

use super::cluster::{APPS, Cluster, ENVIRONMENTS, METRICS_PORT, Purpose};

/// Kinds of NetworkPolicies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum PolicyKind {
    /// Denies all ingress of the namespace.
    DenyIngress,
    /// Denies all ingress and egress of the namespace.
    DenyAll,
    /// Allows ingress from pods of the namespace.
    SameNamespace,
    /// Allows ingress to one app from another one of the namespace.
    AppToApp,
    /// The same, with a named port.
    NamedPort,
    /// Allows ingress to an app from the namespaces of a team.
    FromTeam,
    /// Allows ingress to the metrics port from pods of all namespaces.
    FromEverywhere,
    /// Allows ingress from an app in the namespaces of an environment.
    FromAppOfEnvironment,
    /// Allows egress to the cluster's name servers.
    ToNameServers,
    /// Allows egress of an app to addresses outside of the cluster.
    ToWorld,
    /// Allows ingress from office networks to a range of ports.
    FromOffices,
    /// Has a selector with expressions.
    Expressions,
    /// Allows egress of an app only to another one.
    EgressToApp,
}

impl PolicyKind {
    pub(super) const ALL: [Self; 13] = [
        Self::DenyIngress,
        Self::SameNamespace,
        Self::AppToApp,
        Self::NamedPort,
        Self::FromTeam,
        Self::FromEverywhere,
        Self::FromAppOfEnvironment,
        Self::ToNameServers,
        Self::ToWorld,
        Self::FromOffices,
        Self::Expressions,
        Self::EgressToApp,
        Self::DenyAll,
    ];
}

impl Cluster {
    /// Policy number `index`, of which there are many versions.
    pub(super) fn policy(&self, index: u32, version: u32) -> Value {
        let (namespace, ordinal) = (index % self.size.namespaces, index / self.size.namespaces);
        let kind = PolicyKind::ALL[(namespace + ordinal) as usize % PolicyKind::ALL.len()];
        let mut rng = self.rng(Purpose::Policy, index);
        let seed = rng.u64(..) ^ u64::from(version);
        rng.seed(seed);
        network_policy(namespace, &format!("policy-{ordinal}"), &self.spec(kind, &mut rng))
    }

    fn spec(&self, kind: PolicyKind, rng: &mut Rng) -> Value {
        let team = self.team(rng.u32(..self.size.namespaces));
        let environment = ENVIRONMENTS[rng.usize(..ENVIRONMENTS.len())];
        let [one, other] = [(); 2].map(|()| &APPS[rng.usize(..APPS.len())]);
        let port = rng.u16(8000..8100);
        let (everyone, subject) = (json!({}), app_selector(one.name));
        let caller = app_selector(other.name);
        match kind {
            PolicyKind::DenyIngress => json!({"podSelector": everyone, "policyTypes": ["Ingress"]}),
            PolicyKind::DenyAll => {
                json!({"podSelector": everyone, "policyTypes": ["Ingress", "Egress"]})
            }
            PolicyKind::SameNamespace => {
                ingress(&everyone, &json!([{"podSelector": {}}]), &json!([]))
            }
            PolicyKind::AppToApp => ingress(
                &subject,
                &json!([{"podSelector": caller}]),
                &json!([{"port": port}, {"port": METRICS_PORT}]),
            ),
            PolicyKind::NamedPort => ingress(
                &subject,
                &json!([{"podSelector": caller}, {"podSelector": {"matchLabels": {"tier": "frontend"}}}]),
                &json!([{"port": one.port_name}, {"port": "metrics"}]),
            ),
            PolicyKind::FromTeam => ingress(
                &subject,
                &json!([{"namespaceSelector": {"matchLabels": {"team": team}}}]),
                &json!([{"port": one.port_name}, {"port": port, "protocol": "UDP"}]),
            ),
            PolicyKind::FromEverywhere => ingress(
                &everyone,
                &json!([{"namespaceSelector": {}}]),
                &json!([{"port": METRICS_PORT}]),
            ),
            PolicyKind::FromAppOfEnvironment => ingress(
                &subject,
                &json!([{"namespaceSelector": {"matchLabels": {"env": environment}},
                        "podSelector": caller}]),
                &json!([{"port": port}]),
            ),
            PolicyKind::ToNameServers => to_name_servers(),
            PolicyKind::ToWorld => to_world(&subject),
            PolicyKind::FromOffices => from_offices(&subject, rng.u8(..), port),
            PolicyKind::Expressions => expressions(environment, other.name, port),
            PolicyKind::EgressToApp => egress(
                &subject,
                &json!([{"podSelector": caller}]),
                &json!([{"port": other.port_name}]),
            ),
        }
    }
}

fn to_name_servers() -> Value {
    let name_servers = json!([{
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
        "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
    }]);
    egress(&json!({}), &name_servers, &json!([{"port": 53, "protocol": "UDP"}, {"port": 53}]))
}

fn to_world(subject: &Value) -> Value {
    let world = json!([
        {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8", "169.254.169.254/32"]}},
        {"ipBlock": {"cidr": "::/0", "except": ["fd00::/8"]}},
    ]);
    egress(subject, &world, &json!([{"port": 443}]))
}

fn from_offices(subject: &Value, office: u8, port: u16) -> Value {
    let networks = json!([{"ipBlock": {
        "cidr": format!("198.51.{office}.0/24"),
        "except": [format!("198.51.{office}.128/25")],
    }}]);
    ingress(subject, &networks, &json!([{"port": port, "endPort": port + 50}]))
}

fn expressions(environment: &str, other: &str, port: u16) -> Value {
    let subject = json!({"matchExpressions": [
        {"key": "tier", "operator": "In", "values": ["backend", "data"]},
        {"key": "version", "operator": "NotIn", "values": ["v3"]},
    ]});
    let peers = json!([{
        "namespaceSelector": {"matchExpressions": [
            {"key": "env", "operator": "In", "values": [environment, "prod"]},
            {"key": "team", "operator": "Exists"}]},
        "podSelector": {"matchExpressions": [
            {"key": "app", "operator": "NotIn", "values": [other]},
            {"key": "quarantine", "operator": "DoesNotExist"}]},
    }]);
    ingress(&subject, &peers, &json!([{"port": port}]))
}

/// The broadest policy for one namespace: for all its pods and both directions, with the pods of
/// all namespaces as peers, by a selector that no other policy has. Each `key` makes another one.
pub(super) fn broadest(namespace: u32, key: u32) -> Value {
    let selector = json!({
        "namespaceSelector": {"matchExpressions": [
            {"key": format!("never-set-{key}"), "operator": "DoesNotExist"}]},
    });
    let spec = json!({
        "podSelector": {},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": [selector]}],
        "egress": [{"to": [selector]}],
    });
    network_policy(namespace, "broadest", &spec)
}

/// A policy that selects every pod of the cluster. Each `port` makes another one.
pub(super) fn clusterwide(port: u16) -> Value {
    json!({
        "apiVersion": "cilium.io/v2", "kind": "CiliumClusterwideNetworkPolicy",
        "metadata": {"name": "everyone"},
        "spec": {
            "endpointSelector": {},
            "ingress": [{
                "fromEndpoints": [{"matchLabels": {"k8s:io.kubernetes.pod.namespace": "monitoring"}}],
                "toPorts": [{"ports": [{"port": port.to_string(), "protocol": "TCP"}]}],
            }],
        },
    })
}

fn network_policy(namespace: u32, name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": Cluster::namespace_name(namespace)},
        "spec": spec,
    })
}

fn app_selector(name: &str) -> Value {
    json!({"matchLabels": {"app": name}})
}

fn ingress(subject: &Value, from: &Value, ports: &Value) -> Value {
    json!({"podSelector": subject, "ingress": [{"from": from, "ports": ports}]})
}

/// With `policyTypes`, as the API server sets it.
fn egress(subject: &Value, to: &Value, ports: &Value) -> Value {
    json!({
        "podSelector": subject,
        "policyTypes": ["Egress"],
        "egress": [{"to": to, "ports": ports}],
    })
}

#[cfg(test)]
mod tests {
    use super::super::cluster::{Labels, Size};
    use super::*;

    #[test]
    fn the_policies_have_every_kind_and_every_kind_of_peer_and_port() {
        let size = Size { namespaces: 10, pods: 100, policies: 100 };
        let cluster = Cluster { size, labels: Labels::Shared, seed: 1 };
        let policies: Vec<String> =
            (0..size.policies).map(|index| cluster.policy(index, 0).to_string()).collect();
        for part in [
            r#""policyTypes":["Ingress"]}"#,
            r#""policyTypes":["Ingress","Egress"]}"#,
            r#""from":[{"podSelector":{}}]"#,
            r#""from":[{"podSelector":{"matchLabels""#,
            r#""namespaceSelector":{}"#,
            r#""namespaceSelector":{"matchLabels":{"team""#,
            r#""namespaceSelector":{"matchLabels":{"env""#,
            r#""operator":"In""#,
            r#""operator":"NotIn""#,
            r#""operator":"Exists""#,
            r#""operator":"DoesNotExist""#,
            r#""except":["#,
            r#""::/0""#,
            r#""endPort":"#,
            r#""port":"http""#,
            r#""port":"metrics""#,
            r#""protocol":"UDP""#,
            r#""podSelector":{}"#,
        ] {
            assert!(policies.iter().any(|policy| policy.contains(part)), "{part}");
        }
        let both = |policy: &&String| {
            policy.contains(r#""namespaceSelector":{"matchLabels":{"env":"#)
                && policy.contains(r#","podSelector":{"matchLabels":{"app":"#)
        };
        assert!(policies.iter().any(|policy| both(&policy)));
    }
}
