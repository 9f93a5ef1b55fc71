//! Workers: pinned threads that each own their flows.
//!
//! [`Worker`] is the ring loop around the pipeline: it takes batches off the receive rings of
//! its ports, runs each packet through the pipeline, and flushes what was transmitted. It opens no
//! file and reads no clock, so the whole of it runs on in-memory rings too: in tests, in fuzzing
//! and in `podgate replay`. [`Dataplane`] puts workers on threads.

mod decisions;
mod egress;
mod fast_lane;
mod fragments;
mod inspectors;
mod oversize;
mod patience;
mod pipeline;
mod reassembly;
mod reply_limit;
mod reset;
mod runtime;
mod shared;
#[cfg(feature = "slowed")]
mod slowed;
mod surroundings;
mod turns;

use std::sync::Arc;

use crossbeam::utils::CachePadded;
use podgate_tables::drop_reason::DropReason;
use podgate_tables::ids::LinkId;
use podgate_tables::policy::Snapshot;
use podgate_tables::time::Nanos;

use crate::flow::SavedFlow;
use crate::stats::{LinkStatistics, WorkerStats};
use crate::xsk::{FramePool, Packet, Port, XskStatistics};

use egress::Egress;
use pipeline::Pipeline;
pub use runtime::{Clock, Config, Dataplane, LinkError, PollMode};
pub use shared::{Shared, SharedConfig};
use surroundings::Surroundings;
use turns::Turns;

/// Packets taken from one port before the next one gets its turn.
const BATCH: usize = 64;
/// Packets after which a round takes no further turn over the ports, even if there are more. What a
/// round costs beside its packets, calls to the kernel above all, then counts little; nor do other
/// links wait for long because one is flooded.
const ROUND: usize = 4 * BATCH;
/// Packets taken from each other worker in one round.
const HANDOFF_BATCH: usize = 64;

/// One worker: its ports, its flows, its frames.
#[derive(Debug)]
pub struct Worker {
    index: u16,
    shared: Arc<Shared>,
    snapshot: arc_swap::Cache<Arc<arc_swap::ArcSwapOption<Snapshot>>, Option<Arc<Snapshot>>>,
    pipeline: Pipeline,
    egress: Egress,
    batch: Vec<Packet>,
    turns: Turns,
}

impl Worker {
    /// Worker `index` of `shared`'s, with an empty flow table and no ports.
    #[must_use]
    pub fn new(shared: &Arc<Shared>, index: u16, pool: FramePool) -> Self {
        Self {
            index,
            shared: Arc::clone(shared),
            snapshot: arc_swap::Cache::new(Arc::clone(&shared.snapshot)),
            pipeline: Pipeline::new(index, shared, pool.umem().frames()),
            egress: Egress::new(index, shared, pool),
            batch: Vec::with_capacity(BATCH),
            turns: Turns::default(),
        }
    }

    /// Takes a port into the worker's rounds.
    pub fn add_port(&mut self, port: Port) {
        self.turns.add(port.link());
        self.egress.add_port(port);
    }

    /// Gives up the port on `link`, if there is one. Flows that used it are judged again under the
    /// next snapshot.
    pub fn remove_port(&mut self, link: LinkId) {
        drop(self.take_port(link));
    }

    /// The same for a caller that closes the port.
    pub fn take_port(&mut self, link: LinkId) -> Option<Port> {
        self.pipeline.forget_fragments(&mut self.egress, link);
        self.egress.take_port(link)
    }

    /// Gives up all ports, for a caller that closes them.
    pub fn take_ports(&mut self) -> Vec<Port> {
        let slots = 0..self.egress.links();
        slots.filter_map(|slot| self.take_port(LinkId(slot as u16))).collect()
    }

    /// Gives up all ports, so that their sockets close and their frames come back.
    pub fn close_ports(&mut self) {
        drop(self.take_ports());
    }

    /// The flows that may outlive this worker.
    pub fn saved_flows(&self, now: Nanos) -> impl Iterator<Item = SavedFlow> {
        self.pipeline.saved_flows(now)
    }

    /// Takes over flows that workers of an agent before handed out, each if the tables of
    /// `snapshot` allow it; those that other workers own are left out, as are those that are here
    /// already and those that there is no room for. Returns how many it took.
    ///
    /// Meant for a worker that serves no packets yet: `snapshot` is to be published next.
    pub fn take_over(&mut self, now: Nanos, snapshot: &Snapshot, flows: &[SavedFlow]) -> usize {
        let around = Surroundings { now, snapshot, egress: &mut self.egress };
        let taken = flows.iter().filter(|flow| self.pipeline.take_over(&around, flow)).count();
        self.stats().flows.set(self.pipeline.flows() as u64);
        taken
    }

    /// What all ports counted so far, those that are closed too; a call to the kernel for each.
    #[must_use]
    pub fn port_statistics(&self) -> XskStatistics {
        self.egress.port_statistics()
    }

    /// What each link's ports counted and its share refused; a call to the kernel for each.
    #[must_use]
    pub fn link_statistics(&self) -> Vec<LinkStatistics> {
        self.egress.link_statistics()
    }

    /// Whether the kernel has not taken all that was transmitted; a round tries again.
    #[must_use]
    pub fn has_unsent(&self) -> bool {
        self.egress.has_unsent()
    }

