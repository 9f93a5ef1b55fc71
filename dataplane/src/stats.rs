//! Counters: one writer (a worker), any number of readers (the control thread).

pub mod l7;

use std::ops::{AddAssign, Deref};
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::utils::CachePadded;
use podgate_tables::drop_reason::DropReason;
use podgate_tables::ids::LinkId;

use self::l7::L7Counters;
use crate::xsk::XskStatistics;

/// A counter that exactly one thread writes.
///
/// An increment is a plain load and store, without a locked instruction; readers see a recent
/// value.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the writing thread may call this.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// The current value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Sets a gauge. Only the writing thread may call this.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    fn value(&self) -> u64 {
        self.get()
    }
}

/// A number of packets and their bytes.
#[derive(Debug, Default)]
pub struct PacketCounter {
    /// Packets.
    pub packets: Counter,
    /// Bytes, including Ethernet headers.
    pub bytes: Counter,
}

impl PacketCounter {
    /// Counts `packets` packets of `bytes` bytes in total.
    pub fn count(&self, packets: u64, bytes: u64) {
        self.packets.add(packets);
        self.bytes.add(bytes);
    }

    fn value(&self) -> u64 {
        self.packets.get()
    }
}

/// A [`PacketCounter`] for each [`DropReason`], by its number.
#[derive(Debug)]
pub struct DropCounters([PacketCounter; DropReason::COUNT]);

impl Default for DropCounters {
    fn default() -> Self {
        Self(std::array::from_fn(|_| PacketCounter::default()))
    }
}

impl Deref for DropCounters {
    type Target = [PacketCounter; DropReason::COUNT];

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

/// How often a link was denied a shared resource because its fair share was used up.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct OverQuota {
    /// Entries of the flow table.
    pub flows: u64,
    /// Inspected flows.
    pub inspected: u64,
    /// Frames and bytes that inspected flows buffer.
    pub buffers: u64,
    /// Entries of the hand-off rings to other workers.
    pub handoffs: u64,
    /// Entries of the event ring.
    pub events: u64,
    /// Distinct addresses and ports of services and backends.
    pub services: u64,
    /// Records of session affinity.
    pub affinity: u64,
    /// Entries of the ring of DNS answers to the control thread.
    pub dns_answers: u64,
}

impl OverQuota {
    /// Nothing.
    pub const NONE: Self = Self {
        flows: 0,
        inspected: 0,
        buffers: 0,
        handoffs: 0,
        events: 0,
        services: 0,
        affinity: 0,
        dns_answers: 0,
    };
}

impl AddAssign for OverQuota {
    fn add_assign(&mut self, other: Self) {
        let Self { flows, inspected, buffers, handoffs, events, services, affinity, dns_answers } =
            self;
        *flows += other.flows;
        *inspected += other.inspected;
        *buffers += other.buffers;
        *handoffs += other.handoffs;
        *events += other.events;
        *services += other.services;
        *affinity += other.affinity;
        *dns_answers += other.dns_answers;
    }
}

/// Receive counters of one link.
#[derive(Clone, Copy, Debug)]
pub struct LinkStatistics {
    /// The link.
    pub link: LinkId,
    /// Packets taken off its receive rings.
    pub received: u64,
    /// Counters of its sockets.
    pub sockets: XskStatistics,
    /// What it did not get because its fair share was used up.
    pub over_quota: OverQuota,
}

