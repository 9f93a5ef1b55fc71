//! Finding the selectors that match an identity without asking all of them.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use hashbrown::{Equivalent, HashMap};

use crate::labels::{LabelContext, LabelKey, Place};
use crate::selector::{Selector, Test};

/// A label that a selector insists on.
#[derive(PartialEq, Eq, Debug)]
struct ExactLabel {
    /// A key that has one place.
    key: LabelKey,
    value: Arc<str>,
}

impl ExactLabel {
    fn place(&self) -> (Option<Place<'_>>, &str) {
        (self.key.places().next(), &self.value)
    }
}

impl Hash for ExactLabel {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.place().hash(state);
    }
}

#[derive(Hash)]
struct Asked<'a>(Option<Place<'a>>, &'a str);

impl Equivalent<ExactLabel> for Asked<'_> {
    fn equivalent(&self, label: &ExactLabel) -> bool {
        label.place() == (self.0, self.1)
    }
}

/// Selectors by one label that they insist on.
///
/// Nearly every selector demands some exact label, and an identity has few labels: those of the
/// identity lead to the selectors that can match it, and only these are asked. The others, which
/// demand no exact label, are asked for every identity.
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

    /// The selectors that match, sorted, without doubles.
    pub(super) fn matching(&self, label_context: &LabelContext) -> Vec<u32> {
        let mut found = Vec::new();
        let mut ask = |ids: &[u32]| {
            found.extend(ids.iter().filter(|id| self.selectors[*id].matches(label_context)));
        };
        ask(&self.others);
        label_context.for_each(|place, value| {
            if let Some(ids) = self.by_label.get(&Asked(Some(place), value)) {
                ask(ids);
            }
        });
        found.sort_unstable();
        found.dedup();
        found
    }
}

/// One of these labels has whoever matches the selector; `None` if it demands no exact label.
fn exact_labels(selector: &Selector) -> Option<Vec<ExactLabel>> {
    let (key, values) = most_telling(selector)?;
    let keys = key.places().map(|place| match place {
        // One spelling of each place, so that equal places are equal keys.
        Place::Pod(key) => LabelKey::Pod(key.into()),
        Place::Reserved(key) => LabelKey::Reserved(key.into()),
        _ => key.clone(),
    });
    let label = |key: &LabelKey, value: &Arc<str>| ExactLabel {
        key: key.clone(),
        value: Arc::clone(value),
    };
    Some(keys.flat_map(|key| values.iter().map(move |value| label(&key, value))).collect())
}

/// The exact demand that the fewest identities are likely to meet.
pub(super) fn most_telling(selector: &Selector) -> Option<(&LabelKey, &[Arc<str>])> {
    let exact = selector.conditions().iter().filter_map(|requirement| match &requirement.test {
        Test::In(values) => Some((&requirement.key, values.as_slice())),
        Test::NotIn(_) | Test::Exists | Test::DoesNotExist => None,
    });
    // A namespace holds a small part of the cluster; a label such as `tier=frontend` may be
    // everywhere, and a cluster's name is.
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
