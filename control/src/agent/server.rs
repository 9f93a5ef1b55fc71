//! The control socket, which only its owner may open, and the read-only one of a group.
//!
//! A client that doesn't read its answer delays no other client, and is disconnected; see
//! [`podgate_api::limits`]. One that sends no request yields its place when all are taken
//! ([`Places`]). Long-running requests (flow records, captures, waiting for an epoch)
//! leave some connections to short ones.

use std::convert::Infallible;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use anyhow::{Context, Result};
use podgate_api::limits::{ACCEPT_PAUSE, LONG_RUNNING_MAX, ServerLimits};
use podgate_api::places::{Place, Places, Requested};
use podgate_api::socket_file::{FileId, SocketFile};
use podgate_api::{
    Answer, Answering, ApiError, CaptureItem, ClientAccess, ErrorCode, Family, FlowItem,
    REQUEST_MAX, Request,
};
use podgate_hubble::Observed;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Semaphore, broadcast, mpsc, oneshot};
use tracing::{debug, info, warn};

use super::socket_path::make_room;

/// What the socket is for, in errors.
pub(super) const CONTROL_SOCKET: &str = "the control socket (--control-socket names another path)";

/// Limits of each socket. The time for a request runs from the previous answer.
const LIMITS: ServerLimits = ServerLimits::CONTROL;

/// What happened to clients, for the metrics.
#[derive(Debug, Default)]
pub(crate) struct ClientCounts {
    rejected: AtomicU64,
    disconnected: AtomicU64,
}

impl ClientCounts {
    /// Connections and requests that were rejected because there were too many.
    pub(crate) fn rejected(&self) -> u64 {
        self.rejected.load(Relaxed)
    }

    /// Clients that were disconnected because they didn't read.
    pub(crate) fn disconnected(&self) -> u64 {
        self.disconnected.load(Relaxed)
    }
}

/// Where the reply to a request goes.
pub(crate) type ReplySender = oneshot::Sender<Result<Reply, ApiError>>;

/// A request on its way to the agent.
#[derive(Debug)]
pub(crate) struct Call {
    /// The request.
    pub(crate) request: Request,
    /// Where the reply goes.
    pub(crate) reply: ReplySender,
}

/// What the agent replies.
#[derive(Debug)]
pub(crate) enum Reply {
    /// One value.
    Value(Value),
    /// Metrics.
    Metrics(Vec<Family>),
    /// Captured packets.
    Capture(mpsc::Receiver<CaptureItem>),
    /// Past records and, for a client that follows, new ones.
    Flows {
        /// Oldest first.
        past: Vec<Arc<Observed>>,
        /// New records.
        live: Option<broadcast::Receiver<Arc<Observed>>>,
    },
}

/// The listening socket.
#[derive(Debug)]
pub(crate) struct Server {
    listener: UnixListener,
    /// Removed on drop; `None` if the file has another owner.
    file: Option<SocketFile>,
    counts: Arc<ClientCounts>,
    /// What its clients may do.
    access: ClientAccess,
}

impl Server {
    /// Binds the socket at `path` with mode 0600, in place of one that is not served.
    ///
    /// # Errors
    /// When the path can't be bound.
    pub(super) fn bind(path: &Path, counts: Arc<ClientCounts>) -> Result<Self> {
        make_room(path, CONTROL_SOCKET)?;
        let at_path = || format!("can't bind {} for {CONTROL_SOCKET}", path.display());
        // No other user may connect before the mode is set: the state directory is 0700, and
        // elsewhere the usual umask lets only root write.
        let listener = UnixListener::bind(path).with_context(at_path)?;
        let file = Some(SocketFile::of_bound(path).with_context(at_path)?);
        let owner_only = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(path, owner_only).with_context(at_path)?;
        Ok(Self { listener, file, counts, access: ClientAccess::Admin })
    }

    /// A server of a bound socket whose clients may only read.
    pub(super) const fn read_only(listener: UnixListener, counts: Arc<ClientCounts>) -> Self {
        Self { listener, file: None, counts, access: ClientAccess::ReadOnly }
    }

