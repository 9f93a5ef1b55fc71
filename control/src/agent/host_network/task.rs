//! The task that reads and changes the node's network stack, one request after another.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use podgate_hostnet::{Link, Netlink, NetlinkError, RouteMode, Routes, TunnelReader, path_mtu};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tracing::warn;

use super::host_link::{self, HOST, HostLink};
use crate::error::describe;

/// Delay after which routes that could not be set are set again.
const RETRY_PERIOD: Duration = Duration::from_secs(1);

/// Routes to pods through `pg-host`.
#[derive(Clone, Debug, Default)]
pub(super) struct HostRoutes {
    /// Grows with each change.
    pub(super) generation: u64,
    /// Index of `pg-host`.
    pub(super) link: u32,
    /// MTU by address, bytes.
    pub(super) pods: BTreeMap<IpAddr, u32>,
}

/// The result of setting [`HostRoutes`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(in crate::agent) struct AppliedRoutes {
    /// Generation of the routes that were set last.
    pub(super) generation: u64,
    /// Why the kernel does not have the wanted route of an address, or still has one.
    pub(in crate::agent) failed: BTreeMap<IpAddr, String>,
}

/// What is to be read.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(in crate::agent) struct Observation {
    /// The links with these indices.
    pub(in crate::agent) links: Vec<u32>,
    /// The host link, which is set up, or created, if need be.
    pub(in crate::agent) host_link: bool,
    /// Addresses of the node.
    pub(in crate::agent) addresses: bool,
    /// Routes, where these links lead to no other host; our routes are added again if they were
    /// deleted.
    pub(in crate::agent) routes: Option<BTreeSet<u32>>,
    /// UDP ports of tunnels.
    pub(in crate::agent) tunnels: bool,
}

/// Prefixes that the kernel delivers locally, and the path MTU in bytes.
pub(super) type RoutesRead = Result<(Vec<(IpAddr, u8)>, Option<u32>), String>;

/// The result of an [`Observation`]; what was not read is absent.
#[derive(Debug, Default)]
pub(in crate::agent) struct Observed {
    /// Links by index, or why they can't be read; `None` if there is no such link.
    pub(in crate::agent) links: Vec<(u32, Result<Option<Link>, String>)>,
    /// The host link, or why there is none.
    pub(in crate::agent) host_link: Option<Result<HostLink, String>>,
    /// Addresses of the node.
    pub(in crate::agent) addresses: Option<Result<Vec<IpAddr>, String>>,
    /// Routes.
    pub(in crate::agent) routes: Option<RoutesRead>,
    /// UDP ports of tunnels.
    pub(in crate::agent) tunnels: Option<Result<Vec<u16>, String>>,
}

/// The task's state.
pub(super) struct NetworkTask {
    netlink: Netlink,
    /// Absent while a thread reads.
    tunnels: Option<TunnelReader>,
    wanted: watch::Receiver<HostRoutes>,
    applied: watch::Sender<AppliedRoutes>,
    /// Index of the `pg-host` that `routed` belongs to.
    link: u32,
    /// Addresses that the kernel routes to `pg-host`, with the routes' MTUs.
    routed: BTreeMap<IpAddr, u32>,
    /// When routes that could not be set are set again.
    retry_at: Instant,
}

impl NetworkTask {
    /// Reads the routes through `link` (`pg-host`) that the previous agent left.
    ///
    /// # Errors
    /// When sockets can't be opened, or routes can't be read.
    pub(super) async fn new(
        netlink: Netlink,
        link: u32,
        wanted: watch::Receiver<HostRoutes>,
        applied: watch::Sender<AppliedRoutes>,
    ) -> anyhow::Result<Self> {
        let routes = netlink.routes().await?;
        let routed = routes.unicast.iter().filter_map(|route| route.host_route(link)).collect();
        let tunnels = Some(TunnelReader::open()?);
        let retry_at = Instant::now();
        Ok(Self { netlink, tunnels, wanted, applied, link, routed, retry_at })
    }

