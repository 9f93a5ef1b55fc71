//! Deployments and other workloads that a query names in place of a pod.

use podgate_policy::manifest::Document;
use podgate_policy::{PodName, Store};
use serde_json::{Map, Value};

/// Kinds whose objects make pods, and where the labels of those pods are written.
const KINDS: &[(&str, &str)] = &[
    ("Deployment", "/spec/template/metadata/labels"),
    ("StatefulSet", "/spec/template/metadata/labels"),
    ("DaemonSet", "/spec/template/metadata/labels"),
    ("ReplicaSet", "/spec/template/metadata/labels"),
    ("ReplicationController", "/spec/template/metadata/labels"),
    ("Job", "/spec/template/metadata/labels"),
    ("CronJob", "/spec/jobTemplate/spec/template/metadata/labels"),
];

/// Most pods that are proposed.
const PROPOSED_MAX: usize = 3;

/// What to ask for in place of `asked`, `[NAMESPACE/]NAME`, if that is the name of a workload among
/// the documents.
pub(super) fn advice(asked: &str, documents: &[Document], store: &Store) -> Option<String> {
    let (namespace, name) = match asked.split_once('/') {
        Some((namespace, name)) => (Some(namespace), name),
        None => (None, asked),
    };
    let workloads =
        documents.iter().filter_map(|document| Workload::of(document.value.as_ref().ok()?));
    let mut called = workloads.filter(|workload| {
        workload.name == name && namespace.is_none_or(|namespace| namespace == workload.namespace)
    });
    called.next().map(|workload| workload.advice(store))
}

struct Workload<'a> {
    kind: &'static str,
    namespace: &'a str,
    name: &'a str,
    /// Labels of its pods.
    labels: Option<&'a Map<String, Value>>,
}

impl<'a> Workload<'a> {
    fn of(object: &'a Value) -> Option<Self> {
        let text = |path| object.pointer(path).and_then(Value::as_str);
        let kind = text("/kind")?;
        let (kind, labels) = *KINDS.iter().find(|(known, _)| *known == kind)?;
        Some(Self {
            kind,
            namespace: text("/metadata/namespace").unwrap_or("default"),
            name: text("/metadata/name")?,
            labels: object.pointer(labels).and_then(Value::as_object),
        })
    }

    fn advice(&self, store: &Store) -> String {
        let Self { kind, namespace, name, .. } = self;
        let pods: Vec<_> = self.pods(store).take(PROPOSED_MAX).map(ToString::to_string).collect();
        let what = format!("{namespace}/{name} is a {kind}, and policies apply to pods");
        if !pods.is_empty() {
            return format!("{what}: ask for one of its pods, such as {}", pods.join(" or "));
        }
        let labels = self.labels.into_iter().flatten();
        let labels: Vec<_> =
            labels.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or("?"))).collect();
        let labels = match labels.is_empty() {
            true => "without labels, as its template has none".to_owned(),
            false => format!("with the labels of its template ({})", labels.join(",")),
        };
        format!(
            "{what}: none of its pods is in the manifests, so add one of namespace {namespace} \
             {labels} and an address (status.podIPs), and ask for that"
        )
    }

    fn pods<'s>(&'s self, store: &'s Store) -> impl Iterator<Item = &'s PodName> {
        let pods = store.pods().filter(|(pod, object)| {
            let has = |key: &str, value: &Value| {
                object.labels.get(key).is_some_and(|have| value.as_str() == Some(&**have))
            };
            // Without labels, its pods can't be distinguished from others.
            *pod.namespace == *self.namespace
                && !object.addresses().is_empty()
                && self.labels.is_some_and(|labels| {
                    !labels.is_empty() && labels.iter().all(|(key, value)| has(key, value))
                })
        });
        pods.map(|(pod, _)| pod)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use podgate_policy::manifest;

    use super::*;

    const OBJECTS: &str = "\
apiVersion: apps/v1
kind: Deployment
metadata: {namespace: shop, name: web}
spec: {template: {metadata: {labels: {app: web, tier: front}}}}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: nightly}
spec: {jobTemplate: {spec: {template: {metadata: {labels: {app: nightly}}}}}}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: web-7d9f-x2x4z, labels: {app: web, tier: front, hash: 7d9f}}
status: {podIPs: [{ip: 10.0.0.1}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: web-tool, labels: {app: web}}
status: {podIPs: [{ip: 10.0.0.2}]}
";

    #[test]
    fn a_workload_is_explained_by_its_pods() {
        let documents = manifest::parse(OBJECTS, Path::new("all.yaml"));
        let mut store = Store::new();
        store.sync(&documents);
        let advice = |asked| advice(asked, &documents, &store);
        let web = "shop/web is a Deployment, and policies apply to pods: ask for one of its pods, \
                   such as shop/web-7d9f-x2x4z";
        assert_eq!(advice("shop/web").as_deref(), Some(web));
        assert_eq!(advice("web").as_deref(), Some(web));
        let nightly = "default/nightly is a CronJob, and policies apply to pods: none of its pods \
                       is in the manifests, so add one of namespace default with the labels of its \
                       template (app=nightly) and an address (status.podIPs), and ask for that";
        assert_eq!(advice("default/nightly").as_deref(), Some(nightly));
        assert_eq!(advice("office/web"), None);
        assert_eq!(advice("web-tool"), None);
    }
}
