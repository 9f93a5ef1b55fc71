//! The store: every object that was applied, in the last version that could be enforced.
//!
//! | part | content |
//! |---|---|
//! | [`Store`] | objects, and settings of the node |
//! | [`Directory`] | what policies refer to, and which policies refer to it |
//! | [`status`] | which objects were rejected, and why |
//! | [`files`] | which file defines which object |
//! | [`changes`] | the log of changes that compilers follow |
//! | [`former_services`] | what services had until shortly before |

mod changes;
mod files;
mod former_services;
mod query;
mod status;

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use serde_json::Value;

use self::changes::{Change, ChangeLog, LOG_MIN};
pub(crate) use self::changes::{Changes, Cursor};
use self::files::Files;
pub use self::files::{DocumentKind, FileSync, Missing, ObjectCounts};
pub(crate) use self::former_services::FormerPort;
use self::former_services::FormerServices;
use self::status::Rejections;
pub use self::status::{PolicyState, PolicyStatus};
use crate::PodName;
use crate::directory::{self, Directory};
use crate::fields::{FieldPath, Fix, Problem, Step};
use crate::key::{Kind, ObjectKey};
use crate::kinds::for_each_kind;
use crate::lower::{lower, size};
use crate::manifest::Source;
use crate::model::{
    self, CidrGroup, EndpointSlice, Header, Namespace, Node, Object, Pod, Policy, RuleSection,
    Service,
};
use crate::rejection::{Rejection, SourceLocation};
use crate::rules::RuleSet;

/// Whether policies are enforced (cilium `--enable-policy`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum EnforcementMode {
    /// Flows of endpoints that no policy selects are allowed.
    #[default]
    Default,
    /// Flows of endpoints that no policy selects are denied.
    Always,
    /// All flows are allowed.
    Never,
}

/// Whether pods' packets to services are translated to backends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Translation {
    /// They are.
    #[default]
    On,
    /// The node's kernel does it, after policy.
    Off,
}

/// A policy in force.
#[derive(Debug)]
struct EnforcedPolicy {
    policy: Policy,
    /// The normal form; empty after a change of what the policy refers to, until it is asked for.
    rule_sets: OnceLock<Arc<[RuleSet]>>,
    /// Parts that are not enforced as written.
    warnings: Vec<Rejection>,
    /// Parts that are enforced as written, but probably not what the author meant.
    hints: Vec<Rejection>,
}

impl EnforcedPolicy {
    fn rule_sets(&self, key: &ObjectKey, directory: &Directory) -> &Arc<[RuleSet]> {
        self.rule_sets.get_or_init(|| lower(key, &self.policy, directory))
    }
}

/// Every object, and the settings of the node.
#[derive(Debug, Default)]
pub struct Store {
    namespaces: BTreeMap<Arc<str>, Namespace>,
    pods: BTreeMap<PodName, Pod>,
    /// Addresses that this node's network plugin assigned to pods, sorted.
    assigned: BTreeMap<PodName, Vec<IpAddr>>,
    policies: BTreeMap<Arc<ObjectKey>, EnforcedPolicy>,
    directory: Directory,
    /// Sorted addresses of DNS names; names in lower case without a trailing dot.
    learned: BTreeMap<Arc<str>, Arc<[IpAddr]>>,
    rejections: Rejections,
    files: Files,
    /// Where objects that came from files were read.
    sources: BTreeMap<ObjectKey, SourceLocation>,
    host_addresses: BTreeSet<IpAddr>,
    former_services: FormerServices,
    /// How often a node was added, changed or removed.
    node_changes: u64,
    mode: EnforcementMode,
    translation: Translation,
    log: ChangeLog,
    /// Changes of the addresses of DNS names, kept apart so that they can be compiled at once.
    name_log: ChangeLog,
}

