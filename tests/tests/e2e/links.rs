//! Links that come and go under load.

use anyhow::Result;
use podgate_tests::lab::{Agent, Cut, Download, Family, Get, Lab, Outcome};
use podgate_tests::scenario::MANIFESTS;

#[test]
fn a_link_that_vanishes_under_load_disturbs_nobody_else_and_can_return() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let mut agent = Agent::start(&lab, 2)?;
    let (admin, office) = (lab.host("admin/adminapp")?, lab.host("office")?);
    let (user, store) = (lab.host("user/userapp")?, lab.host("backend/store")?);
    let _server = lab.serve(user, &[80])?;
    let doomed = Download::start(&lab, admin, store, 8080, Family::V4)?;
    let mut bystander = Download::start(&lab, admin, user, 80, Family::V6)?;

    lab.unplug(store)?;
    wait_for_state(&mut agent, &store.name, "gone")?;
    assert_eq!(doomed.wait_for_cut()?, Cut::Stalled);
    bystander.wait_for_more()?;

    lab.plug(store)?;
    lab.add_endpoint(store)?;
    wait_for_state(&mut agent, &store.name, "ready")?;
    for family in Family::BOTH {
        let get = Get { port: 8080, ..Get::path("/items") };
        let seen = get.fetch(office, store, family)?;
        assert!(matches!(seen, Outcome::Answer(ref answer) if answer.status == 200), "{seen:?}");
        let seen = get.fetch(user, store, family)?;
        assert_eq!(seen, Outcome::Silence, "the policy holds on the new link");
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
        lab.unplug(stranger)?;
        wait_for_state(&mut agent, &stranger.name, "gone")?;
        lab.plug(stranger)?;
        lab.add_endpoint(stranger)?;
        wait_for_state(&mut agent, &stranger.name, "ready")?;
        let seen = stranger.ping(admin, Family::V4)?;
        assert!(matches!(seen, Outcome::Echo(_)), "{seen:?}");
    }
    agent.assert_alive()
}

fn wait_for_state(agent: &mut Agent, pod: &str, state: &str) -> Result<()> {
    agent.wait_until(&format!("{pod} to be {state}"), |lab| {
        let list = lab.podgate_json(&["endpoint", "list"])?;
        let mut endpoints = list.as_array().into_iter().flatten();
        Ok(endpoints.any(|e| e["pod"] == pod && e["state"] == state).then_some(()))
    })
}
