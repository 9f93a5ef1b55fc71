//! Flows that outlive their worker: what is known of one when the agent stops, and the flow again
//! when it has started anew.

use podgate_tables::ids::{Epoch, LinkId};
use podgate_tables::policy::NodeSource;
use podgate_tables::time::Nanos;
use podgate_tables::tuple::Tuple;

use super::name::Name;
use super::owner::Owner;
use super::{Flow, Moment, NO_INSPECTOR, PICKED_UP, tcp};
use crate::packet::checksum::Sum;

/// A plain flow, independent of its worker, of the tables and of the clock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SavedFlow {
    /// In the direction of the opener.
    pub tuple: Tuple,
    /// Links of the opener and of the other end.
    pub links: [LinkId; 2],
    /// Type of the ICMP message that opened the flow; zero for other protocols.
    pub icmp_type: u8,
    /// TCP's state; without meaning for other protocols.
    pub tcp: tcp::State,
    /// Whether the flow began with a TCP segment that was no SYN.
    pub picked_up: bool,
    /// Who sent its first packet, if the opener's address is this node's.
    pub node_source: NodeSource,
    /// Milliseconds since its last packet.
    pub idle_ms: u32,
    /// Packets from the opener and to it.
    pub packets: [u64; 2],
    /// Bytes of IP from the opener and to it.
    pub bytes: [u64; 2],
}

impl SavedFlow {
    /// What is to be remembered of `flow`. `None` for one that ends with its worker: it is
    /// inspected or revoked, its time is over, or its connection is.
    #[must_use]
    pub fn of(flow: &Flow, now: Nanos) -> Option<Self> {
        let over = matches!(flow.tcp, tcp::State::Closed | tcp::State::Reset(_));
        if flow.inspector().is_some() || flow.revoked() || flow.is_expired(now) || over {
            return None;
        }
        Some(Self {
            tuple: flow.tuple(),
            links: flow.links,
            icmp_type: flow.icmp_type,
            tcp: flow.tcp,
            picked_up: flow.picked_up(),
            node_source: flow.node_source(),
            idle_ms: Moment::millis(Moment::from(now).since(flow.last_seen)),
            packets: flow.packets,
            bytes: flow.bytes,
        })
    }

    /// The flow again, under the tables of `epoch`. `None` if its time is over.
    #[must_use]
    pub fn restored(&self, epoch: Epoch, now: Nanos) -> Option<Flow> {
        let (name, opener_second) = Name::of(&self.tuple);
        let idle = Moment::span_ms(self.idle_ms);
        let mut flow = Flow {
            inspector: NO_INSPECTOR,
            looked_at: now.into(),
            queue: 0,
            protocol: self.tuple.protocol,
            icmp_type: self.icmp_type,
            tcp: self.tcp,
            marks: if self.picked_up { PICKED_UP } else { 0 },
            owner: Owner::pod(self.links[0]),
            name,
            packets: self.packets,
            bytes: self.bytes,
            epoch,
            last_seen: Moment::from(now).earlier(idle),
            links: self.links,
            checksum: Sum::of_flow(self.tuple.src, self.tuple.dst, self.tuple.protocol),
            goes_on: 0,
            opener_second,
        };
        flow.set_node_source(self.node_source);
        flow.settle();
        (!flow.is_expired(now)).then_some(flow)
    }
}
