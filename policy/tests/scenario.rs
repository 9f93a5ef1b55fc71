//! The whole way once, on the objects of the demo.

use std::net::IpAddr;
use std::path::Path;

use podgate_dataplane::policy::{Subject, Verdict};
use podgate_dataplane::types::{Tuple, proto};
use podgate_policy::{Store, compile, manifest};

const OBJECTS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: adminapp, namespace: admin, labels: {app: adminapp}}
status: {podIPs: [{ip: 10.0.0.1}, {ip: "fd00::1"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: userapp, namespace: user, labels: {app: userapp}}
status: {podIPs: [{ip: 10.0.0.2}]}
---
apiVersion: v1
kind: Pod
metadata: {name: nginx, namespace: backend, labels: {app: nginx}}
status: {podIPs: [{ip: 10.0.0.3}, {ip: "fd00::3"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: other, namespace: other, labels: {app: adminapp}}
status: {podIPs: [{ip: 10.0.0.4}]}
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: allow-api-from-admin, namespace: backend}
spec:
  endpointSelector: {matchLabels: {app: nginx}}
  ingress:
  - fromEndpoints:
    - matchLabels: {io.kubernetes.pod.namespace: admin, app: adminapp}
    toPorts:
    - ports: [{port: "80", protocol: TCP}]
      rules: {http: [{method: GET, path: /api/v1/.*}, {method: GET, path: /docs}]}
  - fromEndpoints:
    - matchLabels: {io.kubernetes.pod.namespace: user}
    toPorts:
    - ports: [{port: "80", protocol: TCP}]
      rules: {http: [{method: GET, path: /docs}]}
"#;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn demo_policy_inspects_admin_and_user_and_denies_others() {
    let mut store = Store::new();
    store.sync(&manifest::parse(OBJECTS, Path::new("demo.yaml")));
    assert_eq!(store.refusals().count(), 0, "{:?}", store.refusals().collect::<Vec<_>>());
    let compiled = compile(&store);
    let verdict = |src: &str, dst: &str, dst_port, protocol| {
        let tuple =
            Tuple { src: ip(src).into(), dst: ip(dst).into(), src_port: 40000, dst_port, protocol };
        compiled.tables.decide(&Subject { tuple, icmp_type: 8 }, [true, true]).verdict
    };
    assert_eq!(verdict("10.0.0.1", "10.0.0.3", 80, proto::TCP), Verdict::Inspect);
    assert_eq!(verdict("fd00::1", "fd00::3", 80, proto::TCP), Verdict::Inspect);
    assert_eq!(verdict("10.0.0.2", "10.0.0.3", 80, proto::TCP), Verdict::Inspect);
    assert_eq!(verdict("10.0.0.4", "10.0.0.3", 80, proto::TCP), Verdict::Deny);
    assert_eq!(verdict("10.0.0.1", "10.0.0.3", 81, proto::TCP), Verdict::Deny);
    assert_eq!(verdict("10.0.0.1", "10.0.0.3", 0, proto::ICMP), Verdict::Deny);
    assert_eq!(verdict("10.0.0.3", "10.0.0.4", 80, proto::TCP), Verdict::Allow);
}
