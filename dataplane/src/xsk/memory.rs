//! Links without a kernel: the same queues, over rings in process memory.
//!
//! [`MemoryLink`] plays the kernel's part. It fills frames as `net/xdp/xsk.c` does in copy mode,
//! and reclaims them by the same ownership records as a queue, so it can't access a frame that
//! another party holds. Tests and replay run the dataplane on it, without privileges.

use std::sync::{Arc, Weak};

use podgate_tables::ids::LinkId;

use super::link::{RingSizes, XskLink};
use super::link_queue::LinkQueue;
use super::ring::{Consumer, Producer, pair};
use super::sys::{Desc, XDP_PKT_CONTD};
use crate::mem::{FRAME_HEADROOM, FRAME_SIZE, Umem};

/// Bytes of a packet that the kernel stores in one frame (`xsk_pool_get_rx_frame_size`).
pub const RECEIVE_BYTES: usize = (FRAME_SIZE - FRAME_HEADROOM) as usize;

/// The kernel's part of a memory link.
pub struct MemoryLink {
    /// Dead once all queues are closed.
    link: Weak<XskLink>,
    fill: Consumer<u64>,
    completion: Producer<u64>,
    workers: Vec<KernelRings>,
}

/// The kernel's ends of one worker's rings.
struct KernelRings {
    rx: Producer<Desc>,
    tx: Consumer<Desc>,
    /// The packet that is being read from the transmit ring.
    sending: Vec<u8>,
}

/// A memory link with one queue for each worker, its fill ring filled from the free frames.
///
/// # Panics
/// When a ring size is not a power of two or a link of this number is open.
#[must_use]
pub fn link(
    umem: &Arc<Umem>,
    link: LinkId,
    workers: usize,
    sizes: RingSizes,
) -> (Vec<LinkQueue>, MemoryLink) {
    let (fill, kernel_fill) = pair(sizes.fill);
    let (kernel_completion, completion) = pair(sizes.completion);
    let Some(claim) = umem.claim(link) else { panic!("{link:?} is open already") };
    let shared = Arc::new(XskLink::new(claim, fill, completion, sizes, Vec::new()));
    shared.service(&mut umem.pool());
    let (mut queues, mut kernel_rings) = (Vec::new(), Vec::new());
    for worker in 0..workers {
        let (kernel_rx, rx) = pair(sizes.rx);
        let (tx, kernel_tx) = pair(sizes.tx);
        kernel_tx.ask_for_wakeup();
        queues.push(LinkQueue::new(worker, rx, tx, Arc::clone(&shared)));
        kernel_rings.push(KernelRings { rx: kernel_rx, tx: kernel_tx, sending: Vec::new() });
    }
    let kernel = MemoryLink {
        link: Arc::downgrade(&shared),
        fill: kernel_fill,
        completion: kernel_completion,
        workers: kernel_rings,
    };
    (queues, kernel)
}

impl MemoryLink {
    /// Delivers a packet to `worker`'s queue. Returns `false` and delivers nothing when the kernel
    /// would drop it: the fill ring has too few frames, the receive ring too few slots, or all
    /// queues are closed.
    ///
    /// # Panics
    /// When there is no such worker.
    pub fn inject(&mut self, worker: usize, packet: &[u8]) -> bool {
        self.inject_parts(worker, packet.chunks(RECEIVE_BYTES))
    }

    /// As [`Self::inject`], for a packet that is split into frames as given.
    ///
    /// # Panics
    /// When there is no such worker, or a part is larger than [`RECEIVE_BYTES`].
    pub fn inject_parts<'p>(
        &mut self,
        worker: usize,
        parts: impl ExactSizeIterator<Item = &'p [u8]>,
    ) -> bool {
        let Some(link) = self.link.upgrade() else { return false };
        let mut left = parts.len() as u32;
        let rx = &mut self.workers[worker].rx;
        if left == 0 || self.fill.available(left) < left || rx.free(left) < left {
            return false;
        }
        for part in parts {
            left -= 1;
            self.deliver(&link, worker, part, if left > 0 { XDP_PKT_CONTD } else { 0 });
        }
        self.workers[worker].rx.publish();
        true
    }

    /// Stores a part of a packet in the next frame of the fill ring, and puts it on the receive
    /// ring with these descriptor options.
    fn deliver(&mut self, link: &XskLink, worker: usize, part: &[u8], options: u32) {
        let frame = self.fill.pop().and_then(|address| link.ownership().reclaim(address));
        let Some(mut frame) = frame else {
            unreachable!("a queue fills its ring with frames that it has given to the link");
        };
        frame.set_extent(FRAME_HEADROOM, part.len() as u32);
        link.umem().data_mut(&mut frame).copy_from_slice(part);
        let len = frame.len();
        let addr = link.ownership().to_kernel(frame);
        let put = self.workers[worker].rx.produce(1, || Some(Desc { addr, len, options }));
        debug_assert_eq!(put, 1, "the caller checked for room");
    }

    /// Takes the packets that `worker`'s queue has flushed, calls `each` with every one and
    /// completes their frames. Stops early when the completion ring is full. Returns the number of
    /// packets; zero when all queues are closed.
    ///
    /// # Panics
    /// When there is no such worker.
    pub fn transmitted(&mut self, worker: usize, each: &mut impl FnMut(&[u8])) -> usize {
        let Some(link) = self.link.upgrade() else { return 0 };
        let rings = &mut self.workers[worker];
        let mut packets = 0;
        while self.completion.free(1) > 0
            && let Some(desc) = rings.tx.pop()
        {
            let Some(mut frame) = link.ownership().reclaim(desc.addr) else {
                unreachable!("a queue transmits frames that it has given to the link");
            };
            frame.set_extent((desc.addr % u64::from(FRAME_SIZE)) as u32, desc.len);
            rings.sending.extend_from_slice(link.umem().data(&frame));
            let addr = link.ownership().to_kernel(frame);
            self.completion.produce(1, || Some(addr));
            if desc.options & XDP_PKT_CONTD == 0 {
                each(&rings.sending);
                rings.sending.clear();
                packets += 1;
            }
        }
        self.completion.publish();
        packets
    }

    /// Frames in the fill ring.
    #[must_use]
    pub fn fill_level(&mut self) -> u32 {
        self.fill.available(u32::MAX)
    }
}

#[cfg(test)]
mod tests;
