//! The veth pair of a pod: what this plugin creates itself, and what another one has created.

use std::fs::File;
use std::hash::Hasher;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::Path;

use ipnet::IpNet;
use podgate_hostnet::netns::inside;
use podgate_hostnet::{Link, Netlink};

use crate::error::{CniError, Code};

/// First letters of the names of links that this plugin creates.
const PREFIX: &str = "pgp";
/// Characters of a name that stand for the network, and for the attachment: a name has 15 bytes at
/// most.
const NETWORK_CHARACTERS: usize = 3;
const ATTACHMENT_CHARACTERS: usize = 9;

/// First letters of the names of a network's links, so that GC leaves those of others alone.
pub(crate) fn prefix(network: &str) -> String {
    format!("{PREFIX}{}", short(&[network], NETWORK_CHARACTERS))
}

/// Name of the node's end of a container's link. It depends on the network, the container and the
/// name of its interface only, so DEL and GC need no list of links.
pub(crate) fn host_name(network: &str, container: &str, interface: &str) -> String {
    let attachment = short(&[network, container, interface], ATTACHMENT_CHARACTERS);
    format!("{}{attachment}", prefix(network))
}

/// A hash of the parts, as this number of digits and lower-case letters.
fn short(parts: &[&str], characters: usize) -> String {
    let mut hasher = fnv::FnvHasher::default();
    for part in parts {
        hasher.write(part.as_bytes());
        hasher.write(b"/");
    }
    let mut rest = hasher.finish();
    let digits = (0..characters).map(|_| {
        let digit = char::from_digit((rest % 36) as u32, 36);
        rest /= 36;
        digit.unwrap_or('0')
    });
    digits.collect()
}

/// What a pod's end gets.
#[derive(Debug)]
pub(crate) struct PodEnd<'a> {
    pub(crate) name: &'a str,
    pub(crate) addresses: &'a [IpAddr],
    pub(crate) routes: &'a [IpNet],
    pub(crate) mtu: u32,
}

/// Both ends of a link.
#[derive(Debug)]
pub(crate) struct Ends {
    pub(crate) host: Link,
    pub(crate) pod: Link,
}

/// Runs netlink requests in the calling thread's network namespace.
fn block_on<T>(work: impl AsyncFnOnce(Netlink) -> Result<T, CniError>) -> Result<T, CniError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .map_err(|error| CniError::io("can't start", &error))?;
    runtime.block_on(async { work(Netlink::connect()?).await })
}

async fn require(netlink: &Netlink, name: &str) -> Result<Link, CniError> {
    let found = netlink.link(name).await?;
    found.ok_or_else(|| CniError::new(Code::Failed, format!("there is no link {name}")))
}

/// Creates the pair: the node's end is called `host`, the pod's end is in `netns`. A pair of an
/// earlier attempt is replaced. The ends are not up yet.
///
/// # Errors
/// When the namespace or a name can't be used.
pub(crate) fn create(host: &str, netns: &Path, end: &PodEnd<'_>) -> Result<Ends, CniError> {
    let namespace = File::open(netns).map_err(|error| {
        let message = format!("can't open network namespace {}: {error}", netns.display());
        CniError::new(Code::UnknownContainer, message)
    })?;
    let host = block_on(async |netlink| {
        if let Some(left) = netlink.link(host).await? {
            netlink.delete_link(&left).await?;
        }
        netlink.add_pod_pair(host, end.name, namespace.as_fd(), end.mtu).await?;
        require(&netlink, host).await
    })?;
    let pod = inside(netns, || block_on(async |netlink| require(&netlink, end.name).await))??;
    Ok(Ends { host, pod })
}

