//! Start of the agent, and its end.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use futures_util::Stream;
use jiff::Timestamp;
use podgate_api::EndpointSpec;
use podgate_dataplane::l7::dns::Denied;
use podgate_dataplane::worker::{Config, Dataplane, PollMode, SharedConfig};
use podgate_hostnet::{Change, Netlink, changes};
use podgate_policy::manifest::DIRECTORY_MAX;
use podgate_policy::{NameLimits, Translation};
use podgate_tables::l7::http1::HttpLimits;
use podgate_xdp_redirect::bpffs;
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::captures::Captures;
use super::endpoint_log::EndpointLog;
use super::endpoints::{COMPLETED_MAX, Endpoints, Links, Preparer};
use super::flow_tables::FlowListings;
use super::group_socket::GroupSocket;
use super::health::HealthWatch;
use super::host_network::{self, HostLink, HostNetwork, Observed};
use super::latency::Latency;
use super::metrics_server::MetricsServer;
use super::names::DnsNames;
use super::observer::Observer;
use super::policy_plane::PolicyPlane;
use super::reconcile::Reconciler;
use super::restart::EarlierFlows;
use super::signals::Signals;
use super::state::{ChecksumOffload, StateDir};
use super::state_files::{self, StateFiles};
use super::undo::{Creator, Undo};
use super::waiting::EpochWaiters;
use super::{Agent, Inputs, confine, endpoints_file, hubble, limits, preflight};
use crate::cli::{DnsDenied, PodChecksums, PolicyStatus, Poll, RunArgs, Seccomp, Services};
use crate::log::LogFilter;
use crate::sources::kube::{Access, Writes};
use crate::sources::manifests::{Manifests, Settings};
use crate::sources::{self, LAST_GOOD, Source, Update};

/// Requests of clients that may wait.
const CALLS_MAX: usize = 16;

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
    end?;
    agent.stop()
}

/// Lets the allocator return unused memory to the kernel by threads of its own: those that freed it
/// may sleep, or be gone.
fn free_memory_in_background() {
    // Fails where `podgate` is a library in a program with another allocator.
    if let Err(error) = tikv_jemalloc_ctl::background_thread::write(true) {
        warn!("memory is returned to the kernel late: {error}");
    }
}

/// Opens the state directory, and the bpffs that programs are pinned in.
///
/// # Errors
/// When one of them can't be used.
fn open_state(args: &RunArgs, undo: &mut Undo) -> Result<StateDir> {
    let mut state = StateDir::open(&args.state_dir, args.bpffs.as_deref())?;
    undo.record_state(&state);
    let mounted_now = match &args.bpffs {
        // A mount of the agent's own would end with its container, and policy with it.
        Some(dir) => bpffs::require(dir).map(|()| false)?,
        None => bpffs::ensure_mounted(&state.bpf())?,
    };
    undo.record_bpf(state.bpf(), Creator::unless(!mounted_now));
    state.lock_pins()?;
    if args.bpffs.is_none() {
        preflight::warn_of_private_mounts();
    }
    Ok(state)
}

/// Opens the link to the node, which is made unless the previous agent left it.
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
            names: DnsNames::load(
                &state,
                NameLimits { ttl_min_s: args.dns_min_ttl, ..NameLimits::default() },
            ),
            reconciler: Reconciler::new(),
            waiting: EpochWaiters::default(),
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

    /// Attaches the endpoints of the previous agent, then the `listed` ones. Other links that were
    /// cut off stay so.
    ///
    /// # Errors
    /// When a listed endpoint can't be attached. An endpoint of the previous agent that can't be
    /// attached is `gone`.
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
    let last_good = args.state_dir.join(LAST_GOOD);
    let cluster = sources::kube::watch(&access, &node, writes, &last_good, updates).await?;
    Ok(Source::Cluster(cluster))
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
