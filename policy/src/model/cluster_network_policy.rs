//! ClusterNetworkPolicy (network-policy-api `apis/v1alpha2/clusternetworkpolicy_types.go`).

use ipnet::IpNet;
use podgate_tables::l7::NamePattern;
use podgate_tables::policy::{Action, Tier};
use podgate_tables::proto;

use super::cidr::parse_network;
use super::ports::is_port_name;
use super::selector::{KeySyntax, LabelSelector};
use crate::fields::{Field, FieldPath, Problem, quote};
use crate::rules::{PortMatch, PortNumbers, TrafficDirection};

/// Most elements of every list: rules, peers, protocols, networks, names.
const LIST_MAX: usize = 25;
const PRIORITY_MAX: u16 = 1000;
/// Longest name of a rule, characters.
const RULE_NAME_MAX: usize = 100;

/// Fields of other kinds of policies, and what to do with them here.
const SPEC_ADVICE: &[(&str, &str)] = &[
    ("podSelector", "put it into subject.pods"),
    ("endpointSelector", "write subject"),
    ("selector", "write subject"),
    ("order", "write priority"),
    (
        "types",
        "write ingress or egress instead: the policy applies to the directions that have rules",
    ),
    (
        "policyTypes",
        "write ingress or egress instead: the policy applies to the directions that have rules",
    ),
];
const RULE_ADVICE: &[(&str, &str)] = &[
    ("ports", "write protocols, with a destinationPort in each element"),
    ("toPorts", "write protocols, with a destinationPort in each element"),
];

/// A ClusterNetworkPolicy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClusterNetworkPolicy {
    /// Admin or Baseline.
    pub tier: Tier,
    /// Priority among the policies of the tier; lower wins.
    pub priority: u16,
    /// Which pods.
    pub subject: PodSelection,
    /// Rules on flows to the pods, in order of precedence.
    pub ingress: Vec<ClusterRule>,
    /// Rules on flows from the pods, in order of precedence.
    pub egress: Vec<ClusterRule>,
}

/// Pods by their labels and those of their namespace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PodSelection {
    /// Which namespaces.
    pub namespaces: LabelSelector,
    /// Which pods of them.
    pub pods: LabelSelector,
}

/// One element of `ingress` or `egress`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClusterRule {
    /// What happens to flows that match. (The API's Accept is [`Action::Allow`].)
    pub action: Action,
    /// `from` or `to`; never empty.
    pub peers: Vec<ClusterPeer>,
    /// `protocols`; none is every port of every protocol. A named port, for which the API has no
    /// protocol, is here once for each.
    pub ports: Vec<PortMatch>,
}

/// One element of `from` or `to`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ClusterPeer {
    /// `namespaces` or `pods`.
    Pods(PodSelection),
    /// Nodes by their labels. Egress only.
    Nodes(LabelSelector),
    /// Addresses, be they of pods or not. Egress only.
    Networks(Vec<IpNet>),
    /// Addresses by domain names. In Accept rules of egress only.
    DomainNames(Vec<DomainName>),
    /// A kind of peer that isn't known here. Its rule fails closed: see [`ClusterRule::is_known`].
    Unknown,
}

/// One element of `domainNames`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DomainName {
    /// As written: a name, or `*.` and a name, which is every name below it.
    pub text: String,
    /// The pattern that names must match.
    pub pattern: NamePattern,
}

impl ClusterNetworkPolicy {
    /// The rules of one direction.
    #[must_use]
    pub fn rules(&self, direction: TrafficDirection) -> &[ClusterRule] {
        match direction {
            TrafficDirection::Egress => &self.egress,
            TrafficDirection::Ingress => &self.ingress,
        }
    }

