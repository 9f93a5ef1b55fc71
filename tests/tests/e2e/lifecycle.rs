//! Agents that stop, die and come back.

use anyhow::Result;
use podgate_tests::lab::{Agent, Family, Get, Lab, Outcome};
use podgate_tests::scenario::{Expected, MANIFESTS, ROWS};
use serde_json::Value;

fn nothing_passes(lab: &Lab) -> Result<()> {
    let (admin, nginx) = (lab.host("admin/adminapp")?, lab.host("backend/nginx")?);
    let (stranger, store) = (lab.host("other/stranger")?, lab.host("backend/store")?);
    assert_eq!(Get::path("/docs").fetch(admin, nginx, Family::V4)?, Outcome::Silence);
    assert_eq!(Get::path("/docs").fetch(lab.node(), nginx, Family::V4)?, Outcome::Silence);
    assert_eq!(stranger.ping(admin, Family::V6)?, Outcome::Silence);
    let get = Get { port: 8080, ..Get::path("/items") };
    assert_eq!(get.fetch(lab.host("office")?, store, Family::V6)?, Outcome::Silence);
    Ok(())
}

fn what_should_pass_passes(lab: &Lab) -> Result<()> {
    for row in ROWS.iter().filter(|row| row.expected != Expected::Silence) {
        for (family, seen) in Family::BOTH.into_iter().zip(row.play_both(lab)?) {
            assert!(row.is_met_by(&seen), "{row} over {family}: {seen:?}");
        }
    }
    Ok(())
}

fn ready_endpoints(lab: &Lab) -> Result<usize> {
    let list = lab.podgate_json(&["endpoint", "list"])?;
    let endpoints = list.as_array().into_iter().flatten();
    Ok(endpoints.filter(|endpoint| endpoint["state"] == "ready").count())
}

#[test]
fn while_the_agent_is_stopped_pods_are_cut_off_and_it_returns_to_its_endpoints() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let agent = Agent::start(&lab, 2)?;
    what_should_pass_passes(&lab)?;
    agent.stop()?;
    nothing_passes(&lab)?;
    let _agent = Agent::restart(&lab, 1)?;
    assert_eq!(ready_endpoints(&lab)?, lab.pods().count());
    what_should_pass_passes(&lab)
}

#[test]
fn when_the_agent_is_killed_pods_are_cut_off_until_it_is_started_again() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let agent = Agent::start(&lab, 2)?;
    agent.kill()?;
    nothing_passes(&lab)?;
    let _agent = Agent::restart(&lab, 2)?;
    assert_eq!(ready_endpoints(&lab)?, lab.pods().count());
    what_should_pass_passes(&lab)
}

#[test]
fn cleanup_leaves_the_node_as_it_was() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let before = lab.node().netns.ip_json(&["-d", "link"])?;
    let routes = |lab: &Lab| -> Result<[Value; 2]> {
        let netns = &lab.node().netns;
        Ok([netns.ip_json(&["-4", "route"])?, netns.ip_json(&["-6", "route"])?])
    };
    let routes_before = routes(&lab)?;
    Agent::start(&lab, 2)?.stop()?;
    let output = lab.podgate(&["cleanup", "--state-dir", &lab.state_dir().to_string_lossy()])?;
    assert!(output.status.success(), "{output:?}");
    assert_eq!(lab.node().netns.ip_json(&["-d", "link"])?, before);
    assert_eq!(routes(&lab)?, routes_before);
    lab.route_by_kernel()?;
    what_should_pass_by_kernel(&lab)
}

/// With podgate gone, policy is gone.
fn what_should_pass_by_kernel(lab: &Lab) -> Result<()> {
    let (stranger, nginx) = (lab.host("other/stranger")?, lab.host("backend/nginx")?);
    for family in Family::BOTH {
        let seen = Get::path("/secret").fetch(stranger, nginx, family)?;
        assert!(matches!(seen, Outcome::Answer(ref answer) if answer.status == 200), "{seen:?}");
    }
    Ok(())
}

#[test]
fn a_second_agent_on_the_same_state_ends_at_once_and_the_first_goes_on() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let mut agent = Agent::start(&lab, 1)?;
    let (manifests, state) = (lab.manifests(), lab.state_dir());
    let (manifests, state) = (manifests.to_string_lossy(), state.to_string_lossy());
    let second = lab.podgate(&["run", "--manifests", &manifests, "--state-dir", &state])?;
    assert_eq!(second.status.code(), Some(1), "{second:?}");
    agent.assert_alive()?;
    what_should_pass_passes(&lab)
}
