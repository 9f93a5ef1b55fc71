//! Lowering of `NetworkPolicy`.

use podgate_tables::policy::Action;

use super::{by_pod_labels, in_labelled_namespace, in_namespace, sorted};
use crate::model::{NetworkPolicy, NetworkPolicyPeer, NetworkPolicyRule};
use crate::rules::{
    AddressScope, NetworkPeer, PeerSelector, PerDirection, Precedence, Rule, RulePorts, RuleSet,
    TrafficDirection,
};
use crate::selector::Selector;

/// Lowers a policy of `namespace`.
pub(crate) fn lower_network_policy(policy: &NetworkPolicy, namespace: &str) -> RuleSet {
    let mut conditions = by_pod_labels(&policy.pod_selector);
    conditions.push(in_namespace(namespace));
    let mut rules = Vec::new();
    let sections = [
        (TrafficDirection::Ingress, "ingress", &policy.ingress),
        (TrafficDirection::Egress, "egress", &policy.egress),
    ];
    for (direction, name, section) in sections {
        for (index, rule) in section.iter().flatten().enumerate() {
            rules.push(lower_rule(rule, direction, format!("spec.{name}[{index}]"), namespace));
        }
    }
    RuleSet {
        endpoint_selector: Selector::new(conditions),
        default_deny: PerDirection {
            egress: policy.egress.is_some(),
            ingress: policy.ingress.is_some(),
        },
        rules,
    }
}

fn lower_rule(
    rule: &NetworkPolicyRule,
    direction: TrafficDirection,
    field: String,
    namespace: &str,
) -> Rule {
    let peers = rule.peers.iter().map(|peer| lower_peer(peer, namespace)).collect::<Vec<_>>();
    let ports = rule.ports.iter().map(|ports| RulePorts { ports: ports.clone(), l7: None });
    Rule {
        direction,
        precedence: Precedence::NORMAL,
        action: Action::Allow,
        field,
        peers: (!peers.is_empty()).then(|| sorted(peers)),
        ports: (!rule.ports.is_empty()).then(|| ports.collect()),
    }
}

fn lower_peer(peer: &NetworkPolicyPeer, namespace: &str) -> PeerSelector {
    let (namespaces, pods) = match peer {
        NetworkPolicyPeer::Block(block) => {
            let except = block.except.clone();
            return PeerSelector::Network(NetworkPeer {
                network: block.cidr,
                except,
                scope: AddressScope::All,
            });
        }
        NetworkPolicyPeer::Pods { namespaces, pods } => (namespaces, pods),
    };
    let mut conditions = match namespaces {
        Some(selector) => in_labelled_namespace(selector),
        None => vec![in_namespace(namespace)],
    };
    conditions.extend(pods.iter().flat_map(by_pod_labels));
    PeerSelector::Labels(Selector::new(conditions))
}
