//! Inline L7 inspection: no proxy, no second connection.
//!
//! [`follower`] follows the TCP stream of one flow in both directions, holds what is undecided and
//! releases or refuses it; [`http1`] is the protocol inspector that it asks, which sees bytes and
//! nothing of TCP; [`rules`] matches one parsed request; [`reply`] builds the packets that refuse.

pub mod follower;
pub mod http1;
pub mod io;
mod names;
pub mod reply;
pub mod rules;

use std::sync::Arc;

pub use names::NamePattern;
pub use rules::{HttpRule, HttpRuleSpec, L7Rules, Request, RuleError, RuleField};

use crate::policy::RuleId;

/// One allow that matched the flow at L4.
#[derive(Clone, Debug)]
pub struct L7Entry {
    /// The rule that allows.
    pub rule: RuleId,
    /// Requests must match one of these; `None` allows every request.
    pub rules: Option<Arc<L7Rules>>,
}

/// The rules that the requests of one flow are held against.
///
/// A request needs one entry of each direction that has any.
#[derive(Clone, Debug, Default)]
pub struct L7Policy {
    /// From the source's egress; empty is no restriction.
    pub egress: Vec<L7Entry>,
    /// From the destination's ingress; empty is no restriction.
    pub ingress: Vec<L7Entry>,
}

impl L7Policy {
    /// Whether nothing has to be inspected.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.egress.is_empty() && self.ingress.is_empty()
    }

    /// Holds a request against the rules. `Some` if it is allowed, with the rule that allows it at
    /// the destination, or else at the source.
    #[must_use]
    pub fn judge(&self, request: &Request<'_>) -> Option<Option<RuleId>> {
        let egress = judge(&self.egress, request)?;
        let ingress = judge(&self.ingress, request)?;
        Some(ingress.or(egress))
    }
}

fn judge(entries: &[L7Entry], request: &Request<'_>) -> Option<Option<RuleId>> {
    let allows = |entry: &&L7Entry| entry.rules.as_ref().is_none_or(|rules| rules.allows(request));
    match entries.iter().find(allows) {
        Some(entry) => Some(Some(entry.rule)),
        None => entries.is_empty().then_some(None),
    }
}
