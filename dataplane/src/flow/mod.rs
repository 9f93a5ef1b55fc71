//! Flows: what a worker remembers of each conversation, and the table it keeps them in.
//!
//! A flow is opened by the first packet that policy lets pass, and judged in that packet's
//! direction; packets of either direction find it. It belongs to one worker, so nothing here is
//! shared or locked.
//!
//! # TCP without a SYN
//! A segment that is no SYN and belongs to no flow may open one, so that connections live on when
//! the agent starts again; such a flow is [`Flow::picked_up`]. We can't know which end had opened
//! it, and an inspector can't follow a stream whose beginning it has not seen. Whoever judges must
//! therefore refuse it unless policy allows it plainly in both directions.

mod class;
mod index;
mod name;
mod owner;
mod saved;
mod table;
pub mod tcp;

pub use owner::{Opener, SOURCES};
pub use saved::SavedFlow;
pub use table::{FlowIx, FlowTable, Sought};

use std::mem::offset_of;

use class::Class;
pub(crate) use name::Key;
use name::Name;
use owner::Owner;
use podgate_tables::drop_reason::DropReason;
use podgate_tables::ids::{Epoch, LinkId};
use podgate_tables::policy::NodeSource;
use podgate_tables::proto;
use podgate_tables::time::Nanos;
use podgate_tables::tuple::{Direction, Tuple};

use crate::packet::checksum::Sum;
use crate::packet::{L4, View, icmp};

/// One conversation.
///
/// What a usual packet needs of an IPv4 flow lies together, from the last words of the name to
/// `opener_second`: 64 bytes, at a multiple of 16 in the table, so that they are on one cache line
/// or on two.
#[derive(Debug)]
#[repr(C)]
pub struct Flow {
    inspector: u32,
    /// When the flow entered its queue or was last looked at there.
    looked_at: Moment,
    /// The table's queue that the flow is in. This and `looked_at` are here because they fill gaps.
    queue: u8,
    protocol: u8,
    /// Type of the ICMP message that opened the flow; zero for other protocols.
    pub icmp_type: u8,
    tcp: tcp::State,
    /// [`PICKED_UP`], [`REVOKED`], [`REQUESTED`], [`HAIRPIN`] and
    /// [`FROM_NODE`].
    marks: u8,
    /// Whose share of the table it takes. The table sets it.
    owner: Owner,
    name: Name,
    packets: [u64; 2],
    bytes: [u64; 2],
    epoch: Epoch,
    last_seen: Moment,
    links: [LinkId; 2],
    /// What its packets' checksums have in common, see [`Sum::of_flow`].
    pub checksum: u16,
    /// For each direction a bit: whether a usual packet changes nothing but counters, under the
    /// flow's epoch. It follows from the rest, see [`Self::settle`].
    goes_on: u8,
    /// Whether the opener is the name's second end. The compiler, as it is now, notes in the `bool`
    /// at the very end that a slot is free, so that to see this needs no further line.
    opener_second: bool,
}

const _: () = {
    let hot = offset_of!(Flow, name) + Name::V4_OFFSET..offset_of!(Flow, opener_second) + 1;
    assert!(hot.end - hot.start == 64);
};

const NO_INSPECTOR: u32 = u32::MAX;

/// Mark of a flow: policy has taken back what it allowed.
const REVOKED: u8 = 1;
/// Mark of a flow: it began with a TCP segment that was no SYN.
const PICKED_UP: u8 = 4;
/// Mark of an inspected flow: its client has sent a whole request.
const REQUESTED: u8 = 2;
/// Mark of a flow: its opener is a local pod, but its packets come from the host link.
const HAIRPIN: u8 = 8;
/// Mark of a flow: this node itself sent its first packet.
const FROM_NODE: u8 = 16;

impl Flow {
    /// The flow that this packet opens, with the packet counted. `links` are those of the opener
    /// and of the other end.
    #[must_use]
    pub fn new(view: &View, epoch: Epoch, links: [LinkId; 2], now: Nanos) -> Self {
        let (name, opener_second) = Name::of(&view.tuple);
        let mut flow = Self {
            inspector: NO_INSPECTOR,
            looked_at: now.into(),
            queue: 0,
            protocol: view.tuple.protocol,
            icmp_type: 0,
            tcp: tcp::State::SynSent,
            marks: 0,
            owner: Owner::pod(links[0]),
            name,
            packets: [1, 0],
            bytes: [u64::from(view.ip_len()), 0],
            epoch,
            last_seen: now.into(),
            links,
            checksum: Sum::of_flow(view.tuple.src, view.tuple.dst, view.tuple.protocol),
            goes_on: 0,
            opener_second,
        };
        match view.l4_kind {
            L4::Icmp { kind, .. } => flow.icmp_type = kind,
            L4::Tcp(segment) if !tcp::opens(segment.flags) => {
                flow.marks |= PICKED_UP;
                flow.tcp =
                    tcp::advance(tcp::State::Established, Direction::Original, segment.flags)
                        .unwrap_or(tcp::State::Closed);
            }
            _ => {}
        }
        flow.settle();
        flow
    }

