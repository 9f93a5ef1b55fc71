//! The stream editor between a client and a server that do anything after their handshake.
//!
//! What the server reads, however it treats bytes that arrive twice, must pass the inspector when
//! it is inspected again from the beginning. Frames, quotas and bytes must balance after each step.

use etherparse::{PacketBuilder, TcpHeader};
use podgate_dataplane::l7::editor::Editor;
use podgate_dataplane::l7::http1::Http1;
use podgate_dataplane::packet::parse;
use podgate_tables::l7::L7Policy;
use podgate_tables::tcp_flags;
use podgate_tables::time::Nanos;
use podgate_tables::tuple::FlowDirection;
use podgate_test_support::{EarlyBytes, RecordingIo, set_flags};

use crate::http1::{inspect, policy};
use crate::input::Input;

const CLIENT: FlowDirection = FlowDirection::Original;
const SERVER: FlowDirection = FlowDirection::Reply;
/// Steps of one input.
const STEPS_MAX: usize = 256;
/// Both streams cross the wrap of sequence numbers.
const CLIENT_ISN: u32 = u32::MAX - 20;
const SERVER_ISN: u32 = u32::MAX - 70;

/// What a server reads of the client's stream.
#[derive(Default)]
struct Reader {
    read: Vec<u8>,
    early: EarlyBytes,
}

impl Reader {
    fn new(last_wins: bool) -> Self {
        let mut reader = Self::default();
        reader.early.last_wins = last_wins;
        reader
    }

    fn deliver(&mut self, seq: u32, payload: &[u8]) {
        let offset = i64::from(seq.wrapping_sub(CLIENT_ISN.wrapping_add(1)) as i32);
        self.early.deliver(&mut self.read, offset, payload, usize::MAX);
    }
}

struct Connection {
    io: RecordingIo,
    editor: Editor<Http1>,
    policy: L7Policy,
    now: Nanos,
    readers: [Reader; 2],
    timestamps: bool,
    clock: u32,
}

impl Connection {
    fn segment(
        &mut self,
        from: FlowDirection,
        seq: u32,
        ack: u32,
        flags: u8,
        payload: &[u8],
        frame: usize,
    ) {
        let bytes = self.frame(from, seq, ack, flags, payload);
        let Some(packet) = self.io.packet(&bytes, frame) else { return };
        let umem = self.io.pool.umem().clone();
        let Ok(view) = parse(umem.data(&packet.head), packet.len()) else {
            return self.io.pool.free_packet(packet);
        };
        self.editor.segment(self.now, from, &view, packet, &self.policy, &mut self.io);
        self.check();
    }

    fn frame(
        &mut self,
        from: FlowDirection,
        seq: u32,
        ack: u32,
        flags: u8,
        payload: &[u8],
    ) -> Vec<u8> {
        let (ends, ports) =
            if from == CLIENT { ([1, 2], (40_000, 80)) } else { ([2, 1], (80, 40_000)) };
        let mut tcp = TcpHeader::new(ports.0, ports.1, seq, 60_000);
        tcp.acknowledgment_number = ack;
        set_flags(&mut tcp, flags);
        let mut options = Vec::new();
        if tcp.syn {
            options.extend([2, 4, 5, 120, 1, 3, 3, 0]);
        }
        if self.timestamps {
            self.clock += 1;
            options.extend([1, 1, 8, 10]);
            options.extend(self.clock.to_be_bytes());
            options.extend([0; 4]);
        }
        tcp.set_options_raw(&options).unwrap();
        let step = PacketBuilder::ethernet2([2, 0, 0, 0, 0, ends[0]], [2, 0, 0, 0, 0, ends[1]])
            .ipv4([10, 0, 0, ends[0]], [10, 0, 0, ends[1]], 64);
        let mut bytes = Vec::new();
        step.tcp_header(tcp).write(&mut bytes, payload).unwrap();
        bytes
    }

    /// Checks that everything balances, and delivers what was sent to the server.
    fn check(&mut self) {
        self.io.assert_balance(&self.editor);
        self.io.dropped.clear();
        self.io.events.clear();
        for sent in std::mem::take(&mut self.io.sent) {
            if sent.direction == CLIENT && !sent.is(tcp_flags::RST) {
                let deliver = |reader: &mut Reader| reader.deliver(sent.tcp.seq, sent.payload());
                self.readers.iter_mut().for_each(deliver);
            }
        }
    }

