//! Services: where a pod's packet to an address really goes.

use std::collections::BTreeSet;
use std::net::IpAddr;

use podgate_tables::policy::Subject;
use podgate_tables::service::{ServiceAddress, is_translated};
use podgate_tables::tuple::Tuple;

use super::peers::{AddressOwner, resolve};
use crate::directory::Name;
use crate::key::Kind;
use crate::model::{EndpointSlice, InternalTraffic, Service, ServicePort, SliceEndpoint};
use crate::store::{FormerPort, Store, Translation};

/// Where a pod's packets to an address and port go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ServiceOutcome {
    /// No service has the address and port, and policy decides on them.
    NotTranslated,
    /// One of these backends has them, and policy decides on the backend.
    Backends(BTreeSet<(IpAddr, u16)>),
    /// They are rejected: the service with this cluster IP has no such port, or there is no
    /// backend.
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
    match store.translation() {
        Translation::On => by_anyone(store, address, protocol, number),
        Translation::Off => ServiceOutcome::NotTranslated,
    }
}

/// Whether packets to this destination may be translated if a pod sends them, be it by the kernel.
pub(super) fn is_service(store: &Store, subject: &Subject) -> bool {
    let Tuple { dst, dst_port, protocol, .. } = subject.tuple;
    let is_unread = |kind| store.directory().is_unread(kind);
    if is_unread(Kind::Service) || is_unread(Kind::EndpointSlice) || store.is_service_forgotten() {
        return is_translated(protocol);
    }
    is_translated(protocol)
        && (by_anyone(store, dst.ip(), protocol, dst_port) != ServiceOutcome::NotTranslated
            || is_left_to_kernel(store, dst.ip(), protocol, dst_port))
}

/// Whether a service has, or had, this address or node port, whatever is known of its backends.
fn is_left_to_kernel(store: &Store, address: IpAddr, protocol: u8, number: u16) -> bool {
    let has = |service: &Service| {
        let is_external = service.external_addresses.contains(&address);
        service.cluster_ips.iter().any(|ip| ip.is_ipv4() == address.is_ipv4())
            && service
                .ports
                .iter()
                .filter(|it| it.protocol == protocol)
                .any(|it| it.node_port == Some(number) || is_external && it.port == number)
    };
    let had = |former: FormerPort| {
        let is_here = match former.at {
            ServiceAddress::Node { v4 } => v4 == address.is_ipv4(),
            ServiceAddress::External(at) | ServiceAddress::ClusterIp(at) => at.ip() == address,
        };
        is_here && (former.protocol, former.port) == (protocol, number)
    };
    store.directory().services.values().any(has)
        || store.service_names().iter().any(|name| store.former_ports(name).any(had))
}

/// Where the packets go if they are translated, by workers or by the kernel.
fn by_anyone(store: &Store, address: IpAddr, protocol: u8, number: u16) -> ServiceOutcome {
    let owner = resolve(store, address);
    if matches!(owner, AddressOwner::Pod(..)) {
        return ServiceOutcome::NotTranslated;
    }
    if matches!(owner, AddressOwner::World)
        && let Some((name, service)) = store.service_at(address)
        && is_known(store, name, service)
    {
        let mut ports = service.ports.iter();
        return match ports.find(|port| (port.protocol, port.port) == (protocol, number)) {
            Some(port) => through_port(store, name, port, address, service.traffic),
            None => ServiceOutcome::Rejected,
        };
    }
    // Not a cluster IP. An external address, and last a port of the node: of several services the
    // first one by name has it.
    let services = || {
        let all = store.directory().services.iter();
        all.filter(|(name, service)| is_known(store, name, service)).filter(|(_, service)| {
            service.cluster_ips.iter().any(|ip| ip.is_ipv4() == address.is_ipv4())
        })
    };
    let by_address = || {
        services().filter(|(_, service)| service.external_addresses.contains(&address)).find_map(
            |(name, service)| {
                let mut ports = service.ports.iter();
                let port = ports.find(|it| (it.protocol, it.port) == (protocol, number))?;
                Some((name, port))
            },
        )
    };
    let by_node_port = || {
        services().filter(|_| matches!(owner, AddressOwner::Host)).find_map(|(name, service)| {
            let mut ports = service.ports.iter();
            let port = ports.find(|it| it.protocol == protocol && it.node_port == Some(number))?;
            Some((name, port))
        })
    };
    match by_address().or_else(by_node_port) {
        Some((name, port)) => through_port(store, name, port, address, InternalTraffic::Cluster),
        None => ServiceOutcome::NotTranslated,
    }
}

fn slices_of<'s>(store: &'s Store, name: &'s Name) -> impl Iterator<Item = &'s EndpointSlice> {
    let all = store.directory().slices.iter();
    all.filter(|((namespace, _), slice)| *namespace == name.0 && *slice.service == *name.1)
        .map(|(_, slice)| slice)
}

fn is_known(store: &Store, name: &Name, service: &Service) -> bool {
    slices_of(store, name).next().is_some() && !service.ports.is_empty()
}

/// Where packets to a port of a service go, which were sent to `address`.
fn through_port(
    store: &Store,
    name: &Name,
    port: &ServicePort,
    address: IpAddr,
    traffic: InternalTraffic,
) -> ServiceOutcome {
    let mut endpoints: Vec<(&SliceEndpoint, u16)> = Vec::new();
    for slice in slices_of(store, name) {
        for target in &slice.ports {
            if target.name == port.name && target.protocol == port.protocol {
                endpoints.extend(slice.endpoints.iter().map(|endpoint| (endpoint, target.port)));
            }
        }
    }
    endpoints.retain(|(endpoint, _)| endpoint.address.is_ipv4() == address.is_ipv4());
    if endpoints.is_empty() {
        return ServiceOutcome::Rejected;
    }
    if traffic == InternalTraffic::Local {
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
