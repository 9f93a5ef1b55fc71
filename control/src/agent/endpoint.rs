//! One endpoint: a pod behind a link.

use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use podgate_policy::Store;
use podgate_tables::address::Address;
use podgate_tables::ids::LinkId;
use podgate_tables::route::{self, NextHop};
use podgate_xdp_redirect::netns;
use podgate_xdp_redirect::offload::{self, Hardware};

use crate::netlink::{Link, Netlink};
use crate::protocol::{EndpointSpec, MacAddress, PodMtu};

/// What was asked for, and what became of it.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// What was asked for.
    pub(crate) spec: EndpointSpec,
    /// The link while it is served, or why it isn't.
    pub(crate) link: Result<Attached, String>,
    /// Whether the pod's end had TX checksum offload on before podgate turned it off.
    pub(crate) offload_was_on: bool,
}

/// A link that is served.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Attached {
    /// Slot in the dataplane.
    pub(crate) slot: LinkId,
    /// The host's end.
    pub(crate) link: Link,
    /// The pod's end, or why it can't be known: then the endpoint is cut off.
    pub(crate) pod_end: Result<Hardware, String>,
}

/// What was found at the pod's end of a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PodEnd {
    /// Address and MTU.
    pub(crate) hardware: Hardware,
    /// Whether TX checksum offload was on, and was turned off.
    pub(crate) offload_was_on: bool,
}

impl Endpoint {
    /// The pod's addresses, or why there are none: then the endpoint is cut off.
    ///
    /// # Errors
    /// One line for the operator.
    pub(crate) fn addresses<'s>(&self, store: &'s Store) -> Result<&'s [IpAddr], String> {
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

    /// What the dataplane needs to know of it.
    ///
    /// # Errors
    /// Why it is not ready: one line for the operator.
    pub(crate) fn route(&self, store: &Store) -> Result<route::Endpoint, String> {
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
    /// Why nothing can be sent there.
    fn next_hop(&self) -> Result<NextHop, String> {
        let pod_end = self.pod_end.as_ref().map_err(Clone::clone)?;
        let mtu = self.link.mtu.min(pod_end.mtu);
        let (link, link_mac) = (self.slot, self.link.mac);
        Ok(NextHop { link, mac: pod_end.mac, link_mac, mtu, path_mtu: mtu })
    }
}

/// Looks at the pod's end of the link; gives it the MTU `mtu`, if there is one, and makes it write
/// whole checksums, unless it may leave them to its device.
///
/// # Errors
/// When the namespace can't be entered or doesn't hold the other end of the link, or is not known
/// although an MTU is wanted.
pub(crate) fn prepare_pod_end(
    spec: &EndpointSpec,
    link: &Link,
    mtu: Option<PodMtu>,
    leaves_checksums: bool,
) -> Result<PodEnd> {
    let found = match (&spec.netns, link.peer) {
        (Some(netns), Some(peer)) => {
            Some(prepare_in_netns(netns, peer, link, mtu, leaves_checksums)?)
        }
        (Some(_), None) => bail!("link {} is no end of a veth pair", link.name),
        (None, _) => {
            ensure!(
                spec.mtu.is_none(),
                "link {} is given an MTU without the pod's network namespace (netns), where its \
                 other end is",
                link.name
            );
            None
        }
    };
    match (found, spec.mac) {
        (Some(found), None) => Ok(found),
        (Some(found), Some(mac)) => {
            ensure!(
                found.hardware.mac == mac.0,
                "the pod's end of link {} has MAC address {}, not {mac}; leave --mac out",
                link.name,
                MacAddress(found.hardware.mac)
            );
            Ok(found)
        }
        // The pod's MTU is not known then; the two ends of a pair are nearly always equal.
        (None, Some(mac)) => {
            let hardware = Hardware { mac: mac.0, mtu: link.mtu };
            Ok(PodEnd { hardware, offload_was_on: false })
        }
        (None, None) => bail!(
            "link {} is given with neither the pod's network namespace (netns) nor its MAC address \
             (mac); name one",
            link.name
        ),
    }
}

/// The namespace must hold the other end of just this link: an endpoint with another pod's MAC
/// address would be cut off for no visible reason.
fn prepare_in_netns(
    path: &Path,
    peer: u32,
    link: &Link,
    mtu: Option<PodMtu>,
    leaves_checksums: bool,
) -> Result<PodEnd> {
    at_pod_end(path, peer, link, async |netlink, mut end| {
        if let Some(mtu) = mtu {
            end.mtu = mtu.into();
            netlink.set_mtu(&end, end.mtu).await?;
        }
        let offload_was_on = !leaves_checksums && offload::tx_checksum_off(&end.name)?;
        Ok(PodEnd { hardware: Hardware { mac: end.mac, mtu: end.mtu }, offload_was_on })
    })
}

/// Turns the TX checksum offload of the pod's end on again. A link or a namespace that is gone
/// needs it no more: then this returns false.
///
/// # Errors
/// When the namespace can't be entered or doesn't hold the other end of the link, or the driver
/// leaves the offload off.
pub(crate) async fn give_back_offload(netlink: &Netlink, spec: &EndpointSpec) -> Result<bool> {
    let Some(path) = spec.netns.as_deref().filter(|path| path.exists()) else { return Ok(false) };
    let Some(link) = netlink.link(&spec.link).await? else { return Ok(false) };
    let Some(peer) = link.peer else { bail!("link {} is no end of a veth pair", link.name) };
    at_pod_end(path, peer, &link, async |_, end| Ok(offload::tx_checksum_on(&end.name)?))?;
    Ok(true)
}

/// Runs `work` in the network namespace `path`, on the other end of `link`.
fn at_pod_end<T: Send>(
    path: &Path,
    peer: u32,
    link: &Link,
    work: impl AsyncFnOnce(&Netlink, Link) -> Result<T> + Send,
) -> Result<T> {
    let enter = async || -> Result<T> {
        let netlink = Netlink::connect()?;
        let end = netlink.link_at(peer).await?;
        let end = end.filter(|end| end.peer == Some(link.index)).with_context(|| {
            let path = path.display();
            format!("network namespace {path} doesn't hold the other end of link {}", link.name)
        })?;
        work(&netlink, end).await
    };
    netns::inside(path, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        runtime.block_on(enter())
    })?
}
