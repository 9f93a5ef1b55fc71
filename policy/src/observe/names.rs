//! Names of policies and rules in records.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::key::ObjectKey;

/// Name of a policy object.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct PolicyName {
    /// Kind.
    pub kind: String,
    /// Namespace; none for cluster-wide kinds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
}

/// Name of a rule: its policy, and its path there.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct RuleName {
    /// The policy.
    pub policy: PolicyName,
    /// Path in the object, such as `spec.ingress[0]`.
    pub path: String,
}

impl PolicyName {
    /// `KIND NAMESPACE/NAME`.
    #[must_use]
    pub fn in_full(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("{} {namespace}/{}", self.kind, self.name),
            None => format!("{} {}", self.kind, self.name),
        }
    }
}

impl RuleName {
    /// `KIND NAMESPACE/NAME PATH`.
    #[must_use]
    pub fn in_full(&self) -> String {
        format!("{} {}", self.policy.in_full(), self.path)
    }
}

/// `NAME (KIND)`, as Hubble writes it: the namespace is that of the endpoint beside it.
impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.kind)
    }
}

impl From<&ObjectKey> for PolicyName {
    fn from(key: &ObjectKey) -> Self {
        Self {
            kind: key.kind.name().to_owned(),
            namespace: key.namespace.clone(),
            name: key.name.clone(),
        }
    }
}
