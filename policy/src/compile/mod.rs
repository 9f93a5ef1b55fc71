//! From the objects in a [`Store`] to the tables that workers look up.
//!
//! 1. Pods with the same labels, namespace, namespace labels and service account become one
//!    identity ([`identities`]).
//! 2. Each rule gets a number, and so does each distinct peer by labels and each distinct list of
//!    networks: these are the *selectors*. An index over their conditions ([`index`]) finds, for
//!    each identity, the few selectors that match it out of all.
//! 3. The same index, over the subjects of all policies, finds what applies to an identity.
//!    Identities to which the same rule sets apply share one table ([`direction`]).
//! 4. Networks become disjoint ranges ([`networks`]).
//!
//! Numbers are given in the order of the objects' names, so that the tables do not depend on the
//! order in which objects came.

mod direction;
mod identities;
mod index;
mod networks;

use std::sync::Arc;

use hashbrown::HashMap;
use podgate_dataplane::policy::{
    AddressRow, AddressTable, DenySetId, DirectionTable, IdentityRow, NamedPorts, PolicyTables,
    PortNameId, RuleId, SelectorId, SelectorSet,
};
use podgate_dataplane::types::Address;

use self::direction::{Draft, build_direction};
use self::identities::Identities;
use self::index::SelectorIndex;
use self::networks::build_networks;
use crate::catalog::{Catalog, IdentityInfo, PodName, RuleOrigin};
use crate::key::ObjectKey;
use crate::labels::Facts;
use crate::model::PortNumbers;
use crate::rules::{NetworkPeer, Peer, Rule, RuleSet, Side};
use crate::selector::Selector;
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
        let sets = match identity.facts {
            Facts::Pod { .. } => index.matching(&identity.facts),
            Facts::Reserved(_) => Vec::new(),
        };
        let is_pod = matches!(identity.facts, Facts::Pod { .. });
        Arc::new(IdentityRow {
            number: identity.number,
            selectors,
            egress: tables.table(Side::Egress, &sets, is_pod),
            ingress: tables.table(Side::Ingress, &sets, is_pod),
        })
    });
    let rows = rows.collect();
    let deny_sets = tables.deny_sets;
    let (addresses, pods) = addresses(store, &identities, &program.port_names);
    let networks = build_networks(program.selectors.networks());
    let info = identities
        .rows
        .into_iter()
        .map(|identity| IdentityInfo { number: identity.number, facts: identity.facts });
    let deny_sets = deny_sets.into_iter().map(|policies| {
        policies.into_iter().map(|policy| program.policies[policy as usize].clone()).collect()
    });
    let catalog = Catalog {
        rules: program.origins,
        deny_sets: deny_sets.collect(),
        identities: info.collect(),
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

/// What one selector number stands for.
///
/// A peer by labels has a number of its own, because one such as "all namespaces" can be in many
/// rules, and match many identities. The networks of a rule have one number together, because
/// there can be many in one rule, and an address is in few.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Source<'s> {
    Labels(&'s Selector),
    Networks(&'s [Peer]),
}

/// Distinct selectors.
#[derive(Default)]
struct Selectors<'s> {
    sources: Vec<Source<'s>>,
    ids: HashMap<Source<'s>, SelectorId>,
}

impl<'s> Selectors<'s> {
    /// The numbers of a rule's peers (sorted); the one `None` is anyone.
    fn intern(&mut self, peers: Option<&'s [Peer]>) -> Vec<Option<SelectorId>> {
        let Some(peers) = peers else { return vec![None] };
        // Networks sort last.
        let (labels, networks) =
            peers.split_at(peers.partition_point(|peer| matches!(peer, Peer::Labels(_))));
        let labels = labels.iter().filter_map(|peer| match peer {
            Peer::Labels(selector) => Some(Source::Labels(selector)),
            Peer::Network(_) => None,
        });
        let networks = (!networks.is_empty()).then_some(Source::Networks(networks));
        labels.chain(networks).map(|source| Some(self.id(source))).collect()
    }

    fn id(&mut self, source: Source<'s>) -> SelectorId {
        let next = SelectorId(self.sources.len() as u32);
        let id = *self.ids.entry(source).or_insert(next);
        if id == next {
            self.sources.push(source);
        }
        id
    }

    fn numbered(&self) -> impl Iterator<Item = (SelectorId, Source<'s>)> + '_ {
        let sources = self.sources.iter().enumerate();
        sources.map(|(id, source)| (SelectorId(id as u32), *source))
    }

    fn networks(&self) -> impl Iterator<Item = (SelectorId, &'s NetworkPeer)> + '_ {
        self.numbered().flat_map(|(id, source)| {
            let peers = match source {
                Source::Networks(peers) => peers,
                Source::Labels(_) => &[],
            };
            peers.iter().filter_map(move |peer| match peer {
                Peer::Network(network) => Some((id, network)),
                Peer::Labels(_) => None,
            })
        })
    }

    /// The selectors that match each identity.
    fn matches_of(&self, identities: &Identities) -> Vec<SelectorSet> {
        let by_labels = self.numbered().filter_map(|(id, source)| match source {
            Source::Labels(selector) => Some((selector, id.0)),
            Source::Networks(_) => None,
        });
        let index = SelectorIndex::new(by_labels);
        let matching = |facts| SelectorSet::new(index.matching(facts).into_iter().map(SelectorId));
        identities.rows.iter().map(|identity| matching(&identity.facts)).collect()
    }
}

/// Tables, each shared by all identities that the same rule sets apply to.
struct DirectionTables<'p, 's> {
    program: &'p Program<'s>,
    mode: EnforcementMode,
    tables: HashMap<(Side, Vec<u32>), Arc<DirectionTable>>,
    open: Arc<DirectionTable>,
    deny_sets: Vec<Vec<u32>>,
    deny_ids: HashMap<Vec<u32>, DenySetId>,
}

impl<'p, 's> DirectionTables<'p, 's> {
    fn new(program: &'p Program<'s>, mode: EnforcementMode) -> Self {
        Self {
            program,
            mode,
            tables: HashMap::new(),
            open: Arc::default(),
            deny_sets: Vec::new(),
            deny_ids: HashMap::new(),
        }
    }

    /// The table of an identity that `sets` (sorted) apply to.
    fn table(&mut self, side: Side, sets: &[u32], is_pod: bool) -> Arc<DirectionTable> {
        let applying = sets.iter().copied();
        let applying = applying.filter(|set| self.program.sets[*set as usize].rules.applies(side));
        let applying: Vec<u32> = applying.collect();
        let always = is_pod && self.mode == EnforcementMode::Always;
        if applying.is_empty() && !always {
            return Arc::clone(&self.open);
        }
        if let Some(table) = self.tables.get(&(side, applying.clone())) {
            return Arc::clone(table);
        }
        let placed = || applying.iter().map(|set| &self.program.sets[*set as usize]);
        let mut denying: Vec<u32> = placed()
            .filter(|set| set.rules.default_deny[side as usize])
            .map(|set| set.policy)
            .collect();
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
}

/// Addresses of pods and nodes. An address that several pods claim belongs to the youngest of them
/// (the others are about to go); a node's own address is never a pod's.
fn addresses(
    store: &Store,
    identities: &Identities,
    port_names: &HashMap<&str, PortNameId>,
) -> (AddressTable, HashMap<Address, PodName>) {
    let mut table = AddressTable::default();
    let mut owners: HashMap<Address, PodName> = HashMap::new();
    let mut pods: Vec<_> = store.pods().zip(&identities.of_pods).collect();
    pods.sort_by_key(|((_, pod), _)| &pod.created);
    for ((name, pod), identity) in pods {
        let Some(identity) = *identity else { continue };
        let named = pod.ports.iter().filter_map(|port| {
            port_names.get(port.name.as_str()).map(|name| (*name, port.protocol, port.port))
        });
        let named_ports = NamedPorts::new(named);
        for ip in pod.addresses() {
            let address = Address::from(*ip);
            let row = AddressRow { identity, named_ports: named_ports.clone() };
            table.insert(address, row);
            owners.insert(address, name.clone());
        }
    }
    let plain = |identity| AddressRow { identity, named_ports: NamedPorts::default() };
    for ip in store.nodes().flat_map(|node| &node.addresses) {
        table.insert((*ip).into(), plain(PolicyTables::REMOTE_NODE));
        owners.remove(&Address::from(*ip));
    }
    for ip in store.host_addresses() {
        table.insert((*ip).into(), plain(PolicyTables::HOST));
        owners.remove(&Address::from(*ip));
    }
    (table, owners)
}
