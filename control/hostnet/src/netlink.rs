//! Links, addresses and routes, over rtnetlink(7).

mod changes;
mod pod_link;
mod request;
mod routes;
mod tunnels;
pub(crate) mod wire;

use std::io;
use std::net::IpAddr;

use futures_util::{StreamExt, TryStreamExt};
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkFlags, LinkMessage, LinkXdp,
};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth, new_connection};

pub use self::changes::{Change, changes};
pub use self::pod_link::{GATEWAY_V4, GATEWAY_V6, gateway_for};
pub(crate) use self::request::{GENL_HEADER, GenericRequester, genl_header};
pub use self::routes::{ROUTE_MTU_MAX, Route, RouteMode, Routes, path_mtu};
pub use self::tunnels::TunnelReader;

/// A netlink request that failed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The socket can't be opened.
    #[error("can't open a netlink socket: {0}")]
    Socket(#[from] io::Error),
    /// The kernel answered with an error.
    #[error("can't {action}: {source}")]
    Failed {
        /// What the request was for.
        action: String,
        /// The kernel's error.
        source: io::Error,
    },
}

impl NetlinkError {
    fn new(action: impl Into<String>, error: &rtnetlink::Error) -> Self {
        Self::Failed { action: action.into(), source: to_io(error) }
    }

