//! From the store and the endpoints to what the workers and the kernel look up.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use podgate_dataplane::policy::Snapshot;
use podgate_dataplane::route::{self, Outlet, RouteTable};
use podgate_dataplane::types::{Address, Epoch};
use podgate_policy::Store;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::Agent;
use super::endpoint::Endpoint;
use super::pace::Pace;
use crate::netlink::ROUTE_MTU_MAX;

/// When to publish, and what was published last.
#[derive(Debug, Default)]
pub(crate) struct Publisher {
    pace: Pace,
    epoch: Epoch,
    routes: Option<Arc<RouteTable>>,
    /// Why endpoints were not ready in the last publication, by link.
    not_ready: BTreeMap<String, String>,
    forced: bool,
}

impl Publisher {
    /// Asks for a publication soon.
    pub(crate) fn request(&mut self) {
        self.pace.request();
    }

    /// Asks for a publication even of what was published last.
    pub(crate) fn force(&mut self) {
        self.forced = true;
        self.request();
    }

    /// When the next publication is due, if one is asked for.
    #[must_use]
    pub(crate) fn due(&self) -> Option<Instant> {
        self.pace.due()
    }

    /// Generation of what was published last; zero before the first.
    #[must_use]
    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Why the endpoint on `link` is not ready, if it isn't.
    #[must_use]
    pub(crate) fn not_ready(&self, link: &str) -> Option<&str> {
        self.not_ready.get(link).map(String::as_str)
    }
}

impl Agent {
    /// Follows what changed in the store and publishes, unless nothing did. Before every kind of
    /// object was read once, nothing is published: until then everything is dropped.
    pub(super) async fn publish(&mut self) {
        let begin = self.publisher.pace.begin();
        if !self.source.status().synced {
            return;
        }
        let policy_changed = self.compiler.update(&self.store);
        let (routes, not_ready) = self.route_table();
        self.publisher.not_ready = not_ready;
        let same_routes = self.publisher.routes.as_deref() == Some(&routes);
        if !policy_changed && same_routes && !self.publisher.forced {
            self.links.set_pods(&routes);
            self.publisher.pace.end(begin);
            return;
        }
        self.publisher.forced = false;
        let routes = Arc::new(routes);
        let epoch = Epoch(self.publisher.epoch.0 + 1);
        self.publisher.epoch = epoch;
        self.publisher.routes = Some(Arc::clone(&routes));
        let compiled = self.compiler.compiled();
        let policy = Arc::clone(&compiled.tables);
        self.names.push(epoch, compiled);
        let snapshot = Arc::new(Snapshot { epoch, policy, routes });
        self.take_over_flows(&snapshot);
        self.links.dataplane().publish(snapshot);
        if let Some(routes) = &self.publisher.routes {
            self.links.set_pods(routes);
        }
        self.publisher.pace.end(begin);
        debug!(epoch = epoch.0, took = ?begin.elapsed(), "published");
        self.route_in_kernel().await;
    }

    /// Publishes what is due, so that the objects and the tables are of one time.
    pub(super) async fn catch_up(&mut self) {
        if self.publisher.due().is_some() {
            self.publish().await;
        }
    }

    /// Makes the kernel send what is meant for local pods to `pg-host`.
    pub(super) async fn route_in_kernel(&mut self) {
        let wanted = self.addresses_of_ready_endpoints();
        let link = self.host.host.index;
        let routed = self.routed.keys();
        let stale: Vec<_> =
            routed.filter(|address| !wanted.contains_key(address)).copied().collect();
        for address in stale {
            match self.netlink.delete_route(address, link).await {
                Ok(()) => {
                    self.routed.remove(&address);
                }
                Err(error) => warn!("{error}"),
            }
        }
        for (address, mtu) in wanted {
            let former = self.routed.get(&address).copied();
            if former == Some(mtu) {
                continue;
            }
            match self.netlink.set_route(address, link, mtu, former.is_some()).await {
                Ok(()) => {
                    self.routed.insert(address, mtu);
                }
                Err(error) => warn!("{error}"),
            }
        }
    }

    /// Addresses of local pods that are served, with the MTU of the way to them.
    fn addresses_of_ready_endpoints(&self) -> BTreeMap<IpAddr, u32> {
        let mut addresses = BTreeMap::new();
        for (link, endpoint) in &self.endpoints {
            if self.publisher.not_ready(link).is_some() {
                continue;
            }
            if let Ok(route) = endpoint.route(&self.store) {
                let mtu = route.outlet.mtu.min(ROUTE_MTU_MAX);
                addresses.extend(route.addresses.iter().map(|address| (address.ip(), mtu)));
            }
        }
        addresses
    }
}

/// Of the node's addresses, the first of each family that others can reach it by: the gateways of
/// pods are often link-local.
pub(crate) fn node_addresses(all: &[IpAddr]) -> [Option<Address>; 2] {
    let reachable = |address: &&IpAddr| match address {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
    };
    let first = |v4: bool| {
        let of_family = |address: &&IpAddr| address.is_ipv4() == v4;
        all.iter().filter(of_family).find(reachable).map(|address| Address::from(*address))
    };
    [first(true), first(false)]
}

/// Routes to the endpoints that are ready, and why the others are not, by link.
///
/// An address that two endpoints claim is given to neither: whom it belongs to can't be known.
pub(crate) fn route_table(
    endpoints: &BTreeMap<String, Endpoint>,
    store: &Store,
    host: Outlet,
) -> (RouteTable, BTreeMap<String, String>) {
    let mut routes: BTreeMap<&str, route::Endpoint> = BTreeMap::new();
    let mut not_ready = BTreeMap::new();
    let mut claims: HashMap<Address, BTreeSet<&str>> = HashMap::new();
    for (link, endpoint) in endpoints {
        match endpoint.route(store) {
            Ok(route) => {
                for address in &route.addresses {
                    claims.entry(*address).or_default().insert(link);
                }
                routes.insert(link, route);
            }
            Err(reason) => {
                not_ready.insert(link.clone(), reason);
            }
        }
    }
    for (address, claimants) in claims.iter().filter(|(_, claimants)| claimants.len() > 1) {
        let links: Vec<_> = claimants.iter().copied().collect();
        for link in &links {
            routes.remove(link);
            let reason = format!("address {address} is claimed on links {}", links.join(", "));
            not_ready.insert((*link).to_owned(), reason);
        }
    }
    match RouteTable::new(routes.into_values(), Some(host)) {
        Ok(table) => (table, not_ready),
        Err(taken) => unreachable!("claims were settled before: {taken}"),
    }
}
