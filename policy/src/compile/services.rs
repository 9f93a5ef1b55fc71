//! Services, from their objects and EndpointSlices to the table of their addresses.
//!
//! Pods reach a service by its cluster IPs, by its node ports at this node's addresses, and by its
//! external addresses. kube-proxy sends pods' packets to the last two to any endpoint: it ignores
//! `externalTrafficPolicy` and `internalTrafficPolicy` for them (`writeServiceToEndpointRules` and
//! the `KUBE-EXT` chains in `pkg/proxy/iptables/proxier.go` of Kubernetes).
//!
//! A service is translated once there is an EndpointSlice of it, even an empty one: without any,
//! nothing is known of its backends, and its packets are left to the node's kernel. A change of a
//! service or of one of its slices costs as much as that service.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use podgate_tables::address::Address;
use podgate_tables::service::{
    BACKENDS_MAX, Backend, PORTS_MAX, ServiceAddress, ServicePort, ServicePorts, WithoutBackends,
};

use super::table_builder::TableBuilder;
use crate::catalog::ServiceName;
use crate::directory::Name;
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
    /// Ports that services have at each external address. The first service that has a port by its
    /// protocol and number has it.
    external: BTreeMap<Address, BTreeMap<Name, Vec<ServicePort>>>,
    /// How many ports at external addresses belong to another service, if some do.
    contested_external: BTreeMap<Address, usize>,
    /// External addresses of each service.
    external_addresses: BTreeMap<Name, Vec<Address>>,
    /// Services whose backends depend on which node this is.
    local: BTreeSet<Name>,
}

impl Services {
    /// Brings changed services up to date, and if nodes have changed, those that depend on them.
    pub(super) fn change(&mut self, store: &Store, changes: &Changes, builder: &mut TableBuilder) {
        builder.leave_services_to_kernel(store.translation() == Translation::Off);
        let local = if changes.nodes { self.local.clone() } else { BTreeSet::new() };
        for name in changes.services.union(&local) {
            self.change_one(store, name, builder);
        }
    }

    /// What is not in the table; `table_full` are those for which there was no room.
    pub(super) fn left_out(&self, table_full: usize) -> ServicesLeftOut {
        let without = |why| self.without_row.values().filter(|reason| **reason == why).count();
        ServicesLeftOut {
            no_endpoint_slice: without(NoRow::EndpointSlice),
            no_ports: without(NoRow::Ports),
            address_taken: self.contested.values().chain(self.contested_external.values()).sum(),
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
        self.change_external(store, name, builder);
    }

    fn change_external(&mut self, store: &Store, name: &Name, builder: &mut TableBuilder) {
        let former = self.external_addresses.remove(name).unwrap_or_default();
        for address in &former {
            if let Some(of_services) = self.external.get_mut(address) {
                of_services.remove(name);
            }
        }
        let present = external_ports(store, name);
        let mut touched: BTreeSet<Address> = former.into_iter().collect();
        touched.extend(present.keys());
        if !present.is_empty() {
            self.external_addresses.insert(name.clone(), present.keys().copied().collect());
        }
        for (address, ports) in present {
            self.external.entry(address).or_default().insert(name.clone(), ports);
        }
        for address in touched {
            self.write_external(store, address, builder);
        }
    }

    /// Writes the row of an external address.
    fn write_external(&mut self, store: &Store, address: Address, builder: &mut TableBuilder) {
        let at = ServiceAddress::external(address);
        let of_services = self.external.get(&address).filter(|all| !all.is_empty());
        let Some(of_services) = of_services else {
            self.external.remove(&address);
            self.contested_external.remove(&address);
            builder.name_external(address, None);
            return builder.set_service(at, None);
        };
        let mut owners: BTreeMap<(u8, u16), (&Name, &ServicePort)> = BTreeMap::new();
        let mut contested = 0;
        for (name, ports) in of_services {
            for port in ports {
                let owner = owners.entry((port.protocol, port.port)).or_insert((name, port));
                contested += usize::from(owner.0 != name);
            }
        }
        let names = owners.iter().map(|(port, (name, _))| (*port, service_name(name))).collect();
        let row = ServicePorts::new(owners.values().map(|(_, port)| (*port).clone()).collect());
        builder.name_external(address, Some(names));
        builder.set_service(at, Some(row));
        let is_on = store.translation() == Translation::On;
        let contested = Some(contested).filter(|n| is_on && *n > 0);
        set_or_remove(&mut self.contested_external, address, contested);
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
        let (name, address) = (name.map(service_name), Address::from(address));
        builder.name_cluster_ip(address, name);
        builder.set_service(ServiceAddress::cluster_ip(address), row);
    }
}

fn service_name((namespace, name): &Name) -> ServiceName {
    ServiceName { namespace: namespace.to_string(), name: name.to_string() }
}

fn set_or_remove<K: Ord, V>(map: &mut BTreeMap<K, V>, address: K, value: Option<V>) {
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

/// A service's ports at each of its external addresses, and its node ports. As with kube-proxy,
/// there are those of families that it has a cluster IP of.
fn external_ports(store: &Store, name: &Name) -> BTreeMap<Address, Vec<ServicePort>> {
    let mut found = BTreeMap::new();
    let Some(service) = store.service(name) else { return found };
    let has_node_ports = service.ports.iter().any(|port| port.node_port.is_some());
    let is_external = has_node_ports || !service.external_addresses.is_empty();
    // Also where the kernel translates: policy has to know of what.
    if !is_external || store.slices_of(name).next().is_none() {
        return found;
    }
    for is_v4 in [true, false] {
        if !service.cluster_ips.iter().any(|address| address.is_ipv4() == is_v4) {
            continue;
        }
        let ports = service.ports.iter().take(PORTS_MAX);
        let traffic = InternalTraffic::Cluster;
        let compiled = |port| service_port(store, (name, service), port, traffic, is_v4);
        let ports: Vec<_> = ports.map(|port| (compiled(port), port.node_port)).collect();
        let at_node_port = |(port, number): &(ServicePort, Option<u16>)| {
            Some(ServicePort { port: (*number)?, ..port.clone() })
        };
        let node_ports: Vec<_> = ports.iter().filter_map(at_node_port).collect();
        let ports: Vec<_> = ports.into_iter().map(|(port, _)| port).collect();
        let addresses = service.external_addresses.iter().filter(|ip| ip.is_ipv4() == is_v4);
        if !ports.is_empty() {
            found.extend(addresses.map(|address| (Address::from(*address), ports.clone())));
        }
        if !node_ports.is_empty() {
            found.insert(ServiceAddress::node(is_v4).address, node_ports);
        }
    }
    found
}

fn service_port(
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
