//! Notices that workers send to each other, over bounded rings.

use podgate_tables::ids::LinkId;
use podgate_tables::service::L4Addr;
use podgate_tables::tuple::Tuple;

use super::affinity::AffinityRecord;
use super::service_tuples::untranslated;

/// A notice from one worker to another.
#[derive(Clone, Copy, Debug)]
pub(super) enum Notice {
    /// A client's backend.
    Affinity(AffinityRecord),
    /// The state of a flow, for its translation.
    Flow(FlowNotice),
    /// Asks for the state of a flow, for a translation that was created again while the flow
    /// continued.
    Request(FlowNotice),
}

impl Notice {
    /// The link whose packets are the reason, for its share of the ring.
    pub(super) const fn link(&self) -> LinkId {
        match self {
            Self::Affinity(record) => record.link,
            Self::Flow(notice) | Self::Request(notice) => notice.link,
        }
    }
}

/// Notifies the translation of a flow whether the other end has answered and the flow is open.
#[derive(Clone, Copy, Debug)]
pub(super) struct FlowNotice {
    /// The link of the flow's opener.
    pub(super) link: LinkId,
    /// The flow's tuple, in the direction of its opener.
    pub(super) tuple: Tuple,
    /// The service's address and port.
    pub(super) frontend: L4Addr,
    /// [`Flow::confirms`](crate::flow::Flow::confirms).
    pub(super) confirmed: bool,
}

impl FlowNotice {
    /// The tuple of the flow's translation.
    pub(super) fn translation(&self) -> Tuple {
        untranslated(&self.tuple, self.frontend)
    }
}
