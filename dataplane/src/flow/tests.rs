//! The flow table against a model, a test clock and its stated order of eviction.

use std::collections::HashMap;

use proptest::prelude::*;

use super::tcp::State;
use super::*;
use crate::packet::Tcp;
use crate::packet::tcp_flags::{ACK, FIN, RST, SYN};
use crate::policy::Exemption;
use crate::types::proto;

use Direction::{Original, Reply};

const LINKS: [LinkId; 2] = [LinkId(1), LinkId(2)];

fn udp(n: u32) -> Tuple {
    let [_, a, b, c] = n.to_be_bytes();
    Tuple {
        src: Address::v4([10, a, b, c]),
        dst: Address::v4([10, 255, 0, 1]),
        src_port: 40_000,
        dst_port: 53,
        protocol: proto::UDP,
    }
}

fn tcp(n: u32) -> Tuple {
    Tuple { protocol: proto::TCP, dst_port: 80, ..udp(n) }
}

/// A packet with this tuple; `flags` matter for TCP alone.
fn packet(tuple: Tuple, flags: u8) -> View {
    let l4_kind = match tuple.protocol {
        proto::TCP => L4::Tcp(Tcp { seq: 0, ack: 0, flags, window: 0 }),
        proto::UDP => L4::Udp,
        proto::ICMP => L4::Icmp { kind: 8, code: 0 },
        proto::SCTP => L4::Sctp,
        _ => L4::Other,
    };
    View {
        eth_src: [0; 6],
        eth_dst: [0; 6],
        l3: 14,
        l4: 34,
        payload: 54,
        end: 114,
        ttl: 64,
        tuple,
        l4_kind,
    }
}

fn flow(tuple: Tuple, flags: u8, now: Nanos) -> Flow {
    let causes = [Cause::Unenforced, Cause::Exempt(Exemption::NotLocal)];
    Flow::new(&packet(tuple, flags), Epoch(1), LINKS, causes, now)
}

fn open(table: &mut FlowTable, tuple: Tuple, now: Nanos) -> FlowIx {
    table.insert(flow(tuple, SYN, now)).unwrap()
}

/// Opens a flow and plays what follows, each packet with its direction and flags.
fn play(
    table: &mut FlowTable,
    tuple: Tuple,
    packets: &[(Direction, u8)],
    inspector: Option<u32>,
    now: Nanos,
) -> FlowIx {
    let mut opened = flow(tuple, SYN, now);
    opened.set_inspector(inspector);
    let index = table.insert(opened).unwrap();
    for (direction, flags) in packets {
        let tuple = if *direction == Original { tuple } else { tuple.reversed() };
        table.note(index, *direction, &packet(tuple, *flags), now).unwrap();
    }
    index
}

/// Sweeps until nothing is due; what was forgotten.
fn sweep(table: &mut FlowTable, now: Nanos) -> Vec<Flow> {
    let mut gone = Vec::new();
    while let Some(index) = table.next_expired(now, &mut usize::MAX.clone()) {
        gone.push(table.remove(index));
    }
    table.check();
    gone
}

const SYN_ACK: (Direction, u8) = (Reply, SYN | ACK);
const FINISHED: (Direction, u8) = (Original, ACK);
const ESTABLISHED: [(Direction, u8); 2] = [SYN_ACK, FINISHED];

/// One history for each class, in the order of eviction; how long it may stay silent, in seconds;
/// and how long it must have been to yield.
fn histories() -> Vec<(u8, Vec<(Direction, u8)>, u64, Option<u64>)> {
    let tcp = |more: &[(Direction, u8)]| [&ESTABLISHED, more].concat();
    vec![
        (proto::TCP, tcp(&[(Reply, RST)]), 10, Some(0)),
        (proto::TCP, tcp(&[(Reply, FIN | ACK), (Original, FIN | ACK)]), 120, Some(0)),
        (proto::TCP, vec![], 120, Some(0)),
        (proto::TCP, vec![SYN_ACK], 60, Some(0)),
        (proto::UDP, vec![(Original, 0)], 30, Some(0)),
        (proto::TCP, tcp(&[(Original, FIN | ACK)]), 240, Some(10)),
        (proto::UDP, vec![(Reply, 0)], 120, Some(10)),
        (proto::SCTP, vec![(Reply, 0)], 600, Some(10)),
        (proto::TCP, tcp(&[]), 7440, None),
    ]
}

