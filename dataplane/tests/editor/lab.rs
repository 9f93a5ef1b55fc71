//! A client, a server and the editor between them, in memory.

use etherparse::{PacketBuilder, TcpHeader, VlanId};
use podgate_dataplane::l7::editor::Editor;
use podgate_dataplane::l7::http1::Http1;
use podgate_dataplane::l7::inspector::Inspector;
use podgate_dataplane::l7::io::FlowIo;
use podgate_dataplane::mem::{FRAME_HEADROOM, FRAME_SIZE};
use podgate_dataplane::packet::parse;
use podgate_tables::event::{EventKind, RequestRecord};
use podgate_tables::l7::L7Policy;
use podgate_tables::tcp_flags::{ACK, FIN, PSH, RST, SYN};
use podgate_tables::time::Nanos;
use podgate_tables::tuple::FlowDirection;
use podgate_test_support::{EarlyBytes, Outgoing, RecordingIo, docs_only, set_flags};

pub(super) const CLIENT: FlowDirection = FlowDirection::Original;
pub(super) const SERVER: FlowDirection = FlowDirection::Reply;
const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const SERVER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// A TCP end, as far as its reception goes, and a sender of whatever a test wants.
#[derive(Clone, Debug)]
pub(super) struct End {
    pub(super) isn: u32,
    peer_isn: Option<u32>,
    /// Bytes that it sent.
    pub(super) sent: u32,
    /// Bytes that arrived and can be read.
    pub(super) received: Vec<u8>,
    pub(super) early: EarlyBytes,
    /// Where the other side's FIN stands.
    pub(super) fin: Option<usize>,
    pub(super) fin_taken: bool,
    pub(super) was_reset: bool,
    pub(super) window: u16,
    timestamp: u32,
    peer_timestamp: Option<u32>,
}

impl End {
    fn new(isn: u32, timestamp: u32) -> Self {
        Self {
            isn,
            peer_isn: None,
            sent: 0,
            received: Vec::new(),
            early: EarlyBytes::default(),
            fin: None,
            fin_taken: false,
            was_reset: false,
            window: 65_000,
            timestamp,
            peer_timestamp: None,
        }
    }

    /// The number it acknowledges.
    pub(super) fn ack(&self) -> u32 {
        let taken = 1 + self.received.len() as u32 + u32::from(self.fin_taken);
        self.peer_isn.map_or(0, |isn| isn.wrapping_add(taken))
    }

    /// Its next sequence number.
    pub(super) fn next(&self) -> u32 {
        self.isn.wrapping_add(1 + self.sent)
    }

    /// PAWS (RFC 7323 §5.3). Segments that we build or delay must pass it.
    fn takes_timestamp(&mut self, packet: &Outgoing) -> bool {
        let (value, _) = packet.timestamps().expect("timestamps go on");
        let recent = self.peer_timestamp.unwrap_or(value);
        let is_old = (value.wrapping_sub(recent) as i32) < 0;
        assert!(!is_old || !packet.originated, "an old timestamp");
        let in_order =
            self.peer_isn.is_none() || packet.tcp.seq.wrapping_sub(self.ack()) as i32 <= 0;
        if !is_old && in_order {
            self.peer_timestamp = Some(value);
        }
        !is_old
    }

    /// Takes a packet as Linux would (`net/ipv4/tcp_input.c`, `tcp_validate_incoming`). True if it
    /// has to be acknowledged.
    fn deliver(&mut self, packet: &Outgoing, use_timestamps: bool) -> bool {
        let tcp = &packet.tcp;
        if self.was_reset {
            return false;
        }
        if use_timestamps && !packet.is(RST) && !self.takes_timestamp(packet) {
            return true;
        }
        if packet.is(SYN) {
            let fresh = self.peer_isn.is_none();
            self.peer_isn.get_or_insert(tcp.seq);
            return !fresh;
        }
        let Some(peer_isn) = self.peer_isn else {
            self.was_reset |= packet.is(RST | ACK) && tcp.ack == self.isn.wrapping_add(1);
            return false;
        };
        if packet.is(RST) {
            self.was_reset = tcp.seq == self.ack();
            let distance = tcp.seq.wrapping_sub(self.ack());
            return !self.was_reset && distance < u32::from(self.window);
        }
        assert!(packet.is(ACK), "a segment without acknowledgement");
        let offset = i64::from(tcp.seq.wrapping_sub(peer_isn.wrapping_add(1)) as i32);
        let limit = self.received.len() + usize::from(self.window);
        if !self.fin_taken {
            self.early.deliver(&mut self.received, offset, packet.payload(), limit);
        }
        if packet.is(FIN) {
            self.fin = usize::try_from(offset + packet.payload().len() as i64).ok();
        }
        self.fin_taken |= self.fin == Some(self.received.len());
        !packet.payload().is_empty() || packet.is(FIN)
    }
}

