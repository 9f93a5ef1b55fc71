//! What the agent sends of flows.

use podgate_policy::observe::FlowRecord;
use serde::{Deserialize, Serialize};

/// One item of the answer to [`Request::Flows`](crate::Request::Flows).
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum FlowItem {
    /// A record.
    Flow(Box<FlowRecord>),
    /// This many records were lost here: the client or the agent was too slow.
    Lost(u64),
}
