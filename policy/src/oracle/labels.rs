//! Labels as plain text, the way Cilium writes them.

use std::collections::BTreeMap;

use crate::PodName;
use crate::labels::Labels;
use crate::model::{LabelSelector, Operator};
use crate::store::Store;

/// Labels with their source before the key, `k8s:app` or `reserved:host`.
pub(super) type Sourced = BTreeMap<String, String>;

const NAMESPACE: &str = "io.kubernetes.pod.namespace";
const NAMESPACE_LABELS: &str = "io.cilium.k8s.namespace.labels.";
const SERVICE_ACCOUNT: &str = "io.cilium.k8s.policy.serviceaccount";
const CLUSTER: &str = "io.cilium.k8s.policy.cluster";

/// All labels that Cilium would give a pod.
pub(super) fn of_pod(store: &Store, name: &PodName) -> Sourced {
    let mut labels = Sourced::new();
    let Some(pod) = store.pod(&name.namespace, &name.name) else { return labels };
    for (key, value) in pod.labels.iter() {
        labels.insert(format!("k8s:{key}"), value.to_string());
    }
    // A pod's own labels never count as derived ones.
    labels.retain(|key, _| !key["k8s:".len()..].starts_with(NAMESPACE_LABELS));
    for (key, value) in store.namespace_labels(&name.namespace) {
        labels.insert(format!("k8s:{NAMESPACE_LABELS}{key}"), value.to_string());
    }
    labels.insert(format!("k8s:{NAMESPACE}"), name.namespace.to_string());
    labels.insert(format!("k8s:{SERVICE_ACCOUNT}"), pod.service_account.to_string());
    labels.insert(format!("k8s:{CLUSTER}"), "default".to_owned());
    labels
}

/// Labels of a reserved identity.
pub(super) fn reserved(names: &[&str]) -> Sourced {
    names.iter().map(|name| (format!("reserved:{name}"), String::new())).collect()
}

/// Kubernetes: keys are plain.
pub(super) fn matches_plain(selector: &LabelSelector, labels: &Labels) -> bool {
    matches(selector, |key| labels.get(key).map(|value| value.to_string()))
}

/// Cilium: keys may have a source; one without a source is of any.
pub(super) fn matches_sourced(selector: &LabelSelector, labels: &Sourced) -> bool {
    matches(selector, |key| {
        let plain = key.strip_prefix("any:").unwrap_or(key);
        if plain.contains(':') {
            return labels.get(plain).cloned();
        }
        let of_key = |(have, _): &(&String, &String)| {
            have.split_once(':').is_some_and(|(_, key)| key == plain)
        };
        labels.iter().find(of_key).map(|(_, value)| value.clone())
    })
}

fn matches(selector: &LabelSelector, value_of: impl Fn(&str) -> Option<String>) -> bool {
    let labels = selector.match_labels.iter();
    let mut labels = labels.map(|(key, value)| value_of(key).as_ref() == Some(value));
    let mut expressions = selector.match_expressions.iter().map(|expression| {
        let value = value_of(&expression.key);
        let is_listed = value.as_ref().is_some_and(|value| expression.values.contains(value));
        match expression.operator {
            Operator::In => is_listed,
            Operator::NotIn => !is_listed,
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    });
    labels.all(|holds| holds) && expressions.all(|holds| holds)
}

/// The keys of a selector.
fn keys(selector: &LabelSelector) -> impl Iterator<Item = &str> {
    let expressions = selector.match_expressions.iter().map(|expression| expression.key.as_str());
    selector.match_labels.keys().map(String::as_str).chain(expressions)
}

fn is_kubernetes(key: &str, wanted: impl Fn(&str) -> bool) -> bool {
    match key.split_once(':') {
        None => wanted(key),
        Some(("k8s" | "any", key)) => wanted(key),
        Some(_) => false,
    }
}

/// Whether a policy of `namespace`, or a cluster-wide one, selects an endpoint.
pub(super) fn selects_endpoint(
    selector: &LabelSelector,
    endpoint: &Sourced,
    namespace: Option<&str>,
) -> bool {
    let own = endpoint.get(&format!("k8s:{NAMESPACE}"));
    namespace.is_none_or(|namespace| own.is_some_and(|own| own == namespace))
        && matches_sourced(selector, endpoint)
}

/// Whether an element of `fromEndpoints` or `toEndpoints` matches a peer.
pub(super) fn selects_peer(
    selector: &LabelSelector,
    peer: &Sourced,
    namespace: Option<&str>,
) -> bool {
    let own = peer.get(&format!("k8s:{NAMESPACE}"));
    let has_reserved = keys(selector).any(|key| key.starts_with("reserved:"));
    let has_namespace = keys(selector).any(|key| is_kubernetes(key, |key| key == NAMESPACE));
    let has_namespace_labels =
        keys(selector).any(|key| is_kubernetes(key, |key| key.starts_with(NAMESPACE_LABELS)));
    let in_scope = match namespace {
        _ if has_reserved || has_namespace => true,
        None => own.is_some(),
        Some(_) if has_namespace_labels => true,
        Some(namespace) => own.is_some_and(|own| own == namespace),
    };
    in_scope && matches_sourced(selector, peer)
}
