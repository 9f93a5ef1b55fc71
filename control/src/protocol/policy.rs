//! Messages about policies.

use anyhow::{Result, bail};
use podgate_policy::explain::{Effect, Explanation, TableRow};
use podgate_policy::{Kind, Store};
use serde::{Deserialize, Serialize};

use super::{PodName, PolicyStatus, RefusedField};

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
}

impl PolicyFilter {
    /// From `[KIND] [NAMESPACE/]NAME`; a kind alone is all of that kind. Kinds may be written in
    /// any case, as for `kubectl`.
    ///
    /// # Errors
    /// When the first of two words is no kind of policy.
    pub fn from_words(words: &[String]) -> Result<Self> {
        let kind = |word: &str| {
            let kinds = Kind::ALL.iter().filter(|kind| kind.is_policy());
            let mut kinds = kinds.map(|kind| kind.name());
            kinds.find(|name| name.eq_ignore_ascii_case(word)).map(str::to_owned)
        };
        let (kind, name) = match words {
            [] => (None, None),
            [word] => match kind(word) {
                Some(kind) => (Some(kind), None),
                None => (None, Some(word)),
            },
            [first, name, ..] => match kind(first) {
                Some(kind) => (Some(kind), Some(name)),
                None => {
                    let kinds = Kind::ALL.iter().filter(|kind| kind.is_policy());
                    let kinds: Vec<_> = kinds.map(|kind| kind.name()).collect();
                    bail!("{first} is no kind of policy; there are {}", kinds.join(", "));
                }
            },
        };
        let (namespace, name) = match name.map(|name| (name, name.split_once('/'))) {
            None => (None, None),
            Some((_, Some((namespace, name)))) => {
                (Some(namespace.to_owned()), Some(name.to_owned()))
            }
            Some((name, None)) => (None, Some(name.clone())),
        };
        Ok(Self { kind, namespace, name })
    }
}

/// A policy as it is enforced.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct PolicyDetail {
    /// Name and state.
    #[serde(flatten)]
    pub status: PolicyStatus,
    /// Why the last version was refused.
    pub refused: Vec<RefusedField>,
    /// What is in force, by `spec`.
    pub specs: Vec<RuleSetDetail>,
    /// The pods that it selects.
    pub selected: Vec<String>,
}

/// One `spec` of a policy.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct RuleSetDetail {
    /// Whom it selects, in words.
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
    /// On which ports; absent is any, of every protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<Vec<PortsDetail>>,
}

/// Ports of a rule, and what it asks of requests there.
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
    /// Generation of the tables; absent for those of manifests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u32>,
    /// What to know of the explanation, one line each.
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
    /// Generation of the table.
    pub epoch: u32,
    /// Its rows, in the order in which workers look at them.
    pub rows: Vec<TableRow>,
}

/// Whether a revision came into force.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct PolicyWaited {
    /// The revision that every worker judges by.
    pub revision: u32,
    /// Whether that is the one that was waited for, or a later one.
    pub in_force: bool,
}

/// What an explanation has to say of objects that are not judged by as they are written.
pub(crate) fn refused_note(store: &Store) -> Option<String> {
    match store.rejected_objects() {
        0 => None,
        1 => Some("1 object is not in force as it was last written".to_owned()),
        count => Some(format!("{count} objects are not in force as they were last written")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_named_by_kind_namespace_and_name_as_far_as_needed() {
        let filter = |words: &[&str]| {
            let words: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
            PolicyFilter::from_words(&words).map(|f| (f.kind, f.namespace, f.name))
        };
        let some = |text: &str| Some(text.to_owned());
        let kind = || some("NetworkPolicy");
        assert_eq!(filter(&[]).unwrap(), (None, None, None));
        assert_eq!(filter(&["web"]).unwrap(), (None, None, some("web")));
        assert_eq!(filter(&["shop/web"]).unwrap(), (None, some("shop"), some("web")));
        assert_eq!(filter(&["networkpolicy"]).unwrap(), (kind(), None, None));
        assert_eq!(filter(&["NetworkPolicy", "web"]).unwrap(), (kind(), None, some("web")));
        assert!(filter(&["Pod", "web"]).is_err());
    }
}
