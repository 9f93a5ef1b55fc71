//! Routes: which link a packet leaves by, and which endpoint is on a link.
//!
//! An address of a local endpoint leads to the endpoint's link, by hash lookup; any other address
//! leads to the host link, and so to the kernel's routing. A link's next hop and endpoint are found
//! by index.

use std::sync::Arc;

use hashbrown::HashMap;

use crate::address::{Address, Mac};
use crate::ids::LinkId;
use crate::tunnel::Tunnels;

/// What is needed to send a packet on a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NextHop {
    /// The link.
    pub link: LinkId,
    /// MAC of the other end of the veth, and destination MAC of what is sent: of the pod's
    /// interface, or of `pg-host`.
    pub mac: Mac,
    /// MAC of the link, and source MAC of what is sent: of the pod's host veth, or of `pg-xsk`.
    pub link_mac: Mac,
    /// MTU of the link: the largest IP packet that it takes, bytes.
    pub mtu: u32,
    /// Path MTU as far as it is known, bytes: [`Self::mtu`] for a pod; for the host link the
    /// smallest MTU of the node's uplinks.
    pub path_mtu: u32,
}

/// A local endpoint: one pod on one link.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// Next hop towards the pod. Its MAC is also the only source MAC that is accepted on the link.
    pub next_hop: NextHop,
    /// Addresses of the pod, and the only source addresses that are accepted on the link.
    pub addresses: Vec<Address>,
}

/// The node's own addresses.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct NodeAddresses {
    /// IPv4, if the node has one.
    pub v4: Option<Address>,
    /// IPv6, if the node has one.
    pub v6: Option<Address>,
}

impl NodeAddresses {
    /// The node's address of the same family as `peer`.
    #[must_use]
    #[inline]
    pub fn for_peer(&self, peer: Address) -> Option<Address> {
        if peer.is_v4() { self.v4 } else { self.v6 }
    }
}

/// The routes of a snapshot.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct RouteTable {
    by_address: HashMap<Address, LinkId>,
    by_link: Vec<Option<Arc<Endpoint>>>,
    /// By link; each packet needs one, so the endpoints' are copied here.
    next_hops: Vec<Option<NextHop>>,
    host: Option<NextHop>,
    node: NodeAddresses,
    tunnels: Tunnels,
}

/// Two endpoints claim the same address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("address {0} belongs to another endpoint")]
pub struct AddressTaken(pub Address);

impl RouteTable {
    /// Routes to `endpoints`, and to the kernel's stack if there is a next hop `host`.
    ///
    /// # Errors
    /// When two endpoints claim one address.
    pub fn new(
        endpoints: impl IntoIterator<Item = Endpoint>,
        host: Option<NextHop>,
    ) -> Result<Self, AddressTaken> {
        let mut table = Self { host, ..Self::default() };
        for endpoint in endpoints {
            let endpoint = Arc::new(endpoint);
            for address in &endpoint.addresses {
                if table.by_address.insert(*address, endpoint.next_hop.link).is_some() {
                    return Err(AddressTaken(*address));
                }
            }
            let slot = endpoint.next_hop.link.index();
            if table.by_link.len() <= slot {
                table.by_link.resize(slot + 1, None);
            }
            table.add_next_hop(endpoint.next_hop);
            table.by_link[slot] = Some(endpoint);
        }
        host.into_iter().for_each(|host| table.add_next_hop(host));
        Ok(table)
    }

    fn add_next_hop(&mut self, next_hop: NextHop) {
        let slot = next_hop.link.index();
        if self.next_hops.len() <= slot {
            self.next_hops.resize(slot + 1, None);
        }
        self.next_hops[slot] = Some(next_hop);
    }

    /// Adds the node's own addresses, which are the sources of ICMP errors.
    #[must_use]
    pub fn with_node(self, node: NodeAddresses) -> Self {
        Self { node, ..self }
    }

    /// Adds the tunnels that end at nodes.
    #[must_use]
    pub fn with_tunnels(self, tunnels: Tunnels) -> Self {
        Self { tunnels, ..self }
    }

    /// The tunnels that end at nodes, to which pods must not send.
    #[must_use]
    #[inline]
    pub fn tunnels(&self) -> &Tunnels {
        &self.tunnels
    }

    /// The node's own addresses.
    #[must_use]
    #[inline]
    pub fn node(&self) -> NodeAddresses {
        self.node
    }

    /// Link of the local endpoint with this address.
    #[must_use]
    #[inline]
    pub fn local_link(&self, address: Address) -> Option<LinkId> {
        self.by_address.get(&address).copied()
    }

    /// The endpoint on `link`; `None` for the host link.
    #[must_use]
    #[inline]
    pub fn endpoint_on(&self, link: LinkId) -> Option<&Endpoint> {
        self.by_link.get(link.index())?.as_deref()
    }

    /// Whether `link` is the host link, which leads to the kernel's stack.
    #[must_use]
    #[inline]
    pub fn is_host(&self, link: LinkId) -> bool {
        self.host.is_some_and(|host| host.link == link)
    }

    /// The host link, which leads to the kernel's stack.
    #[must_use]
    #[inline]
    pub fn host_link(&self) -> Option<LinkId> {
        self.host.map(|host| host.link)
    }

    /// What is needed to send on `link`.
    #[must_use]
    #[inline]
    pub fn next_hop(&self, link: LinkId) -> Option<&NextHop> {
        self.next_hops.get(link.index())?.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(link: u16, address: [u8; 4]) -> Endpoint {
        let next_hop = NextHop {
            link: LinkId(link),
            mac: [2; 6],
            link_mac: [4; 6],
            mtu: 1500,
            path_mtu: 1500,
        };
        Endpoint { next_hop, addresses: vec![Address::v4(address)] }
    }

    #[test]
    fn local_addresses_lead_to_their_link() {
        let host =
            NextHop { link: LinkId(0), mac: [6; 6], link_mac: [8; 6], mtu: 1500, path_mtu: 1500 };
        let table = RouteTable::new([endpoint(3, [10, 0, 0, 1])], Some(host)).unwrap();
        assert_eq!(table.local_link(Address::v4([10, 0, 0, 1])), Some(LinkId(3)));
        assert_eq!(table.local_link(Address::v4([10, 0, 0, 2])), None);
        assert_eq!(table.host_link(), Some(LinkId(0)));
        assert_eq!(table.next_hop(LinkId(0)), Some(&host));
        assert!(table.is_host(LinkId(0)) && table.endpoint_on(LinkId(0)).is_none());
        assert!(table.next_hop(LinkId(2)).is_none() && table.next_hop(LinkId(9)).is_none());
    }

    #[test]
    fn two_endpoints_cannot_share_an_address() {
        let taken = RouteTable::new([endpoint(1, [10, 0, 0, 1]), endpoint(2, [10, 0, 0, 1])], None);
        assert_eq!(taken, Err(AddressTaken(Address::v4([10, 0, 0, 1]))));
    }
}
