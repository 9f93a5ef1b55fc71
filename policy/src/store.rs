//! Every object that was applied, with the last version of it that could be enforced.

mod files;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use serde_json::Value;

use crate::catalog::PodName;
use crate::directory::{self, Directory};
use crate::fields::{FieldPath, Fix, Problem, is_template};
use crate::key::{Kind, ObjectKey};
use crate::labels::{Facts, Labels, NAMESPACE_NAME_LABEL};
use crate::lower::{lower_cilium, lower_cluster_network_policy, lower_network_policy, size};
use crate::manifest::Source;
use crate::model::{self, Header, Namespace, Node, Object, Pod, Service};
use crate::refusal::{Refusal, SourceLocation};
use crate::rules::RuleSet;

use self::files::Files;
pub use self::files::{FileSync, Meaning, Missing};

/// Whether policies are enforced (cilium `--enable-policy`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum EnforcementMode {
    /// Endpoints that no policy selects are open.
    #[default]
    Default,
    /// Endpoints that no policy selects are closed.
    Always,
    /// Everything is open.
    Never,
}

/// What became of a policy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PolicyState {
    /// In force as written.
    Enforced,
    /// The version before is in force: what was written last was refused.
    Outdated,
    /// Not in force: no version of it could be enforced.
    Refused,
}

/// A policy and what became of it.
#[derive(Clone, Debug)]
pub struct PolicyStatus<'s> {
    /// The policy.
    pub key: &'s ObjectKey,
    /// What became of it.
    pub state: PolicyState,
    /// Why it was refused.
    pub refusals: &'s [Refusal],
    /// What of it is in force otherwise than it is written, and how.
    pub warnings: &'s [Refusal],
}

/// What a set of files holds. An object that can't be read counts as what its kind says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// Policies.
    pub policies: usize,
    /// Other objects that verdicts depend on, and what is no object at all.
    pub others: usize,
    /// Objects of kinds that no verdict depends on.
    pub passed_over: usize,
}

/// What changed since [`Store::take_changes`] was last called. Sorted, so that the same changes are
/// followed in the same order.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) pods: BTreeSet<PodName>,
    /// Namespaces whose labels changed.
    pub(crate) namespaces: BTreeSet<Arc<str>>,
    pub(crate) policies: BTreeSet<ObjectKey>,
    /// DNS names that stand for other addresses now.
    pub(crate) names: BTreeSet<Arc<str>>,
    /// Addresses of nodes, or of this one.
    pub(crate) nodes: bool,
    /// The enforcement mode.
    pub(crate) mode: bool,
}

/// A policy in force.
#[derive(Debug)]
struct Policy {
    object: Object,
    /// The normal form, once somebody asked for it since the directory changed.
    rule_sets: OnceLock<Arc<[RuleSet]>>,
    /// What is in force otherwise than it is written.
    warnings: Vec<Refusal>,
    /// What is in force as it is written, and hardly meant.
    hints: Vec<Refusal>,
}

impl Policy {
    fn rule_sets(&self, key: &ObjectKey, directory: &Directory) -> &Arc<[RuleSet]> {
        self.rule_sets.get_or_init(|| lower(key, &self.object, directory))
    }
}

