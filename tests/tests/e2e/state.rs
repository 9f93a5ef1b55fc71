//! Damage to and removal of the agent's state on disk.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use podgate_tests::lab::{Agent, Family, Get, Lab, Outcome, wait_for};
use podgate_tests::scenario::MANIFESTS;
use serde_json::Value;

use crate::lifecycle::{
    nothing_passes_from_pods, pods_are_cut_off_until_a_restart, ready_endpoints,
    what_should_pass_passes,
};

const BOUND: Duration = Duration::from_secs(20);
const LISTS: [&str; 2] = ["endpoints.json", "endpoints.copy.json"];

fn problems(lab: &Lab) -> Result<String> {
    let status = lab.podgate_json(&["status"])?;
    let problems = status["problems"].as_array().context("status has no problems")?;
    let lines: Vec<_> = problems.iter().filter_map(Value::as_str).collect();
    Ok(lines.join("\n"))
}

/// Whether any file in the state directory begins with `name`.
fn has_file(lab: &Lab, name: &str) -> Result<bool> {
    let mut names = fs::read_dir(lab.state_dir())?.map(|entry| Ok(entry?.file_name()));
    let is_it = |found: &std::ffi::OsString| found.to_string_lossy().starts_with(name);
    names.try_fold(false, |any, found: Result<_>| Ok(any || is_it(&found?)))
}

#[test]
fn with_both_endpoint_lists_damaged_pods_stay_cut_off_until_added_again() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    Agent::start(&lab, 2)?.stop()?;
    fs::write(lab.state_dir().join(LISTS[0]), "{\"version\":1,\"endp")?;
    fs::write(lab.state_dir().join(LISTS[1]), "{\"version\":99,\"endpoints\":[]}")?;
    let mut agent = Agent::restart(&lab, 2)?;
    let said = problems(&lab)?;
    for name in LISTS {
        assert!(said.contains(&format!("{name}.bad-")), "{said}");
        assert!(has_file(&lab, &format!("{name}.bad-"))?);
    }
    assert!(said.contains("its version is 99, not 1"), "{said}");
    let list = lab.podgate_json(&["endpoint", "list"])?;
    let list = list.as_array().context("no list")?;
    assert_eq!(list.len(), lab.pods().count());
    for endpoint in list {
        assert_eq!((&endpoint["pod"], &endpoint["state"]), (&Value::Null, &"waiting".into()));
    }
    nothing_passes_from_pods(&lab)?;
    let from_node = Get::path("/docs").fetch(lab.node(), lab.host("backend/nginx")?, Family::V4)?;
    ensure!(matches!(from_node, Outcome::NoAnswer | Outcome::Failure(_)), "{from_node:?}");
    for pod in lab.pods() {
        // Twice, as by a CNI plugin that got no answer.
        lab.add_endpoint(pod)?;
        lab.add_endpoint(pod)?;
    }
    assert_eq!(ready_endpoints(&lab)?, lab.pods().count());
    what_should_pass_passes(&lab)?;
    assert!(!problems(&lab)?.contains("cut off"));
    agent.assert_alive()?;
    agent.stop()?;
    let _agent = Agent::restart(&lab, 1)?;
    assert_eq!((ready_endpoints(&lab)?, problems(&lab)?), (lab.pods().count(), String::new()));
    Ok(())
}

