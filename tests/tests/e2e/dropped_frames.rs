//! Frames that podgate's programs in the kernel drop have flow records, with reason and pod.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use etherparse::PacketBuilder;
use podgate_tests::lab::{Agent, Host, Lab, wait_for};
use serde_json::Value;

use crate::cut_off::{attach, bridged_lab};
use crate::spoof::gratuitous_arp;

const BOUND: Duration = Duration::from_secs(10);

/// The records of drops for `reason`, once there are at least `count`.
fn records(lab: &Lab, reason: &str, count: usize) -> Result<Vec<Value>> {
    wait_for(reason, BOUND, || {
        let mut records = lab.podgate_json_lines(&["flows", "--last", "4096"])?;
        records.retain(|record| record["drop_reason"] == reason);
        Ok((records.len() >= count).then_some(records))
    })
}

/// The drops of a pod as `podgate observe` reads them from Hubble's API.
fn observed(lab: &Lab, pod: &[&str]) -> Result<Vec<Value>> {
    let arguments = [&["observe", "--all", "-t", "drop", "-o", "json"], pod].concat();
    let printed = lab.podgate(&arguments)?;
    let errors = String::from_utf8_lossy(&printed.stderr);
    ensure!(printed.status.success(), "{arguments:?}: {errors}");
    let parse = |line: &str| serde_json::from_str(line).with_context(|| format!("{line:?}"));
    String::from_utf8(printed.stdout)?.lines().map(parse).collect()
}

/// A flow to or from a pod without addresses: Hubble's reason, MAC addresses, direction, text.
fn known(flow: &Value) -> [&str; 5] {
    let flow = &flow["flow"];
    [
        &flow["drop_reason_desc"],
        &flow["ethernet"]["source"],
        &flow["ethernet"]["destination"],
        &flow["traffic_direction"],
        &flow["Summary"],
    ]
    .map(|field| field.as_str().unwrap_or_default())
}

fn text([a, b, c, d, e, f]: [u8; 6]) -> String {
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

fn inject(from: &Host, frames: &[Vec<u8>]) -> Result<()> {
    from.inject(frames.iter().map(Vec::as_slice)).map(drop)
}

#[test]
fn a_frame_that_a_program_drops_has_a_record_with_reason_and_pod() -> Result<()> {
    let attached = ["user/userapp"];
    let lab = bridged_lab(&attached)?;
    let mut agent = Agent::start_bare(&lab, 2, &[])?;
    attach(&lab, &attached)?;
    let (user, stranger) = (lab.host("user/userapp")?, lab.host("other/stranger")?);
    let (own, other) = (user.mac("eth0")?, stranger.mac("eth0")?);
    let frame = |destination: [u8; 6], source: [u8; 6], ethertype: [u8; 2]| {
        [&destination[..], &source, &ethertype, &[0x45; 46]].concat()
    };
    // From the pod: the address of another one by ARP, and what is not IP.
    let spoofed = gratuitous_arp(own, stranger.addresses.v4.octets());
    inject(user, &[spoofed, frame(other, own, [0x88, 0xb5])])?;
    // To the pod, by the kernel's bridge, which bypasses podgate: not IP, and IP for everyone.
    let everyone = [0xff; 6];
    let mut broadcast = Vec::new();
    PacketBuilder::ethernet2(other, everyone)
        .ipv4(stranger.addresses.v4.octets(), [255; 4], 64)
        .udp(7777, 7777)
        .write(&mut broadcast, &[])?;
    inject(stranger, &[frame(own, other, [0x88, 0xb5]), broadcast])?;

    for (reason, end, link) in [
        ("arp_nd_spoofed", "source", 1),
        ("not_ip", "source", 1),
        ("to_pod_not_ip", "destination", 0),
        ("to_pod_multicast", "destination", 0),
    ] {
        let records = records(&lab, reason, 1)?;
        for record in &records {
            let (namespace, pod) = (&record[end]["namespace"], &record[end]["pod"]);
            ensure!((namespace, pod) == (&"user".into(), &"userapp".into()), "{record}");
            ensure!(record["verdict"] == "DROPPED" && record["link"] == link, "{record}");
        }
    }
    let [own, other, everyone] = [own, other, everyone].map(text);
    let (from, to) = (["--from-pod", "user/userapp"], ["--to-pod", "user/userapp"]);
    let (egress, ingress) = ("EGRESS", "INGRESS");
    for (pod, expected) in [
        (from, ["INVALID_SOURCE_IP", &own, &everyone, egress, "Ethernet; arp nd spoofed"]),
        (from, ["UNSUPPORTED_L2_PROTOCOL", &own, &other, egress, "Ethernet; not ip"]),
        (to, ["UNSUPPORTED_L2_PROTOCOL", &other, &own, ingress, "Ethernet; to pod not ip"]),
        (to, ["STALE_OR_UNROUTABLE_IP", &other, &everyone, ingress, "Ethernet; to pod multicast"]),
    ] {
        let flows = observed(&lab, &pod)?;
        ensure!(flows.iter().any(|flow| known(flow) == expected), "{expected:?}: {flows:?}");
    }
    agent.assert_alive()
}

#[test]
fn drops_beyond_the_limit_of_a_link_count_as_lost_records() -> Result<()> {
    const FLOOD: usize = 1000;
    let attached = ["user/userapp"];
    let lab = bridged_lab(&attached)?;
    let mut agent = Agent::start_bare(&lab, 1, &[])?;
    attach(&lab, &attached)?;
    let (user, stranger) = (lab.host("user/userapp")?, lab.host("other/stranger")?);
    let lost = || -> Result<u64> {
        lab.podgate_json(&["status"])?["flow_records_lost"].as_u64().context("flow_records_lost")
    };
    let before = lost()?;
    let spoofed = gratuitous_arp(user.mac("eth0")?, stranger.addresses.v4.octets());
    inject(user, &vec![spoofed; FLOOD])?;
    wait_for("the drops", BOUND, || {
        Ok((lab.drops("arp_nd_spoofed")? == FLOOD as u64).then_some(()))
    })?;
    let recorded = wait_for("records of some, and the others to count as lost", BOUND, || {
        let recorded = records(&lab, "arp_nd_spoofed", 50)?.len();
        Ok((recorded as u64 + lost()? >= before + FLOOD as u64).then_some(recorded))
    })?;
    ensure!(recorded < FLOOD, "{recorded}");
    // Clients of Hubble's API are told.
    let flows = observed(&lab, &[])?;
    let gaps = flows.iter().filter_map(|response| response["lost_events"].as_object());
    ensure!(gaps.count() > 0, "{flows:?}");
    // What the limit left out does not keep later drops from being recorded.
    inject(user, &[[&[2; 12][..], &[0x88, 0xb5], &[0; 46]].concat()])?;
    records(&lab, "not_ip", 1)?;
    agent.assert_alive()
}
