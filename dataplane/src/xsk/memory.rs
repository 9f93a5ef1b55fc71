//! Links without a kernel: the same ports, over rings in our own memory.
//!
//! [`MemoryLink`] plays the kernel's part. It fills frames as `net/xdp/xsk.c` does in copy mode,
//! and gets at them by the same ownership notes as a port, so it can't touch a frame that somebody
//! else holds. Tests, fuzzing and replay run the dataplane on it, without privileges.

use std::sync::Arc;

use super::frame::{Frame, FramePool};
use super::link::{Link, RingSizes};
use super::port::Port;
use super::ring::{Consumer, Producer, pair};
use super::sys::{Desc, XDP_PKT_CONTD};
use super::umem::{FRAME_HEADROOM, FRAME_SIZE, Umem};
use crate::types::LinkId;

/// Bytes of a packet that the kernel puts in one frame (`xsk_pool_get_rx_frame_size`).
pub const RECEIVE_BYTES: usize = (FRAME_SIZE - FRAME_HEADROOM) as usize;

/// The kernel's part of a memory link.
pub struct MemoryLink {
    umem: Arc<Umem>,
    link: LinkId,
    fill: Consumer<u64>,
    completion: Producer<u64>,
    workers: Vec<Lane>,
}

/// The kernel's ends of one worker's rings.
struct Lane {
    rx: Producer<Desc>,
    tx: Consumer<Desc>,
    /// The packet that is being taken off the transmit ring.
    sending: Vec<u8>,
}

/// A memory link with one port for each worker, its fill ring topped up from spare frames.
///
/// # Panics
/// When a ring size is no power of two.
#[must_use]
pub fn link(
    umem: &Arc<Umem>,
    link: LinkId,
    workers: usize,
    sizes: RingSizes,
) -> (Vec<Port>, MemoryLink) {
    let (fill, kernel_fill) = pair(sizes.fill);
    let (kernel_completion, completion) = pair(sizes.completion);
    let shared = Arc::new(Link::new(Arc::clone(umem), link, fill, completion));
    shared.service(&mut umem.pool());
    let (mut ports, mut lanes) = (Vec::new(), Vec::new());
    for _ in 0..workers {
        let (kernel_rx, rx) = pair(sizes.rx);
        let (tx, kernel_tx) = pair(sizes.tx);
        kernel_tx.ask_for_wakeup();
        ports.push(Port::new(rx, tx, Arc::clone(&shared)));
        lanes.push(Lane { rx: kernel_rx, tx: kernel_tx, sending: Vec::new() });
    }
    let kernel = MemoryLink {
        umem: Arc::clone(umem),
        link,
        fill: kernel_fill,
        completion: kernel_completion,
        workers: lanes,
    };
    (ports, kernel)
}

impl MemoryLink {
    /// Delivers a packet to `worker`'s port. Returns `false`, and delivers nothing, when the fill
    /// ring has too few frames or the receive ring too few slots; the kernel would drop it.
    ///
    /// # Panics
    /// When there is no such worker.
    pub fn inject(&mut self, worker: usize, packet: &[u8]) -> bool {
        self.inject_parts(worker, packet.chunks(RECEIVE_BYTES))
    }

    /// As [`Self::inject`], for a packet that is cut into frames as given.
    ///
    /// # Panics
    /// When there is no such worker, or a part is larger than [`RECEIVE_BYTES`].
    pub fn inject_parts<'p>(
        &mut self,
        worker: usize,
        parts: impl ExactSizeIterator<Item = &'p [u8]>,
    ) -> bool {
        let mut left = parts.len() as u32;
        let rx = &mut self.workers[worker].rx;
        if left == 0 || self.fill.available(left) < left || rx.free(left) < left {
            return false;
        }
        for part in parts {
            left -= 1;
            let frame = self.fill.pop().and_then(|address| self.umem.take(address, self.link));
            let Some(mut frame) = frame else {
                unreachable!("a port fills its ring with frames that it has given to the link");
            };
            frame.set_extent(FRAME_HEADROOM, part.len() as u32);
            self.umem.data_mut(&mut frame).copy_from_slice(part);
            let (len, options) = (frame.len(), if left > 0 { XDP_PKT_CONTD } else { 0 });
            let addr = self.umem.give(frame, self.link);
            rx.produce(1, || Some(Desc { addr, len, options }));
        }
        rx.publish();
        true
    }

    /// Takes what `worker`'s port has flushed, hands every packet to `each` and completes its
    /// frames. Stops early when the completion ring is full. Returns the number of packets.
    ///
    /// # Panics
    /// When there is no such worker.
    pub fn transmitted(&mut self, worker: usize, each: &mut impl FnMut(&[u8])) -> usize {
        let lane = &mut self.workers[worker];
        let mut packets = 0;
        while self.completion.free(1) > 0
            && let Some(desc) = lane.tx.pop()
        {
            let Some(frame) = self.umem.take(desc.addr, self.link) else {
                unreachable!("a port transmits frames that it has given to the link");
            };
            let mut frame: Frame = frame;
            frame.set_extent((desc.addr % u64::from(FRAME_SIZE)) as u32, desc.len);
            lane.sending.extend_from_slice(self.umem.data(&frame));
            let addr = self.umem.give(frame, self.link);
            self.completion.produce(1, || Some(addr));
            if desc.options & XDP_PKT_CONTD == 0 {
                each(&lane.sending);
                lane.sending.clear();
                packets += 1;
            }
        }
        self.completion.publish();
        packets
    }

    /// Frames that wait in the fill ring.
    #[must_use]
    pub fn fill_level(&mut self) -> u32 {
        self.fill.available(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: RingSizes = RingSizes { fill: 64, completion: 64, rx: 64, tx: 64 };

    struct Bench {
        umem: Arc<Umem>,
        pool: FramePool,
        ports: Vec<Port>,
        kernel: MemoryLink,
    }

    impl Bench {
        fn new(frames: u32, workers: usize) -> Self {
            let umem = Umem::new(frames).unwrap();
            let (ports, kernel) = link(&umem, LinkId(1), workers, SIZES);
            Self { pool: umem.pool(), umem, ports, kernel }
        }

        /// Receives everything on worker 0 and sends it back; returns what came out.
        fn echo(&mut self) -> Vec<Vec<u8>> {
            let mut packets = Vec::new();
            let port = &mut self.ports[0];
            port.receive(&mut self.pool, &mut packets, usize::MAX);
            for packet in packets {
                port.transmit(&mut self.pool, packet).unwrap();
            }
            port.flush();
            let mut sent = Vec::new();
            self.kernel.transmitted(0, &mut |bytes| sent.push(bytes.to_vec()));
            port.service(&mut self.pool);
            assert_eq!(self.pool.outstanding(), port.held_frames() as i64);
            sent
        }
    }

    fn bytes(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i % 251) as u8).collect()
    }

    #[test]
    fn packets_of_every_size_go_round_unchanged() {
        let mut bench = Bench::new(256, 1);
        for len in [1, 14, 60, 1514, 3839, 3840, 3841, 7680, 9014, 32_014, 65_535] {
            assert!(bench.kernel.inject(0, &bytes(len)));
            assert_eq!(bench.echo(), [bytes(len)], "{len} bytes");
        }
        assert_eq!(bench.ports[0].statistics(), XskStatistics { ..Default::default() });
        assert_eq!(bench.kernel.fill_level(), SIZES.fill);
        assert_eq!(bench.umem.held_by(LinkId(1)), SIZES.fill as usize);
    }

    use super::super::port::XskStatistics;
}