    /// The rules that are enforced otherwise than written, one problem for each.
    pub(crate) fn warnings(&self) -> Vec<Problem> {
        let directions = [
            (TrafficDirection::Ingress, "ingress", "from"),
            (TrafficDirection::Egress, "egress", "to"),
        ];
        let mut warnings = Vec::new();
        for (direction, section, peers) in directions {
            for (rule_index, rule) in self.rules(direction).iter().enumerate() {
                let unknown = |peer: &ClusterPeer| *peer == ClusterPeer::Unknown;
                let Some(peer_index) = rule.peers.iter().position(unknown) else { continue };
                let effect = match rule.action {
                    Action::Allow => "allows no peer",
                    Action::Deny | Action::Pass => "denies every peer",
                };
                warnings.push(Problem {
                    field: FieldPath::new([
                        "spec".into(),
                        section.into(),
                        rule_index.into(),
                        peers.into(),
                        peer_index.into(),
                    ]),
                    reason: format!(
                        "is not a kind of peer that is known here, so the rule {effect}"
                    ),
                    fix: None,
                });
            }
        }
        warnings
    }

    pub(super) fn parse(root: &Field<'_>) -> Option<Self> {
        let mut object = root.object()?;
        object.skip(&["apiVersion", "kind", "metadata", "status"]);
        let spec = object.take("spec");
        object.finish();
        let Some(spec) = spec else {
            root.reject("needs a spec");
            return None;
        };
        Self::parse_spec(&spec)
    }

    fn parse_spec(field: &Field<'_>) -> Option<Self> {
        let mut spec = field.object()?;
        let (tier, priority) = (spec.take("tier"), spec.take("priority"));
        let subject = spec.take("subject");
        let (ingress, egress) = (spec.take("ingress"), spec.take("egress"));
        spec.finish_with(SPEC_ADVICE);
        let rules = |list: Option<Field<'_>>, direction| match list {
            Some(list) => list_of_at_most(&list, |rule| ClusterRule::parse(rule, direction)),
            None => Some(Vec::new()),
        };
        let (ingress, egress) =
            (rules(ingress, TrafficDirection::Ingress), rules(egress, TrafficDirection::Egress));
        if tier.is_none() || priority.is_none() || subject.is_none() {
            field.reject("needs a tier, a priority and a subject");
        }
        let tier = tier.and_then(|tier| parse_tier(&tier));
        let priority = priority.and_then(|priority| priority.integer(0, PRIORITY_MAX));
        let subject = subject.and_then(|subject| PodSelection::parse_subject(&subject));
        Some(Self {
            tier: tier?,
            priority: priority?,
            subject: subject?,
            ingress: ingress?,
            egress: egress?,
        })
    }
}

fn parse_tier(field: &Field<'_>) -> Option<Tier> {
    match field.string()? {
        "Admin" => Some(Tier::Admin),
        "Baseline" => Some(Tier::Baseline),
        other => {
            field.reject(format!("must be Admin or Baseline, but is {}", quote(other)));
            None
        }
    }
}

/// Reads a list of a length that the API allows.
fn list_of_at_most<T>(
    field: &Field<'_>,
    read: impl FnMut(&Field<'_>) -> Option<T>,
) -> Option<Vec<T>> {
    let length = field.value().as_array().map_or(0, Vec::len);
    if length > LIST_MAX {
        field.reject(format!("has {length} elements, but may have at most {LIST_MAX}"));
        return None;
    }
    field.list(read)
}

/// Like [`list_of_at_most`], for lists that the API requires to have an element.
fn list_of_some<T>(field: &Field<'_>, read: impl FnMut(&Field<'_>) -> Option<T>) -> Option<Vec<T>> {
    if field.is_empty_list() {
        field.reject("needs at least one element");
    }
    list_of_at_most(field, read)
}

fn parse_selector(field: &Field<'_>) -> Option<LabelSelector> {
    LabelSelector::parse(field, KeySyntax::Kubernetes)
}

impl PodSelection {
    fn parse_subject(field: &Field<'_>) -> Option<Self> {
        let mut object = field.object()?;
        let (namespaces, pods) = (object.take("namespaces"), object.take("pods"));
        object.finish();
        match (namespaces, pods) {
            (Some(namespaces), None) => Self::parse_namespaces(&namespaces),
            (None, Some(pods)) => Self::parse_pods(&pods),
            _ => {
                field.reject("needs namespaces or pods, and not both");
                None
            }
        }
    }

    /// `namespaces`: all pods of them.
    fn parse_namespaces(field: &Field<'_>) -> Option<Self> {
        Some(Self { namespaces: parse_selector(field)?, pods: LabelSelector::default() })
    }

