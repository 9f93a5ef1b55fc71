//! The agent: everything that happens on the control thread. Here are its components and its event
//! loop; `start.rs` has the start, `publish.rs` the publication of tables.
//!
//! One task takes one event after another: changes of objects, requests of clients, notifications
//! and answers of the kernel, flow records, signals. It owns the components, each with a state of
//! its own, and passes the effects of an event from one to the other:
//!
//! * [`PolicyPlane`]: objects, compiled tables, what was published;
//! * [`Endpoints`]: pods and what is attached to their links;
//! * [`HostNetwork`]: host link, routes, addresses, tunnels;
//! * [`Observer`]: events of the workers and the BPF programs, on their way to the flow thread;
//! * [`DnsNames`]: the addresses of DNS names;
//! * [`StateFiles`]: endpoint list, pins, sockets.
//!
//! Nothing here waits for the kernel's network stack or enters another network namespace: tasks and
//! threads do, and their results are events. Workers run on threads of their own and read published
//! snapshots.

mod answer;
mod captures;
mod confine;
mod debounce;
mod endpoint_log;
mod endpoint_requests;
mod endpoints;
mod endpoints_file;
mod epochs;
mod flow_log;
mod flow_metrics;
mod flow_names;
mod flow_requests;
mod flow_tables;
mod flow_thread;
mod flows_file;
mod group_socket;
mod health;
mod host_network;
mod hubble;
mod latency;
mod limits;
mod metrics_server;
mod names;
mod names_file;
mod observer;
mod policy_plane;
mod preflight;
mod publish;
mod reconcile;
mod restart;
mod retries;
mod rule_totals;
mod server;
mod signals;
mod socket_path;
mod start;
mod state;
mod state_files;
mod state_json;
mod undo;
mod waiting;

use std::future::poll_fn;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use futures_util::{Stream, StreamExt};
use podgate_api::ConfigOption;
use podgate_hostnet::Change;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{error, info};

use self::captures::Captures;
use self::endpoint_log::EndpointLog;
use self::endpoints::{Completed, Endpoints};
use self::flow_tables::FlowListings;
use self::health::HealthWatch;
use self::host_network::{HostNetwork, Observed};
use self::hubble::Peers;
use self::latency::Latency;
use self::names::DnsNames;
use self::observer::{Amount, Drained, MORE_EVENTS_AFTER, Observer};
use self::policy_plane::PolicyPlane;
use self::reconcile::Reconciler;
use self::restart::EarlierFlows;
use self::server::Call;
use self::signals::Signals;
use self::state_files::StateFiles;
use self::waiting::EpochWaiters;
use crate::log::LogFilter;
use crate::sources::Update;

pub(crate) use self::endpoints::{PIN_PREFIX, max_endpoints_for, netns_threads, restore_offload};
pub(crate) use self::flow_metrics::{Durations, FlowCounts};
pub(crate) use self::host_network::{HOST, XSK};
pub(crate) use self::latency::{BOUNDS_US, LatencyCounts};
pub(crate) use self::names::NameMetrics;
pub(crate) use self::preflight::require_root;
pub(crate) use self::rule_totals::{RuleTotals, SERIES_MAX};
pub(crate) use self::start::run;
pub(crate) use self::state::{StateDir, StateError, lock_pins};

/// How often events are taken off the workers' rings, and results that clients wait for are
/// checked.
///
/// A ring has room for 16,384 events ([`SharedConfig`](podgate_dataplane::worker::SharedConfig)):
/// 655,000 a second from one worker. Half of that if all are of one link, which leaves the rest to
/// others. While nothing happens, the first event begins this period, so a sudden flood finds as
/// much room as at any other time.
const DRAIN_PERIOD: Duration = Duration::from_millis(25);

/// Drains that find nothing, after which the next one waits for an event.
const EMPTY_DRAINS: u32 = 8;

/// How often there is periodic work while nothing happens.
const IDLE_PERIOD: Duration = Duration::from_millis(250);

/// How often workers are asked whether they use tables that were just published.
const IN_FORCE_PERIOD: Duration = Duration::from_millis(1);

/// The components, and what belongs to none of them.
struct Agent {
    plane: PolicyPlane,
    endpoints: Endpoints,
    host: HostNetwork,
    observer: Observer,
    names: DnsNames,
    peers: Peers,
    reconciler: Reconciler,
    /// Clients that wait for an epoch.
    waiting: EpochWaiters,
    latency: Latency,
    earlier_flows: EarlierFlows,
    health: HealthWatch,
    captures: Captures,
    flow_listings: FlowListings,
    endpoint_log: EndpointLog,
    /// The options of the command line, the environment and the configuration file.
    options: Vec<ConfigOption>,
    started: std::time::Instant,
    /// The same, as seconds since the Unix epoch.
    started_s: u64,
    /// Dropped last, when the workers have stopped: it has the state directory's lock.
    files: StateFiles,
}

/// What the agent receives.
struct Inputs<C> {
    updates: mpsc::Receiver<Update>,
    calls: mpsc::Receiver<Call>,
    completed: mpsc::Receiver<Completed>,
    observed: mpsc::Receiver<Observed>,
    changes: C,
}

