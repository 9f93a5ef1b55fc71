//! Finding the selectors that match an identity without asking all of them.

use hashbrown::HashMap;

use crate::labels::{Facts, LabelKey, Place};
use crate::selector::{Requirement, Selector, Test};

/// Selectors by one label that they insist on.
///
/// Nearly every selector demands some exact label, and an identity has few labels: those of the
/// identity lead to the selectors that can match it, and only these are asked. The others, which
/// demand no exact label, are asked for every identity.
pub(super) struct SelectorIndex<'s> {
    selectors: Vec<(&'s Selector, u32)>,
    /// Positions in `selectors`.
    by_label: HashMap<(Place<'s>, &'s str), Vec<u32>>,
    /// Positions of the others.
    others: Vec<u32>,
}

impl<'s> SelectorIndex<'s> {
    /// From selectors and what they stand for; several may stand for the same.
    pub(super) fn new(selectors: impl Iterator<Item = (&'s Selector, u32)>) -> Self {
        let mut index =
            Self { selectors: selectors.collect(), by_label: HashMap::new(), others: Vec::new() };
        for (position, (selector, _)) in index.selectors.iter().enumerate() {
            let position = position as u32;
            let Some((requirement, values)) = most_telling(selector) else {
                index.others.push(position);
                continue;
            };
            for place in requirement.key.places() {
                for value in values {
                    index.by_label.entry((place, value)).or_default().push(position);
                }
            }
        }
        index
    }

    /// What the selectors that match stand for, sorted, without doubles.
    pub(super) fn matching(&self, facts: &Facts) -> Vec<u32> {
        let mut found = Vec::new();
        let mut ask = |positions: &[u32]| {
            for position in positions {
                let (selector, stands_for) = self.selectors[*position as usize];
                if selector.matches(facts) {
                    found.push(stands_for);
                }
            }
        };
        ask(&self.others);
        facts.for_each(|key, value| {
            if let Some(positions) = self.by_label.get(&(key, value)) {
                ask(positions);
            }
        });
        found.sort_unstable();
        found.dedup();
        found
    }
}

/// The exact demand that the fewest identities are likely to meet.
fn most_telling(selector: &Selector) -> Option<(&Requirement, &[std::sync::Arc<str>])> {
    let exact = selector.conditions().iter().filter_map(|requirement| match &requirement.test {
        Test::In(values) => Some((requirement, values.as_slice())),
        Test::NotIn(_) | Test::Exists | Test::DoesNotExist => None,
    });
    // A namespace holds a small part of the cluster; a label such as `tier=frontend` may be
    // everywhere, and a cluster's name is.
    exact.min_by_key(|(requirement, values)| {
        let rank = match requirement.key {
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
