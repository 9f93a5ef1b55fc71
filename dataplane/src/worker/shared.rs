//! What workers and the control thread share: bounded rings, counters, and the snapshot.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};

use arc_swap::ArcSwapOption;
use atomic_waker::AtomicWaker;
use crossbeam::utils::CachePadded;
use podgate_sync::SleepFlag;
use podgate_tables::ids::LinkId;
use podgate_tables::l7::http1::HttpLimits;
use podgate_tables::policy::Snapshot;
use podgate_tables::service::L4Addr;

use crate::event_ring::EventRing;
use crate::l7::dns::Denied;
use crate::l7::dns::learned::Answers;
use crate::mem::Packet;
use crate::stats::WorkerStats;

use super::notice::Notice;
use super::pair_rings::PairRings;
use super::release::Rounds;

/// Capacity of all hand-off rings to one worker, packets, divided equally among them.
const HANDOFFS_TO_ONE: usize = 2048;
/// Smallest capacity of one ring, packets.
const HANDOFFS_MIN: usize = 64;

/// Notices that may wait for one worker, divided equally among its rings. A worker is woken when
/// one of its rings is more than half full.
const NOTICES_TO_ONE: usize = 1024;
/// Smallest capacity of one ring, notices.
const NOTICES_MIN: usize = 16;

/// DNS answers of one worker that may wait for the control thread.
pub(super) const ANSWERS_PER_WORKER: usize = 512;

/// Number of workers, and sizes of their tables.
#[derive(Clone, Copy, Debug)]
pub struct SharedConfig {
    /// Number of workers, 1 to 64.
    pub workers: u16,
    /// Flows per worker, at most.
    pub flows_per_worker: u32,
    /// Inspected flows among them, at most.
    pub inspected_per_worker: u32,
    /// Capacity of each worker's event ring.
    pub events_per_worker: usize,
    /// How denied DNS queries are answered.
    pub dns_denied: Denied,
    /// Limits of HTTP/1 connections.
    pub http: HttpLimits,
}

impl Default for SharedConfig {
    fn default() -> Self {
        Self {
            workers: 1,
            flows_per_worker: 1 << 18,
            inspected_per_worker: 1 << 14,
            events_per_worker: 1 << 14,
            dns_denied: Denied::default(),
            http: HttpLimits::default(),
        }
    }
}

/// A packet that one worker hands off to another: the link that it was received from, and the
/// service's address and port that it was sent to, if it is translated.
pub(super) type Handoff = (LinkId, Packet, Option<L4Addr>);

/// State shared by the workers of one dataplane and the control thread.
#[derive(Debug)]
pub struct Shared {
    /// Sizes.
    pub config: SharedConfig,
    /// The current tables; `None` until the first one is published. Until then packets are dropped.
    pub snapshot: Arc<ArcSwapOption<Snapshot>>,
    /// Former snapshots that a worker may still use. Kept so that workers never free tables.
    retired: Mutex<Vec<Arc<Snapshot>>>,
    /// Counters of each worker.
    pub stats: Vec<CachePadded<WorkerStats>>,
    /// Events of each worker.
    pub events: Vec<EventRing>,
    pub(super) event_reader: EventReader,
    /// DNS answers of each worker.
    pub answers: Answers,
    /// Packets that workers hand off to each other.
    pub(super) handoffs: PairRings<Handoff>,
    /// Notices between workers.
    pub(super) notices: PairRings<Notice>,
    pub(super) sleepers: Vec<CachePadded<Sleeper>>,
    pub(super) rounds: Vec<CachePadded<Rounds>>,
}

impl Shared {
    /// Rings and counters for `config.workers` workers, and no snapshot.
    #[must_use]
    pub fn new(config: SharedConfig) -> Arc<Self> {
        let each = 0..config.workers;
        Arc::new(Self {
            config,
            snapshot: Arc::new(ArcSwapOption::empty()),
            retired: Mutex::default(),
            stats: each.clone().map(|_| WorkerStats::new()).collect(),
            events: each.clone().map(|_| EventRing::new(config.events_per_worker)).collect(),
            event_reader: EventReader::default(),
            answers: Answers::new(config.workers, ANSWERS_PER_WORKER),
            handoffs: PairRings::new(config.workers, HANDOFFS_TO_ONE, HANDOFFS_MIN),
            notices: PairRings::new(config.workers, NOTICES_TO_ONE, NOTICES_MIN),
            sleepers: each.clone().map(|_| CachePadded::default()).collect(),
            rounds: each.map(|_| CachePadded::default()).collect(),
        })
    }