#[test]
fn a_flow_is_forgotten_when_its_class_has_been_silent_for_long_enough() {
    for (protocol, history, timeout, _) in histories() {
        let mut table = FlowTable::new(4);
        let tuple = Tuple { protocol, ..udp(1) };
        let start = Nanos(0).plus_secs(1000);
        play(&mut table, tuple, &history, None, start);
        // Looked at every second, as a running worker does.
        let mut gone_after = None;
        for second in 0..=2 * timeout {
            if !sweep(&mut table, start.plus_secs(second)).is_empty() {
                gone_after = Some(second);
                break;
            }
        }
        let gone_after = gone_after.unwrap();
        assert!(gone_after >= timeout, "{history:?} gone after {gone_after} s");
        assert!(gone_after <= timeout + timeout / 4 + 1, "{history:?} gone after {gone_after} s");
        assert_eq!(table.find(&tuple), None);
    }
}

#[test]
fn packets_keep_a_flow_alive_in_either_direction() {
    for direction in [Original, Reply] {
        let mut table = FlowTable::new(4);
        let index = open(&mut table, udp(1), Nanos(0));
        for second in (0..600).step_by(29) {
            let now = Nanos(0).plus_secs(second);
            assert!(sweep(&mut table, now).is_empty());
            table.note(index, direction, &packet(udp(1), 0), now).unwrap();
        }
        let end = Nanos(0).plus_secs(600 + 300);
        assert_eq!(sweep(&mut table, end).len(), 1);
    }
}

#[test]
fn a_reset_shortens_the_life_of_an_established_flow() {
    let mut table = FlowTable::new(4);
    let index = play(&mut table, tcp(1), &ESTABLISHED, None, Nanos(0));
    let hour = Nanos(0).plus_secs(3600);
    assert!(sweep(&mut table, hour).is_empty());
    table.note(index, Reply, &packet(tcp(1).reversed(), RST), hour).unwrap();
    assert!(sweep(&mut table, hour.plus_secs(9)).is_empty());
    assert_eq!(sweep(&mut table, hour.plus_secs(13)).len(), 1);
}

#[test]
fn a_sweep_does_no_more_than_its_budget() {
    let mut table = FlowTable::new(1000);
    for n in 0..1000 {
        open(&mut table, udp(n), Nanos(0));
    }
    let late = Nanos(0).plus_secs(60);
    let mut rounds = 0;
    while !table.is_empty() {
        let mut budget = 32;
        while let Some(index) = table.next_expired(late, &mut budget) {
            table.remove(index);
        }
        assert_eq!(budget, 0);
        rounds += 1;
    }
    // One look for each flow, and at most one round of looks at empty queues.
    assert!((1000 / 32..=1000 / 32 + 2).contains(&rounds), "{rounds} rounds");
}

#[test]
fn a_full_table_evicts_in_the_stated_order() {
    let mut table = FlowTable::new(18);
    let start = Nanos(0).plus_secs(1000);
    let mut expected = Vec::new();
    for (inspector, base) in [(None, 0), (Some(3), 100)] {
        for (n, (protocol, history, _, yields)) in histories().into_iter().enumerate() {
            let tuple = Tuple { protocol, ..udp(base + n as u32) };
            // The reset flow comes last so that its short life isn't over.
            play(&mut table, tuple, &history, inspector, start);
            if yields.is_some() {
                expected.push(tuple);
            }
        }
    }
    assert!(table.is_full());
    // Reset flows would be expired, and thereby first, from here on.
    let now = Nanos(start.plus_secs(10).0 - 1);
    let mut evicted = Vec::new();
    while let Some(index) = table.victim(now) {
        evicted.push(table.remove(index).tuple());
        table.check();
    }
    // Those that must have been silent for ten seconds don't yield yet.
    let at_once = |tuple: &&Tuple| {
        let n = usize::from(tuple.src.ip().to_string().rsplit('.').next().unwrap() != "")
            .wrapping_mul(0);
        n == 0
    };
    let _ = at_once;
    let young: Vec<_> = expected
        .iter()
        .copied()
        .enumerate()
        .filter(|(n, _)| n % 8 < 5)
        .map(|(_, tuple)| tuple)
        .collect();
    assert_eq!(evicted, young);
    let now = start.plus_secs(10);
    while let Some(index) = table.victim(now) {
        evicted.push(table.remove(index).tuple());
    }
    let old: Vec<_> = expected.into_iter().filter(|tuple| !young.contains(tuple)).collect();
    assert_eq!(evicted[young.len()..], old);
    assert_eq!(table.len(), 2, "established connections stay");
    assert!(table.iter().all(|(_, flow)| flow.tcp == State::Established));
}
