//! The agent: everything that happens on the control thread.
//!
//! One task takes one event after another: changes of objects, requests of clients, notifications
//! and answers of the kernel, flow records, signals. It owns the components, each with a state of
//! its own, and passes the effects of an event from one to the other:
//!
//! * [`PolicyPlane`]: objects, compiled tables, what was published;
//! * [`Endpoints`]: pods and what is attached to their links;
//! * [`HostNetwork`]: host link, routes, addresses, tunnels;
//! * [`Observer`]: the workers' events, on their way to the flow thread;
//! * [`Names`]: what DNS names stand for;
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
mod reconcile;
mod restart;
mod retries;
mod rule_totals;
mod server;
mod signals;
mod state;
mod state_files;
mod state_json;
mod undo;
mod waiting;

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures_util::{Stream, StreamExt};
use jiff::Timestamp;
use podgate_api::{ConfigOption, EndpointSpec};
use podgate_dataplane::l7::dns::Denied;
use podgate_dataplane::worker::{Config, Dataplane, PollMode, SharedConfig};
use podgate_hostnet::{Change, Netlink, ROUTE_MTU_MAX, changes};
use podgate_policy::manifest::DIRECTORY_MAX;
use podgate_policy::{NameLimits, Translation};
use podgate_tables::l7::http1::HttpLimits;
use podgate_xdp_redirect::bpffs;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};
use tracing::{error, info, warn};

use self::captures::Captures;
use self::endpoint_log::EndpointLog;
use self::endpoints::{COMPLETED_MAX, Completed, Endpoints, Links, Preparer};
use self::flow_tables::FlowListings;
use self::group_socket::GroupSocket;
use self::health::HealthWatch;
use self::host_network::{HostLink, HostNetwork, Observed};
use self::hubble::Peers;
use self::latency::Latency;
use self::metrics_server::MetricsServer;
use self::names::Names;
use self::observer::{Amount, MORE_EVENTS_AFTER, Observer};
use self::policy_plane::PolicyPlane;
use self::reconcile::Reconciler;
use self::restart::EarlierFlows;
use self::server::Call;
use self::signals::Signals;
use self::state::ChecksumOffload;
use self::state_files::StateFiles;
use self::undo::{Creator, Undo};
use self::waiting::Waiting;
use crate::cli::{DnsDenied, PodChecksums, PolicyStatus, Poll, RunArgs, Seccomp, Services};
use crate::log::LogFilter;
use crate::sources::kube::{Access, Writes};
use crate::sources::manifests::{Manifests, Settings};
use crate::sources::{self, Source, Update};

pub(crate) use self::endpoints::{PIN_PREFIX, netns_threads, restore_offload};
pub(crate) use self::flow_metrics::{Durations, FlowCounts};
pub(crate) use self::host_network::{HOST, XSK};
pub(crate) use self::latency::{BOUNDS_US, LatencyCounts};
pub(crate) use self::names::NameMetrics;
pub(crate) use self::preflight::require_root;
pub(crate) use self::rule_totals::{RuleTotals, SERIES_MAX};
pub(crate) use self::state::StateDir;

/// How often events are taken off the workers' rings.
const DRAIN_PERIOD: Duration = Duration::from_millis(25);

/// How often workers are asked whether they use tables that were just published.
const IN_FORCE_PERIOD: Duration = Duration::from_millis(1);

/// Requests of clients that may wait.
const CALLS_MAX: usize = 16;

