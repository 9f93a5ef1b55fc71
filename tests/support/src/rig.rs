//! Workers without threads on memory links, with time as an argument.

use std::fmt;
use std::sync::Arc;

use podgate_dataplane::mem::Umem;
use podgate_dataplane::worker::{Shared, SharedConfig, Worker};
use podgate_dataplane::xsk::RingSizes;
use podgate_dataplane::xsk::memory::{self, MemoryLink};
use podgate_tables::drop_reason::DropReason;
use podgate_tables::event::Event;
use podgate_tables::ids::LinkId;
use podgate_tables::time::Nanos;

use crate::counters::{Count, Counts};
use crate::tables::{A, B, HOST, IngressOfB, snapshot};

/// Sizes of a rig.
#[derive(Clone, Copy, Debug)]
pub struct RigConfig {
    /// Workers, each with a queue on every link.
    pub workers: u16,
    /// Frames of the UMEM.
    pub frames: u32,
    /// Slots of each ring.
    pub ring: u32,
    /// Maximum number of flows per worker.
    pub flows_per_worker: u32,
    /// Maximum number of L7-inspected flows among them.
    pub inspected_per_worker: u32,
    /// Capacity of each worker's event ring.
    pub events_per_worker: usize,
}

impl Default for RigConfig {
    fn default() -> Self {
        Self {
            workers: 1,
            frames: 2048,
            ring: 128,
            flows_per_worker: 256,
            inspected_per_worker: 64,
            events_per_worker: 4096,
        }
    }
}

/// Workers, the three links of [`crate::snapshot`], and the kernel's side of the links.
///
/// When a test fails, its rig prints the state of the workers as it is dropped.
pub struct Rig {
    /// State that the workers share.
    pub shared: Arc<Shared>,
    /// The workers.
    pub workers: Vec<Worker>,
    /// The kernel's side of each link: host, A and B.
    pub links: Vec<MemoryLink>,
    /// Time of the next round.
    pub now: Nanos,
    /// The UMEM.
    pub umem: Arc<Umem>,
    /// Counters at the last [`Self::expect_counters`].
    asserted: Counts,
}

impl Rig {
    /// A rig with this number of workers, without tables.
    #[must_use]
    pub fn new(workers: u16) -> Self {
        Self::of(RigConfig { workers, ..RigConfig::default() })
    }

    /// A rig of these sizes, without tables.
    #[must_use]
    pub fn of(config: RigConfig) -> Self {
        let RigConfig { workers, frames, ring, .. } = config;
        let shared = Shared::new(SharedConfig {
            workers,
            flows_per_worker: config.flows_per_worker,
            inspected_per_worker: config.inspected_per_worker,
            events_per_worker: config.events_per_worker,
            ..SharedConfig::default()
        });
        let umem = Umem::new(frames).unwrap();
        let mut all: Vec<_> =
            (0..workers).map(|index| Worker::new(&shared, index, umem.pool())).collect();
        let sizes = RingSizes { fill: ring, idle: ring, completion: ring, rx: ring, tx: ring };
        let links = [HOST, A, B].map(|link| {
            let (ports, kernel) = memory::link(&umem, link, usize::from(workers), sizes);
            all.iter_mut().zip(ports).for_each(|(worker, port)| worker.add_queue(port));
            kernel
        });
        let now = Nanos(1_000_000);
        let asserted = Counts::of(all.iter().map(|worker| &**worker.stats()));
        Self { shared, workers: all, links: links.into(), now, umem, asserted }
    }

    /// A rig with one worker and [`crate::snapshot`], epoch 1.
    #[must_use]
    pub fn with(ingress_of_b: IngressOfB) -> Self {
        let rig = Self::new(1);
        rig.shared.publish(snapshot(1, ingress_of_b));
        rig
    }

    /// Delivers `packet` to worker 0 on `link`, runs all workers, and returns the sent packets with
    /// their links.
    pub fn send(&mut self, link: LinkId, packet: &[u8]) -> Vec<(LinkId, Vec<u8>)> {
        assert!(self.links[link.index()].inject(0, packet), "{link:?} takes no packet");
        self.run()
    }

