//! Routes.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::connect_info::ConnectInfo;
use axum::extract::{Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION, REFERRER_POLICY,
    SET_COOKIE, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::sse::{KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use podgate_hubble::proto::observer::GetFlowsRequest;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};

use crate::access::{Access, Decision, Exposure};
use crate::agent::{ApiCall, Parameters, ask};
use crate::assets::ASSETS;
use crate::connections::{Admission, Limited};
use crate::flows::{self, Message};
use crate::{Config, UiError};

/// Most pages that follow flows at a time.
const FOLLOWERS_MAX: usize = 8;
/// Most requests to the agent at a time.
const CALLS_MAX: usize = 4;
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
    calls: Arc<Semaphore>,
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
            calls: Arc::new(Semaphore::new(CALLS_MAX)),
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
        let service = router(self.shared).into_make_service_with_connect_info::<Admission>();
        axum::serve(Limited::new(self.listener), service).await.map_err(UiError::Serve)
    }
}

fn router(shared: Arc<Shared>) -> Router {
    let mut router = Router::new().route("/api/flows", get(follow));
    for (path, call) in [
        ("/api/status", ApiCall::Status),
        ("/api/endpoints", ApiCall::Endpoints),
        ("/api/policies", ApiCall::Policies),
        ("/api/policy", ApiCall::Policy),
        ("/api/pod", ApiCall::Pod),
        ("/api/explain", ApiCall::Explain),
    ] {
        let answer = move |State(shared): State<Arc<Shared>>, uri: Uri| answer(shared, call, uri);
        router = router.route(path, get(answer));
    }
    for asset in &ASSETS {
        let content = ([(CONTENT_TYPE, asset.media_type)], asset.content);
        router = router.route(asset.path, get(move || async move { content }));
    }
    router.layer(from_fn_with_state(Arc::clone(&shared), check)).with_state(shared)
}

