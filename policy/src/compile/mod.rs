//! From the objects in a [`Store`] to the tables that workers look up.
//!
//! 1. Pods with the same labels, namespace and service account become one identity
//!    ([`identities`]).
//! 2. Each rule gets a number, and so does each distinct peer by labels and each distinct list of
//!    networks ([`peers`]). An index over the conditions of selectors ([`index`]) finds, for each
//!    identity, the few selectors that match it out of all.
//! 3. The same index, over the endpoint selectors of all policies, finds the rule sets that apply
//!    to an identity. Identities with the same rule sets share one table ([`sharing`],
//!    [`direction`]).
//! 4. Each address gets the identity of its pod or node ([`addresses`]).
//! 5. Each address of a service gets the service's ports and backends ([`services`]).
//!
//! A [`Compiler`] stores the results and applies changes of the store to them. Parts that a change
//! does not affect are shared between snapshots ([`podgate_tables::policy::Rows`]). The numbers
//! depend on earlier changes; the tables with names in place of numbers depend only on the objects.

mod addresses;
mod direction;
mod external_services;
mod identities;
mod index;
mod interner;
mod names;
mod peers;
mod program;
mod services;
mod sharing;
mod table_builder;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::HashMap;
use podgate_tables::address::Address;
use podgate_tables::ids::{Epoch, PortNameId, RuleId};
use podgate_tables::policy::{IdentityRow, PeerMatch, PolicyTables, SelectorSet};
use podgate_tables::service::L4Addr;

use self::addresses::{Claims, PodEntry};
use self::identities::{Acquired, Identities, IdentityKey, number_of};
use self::index::SelectorIndex;
use self::peers::Peers;
use self::program::{PolicyEntry, Program, RuleSetEntry};
use self::services::Services;
pub use self::services::ServicesLeftOut;
use self::sharing::DirectionTables;
use self::table_builder::TableBuilder;
use crate::PodName;
use crate::catalog::{Catalog, IdentityInfo, RuleOrigin, ServiceName};
use crate::key::ObjectKey;
use crate::model::Pod;
use crate::rules::{PerDirection, PortNumbers, Rule, RuleSet};
use crate::store::{Changes, Cursor, EnforcementMode, Store};

/// Tables and the names behind their numbers. Copies are cheap.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// What workers look up.
    pub tables: Arc<PolicyTables>,
    /// The names behind its numbers.
    pub catalog: Arc<Catalog>,
}

impl Compiled {
    /// The service that has this destination, see [`PolicyTables::find_service`]; also one without
    /// a row, if the address is its cluster IP.
    #[must_use]
    pub fn service_at(&self, to: L4Addr, protocol: u8) -> Option<ServiceName> {
        match self.tables.find_service(to, protocol) {
            Some((at, _)) => self.catalog.service_of(at, protocol, to.port),
            None => self.catalog.service_at(to.address.ip()).cloned(),
        }
    }
}

/// Compiles everything in the store.
#[must_use]
pub fn compile(store: &Store) -> Compiled {
    let mut compiler = Compiler::new();
    compiler.start_over(store);
    compiler.compiled()
}

/// The tables of one store, kept up to date. Several compilers may follow one store.
#[derive(Debug)]
pub struct Compiler {
    /// How far this compiler has read the store's change log.
    cursor: Cursor,
    /// The same for the log of DNS names.
    name_cursor: Cursor,
    builder: TableBuilder,
    program: Program,
    peers: Peers,
    /// Endpoint selectors of rule sets, by the number of the set.
    endpoint_selectors: SelectorIndex,
    directions: DirectionTables,
    identities: Identities,
    pods: HashMap<PodName, PodEntry>,
    claims: Claims,
    services: Services,
    mode: EnforcementMode,
}

impl Default for Compiler {
    fn default() -> Self {
        Self::new()
    }
}