/// Sets both ends up, the pod's with its addresses and routes.
///
/// # Errors
/// When the kernel rejects a request.
pub(crate) fn configure(ends: &Ends, netns: &Path, end: &PodEnd<'_>) -> Result<(), CniError> {
    block_on(async |netlink| Ok(netlink.set_up(&ends.host).await?))?;
    let (pod, gateway_mac) = (&ends.pod, ends.host.mac);
    inside(netns, || {
        block_on(async |netlink| {
            if let Some(loopback) = netlink.link("lo").await? {
                netlink.set_up(&loopback).await?;
            }
            netlink.set_up(pod).await?;
            for address in end.addresses {
                netlink.add_host_address(pod, *address).await?;
            }
            for family in one_of_each_family(end.addresses) {
                netlink.add_gateway(pod, family, gateway_mac).await?;
            }
            for route in end.routes {
                netlink.add_gateway_route(pod, route.network(), route.prefix_len()).await?;
            }
            Ok(())
        })
    })?
}

fn one_of_each_family(addresses: &[IpAddr]) -> impl Iterator<Item = IpAddr> {
    let first = |is_family: fn(&IpAddr) -> bool| addresses.iter().copied().find(is_family);
    [first(IpAddr::is_ipv4), first(IpAddr::is_ipv6)].into_iter().flatten()
}

/// Deletes the node's end of a link, and the pod's end with it, if it exists.
///
/// # Errors
/// When the kernel rejects a request.
pub(crate) fn delete(host: &str) -> Result<(), CniError> {
    block_on(async |netlink| {
        let Some(link) = netlink.link(host).await? else { return Ok(()) };
        match netlink.delete_link(&link).await {
            // It was deleted meanwhile, with its namespace.
            Err(_) if netlink.link(host).await?.is_none() => Ok(()),
            result => Ok(result?),
        }
    })
}

/// The ends of a link that another plugin has created: the pod's interface, and its peer in the
/// node's namespace.
///
/// # Errors
/// When the interface is no veth, or its peer is not in this namespace.
pub(crate) fn find(netns: &Path, interface: &str) -> Result<Ends, CniError> {
    let pod = inside(netns, || block_on(async |netlink| require(&netlink, interface).await))??;
    let not_veth = || {
        let message = format!(
            "interface {interface} of the pod is not an end of a veth pair: podgate needs a plugin \
             that creates veth pairs, like bridge or ptp"
        );
        CniError::new(Code::Config, message)
    };
    let peer = pod.peer.ok_or_else(not_veth)?;
    let host = block_on(async |netlink| Ok(netlink.link_at(peer).await?))?;
    let host = host.filter(|host| host.peer == Some(pod.index)).ok_or_else(not_veth)?;
    Ok(Ends { host, pod })
}

/// The addresses of the pod's interface.
///
/// # Errors
/// When there is no such interface.
pub(crate) fn addresses(netns: &Path, interface: &str) -> Result<Vec<IpAddr>, CniError> {
    inside(netns, || {
        block_on(async |netlink| {
            let link = require(&netlink, interface).await?;
            Ok(netlink.addresses_of(&link).await?)
        })
    })?
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests {
    use super::*;

    #[test]
    fn names_of_links_are_short_and_depend_on_each_part() {
        let name = host_name("pods", "a1b2", "eth0");
        assert!(name.len() == 15 && name.starts_with(&prefix("pods")), "{name}");
        assert!(name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit()), "{name}");
        assert_eq!(name, host_name("pods", "a1b2", "eth0"));
        assert_ne!(name, host_name("pods", "a1b2", "eth1"));
        assert_ne!(host_name("n", "a", "b/c"), host_name("n", "a/b", "c/"));
        assert!(!host_name("storage", "a1b2", "eth0").starts_with(&prefix("pods")));
    }

    #[test]
    fn a_family_has_one_gateway_however_many_addresses_it_has() {
        let addresses: [IpAddr; 4] =
            ["10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2"].map(|text| text.parse().unwrap());
        let gateways = |addresses: &[IpAddr]| Vec::from_iter(one_of_each_family(addresses));
        assert_eq!(gateways(&addresses), [addresses[0], addresses[2]]);
        assert_eq!(gateways(&addresses[2..]), [addresses[2]]);
        assert!(gateways(&[]).is_empty());
    }
}
