//! An independent, simple implementation of policy, which interprets the objects for each flow.
//!
//! It shares only the model with the compiler, and tests compare the two. It is written to be
//! obviously correct; it is slow, and nothing but tests uses it.

mod cluster;
mod labels;
mod peers;
mod requests;
mod services;

use std::collections::BTreeSet;
use std::net::IpAddr;

use podgate_tables::l7::{L7Protocol, L7Rules};
use podgate_tables::policy::{Exemption, LocalEnds, Subject, Tier};
use podgate_tables::proto;

use self::peers::{AddressOwner, is_unknown, resolve};
pub use self::requests::{HttpRequest, KafkaRequest, OracleRequest, kafka_api};
use self::services::is_service;
pub use self::services::{ServiceOutcome, through_service};
use crate::PodName;
use crate::key::ObjectKey;
use crate::model::{CiliumPolicy, CiliumRule, NetworkPolicy, Pod, Policy, Ports, RuleSection};
use crate::rules::{PortMatch, PortNumbers, TrafficDirection};
use crate::store::{EnforcementMode, Store};

/// A rule that matches a flow.
#[derive(Clone, PartialEq, Debug)]
pub struct Match<'s> {
    /// The policy.
    pub key: &'s ObjectKey,
    /// Path of the rule in it.
    pub field: String,
    /// L7 rules that requests must match; `None` is no restriction.
    pub l7: Option<&'s L7Rules>,
    /// The rule's L7 rules deny no request, because the policy doesn't isolate. Server names always
    /// deny.
    pub visibility_only: bool,
}