    /// Runs until the agent stops.
    pub(super) async fn run(
        mut self,
        mut requested: mpsc::Receiver<Observation>,
        observed: mpsc::Sender<Observed>,
    ) {
        loop {
            tokio::select! {
                changed = self.wanted.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.apply_routes().await;
                }
                () = sleep_until(self.retry_at), if self.have_failed() => self.apply_routes().await,
                Some(observation) = requested.recv() => {
                    let result = self.observe(observation).await;
                    if observed.send(result).await.is_err() {
                        return;
                    }
                }
                else => return,
            }
        }
    }

    fn have_failed(&self) -> bool {
        !self.applied.borrow().failed.is_empty()
    }

    /// Makes the kernel route packets for local pods to `pg-host`.
    async fn apply_routes(&mut self) {
        let HostRoutes { generation, link, pods } = self.wanted.borrow_and_update().clone();
        if self.link != link {
            // The kernel deleted the routes with the link before.
            self.link = link;
            self.routed.clear();
        }
        let unwanted: Vec<_> =
            self.routed.keys().filter(|address| !pods.contains_key(address)).copied().collect();
        let mut failed = BTreeMap::new();
        for address in unwanted {
            match self.netlink.delete_route(address, link).await {
                Ok(()) => _ = self.routed.remove(&address),
                Err(error) => _ = failed.insert(address, error.to_string()),
            }
        }
        for (address, mtu) in pods {
            let mode = match self.routed.get(&address) {
                Some(before) if *before == mtu => continue,
                Some(_) => RouteMode::Replace,
                None => RouteMode::Add,
            };
            match self.netlink.set_route(address, link, mtu, mode).await {
                Ok(()) => _ = self.routed.insert(address, mtu),
                Err(error) => _ = failed.insert(address, error.to_string()),
            }
        }
        self.retry_at = Instant::now() + RETRY_PERIOD;
        let before = self.applied.send_replace(AppliedRoutes { generation, failed });
        for (address, reason) in &self.applied.borrow().failed {
            if before.failed.get(address) != Some(reason) {
                warn!("{reason}");
            }
        }
    }

    async fn observe(&mut self, observation: Observation) -> Observed {
        let mut observed = Observed::default();
        for index in observation.links {
            let link = self.netlink.link_at(index).await;
            observed.links.push((index, link.map_err(|error| error.to_string())));
        }
        if observation.host_link {
            let checked = self.check_host_link().await;
            observed.host_link = Some(checked.map_err(|error| describe(error.as_ref())));
        }
        if observation.addresses {
            let read = self.netlink.addresses().await;
            observed.addresses = Some(read.map_err(|error| error.to_string()));
        }
        if let Some(not_outward) = observation.routes {
            let read = self.read_routes(&not_outward).await;
            observed.routes = Some(read.map_err(|error| error.to_string()));
        }
        if observation.tunnels {
            let ports = self.read_tunnel_ports().await;
            observed.tunnels = Some(ports.map_err(|error| error.to_string()));
        }
        observed
    }

    /// The host link, both ends up.
    async fn check_host_link(&self) -> anyhow::Result<HostLink> {
        match host_link::find(&self.netlink).await? {
            Some(pair) if pair.host.up && pair.xsk.up => Ok(pair),
            _ => HostLink::ensure(&self.netlink).await,
        }
    }

    /// Reads routes, and adds those of ours that were deleted.
    async fn read_routes(
        &mut self,
        not_outward: &BTreeSet<u32>,
    ) -> Result<(Vec<(IpAddr, u8)>, Option<u32>), NetlinkError> {
        let Routes { unicast, local } = self.netlink.routes().await?;
        let links = self.netlink.links().await?;
        let mut found = BTreeMap::new();
        for (address, mtu) in unicast.iter().filter_map(|route| route.host_route(self.link)) {
            // The first of several is the one in force.
            found.entry(address).or_insert(mtu);
        }
        self.routed.retain(|address, mtu| match found.get(address) {
            Some(found) => {
                *mtu = *found;
                true
            }
            None => {
                warn!(
                    "the route of pod address {address} to {HOST} was deleted; it is added again"
                );
                false
            }
        });
        if self.wanted.borrow().generation > 0 {
            self.apply_routes().await;
        }
        Ok((local, path_mtu(&unicast, &links, |index| not_outward.contains(&index))))
    }

    /// Reads the ports of tunnels on a thread: the kernel may take some seconds for its answer.
    async fn read_tunnel_ports(&mut self) -> io::Result<Vec<u16>> {
        let mut reader = match self.tunnels.take() {
            Some(reader) => reader,
            None => TunnelReader::open()?,
        };
        let saw_sockets = reader.sees_sockets();
        let read = tokio::task::spawn_blocking(move || (reader.ports(), reader));
        let (ports, reader) = read.await.map_err(io::Error::other)?;
        if saw_sockets && !reader.sees_sockets() {
            warn!(
                "this kernel can't list UDP sockets (CONFIG_INET_UDP_DIAG): pods can reach tunnel \
                 devices that were moved into another network namespace"
            );
        }
        self.tunnels = Some(reader);
        ports
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An index that no link has.
    const NO_LINK: u32 = 1 << 30;

    #[tokio::test]
    async fn a_route_that_can_not_be_set_is_reported_until_it_is_not_wanted() {
        let pod: IpAddr = "192.0.2.1".parse().unwrap();
        let (wanted, wanted_seen) = watch::channel(HostRoutes::default());
        let (applied, applied_seen) = watch::channel(AppliedRoutes::default());
        let netlink = Netlink::connect().unwrap();
        let mut task = NetworkTask::new(netlink, NO_LINK, wanted_seen, applied).await.unwrap();
        let routes = HostRoutes { generation: 1, link: NO_LINK, pods: [(pod, 1500)].into() };
        wanted.send_replace(routes.clone());
        task.apply_routes().await;
        let result = applied_seen.borrow().clone();
        assert_eq!(result.generation, 1);
        assert!(result.failed[&pod].contains("192.0.2.1"), "{result:?}");
        assert!(task.have_failed());

        wanted.send_replace(HostRoutes { generation: 2, pods: BTreeMap::new(), ..routes });
        task.apply_routes().await;
        let none = AppliedRoutes { generation: 2, failed: BTreeMap::new() };
        assert_eq!(*applied_seen.borrow(), none);
        assert!(!task.have_failed());
    }
}
