//! ARP and neighbour discovery: what passes to the kernel and to the pod, and what doesn't.

use std::mem::offset_of;
use std::time::Instant;

use aya::TestRunResult;
use aya::maps::Map;
use aya::programs::ProgramType;
use aya::sys::{BpfHelper, is_helper_supported};
use aya::util::nr_cpus;

use super::*;
use crate::HostFrame;
use crate::redirect::{classifier, neighbours_max};
use crate::test_netns::in_new_namespaces;

const HAIRPIN: HostFrame = HostFrame::Hairpin { sender: None };

// `net/sched`'s and tcx's verdicts, `include/uapi/linux/pkt_cls.h`.
pub(super) const NEXT: u32 = u32::MAX;
pub(super) const SHOT: u32 = 2;
const TC_REDIRECT: u32 = 7;

/// What [`ethernet`] writes.
const POD_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const POD_V4: u32 = 0x0a00_0001;
const POD_V6: u128 = 0xfd << 120 | 1;
/// Made of [`POD_MAC`].
const POD_LINK_LOCAL: u128 = 0xfe80 << 112 | 0x0000_00ff_fe00_0002;
const GATEWAY_LINK_LOCAL: u128 = 0xfe80 << 112 | 1;
/// `ff02::1`, where much of neighbour discovery goes.
const ALL_NODES: u128 = 0xff02 << 112 | 1;
const STRANGER_V6: u128 = 0xfd << 120 | 2;

/// Requests that may wait for replies, as in `neighbours.bpf.h`.
const REQUESTS_MAX: usize = 16;

const SOLICIT_ROUTER: u8 = 133;
const SOLICIT: u8 = 135;
const ADVERTISE: u8 = 136;

/// The pod behind the loopback netdev.
pub(super) fn pod() -> Pod {
    let addresses = vec![0xffff_0000_0000 | u128::from(POD_V4), POD_V6];
    Pod { mac: POD_MAC, addresses }
}

/// An ARP request of the pod for another address.
pub(super) fn arp() -> Vec<u8> {
    let mut frame = ethernet(&[], ARP);
    frame.extend([0, 1, 0x08, 0, 6, 4, 0, 1]);
    frame.extend(POD_MAC);
    frame.extend(POD_V4.to_be_bytes());
    frame.extend([0; 6]);
    frame.extend([10, 0, 0, 2]);
    frame
}

/// A message of neighbour discovery from the pod.
#[derive(Clone)]
struct Nd {
    kind: u8,
    source: u128,
    destination: u128,
    hop_limit: u8,
    /// Of an advertisement and a solicitation.
    target: u128,
    options: Vec<u8>,
}

fn solicitation() -> Nd {
    let options = [&[1, 1][..], &POD_MAC].concat();
    let (source, destination) = (POD_V6, ALL_NODES);
    Nd { kind: SOLICIT, source, destination, hop_limit: 255, target: STRANGER_V6, options }
}

fn advertisement() -> Nd {
    let options = [&[2, 1][..], &POD_MAC].concat();
    let destination = GATEWAY_LINK_LOCAL;
    Nd { kind: ADVERTISE, destination, target: POD_V6, options, ..solicitation() }
}

impl Nd {
    fn message(&self) -> Vec<u8> {
        let mut message = vec![self.kind, 0, 0, 0, 0, 0, 0, 0];
        if self.kind != SOLICIT_ROUTER {
            message.extend(self.target.to_be_bytes());
        }
        message.extend(&self.options);
        message
    }

