//! Services that were deleted, or lost ports at addresses of this node: the kernel translates
//! their packets until kube-proxy has removed its rules.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::directory::Name;
use crate::model::{Service, ServicePort};

/// Most addresses and ports of them.
const SIZE_MAX: usize = 65_536;

/// Versions of services from before a change, with the ports and addresses that it took away.
#[derive(Debug, Default)]
pub(super) struct FormerServices {
    /// Each with the generation in which it was noted.
    versions: BTreeMap<Name, Vec<(u64, Service)>>,
    /// Sum of [`size`] of them.
    size: usize,
    generation: u64,
    /// The generation in which one was left out, because there were too many.
    overflow: Option<u64>,
}

impl FormerServices {
    /// Notes what `former` had and `present` lacks of node ports, and of ports at `hosts`, the
    /// addresses of this node.
    pub(super) fn note(
        &mut self,
        name: &Name,
        former: &Service,
        present: Option<&Service>,
        hosts: &BTreeSet<IpAddr>,
    ) {
        let Some(lost) = lost(former, present, hosts) else { return };
        let size = size(&lost);
        if self.size + size > SIZE_MAX {
            self.overflow = Some(self.generation);
            return;
        }
        self.size += size;
        self.versions.entry(name.clone()).or_default().push((self.generation, lost));
    }

    /// Forgets what was noted before the last call. Returns the names of these services, and
    /// whether that ended an overflow.
    pub(super) fn forget(&mut self) -> (BTreeSet<Name>, bool) {
        let mut names = BTreeSet::new();
        let generation = self.generation;
        let is_over = |noted: u64| noted < generation;
        self.versions.retain(|name, versions| {
            for (_, service) in versions.extract_if(.., |(noted, _)| is_over(*noted)) {
                self.size -= size(&service);
                names.insert(name.clone());
            }
            !versions.is_empty()
        });
        let ends = self.overflow.is_some_and(is_over);
        self.overflow = self.overflow.filter(|_| !ends);
        self.generation += 1;
        (names, ends)
    }

    /// Whether some were left out.
    pub(super) const fn is_incomplete(&self) -> bool {
        self.overflow.is_some()
    }

    /// The names of the services.
    pub(super) fn names(&self) -> impl Iterator<Item = &Name> {
        self.versions.keys()
    }

    /// The versions of services of this name.
    pub(super) fn of(&self, name: &Name) -> impl Iterator<Item = &Service> {
        self.versions.get(name).into_iter().flatten().map(|(_, service)| service)
    }
}

/// Addresses and ports that pods reach by their node: each external address counts, and each port
/// at it, and each node port.
fn size(service: &Service) -> usize {
    service.external_addresses.len() + (service.external_addresses.len() + 1) * service.ports.len()
}

/// The part of `former` at addresses of this node, `hosts`, that `present` lacks. If an address or
/// a family is lost, that is all ports.
fn lost(former: &Service, present: Option<&Service>, hosts: &BTreeSet<IpAddr>) -> Option<Service> {
    let mut lost = former.clone();
    lost.external_addresses.retain(|address| hosts.contains(address));
    let has_node_ports = lost.ports.iter().any(|port| port.node_port.is_some());
    if lost.external_addresses.is_empty() && !has_node_ports {
        return None;
    }
    let Some(present) = present else { return Some(lost) };
    let families =
        |service: &Service| BTreeSet::from_iter(service.cluster_ips.iter().map(IpAddr::is_ipv4));
    let mut addresses = lost.external_addresses.iter();
    if addresses.any(|address| !present.external_addresses.contains(address))
        || !families(former).is_subset(&families(present))
    {
        return Some(lost);
    }
    let numbers = |port: &ServicePort| (port.protocol, port.port, port.node_port);
    let kept = BTreeSet::from_iter(present.ports.iter().map(numbers));
    lost.ports.retain(|port| !kept.contains(&numbers(port)));
    Some(lost).filter(|lost| !lost.ports.is_empty())
}
