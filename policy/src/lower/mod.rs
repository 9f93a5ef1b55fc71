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
use crate::model::{LabelSelector, Operator, Policy};
use crate::rules::{PeerSelector, RuleSet};
use crate::selector::{Requirement, Selector, Test};

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

/// The conditions of an API selector. `key` parses the key of each label.
fn requirements(selector: &LabelSelector, key: impl Fn(&str) -> LabelKey) -> Vec<Requirement> {
    let labels = selector.match_labels.iter();
    let equal = labels.map(|(name, value)| Requirement::equals(key(name), value));
    let expressions = selector.match_expressions.iter().map(|expression| {
        let mut values: Vec<Arc<str>> =
            expression.values.iter().map(|value| value.as_str().into()).collect();
        values.sort_unstable();
        values.dedup();
        let test = match expression.operator {
            Operator::In => Test::In(values),
            Operator::NotIn => Test::NotIn(values),
            Operator::Exists => Test::Exists,
            Operator::DoesNotExist => Test::DoesNotExist,
        };
        Requirement { key: key(&expression.key), test }
    });
    equal.chain(expressions).collect()
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
    let mut conditions = requirements(namespaces, key);
    conditions.push(is_pod());
    conditions
}

/// The conditions on a pod's own labels, in Kubernetes' syntax.
fn by_pod_labels(selector: &LabelSelector) -> Vec<Requirement> {
    requirements(selector, |key| LabelKey::Pod(key.into()))
}

/// Peers that are no pods and have this reserved label.
fn reserved(name: &str) -> PeerSelector {
    PeerSelector::Labels(Selector::new([Requirement::exists(LabelKey::Reserved(name.into()))]))
}

fn sorted(mut peers: Vec<PeerSelector>) -> Vec<PeerSelector> {
    peers.sort_unstable();
    peers.dedup();
    peers
}
