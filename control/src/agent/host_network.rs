//! The node's network stack around the dataplane: the host link, routes to pods, addresses of the
//! node, the path MTU and tunnels.
//!
//! A task ([`task`]) makes all requests to the kernel. This module keeps what the task found last,
//! for the control thread.

mod host_link;
mod task;
mod tunnels;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::Result;
use podgate_hostnet::{Link, Netlink};
use podgate_tables::address::Address;
use podgate_tables::route::{NextHop, NodeAddresses, RouteTable};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::{error, warn};

use self::task::{AppliedRoutes, HostRoutes, NetworkTask};
use self::tunnels::TunnelState;

use super::retries::Retries;

pub(crate) use self::host_link::{HOST, XSK};
pub(super) use self::host_link::{HOST_SLOT, HostLink, find};
pub(super) use self::task::{Observation, Observed};

/// What is known of the node's network stack.
pub(super) struct HostNetwork {
    link: HostLink,
    /// Whether the dataplane is attached to the host link.
    attached: bool,
    /// Why the host link could not be created again after it was deleted.
    lost: Option<String>,
    /// The source of the workers' ICMP errors.
    addresses: NodeAddresses,
    /// Least MTU of the routes out of the node, bytes.
    path_mtu: Option<u32>,
    tunnels: TunnelState,
    observations: mpsc::Sender<Observation>,
    routes: watch::Sender<HostRoutes>,
    /// The result of setting the routes.
    applied: watch::Receiver<AppliedRoutes>,
    /// Why the host link's ends can't be set up, if they are down.
    down: Option<String>,
    /// Indices of links that could not be read.
    links_unread: Retries<u32>,
    /// Why the node's addresses could not be read.
    addresses_unread: Option<String>,
}

/// What the agent has to do after a change of the host link.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum HostLinkEffect {
    /// Nothing.
    None,
    /// Publish what changed.
    Publish,
    /// Detach the old link, if it is attached, and attach this one.
    Attach(HostLink),
}

impl HostNetwork {
    /// Starts the task, whose results go to the receiver. Must run inside a tokio runtime.
    ///
    /// # Errors
    /// When netlink sockets can't be opened, or routes can't be read.
    pub(super) async fn start(
        netlink: Netlink,
        link: HostLink,
    ) -> Result<(Self, mpsc::Receiver<Observed>)> {
        // One observation runs at a time.
        let (observations, requested) = mpsc::channel(1);
        let (observed, results) = mpsc::channel(1);
        let (routes, wanted) = watch::channel(HostRoutes::default());
        let (applied, applied_seen) = watch::channel(AppliedRoutes::default());
        let task = NetworkTask::new(netlink, link.host.index, wanted, applied).await?;
        tokio::spawn(task.run(requested, observed));
        let network = Self {
            link,
            attached: true,
            lost: None,
            addresses: NodeAddresses::default(),
            path_mtu: None,
            tunnels: TunnelState::default(),
            observations,
            routes,
            applied: applied_seen,
            down: None,
            links_unread: Retries::default(),
            addresses_unread: None,
        };
        Ok((network, results))
    }

    /// Requests an observation. The agent waits for its result before it requests the next.
    pub(super) fn observe(&self, observation: Observation) {
        // Fails when the task has ended with the runtime.
        let _ = self.observations.try_send(observation);
    }

    /// Indices of the host link's two ends.
    pub(super) fn own(&self) -> [u32; 2] {
        [self.link.host.index, self.link.xsk.index]
    }

    /// The name of the workers' end of the host link.
    pub(super) fn xsk_name(&self) -> &str {
        &self.link.xsk.name
    }

    /// Why there is no host link, if there is none.
    pub(super) fn lost(&self) -> Option<&str> {
        self.lost.as_deref()
    }

    /// Least MTU of the routes out of the node, bytes.
    pub(super) fn path_mtu(&self) -> Option<u32> {
        self.path_mtu
    }

    /// How workers send to the kernel stack.
    pub(super) fn next_hop(&self) -> NextHop {
        self.link.next_hop(self.path_mtu)
    }

    /// Adds the node's addresses and tunnels to a route table.
    pub(super) fn complete(&self, routes: RouteTable) -> RouteTable {
        routes.with_node(self.addresses).with_tunnels(self.tunnels.table())
    }

