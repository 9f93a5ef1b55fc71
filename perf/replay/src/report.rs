//! The result of a replay, for programs; `table` prints the same for people.

use std::collections::BTreeMap;

use jiff::Timestamp;
use podgate_policy::observe::{DirectionVerdict, FlowEndpoint, Outcome, RuleName};
use serde::{Deserialize, Serialize};

use super::capture::{Broken, Format};
use super::plan::Skipped;
use crate::latency::Latency;

/// Everything that a replay finds out.
///
/// All but [`Report::performance`] depends on the capture and the manifests only.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct Report {
    /// What was replayed.
    pub capture: CaptureInfo,
    /// Objects in the manifests that are not enforced as they are written, one line each.
    pub refused: Vec<String>,
    /// Flows in the order in which they were first seen.
    pub flows: Vec<Flow>,
    /// All flows together.
    pub summary: Summary,
    /// What it cost; absent if it was not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub performance: Option<Performance>,
    /// What one should know when reading this.
    pub notes: Vec<String>,
}

/// What was replayed.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct CaptureInfo {
    /// File.
    pub file: String,
    /// Its format.
    pub format: Format,
    /// Interfaces that it was captured on.
    pub interfaces: u32,
    /// Packets in it.
    pub packets: u64,
    /// Stamp of the first packet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<Timestamp>,
    /// From the first packet to the last, nanoseconds.
    pub duration_ns: u64,
    /// Packets that were left out.
    pub skipped: Skipped,
    /// Where the file can't be read any further.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broken: Option<Broken>,
}

/// What became of one flow: addresses, ports and protocol in one direction, for ICMP with the type.
///
/// Connections that use the same ports one after the other are one flow here.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct Flow {
    /// What policy said; [`Outcome::Dropped`] too where packets never came before policy.
    pub verdict: Outcome,
    /// Why it was dropped, the label of the drop reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drop_reason: Option<String>,
    /// Who opened it.
    pub source: FlowEndpoint,
    /// Who was called.
    pub destination: FlowEndpoint,
    /// `TCP`, `UDP`, `SCTP`, `ICMPv4`, `ICMPv6`, or the protocol's number.
    pub protocol: String,
    /// ICMP type of the packet that opened it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp_type: Option<u8>,
    /// When it was first seen.
    pub time: Timestamp,
    /// What decided at the source; absent if policy was not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<DirectionVerdict>,
    /// What decided at the destination; absent if policy was not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<DirectionVerdict>,
    /// HTTP requests, equal ones counted together; at most [`REQUESTS_MAX`] different ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requests: Vec<Request>,
    /// HTTP requests beyond those.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more_requests: u64,
    /// Packets from the source and to it, also those that were dropped.
    pub packets: [u64; 2],
    /// Bytes of IP in them.
    pub bytes: [u64; 2],
    /// Packets that were dropped, by the label of the reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub dropped: BTreeMap<String, u64>,
}

/// Different HTTP requests that are kept of one flow, at most.
pub const REQUESTS_MAX: usize = 256;

fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// HTTP requests that are equal.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// Whether they went on to the server.
    pub verdict: Outcome,
    /// Why not, the label of the drop reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drop_reason: Option<String>,
    /// Method.
    pub method: String,
    /// Request target.
    pub path: String,
    /// Host header.
    pub host: String,
    /// The rule that allowed them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleName>,
    /// Number of them.
    pub count: u64,
}

impl Request {
    /// Whether the two differ in their counts at most.
    #[must_use]
    pub fn equals(&self, other: &Self) -> bool {
        let Self { verdict, drop_reason, method, path, host, rule, count: _ } = self;
        *verdict == other.verdict
            && *drop_reason == other.drop_reason
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
    /// Packets that no frame was free for. They are lost, as they would be in the kernel.
    pub undelivered: u64,
    /// Packets that the worker received.
    pub received: Tally,
    /// Packets that it sent on.
    pub forwarded: Tally,
    /// Packets that it built itself: 403 answers and resets.
    pub originated: Tally,
    /// Frames that still waited for a verdict when the capture ended.
    pub held: u64,
    /// Packets that it dropped, by the label of the reason.
    pub dropped: BTreeMap<String, Tally>,
}

/// How often there was which verdict.
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
    /// Counts one.
    pub fn count(&mut self, verdict: Outcome) {
        *match verdict {
            Outcome::Forwarded => &mut self.forwarded,
            Outcome::Redirected => &mut self.redirected,
            Outcome::Dropped => &mut self.dropped,
        } += 1;
    }
}

/// Packets, and the bytes of their frames.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// What packets cost.
///
/// Measured is a whole round of the worker: taking packets off receive rings, parsing, flow table,
/// policy, inspection, transmit rings, timers. Not measured is the kernel's part, which is played
/// by the replay. A round's time is divided by the number of its packets. Each repetition begins
/// with no flows, on a worker that has seen the capture before.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct Performance {
    /// How many times the capture was replayed.
    pub repetitions: u32,
    /// Repetitions in which not the same numbers of packets were forwarded and dropped as in the
    /// first pass, which takes one packet a round. Anything but zero is a bug.
    pub deviating: u32,
    /// Packets in all repetitions.
    pub packets: u64,
    /// Packets in one round, on average: those that follow each other without the order of the
    /// capture forcing another round, 64 at most.
    pub packets_per_round: f64,
    /// Packets per second of measured time.
    pub packets_per_second: f64,
    /// Time for one packet.
    pub ns_per_packet: Latency,
    /// What reading the clock adds to each round, nanoseconds. It is contained in the figures.
    pub clock_ns: u64,
    /// Whether this is a debug build, so that the figures mean nothing.
    pub debug_build: bool,
}