    /// Notes what follows from the rest, whenever that has changed: whether usual packets go on
    /// without a further look. They don't before a connection is established or while it closes,
    /// before the first answer, to an inspector, when policy has taken back what it allowed, or as
    /// long as each packet has to prove that it is a hairpin.
    const fn settle(&mut self) {
        let open = self.protocol != proto::TCP || matches!(self.tcp, tcp::State::Established);
        let plain = self.inspector == NO_INSPECTOR && !self.revoked();
        let goes_on = [open && plain && !self.hairpin(), open && plain && self.packets[1] > 0];
        self.goes_on = goes_on[0] as u8 | (goes_on[1] as u8) << 1;
    }

    /// Notes what the tables of `epoch` say: whether it is revoked.
    pub const fn judge(&mut self, epoch: Epoch, revoked: bool) {
        self.epoch = epoch;
        self.marks = self.marks & !REVOKED | if revoked { REVOKED } else { 0 };
        self.settle();
    }

    /// Notes whether the opener is a local pod, but its packets come from the host link: then each
    /// of them has to prove that it is the pod's.
    pub const fn set_hairpin(&mut self, hairpin: bool) {
        self.marks = self.marks & !HAIRPIN | if hairpin { HAIRPIN } else { 0 };
        self.settle();
    }

    /// Whether the opener is a local pod, but its packets come from the host link.
    #[must_use]
    pub const fn hairpin(&self) -> bool {
        self.marks & HAIRPIN != 0
    }

    /// Sets who sent the first packet, if its source is an address of this node.
    pub const fn set_node_source(&mut self, source: NodeSource) {
        let mark = if matches!(source, NodeSource::Node) { FROM_NODE } else { 0 };
        self.marks = self.marks & !FROM_NODE | mark;
    }

    /// Who sent the first packet, if its source is an address of this node.
    #[must_use]
    pub const fn node_source(&self) -> NodeSource {
        if self.marks & FROM_NODE != 0 { NodeSource::Node } else { NodeSource::Elsewhere }
    }

    /// The flow's name, in the direction of its opener.
    #[must_use]
    pub fn tuple(&self) -> Tuple {
        self.name.tuple(self.opener_second)
    }

    /// The direction of a packet whose source is, or is not, the name's second end.
    #[inline]
    const fn direction(&self, from_second: bool) -> Direction {
        if self.opener_second == from_second { Direction::Original } else { Direction::Reply }
    }

    /// Tables that the verdict was made by.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Whether policy has taken back what it allowed. A datagram flow is then remembered for as
    /// long as either end sends, so that what a server still sends does not open it from that end.
    #[must_use]
    pub const fn revoked(&self) -> bool {
        self.marks & REVOKED != 0
    }

    /// Whether the flow began with a TCP segment that was no SYN.
    #[must_use]
    pub const fn picked_up(&self) -> bool {
        self.marks & PICKED_UP != 0
    }

    /// Whether the client of an inspected flow has sent a whole request.
    #[must_use]
    pub const fn requested(&self) -> bool {
        self.marks & REQUESTED != 0
    }

    /// Notes a whole request. [`FlowTable::note_request`] is the way here.
    const fn note_request(&mut self) {
        self.marks |= REQUESTED;
    }

    /// TCP's state; without meaning for other protocols.
    #[must_use]
    pub const fn tcp(&self) -> tcp::State {
        self.tcp
    }

    /// Packets from the opener and to it.
    #[must_use]
    pub const fn packets(&self) -> [u64; 2] {
        self.packets
    }

    /// Bytes of IP from the opener and to it.
    #[must_use]
    pub const fn bytes(&self) -> [u64; 2] {
        self.bytes
    }

    /// The link that packets of `direction` come from.
    #[must_use]
    #[inline]
    pub const fn link(&self, direction: Direction) -> LinkId {
        self.links[direction as usize]
    }

