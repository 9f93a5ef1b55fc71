//! Endpoints: pods behind links, and what is attached to their links.
//!
//! Lookups and work in a pod's network namespace are done by tasks, whose results come back as
//! [`Completed`]. Operations on one link are done one after another, in the order of the requests;
//! the state of endpoints changes on the control thread only.

mod dropped;
mod endpoint;
mod links;
mod prepare;
mod slots;
mod unknown;

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, bail};
use futures_util::StreamExt;
use podgate_api::EndpointSpec;
use podgate_hostnet::Link;
use podgate_tables::ids::LinkId;
use podgate_tables::route::RouteTable;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use super::retries::Retries;
use super::server::ReplySender;
use super::state::{ChecksumOffload, SavedEndpoint};
use crate::error::describe;

pub(super) use self::endpoint::{Attached, Endpoint};
pub(super) use self::links::{Links, pinned_indices, unpin_in};
pub(crate) use self::links::{PIN_PREFIX, max_endpoints_for};
use self::prepare::NETNS_THREADS;
use self::prepare::is_transient;
pub(super) use self::prepare::{PodEnd, Prepared, Preparer};
pub(crate) use self::prepare::{netns_threads, restore_offload};
use self::unknown::{UnknownPods, refuse_attached};

/// Results of tasks that may wait for the control thread.
pub(super) const COMPLETED_MAX: usize = 64;

/// All endpoints.
pub(super) struct Endpoints {
    /// By the name of the link.
    by_link: BTreeMap<String, Endpoint>,
    unknown: UnknownPods,
    links: Links,
    preparer: Preparer,
    /// Operations that run, by the name of the link.
    running: BTreeMap<String, Running>,
    completed: mpsc::Sender<Completed>,
    links_gone: u64,
    retries: Retries<String>,
    /// What could not be written to the programs' maps, one line each.
    unset: Vec<String>,
    /// Indices of links that the previous agent cut off and that could not be attached again, by
    /// name.
    unattached: BTreeMap<String, u32>,
    /// Endpoints whose link doesn't exist, by its name.
    without_link: BTreeSet<String>,
}

/// An operation on a link that a task works on.
#[derive(Default)]
struct Running {
    /// Requests about the link that wait until it ends.
    queue: Vec<EndpointRequest>,
    changes: PendingChanges,
}

/// Changes of a link that came while an operation on it ran.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct PendingChanges {
    /// The last change of the host's end.
    pub(super) link: Option<Link>,
    /// A change of some pod's end.
    pub(super) pod_end: bool,
    /// Changes were lost.
    pub(super) overrun: bool,
}

/// A request of a client about one link.
#[derive(Debug)]
pub(super) enum EndpointRequest {
    /// Attach a pod.
    Add(EndpointSpec, ReplySender),
    /// Detach a pod.
    Remove(String, ReplySender),
}

impl EndpointRequest {
    /// Name of the link.
    pub(super) fn link(&self) -> &str {
        match self {
            Self::Add(spec, _) => &spec.link,
            Self::Remove(link, _) => link,
        }
    }
}

/// The result of a task.
#[derive(Debug)]
pub(super) enum Completed {
    /// A link was prepared to be attached.
    Prepared {
        /// The endpoint.
        spec: EndpointSpec,
        /// Why.
        purpose: Purpose,
        /// The link, or why there is none.
        result: Result<Prepared>,
    },
    /// There is still no link for an endpoint whose link is gone.
    StillGone(String),
    /// The pod's end of an attached link was read.
    Inspected {
        /// Name of the link.
        link: String,
        /// Its index at that time.
        index: u32,
        /// The pod's end, or why it is unknown.
        result: Result<PodEnd>,
    },
    /// A pod's TX checksum offload was restored.
    OffloadRestored {
        /// Name of the link.
        link: String,
        /// What is left to do.
        then: AfterRestore,
    },
}