    fn errno(&self) -> Option<i32> {
        match self {
            Self::Socket(source) | Self::Failed { source, .. } => source.raw_os_error(),
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
pub struct Link {
    /// Index, unique in the namespace.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Ethernet address; zero if it has none.
    pub mac: [u8; 6],
    /// MTU, bytes.
    pub mtu: u32,
    /// For a veth, index of its peer, in the peer's namespace (`IFLA_LINK`).
    pub peer: Option<u32>,
    /// Whether it is administratively up.
    pub up: bool,
    /// Whether it is a loopback link.
    pub loopback: bool,
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

/// A netlink socket in the network namespace that it was opened in.
#[derive(Clone, Debug)]
pub struct Netlink {
    handle: rtnetlink::Handle,
}

impl Netlink {
    /// Opens the socket. Must run inside a tokio runtime.
    ///
    /// # Errors
    /// When the socket can't be opened.
    pub fn connect() -> Result<Self, NetlinkError> {
        let (connection, handle, _) = new_connection()?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// As [`Self::connect`], with a thread of its own for the socket: a request blocks the thread
    /// that sends it while others hold the kernel's RTNL lock. The thread ends with the last clone.
    ///
    /// # Errors
    /// When the socket can't be opened, or the thread not be started.
    pub fn connect_on_thread() -> Result<Self, NetlinkError> {
        let (opened, result) = std::sync::mpsc::sync_channel(1);
        let serve = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
            let runtime = match runtime {
                Ok(runtime) => runtime,
                Err(error) => return drop(opened.send(Err(error))),
            };
            runtime.block_on(async {
                match new_connection() {
                    Ok((connection, handle, _)) => {
                        let _ = opened.send(Ok(handle));
                        connection.await;
                    }
                    Err(error) => drop(opened.send(Err(error))),
                }
            });
        };
        std::thread::Builder::new().name("netlink".into()).spawn(serve)?;
        let gone = |_| io::Error::other("the netlink thread ended");
        let handle = result.recv().map_err(gone)??;
        Ok(Self { handle })
    }

    /// The link called `name`; `None` if there is none.
    ///
    /// # Errors
    /// When the kernel answers with an error.
    pub async fn link(&self, name: &str) -> Result<Option<Link>, NetlinkError> {
        let mut link = LinkMessage::default();
        link.attributes.push(LinkAttribute::IfName(name.to_owned()));
        let message = self.look_up(link, format!("look up link {name}")).await?;
        Ok(message.as_ref().map(Link::from_message))
    }

    /// The link with this index; `None` if there is none.
    ///
    /// # Errors
    /// When the kernel answers with an error.
    pub async fn link_at(&self, index: u32) -> Result<Option<Link>, NetlinkError> {
        let message = self.look_up(with_index(index), format!("look up link {index}")).await?;
        Ok(message.as_ref().map(Link::from_message))
    }

    /// The link that `link` has the name or index of; `None` if there is none.
    async fn look_up(
        &self,
        link: LinkMessage,
        action: String,
    ) -> Result<Option<LinkMessage>, NetlinkError> {
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetLink(link));
        // The acknowledgement ends the request even if the answer is dropped because it can't be
        // decoded. A pod can see to that: names and aliases of links are any bytes.
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK;
        let answers = self.handle.clone().request(request);
        let mut answers = answers.map_err(|error| NetlinkError::new(action.as_str(), &error))?;
        let mut found = None;
        while let Some(answer) = answers.next().await {
            match answer.payload {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => {
                    found = Some(link);
                }
                NetlinkPayload::Error(error) if error.code.is_some() => {
                    let source = error.to_io();
                    return match source.raw_os_error() {
                        // ERANGE: a name that is too long for any link.
                        Some(libc::ENODEV | libc::ERANGE) => Ok(None),
                        _ => Err(NetlinkError::Failed { action, source }),
                    };
                }
                _ => {}
            }
        }
        if found.is_none() {
            let why =
                "no answer of the kernel could be read; is the link's name or alias not UTF-8?";
            let source = io::Error::new(io::ErrorKind::InvalidData, why);
            return Err(NetlinkError::Failed { action, source });
        }
        Ok(found)
    }

    /// All links.
    ///
    /// # Errors
    /// When the kernel answers with an error.
    pub async fn links(&self) -> Result<Vec<Link>, NetlinkError> {
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
    /// When the kernel answers with an error.
    pub async fn has_xdp(&self, link: &Link) -> Result<bool, NetlinkError> {
        let action = format!("look up the XDP program of link {}", link.name);
        let message = self.look_up(with_index(link.index), action).await?;
        let attributes = message.iter().flat_map(|message| &message.attributes);
        Ok(attributes.into_iter().any(|attribute| match attribute {
            LinkAttribute::Xdp(attributes) => attributes
                .iter()
                .any(|nested| matches!(nested, LinkXdp::ProgId(program) if *program != 0)),
            _ => false,
        }))
    }

    /// All addresses of this namespace, sorted.
    ///
    /// # Errors
    /// When the kernel answers with an error.
    pub async fn addresses(&self) -> Result<Vec<IpAddr>, NetlinkError> {
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

    /// Creates a veth pair.
    ///
    /// # Errors
    /// When the kernel answers with an error.
    pub async fn add_pair(&self, name: &str, peer: &str, mtu: u32) -> Result<(), NetlinkError> {
        let pair = LinkVeth::new(name, peer).mtu(mtu).build();
        self.add_link(pair, format!("create links {name} and {peer}")).await
    }

    async fn add_link(&self, link: LinkMessage, action: String) -> Result<(), NetlinkError> {
        let added = self.handle.link().add(link).execute().await;
        added.map_err(|error| NetlinkError::new(action, &error))
    }

    async fn change_link(&self, change: LinkMessage, action: String) -> Result<(), NetlinkError> {
        let changed = self.handle.link().change(change).execute().await;
        changed.map_err(|error| NetlinkError::new(action, &error))
    }

    /// Sets the link up, with this MTU, without ARP and without automatic IPv6 addresses.
    ///
    /// # Errors
    /// When the kernel answers with an error.
    pub async fn set_up_quiet(&self, link: &Link, mtu: u32) -> Result<(), NetlinkError> {
        let mode = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
        let quiet = LinkUnspec::new_with_index(link.index)
            .append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![mode]))
            .build();
        // Fails on a kernel without IPv6, which needs no such setting.
        let _ = self.handle.link().change(quiet).execute().await;
        let up: LinkMessage = LinkMessageBuilder::<LinkUnspec>::new()
            .index(link.index)
            .arp(false)
            .mtu(mtu)
            .up()
            .build();
        self.change_link(up, format!("set link {} up", link.name)).await
    }

    /// Sets the link's MTU.
    ///
    /// # Errors
    /// When the kernel answers with an error.
    pub async fn set_mtu(&self, link: &Link, mtu: u32) -> Result<(), NetlinkError> {
        let change = LinkUnspec::new_with_index(link.index).mtu(mtu).build();
        self.change_link(change, format!("set the MTU of link {} to {mtu}", link.name)).await
    }

    /// Deletes a link, and its peer with it.
    ///
    /// # Errors
    /// When the kernel answers with an error.
    pub async fn delete_link(&self, link: &Link) -> Result<(), NetlinkError> {
        self.handle
            .link()
            .del(link.index)
            .execute()
            .await
            .map_err(|error| NetlinkError::new(format!("delete link {}", link.name), &error))
    }
}

/// A request for the link with this index.
fn with_index(index: u32) -> LinkMessage {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link
}

fn local_address(message: &AddressMessage) -> Option<IpAddr> {
    // On a point-to-point link IFA_ADDRESS is the peer's and IFA_LOCAL is ours; elsewhere they are
    // equal, and IPv6 has IFA_ADDRESS only.
    let mut address = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(local) => return Some(*local),
            AddressAttribute::Address(found) => address = Some(*found),
            _ => {}
        }
    }
    address
}

#[cfg(test)]
pub(crate) mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::time::Duration;

