//! Links in the dataplane: attaching a link to rings that workers serve, and detaching it.
//!
//! A link is attached in this order: the XDP program, which drops everything that the pod sends;
//! the program at the egress hook, which keeps the kernel's packets from bypassing the workers; the
//! sockets; the workers. It is detached in the opposite order, so a pod's packets never bypass the
//! workers while the link is attached.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use anyhow::{Context, Error, Result, ensure};
use podgate_dataplane::flow::SavedFlow;
use podgate_dataplane::worker::{Dataplane, event_of_dropped};
use podgate_dataplane::xsk::{LinkQueue, RingSizes, open_link};
use podgate_hostnet::Link;
use podgate_tables::event::Event;
use podgate_tables::ids::LinkId;
use podgate_tables::route::RouteTable;
use podgate_tables::time::Nanos;
use podgate_xdp_redirect::{AttachedAgain, FrameDrops, Pod, Redirect};

use super::dropped::DroppedFrames;
use super::slots::Slots;
use crate::agent::host_network::{HOST_SLOT, HostLink};
use crate::error::describe;

/// Prefix of the names of pinned programs; the link's index follows.
pub(crate) const PIN_PREFIX: &str = "link-";

/// Bytes of the kernel's record of a frame, in each link's pool (`struct xdp_buff_xsk`,
/// `include/net/xsk_buff_pool.h`).
const POOL_BYTES_OF_FRAME: u64 = 128;

/// All links of the agent.
pub(in crate::agent) struct Links {
    dataplane: Dataplane,
    redirect: Redirect,
    dropped: DroppedFrames,
    pins: PathBuf,
    workers: u16,
    sizes: RingSizes,
    slots: Slots,
    /// Links that the workers don't serve yet.
    unserved: Vec<Vec<LinkQueue>>,
    /// The routes whose pods the programs' maps have; none if a link was attached or detached since
    /// they were written, or some could not be.
    set: Option<Arc<RouteTable>>,
    /// Links without a program that another process detached, by index, and why it can't be
    /// attached again.
    detached: BTreeMap<u32, String>,
}

impl Links {
    /// No links, with slots for `endpoints_max` endpoints and the host link. Programs are pinned in
    /// the bpffs at `pins`.
    ///
    /// # Errors
    /// When there are too few frames for the links, or the kernel rejects the BPF programs.
    pub(in crate::agent) fn new(
        dataplane: Dataplane,
        workers: u16,
        endpoints_max: u16,
        pins: PathBuf,
    ) -> Result<Self> {
        let sizes = ring_sizes(dataplane.umem().frames(), endpoints_max + 1)?;
        let redirect = Redirect::load(workers, endpoints_max + 1)?;
        let dropped = DroppedFrames::new(&redirect)?;
        let slots = Slots::new(endpoints_max);
        let unserved = Vec::new();
        let set = None;
        let detached = BTreeMap::new();
        let links = Self {
            dataplane,
            redirect,
            dropped,
            pins,
            workers,
            sizes,
            slots,
            unserved,
            set,
            detached,
        };
        links.reserve_frames();
        Ok(links)
    }

    /// The running dataplane.
    #[must_use]
    pub(in crate::agent) fn dataplane(&self) -> &Dataplane {
        &self.dataplane
    }

    /// Stops the workers and returns the flows to save. Links stay cut off.
    pub(in crate::agent) fn stop(&mut self) -> Vec<SavedFlow> {
        self.dataplane.stop()
    }

    /// Endpoints that are attached, and that may be.
    pub(in crate::agent) fn slots(&self) -> (usize, usize) {
        self.slots.of_endpoints()
    }

    /// Memory of the sockets' rings in the kernel, bytes: an entry of `rx` and `tx` has 16, one of
    /// `fill` and `completion` 8 (`linux/if_xdp.h`).
    pub(in crate::agent) fn ring_bytes(&self) -> u64 {
        let RingSizes { fill, completion, rx, tx, idle: _ } = self.sizes;
        let of_link = 8 * (u64::from(fill) + u64::from(completion));
        let of_worker = 16 * (u64::from(rx) + u64::from(tx));
        self.attached() * (of_link + of_worker * u64::from(self.workers))
    }

