//! (2) The fast path: forwards packets of established plain flows that need no more than a router's
//! edits. Nearly every packet takes it.
//!
//! All other packets take the slow path, [`Pipeline::process`](super::pipeline::Pipeline). The fast
//! path is equivalent to it, several times faster: it checks fewer headers ([`FastHeaders`]), and
//! it works on a whole batch. A packet waits for memory three times (its headers, the flow's entry
//! in the index, the flow). First the headers of all packets are read and their flows are looked
//! up, so that these waits overlap. Then runs of packets are matched and forwarded; the packet that
//! ends a run takes the slow path.
//!
//! Packets to and from services take it, too ([`super::services`]): those that have a translation
//! are translated, and forwarded if this worker has their flow, or else handed off; those that
//! another worker translated are forwarded; replies are translated back. A translation knows in
//! which slot its flow was last ([`FlowPlace`]), so that this costs no second lookup.

use std::ops::Range;
use std::vec::Drain;

use podgate_tables::address::Mac;
use podgate_tables::drop_reason::DropReason;
use podgate_tables::ids::LinkId;
use podgate_tables::route::{NextHop, RouteTable};
use podgate_tables::service::L4Addr;
use podgate_tables::tuple::FlowDirection;

use crate::flow::{Flow, FlowPlace, FlowTable, LookupKey};
use crate::mem::{CsumPartial, Packet, Umem};
use crate::packet::fast::{
    End, EndTranslation, EndV4, FastHeaders, FastPathPacket, SourceFilter, Ttl, TtlProtoChecksum,
};
use crate::packet::{HostFrame, checksum};

use super::BATCH;
use super::ctx::PacketCtx;
use super::egress::Origin;
use super::targets::Targets;

/// Prefetch distance for headers, in packets. Frames are a page apart, so that their headers
/// compete for a few sets of the L1 cache: not many more fit.
const AHEAD: usize = 6;

/// The flow of a key that [`FlowTable::lookup_batch`] has looked up, and the packet's direction.
/// A macro, since a function that returns either of two borrows is rejected.
macro_rules! looked_up {
    ($flows:expr, $key:expr) => {
        match $flows.lookup_candidate($key) {
            Some(found) => Some(found),
            None => $flows.lookup_slow($key),
        }
    };
}

/// The packets of one batch. Kept between batches for its memory.
#[derive(Debug)]
pub(super) struct FastPath {
    /// `None` for a packet of the slow path.
    packets: Vec<Option<FastPathPacket>>,
    /// Their flows; looked up for packets of the slow path as well, to warm the cache.
    keys: Vec<LookupKey>,
    /// Of the packets that were matched.
    actions: Vec<ForwardAction>,
    /// Of those that are translated.
    translations: Vec<Option<TranslateAction>>,
}

impl FastPath {
    pub(super) fn new() -> Self {
        Self {
            packets: vec![None; BATCH],
            keys: vec![LookupKey::default(); BATCH],
            actions: vec![ForwardAction::NONE; BATCH],
            translations: vec![None; BATCH],
        }
    }

    /// The lookup keys of the first `packets` packets.
    pub(super) fn keys(&mut self, packets: usize) -> &mut [LookupKey] {
        &mut self.keys[..packets]
    }

    /// Reads the headers of a batch. Returns its length in bytes.
    #[inline(never)]
    pub(super) fn read(&mut self, umem: &Umem, ingress: Ingress, batch: &[Packet]) -> u64 {
        batch.iter().take(AHEAD).for_each(|packet| umem.prefetch(&packet.head));
        let mut bytes = 0;
        let slots = self.packets.iter_mut().zip(&mut self.keys);
        for ((at, packet), (slot, key)) in batch.iter().enumerate().zip(slots) {
            if let Some(later) = batch.get(at + AHEAD) {
                umem.prefetch(&later.head);
            }
            bytes += u64::from(packet.len());
            match ingress.read(packet, umem.data(&packet.head)) {
                Some(FastHeaders { addresses, ports, protocol, eligible }) => {
                    key.set_v4(addresses, ports, protocol);
                    *slot = eligible;
                }
                None => {
                    key.clear();
                    *slot = None;
                }
            }
        }
        bytes
    }

