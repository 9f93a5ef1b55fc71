//! Compiled policy: the tables that workers, `explain` and `replay` all look up.
//!
//! # How a flow is decided
//! An address resolves to an identity, which is a label set. The compiler gives each distinct peer
//! selector a number, and each identity carries the sorted list of those that match it, so asking
//! "does this entry match this peer" is one search in a short list. A new pod with known labels
//! therefore changes one address row and no rule; a new label set adds one identity row. Peers by
//! network or DNS name are numbers too; of sorted address ranges.
//!
//! Each identity has a table for egress and one for ingress. A table maps (protocol, port) to a
//! *port class*, the list of entries that can match there, in order of precedence:
//!
//! 1. lower [`Rank`] first: tier (Admin, Normal, Baseline), then priority and order in the tier;
//! 2. inside one rank, deny before allow;
//! 3. all allows of one rank together: if any of them that matches the peer has L7 rules, the flow
//!    is inspected and a request may pass by any of them (one without L7 rules passes all).
//!
//! `Pass` ends its tier. After the Normal tier comes the default deny, if some policy put the
//! identity into it; after Baseline, everything is allowed.
//!
//! A flow needs both the source's egress and the destination's ingress.

mod lookup;
mod rows;
mod tables;
#[cfg(test)]
pub(crate) mod tests;

pub use lookup::{NodeSource, Resolved, Subject};
pub use rows::{AddressMap, AddressSet, Covers, Rows};
pub use tables::{
    AddressRow, DirectionTable, Entry, IdentityRow, NamedPorts, Peer, PolicyTables, PortClasses,
    Rank, SelectorSet, Tier,
};

use std::sync::Arc;

use crate::ids::{DenySetId, Epoch, RuleId};
use crate::l7::L7Policy;
use crate::route::RouteTable;

/// What an entry does with a flow that it matches.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum Action {
    /// Refuse; before any allow of the same rank.
    Deny,
    /// Let the flow pass, or its requests that the entry's L7 rules allow.
    Allow,
    /// Leave this tier.
    Pass,
}

/// Why a flow that no policy judged is allowed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Exemption {
    /// The node may always reach its own pods (KEP-free text of `NetworkPolicy`:
    /// `staging/src/k8s.io/api/networking/v1/types.go`, "the traffic source is the pod's local
    /// node").
    FromNode,
    /// A pod may always reach its own node.
    ToNode,
    /// A pod may always reach itself.
    ToSelf,
    /// The other end is not a pod of this node: its side is judged on its own node.
    NotLocal,
}

/// What decided one direction of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Cause {
    /// No policy selects the endpoint in this direction.
    Unenforced,
    /// This rule allowed: the first of those that match.
    Allowed(RuleId),
    /// This rule denied.
    Denied(RuleId),
    /// This rule allows, but requests can't be held against it and another one that applies: they
    /// name different L7 protocols. So nothing passes.
    Conflicting(RuleId),
    /// These policies isolate the endpoint and no rule of theirs, or any other, matches.
    DefaultDeny(DenySetId),
    /// Not subject to policy.
    Exempt(Exemption),
}

impl Cause {
    /// Whether the direction is open.
    #[must_use]
    #[inline]
    pub const fn allows(self) -> bool {
        matches!(self, Self::Unenforced | Self::Allowed(_) | Self::Exempt(_))
    }
}

/// The outcome for a flow.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Verdict {
    /// Forward without looking further.
    Allow,
    /// Forward what the L7 inspector lets pass.
    Inspect,
    /// Drop silently.
    Deny,
}

/// A decided flow: the verdict and what decided it at each end.
#[derive(Clone, Debug)]
pub struct Decision {
    /// The outcome.
    pub verdict: Verdict,
    /// What decided at the source's egress.
    pub egress: Cause,
    /// What decided at the destination's ingress. When egress denies already, ingress is judged
    /// all the same, so that both causes are known.
    pub ingress: Cause,
    /// The rules that requests are held against when the verdict is [`Verdict::Inspect`].
    pub l7: L7Policy,
}

/// Everything a worker needs to decide and forward: immutable, published as one.
#[derive(Debug)]
pub struct Snapshot {
    /// Generation; stamps each flow's verdict.
    pub epoch: Epoch,
    /// Compiled policy.
    pub policy: Arc<PolicyTables>,
    /// Local endpoints and the host link.
    pub routes: Arc<RouteTable>,
}
