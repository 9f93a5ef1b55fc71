//! One endpoint: a pod behind a link.

use std::net::IpAddr;

use podgate_api::EndpointSpec;
use podgate_hostnet::Link;
use podgate_policy::Store;
use podgate_tables::address::Address;
use podgate_tables::ids::LinkId;
use podgate_tables::route::{self, NextHop};

use crate::agent::state::ChecksumOffload;

/// A requested endpoint and its state.
#[derive(Debug)]
pub(in crate::agent) struct Endpoint {
    /// The request.
    pub(in crate::agent) spec: EndpointSpec,
    /// The attached link, or why it isn't attached.
    pub(in crate::agent) link: Result<Attached, String>,
    /// TX checksum offload of the pod's end.
    pub(in crate::agent) offload: ChecksumOffload,
}

/// An attached link.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::agent) struct Attached {
    /// Slot in the dataplane.
    pub(in crate::agent) slot: LinkId,
    /// The host's end.
    pub(in crate::agent) link: Link,
    /// The pod's end, or why it is unknown: then the endpoint is cut off.
    pub(in crate::agent) pod_end: Result<PodInterface, String>,
}

/// Address and MTU of the pod's end of a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::agent) struct PodInterface {
    /// MAC address.
    pub(in crate::agent) mac: [u8; 6],
    /// MTU, bytes.
    pub(in crate::agent) mtu: u32,
}

impl Endpoint {
    /// The pod's addresses.
    ///
    /// # Errors
    /// Why there are none, in one line; then the endpoint is cut off.
    pub(in crate::agent) fn addresses<'s>(&self, store: &'s Store) -> Result<&'s [IpAddr], String> {
        let name = &self.spec.pod;
        let Some(pod) = store.pod(&name.namespace, &name.name) else {
            return Err(format!("pod {name} is not known"));
        };
        if pod.host_network {
            return Err(format!(
                "pod {name} uses the node's network, so it has no link of its own"
            ));
        }
        match pod.addresses() {
            [] => Err(format!("pod {name} has no address yet")),
            addresses => Ok(addresses),
        }
    }

    /// The endpoint as the dataplane needs it.
    ///
    /// # Errors
    /// Why it is not ready, in one line.
    pub(in crate::agent) fn route(&self, store: &Store) -> Result<route::Endpoint, String> {
        let attached = self.link.as_ref().map_err(Clone::clone)?;
        let addresses = self.addresses(store)?;
        Ok(route::Endpoint {
            next_hop: attached.next_hop()?,
            addresses: addresses.iter().map(|address| Address::from(*address)).collect(),
        })
    }
}

impl Attached {
    /// How workers send to the pod.
    ///
    /// # Errors
    /// Why the pod can't be sent to.
    fn next_hop(&self) -> Result<NextHop, String> {
        let pod_end = self.pod_end.as_ref().map_err(Clone::clone)?;
        let mtu = self.link.mtu.min(pod_end.mtu);
        let (link, link_mac) = (self.slot, self.link.mac);
        Ok(NextHop { link, mac: pod_end.mac, link_mac, mtu, path_mtu: mtu })
    }
}