    /// `pods`.
    fn parse_pods(field: &Field<'_>) -> Option<Self> {
        let mut object = field.object()?;
        let (namespaces, pods) = (object.take("namespaceSelector"), object.take("podSelector"));
        object.finish();
        let namespaces = namespaces.and_then(|field| parse_selector(&field)).unwrap_or_default();
        let Some(pods) = pods else {
            field.reject("needs a podSelector");
            return None;
        };
        Some(Self { namespaces, pods: parse_selector(&pods)? })
    }
}

impl ClusterRule {
    /// Whether every peer is of a known kind. If not, the API requires the rule to fail closed: one
    /// that accepts matches nothing, and one that denies or passes denies whatever comes on its
    /// ports.
    #[must_use]
    pub fn is_known(&self) -> bool {
        !self.peers.contains(&ClusterPeer::Unknown)
    }

    fn parse(field: &Field<'_>, direction: TrafficDirection) -> Option<Self> {
        let mut object = field.object()?;
        let (name, action) = (object.take("name"), object.take("action"));
        let peers_name = match direction {
            TrafficDirection::Ingress => "from",
            TrafficDirection::Egress => "to",
        };
        let (peers, ports) = (object.take(peers_name), object.take("protocols"));
        object.finish_with(RULE_ADVICE);
        if let Some(name) = name
            && name.string().is_some_and(|text| text.chars().count() > RULE_NAME_MAX)
        {
            name.reject(format!("may have at most {RULE_NAME_MAX} characters"));
        }
        if action.is_none() || peers.is_none() {
            field.reject(format!("needs an action and {peers_name}"));
        }
        let action = action.and_then(|action| parse_action(&action));
        // Problems that depend on the action are reported once it is valid.
        let assumed = action.unwrap_or(Action::Allow);
        let peers = peers.and_then(|peers| {
            list_of_some(&peers, |peer| ClusterPeer::parse(peer, direction, assumed))
        });
        let peers = peers.unwrap_or_default();
        let ports = ports.and_then(|ports| Self::parse_protocols(&ports, &peers));
        Some(Self { action: action?, peers, ports: ports.unwrap_or_default() })
    }

    fn parse_protocols(field: &Field<'_>, peers: &[ClusterPeer]) -> Option<Vec<PortMatch>> {
        let ports = list_of_some(field, parse_protocol)?.concat();
        let is_named = |ports: &PortMatch| matches!(ports.ports, PortNumbers::Named(_));
        let is_pods =
            |peer: &ClusterPeer| matches!(peer, ClusterPeer::Pods(_) | ClusterPeer::Unknown);
        if ports.iter().any(is_named) && !peers.iter().all(is_pods) {
            field.reject_with_fix(
                "only pods have named ports, but the rule has other peers too",
                "write two rules, of which one has the pods",
            );
        }
        Some(ports)
    }
}

fn parse_action(field: &Field<'_>) -> Option<Action> {
    match field.string()? {
        "Accept" => Some(Action::Allow),
        "Deny" => Some(Action::Deny),
        "Pass" => Some(Action::Pass),
        other => {
            field.reject(format!("must be Accept, Deny or Pass, but is {}", quote(other)));
            None
        }
    }
}

impl ClusterPeer {
    /// Each peer has exactly one field. The API server drops fields that its version of the type
    /// doesn't have, so a peer of a newer version comes as one without any.
    fn parse(field: &Field<'_>, direction: TrafficDirection, action: Action) -> Option<Self> {
        let mut object = field.object()?;
        let (namespaces, pods) = (object.take("namespaces"), object.take("pods"));
        let [nodes, networks, names] = match direction {
            TrafficDirection::Ingress => [None, None, None],
            TrafficDirection::Egress => {
                ["nodes", "networks", "domainNames"].map(|name| object.take(name))
            }
        };
        if object.has_unknown() {
            return Some(Self::Unknown);
        }
        match (namespaces, pods, nodes, networks, names) {
            (None, None, None, None, None) => Some(Self::Unknown),
            (Some(field), None, None, None, None) => {
                PodSelection::parse_namespaces(&field).map(Self::Pods)
            }
            (None, Some(field), None, None, None) => {
                PodSelection::parse_pods(&field).map(Self::Pods)
            }
            (None, None, Some(field), None, None) => parse_selector(&field).map(Self::Nodes),
            (None, None, None, Some(field), None) => {
                list_of_some(&field, parse_network).map(Self::Networks)
            }
            (None, None, None, None, Some(field)) => {
                if action != Action::Allow {
                    field.reject("is for Accept rules only");
                }
                list_of_some(&field, DomainName::parse).map(Self::DomainNames)
            }
            _ => {
                field.reject_with_fix("must have one field", "write one element for each");
                None
            }
        }
    }
}

