//! The bare forwarder, as a separate process.

use std::env;
use std::time::Duration;

use anyhow::Result;
use podgate_tests::lab::Daemon;
use tempfile::TempDir;

use super::pair::colons;
use super::{ForwarderPath, MEASURED_PORT, Pair, on_forwarder_core};

/// Line that the process prints when it forwards.
pub(crate) const READY: &str = "forwarding";
/// Timeout for this line.
const BOUND: Duration = Duration::from_secs(20);

/// `yardstick forward` between two pods.
#[derive(Debug)]
pub(crate) struct Bare {
    forwarder: Daemon,
    pair: Pair,
    _folder: TempDir,
}

impl Bare {
    /// Creates the pods and starts the forwarder.
    ///
    /// # Errors
    /// Without root, or when it doesn't start to forward.
    pub(crate) fn start() -> Result<Self> {
        let pair = Pair::new("bare")?;
        pair.checksum_in_pods()?;
        let folder = tempfile::tempdir()?;
        let mut command = pair.node.daemon(&env::current_exe()?);
        command.arg("forward");
        for pod in [&pair.client, &pair.server] {
            command.arg(format!("{},{},{}", pod.link, colons(pod.link_mac), colons(pod.mac)));
        }
        let mut forwarder =
            on_forwarder_core(|| Daemon::start("bare", command, folder.path().join("log")))?;
        forwarder.wait_until("it to forward", BOUND, |forwarder| {
            Ok(forwarder.log().contains(READY).then_some(()))
        })?;
        Ok(Self { forwarder, pair, _folder: folder })
    }

    /// The path through it.
    ///
    /// # Errors
    /// As [`ForwarderPath::new`].
    pub(crate) fn path(&self) -> Result<ForwarderPath<'_>> {
        let Pair { client, server, .. } = &self.pair;
        let flow = self.pair.flow(MEASURED_PORT);
        ForwarderPath::new("bare", &client.netns, &server.netns, flow, Some(&self.forwarder))
    }
}
