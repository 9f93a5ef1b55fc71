//! L7 policy: the rules of a flow, and the verdict on each of its requests.
//!
//! The inspector of the dataplane parses a request; [`L7Policy::decide`] evaluates it with the
//! rules of all entries that apply to the flow, and [`rules`] has their matchers. [`http1`] parses
//! HTTP/1 request heads, [`http2`] header lists of HTTP/2, [`dns`] DNS messages, [`kafka`] Kafka
//! requests, [`tls`] ClientHellos.

pub mod dns;
pub mod http1;
pub mod http2;
pub mod kafka;
mod names;
mod policy;
pub mod rules;
pub mod tls;

pub use http1::HttpRequest;
pub use names::{NameError, NamePattern};
pub use policy::{Conflict, L7Entry, L7Policy, L7Verdict};
pub use rules::{
    HeaderMatch, HttpRule, HttpRuleSpec, HttpRules, KafkaRequest, KafkaRule, KafkaRuleSpec,
    L7Protocol, L7Request, L7Rules, Mismatch, PatternBudget, RuleError, RuleField,
};
