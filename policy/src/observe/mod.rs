//! Flow records: what workers report, with the names of pods, policies and rules.
//!
//! A worker's [`Event`](podgate_tables::event::Event) carries numbers. [`FlowRecord::new`] resolves
//! them to names by the tables that were in force. A record is printed as JSON by serde. Its fields
//! map one to one to Hubble's `Flow` (cilium `api/v1/flow/flow.proto`), except that one record has
//! the verdicts of both directions where Hubble sends two flows.
//!
//! | module | topic |
//! |---|---|
//! | `record` | the record's types and their JSON |
//! | `cause` | what decided a flow, in words |
//! | `matches` | what was matched, without names: to count events |
//! | `names` | names of policies and rules |
//! | `resolve` | from an event to a record |
//! | `text` | a record in words |

mod cause;
mod matches;
mod names;
mod record;
mod resolve;
#[cfg(test)]
mod tests;
mod text;

pub use cause::{cause_words, rule_name};
pub use matches::{PolicyMatch, policy_matches, request_direction};
pub use names::{PolicyName, RuleName};
pub use record::{
    DecidedBy, Detail, DirectionVerdict, DroppedFrame, FlowEndpoint, FlowRecord, FlowService,
    HttpProtocol, HttpTarget, MatchType, Outcome, Restriction,
};
pub(crate) use resolve::NameResolver;
pub use resolve::outcome;
pub use text::http_url;
