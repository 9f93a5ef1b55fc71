//! What Hubble's API is served with: sockets, names, nodes.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use podgate_api::CertificateStatus;
use podgate_dataplane::worker::Clock;
use podgate_hubble::{AgentEvents, Config, Listeners, Node, Tcp, TlsFiles, Translator, UnixSocket};
use podgate_policy::Store;
use tokio::sync::watch;
use tracing::info;

use super::flow_thread::FlowThread;
use super::host_network::HOST_SLOT;
use super::socket_path::make_room;
use crate::certificates;
use crate::cli::{HUBBLE_SOCKET_NAME, HubbleArgs, RunArgs};

/// Suffix of the names in certificates, as in those that Cilium's installation makes.
const TLS_SUFFIX: &str = "default.hubble-grpc.cilium.io";

/// The nodes that serve Hubble's API: this one, and the others that objects name, at the same port.
pub(super) struct Peers {
    own: Node,
    /// Where this node listens; none if it has a unix socket only.
    port: Option<SocketAddr>,
    to: watch::Sender<Vec<Node>>,
    /// [`Store::node_changes`] of the last update.
    seen: Option<u64>,
}

impl Peers {
    /// Where this node serves Hubble's API.
    pub(super) fn own_address(&self) -> &str {
        &self.own.address
    }

    /// Takes the nodes from the store; a relay learns what changed.
    pub(super) fn update(&mut self, store: &Store) {
        let Some(listens) = self.port else { return };
        if self.seen.replace(store.node_changes()) == Some(store.node_changes()) {
            return;
        }
        let mut nodes = vec![self.own.clone()];
        for (name, node) in store.named_nodes() {
            let Some(address) = node.internal.first() else { continue };
            let address = SocketAddr::new(*address, listens.port()).to_string();
            if **name != *self.own.name {
                let tls_server_name = self.own.tls_server_name.as_ref();
                let tls_server_name = tls_server_name.map(|_| tls_name(name));
                nodes.push(Node { name: name.to_string(), address, tls_server_name });
            } else if listens.ip().is_unspecified() {
                nodes[0].address = address;
            }
        }
        self.to.send_if_modified(|known| {
            let changed = *known != nodes;
            *known = nodes;
            changed
        });
    }
}

/// The name that the certificate of a node has.
fn tls_name(node: &str) -> String {
    format!("{}.{TLS_SUFFIX}", node.replace('.', "-"))
}

/// Opens the sockets, and starts the flow thread and those that serve them. Unless another one is
/// given, the unix socket is beside `control_socket`.
///
/// # Errors
/// When a socket can't be opened.
pub(super) fn start(
    args: &RunArgs,
    control_socket: &Path,
    clock: Clock,
) -> Result<(FlowThread, Peers, Arc<UnixSocket>)> {
    let hubble = &args.hubble;
    let beside = || control_socket.with_file_name(HUBBLE_SOCKET_NAME);
    let socket = hubble.socket.clone().unwrap_or_else(beside);
    let tcp = tcp(hubble)?;
    make_room(&socket, "Hubble's API (--hubble-socket names another path)")?;
    let listeners = Listeners::open(&socket, tcp.as_ref()).context(
        "can't use the sockets of Hubble's API (--hubble-socket, or --control-socket beside it)",
    )?;
    let name = node_name(hubble)?;
    let address = match listeners.tcp_address() {
        Some(address) => address.to_string(),
        None => format!("unix://{}", socket.display()),
    };
    info!(%address, "Hubble's API is served");
    let with_tls = tcp.as_ref().is_some_and(|tcp| tcp.tls.is_some());
    let own =
        Node { name: name.clone(), address, tls_server_name: with_tls.then(|| tls_name(&name)) };
    let (to, nodes) = watch::channel(vec![own.clone()]);
    let peers = Peers { own, port: listeners.tcp_address(), to, seen: None };
    let agent_events = Arc::new(AgentEvents::default());
    agent_events.started(Timestamp::now());
    let config = Config {
        translator: Arc::new(Translator::new(name, run_number(), HOST_SLOT.0)),
        version: format!("podgate v{}", env!("CARGO_PKG_VERSION")),
        nodes,
        agent_events,
    };
    let unix = Arc::clone(listeners.unix());
    let thread = FlowThread::start(args.flow_log as usize, clock, listeners, config)?;
    Ok((thread, peers, unix))
}

/// The state of the server's certificate, if it has one. The server reads it at the start only.
pub(super) fn certificate(args: &RunArgs) -> Option<CertificateStatus> {
    let file = args.hubble.tls_cert.as_ref()?;
    Some(certificates::of_file("hubble-server", file))
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

/// The name of this node.
///
/// # Errors
/// When it is not given and the host's name can't be read.
pub(super) fn node_name(args: &HubbleArgs) -> Result<String> {
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_relay_finds_all_nodes_at_the_same_port() {
        let own = Node {
            name: "a.example".into(),
            address: "0.0.0.0:4244".into(),
            tls_server_name: Some(tls_name("a.example")),
        };
        let (to, nodes) = watch::channel(vec![own.clone()]);
        let port = Some("0.0.0.0:4244".parse().unwrap());
        let mut peers = Peers { own, port, to, seen: None };
        let mut store = Store::new();
        for (name, address) in [("a.example", "192.0.2.1"), ("b.example", "2001:db8::2")] {
            let addresses = [json!({"type": "InternalIP", "address": address})];
            let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
                              "status": {"addresses": addresses}});
            store.apply(&node, None).unwrap();
        }
        peers.update(&store);
        let seen: Vec<_> = nodes.borrow().iter().map(|node| node.address.clone()).collect();
        assert_eq!(seen, ["192.0.2.1:4244", "[2001:db8::2]:4244"]);
        let name = nodes.borrow()[1].tls_server_name.clone();
        assert_eq!(name.as_deref(), Some("b-example.default.hubble-grpc.cilium.io"));
        // Without a port, other nodes have no address that is known.
        peers.port = None;
        peers.to.send_replace(Vec::new());
        peers.update(&store);
        assert!(nodes.borrow().is_empty());
    }
}
