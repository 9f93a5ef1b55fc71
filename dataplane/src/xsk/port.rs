//! One worker's rings on one link.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::assemble::{Assembler, PACKET_FRAMES_MAX};
use super::frame::{Frame, FramePool, Packet};
use super::link::Link;
use super::ring::{Rx, Tx};
use super::sys::{Desc, XDP_PKT_CONTD};
use crate::types::LinkId;

/// One worker's way to receive from and transmit to one link.
///
/// A round is: [`Port::receive`], [`Port::transmit`] for each packet, [`Port::flush`] and
/// [`Port::service`]. When the last port of a link is dropped its sockets close, and the frames
/// that were in its rings become spare again.
pub struct Port {
    rx: Rx,
    tx: Tx,
    assembler: Assembler,
    counters: Counters,
    // After the rings: the last port's drop closes the link, which must find them unmapped.
    link: Arc<Link>,
}

/// What went wrong on a port, in its own count.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
struct Counters {
    false_completions: u64,
    starved: u64,
}

/// Counters of one port: what userspace counted, and the kernel's `XDP_STATISTICS` of its socket
/// (all zero on a memory link).
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct XskStatistics {
    /// Receive descriptors and completions that named a frame which the link did not hold, or
    /// bytes outside of a frame. Always zero with a sound kernel.
    pub false_descriptors: u64,
    /// Packets dropped for having more than [`PACKET_FRAMES_MAX`] frames.
    pub oversized: u64,
    /// Times that no free frame was left to fill up the fill ring.
    pub starved: u64,
}

impl Port {
    pub(super) fn new(rx: Rx, tx: Tx, link: Arc<Link>) -> Self {
        let (assembler, counters) = Default::default();
        Self { rx, tx, assembler, counters, link }
    }

    /// The link.
    #[must_use]
    pub fn link(&self) -> LinkId {
        self.link.id()
    }

    /// The socket, to put in the XSKMAP and to wait for; `None` on a memory link.
    ///
    /// It must not be duplicated: a socket that stays open beyond its ports would let the kernel
    /// write to frames that were given back.
    #[must_use]
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Appends up to `max` received packets to `out` and returns how many. Less than `max` means
    /// that the ring was found empty.
    ///
    /// A packet of which not all frames have come yet stays inside until they have
    /// ([`Port::held_frames`]).
    #[inline]
    pub fn receive(&mut self, pool: &mut FramePool, out: &mut Vec<Packet>, max: usize) -> usize {
        let (mut packets, mut seen) = (0, 0);
        let (a, b) = self.rx.peek(u32::MAX);
        for desc in a.iter().chain(b) {
            if packets == max {
                break;
            }
            seen += 1;
            let done = self.assembler.push(*desc, self.link.umem(), self.link.id(), pool);
            if let Some(packet) = done {
                out.push(packet);
                packets += 1;
            }
        }
        if seen > 0 {
            self.rx.release(seen);
        }
        packets
    }

    /// Puts a packet on the transmit ring; [`Port::flush`] sends it.
    ///
    /// # Errors
    /// The packet, untouched, when the ring has no room for all its frames, or when the kernel
    /// would never take it: it has more than [`PACKET_FRAMES_MAX`] frames or an empty one.
    #[inline]
    pub fn transmit(&mut self, pool: &mut FramePool, packet: Packet) -> Result<(), Packet> {
        let frames = packet.frames();
        let sound = frames <= PACKET_FRAMES_MAX
            && !packet.head.is_empty()
            && !packet.tail.iter().any(Frame::is_empty);
        if !sound || (self.tx.free(frames as u32) as usize) < frames {
            return Err(packet);
        }
        let Packet { head, mut tail } = packet;
        let mut rest = std::iter::once(head).chain(tail.drain(..));
        let mut left = frames;
        let written = self.tx.produce(frames as u32, || {
            let frame = rest.next()?;
            left -= 1;
            let options = if left > 0 { XDP_PKT_CONTD } else { 0 };
            let len = frame.len();
            Some(Desc { addr: self.link.umem().give(frame, self.link.id()), len, options })
        });
        debug_assert_eq!(written as usize, frames, "the ring had room for all frames");
        drop(rest);
        pool.note_sent(frames);
        pool.keep_tail(tail);
        Ok(())
    }

    /// Sends what was put on the transmit ring, with one wakeup.
    #[inline]
    pub fn flush(&mut self) {
        self.tx.publish();
    }

    /// Reclaims transmitted frames and tops up the fill ring, unless another worker of the link is
    /// at it.
    #[inline]
    pub fn service(&mut self, pool: &mut FramePool) {
        let serviced = self.link.service(pool);
        self.counters.false_completions += serviced.false_completions;
        self.counters.starved += u64::from(serviced.starved);
    }

    /// Frames of a packet whose rest has not come yet. They count as the worker's in
    /// [`FramePool::outstanding`].
    #[must_use]
    pub fn held_frames(&self) -> usize {
        self.assembler.held_frames()
    }

    /// Counters of the port.
    #[must_use]
    pub fn statistics(&self) -> XskStatistics {
        XskStatistics {
            false_descriptors: self.assembler.false_descriptors + self.counters.false_completions,
            oversized: self.assembler.oversized,
            starved: self.counters.starved,
        }
    }

    /// Drops the port, and settles with the worker's pool for the frames in
    /// [`Port::held_frames`].
    pub fn close(mut self, pool: &mut FramePool) {
        if let Some(packet) = self.assembler.take_partial() {
            pool.free_packet(packet);
        }
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        if let Some(packet) = self.assembler.take_partial() {
            let umem = self.link.umem();
            umem.spare_again(std::iter::once(packet.head).chain(packet.tail));
        }
    }
}
