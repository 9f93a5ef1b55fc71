//! The pods of a test: a client, a server.

use anyhow::Result;
use podgate_tests::lab::Lab;

/// A pod with its name as label `app`, and the document separator after it.
pub(crate) fn pod(namespace: &str, name: &str, addresses: [&str; 2]) -> String {
    let [v4, v6] = addresses;
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {namespace}, labels: {{app: {name}}}}}
status: {{podIPs: [{{ip: {v4}}}, {{ip: \"{v6}\"}}]}}
---
"
    )
}

/// A lab with pods `peers/client` and `peers/server`, and a policy.
pub(crate) fn client_server_lab(policy: &str) -> Result<Lab> {
    let client = pod("peers", "client", ["10.77.0.10", "fd77::10"]);
    let server = pod("peers", "server", ["10.77.0.30", "fd77::30"]);
    Lab::of(&[&client, &server, policy].concat())
}
