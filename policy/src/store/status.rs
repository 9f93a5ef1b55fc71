//! Which policies are in force, and which objects were rejected and why.

use std::collections::{BTreeMap, BTreeSet};

use super::Store;
use crate::key::ObjectKey;
use crate::rejection::Rejection;

/// Whether a policy is in force.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PolicyState {
    /// In force as written.
    Enforced,
    /// The last version was rejected; an earlier one is in force.
    Outdated,
    /// Not in force: every version of it was rejected.
    Rejected,
}

/// A policy and its state.
#[derive(Clone, Debug)]
pub struct PolicyStatus<'s> {
    /// The policy.
    pub key: &'s ObjectKey,
    /// Whether it is in force.
    pub state: PolicyState,
    /// Why its last version was rejected.
    pub rejections: &'s [Rejection],
    /// Parts in force that are not enforced as written, and what is enforced instead.
    pub warnings: &'s [Rejection],
}

/// Why the last version of an object was rejected, by object. Objects whose last version was
/// accepted are not here.
#[derive(Debug, Default)]
pub(super) struct Rejections(BTreeMap<ObjectKey, Vec<Rejection>>);

impl Rejections {
    pub(super) fn get(&self, key: &ObjectKey) -> Option<&Vec<Rejection>> {
        self.0.get(key)
    }

    pub(super) fn insert(&mut self, key: ObjectKey, reasons: Vec<Rejection>) {
        self.0.insert(key, reasons);
    }

    pub(super) fn remove(&mut self, key: &ObjectKey) {
        self.0.remove(key);
    }
}

impl Store {
    /// Everything that is rejected at present, by object; then the warnings of policies in force;
    /// then parts of files that are no objects.
    pub fn rejections(&self) -> impl Iterator<Item = &Rejection> {
        let warnings = self.policies.values().map(|policy| &policy.warnings);
        self.rejections.0.values().chain(warnings).chain(self.files.rejections()).flatten()
    }

    /// Parts of policies in force that are enforced as written, but probably not what their
    /// authors meant.
    pub fn hints(&self) -> impl Iterator<Item = &Rejection> {
        self.policies.values().flat_map(|policy| &policy.hints)
    }

    /// How many objects, or parts of files that are no objects, have [`Store::rejections`].
    #[must_use]
    pub fn rejected_objects(&self) -> usize {
        let warned = self.policies.iter().filter(|(key, policy)| {
            !policy.warnings.is_empty() && self.rejections.get(key).is_none()
        });
        self.rejections.0.len() + warned.count() + self.files.rejections().count()
    }

    /// All policies, by name, including rejected ones.
    pub fn policies(&self) -> impl Iterator<Item = PolicyStatus<'_>> {
        let rejected = self.rejections.0.keys().filter(|key| key.kind.is_policy());
        let in_force = self.policies.keys().map(AsRef::as_ref);
        let keys: BTreeSet<&ObjectKey> = in_force.chain(rejected).collect();
        keys.into_iter().map(|key| self.policy_status(key))
    }

    /// How many policies are in force, in their last version or an earlier one.
    #[must_use]
    pub fn policies_in_force(&self) -> usize {
        self.policies.len()
    }

    /// A policy that is in force or rejected.
    #[must_use]
    pub fn policy<'s>(&'s self, key: &'s ObjectKey) -> Option<PolicyStatus<'s>> {
        let known = self.policies.contains_key(key) || self.rejections.get(key).is_some();
        known.then(|| self.policy_status(key))
    }

    fn policy_status<'s>(&'s self, key: &'s ObjectKey) -> PolicyStatus<'s> {
        let rejections = self.rejections.get(key).map_or(&[][..], Vec::as_slice);
        let in_force = self.policies.get(key);
        let warnings = in_force.map_or(&[][..], |policy| policy.warnings.as_slice());
        let state = match (in_force.is_some(), rejections.is_empty()) {
            (true, true) => PolicyState::Enforced,
            (true, false) => PolicyState::Outdated,
            (false, _) => PolicyState::Rejected,
        };
        PolicyStatus { key, state, rejections, warnings }
    }
}
