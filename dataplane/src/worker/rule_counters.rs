//! Exact counters of policy rules: hits, bytes and the time of the last hit.
//!
//! A worker counts where it decides, so lost events change nothing. Tallies of the current epoch
//! are a table by rule number; those of earlier epochs, whose rules may have had other numbers, and
//! conflicts are in a map. The control thread takes both, names the rules by the tables of their
//! epoch, and adds them up.
//!
//! # What counts
//! - A *hit*: a flow that the rule decided when it was opened, a packet that it denied, or an L7
//!   request that it allowed. A flow has one deciding rule for each direction at most.
//! - *Bytes* of IP: of the flows that the rule allowed, both directions, and of the packets that it
//!   denied. Those of a live flow are added every [`FLOW_BYTES_PERIOD`], when the flow is decided
//!   again, and when it ends.

use std::time::Duration;

use hashbrown::HashMap;
use podgate_tables::ids::{Epoch, RuleId};
use podgate_tables::policy::Cause;
use podgate_tables::time::Nanos;

use crate::flow::{Flow, FlowTable};

/// How often the bytes of live flows are added.
pub const FLOW_BYTES_PERIOD: Duration = Duration::from_secs(10);

/// Rules with a tally of the current epoch; those with higher numbers are counted in the map.
const DENSE_MAX: usize = 1 << 17;

/// Entries of the map. Beyond them, what is counted is attributed to no rule.
const MAP_MAX: usize = 1 << 14;

/// What a rule does with what it matches.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum RuleVerdict {
    /// It allows it.
    Allowed,
    /// It denies it.
    Denied,
    /// It has L7 rules of another protocol than another rule that applies: denied.
    Conflict,
}

/// A rule of the tables of an epoch.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RuleKey {
    /// The epoch, whose catalogue has the rule's name.
    pub epoch: Epoch,
    /// The rule.
    pub rule: RuleId,
    /// What it did.
    pub verdict: RuleVerdict,
}

/// What was counted of a rule.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct RuleTally {
    /// Flows, denied packets and requests.
    pub hits: u64,
    /// Bytes of IP.
    pub bytes: u64,
    /// Time of the last hit on the worker's clock; zero if there was none.
    pub last: Nanos,
}

impl RuleTally {
    /// Adds what `other` counted.
    pub fn add(&mut self, other: &Self) {
        self.hits += other.hits;
        self.bytes += other.bytes;
        self.last = Nanos(self.last.0.max(other.last.0));
    }
}

/// What one worker counted since the last report.
#[derive(Clone, Default, Debug)]
pub struct RuleReport {
    /// Each rule at most once.
    pub rules: Vec<(RuleKey, RuleTally)>,
    /// What the default deny dropped, egress and ingress.
    pub default_denied: [RuleTally; 2],
    /// What no rule could be named for, because too many epochs were counted at once.
    pub unattributed: RuleTally,
}

/// One worker's tallies.
#[derive(Debug, Default)]
pub(super) struct RuleCounters {
    epoch: Epoch,
    /// Tallies of `epoch` by rule.
    dense: Vec<(RuleVerdict, RuleTally)>,
    /// Rules whose tally in `dense` is not zero.
    touched: Vec<u32>,
    others: HashMap<RuleKey, RuleTally>,
    default_denied: [RuleTally; 2],
    unattributed: RuleTally,
}

impl RuleCounters {
    /// Counts a decision by its causes; `denied_bytes` are those of the packet if it is dropped.
    #[inline]
    pub(super) fn decided(
        &mut self,
        epoch: Epoch,
        causes: [Cause; 2],
        denied_bytes: u64,
        now: Nanos,
    ) {
        for (direction, cause) in causes.into_iter().enumerate() {
            let (verdict, rule) = match cause {
                Cause::Allowed(rule) => (RuleVerdict::Allowed, rule),
                Cause::Denied(rule) => (RuleVerdict::Denied, rule),
                Cause::Conflicting(rule) => (RuleVerdict::Conflict, rule),
                Cause::DefaultDeny(_) => {
                    let hit = RuleTally { hits: 1, bytes: denied_bytes, last: now };
                    self.default_denied[direction].add(&hit);
                    continue;
                }
                Cause::Unenforced | Cause::Exempt(_) => continue,
            };
            let bytes = if cause.allows() { 0 } else { denied_bytes };
            let key = RuleKey { epoch, rule, verdict };
            self.count(key, RuleTally { hits: 1, bytes, last: now });
        }
    }

