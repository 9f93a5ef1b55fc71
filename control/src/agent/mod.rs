//! The agent: everything that happens on the control thread.
//!
//! One task owns all state and takes one event after the other: news of objects, requests of
//! clients, changes of the kernel's network stack, flow records, signals. So nothing here is
//! locked. Workers run on threads of their own and are told what to do by published snapshots.

mod answer;
mod confine;
mod endpoint;
mod flow_log;
mod flows_file;
mod follow;
mod host_link;
mod lab;
mod limits;
mod links;
mod names;
mod pace;
mod preflight;
mod publish;
mod recover;
mod restart;
mod server;
mod signals;
mod state;
mod tunnels;
mod undo;
mod upkeep;
mod waiting;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures_util::{Stream, StreamExt};
use jiff::Timestamp;
use podgate_dataplane::share::Shares;
use podgate_dataplane::worker::{Clock, Config, Dataplane, PollMode, SharedConfig};
use podgate_policy::record::FlowRecord;
use podgate_policy::{Compiler, Store};
use podgate_tables::event::Event;
use podgate_tables::ids::{Epoch, LinkId};
use podgate_tables::route::{NodeAddresses, RouteTable};
use podgate_xdp_redirect::bpffs;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tracing::{error, info, warn};

use self::endpoint::{Attached, Endpoint, PodEnd, prepare_pod_end};
use self::flow_log::FlowLog;
use self::follow::Follower;
use self::host_link::HostLink;
use self::links::Links;
use self::names::Names;
use self::publish::Publisher;
use self::restart::EarlierFlows;
use self::server::{Call, ClientCounts};
use self::signals::Signals;
use self::state::Remembered;
use self::tunnels::TunnelWatch;
use self::undo::Undo;
use self::upkeep::Upkeep;
use self::waiting::Waiting;
use crate::cli::{MtuChoice, PodChecksums, Poll, RunArgs, Seccomp};
use crate::error::describe;
use crate::log::LogFilter;
use crate::netlink::{Change, Link, Netlink, changes};
use crate::protocol::{EndpointSpec, FlowItem, PodMtu};
use crate::sources::manifests::Manifests;
use crate::sources::{self, Source, Update};

pub(crate) use self::endpoint::give_back_offload;
pub(crate) use self::host_link::{HOST, XSK};
pub(crate) use self::links::PIN_PREFIX;
pub(crate) use self::preflight::require_root;
pub(crate) use self::state::{StateDir, StateError};

/// How often flow records are taken off the workers' rings.
const DRAIN_PERIOD: Duration = Duration::from_millis(25);

/// Events of one drain that are logged at most, so that a flood of refused packets can't keep this
/// thread from its other work; the rest is counted as lost. Each link has its share of them.
const RECORDS_PER_DRAIN: usize = 2048;

/// Records that are made in one drain though nobody reads them (see [`flow_log`]): 2,560 a second,
/// which is less than 2 % of a core.
const UNREAD_RECORDS_PER_DRAIN: usize = 64;

/// Requests of clients that may wait.
const CALLS_MAX: usize = 16;

/// All state of the control thread.
struct Agent {
    netlink: Netlink,
    links: Links,
    /// What becomes of the MTU of links that are attached.
    pod_mtu: MtuChoice,
    pod_checksums: PodChecksums,
    host: HostLink,
    /// Why the host link could not be made anew after somebody removed it.
    host_lost: Option<String>,
    source: Source,
    store: Store,
    compiler: Compiler,
    /// By the name of the link.
    endpoints: BTreeMap<String, Endpoint>,
    /// Links that are cut off although no endpoint names them, with their indices.
    unknown: BTreeMap<String, u32>,
    publisher: Publisher,
    names: Names,
    flow_log: FlowLog,
    /// Records made of the last drain, by link.
    records: Shares,
    /// Clients that wait for a revision.
    waiting: Waiting,
    /// Addresses that the kernel routes to `pg-host` for us, with the MTU of the way.
    routed: BTreeMap<IpAddr, u32>,
    /// The node's own addresses, IPv4 and IPv6, that the workers' ICMP errors come from.
    node: NodeAddresses,
    /// The largest packet that gets through by every way out of the node, bytes.
    path_mtu: Option<u32>,
    follower: Follower,
    tunnels: TunnelWatch,
    upkeep: Upkeep,
    earlier_flows: EarlierFlows,
    started: std::time::Instant,
    counts: Counts,
    /// Let go last, when the workers have stopped.
    state: StateDir,
}