    /// RFC 4443 §2.3.
    fn checksum(&self, message: &[u8]) -> u16 {
        let pseudo = [self.source.to_be_bytes(), self.destination.to_be_bytes()].concat();
        let words = [&pseudo, message].into_iter().flat_map(|part| part.chunks(2));
        let word = |word: &[u8]| u32::from(word[0]) << 8 | word.get(1).map_or(0, |b| u32::from(*b));
        let mut sum: u32 = words.map(word).sum::<u32>() + message.len() as u32 + u32::from(ICMPV6);
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    fn frame(&self) -> Vec<u8> {
        let mut message = self.message();
        let checksum = self.checksum(&message);
        message[2..4].copy_from_slice(&checksum.to_be_bytes());
        let mut frame = ethernet(&[], IPV6);
        let group = self.destination.to_be_bytes();
        if group[0] == 0xff {
            frame[..6].copy_from_slice(&[&[0x33, 0x33], &group[12..]].concat());
        }
        frame.extend([0x60, 0, 0, 0, 0, message.len() as u8, ICMPV6, self.hop_limit]);
        frame.extend(self.source.to_be_bytes());
        frame.extend(self.destination.to_be_bytes());
        frame.extend(message);
        frame
    }
}

/// The same frame with some bytes replaced.
pub(super) fn with(mut frame: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    frame
}

fn with_tail(mut frame: Vec<u8>, tail: &[u8]) -> Vec<u8> {
    frame.extend(tail);
    frame
}

/// An ARP reply of the pod to 10.0.0.2.
fn arp_reply() -> Vec<u8> {
    with(arp(), 21, &[2])
}

/// An ARP request of 10.0.0.2 for the pod's address.
fn arp_request_to_pod() -> Vec<u8> {
    let request = with(with(arp(), 22, &GATEWAY_MAC), 28, &[10, 0, 0, 2]);
    to_pod(with(request, 38, &POD_V4.to_be_bytes()))
}

/// A solicitation of the pod's address, from `source`.
fn solicitation_to_pod(source: u128) -> Vec<u8> {
    let options = [&[1, 1][..], &GATEWAY_MAC].concat();
    to_pod(Nd { source, target: POD_V6, options, ..solicitation() }.frame())
}

/// An ARP probe for an address (RFC 5227 §1.1).
fn arp_probe(target: u32) -> Vec<u8> {
    with(with(arp(), 28, &[0; 4]), 38, &target.to_be_bytes())
}

/// Duplicate address detection (RFC 4862 §5.4.2) of an address.
fn detection(target: u128) -> Nd {
    let options = [&[14, 1][..], &[7; 6]].concat();
    Nd { source: 0, target, options, ..solicitation() }
}

fn well_formed() -> Vec<Vec<u8>> {
    let router = Nd { kind: SOLICIT_ROUTER, ..solicitation() };
    vec![
        arp(),
        with_tail(arp(), &[0; 18]),
        arp_reply(),
        arp_probe(POD_V4),
        solicitation().frame(),
        Nd { options: vec![], ..solicitation() }.frame(),
        Nd { source: POD_LINK_LOCAL, ..solicitation() }.frame(),
        Nd { source: POD_LINK_LOCAL, destination: GATEWAY_LINK_LOCAL, ..solicitation() }.frame(),
        detection(POD_V6).frame(),
        detection(POD_LINK_LOCAL).frame(),
        Nd { source: 0, options: vec![], ..router.clone() }.frame(),
        router.frame(),
        advertisement().frame(),
        Nd { target: POD_LINK_LOCAL, ..advertisement() }.frame(),
    ]
}

#[test]
fn what_a_pod_says_of_itself_by_the_rule_passes() {
    let mut probe = Probe::new();
    for (nth, frame) in well_formed().iter().enumerate() {
        assert_eq!(probe.verdict_on_request(frame), Verdict::Kernel, "{nth}");
    }
}

#[test]
fn a_pod_sends_no_data_in_fields_that_receivers_ignore() {
    let mut probe = Probe::new();
    let with_nonce = Nd { options: detection(POD_V6).options, ..solicitation() };
    for (nth, frame) in
        [with(arp(), 32, b"secret"), with(arp_reply(), 32, b"secret")].iter().enumerate()
    {
        assert_eq!(probe.verdict_on_request(frame), Verdict::Dropped, "{nth}");
    }
    // The target MAC of a request is zero or broadcast, that of a reply the receiver's.
    for allowed in [with(arp(), 32, &[0xff; 6]), with(arp_reply(), 32, &GATEWAY_MAC)] {
        assert_eq!(probe.verdict_on_request(&allowed), Verdict::Kernel);
    }
    let nd = [
        with_nonce.frame(),
        // Flow label, reserved bits, checksum, a group's Ethernet address.
        with(solicitation().frame(), 17, &[7]),
        with(solicitation().frame(), 58, &[7]),
        with(advertisement().frame(), 58, &[0x1f]),
        with(solicitation().frame(), 56, &[7, 7]),
        with(solicitation().frame(), 5, &[7]),
        with(solicitation().frame(), 0, &GATEWAY_MAC),
        with(advertisement().frame(), 0, &[0xff; 6]),
    ];
    for (nth, frame) in nd.iter().enumerate() {
        assert!(matches!(probe.verdict_on_request(frame), Verdict::Worker(_)), "{nth}");
    }
}

#[test]
fn a_pod_replies_once_to_each_request_for_its_own_address() {
    let mut probe = Probe::new();
    let to_stranger = Nd { destination: 0xfe80 << 112 | 9, ..advertisement() }.frame();
    let replies = [arp_reply(), advertisement().frame()];
    for reply in &replies {
        assert_eq!(probe.verdict(reply), Verdict::Dropped, "nobody requested it");
    }
    // A request for another address.
    probe.run_egress("guard", &to_pod(with(arp_request_to_pod(), 38, &[10, 0, 0, 9])), 7);
    assert_eq!(probe.verdict(&replies[0]), Verdict::Dropped);
    for _ in 0..3 {
        probe.request_to_pod();
        probe.request_to_pod();
        for reply in &replies {
            assert_eq!([0; 3].map(|_| probe.run(reply)), [PASS, PASS, DROP]);
        }
        assert_eq!(probe.verdict(&to_stranger), Verdict::Dropped);
    }
    // An ARP probe is answered to no address.
    let probed = with(with(arp_request_to_pod(), 28, &[0; 4]), 38, &POD_V4.to_be_bytes());
    let answer = with(arp_reply(), 38, &[0; 4]);
    assert_eq!(probe.run(&answer), DROP);
    probe.run_egress("guard", &probed, 7);
    assert_eq!(probe.run(&answer), PASS);
    assert!(probe.dropped_for("arp_nd_rate_limit") > 0);
}

#[test]
fn arp_that_is_more_or_other_than_arp_is_dropped() {
    let mut probe = Probe::new();
    let mut bad = vec![
        with_tail(arp(), &[1]),
        with_tail(arp(), &[0, 0, 0, 1]),
        // Longer than the least frame.
        with_tail(arp(), &[0; 19]),
        // Another hardware type, another protocol, longer addresses, RARP.
        with(arp(), 15, &[6]),
        with(arp(), 16, &[0x86, 0xdd]),
        with(arp(), 18, &[8]),
        with(arp(), 19, &[16]),
        with(arp(), 21, &[3]),
    ];
    bad.extend((14..arp().len()).map(|length| arp()[..length].to_vec()));
    bad.push([&ethernet(&[C_TAG], ARP), &arp()[14..]].concat());
    for (nth, frame) in bad.iter().enumerate() {
        let before = probe.dropped_for("not_ip");
        assert_eq!(probe.verdict(frame), Verdict::Dropped, "{nth}");
        assert!(probe.dropped_for("not_ip") > before);
    }
}

#[test]
fn discovery_that_breaks_the_rule_is_ip_like_any_other() {
    let mut probe = Probe::new();
    let s = solicitation;
    let payload = Nd { options: vec![0x41; 32], ..s() };
    let bad = [
        with_tail(s().frame(), &[0]),
        payload.frame(),
        Nd { options: vec![1, 1, 2], ..s() }.frame(),
        // Options: of no length, of two units, of another kind, three of them, two that differ.
        Nd { options: vec![1, 0, 0, 0, 0, 0, 0, 0], ..s() }.frame(),
        Nd { options: [&[14, 2][..], &[0; 14]].concat(), ..s() }.frame(),
        Nd { options: vec![5, 1, 0, 0, 0, 0, 5, 220], ..s() }.frame(),
        Nd { options: [s().options, s().options, s().options].concat(), ..s() }.frame(),
        Nd { options: [s().options, vec![2, 1, 9, 9, 9, 9, 9, 9]].concat(), ..s() }.frame(),
        with(s().frame(), 55, &[1]),
        with(s().frame(), 18, &[0, 31]),
        // Not from this link, not to it.
        Nd { hop_limit: 254, ..s() }.frame(),
        Nd { destination: STRANGER_V6, ..s() }.frame(),
        Nd { destination: 0xff05 << 112 | 1, ..s() }.frame(),
        Nd { destination: 0xfec0 << 112 | 1, ..s() }.frame(),
        // Router advertisement, redirect, echo request.
        Nd { kind: 134, ..s() }.frame(),
        Nd { kind: 137, ..s() }.frame(),
        Nd { kind: 128, ..s() }.frame(),
        // After an extension header.
        with(s().frame(), 20, &[HOP_BY_HOP]),
        [&ethernet(&[C_TAG], IPV6), &s().frame()[14..]].concat(),
    ];
    for (nth, frame) in bad.iter().enumerate() {
        assert!(matches!(probe.verdict(frame), Verdict::Worker(_)), "{nth}");
    }
    for length in 54..s().frame().len() {
        assert!(matches!(probe.verdict(&s().frame()[..length]), Verdict::Worker(_)), "{length}");
    }
}

#[test]
fn a_pod_that_claims_another_pods_address_is_not_heard() {
    let mut probe = Probe::new();
    let other_mac = [2, 0, 0, 0, 0, 3];
    let lies = [
        // Ethernet source, sender's MAC, sender's address.
        with(arp(), 6, &other_mac),
        with(arp(), 22, &other_mac),
        with(arp(), 28, &[10, 0, 0, 9]),
        // A reply from no address.
        with(arp_reply(), 28, &[0; 4]),
        // Whoever has the address, or is about to, would take these for a claim to it.
        arp_probe(0x0a00_0009),
        detection(STRANGER_V6).frame(),
        detection(GATEWAY_LINK_LOCAL).frame(),
        Nd { target: 0, ..advertisement() }.frame(),
        with(solicitation().frame(), 6, &other_mac),
        Nd { source: STRANGER_V6, ..solicitation() }.frame(),
        Nd { source: GATEWAY_LINK_LOCAL, ..solicitation() }.frame(),
        Nd { options: [&[1, 1][..], &other_mac].concat(), ..solicitation() }.frame(),
        Nd { target: STRANGER_V6, ..advertisement() }.frame(),
        Nd { target: GATEWAY_LINK_LOCAL, ..advertisement() }.frame(),
        Nd { source: GATEWAY_LINK_LOCAL, ..advertisement() }.frame(),
        Nd { source: STRANGER_V6, kind: SOLICIT_ROUTER, ..solicitation() }.frame(),
    ];
    for (nth, frame) in lies.iter().enumerate() {
        let before = probe.dropped_for("arp_nd_spoofed");
        assert_eq!(probe.verdict(frame), Verdict::Dropped, "{nth}");
        assert!(probe.dropped_for("arp_nd_spoofed") > before);
    }
    // All ARP and ND of a pod that is not known or not ready is dropped.
    probe.set_pod(None);
    for frame in well_formed() {
        assert_eq!(probe.verdict(&frame), Verdict::Dropped);
    }
    assert!(probe.dropped_for("arp_nd_not_ready") > 0);
    assert_eq!(probe.run_egress("guard", &arp(), 0).return_value, NEXT);
}

#[test]
fn a_pod_may_send_so_many_of_them_and_no_more() {
    const BURST: usize = 200;
    let mut probe = Probe::new();
    for frame in [arp(), solicitation().frame()] {
        assert_eq!(probe.action(&frame, Some(NO_SOCKETS)), PASS);
        let begin = Instant::now();
        let passed = (0..4 * BURST).filter(|_| probe.run(&frame) == PASS).count();
        // While this runs, one more may pass every 10 ms.
        let most = BURST + 1 + (begin.elapsed().as_millis() / 10) as usize;
        assert!((BURST - 1..=most).contains(&passed), "{passed} of {most}");
        assert!(probe.dropped_for("arp_nd_rate_limit") > 0);
        // Another link has its own.
        assert_eq!(probe.action(&frame, Some(ONLY_WORKER_0)), PASS);
    }
}

#[test]
fn requests_for_a_pod_use_up_neither_its_own_requests_nor_its_replies() {
    const BURST: usize = 5000;
    let mut probe = Probe::new();
    let to_many = Nd { destination: ALL_NODES, ..advertisement() }.frame();
    let messages = [
        (arp(), arp_reply(), with(arp_reply(), 0, &[0xff; 6])),
        (solicitation().frame(), advertisement().frame(), to_many),
    ];
    for (request, reply, to_many) in messages {
        probe.request_to_pod();
        assert_eq!(probe.action(&reply, Some(NO_SOCKETS)), PASS);
        let begin = Instant::now();
        let replies = (0..4 * BURST).filter(|_| {
            probe.request_to_pod();
            probe.run(&reply) == PASS
        });
        let passed = replies.count();
        // While this runs, one more may pass every 200 µs.
        let most = BURST + 1 + (begin.elapsed().as_micros() / 200) as usize;
        assert!((BURST - 1..=most).contains(&passed), "{passed} of {most}");
        assert_eq!(probe.run(&request), PASS);
        // A reply to many is no answer to a request.
        probe.request_to_pod();
        assert_eq!(probe.action(&reply, Some(NO_SOCKETS)), PASS);
        let begin = Instant::now();
        let passed = (0..1000).filter(|_| probe.run(&to_many) == PASS).count();
        // A burst of 200, and one more every 10 ms.
        let most = 201 + (begin.elapsed().as_millis() / 10) as usize;
        assert!(passed <= most, "{passed} of {most}");
        probe.request_to_pod();
        assert_eq!(probe.run(&reply), PASS);
    }
}

impl Probe {
    /// Lets as many frames of ARP and ND go to the pod in `slot` as may at once.
    fn refill_to_pod(&mut self, slot: u32) {
        let map = self.ebpf.map_mut("TO_POD_TIMES").unwrap();
        let mut times = Array::<_, [u64; 3]>::try_from(map).unwrap();
        times.set(slot, [0; 3], 0).unwrap();
    }

