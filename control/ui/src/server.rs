//! Routes and connections.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION, REFERRER_POLICY, SET_COOKIE,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::sse::{KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use podgate_hubble::proto::observer::GetFlowsRequest;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Sleep, sleep};

use crate::access::{Access, Decision, Exposure};
use crate::agent::{Parameters, Question, ask};
use crate::assets::ASSETS;
use crate::flows::{self, Message};
use crate::{Config, UiError};

/// Most pages that follow flows at a time.
const FOLLOWERS_MAX: usize = 8;
/// Most requests to the agent at a time.
const QUESTIONS_MAX: usize = 4;
/// Most connections at a time; further ones wait.
const CONNECTIONS_MAX: usize = 64;
/// Time from the start of a connection to the end of the header of its first request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Most past flows that a page may ask for.
const LAST_MAX: u64 = 10_000;

/// The page loads what this server has, and nothing else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Header fields of every response.
const HEADERS: [(HeaderName, &str); 7] = [
    (CONTENT_SECURITY_POLICY, POLICY),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (X_FRAME_OPTIONS, "DENY"),
    (REFERRER_POLICY, "no-referrer"),
    (CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
];

/// A server that listens.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: Config,
    access: Access,
    followers: Arc<Semaphore>,
    questions: Semaphore,
}

impl Server {
    /// Listens.
    ///
    /// # Errors
    /// When the address is not allowed, or in use.
    pub async fn open(config: Config) -> Result<Self, UiError> {
        let address = config.listen;
        if !address.ip().is_loopback() && config.exposure == Exposure::Loopback {
            return Err(UiError::NotLoopback(address));
        }
        let failed = |source| UiError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let access = Access::new(config.exposure, address).map_err(UiError::Random)?;
        let shared = Arc::new(Shared {
            config,
            access,
            followers: Arc::new(Semaphore::new(FOLLOWERS_MAX)),
            questions: Semaphore::new(QUESTIONS_MAX),
        });
        Ok(Self { listener, address, shared })
    }

    /// The URL of the page, with the token that opens it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/?token={}", self.address, self.shared.access.token())
    }

    /// Serves until it fails.
    ///
    /// # Errors
    /// When no connections can be accepted any more.
    pub async fn serve(self) -> Result<(), UiError> {
        let listener = Limited {
            listener: self.listener,
            connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            header_timeout: HEADER_TIMEOUT,
        };
        axum::serve(listener, router(self.shared)).await.map_err(UiError::Serve)
    }
}

fn router(shared: Arc<Shared>) -> Router {
    let mut router = Router::new().route("/api/flows", get(follow));
    for (path, question) in [
        ("/api/status", Question::Status),
        ("/api/endpoints", Question::Endpoints),
        ("/api/policies", Question::Policies),
        ("/api/policy", Question::Policy),
        ("/api/pod", Question::Pod),
        ("/api/explain", Question::Explain),
    ] {
        let answer =
            move |State(shared): State<Arc<Shared>>, uri: Uri| answer(shared, question, uri);
        router = router.route(path, get(answer));
    }
    for asset in &ASSETS {
        let content = ([(CONTENT_TYPE, asset.media_type)], asset.content);
        router = router.route(asset.path, get(move || async move { content }));
    }
    router.layer(from_fn_with_state(Arc::clone(&shared), check)).with_state(shared)
}

/// Answers the requests that may be answered, and says to the browser what the page may do.
async fn check(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let decision = shared.access.decide(request.method(), request.uri(), request.headers());
    let refuse = |status: StatusCode, text: &str| (status, format!("{text}\n")).into_response();
    let mut response = match decision {
        Decision::Answer => next.run(request).await,
        Decision::Admit(cookie) => {
            let headers = [(SET_COOKIE, cookie.as_str()), (LOCATION, "/")];
            (StatusCode::SEE_OTHER, headers).into_response()
        }
        Decision::Forbid(why) => refuse(StatusCode::FORBIDDEN, why),
        Decision::Unauthorized => {
            refuse(StatusCode::UNAUTHORIZED, "open the URL that `podgate ui` printed at its start")
        }
        Decision::WrongMethod => {
            refuse(StatusCode::METHOD_NOT_ALLOWED, "only GET: the page changes nothing")
        }
    };
    add_headers(response.headers_mut());
    response
}

