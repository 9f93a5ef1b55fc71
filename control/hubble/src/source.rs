//! Where flows come from: the agent's log of flow records.

use std::sync::Arc;

use jiff::Timestamp;
use podgate_api::FlowItem;
use tokio::sync::broadcast;

/// An item of the log.
#[derive(Clone, PartialEq, Debug)]
pub struct Observed {
    /// Its number in the log; no other item has it.
    pub number: u64,
    /// When it happened; of a gap, when it was noticed.
    pub time: Timestamp,
    /// A record, or a gap.
    pub item: FlowItem,
}

/// Counters of the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Records that the log has.
    pub stored: u64,
    /// Most records that it can have.
    pub capacity: u64,
    /// Records since the start.
    pub seen: u64,
}

/// The log of flow records.
pub trait FlowSource: Send + Sync + 'static {
    /// What the log has, oldest first.
    fn past(&self) -> Vec<Arc<Observed>>;

    /// What comes from here on.
    fn live(&self) -> broadcast::Receiver<Arc<Observed>>;

    /// What the log has, and everything after it.
    fn follow(&self) -> (Vec<Arc<Observed>>, broadcast::Receiver<Arc<Observed>>);

    /// Counters.
    fn counts(&self) -> Counts;
}
