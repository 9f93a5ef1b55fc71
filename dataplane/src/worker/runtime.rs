//! Runs workers on threads.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{self, Context};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use crossbeam::channel;
use crossbeam::queue::ArrayQueue;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use podgate_tables::event::Event;
use podgate_tables::ids::LinkId;
use podgate_tables::policy::Snapshot;
use podgate_tables::time::Nanos;

use super::adaptive_poll::AdaptivePoll;
use super::reassembly::frames_beyond_share;
use super::service_tuples::untranslated;
use super::steering::steer;
use super::{
    Capture, Destination, FlowAction, FlowFilter, FlowListing, LiveCheck, RuleReport, Shared,
    SharedConfig, Worker,
};
use crate::flow::SavedFlow;
use crate::l7::dns::learned::DnsAnswer;
use crate::mem::Umem;
use crate::stats::LinkStatistics;
use crate::xsk::{LinkQueue, XskStatistics, close_queues};

/// What workers do while there are no packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PollMode {
    /// Busy-poll for a short time, then sleep until a packet or a command arrives. While requests
    /// and responses follow each other closely, busy-poll for up to 100 µs, which uses most of an
    /// otherwise idle core.
    #[default]
    Adaptive,
    /// Never sleep: lowest latency, one core per worker.
    Busy,
}

/// Configuration of a dataplane.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Workers and the sizes of their tables.
    pub shared: SharedConfig,
    /// Frames of the UMEM, 4096 bytes each.
    pub frames: u32,
    /// Polling of idle workers.
    pub poll: PollMode,
}

/// Longest sleep, for flow expiry.
const SLEEP_MAX: Duration = Duration::from_millis(100);
/// The same while DNS answers wait, for their timeout.
const SLEEP_ANSWERS: Duration = Duration::from_millis(20);
/// The same while the kernel has not transmitted all packets, or a fill ring lacks frames.
const SLEEP_UNSENT: Duration = Duration::from_millis(1);
/// How long to wait for a worker's reply to a command. Commands run between two rounds, so this is
/// ample.
const REPLY_MAX: Duration = Duration::from_secs(5);
/// Flows that a worker restores between two rounds, at most.
const RESTORE_BATCH: usize = 1024;
/// Capacity of a worker's command queue.
const COMMAND_CAPACITY: usize = 256;

const WAKER: Token = Token(usize::MAX);

#[derive(Debug)]
enum Command {
    /// The reply lists the links whose sockets can't be polled.
    AddQueues(Vec<LinkQueue>, channel::Sender<Vec<(LinkId, io::Error)>>),
    /// The reply is the queue, so that the worker need not wait for its sockets to close.
    RemoveQueue(LinkId, channel::Sender<Option<Box<LinkQueue>>>),
    /// The reply is the number of restored flows.
    RestoreFlows(Arc<Snapshot>, Vec<SavedFlow>, channel::Sender<usize>),
    CheckLive(Arc<LiveCheck>),
    SocketStatistics(channel::Sender<XskStatistics>),
    LinkStatistics(channel::Sender<Vec<LinkStatistics>>),
    RuleReport(channel::Sender<RuleReport>),
    CountFlowBytes,
    Flows(Arc<FlowListing>),
    /// The reply says that the worker copies no packets to another capture any more.
    Capture(Option<Arc<Capture>>, channel::Sender<()>),
}

/// Differences of the system clock from this on are steps (`ntpd` steps from 128 ms on).
const STEP_MIN: Duration = Duration::from_millis(100);

/// The clock of the workers and the control thread.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
    wall: SystemTime,
}

impl Clock {
    fn start() -> Self {
        Self { origin: Instant::now(), wall: SystemTime::now() }
    }

    /// Nanoseconds since the dataplane started.
    #[must_use]
    pub fn now(&self) -> Nanos {
        Nanos(self.origin.elapsed().as_nanos() as u64)
    }

    /// The wall-clock time of `at`.
    #[must_use]
    pub fn wall(&self, at: Nanos) -> SystemTime {
        self.wall + Duration::from_nanos(at.0)
    }

    /// The same clock, whose wall-clock times follow a step of the system clock, if there was one.
    /// Smaller differences are left out: times must stay in order.
    #[must_use]
    pub fn after_steps(self) -> Self {
        let before = self.origin.elapsed();
        let now = SystemTime::now();
        // If this thread did not run between the two clocks' readings, they can't be compared.
        if self.origin.elapsed() - before >= STEP_MIN / 2 {
            return self;
        }
        self.with_system_time(now)
    }

