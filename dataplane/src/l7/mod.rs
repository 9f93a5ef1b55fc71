//! Inline L7 inspection: no proxy, no second connection.
//!
//! [`follower`] follows the TCP stream of one flow in both directions, holds what is undecided and
//! releases or refuses it; [`http1`] is the protocol inspector that it asks, which sees bytes and
//! nothing of TCP; [`rules`] matches one parsed request, and [`L7Policy`] holds it against all
//! rules that apply to the flow; [`reply`] builds the packets that refuse.

pub mod follower;
mod heap;
pub mod http1;
pub mod io;
mod names;
mod policy;
pub mod reply;
pub mod rules;

pub use names::{NameError, NamePattern};
pub use policy::{Conflict, L7Entry, L7Policy};
pub use rules::{
    HttpRule, HttpRuleSpec, KafkaRequest, KafkaRule, KafkaRuleSpec, L7Protocol, L7Request, L7Rules,
    PatternBudget, Request, RuleError, RuleField,
};
