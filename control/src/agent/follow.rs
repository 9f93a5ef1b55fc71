//! Following the kernel: links, addresses and routes that others change.
//!
//! What the kernel says is a reason to look, and what is found then counts: so it doesn't matter
//! which news came first, or that some were lost. The looks are paced, because a pod may change its
//! end of its link as often as it likes.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::time::Duration;

use podgate_hostnet::{Change, Link, Routes, path_mtu};
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use super::Agent;
use super::endpoint::{Endpoint, prepare_pod_end};
use super::host_link::{HOST, HostLink, XSK};
use super::links::HOST_SLOT;
use super::pace::Pace;
use super::publish;
use crate::error::describe;

/// Between two looks at least.
const GAP: Duration = Duration::from_millis(20);

/// What is to be looked at, and when.
#[derive(Debug)]
pub(super) struct Follower {
    pace: Pace,
    stale: Stale,
}

/// What may be different from what the agent knows.
#[derive(Default, Debug)]
struct Stale {
    /// Which links there are.
    links: bool,
    /// The pair that joins the dataplane to the kernel stack.
    host_link: bool,
    addresses: bool,
    routes: bool,
    /// Which UDP ports tunnels of this node receive on.
    tunnels: bool,
    /// The pods' ends of these endpoints' links, or whether a link that was gone is back.
    endpoints: BTreeSet<String>,
}

impl Follower {
    /// Nothing to look at yet.
    pub(super) fn new() -> Self {
        Self { pace: Pace::with_gap(GAP), stale: Stale::default() }
    }

    /// When to look, if there is anything to look at.
    pub(super) fn due(&self) -> Option<Instant> {
        self.pace.due()
    }

    /// Asks for another look at the routes.
    pub(super) fn ask_for_routes(&mut self) {
        self.note(|stale| stale.routes = true);
    }

    fn note(&mut self, note: impl FnOnce(&mut Stale)) {
        note(&mut self.stale);
        self.pace.request();
    }
}

impl Agent {
    pub(super) async fn react(&mut self, change: Change) {
        match change {
            Change::Link(link) => self.link_changed(&link),
            Change::LinkGone(index) => self.link_gone(index).await,
            Change::Addresses => self.follower.note(|stale| stale.addresses = true),
            Change::Routes => self.follower.note(|stale| stale.routes = true),
            Change::PeerLinkChanged(index) => {
                let endpoint = self.endpoint_at(index);
                if let Some(name) = endpoint.map(|endpoint| endpoint.spec.link.clone()) {
                    self.follower.note(|stale| _ = stale.endpoints.insert(name));
                }
            }
            Change::PeerLinkChangesLost => {
                let all = self.endpoints.keys().cloned();
                self.follower.note(|stale| stale.endpoints.extend(all));
            }
            Change::Overrun => {
                let endpoints = self.endpoints.keys().cloned().collect();
                let everything = Stale {
                    links: true,
                    host_link: true,
                    addresses: true,
                    routes: true,
                    tunnels: true,
                    endpoints,
                };
                self.follower.note(|stale| *stale = everything);
            }
        }
    }

    /// Looks at everything that may be different.
    pub(super) async fn look(&mut self) {
        let begin = self.follower.pace.begin();
        let stale = mem::take(&mut self.follower.stale);
        if stale.links {
            self.look_for_links().await;
        }
        if stale.host_link {
            self.look_at_host_link().await;
        }
        if stale.addresses {
            self.look_at_addresses().await;
        }
        for link in &stale.endpoints {
            self.look_at_endpoint(link).await;
        }
        if stale.routes {
            self.look_at_routes().await;
        }
        if stale.tunnels {
            self.look_at_tunnels();
        }
        self.follower.pace.end(begin);
    }

    /// The endpoint whose link has this index.
    fn endpoint_at(&self, index: u32) -> Option<&Endpoint> {
        let has_it = |endpoint: &&Endpoint| {
            endpoint.link.as_ref().is_ok_and(|attached| attached.link.index == index)
        };
        self.endpoints.values().find(has_it)
    }

