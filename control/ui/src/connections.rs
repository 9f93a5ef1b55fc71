//! Connections: their number, which of them yield to others, and how long they may be silent.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use podgate_api::limits::{ACCEPT_PAUSE, ServerLimits};
use podgate_api::places::{Place, Places, Requested};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep};

/// Further connections on loopback wait until another one ends, or yields its place ([`Places`]).
const LIMITS: ServerLimits = ServerLimits::WEB;

/// How long a connection may be silent.
#[derive(Clone, Copy, Debug)]
struct Timeouts {
    /// From its start to the end of the header of its first request.
    header: Duration,
    /// Afterwards, between two bytes in any direction.
    idle: Duration,
}

/// A stream of flows is never idle: it has a comment each 15 seconds.
const TIMEOUTS: Timeouts = Timeouts { header: LIMITS.request, idle: LIMITS.silence };

/// Dropped when a connection loses its place.
type HasPlace = oneshot::Sender<Infallible>;

/// A listener with as many connections at a time as [`LIMITS`] allows.
pub(crate) struct Limited {
    listener: TcpListener,
    places: Arc<Places<HasPlace>>,
    timeouts: Timeouts,
}

impl Limited {
    /// Accepts the connections of `listener`.
    pub(crate) fn new(listener: TcpListener) -> Self {
        Self { listener, places: Places::new(LIMITS.connections), timeouts: TIMEOUTS }
    }

    /// A place, and what ends when it is lost. A client on loopback waits for one. Others that have
    /// to wait get none, or those of one address would keep the rest waiting.
    async fn place(
        &self,
        source: Option<IpAddr>,
    ) -> Option<(Place<HasPlace>, oneshot::Receiver<Infallible>)> {
        loop {
            let (has_place, loses_place) = oneshot::channel();
            match self.places.take(source, has_place) {
                Some(place) => return Some((place, loses_place)),
                None if source.is_some() => return None,
                None => sleep(ACCEPT_PAUSE).await,
            }
        }
    }
}

impl axum::serve::Listener for Limited {
    type Io = PlacedConnection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (PlacedConnection, SocketAddr) {
        let (stream, peer, place, loses_place) = loop {
            let (stream, peer) = axum::serve::Listener::accept(&mut self.listener).await;
            if let Some((place, loses_place)) = self.place(source(peer)).await {
                break (stream, peer, place, loses_place);
            }
        };
        let Timeouts { header, idle } = self.timeouts;
        let silence = SilenceLimit {
            deadline: Box::pin(sleep(header)),
            header: Some(Header::default()),
            idle,
        };
        (PlacedConnection { stream, silence, loses_place, place }, peer)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// By what places are shared. Clients of this machine may use any loopback address, so that these
/// say nothing.
fn source(peer: SocketAddr) -> Option<IpAddr> {
    Some(peer.ip().to_canonical()).filter(|address| !address.is_loopback())
}

/// A connection that has its place until it is closed, or loses it to another one. Reading fails
/// once it was silent for too long, so that clients that send nothing don't keep others out.
pub(crate) struct PlacedConnection {
    stream: TcpStream,
    silence: SilenceLimit,
    /// Ends when the connection loses its place.
    loses_place: oneshot::Receiver<Infallible>,
    place: Place<HasPlace>,
}

impl PlacedConnection {
    /// Fails once the place is lost; wakes the caller then.
    fn poll_place(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        let receiver = &mut self.loses_place;
        if receiver.is_terminated() || Pin::new(receiver).poll(context).is_ready() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(())
    }
}

/// Keeps the place of a connection, once a request on it was admitted.
#[derive(Clone, Debug)]
pub(crate) struct Admission(Requested);

impl Admission {
    /// Records that a request was admitted.
    pub(crate) fn grant(&self) {
        self.0.set();
    }
}

impl Connected<IncomingStream<'_, Limited>> for Admission {
    fn connect_info(stream: IncomingStream<'_, Limited>) -> Self {
        Self(stream.io().place.requested().clone())
    }
}

/// For how long a connection may be silent.
struct SilenceLimit {
    deadline: Pin<Box<Sleep>>,
    /// While the header of the first request is awaited; its bytes don't move the deadline.
    header: Option<Header>,
    /// [`Timeouts::idle`].
    idle: Duration,
}

impl SilenceLimit {
    /// Takes bytes that were read.
    fn read(&mut self, bytes: &[u8]) {
        if self.header.as_mut().is_some_and(|header| header.ends_in(bytes)) {
            self.header = None;
        }
        self.moved(bytes.len());
    }

    /// Takes a number of bytes that were read or written.
    fn moved(&mut self, bytes: usize) {
        if bytes > 0 && self.header.is_none() {
            self.deadline.as_mut().reset(Instant::now() + self.idle);
        }
    }
}

/// The end of a header (RFC 9112 §2.1).
const HEADER_END: &[u8] = b"\r\n\r\n";

/// A header, while it is read.
#[derive(Default)]
struct Header {
    /// Bytes of [`HEADER_END`] that were read last.
    ended: usize,
}

impl Header {
    /// Reads on; returns whether the header ends in `bytes`.
    fn ends_in(&mut self, bytes: &[u8]) -> bool {
        for byte in bytes {
            self.ended = match *byte == HEADER_END[self.ended] {
                true => self.ended + 1,
                false => usize::from(*byte == HEADER_END[0]),
            };
            if self.ended == HEADER_END.len() {
                return true;
            }
        }
        false
    }
}

impl AsyncRead for PlacedConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_place(context)?;
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if read.is_pending() {
            let late = self.silence.deadline.as_mut().poll(context);
            return late.map(|()| Err(io::ErrorKind::TimedOut.into()));
        }
        self.silence.read(&buffer.filled()[before..]);
        read
    }
}

