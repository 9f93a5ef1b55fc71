//! Services: where a pod's packet to an address really goes.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::peers::{AddressOwner, resolve};
use crate::model::{InternalTraffic, SliceEndpoint};
use crate::store::{Store, Translation};

/// Where a pod's packets to an address and port go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ServiceOutcome {
    /// The address is no service's, and policy decides on it.
    NotTranslated,
    /// One of these backends has them, and policy decides on the backend.
    Backends(BTreeSet<(IpAddr, u16)>),
    /// They are rejected: the service has no such port, or no backend.
    Rejected,
    /// They are dropped silently: all backends are on other nodes, and the service asks for one
    /// here.
    Dropped,
}

/// Where a pod's packets of a protocol that services have go.
#[must_use]
pub fn through_service(
    store: &Store,
    address: IpAddr,
    protocol: u8,
    number: u16,
) -> ServiceOutcome {
    let Some((name, service)) = store.service_at(address) else {
        return ServiceOutcome::NotTranslated;
    };
    let all_slices = store.directory().slices.iter();
    let own: Vec<_> = all_slices
        .filter(|((namespace, _), slice)| *namespace == name.0 && *slice.service == *name.1)
        .map(|(_, slice)| slice)
        .collect();
    let is_known = !own.is_empty() && !service.ports.is_empty();
    let is_ours = store.translation() == Translation::On
        && matches!(resolve(store, address), AddressOwner::World);
    if !(is_known && is_ours) {
        return ServiceOutcome::NotTranslated;
    }
    let is_asked =
        |port: &&crate::model::ServicePort| port.protocol == protocol && port.port == number;
    let Some(port) = service.ports.iter().find(is_asked) else { return ServiceOutcome::Rejected };
    let mut endpoints: Vec<(&SliceEndpoint, u16)> = Vec::new();
    for slice in own {
        for target in &slice.ports {
            if target.name == port.name && target.protocol == protocol {
                endpoints.extend(slice.endpoints.iter().map(|endpoint| (endpoint, target.port)));
            }
        }
    }
    endpoints.retain(|(endpoint, _)| endpoint.address.is_ipv4() == address.is_ipv4());
    if endpoints.is_empty() {
        return ServiceOutcome::Rejected;
    }
    if service.traffic == InternalTraffic::Local {
        endpoints.retain(|(endpoint, _)| {
            let is_host = matches!(resolve(store, endpoint.address), AddressOwner::Host);
            is_host || store.is_this_node(&endpoint.node)
        });
    }
    if endpoints.is_empty() {
        return ServiceOutcome::Dropped;
    }
    if endpoints.iter().any(|(endpoint, _)| !endpoint.terminating) {
        endpoints.retain(|(endpoint, _)| !endpoint.terminating);
    }
    let backends = endpoints.iter().map(|(endpoint, port)| (endpoint.address, *port));
    ServiceOutcome::Backends(backends.collect())
}
