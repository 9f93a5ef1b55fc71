//! The control socket: a unix stream socket that only its owner may open.
//!
//! Clients are not trusted to be well-behaved: their number, the length of a request and the time
//! to write one are bounded, and one that doesn't read its answer delays nobody else: it is
//! disconnected after [`READ_TIMEOUT`]. Long-running requests (flow records, waiting for a
//! epoch) leave [`CLIENTS_MAX`] − [`LASTING_MAX`] connections to short ones, such as `status`
//! and `endpoint-add`.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::Context;
use podgate_api::{
    Answer, ApiError, CaptureItem, ErrorCode, Family, FlowItem, REQUEST_MAX, Request,
};
use podgate_hubble::Observed;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, mpsc, oneshot};
use tracing::{debug, info, warn};

/// Most connections at a time.
pub(crate) const CLIENTS_MAX: usize = 64;

/// Most long-running requests at a time.
pub(crate) const LASTING_MAX: usize = 48;

/// How long a client may take to send a request, the time since the last one included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a client may leave its answer unread.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// What happened to clients, for the metrics.
#[derive(Debug, Default)]
pub(crate) struct ClientCounts {
    rejected: AtomicU64,
    cut_off: AtomicU64,
}

impl ClientCounts {
    /// Connections and requests that were rejected because there were too many.
    pub(crate) fn rejected(&self) -> u64 {
        self.rejected.load(Relaxed)
    }

    /// Clients that were disconnected because they didn't read.
    pub(crate) fn cut_off(&self) -> u64 {
        self.cut_off.load(Relaxed)
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

/// What clients of a socket may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Access {
    /// Everything.
    Admin,
    /// Requests that only read ([`Request::only_reads`]).
    ReadOnly,
}

/// A socket for a group, whose members may only read. Bound while the process may still give files
/// to a group; its file is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct GroupSocket {
    listener: std::os::unix::net::UnixListener,
    path: PathBuf,
}

impl Drop for GroupSocket {
    fn drop(&mut self) {
        // Fails if the file is gone already.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl GroupSocket {
    /// Binds the socket at `path`, in place of one that was left there, for `group`.
    ///
    /// # Errors
    /// When there is no such group, or the path can't be bound.
    pub(crate) fn bind(path: &Path, group: &str) -> anyhow::Result<Self> {
        let known = nix::unistd::Group::from_name(group)?;
        let known = known.with_context(|| format!("--socket-group: there is no group {group}"))?;
        let at_path = || format!("--read-socket: can't bind {}", path.display());
        match std::fs::symlink_metadata(path) {
            Ok(found) if found.file_type().is_socket() => {
                let is_served = std::os::unix::net::UnixStream::connect(path).is_ok();
                anyhow::ensure!(!is_served, "{}: another agent serves it", at_path());
                std::fs::remove_file(path).with_context(at_path)?;
            }
            _ => {}
        }
        // With the usual umask nobody else may connect before the mode is set.
        let listener = std::os::unix::net::UnixListener::bind(path).with_context(at_path)?;
        let this = Self { listener, path: path.to_owned() };
        std::os::unix::fs::chown(path, None, Some(known.gid.as_raw())).with_context(at_path)?;
        let mode = std::fs::Permissions::from_mode(0o660);
        std::fs::set_permissions(path, mode).with_context(at_path)?;
        this.listener.set_nonblocking(true).with_context(at_path)?;
        Ok(this)
    }

    /// Serves clients; their requests go to `calls`. They have places of their own, so that they
    /// never take those of the admin's socket.
    ///
    /// # Errors
    /// When the socket can't be polled.
    pub(crate) fn serve(
        &self,
        calls: mpsc::Sender<Call>,
        counts: Arc<ClientCounts>,
    ) -> io::Result<()> {
        let listener = UnixListener::from_std(self.listener.try_clone()?)?;
        let path = self.path.clone();
        let server = Server { listener, path, counts, access: Access::ReadOnly };
        tokio::spawn(server.serve(calls));
        Ok(())
    }
}

/// The listening socket; removes its file when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    listener: UnixListener,
    path: PathBuf,
    counts: Arc<ClientCounts>,
    access: Access,
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails if the file is gone already.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Server {
    /// Binds the socket at `path` with mode 0600, replacing that of an agent that was killed.
    ///
    /// The caller holds the state directory's lock, so that no live agent owns the file.
    ///
    /// # Errors
    /// When the path can't be bound.
    pub(crate) fn bind(path: &Path, counts: Arc<ClientCounts>) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // The state directory is 0700, so nobody can connect before the mode is set.
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self { listener, path: path.to_owned(), counts, access: Access::Admin })
    }

    /// Serves clients until dropped; their requests go to `calls`.
    pub(crate) async fn serve(self, calls: mpsc::Sender<Call>) {
        let places = Arc::new(Semaphore::new(CLIENTS_MAX));
        let lasting = Arc::new(Semaphore::new(LASTING_MAX));
        loop {
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Probably no file descriptor is free: wait until a client disconnects.
                    warn!(%error, "a client of the control socket could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            match Arc::clone(&places).try_acquire_owned() {
                Ok(place) => {
                    let (lasting, counts) = (Arc::clone(&lasting), Arc::clone(&self.counts));
                    let (read, write) = stream.into_split();
                    let read = BufReader::new(read);
                    let (calls, access) = (calls.clone(), self.access);
                    let client = Client { read, write, calls, lasting, counts, access };
                    tokio::spawn(serve_client(client, place));
                }
                Err(_) => {
                    self.counts.rejected.fetch_add(1, Relaxed);
                    reject(&stream);
                }
            }
        }
    }
}

