//! The objects of a cluster as an API server has them, in the files that the lab's server serves.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::net::Ipv4Addr;
use std::path::Path;

use serde_json::{Value, json};

use super::cluster::{APPS, Cluster, PodSpec};

/// Endpoints of a service.
const ENDPOINTS: u32 = 10;

/// The path of pods at the server.
pub(super) const PODS: &str = "/api/v1/pods";

/// Numbers of the objects that [`Cluster`] does not count.
#[derive(Clone, Copy, Debug)]
pub(super) struct More {
    /// Nodes. Pods are on the first [`Cluster::nodes`] of them.
    pub(super) nodes: u32,
    /// Services, each with one EndpointSlice of ten endpoints.
    pub(super) services: u32,
}

/// Writes all objects to `folder`, which must be empty. Returns their size, bytes.
///
/// # Errors
/// When a file can't be written.
pub(super) fn write(cluster: &Cluster, more: More, folder: &Path) -> io::Result<u64> {
    let pods = (0..cluster.size.pods).map(|index| cluster.pod_object(&cluster.pod(index)));
    let slices = (0..more.services).map(|index| slice(cluster, index));
    let policies = (0..cluster.size.policies).map(|index| cluster.policy(index, 0));
    let lists: [(&str, &mut dyn Iterator<Item = Value>); 6] = [
        (
            "/api/v1/namespaces",
            &mut (0..cluster.size.namespaces).map(|index| cluster.namespace(index)),
        ),
        ("/api/v1/nodes", &mut (0..more.nodes).map(|index| cluster.node(index))),
        (PODS, &mut { pods }),
        ("/api/v1/services", &mut (0..more.services).map(|index| service(cluster, index))),
        ("/apis/discovery.k8s.io/v1/endpointslices", &mut { slices }),
        ("/apis/networking.k8s.io/v1/networkpolicies", &mut { policies }),
    ];
    let mut bytes = 0;
    for (path, objects) in lists {
        let file = folder.join(path.trim_start_matches('/').replace('/', "."));
        let mut out = BufWriter::new(File::create(&file)?);
        for object in objects {
            writeln!(out, "{}", as_sent(object, 1))?;
        }
        out.flush()?;
        bytes += fs::metadata(&file)?.len();
    }
    File::create(folder.join("changes"))?;
    Ok(bytes)
}

/// The object with what an API server, a kubelet and a container runtime add to it.
pub(super) fn as_sent(mut object: Value, version: u32) -> Value {
    let kind = object["kind"].as_str().unwrap_or_default().to_owned();
    let metadata = &mut object["metadata"];
    let name = metadata["name"].as_str().unwrap_or_default().to_owned();
    metadata["uid"] = format!("uid-{kind}-{name}").into();
    metadata["resourceVersion"] = version.to_string().into();
    metadata["generation"] = 1.into();
    metadata["managedFields"] = json!([{
        "manager": "kube-controller-manager", "operation": "Update", "apiVersion": "v1",
        "time": "2026-01-01T00:00:00Z", "fieldsType": "FieldsV1",
        "fieldsV1": {
            "f:metadata": {"f:generateName": {}, "f:labels": {
                ".": {}, "f:app": {}, "f:pod-template-hash": {}, "f:tier": {}, "f:version": {}}},
            "f:spec": {"f:containers": {"k:{\"name\":\"app\"}": {
                ".": {}, "f:image": {}, "f:imagePullPolicy": {}, "f:name": {}, "f:resources": {}}},
                "f:dnsPolicy": {}, "f:restartPolicy": {}, "f:schedulerName": {}},
        },
    }]);
    if kind == "Pod" {
        add_to_pod(&mut object);
    }
    object
}

fn add_to_pod(pod: &mut Value) {
    let time = "2026-01-01T00:00:00Z";
    pod["spec"]["volumes"] = json!([{"name": "kube-api-access", "projected": {"sources": [
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt"}}]}}]);
    pod["spec"]["tolerations"] = json!([
        {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "tolerationSeconds": 300},
        {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "tolerationSeconds": 300},
    ]);
    let container = &mut pod["spec"]["containers"][0];
    container["image"] = "registry.example/team/app:v1.2.3".into();
    container["resources"] = json!({"requests": {"cpu": "100m", "memory": "128Mi"}});
    container["env"] = json!([
        {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "LOG_LEVEL", "value": "info"},
    ]);
    let conditions = ["PodScheduled", "Initialized", "ContainersReady", "Ready"];
    let conditions = conditions.map(|name| {
        json!({"type": name, "status": "True", "lastProbeTime": null, "lastTransitionTime": time})
    });
    pod["status"]["conditions"] = json!(conditions);
    pod["status"]["containerStatuses"] = json!([{
        "name": "app", "ready": true, "started": true, "restartCount": 0,
        "image": "registry.example/team/app:v1.2.3",
        "imageID": format!("registry.example/team/app@sha256:{}", "0123456789abcdef".repeat(4)),
        "containerID": format!("containerd://{}", "0123456789abcdef".repeat(4)),
        "state": {"running": {"startedAt": time}},
    }]);
}

fn service_name(cluster: &Cluster, index: u32) -> (String, String) {
    let namespace = Cluster::namespace_name(index % cluster.size.namespaces);
    (namespace, format!("service-{}", index / cluster.size.namespaces))
}

fn service(cluster: &Cluster, index: u32) -> Value {
    let (namespace, name) = service_name(cluster, index);
    let app = &APPS[index as usize % APPS.len()];
    let address = Ipv4Addr::from_bits(u32::from_be_bytes([10, 32, 0, 1]) + index);
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": namespace, "name": name, "labels": {"app": app.name}},
        "spec": {
            "type": "ClusterIP", "clusterIP": address, "clusterIPs": [address],
            "selector": {"app": app.name},
            "ports": [{"name": app.port_name, "protocol": "TCP", "port": 80,
                       "targetPort": app.port}],
        },
    })
}

/// The EndpointSlice of a service. Its endpoints are consecutive pods, whatever their labels: this
/// is for the amount.
fn slice(cluster: &Cluster, index: u32) -> Value {
    let (namespace, name) = service_name(cluster, index);
    let app = &APPS[index as usize % APPS.len()];
    let endpoints = (0..ENDPOINTS).map(|number| {
        let pod = cluster.pod((index * ENDPOINTS + number) % cluster.size.pods);
        json!({
            "addresses": [pod.v4()],
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "nodeName": format!("node-{}", pod.node),
            "targetRef": {"kind": "Pod", "namespace": Cluster::namespace_name(pod.namespace),
                          "name": pod.name()},
        })
    });
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"namespace": namespace, "name": format!("{name}-abcde"),
                     "labels": {"kubernetes.io/service-name": name}},
        "ports": [{"name": app.port_name, "protocol": "TCP", "port": app.port}],
        "endpoints": endpoints.collect::<Vec<_>>(),
    })
}

/// Pods of the cluster's node number 0, for a lab: as many, with names that are short enough for
/// the names of their links.
pub(super) fn lab_pods(cluster: &Cluster, count: usize) -> Vec<PodSpec> {
    let mut pods = cluster.local_pods();
    pods.retain(|pod| pod.name().len() <= 12);
    pods.truncate(count);
    pods
}

/// Manifests of these pods, for a lab.
pub(super) fn manifests(cluster: &Cluster, pods: &[PodSpec]) -> String {
    let objects = pods.iter().flat_map(|pod| {
        [cluster.namespace(pod.namespace), cluster.pod_object(pod)].map(|object| object.to_string())
    });
    objects.collect::<Vec<_>>().join("\n---\n")
}
