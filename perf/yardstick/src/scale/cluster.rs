//! A realistic synthetic cluster, generated from its size and a seed.
//!
//! Every object depends only on its index, the size and the seed, so none is stored: objects are
//! generated one by one, as an API server sends them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use clap::ValueEnum;
use fastrand::Rng;
use podgate_tables::address::Address;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Numbers of objects.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Size {
    /// Namespaces.
    pub namespaces: u32,
    /// Pods.
    pub pods: u32,
    /// NetworkPolicies.
    pub policies: u32,
}

/// Which pods have the same labels.
#[derive(ValueEnum, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Labels {
    /// Those of one revision of one app, as a Deployment creates them.
    #[default]
    Shared,
    /// None: each has its own name as a label, as a StatefulSet creates them. The worst case.
    Unique,
}

/// The generator of the objects.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cluster {
    pub(super) size: Size,
    pub(super) labels: Labels,
    pub(super) seed: u64,
}

/// An app: its name, its tier, and the name and number of its port.
pub(super) struct App {
    pub(super) name: &'static str,
    tier: &'static str,
    pub(super) port_name: &'static str,
    pub(super) port: u16,
}

const fn app(name: &'static str, tier: &'static str, port_name: &'static str, port: u16) -> App {
    App { name, tier, port_name, port }
}

/// The apps of every namespace.
pub(super) const APPS: [App; 10] = [
    app("web", "frontend", "http", 8080),
    app("api", "frontend", "http", 8080),
    app("auth", "backend", "grpc", 9000),
    app("cart", "backend", "http", 8080),
    app("search", "backend", "grpc", 9000),
    app("worker", "backend", "http", 8081),
    app("queue", "data", "amqp", 5672),
    app("cache", "data", "redis", 6379),
    app("db", "data", "sql", 5432),
    app("cron", "batch", "http", 8080),
];

/// Maximum number of revisions of an app at one time.
const REVISIONS: u32 = 4;

/// Port `metrics` of every pod.
pub(super) const METRICS_PORT: u16 = 9090;

/// Values of the label `env` of namespaces.
pub(super) const ENVIRONMENTS: [&str; 4] = ["prod", "staging", "test", "dev"];

/// Approximate number of namespaces per team.
const NAMESPACES_OF_A_TEAM: u32 = 10;

/// Approximate number of pods per node.
const PODS_OF_A_NODE: u32 = 250;

/// The kind of object that random numbers are for.
#[derive(Clone, Copy)]
pub(super) enum Purpose {
    Pod = 1,
    Policy = 2,
    Flow = 3,
}

/// Properties of one pod.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct PodSpec {
    /// Its number, which is part of its name and addresses.
    pub(super) index: u32,
    pub(super) namespace: u32,
    /// Index into [`APPS`].
    pub(super) app: usize,
    pub(super) revision: u32,
    pub(super) node: u32,
    kind: PodKind,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum PodKind {
    Ordinary,
    HostNetwork,
    Terminated,
}

impl PodSpec {
    /// Whether policy identifies it by its addresses.
    pub(super) fn is_ordinary(&self) -> bool {
        self.kind == PodKind::Ordinary
    }

    pub(super) fn v4(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(u32::from_be_bytes([10, 64, 0, 0]) + self.index)
    }

    pub(super) fn v6(&self) -> Ipv6Addr {
        Ipv6Addr::from_bits((0xfd00_0064 << 96) + u128::from(self.index))
    }

    /// All its addresses.
    pub(super) fn addresses(&self) -> Vec<Address> {
        vec![Address::v4(self.v4().octets()), Address::v6(self.v6().octets())]
    }

    /// Name in its namespace.
    pub(super) fn name(&self) -> String {
        format!("{}-{}", APPS[self.app].name, self.index)
    }
}

