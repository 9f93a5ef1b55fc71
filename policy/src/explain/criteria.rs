//! Which criteria of one rule a flow does not match, in words.

use std::collections::BTreeSet;
use std::net::IpAddr;

use podgate_tables::l7::{L7Request, L7Rules, NamePattern};
use serde::{Deserialize, Serialize};

use super::words::why_not;
use crate::PodName;
use crate::labels::{LabelContext, LabelKey};
use crate::model::Pod;
use crate::rules::{
    AddressScope, NetworkPeer, PeerSelector, PortMatch, PortNumbers, Rule, RulePorts,
};
use crate::selector::{Requirement, Selector, Test};
use crate::store::Store;

/// A criterion of a rule.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
#[serde(rename_all = "kebab-case")]
pub enum Criterion {
    /// Who is at the other end.
    Peer,
    /// The protocol.
    Protocol,
    /// The port, or the ICMP type.
    Port,
    /// The request.
    Request,
}

/// One criterion that a flow does not match.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// Which.
    pub criterion: Criterion,
    /// Why: one line for each way in which the rule could have matched, the nearest first.
    pub reasons: Vec<String>,
    /// How many more ways there are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub further_reasons: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
const fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// Most reasons that one failure lists: a rule may name thousands of networks.
const REASONS_MAX: usize = 8;

impl Failure {
    /// From reasons, each with its distance from a match.
    fn new(criterion: Criterion, mut reasons: Vec<(usize, String)>) -> Self {
        // Stable: what is equally far stays in the order of the policy.
        reasons.sort_by_key(|(distance, _)| *distance);
        let further_reasons = reasons.len().saturating_sub(REASONS_MAX);
        let reasons = reasons.into_iter().take(REASONS_MAX).map(|(_, reason)| reason).collect();
        Self { criterion, reasons, further_reasons }
    }
}

/// One end of the flow, with its labels.
#[derive(Clone, Copy)]
pub(super) struct FlowEnd<'a> {
    pub(super) address: IpAddr,
    pub(super) label_context: &'a LabelContext,
    pub(super) is_node: bool,
    pub(super) pod: Option<(&'a PodName, &'a Pod)>,
}

impl FlowEnd<'_> {
    fn name(&self) -> String {
        match self.pod {
            Some((name, _)) => name.to_string(),
            None => self.address.to_string(),
        }
    }
}

/// The flow, seen from the endpoint that rules apply to.
pub(super) struct Case<'a> {
    pub(super) store: &'a Store,
    /// Who is at the other end.
    pub(super) peer: FlowEnd<'a>,
    /// The end that the flow is opened to: its container ports have the names.
    pub(super) destination: FlowEnd<'a>,
    pub(super) protocol: u8,
    /// Destination port, or ICMP type.
    pub(super) port: u16,
    pub(super) request: Option<&'a L7Request<'a>>,
}

/// How a flow matches a rule.
pub(super) struct RuleMatch<'a> {
    /// The criteria that the flow does not match, and how far the nearest peer is from a match.
    pub(super) failures: Vec<Failure>,
    pub(super) distance: usize,
    /// The elements of the rule's ports that match; `None` if it has no ports to match.
    pub(super) elements: Option<Vec<&'a RulePorts>>,
}

