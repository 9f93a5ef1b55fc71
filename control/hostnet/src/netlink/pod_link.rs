//! The veth pair of a pod, as a CNI plugin makes it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use rtnetlink::packet_route::link::{InfoData, InfoVeth};
use rtnetlink::packet_route::neighbour::NeighbourState;
use rtnetlink::packet_route::route::{RouteMessage, RouteScope};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};

use super::{Link, Netlink, NetlinkError};

/// The IPv4 gateway of pods. No link has this address: pods have a permanent neighbour entry for
/// it.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The IPv6 gateway of pods, likewise.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// The gateway of the address's family.
#[must_use]
pub const fn gateway_for(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => IpAddr::V4(GATEWAY_V4),
        IpAddr::V6(_) => IpAddr::V6(GATEWAY_V6),
    }
}

impl Netlink {
    /// Creates a veth pair with its peer in another network namespace. Both ends have the MTU, and
    /// are down.
    ///
    /// # Errors
    /// When a link of one of these names exists, or the kernel answers with another error.
    pub async fn add_pod_pair(
        &self,
        name: &str,
        peer: &str,
        netns: BorrowedFd<'_>,
        mtu: u32,
    ) -> Result<(), NetlinkError> {
        let far = LinkMessageBuilder::<LinkUnspec>::new()
            .name(peer.to_owned())
            .mtu(mtu)
            .setns_by_fd(netns.as_raw_fd())
            .build();
        let pair = LinkVeth::new(name, peer)
            .mtu(mtu)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(far)))
            .build();
        self.add_link(pair, format!("create link {name} with peer {peer} in the pod")).await
    }

    /// Sets a link up.
    ///
    /// # Errors
    /// When the kernel answers with an error.
    pub async fn set_up(&self, link: &Link) -> Result<(), NetlinkError> {
        let up = LinkMessageBuilder::<LinkUnspec>::new().index(link.index).up().build();
        self.change_link(up, format!("set link {} up", link.name)).await
    }

    /// Adds an address to a link, as a single host's: no route to a subnet comes with it. Duplicate
    /// address detection is off, as it would delay IPv6 addresses by a second.
    ///
    /// # Errors
    /// When the kernel answers with an error.
    pub async fn add_host_address(&self, link: &Link, address: IpAddr) -> Result<(), NetlinkError> {
        use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags};
        let length = if address.is_ipv4() { 32 } else { 128 };
        let mut request = self.handle.address().add(link.index, address, length);
        if address.is_ipv6() {
            let flags = AddressAttribute::Flags(AddressFlags::Nodad);
            request.message_mut().attributes.push(flags);
        }
        request.execute().await.map_err(|error| {
            NetlinkError::new(format!("add address {address} to link {}", link.name), &error)
        })
    }

    /// Adds what a pod needs to send by the gateway of `family`'s address family: a permanent
    /// neighbour entry with the MAC address of the node's end, and a route to the gateway.
    ///
    /// # Errors
    /// When the kernel answers with an error.
    pub async fn add_gateway(
        &self,
        link: &Link,
        family: IpAddr,
        mac: [u8; 6],
    ) -> Result<(), NetlinkError> {
        let gateway = gateway_for(family);
        self.handle
            .neighbours()
            .add(link.index, gateway)
            .link_layer_address(&mac)
            .state(NeighbourState::Permanent)
            .replace()
            .execute()
            .await
            .map_err(|error| {
                NetlinkError::new(format!("add the neighbour entry of {gateway}"), &error)
            })?;
        // IPv6 link-local addresses have a route.
        if let IpAddr::V4(gateway) = gateway {
            let route = RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(gateway, 32)
                .output_interface(link.index)
                .scope(RouteScope::Link)
                .build();
            self.add_route(route, format!("add a route to {gateway}")).await?;
        }
        Ok(())
    }

    /// Adds a route by the gateway, to the prefix `to` of this length.
    ///
    /// # Errors
    /// When the kernel answers with an error.
    pub async fn add_gateway_route(
        &self,
        link: &Link,
        to: IpAddr,
        length: u8,
    ) -> Result<(), NetlinkError> {
        let route = match to {
            IpAddr::V4(to) => RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(to, length)
                .gateway(GATEWAY_V4)
                .output_interface(link.index)
                .build(),
            IpAddr::V6(to) => RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(to, length)
                .gateway(GATEWAY_V6)
                .output_interface(link.index)
                .build(),
        };
        self.add_route(route, format!("add a route to {to}/{length}")).await
    }

    async fn add_route(&self, route: RouteMessage, action: String) -> Result<(), NetlinkError> {
        let added = self.handle.route().add(route).execute().await;
        added.map_err(|error| NetlinkError::new(action, &error))
    }

    /// The link's addresses, of both families; without link-local IPv6 addresses.
    ///
    /// # Errors
    /// When the kernel answers with an error.
    pub async fn addresses_of(&self, link: &Link) -> Result<Vec<IpAddr>, NetlinkError> {
        use futures_util::TryStreamExt;
        let request = self.handle.address().get().set_link_index_filter(link.index);
        let messages: Vec<_> = request.execute().try_collect().await.map_err(|error| {
            NetlinkError::new(format!("list addresses of link {}", link.name), &error)
        })?;
        let is_link_local = |address: &IpAddr| match address {
            IpAddr::V4(_) => false,
            IpAddr::V6(address) => address.is_unicast_link_local(),
        };
        let addresses = messages.iter().filter_map(super::local_address);
        Ok(addresses.filter(|address| !is_link_local(address)).collect())
    }
}