macro_rules! define_insert_and_remove {
    (
        objects { $($(#[$doc:meta])* $kind:ident {
            resource: $resource:tt, model: $model:ident, set: $set:ident
        })+ }
        policies { $($(#[$policy_doc:meta])* $policy:ident {
            resource: $policy_resource:tt, model: $policy_model:ident
        })+ }
    ) => {
        impl Store {
            fn insert(
                &mut self,
                key: &ObjectKey,
                object: Object,
                source: Option<&Source>,
            ) -> Result<(), Vec<Problem>> {
                match object {
                    $(Object::$kind(object) => self.$set(key, Some(object)),)+
                    Object::Policy(policy) => return self.insert_policy(key, policy, source),
                }
                Ok(())
            }

            fn remove(&mut self, key: &ObjectKey) {
                match key.kind {
                    $(Kind::$kind => self.$set(key, None),)+
                    $(Kind::$policy)|+ => self.remove_policy(key),
                }
            }
        }
    };
}

for_each_kind!(define_insert_and_remove);

impl Store {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an object or replaces it.
    ///
    /// # Errors
    /// Why it can't be enforced, each reason with its field. The last version that could be stays
    /// in force.
    pub fn apply(
        &mut self,
        object: &Value,
        source: Option<&Source>,
    ) -> Result<ObjectKey, Vec<Rejection>> {
        let header = Header::parse(object)
            .map_err(|(shown, problems)| rejections(&shown, source, problems))?;
        let parsed = model::parse(object, &header);
        let key = header.key;
        match source {
            Some(source) => self.sources.insert(key.clone(), source.location.clone()),
            None => self.sources.remove(&key),
        };
        match parsed.and_then(|parsed| self.insert(&key, parsed, source)) {
            Ok(()) => {
                self.rejections.remove(&key);
                Ok(key)
            }
            Err(problems) => {
                let reasons = rejections(&key.to_string(), source, problems);
                self.rejections.insert(key, reasons.clone());
                Err(reasons)
            }
        }
    }

    /// Rejects an object for a field that can't be decoded, and that `object` is therefore without.
    /// `path` are the names of the fields that lead to it. The last version that could be enforced
    /// stays in force. Returns the rejections.
    pub fn reject(&mut self, object: &Value, path: &[String], reason: String) -> Vec<Rejection> {
        let key = match Header::parse(object) {
            Ok(header) => header.key,
            Err((shown, problems)) => return rejections(&shown, None, problems),
        };
        let steps: Vec<Step> = path.iter().map(|name| name.as_str().into()).collect();
        let problem = Problem { field: FieldPath::new(steps), reason, fix: None };
        let reasons = rejections(&key.to_string(), None, vec![problem]);
        self.sources.remove(&key);
        self.rejections.insert(key, reasons.clone());
        reasons
    }

    /// Removes an object. If there is none, nothing happens.
    pub fn delete(&mut self, key: &ObjectKey) {
        self.rejections.remove(key);
        self.sources.remove(key);
        self.remove(key);
    }

    fn set_namespace(&mut self, key: &ObjectKey, namespace: Option<Namespace>) {
        let name: Arc<str> = key.name.as_str().into();
        if replace(&mut self.namespaces, &name, namespace) {
            self.add_change(Change::Namespace(name));
        }
    }

    fn set_pod(&mut self, key: &ObjectKey, pod: Option<Pod>) {
        let name = pod_name(key.namespace.as_deref().unwrap_or_default(), &key.name);
        let assigned = self.assigned.get(&name).cloned().unwrap_or_default();
        if replace(&mut self.pods, &name, pod.map(|pod| Pod { assigned, ..pod })) {
            self.add_change(Change::Pod(name));
        }
    }