    /// Matches packets of a batch up to the first one that has to take the slow path. Counts those
    /// before it in their flows, and stores what to do with them. Returns their number.
    ///
    /// The source address of a pod's packet needs no check here: the flow's link is where that
    /// address is routed, by the tables of the epoch that the flow was decided under.
    #[inline(never)]
    pub(super) fn match_flows(
        &mut self,
        (flows, targets): (&mut FlowTable, &Targets),
        cx: &PacketCtx<'_>,
        ingress: Ingress,
        batch: Range<usize>,
    ) -> usize {
        let Self { packets, keys, actions, translations } = self;
        let candidates = packets[batch.clone()].iter().zip(&keys[batch.clone()]);
        let first = batch.start;
        let (routes, epoch, now) = (&*cx.snapshot.routes, cx.snapshot.epoch.short(), cx.now);
        let (host, from_host) = (routes.host_link(), ingress.is_host);
        let has_tx_metadata = cx.egress.umem().has_tx_metadata();
        let mut matched = 0;
        for ((packet, key), action) in candidates.zip(&mut actions[batch]) {
            let Some(packet) = packet else { break };
            let Some((flow, direction)) = looked_up!(flows, key) else { break };
            let to = flow.link(direction.reverse());
            let Some(next_hop) = routes.next_hop(to) else { break };
            let between_pods = !from_host && host != Some(to);
            let ip_len = u32::from(packet.ip_len);
            let csum_partial =
                checksum::is_pseudo_header(packet.checksum, flow.checksum, packet.l4_len());
            if flow.link(direction) != ingress.link
                || !flow.is_fast_path(direction, epoch)
                || ip_len > next_hop.mtu
                || between_pods && packet.ttl_word.ttl() <= 1
                || csum_partial && !has_tx_metadata
            {
                let translated = match_translated((flows, targets), cx, ingress, packet, key);
                let Some((forward, translation)) = translated else { break };
                *action = forward;
                translations[first + matched] = Some(translation);
                matched += 1;
                continue;
            }
            flow.count(direction, ip_len, now);
            let ttl = if between_pods { Ttl::Decrement } else { Ttl::Keep };
            let (ttl_word, is_translated) = (packet.ttl_word, false);
            *action = ForwardAction { to, ttl, csum_partial, is_translated, ttl_word };
            matched += 1;
        }
        matched
    }

    /// The same for packets that another worker has translated, each with the service's address and
    /// port that it was sent to; the others take the slow path.
    pub(super) fn match_handed_off(
        &mut self,
        (flows, targets): (&mut FlowTable, &Targets),
        cx: &PacketCtx<'_>,
        ingress: Ingress,
        batch: Range<usize>,
        frontends: &[Option<L4Addr>],
    ) -> usize {
        let mut matched = 0;
        for at in batch {
            let (Some(packet), Some(frontend)) = (&self.packets[at], frontends[at]) else { break };
            let key = &self.keys[at];
            let Some((flow, FlowDirection::Original)) = looked_up!(flows, key) else { break };
            if !is_of_service((flow, targets), cx, ingress, frontend) {
                break;
            }
            let to = flow.link(FlowDirection::Reply);
            let csum_partial =
                checksum::is_pseudo_header(packet.checksum, flow.checksum, packet.l4_len());
            let action = action(cx, ingress, to, packet, csum_partial);
            let Some(action) = action else { break };
            flow.count(FlowDirection::Original, packet.ip_len.into(), cx.now);
            self.actions[at] = action;
            matched += 1;
        }
        matched
    }