    /// Publishes new tables. Workers use them from their next batch on, and never wait: only
    /// publishers take the lock. Those that sleep are woken, so that all use them soon.
    pub fn publish(&self, snapshot: impl Into<Arc<Snapshot>>) {
        let former = self.snapshot.swap(Some(snapshot.into()));
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        retired.extend(former);
        retired.retain(|snapshot| Arc::strong_count(snapshot) > 1);
        self.wake_all();
    }

    /// Wakes all workers that sleep.
    pub(super) fn wake_all(&self) {
        self.sleepers.iter().for_each(|sleeper| sleeper.wake_if_asleep());
    }

    /// Releases all DNS answers of `worker` up to `ticket`. The tables that admit their addresses
    /// must be published before.
    pub fn release_answers(&self, worker: u16, ticket: u64) {
        self.answers.release(worker, ticket);
        self.sleepers[usize::from(worker)].wake_if_asleep();
    }

    /// Hands a packet off from worker `from` to worker `to`; returns it when the ring is full.
    pub(super) fn hand_off(
        &self,
        from: u16,
        to: u16,
        (link, packet, frontend): Handoff,
    ) -> Result<(), Packet> {
        let pushed = self.handoffs.ring(from, to).push((link, packet, frontend));
        pushed.map_err(|(_, packet, _)| packet)?;
        self.sleepers[usize::from(to)].wake_if_asleep();
        Ok(())
    }

    /// Sends a notice to worker `to`. Returns false if the ring is full.
    pub(super) fn send_notice(&self, from: u16, to: u16, notice: Notice) -> bool {
        let (ring, sleeper) = (self.notices.ring(from, to), &self.sleepers[usize::from(to)]);
        let sent = ring.push(notice).is_ok();
        if !sent || ring.len() > ring.capacity() / 2 {
            sleeper.wake_if_asleep();
        }
        sent
    }
}

/// The control thread, which reads the workers' events, and sleeps while there are none.
#[derive(Debug, Default)]
pub(super) struct EventReader {
    flag: SleepFlag,
    waker: AtomicWaker,
}

impl EventReader {
    /// Wakes the reader if it sleeps and the event that was just pushed to `ring` is its first.
    #[inline]
    pub(super) fn wake_for(&self, ring: &EventRing) {
        if ring.must_wake(&self.flag) {
            self.waker.wake();
        }
    }

    /// Waits until one of `rings` has an event. Workers wake the reader until
    /// [`Self::cancel_sleep`].
    pub(super) fn poll(&self, rings: &[EventRing], cx: &mut Context<'_>) -> Poll<()> {
        self.waker.register(cx.waker());
        self.flag.announce();
        match rings.iter().all(EventRing::is_empty) {
            true => Poll::Pending,
            false => Poll::Ready(()),
        }
    }

    /// Takes the announcement of sleep back.
    pub(super) fn cancel_sleep(&self) {
        self.flag.clear();
    }
}

/// Wakes a sleeping worker. Workers on memory links have no waker and never sleep.
#[derive(Debug, Default)]
pub(super) struct Sleeper {
    flag: SleepFlag,
    waker: OnceLock<mio::Waker>,
}

impl Sleeper {
    pub(super) fn set_waker(&self, waker: mio::Waker) {
        let fresh = self.waker.set(waker).is_ok();
        debug_assert!(fresh, "a worker thread starts once");
    }

    /// Announces sleep; see [`SleepFlag`].
    pub(super) fn announce_sleep(&self) {
        self.flag.announce();
    }

    pub(super) fn cancel_sleep(&self) {
        self.flag.clear();
    }

    pub(super) fn wake_if_asleep(&self) {
        if self.flag.must_wake()
            && let Some(waker) = self.waker.get()
        {
            // Fails only if the worker's poll is closed: then it doesn't sleep.
            let _ = waker.wake();
        }
    }
}
