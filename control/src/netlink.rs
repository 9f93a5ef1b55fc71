//! What podgate asks of the kernel's network stack, over rtnetlink(7): links, addresses, routes.

use std::io;
use std::net::IpAddr;

use futures_util::{Stream, StreamExt, TryStreamExt};
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkMessage, LinkXdp,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteScope, RouteType,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{
    LinkMessageBuilder, LinkUnspec, LinkVeth, MulticastGroup, RouteMessageBuilder, new_connection,
    new_multicast_connection,
};

/// Why the kernel's network stack didn't do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetlinkError {
    /// The socket can't be had.
    #[error("can't open a netlink socket: {0}")]
    Socket(#[from] io::Error),
    /// The kernel refused.
    #[error("can't {action}: {source}")]
    Refused {
        /// What was asked.
        action: String,
        /// What the kernel said.
        source: io::Error,
    },
}

impl NetlinkError {
    fn new(action: impl Into<String>, error: &rtnetlink::Error) -> Self {
        Self::Refused { action: action.into(), source: to_io(error) }
    }

    fn errno(&self) -> Option<i32> {
        match self {
            Self::Socket(source) | Self::Refused { source, .. } => source.raw_os_error(),
        }
    }
}

fn to_io(error: &rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other.to_string()),
    }
}

/// One netdev of this network namespace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Link {
    /// Index, unique in the namespace.
    pub(crate) index: u32,
    /// Name.
    pub(crate) name: String,
    /// Ethernet address; zero for netdevs without.
    pub(crate) mac: [u8; 6],
    /// Largest IP packet, bytes.
    pub(crate) mtu: u32,
    /// Index of the other end, for one end of a veth pair; in the other end's namespace.
    pub(crate) peer: Option<u32>,
}

impl Link {
    fn from_message(message: &LinkMessage) -> Self {
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            mac: [0; 6],
            mtu: 0,
            peer: None,
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Address(bytes) => {
                    link.mac = bytes.as_slice().try_into().unwrap_or_default();
                }
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::Link(peer) => link.peer = Some(*peer),
                _ => {}
            }
        }
        link
    }
}

/// A change in the kernel's network stack.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Change {
    /// This link is new, or something about it changed.
    Link(Link),
    /// The link with this index is gone from the namespace.
    LinkGone(u32),
    /// Some address came or went.
    Addresses,
    /// Changes were lost: anything may be different.
    Overrun,
}

/// A connection to the kernel, for the network namespace that it was made in.
#[derive(Clone, Debug)]
pub(crate) struct Netlink {
    handle: rtnetlink::Handle,
}

impl Netlink {
    /// Connects. Must run inside a tokio runtime.
    ///
    /// # Errors
    /// When no socket can be had.
    pub(crate) fn connect() -> Result<Self, NetlinkError> {
        let (connection, handle, _) = new_connection()?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// All changes of links and addresses from here on.
    ///
    /// # Errors
    /// When no socket can be had.
    pub(crate) fn changes() -> Result<impl Stream<Item = Change> + Unpin, NetlinkError> {
        let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
        let (connection, _, messages) = new_multicast_connection(&groups)?;
        tokio::spawn(connection);
        Ok(messages.filter_map(|(message, _)| std::future::ready(change(&message.payload))))
    }

    /// The link called `name`; `None` if there is none.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) async fn link(&self, name: &str) -> Result<Option<Link>, NetlinkError> {
        let request = self.handle.link().get().match_name(name.to_owned());
        first_link(request, format!("look for link {name}")).await
    }

