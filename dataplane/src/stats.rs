//! Counters: one writer (a worker), any number of readers (the control thread).

use std::ops::AddAssign;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::utils::CachePadded;
use podgate_tables::drop_reason::DropReason;
use podgate_tables::ids::LinkId;

use crate::xsk::XskStatistics;

/// A counter that exactly one thread increments.
///
/// The increment is a plain load and store, so it costs no locked instruction; a reader sees some
/// recent value.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the owning thread may call this.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// The current value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Sets a gauge. Only the owning thread may call this.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
}

/// Packets and bytes that ended one way.
#[derive(Debug, Default)]
pub struct Tally {
    /// Packets.
    pub packets: Counter,
    /// Bytes, from the Ethernet header on.
    pub bytes: Counter,
}

impl Tally {
    /// Counts `packets` packets of `bytes` bytes together.
    pub fn count(&self, packets: u64, bytes: u64) {
        self.packets.add(packets);
        self.bytes.add(bytes);
    }
}

/// How often a link was refused more of what all links share, because it had its share.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ShareRefusals {
    /// Places in the flow table.
    pub flows: u64,
    /// Flows that may be inspected.
    pub inspected: u64,
    /// Frames and bytes that inspected flows may keep.
    pub kept: u64,
    /// Places on the rings to other workers.
    pub handoffs: u64,
    /// Places on the ring of flow records.
    pub events: u64,
}

impl ShareRefusals {
    /// All of them.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.flows + self.inspected + self.kept + self.handoffs + self.events
    }
}

impl AddAssign for ShareRefusals {
    fn add_assign(&mut self, other: Self) {
        let Self { flows, inspected, kept, handoffs, events } = self;
        *flows += other.flows;
        *inspected += other.inspected;
        *kept += other.kept;
        *handoffs += other.handoffs;
        *events += other.events;
    }
}

/// What one link sent, and what it lost of that before any policy looked at it.
#[derive(Clone, Copy, Debug)]
pub struct LinkStatistics {
    /// The link.
    pub link: LinkId,
    /// Packets taken off its receive rings.
    pub received: u64,
    /// What its sockets counted.
    pub sockets: XskStatistics,
    /// What its share refused.
    pub refused: ShareRefusals,
}

/// What one worker counts. Every packet received ends in exactly one of `forwarded`, `dropped` or
/// `handed_off`, or waits: for an L7 verdict in frames that `held_frames` counts, or as one of
/// `fragments_waiting`.
///
/// Fragments are packets too. A datagram that was put together counts as one from then on: what
/// was received is what ended, and `fragments_joined` and `fragments_waiting`, without
/// `fragments_made`.
#[derive(Debug)]
pub struct WorkerStats {
    /// Packets taken off receive rings.
    pub received: Tally,
    /// Packets put on a transmit ring, unchanged or rewritten.
    pub forwarded: Tally,
    /// Packets refused, by [`DropReason`].
    pub dropped: [Tally; DropReason::COUNT],
    /// Packets passed to the worker that owns their flow.
    pub handed_off: Counter,
    /// Packets that we built ourselves (403 answers, resets, ICMP errors).
    pub originated: Tally,
    /// TCP resets among them that answer segments of unknown connections.
    pub resets_sent: Counter,
    /// Frames of packets that wait for an L7 verdict now.
    pub held_frames: Counter,
    /// Bytes of memory that inspected flows take for their streams now, outside of frames: for
    /// heads that are incomplete, or that the server has not acknowledged, and some for the next
    /// one.
    pub kept_bytes: Counter,
    /// Fragments that wait for the rest of their datagram now.
    pub fragments_waiting: Counter,
    /// Fragments that were put behind the first of their datagram.
    pub fragments_joined: Counter,
    /// Fragments that packets were cut into, beyond one for each packet.
    pub fragments_made: Counter,
    /// Flows opened.
    pub flows_opened: Counter,
    /// Flows ended before their time to make room for others.
    pub flows_evicted: Counter,
    /// Flows in the table now.
    pub flows: Counter,
    /// L7 requests allowed.
    pub l7_allowed: Counter,
    /// L7 requests denied.
    pub l7_denied: Counter,
    /// Events lost because the ring to the control thread was full, or the link had its share of
    /// it.
    pub events_lost: Counter,
    /// Rounds in which at least one packet was processed.
    pub busy_rounds: Counter,
    /// Times the worker went to sleep.
    pub sleeps: Counter,
    /// 1 while the worker looks for packets for long before it sleeps, and 0 otherwise.
    pub looks_long: Counter,
    /// Epoch of the snapshot that the last round judged by; every later round judges by it or a
    /// later one.
    pub epoch: Counter,
    /// Flows whose verdict was made anew because the epoch had changed.
    pub reevaluated: Counter,
    /// TCP/UDP checksums completed because the sender's offload had left only the pseudo-header
    /// sum. Those that the kernel was left to complete don't count.
    pub checksums_completed: Counter,
}

impl WorkerStats {
    /// Fresh counters on their own cache lines.
    #[must_use]
    pub fn new() -> CachePadded<Self> {
        CachePadded::new(Self {
            received: Tally::default(),
            forwarded: Tally::default(),
            dropped: std::array::from_fn(|_| Tally::default()),
            handed_off: Counter::default(),
            originated: Tally::default(),
            resets_sent: Counter::default(),
            held_frames: Counter::default(),
            kept_bytes: Counter::default(),
            fragments_waiting: Counter::default(),
            fragments_joined: Counter::default(),
            fragments_made: Counter::default(),
            flows_opened: Counter::default(),
            flows_evicted: Counter::default(),
            flows: Counter::default(),
            l7_allowed: Counter::default(),
            l7_denied: Counter::default(),
            events_lost: Counter::default(),
            busy_rounds: Counter::default(),
            sleeps: Counter::default(),
            looks_long: Counter::default(),
            epoch: Counter::default(),
            reevaluated: Counter::default(),
            checksums_completed: Counter::default(),
        })
    }
}
