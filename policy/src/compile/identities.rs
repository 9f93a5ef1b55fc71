//! Pods with the same labels, namespace and service account are one identity.

use std::sync::Arc;

use hashbrown::HashMap;
use podgate_tables::policy::{PolicyTables, SelectorSet};

use super::index::most_selective;
use super::interner::Numbers;
use super::sharing::SharedTable;
use crate::labels::{LabelContext, LabelKey, Labels};
use crate::rules::PerDirection;
use crate::selector::{Selector, Test};

/// Pods with equal keys have one identity. The namespace determines its labels.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct IdentityKey {
    pub(super) namespace: Arc<str>,
    pub(super) service_account: Arc<str>,
    pub(super) labels: Arc<Labels>,
}

impl IdentityKey {
    fn label_context(&self, namespace_labels: &Arc<Labels>) -> LabelContext {
        LabelContext::Pod {
            namespace: Arc::clone(&self.namespace),
            service_account: Arc::clone(&self.service_account),
            labels: Arc::clone(&self.labels),
            namespace_labels: Arc::clone(namespace_labels),
        }
    }
}

/// One identity.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) label_context: LabelContext,
    /// Row of its namespace.
    pub(super) namespace: u32,
    /// Peer selectors that match it.
    pub(super) selectors: SelectorSet,
    /// The tables that apply to it, for egress and ingress; `None` for reserved identities.
    pub(super) tables: Option<PerDirection<SharedTable>>,
    /// `None` for reserved ones.
    key: Option<IdentityKey>,
    users: u32,
}

/// What [`Identities::acquire`] found.
pub(super) struct Acquired {
    pub(super) id: u32,
    /// The identity was not in use before.
    pub(super) is_new: bool,
    /// It is the first one of its namespace.
    pub(super) opens_namespace: bool,
}

/// A namespace that has pods.
#[derive(Debug)]
struct Namespace {
    row: u32,
    label_context: LabelContext,
    labels: Arc<Labels>,
    identities: Vec<u32>,
}

/// Labels and numbers of the reserved identities, in the order of `PolicyTables::WORLD_V4` and the
/// constants after it. Cilium's numbers (cilium `pkg/identity/numericidentity.go`).
pub(super) const RESERVED: [(u32, &[&str]); PolicyTables::RESERVED as usize] = [
    (9, &["world", "world-ipv4"]),
    (10, &["world", "world-ipv6"]),
    (1, &["host"]),
    (6, &["remote-node"]),
];

/// First number of a pod's identity; those below are reserved (cilium
/// `pkg/identity/numericidentity.go`, `MinimalAllocationIdentity`).
const NUMBER_MIN: u32 = 256;
/// One more than the last number: 24 bits, beyond which Cilium's local scopes begin.
const NUMBER_END: u32 = 1 << 24;

/// The number that is displayed. It depends only on the labels, so pods keep theirs when other pods
/// come and go, and after a restart. Two label sets may, rarely, have the same number; no lookup
/// uses it.
pub(super) fn number_of(label_context: &LabelContext) -> u32 {
    match label_context {
        LabelContext::Reserved(names) => {
            let reserved = RESERVED.iter().find(|(_, of)| of == names);
            reserved.map_or(0, |(number, _)| *number)
        }
        LabelContext::Pod { .. } => {
            NUMBER_MIN + (label_context.fingerprint() % u64::from(NUMBER_END - NUMBER_MIN)) as u32
        }
    }
}

/// All identities, the reserved ones at the numbers that the tables fix.
#[derive(Debug)]
pub(super) struct Identities {
    ids: HashMap<IdentityKey, u32>,
    slots: Vec<Option<Identity>>,
    numbers: Numbers,
    namespaces: HashMap<Arc<str>, Namespace>,
    /// Rows of namespaces; row zero is not used by any.
    rows: Numbers,
    /// Identities by the labels of their pods.
    by_label: HashMap<(Arc<str>, Arc<str>), Vec<u32>>,
}

