//! Traffic between pods and the node itself, through `pg-host`.

use anyhow::Result;
use podgate_tests::lab::{Agent, Family, Get, Lab, Outcome};
use podgate_tests::scenario::MANIFESTS;

#[test]
fn a_pod_reaches_a_server_on_the_node_and_the_node_reaches_pods() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let _server = lab.serve(lab.node(), &[8000])?;
    let _agent = Agent::start(&lab, 2)?;
    let (node, store) = (lab.node(), lab.host("backend/store")?);
    for family in Family::BOTH {
        let get = Get { port: 8000, ..Get::path("/healthz") };
        let seen = get.fetch(lab.host("user/userapp")?, node, family)?;
        assert_answered_by(&seen, &get.expected_body("node"));
        // The store's policy doesn't list the node, which is always allowed: its identity is host.
        let get = Get { port: 9090, ..Get::path("/probe") };
        assert_answered_by(&get.fetch(node, store, family)?, &get.expected_body(&store.name));
    }
    Ok(())
}

fn assert_answered_by(seen: &Outcome, body: &str) {
    assert!(
        matches!(seen, Outcome::Answer(answer) if answer.status == 200 && answer.body == body),
        "{seen:?}"
    );
}
