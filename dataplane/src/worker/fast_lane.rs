//! (2) The way of nearly every packet: a usual one ([`Glance`]) of an established plain flow, with
//! nothing to do but what each hop does.
//!
//! All others take [`Pipeline::run`]. Whatever this lane does, that would do too, in five times the
//! time. Each step is done for a whole batch before the next, so that the waits for memory, of which
//! a packet has three (its headers, the flow's place in the index, the flow), overlap.

use crate::flow::Sought;
use crate::packet::checksum;
use crate::packet::glance::{self, Glance};
use crate::route::Outlet;
use crate::types::LinkId;
use crate::xsk::Packet;

use super::BATCH;
use super::pipeline::Pipeline;
use super::surroundings::Surroundings;

/// What was seen of the batch in work. Empty between batches, and kept for its memory.
#[derive(Debug, Default)]
pub(super) struct Glances {
    /// For each packet, `None` for one that is not usual.
    seen: Vec<Option<Glance>>,
    /// For each of the usual ones.
    sought: Vec<Sought>,
}

impl Glances {
    pub(super) fn new() -> Self {
        Self { seen: Vec::with_capacity(BATCH), sought: Vec::with_capacity(BATCH) }
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
        let umem = around.egress.umem();
        let touched = batch.iter().fold(0, |sum, packet| sum ^ umem.data(&packet.head)[0]);
        std::hint::black_box(touched);
        let Glances { mut seen, mut sought } = std::mem::take(&mut self.glances);
        let mut bytes = 0;
        for packet in batch.iter() {
            bytes += u64::from(packet.len());
            let glance = if packet.is_usual() { Glance::at(umem.data(&packet.head)) } else { None };
            if let Some(Glance { src, dst, src_port, dst_port, protocol, .. }) = glance {
                sought.push(self.flows.seek_v4([(src, src_port), (dst, dst_port)], protocol));
            }
            seen.push(glance);
        }
        around.egress.stats().received.count(batch.len() as u64, bytes);
        self.flows.fetch(&sought);
        let mut next = sought.iter();
        for (mut packet, glance) in batch.drain(..).zip(&seen) {
            let usual = glance.as_ref().zip(glance.and_then(|_| next.next()));
            let outlet = usual.and_then(|(glance, sought)| {
                self.pass_on(around, link, &mut packet, glance, sought)
            });
            match outlet {
                Some(outlet) => around.egress.transmit_usual(outlet, packet),
                None => self.run(around, link, packet, false),
            }
        }
        seen.clear();
        sought.clear();
        self.glances = Glances { seen, sought };
    }

    /// Counts a packet of an established plain flow and makes it ready to be sent. `None`, and
    /// nothing has changed, if it isn't one.
    ///
    /// That a pod sends from its own address needs no look here: the flow's link is where the
    /// address belongs, by the routes of the epoch that the flow was judged under.
    #[inline]
    fn pass_on<'s>(
        &mut self,
        around: &mut Surroundings<'s>,
        link: LinkId,
        packet: &mut Packet,
        glance: &Glance,
        sought: &Sought,
    ) -> Option<&'s Outlet> {
        let routes = &around.snapshot.routes;
        let (index, direction) = self.flows.find_sought(sought)?;
        let flow = self.flows.get_mut(index);
        let to = flow.link(direction.reverse());
        let (inlet, outlet) = (routes.outlet(link)?, routes.outlet(to)?);
        let [from_host, to_host] = [link, to].map(|link| routes.is_host(link));
        let counts_hop = !from_host && !to_host;
        let umem = around.egress.umem();
        let finishes = umem.finishes_checksums();
        let frame = umem.data_mut(&mut packet.head);
        let (partial, ip_len) = (
            checksum::is_pseudo_header(glance.checksum, flow.checksum, glance.l4_len.into()),
            u32::from(glance.ip_len),
        );
        if flow.link(direction) != link
            || !(from_host || Glance::eth_src(frame) == inlet.mac)
            || !flow.goes_on(direction, around.snapshot.epoch)
            || ip_len > outlet.mtu
            || counts_hop && glance.ttl <= 1
            || partial && !finishes
        {
            return None;
        }
        flow.count(direction, ip_len, around.now);
        glance::pass_on(frame, outlet.mac, outlet.link_mac, counts_hop);
        if partial {
            packet.unfinished = glance.unfinished();
        }
        Some(outlet)
    }
}
