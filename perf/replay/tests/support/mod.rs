//! Synthetic captures of the pods in `tests/manifests`.

use std::io::BufWriter;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use etherparse::{IpHeaders, PacketBuilder, PacketBuilderStep};
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapWriter};
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketBlock;
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::{DataLink, Endianness, TsResolution};
use podgate_replay::{Args, Error, Output, ReplayReport, replay};

/// A pod, by the last byte of its addresses and MAC.
pub(crate) type Pod = u8;

pub(crate) const ADMIN: Pod = 10;
pub(crate) const USER: Pod = 20;
pub(crate) const NGINX: Pod = 30;
pub(crate) const STORE: Pod = 40;
pub(crate) const STRANGER: Pod = 50;
/// A host outside of the cluster.
pub(crate) const OUTSIDE: Pod = 200;

/// MAC of podgate's end of every veth.
const GATEWAY: [u8; 6] = [2, 0, 0, 0, 0, 1];
const TTL: u8 = 64;

pub(crate) fn mac(pod: Pod) -> [u8; 6] {
    [2, 0, 0, 0, 0x77, pod]
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Family {
    V4,
    V6,
}

/// One captured frame.
#[derive(Clone)]
pub(crate) struct Captured {
    pub(crate) time: u64,
    pub(crate) interface: u32,
    pub(crate) frame: Vec<u8>,
    pub(crate) original_len: u32,
}

/// Where a capture is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Vantage {
    /// On the veth of one pod.
    At(Pod),
    /// On the veths of all pods, each a separate interface.
    Everywhere,
}

/// A capture under construction.
#[derive(Clone)]
pub(crate) struct Recording {
    pub(crate) packets: Vec<Captured>,
    pub(crate) family: Family,
    vantage: Vantage,
    now: u64,
}

/// What podgate did with a packet in the live run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum LiveResult {
    Passed,
    Dropped,
    /// Originated by podgate with the sender's address.
    Made,
}

impl Recording {
    pub(crate) fn new(family: Family, vantage: Vantage) -> Self {
        // In 2026, so that timestamps have all their digits.
        Self { packets: Vec::new(), family, vantage, now: 1_790_000_000_000_000_000 }
    }

    pub(crate) fn wait(&mut self, duration: Duration) {
        self.now += duration.as_nanos() as u64;
    }

    /// Adds a frame unchanged.
    pub(crate) fn raw(&mut self, interface: u32, frame: Vec<u8>) {
        self.now += 50_000;
        let original_len = frame.len() as u32;
        self.packets.push(Captured { time: self.now, interface, frame, original_len });
    }

    /// Adds the packet that `build` makes from Ethernet and IP headers, at each place where it is
    /// visible.
    pub(crate) fn packet(
        &mut self,
        [from, to]: [Pod; 2],
        live: LiveResult,
        build: impl Fn(PacketBuilderStep<IpHeaders>) -> Vec<u8>,
    ) {
        let family = self.family;
        let frame =
            |src, dst, ttl| build(ip(family, PacketBuilder::ethernet2(src, dst), from, to, ttl));
        let at_sender = || frame(mac(from), GATEWAY, TTL);
        let at_receiver = || frame(GATEWAY, mac(to), TTL - 1);
        match self.vantage {
            Vantage::At(pod) if pod == from && live != LiveResult::Made => self.raw(0, at_sender()),
            Vantage::At(pod) if pod == to && live != LiveResult::Dropped => {
                self.raw(0, at_receiver());
            }
            Vantage::At(_) => {}
            Vantage::Everywhere => {
                if live != LiveResult::Made {
                    self.raw(u32::from(from), at_sender());
                }
                if live != LiveResult::Dropped {
                    self.raw(u32::from(to), at_receiver());
                }
            }
        }
    }

    pub(crate) fn udp(
        &mut self,
        ends: [Pod; 2],
        ports: [u16; 2],
        live: LiveResult,
        payload: &[u8],
    ) {
        self.packet(ends, live, |ip| {
            let udp = ip.udp(ports[0], ports[1]);
            let mut frame = Vec::with_capacity(udp.size(payload.len()));
            udp.write(&mut frame, payload).unwrap();
            frame
        });
    }

    pub(crate) fn ping(&mut self, ends: [Pod; 2], live: LiveResult, reply: bool) {
        let family = self.family;
        self.packet(ends, live, |ip| {
            let icmp = match (family, reply) {
                (Family::V4, false) => ip.icmpv4_echo_request(7, 1),
                (Family::V4, true) => ip.icmpv4_echo_reply(7, 1),
                (Family::V6, _) => {
                    let icmp = if reply {
                        ip.icmpv6_echo_reply(7, 1)
                    } else {
                        ip.icmpv6_echo_request(7, 1)
                    };
                    let mut frame = Vec::new();
                    icmp.write(&mut frame, b"ping").unwrap();
                    return frame;
                }
            };
            let mut frame = Vec::new();
            icmp.write(&mut frame, b"ping").unwrap();
            frame
        });
    }

