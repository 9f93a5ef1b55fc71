//! One pod can't take more than its share of the resources that pods share.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result};
use podgate_tests::lab::{Agent, CorpusFrame, Family, Get, Lab, Outcome, Stream, wait_for};
use podgate_tests::scenario::{DENIED_BODY, MANIFESTS};
use serde_json::Value;

use super::flood::{Flood, udp_frames};

/// Runs `disturb` while other pods communicate: their established connections continue, and new
/// ones work.
fn while_others_communicate(
    workers: u16,
    disturb: impl FnOnce(&Lab, &dyn Fn() -> Result<()>) -> Result<()>,
) -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let mut agent = Agent::start(&lab, workers)?;
    let (admin, user) = (lab.host("admin/adminapp")?, lab.host("user/userapp")?);
    let nginx = lab.host("backend/nginx")?;
    let stream = Stream::start(admin, user, 5001, Family::V4)?;
    let others_communicate = || {
        stream.wait_for_more()?;
        let begun = Stream::start(user, admin, 5002, Family::V6)?;
        begun.wait_for_more()?;
        begun.finish()?;
        let seen = Get::path("/docs").fetch(admin, nginx, Family::V4)?;
        assert!(matches!(seen, Outcome::Answer(ref answer) if answer.status == 200), "{seen:?}");
        let seen = Get::path("/secret").fetch(admin, nginx, Family::V6)?;
        assert!(
            matches!(seen, Outcome::Answer(ref answer) if answer.body == DENIED_BODY),
            "{seen:?}"
        );
        Ok(())
    };
    disturb(&lab, &others_communicate)?;
    assert!(stream.finish()? > 0);
    agent.assert_alive()?;
    agent.stop()
}

#[test]
fn a_pod_that_keeps_opening_flows_leaves_table_entries_for_others() -> Result<()> {
    /// Half of a worker's table.
    const SHARE: u64 = 1 << 17;
    while_others_communicate(1, |lab, others_communicate| {
        let (stranger, user) = (lab.host("other/stranger")?, lab.host("user/userapp")?);
        let mut frames = Vec::new();
        for port in 9997..=9999 {
            frames.extend(udp_frames(lab, [stranger, user], 1..u16::MAX, port)?);
        }
        let flood = Flood::start(stranger, frames)?;
        wait_for("the flood to have its share", Duration::from_secs(60), || {
            Ok((lab.metric("podgate_worker_flows")? >= SHARE - 64).then_some(()))
        })?;
        others_communicate()?;
        let flows = lab.metric("podgate_worker_flows")?;
        assert!(flows < SHARE + 1000, "{flows} flows");
        flood.stop()
    })
}

#[test]
fn a_pod_that_floods_one_flow_does_not_starve_others() -> Result<()> {
    while_others_communicate(1, |lab, others_communicate| {
        let (stranger, user) = (lab.host("other/stranger")?, lab.host("user/userapp")?);
        let frames = udp_frames(lab, [stranger, user], 1000..1001, 9999)?;
        let flood = Flood::start(stranger, vec![frames[0].clone(); 64])?;
        flood.wait_for_more()?;
        others_communicate()?;
        flood.stop()
    })
}

#[test]
fn a_receiver_that_never_reads_or_is_down_does_not_starve_others() -> Result<()> {
    while_others_communicate(2, |lab, others_communicate| {
        let (stranger, store) = (lab.host("other/stranger")?, lab.host("backend/store")?);
        // A server that never reads: its receive window stays closed.
        let listener = stranger.listen(5003)?;
        let mut clients = Vec::new();
        for _ in 0..16 {
            let client = store.connect(stranger, 5003, Family::V4)?;
            client.set_nonblocking(true)?;
            let full = wait_for("the frozen receiver's window to close", BOUND, || match (&client)
                .write(&[0; 65536])
            {
                Ok(_) => Ok(None),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(Some(())),
                Err(error) => Err(error.into()),
            });
            full?;
            clients.push(client);
        }
        let flood = Flood::start(store, udp_frames(lab, [store, stranger], 2000..2064, 9999)?)?;
        flood.wait_for_more()?;
        others_communicate()?;
        // Its interface goes down with packets in flight.
        stranger.netns.ip("link set eth0 down\n")?;
        flood.wait_for_more()?;
        others_communicate()?;
        stranger.netns.ip("link set eth0 up\n")?;
        flood.stop()?;
        drop((listener, clients));
        Ok(())
    })
}