    fn with_system_time(self, now: SystemTime) -> Self {
        let Some(wall) = now.checked_sub(self.origin.elapsed()) else { return self };
        let difference = wall.duration_since(self.wall).unwrap_or_else(|error| error.duration());
        Self { wall: if difference < STEP_MIN { self.wall } else { wall }, ..self }
    }
}

/// Why workers did not run a command.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// A worker's command queue is full, or the worker doesn't reply.
    #[error("worker {0} takes no commands")]
    Unresponsive(usize),
    /// The sockets can't be polled.
    #[error("can't poll the sockets of link {0:?}")]
    Poll(LinkId, #[source] io::Error),
}

/// A running dataplane.
#[derive(Debug)]
pub struct Dataplane {
    umem: Arc<Umem>,
    shared: Arc<Shared>,
    commands: Vec<Arc<ArrayQueue<Command>>>,
    stop: Arc<AtomicBool>,
    clock: Mutex<Clock>,
    threads: Vec<JoinHandle<Stopped>>,
    /// Queues of workers that have stopped.
    queues: Vec<LinkQueue>,
}

/// State of a stopped worker.
struct Stopped {
    flows: Vec<SavedFlow>,
    queues: Vec<LinkQueue>,
}

impl Dataplane {
    /// Maps the UMEM and starts the workers, pinned to cores round robin.
    ///
    /// # Errors
    /// When memory, an epoll instance or a thread can't be created.
    pub fn start(config: Config) -> io::Result<Self> {
        let umem = Umem::new(config.frames)?;
        let shared = Shared::new(config.shared);
        let stop = Arc::new(AtomicBool::new(false));
        let clock = Clock::start();
        let cores = core_affinity::get_core_ids().unwrap_or_default();
        let (commands, threads, queues) = Default::default();
        let mut this =
            Self { umem, shared, commands, stop, clock: Mutex::new(clock), threads, queues };
        this.umem.raise_held_limit(frames_beyond_share(this.umem.frames(), config.shared.workers));
        for index in 0..config.shared.workers {
            let poll = Poll::new()?;
            let waker = mio::Waker::new(poll.registry(), WAKER)?;
            this.shared.sleepers[usize::from(index)].set_waker(waker);
            let commands = Arc::new(ArrayQueue::new(COMMAND_CAPACITY));
            this.commands.push(Arc::clone(&commands));
            let core = cores.get(usize::from(index) % cores.len().max(1)).copied();
            let thread = Thread {
                index,
                worker: Worker::new(
                    &this.shared,
                    index,
                    this.umem.pool_of(usize::from(config.shared.workers)),
                ),
                shared: Arc::clone(&this.shared),
                commands,
                stop: Arc::clone(&this.stop),
                clock,
                mode: config.poll,
                poll,
            };
            let name = format!("pg-worker-{index}");
            let handle = thread::Builder::new().name(name).spawn(move || {
                if let Some(core) = core {
                    core_affinity::set_for_current(core);
                }
                thread.run()
            })?;
            this.threads.push(handle);
        }
        Ok(this)
    }

    /// The UMEM, to open links.
    #[must_use]
    pub fn umem(&self) -> &Arc<Umem> {
        &self.umem
    }

    /// State shared with the workers.
    #[must_use]
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The workers' clock, with the wall-clock time of now.
    #[must_use]
    pub fn clock(&self) -> Clock {
        // Each time from the last one: after a step, smaller differences are left out as before.
        let mut clock = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        *clock = clock.after_steps();
        *clock
    }

    /// Publishes new tables.
    pub fn publish(&self, snapshot: impl Into<Arc<Snapshot>>) {
        self.shared.publish(snapshot);
    }

