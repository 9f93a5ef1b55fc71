//! The server for Prometheus: a thread of its own that answers `GET /metrics` over HTTP/1.
//!
//! The number of clients, the length of a request and all times are bounded (see
//! [`podgate_api::limits`]), and a client that doesn't read delays no other client. Metrics are
//! collected once for all that ask within [`CACHE`], so scrapers can't keep the control thread
//! busy.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, Result};
use podgate_api::Request;
use podgate_api::limits::{ACCEPT_PAUSE, ServerLimits};
use podgate_api::places::{Places, Requested};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use super::server::{Call, Reply};
use crate::metrics;

/// More connections are closed at once, and counted.
const LIMITS: ServerLimits = ServerLimits::METRICS;
/// Longest request head, bytes.
const HEAD_MAX: usize = 8192;
/// Header fields of a request, at most.
const FIELDS_MAX: usize = 64;
/// How long the control thread may take.
const COLLECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long collected metrics are answered again.
const CACHE: Duration = Duration::from_millis(200);

/// The text format's type (Prometheus exposition formats, version 0.0.4).
const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What the server counted.
#[derive(Debug, Default)]
struct Counts {
    scrapes: AtomicU64,
    rejected: AtomicU64,
    failed: AtomicU64,
}

/// The running endpoint. It ends with the process.
#[derive(Debug)]
pub(super) struct MetricsServer {
    address: SocketAddr,
    counts: Arc<Counts>,
}

impl MetricsServer {
    /// Listens on `address` and starts the thread; metrics are asked for by `calls`.
    ///
    /// # Errors
    /// When the address can't be used.
    pub(super) fn start(address: SocketAddr, calls: mpsc::Sender<Call>) -> Result<Self> {
        let listener = StdTcpListener::bind(address)
            .with_context(|| format!("--metrics-listen {address}: can't listen"))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let counts = Arc::new(Counts::default());
        let service =
            Arc::new(Service { calls, counts: Arc::clone(&counts), last: Mutex::default() });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let run = move || {
            runtime.block_on(async {
                match TcpListener::from_std(listener) {
                    Ok(listener) => serve(listener, service).await,
                    Err(error) => warn!("metrics are not served: {error}"),
                }
            });
        };
        let thread = std::thread::Builder::new().name("pg-metrics".to_owned()).spawn(run);
        thread.context("can't start the thread pg-metrics")?;
        info!(%address, "metrics are served");
        Ok(Self { address, counts })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it did, in words.
    pub(super) fn counts(&self) -> String {
        let [scrapes, rejected, failed] = self.numbers();
        format!("{scrapes} scrapes, {rejected} connections rejected, {failed} failed")
    }

    /// Scrapes that were answered, connections that were rejected, scrapes that failed.
    pub(super) fn numbers(&self) -> [u64; 3] {
        let Counts { scrapes, rejected, failed } = &*self.counts;
        [scrapes, rejected, failed].map(|counter| counter.load(Relaxed))
    }
}

/// Metrics for all clients.
struct Service {
    calls: mpsc::Sender<Call>,
    counts: Arc<Counts>,
    /// The last text, and when it was collected. The holder of the lock collects; others wait.
    last: Mutex<Option<(Instant, Arc<str>)>>,
}

async fn serve(listener: TcpListener, service: Arc<Service>) {
    let places = Places::new(LIMITS.connections);
    loop {
        let (stream, client) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "a client of the metrics endpoint could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (has_place, loses_place) = oneshot::channel::<Infallible>();
        let Some(place) = places.take(Some(client.ip()), has_place) else {
            service.counts.rejected.fetch_add(1, Relaxed);
            continue;
        };
        let service = Arc::clone(&service);
        tokio::spawn(async move {
            tokio::select! {
                () = answer(stream, place.requested(), &service) => {}
                _ = loses_place => {
                    service.counts.rejected.fetch_add(1, Relaxed);
                }
            }
        });
    }
}

/// Answers one request, and closes the connection.
async fn answer(mut stream: TcpStream, requested: &Requested, service: &Service) {
    let Ok(Some(asked)) = timeout(LIMITS.request, read_request(&mut stream)).await else {
        service.counts.failed.fetch_add(1, Relaxed);
        return;
    };
    requested.set();
    let response = match asked {
        HttpRequest::Metrics(method) => match service.collect().await {
            Ok(text) => {
                service.counts.scrapes.fetch_add(1, Relaxed);
                response("200 OK", CONTENT_TYPE, &text, method)
            }
            Err(reason) => {
                service.counts.failed.fetch_add(1, Relaxed);
                error_response("503 Service Unavailable", &reason)
            }
        },
        HttpRequest::Other => error_response("404 Not Found", "metrics are at /metrics"),
        HttpRequest::Method => {
            error_response("405 Method Not Allowed", "only GET and HEAD are allowed")
        }
        HttpRequest::Malformed => error_response("400 Bad Request", "the request is malformed"),
    };
    let written = timeout(LIMITS.silence, async {
        stream.write_all(response.as_bytes()).await?;
        stream.shutdown().await
    });
    if !matches!(written.await, Ok(Ok(()))) {
        service.counts.failed.fetch_add(1, Relaxed);
    }
}

/// Method of a request that is answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Method {
    Get,
    /// As `GET`, without the body.
    Head,
}

/// What a client asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum HttpRequest {
    Metrics(Method),
    Other,
    Method,
    Malformed,
}

/// Reads the head of a request. Nothing if the client closed its connection before.
async fn read_request(stream: &mut TcpStream) -> Option<HttpRequest> {
    let mut head = Vec::new();
    let mut part = [0; 2048];
    loop {
        let read = stream.read(&mut part).await.ok()?;
        head.extend_from_slice(part.get(..read)?);
        if let Some(asked) = parse_request(&head) {
            return Some(asked);
        }
        if read == 0 {
            return None;
        }
    }
}

