//! Whether verdicts depend on a document, by its kind and apiVersion.

use serde_json::Value;

use crate::fields::is_template;
use crate::key::Kind;

/// Whether verdicts depend on a document.
pub(crate) enum Relevance {
    /// It is a policy, or looks like one.
    Policy,
    /// They depend on it, or may depend on it.
    Other,
    /// No verdict depends on it.
    None,
}

impl Relevance {
    /// Of a document.
    pub(crate) fn of(value: &Value) -> Self {
        let text = |field| value.get(field).and_then(Value::as_str);
        Self::of_kind(text("kind"), text("apiVersion"))
    }

    /// Of a document with this `kind` and `apiVersion`.
    pub(crate) fn of_kind(kind: Option<&str>, version: Option<&str>) -> Self {
        let is_name = |kind: &&str| !kind.trim().is_empty() && !is_template(kind);
        let Some(name) = kind.filter(is_name) else { return Self::Other };
        // The API doesn't tell an empty text from none.
        let version = version.filter(|version| !version.is_empty());
        // Ignoring a policy would allow what it denies, so a misspelt kind must not hide it.
        if looks_like_policy(name) {
            return Self::Policy;
        }
        let similar = Kind::ALL.iter().find(|kind| kind.name().eq_ignore_ascii_case(name));
        // Other API groups have kinds of these names too, such as Knative's Service.
        let group = |version: &str| version.rsplit_once('/').map(|(group, _)| group.to_owned());
        match similar {
            Some(kind) if version.is_none_or(|v| group(v) == group(kind.api_version())) => {
                Self::Other
            }
            _ => Self::None,
        }
    }
}

/// Most letters that may differ between a misspelt kind and the kind that is meant.
const TYPOS_MAX: usize = 2;

/// Whether a kind is a network policy of some system, or one of ours with at most [`TYPOS_MAX`]
/// letters wrong, missing, added or swapped.
fn looks_like_policy(kind: &str) -> bool {
    let kind = kind.to_ascii_lowercase();
    let singular = kind.strip_suffix("ies").map(|stem| format!("{stem}y"));
    let kind = singular.unwrap_or(kind);
    let is_near = |known: &&Kind| {
        let known = known.name().to_ascii_lowercase();
        known.ends_with("networkpolicy")
            && known.len().abs_diff(kind.len()) <= TYPOS_MAX
            && strsim::osa_distance(&known, &kind) <= TYPOS_MAX
    };
    kind.ends_with("networkpolicy") || Kind::ALL.iter().any(|known| is_near(&known))
}
