//! Watches and writes against a scripted server: each connection takes the next answer.

use std::time::Duration;

use kube::{Client, Config};
use podgate_policy::{Kind, ObjectKey, Store};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::client::{Access, ApiClient, connect};
use super::report::Write;
use super::watch::{Relist, Watcher};
use super::writer::Writer;
use super::{Cluster, Event, News, Problem};
use crate::sources::Update;

/// Timeout of everything that is waited for.
const BOUND: Duration = Duration::from_secs(30);

/// What the server answers.
enum Answer {
    /// A code and a body.
    Whole(u16, String),
    /// Parts of a body that ends when the connection is closed.
    Closed(Vec<String>),
    /// The same, but the connection stays open.
    Open(Vec<String>),
}

fn status(code: u16, message: &str) -> Answer {
    let body = json!({"kind": "Status", "code": code, "message": message, "status": "Failure"});
    Answer::Whole(code, body.to_string())
}

fn page(names: &[&str], next: &str) -> Answer {
    let items = Vec::from_iter(names.iter().map(|name| item(name)));
    let metadata = json!({"resourceVersion": "5", "continue": next});
    list(Kind::EndpointSlice, &json!({"metadata": metadata, "items": items}))
}

/// An object of a list, which does not name its kind.
fn item(name: &str) -> Value {
    json!({"metadata": {"namespace": "a", "name": name}})
}

/// A list as servers write it, with its kind.
fn list(kind: Kind, list: &Value) -> Answer {
    let mut list = list.clone();
    list["kind"] = format!("{kind}List").into();
    list["apiVersion"] = kind.api_version().into();
    Answer::Whole(200, list.to_string())
}

fn pod(name: &str, version: &str) -> Value {
    of_kind(Kind::Pod, &json!({"namespace": "a", "name": name, "resourceVersion": version}))
}

/// An object as a watch has it.
fn of_kind(kind: Kind, metadata: &Value) -> Value {
    json!({"kind": kind.name(), "apiVersion": kind.api_version(), "metadata": metadata})
}

fn line(kind: &str, object: &Value) -> String {
    format!("{}\n", json!({"type": kind, "object": object}))
}

fn end_of_list(version: &str) -> String {
    end_of_list_of(Kind::Pod, version)
}

fn end_of_list_of(kind: Kind, version: &str) -> String {
    let annotations = json!({"k8s.io/initial-events-end": "true"});
    let metadata = json!({"resourceVersion": version, "annotations": annotations});
    line("BOOKMARK", &of_kind(kind, &metadata))
}

/// A server, and what it was asked: request lines, with bodies.
struct Server {
    url: String,
    client: ApiClient,
    requests: mpsc::UnboundedReceiver<String>,
}

impl Server {
    async fn start(answers: Vec<Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let client = Client::try_from(Config::new(url.parse().unwrap())).unwrap();
        let client = ApiClient::new(client, Access::InCluster);
        let (asked, requests) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut open = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let request = read_request(&mut stream).await;
                if asked.send(request).is_err() {
                    return;
                }
                write_answer(&mut stream, &answer).await;
                if matches!(answer, Answer::Open(_)) {
                    open.push(stream);
                }
            }
            // Further requests wait.
            open.push(listener.accept().await.unwrap().0);
            std::future::pending::<()>().await;
        });
        Self { url, client, requests }
    }

    async fn request(&mut self) -> String {
        timeout(BOUND, self.requests.recv()).await.unwrap().unwrap()
    }

    /// Follows `kind` at this server.
    fn follow(&self, kind: Kind) -> mpsc::Receiver<Update> {
        let (updates, receiver) = mpsc::channel(64);
        tokio::spawn(Watcher::new(kind, self.client.clone(), updates).run());
        receiver
    }

    /// The same without delays between tries.
    fn follow_at_once(&self, kind: Kind) -> mpsc::Receiver<Update> {
        let (updates, receiver) = mpsc::channel(64);
        let mut watcher = Watcher::new(kind, self.client.clone(), updates);
        tokio::spawn(async move { while watcher.follow_once().await.is_some() {} });
        receiver
    }
}

/// A kubeconfig with a server's URL, and what it has of the user, in YAML.
pub(super) fn kubeconfig(server: &str, user: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Config, current-context: c, \
         clusters: [{{name: k, cluster: {{server: '{server}'}}}}], \
         users: [{{name: u, user: {user}}}], \
         contexts: [{{name: c, context: {{cluster: k, user: u}}}}]}}"
    )
}

