//! Reconciliation with the kernel: links, addresses and routes that others change.
//!
//! A notification only says what has to be read again; only what is then read counts. So neither
//! the order of notifications matters nor the loss of some. Reads are debounced, because a pod may
//! change its end of its link as often as it likes.

use std::collections::BTreeSet;
use std::mem;
use std::time::Duration;

use podgate_hostnet::{Change, Link, Netlink};
use tokio::time::Instant;
use tracing::debug;

use super::Agent;
use super::debounce::Debounce;
use super::endpoints::PendingChanges;
use super::host_network::{HOST_SLOT, HostLink, HostLinkEffect, Observation, Observed, XSK};
use crate::error::describe;

/// Minimum time between the beginnings of two reconciliations.
const GAP: Duration = Duration::from_millis(20);

/// When to reconcile what.
#[derive(Debug)]
pub(super) struct Reconciler {
    debounce: Debounce,
    dirty: Dirty,
    /// When the running observation began.
    observing: Option<Instant>,
}

/// What may differ from what the agent knows.
#[derive(Default, Debug)]
pub(super) struct Dirty {
    /// All links that are attached.
    links: bool,
    /// Links with these indices.
    some_links: BTreeSet<u32>,
    host_link: bool,
    addresses: bool,
    routes: bool,
    /// UDP ports of tunnels.
    tunnels: bool,
    /// The pods' ends of these links, or whether a link that was gone is back.
    endpoints: BTreeSet<String>,
}

impl Dirty {
    /// Everything but endpoints.
    fn everything() -> Self {
        Self {
            links: true,
            host_link: true,
            addresses: true,
            routes: true,
            tunnels: true,
            ..Self::default()
        }
    }

    /// Whether the host network has to be observed.
    fn needs_observation(&self) -> bool {
        self.links
            || !self.some_links.is_empty()
            || self.host_link
            || self.addresses
            || self.routes
            || self.tunnels
    }
}

impl Reconciler {
    /// Nothing is dirty yet.
    pub(super) fn new() -> Self {
        let debounce = Debounce::with_gap(GAP);
        Self { debounce, dirty: Dirty::default(), observing: None }
    }

    /// When the next reconciliation is due, if something is dirty.
    pub(super) fn due(&self) -> Option<Instant> {
        self.debounce.due().filter(|_| self.observing.is_none())
    }

    fn mark(&mut self, mark: impl FnOnce(&mut Dirty)) {
        mark(&mut self.dirty);
        self.debounce.request();
    }
}

impl Agent {
    /// Takes a notification of the kernel.
    pub(super) fn on_change(&mut self, change: Change) {
        match change {
            Change::Link(link) => self.on_link_change(&link),
            Change::LinkGone(index) => self.on_link_gone(index),
            Change::Addresses => self.reconciler.mark(|dirty| dirty.addresses = true),
            Change::Routes => self.reconciler.mark(|dirty| dirty.routes = true),
            Change::PeerLinkChanged(index) => {
                if let Some(name) = self.endpoints.pod_end_changed(index) {
                    self.reconciler.mark(|dirty| _ = dirty.endpoints.insert(name));
                }
            }
            Change::PeerLinkChangesLost => {
                let all = self.endpoints.changes_lost();
                self.reconciler.mark(|dirty| dirty.endpoints.extend(all));
            }
            Change::Overrun => {
                let endpoints = self.endpoints.changes_lost();
                let everything = Dirty { endpoints, ..Dirty::everything() };
                self.reconciler.mark(|dirty| *dirty = everything);
            }
        }
    }

