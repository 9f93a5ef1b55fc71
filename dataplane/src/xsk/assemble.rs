//! Assembles packets from receive descriptors.

use super::sys::{Desc, XDP_PKT_CONTD};
use crate::mem::{FRAME_SIZE, Frame, FrameOwnership, FramePool, Packet};

/// Frames of one packet, at most: what an skb holds (its linear part and `MAX_SKB_FRAGS` = 17
/// fragments, `include/linux/skbuff.h`), and more than 65,535 bytes need.
pub const PACKET_FRAMES_MAX: usize = 18;

/// Assembles packets of one worker and link. The descriptors of a packet may arrive in several
/// batches; the frames so far are kept here.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    state: State,
    /// Descriptors of a frame that the link doesn't hold, or of bytes outside of a frame.
    pub(super) false_descriptors: u64,
    /// Packets of more than [`PACKET_FRAMES_MAX`] frames.
    pub(super) oversized: u64,
}

#[derive(Debug, Default)]
enum State {
    /// The next descriptor is the first of a packet.
    #[default]
    Idle,
    /// The next descriptor continues this packet.
    Partial(Packet),
    /// The next descriptor continues a packet that is discarded.
    Discard,
}

impl Assembler {
    /// Takes the next descriptor. Appends the packet that it completes to `out`; returns whether it
    /// completed one.
    #[inline]
    pub(super) fn push(
        &mut self,
        desc: &Desc,
        ownership: &FrameOwnership<'_>,
        pool: &mut FramePool,
        out: &mut Vec<Packet>,
    ) -> bool {
        if desc.options & XDP_PKT_CONTD != 0 || !matches!(self.state, State::Idle) {
            return self.push_part(desc, ownership, pool, out);
        }
        let Some(frame) = reclaim(desc, ownership, pool) else {
            self.false_descriptors += 1;
            return false;
        };
        // Written in place in `out`: a copy right after would stall on these small stores.
        out.push(Packet::single(frame));
        true
    }

    /// For a packet of several descriptors.
    #[cold]
    fn push_part(
        &mut self,
        desc: &Desc,
        ownership: &FrameOwnership<'_>,
        pool: &mut FramePool,
        out: &mut Vec<Packet>,
    ) -> bool {
        match reclaim(desc, ownership, pool) {
            Some(frame) => self.append(frame, pool),
            None => {
                self.false_descriptors += 1;
                self.discard(pool);
            }
        }
        let last = desc.options & XDP_PKT_CONTD == 0;
        let packet = if last { self.take_partial() } else { None };
        let completes = packet.is_some();
        out.extend(packet);
        completes
    }

    fn append(&mut self, frame: Frame, pool: &mut FramePool) {
        match &mut self.state {
            State::Idle => self.state = State::Partial(Packet::new(frame, pool.tail())),
            State::Partial(packet) if packet.frames() < PACKET_FRAMES_MAX => {
                packet.tail.push(frame);
            }
            State::Partial(_) => {
                self.oversized += 1;
                pool.free(frame);
                self.discard(pool);
            }
            State::Discard => pool.free(frame),
        }
    }

    /// Discards the current packet and the rest of its descriptors.
    fn discard(&mut self, pool: &mut FramePool) {
        if let State::Partial(packet) = std::mem::replace(&mut self.state, State::Discard) {
            pool.free_packet(packet);
        }
    }

    /// Returns to [`State::Idle`]. Takes the frames of the current packet, which are all of them
    /// after its last descriptor.
    pub(super) fn take_partial(&mut self) -> Option<Packet> {
        match std::mem::take(&mut self.state) {
            State::Partial(packet) => Some(packet),
            State::Idle | State::Discard => None,
        }
    }

    /// Frames of the incomplete packet.
    pub(super) fn held_frames(&self) -> usize {
        match &self.state {
            State::Partial(packet) => packet.frames(),
            State::Idle | State::Discard => 0,
        }
    }
}

/// Reclaims the frame of a descriptor. `None` if the descriptor is false.
#[inline]
fn reclaim(desc: &Desc, ownership: &FrameOwnership<'_>, pool: &mut FramePool) -> Option<Frame> {
    let mut frame = ownership.reclaim(desc.addr)?;
    pool.account_received(1);
    let offset = (desc.addr % u64::from(FRAME_SIZE)) as u32;
    if desc.len == 0 || !frame.try_set_extent(offset, desc.len) {
        pool.free(frame);
        return None;
    }
    Some(frame)
}