    /// Restores flows of previous workers in the workers that own them now, as `snapshot` allows.
    /// `snapshot` is to be published next: until then no packet passes, so that none is decided
    /// without its flow. Returns the number of restored flows.
    ///
    /// # Errors
    /// When a worker doesn't reply; others may have restored theirs.
    pub fn restore_flows(
        &self,
        snapshot: &Arc<Snapshot>,
        flows: Vec<SavedFlow>,
    ) -> Result<usize, LinkError> {
        let workers = self.shared.config.workers;
        let mut waiting = vec![Vec::new(); usize::from(workers)];
        for flow in flows {
            let owner = usize::from(steer(&flow.tuple, workers));
            let before = flow.frontend.map(|frontend| untranslated(&flow.tuple, frontend));
            // The worker that has the translation, if it is another one.
            let translator = before.map_or(owner, |tuple| usize::from(steer(&tuple, workers)));
            if translator != owner {
                waiting[translator].push(flow.clone());
            }
            waiting[owner].push(flow);
        }
        let mut restored = 0;
        while waiting.iter().any(|flows| !flows.is_empty()) {
            let batches = waiting.iter_mut().map(|flows| {
                let batch = flows.split_off(flows.len().saturating_sub(RESTORE_BATCH));
                let snapshot = Arc::clone(snapshot);
                move |done| Command::RestoreFlows(snapshot, batch, done)
            });
            self.ask_all(batches, |by_worker| {
                restored += by_worker;
                Ok(())
            })?;
        }
        Ok(restored)
    }

    /// Adds one queue to each worker, in order; returns when all of them poll it.
    ///
    /// # Errors
    /// When a worker fails to; others may have added theirs.
    pub fn add_link(&self, queues: Vec<LinkQueue>) -> Result<(), LinkError> {
        self.add_links(vec![queues])
    }

    /// The same for many links, with one command per worker.
    ///
    /// # Errors
    /// When a worker fails to add one; it may have added others.
    pub fn add_links(&self, links: Vec<Vec<LinkQueue>>) -> Result<(), LinkError> {
        let mut of_workers: Vec<Vec<LinkQueue>> = Vec::new();
        for queues in links {
            for (worker, queue) in queues.into_iter().enumerate() {
                of_workers.resize_with(of_workers.len().max(worker + 1), Vec::new);
                of_workers[worker].push(queue);
            }
        }
        let commands =
            of_workers.into_iter().map(|queues| move |done| Command::AddQueues(queues, done));
        self.ask_all(commands, |failed| match failed.into_iter().next() {
            Some((link, error)) => Err(LinkError::Poll(link, error)),
            None => Ok(()),
        })
    }

    /// Removes `link` from all workers; returns when its sockets are closed and its frames are
    /// free.
    ///
    /// # Errors
    /// When a worker doesn't reply.
    pub fn remove_link(&self, link: LinkId) -> Result<(), LinkError> {
        let commands =
            (0..self.commands.len()).map(|_| move |done| Command::RemoveQueue(link, done));
        let mut queues = Vec::new();
        let replied = self.ask_all(commands, |queue| {
            queues.extend(queue);
            Ok(())
        });
        drop(queues);
        replied
    }

    /// Sum of the queue counters of all links and workers since the start.
    ///
    /// Workers run this between two rounds, so that counting costs the packet path nothing.
    ///
    /// # Errors
    /// When a worker doesn't reply.
    pub fn socket_statistics(&self) -> Result<XskStatistics, LinkError> {
        let commands = (0..self.commands.len()).map(|_| Command::SocketStatistics);
        let mut sum = XskStatistics::default();
        self.ask_all(commands, |worker| {
            sum += worker;
            Ok(())
        })?;
        Ok(sum)
    }

    /// Counters of each link over all workers since it was added, in the order of links.
    ///
    /// # Errors
    /// When a worker doesn't reply.
    pub fn link_statistics(&self) -> Result<Vec<LinkStatistics>, LinkError> {
        let commands = (0..self.commands.len()).map(|_| Command::LinkStatistics);
        let mut links = BTreeMap::new();
        self.ask_all(commands, |of_worker| {
            for of_link in of_worker {
                links
                    .entry(of_link.link)
                    .and_modify(|sum: &mut LinkStatistics| {
                        sum.received += of_link.received;
                        sum.sockets += of_link.sockets;
                        sum.over_quota += of_link.over_quota;
                    })
                    .or_insert(of_link);
            }
            Ok(())
        })?;
        Ok(links.into_values().collect())
    }

    /// Sends a command to each worker, in order, and passes all replies to `take`. A worker that
    /// does not reply does not prevent the others from replying; the first error is returned.
    fn ask_all<T, F>(
        &self,
        commands: impl Iterator<Item = F>,
        mut take: impl FnMut(T) -> Result<(), LinkError>,
    ) -> Result<(), LinkError>
    where
        F: FnOnce(channel::Sender<T>) -> Command,
    {
        let ask = |(index, command): (usize, F)| {
            let (done, reply) = channel::bounded(1);
            if let Some(queue) = self.commands.get(index)
                && queue.push(command(done)).is_ok()
            {
                self.shared.sleepers[index].wake_if_asleep();
            }
            (index, reply)
        };
        let replies: Vec<_> = commands.enumerate().map(ask).collect();
        let deadline = Instant::now() + REPLY_MAX;
        let mut result = Ok(());
        for (index, reply) in replies {
            // Without the command in a queue, the sender is gone.
            let reply = reply.recv_deadline(deadline).map_err(|_| LinkError::Unresponsive(index));
            result = result.and(reply.and_then(&mut take));
        }
        result
    }

