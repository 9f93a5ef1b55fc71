//! Flows: a worker's connection tracking table.
//!
//! A flow is opened by the first packet that policy allows, and decided in that packet's direction;
//! packets of both directions belong to it. It belongs to one worker, so nothing here is shared or
//! locked.
//!
//! # TCP without a SYN
//! A segment that is not a SYN and belongs to no flow may open one, so that connections survive a
//! restart of the agent; such a flow is [`Flow::picked_up`]. Its opener is unknown, and an
//! inspector can't follow a stream whose beginning it has not seen. So such a flow must be denied
//! unless policy allows it without inspection, whichever end is its opener.

mod class;
mod index;
mod key;
mod owner;
mod saved;
mod table;
pub mod tcp;

pub use owner::{Opener, SOURCES};
pub use saved::SavedFlow;
pub use table::{FlowIx, FlowTable, LookupKey};

use std::mem::offset_of;

use class::Class;
pub(crate) use key::HashKey;
use key::{FlowKey, KeyEnd};
use owner::Owner;
pub(crate) use owner::source_group;

use podgate_tables::drop_reason::DropReason;
use podgate_tables::ids::{Epoch, LinkId, RuleId, ShortEpoch};
use podgate_tables::l7::L7Protocol;
use podgate_tables::policy::{Cause, ProvenSender};
use podgate_tables::proto;
use podgate_tables::time::Nanos;
use podgate_tables::tuple::{FlowDirection, Tuple};

use crate::packet::checksum::Sum;
use crate::packet::{L4, View, icmp};

/// The links of a flow's two ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlowLinks {
    /// Link that the opener's packets are received from.
    pub opener: LinkId,
    /// Link that the other end's packets are received from.
    pub responder: LinkId,
}

/// Whether policy still allows a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Permission {
    /// It does.
    Allowed,
    /// It did, and a newer policy does not.
    Revoked,
}

/// Where the flow is to which the packets of a translation belong, as far as it is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlowPlace {
    /// Not known.
    Unknown,
    /// In the same table. It may have been removed, and another flow may be in its place.
    Here(FlowIx),
    /// In the table of another worker.
    Worker(u16),
}

/// One flow.
///
/// The fields that the fast path needs for IPv4 are adjacent, from the last words of the key to
/// `opener_end`: 64 bytes, one cache line of the table.
#[derive(Debug)]
#[repr(C)]
pub struct Flow {
    inspector: u32,
    /// When the flow entered its queue or was last checked there.
    checked_at: Moment,
    /// [`Flow::target`].
    target: u16,
    /// The table's queue that the flow is in. This and `checked_at` are here to fill gaps.
    queue: u8,
    tcp: tcp::State,
    /// [`PICKED_UP`], [`REVOKED`], [`REQUESTED`], [`HAIRPIN`], [`TRANSLATION`], [`CONFIRMED`], and
    /// the sender ([`SENDER_SHIFT`]).
    flags: u8,
    /// The owner whose share of the table it uses. Set by the table.
    owner: Owner,
    /// One more than the numbers of the rules that allowed its egress and ingress; zero for none.
    /// Of a translation, its [`FlowPlace`].
    rules: [u32; 2],
    /// Bytes that are counted for these rules.
    counted: u64,
    key: FlowKey,
    packets: [u64; 2],
    bytes: [u64; 2],
    epoch: ShortEpoch,
    last_seen: Moment,
    /// By [`FlowDirection`].
    links: [LinkId; 2],
    /// The part of the checksum that all of its packets share, see [`Sum::of_flow`].
    pub checksum: u16,
    /// A bit per direction: whether its packets may take the fast path under the flow's epoch.
    /// Those of translated flows and of translations are shifted ([`TRANSLATED_SHIFT`],
    /// [`TRANSLATION_SHIFT`]), since their packets are rewritten. Derived from the other fields by
    /// [`Self::refresh_fast_path`].
    fast_path: u8,
    /// The end of the key that the opener is. The compiler currently uses this as the niche for a
    /// free slot, so that checking for one accesses no further cache line.
    opener_end: KeyEnd,
}

const _: () = {
    let hot = offset_of!(Flow, key) + FlowKey::V4_OFFSET..offset_of!(Flow, opener_end) + 1;
    assert!(hot.end - hot.start == 64);
};

