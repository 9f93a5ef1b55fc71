//! Replays of synthetic captures, through the real policy compiler and the real worker.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests")]

mod support;

use std::fs;
use std::path::Path;
use std::time::Duration;

use clap::{Args as _, Command};
use pcap_file::TsResolution;
use podgate_policy::observe::Outcome;
use podgate_replay::{Args, Error, Flow, Output, ReplayReport, Skipped, Summary, replay, run};
use proptest::prelude::*;

use support::*;

/// The output for a capture at `path`, without the path.
fn printed(path: &Path, args: &Args) -> (String, Result<(), Error>) {
    let mut out = Vec::new();
    let result = run(args, &mut out);
    let text = String::from_utf8(out).unwrap();
    (text.replace(&path.display().to_string(), "CAPTURE"), result)
}

/// The verdict of every flow, and of every request.
fn verdicts(report: &ReplayReport) -> Vec<String> {
    let flow = |flow: &Flow| {
        let requests: Vec<_> =
            flow.requests.iter().map(|r| (&r.path, r.verdict, r.count)).collect();
        let ends = [&flow.source, &flow.destination].map(|end| (&end.pod, end.port));
        format!("{} {ends:?} {:?} {requests:?}", flow.protocol, flow.verdict)
    };
    report.flows.iter().map(flow).collect()
}

fn without_capture(report: ReplayReport) -> (Vec<Flow>, Summary) {
    (report.flows, report.summary)
}

fn without_file(mut report: ReplayReport) -> ReplayReport {
    report.capture.file.clear();
    report
}

#[test]
fn the_command_line_is_consistent() {
    Args::augment_args(Command::new("replay")).debug_assert();
}

#[test]
fn the_report_for_people() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.pcap");
    everything(Family::V4, Vantage::At(NGINX)).pcap(&path, TsResolution::NanoSecond);
    let (text, result) = printed(&path, &args(&path));
    result.unwrap();
    insta::assert_snapshot!("at_nginx", text);

    everything(Family::V4, Vantage::Everywhere).pcapng(&path);
    insta::assert_snapshot!("everywhere", printed(&path, &args(&path)).0);
}

#[test]
fn the_report_for_programs_reads_back_as_itself() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.pcap");
    everything(Family::V6, Vantage::At(ADMIN)).pcap(&path, TsResolution::NanoSecond);
    let (text, _) = printed(&path, &Args { output: Output::Json, ..args(&path) });
    let read: ReplayReport = serde_json::from_str(&text).unwrap();
    assert_eq!(without_file(read), without_file(replay_file(&path).unwrap()));
    insta::assert_snapshot!("json", text);
}

#[test]
fn both_formats_and_both_resolutions_replay_alike() {
    let dir = tempfile::tempdir().unwrap();
    let recording = everything(Family::V4, Vantage::At(ADMIN));
    let [nano, micro, ng] = ["nano", "micro", "ng"].map(|name| dir.path().join(name));
    recording.pcap(&nano, TsResolution::NanoSecond);
    recording.pcap(&micro, TsResolution::MicroSecond);
    recording.pcapng(&ng);
    let [nano, micro, ng] = [nano, micro, ng].map(|path| without_file(replay_file(&path).unwrap()));
    assert_eq!(nano, micro);
    assert_eq!(nano.flows, ng.flows);
    assert_eq!(nano.summary, ng.summary);
}

#[test]
fn a_replay_is_deterministic() {
    let recording = everything(Family::V4, Vantage::Everywhere);
    assert_eq!(without_file(recording.replay()), without_file(recording.replay()));
}

#[test]
fn both_families_have_the_same_verdicts() {
    let [v4, v6] = [Family::V4, Family::V6]
        .map(|family| verdicts(&everything(family, Vantage::Everywhere).replay()));
    let v6: Vec<_> = v6.iter().map(|line| line.replace("ICMPv6", "ICMPv4")).collect();
    assert_eq!(v4, v6);
}

#[test]
fn a_packet_on_two_interfaces_counts_once() {
    let everywhere = everything(Family::V4, Vantage::Everywhere);
    let mut at_senders = everywhere.clone();
    at_senders.packets.retain(|packet| packet.frame[6..12] == mac(packet.interface as u8));
    let [all, once] = [&everywhere, &at_senders].map(Recording::replay);
    assert!(all.capture.skipped.seen_before > 0);
    assert_eq!(without_capture(all.clone()), without_capture(once));

    // In a file without interfaces, MAC addresses still distinguish the vantage points.
    let mut merged = everywhere.clone();
    merged.packets.iter_mut().for_each(|packet| packet.interface = 0);
    assert_eq!(merged.replay().flows, all.flows);
}

