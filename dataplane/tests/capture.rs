//! Copies of packets for a capture, and lists of flows, of workers on memory links.

use std::sync::Arc;

use podgate_dataplane::worker::{
    Capture, CaptureFilter, CapturePoint, CaptureSpec, CapturedPacket, CapturedPod, Disposition,
};
use podgate_tables::address::Address;
use podgate_tables::drop_reason::DropReason;
use podgate_tables::ids::LinkId;
use podgate_tables::policy::Cause;
use podgate_test_support::*;

const CLIENT: u16 = 40_000;

fn segment(flags: &str, ack: Option<u32>, payload: &[u8]) -> Vec<u8> {
    let (src, dst) = (ADDRESSES[1], ADDRESSES[2]);
    tcp(A, &TcpPacket { src, dst, ports: [CLIENT, 80], seq: 100, ack, flags, payload })
}

fn reply(flags: &str, ack: Option<u32>) -> Vec<u8> {
    let (src, dst) = (ADDRESSES[2], ADDRESSES[1]);
    tcp(B, &TcpPacket { src, dst, ports: [80, CLIENT], seq: 900, ack, flags, payload: b"" })
}

fn spec(link: LinkId, filters: &[CaptureFilter]) -> CaptureSpec {
    let addresses = vec![Address::v4(ADDRESSES[link.index()])];
    CaptureSpec {
        pods: vec![CapturedPod { link, addresses }],
        filters: filters.to_vec(),
        snap_len: 65_549,
        packets: 100,
        bytes: 1 << 20,
    }
}

fn start(rig: &mut Rig, spec: CaptureSpec) -> Arc<Capture> {
    let capture = Capture::new(spec);
    rig.workers.iter_mut().for_each(|worker| worker.set_capture(Some(Arc::clone(&capture))));
    capture
}

fn copies(capture: &Capture) -> Vec<CapturedPacket> {
    std::iter::from_fn(|| capture.pop()).collect()
}

#[test]
fn a_forwarded_packet_is_copied_before_and_after_policy_with_the_rule_that_allowed_it() {
    let mut rig = Rig::with(IngressOfB::FromA(None));
    let capture = start(&mut rig, spec(B, &[]));
    let sent = segment("S", None, b"");
    let out = rig.send(A, &sent);
    let copied = copies(&capture);
    let [before, after] = &copied[..] else { panic!("{copied:?}") };
    assert_eq!(before.point, CapturePoint::Received(Disposition::Forwarded));
    assert_eq!((before.link, &*before.data, before.len as usize), (A, &sent[..], sent.len()));
    assert_eq!((after.point, after.link), (CapturePoint::Transmitted, B));
    assert_eq!(*after.data, *out[0].1, "as it was transmitted");
    for copy in [before, after] {
        assert_eq!(copy.verdict.causes, [Some(Cause::Unenforced), Some(Cause::Allowed(RULE))]);
        assert_eq!(copy.epoch.0, 1);
    }
    // The flow is known: what allowed it is, too.
    rig.send(B, &reply("S", Some(101)));
    rig.send(A, &segment("", Some(901), b"hello"));
    let copied = copies(&capture);
    assert_eq!(copied.len(), 4);
    for copy in &copied {
        assert_eq!(copy.verdict.causes, [None, Some(Cause::Allowed(RULE))], "{copy:?}");
    }
    rig.assert_no_frame_is_lost();
}

#[test]
fn a_dropped_packet_is_copied_with_its_reason() {
    let mut rig = Rig::with(IngressOfB::Closed);
    let dropped = CaptureFilter { dropped: Some(true), ..CaptureFilter::default() };
    let capture = start(&mut rig, spec(A, &[dropped]));
    assert!(rig.send(A, &segment("S", None, b"")).is_empty());
    let copied = copies(&capture);
    let [copy] = &copied[..] else { panic!("{copied:?}") };
    assert_eq!(copy.point, CapturePoint::Received(Disposition::Dropped(DropReason::PolicyDenied)));
    assert_eq!(copy.verdict.causes[1], Some(Cause::DefaultDeny(DENY_SET)));
    rig.assert_no_frame_is_lost();
}

