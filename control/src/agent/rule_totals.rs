//! What was counted of each policy rule since the start.
//!
//! Workers count by number and epoch ([`podgate_dataplane::worker::RuleReport`]); a number may
//! stand for other rules in other epochs. So each name that a number had is stored, with the epoch
//! since which it had it.

use std::collections::btree_map::{BTreeMap, Entry};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use podgate_dataplane::worker::{RuleKey, RuleReport, RuleTally, RuleVerdict};
use podgate_policy::RuleOrigin;
use podgate_tables::ids::{Epoch, RuleId};

/// Rules with series of their own. Each gets its series at its first hit while there are fewer, and
/// keeps it while the rule exists. Hits of other rules are counted together.
pub(crate) const SERIES_MAX: usize = 500;

/// Names of a number that are stored. Flows that were last decided under earlier ones count for no
/// rule.
const NAMES_MAX: usize = 16;

/// What a rule is called in metrics.
#[derive(Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub(crate) struct RuleName {
    /// Kind, namespace and name of the policy.
    pub(crate) policy: String,
    /// Path of the rule in it.
    pub(crate) rule: String,
}

/// Names that a number has had, each from an epoch on; none while it was free.
type NamesOfId = VecDeque<(Epoch, Option<Arc<RuleName>>)>;

/// Counters of up to [`SERIES_MAX`] rules, and of the others together.
#[derive(Debug, Default)]
pub(crate) struct RuleTotals {
    names: HashMap<RuleId, NamesOfId>,
    /// How many numbers have the name now.
    live: HashMap<Arc<RuleName>, usize>,
    /// At most [`SERIES_MAX`].
    series: BTreeMap<(Arc<RuleName>, RuleVerdict), RuleTally>,
    others: [RuleTally; 3],
    default_denied: [RuleTally; 2],
}

impl RuleTotals {
    /// From `epoch` on, these numbers have these names, or none. A rule that only gets another
    /// number keeps its counters.
    pub(crate) fn rename(
        &mut self,
        epoch: Epoch,
        renamed: impl Iterator<Item = (RuleId, Option<Arc<RuleOrigin>>)>,
    ) {
        let former: Vec<_> =
            renamed.filter_map(|(id, origin)| self.name(epoch, id, origin.as_deref())).collect();
        for name in former {
            self.release(&name);
        }
    }

    /// Names a number. Returns its former name.
    fn name(
        &mut self,
        epoch: Epoch,
        id: RuleId,
        origin: Option<&RuleOrigin>,
    ) -> Option<Arc<RuleName>> {
        let name = origin.map(|origin| {
            let name = RuleName { policy: origin.key.to_string(), rule: origin.field.clone() };
            match self.live.get_key_value(&name) {
                Some((known, _)) => Arc::clone(known),
                None => Arc::new(name),
            }
        });
        if let Some(name) = &name {
            *self.live.entry(Arc::clone(name)).or_default() += 1;
        }
        let names = self.names.entry(id).or_default();
        let former = names.back().and_then(|(_, name)| name.clone());
        if names.len() == NAMES_MAX {
            names.pop_front();
        }
        names.push_back((epoch, name));
        former
    }

    /// One number less has this name. The counters of a rule that is gone end.
    fn release(&mut self, name: &Arc<RuleName>) {
        let Some(count) = self.live.get_mut(name) else { return };
        *count -= 1;
        if *count > 0 {
            return;
        }
        self.live.remove(name);
        for verdict in [RuleVerdict::Allowed, RuleVerdict::Denied, RuleVerdict::Conflict] {
            self.series.remove(&(Arc::clone(name), verdict));
        }
    }

    /// Adds what a worker counted.
    pub(crate) fn add(&mut self, report: &RuleReport) {
        for (key, tally) in &report.rules {
            self.count(key, tally);
        }
        for (sum, tally) in self.default_denied.iter_mut().zip(&report.default_denied) {
            sum.add(tally);
        }
        self.others[RuleVerdict::Allowed as usize].add(&report.unattributed);
    }

    fn count(&mut self, key: &RuleKey, tally: &RuleTally) {
        let named = self.names.get(&key.rule).and_then(|names| {
            let of_epoch = names.iter().rev().find(|(since, _)| *since <= key.epoch);
            of_epoch.and_then(|(_, name)| name.clone())
        });
        let others = &mut self.others[key.verdict as usize];
        let Some(name) = named.filter(|name| self.live.contains_key(name)) else {
            return others.add(tally);
        };
        let full = self.series.len() >= SERIES_MAX;
        match self.series.entry((name, key.verdict)) {
            Entry::Occupied(mut of_rule) => of_rule.get_mut().add(tally),
            Entry::Vacant(_) if full => others.add(tally),
            Entry::Vacant(place) => place.insert(RuleTally::default()).add(tally),
        }
    }