#[test]
fn what_podgate_sent_in_the_live_run_changes_no_verdict() {
    let live = everything(Family::V4, Vantage::At(ADMIN));
    let mut without = live.clone();
    without.packets.retain(|packet| !packet.frame.windows(15).any(|w| w == b"Access denied\r\n"));
    assert_eq!(without.packets.len() + 1, live.packets.len(), "one answer was made for admin");
    let [live, without] = [live, without].map(|recording| recording.replay());
    assert_eq!(verdicts(&live), verdicts(&without));
    assert_eq!(live.summary.originated, without.summary.originated);
    assert_eq!(live.summary.forwarded, without.summary.forwarded);

    // The reset that podgate sent to the server as the client.
    let at_server = everything(Family::V4, Vantage::At(NGINX));
    let mut without = at_server.clone();
    let is_reset = |frame: &[u8]| frame[14 + 9] == 6 && frame[14 + 20 + 13] == 0x04;
    without.packets.retain(|packet| !is_reset(&packet.frame));
    assert_eq!(without.packets.len() + 2, at_server.packets.len());
    assert_eq!(verdicts(&at_server.replay()), verdicts(&without.replay()));
}

#[test]
fn an_answer_after_its_flow_has_expired_opens_no_flow() {
    let mut recording = Recording::new(Family::V4, Vantage::At(ADMIN));
    Connection::new(&mut recording, [ADMIN, NGINX], [40_000, 80]).segment(
        CLIENT,
        "S",
        b"",
        LiveResult::Dropped,
    );
    recording.wait(Duration::from_secs(24 * 3600));
    let mut late = Connection::new(&mut recording, [ADMIN, NGINX], [40_000, 80]);
    late.segment(SERVER, "PA", ANSWER.as_bytes(), LiveResult::Made);
    let report = recording.replay();
    assert_eq!(report.flows.len(), 1, "{:?}", verdicts(&report));
    assert_eq!(report.flows[0].packets, [1, 1]);
    assert_eq!(report.flows[0].dropped.values().sum::<u64>(), 1);
}

