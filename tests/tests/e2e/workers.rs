//! Several workers: each flow belongs to one, and links are deleted and created while they run.

use std::io::{Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use podgate_dataplane::mem::FramePool;
use podgate_tests::lab::{Agent, Family, Host, Lab, Outcome, Stream, wait_for};
use podgate_tests::scenario::MANIFESTS;

use super::flood::{Flood, udp_frames};

const BOUND: Duration = Duration::from_secs(20);

/// Packets that each worker received.
fn received(lab: &Lab) -> Result<Vec<u64>> {
    let status = lab.podgate_json(&["status"])?;
    let workers = status["workers"].as_array().context("status has no workers")?;
    Ok(workers.iter().filter_map(|worker| worker["received"].as_u64()).collect())
}

fn udp_socket(host: &Host, port: u16, family: Family) -> Result<UdpSocket> {
    let address = SocketAddr::new(host.addresses.of(family), port);
    let socket = host.netns.inside(|| Ok(UdpSocket::bind(address)?))?;
    socket.set_read_timeout(Some(BOUND))?;
    Ok(socket)
}

#[test]
fn every_flow_has_one_worker_for_both_its_directions() -> Result<()> {
    const FLOWS: u16 = 32;
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let mut agent = Agent::start(&lab, 2)?;
    let (admin, user) = (lab.host("admin/adminapp")?, lab.host("user/userapp")?);
    let opened = lab.metric("podgate_worker_flows_opened_total")?;
    for family in Family::BOTH {
        let listener = user.listen(5000)?;
        let server = udp_socket(user, 5000, family)?;
        for flow in 0..FLOWS {
            let mut client = admin.connect(user, 5000, family)?;
            let (mut accepted, _) = listener.accept()?;
            let client_udp = udp_socket(admin, 6000 + flow, family)?;
            client_udp.connect(SocketAddr::new(user.addresses.of(family), 5000))?;
            for turn in 0..4 {
                let mut there = [0; 4];
                client.write_all(&[turn; 4])?;
                accepted.read_exact(&mut there)?;
                accepted.write_all(&there)?;
                client.read_exact(&mut there)?;
                assert_eq!(there, [turn; 4]);
                client_udp.send(&[turn; 4])?;
                let (_, peer) = server.recv_from(&mut there)?;
                server.send_to(&there, peer)?;
                client_udp.recv(&mut there)?;
                assert_eq!(there, [turn; 4]);
            }
        }
    }
    let opened = lab.metric("podgate_worker_flows_opened_total")? - opened;
    assert_eq!(opened, 4 * u64::from(FLOWS), "a flow that two workers see would count twice");
    assert_eq!(lab.metric("podgate_worker_handed_off_total")?, 0);
    let received = received(&lab)?;
    assert!(received.len() == 2 && received.iter().all(|packets| *packets > 0), "{received:?}");
    agent.assert_alive()
}

#[test]
fn only_packets_whose_hash_names_another_worker_are_handed_to_the_flows_worker() -> Result<()> {
    const FLOWS: u16 = 32;
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let mut agent = Agent::start(&lab, 2)?;
    let (admin, user) = (lab.host("admin/adminapp")?, lab.host("user/userapp")?);
    user.netns.sysctl(&[("ipv4/icmp_ratelimit", "0"), ("ipv6/icmp/ratelimit", "0")])?;
    for family in Family::BOTH {
        for flow in 0..FLOWS {
            let client = udp_socket(admin, 6000 + flow, family)?;
            client.connect(SocketAddr::new(user.addresses.of(family), 9))?;
            client.set_read_timeout(Some(Duration::from_millis(200)))?;
            // The kernel limits its rate of ICMP errors, so the client sends again.
            wait_for("the error to find its flow, whichever worker it came to", BOUND, || {
                let refused =
                    |error: std::io::Error| error.kind() == std::io::ErrorKind::ConnectionRefused;
                let is_refused = client.send(b"anyone?").is_err_and(refused);
                Ok((is_refused || client.recv(&mut [0; 16]).is_err_and(refused)).then_some(()))
            })?;
        }
    }
    assert!(lab.metric("podgate_worker_handed_off_total")? > 0);
    assert_eq!(lab.drops("icmp_unrelated")?, 0);
    agent.assert_alive()
}

#[test]
fn links_deleted_during_transmit_and_new_links_disturb_no_stream() -> Result<()> {
    const TIMES: usize = 8;
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let mut agent = Agent::start(&lab, 2)?;
    let (admin, user) = (lab.host("admin/adminapp")?, lab.host("user/userapp")?);
    let (stranger, store) = (lab.host("other/stranger")?, lab.host("backend/store")?);
    let v4 = Stream::start(admin, user, 5001, Family::V4)?;
    let v6 = Stream::start(user, admin, 5002, Family::V6)?;
    let spare = lab.metric("podgate_frames_spare")?;
    let frames = udp_frames(&lab, [admin, stranger], 1000..1064, 9999)?;
    let flood = Flood::start(admin, frames)?;
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        // Another pod's link is detached and attached, while the flooded one is deleted.
        let detach_and_attach = scope.spawn(|| -> Result<usize> {
            let mut times = 0;
            while !done.load(Ordering::Relaxed) {
                let removed = lab.podgate(&["endpoint", "remove", "--link", &store.link])?;
                ensure!(removed.status.success(), "{removed:?}");
                lab.add_endpoint(store)?;
                times += 1;
            }
            Ok(times)
        });
        let tear_out = || -> Result<()> {
            for _ in 0..TIMES {
                flood.wait_for_more()?;
                lab.delete_link(stranger)?;
                lab.wait_for_endpoint(stranger, "gone")?;
                lab.create_link(stranger)?;
                lab.wait_for_endpoint(stranger, "ready")?;
            }
            v4.wait_for_more()?;
            v6.wait_for_more()
        };
        let torn_out = tear_out();
        done.store(true, Ordering::Relaxed);
        let times = detach_and_attach.join().map_err(|_| anyhow!("a panic"))??;
        assert!(times > 0);
        torn_out
    })?;
    flood.stop()?;
    assert!(v4.finish()? > 0);
    assert!(v6.finish()? > 0);
    let seen = stranger.ping(admin, Family::V4)?;
    assert!(matches!(seen, Outcome::Echo(_)), "{seen:?}");
    // But for the frames that two workers cache, all are free again. If a deleted link lost the
    // 1024 frames of its fill ring each time, far more would be missing.
    const CACHED: u64 = 2 * FramePool::CACHED_MAX as u64;
    const _: () = assert!(CACHED < TIMES as u64 * 1024);
    let what = "the frames to be spare again";
    wait_for(what, BOUND, || {
        Ok((lab.metric("podgate_frames_spare")? + CACHED >= spare).then_some(()))
    })?;
    agent.assert_alive()
}

#[test]
fn traffic_continues_after_the_link_that_registered_the_umem_is_deleted() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let mut agent = Agent::start(&lab, 2)?;
    let (admin, user) = (lab.host("admin/adminapp")?, lab.host("user/userapp")?);
    let stranger = lab.host("other/stranger")?;
    let stream = Stream::start(admin, user, 5001, Family::V4)?;
    for _ in 0..3 {
        lab.node().netns.ip("link del pg-host\n")?;
        stream.wait_for_more()?;
        // Links that are attached later share the UMEM through another one.
        lab.delete_link(stranger)?;
        lab.wait_for_endpoint(stranger, "gone")?;
        lab.create_link(stranger)?;
        lab.wait_for_endpoint(stranger, "ready")?;
        let seen = stranger.ping(admin, Family::V6)?;
        assert!(matches!(seen, Outcome::Echo(_)), "{seen:?}");
        wait_for("the node to reach its pods again", BOUND, || {
            Ok(matches!(lab.node().ping(user, Family::V4)?, Outcome::Echo(_)).then_some(()))
        })?;
    }
    assert!(stream.finish()? > 0);
    agent.assert_alive()
}
