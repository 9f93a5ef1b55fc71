//! Who is behind an address, and whether a policy's peer is meant by it.

use std::net::IpAddr;

use ipnet::IpNet;

use super::labels;
use crate::catalog::PodName;
use crate::model::{CiliumPeer, Entity, NetworkPolicyPeer, Pod};
use crate::store::Store;

/// Who is behind an address.
pub(super) enum Peer<'s> {
    Pod(&'s PodName, &'s Pod),
    Host,
    RemoteNode,
    World,
}

/// Finds out.
pub(super) fn resolve(store: &Store, address: IpAddr) -> Peer<'_> {
    if store.host_addresses().any(|host| *host == address) {
        return Peer::Host;
    }
    if store.nodes().any(|node| node.addresses.contains(&address)) {
        return Peer::RemoteNode;
    }
    let claiming = store.pods().filter(|(_, pod)| pod.addresses().contains(&address));
    match claiming.max_by_key(|(name, pod)| (&pod.created, *name)) {
        Some((name, pod)) => Peer::Pod(name, pod),
        None => Peer::World,
    }
}

fn holds(network: &IpNet, except: &[IpNet], address: IpAddr) -> bool {
    network.contains(&address) && !except.iter().any(|out| out.contains(&address))
}

impl Peer<'_> {
    /// Whether an element of `from` or `to` of a NetworkPolicy of `namespace` matches.
    pub(super) fn matches_network_policy(
        &self,
        store: &Store,
        address: IpAddr,
        peer: &NetworkPolicyPeer,
        namespace: &str,
    ) -> bool {
        match (peer, self) {
            (NetworkPolicyPeer::Block(block), _) => holds(&block.cidr, &block.except, address),
            (NetworkPolicyPeer::Pods { namespaces, pods }, Self::Pod(name, pod)) => {
                let namespace_matches = match namespaces {
                    None => *name.namespace == *namespace,
                    Some(selector) => {
                        let own = store.namespace_labels(&name.namespace);
                        labels::matches_plain(selector, &own)
                    }
                };
                let pod_matches = match pods {
                    None => true,
                    Some(selector) => labels::matches_plain(selector, &pod.labels),
                };
                namespace_matches && pod_matches
            }
            (NetworkPolicyPeer::Pods { .. }, _) => false,
        }
    }

    /// Whether a peer of a Cilium policy of `namespace`, or of a cluster-wide one, matches.
    pub(super) fn matches_cilium(
        &self,
        store: &Store,
        address: IpAddr,
        peer: &CiliumPeer,
        namespace: Option<&str>,
    ) -> bool {
        match peer {
            CiliumPeer::Entity(entity) => self.is(*entity, address),
            CiliumPeer::Cidr { cidr, except } => {
                matches!(self, Self::World) && holds(cidr, except, address)
            }
            CiliumPeer::CidrGroups { .. } | CiliumPeer::Services(_) | CiliumPeer::Name(_) => false,
            CiliumPeer::Endpoints(selector) => {
                let own = match self {
                    Self::Pod(name, _) => labels::of_pod(store, name),
                    Self::Host => labels::reserved(&["host"]),
                    Self::RemoteNode => labels::reserved(&["remote-node"]),
                    Self::World if address.is_ipv4() => labels::reserved(&["world", "world-ipv4"]),
                    Self::World => labels::reserved(&["world", "world-ipv6"]),
                };
                labels::selects_peer(selector, &own, namespace)
            }
        }
    }

    fn is(&self, entity: Entity, address: IpAddr) -> bool {
        match entity {
            Entity::All => true,
            Entity::World => matches!(self, Self::World),
            Entity::WorldIpv4 => matches!(self, Self::World) && address.is_ipv4(),
            Entity::WorldIpv6 => matches!(self, Self::World) && address.is_ipv6(),
            Entity::Cluster | Entity::ClusterMesh => !matches!(self, Self::World),
            Entity::Host => matches!(self, Self::Host),
            Entity::RemoteNode => matches!(self, Self::RemoteNode),
            Entity::KubeApiserver
            | Entity::Init
            | Entity::Ingress
            | Entity::Unmanaged
            | Entity::Health
            | Entity::None => false,
        }
    }
}