#[test]
fn a_denial_in_the_middle_of_a_body_is_in_the_report() {
    let head = "GET /docs HTTP/1.1\r\nHost: nginx.backend\r\nTransfer-Encoding: chunked\r\n\r\n";
    let like_a_request = "GET /docs HTTP/1.1\r\nHost: nginx.backend\r\nContent-Length: 38\r\n\r\n";
    let streams = [
        (&[head, "3\r\nabc\r\n", "zz\r\n"][..], "l7_malformed"),
        (&[like_a_request, "GET /secret HTTP/1.1\r\n"], "l7_malformed"),
        (&["\x16\x03\x01\x02\0"], "l7_unsupported"),
    ];
    for (index, (stream, reason)) in streams.into_iter().enumerate() {
        let mut recording = Recording::new(Family::V4, Vantage::At(ADMIN));
        let ports = [40_000 + index as u16, 80];
        let mut connection = Connection::new(&mut recording, [ADMIN, NGINX], ports).open();
        for part in stream {
            connection.segment(CLIENT, "PA", part.as_bytes(), LiveResult::Passed);
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.pcap");
        recording.pcap(&path, TsResolution::NanoSecond);
        let (text, _) = printed(&path, &Args { output: Output::Json, ..args(&path) });
        let report: ReplayReport = serde_json::from_str(&text).unwrap();
        let [flow] = &report.flows[..] else { panic!("{text}") };
        assert_eq!(flow.denials, [(reason.to_owned(), 1)].into(), "{text}");
        assert_eq!(flow.requests.len(), stream.len() - 1 - usize::from(stream.len() == 3));
        let (text, _) = printed(&path, &args(&path));
        assert!(text.contains(&format!("ended by inspection: {reason}")), "{text}");
    }
}

#[test]
fn a_late_segment_that_policy_denies_belongs_to_its_connection() {
    let mut recording = Recording::new(Family::V4, Vantage::At(STORE));
    // Only admin's app may open connections to the store, on another port.
    let ends = [STORE, STRANGER];
    Connection::new(&mut recording, ends, [40_000, 80]).open();
    recording.wait(Duration::from_secs(24 * 3600));
    Connection::new(&mut recording, ends, [40_000, 80]).segment(
        SERVER,
        "A",
        b"",
        LiveResult::Passed,
    );
    let report = recording.replay();
    assert_eq!(report.flows.len(), 1, "{:?}", verdicts(&report));
    assert_eq!(report.flows[0].packets, [2, 2]);
    assert_eq!(report.flows[0].verdict, Outcome::Forwarded);
    // The opposite direction is allowed, so the sender is reset.
    assert_eq!(report.summary.dropped.keys().collect::<Vec<_>>(), ["tcp_no_flow"]);
}

#[test]
fn truncated_packets_are_skipped_and_reported() {
    let mut recording = everything(Family::V4, Vantage::At(ADMIN));
    for packet in recording.packets.iter_mut().filter(|packet| packet.frame.len() > 80) {
        packet.frame.truncate(80);
    }
    let report = recording.replay();
    assert!(report.capture.skipped.truncated > 0);
    assert!(report.notes.iter().any(|note| note.contains("-s0")), "{:?}", report.notes);
    assert_eq!(report.summary.requests.forwarded, 0);
}

#[test]
fn frames_for_the_kernel_are_skipped() {
    let mut recording = Recording::new(Family::V4, Vantage::At(ADMIN));
    recording.raw(0, [&[0xff; 6][..], &mac(ADMIN), &[8, 6], &[0; 28]].concat());
    let report = recording.replay();
    assert_eq!(report.capture.skipped, Skipped { for_kernel: 1, ..Skipped::default() });
    assert_eq!((report.summary.received.packets, report.flows.len()), (0, 0));
}

#[test]
fn malformed_packets_are_counted_and_the_replay_continues() {
    let mut recording = Recording::new(Family::V4, Vantage::At(ADMIN));
    recording.udp([ADMIN, STORE], [1, 2], LiveResult::Dropped, b"a datagram");
    let sound = recording.packets[0].frame.clone();
    let [mut length, mut version, stump] = [sound.clone(), sound.clone(), sound[..20].to_vec()];
    length[16..18].copy_from_slice(&[0xff, 0xff]);
    version[14] = 0x55;
    for frame in [length, version, stump] {
        recording.raw(0, frame);
    }
    recording.raw(0, vec![1; 5]);
    recording.raw(0, sound);
    let summary = recording.replay().summary;
    assert_eq!(summary.received.packets, 6);
    let dropped: u64 = summary.dropped.values().map(|tally| tally.packets).sum();
    assert_eq!(summary.forwarded.packets + dropped, 6);
    assert!(summary.dropped.contains_key("truncated_header"), "{:?}", summary.dropped);
    assert!(summary.dropped.contains_key("invalid_packet"), "{:?}", summary.dropped);
}

#[test]
fn every_packet_has_one_outcome() {
    let summary = everything(Family::V4, Vantage::Everywhere).replay().summary;
    let dropped: u64 = summary.dropped.values().map(|tally| tally.packets).sum();
    assert_eq!(summary.received.packets, summary.forwarded.packets + dropped + summary.held);
}

#[test]
fn a_damaged_file_is_replayed_up_to_the_damage() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.pcap");
    let recording = everything(Family::V4, Vantage::At(ADMIN));
    recording.pcap(&path, TsResolution::NanoSecond);
    let file = fs::read(&path).unwrap();
    let last = recording.packets.last().unwrap().frame.len() + 16;
    fs::write(&path, &file[..file.len() - 1]).unwrap();
    let (text, result) = printed(&path, &args(&path));
    let Err(Error::Broken { broken, .. }) = result else { panic!("{result:?}") };
    assert_eq!(broken.offset, (file.len() - last) as u64);
    assert!(text.contains("Broken    at byte"), "{text}");
    assert!(text.contains("GET http://nginx.backend/docs"), "{text}");
}

#[test]
fn inputs_that_cannot_be_replayed_are_rejected_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.pcap");
    let message = |path: &Path| replay_file(path).unwrap_err().to_string();
    assert!(message(&path).contains("can't read"));
    fs::write(&path, b"no capture at all, only text").unwrap();
    assert!(message(&path).contains("neither pcap nor pcapng"));
    fs::write(&path, b"").unwrap();
    assert!(message(&path).contains("it is empty"));

    everything(Family::V4, Vantage::At(ADMIN)).pcap(&path, TsResolution::NanoSecond);
    let mut file = fs::read(&path).unwrap();
    file[23] = 113;
    fs::write(&path, &file).unwrap();
    assert!(message(&path).contains("LINUX_SLL"), "{}", message(&path));

    everything(Family::V4, Vantage::At(ADMIN)).pcapng(&path);
    let absent = Args { manifests: dir.path().join("none"), ..args(&path) };
    assert!(matches!(replay(&absent), Err(Error::NoManifests(_))));
}

#[test]
fn a_capture_without_known_pods_has_a_note() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.pcap");
    everything(Family::V4, Vantage::At(ADMIN)).pcap(&path, TsResolution::NanoSecond);
    let empty = dir.path().join("manifests");
    fs::create_dir(&empty).unwrap();
    let report = replay(&Args { manifests: empty, ..args(&path) }).unwrap();
    assert!(report.notes.iter().any(|note| note.contains("status.podIPs")), "{:?}", report.notes);
}

