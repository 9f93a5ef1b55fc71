//! Workers: pinned threads that each own their flows.
//!
//! [`Worker`] is the poll loop around the pipeline: it receives batches from its queues, runs each
//! packet through the pipeline, and flushes the transmit rings. It opens no files and reads no
//! clock, so it also runs on memory links, in tests and in `podgate replay`. [`Dataplane`] runs
//! workers on threads.

mod adaptive_poll;
mod affinity;
mod capture;
mod checks;
mod ctx;
mod datagrams;
mod decisions;
mod dropped;
mod egress;
mod fast_path;
mod flow_io;
mod flow_list;
mod forward;
mod fragments;
mod handoff_shares;
mod icmp_reply;
mod inspect;
mod inspectors;
mod live_check;
mod notice;
mod open;
mod pair_rings;
mod pipeline;
mod rate_limit;
mod reassembly;
mod release;
mod reset;
mod restore;
mod rule_counters;
mod runtime;
mod scheduler;
mod service_tuples;
mod services;
mod shared;
#[cfg(feature = "slowed")]
mod slowed;
mod steering;
mod targets;
mod timer_wheel;
mod tx_queue;

use std::sync::Arc;

use crossbeam::utils::CachePadded;
use podgate_tables::drop_reason::DropReason;
use podgate_tables::ids::{Epoch, LinkId};
use podgate_tables::policy::Snapshot;
use podgate_tables::service::L4Addr;
use podgate_tables::time::Nanos;

use crate::flow::SavedFlow;
use crate::mem::{FramePool, Packet};
use crate::stats::{LinkStatistics, WorkerStats};
use crate::xsk::{LinkQueue, XskStatistics};

use capture::Capturing;
pub use capture::{
    Capture, CaptureFilter, CapturePoint, CaptureSpec, CapturedPacket, CapturedPod,
    CapturedVerdict, Disposition,
};
use ctx::PacketCtx;
pub use dropped::event_of_dropped;
use egress::Egress;
use flow_list::FlowListScan;
pub use flow_list::{FlowAction, FlowFilter, FlowListing, ListedFlow};
use live_check::LiveScan;
pub use live_check::{Destination, LiveCheck};
use pipeline::Pipeline;
use rule_counters::FlowBytesScan;
pub use rule_counters::{FLOW_BYTES_PERIOD, RuleKey, RuleReport, RuleTally, RuleVerdict};
pub use runtime::{Clock, Config, Dataplane, LinkError, PollMode};
use scheduler::LinkScheduler;
pub use shared::{Shared, SharedConfig};

/// Packets received from one queue at a time, at most.
const BATCH: usize = 64;
/// Packets after which a round stops polling the queues. Large enough to amortize the fixed cost of
/// a round, which is mostly system calls; small enough that other links don't wait long while one
/// is flooded.
const ROUND: usize = 4 * BATCH;
/// Packets taken from each hand-off ring in one round, at most.
const HANDOFF_BATCH: usize = 64;
/// Notices taken from each other worker in one round, at most.
const NOTICE_BATCH: usize = 1024;

/// One worker: its queues, its flows, its frames.
#[derive(Debug)]
pub struct Worker {
    index: u16,
    shared: Arc<Shared>,
    snapshot: arc_swap::Cache<Arc<arc_swap::ArcSwapOption<Snapshot>>, Option<Arc<Snapshot>>>,
    pipeline: Pipeline,
    egress: Egress,
    batch: Vec<Packet>,
    /// Of packets in `batch` that another worker received: the services' addresses and ports that
    /// they were sent to.
    frontends: Vec<Option<L4Addr>>,
    scheduler: LinkScheduler,
    /// Checks of live flows that this worker has not answered yet.
    scans: Vec<LiveScan>,
    /// The same for requests about flows.
    flow_scans: Vec<FlowListScan>,
    flow_bytes: FlowBytesScan,
}

impl Worker {
    /// Worker `index` of `shared`, with an empty flow table and no queues.
    #[must_use]
    pub fn new(shared: &Arc<Shared>, index: u16, pool: FramePool) -> Self {
        Self {
            index,
            shared: Arc::clone(shared),
            snapshot: arc_swap::Cache::new(Arc::clone(&shared.snapshot)),
            pipeline: Pipeline::new(index, shared, pool.umem().frames()),
            egress: Egress::new(index, shared, pool),
            batch: Vec::with_capacity(BATCH),
            frontends: Vec::with_capacity(HANDOFF_BATCH),
            scheduler: LinkScheduler::default(),
            scans: Vec::new(),
            flow_scans: Vec::new(),
            flow_bytes: FlowBytesScan::default(),
        }
    }

