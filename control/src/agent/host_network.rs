//! The node's network stack around the dataplane: the host link, routes to pods, addresses of the
//! node, the path MTU and tunnels.
//!
//! A worker task ([`worker`]) does all requests to the kernel; this side of it has what the worker
//! found last, for the control thread.

mod host_link;
mod tunnels;
mod worker;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::Result;
use podgate_hostnet::{Link, Netlink};
use podgate_tables::address::Address;
use podgate_tables::route::{NextHop, NodeAddresses, RouteTable};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::{error, warn};

use self::tunnels::TunnelState;
use self::worker::{HostRoutes, Worker};

pub(crate) use self::host_link::{HOST, XSK};
pub(super) use self::host_link::{HOST_SLOT, HostLink, find};
pub(super) use self::worker::{Observation, Observed};

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
    /// Generation of the routes that the kernel has.
    applied: watch::Receiver<u64>,
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
    /// Starts the worker, whose results go to the receiver. Must run inside a tokio runtime.
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
        let (applied, applied_seen) = watch::channel(0);
        let worker = Worker::new(netlink, link.host.index, wanted, applied).await?;
        tokio::spawn(worker.run(requested, observed));
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
        };
        Ok((network, results))
    }

    /// Requests an observation. The agent waits for its result before it requests the next.
    pub(super) fn observe(&self, observation: Observation) {
        // Fails when the worker has ended with the runtime.
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

    /// What can't be read, one line each.
    pub(super) fn problems(&self) -> impl Iterator<Item = String> {
        self.tunnels.problems()
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
        self.routes.send_modify(|routes| {
            routes.generation += 1;
            (routes.link, routes.pods) = (link, pods);
        });
    }

    /// Whether the kernel has the routes that were requested last.
    pub(super) fn routes_are_applied(&self) -> bool {
        *self.applied.borrow() >= self.routes.borrow().generation
    }

    /// Calls `then` when the kernel has the routes that were requested last.
    pub(super) fn after_routes(&self, then: impl FnOnce() + Send + 'static) {
        if self.routes_are_applied() {
            return then();
        }
        let generation = self.routes.borrow().generation;
        let mut applied = self.applied.clone();
        tokio::spawn(async move {
            // Fails when the agent has stopped.
            let _ = applied.wait_for(|done| *done >= generation).await;
            then();
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
                self.link = found;
                if changed { HostLinkEffect::Publish } else { HostLinkEffect::None }
            }
            Ok(found) => HostLinkEffect::Attach(found),
            Err(reason) if self.attached => {
                error!("links {HOST} and {XSK} are down: {reason}");
                HostLinkEffect::None
            }
            Err(reason) => {
                self.host_link_failed(reason);
                HostLinkEffect::Publish
            }
        }
    }

    /// The dataplane is attached to this host link.
    pub(super) fn host_link_attached(&mut self, link: HostLink) {
        (self.link, self.attached, self.lost) = (link, true, None);
    }

    /// The host link can't be created, or the dataplane can't be attached to it.
    pub(super) fn host_link_failed(&mut self, reason: String) {
        error!("pods reach nothing but pods of this node: {reason}");
        (self.attached, self.lost) = (false, Some(reason));
    }

    /// Takes the node's addresses.
    pub(super) fn set_addresses(&mut self, addresses: &[IpAddr]) {
        self.addresses = node_addresses(addresses);
    }

    /// Takes the result of reading routes. Returns whether something changed.
    pub(super) fn set_read_routes(&mut self, read: worker::RoutesRead) -> bool {
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

    /// The UDP ports that tunnels of a node receive on, well-known ones included; `None` if any may
    /// be one.
    pub(super) fn tunnel_ports(&self) -> Option<Vec<u16>> {
        self.tunnels.ports()
    }

    /// Links that are no routes out of the node: the host link and those of pods.
    pub(super) fn not_outward(&self, mut pods: BTreeSet<u32>) -> BTreeSet<u32> {
        pods.extend(self.own());
        pods
    }
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
