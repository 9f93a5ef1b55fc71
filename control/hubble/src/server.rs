//! Sockets: a unix socket that only its owner may open, and optionally a TCP port with TLS.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener as StdTcpListener};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use futures_util::{Stream, stream};
use podgate_api::limits::{ACCEPT_PAUSE, PING_TIMEOUT, ServerLimits};
use podgate_api::places::{Place, Places, Requested};
use podgate_api::socket_file::{SocketFile, file_id};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::time::{Sleep, sleep};
use tonic::service::{InterceptorLayer, Routes};
use tonic::transport::server::Connected;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Request, Status};
use tracing::warn;

use crate::agent_events::AgentEvents;
use crate::flow::Translator;
use crate::observer::{ObserverService, STREAMS_MAX};
use crate::peers::{HealthService, Node, PeerService};
use crate::proto::health::health_server::HealthServer;
use crate::proto::observer::observer_server::ObserverServer;
use crate::proto::peer::peer_server::PeerServer;
use crate::source::FlowSource;

/// Of each socket: clients by TCP, which may be any host's, don't use up connections of the unix
/// socket.
const LIMITS: ServerLimits = ServerLimits::HUBBLE;
/// Largest request, bytes.
const REQUEST_MAX: usize = 1 << 16;
/// Most requests of a socket that have come in part, or are not answered yet: each has memory.
const REQUESTS_MAX: usize = 64;

/// A TCP port to listen on.
#[derive(Clone, Debug)]
pub struct Tcp {
    /// Its address.
    pub address: SocketAddr,
    /// Its certificates; without them it is served without TLS.
    pub tls: Option<TlsFiles>,
}

/// PEM files of a TLS server.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The server's certificate, then those that signed it.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Certificates of which one must have signed a client's; without them clients need none.
    pub client_ca: Option<PathBuf>,
}

/// A socket can't be opened.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub struct ListenError {
    /// The socket or file.
    what: String,
    /// Why.
    source: io::Error,
}

/// The unix socket. Its file is removed when this is dropped.
#[derive(Debug)]
pub struct UnixSocket {
    path: PathBuf,
    file: Mutex<SocketFile>,
    /// What the server accepts connections of.
    listener: watch::Sender<Arc<StdUnixListener>>,
}

impl UnixSocket {
    /// Binds `path`, where no file is.
    fn bind(path: &Path) -> io::Result<Self> {
        let (listener, file) = bind(path)?;
        let (listener, file) = (watch::Sender::new(Arc::new(listener)), Mutex::new(file));
        Ok(Self { path: path.to_owned(), file, listener })
    }

    /// Binds the path again if the file was removed. Returns whether it was. Connections stay.
    ///
    /// # Errors
    /// When the path can't be bound, or another file is there.
    pub fn restore(&self) -> Result<bool, ListenError> {
        let at_path = |source| ListenError { what: self.path.display().to_string(), source };
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        match file_id(&self.path) {
            Ok(found) if found == file.id() => return Ok(false),
            Ok(_) => {
                let other = "another file is in the place of the socket; remove it";
                return Err(at_path(io::Error::other(other)));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(at_path(error)),
        }
        let (listener, bound) = bind(&self.path).map_err(at_path)?;
        *file = bound;
        self.listener.send_replace(Arc::new(listener));
        Ok(true)
    }
}

/// Binds a socket that only its owner may open; its folder is created.
fn bind(path: &Path) -> io::Result<(StdUnixListener, SocketFile)> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let listener = StdUnixListener::bind(path)?;
    let file = SocketFile::of_bound(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok((listener, file))
}

/// Open sockets.
#[derive(Debug)]
pub struct Listeners {
    unix: Arc<UnixSocket>,
    tcp: Option<(StdTcpListener, Option<ServerTlsConfig>)>,
}

impl Listeners {
    /// Opens the unix socket `path`, where no file is, and the TCP port.
    ///
    /// # Errors
    /// When a socket can't be opened, or a certificate can't be read.
    pub fn open(path: &Path, tcp: Option<&Tcp>) -> Result<Self, ListenError> {
        let at_path = |source| ListenError { what: path.display().to_string(), source };
        let tcp = tcp.map(open_tcp).transpose()?;
        let unix = Arc::new(UnixSocket::bind(path).map_err(at_path)?);
        Ok(Self { unix, tcp })
    }

