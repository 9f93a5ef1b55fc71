//! Deciding requests and inspecting an open connection allocate nothing.

#![allow(clippy::unwrap_used, reason = "a test may fail here")]

use std::alloc::System;
use std::sync::Arc;

use etherparse::PacketBuilder;
use podgate_dataplane::l7::datagram::{DatagramCtx, DatagramFlow, DatagramOp};
use podgate_dataplane::l7::dns::learned::Answers;
use podgate_dataplane::l7::dns::{Admitted, Denied, DnsContext, Reply};
use podgate_dataplane::l7::editor::Editor;
use podgate_dataplane::l7::http1::Http1;
use podgate_dataplane::l7::http2::hpack::{DEFAULT_TABLE_SIZE, Decoder};
use podgate_dataplane::l7::io::FlowIo;
use podgate_dataplane::mem::{Frame, FramePool, Packet, Umem};
use podgate_dataplane::packet::{View, parse};
use podgate_tables::drop_reason::DropReason;
use podgate_tables::event::EventKind;
use podgate_tables::ids::{Epoch, LinkId, RuleId};
use podgate_tables::l7::{
    HeaderMatch, HttpRequest, HttpRule, HttpRuleSpec, KafkaRequest, KafkaRule, KafkaRuleSpec,
    L7Entry, L7Policy, L7Request, L7Rules, L7Verdict, Mismatch, NamePattern,
};
use podgate_tables::time::Nanos;
use podgate_tables::tuple::FlowDirection;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Allocations and reallocations of all threads so far.
fn allocations() -> usize {
    let stats = ALLOCATOR.stats();
    stats.allocations + stats.reallocations
}

const REQUEST: &[u8] = b"POST /api/v1/users HTTP/1.1\r\nHost: backend\r\nX-Key: 1\r\n\
    Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

struct Io {
    umem: Arc<Umem>,
    pool: FramePool,
    forwarded: u32,
    requests: u32,
    responses: u32,
}

impl FlowIo for Io {
    fn umem(&self) -> &Umem {
        &self.umem
    }

    fn alloc(&mut self) -> Option<Frame> {
        self.pool.alloc()
    }

    fn free(&mut self, frame: Frame) {
        self.pool.free(frame);
    }

    fn forward(&mut self, _: FlowDirection, packet: Packet, _: &View) {
        self.pool.free_packet(packet);
        self.forwarded += 1;
    }

    fn originate(&mut self, _: FlowDirection, _: Packet) {
        panic!("nothing of our own is due");
    }

    fn drop_packet(&mut self, _: FlowDirection, packet: Packet, reason: DropReason) {
        self.drop_counted(packet, reason);
    }

    fn drop_counted(&mut self, _: Packet, reason: DropReason) {
        panic!("dropped for {reason:?}");
    }

    fn reserve_frames(&mut self, _: usize) -> bool {
        panic!("nothing arrives early");
    }

    fn release_frames(&mut self, _: usize) {}

    fn reserve_bytes(&mut self, _: usize) -> bool {
        true
    }

    fn release_bytes(&mut self, _: usize) {}

    fn event(&mut self, kind: EventKind) {
        self.requests += u32::from(matches!(kind, EventKind::Request { allowed: true, .. }));
        self.responses += u32::from(matches!(kind, EventKind::Response { .. }));
    }
}

/// Packets of one connection: the handshake, then `rounds` requests in two segments each, with
/// their responses.
fn connection(rounds: usize) -> Vec<(FlowDirection, Vec<u8>)> {
    let mut packets = Vec::new();
    let (mut sent, mut answered) = (1u32, 1u32);
    let mut push = |from_client: bool, seq: u32, ack: Option<u32>, syn: bool, payload: &[u8]| {
        let (src, dst, ports) = match from_client {
            true => ([10, 0, 0, 1], [10, 0, 0, 2], (40_000, 80)),
            false => ([10, 0, 0, 2], [10, 0, 0, 1], (80, 40_000)),
        };
        let mut step = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
            .ipv4(src, dst, 64)
            .tcp(ports.0, ports.1, seq, 60_000);
        if let Some(ack) = ack {
            step = step.ack(ack);
        }
        if syn {
            step = step.syn();
        }
        let mut bytes = Vec::new();
        step.write(&mut bytes, payload).unwrap();
        packets.push((
            if from_client { FlowDirection::Original } else { FlowDirection::Reply },
            bytes,
        ));
    };
    push(true, 0, None, true, b"");
    push(false, 0, Some(1), true, b"");
    push(true, 1, Some(1), false, b"");
    for _ in 0..rounds {
        let (head, rest) = REQUEST.split_at(REQUEST.len() - 11);
        push(true, sent, Some(answered), false, head);
        push(true, sent + head.len() as u32, Some(answered), false, rest);
        sent += REQUEST.len() as u32;
        push(false, answered, Some(sent), false, RESPONSE);
        answered += RESPONSE.len() as u32;
    }
    packets
}

