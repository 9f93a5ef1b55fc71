//! What of a flow was matched in each direction, without the names of a record: to count all
//! events.

use podgate_tables::event::{Event, EventKind};
use podgate_tables::policy::{Cause, Exemption, IdentityRow, LocalEnds, RuleTable, Subject};

use super::record::MatchType;
use super::resolve::match_type;
use crate::compile::Compiled;
use crate::rules::TrafficDirection;

/// What decided a flow in one direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PolicyMatch {
    /// The direction.
    pub direction: TrafficDirection,
    /// Whether it allowed the flow.
    pub allowed: bool,
    /// What of the flow was matched, as [`DecidedBy::matched`](super::DecidedBy::matched) has it.
    pub matched: Option<MatchType>,
}

/// The directions of [`FlowRecord::directions`](super::FlowRecord::directions), with what was
/// matched in each. `compiled` are the tables of the event's epoch.
pub fn policy_matches(
    event: &Event,
    compiled: &Compiled,
) -> impl Iterator<Item = PolicyMatch> + use<> {
    let mut found = [None, None];
    if let EventKind::Verdict { egress, ingress, icmp_type, .. } = event.kind {
        let (tuple, tables) = (event.tuple, &compiled.tables);
        let port = Subject { tuple, icmp_type }.policy_port();
        let [shows_egress, shows_ingress] = shown(egress.into(), ingress.into());
        let matched = |direction, cause: Cause, table: fn(&IdentityRow) -> &RuleTable, end| {
            let table = table(tables.resolve(end).identity);
            let matched = matched(cause, table, tuple.protocol, port);
            PolicyMatch { direction, allowed: cause.allows(), matched }
        };
        found = [
            shows_egress
                .then(|| matched(TrafficDirection::Egress, egress, |row| &row.egress, tuple.src)),
            shows_ingress.then(|| {
                matched(TrafficDirection::Ingress, ingress, |row| &row.ingress, tuple.dst)
            }),
        ];
    }
    found.into_iter().flatten()
}

/// The direction in which a request was decided: that of the rule that allowed it, or of the rules
/// that restrict it; without any, the one at the server.
#[must_use]
pub fn request_direction(event: &Event, compiled: &Compiled) -> TrafficDirection {
    let decided = match event.kind {
        EventKind::Request { rule: Some(rule), .. } => {
            compiled.catalog.rule(rule).map(|origin| origin.direction)
        }
        EventKind::Request { allowed: false, .. } => {
            let subject = Subject { tuple: event.tuple, icmp_type: 0 };
            let l7 = compiled.tables.decide(&subject, LocalEnds::BOTH).l7;
            let mut ends =
                [(TrafficDirection::Ingress, l7.ingress), (TrafficDirection::Egress, l7.egress)]
                    .into_iter();
            let found = ends.find(|(_, entries)| entries.iter().any(|entry| entry.rules.is_some()));
            found.map(|(direction, _)| direction)
        }
        _ => None,
    };
    let at_server = || match compiled.catalog.pod_at(event.tuple.dst.ip()) {
        Some(_) => TrafficDirection::Ingress,
        None => TrafficDirection::Egress,
    };
    decided.unwrap_or_else(at_server)
}

/// What of a flow the cause of its verdict matched.
fn matched(cause: Cause, table: &RuleTable, protocol: u8, port: u16) -> Option<MatchType> {
    match cause {
        Cause::Allowed(rule) | Cause::Denied(rule) => Some(match_type(rule, table, protocol, port)),
        Cause::Conflicting(_) => Some(MatchType::L3L4),
        Cause::Exempt(Exemption::FromNode | Exemption::ToNode | Exemption::ToSelf) => {
            Some(MatchType::L3Only)
        }
        Cause::Exempt(Exemption::NotLocal) | Cause::Unenforced => Some(MatchType::All),
        Cause::DefaultDeny(_) => None,
    }
}

/// What [`shown`] asks of one direction.
#[derive(Clone, Copy)]
pub(super) struct Shown {
    /// Whether a policy decided it.
    pub(super) by_policy: bool,
    /// Whether it allowed the flow.
    pub(super) allowed: bool,
    /// Whether another node applies its policy.
    pub(super) elsewhere: bool,
}

impl From<Cause> for Shown {
    fn from(cause: Cause) -> Self {
        Self {
            by_policy: !matches!(cause, Cause::Unenforced | Cause::Exempt(_)),
            allowed: cause.allows(),
            elsewhere: cause == Cause::Exempt(Exemption::NotLocal),
        }
    }
}

/// Whether egress and ingress are directions of a verdict: those that a policy decided; if there is
/// none, the one at this node. Where egress denies a flow, an ingress that would have allowed it is
/// left out.
pub(super) fn shown(egress: Shown, ingress: Shown) -> [bool; 2] {
    match [egress.by_policy, ingress.by_policy && (egress.allowed || !ingress.allowed)] {
        [false, false] => [!egress.elsewhere, egress.elsewhere],
        shown => shown,
    }
}
