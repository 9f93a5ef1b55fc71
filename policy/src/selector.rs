//! Label selectors in normal form, the same for every API family.

use std::fmt;
use std::sync::Arc;

use crate::labels::{LabelContext, LabelKey};

/// The test of a requirement on a label's value.
#[derive(Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum Test {
    /// There is a value and it is one of these (sorted).
    In(Vec<Arc<str>>),
    /// There is no value, or it is none of these (sorted).
    NotIn(Vec<Arc<str>>),
    /// There is a value.
    Exists,
    /// There is no value.
    DoesNotExist,
}

/// One condition.
#[derive(Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct Requirement {
    /// The label.
    pub key: LabelKey,
    /// What must be true of it.
    pub test: Test,
}

impl Requirement {
    /// The label has exactly this value.
    #[must_use]
    pub fn equals(key: LabelKey, value: &str) -> Self {
        Self { key, test: Test::In(vec![value.into()]) }
    }

    /// The label exists.
    #[must_use]
    pub const fn exists(key: LabelKey) -> Self {
        Self { key, test: Test::Exists }
    }

    /// Whether the condition holds.
    #[must_use]
    pub fn matches(&self, label_context: &LabelContext) -> bool {
        let value = label_context.get(&self.key);
        let is_one_of = |values: &[Arc<str>]| {
            value.is_some_and(|value| values.binary_search_by(|v| (**v).cmp(value)).is_ok())
        };
        match &self.test {
            Test::In(values) => is_one_of(values),
            Test::NotIn(values) => !is_one_of(values),
            Test::Exists => value.is_some(),
            Test::DoesNotExist => value.is_none(),
        }
    }
}

/// As `kubectl` writes it: `app=web`, `tier in (a,b)`, `!debug`.
impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = &self.key;
        match &self.test {
            Test::In(values) => match &values[..] {
                [value] => write!(f, "{key}={value}"),
                values => write!(f, "{key} in ({})", values.join(",")),
            },
            Test::NotIn(values) => match &values[..] {
                [value] => write!(f, "{key}!={value}"),
                values => write!(f, "{key} notin ({})", values.join(",")),
            },
            Test::Exists => write!(f, "{key}"),
            Test::DoesNotExist => write!(f, "!{key}"),
        }
    }
}

/// All of these conditions; sorted and without duplicates, so that equal selectors compare equal.
#[derive(Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord, Default)]
pub struct Selector {
    requirements: Vec<Requirement>,
}

impl Selector {
    /// From conditions in any order.
    #[must_use]
    pub fn new(requirements: impl IntoIterator<Item = Requirement>) -> Self {
        let mut requirements: Vec<_> = requirements.into_iter().collect();
        requirements.sort_unstable();
        requirements.dedup();
        Self { requirements }
    }

    /// Whether all conditions hold.
    #[must_use]
    pub fn matches(&self, label_context: &LabelContext) -> bool {
        self.requirements.iter().all(|requirement| requirement.matches(label_context))
    }

    /// The conditions.
    #[must_use]
    pub fn conditions(&self) -> &[Requirement] {
        &self.requirements
    }
}

/// The conditions with commas between them, as `kubectl` writes them. The condition to be a pod is
/// left out where another one says so.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_pod = |r: &Requirement| r.key == LabelKey::Namespace && r.test == Test::Exists;
        let implies_pod =
            |r: &Requirement| matches!(r.test, Test::In(_) | Test::Exists) && !is_pod(r);
        let is_implied = self.requirements.iter().any(implies_pod);
        let words = self.requirements.iter().filter_map(|requirement| {
            match (is_pod(requirement), is_implied) {
                (false, _) => Some(requirement.to_string()),
                (true, false) => Some("any pod".to_owned()),
                (true, true) => None,
            }
        });
        let words: Vec<String> = words.collect();
        if words.is_empty() { f.write_str("everything") } else { f.write_str(&words.join(",")) }
    }
}