    /// Counts an L7 request that `rule` allowed.
    pub(super) fn request(&mut self, epoch: Epoch, rule: RuleId, now: Nanos) {
        let key = RuleKey { epoch, rule, verdict: RuleVerdict::Allowed };
        self.count(key, RuleTally { hits: 1, bytes: 0, last: now });
    }

    /// Counts the bytes of a flow that are not counted yet, for the rules that allowed it.
    #[inline]
    pub(super) fn count_flow(&mut self, flow: &mut Flow) {
        let epoch = flow.epoch().nearest_to(self.epoch);
        let bytes = flow.take_uncounted_bytes();
        if bytes == 0 {
            return;
        }
        for rule in flow.rules().into_iter().flatten() {
            let key = RuleKey { epoch, rule, verdict: RuleVerdict::Allowed };
            self.count(key, RuleTally { hits: 0, bytes, last: Nanos(0) });
        }
    }

    #[inline]
    fn count(&mut self, key: RuleKey, tally: RuleTally) {
        // Epochs only grow.
        if key.epoch > self.epoch {
            self.retire(key.epoch);
        }
        let number = key.rule.0 as usize;
        let is_dense =
            key.epoch == self.epoch && number < DENSE_MAX && key.verdict != RuleVerdict::Conflict;
        if !is_dense {
            return self.count_other(key, &tally);
        }
        if self.dense.len() <= number {
            let none = (RuleVerdict::Allowed, RuleTally::default());
            self.dense.resize((number + 1).next_power_of_two(), none);
        }
        let (verdict, sum) = &mut self.dense[number];
        if *sum == RuleTally::default() {
            self.touched.push(key.rule.0);
            *verdict = key.verdict;
        }
        sum.add(&tally);
    }

    #[cold]
    fn count_other(&mut self, key: RuleKey, tally: &RuleTally) {
        if self.others.len() >= MAP_MAX && !self.others.contains_key(&key) {
            return self.unattributed.add(tally);
        }
        self.others.entry(key).or_default().add(tally);
    }

    /// Moves the tallies of the epoch to the map, and begins another one.
    #[cold]
    fn retire(&mut self, next: Epoch) {
        let mut touched = std::mem::take(&mut self.touched);
        for number in touched.drain(..) {
            let (verdict, tally) = self.dense[number as usize];
            self.dense[number as usize].1 = RuleTally::default();
            let key = RuleKey { epoch: self.epoch, rule: RuleId(number), verdict };
            self.count_other(key, &tally);
        }
        self.touched = touched;
        self.epoch = next;
    }

    /// Counts again what is in a report.
    pub(super) fn put_back(&mut self, report: &RuleReport) {
        for (key, tally) in &report.rules {
            self.count_other(*key, tally);
        }
        for (sum, tally) in self.default_denied.iter_mut().zip(&report.default_denied) {
            sum.add(tally);
        }
        self.unattributed.add(&report.unattributed);
    }

    /// Takes what was counted since the last call.
    pub(super) fn take(&mut self) -> RuleReport {
        self.retire(self.epoch);
        RuleReport {
            rules: self.others.drain().collect(),
            default_denied: std::mem::take(&mut self.default_denied),
            unattributed: std::mem::take(&mut self.unattributed),
        }
    }
}

/// A pass over a worker's flow table that counts the bytes of live flows, some slots between two
/// rounds.
#[derive(Debug, Default)]
pub(super) struct FlowBytesScan {
    /// The first slot that was not read yet, while it runs.
    next: Option<u32>,
}