impl Identities {
    /// With the reserved identities, which no selector matches yet.
    pub(super) fn new() -> Self {
        let mut numbers = Numbers::default();
        let slots = RESERVED.iter().map(|(_, names)| {
            numbers.allocate();
            Some(Identity {
                label_context: LabelContext::Reserved(names),
                namespace: 0,
                selectors: SelectorSet::default(),
                tables: None,
                key: None,
                users: 1,
            })
        });
        let slots = slots.collect();
        let mut rows = Numbers::default();
        rows.allocate();
        Self {
            ids: HashMap::new(),
            slots,
            numbers,
            namespaces: HashMap::new(),
            rows,
            by_label: HashMap::new(),
        }
    }

    pub(super) fn get(&self, id: u32) -> Option<&Identity> {
        self.slots.get(id as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, id: u32) -> Option<&mut Identity> {
        self.slots.get_mut(id as usize)?.as_mut()
    }

    /// The identity of a key, for one more user of it. `labels_of` gives the labels of a namespace
    /// that had no pod yet.
    pub(super) fn acquire(
        &mut self,
        key: IdentityKey,
        labels_of: impl FnOnce(&Arc<str>) -> Labels,
    ) -> Acquired {
        if let Some(id) = self.ids.get(&key).copied() {
            if let Some(identity) = self.get_mut(id) {
                identity.users += 1;
            }
            return Acquired { id, is_new: false, opens_namespace: false };
        }
        let id = self.numbers.allocate();
        let rows = &mut self.rows;
        let namespace = self.namespaces.entry_ref(&key.namespace).or_insert_with(|| {
            let labels = Arc::new(labels_of(&key.namespace));
            Namespace {
                row: rows.allocate(),
                label_context: label_context_of_namespace(&key.namespace, &labels),
                labels,
                identities: Vec::new(),
            }
        });
        let opens_namespace = namespace.identities.is_empty();
        namespace.identities.push(id);
        for (name, value) in key.labels.iter() {
            self.by_label.entry((Arc::clone(name), Arc::clone(value))).or_default().push(id);
        }
        let identity = Identity {
            label_context: key.label_context(&namespace.labels),
            namespace: namespace.row,
            selectors: SelectorSet::default(),
            tables: None,
            key: Some(key.clone()),
            users: 1,
        };
        self.ids.insert(key, id);
        if self.slots.len() <= id as usize {
            self.slots.resize_with(id as usize + 1, || None);
        }
        self.slots[id as usize] = Some(identity);
        Acquired { id, is_new: true, opens_namespace }
    }

    /// One user less. Returns the identity if that was the last, and the row of its namespace if
    /// that has no pods any more.
    pub(super) fn release(&mut self, id: u32) -> Option<(Identity, Option<u32>)> {
        let slot = self.slots.get_mut(id as usize)?;
        let identity = slot.as_mut()?;
        identity.users -= 1;
        if identity.users > 0 {
            return None;
        }
        let identity = slot.take()?;
        let key = identity.key.as_ref()?;
        self.ids.remove(key);
        self.numbers.release(id);
        for (name, value) in key.labels.iter() {
            let label = (Arc::clone(name), Arc::clone(value));
            if let Some(ids) = self.by_label.get_mut(&label) {
                remove(ids, id);
                if ids.is_empty() {
                    self.by_label.remove(&label);
                }
            }
        }
        let mut emptied = None;
        if let Some(namespace) = self.namespaces.get_mut(&key.namespace) {
            remove(&mut namespace.identities, id);
            if namespace.identities.is_empty() {
                emptied = Some(namespace.row);
                self.rows.release(namespace.row);
                self.namespaces.remove(&key.namespace);
            }
        }
        Some((identity, emptied))
    }

    /// Gives a namespace other labels. Returns its identities, if it has pods.
    pub(super) fn relabel(&mut self, name: &Arc<str>, labels: Labels) -> Vec<u32> {
        let Some(namespace) = self.namespaces.get_mut(name) else { return Vec::new() };
        if *namespace.labels == labels {
            return Vec::new();
        }
        namespace.labels = Arc::new(labels);
        namespace.label_context = label_context_of_namespace(name, &namespace.labels);
        for id in &namespace.identities {
            if let Some(identity) = &mut self.slots[*id as usize]
                && let Some(key) = &identity.key
            {
                identity.label_context = key.label_context(&namespace.labels);
            }
        }
        namespace.identities.clone()
    }

    /// Row of a namespace that has pods, with the labels that selectors match.
    pub(super) fn namespace(&self, name: &str) -> Option<(u32, &LabelContext)> {
        self.namespaces.get(name).map(|namespace| (namespace.row, &namespace.label_context))
    }

    /// Rows of the namespaces that the selector's conditions on namespaces match. Row zero is for
    /// identities without a namespace.
    pub(super) fn namespaces_matching(&self, selector: &Selector) -> Vec<u32> {
        let rows = self.namespaces_meeting(selector).map(|namespace| namespace.row);
        let nobody = selector.matches(&LabelContext::Reserved(&[])).then_some(0);
        nobody.into_iter().chain(rows).collect()
    }

    fn namespaces_meeting(&self, selector: &Selector) -> impl Iterator<Item = &Namespace> {
        let demands =
            Selector::new(selector.conditions().iter().filter(|c| asks_namespace(&c.key)).cloned());
        self.namespaces.values().filter(move |namespace| demands.matches(&namespace.label_context))
    }

    /// The identities that a selector matches, in no order, without duplicates.
    pub(super) fn matching(&self, selector: &Selector) -> Vec<u32> {
        let mut candidates: Vec<u32> = (0..PolicyTables::RESERVED).collect();
        match most_selective(selector) {
            _ if excludes_pods(selector) => {}
            Some((LabelKey::Namespace, names)) => {
                let namespaces = names.iter().filter_map(|name| self.namespaces.get(name));
                candidates.extend(namespaces.flat_map(|namespace| &namespace.identities));
            }
            Some((LabelKey::Pod(key) | LabelKey::Any(key), values)) => {
                let labels = values.iter().map(|value| (Arc::clone(key), Arc::clone(value)));
                let found = labels.filter_map(|label| self.by_label.get(&label));
                candidates.extend(found.flatten());
            }
            _ => {
                let namespaces = self.namespaces_meeting(selector);
                candidates.extend(namespaces.flat_map(|namespace| &namespace.identities));
            }
        }
        candidates.retain(|id| self.get(*id).is_some_and(|it| selector.matches(&it.label_context)));
        candidates
    }
}

/// Whether a key is one of the namespace, so that all its pods have the same value.
pub(super) const fn asks_namespace(key: &LabelKey) -> bool {
    matches!(key, LabelKey::Namespace | LabelKey::NamespaceLabel(_) | LabelKey::Cluster)
}

/// Whether a selector demands a label that no pod has.
fn excludes_pods(selector: &Selector) -> bool {
    selector.conditions().iter().any(|condition| {
        matches!(condition.key, LabelKey::Reserved(_) | LabelKey::Foreign(_))
            && matches!(condition.test, Test::In(_) | Test::Exists)
    })
}

/// What all pods of a namespace have in common.
fn label_context_of_namespace(name: &Arc<str>, labels: &Arc<Labels>) -> LabelContext {
    let key = IdentityKey {
        namespace: Arc::clone(name),
        service_account: "".into(),
        labels: Arc::default(),
    };
    key.label_context(labels)
}

fn remove(ids: &mut Vec<u32>, id: u32) {
    if let Some(position) = ids.iter().position(|other| *other == id) {
        ids.swap_remove(position);
    }
}
