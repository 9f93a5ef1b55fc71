//! Services, from their objects and EndpointSlices to the table of their addresses.
//!
//! A service is translated once there is an EndpointSlice of it, even an empty one: without any,
//! nothing is known of its backends, and its packets are left to the node's kernel. So are those to
//! node ports and external addresses that a service had until shortly before. A change of a
//! service or of one of its slices costs as much as that service, and the services with which it
//! shares an external address or has node ports.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use podgate_tables::address::Address;
use podgate_tables::service::{
    BACKENDS_MAX, Backend, PORTS_MAX, ServiceAddress, ServicePort, ServicePorts, WithoutBackends,
};

use super::external_services::ExternalServices;
use super::table_builder::TableBuilder;
use crate::catalog::ServiceName;
use crate::directory::Name;
use crate::key::Kind;
use crate::model::{InternalTraffic, Service, SliceEndpoint};
use crate::store::{Changes, Store, Translation};

/// How many addresses of services are not in the table, and so not translated, by reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ServicesLeftOut {
    /// Cluster IPs: there is no EndpointSlice of the service.
    pub no_endpoint_slice: usize,
    /// Cluster IPs: the service has no ports.
    pub no_ports: usize,
    /// Cluster IPs that another service has too, and ports of external addresses and node ports
    /// that another service has too.
    pub address_taken: usize,
    /// The table is full.
    pub table_full: usize,
}

/// Why there is no row for a service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum NoRow {
    EndpointSlice,
    Ports,
}

/// Services in the table.
#[derive(Debug, Default)]
pub(super) struct Services {
    /// Addresses whose first service has no row.
    without_row: BTreeMap<IpAddr, NoRow>,
    /// How many services besides the first one claim an address, if some do.
    contested: BTreeMap<IpAddr, usize>,
    /// Cluster IPs of each service.
    addresses: BTreeMap<Name, Vec<IpAddr>>,
    /// Services that claim each cluster IP; the first one has it.
    claims: BTreeMap<IpAddr, BTreeSet<Name>>,
    external: ExternalServices,
    /// Services whose backends depend on which node this is.
    local: BTreeSet<Name>,
}

impl Services {
    /// Brings changed services up to date, and if nodes have changed, those that depend on them.
    pub(super) fn change(&mut self, store: &Store, changes: &Changes, builder: &mut TableBuilder) {
        let is_on = store.translation() == Translation::On;
        builder.leave_services_to_kernel(!is_on);
        let local = if changes.nodes { self.local.clone() } else { BTreeSet::new() };
        for name in changes.services.union(&local) {
            self.change_one(store, name, builder);
        }
        self.external.write(is_on, builder);
        let is_unread = |kind| store.directory().is_unread(kind);
        let is_unread = is_unread(Kind::Service) || is_unread(Kind::EndpointSlice);
        builder.note_left_out(is_unread || store.is_service_forgotten());
    }

    /// What is not in the table; `table_full` are those for which there was no room.
    pub(super) fn left_out(&self, table_full: usize) -> ServicesLeftOut {
        let without = |why| self.without_row.values().filter(|reason| **reason == why).count();
        ServicesLeftOut {
            no_endpoint_slice: without(NoRow::EndpointSlice),
            no_ports: without(NoRow::Ports),
            address_taken: self.contested.values().sum::<usize>() + self.external.contested(),
            table_full,
        }
    }

    fn change_one(&mut self, store: &Store, name: &Name, builder: &mut TableBuilder) {
        let former = self.addresses.remove(name).unwrap_or_default();
        self.local.remove(name);
        for address in &former {
            if let Some(claimants) = self.claims.get_mut(address) {
                claimants.remove(name);
            }
        }
        let service = store.service(name);
        let mut touched: BTreeSet<IpAddr> = former.into_iter().collect();
        if let Some(service) = service {
            for address in &service.cluster_ips {
                self.claims.entry(*address).or_default().insert(name.clone());
            }
            touched.extend(&service.cluster_ips);
            if service.traffic == InternalTraffic::Local {
                self.local.insert(name.clone());
            }
            self.addresses.insert(name.clone(), service.cluster_ips.clone());
        }
        for address in touched {
            self.write(store, address, builder);
        }
        self.external.change(store, name);
    }

