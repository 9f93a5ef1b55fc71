//! Changes that others make to the node's network configuration while the agent runs.

use std::time::Duration;

use anyhow::{Context, Result};
use podgate_tests::lab::{Agent, Family, Host, Lab, Netns, Outcome, Stream, wait_for};
use podgate_tests::scenario::MANIFESTS;
use serde_json::Value;

const BOUND: Duration = Duration::from_secs(20);

/// Waits until `from` gets an answer from `to`.
fn wait_for_echo(from: &Host, to: &Host, family: Family) -> Result<()> {
    wait_for(&format!("{} to answer {} over {family}", to.name, from.name), BOUND, || {
        Ok(matches!(from.ping(to, family)?, Outcome::Echo(_)).then_some(()))
    })
}

/// The node's route to a pod through `pg-host`.
fn our_route(lab: &Lab, pod: &Host, family: Family) -> Result<Option<Value>> {
    let version = if family == Family::V4 { "-4" } else { "-6" };
    let routes = lab.node().netns.ip_json(&[version, "route", "show", "dev", "pg-host"])?;
    let address = pod.addresses.of(family).to_string();
    Ok(routes.as_array().into_iter().flatten().find(|route| route["dst"] == address).cloned())
}

fn route_mtu(lab: &Lab, pod: &Host, family: Family) -> Result<Option<u64>> {
    Ok(our_route(lab, pod, family)?.and_then(|route| route["metrics"][0]["mtu"].as_u64()))
}

#[test]
fn a_changed_pod_mac_is_adopted_without_disturbing_others() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let mut agent = Agent::start(&lab, 2)?;
    let (admin, user) = (lab.host("admin/adminapp")?, lab.host("user/userapp")?);
    let stranger = lab.host("other/stranger")?;
    let of_the_changed = Stream::start(user, admin, 5001, Family::V4)?;
    let of_others = Stream::start(stranger, user, 5002, Family::V6)?;
    for last in 1..=5 {
        admin.netns.ip(&format!("link set eth0 address 02:00:00:00:77:{last:02x}\n"))?;
        for family in Family::BOTH {
            wait_for_echo(admin, user, family)?;
            wait_for_echo(user, admin, family)?;
        }
        of_the_changed.wait_for_more()?;
    }
    // The old MAC address is spoofed now.
    let before = lab.drops("spoofed_source")?;
    let mut frame = [0; 60];
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0x77, 1]);
    frame[12..14].copy_from_slice(&[0x08, 0x00]);
    frame[14..].copy_from_slice(&udp_packet(admin, user)?[..46]);
    admin.inject([&frame[..]].into_iter())?;
    wait_for("the drop", BOUND, || Ok((lab.drops("spoofed_source")? > before).then_some(())))?;
    of_the_changed.finish()?;
    of_others.finish()?;
    agent.assert_alive()
}

/// An IPv4 packet of 46 bytes.
fn udp_packet(from: &Host, to: &Host) -> Result<Vec<u8>> {
    let (source, destination) = (from.addresses.v4.octets(), to.addresses.v4.octets());
    let builder = etherparse::PacketBuilder::ipv4(source, destination, 64).udp(4000, 4000);
    let mut packet = Vec::new();
    builder.write(&mut packet, &[0; 18])?;
    Ok(packet)
}

#[test]
fn a_changed_mtu_of_either_end_of_a_pods_link_is_adopted() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let mut agent = Agent::start(&lab, 1)?;
    let admin = lab.host("admin/adminapp")?;
    let host_end = format!("link set {} mtu 1380\n", admin.link);
    let changes = [
        (&admin.netns, "link set eth0 mtu 1400\n".to_owned(), 1400),
        (&lab.node().netns, host_end, 1380),
        (&admin.netns, "link set eth0 mtu 9000\n".to_owned(), 1380),
        (&lab.node().netns, format!("link set {} mtu 8000\n", admin.link), 8000),
    ];
    for (netns, change, expected) in changes {
        netns.ip(&change)?;
        for family in Family::BOTH {
            agent.wait_until(&format!("the MTU {expected} over {family}"), |lab| {
                Ok((route_mtu(lab, admin, family)? == Some(expected)).then_some(()))
            })?;
        }
    }
    Ok(())
}

#[test]
fn a_recreated_link_is_attached_again_under_policy() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let mut agent = Agent::start(&lab, 2)?;
    let (admin, stranger) = (lab.host("admin/adminapp")?, lab.host("other/stranger")?);
    let store = lab.host("backend/store")?;
    let bystander = Stream::start(admin, lab.host("user/userapp")?, 5001, Family::V4)?;
    for _ in 0..3 {
        lab.delete_link(store)?;
        lab.wait_for_endpoint(store, "gone")?;
        lab.create_link(store)?;
        lab.wait_for_endpoint(store, "ready")?;
        wait_for_echo(store, admin, Family::V6)?;
        assert_eq!(stranger.ping(store, Family::V4)?, Outcome::NoAnswer, "policy holds");
    }
    bystander.finish()?;
    agent.assert_alive()
}