    /// Replaces the addresses that this node's network plugin assigned to pods. They count until
    /// the status of the pod's object names addresses.
    pub fn set_assigned_addresses(&mut self, assigned: BTreeMap<PodName, Vec<IpAddr>>) {
        if self.assigned == assigned {
            return;
        }
        let before = mem::replace(&mut self.assigned, assigned);
        let names: BTreeSet<_> = before.keys().chain(self.assigned.keys()).cloned().collect();
        for name in names {
            let assigned = self.assigned.get(&name).cloned().unwrap_or_default();
            let Some(pod) = self.pods.get_mut(&name) else { continue };
            if pod.assigned != assigned {
                pod.assigned = assigned;
                self.add_change(Change::Pod(name));
            }
        }
    }

    fn set_node(&mut self, key: &ObjectKey, node: Option<Node>) {
        self.set_node_by_name(&key.name.as_str().into(), node);
    }

    fn set_node_by_name(&mut self, name: &Arc<str>, node: Option<Node>) {
        if self.directory.nodes.get(name) != node.as_ref() {
            self.node_changes += 1;
            self.add_change(Change::Nodes);
        }
        let affected = self.directory.set_node(name, node);
        self.invalidate(affected);
    }

    fn set_group(&mut self, key: &ObjectKey, group: Option<CidrGroup>) {
        let affected = self.directory.set_group(&key.name.as_str().into(), group);
        self.invalidate(affected);
    }

    fn set_service(&mut self, key: &ObjectKey, service: Option<Service>) {
        let name = qualified(key);
        if self.directory.services.get(&name) == service.as_ref() {
            return;
        }
        if let Some(former) = self.directory.services.get(&name) {
            let hosts = &self.host_addresses;
            let others = self.former_services.note(&name, former, service.as_ref(), hosts);
            for other in others {
                self.add_change(Change::Service(other));
            }
        }
        let affected = self.directory.set_service(&name, service);
        self.add_change(Change::Service(name));
        self.invalidate(affected);
    }

    fn set_slice(&mut self, key: &ObjectKey, slice: Option<EndpointSlice>) {
        let name = qualified(key);
        let former = self.directory.slices.get(&name);
        if former == slice.as_ref() {
            return;
        }
        let versions = former.into_iter().chain(&slice);
        let services: BTreeSet<directory::Name> = versions
            .filter(|slice| !slice.service.is_empty())
            .map(|slice| (Arc::clone(&name.0), slice.service.as_str().into()))
            .collect();
        let affected = self.directory.set_slice(&name, slice);
        for service in services {
            self.add_change(Change::Service(service));
        }
        self.invalidate(affected);
    }

    fn insert_policy(
        &mut self,
        key: &ObjectKey,
        policy: Policy,
        source: Option<&Source>,
    ) -> Result<(), Vec<Problem>> {
        // Whether a policy is accepted must not depend on the objects that it refers to: they may
        // come and go at any time.
        let without_references = lower(key, &policy, &Directory::default());
        size::check(&without_references).map_err(|problem| vec![problem])?;
        let located = |problems| rejections(&key.to_string(), source, problems);
        let mut warnings = located(policy.warnings());
        warnings.extend(unread_by(key, &policy, &self.directory));
        let hints = located(policy.hints(key.namespace.as_deref()));
        if let Some(former) = self.policies.get_mut(key).filter(|former| former.policy == policy) {
            (former.warnings, former.hints) = (warnings, hints);
            return Ok(());
        }
        let rule_sets = match self.directory.set_references(key, Some(&policy)) {
            true => OnceLock::new(),
            false => without_references.into(),
        };
        let key = Arc::new(key.clone());
        let policy = EnforcedPolicy { policy, rule_sets, warnings, hints };
        self.policies.insert(Arc::clone(&key), policy);
        self.add_change(Change::Policy(key));
        Ok(())
    }

    fn remove_policy(&mut self, key: &ObjectKey) {
        if let Some((key, _)) = self.policies.remove_entry(key) {
            self.directory.set_references(&key, None);
            self.add_change(Change::Policy(key));
        }
    }