impl Cluster {
    /// Random numbers for the object `index`.
    pub(super) fn rng(&self, purpose: Purpose, index: u32) -> Rng {
        let object = (purpose as u64) << 32 | u64::from(index);
        // Consecutive seeds have similar first outputs, so the first output is the actual seed.
        Rng::with_seed(Rng::with_seed(self.seed).u64(..) ^ Rng::with_seed(object).u64(..))
    }

    pub(super) fn namespace_name(index: u32) -> String {
        match index {
            0 => "kube-system".into(),
            1 => "monitoring".into(),
            _ => format!("team-{}-ns-{index}", index / NAMESPACES_OF_A_TEAM),
        }
    }

    pub(super) fn namespace(&self, index: u32) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {
                "name": Self::namespace_name(index),
                "labels": {
                    "env": ENVIRONMENTS[index as usize % ENVIRONMENTS.len()],
                    "team": self.team(index),
                    "pod-security.kubernetes.io/enforce": "baseline",
                },
            },
        })
    }

    /// Value of the label `team` of a namespace.
    pub(super) fn team(&self, namespace: u32) -> String {
        format!("team-{}", namespace / NAMESPACES_OF_A_TEAM)
    }

    /// Number of nodes; this one is number 0.
    pub(super) fn nodes(&self) -> u32 {
        (self.size.pods / PODS_OF_A_NODE).max(1)
    }

    pub(super) fn node_addresses(index: u32) -> [IpAddr; 2] {
        let v4 = u32::from_be_bytes([172, 16, 0, 1]) + index;
        [
            Ipv4Addr::from_bits(v4).into(),
            Ipv6Addr::from_bits((0xfd00_0172 << 96) + u128::from(index)).into(),
        ]
    }

    pub(super) fn node(&self, index: u32) -> Value {
        let addresses = Self::node_addresses(index)
            .map(|address| json!({"type": "InternalIP", "address": address}));
        json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": format!("node-{index}")},
            "status": {"addresses": addresses},
        })
    }

    /// Pod number `index`. Those from [`Size::pods`] are not in the cluster at the start.
    pub(super) fn pod(&self, index: u32) -> PodSpec {
        let mut rng = self.rng(Purpose::Pod, index);
        let large = (self.size.namespaces / 100).max(1);
        // One namespace in a hundred has ten times the pods of the others.
        let namespace = match rng.u32(..10) {
            0 => rng.u32(..large),
            _ => rng.u32(..self.size.namespaces),
        };
        let kind = match rng.u32(..200) {
            0 => PodKind::HostNetwork,
            1 | 2 => PodKind::Terminated,
            _ => PodKind::Ordinary,
        };
        let app = rng.usize(..APPS.len());
        // Later revisions, which are being rolled out, have fewer pods.
        let revision = rng.u32(..REVISIONS).min(rng.u32(..REVISIONS));
        PodSpec { index, namespace, app, revision, node: rng.u32(..self.nodes()), kind }
    }

    /// The ordinary pods of this node.
    pub(super) fn local_pods(&self) -> Vec<PodSpec> {
        let all = (0..self.size.pods).map(|index| self.pod(index));
        all.filter(|pod| pod.node == 0 && pod.is_ordinary()).collect()
    }

    /// The Kubernetes object of `spec`.
    pub(super) fn pod_object(&self, spec: &PodSpec) -> Value {
        let app = &APPS[spec.app];
        let namespace = Self::namespace_name(spec.namespace);
        let name = spec.name();
        let hash = hash(&format!("{namespace}/{}/{}", app.name, spec.revision));
        let mut labels = json!({
            "app": app.name,
            "tier": app.tier,
            "version": format!("v{}", spec.revision),
            "pod-template-hash": hash,
            "app.kubernetes.io/part-of": self.team(spec.namespace),
        });
        if spec.namespace == 0 && spec.app == 0 {
            labels["k8s-app"] = "kube-dns".into();
        }
        if self.labels == Labels::Unique {
            labels["statefulset.kubernetes.io/pod-name"] = name.as_str().into();
        }
        // The port of an app may change from one revision to the next.
        let port = app.port + u16::from(spec.revision % 2 == 1);
        let phase = if spec.kind == PodKind::Terminated { "Succeeded" } else { "Running" };
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": name, "namespace": namespace, "labels": labels,
                "creationTimestamp": "2026-01-01T00:00:00Z",
            },
            "spec": {
                "serviceAccountName": app.name,
                "nodeName": format!("node-{}", spec.node),
                "hostNetwork": spec.kind == PodKind::HostNetwork,
                "containers": [{"name": "app", "ports": [
                    {"name": app.port_name, "containerPort": port},
                    {"name": "metrics", "containerPort": METRICS_PORT},
                ]}],
            },
            "status": {
                "phase": phase,
                "podIPs": [{"ip": spec.v4().to_string()}, {"ip": spec.v6().to_string()}],
            },
        })
    }
}

