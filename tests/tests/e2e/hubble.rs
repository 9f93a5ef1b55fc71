//! Hubble's API, read by a Python client whose stubs grpcio-tools makes from the proto files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use podgate_tests::checkout::{in_checkout, python};
use podgate_tests::lab::{
    Agent, Daemon, Family, Get, Lab, Outcome, StoppedThread, output, run, wait_for,
};
use podgate_tests::scenario::MANIFESTS;
use serde_json::{Value, json};

use crate::flood::{Flood, udp_frames};

const BOUND: Duration = Duration::from_secs(60);
/// Exit code of the client for a call that failed.
const FAILED: i32 = 4;

/// A call of the client.
struct Call<'a> {
    method: &'a str,
    request: Value,
    /// Most responses; zero for all.
    count: usize,
}

impl Call<'_> {
    /// Over the agent's unix socket.
    fn command(&self, lab: &Lab) -> Result<Command> {
        self.command_to(lab, &format!("unix:{}", lab.state_dir().join("hubble.sock").display()))
    }

    /// In the node's namespace, so that it reaches the node's ports, too.
    fn command_to(&self, lab: &Lab, target: &str) -> Result<Command> {
        let mut command = lab.node().netns.bounded(&python(), BOUND);
        command.arg(in_checkout("tests/tests/e2e/hubble_client.py"));
        command.arg(in_checkout("control/hubble/proto")).args([target, self.method]);
        command.args([self.request.to_string(), self.count.to_string()]);
        Ok(command)
    }
}

fn lines(text: &str) -> Result<Vec<Value>> {
    let parse = |line: &str| serde_json::from_str(line).with_context(|| format!("{line:?}"));
    text.lines().map(parse).collect()
}

/// All responses to a call.
fn call(lab: &Lab, method: &str, request: Value) -> Result<Vec<Value>> {
    lines(&run(&mut Call { method, request, count: 0 }.command(lab)?)?)
}

/// The flows of a call of `GetFlows`, without gaps.
fn flows(lab: &Lab, request: Value) -> Result<Vec<Value>> {
    let responses = call(lab, "observer.Observer/GetFlows", request)?;
    Ok(responses
        .into_iter()
        .map(|response| response["flow"].clone())
        .filter(|f| !f.is_null())
        .collect())
}

/// The flows that a client gets, once there are `count` of them.
fn flows_at_least(lab: &Lab, count: usize, request: &Value) -> Result<Vec<Value>> {
    wait_for("flows", BOUND, || {
        let flows = flows(lab, request.clone())?;
        Ok((flows.len() >= count).then_some(flows))
    })
}

/// Sends a request whose status is known.
fn get(lab: &Lab, from: &str, to: &str, path: &str, status: u16) -> Result<()> {
    let outcome = Get::path(path).fetch(lab.host(from)?, lab.host(to)?, Family::V4)?;
    match outcome {
        Outcome::Answer(answer) if answer.status == status => Ok(()),
        other => anyhow::bail!("{from} to {to}{path}: {other:?}"),
    }
}

fn names(flow: &Value, field: &str) -> Vec<String> {
    let policies = flow[field].as_array().into_iter().flatten();
    policies.filter_map(|policy| policy["name"].as_str().map(str::to_owned)).collect()
}

#[test]
fn a_client_reads_status_flows_health_and_peers() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let _agent = Agent::start_with(&lab, 2, &["--node-name", "node-1"])?;
    get(&lab, "admin/adminapp", "backend/nginx", "/docs", 200)?;
    get(&lab, "admin/adminapp", "backend/nginx", "/secret", 403)?;

    let status = call(&lab, "observer.Observer/ServerStatus", json!({}))?;
    ensure!(status[0]["max_flows"] == "4096", "{status:?}");
    ensure!(
        status[0]["version"].as_str().is_some_and(|v| v.starts_with("podgate v")),
        "{status:?}"
    );
    for service in ["", "hubble.server.Observer", "observer.Observer"] {
        let health = call(&lab, "grpc.health.v1.Health/Check", json!({"service": service}))?;
        ensure!(health == [json!({"status": "SERVING"})], "{health:?}");
    }
    let nodes = call(&lab, "observer.Observer/GetNodes", json!({}))?;
    let node = &nodes[0]["nodes"][0];
    ensure!(node["name"] == "node-1" && node["state"] == "NODE_CONNECTED", "{nodes:?}");
    let notify = Call { method: "peer.Peer/Notify", request: json!({}), count: 1 };
    let peers = lines(&run(&mut notify.command(&lab)?)?)?;
    ensure!(peers[0]["name"] == "node-1" && peers[0]["type"] == "PEER_ADDED", "{peers:?}");
    let namespaces = call(&lab, "observer.Observer/GetNamespaces", json!({}))?;
    let namespaces = namespaces[0]["namespaces"].to_string();
    ensure!(namespaces.contains("admin") && namespaces.contains("backend"), "{namespaces}");
    let events = call(&lab, "observer.Observer/GetAgentEvents", json!({}))?;
    let kinds: Vec<_> = events.iter().map(|event| &event["agent_event"]["type"]).collect();
    ensure!(kinds[0] == "AGENT_STARTED" && kinds.contains(&&json!("POLICY_UPDATED")), "{events:?}");

    requests_have_their_fields(&lab)?;
    denials_have_their_fields(&lab)
}

