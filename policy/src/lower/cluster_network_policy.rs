//! Lowering of ClusterNetworkPolicy.

use ipnet::IpNet;
use podgate_tables::policy::Action;

use super::{by_pod_labels, in_labelled_namespace, sorted};
use crate::directory::Directory;
use crate::model::{ClusterNetworkPolicy, ClusterPeer, ClusterRule, PodSelection};
use crate::rules::{
    AddressScope, NetworkPeer, PeerSelector, PerDirection, Precedence, Rule, RulePorts, RuleSet,
    TrafficDirection,
};
use crate::selector::Selector;

/// Lowers a policy.
pub(crate) fn lower_cluster_network_policy(
    policy: &ClusterNetworkPolicy,
    directory: &Directory,
) -> RuleSet {
    let precedence = Precedence { tier: policy.tier, priority: policy.priority };
    let mut rules = Vec::new();
    for (direction, section) in
        [(TrafficDirection::Ingress, "ingress"), (TrafficDirection::Egress, "egress")]
    {
        for (index, rule) in policy.rules(direction).iter().enumerate() {
            let (action, peers) = lower_effect(rule, directory);
            let ports = rule.ports.iter().map(|ports| RulePorts { ports: ports.clone(), l7: None });
            rules.push(Rule {
                direction,
                precedence,
                action,
                field: format!("spec.{section}[{index}]"),
                peers,
                ports: (!rule.ports.is_empty()).then(|| ports.collect()),
            });
        }
    }
    RuleSet {
        endpoint_selector: lower_pods(&policy.subject),
        default_deny: PerDirection::default(),
        rules,
    }
}

/// Action and peers of a rule: those that it has, unless it has to fail closed.
fn lower_effect(rule: &ClusterRule, directory: &Directory) -> (Action, Option<Vec<PeerSelector>>) {
    match (rule.is_known(), rule.action) {
        (true, action) => {
            let peers = rule.peers.iter().flat_map(|peer| lower_peer(peer, directory));
            (action, Some(sorted(peers.collect())))
        }
        (false, Action::Allow) => (Action::Allow, Some(Vec::new())),
        (false, Action::Deny | Action::Pass) => (Action::Deny, None),
    }
}

fn lower_peer(peer: &ClusterPeer, directory: &Directory) -> Vec<PeerSelector> {
    match peer {
        ClusterPeer::Pods(pods) => vec![PeerSelector::Labels(lower_pods(pods))],
        ClusterPeer::Nodes(selector) => {
            directory.node_addresses(selector).map(|address| network(address.into())).collect()
        }
        ClusterPeer::Networks(networks) => networks.iter().copied().map(network).collect(),
        ClusterPeer::DomainNames(names) => {
            names.iter().map(|name| PeerSelector::Name(name.pattern.clone())).collect()
        }
        ClusterPeer::Unknown => Vec::new(),
    }
}

fn lower_pods(selection: &PodSelection) -> Selector {
    let mut conditions = in_labelled_namespace(&selection.namespaces);
    conditions.extend(by_pod_labels(&selection.pods));
    Selector::new(conditions)
}

fn network(network: IpNet) -> PeerSelector {
    PeerSelector::Network(NetworkPeer { network, except: Vec::new(), scope: AddressScope::All })
}
