//! The flow thread, which owns the log of flow records and makes records, and the threads that
//! serve Hubble's API from that log: one for the unix socket, one for the TCP port.
//!
//! No other thread waits for the flow thread: events that it has no time for are lost, and counted.
//! It waits for the others only while they copy records from the log, and not while they filter
//! them as clients ask for, which may take any time.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use podgate_api::FlowItem;
use podgate_dataplane::worker::Clock;
use podgate_hubble::{
    AgentEvents, Config, Counts, FlowSource, Listeners, Observed, serve_tcp, serve_unix,
};
use podgate_policy::Compiled;
use podgate_policy::observe::FlowRecord;
use podgate_tables::event::Event;
use podgate_tables::ids::Epoch;
use tokio::sync::{broadcast, mpsc, watch};
use tracing::error;

use super::flow_log::{FlowLog, Logged, MakeRecord};
use super::flow_metrics::FlowCounts;
use super::flow_names::{FlowNames, Learned};
use super::flow_requests::FlowRequests;
use super::server::{Reply, ReplySender};

/// Messages on their way to the thread. With 2,048 events of some hundred bytes each they take some
/// megabytes.
const MESSAGES_MAX: usize = 8;

/// Most epochs whose tables are stored. Epochs share what did not change between them.
const EPOCHS_MAX: usize = 256;

/// Which flow records a client gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum FlowRange {
    /// The last ones.
    Past,
    /// The last ones, and new ones as they come.
    PastAndNew,
}

/// What the thread does.
pub(super) enum Message {
    /// Log events.
    Events(Batch),
    /// Answer a client of the control socket.
    Read {
        /// Most past records.
        count: usize,
        range: FlowRange,
        /// Where the answer goes.
        reply: ReplySender,
    },
}

/// Events of one drain.
pub(super) struct Batch {
    /// By time.
    pub(super) events: Vec<Event>,
    /// The tables of their epochs.
    pub(super) tables: Vec<(Epoch, Compiled)>,
    /// Events that were lost since the last batch.
    pub(super) lost: u64,
    /// What DNS answers said before the events.
    pub(super) learned: Vec<Learned>,
}

/// The threads. Dropping this ends them.
pub(super) struct FlowThread {
    to: Option<mpsc::Sender<Message>>,
    thread: Option<JoinHandle<()>>,
    /// The threads that serve Hubble's API end when this is dropped.
    serving: Option<watch::Sender<()>>,
    hubble: Vec<JoinHandle<()>>,
    agent_events: Arc<AgentEvents>,
    counts: Arc<Mutex<FlowCounts>>,
}

impl Drop for FlowThread {
    fn drop(&mut self) {
        // Without senders they end.
        self.to = None;
        self.serving = None;
        for thread in self.thread.take().into_iter().chain(self.hubble.drain(..)) {
            let name = thread.thread().name().unwrap_or_default().to_owned();
            if thread.join().is_err() {
                error!("the thread {name} panicked");
            }
        }
    }
}

impl FlowThread {
    /// Starts the threads with a log of at most `capacity` records; `listeners` are served.
    ///
    /// # Errors
    /// When one can't be started.
    pub(super) fn start(
        capacity: usize,
        clock: Clock,
        listeners: Listeners,
        config: Config,
    ) -> Result<Self> {
        let (to, messages) = mpsc::channel(MESSAGES_MAX);
        let agent_events = Arc::clone(&config.agent_events);
        let counts = Arc::new(Mutex::new(FlowCounts::default()));
        let log = Log::new(capacity, clock, Arc::clone(&counts));
        let log = Arc::new(SharedLog(Mutex::new(log)));
        let (serving, end) = watch::channel(());
        let (listeners, config) = (Arc::new(listeners), Arc::new(config));
        let mut hubble = Vec::new();
        {
            let (listeners, config) = (Arc::clone(&listeners), Arc::clone(&config));
            let log = Arc::clone(&log);
            let served = async move { serve_unix(&listeners, &config, log).await };
            hubble.push(spawn("pg-hubble", until(end.clone(), served))?);
        }
        if listeners.tcp_address().is_some() {
            let log = Arc::clone(&log);
            let served = async move { serve_tcp(&listeners, &config, log).await };
            hubble.push(spawn("pg-hubble-tcp", until(end, served))?);
        }
        let thread = Some(spawn("pg-flows", async move { take_messages(messages, &log).await })?);
        Ok(Self { to: Some(to), thread, serving: Some(serving), hubble, agent_events, counts })
    }

    /// Sends a message; returns it if there is no room.
    pub(super) fn send(&self, message: Message) -> Result<(), Message> {
        match &self.to {
            Some(to) => to.try_send(message).map_err(mpsc::error::TrySendError::into_inner),
            None => Err(message),
        }
    }

    /// Where events of the agent go.
    pub(super) fn agent_events(&self) -> &Arc<AgentEvents> {
        &self.agent_events
    }