fn an_inspected_connection_allocates_nothing_after_its_first_requests() {
    let rule = HttpRule::new(HttpRuleSpec {
        method: Some("POST".into()),
        path: Some("/api/v1/.*".into()),
        host: Some("back.*".into()),
        headers: vec!["X-Key: 1".into()],
        ..HttpRuleSpec::default()
    });
    let rules = Some(Arc::new(L7Rules::http(vec![rule.unwrap()])));
    let policy =
        L7Policy { ingress: vec![L7Entry { rule: RuleId(1), rules }], ..L7Policy::default() };
    let umem = Umem::new(64).unwrap();
    let pool = umem.pool();
    let mut io = Io { umem, pool, forwarded: 0, requests: 0, responses: 0 };
    let mut editor = Editor::<Http1>::default();
    let mut now = Nanos(0);
    let mut play = |packets: &[(FlowDirection, Vec<u8>)], io: &mut Io| {
        for (direction, bytes) in packets {
            now = now.plus_millis(1);
            let mut frame = io.alloc().unwrap();
            frame.set_len(bytes.len() as u32);
            io.umem.data_mut(&mut frame).copy_from_slice(bytes);
            let view = parse(bytes, bytes.len() as u32).unwrap();
            editor.segment(now, *direction, &view, Packet::single(frame), &policy, io);
            editor.tick(now, &policy, io);
        }
    };
    let packets = connection(500);
    let (first, rest) = packets.split_at(30);
    play(first, &mut io);
    let before = allocations();
    play(rest, &mut io);
    let allocated = allocations() - before;
    assert_eq!((io.requests, io.responses), (500, 500));
    assert_eq!(io.forwarded as usize, packets.len());
    assert_eq!(allocated, 0);
    assert_eq!(io.pool.outstanding(), 0);
}

/// One test, because allocations of all threads are counted.
#[test]
fn nothing_is_allocated() {
    an_inspected_connection_allocates_nothing_after_its_first_requests();
    judging_a_request_of_any_protocol_allocates_nothing();
    dns_queries_and_answers_allocate_nothing_after_the_first();
    decoding_header_blocks_allocates_nothing_once_the_table_is_full();
}

fn decoding_header_blocks_allocates_nothing_once_the_table_is_full() {
    // A new entry in each block, and a Huffman-coded name and value that are none.
    let block = |index: u16| {
        let mut block = b"\x82\x86\x84\x40\x04".to_vec();
        block.extend(format!("{index:04}").bytes());
        block.extend(b"\x03abc\x00\x81\x1f\x86\xa8\xeb\x10\x64\x9c\xbf");
        block
    };
    let blocks: Vec<_> = (0..1000).map(block).collect();
    let mut decoder = Decoder::new(DEFAULT_TABLE_SIZE);
    let (mut buffer, mut fields) = (Vec::new(), 0);
    let mut before = 0;
    for (index, block) in blocks.iter().enumerate() {
        if index == blocks.len() / 2 {
            before = allocations();
        }
        decoder.decode(block, &mut buffer, |_| fields += 1).unwrap();
    }
    assert_eq!((fields, allocations() - before), (5000, 0));
}

