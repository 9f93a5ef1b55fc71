//! Finding the selectors that match an identity without evaluating all of them.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use hashbrown::{Equivalent, HashMap};

use crate::labels::{LabelContext, LabelKey, LabelRef};
use crate::selector::{Selector, Test};

/// A label that a selector requires.
#[derive(PartialEq, Eq, Debug)]
struct ExactLabel {
    /// A key of one label.
    key: LabelKey,
    value: Arc<str>,
}

impl ExactLabel {
    fn label_ref(&self) -> (Option<LabelRef<'_>>, &str) {
        (self.key.label_refs().next(), &self.value)
    }
}

impl Hash for ExactLabel {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.label_ref().hash(state);
    }
}

#[derive(Hash)]
struct LabelQuery<'a>(Option<LabelRef<'a>>, &'a str);

impl Equivalent<ExactLabel> for LabelQuery<'_> {
    fn equivalent(&self, label: &ExactLabel) -> bool {
        label.label_ref() == (self.0, self.1)
    }
}

/// Selectors by a label that they require.
///
/// Nearly every selector demands some exact label, and an identity has few labels: by these labels
/// the selectors that can match it are found, and only those are evaluated. The others, which
/// demand no exact label, are evaluated for every identity.
#[derive(Debug, Default)]
pub(super) struct SelectorIndex {
    selectors: HashMap<u32, Selector>,
    by_label: HashMap<ExactLabel, Vec<u32>>,
    others: Vec<u32>,
}

impl SelectorIndex {
    /// Adds a selector under a number that no other has.
    pub(super) fn insert(&mut self, id: u32, selector: &Selector) {
        match exact_labels(selector) {
            Some(labels) => {
                for label in labels {
                    self.by_label.entry(label).or_default().push(id);
                }
            }
            None => self.others.push(id),
        }
        self.selectors.insert(id, selector.clone());
    }

    pub(super) fn remove(&mut self, id: u32) {
        let Some(selector) = self.selectors.remove(&id) else { return };
        let Some(labels) = exact_labels(&selector) else {
            return self.others.retain(|other| *other != id);
        };
        for label in labels {
            if let Some(ids) = self.by_label.get_mut(&label) {
                ids.retain(|other| *other != id);
                if ids.is_empty() {
                    self.by_label.remove(&label);
                }
            }
        }
    }

    /// The selectors that match, sorted, without duplicates.
    pub(super) fn matching(&self, label_context: &LabelContext) -> Vec<u32> {
        let mut found = Vec::new();
        let mut ask = |ids: &[u32]| {
            found.extend(ids.iter().filter(|id| self.selectors[*id].matches(label_context)));
        };
        ask(&self.others);
        label_context.for_each(|label_ref, value| {
            if let Some(ids) = self.by_label.get(&LabelQuery(Some(label_ref), value)) {
                ask(ids);
            }
        });
        found.sort_unstable();
        found.dedup();
        found
    }
}

/// An identity that matches the selector has one of these labels; `None` if it requires no label.
fn exact_labels(selector: &Selector) -> Option<Vec<ExactLabel>> {
    let (key, values) = most_selective(selector)?;
    let keys = key.label_refs().map(|label_ref| match label_ref {
        // One key for each label, so that equal labels have equal keys.
        LabelRef::Pod(key) => LabelKey::Pod(key.into()),
        LabelRef::Reserved(key) => LabelKey::Reserved(key.into()),
        _ => key.clone(),
    });
    let label = |key: &LabelKey, value: &Arc<str>| ExactLabel {
        key: key.clone(),
        value: Arc::clone(value),
    };
    Some(keys.flat_map(|key| values.iter().map(move |value| label(&key, value))).collect())
}

/// The required label that the fewest identities are likely to have.
pub(super) fn most_selective(selector: &Selector) -> Option<(&LabelKey, &[Arc<str>])> {
    let exact = selector.conditions().iter().filter_map(|requirement| match &requirement.test {
        Test::In(values) => Some((&requirement.key, values.as_slice())),
        Test::NotIn(_) | Test::Exists | Test::DoesNotExist => None,
    });
    // A namespace has a small part of the cluster's pods; a label such as `tier=frontend` may be on
    // all pods, and the cluster's name is.
    exact.min_by_key(|(key, values)| {
        let rank = match key {
            LabelKey::Foreign(_) => 0,
            LabelKey::Namespace => 1,
            LabelKey::Pod(_) | LabelKey::Any(_) | LabelKey::Reserved(_) => 2,
            LabelKey::NamespaceLabel(_) => 3,
            LabelKey::ServiceAccount => 4,
            LabelKey::Cluster => 5,
        };
        (rank, values.len())
    })
}
