//! From the objects in a [`Store`] to the tables that workers look up.
//!
//! 1. Pods with the same labels, namespace, namespace labels and service account become one
//!    identity ([`identities`]).
//! 2. Each rule gets a number, and so does each distinct peer by labels and each distinct list of
//!    networks: these are the *selectors* ([`selectors`]). An index over their conditions ([`index`]) finds, for
//!    each identity, the few selectors that match it out of all.
//! 3. The same index, over the subjects of all policies, finds what applies to an identity.
//!    Identities to which the same rule sets apply share one table ([`sharing`], [`direction`]).
//! 4. Networks become disjoint ranges ([`networks`]).
//!
//! Numbers are given in the order of the objects' names, so that the tables do not depend on the
//! order in which objects came.

mod addresses;
mod direction;
mod identities;
mod index;
mod networks;
mod selectors;
mod sharing;

use std::sync::Arc;

use hashbrown::HashMap;
use podgate_dataplane::policy::{IdentityRow, PolicyTables, PortNameId, RuleId, SelectorId};

use self::addresses::addresses;
use self::identities::{Identities, Identity};
use self::index::SelectorIndex;
use self::networks::build_networks;
use self::selectors::Selectors;
use self::sharing::DirectionTables;
use crate::catalog::{Catalog, IdentityInfo, RuleOrigin};
use crate::key::ObjectKey;
use crate::labels::Facts;
use crate::model::PortNumbers;
use crate::rules::{Rule, RuleSet, Side};
use crate::store::{EnforcementMode, Store};

/// The outcome of [`compile`].
#[derive(Clone, Debug)]
pub struct Compiled {
    /// What workers look up.
    pub tables: Arc<PolicyTables>,
    /// The names behind its numbers.
    pub catalog: Arc<Catalog>,
}

/// Compiles everything in the store.
#[must_use]
pub fn compile(store: &Store) -> Compiled {
    let identities = Identities::collect(store);
    let program = Program::collect(store);
    let selectors = program.selectors.matches_of(&identities);
    let mut tables = DirectionTables::new(&program, store.mode());
    let index = SelectorIndex::new(
        program.sets.iter().enumerate().map(|(set, placed)| (&placed.rules.subject, set as u32)),
    );
    let rows = identities.rows.iter().zip(selectors).map(|(identity, selectors)| {
        let [egress, ingress] = match identity.facts {
            Facts::Pod { .. } => {
                let sets = index.matching(&identity.facts);
                Side::ALL.map(|side| tables.of_pod(side, &sets))
            }
            Facts::Reserved(_) => Side::ALL.map(|_| tables.open()),
        };
        Arc::new(IdentityRow { number: identity.number, selectors, egress, ingress })
    });
    let rows = rows.collect();
    let deny_sets = tables.into_deny_sets();
    let networks = build_networks(program.selectors.networks());
    let (addresses, pods) = addresses(store, &identities, &program.port_names);
    let info = |identity: Identity| IdentityInfo { number: identity.number, facts: identity.facts };
    let catalog = Catalog {
        rules: program.origins,
        deny_sets,
        identities: identities.rows.into_iter().map(info).collect(),
        pods,
    };
    Compiled {
        tables: Arc::new(PolicyTables { addresses, networks, identities: rows }),
        catalog: Arc::new(catalog),
    }
}

/// One rule set, with the numbers of its parts.
struct PlacedSet<'s> {
    rules: &'s RuleSet,
    /// Index into [`Program::policies`].
    policy: u32,
    /// Rules and their peers, in step with `rules.rules`.
    numbers: Vec<(RuleId, Vec<Option<SelectorId>>)>,
}

/// All rules of all policies, numbered.
struct Program<'s> {
    policies: Vec<ObjectKey>,
    sets: Vec<PlacedSet<'s>>,
    origins: Vec<RuleOrigin>,
    selectors: Selectors<'s>,
    port_names: HashMap<&'s str, PortNameId>,
}

impl<'s> Program<'s> {
    fn collect(store: &'s Store) -> Self {
        let mut program = Self {
            policies: Vec::new(),
            sets: Vec::new(),
            origins: Vec::new(),
            selectors: Selectors::default(),
            port_names: HashMap::new(),
        };
        if store.mode() == EnforcementMode::Never {
            return program;
        }
        for (key, sets) in store.rule_sets() {
            let policy = program.policies.len() as u32;
            program.policies.push(key.clone());
            for rules in sets {
                let numbers = rules.rules.iter().map(|rule| program.place(key, rule)).collect();
                program.sets.push(PlacedSet { rules, policy, numbers });
            }
        }
        program
    }

    fn place(&mut self, key: &ObjectKey, rule: &'s Rule) -> (RuleId, Vec<Option<SelectorId>>) {
        let id = RuleId(self.origins.len() as u32);
        let origin = RuleOrigin { key: key.clone(), side: rule.side, field: rule.field.clone() };
        self.origins.push(origin);
        for ports in rule.ports.iter().flatten() {
            if let PortNumbers::Named(name) = &ports.ports.ports {
                let next = PortNameId(self.port_names.len() as u32);
                self.port_names.entry(name).or_insert(next);
            }
        }
        (id, self.selectors.intern(rule.peers.as_deref()))
    }
}
