//! Routes: ours to the pods, and the node's ways out.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::{StreamExt, TryStreamExt};
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteScope, RouteType,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Link, Netlink, NetlinkError};

/// The largest MTU that a route can have: the kernel takes more for this (`ip_metrics_convert`,
/// `net/ipv4/metrics.c`).
pub(crate) const ROUTE_MTU_MAX: u32 = 65535 - 15;

/// A unicast route.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Route {
    /// Address and length of the destination prefix.
    to: (IpAddr, u8),
    /// Indices of the links that it leads out of; several for a multipath route.
    links: Vec<u32>,
    /// MTU of its own, bytes; zero for none.
    mtu: u32,
}

/// What the routing tables say.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Routes {
    /// Unicast routes of all tables.
    pub(crate) unicast: Vec<Route>,
    /// Prefixes that the kernel delivers to this node itself: its addresses, the broadcast
    /// addresses of its subnets, anycast addresses, and what is routed to it as `local`.
    pub(crate) local: Vec<(IpAddr, u8)>,
}

/// Tables that every packet is looked up in (`RT_TABLE_DEFAULT`, `RT_TABLE_MAIN` and
/// `RT_TABLE_LOCAL` of `include/uapi/linux/rtnetlink.h`).
const TABLES_OF_ALL: [u32; 3] = [253, 254, 255];

/// The prefix that a route delivers to this node. A default route of another table is left out:
/// that is how packets with some mark are brought to a transparent proxy.
fn local_prefix(message: &RouteMessage) -> Option<(IpAddr, u8)> {
    use RouteType::{Anycast, Broadcast, Local};
    if !matches!(message.header.kind, Local | Broadcast | Anycast) {
        return None;
    }
    let length = message.header.destination_prefix_length;
    let (mut to, mut table) = (any_of(message)?, u32::from(message.header.table));
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(v4)) => to = (*v4).into(),
            RouteAttribute::Destination(RouteAddress::Inet6(v6)) => to = (*v6).into(),
            RouteAttribute::Table(number) => table = *number,
            _ => {}
        }
    }
    (length > 0 || TABLES_OF_ALL.contains(&table)).then_some((to, length))
}

/// The unspecified address of a route's family, which a route without a destination leads to.
fn any_of(message: &RouteMessage) -> Option<IpAddr> {
    match message.header.address_family {
        AddressFamily::Inet => Some(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        AddressFamily::Inet6 => Some(IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
        _ => None,
    }
}

impl Route {
    /// `None` for routes that lead to no other host.
    fn from_message(message: &RouteMessage) -> Option<Self> {
        if message.header.kind != RouteType::Unicast {
            return None;
        }
        let any = any_of(message)?;
        let length = message.header.destination_prefix_length;
        let mut route = Self { to: (any, length), links: Vec::new(), mtu: 0 };
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(v4)) => route.to.0 = (*v4).into(),
                RouteAttribute::Destination(RouteAddress::Inet6(v6)) => route.to.0 = (*v6).into(),
                RouteAttribute::Oif(index) => route.links.push(*index),
                RouteAttribute::MultiPath(hops) => {
                    route.links.extend(hops.iter().map(|hop| hop.interface_index));
                }
                RouteAttribute::Metrics(metrics) => {
                    route.mtu = metrics.iter().find_map(mtu_of).unwrap_or(0);
                }
                _ => {}
            }
        }
        Some(route)
    }

    /// The address that this leads to, and its MTU, if it is such as [`Netlink::set_route`] makes
    /// for `link`.
    pub(crate) fn host_route(&self, link: u32) -> Option<(IpAddr, u32)> {
        let (address, length) = self.to;
        let whole = if address.is_ipv4() { 32 } else { 128 };
        (self.links == [link] && length == whole).then_some((address, self.mtu))
    }

    /// Every link has one of these, whether it leads anywhere or not.
    fn is_link_local(&self) -> bool {
        matches!(self.to.0, IpAddr::V6(address) if address.is_unicast_link_local())
    }
}

/// The largest packet that gets through by every way out of this node, bytes; `None` if there is
/// no way out. A way out is a link that some route leads to, unless it is down, a loopback or one
/// of `ours`.
pub(crate) fn least_mtu(
    routes: &[Route],
    links: &[Link],
    ours: impl Fn(u32) -> bool,
) -> Option<u32> {
    let ways: HashMap<u32, u32> = links
        .iter()
        .filter(|link| link.up && !link.loopback && !ours(link.index))
        .map(|link| (link.index, link.mtu))
        .collect();
    let leading_out = routes.iter().filter(|route| !route.is_link_local());
    let mtus = leading_out.flat_map(|route| {
        route.links.iter().filter_map(|link| ways.get(link)).map(|mtu| match route.mtu {
            0 => *mtu,
            own => own.min(*mtu),
        })
    });
    mtus.min()
}

