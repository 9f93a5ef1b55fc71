//! The normal form that every kind of policy is lowered to. The compiler knows no other.

mod ports;
mod traffic_direction;

use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;
use podgate_tables::l7::{L7Rules, NamePattern};
pub use podgate_tables::policy::AddressScope;
use podgate_tables::policy::{Action, Tier};

pub use self::ports::{PortMatch, PortNumbers};
pub use self::traffic_direction::{PerDirection, TrafficDirection};
use crate::selector::Selector;

/// The endpoints that a policy selects, and the rules that apply to them. A policy has one or more
/// rule sets.
#[derive(Clone, PartialEq, Debug)]
pub struct RuleSet {
    /// Selects the endpoints. Only pods are endpoints, whatever the selector says.
    pub endpoint_selector: Selector,
    /// Whether flows that no rule allows are denied.
    pub default_deny: PerDirection<bool>,
    /// The rules, in the order of the document.
    pub rules: Vec<Rule>,
}

impl RuleSet {
    /// Whether the set has any effect in this direction of an endpoint.
    #[must_use]
    pub fn applies(&self, direction: TrafficDirection) -> bool {
        self.default_deny[direction] || self.rules.iter().any(|rule| rule.direction == direction)
    }
}

/// The precedence of a rule over others; lower wins.
///
/// Rules of one precedence are merged: deny comes before allow, and L7 rules are combined. In the
/// Normal tier all rules have one precedence. In the other tiers each rule has its own: where
/// priorities are equal, the names of the policies decide (the API leaves that open), and inside a
/// policy the order of its rules.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct Precedence {
    /// Tier.
    pub tier: Tier,
    /// Priority in the tier; zero in the Normal tier.
    pub priority: u16,
}

impl Precedence {
    /// The one precedence of the Normal tier.
    pub const NORMAL: Self = Self { tier: Tier::Normal, priority: 0 };
}

/// One rule.
#[derive(Clone, PartialEq, Debug)]
pub struct Rule {
    /// Whether it applies to egress or ingress of the selected endpoints.
    pub direction: TrafficDirection,
    /// Precedence. Rules of one policy with equal precedence are in the order of the document.
    pub precedence: Precedence,
    /// What happens to flows that match.
    pub action: Action,
    /// Path of the rule in its object, such as `spec.ingress[0]`.
    pub field: String,
    /// Peers that match; `None` is any peer, and an empty list no peer.
    pub peers: Option<Vec<PeerSelector>>,
    /// Ports that match; `None` is every port of every protocol.
    pub ports: Option<Vec<RulePorts>>,
}

/// Ports, and the L7 rules that requests on them must match.
#[derive(Clone, PartialEq, Debug)]
pub struct RulePorts {
    /// The ports.
    pub ports: PortMatch,
    /// `None` is no restriction.
    pub l7: Option<Arc<L7Rules>>,
}

/// Selects the other end of a flow. Lists of these are sorted, without duplicates.
#[derive(Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum PeerSelector {
    /// Pods and reserved identities, by labels.
    Labels(Selector),
    /// Addresses.
    Network(NetworkPeer),
    /// Addresses that a DNS name was seen to resolve to, except those of pods and nodes.
    Name(NamePattern),
}

/// Addresses of one network.
#[derive(Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct NetworkPeer {
    /// The network.
    pub network: IpNet,
    /// Networks within it that are left out; sorted.
    pub except: Vec<IpNet>,
    /// The kinds of addresses that match.
    pub scope: AddressScope,
}

/// The selector, the network, or the name, as policies write them.
impl fmt::Display for PeerSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Labels(selector) => selector.fmt(f),
            Self::Network(network) => network.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// `10.0.0.0/8 except 10.1.0.0/16,10.2.0.0/16`.
impl fmt::Display for NetworkPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.network.fmt(f)?;
        for (index, except) in self.except.iter().enumerate() {
            let lead = if index == 0 { " except " } else { "," };
            write!(f, "{lead}{except}")?;
        }
        Ok(())
    }
}
