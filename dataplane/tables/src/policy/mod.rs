//! Compiled policy: the tables that workers, `explain` and `replay` look up.
//!
//! # How a lookup goes
//! 1. **Address to identity.** [`PolicyTables::addresses`] maps an address of a pod or node to an
//!    identity: a set of labels, or a reserved one for nodes. All other addresses have one of the
//!    two `world` identities.
//! 2. **Rule table.** The source's identity has a [`RuleTable`] for egress, the destination's has
//!    one for ingress. Both must allow the flow.
//! 3. **Port class.** A rule table maps (protocol, port) to a list of entries, sorted by
//!    precedence.
//! 4. **Entry.** The first entry that matches the peer decides. Entries with a lower [`Rank`] come
//!    first: tier (Admin, Normal, Baseline), then order within the tier. Within one rank, deny
//!    comes before allow.
//!
//! [`Action::Pass`] skips the rest of its tier. After the Normal tier comes the default deny, if a
//! policy isolates the identity; after the Baseline tier the flow is allowed.
//!
//! If an allow entry matches, all matching allow entries of its rank apply together. If one of them
//! has L7 rules, the flow is inspected, and a request is allowed if any of the entries allows it
//! (an entry without L7 rules allows every request).
//!
//! # How peers are matched
//! The compiler numbers each distinct peer selector, and an identity row has the sorted numbers of
//! the selectors that match its labels. Whether an entry matches a peer is therefore a binary
//! search in a short list. A new pod with known labels changes one address row and no rule; a new
//! set of labels adds one identity row. Networks and DNS names are numbered, too: as sets of
//! address ranges.

mod lookup;
mod rows;
mod tables;
#[cfg(test)]
pub(crate) mod tests;

pub use lookup::{LocalEnds, ProvenSender, Resolved, Subject};
pub use rows::{AddressMap, AddressScope, AddressSet, Rows};
pub use tables::{
    AddressRow, Entry, IdentityRow, NamedPorts, PeerMatch, PolicyTables, PortClasses, Rank,
    RuleTable, SelectorSet, Tier,
};

use std::sync::Arc;

use crate::ids::{DenySetId, Epoch, RuleId};
use crate::l7::L7Policy;
use crate::route::RouteTable;

/// What an entry does with a flow that it matches.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum Action {
    /// Deny the flow; before any allow of the same rank.
    Deny,
    /// Allow the flow, or those of its requests that the entry's L7 rules allow.
    Allow,
    /// Skip the rest of the tier.
    Pass,
}

/// Why a flow is allowed without a policy lookup.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Exemption {
    /// The node may always reach its own pods (Kubernetes
    /// `staging/src/k8s.io/api/networking/v1/types.go`, "the traffic source is the pod's local
    /// node").
    FromNode,
    /// A pod may always reach its own node, but for what may be a service's address and port.
    ToNode,
    /// A pod may always reach itself, also through a service whose source address is translated
    /// ([`ProvenSender::Destination`]).
    ToSelf,
    /// This end is not a pod of this node: its policy is enforced on its own node.
    NotLocal,
}

/// What decided a flow at one end: the source's egress, or the destination's ingress.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Cause {
    /// No policy selects the endpoint in this direction, so the flow is allowed.
    Unenforced,
    /// This rule allowed the flow: the first that matches.
    Allowed(RuleId),
    /// This rule denied the flow.
    Denied(RuleId),
    /// This rule and another one that applies have L7 rules of different protocols. No flow can
    /// speak both, so the flow is denied.
    Conflicting(RuleId),
    /// These policies isolate the endpoint, and no rule matches.
    DefaultDeny(DenySetId),
    /// Not subject to policy.
    Exempt(Exemption),
}

impl Cause {
    /// Whether this end allows the flow.
    #[must_use]
    #[inline]
    pub const fn allows(self) -> bool {
        matches!(self, Self::Unenforced | Self::Allowed(_) | Self::Exempt(_))
    }
}

/// The verdict on a flow.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Verdict {
    /// Forward without inspection.
    Allow,
    /// Forward what the L7 inspector allows.
    Inspect,
    /// Drop without a response.
    Deny,
}

/// A verdict, and what decided it at each end.
#[derive(Clone, Debug)]
pub struct Decision {
    /// The verdict.
    pub verdict: Verdict,
    /// What decided the source's egress.
    pub egress: Cause,
    /// What decided the destination's ingress. It is looked up even if egress denies the flow, so
    /// that both causes are known.
    pub ingress: Cause,
    /// The L7 rules that requests must match if the verdict is [`Verdict::Inspect`].
    pub l7: L7Policy,
}

/// All that a worker needs to decide and forward packets: immutable, and published as a whole.
#[derive(Debug)]
pub struct Snapshot {
    /// Epoch. Each flow stores the epoch of its verdict.
    pub epoch: Epoch,
    /// Compiled policy.
    pub policy: Arc<PolicyTables>,
    /// Local endpoints and the host link.
    pub routes: Arc<RouteTable>,
}
