//! A client and a server, as pods `peers/client` and `peers/server` of a lab.

use anyhow::Result;
use podgate_tests::lab::Lab;

const PODS: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: peers, labels: {app: client}}
status: {podIPs: [{ip: 10.77.0.10}, {ip: \"fd77::10\"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: server, namespace: peers, labels: {app: server}}
status: {podIPs: [{ip: 10.77.0.30}, {ip: \"fd77::30\"}]}
---
";

/// The lab with these pods and a policy.
pub(crate) fn peers_lab(policy: &str) -> Result<Lab> {
    Lab::of(&format!("{PODS}{policy}"))
}