#[test]
fn only_what_was_asked_for_is_copied_and_the_same_is_forwarded_and_counted() {
    let mut with = Rig::with(IngressOfB::FromA(None));
    let mut without = Rig::with(IngressOfB::FromA(None));
    let port = CaptureFilter { port: Some(81), ..CaptureFilter::default() };
    let none = start(&mut with, spec(A, &[port]));
    let packets = [
        (A, segment("S", None, b"")),
        (B, reply("S", Some(101))),
        (A, segment("", Some(901), b"hello")),
        (A, segment("", Some(901), b"hello again")),
        (A, vec![0; 20]),
    ];
    for (link, packet) in &packets {
        assert_eq!(with.send(*link, packet), without.send(*link, packet));
    }
    assert!(copies(&none).is_empty());
    assert_eq!(with.counts(), without.counts());
    // Without a capture nothing is copied any more.
    let capture = start(&mut with, CaptureSpec { snap_len: 64, ..spec(A, &[]) });
    with.workers.iter_mut().for_each(|worker| worker.set_capture(None));
    with.send(A, &segment("", Some(901), b"hello"));
    assert!(copies(&capture).is_empty());
    let capture = start(&mut with, CaptureSpec { snap_len: 64, ..spec(A, &[]) });
    with.send(A, &segment("", Some(901), &[7; 100]));
    let copied = copies(&capture);
    assert_eq!(copied.len(), 2);
    assert!(copied.iter().all(|copy| copy.data.len() == 64 && copy.len == 154), "{copied:?}");
    with.assert_no_frame_is_lost();
}

#[test]
fn what_waited_and_is_dropped_later_has_a_copy_that_says_so() {
    let mut rig = Rig::with(IngressOfB::Open);
    let capture = start(&mut rig, spec(A, &[]));
    let fragments = cut(&segment("S", None, &[7; 64]), 1, 60);
    assert!(rig.send(A, &fragments[0]).is_empty());
    let copied = copies(&capture);
    let [held] = &copied[..] else { panic!("{copied:?}") };
    assert_eq!(held.point, CapturePoint::Received(Disposition::Held));
    rig.now = rig.now.plus_secs(31);
    rig.run();
    let reason = DropReason::FragmentTimeout;
    assert_eq!(rig.dropped(reason), 1);
    let copied = copies(&capture);
    let [dropped] = &copied[..] else { panic!("{copied:?}") };
    assert_eq!(dropped.point, CapturePoint::Received(Disposition::Dropped(reason)));
    assert_eq!((dropped.link, &dropped.data, dropped.len), (A, &held.data, held.len));
    assert!(dropped.time > held.time);
    rig.assert_no_frame_is_lost();
}

#[test]
fn each_dropped_packet_has_one_copy_that_says_so() {
    let mut rig = Rig::with(IngressOfB::Open);
    let capture = start(&mut rig, spec(A, &[]));
    let sent = segment("S", None, &[7; 64]);
    let mut overlapping = cut(&sent, 1, 28)[1].clone();
    overlapping[34..].fill(0xff);
    let fragments = cut(&sent, 1, 60);
    for fragment in [&fragments[0], &overlapping].into_iter().chain(&fragments[1..]) {
        assert!(rig.send(A, fragment).is_empty());
    }
    let reason = DropReason::FragmentOverlap;
    let dropped = rig.dropped(reason);
    assert_eq!(dropped, fragments.len() as u64 + 1);
    let copied = copies(&capture);
    let says_so =
        |copy: &&CapturedPacket| copy.point == CapturePoint::Received(Disposition::Dropped(reason));
    assert_eq!(copied.iter().filter(says_so).count() as u64, dropped, "{copied:?}");
    let mut data: Vec<_> = copied.iter().filter(says_so).map(|copy| &copy.data).collect();
    data.sort();
    data.dedup();
    assert_eq!(data.len() as u64, dropped, "of different packets");
    rig.assert_no_frame_is_lost();
}
