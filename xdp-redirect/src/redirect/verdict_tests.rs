//! The program's verdicts, asked of the kernel by `BPF_PROG_TEST_RUN`.

use std::cell::RefCell;
use std::os::fd::{AsFd, OwnedFd};

use aya::maps::Array;
use aya::{Ebpf, TestRun, TestRunOptions};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::{PodEntries, Redirect, load_object, program};
use crate::test_netns::af_xdp_socket;
use crate::{Pod, flow_hash, worker_of};

// `enum xdp_action` of `include/uapi/linux/bpf.h`.
const DROP: u32 = 1;
const PASS: u32 = 2;
const REDIRECT: u32 = 4;

/// Test runs come in on the loopback netdev, which has this number in every namespace.
const LOOPBACK: u32 = 1;

const WORKER_BITS: u16 = 10;
const WORKERS: u16 = 1 << WORKER_BITS;
/// The slot where only worker 0 has a socket, and the one where no worker has.
const ONLY_WORKER_0: u16 = WORKER_BITS;
const NO_SOCKETS: u16 = WORKER_BITS + 1;

/// What the program decides on a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    Kernel,
    Worker(u16),
    Dropped,
}

/// The program as it is shipped. Which worker it chose is read off its verdicts, by asking once
/// for each bit of the worker's number: in slot `bit`, exactly the workers that have that bit have
/// a socket, so the verdict is `XDP_REDIRECT` for them and `XDP_DROP` for the others.
struct Probe {
    ebpf: Ebpf,
    redirect: Redirect,
    pod: PodEntries,
    /// The frame as the last program at the egress hook left it.
    out: Vec<u8>,
    _socket: OwnedFd,
}

impl Probe {
    fn new() -> Self {
        let slots = WORKER_BITS + 2;
        let mut ebpf = load_object(WORKERS, slots)
            .expect("this test loads an XDP program: run it as root on Linux 6.6 or newer");
        let mut redirect = Redirect::take_from(&mut ebpf, WORKERS, slots).unwrap();
        let socket = af_xdp_socket();
        for worker in 0..WORKERS {
            for bit in (0..WORKER_BITS).filter(|bit| worker >> bit & 1 == 1) {
                redirect.set_socket(bit, worker, socket.as_fd()).unwrap();
            }
        }
        redirect.set_socket(ONLY_WORKER_0, 0, socket.as_fd()).unwrap();
        let mut probe =
            Self { ebpf, redirect, pod: PodEntries::default(), out: Vec::new(), _socket: socket };
        probe.set_pod(Some(neighbours::pod()));
        probe
    }

    fn set_pod(&mut self, pod: Option<Pod>) {
        self.redirect.pods.replace(LOOPBACK, &mut self.pod, pod).unwrap();
    }

    /// The raw verdict if the frame comes from a netdev that LINKS gives `slot`.
    fn action(&mut self, frame: &[u8], slot: Option<u16>) -> u32 {
        match slot {
            Some(slot) => self.redirect.links.insert(LOOPBACK, u32::from(slot), 0).unwrap(),
            None => drop(self.redirect.links.remove(&LOOPBACK)),
        }
        self.refill(slot);
        self.run(frame)
    }

    /// Lets the link in `slot` send as many frames of ARP and ND as it may at once.
    fn refill(&mut self, slot: Option<u16>) {
        let map = self.ebpf.map_mut("NEIGHBOUR_TIMES").unwrap();
        let mut times = Array::<_, [u64; 2]>::try_from(map).unwrap();
        times.set(u32::from(slot.unwrap_or(0)), [0; 2], 0).unwrap();
    }

    fn run(&mut self, frame: &[u8]) -> u32 {
        let options = TestRunOptions { data_in: Some(frame), ..TestRunOptions::new() };
        program(&mut self.ebpf).unwrap().test_run(options).unwrap().return_value
    }

    /// Frames dropped so far for `reason`.
    fn dropped_for(&self, reason: &str) -> u64 {
        let all = self.redirect.frame_drops().unwrap();
        all.iter().find(|drops| drops.reason.label() == reason).unwrap().packets
    }