    /// Sends requests for the pod's addresses to it, from 10.0.0.2 and the gateway.
    fn request_to_pod(&mut self) {
        let slot = self.redirect.links.get(&LOOPBACK, 0).unwrap_or(0);
        self.refill_to_pod(slot);
        for request in [arp_request_to_pod(), solicitation_to_pod(GATEWAY_LINK_LOCAL)] {
            assert_eq!(self.run_egress("guard", &request, 7).return_value, NEXT);
        }
    }

    /// The verdict on a frame that may be a reply, and is requested often enough.
    fn verdict_on_request(&mut self, frame: &[u8]) -> Verdict {
        (0..REQUESTS_MAX).for_each(|_| self.request_to_pod());
        self.verdict(frame)
    }

    /// Runs one of the programs at the egress hook for a frame that the kernel had from the netdev
    /// `from`, or made itself if that is 0.
    pub(super) fn run_egress(&mut self, program: &str, frame: &[u8], from: u32) -> TestRunResult {
        let mut context = [0_u8; size_of::<SkBuff>()];
        let at = offset_of!(SkBuff, ingress_ifindex);
        context[at..at + 4].copy_from_slice(&from.to_ne_bytes());
        let at = offset_of!(SkBuff, ifindex);
        context[at..at + 4].copy_from_slice(&LOOPBACK.to_ne_bytes());
        let mut out = vec![0; 2048];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            ..TestRunOptions::new()
        };
        let program = classifier(&mut self.ebpf, program).unwrap();
        let result = program.test_run(options).unwrap();
        self.out = out;
        result
    }
}