/// What the head asks for; nothing while it is incomplete.
fn parse_request(head: &[u8]) -> Option<HttpRequest> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) if head.len() <= HEAD_MAX => return None,
        Ok(httparse::Status::Partial) | Err(_) => return Some(HttpRequest::Malformed),
    }
    let path = request.path.unwrap_or_default().split('?').next();
    Some(match (request.method, path) {
        (Some("GET"), Some("/metrics")) => HttpRequest::Metrics(Method::Get),
        (Some("HEAD"), Some("/metrics")) => HttpRequest::Metrics(Method::Head),
        (Some("GET" | "HEAD"), _) => HttpRequest::Other,
        _ => HttpRequest::Method,
    })
}

fn error_response(status: &str, reason: &str) -> String {
    response(status, "text/plain; charset=utf-8", &format!("{reason}\n"), Method::Get)
}

fn response(status: &str, content_type: &str, body: &str, method: Method) -> String {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n"
    );
    match method {
        Method::Get => head + body,
        Method::Head => head,
    }
}

impl Service {
    /// The metrics as text.
    async fn collect(&self) -> Result<Arc<str>, String> {
        let mut last = self.last.lock().await;
        if let Some((at, text)) = &*last
            && at.elapsed() < CACHE
        {
            return Ok(Arc::clone(text));
        }
        let text: Arc<str> = match timeout(COLLECT_TIMEOUT, self.ask()).await {
            Ok(text) => text?.into(),
            Err(_) => return Err("the control thread does not answer".to_owned()),
        };
        *last = Some((Instant::now(), Arc::clone(&text)));
        Ok(text)
    }

    async fn ask(&self) -> Result<String, String> {
        let (reply, replied) = oneshot::channel();
        let stopping = "the agent is stopping";
        let call = Call { request: Request::Metrics {}, reply };
        self.calls.send(call).await.map_err(|_| stopping)?;
        match replied.await {
            Ok(Ok(Reply::Metrics(families))) => Ok(metrics::to_text(&families)),
            Ok(Ok(_)) => Err("the answer is of another request".to_owned()),
            Ok(Err(error)) => Err(error.message),
            Err(_) => Err(stopping.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use podgate_api::{ApiError, Family};

    use super::*;

    /// A server whose metrics are `answer`, which is called for each collection.
    fn start(answer: impl Fn() -> Result<Reply, ApiError> + Send + 'static) -> MetricsServer {
        let (calls, mut called) = mpsc::channel::<Call>(1);
        std::thread::spawn(move || {
            while let Some(call) = called.blocking_recv() {
                let _ = call.reply.send(answer());
            }
        });
        MetricsServer::start("127.0.0.1:0".parse().unwrap(), calls).unwrap()
    }

    fn families() -> Result<Reply, ApiError> {
        Ok(Reply::Metrics(vec![Family::gauge("a", "Help").with(&[], 7)]))
    }

    fn exchange(server: &MetricsServer, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(server.address()).unwrap();
        stream.write_all(request).unwrap();
        let mut answer = String::new();
        // A rejected connection is reset.
        let _ = stream.read_to_string(&mut answer);
        answer
    }

    /// As [`exchange`], from another address.
    fn exchange_from(address: &str, server: &MetricsServer) -> String {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.bind(address.parse().unwrap()).unwrap();
            let mut stream = socket.connect(server.address()).await.unwrap();
            stream.write_all(GET).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        })
    }

    const GET: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n";

    #[test]
    fn metrics_are_answered_as_text() {
        let server = start(families);
        let answer = exchange(&server, GET);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(head.contains("Content-Type: text/plain; version=0.0.4"), "{head}");
        assert_eq!(body, "# HELP a Help\n# TYPE a gauge\na 7\n");
        let head_only = exchange(&server, b"HEAD /metrics?x=1 HTTP/1.0\r\n\r\n");
        assert!(head_only.contains("Content-Length: 33\r\n") && head_only.ends_with("\r\n\r\n"));
        assert_eq!(server.numbers(), [2, 0, 0]);
    }

    #[test]
    fn what_is_not_served_has_its_status() {
        let server = start(|| Err(ApiError::failed("a worker does not answer")));
        for (request, status) in [
            (&b"GET / HTTP/1.1\r\n\r\n"[..], "404"),
            (b"POST /metrics HTTP/1.1\r\n\r\n", "405"),
            (b"\x16\x03\x01\x00\r\n\r\n", "400"),
            (GET, "503"),
        ] {
            let answer = exchange(&server, request);
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        }
        let long = [b"GET /metrics HTTP/1.1\r\nA: ", &[b'x'; 2 * HEAD_MAX][..]].concat();
        assert!(exchange(&server, &long).starts_with("HTTP/1.1 400 "));
    }

    #[test]
    fn silent_clients_delay_nobody_and_their_number_is_bounded() {
        let server = start(families);
        let mut silent = Vec::new();
        while silent.len() < LIMITS.connections - 1 {
            silent.push(TcpStream::connect(server.address()).unwrap());
        }
        assert!(exchange(&server, GET).starts_with("HTTP/1.1 200 "));
        silent.push(TcpStream::connect(server.address()).unwrap());
        // Once a new connection has taken the freed place, further ones are rejected.
        while server.numbers()[1] == 0 {
            silent.push(TcpStream::connect(server.address()).unwrap());
            std::thread::yield_now();
        }
        // A client with another address gets the place of one of them.
        assert!(exchange_from("127.0.0.2:0", &server).starts_with("HTTP/1.1 200 "));
        silent.clear();
        while !exchange(&server, GET).starts_with("HTTP/1.1 200 ") {
            std::thread::yield_now();
        }
    }
}