async fn read_request(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let head = head.to_ascii_lowercase();
            let length = head.split("content-length: ").nth(1).and_then(|rest| {
                rest.split("\r\n").next().unwrap_or_default().parse::<usize>().ok()
            });
            if body.len() >= length.unwrap_or(0) {
                let first = text.split("\r\n").next().unwrap_or_default();
                let token = text.split("authorization: Bearer ").nth(1);
                let token = token.and_then(|rest| rest.split("\r\n").next()).unwrap_or_default();
                return format!("{first} {body}{token}");
            }
        }
        let mut part = [0; 4096];
        let read = stream.read(&mut part).await.unwrap();
        assert!(read > 0, "the client closed: {text}");
        bytes.extend_from_slice(&part[..read]);
    }
}

async fn write_answer(stream: &mut TcpStream, answer: &Answer) {
    let (code, parts) = match answer {
        Answer::Whole(code, body) => (*code, std::slice::from_ref(body)),
        Answer::Closed(parts) | Answer::Open(parts) => (200, parts.as_slice()),
    };
    let length = match answer {
        Answer::Whole(_, body) => format!("Content-Length: {}\r\n", body.len()),
        _ => String::new(),
    };
    let head = format!("HTTP/1.1 {code} X\r\nConnection: close\r\n{length}\r\n");
    // A client that has seen enough closes.
    let _ = stream.write_all(head.as_bytes()).await;
    for part in parts {
        let _ = stream.write_all(part.as_bytes()).await;
    }
}

/// The next event, in words.
async fn next(updates: &mut mpsc::Receiver<Update>) -> String {
    let update = timeout(BOUND, updates.recv()).await.unwrap().unwrap();
    let Update::Cluster(event) = update else { panic!("{update:?}") };
    let Event { news, .. } = *event;
    let name = |object: &super::Object| object.metadata("name").unwrap_or("?").to_owned();
    match news {
        Ok(News::Begin) => "begin".into(),
        Ok(News::Listed(object)) => format!("listed {}", name(&object)),
        Ok(News::End) => "end".into(),
        Ok(News::Applied(object)) => format!("applied {}", name(&object)),
        Ok(News::Deleted(object)) => format!("deleted {}", name(&object)),
        Ok(News::Current) => "current".into(),
        Err(Problem::NotInstalled) => "not installed".into(),
        Err(Problem::Forbidden(text)) => format!("forbidden: {text}"),
        Err(Problem::Other(text)) => format!("problem: {text}"),
    }
}

async fn expect(updates: &mut mpsc::Receiver<Update>, expected: &[&str]) {
    for expected in expected {
        let next = next(updates).await;
        assert!(next.starts_with(expected), "{next} instead of {expected}");
    }
}

#[tokio::test]
async fn a_streaming_list_becomes_a_watch() {
    let lines = vec![
        line("ADDED", &pod("x", "3")),
        end_of_list("5"),
        line("MODIFIED", &pod("x", "6")),
        line("BOOKMARK", &pod("", "8")),
        line("DELETED", &pod("x", "9")),
        // A line that is cut short is sent again.
        r#"{"type":"ADDED","obj"#.into(),
    ];
    let again = vec![line("ADDED", &pod("y", "10"))];
    let mut server = Server::start(vec![Answer::Closed(lines), Answer::Open(again)]).await;
    let mut updates = server.follow(Kind::Pod);
    let events = ["begin", "listed x", "end", "applied x", "current", "deleted x"];
    expect(&mut updates, &events).await;
    let request = server.request().await;
    assert!(request.starts_with("GET /api/v1/pods?"), "{request}");
    for part in ["watch=true", "sendInitialEvents=true", "resourceVersionMatch=NotOlderThan"] {
        assert!(request.contains(part), "{request}");
    }
    expect(&mut updates, &["current", "applied y"]).await;
    let request = server.request().await;
    assert!(request.contains("resourceVersion=9"), "{request}");
    assert!(!request.contains("sendInitialEvents"), "{request}");
}

#[tokio::test]
async fn a_server_without_streaming_lists_is_asked_for_pages() {
    asked_for_pages_after(status(422, "sendInitialEvents is forbidden for watch")).await;
}

/// As Kubernetes 1.36 answers with etcd 3.4.
#[tokio::test]
async fn a_server_whose_etcd_has_no_progress_requests_is_asked_for_pages() {
    let message = "a watch stream was requested by the client but the required storage feature \
                   RequestWatchProgress is disabled";
    asked_for_pages_after(status(500, message)).await;
}

/// A page takes more than a line.
#[tokio::test]
async fn a_streaming_list_with_a_line_that_is_too_long_is_asked_for_in_pages() {
    let line = format!("{{\"type\":\"{}", "x".repeat(17 << 20));
    let server =
        Server::start(vec![Answer::Closed(vec![line]), page(&["x"], ""), Answer::Open(vec![])])
            .await;
    let mut updates = server.follow(Kind::EndpointSlice);
    expect(&mut updates, &["begin", "begin", "listed x", "end", "current"]).await;
}

