//! One direction: what decided it, which rules match, and which nearly do.

use podgate_tables::ids::RuleId;
use podgate_tables::l7::{L7Entry, L7Policy, L7Request};
use podgate_tables::policy::{Action, Cause, RuleTable, Tier};
use podgate_tables::proto;
use serde::{Deserialize, Serialize};

use super::criteria::{Case, Criterion, Failure, FlowEnd, RuleMatch};
use super::query::has_ports;
use crate::key::{Kind, ObjectKey};
use crate::labels::LabelContext;
use crate::observe::{DirectionVerdict, NameResolver, PolicyName, RuleName};
use crate::rules::{Precedence, Rule, RuleSet, TrafficDirection};
use crate::store::{EnforcementMode, Store};

/// The verdict on one direction of a flow, with the rules behind it.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct DirectionExplanation {
    /// Whether the flow is open in this direction, and by what.
    pub verdict: DirectionVerdict,
    /// Whether the direction lets the request pass, if one was asked about and requests are
    /// inspected here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_allowed: Option<bool>,
    /// The policies that apply to the endpoint in this direction.
    pub policies: Vec<PolicyName>,
    /// The rules that match the flow, and the request if one was asked about, in order of
    /// precedence.
    pub matching: Vec<Matching>,
    /// Rules that don't match, but would have decided otherwise if they did; the nearest first.
    pub misses: Vec<Miss>,
    /// How many more of those there are.
    pub further_misses: usize,
}

/// A rule that matches.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Matching {
    /// Which.
    pub rule: RuleName,
    /// What it does.
    pub effect: Effect,
    /// Whether it has L7 rules that requests must match.
    pub l7: bool,
}

/// A rule that nearly matches.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Miss {
    /// Which.
    pub rule: RuleName,
    /// What it would have done.
    pub effect: Effect,
    /// The criteria that the flow does not match.
    pub failed: Vec<Failure>,
    /// The one change of the rule that would open this direction to the flow, where there is just
    /// one: this port for the rule's peers, and nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

/// What a rule does with what it matches.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// It allows.
    Allows,
    /// It denies.
    Denies,
    /// It leaves the decision to the next tier.
    Passes,
}

impl From<Action> for Effect {
    fn from(action: Action) -> Self {
        match action {
            Action::Allow => Self::Allows,
            Action::Deny => Self::Denies,
            Action::Pass => Self::Passes,
        }
    }
}

/// What both directions of a flow have in common.
pub(super) struct Explainer<'a> {
    pub(super) store: &'a Store,
    pub(super) names: &'a NameResolver<'a>,
    pub(super) destination: FlowEnd<'a>,
    /// Destination port, or ICMP type.
    pub(super) port: u16,
    pub(super) request: Option<&'a L7Request<'a>>,
    pub(super) misses_max: usize,
}

/// What the rules that just missed would have changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Explained {
    /// The decision on the flow.
    Flow,
    /// The denial of a request in it.
    DeniedRequest,
}

/// The position of a rule among all that apply; lower decides first.
type Position = (Precedence, usize);

/// A rule that applies to the endpoint.
struct ApplicableRule<'a> {
    key: &'a ObjectKey,
    rule: &'a Rule,
    position: Position,
    matched: RuleMatch<'a>,
}

impl ApplicableRule<'_> {
    fn name(&self) -> RuleName {
        RuleName { policy: PolicyName::from(self.key), path: self.rule.field.clone() }
    }

    fn has_l7(&self) -> bool {
        self.matched.elements.iter().flatten().any(|element| element.l7.is_some())
    }
}

