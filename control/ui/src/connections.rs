//! Connections: their number, and how long they may be silent.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use podgate_api::limits::ServerLimits;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};

/// Further connections wait.
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

/// A listener that accepts no connection while there are as many as [`LIMITS`] allows.
pub(crate) struct Limited {
    listener: TcpListener,
    connections: Arc<Semaphore>,
    timeouts: Timeouts,
}

impl Limited {
    /// Accepts the connections of `listener`.
    pub(crate) fn new(listener: TcpListener) -> Self {
        let connections = Arc::new(Semaphore::new(LIMITS.connections));
        Self { listener, connections, timeouts: TIMEOUTS }
    }
}

impl axum::serve::Listener for Limited {
    type Io = CountedConnection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (CountedConnection, SocketAddr) {
        let permit = Arc::clone(&self.connections).acquire_owned().await.ok();
        let (stream, peer) = axum::serve::Listener::accept(&mut self.listener).await;
        let Timeouts { header, idle } = self.timeouts;
        let silence = SilenceLimit {
            deadline: Box::pin(sleep(header)),
            header: Some(Header::default()),
            idle,
        };
        (CountedConnection { stream, silence, _permit: permit }, peer)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that is counted until it is closed. Reading fails once it was silent for too long,
/// so that clients that send nothing don't keep others out.
pub(crate) struct CountedConnection {
    stream: TcpStream,
    silence: SilenceLimit,
    _permit: Option<OwnedSemaphorePermit>,
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

impl AsyncRead for CountedConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
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

impl AsyncWrite for CountedConnection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
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
        (Limited { listener, connections: Arc::new(Semaphore::new(1)), timeouts }, address)
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
            assert_eq!(limited.connections.available_permits(), 1);
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
        let connections = Arc::clone(&limited.connections);
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
        let _closed = connections.acquire().await.unwrap();
    }

    #[tokio::test]
    async fn bytes_in_any_direction_move_the_deadline_once_the_header_was_read() {
        let (mut limited, address) = limited(Timeouts { header: NEVER, idle: 2 * NEVER }).await;
        let mut client = TcpStream::connect(address).await.unwrap();
        let (mut accepted, _) = axum::serve::Listener::accept(&mut limited).await;
        let deadline = |accepted: &CountedConnection| accepted.silence.deadline.deadline();
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
