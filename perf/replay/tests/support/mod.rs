//! Captures made by hand, of the pods in `tests/manifests`.

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
use podgate_replay::{Args, Error, Output, Report, replay};

/// Last byte of a pod's addresses and MAC.
pub(crate) type Pod = u8;

pub(crate) const ADMIN: Pod = 10;
pub(crate) const USER: Pod = 20;
pub(crate) const NGINX: Pod = 30;
pub(crate) const STORE: Pod = 40;
pub(crate) const STRANGER: Pod = 50;
/// No pod.
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

/// Where a recording is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Seat {
    /// On the veth of one pod.
    At(Pod),
    /// On the veths of all pods, each an interface of its own.
    Everywhere,
}

/// What a capture will hold.
#[derive(Clone)]
pub(crate) struct Recording {
    pub(crate) packets: Vec<Captured>,
    pub(crate) family: Family,
    seat: Seat,
    now: u64,
}

/// Whether podgate let a packet pass in the live run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Live {
    Passed,
    Dropped,
    /// Made by podgate in the name of the sender.
    Made,
}

impl Recording {
    pub(crate) fn new(family: Family, seat: Seat) -> Self {
        // Some time in 2026, so that stamps have all their digits.
        Self { packets: Vec::new(), family, seat, now: 1_790_000_000_000_000_000 }
    }

    pub(crate) fn wait(&mut self, duration: Duration) {
        self.now += duration.as_nanos() as u64;
    }

    /// Records a frame as it is.
    pub(crate) fn raw(&mut self, interface: u32, frame: Vec<u8>) {
        self.now += 50_000;
        let original_len = frame.len() as u32;
        self.packets.push(Captured { time: self.now, interface, frame, original_len });
    }

    /// Records the packet that `build` makes of its Ethernet and IP headers, wherever it can be
    /// seen.
    pub(crate) fn packet(
        &mut self,
        [from, to]: [Pod; 2],
        live: Live,
        build: impl Fn(PacketBuilderStep<IpHeaders>) -> Vec<u8>,
    ) {
        let family = self.family;
        let frame =
            |src, dst, ttl| build(ip(family, PacketBuilder::ethernet2(src, dst), from, to, ttl));
        let at_sender = || frame(mac(from), GATEWAY, TTL);
        let at_receiver = || frame(GATEWAY, mac(to), TTL - 1);
        match self.seat {
            Seat::At(pod) if pod == from && live != Live::Made => self.raw(0, at_sender()),
            Seat::At(pod) if pod == to && live != Live::Dropped => self.raw(0, at_receiver()),
            Seat::At(_) => {}
            Seat::Everywhere => {
                if live != Live::Made {
                    self.raw(u32::from(from), at_sender());
                }
                if live != Live::Dropped {
                    self.raw(u32::from(to), at_receiver());
                }
            }
        }
    }

    pub(crate) fn udp(&mut self, ends: [Pod; 2], ports: [u16; 2], live: Live, payload: &[u8]) {
        self.packet(ends, live, |ip| {
            let udp = ip.udp(ports[0], ports[1]);
            let mut frame = Vec::with_capacity(udp.size(payload.len()));
            udp.write(&mut frame, payload).unwrap();
            frame
        });
    }

    pub(crate) fn ping(&mut self, ends: [Pod; 2], live: Live, reply: bool) {
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

    /// The file in the old format.
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

    /// The file in the new format, with nanoseconds.
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

    /// The report of replaying this, for the verdicts.
    pub(crate) fn replay(&self) -> Report {
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
    // The manifests write the last group so that it looks like the IPv4 address.
    let v6 = |pod: Pod| match pod {
        OUTSIDE => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1),
        _ => format!("fd77::{pod}").parse().unwrap(),
    };
    match family {
        Family::V4 => ethernet.ipv4(v4(from).octets(), v4(to).octets(), ttl),
        Family::V6 => ethernet.ipv6(v6(from).octets(), v6(to).octets(), ttl),
    }
}

/// A TCP connection that is recorded.
pub(crate) struct Connection<'r> {
    recording: &'r mut Recording,
    ends: [Pod; 2],
    ports: [u16; 2],
    /// Next sequence number of either end.
    next: [u32; 2],
}

pub(crate) const CLIENT: usize = 0;
pub(crate) const SERVER: usize = 1;

impl<'r> Connection<'r> {
    /// A connection that is not open yet.
    pub(crate) fn new(recording: &'r mut Recording, ends: [Pod; 2], ports: [u16; 2]) -> Self {
        Self { recording, ends, ports, next: [1000, 9000] }
    }