/// The node was rebooted, or the network plugin was not asked to remove the link of the sandbox
/// before.
#[test]
fn a_pod_whose_link_is_gone_may_be_added_with_another() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let mut agent = Agent::start(&lab, 1)?;
    let (admin, store) = (lab.host("admin/adminapp")?, lab.host("backend/store")?);
    let netns = store.netns.path().display().to_string();
    let add = ["endpoint", "add", "--link", "again", "--pod", &store.name, "--netns", &netns];
    let early = lab.podgate(&add)?;
    let error = String::from_utf8(early.stderr)?;
    assert!(!early.status.success() && error.contains("remove it first"), "{error}");
    lab.delete_link(store)?;
    lab.wait_for_endpoint(store, "gone")?;
    lab.create_link_named(store, "again")?;
    let added = lab.podgate(&add)?;
    assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
    wait_for_echo(store, admin, Family::V6)?;
    let list = lab.podgate_json(&["endpoint", "list"])?;
    let endpoints = list.as_array().into_iter().flatten();
    let links: Vec<_> = endpoints.filter(|e| e["pod"] == *store.name).map(|e| &e["link"]).collect();
    assert_eq!(links, ["again"]);
    agent.assert_alive()
}

#[test]
fn a_pod_is_cut_off_while_its_end_is_outside_its_namespace() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let mut agent = Agent::start(&lab, 1)?;
    let admin = lab.host("admin/adminapp")?;
    let elsewhere = Netns::create("elsewhere")?;
    admin.netns.ip(&format!("link set eth0 netns {}\n", elsewhere.name()))?;
    lab.wait_for_endpoint(admin, "waiting")?;
    let list = lab.podgate_json(&["endpoint", "list"])?;
    let mut endpoints = list.as_array().into_iter().flatten();
    let reason = endpoints.find(|e| e["pod"] == admin.name.as_str()).map(|e| &e["reason"]);
    let reason = reason.and_then(Value::as_str).context("no reason")?;
    assert!(reason.contains("doesn't hold the other end of link"), "{reason}");
    elsewhere.ip(&format!("link set eth0 netns {}\n", admin.netns.name()))?;
    lab.wait_for_endpoint(admin, "ready")?;
    agent.assert_alive()
}

#[test]
fn deleted_routes_to_pods_are_restored() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let mut agent = Agent::start(&lab, 1)?;
    let admin = lab.host("admin/adminapp")?;
    let node = &lab.node().netns;
    for change in [
        format!("route del {} dev pg-host\n", admin.addresses.v4),
        format!("route del {} dev pg-host\n", admin.addresses.v6),
        // The kernel deletes the routes of a link that goes down, without a notification.
        "link set pg-host down\n".to_owned(),
        "link set pg-xsk down\n".to_owned(),
        "link set pg-host address 02:00:00:00:99:01\n".to_owned(),
    ] {
        node.ip(&change)?;
        for family in Family::BOTH {
            agent.wait_until(&format!("the {family} route after {change}"), |lab| {
                Ok(our_route(lab, admin, family)?.map(drop))
            })?;
            wait_for_echo(lab.node(), admin, family)?;
        }
    }
    Ok(())
}

#[test]
fn the_smallest_uplink_mtu_is_adopted() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let mut agent = Agent::start(&lab, 1)?;
    let (node, office) = (&lab.node().netns, lab.host("office")?);
    let mut wait = |expected: u64| {
        agent.wait_until(&format!("a path MTU of {expected}"), |lab| {
            Ok((lab.metric("podgate_path_mtu_bytes")? == expected).then_some(()))
        })
    };
    wait(1500)?;
    node.ip("link set out-office mtu 1400\n")?;
    wait(1400)?;
    // A link without routes is no uplink.
    node.ip("link add way-t type veth peer name way-u\n\
         link set way-t mtu 1300 up\n")?;
    node.ip(&format!("route change {} dev out-office scope link mtu 1350\n", office.addresses.v4))?;
    wait(1350)?;
    node.ip("route add 198.51.100.0/24 dev way-t\n")?;
    wait(1300)?;
    node.ip("link del way-t\n")?;
    wait(1350)?;
    node.ip("link set out-office down\nlink set out-guest down\n")?;
    wait(0)
}

#[test]
fn after_a_netlink_overrun_everything_is_reconciled() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let mut agent = Agent::start(&lab, 1)?;
    let (admin, user) = (lab.host("admin/adminapp")?, lab.host("user/userapp")?);
    let (store, node) = (lab.host("backend/store")?, &lab.node().netns);
    agent.suspend()?;
    // Far more changes than a netlink socket's buffer holds, on the node and in a pod; the changes
    // that are checked come last.
    let flap = |link: &str, times: u32| -> String {
        let once = |nth| format!("link set {link} mtu {}\n", 1400 + nth % 2);
        (0..times).map(once).collect()
    };
    node.ip(&flap("out-guest", 1000))?;
    user.netns.ip(&flap("eth0", 1000))?;
    admin.netns.ip("link set eth0 address 02:00:00:00:77:01\nlink set eth0 mtu 1444\n")?;
    node.ip(&format!("route del {} dev pg-host\n", user.addresses.v4))?;
    node.ip("link set out-office mtu 1333\naddr add 192.0.2.77/32 dev lo\n")?;
    lab.delete_link(store)?;
    lab.create_link(store)?;
    agent.resume()?;
    agent.wait_until("the MTU of the pod's link", |lab| {
        Ok((route_mtu(lab, admin, Family::V4)? == Some(1444)).then_some(()))
    })?;
    agent.wait_until("the path MTU", |lab| {
        Ok((lab.metric("podgate_path_mtu_bytes")? == 1333).then_some(()))
    })?;
    agent.wait_until("the route", |lab| Ok(our_route(lab, user, Family::V4)?.map(drop)))?;
    wait_for_echo(admin, user, Family::V4)?;
    wait_for_echo(user, admin, Family::V6)?;
    lab.wait_for_endpoint(store, "ready")?;
    wait_for_echo(store, admin, Family::V4)?;
    agent.assert_alive()
}