/// Slots of the flow table that are read between two rounds.
const SLOTS: u32 = 256;

impl FlowBytesScan {
    /// Starts a pass, unless one runs.
    pub(super) fn start(&mut self) {
        self.next.get_or_insert(0);
    }

    pub(super) fn is_running(&self) -> bool {
        self.next.is_some()
    }

    /// Reads some more flows.
    pub(super) fn advance(&mut self, flows: &mut FlowTable, counters: &mut RuleCounters) {
        let Some(next) = self.next else { return };
        for flow in flows.in_slots_mut(next, SLOTS) {
            counters.count_flow(flow);
        }
        self.next = Some(next + SLOTS).filter(|next| *next < flows.slots());
    }
}

#[cfg(test)]
mod tests {
    use podgate_tables::ids::DenySetId;

    use super::*;

    fn key(epoch: u64, rule: u32, verdict: RuleVerdict) -> RuleKey {
        RuleKey { epoch: Epoch(epoch), rule: RuleId(rule), verdict }
    }

    fn sorted(mut report: RuleReport) -> Vec<(RuleKey, RuleTally)> {
        report.rules.sort_by_key(|(key, _)| (key.epoch, key.rule, key.verdict));
        report.rules
    }

    #[test]
    fn each_rule_has_its_hits_by_epoch_and_a_report_takes_them() {
        let mut counters = RuleCounters::default();
        let allowed = |rule| Cause::Allowed(RuleId(rule));
        counters.decided(Epoch(1), [allowed(3), Cause::Unenforced], 0, Nanos(10));
        counters.decided(Epoch(1), [allowed(3), Cause::Denied(RuleId(9))], 60, Nanos(11));
        counters.request(Epoch(1), RuleId(3), Nanos(12));
        // The number of another rule from here on.
        counters.decided(Epoch(2), [allowed(3), Cause::Conflicting(RuleId(3))], 40, Nanos(13));
        let tally = |hits, bytes, last| RuleTally { hits, bytes, last: Nanos(last) };
        let expected = vec![
            (key(1, 3, RuleVerdict::Allowed), tally(3, 0, 12)),
            (key(1, 9, RuleVerdict::Denied), tally(1, 60, 11)),
            (key(2, 3, RuleVerdict::Allowed), tally(1, 0, 13)),
            (key(2, 3, RuleVerdict::Conflict), tally(1, 40, 13)),
        ];
        let report = counters.take();
        assert_eq!(sorted(report.clone()), expected);
        assert_eq!(sorted(counters.take()), []);
        counters.put_back(&report);
        assert_eq!(sorted(counters.take()), expected);
    }

    #[test]
    fn the_default_deny_is_counted_by_direction() {
        let mut counters = RuleCounters::default();
        let causes = [Cause::Unenforced, Cause::DefaultDeny(DenySetId(1))];
        counters.decided(Epoch(1), causes, 60, Nanos(10));
        counters.decided(Epoch(1), causes, 60, Nanos(11));
        let report = counters.take();
        counters.put_back(&report);
        let [egress, ingress] = counters.take().default_denied;
        assert_eq!((egress.hits, ingress.hits, ingress.bytes), (0, 2, 120));
    }

    #[test]
    fn what_finds_no_place_is_counted_for_no_rule() {
        let mut counters = RuleCounters::default();
        let extra = 5;
        for number in 0..(MAP_MAX + extra) as u32 {
            counters.decided(Epoch(1), [Cause::Conflicting(RuleId(number)); 2], 1, Nanos(1));
        }
        let report = counters.take();
        assert_eq!(report.rules.len(), MAP_MAX);
        assert_eq!(report.unattributed.hits, 2 * extra as u64);
        // Rules with the highest numbers are counted, too.
        counters.request(Epoch(1), RuleId(u32::MAX), Nanos(2));
        assert_eq!(counters.take().rules.len(), 1);
    }
}