#[test]
fn an_endpoint_of_an_unknown_pod_can_be_removed_or_disappear() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    Agent::start(&lab, 1)?.stop()?;
    LISTS.iter().try_for_each(|name| fs::remove_file(lab.state_dir().join(name)))?;
    let mut agent = Agent::restart(&lab, 1)?;
    let (stranger, store) = (lab.host("other/stranger")?, lab.host("backend/store")?);
    assert_eq!(stranger.ping(lab.node(), Family::V4)?, Outcome::NoAnswer);
    let removed = lab.podgate(&["endpoint", "remove", "--link", &stranger.link])?;
    assert!(removed.status.success(), "{removed:?}");
    lab.node().netns.ip(&format!("route add {} dev {}\n", stranger.addresses.v4, stranger.link))?;
    let seen = stranger.ping(lab.node(), Family::V4)?;
    assert!(matches!(seen, Outcome::Echo(_)), "no policy applies any more: {seen:?}");
    lab.delete_link(store)?;
    wait_for("the link to be forgotten", BOUND, || {
        let list = lab.podgate_json(&["endpoint", "list"])?;
        let left = list.as_array().into_iter().flatten();
        let left = left.filter(|endpoint| endpoint["link"] == store.link.as_str()).count();
        Ok((left == 0).then_some(()))
    })?;
    assert_eq!(pins(&lab)?, lab.pods().count() - 2 + 1, "the others' and the host link's");
    agent.assert_alive()
}

/// Number of pinned BPF links.
fn pins(lab: &Lab) -> Result<usize> {
    let names = fs::read_dir(lab.state_dir().join("bpf"))?.map(|entry| Ok(entry?.file_name()));
    let names = names.collect::<Result<Vec<_>>>()?;
    let index = |name: &std::ffi::OsString| {
        let name = name.to_str()?.strip_prefix("link-")?.to_owned();
        Some(name.split('-').next()?.to_owned())
    };
    let links: std::collections::BTreeSet<_> = names.iter().filter_map(index).collect();
    Ok(links.len())
}

#[test]
fn a_damaged_endpoint_list_is_replaced_by_its_copy_and_reported_by_status_only() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    Agent::start(&lab, 2)?.kill()?;
    // A valid but wrong name: another pod's policy would apply.
    let list = lab.state_dir().join(LISTS[0]);
    let swapped = fs::read_to_string(&list)?.replace("other/stranger", "admin/adminapq");
    fs::write(&list, swapped)?;
    let _agent = Agent::restart(&lab, 1)?;
    assert_eq!(ready_endpoints(&lab)?, lab.pods().count());
    let said = problems(&lab)?;
    assert!(said.contains("its checksum is wrong") && said.contains(LISTS[1]), "{said}");
    what_should_pass_passes(&lab)
}

fn remove_tree(state: &Path, unmount: bool) -> Result<()> {
    if unmount {
        umount2(&state.join("bpf"), MntFlags::MNT_DETACH)?;
        return Ok(fs::remove_dir_all(state)?);
    }
    // As `rm -rf` does, which can't remove a mount point.
    for entry in fs::read_dir(state.join("bpf"))? {
        let _ = fs::remove_file(entry?.path());
    }
    for entry in fs::read_dir(state)? {
        let _ = fs::remove_file(entry?.path());
    }
    Ok(())
}

#[test]
fn a_removed_state_directory_is_recreated_with_its_contents() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let mut agent = Agent::start(&lab, 2)?;
    let all = lab.pods().count() + 1;
    for unmount in [false, true] {
        remove_tree(&lab.state_dir(), unmount)?;
        agent.wait_until("the state directory's files", |lab| {
            let there = LISTS.iter().all(|name| lab.state_dir().join(name).exists());
            let there = there && pins(lab).is_ok_and(|pins| pins == all);
            let answers = lab.podgate(&["status", "--brief"])?.status.success();
            let flows = lab.podgate(&["flows", "--last", "1"])?.status.success();
            Ok((there && answers && flows).then_some(()))
        })?;
        assert_eq!(problems(&lab)?, "");
    }
    // Without the agent pods are cut off, and the next one attaches them again.
    agent.kill()?;
    pods_are_cut_off_until_a_restart(&lab, 2)
}

#[test]
fn an_endpoint_that_cannot_be_saved_is_in_force_and_saved_once_there_is_space() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let state = lab.state_dir();
    fs::create_dir(&state)?;
    mount(Some("tmpfs"), &state, Some("tmpfs"), MsFlags::empty(), Some("size=64k,mode=0700"))?;
    let outcome = with_a_full_disk(&lab);
    let _ = lab.podgate(&["cleanup", "--state-dir", &state.to_string_lossy()]);
    umount2(&state, MntFlags::MNT_DETACH)?;
    outcome
}