async fn asked_for_pages_after(answer: Answer) {
    let mut server = Server::start(vec![
        answer,
        page(&["x"], "more"),
        page(&["y"], ""),
        Answer::Closed(vec![line("ERROR", &json!({"code": 410, "message": "too old"}))]),
        page(&["y"], ""),
        Answer::Open(vec![]),
    ])
    .await;
    let mut updates = server.follow(Kind::EndpointSlice);
    expect(&mut updates, &["begin", "listed x", "listed y", "end", "current"]).await;
    // Too old a version is no problem: everything is listed again.
    expect(&mut updates, &["begin", "listed y", "end", "current"]).await;
    assert!(server.request().await.contains("/apis/discovery.k8s.io/v1/endpointslices?"));
    assert!(server.request().await.contains("limit=500"));
    assert!(server.request().await.contains("continue=more"));
    assert!(server.request().await.contains("resourceVersion=5"));
}

#[tokio::test]
async fn what_a_hostile_server_sends_is_a_problem_and_everything_is_listed_again() {
    let ended = |line: String| Answer::Closed(vec![end_of_list("5"), line]);
    let huge = format!("{{\"type\":\"{}", "x".repeat(17 << 20));
    let mut server = Server::start(vec![
        ended("not JSON\n".into()),
        ended(line("EVIL", &pod("x", "6"))),
        ended(line("ADDED", &of_kind(Kind::Pod, &json!({})))),
        ended(huge),
        ended(line("ADDED", &of_kind(Kind::Pod, &json!({"resourceVersion": "7", "name": [3]})))),
    ])
    .await;
    let mut updates = server.follow_at_once(Kind::Pod);
    for problem in [
        "problem: the server's answer can't be read",
        "problem: the server sends events of type \"EVIL\"",
        "problem: an object has no resourceVersion",
        "problem: the server sends more than 16777216 bytes",
    ] {
        expect(&mut updates, &["begin", "end", problem]).await;
    }
    expect(&mut updates, &["begin", "end", "applied ?"]).await;
    for _ in 0..5 {
        assert!(server.request().await.contains("sendInitialEvents=true"));
    }
}

#[tokio::test]
async fn an_endless_list_is_a_problem() {
    let server = Server::start(vec![
        status(400, "unknown"),
        page(&["x"], "more"),
        page(&["y"], "more"),
        list(Kind::EndpointSlice, &json!({"items": 7})),
    ])
    .await;
    let mut updates = server.follow(Kind::EndpointSlice);
    expect(&mut updates, &["begin", "listed x", "listed y"]).await;
    expect(&mut updates, &["problem: the server sends the same page again"]).await;
    expect(&mut updates, &["begin", "problem: the server's answer can't be read"]).await;
}

/// Its connection may be dead without a sign, and so may an unused one.
#[tokio::test]
async fn a_watch_on_which_nothing_comes_is_opened_again() {
    let mut server = Server::start(vec![
        Answer::Open(vec![end_of_list("5")]),
        Answer::Open(vec![line("ADDED", &pod("y", "6"))]),
    ])
    .await;
    let mut updates = server.follow(Kind::Pod);
    expect(&mut updates, &["begin", "end"]).await;
    server.request().await;
    // A bookmark comes each minute.
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(131)).await;
    tokio::time::resume();
    expect(&mut updates, &["current", "applied y"]).await;
    assert!(server.request().await.contains("resourceVersion=5"));
}

/// Whether the kernel probes an idle connection from `port` of this machine (`/proc/net/tcp`: timer
/// 2, Documentation/networking/proc_net_tcp.rst).
fn is_probed(port: u16) -> bool {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let row = table.lines().map(|row| Vec::from_iter(row.split_whitespace()));
    let mut own = row.filter(|row| row.len() > 5 && row[1].ends_with(&format!(":{port:04X}")));
    own.any(|row| row[3] == "01" && row[5].starts_with("02:"))
}

#[tokio::test]
async fn connections_to_the_server_are_probed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config");
    std::fs::write(&file, kubeconfig(&url, "{}")).unwrap();
    let access = Access::Kubeconfig { file, may_run: false };
    let client = connect(&access).await.unwrap().client;
    let (updates, _receiver) = mpsc::channel(64);
    tokio::spawn(Watcher::new(Kind::Pod, client, updates).run());
    let (mut stream, from) = timeout(BOUND, listener.accept()).await.unwrap().unwrap();
    read_request(&mut stream).await;
    // The acknowledgement of the request may still be on its way.
    let probed = async {
        while !is_probed(from.port()) {
            tokio::task::yield_now().await;
        }
    };
    timeout(BOUND, probed).await.unwrap();
}

