//! Workers on threads: start, feed, wake, stop.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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

use super::patience::Patience;
use super::pipeline::steer;
use super::{Shared, SharedConfig, Worker};
use crate::flow::SavedFlow;
use crate::stats::LinkStatistics;
use crate::xsk::{Port, Umem, XskStatistics, close_ports};

/// What workers do while there is nothing to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PollMode {
    /// Look for a little while, then sleep until a packet or a command comes. While requests and
    /// answers follow each other closely, look for up to 100 µs, which takes most of a core that is
    /// free.
    #[default]
    Adaptive,
    /// Never sleep: lowest latency, one core each.
    Busy,
}

/// How a dataplane is started.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Workers and the sizes of their tables.
    pub shared: SharedConfig,
    /// Frames of the UMEM, 4096 bytes each.
    pub frames: u32,
    /// What idle workers do.
    pub poll: PollMode,
}

/// How long it sleeps at most, for the sake of flow expiry.
const SLEEP_MAX: Duration = Duration::from_millis(100);
/// The same while some flow is inspected, for the sake of the followers' timers.
const SLEEP_INSPECTED: Duration = Duration::from_millis(20);
/// The same while the kernel has not taken all that was transmitted.
const SLEEP_UNSENT: Duration = Duration::from_millis(1);
/// How long a worker may take to answer a command. It obeys between two rounds, so this is ample.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Flows that a worker takes over between two rounds, at most.
const TAKE_OVER_BATCH: usize = 1024;
/// Commands that may wait for one worker.
const COMMAND_CAPACITY: usize = 256;

const WAKER: Token = Token(usize::MAX);

#[derive(Debug)]
enum Command {
    /// Answered by the links whose sockets can't be polled.
    AddPorts(Vec<Port>, channel::Sender<Vec<(LinkId, io::Error)>>),
    /// Answered by the port, so that the worker need not wait until its sockets are closed.
    RemovePort(LinkId, channel::Sender<Option<Box<Port>>>),
    /// Answered by the number of flows that were taken over.
    TakeOver(Arc<Snapshot>, Vec<SavedFlow>, channel::Sender<usize>),
    PortStatistics(channel::Sender<XskStatistics>),
    LinkStatistics(channel::Sender<Vec<LinkStatistics>>),
}

/// A clock that workers and control agree on.
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

    /// The wall-clock time of `at`, as seen from the dataplane's start.
    #[must_use]
    pub fn wall(&self, at: Nanos) -> SystemTime {
        self.wall + Duration::from_nanos(at.0)
    }
}

/// Why a link could not be given to the workers.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// A worker's command ring is full or the worker is gone.
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
    clock: Clock,
    threads: Vec<JoinHandle<Stopped>>,
    /// Ports of workers that have stopped.
    ports: Vec<Port>,
}

/// What a worker leaves behind.
struct Stopped {
    flows: Vec<SavedFlow>,
    ports: Vec<Port>,
}