/// The beginning of `struct __sk_buff`, `include/uapi/linux/bpf.h`.
#[repr(C)]
struct SkBuff {
    len: u32,
    pkt_type: u32,
    mark: u32,
    queue_mapping: u32,
    protocol: u32,
    vlan: [u32; 3],
    priority: u32,
    ingress_ifindex: u32,
    ifindex: u32,
}

/// The same frame, from the gateway to the pod.
pub(super) fn to_pod(frame: Vec<u8>) -> Vec<u8> {
    with(with(frame, 0, &POD_MAC), 6, &GATEWAY_MAC)
}

#[test]
fn the_guard_lets_arp_and_discovery_pass_by_the_same_rule() {
    let mut probe = Probe::new();
    for frame in well_formed() {
        assert_eq!(probe.run_egress("guard", &to_pod(frame), 0).return_value, NEXT);
    }
    let bad = [
        with_tail(arp(), &[1]),
        with(arp(), 21, &[3]),
        [&ethernet(&[C_TAG], ARP), &arp()[14..]].concat(),
        ethernet(&[], 0x88cc),
        with_tail(ethernet(&[], 46), &[0; 46]),
    ];
    for (nth, frame) in bad.into_iter().enumerate() {
        assert_eq!(probe.run_egress("guard", &to_pod(frame), 0).return_value, SHOT, "{nth}");
    }
    assert_eq!(
        (probe.dropped_for("to_pod_not_ip"), probe.dropped_for("to_pod_vlan_tagged")),
        (4, 1)
    );
}