/// As if its address, or its certificate authority, had changed.
#[tokio::test]
async fn a_kubeconfig_is_read_again_when_its_server_can_not_be_reached() {
    let server = Server::start(vec![Answer::Open(vec![end_of_list("5")])]).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config");
    // Nobody listens on port 1.
    std::fs::write(&file, kubeconfig("http://127.0.0.1:1", "{}")).unwrap();
    let access = Access::Kubeconfig { file: file.clone(), may_run: false };
    let client = connect(&access).await.unwrap().client;
    std::fs::write(&file, kubeconfig(&server.url, "{}")).unwrap();
    let (updates, mut receiver) = mpsc::channel(64);
    tokio::spawn(Watcher::new(Kind::Pod, client, updates).run());
    expect(&mut receiver, &["problem: ", "begin", "end"]).await;
}

#[tokio::test]
async fn a_kubeconfig_is_read_again_on_demand() {
    let server = Server::start(vec![Answer::Open(vec![end_of_list("5")])]).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config");
    std::fs::write(&file, kubeconfig("http://127.0.0.1:1", "{}")).unwrap();
    let access = Access::Kubeconfig { file: file.clone(), may_run: false };
    let client = connect(&access).await.unwrap().client;
    std::fs::write(&file, "no kubeconfig").unwrap();
    client.reload().await;
    let cluster = Cluster::new("http://before", "node-1", None).with_client(client.clone());
    assert_eq!(cluster.status().name, "kubernetes http://before");
    std::fs::write(&file, kubeconfig(&server.url, "{}")).unwrap();
    client.reload().await;
    assert_eq!(cluster.status().name, format!("kubernetes {}/", server.url));
    let (updates, mut receiver) = mpsc::channel(64);
    tokio::spawn(Watcher::new(Kind::Pod, client, updates).run());
    expect(&mut receiver, &["begin", "end"]).await;
}

/// All nodes list all kinds again and again otherwise, and in the same second.
#[tokio::test]
async fn delays_grow_while_the_server_lists_but_can_not_watch() {
    let expired = || line("ERROR", &json!({"code": 410, "message": "too old"}));
    let mut answers = vec![status(400, "no streaming lists")];
    for _ in 0..7 {
        answers.extend([page(&["x"], ""), Answer::Closed(vec![expired()])]);
    }
    let bookmark =
        line("BOOKMARK", &of_kind(Kind::EndpointSlice, &json!({"resourceVersion": "8"})));
    answers.extend([page(&["x"], ""), Answer::Closed(vec![bookmark, expired()])]);
    let server = Server::start(answers).await;
    let (updates, _receiver) = mpsc::channel(64);
    let mut watcher = Watcher::new(Kind::EndpointSlice, server.client.clone(), updates);
    let mut delays = Vec::new();
    for _ in 0..9 {
        delays.push(timeout(BOUND, watcher.follow_once()).await.unwrap().unwrap().as_millis());
    }
    // The streaming list; then half of each delay is random.
    assert_eq!(delays[0], 0);
    let longest = [800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 800];
    for (delay, longest) in delays[1..].iter().zip(longest) {
        assert!((longest / 2..=longest).contains(delay), "{delays:?}");
    }
}

/// What a complete list lacks is deleted, so it has to be a list of the kind for certain.
#[tokio::test]
async fn an_answer_that_is_no_list_of_the_kind_deletes_nothing() {
    let metadata = || json!({"resourceVersion": "7"});
    let whole = |answer: Value| Answer::Whole(200, answer.to_string());
    let nameless = json!({"metadata": {"namespace": "a", "resourceVersion": "6"}});
    let server = Server::start(vec![
        status(400, "no streaming lists"),
        list(Kind::NetworkPolicy, &json!({"metadata": metadata(), "items": [item("x")]})),
        Answer::Closed(vec![line("ERROR", &json!({"code": 410, "message": "too old"}))]),
        list(Kind::NetworkPolicy, &json!({"metadata": metadata()})),
        list(Kind::Pod, &json!({"metadata": metadata(), "items": []})),
        whole(json!({"metadata": metadata(), "items": []})),
        whole(json!({"kind": "Status", "status": "Success", "metadata": metadata()})),
        // Calico has a kind of this name, too.
        whole(json!({"kind": "NetworkPolicyList", "apiVersion": "crd.projectcalico.org/v1",
                     "metadata": metadata(), "items": []})),
        list(Kind::NetworkPolicy, &json!({"metadata": metadata(), "items": [pod("x", "5")]})),
        list(Kind::NetworkPolicy, &json!({"metadata": metadata(), "items": [nameless]})),
        list(Kind::NetworkPolicy, &json!({"metadata": metadata(), "items": null})),
        Answer::Open(vec![]),
    ])
    .await;
    let mut updates = server.follow_at_once(Kind::NetworkPolicy);
    expect(&mut updates, &["begin", "listed x", "end", "current"]).await;
    for reason in [
        "missing field `items`",
        "its kind is \"PodList\" and apiVersion \"v1\" instead of \"NetworkPolicyList\" and",
        "its kind is null and",
        "its kind is \"Status\" and",
        "its kind is \"NetworkPolicyList\" and apiVersion \"crd.projectcalico.org/v1\" instead of",
    ] {
        let problem = format!("problem: the server's answer can't be read: {reason}");
        expect(&mut updates, &["begin", &problem]).await;
    }
    let problem =
        "problem: the server sends an object of kind \"Pod\" and apiVersion \"v1\" in a list";
    expect(&mut updates, &["begin", problem]).await;
    let problem = "problem: the server lists an object without a name";
    expect(&mut updates, &["begin", "listed ?", problem]).await;
    expect(&mut updates, &["begin", "end", "current"]).await;
}

