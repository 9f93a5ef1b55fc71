//! Flows saved when the agent stops and restored when it starts again.

use podgate_tables::ids::Epoch;
use podgate_tables::l7::L7Protocol;
use podgate_tables::policy::ProvenSender;
use podgate_tables::proto;
use podgate_tables::service::L4Addr;
use podgate_tables::time::Nanos;
use podgate_tables::tuple::Tuple;

use super::key::FlowKey;
use super::owner::Owner;
use super::{Flow, FlowLinks, Moment, NO_INSPECTOR, NO_TARGET, PICKED_UP, tcp};
use crate::packet::checksum::Sum;

/// A plain flow without references to its worker, the tables and the clock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SavedFlow {
    /// In the direction of the opener.
    pub tuple: Tuple,
    /// Links of its ends.
    pub links: FlowLinks,
    /// The service's address and port that the opener sends to, if the flow is translated.
    pub frontend: Option<L4Addr>,
    /// TCP's state; meaningless for other protocols.
    pub tcp: tcp::State,
    /// Whether it was opened by a TCP segment that was not a SYN.
    pub picked_up: bool,
    /// [`Flow::detached`].
    pub detached: Option<L7Protocol>,
    /// Who sent its first packet.
    pub sender: ProvenSender,
    /// Milliseconds since its last packet.
    pub idle_ms: u32,
    /// Packets from the opener and to it.
    pub packets: [u64; 2],
    /// Bytes of IP from the opener and to it.
    pub bytes: [u64; 2],
}

impl SavedFlow {
    /// Saves `flow`, whose target is `frontend`. `None` if it can't be saved: it is inspected,
    /// revoked or a translation, has timed out, or its connection is closed.
    #[must_use]
    pub fn of(flow: &Flow, frontend: Option<L4Addr>, now: Nanos) -> Option<Self> {
        let closed = matches!(flow.tcp, tcp::State::Closed | tcp::State::Reset(_));
        let is_plain = flow.inspector().is_none() && !flow.revoked() && !flow.is_translation();
        if !is_plain || flow.is_expired(now) || closed {
            return None;
        }
        Some(Self {
            tuple: flow.tuple(),
            links: flow.links(),
            frontend,
            tcp: flow.tcp,
            picked_up: flow.picked_up(),
            detached: flow.detached(),
            sender: flow.sender(),
            idle_ms: Moment::millis(Moment::from(now).since(flow.last_seen)),
            packets: flow.packets,
            bytes: flow.bytes,
        })
    }

    /// Type of the ICMP message that opened the flow; zero for other protocols. It stands for the
    /// responder's port.
    #[must_use]
    pub fn icmp_type(&self) -> u8 {
        if proto::is_icmp(self.tuple.protocol) { self.tuple.dst_port as u8 } else { 0 }
    }

    /// Restores the flow under the tables of `epoch`. `None` if it has timed out.
    #[must_use]
    pub fn restored(&self, epoch: Epoch, now: Nanos) -> Option<Flow> {
        let (key, opener_end) = FlowKey::of(&self.tuple);
        let idle = Moment::span_ms(self.idle_ms);
        let mut flow = Flow {
            inspector: NO_INSPECTOR,
            checked_at: now.into(),
            queue: 0,
            tcp: self.tcp,
            target: NO_TARGET,
            flags: if self.picked_up { PICKED_UP } else { 0 },
            owner: Owner::pod(self.links.opener),
            rules: [0; 2],
            // The previous agent has counted them.
            counted: self.bytes[0] + self.bytes[1],
            key,
            packets: self.packets,
            bytes: self.bytes,
            epoch: epoch.short(),
            last_seen: Moment::from(now).earlier(idle),
            links: self.links.by_direction(),
            checksum: Sum::of_flow(self.tuple.src, self.tuple.dst, self.tuple.protocol),
            fast_path: 0,
            opener_end,
        };
        flow.set_sender(self.sender);
        if let Some(protocol) = self.detached {
            flow.set_detached(protocol);
        }
        flow.refresh_fast_path();
        (!flow.is_expired(now)).then_some(flow)
    }
}
