//! From receive descriptors to whole packets.

use super::frame::{Frame, FramePool, Packet};
use super::sys::{Desc, XDP_PKT_CONTD};
use super::umem::{FRAME_SIZE, Umem};
use crate::types::LinkId;

/// Frames of one packet, at most: what one socket buffer of the kernel takes (its linear part and
/// `MAX_SKB_FRAGS` = 17 more, `include/linux/skbuff.h`), and more than 65,535 bytes need.
pub const PACKET_FRAMES_MAX: usize = 18;

/// Puts a worker's packets of one link together. A packet's descriptors may arrive in several
/// batches; what came so far waits here.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    partial: Option<Packet>,
    /// Whether the rest of the current packet is to be thrown away.
    skipping: bool,
    /// Descriptors that named a frame which the link doesn't hold, or bytes outside of a frame.
    pub(super) false_descriptors: u64,
    /// Packets of more than [`PACKET_FRAMES_MAX`] frames.
    pub(super) oversized: u64,
}

impl Assembler {
    /// Takes the next descriptor. Puts the packet behind `out` that it completes; false if it
    /// completes none.
    #[inline]
    pub(super) fn push(
        &mut self,
        desc: Desc,
        umem: &Umem,
        link: LinkId,
        pool: &mut FramePool,
        out: &mut Vec<Packet>,
    ) -> bool {
        let last = desc.options & XDP_PKT_CONTD == 0;
        let frame = take(desc, umem, link, pool);
        if last
            && self.is_idle()
            && let Some(frame) = frame
        {
            // Of all places in memory only its own in `out`: a copy right after would wait for
            // these small writes.
            out.push(Packet::single(frame));
            return true;
        }
        let packet = self.append_or_skip(frame, last, pool);
        let completes = packet.is_some();
        out.extend(packet);
        completes
    }

    /// Whether no packet waits for its rest, nor to be thrown away.
    #[inline]
    fn is_idle(&self) -> bool {
        !self.skipping && self.partial.is_none()
    }

    #[cold]
    fn append_or_skip(
        &mut self,
        frame: Option<Frame>,
        last: bool,
        pool: &mut FramePool,
    ) -> Option<Packet> {
        match frame {
            Some(frame) if self.skipping => pool.free(frame),
            Some(frame) => self.append(frame, pool),
            None => {
                self.false_descriptors += 1;
                self.skip(pool);
            }
        }
        if !last {
            return None;
        }
        self.skipping = false;
        self.partial.take()
    }

    fn append(&mut self, frame: Frame, pool: &mut FramePool) {
        match &mut self.partial {
            None => self.partial = Some(Packet::new(frame, pool.tail())),
            Some(packet) if packet.frames() < PACKET_FRAMES_MAX => packet.tail.push(frame),
            Some(_) => {
                self.oversized += 1;
                pool.free(frame);
                self.skip(pool);
            }
        }
    }

    /// Throws the current packet away, what came of it and what is to come.
    fn skip(&mut self, pool: &mut FramePool) {
        self.skipping = true;
        if let Some(packet) = self.partial.take() {
            pool.free_packet(packet);
        }
    }

    /// Gives up the packet that waits for its rest.
    pub(super) fn take_partial(&mut self) -> Option<Packet> {
        self.partial.take()
    }

    /// Frames of the packet that waits for its rest.
    pub(super) fn held_frames(&self) -> usize {
        self.partial.as_ref().map_or(0, Packet::frames)
    }
}

/// The frame that a descriptor names. `None` if the descriptor is false.
#[inline]
fn take(desc: Desc, umem: &Umem, link: LinkId, pool: &mut FramePool) -> Option<Frame> {
    let mut frame = umem.take(desc.addr, link)?;
    pool.note_received(1);
    let offset = (desc.addr % u64::from(FRAME_SIZE)) as u32;
    if desc.len == 0 || desc.len > FRAME_SIZE - offset {
        pool.free(frame);
        return None;
    }
    frame.set_extent(offset, desc.len);
    Some(frame)
}