    /// Memory of the links' buffer pools in the kernel, bytes (`xp_create_and_assign_umem`,
    /// `net/xdp/xsk_buff_pool.c`): for each link, a record of every frame of the UMEM, and a copy
    /// of the descriptors of one transmit ring.
    pub(in crate::agent) fn pool_bytes(&self) -> u64 {
        let frames = u64::from(self.dataplane.umem().frames());
        self.attached() * (frames * POOL_BYTES_OF_FRAME + 16 * u64::from(self.sizes.tx))
    }

    /// Links with programs, the host link included.
    fn attached(&self) -> u64 {
        self.slots.taken() as u64
    }

    /// The slot that has been free for longest ([`Slots`]).
    ///
    /// # Errors
    /// When all are in use.
    pub(in crate::agent) fn free_slot(&self) -> Result<LinkId> {
        self.slots.free().with_context(|| {
            let (_, max) = self.slots();
            format!("{max} endpoints are attached already; --max-endpoints allows for more")
        })
    }

    /// Attaches a pod's link in the free slot `slot`.
    ///
    /// # Errors
    /// When a system call fails. The link is then as it was before: without programs, or cut off by
    /// those of the previous agent.
    pub(in crate::agent) fn open(&mut self, link: &Link, slot: LinkId) -> Result<()> {
        self.open_with(link, slot, |redirect| redirect.guard(slot.0))
    }

    /// Sets the UDP ports that tunnels of this node receive on; `None` if any may be one.
    ///
    /// # Errors
    /// When a map can't be written.
    pub(in crate::agent) fn set_tunnel_ports(&mut self, ports: Option<&[u16]>) -> Result<()> {
        Ok(self.redirect.set_tunnel_ports(ports)?)
    }

