//! The normal form: what every kind of policy is lowered to, and all that the compiler knows.

use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;
use podgate_tables::l7::{L7Rules, NamePattern};
pub use podgate_tables::policy::AddressScope;
use podgate_tables::policy::{Action, Tier};

use crate::model::PortMatch;
use crate::selector::Selector;

/// Which flows of a selected endpoint a rule is about.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum Side {
    /// Flows that it opens.
    Egress,
    /// Flows that are opened to it.
    Ingress,
}

impl Side {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Egress, Self::Ingress];
}

/// Who is selected, and what applies to them. A policy has one or more.
#[derive(Clone, PartialEq, Debug)]
pub struct RuleSet {
    /// The endpoints. Only pods are endpoints, whatever the selector says.
    pub subject: Selector,
    /// Whether egress, and ingress, of the endpoints is denied where nothing allows it.
    pub default_deny: [bool; 2],
    /// The rules, in the order of the document.
    pub rules: Vec<Rule>,
}

impl RuleSet {
    /// Whether the set has any effect on this side of an endpoint.
    #[must_use]
    pub fn applies(&self, side: Side) -> bool {
        self.default_deny[side as usize] || self.rules.iter().any(|rule| rule.side == side)
    }
}

/// Where a rule stands among all others; lower wins.
///
/// Rules of one precedence are merged: deny before allow, and L7 rules together. In the Normal tier
/// all rules have one precedence. In the others each rule has its own: where priorities are equal,
/// the names of the policies decide (the API leaves that open), and inside a policy the order in
/// it.
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
    /// Side.
    pub side: Side,
    /// Precedence. Rules of one policy that have the same stand in the order of the document.
    pub precedence: Precedence,
    /// What happens to flows that match.
    pub action: Action,
    /// Path of the rule in its object, such as `spec.ingress[0]`.
    pub field: String,
    /// Who must be at the other end; `None` is anyone, and an empty list nobody.
    pub peers: Option<Vec<Peer>>,
    /// On which ports; `None` is every port of every protocol.
    pub ports: Option<Vec<RulePorts>>,
}

/// Ports, and what requests on them are held against.
#[derive(Clone, PartialEq, Debug)]
pub struct RulePorts {
    /// The ports.
    pub ports: PortMatch,
    /// `None` is no restriction.
    pub l7: Option<Arc<L7Rules>>,
}

/// One way to be the other end of a flow. Lists of them are kept sorted and without doubles.
#[derive(Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum Peer {
    /// Pods, or what is no pod, by labels.
    Labels(Selector),
    /// Addresses.
    Network(NetworkPeer),
    /// Addresses that a DNS name was seen to stand for, unless they are a pod's or a node's.
    Name(NamePattern),
}

/// Addresses of one network.
#[derive(Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct NetworkPeer {
    /// These…
    pub network: IpNet,
    /// …but not these, which lie within; sorted.
    pub except: Vec<IpNet>,
    /// Whose addresses count.
    pub scope: AddressScope,
}

/// `egress` or `ingress`.
impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Egress => "egress",
            Self::Ingress => "ingress",
        })
    }
}

/// The selector, the network, or the name, as policies write them.
impl fmt::Display for Peer {
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