    fn on_link_change(&mut self, link: &Link) {
        self.host.link_read(link.index, Ok(()));
        if let Some(changed) = self.host.link_changed(link) {
            if changed {
                self.plane.request();
            }
            // The kernel deletes a link's routes when the link goes down.
            self.reconciler.mark(|dirty| (dirty.host_link, dirty.routes) = (true, true));
            return;
        }
        if let Some(effect) = self.endpoints.link_changed(link) {
            if effect.changed {
                self.plane.request();
            }
            self.reconciler.mark(|dirty| _ = dirty.endpoints.insert(effect.name));
            return;
        }
        let is_endpoint = self.endpoints.get(&link.name).is_some();
        self.reconciler.mark(|dirty| {
            if is_endpoint {
                dirty.endpoints.insert(link.name.clone());
            }
            // It may have routes out of the node, or be a tunnel.
            (dirty.routes, dirty.tunnels) = (true, true);
        });
    }

    fn on_link_gone(&mut self, index: u32) {
        self.host.link_read(index, Ok(()));
        if self.host.own().contains(&index) {
            if self.host.detach() {
                self.endpoints.detach(HOST_SLOT, XSK);
                self.plane.force();
            }
            self.reconciler.mark(|dirty| dirty.host_link = true);
            return;
        }
        if let Some((name, offload)) = self.endpoints.link_gone(index) {
            self.plane.request();
            if offload.is_turned_off() {
                // Nothing is left of it to restore.
                self.save();
            }
            // Another link may have the name already, and its notification may be lost.
            self.reconciler.mark(|dirty| _ = dirty.endpoints.insert(name));
        }
        self.reconciler.mark(|dirty| (dirty.routes, dirty.tunnels) = (true, true));
    }

    /// Requests reads that no notification asks for: of the ports of tunnels, and of what could not
    /// be read, created or attached.
    pub(super) fn request_periodic_reads(&mut self) {
        if self.host.tunnels_are_due() && self.reconciler.observing.is_none() {
            let host = &self.host;
            self.reconciler.mark(|dirty| {
                dirty.tunnels = true;
                dirty.routes |= host.routes_are_unknown();
                dirty.host_link |= host.link_is_due();
                dirty.addresses |= host.addresses_unread().is_some();
            });
            if self.endpoints.has_unset_pods() {
                // A publication sets them again, even if nothing else has changed.
                self.plane.request();
            }
        }
        if self.endpoints.pins_are_due() {
            let unread = self.find_pins();
            self.reconciler.mark(|dirty| dirty.some_links.extend(unread));
        }
        let (endpoints, own) = (&self.endpoints, self.host.own());
        let links = self.host.links_due(|| {
            let unread = endpoints.unread_pins().iter().copied();
            endpoints.attached_indices().into_iter().chain(own).chain(unread).collect()
        });
        if !links.is_empty() {
            self.reconciler.mark(|dirty| dirty.some_links.extend(links));
        }
        let endpoints = self.endpoints.due(Instant::now());
        if !endpoints.is_empty() {
            self.reconciler.mark(|dirty| dirty.endpoints.extend(endpoints));
        }
    }

    /// Starts to read everything that is dirty.
    pub(super) fn reconcile(&mut self) {
        let begin = self.reconciler.debounce.begin();
        let mut dirty = mem::take(&mut self.reconciler.dirty);
        for link in mem::take(&mut dirty.endpoints) {
            if self.endpoints.is_running(&link) {
                // It is reconciled when the operation ends, see `operation_ended`.
                self.reconciler.dirty.endpoints.insert(link);
            } else {
                self.endpoints.start_reconcile(&link, self.host.own());
            }
        }
        if dirty.needs_observation() {
            self.host.observe(self.observation(&dirty));
            self.reconciler.observing = Some(begin);
        } else {
            self.reconciler.debounce.end(begin);
        }
    }

    fn observation(&self, dirty: &Dirty) -> Observation {
        let attached = self.endpoints.attached_indices();
        let mut links = dirty.some_links.clone();
        if dirty.links {
            // A notification that was lost may have been about a link that is cut off, too.
            links.extend(self.endpoints.cut_off_indices());
            links.extend(attached.iter().copied().chain(self.host.own()));
        }
        let links = Vec::from_iter(links);
        Observation {
            links,
            host_link: dirty.host_link,
            addresses: dirty.addresses,
            routes: dirty.routes.then(|| self.host.not_outward(attached)),
            tunnels: dirty.tunnels,
        }
    }