    /// Attaches the host link, in its slot.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub(in crate::agent) fn open_host(&mut self, pair: &HostLink) -> Result<()> {
        let HostLink { host, xsk } = pair;
        self.open_with(xsk, HOST_SLOT, |redirect| redirect.mark(HOST_SLOT.0, host.index))
    }

    fn open_with(
        &mut self,
        link: &Link,
        slot: LinkId,
        attach_egress: impl FnOnce(&mut Redirect) -> Result<(), podgate_xdp_redirect::Error>,
    ) -> Result<()> {
        let cut_off_before = self.cut_off(link, slot)?;
        let opened = match attach_egress(&mut self.redirect) {
            Ok(()) => self.open_sockets(link, slot),
            Err(error) => Err(error.into()),
        };
        let served = opened.and_then(|ports| Ok(self.dataplane.add_link(ports)?));
        if served.is_err() {
            self.close_sockets(slot, &link.name);
            if cut_off_before {
                self.release_slot(slot, &link.name);
            } else {
                self.detach(slot, &link.name);
            }
        }
        served.with_context(|| format!("can't serve link {}", link.name))
    }

    /// As [`Self::open`], but the workers serve the link from [`Self::serve_all`] on only.
    ///
    /// # Errors
    /// As [`Self::open`]; the link stays cut off.
    pub(in crate::agent) fn open_unserved(&mut self, link: &Link, slot: LinkId) -> Result<()> {
        self.cut_off(link, slot)?;
        let guarded = self.redirect.guard(slot.0).map_err(Error::from);
        let opened = guarded.and_then(|()| self.open_sockets(link, slot));
        if opened.is_err() {
            self.release_slot(slot, &link.name);
        }
        self.unserved.push(opened.with_context(|| format!("can't serve link {}", link.name))?);
        Ok(())
    }

    /// Attaches the XDP program, pinned, and takes the slot. Returns whether the link was cut off
    /// before.
    fn cut_off(&mut self, link: &Link, slot: LinkId) -> Result<bool> {
        let pin = self.pins.join(format!("{PIN_PREFIX}{}", link.index));
        let cut_off_before = pin.exists();
        self.redirect.attach(link.index, slot.0, Some(&pin))?;
        self.set_taken(slot, true);
        Ok(cut_off_before)
    }

    /// Lets the workers serve the links that [`Self::open_unserved`] opened.
    ///
    /// # Errors
    /// When a worker fails to.
    pub(in crate::agent) fn serve_all(&mut self) -> Result<()> {
        let links = std::mem::take(&mut self.unserved);
        self.dataplane.add_links(links).context("can't serve the links")
    }

    fn open_sockets(&mut self, link: &Link, slot: LinkId) -> Result<Vec<LinkQueue>> {
        let workers = usize::from(self.workers);
        let umem = self.dataplane.umem();
        let idle = idle_level(umem.frames(), self.attached()).max(self.sizes.idle);
        let sizes = RingSizes { idle, ..self.sizes };
        let ports = open_link(umem, link.index, slot, workers, sizes)?;
        for (worker, port) in (0..).zip(&ports) {
            if let Some(socket) = port.fd() {
                self.redirect.set_socket(slot.0, worker, socket)?;
            }
        }
        Ok(ports)
    }

    /// Sets MAC and IP addresses of the ready pods in the programs' maps. Returns a line for each
    /// failure: a pod, by its `name`, that is cut off by it, or addresses of a deleted pod that are
    /// still in the maps. Another call tries again.
    pub(in crate::agent) fn set_pods(
        &mut self,
        routes: &Arc<RouteTable>,
        name: impl Fn(LinkId) -> String,
    ) -> Vec<String> {
        if self.set.as_ref() == Some(routes) && !self.redirect.has_stale_entries() {
            return Vec::new();
        }
        let mut failed = Vec::new();
        for slot in self.slots.taken_by_endpoints() {
            let pod = routes.endpoint_on(slot).map(|endpoint| Pod {
                mac: endpoint.next_hop.mac,
                addresses: endpoint.addresses.iter().map(|address| address.bits()).collect(),
            });
            if let Err(error) = self.redirect.set_pod(slot.0, pod) {
                failed.push(format!("{} is cut off: {error}", name(slot)));
            }
        }
        let stale = self.redirect.remove_stale_entries().into_iter().map(|(ifindex, error)| {
            format!(
                "addresses of a deleted pod are still in the BPF maps for ifindex {ifindex}: \
                 {error}; removing them is tried again every second"
            )
        });
        failed.extend(stale);
        self.set = failed.is_empty().then(|| Arc::clone(routes));
        failed
    }

    /// Whether the programs' maps still have entries of deleted pods; [`Self::set_pods`] removes
    /// them.
    pub(in crate::agent) fn has_stale_entries(&self) -> bool {
        self.redirect.has_stale_entries()
    }

    /// What the programs dropped, by reason.
    ///
    /// # Errors
    /// When the maps can't be read.
    pub(in crate::agent) fn frame_drops(&self) -> Result<Vec<FrameDrops>> {
        Ok(self.redirect.frame_drops()?)
    }

    /// Waits until a worker has an event, or the programs one of a frame that they dropped; the
    /// first one wakes the caller.
    pub(in crate::agent) fn poll_events(&self, cx: &mut TaskContext<'_>) -> Poll<()> {
        let has_tables = self.dataplane.shared().snapshot.load().is_some();
        match self.dataplane.poll_events(cx) {
            Poll::Pending if has_tables => self.dropped.poll(cx),
            polled => polled,
        }
    }

    /// Takes events of at most `max` frames that the programs dropped. Before the first tables they
    /// wait in the ring, since nothing has a name yet.
    pub(in crate::agent) fn drain_dropped(&mut self, max: usize, mut take: impl FnMut(Event)) {
        let Self { dataplane, redirect, dropped, .. } = self;
        let snapshot = dataplane.shared().snapshot.load();
        let Some(snapshot) = snapshot.as_deref() else { return };
        let now = dataplane.clock().now();
        dropped.take(redirect, max, |frame| {
            let age = u64::try_from(frame.age.as_nanos()).unwrap_or(u64::MAX);
            take(event_of_dropped(frame, Nanos(now.0.saturating_sub(age)), snapshot));
        });
    }

    /// Frames that the programs dropped without a record.
    pub(in crate::agent) fn dropped_unrecorded(&self) -> u64 {
        self.dropped.lost()
    }

    /// Detaches a link: from here on the kernel handles its packets. The netdev may be gone.
    pub(in crate::agent) fn close(&mut self, slot: LinkId, name: &str) {
        self.close_sockets(slot, name);
        self.detach(slot, name);
    }

    /// Detaches the pinned programs of the previous agent from the link with this index.
    pub(in crate::agent) fn unpin(&self, index: u32) {
        for reason in unpin_in(&self.pins, index) {
            tracing::warn!("{reason}");
        }
    }

    /// Attaches programs again that another process detached. Returns the names of their links.
    pub(in crate::agent) fn attach_again(&mut self) -> Vec<String> {
        let AttachedAgain { links, failed } = self.redirect.attach_again();
        let mut detached = BTreeMap::new();
        for (index, error) in failed {
            let reason = format!(
                "no policy applies: another process detached a program, and {}",
                describe(&error)
            );
            if self.detached.get(&index) != Some(&reason) {
                tracing::error!("{reason}");
            }
            detached.entry(index).or_insert(reason);
        }
        self.detached = detached;
        links
    }

    /// Why no policy applies on the link with this index, if a program is detached from it.
    pub(in crate::agent) fn why_detached(&self, index: u32) -> Option<&str> {
        self.detached.get(&index).map(String::as_str)
    }

    /// [`Self::why_detached`] of all links.
    pub(in crate::agent) fn detached(&self) -> impl Iterator<Item = &str> {
        self.detached.values().map(String::as_str)
    }

    /// Pins programs again whose pins were removed. Returns their number.
    ///
    /// # Errors
    /// When a pin can't be created.
    pub(in crate::agent) fn pin_again(&self) -> Result<usize> {
        Ok(self.redirect.pin_again()?)
    }

    fn close_sockets(&self, slot: LinkId, name: &str) {
        if let Err(error) = self.dataplane.remove_link(slot) {
            tracing::error!("workers still forward packets of link {name}: {error}");
        }
    }

    fn detach(&mut self, slot: LinkId, name: &str) {
        if let Err(error) = self.redirect.detach(slot.0) {
            tracing::warn!("can't detach link {name} completely: {error}");
        }
        self.set_taken(slot, false);
    }

    /// Frees the slot of a link that stays cut off. If the maps may still have the link, no other
    /// one gets its slot.
    fn release_slot(&mut self, slot: LinkId, name: &str) {
        if let Err(error) = self.redirect.release_slot(slot.0) {
            tracing::error!("link {name} stays cut off, and its slot can't be used again: {error}");
            return;
        }
        self.set_taken(slot, false);
    }

    fn set_taken(&mut self, slot: LinkId, taken: bool) {
        self.slots.set(slot, taken);
        self.set = None;
        self.reserve_frames();
    }

    /// Keeps busy links from the idle frames of links that are not attached yet.
    fn reserve_frames(&self) {
        self.dataplane.umem().reserve(self.slots.left() as u32 * self.sizes.idle);
    }
}

