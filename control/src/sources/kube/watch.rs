//! Following one kind of objects: a list, then a watch from there on.
//!
//! The list is a streaming one (`sendInitialEvents`, KEP-3157) where the server has it, and comes
//! in pages elsewhere. A watch that ends is resumed from the last version that it reported; if the
//! server no longer has that version (410), the kind is listed again. Whatever the server sends is
//! bounded, and what can't be read is a failure that is reported and tried again.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use kube::core::Request;
use kube::core::params::{GetParams, ListParams, WatchParams};
use podgate_policy::Kind;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep, timeout};

use super::client::{ApiClient, Cause};
use super::object::{Line, Object, Page};
use super::{Event, News, Problem};
use crate::crds;
use crate::error::describe;
use crate::sources::Update;

/// Objects of a page that are asked for first.
const PAGE: u32 = 500;
/// Largest page, bytes. After a larger one, fewer objects are asked for.
const PAGE_MAX: usize = 64 << 20;
/// Longest line of a watch, bytes: ten times the largest object that etcd takes by default.
const LINE_MAX: usize = 16 << 20;
/// Longest message of an error that is read, bytes.
const ERROR_MAX: usize = 64 << 10;
/// Most objects of a kind.
const OBJECTS_MAX: usize = 1_000_000;
/// Timeout for an answer to begin, and for the next part of a list.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// A server that is silent for this long within a streaming list counts as one without them.
const STREAM_TIMEOUT: Duration = Duration::from_secs(10);
/// A silent watch is opened again: a server sends bookmarks each minute.
const WATCH_TIMEOUT: Duration = Duration::from_secs(130);
/// The path of the definitions of custom kinds.
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
/// A watch that lasted this long is resumed at once when it ends.
const LONG_WATCH: Duration = Duration::from_secs(10);

/// How objects are listed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Lists {
    Streaming,
    Paged,
}

/// Why a list or a watch ended.
#[derive(Debug)]
enum Failure {
    /// The receiver of events is gone.
    Closed,
    /// The connection ended.
    Ended,
    /// The server no longer has the version that was asked for.
    Expired,
    /// The server doesn't know what was asked for. It names the object that is missing, unless it
    /// doesn't know its kind, or is no API server.
    Missing { object: Option<String> },
    /// Nothing came for too long.
    Idle,
    /// The server's message.
    Server { code: u16, message: String, retry_after: Duration },
    /// Larger than this many bytes.
    TooLarge(usize),
    /// No answer begins: no connection, or it broke; in words.
    Unreachable(String),
    /// Anything else, in words.
    Other(String),
}

/// Has a kind listed again that is being watched.
#[derive(Clone, Default, Debug)]
pub(super) struct Relist(Arc<Notify>);

impl Relist {
    /// Asks for it.
    pub(super) fn ask(&self) {
        self.0.notify_one();
    }

    /// Waits until it is asked for. One that was asked for before counts.
    pub(super) async fn asked(&self) {
        self.0.notified().await;
    }
}

/// Follows one kind.
pub(super) struct Watcher {
    kind: Kind,
    client: ApiClient,
    relist: Relist,
    /// Number of the client that the last request was sent by.
    used: u64,
    updates: mpsc::Sender<Update>,
    /// Index of the version that is asked for.
    version: usize,
    lists: Lists,
    /// Objects of a page.
    page: u32,
    /// The version of the objects that were reported; none before a complete list.
    resume: Option<String>,
    pause: Pause,
}

impl Watcher {
    pub(super) fn new(kind: Kind, client: ApiClient, updates: mpsc::Sender<Update>) -> Self {
        Self {
            kind,
            client,
            relist: Relist::default(),
            used: 0,
            updates,
            version: 0,
            lists: Lists::Streaming,
            page: PAGE,
            resume: None,
            pause: Pause::default(),
        }
    }

    /// The kind is listed again when `relist` is asked for it.
    pub(super) fn with_relist(self, relist: Relist) -> Self {
        Self { relist, ..self }
    }