#[test]
fn frames_to_a_pod_are_limited_and_those_of_its_node_and_replies_are_counted_apart() {
    const BURST: usize = 5000;
    const BRIDGE_PORT: u32 = 7;
    let mut probe = Probe::new();
    let pairs = [(arp(), with(arp(), 21, &[2])), (solicitation().frame(), advertisement().frame())];
    for (request, reply) in pairs {
        let (request, reply) = (to_pod(request), to_pod(reply));
        let to_many = with(request.clone(), 0, &[0xff; 6]);
        let mut passed = |frame: &[u8], from| {
            probe.refill_to_pod(0);
            let begin = Instant::now();
            let verdicts: Vec<u32> = (0..4 * BURST)
                .map(|_| probe.run_egress("guard", frame, from).return_value)
                .collect();
            assert!(verdicts.iter().all(|verdict| [NEXT, SHOT].contains(verdict)));
            let passed = verdicts.iter().filter(|verdict| **verdict == NEXT).count();
            // While this runs some more may pass: one each 200 µs.
            let most = BURST + 1 + (begin.elapsed().as_micros() / 200) as usize;
            assert!((BURST - 1..=most).contains(&passed), "{passed} of {most}");
            // What is left for others: requests of the node and of another link, their replies.
            let mut passes =
                |frame: &[u8], from| probe.run_egress("guard", frame, from).return_value == NEXT;
            [(&request, 0), (&request, BRIDGE_PORT), (&reply, 0), (&reply, BRIDGE_PORT)]
                .map(|(frame, from)| passes(frame, from))
        };
        let left = passed(&to_many, BRIDGE_PORT);
        assert_eq!((left[0], &left[2..]), (true, &[true, true][..]));
        let left = passed(&request, 0);
        assert_eq!((left[1], left[3]), (true, true));
        let left = passed(&reply, BRIDGE_PORT);
        assert_eq!(left[..3], [true, true, true], "the node's replies are not those of others");
    }
    assert!(probe.dropped_for("to_pod_arp_nd_rate_limit") > 0);
    // Another link has its own.
    probe.redirect.links.insert(LOOPBACK, 1, 0).unwrap();
    assert_eq!(probe.run_egress("guard", &to_pod(arp()), 0).return_value, NEXT);
}

