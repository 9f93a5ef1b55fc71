//! The policies of the cluster: some of every sort that people write.

use fastrand::Rng;
use serde_json::{Value, json};

use super::cluster::{APPS, Cluster, ENVIRONMENTS, METRICS_PORT, Of};

/// What a NetworkPolicy is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sort {
    /// Nobody may call any pod of the namespace.
    DenyIngress,
    /// Nor may they call anyone.
    DenyAll,
    /// Pods of the namespace may call each other.
    SameNamespace,
    /// One app may call another one of the namespace.
    AppToApp,
    /// The same, with the port by its name.
    NamedPort,
    /// Namespaces of a team may call an app.
    FromTeam,
    /// Pods of all namespaces may read metrics.
    FromEverywhere,
    /// An app of namespaces of an environment may call.
    FromAppOfEnvironment,
    /// Everybody may ask the cluster's name servers.
    ToNameServers,
    /// An app may call what is outside of the cluster.
    ToWorld,
    /// Offices may call a range of ports.
    FromOffices,
    /// A selector with expressions.
    Expressions,
    /// An app may call another one, and nothing else.
    EgressToApp,
}

impl Sort {
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
    /// The policy number `index`; of one number there are many versions.
    pub(super) fn policy(&self, index: u32, version: u32) -> Value {
        let (namespace, ordinal) = (index % self.size.namespaces, index / self.size.namespaces);
        let sort = Sort::ALL[(namespace + ordinal) as usize % Sort::ALL.len()];
        let mut rng = self.rng(Of::Policy, index);
        let seed = rng.u64(..) ^ u64::from(version);
        rng.seed(seed);
        network_policy(namespace, &format!("policy-{ordinal}"), &self.spec(sort, &mut rng))
    }

    fn spec(&self, sort: Sort, rng: &mut Rng) -> Value {
        let team = self.team(rng.u32(..self.size.namespaces));
        let environment = ENVIRONMENTS[rng.usize(..ENVIRONMENTS.len())];
        let [one, other] = [(); 2].map(|()| &APPS[rng.usize(..APPS.len())]);
        let port = rng.u16(8000..8100);
        let (everyone, subject) = (json!({}), app_selector(one.name));
        let caller = app_selector(other.name);
        match sort {
            Sort::DenyIngress => json!({"podSelector": everyone, "policyTypes": ["Ingress"]}),
            Sort::DenyAll => {
                json!({"podSelector": everyone, "policyTypes": ["Ingress", "Egress"]})
            }
            Sort::SameNamespace => ingress(&everyone, &json!([{"podSelector": {}}]), &json!([])),
            Sort::AppToApp => ingress(
                &subject,
                &json!([{"podSelector": caller}]),
                &json!([{"port": port}, {"port": METRICS_PORT}]),
            ),
            Sort::NamedPort => ingress(
                &subject,
                &json!([{"podSelector": caller}, {"podSelector": {"matchLabels": {"tier": "frontend"}}}]),
                &json!([{"port": one.port_name}, {"port": "metrics"}]),
            ),
            Sort::FromTeam => ingress(
                &subject,
                &json!([{"namespaceSelector": {"matchLabels": {"team": team}}}]),
                &json!([{"port": one.port_name}, {"port": port, "protocol": "UDP"}]),
            ),
            Sort::FromEverywhere => ingress(
                &everyone,
                &json!([{"namespaceSelector": {}}]),
                &json!([{"port": METRICS_PORT}]),
            ),
            Sort::FromAppOfEnvironment => ingress(
                &subject,
                &json!([{"namespaceSelector": {"matchLabels": {"env": environment}},
                        "podSelector": caller}]),
                &json!([{"port": port}]),
            ),
            Sort::ToNameServers => egress(
                &everyone,
                &json!([{
                    "namespaceSelector":
                        {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
                    "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
                }]),
                &json!([{"port": 53, "protocol": "UDP"}, {"port": 53}]),
            ),
            Sort::ToWorld => egress(
                &subject,
                &json!([
                    {"ipBlock": {"cidr": "0.0.0.0/0",
                                 "except": ["10.0.0.0/8", "169.254.169.254/32"]}},
                    {"ipBlock": {"cidr": "::/0", "except": ["fd00::/8"]}},
                ]),
                &json!([{"port": 443}]),
            ),
            Sort::FromOffices => {
                let office = rng.u8(..);
                ingress(
                    &subject,
                    &json!([{"ipBlock": {"cidr": format!("198.51.{office}.0/24"),
                                        "except": [format!("198.51.{office}.128/25")]}}]),
                    &json!([{"port": port, "endPort": port + 50}]),
                )
            }
            Sort::Expressions => ingress(
                &json!({"matchExpressions": [
                    {"key": "tier", "operator": "In", "values": ["backend", "data"]},
                    {"key": "version", "operator": "NotIn", "values": ["v3"]},
                ]}),
                &json!([{
                    "namespaceSelector": {"matchExpressions": [
                        {"key": "env", "operator": "In", "values": [environment, "prod"]},
                        {"key": "team", "operator": "Exists"}]},
                    "podSelector": {"matchExpressions": [
                        {"key": "app", "operator": "NotIn", "values": [other.name]},
                        {"key": "quarantine", "operator": "DoesNotExist"}]},
                }]),
                &json!([{"port": port}]),
            ),
            Sort::EgressToApp => egress(
                &subject,
                &json!([{"podSelector": caller}]),
                &json!([{"port": other.port_name}]),
            ),
        }
    }
}

/// The broadest policy that a namespace's owner can write: for all its pods, both ways, to and from
/// the pods of all namespaces, by a selector that no other policy has. Each `key` makes another.
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

/// A policy that selects every pod of the cluster. Each `port` makes another.
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

/// With its type, as the API server would add it.
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
    fn the_mixture_has_every_sort_and_every_kind_of_peer_and_port() {
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