/// Every object.
#[derive(Debug, Default)]
pub struct Store {
    namespaces: BTreeMap<Arc<str>, Namespace>,
    pods: BTreeMap<PodName, Pod>,
    policies: BTreeMap<ObjectKey, Policy>,
    directory: Directory,
    /// Addresses that DNS names were seen to stand for; names in lower case without a trailing dot.
    learned: BTreeMap<Arc<str>, BTreeSet<IpAddr>>,
    /// Why the last version of an object was refused.
    refused: BTreeMap<ObjectKey, Vec<Refusal>>,
    /// What the files define that objects come from.
    files: Files,
    /// Objects that came from files.
    sources: BTreeMap<ObjectKey, SourceLocation>,
    host_addresses: BTreeSet<IpAddr>,
    mode: EnforcementMode,
    changes: Changes,
}

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
    ) -> Result<ObjectKey, Vec<Refusal>> {
        let header = Header::parse(object)
            .map_err(|(shown, problems)| refusals(&shown, source, problems))?;
        let parsed = model::parse(object, &header);
        let key = header.key;
        match source {
            Some(source) => self.sources.insert(key.clone(), source.location.clone()),
            None => self.sources.remove(&key),
        };
        let inserted = parsed.and_then(|parsed| {
            let told = |problems| refusals(&key.to_string(), source, problems);
            let remarks = [told(parsed.warnings()), told(parsed.hints(key.namespace.as_deref()))];
            self.insert(&key, parsed, remarks)
        });
        match inserted {
            Ok(()) => {
                self.refused.remove(&key);
                Ok(key)
            }
            Err(problems) => {
                let refusals = refusals(&key.to_string(), source, problems);
                self.refused.insert(key, refusals.clone());
                Err(refusals)
            }
        }
    }

    fn insert(
        &mut self,
        key: &ObjectKey,
        object: Object,
        [warnings, hints]: [Vec<Refusal>; 2],
    ) -> Result<(), Vec<Problem>> {
        let name = Arc::from(key.name.as_str());
        match object {
            Object::Namespace(namespace) => {
                self.changes.namespaces.insert(Arc::clone(&name));
                self.namespaces.insert(name, namespace);
            }
            Object::Node(node) => {
                self.changes.nodes |= self.directory.nodes.get(&name) != Some(&node);
                let concerned = self.directory.set_node(&name, Some(node));
                self.lower_again(concerned);
            }
            Object::Pod(pod) => {
                let name = pod_name_of(key);
                self.changes.pods.insert(name.clone());
                self.pods.insert(name, pod);
            }
            Object::NetworkPolicy(_) | Object::Cilium(_) | Object::ClusterNetworkPolicy(_) => {
                // What a policy refers to may come or go at any time, and must not decide
                // whether the policy is in force.
                let alone = lower(key, &object, &Directory::default());
                size::check(&alone).map_err(|problem| vec![problem])?;
                let refers = self.directory.set_references(key, Some(&object));
                self.changes.policies.insert(key.clone());
                let rule_sets = if refers { OnceLock::new() } else { alone.into() };
                let policy = Policy { object, rule_sets, warnings, hints };
                self.policies.insert(key.clone(), policy);
            }
            Object::CidrGroup(group) => {
                let concerned = self.directory.set_group(&name, Some(group));
                self.lower_again(concerned);
            }
            Object::Service(service) => {
                let concerned = self.directory.set_service(&qualified(key), Some(service));
                self.lower_again(concerned);
            }
            Object::EndpointSlice(slice) => {
                let concerned = self.directory.set_slice(&qualified(key), Some(slice));
                self.lower_again(concerned);
            }
        }
        Ok(())
    }

    /// Forgets the normal forms of policies that refer to what changed.
    fn lower_again(&mut self, concerned: Vec<ObjectKey>) {
        for key in concerned {
            if let Some(policy) = self.policies.get_mut(&key) {
                policy.rule_sets = OnceLock::new();
                self.changes.policies.insert(key);
            }
        }
    }

    /// Removes an object; one that isn't there is no error.
    pub fn delete(&mut self, key: &ObjectKey) {
        self.refused.remove(key);
        self.sources.remove(key);
        match key.kind {
            Kind::Namespace => {
                if let Some((name, _)) = self.namespaces.remove_entry(key.name.as_str()) {
                    self.changes.namespaces.insert(name);
                }
            }
            Kind::Node => {
                self.changes.nodes |= self.directory.nodes.contains_key(key.name.as_str());
                let concerned = self.directory.set_node(&key.name.as_str().into(), None);
                self.lower_again(concerned);
            }
            Kind::Pod => {
                if let Some((name, _)) = self.pods.remove_entry(&pod_name_of(key)) {
                    self.changes.pods.insert(name);
                }
            }
            Kind::NetworkPolicy
            | Kind::CiliumNetworkPolicy
            | Kind::CiliumClusterwideNetworkPolicy
            | Kind::ClusterNetworkPolicy => {
                if self.policies.remove(key).is_some() {
                    self.directory.set_references(key, None);
                    self.changes.policies.insert(key.clone());
                }
            }
            Kind::CiliumCidrGroup => {
                let concerned = self.directory.set_group(&key.name.as_str().into(), None);
                self.lower_again(concerned);
            }
            Kind::Service => {
                let concerned = self.directory.set_service(&qualified(key), None);
                self.lower_again(concerned);
            }
            Kind::EndpointSlice => {
                let concerned = self.directory.set_slice(&qualified(key), None);
                self.lower_again(concerned);
            }
        }
    }

    /// Sets the addresses of this node, on all its interfaces.
    pub fn set_host_addresses(&mut self, addresses: impl IntoIterator<Item = IpAddr>) {
        let addresses = addresses.into_iter().collect();
        self.changes.nodes |= self.host_addresses != addresses;
        self.host_addresses = addresses;
    }

    /// Sets the enforcement mode.
    pub fn set_mode(&mut self, mode: EnforcementMode) {
        self.changes.mode |= self.mode != mode;
        self.mode = mode;
    }

    /// Notes the addresses that a DNS name stands for from now on, instead of those before; none
    /// forgets the name.
    pub fn learn(&mut self, name: &str, addresses: impl IntoIterator<Item = IpAddr>) {
        let name: Arc<str> = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase().into();
        let addresses: BTreeSet<IpAddr> = addresses.into_iter().collect();
        let former = match addresses.is_empty() {
            true => self.learned.remove(&name),
            false => self.learned.insert(Arc::clone(&name), addresses.clone()),
        };
        if former.unwrap_or_default() != addresses {
            self.changes.names.insert(name);
        }
    }

    /// DNS names with the addresses that they stand for.
    pub(crate) fn learned(&self) -> impl Iterator<Item = (&Arc<str>, &BTreeSet<IpAddr>)> {
        self.learned.iter()
    }

    /// All that there is, as if it had just come.
    pub(crate) fn everything(&self) -> Changes {
        Changes {
            pods: self.pods.keys().cloned().collect(),
            namespaces: self.namespaces.keys().cloned().collect(),
            policies: self.policies.keys().cloned().collect(),
            names: self.learned.keys().cloned().collect(),
            nodes: true,
            mode: true,
        }
    }

    /// What changed since the last call.
    pub(crate) fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    /// The enforcement mode.
    #[must_use]
    pub const fn mode(&self) -> EnforcementMode {
        self.mode
    }

    /// Everything that is refused at this time, by object, then what is in force otherwise than it
    /// is written, then what is no object at all.
    pub fn refusals(&self) -> impl Iterator<Item = &Refusal> {
        let warnings = self.policies.values().map(|policy| &policy.warnings);
        self.refused.values().chain(warnings).chain(self.files.refusals()).flatten()
    }

    /// What of the policies in force is hardly meant as it is written.
    pub fn hints(&self) -> impl Iterator<Item = &Refusal> {
        self.policies.values().flat_map(|policy| &policy.hints)
    }

    /// How many objects, or parts of files that are none, [`Store::refusals`] tells of.
    #[must_use]
    pub fn refused_objects(&self) -> usize {
        let is_warned = |(key, policy): &(&ObjectKey, &Policy)| {
            !policy.warnings.is_empty() && !self.refused.contains_key(*key)
        };
        let warned = self.policies.iter().filter(is_warned).count();
        self.refused.len() + warned + self.files.refusals().count()
    }

    /// A pod by its name.
    #[must_use]
    pub fn pod(&self, namespace: &str, name: &str) -> Option<&Pod> {
        self.pods.get(&pod_name(namespace, name))
    }

    /// All pods, by name.
    pub fn pods(&self) -> impl Iterator<Item = (&PodName, &Pod)> {
        self.pods.iter()
    }

    /// All policies, by name, the refused ones too.
    pub fn policies(&self) -> impl Iterator<Item = PolicyStatus<'_>> {
        let refused = self.refused.keys().filter(|key| key.kind.is_policy());
        let keys: BTreeSet<&ObjectKey> = self.policies.keys().chain(refused).collect();
        keys.into_iter().map(|key| {
            let refusals = self.refused.get(key).map_or(&[][..], Vec::as_slice);
            let in_force = self.policies.get(key);
            let warnings = in_force.map_or(&[][..], |policy| policy.warnings.as_slice());
            let state = match (in_force.is_some(), refusals.is_empty()) {
                (true, true) => PolicyState::Enforced,
                (true, false) => PolicyState::Outdated,
                (false, _) => PolicyState::Refused,
            };
            PolicyStatus { key, state, refusals, warnings }
        })
    }

    /// The pods that a policy in force selects. A namespaced one selects in its own namespace only.
    pub fn selected_pods<'s>(&'s self, key: &ObjectKey) -> impl Iterator<Item = &'s PodName> + 's {
        let sets = self.rule_sets(key).map_or(&[][..], |sets| sets);
        let namespace: Option<Arc<str>> = key.namespace.as_deref().map(Into::into);
        let first = pod_name(key.namespace.as_deref().unwrap_or_default(), "");
        let pods = self.pods.range(first..).take_while(move |(name, _)| {
            namespace.as_ref().is_none_or(|namespace| name.namespace == *namespace)
        });
        // Pods are sorted by namespace: the labels of each are put together once.
        let mut place: Option<(&Arc<str>, Arc<Labels>)> = None;
        pods.filter_map(move |(name, pod)| {
            let namespace_labels = match &place {
                Some((of, labels)) if **of == name.namespace => Arc::clone(labels),
                _ => {
                    let labels = Arc::new(self.namespace_labels(&name.namespace));
                    place = Some((&name.namespace, Arc::clone(&labels)));
                    labels
                }
            };
            let facts = facts(name, pod, namespace_labels);
            let selected = sets.iter().any(|set| set.subject.matches(&facts));
            (selected && !pod.addresses().is_empty()).then_some(name)
        })
    }

    /// Labels of a namespace, with the one that the API server adds; just that one for a namespace
    /// that isn't known.
    pub(crate) fn namespace_labels(&self, namespace: &Arc<str>) -> Labels {
        let known = self.namespaces.get(namespace);
        let mut labels = known.map(|known| known.labels.clone()).unwrap_or_default();
        labels.insert(NAMESPACE_NAME_LABEL.into(), Arc::clone(namespace));
        labels
    }

    pub(crate) fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.directory.nodes.values()
    }

    /// Whether any node is known.
    #[must_use]
    pub fn has_nodes(&self) -> bool {
        !self.directory.nodes.is_empty()
    }

    /// Nodes with their names.
    pub(crate) fn named_nodes(&self) -> impl Iterator<Item = (&Arc<str>, &Node)> {
        self.directory.nodes.iter()
    }

    /// Gives a node addresses that its object, if there is one, doesn't tell of.
    pub(crate) fn add_node_addresses(
        &mut self,
        name: &Arc<str>,
        addresses: impl IntoIterator<Item = IpAddr>,
    ) {
        let mut node = self.directory.nodes.get(name).cloned().unwrap_or_default();
        node.addresses.extend(addresses);
        node.addresses.sort_unstable();
        node.addresses.dedup();
        self.changes.nodes = true;
        let concerned = self.directory.set_node(name, Some(node));
        self.lower_again(concerned);
    }

    /// The service that has a cluster IP, and its name.
    pub(crate) fn service_at(&self, address: IpAddr) -> Option<(&directory::Name, &Service)> {
        let services = self.directory.services.iter();
        let mut found = services.filter(|(_, service)| service.cluster_ips.contains(&address));
        found.next()
    }

    /// Services of a name, in one namespace or in all.
    pub(crate) fn services_called(
        &self,
        namespace: Option<&str>,
        name: &str,
    ) -> impl Iterator<Item = (&directory::Name, &Service)> {
        self.directory.services.iter().filter(move |(known, _)| {
            *known.1 == *name && namespace.is_none_or(|namespace| namespace == &*known.0)
        })
    }

    /// What stands behind a service: pods by its selector, or else addresses of its EndpointSlices.
    pub(crate) fn behind(&self, name: &directory::Name, service: &Service) -> Vec<String> {
        if service.selector.is_empty() {
            return self.directory.addresses(name).map(|address| address.to_string()).collect();
        }
        let is_behind = |(pod, object): &(&PodName, &Pod)| {
            let mut wanted = service.selector.iter();
            *pod.namespace == *name.0
                && !object.addresses().is_empty()
                && wanted.all(|(key, value)| object.labels.get(key) == Some(value))
        };
        self.pods.iter().filter(is_behind).map(|(pod, _)| pod.to_string()).collect()
    }

    pub(crate) fn host_addresses(&self) -> impl Iterator<Item = &IpAddr> {
        self.host_addresses.iter()
    }

    /// The normal form of a policy in force.
    #[must_use]
    pub fn rule_sets(&self, key: &ObjectKey) -> Option<&Arc<[RuleSet]>> {
        self.policies.get(key).map(|policy| policy.rule_sets(key, &self.directory))
    }

    /// Groups, services and the addresses behind services.
    #[cfg(feature = "oracle")]
    pub(crate) const fn directory(&self) -> &Directory {
        &self.directory
    }

    /// Policies in force, by name, in normal form.
    pub fn all_rule_sets(&self) -> impl Iterator<Item = (&ObjectKey, &[RuleSet])> {
        self.policies.iter().map(|(key, policy)| (key, &policy.rule_sets(key, &self.directory)[..]))
    }

    /// Policies in force, by name, as written.
    pub fn policy_objects(&self) -> impl Iterator<Item = (&ObjectKey, &Object)> {
        self.policies.iter().map(|(key, policy)| (key, &policy.object))
    }
}

