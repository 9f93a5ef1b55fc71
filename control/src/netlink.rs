//! What podgate asks of the kernel's network stack, over rtnetlink(7): links, addresses, routes.

mod changes;
mod routes;
mod tunnels;
mod wire;

use std::io;
use std::net::IpAddr;

use futures_util::TryStreamExt;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkFlags, LinkMessage, LinkXdp,
};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth, new_connection};

pub(crate) use self::changes::{Change, changes};
pub(crate) use self::routes::{ROUTE_MTU_MAX, Routes, least_mtu};
pub(crate) use self::tunnels::TunnelReader;

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
    /// Whether it is administratively up.
    pub(crate) up: bool,
    /// Whether it leads nowhere but here.
    pub(crate) loopback: bool,
}

impl Link {
    fn from_message(message: &LinkMessage) -> Self {
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            mac: [0; 6],
            mtu: 0,
            peer: None,
            up: message.header.flags.contains(LinkFlags::Up),
            loopback: message.header.flags.contains(LinkFlags::Loopback),
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

    /// All links.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) async fn links(&self) -> Result<Vec<Link>, NetlinkError> {
        let messages: Vec<_> = self
            .handle
            .link()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(|error| NetlinkError::new("list links", &error))?;
        Ok(messages.iter().map(Link::from_message).collect())
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

    /// Sets the link's MTU.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) async fn set_mtu(&self, link: &Link, mtu: u32) -> Result<(), NetlinkError> {
        let change = LinkUnspec::new_with_index(link.index).mtu(mtu).build();
        self.handle.link().change(change).execute().await.map_err(|error| {
            NetlinkError::new(format!("set the MTU of link {} to {mtu}", link.name), &error)
        })
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

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sched::{CloneFlags, unshare};

    /// Runs `test` in a network namespace of its own, which ends with it.
    pub(super) fn in_netns<F: Future<Output = ()>>(test: impl FnOnce(Netlink) -> F + Send) {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET).expect("tests run as root");
                let mut runtime = tokio::runtime::Builder::new_current_thread();
                let runtime = runtime.enable_all().build().unwrap();
                runtime.block_on(async { test(Netlink::connect().unwrap()).await });
            });
        });
    }

    pub(super) async fn up(netlink: &Netlink, name: &str) -> Link {
        let link = netlink.link(name).await.unwrap().unwrap();
        netlink.set_up_quiet(&link, 9000).await.unwrap();
        netlink.link(name).await.unwrap().unwrap()
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
}