fn requests_have_their_fields(lab: &Lab) -> Result<()> {
    let request = json!({"number": 20, "whitelist": [{"http_path": ["^/secret$"]}]});
    let denied = &flows_at_least(lab, 1, &request)?[0];
    ensure!(denied["verdict"] == "DROPPED", "{denied}");
    ensure!(denied["drop_reason_desc"] == "POLICY_DENIED", "{denied}");
    ensure!(denied["Type"] == "L7" && denied["event_type"]["type"] == 129, "{denied}");
    ensure!(denied["l7"]["type"] == "REQUEST", "{denied}");
    let http = &denied["l7"]["http"];
    ensure!(http["method"] == "GET" && http["protocol"] == "HTTP/1.1", "{denied}");
    ensure!(http["url"].as_str().is_some_and(|url| url.ends_with("/secret")), "{denied}");
    ensure!(denied["source"]["pod_name"] == "adminapp", "{denied}");
    ensure!(denied["destination"]["namespace"] == "backend", "{denied}");
    ensure!(denied["is_reply"] == false && denied["node_name"] == "node-1", "{denied}");
    ensure!(denied["traffic_direction"] == "INGRESS", "{denied}");
    ensure!(denied["uuid"].as_str().is_some_and(|uuid| uuid.len() == 36), "{denied}");
    ensure!(denied["Summary"].as_str().is_some_and(|text| text.starts_with("HTTP/1.1 GET")));
    ensure!(names(denied, "ingress_denied_by") == ["allow-api-from-admin"], "{denied}");
    let labels = denied["source"]["labels"].as_array().context("labels")?;
    ensure!(labels.contains(&json!("k8s:io.kubernetes.pod.namespace=admin")), "{denied}");

    let request = json!({"number": 20, "whitelist": [{"http_status_code": ["2+"]}]});
    let response = &flows_at_least(lab, 1, &request)?[0];
    ensure!(response["l7"]["http"]["code"] == 200 && response["is_reply"] == true, "{response}");
    ensure!(response["source"]["pod_name"] == "nginx", "{response}");
    let url = response["l7"]["http"]["url"].as_str();
    ensure!(url.is_some_and(|url| url.ends_with("/docs")), "{response}");
    ensure!(response["l7"]["latency_ns"].as_str().is_some(), "{response}");
    let allowed = json!([{"http_path": ["/docs"], "reply": [false]}]);
    let allowed = json!({"number": 20, "whitelist": allowed});
    let allowed = &flows_at_least(lab, 1, &allowed)?[0];
    ensure!(names(allowed, "ingress_allowed_by") == ["allow-api-from-admin"], "{allowed}");
    Ok(())
}