    /// Follows the kind until the receiver of its events is gone.
    pub(super) async fn run(mut self) {
        while let Some(delay) = self.follow_once().await {
            sleep(delay).await;
        }
    }

    /// Lists the kind if that is necessary, and watches it until something fails. Returns how long
    /// to wait before the next time; `None` if the receiver of events is gone.
    pub(super) async fn follow_once(&mut self) -> Option<Duration> {
        let begun = Instant::now();
        let end = match self.lists {
            Lists::Paged if self.resume.is_none() => self.list().await,
            _ => Ok(()),
        };
        let failure = match end {
            Ok(()) => self.watch().await,
            Err(failure) => failure,
        };
        if begun.elapsed() >= LONG_WATCH {
            self.pause = Pause::default();
        }
        self.take_failure(failure, begun.elapsed()).await
    }

    /// Handles a failure. Returns how long to wait; `None` if the receiver of events is gone.
    async fn take_failure(&mut self, failure: Failure, lasted: Duration) -> Option<Duration> {
        let problem = match failure {
            Failure::Closed => return None,
            Failure::Ended if lasted >= LONG_WATCH => return Some(Duration::ZERO),
            Failure::Ended => return Some(self.pause.next()),
            Failure::Expired => {
                self.resume = None;
                return Some(self.pause.next());
            }
            // 500 from a server whose etcd lacks what streaming lists need.
            // A line that is too long may have room in a page.
            Failure::Idle
            | Failure::TooLarge(_)
            | Failure::Server { code: 400 | 405 | 406 | 422 | 500, .. }
                if self.lists == Lists::Streaming && self.resume.is_none() =>
            {
                self.lists = Lists::Paged;
                return Some(Duration::ZERO);
            }
            Failure::Idle => {
                self.client.renew(self.used, Cause::Unreachable).await;
                Problem::Other("the server doesn't answer".into())
            }
            Failure::Unreachable(text) => {
                self.client.renew(self.used, Cause::Unreachable).await;
                Problem::Other(text)
            }
            Failure::Missing { .. } => {
                self.resume = None;
                self.version = (self.version + 1) % self.kind.api_versions().len();
                // Only the last version shows that the server has none.
                if self.version != 0 {
                    return Some(Duration::ZERO);
                }
                match self.kind.is_custom() {
                    true => self.absence().await,
                    // Every API server has Kubernetes' own kinds: an answer without them, as of a
                    // proxy, must not pass for a cluster without policies.
                    false => Problem::Other("the server doesn't know them".into()),
                }
            }
            Failure::Server { code: 401, .. }
                if self.client.renew(self.used, Cause::Rejected).await =>
            {
                return Some(Duration::ZERO);
            }
            Failure::Server { code, message, retry_after } => {
                let problem = match code {
                    403 => Problem::Forbidden(message),
                    _ => Problem::Other(message),
                };
                self.report(problem).await?;
                return Some(self.pause.next().max(retry_after));
            }
            Failure::TooLarge(bytes) => {
                // What did not fit may be in the next list.
                self.resume = None;
                self.page = (self.page / 5).max(1);
                Problem::Other(format!("the server sends more than {bytes} bytes at once"))
            }
            Failure::Other(text) => Problem::Other(text),
        };
        self.report(problem).await?;
        Some(self.pause.next())
    }

    /// Why the server serves no objects of a custom kind. A server that is starting answers 404
    /// until it has read the definitions, and a proxy may answer 404, too. So the kind is absent
    /// only if the server says that it has no definition of it.
    async fn absence(&mut self) -> Problem {
        let name = crds::name_of(self.kind);
        let problem = match self.read_definition(&name).await {
            Err(Failure::Missing { object: Some(object) }) if object == name => {
                return Problem::NotInstalled;
            }
            Err(Failure::Missing { .. }) => {
                format!("the server doesn't say whether it has the definition {name}")
            }
            Ok(()) => {
                format!("the server has the definition {name}, but doesn't serve its objects")
            }
            Err(Failure::Server { code: 403, message, .. }) => {
                return Problem::Forbidden(format!(
                    "{message}; let podgate get customresourcedefinitions"
                ));
            }
            Err(
                Failure::Server { message, .. }
                | Failure::Unreachable(message)
                | Failure::Other(message),
            ) => message,
            Err(_) => "the server doesn't answer".to_owned(),
        };
        Problem::Other(problem)
    }