    /// What can't be read or set, one line each.
    pub(super) fn problems(&self) -> impl Iterator<Item = String> {
        let down = self.down.iter().map(|reason| {
            format!("links {HOST} and {XSK} are down: {reason}; they are set up again every second")
        });
        let failed = self.applied.borrow().failed.clone();
        let routes = failed.into_iter().map(|(address, reason)| {
            format!(
                "the route of pod address {address} by {HOST} can't be updated: {reason}; it is tried \
                 again every second"
            )
        });
        let links = self.links_unread.reasons().map(|(_, reason, seconds)| {
            format!("{reason}, and it is tried again every {seconds} s")
        });
        let addresses = self.addresses_unread.iter().map(|reason| {
            format!("the node's addresses can't be read: {reason}; it is tried again every second")
        });
        self.tunnels.problems().chain(down).chain(routes).chain(links).chain(addresses)
    }

    /// Why the node's addresses could not be read.
    pub(super) fn addresses_unread(&self) -> Option<&str> {
        self.addresses_unread.as_deref()
    }

    /// Indices of links that could not be read and are due to be read again; only those that are
    /// `wanted`.
    pub(super) fn links_due(&mut self, wanted: impl FnOnce() -> BTreeSet<u32>) -> Vec<u32> {
        if self.links_unread.is_empty() {
            return Vec::new();
        }
        let wanted = wanted();
        self.links_unread.retain(|index| wanted.contains(index));
        self.links_unread.due(Instant::now())
    }

    /// Whether the host link has to be checked, though no change was reported.
    pub(super) fn link_is_due(&self) -> bool {
        self.lost.is_some() || self.down.is_some()
    }

    /// Whether the ports of tunnels have to be read again.
    pub(super) fn tunnels_are_due(&self) -> bool {
        self.tunnels.are_due()
    }

    /// Whether routes could not be read.
    pub(super) fn routes_are_unknown(&self) -> bool {
        self.tunnels.routes_are_unknown()
    }

    /// Requests that the kernel has these routes to pods, with their MTUs, and no others to
    /// `pg-host`.
    pub(super) fn set_routes(&self, pods: BTreeMap<IpAddr, u32>) {
        let link = self.link.host.index;
        self.routes.send_if_modified(|routes| {
            if routes.generation > 0 && routes.link == link && routes.pods == pods {
                return false;
            }
            routes.generation += 1;
            (routes.link, routes.pods) = (link, pods);
            true
        });
    }

    /// Whether the routes that were requested last were set, except for those that failed.
    pub(super) fn routes_are_applied(&self) -> bool {
        self.applied.borrow().generation >= self.routes.borrow().generation
    }

    /// Calls `then` when the routes that were requested last were set, with the result.
    pub(super) fn after_routes(&self, then: impl FnOnce(&AppliedRoutes) + Send + 'static) {
        if self.routes_are_applied() {
            return then(&self.applied.borrow());
        }
        let generation = self.routes.borrow().generation;
        let mut applied = self.applied.clone();
        tokio::spawn(async move {
            // Fails when the agent has stopped.
            if let Ok(applied) = applied.wait_for(|done| done.generation >= generation).await {
                then(&applied);
            }
        });
    }

    /// Takes a change of a link. Returns whether it is one of the host link's ends, and if so,
    /// whether it has to be published.
    pub(super) fn link_changed(&mut self, link: &Link) -> Option<bool> {
        let own = [&mut self.link.host, &mut self.link.xsk];
        let own = own.into_iter().find(|own| own.index == link.index)?;
        let changed = own != link;
        own.clone_from(link);
        Some(changed)
    }

    /// The host link was deleted. Returns whether the dataplane is still attached to it and has to
    /// be detached.
    pub(super) fn detach(&mut self) -> bool {
        if self.attached {
            error!("links {HOST} and {XSK} were deleted; they are created again");
        }
        self.down = None;
        std::mem::take(&mut self.attached)
    }

    /// Takes the result of checking, or creating, the host link.
    pub(super) fn host_link_checked(&mut self, result: Result<HostLink, String>) -> HostLinkEffect {
        match result {
            Ok(found) if self.attached && found.xsk.index == self.link.xsk.index => {
                if !(self.link.host.up && self.link.xsk.up) {
                    warn!("links {HOST} and {XSK} were set down; they are up again");
                }
                let changed = self.link != found;
                (self.link, self.down) = (found, None);
                if changed { HostLinkEffect::Publish } else { HostLinkEffect::None }
            }
            Ok(found) => HostLinkEffect::Attach(found),
            Err(reason) if self.attached => {
                if self.down.as_ref() != Some(&reason) {
                    error!("links {HOST} and {XSK} are down: {reason}");
                }
                self.down = Some(reason);
                HostLinkEffect::None
            }
            Err(reason) => match self.host_link_failed(reason) {
                true => HostLinkEffect::Publish,
                false => HostLinkEffect::None,
            },
        }
    }