/// [`Flow::inspector`] of a flow that never had one.
const NO_INSPECTOR: u32 = u32::MAX;
/// The same for detached flows, minus the position of the protocol in [`L7Protocol::ALL`].
const DETACHED: u32 = NO_INSPECTOR - 1;
/// Larger numbers are no slots.
const LAST_SLOT: u32 = DETACHED - L7Protocol::ALL.len() as u32;

/// [`Flow::target`] of a flow without one.
const NO_TARGET: u16 = u16::MAX;

/// Flag: policy allowed the flow and no longer does.
const REVOKED: u8 = 1;
/// Flag: it was opened by a TCP segment that was not a SYN.
const PICKED_UP: u8 = 4;
/// Flag of an inspected flow: its client has sent a complete request.
const REQUESTED: u8 = 2;
/// Flag: its opener is a local pod, but its packets are received from the host link.
const HAIRPIN: u8 = 8;
/// Flag: the entry is the translation of a service's flow, not a flow.
const TRANSLATION: u8 = 64;
/// Flag of a translation: the other end has answered, and its flow is open.
const CONFIRMED: u8 = 128;
/// Where the bits of translated flows are in [`Flow::fast_path`], and those of translations.
const TRANSLATED_SHIFT: u8 = 2;
const TRANSLATION_SHIFT: u8 = 4;
/// Where [`ProvenSender::number`] is stored: the number of bits below it.
const SENDER_SHIFT: u32 = 4;

impl Flow {
    /// A flow opened by this packet, which is counted.
    #[must_use]
    pub fn new(view: &View, epoch: Epoch, links: FlowLinks, now: Nanos) -> Self {
        let (key, opener_end) = FlowKey::of(&view.tuple);
        let mut flow = Self {
            inspector: NO_INSPECTOR,
            checked_at: now.into(),
            queue: 0,
            tcp: tcp::State::SynSent,
            target: NO_TARGET,
            flags: 0,
            owner: Owner::pod(links.opener),
            rules: [0; 2],
            counted: 0,
            key,
            packets: [1, 0],
            bytes: [u64::from(view.ip_len()), 0],
            epoch: epoch.short(),
            last_seen: now.into(),
            links: links.by_direction(),
            checksum: Sum::of_flow(view.tuple.src, view.tuple.dst, view.tuple.protocol),
            fast_path: 0,
            opener_end,
        };
        if let L4::Tcp(segment) = view.l4_kind
            && !tcp::opens(segment.flags)
        {
            flow.flags |= PICKED_UP;
            flow.tcp =
                tcp::advance(tcp::State::Established, FlowDirection::Original, segment.flags)
                    .unwrap_or(tcp::State::Closed);
        }
        flow.refresh_fast_path();
        flow
    }

    /// Updates `fast_path` after a change of the fields that it is derived from. Packets can't take
    /// the fast path before a connection is established or while it closes, before the first reply,
    /// if the flow is inspected or revoked, or if each packet of the opener has to be checked for
    /// the hairpin mark. The first packets of a translation choose its class.
    const fn refresh_fast_path(&mut self) {
        let open = self.protocol() != proto::TCP || matches!(self.tcp, tcp::State::Established);
        let plain = self.inspector > LAST_SLOT && !self.revoked();
        let original = open && plain && !self.hairpin();
        let reply = open && plain && self.packets[1] > 0;
        self.fast_path = if self.is_translation() {
            ((original && (self.packets[0] > 1 || self.is_answered())) as u8) << TRANSLATION_SHIFT
        } else {
            let shift = if self.target == NO_TARGET { 0 } else { TRANSLATED_SHIFT };
            (original as u8 | (reply as u8) << 1) << shift
        };
    }

    /// Sets what the tables of `epoch` say.
    pub const fn set_permission(&mut self, epoch: Epoch, permission: Permission) {
        self.epoch = epoch.short();
        self.set_flag(REVOKED, matches!(permission, Permission::Revoked));
    }

    /// Sets whether the opener is a local pod whose packets are received from the host link: then
    /// each of them must have the hairpin mark.
    pub const fn set_hairpin(&mut self, hairpin: bool) {
        self.set_flag(HAIRPIN, hairpin);
    }

    const fn set_flag(&mut self, flag: u8, value: bool) {
        self.flags = self.flags & !flag | if value { flag } else { 0 };
        self.refresh_fast_path();
    }

    /// Whether the opener is a local pod whose packets are received from the host link.
    #[must_use]
    pub const fn hairpin(&self) -> bool {
        self.flags & HAIRPIN != 0
    }

