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
    lab.wait_for_endpoint(store, "gone")?;
    assert_eq!(doomed.wait_for_cut()?, Cut::Stalled);
    bystander.wait_for_more()?;

    lab.plug(store)?;
    lab.add_endpoint(store)?;
    lab.wait_for_endpoint(store, "ready")?;
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
        lab.wait_for_endpoint(stranger, "gone")?;
        lab.plug(stranger)?;
        lab.add_endpoint(stranger)?;
        lab.wait_for_endpoint(stranger, "ready")?;
        let seen = stranger.ping(admin, Family::V4)?;
        assert!(matches!(seen, Outcome::Echo(_)), "{seen:?}");
    }
    agent.assert_alive()
}