    /// The dataplane is attached to this host link.
    pub(super) fn host_link_attached(&mut self, link: HostLink) {
        (self.link, self.attached) = (link, true);
        (self.lost, self.down) = (None, None);
    }

    /// The host link can't be created, or the dataplane can't be attached to it. Returns whether
    /// that is new.
    pub(super) fn host_link_failed(&mut self, reason: String) -> bool {
        let is_new = self.attached || self.lost.as_ref() != Some(&reason);
        if is_new {
            error!("pods reach nothing but pods of this node: {reason}");
        }
        self.attached = false;
        (self.lost, self.down) = (Some(reason), None);
        is_new
    }

    /// Takes the result of reading the node's addresses, and returns them. Those of before stay if
    /// they could not be read.
    pub(super) fn set_addresses(
        &mut self,
        read: Result<Vec<IpAddr>, String>,
    ) -> Option<Vec<IpAddr>> {
        let (addresses, reason) = match read {
            Ok(addresses) => (Some(addresses), None),
            Err(reason) => (None, Some(reason)),
        };
        if let Some(addresses) = &addresses {
            self.addresses = node_addresses(addresses);
        }
        set_reason(&mut self.addresses_unread, reason);
        addresses
    }

    /// Takes the result of reading a link, which is tried again if it failed: the reason also says
    /// what is in force meanwhile.
    pub(super) fn link_read(&mut self, index: u32, read: Result<(), String>) {
        match read {
            Ok(()) => self.links_unread.clear(&index),
            Err(reason) => {
                if !self.links_unread.failed(index, Some(reason.clone()), Instant::now()) {
                    warn!("{reason}");
                }
            }
        }
    }

    /// Takes the result of reading routes. Returns whether something changed.
    pub(super) fn set_read_routes(&mut self, read: task::RoutesRead) -> bool {
        match read {
            Ok((local, path_mtu)) => {
                let changed = self.tunnels.set_local(Ok(local));
                let before = std::mem::replace(&mut self.path_mtu, path_mtu);
                changed || before != path_mtu
            }
            Err(reason) => {
                warn!("{reason}");
                self.tunnels.set_local(Err(reason))
            }
        }
    }

    /// Takes the result of reading the ports of tunnels. Returns whether something changed.
    pub(super) fn set_tunnel_ports(&mut self, ports: Result<Vec<u16>, String>) -> bool {
        self.tunnels.set_ports(ports, Instant::now())
    }

    /// Passes on the UDP ports that tunnels of a node receive on, after each read of them:
    /// well-known ones included; `None` if any may be one.
    pub(super) fn pass_tunnel_ports(
        &mut self,
        pass: impl FnOnce(Option<&[u16]>) -> Result<(), String>,
    ) {
        self.tunnels.pass_ports(pass);
    }

    /// Links by which no route leaves the node: the host link and those of pods.
    pub(super) fn not_outward(&self, mut pods: BTreeSet<u32>) -> BTreeSet<u32> {
        pods.extend(self.own());
        pods
    }
}

/// Sets why something can't be read; logs it when it is new.
fn set_reason(known: &mut Option<String>, reason: Option<String>) {
    if let Some(reason) = &reason
        && known.as_ref() != Some(reason)
    {
        warn!("{reason}");
    }
    *known = reason;
}

