//! Where packets go: local endpoints by address, endpoints by link, and the host link.

use std::collections::HashMap;
use std::sync::Arc;

use crate::types::{Address, LinkId, Mac};

/// A local endpoint: one pod behind one link.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// Link that leads to the pod.
    pub link: LinkId,
    /// MAC of the pod's own interface: destination of what we send there, and the only source we
    /// accept from there.
    pub mac: Mac,
    /// MAC of the host's end: source of what we route there.
    pub link_mac: Mac,
    /// Addresses the pod may send from.
    pub addresses: Vec<Address>,
    /// Largest IP packet that the link takes, bytes.
    pub mtu: u32,
}

/// The link that joins us to the kernel stack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HostLink {
    /// The `pg-xsk` end, which our sockets are bound to.
    pub link: LinkId,
    /// MAC of `pg-host`, destination of what we hand to the kernel.
    pub mac: Mac,
    /// MAC of `pg-xsk`, source of what we hand to the kernel.
    pub link_mac: Mac,
    /// Largest IP packet that the link takes, bytes.
    pub mtu: u32,
}

/// All routes of a snapshot.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct RouteTable {
    by_address: HashMap<Address, Arc<Endpoint>>,
    by_link: Vec<Option<Arc<Endpoint>>>,
    host: Option<HostLink>,
}

/// An endpoint can't be added: another one has its address already.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("address {0} belongs to another endpoint")]
pub struct AddressTaken(pub Address);

impl RouteTable {
    /// Routes for `endpoints`, and to the kernel by `host` if there is one.
    ///
    /// # Errors
    /// When two endpoints claim one address.
    pub fn new(
        endpoints: impl IntoIterator<Item = Endpoint>,
        host: Option<HostLink>,
    ) -> Result<Self, AddressTaken> {
        let mut table = Self { host, ..Self::default() };
        for endpoint in endpoints {
            let endpoint = Arc::new(endpoint);
            for address in &endpoint.addresses {
                if table.by_address.insert(*address, Arc::clone(&endpoint)).is_some() {
                    return Err(AddressTaken(*address));
                }
            }
            let slot = endpoint.link.index();
            if table.by_link.len() <= slot {
                table.by_link.resize(slot + 1, None);
            }
            table.by_link[slot] = Some(endpoint);
        }
        Ok(table)
    }

    /// The local endpoint that has `address`.
    #[must_use]
    pub fn endpoint(&self, address: Address) -> Option<&Endpoint> {
        self.by_address.get(&address).map(Arc::as_ref)
    }

    /// The endpoint behind `link`.
    #[must_use]
    pub fn behind(&self, link: LinkId) -> Option<&Endpoint> {
        self.by_link.get(link.index())?.as_deref()
    }

    /// The link to the kernel stack.
    #[must_use]
    pub fn host(&self) -> Option<&HostLink> {
        self.host.as_ref()
    }
}
