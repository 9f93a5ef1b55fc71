//! The normal form: what every kind of policy is lowered to, and all that the compiler knows.

use std::sync::Arc;

use ipnet::IpNet;
use podgate_dataplane::l7::L7Rules;
use podgate_dataplane::policy::{Action, Rank};

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

/// One rule.
#[derive(Clone, PartialEq, Debug)]
pub struct Rule {
    /// Side.
    pub side: Side,
    /// Precedence.
    pub rank: Rank,
    /// What happens to flows that match.
    pub action: Action,
    /// Path of the rule in its object, such as `spec.ingress[0]`.
    pub field: String,
    /// Who must be at the other end; `None` is anyone. Never empty.
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
}

/// Addresses of one network.
#[derive(Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct NetworkPeer {
    /// These…
    pub network: IpNet,
    /// …but not these, which lie within; sorted.
    pub except: Vec<IpNet>,
    /// Whether addresses of pods and nodes count: those of `NetworkPolicy` blocks do, those of
    /// Cilium's CIDR rules don't.
    pub covers_pods: bool,
}
