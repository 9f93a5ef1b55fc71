//! What Hubble's API is served with: sockets, names, nodes.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use podgate_dataplane::worker::Clock;
use podgate_hubble::{AgentEvents, Config, Listeners, Node, Tcp, TlsFiles, Translator};
use tokio::sync::watch;
use tracing::info;

use super::endpoints::HOST_SLOT;
use super::flow_thread::FlowThread;
use super::state::StateDir;
use crate::cli::{HubbleArgs, RunArgs};

/// Names in certificates end so, as those that Cilium's installation makes.
const TLS_SUFFIX: &str = "default.hubble-grpc.cilium.io";

/// Opens the sockets and starts the flow thread.
///
/// # Errors
/// When a socket can't be opened.
pub(super) fn start(args: &RunArgs, state: &StateDir, clock: Clock) -> Result<FlowThread> {
    let hubble = &args.hubble;
    let socket = hubble.socket.clone().unwrap_or_else(|| state.hubble_socket());
    let tcp = tcp(hubble)?;
    let listeners = Listeners::open(&socket, tcp.as_ref()).context("Hubble's API: can't use")?;
    let name = node_name(hubble)?;
    let address = match listeners.tcp_address() {
        Some(address) => address.to_string(),
        None => format!("unix://{}", socket.display()),
    };
    info!(%address, "Hubble's API is served");
    let with_tls = tcp.as_ref().is_some_and(|tcp| tcp.tls.is_some());
    let tls_server_name = with_tls.then(|| format!("{}.{TLS_SUFFIX}", name.replace('.', "-")));
    let own = Node { name: name.clone(), address, tls_server_name };
    let (_, nodes) = watch::channel(vec![own]);
    let agent_events = Arc::new(AgentEvents::default());
    agent_events.started(Timestamp::now());
    let config = Config {
        translator: Translator::new(name, run_number(), HOST_SLOT.0),
        version: format!("podgate v{}", env!("CARGO_PKG_VERSION")),
        nodes,
        agent_events,
    };
    FlowThread::start(args.flow_log as usize, clock, listeners, config)
}

fn tcp(args: &HubbleArgs) -> Result<Option<Tcp>> {
    let Some(address) = args.listen else { return Ok(None) };
    let tls = args.tls_cert.clone().zip(args.tls_key.clone()).map(|(certificate, key)| {
        let client_ca: Option<PathBuf> = args.tls_client_ca.clone();
        TlsFiles { certificate, key, client_ca }
    });
    ensure!(
        tls.is_some() || address.ip().is_loopback(),
        "--hubble-listen {address}: flows of all pods are served only with TLS there; give \
         --hubble-tls-cert and --hubble-tls-key, or a loopback address"
    );
    Ok(Some(Tcp { address, tls }))
}

fn node_name(args: &HubbleArgs) -> Result<String> {
    if let Some(name) = &args.node_name {
        return Ok(name.clone());
    }
    let name = fs::read_to_string("/proc/sys/kernel/hostname");
    Ok(name.context("can't read the host's name; give --node-name")?.trim().to_owned())
}

/// A number that no other run of the agent has: the time of its start.
fn run_number() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or_default()
}