#[tokio::test]
async fn a_streaming_list_with_an_object_without_a_name_deletes_nothing() {
    let nameless = of_kind(Kind::Pod, &json!({"namespace": "a", "resourceVersion": "3"}));
    let server = Server::start(vec![
        Answer::Closed(vec![line("ADDED", &nameless), end_of_list("5")]),
        Answer::Open(vec![end_of_list("6")]),
    ])
    .await;
    let mut updates = server.follow(Kind::Pod);
    let problem = "problem: the server lists an object without a name";
    expect(&mut updates, &["begin", "listed ?", problem, "begin", "end"]).await;
}

/// What a line of another kind says must not be done to the object of this name.
#[tokio::test]
async fn a_watch_with_an_object_of_another_kind_changes_nothing() {
    const KIND: Kind = Kind::NetworkPolicy;
    let end = || end_of_list_of(KIND, "5");
    let of = |kind: &str, api: &str| {
        let metadata = json!({"namespace": "a", "name": "x", "resourceVersion": "6"});
        json!({"kind": kind, "apiVersion": api, "metadata": metadata})
    };
    let server = Server::start(vec![
        Answer::Closed(vec![end_of_list("5")]),
        Answer::Closed(vec![end(), line("DELETED", &of("Pod", "v1"))]),
        Answer::Closed(vec![end(), line("MODIFIED", &of("NetworkPolicy", "v1"))]),
        Answer::Closed(vec![line("ADDED", &item("x"))]),
        Answer::Closed(vec![end(), line("BOOKMARK", &of("Pod", "v1"))]),
        Answer::Open(vec![end(), line("DELETED", &of("NetworkPolicy", KIND.api_version()))]),
    ])
    .await;
    let mut updates = server.follow_at_once(KIND);
    let problem =
        "problem: the server sends an object of kind \"Pod\" and apiVersion \"v1\" in a w";
    expect(&mut updates, &["begin", problem, "begin", "end", problem]).await;
    let problem_of = |kind: &str| format!("problem: the server sends an object of kind {kind} and");
    expect(&mut updates, &["begin", "end", &problem_of("\"NetworkPolicy\"")]).await;
    expect(&mut updates, &["begin", &problem_of("null"), "begin", "end", problem]).await;
    expect(&mut updates, &["begin", "end", "deleted x"]).await;
}

#[tokio::test]
async fn a_kind_is_listed_again_on_demand() {
    let mut server = Server::start(vec![
        Answer::Open(vec![end_of_list("5")]),
        Answer::Open(vec![end_of_list("6")]),
    ])
    .await;
    let (updates, mut receiver) = mpsc::channel(64);
    let relist = Relist::default();
    let watcher = Watcher::new(Kind::Pod, server.client.clone(), updates);
    tokio::spawn(watcher.with_relist(relist.clone()).run());
    expect(&mut receiver, &["begin", "end"]).await;
    relist.ask();
    expect(&mut receiver, &["begin", "end"]).await;
    for _ in 0..2 {
        assert!(server.request().await.contains("sendInitialEvents=true"));
    }
}

