//! What `podgate replay` allocates for each packet. One test in a program of its own, because
//! allocations of all threads are counted.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests")]

use std::path::{Path, PathBuf};

use etherparse::{IpHeaders, PacketBuilder, PacketBuilderStep, TcpHeader};
use podgate_replay::{Args, Output, replay};
use podgate_yardstick::alloc::{COUNTING, Count, Counting};

#[global_allocator]
static ALLOCATOR: Counting = COUNTING;

/// Repetitions that are compared with none.
const REPETITIONS: u32 = 200;

const REQUEST: &[u8] = b"GET /docs HTTP/1.1\r\nHost: nginx.backend\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Pods of `tests/manifests`, by the last byte of their addresses.
const ADMIN: u8 = 10;
const NGINX: u8 = 30;
const STRANGER: u8 = 50;

/// Frames of a capture as pods sent them, and the HTTP requests in them.
#[derive(Default)]
struct Frames {
    frames: Vec<Vec<u8>>,
    requests: u64,
}

impl Frames {
    fn ip(from: u8, to: u8) -> PacketBuilderStep<IpHeaders> {
        PacketBuilder::ethernet2([2, 0, 0, 0, 0x77, from], [2, 0, 0, 0, 0, 1]).ipv4(
            [10, 77, 0, from],
            [10, 77, 0, to],
            64,
        )
    }

    fn udp(&mut self, from: u8, to: u8, payload: &[u8]) {
        let mut frame = Vec::new();
        Self::ip(from, to).udp(5000, 5000).write(&mut frame, payload).unwrap();
        self.frames.push(frame);
    }

    fn tcp(&mut self, segment: PacketBuilderStep<TcpHeader>, payload: &[u8]) {
        let mut frame = Vec::new();
        segment.write(&mut frame, payload).unwrap();
        self.frames.push(frame);
    }

    /// Datagrams both ways of a flow that policy allows, and of one that it denies.
    fn datagrams(rounds: usize) -> Self {
        let mut frames = Self::default();
        for _ in 0..rounds {
            frames.udp(NGINX, ADMIN, b"query");
            frames.udp(ADMIN, NGINX, b"answer");
            frames.udp(STRANGER, NGINX, b"denied");
        }
        frames
    }

    /// One connection whose requests are inspected and allowed.
    fn requests(rounds: u32) -> Self {
        let request = |seq| Self::ip(ADMIN, NGINX).tcp(40_000, 80, seq, 64_240);
        let response = |seq, ack| Self::ip(NGINX, ADMIN).tcp(80, 40_000, seq, 64_240).ack(ack);
        let mut frames = Self { requests: rounds.into(), ..Self::default() };
        let (mut client, mut server) = (1001, 9001);
        frames.tcp(request(client - 1).syn(), b"");
        frames.tcp(response(server - 1, client).syn(), b"");
        frames.tcp(request(client).ack(server), b"");
        for _ in 0..rounds {
            frames.tcp(request(client).ack(server), REQUEST);
            client += REQUEST.len() as u32;
            frames.tcp(response(server, client), RESPONSE);
            server += RESPONSE.len() as u32;
        }
        frames.tcp(request(client).ack(server), b"");
        frames
    }

    /// Writes a classic pcap file with nanoseconds, one packet each microsecond.
    fn write_pcap(&self, path: &Path) {
        const MAGIC_NANOSECONDS: u32 = 0xa1b2_3c4d;
        const LINKTYPE_ETHERNET: u32 = 1;
        // Version 2.4 in two halves, no time zone, no accuracy, snapshot length.
        let header = [MAGIC_NANOSECONDS, 0x0004_0002, 0, 0, 262_144, LINKTYPE_ETHERNET];
        let mut file = header.map(u32::to_le_bytes).concat();
        for (index, frame) in self.frames.iter().enumerate() {
            let len = frame.len() as u32;
            file.extend(
                [1_790_000_000, index as u32 * 1000, len, len].map(u32::to_le_bytes).concat(),
            );
            file.extend(frame);
        }
        std::fs::write(path, file).unwrap();
    }

    /// Allocations that each repetition makes beyond one replay for verdicts only, without the
    /// few that do not depend on the number of repetitions.
    fn allocations_per_repetition(&self) -> u64 {
        let dir = tempfile::tempdir().unwrap();
        let capture = dir.path().join("frames.pcap");
        self.write_pcap(&capture);
        let allocations = |repetitions| {
            let manifests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/manifests");
            let (repeat, output) = (Some(repetitions), Output::Table);
            let args =
                Args { capture: PathBuf::from(&capture), manifests, node: None, repeat, output };
            let before = Count::now();
            let report = replay(&args).unwrap();
            let allocated = Count::now().since(before).allocations;
            assert_eq!(report.summary.received.packets, self.frames.len() as u64);
            let requests = report.flows.iter().flat_map(|flow| &flow.requests);
            assert_eq!(requests.map(|request| request.count).sum::<u64>(), self.requests);
            if let Some(performance) = report.performance {
                assert_eq!(performance.packets, u64::from(repetitions) * self.frames.len() as u64);
                assert_eq!(performance.deviating, 0);
            }
            allocated
        };
        let verdicts_only = allocations(0);
        allocations(REPETITIONS).saturating_sub(verdicts_only) / u64::from(REPETITIONS)
    }
}

#[test]
fn a_packet_allocates_nothing() {
    assert_eq!(Frames::datagrams(20).allocations_per_repetition(), 0);
    // An inspected connection takes memory for its state, and none for each request.
    let [short, long] =
        [10, 100].map(|rounds| Frames::requests(rounds).allocations_per_repetition());
    assert_eq!(short, long);
}
