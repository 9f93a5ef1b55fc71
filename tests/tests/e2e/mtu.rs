//! Large packets between pods, where podgate sets the MTU of their links.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use podgate_tests::lab::{Agent, Family, Host, Lab, Stream};
use podgate_tests::scenario::MANIFESTS;

/// MTUs of both ends of a pod's link, the node's end first.
fn mtus(lab: &Lab, pod: &Host) -> Result<[u64; 2]> {
    let mtu = |netns: &podgate_tests::lab::Netns, link: &str| {
        let links = netns.ip_json(&["link", "show", "dev", link])?;
        links[0]["mtu"].as_u64().context("no MTU")
    };
    Ok([mtu(&lab.node().netns, &pod.link)?, mtu(&pod.netns, "eth0")?])
}

/// Sends one echo request of `size` bytes with Don't Fragment set.
fn ping_unfragmented(from: &Host, to: &Host, family: Family, size: usize) -> Result<()> {
    let headers = if family == Family::V4 { 28 } else { 48 };
    let mut command: Command = from.netns.bounded("ping", std::time::Duration::from_secs(20));
    command.args(["-n", "-c", "1", "-W", "5", "-M", "do", "-s", &(size - headers).to_string()]);
    let output = command.arg(to.addresses.of(family).to_string()).output()?;
    ensure!(output.status.success(), "{size} bytes over {family}: {output:?}");
    Ok(())
}

#[test]
fn links_get_the_largest_mtu_and_carry_packets_of_that_size() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let mut agent = Agent::start_with(&lab, 2, &["--pod-mtu", "65535"])?;
    let (admin, user) = (lab.host("admin/adminapp")?, lab.host("user/userapp")?);
    for pod in lab.pods() {
        assert_eq!(mtus(&lab, pod)?, [65535; 2], "{}", pod.name);
    }
    for family in Family::BOTH {
        for size in [1500, 1501, 9000, 32_000, 65_000, 65_535] {
            ping_unfragmented(admin, user, family, size)?;
            ping_unfragmented(user, admin, family, size)?;
            ping_unfragmented(admin, lab.node(), family, size)?;
            // The kernel's routes have no larger MTU.
            ping_unfragmented(lab.node(), user, family, size.min(65_520))?;
        }
        let stream = Stream::start(admin, user, 5001, family)?;
        stream.wait_for_more()?;
        stream.finish()?;
    }
    agent.assert_alive()
}

/// Checksums stay incomplete between pods, and are completed for the node and for hosts outside,
/// whose TCP verifies them.
#[test]
fn pods_may_keep_their_tx_checksum_offload() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let mut agent = Agent::start_with(&lab, 2, &["--pod-checksums", "leave"])?;
    let (admin, user) = (lab.host("admin/adminapp")?, lab.host("user/userapp")?);
    for family in Family::BOTH {
        for to in [user, lab.host("office")?, lab.node()] {
            let stream = Stream::start(admin, to, 5001, family)?;
            stream.wait_for_more()?;
            stream.finish()?;
        }
    }
    // Thousands of segments of 1500 bytes were sent, and only SYNs were completed.
    let completed = lab.metric("podgate_worker_checksums_completed_total")?;
    assert!((1..1000).contains(&completed), "{completed} checksums completed");
    agent.assert_alive()
}

#[test]
fn an_endpoints_own_mtu_is_saved_and_set_on_a_recreated_link() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let agent = Agent::start(&lab, 1)?;
    let (admin, user) = (lab.host("admin/adminapp")?, lab.host("user/userapp")?);
    assert_eq!(mtus(&lab, admin)?, [1500; 2], "by default nothing is changed");
    let removed = lab.podgate(&["endpoint", "remove", "--link", &admin.link])?;
    assert!(removed.status.success(), "{removed:?}");
    let netns = admin.netns.path();
    let netns = netns.to_str().context("not UTF-8")?;
    let add = ["endpoint", "add", "--link", &admin.link, "--pod", &admin.name, "--netns", netns];
    let added = lab.podgate(&[&add[..], &["--mtu", "9000"]].concat())?;
    assert!(added.status.success(), "{added:?}");
    assert_eq!(mtus(&lab, admin)?, [9000; 2]);
    assert_eq!(mtus(&lab, user)?, [1500; 2]);
    agent.stop()?;

    let mut agent = Agent::restart(&lab, 1)?;
    lab.delete_link(admin)?;
    lab.wait_for_endpoint(admin, "gone")?;
    lab.create_link(admin)?;
    lab.wait_for_endpoint(admin, "ready")?;
    assert_eq!(mtus(&lab, admin)?, [9000; 2]);
    let rejected = lab.podgate(&[&add[..], &["--mtu", "65536"]].concat())?;
    let message = String::from_utf8_lossy(&rejected.stderr).into_owned();
    assert!(message.contains("a pod's MTU is 1280 to 65535 bytes, not 65536"), "{message}");
    agent.assert_alive()
}

#[test]
fn pods_with_a_large_mtu_reach_neighbours_with_1500() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let mut agent = Agent::start_with(&lab, 2, &["--pod-mtu", "65000"])?;
    let (admin, user) = (lab.host("admin/adminapp")?, lab.host("user/userapp")?);
    let office = lab.host("office")?;
    user.netns.ip("link set eth0 mtu 1500\n")?;
    let ends = [[admin, office], [office, admin], [admin, user], [user, admin]];
    for (port, [from, to]) in (5001..).zip(ends) {
        for family in Family::BOTH {
            let stream = Stream::start(from, to, port, family)?;
            stream.wait_for_more()?;
            stream.finish()?;
        }
    }
    agent.assert_alive()
}