    use super::*;
    use nix::sched::{CloneFlags, unshare};

    /// Runs `test` in a new network namespace.
    pub(crate) fn in_netns<F: Future<Output = ()>>(test: impl FnOnce(Netlink) -> F + Send) {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET).expect("tests run as root");
                let mut runtime = tokio::runtime::Builder::new_current_thread();
                let runtime = runtime.enable_all().build().unwrap();
                runtime.block_on(async { test(Netlink::connect().unwrap()).await });
            });
        });
    }

    pub(crate) async fn up(netlink: &Netlink, name: &str) -> Link {
        let link = netlink.link(name).await.unwrap().unwrap();
        netlink.set_up_quiet(&link, 9000).await.unwrap();
        netlink.link(name).await.unwrap().unwrap()
    }

    #[test]
    fn a_veth_pair_is_created_found_and_deleted() {
        in_netns(|netlink| async move {
            assert_eq!(netlink.link("pg-t0").await.unwrap(), None);
            netlink.add_pair("pg-t0", "pg-t1", 9000).await.unwrap();
            let (first, second) = (up(&netlink, "pg-t0").await, up(&netlink, "pg-t1").await);
            assert_eq!((first.peer, second.peer), (Some(second.index), Some(first.index)));
            assert_eq!(netlink.link_at(first.index).await.unwrap(), Some(first.clone()));
            // Neither end has an automatic address.
            assert_eq!(netlink.addresses().await.unwrap(), [] as [IpAddr; 0]);
            netlink.delete_link(&first).await.unwrap();
            assert_eq!(netlink.link("pg-t1").await.unwrap(), None);
            assert_eq!(netlink.link("a-name-too-long-for-a-link").await.unwrap(), None);
        });
    }

    #[test]
    fn a_link_whose_alias_is_not_utf8_is_an_error_and_keeps_nobody_waiting() {
        in_netns(|netlink| async move {
            netlink.add_pair("pg-t0", "pg-t1", 9000).await.unwrap();
            let link = netlink.link("pg-t0").await.unwrap().unwrap();
            let set = |bytes: &[u8]| {
                let mut ip = std::process::Command::new("ip");
                ip.args(["link", "set", "pg-t0", "alias"]).arg(OsStr::from_bytes(bytes));
                assert!(ip.status().unwrap().success());
            };
            set(b"\xff");
            let bound = Duration::from_secs(20);
            let looked_up = tokio::time::timeout(bound, netlink.link_at(link.index)).await;
            let error = looked_up.expect("the request ends").unwrap_err().to_string();
            assert!(error.contains("UTF-8"), "{error}");
            let looked_up = tokio::time::timeout(bound, netlink.has_xdp(&link)).await;
            looked_up.expect("the request ends").unwrap_err();
            // The other links are listed.
            let listed = tokio::time::timeout(bound, netlink.links()).await.unwrap().unwrap();
            assert!(listed.iter().any(|link| link.name == "pg-t1"), "{listed:?}");
            set(b"uplink");
            assert_eq!(netlink.link_at(link.index).await.unwrap(), Some(link));
        });
    }
}