    fn link_changed(&mut self, link: &Link) {
        let own = [&mut self.host.host, &mut self.host.xsk];
        if let Some(own) = own.into_iter().find(|own| own.index == link.index) {
            if own != link {
                own.clone_from(link);
                self.publisher.request();
            }
            // The kernel forgets a link's routes when it goes down.
            self.follower.note(|stale| (stale.host_link, stale.routes) = (true, true));
            return;
        }
        let attached = self.endpoints.values_mut().find_map(|endpoint| {
            let attached = endpoint.link.as_mut().ok()?;
            (attached.link.index == link.index).then_some((&endpoint.spec.link, attached))
        });
        if let Some((name, attached)) = attached {
            if attached.link != *link {
                attached.link.clone_from(link);
                self.publisher.request();
            }
            self.follower.note(|stale| _ = stale.endpoints.insert(name.clone()));
            return;
        }
        if self.endpoints.contains_key(&link.name) {
            self.follower.note(|stale| _ = stale.endpoints.insert(link.name.clone()));
        }
        // It may be a way out, or a tunnel.
        self.follower.note(|stale| (stale.routes, stale.tunnels) = (true, true));
    }

    async fn link_gone(&mut self, index: u32) {
        if index == self.host.xsk.index || index == self.host.host.index {
            self.restore_host_link().await;
            return;
        }
        self.unknown_pod_gone(index);
        for endpoint in self.endpoints.values_mut() {
            let Ok(attached) = &endpoint.link else { continue };
            if attached.link.index == index {
                warn!("link {} of endpoint {} is gone", endpoint.spec.link, endpoint.spec.pod);
                self.links.close(attached.slot);
                endpoint.link = Err(format!("link {} is gone", endpoint.spec.link));
                self.counts.links_gone += 1;
                self.publisher.request();
            }
        }
        self.follower.note(|stale| (stale.routes, stale.tunnels) = (true, true));
    }

    /// Somebody deleted the host link. Without it no pod reaches anything but local pods.
    async fn restore_host_link(&mut self) {
        error!("links {HOST} and {XSK} are gone; they are made anew");
        self.links.close(HOST_SLOT);
        self.routed.clear();
        let restored = match HostLink::ensure(&self.netlink).await {
            Ok(host) => self.links.open_host(&host).map(|()| host),
            Err(error) => Err(error),
        };
        match restored {
            Ok(host) => {
                self.host = host;
                self.host_lost = None;
            }
            Err(error) => {
                let reason = describe(error.as_ref());
                error!("pods reach nothing but pods of this node: {reason}");
                self.host_lost = Some(reason);
            }
        }
        self.publisher.force();
    }

    /// Somebody changed the host link, which works only while both ends are up.
    async fn look_at_host_link(&mut self) {
        if self.host.host.up && self.host.xsk.up {
            return;
        }
        match HostLink::ensure(&self.netlink).await {
            Ok(host) if host.xsk.index == self.host.xsk.index => {
                warn!("links {HOST} and {XSK} were set down; they are up again");
                self.host = host;
                self.publisher.request();
            }
            // It went and was made anew, here, before the news of its end came.
            Ok(_) => self.restore_host_link().await,
            Err(error) => error!("links {HOST} and {XSK} are down: {}", describe(error.as_ref())),
        }
    }

    /// Looks for links that changed or vanished while news were lost.
    async fn look_for_links(&mut self) {
        let attached: Vec<u32> = self
            .endpoints
            .values()
            .filter_map(|endpoint| endpoint.link.as_ref().ok())
            .map(|attached| attached.link.index)
            .chain([self.host.host.index, self.host.xsk.index])
            .collect();
        for index in attached {
            match self.netlink.link_at(index).await {
                Ok(Some(link)) => self.link_changed(&link),
                Ok(None) => self.link_gone(index).await,
                Err(error) => warn!("{error}"),
            }
        }
    }

