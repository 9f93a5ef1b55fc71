//! Notifications of changes, by netlink multicast groups.

use futures_util::{Stream, StreamExt, stream};
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::sys::AsyncSocket;
use rtnetlink::{MulticastGroup, new_multicast_connection};

use super::{Link, NetlinkError};

/// A change in the kernel's network stack.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// A link was created or changed.
    Link(Link),
    /// The link with this index was deleted or moved to another namespace.
    LinkGone(u32),
    /// An address was added or deleted.
    Addresses,
    /// A route was added or deleted.
    Routes,
    /// Notifications were lost (`ENOBUFS`): anything may have changed.
    Overrun,
    /// A link changed whose peer has this index, in some namespace: the peer of this namespace's
    /// link may have changed. See [`changes`] for why this is a hint only.
    PeerLinkChanged(u32),
    /// Notifications of [`Self::PeerLinkChanged`] were lost.
    PeerLinkChangesLost,
}

/// All changes from here on: of this namespace, and hints at those of the other ends of its links.
///
/// The hints come by a socket that gets notifications of every namespace with a number here
/// (`NETLINK_LISTEN_ALL_NSID`, netlink(7)), and the kernel numbers each one that holds the other
/// end of a link which was looked up (`rtnl_fill_link_netnsid`, `net/core/rtnetlink.c`). So one
/// socket serves all pods and keeps none of their namespaces alive, as a socket inside would. It is
/// a socket of its own, so that a pod which changes its links all the time overruns nothing else. A
/// message doesn't say which namespace it is from, and a pod may number its links as it likes: so
/// the receiver of a hint reads the state itself.
///
/// # Errors
/// When no socket can be opened.
pub fn changes() -> Result<impl Stream<Item = Change> + Unpin, NetlinkError> {
    let groups = [
        MulticastGroup::Link,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
    ];
    let (connection, _, messages) = new_multicast_connection(&groups)?;
    tokio::spawn(connection);
    let here = messages.filter_map(|(message, _)| std::future::ready(change(&message.payload)));

    let (mut connection, _, messages) = new_multicast_connection(&[MulticastGroup::Link])?;
    connection.socket_mut().socket_mut().set_listen_all_namespaces(true)?;
    tokio::spawn(connection);
    let there = messages.filter_map(|(message, _)| std::future::ready(hint(&message.payload)));
    Ok(stream::select(here, there))
}

fn change(payload: &NetlinkPayload<RouteNetlinkMessage>) -> Option<Change> {
    match payload {
        NetlinkPayload::InnerMessage(message) => match message {
            // Bridges report their ports with the same messages (AF_BRIDGE): a port that leaves
            // the bridge is a deleted link there.
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
            RouteNetlinkMessage::NewRoute(_) | RouteNetlinkMessage::DelRoute(_) => {
                Some(Change::Routes)
            }
            _ => None,
        },
        NetlinkPayload::Overrun(_) => Some(Change::Overrun),
        _ => None,
    }
}

fn hint(payload: &NetlinkPayload<RouteNetlinkMessage>) -> Option<Change> {
    match payload {
        NetlinkPayload::InnerMessage(
            RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link),
        ) => Link::from_message(link).peer.map(Change::PeerLinkChanged),
        NetlinkPayload::Overrun(_) => Some(Change::PeerLinkChangesLost),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsRawFd;
    use std::sync::mpsc;
    use std::thread;

    use rtnetlink::LinkUnspec;

    use super::super::RouteMode;
    use super::super::tests::{in_netns, up};
    use super::*;

    #[test]
    fn link_changes_are_reported() {
        in_netns(|netlink| async move {
            let mut reported = changes().unwrap();
            netlink.add_pair("pg-t0", "pg-t1", 9000).await.unwrap();
            let link = netlink.link("pg-t0").await.unwrap().unwrap();
            netlink.delete_link(&link).await.unwrap();
            let mut seen = false;
            loop {
                match reported.next().await.unwrap() {
                    Change::Link(new) => seen |= new.index == link.index,
                    Change::LinkGone(index) if index == link.index => break,
                    _ => {}
                }
            }
            assert!(seen);
        });
    }

    #[test]
    fn route_changes_are_reported() {
        in_netns(|netlink| async move {
            netlink.add_pair("pg-t0", "pg-t1", 9000).await.unwrap();
            let link = up(&netlink, "pg-t0").await;
            let mut reported = changes().unwrap();
            let address = "10.0.0.1".parse().unwrap();
            for _ in 0..2 {
                netlink.set_route(address, link.index, 1500, RouteMode::Add).await.unwrap();
                while reported.next().await.unwrap() != Change::Routes {}
                netlink.delete_route(address, link.index).await.unwrap();
                while reported.next().await.unwrap() != Change::Routes {}
            }
        });
    }

    #[test]
    fn a_change_of_a_peer_in_another_namespace_is_reported() {
        let (give_namespace, namespace) = mpsc::channel();
        let (tell_moved, moved) = mpsc::channel();
        let (tell_heard, heard) = mpsc::channel::<()>();
        let there = thread::spawn(move || {
            in_netns(|netlink| async move {
                give_namespace.send(File::open("/proc/thread-self/ns/net").unwrap()).unwrap();
                moved.recv().unwrap();
                let end = netlink.link("pg-t1").await.unwrap().unwrap();
                netlink.set_mtu(&end, 1400).await.unwrap();
                // Ends when it was received, or when the test failed.
                let _ = heard.recv();
            });
        });
        in_netns(|netlink| async move {
            netlink.add_pair("pg-t0", "pg-t1", 9000).await.unwrap();
            let end = netlink.link("pg-t1").await.unwrap().unwrap();
            let namespace = namespace.recv().unwrap();
            let to = LinkUnspec::new_with_index(end.index).setns_by_fd(namespace.as_raw_fd());
            netlink.handle.link().change(to.build()).execute().await.unwrap();
            let here = netlink.link("pg-t0").await.unwrap().unwrap();
            let mut reported = changes().unwrap();
            tell_moved.send(()).unwrap();
            while reported.next().await.unwrap() != Change::PeerLinkChanged(here.index) {}
            drop(tell_heard);
        });
        there.join().unwrap();
    }
}