fn add_headers(headers: &mut HeaderMap) {
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

fn parameters(uri: &Uri) -> Parameters {
    form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).into_owned().collect()
}

fn json(status: StatusCode, value: &serde_json::Value) -> Response {
    let headers = [(CONTENT_TYPE, "application/json")];
    (status, headers, Body::from(value.to_string())).into_response()
}

/// Asks the agent.
async fn answer(shared: Arc<Shared>, question: Question, uri: Uri) -> Response {
    // Never closed.
    let _permit = shared.questions.acquire().await;
    let socket = shared.config.socket.clone();
    let asked =
        tokio::task::spawn_blocking(move || ask(&socket, question, &parameters(&uri))).await;
    match asked.unwrap_or_else(|error| Err(error.to_string())) {
        Ok(value) => json(StatusCode::OK, &value),
        Err(error) => json(StatusCode::BAD_GATEWAY, &json!({"error": error})),
    }
}

/// Sends flows: the last ones, then new ones.
async fn follow(State(shared): State<Arc<Shared>>, uri: Uri) -> Response {
    let messages = match open(&shared, &parameters(&uri)) {
        Ok(messages) => messages,
        Err(reason) => {
            let (to, messages) = mpsc::channel(1);
            // There is room for one.
            let _ = to.try_send(Message::Rejected(reason));
            messages
        }
    };
    Sse::new(flows::events(messages)).keep_alive(KeepAlive::default()).into_response()
}

fn open(shared: &Shared, parameters: &Parameters) -> Result<mpsc::Receiver<Message>, String> {
    let request = request(&shared.config, parameters)?;
    let permit = Arc::clone(&shared.followers).try_acquire_owned();
    let permit = permit.map_err(|_| format!("{FOLLOWERS_MAX} pages are open: close one"))?;
    Ok(flows::follow(shared.config.clone(), request, permit))
}

/// The request to the server of Hubble's API: `last` is a number, `filter` a JSON list of options.
fn request(config: &Config, parameters: &Parameters) -> Result<GetFlowsRequest, String> {
    let number = match parameters.get("last") {
        Some(last) => last.parse::<u64>().map_err(|_| "last must be a number".to_owned())?,
        None => 0,
    };
    let options = parameters.get("filter").map_or("[]", String::as_str);
    let options: Vec<String> = serde_json::from_str(options)
        .map_err(|_| "filter must be a JSON list of options".to_owned())?;
    let (whitelist, blacklist) = (config.read_filters)(options)?;
    let number = number.min(LAST_MAX);
    Ok(GetFlowsRequest { number, follow: true, whitelist, blacklist, ..Default::default() })
}

/// A listener that accepts no connection while there are [`CONNECTIONS_MAX`].
struct Limited {
    listener: TcpListener,
    connections: Arc<Semaphore>,
    header_timeout: Duration,
}

impl axum::serve::Listener for Limited {
    type Io = Counted;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Counted, SocketAddr) {
        let permit = Arc::clone(&self.connections).acquire_owned().await.ok();
        let (stream, peer) = axum::serve::Listener::accept(&mut self.listener).await;
        let deadline = Box::pin(sleep(self.header_timeout));
        let header = Some(Header { deadline, ended: 0 });
        (Counted { stream, header, _permit: permit }, peer)
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that is counted until it is closed. Reading fails if the header of its first
/// request is late, so that clients that say nothing don't keep others out.
struct Counted {
    stream: TcpStream,
    /// While the header is awaited.
    header: Option<Header>,
    _permit: Option<OwnedSemaphorePermit>,
}

/// The end of a header (RFC 9112 §2.1).
const HEADER_END: &[u8] = b"\r\n\r\n";

/// The header of a connection's first request, while it is read.
struct Header {
    deadline: Pin<Box<Sleep>>,
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

mod io {
    //! A counted connection reads and writes as the stream in it.

    use std::future::Future as _;
    use std::io;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

    use super::Counted;

    impl AsyncRead for Counted {
        fn poll_read(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let before = buffer.filled().len();
            let read = Pin::new(&mut self.stream).poll_read(context, buffer);
            let Some(header) = &mut self.header else { return read };
            if read.is_pending() {
                let late = header.deadline.as_mut().poll(context);
                return late.map(|()| Err(io::ErrorKind::TimedOut.into()));
            }
            if header.ends_in(&buffer.filled()[before..]) {
                self.header = None;
            }
            read
        }
    }

    impl AsyncWrite for Counted {
        fn poll_write(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.stream).poll_write(context, bytes)
        }

        fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_flush(context)
        }

        fn poll_shutdown(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_shutdown(context)
        }
    }
}