    /// Rules with samples of their own.
    pub(crate) fn series(&self) -> impl Iterator<Item = (&RuleName, RuleVerdict, &RuleTally)> {
        self.series.iter().map(|((name, verdict), tally)| (&**name, *verdict, tally))
    }

    /// Hits of all other rules together, also late ones of rules that are gone, by verdict.
    pub(crate) fn others(&self) -> impl Iterator<Item = (RuleVerdict, &RuleTally)> {
        let verdicts = [RuleVerdict::Allowed, RuleVerdict::Denied, RuleVerdict::Conflict];
        verdicts.into_iter().zip(&self.others)
    }

    /// What the default deny dropped, egress and ingress.
    pub(crate) fn default_denied(&self) -> &[RuleTally; 2] {
        &self.default_denied
    }
}

#[cfg(test)]
mod tests {
    use podgate_policy::rules::TrafficDirection;
    use podgate_policy::{Kind, ObjectKey};
    use podgate_tables::time::Nanos;

    use super::*;

    fn origin(name: &str) -> RuleOrigin {
        let key = ObjectKey {
            kind: Kind::NetworkPolicy,
            namespace: Some("shop".into()),
            name: name.into(),
        };
        let field = "spec.ingress[0]".to_owned();
        RuleOrigin { key: Arc::new(key), direction: TrafficDirection::Ingress, field }
    }

    fn rename(totals: &mut RuleTotals, epoch: u64, names: &[(u32, Option<&str>)]) {
        let names = names.iter().map(|(id, name)| {
            let origin = name.map(|name| Arc::new(origin(name)));
            (RuleId(*id), origin)
        });
        totals.rename(Epoch(epoch), names);
    }

    fn report(epoch: u64, rule: u32, hits: u64) -> RuleReport {
        let (epoch, rule) = (Epoch(epoch), RuleId(rule));
        let key = RuleKey { epoch, rule, verdict: RuleVerdict::Allowed };
        let tally = RuleTally { hits, bytes: 100 * hits, last: Nanos(epoch.0) };
        RuleReport { rules: vec![(key, tally)], ..RuleReport::default() }
    }

    fn hits(totals: &RuleTotals, name: &str) -> Option<u64> {
        let policy = format!("NetworkPolicy shop/{name}");
        let mut series = totals.series();
        series.find(|(rule, ..)| rule.policy == policy).map(|(.., tally)| tally.hits)
    }

    #[test]
    fn a_number_counts_for_the_rule_that_had_it_in_the_epoch() {
        let mut totals = RuleTotals::default();
        rename(&mut totals, 1, &[(7, Some("web"))]);
        rename(&mut totals, 1, &[(8, Some("db"))]);
        totals.add(&report(3, 7, 2));
        // Another number for each of them.
        rename(&mut totals, 4, &[(7, Some("db")), (8, None), (9, Some("web"))]);
        totals.add(&report(4, 7, 10));
        // From a worker that was late, and a flow that was decided before.
        totals.add(&report(3, 7, 5));
        assert_eq!((hits(&totals, "web"), hits(&totals, "db")), (Some(7), Some(10)));
    }

    #[test]
    fn a_rule_that_is_gone_leaves_its_place_and_late_hits_count_for_others() {
        let mut totals = RuleTotals::default();
        rename(&mut totals, 1, &[(7, Some("web"))]);
        totals.add(&report(1, 7, 2));
        assert_eq!(totals.series.len(), 1);
        rename(&mut totals, 2, &[(7, None)]);
        totals.add(&report(1, 7, 3));
        assert_eq!((hits(&totals, "web"), totals.series.len()), (None, 0));
        assert_eq!(totals.others().next().map(|(_, tally)| tally.hits), Some(3));
        // A rule of the same name begins at zero, as after a restart.
        rename(&mut totals, 3, &[(1, Some("web"))]);
        totals.add(&report(3, 1, 1));
        assert_eq!(hits(&totals, "web"), Some(1));
    }

    #[test]
    fn rules_beyond_the_bound_are_counted_together() {
        let mut totals = RuleTotals::default();
        let all = SERIES_MAX as u32 + 3;
        for rule in 0..all {
            rename(&mut totals, 1, &[(rule, Some(&format!("p{rule}")))]);
        }
        for rule in 0..all {
            totals.add(&report(1, rule, 1));
        }
        assert_eq!(totals.series().count(), SERIES_MAX);
        let others = |totals: &RuleTotals| -> u64 { totals.others().map(|(_, t)| t.hits).sum() };
        assert_eq!(others(&totals), 3);
        // No hit is in two samples: a rule that gets a series later begins at zero.
        rename(&mut totals, 2, &[(0, None)]);
        totals.add(&report(2, all - 1, 10));
        assert_eq!((hits(&totals, &format!("p{}", all - 1)), others(&totals)), (Some(10), 3));
    }
}
