//! Services by their external addresses and node ports.
//!
//! kube-proxy sends pods' packets there to any endpoint: `externalTrafficPolicy` is for clients
//! outside of the cluster, and `internalTrafficPolicy` for cluster IPs ("pod traffic for … external
//! destinations" in `syncProxyRules`, `pkg/proxy/iptables/proxier.go` of Kubernetes).
//!
//! Rows are also written where the kernel translates, or may still do so after a change: policy has
//! to know what is not the node's own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use podgate_tables::service::{
    Affinity, PORTS_MAX, ServiceAddress, ServicePort, ServicePorts, WithoutBackends,
};

use super::services::{service_port, set_or_remove};
use super::table_builder::TableBuilder;
use crate::directory::Name;
use crate::model::InternalTraffic;
use crate::store::Store;

/// Services by their external addresses and node ports.
#[derive(Debug, Default)]
pub(super) struct ExternalServices {
    /// Ports that services have at each address. The first service that has a port by its protocol
    /// and number has it, and one that workers translate before one that they leave to the kernel.
    ports: BTreeMap<ServiceAddress, BTreeMap<Name, Arc<[ServicePort]>>>,
    /// Addresses of each service.
    addresses: BTreeMap<Name, Vec<ServiceAddress>>,
    /// How many ports at an address belong to another service, if some do.
    contested: BTreeMap<ServiceAddress, usize>,
    /// Addresses whose rows have to be written again.
    touched: BTreeSet<ServiceAddress>,
}

impl ExternalServices {
    /// Ports that belong to another service.
    pub(super) fn contested(&self) -> usize {
        self.contested.values().sum()
    }

    /// Brings a changed service up to date, but for its rows.
    pub(super) fn change(&mut self, store: &Store, name: &Name) {
        for address in self.addresses.remove(name).unwrap_or_default() {
            if let Some(of_services) = self.ports.get_mut(&address) {
                of_services.remove(name);
            }
            self.touched.insert(address);
        }
        let present = ports_of(store, name);
        if !present.is_empty() {
            let addresses = present.iter().map(|(address, _)| *address);
            self.addresses.insert(name.clone(), addresses.collect());
        }
        for (address, ports) in present {
            self.ports.entry(address).or_default().insert(name.clone(), ports);
            self.touched.insert(address);
        }
    }

    /// Writes the rows of changed services; `is_on` says whether workers translate.
    pub(super) fn write(&mut self, is_on: bool, builder: &mut TableBuilder) {
        let mut touched = std::mem::take(&mut self.touched);
        if !touched.is_empty() {
            // There may be room now.
            touched.extend(builder.external_left_out());
        }
        for address in touched {
            self.write_row(address, is_on, builder);
        }
    }

    fn write_row(&mut self, address: ServiceAddress, is_on: bool, builder: &mut TableBuilder) {
        let of_services = self.ports.get(&address).filter(|all| !all.is_empty());
        let Some(of_services) = of_services else {
            self.ports.remove(&address);
            self.contested.remove(&address);
            return builder.remove_external(address);
        };
        let size = of_services.values().map(|ports| ports.len()).sum();
        let mut contested = 0;
        builder.set_external(address, size, || {
            let mut owners: BTreeMap<(u8, u16), (&Name, &ServicePort)> = BTreeMap::new();
            for is_left in [false, true] {
                for (name, ports) in of_services {
                    for port in ports.iter().filter(|port| port.is_left_to_kernel() == is_left) {
                        let owner =
                            owners.entry((port.protocol, port.port)).or_insert((name, port));
                        contested += usize::from(!is_left && owner.0 != name);
                    }
                }
            }
            let names = owners.iter().map(|(port, (name, _))| (*port, (*name).clone()));
            let ports = owners.values().map(|(_, port)| (*port).clone());
            (ServicePorts::new(ports.collect()), names.collect())
        });
        let contested = Some(contested).filter(|n| is_on && *n > 0);
        set_or_remove(&mut self.contested, address, contested);
    }
}

/// A service's ports at each of its external addresses, and its node ports, also those that it had
/// until shortly before.
fn ports_of(store: &Store, name: &Name) -> Vec<(ServiceAddress, Arc<[ServicePort]>)> {
    let mut found: BTreeMap<_, Vec<_>> = BTreeMap::new();
    if let Some(service) = store.service(name) {
        let is_left = store.slices_of(name).next().is_none();
        let ports = service.ports.iter().take(PORTS_MAX);
        for (port, v4) in ports.flat_map(|port| [true, false].map(|v4| (port, v4))) {
            let mut places = service.external_ports(port, v4).peekable();
            if places.peek().is_none() {
                continue;
            }
            let traffic = InternalTraffic::Cluster;
            let compiled = match is_left {
                true => left_to_kernel(port.protocol, port.port),
                false => service_port(store, (name, service), port, traffic, v4),
            };
            for (at, number) in places {
                let port = ServicePort { port: number, ..compiled.clone() };
                found.entry(at).or_default().push(port);
            }
        }
    }
    for former in store.former_ports(name) {
        let port = left_to_kernel(former.protocol, former.port);
        found.entry(former.at).or_default().push(port);
    }
    found.into_iter().map(|(address, ports)| (address, ports.into())).collect()
}

/// A port whose packets workers don't translate.
fn left_to_kernel(protocol: u8, port: u16) -> ServicePort {
    ServicePort {
        protocol,
        port,
        affinity: Affinity::None,
        without_backends: WithoutBackends::LeaveToKernel,
        backends: Arc::default(),
    }
}
