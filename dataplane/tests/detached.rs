//! Inspected connections that have nothing left to inspect: they continue as plain flows.

#![allow(clippy::unwrap_used, reason = "a test may fail here")]

use std::sync::Arc;

use podgate_dataplane::flow::SavedFlow;
use podgate_tables::drop_reason::DropReason;
use podgate_tables::ids::LinkId;
use podgate_tables::l7::{HttpRule, HttpRuleSpec, KafkaRule, KafkaRuleSpec, L7Protocol, L7Rules};
use podgate_test_support::*;

const CLIENT: u16 = 40_000;
const UPGRADE: &[u8] = b"GET /docs HTTP/1.1\r\nHost: b\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const SWITCHING: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

fn docs() -> IngressOfB {
    let path = Some("/docs".to_owned());
    let rule = HttpRule::new(HttpRuleSpec { path, ..HttpRuleSpec::default() }).unwrap();
    IngressOfB::FromA(Some(L7Rules::http(vec![rule])))
}

fn kafka() -> IngressOfB {
    let rule = KafkaRule::new(KafkaRuleSpec::default()).unwrap();
    IngressOfB::FromA(Some(L7Rules::Kafka(vec![rule])))
}

/// A connection from pod A to pod B.
struct Connection {
    port: u16,
    /// Next sequence numbers of the client and of the server.
    client: u32,
    server: u32,
}

impl Connection {
    fn segment(&self, from: LinkId, flags: &str, payload: &[u8]) -> Vec<u8> {
        let [a, b] = [ADDRESSES[1], ADDRESSES[2]];
        let Self { port, client, server } = *self;
        let (src, dst, ports, seq, ack) = match from {
            A => (a, b, [port, 80], client, server),
            _ => (b, a, [80, port], server, client),
        };
        tcp(from, &TcpPacket { src, dst, ports, seq, ack: Some(ack), flags, payload })
    }

    /// Sends the next bytes of an end; returns what leaves.
    fn send(&mut self, rig: &mut Rig, from: LinkId, payload: &[u8]) -> Vec<(LinkId, Vec<u8>)> {
        let segment = self.segment(from, "P", payload);
        let next = if from == A { &mut self.client } else { &mut self.server };
        *next += payload.len() as u32;
        rig.send(from, &segment)
    }

    fn syn(&self) -> Vec<u8> {
        let (src, dst, ports) = (ADDRESSES[1], ADDRESSES[2], [self.port, 80]);
        let seq = self.client - 1;
        tcp(A, &TcpPacket { src, dst, ports, seq, ack: None, flags: "S", payload: b"" })
    }

    fn open(rig: &mut Rig, port: u16) -> Self {
        let mut this = Self { port, client: 1_001, server: 9_000 };
        rig.send(A, &this.syn());
        rig.send(B, &this.segment(B, "S", b""));
        this.server += 1;
        assert_eq!(rig.send(A, &this.segment(A, "", b"")).len(), 1);
        this
    }

    /// A WebSocket after its handshake.
    fn websocket(rig: &mut Rig, port: u16) -> Self {
        let mut this = Self::open(rig, port);
        assert_eq!(this.send(rig, A, UPGRADE).len(), 1);
        assert_eq!(this.send(rig, B, SWITCHING).len(), 1);
        this
    }

    /// Whether packets of an end are forwarded without being verified, as those of plain flows. For
    /// their receiver this one is lost.
    fn is_fast(&self, rig: &mut Rig, from: LinkId) -> bool {
        let mut segment = self.segment(from, "P", b"data");
        segment[14 + 20 + 16] ^= 0x55;
        rig.send(from, &segment).iter().any(|(to, frame)| *to != from && !is_reset(frame))
    }
}

#[test]
fn a_websocket_takes_the_fast_path_after_its_handshake() {
    let mut rig = Rig::with(docs());
    let mut connection = Connection::open(&mut rig, CLIENT);
    assert!(!connection.is_fast(&mut rig, A));
    connection.send(&mut rig, A, UPGRADE);
    assert!(!connection.is_fast(&mut rig, A) && !connection.is_fast(&mut rig, B));
    connection.send(&mut rig, B, SWITCHING);
    assert!(connection.is_fast(&mut rig, A) && connection.is_fast(&mut rig, B));
    for from in [A, B] {
        let to = if from == A { B } else { A };
        let left = connection.send(&mut rig, from, b"GET /secret HTTP/1.1\r\n\r\n");
        assert_eq!((left.len(), left[0].0), (1, to));
    }
    assert_eq!(rig.workers[0].stats().buffered_bytes.get(), 0);
    rig.assert_no_frame_is_lost();
}