    /// The file that it bound.
    pub(super) fn file_id(&self) -> Option<FileId> {
        self.file.as_ref().map(SocketFile::id)
    }

    /// Serves clients until dropped; their requests go to `calls`.
    pub(crate) async fn serve(self, calls: mpsc::Sender<Call>) {
        let places = Places::new(LIMITS.connections);
        let long_running = Arc::new(Semaphore::new(LONG_RUNNING_MAX));
        loop {
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    warn!(%error, "a client of the control socket could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let (has_place, loses_place) = oneshot::channel();
            let Some(place) = places.take(None, has_place) else {
                self.counts.rejected.fetch_add(1, Relaxed);
                reject(&stream);
                continue;
            };
            let (long_running, counts) = (Arc::clone(&long_running), Arc::clone(&self.counts));
            let (read, write) = stream.into_split();
            let read = BufReader::new(read);
            let (calls, access) = (calls.clone(), self.access);
            let requested = place.requested().clone();
            let client = Connection { read, write, calls, long_running, counts, access, requested };
            tokio::spawn(serve_client(client, place, loses_place));
        }
    }
}

/// Dropped when a client loses its place.
type HasPlace = oneshot::Sender<Infallible>;

/// Rejects a client because there are too many; without room in its socket it gets no message.
fn reject(stream: &UnixStream) {
    let message = format!("{} clients are connected already", LIMITS.connections);
    let rejected = ApiError::new(ErrorCode::Busy, message);
    let _ = stream.try_write(Answer::Error(rejected).to_line().as_bytes());
}

async fn serve_client(
    mut client: Connection,
    _place: Place<HasPlace>,
    loses_place: oneshot::Receiver<Infallible>,
) {
    tokio::select! {
        left = client.run() => if let Err(error) = left {
            debug!(%error, "a client of the control socket left");
        },
        _ = loses_place => {
            client.counts.rejected.fetch_add(1, Relaxed);
            reject(client.write.as_ref());
        }
    }
}

struct Connection {
    read: BufReader<OwnedReadHalf>,
    write: OwnedWriteHalf,
    calls: mpsc::Sender<Call>,
    /// Permits for long-running requests.
    long_running: Arc<Semaphore>,
    counts: Arc<ClientCounts>,
    access: ClientAccess,
    requested: Requested,
}

/// Returns when the client has disconnected. A request that it sends before its answer stays
/// unread.
async fn disconnected(read: &mut BufReader<OwnedReadHalf>) {
    match read.fill_buf().await {
        Ok([]) | Err(_) => {}
        Ok(_) => std::future::pending().await,
    }
}

/// One line from a client.
enum Line {
    Complete(Vec<u8>),
    TooLong,
    Closed,
}

impl Connection {
    async fn run(&mut self) -> io::Result<()> {
        loop {
            let line = match tokio::time::timeout(LIMITS.request, self.read_line()).await {
                Ok(line) => line?,
                Err(_) => return Err(io::ErrorKind::TimedOut.into()),
            };
            match line {
                Line::Complete(line) => {
                    self.requested.set();
                    match Request::parse(&line) {
                        Ok(request) => self.answer(request).await?,
                        Err(error) => self.send(Answer::Error(error)).await?,
                    }
                }
                Line::TooLong => {
                    let message = format!("a request has at most {REQUEST_MAX} bytes");
                    let error = ApiError::new(ErrorCode::TooLong, message);
                    // The end of the request is unknown, so nothing can follow it.
                    return self.send(Answer::Error(error)).await;
                }
                Line::Closed => return Ok(()),
            }
        }
    }

    async fn read_line(&mut self) -> io::Result<Line> {
        let mut line = Vec::new();
        let limit = REQUEST_MAX as u64;
        let read = (&mut self.read).take(limit).read_until(b'\n', &mut line).await?;
        Ok(match line.last() {
            Some(b'\n') => Line::Complete(line),
            _ if read == REQUEST_MAX => Line::TooLong,
            // A stream that ends within a line has no further request.
            _ => Line::Closed,
        })
    }