    /// Adds a queue, to be polled in each round.
    pub fn add_queue(&mut self, queue: LinkQueue) {
        self.scheduler.add(queue.link());
        self.egress.add_queue(queue);
    }

    /// Closes the queue on `link`, if there is one. Its flows are decided again under the next
    /// snapshot.
    pub fn remove_queue(&mut self, link: LinkId) {
        drop(self.take_queue(link));
    }

    /// Removes the queue on `link`; the caller closes it.
    pub fn take_queue(&mut self, link: LinkId) -> Option<LinkQueue> {
        self.pipeline.drop_fragments(&mut self.egress, link);
        self.egress.take_queue(link)
    }

    /// Removes all queues; the caller closes them.
    pub fn take_queues(&mut self) -> Vec<LinkQueue> {
        let slots = 0..self.egress.links();
        slots.filter_map(|slot| self.take_queue(LinkId(slot as u16))).collect()
    }

    /// Closes all queues.
    pub fn close_queues(&mut self) {
        drop(self.take_queues());
    }

    /// The flows that can outlive this worker.
    pub fn saved_flows(&self, now: Nanos) -> impl Iterator<Item = SavedFlow> {
        self.pipeline.saved_flows(now)
    }

    /// Restores flows that workers of a previous agent saved, as far as the tables of `snapshot`
    /// allow them. Ignores flows of other workers, existing ones, and those that exceed an owner's
    /// share of the table. Returns the number of restored flows.
    ///
    /// For a worker that doesn't process packets yet: `snapshot` is to be published next.
    pub fn restore_flows(&mut self, now: Nanos, snapshot: &Snapshot, flows: &[SavedFlow]) -> usize {
        let cx = PacketCtx { now, snapshot, egress: &mut self.egress };
        let restored = flows.iter().filter(|flow| self.pipeline.restore_flow(&cx, flow)).count();
        self.stats().flows.set(self.pipeline.flows() as u64);
        restored
    }

    /// Answers a check of live flows, see [`Self::continue_checks`].
    pub fn start_check(&mut self, check: Arc<LiveCheck>) {
        self.scans.push(LiveScan::new(check));
    }

    /// Whether [`Self::continue_checks`] has work to do.
    #[must_use]
    pub fn has_checks(&self) -> bool {
        !self.scans.is_empty() || !self.flow_scans.is_empty() || self.flow_bytes.is_running()
    }

    /// Starts to count the bytes of live flows for their rules, see [`Self::continue_checks`].
    pub fn count_flow_bytes(&mut self) {
        self.flow_bytes.start();
    }

    /// Reads some flows for the checks that were started.
    pub fn continue_checks(&mut self, now: Nanos) {
        self.scans.retain_mut(|scan| !scan.advance(&self.pipeline.flows, now));
        self.flow_bytes.advance(&mut self.pipeline.flows, self.egress.rule_counters());
        if !self.flow_scans.is_empty() {
            self.continue_flow_scans(now);
        }
    }

    fn continue_flow_scans(&mut self, now: Nanos) {
        let Some(snapshot) = self.snapshot.load().clone() else {
            // There are no flows before the first tables.
            return self.flow_scans.drain(..).for_each(FlowListScan::end);
        };
        let mut cx = PacketCtx { now, snapshot: &snapshot, egress: &mut self.egress };
        let pipeline = &mut self.pipeline;
        self.flow_scans.retain_mut(|scan| !scan.advance(pipeline, &mut cx));
        pipeline.finish_capture(&mut self.egress);
    }

    /// Starts to list or remove flows, see [`Self::continue_checks`].
    pub fn start_flow_listing(&mut self, listing: Arc<FlowListing>) {
        self.flow_scans.push(FlowListScan::new(listing));
    }

    /// Copies packets to this capture, or to none.
    pub fn set_capture(&mut self, capture: Option<Arc<Capture>>) {
        let capturing = capture.map(|capture| Capturing::new(capture, self.index));
        self.egress.set_capturing(capturing);
    }

    /// Takes what was counted of policy rules since the last call.
    pub fn take_rule_report(&mut self) -> RuleReport {
        self.egress.rule_counters().take()
    }

