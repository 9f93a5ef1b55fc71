//! Resource limits that many endpoints need.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use podgate_tests::lab::{Daemon, Lab, output, program};
use podgate_tests::scenario::MANIFESTS;

const BOUND: Duration = Duration::from_secs(120);
const ENDPOINTS: usize = 200;

#[test]
fn two_hundred_endpoints_with_two_workers_start_under_default_resource_limits() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let node = &lab.node().netns;
    let link = |number| format!("link add m{number} type veth peer name n{number}\n");
    node.ip(&(0..ENDPOINTS).map(link).collect::<String>())?;
    let endpoint = |number| {
        let mac = format!("02:00:00:00:01:{number:02x}");
        format!("- {{link: m{number}, pod: many/m{number}, mac: \"{mac}\"}}\n")
    };
    let list: String = (0..ENDPOINTS).map(endpoint).collect();
    fs::write(lab.file("many.yaml"), format!("endpoints:\n{list}"))?;
    // Soft limits only: without CAP_SYS_RESOURCE, as in many containers, hard limits can't be
    // raised.
    let mut command = node.daemon("prlimit".as_ref());
    command.args(["--nofile=1024:", "--memlock=65536:"]).arg(program()?);
    command.arg("run").arg("--manifests").arg(lab.manifests());
    command.arg("--state-dir").arg(lab.state_dir()).arg("--lab").arg(lab.file("many.yaml"));
    command.args(["--workers", "2", "--max-endpoints", &ENDPOINTS.to_string()]);
    let mut daemon = Daemon::start("podgate", command, lab.file("podgate.log"))?;
    daemon.wait_until("podgate to be ready", BOUND, |_| {
        Ok(lab.podgate(&["status", "--brief"])?.status.success().then_some(()))
    })?;
    let list = lab.podgate_json(&["endpoint", "list"])?;
    let list = list.as_array().context("no list")?;
    let attached = list.iter().filter(|endpoint| endpoint["state"] == "waiting").count();
    assert_eq!(attached, ENDPOINTS, "{list:?}");
    let limits = fs::read_to_string(format!("/proc/{}/limits", daemon.pid()))?;
    assert!(limits.contains("Max open files            2092 "), "{limits}");
    Ok(())
}

#[test]
fn a_start_that_cannot_raise_a_limit_fails_with_advice_and_leaves_nothing_behind() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let links = lab.node().netns.ip_json(&["link"])?;
    for (limits, words) in [
        ("--nofile=1024:1024", ["--max-endpoints 199 with --workers 2 needs", "LimitNOFILE="]),
        ("--memlock=65536:65536", ["--frames 16384 needs", "LimitMEMLOCK="]),
    ] {
        let mut command = lab.node().netns.bounded("prlimit", Duration::from_secs(30));
        let caps = "-sys_resource,-ipc_lock";
        command.arg(limits).args(["setpriv", "--bounding-set", caps, "--inh-caps", caps]);
        command.arg(program()?).arg("run").arg("--manifests").arg(lab.manifests());
        command.arg("--state-dir").arg(lab.state_dir());
        command.args(["--workers", "2", "--max-endpoints", "199"]);
        let ended = output(&mut command)?;
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(1), "{said}");
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
        assert!(!lab.state_dir().exists());
    }
    assert_eq!(lab.node().netns.ip_json(&["link"])?, links);
    Ok(())
}