/// The first address of each family that others can reach: gateways of pods are often link-local.
fn node_addresses(all: &[IpAddr]) -> NodeAddresses {
    let is_reachable = |address: &&IpAddr| match address {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
    };
    let first = |is_family: fn(&IpAddr) -> bool| {
        let of_family = all.iter().filter(|address| is_family(address));
        of_family.into_iter().find(is_reachable).map(|address| Address::from(*address))
    };
    NodeAddresses { v4: first(IpAddr::is_ipv4), v6: first(IpAddr::is_ipv6) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(name: &str, index: u32) -> Link {
        Link {
            index,
            name: name.to_owned(),
            mac: [2; 6],
            mtu: 1500,
            peer: None,
            up: true,
            loopback: false,
        }
    }

    fn pair(index: u32) -> HostLink {
        HostLink { host: link(HOST, index), xsk: link(XSK, index + 1) }
    }

    fn network() -> HostNetwork {
        HostNetwork {
            link: pair(7),
            attached: true,
            lost: None,
            addresses: NodeAddresses::default(),
            path_mtu: None,
            tunnels: TunnelState::default(),
            observations: mpsc::channel(1).0,
            routes: watch::channel(HostRoutes::default()).0,
            applied: watch::channel(AppliedRoutes::default()).1,
            down: None,
            links_unread: Retries::default(),
            addresses_unread: None,
        }
    }

    #[test]
    fn a_host_link_that_can_not_be_created_or_attached_is_tried_again() {
        let mut network = network();
        assert!(!network.link_is_due());
        assert!(network.detach());
        let failed = || Err("ENOMEM".to_owned());
        assert_eq!(network.host_link_checked(failed()), HostLinkEffect::Publish);
        assert!(network.link_is_due() && network.lost() == Some("ENOMEM"));
        assert_eq!(network.host_link_checked(failed()), HostLinkEffect::None);
        assert_eq!(network.host_link_checked(Ok(pair(9))), HostLinkEffect::Attach(pair(9)));
        assert!(network.host_link_failed("EBUSY".to_owned()) && network.link_is_due());
        network.host_link_attached(pair(9));
        assert!(!network.link_is_due() && network.lost().is_none());
    }

    #[test]
    fn addresses_and_links_that_can_not_be_read_are_a_problem_until_they_are() {
        let mut network = network();
        network.tunnels.set_local(Ok(Vec::new()));
        network.tunnels.set_ports(Ok(Vec::new()), Instant::now());
        let addresses = vec![IpAddr::from([192, 0, 2, 1])];
        assert_eq!(network.set_addresses(Ok(addresses.clone())), Some(addresses));
        let before = network.addresses;
        assert_eq!(network.set_addresses(Err("ENOBUFS".to_owned())), None);
        network.link_read(7, Err("ENOBUFS".to_owned()));
        assert_eq!(network.addresses, before);
        assert!(network.addresses_unread().is_some());
        assert!(network.links_due(|| [7].into()).is_empty(), "not before a second");
        assert_eq!(network.problems().count(), 2);
        let text = "ENOBUFS, and it is tried again every 1 s";
        assert!(network.problems().any(|problem| problem == text));
        network.set_addresses(Ok(Vec::new()));
        network.link_read(7, Ok(()));
        assert!(network.addresses_unread().is_none());
        assert_eq!(network.problems().count(), 0);
        // A link that is no longer wanted is not read.
        network.link_read(7, Err("ENOBUFS".to_owned()));
        assert!(network.links_due(BTreeSet::new).is_empty());
        assert_eq!(network.problems().count(), 0);
    }

    #[test]
    fn routes_that_are_the_same_are_not_set_again() {
        let mut network = network();
        let mut wanted = network.routes.subscribe();
        let pods = || BTreeMap::from([(IpAddr::from([192, 0, 2, 7]), 1500)]);
        network.set_routes(BTreeMap::new());
        assert!(wanted.has_changed().unwrap(), "those of the agent before may be there");
        network.set_routes(pods());
        wanted.mark_unchanged();
        network.set_routes(pods());
        assert!(!wanted.has_changed().unwrap());
        network.link.host.index += 1;
        network.set_routes(pods());
        assert!(wanted.has_changed().unwrap());
    }

    #[test]
    fn a_host_link_that_can_not_be_set_up_is_a_problem_and_tried_again() {
        let mut network = network();
        network.tunnels.set_local(Ok(Vec::new()));
        network.tunnels.set_ports(Ok(Vec::new()), Instant::now());
        assert_eq!(network.host_link_checked(Err("EPERM".to_owned())), HostLinkEffect::None);
        assert!(network.link_is_due());
        let problems = Vec::from_iter(network.problems());
        assert!(problems.len() == 1 && problems[0].contains("down: EPERM"), "{problems:?}");
        assert_eq!(network.host_link_checked(Ok(pair(7))), HostLinkEffect::None);
        assert!(!network.link_is_due());
        assert_eq!(network.problems().count(), 0);
    }
}
