//! Links: from a netdev to rings that workers serve, and back.
//!
//! A link is enforced in this order: the XDP program first, which drops everything that the pod
//! sends; then the program at the egress hook, which lets nothing pass by the workers; then the
//! sockets; then the workers. It is let go in the opposite order, so that there is no moment in
//! which a pod's packets pass unseen while podgate answers for them.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use podgate_dataplane::flow::SavedFlow;
use podgate_dataplane::worker::Dataplane;
use podgate_dataplane::xsk::{Port, RingSizes, open_link};
use podgate_tables::ids::LinkId;
use podgate_tables::route::RouteTable;
use podgate_xdp_redirect::{FrameDrops, Pod, Redirect};

use super::host_link::HostLink;
use crate::netlink::Link;

/// What the name of every pinned program begins with; the link's index follows.
pub(crate) const PIN_PREFIX: &str = "link-";

/// Slot of the link to the kernel stack.
pub(crate) const HOST_SLOT: LinkId = LinkId(0);

/// All links of the agent.
pub(crate) struct Links {
    dataplane: Dataplane,
    redirect: Redirect,
    pins: PathBuf,
    workers: u16,
    sizes: RingSizes,
    /// Whether each slot is taken; the first is the host link's.
    taken: Vec<bool>,
    /// Links that the workers have not been given yet.
    unserved: Vec<Vec<Port>>,
}

impl Links {
    /// No links, and place for `endpoints_max` beside the host link. Programs are pinned in the
    /// bpffs at `pins`.
    ///
    /// # Errors
    /// When there are too few frames for so many links, or the kernel doesn't load the XDP program.
    pub(crate) fn new(
        dataplane: Dataplane,
        workers: u16,
        endpoints_max: u16,
        pins: PathBuf,
    ) -> Result<Self> {
        let sizes = ring_sizes(dataplane.umem().frames(), endpoints_max + 1)?;
        let redirect = Redirect::load(workers, endpoints_max + 1)?;
        let taken = vec![false; usize::from(endpoints_max) + 1];
        Ok(Self { dataplane, redirect, pins, workers, sizes, taken, unserved: Vec::new() })
    }

    /// The running dataplane.
    #[must_use]
    pub(crate) fn dataplane(&self) -> &Dataplane {
        &self.dataplane
    }

    /// Stops the workers and returns the flows that may go on without them. Links stay cut off.
    pub(crate) fn stop(&mut self) -> Vec<SavedFlow> {
        self.dataplane.stop()
    }

    /// A slot for one more endpoint.
    ///
    /// # Errors
    /// When there are as many as there may be.
    pub(crate) fn free_slot(&self) -> Result<LinkId> {
        let endpoints = self.taken.iter().enumerate().skip(1);
        let free = endpoints.clone().find(|(_, taken)| !**taken).map(|(slot, _)| slot);
        let slot = free.with_context(|| {
            let max = endpoints.count();
            format!("{max} endpoints are attached already; --max-endpoints allows for more")
        })?;
        Ok(LinkId(u16::try_from(slot)?))
    }

    /// Enforces a pod's link in the free slot `slot`.
    ///
    /// # Errors
    /// When the kernel refuses. The link is then as it was before: without programs, or cut off by
    /// those that an agent before left there.
    pub(crate) fn open(&mut self, link: &Link, slot: LinkId) -> Result<()> {
        self.open_with(link, slot, |redirect| redirect.guard(slot.0))
    }