    /// The link with this index; `None` if there is none.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) async fn link_at(&self, index: u32) -> Result<Option<Link>, NetlinkError> {
        let request = self.handle.link().get().match_index(index);
        first_link(request, format!("look for link {index}")).await
    }

    /// Whether an XDP program is attached to the link.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) async fn has_xdp(&self, link: &Link) -> Result<bool, NetlinkError> {
        let request = self.handle.link().get().match_index(link.index);
        let action = format!("look for the XDP program of link {}", link.name);
        let message = first_message(request, action).await?;
        let attributes = message.iter().flat_map(|message| &message.attributes);
        Ok(attributes.into_iter().any(|attribute| match attribute {
            LinkAttribute::Xdp(facts) => {
                facts.iter().any(|fact| matches!(fact, LinkXdp::ProgId(program) if *program != 0))
            }
            _ => false,
        }))
    }

    /// All addresses of this namespace.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) async fn addresses(&self) -> Result<Vec<IpAddr>, NetlinkError> {
        let messages: Vec<_> = self
            .handle
            .address()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(|error| NetlinkError::new("list addresses", &error))?;
        let mut addresses: Vec<_> = messages.iter().filter_map(local_address).collect();
        addresses.sort_unstable();
        addresses.dedup();
        Ok(addresses)
    }

    /// Creates a veth pair whose ends don't resolve addresses and have none of their own.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) async fn add_pair(
        &self,
        name: &str,
        peer: &str,
        mtu: u32,
    ) -> Result<(), NetlinkError> {
        let pair = LinkVeth::new(name, peer).mtu(mtu).build();
        self.handle
            .link()
            .add(pair)
            .execute()
            .await
            .map_err(|error| NetlinkError::new(format!("create links {name} and {peer}"), &error))
    }

    /// Sets the link up, with ARP and automatic IPv6 addresses off and this MTU.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) async fn set_up_quiet(&self, link: &Link, mtu: u32) -> Result<(), NetlinkError> {
        let mode = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
        let quiet = LinkUnspec::new_with_index(link.index)
            .append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![mode]))
            .build();
        // A kernel without IPv6 refuses this, and has nothing to keep quiet.
        let _ = self.handle.link().change(quiet).execute().await;
        let up: LinkMessage = LinkMessageBuilder::<LinkUnspec>::new()
            .index(link.index)
            .arp(false)
            .mtu(mtu)
            .up()
            .build();
        self.handle
            .link()
            .change(up)
            .execute()
            .await
            .map_err(|error| NetlinkError::new(format!("set link {} up", link.name), &error))
    }

    /// Deletes a link, and its peer with it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) async fn delete_link(&self, link: &Link) -> Result<(), NetlinkError> {
        self.handle
            .link()
            .del(link.index)
            .execute()
            .await
            .map_err(|error| NetlinkError::new(format!("delete link {}", link.name), &error))
    }

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
        // Neither EXCL nor APPEND: an IPv4 route goes before its equals. So ours is the first, which
        // is the one that REPLACE replaces.
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

    /// Addresses that [`Self::set_route`] routed to the link, each with its MTU.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) async fn routes(&self, link: u32) -> Result<Vec<(IpAddr, u32)>, NetlinkError> {
        let mut found = Vec::new();
        for any in [host_route(IpAddr::from([0; 4]), link), host_route(IpAddr::from([0; 16]), link)]
        {
            let mut filter = RouteMessage::default();
            filter.header.address_family = any.header.address_family;
            let mut routes = self.handle.route().get(filter).execute();
            while let Some(route) =
                routes.try_next().await.map_err(|error| NetlinkError::new("list routes", &error))?
            {
                found.extend(host_route_address(&route, link));
            }
        }
        Ok(found)
    }
}

async fn first_link(
    request: rtnetlink::LinkGetRequest,
    action: String,
) -> Result<Option<Link>, NetlinkError> {
    Ok(first_message(request, action).await?.as_ref().map(Link::from_message))
}

async fn first_message(
    request: rtnetlink::LinkGetRequest,
    action: String,
) -> Result<Option<LinkMessage>, NetlinkError> {
    let mut links = std::pin::pin!(request.execute());
    match links.try_next().await {
        Ok(message) => Ok(message),
        Err(error) => {
            let error = NetlinkError::new(action, &error);
            match error.errno() {
                // ERANGE: a name that is too long for any link.
                Some(nix::libc::ENODEV | nix::libc::ERANGE) => Ok(None),
                _ => Err(error),
            }
        }
    }
}

/// Metric of our IPv6 routes: before the 1024 that routes get by default.
const IPV6_METRIC: u32 = 1;

fn host_route(address: IpAddr, link: u32) -> RouteMessage {
    match address {
        IpAddr::V4(address) => RouteMessageBuilder::<std::net::Ipv4Addr>::new()
            .destination_prefix(address, 32)
            .output_interface(link)
            .scope(RouteScope::Link)
            .build(),
        IpAddr::V6(address) => RouteMessageBuilder::<std::net::Ipv6Addr>::new()
            .destination_prefix(address, 128)
            .output_interface(link)
            .priority(IPV6_METRIC)
            .build(),
    }
}

/// The address that `route` leads to, and its MTU, if it is such as [`host_route`] makes.
fn host_route_address(route: &RouteMessage, link: u32) -> Option<(IpAddr, u32)> {
    let mut destination = None;
    let mut through = None;
    let mut mtu = 0;
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(v4)) => {
                destination = Some(IpAddr::V4(*v4));
            }
            RouteAttribute::Destination(RouteAddress::Inet6(v6)) => {
                destination = Some(IpAddr::V6(*v6));
            }
            RouteAttribute::Oif(index) => through = Some(*index),
            RouteAttribute::Metrics(metrics) => {
                mtu = metrics.iter().find_map(mtu_of).unwrap_or(0);
            }
            _ => {}
        }
    }
    let destination = destination?;
    let whole = if destination.is_ipv4() { 32 } else { 128 };
    let unicast = route.header.kind == RouteType::Unicast;
    let ours = unicast && through == Some(link) && route.header.destination_prefix_length == whole;
    ours.then_some((destination, mtu))
}