impl Compiler {
    /// The tables of an empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::with_mode(EnforcementMode::default())
    }

    fn with_mode(mode: EnforcementMode) -> Self {
        let mut compiler = Self {
            cursor: Cursor::default(),
            name_cursor: Cursor::default(),
            builder: TableBuilder::default(),
            program: Program::default(),
            peers: Peers::default(),
            endpoint_selectors: SelectorIndex::default(),
            directions: DirectionTables::new(mode),
            identities: Identities::new(),
            pods: HashMap::new(),
            claims: Claims::default(),
            services: Services::default(),
            mode,
        };
        compiler.builder.dirty.extend(0..PolicyTables::RESERVED);
        compiler.write_dirty();
        compiler
    }

    /// Sets the epoch that the next changes will be published as, for [`Catalog::is_newer`].
    pub fn set_epoch(&mut self, epoch: Epoch) {
        self.builder.epoch = epoch;
    }

    /// Brings the tables up to date with `store`, which must be the same at each call. Returns
    /// whether anything changed.
    pub fn update(&mut self, store: &Store) -> bool {
        self.builder.changed = false;
        match store.changes_since(self.cursor).filter(|changes| !changes.mode) {
            Some(changes) => {
                self.cursor = store.cursor();
                self.apply(store, &changes);
                self.follow_names(store);
                self.builder.changed
            }
            None => {
                self.start_over(store);
                true
            }
        }
    }

    /// Brings up to date only the addresses of DNS names, which takes much less time if objects
    /// changed, too. Returns whether anything changed.
    pub fn update_names(&mut self, store: &Store) -> bool {
        self.builder.changed = false;
        self.follow_names(store);
        self.builder.changed
    }

    /// Whether a rule in the tables matches the DNS name, which is in lower case without a trailing
    /// dot.
    #[must_use]
    pub fn is_wanted(&self, name: &str) -> bool {
        self.peers.is_wanted(name)
    }

    /// Cluster IPs that are not translated.
    #[must_use]
    pub fn services_left_out(&self) -> ServicesLeftOut {
        self.services.left_out(self.builder.services_left_out.len())
    }

    /// Rules whose numbers got another name, or none, since the last call, in no order. The names
    /// are those of [`Self::compiled`].
    pub fn take_renamed_rules(&mut self) -> impl Iterator<Item = RuleId> + use<> {
        std::mem::take(&mut self.builder.renamed_rules).into_iter()
    }

    fn follow_names(&mut self, store: &Store) {
        let names = store.names_since(self.name_cursor);
        self.name_cursor = store.name_cursor();
        self.peers.update_names(names, store, &mut self.builder);
    }

    /// The pod that an address belongs to, in what is compiled now.
    #[must_use]
    pub fn pod_at(&self, address: IpAddr) -> Option<&PodName> {
        self.builder.catalog.pod_at(address)
    }

    /// The tables as they are now.
    #[must_use]
    pub fn compiled(&self) -> Compiled {
        Compiled {
            tables: Arc::new(self.builder.tables.clone()),
            catalog: Arc::new(self.builder.catalog.clone()),
        }
    }

    fn start_over(&mut self, store: &Store) {
        let mut renamed = std::mem::take(&mut self.builder.renamed_rules);
        renamed.extend(self.builder.catalog.rules.iter().map(|(id, _)| RuleId(id)));
        let epoch = self.builder.epoch;
        *self = Self::with_mode(store.mode());
        self.builder.renamed_rules = renamed;
        self.builder.epoch = epoch;
        self.cursor = store.cursor();
        self.apply(store, &store.everything());
        self.follow_names(store);
    }

    fn apply(&mut self, store: &Store, changes: &Changes) {
        for namespace in &changes.namespaces {
            self.relabel(namespace, store);
        }
        self.change_policies(store, &changes.policies);
        if changes.nodes {
            for address in self.claims.set_nodes(store) {
                self.claims.write_address(address, &self.pods, &mut self.builder);
            }
        }
        for pod in &changes.pods {
            self.change_pod(pod, store);
        }
        self.services.change(store, changes, &mut self.builder);
        self.write_dirty();
    }

    fn relabel(&mut self, namespace: &Arc<str>, store: &Store) {
        let changed = self.identities.relabel(namespace, store.namespace_labels(namespace));
        if changed.is_empty() {
            return;
        }
        self.write_namespace(namespace);
        for id in changed {
            self.match_identity(id);
        }
    }

    fn write_namespace(&mut self, name: &str) {
        if let Some((row, label_context)) = self.identities.namespace(name) {
            let set = self.peers.of_namespace(label_context);
            self.builder.change_namespace(row, |_| set);
        }
    }

    /// Finds the selectors and the rule sets of an identity that is new or has other labels.
    fn match_identity(&mut self, id: u32) {
        if let Some(identity) = self.identities.get_mut(id) {
            identity.selectors = self.peers.of_identity(&identity.label_context);
            self.apply_to(id);
        }
    }

    /// Finds the rule sets that apply to an identity of pods.
    fn apply_to(&mut self, id: u32) {
        let Some(identity) = self.identities.get_mut(id) else { return };
        let sets = self.endpoint_selectors.matching(&identity.label_context);
        let (directions, builder) = (&mut self.directions, &mut self.builder);
        let tables = PerDirection::new(|direction| {
            directions.acquire(direction, &sets, &self.program, builder)
        });
        if let Some(former) = identity.tables.replace(tables) {
            directions.release(&former, builder);
        }
        builder.dirty.insert(id);
    }

    fn change_policies(&mut self, store: &Store, keys: &BTreeSet<Arc<ObjectKey>>) {
        let mut affected = BTreeSet::new();
        let mut retired = Vec::new();
        for key in keys {
            let now = store.rule_sets(key).filter(|_| self.mode != EnforcementMode::Never);
            let former = self.program.policies.get(key);
            if former.map(|former| &former.rule_sets) == now {
                continue;
            }
            let former = self.program.policies.remove(key);
            if let Some(rule_sets) = now {
                self.add_policy(key, rule_sets, &mut affected);
            }
            for number in former.into_iter().flat_map(|former| former.sets) {
                self.endpoint_selectors.remove(number);
                if let Some(set) = self.program.set(number) {
                    affected.extend(self.identities.matching(&set.rule_set().endpoint_selector));
                }
                retired.push(number);
            }
        }
        for id in affected {
            if id >= PolicyTables::RESERVED {
                self.apply_to(id);
            }
        }
        // From here on no table refers to them.
        for number in retired {
            if let Some(set) = self.program.take_set(number) {
                self.remove_set(&set);
            }
        }
    }

    /// Adds a policy. Adds the identities that it selects to `affected`.
    fn add_policy(
        &mut self,
        policy: &Arc<ObjectKey>,
        rule_sets: &Arc<[RuleSet]>,
        affected: &mut BTreeSet<u32>,
    ) {
        let mut sets = Vec::new();
        for (index, rule_set) in rule_sets.iter().enumerate() {
            let rules = rule_set.rules.iter();
            let numbers = rules.map(|rule| self.add_rule(policy, rule)).collect();
            let number = self.program.add_set(policy, rule_sets, index, numbers);
            self.endpoint_selectors.insert(number, &rule_set.endpoint_selector);
            affected.extend(self.identities.matching(&rule_set.endpoint_selector));
            sets.push(number);
        }
        let entry = PolicyEntry { rule_sets: Arc::clone(rule_sets), sets };
        self.program.policies.insert(Arc::clone(policy), entry);
    }

    fn add_rule(&mut self, policy: &Arc<ObjectKey>, rule: &Rule) -> (RuleId, Vec<PeerMatch>) {
        let id = RuleId(self.program.rule_numbers.allocate());
        let (policy, field) = (Arc::clone(policy), rule.field.clone());
        self.builder
            .name_rule(id, Some(RuleOrigin { key: policy, direction: rule.direction, field }));
        for name in port_names(rule) {
            self.acquire_port_name(name);
        }
        let (identities, builder) = (&mut self.identities, &mut self.builder);
        let peers = self.peers.acquire(rule.peers.as_deref(), identities, builder);
        (id, peers)
    }

    fn remove_set(&mut self, set: &RuleSetEntry) {
        for (rule, id, peers) in set.rules() {
            self.builder.name_rule(id, None);
            self.program.rule_numbers.release(id.0);
            for name in port_names(rule) {
                if let Some(name) = self.program.port_name(name) {
                    self.release_port_name(name);
                }
            }
            self.peers.release(peers, &mut self.identities, &mut self.builder);
        }
    }

    fn acquire_port_name(&mut self, name: &str) -> PortNameId {
        let name = Arc::from(name);
        let (id, is_new) = self.program.port_names.acquire(&name);
        if is_new {
            self.builder.name_port(PortNameId(id), name);
        }
        PortNameId(id)
    }

    fn release_port_name(&mut self, name: PortNameId) {
        if self.program.port_names.release(name.0).is_some() {
            self.builder.name_port(name, Arc::default());
        }
    }

    fn change_pod(&mut self, name: &PodName, store: &Store) {
        let former = self.pods.remove(name);
        let mut touched: BTreeSet<Address> = BTreeSet::new();
        for address in former.iter().flat_map(|former| &former.addresses) {
            self.claims.remove(*address, name);
            touched.insert(*address);
        }
        let pod = store.pod(&name.namespace, &name.name);
        if let Some(pod) = pod.filter(|pod| !pod.addresses().is_empty()) {
            let identity = self.acquire_identity(name, pod, store);
            let ports = pod.ports.iter().map(|port| self.acquire_port_name(&port.name)).collect();
            let entry = PodEntry::new(identity, pod, ports);
            for address in &entry.addresses {
                self.claims.add(*address, name);
                touched.insert(*address);
            }
            self.pods.insert(name.clone(), entry);
        }
        for address in touched {
            self.claims.write_address(address, &self.pods, &mut self.builder);
        }
        if let Some(former) = former {
            for port in former.port_names {
                self.release_port_name(port);
            }
            self.release_identity(former.identity);
        }
    }

    fn acquire_identity(&mut self, name: &PodName, pod: &Pod, store: &Store) -> u32 {
        let key = IdentityKey {
            namespace: Arc::clone(&name.namespace),
            service_account: Arc::clone(&pod.service_account),
            labels: Arc::clone(&pod.labels),
        };
        let Acquired { id, is_new, opens_namespace } =
            self.identities.acquire(key, |namespace| store.namespace_labels(namespace));
        if opens_namespace {
            self.write_namespace(&name.namespace);
        }
        if is_new {
            self.match_identity(id);
        }
        id
    }

    fn release_identity(&mut self, id: u32) {
        let Some((identity, emptied)) = self.identities.release(id) else { return };
        if let Some(tables) = identity.tables {
            self.directions.release(&tables, &mut self.builder);
        }
        if let Some(row) = emptied {
            self.builder.change_namespace(row, |_| SelectorSet::default());
        }
        self.builder.dirty.remove(&id);
        self.builder.write_identity(id, IdentityRow::default(), None);
    }

    /// Writes the rows of identities that changed.
    fn write_dirty(&mut self) {
        for id in std::mem::take(&mut self.builder.dirty) {
            let Some(identity) = self.identities.get(id) else { continue };
            let PerDirection { egress, ingress } = match &identity.tables {
                Some(tables) => PerDirection::new(|direction| Arc::clone(&tables[direction].table)),
                None => PerDirection::default(),
            };
            let number = number_of(&identity.label_context);
            let row = IdentityRow {
                number,
                namespace: identity.namespace,
                selectors: identity.selectors.clone(),
                egress,
                ingress,
            };
            let info = IdentityInfo::new(number, identity.label_context.clone());
            self.builder.write_identity(id, row, Some(info));
        }
    }
}

/// The names of ports in a rule.
fn port_names(rule: &Rule) -> impl Iterator<Item = &str> {
    rule.ports.iter().flatten().filter_map(|ports| match &ports.ports.ports {
        PortNumbers::Named(name) => Some(name.as_str()),
        PortNumbers::All | PortNumbers::Range(_) => None,
    })
}