fn denials_have_their_fields(lab: &Lab) -> Result<()> {
    let (stranger, nginx) = (lab.host("other/stranger")?, lab.host("backend/nginx")?);
    let outcome = Get::path("/docs").fetch(stranger, nginx, Family::V4)?;
    ensure!(outcome == Outcome::NoAnswer, "{outcome:?}");
    let of_stranger = json!({"source_pod": ["other/stranger"], "verdict": ["DROPPED"]});
    let both = flows_at_least(lab, 2, &json!({"number": 2, "whitelist": [of_stranger]}))?;
    let types: Vec<_> = both.iter().map(|flow| flow["event_type"]["type"].as_i64()).collect();
    ensure!(types == [Some(5), Some(1)], "{both:?}");
    for flow in &both {
        ensure!(names(flow, "ingress_denied_by") == ["allow-api-from-admin"], "{flow}");
        ensure!(flow["drop_reason_desc"] == "POLICY_DENIED", "{flow}");
        ensure!(flow["l4"]["TCP"]["flags"] == json!({"SYN": true}), "{flow}");
        ensure!(flow["traffic_direction"] == "INGRESS" && flow["Type"] == "L3_L4", "{flow}");
    }
    ensure!(both[0]["uuid"] != both[1]["uuid"], "{both:?}");
    // The fields of a mask only.
    let mask = json!({"number": 1, "field_mask": "verdict,source.podName"});
    let masked = flows(lab, mask)?;
    ensure!(masked.len() == 1 && masked[0].get("uuid").is_none(), "{masked:?}");
    // What can't be understood is rejected by name.
    let wrong = json!({"whitelist": [{"source_ip": ["nowhere"]}]});
    let method = "observer.Observer/GetFlows";
    let failed = output(&mut Call { method, request: wrong, count: 0 }.command(lab)?)?;
    let text = String::from_utf8_lossy(&failed.stdout).into_owned();
    ensure!(failed.status.code() == Some(FAILED), "{text}");
    ensure!(text.starts_with("error INVALID_ARGUMENT: source_ip \"nowhere\""), "{text}");
    Ok(())
}

/// A client that follows, as the web page does: two filters, and more flows than there are.
fn follower(lab: &Lab, pod: &str) -> Result<Daemon> {
    let filters = json!([{"source_pod": [pod]}, {"destination_pod": [pod]}]);
    let request = json!({"number": 10_000, "follow": true, "whitelist": filters});
    let call = Call { method: "observer.Observer/GetFlows", request, count: 0 };
    Daemon::start("a follower", call.command(lab)?, lab.file("follower"))
}

/// The URLs of requests that a follower got.
fn urls(follower: &Daemon) -> Vec<String> {
    let text = follower.log();
    // The last line may be incomplete.
    let responses = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let url = |response: Value| {
        let l7 = &response["flow"]["l7"];
        let url = l7["http"]["url"].as_str().filter(|_| l7["type"] == "REQUEST")?;
        Some(url.rsplit_once('/')?.1.to_owned())
    };
    responses.filter_map(url).collect()
}

#[test]
fn a_client_follows_the_flows_of_its_filters() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let _agent = Agent::start(&lab, 2)?;
    get(&lab, "admin/adminapp", "backend/nginx", "/docs", 200)?;
    get(&lab, "user/userapp", "backend/nginx", "/docs", 200)?;
    let mut follower = follower(&lab, "admin/")?;
    follower
        .wait_until("a past flow", BOUND, |daemon| Ok((urls(daemon) == ["docs"]).then_some(())))?;
    get(&lab, "user/userapp", "backend/nginx", "/api/v1/users", 403)?;
    get(&lab, "admin/adminapp", "backend/nginx", "/secret", 403)?;
    follower.wait_until("a new flow", BOUND, |daemon| {
        Ok((urls(daemon) == ["docs", "secret"]).then_some(()))
    })
}

/// What `podgate observe` prints.
fn observed(lab: &Lab, arguments: &[&str]) -> Result<String> {
    let printed = lab.podgate(&[&["observe"], arguments].concat())?;
    let errors = String::from_utf8_lossy(&printed.stderr);
    ensure!(printed.status.success(), "{arguments:?}: {errors}");
    Ok(String::from_utf8(printed.stdout)?)
}