impl Netlink {
    /// Routes `address` to the link, before any other route to it, packets of at most `mtu` bytes;
    /// with `replace`, in place of the route that this made before.
    ///
    /// A route that the pod's CNI made stays, and is in force again when ours is gone.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) async fn set_route(
        &self,
        address: IpAddr,
        link: u32,
        mtu: u32,
        replace: bool,
    ) -> Result<(), NetlinkError> {
        let mut message = host_route(address, link);
        message.attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)]));
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewRoute(message));
        // Neither EXCL nor APPEND: an IPv4 route goes before its equals. So ours is the first,
        // which is the one that REPLACE replaces.
        let replace = if replace { NLM_F_REPLACE } else { 0 };
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | replace;
        let failed = |error: &rtnetlink::Error| {
            NetlinkError::new(format!("add a route to {address}"), error)
        };
        let mut answers = self.handle.clone().request(request).map_err(|error| failed(&error))?;
        while let Some(answer) = answers.next().await {
            if let NetlinkPayload::Error(message) = answer.payload
                && message.code.is_some()
            {
                let error = failed(&rtnetlink::Error::NetlinkError(message));
                if error.errno() != Some(nix::libc::EEXIST) {
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Deletes a route that [`Self::set_route`] made, if it is still there.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) async fn delete_route(
        &self,
        address: IpAddr,
        link: u32,
    ) -> Result<(), NetlinkError> {
        match self.handle.route().del(host_route(address, link)).execute().await {
            Ok(()) => Ok(()),
            Err(error) => {
                let error = NetlinkError::new(format!("delete the route to {address}"), &error);
                if error.errno() == Some(nix::libc::ESRCH) { Ok(()) } else { Err(error) }
            }
        }
    }

    /// All routes, of all tables.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) async fn routes(&self) -> Result<Routes, NetlinkError> {
        let mut found = Routes::default();
        for any in [IpAddr::from([0; 4]), IpAddr::from([0; 16])] {
            let mut filter = RouteMessage::default();
            filter.header.address_family = host_route(any, 0).header.address_family;
            let mut routes = self.handle.route().get(filter).execute();
            while let Some(route) =
                routes.try_next().await.map_err(|error| NetlinkError::new("list routes", &error))?
            {
                found.unicast.extend(Route::from_message(&route));
                found.local.extend(local_prefix(&route));
            }
        }
        Ok(found)
    }
}

/// Metric of our IPv6 routes: before the 1024 that routes get by default.
const IPV6_METRIC: u32 = 1;

fn host_route(address: IpAddr, link: u32) -> RouteMessage {
    match address {
        IpAddr::V4(address) => RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(address, 32)
            .output_interface(link)
            .scope(RouteScope::Link)
            .build(),
        IpAddr::V6(address) => RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(address, 128)
            .output_interface(link)
            .priority(IPV6_METRIC)
            .build(),
    }
}