    /// Asks the workers to which of the destinations live flows lead. Returns at once; the
    /// answer is in [`LiveCheck::result`] later.
    ///
    /// # Errors
    /// When a worker takes no commands. The check never ends then.
    pub fn check_live(&self, destinations: Vec<Destination>) -> Result<Arc<LiveCheck>, LinkError> {
        let check = Arc::new(LiveCheck::new(destinations, self.shared.config.workers));
        for (index, queue) in self.commands.iter().enumerate() {
            let command = Command::CheckLive(Arc::clone(&check));
            queue.push(command).map_err(|_| LinkError::Unresponsive(index))?;
            self.shared.sleepers[index].wake_if_asleep();
        }
        Ok(check)
    }

    /// Has the workers list or remove flows. Returns at once; the answer is in
    /// [`FlowListing::take`] later.
    ///
    /// # Errors
    /// When a worker takes no commands. The listing never ends then.
    pub fn list_flows(
        &self,
        filter: FlowFilter,
        action: FlowAction,
    ) -> Result<Arc<FlowListing>, LinkError> {
        let workers = self.shared.config.workers;
        let listing = Arc::new(FlowListing::new(filter, action, workers));
        for (index, queue) in self.commands.iter().enumerate() {
            let command = Command::Flows(Arc::clone(&listing));
            queue.push(command).map_err(|_| LinkError::Unresponsive(index))?;
            self.shared.sleepers[index].wake_if_asleep();
        }
        Ok(listing)
    }

    /// Has the workers copy packets to `capture`, or to none; it replaces the one before.
    ///
    /// # Errors
    /// When a worker doesn't reply; others may have started or ended.
    pub fn set_capture(&self, capture: Option<&Arc<Capture>>) -> Result<(), LinkError> {
        let commands = (0..self.commands.len()).map(|_| {
            let capture = capture.map(Arc::clone);
            move |done| Command::Capture(capture, done)
        });
        self.ask_all(commands, |()| Ok(()))
    }

    /// Takes what the workers counted of policy rules since the last call.
    ///
    /// # Errors
    /// When a worker doesn't reply. What it has counted is in a later report, unless it replied in
    /// the moment in which the wait ended.
    pub fn rule_reports(&self, mut take: impl FnMut(RuleReport)) -> Result<(), LinkError> {
        let commands = (0..self.commands.len()).map(|_| Command::RuleReport);
        self.ask_all(commands, |report| {
            take(report);
            Ok(())
        })
    }

    /// Has the workers count the bytes of live flows for their rules, a few flows between two
    /// rounds. Returns at once; a worker that takes no commands counts them at the next call.
    pub fn count_flow_bytes(&self) {
        for (index, queue) in self.commands.iter().enumerate() {
            if queue.push(Command::CountFlowBytes).is_ok() {
                self.shared.sleepers[index].wake_if_asleep();
            }
        }
    }

    /// The number of each worker's current round; it grows several times a second, asleep or not.
    pub fn rounds(&self) -> impl Iterator<Item = u64> {
        self.shared.rounds.iter().map(|rounds| rounds.number())
    }

    /// The first worker that has panicked. Its packets are no longer processed.
    #[must_use]
    pub fn panicked_worker(&self) -> Option<usize> {
        self.threads.iter().position(JoinHandle::is_finished)
    }

    /// Ready when a DNS answer waits for [`Self::drain_answers`]. One task may wait.
    pub fn poll_answers(&self, cx: &mut Context<'_>) -> task::Poll<()> {
        self.shared.answers.poll_waiting(cx)
    }

    /// Takes all DNS answers from the rings, each with its worker's number. They are not forwarded
    /// before [`Self::release_answers`].
    pub fn drain_answers(&self, take: impl FnMut(u16, DnsAnswer)) {
        self.shared.answers.drain(take);
    }

    /// Releases all DNS answers of `worker` up to `ticket`. The tables that admit their addresses
    /// must be published before ([`Self::publish`]).
    pub fn release_answers(&self, worker: u16, ticket: u64) {
        self.shared.release_answers(worker, ticket);
    }

