//! One table for all identities that the same rule sets apply to.

use std::sync::Arc;

use hashbrown::HashMap;
use podgate_dataplane::policy::{DenySetId, DirectionTable};

use super::Program;
use super::direction::{Draft, build_direction};
use crate::key::ObjectKey;
use crate::rules::Side;
use crate::store::EnforcementMode;

/// Tables, each shared by all identities that the same rule sets apply to.
pub(super) struct DirectionTables<'p, 's> {
    program: &'p Program<'s>,
    mode: EnforcementMode,
    tables: HashMap<(Side, Vec<u32>), Arc<DirectionTable>>,
    open: Arc<DirectionTable>,
    /// Policies of each default deny, as indices into [`Program::policies`].
    deny_sets: Vec<Vec<u32>>,
    deny_ids: HashMap<Vec<u32>, DenySetId>,
}

impl<'p, 's> DirectionTables<'p, 's> {
    pub(super) fn new(program: &'p Program<'s>, mode: EnforcementMode) -> Self {
        Self {
            program,
            mode,
            tables: HashMap::new(),
            open: Arc::default(),
            deny_sets: Vec::new(),
            deny_ids: HashMap::new(),
        }
    }

    /// The table of what no policy selects.
    pub(super) fn open(&self) -> Arc<DirectionTable> {
        Arc::clone(&self.open)
    }

    /// The table of pods that `sets` (sorted) select.
    pub(super) fn of_pod(&mut self, side: Side, sets: &[u32]) -> Arc<DirectionTable> {
        let applying = sets.iter().copied();
        let applying = applying.filter(|set| self.program.sets[*set as usize].rules.applies(side));
        let applying: Vec<u32> = applying.collect();
        let always = self.mode == EnforcementMode::Always;
        if applying.is_empty() && !always {
            return self.open();
        }
        if let Some(table) = self.tables.get(&(side, applying.clone())) {
            return Arc::clone(table);
        }
        let placed = || applying.iter().map(|set| &self.program.sets[*set as usize]);
        let denying = placed().filter(|set| set.rules.default_deny[side as usize]);
        let mut denying: Vec<u32> = denying.map(|set| set.policy).collect();
        denying.dedup();
        let drafts = placed().flat_map(|set| {
            let rules = set.rules.rules.iter().zip(&set.numbers);
            rules.filter(|(rule, _)| rule.side == side).map(|(rule, (id, peers))| Draft {
                rule,
                id: *id,
                peers,
            })
        });
        let mut table = build_direction(drafts, &self.program.port_names);
        if always || !denying.is_empty() {
            table.default_deny = Some(self.deny_set(denying));
        }
        let table = Arc::new(table);
        self.tables.insert((side, applying), Arc::clone(&table));
        table
    }

    fn deny_set(&mut self, policies: Vec<u32>) -> DenySetId {
        let next = DenySetId(self.deny_sets.len() as u32);
        let id = *self.deny_ids.entry(policies.clone()).or_insert(next);
        if id == next {
            self.deny_sets.push(policies);
        }
        id
    }

    /// The policies behind each default deny.
    pub(super) fn into_deny_sets(self) -> Vec<Vec<ObjectKey>> {
        let key = |policy: &u32| self.program.policies[*policy as usize].clone();
        self.deny_sets.iter().map(|policies| policies.iter().map(key).collect()).collect()
    }
}