    /// Sets who sent the first packet.
    pub const fn set_sender(&mut self, sender: ProvenSender) {
        let others = self.flags & !(ProvenSender::BITS << SENDER_SHIFT);
        self.flags = others | sender.number() << SENDER_SHIFT;
    }

    /// Who sent the first packet.
    #[must_use]
    pub const fn sender(&self) -> ProvenSender {
        ProvenSender::from_number(self.flags >> SENDER_SHIFT & ProvenSender::BITS)
    }

    /// IP protocol number.
    #[must_use]
    #[inline]
    pub const fn protocol(&self) -> u8 {
        self.key.protocol()
    }

    /// Type of the ICMP message that opened the flow; zero for other protocols. It stands for the
    /// responder's port.
    #[must_use]
    pub fn icmp_type(&self) -> u8 {
        if proto::is_icmp(self.protocol()) { self.tuple().dst_port as u8 } else { 0 }
    }

    /// Number of the address and port that packets of the flow are translated to, in the worker's
    /// list: of a translated flow, the service's that replies come from; of a translation
    /// ([`Self::is_translation`]), the backend's.
    #[must_use]
    #[inline]
    pub const fn target(&self) -> Option<u16> {
        if self.target == NO_TARGET { None } else { Some(self.target) }
    }

    /// Sets [`Self::target`] of a translated flow, before it is inserted into a table.
    pub const fn set_target(&mut self, target: Option<u16>) {
        self.target = match target {
            Some(target) => target,
            None => NO_TARGET,
        };
        self.refresh_fast_path();
    }

    /// Makes the entry a translation, before it is inserted into a table: its tuple is that of the
    /// packets before they are translated to `target`, which belong to the flow with the translated
    /// tuple. Only packets of the original direction have this tuple.
    pub const fn set_translation(&mut self, target: u16) {
        self.flags = self.flags & !PICKED_UP | TRANSLATION;
        if self.packets[1] > 0 {
            // For a restored one: packets of the other end belong to its flow.
            self.flags |= CONFIRMED;
            (self.packets[1], self.bytes[1]) = (0, 0);
            self.counted = self.bytes[0];
        }
        self.set_target(Some(target));
    }

    /// Where the flow of a translation is.
    #[must_use]
    pub const fn place(&self) -> FlowPlace {
        debug_assert!(self.is_translation());
        match self.rules {
            [1, slot] => FlowPlace::Here(FlowIx::of_slot(slot)),
            [2, worker] => FlowPlace::Worker(worker as u16),
            _ => FlowPlace::Unknown,
        }
    }

    /// Sets [`Self::place`] of a translation.
    pub const fn set_place(&mut self, place: FlowPlace) {
        debug_assert!(self.is_translation());
        self.rules = match place {
            FlowPlace::Unknown => [0; 2],
            FlowPlace::Here(index) => [1, index.slot()],
            FlowPlace::Worker(worker) => [2, worker as u32],
        };
    }

    /// Whether this is the translation of a service's flow, not a flow.
    #[must_use]
    #[inline]
    pub const fn is_translation(&self) -> bool {
        self.flags & TRANSLATION != 0
    }

    /// Whether the other end has sent packets. For a translation these are packets of its flow,
    /// whose worker reports them ([`FlowTable::set_confirmed`]).
    #[inline]
    const fn is_answered(&self) -> bool {
        self.packets[1] > 0 || self.flags & CONFIRMED != 0
    }

    /// Whether a translation has translated two packets, and is not confirmed: the notice that the
    /// other end had answered may have been lost.
    #[must_use]
    pub const fn may_have_missed_notice(&self) -> bool {
        self.is_translation() && self.packets[0] == 2 && !self.is_answered()
    }

    /// Whether the other end has answered, and the connection was not reset: then the flow's
    /// translation is [`FlowTable::set_confirmed`].
    #[must_use]
    pub fn confirms(&self) -> bool {
        let is_open = !matches!(self.tcp, tcp::State::Reset(_) | tcp::State::Closed);
        self.is_answered() && (self.protocol() != proto::TCP || is_open)
    }

    /// Sets what allowed the flow's egress and ingress.
    pub(crate) fn set_rules(&mut self, causes: [Cause; 2]) {
        self.rules = causes.map(|cause| match cause {
            Cause::Allowed(rule) => rule.0.wrapping_add(1),
            _ => 0,
        });
    }

    /// The rules of [`Self::epoch`] that allowed the flow's egress and ingress.
    pub(crate) fn rules(&self) -> [Option<RuleId>; 2] {
        if self.is_translation() {
            return [None; 2];
        }
        self.rules.map(|number| number.checked_sub(1).map(RuleId))
    }

