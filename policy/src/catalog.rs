//! The names behind the numbers of the tables.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::HashMap;
use podgate_dataplane::policy::{DenySetId, RuleId};
use podgate_dataplane::types::Address;

use crate::key::ObjectKey;
use crate::labels::Facts;
use crate::rules::Side;

/// Names of everything that one set of tables refers to.
#[derive(Clone, Debug, PartialEq)]
pub struct Catalog {
    pub(crate) rules: Vec<RuleOrigin>,
    pub(crate) deny_sets: Vec<Vec<ObjectKey>>,
    pub(crate) identities: Vec<IdentityInfo>,
    pub(crate) pods: HashMap<Address, PodName>,
}

/// Where a rule was written. Shown as `NetworkPolicy shop/web spec.ingress[0]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RuleOrigin {
    /// The policy.
    pub key: ObjectKey,
    /// Ingress or egress.
    pub side: Side,
    /// Path of the rule in the policy.
    pub field: String,
}

impl fmt::Display for RuleOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.key, self.field)
    }
}

/// One identity.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IdentityInfo {
    /// The number that people and Hubble see: Cilium's for reserved identities, else one from 256
    /// to 2^24 - 1 that the labels determine.
    pub number: u32,
    pub(crate) facts: Facts,
}

impl IdentityInfo {
    /// The labels as Cilium writes them, `source:key=value`, sorted.
    #[must_use]
    pub fn labels(&self) -> Vec<String> {
        self.facts.to_labels()
    }
}

/// A pod's name.
#[derive(Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct PodName {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl Catalog {
    /// Where a rule was written. `None` for numbers of other tables than this catalogue's.
    #[must_use]
    pub fn rule(&self, id: RuleId) -> Option<&RuleOrigin> {
        self.rules.get(id.0 as usize)
    }

    /// The policies that together put an endpoint into default deny, sorted. Empty when it is the
    /// enforcement mode that does.
    #[must_use]
    pub fn deny_set(&self, id: DenySetId) -> &[ObjectKey] {
        self.deny_sets.get(id.0 as usize).map_or(&[], Vec::as_slice)
    }

    /// An identity by its index in the tables.
    #[must_use]
    pub fn identity(&self, index: u32) -> Option<&IdentityInfo> {
        self.identities.get(index as usize)
    }

    /// What selectors can ask about an identity of the tables.
    pub(crate) fn facts(&self, index: u32) -> &Facts {
        &self.identities[index as usize].facts
    }

    /// The pod that an address belongs to.
    #[must_use]
    pub fn pod_at(&self, address: IpAddr) -> Option<&PodName> {
        self.pods.get(&Address::from(address))
    }
}
