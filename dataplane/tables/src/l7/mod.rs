//! L7 policy: the rules of a flow, and the verdict on each of its requests.
//!
//! The inspector of the dataplane parses a request; [`L7Policy::decide`] evaluates it with the
//! rules of all entries that apply to the flow, and [`rules`] has their matchers. [`http1`] parses
//! HTTP/1 request heads, [`dns`] parses DNS messages.

pub mod dns;
pub mod http1;
mod names;
mod policy;
pub mod rules;

pub use http1::Request;
pub use names::{NameError, NamePattern};
pub use policy::{Conflict, L7Entry, L7Policy, L7Verdict};
pub use rules::{
    HttpRule, HttpRuleSpec, KafkaRequest, KafkaRule, KafkaRuleSpec, L7Protocol, L7Request, L7Rules,
    PatternBudget, RuleError, RuleField,
};