#[cfg(test)]
mod tests {
    use podgate_hubble::client::Address;
    use podgate_hubble::proto::flow::FlowFilter;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn config(listen: &str, exposure: Exposure) -> Config {
        Config {
            listen: listen.parse().unwrap(),
            exposure,
            hubble: Address::Unix("/nowhere/hubble.sock".into()),
            tls: None,
            socket: "/nowhere/podgate.sock".into(),
            read_filters: |options| match options.as_slice() {
                [option] if option == "--bad" => Err("--bad is no filter".to_owned()),
                _ => Ok((vec![FlowFilter::default(); options.len()], Vec::new())),
            },
        }
    }

    #[test]
    fn other_addresses_than_loopback_need_a_flag() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            for address in ["192.0.2.1:12000", "0.0.0.0:12000", "[::]:12000"] {
                let error = Server::open(config(address, Exposure::Loopback)).await.unwrap_err();
                assert!(matches!(error, UiError::NotLoopback(_)), "{error}");
            }
            let server = Server::open(config("127.0.0.1:0", Exposure::Loopback)).await.unwrap();
            let url = server.url();
            assert!(url.starts_with("http://127.0.0.1:") && !url.contains(":0/"), "{url}");
            assert!(Server::open(config("0.0.0.0:0", Exposure::Any)).await.is_ok());
        });
    }

    #[test]
    fn the_request_has_the_filters_and_a_bounded_number_of_past_flows() {
        let config = config("127.0.0.1:0", Exposure::Loopback);
        let request = |query: &str| {
            let uri: Uri = format!("/api/flows?{query}").parse().unwrap();
            request(&config, &parameters(&uri))
        };
        let flows = request("last=99999999&filter=%5B%22-t%22%2C%22l7%22%5D").unwrap();
        assert_eq!((flows.number, flows.whitelist.len(), flows.follow), (LAST_MAX, 2, true));
        assert_eq!(request("").unwrap().number, 0);
        assert_eq!(request("filter=%5B%22--bad%22%5D").unwrap_err(), "--bad is no filter");
        for bad in ["last=-1", "last=x", "filter=x", "filter=%7B%7D", "filter=%5B1%5D"] {
            assert!(request(bad).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_connection_ends_if_its_header_is_late_and_not_once_it_was_read() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(Semaphore::new(1));
        let header_timeout = Duration::from_millis(1);
        let mut limited =
            Limited { listener, connections: Arc::clone(&connections), header_timeout };
        for said in [&b""[..], b"GET / HTTP/1.1\r\nHost: a\r\n"] {
            let mut client = TcpStream::connect(address).await.unwrap();
            client.write_all(said).await.unwrap();
            let (mut accepted, _) = axum::serve::Listener::accept(&mut limited).await;
            let error = accepted.read_to_end(&mut Vec::new()).await.unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
            drop(accepted);
            assert_eq!(connections.available_permits(), 1);
        }
        let mut header = Header { deadline: Box::pin(sleep(header_timeout)), ended: 0 };
        assert!(!header.ends_in(b"GET / HTTP/1.1\r\nHost: a\r\n\r"));
        assert!(header.ends_in(b"\n"));
        assert!(!Header { ended: 0, ..header }.ends_in(b"a\r\n\n\r\n"));
    }
}