/// What a test can choose.
#[derive(Clone, Copy, Debug)]
pub(super) struct Options {
    pub(super) v6: bool,
    pub(super) vlan: bool,
    pub(super) timestamps: bool,
    /// Both ends take selective acknowledgements.
    pub(super) sack: bool,
    /// Further options of SYNs.
    pub(super) syn_options: &'static [u8],
    /// Bytes of each frame of an injected packet.
    pub(super) frame: usize,
    pub(super) client_mss: u16,
    pub(super) client_isn: u32,
    pub(super) server_isn: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            v6: false,
            vlan: false,
            timestamps: true,
            sack: false,
            syn_options: &[],
            frame: (FRAME_SIZE - FRAME_HEADROOM) as usize,
            client_mss: 1460,
            // Both streams cross the wrap.
            client_isn: u32::MAX - 20,
            server_isn: u32::MAX - 70,
        }
    }
}

/// A lab whose connections speak HTTP/1.
pub(super) type Lab = LabOf<Http1>;

pub(super) struct LabOf<I: Inspector> {
    pub(super) options: Options,
    pub(super) io: RecordingIo,
    pub(super) editor: Editor<I>,
    pub(super) policy: L7Policy,
    pub(super) now: Nanos,
    pub(super) client: End,
    pub(super) server: End,
    /// The server answers requests, each once.
    pub(super) serves: bool,
    answered: usize,
    /// Ends acknowledge what they take.
    pub(super) acks: bool,
    /// Everything that was delivered, for tests to look at.
    pub(super) log: Vec<Outgoing>,
}

pub(super) const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const HEAD_RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n";

impl<I: Inspector> LabOf<I> {
    pub(super) fn new(options: Options) -> Self {
        let mut io = RecordingIo::new(128);
        io.held_frames_max = 40;
        Self {
            options,
            io,
            editor: Editor::default(),
            policy: docs_only(),
            now: Nanos(1_000_000_000),
            client: End::new(options.client_isn, 1_000),
            server: End::new(options.server_isn, u32::MAX - 3),
            serves: true,
            answered: 0,
            acks: true,
            log: Vec::new(),
        }
    }

    /// A lab with an open connection.
    pub(super) fn open(options: Options) -> Self {
        let mut lab = Self::new(options);
        lab.handshake();
        lab
    }

    pub(super) fn handshake(&mut self) {
        self.syn();
        self.exchange();
        let (seq, ack) = (self.server.isn, self.server.ack());
        self.send(SERVER, seq, ack, SYN | ACK, b"");
        self.exchange();
        self.client_sends(0, b"", 0);
        self.exchange();
    }

    pub(super) fn syn(&mut self) {
        let isn = self.client.isn;
        self.send(CLIENT, isn, 0, SYN, b"");
    }

    fn tcp_options(&mut self, from: FlowDirection, flags: u8) -> Vec<u8> {
        let end = match from {
            CLIENT => &mut self.client,
            SERVER => &mut self.server,
        };
        end.timestamp = end.timestamp.wrapping_add(1);
        let mss = if from == CLIENT { self.options.client_mss } else { 1400 };
        let mut options = Vec::new();
        if flags & SYN != 0 {
            options.extend([2, 4, (mss >> 8) as u8, mss as u8, 1, 3, 3, 0]);
            if self.options.sack {
                options.extend([1, 1, 4, 2]);
            }
            options.extend(self.options.syn_options);
        }
        if self.options.timestamps {
            options.extend([1, 1, 8, 10]);
            options.extend(end.timestamp.to_be_bytes());
            options.extend(end.peer_timestamp.unwrap_or(0).to_be_bytes());
        }
        options
    }

    /// The bytes of a packet.
    pub(super) fn packet(
        &mut self,
        from: FlowDirection,
        seq: u32,
        ack: u32,
        flags: u8,
        payload: &[u8],
    ) -> Vec<u8> {
        let (macs, window) = match from {
            CLIENT => ((CLIENT_MAC, SERVER_MAC), self.client.window),
            SERVER => ((SERVER_MAC, CLIENT_MAC), self.server.window),
        };
        let ports = if from == CLIENT { (40_000, 80) } else { (80, 40_000) };
        let mut tcp = TcpHeader::new(ports.0, ports.1, seq, window);
        tcp.acknowledgment_number = ack;
        set_flags(&mut tcp, flags);
        tcp.set_options_raw(&self.tcp_options(from, flags)).unwrap();
        let hosts = if from == CLIENT { (1, 2) } else { (2, 1) };
        let link = PacketBuilder::ethernet2(macs.0, macs.1);
        let v4 = |host| [10, 0, 0, host];
        let v6 = |host| [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host];
        let id = VlanId::ZERO;
        let step = match (self.options.v6, self.options.vlan) {
            (false, false) => link.ipv4(v4(hosts.0), v4(hosts.1), 64),
            (true, false) => link.ipv6(v6(hosts.0), v6(hosts.1), 64),
            (false, true) => link.single_vlan(id).ipv4(v4(hosts.0), v4(hosts.1), 64),
            (true, true) => link.single_vlan(id).ipv6(v6(hosts.0), v6(hosts.1), 64),
        };
        let mut bytes = Vec::new();
        step.tcp_header(tcp).write(&mut bytes, payload).unwrap();
        bytes
    }

