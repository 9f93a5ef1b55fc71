//! From receive descriptors to whole packets.

use super::frame::{Frame, FramePool, Packet};
use super::sys::{Desc, XDP_PKT_CONTD};
use super::umem::{Desk, FRAME_SIZE};

/// Frames of one packet, at most: what one socket buffer of the kernel takes (its linear part and
/// `MAX_SKB_FRAGS` = 17 more, `include/linux/skbuff.h`), and more than 65,535 bytes need.
pub const PACKET_FRAMES_MAX: usize = 18;

/// Puts a worker's packets of one link together. A packet's descriptors may arrive in several
/// batches; what came so far waits here.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    at: At,
    /// Descriptors that named a frame which the link doesn't hold, or bytes outside of a frame.
    pub(super) false_descriptors: u64,
    /// Packets of more than [`PACKET_FRAMES_MAX`] frames.
    pub(super) oversized: u64,
}

/// Where in the stream of descriptors it is.
#[derive(Debug, Default)]
enum At {
    /// A packet begins.
    #[default]
    Start,
    /// The rest of this packet comes.
    Rest(Packet),
    /// The rest of a packet comes that is to be thrown away.
    Waste,
}

impl Assembler {
    /// Takes the next descriptor. Puts the packet behind `out` that it completes; false if it
    /// completes none.
    #[inline]
    pub(super) fn push(
        &mut self,
        desc: &Desc,
        desk: &Desk<'_>,
        pool: &mut FramePool,
        out: &mut Vec<Packet>,
    ) -> bool {
        if desc.options & XDP_PKT_CONTD != 0 || !matches!(self.at, At::Start) {
            return self.push_piece(desc, desk, pool, out);
        }
        let Some(frame) = take(desc, desk, pool) else {
            self.false_descriptors += 1;
            return false;
        };
        // Of all places in memory only its own in `out`: a copy right after would wait for these
        // small writes.
        out.push(Packet::single(frame));
        true
    }

    /// For a packet of several descriptors.
    #[cold]
    fn push_piece(
        &mut self,
        desc: &Desc,
        desk: &Desk<'_>,
        pool: &mut FramePool,
        out: &mut Vec<Packet>,
    ) -> bool {
        match take(desc, desk, pool) {
            Some(frame) => self.append(frame, pool),
            None => {
                self.false_descriptors += 1;
                self.skip(pool);
            }
        }
        let last = desc.options & XDP_PKT_CONTD == 0;
        let packet = if last { self.take_partial() } else { None };
        let completes = packet.is_some();
        out.extend(packet);
        completes
    }

    fn append(&mut self, frame: Frame, pool: &mut FramePool) {
        match &mut self.at {
            At::Start => self.at = At::Rest(Packet::new(frame, pool.tail())),
            At::Rest(packet) if packet.frames() < PACKET_FRAMES_MAX => packet.tail.push(frame),
            At::Rest(_) => {
                self.oversized += 1;
                pool.free(frame);
                self.skip(pool);
            }
            At::Waste => pool.free(frame),
        }
    }

    /// Throws the current packet away, what came of it and what is to come.
    fn skip(&mut self, pool: &mut FramePool) {
        if let At::Rest(packet) = std::mem::replace(&mut self.at, At::Waste) {
            pool.free_packet(packet);
        }
    }

    /// Starts anew. What came of the packet that was begun, which is all of it after its last
    /// piece.
    pub(super) fn take_partial(&mut self) -> Option<Packet> {
        match std::mem::take(&mut self.at) {
            At::Rest(packet) => Some(packet),
            At::Start | At::Waste => None,
        }
    }

    /// Frames of the packet that waits for its rest.
    pub(super) fn held_frames(&self) -> usize {
        match &self.at {
            At::Rest(packet) => packet.frames(),
            At::Start | At::Waste => 0,
        }
    }
}

/// The frame that a descriptor names. `None` if the descriptor is false.
#[inline]
fn take(desc: &Desc, desk: &Desk<'_>, pool: &mut FramePool) -> Option<Frame> {
    let mut frame = desk.take(desc.addr)?;
    pool.note_received(1);
    let offset = (desc.addr % u64::from(FRAME_SIZE)) as u32;
    if desc.len == 0 || !frame.try_set_extent(offset, desc.len) {
        pool.free(frame);
        return None;
    }
    Some(frame)
}
