//! Manifests that can't be read or enforced, beside good ones.

use anyhow::{Context, Result};
use podgate_tests::lab::{Agent, Lab};
use podgate_tests::scenario::{MANIFESTS, ROWS};
use serde_json::Value;

const NOT_YAML: &str =
    "apiVersion: networking.k8s.io/v1\nkind: [NetworkPolicy\n  metadata: {name\n";

/// A policy with TLS termination, which podgate does not enforce.
const NOT_ENFORCEABLE: &str = "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: { name: with-tls, namespace: user }
spec:
  endpointSelector: {}
  egress:
    - toPorts:
        - ports: [{ port: '443', protocol: TCP }]
          terminatingTLS: { secret: { name: certificate } }
          rules: { http: [{ method: GET }] }
";

/// The store's policy with an invalid port.
const STORE_WITH_A_BAD_PORT: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: store, namespace: backend }
spec:
  podSelector: { matchLabels: { app: store } }
  ingress: [{ ports: [{ port: 123456 }] }]
";

#[test]
fn rejected_objects_are_listed_and_all_others_enforced() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    lab.write_manifest("with-tls.yaml", NOT_ENFORCEABLE)?;
    let mut agent = Agent::start(&lab, 1)?;
    // Not before the start: pods would stay cut off, because no objects of the file are saved.
    lab.write_manifest("not-yaml.yaml", NOT_YAML)?;
    rejection(&mut agent, |r| text(&r["source"], "file").contains("not-yaml.yaml"))?;
    let tls = rejection(&mut agent, |r| text(r, "object").contains("user/with-tls"))?;
    assert!(text(&tls, "field").contains("terminatingTLS"), "{tls}");
    assert!(!text(&tls, "reason").is_empty(), "{tls}");
    the_backend_rows_hold(&lab)
}

#[test]
fn after_an_invalid_update_the_last_good_policy_stays_in_force() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let mut agent = Agent::start(&lab, 1)?;
    lab.write_manifest("store.yaml", STORE_WITH_A_BAD_PORT)?;
    let bad = rejection(&mut agent, |r| text(r, "object").contains("backend/store"))?;
    assert!(text(&bad, "field").contains("port"), "{bad}");
    the_backend_rows_hold(&lab)
}

/// Waits until `policy list` shows a rejected object that satisfies `wanted`.
fn rejection(agent: &mut Agent, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    agent.wait_until("a rejection", |lab| {
        let list = lab.podgate_json(&["policy", "list"])?;
        let rejected = list["rejected"].as_array().context("policy list has no rejections")?;
        Ok(rejected.iter().find(|rejection| wanted(rejection)).cloned())
    })
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

fn the_backend_rows_hold(lab: &Lab) -> Result<()> {
    for row in ROWS.iter().filter(|row| row.to.starts_with("backend/")) {
        for seen in row.run_both(lab)? {
            assert!(row.is_met_by(&seen), "{row}: {seen:?}");
        }
    }
    Ok(())
}
