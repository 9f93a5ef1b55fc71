//! Two pods on one node.

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};
use podgate_tests::lab::Netns;

use crate::traffic::Flow;

/// A pod: a namespace, and a veth pair to the node.
#[derive(Debug)]
pub(crate) struct Pod {
    /// Its namespace.
    pub(crate) netns: Netns,
    /// Name of the node's end of its veth pair; the pod's is `eth0`.
    pub(crate) link: String,
    /// Ethernet address of the node's end.
    pub(crate) link_mac: [u8; 6],
    /// Ethernet address of `eth0`.
    pub(crate) mac: [u8; 6],
    /// Its address.
    pub(crate) address: Ipv4Addr,
}

/// Two pods in one subnet, and the node between them, on which a forwarder runs. Neighbour entries
/// are static, so that only the measured traffic is on the links.
#[derive(Debug)]
pub(crate) struct Pair {
    /// The sending pod.
    pub(crate) client: Pod,
    /// The receiving pod.
    pub(crate) server: Pod,
    /// The node.
    pub(crate) node: Netns,
}

impl Pair {
    /// Creates the pods of the forwarder `name`, which must be short because link names contain it.
    ///
    /// # Errors
    /// Without root, or when a name is taken or too long.
    pub(crate) fn new(name: &str) -> Result<Self> {
        let node = Netns::create(&format!("{name}-node"))?;
        disable_ipv6(&node)?;
        let client = Pod::create(&node, name, 1)?;
        let server = Pod::create(&node, name, 2)?;
        client.add_neighbour(&server)?;
        server.add_neighbour(&client)?;
        Ok(Self { client, server, node })
    }

    /// Turns TX checksum offload off in both pods.
    ///
    /// # Errors
    /// When ethtool fails.
    pub(crate) fn checksum_in_pods(&self) -> Result<()> {
        for pod in [&self.client, &self.server] {
            super::run_in(&pod.netns, "ethtool", &["-K", "eth0", "tx", "off"])?;
        }
        Ok(())
    }

    /// The flow from the client to `port` of the server.
    #[must_use]
    pub(crate) fn flow(&self, port: u16) -> Flow {
        Flow {
            source_mac: self.client.mac,
            target_mac: self.server.mac,
            source: self.client.address,
            target: self.server.address,
            port,
        }
    }
}

impl Pod {
    /// Creates a pod and its veth pair to the node.
    pub(super) fn create(node: &Netns, name: &str, number: u8) -> Result<Self> {
        let netns = Netns::create(&format!("{name}-pod{number}"))?;
        disable_ipv6(&netns)?;
        let link = format!("{name}-{number}");
        ensure!(link.len() < 16, "{link} is too long for the name of a link (15 bytes)");
        let (link_mac, mac) = ([2, 0, 0, 0, 1, number], [2, 0, 0, 0, 2, number]);
        let address = Ipv4Addr::new(10, 64, 0, number);
        node.ip(&format!(
            "link add {link} address {} type veth peer name eth0 address {} netns {}\n\
             link set {link} up\n",
            colons(link_mac),
            colons(mac),
            netns.name()
        ))?;
        netns.ip(&format!("link set lo up\nlink set eth0 up\naddr add {address}/24 dev eth0\n"))?;
        Ok(Self { netns, link, link_mac, mac, address })
    }

    /// Adds a static neighbour entry for another pod.
    pub(super) fn add_neighbour(&self, other: &Self) -> Result<()> {
        let (address, mac) = (other.address, colons(other.mac));
        self.netns.ip(&format!("neigh add {address} lladdr {mac} dev eth0 nud permanent\n"))
    }
}

/// Disables IPv6, whose neighbour discovery would add traffic.
fn disable_ipv6(netns: &Netns) -> Result<()> {
    netns.sysctl(&[("ipv6/conf/default/disable_ipv6", "1"), ("ipv6/conf/all/disable_ipv6", "1")])
}

/// A MAC address as `ip` writes it.
pub(super) fn colons(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