    /// Everything that is read before the start is complete.
    pub(super) fn first_observation(&self) -> Observation {
        self.observation(&Dirty { links: false, host_link: false, ..Dirty::everything() })
    }

    /// Takes what was read.
    pub(super) fn on_observed(&mut self, observed: Observed) {
        let Observed { links, host_link, addresses, routes, tunnels } = observed;
        for (index, link) in links {
            self.on_link_read(index, link);
        }
        if let Some(result) = host_link {
            self.on_host_link(result);
        }
        if let Some(addresses) = addresses.and_then(|read| self.host.set_addresses(read)) {
            self.plane.set_host_addresses(addresses);
        }
        let routes = routes.is_some_and(|read| self.host.set_read_routes(read));
        let tunnels = tunnels.is_some_and(|ports| {
            let changed = self.host.set_tunnel_ports(ports);
            let links = self.endpoints.links_mut();
            self.host.pass_tunnel_ports(|ports| {
                links.set_tunnel_ports(ports).map_err(|error| describe(error.as_ref()))
            });
            changed
        });
        if routes || tunnels {
            self.plane.request();
        }
        if let Some(begin) = self.reconciler.observing.take() {
            self.reconciler.debounce.end(begin);
        }
    }

    /// Takes a link that was read.
    fn on_link_read(&mut self, index: u32, read: Result<Option<Link>, String>) {
        match read {
            Ok(Some(link)) => self.on_link_change(&link),
            Ok(None) => self.on_link_gone(index),
            Err(reason) => {
                let effect = match self.endpoints.unread_pins().contains(&index) {
                    true => "the pod behind it is cut off",
                    false => "what was read before stays in force",
                };
                self.host.link_read(index, Err(format!("{reason}; {effect}")));
            }
        }
    }

    /// Finds the links with pinned programs that no endpoint names. Returns their indices.
    fn find_pins(&mut self) -> BTreeSet<u32> {
        self.endpoints.find_pins(&self.files.state().bpf(), self.host.own());
        self.endpoints.unread_pins().clone()
    }

    /// Finds links with pinned programs that no endpoint names, at the start. What can't be read is
    /// read again later.
    pub(super) async fn find_unknown_pods(&mut self, netlink: &Netlink) {
        for index in self.find_pins() {
            let read = netlink.link_at(index).await.map_err(|error| error.to_string());
            self.on_link_read(index, read);
        }
    }

    fn on_host_link(&mut self, result: Result<HostLink, String>) {
        match self.host.host_link_checked(result) {
            HostLinkEffect::None => {}
            HostLinkEffect::Publish => self.plane.request(),
            HostLinkEffect::Attach(link) => {
                // It may have been deleted and created again before the notification came.
                let detached = self.host.detach();
                if detached {
                    self.endpoints.detach(HOST_SLOT, XSK);
                }
                let changed = match self.endpoints.links_mut().open_host(&link) {
                    Ok(()) => {
                        self.host.host_link_attached(link);
                        true
                    }
                    Err(error) => self.host.host_link_failed(describe(error.as_ref())),
                };
                if detached || changed {
                    self.plane.force();
                }
            }
        }
    }

    /// Marks what changed on a link while an operation on it ran.
    pub(super) fn reconcile_changes(&mut self, link: &str, changes: PendingChanges) {
        let PendingChanges { link: changed, pod_end, overrun } = changes;
        if let Some(changed) = changed {
            self.on_link_change(&changed);
        }
        if pod_end && self.endpoints.get(link).is_some() {
            self.reconciler.mark(|dirty| _ = dirty.endpoints.insert(link.to_owned()));
        }
        if overrun {
            self.reconciler.mark(|dirty| dirty.links = true);
        }
    }

    /// Requests a reconciliation of endpoints that had to wait for the end of an operation.
    pub(super) fn reconcile_waiting(&mut self) {
        if !self.reconciler.dirty.endpoints.is_empty() {
            debug!("endpoints changed during an operation");
            self.reconciler.debounce.request();
        }
    }
}
