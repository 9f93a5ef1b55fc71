//! Metrics of policy rules.

use podgate_api::Family;
use podgate_dataplane::worker::{RuleTally, RuleVerdict};
use podgate_tables::time::Nanos;

use crate::agent::RuleTotals;

/// Labels of all rules without samples of their own.
const OTHERS: [(&str, &str); 2] = [("policy", ""), ("rule", "others")];

fn label(verdict: RuleVerdict) -> &'static str {
    match verdict {
        RuleVerdict::Allowed => "allowed",
        RuleVerdict::Denied => "denied",
        RuleVerdict::Conflict => "conflict",
    }
}

/// Hits, bytes and last hit by rule, and what the default deny dropped.
pub(super) fn families(totals: &RuleTotals, wall_s: &dyn Fn(Nanos) -> f64) -> [Family; 5] {
    let [mut hits, mut bytes] = [
        Family::counter(
            "podgate_rule_hits_total",
            "Flows that a rule decided, packets that it denied, and L7 requests that it allowed",
        ),
        Family::counter(
            "podgate_rule_bytes_total",
            "Bytes of IP of the flows that a rule allowed, and of the packets that it denied",
        ),
    ];
    let mut last = Family::gauge(
        "podgate_rule_last_hit_timestamp_seconds",
        "Time of a rule's last hit, seconds since 1970",
    );
    for (name, verdict, tally) in totals.series() {
        let labels =
            [("policy", &*name.policy), ("rule", &*name.rule), ("verdict", label(verdict))];
        hits = hits.with(&labels, tally.hits);
        bytes = bytes.with(&labels, tally.bytes);
        if tally.hits > 0 {
            last = last.with(&labels, wall_s(tally.last));
        }
    }
    for (verdict, tally) in totals.others() {
        let [policy, rule] = OTHERS;
        let labels = [policy, rule, ("verdict", label(verdict))];
        hits = hits.with(&labels, tally.hits);
        bytes = bytes.with(&labels, tally.bytes);
    }
    let denied = |name, help, of: fn(&RuleTally) -> u64| {
        let family = Family::counter(name, help);
        let directions = ["egress", "ingress"].into_iter().zip(totals.default_denied());
        directions.fold(family, |family, (direction, tally)| {
            family.with(&[("direction", direction)], of(tally))
        })
    };
    [
        hits,
        bytes,
        last,
        denied(
            "podgate_default_deny_packets_total",
            "Packets that no rule allowed, of endpoints that a policy isolates",
            |tally| tally.hits,
        ),
        denied("podgate_default_deny_bytes_total", "Bytes of IP of these packets", |tally| {
            tally.bytes
        }),
    ]
}
