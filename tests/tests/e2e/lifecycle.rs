//! Stop, kill, restart and cleanup of agents.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use podgate_tests::lab::{Agent, Family, Get, Host, Lab, Outcome, run};
use podgate_tests::scenario::{Expected, MANIFESTS, ROWS};
use serde_json::Value;

pub(crate) fn nothing_passes(lab: &Lab) -> Result<()> {
    let nginx = lab.host("backend/nginx")?;
    assert_eq!(Get::path("/docs").fetch(lab.node(), nginx, Family::V4)?, Outcome::NoAnswer);
    let (office, store) = (lab.host("office")?, lab.host("backend/store")?);
    let get = Get { port: 8080, ..Get::path("/items") };
    assert_eq!(get.fetch(office, store, Family::V6)?, Outcome::NoAnswer);
    nothing_passes_from_pods(lab)
}

/// The same without rows through the node's kernel, which may have no route to pods.
pub(crate) fn nothing_passes_from_pods(lab: &Lab) -> Result<()> {
    let (admin, nginx) = (lab.host("admin/adminapp")?, lab.host("backend/nginx")?);
    let stranger = lab.host("other/stranger")?;
    assert_eq!(Get::path("/docs").fetch(admin, nginx, Family::V4)?, Outcome::NoAnswer);
    assert_eq!(stranger.ping(admin, Family::V6)?, Outcome::NoAnswer);
    Ok(())
}

pub(crate) fn what_should_pass_passes(lab: &Lab) -> Result<()> {
    for row in ROWS.iter().filter(|row| row.expected != Expected::NoAnswer) {
        for (family, seen) in Family::BOTH.into_iter().zip(row.run_both(lab)?) {
            assert!(row.is_met_by(&seen), "{row} over {family}: {seen:?}");
        }
    }
    Ok(())
}

pub(crate) fn ready_endpoints(lab: &Lab) -> Result<usize> {
    let list = lab.podgate_json(&["endpoint", "list"])?;
    let endpoints = list.as_array().into_iter().flatten();
    Ok(endpoints.filter(|endpoint| endpoint["state"] == "ready").count())
}

/// Without an agent nothing passes; the next one attaches all endpoints again.
pub(crate) fn pods_are_cut_off_until_a_restart(lab: &Lab, workers: u16) -> Result<()> {
    nothing_passes(lab)?;
    let _agent = Agent::restart(lab, workers)?;
    assert_eq!(ready_endpoints(lab)?, lab.pods().count());
    what_should_pass_passes(lab)
}

#[test]
fn pods_are_cut_off_while_the_agent_is_stopped_and_attached_by_the_next() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let agent = Agent::start(&lab, 2)?;
    what_should_pass_passes(&lab)?;
    agent.stop()?;
    pods_are_cut_off_until_a_restart(&lab, 1)
}

#[test]
fn pods_are_cut_off_from_a_kill_of_the_agent_to_its_next_start() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let agent = Agent::start(&lab, 2)?;
    agent.kill()?;
    pods_are_cut_off_until_a_restart(&lab, 2)
}

#[test]
fn cleanup_restores_the_node() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let before = lab.node().netns.ip_json(&["-d", "link"])?;
    let routes = |lab: &Lab| -> Result<[Value; 2]> {
        let netns = &lab.node().netns;
        Ok([netns.ip_json(&["-4", "route"])?, netns.ip_json(&["-6", "route"])?])
    };
    let routes_before = routes(&lab)?;
    let offloads_before = offloads(&lab)?;
    Agent::start(&lab, 2)?.stop()?;
    assert_ne!(offloads(&lab)?, offloads_before);
    let output = lab.podgate(&["cleanup", "--state-dir", &lab.state_dir().to_string_lossy()])?;
    assert!(output.status.success(), "{output:?}");
    assert_eq!(offloads(&lab)?, offloads_before);
    assert!(!lab.state_dir().exists());
    assert_eq!(lab.node().netns.ip_json(&["-d", "link"])?, before);
    assert_eq!(routes(&lab)?, routes_before);
    lab.add_kernel_routes()?;
    what_should_pass_by_kernel(&lab)
}