#[test]
fn repetitions_have_the_same_outcomes_and_are_measured() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.pcap");
    everything(Family::V4, Vantage::Everywhere).pcapng(&path);
    let report = replay(&Args { repeat: Some(3), ..args(&path) }).unwrap();
    let once = report.summary.received.packets;
    let performance = report.performance.unwrap();
    assert_eq!((performance.repetitions, performance.deviating), (3, 0));
    assert_eq!(performance.packets, 3 * once);
    assert!(performance.packets_per_second > 0.0 && performance.ns_per_packet.p50 > 0);
    assert!(performance.packets_per_round >= 1.0);
}

#[test]
fn packets_of_many_frames_are_replayed() {
    let mut recording = Recording::new(Family::V4, Vantage::At(NGINX));
    let large = vec![7; 65_507];
    for port in 0..100 {
        recording.udp([NGINX, ADMIN], [port, 2], LiveResult::Passed, &large);
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.pcapng");
    recording.pcapng(&path);
    let report = replay(&Args { repeat: Some(2), ..args(&path) }).unwrap();
    assert_eq!(report.summary.forwarded.packets, 100);
    assert_eq!(report.performance.unwrap().deviating, 0);
}

#[test]
fn a_long_stream_is_processed_in_batches() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.pcap");
    let mut recording = Recording::new(Family::V4, Vantage::At(NGINX));
    for _ in 0..640 {
        recording.udp([NGINX, ADMIN], [1, 2], LiveResult::Passed, b"one of many");
    }
    recording.pcap(&path, TsResolution::NanoSecond);
    let report = replay(&Args { repeat: Some(2), ..args(&path) }).unwrap();
    assert_eq!(report.flows[0].packets, [640, 0]);
    let performance = report.performance.unwrap();
    assert_eq!(performance.deviating, 0);
    assert!((performance.packets_per_round - 64.0).abs() < f64::EPSILON);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_damage_to_a_file_is_survived(
        ng in any::<bool>(),
        cut in 0.0..1.0,
        damage in proptest::collection::vec((0.0..1.0, any::<u8>()), 0..4),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c");
        let recording = everything(Family::V4, Vantage::At(ADMIN));
        if ng { recording.pcapng(&path) } else { recording.pcap(&path, TsResolution::NanoSecond) }
        let mut file = fs::read(&path).unwrap();
        file.truncate((file.len() as f64 * cut) as usize);
        for (at, byte) in damage {
            let at = (file.len() as f64 * at) as usize;
            if let Some(target) = file.get_mut(at) {
                *target = byte;
            }
        }
        fs::write(&path, &file).unwrap();
        if let Ok(report) = replay_file(&path) {
            let broken = report.capture.broken.map_or(0, |broken| broken.offset);
            prop_assert!(broken <= file.len() as u64);
            let summary = report.summary;
            let dropped: u64 = summary.dropped.values().map(|tally| tally.packets).sum();
            prop_assert_eq!(summary.received.packets, summary.forwarded.packets + dropped + summary.held);
        }
    }
}

#[test]
fn packets_of_a_node_to_its_own_pods_pass() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.pcap");
    // It passed when it was captured; these manifests deny it from outside.
    let mut recording = Recording::new(Family::V4, Vantage::At(NGINX));
    recording.udp([OUTSIDE, NGINX], [5000, 53], LiveResult::Passed, b"probe");
    recording.pcap(&path, TsResolution::NanoSecond);
    let unknown = Args { node: Some("nowhere".to_owned()), ..args(&path) };
    assert!(matches!(replay(&unknown), Err(Error::Node(_))));
    let plain = replay_file(&path).unwrap();

    // The same objects, and a node that has the address of a denied outside host.
    let manifests = dir.path().join("manifests");
    fs::create_dir(&manifests).unwrap();
    for entry in fs::read_dir(args(&path).manifests).unwrap() {
        let file = entry.unwrap().path();
        fs::copy(&file, manifests.join(file.file_name().unwrap())).unwrap();
    }
    let denied = |report: &ReplayReport, address| {
        let flows = report.flows.iter().filter(|flow| flow.source.address == address);
        flows.filter(|flow| flow.verdict == Outcome::Dropped).count()
    };
    let mut from_outside = plain.flows.iter().filter(|flow| flow.source.pod.is_none());
    let Some(dropped) = from_outside.find(|flow| flow.verdict == Outcome::Dropped) else {
        panic!("nobody is denied: {:?}", verdicts(&plain))
    };
    let address = dropped.source.address;
    let node = format!(
        "apiVersion: v1\nkind: Node\nmetadata: {{name: one}}\nstatus: {{addresses: [{{type: \
         InternalIP, address: \"{address}\"}}]}}\n"
    );
    fs::write(manifests.join("node.yaml"), node).unwrap();
    let report = replay(&Args { manifests, ..args(&path) }).unwrap();
    assert!(report.notes.iter().any(|note| note.starts_with("this node is one")));
    assert!(denied(&plain, address) > 0);
    assert_eq!(denied(&report, address), 0, "{:?}", verdicts(&report));
}