    async fn answer(&mut self, request: Request) -> io::Result<()> {
        if self.access == ClientAccess::ReadOnly && request.access() == ClientAccess::Admin {
            let message = "this socket is read-only; use the admin's socket, as root";
            return self.send(Answer::Error(ApiError::new(ErrorCode::ReadOnly, message))).await;
        }
        // Held until the request is done.
        let answering = request.answering();
        let place =
            answering.is_long_running().then(|| Arc::clone(&self.long_running).try_acquire_owned());
        if matches!(place, Some(Err(_))) {
            self.counts.rejected.fetch_add(1, Relaxed);
            let message = format!(
                "{LONG_RUNNING_MAX} clients follow flows, capture or wait for an epoch already; stop \
                 one of them"
            );
            return self.send(Answer::Error(ApiError::new(ErrorCode::Busy, message))).await;
        }
        let (reply, replied) = oneshot::channel();
        let stopping = || ApiError::new(ErrorCode::Busy, "the agent is stopping");
        let may_wait = matches!(answering, Answering::Waits(_));
        let outcome = match self.calls.send(Call { request, reply }).await {
            Ok(()) => tokio::select! {
                biased;
                replied = replied => replied.unwrap_or_else(|_| Err(stopping())),
                () = disconnected(&mut self.read), if may_wait => return Ok(()),
            },
            Err(_) => Err(stopping()),
        };
        match outcome {
            Ok(Reply::Value(value)) => self.send(Answer::Result(value)).await,
            Ok(Reply::Metrics(families)) => self.send(Answer::Result(json!(families))).await,
            Ok(Reply::Capture(copies)) => self.stream_capture(copies).await,
            Ok(Reply::Flows { past, live }) => self.stream_flows(past, live).await,
            Err(error) => self.send(Answer::Error(error)).await,
        }
    }

    async fn stream_flows(
        &mut self,
        past: Vec<Arc<Observed>>,
        live: Option<broadcast::Receiver<Arc<Observed>>>,
    ) -> io::Result<()> {
        for observed in past {
            self.send(Answer::Item(json!(observed.item))).await?;
        }
        if let Some(mut live) = live {
            let mut unused = [0];
            loop {
                let received = tokio::select! {
                    received = live.recv() => received,
                    // A client that follows sends nothing more, unless it disconnects.
                    _ = self.read.read(&mut unused) => return Ok(()),
                };
                match received {
                    Ok(observed) => self.send(Answer::Item(json!(observed.item))).await?,
                    Err(RecvError::Lagged(lost)) => {
                        self.send(Answer::Item(json!(FlowItem::Lost(lost)))).await?;
                    }
                    Err(RecvError::Closed) => break,
                }
            }
        }
        self.send(Answer::End(true)).await
    }

    async fn stream_capture(&mut self, mut copies: mpsc::Receiver<CaptureItem>) -> io::Result<()> {
        let mut unused = [0];
        loop {
            let received = tokio::select! {
                received = copies.recv() => received,
                // A client that captures sends nothing more, unless it disconnects.
                _ = self.read.read(&mut unused) => return Ok(()),
            };
            match received {
                Some(item) => self.send(Answer::Item(json!(item))).await?,
                None => return self.send(Answer::End(true)).await,
            }
        }
    }

    /// Sends one line.
    ///
    /// # Errors
    /// When the client disconnected, or read nothing for [`ServerLimits::silence`]: then there is
    /// no room in its socket for a message, and the connection is closed.
    async fn send(&mut self, answer: Answer) -> io::Result<()> {
        let line = answer.to_line();
        let mut rest = line.as_bytes();
        while !rest.is_empty() {
            let Ok(written) = tokio::time::timeout(LIMITS.silence, self.write.write(rest)).await
            else {
                self.counts.disconnected.fetch_add(1, Relaxed);
                info!("a client of the control socket that didn't read was disconnected");
                return Err(io::ErrorKind::TimedOut.into());
            };
            match written? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                written => rest = &rest[written..],
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
