//! Which of a pod's packets this node's kernel would decapsulate, followed as tunnels come and go.
//!
//! Links are looked at when the kernel tells of them. Nothing tells of the ports that `ip fou`,
//! L2TP and WireGuard receive on, so they are asked for once in [`PERIOD`] as well. While the
//! kernel doesn't answer, any UDP port of a node may be a tunnel's, and pods reach none of them;
//! while its routes can't be read, any address may be the node's own.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use podgate_tables::address::Address;
use podgate_tables::tunnel::Tunnels;
use tokio::time::Instant;
use tracing::{error, info};

use super::Agent;
use crate::netlink::TunnelReader;

/// How often the kernel is asked for ports that it tells no news of.
const PERIOD: Duration = Duration::from_secs(1);

/// What is known of this node's tunnels.
#[derive(Debug)]
pub(super) struct TunnelWatch {
    reader: TunnelReader,
    /// UDP ports, sorted, or why they can't be known.
    ports: Result<Vec<u16>, String>,
    /// What the kernel delivers to the node itself, sorted, or why that can't be known.
    local: Result<Vec<(IpAddr, u8)>, String>,
    due: Instant,
}

impl TunnelWatch {
    /// Knows nothing yet, so everything is refused that may be a tunnel.
    ///
    /// # Errors
    /// When no netlink socket can be had.
    pub(super) fn open() -> io::Result<Self> {
        let not_yet = || "it was not asked yet".to_owned();
        let (ports, local) = (Err(not_yet()), Err(not_yet()));
        Ok(Self { reader: TunnelReader::open()?, ports, local, due: Instant::now() })
    }

    /// As the workers look it up.
    pub(super) fn table(&self) -> Tunnels {
        let any = [([0; 4].into(), 0), ([0; 16].into(), 0)];
        let local = self.local.as_deref().unwrap_or(&any);
        let local = local.iter().map(|(address, length)| (Address::from(*address), *length));
        Tunnels::new(self.ports.as_deref().ok(), local)
    }

    /// What can't be known, one line each.
    pub(super) fn problems(&self) -> impl Iterator<Item = String> {
        let ports = self.ports.as_ref().err().map(|reason| {
            format!(
                "the kernel doesn't tell the ports of this node's tunnels: {reason}; until it does, \
                 pods reach no UDP port of a node"
            )
        });
        let local = self.local.as_ref().err().map(|reason| {
            format!(
                "the kernel doesn't tell its routes: {reason}; until it does, pods send no tunnel \
                 packets anywhere"
            )
        });
        ports.into_iter().chain(local)
    }
}

impl Agent {
    /// The UDP ports of this node's tunnels.
    pub(super) fn look_at_tunnels(&mut self) {
        let ports = self.tunnels.reader.ports().map_err(|error| error.to_string());
        self.tunnels.due = Instant::now() + PERIOD;
        if self.tunnels.ports == ports {
            return;
        }
        match &ports {
            Ok(ports) => info!(?ports, "UDP ports of this node's tunnels"),
            Err(reason) => error!("can't read the ports of this node's tunnels: {reason}"),
        }
        self.tunnels.ports = ports;
        self.publisher.request();
    }

    /// Asks for what the kernel doesn't tell of its own accord, and for what it refused to tell.
    pub(super) fn ask_again_for_tunnels(&mut self) {
        if Instant::now() < self.tunnels.due {
            return;
        }
        self.look_at_tunnels();
        if self.tunnels.local.is_err() {
            self.follower.ask_for_routes();
        }
    }

    /// Takes what the kernel delivers to the node itself; `None` if it doesn't tell, for `reason`.
    pub(super) fn set_local_prefixes(&mut self, local: Option<Vec<(IpAddr, u8)>>, reason: &str) {
        let local = local.ok_or_else(|| reason.to_owned()).map(|mut local| {
            local.sort_unstable();
            local.dedup();
            local
        });
        if self.tunnels.local != local {
            self.tunnels.local = local;
            self.publisher.request();
        }
    }
}