    /// Forwards the next packets, which were matched under the same routes.
    #[inline]
    pub(super) fn forward(
        &self,
        cx: &mut PacketCtx<'_>,
        ingress: Ingress,
        matched: Range<usize>,
        packets: &mut Drain<'_, Packet>,
    ) {
        let routes = &*cx.snapshot.routes;
        let host = routes.host_link();
        let (mut forwarded, mut forwarded_bytes) = (0, 0);
        for (action, translation) in
            self.actions[matched.clone()].iter().zip(&self.translations[matched])
        {
            let Some(mut packet) = packets.next() else { break };
            if let Some(later) = packets.as_slice().get(AHEAD - 1) {
                cx.egress.umem().prefetch(&later.head);
            }
            let ForwardAction { to, ttl, csum_partial, is_translated, ttl_word } = *action;
            if is_translated && let Some(TranslateAction { translation, hand_off }) = translation {
                translation.write(cx.egress.umem().data_mut(&mut packet.head));
                if let Some((owner, frontend)) = *hand_off {
                    cx.egress.hand_off(owner, ingress.link, packet, Some(frontend));
                    continue;
                }
            }
            let Some(next_hop) = routes.next_hop(to) else {
                cx.egress.drop_packet(ingress.link, packet, DropReason::LinkGone);
                continue;
            };
            let head = cx.egress.umem().data_mut(&mut packet.head);
            let link_mac = if host == Some(to) { ingress.sender_mac } else { next_hop.link_mac };
            ttl_word.rewrite(head, next_hop.mac, link_mac, ttl);
            let Packet { head, tail, .. } = packet;
            let csum_partial =
                if csum_partial { ttl_word.csum_partial() } else { CsumPartial::NONE };
            let len = u64::from(head.len());
            match cx.egress.transmit_frame(to, head, csum_partial) {
                Ok(()) => {
                    forwarded += 1;
                    forwarded_bytes += len;
                }
                Err(head) => {
                    let packet = Packet { csum_partial, ..Packet::new(head, tail) };
                    let next_hop = NextHop { link_mac, ..*next_hop };
                    cx.egress.transmit(ingress.link, &next_hop, packet, Origin::Received);
                }
            }
        }
        cx.egress.stats().forwarded.count(forwarded, forwarded_bytes);
    }
}

/// Matches a packet to a service, or a reply of one, and counts it in its translation and flow.
/// `None` if it is neither, or has to take the slow path.
#[inline(never)]
fn match_translated(
    (flows, targets): (&mut FlowTable, &Targets),
    cx: &PacketCtx<'_>,
    ingress: Ingress,
    packet: &FastPathPacket,
    key: &LookupKey,
) -> Option<(ForwardAction, TranslateAction)> {
    let (epoch, ip_len) = (cx.snapshot.epoch.short(), u32::from(packet.ip_len));
    let (flow, direction) = looked_up!(flows, key)?;
    if flow.link(direction) != ingress.link {
        return None;
    }
    let (addresses, ports) = key.ends();
    let csum_partial = checksum::is_pseudo_header(packet.checksum, flow.checksum, packet.l4_len());
    let target = targets.of(flow)?;
    let target_v4 = EndV4::new(target.address, target.port)?;
    if direction.is_reply() {
        let to = flow.link(FlowDirection::Original);
        // A pod that reaches itself has both of its addresses translated.
        if !flow.is_translated_fast_path(direction, epoch) || to == ingress.link {
            return None;
        }
        let from = EndV4 { address: addresses as u32, port: ports as u16 };
        let translation = EndTranslation::new(packet, End::Source, [from, target_v4], csum_partial);
        let action = action(cx, ingress, to, packet, csum_partial)?.translated(&translation);
        flow.count(direction, ip_len, cx.now);
        return Some((action, TranslateAction { translation, hand_off: None }));
    }
    if !flow.is_translation_fast_path(epoch) || target_v4.address == addresses as u32 {
        return None;
    }
    let from = EndV4 { address: (addresses >> 32) as u32, port: (ports >> 16) as u16 };
    let frontend = from.as_frontend();
    let translation =
        EndTranslation::new(packet, End::Destination, [from, target_v4], csum_partial);
    let (action, hand_off) = match flow.place() {
        FlowPlace::Unknown => return None,
        FlowPlace::Worker(owner) => {
            flow.count(direction, ip_len, cx.now);
            (ForwardAction::NONE, Some((owner, frontend)))
        }
        FlowPlace::Here(index) => {
            let addresses = addresses & u64::from(u32::MAX) | u64::from(target_v4.address) << 32;
            let ports = ports & u32::from(u16::MAX) | u32::from(target_v4.port) << 16;
            let translated = key.of_translated(addresses, ports, index);
            let Some((other, FlowDirection::Original)) = flows.lookup_candidate(&translated) else {
                return None;
            };
            if !is_of_service((other, targets), cx, ingress, frontend) {
                return None;
            }
            let to = other.link(FlowDirection::Reply);
            let action = action(cx, ingress, to, packet, csum_partial)?;
            other.count(direction, ip_len, cx.now);
            // Its slot is the same as before.
            let (flow, _) = looked_up!(flows, key)?;
            flow.count(direction, ip_len, cx.now);
            (action, None)
        }
    };
    Some((action.translated(&translation), TranslateAction { translation, hand_off }))
}

