//! Frames that the BPF programs dropped have events that name the reason and the pod.

#![allow(clippy::unwrap_used, reason = "a test may fail here")]

use std::time::Duration;

use podgate_dataplane::worker::event_of_dropped;
use podgate_tables::address::Address;
use podgate_tables::drop_reason::FrameDropReason;
use podgate_tables::event::{Ethernet, EventKind};
use podgate_tables::ids::{Epoch, LinkId};
use podgate_tables::proto;
use podgate_tables::time::Nanos;
use podgate_tables::tuple::Tuple;
use podgate_test_support::*;
use podgate_xdp_redirect::{DroppedData, DroppedFrame};

const UNKNOWN: Address = Address::v4([0; 4]);

/// What the event of a frame says.
#[derive(PartialEq, Eq, Debug)]
struct EventFields {
    link: LinkId,
    tuple: Tuple,
    ethernet: Option<Ethernet>,
    has_addresses: bool,
}

fn fields_of(frame: &DroppedFrame<'_>) -> EventFields {
    let event = event_of_dropped(frame, Nanos(7), &snapshot(3, IngressOfB::Open));
    assert_eq!((event.time, event.epoch, event.frontend), (Nanos(7), Epoch(3), None));
    let EventKind::ProgramDrop { reason, ethernet, has_addresses } = event.kind else {
        panic!("{event:?}")
    };
    assert_eq!(reason, frame.reason);
    EventFields { link: event.link, tuple: event.tuple, ethernet, has_addresses }
}

/// A frame that was dropped on a link.
fn on(link: LinkId, reason: FrameDropReason, frame: &[u8]) -> DroppedFrame<'_> {
    let seen = DroppedData::Frame(frame);
    DroppedFrame { reason, age: Duration::ZERO, slot: link.0, is_attached: true, seen }
}

/// What is known of a packet without an IP header.
fn without_addresses([src, dst]: [Address; 2]) -> Tuple {
    Tuple { src, dst, protocol: 0, src_port: 0, dst_port: 0 }
}

/// An IP packet from outside to pod B, as the kernel sends it.
fn to_b(ports: [u16; 2]) -> Vec<u8> {
    let mut frame = udp(HOST, OUTSIDE, ADDRESSES[2], ports, b"query");
    frame[..6].copy_from_slice(&pod_mac(B));
    frame[6..12].copy_from_slice(&link_mac(B));
    frame
}

#[test]
fn the_pod_of_the_link_sent_a_frame_that_is_not_ip() {
    let mut frame = udp(A, ADDRESSES[1], ADDRESSES[2], [1, 53], b"query");
    frame[12..14].copy_from_slice(&[0x88, 0xcc]);
    let ethernet = Some(Ethernet { source: pod_mac(A), destination: link_mac(A) });
    let tuple = without_addresses([Address::v4(ADDRESSES[1]), UNKNOWN]);
    let expected = EventFields { link: A, tuple, ethernet, has_addresses: false };
    let reason = FrameDropReason::NotIp;
    assert_eq!(fields_of(&on(A, reason, &frame)), expected);
    let [cut, nothing] = [&frame[..14], &[]];
    assert_eq!(fields_of(&on(A, reason, cut)), expected);
    let expected = EventFields { ethernet: Some(Ethernet::default()), ..expected };
    assert_eq!(fields_of(&on(A, reason, nothing)), expected);
    // Another link is in that slot by now, or none.
    let tuple = without_addresses([UNKNOWN; 2]);
    let gone = DroppedFrame { is_attached: false, ..on(A, reason, &frame) };
    assert_eq!(fields_of(&gone), EventFields { link: A, tuple, ethernet, has_addresses: false });
}

#[test]
fn a_source_that_is_not_the_pods_is_not_reported() {
    let mut own = udp_v6(A, ADDRESSES_V6[1], ADDRESSES_V6[2], [1, 53], b"query");
    own[20] = 58;
    let fields_of_frame = |frame: &[u8]| fields_of(&on(A, FrameDropReason::ArpNdSpoofed, frame));
    let [src, dst] = [ADDRESSES_V6[1], ADDRESSES_V6[2]].map(Address::v6);
    let tuple = Tuple { src, dst, protocol: 58, src_port: 0, dst_port: 0 };
    let EventFields { tuple: seen, has_addresses, .. } = fields_of_frame(&own);
    assert_eq!((seen, has_addresses), (tuple, true));
    let mut spoofed = own;
    spoofed[22..38].copy_from_slice(&ADDRESSES_V6[2]);
    let EventFields { tuple: seen, has_addresses, .. } = fields_of_frame(&spoofed);
    let tuple = without_addresses([Address::v4(ADDRESSES[1]), UNKNOWN]);
    assert_eq!((seen, has_addresses), (tuple, false));
}

#[test]
fn a_frame_to_a_pod_came_by_the_kernel() {
    let frame = to_b([5, 53]);
    let [src, dst] = [OUTSIDE, ADDRESSES[2]].map(Address::v4);
    let tuple = Tuple { src, dst, protocol: proto::UDP, src_port: 5, dst_port: 53 };
    let ethernet = Some(Ethernet { source: link_mac(B), destination: pod_mac(B) });
    let expected = EventFields { link: HOST, tuple, ethernet, has_addresses: true };
    assert_eq!(fields_of(&on(B, FrameDropReason::ToPodNoHostLink, &frame)), expected);
    // To another pod's address, to a multicast group, without an IP header: only the pod of the
    // link is known.
    let mut other = frame.clone();
    other[30..34].copy_from_slice(&[224, 0, 0, 1]);
    let mut not_ip = frame.clone();
    not_ip[12] = 0x88;
    let tuple = without_addresses([UNKNOWN, dst]);
    let without = EventFields { link: HOST, tuple, ethernet, has_addresses: false };
    assert_eq!(fields_of(&on(B, FrameDropReason::ToPodMulticast, &other)), without);
    assert_eq!(fields_of(&on(B, FrameDropReason::ToPodNotIp, &not_ip)), without);
    // A netdev without a slot has no pod, but the packet says where it should have gone.
    let not_ready = on(HOST, FrameDropReason::ToPodNotReady, &frame);
    let expected = fields_of(&on(B, FrameDropReason::ToPodNoHostLink, &frame));
    assert_eq!(fields_of(&DroppedFrame { is_attached: false, ..not_ready }), expected);
}

#[test]
fn a_packet_to_a_tunnel_of_the_node_is_that_of_the_pod_with_its_address() {
    let datagram = |source: Address| {
        let source = (source.bits(), 4000);
        let destination = (Address::v4(ADDRESSES[0]).bits(), 4789);
        let seen = DroppedData::Datagram { source, destination };
        let reason = FrameDropReason::ToNodeTunnel;
        DroppedFrame { seen, is_attached: false, ..on(HOST, reason, &[]) }
    };
    for (source, link) in [(ADDRESSES[1], A), (OUTSIDE, HOST)] {
        let [src, dst] = [source, ADDRESSES[0]].map(Address::v4);
        let tuple = Tuple { src, dst, protocol: proto::UDP, src_port: 4000, dst_port: 4789 };
        let expected = EventFields { link, tuple, ethernet: None, has_addresses: true };
        assert_eq!(fields_of(&datagram(src)), expected);
    }
}