/// The verdict on a flow in one direction.
#[derive(Clone, PartialEq, Debug)]
pub enum OracleVerdict<'s> {
    /// Policy is not evaluated.
    Exempt(Exemption),
    /// No policy isolates the endpoint, and no rule matches.
    Unenforced,
    /// These rules allow it.
    Allowed(Vec<Match<'s>>),
    /// These rules deny it.
    Denied(Vec<Match<'s>>),
    /// These rules allow it, but their L7 rules, or those at the flow's other end, are of more than
    /// one L7 protocol, so no request matches all of them.
    Conflicting(Vec<Match<'s>>),
    /// These policies isolate the endpoint and nothing allows the flow.
    DefaultDeny(Vec<&'s ObjectKey>),
}

impl<'s> OracleVerdict<'s> {
    /// Whether the flow may be opened.
    #[must_use]
    pub const fn allows(&self) -> bool {
        !matches!(self, Self::Denied(_) | Self::Conflicting(_) | Self::DefaultDeny(_))
    }

    /// Whether the flow's requests are inspected.
    #[must_use]
    pub fn inspects(&self) -> bool {
        !self.protocols().is_empty()
    }

    /// Whether a request on the allowed flow may pass.
    #[must_use]
    pub fn allows_request(&self, request: &OracleRequest) -> bool {
        let Self::Allowed(matches) = self else { return self.allows() };
        let allows = |rule: &Match<'_>, part: &OracleRequest| match rule.l7 {
            None => true,
            // Cilium makes no wildcard for server names (`pkg/policy/l4.go`, `ensureWildcard`).
            Some(rules) if rule.visibility_only && rules.protocol() != L7Protocol::Tls => true,
            Some(rules) => requests::allow(rules, part),
        };
        // An inspector of one protocol denies requests of others.
        let protocols = self.protocols();
        protocols.is_subset(&BTreeSet::from([request.protocol()]))
            && (protocols.is_empty() || request.is_valid())
            && request.parts().iter().all(|part| matches.iter().any(|rule| allows(rule, part)))
    }

    /// The L7 protocols of the rules that allow.
    fn protocols(&self) -> BTreeSet<L7Protocol> {
        let Self::Allowed(matches) = self else { return BTreeSet::new() };
        matches.iter().filter_map(|rule| Some(rule.l7?.protocol())).collect()
    }

    /// The rules that allow, as conflicting rules.
    fn conflicting(self) -> Self {
        match self {
            Self::Allowed(mut matches) => {
                matches.retain(|rule| rule.l7.is_some());
                Self::Conflicting(matches)
            }
            other => other,
        }
    }
}

/// The verdicts on a flow, of egress at the source and of ingress at the destination.
#[must_use]
pub fn decide<'s>(store: &'s Store, subject: &Subject, local: LocalEnds) -> [OracleVerdict<'s>; 2] {
    let (src, dst) = (subject.tuple.src.ip(), subject.tuple.dst.ip());
    if src == dst {
        return [
            OracleVerdict::Exempt(Exemption::ToSelf),
            OracleVerdict::Exempt(Exemption::ToSelf),
        ];
    }
    let (source, destination) = (resolve(store, src), resolve(store, dst));
    let egress = match (local.source, &destination) {
        (false, _) => OracleVerdict::Exempt(Exemption::NotLocal),
        (true, AddressOwner::Host) if !is_service(store, subject) => {
            OracleVerdict::Exempt(Exemption::ToNode)
        }
        (true, _) => evaluate(store, subject, TrafficDirection::Egress, &source, &destination, dst),
    };
    let ingress = match (local.destination, &source) {
        (false, _) => OracleVerdict::Exempt(Exemption::NotLocal),
        (true, AddressOwner::Host) => OracleVerdict::Exempt(Exemption::FromNode),
        (true, _) => {
            evaluate(store, subject, TrafficDirection::Ingress, &destination, &source, src)
        }
    };
    // A flow has one inspector, for both ends together.
    let both = &egress.protocols() | &ingress.protocols();
    match (egress.protocols().len() > 1, both.len() > 1) {
        (true, _) => [egress.conflicting(), ingress],
        (false, true) => [egress, ingress.conflicting()],
        (false, false) => [egress, ingress],
    }
}

/// One direction: `endpoint` has the policies, `peer` with `address` is at the other end.
fn evaluate<'s>(
    store: &'s Store,
    subject: &Subject,
    direction: TrafficDirection,
    endpoint: &AddressOwner<'s>,
    peer: &AddressOwner<'s>,
    address: IpAddr,
) -> OracleVerdict<'s> {
    let AddressOwner::Pod(name, _) = endpoint else { return OracleVerdict::Unenforced };
    if store.mode() == EnforcementMode::Never {
        return OracleVerdict::Unenforced;
    }
    let destination = match direction {
        TrafficDirection::Egress => peer,
        TrafficDirection::Ingress => endpoint,
    };
    let case =
        DirectionQuery { store, subject, direction, endpoint, name, peer, address, destination };
    if let Some(verdict) = case.cluster_tier(Tier::Admin) {
        return verdict;
    }
    let mut found = Found::default();
    for (key, policy) in store.policy_objects() {
        match policy {
            Policy::NetworkPolicy(policy) => case.network_policy(key, policy, &mut found),
            Policy::CiliumNetworkPolicy(policy)
            | Policy::CiliumClusterwideNetworkPolicy(policy) => {
                case.cilium(key, policy, &mut found);
            }
            // Its tiers are evaluated before and after.
            Policy::ClusterNetworkPolicy(_) => {}
        }
    }
    let isolated = !found.isolating.is_empty() || store.mode() == EnforcementMode::Always;
    if !found.denies.is_empty() {
        OracleVerdict::Denied(found.denies)
    } else if !found.allows.is_empty() {
        OracleVerdict::Allowed(found.allows)
    } else if isolated {
        found.isolating.dedup();
        OracleVerdict::DefaultDeny(found.isolating)
    } else {
        case.cluster_tier(Tier::Baseline).unwrap_or(OracleVerdict::Unenforced)
    }
}

/// The verdict so far.
#[derive(Default)]
struct Found<'s> {
    isolating: Vec<&'s ObjectKey>,
    allows: Vec<Match<'s>>,
    denies: Vec<Match<'s>>,
}

/// A flow in one direction, and the store.
struct DirectionQuery<'a, 's> {
    store: &'s Store,
    subject: &'a Subject,
    direction: TrafficDirection,
    endpoint: &'a AddressOwner<'s>,
    /// The endpoint's name.
    name: &'s PodName,
    peer: &'a AddressOwner<'s>,
    address: IpAddr,
    destination: &'a AddressOwner<'s>,
}

