//! A worker on memory links, whose clock is an argument.
//!
//! The product replays with it and the benchmarks measure with it. Tests have a rig of their own in
//! `tests/support`, which asserts counters and panics, as a product must not.

use std::io;
use std::sync::Arc;

use podgate_dataplane::mem::Umem;
use podgate_dataplane::stats::WorkerStats;
use podgate_dataplane::worker::{Shared, SharedConfig, Worker};
use podgate_dataplane::xsk::RingSizes;
use podgate_dataplane::xsk::memory::{self, MemoryLink};
use podgate_tables::event::Event;
use podgate_tables::ids::LinkId;
use podgate_tables::policy::Snapshot;
use podgate_tables::time::Nanos;

/// Ring sizes of each link. A packet of 64 KiB takes 18 frames, and the largest batch has to fit
/// into one link's TX ring together with the packets that an inspector releases.
const RINGS: RingSizes = RingSizes { fill: 64, idle: 64, completion: 512, rx: 64, tx: 512 };

/// Frames in addition to those of fill rings: for batches, and for packets that inspectors hold.
const FRAMES: u32 = 16_384;

/// Interval of rounds while no packets arrive, for the worker's timers.
const IDLE_ROUND_NS: u64 = 100_000_000;
/// Maximum number of idle rounds in one gap; longer gaps get longer intervals.
const IDLE_ROUNDS_MAX: u64 = 10_000;

/// Start of a rig's clock. Not zero, so that no time in a worker is before the clock's start.
pub const START: Nanos = Nanos(1_000_000_000);

/// A worker and its links.
pub struct Rig {
    shared: Arc<Shared>,
    worker: Worker,
    links: Vec<MemoryLink>,
    now: Nanos,
}

impl Rig {
    /// A worker with `links` links and a flow table for `packets` flows, at most the agent's
    /// default.
    ///
    /// # Errors
    /// When there is not enough memory.
    pub fn new(snapshot: Snapshot, links: u16, packets: usize) -> io::Result<Self> {
        let agents = SharedConfig::default().flows_per_worker;
        let flows = u32::try_from(packets).unwrap_or(u32::MAX).clamp(1024, agents);
        Self::with_flows(snapshot, links, flows)
    }

    /// A worker with `links` links and a flow table for `flows` flows.
    ///
    /// # Errors
    /// When there is not enough memory.
    pub fn with_flows(snapshot: Snapshot, links: u16, flows: u32) -> io::Result<Self> {
        let config =
            SharedConfig { workers: 1, flows_per_worker: flows, ..SharedConfig::default() };
        let shared = Shared::new(config);
        shared.publish(snapshot);
        let umem = Umem::new(FRAMES + u32::from(links) * RINGS.fill)?;
        let mut worker = Worker::new(&shared, 0, umem.pool());
        let mut kernel = Vec::new();
        for slot in 0..links {
            let (ports, link) = memory::link(&umem, LinkId(slot), 1, RINGS);
            ports.into_iter().for_each(|port| worker.add_queue(port));
            kernel.push(link);
        }
        Ok(Self { shared, worker, links: kernel, now: START })
    }

    /// The current time of the worker's clock.
    #[must_use]
    pub fn now(&self) -> Nanos {
        self.now
    }

    /// The state that the worker shares with the publisher of tables.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Advances the clock without a round.
    pub fn advance(&mut self, nanos: u64) {
        self.now = Nanos(self.now.0 + nanos);
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> &WorkerStats {
        &self.shared.stats[0]
    }

    /// Delivers a frame to a link; false if the link's rings are full.
    pub fn deliver(&mut self, link: LinkId, frame: &[u8]) -> bool {
        self.links[link.index()].inject(0, frame)
    }

    /// Runs one round at the current time. Returns the number of packets in it.
    ///
    /// DNS answers are released at once, and no addresses are learned from them.
    pub fn round(&mut self) -> usize {
        let shared = &self.shared;
        shared.answers.drain(|worker, answer| shared.release_answers(worker, answer.ticket));
        self.worker.round(self.now)
    }

    /// Takes sent packets, so that their frames return, and passes the worker's events to
    /// `on_event`.
    pub fn collect(&mut self, on_event: &mut impl FnMut(&Event)) {
        for link in &mut self.links {
            link.transmitted(0, &mut |_| {});
        }
        while let Some(event) = self.shared.events[0].pop() {
            on_event(&event);
        }
    }

    /// Advances the clock to `to`, with rounds for the timers as an idle worker has them: at least
    /// one if `to` is later than now.
    pub(crate) fn advance_to(&mut self, to: Nanos, on_event: &mut impl FnMut(&Event)) {
        let (from, gap) = (self.now, to.since(self.now));
        if gap == 0 {
            return;
        }
        let rounds = (gap / IDLE_ROUND_NS).clamp(1, IDLE_ROUNDS_MAX);
        for round in 1..=rounds {
            let passed = u128::from(gap) * u128::from(round) / u128::from(rounds);
            // Without flows no timer but those of fragments can be due, and it does not matter when
            // these are discarded.
            let is_idle = self.worker.flows() == 0;
            self.now = if is_idle { to } else { Nanos(from.0 + passed as u64) };
            self.round();
            self.collect(on_event);
            if is_idle {
                return;
            }
        }
    }

    /// Advances the clock until every flow has timed out.
    pub(crate) fn expire_flows(&mut self) {
        const FIRST_WAIT_S: u64 = 600;
        const WAITS_MAX: u32 = 16;
        for wait in 0..WAITS_MAX {
            self.now = self.now.plus_secs(FIRST_WAIT_S << wait);
            for _ in 0..self.shared.config.flows_per_worker {
                if self.worker.flows() == 0 {
                    return;
                }
                self.round();
                self.collect(&mut |_| {});
            }
        }
        debug_assert!(false, "every flow times out within a year without packets");
    }
}