impl Explainer<'_> {
    /// `cause` is the decision of `table`. The endpoint is the first of `ends`.
    pub(super) fn direction(
        &self,
        direction: TrafficDirection,
        ends: [FlowEnd<'_>; 2],
        (cause, l7): (Cause, &[L7Entry]),
        table: &RuleTable,
    ) -> DirectionExplanation {
        let [endpoint, peer] = ends;
        let verdict = self.names.verdict_of(cause, table, self.port);
        let sets: Vec<_> = match cause {
            Cause::Exempt(_) => Vec::new(),
            _ => self.sets_for(direction, endpoint.label_context).collect(),
        };
        let mut policies: Vec<&ObjectKey> = sets.iter().map(|(key, _)| *key).collect();
        policies.dedup();
        let case = Case {
            store: self.store,
            peer,
            destination: self.destination,
            protocol: self.names.tuple.protocol,
            port: self.port,
            request: self.request,
        };
        let mut applying = match_rules(&case, direction, &sets);
        applying.sort_by_key(|rule| (rule.position, rule.rule.action));
        let request_allowed = self.request_allowed(l7);
        let decider = self.position_of(cause, &applying);
        let explained = match request_allowed {
            Some(false) => Explained::DeniedRequest,
            Some(true) | None => Explained::Flow,
        };
        let (misses, further_misses) = self.misses(&applying, cause, decider, explained);
        let matching = applying.iter().filter(|rule| rule.matched.failures.is_empty());
        DirectionExplanation {
            verdict,
            request_allowed,
            policies: policies.into_iter().map(PolicyName::from).collect(),
            matching: matching
                .map(|rule| Matching {
                    rule: rule.name(),
                    effect: rule.rule.action.into(),
                    l7: rule.has_l7(),
                })
                .collect(),
            misses,
            further_misses,
        }
    }

    /// The rule sets that have an effect in this direction of an endpoint, by policy.
    fn sets_for<'s>(
        &'s self,
        direction: TrafficDirection,
        endpoint: &'s LabelContext,
    ) -> impl Iterator<Item = (&'s ObjectKey, &'s RuleSet)> {
        let is_pod = matches!(endpoint, LabelContext::Pod { .. });
        let enforced = is_pod && self.store.mode() != EnforcementMode::Never;
        let policies = self.store.all_rule_sets().filter(move |_| enforced);
        let sets = policies.flat_map(|(key, sets)| sets.iter().map(move |set| (key, set)));
        sets.filter(move |(_, set)| {
            set.applies(direction) && set.endpoint_selector.matches(endpoint)
        })
    }

    /// Whether the direction's own L7 rules allow the request; `None` if there are none.
    fn request_allowed(&self, l7: &[L7Entry]) -> Option<bool> {
        let request = self.request.filter(|_| !l7.is_empty())?;
        let alone = L7Policy { egress: l7.to_vec(), ingress: Vec::new() };
        Some(alone.decide(request).is_allow())
    }

    fn position_of(&self, cause: Cause, applying: &[ApplicableRule<'_>]) -> Option<Position> {
        let id = rule_of(cause)?;
        let origin = self.names.compiled.catalog.rule(id)?;
        let is = |rule: &&ApplicableRule<'_>| {
            *rule.key == *origin.key && rule.rule.field == origin.field
        };
        applying.iter().find(is).map(|rule| rule.position)
    }

    fn misses(
        &self,
        applying: &[ApplicableRule<'_>],
        cause: Cause,
        decider: Option<Position>,
        explained: Explained,
    ) -> (Vec<Miss>, usize) {
        let missing = applying.iter().filter(|rule| !rule.matched.failures.is_empty());
        let would_matter = |rule: &&ApplicableRule<'_>| match explained {
            Explained::DeniedRequest => {
                rule.rule.action == Action::Allow && Some(rule.position) == decider
            }
            Explained::Flow => {
                would_change_decision(rule.rule.action, rule.position, cause, decider)
            }
        };
        let mut near: Vec<_> = missing.filter(would_matter).collect();
        // Stable: what is equally near stays in order of precedence and of names.
        near.sort_by_key(|rule| (rule.matched.failures.len(), rule.matched.distance));
        let further = near.len().saturating_sub(self.misses_max);
        let miss = |rule: &ApplicableRule<'_>| Miss {
            rule: rule.name(),
            effect: rule.rule.action.into(),
            failed: rule.matched.failures.clone(),
            fix: self.fix(rule, cause),
        };
        (near.into_iter().take(self.misses_max).map(miss).collect(), further)
    }
}

impl Explainer<'_> {
    /// Only for a default denial, which one more allow lifts, and for a `NetworkPolicy`, to whose
    /// list of ports any port may be added.
    fn fix(&self, rule: &ApplicableRule<'_>, cause: Cause) -> Option<String> {
        let lacks_port = match &rule.matched.failures[..] {
            [failure] => matches!(failure.criterion, Criterion::Port | Criterion::Protocol),
            _ => false,
        };
        let protocol = self.names.tuple.protocol;
        let is_one = lacks_port
            && matches!(cause, Cause::DefaultDeny(_))
            && rule.key.kind == Kind::NetworkPolicy
            && has_ports(protocol)
            && self.port > 0;
        let (port, protocol, field) = (self.port, proto::name(protocol), &rule.rule.field);
        is_one.then(|| format!("add {{port: {port}, protocol: {protocol}}} to {field}.ports"))
    }
}

/// Compares the flow with every rule of the direction.
fn match_rules<'a>(
    case: &Case<'_>,
    direction: TrafficDirection,
    sets: &[(&'a ObjectKey, &'a RuleSet)],
) -> Vec<ApplicableRule<'a>> {
    let rules = sets.iter().flat_map(|(key, set)| set.rules.iter().map(move |rule| (*key, rule)));
    let rules = rules.filter(|(_, rule)| rule.direction == direction).enumerate();
    let applying = rules.map(|(order, (key, rule))| {
        // In the Normal tier all rules have the same position.
        let order = if rule.precedence.tier == Tier::Normal { 0 } else { order };
        ApplicableRule {
            key,
            rule,
            position: (rule.precedence, order),
            matched: case.match_rule(rule),
        }
    });
    applying.collect()
}

const fn rule_of(cause: Cause) -> Option<RuleId> {
    match cause {
        Cause::Allowed(rule) | Cause::Denied(rule) | Cause::Conflicting(rule) => Some(rule),
        Cause::Unenforced | Cause::DefaultDeny(_) | Cause::Exempt(_) => None,
    }
}

/// Whether a rule at `position`, if it had matched, would have changed the decision. `cause` is the
/// decision, made at position `decider`.
fn would_change_decision(
    action: Action,
    position: Position,
    cause: Cause,
    decider: Option<Position>,
) -> bool {
    let comes_before = decider.is_none_or(|decider| position < decider);
    let comes_beside = decider.is_none_or(|decider| position <= decider);
    let is_passed = decider.is_some_and(|(decider, _)| decider.tier == position.0.tier);
    match (cause, action) {
        (Cause::Exempt(_) | Cause::Conflicting(_), _) => false,
        (Cause::Unenforced, _) => action == Action::Deny,
        (Cause::DefaultDeny(_), _) => action == Action::Allow && position.0.tier <= Tier::Normal,
        (Cause::Allowed(_), Action::Deny) => comes_beside,
        (Cause::Denied(_), Action::Allow) => comes_before,
        (Cause::Allowed(_) | Cause::Denied(_), Action::Pass) => comes_before && is_passed,
        (Cause::Allowed(_), Action::Allow) | (Cause::Denied(_), Action::Deny) => false,
    }
}
