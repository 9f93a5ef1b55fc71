//! Malformed and spoofed frames from a pod.

use std::ffi::OsStr;
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use anyhow::{Context, Result};
use etherparse::PacketBuilder;
use podgate_tests::lab::{Agent, CorpusFrame, Download, Family, Host, Lab, Outcome, run, wait_for};
use podgate_tests::scenario::MANIFESTS;

/// Runs `attack` by `other/stranger` while admin downloads from the store.
fn during_a_download(attack: impl FnOnce(&Lab, &Host) -> Result<()>) -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let mut agent = Agent::start(&lab, 2)?;
    let (admin, stranger) = (lab.host("admin/adminapp")?, lab.host("other/stranger")?);
    let mut bystander = Download::start(&lab, admin, lab.host("backend/store")?, 8080, Family::V4)?;
    attack(&lab, stranger)?;
    agent.assert_alive()?;
    bystander.wait_for_more()?;
    let seen = stranger.ping(admin, Family::V6)?;
    assert!(matches!(seen, Outcome::Echo(_)), "it may still do what it may do: {seen:?}");
    agent.stop()
}

#[test]
fn each_frame_of_the_corpus_is_dropped_for_its_reason() -> Result<()> {
    during_a_download(|lab, stranger| {
        for frame in CorpusFrame::all()? {
            let reason = match frame.result.as_str() {
                // The frame parses, but its source is not the stranger's MAC.
                "parsed" | "fragment" | "icmp_unrelated" => "spoofed_source",
                reason => reason,
            };
            let before = lab.drops(reason)?;
            let sent = stranger.inject([&frame.bytes[..]].into_iter())?.sent;
            // Frames that are not IP go to the kernel.
            if matches!(frame.bytes.get(12..14), Some([0x08, 0x00] | [0x86, 0xdd])) {
                let what = format!("{} to be counted as {reason}", frame.name);
                wait_for(&what, Duration::from_secs(10), || {
                    Ok((lab.drops(reason)? >= before + sent).then_some(()))
                })?;
            }
        }
        Ok(())
    })
}

#[test]
fn truncated_and_mutated_frames_do_no_harm() -> Result<()> {
    during_a_download(|lab, stranger| {
        let mut frames = Vec::new();
        for frame in valid_frames(lab, stranger)? {
            frames.extend(mutations(&frame));
        }
        let before = total_received(lab)?;
        let sent = stranger.inject(frames.iter().map(Vec::as_slice))?.sent;
        assert!(sent > 1000, "only {sent} frames");
        wait_for("the frames", Duration::from_secs(30), || {
            // With a changed EtherType some of them go to the kernel.
            Ok((total_received(lab)? >= before + sent / 2).then_some(()))
        })
    })
}

fn total_received(lab: &Lab) -> Result<u64> {
    let status = lab.podgate_json(&["status"])?;
    let workers = status["workers"].as_array().context("status has no workers")?;
    Ok(workers.iter().filter_map(|worker| worker["received"].as_u64()).sum())
}

/// A SYN to port 80 out of `from`'s link, with any addresses.
fn syn(lab: &Lab, from: &Host, source: IpAddr, destination: IpAddr) -> Result<Vec<u8>> {
    let builder = PacketBuilder::ethernet2(from.mac("eth0")?, lab.node().mac(&from.link)?);
    let builder = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            builder.ipv4(source.octets(), destination.octets(), 64)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            builder.ipv6(source.octets(), destination.octets(), 64)
        }
        _ => anyhow::bail!("{source} and {destination} are of two families"),
    };
    let builder = builder.tcp(40000, 80, 1, 64240).syn();
    let mut frame = Vec::with_capacity(builder.size(0));
    builder.write(&mut frame, &[])?;
    Ok(frame)
}

/// Valid frames of `from`, from which the mutations are made.
fn valid_frames(lab: &Lab, from: &Host) -> Result<Vec<Vec<u8>>> {
    let (here, there) = (from.addresses, lab.host("backend/nginx")?.addresses);
    let (source, destination) = (from.mac("eth0")?, lab.node().mac(&from.link)?);
    let ethernet = || PacketBuilder::ethernet2(source, destination);
    let v4 = || ethernet().ipv4(here.v4.octets(), there.v4.octets(), 64);
    let v6 = || ethernet().ipv6(here.v6.octets(), there.v6.octets(), 64);
    let payload = [0x5a; 24];
    let mut frames = vec![Vec::new(); 4];
    v4().udp(5353, 53).write(&mut frames[0], &payload)?;
    v6().udp(5353, 53).write(&mut frames[1], &payload)?;
    v4().icmpv4_echo_request(7, 1).write(&mut frames[2], &payload)?;
    v6().icmpv6_echo_request(7, 1).write(&mut frames[3], &payload)?;
    for family in Family::BOTH {
        frames.push(syn(lab, from, here.of(family), there.of(family))?);
    }
    Ok(frames)
}

/// `frame` truncated after every byte of its headers, and with every byte after the Ethernet
/// addresses inverted, zeroed and set to 0xff.
fn mutations(frame: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let cut = (14..frame.len()).map(|length| frame[..length].to_vec());
    let changed = (12..frame.len()).flat_map(move |at| {
        [frame[at] ^ 0xff, 0, 0xff, frame[at] ^ 1].into_iter().map(move |byte| {
            let mut changed = frame.to_vec();
            changed[at] = byte;
            changed
        })
    });
    cut.chain(changed)
}

/// The library that decodes the kernel's answers drops one with such an alias. A request that waits
/// for it occupies one of the threads that enter pods' namespaces.
#[test]
fn a_pods_link_whose_alias_is_not_utf8_concerns_that_pod_only() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let mut agent = Agent::start(&lab, 1)?;
    let (admin, stranger) = (lab.host("admin/adminapp")?, lab.host("other/stranger")?);
    let mut ip = stranger.netns.bounded("ip", Duration::from_secs(20));
    run(ip.args(["link", "set", "eth0", "alias"]).arg(OsStr::from_bytes(b"\xff")))?;
    stranger.netns.ip("link set eth0 down\nlink set eth0 up\n")?;
    agent.wait_until("the agent to give up on the pod's link", |lab| {
        let status = lab.podgate_json(&["status"])?.to_string();
        Ok(status.contains("UTF-8").then_some(()))
    })?;
    agent.stop()?;
    let mut agent = Agent::restart(&lab, 1)?;
    lab.wait_for_endpoint(stranger, "gone")?;
    lab.wait_for_endpoint(admin, "ready")?;
    // Readable again, the link is taken back.
    stranger.netns.ip("link set eth0 alias uplink\n")?;
    lab.wait_for_endpoint(stranger, "ready")?;
    agent.assert_alive()?;
    agent.stop()
}
