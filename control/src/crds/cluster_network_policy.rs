//! Schema of ClusterNetworkPolicy (policy.networking.k8s.io).

use serde_json::{Value, json};

use super::{integer, list, merge, object, object_with, selector, status, string};

/// Its properties.
pub(super) fn policy() -> Value {
    let spec = object_with(
        &["tier", "priority", "subject"],
        json!({
            "tier": {"type": "string", "enum": ["Admin", "Baseline"]},
            "priority": integer(),
            "subject": object(pods()),
            "ingress": list(rule("from", object(pods()))),
            "egress": list(rule("to", egress_peer())),
        }),
    );
    json!({"spec": spec, "status": status()})
}

/// Pods by their namespaces, or by their labels, too.
fn pods() -> Value {
    json!({
        "namespaces": selector(),
        "pods": object(json!({"namespaceSelector": selector(), "podSelector": selector()})),
    })
}

fn egress_peer() -> Value {
    let mut properties = pods();
    let more = json!({
        "nodes": selector(), "networks": list(string()), "domainNames": list(string()),
    });
    merge(&mut properties, more);
    object(properties)
}

fn rule(peers: &str, peer: Value) -> Value {
    let range = object_with(&["start", "end"], json!({"start": integer(), "end": integer()}));
    let port = object(json!({"number": integer(), "range": range}));
    let transport = object(json!({"destinationPort": port}));
    let protocol = object(json!({
        "tcp": transport, "udp": transport, "sctp": transport, "destinationNamedPort": string(),
    }));
    let action = json!({"type": "string", "enum": ["Accept", "Deny", "Pass"]});
    let properties = json!({
        "name": string(), "action": action, peers: list(peer), "protocols": list(protocol),
    });
    object_with(&["action", peers], properties)
}
