//! Allocations of `podgate replay` per packet. One test in a separate program, because allocations
//! of all threads are counted.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests")]

use std::path::{Path, PathBuf};

use podgate_replay::{Args, Output, replay};
use podgate_tables::ids::LinkId;
use podgate_test_support::{TcpPacket, tcp, udp};
use podgate_yardstick::alloc::{COUNTING, Count, Counting};

#[global_allocator]
static ALLOCATOR: Counting = COUNTING;

/// Number of repetitions.
const REPETITIONS: u32 = 200;

const REQUEST: &[u8] = b"GET /docs HTTP/1.1\r\nHost: nginx.backend\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Pods of `tests/manifests`, by the last byte of their addresses.
const ADMIN: u8 = 10;
const NGINX: u8 = 30;
const STRANGER: u8 = 50;

const fn address(pod: u8) -> [u8; 4] {
    [10, 77, 0, pod]
}

/// Frames of a capture as pods sent them, and the HTTP requests in them.
#[derive(Default)]
struct Frames {
    frames: Vec<Vec<u8>>,
    requests: u64,
}

impl Frames {
    fn udp(&mut self, from: u8, to: u8, payload: &[u8]) {
        let (link, src, dst) = (LinkId(from.into()), address(from), address(to));
        self.frames.push(udp(link, src, dst, [5000, 5000], payload));
    }

    /// Adds a TCP segment between admin, port 40000, and nginx, port 80.
    fn segment(&mut self, from: u8, flags: &str, seq: u32, ack: Option<u32>, payload: &[u8]) {
        let (to, ports) = if from == ADMIN { (NGINX, [40_000, 80]) } else { (ADMIN, [80, 40_000]) };
        let (src, dst) = (address(from), address(to));
        let packet = TcpPacket { src, dst, ports, seq, ack, flags, payload };
        self.frames.push(tcp(LinkId(from.into()), &packet));
    }

    /// Datagrams in both directions of an allowed flow, and of a denied one.
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
        let mut frames = Self { requests: rounds.into(), ..Self::default() };
        let (mut client, mut server) = (1000, 9000);
        frames.segment(ADMIN, "S", client, None, b"");
        client += 1;
        frames.segment(NGINX, "S", server, Some(client), b"");
        server += 1;
        frames.segment(ADMIN, "", client, Some(server), b"");
        for _ in 0..rounds {
            frames.segment(ADMIN, "P", client, Some(server), REQUEST);
            client += REQUEST.len() as u32;
            frames.segment(NGINX, "P", server, Some(client), RESPONSE);
            server += RESPONSE.len() as u32;
        }
        frames.segment(ADMIN, "", client, Some(server), b"");
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

    /// Allocations of each repetition: the difference to a replay for verdicts only, divided by the
    /// number of repetitions. Rounding removes the few that don't depend on that number.
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
    // An inspected connection allocates its state, and nothing for each request.
    let [short, long] =
        [10, 100].map(|rounds| Frames::requests(rounds).allocations_per_repetition());
    assert_eq!(short, long);
}