fn mtu_of(metric: &RouteMetric) -> Option<u32> {
    match metric {
        RouteMetric::Mtu(mtu) => Some(*mtu),
        _ => None,
    }
}

fn local_address(message: &AddressMessage) -> Option<IpAddr> {
    // On a point-to-point link IFA_ADDRESS is the other end and IFA_LOCAL is ours; elsewhere they
    // are equal, and IPv6 has only the first.
    let mut address = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(local) => return Some(*local),
            AddressAttribute::Address(either) => address = Some(*either),
            _ => {}
        }
    }
    address
}

fn change(payload: &NetlinkPayload<RouteNetlinkMessage>) -> Option<Change> {
    match payload {
        NetlinkPayload::InnerMessage(message) => match message {
            // The bridge tells of its ports with the same messages: there, a port that leaves the
            // bridge is a link deleted.
            RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link)
                if link.header.interface_family != AddressFamily::Unspec =>
            {
                None
            }
            RouteNetlinkMessage::NewLink(link) => Some(Change::Link(Link::from_message(link))),
            RouteNetlinkMessage::DelLink(link) => Some(Change::LinkGone(link.header.index)),
            RouteNetlinkMessage::NewAddress(_) | RouteNetlinkMessage::DelAddress(_) => {
                Some(Change::Addresses)
            }
            _ => None,
        },
        NetlinkPayload::Overrun(_) => Some(Change::Overrun),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sched::{CloneFlags, unshare};

    /// Runs `test` in a network namespace of its own, which ends with it.
    fn in_netns<F: Future<Output = ()>>(test: impl FnOnce(Netlink) -> F + Send) {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET).expect("tests run as root");
                let mut runtime = tokio::runtime::Builder::new_current_thread();
                let runtime = runtime.enable_all().build().unwrap();
                runtime.block_on(async { test(Netlink::connect().unwrap()).await });
            });
        });
    }

    async fn up(netlink: &Netlink, name: &str) -> Link {
        let link = netlink.link(name).await.unwrap().unwrap();
        netlink.set_up_quiet(&link, 9000).await.unwrap();
        link
    }

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

    #[test]
    fn a_pair_is_made_found_and_deleted() {
        in_netns(|netlink| async move {
            assert_eq!(netlink.link("pg-t0").await.unwrap(), None);
            netlink.add_pair("pg-t0", "pg-t1", 9000).await.unwrap();
            let (first, second) = (up(&netlink, "pg-t0").await, up(&netlink, "pg-t1").await);
            assert_eq!((first.peer, second.peer), (Some(second.index), Some(first.index)));
            assert_eq!(netlink.link_at(first.index).await.unwrap(), Some(first.clone()));
            // Quiet: neither end gave itself an address.
            assert_eq!(netlink.addresses().await.unwrap(), [] as [IpAddr; 0]);
            netlink.delete_link(&first).await.unwrap();
            assert_eq!(netlink.link("pg-t1").await.unwrap(), None);
            assert_eq!(netlink.link("a-name-too-long-for-a-link").await.unwrap(), None);
        });
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
                assert_eq!(netlink.routes(ours.index).await.unwrap(), [(address, 1500)]);
                netlink.set_route(address, ours.index, 9000, true).await.unwrap();
                assert_eq!(netlink.routes(ours.index).await.unwrap(), [(address, 9000)]);
                assert!(netlink.routes(other.index).await.unwrap().contains(&(address, 0)));
                netlink.delete_route(address, ours.index).await.unwrap();
                netlink.delete_route(address, ours.index).await.unwrap();
                assert_eq!(way_to(&netlink, address).await, Some(other.index));
            }
        });
    }

    #[test]
    fn changes_of_links_are_told() {
        in_netns(|netlink| async move {
            let mut changes = Netlink::changes().unwrap();
            netlink.add_pair("pg-t0", "pg-t1", 9000).await.unwrap();
            let link = netlink.link("pg-t0").await.unwrap().unwrap();
            netlink.delete_link(&link).await.unwrap();
            let mut seen = false;
            loop {
                match changes.next().await.unwrap() {
                    Change::Link(new) => seen |= new.index == link.index,
                    Change::LinkGone(index) if index == link.index => break,
                    _ => {}
                }
            }
            assert!(seen);
        });
    }
}