/// The components, and what belongs to none of them.
struct Agent {
    plane: PolicyPlane,
    endpoints: Endpoints,
    host: HostNetwork,
    observer: Observer,
    names: Names,
    peers: Peers,
    reconciler: Reconciler,
    /// Clients that wait for an epoch.
    waiting: Waiting,
    latency: Latency,
    earlier_flows: EarlierFlows,
    health: HealthWatch,
    captures: Captures,
    flow_listings: FlowListings,
    endpoint_log: EndpointLog,
    /// What the command line, the environment and the file of options say.
    options: Vec<ConfigOption>,
    started: std::time::Instant,
    /// The same, as seconds since the epoch of Unix.
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

/// Runs the agent until a signal.
///
/// # Errors
/// When it can't start: one line says what to do.
pub(crate) fn run(args: &RunArgs, log: &LogFilter) -> Result<()> {
    preflight::check(args)?;
    // Needs a capability that is dropped next, before there are other threads.
    limits::raise(args)?;
    let group = args.socket_group.as_deref();
    let group = group.map(|group| GroupSocket::bind(&args.read_socket, group)).transpose()?;
    confine::drop_capabilities()?;
    // Before anything is changed that a signal must not leave half done.
    let signals = Signals::listen()?;
    free_memory_in_background();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let end = runtime.block_on(start_and_serve(args, group.as_ref(), signals, log));
    // Threads that hang must not delay the end.
    runtime.shutdown_background();
    end
}

async fn start_and_serve(
    args: &RunArgs,
    group: Option<&GroupSocket>,
    signals: Signals,
    log: &LogFilter,
) -> Result<()> {
    let mut undo = Undo::default();
    let (mut agent, inputs) = match Agent::start(args, group, &mut undo).await {
        Ok(started) => started,
        Err(error) => {
            undo.run().await;
            return Err(error);
        }
    };
    info!(socket = %agent.files.socket().display(), "podgate runs");
    let end = agent.serve(inputs, signals, log).await;
    agent.files.stop_serving().await;
    if end.is_ok() {
        agent.stop();
    }
    end
}

/// Lets the allocator give unused memory back by threads of its own: those that freed it may sleep,
/// or be gone.
fn free_memory_in_background() {
    // Fails where `podgate` is a library in a program with another allocator.
    if let Err(error) = tikv_jemalloc_ctl::background_thread::write(true) {
        warn!("memory is given back late: {error}");
    }
}

/// Opens the state directory, and the bpffs that programs are pinned in.
///
/// # Errors
/// When one of them can't be used.
fn open_state(args: &RunArgs, undo: &mut Undo) -> Result<StateDir> {
    let state = StateDir::open(&args.state_dir, args.bpffs.as_deref())?;
    undo.record_state(&state);
    let mounted_now = match &args.bpffs {
        // A mount of the agent's own would end with its container, and policy with it.
        Some(dir) => bpffs::require(dir).map(|()| false)?,
        None => bpffs::ensure_mounted(&state.bpf())?,
    };
    undo.record_bpf(state.bpf(), Creator::unless(!mounted_now));
    if args.bpffs.is_none() {
        preflight::warn_of_private_mounts();
    }
    Ok(state)
}

/// Opens the link to the node, which is made unless the agent before left it.
///
/// # Errors
/// When it can't be made, or the workers can't use it.
async fn open_host_link(netlink: &Netlink, links: &mut Links, undo: &mut Undo) -> Result<HostLink> {
    undo.record_host_link(Creator::unless(host_network::find(netlink).await?.is_some()));
    let host_link = HostLink::ensure(netlink).await?;
    links.open_host(&host_link)?;
    Ok(host_link)
}

impl Agent {
    /// Everything up to the first request; what it changes on the node is noted in `undo`.
    async fn start(
        args: &RunArgs,
        group: Option<&GroupSocket>,
        undo: &mut Undo,
    ) -> Result<(Self, Inputs<impl Stream<Item = Change> + Unpin + use<>>)> {
        // First, since nothing has been changed yet.
        let listed = args
            .endpoint_file
            .as_deref()
            .map(endpoints_file::read)
            .transpose()?
            .unwrap_or_default();
        let (update_sender, updates) = mpsc::channel(sources::UPDATES_MAX);
        let (call_sender, calls) = mpsc::channel(CALLS_MAX);
        let (completed_sender, completed) = mpsc::channel(COMPLETED_MAX);
        let state = open_state(args, undo)?;
        let socket = state_files::control_socket(args.control_socket.as_deref(), &state)?;
        let source = open_source(args, update_sender).await?;
        let netlink = Netlink::connect_on_thread()?;
        let mut links = start_workers(args, &state)?;
        let host_link = open_host_link(&netlink, &mut links, undo).await?;
        let preparer =
            Preparer::new(netlink.clone(), args.pod_mtu, checksums(args.pod_checksums, &links));
        let (host, observed) = HostNetwork::start(netlink.clone(), host_link).await?;
        let (flow_thread, peers, hubble_socket) =
            hubble::start(args, &socket, links.dataplane().clock())?;
        let translation = match args.services {
            Services::On => Translation::On,
            Services::Off => Translation::Off,
        };
        let metrics = args.metrics_listen;
        let metrics = metrics.map(|address| MetricsServer::start(address, call_sender.clone()));
        let health = HealthWatch::new(hubble::certificate(args), metrics.transpose()?);
        let mut agent = Self {
            plane: PolicyPlane::new(source, translation),
            endpoints: Endpoints::new(links, preparer, completed_sender),
            host,
            observer: Observer::new(flow_thread),
            peers,
            names: Names::load(
                &state,
                NameLimits { ttl_min_s: args.dns_min_ttl, ..NameLimits::default() },
            ),
            reconciler: Reconciler::new(),
            waiting: Waiting::default(),
            latency: Latency::default(),
            earlier_flows: EarlierFlows::read(&state),
            health,
            captures: Captures::default(),
            flow_listings: FlowListings::default(),
            endpoint_log: EndpointLog::default(),
            options: args.options.clone(),
            started: std::time::Instant::now(),
            started_s: u64::try_from(Timestamp::now().as_second()).unwrap_or_default(),
            files: StateFiles::new(state, socket, call_sender, hubble_socket),
        };
        agent.names.pass_changes(&mut agent.plane);
        // From before the first read, so that no change is missed.
        let changes = changes()?;
        let mut inputs = Inputs { updates, calls, completed, observed, changes };
        if let Err(error) =
            agent.complete_start(args, group, listed, &netlink, &mut inputs.observed).await
        {
            agent.files.stop_serving().await;
            agent.restore_offloads().await;
            return Err(error);
        }
        // Only now, so that a start that fails leaves the list as it was.
        agent.save();
        Ok((agent, inputs))
    }