impl Dataplane {
    /// Maps the UMEM and starts the workers, each pinned to a core while there are cores.
    ///
    /// # Errors
    /// When memory, an epoll instance or a thread can't be had.
    pub fn start(config: Config) -> io::Result<Self> {
        let umem = Umem::new(config.frames)?;
        let shared = Shared::new(config.shared);
        let stop = Arc::new(AtomicBool::new(false));
        let clock = Clock::start();
        let cores = core_affinity::get_core_ids().unwrap_or_default();
        let (commands, threads, ports) = Default::default();
        let mut this = Self { umem, shared, commands, stop, clock, threads, ports };
        for index in 0..config.shared.workers {
            let poll = Poll::new()?;
            let waker = mio::Waker::new(poll.registry(), WAKER)?;
            this.shared.sleepers[usize::from(index)].set_waker(waker);
            let commands = Arc::new(ArrayQueue::new(COMMAND_CAPACITY));
            this.commands.push(Arc::clone(&commands));
            let core = cores.get(usize::from(index) % cores.len().max(1)).copied();
            let thread = Thread {
                index,
                worker: Worker::new(&this.shared, index, this.umem.pool()),
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

    /// The packet memory, to open links on.
    #[must_use]
    pub fn umem(&self) -> &Arc<Umem> {
        &self.umem
    }

    /// Rings and counters of the workers.
    #[must_use]
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The workers' clock.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Puts new tables in force.
    pub fn publish(&self, snapshot: impl Into<Arc<Snapshot>>) {
        self.shared.publish(snapshot);
    }

    /// Gives flows of workers before to the workers that own them now, judged by `snapshot`, which
    /// is to be published next: until then no packet passes, so that none is judged without its
    /// flow. Returns how many were taken over.
    ///
    /// # Errors
    /// When a worker doesn't answer; the others may have taken theirs.
    pub fn take_over(
        &self,
        snapshot: &Arc<Snapshot>,
        flows: Vec<SavedFlow>,
    ) -> Result<usize, LinkError> {
        let workers = self.shared.config.workers;
        let mut waiting = vec![Vec::new(); usize::from(workers)];
        for flow in flows {
            waiting[usize::from(steer(&flow.tuple, workers))].push(flow);
        }
        let mut taken = 0;
        while waiting.iter().any(|flows| !flows.is_empty()) {
            let batches = waiting.iter_mut().map(|flows| {
                let batch = flows.split_off(flows.len().saturating_sub(TAKE_OVER_BATCH));
                let snapshot = Arc::clone(snapshot);
                move |done| Command::TakeOver(snapshot, batch, done)
            });
            self.ask_all(batches, |by_worker| {
                taken += by_worker;
                Ok(())
            })?;
        }
        Ok(taken)
    }

    /// Gives one port to each worker, in order; returns when all of them serve it.
    ///
    /// # Errors
    /// When a worker doesn't take it; the ones before it may have.
    pub fn add_link(&self, ports: Vec<Port>) -> Result<(), LinkError> {
        self.add_links(vec![ports])
    }

    /// The same for many links, all of which a worker takes at once.
    ///
    /// # Errors
    /// When a worker doesn't take one; it may have taken others.
    pub fn add_links(&self, links: Vec<Vec<Port>>) -> Result<(), LinkError> {
        let mut of_workers: Vec<Vec<Port>> = Vec::new();
        for ports in links {
            for (worker, port) in ports.into_iter().enumerate() {
                of_workers.resize_with(of_workers.len().max(worker + 1), Vec::new);
                of_workers[worker].push(port);
            }
        }
        let commands =
            of_workers.into_iter().map(|ports| move |done| Command::AddPorts(ports, done));
        self.ask_all(commands, |failed| match failed.into_iter().next() {
            Some((link, error)) => Err(LinkError::Poll(link, error)),
            None => Ok(()),
        })
    }

    /// Takes `link` away from all workers; returns when its sockets are closed and its frames are
    /// free again.
    ///
    /// # Errors
    /// When a worker doesn't answer.
    pub fn remove_link(&self, link: LinkId) -> Result<(), LinkError> {
        let commands =
            (0..self.commands.len()).map(|_| move |done| Command::RemovePort(link, done));
        let mut ports = Vec::new();
        let answered = self.ask_all(commands, |port| {
            ports.extend(port);
            Ok(())
        });
        drop(ports);
        answered
    }

    /// What the ports of all links and workers counted since the start.
    ///
    /// Workers are asked for it between two rounds, so that counting costs the packet path nothing.
    ///
    /// # Errors
    /// When a worker doesn't answer.
    pub fn port_statistics(&self) -> Result<XskStatistics, LinkError> {
        let commands = (0..self.commands.len()).map(|_| Command::PortStatistics);
        let mut sum = XskStatistics::default();
        self.ask_all(commands, |worker| {
            sum += worker;
            Ok(())
        })?;
        Ok(sum)
    }

    /// What all workers' ports counted for each link that is served, and what its share refused,
    /// since it was added; in the order of links.
    ///
    /// # Errors
    /// When a worker doesn't answer.
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
                        sum.refused += of_link.refused;
                    })
                    .or_insert(of_link);
            }
            Ok(())
        })?;
        Ok(links.into_values().collect())
    }

    /// Gives a command to each worker, in order, and takes all answers.
    fn ask_all<T, F>(
        &self,
        commands: impl Iterator<Item = F>,
        mut take: impl FnMut(T) -> Result<(), LinkError>,
    ) -> Result<(), LinkError>
    where
        F: FnOnce(channel::Sender<T>) -> Command,
    {
        let (done, answers) = channel::unbounded();
        let mut asked = 0;
        for (index, command) in commands.enumerate() {
            let queue = self.commands.get(index).ok_or(LinkError::Unresponsive(index))?;
            queue.push(command(done.clone())).map_err(|_| LinkError::Unresponsive(index))?;
            self.shared.sleepers[index].wake_if_asleep();
            asked += 1;
        }
        drop(done);
        for index in 0..asked {
            let answer = answers.recv_timeout(ANSWER_MAX);
            take(answer.map_err(|_| LinkError::Unresponsive(index))?)?;
        }
        Ok(())
    }

    /// The first worker whose thread has ended, which it only does by a bug. Its flows get no
    /// packets through any more.
    #[must_use]
    pub fn dead_worker(&self) -> Option<usize> {
        self.threads.iter().position(JoinHandle::is_finished)
    }

    /// Takes all waiting events, each with its worker's number.
    pub fn drain_events(&self, mut take: impl FnMut(u16, Event)) {
        for (worker, queue) in self.shared.events.iter().enumerate() {
            // At most one ring full, so that a busy worker can't keep the caller here.
            for _ in 0..queue.capacity() {
                let Some(event) = queue.pop() else { break };
                take(worker as u16, event);
            }
        }
    }
}

