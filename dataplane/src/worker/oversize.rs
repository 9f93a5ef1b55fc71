//! What a router does beyond forwarding: packets that don't fit their way on, or have made all
//! their hops, and the ICMP errors about them.

use podgate_tables::drop_reason::DropReason;
use podgate_tables::ids::LinkId;
use podgate_tables::route::NextHop;

use crate::packet::cut::Cut;
use crate::packet::icmp_error::{self, Complaint};
use crate::packet::{View, edit};
use crate::xsk::{FRAME_HEADROOM, Packet};

use super::egress::Origin;
use super::surroundings::Surroundings;

/// What every IPv4 host takes (RFC 791 §3.1) and what every IPv6 link carries (RFC 8200 §5): what
/// came in smaller fragments need not leave in such.
const SIZE_MIN: [u32; 2] = [576, 1280];

/// How a packet leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    Whole,
    /// In fragments of at most so many bytes.
    Cut(u32),
    /// Not at all.
    TooBig,
}

/// What came in fragments leaves in fragments that are not larger, as a router's would be. What
/// came whole is cut only if its sender allows it.
fn way(view: &View, next_hop: &NextHop, largest_fragment: u16, may_cut: bool) -> Way {
    let came = u32::from(largest_fragment);
    let size = match came {
        0 => next_hop.mtu,
        came => came.max(SIZE_MIN[usize::from(!view.is_v4())]).min(next_hop.mtu),
    };
    match view.ip_len() <= size {
        true => Way::Whole,
        // Its sender knew of a way that takes this.
        false if came > 0 && came <= next_hop.mtu => Way::Cut(size),
        false if view.is_v4() && may_cut => Way::Cut(size),
        false => Way::TooBig,
    }
}

impl Surroundings<'_> {
    /// (5) Sends on a packet that came in fragments, or is larger than `next_hop` takes.
    #[cold]
    pub(super) fn forward_large(
        &mut self,
        from: LinkId,
        next_hop: &NextHop,
        mut packet: Packet,
        view: &View,
        origin: Origin,
    ) {
        let may_cut = {
            let head = self.egress.umem().data(&packet.head);
            view.is_v4() && !edit::dont_fragment(head, view)
        };
        let way = way(view, next_hop, packet.largest_fragment, may_cut);
        if way == Way::TooBig {
            if origin == Origin::Received {
                self.complain(from, &mut packet, view, Complaint::TooBig(next_hop.mtu));
            }
            return self.egress.discard(packet, DropReason::TooBig);
        }
        let Some(packet) = self.make_ready(from, next_hop, packet, view, origin, true) else {
            return;
        };
        match way {
            Way::Cut(size) => self.transmit_cut(next_hop, packet, view, size, origin),
            _ => self.egress.transmit(next_hop, packet, origin),
        }
    }

    fn transmit_cut(
        &mut self,
        next_hop: &NextHop,
        packet: Packet,
        view: &View,
        size: u32,
        origin: Origin,
    ) {
        let mut cut = match Cut::new(self.egress.umem(), &packet, view, size) {
            Ok(cut) => cut,
            Err(reason) => return self.egress.discard(packet, reason),
        };
        let mut made = 0;
        loop {
            let (umem, pool) = self.egress.frames();
            match cut.next(umem, pool) {
                Some(Ok(fragment)) => {
                    made += 1;
                    self.egress.transmit(next_hop, fragment, origin);
                }
                Some(Err(reason)) => {
                    self.egress.stats().fragments_made.add(made);
                    return self.egress.discard(packet, reason);
                }
                None => break,
            }
        }
        // The packet itself counts as its last fragment.
        self.egress.stats().fragments_made.add(made - 1);
        self.egress.free_packet(packet);
    }

    /// Tells the sender of a packet what is wrong with it, if that is allowed and within its
    /// link's budget.
    ///
    /// The error comes from the node's own address; for the kernel, which would not believe that,
    /// from the address that the packet was for.
    pub(super) fn complain(
        &mut self,
        from: LinkId,
        packet: &mut Packet,
        view: &View,
        complaint: Complaint,
    ) {
        let routes = &self.snapshot.routes;
        let Some(next_hop) = routes.next_hop(from) else { return };
        if !icmp_error::may_be_about(view) || !self.egress.may_complain(from, self.now) {
            return;
        }
        // Who gets the quote may hold it against what was sent.
        if edit::complete_checksum(self.egress.umem(), packet, view) {
            self.egress.stats().checksums_completed.add(1);
        }
        let source = match routes.is_host(from) {
            false => routes.node().for_peer(view.tuple.src).unwrap_or(view.tuple.dst),
            true => view.tuple.dst,
        };
        let Some(mut frame) = self.egress.alloc() else { return };
        frame.set_extent(FRAME_HEADROOM, icmp_error::FRAME_MAX as u32);
        let umem = self.egress.umem();
        let quoted = umem.data(&packet.head);
        let len = icmp_error::write(umem.data_mut(&mut frame), complaint, source, view, quoted);
        frame.set_len(len as u32);
        self.egress.transmit(next_hop, Packet::single(frame), Origin::Own);
    }
}
