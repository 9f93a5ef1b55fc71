//! ClusterNetworkPolicy, tier by tier.

use std::net::IpAddr;

use podgate_tables::policy::{Action, Tier};

use super::peers::AddressOwner;
use super::{DirectionQuery, Match, OracleVerdict, labels};
use crate::key::ObjectKey;
use crate::model::{ClusterNetworkPolicy, ClusterPeer, ClusterRule, PodSelection, Policy};
use crate::rules::TrafficDirection;
use crate::store::Store;

impl<'s> DirectionQuery<'_, 's> {
    /// What a tier says of the flow; `None` if it leaves the flow to the next one.
    pub(super) fn cluster_tier(&self, tier: Tier) -> Option<OracleVerdict<'s>> {
        let policies = self.store.policy_objects().filter_map(|(key, policy)| match policy {
            Policy::ClusterNetworkPolicy(policy) if policy.tier == tier => Some((key, policy)),
            _ => None,
        });
        let mut policies: Vec<(&ObjectKey, &ClusterNetworkPolicy)> = policies.collect();
        policies.sort_by_key(|(key, policy)| (policy.priority, &key.name));
        for (key, policy) in policies {
            if !selects(self.store, &policy.subject, self.endpoint) {
                continue;
            }
            let (section, rules) = match self.direction {
                TrafficDirection::Egress => ("egress", &policy.egress),
                TrafficDirection::Ingress => ("ingress", &policy.ingress),
            };
            for (index, rule) in rules.iter().enumerate() {
                let field = format!("spec.{section}[{index}]");
                let found = vec![Match { key, field, l7: None, visibility_only: false }];
                match self.cluster_rule(rule) {
                    None => {}
                    Some(Action::Allow) => return Some(OracleVerdict::Allowed(found)),
                    Some(Action::Deny) => return Some(OracleVerdict::Denied(found)),
                    Some(Action::Pass) => return None,
                }
            }
        }
        None
    }

    /// What a rule does with the flow; `None` if it doesn't match.
    fn cluster_rule(&self, rule: &ClusterRule) -> Option<Action> {
        let on_port = rule.ports.is_empty() || rule.ports.iter().any(|p| self.port_matches(p));
        if !on_port {
            return None;
        }
        if rule.peers.contains(&ClusterPeer::Unknown) {
            // Fail closed: "Accept" rules match no traffic, all others deny all of it.
            return (rule.action != Action::Allow).then_some(Action::Deny);
        }
        let matches = |peer: &ClusterPeer| matches(self.store, peer, self.peer, self.address);
        rule.peers.iter().any(matches).then_some(rule.action)
    }
}

/// Whether a peer of a rule matches the other end.
fn matches(store: &Store, wanted: &ClusterPeer, peer: &AddressOwner<'_>, address: IpAddr) -> bool {
    match wanted {
        ClusterPeer::Pods(selection) => selects(store, selection, peer),
        ClusterPeer::Nodes(selector) => store.nodes().any(|node| {
            node.addresses.contains(&address) && labels::matches_plain(selector, &node.labels)
        }),
        ClusterPeer::Networks(networks) => networks.iter().any(|net| net.contains(&address)),
        ClusterPeer::DomainNames(names) => {
            let mut learned = store.learned().filter(|(_, known)| known.contains(&address));
            matches!(peer, AddressOwner::World)
                && learned.any(|(name, _)| names.iter().any(|wanted| is_name(&wanted.text, name)))
        }
        ClusterPeer::Unknown => false,
    }
}

/// Pods only: what shares its node's network is the node.
fn selects(store: &Store, selection: &PodSelection, peer: &AddressOwner<'_>) -> bool {
    let AddressOwner::Pod(name, pod) = peer else { return false };
    labels::matches_plain(&selection.namespaces, &store.namespace_labels(&name.namespace))
        && labels::matches_plain(&selection.pods, &pod.labels)
}

/// Whether a learned name (lower case, without a dot at the end) is the wanted one, or, for
/// `*.example.com`, any below `example.com`.
fn is_name(wanted: &str, name: &str) -> bool {
    let wanted = wanted.to_ascii_lowercase();
    let wanted = wanted.strip_suffix('.').unwrap_or(&wanted);
    match wanted.strip_prefix('*') {
        Some(parent) => name.strip_suffix(parent).is_some_and(|labels| !labels.is_empty()),
        None => name == wanted,
    }
}