impl Dataplane {
    /// Stops the workers and returns the flows that may go on without them. From here on nothing is
    /// forwarded; sockets close when the dataplane is dropped.
    pub fn stop(&mut self) -> Vec<SavedFlow> {
        self.stop.store(true, Ordering::Release);
        for sleeper in &self.shared.sleepers {
            sleeper.wake_if_asleep();
        }
        let mut flows = Vec::new();
        for thread in self.threads.drain(..) {
            // A worker that panicked has said so on standard error already.
            let Ok(stopped) = thread.join() else { continue };
            flows.extend(stopped.flows);
            self.ports.extend(stopped.ports);
        }
        flows
    }
}

impl Drop for Dataplane {
    /// Stops the workers and closes all sockets.
    fn drop(&mut self) {
        self.stop();
        close_ports(std::mem::take(&mut self.ports));
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
        let mut patience = Patience::default();
        while !self.stop.load(Ordering::Acquire) {
            self.obey();
            let now = self.clock.now();
            let clock = self.clock;
            let packets = self.worker.round_by_time(now, &|| clock.now());
            if self.mode == PollMode::Adaptive {
                let is_over = patience.is_over(now, packets);
                self.worker.stats().looks_long.set(patience.looks_long().into());
                if is_over {
                    self.sleep(&mut events);
                }
            }
        }
        let flows = self.worker.saved_flows(self.clock.now()).collect();
        Stopped { flows, ports: self.worker.take_ports() }
    }

    /// Sleeps until a packet, a command or a timer; not at all if one came just now.
    fn sleep(&mut self, events: &mut Events) {
        let sleeper = &self.shared.sleepers[usize::from(self.index)];
        sleeper.announce_sleep();
        let work = !self.commands.is_empty()
            || self.shared.has_handoffs(self.index)
            || self.stop.load(Ordering::Acquire);
        let timeout = match () {
            () if work => Duration::ZERO,
            () if self.worker.has_unsent() => SLEEP_UNSENT,
            () if self.worker.has_inspected() => SLEEP_INSPECTED,
            () => SLEEP_MAX,
        };
        // An interrupted or failed poll is a short sleep: the next round looks at everything.
        let _ = self.poll.poll(events, Some(timeout));
        sleeper.awake();
        self.worker.stats().sleeps.add(1);
    }

    fn obey(&mut self) {
        while let Some(command) = self.commands.pop() {
            // Nobody waits for the answer any more if the send fails.
            let _heard = match command {
                Command::AddPorts(ports, done) => {
                    let add = |port: Port| Some((port.link(), self.add(port).err()?));
                    let failed = ports.into_iter().filter_map(add).collect();
                    done.send(failed).is_ok()
                }
                Command::RemovePort(link, done) => {
                    done.send(self.worker.take_port(link).map(Box::new)).is_ok()
                }
                Command::TakeOver(snapshot, flows, done) => {
                    let now = self.clock.now();
                    done.send(self.worker.take_over(now, &snapshot, &flows)).is_ok()
                }
                Command::PortStatistics(done) => done.send(self.worker.port_statistics()).is_ok(),
                Command::LinkStatistics(done) => done.send(self.worker.link_statistics()).is_ok(),
            };
        }
    }

    fn add(&mut self, port: Port) -> io::Result<()> {
        if let Some(fd) = port.fd() {
            let token = Token(port.link().index());
            let registry = self.poll.registry();
            // Closing the socket removes it from the epoll set again (epoll(7)).
            registry.register(&mut SourceFd(&fd.as_raw_fd()), token, Interest::READABLE)?;
        }
        self.worker.add_port(port);
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
    fn a_worker_without_packets_sleeps_if_it_may_and_still_answers() {
        let dataplane = without_links(PollMode::Adaptive);
        let begin = Instant::now();
        while sleeps(&dataplane) < 3 {
            dataplane.port_statistics().unwrap();
            assert!(begin.elapsed() < ANSWER_MAX, "it never sleeps");
            thread::yield_now();
        }
    }

    #[test]
    fn a_worker_that_is_to_be_busy_never_sleeps() {
        let dataplane = without_links(PollMode::Busy);
        for _ in 0..100 {
            dataplane.port_statistics().unwrap();
        }
        assert_eq!(sleeps(&dataplane), 0);
    }
}