const BOUND: Duration = Duration::from_secs(20);

#[test]
fn a_pod_that_sends_garbage_harms_nobody() -> Result<()> {
    while_others_communicate(2, |lab, others_communicate| {
        let stranger = lab.host("other/stranger")?;
        let mac = stranger.mac("eth0")?;
        let mut frames: Vec<_> = CorpusFrame::all()?.into_iter().map(|frame| frame.bytes).collect();
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = move || {
            // xorshift64 (Marsaglia 2003): the same frames in every run.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for nth in 0..2000 {
            let mut frame: Vec<u8> = (0..60 + nth % 400).map(|_| random() as u8).collect();
            frame[6..12].copy_from_slice(&mac);
            let kind = [[0x08, 0x00], [0x86, 0xdd], [0x81, 0x00], [0x88, 0xa8]][nth % 4];
            frame[12..14].copy_from_slice(&kind);
            frames.push(frame);
        }
        let flood = Flood::start(stranger, frames)?;
        flood.wait_for_more()?;
        others_communicate()?;
        flood.stop()
    })
}

#[test]
fn incomplete_requests_of_one_pod_do_not_block_those_of_others() -> Result<()> {
    while_others_communicate(2, |lab, others_communicate| {
        let (user, nginx) = (lab.host("user/userapp")?, lab.host("backend/nginx")?);
        let mut open = Vec::new();
        for nth in 0..300 {
            let family = Family::BOTH[nth % 2];
            let mut client = user.connect(nginx, 80, family)?;
            client.write_all(b"GET /docs HTTP/1.1\r\nHost: nginx\r\nX-Never: ")?;
            open.push(client);
        }
        others_communicate()?;
        drop(open);
        Ok(())
    })
}

#[test]
fn a_flood_of_denied_packets_does_not_displace_flow_records_of_others() -> Result<()> {
    while_others_communicate(1, |lab, others_communicate| {
        let (stranger, nginx) = (lab.host("other/stranger")?, lab.host("backend/nginx")?);
        let frames = udp_frames(lab, [stranger, nginx], 1..20_000, 9999)?;
        let denied = lab.drops("policy_denied")?;
        let flood = Flood::start(stranger, frames)?;
        wait_for("the flood to be denied", BOUND, || {
            Ok((lab.drops("policy_denied")? > denied + 50_000).then_some(()))
        })?;
        others_communicate()?;
        let records = || lab.podgate_json_lines(&["flows", "--last", "4096"]);
        let has_both = |records: &[Value]| {
            ["/docs", "/secret"].iter().all(|path| {
                let mut texts = records.iter().map(Value::to_string);
                texts.any(|text| text.contains("adminapp") && text.contains(path))
            })
        };
        wait_for("records of both requests", BOUND, || Ok(has_both(&records()?).then_some(())))?;
        let denied = lab.drops("policy_denied")?;
        wait_for("the flood to go on", BOUND, || {
            Ok((lab.drops("policy_denied")? > denied + 100_000).then_some(()))
        })?;
        let records = records()?;
        let count = records.len();
        assert!(has_both(&records), "both are among the {count} records kept");
        let of_flood =
            records.iter().filter(|record| record.to_string().contains("stranger")).count();
        assert!(of_flood > count / 2, "{of_flood} of {count}");
        flood.stop().context("the flood")
    })
}