/// After a cleanup no policy applies.
fn what_should_pass_by_kernel(lab: &Lab) -> Result<()> {
    let (stranger, nginx) = (lab.host("other/stranger")?, lab.host("backend/nginx")?);
    for family in Family::BOTH {
        let seen = Get::path("/secret").fetch(stranger, nginx, family)?;
        assert!(matches!(seen, Outcome::Answer(ref answer) if answer.status == 200), "{seen:?}");
    }
    Ok(())
}

#[test]
fn a_second_agent_on_the_same_state_directory_exits_and_the_first_keeps_running() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let mut agent = Agent::start(&lab, 1)?;
    let (manifests, state) = (lab.manifests(), lab.state_dir());
    let (manifests, state) = (manifests.to_string_lossy(), state.to_string_lossy());
    let second = lab.podgate(&["run", "--manifests", &manifests, "--state-dir", &state])?;
    assert_eq!(second.status.code(), Some(1), "{second:?}");
    agent.assert_alive()?;
    what_should_pass_passes(&lab)
}

/// TX checksum offload of the pods' ends by `ethtool`, by pod.
fn offloads(lab: &Lab) -> Result<Vec<(String, String)>> {
    let of = |pod: &Host| {
        let mut ethtool = pod.netns.bounded("ethtool", Duration::from_secs(10));
        Ok((pod.name.clone(), run(ethtool.args(["-k", "eth0"]))?))
    };
    lab.pods().map(of).collect()
}

#[test]
fn a_removed_pod_gets_its_checksum_offload_back_if_it_had_it() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let (admin, store) = (lab.host("admin/adminapp")?, lab.host("backend/store")?);
    let mut ethtool = store.netns.bounded("ethtool", Duration::from_secs(10));
    run(ethtool.args(["-K", "eth0", "tx", "off"]))?;
    let before = offloads(&lab)?;
    // It is saved over a restart.
    Agent::start(&lab, 1)?.stop()?;
    let _agent = Agent::restart(&lab, 1)?;
    for pod in [admin, store] {
        let removed = lab.podgate(&["endpoint", "remove", "--link", &pod.link])?;
        assert!(removed.status.success(), "{removed:?}");
    }
    let now = offloads(&lab)?;
    for (was, is) in before.iter().zip(&now) {
        let removed = [admin, store].iter().any(|pod| pod.name == was.0);
        assert_eq!(was == is, removed, "{}", was.0);
    }
    Ok(())
}

#[test]
fn cleanup_skips_and_lists_what_it_cannot_remove() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let offloads_before = offloads(&lab)?;
    Agent::start(&lab, 1)?.stop()?;
    let state = lab.state_dir();
    fs::create_dir(state.join("bpf/link-odd"))?;
    fs::write(state.join("notes.txt"), "somebody's")?;
    let aside = state.join("endpoints.json.bad-1");
    fs::create_dir(&aside)?;
    fs::write(aside.join("notes.txt"), "set aside")?;
    let cleanup = || lab.podgate(&["cleanup", "--state-dir", &state.to_string_lossy()]);
    let output = cleanup()?;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let listed = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(listed.contains("bpf/link-odd") && listed.contains("is not empty"), "{listed}");
    // Everything else is removed.
    assert!(!aside.exists(), "{listed}");
    assert_eq!(offloads(&lab)?, offloads_before);
    assert_eq!(links_of_podgate(&lab)?, 0);
    lab.add_kernel_routes()?;
    what_should_pass_by_kernel(&lab)?;
    fs::remove_dir(state.join("bpf/link-odd"))?;
    fs::remove_file(state.join("notes.txt"))?;
    assert!(cleanup()?.status.success());
    assert!(!state.exists());
    Ok(())
}

#[test]
fn cleanup_without_the_state_directory_succeeds_and_says_what_it_cannot_know() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let bpffs = lab.file("bpffs");
    fs::create_dir(&bpffs)?;
    mount(Some("bpf"), &bpffs, Some("bpf"), MsFlags::empty(), None::<&str>)?;
    let outcome = clean_up_by_pins(&lab, &bpffs.join("podgate"));
    umount2(&bpffs, MntFlags::MNT_DETACH)?;
    outcome
}