fn mtu_of(metric: &RouteMetric) -> Option<u32> {
    match metric {
        RouteMetric::Mtu(mtu) => Some(*mtu),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{in_netns, up};
    use super::*;

    /// The link that the kernel would send packets to `address` out of.
    async fn way_to(netlink: &Netlink, address: IpAddr) -> Option<u32> {
        let mut request = host_route(address, 0);
        request.attributes.retain(|a| matches!(a, RouteAttribute::Destination(_)));
        let mut routes = std::pin::pin!(netlink.handle.route().get(request).execute());
        let route = routes.try_next().await.ok()??;
        route.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Oif(index) => Some(*index),
            _ => None,
        })
    }

    /// Host routes by `link`.
    async fn by(netlink: &Netlink, link: &Link) -> Vec<(IpAddr, u32)> {
        let routes = netlink.routes().await.unwrap();
        routes.unicast.iter().filter_map(|route| route.host_route(link.index)).collect()
    }

    #[test]
    fn our_route_goes_before_another_and_leaves_it_in_place() {
        in_netns(|netlink| async move {
            netlink.add_pair("pg-t0", "pg-t1", 9000).await.unwrap();
            let (ours, other) = (up(&netlink, "pg-t0").await, up(&netlink, "pg-t1").await);
            for address in ["10.0.0.1", "fd00::1"] {
                let address: IpAddr = address.parse().unwrap();
                // As a CNI plugin makes it: without a metric of its own.
                let mut theirs = host_route(address, other.index);
                theirs.attributes.retain(|a| !matches!(a, RouteAttribute::Priority(_)));
                netlink.handle.route().add(theirs).execute().await.unwrap();
                assert_eq!(way_to(&netlink, address).await, Some(other.index));
                netlink.set_route(address, ours.index, 1500, false).await.unwrap();
                netlink.set_route(address, ours.index, 1500, false).await.unwrap();
                assert_eq!(way_to(&netlink, address).await, Some(ours.index));
                assert_eq!(by(&netlink, &ours).await, [(address, 1500)]);
                netlink.set_route(address, ours.index, 9000, true).await.unwrap();
                assert_eq!(by(&netlink, &ours).await, [(address, 9000)]);
                assert!(by(&netlink, &other).await.contains(&(address, 0)));
                netlink.set_route(address, ours.index, 65535, true).await.unwrap();
                assert_eq!(by(&netlink, &ours).await, [(address, ROUTE_MTU_MAX)]);
                netlink.delete_route(address, ours.index).await.unwrap();
                netlink.delete_route(address, ours.index).await.unwrap();
                assert_eq!(way_to(&netlink, address).await, Some(other.index));
            }
        });
    }

    #[test]
    fn the_ways_out_are_what_routes_lead_to_and_not_ours() {
        let link = |index, mtu| Link {
            index,
            name: format!("l{index}"),
            mac: [0; 6],
            mtu,
            peer: None,
            up: index != 5,
            loopback: index == 1,
        };
        let links =
            [link(1, 65536), link(2, 1500), link(3, 1400), link(4, 576), link(5, 68), link(6, 70)];
        let to = |address: &str, length, links: &[u32], mtu| Route {
            to: (address.parse().unwrap(), length),
            links: links.to_vec(),
            mtu,
        };
        let ours = |index| index == 4;
        let least = |routes: &[Route]| least_mtu(routes, &links, ours);
        assert_eq!(least(&[]), None);
        // Of loopback, ours, a link that is down, one that is gone, and what every link has.
        let nowhere = to("10.0.0.0", 8, &[1, 4, 5, 99], 0);
        let link_local = to("fe80::", 64, &[6], 0);
        assert_eq!(least(&[nowhere.clone(), link_local.clone()]), None);
        let default = to("0.0.0.0", 0, &[2], 0);
        assert_eq!(least(&[nowhere, link_local, default.clone()]), Some(1500));
        assert_eq!(least(&[default.clone(), to("::", 0, &[2, 3], 0)]), Some(1400));
        assert_eq!(least(&[default.clone(), to("192.0.2.0", 24, &[2], 1300)]), Some(1300));
        assert_eq!(least(&[default, to("192.0.2.0", 24, &[2], 9000)]), Some(1500));
    }

    #[test]
    fn local_prefixes_are_addresses_broadcast_addresses_and_local_routes_but_no_proxy_rule() {
        in_netns(|netlink| async move {
            netlink.add_pair("pg-t0", "pg-t1", 9000).await.unwrap();
            up(&netlink, "pg-t0").await;
            up(&netlink, "pg-t1").await;
            for line in [
                "link set lo up",
                "addr add 10.7.0.1/24 broadcast 10.7.0.255 dev pg-t0",
                "addr add fd07::1/64 dev pg-t0 nodad",
                "route add local 10.8.0.0/16 dev lo",
                "route add local 10.9.0.0/16 dev lo table 77",
                "route add local 0.0.0.0/0 dev lo table 2004",
                "route add local fd08::/32 dev lo",
            ] {
                let status = std::process::Command::new("ip").args(line.split(' ')).status();
                assert!(status.unwrap().success(), "ip {line}");
            }
            let local = netlink.routes().await.unwrap().local;
            let has = |text: &str, length| local.contains(&(text.parse().unwrap(), length));
            assert!(has("10.7.0.1", 32) && has("10.7.0.255", 32), "{local:?}");
            assert!(has("10.8.0.0", 16) && has("10.9.0.0", 16), "{local:?}");
            assert!(has("fd07::1", 128) && has("fd08::", 32), "{local:?}");
            assert!(!has("0.0.0.0", 0) && !has("10.7.0.0", 24), "{local:?}");
        });
    }
}