/// A policy as JSON text whose field `spec` has lists nested this deep.
fn nested_policy(name: &str, depth: usize, version: &str) -> String {
    let metadata = json!({"namespace": "b", "name": name, "resourceVersion": version, "uid": "u"});
    let spec = ["[".repeat(depth), "]".repeat(depth)].concat();
    let kind = r#""kind":"CiliumNetworkPolicy","apiVersion":"cilium.io/v2""#;
    format!(r#"{{{kind},"metadata":{metadata},"spec":{spec},"status":{{}}}}"#)
}

/// A policy that selects all pods of its namespace.
fn policy(name: &str, version: &str) -> Value {
    let metadata = json!({"namespace": "b", "name": name, "resourceVersion": version});
    let mut policy = of_kind(Kind::CiliumNetworkPolicy, &metadata);
    policy["spec"] = json!({"endpointSelector": {}, "ingress": [{}]});
    policy
}

/// The state of each policy, and why it is rejected.
fn states(store: &Store) -> Vec<String> {
    let state = |policy: podgate_policy::PolicyStatus<'_>| {
        let reasons: Vec<_> = policy.rejections.iter().map(ToString::to_string).collect();
        format!("{} {:?} {}", policy.key.name, policy.state, reasons.join("; "))
    };
    store.policies().map(state).collect()
}

/// Applies updates until the kind is complete, or a change of it was applied.
async fn apply_until_changed(
    cluster: &mut Cluster,
    store: &mut Store,
    updates: &mut mpsc::Receiver<Update>,
) {
    loop {
        let update = timeout(BOUND, updates.recv()).await.unwrap().unwrap();
        let Update::Cluster(event) = update else { panic!("{update:?}") };
        let news = match &event.news {
            Ok(news) => matches!(news, News::End | News::Applied(_)),
            Err(problem) => panic!("{problem:?}"),
        };
        cluster.apply(*event, store);
        if news {
            return;
        }
    }
}

/// An object that can't be decoded is rejected alone: everyone who may write one object of the
/// kind could otherwise stop all changes of it on all nodes.
#[tokio::test]
async fn an_object_that_is_nested_too_deep_is_rejected_and_all_others_are_read() {
    let items = [nested_policy("deep", 100_000, "4"), policy("x", "4").to_string()].join(",");
    let page = format!(
        r#"{{"kind":"CiliumNetworkPolicyList","apiVersion":"cilium.io/v2","items":[{items}],
            "metadata":{{"resourceVersion":"5"}}}}"#
    );
    let changed = |policy: &str| format!("{{\"type\":\"MODIFIED\",\"object\":{policy}}}\n");
    let lines = vec![
        changed(&nested_policy("x", 130, "6")),
        changed(&policy("y", "7").to_string()),
        changed(&policy("deep", "8").to_string()),
    ];
    let server = Server::start(vec![
        status(400, "no streaming lists"),
        Answer::Whole(200, page),
        Answer::Open(lines),
    ])
    .await;
    let mut updates = server.follow(Kind::CiliumNetworkPolicy);
    let (mut cluster, mut store) = (Cluster::new("server", "node-1", None), Store::new());
    apply_until_changed(&mut cluster, &mut store, &mut updates).await;
    let reason = |name: &str| {
        format!("CiliumNetworkPolicy b/{name}: spec: can't be decoded: recursion limit exceeded")
    };
    let listed = states(&store);
    assert_eq!(listed.len(), 2, "{listed:?}");
    assert!(listed[0].starts_with(&format!("deep Rejected {}", reason("deep"))), "{listed:?}");
    assert_eq!(listed[1], "x Enforced ");

    for _ in 0..3 {
        apply_until_changed(&mut cluster, &mut store, &mut updates).await;
    }
    let changed = states(&store);
    assert_eq!(changed.len(), 3, "{changed:?}");
    assert_eq!(changed[0], "deep Enforced ");
    assert!(changed[1].starts_with(&format!("x Outdated {}", reason("x"))), "{changed:?}");
    assert_eq!(changed[2], "y Enforced ");
    assert_eq!((cluster.unreadable(), cluster.status().problems), (0, vec![]));
}

#[tokio::test]
async fn a_streaming_list_rejects_an_object_that_is_nested_too_deep() {
    let lines = vec![
        format!("{{\"object\":{},\"type\":\"ADDED\"}}\n", nested_policy("deep", 130, "4")),
        line("ADDED", &policy("x", "4")),
        end_of_list_of(Kind::CiliumNetworkPolicy, "5"),
    ];
    let server = Server::start(vec![Answer::Open(lines)]).await;
    let mut updates = server.follow(Kind::CiliumNetworkPolicy);
    let (mut cluster, mut store) = (Cluster::new("server", "node-1", None), Store::new());
    apply_until_changed(&mut cluster, &mut store, &mut updates).await;
    let listed = states(&store);
    assert!(listed[0].starts_with("deep Rejected "), "{listed:?}");
    assert_eq!(listed[1..], ["x Enforced "]);
}

