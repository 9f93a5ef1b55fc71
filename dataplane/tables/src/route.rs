//! Where packets go: local endpoints by address, endpoints by link, and the host link.

use std::sync::Arc;

use hashbrown::HashMap;

use crate::address::{Address, Mac};
use crate::ids::LinkId;
use crate::tunnel::Tunnels;

/// What is needed to send a packet out of a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outlet {
    /// The link.
    pub link: LinkId,
    /// MAC at the far end, the destination of what we send there: the pod's own interface, or
    /// `pg-host`.
    pub mac: Mac,
    /// MAC of our end, the source of what we send there: the pod's host veth, or `pg-xsk`.
    pub link_mac: Mac,
    /// Largest IP packet that the link takes, bytes.
    pub mtu: u32,
    /// Largest IP packet that gets all the way to where the link leads, as far as is known, bytes:
    /// [`Self::mtu`] for a pod; for the host link the least MTU of the node's ways out.
    pub path_mtu: u32,
}

/// A local endpoint: one pod behind one link.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// The way to it. Its MAC is also the only one that we accept packets from on the link.
    pub outlet: Outlet,
    /// Addresses the pod has, and the only ones it may send from.
    pub addresses: Vec<Address>,
}

/// All routes of a snapshot.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct RouteTable {
    by_address: HashMap<Address, LinkId>,
    by_link: Vec<Option<Arc<Endpoint>>>,
    /// The endpoints' and the host link's, by link: what each packet needs, without a detour.
    outlets: Vec<Option<Outlet>>,
    host: Option<Outlet>,
    /// The node's own addresses, IPv4 and IPv6.
    node: [Option<Address>; 2],
    tunnels: Tunnels,
}

/// An endpoint can't be added: another one has its address already.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("address {0} belongs to another endpoint")]
pub struct AddressTaken(pub Address);

impl RouteTable {
    /// Routes for `endpoints`, and to the kernel stack by `host` if there is such a link.
    ///
    /// # Errors
    /// When two endpoints claim one address.
    pub fn new(
        endpoints: impl IntoIterator<Item = Endpoint>,
        host: Option<Outlet>,
    ) -> Result<Self, AddressTaken> {
        let mut table = Self { host, ..Self::default() };
        for endpoint in endpoints {
            let endpoint = Arc::new(endpoint);
            for address in &endpoint.addresses {
                if table.by_address.insert(*address, endpoint.outlet.link).is_some() {
                    return Err(AddressTaken(*address));
                }
            }
            let slot = endpoint.outlet.link.index();
            if table.by_link.len() <= slot {
                table.by_link.resize(slot + 1, None);
            }
            table.add_outlet(endpoint.outlet);
            table.by_link[slot] = Some(endpoint);
        }
        host.into_iter().for_each(|host| table.add_outlet(host));
        Ok(table)
    }

    fn add_outlet(&mut self, outlet: Outlet) {
        let slot = outlet.link.index();
        if self.outlets.len() <= slot {
            self.outlets.resize(slot + 1, None);
        }
        self.outlets[slot] = Some(outlet);
    }

    /// The same, with the node's own addresses, IPv4 and IPv6: what our ICMP errors come from.
    #[must_use]
    pub fn with_node(self, node: [Option<Address>; 2]) -> Self {
        Self { node, ..self }
    }

    /// The same, with the tunnels that end at nodes.
    #[must_use]
    pub fn with_tunnels(self, tunnels: Tunnels) -> Self {
        Self { tunnels, ..self }
    }

    /// The tunnels that end at nodes: what pods must not send there.
    #[must_use]
    #[inline]
    pub fn tunnels(&self) -> &Tunnels {
        &self.tunnels
    }

    /// The node's own address of this family, if it is known.
    #[must_use]
    #[inline]
    pub fn node_address(&self, v4: bool) -> Option<Address> {
        self.node[usize::from(!v4)]
    }

    /// The link of the local endpoint that has `address`.
    #[must_use]
    #[inline]
    pub fn local(&self, address: Address) -> Option<LinkId> {
        self.by_address.get(&address).copied()
    }

    /// The endpoint behind `link`; `None` for the host link.
    #[must_use]
    #[inline]
    pub fn behind(&self, link: LinkId) -> Option<&Endpoint> {
        self.by_link.get(link.index())?.as_deref()
    }

    /// Whether `link` joins us to the kernel stack.
    #[must_use]
    #[inline]
    pub fn is_host(&self, link: LinkId) -> bool {
        self.host.is_some_and(|host| host.link == link)
    }

    /// The link that joins us to the kernel stack.
    #[must_use]
    #[inline]
    pub fn host_link(&self) -> Option<LinkId> {
        self.host.map(|host| host.link)
    }

    /// How to send out of `link`.
    #[must_use]
    #[inline]
    pub fn outlet(&self, link: LinkId) -> Option<&Outlet> {
        self.outlets.get(link.index())?.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(link: u16, address: [u8; 4]) -> Endpoint {
        let outlet =
            Outlet { link: LinkId(link), mac: [2; 6], link_mac: [4; 6], mtu: 1500, path_mtu: 1500 };
        Endpoint { outlet, addresses: vec![Address::v4(address)] }
    }

    #[test]
    fn local_addresses_lead_to_their_link() {
        let host =
            Outlet { link: LinkId(0), mac: [6; 6], link_mac: [8; 6], mtu: 1500, path_mtu: 1500 };
        let table = RouteTable::new([endpoint(3, [10, 0, 0, 1])], Some(host)).unwrap();
        assert_eq!(table.local(Address::v4([10, 0, 0, 1])), Some(LinkId(3)));
        assert_eq!(table.local(Address::v4([10, 0, 0, 2])), None);
        assert_eq!(table.host_link(), Some(LinkId(0)));
        assert_eq!(table.outlet(LinkId(0)), Some(&host));
        assert!(table.is_host(LinkId(0)) && table.behind(LinkId(0)).is_none());
        assert!(table.outlet(LinkId(2)).is_none() && table.outlet(LinkId(9)).is_none());
    }

    #[test]
    fn two_endpoints_can_not_share_an_address() {
        let taken = RouteTable::new([endpoint(1, [10, 0, 0, 1]), endpoint(2, [10, 0, 0, 1])], None);
        assert_eq!(taken, Err(AddressTaken(Address::v4([10, 0, 0, 1]))));
    }
}