    async fn read_definition(&mut self, name: &str) -> Result<(), Failure> {
        let request = Request::new(DEFINITIONS).get(name, &GetParams::default()).map_err(other)?;
        self.open(request.map(Body::from)).await.map(drop)
    }

    async fn report(&self, problem: Problem) -> Option<()> {
        let event = Event { kind: self.kind, at: Instant::now(), news: Err(problem) };
        self.updates.send(Update::Cluster(Box::new(event))).await.ok()
    }

    async fn send(&self, news: News, at: Instant) -> Result<(), Failure> {
        let event = Event { kind: self.kind, at, news: Ok(news) };
        let sent = self.updates.send(Update::Cluster(Box::new(event))).await;
        sent.map_err(|_| Failure::Closed)
    }

    /// Reports an object of a list. One without a key is an error: the list does not tell which
    /// objects exist, so it must not delete any.
    async fn send_listed(&self, object: Object, at: Instant) -> Result<(), Failure> {
        let has_key = object.key(self.kind).is_some();
        self.send(News::Listed(object), at).await?;
        match has_key {
            true => Ok(()),
            false => Err(Failure::Other("the server lists an object without a name".into())),
        }
    }

    /// The path of the kind's objects.
    fn resource(&self) -> Request {
        Request::new(path(self.kind, self.api_version()))
    }