    /// Waits until a worker has an event; its first one wakes the caller. Only for one caller.
    pub fn poll_events(&self, cx: &mut Context<'_>) -> task::Poll<()> {
        self.shared.event_reader.poll(&self.shared.events, cx)
    }

    /// Takes events from the rings, at most `max` of each worker, each with its worker's number.
    pub fn drain_events(&self, max: usize, mut take: impl FnMut(u16, Event)) {
        self.shared.event_reader.cancel_sleep();
        for (worker, queue) in self.shared.events.iter().enumerate() {
            // Bounded by the ring's capacity, so that a busy worker can't keep the caller here.
            for _ in 0..queue.capacity().min(max) {
                let Some(event) = queue.pop() else { break };
                take(worker as u16, event);
            }
        }
    }
}

impl Dataplane {
    /// Stops the workers and returns the flows that can outlive them. Nothing is forwarded any
    /// more; sockets are closed when the dataplane is dropped.
    pub fn stop(&mut self) -> Vec<SavedFlow> {
        self.stop.store(true, Ordering::Release);
        self.shared.wake_all();
        let mut flows = Vec::new();
        for thread in self.threads.drain(..) {
            // The panic of a worker was already reported on standard error.
            let Ok(stopped) = thread.join() else { continue };
            flows.extend(stopped.flows);
            self.queues.extend(stopped.queues);
        }
        flows
    }
}

impl Drop for Dataplane {
    /// Stops the workers and closes all sockets.
    fn drop(&mut self) {
        self.stop();
        close_queues(std::mem::take(&mut self.queues));
    }
}

/// One worker's thread.
struct Thread {
    index: u16,
    worker: Worker,
    shared: Arc<Shared>,
    commands: Arc<ArrayQueue<Command>>,
    stop: Arc<AtomicBool>,
    clock: Clock,
    mode: PollMode,
    poll: Poll,
}

impl Thread {
    fn run(mut self) -> Stopped {
        let mut events = Events::with_capacity(64);
        let mut adaptive = AdaptivePoll::default();
        while !self.stop.load(Ordering::Acquire) {
            self.run_commands();
            let now = self.clock.now();
            if self.worker.has_checks() {
                self.worker.continue_checks(now);
            }
            let clock = self.clock;
            let packets = self.worker.round_by_time(now, &|| clock.now());
            if self.mode == PollMode::Adaptive {
                let should_sleep = adaptive.should_sleep(now, packets);
                self.worker.stats().busy_poll_extended.set(adaptive.is_extended().into());
                if should_sleep {
                    self.sleep(&mut events);
                }
            }
        }
        let flows = self.worker.saved_flows(self.clock.now()).collect();
        Stopped { flows, queues: self.worker.take_queues() }
    }

    /// Sleeps until a packet, a command or a timer; not at all if there is work already.
    fn sleep(&mut self, events: &mut Events) {
        let sleeper = &self.shared.sleepers[usize::from(self.index)];
        sleeper.announce_sleep();
        let work = !self.commands.is_empty()
            || self.worker.has_checks()
            || self.shared.handoffs.has_any(self.index)
            || self.worker.has_releases()
            || self.worker.has_new_tables()
            || self.stop.load(Ordering::Acquire);
        let timeout = match () {
            () if work => Duration::ZERO,
            () if self.worker.has_unsent() => SLEEP_UNSENT,
            () => {
                let waits = self.worker.has_waiting_answers();
                let longest = if waits { SLEEP_ANSWERS } else { SLEEP_MAX };
                let until = |due: Nanos| Duration::from_nanos(due.since(self.clock.now()));
                self.worker.next_timer().map_or(longest, until).min(longest)
            }
        };
        // An interrupted or failed poll is a short sleep: the next round polls everything.
        let _ = self.poll.poll(events, Some(timeout));
        sleeper.cancel_sleep();
        self.worker.stats().sleeps.add(1);
    }