    /// Sets the links of the opener and of the other end. [`FlowTable::set_links`] is the way here.
    const fn set_links(&mut self, links: [LinkId; 2]) {
        self.links = links;
    }

    /// Index of the flow's inspector; `None` for a flow that is forwarded without looking further.
    #[must_use]
    #[inline]
    pub const fn inspector(&self) -> Option<u32> {
        match self.inspector {
            NO_INSPECTOR => None,
            index => Some(index),
        }
    }

    /// Sets or takes away the inspector, before the flow is in a table. `u32::MAX` is no index.
    pub const fn set_inspector(&mut self, index: Option<u32>) {
        self.inspector = match index {
            Some(index) => index,
            None => NO_INSPECTOR,
        };
        self.settle();
    }

    /// Whether it was silent for so long that it is to be forgotten.
    #[must_use]
    #[inline]
    pub fn is_expired(&self, now: Nanos) -> bool {
        Moment::from(now).since(self.last_seen) >= Class::of(self).timeout()
    }

    /// Whether a packet changes nothing but counters: a usual one
    /// ([`Usual`](crate::packet::glance::Usual)) in a flow that policy of `epoch` lets pass
    /// plainly, and not the first answer.
    #[must_use]
    #[inline]
    pub fn goes_on(&self, direction: Direction, epoch: Epoch) -> bool {
        self.epoch == epoch && self.goes_on >> direction as u8 & 1 != 0
    }

    /// Counts a packet of which [`Self::goes_on`] holds; for others, [`FlowTable::note`] is the
    /// way.
    #[inline]
    pub fn count(&mut self, direction: Direction, ip_len: u32, now: Nanos) {
        self.last_seen = now.into();
        self.packets[direction as usize] += 1;
        self.bytes[direction as usize] += u64::from(ip_len);
    }

    /// Notes how the flow ends. [`FlowTable::note_reset`] and [`FlowTable::note_answered`] are the
    /// ways here.
    const fn note_end(&mut self, state: tcp::State) {
        self.tcp = state;
        self.settle();
    }

    /// Counts a packet and follows TCP's state. [`FlowTable::note`] is the way here.
    #[inline]
    fn note(&mut self, direction: Direction, view: &View, now: Nanos) -> Result<(), DropReason> {
        if self.revoked() {
            self.last_seen = now.into();
            return Err(DropReason::PolicyRevoked);
        }
        match view.l4_kind {
            L4::Tcp(segment) => {
                self.tcp = tcp::advance(self.tcp, direction, segment.flags)
                    .ok_or(DropReason::TcpNoFlow)?;
            }
            // Identifiers are the sender's choice, so a query may have the ports of an answer.
            L4::Icmp { kind, .. } if icmp::answers(self.protocol, kind) != direction.is_reply() => {
                return Err(DropReason::IcmpUnrelated);
            }
            _ => {}
        }
        self.count(direction, view.ip_len(), now);
        self.settle();
        Ok(())
    }
}

/// A time to the millisecond (2²⁰ ns, to be exact), in half the bytes of [`Nanos`].
///
/// Two moments may be 26 days apart; every flow is looked at more often than that.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Moment(u32);

impl Moment {
    const NANOS: u64 = 1 << 20;

    /// Milliseconds since `earlier`; zero if `earlier` is later.
    #[inline]
    const fn since(self, earlier: Self) -> u32 {
        let span = self.0.wrapping_sub(earlier.0);
        if span > i32::MAX as u32 { 0 } else { span }
    }

    /// So long before.
    const fn earlier(self, span: u32) -> Self {
        Self(self.0.wrapping_sub(span))
    }

    /// A span of [`Self::since`] in milliseconds.
    const fn millis(span: u32) -> u32 {
        (span as u64 * Self::NANOS / 1_000_000) as u32
    }

    /// So many milliseconds in the unit of [`Self::since`].
    const fn span_ms(millis: u32) -> u32 {
        (millis as u64 * 1_000_000 / Self::NANOS) as u32
    }

    /// So many seconds in the unit of [`Self::since`].
    const fn span(seconds: u64) -> u32 {
        (seconds * 1_000_000_000 / Self::NANOS) as u32
    }
}

impl From<Nanos> for Moment {
    #[inline]
    fn from(nanos: Nanos) -> Self {
        Self((nanos.0 / Self::NANOS) as u32)
    }
}

#[cfg(test)]
pub(crate) mod tests;