/// Queries over UDP: allowed, with answers that are held and that are not, and denied.
fn dns_queries_and_answers_allocate_nothing_after_the_first() {
    let rules = Some(Arc::new(L7Rules::Dns(vec![NamePattern::dns("*.a.test").unwrap()])));
    let policy =
        L7Policy { egress: vec![L7Entry { rule: RuleId(1), rules }], ..L7Policy::default() };
    let answers = Answers::new(1, 16);
    let dns = DnsContext { denied: Denied::Refused, answers: Arc::clone(answers.ring(0)) };
    let (mut flow, mut admitted) = (DatagramFlow::default(), Admitted::default());
    let message = |flags: u16, name: &[u8], records: &[u8]| {
        let count = u16::from(!records.is_empty());
        let header = [7, flags, 1, count, 0, 0].map(u16::to_be_bytes).concat();
        [&header[..], name, &[0, 0, 1, 0, 1], records].concat()
    };
    let (allowed, denied) = (b"\x03www\x01a\x04test", b"\x03www\x01b\x04test");
    let record = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4, 192, 0, 2, 1];
    let queries = [message(0x0100, allowed, &[]), message(0x0100, denied, &[])];
    let response = message(0x8180, allowed, &record);
    let (mut reply, mut before, mut outcomes) = (Reply::default(), 0, [0; 4]);
    for round in 0..1000 {
        if round == 10 {
            before = allocations();
        }
        let (now, epoch) = (Nanos(round * 100_000_000), Epoch(1));
        for (direction, bytes) in [
            (FlowDirection::Original, &queries[0]),
            (FlowDirection::Reply, &response),
            (FlowDirection::Original, &queries[1]),
        ] {
            let cx = DatagramCtx {
                now,
                policy: &policy,
                client: LinkId(1),
                dns: &dns,
                admitted: &admitted,
                epoch,
            };
            match (direction, flow.decide(&cx, direction, bytes, &mut reply).op) {
                (FlowDirection::Original, DatagramOp::Pass) => outcomes[0] += 1,
                (FlowDirection::Original, DatagramOp::Answer) => outcomes[1] += 1,
                (FlowDirection::Reply, DatagramOp::Pass) => outcomes[2] += 1,
                (FlowDirection::Reply, DatagramOp::Hold(held)) => {
                    outcomes[3] += 1;
                    admitted.add(held.key, epoch, now);
                }
                (_, op) => panic!("{op:?}"),
            }
        }
        answers.drain(|_, answer| assert_eq!(answer.addresses().len(), 1));
    }
    assert_eq!(outcomes, [1000, 1000, 900, 100]);
    assert_eq!(allocations() - before, 0);
}

fn judging_a_request_of_any_protocol_allocates_nothing() {
    let header_matches = vec![HeaderMatch {
        name: "X-Role".to_owned(),
        value: Some("admin".to_owned()),
        mismatch: Mismatch::Fail,
    }];
    let http = HttpRuleSpec { path: Some("/a/.*".into()), header_matches, ..Default::default() };
    let others = (0..300).map(|number| {
        let (method, path) = (Some("GET|HEAD".into()), Some(format!("/a?/{number}/.*[0-9]")));
        HttpRule::new(HttpRuleSpec { method, path, ..Default::default() }).unwrap()
    });
    let http = others.chain([HttpRule::new(http).unwrap()]).collect();
    let kafka = |topic: &str| {
        KafkaRule::new(KafkaRuleSpec { topic: Some(topic.into()), ..Default::default() }).unwrap()
    };
    let names = vec![NamePattern::server_name("**.a*.**.io").unwrap()];
    let rules = [
        L7Rules::http(http),
        L7Rules::Kafka(vec![kafka("a"), kafka("b")]),
        L7Rules::Dns(names.clone()),
        L7Rules::ServerNames(names),
    ];
    let headers = [httparse::Header { name: "x-role", value: b"admin" }];
    let request = HttpRequest {
        method: b"GET",
        path: b"/a/b",
        path_is_normal: true,
        host: b"h",
        headers: &headers,
    };
    let topics: [&[u8]; 3] = [b"b", b"a", b"b"];
    let requests = [
        L7Request::Http(request),
        L7Request::Kafka(KafkaRequest {
            api_key: 0,
            api_version: 9,
            client_id: None,
            topics: &topics,
        }),
        L7Request::Dns(b"x.a1.y.ab.z.IO."),
        L7Request::ServerName(Some(b"x.a1.y.ab.z.io")),
    ];
    for (rules, request) in rules.into_iter().zip(requests) {
        let entry = L7Entry { rule: RuleId(1), rules: Some(Arc::new(rules)) };
        let policy = L7Policy { egress: vec![entry.clone()], ingress: vec![entry] };
        let before = allocations();
        let verdict = policy.decide(&request);
        let allocated = allocations() - before;
        let allowed = L7Verdict::Allow { rule: Some(RuleId(1)) };
        assert_eq!((verdict, allocated), (allowed, 0), "{request:?}");
    }
}