    /// Bytes since the last call, of both directions.
    #[inline]
    pub(crate) const fn take_uncounted_bytes(&mut self) -> u64 {
        let bytes = self.bytes[0] + self.bytes[1];
        let uncounted = bytes - self.counted;
        self.counted = bytes;
        uncounted
    }

    /// The flow's tuple, in the direction of its opener.
    #[must_use]
    pub fn tuple(&self) -> Tuple {
        self.key.tuple(self.opener_end)
    }

    /// The direction of a packet whose source is this end of the key.
    #[inline]
    const fn direction(&self, source: KeyEnd) -> FlowDirection {
        if self.opener_end.is(source) { FlowDirection::Original } else { FlowDirection::Reply }
    }

    /// Epoch of the tables that the flow was last decided by.
    #[must_use]
    pub const fn epoch(&self) -> ShortEpoch {
        self.epoch
    }

    /// Whether policy allowed the flow and no longer does. A datagram flow is then kept as long as
    /// either end sends, so that a server's datagrams don't open it from that end.
    #[must_use]
    pub const fn revoked(&self) -> bool {
        self.flags & REVOKED != 0
    }

    /// Whether it was opened by a TCP segment that was not a SYN.
    #[must_use]
    pub const fn picked_up(&self) -> bool {
        self.flags & PICKED_UP != 0
    }

    /// Whether the client of an inspected flow has sent a complete request.
    #[must_use]
    pub const fn requested(&self) -> bool {
        self.flags & REQUESTED != 0
    }

    /// Called by [`FlowTable::set_requested`].
    const fn set_requested(&mut self) {
        self.flags |= REQUESTED;
    }

    /// TCP's state; meaningless for other protocols.
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

    /// The link that packets of `direction` are received from.
    #[must_use]
    #[inline]
    pub const fn link(&self, direction: FlowDirection) -> LinkId {
        self.links[direction as usize]
    }

    /// The links of both ends.
    #[must_use]
    pub const fn links(&self) -> FlowLinks {
        let [opener, responder] = self.links;
        FlowLinks { opener, responder }
    }

    /// The opener, as the table has last determined it.
    pub(crate) const fn opener(&self) -> Opener {
        Opener { owner: self.owner, link: self.link(FlowDirection::Original) }
    }

    /// Called by [`FlowTable::set_links`].
    const fn set_links(&mut self, links: FlowLinks) {
        self.links = links.by_direction();
    }

    /// Index of the flow's inspector; `None` for a plain flow.
    #[must_use]
    #[inline]
    pub const fn inspector(&self) -> Option<u32> {
        if self.inspector <= LAST_SLOT { Some(self.inspector) } else { None }
    }

    /// Sets or clears the inspector, before the flow is inserted into a table. The largest numbers
    /// are not valid indices.
    pub const fn set_inspector(&mut self, index: Option<u32>) {
        debug_assert!(index.is_none() || matches!(index, Some(..=LAST_SLOT)));
        self.inspector = match index {
            Some(index) => index,
            None => NO_INSPECTOR,
        };
        self.refresh_fast_path();
    }

    /// The protocol of the rules that the beginning of a plain flow was inspected by, if its
    /// inspector has ended with nothing left to inspect.
    #[must_use]
    pub fn detached(&self) -> Option<L7Protocol> {
        let number = DETACHED.checked_sub(self.inspector)?;
        L7Protocol::ALL.get(number as usize).copied()
    }

    /// Sets [`Self::detached`]. Called by [`FlowTable::set_detached`], and before the flow is
    /// inserted into a table.
    fn set_detached(&mut self, protocol: L7Protocol) {
        let number = L7Protocol::ALL.iter().position(|known| *known == protocol);
        self.inspector = number.map_or(NO_INSPECTOR, |number| DETACHED - number as u32);
        self.refresh_fast_path();
    }

    /// Whether it was idle for its timeout.
    #[must_use]
    #[inline]
    pub fn is_expired(&self, now: Nanos) -> bool {
        Moment::from(now).since(self.last_seen) >= Class::of(self).timeout()
    }

    /// Milliseconds until it expires, if no packet comes.
    #[must_use]
    pub fn expires_ms(&self, now: Nanos) -> u64 {
        let idle = Moment::from(now).since(self.last_seen);
        Moment::millis(Class::of(self).timeout().saturating_sub(idle)).into()
    }

