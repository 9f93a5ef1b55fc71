//! The result of a replay as data; `table` prints it for people.

use std::collections::BTreeMap;
use std::path::Path;

use jiff::Timestamp;
use podgate_policy::observe::{DirectionVerdict, FlowEndpoint, HttpProtocol, Outcome, RuleName};
use serde::{Deserialize, Serialize};

use super::capture::{Broken, Capture, Format, Records};
use super::plan::Skipped;
use crate::latency::Latency;

/// The result of a replay.
///
/// All but [`ReplayReport::performance`] depends on the capture and the manifests only.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct ReplayReport {
    /// What was replayed.
    pub capture: CaptureInfo,
    /// Rejected objects of the manifests, one line each.
    pub rejected: Vec<String>,
    /// Flows in the order in which they were first seen.
    pub flows: Vec<Flow>,
    /// All flows together.
    pub summary: Summary,
    /// Performance; absent if it was not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub performance: Option<Performance>,
    /// Remarks that a reader needs.
    pub notes: Vec<String>,
}

/// What was replayed.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct CaptureInfo {
    /// File.
    pub file: String,
    /// Its format.
    pub format: Format,
    /// Number of interfaces of capture.
    pub interfaces: u32,
    /// Number of packets.
    pub packets: u64,
    /// Time of the first packet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<Timestamp>,
    /// From the first packet to the last, nanoseconds.
    pub duration_ns: u64,
    /// Numbers of skipped packets.
    pub skipped: Skipped,
    /// Damage in the file, after which nothing was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broken: Option<Broken>,
}

impl CaptureInfo {
    /// About `capture`, which was read from `file`.
    #[must_use]
    pub(super) fn new(file: &Path, capture: &Capture, skipped: Skipped) -> Self {
        let Records { packets, interfaces, truncated, oversized, broken, .. } = &capture.records;
        let start = packets.first().map(|first| i128::from(first.time));
        let end = packets.last().map_or(0, |last| last.time);
        let left_out = truncated + oversized + capture.records.other_link_types();
        Self {
            file: file.display().to_string(),
            format: capture.format,
            interfaces: *interfaces,
            packets: packets.len() as u64 + left_out,
            start: start.and_then(|nanos| Timestamp::from_nanosecond(nanos).ok()),
            duration_ns: end - capture.start(),
            skipped,
            broken: broken.clone(),
        }
    }
}

/// One flow: addresses, ports and protocol in one direction, for ICMP with the type.
///
/// Successive connections with the same addresses and ports are one flow here.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct Flow {
    /// The verdict; also [`Outcome::Dropped`] if its packets were dropped before a policy lookup.
    pub verdict: Outcome,
    /// Label of the drop reason, if it was dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drop_reason: Option<String>,
    /// The end that opened it.
    pub source: FlowEndpoint,
    /// The other end.
    pub destination: FlowEndpoint,
    /// `TCP`, `UDP`, `SCTP`, `ICMPv4`, `ICMPv6`, or the protocol's number.
    pub protocol: String,
    /// ICMP type of the first packet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp_type: Option<u8>,
    /// Time of the first packet.
    pub time: Timestamp,
    /// Decision at the source; absent without a policy lookup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<DirectionVerdict>,
    /// Decision at the destination; absent without a policy lookup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<DirectionVerdict>,
    /// HTTP requests, with a count of equal ones; at most [`REQUESTS_MAX`] different ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requests: Vec<RequestGroup>,
    /// Number of further HTTP requests.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more_requests: u64,
    /// Ends of the connection by L7 inspection in the middle of a message, or before any request
    /// could be read, by the label of the reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub denials: BTreeMap<String, u64>,
    /// Packets from the source and to it, including dropped ones.
    pub packets: [u64; 2],
    /// Bytes of these packets, from the IP header.
    pub bytes: [u64; 2],
    /// Packets that were dropped, by the label of the reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub dropped: BTreeMap<String, u64>,
}

/// Maximum number of different HTTP requests recorded per flow.
pub const REQUESTS_MAX: usize = 256;

fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// Equal HTTP requests.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct RequestGroup {
    /// Whether they were forwarded to the server.
    pub verdict: Outcome,
    /// Label of the drop reason, if they were denied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drop_reason: Option<String>,
    /// Version of HTTP.
    #[serde(default)]
    pub version: HttpProtocol,
    /// Method.
    pub method: String,
    /// Request target.
    pub path: String,
    /// Host header.
    pub host: String,
    /// The rule that allowed them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleName>,
    /// Number of requests.
    pub count: u64,
}

impl RequestGroup {
    /// Whether the two are equal except for their counts.
    #[must_use]
    pub fn equals(&self, other: &Self) -> bool {
        let Self { verdict, drop_reason, version, method, path, host, rule, count: _ } = self;
        *verdict == other.verdict
            && *drop_reason == other.drop_reason
            && *version == other.version
            && (method, path, host) == (&other.method, &other.path, &other.host)
            && *rule == other.rule
    }
}

/// All flows together.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// Flows by verdict.
    pub flows: Verdicts,
    /// HTTP requests by verdict.
    pub requests: Verdicts,
    /// Packets lost because no frame was free, as the kernel would lose them.
    pub undelivered: u64,
    /// Packets that the worker received.
    pub received: PacketCount,
    /// Packets that it forwarded.
    pub forwarded: PacketCount,
    /// Packets that it originated: 403 answers and resets.
    pub originated: PacketCount,
    /// Frames still held for a verdict when the capture ended.
    pub held: u64,
    /// Packets that it dropped, by the label of the reason.
    pub dropped: BTreeMap<String, PacketCount>,
}

/// Numbers of verdicts.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Verdicts {
    /// [`Outcome::Forwarded`].
    pub forwarded: u64,
    /// [`Outcome::Redirected`]; never a request's.
    pub redirected: u64,
    /// [`Outcome::Dropped`].
    pub dropped: u64,
}

impl Verdicts {
    /// Counts one verdict.
    pub fn count(&mut self, verdict: Outcome) {
        *match verdict {
            Outcome::Forwarded => &mut self.forwarded,
            Outcome::Redirected => &mut self.redirected,
            Outcome::Dropped => &mut self.dropped,
        } += 1;
    }
}

/// Numbers of packets and of the bytes in their frames.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PacketCount {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Performance of the worker.
///
/// A measurement covers a whole round of the worker: receive rings, parsing, flow table, policy,
/// inspection, transmit rings and timers, without the kernel's part, which the replay does itself.
/// A round's time is divided by the number of its packets. Each repetition begins with an empty
/// flow table, on a worker that has processed the capture before.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct Performance {
    /// Number of timed repetitions.
    pub repetitions: u32,
    /// Repetitions in which other numbers of packets were forwarded and dropped than in the first
    /// pass, which has one packet per round. Anything but 0 is a bug.
    pub deviating: u32,
    /// Packets in all repetitions.
    pub packets: u64,
    /// Mean number of packets per round: consecutive packets that can be processed together in the
    /// order of the capture, 64 at most.
    pub packets_per_round: f64,
    /// Packets per second of measured time.
    pub packets_per_second: f64,
    /// Time for one packet.
    pub ns_per_packet: Latency,
    /// Cost of reading the clock in each round, nanoseconds; the figures include it.
    pub clock_ns: u64,
    /// Whether this is a debug build, whose figures are meaningless.
    pub debug_build: bool,
}