#[tokio::test]
async fn denials_and_missing_kinds_are_distinguished_and_older_versions_are_tried() {
    let missing = || status(404, "not found");
    let end_of_list_v2alpha1 =
        end_of_list_of(Kind::CiliumCidrGroup, "5").replace("cilium.io/v2", "cilium.io/v2alpha1");
    let mut server = Server::start(vec![
        missing(),
        missing(),
        no_definition("ciliumcidrgroups.cilium.io"),
        status(403, "User \"x\" cannot list"),
        missing(),
        Answer::Open(vec![end_of_list_v2alpha1]),
    ])
    .await;
    let mut updates = server.follow(Kind::CiliumCidrGroup);
    expect(&mut updates, &["not installed", "forbidden: User \"x\" cannot list"]).await;
    expect(&mut updates, &["begin", "end"]).await;
    let objects = |version: &str| format!("cilium.io/{version}/ciliumcidrgroups");
    let definition = "customresourcedefinitions/ciliumcidrgroups.cilium.io".to_owned();
    let tried = [objects("v2"), objects("v2alpha1"), definition, objects("v2"), objects("v2")];
    for path in tried.into_iter().chain([objects("v2alpha1")]) {
        let request = server.request().await;
        assert!(request.contains(&path), "{request}");
    }
}

#[tokio::test]
async fn a_kind_whose_definition_is_there_or_unreadable_is_not_absent() {
    let missing = || status(404, "not found");
    let server = Server::start(vec![
        missing(),
        Answer::Whole(200, "{}".into()),
        missing(),
        status(403, "User \"x\" cannot get"),
    ])
    .await;
    let mut updates = server.follow(Kind::CiliumNetworkPolicy);
    let unserved = "problem: the server has the definition ciliumnetworkpolicies.cilium.io, but";
    let forbidden = "forbidden: User \"x\" cannot get; let podgate get customresourcedefinitions";
    expect(&mut updates, &[unserved, forbidden]).await;
}

#[tokio::test]
async fn a_proxy_that_knows_nothing_is_no_server_without_a_kind() {
    let missing = || status(404, "not found");
    let server =
        Server::start(vec![missing(), missing(), missing(), no_definition("pods.example")]).await;
    let mut updates = server.follow(Kind::CiliumNetworkPolicy);
    let unknown = "problem: the server doesn't say whether it has the definition";
    expect(&mut updates, &[unknown, unknown]).await;
}

/// What an API server answers about a definition that it does not have.
fn no_definition(name: &str) -> Answer {
    let status = json!({
        "kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound",
        "message": format!("customresourcedefinitions \"{name}\" not found"),
        "details": {"name": name, "kind": "customresourcedefinitions"},
    });
    Answer::Whole(404, status.to_string())
}

fn key() -> ObjectKey {
    let (namespace, name) = (Some("a".to_owned()), "x".to_owned());
    ObjectKey { kind: Kind::CiliumNetworkPolicy, namespace, name }
}

fn valid() -> Write {
    let body = json!({"status": {"conditions": [{"type": "Valid"}]}});
    Write::Status { manager: "podgate-n1".into(), body }
}

fn event() -> Write {
    Write::Event { namespace: "a".into(), body: json!({"kind": "Event"}) }
}

/// Waits until the writer has nothing left.
async fn settled(writer: &Writer) {
    let all = async {
        while writer.counts().waiting > 0 || writer.counts() == super::WriteCounts::default() {
            tokio::task::yield_now().await;
        }
    };
    timeout(BOUND, all).await.unwrap();
}

