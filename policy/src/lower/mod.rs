//! From API objects to the normal form of [`crate::rules`].

mod cilium;
mod cluster_network_policy;
mod network_policy;
pub(crate) mod size;

use std::sync::Arc;

use self::cilium::lower_cilium;
use self::cluster_network_policy::lower_cluster_network_policy;
use self::network_policy::lower_network_policy;
use crate::directory::Directory;
use crate::key::ObjectKey;
use crate::labels::LabelKey;
use crate::model::{LabelSelector, Policy};
use crate::rules::{Peer, RuleSet};
use crate::selector::{Requirement, Selector};

/// The normal form of a policy.
pub(crate) fn lower(key: &ObjectKey, policy: &Policy, directory: &Directory) -> Arc<[RuleSet]> {
    let namespace = key.namespace.as_deref();
    match policy {
        Policy::NetworkPolicy(policy) => {
            [lower_network_policy(policy, namespace.unwrap_or_default())].into()
        }
        Policy::CiliumNetworkPolicy(policy) | Policy::CiliumClusterwideNetworkPolicy(policy) => {
            lower_cilium(policy, namespace, directory).into()
        }
        Policy::ClusterNetworkPolicy(policy) => {
            [lower_cluster_network_policy(policy, directory)].into()
        }
    }
}

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