/// Answers the requests that may be answered, and says to the browser what the page may do. The
/// connection of a denied request is closed, and that of an admitted one keeps its place.
async fn check(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let decision = shared.access.decide(request.method(), request.uri(), request.headers());
    if let Decision::Answer | Decision::Admit(_) = decision
        && let Some(ConnectInfo(admission)) = request.extensions().get::<ConnectInfo<Admission>>()
    {
        admission.grant();
    }
    let deny = |status: StatusCode, text: &str| {
        (status, [(CONNECTION, "close")], format!("{text}\n")).into_response()
    };
    let mut response = match decision {
        Decision::Answer => next.run(request).await,
        Decision::Admit(cookie) => {
            let headers = [(SET_COOKIE, cookie.as_str()), (LOCATION, "/")];
            (StatusCode::SEE_OTHER, headers).into_response()
        }
        Decision::Forbid(why) => deny(StatusCode::FORBIDDEN, why),
        Decision::Unauthorized => {
            deny(StatusCode::UNAUTHORIZED, "open the URL that `podgate ui` printed at its start")
        }
        Decision::WrongMethod => {
            deny(StatusCode::METHOD_NOT_ALLOWED, "only GET: the page changes nothing")
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
async fn answer(shared: Arc<Shared>, call: ApiCall, uri: Uri) -> Response {
    let socket = shared.config.socket.clone();
    let asked = in_place(&shared.calls, move || ask(&socket, call, &parameters(&uri)));
    match asked.await {
        Ok(value) => json(StatusCode::OK, &value),
        Err(error) => json(StatusCode::BAD_GATEWAY, &json!({"error": error})),
    }
}

/// Runs blocking work once a permit is free. The work holds the permit until it ends, even if its
/// result is no longer awaited.
async fn in_place<T: Send + 'static>(
    places: &Arc<Semaphore>,
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    // Never closed.
    let place = Arc::clone(places).acquire_owned().await;
    let done = tokio::task::spawn_blocking(move || {
        let result = work();
        drop(place);
        result
    });
    done.await.unwrap_or_else(|error| Err(error.to_string()))
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

#[cfg(test)]
mod tests {
    use podgate_hubble::client::Address;
    use podgate_hubble::proto::flow::FlowFilter;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;

    fn config(listen: &str, exposure: Exposure) -> Config {
        Config {
            listen: listen.parse().unwrap(),
            exposure,
            hubble: Address::Unix("/nowhere/hubble.sock".into()),
            tls: None,
            socket: "/nowhere/podgate.sock".into(),
            read_filters: |options| match options.as_slice() {
                [option] if option == "--bad" => Err("--bad is not a filter".to_owned()),
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

    /// Sends a request with these fields.
    async fn ask(stream: &mut TcpStream, target: &str, fields: &str) {
        let host = stream.peer_addr().unwrap();
        let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
    }

    /// Reads an answer up to its end, which is `end`.
    async fn answer_until(end: &str, stream: &mut TcpStream) -> String {
        let mut answer = Vec::new();
        while !answer.ends_with(end.as_bytes()) {
            assert!(stream.read_buf(&mut answer).await.unwrap() > 0, "it is closed");
        }
        String::from_utf8(answer).unwrap()
    }

    #[tokio::test]
    async fn clients_without_the_token_keep_no_browser_out() {
        let server = Server::open(config("127.0.0.1:0", Exposure::Loopback)).await.unwrap();
        let address = server.address;
        let token = server.shared.access.token().to_owned();
        let cookie = format!("Cookie: podgate-ui-{}={token}\r\n", address.port());
        tokio::spawn(server.serve());
        let connect = || async { TcpStream::connect(address).await.unwrap() };
        let mut browser = connect().await;
        ask(&mut browser, &format!("/?token={token}"), "").await;
        let admitted = answer_until("\r\n\r\n", &mut browser).await;
        assert!(admitted.starts_with("HTTP/1.1 303 "), "{admitted}");
        let mut others = Vec::new();
        for fields in ["", "Origin: http://evil.example\r\n"].into_iter().cycle().take(140) {
            let mut other = connect().await;
            ask(&mut other, "/", fields).await;
            let mut denied = String::new();
            other.read_to_string(&mut denied).await.unwrap();
            assert!(denied.starts_with("HTTP/1.1 40"), "{denied}");
            assert!(denied.contains("\r\nconnection: close\r\n"), "{denied}");
            others.push(other);
        }
        // Nor do those that send nothing.
        for _ in 0..140 {
            others.push(connect().await);
        }
        for stream in [&mut browser, &mut connect().await] {
            ask(stream, "/", &cookie).await;
            let page = answer_until("</html>\n", stream).await;
            assert!(page.starts_with("HTTP/1.1 200 "), "{page}");
        }
    }

    #[tokio::test]
    async fn work_keeps_its_place_after_its_browser_has_left() {
        let places = Arc::new(Semaphore::new(1));
        let (go_on, waits) = std::sync::mpsc::channel::<()>();
        let (begun, begins) = tokio::sync::oneshot::channel();
        let asked = Arc::clone(&places);
        let browser = tokio::spawn(async move {
            let work = move || {
                begun.send(()).map_err(|()| String::new())?;
                waits.recv().map_err(|error| error.to_string())
            };
            in_place(&asked, work).await
        });
        begins.await.unwrap();
        browser.abort();
        assert!(browser.await.unwrap_err().is_cancelled());
        assert_eq!(places.available_permits(), 0);
        go_on.send(()).unwrap();
        assert_eq!(in_place(&places, || Ok(7)).await, Ok(7));
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
        assert_eq!(request("filter=%5B%22--bad%22%5D").unwrap_err(), "--bad is not a filter");
        for bad in ["last=-1", "last=x", "filter=x", "filter=%7B%7D", "filter=%5B1%5D"] {
            assert!(request(bad).is_err(), "{bad}");
        }
    }
}