    /// Enforces the host link, in its slot.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub(crate) fn open_host(&mut self, pair: &HostLink) -> Result<()> {
        let HostLink { host, xsk } = pair;
        self.open_with(xsk, HOST_SLOT, |redirect| redirect.mark(HOST_SLOT.0, host.index))
    }

    fn open_with(
        &mut self,
        link: &Link,
        slot: LinkId,
        hold_egress: impl FnOnce(&mut Redirect) -> Result<(), podgate_xdp_redirect::Error>,
    ) -> Result<()> {
        let cut_off_before = self.cut_off(link, slot)?;
        let opened = match hold_egress(&mut self.redirect) {
            Ok(()) => self.open_sockets(link, slot),
            Err(error) => Err(error.into()),
        };
        let served = opened.and_then(|ports| Ok(self.dataplane.add_link(ports)?));
        if served.is_err() {
            self.close_sockets(slot);
            if !cut_off_before {
                self.detach(slot);
            }
        }
        served.with_context(|| format!("can't serve link {}", link.name))
    }

    /// As [`Self::open`] for a link that an agent before may have cut off, but for the workers, who
    /// get it by [`Self::serve_all`].
    ///
    /// # Errors
    /// As [`Self::open`]; the link stays cut off.
    pub(crate) fn open_unserved(&mut self, link: &Link, slot: LinkId) -> Result<()> {
        self.cut_off(link, slot)?;
        self.redirect.guard(slot.0)?;
        let ports = self.open_sockets(link, slot);
        self.unserved.push(ports.with_context(|| format!("can't serve link {}", link.name))?);
        Ok(())
    }

    /// Attaches the XDP program, pinned, and takes the slot. Returns whether the link was cut off
    /// before.
    fn cut_off(&mut self, link: &Link, slot: LinkId) -> Result<bool> {
        let pin = self.pins.join(format!("{PIN_PREFIX}{}", link.index));
        let cut_off_before = pin.exists();
        self.redirect.attach(link.index, slot.0, Some(&pin))?;
        self.taken[slot.index()] = true;
        Ok(cut_off_before)
    }

    /// Gives all links to the workers that [`Self::open_unserved`] opened.
    ///
    /// # Errors
    /// When a worker doesn't take one.
    pub(crate) fn serve_all(&mut self) -> Result<()> {
        let links = std::mem::take(&mut self.unserved);
        self.dataplane.add_links(links).context("can't serve the links")
    }

    fn open_sockets(&mut self, link: &Link, slot: LinkId) -> Result<Vec<Port>> {
        let workers = usize::from(self.workers);
        let umem = self.dataplane.umem();
        let ports = open_link(umem, link.index, slot, workers, self.sizes)?;
        for (worker, port) in (0..).zip(&ports) {
            if let Some(socket) = port.fd() {
                self.redirect.set_socket(slot.0, worker, socket)?;
            }
        }
        Ok(ports)
    }

    /// Tells the programs which pods are ready, and by which addresses.
    pub(crate) fn set_pods(&mut self, routes: &RouteTable) {
        for (slot, _) in (0..).zip(&self.taken).skip(1).filter(|(_, taken)| **taken) {
            let pod = routes.endpoint_on(LinkId(slot)).map(|endpoint| Pod {
                mac: endpoint.next_hop.mac,
                addresses: endpoint.addresses.iter().map(|address| address.bits()).collect(),
            });
            if let Err(error) = self.redirect.set_pod(slot, pod) {
                tracing::error!("the pod behind the link in slot {slot} is cut off: {error}");
            }
        }
    }

    /// What the programs dropped, by reason.
    ///
    /// # Errors
    /// When the kernel doesn't tell.
    pub(crate) fn frame_drops(&self) -> Result<Vec<FrameDrops>> {
        Ok(self.redirect.frame_drops()?)
    }

    /// Lets a link go: from here on the kernel handles its packets. The netdev may be gone.
    pub(crate) fn close(&mut self, slot: LinkId) {
        self.close_sockets(slot);
        self.detach(slot);
    }

    /// Detaches the programs that an agent before left on the link with this index.
    pub(crate) fn unpin(&self, index: u32) {
        for reason in unpin_in(&self.pins, index) {
            tracing::warn!("{reason}");
        }
    }

    /// Pins the programs again whose pins somebody removed, and returns of how many links.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn pin_again(&self) -> Result<usize> {
        Ok(self.redirect.pin_again()?)
    }

    fn close_sockets(&self, slot: LinkId) {
        if let Err(error) = self.dataplane.remove_link(slot) {
            tracing::error!("link in slot {} is still served: {error}", slot.0);
        }
    }

    fn detach(&mut self, slot: LinkId) {
        if let Err(error) = self.redirect.detach(slot.0) {
            tracing::warn!("{error}");
        }
        self.taken[slot.index()] = false;
    }
}

/// The link that the pin called `name` belongs to: its index comes behind [`PIN_PREFIX`], and
/// perhaps more behind a further `-`.
fn index_of_pin(name: &str) -> Option<u32> {
    let index = name.strip_prefix(PIN_PREFIX)?;
    index.split_once('-').map_or(index, |(index, _)| index).parse().ok()
}

/// The names of all pins in the folder `pins`, with the links that they belong to. A folder that
/// isn't there has none.
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

/// Indices of the links that programs are pinned for in the folder `pins`.
///
/// # Errors
/// When the folder can't be read.
pub(crate) fn pinned_indices(pins: &Path) -> io::Result<BTreeSet<u32>> {
    Ok(pins_in(pins)?.into_iter().map(|(index, _)| index).collect())
}

/// Detaches what is pinned in the folder `pins` for the link with this index. Returns what can't be
/// done, one line each.
pub(crate) fn unpin_in(pins: &Path, index: u32) -> Vec<String> {
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

/// Ring sizes such that all links together hold at most half of the frames in their fill rings:
/// the other half is for packets under way.
///
/// # Errors
/// When that leaves a link less than [`RING_MIN`].
fn ring_sizes(frames: u32, links: u16) -> Result<RingSizes> {
    let halves = 2 * u32::from(links);
    ensure!(
        frames / halves >= RING_MIN,
        "{frames} frames are too few for {} endpoints: --frames {} would do, or a smaller \
         --max-endpoints",
        links - 1,
        halves * RING_MIN
    );
    let size = (1 << (frames / halves).ilog2()).min(RING_MAX);
    Ok(RingSizes { fill: size, completion: size, rx: size, tx: size })
}

/// A packet of 64 KiB takes 18 frames: less than a few of them in a ring is no use.
const RING_MIN: u32 = 64;
/// More than this only adds delay.
const RING_MAX: u32 = 2048;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fill_rings_leave_half_of_the_frames() {
        for (frames, links) in [(32768, 32), (1024, 2), (4096, 9), (65536, 256)] {
            let sizes = ring_sizes(frames, links).unwrap();
            assert!(sizes.fill.is_power_of_two());
            let held = sizes.fill * u32::from(links);
            assert!(held <= frames / 2, "{frames} {links} {sizes:?}");
        }
        assert_eq!(ring_sizes(32768, 32).unwrap().fill, 512);
        assert_eq!(ring_sizes(4_194_304, 2).unwrap().fill, RING_MAX);
    }

    #[test]
    fn a_pins_name_tells_its_link() {
        assert_eq!(index_of_pin("link-7"), Some(7));
        assert_eq!(index_of_pin("link-7-egress"), Some(7));
        for other in ["link-", "link-x", "link--7", "maps.debug", ""] {
            assert_eq!(index_of_pin(other), None, "{other}");
        }
    }

    #[test]
    fn too_few_frames_are_refused_with_a_number_that_would_do() {
        let error = ring_sizes(1024, 4096).unwrap_err().to_string();
        assert!(error.contains("for 4095 endpoints: --frames 524288 "), "{error}");
        assert_eq!(ring_sizes(524_288, 4096).unwrap().fill, RING_MIN);
    }
}
