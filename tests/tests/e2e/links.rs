//! Links that are deleted and created under load.

use std::fs::File;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use podgate_tests::lab::{Agent, Download, Family, Get, Interruption, Lab, Outcome, wait_for};
use podgate_tests::scenario::MANIFESTS;

/// Timeout for all attempts to show that requests overtake one that hangs; one takes about 6 s.
const ATTEMPTS_BOUND: Duration = Duration::from_secs(60);

#[test]
fn a_link_deleted_under_load_disturbs_no_other_pod_and_can_return() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let mut agent = Agent::start(&lab, 2)?;
    let (admin, office) = (lab.host("admin/adminapp")?, lab.host("office")?);
    let (user, store) = (lab.host("user/userapp")?, lab.host("backend/store")?);
    let _server = lab.serve(user, &[80])?;
    let doomed = Download::start(&lab, admin, store, 8080, Family::V4)?;
    let mut bystander = Download::start(&lab, admin, user, 80, Family::V6)?;

    lab.delete_link(store)?;
    lab.wait_for_endpoint(store, "gone")?;
    assert_eq!(doomed.wait_for_interruption()?, Interruption::Stalled);
    bystander.wait_for_more()?;

    lab.create_link(store)?;
    lab.add_endpoint(store)?;
    lab.wait_for_endpoint(store, "ready")?;
    for family in Family::BOTH {
        let get = Get { port: 8080, ..Get::path("/items") };
        let seen = get.fetch(office, store, family)?;
        assert!(matches!(seen, Outcome::Answer(ref answer) if answer.status == 200), "{seen:?}");
        let seen = get.fetch(user, store, family)?;
        assert_eq!(seen, Outcome::NoAnswer, "the policy holds on the new link");
    }
    bystander.wait_for_more()?;
    agent.assert_alive()
}

#[test]
fn a_pods_link_can_be_attached_and_detached_many_times() -> Result<()> {
    const TIMES: usize = 20;
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let mut agent = Agent::start(&lab, 2)?;
    let (admin, stranger) = (lab.host("admin/adminapp")?, lab.host("other/stranger")?);
    for _ in 0..TIMES {
        lab.delete_link(stranger)?;
        lab.wait_for_endpoint(stranger, "gone")?;
        lab.create_link(stranger)?;
        lab.add_endpoint(stranger)?;
        lab.wait_for_endpoint(stranger, "ready")?;
        let seen = stranger.ping(admin, Family::V4)?;
        assert!(matches!(seen, Outcome::Echo(_)), "{seen:?}");
    }
    agent.assert_alive()
}

#[test]
fn a_hanging_namespace_path_delays_only_its_own_request() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let mut agent = Agent::start(&lab, 1)?;
    // Opening a FIFO blocks until it has a writer.
    let fifo = lab.file("netns-that-hangs");
    mkfifo(&fifo, Mode::S_IRWXU)?;
    let (stranger, user) = (lab.host("other/stranger")?, lab.host("user/userapp")?);
    let hanging = fifo.to_str().context("not UTF-8")?;
    let add = ["endpoint", "add", "--link", &stranger.link, "--pod", &stranger.name, "--netns"];
    let removed = lab.podgate(&["endpoint", "remove", "--link", &stranger.link])?;
    assert!(removed.status.success(), "{removed:?}");
    // The agent fails the request that hangs after 5 s. On a busy machine the other requests may
    // take longer than that in one attempt; if they had to wait for it, they would in every one.
    wait_for("requests that are answered while another one hangs", ATTEMPTS_BOUND, || {
        let overtaken = std::thread::scope(|scope| {
            let hangs = scope.spawn(|| lab.podgate(&[&add[..], &[hanging]].concat()));
            agent.wait_for_hanging_open()?;
            lab.podgate_json(&["status"])?;
            let removed = lab.podgate(&["endpoint", "remove", "--link", &user.link])?;
            assert!(removed.status.success(), "{removed:?}");
            lab.add_endpoint(user)?;
            lab.wait_for_endpoint(user, "ready")?;
            let overtaken = !hangs.is_finished();
            let failed = hangs.join().map_err(|_| anyhow::anyhow!("the client panicked"))??;
            let message = String::from_utf8_lossy(&failed.stderr);
            assert!(message.contains("took longer than 5 s"), "{message}");
            anyhow::Ok(overtaken)
        })?;
        // A writer ends the open, so that each attempt blocks a thread of its own.
        File::options().write(true).open(&fifo)?;
        Ok(overtaken.then_some(()))
    })?;
    lab.add_endpoint(stranger)?;
    lab.wait_for_endpoint(stranger, "ready")?;
    agent.assert_alive()
}