impl<'s> DirectionQuery<'_, 's> {
    fn network_policy(&self, key: &'s ObjectKey, policy: &'s NetworkPolicy, found: &mut Found<'s>) {
        let namespace = key.namespace.as_deref().unwrap_or_default();
        let Some(pod) = self.store.pod(&self.name.namespace, &self.name.name) else { return };
        if *self.name.namespace != *namespace
            || !labels::matches_plain(&policy.pod_selector, &pod.labels)
        {
            return;
        }
        let (section, rules) = match self.direction {
            TrafficDirection::Egress => ("egress", &policy.egress),
            TrafficDirection::Ingress => ("ingress", &policy.ingress),
        };
        let Some(rules) = rules else { return };
        found.isolating.push(key);
        for (index, rule) in rules.iter().enumerate() {
            let peer = rule.peers.is_empty()
                || rule.peers.iter().any(|peer| {
                    self.peer.matches_network_policy(self.store, self.address, peer, namespace)
                });
            let port = rule.ports.is_empty() || rule.ports.iter().any(|p| self.port_matches(p));
            if peer && port {
                let field = format!("spec.{section}[{index}]");
                found.allows.push(Match { key, field, l7: None, visibility_only: false });
            }
        }
    }

    fn cilium(&self, key: &'s ObjectKey, policy: &'s CiliumPolicy, found: &mut Found<'s>) {
        let namespace = key.namespace.as_deref();
        let endpoint = labels::of_pod(self.store, self.name);
        for spec in &policy.specs {
            if !labels::selects_endpoint(&spec.endpoint_selector, &endpoint, namespace) {
                continue;
            }
            let isolates = spec.isolates(self.direction);
            if isolates {
                found.isolating.push(key);
            }
            for section in RuleSection::ALL.into_iter().filter(|s| s.direction() == self.direction)
            {
                for (index, rule) in spec.section(section).iter().enumerate() {
                    let field = format!("{}.{}[{index}]", spec.field, section.field());
                    for l7 in self.cilium_rule(rule, section.is_deny(), namespace) {
                        let restricts = matches!(l7, Some(L7Rules::ServerNames(_)));
                        let (field, visibility_only) = (field.clone(), !isolates && !restricts);
                        let matched = Match { key, field, l7, visibility_only };
                        match section.is_deny() {
                            true => found.denies.push(matched),
                            false => found.allows.push(matched),
                        }
                    }
                }
            }
        }
    }

    /// The ways in which a rule matches: none, or one for each element of `toPorts` that does.
    fn cilium_rule(
        &self,
        rule: &'s CiliumRule,
        denies: bool,
        namespace: Option<&str>,
    ) -> Vec<Option<&'s L7Rules>> {
        let peer = match &rule.peers {
            None => true,
            Some(list) if denies && list.iter().any(|peer| is_unknown(self.store, peer)) => true,
            Some(list) => list
                .iter()
                .any(|peer| self.peer.matches_cilium(self.store, self.address, peer, namespace)),
        };
        if !peer {
            return Vec::new();
        }
        match &rule.ports {
            // Neither peers nor ports: selects nothing.
            Ports::All if rule.peers.is_none() => Vec::new(),
            Ports::All => vec![None],
            Ports::Icmps(fields) if fields.iter().any(|p| self.port_matches(p)) => vec![None],
            Ports::Icmps(_) => Vec::new(),
            Ports::ToPorts(elements) => elements
                .iter()
                .filter(|element| element.ports.iter().any(|p| self.port_matches(p)))
                .map(|element| element.l7.as_deref())
                .collect(),
        }
    }

    fn port_matches(&self, ports: &PortMatch) -> bool {
        let tuple = &self.subject.tuple;
        if ports.protocol != tuple.protocol {
            return false;
        }
        let port = match tuple.protocol {
            proto::ICMP | proto::ICMPV6 => u16::from(self.subject.icmp_type),
            _ => tuple.dst_port,
        };
        match &ports.ports {
            PortNumbers::All => true,
            PortNumbers::Range(range) => range.contains(&port),
            PortNumbers::Named(name) => match self.destination {
                AddressOwner::Pod(_, pod) => pod_names_port(pod, name, tuple.protocol, port),
                AddressOwner::Host | AddressOwner::RemoteNode | AddressOwner::World => false,
            },
        }
    }
}

fn pod_names_port(pod: &Pod, name: &str, protocol: u8, number: u16) -> bool {
    pod.ports.iter().any(|p| p.name == name && p.protocol == protocol && p.port == number)
}