impl Case<'_> {
    /// Compares the flow with one rule.
    pub(super) fn match_rule<'r>(&self, rule: &'r Rule) -> RuleMatch<'r> {
        let (mut failures, mut distance) = (Vec::new(), 0);
        if let Some(peers) = &rule.peers
            && let Err((nearest, failure)) = self.match_peers(peers)
        {
            distance = nearest;
            failures.push(failure);
        }
        let elements = rule.ports.as_ref().map(|ports| {
            ports.iter().filter(|element| self.port_fits(&element.ports)).collect::<Vec<_>>()
        });
        if let (Some(ports), Some(matching)) = (&rule.ports, &elements) {
            match matching.is_empty() {
                true => failures.push(self.failed_ports(ports)),
                false => failures.extend(self.match_request(matching)),
            }
        }
        RuleMatch { failures, distance, elements }
    }

    /// The error has the distance of the nearest peer.
    fn match_peers(&self, peers: &[PeerSelector]) -> Result<(), (usize, Failure)> {
        let mut reasons = Vec::with_capacity(peers.len());
        for peer in peers {
            match self.mismatch_of(peer) {
                None => return Ok(()),
                Some(miss) => reasons.push(miss),
            }
        }
        if reasons.is_empty() {
            reasons.push((1, "it has no peers".to_owned()));
        }
        let nearest = reasons.iter().map(|(distance, _)| *distance).min().unwrap_or(1);
        Err((nearest, Failure::new(Criterion::Peer, reasons)))
    }

    /// Why a peer doesn't match the other end, with the number of conditions that fail; `None` if
    /// it matches.
    fn mismatch_of(&self, peer: &PeerSelector) -> Option<(usize, String)> {
        match peer {
            PeerSelector::Labels(selector) => self.mismatch_of_labels(selector),
            PeerSelector::Network(network) => self.mismatch_of_network(network),
            PeerSelector::Name(pattern) => self.mismatch_of_name(pattern).map(|reason| (1, reason)),
        }
    }

    fn mismatch_of_name(&self, pattern: &NamePattern) -> Option<String> {
        let (who, address) = (self.peer.name(), self.peer.address);
        if !self.is_outsider() {
            return Some(format!(
                "it is for {pattern}, and DNS names never match pods or nodes, and {who} is one"
            ));
        }
        let named = self.store.learned().filter(|(name, _)| pattern.matches(name.as_bytes()));
        let named: Vec<_> = named.collect();
        match named.iter().any(|(_, addresses)| addresses.contains(&address)) {
            true => None,
            false if named.is_empty() => {
                Some(format!("it is for {pattern}, and no DNS answer for that was seen"))
            }
            false => Some(format!("it is for {pattern}, and no DNS answer for that had {who}")),
        }
    }

    /// Whether the other end is neither a pod nor a node.
    fn is_outsider(&self) -> bool {
        !self.peer.is_node && matches!(self.peer.label_context, LabelContext::Reserved(_))
    }

    fn mismatch_of_labels(&self, selector: &Selector) -> Option<(usize, String)> {
        let conditions = selector.conditions().iter();
        let unmet: Vec<_> =
            conditions.filter(|wanted| !wanted.matches(self.peer.label_context)).collect();
        if unmet.is_empty() {
            return None;
        }
        let who = self.peer.name();
        let is_pod = matches!(self.peer.label_context, LabelContext::Pod { .. });
        let of_pods = |wanted: &&Requirement| {
            !matches!(wanted.key, LabelKey::Reserved(_)) && wanted.test != Test::DoesNotExist
        };
        let means_pods = !is_pod && unmet.iter().any(of_pods);
        let reason = if means_pods {
            let pods = match selector.conditions() {
                [Requirement { key: LabelKey::Namespace, test: Test::Exists }] => String::new(),
                _ => format!(" with {selector}"),
            };
            format!("it is for pods{pods}, and {who} is not a pod")
        } else {
            let reasons = unmet.iter().map(|wanted| {
                format!(
                    "needs {wanted}, but {who} {}",
                    actual_value(&wanted.key, self.peer.label_context)
                )
            });
            reasons.collect::<Vec<_>>().join("; ")
        };
        Some((if means_pods { FAR } else { unmet.len() }, reason))
    }

    fn mismatch_of_network(&self, peer: &NetworkPeer) -> Option<(usize, String)> {
        let NetworkPeer { network, except, scope } = peer;
        let (who, address) = (self.peer.name(), self.peer.address);
        if !network.contains(&address) {
            let other_family = network.addr().is_ipv4() != address.is_ipv4();
            let far = if other_family { FAR } else { 2 };
            return Some((far, format!("{address} is outside of {network}")));
        }
        if let Some(out) = except.iter().find(|out| out.contains(&address)) {
            return Some((1, format!("{address} is in {out}, which {network} excepts")));
        }
        let is_pod = matches!(self.peer.label_context, LabelContext::Pod { .. });
        let kind = match (scope, is_pod, self.peer.is_node) {
            (AddressScope::All, ..)
            | (_, false, false)
            | (AddressScope::WorldAndNodes, _, true) => return None,
            (_, true, _) => "pods",
            (AddressScope::World, _, true) => "nodes",
        };
        let reason = format!(
            "{address} is in {network}, but CIDR rules of Cilium policies never match {kind}, as \
             {who} is one"
        );
        Some((1, reason))
    }

    fn port_fits(&self, ports: &PortMatch) -> bool {
        ports.protocol == self.protocol
            && match &ports.ports {
                PortNumbers::All => true,
                PortNumbers::Range(range) => range.contains(&self.port),
                PortNumbers::Named(name) => {
                    self.named_port_numbers(name, ports.protocol).contains(&self.port)
                }
            }
    }

    /// The port numbers that a name stands for at the destination pod.
    fn named_port_numbers(&self, name: &str, protocol: u8) -> BTreeSet<u16> {
        let ports = self.destination.pod.map_or(&[][..], |(_, pod)| &pod.ports);
        let called = ports.iter().filter(|port| port.name == name && port.protocol == protocol);
        called.map(|port| port.port).collect()
    }

    fn failed_ports(&self, ports: &[RulePorts]) -> Failure {
        let same_protocol = |element: &&RulePorts| element.ports.protocol == self.protocol;
        let criterion = match ports.iter().any(|element| same_protocol(&element)) {
            true => Criterion::Port,
            false => Criterion::Protocol,
        };
        let mut distinct: Vec<&PortMatch> = ports.iter().map(|element| &element.ports).collect();
        distinct.sort_unstable();
        distinct.dedup();
        let reasons = distinct.into_iter().map(|ports| {
            let far = usize::from(ports.protocol != self.protocol);
            (far, format!("it is for {ports}{}", self.describe_port_name(ports)))
        });
        let mut reasons: Vec<_> = reasons.collect();
        if reasons.is_empty() {
            reasons.push((1, "it names no port".to_owned()));
        }
        Failure::new(criterion, reasons)
    }

    /// The numbers of a named port at the destination, in words.
    fn describe_port_name(&self, ports: &PortMatch) -> String {
        let PortNumbers::Named(name) = &ports.ports else { return String::new() };
        let numbers = self.named_port_numbers(name, ports.protocol);
        let who = self.destination.name();
        if self.destination.pod.is_none() {
            return format!(", but {who} is not a pod, so it has no named ports");
        }
        if numbers.is_empty() {
            return format!(", but {who} has no port of that name and protocol");
        }
        let numbers: Vec<_> = numbers.iter().map(u16::to_string).collect();
        format!(", which is {} at {who}", numbers.join(" and "))
    }

    /// A request is denied if each matching element has L7 rules and none allows it, and also if
    /// any of them has rules for another L7 protocol: the flow's inspector would not understand it,
    /// so an element without rules does not help
    /// ([`L7Policy::decide`](podgate_tables::l7::L7Policy)).
    fn match_request(&self, matching: &[&RulePorts]) -> Option<Failure> {
        let request = self.request?;
        let failure = |rules: &mut dyn Iterator<Item = &L7Rules>| {
            let reasons = rules.flat_map(|rules| why_not(request, rules)).collect();
            Some(Failure::new(Criterion::Request, reasons))
        };
        let rules = || matching.iter().filter_map(|element| element.l7.as_deref());
        let mut foreign = rules().filter(|rules| rules.protocol() != request.protocol()).peekable();
        if foreign.peek().is_some() {
            return failure(&mut foreign);
        }
        let is_plain = |element: &&RulePorts| element.l7.is_none();
        if matching.iter().any(is_plain) || rules().any(|rules| rules.allows(request)) {
            return None;
        }
        failure(&mut rules())
    }
}

/// Distance of a peer that can't match an other end of this kind.
const FAR: usize = 100;

/// The value that an end has for the label of a condition, in words.
fn actual_value(key: &LabelKey, label_context: &LabelContext) -> String {
    match (key, label_context.get(key)) {
        (LabelKey::Namespace, Some(value)) => format!("is in namespace {value}"),
        (LabelKey::Reserved(_), None) => format!("is not {key}"),
        (LabelKey::Reserved(_), Some(_)) => format!("is {key}"),
        (LabelKey::Foreign(_), _) => "has no labels of that source".to_owned(),
        (_, Some(value)) => format!("has {key}={value}"),
        (_, None) => format!("has no {key}"),
    }
}