    /// Addresses of the node.
    pub(super) async fn look_at_addresses(&mut self) {
        match self.netlink.addresses().await {
            Ok(addresses) => {
                self.node = publish::node_addresses(&addresses);
                self.store.set_host_addresses(addresses);
                self.publisher.request();
            }
            Err(error) => warn!("{error}"),
        }
    }

    /// The pod's end of an endpoint's link. What can't be read is not what it was: then the pod is
    /// cut off. With the MAC address given and no namespace, there is nothing to look at.
    async fn look_at_endpoint(&mut self, name: &str) {
        let leaves_checksums = self.leaves_checksums();
        let Some(endpoint) = self.endpoints.get_mut(name) else { return };
        if endpoint.spec.netns.is_none() {
            return;
        }
        let Ok(attached) = &mut endpoint.link else {
            return self.attach_again(name).await;
        };
        let found = prepare_pod_end(&endpoint.spec, &attached.link, None, leaves_checksums);
        let turned_off = found.as_ref().is_ok_and(|found| found.offload_was_on);
        let pod_end = found.map(|end| end.hardware).map_err(|error| describe(error.as_ref()));
        if attached.pod_end != pod_end {
            debug!("the pod's end of link {name} is now {pod_end:?}");
            attached.pod_end = pod_end;
            self.publisher.request();
        }
        if turned_off && !endpoint.offload_was_on {
            endpoint.offload_was_on = true;
            self.save();
        }
    }

    /// Attaches an endpoint whose link was gone, if there is one of that name that leads into the
    /// pod's namespace.
    async fn attach_again(&mut self, name: &str) {
        if !self.netlink.link(name).await.is_ok_and(|link| link.is_some()) {
            return;
        }
        let Some(endpoint) = self.endpoints.get(name) else { return };
        let (spec, link) = (endpoint.spec.clone(), Err(String::new()));
        // It is another link, whose other end is as its maker left it.
        let mut anew = Endpoint { spec, link, offload_was_on: false };
        anew.link = self.attach(&mut anew).await.map_err(|error| describe(error.as_ref()));
        let pod = &anew.spec.pod;
        match &anew.link {
            Ok(_) => info!("link {name} of endpoint {pod} is back"),
            Err(reason) => debug!("link {name} of endpoint {pod} is not back yet: {reason}"),
        }
        let was_on = anew.offload_was_on;
        let before = self.endpoints.insert(name.to_owned(), anew);
        if before.is_some_and(|before| before.offload_was_on != was_on) {
            self.save();
        }
        self.publisher.request();
    }

    /// Our routes to the pods, which are put back if they were deleted; the node's ways out; and
    /// what the kernel delivers to the node itself.
    pub(super) async fn look_at_routes(&mut self) {
        let (Routes { unicast: routes, local }, links) =
            match (self.netlink.routes().await, self.netlink.links().await) {
                (Ok(routes), Ok(links)) => (routes, links),
                (Err(error), _) | (_, Err(error)) => {
                    warn!("{error}");
                    return self.set_local_prefixes(None, &error.to_string());
                }
            };
        self.set_local_prefixes(Some(local), "");
        let host = self.host.host.index;
        let mut found = BTreeMap::new();
        for (address, mtu) in routes.iter().filter_map(|route| route.host_route(host)) {
            // The first of several is the one in force.
            found.entry(address).or_insert(mtu);
        }
        self.routed.retain(|address, mtu| match found.get(address) {
            Some(found) => {
                *mtu = *found;
                true
            }
            None => {
                warn!("the route of pod address {address} to {HOST} was deleted; it is put back");
                false
            }
        });
        self.route_in_kernel().await;
        let ours = |index| {
            [host, self.host.xsk.index].contains(&index) || self.endpoint_at(index).is_some()
        };
        let path_mtu = path_mtu(&routes, &links, ours);
        if self.path_mtu != path_mtu {
            self.path_mtu = path_mtu;
            self.publisher.request();
        }
    }
}