/// Why a link is prepared.
#[derive(Debug)]
pub(super) enum Purpose {
    /// A client's request.
    Add(ReplySender),
    /// The link of an endpoint may be back.
    Reattach,
}

/// What follows the restoration of an offload.
#[derive(Debug)]
pub(super) enum AfterRestore {
    /// The endpoint is removed.
    Removed(ReplySender),
    /// The endpoint could not be attached, for this reason.
    NotAdded(ReplySender, anyhow::Error),
    /// Nothing.
    Nothing,
}

/// Whether an endpoint has to be attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Admission {
    /// It has to be.
    New,
    /// It is attached.
    Attached,
}

impl Endpoints {
    /// No endpoints yet. Results of tasks go to `completed`.
    pub(super) fn new(
        links: Links,
        preparer: Preparer,
        completed: mpsc::Sender<Completed>,
    ) -> Self {
        Self {
            by_link: BTreeMap::new(),
            unknown: UnknownPods::default(),
            links,
            preparer,
            running: BTreeMap::new(),
            completed,
            links_gone: 0,
            retries: Retries::default(),
            unset: Vec::new(),
            unattached: BTreeMap::new(),
            without_link: BTreeSet::new(),
        }
    }

    /// All endpoints, with the names of their links.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&String, &Endpoint)> {
        self.by_link.iter()
    }

    /// The endpoint on the link of this name.
    pub(super) fn get(&self, link: &str) -> Option<&Endpoint> {
        self.by_link.get(link)
    }

    /// Pods that are cut off and not known.
    pub(super) fn unknown(&self) -> &UnknownPods {
        &self.unknown
    }

    /// The dataplane's links.
    pub(super) fn links(&self) -> &Links {
        &self.links
    }

    /// The dataplane's links, to change them.
    pub(super) fn links_mut(&mut self) -> &mut Links {
        &mut self.links
    }

    /// Links of attached endpoints that were deleted.
    pub(super) fn links_gone(&self) -> u64 {
        self.links_gone
    }

    /// Endpoints at which an operation failed that is due to be tried again.
    pub(super) fn due(&mut self, now: Instant) -> Vec<String> {
        self.retries.due(now)
    }

    /// Failures of endpoints, one line each.
    pub(super) fn problems(&self) -> impl Iterator<Item = String> {
        let kept = self.retries.reasons().map(|(link, reason, seconds)| {
            format!(
                "the pod's end of link {link} can't be read: {reason}; its state before stays in \
                 force, and it is tried again every {seconds} s"
            )
        });
        kept.chain(self.unknown.problems()).chain(self.unset.iter().cloned())
    }

    /// Sets MAC and IP addresses of the ready pods in the programs' maps.
    pub(super) fn set_pods(&mut self, routes: &Arc<RouteTable>) {
        let name = |slot| {
            let mut endpoints = self.by_link.values();
            let is_in_slot = |attached: &Attached| attached.slot == slot;
            let endpoint = endpoints.find(|endpoint| endpoint.link.as_ref().is_ok_and(is_in_slot));
            let spec = endpoint.map(|endpoint| &endpoint.spec);
            spec.map_or_else(
                || format!("the pod of slot {}", slot.0),
                |spec| format!("pod {} on link {}", spec.pod, spec.link),
            )
        };
        let unset = self.links.set_pods(routes, name);
        unset.iter().filter(|line| !self.unset.contains(line)).for_each(|line| error!("{line}"));
        self.unset = unset;
    }

    /// Whether the addresses of some pods could not be set, or those of deleted pods not removed.
    pub(super) fn has_unset_pods(&self) -> bool {
        !self.unset.is_empty() || self.links.has_stale_entries()
    }

    /// Indices of the attached links.
    pub(super) fn attached_indices(&self) -> BTreeSet<u32> {
        let attached = |endpoint: &Endpoint| Some(endpoint.link.as_ref().ok()?.link.index);
        self.by_link.values().filter_map(attached).collect()
    }

    /// The endpoints as the state directory has them.
    pub(super) fn remembered(&self) -> Vec<SavedEndpoint> {
        let remembered = |endpoint: &Endpoint| SavedEndpoint {
            spec: endpoint.spec.clone(),
            offload: endpoint.offload,
        };
        self.by_link.values().map(remembered).collect()
    }

    /// Whether the endpoint may be added.
    ///
    /// # Errors
    /// When the link belongs to another endpoint, or the pod has another link that exists.
    pub(super) fn admit(&self, spec: &EndpointSpec) -> Result<Admission> {
        if let Some(endpoint) = self.by_link.get(&spec.link)
            && endpoint.link.is_ok()
        {
            if endpoint.spec == *spec {
                return Ok(Admission::Attached);
            }
            bail!(
                "link {} is the endpoint of pod {} already; remove it first",
                spec.link,
                endpoint.spec.pod
            );
        }
        if let Some(other) = self.of_same_pod(spec).find(|other| !self.is_gone(other)) {
            let link = &other.spec.link;
            bail!("pod {} is the endpoint on link {link} already; remove it first", spec.pod);
        }
        Ok(Admission::New)
    }

    /// Endpoints of the same pod on other links.
    fn of_same_pod(&self, spec: &EndpointSpec) -> impl Iterator<Item = &Endpoint> {
        let same_pod =
            |other: &&Endpoint| other.spec.pod == spec.pod && other.spec.link != spec.link;
        self.by_link.values().filter(same_pod)
    }

    /// Whether the endpoint's link doesn't exist, and none of that name is being attached.
    fn is_gone(&self, endpoint: &Endpoint) -> bool {
        let link = &endpoint.spec.link;
        self.without_link.contains(link) && !self.running.contains_key(link)
    }

    /// Whether an operation on the link runs.
    pub(super) fn is_running(&self, link: &str) -> bool {
        self.running.contains_key(link)
    }

    /// Queues a request until the running operation on its link ends.
    ///
    /// # Errors
    /// The request itself, if there is no such operation.
    #[expect(clippy::result_large_err, reason = "the request is what the caller gave")]
    pub(super) fn queue(&mut self, request: EndpointRequest) -> Result<(), EndpointRequest> {
        match self.running.get_mut(request.link()) {
            Some(running) => {
                running.queue.push(request);
                Ok(())
            }
            None => Err(request),
        }
    }

    /// Ends the operation on a link. Returns the requests that waited, and the changes that came
    /// meanwhile.
    pub(super) fn end_operation(&mut self, link: &str) -> (Vec<EndpointRequest>, PendingChanges) {
        let Running { queue, changes } = self.running.remove(link).unwrap_or_default();
        (queue, changes)
    }

    /// Starts to prepare a link that is then attached for `purpose`; `own` are podgate's links.
    pub(super) fn start_prepare(&mut self, spec: EndpointSpec, own: [u32; 2], purpose: Purpose) {
        let preparer = self.preparer.clone();
        self.start(spec.link.clone(), async move {
            let found = match (preparer.find(&spec).await, &purpose) {
                (Ok(None), Purpose::Reattach) => return Completed::StillGone(spec.link),
                (found, _) => found,
            };
            let result = match found {
                Ok(found) => preparer.prepare(&spec, found, own).await,
                Err(error) => Err(error),
            };
            Completed::Prepared { spec, purpose, result }
        });
    }

    /// Starts to read the pod's end of an endpoint's link, or to attach a link that is back. With
    /// the MAC address given and no namespace, there is nothing to read.
    pub(super) fn start_reconcile(&mut self, link: &str, own: [u32; 2]) {
        let Some(endpoint) = self.by_link.get(link) else { return };
        let spec = endpoint.spec.clone();
        match &endpoint.link {
            Err(_) => self.start_prepare(spec, own, Purpose::Reattach),
            Ok(_) if spec.netns.is_none() => {}
            Ok(attached) => {
                let (preparer, host_end) = (self.preparer.clone(), attached.link.clone());
                self.start(spec.link.clone(), async move {
                    let result = preparer.inspect(&spec, &host_end).await;
                    Completed::Inspected { link: spec.link, index: host_end.index, result }
                });
            }
        }
    }

    /// Starts to restore a pod's TX checksum offload.
    pub(super) fn start_restore(&mut self, spec: EndpointSpec, then: AfterRestore) {
        let preparer = self.preparer.clone();
        self.start(spec.link.clone(), async move {
            preparer.restore_offload(&spec).await;
            Completed::OffloadRestored { link: spec.link, then }
        });
    }

    /// Starts an operation on a link. One that continues another keeps its queue.
    fn start(&mut self, link: String, task: impl Future<Output = Completed> + Send + 'static) {
        self.running.entry(link).or_default();
        let completed = self.completed.clone();
        // Fails when the agent has stopped.
        tokio::spawn(async move { _ = completed.send(task.await).await });
    }

    /// Attaches a prepared link. The caller has published the tables without the pod that the slot
    /// belonged to before.
    ///
    /// # Errors
    /// When there is no free slot, or the kernel rejects a request.
    pub(super) fn attach(&mut self, prepared: Prepared) -> Result<Attached> {
        let slot = self.links.free_slot()?;
        self.links.open(&prepared.link, slot)?;
        let pod_end = Ok(prepared.pod_end.interface);
        Ok(Attached { slot, link: prepared.link, pod_end })
    }

    /// Adds an endpoint whose link was attached.
    pub(super) fn insert(&mut self, spec: EndpointSpec, attached: Attached, pod_end: PodEnd) {
        let link = spec.link.clone();
        // The state of the offload before podgate is known from an earlier time, if at all.
        let offload = match self.by_link.get(&link) {
            Some(before) => pod_end.offload.after(before.offload),
            None => pod_end.offload,
        };
        // The network plugin need not have asked to remove that of the pod's last sandbox.
        let gone = self.of_same_pod(&spec).map(|other| other.spec.link.clone());
        for gone in gone.collect::<Vec<_>>() {
            info!("endpoint {} on link {gone}, which doesn't exist, is replaced", spec.pod);
            self.remove(&gone);
        }
        info!("endpoint {} on link {link} attached", spec.pod);
        self.no_longer_unknown(&link, attached.link.index);
        self.without_link.remove(&link);
        self.retries.clear(&link);
        self.by_link.insert(link, Endpoint { spec, link: Ok(attached), offload });
    }

    /// Takes the result of attaching the link of an endpoint again. It is another link than before,
    /// unless attaching that one failed. Returns whether the endpoint list changed.
    pub(super) fn reattached(
        &mut self,
        spec: &EndpointSpec,
        result: Result<(Attached, PodEnd)>,
    ) -> bool {
        let Some(endpoint) = self.by_link.get_mut(&spec.link) else { return false };
        self.without_link.remove(&spec.link);
        let before = endpoint.offload;
        match result {
            Ok((attached, pod_end)) => {
                info!("link {} of endpoint {} is back", spec.link, spec.pod);
                let index = attached.link.index;
                endpoint.link = Ok(attached);
                endpoint.offload = pod_end.offload.after(before);
                let changed = endpoint.offload != before;
                self.no_longer_unknown(&spec.link, index);
                self.retries.clear(&spec.link);
                changed
            }
            Err(error) => {
                let reason = describe(error.as_ref());
                debug!("link {} of endpoint {} is not back yet: {reason}", spec.link, spec.pod);
                endpoint.link = Err(reason);
                self.retries.failed(spec.link.clone(), None, Instant::now());
                false
            }
        }
    }

    /// The link of this index, by whatever name it was known, is that of an attached endpoint now,
    /// whose name of it is `link`.
    fn no_longer_unknown(&mut self, link: &str, index: u32) {
        self.unknown.attached(index);
        self.unattached.retain(|name, of| name != link && *of != index);
    }

    /// There is still no link for an endpoint.
    pub(super) fn still_gone(&mut self, link: &str) {
        if self.by_link.contains_key(link) {
            self.without_link.insert(link.to_owned());
            self.retries.failed(link.to_owned(), None, Instant::now());
        }
    }

    /// Takes the state of a pod's end. An unknown state differs from a known one: then the pod is
    /// cut off. If the state could not be read for a reason that says nothing of the pod, it stays
    /// as it was.
    pub(super) fn inspected(
        &mut self,
        link: &str,
        index: u32,
        result: Result<PodEnd>,
    ) -> InspectionEffect {
        let mut effect = InspectionEffect::default();
        let Some(endpoint) = self.by_link.get_mut(link) else { return effect };
        let Ok(attached) = &mut endpoint.link else { return effect };
        if attached.link.index != index {
            return effect;
        }
        let turned_off = result.as_ref().is_ok_and(|found| found.offload.is_turned_off());
        if let Err(error) = &result {
            let reason = describe(error.as_ref());
            let keeps = attached.pod_end.is_ok() && is_transient(error);
            let kept = keeps.then(|| reason.clone());
            self.retries.failed(link.to_owned(), kept, Instant::now());
            if keeps {
                warn!("the pod's end of link {link} can't be read: {reason}; it is tried again");
                return effect;
            }
        } else {
            self.retries.clear(link);
        }
        let pod_end = result.map(|end| end.interface).map_err(|error| describe(error.as_ref()));
        if attached.pod_end != pod_end {
            debug!("the pod's end of link {link} is now {pod_end:?}");
            attached.pod_end = pod_end;
            effect.publish = true;
        }
        if turned_off {
            let before = mem::replace(&mut endpoint.offload, ChecksumOffload::TurnedOff);
            effect.save = !before.is_turned_off();
        }
        effect
    }

    /// Removes an endpoint, whose link is still attached.
    pub(super) fn remove(&mut self, link: &str) -> Option<Endpoint> {
        self.retries.clear(link);
        self.without_link.remove(link);
        self.by_link.remove(link)
    }

    /// Detaches what the previous agent pinned at a link that could not be attached again: from
    /// here on, no policy applies to its pod.
    pub(super) fn unpin_unattached(&mut self, link: &str) {
        let Some(index) = self.unattached.remove(link) else { return };
        match refuse_attached(link, index, &self.attached_indices()) {
            Ok(()) => self.links.unpin(index),
            Err(error) => warn!("{error}"),
        }
    }

    /// Detaches the link with this name: from here on, no policy applies to its pod.
    pub(super) fn detach(&mut self, slot: LinkId, name: &str) {
        self.links.close(slot, name);
    }

    /// Removes an endpoint whose pod is not known: from here on, no policy applies to it.
    ///
    /// # Errors
    /// When there is no such endpoint, or its link is that of another one.
    pub(super) fn remove_unknown(&mut self, link: &str) -> Result<()> {
        let index = self.unknown.take(link, &self.attached_indices())?;
        self.links.unpin(index);
        info!("endpoint of an unknown pod on link {link} removed");
        Ok(())
    }

    /// Takes a change of a link. Returns its effect; `None` if it is no endpoint's link.
    pub(super) fn link_changed(&mut self, link: &Link) -> Option<LinkEffect> {
        let is_renamed =
            |name: &String, index: &mut u32| *index == link.index && *name != link.name;
        let renamed = self.unattached.extract_if(.., is_renamed).count() > 0;
        if self.unknown.take_read(link) || renamed {
            self.record_unknown(link.clone());
        }
        let attached = self.by_link.iter_mut().find_map(|(name, endpoint)| {
            let attached = endpoint.link.as_mut().ok()?;
            (attached.link.index == link.index).then_some((name, attached))
        });
        if let Some((name, attached)) = attached {
            let changed = attached.link != *link;
            attached.link.clone_from(link);
            return Some(LinkEffect { name: name.clone(), changed });
        }
        if let Some(running) = self.running.get_mut(&link.name) {
            running.changes.link = Some(link.clone());
        }
        None
    }

    /// Takes the deletion of a link. Returns its name and the offload of the pod's end, if it was
    /// an endpoint's.
    pub(super) fn link_gone(&mut self, index: u32) -> Option<(String, ChecksumOffload)> {
        self.unknown.link_gone(index, &self.links);
        if self.unattached.extract_if(.., |_, of| *of == index).count() > 0 {
            self.links.unpin(index);
        }
        let mut gone = None;
        for endpoint in self.by_link.values_mut() {
            let Ok(attached) = &endpoint.link else { continue };
            if attached.link.index == index {
                warn!("link {} of endpoint {} is gone", endpoint.spec.link, endpoint.spec.pod);
                self.links.close(attached.slot, &endpoint.spec.link);
                endpoint.link = Err(format!("link {} is gone", endpoint.spec.link));
                self.without_link.insert(endpoint.spec.link.clone());
                // The pod's end of another link is as it was created.
                let offload = mem::replace(&mut endpoint.offload, ChecksumOffload::Untouched);
                self.links_gone += 1;
                gone = Some((endpoint.spec.link.clone(), offload));
            }
        }
        gone
    }

    /// The endpoint whose pod's end may have changed: that of the link with this index.
    pub(super) fn pod_end_changed(&mut self, index: u32) -> Option<String> {
        let has_index = |endpoint: &&Endpoint| {
            endpoint.link.as_ref().is_ok_and(|attached| attached.link.index == index)
        };
        let name = self.by_link.values().find(has_index).map(|found| found.spec.link.clone());
        if name.is_none() {
            self.running.values_mut().for_each(|running| running.changes.pod_end = true);
        }
        name
    }

    /// Notes that changes were lost, for links that are not attached yet. Returns the names of all
    /// endpoints' links.
    pub(super) fn changes_lost(&mut self) -> BTreeSet<String> {
        for running in self.running.values_mut() {
            (running.changes.pod_end, running.changes.overrun) = (true, true);
        }
        self.by_link.keys().cloned().collect()
    }

    /// Attaches the endpoints of the previous agent, all of them together: several pods' ends are
    /// prepared at a time, and the workers get all links at once. One whose link can't be attached
    /// is gone. `found` are the links of the namespace.
    ///
    /// # Errors
    /// When the workers don't take the links.
    pub(super) async fn attach_remembered(
        &mut self,
        remembered: Vec<SavedEndpoint>,
        found: Vec<Link>,
        own: [u32; 2],
    ) -> Result<()> {
        let mut by_name: BTreeMap<_, _> =
            found.into_iter().map(|link| (link.name.clone(), link)).collect();
        let preparer = &self.preparer;
        let preparations = remembered.into_iter().map(|remembered| {
            let found = by_name.remove(&remembered.spec.link);
            async move {
                let result = preparer.prepare(&remembered.spec, found, own).await;
                (remembered, result)
            }
        });
        let preparations = futures_util::stream::iter(preparations);
        let prepared: Vec<_> = preparations.buffer_unordered(NETNS_THREADS).collect().await;
        for (SavedEndpoint { spec, mut offload }, result) in prepared {
            let link = result.and_then(|prepared| {
                offload = prepared.pod_end.offload.after(offload);
                let slot = self.links.free_slot()?;
                self.links.open_unserved(&prepared.link, slot)?;
                let pod_end = Ok(prepared.pod_end.interface);
                Ok(Attached { slot, link: prepared.link, pod_end })
            });
            let link = link.map_err(|error| {
                let reason = describe(error.as_ref());
                warn!("endpoint {} on link {}: {reason}", spec.pod, spec.link);
                self.retries.failed(spec.link.clone(), None, Instant::now());
                reason
            });
            self.by_link.insert(spec.link.clone(), Endpoint { spec, link, offload });
        }
        self.links.serve_all()
    }

    /// Attaches an endpoint at the start, when nothing else happens. `offload` is what the agent
    /// before did.
    ///
    /// # Errors
    /// When the link can't be attached.
    pub(super) async fn attach_now(
        &mut self,
        spec: EndpointSpec,
        own: [u32; 2],
        offload: ChecksumOffload,
    ) -> Result<()> {
        if self.admit(&spec)? == Admission::Attached {
            return Ok(());
        }
        let found = self.preparer.find(&spec).await?;
        let prepared = self.preparer.prepare(&spec, found, own).await?;
        let mut pod_end = prepared.pod_end;
        match self.attach(prepared) {
            Ok(attached) => {
                pod_end.offload = pod_end.offload.after(offload);
                self.insert(spec, attached, pod_end);
                Ok(())
            }
            Err(error) => {
                if pod_end.offload.is_turned_off() {
                    self.preparer.restore_offload(&spec).await;
                }
                Err(error)
            }
        }
    }

    /// Restores the TX checksum offloads that this start turned off, when it fails; not of
    /// endpoints that the previous agent had, `remembered`.
    pub(super) async fn restore_offloads(&self, remembered: &[SavedEndpoint]) {
        let is_remembered =
            |link: &String| remembered.iter().any(|before| before.spec.link == *link);
        for endpoint in self.by_link.values().filter(|endpoint| endpoint.offload.is_turned_off()) {
            if !is_remembered(&endpoint.spec.link) {
                self.preparer.restore_offload(&endpoint.spec).await;
            }
        }
    }

    /// Finds the links with programs that the previous agent pinned in `pins`, beside `own` and
    /// those that are attached; [`Self::unread_pins`] are to be read then.
    pub(super) fn find_pins(&mut self, pins: &Path, own: [u32; 2]) {
        let mut known = self.attached_indices();
        known.extend(own);
        let found = pinned_indices(pins);
        let found = found.map_err(|error| format!("can't read {}: {error}", pins.display()));
        self.unknown.found(found, &known, Instant::now());
    }

    /// Whether it is time for [`Self::find_pins`] because it failed.
    pub(super) fn pins_are_due(&mut self) -> bool {
        self.unknown.pins_are_due(Instant::now())
    }

    /// Indices of links with pinned programs whose names are not known yet.
    pub(super) fn unread_pins(&self) -> &BTreeSet<u32> {
        self.unknown.unread()
    }

    /// Indices of all links with pinned programs that have no attached endpoint.
    pub(super) fn cut_off_indices(&self) -> BTreeSet<u32> {
        let unread = self.unread_pins().iter().copied();
        unread.chain(self.unknown.indices()).chain(self.unattached.values().copied()).collect()
    }

    /// Notes a link with pinned programs that no endpoint names.
    fn record_unknown(&mut self, link: Link) {
        // The link of an endpoint that could not be attached is that endpoint's.
        match self.by_link.get(&link.name).is_some_and(|endpoint| endpoint.link.is_err()) {
            true => _ = self.unattached.insert(link.name, link.index),
            false => self.unknown.insert(link),
        }
    }
}

/// The effect of a change of an endpoint's link.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct LinkEffect {
    /// Name of the link.
    pub(super) name: String,
    /// Whether it has to be published.
    pub(super) changed: bool,
}

/// The effect of the state of a pod's end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct InspectionEffect {
    /// It has to be published.
    pub(super) publish: bool,
    /// The endpoint list has to be written.
    pub(super) save: bool,
}
