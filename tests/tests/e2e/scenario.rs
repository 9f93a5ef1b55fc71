//! The scenario, and its packets and flow records.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use podgate_tests::lab::{Agent, Capture, Family, Get, Lab, Outcome, wait_for};
use podgate_tests::scenario::{DENIED_BODY, MANIFESTS, ROWS};
use serde_json::Value;

fn the_scenario_holds(workers: u16) -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let mut agent = Agent::start(&lab, workers)?;
    let mut differing = Vec::new();
    for row in ROWS {
        for (family, seen) in Family::BOTH.into_iter().zip(row.run_both(&lab)?) {
            if !row.is_met_by(&seen) {
                differing.push(format!("{row} over {family}: {seen:?}"));
            }
        }
    }
    assert!(differing.is_empty(), "{differing:#?}");
    agent.assert_alive()?;
    agent.stop()
}

#[test]
fn the_scenario_holds_with_one_worker() -> Result<()> {
    the_scenario_holds(1)
}

#[test]
fn the_scenario_holds_with_two_workers() -> Result<()> {
    the_scenario_holds(2)
}

#[test]
fn a_client_denied_at_l4_gets_no_packet_back() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let _agent = Agent::start(&lab, 2)?;
    let (stranger, nginx) = (lab.host("other/stranger")?, lab.host("backend/nginx")?);
    let (at_client, at_server) = (Capture::start(&lab, stranger)?, Capture::start(&lab, nginx)?);
    for family in Family::BOTH {
        assert_eq!(Get::path("/docs").fetch(stranger, nginx, family)?, Outcome::NoAnswer);
    }
    let (at_client, at_server) = (at_client.stop()?, at_server.stop()?);
    assert!(!at_client.packets("tcp dst port 80")?.is_empty(), "the client has tried");
    assert_eq!(at_client.packets("tcp src port 80 or icmp or icmp6[0] == 1")?, [""; 0]);
    assert_eq!(at_server.packets("tcp")?, [""; 0]);
    Ok(())
}

#[test]
fn a_denied_request_never_reaches_the_server() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let _agent = Agent::start(&lab, 2)?;
    let (admin, nginx) = (lab.host("admin/adminapp")?, lab.host("backend/nginx")?);
    let at_server = Capture::start(&lab, nginx)?;
    for family in Family::BOTH {
        let outcome = Get::path("/secret").fetch(admin, nginx, family)?;
        assert!(
            matches!(outcome, Outcome::Answer(ref a) if a.status == 403 && a.body == DENIED_BODY)
        );
        let outcome = Get::path("/docs").fetch(admin, nginx, family)?;
        assert!(matches!(outcome, Outcome::Answer(ref a) if a.status == 200), "{outcome:?}");
    }
    let bytes = fs::read(at_server.stop()?.path())?;
    let contains = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
    assert!(contains(b"GET /docs"), "the capture has what was allowed");
    assert!(!contains(b"/secret"));
    Ok(())
}

#[test]
fn flow_records_name_the_rule_or_the_policies_behind_each_verdict() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let _agent = Agent::start(&lab, 2)?;
    let (admin, stranger) = (lab.host("admin/adminapp")?, lab.host("other/stranger")?);
    let nginx = lab.host("backend/nginx")?;
    Get::path("/docs").fetch(admin, nginx, Family::V4)?;
    Get::path("/secret").fetch(admin, nginx, Family::V4)?;
    Get::path("/docs").fetch(stranger, nginx, Family::V6)?;

    let denied =
        record(&lab, |r| r["source"]["pod"] == "stranger" && r["drop_reason"].is_string())?;
    assert_eq!(denied["verdict"], "DROPPED");
    assert_eq!(denied["drop_reason"], "policy_denied");
    assert_eq!(denied["destination"]["namespace"], "backend");
    assert_eq!(denied["ingress"]["by"], "default-deny");
    assert_eq!(denied["ingress"]["policies"][0]["name"], "allow-api-from-admin");

    let denied = record(&lab, |r| r["path"] == "/secret")?;
    assert_eq!(denied["verdict"], "DROPPED");
    assert_eq!(denied["drop_reason"], "l7_denied");
    assert_eq!(denied["source"]["pod"], "adminapp");

    let allowed = record(&lab, |r| r["path"] == "/docs" && r["source"]["pod"] == "adminapp")?;
    assert_eq!(allowed["verdict"], "FORWARDED");
    assert_eq!(allowed["rule"]["policy"]["name"], "allow-api-from-admin");
    let path = allowed["rule"]["path"].as_str().context("the rule's path")?;
    assert!(path.starts_with("spec.ingress[0]"), "{path}");
    Ok(())
}

/// Waits for a flow record that satisfies `wanted`.
fn record(lab: &Lab, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    wait_for("a flow record", Duration::from_secs(10), || {
        let records = lab.podgate_json_lines(&["flows", "--last", "100"])?;
        Ok(records.into_iter().find(&wanted))
    })
}
