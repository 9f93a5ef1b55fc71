//! Links: from a netdev to rings that workers serve, and back.
//!
//! A link is enforced in this order: the XDP program first, which drops everything; then the
//! sockets; then the workers. It is let go in the opposite order, so that there is no moment in
//! which a pod's packets pass unseen while podgate answers for them.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use podgate_dataplane::flow::SavedFlow;
use podgate_dataplane::types::LinkId;
use podgate_dataplane::worker::Dataplane;
use podgate_dataplane::xsk::{Port, RingSizes, open_link};
use podgate_xdp_redirect::Redirect;

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

    /// Enforces a link in the free slot `slot`.
    ///
    /// # Errors
    /// When the kernel refuses. The link is then as it was before: without a program, or cut off by
    /// the one that an agent before left there.
    pub(crate) fn open(&mut self, link: &Link, slot: LinkId) -> Result<()> {
        let pin = self.pins.join(format!("{PIN_PREFIX}{}", link.index));
        let cut_off_before = pin.exists();
        self.redirect.attach(link.index, slot.0, Some(&pin))?;
        self.taken[slot.index()] = true;
        let opened = self.open_sockets(link, slot);
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
        let pin = self.pins.join(format!("{PIN_PREFIX}{}", link.index));
        self.redirect.attach(link.index, slot.0, Some(&pin))?;
        self.taken[slot.index()] = true;
        let ports = self.open_sockets(link, slot);
        self.unserved.push(ports.with_context(|| format!("can't serve link {}", link.name))?);
        Ok(())
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

    /// Lets a link go: from here on the kernel handles its packets. The netdev may be gone.
    pub(crate) fn close(&mut self, slot: LinkId) {
        self.close_sockets(slot);
        self.detach(slot);
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
    fn too_few_frames_are_refused_with_a_number_that_would_do() {
        let error = ring_sizes(1024, 4096).unwrap_err().to_string();
        assert!(error.contains("for 4095 endpoints: --frames 524288 "), "{error}");
        assert_eq!(ring_sizes(524_288, 4096).unwrap().fill, RING_MIN);
    }
}