    /// The API version that is asked for.
    fn api_version(&self) -> &'static str {
        self.kind.api_versions()[self.version]
    }

    /// Fails for an object of another kind, or in another API version, `within` a list or a watch.
    fn check_kind(&self, object: &Object, within: &str) -> Result<(), Failure> {
        match object.is_of(self.kind, self.api_version()) {
            true => Ok(()),
            false => Err(Failure::Other(format!(
                "the server sends an object of kind {} in a {within}",
                object.shown_kind()
            ))),
        }
    }

    /// Sends a request by the client of now. Returns the body of the answer.
    async fn open(&mut self, request: http::Request<Body>) -> Result<Body, Failure> {
        let (client, used) = self.client.get();
        self.used = used;
        open(&client, request).await
    }

    /// Reads all pages of a list.
    async fn list(&mut self) -> Result<(), Failure> {
        self.send(News::Begin, Instant::now()).await?;
        let (mut token, mut listed) = (String::new(), 0);
        let version = loop {
            let params = ListParams {
                limit: Some(self.page),
                continue_token: Some(token.clone()).filter(|token| !token.is_empty()),
                ..ListParams::default()
            };
            let request = self.resource().list(&params).map_err(other)?;
            let mut body = self.open(request.map(Body::from)).await?;
            let bytes = read_all(&mut body, PAGE_MAX).await?;
            let page = Page::decode(&bytes, self.kind, self.api_version());
            let page = page.map_err(|error| unreadable(&error))?;
            for object in page.objects() {
                count(&mut listed)?;
                let object = object.map_err(|error| unreadable(&error))?;
                if object.names_kind() {
                    self.check_kind(&object, "list")?;
                }
                self.send_listed(object, Instant::now()).await?;
            }
            let next = page.metadata.r#continue;
            if next.is_empty() {
                break page.metadata.resource_version;
            }
            if next == token {
                return Err(Failure::Other("the server sends the same page again".into()));
            }
            token = next;
        };
        if version.is_empty() {
            return Err(Failure::Other("a list has no resourceVersion".into()));
        }
        self.resume = Some(version);
        self.send(News::End, Instant::now()).await
    }

    /// Watches from the last version on, or, without one, from a streaming list on. Returns why it
    /// ended.
    async fn watch(&mut self) -> Failure {
        match self.follow_watch().await {
            Ok(never) => match never {},
            Err(failure) => failure,
        }
    }

    async fn follow_watch(&mut self) -> Result<Infallible, Failure> {
        let params = WatchParams {
            bookmarks: true,
            send_initial_events: self.resume.is_none(),
            ..WatchParams::default()
        };
        let version = self.resume.as_deref().unwrap_or_default();
        let request = self.resource().watch(&params, version).map_err(other)?;
        let body = self.open(request.map(Body::from)).await?;
        let mut lines = Lines::new(body);
        let first = if self.resume.is_none() { News::Begin } else { News::Current };
        self.send(first, Instant::now()).await?;
        let mut listed = 0;
        loop {
            let listing = self.resume.is_none();
            let line = match listing {
                true => lines.next(STREAM_TIMEOUT).await?,
                false => tokio::select! {
                    line = lines.next(WATCH_TIMEOUT) => match line {
                        Err(Failure::Idle) => return Err(Failure::Ended),
                        line => line?,
                    },
                    () = self.relist.asked() => return Err(Failure::Expired),
                },
            };
            let Some(line) = line else { return Err(Failure::Ended) };
            let at = Instant::now();
            self.take_line(line, at, &mut listed).await?;
        }
    }

    /// Reports what a line of a watch says. After a line that can't be read, or has an object of
    /// another kind, the kind is listed again, because a change was missed.
    async fn take_line(
        &mut self,
        line: &[u8],
        at: Instant,
        listed: &mut usize,
    ) -> Result<(), Failure> {
        let resume = self.resume.take();
        let Line { r#type, object } = Line::decode(line).map_err(|error| unreadable(&error))?;
        let version = object.metadata("resourceVersion").map(str::to_owned);
        let no_version = || Failure::Other("an object has no resourceVersion".into());
        if r#type == "ERROR" {
            self.resume = resume;
            return Err(failure(&object));
        }
        self.check_kind(&object, "watch")?;
        match (r#type.as_str(), resume) {
            ("ADDED" | "MODIFIED", None) => {
                count(listed)?;
                return self.send_listed(object, at).await;
            }
            ("DELETED", None) => return self.send(News::Deleted(object), at).await,
            ("BOOKMARK", None) if !object.ends_list() => return Ok(()),
            ("BOOKMARK", None) => {
                self.resume = Some(version.ok_or_else(no_version)?);
                return self.send(News::End, at).await;
            }
            ("ADDED" | "MODIFIED" | "DELETED" | "BOOKMARK", Some(_)) => {}
            (other, _) => {
                let shown: String = other.chars().take(20).collect();
                return Err(Failure::Other(format!("the server sends events of type {shown:?}")));
            }
        }
        let version = version.ok_or_else(no_version)?;
        let news = match r#type.as_str() {
            "DELETED" => News::Deleted(object),
            "BOOKMARK" => News::Current,
            _ => News::Applied(object),
        };
        self.send(news, at).await?;
        self.resume = Some(version);
        // A list alone does not count: it may be all that works, and costs the server most.
        self.pause = Pause::default();
        Ok(())
    }
}

/// The path of all objects of a kind in one version.
pub(super) fn path(kind: Kind, version: &str) -> String {
    let root = if version.contains('/') { "apis" } else { "api" };
    format!("/{root}/{version}/{}", kind.plural())
}

fn count(objects: &mut usize) -> Result<(), Failure> {
    *objects += 1;
    match *objects > OBJECTS_MAX {
        true => Err(Failure::Other(format!("there are more than {OBJECTS_MAX} objects"))),
        false => Ok(()),
    }
}

fn other(error: impl std::error::Error + 'static) -> Failure {
    Failure::Other(describe(&error))
}

fn unreadable(error: &serde_json::Error) -> Failure {
    Failure::Other(format!("the server's answer can't be read: {error}"))
}