/// What only the agent counts.
#[derive(Debug, Default)]
struct Counts {
    links_gone: u64,
    flow_records: u64,
    /// Events that no record was made of: too many at one time, or names of too long ago.
    flow_records_skipped: u64,
    /// Lost records that the log has told of.
    flow_records_lost_told: u64,
    clients: Arc<ClientCounts>,
}

/// Runs the agent until a signal.
///
/// # Errors
/// When it can't start: one line says what to do.
pub(crate) fn run(args: &RunArgs, log: &LogFilter) -> Result<()> {
    preflight::check(args)?;
    // Needs a capability that is dropped next, before there are other threads.
    limits::raise(args)?;
    confine::drop_capabilities()?;
    // Before anything is changed that a signal must not leave half done.
    let signals = Signals::listen()?;
    free_memory_in_background();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (updates, updated) = mpsc::channel(sources::UPDATES_MAX);
        let (calls, called) = mpsc::channel(CALLS_MAX);
        let mut undo = Undo::default();
        let begun = Agent::begin(args, updates, calls, &mut undo).await;
        let (mut agent, changes) = match begun
            .and_then(|begun| confine::filter_system_calls(args.seccomp).map(|()| begun))
        {
            Ok(begun) => begun,
            Err(error) => {
                undo.run().await;
                return Err(error);
            }
        };
        info!(socket = %agent.state.socket().display(), "podgate runs");
        let end = agent.serve(updated, called, changes, signals, log).await;
        agent.upkeep.stop_serving().await;
        if end.is_ok() {
            agent.stop();
        }
        end
    })
}

/// Lets the allocator give unused memory back by threads of its own: those that freed it may sleep,
/// or be gone.
fn free_memory_in_background() {
    // Fails where `podgate` is a library in a program with another allocator.
    if let Err(error) = tikv_jemalloc_ctl::background_thread::write(true) {
        warn!("memory is given back late: {error}");
    }
}

impl Agent {
    /// Everything up to the first request; what it changes on the node is noted in `undo`.
    async fn begin(
        args: &RunArgs,
        updates: mpsc::Sender<Update>,
        calls: mpsc::Sender<Call>,
        undo: &mut Undo,
    ) -> Result<(Self, impl Stream<Item = Change> + Unpin + use<>)> {
        // First, since nothing has been touched yet.
        let lab = args.lab.as_deref().map(lab::read).transpose()?.unwrap_or_default();
        let mut agent = Self::start(args, updates, calls, undo).await?;
        // From before the first look, so that nothing changes unseen.
        let changes = changes()?;
        if let Err(error) = agent.attach_at_start(lab).await {
            agent.give_back_offloads().await;
            return Err(error);
        }
        agent.look_at_addresses().await;
        agent.look_at_routes().await;
        agent.look_at_tunnels();
        agent.serve_clients().await?;
        agent.save();
        Ok((agent, changes))
    }