#[test]
fn a_detached_flow_takes_no_inspector() {
    let mut rig = Rig::with(docs());
    for port in 1..=100 {
        Connection::websocket(&mut rig, port);
    }
    assert_eq!(rig.workers[0].flows(), 100, "of 64 that may be inspected");
    assert_eq!(rig.dropped(DropReason::InspectedFull), 0);
    rig.assert_no_frame_is_lost();
}

#[test]
fn bytes_that_the_server_has_not_acknowledged_are_still_compared() {
    let mut rig = Rig::with(docs());
    let mut connection = Connection::open(&mut rig, CLIENT);
    connection.send(&mut rig, A, UPGRADE);
    // The response overtakes the acknowledgement of the request.
    connection.client -= UPGRADE.len() as u32;
    connection.send(&mut rig, B, SWITCHING);
    let mut other = UPGRADE.to_vec();
    other[4..9].copy_from_slice(b"/evil");
    let left = rig.send(A, &connection.segment(A, "P", &other));
    assert!(left.iter().all(|(_, frame)| frame.len() == 14 + 20 + 20), "no byte of it leaves");
    assert_eq!(rig.dropped(DropReason::L7RetransmissionMismatch), 1);
    connection.client += UPGRADE.len() as u32;
    connection.send(&mut rig, B, b"");
    assert!(connection.is_fast(&mut rig, A));
    rig.assert_no_frame_is_lost();
}

#[test]
fn a_detached_flow_lives_as_long_as_rules_of_its_protocol_apply() {
    for (rules, lives) in [
        (docs(), true),
        (IngressOfB::FromA(None), true),
        (kafka(), false),
        (IngressOfB::Closed, false),
    ] {
        let mut rig = Rig::with(docs());
        let mut connection = Connection::websocket(&mut rig, CLIENT);
        rig.shared.publish(snapshot(2, rules));
        let left = connection.send(&mut rig, A, b"data");
        let is_data = |(link, frame): &(LinkId, Vec<u8>)| *link == B && !is_reset(frame);
        assert_eq!(left.iter().any(is_data), lives);
        assert_eq!(connection.is_fast(&mut rig, B), lives);
        assert_eq!(rig.dropped(DropReason::PolicyRevoked), u64::from(!lives));
        rig.assert_no_frame_is_lost();
    }
}

#[test]
fn a_syn_on_the_tuple_of_a_detached_flow_begins_an_inspected_one() {
    let mut rig = Rig::with(docs());
    let connection = Connection::websocket(&mut rig, CLIENT);
    let syn_of_server = connection.segment(B, "S", b"");
    assert!(rig.send(B, &syn_of_server).is_empty());
    let mut connection = Connection { port: CLIENT, client: 70_001, server: 80_000 };
    assert_eq!(rig.send(A, &connection.syn()).len(), 1);
    rig.send(B, &connection.segment(B, "S", b""));
    connection.server += 1;
    let left = connection.send(&mut rig, A, b"GET /secret HTTP/1.1\r\nHost: b\r\n\r\n");
    assert!(left.iter().any(|(link, _)| *link == A), "it is answered");
    assert_eq!(rig.workers[0].stats().l7_denied.get(), 1);
    rig.assert_no_frame_is_lost();
}

fn saved(rig: &Rig) -> Vec<SavedFlow> {
    rig.workers[0].saved_flows(rig.now).collect()
}

#[test]
fn a_detached_flow_outlives_its_worker() {
    let mut rig = Rig::with(docs());
    Connection::open(&mut rig, 7);
    let mut connection = Connection::websocket(&mut rig, CLIENT);
    let flows = saved(&rig);
    assert_eq!(flows.len(), 1, "an inspected one does not");
    assert_eq!(flows[0].detached, Some(L7Protocol::Http));
    for (rules, lives) in [(docs(), true), (IngressOfB::FromA(None), true), (kafka(), false)] {
        let mut rig = Rig::new(1);
        let (now, tables) = (rig.now, Arc::new(snapshot(1, rules)));
        let restored = rig.workers[0].restore_flows(now, &tables, &flows);
        assert_eq!(restored, usize::from(lives));
        rig.shared.publish(tables);
        if lives {
            assert_eq!(connection.send(&mut rig, A, b"data").len(), 1);
            assert!(connection.is_fast(&mut rig, B));
            assert_eq!(saved(&rig)[0].detached, Some(L7Protocol::Http));
        }
        rig.assert_no_frame_is_lost();
    }
}
