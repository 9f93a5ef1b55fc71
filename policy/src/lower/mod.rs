//! From API objects to the normal form of [`crate::rules`].

mod cilium;
mod cluster_network_policy;
mod network_policy;
pub(crate) mod size;

pub(crate) use cilium::lower_cilium;
pub(crate) use cluster_network_policy::lower_cluster_network_policy;
pub(crate) use network_policy::lower_network_policy;

use crate::labels::LabelKey;
use crate::model::LabelSelector;
use crate::rules::Peer;
use crate::selector::{Requirement, Selector};

/// The condition that only pods of this namespace meet.
fn in_namespace(namespace: &str) -> Requirement {
    Requirement::equals(LabelKey::Namespace, namespace)
}

/// The condition that all pods meet, and nothing else.
fn is_pod() -> Requirement {
    Requirement::exists(LabelKey::Namespace)
}

/// The conditions that pods of the namespaces with these labels meet, and nothing else.
fn in_labelled_namespace(namespaces: &LabelSelector) -> Vec<Requirement> {
    let key = |key: &str| LabelKey::NamespaceLabel(key.into());
    let mut conditions = Selector::requirements(namespaces, key);
    conditions.push(is_pod());
    conditions
}

/// The conditions on a pod's own labels, in Kubernetes' syntax.
fn by_pod_labels(selector: &LabelSelector) -> Vec<Requirement> {
    Selector::requirements(selector, |key| LabelKey::Pod(key.into()))
}

/// What is no pod and has this reserved label.
fn reserved(name: &str) -> Peer {
    Peer::Labels(Selector::new([Requirement::exists(LabelKey::Reserved(name.into()))]))
}

fn sorted(mut peers: Vec<Peer>) -> Vec<Peer> {
    peers.sort_unstable();
    peers.dedup();
    peers
}