#[test]
fn podgate_observe_reads_the_agent_and_what_it_wrote_itself() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let _agent = Agent::start_with(&lab, 1, &["--node-name", "node-1"])?;
    get(&lab, "admin/adminapp", "backend/nginx", "/docs", 200)?;
    get(&lab, "admin/adminapp", "backend/nginx", "/secret", 403)?;
    let filters = ["--from-pod", "admin/admin", "--verdict", "DROPPED", "-t", "l7"];
    let line = wait_for("the denial", BOUND, || {
        let text = observed(&lab, &[&filters[..], &["--print-policy-names"]].concat())?;
        Ok((!text.is_empty()).then_some(text))
    })?;
    let expected = "http-request DROPPED BY allow-api-from-admin (CiliumNetworkPolicy) (HTTP/1.1";
    ensure!(line.lines().count() == 1 && line.contains(expected), "{line}");
    // Written as JSON, it is the same for a reader of the file.
    let json = observed(&lab, &["--all", "-o", "jsonpb"])?;
    let file = lab.file("flows.json");
    fs::write(&file, &json)?;
    let file = file.to_str().context("a path")?;
    let again = observed(&lab, &[&["--input-file", file], &filters[..]].concat())?;
    ensure!(again == line.replace(" BY allow-api-from-admin (CiliumNetworkPolicy)", ""), "{again}");
    let all = observed(&lab, &["--input-file", file, "-o", "jsonpb"])?;
    ensure!(all == json, "{all}");
    let negated = observed(&lab, &["--all", "--not", "--verdict", "DROPPED"])?;
    ensure!(!negated.is_empty() && !negated.contains("DROPPED"), "{negated}");
    let table = observed(&lab, &["-o", "table", "--print-node-name"])?;
    ensure!(table.contains("NODE") && table.contains("node-1"), "{table}");
    let top = lab.podgate(&["top", "--once"])?;
    let text = String::from_utf8(top.stdout)?;
    ensure!(text.contains("backend/nginx") && text.contains("SLEEPS/s"), "{text}");
    Ok(())
}

#[test]
fn a_flooding_pod_leaves_the_flows_of_others_and_its_losses_are_told() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let agent = Agent::start_with(&lab, 2, &["--flow-log", "512"])?;
    get(&lab, "admin/adminapp", "backend/nginx", "/secret", 403)?;
    let (stranger, store) = (lab.host("other/stranger")?, lab.host("backend/store")?);
    let frames = udp_frames(&lab, [stranger, store], 1024..40_000, 53)?;
    let flood = Flood::start(stranger, frames)?;
    // However fast the machine is: a flow thread that reads nothing loses flows.
    let stopped = StoppedThread::stop(agent.pid(), "pg-flows")?;
    wait_for("flows to be lost", BOUND, || {
        let status = lab.podgate_json(&["status"])?;
        let lost = status["flow_records_lost"].as_u64().context("flow_records_lost")?;
        Ok((lost > 0).then_some(()))
    })?;
    drop(stopped);
    let lost = wait_for("lost events", BOUND, || {
        let responses = call(&lab, "observer.Observer/GetFlows", json!({}))?;
        let lost: Vec<_> = responses.into_iter().filter(|r| !r["lost_events"].is_null()).collect();
        Ok((!lost.is_empty()).then_some(lost))
    })?;
    ensure!(lost[0]["lost_events"]["source"] == "OBSERVER_EVENTS_QUEUE", "{lost:?}");
    get(&lab, "user/userapp", "backend/nginx", "/api/v1/users", 403)?;
    drops_of_another_pod_are_all_there(&lab)?;
    for path in ["/secret", "/api/v1/users"] {
        let request = json!({"number": 1, "whitelist": [{"http_path": [path]}]});
        flows_at_least(&lab, 1, &request).context(path)?;
    }
    flood.stop()
}

/// A client of the port may ask for what takes any time.
#[test]
fn clients_of_the_port_delay_neither_those_of_the_socket_nor_the_log() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let agent = Agent::start_with(&lab, 1, &["--hubble-listen", "127.0.0.1:4244"])?;
    let stopped = StoppedThread::stop(agent.pid(), "pg-hubble-tcp")?;
    get(&lab, "admin/adminapp", "backend/nginx", "/secret", 403)?;
    let of_path = |path: &str| json!({"whitelist": [{"http_path": [path]}]});
    flows_at_least(&lab, 1, &of_path("/secret"))?;
    drop(stopped);
    // A client of the socket delays those of the socket, but not the log.
    const SEEN: &str = "hubble_flows_processed_total";
    let before = lab.metric(SEEN)?;
    let stopped = StoppedThread::stop(agent.pid(), "pg-hubble")?;
    get(&lab, "admin/adminapp", "backend/nginx", "/secret", 403)?;
    wait_for("flows to be counted", BOUND, || Ok((lab.metric(SEEN)? > before).then_some(())))?;
    drop(stopped);
    let flows = flows_at_least(&lab, 2, &of_path("/secret"))?;
    ensure!(flows.len() >= 2, "{flows:?}");
    let status = lab.podgate_json(&["status"])?;
    ensure!(status["flow_records_lost"] == 0, "{status}");
    Ok(())
}