    /// Sets why the objects of a kind are unknown; `None` if they are known. Until then, a rule
    /// that refers to them can't be enforced as written: a deny rule denies all peers, and an allow
    /// rule allows no peer that only such objects name. Its policy has a warning. Returns whether
    /// that affects a policy.
    ///
    /// It is for kinds that Cilium policies name as peers: CiliumCIDRGroups, services and
    /// EndpointSlices.
    pub fn set_unread(&mut self, kind: Kind, reason: Option<&str>) -> bool {
        let affected = self.directory.set_unread(kind, reason);
        for key in &affected {
            if let Some(enforced) = self.policies.get_mut(key) {
                enforced.warnings = unread_by(key, &enforced.policy, &self.directory);
            }
        }
        let concerns = !affected.is_empty();
        self.invalidate(affected);
        concerns
    }

    /// Discards the normal forms of policies after a change of what they refer to.
    fn invalidate(&mut self, affected: Vec<ObjectKey>) {
        for key in affected {
            if let Some(policy) = self.policies.get_mut(&key) {
                policy.rule_sets = OnceLock::new();
                self.add_change(Change::Policy(Arc::new(key)));
            }
        }
    }

    /// Adds addresses to those of a node, whether or not there is an object for it.
    pub(crate) fn add_node_addresses(
        &mut self,
        name: &Arc<str>,
        addresses: impl IntoIterator<Item = IpAddr>,
    ) {
        let mut node = self.directory.nodes.get(name).cloned().unwrap_or_default();
        node.addresses.extend(addresses);
        node.addresses.sort_unstable();
        node.addresses.dedup();
        self.set_node_by_name(name, Some(node));
    }

    /// Sets the addresses of this node, on all its interfaces.
    pub fn set_host_addresses(&mut self, addresses: impl IntoIterator<Item = IpAddr>) {
        let addresses = addresses.into_iter().collect();
        if self.host_addresses != addresses {
            self.host_addresses = addresses;
            self.add_change(Change::Nodes);
        }
    }

    /// Sets the enforcement mode.
    pub fn set_mode(&mut self, mode: EnforcementMode) {
        if self.mode != mode {
            self.mode = mode;
            self.add_change(Change::Mode);
        }
    }

    /// Sets whether packets to services are translated.
    pub fn set_translation(&mut self, translation: Translation) {
        if self.translation != translation {
            self.translation = translation;
            self.add_change(Change::Mode);
        }
    }

    /// Forgets the node ports, and ports at addresses of this node, that services lost before the
    /// last call. Until then the node's kernel may still translate packets to them, so no pod may
    /// send to them just because its node has the address. Returns whether there were any.
    #[must_use]
    pub fn forget_former_services(&mut self) -> bool {
        let (names, ends_overflow) = self.former_services.forget();
        let changed = ends_overflow || !names.is_empty();
        if ends_overflow {
            self.add_change(Change::Nodes);
        }
        for name in names {
            self.add_change(Change::Service(name));
        }
        changed
    }

    /// Replaces the addresses of a DNS name. An empty list removes the name.
    pub fn learn(&mut self, name: &str, addresses: impl IntoIterator<Item = IpAddr>) {
        let name: Arc<str> = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase().into();
        // An IPv4 address in an AAAA record is reached over IPv4.
        let addresses = addresses.into_iter().map(|address| address.to_canonical());
        let addresses: BTreeSet<IpAddr> = addresses.collect();
        let addresses = (!addresses.is_empty()).then(|| addresses.into_iter().collect());
        if replace(&mut self.learned, &name, addresses) {
            self.name_log.add(Change::DomainName(name), LOG_MIN.max(self.learned.len()));
        }
    }

    /// Adds to the change log. It is as long as the store at most: following more changes than
    /// that costs more than compiling everything.
    fn add_change(&mut self, change: Change) {
        let objects = self.pods.len()
            + self.policies.len()
            + self.namespaces.len()
            + self.directory.services.len();
        self.log.add(change, LOG_MIN.max(objects));
    }

    /// The present position in the change log.
    pub(crate) const fn cursor(&self) -> Cursor {
        self.log.end()
    }