    /// The unix socket.
    #[must_use]
    pub fn unix(&self) -> &Arc<UnixSocket> {
        &self.unix
    }

    /// The port that was opened.
    #[must_use]
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref()?.0.local_addr().ok()
    }
}

fn open_tcp(tcp: &Tcp) -> Result<(StdTcpListener, Option<ServerTlsConfig>), ListenError> {
    let at_address = |source| ListenError { what: tcp.address.to_string(), source };
    let tls = tcp.tls.as_ref().map(tls_config).transpose()?;
    let listener = StdTcpListener::bind(tcp.address).map_err(at_address)?;
    listener.set_nonblocking(true).map_err(at_address)?;
    Ok((listener, tls))
}

fn tls_config(files: &TlsFiles) -> Result<ServerTlsConfig, ListenError> {
    let read = |path: &Path| {
        let what = path.display().to_string();
        std::fs::read(path).map_err(|source| ListenError { what, source })
    };
    let identity = Identity::from_pem(read(&files.certificate)?, read(&files.key)?);
    let config = ServerTlsConfig::new().identity(identity);
    let config = match &files.client_ca {
        Some(ca) => config.client_ca_root(Certificate::from_pem(read(ca)?)),
        None => config,
    };
    // Reads the certificates, so that wrong ones are an error at the start.
    let checked = Server::builder().tls_config(config.clone());
    checked.map(|_| config).map_err(|error| {
        let what = files.certificate.display().to_string();
        ListenError { what, source: io::Error::other(chain(&error)) }
    })
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// What the services need to know.
#[derive(Debug)]
pub struct Config {
    /// Makes flows.
    pub translator: Arc<Translator>,
    /// Version of the program.
    pub version: String,
    /// All nodes that serve flows, this one among them.
    pub nodes: watch::Receiver<Vec<Node>>,
    /// Events of the agent.
    pub agent_events: Arc<AgentEvents>,
}

/// The services of one socket. Each has streams of its own, so that clients of one take none from
/// those of the other.
fn routes(config: &Config, source: Arc<impl FlowSource>) -> Routes {
    let observer = ObserverService {
        source,
        agent_events: Arc::clone(&config.agent_events),
        translator: Arc::clone(&config.translator),
        nodes: config.nodes.clone(),
        version: config.version.clone(),
        started: Instant::now(),
        streams: Arc::new(Semaphore::new(STREAMS_MAX)),
    };
    let peers = PeerService { nodes: config.nodes.clone() };
    let observer = ObserverServer::new(observer).max_decoding_message_size(REQUEST_MAX);
    let peers = PeerServer::new(peers).max_decoding_message_size(REQUEST_MAX);
    let health = HealthServer::new(HealthService).max_decoding_message_size(REQUEST_MAX);
    Routes::new(observer).add_service(peers).add_service(health)
}

/// Serves clients of the unix socket until this is dropped.
///
/// # Errors
/// When the socket can't be used.
pub async fn serve_unix(
    listeners: &Listeners,
    config: &Config,
    source: Arc<impl FlowSource>,
) -> io::Result<()> {
    let mut bound = listeners.unix.listener.subscribe();
    let first = listener_on_runtime(&mut bound)?;
    let (to, unix) = watch::channel(first);
    let rebound = async {
        while bound.changed().await.is_ok() {
            to.send_replace(listener_on_runtime(&mut bound)?);
        }
        std::future::pending().await
    };
    let accept = move || accept_unix(unix.clone());
    let served = builder()
        .layer(InterceptorLayer::new(take_requests()))
        .add_routes(routes(config, source))
        .serve_with_incoming(incoming(accept));
    tokio::select! {
        served = served => served.map_err(io::Error::other),
        failed = rebound => failed,
    }
}

/// Serves clients of the TCP port, if there is one, until this is dropped. What they ask for may
/// take any time: clients of the unix socket have to be served by another thread.
///
/// # Errors
/// When the port can't be used.
pub async fn serve_tcp(
    listeners: &Listeners,
    config: &Config,
    source: Arc<impl FlowSource>,
) -> io::Result<()> {
    let Some((listener, tls)) = &listeners.tcp else { return Ok(()) };
    let tcp = Arc::new(TcpListener::from_std(listener.try_clone()?)?);
    let accept = move || {
        let tcp = Arc::clone(&tcp);
        async move { tcp.accept().await.map(|(stream, client)| (stream, Some(client.ip()))) }
    };
    let mut builder = builder();
    if let Some(tls) = tls {
        builder = builder.tls_config(tls.clone()).map_err(io::Error::other)?;
    }
    let mut builder = builder.layer(InterceptorLayer::new(take_requests()));
    let served = builder.add_routes(routes(config, source)).serve_with_incoming(incoming(accept));
    served.await.map_err(io::Error::other)
}

/// What was bound last, for the runtime that this runs on.
fn listener_on_runtime(
    bound: &mut watch::Receiver<Arc<StdUnixListener>>,
) -> io::Result<Arc<UnixListener>> {
    let listener = bound.borrow_and_update().try_clone()?;
    UnixListener::from_std(listener).map(Arc::new)
}

/// The next connection to the listener that was bound last.
async fn accept_unix(
    mut listeners: watch::Receiver<Arc<UnixListener>>,
) -> io::Result<(UnixStream, Option<IpAddr>)> {
    loop {
        let listener = Arc::clone(&listeners.borrow_and_update());
        tokio::select! {
            accepted = listener.accept() => return accepted.map(|(stream, _)| (stream, None)),
            Ok(()) = listeners.changed() => {}
        }
    }
}

fn builder() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(LIMITS.silence))
        .http2_keepalive_timeout(Some(PING_TIMEOUT))
        .max_concurrent_streams(Some(STREAMS_MAX as u32))
        // Of a request and the head of its answer, not of a stream.
        .timeout(LIMITS.request)
}

