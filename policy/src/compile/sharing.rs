//! One table for all identities that the same rule sets apply to.

use std::sync::Arc;

use hashbrown::HashMap;
use podgate_tables::ids::DenySetId;
use podgate_tables::policy::RuleTable;

use super::direction::{NumberedRule, build_direction};
use super::interner::Interner;
use super::program::Program;
use super::table_builder::TableBuilder;
use crate::key::ObjectKey;
use crate::rules::{PerDirection, TrafficDirection};
use crate::store::EnforcementMode;

/// The table of an identity in one direction.
#[derive(Clone, Debug)]
pub(super) struct SharedTable {
    /// Rule sets that apply, sorted.
    applying: Arc<[u32]>,
    pub(super) table: Arc<RuleTable>,
}

/// Tables by the sets that apply, with the number of users.
type TablesByRuleSets = HashMap<Arc<[u32]>, (SharedTable, u32)>;

/// Tables, each shared by all identities that the same rule sets apply to.
#[derive(Debug)]
pub(super) struct DirectionTables {
    mode: EnforcementMode,
    /// Of each direction.
    tables: PerDirection<TablesByRuleSets>,
    deny_sets: Interner<Arc<[ObjectKey]>>,
}

impl DirectionTables {
    pub(super) fn new(mode: EnforcementMode) -> Self {
        Self { mode, tables: PerDirection::default(), deny_sets: Interner::default() }
    }

    /// The table of pods that `sets` (sorted) select, for one more user of it.
    pub(super) fn acquire(
        &mut self,
        direction: TrafficDirection,
        sets: &[u32],
        program: &Program,
        builder: &mut TableBuilder,
    ) -> SharedTable {
        let applies =
            |set: &u32| program.set(*set).is_some_and(|s| s.rule_set().applies(direction));
        let applying: Vec<u32> = sets.iter().copied().filter(applies).collect();
        if let Some((shared, users)) = self.tables[direction].get_mut(applying.as_slice()) {
            *users += 1;
            return shared.clone();
        }
        let table = Arc::new(self.build(direction, &applying, program, builder));
        let shared = SharedTable { applying: applying.into(), table };
        self.tables[direction].insert(Arc::clone(&shared.applying), (shared.clone(), 1));
        shared
    }

    /// One user less of the tables of both directions.
    pub(super) fn release(
        &mut self,
        shared: &PerDirection<SharedTable>,
        builder: &mut TableBuilder,
    ) {
        for direction in TrafficDirection::ALL {
            let (shared, tables) = (&shared[direction], &mut self.tables[direction]);
            let Some((_, users)) = tables.get_mut(&shared.applying) else { continue };
            *users -= 1;
            if *users > 0 {
                continue;
            }
            tables.remove(&shared.applying);
            if let Some(set) = shared.table.default_deny
                && self.deny_sets.release(set.0).is_some()
            {
                builder.name_deny_set(set, Arc::default());
            }
        }
    }

    fn build(
        &mut self,
        direction: TrafficDirection,
        applying: &[u32],
        program: &Program,
        builder: &mut TableBuilder,
    ) -> RuleTable {
        let sets = || applying.iter().filter_map(|set| program.set(*set));
        let denying = sets().filter(|set| set.rule_set().default_deny[direction]);
        let mut denying: Vec<ObjectKey> = denying.map(|set| (*set.policy).clone()).collect();
        denying.sort_unstable();
        denying.dedup();
        let rules = sets().flat_map(|set| {
            let rules = set.rules().filter(|(rule, ..)| rule.direction == direction).enumerate();
            rules.map(|(order, (rule, id, peers))| NumberedRule {
                rule,
                order: (&set.policy, set.index, order),
                id,
                peers,
            })
        });
        let mut table = build_direction(rules, |name| program.port_name(name));
        if self.mode == EnforcementMode::Always || !denying.is_empty() {
            table.default_deny = Some(self.deny_set(denying.into(), builder));
        }
        table
    }

    fn deny_set(&mut self, policies: Arc<[ObjectKey]>, builder: &mut TableBuilder) -> DenySetId {
        let (id, is_new) = self.deny_sets.acquire(&policies);
        if is_new {
            builder.name_deny_set(DenySetId(id), policies);
        }
        DenySetId(id)
    }
}
