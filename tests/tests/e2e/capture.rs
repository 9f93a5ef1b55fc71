//! `podgate capture`, read by tshark and by `podgate replay`.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use podgate_tests::lab::{Agent, Daemon, Family, Get, Lab, Outcome, program, run, wait_for};
use podgate_tests::scenario::MANIFESTS;

const BOUND: Duration = Duration::from_secs(30);

/// A running `podgate capture`.
fn start(lab: &Lab, name: &str, options: &[&str]) -> Result<(Daemon, String)> {
    let file = lab.file(&format!("{name}.pcapng")).display().to_string();
    let mut command = lab.node().netns.daemon(program()?);
    command.arg("capture").args(options).args(["-w", &file, "--socket"]);
    command.arg(lab.state_dir().join("podgate.sock"));
    let mut daemon = Daemon::start(name, command, lab.file(&format!("{name}.log")))?;
    daemon.wait_until("the start of the capture", BOUND, |daemon| {
        Ok(daemon.log().contains("capturing").then_some(()))
    })?;
    Ok((daemon, file))
}

/// Fields of each packet, as tshark reads them.
fn tshark(file: &str, fields: &[&str]) -> Result<Vec<Vec<String>>> {
    let mut command = Command::new("tshark");
    command.args(["-n", "-r", file, "-T", "fields", "-E", "separator=/t"]);
    command.args(fields.iter().flat_map(|field| ["-e", field]));
    let text = run(&mut command).context("tshark is in Debian's package tshark")?;
    Ok(text.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect())
}

fn get(lab: &Lab, from: &str, to: &str, request: &Get) -> Result<Outcome> {
    request.fetch(lab.host(from)?, lab.host(to)?, Family::V4)
}

#[test]
fn a_capture_has_packets_before_and_after_policy_with_verdict_and_rule() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let agent = Agent::start(&lab, 2)?;
    let pods = ["--pod", "admin/adminapp", "--pod", "other/stranger"];
    let (mut capture, file) = start(&lab, "capture", &pods)?;
    let second = lab.podgate(&["capture", "--pod", "admin/adminapp", "-w", "-"])?;
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    ensure!(second.status.code() == Some(1) && said.contains("another capture runs"), "{said}");
    let status = |outcome| match outcome {
        Outcome::Answer(answer) => Some(answer.status),
        _ => None,
    };
    let nginx = "backend/nginx";
    ensure!(status(get(&lab, "admin/adminapp", nginx, &Get::path("/docs"))?) == Some(200));
    ensure!(status(get(&lab, "admin/adminapp", nginx, &Get::path("/secret"))?) == Some(403));
    ensure!(status(get(&lab, "other/stranger", nginx, &Get::path("/docs"))?).is_none());
    // Not a pod of the capture.
    ensure!(status(get(&lab, "user/userapp", nginx, &Get::path("/docs"))?) == Some(200));
    wait_for("the last packets", BOUND, || {
        let counters = lab.podgate(&["status", "--brief"])?;
        Ok(counters.status.success().then_some(()))
    })?;
    capture.signal(Signal::SIGINT)?;
    ensure!(capture.wait_exit(BOUND)?.success(), "{}", capture.log());
    let log = capture.log();
    ensure!(log.contains("packets before policy") && log.contains(" 0 lost"), "{log}");
    comments_say_what_decided(&lab, &file)?;
    replays(&lab, &file)?;
    agent.stop()
}

fn comments_say_what_decided(lab: &Lab, file: &str) -> Result<()> {
    let fields = ["frame.comment", "frame.interface_name", "ip.src", "http.request.uri"];
    let packets = tshark(file, &fields)?;
    let comments: BTreeSet<_> = packets.iter().map(|packet| packet[0].clone()).collect();
    let has = |parts: &[&str]| {
        comments.iter().any(|comment| parts.iter().all(|part| comment.contains(part)))
    };
    let rule = "ingress allowed by CiliumNetworkPolicy backend/allow-api-from-admin";
    for parts in [
        &["before policy: FORWARDED", rule][..],
        &["after policy: FORWARDED", rule],
        &["after policy: made by podgate"],
        &["request allowed by CiliumNetworkPolicy backend/allow-api-from-admin"],
        &["request DENIED"],
        &["before policy: DROPPED, policy_denied", "ingress denied by default"],
    ] {
        ensure!(has(parts), "{parts:?} is missing in {comments:#?}");
    }
    let user = lab.host("user/userapp")?.addresses.v4.to_string();
    ensure!(packets.iter().all(|packet| packet[2] != user), "a pod that was not asked for");
    for side in [" before policy", " after policy"] {
        ensure!(packets.iter().any(|packet| packet[1].ends_with(side)), "{packets:?}");
    }
    let uris: BTreeSet<_> = packets.iter().filter_map(|packet| packet.get(3)).collect();
    ensure!(uris.iter().any(|uri| *uri == "/docs"), "{uris:?}");
    Ok(())
}

fn replays(lab: &Lab, file: &str) -> Result<()> {
    let manifests = lab.manifests();
    let manifests = manifests.to_string_lossy();
    let report = lab.podgate_json(&["replay", file, "--manifests", &manifests])?;
    let flows = report["flows"].as_array().context("the report has no flows")?;
    let requests = flows.iter().flat_map(|flow| flow["requests"].as_array().into_iter().flatten());
    let seen: BTreeSet<_> =
        requests.map(|request| format!("{} {}", request["path"], request["verdict"])).collect();
    let expected = [r#""/docs" "FORWARDED""#, r#""/secret" "DROPPED""#];
    ensure!(seen == expected.map(str::to_owned).into(), "{seen:?}");
    ensure!(Path::new(file).exists());
    Ok(())
}

#[test]
fn a_capture_ends_at_its_limits_and_has_only_what_was_asked_for() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let _agent = Agent::start(&lab, 1)?;
    let options = ["--pod", "backend/nginx", "--flow", "verdict=dropped", "--packets", "2"];
    let (mut capture, file) = start(&lab, "drops", &options)?;
    let outcome = get(&lab, "other/stranger", "backend/nginx", &Get::path("/docs"))?;
    ensure!(matches!(outcome, Outcome::NoAnswer), "{outcome:?}");
    get(&lab, "admin/adminapp", "backend/nginx", &Get::path("/docs"))?;
    let outcome = get(&lab, "other/stranger", "backend/nginx", &Get::path("/docs"))?;
    ensure!(matches!(outcome, Outcome::NoAnswer), "{outcome:?}");
    ensure!(capture.wait_exit(BOUND)?.success(), "{}", capture.log());
    ensure!(capture.log().contains("as many packets"), "{}", capture.log());
    let packets = tshark(&file, &["frame.comment"])?;
    ensure!(packets.len() == 2, "{packets:?}");
    ensure!(packets.iter().all(|packet| packet[0].contains("DROPPED")), "{packets:?}");
    // The time ends another one, which has no packets.
    let (mut capture, file) = start(&lab, "none", &["--pod", "backend/store", "--seconds", "1"])?;
    ensure!(capture.wait_exit(BOUND)?.success(), "{}", capture.log());
    ensure!(tshark(&file, &["frame.number"])?.is_empty());
    Ok(())
}