macro_rules! worker_stats {
    ($(
        $(#[doc = $doc:literal])+
        $name:ident: $type:ty $(= $metric:ident($label:literal, $help:literal))?,
    )+) => {
        /// Counters of one worker. Every received packet ends in exactly one of `forwarded`,
        /// `dropped` or `handed_off`, or is held: for an L7 verdict in frames that `held_frames`
        /// counts, or as one of `fragments_waiting`.
        ///
        /// Fragments are packets too. A reassembled datagram counts as one packet: received packets
        /// are those that ended, plus `fragments_joined` and `fragments_waiting`, minus
        /// `fragments_made`.
        #[derive(Debug, Default)]
        pub struct WorkerStats {
            $($(#[doc = $doc])+ pub $name: $type,)+
        }

        /// The counters that are exported as metrics with one sample per worker.
        pub const WORKER_METRICS: &[WorkerMetric] = &[
            $($(WorkerMetric {
                kind: MetricKind::$metric,
                name: $label,
                help: $help,
                read: |stats| stats.$name.value(),
            },)?)+
        ];
    };
}

/// A counter of [`WorkerStats`] that is exported as a metric.
#[derive(Clone, Copy, Debug)]
pub struct WorkerMetric {
    /// Counter or gauge.
    pub kind: MetricKind,
    /// Name of the metric.
    pub name: &'static str,
    /// Help text of the metric.
    pub help: &'static str,
    /// Reads the value.
    pub read: fn(&WorkerStats) -> u64,
}

/// Kinds of metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MetricKind {
    /// Only increases.
    Counter,
    /// Increases and decreases.
    Gauge,
}

worker_stats! {
    /// Packets taken off receive rings.
    received: PacketCounter = Counter("podgate_worker_received_packets_total", "Packets received"),
    /// Packets put on a transmit ring, unchanged or rewritten.
    forwarded: PacketCounter,
    /// Packets dropped, by [`DropReason`].
    dropped: DropCounters,
    /// Packets that podgate built (403 responses, resets, ICMP errors).
    originated: PacketCounter = Counter("podgate_worker_originated_packets_total", "Packets built"),
    /// TCP resets in reply to segments of unknown connections, among `originated`.
    resets_sent: Counter = Counter(
        "podgate_worker_resets_sent_total",
        "TCP resets in reply to segments of unknown connections"
    ),
    /// Packets handed off to the worker that owns their flow.
    handed_off: Counter = Counter(
        "podgate_worker_handed_off_total",
        "Packets handed off to the worker that owns their flow"
    ),
    /// Fragments that are waiting for the rest of their datagram.
    fragments_waiting: Counter = Gauge(
        "podgate_worker_fragments_waiting",
        "Fragments that are waiting for the rest of their datagram"
    ),
    /// Fragments that were appended to the first one of their datagram.
    fragments_joined: Counter = Counter(
        "podgate_worker_fragments_joined_total",
        "Fragments appended to the first one of their datagram"
    ),
    /// Fragments that packets were split into, not counting one per packet.
    fragments_made: Counter = Counter(
        "podgate_worker_fragments_made_total",
        "Fragments that packets were split into, not counting one per packet"
    ),
    /// Flows opened.
    flows_opened: Counter = Counter("podgate_worker_flows_opened_total", "Flows opened"),
    /// Flows evicted before their timeout to make room for others.
    flows_evicted: Counter = Counter(
        "podgate_worker_flows_evicted_total",
        "Flows evicted before their timeout to make room for others"
    ),
    /// Records of session affinity that were replaced by others while they were valid.
    affinity_lost: Counter = Counter(
        "podgate_worker_affinity_lost_total",
        "Records of session affinity replaced by others while valid"
    ),
    /// Notices about services that another worker did not get, because its ring was full or the
    /// link's share of it used up.
    notices_lost: Counter = Counter(
        "podgate_worker_notices_lost_total",
        "Notices about services to other workers lost because a ring was full"
    ),
    /// Flows in the table.
    flows: Counter = Gauge("podgate_worker_flows", "Flows in the table"),
    /// Inspected flows in the table.
    inspected_flows: Counter = Gauge("podgate_worker_inspected_flows", "Inspected flows in the table"),
    /// Frames of packets that are waiting for an L7 verdict.
    held_frames: Counter = Gauge(
        "podgate_worker_held_frames",
        "Frames of packets that are waiting for an L7 verdict"
    ),
    /// Bytes that inspected flows have buffered outside of frames: incomplete request heads, and
    /// request heads that the server has not acknowledged.
    buffered_bytes: Counter = Gauge(
        "podgate_worker_buffered_bytes",
        "Bytes that inspected flows have buffered outside of frames"
    ),
    /// Epoch of the snapshot that the last round used; later rounds use the same or a later one.
    epoch: Counter = Gauge("podgate_worker_epoch", "Epoch of the tables that the worker uses"),
    /// Flows decided again because the epoch had changed.
    reevaluated: Counter = Counter(
        "podgate_worker_reevaluated_total",
        "Flows decided again after a change of policy"
    ),
    /// L4 checksums completed for senders with checksum offload, not counting those that the kernel
    /// completes.
    checksums_completed: Counter = Counter(
        "podgate_worker_checksums_completed_total",
        "Checksums completed for senders with checksum offload"
    ),
    /// Rounds with at least one packet.
    busy_rounds: Counter = Counter("podgate_worker_busy_rounds_total", "Rounds with packets"),
    /// Times that the worker went to sleep.
    sleeps: Counter = Counter("podgate_worker_sleeps_total", "Times gone to sleep"),
    /// 1 while the worker busy-polls for the extended time before it sleeps, else 0.
    busy_poll_extended: Counter = Gauge(
        "podgate_worker_busy_poll_extended",
        "1 while the worker busy-polls for up to 100 µs before it sleeps"
    ),
    /// L7 requests allowed.
    l7_allowed: Counter,
    /// L7 requests denied.
    l7_denied: Counter,
    /// L7 requests and responses by protocol.
    l7: L7Counters,
    /// DNS responses forwarded.
    dns_answered: Counter = Counter(
        "podgate_worker_dns_answered_total",
        "DNS responses forwarded to inspected clients"
    ),
    /// DNS responses over UDP that waited for the release of their addresses.
    dns_held: Counter = Counter(
        "podgate_worker_dns_held_total",
        "DNS responses over UDP that waited until their addresses were admitted"
    ),
    /// DNS responses dropped because their addresses were not released in time.
    dns_unreleased: Counter = Counter(
        "podgate_worker_dns_unreleased_total",
        "DNS responses dropped because their addresses were not admitted in time"
    ),
    /// DNS queries whose responses will be dropped, because too many later ones of the same flow
    /// wait for theirs.
    dns_replaced: Counter = Counter(
        "podgate_worker_dns_replaced_total",
        "DNS queries forgotten because a flow has too many that are not answered"
    ),
    /// Events lost because the ring to the control thread was full or the link's share of it used
    /// up.
    events_lost: Counter,
}

impl WorkerStats {
    /// Zeroed counters on their own cache lines.
    #[must_use]
    pub fn new() -> CachePadded<Self> {
        CachePadded::default()
    }
}