    /// Writes a pcap file.
    pub(crate) fn pcap(&self, path: &Path, ts_resolution: TsResolution) {
        let header = PcapHeader { snaplen: 262_144, ts_resolution, ..PcapHeader::default() };
        let mut writer = PcapWriter::with_header(Vec::new(), header).unwrap();
        for packet in &self.packets {
            let time = Duration::from_nanos(packet.time);
            writer
                .write_packet(&PcapPacket::new(time, packet.original_len, &packet.frame))
                .unwrap();
        }
        std::fs::write(path, writer.into_writer()).unwrap();
    }

    /// Writes a pcapng file with nanoseconds.
    pub(crate) fn pcapng(&self, path: &Path) {
        let file = BufWriter::new(std::fs::File::create(path).unwrap());
        let mut writer = PcapNgWriter::with_endianness(file, Endianness::Little).unwrap();
        let interfaces = self.packets.iter().map(|packet| packet.interface).max().unwrap_or(0) + 1;
        for _ in 0..interfaces {
            let mut interface = InterfaceDescriptionBlock::new(DataLink::ETHERNET, 0);
            interface.options.push(InterfaceDescriptionOption::IfTsResol(9));
            writer.write_pcapng_block(interface).unwrap();
        }
        for packet in &self.packets {
            let block = EnhancedPacketBlock {
                interface_id: packet.interface,
                timestamp: Duration::from_nanos(packet.time),
                original_len: packet.original_len,
                data: (&packet.frame).into(),
                options: Vec::new(),
            };
            writer.write_pcapng_block(block).unwrap();
        }
    }

    /// Replays the capture for verdicts only.
    pub(crate) fn replay(&self) -> ReplayReport {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("recording.pcapng");
        self.pcapng(&path);
        replay_file(&path).unwrap()
    }
}

fn ip(
    family: Family,
    ethernet: PacketBuilderStep<etherparse::Ethernet2Header>,
    from: Pod,
    to: Pod,
    ttl: u8,
) -> PacketBuilderStep<IpHeaders> {
    let v4 = |pod: Pod| match pod {
        OUTSIDE => Ipv4Addr::new(192, 0, 2, 1),
        _ => Ipv4Addr::new(10, 77, 0, pod),
    };
    // In the manifests the last group has the digits of the IPv4 address's last byte.
    let v6 = |pod: Pod| match pod {
        OUTSIDE => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1),
        _ => format!("fd77::{pod}").parse().unwrap(),
    };
    match family {
        Family::V4 => ethernet.ipv4(v4(from).octets(), v4(to).octets(), ttl),
        Family::V6 => ethernet.ipv6(v6(from).octets(), v6(to).octets(), ttl),
    }
}

/// A TCP connection in a capture.
pub(crate) struct Connection<'r> {
    recording: &'r mut Recording,
    ends: [Pod; 2],
    ports: [u16; 2],
    /// Next sequence number of each end.
    next: [u32; 2],
}

pub(crate) const CLIENT: usize = 0;
pub(crate) const SERVER: usize = 1;

impl<'r> Connection<'r> {
    /// A connection that is not open yet.
    pub(crate) fn new(recording: &'r mut Recording, ends: [Pod; 2], ports: [u16; 2]) -> Self {
        Self { recording, ends, ports, next: [1000, 9000] }
    }

    /// Adds the handshake.
    pub(crate) fn open(mut self) -> Self {
        self.segment(CLIENT, "S", b"", LiveResult::Passed);
        self.segment(SERVER, "SA", b"", LiveResult::Passed);
        self.segment(CLIENT, "A", b"", LiveResult::Passed);
        self
    }

    /// Adds one segment with the flags in `flags`, any of `SAFRP`.
    pub(crate) fn segment(&mut self, from: usize, flags: &str, payload: &[u8], live: LiveResult) {
        let to = 1 - from;
        let (seq, ack) = (self.next[from], self.next[to]);
        let has = |flag| flags.contains(flag);
        let ports = self.ports;
        self.recording.packet([self.ends[from], self.ends[to]], live, |ip| {
            let mut tcp = ip.tcp(ports[from], ports[to], seq, 64_240);
            for (letter, set) in [
                ('S', (|tcp| tcp.syn()) as fn(PacketBuilderStep<_>) -> PacketBuilderStep<_>),
                ('A', |tcp| tcp),
                ('F', |tcp| tcp.fin()),
                ('R', |tcp| tcp.rst()),
                ('P', |tcp| tcp.psh()),
            ] {
                if has(letter) {
                    tcp = set(tcp);
                }
            }
            if has('A') {
                tcp = tcp.ack(ack);
            }
            let mut frame = Vec::with_capacity(tcp.size(payload.len()));
            tcp.write(&mut frame, payload).unwrap();
            frame
        });
        let taken = payload.len() as u32 + u32::from(has('S')) + u32::from(has('F'));
        self.next[from] = seq.wrapping_add(taken);
    }