    /// What this worker counts.
    #[must_use]
    pub fn stats(&self) -> &CachePadded<WorkerStats> {
        &self.shared.stats[usize::from(self.index)]
    }

    /// Flows in the table.
    #[must_use]
    pub fn flows(&self) -> usize {
        self.pipeline.flows()
    }

    /// Whether some flow is inspected: its timers want a round every few milliseconds.
    #[must_use]
    pub fn has_inspected(&self) -> bool {
        self.pipeline.has_inspected()
    }

    /// All that is to be done at time `now`: some turns over all ports, then what is due by itself,
    /// and the kernel is told of what was transmitted. Returns the number of packets processed;
    /// with zero the caller may sleep.
    ///
    /// Links take turns by packets; see [`Self::round_by_time`].
    pub fn round(&mut self, now: Nanos) -> usize {
        self.round_by_time(now, &|| now)
    }

    /// As [`Self::round`], but links take turns by the time that their packets take, which `clock`
    /// tells.
    pub fn round_by_time(&mut self, now: Nanos, clock: &impl Fn() -> Nanos) -> usize {
        let snapshot = self.snapshot.load().clone();
        if let Some(snapshot) = snapshot.as_deref() {
            self.pipeline.flows.set_outside(snapshot.routes.host_link());
        }
        let mut processed = 0;
        loop {
            let (of_turn, more) = self.turn(now, snapshot.as_deref(), clock);
            processed += of_turn;
            if !more || processed >= ROUND {
                break;
            }
        }
        processed += self.take_handoffs(now, snapshot.as_deref());
        if let Some(snapshot) = snapshot.as_deref() {
            let mut around = Surroundings { now, snapshot, egress: &mut self.egress };
            self.pipeline.maintain(&mut around);
        }
        let turns = &mut self.turns;
        self.egress.flush(clock, |link, nanos| turns.note_time(link, nanos));
        turns.settle();
        let (held, kept) = (self.egress.held_frames().total(), self.egress.kept_bytes().total());
        let stats = self.stats();
        stats.flows.set(self.pipeline.flows() as u64);
        stats.held_frames.set(held as u64);
        stats.kept_bytes.set(kept as u64);
        stats.epoch.set(snapshot.as_deref().map_or(0, |snapshot| snapshot.epoch.0.into()));
        if processed > 0 {
            stats.busy_rounds.add(1);
        }
        debug_assert_eq!(
            self.egress.outstanding_frames(),
            self.pipeline.held_frames() as i64,
            "every frame is free, in a ring, held by a flow, or part of a datagram"
        );
        debug_assert_eq!(
            kept,
            self.pipeline.kept_bytes(),
            "leave to keep bytes is given to inspected flows"
        );
        processed
    }

    /// One batch of each port whose link has credit. Returns the number of packets processed, and
    /// whether a port may have more.
    fn turn(
        &mut self,
        now: Nanos,
        snapshot: Option<&Snapshot>,
        clock: &impl Fn() -> Nanos,
    ) -> (usize, bool) {
        let (mut processed, mut more, mut waiting) = (0, false, false);
        let mut begun = clock();
        for slot in 0..self.egress.links() {
            let link = LinkId(slot as u16);
            let Some(max) = self.turns.batch(link) else {
                waiting |= self.egress.has_received(link);
                continue;
            };
            let received = self.egress.receive(link, &mut self.batch, max);
            if received > 0 {
                processed += received;
                more |= received == max;
                self.turns.charge(link, received);
                let opened = self.stats().flows_opened.get();
                self.process_batch(now, snapshot, link);
                self.egress.attribute(link);
                let done = clock();
                let opened = self.stats().flows_opened.get() - opened;
                self.turns.note_time(link, done.since(begun) + opened * turns::NEW_FLOW);
                begun = done;
            }
        }
        if waiting && !more {
            self.turns.renew();
        }
        (processed, more || waiting)
    }

    fn process_batch(&mut self, now: Nanos, snapshot: Option<&Snapshot>, link: LinkId) {
        #[cfg(feature = "slowed")]
        slowed::waste(self.batch.len());
        let Some(snapshot) = snapshot else {
            for packet in self.batch.drain(..) {
                self.egress.discard_unready(packet);
            }
            return;
        };
        let mut around = Surroundings { now, snapshot, egress: &mut self.egress };
        self.pipeline.process(&mut around, link, &mut self.batch);
    }

    /// Packets whose flow lives here although the steering hash sent them elsewhere.
    fn take_handoffs(&mut self, now: Nanos, snapshot: Option<&Snapshot>) -> usize {
        let mut taken = 0;
        for from in 0..self.shared.config.workers {
            let waiting = std::iter::from_fn(|| self.shared.take_handoff(from, self.index));
            for (link, packet) in waiting.take(HANDOFF_BATCH) {
                taken += 1;
                self.egress.note_taken_over(&packet);
                match snapshot {
                    Some(snapshot) => {
                        let mut around = Surroundings { now, snapshot, egress: &mut self.egress };
                        self.pipeline.process_handed_over(&mut around, link, packet);
                        self.egress.attribute(link);
                    }
                    // The worker that received it has counted that.
                    None => self.egress.discard(packet, DropReason::NotReady),
                }
            }
        }
        taken
    }
}
