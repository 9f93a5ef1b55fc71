//! The owner of an address, and whether the peers of a policy match it.

use std::net::IpAddr;

use ipnet::IpNet;

use super::labels;
use super::requests::name_matches;
use crate::PodName;
use crate::key::Kind;
use crate::model::{
    CiliumPeer, Entity, GroupReference, NetworkPolicyPeer, Pod, ServiceReference, ServiceSelection,
};
use crate::store::Store;

/// The owner of an address.
pub(super) enum AddressOwner<'s> {
    Pod(&'s PodName, &'s Pod),
    Host,
    RemoteNode,
    World,
}

/// The owner of `address`.
pub(super) fn resolve(store: &Store, address: IpAddr) -> AddressOwner<'_> {
    if store.host_addresses().any(|host| *host == address) {
        return AddressOwner::Host;
    }
    if store.nodes().any(|node| node.addresses.contains(&address)) {
        return AddressOwner::RemoteNode;
    }
    let claiming = store.pods().filter(|(_, pod)| pod.addresses().contains(&address));
    match claiming.max_by_key(|(name, pod)| (&pod.created, *name)) {
        Some((name, pod)) => AddressOwner::Pod(name, pod),
        None => AddressOwner::World,
    }
}

/// Whether the addresses of a peer are unknown, since a kind of objects can't be read.
pub(super) fn is_unknown(store: &Store, peer: &CiliumPeer) -> bool {
    let is_unread = |kind| store.directory().is_unread(kind);
    match peer {
        CiliumPeer::CidrGroups { .. } => is_unread(Kind::CiliumCidrGroup),
        CiliumPeer::Services(_) => is_unread(Kind::Service) || is_unread(Kind::EndpointSlice),
        CiliumPeer::Entity(entity) => {
            let needs_slices =
                [Entity::KubeApiserver, Entity::Cluster, Entity::ClusterMesh].contains(entity);
            needs_slices && is_unread(Kind::EndpointSlice)
        }
        _ => false,
    }
}

fn holds(network: &IpNet, except: &[IpNet], address: IpAddr) -> bool {
    network.contains(&address) && !except.iter().any(|out| out.contains(&address))
}

impl AddressOwner<'_> {
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
            CiliumPeer::Entity(entity) => self.is(store, *entity, address),
            CiliumPeer::Cidr { cidr, except } => {
                matches!(self, Self::World) && holds(cidr, except, address)
            }
            CiliumPeer::CidrGroups { groups, except } => {
                let networks = networks_of(store, groups);
                matches!(self, Self::World)
                    && networks.iter().any(|net| holds(net, except, address))
            }
            CiliumPeer::Services(services) => self.is_behind(store, services, address),
            CiliumPeer::Name(pattern) => {
                let mut learned = store.learned();
                matches!(self, Self::World)
                    && learned.any(|(name, addresses)| {
                        addresses.contains(&address) && name_matches(pattern, name)
                    })
            }
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

    /// Whether the peer is a backend of one of these services.
    fn is_behind(&self, store: &Store, wanted: &ServiceReference, address: IpAddr) -> bool {
        let directory = store.directory();
        directory.services.iter().any(|((namespace, name), service)| {
            let is_wanted = wanted.namespace.as_deref().is_none_or(|wanted| *wanted == **namespace)
                && match &wanted.services {
                    ServiceSelection::Name(wanted) => **wanted == **name,
                    ServiceSelection::Labels(selector) => {
                        labels::matches_plain(selector, &service.labels)
                    }
                };
            let is_behind = match self {
                Self::Pod(pod_name, pod) if !service.selector.is_empty() => {
                    pod_name.namespace == *namespace
                        && service
                            .selector
                            .iter()
                            .all(|(key, value)| pod.labels.get(key) == Some(value))
                }
                Self::World if service.selector.is_empty() => {
                    addresses_behind(store, namespace, name).contains(&address)
                }
                _ => false,
            };
            is_wanted && is_behind
        })
    }

    fn is(&self, store: &Store, entity: Entity, address: IpAddr) -> bool {
        let is_api_server = !matches!(self, Self::Pod(..))
            && addresses_behind(store, "default", "kubernetes").contains(&address);
        match entity {
            Entity::All => true,
            Entity::World => matches!(self, Self::World),
            Entity::WorldIpv4 => matches!(self, Self::World) && address.is_ipv4(),
            Entity::WorldIpv6 => matches!(self, Self::World) && address.is_ipv6(),
            Entity::Cluster | Entity::ClusterMesh => !matches!(self, Self::World) || is_api_server,
            Entity::Host => matches!(self, Self::Host),
            Entity::RemoteNode => matches!(self, Self::RemoteNode),
            Entity::KubeApiserver => is_api_server,
            Entity::Init | Entity::Ingress | Entity::Unmanaged | Entity::Health | Entity::None => {
                false
            }
        }
    }
}

/// The networks of CIDR groups.
fn networks_of(store: &Store, wanted: &GroupReference) -> Vec<IpNet> {
    let groups = store.directory().groups.iter().filter(|(name, group)| match wanted {
        GroupReference::Name(wanted) => **wanted == ***name,
        GroupReference::Labels(selector) => labels::matches_plain(selector, &group.labels),
    });
    groups.flat_map(|(_, group)| group.networks.clone()).collect()
}

/// The addresses that EndpointSlices give a service.
fn addresses_behind(store: &Store, namespace: &str, service: &str) -> Vec<IpAddr> {
    let slices = store.directory().slices.iter();
    let own = slices.filter(|((of, _), slice)| **of == *namespace && slice.service == service);
    own.flat_map(|(_, slice)| slice.addresses.clone()).collect()
}