/// Index of the link that the pin `name` belongs to: it follows [`PIN_PREFIX`]; a further `-` and
/// more text may follow.
fn index_of_pin(name: &str) -> Option<u32> {
    let index = name.strip_prefix(PIN_PREFIX)?;
    index.split_once('-').map_or(index, |(index, _)| index).parse().ok()
}

/// All pins in the directory `pins`, with the index of the link. A missing directory has none.
fn pins_in(pins: &Path) -> io::Result<Vec<(u32, PathBuf)>> {
    let entries = match fs::read_dir(pins) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let index = index_of_pin(&entry.file_name().to_string_lossy());
        found.extend(index.map(|index| (index, entry.path())));
    }
    Ok(found)
}

/// Indices of the links whose programs are pinned in the directory `pins`.
///
/// # Errors
/// When the directory can't be read.
pub(in crate::agent) fn pinned_indices(pins: &Path) -> io::Result<BTreeSet<u32>> {
    Ok(pins_in(pins)?.into_iter().map(|(index, _)| index).collect())
}

/// Detaches the programs pinned in the directory `pins` for the link with this index. Returns
/// errors, one line each.
pub(in crate::agent) fn unpin_in(pins: &Path, index: u32) -> Vec<String> {
    let of_link = |(of, path): (u32, PathBuf)| (of == index).then_some(path);
    match pins_in(pins) {
        Ok(found) => found
            .into_iter()
            .filter_map(of_link)
            .filter_map(|pin| podgate_xdp_redirect::unpin(&pin).err())
            .map(|error| error.to_string())
            .collect(),
        Err(error) => vec![format!("can't read {}: {error}", pins.display())],
    }
}

