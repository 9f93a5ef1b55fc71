//! Policy changes during live connections.

use std::io::{Read, Write};

use anyhow::Result;
use podgate_tests::lab::{Agent, Download, Family, Get, Interruption, Lab, Outcome};
use podgate_tests::scenario::MANIFESTS;

/// A policy that lets pods of the namespaces `from` download from the backend's nginx.
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

/// The policy of the backend's store without admin's app.
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

fn a_revoked_rule_ends_only_its_live_flows(family: Family) -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    lab.write_manifest("downloads.yaml", &downloads_for(&["other", "user"]))?;
    let mut agent = Agent::start(&lab, 2)?;
    let (stranger, admin) = (lab.host("other/stranger")?, lab.host("admin/adminapp")?);
    let (user, office) = (lab.host("user/userapp")?, lab.host("office")?);
    let (nginx, store) = (lab.host("backend/nginx")?, lab.host("backend/store")?);
    let inspected = Download::start(&lab, stranger, nginx, 80, family)?;
    let plain = Download::start(&lab, admin, store, 8080, family)?;
    let mut inspected_bystander = Download::start(&lab, user, nginx, 80, family)?;
    let mut plain_bystander = Download::start(&lab, office, store, 8080, family)?;

    lab.write_manifest("downloads.yaml", &downloads_for(&["user"]))?;
    lab.write_manifest("store.yaml", STORE_FOR_THE_OFFICE_ONLY)?;

    // An inspected connection is reset, so that its ends don't hang; an L4 denial is a silent drop.
    assert_eq!(inspected.wait_for_interruption()?, Interruption::Reset);
    assert_eq!(plain.wait_for_interruption()?, Interruption::Stalled);
    inspected_bystander.wait_for_more()?;
    plain_bystander.wait_for_more()?;
    agent.assert_alive()?;
    agent.stop()
}

#[test]
fn a_revoked_rule_ends_only_its_live_flows_over_ipv4() -> Result<()> {
    a_revoked_rule_ends_only_its_live_flows(Family::V4)
}

#[test]
fn a_revoked_rule_ends_only_its_live_flows_over_ipv6() -> Result<()> {
    a_revoked_rule_ends_only_its_live_flows(Family::V6)
}

#[test]
fn each_request_of_a_live_connection_is_decided_by_the_rules_in_force() -> Result<()> {
    const REQUEST: &[u8] = b"GET /download HTTP/1.1\r\nHost: nginx\r\nRange: bytes=0-3\r\n\r\n";
    let lab = Lab::new(MANIFESTS.as_ref())?;
    lab.write_manifest("downloads.yaml", &downloads_for(&["user"]))?;
    let mut agent = Agent::start(&lab, 2)?;
    let (user, nginx) = (lab.host("user/userapp")?, lab.host("backend/nginx")?);
    let mut stream = user.connect(nginx, 80, Family::V4)?;
    stream.write_all(REQUEST)?;
    assert_eq!(read_head(&mut stream)?.split(' ').nth(1), Some("206"));
    stream.read_exact(&mut [0; 4])?;

    // The pod may still request /docs, so its connection stays; other requests are denied now.
    lab.remove_manifest("downloads.yaml")?;
    agent.wait_until("new connections to be denied", |_| {
        let seen = Get::path("/download").fetch(user, nginx, Family::V4)?;
        Ok(matches!(seen, Outcome::Answer(answer) if answer.status == 403).then_some(()))
    })?;
    stream.write_all(REQUEST)?;
    assert_eq!(read_head(&mut stream)?.split(' ').nth(1), Some("403"));
    Ok(())
}

/// Reads a message up to the empty line after its header fields.
fn read_head(stream: &mut impl Read) -> Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.extend(byte);
    }
    Ok(String::from_utf8(head)?)
}

#[test]
fn a_new_rule_applies_without_a_restart() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let mut agent = Agent::start(&lab, 1)?;
    let (stranger, nginx) = (lab.host("other/stranger")?, lab.host("backend/nginx")?);
    let get = Get::path("/download");
    assert_eq!(get.fetch(stranger, nginx, Family::V4)?, Outcome::NoAnswer);
    lab.write_manifest("downloads.yaml", &downloads_for(&["other"]))?;
    agent.wait_until("the new rule", |lab| {
        let list = lab.podgate_json(&["policy", "list"])?;
        let policies = list["policies"].as_array().into_iter().flatten();
        Ok(policies.into_iter().any(|policy| policy["name"] == "downloads").then_some(()))
    })?;
    Download::start(&lab, stranger, nginx, 80, Family::V4)?;
    lab.remove_manifest("downloads.yaml")?;
    agent.wait_until("silence again", |_| {
        Ok((get.fetch(stranger, nginx, Family::V4)? == Outcome::NoAnswer).then_some(()))
    })
}