impl Agent {
    async fn serve(
        &mut self,
        mut inputs: Inputs<impl Stream<Item = Change> + Unpin>,
        mut signals: Signals,
        log: &LogFilter,
    ) -> Result<()> {
        let (mut last_drain, mut empty_drains) = (Instant::now(), 0);
        let mut many_events = false;
        loop {
            let publication = self.plane.due();
            let reconciliation = self.reconciler.due();
            self.check_in_force();
            let is_idle = empty_drains >= EMPTY_DRAINS && !self.is_waited_for();
            let drain_due = last_drain + if is_idle { IDLE_PERIOD } else { DRAIN_PERIOD };
            let links = self.endpoints.links();
            let dataplane = links.dataplane();
            tokio::select! {
                signal = &mut signals.stop => {
                    let signal = signal.map_or("a signal", |signal| signal.as_str());
                    let pods = match self.files.pins_outlast_agent() {
                        true => "pods stay cut off until podgate runs again",
                        false => "pods may be without policy until podgate runs again",
                    };
                    info!("{signal}: stopping; {pods}");
                    return Ok(());
                }
                Some(()) = signals.reload.recv() => self.reload(log),
                () = poll_fn(|cx| dataplane.poll_answers(cx)) => self.admit_answers(),
                () = at(publication), if publication.is_some() => self.publish(),
                () = at(reconciliation), if reconciliation.is_some() => self.reconcile(),
                Some(update) = inputs.updates.recv() => self.on_update(update),
                Some(call) = inputs.calls.recv() => self.answer(call),
                Some(completed) = inputs.completed.recv() => self.on_completed(completed),
                Some(observed) = inputs.observed.recv() => self.on_observed(observed),
                Some(change) = inputs.changes.next() => self.on_change(change),
                () = sleep(IN_FORCE_PERIOD), if self.latency.is_pending() => {}
                () = poll_fn(|cx| links.poll_events(cx)), if is_idle => {
                    empty_drains = 0;
                    last_drain = Instant::now();
                    many_events = self.drain_events(Amount::All) == Drained::Many;
                }
                () = sleep(MORE_EVENTS_AFTER), if many_events => {
                    let drained = self.drain_events(Amount::Batch);
                    many_events = self.pass_captured() | (drained == Drained::Many);
                    self.answer_flow_listings();
                }
                () = sleep_until(drain_due) => {
                    self.periodic_work().await?;
                    let drained = self.drain_events(Amount::All);
                    empty_drains = match drained {
                        Drained::Nothing => empty_drains.saturating_add(1),
                        Drained::Few | Drained::Many => 0,
                    };
                    many_events = self.pass_captured() | (drained == Drained::Many);
                    last_drain = Instant::now();
                }
            }
        }
    }

    /// Whether there is something to check every [`DRAIN_PERIOD`].
    fn is_waited_for(&self) -> bool {
        !self.waiting.is_empty()
            || self.flow_listings.are_waited_for()
            || self.captures.is_active()
            || self.epoch_in_force() != self.plane.epoch()
    }

    /// What is done every [`DRAIN_PERIOD`], and every [`IDLE_PERIOD`] while nothing happens.
    ///
    /// # Errors
    /// When a worker has panicked.
    async fn periodic_work(&mut self) -> Result<()> {
        if let Some(worker) = self.endpoints.links().dataplane().panicked_worker() {
            bail!(
                "worker {worker} panicked (see the log above); restart podgate, until then its pods \
                 stay cut off"
            );
        }
        self.observer.check()?;
        let dataplane = self.endpoints.links().dataplane();
        self.health.check(&mut self.plane, dataplane, Instant::now());
        self.plane.forget_former_services(Instant::now());
        self.answer_waiting();
        self.answer_flow_listings();
        self.log_endpoints();
        self.maintain_names();
        self.request_periodic_reads();
        self.files.check(&mut self.endpoints).await;
        Ok(())
    }

    fn on_update(&mut self, update: Update) {
        // Before everything was read once, changes wait for the rest.
        if self.plane.epoch().0 > 0
            && let Some(at) = update.changed_at()
        {
            self.latency.arrived(at);
        }
        self.plane.update(update);
    }

    /// Measures changes that all workers use by now, and has the statuses of their policies
    /// written.
    fn check_in_force(&mut self) {
        let in_force = self.epoch_in_force();
        if self.latency.is_pending() {
            self.latency.in_force(in_force, Instant::now());
        }
        self.plane.report(in_force);
    }

    /// Handles SIGHUP: manifests or the kubeconfig are read again, and the log filter.
    fn reload(&mut self, log: &LogFilter) {
        match log.reload() {
            Ok(filter) => info!("SIGHUP: reading the input again; log filter: {filter}"),
            Err(error) => error!("SIGHUP: the log filter stays as it was: {error:#}"),
        }
        self.plane.reload();
    }

    /// Stops the workers, and writes their flows for the next agent, with what else is not written
    /// yet.
    ///
    /// # Errors
    /// When something can't be written: one line that names each file.
    fn stop(&mut self) -> Result<()> {
        let flows = self.endpoints.links_mut().stop();
        let written = [
            self.earlier_flows.save(flows, &self.endpoints, self.files.state()),
            self.names.save(),
            self.files.save_at_end(&self.endpoints),
        ];
        let failed: Vec<_> = written.into_iter().filter_map(Result::err).collect();
        ensure!(failed.is_empty(), "not all state was saved: {}", failed.join("; "));
        Ok(())
    }

    /// Writes the endpoint list.
    fn save(&mut self) {
        self.files.save(&self.endpoints);
    }

    /// Logs events of the workers and of the BPF programs. Returns how many come.
    fn drain_events(&mut self, amount: Amount) -> Drained {
        self.observer.drain(self.endpoints.links_mut(), self.plane.epochs(), amount)
    }
}

/// Waits until `due`, if there is such a time.
async fn at(due: Option<Instant>) {
    if let Some(due) = due {
        sleep_until(due).await;
    }
}
