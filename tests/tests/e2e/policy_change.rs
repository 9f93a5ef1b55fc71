//! Policy that changes while connections live.

use anyhow::Result;
use podgate_tests::lab::{Agent, Cut, Download, Family, Get, Lab, Outcome};
use podgate_tests::scenario::MANIFESTS;

/// Lets pods of the namespaces `from` download from backend's nginx.
fn downloads_for(from: &[&str]) -> String {
    let elements: String = from
        .iter()
        .map(|namespace| {
            format!(
                "
    - fromEndpoints: [{{ matchLabels: {{ io.kubernetes.pod.namespace: {namespace} }} }}]
      toPorts:
        - ports: [{{ port: '80', protocol: TCP }}]
          rules: {{ http: [{{ method: GET, path: /download }}] }}"
            )
        })
        .collect();
    format!(
        "apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{ name: downloads, namespace: backend }}
spec:
  endpointSelector: {{ matchLabels: {{ app: nginx }} }}
  ingress:{elements}
"
    )
}

/// The policy of backend's store, without admin's app.
const STORE_FOR_THE_OFFICE_ONLY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: store, namespace: backend }
spec:
  podSelector: { matchLabels: { app: store } }
  policyTypes: [Ingress]
  ingress:
    - from:
        - ipBlock: { cidr: 192.0.2.0/24 }
        - ipBlock: { cidr: '2001:db8::/64' }
      ports: [{ port: 8080, protocol: TCP }]
";

fn revocation_cuts_live_flows_and_only_those(family: Family) -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    lab.write_manifest("downloads.yaml", &downloads_for(&["admin", "user"]))?;
    let mut agent = Agent::start(&lab, 2)?;
    let (admin, user) = (lab.host("admin/adminapp")?, lab.host("user/userapp")?);
    let (nginx, store) = (lab.host("backend/nginx")?, lab.host("backend/store")?);
    let office = lab.host("office")?;
    let inspected = Download::start(&lab, admin, nginx, 80, family)?;
    let plain = Download::start(&lab, admin, store, 8080, family)?;
    let mut inspected_bystander = Download::start(&lab, user, nginx, 80, family)?;
    let mut plain_bystander = Download::start(&lab, office, store, 8080, family)?;

    lab.write_manifest("downloads.yaml", &downloads_for(&["user"]))?;
    lab.write_manifest("store.yaml", STORE_FOR_THE_OFFICE_ONLY)?;

    // An inspected connection is reset, so that nobody hangs; L4 denial is silence.
    assert_eq!(inspected.wait_for_cut()?, Cut::Reset);
    assert_eq!(plain.wait_for_cut()?, Cut::Stalled);
    inspected_bystander.wait_for_more()?;
    plain_bystander.wait_for_more()?;
    agent.assert_alive()?;
    agent.stop()
}

#[test]
fn revocation_cuts_live_flows_and_only_those_over_ipv4() -> Result<()> {
    revocation_cuts_live_flows_and_only_those(Family::V4)
}

#[test]
fn revocation_cuts_live_flows_and_only_those_over_ipv6() -> Result<()> {
    revocation_cuts_live_flows_and_only_those(Family::V6)
}

#[test]
fn what_a_new_rule_allows_passes_without_a_restart() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let mut agent = Agent::start(&lab, 1)?;
    let (stranger, nginx) = (lab.host("other/stranger")?, lab.host("backend/nginx")?);
    let get = Get::path("/download");
    assert_eq!(get.fetch(stranger, nginx, Family::V4)?, Outcome::Silence);
    lab.write_manifest("downloads.yaml", &downloads_for(&["other"]))?;
    agent.wait_until("the new rule", |lab| {
        let list = lab.podgate_json(&["policy", "list"])?;
        let policies = list["policies"].as_array().into_iter().flatten();
        Ok(policies.into_iter().any(|policy| policy["name"] == "downloads").then_some(()))
    })?;
    Download::start(&lab, stranger, nginx, 80, Family::V4)?;
    lab.remove_manifest("downloads.yaml")?;
    agent.wait_until("silence again", |_| {
        Ok((get.fetch(stranger, nginx, Family::V4)? == Outcome::Silence).then_some(()))
    })
}