    /// The present position in the log of names.
    pub(crate) const fn name_cursor(&self) -> Cursor {
        self.name_log.end()
    }

    /// DNS names that changed since `cursor`, a position in the log of names. `None` if it does not
    /// reach back so far.
    pub(crate) fn names_since(&self, cursor: Cursor) -> Option<BTreeSet<Arc<str>>> {
        self.name_log.since(cursor).map(|changes| changes.domain_names)
    }

    /// What else changed since `cursor`, a position in the log of this store. `None` if the log
    /// does not reach back so far: everything may have changed.
    pub(crate) fn changes_since(&self, cursor: Cursor) -> Option<Changes> {
        self.log.since(cursor)
    }

    /// Everything in the store, as changes.
    pub(crate) fn everything(&self) -> Changes {
        Changes {
            pods: self.pods.keys().cloned().collect(),
            namespaces: self.namespaces.keys().cloned().collect(),
            policies: self.policies.keys().cloned().collect(),
            services: self.service_names(),
            domain_names: BTreeSet::new(),
            nodes: true,
            mode: true,
        }
    }
}

/// Sets or removes a value. Returns whether that changed anything.
fn replace<K: Ord + Clone, V: PartialEq>(
    map: &mut BTreeMap<K, V>,
    key: &K,
    value: Option<V>,
) -> bool {
    if map.get(key) == value.as_ref() {
        return false;
    }
    match value {
        Some(value) => map.insert(key.clone(), value),
        None => map.remove(key),
    };
    true
}

/// Namespace and name of an object that has both.
fn qualified(key: &ObjectKey) -> directory::Name {
    (key.namespace.as_deref().unwrap_or_default().into(), key.name.as_str().into())
}

fn pod_name(namespace: &str, name: &str) -> PodName {
    PodName { namespace: namespace.into(), name: name.into() }
}

/// Warnings of rules that refer to objects that are unknown. Cilium policies have no others.
fn unread_by(key: &ObjectKey, policy: &Policy, directory: &Directory) -> Vec<Rejection> {
    let (Policy::CiliumNetworkPolicy(policy) | Policy::CiliumClusterwideNetworkPolicy(policy)) =
        policy
    else {
        return Vec::new();
    };
    let mut warnings = Vec::new();
    for (spec, section) in
        policy.specs.iter().flat_map(|spec| RuleSection::ALL.map(|section| (spec, section)))
    {
        let effect =
            if section.is_deny() { "denies every peer" } else { "allows no peer because of them" };
        for (index, rule) in spec.section(section).iter().enumerate() {
            let Some((kind, reason)) = directory.unread_by(rule) else { continue };
            warnings.push(Rejection {
                object: key.to_string(),
                source: None,
                field: format!("{}.{}[{index}]", spec.field, section.field()),
                reason: format!(
                    "refers to {kind} objects, which can't be read, so the rule {effect}: {reason}"
                ),
                fix: Some(format!("let podgate list and watch {}", kind.plural())),
            });
        }
    }
    warnings
}

fn rejections(object: &str, source: Option<&Source>, problems: Vec<Problem>) -> Vec<Rejection> {
    let rejection = |problem: Problem| Rejection {
        object: object.to_owned(),
        source: source.map(|source| source.locate(&problem.field)),
        field: problem.field.to_string(),
        fix: problem.fix.map(|fix| fix_in_words(fix, &problem.field, source)),
        reason: problem.reason,
    };
    problems.into_iter().map(rejection).collect()
}

fn fix_in_words(fix: Fix, field: &FieldPath, source: Option<&Source>) -> String {
    let text = match fix {
        Fix::Text(text) => return text,
        Fix::Quotes(text) => text,
    };
    let text = match source {
        Some(source) => source.written(field).map(str::to_owned),
        None => text,
    };
    match text {
        Some(text) => format!("write it with quotes: \"{text}\""),
        None => "write it with quotes".to_owned(),
    }
}
