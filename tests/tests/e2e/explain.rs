//! `policy explain`, compared with what happens to the traffic.

use anyhow::{Context, Result, ensure};
use podgate_tests::lab::{Agent, Family, Get, Lab, Outcome};
use podgate_tests::scenario::{Expected, MANIFESTS, Probe, ROWS, Row};
use serde_json::Value;

/// Denies what another policy allows.
const DENY_USER: &str = "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: { name: not-user, namespace: backend }
spec:
  endpointSelector: { matchLabels: { app: nginx } }
  ingressDeny:
    - fromEndpoints: [{ matchLabels: { io.kubernetes.pod.namespace: user } }]
";

/// How `explain` is given a host: a pod by its name, any other host by an address.
fn end(lab: &Lab, name: &str) -> Result<String> {
    match name.contains('/') {
        true => Ok(name.to_owned()),
        false => Ok(lab.host(name)?.addresses.of(Family::V4).to_string()),
    }
}

fn explain(lab: &Lab, from: &str, to: &str, flow: &[&str]) -> Result<Value> {
    let (from, to) = (end(lab, from)?, end(lab, to)?);
    let mut args = vec!["policy", "explain", "--from", &from, "--to", &to];
    args.extend(flow);
    lab.podgate_json(&args)
}

fn explain_row(lab: &Lab, row: &Row) -> Result<Value> {
    match row.probe {
        Probe::Ping => explain(lab, row.from, row.to, &["--port", "icmp"]),
        Probe::Http(method, port, path) => {
            let (port, request) = (format!("{port}/TCP"), format!("{method} {path}"));
            explain(lab, row.from, row.to, &["--port", &port, "--http", &request])
        }
    }
}

/// The outcome that the explanation predicts.
fn predicted(explanation: &Value) -> Expected {
    let denial = explanation["request"]["denial"].as_str().unwrap_or_default();
    match explanation["verdict"].as_str() {
        Some("allowed") => Expected::Passes,
        Some("denied") if denial.contains("403") => Expected::Denied,
        _ => Expected::NoAnswer,
    }
}

#[test]
fn explain_predicts_the_outcome_of_every_row_of_the_scenario() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let _agent = Agent::start(&lab, 2)?;
    for row in ROWS {
        let explanation = explain_row(&lab, row)?;
        assert_eq!(predicted(&explanation), row.expected, "{row}: {explanation:#}");
        let seen = row.run(&lab, Family::V4)?;
        assert!(row.is_met_by(&seen), "{row}: {seen:?}");
    }
    Ok(())
}

/// The verdict on the last flow between two pods, from the flow log.
fn recorded(lab: &Lab, from: &str, to: &str) -> Result<Value> {
    let records = lab.podgate_json_lines(&["flows", "--last", "500"])?;
    let is_end = |end: &Value, pod: &str| {
        let name = [&end["namespace"], &end["pod"]].map(|part| part.as_str().unwrap_or_default());
        name.join("/") == pod
    };
    let verdicts = records.into_iter().filter(|record| record["type"] == "policy-verdict");
    verdicts
        .rev()
        .find(|record| is_end(&record["source"], from) && is_end(&record["destination"], to))
        .with_context(|| format!("no verdict on a flow from {from} to {to} is recorded"))
}

#[test]
fn flow_records_and_explanations_name_the_same_causes_in_both_directions() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    lab.write_manifest("not-user.yaml", DENY_USER)?;
    let _agent = Agent::start(&lab, 1)?;
    let nginx = "backend/nginx";
    for (from, port, cause) in [
        ("admin/adminapp", 80, "rule"),
        ("admin/adminapp", 81, "default-deny"),
        ("user/userapp", 80, "rule"),
    ] {
        let get = Get { port, ..Get::path("/docs") };
        let seen = get.fetch(lab.host(from)?, lab.host(nginx)?, Family::V4)?;
        let explanation = explain(&lab, from, nginx, &["--port", &port.to_string()])?;
        let record = recorded(&lab, from, nginx)?;
        for direction in ["egress", "ingress"] {
            let said = &explanation[direction]["verdict"];
            assert_eq!(said, &record[direction], "{from} {port} {direction}");
        }
        assert_eq!(explanation["ingress"]["verdict"]["by"], cause, "{explanation:#}");
        let passes = matches!(seen, Outcome::Answer(_));
        assert_eq!(passes, explanation["verdict"] != "denied", "{seen:?} {explanation:#}");
    }
    let denied = explain(&lab, "user/userapp", nginx, &["--port", "80"])?;
    let rule = &denied["ingress"]["verdict"]["rule"];
    assert_eq!(rule["policy"]["name"], "not-user", "{denied:#}");
    assert_eq!(rule["path"], "spec.ingressDeny[0]", "{denied:#}");
    Ok(())
}

