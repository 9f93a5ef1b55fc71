//! (2) The way of nearly every packet: a usual one ([`Glance`]) of an established plain flow, with
//! nothing to do but what each hop does.
//!
//! All others take [`Pipeline::run`]. Whatever this lane does, that would do too, in many times the
//! time. Each step is done for a whole batch before the next, so that the waits for memory, of which
//! a packet has three (its headers, the flow's place in the index, the flow), overlap.

use crate::flow::Sought;
use crate::packet::checksum;
use crate::packet::glance::{Glance, Hop};
use crate::route::{Outlet, RouteTable};
use crate::types::{LinkId, Mac};
use crate::xsk::{Frame, Packet, Umem, Unfinished};

use super::BATCH;
use super::egress::Origin;
use super::pipeline::Pipeline;
use super::surroundings::Surroundings;

/// How many packets ahead the next header is fetched. Frames lie a page apart, so their headers share
/// a few places of the first cache: not many more fit.
const AHEAD: usize = 6;

/// What was seen of each packet of a batch. Kept for its memory.
#[derive(Debug, Default)]
pub(super) struct Glances {
    /// Without meaning for packets that are not usual.
    hops: Vec<Hop>,
    /// For those nothing.
    sought: Vec<Sought>,
}

impl Glances {
    pub(super) fn new() -> Self {
        Self { hops: vec![Hop::default(); BATCH], sought: vec![Sought::default(); BATCH] }
    }

    /// Looks at a batch. Returns its bytes.
    #[inline(never)]
    fn look(&mut self, umem: &Umem, inlet: Inlet, batch: &[Packet]) -> u64 {
        batch.iter().take(AHEAD).for_each(|packet| umem.prefetch(&packet.head));
        let mut bytes = 0;
        let places = self.hops.iter_mut().zip(&mut self.sought);
        for ((at, packet), (place, sought)) in batch.iter().enumerate().zip(places) {
            if let Some(later) = batch.get(at + AHEAD) {
                umem.prefetch(&later.head);
            }
            bytes += u64::from(packet.len());
            match inlet.glance(packet, umem.data(&packet.head)) {
                Some(Glance { ends, hop }) => {
                    sought.be_v4(ends, hop.protocol);
                    *place = hop;
                }
                None => sought.be_nothing(),
            }
        }
        bytes
    }
}

/// Where a batch comes from.
#[derive(Clone, Copy)]
struct Inlet {
    link: LinkId,
    /// The kernel stack, and not a pod.
    is_host: bool,
    /// MAC at the far end.
    mac: Mac,
}

impl Inlet {
    fn of(link: LinkId, routes: &RouteTable) -> Option<Self> {
        let mac = routes.outlet(link)?.mac;
        Some(Self { link, is_host: routes.is_host(link), mac })
    }

    /// What a packet is, if it is a usual one of who sends here.
    #[inline]
    fn glance(&self, packet: &Packet, frame: &[u8]) -> Option<Glance> {
        let glance = if packet.is_usual() { Glance::at(frame) } else { None };
        glance.filter(|_| self.is_host || Glance::eth_src(frame) == self.mac)
    }
}

impl Pipeline {
    /// Packets that came in by `link`, no more than [`BATCH`].
    pub(super) fn process(
        &mut self,
        around: &mut Surroundings<'_>,
        link: LinkId,
        batch: &mut Vec<Packet>,
    ) {
        let received = batch.len();
        let Some(inlet) = Inlet::of(link, &around.snapshot.routes) else {
            let bytes = batch.iter().map(|packet| u64::from(packet.len())).sum();
            around.egress.stats().received.count(received as u64, bytes);
            batch.drain(..).for_each(|packet| self.run(around, link, packet, false));
            return;
        };
        let bytes = self.glances.look(around.egress.umem(), inlet, batch);
        around.egress.stats().received.count(received as u64, bytes);
        self.flows.seek(&mut self.glances.sought[..received]);
        let (mut forwarded, mut forwarded_bytes) = (0, 0);
        let glances = std::mem::take(&mut self.glances);
        let places = glances.hops.iter().zip(&glances.sought);
        for (mut packet, (hop, sought)) in batch.drain(..).zip(places) {
            let passed = self.pass_on(around, inlet, &mut packet.head, hop, sought);
            let Some((outlet, unfinished)) = passed else {
                self.run(around, link, packet, false);
                continue;
            };
            let Packet { head, tail, largest_fragment, .. } = packet;
            let len = u64::from(head.len());
            match around.egress.transmit_usual(outlet, head, unfinished) {
                Ok(()) => {
                    forwarded += 1;
                    forwarded_bytes += len;
                }
                Err(head) => {
                    let packet = Packet { head, tail, largest_fragment, unfinished };
                    around.egress.transmit(outlet, packet, Origin::Received);
                }
            }
        }
        self.glances = glances;
        around.egress.stats().forwarded.count(forwarded, forwarded_bytes);
    }

    /// Counts a packet of an established plain flow and makes its frame ready to be sent. `None`,
    /// and nothing has changed, if it isn't one.
    ///
    /// That a pod sends from its own address needs no look here: the flow's link is where the
    /// address belongs, by the routes of the epoch that the flow was judged under.
    #[inline]
    fn pass_on<'s>(
        &mut self,
        around: &Surroundings<'s>,
        inlet: Inlet,
        frame: &mut Frame,
        hop: &Hop,
        sought: &Sought,
    ) -> Option<(&'s Outlet, Unfinished)> {
        let routes = &around.snapshot.routes;
        let (flow, direction) = self.flows.find_sought(sought)?;
        let to = flow.link(direction.reverse());
        let outlet = routes.outlet(to)?;
        let counts_hop = !inlet.is_host && !routes.is_host(to);
        let ip_len = u32::from(hop.ip_len);
        let umem = around.egress.umem();
        let l4_len = hop.l4_len().into();
        let partial = checksum::is_pseudo_header(hop.checksum, flow.checksum, l4_len);
        if flow.link(direction) != inlet.link
            || !flow.goes_on(direction, around.snapshot.epoch)
            || ip_len > outlet.mtu
            || counts_hop && hop.ttl <= 1
            || partial && !umem.finishes_checksums()
        {
            return None;
        }
        flow.count(direction, ip_len, around.now);
        hop.pass_on(umem.data_mut(frame), outlet.mac, outlet.link_mac, counts_hop);
        Some((outlet, if partial { hop.unfinished() } else { Unfinished::NONE }))
    }
}
