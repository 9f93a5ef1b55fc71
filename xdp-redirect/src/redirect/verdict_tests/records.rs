//! Records of dropped frames: what they have, how many there are, and that the others are counted.

use std::time::{Duration, Instant};

use podgate_tables::drop_reason::FrameDropReason;

use super::neighbours::{NEXT, SHOT, arp, to_pod, with};
use super::*;
use crate::DroppedData;

/// `RECORD_BURST` and `RECORD_RATE` of `drops.bpf.h`.
const BURST: u64 = 50;
const INTERVAL: Duration = Duration::from_millis(10);
/// Records that the ring has room for.
const RING: u64 = 1638;

/// A record, with a copy of the frame.
#[derive(PartialEq, Eq, Debug)]
struct Record {
    reason: FrameDropReason,
    slot: u16,
    frame: Vec<u8>,
}

impl Probe {
    /// Takes all records.
    fn records(&mut self) -> Vec<Record> {
        let mut records = Vec::new();
        self.redirect.take_dropped(usize::MAX, |dropped| {
            assert!(dropped.age < Duration::from_secs(60), "{dropped:?}");
            // No link is attached in these tests.
            assert!(!dropped.is_attached);
            let DroppedData::Frame(frame) = dropped.seen else { panic!("{dropped:?}") };
            let (reason, slot, frame) = (dropped.reason, dropped.slot, frame.to_vec());
            records.push(Record { reason, slot, frame });
        });
        records
    }

    /// Lets every link have as many records as it may at once.
    fn refill_records(&mut self) {
        let map = self.ebpf.map_mut("RECORD_TIMES").unwrap();
        let mut times = Array::<_, [u64; 2]>::try_from(map).unwrap();
        for slot in 0..times.len() {
            times.set(slot, [0; 2], 0).unwrap();
        }
    }
}

fn lldp(length: usize) -> Vec<u8> {
    let mut frame = ethernet(&[], 0x88cc);
    frame.extend((14..length).map(|index| index as u8));
    frame
}

#[test]
fn a_dropped_frame_of_a_pod_has_a_record_with_its_beginning() {
    let mut probe = Probe::new();
    for length in [14, 60, 127, 128, 129, 1500] {
        let frame = lldp(length);
        assert_eq!(probe.action(&frame, Some(3)), DROP);
        let frame = frame[..length.min(128)].to_vec();
        let expected = Record { reason: FrameDropReason::NotIp, slot: 3, frame };
        assert_eq!(probe.records(), [expected], "{length}");
    }
    let spoofed = with(arp(), 28, &[10, 0, 0, 9]);
    assert_eq!(probe.action(&spoofed, Some(5)), DROP);
    let reason = FrameDropReason::ArpNdSpoofed;
    assert_eq!(probe.records(), [Record { reason, slot: 5, frame: spoofed }]);
    probe.set_pod(None);
    assert_eq!(probe.action(&arp(), Some(5)), DROP);
    let reason = FrameDropReason::ArpNdNotReady;
    assert_eq!(probe.records(), [Record { reason, slot: 5, frame: arp() }]);
    assert_eq!(probe.redirect.drops_unrecorded().unwrap(), 0);
}

#[test]
fn what_is_not_dropped_has_no_record() {
    let mut probe = Probe::new();
    assert_eq!(probe.action(&arp(), Some(ONLY_WORKER_0)), PASS);
    probe.action(&v4_tcp().frame(), Some(ONLY_WORKER_0));
    assert_eq!(probe.run_egress("guard", &to_pod(arp()), 0).return_value, NEXT);
    assert_eq!(probe.records(), []);
}

#[test]
fn a_dropped_frame_to_a_pod_has_a_record() {
    use FrameDropReason as Reason;
    let mut probe = Probe::new();
    probe.redirect.links.insert(LOOPBACK, 7, 0).unwrap();
    let ip = to_pod(v4_tcp().frame());
    let tagged = [&ip[..12], &[0x81, 0, 0, 7], &ip[12..]].concat();
    let (to_other, multicast) = (with(ip.clone(), 0, &[2; 6]), with(ip.clone(), 0, &[1; 6]));
    let cases = [
        (Reason::ToPodNotIp, to_pod(lldp(60))),
        (Reason::ToPodVlanTagged, tagged),
        (Reason::ToPodMulticast, multicast),
        (Reason::ToPodOtherMac, to_other),
        (Reason::ToPodNoHostLink, ip.clone()),
    ];
    for (reason, frame) in cases {
        assert_eq!(probe.run_egress("guard", &frame, 9).return_value, SHOT);
        assert_eq!(probe.records(), [Record { reason, slot: 7, frame }]);
    }
    probe.set_pod(None);
    // A netdev without a slot, as one that an earlier agent has cut off.
    probe.redirect.links.remove(&LOOPBACK).unwrap();
    assert_eq!(probe.run_egress("guard", &ip, 9).return_value, SHOT);
    let expected = Record { reason: Reason::ToPodNotReady, slot: 0, frame: ip };
    assert_eq!(probe.records(), [expected]);
}

#[test]
fn a_flood_of_one_link_has_few_records_and_the_others_are_counted() {
    let mut probe = Probe::new();
    let (frame, flood) = (lldp(60), 20 * BURST);
    assert_eq!(probe.action(&frame, Some(1)), DROP);
    let begin = Instant::now();
    for _ in 1..flood {
        assert_eq!(probe.run(&frame), DROP);
    }
    let refilled = begin.elapsed().div_duration_f64(INTERVAL) as u64 + 1;
    let recorded = probe.records().len() as u64;
    assert!((BURST..=BURST + refilled).contains(&recorded), "{recorded} of {refilled}");
    let lost = probe.redirect.drops_unrecorded().unwrap();
    assert_eq!((recorded + lost, probe.dropped_for("not_ip")), (flood, flood));
    // Another link has its own, and so have frames to the pod.
    assert_eq!(probe.action(&frame, Some(2)), DROP);
    probe.redirect.links.insert(LOOPBACK, 1, 0).unwrap();
    assert_eq!(probe.run_egress("guard", &frame, 9).return_value, SHOT);
    let links: Vec<_> = probe.records().iter().map(|record| (record.reason, record.slot)).collect();
    let expected = [(FrameDropReason::NotIp, 2), (FrameDropReason::ToPodNotIp, 1)];
    assert_eq!(links, expected);
    assert_eq!(probe.redirect.drops_unrecorded().unwrap(), lost);
}

#[test]
fn what_the_full_ring_has_no_room_for_is_counted() {
    let mut probe = Probe::new();
    let frame = lldp(60);
    for _ in 0..RING.div_ceil(BURST) + 1 {
        probe.refill_records();
        assert_eq!(probe.action(&frame, Some(1)), DROP);
        (1..BURST).for_each(|_| assert_eq!(probe.run(&frame), DROP));
    }
    let dropped = probe.dropped_for("not_ip");
    assert_eq!(probe.redirect.drops_unrecorded().unwrap(), dropped - RING);
    assert_eq!(probe.records().len() as u64, RING);
    // There is room again.
    probe.refill_records();
    assert_eq!(probe.run(&frame), DROP);
    assert_eq!(probe.records().len(), 1);
    assert_eq!(probe.redirect.drops_unrecorded().unwrap(), dropped - RING);
}
