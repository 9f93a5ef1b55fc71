//! (2) The fast path: forwards packets of established plain flows that need no more than a router's
//! edits. Nearly every packet takes it.
//!
//! All other packets take the slow path, [`Pipeline::process`](super::pipeline::Pipeline). The fast
//! path is equivalent to it, several times faster: it checks fewer headers ([`FastHeaders`]), and
//! it works on a whole batch. A packet waits for memory three times (its headers, the flow's entry
//! in the index, the flow). First the headers of all packets are read and their flows are looked
//! up, so that these waits overlap. Then runs of packets are matched and forwarded; the packet that
//! ends a run takes the slow path.

use std::ops::Range;
use std::vec::Drain;

use podgate_tables::address::Mac;
use podgate_tables::drop_reason::DropReason;
use podgate_tables::ids::LinkId;
use podgate_tables::route::{NextHop, RouteTable};

use crate::flow::{FlowTable, LookupKey};
use crate::mem::{CsumPartial, Packet, Umem};
use crate::packet::fast::{FastHeaders, FastPathPacket, SourceFilter, Ttl, TtlProtoChecksum};
use crate::packet::{HostFrame, checksum};

use super::BATCH;
use super::ctx::PacketCtx;
use super::egress::Origin;

/// Prefetch distance for headers, in packets. Frames are a page apart, so that their headers
/// compete for a few sets of the L1 cache: not many more fit.
const AHEAD: usize = 6;

/// The packets of one batch. Kept between batches for its memory.
#[derive(Debug)]
pub(super) struct FastPath {
    /// `None` for a packet of the slow path.
    packets: Vec<Option<FastPathPacket>>,
    /// Their flows; looked up for packets of the slow path as well, to warm the cache.
    keys: Vec<LookupKey>,
    /// Of the packets that were matched.
    actions: Vec<ForwardAction>,
}

impl FastPath {
    pub(super) fn new() -> Self {
        Self {
            packets: vec![None; BATCH],
            keys: vec![LookupKey::default(); BATCH],
            actions: vec![ForwardAction::NONE; BATCH],
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
        flows: &mut FlowTable,
        cx: &PacketCtx<'_>,
        ingress: Ingress,
        batch: Range<usize>,
    ) -> usize {
        let Self { packets, keys, actions } = self;
        let candidates = packets[batch.clone()].iter().zip(&keys[batch.clone()]);
        let (routes, epoch, now) = (&*cx.snapshot.routes, cx.snapshot.epoch.short(), cx.now);
        let (host, from_host) = (routes.host_link(), ingress.is_host);
        let has_tx_metadata = cx.egress.umem().has_tx_metadata();
        let mut matched = 0;
        for ((packet, key), action) in candidates.zip(&mut actions[batch]) {
            let Some(packet) = packet else { break };
            let found = match flows.lookup_candidate(key) {
                Some(found) => Some(found),
                None => flows.lookup_slow(key),
            };
            let Some((flow, direction)) = found else { break };
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
                break;
            }
            flow.count(direction, ip_len, now);
            let ttl = if between_pods { Ttl::Decrement } else { Ttl::Keep };
            *action = ForwardAction { to, ttl, csum_partial, ttl_word: packet.ttl_word };
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
        for action in &self.actions[matched] {
            let Some(mut packet) = packets.next() else { break };
            if let Some(later) = packets.as_slice().get(AHEAD - 1) {
                cx.egress.umem().prefetch(&later.head);
            }
            let ForwardAction { to, ttl, csum_partial, ttl_word } = *action;
            let Some(next_hop) = routes.next_hop(to) else {
                cx.egress.drop_packet(packet, DropReason::LinkGone);
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
                    cx.egress.transmit(&next_hop, packet, Origin::Received);
                }
            }
        }
        cx.egress.stats().forwarded.count(forwarded, forwarded_bytes);
    }
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
    ttl_word: TtlProtoChecksum,
}

impl ForwardAction {
    const NONE: Self = Self {
        to: LinkId(0),
        ttl: Ttl::Keep,
        csum_partial: false,
        ttl_word: TtlProtoChecksum::NONE,
    };
}