/// A connection that counts towards the limit.
struct Connection<T> {
    stream: T,
    /// Until when the first request has to come; none once it has.
    deadline: Option<Pin<Box<Sleep>>>,
    /// Ends when the connection loses its place.
    loses_place: oneshot::Receiver<Infallible>,
    place: Place<HasPlace>,
}

/// Dropped when a connection loses its place.
type HasPlace = oneshot::Sender<Infallible>;

/// Records that a request came on its connection.
fn note_request(request: &Request<()>) {
    if let Some(requested) = request.extensions().get::<Requested>() {
        requested.set();
    }
}

/// Takes the requests of a socket as they begin, up to [`REQUESTS_MAX`] at a time.
fn take_requests() -> impl Fn(Request<()>) -> Result<Request<()>, Status> + Clone {
    let places = Arc::new(Semaphore::new(REQUESTS_MAX));
    move |mut request| {
        note_request(&request);
        let place = Arc::clone(&places).try_acquire_owned();
        let too_many =
            |_| Status::resource_exhausted(format!("{REQUESTS_MAX} requests are not answered yet"));
        // The request has its place until it is dropped, when it is answered.
        request.extensions_mut().insert(Arc::new(place.map_err(too_many)?));
        Ok(request)
    }
}

/// Connections, at most as many as [`LIMITS`] says; others are closed, as are those without a
/// request in time.
fn incoming<T, F: Future<Output = io::Result<(T, Option<IpAddr>)>>>(
    accept: impl Fn() -> F,
) -> impl Stream<Item = io::Result<Connection<T>>> {
    let places = Places::new(LIMITS.connections);
    stream::unfold((accept, places), move |(accept, places)| async move {
        loop {
            match accept().await {
                Ok((stream, source)) => {
                    if let Some(connection) = Connection::new(stream, source, &places) {
                        return Some((Ok(connection), (accept, places)));
                    }
                    let max = LIMITS.connections;
                    warn!("{max} clients of Hubble's API are connected already");
                }
                Err(error) => {
                    warn!(%error, "a client of Hubble's API could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    })
}

impl<T> Connection<T> {
    /// A connection from `source`, if there is a place for it.
    fn new(stream: T, source: Option<IpAddr>, places: &Arc<Places<HasPlace>>) -> Option<Self> {
        let (has_place, loses_place) = oneshot::channel();
        let place = places.take(source, has_place)?;
        let deadline = Some(Box::pin(sleep(LIMITS.request)));
        Some(Self { stream, deadline, loses_place, place })
    }

    /// Fails once the place is lost; wakes the caller then.
    fn poll_place(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        // It must not be polled again after it ended.
        if self.loses_place.is_terminated() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        match Pin::new(&mut self.loses_place).poll(context) {
            Poll::Ready(_) => Err(io::ErrorKind::ConnectionAborted.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl<T> Connected for Connection<T> {
    type ConnectInfo = Requested;

    fn connect_info(&self) -> Requested {
        self.place.requested().clone()
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Connection<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.deadline.is_some() && self.place.requested().get() {
            self.deadline = None;
        }
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        self.poll_place(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Connection<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_place(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream as StdUnixStream;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[test]
    fn a_socket_that_another_program_serves_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hubble.sock");
        let served = StdUnixListener::bind(&path).unwrap();
        let error = Listeners::open(&path, None).unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::AddrInUse);
        let _client = StdUnixStream::connect(&path).unwrap();
        served.accept().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_a_request_in_time_fails_whatever_else_comes() {
        let places = Places::new(1);
        for said in [&b""[..], b"\x16\x03\x01"] {
            let (mut client, accepted) = UnixStream::pair().unwrap();
            client.write_all(said).await.unwrap();
            let mut accepted = Connection::new(accepted, None, &places).unwrap();
            let error = accepted.read_to_end(&mut Vec::new()).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_stays_once_a_request_has_come() {
        let places = Places::new(1);
        let (mut client, accepted) = UnixStream::pair().unwrap();
        let mut accepted = Connection::new(accepted, None, &places).unwrap();
        let mut request = Request::new(());
        request.extensions_mut().insert(accepted.connect_info());
        note_request(&request);
        sleep(LIMITS.request).await;
        client.write_all(b"more").await.unwrap();
        accepted.read_exact(&mut [0; 4]).await.unwrap();
    }

    #[test]
    fn requests_of_a_socket_are_limited_until_they_are_dropped() {
        let take = take_requests();
        let mut taken: Vec<_> =
            (0..REQUESTS_MAX).map(|_| take(Request::new(())).unwrap()).collect();
        let error = take.clone()(Request::new(())).unwrap_err();
        assert_eq!(error.code(), tonic::Code::ResourceExhausted);
        taken.pop();
        take(Request::new(())).unwrap();
        // Another socket has its own.
        take_requests()(Request::new(())).unwrap();
    }

    #[tokio::test]
    async fn a_connection_that_lost_its_place_ends() {
        let places = Places::new(2);
        let of = |last| Some(IpAddr::from([10, 0, 0, last]));
        let (_client, accepted) = UnixStream::pair().unwrap();
        let mut oldest = Connection::new(accepted, of(1), &places).unwrap();
        let (_client, accepted) = UnixStream::pair().unwrap();
        let _second = Connection::new(accepted, of(1), &places).unwrap();
        let (_client, accepted) = UnixStream::pair().unwrap();
        let _other = Connection::new(accepted, of(2), &places).unwrap();
        let error = oldest.read_to_end(&mut Vec::new()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
        // Whatever else is tried with it.
        let error = oldest.write_all(b"bye").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
        let error = oldest.read_to_end(&mut Vec::new()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
    }
}