    /// Adds data that passed, and its acknowledgement.
    pub(crate) fn sends(&mut self, from: usize, payload: &str) {
        self.segment(from, "PA", payload.as_bytes(), LiveResult::Passed);
        self.segment(1 - from, "A", b"", LiveResult::Passed);
    }

    /// Adds the FINs of both ends.
    pub(crate) fn close(mut self) {
        self.segment(CLIENT, "FA", b"", LiveResult::Passed);
        self.segment(SERVER, "FA", b"", LiveResult::Passed);
        self.segment(CLIENT, "A", b"", LiveResult::Passed);
    }

    /// Adds a request that podgate denies, what podgate originates, and the client's reaction.
    pub(crate) fn denied(mut self, request: &str) {
        const ANSWER: &str =
            "HTTP/1.1 403 Forbidden\r\ncontent-length: 15\r\n\r\nAccess denied\r\n";
        self.segment(CLIENT, "PA", request.as_bytes(), LiveResult::Dropped);
        // The server sees a reset instead of the request and the answer.
        let after_request = self.next[CLIENT];
        self.segment(SERVER, "FPA", ANSWER.as_bytes(), LiveResult::Made);
        self.segment(CLIENT, "A", b"", LiveResult::Dropped);
        self.segment(CLIENT, "FA", b"", LiveResult::Dropped);
        self.next[CLIENT] = after_request - request.len() as u32;
        self.segment(CLIENT, "R", b"", LiveResult::Made);
    }
}

pub(crate) fn manifests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/manifests")
}

pub(crate) fn args(capture: &Path) -> Args {
    let output = Output::Table;
    Args { capture: capture.into(), manifests: manifests(), node: None, repeat: Some(0), output }
}

pub(crate) fn replay_file(capture: &Path) -> Result<ReplayReport, Error> {
    replay(&args(capture))
}

pub(crate) fn request(method: &str, path: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: nginx.backend\r\n\r\n")
}

pub(crate) const ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A capture with flows of all kinds, at one pod or at all.
pub(crate) fn everything(family: Family, vantage: Vantage) -> Recording {
    let mut recording = Recording::new(family, vantage);
    let r = &mut recording;
    // Admin sends allowed requests, then a denied one.
    let mut allowed = Connection::new(r, [ADMIN, NGINX], [40_000, 80]).open();
    for path in ["/docs", "/docs", "/api/v1/users"] {
        allowed.sends(CLIENT, &request("GET", path));
        allowed.sends(SERVER, ANSWER);
    }
    allowed.close();
    Connection::new(r, [ADMIN, NGINX], [40_001, 80]).open().denied(&request("GET", "/secret"));
    Connection::new(r, [USER, NGINX], [40_002, 80]).open().denied(&request("GET", "/api/v1/users"));
    // A stranger tries three times and never gets an answer.
    let mut hangs = Connection::new(r, [STRANGER, NGINX], [40_003, 80]);
    for _ in 0..3 {
        hangs.next = [1000, 9000];
        hangs.segment(CLIENT, "S", b"", LiveResult::Dropped);
    }
    // A denied port, a denied protocol, a pod without policy.
    Connection::new(r, [ADMIN, NGINX], [40_004, 81]).segment(CLIENT, "S", b"", LiveResult::Dropped);
    r.udp([ADMIN, NGINX], [5000, 53], LiveResult::Dropped, b"what");
    r.udp([NGINX, ADMIN], [5001, 53], LiveResult::Passed, b"what");
    r.udp([ADMIN, NGINX], [53, 5001], LiveResult::Passed, b"this");
    r.ping([ADMIN, NGINX], LiveResult::Dropped, false);
    r.ping([NGINX, ADMIN], LiveResult::Passed, false);
    r.ping([ADMIN, NGINX], LiveResult::Passed, true);
    // Outside of the cluster.
    r.udp([NGINX, OUTSIDE], [5002, 123], LiveResult::Passed, b"time");
    r.udp([OUTSIDE, NGINX], [123, 5002], LiveResult::Passed, b"late");
    // A segment from the middle of a connection.
    Connection::new(r, [USER, NGINX], [40_005, 80]).segment(CLIENT, "A", b"", LiveResult::Dropped);
    recording
}