#[test]
fn a_pod_may_answer_whom_discovery_came_from_whatever_the_scope() {
    let mut probe = Probe::new();
    let answer = Nd { destination: STRANGER_V6, ..advertisement() }.frame();
    let again = Nd { destination: STRANGER_V6, ..solicitation() }.frame();
    for frame in [&answer, &again] {
        assert!(matches!(probe.verdict(frame), Verdict::Worker(_)));
    }
    let asked = solicitation_to_pod(STRANGER_V6);
    for _ in 0..REQUESTS_MAX {
        assert_eq!(probe.run_egress("guard", &asked, 0).return_value, NEXT);
    }
    for frame in [&answer, &again] {
        assert_eq!(probe.verdict(frame), Verdict::Kernel);
    }
}

#[test]
fn the_guard_sends_ip_to_the_host_link_and_else_drops_it() {
    let mut probe = Probe::new();
    let frames =
        [v4_tcp().frame(), v6_tcp(&[]).frame(), Nd { kind: 134, ..solicitation() }.frame()];
    for frame in frames.map(to_pod) {
        assert_eq!(probe.run_egress("guard", &frame, 7).return_value, SHOT, "no host link");
        probe.redirect.set_host_link(LOOPBACK).unwrap();
        assert_eq!(probe.run_egress("guard", &frame, 7).return_value, TC_REDIRECT);
        assert_eq!(probe.out[..6], POD_MAC);
        assert_eq!(probe.out[6..12], HostFrame::Foreign.mac());
        assert_eq!(probe.out[12..frame.len()], frame[12..]);
        for other in [[2, 0, 0, 0, 0, 9], [0xff; 6], [1, 0, 0x5e, 0, 0, 1]] {
            let frame = with(frame.clone(), 0, &other);
            assert_eq!(probe.run_egress("guard", &frame, 7).return_value, SHOT);
        }
        let tagged = [&frame[..12], &[0x81, 0, 0, 7], &frame[12..]].concat();
        assert_eq!(probe.run_egress("guard", &tagged, 7).return_value, SHOT);
        probe.redirect.set_host_link(0).unwrap();
    }
    probe.redirect.set_host_link(LOOPBACK).unwrap();
    probe.set_pod(None);
    assert_eq!(probe.run_egress("guard", &to_pod(v4_tcp().frame()), 7).return_value, SHOT);
    let counts = ["no_host_link", "other_mac", "multicast", "vlan_tagged", "not_ready"]
        .map(|reason| probe.dropped_for(&format!("to_pod_{reason}")));
    assert_eq!(counts, [3, 3, 6, 3, 1]);
}

