//! Routes: podgate's host routes to pods, and the routes out of the node.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::{StreamExt, TryStreamExt};
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteLwEnCapType, RouteMessage, RouteMetric, RouteScope,
    RouteType,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Link, Netlink, NetlinkError};

/// The largest MTU that a route can have: the kernel takes more for this (`ip_metrics_convert`,
/// `net/ipv4/metrics.c`).
pub const ROUTE_MTU_MAX: u32 = 65535 - 15;

/// A unicast route.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Route {
    /// Destination prefix and its length.
    to: (IpAddr, u8),
    /// Indices of its output links; several for a multipath route.
    links: Vec<u32>,
    /// The route's MTU, bytes; zero if it has none.
    mtu: u32,
}

/// Routes of all tables.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Routes {
    /// Unicast routes.
    pub unicast: Vec<Route>,
    /// Prefixes whose packets the node itself processes: addresses, broadcast and anycast
    /// addresses, routes of type `local`, and SRv6 endpoints.
    pub local: Vec<(IpAddr, u8)>,
}

/// Tables that the default routing rules look up for every packet.
const DEFAULT_TABLES: [u8; 3] = [libc::RT_TABLE_DEFAULT, libc::RT_TABLE_MAIN, libc::RT_TABLE_LOCAL];

/// The destination prefix of a local route, or of one whose packets the node itself processes. A
/// default route of a table that is not looked up by default is left out: it serves a transparent
/// proxy, for packets with a mark.
fn local_prefix(message: &RouteMessage) -> Option<(IpAddr, u8)> {
    use RouteType::{Anycast, Broadcast, Local};
    let is_local = matches!(message.header.kind, Local | Broadcast | Anycast);
    if !is_local && !message.attributes.iter().any(is_processed) {
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
    (length > 0 || DEFAULT_TABLES.iter().any(|default| table == u32::from(*default)))
        .then_some((to, length))
}

/// Whether the node may remove headers of the route's packets, or rewrite them, before it forwards
/// what is inside: SRv6 endpoints (RFC 8986 §4), and encapsulations that are not known. The others
/// only add headers (`include/uapi/linux/lwtunnel.h`).
fn is_processed(attribute: &RouteAttribute) -> bool {
    use RouteLwEnCapType::{Ioam6, Ip, Ip6, Mpls, None, Rpl, Seg6, Xfrm};
    match attribute {
        RouteAttribute::EncapType(kind) => {
            !matches!(kind, None | Ip | Ip6 | Mpls | Seg6 | Rpl | Ioam6 | Xfrm)
        }
        RouteAttribute::MultiPath(hops) => {
            hops.iter().any(|hop| hop.attributes.iter().any(is_processed))
        }
        _ => false,
    }
}

/// The unspecified address of the route's family: the destination of a default route.
fn any_of(message: &RouteMessage) -> Option<IpAddr> {
    match message.header.address_family {
        AddressFamily::Inet => Some(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        AddressFamily::Inet6 => Some(IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
        _ => None,
    }
}

impl Route {
    /// `None` if it is no unicast route.
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

    /// Destination and MTU, if this is a host route out of `link` alone, as
    /// [`Netlink::set_route`] adds.
    pub fn host_route(&self, link: u32) -> Option<(IpAddr, u32)> {
        let (address, length) = self.to;
        let whole = if address.is_ipv4() { 32 } else { 128 };
        (self.links == [link] && length == whole).then_some((address, self.mtu))
    }

    /// The kernel adds one to every link, so it says nothing about reachability.
    fn is_link_local(&self) -> bool {
        matches!(self.to.0, IpAddr::V6(address) if address.is_unicast_link_local())
    }
}

/// The least MTU, bytes, of all routes out of this node; `None` if there is none. Only routes out
/// of links that are up count, without loopback links and links for which `is_own` is true.
#[must_use]
pub fn path_mtu(routes: &[Route], links: &[Link], is_own: impl Fn(u32) -> bool) -> Option<u32> {
    let uplinks: HashMap<u32, u32> = links
        .iter()
        .filter(|link| link.up && !link.loopback && !is_own(link.index))
        .map(|link| (link.index, link.mtu))
        .collect();
    let unicast = routes.iter().filter(|route| !route.is_link_local());
    let mtus = unicast.flat_map(|route| {
        route.links.iter().filter_map(|link| uplinks.get(link)).map(|mtu| match route.mtu {
            0 => *mtu,
            own => own.min(*mtu),
        })
    });
    mtus.min()
}

/// What [`Netlink::set_route`] does with its earlier route to the same address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RouteMode {
    /// There is none.
    Add,
    /// Replaces it.
    Replace,
}

impl Netlink {
    /// Adds, or replaces, a host route to `address` out of the link, with the MTU `mtu` (bytes) and
    /// preferred to other host routes to the same address.
    ///
    /// A route of the pod's CNI plugin stays and is used again when this one is deleted.
    ///
    /// # Errors
    /// When the kernel rejects a request.
    pub async fn set_route(
        &self,
        address: IpAddr,
        link: u32,
        mtu: u32,
        mode: RouteMode,
    ) -> Result<(), NetlinkError> {
        let mut message = host_route(address, link);
        message.attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)]));
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewRoute(message));
        // Without EXCL and APPEND an IPv4 route is inserted before equal ones (fib_table_insert,
        // net/ipv4/fib_trie.c), so ours is the first, which is the one that REPLACE replaces.
        let replace = match mode {
            RouteMode::Add => 0,
            RouteMode::Replace => NLM_F_REPLACE,
        };
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
                if error.errno() != Some(libc::EEXIST) {
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Deletes a route that [`Self::set_route`] added, if it exists.
    ///
    /// # Errors
    /// When the kernel rejects a request.
    pub async fn delete_route(&self, address: IpAddr, link: u32) -> Result<(), NetlinkError> {
        match self.handle.route().del(host_route(address, link)).execute().await {
            Ok(()) => Ok(()),
            Err(error) => {
                let error = NetlinkError::new(format!("delete the route to {address}"), &error);
                if error.errno() == Some(libc::ESRCH) { Ok(()) } else { Err(error) }
            }
        }
    }

    /// All routes, of all tables.
    ///
    /// # Errors
    /// When the kernel rejects a request.
    pub async fn routes(&self) -> Result<Routes, NetlinkError> {
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

/// Metric of our IPv6 routes; the default is 1024, and lower is preferred.
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

    /// The output link that the kernel chooses for `address`.
    async fn output_link(netlink: &Netlink, address: IpAddr) -> Option<u32> {
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
    fn our_route_is_preferred_and_leaves_the_other_in_place() {
        in_netns(|netlink| async move {
            netlink.add_pair("pg-t0", "pg-t1", 9000).await.unwrap();
            let (ours, other) = (up(&netlink, "pg-t0").await, up(&netlink, "pg-t1").await);
            for address in ["10.0.0.1", "fd00::1"] {
                let address: IpAddr = address.parse().unwrap();
                // As a CNI plugin makes it: without a metric of its own.
                let mut theirs = host_route(address, other.index);
                theirs.attributes.retain(|a| !matches!(a, RouteAttribute::Priority(_)));
                netlink.handle.route().add(theirs).execute().await.unwrap();
                assert_eq!(output_link(&netlink, address).await, Some(other.index));
                netlink.set_route(address, ours.index, 1500, RouteMode::Add).await.unwrap();
                netlink.set_route(address, ours.index, 1500, RouteMode::Add).await.unwrap();
                assert_eq!(output_link(&netlink, address).await, Some(ours.index));
                assert_eq!(by(&netlink, &ours).await, [(address, 1500)]);
                netlink.set_route(address, ours.index, 9000, RouteMode::Replace).await.unwrap();
                assert_eq!(by(&netlink, &ours).await, [(address, 9000)]);
                assert!(by(&netlink, &other).await.contains(&(address, 0)));
                netlink.set_route(address, ours.index, 65535, RouteMode::Replace).await.unwrap();
                assert_eq!(by(&netlink, &ours).await, [(address, ROUTE_MTU_MAX)]);
                netlink.delete_route(address, ours.index).await.unwrap();
                netlink.delete_route(address, ours.index).await.unwrap();
                assert_eq!(output_link(&netlink, address).await, Some(other.index));
            }
        });
    }

    #[test]
    fn path_mtu_counts_the_output_links_of_routes_but_not_our_own() {
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
        let least = |routes: &[Route]| path_mtu(routes, &links, ours);
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
    fn local_prefixes_are_what_the_node_itself_processes_but_no_proxy_rule() {
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
                "route add fd99::/64 encap seg6local action End.DT6 table 254 dev pg-t0",
                "route add fd98::/64 encap seg6 mode encap segs fd97::1 dev pg-t0",
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
            assert!(has("fd99::", 64) && !has("fd98::", 64), "{local:?}");
        });
    }
}
