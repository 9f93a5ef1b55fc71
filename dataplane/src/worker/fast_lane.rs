//! (2) The way of nearly every packet: a usual one ([`Glance`]) of an established plain flow, with
//! nothing to do but what each hop does.
//!
//! All others take [`Pipeline::run`]. Whatever this lane does, that would do too, in five times the
//! time. Each step is done for a whole batch before the next, so that the waits for memory, of which
//! a packet has three (its headers, the flow's place in the index, the flow), overlap.

use crate::flow::Sought;
use crate::packet::checksum;
use crate::packet::glance::Glance;
use crate::route::{Outlet, RouteTable};
use crate::types::{LinkId, Mac};
use crate::xsk::{Frame, Packet, Umem, Unfinished};

use super::BATCH;
use super::egress::Origin;
use super::pipeline::Pipeline;
use super::surroundings::Surroundings;

/// What was seen of the batch in work, or of the last one: kept for its memory.
#[derive(Debug)]
pub(super) struct Glances {
    /// For each packet, `None` for one that is not usual.
    seen: Vec<Option<Glance>>,
    /// Each of the usual ones.
    sought: Sought,
}

impl Glances {
    pub(super) fn new() -> Self {
        Self { seen: Vec::with_capacity(BATCH), sought: Sought::with_capacity(BATCH) }
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
}

/// How many packets ahead the next header is fetched. Frames lie a page apart, so their headers share
/// a few places of the first cache: not many more fit.
const AHEAD: usize = 6;

impl Glances {
    /// Looks at all packets of a batch. Returns their bytes.
    #[inline(never)]
    fn look(&mut self, umem: &Umem, inlet: Option<Inlet>, batch: &[Packet]) -> u64 {
        self.seen.clear();
        self.sought.clear();
        batch.iter().take(AHEAD).for_each(|packet| umem.prefetch(&packet.head));
        let mut bytes = 0;
        for (at, packet) in batch.iter().enumerate() {
            if let Some(later) = batch.get(at + AHEAD) {
                umem.prefetch(&later.head);
            }
            bytes += u64::from(packet.len());
            let glance = inlet.filter(|_| packet.is_usual()).and_then(|inlet| {
                let frame = umem.data(&packet.head);
                Glance::at(frame).filter(|_| inlet.is_host || Glance::eth_src(frame) == inlet.mac)
            });
            if let Some(Glance { src, dst, src_port, dst_port, protocol, .. }) = glance {
                self.sought.add_v4([(src, src_port), (dst, dst_port)], protocol);
            }
            self.seen.push(glance);
        }
        bytes
    }
}

impl Pipeline {
    /// Packets that came in by `link`.
    pub(super) fn process(
        &mut self,
        around: &mut Surroundings<'_>,
        link: LinkId,
        batch: &mut Vec<Packet>,
    ) {
        let inlet = Inlet::of(link, &around.snapshot.routes);
        let bytes = self.glances.look(around.egress.umem(), inlet, batch);
        around.egress.stats().received.count(batch.len() as u64, bytes);
        self.flows.seek(&mut self.glances.sought);
        let (mut usual, mut forwarded, mut forwarded_bytes) = (0, 0, 0);
        for (at, mut packet) in batch.drain(..).enumerate() {
            let mut passed = None;
            if let (Some(glance), Some(inlet)) = (self.glances.seen[at], inlet) {
                passed = self.pass_on(around, inlet, &mut packet.head, &glance, usual);
                usual += 1;
            }
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
        around.egress.stats().forwarded.count(forwarded, forwarded_bytes);
    }

    /// Counts a packet of an established plain flow and makes its frame ready to be sent. `None`,
    /// and nothing has changed, if it isn't one. It is number `at` of the usual ones in the batch.
    ///
    /// That a pod sends from its own address needs no look here: the flow's link is where the
    /// address belongs, by the routes of the epoch that the flow was judged under.
    #[inline]
    fn pass_on<'s>(
        &mut self,
        around: &Surroundings<'s>,
        inlet: Inlet,
        frame: &mut Frame,
        glance: &Glance,
        at: usize,
    ) -> Option<(&'s Outlet, Unfinished)> {
        let routes = &around.snapshot.routes;
        let (flow, direction) = self.flows.find_sought(&self.glances.sought, at)?;
        let to = flow.link(direction.reverse());
        let outlet = routes.outlet(to)?;
        let counts_hop = !inlet.is_host && !routes.is_host(to);
        let ip_len = u32::from(glance.ip_len);
        let umem = around.egress.umem();
        let l4_len = glance.l4_len().into();
        let partial = checksum::is_pseudo_header(glance.checksum, flow.checksum, l4_len);
        if flow.link(direction) != inlet.link
            || !flow.goes_on(direction, around.snapshot.epoch)
            || ip_len > outlet.mtu
            || counts_hop && glance.ttl <= 1
            || partial && !umem.finishes_checksums()
        {
            return None;
        }
        flow.count(direction, ip_len, around.now);
        glance.pass_on(umem.data_mut(frame), outlet.mac, outlet.link_mac, counts_hop);
        Some((outlet, if partial { glance.unfinished() } else { Unfinished::NONE }))
    }
}
