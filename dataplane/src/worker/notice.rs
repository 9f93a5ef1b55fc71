//! What workers tell each other, in bounded rings.

use podgate_tables::ids::LinkId;
use podgate_tables::service::L4Addr;
use podgate_tables::tuple::Tuple;

use super::affinity::AffinityRecord;

/// What one worker tells another.
#[derive(Clone, Copy, Debug)]
pub(super) enum Notice {
    /// A client's backend.
    Affinity(AffinityRecord),
    /// What a translation is to know of its flow.
    Flow(FlowNotice),
}

impl Notice {
    /// The link whose packets are the reason, for its share of the ring.
    pub(super) const fn link(&self) -> LinkId {
        match self {
            Self::Affinity(record) => record.link,
            Self::Flow(notice) => notice.link,
        }
    }
}

/// Whether the other end of a flow to a service has answered, and the flow is open.
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