    /// Puts back a report that was not received: it is part of the next one.
    pub(crate) fn put_back_rule_report(&mut self, report: &RuleReport) {
        self.egress.rule_counters().put_back(report);
    }

    /// Sum of the counters of all queues, closed ones included. Two system calls per queue.
    #[must_use]
    pub fn socket_statistics(&self) -> XskStatistics {
        self.egress.socket_statistics()
    }

    /// Counters of each link. Two system calls per queue.
    #[must_use]
    pub fn link_statistics(&self) -> Vec<LinkStatistics> {
        self.egress.link_statistics()
    }

    /// Whether the kernel has not transmitted all packets, or a link got too few frames to receive
    /// into; the next round retries.
    #[must_use]
    pub fn has_unsent(&self) -> bool {
        self.egress.has_unsent()
    }

    /// The worker's counters.
    #[must_use]
    pub fn stats(&self) -> &CachePadded<WorkerStats> {
        &self.shared.stats[usize::from(self.index)]
    }

    /// Number of flows.
    #[must_use]
    pub fn flows(&self) -> usize {
        self.pipeline.flows()
    }

    /// Whether DNS answers wait, whose timeout needs a round every few milliseconds.
    #[must_use]
    pub fn has_waiting_answers(&self) -> bool {
        self.pipeline.has_waiting_answers()
    }

    /// When a timer of an inspected flow is due, which needs a round; `None` if none is set.
    #[must_use]
    pub fn next_timer(&self) -> Option<Nanos> {
        self.pipeline.next_inspected()
    }

    /// Whether tables were published that it has not used in a round yet.
    #[must_use]
    pub fn has_new_tables(&self) -> bool {
        let published = self.shared.snapshot.load();
        published.as_ref().map_or(0, |snapshot| snapshot.epoch.0) != self.stats().epoch.get()
    }

    /// Whether released DNS answers can be forwarded by one of the next rounds.
    #[must_use]
    pub fn has_releases(&self) -> bool {
        self.pipeline.datagrams.releases.is_pending()
    }

    /// One iteration of the poll loop: receive, process, expire, flush. Returns the number of
    /// packets processed; if zero, the caller may sleep.
    ///
    /// Links are scheduled by packets; see [`Self::round_by_time`].
    pub fn round(&mut self, now: Nanos) -> usize {
        self.round_by_time(now, &|| now)
    }

    /// As [`Self::round`], but links are scheduled by the time that their packets take, measured
    /// with `clock`.
    pub fn round_by_time(&mut self, now: Nanos, clock: &impl Fn() -> Nanos) -> usize {
        self.shared.rounds[usize::from(self.index)].begin();
        let snapshot = self.snapshot.load().clone();
        if let Some(snapshot) = snapshot.as_deref() {
            self.pipeline.flows.set_outside(snapshot.routes.host_link());
        }
        let epoch = snapshot.as_ref().map_or(Epoch::default(), |snapshot| snapshot.epoch);
        self.egress.begin_round(now, epoch);
        for from in 0..self.shared.config.workers {
            for _ in 0..NOTICE_BATCH {
                let Some(notice) = self.shared.notices.take(from, self.index) else { break };
                self.pipeline.learn(&mut self.egress, notice, now);
            }
        }
        let mut processed = 0;
        loop {
            let (packets, more) = self.poll_queues(now, snapshot.as_deref(), clock);
            processed += packets;
            if !more || processed >= ROUND {
                break;
            }
        }
        processed += self.process_handoffs(now, snapshot.as_deref());
        if let Some(snapshot) = snapshot.as_deref() {
            let mut cx = PacketCtx { now, snapshot, egress: &mut self.egress };
            self.pipeline.run_timers(&mut cx);
            self.pipeline.release_answers(&mut cx, &self.shared);
        }
        self.pipeline.finish_capture(&mut self.egress);
        let scheduler = &mut self.scheduler;
        self.egress.flush(clock, |link, nanos| scheduler.record_time(link, nanos));
        scheduler.end_round();
        self.update_gauges(snapshot.as_deref());
        self.shared.rounds[usize::from(self.index)].end();
        if processed > 0 {
            self.stats().busy_rounds.add(1);
        }
        processed
    }