    /// What the thread has counted.
    pub(super) fn counts(&self) -> FlowCounts {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Fails when the thread has ended.
    pub(super) fn check(&self) -> Result<()> {
        let ended = self.thread.as_ref().is_none_or(JoinHandle::is_finished);
        ensure!(
            !ended,
            "the thread of flow records has ended (see the log above); restart podgate"
        );
        Ok(())
    }
}

/// Serves clients until the sender of `end` is gone.
async fn until(mut end: watch::Receiver<()>, served: impl Future<Output = io::Result<()>>) {
    tokio::select! {
        ended = served => if let Err(error) = ended {
            error!("Hubble's API is not served any more: {error}");
        },
        _ = end.changed() => {}
    }
}

/// Runs `work` on a thread of its own.
fn spawn(name: &str, work: impl Future<Output = ()> + Send + 'static) -> Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let run = move || runtime.block_on(work);
    let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(run);
    spawned.with_context(|| format!("can't start the thread {name}"))
}

/// Carries messages out until there are no more senders.
async fn take_messages(mut messages: mpsc::Receiver<Message>, log: &SharedLog) {
    while let Some(message) = messages.recv().await {
        match message {
            Message::Events(batch) => log.lock().push(batch),
            Message::Read { count, range, reply } => {
                let mut log = log.lock();
                let past = log.last(count);
                let live = (range == FlowRange::PastAndNew).then(|| log.log.follow());
                // Fails if the client has left.
                let _ = reply.send(Ok(Reply::Flows { past, live }));
            }
        }
    }
}

/// The log with the tables that its events are of.
struct Log {
    log: FlowLog,
    records: Records,
    /// Requests without their responses.
    requests: FlowRequests,
    names: FlowNames,
    /// Events since the start.
    seen: u64,
    /// Locked once for each batch.
    counts: Arc<Mutex<FlowCounts>>,
}

/// Makes records by the tables of their epochs.
struct Records {
    clock: Clock,
    tables: BTreeMap<Epoch, Compiled>,
}

impl MakeRecord for Records {
    fn make(&self, Logged { event, request, names }: &Logged) -> (Timestamp, FlowItem) {
        let time = Timestamp::try_from(self.clock.wall(event.time)).unwrap_or_default();
        let item = match self.tables.get(&event.epoch) {
            Some(tables) => {
                let mut record = FlowRecord::new(event, time, tables);
                if let Some(request) = request {
                    record.set_request(request);
                }
                if let Some(names) = names {
                    record.set_names(names);
                }
                FlowItem::Flow(Box::new(record))
            }
            None => FlowItem::Lost(1),
        };
        (time, item)
    }
}

impl Log {
    fn new(capacity: usize, clock: Clock, counts: Arc<Mutex<FlowCounts>>) -> Self {
        let records = Records { clock, tables: BTreeMap::new() };
        let (requests, names) = Default::default();
        Self { log: FlowLog::new(capacity), records, requests, names, seen: 0, counts }
    }

    fn push(&mut self, batch: Batch) {
        self.records.clock = self.records.clock.after_steps();
        for (epoch, compiled) in batch.tables {
            self.records.tables.insert(epoch, compiled);
        }
        self.seen += batch.events.len() as u64;
        let now = Instant::now();
        batch.learned.iter().for_each(|learned| self.names.learn(learned, now));
        let logged = batch.events.into_iter().map(|event| Logged {
            request: self.requests.pair(&event),
            names: self.names.take(&event, self.records.tables.get(&event.epoch), now),
            event,
        });
        let logged: Vec<_> = logged.collect();
        self.count(&logged);
        for logged in logged {
            self.log.push_event(logged, &self.records);
        }
        if batch.lost > 0 {
            self.log.push_lost(batch.lost, Timestamp::now());
        }
        while self.records.tables.len() > EPOCHS_MAX
            && let Some(oldest) = self.records.tables.keys().next().copied()
        {
            self.log.make_records_of(oldest, &self.records);
            self.records.tables.remove(&oldest);
        }
    }

    /// Counts a batch; readers of the counters wait for no more than this.
    fn count(&self, batch: &[Logged]) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        for logged in batch {
            counts.count(logged, self.records.tables.get(&logged.event.epoch));
        }
    }

    fn last(&mut self, count: usize) -> Vec<Arc<Observed>> {
        self.records.clock = self.records.clock.after_steps();
        self.log.last(count, &self.records)
    }
}

/// The log, for all of these threads.
struct SharedLog(Mutex<Log>);

impl SharedLog {
    fn lock(&self) -> MutexGuard<'_, Log> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FlowSource for SharedLog {
    fn past(&self) -> Vec<Arc<Observed>> {
        self.lock().last(usize::MAX)
    }

    fn live(&self) -> broadcast::Receiver<Arc<Observed>> {
        self.lock().log.follow()
    }

    fn follow(&self) -> (Vec<Arc<Observed>>, broadcast::Receiver<Arc<Observed>>) {
        let mut log = self.lock();
        (log.last(usize::MAX), log.log.follow())
    }

    fn counts(&self) -> Counts {
        let log = self.lock();
        Counts { stored: log.log.len() as u64, capacity: log.log.capacity() as u64, seen: log.seen }
    }
}