    /// The verdict, after checks that hold for every frame.
    fn verdict(&mut self, frame: &[u8]) -> Verdict {
        let actions: Vec<u32> = (0..WORKER_BITS).map(|bit| self.action(frame, Some(bit))).collect();
        let unknown = self.action(frame, None);
        let closed = self.action(frame, Some(NO_SOCKETS));
        assert_eq!(unknown, DROP);
        if closed == PASS {
            assert!(actions.iter().all(|&action| action == PASS), "{actions:?}");
            return Verdict::Kernel;
        }
        assert_eq!(closed, DROP);
        if self.action(frame, Some(ONLY_WORKER_0)) == DROP
            && actions.iter().all(|&action| action == DROP)
        {
            return Verdict::Dropped;
        }
        let worker = actions.iter().rev().fold(0, |worker, &action| match action {
            REDIRECT => worker << 1 | 1,
            DROP => worker << 1,
            other => panic!("action {other}"),
        });
        let only_0 = if worker == 0 { REDIRECT } else { DROP };
        assert_eq!(self.action(frame, Some(ONLY_WORKER_0)), only_0);
        Verdict::Worker(worker)
    }
}

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
const SCTP: u8 = 132;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AH: u8 = 51;
const DESTINATION: u8 = 60;

const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;
const C_TAG: u16 = 0x8100;
const S_TAG: u16 = 0x88a8;

const MORE_FRAGMENTS: u16 = 0x2000;
const DONT_FRAGMENT: u16 = 0x4000;

/// A packet to be built, and what the hash should see of it.
#[derive(Clone, Debug)]
struct Sent {
    vlan: Vec<u16>,
    ip: Ip,
    protocol: u8,
    sport: u16,
    dport: u16,
}

#[derive(Clone, Debug)]
enum Ip {
    /// `fragment` is flags and offset, `options` a number of 4-byte words.
    V4 { src: u32, dst: u32, fragment: u16, options: u8 },
    /// Headers are (type, length field), of a fragment header (type, low byte of the offset
    /// field).
    V6 { src: u128, dst: u128, hop_limit: u8, headers: Vec<(u8, u8)> },
}

impl Sent {
    /// Addresses as the hash takes them.
    fn ends(&self) -> (u128, u128) {
        let mapped = |address: u32| 0xffff_0000_0000 | u128::from(address);
        match self.ip {
            Ip::V4 { src, dst, .. } => (mapped(src), mapped(dst)),
            Ip::V6 { src, dst, .. } => (src, dst),
        }
    }

    fn reversed(&self) -> Self {
        let mut other = self.clone();
        (other.sport, other.dport) = (self.dport, self.sport);
        match &mut other.ip {
            Ip::V4 { src, dst, .. } => std::mem::swap(src, dst),
            Ip::V6 { src, dst, .. } => std::mem::swap(src, dst),
        }
        other
    }

    /// Whether the rule lets the ports take part in the hash.
    fn ports_count(&self) -> bool {
        let reachable = match &self.ip {
            Ip::V4 { fragment, .. } => fragment & !DONT_FRAGMENT == 0,
            Ip::V6 { headers, .. } => {
                // Flag and offset of zero are those of an "atomic" fragment, which is whole.
                let is_whole = |(kind, low): &(u8, u8)| *kind != FRAGMENT || low & 0xf9 == 0;
                headers.len() <= 8 && headers.iter().all(is_whole)
            }
        };
        reachable && [TCP, UDP, SCTP].contains(&self.protocol)
    }

    fn expected(&self) -> Verdict {
        let (src, dst) = self.ends();
        let hash = if self.ports_count() {
            flow_hash(src, dst, self.protocol, self.sport, self.dport)
        } else {
            flow_hash(src, dst, 0, 0, 0)
        };
        Verdict::Worker(worker_of(hash, WORKERS))
    }

