//! Copies of packets for a capture, and lists of flows, of workers on memory links.

use std::sync::Arc;

use podgate_dataplane::worker::{
    Capture, CaptureFilter, CapturePoint, CaptureSpec, CapturedPacket, CapturedPod, Fate,
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
    assert_eq!(before.point, CapturePoint::Received(Fate::Forwarded));
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
    assert_eq!(copy.point, CapturePoint::Received(Fate::Dropped(DropReason::PolicyDenied)));
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
