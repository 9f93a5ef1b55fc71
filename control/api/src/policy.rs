//! Messages about policies.

use std::fmt;

use podgate_policy::explain::{Effect, Explanation, TableRow};
use podgate_policy::{PodName, Rejection, rejection_line};
use serde::{Deserialize, Serialize};

/// Which policies; what is absent may be anything.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[serde(deny_unknown_fields)]
pub struct PolicyFilter {
    /// Kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// A pod that they select; of the pods in the answer, the others are left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodName>,
}

/// A policy as it is enforced.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct PolicyDetail {
    /// Name and state.
    #[serde(flatten)]
    pub status: PolicyStatus,
    /// Why the last version was rejected.
    pub rejected: Vec<RejectedField>,
    /// What is in force, by `spec`.
    pub specs: Vec<RuleSetDetail>,
    /// The pods that it selects.
    pub selected: Vec<String>,
}

/// One `spec` of a policy.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct RuleSetDetail {
    /// The endpoints that it selects, in words.
    pub subject: String,
    /// The directions in which what no rule allows is denied: `egress`, `ingress`.
    pub isolates: Vec<String>,
    /// Its rules.
    pub rules: Vec<RuleDetail>,
}

/// One rule.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct RuleDetail {
    /// Its path in the object.
    pub path: String,
    /// `egress` or `ingress`.
    pub direction: String,
    /// What it does.
    pub effect: Effect,
    /// `admin`, `normal` or `baseline`.
    pub tier: String,
    /// Priority in the tier; lower is first.
    pub priority: u16,
    /// Who may be at the other end, in words, any of them; absent is anyone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peers: Option<Vec<String>>,
    /// Ports; absent is any port of every protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<Vec<PortsDetail>>,
}

/// Ports of a rule, and its L7 rules there.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct PortsDetail {
    /// The ports, as `80/TCP`.
    pub ports: String,
    /// Requests pass by any of these, in words; absent is no restriction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub l7: Option<Vec<String>>,
}

/// Why a flow is allowed or denied, and by which tables.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Explained {
    /// Epoch of the tables; absent for those of manifests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// Notes on the explanation, one line each.
    pub notes: Vec<String>,
    /// The explanation.
    #[serde(flatten)]
    pub explanation: Explanation,
}

/// The compiled table of an endpoint.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct EndpointTable {
    /// The pod.
    pub pod: PodName,
    /// Its link.
    pub link: String,
    /// Identity number.
    pub identity: u32,
    /// Epoch of the tables that it is of.
    pub epoch: u64,
    /// Its rows, in the order in which workers match them.
    pub rows: Vec<TableRow>,
}

/// All policies, and everything that can't be enforced.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct PolicyList {
    /// Epoch of the tables that these policies are in;
    /// [`Request::PolicyWait`](crate::Request::PolicyWait) waits for it.
    pub epoch: u64,
    /// Policies by name.
    pub policies: Vec<PolicyStatus>,
    /// Rejected fields of these and of other objects.
    pub rejected: Vec<RejectedField>,
}

/// A policy and its state.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct PolicyStatus {
    /// Kind.
    pub kind: String,
    /// Namespace; none for cluster-wide kinds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
    /// Its state.
    pub state: PolicyState,
    /// Pods that it selects.
    pub pods: usize,
}

/// State of a policy.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum PolicyState {
    /// In force as written.
    Enforced,
    /// The version before is in force: what was written last was rejected.
    Outdated,
    /// Not in force.
    #[serde(rename = "rejected")]
    Rejected,
}

impl fmt::Display for PolicyState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Enforced => "enforced",
            Self::Outdated => "outdated",
            Self::Rejected => "rejected",
        })
    }
}

/// One reason why an object can't be enforced as it is written.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct RejectedField {
    /// Kind, namespace and name, as far as there are any.
    pub object: String,
    /// Where the field is, when it came from a manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// Path of the field.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
    /// What to write instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl From<&Rejection> for RejectedField {
    fn from(rejection: &Rejection) -> Self {
        let source = rejection.source.as_ref().map(|source| Source {
            file: source.file.display().to_string(),
            line: source.line,
            column: source.column,
        });
        Self {
            object: rejection.object.clone(),
            source,
            field: rejection.field.clone(),
            reason: rejection.reason.clone(),
            fix: rejection.fix.clone(),
        }
    }
}

impl fmt::Display for RejectedField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { object, source, field, reason, fix } = self;
        let source = source.as_ref().map(|source| format!("{}:{}", source.file, source.line));
        let line = rejection_line(source.as_deref(), object, field, reason, fix.as_deref());
        f.write_str(&line)
    }
}

/// A place in a manifest.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Source {
    /// The file.
    pub file: String,
    /// Line, from 1.
    pub line: u32,
    /// Column, from 1, counted in characters.
    pub column: u32,
}

/// Whether an epoch came into force.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct PolicyWaited {
    /// The epoch that every worker uses.
    pub epoch: u64,
    /// Whether that is the one that was waited for, or a later one.
    pub in_force: bool,
}