    /// The frame, with the ports as its last four bytes.
    fn frame(&self) -> Vec<u8> {
        let ethertype = if matches!(self.ip, Ip::V4 { .. }) { IPV4 } else { IPV6 };
        let mut frame = ethernet(&self.vlan, ethertype);
        match &self.ip {
            Ip::V4 { src, dst, fragment, options } => {
                frame.extend([0x45 + options, 0, 0, 40, 0, 1]);
                frame.extend(fragment.to_be_bytes());
                frame.extend([64, self.protocol, 0, 0]);
                frame.extend(src.to_be_bytes());
                frame.extend(dst.to_be_bytes());
                frame.extend(vec![1; usize::from(*options) * 4]);
            }
            Ip::V6 { src, dst, hop_limit, headers } => {
                let mut next = headers.iter().map(|header| header.0).chain([self.protocol]);
                frame.extend([0x60, 0, 0, 0, 0, 40, next.next().unwrap(), *hop_limit]);
                frame.extend(src.to_be_bytes());
                frame.extend(dst.to_be_bytes());
                for (kind, length) in headers {
                    if *kind == FRAGMENT {
                        frame.extend([next.next().unwrap(), 0, 0, *length, 0, 0, 0, 1]);
                        continue;
                    }
                    let bytes = match *kind {
                        AH => (usize::from(*length) + 2) * 4,
                        _ => (usize::from(*length) + 1) * 8,
                    };
                    frame.extend([next.next().unwrap(), *length]);
                    frame.extend(vec![0; bytes - 2]);
                }
            }
        }
        frame.extend(self.sport.to_be_bytes());
        frame.extend(self.dport.to_be_bytes());
        frame
    }
}

/// Ethernet header with VLAN tags in front of `ethertype`.
fn ethernet(vlan: &[u16], ethertype: u16) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    for tag in vlan {
        frame.extend(tag.to_be_bytes());
        frame.extend([0, 7]);
    }
    frame.extend(ethertype.to_be_bytes());
    frame
}

fn v4_tcp() -> Sent {
    Sent {
        vlan: vec![],
        ip: Ip::V4 { src: 0x0a00_0001, dst: 0x0a00_0002, fragment: DONT_FRAGMENT, options: 0 },
        protocol: TCP,
        sport: 40000,
        dport: 80,
    }
}

fn v6_tcp(headers: &[(u8, u8)]) -> Sent {
    let ip = Ip::V6 {
        src: 0xfd << 120 | 1,
        dst: 0xfd << 120 | 2,
        hop_limit: 64,
        headers: headers.into(),
    };
    Sent { ip, ..v4_tcp() }
}

fn any_sent() -> impl Strategy<Value = Sent> {
    let fragment = prop_oneof![
        3 => Just(0),
        3 => Just(DONT_FRAGMENT),
        1 => Just(MORE_FRAGMENTS),
        1 => 0..0x4000_u16,
    ];
    let v4 = (any::<u32>(), any::<u32>(), fragment, 0..=10_u8)
        .prop_map(|(src, dst, fragment, options)| Ip::V4 { src, dst, fragment, options });
    let header = (
        prop_oneof![
            8 => prop::sample::select(vec![HOP_BY_HOP, ROUTING, DESTINATION]),
            1 => prop::sample::select(vec![FRAGMENT, AH]),
        ],
        0..=9_u8,
    );
    let v6 = (any::<u128>(), any::<u128>(), prop::collection::vec(header, 0..=9))
        .prop_map(|(src, dst, headers)| Ip::V6 { src, dst, hop_limit: 64, headers });
    let vlan = prop::collection::vec(prop::sample::select(vec![C_TAG, S_TAG]), 0..=2);
    // ICMP, GRE, ESP and OSPF besides the three that have ports.
    let protocol = prop::sample::select(vec![TCP, TCP, UDP, SCTP, 1, 47, 50, ICMPV6, 89]);
    (vlan, prop_oneof![v4, v6], protocol, any::<u16>(), any::<u16>())
        .prop_map(|(vlan, ip, protocol, sport, dport)| Sent { vlan, ip, protocol, sport, dport })
}

fn check<T: std::fmt::Debug>(strategy: impl Strategy<Value = T>, property: impl Fn(&mut Probe, T)) {
    let probe = RefCell::new(Probe::new());
    TestRunner::default()
        .run(&strategy, |value| {
            property(&mut probe.borrow_mut(), value);
            Ok(())
        })
        .unwrap();
}

#[test]
fn every_packet_goes_to_the_worker_that_the_rust_hash_names() {
    check(any_sent(), |probe, sent| assert_eq!(probe.verdict(&sent.frame()), sent.expected()));
}

#[test]
fn both_directions_go_to_one_worker() {
    check(any_sent(), |probe, sent| {
        assert_eq!(probe.verdict(&sent.frame()), probe.verdict(&sent.reversed().frame()));
    });
}