/// What an error's Status means.
fn failure(status: &Object) -> Failure {
    let status = status.value();
    let code = status["code"].as_u64().and_then(|code| u16::try_from(code).ok()).unwrap_or(0);
    let message = status["message"].as_str().unwrap_or("an error without a message");
    let seconds = status["details"]["retryAfterSeconds"].as_u64().unwrap_or(0);
    match code {
        404 => {
            let object = status["details"]["name"].as_str();
            let object = object.filter(|_| status["reason"] == "NotFound").map(str::to_owned);
            Failure::Missing { object }
        }
        410 => Failure::Expired,
        _ => Failure::Server {
            code,
            message: message.chars().take(500).collect(),
            retry_after: Duration::from_secs(seconds.min(60)),
        },
    }
}

/// Sends a request. Returns the body of the answer.
async fn open(client: &Client, request: http::Request<Body>) -> Result<Body, Failure> {
    let answer = timeout(ANSWER_TIMEOUT, client.send(request)).await;
    let answer =
        answer.map_err(|_| Failure::Idle)?.map_err(|e| Failure::Unreachable(describe(&e)))?;
    let (head, mut body) = answer.into_parts();
    if head.status.is_success() {
        return Ok(body);
    }
    let bytes = read_all(&mut body, ERROR_MAX).await.unwrap_or_default();
    let status: Object = serde_json::from_slice(&bytes).unwrap_or_default();
    let code = head.status.as_u16();
    // A proxy may send anything; the code counts.
    let mut value = status.value().clone();
    if value["code"] != code {
        value = serde_json::json!({"code": code, "message": head.status.to_string()});
    }
    Err(failure(&value.into()))
}

async fn read_all(body: &mut Body, max: usize) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    while let Some(part) = next_part(body, ANSWER_TIMEOUT).await? {
        if bytes.len() + part.len() > max {
            return Err(Failure::TooLarge(max));
        }
        bytes.extend_from_slice(&part);
    }
    Ok(bytes)
}

/// The next bytes of a body; `None` at its end.
async fn next_part(body: &mut Body, limit: Duration) -> Result<Option<bytes::Bytes>, Failure> {
    loop {
        let frame = timeout(limit, body.frame()).await.map_err(|_| Failure::Idle)?;
        match frame {
            None => return Ok(None),
            Some(Err(error)) => return Err(other(error)),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

/// The lines of a watch.
struct Lines {
    body: Body,
    bytes: Vec<u8>,
    /// Where the next line begins.
    begin: usize,
    /// No line ends before this.
    searched: usize,
}

impl Lines {
    const fn new(body: Body) -> Self {
        Self { body, bytes: Vec::new(), begin: 0, searched: 0 }
    }

    /// The next line; `None` when the connection ends, also within a line.
    async fn next(&mut self, limit: Duration) -> Result<Option<&[u8]>, Failure> {
        loop {
            if let Some(end) = self.bytes[self.searched..].iter().position(|byte| *byte == b'\n') {
                let begin = self.begin;
                self.begin = self.searched + end + 1;
                self.searched = self.begin;
                return Ok(Some(&self.bytes[begin..self.begin]));
            }
            self.bytes.drain(..self.begin);
            (self.begin, self.searched) = (0, self.bytes.len());
            match next_part(&mut self.body, limit).await {
                Ok(Some(part)) if self.searched + part.len() > LINE_MAX => {
                    return Err(Failure::TooLarge(LINE_MAX));
                }
                Ok(Some(part)) => self.bytes.extend_from_slice(&part),
                // A connection that breaks is resumed like one that ends.
                Ok(None) | Err(Failure::Other(_)) => return Ok(None),
                Err(failure) => return Err(failure),
            }
        }
    }
}

/// The delay before the next try: 0.8 s, twice as long each time, 30 s at most; half of it at
/// random, so that nodes don't come at the same time.
#[derive(Debug, Default)]
pub(super) struct Pause {
    tries: u32,
}

impl Pause {
    pub(super) fn next(&mut self) -> Duration {
        let whole = (800 << self.tries.min(6)).min(30_000);
        self.tries += 1;
        Duration::from_millis(whole / 2 + fastrand::u64(0..=whole / 2))
    }
}