    /// Writes the row of a cluster IP.
    fn write(&mut self, store: &Store, address: IpAddr, builder: &mut TableBuilder) {
        let claimants = self.claims.get(&address);
        if claimants.is_some_and(BTreeSet::is_empty) {
            self.claims.remove(&address);
        }
        let is_on = store.translation() == Translation::On;
        let claimants = self.claims.get(&address);
        let others = claimants.map_or(0, |claimants| claimants.len() - 1);
        set_or_remove(&mut self.contested, address, Some(others).filter(|n| is_on && *n > 0));
        let name = claimants.and_then(BTreeSet::first);
        let row = name.filter(|_| is_on).map(|name| cluster_ip(store, name, address));
        let no_row = row.as_ref().and_then(|row| row.as_ref().err().copied());
        set_or_remove(&mut self.without_row, address, no_row);
        let row = row.and_then(Result::ok);
        let (name, address) = (name.map(ServiceName::from), Address::from(address));
        builder.name_cluster_ip(address, name);
        builder.set_service(ServiceAddress::ClusterIp(address), row);
    }
}

pub(super) fn set_or_remove<K: Ord, V>(map: &mut BTreeMap<K, V>, address: K, value: Option<V>) {
    match value {
        Some(value) => map.insert(address, value),
        None => map.remove(&address),
    };
}

/// The row of a cluster IP, or why there is none.
fn cluster_ip(store: &Store, name: &Name, address: IpAddr) -> Result<ServicePorts, NoRow> {
    let service = store.service(name).ok_or(NoRow::EndpointSlice)?;
    if store.slices_of(name).next().is_none() {
        return Err(NoRow::EndpointSlice);
    }
    if service.ports.is_empty() {
        return Err(NoRow::Ports);
    }
    let ports = service.ports.iter().take(PORTS_MAX);
    let compiled =
        |port| service_port(store, (name, service), port, service.traffic, address.is_ipv4());
    Ok(ServicePorts::new(ports.map(compiled).collect()))
}

/// A port of a service, with its backends of one family.
pub(super) fn service_port(
    store: &Store,
    (name, service): (&Name, &Service),
    port: &crate::model::ServicePort,
    traffic: InternalTraffic,
    is_v4: bool,
) -> ServicePort {
    let (mut ready, mut terminating) = (Vec::new(), Vec::new());
    for slice in store.slices_of(name) {
        let targets = slice.ports.iter();
        let target = targets
            .filter(|target| (&target.name, target.protocol) == (&port.name, port.protocol))
            .map(|target| target.port);
        let of_family = |endpoint: &&SliceEndpoint| endpoint.address.is_ipv4() == is_v4;
        for target in target {
            for endpoint in slice.endpoints.iter().filter(of_family) {
                let kind = if endpoint.terminating { &mut terminating } else { &mut ready };
                kind.push((endpoint, target));
            }
        }
    }
    let everywhere = !(ready.is_empty() && terminating.is_empty());
    if traffic == InternalTraffic::Local {
        for kind in [&mut ready, &mut terminating] {
            kind.retain(|(endpoint, _)| is_here(store, endpoint));
        }
    }
    let chosen = if ready.is_empty() { terminating } else { ready };
    let backend = |(endpoint, port): &(&SliceEndpoint, u16)| {
        Backend::new(Address::from(endpoint.address), *port)
    };
    let mut backends: Vec<Backend> = chosen.iter().map(backend).collect();
    backends.sort_unstable();
    backends.dedup();
    backends.truncate(BACKENDS_MAX);
    ServicePort {
        protocol: port.protocol,
        port: port.port,
        affinity: service.affinity,
        without_backends: match everywhere {
            true => WithoutBackends::Drop,
            false => WithoutBackends::Reject,
        },
        backends: backends.into(),
    }
}

fn is_here(store: &Store, endpoint: &SliceEndpoint) -> bool {
    store.is_this_node(&endpoint.node)
        || store.host_addresses().any(|address| *address == endpoint.address)
}