/// Rejects a client because there are too many; without room in its socket it gets no message.
fn reject(stream: &UnixStream) {
    let rejected =
        ApiError::new(ErrorCode::Busy, format!("{CLIENTS_MAX} clients are connected already"));
    let _ = stream.try_write(Answer::Error(rejected).to_line().as_bytes());
}

async fn serve_client(mut client: Client, _place: OwnedSemaphorePermit) {
    if let Err(error) = client.run().await {
        debug!(%error, "a client of the control socket left");
    }
}

struct Client {
    read: BufReader<OwnedReadHalf>,
    write: OwnedWriteHalf,
    calls: mpsc::Sender<Call>,
    /// Permits for long-running requests.
    lasting: Arc<Semaphore>,
    counts: Arc<ClientCounts>,
    access: Access,
}

/// One line from a client.
enum Line {
    Complete(Vec<u8>),
    TooLong,
    Closed,
}

impl Client {
    async fn run(&mut self) -> io::Result<()> {
        loop {
            let line = match tokio::time::timeout(REQUEST_TIMEOUT, self.read_line()).await {
                Ok(line) => line?,
                Err(_) => return Err(io::ErrorKind::TimedOut.into()),
            };
            match line {
                Line::Complete(line) => match Request::parse(&line) {
                    Ok(request) => self.answer(request).await?,
                    Err(error) => self.send(Answer::Error(error)).await?,
                },
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
        if self.access == Access::ReadOnly && !request.only_reads() {
            let message = "this socket is read-only; use the admin's socket, as root";
            return self.send(Answer::Error(ApiError::new(ErrorCode::ReadOnly, message))).await;
        }
        // Held until the request is done.
        let place = match request {
            Request::Flows { .. } | Request::PolicyWait { .. } | Request::Capture(_) => {
                Some(Arc::clone(&self.lasting).try_acquire_owned())
            }
            _ => None,
        };
        if matches!(place, Some(Err(_))) {
            self.counts.rejected.fetch_add(1, Relaxed);
            let message = format!(
                "{LASTING_MAX} clients follow flows, capture or wait for an epoch already; stop one of \
                 them"
            );
            return self.send(Answer::Error(ApiError::new(ErrorCode::Busy, message))).await;
        }
        let (reply, replied) = oneshot::channel();
        let stopping = || ApiError::new(ErrorCode::Busy, "the agent is stopping");
        let outcome = match self.calls.send(Call { request, reply }).await {
            Ok(()) => replied.await.unwrap_or_else(|_| Err(stopping())),
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
    /// When the client disconnected, or read nothing for [`READ_TIMEOUT`]: then there is no room in
    /// its socket for a message, and the connection is closed.
    async fn send(&mut self, answer: Answer) -> io::Result<()> {
        let line = answer.to_line();
        let mut rest = line.as_bytes();
        while !rest.is_empty() {
            let Ok(written) = tokio::time::timeout(READ_TIMEOUT, self.write.write(rest)).await
            else {
                self.counts.cut_off.fetch_add(1, Relaxed);
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
mod tests {
    use super::*;

    /// A server whose every request is answered by `answer`.
    fn start(
        answer: impl Fn(&Request) -> Result<Reply, ApiError> + 'static,
    ) -> (tempfile::TempDir, PathBuf) {
        let (dir, path, _) = start_counted(answer);
        (dir, path)
    }

    /// The same, with what it counts.
    fn start_counted(
        answer: impl Fn(&Request) -> Result<Reply, ApiError> + 'static,
    ) -> (tempfile::TempDir, PathBuf, Arc<ClientCounts>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        let counts = Arc::new(ClientCounts::default());
        let server = Server::bind(&path, Arc::clone(&counts)).unwrap();
        let (calls, mut called) = mpsc::channel::<Call>(1);
        tokio::task::spawn_local(server.serve(calls));
        tokio::task::spawn_local(async move {
            while let Some(call) = called.recv().await {
                let _ = call.reply.send(answer(&call.request));
            }
        });
        (dir, path, counts)
    }

    fn run<T>(test: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, test)
    }

    fn echo(request: &Request) -> Result<Reply, ApiError> {
        Ok(Reply::Value(json!(request)))
    }

    async fn exchange(path: &Path, bytes: &[u8]) -> String {
        let mut stream = UnixStream::connect(path).await.unwrap();
        // The server may answer and close before it has read everything.
        let _ = stream.write_all(bytes).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }

    fn code(answer: &str) -> ErrorCode {
        match Answer::parse(answer).unwrap() {
            Answer::Error(error) => error.code,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_socket_belongs_to_its_owner_only_and_goes_with_the_server() {
        run(async {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("s.sock");
            drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
            let server = Server::bind(&path, Arc::default()).unwrap();
            let metadata = std::fs::metadata(&path).unwrap();
            assert!(metadata.file_type().is_socket());
            assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
            drop(server);
            assert!(!path.exists());
        });
    }

    #[test]
    fn members_of_the_group_may_read_and_change_nothing() {
        run(async {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("read.sock");
            let group = nix::unistd::Group::from_gid(nix::unistd::getegid()).unwrap().unwrap();
            let socket = GroupSocket::bind(&path, &group.name).unwrap();
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
            let (calls, mut called) = mpsc::channel::<Call>(1);
            socket.serve(calls, Arc::default()).unwrap();
            tokio::task::spawn_local(async move {
                while let Some(call) = called.recv().await {
                    let _ = call.reply.send(echo(&call.request));
                }
            });
            let remove = Request::EndpointRemove { link: "veth0".into() };
            assert_eq!(
                code(&exchange(&path, remove.to_line().as_bytes()).await),
                ErrorCode::ReadOnly
            );
            let clean = Request::FqdnClean { pattern: None };
            assert_eq!(
                code(&exchange(&path, clean.to_line().as_bytes()).await),
                ErrorCode::ReadOnly
            );
            let status = exchange(&path, Request::Status {}.to_line().as_bytes()).await;
            assert!(matches!(Answer::parse(status.trim_end()), Ok(Answer::Result(_))), "{status}");
            drop(socket);
            assert!(!path.exists());
            // Files of others are left alone.
            std::fs::write(&path, "").unwrap();
            assert!(GroupSocket::bind(&path, &group.name).is_err() && path.exists());
            assert!(GroupSocket::bind(&path, "no such group").is_err());
        });
    }

    #[test]
    fn several_requests_pass_over_one_connection() {
        run(async {
            let (_dir, path) = start(echo);
            let lines = Request::Status {}.to_line() + &Request::EndpointList {}.to_line();
            let answer = exchange(&path, lines.as_bytes()).await;
            let commands: Vec<_> = answer
                .lines()
                .map(|line| match Answer::parse(line).unwrap() {
                    Answer::Result(value) => value["command"].clone(),
                    other => panic!("{other:?}"),
                })
                .collect();
            assert_eq!(commands, ["status", "endpoint-list"]);
        });
    }

    #[test]
    fn garbage_is_rejected_and_the_connection_stays_open() {
        run(async {
            let (_dir, path) = start(echo);
            let mut bytes = b"\xff\x00{{\n\n[1]\n".to_vec();
            bytes.extend(Request::Status {}.to_line().into_bytes());
            let answer = exchange(&path, &bytes).await;
            let answers: Vec<_> = answer.lines().map(|line| Answer::parse(line).unwrap()).collect();
            assert_eq!(answers.len(), 4);
            assert!(answers[..3].iter().all(|answer| matches!(answer, Answer::Error(_))));
            assert!(matches!(answers[3], Answer::Result(_)));
        });
    }

    #[test]
    fn a_line_that_is_too_long_is_rejected_and_the_connection_closed() {
        run(async {
            let (_dir, path) = start(echo);
            let answer = exchange(&path, &vec![b'x'; 3 * REQUEST_MAX]).await;
            assert_eq!(answer.lines().count(), 1);
            assert_eq!(code(&answer), ErrorCode::TooLong);
        });
    }

    #[test]
    fn half_a_line_is_no_request() {
        run(async {
            let (_dir, path) = start(|_| panic!("half a request was carried out"));
            let line = Request::EndpointRemove { link: "veth0".into() }.to_line();
            let answer = exchange(&path, line.trim_end().as_bytes()).await;
            assert_eq!(answer, "");
        });
    }

    #[test]
    fn clients_beyond_the_limit_are_turned_away_and_places_are_given_back() {
        run(async {
            let (_dir, path) = start(echo);
            let mut idle = Vec::new();
            for _ in 0..CLIENTS_MAX {
                let mut stream = UnixStream::connect(&path).await.unwrap();
                stream.write_all(Request::Status {}.to_line().as_bytes()).await.unwrap();
                let mut answer = [0];
                stream.read_exact(&mut answer).await.unwrap();
                idle.push(stream);
            }
            assert_eq!(code(&exchange(&path, b"").await), ErrorCode::Busy);
            drop(idle);
            let line = Request::Status {}.to_line();
            while Answer::parse(exchange(&path, line.as_bytes()).await.trim_end())
                .is_ok_and(|answer| matches!(answer, Answer::Error(_)))
            {
                tokio::task::yield_now().await;
            }
        });
    }

    /// Items that the client asked to begin with.
    fn past(count: usize) -> Vec<Arc<Observed>> {
        std::iter::repeat_n(lost(7), count).collect()
    }

    /// An item of the flow log.
    fn lost(count: u64) -> Arc<Observed> {
        let time = jiff::Timestamp::UNIX_EPOCH;
        Arc::new(Observed { number: 0, time, item: FlowItem::Lost(count) })
    }

    /// Follows flows and reads nothing.
    async fn follow(path: &Path) -> UnixStream {
        let mut stream = UnixStream::connect(path).await.unwrap();
        let line = Request::Flows { follow: true, last: 0 }.to_line();
        stream.write_all(line.as_bytes()).await.unwrap();
        stream
    }

    #[test]
    fn followers_leave_places_to_commands() {
        run(async {
            let (sender, _) = broadcast::channel(4);
            let publisher = sender.clone();
            let (_dir, path, counts) = start_counted(move |request| match request {
                Request::Flows { .. } => {
                    let live = Some(sender.subscribe());
                    Ok(Reply::Flows { past: Vec::new(), live })
                }
                other => Ok(Reply::Value(json!(other))),
            });
            let mut followers = Vec::new();
            for _ in 0..LASTING_MAX {
                followers.push(follow(&path).await);
            }
            while publisher.receiver_count() < LASTING_MAX {
                tokio::task::yield_now().await;
            }
            // One more is rejected and told why, and commands are carried out.
            let mut rejected = BufReader::new(follow(&path).await).lines();
            assert_eq!(code(&rejected.next_line().await.unwrap().unwrap()), ErrorCode::Busy);
            assert_eq!(counts.rejected(), 1);
            for _ in LASTING_MAX..CLIENTS_MAX {
                let line = Request::EndpointRemove { link: "veth0".into() }.to_line();
                let answer = exchange(&path, line.as_bytes()).await;
                assert!(matches!(Answer::parse(answer.trim_end()), Ok(Answer::Result(_))));
            }
            // A place is given back when its follower leaves.
            followers.pop();
            while publisher.receiver_count() >= LASTING_MAX {
                tokio::task::yield_now().await;
            }
            followers.push(follow(&path).await);
            while publisher.receiver_count() < LASTING_MAX {
                tokio::task::yield_now().await;
            }
        });
    }

    #[test]
    fn a_client_that_does_not_read_is_cut_off_and_counted() {
        run(async {
            // Time passes by itself while everybody waits.
            tokio::time::pause();
            let (_dir, path, counts) = start_counted(|_| {
                // More than any socket's buffer holds.
                Ok(Reply::Flows { past: past(100_000), live: None })
            });
            let mut stream = follow(&path).await;
            while counts.cut_off() == 0 {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            // What was sent before can still be read; then the connection ends.
            let mut read = String::new();
            stream.read_to_string(&mut read).await.unwrap();
            let sent = read.lines().count();
            assert!(sent > 1 && sent < 100_000, "{sent} lines");
        });
    }

    #[test]
    fn a_client_that_reads_slowly_is_not_cut_off() {
        run(async {
            tokio::time::pause();
            let (_dir, path, counts) =
                start_counted(|_| Ok(Reply::Flows { past: past(20_000), live: None }));
            let mut stream = follow(&path).await;
            let (mut read, mut part) = (Vec::new(), [0; 16 * 1024]);
            while !read.ends_with(Answer::End(true).to_line().as_bytes()) {
                tokio::time::sleep(READ_TIMEOUT / 2).await;
                let n = stream.read(&mut part).await.unwrap();
                assert!(n > 0, "cut off");
                read.extend(&part[..n]);
            }
            assert_eq!(counts.cut_off(), 0);
        });
    }

    #[test]
    fn a_follower_that_lags_is_told_how_much_it_lost() {
        run(async {
            let (sender, _) = broadcast::channel(4);
            let publisher = sender.clone();
            let (_dir, path) = start(move |_| {
                let live = Some(sender.subscribe());
                // Overflows the channel before the follower's task runs again.
                for _ in 0..10 {
                    sender.send(lost(0)).unwrap();
                }
                Ok(Reply::Flows { past: Vec::new(), live })
            });
            let mut stream = UnixStream::connect(&path).await.unwrap();
            let line = Request::Flows { follow: true, last: 0 }.to_line();
            stream.write_all(line.as_bytes()).await.unwrap();
            let mut lines = BufReader::new(stream).lines();
            let first = lines.next_line().await.unwrap().unwrap();
            assert_eq!(Answer::parse(&first), Ok(Answer::Item(json!(FlowItem::Lost(6)))));
            for _ in 0..4 {
                let line = lines.next_line().await.unwrap().unwrap();
                assert_eq!(Answer::parse(&line), Ok(Answer::Item(json!(FlowItem::Lost(0)))));
            }
            drop(lines);
            // Its receiver goes with it.
            while publisher.receiver_count() > 0 {
                tokio::task::yield_now().await;
            }
        });
    }
}