    /// Whether a [`FastPathPacket`](crate::packet::fast::FastPathPacket) of `direction` changes
    /// nothing but counters: policy of `epoch` allows the flow plainly, and the packet is not the
    /// first reply.
    #[must_use]
    #[inline]
    pub fn is_fast_path(&self, direction: FlowDirection, epoch: ShortEpoch) -> bool {
        self.epoch == epoch && self.fast_path >> direction as u8 & 1 != 0
    }

    /// The same for a flow whose opener's packets are translated already, and replies are
    /// translated when they are forwarded.
    #[must_use]
    #[inline]
    pub fn is_translated_fast_path(&self, direction: FlowDirection, epoch: ShortEpoch) -> bool {
        self.epoch == epoch && self.fast_path >> (TRANSLATED_SHIFT + direction as u8) & 1 != 0
    }

    /// The same for a translation: its packets are still to be translated.
    #[must_use]
    #[inline]
    pub fn is_translation_fast_path(&self, epoch: ShortEpoch) -> bool {
        self.epoch == epoch && self.fast_path >> TRANSLATION_SHIFT & 1 != 0
    }

    /// Counts a packet that may take the fast path; for others see [`FlowTable::update`].
    #[inline]
    pub fn count(&mut self, direction: FlowDirection, ip_len: u32, now: Nanos) {
        self.last_seen = now.into();
        self.packets[direction as usize] += 1;
        self.bytes[direction as usize] += u64::from(ip_len);
    }

    /// Counts a packet of a translation. Called by [`FlowTable::update_translation`].
    fn update_translation(&mut self, view: &View, now: Nanos) {
        if let L4::Tcp(segment) = view.l4_kind {
            self.tcp = tcp::advance_alone(self.tcp, segment.flags);
        }
        self.count(FlowDirection::Original, view.ip_len(), now);
        self.refresh_fast_path();
    }

    /// Called by [`FlowTable::set_reset`] and [`FlowTable::set_answered`].
    const fn set_tcp(&mut self, state: tcp::State) {
        self.tcp = state;
        self.refresh_fast_path();
    }

    /// Counts a packet and tracks TCP's state. Called by [`FlowTable::update`].
    #[inline]
    fn update(
        &mut self,
        direction: FlowDirection,
        view: &View,
        now: Nanos,
    ) -> Result<(), DropReason> {
        if self.revoked() {
            self.last_seen = now.into();
            return Err(DropReason::PolicyRevoked);
        }
        match view.l4_kind {
            L4::Tcp(segment) => {
                self.tcp = tcp::advance(self.tcp, direction, segment.flags)
                    .ok_or(DropReason::TcpNoFlow)?;
            }
            // The sender chooses the identifier, so a query may have the ports of a reply.
            L4::Icmp { kind, .. }
                if icmp::is_reply(self.protocol(), kind) != direction.is_reply() =>
            {
                return Err(DropReason::IcmpUnrelated);
            }
            _ => {}
        }
        self.count(direction, view.ip_len(), now);
        self.refresh_fast_path();
        Ok(())
    }
}

impl FlowLinks {
    /// The links of these ends.
    #[must_use]
    pub const fn new(opener: LinkId, responder: LinkId) -> Self {
        Self { opener, responder }
    }

    const fn by_direction(self) -> [LinkId; 2] {
        [self.opener, self.responder]
    }
}

/// A time with a resolution of 2²⁰ ns, about a millisecond, in half the bytes of [`Nanos`].
///
/// Two moments that are compared may be 26 days apart; flows are checked more often than that.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Moment(u32);

impl Moment {
    /// Nanoseconds of one unit.
    const NANOS: u64 = 1 << 20;

    /// Units since `earlier`; zero if `earlier` is later.
    #[inline]
    const fn since(self, earlier: Self) -> u32 {
        let span = self.0.wrapping_sub(earlier.0);
        if span > i32::MAX as u32 { 0 } else { span }
    }

    /// The moment `span` units before.
    const fn earlier(self, span: u32) -> Self {
        Self(self.0.wrapping_sub(span))
    }

    /// Units to milliseconds.
    const fn millis(span: u32) -> u32 {
        (span as u64 * Self::NANOS / 1_000_000) as u32
    }

    /// Milliseconds to units.
    const fn span_ms(millis: u32) -> u32 {
        (millis as u64 * 1_000_000 / Self::NANOS) as u32
    }

    /// Seconds to units.
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