impl AsyncWrite for PlacedConnection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_place(context)?;
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        if let Poll::Ready(Ok(bytes)) = written {
            self.silence.moved(bytes);
        }
        written
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
    use axum::Router;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// A time that no test waits for.
    const NEVER: Duration = Duration::from_secs(3600);

    async fn limited(timeouts: Timeouts) -> (Limited, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (Limited { listener, places: Places::new(1), timeouts }, address)
    }

    /// Whether no connection has a place.
    fn is_empty(places: &Arc<Places<HasPlace>>, owners: usize) -> bool {
        // Each place has a reference.
        Arc::strong_count(places) == owners
    }

    #[tokio::test]
    async fn a_connection_without_an_admitted_request_yields_its_place() {
        let (mut limited, address) = limited(Timeouts { header: NEVER, idle: NEVER }).await;
        let mut clients = Vec::new();
        let mut last: Option<PlacedConnection> = None;
        for _ in 0..3 {
            let mut client = TcpStream::connect(address).await.unwrap();
            client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
            clients.push(client);
            let (accepted, _) = axum::serve::Listener::accept(&mut limited).await;
            if let Some(mut last) = last.replace(accepted) {
                let error = last.read_to_end(&mut Vec::new()).await.unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
                let error = last.write_all(b"HTTP/1.1").await.unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
            }
        }
        let mut last = last.unwrap();
        last.read_exact(&mut [0; 18]).await.unwrap();
        drop(last);
        assert!(is_empty(&limited.places, 1));
    }

    #[test]
    fn loopback_addresses_are_one_source() {
        for (address, remote) in [
            ("127.0.0.2:9", false),
            ("[::1]:9", false),
            ("[::ffff:127.0.0.1]:9", false),
            ("192.0.2.1:9", true),
        ] {
            assert_eq!(source(address.parse().unwrap()).is_some(), remote, "{address}");
        }
    }

    #[tokio::test]
    async fn a_connection_ends_if_its_header_is_late_and_not_once_it_was_read() {
        let timeouts = Timeouts { header: Duration::from_millis(1), idle: NEVER };
        let (mut limited, address) = limited(timeouts).await;
        for said in [&b""[..], b"GET / HTTP/1.1\r\nHost: a\r\n"] {
            let mut client = TcpStream::connect(address).await.unwrap();
            client.write_all(said).await.unwrap();
            let (mut accepted, _) = axum::serve::Listener::accept(&mut limited).await;
            let error = accepted.read_to_end(&mut Vec::new()).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            drop(accepted);
            assert!(is_empty(&limited.places, 1));
        }
        let mut header = Header::default();
        assert!(!header.ends_in(b"GET / HTTP/1.1\r\nHost: a\r\n\r"));
        assert!(header.ends_in(b"\n"));
        assert!(!Header::default().ends_in(b"a\r\n\n\r\n"));
    }

    #[tokio::test]
    async fn a_connection_ends_if_it_is_idle_after_its_first_request() {
        let timeouts = Timeouts { header: NEVER, idle: Duration::from_millis(300) };
        let (limited, address) = limited(timeouts).await;
        let places = Arc::clone(&limited.places);
        let router = Router::new().route("/", get(|| async { "here" }));
        let server = tokio::spawn(axum::serve(limited, router).into_future());
        for _ in 0..2 {
            let mut client = TcpStream::connect(address).await.unwrap();
            client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            assert!(answer.ends_with("\r\n\r\nhere"), "{answer}");
        }
        server.abort();
        assert!(server.await.unwrap_err().is_cancelled());
        while !is_empty(&places, 1) {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn bytes_in_any_direction_move_the_deadline_once_the_header_was_read() {
        let (mut limited, address) = limited(Timeouts { header: NEVER, idle: 2 * NEVER }).await;
        let mut client = TcpStream::connect(address).await.unwrap();
        let (mut accepted, _) = axum::serve::Listener::accept(&mut limited).await;
        let deadline = |accepted: &PlacedConnection| accepted.silence.deadline.deadline();
        let start = deadline(&accepted);
        for (said, moves) in [(&b"GET / HTTP/1.1\r\n"[..], false), (b"\r\n", true), (b"G", true)] {
            let before = deadline(&accepted);
            client.write_all(said).await.unwrap();
            accepted.read_exact(&mut vec![0; said.len()]).await.unwrap();
            assert_eq!(deadline(&accepted) > before, moves, "{said:?}");
        }
        let before = deadline(&accepted);
        accepted.write_all(b"HTTP/1.1 200 OK\r\n").await.unwrap();
        assert!(deadline(&accepted) > before && before > start + NEVER / 2);
    }
}
