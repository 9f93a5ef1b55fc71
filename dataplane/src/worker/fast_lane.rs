//! (2) The way of nearly every packet: a usual one ([`Usual`]) of an established plain flow, with
//! nothing to do but what each hop does.
//!
//! All others take [`Pipeline::run`]. Whatever this lane does, that would do too, in many times the
//! time. A whole batch is looked at and its flows are sought before anything else, so that the
//! waits for memory, of which a packet has three (its headers, the flow's place in the index, the
//! flow), overlap. Then as many in a row as are usual are judged and passed on, and the next one
//! takes the other way.

use std::ops::Range;
use std::vec::Drain;

use podgate_tables::drop_reason::DropReason;
use podgate_tables::ids::LinkId;
use podgate_tables::route::RouteTable;

use crate::flow::Sought;
use crate::packet::checksum;
use crate::packet::glance::{Glance, Hop, SourceIs, Usual};
use crate::xsk::{Packet, Umem, Unfinished};

use super::BATCH;
use super::egress::Origin;
use super::pipeline::Pipeline;
use super::surroundings::Surroundings;

/// How many packets ahead a header is fetched, to be read or written. Frames lie a page apart, so
/// their headers share a few places of the first cache: not many more fit.
const AHEAD: usize = 6;

/// What was seen of each packet of a batch. Kept for its memory.
#[derive(Debug)]
pub(super) struct Glances {
    /// `None` for packets that are not usual.
    usual: Vec<Option<Usual>>,
    /// Their flows. Those of packets that are not usual are sought for nothing but to be at hand.
    sought: Vec<Sought>,
    /// Where those go that were judged.
    ways: Vec<Way>,
}

impl Glances {
    pub(super) fn new() -> Self {
        Self {
            usual: vec![None; BATCH],
            sought: vec![Sought::default(); BATCH],
            ways: vec![Way::NONE; BATCH],
        }
    }

    /// Looks at a batch. Returns its bytes.
    #[inline(never)]
    fn look(&mut self, umem: &Umem, inlet: Inlet, batch: &[Packet]) -> u64 {
        batch.iter().take(AHEAD).for_each(|packet| umem.prefetch(&packet.head));
        let mut bytes = 0;
        let places = self.usual.iter_mut().zip(&mut self.sought);
        for ((at, packet), (place, sought)) in batch.iter().enumerate().zip(places) {
            if let Some(later) = batch.get(at + AHEAD) {
                umem.prefetch(&later.head);
            }
            bytes += u64::from(packet.len());
            match inlet.glance(packet, umem.data(&packet.head)) {
                Some(Glance { addresses, ports, protocol, usual }) => {
                    sought.be_v4(addresses, ports, protocol);
                    *place = usual;
                }
                None => {
                    sought.be_nothing();
                    *place = None;
                }
            }
        }
        bytes
    }

    /// Sends those packets on that were judged, by the same routes, and come next.
    #[inline]
    fn pass_on(
        &self,
        around: &mut Surroundings<'_>,
        judged: Range<usize>,
        packets: &mut Drain<'_, Packet>,
    ) {
        let routes = &*around.snapshot.routes;
        let (mut forwarded, mut forwarded_bytes) = (0, 0);
        for way in &self.ways[judged] {
            let Some(mut packet) = packets.next() else { break };
            if let Some(later) = packets.as_slice().get(AHEAD - 1) {
                around.egress.umem().prefetch(&later.head);
            }
            let Some(next_hop) = routes.next_hop(way.to) else {
                around.egress.discard(packet, DropReason::LinkGone);
                continue;
            };
            let head = around.egress.umem().data_mut(&mut packet.head);
            way.hop.pass_on(head, next_hop.mac, next_hop.link_mac, way.counts_hop);
            let Packet { head, tail, largest_fragment, .. } = packet;
            let unfinished = if way.partial { way.hop.unfinished() } else { Unfinished::NONE };
            let len = u64::from(head.len());
            match around.egress.transmit_usual(way.to, head, unfinished) {
                Ok(()) => {
                    forwarded += 1;
                    forwarded_bytes += len;
                }
                Err(head) => {
                    let packet = Packet { head, tail, largest_fragment, unfinished };
                    around.egress.transmit(next_hop, packet, Origin::Received);
                }
            }
        }
        around.egress.stats().forwarded.count(forwarded, forwarded_bytes);
    }
}

