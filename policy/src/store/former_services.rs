//! Node ports, and ports at addresses of this node, that services lost: the kernel translates
//! packets to them until kube-proxy has removed its rules.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use podgate_tables::service::{PORTS_MAX, ServiceAddress};

use crate::directory::Name;
use crate::model::Service;

/// Most of these ports.
const FORMER_MAX: usize = 65_536;

/// A port at an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub(crate) struct FormerPort {
    pub(crate) at: ServiceAddress,
    /// IP protocol number.
    pub(crate) protocol: u8,
    pub(crate) port: u16,
}

/// The ports, of the service that had each last.
#[derive(Debug, Default)]
pub(super) struct FormerServices {
    /// Each with the generation in which it was lost.
    ports: BTreeMap<FormerPort, (u64, Name)>,
    by_name: BTreeMap<Name, BTreeSet<FormerPort>>,
    generation: u64,
    /// The generation in which a port was left out, because there were too many.
    overflow: Option<u64>,
}

impl FormerServices {
    /// Notes the ports that `former` had and `present` lacks; `hosts` are the addresses of this
    /// node. Returns other services whose ports these had been.
    pub(super) fn note(
        &mut self,
        name: &Name,
        former: &Service,
        present: Option<&Service>,
        hosts: &BTreeSet<IpAddr>,
    ) -> BTreeSet<Name> {
        let mut lost = ports(former, hosts);
        for port in present.map(|present| ports(present, hosts)).unwrap_or_default() {
            lost.remove(&port);
        }
        let mut others = BTreeSet::new();
        for port in lost {
            if self.ports.len() >= FORMER_MAX && !self.ports.contains_key(&port) {
                self.overflow = Some(self.generation);
                break;
            }
            let before = self.ports.insert(port, (self.generation, name.clone()));
            if let Some((_, other)) = before.filter(|(_, other)| other != name) {
                self.remove(&other, port);
                others.insert(other);
            }
            self.by_name.entry(name.clone()).or_default().insert(port);
        }
        others
    }

    fn remove(&mut self, name: &Name, port: FormerPort) {
        let Some(of_name) = self.by_name.get_mut(name) else { return };
        of_name.remove(&port);
        if of_name.is_empty() {
            self.by_name.remove(name);
        }
    }

    /// Forgets what was lost before the last call. Returns the names of these services, and whether
    /// that ended an overflow.
    pub(super) fn forget(&mut self) -> (BTreeSet<Name>, bool) {
        let generation = self.generation;
        let is_over = |lost: u64| lost < generation;
        let mut names = BTreeSet::new();
        for (port, (_, name)) in self.ports.extract_if(.., |_, (lost, _)| is_over(*lost)) {
            if let Some(of_name) = self.by_name.get_mut(&name) {
                of_name.remove(&port);
            }
            names.insert(name);
        }
        self.by_name.retain(|_, ports| !ports.is_empty());
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
        self.by_name.keys()
    }

    /// The ports of a service.
    pub(super) fn of(&self, name: &Name) -> impl Iterator<Item = FormerPort> {
        self.by_name.get(name).into_iter().flatten().copied()
    }
}

/// The ports that a service has at addresses of this node, and its node ports.
fn ports(service: &Service, hosts: &BTreeSet<IpAddr>) -> BTreeSet<FormerPort> {
    let is_here = |at| match at {
        ServiceAddress::External(address) => hosts.contains(&address.ip()),
        ServiceAddress::Node { .. } | ServiceAddress::ClusterIp(_) => true,
    };
    let mut found = BTreeSet::new();
    for port in service.ports.iter().take(PORTS_MAX) {
        let places = [true, false].into_iter().flat_map(|v4| service.external_ports(port, v4));
        let here = places.filter(|(at, _)| is_here(*at));
        found.extend(here.map(|(at, number)| FormerPort {
            at,
            protocol: port.protocol,
            port: number,
        }));
    }
    found
}
