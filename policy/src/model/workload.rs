//! What makes pods: Deployments, StatefulSets and the like.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a pod belongs to.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Workload {
    /// Kind: `Deployment`, `StatefulSet`, `DaemonSet`, `Job`, `CronJob`, …
    pub kind: String,
    /// Name, in the namespace of the pod.
    pub name: String,
}

impl Workload {
    /// The workload of a pod: its controller. A ReplicaSet whose name ends with the pod's
    /// `pod-template-hash` is a Deployment's, and a Job whose name ends with the minutes of its
    /// start is a CronJob's, as Cilium names them (cilium `pkg/k8s/workload.go`).
    #[must_use]
    pub fn of(pod: &Value) -> Option<Self> {
        let owners = pod.pointer("/metadata/ownerReferences")?.as_array()?;
        let controls = |owner: &&Value| owner.get("controller") == Some(&Value::Bool(true));
        let owner = owners.iter().find(controls)?;
        let text = |field: &str| owner.get(field).and_then(Value::as_str);
        let (kind, name) = (text("kind")?, text("name")?);
        let hash = pod.pointer("/metadata/labels/pod-template-hash").and_then(Value::as_str);
        let before =
            |end: &str| name.strip_suffix(end)?.strip_suffix('-').filter(|n| !n.is_empty());
        let of_deployment = hash.filter(|hash| !hash.is_empty()).and_then(before);
        let (kind, name) = match (kind, of_deployment, scheduled(name)) {
            ("ReplicaSet", Some(name), _) => ("Deployment", name),
            ("Job", _, Some(name)) => ("CronJob", name),
            _ => (kind, name),
        };
        Some(Self { kind: kind.to_owned(), name: name.to_owned() })
    }
}

/// The name of the CronJob that made a Job at a time: `NAME-MINUTES`, eight digits or more.
fn scheduled(job: &str) -> Option<&str> {
    let (name, minutes) = job.rsplit_once('-')?;
    let is_time = minutes.len() >= 8 && minutes.bytes().all(|byte| byte.is_ascii_digit());
    (is_time && !name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_workload_is_the_controller_or_what_made_it() {
        let of = |kind: &str, name: &str, controller: bool, labels: Value| {
            let owner = json!({"kind": kind, "name": name, "controller": controller});
            let other = json!({"kind": "Other", "name": "x"});
            let metadata = json!({"labels": labels, "ownerReferences": [other, owner]});
            Workload::of(&json!({"metadata": metadata})).map(|found| (found.kind, found.name))
        };
        let hash = || json!({"pod-template-hash": "7d9f"});
        let named = |kind: &str, name: &str| Some((kind.to_owned(), name.to_owned()));
        assert_eq!(of("ReplicaSet", "web-7d9f", true, hash()), named("Deployment", "web"));
        assert_eq!(of("ReplicaSet", "web", true, hash()), named("ReplicaSet", "web"));
        assert_eq!(of("ReplicaSet", "-7d9f", true, hash()), named("ReplicaSet", "-7d9f"));
        assert_eq!(of("ReplicaSet", "web-7d9f", true, json!({})), named("ReplicaSet", "web-7d9f"));
        assert_eq!(of("StatefulSet", "db", true, json!({})), named("StatefulSet", "db"));
        assert_eq!(of("DaemonSet", "dns-7d9f", true, hash()), named("DaemonSet", "dns-7d9f"));
        assert_eq!(of("Job", "import", true, json!({})), named("Job", "import"));
        assert_eq!(of("Job", "night-28906620", true, json!({})), named("CronJob", "night"));
        assert_eq!(of("Job", "night-2890", true, json!({})), named("Job", "night-2890"));
        assert_eq!(of("ReplicaSet", "web-7d9f", false, hash()), None);
        assert_eq!(Workload::of(&json!({"metadata": {}})), None);
        assert_eq!(Workload::of(&json!({"metadata": {"ownerReferences": [7]}})), None);
    }
}