#[test]
fn hairpins_and_what_the_node_sent_are_marked_and_nothing_else_is() {
    let mut probe = Probe::new();
    for frame in [v4_tcp().frame(), v6_tcp(&[]).frame()] {
        for forged in
            [HAIRPIN.mac(), HostFrame::Local.mac()].map(|mac| with(frame.clone(), 6, &mac))
        {
            for (from, mac) in [
                (LOOPBACK, HAIRPIN.mac()),
                (0, HostFrame::Local.mac()),
                (7, HostFrame::Foreign.mac()),
            ] {
                assert_eq!(probe.run_egress("mark", &forged, from).return_value, NEXT);
                assert_eq!(probe.out[6..12], mac, "from {from}");
                assert_eq!(probe.out[12..frame.len()], frame[12..]);
            }
        }
    }
}

#[test]
fn what_a_socket_of_another_namespace_sent_is_not_marked_as_the_nodes() {
    let mut probe = Probe::new();
    let frame = v4_tcp().frame();
    assert_eq!(probe.run_egress("mark", &frame, 0).return_value, NEXT);
    assert_eq!(probe.out[6..12], HostFrame::Local.mac());
    // The kernel gives the frame of a test run a socket of the calling thread's namespace.
    in_new_namespaces(|| assert_eq!(probe.run_egress("mark", &frame, 0).return_value, NEXT));
    let helper = BpfHelper::BPF_FUNC_get_netns_cookie;
    let is_known = is_helper_supported(ProgramType::SchedClassifier, helper).unwrap();
    let other = if is_known { HostFrame::Foreign } else { HostFrame::Local };
    assert_eq!(probe.out[6..12], other.mac());
}

#[test]
fn a_fragment_is_never_marked_as_the_nodes() {
    let mut probe = Probe::new();
    let (v4, v6) = (v4_tcp().frame(), v6_tcp(&[]).frame());
    let fragments = [[0x20, 0], [0, 1], [0x1f, 0xff]].map(|offset| with(v4.clone(), 20, &offset));
    let extended = [HOP_BY_HOP, ROUTING, FRAGMENT, AH, DESTINATION];
    let extended = extended.map(|next| with(v6.clone(), 20, &[next]));
    for frame in fragments.iter().chain(&extended) {
        for (from, mac) in [(0, HostFrame::Foreign.mac()), (LOOPBACK, HAIRPIN.mac())] {
            assert_eq!(probe.run_egress("mark", frame, from).return_value, NEXT);
            assert_eq!(probe.out[6..12], mac, "from {from}");
        }
    }
    let unfragmented = with(v4, 20, &[0x40, 0]);
    assert_eq!(probe.run_egress("mark", &unfragmented, 0).return_value, NEXT);
    assert_eq!(probe.out[6..12], HostFrame::Local.mac());
}

/// A CPU has up to 128 entries for itself (`kernel/bpf/bpf_lru_list.c`).
#[test]
fn however_many_cpus_there_are_8192_neighbours_have_room() {
    for cpus in [1, 2, 64, 256, 4096] {
        assert_eq!(neighbours_max(cpus) as usize - 128 * cpus, 8192);
    }
    let probe = Probe::new();
    let Some(Map::LruHashMap(map)) = probe.ebpf.map("NEIGHBOURS") else { panic!("no LRU map") };
    assert_eq!(map.info().unwrap().max_entries(), neighbours_max(nr_cpus().unwrap()));
}
