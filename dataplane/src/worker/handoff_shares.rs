//! Fair sharing of what packets on their way to other workers take: entries of a worker's rings to
//! the others, and frames. A packet of 64 KiB takes one entry and 17 frames, so that those of one
//! link could take most frames while another worker is busy.

use std::collections::VecDeque;

use podgate_tables::ids::LinkId;

use crate::share::{FairShare, Quota};

/// Packets on the rings of all workers may take one in this many frames of the UMEM, those of one
/// link half of that.
const FRAMES_SHARE: usize = 4;
/// Frames for one worker's rings, at least: three packets of 64 KiB of one link.
const FRAMES_MIN: usize = 128;

/// One worker's shares.
#[derive(Debug)]
pub(super) struct HandoffShares {
    /// By the worker that the ring leads to.
    rings: Vec<RingShares>,
    /// Frames of packets on all rings.
    frames: Quota,
}

#[derive(Debug, Default)]
struct RingShares {
    entries: FairShare,
    /// Link and frames of each packet that is on the ring, as far as we know, in its order.
    packets: VecDeque<(LinkId, usize)>,
}

impl RingShares {
    /// Releases the frames of packets that the other worker has taken: all but `waiting`.
    fn release_taken(&mut self, waiting: usize, frames: &mut Quota) {
        while self.packets.len() > waiting
            && let Some((link, taken)) = self.packets.pop_front()
        {
            frames.release(link, taken);
        }
    }
}

impl HandoffShares {
    /// Shares of a worker that is one of `workers`, which share `umem_frames` frames.
    pub(super) fn new(workers: usize, umem_frames: usize) -> Self {
        let frames = (umem_frames / (FRAMES_SHARE * workers)).max(FRAMES_MIN);
        let rings = (0..workers).map(|_| RingShares::default()).collect();
        Self { rings, frames: Quota::new(frames) }
    }

    /// Takes an entry of the ring to worker `to`, and the frames of the packet that will be put
    /// there, if the share of its link allows. Returns whether it did. `room` says how many packets
    /// wait on the ring to a worker, and how many entries are free.
    pub(super) fn take(
        &mut self,
        to: u16,
        link: LinkId,
        frames: usize,
        room: impl Fn(u16) -> (usize, usize),
    ) -> bool {
        let (waiting, free) = room(to);
        let ring = &mut self.rings[usize::from(to)];
        ring.release_taken(waiting, &mut self.frames);
        if !self.frames.take(link, frames) {
            for (to, ring) in (0..).zip(&mut self.rings) {
                let (waiting, _) = room(to);
                ring.release_taken(waiting, &mut self.frames);
            }
            if !self.frames.take(link, frames) {
                return false;
            }
        }
        let ring = &mut self.rings[usize::from(to)];
        if !ring.entries.take_in_ring(link, (waiting, free), 1) {
            self.frames.release(link, frames);
            return false;
        }
        ring.packets.push_back((link, frames));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GREEDY: LinkId = LinkId(1);
    const OTHER: LinkId = LinkId(2);

    /// Hands packets of `frames` frames off while that is possible. Returns how many.
    fn flood(
        shares: &mut HandoffShares,
        waiting: &mut [usize; 3],
        to: u16,
        (link, frames): (LinkId, usize),
    ) -> usize {
        let takes = |_: &usize| {
            let room = |to: u16| (waiting[usize::from(to)], 512 - waiting[usize::from(to)]);
            let taken = shares.take(to, link, frames, room);
            waiting[usize::from(to)] += usize::from(taken);
            taken
        };
        (0..).take_while(takes).count()
    }

    #[test]
    fn large_packets_of_one_link_leave_half_of_the_frames_to_others() {
        // 1,024 frames are for the rings of each of the three workers.
        let (mut shares, mut waiting) = (HandoffShares::new(3, 3 * 4 * 1024), [0; 3]);
        assert_eq!(flood(&mut shares, &mut waiting, 1, (GREEDY, 17)), 512 / 17);
        assert_eq!(flood(&mut shares, &mut waiting, 2, (GREEDY, 17)), 0, "to all workers");
        assert_eq!(flood(&mut shares, &mut waiting, 2, (OTHER, 17)), 524 / 2 / 17);
        // What the others have taken is free again.
        waiting = [0; 3];
        assert_eq!(flood(&mut shares, &mut waiting, 2, (GREEDY, 17)), 512 / 17);
        waiting = [0, 0, 1];
        assert_eq!(flood(&mut shares, &mut waiting, 1, (GREEDY, 17)), 512 / 17 - 1);
    }

    #[test]
    fn small_packets_have_half_of_the_entries() {
        let (mut shares, mut waiting) = (HandoffShares::new(3, 1 << 20), [0; 3]);
        for to in [1, 2] {
            assert_eq!(flood(&mut shares, &mut waiting, to, (GREEDY, 1)), 256);
            assert_eq!(flood(&mut shares, &mut waiting, to, (OTHER, 1)), 128);
        }
    }

    #[test]
    fn a_packet_of_64_kib_has_room_with_few_frames_and_many_workers() {
        let (mut shares, mut waiting) = (HandoffShares::new(3, 64), [0; 3]);
        assert_eq!(flood(&mut shares, &mut waiting, 1, (GREEDY, 17)), 3);
    }
}