/// What verdicts have to do with a document.
pub(crate) enum Interest {
    /// It is a policy, or looks like one.
    Policy,
    /// They depend on it, or it can't be told.
    Other,
    /// Nothing.
    None,
}

fn interest(value: &Value) -> Interest {
    let text = |field| value.get(field).and_then(Value::as_str);
    interest_in(text("kind"), text("apiVersion"))
}

/// The same by kind and apiVersion.
pub(crate) fn interest_in(kind: Option<&str>, version: Option<&str>) -> Interest {
    let Some(name) = kind.filter(|kind| !is_template(kind)) else { return Interest::Other };
    // Passing over a policy would open what it closes, so a slip in its kind must not hide it.
    if looks_like_policy(name) {
        return Interest::Policy;
    }
    let similar = Kind::ALL.iter().find(|kind| kind.name().eq_ignore_ascii_case(name));
    // Other API groups have kinds of these names too, such as Knative's Service.
    let group = |version: &str| version.rsplit_once('/').map(|(group, _)| group.to_owned());
    match similar {
        Some(kind) if version.is_none_or(|v| group(v) == group(kind.api_version())) => {
            Interest::Other
        }
        _ => Interest::None,
    }
}

/// Whether a kind is a network policy of some system, or the name of one of ours with at most
/// [`SLIPS_MAX`] letters wrong, missing, too many or swapped.
fn looks_like_policy(kind: &str) -> bool {
    let kind = kind.to_ascii_lowercase();
    let singular = kind.strip_suffix("ies").map(|stem| format!("{stem}y"));
    let kind = singular.unwrap_or(kind);
    let is_near = |known: &&Kind| {
        let known = known.name().to_ascii_lowercase();
        known.ends_with("networkpolicy")
            && known.len().abs_diff(kind.len()) <= SLIPS_MAX
            && strsim::osa_distance(&known, &kind) <= SLIPS_MAX
    };
    kind.ends_with("networkpolicy") || Kind::ALL.iter().any(|known| is_near(&known))
}

