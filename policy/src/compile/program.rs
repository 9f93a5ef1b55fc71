//! The rules in force, with the numbers of their parts.

use std::sync::Arc;

use hashbrown::HashMap;
use podgate_tables::ids::{PortNameId, RuleId};
use podgate_tables::policy::PeerMatch;

use super::interner::{Interner, Numbers};
use crate::key::ObjectKey;
use crate::rules::{Rule, RuleSet};

/// One rule set of a policy.
#[derive(Debug)]
pub(super) struct RuleSetEntry {
    pub(super) policy: Arc<ObjectKey>,
    rule_sets: Arc<[RuleSet]>,
    /// Which of the policy's rule sets this is.
    pub(super) index: usize,
    /// Numbers of the rules and of their peers, in the order of the rules.
    pub(super) numbers: Vec<(RuleId, Vec<PeerMatch>)>,
}

impl RuleSetEntry {
    pub(super) fn rule_set(&self) -> &RuleSet {
        &self.rule_sets[self.index]
    }

    /// The rules with their numbers.
    pub(super) fn rules(&self) -> impl Iterator<Item = (&Rule, RuleId, &[PeerMatch])> {
        let rules = self.rule_set().rules.iter().zip(&self.numbers);
        rules.map(|(rule, (id, peers))| (rule, *id, peers.as_slice()))
    }
}

/// A policy in force.
#[derive(Debug)]
pub(super) struct PolicyEntry {
    pub(super) rule_sets: Arc<[RuleSet]>,
    /// Numbers of its sets.
    pub(super) sets: Vec<u32>,
}

/// All rules of all policies.
#[derive(Debug, Default)]
pub(super) struct Program {
    pub(super) policies: HashMap<Arc<ObjectKey>, PolicyEntry>,
    sets: Vec<Option<RuleSetEntry>>,
    set_numbers: Numbers,
    pub(super) rule_numbers: Numbers,
    pub(super) port_names: Interner<Arc<str>>,
}

impl Program {
    pub(super) fn set(&self, number: u32) -> Option<&RuleSetEntry> {
        self.sets.get(number as usize)?.as_ref()
    }

    /// Adds a rule set. Its number is free again after [`Self::take_set`].
    pub(super) fn add_set(
        &mut self,
        policy: &Arc<ObjectKey>,
        rule_sets: &Arc<[RuleSet]>,
        index: usize,
        numbers: Vec<(RuleId, Vec<PeerMatch>)>,
    ) -> u32 {
        let number = self.set_numbers.allocate();
        if self.sets.len() <= number as usize {
            self.sets.resize_with(number as usize + 1, || None);
        }
        let (policy, rule_sets) = (Arc::clone(policy), Arc::clone(rule_sets));
        self.sets[number as usize] = Some(RuleSetEntry { policy, rule_sets, index, numbers });
        number
    }

    pub(super) fn take_set(&mut self, number: u32) -> Option<RuleSetEntry> {
        let set = self.sets.get_mut(number as usize)?.take();
        self.set_numbers.release(number);
        set
    }

    /// The number of a name that has one.
    pub(super) fn port_name(&self, name: &str) -> Option<PortNameId> {
        self.port_names.get(name).map(PortNameId)
    }
}