/// Most endpoints that `frames` suffice for, the host link aside.
pub(crate) fn max_endpoints_for(frames: u32) -> u16 {
    let links = frames / (2 * IDLE_MIN);
    u16::try_from(links.saturating_sub(1)).unwrap_or(u16::MAX)
}

/// Ring sizes of each of `links` links, with the idle level of the last ones ([`idle_level`]).
///
/// # Errors
/// When the frames don't suffice for the smallest idle level of all links.
fn ring_sizes(frames: u32, links: u16) -> Result<RingSizes> {
    let halves = 2 * u32::from(links);
    ensure!(
        frames / halves >= IDLE_MIN,
        "{frames} frames are too few for {} endpoints: use --frames {}, or a smaller \
         --max-endpoints",
        links - 1,
        halves * IDLE_MIN
    );
    let size = (1 << (frames / RING_SHARE).ilog2()).min(RING_MAX);
    let idle = (frames / IDLE_SHARE / u32::from(links)).clamp(IDLE_MIN, IDLE_MAX);
    Ok(RingSizes { fill: size, idle, completion: size, rx: size, tx: size })
}

/// Frames that the fill ring of an idle link may hold, when `attached` links have one, this link
/// included: the fewer links, the more.
fn idle_level(frames: u32, attached: u64) -> u32 {
    let share = u64::from(frames / FIRST_SHARE) / attached.max(1);
    u32::try_from(share).unwrap_or(u32::MAX).min(IDLE_MAX)
}

/// Bounds of the idle level, frames. A packet of 64 KiB takes 18.
const IDLE_MIN: u32 = 32;
const IDLE_MAX: u32 = 256;
/// All links while idle share one in this many frames. (Beyond that, each has [`IDLE_MIN`].)
const IDLE_SHARE: u32 = 3;
/// The idle level of a link while few are attached: one in this many frames, divided by their
/// number. In all, idle links hold less than two thirds of the frames: the rest is for packets in
/// flight, and for those that flows hold.
const FIRST_SHARE: u32 = 16;
/// Largest ring, descriptors: a larger one only adds latency.
const RING_MAX: u32 = 2048;
/// A ring has at most one in this many frames.
const RING_SHARE: u32 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_links_leave_a_third_of_the_frames() {
        let few = [(1024, 2), (1024, 16), (4096, 9), (4096, 64)];
        let many = [(16_384, 251), (16_384, 111), (16_384, 32), (16_384, 256), (65_536, 1024)];
        for (frames, links) in few.into_iter().chain(many).chain([(4_194_304, 4096)]) {
            let RingSizes { fill, idle, .. } = ring_sizes(frames, links).unwrap();
            assert!(fill.is_power_of_two());
            let idle = |attached| idle_level(frames, attached).max(idle).min(fill);
            let held: u32 = (1..=u64::from(links)).map(idle).sum();
            assert!(held <= frames / 3 * 2, "{frames} {links} {held}");
        }
        let idle = |links| ring_sizes(16_384, links).unwrap().idle;
        assert_eq!([2, 32, 111, 251].map(idle), [256, 170, 49, 32]);
        assert_eq!([1, 10, 64].map(|links| idle_level(16_384, links)), [256, 102, 16]);
        assert_eq!(ring_sizes(16_384, 251).unwrap().fill, RING_MAX);
        assert_eq!(ring_sizes(1024, 2).unwrap().fill, 256);
        for frames in [1024, 8192, 16_384, 65_537] {
            let links = max_endpoints_for(frames) + 1;
            assert!(ring_sizes(frames, links).is_ok() && ring_sizes(frames, links + 1).is_err());
        }
    }

    #[test]
    fn a_pins_name_has_the_index_of_its_link() {
        assert_eq!(index_of_pin("link-7"), Some(7));
        assert_eq!(index_of_pin("link-7-egress"), Some(7));
        for other in ["link-", "link-x", "link--7", "maps.debug", ""] {
            assert_eq!(index_of_pin(other), None, "{other}");
        }
    }

    #[test]
    fn too_few_frames_are_an_error_that_names_the_minimum() {
        let error = ring_sizes(1024, 4096).unwrap_err().to_string();
        assert!(error.contains("for 4095 endpoints: use --frames 262144,"), "{error}");
        assert_eq!(ring_sizes(262_144, 4096).unwrap().idle, IDLE_MIN);
    }
}
