//! The agent's own files, checked every [`PERIOD`]: those that were removed are created again, and
//! a failed write is tried again.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use podgate_api::socket_file::{FileId, file_id};
use podgate_hubble::UnixSocket;
use podgate_xdp_redirect::bpffs;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::endpoints::Endpoints;
use super::group_socket::GroupSocket;
use super::preflight;
use super::server::{CONTROL_SOCKET, Call, ClientCounts, Server};
use super::socket_path;
use super::state::{Loaded, SavedEndpoint, StateDir, StateError};
use crate::error::describe;

/// How often the files are checked.
const PERIOD: Duration = Duration::from_secs(1);

/// The state directory and the files in it.
#[derive(Debug)]
pub(super) struct StateFiles {
    due: Instant,
    /// Path of the control socket.
    socket: PathBuf,
    /// Where the control socket's requests go.
    calls: mpsc::Sender<Call>,
    /// The task that serves the control socket, and its file.
    server: Option<(JoinHandle<()>, Option<FileId>)>,
    clients: Arc<ClientCounts>,
    /// The socket of Hubble's API.
    hubble: Arc<UnixSocket>,
    /// Why the endpoint list on disk is outdated.
    unsaved: Option<String>,
    /// Why the state directory is incomplete.
    broken: Option<String>,
    /// What was wrong with the endpoint list at the start.
    found_at_start: Vec<String>,
    state: StateDir,
}

impl StateFiles {
    /// Nothing is served yet; requests at `socket` will go to `calls`.
    pub(super) fn new(
        state: StateDir,
        socket: PathBuf,
        calls: mpsc::Sender<Call>,
        hubble: Arc<UnixSocket>,
    ) -> Self {
        Self {
            due: Instant::now(),
            socket,
            calls,
            server: None,
            clients: Arc::default(),
            hubble,
            unsaved: None,
            broken: None,
            found_at_start: Vec::new(),
            state,
        }
    }

    /// The state directory.
    pub(super) fn state(&self) -> &StateDir {
        &self.state
    }

    /// Path of the control socket.
    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Serves a socket for a group, too.
    ///
    /// # Errors
    /// When it can't be polled.
    pub(super) fn serve_group(&self, socket: &GroupSocket) -> std::io::Result<()> {
        socket.serve(self.calls.clone(), Arc::clone(&self.clients))
    }

    /// What happened to clients of the control socket.
    pub(super) fn clients(&self) -> &ClientCounts {
        &self.clients
    }

    /// Reads the endpoint list. What is wrong with it is logged, and part of [`Self::problems`].
    pub(super) fn load(&mut self) -> Vec<SavedEndpoint> {
        let Loaded { endpoints, problems } = self.state.load();
        problems.iter().for_each(|problem| warn!("{problem}"));
        self.found_at_start.extend(problems);
        endpoints
    }

    /// What is wrong, one line each.
    pub(super) fn problems(&self) -> impl Iterator<Item = String> {
        let now = self.broken.iter().cloned().chain(self.unsaved_line());
        self.found_at_start.iter().cloned().chain(now)
    }

    /// Binds the control socket, in place of one that was bound before.
    ///
    /// # Errors
    /// When the path can't be bound.
    pub(super) async fn serve_clients(&mut self) -> Result<()> {
        self.stop_serving().await;
        if self.socket == self.state.socket() {
            // Whatever it is: the state directory is this agent's. If that fails, binding does.
            let _ = fs::remove_file(&self.socket);
        }
        let server = Server::bind(&self.socket, Arc::clone(&self.clients))?;
        let file = server.file_id();
        let task = tokio::spawn(server.serve(self.calls.clone()));
        self.server = Some((task, file));
        Ok(())
    }

    /// Ends the control socket's task; its file goes with it.
    pub(super) async fn stop_serving(&mut self) {
        if let Some((server, _)) = self.server.take() {
            server.abort();
            let _ = server.await;
        }
    }

    /// Writes the endpoint list; a failed write is tried again later.
    pub(super) fn save(&mut self, endpoints: &Endpoints) {
        match (self.state.save(endpoints.remembered()), &self.unsaved) {
            (Ok(()), None) => {}
            (Ok(()), Some(_)) => {
                info!("the endpoint list is written again");
                self.unsaved = None;
            }
            (Err(reason), before) => {
                let reason = reason.to_string();
                if before.as_ref() != Some(&reason) {
                    error!("the endpoint list can't be written: {reason}");
                }
                self.unsaved = Some(reason);
            }
        }
    }