    async fn start(
        args: &RunArgs,
        updates: mpsc::Sender<Update>,
        calls: mpsc::Sender<Call>,
        undo: &mut Undo,
    ) -> Result<Self> {
        let state = StateDir::open(&args.state_dir)?;
        undo.note_state(&state);
        let mounted = bpffs::ensure_mounted(&state.bpf())?;
        undo.note_bpf(state.bpf(), mounted);
        preflight::warn_of_private_mounts();
        let source = match (&args.source.manifests, &args.source.kubeconfig) {
            (Some(dir), _) => {
                let settle = args.manifests_settle.0;
                Source::Manifests(Manifests::follow(dir, &args.state_dir, settle, updates)?)
            }
            (None, Some(file)) => {
                let may_run = args.seccomp != Seccomp::Enforce;
                Source::Cluster(sources::kube::watch(file, updates, may_run).await?)
            }
            (None, None) => bail!("neither --manifests nor --kubeconfig is given"),
        };
        let netlink = Netlink::connect()?;
        let config = Config {
            shared: SharedConfig {
                workers: args.workers,
                flows_per_worker: args.flows,
                inspected_per_worker: args.inspected.min(args.flows),
                ..SharedConfig::default()
            },
            frames: args.frames,
            poll: match args.poll {
                Poll::Busy => PollMode::Busy,
                Poll::Adaptive => PollMode::Adaptive,
            },
        };
        let dataplane = Dataplane::start(config).context("can't start the workers")?;
        let mut links = Links::new(dataplane, args.workers, args.max_endpoints, state.bpf())?;
        undo.note_host_link(host_link::find(&netlink).await?.is_none());
        let host = HostLink::ensure(&netlink).await?;
        links.open_host(&host)?;
        let routes = netlink.routes().await?;
        let ours = routes.unicast.iter().filter_map(|route| route.host_route(host.host.index));
        let routed = ours.collect();
        let mut names = Names::default();
        // What happens before the first publication happens in the epoch zero, without names.
        let compiler = Compiler::new();
        names.push(Epoch::default(), compiler.compiled());
        Ok(Self {
            netlink,
            links,
            pod_mtu: args.pod_mtu,
            pod_checksums: args.pod_checksums,
            host,
            host_lost: None,
            source,
            store: Store::new(),
            compiler,
            endpoints: BTreeMap::new(),
            unknown: BTreeMap::new(),
            publisher: Publisher::default(),
            names,
            flow_log: FlowLog::new(args.flow_log as usize),
            records: Shares::default(),
            waiting: Waiting::default(),
            routed,
            node: NodeAddresses::default(),
            path_mtu: None,
            follower: Follower::new(),
            tunnels: TunnelWatch::open()?,
            upkeep: Upkeep::new(calls),
            earlier_flows: EarlierFlows::read(&state),
            started: std::time::Instant::now(),
            counts: Counts::default(),
            state,
        })
    }

    /// Attaches what was attached when the last agent stopped, then what the lab file names. What
    /// else was cut off stays so.
    ///
    /// # Errors
    /// When a link of the lab file can't be attached. A remembered link that can't be is an
    /// endpoint that is gone.
    async fn attach_at_start(&mut self, lab: Vec<EndpointSpec>) -> Result<()> {
        let loaded = self.state.load();
        self.upkeep.note_at_start(loaded.problems);
        let is_in_lab =
            |remembered: &Remembered| lab.iter().any(|named| named.link == remembered.spec.link);
        let (in_lab, remembered): (Vec<_>, Vec<_>) =
            loaded.endpoints.into_iter().partition(is_in_lab);
        let had_offload: BTreeSet<_> = in_lab
            .into_iter()
            .filter(|remembered| remembered.offload_was_on)
            .map(|remembered| remembered.spec.link)
            .collect();
        self.attach_remembered(remembered).await?;
        for spec in lab {
            let context = format!("the lab file's endpoint {} on link {}", spec.pod, spec.link);
            let link = spec.link.clone();
            self.add_endpoint(spec).await.context(context)?;
            if let Some(endpoint) = self.endpoints.get_mut(&link) {
                endpoint.offload_was_on |= had_offload.contains(&link);
            }
        }
        self.find_unknown_pods().await;
        Ok(())
    }