    /// The part of the start that changes pods.
    async fn complete_start(
        &mut self,
        args: &RunArgs,
        group: Option<&GroupSocket>,
        listed: Vec<EndpointSpec>,
        netlink: &Netlink,
        observed: &mut mpsc::Receiver<Observed>,
    ) -> Result<()> {
        self.attach_at_start(listed, netlink).await?;
        self.observe_first(observed).await;
        if let Some(reason) = self.host.addresses_unread() {
            bail!("the node's addresses can't be read: {reason}");
        }
        self.files.serve_clients().await?;
        if let Some(group) = group {
            self.files.serve_group(group)?;
        }
        // Last, because it forbids what undoing a start needs.
        confine::filter_system_calls(args.seccomp)
    }

    /// Restores the TX checksum offloads that this start turned off.
    async fn restore_offloads(&self) {
        let remembered = self.files.state().load().endpoints;
        self.endpoints.restore_offloads(&remembered).await;
    }

    /// Waits for the first observation of the node's network.
    async fn observe_first(&mut self, observations: &mut mpsc::Receiver<Observed>) {
        self.host.observe(self.first_observation());
        if let Some(observed) = observations.recv().await {
            self.on_observed(observed);
        }
    }

    /// Attaches the endpoints of the agent before, then the `listed` ones. Other links that were
    /// cut off stay so.
    ///
    /// # Errors
    /// When a listed endpoint can't be attached. An endpoint of the agent before that can't be is
    /// gone.
    async fn attach_at_start(
        &mut self,
        listed: Vec<EndpointSpec>,
        netlink: &Netlink,
    ) -> Result<()> {
        let (listed_before, remembered): (Vec<_>, Vec<_>) = self
            .files
            .load()
            .into_iter()
            .partition(|before| listed.iter().any(|named| named.link == before.spec.link));
        let offloads: BTreeMap<_, _> =
            listed_before.into_iter().map(|before| (before.spec.link, before.offload)).collect();
        let (found, own) = (netlink.links().await?, self.host.own());
        self.endpoints.attach_remembered(remembered, found, own).await?;
        for spec in listed {
            let context = format!("the listed endpoint {} on link {}", spec.pod, spec.link);
            let offload = offloads.get(&spec.link).copied().unwrap_or(ChecksumOffload::Untouched);
            self.endpoints.attach_now(spec, own, offload).await.context(context)?;
        }
        self.find_unknown_pods(netlink).await;
        Ok(())
    }

    async fn serve(
        &mut self,
        mut inputs: Inputs<impl Stream<Item = Change> + Unpin>,
        mut signals: Signals,
        log: &LogFilter,
    ) -> Result<()> {
        let mut drain = interval(DRAIN_PERIOD);
        drain.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut many_events = false;
        loop {
            let publication = self.plane.due();
            let reconciliation = self.reconciler.due();
            self.check_in_force();
            let dataplane = self.endpoints.links().dataplane();
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
                () = sleep(MORE_EVENTS_AFTER), if many_events => {
                    many_events = self.drain_events(Amount::AFew) | self.pass_captured();
                    self.answer_flow_listings();
                }
                _ = drain.tick() => {
                    self.periodic_work().await?;
                    many_events = self.drain_events(Amount::All) | self.pass_captured();
                }
            }
        }
    }

    /// What is done every [`DRAIN_PERIOD`].
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
        self.answer_waiting();
        self.answer_flow_listings();
        self.log_endpoints();
        self.maintain_names();
        self.request_periodic_reads();
        self.files.check(&self.endpoints).await;
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

    /// Handles SIGHUP: objects are read again, and the log filter.
    fn reload(&mut self, log: &LogFilter) {
        match log.reload() {
            Ok(filter) => info!("SIGHUP: reading objects again; log filter: {filter}"),
            Err(error) => error!("SIGHUP: the log filter stays as it was: {error:#}"),
        }
        self.plane.reload();
    }

    /// Stops the workers, and writes their flows for the next agent.
    fn stop(&mut self) {
        let flows = self.endpoints.links_mut().stop();
        self.earlier_flows.save(flows, &self.endpoints, self.files.state());
        self.names.save();
    }