    /// Writes the endpoint list at the end, if that was not possible before.
    ///
    /// # Errors
    /// When it still isn't: one line that names the file.
    pub(super) fn save_at_end(&mut self, endpoints: &Endpoints) -> Result<(), String> {
        if self.unsaved.is_some() {
            self.save(endpoints);
        }
        self.unsaved_line().map_or(Ok(()), Err)
    }

    fn unsaved_line(&self) -> Option<String> {
        let reason = self.unsaved.as_ref()?;
        Some(format!(
            "{reason}; endpoints that are not in the list have no known pod after a restart and stay \
             cut off until they are added again"
        ))
    }

    /// Checks the files, if it is time.
    pub(super) async fn check(&mut self, endpoints: &mut Endpoints) {
        if Instant::now() < self.due {
            return;
        }
        self.due = Instant::now() + PERIOD;
        let broken = self.restore(endpoints).await;
        let broken = (!broken.is_empty()).then(|| broken.join("; "));
        if let Some(reason) = &broken
            && self.broken.as_ref() != Some(reason)
        {
            error!("{reason}");
        }
        self.broken = broken;
        if self.unsaved.is_some() {
            self.save(endpoints);
        }
    }

    /// Creates again what was removed. Returns what can't be created.
    async fn restore(&mut self, endpoints: &mut Endpoints) -> Vec<String> {
        let mut broken = Vec::new();
        if !self.state.is_there() {
            let path = self.state.path().to_owned();
            let pins = (!self.state.mounts_bpffs()).then(|| self.state.bpf());
            match StateDir::open(&path, pins.as_deref()) {
                Ok(state) => {
                    let path = path.display();
                    warn!("the state directory {path} was removed; it is created again");
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
        if let Err(error) = self.state.set_mode() {
            broken.push(format!("{error}; its mode stays as it was"));
        }
        attach_again(endpoints);
        match self.restore_pins(endpoints) {
            Ok(0) => {}
            Ok(pinned) => warn!("pins of {pinned} programs were removed; they are created again"),
            Err(error) => broken.push(describe(error.as_ref())),
        }
        if !self.state.endpoints().exists() {
            self.save(endpoints);
        }
        let socket = file_id(&self.socket).ok();
        if self.server.as_ref().is_none_or(|(_, file)| *file != socket) {
            match self.serve_clients().await {
                Ok(()) => warn!("the control socket was removed; it is bound again"),
                Err(error) => broken.push(describe(error.as_ref())),
            }
        }
        match self.hubble.restore() {
            Ok(false) => {}
            Ok(true) => warn!("the socket of Hubble's API was removed; it is bound again"),
            Err(error) => broken.push(format!("Hubble's API: {error}")),
        }
        broken
    }

    /// Whether pods stay under the pinned programs when the agent stops.
    pub(super) fn pins_outlast_agent(&self) -> bool {
        !self.state.mounts_bpffs() || !preflight::has_private_mounts()
    }

    fn restore_pins(&mut self, endpoints: &Endpoints) -> Result<usize> {
        if self.state.mounts_bpffs() {
            bpffs::ensure_mounted(&self.state.bpf())?;
        } else {
            bpffs::require(&self.state.bpf())?;
            self.state.lock_pins()?;
        }
        endpoints.links().pin_again()
    }
}

/// Attaches programs again that another process detached.
fn attach_again(endpoints: &mut Endpoints) {
    let links = endpoints.links_mut().attach_again();
    if !links.is_empty() {
        error!(
            "another process detached programs from {}: its packets may have passed without policy \
             for up to {} s; they are attached again",
            links.join(", "),
            PERIOD.as_secs()
        );
    }
}

/// Where the control socket is bound: at `given`, or in the state directory.
///
/// # Errors
/// When the path that is given has another file, or another agent's socket.
pub(super) fn control_socket(given: Option<&Path>, state: &StateDir) -> Result<PathBuf> {
    let Some(path) = given else { return Ok(state.socket()) };
    socket_path::make_room(path, CONTROL_SOCKET)?;
    Ok(path.to_owned())
}
