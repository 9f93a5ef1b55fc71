//! L7 rules: what requests are held against once the inspector has read them.
//!
//! [`rules`] matches one parsed request; [`L7Policy`] has all the rules that apply to a flow;
//! [`http1`] reads request heads.

pub mod http1;
mod names;
mod policy;
pub mod rules;

pub use http1::Request;
pub use names::{NameError, NamePattern};
pub use policy::{Conflict, L7Entry, L7Policy};
pub use rules::{
    HttpRule, HttpRuleSpec, KafkaRequest, KafkaRule, KafkaRuleSpec, L7Protocol, L7Request, L7Rules,
    PatternBudget, RuleError, RuleField,
};
