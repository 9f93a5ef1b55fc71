//! Connections over a restart of the agent: they continue after a clean stop; where they can't,
//! they are reset at once instead of timing out.

use std::ffi::OsString;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use podgate_tests::lab::{Agent, Family, Lab, wait_for};

/// Port of plain connections.
const PLAIN: u16 = 7000;
/// Port whose requests are inspected.
const INSPECTED: u16 = 8080;
/// Timeout for a reset to arrive.
const RESET_TIMEOUT: Duration = Duration::from_secs(20);
/// Time in which nothing may arrive.
const QUIET_TIME: Duration = Duration::from_secs(1);

const PODS: &str = "
{apiVersion: v1, kind: Pod, metadata: {name: client, namespace: shop, labels: {app: client}},
 status: {phase: Running, podIPs: [{ip: 10.64.1.1}, {ip: \"fd00:64::1\"}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: server, namespace: shop, labels: {app: server}},
 status: {phase: Running, podIPs: [{ip: 10.64.1.2}, {ip: \"fd00:64::2\"}]}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: deny, namespace: shop},
 spec: {podSelector: {}, policyTypes: [Ingress, Egress]}}
";

/// Allows port 7000 from client to server and between server and office, and inspected requests
/// from client to server.
const ALLOWED: &str = "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: client, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: client}}
  egress:
  - toEndpoints: [{matchLabels: {app: server}}]
    toPorts: [{ports: [{port: \"7000\", protocol: TCP}, {port: \"8080\", protocol: TCP}]}]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: server, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: server}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: client}}]
    toPorts: [{ports: [{port: \"7000\", protocol: TCP}]}]
  - fromCIDR: [192.0.2.10/32, \"2001:db8::10/128\"]
    toPorts: [{ports: [{port: \"7000\", protocol: TCP}]}]
  - fromEndpoints: [{matchLabels: {app: client}}]
    toPorts:
    - ports: [{port: \"8080\", protocol: TCP}]
      rules: {http: [{method: GET, path: /docs}]}
  egress:
  - toCIDR: [192.0.2.10/32, \"2001:db8::10/128\"]
    toPorts: [{ports: [{port: \"7000\", protocol: TCP}]}]
";

/// Client and server of each plain connection.
const PAIRS: [(&str, &str); 3] =
    [("shop/client", "shop/server"), ("office", "shop/server"), ("shop/server", "office")];

fn lab() -> Result<Lab> {
    let folder = tempfile::tempdir()?;
    fs::write(folder.path().join("pods.yaml"), PODS)?;
    fs::write(folder.path().join("allowed.yaml"), ALLOWED)?;
    Lab::new(folder.path())
}

/// Both ends of a connection.
struct Connection {
    name: String,
    client: TcpStream,
    server: TcpStream,
}

impl Connection {
    fn open(lab: &Lab, from: &str, to: &str, port: u16, family: Family) -> Result<Self> {
        let (from, to) = (lab.host(from)?, lab.host(to)?);
        let name = format!("{} to {} over {family}", from.name, to.name);
        let listener = to.listen(port)?;
        let client = from.connect(to, port, family).with_context(|| name.clone())?;
        let (server, _) = listener.accept()?;
        for end in [&client, &server] {
            end.set_read_timeout(Some(RESET_TIMEOUT))?;
        }
        let mut this = Self { name, client, server };
        if port == PLAIN {
            this.talk()?;
        }
        Ok(this)
    }

    /// Opens all connections that policy allows, over both families.
    fn open_all(lab: &Lab) -> Result<Vec<Self>> {
        let mut all = Vec::new();
        for (from, to) in PAIRS {
            for family in Family::BOTH {
                all.push(Self::open(lab, from, to, PLAIN, family)?);
            }
        }
        Ok(all)
    }

    /// Sends a few bytes in each direction.
    fn talk(&mut self) -> Result<()> {
        let Self { name, client, server } = &*self;
        for (mut from, mut to, text) in
            [(client, server, b"question"), (server, client, b"response")]
        {
            from.write_all(text)?;
            let mut read = [0; 8];
            to.read_exact(&mut read).with_context(|| format!("{name}: {text:?}"))?;
            ensure!(read == *text, "{name}: {read:?}");
        }
        Ok(())
    }
}

/// Waits until an end's connection is reset.
fn is_reset(name: &str, end: &mut TcpStream) -> Result<()> {
    end.write_all(b"still there?").with_context(|| name.to_owned())?;
    match end.read(&mut [0; 64]) {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
        other => bail!("{name}: no reset, but {other:?}"),
    }
}

fn taken_over(lab: &Lab) -> Result<(u64, u64)> {
    let flows = lab.podgate_json(&["status"])?["flows_taken_over"].clone();
    let number = |key: &str| flows[key].as_u64().with_context(|| format!("no {key}: {flows}"));
    Ok((number("taken")?, number("left_out")?))
}

#[test]
fn connections_under_default_deny_survive_a_clean_restart() -> Result<()> {
    let lab = lab()?;
    let mut agent = Agent::start(&lab, 1)?;
    let mut connections = Connection::open_all(&lab)?;
    for workers in [2, 1] {
        agent.stop()?;
        agent = Agent::restart(&lab, workers)?;
        let (taken, _) = taken_over(&lab)?;
        assert!(taken >= connections.len() as u64, "{taken} flows go on");
        for connection in &mut connections {
            connection.talk()?;
        }
    }
    assert!(!lab.state_dir().join("flows.state").exists(), "it is read once");
    Ok(())
}

#[test]
fn after_a_crash_both_ends_of_a_connection_are_reset() -> Result<()> {
    let lab = lab()?;
    let agent = Agent::start(&lab, 1)?;
    let clients = Connection::open_all(&lab)?;
    let servers = Connection::open_all(&lab)?;
    agent.kill()?;
    let _agent = Agent::restart(&lab, 1)?;
    assert_eq!(taken_over(&lab)?, (0, 0));
    for mut connection in clients {
        is_reset(&connection.name, &mut connection.client)?;
    }
    for mut connection in servers {
        is_reset(&connection.name, &mut connection.server)?;
    }
    assert!(lab.metric("podgate_worker_resets_sent_total")? >= 12);
    Ok(())
}

#[test]
fn a_crash_after_a_clean_restart_restores_no_flow() -> Result<()> {
    let lab = lab()?;
    Agent::start(&lab, 1)?.stop()?;
    let agent = Agent::restart(&lab, 1)?;
    let mut connection = Connection::open(&lab, PAIRS[0].0, PAIRS[0].1, PLAIN, Family::V4)?;
    agent.kill()?;
    let _agent = Agent::restart(&lab, 1)?;
    is_reset(&connection.name, &mut connection.client)
}

#[test]
fn an_inspected_connection_is_reset_after_a_restart() -> Result<()> {
    let lab = lab()?;
    let agent = Agent::start(&lab, 1)?;
    let mut connections = Vec::new();
    for family in Family::BOTH {
        let (from, to) = PAIRS[0];
        let mut connection = Connection::open(&lab, from, to, INSPECTED, family)?;
        let Connection { client, server, .. } = &mut connection;
        client.write_all(b"GET /docs HTTP/1.1\r\nHost: server\r\n\r\n")?;
        let mut read = [0; 256];
        let mut len = 0;
        while !read[..len].ends_with(b"\r\n\r\n") {
            len += server.read(&mut read[len..])?;
        }
        server.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")?;
        ensure!(client.read(&mut read)? > 0, "no response");
        connections.push(connection);
    }
    agent.stop()?;
    let _agent = Agent::restart(&lab, 1)?;
    for mut connection in connections {
        is_reset(&connection.name, &mut connection.client)?;
        is_reset(&connection.name, &mut connection.server)?;
    }
    Ok(())
}

/// Since nothing is allowed between the ends, no resets are sent either.
#[test]
fn flows_that_policy_denies_after_a_restart_are_not_restored() -> Result<()> {
    let lab = lab()?;
    let agent = Agent::start(&lab, 1)?;
    let connections = Connection::open_all(&lab)?;
    agent.stop()?;
    lab.write_manifest("allowed.yaml", &ALLOWED.replace("7000", "7001"))?;
    let _agent = Agent::restart(&lab, 1)?;
    assert_eq!(taken_over(&lab)?.0, 0);
    for connection in connections {
        let Connection { name, mut client, mut server } = connection;
        let denied = lab.drops("policy_denied")?;
        client.write_all(b"still there?")?;
        wait_for("the segment to be denied", RESET_TIMEOUT, || {
            Ok((lab.drops("policy_denied")? > denied).then_some(()))
        })?;
        for end in [&mut server, &mut client] {
            end.set_read_timeout(Some(QUIET_TIME))?;
            let read = end.read(&mut [0; 64]);
            let silent = read.as_ref().is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
            ensure!(silent, "{name}: {read:?}");
        }
    }
    assert_eq!(lab.metric("podgate_worker_resets_sent_total")?, 0);
    Ok(())
}

#[test]
fn a_damaged_flows_file_is_set_aside_and_reported() -> Result<()> {
    let lab = lab()?;
    Agent::start(&lab, 1)?.stop()?;
    fs::write(lab.state_dir().join("flows.state"), "rubbish")?;
    let _agent = Agent::restart(&lab, 1)?;
    let status = lab.podgate_json(&["status"])?;
    let problem = status["flows_taken_over"]["problem"].as_str().unwrap_or_default().to_owned();
    assert!(problem.contains("flows.state is not used: it is damaged"), "{problem}");
    let names = fs::read_dir(lab.state_dir())?.map(|entry| Ok(entry?.file_name()));
    let names = names.collect::<Result<Vec<_>>>()?;
    let is_aside = |name: &OsString| name.to_string_lossy().starts_with("flows.state.bad-");
    assert!(names.iter().any(is_aside), "{names:?}");
    Ok(())
}

#[test]
fn a_stop_that_cannot_save_flows_in_time_fails() -> Result<()> {
    let lab = lab()?;
    let agent = Agent::start(&lab, 1)?;
    // Opening it waits for a reader, as an unreachable file server does.
    mkfifo(&lab.state_dir().join("flows.state.new"), Mode::S_IRWXU)?;
    let log = agent.stop_uncleanly()?;
    ensure!(log.contains("flows and DNS names may not be saved"), "{log}");
    fs::remove_file(lab.state_dir().join("flows.state.new"))?;
    Agent::restart(&lab, 1)?.stop()
}

#[test]
fn a_stop_that_cannot_save_its_state_fails_and_names_the_files() -> Result<()> {
    let lab = lab()?;
    let agent = Agent::start(&lab, 1)?;
    // A directory that isn't empty can't be replaced by a file.
    let flows = lab.state_dir().join("flows.state");
    fs::create_dir(&flows)?;
    fs::write(flows.join("kept"), "")?;
    let log = agent.stop_uncleanly()?;
    let said = format!("podgate: not all state was saved: can't write {}: ", flows.display());
    ensure!(log.contains(&said), "{log}");
    fs::remove_dir_all(&flows)?;
    Agent::restart(&lab, 1)?.stop()
}