/// Where a batch comes from.
#[derive(Clone, Copy)]
struct Inlet {
    link: LinkId,
    /// The kernel stack, and not a pod.
    is_host: bool,
    /// The only Ethernet source of what comes from there. The kernel may send from any.
    source: SourceIs,
}

impl Inlet {
    fn of(link: LinkId, routes: &RouteTable) -> Self {
        let is_host = routes.is_host(link);
        let source = match routes.next_hop(link) {
            _ if is_host => SourceIs::ANYONE,
            Some(next_hop) => SourceIs::exactly(next_hop.mac),
            None => SourceIs::NOBODY,
        };
        Self { link, is_host, source }
    }

    /// What a packet is, if it is a usual one of who sends here.
    #[inline]
    fn glance(&self, packet: &Packet, frame: &[u8]) -> Option<Glance> {
        if packet.is_usual() { Glance::at(frame, self.source) } else { None }
    }
}

/// What is left to do with a packet that goes on.
#[derive(Clone, Copy, Debug)]
struct Way {
    to: LinkId,
    /// Whether its TTL counts this hop.
    counts_hop: bool,
    /// Whether its L4 checksum is to be completed.
    partial: bool,
    hop: Hop,
}

impl Way {
    const NONE: Self = Self { to: LinkId(0), counts_hop: false, partial: false, hop: Hop::NONE };
}

impl Pipeline {
    /// Packets that came in by `link`, no more than [`BATCH`].
    #[inline(never)]
    pub(super) fn process(
        &mut self,
        around: &mut Surroundings<'_>,
        link: LinkId,
        batch: &mut Vec<Packet>,
    ) {
        let received = batch.len();
        let inlet = Inlet::of(link, &around.snapshot.routes);
        let bytes = self.glances.look(around.egress.umem(), inlet, batch);
        around.egress.stats().received.count(received as u64, bytes);
        let sought = &mut self.glances.sought[..received];
        if !self.flows.seek(sought) {
            let new = sought.iter().filter(|sought| sought.is_new());
            new.for_each(|sought| self.decisions.foresee(sought));
        }
        let mut packets = batch.drain(..);
        let mut at = 0;
        while at < received {
            let usual = at..at + self.judge_usual(around, inlet, at..received);
            self.glances.pass_on(around, usual.clone(), &mut packets);
            at = usual.end + 1;
            if let Some(packet) = packets.next() {
                self.run(around, link, packet, false);
            }
        }
    }

    /// Judges packets of a batch up to the first that is no usual one of an established plain flow.
    /// Counts those before it, and finds their ways. Returns how many they are.
    ///
    /// That a pod sends from its own address needs no look here: the flow's link is where the
    /// address belongs, by the routes of the epoch that the flow was judged under.
    #[inline(never)]
    fn judge_usual(
        &mut self,
        around: &Surroundings<'_>,
        inlet: Inlet,
        packets: Range<usize>,
    ) -> usize {
        let Glances { usual, sought, ways } = &mut self.glances;
        let seen = usual[packets.clone()].iter().zip(&sought[packets.clone()]);
        let (routes, epoch, now) = (&*around.snapshot.routes, around.snapshot.epoch, around.now);
        let (host, from_host) = (routes.host_link(), inlet.is_host);
        let finishes_checksums = around.egress.umem().finishes_checksums();
        let mut judged = 0;
        for ((usual, sought), way) in seen.zip(&mut ways[packets]) {
            let Some(usual) = usual else { break };
            let found = match self.flows.find_sought(sought) {
                Some(found) => Some(found),
                None => self.flows.find_again(sought),
            };
            let Some((flow, direction)) = found else { break };
            let to = flow.link(direction.reverse());
            let Some(next_hop) = routes.next_hop(to) else { break };
            let counts_hop = !from_host && host != Some(to);
            let ip_len = u32::from(usual.ip_len);
            let partial = checksum::is_pseudo_header(usual.checksum, flow.checksum, usual.l4_len());
            if flow.link(direction) != inlet.link
                || !flow.goes_on(direction, epoch)
                || ip_len > next_hop.mtu
                || counts_hop && usual.hop.ttl() <= 1
                || partial && !finishes_checksums
            {
                break;
            }
            flow.count(direction, ip_len, now);
            *way = Way { to, counts_hop, partial, hop: usual.hop };
            judged += 1;
        }
        judged
    }
}