    fn step(&mut self, input: &mut Input<'_>, stream: &mut Vec<u8>) {
        let op = input.u8();
        let seq = |isn: u32, offset: usize| isn.wrapping_add(1).wrapping_add(offset as u32);
        let server_ack = seq(CLIENT_ISN, self.readers[0].read.len());
        match op & 7 {
            // The client's next bytes.
            0 | 1 => {
                let payload = input.string();
                let at = seq(CLIENT_ISN, stream.len());
                stream.extend(payload);
                self.segment(CLIENT, at, seq(SERVER_ISN, 0), tcp_flags::ACK, payload, 3840);
            }
            // Bytes of the client anywhere near, its own or others.
            2 | 3 => {
                let (at, payload) = (usize::from(input.u8()) * 2, input.string());
                let flags = tcp_flags::ACK | (op >> 3 & (tcp_flags::FIN | tcp_flags::URG));
                let frame = 128 + usize::from(op);
                self.segment(
                    CLIENT,
                    seq(CLIENT_ISN, at),
                    seq(SERVER_ISN, 0),
                    flags,
                    payload,
                    frame,
                );
            }
            // A segment of the client that it sent already.
            4 => {
                let at = usize::from(input.u16()).min(stream.len());
                let end = (at + usize::from(input.u8())).min(stream.len());
                let payload = stream[at..end].to_vec();
                self.segment(
                    CLIENT,
                    seq(CLIENT_ISN, at),
                    seq(SERVER_ISN, 0),
                    tcp_flags::ACK,
                    &payload,
                    3840,
                );
            }
            // The server acknowledges what it read, with bytes of its own or none.
            5 => {
                let (at, payload) = (usize::from(input.u8()), input.string());
                self.segment(
                    SERVER,
                    seq(SERVER_ISN, at),
                    server_ack,
                    tcp_flags::ACK,
                    payload,
                    3840,
                );
            }
            6 => {
                let (from, flags) = (if op & 8 == 0 { CLIENT } else { SERVER }, input.u8());
                let (at, ack) = (usize::from(input.u8()), usize::from(input.u8()));
                let (isn, other) = if from == CLIENT {
                    (CLIENT_ISN, SERVER_ISN)
                } else {
                    (SERVER_ISN, CLIENT_ISN)
                };
                self.segment(from, seq(isn, at), seq(other, ack), flags, b"", 3840);
            }
            _ => {
                self.now = self.now.plus_millis(u64::from(input.u8()));
                self.io.out_of_frames = op & 8 != 0;
                self.editor.tick(self.now, &self.policy, &mut self.io);
                self.check();
            }
        }
    }
}

/// Input: options, then steps.
pub fn editor(data: &[u8]) {
    let mut input = Input::new(data);
    let options = input.u8();
    let mut io = RecordingIo::new(256);
    io.held_frames_max = usize::from(options >> 3) * 2;
    io.buffered_bytes_max = if options & 2 != 0 { usize::MAX } else { 4_000 };
    let mut connection = Connection {
        io,
        editor: Editor::default(),
        policy: policy(),
        now: Nanos(1_000_000_000),
        readers: [false, true].map(Reader::new),
        timestamps: options & 1 != 0,
        clock: 1,
    };
    let (client, server) = (CLIENT_ISN.wrapping_add(1), SERVER_ISN.wrapping_add(1));
    connection.segment(CLIENT, CLIENT_ISN, 0, tcp_flags::SYN, b"", 3840);
    connection.segment(SERVER, SERVER_ISN, client, tcp_flags::SYN | tcp_flags::ACK, b"", 3840);
    connection.segment(CLIENT, client, server, tcp_flags::ACK, b"", 3840);
    let mut stream = Vec::new();
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        connection.step(&mut input, &mut stream);
    }
    for reader in &connection.readers {
        let (outcome, _) = inspect(&connection.policy, [&reader.read[..]]);
        let is_allowed = outcome.verdicts.iter().all(|allowed| *allowed);
        let is_allowed = is_allowed && outcome.reset.is_none() && !outcome.closed;
        assert!(is_allowed, "the server read {}: {outcome:?}", reader.read.escape_ascii());
    }
    connection.editor.close(&mut connection.io);
    assert_eq!(connection.io.pool.outstanding(), 0, "every frame came back");
}