impl DomainName {
    fn parse(field: &Field<'_>) -> Option<Self> {
        let text = field.string()?;
        let (name, pattern) = match text.strip_prefix("*.") {
            Some(parent) => (parent, NamePattern::dns(&format!("**.{parent}"))),
            None => (text, NamePattern::name(text)),
        };
        let name = name.strip_suffix('.').unwrap_or(name);
        let is_end = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
        let is_label = |label: &str| {
            let bytes = label.as_bytes();
            let is_inner = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
            is_end(bytes.first()) && is_end(bytes.last()) && bytes.iter().all(is_inner)
        };
        match pattern {
            Ok(pattern) if name.contains('.') && name.split('.').all(is_label) => {
                Some(Self { text: text.to_owned(), pattern })
            }
            _ => {
                field.reject(format!(
                    "{} is not a domain name (two or more labels of letters, digits, '-' and '_', \
                     with nothing but *. before them)",
                    quote(text)
                ));
                None
            }
        }
    }
}

const TRANSPORTS: [(&str, u8); 3] =
    [("tcp", proto::TCP), ("udp", proto::UDP), ("sctp", proto::SCTP)];

/// One element of `protocols`.
fn parse_protocol(field: &Field<'_>) -> Option<Vec<PortMatch>> {
    let mut object = field.object()?;
    let name = object.take("destinationNamedPort");
    let transports = TRANSPORTS.map(|(name, protocol)| (protocol, object.take(name)));
    object.finish();
    let given = transports.into_iter().filter_map(|(protocol, field)| Some((protocol, field?)));
    match (given.collect::<Vec<_>>().as_slice(), name) {
        ([(protocol, field)], None) => {
            Some(vec![PortMatch { protocol: *protocol, ports: parse_transport(field)? }])
        }
        ([], Some(field)) => {
            let name = parse_port_name(&field)?;
            let named =
                |(_, protocol)| PortMatch { protocol, ports: PortNumbers::Named(name.clone()) };
            Some(TRANSPORTS.map(named).into())
        }
        _ => {
            field.reject("needs one of tcp, udp, sctp and destinationNamedPort, and only one");
            None
        }
    }
}

fn parse_port_name(field: &Field<'_>) -> Option<String> {
    let name = field.string()?;
    if !is_port_name(name) {
        field.reject(format!("{} is not a port name", quote(name)));
        return None;
    }
    Some(name.to_owned())
}

/// `tcp`, `udp` or `sctp`.
fn parse_transport(field: &Field<'_>) -> Option<PortNumbers> {
    let mut object = field.object()?;
    let port = object.take("destinationPort");
    object.finish();
    let Some(port) = port else {
        field.reject("needs a destinationPort");
        return None;
    };
    let mut object = port.object()?;
    let (number, range) = (object.take("number"), object.take("range"));
    object.finish();
    match (number, range) {
        (Some(number), None) => {
            let number = number.integer(1, u16::MAX)?;
            Some(PortNumbers::Range(number..=number))
        }
        (None, Some(range)) => parse_range(&range),
        _ => {
            port.reject("needs a number or a range, and not both");
            None
        }
    }
}

fn parse_range(field: &Field<'_>) -> Option<PortNumbers> {
    let mut object = field.object()?;
    let (start, end) = (object.take("start"), object.take("end"));
    object.finish();
    let (Some(start), Some(end)) = (start, end) else {
        field.reject("needs a start and an end");
        return None;
    };
    let (first, last) = (start.integer(1, u16::MAX), end.integer(1, u16::MAX));
    let (first, last) = (first?, last?);
    if first >= last {
        field.reject("the start must be less than the end");
        return None;
    }
    Some(PortNumbers::Range(first..=last))
}