/// Slips in the name of a kind that is still known.
const SLIPS_MAX: usize = 2;

/// The normal form of a policy.
fn lower(key: &ObjectKey, object: &Object, directory: &Directory) -> Arc<[RuleSet]> {
    let namespace = key.namespace.as_deref();
    match object {
        Object::NetworkPolicy(policy) => {
            [lower_network_policy(policy, namespace.unwrap_or_default())].into()
        }
        Object::Cilium(policy) => lower_cilium(policy, namespace, directory).into(),
        Object::ClusterNetworkPolicy(policy) => {
            [lower_cluster_network_policy(policy, directory)].into()
        }
        Object::Namespace(_)
        | Object::Node(_)
        | Object::Pod(_)
        | Object::CidrGroup(_)
        | Object::Service(_)
        | Object::EndpointSlice(_) => Arc::default(),
    }
}

/// What selectors can ask about a pod.
fn facts(name: &PodName, pod: &Pod, namespace_labels: Arc<Labels>) -> Facts {
    Facts::Pod {
        namespace: Arc::clone(&name.namespace),
        service_account: Arc::clone(&pod.service_account),
        labels: Arc::clone(&pod.labels),
        namespace_labels,
    }
}

/// Namespace and name of an object that has both.
fn qualified(key: &ObjectKey) -> directory::Name {
    (key.namespace.as_deref().unwrap_or_default().into(), key.name.as_str().into())
}

fn pod_name_of(key: &ObjectKey) -> PodName {
    pod_name(key.namespace.as_deref().unwrap_or_default(), &key.name)
}

fn pod_name(namespace: &str, name: &str) -> PodName {
    PodName { namespace: namespace.into(), name: name.into() }
}

fn refusals(object: &str, source: Option<&Source>, problems: Vec<Problem>) -> Vec<Refusal> {
    let refusal = |problem: Problem| Refusal {
        object: object.to_owned(),
        source: source.map(|source| source.locate(&problem.field)),
        field: problem.field.to_string(),
        fix: problem.fix.map(|fix| fix_in_words(fix, &problem.field, source)),
        reason: problem.reason,
    };
    problems.into_iter().map(refusal).collect()
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