    async fn serve(
        &mut self,
        mut updated: mpsc::Receiver<Update>,
        mut called: mpsc::Receiver<Call>,
        mut changes: impl Stream<Item = Change> + Unpin,
        mut signals: Signals,
        log: &LogFilter,
    ) -> Result<()> {
        let mut drain = interval(DRAIN_PERIOD);
        drain.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let due = self.publisher.due();
            let look = self.follower.due();
            tokio::select! {
                signal = &mut signals.stop => {
                    let signal = signal.map_or("a signal", |signal| signal.as_str());
                    info!("{signal}: stopping; pods stay cut off until podgate runs again");
                    return Ok(());
                }
                Some(()) = signals.reload.recv() => self.reload(log),
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.publish().await;
                }
                () = sleep_until(look.unwrap_or_else(Instant::now)), if look.is_some() => {
                    self.look().await;
                }
                Some(update) = updated.recv() => {
                    if self.source.take(update, &mut self.store) {
                        self.publisher.request();
                    }
                }
                Some(call) = called.recv() => self.answer(call).await,
                Some(change) = changes.next() => self.react(change).await,
                _ = drain.tick() => {
                    if let Some(worker) = self.links.dataplane().dead_worker() {
                        bail!("worker {worker} died of a bug (its last words are above); run podgate \
                               again, until then its pods stay cut off");
                    }
                    self.drain_events();
                    self.answer_waiting();
                    self.ask_again_for_tunnels();
                    self.look_after_files().await;
                }
            }
        }
    }

    /// What SIGHUP asks for: the objects are read again, and the log filter.
    fn reload(&mut self, log: &LogFilter) {
        match log.reload() {
            Ok(filter) => info!("SIGHUP: reading objects again; log filter: {filter}"),
            Err(error) => error!("SIGHUP: the log filter stays as it was: {error:#}"),
        }
        self.source.reload();
    }

    /// Puts a pod's link under policy.
    ///
    /// # Errors
    /// When the link can't be had; then nothing changed, but perhaps for the link's MTU.
    async fn add_endpoint(&mut self, spec: EndpointSpec) -> Result<()> {
        if let Some(endpoint) = self.endpoints.get(&spec.link)
            && endpoint.link.is_ok()
        {
            if endpoint.spec == spec {
                return Ok(());
            }
            bail!(
                "link {} is the endpoint of pod {} already; remove it first",
                spec.link,
                endpoint.spec.pod
            );
        }
        let same_pod =
            |endpoint: &&Endpoint| endpoint.spec.pod == spec.pod && endpoint.spec.link != spec.link;
        if let Some(other) = self.endpoints.values().find(same_pod) {
            let link = &other.spec.link;
            bail!("pod {} is the endpoint on link {link} already; remove it first", spec.pod);
        }
        // What is known of an offload that was taken from the same link stays known.
        let before = self.endpoints.get(&spec.link);
        let offload_was_on = before.is_some_and(|endpoint| endpoint.offload_was_on);
        let mut endpoint = Endpoint { spec, link: Err(String::new()), offload_was_on };
        let attached = self.attach(&mut endpoint).await?;
        endpoint.link = Ok(attached);
        let name = endpoint.spec.link.clone();
        info!("endpoint {} on link {name} attached", endpoint.spec.pod);
        self.unknown.remove(&name);
        self.endpoints.insert(name, endpoint);
        Ok(())
    }

    async fn attach(&mut self, endpoint: &mut Endpoint) -> Result<Attached> {
        let spec = &endpoint.spec;
        let link = self.netlink.link(&spec.link).await?;
        let mut link = self.link_of(spec, link)?;
        let mtu = self.mtu_of(spec);
        let PodEnd { hardware, offload_was_on } =
            prepare_pod_end(spec, &link, mtu, self.leaves_checksums())?;
        let opened = self.open(&mut link, mtu.map(u32::from)).await;
        if opened.is_err() && offload_was_on {
            self.give_back_offload(spec).await;
        }
        endpoint.offload_was_on |= offload_was_on;
        Ok(Attached { slot: opened?, link, pod_end: Ok(hardware) })
    }

    /// Gives the link its MTU, if it is to get one, and enforces it in a free slot.
    async fn open(&mut self, link: &mut Link, mtu: Option<u32>) -> Result<LinkId> {
        if let Some(mtu) = mtu {
            link.mtu = mtu;
            self.netlink.set_mtu(link, mtu).await?;
        }
        // The slot may be that of a link that is gone: tables that still know its pod must not be
        // in force when another one speaks by it.
        self.catch_up().await;
        let slot = self.links.free_slot()?;
        self.links.open(link, slot)?;
        Ok(slot)
    }

    /// Turns the TX checksum offload of a pod's end on again, which was on before podgate came.
    async fn give_back_offload(&self, spec: &EndpointSpec) {
        if let Err(error) = give_back_offload(&self.netlink, spec).await {
            warn!(
                "TX checksum offload of pod {} stays off: {}",
                spec.pod,
                describe(error.as_ref())
            );
        }
    }

    /// The same for the pods of a start that failed, but for those that were cut off before.
    async fn give_back_offloads(&self) {
        let remembered = self.state.load().endpoints;
        for endpoint in self.endpoints.values().filter(|endpoint| endpoint.offload_was_on) {
            if !remembered.iter().any(|before| before.spec.link == endpoint.spec.link) {
                self.give_back_offload(&endpoint.spec).await;
            }
        }
    }

    /// The link that an endpoint names, found under this name.
    fn link_of(&self, spec: &EndpointSpec, found: Option<Link>) -> Result<Link> {
        let link = found.with_context(|| {
            format!("there is no link {} in the agent's network namespace", spec.link)
        })?;
        if [&self.host.host, &self.host.xsk].iter().any(|own| own.index == link.index) {
            bail!("link {} is podgate's own", spec.link);
        }
        Ok(link)
    }

    /// The MTU that an endpoint's link is given, if it is given one.
    fn mtu_of(&self, spec: &EndpointSpec) -> Option<PodMtu> {
        match self.pod_mtu {
            _ if spec.mtu.is_some() || spec.netns.is_none() => spec.mtu,
            MtuChoice::Set(mtu) => Some(mtu),
            MtuChoice::Keep => None,
        }
    }

    /// Whether pods may leave checksums to their devices.
    fn leaves_checksums(&self) -> bool {
        self.pod_checksums == PodChecksums::Leave
            && self.links.dataplane().umem().finishes_checksums()
    }

    /// Lets a pod's link go: from here on, no policy applies to the pod.
    ///
    /// # Errors
    /// When there is no such endpoint.
    async fn remove_endpoint(&mut self, link: &str) -> Result<()> {
        let Some(endpoint) = self.endpoints.remove(link) else {
            return self.remove_unknown_pod(link);
        };
        // First nobody sends there any more, then the link goes.
        self.publish().await;
        if let Ok(attached) = endpoint.link {
            self.links.close(attached.slot);
        }
        if endpoint.offload_was_on {
            self.give_back_offload(&endpoint.spec).await;
        }
        info!("endpoint {} on link {link} removed", endpoint.spec.pod);
        self.save();
        Ok(())
    }

    /// Turns the workers' events into records with names.
    fn drain_events(&mut self) {
        let dataplane = self.links.dataplane();
        let clock = dataplane.clock();
        let mut events: Vec<Event> = Vec::new();
        dataplane.drain_events(|_, event| events.push(event));
        // Each worker's are in order already.
        events.sort_by_key(|event| event.time);
        let too_many = events.len() > RECORDS_PER_DRAIN;
        let mut left = RECORDS_PER_DRAIN;
        self.records.start_over();
        for event in &events {
            if too_many && !self.records.take(event.link, left) {
                self.counts.flow_records_skipped += 1;
                continue;
            }
            left = left.saturating_sub(1);
            if self.names.get(event.epoch).is_none() {
                self.counts.flow_records_skipped += 1;
                continue;
            }
            self.flow_log.push_event(event, |event| flow_item(event, clock, &self.names));
            self.counts.flow_records += 1;
        }
        let make = |event: &Event| flow_item(event, clock, &self.names);
        self.flow_log.make_records(UNREAD_RECORDS_PER_DRAIN, make);
        let lost = self.flow_records_lost();
        if lost > self.counts.flow_records_lost_told {
            self.flow_log.push(None, FlowItem::Lost(lost - self.counts.flow_records_lost_told));
            self.counts.flow_records_lost_told = lost;
        }
    }

    /// The last flow records.
    fn last_flows(&mut self, count: u32) -> Vec<Arc<FlowItem>> {
        let clock = self.links.dataplane().clock();
        self.flow_log.last(count, |event| flow_item(event, clock, &self.names))
    }

    fn route_table(&self) -> (RouteTable, BTreeMap<String, String>) {
        let host = self.host.next_hop(self.path_mtu);
        let (routes, not_ready) = publish::route_table(&self.endpoints, &self.store, host);
        (routes.with_node(self.node).with_tunnels(self.tunnels.table()), not_ready)
    }
}

/// The record of an event; a gap if too many epochs have passed since to know its names.
fn flow_item(event: &Event, clock: Clock, names: &Names) -> FlowItem {
    let Some(compiled) = names.get(event.epoch) else { return FlowItem::Lost(1) };
    let time = Timestamp::try_from(clock.wall(event.time)).unwrap_or_default();
    FlowItem::Flow(Box::new(FlowRecord::new(event, time, compiled)))
}