#[tokio::test]
async fn writes_are_sent_and_conflicts_are_tried_again() {
    let mut server = Server::start(vec![
        status(409, "conflict"),
        Answer::Whole(200, "{}".into()),
        status(409, "already exists"),
    ])
    .await;
    let writer = Writer::start(server.client.clone());
    writer.submit(&key(), vec![event()], Duration::from_secs(3600));
    // The later state replaces the earlier one.
    writer.submit(&key(), vec![valid(), event()], Duration::ZERO);
    let request = server.request().await;
    let path = "/apis/cilium.io/v2/namespaces/a/ciliumnetworkpolicies/x/status?";
    assert!(request.starts_with(&format!("PATCH {path}")), "{request}");
    for part in ["force=true", "fieldManager=podgate-n1", "\"Valid\""] {
        assert!(request.contains(part), "{request}");
    }
    assert_eq!(server.request().await, request);
    let request = server.request().await;
    assert!(request.starts_with("POST /apis/events.k8s.io/v1/namespaces/a/events?"), "{request}");
    timeout(BOUND, async {
        while writer.counts().events == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    let counts = writer.counts();
    assert_eq!((counts.statuses, counts.events, counts.retried, counts.failed), (1, 1, 1, 0));
    assert_eq!(writer.problems(), Vec::<String>::new());
}

#[tokio::test]
async fn what_is_forbidden_is_named_and_not_asked_again() {
    let mut server = Server::start(vec![
        status(403, "User \"x\" cannot patch"),
        Answer::Whole(201, "{}".into()),
        status(404, "not found"),
    ])
    .await;
    let writer = Writer::start(server.client.clone());
    writer.submit(&key(), vec![valid(), event()], Duration::ZERO);
    assert!(server.request().await.starts_with("PATCH"));
    assert!(server.request().await.starts_with("POST"));
    settled(&writer).await;
    let problem =
        "statuses of CiliumNetworkPolicy objects are not written: User \"x\" cannot patch";
    assert_eq!(writer.problems(), [problem]);
    // Its statuses are left out; Events are still written, until the object is gone.
    writer.submit(&key(), vec![valid(), event(), event()], Duration::ZERO);
    assert!(server.request().await.starts_with("POST"));
    timeout(BOUND, async {
        while writer.counts().gone == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    assert_eq!(writer.counts().waiting, 0);
}

#[tokio::test]
async fn a_namespace_that_is_being_deleted_is_no_missing_right() {
    let denial = json!({
        "kind": "Status", "status": "Failure", "code": 403, "reason": "Forbidden",
        "message": "forbidden: unable to create new content in namespace a",
        "details": {"causes": [{"reason": "NamespaceTerminating", "message": "is terminating"}]},
    });
    let denied = Answer::Whole(403, denial.to_string());
    let mut server = Server::start(vec![denied, Answer::Whole(201, "{}".into())]).await;
    let writer = Writer::start(server.client.clone());
    for answered in 1..=2 {
        writer.submit(&key(), vec![event()], Duration::ZERO);
        assert!(server.request().await.starts_with("POST"));
        timeout(BOUND, async {
            while writer.counts().gone + writer.counts().events < answered {
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap();
    }
    assert_eq!(writer.problems(), Vec::<String>::new());
    assert_eq!((writer.counts().gone, writer.counts().events), (1, 1));
}

#[tokio::test]
async fn an_event_waits_until_it_is_written_though_the_status_changes() {
    let created = || Answer::Whole(201, "{}".into());
    let mut server = Server::start(vec![created(), created()]).await;
    let writer = Writer::start(server.client.clone());
    writer.submit(&key(), vec![valid(), event()], Duration::from_millis(50));
    // What the server has is seen, and nothing more is to be written.
    writer.submit(&key(), vec![valid()], Duration::from_millis(50));
    writer.submit(&key(), vec![], Duration::ZERO);
    assert!(server.request().await.starts_with("POST"));
}

#[tokio::test]
async fn a_token_that_the_server_refuses_is_read_again_at_once() {
    let refuse = || status(401, "Unauthorized");
    let list = vec![line("ADDED", &pod("x", "5")), end_of_list("5")];
    let mut server = Server::start(vec![refuse(), Answer::Open(list)]).await;
    let dir = tempfile::tempdir().unwrap();
    let (token, file) = (dir.path().join("token"), dir.path().join("kubeconfig"));
    let user = format!("{{tokenFile: {}}}", token.display());
    std::fs::write(&file, kubeconfig(&server.url, &user)).unwrap();
    std::fs::write(&token, "one").unwrap();
    server.client = connect(&Access::Kubeconfig { file, may_run: false }).await.unwrap().client;
    // The client has read it, and would not for a minute.
    std::fs::write(&token, "two").unwrap();
    let mut updates = server.follow(Kind::Pod);
    let first = server.request().await;
    assert!(first.ends_with(" one"), "{first}");
    let second = server.request().await;
    assert!(second.ends_with(" two"), "{second}");
    expect(&mut updates, &["begin", "listed x", "end"]).await;
}

/// Watches may stay open on connections of before.
#[tokio::test]
async fn a_kubeconfig_is_read_again_when_a_write_can_not_be_sent() {
    let mut server = Server::start(vec![Answer::Whole(201, "{}".into())]).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config");
    // Nobody listens on port 1.
    std::fs::write(&file, kubeconfig("http://127.0.0.1:1", "{}")).unwrap();
    let access = Access::Kubeconfig { file: file.clone(), may_run: false };
    let client = connect(&access).await.unwrap().client;
    std::fs::write(&file, kubeconfig(&server.url, "{}")).unwrap();
    let writer = Writer::start(client);
    writer.submit(&key(), vec![event()], Duration::ZERO);
    assert!(server.request().await.starts_with("POST"));
}