    fn update_gauges(&mut self, snapshot: Option<&Snapshot>) {
        let (held, buffered) =
            (self.egress.frame_quota().total(), self.egress.byte_quota().total());
        let stats = self.stats();
        stats.flows.set(self.pipeline.flows() as u64);
        stats.inspected_flows.set(self.pipeline.inspected_flows() as u64);
        stats.held_frames.set(held as u64);
        stats.buffered_bytes.set(buffered as u64);
        stats.epoch.set(snapshot.map_or(0, |snapshot| snapshot.epoch.0));
        debug_assert_eq!(
            self.egress.outstanding_frames(),
            self.pipeline.held_frames() as i64,
            "every frame is free, in a ring, held by a flow, or part of a datagram"
        );
        debug_assert_eq!(
            buffered,
            self.pipeline.buffered_bytes(),
            "the byte quota is used by inspected flows only"
        );
        debug_assert!(held > 0 || self.egress.frame_quota().is_unused(), "nobody holds frames");
        debug_assert!(buffered > 0 || self.egress.byte_quota().is_unused(), "nobody buffers");
    }

    /// Processes one batch of each queue whose link has credit. Returns the number of packets
    /// processed, and whether a queue may have more.
    fn poll_queues(
        &mut self,
        now: Nanos,
        snapshot: Option<&Snapshot>,
        clock: &impl Fn() -> Nanos,
    ) -> (usize, bool) {
        let (mut processed, mut more, mut waiting) = (0, false, false);
        let mut begun = clock();
        for slot in 0..self.egress.links() {
            let link = LinkId(slot as u16);
            let Some(max) = self.scheduler.batch_size(link) else {
                waiting |= self.egress.has_received(link);
                continue;
            };
            let received = self.egress.receive(link, &mut self.batch, max);
            if received > 0 {
                processed += received;
                more |= received == max;
                self.scheduler.charge(link, received);
                let opened = self.stats().flows_opened.get();
                self.process_batch(now, snapshot, link);
                self.egress.attribute(link);
                let done = clock();
                let opened = self.stats().flows_opened.get() - opened;
                // A clock that stands still schedules links by packets.
                if done > begun {
                    let nanos = done.since(begun) + opened * scheduler::NEW_FLOW;
                    self.scheduler.record_time(link, nanos);
                }
                begun = done;
            }
        }
        if waiting && !more {
            self.scheduler.replenish();
        }
        (processed, more || waiting)
    }

    fn process_batch(&mut self, now: Nanos, snapshot: Option<&Snapshot>, link: LinkId) {
        #[cfg(feature = "slowed")]
        slowed::waste(self.batch.len());
        let Some(snapshot) = snapshot else {
            for packet in self.batch.drain(..) {
                self.egress.drop_not_ready(packet);
            }
            return;
        };
        let mut cx = PacketCtx { now, snapshot, egress: &mut self.egress };
        self.pipeline.process_batch(&mut cx, link, &mut self.batch);
    }

    /// Processes packets of this worker's flows that another worker received.
    fn process_handoffs(&mut self, now: Nanos, snapshot: Option<&Snapshot>) -> usize {
        let mut processed = 0;
        for from in 0..self.shared.config.workers {
            let mut left = HANDOFF_BATCH;
            let mut next = self.shared.handoffs.take(from, self.index);
            while let Some((link, packet, frontend)) = next {
                next = None;
                left -= 1;
                processed += 1;
                self.egress.account_handoff(&packet);
                self.batch.push(packet);
                self.frontends.push(frontend);
                if left > 0 {
                    next = self.shared.handoffs.take(from, self.index);
                }
                if next.as_ref().is_none_or(|(other, ..)| *other != link) {
                    self.process_handed_off(now, snapshot, link);
                }
            }
        }
        processed
    }

    /// Processes packets from one link that another worker received.
    fn process_handed_off(&mut self, now: Nanos, snapshot: Option<&Snapshot>, link: LinkId) {
        match snapshot {
            Some(snapshot) => {
                let mut cx = PacketCtx { now, snapshot, egress: &mut self.egress };
                let Self { pipeline, batch, frontends, .. } = self;
                pipeline.process_handed_off_batch(&mut cx, link, batch, frontends);
                self.egress.attribute(link);
            }
            // Counted as received by the other worker.
            None => {
                for packet in self.batch.drain(..) {
                    self.egress.drop_counted(packet, DropReason::EndpointNotReady);
                }
            }
        }
        self.frontends.clear();
    }
}