#[test]
fn garbage_never_aborts_and_never_passes_as_ip() {
    let ethertype = prop::sample::select(vec![IPV4, IPV6]);
    let vlan = prop::collection::vec(prop::sample::select(vec![C_TAG, S_TAG]), 0..=3);
    let garbage = prop::collection::vec(any::<u8>(), 0..1500);
    check((vlan, ethertype, garbage), |probe, (vlan, ethertype, garbage)| {
        let mut frame = ethernet(&vlan, ethertype);
        frame.extend(&garbage);
        assert!(matches!(probe.verdict(&frame), Verdict::Worker(_)));
    });
}

#[test]
fn a_frame_cut_anywhere_in_its_headers_goes_to_worker_0() {
    let mut probe = Probe::new();
    let mut options = v4_tcp();
    options.ip = Ip::V4 { src: 1, dst: 2, fragment: 0, options: 10 };
    options.vlan = vec![S_TAG, C_TAG];
    let six = [(HOP_BY_HOP, 0), (DESTINATION, 2), (ROUTING, 1), (DESTINATION, 0), (60, 0), (60, 0)];
    for sent in [v4_tcp(), options, v6_tcp(&[]), v6_tcp(&six)] {
        let frame = sent.frame();
        assert_ne!(sent.expected(), Verdict::Worker(0));
        assert_eq!(probe.verdict(&frame), sent.expected());
        // The kernel runs no test on less than an Ethernet header.
        for length in 14..frame.len() {
            assert_eq!(probe.verdict(&frame[..length]), Verdict::Worker(0), "{length}");
        }
    }
}

#[test]
fn impossible_ip_headers_go_to_worker_0() {
    let mut probe = Probe::new();
    for first in [0x44, 0x40, 0x55, 0x65] {
        let mut frame = v4_tcp().frame();
        frame[14] = first;
        assert_eq!(probe.verdict(&frame), Verdict::Worker(0), "{first:#x}");
    }
    let mut frame = v6_tcp(&[]).frame();
    frame[14] = 0x45;
    assert_eq!(probe.verdict(&frame), Verdict::Worker(0));
}

#[test]
fn what_is_neither_ip_nor_arp_is_dropped() {
    let mut probe = Probe::new();
    // LLDP, a 802.3 length, MPLS, RARP.
    for ethertype in [0x88cc, 46, 0x8847, 0x8035] {
        for vlan in [&[][..], &[C_TAG], &[S_TAG, C_TAG]] {
            let mut frame = ethernet(vlan, ethertype);
            let before = probe.dropped_for("not_ip");
            assert_eq!(probe.verdict(&frame), Verdict::Dropped);
            frame.extend([0; 46]);
            assert_eq!(probe.verdict(&frame), Verdict::Dropped);
            assert!(probe.dropped_for("not_ip") > before);
        }
    }
}

#[test]
fn a_third_vlan_tag_hides_nothing() {
    let mut probe = Probe::new();
    let sent = Sent { vlan: vec![S_TAG, C_TAG, C_TAG], ..v4_tcp() };
    assert_eq!(probe.verdict(&sent.frame()), Verdict::Worker(0));
}

#[test]
fn fragments_of_one_datagram_meet_at_one_worker() {
    let mut probe = Probe::new();
    let fragments = [MORE_FRAGMENTS, MORE_FRAGMENTS | 185, 370].map(|fragment| {
        let ip = Ip::V4 { src: 0x0a00_0001, dst: 0x0a00_0002, fragment, options: 0 };
        // After the first fragment, payload stands where the ports were.
        Sent { ip, protocol: UDP, sport: fragment, ..v4_tcp() }.frame()
    });
    let expected = worker_of(flow_hash(0xffff_0a00_0001, 0xffff_0a00_0002, 0, 0, 0), WORKERS);
    for frame in fragments {
        assert_eq!(probe.verdict(&frame), Verdict::Worker(expected));
    }
}

#[test]
fn an_atomic_fragment_goes_where_the_packet_without_its_header_would() {
    let mut probe = Probe::new();
    let plain = probe.verdict(&v6_tcp(&[]).frame());
    assert_eq!(probe.verdict(&v6_tcp(&[(FRAGMENT, 0)]).frame()), plain);
    assert_eq!(probe.verdict(&v6_tcp(&[(DESTINATION, 1), (FRAGMENT, 6)]).frame()), plain);
    assert_ne!(probe.verdict(&v6_tcp(&[(FRAGMENT, 1)]).frame()), plain, "more follows");
    assert_ne!(probe.verdict(&v6_tcp(&[(FRAGMENT, 8)]).frame()), plain, "something came before");
}

mod neighbours;
mod records;