/// Whether packets of the opener to this address and port of a service belong to the flow, and may
/// take the fast path once they are translated.
#[inline]
fn is_of_service(
    (flow, targets): (&Flow, &Targets),
    cx: &PacketCtx<'_>,
    ingress: Ingress,
    frontend: L4Addr,
) -> bool {
    flow.is_translated_fast_path(FlowDirection::Original, cx.snapshot.epoch.short())
        && flow.link(FlowDirection::Original) == ingress.link
        && targets.of(flow) == Some(frontend)
}

/// How a packet is forwarded to the link `to`. `None` if it has to take the slow path.
fn action(
    cx: &PacketCtx<'_>,
    ingress: Ingress,
    to: LinkId,
    packet: &FastPathPacket,
    csum_partial: bool,
) -> Option<ForwardAction> {
    let routes = &*cx.snapshot.routes;
    let next_hop = routes.next_hop(to)?;
    let between_pods = !ingress.is_host && routes.host_link() != Some(to);
    let is_slow = u32::from(packet.ip_len) > next_hop.mtu
        || between_pods && packet.ttl_word.ttl() <= 1
        || csum_partial && !cx.egress.umem().has_tx_metadata();
    let ttl = if between_pods { Ttl::Decrement } else { Ttl::Keep };
    let ttl_word = packet.ttl_word;
    let action = ForwardAction { to, ttl, csum_partial, is_translated: false, ttl_word };
    (!is_slow).then_some(action)
}

/// The link that a batch was received from.
#[derive(Clone, Copy)]
pub(super) struct Ingress {
    link: LinkId,
    /// Whether it leads to the kernel, and not to a pod.
    is_host: bool,
    /// Ethernet sources of its packets: a pod has one, the kernel may use any.
    source: SourceFilter,
    /// Ethernet source of what is forwarded from here to the host link.
    sender_mac: Mac,
}

impl Ingress {
    pub(super) fn new(link: LinkId, routes: &RouteTable) -> Self {
        let is_host = routes.is_host(link);
        let source = match routes.next_hop(link) {
            _ if is_host => SourceFilter::ANY,
            Some(next_hop) => SourceFilter::exactly(next_hop.mac),
            None => SourceFilter::NONE,
        };
        Self { link, is_host, source, sender_mac: HostFrame::sender_mac(link.0) }
    }

    #[inline]
    fn read(&self, packet: &Packet, frame: &[u8]) -> Option<FastHeaders> {
        if packet.is_single_frame() { FastHeaders::read(frame, self.source) } else { None }
    }
}

/// What is left to do with a matched packet.
#[derive(Clone, Copy, Debug)]
struct ForwardAction {
    to: LinkId,
    ttl: Ttl,
    /// Whether its L4 checksum is partial.
    csum_partial: bool,
    /// Whether it has a [`TranslateAction`], too.
    is_translated: bool,
    ttl_word: TtlProtoChecksum,
}

/// What is to be done with a packet before it is forwarded.
#[derive(Clone, Copy, Debug)]
struct TranslateAction {
    translation: EndTranslation,
    /// The worker that it is handed off to instead, and the service's address and port that it was
    /// sent to.
    hand_off: Option<(u16, L4Addr)>,
}

impl ForwardAction {
    const NONE: Self = Self {
        to: LinkId(0),
        ttl: Ttl::Keep,
        csum_partial: false,
        is_translated: false,
        ttl_word: TtlProtoChecksum::NONE,
    };

    /// The same after the packet was translated.
    const fn translated(self, translation: &EndTranslation) -> Self {
        Self { is_translated: true, ttl_word: translation.ttl_word(), ..self }
    }
}