/// Ten hexadecimal digits, similar to the Deployment controller's hash of a template.
fn hash(text: &str) -> String {
    let folded = text.bytes().fold(0, |hash: u64, byte| hash.rotate_left(7) ^ u64::from(byte));
    format!("{:010x}", Rng::with_seed(folded).u64(..) >> 24)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const CLUSTER: Cluster = Cluster {
        size: Size { namespaces: 100, pods: 10_000, policies: 1000 },
        labels: Labels::Shared,
        seed: 1,
    };

    #[test]
    fn an_object_depends_only_on_its_index_and_the_seed() {
        let other = Cluster { seed: 2, ..CLUSTER };
        let pods = |cluster: &Cluster, order: &mut dyn Iterator<Item = u32>| {
            order.map(|index| cluster.pod_object(&cluster.pod(index))).collect::<Vec<_>>()
        };
        let forwards = pods(&CLUSTER, &mut (0..100));
        let mut backwards = pods(&CLUSTER, &mut (0..100).rev());
        backwards.reverse();
        assert_eq!(forwards, backwards);
        assert_ne!(forwards, pods(&other, &mut (0..100)));
        let policies = |cluster: &Cluster| [0, 7].map(|index| cluster.policy(index, 0));
        assert_eq!(policies(&CLUSTER), policies(&CLUSTER));
        assert_ne!(
            (0..100).map(|index| CLUSTER.policy(index, 0)).collect::<Vec<_>>(),
            (0..100).map(|index| other.policy(index, 0)).collect::<Vec<_>>()
        );
    }

    #[test]
    fn pods_have_the_promised_distribution() {
        let pods: Vec<_> = (0..CLUSTER.size.pods).map(|index| CLUSTER.pod(index)).collect();
        let objects: Vec<_> = pods.iter().map(|pod| CLUSTER.pod_object(pod)).collect();
        let has = |pointer: &str, value: Value| {
            objects.iter().any(|pod| pod.pointer(pointer) == Some(&value))
        };
        assert!(has("/spec/hostNetwork", true.into()));
        assert!(has("/status/phase", "Succeeded".into()));
        assert!(has("/metadata/labels/k8s-app", "kube-dns".into()));
        let addresses: HashSet<IpAddr> =
            pods.iter().flat_map(|pod| [pod.v4().into(), pod.v6().into()]).collect();
        assert_eq!(addresses.len(), 2 * pods.len());
        let labels: HashSet<String> = objects
            .iter()
            .map(|pod| format!("{} {}", pod["metadata"]["namespace"], pod["metadata"]["labels"]))
            .collect();
        // At least about ten for each namespace.
        assert!((10 * 100..50 * 100).contains(&labels.len()), "{}", labels.len());
        let in_largest = pods.iter().filter(|pod| pod.namespace == 0).count();
        assert!(in_largest > 5 * pods.len() / 100, "{in_largest}");
        assert!(pods.iter().any(|pod| pod.node == 0));
    }
}