fn clean_up_by_pins(lab: &Lab, pins: &Path) -> Result<()> {
    let pins = pins.to_string_lossy();
    Agent::start_with(lab, 1, &["--bpffs", &pins])?.stop()?;
    let state = lab.state_dir();
    fs::remove_dir_all(&state)?;
    let options = ["cleanup", "--state-dir", &state.to_string_lossy(), "--bpffs", &pins];
    let output = lab.podgate(&options)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success() && said.contains("TX checksum offload may be off"), "{said}");
    assert_eq!(links_of_podgate(lab)?, 0);
    lab.add_kernel_routes()?;
    what_should_pass_by_kernel(lab)
}

/// Number of links among `pg-host` and `pg-xsk` that exist.
fn links_of_podgate(lab: &Lab) -> Result<usize> {
    let links = lab.node().netns.ip_json(&["link"])?;
    let names = links.as_array().into_iter().flatten().filter_map(|link| link["ifname"].as_str());
    Ok(names.filter(|name| ["pg-host", "pg-xsk"].contains(name)).count())
}

/// Runs an agent that must fail, and returns its error.
fn failing_agent(lab: &Lab, options: &[&str]) -> Result<String> {
    let output = lab.podgate(&[&["run"], options].concat())?;
    ensure!(output.status.code() == Some(1), "{output:?}");
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

fn has_mount_at(path: &Path) -> Result<bool> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    Ok(mounts.lines().any(|line| line.contains(&*path.to_string_lossy())))
}

#[test]
fn a_second_agent_that_fails_leaves_nothing_behind_and_the_first_keeps_running() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let mut agent = Agent::start(&lab, 1)?;
    let before = lab.node().netns.ip_json(&["-d", "link"])?;
    let (manifests, other) = (lab.manifests(), lab.file("other/deep/state"));
    let (manifests, state) = (manifests.to_string_lossy(), other.to_string_lossy());
    let missing = lab.file("missing").to_string_lossy().into_owned();
    for options in [
        &["--manifests", &*manifests][..],
        &["--manifests", &manifests, "--lab", &missing],
        &["--kubeconfig", &missing],
        &["--manifests", &missing],
    ] {
        let said = failing_agent(&lab, &[options, &["--state-dir", &state]].concat())?;
        assert!(!said.contains("can't be undone completely"), "{said}");
        assert!(!lab.file("other").exists() && !has_mount_at(&other)?, "{options:?}: {said}");
        assert_eq!(lab.node().netns.ip_json(&["-d", "link"])?, before);
    }
    agent.assert_alive()?;
    what_should_pass_passes(&lab)
}

#[test]
fn a_start_that_fails_at_one_endpoint_is_rolled_back() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let before = (lab.node().netns.ip_json(&["-d", "link"])?, offloads(&lab)?);
    let admin = lab.host("admin/adminapp")?;
    let list = format!(
        "endpoints:\n- {{link: {}, pod: {}, netns: {}}}\n- {{link: absent, pod: a/b, mac: \
         \"02:00:00:00:00:01\"}}\n",
        admin.link,
        admin.name,
        admin.netns.path().display()
    );
    fs::write(lab.file("bad.yaml"), list)?;
    let (manifests, state) = (lab.manifests(), lab.state_dir());
    let bad = lab.file("bad.yaml");
    let [manifests, bad, dir] = [&manifests, &bad, &state].map(|path| path.to_string_lossy());
    let options = ["--manifests", &manifests, "--lab", &bad, "--state-dir", &dir];
    let said = failing_agent(&lab, &options)?;
    assert!(said.contains("there is no link absent"), "{said}");
    assert!(!state.exists() && !has_mount_at(&state)?, "{said}");
    assert_eq!((lab.node().netns.ip_json(&["-d", "link"])?, offloads(&lab)?), before);
    // Pods that an earlier agent cut off stay cut off.
    Agent::start(&lab, 1)?.stop()?;
    failing_agent(&lab, &options)?;
    nothing_passes(&lab)?;
    let _agent = Agent::restart(&lab, 1)?;
    assert_eq!(ready_endpoints(&lab)?, lab.pods().count());
    Ok(())
}
