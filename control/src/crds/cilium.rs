//! Schemas of Cilium's kinds (cilium.io).

use serde_json::{Value, json};

use super::{any, integer, list, map, merge, object, object_with, selector, status, string};

/// Properties of both kinds of policy.
pub(super) fn policy() -> Value {
    json!({"spec": rules(), "specs": list(rules()), "status": status()})
}

/// Properties of CiliumCIDRGroup.
pub(super) fn cidr_group() -> Value {
    let spec = object_with(&["externalCIDRs"], json!({"externalCIDRs": list(string())}));
    json!({"spec": spec, "status": status()})
}

fn rules() -> Value {
    object(json!({
        "description": string(),
        "labels": list(object_with(
            &["key"],
            json!({"key": string(), "source": string(), "value": string()}),
        )),
        "log": object(json!({"value": string()})),
        "enableDefaultDeny": object(json!({
            "ingress": {"type": "boolean"}, "egress": {"type": "boolean"},
        })),
        "endpointSelector": selector(),
        "nodeSelector": selector(),
        "ingress": list(rule(&[peers("from"), allow_ports()])),
        "ingressDeny": list(rule(&[peers("from"), deny_ports()])),
        "egress": list(rule(&[peers("to"), egress(), names(), allow_ports()])),
        "egressDeny": list(rule(&[peers("to"), egress(), deny_ports()])),
    }))
}

/// A rule with the properties of all `parts`.
fn rule(parts: &[Value]) -> Value {
    let mut properties = json!({});
    for part in parts {
        merge(&mut properties, part.clone());
    }
    object(properties)
}

/// Peers of both sides, whose names begin with `from` or `to`.
fn peers(side: &str) -> Value {
    let cidr = object(json!({
        "cidr": string(), "except": list(string()), "cidrGroupRef": string(),
        "cidrGroupSelector": selector(),
    }));
    let groups = object(json!({
        "aws": object(json!({
            "labels": map(), "region": string(), "securityGroupsIds": list(string()),
            "securityGroupsNames": list(string()),
        })),
    }));
    let kinds = [
        ("Endpoints", selector()),
        ("CIDR", string()),
        ("CIDRSet", cidr),
        ("Entities", string()),
        ("Nodes", selector()),
        ("Groups", groups),
        ("Requires", selector()),
    ];
    let properties = kinds.into_iter().map(|(kind, of)| (format!("{side}{kind}"), list(of)));
    Value::Object(properties.collect())
}

fn egress() -> Value {
    json!({"toServices": list(object(json!({
        "k8sService": object(json!({"serviceName": string(), "namespace": string()})),
        "k8sServiceSelector": object_with(
            &["selector"],
            json!({"selector": selector(), "namespace": string()}),
        ),
    })))})
}

fn names() -> Value {
    json!({"toFQDNs": list(name())})
}

fn name() -> Value {
    object(json!({"matchName": string(), "matchPattern": string()}))
}

fn port() -> Value {
    object_with(&["port"], json!({"port": string(), "endPort": integer(), "protocol": string()}))
}

fn icmps() -> Value {
    let field = object_with(&["type"], json!({"family": string(), "type": any()}));
    json!({"icmps": list(object(json!({"fields": list(field)})))})
}

fn deny_ports() -> Value {
    let mut properties = json!({"toPorts": list(object(json!({"ports": list(port())})))});
    merge(&mut properties, icmps());
    properties
}

fn allow_ports() -> Value {
    let ports = object(json!({
        "ports": list(port()),
        "serverNames": list(string()),
        "listener": object_with(&["name", "envoyConfig"], json!({
            "name": string(), "priority": integer(),
            "envoyConfig": object_with(&["name"], json!({"kind": string(), "name": string()})),
        })),
        "terminatingTLS": tls(), "originatingTLS": tls(),
        "rules": requests(),
    }));
    let mut properties = json!({
        "toPorts": list(ports),
        "authentication": object(json!({"mode": string()})),
    });
    merge(&mut properties, icmps());
    properties
}

fn secret() -> Value {
    object_with(&["name"], json!({"name": string(), "namespace": string()}))
}

fn tls() -> Value {
    object_with(
        &["secret"],
        json!({
            "secret": secret(), "certificate": string(), "privateKey": string(),
            "trustedCA": string(),
        }),
    )
}

/// What requests may be.
fn requests() -> Value {
    let header = object_with(
        &["name"],
        json!({"name": string(), "value": string(), "mismatch": string(), "secret": secret()}),
    );
    object(json!({
        "http": list(object(json!({
            "method": string(), "path": string(), "host": string(), "headers": list(string()),
            "headerMatches": list(header),
        }))),
        "kafka": list(object(json!({
            "role": string(), "apiKey": string(), "apiVersion": string(), "clientID": string(),
            "topic": string(),
        }))),
        "dns": list(name()),
        "l7": list(map()),
        "l7proto": string(),
    }))
}