#[test]
fn policy_wait_returns_when_the_epoch_is_in_force() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let mut agent = Agent::start(&lab, 2)?;
    let (user, nginx) = (lab.host("user/userapp")?, lab.host("backend/nginx")?);
    let get = Get::path("/docs");
    assert!(matches!(get.fetch(user, nginx, Family::V4)?, Outcome::Answer(_)));
    lab.write_manifest("not-user.yaml", DENY_USER)?;
    let epoch = agent.wait_until("the new policy", |lab| {
        let list = lab.podgate_json(&["policy", "list"])?;
        let policies = list["policies"].as_array().context("no list of policies")?;
        let is_there = policies.iter().any(|policy| policy["name"] == "not-user");
        Ok(list["epoch"].as_u64().filter(|_| is_there))
    })?;
    let waited = lab.podgate_json(&["policy", "wait", &epoch.to_string(), "--timeout", "20"])?;
    assert_eq!(waited["in_force"], true, "{waited}");
    assert_eq!(get.fetch(user, nginx, Family::V4)?, Outcome::NoAnswer);
    let never = lab.podgate(&["policy", "wait", "4000000000", "--timeout", "0"])?;
    assert_eq!(never.status.code(), Some(4), "{never:?}");
    Ok(())
}

#[test]
fn explain_names_what_it_cannot_answer_and_sets_the_expected_exit_code() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let _agent = Agent::start(&lab, 1)?;
    let run = |from: &str, to: &str, more: &[&str]| {
        let args = ["policy", "explain", "--from", from, "--to", to, "--port", "80"];
        lab.podgate(&[&args[..], more].concat())
    };
    let fails_with = |from: &str, to: &str, text: &str| -> Result<()> {
        let output = run(from, to, &[])?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(1) && said.contains(text), "{said}");
        Ok(())
    };
    fails_with("admin/adminap", "backend/nginx", "admin/adminapp meant?")?;
    fails_with("203.0.113.1", "203.0.113.2", "--both-sides")?;
    fails_with("10.77.0.10", "fd77::30", "IP version")?;
    let code = |expect| {
        let request = ["--http", "GET /secret", "--expect", expect];
        Ok::<_, anyhow::Error>(run("adminapp", "nginx", &request)?.status.code())
    };
    assert_eq!(code("deny")?, Some(0));
    assert_eq!(code("allow")?, Some(4));
    Ok(())
}

#[test]
fn policies_selectors_and_tables_in_force_are_shown() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let _agent = Agent::start(&lab, 1)?;
    let policies = lab.podgate_json(&["policy", "get", "backend/store"])?;
    let policy = &policies[0];
    assert_eq!(policy["state"], "enforced", "{policies:#}");
    assert_eq!(policy["selected"][0], "backend/store", "{policies:#}");
    assert_eq!(policy["specs"][0]["rules"][0]["ports"][0]["ports"], "8080/TCP", "{policies:#}");

    let selectors = lab.podgate_json(&["policy", "selectors"])?;
    let users = selectors.as_array().context("no list of selectors")?;
    let user = users.iter().find(|info| info["selector"][0] == "namespace=user");
    assert_eq!(user.context("namespace=user")?["pods"], 1, "{selectors:#}");

    let link = &lab.host("backend/nginx")?.link;
    for endpoint in [link, "backend/nginx"] {
        let table = lab.podgate_json(&["table", "policy", "get", endpoint])?;
        let rows = table["rows"].as_array().context("no rows")?;
        let ingress: Vec<_> = rows.iter().filter(|row| row["direction"] == "ingress").collect();
        assert_eq!(ingress.len(), 3, "{table:#}");
        assert_eq!(ingress[0]["l7"][1], "GET /docs", "{table:#}");
        assert_eq!(ingress[2]["policies"][0]["name"], "allow-api-from-admin", "{table:#}");
    }
    Ok(())
}
