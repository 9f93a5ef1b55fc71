//! What an inspected connection costs while it is idle: memory, and no time.

#![allow(clippy::unwrap_used, reason = "a test may fail here")]

use std::alloc::System;

use podgate_tables::ids::LinkId;
use podgate_tables::l7::{HttpRule, HttpRuleSpec, L7Rules};
use podgate_tables::time::Nanos;
use podgate_test_support::*;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Bytes that are allocated.
fn allocated() -> usize {
    let stats = ALLOCATOR.stats();
    (stats.bytes_allocated as isize + stats.bytes_reallocated - stats.bytes_deallocated as isize)
        as usize
}

const CONNECTIONS: u16 = 5_000;
/// What the help of `--inspected` says, bytes.
const PER_CONNECTION: usize = 1024;

const REQUEST: &[u8] = b"GET /docs HTTP/1.1\r\nHost: b\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn segment(from: LinkId, port: u16, seq: u32, ack: Option<u32>, payload: &[u8]) -> Vec<u8> {
    let [a, b] = [ADDRESSES[1], ADDRESSES[2]];
    let (src, dst, ports) = if from == A { (a, b, [port, 80]) } else { (b, a, [80, port]) };
    let flags = if seq == 0 { "S" } else { "" };
    tcp(from, &TcpPacket { src, dst, ports, seq, ack, flags, payload })
}

/// A connection with one request and its response, in two pieces each, out of order.
fn exchange(rig: &mut Rig, port: u16) {
    rig.send(A, &segment(A, port, 0, None, b""));
    rig.send(B, &segment(B, port, 0, Some(1), b""));
    rig.send(A, &segment(A, port, 1, Some(1), b""));
    let (first, second) = REQUEST.split_at(10);
    rig.send(A, &segment(A, port, 11, Some(1), second));
    let left = rig.send(A, &segment(A, port, 1, Some(1), first));
    assert!(left.iter().any(|(link, _)| *link == B), "the request passes");
    let ack = 1 + REQUEST.len() as u32;
    let (first, second) = RESPONSE.split_at(10);
    rig.send(B, &segment(B, port, 1, Some(ack), first));
    rig.send(B, &segment(B, port, 11, Some(ack), second));
    let next = 1 + RESPONSE.len() as u32;
    assert_eq!(rig.send(A, &segment(A, port, ack, Some(next), b"")).len(), 1);
}

fn rig(rules: Option<L7Rules>) -> Rig {
    let rig = Rig::of(RigConfig {
        flows_per_worker: 16_384,
        inspected_per_worker: 16_384,
        ..RigConfig::default()
    });
    rig.shared.publish(snapshot(1, IngressOfB::FromA(rules)));
    rig
}

fn docs() -> L7Rules {
    let path = Some("/docs".to_owned());
    L7Rules::http(vec![HttpRule::new(HttpRuleSpec { path, ..HttpRuleSpec::default() }).unwrap()])
}

/// Opens many connections. Returns the bytes that each takes while it is busy, and while it is
/// idle.
fn open(rig: &mut Rig) -> [usize; 2] {
    // What all connections share.
    exchange(rig, 1);
    settle(rig);
    let _ = rig.events();
    let before = allocated();
    for port in 2..2 + CONNECTIONS {
        exchange(rig, port);
        let _ = rig.events();
    }
    let busy = allocated() - before;
    settle(rig);
    let idle = allocated() - before;
    assert_eq!(rig.workers[0].flows(), usize::from(CONNECTIONS) + 1);
    [busy, idle].map(|bytes| bytes / usize::from(CONNECTIONS))
}

/// Lets time pass until no timer of an inspected flow is left.
fn settle(rig: &mut Rig) {
    while let Some(due) = rig.workers[0].next_timer() {
        rig.now = Nanos(due.0.max(rig.now.0 + 1));
        rig.run();
    }
}

/// One test, because allocations of all threads are counted.
#[test]
fn an_idle_connection_takes_a_kibibyte_and_no_timer() {
    let [_, plain] = open(&mut rig(None));
    let mut rig = rig(Some(docs()));
    let [busy, idle] = open(&mut rig).map(|bytes| bytes - plain);
    println!("{busy} bytes of a busy connection, {idle} of an idle one, beside {plain}");
    assert!(idle <= PER_CONNECTION, "{idle} bytes");
    assert!(busy > idle, "buffers are kept while requests come");
    assert_eq!(rig.workers[0].stats().buffered_bytes.get(), 0);
    one_of_many_idle_connections_is_served_in_time(&mut rig);
    rig.assert_no_frame_is_lost();
}

/// Undecided bytes of one connection are acknowledged within 25 ms.
fn one_of_many_idle_connections_is_served_in_time(rig: &mut Rig) {
    const PORT: u16 = 777;
    let (seq, ack) = (1 + REQUEST.len() as u32, 1 + RESPONSE.len() as u32);
    let begin = rig.now;
    let left = rig.send(A, &segment(A, PORT, seq, Some(ack), &REQUEST[..5]));
    assert!(left.iter().all(|(link, _)| *link == B), "it is not acknowledged at once");
    let due = rig.workers[0].next_timer().unwrap();
    assert!(due.since(begin) <= 25_000_000, "{} ns", due.since(begin));
    rig.now = due;
    let left = rig.run();
    assert_eq!(left.iter().map(|(link, _)| *link).collect::<Vec<_>>(), [A], "the acknowledgement");
}
