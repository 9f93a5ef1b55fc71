//! The agent's own files, looked after once in [`PERIOD`]: what somebody removed is made again, and
//! what could not be written is written as soon as it can be.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use podgate_xdp_redirect::bpffs;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::server::{Call, Server};
use super::state::{Remembered, StateDir};
use super::{Agent, StateError};
use crate::error::describe;

/// How often the files are looked at.
const PERIOD: Duration = Duration::from_secs(1);

/// The state of the agent's own files.
#[derive(Debug)]
pub(super) struct Upkeep {
    due: Instant,
    /// Where the control socket's requests go.
    calls: mpsc::Sender<Call>,
    /// The task that serves the control socket, with device and inode of its file.
    server: Option<(JoinHandle<()>, (u64, u64))>,
    /// Why the endpoint list on disk is not what it should be.
    unsaved: Option<String>,
    /// Why the state directory is not what it should be.
    broken: Option<String>,
    /// What was wrong with the endpoint list at the start.
    found_at_start: Vec<String>,
}

impl Upkeep {
    /// Nothing is served yet; requests will go to `calls`.
    pub(super) fn new(calls: mpsc::Sender<Call>) -> Self {
        let (server, unsaved, broken) = (None, None, None);
        Self { due: Instant::now(), calls, server, unsaved, broken, found_at_start: Vec::new() }
    }

    /// What was wrong at the start: it is said in the log, and in `status` from here on.
    pub(super) fn note_at_start(&mut self, problems: Vec<String>) {
        problems.iter().for_each(|problem| warn!("{problem}"));
        self.found_at_start.extend(problems);
    }

    /// What is wrong, one line each.
    pub(super) fn problems(&self) -> impl Iterator<Item = String> {
        let unsaved = self.unsaved.as_ref().map(|reason| {
            format!(
                "{reason}; endpoints of which this is not written have no known pod after a restart \
                 and stay cut off until they are added again"
            )
        });
        let now = self.broken.iter().cloned().chain(unsaved);
        self.found_at_start.iter().cloned().chain(now)
    }

    /// Ends the control socket's task; its file goes with it.
    pub(super) async fn stop_serving(&mut self) {
        if let Some((server, _)) = self.server.take() {
            server.abort();
            let _ = server.await;
        }
    }
}

impl Agent {
    /// Binds the control socket, in place of one that was bound before.
    ///
    /// # Errors
    /// When the path can't be bound.
    pub(super) async fn serve_clients(&mut self) -> Result<()> {
        self.upkeep.stop_serving().await;
        let path = self.state.socket();
        let bound = Server::bind(&path, Arc::clone(&self.counts.clients));
        let bound = bound.and_then(|server| Ok((server, identity(&path)?)));
        let (server, file) = bound.with_context(|| format!("can't bind {}", path.display()))?;
        let task = tokio::spawn(server.serve(self.upkeep.calls.clone()));
        self.upkeep.server = Some((task, file));
        Ok(())
    }

    /// Writes the endpoint list; if that fails, it is tried again later.
    pub(super) fn save(&mut self) {
        let remembered = |endpoint: &super::Endpoint| Remembered {
            spec: endpoint.spec.clone(),
            offload_was_on: endpoint.offload_was_on,
        };
        let saved = self.state.save(self.endpoints.values().map(remembered).collect());
        match (saved, &self.upkeep.unsaved) {
            (Ok(()), None) => {}
            (Ok(()), Some(_)) => {
                info!("the endpoint list is written again");
                self.upkeep.unsaved = None;
            }
            (Err(reason), before) => {
                let reason = reason.to_string();
                if before.as_ref() != Some(&reason) {
                    error!("the endpoint list can't be written: {reason}");
                }
                self.upkeep.unsaved = Some(reason);
            }
        }
    }

    /// Looks after the files, if it is time.
    pub(super) async fn look_after_files(&mut self) {
        if Instant::now() < self.upkeep.due {
            return;
        }
        self.upkeep.due = Instant::now() + PERIOD;
        let broken = self.restore_files().await;
        let broken = (!broken.is_empty()).then(|| broken.join("; "));
        if let Some(reason) = &broken
            && self.upkeep.broken.as_ref() != Some(reason)
        {
            error!("{reason}");
        }
        self.upkeep.broken = broken;
        if self.upkeep.unsaved.is_some() {
            self.save();
        }
    }

    /// Makes again what was removed. Returns what can't be made.
    async fn restore_files(&mut self) -> Vec<String> {
        let mut broken = Vec::new();
        if !self.state.is_there() {
            let path = self.state.path().to_owned();
            match StateDir::open(&path) {
                Ok(state) => {
                    warn!("the state directory {} was removed; it is made again", path.display());
                    self.state = state;
                }
                Err(StateError::Held(_)) => {
                    return vec![format!(
                        "another agent uses the state directory {} since it was removed",
                        path.display()
                    )];
                }
                Err(error) => return vec![error.to_string()],
            }
        }
        match self.restore_pins() {
            Ok(0) => {}
            Ok(pinned) => warn!("pins of {pinned} links were removed; they are made again"),
            Err(error) => broken.push(describe(error.as_ref())),
        }
        if !self.state.endpoints().exists() {
            self.save();
        }
        let socket = identity(&self.state.socket()).ok();
        if self.upkeep.server.as_ref().map(|(_, file)| *file) != socket {
            warn!("the control socket was removed; it is bound again");
            let served = self.serve_clients().await;
            broken.extend(served.err().map(|error| describe(error.as_ref())));
        }
        broken
    }

    fn restore_pins(&self) -> Result<usize> {
        bpffs::ensure_mounted(&self.state.bpf())?;
        self.links.pin_again()
    }
}

/// Device and inode of a file.
fn identity(path: &Path) -> std::io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}
