//! A link's queue, with what it transmitted and for which links: the time that a flush takes is
//! charged to the links whose packets it sends.

use podgate_tables::ids::LinkId;

use crate::stats::OverQuota;
use crate::xsk::LinkQueue;

/// A queue, with its transmit accounting.
#[derive(Debug)]
pub(super) struct TxQueue {
    pub(super) queue: LinkQueue,
    /// Whether the link is in [`super::egress::Egress`]'s list of links to flush.
    pub(super) unflushed: bool,
    /// Packets put on the transmit ring, wrapping; and how many of them were attributed to the link
    /// that they were received from.
    sent: u32,
    attributed: u32,
    /// Packets since the last flush by source link. Links beyond the last entry count as that one.
    sources: [(LinkId, u32); SOURCES],
    /// Packets taken off the receive ring.
    pub(super) received: u64,
    /// What the link was denied by its shares.
    pub(super) over_quota: OverQuota,
}

/// Source links that the packets of one round to one link are attributed to, at most.
const SOURCES: usize = 4;

impl TxQueue {
    /// A queue that transmitted nothing yet.
    pub(super) const fn new(queue: LinkQueue) -> Self {
        Self {
            queue,
            unflushed: false,
            sent: 0,
            attributed: 0,
            sources: [(LinkId(0), 0); SOURCES],
            received: 0,
            over_quota: OverQuota::NONE,
        }
    }

    /// Counts a packet that was put on the transmit ring, and marks the link as unflushed.
    #[inline]
    pub(super) fn count_sent(&mut self, unflushed: &mut Vec<LinkId>) {
        self.sent = self.sent.wrapping_add(1);
        if !std::mem::replace(&mut self.unflushed, true) {
            unflushed.push(self.queue.link());
        }
    }

    /// Attributes the packets sent since the last call to the link `from`.
    pub(super) fn attribute(&mut self, from: LinkId) {
        let packets = self.sent.wrapping_sub(self.attributed);
        if packets == 0 {
            return;
        }
        self.attributed = self.sent;
        let at = self.sources.iter().position(|(link, sent)| *sent == 0 || *link == from);
        let (link, sent) = &mut self.sources[at.unwrap_or(SOURCES - 1)];
        (*link, *sent) = (from, *sent + packets);
    }

    /// Charges the duration of a flush to the source links, in proportion to their packets.
    pub(super) fn charge_sources(&mut self, nanos: u64, mut charge: impl FnMut(LinkId, u64)) {
        let all: u64 = self.sources.iter().map(|(_, sent)| u64::from(*sent)).sum();
        for (link, sent) in &mut self.sources {
            if *sent > 0 {
                charge(*link, nanos * u64::from(*sent) / all);
            }
            *sent = 0;
        }
    }
}