/// During another pod's flood.
fn drops_of_another_pod_are_all_there(lab: &Lab) -> Result<()> {
    const DENIED: u16 = 40;
    let (user, store) = (lab.host("user/userapp")?, lab.host("backend/store")?);
    let frames = udp_frames(lab, [user, store], 2000..2000 + DENIED, 53)?;
    user.injector()?.send(frames.iter().map(Vec::as_slice))?;
    let request = json!({"whitelist": [{"source_pod": ["user/userapp"], "verdict": ["DROPPED"],
                                        "event_type": [{"type": 5}]}]});
    let flows = flows_at_least(lab, DENIED.into(), &request)?;
    let port = |flow: &Value| flow["l4"]["UDP"]["source_port"].as_u64();
    let ports: std::collections::BTreeSet<_> = flows.iter().filter_map(port).collect();
    let all = (2000..2000 + u64::from(DENIED)).collect();
    ensure!(ports == all, "{ports:?}");
    Ok(())
}

#[test]
fn a_port_is_served_with_tls_to_clients_that_have_a_certificate() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let files = certificates(&lab)?;
    let address = format!("{}:4244", lab.node().addresses.v4);
    let [ca, cert, key] = ["ca.pem", "node.pem", "node.key"].map(|name| path(&files, name));
    let tls = ["--hubble-tls-cert", &cert, "--hubble-tls-key", &key, "--hubble-tls-client-ca", &ca];
    let options = [&["--node-name", "node-1", "--hubble-listen", &address][..], &tls].concat();
    let _agent = Agent::start_with(&lab, 1, &options)?;
    let name = "node-1.default.hubble-grpc.cilium.io";
    let notify = Call { method: "peer.Peer/Notify", request: json!({}), count: 1 };
    let peers = lines(&run(&mut notify.command(&lab)?)?)?;
    ensure!(peers[0]["address"] == address && peers[0]["tls"]["server_name"] == name, "{peers:?}");

    let status = Call { method: "observer.Observer/ServerStatus", request: json!({}), count: 0 };
    let mut with = status.command_to(&lab, &address)?;
    with.args([&ca, &path(&files, "client.pem"), &path(&files, "client.key"), name]);
    ensure!(lines(&run(&mut with)?)?[0]["max_flows"] == "4096");
    let tls = ["--server", &address, "--tls", "--tls-ca-cert-file", &ca, "--tls-server-name", name];
    let [client, key] = ["client.pem", "client.key"].map(|file| path(&files, file));
    let identity = ["--tls-client-cert-file", &client, "--tls-client-key-file", &key];
    get(&lab, "admin/adminapp", "backend/nginx", "/docs", 200)?;
    wait_for("a flow over TLS", BOUND, || {
        let text = observed(&lab, &[&tls[..], &identity].concat())?;
        Ok(text.contains("backend/nginx").then_some(()))
    })?;
    let unknown = lab.podgate(&[&["observe"], &tls[..]].concat())?;
    ensure!(unknown.status.code() == Some(3), "{unknown:?}");
    let mut without = status.command_to(&lab, &address)?;
    let failed = output(without.args([&ca, "", "", name]))?;
    let text = String::from_utf8_lossy(&failed.stdout);
    ensure!(failed.status.code() == Some(FAILED) && text.contains("UNAVAILABLE"), "{text}");
    Ok(())
}

fn path(folder: &Path, name: &str) -> String {
    folder.join(name).display().to_string()
}

/// A CA with a certificate for the node and one for a client.
fn certificates(lab: &Lab) -> Result<PathBuf> {
    let folder = lab.file("tls");
    fs::create_dir(&folder)?;
    let openssl = |arguments: &str| -> Result<()> {
        let mut command = Command::new("openssl");
        run(command.current_dir(&folder).args(arguments.split_whitespace())).map(drop)
    };
    let new = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2";
    openssl(&format!("req -x509 {new} -subj /CN=ca -keyout ca.key -out ca.pem"))?;
    for (name, host) in [("node", "node-1.default.hubble-grpc.cilium.io"), ("client", "client")] {
        openssl(&format!(
            "req -x509 {new} -subj /CN={name} -addext subjectAltName=DNS:{host} \
             -addext basicConstraints=critical,CA:FALSE -CA ca.pem -CAkey ca.key \
             -keyout {name}.key -out {name}.pem"
        ))?;
    }
    Ok(folder)
}