    fn run_commands(&mut self) {
        while let Some(command) = self.commands.pop() {
            // If the send fails, the caller no longer waits for the reply.
            let _delivered = match command {
                Command::AddQueues(queues, done) => {
                    let add = |queue: LinkQueue| Some((queue.link(), self.add(queue).err()?));
                    let failed = queues.into_iter().filter_map(add).collect();
                    done.send(failed).is_ok()
                }
                Command::RemoveQueue(link, done) => {
                    done.send(self.worker.take_queue(link).map(Box::new)).is_ok()
                }
                Command::RestoreFlows(snapshot, flows, done) => {
                    let now = self.clock.now();
                    done.send(self.worker.restore_flows(now, &snapshot, &flows)).is_ok()
                }
                Command::CheckLive(check) => {
                    self.worker.start_check(check);
                    true
                }
                Command::SocketStatistics(done) => {
                    done.send(self.worker.socket_statistics()).is_ok()
                }
                Command::LinkStatistics(done) => done.send(self.worker.link_statistics()).is_ok(),
                Command::RuleReport(done) => {
                    let sent = done.send(self.worker.take_rule_report());
                    sent.map_err(|unsent| self.worker.put_back_rule_report(&unsent.0)).is_ok()
                }
                Command::CountFlowBytes => {
                    self.worker.count_flow_bytes();
                    true
                }
                Command::Flows(listing) => {
                    self.worker.start_flow_listing(listing);
                    true
                }
                Command::Capture(capture, done) => {
                    self.worker.set_capture(capture);
                    done.send(()).is_ok()
                }
            };
        }
    }

    fn add(&mut self, queue: LinkQueue) -> io::Result<()> {
        if let Some(fd) = queue.fd() {
            let token = Token(queue.link().index());
            let registry = self.poll.registry();
            // Closing the socket removes it from the epoll set (epoll(7)).
            registry.register(&mut SourceFd(&fd.as_raw_fd()), token, Interest::READABLE)?;
        }
        self.worker.add_queue(queue);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn without_links(poll: PollMode) -> Dataplane {
        let shared = SharedConfig { flows_per_worker: 16, ..SharedConfig::default() };
        Dataplane::start(Config { shared, frames: 64, poll }).unwrap()
    }

    fn sleeps(dataplane: &Dataplane) -> u64 {
        dataplane.shared.stats[0].sleeps.get()
    }

    #[test]
    fn an_adaptive_worker_without_packets_sleeps_and_still_replies() {
        let dataplane = without_links(PollMode::Adaptive);
        let begin = Instant::now();
        while sleeps(&dataplane) < 3 {
            dataplane.socket_statistics().unwrap();
            assert!(begin.elapsed() < REPLY_MAX, "it never sleeps");
            thread::yield_now();
        }
    }

    #[test]
    fn a_worker_that_does_not_reply_is_named_and_the_others_are_asked() {
        let shared = SharedConfig { workers: 2, flows_per_worker: 16, ..SharedConfig::default() };
        let poll = PollMode::Adaptive;
        let dataplane = Dataplane::start(Config { shared, frames: 64, poll }).unwrap();
        // Worker 0 waits until its reply is taken.
        let (done, reply) = channel::bounded(0);
        assert!(dataplane.commands[0].push(Command::SocketStatistics(done)).is_ok());
        let mut reports = 0;
        let result = dataplane.rule_reports(|_| reports += 1);
        assert!(matches!(result, Err(LinkError::Unresponsive(0))), "{result:?}");
        assert_eq!(reports, 1);
        reply.recv().unwrap();
        dataplane.rule_reports(|_| reports += 1).unwrap();
        assert_eq!(reports, 3);
    }

    #[test]
    fn wall_clock_times_follow_steps_of_the_system_clock_only() {
        let clock = Clock::start();
        let step = Duration::from_secs(3600);
        let (begin, at) = (clock.wall(Nanos(0)), Nanos(5));
        for now in [SystemTime::now() + step, SystemTime::now() - step] {
            let stepped = clock.with_system_time(now);
            let wall = stepped.wall(stepped.now());
            let late = wall.duration_since(now).unwrap_or_else(|error| error.duration());
            assert!(late < step / 2, "{late:?}");
            assert_eq!(clock.now().0 / step.as_nanos() as u64, 0, "the workers' time goes on");
            let back = stepped.with_system_time(SystemTime::now());
            let off = back.wall(Nanos(0)).duration_since(begin);
            assert!(off.unwrap_or_else(|error| error.duration()) < step / 2);
        }
        let adjusted = clock.with_system_time(SystemTime::now() + STEP_MIN / 1000);
        assert_eq!(adjusted.wall(at), clock.wall(at), "no step");
        assert_eq!(clock.after_steps().wall(at), clock.wall(at));
    }

    #[test]
    fn a_busy_polling_worker_never_sleeps() {
        let dataplane = without_links(PollMode::Busy);
        for _ in 0..100 {
            dataplane.socket_statistics().unwrap();
        }
        assert_eq!(sleeps(&dataplane), 0);
    }
}