    /// Writes the endpoint list.
    fn save(&mut self) {
        self.files.save(&self.endpoints);
    }

    /// Logs the workers' events. Returns whether many come.
    fn drain_events(&mut self, amount: Amount) -> bool {
        self.observer.drain(self.endpoints.links().dataplane(), self.plane.epochs(), amount)
    }

    /// Compiles what changed and publishes it, unless nothing did.
    fn publish(&mut self) {
        self.plane.set_assigned_addresses(self.endpoints.iter());
        let Some(begun) = self.plane.begin() else { return };
        let (routes, not_ready) = policy_plane::route_table(
            self.endpoints.iter(),
            self.plane.store(),
            self.host.next_hop(),
        );
        let routes = Arc::new(self.host.complete(routes));
        let Some(snapshot) = self.plane.compile(&routes, not_ready) else {
            self.endpoints.set_pods(&routes);
            self.latency.without_effect();
            return self.plane.end(begun);
        };
        let dataplane = self.endpoints.links().dataplane();
        self.names.policies_changed();
        self.earlier_flows.take_over(&snapshot, &self.endpoints, dataplane);
        dataplane.publish(snapshot);
        self.endpoints.set_pods(&routes);
        self.plane.end(begun);
        self.latency.published(self.plane.epoch());
        let (epoch, policies) = (self.plane.epoch().0, self.policies_in_force());
        self.observer.agent_events().policy_updated(Timestamp::now(), epoch, policies);
        self.peers.update(self.plane.store());
        self.host.set_routes(self.addresses_of_ready_endpoints());
    }

    /// Publishes what is due, so that objects and tables are of one time.
    fn catch_up(&mut self) {
        if self.plane.due().is_some() {
            self.publish();
        }
    }

    /// Addresses of pods that are served, with the MTUs of the routes to them, bytes.
    fn addresses_of_ready_endpoints(&self) -> BTreeMap<IpAddr, u32> {
        let mut addresses = BTreeMap::new();
        for (link, endpoint) in self.endpoints.iter() {
            if self.plane.not_ready(link).is_some() {
                continue;
            }
            if let Ok(route) = endpoint.route(self.plane.store()) {
                let mtu = route.next_hop.mtu.min(ROUTE_MTU_MAX);
                addresses.extend(route.addresses.iter().map(|address| (address.ip(), mtu)));
            }
        }
        addresses
    }
}

/// Waits until `due`, if there is such a time.
async fn at(due: Option<Instant>) {
    if let Some(due) = due {
        sleep_until(due).await;
    }
}

async fn open_source(args: &RunArgs, updates: mpsc::Sender<Update>) -> Result<Source> {
    let access = match (&args.source.manifests, &args.source.kubeconfig) {
        (Some(dir), _) => {
            let settle = args.manifests_settle.0;
            let settings = Settings { settle, bytes_max: DIRECTORY_MAX };
            let manifests = Manifests::follow(dir, &args.state_dir, settings, updates)?;
            return Ok(Source::Manifests(manifests));
        }
        (None, Some(file)) => {
            let may_run = args.seccomp != Seccomp::Enforce;
            Access::Kubeconfig { file: file.clone(), may_run }
        }
        (None, None) => Access::InCluster,
    };
    let node = hubble::node_name(&args.hubble)?;
    let writes = match args.policy_status {
        PolicyStatus::On => Writes::On,
        PolicyStatus::Off => Writes::Off,
    };
    Ok(Source::Cluster(sources::kube::watch(&access, &node, writes, updates).await?))
}

fn start_workers(args: &RunArgs, state: &StateDir) -> Result<Links> {
    let config = Config {
        shared: SharedConfig {
            workers: args.workers,
            flows_per_worker: args.flows,
            inspected_per_worker: args.inspected.min(args.flows),
            dns_denied: match args.dns_denied {
                DnsDenied::Refused => Denied::Refused,
                DnsDenied::Nxdomain => Denied::NameError,
            },
            http: HttpLimits {
                head: args.http_max_head,
                fields: args.http_max_headers,
                chunk_line: args.http_max_chunk_line,
                requests: args.http_max_requests,
            },
            ..SharedConfig::default()
        },
        frames: args.frames,
        poll: match args.poll {
            Poll::Busy => PollMode::Busy,
            Poll::Adaptive => PollMode::Adaptive,
        },
    };
    let dataplane = Dataplane::start(config).context("can't start the workers")?;
    Links::new(dataplane, args.workers, args.max_endpoints, state.bpf())
}

/// Pods may leave checksums to their devices only where the kernel completes them for AF_XDP.
fn checksums(wanted: PodChecksums, links: &Links) -> PodChecksums {
    match wanted {
        PodChecksums::Leave if links.dataplane().umem().has_tx_metadata() => PodChecksums::Leave,
        _ => PodChecksums::Whole,
    }
}