#[test]
fn an_agent_starts_on_a_read_only_state_directory_and_writes_once_it_can() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let state = lab.state_dir();
    fs::create_dir(&state)?;
    mount(Some("tmpfs"), &state, Some("tmpfs"), MsFlags::empty(), Some("mode=0700"))?;
    let outcome = on_a_read_only_directory(&lab);
    let _ = lab.podgate(&["cleanup", "--state-dir", &state.to_string_lossy()]);
    umount2(&state, MntFlags::MNT_DETACH)?;
    outcome
}

fn on_a_read_only_directory(lab: &Lab) -> Result<()> {
    let (state, socket) = (lab.state_dir(), lab.file("elsewhere.sock"));
    let remount = |flags| mount(None::<&str>, &state, None::<&str>, flags, None::<&str>);
    Agent::start(lab, 1)?.stop()?;
    let ready = lab.pods().count();
    fs::remove_file(state.join(LISTS[1]))?;
    // Clients follow it.
    symlink(&socket, state.join("podgate.sock"))?;
    fs::set_permissions(&state, Permissions::from_mode(0o755))?;
    remount(MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY)?;
    let (manifests, dir) = (lab.manifests(), state.to_string_lossy());
    let failed =
        lab.podgate(&["run", "--manifests", &manifests.to_string_lossy(), "--state-dir", &dir])?;
    let said = String::from_utf8_lossy(&failed.stderr);
    assert!(said.contains("Read-only file system") && said.contains("--control-socket"), "{said}");
    let mut agent = Agent::start_bare(lab, 1, &["--control-socket", &socket.to_string_lossy()])?;
    assert_eq!(ready_endpoints(lab)?, ready);
    let said = problems(lab)?;
    assert!(said.contains("endpoints.json: Read-only file system"), "{said}");
    assert!(lab.metric("podgate_state_write_errors_total")? > 0);
    remount(MsFlags::MS_REMOUNT)?;
    agent.wait_until("the lists to be written", |lab| {
        Ok((state.join(LISTS[1]).exists() && problems(lab)?.is_empty()).then_some(()))
    })?;
    agent.wait_until("the directory to be its owner's only", |_| {
        Ok((fs::metadata(&state)?.mode() & 0o7777 == 0o700).then_some(()))
    })?;
    agent.stop()
}

fn with_a_full_disk(lab: &Lab) -> Result<()> {
    let state = lab.state_dir();
    let mut agent = Agent::start_bare(lab, 1, &[])?;
    let filler = state.join("filler");
    assert!(fs::write(&filler, vec![0; 128 << 10]).is_err(), "the disk is full now");
    let stranger = lab.host("other/stranger")?;
    lab.add_endpoint(stranger)?;
    lab.wait_for_endpoint(stranger, "ready")?;
    let said = problems(lab)?;
    assert!(said.contains("endpoints.json: No space left on device"), "{said}");
    fs::remove_file(&filler)?;
    agent.wait_until("the list to be written", |lab| {
        let written = fs::read_to_string(lab.state_dir().join(LISTS[1]))?;
        Ok((written.contains("other/stranger") && problems(lab)?.is_empty()).then_some(()))
    })?;
    // A file system that became read-only.
    let remount = |flags| mount(None::<&str>, &state, None::<&str>, flags, None::<&str>);
    remount(MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY)?;
    let store = lab.host("backend/store")?;
    lab.add_endpoint(store)?;
    assert!(problems(lab)?.contains("Read-only file system"));
    lab.wait_for_endpoint(store, "ready")?;
    assert!(lab.metric("podgate_state_write_errors_total")? > 0);
    remount(MsFlags::MS_REMOUNT)?;
    agent
        .wait_until("the list to be written", |lab| Ok(problems(lab)?.is_empty().then_some(())))?;
    agent.stop()?;
    let _agent = Agent::restart(lab, 1)?;
    assert_eq!(ready_endpoints(lab)?, 2);
    Ok(())
}