    /// The three packets that open it.
    pub(crate) fn open(mut self) -> Self {
        self.segment(CLIENT, "S", b"", Live::Passed);
        self.segment(SERVER, "SA", b"", Live::Passed);
        self.segment(CLIENT, "A", b"", Live::Passed);
        self
    }

    /// One segment with the flags that `flags` has the letters of.
    pub(crate) fn segment(&mut self, from: usize, flags: &str, payload: &[u8], live: Live) {
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

    /// Data that passed, and its acknowledgement.
    pub(crate) fn sends(&mut self, from: usize, payload: &str) {
        self.segment(from, "PA", payload.as_bytes(), Live::Passed);
        self.segment(1 - from, "A", b"", Live::Passed);
    }

    /// Both ends close.
    pub(crate) fn close(mut self) {
        self.segment(CLIENT, "FA", b"", Live::Passed);
        self.segment(SERVER, "FA", b"", Live::Passed);
        self.segment(CLIENT, "A", b"", Live::Passed);
    }

    /// A request that podgate refuses: what it makes, and what the client says to that.
    pub(crate) fn refused(mut self, request: &str) {
        const ANSWER: &str =
            "HTTP/1.1 403 Forbidden\r\ncontent-length: 15\r\n\r\nAccess denied\r\n";
        self.segment(CLIENT, "PA", request.as_bytes(), Live::Dropped);
        // The server sees neither the request nor the answer, and a reset instead.
        let after_request = self.next[CLIENT];
        self.segment(SERVER, "FPA", ANSWER.as_bytes(), Live::Made);
        self.segment(CLIENT, "A", b"", Live::Dropped);
        self.segment(CLIENT, "FA", b"", Live::Dropped);
        self.next[CLIENT] = after_request - request.len() as u32;
        self.segment(CLIENT, "R", b"", Live::Made);
    }
}

pub(crate) fn manifests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/manifests")
}

pub(crate) fn args(capture: &Path) -> Args {
    let output = Output::Table;
    Args { capture: capture.into(), manifests: manifests(), node: None, repeat: Some(0), output }
}

pub(crate) fn replay_file(capture: &Path) -> Result<Report, Error> {
    replay(&args(capture))
}

pub(crate) fn request(method: &str, path: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: nginx.backend\r\n\r\n")
}

pub(crate) const ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Some of everything, as seen from one pod or from all.
pub(crate) fn everything(family: Family, seat: Seat) -> Recording {
    let mut recording = Recording::new(family, seat);
    let r = &mut recording;
    // Admin asks for what it may, then for what it may not.
    let mut allowed = Connection::new(r, [ADMIN, NGINX], [40_000, 80]).open();
    for path in ["/docs", "/docs", "/api/v1/users"] {
        allowed.sends(CLIENT, &request("GET", path));
        allowed.sends(SERVER, ANSWER);
    }
    allowed.close();
    Connection::new(r, [ADMIN, NGINX], [40_001, 80]).open().refused(&request("GET", "/secret"));
    Connection::new(r, [USER, NGINX], [40_002, 80])
        .open()
        .refused(&request("GET", "/api/v1/users"));
    // A stranger tries three times and never hears anything.
    let mut hangs = Connection::new(r, [STRANGER, NGINX], [40_003, 80]);
    for _ in 0..3 {
        hangs.next = [1000, 9000];
        hangs.segment(CLIENT, "S", b"", Live::Dropped);
    }
    // A port that nobody may call, a protocol that nobody may use, a pod without policy.
    Connection::new(r, [ADMIN, NGINX], [40_004, 81]).segment(CLIENT, "S", b"", Live::Dropped);
    r.udp([ADMIN, NGINX], [5000, 53], Live::Dropped, b"what");
    r.udp([NGINX, ADMIN], [5001, 53], Live::Passed, b"what");
    r.udp([ADMIN, NGINX], [53, 5001], Live::Passed, b"this");
    r.ping([ADMIN, NGINX], Live::Dropped, false);
    r.ping([NGINX, ADMIN], Live::Passed, false);
    r.ping([ADMIN, NGINX], Live::Passed, true);
    // The world.
    r.udp([NGINX, OUTSIDE], [5002, 123], Live::Passed, b"time");
    r.udp([OUTSIDE, NGINX], [123, 5002], Live::Passed, b"late");
    // From the middle of a connection.
    Connection::new(r, [USER, NGINX], [40_005, 80]).segment(CLIENT, "A", b"", Live::Dropped);
    recording
}