    pub(super) fn send(
        &mut self,
        from: FlowDirection,
        seq: u32,
        ack: u32,
        flags: u8,
        payload: &[u8],
    ) {
        let bytes = self.packet(from, seq, ack, flags, payload);
        self.inject(from, &bytes);
    }

    /// Gives the editor a packet, in frames of `options.frame` bytes.
    pub(super) fn inject(&mut self, from: FlowDirection, bytes: &[u8]) {
        let packet = self.io.packet(bytes, self.options.frame).unwrap();
        let view = parse(self.io.umem().data(&packet.head), packet.len()).unwrap();
        self.editor.segment(self.now, from, &view, packet, &self.policy, &mut self.io);
        self.check_balance();
    }

    pub(super) fn check_balance(&self) {
        self.io.assert_balance(&self.editor);
    }

    /// A segment of one end, `offset` bytes into its stream.
    fn sends(&mut self, from: FlowDirection, offset: u32, payload: &[u8], flags: u8) {
        let end = match from {
            CLIENT => &mut self.client,
            SERVER => &mut self.server,
        };
        let seq = end.isn.wrapping_add(1).wrapping_add(offset);
        end.sent = end.sent.max(offset + payload.len() as u32);
        let ack = end.ack();
        self.send(from, seq, ack, ACK | flags, payload);
    }

    /// A segment of the client, `offset` bytes into its stream.
    pub(super) fn client_sends(&mut self, offset: u32, payload: &[u8], flags: u8) {
        self.sends(CLIENT, offset, payload, flags);
    }

    /// The client's next bytes, as one segment, and everything that follows from it.
    pub(super) fn request(&mut self, bytes: &[u8]) {
        self.client_sends(self.client.sent, bytes, PSH);
        self.exchange();
    }

    /// A segment of the server, `offset` bytes into its stream.
    pub(super) fn server_sends(&mut self, offset: u32, payload: &[u8], flags: u8) {
        self.sends(SERVER, offset, payload, flags);
    }

    /// The server's next bytes, as one segment, and everything that follows from it.
    pub(super) fn response(&mut self, bytes: &[u8]) {
        self.server_sends(self.server.sent, bytes, PSH);
        self.exchange();
    }

    /// Delivers what the editor sent, until all is quiet.
    pub(super) fn exchange(&mut self) {
        self.exchange_with(|_| true);
    }

    /// As [`Self::exchange`]; packets that `arrives` returns false for are lost on their way.
    pub(super) fn exchange_with(&mut self, mut arrives: impl FnMut(&Outgoing) -> bool) {
        for _ in 0..2_000 {
            let sent = std::mem::take(&mut self.io.sent);
            if sent.is_empty() && !self.answer_next() {
                return;
            }
            for packet in sent {
                self.log.push(packet.clone());
                if arrives(&packet) {
                    self.deliver(&packet);
                }
            }
        }
        panic!("the ends and the editor never come to rest");
    }

    fn deliver(&mut self, packet: &Outgoing) {
        let use_timestamps = self.options.timestamps;
        let (end, from) = match packet.direction {
            CLIENT => (&mut self.server, SERVER),
            SERVER => (&mut self.client, CLIENT),
        };
        if end.deliver(packet, use_timestamps) && self.acks {
            let (seq, ack) = (end.next(), end.ack());
            self.send(from, seq, ack, ACK, b"");
        }
    }

    /// The server's program: one response for each allowed request that arrived.
    fn answer_next(&mut self) -> bool {
        let allowed = self.io.events.iter().filter_map(|event| match event {
            EventKind::Request { allowed: true, request: RequestRecord::Http(request), .. } => {
                Some(request.method)
            }
            _ => None,
        });
        let next = allowed.skip(self.answered).map(|method| method.bytes() == b"HEAD").next();
        let Some(head_only) = next.filter(|_| self.serves && !self.server.was_reset) else {
            return false;
        };
        self.answered += 1;
        let response = if head_only { HEAD_RESPONSE } else { RESPONSE };
        self.server_sends(self.server.sent, response, PSH);
        true
    }

    /// Lets time pass in small steps.
    pub(super) fn wait_millis(&mut self, millis: u64) {
        for _ in 0..millis.div_ceil(5) {
            self.now = self.now.plus_millis(5);
            if self.editor.deadline().is_some_and(|deadline| deadline <= self.now) {
                self.editor.tick(self.now, &self.policy, &mut self.io);
            }
            self.check_balance();
            self.exchange();
        }
    }

    /// Whether each request was allowed, in order.
    pub(super) fn verdicts(&self) -> Vec<bool> {
        let verdict = |event: &EventKind| match event {
            EventKind::Request { allowed, .. } => Some(*allowed),
            _ => None,
        };
        self.io.events.iter().filter_map(verdict).collect()
    }
}

impl<I: Inspector> Drop for LabOf<I> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.editor.close(&mut self.io);
            assert_eq!(self.io.pool.outstanding(), 0, "every frame came back");
        }
    }
}