    /// Runs all workers until none has packets to process. Returns the sent packets with their
    /// links.
    pub fn run(&mut self) -> Vec<(LinkId, Vec<u8>)> {
        let mut left = Vec::new();
        loop {
            let now = self.now;
            let processed: usize = self.workers.iter_mut().map(|w| w.round(now)).sum();
            for link in [HOST, A, B] {
                for worker in 0..self.workers.len() {
                    self.links[link.index()]
                        .transmitted(worker, &mut |bytes| left.push((link, bytes.to_vec())));
                }
            }
            if processed == 0 {
                return left;
            }
        }
    }

    /// Packets dropped for `reason` by all workers.
    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.counts().get(Count::Dropped(reason))
    }

    /// Reads all events from the rings.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        self.shared.events.iter().flat_map(|q| std::iter::from_fn(|| q.pop())).collect()
    }

    /// All counters of all workers.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts::of(self.shared.stats.iter().map(|stats| &**stats))
    }

    /// Asserts the changes of all counters since the last call, or since the rig was created:
    /// `expected` has every counter that changed, and all others must be unchanged.
    #[track_caller]
    pub fn expect_counters(&mut self, expected: &[(Count, i64)]) {
        let now = self.counts();
        let expected = expected.iter().map(|(count, by)| (format!("{count:?}"), *by)).collect();
        let changes = now.changes_since(&self.asserted);
        assert_eq!(changes, expected, "counters since the last step (left) and expected (right)");
        now.check_conservation();
        self.asserted = now;
    }

    /// Advances the clock until there is no flow, held frame or waiting fragment.
    pub fn expire_all(&mut self) {
        const WAIT_S: u64 = 3600;
        let limit = 64 + self.shared.config.flows_per_worker;
        for _ in 0..limit {
            let counts = self.counts();
            let gauges = [Count::Flows, Count::HeldFrames, Count::FragmentsWaiting];
            if gauges.map(|gauge| counts.get(gauge)) == [0; 3] {
                return;
            }
            self.now = self.now.plus_secs(WAIT_S);
            self.run();
            let _ = self.events();
        }
        panic!("a flow, a held frame or a fragment outlives {limit} hours");
    }

    /// Closes all queues and asserts that every frame is free.
    pub fn assert_no_frame_is_lost(mut self) {
        self.close();
        let mut pool = self.umem.pool();
        let free = std::iter::from_fn(|| pool.alloc()).count();
        assert_eq!(free, self.umem.frames() as usize, "frames that are free after closing");
    }

    fn close(&mut self) {
        for mut worker in std::mem::take(&mut self.workers) {
            worker.close_queues();
        }
        self.links.clear();
        // Frees the packets on hand-off rings.
        self.shared = Shared::new(SharedConfig { workers: 1, ..self.shared.config });
    }
}

impl fmt::Debug for Rig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "rig at {} ns, {:?}", self.now.0, self.umem)?;
        let total = self.counts();
        writeln!(f, "all counters: {:?}", total.changes_since(&Counts::default()))?;
        writeln!(f, "since the last step: {:?}", total.changes_since(&self.asserted))?;
        for (index, worker) in self.workers.iter().enumerate() {
            let stats = worker.stats();
            writeln!(
                f,
                "worker {index}: {} flows, {} held frames, {} bytes buffered, {} fragments waiting, \
                 epoch {}, {}",
                worker.flows(),
                stats.held_frames.get(),
                stats.buffered_bytes.get(),
                stats.fragments_waiting.get(),
                stats.epoch.get(),
                if worker.has_unsent() { "packets unsent" } else { "nothing unsent" },
            )?;
            for flow in worker.saved_flows(self.now) {
                writeln!(f, "  {flow:?}")?;
            }
            writeln!(f, "  {} events waiting", self.shared.events[index].len())?;
        }
        Ok(())
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{self:?}");
        }
    }
}
