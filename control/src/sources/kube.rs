//! Watching objects at an API server.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use futures_util::StreamExt;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind};
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::core::Status;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Config};
use podgate_api::{CertificateStatus, SourceStatus};
use podgate_policy::{Kind, ObjectKey, Store};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{info, warn};

use super::{Update, log_rejections};
use crate::certificates;
use crate::error::describe;

/// A kubeconfig that can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KubeError {
    /// The kubeconfig can't be used.
    #[error("can't use kubeconfig {path}: {source}")]
    Kubeconfig {
        /// The file.
        path: String,
        /// The error.
        source: KubeconfigError,
    },
    /// Its credentials come from a program, and the agent runs none.
    #[error(
        "kubeconfig {path} gets its credentials by running a program (exec or auth-provider), which \
         the agent's seccomp filter refuses: write a token or a certificate there, or run with \
         --seccomp off"
    )]
    RunsProgram {
        /// The file.
        path: String,
    },
    /// This is no pod, or one without a service account.
    #[error("can't find the API server of this cluster: {0}; --in-cluster is for pods")]
    InCluster(#[source] kube::config::InClusterError),
    /// It doesn't configure a client.
    #[error("can't make a client from kubeconfig {path}: {source}")]
    Client {
        /// The file.
        path: String,
        /// The error.
        source: Box<kube::Error>,
    },
}

/// A change of one kind.
#[derive(Debug)]
pub(crate) struct Event {
    kind: Kind,
    news: Result<watcher::Event<DynamicObject>, Problem>,
}

/// Why a kind can't be watched now.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Problem {
    /// The server doesn't know the kind.
    NotInstalled,
    /// Anything else.
    Other(String),
}

/// Starts to watch every kind at the server of `kubeconfig`; updates go to `updates` until its
/// receiver is dropped. `may_run` says whether programs may be run for credentials.
///
/// # Errors
/// When the file can't be used. A server that doesn't answer is tried again.
pub(crate) async fn watch(
    kubeconfig: &Path,
    updates: mpsc::Sender<Update>,
    may_run: bool,
) -> Result<Cluster, KubeError> {
    let path = kubeconfig.display().to_string();
    let failed = |source| KubeError::Kubeconfig { path: path.clone(), source };
    let file = Kubeconfig::read_from(kubeconfig).map_err(failed)?;
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .map_err(failed)?;
    let auth = &config.auth_info;
    if !may_run && (auth.exec.is_some() || auth.auth_provider.is_some()) {
        return Err(KubeError::RunsProgram { path });
    }
    watch_all(config, path, updates)
}

/// Starts to watch every kind at the server of the cluster that this process runs in as a pod.
///
/// # Errors
/// When the environment or the service account's files don't say which server that is.
pub(crate) fn watch_in_cluster(updates: mpsc::Sender<Update>) -> Result<Cluster, KubeError> {
    watch_all(in_cluster()?, "of the service account".to_owned(), updates)
}

/// How to reach the server of the cluster that this process runs in. The token is read again as it
/// is replaced.
///
/// # Errors
/// When the environment or the service account's files don't say which server that is.
pub(crate) fn in_cluster() -> Result<Config, KubeError> {
    Config::incluster_env().map_err(KubeError::InCluster)
}

fn watch_all(
    config: Config,
    path: String,
    updates: mpsc::Sender<Update>,
) -> Result<Cluster, KubeError> {
    let certificate = client_certificate(&config.auth_info);
    let server = config.cluster_url.to_string();
    let client = Client::try_from(config)
        .map_err(|source| KubeError::Client { path, source: Box::new(source) })?;
    for kind in Kind::ALL {
        tokio::spawn(watch_kind(*kind, client.clone(), updates.clone()));
    }
    Ok(Cluster { certificate, ..Cluster::new(&server) })
}

/// The state of the certificate of a kubeconfig's user, if it has one.
fn client_certificate(auth: &AuthInfo) -> Option<CertificateStatus> {
    const NAME: &str = "api-client";
    if let Some(data) = &auth.client_certificate_data {
        let pem = BASE64_STANDARD.decode(data.trim()).unwrap_or_default();
        return Some(certificates::of_pem(NAME, &pem));
    }
    let file = auth.client_certificate.as_ref()?;
    Some(certificates::of_file(NAME, Path::new(file)))
}

/// Delay before a kind is listed again because its watch can't be resumed.
const LIST_AGAIN: Duration = Duration::from_secs(1);

/// Watches a kind in its preferred version, or in an older one if the server has no other.
async fn watch_kind(kind: Kind, client: Client, updates: mpsc::Sender<Update>) {
    let watch = |version: &&str| {
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource(kind, version));
        watcher(api, watcher::Config::default()).default_backoff().fuse().boxed()
    };
    let versions = kind.api_versions();
    let mut watches: Vec<_> = versions.iter().map(watch).collect();
    let mut current = 0;
    while let Some(news) = watches[current].next().await {
        if news.as_ref().is_err_and(is_missing) {
            current = (current + 1) % watches.len();
            // Only the last version says that the server has none.
            if current != 0 {
                continue;
            }
        }
        let news = match news {
            Err(error) if is_expiry(&error) => {
                // An expiry that is the answer to the request, and no event of the watch, lets the
                // watcher ask for the same version again, for ever.
                if matches!(error, watcher::Error::WatchStartFailed(_)) {
                    tokio::time::sleep(LIST_AGAIN).await;
                    watches[current] = watch(&versions[current]);
                }
                continue;
            }
            news => news.map_err(|error| problem(kind, &error)),
        };
        let event = Event { kind, news };
        if updates.send(Update::Cluster(Box::new(event))).await.is_err() {
            return;
        }
    }
}

/// Group, version and plural of a kind.
fn resource(kind: Kind, version: &str) -> ApiResource {
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let gvk = GroupVersionKind::gvk(group, version, kind.name());
    ApiResource::from_gvk_with_plural(&gvk, kind.plural())
}

/// The server's message, if there is one.
fn status(error: &watcher::Error) -> Option<&Status> {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => Some(status),
        _ => None,
    }
}

/// A watch older than the server's history (410 Gone) is restarted, which is no error.
fn is_expiry(error: &watcher::Error) -> bool {
    status(error).is_some_and(|status| status.code == 410)
}

/// Whether the server knows nothing of what was asked for.
fn is_missing(error: &watcher::Error) -> bool {
    status(error).is_some_and(|status| status.code == 404)
}

/// Every API server has Kubernetes' own kinds: an answer without them, as of a proxy, must not pass
/// for a cluster without policies.
fn problem(kind: Kind, error: &watcher::Error) -> Problem {
    match status(error) {
        Some(_) if is_missing(error) && kind.is_custom() => Problem::NotInstalled,
        Some(status) => Problem::Other(status.message.clone()),
        None => Problem::Other(describe(error)),
    }
}

/// What is known of the objects at the API server.
#[derive(Debug)]
pub(crate) struct Cluster {
    server: String,
    /// The certificate that the client presents, if it has one.
    certificate: Option<CertificateStatus>,
    kinds: BTreeMap<Kind, Watched>,
}

/// What is known of one kind.
#[derive(Debug, Default)]
struct Watched {
    /// Objects that the store has from this watch.
    known: BTreeSet<ObjectKey>,
    /// Objects of the current, incomplete list.
    listed: Option<BTreeSet<ObjectKey>>,
    /// Whether a list was complete once, or the kind doesn't exist.
    synced: bool,
    /// The last problem, and when it occurred.
    problem: Option<(Problem, Instant)>,
}

/// A problem that didn't occur for this long is over: a failed watch is tried again at least every
/// 30 s, and a successful one reports nothing until an object changes.
const PROBLEM_OVER: Duration = Duration::from_secs(60);

impl Cluster {
    fn new(server: &str) -> Self {
        let kinds = Kind::ALL.iter().map(|kind| (*kind, Watched::default())).collect();
        Self { server: server.to_owned(), certificate: None, kinds }
    }

    /// Applies an event to the store. Returns whether it may have changed, or become complete.
    pub(crate) fn apply(&mut self, event: Event, store: &mut Store) -> bool {
        let Event { kind, news } = event;
        let watched = self.kinds.entry(kind).or_default();
        match news {
            Ok(news) => watched.take(kind, news, store),
            Err(problem) => watched.fail(kind, problem),
        }
    }

    /// The certificate that the client presents, if it has one.
    pub(crate) fn certificate(&self) -> Option<&CertificateStatus> {
        self.certificate.as_ref()
    }

    /// Whether every kind was listed once, and what is wrong now.
    #[must_use]
    pub(crate) fn status(&self) -> SourceStatus {
        let problems = self.kinds.iter().filter_map(|(kind, watched)| {
            let (problem, met) = watched.problem.as_ref()?;
            let text = match problem {
                Problem::NotInstalled => format!("{kind} is not installed at the API server"),
                Problem::Other(text) => format!("{kind} can't be watched: {text}"),
            };
            (met.elapsed() < PROBLEM_OVER).then_some(text)
        });
        SourceStatus {
            name: format!("kubernetes {}", self.server),
            synced: self.kinds.values().all(|watched| watched.synced),
            problems: problems.collect(),
            current: self.kinds.values().all(Watched::is_current),
        }
    }
}

impl Watched {
    /// Whether it was listed, and changes are noticed.
    fn is_current(&self) -> bool {
        let failing = self.problem.as_ref().is_some_and(|(problem, met)| {
            *problem != Problem::NotInstalled && met.elapsed() < PROBLEM_OVER
        });
        self.synced && !failing
    }

    fn take(
        &mut self,
        kind: Kind,
        event: watcher::Event<DynamicObject>,
        store: &mut Store,
    ) -> bool {
        match event {
            watcher::Event::Init => {
                self.listed = Some(BTreeSet::new());
                false
            }
            watcher::Event::InitApply(object) | watcher::Event::Apply(object) => {
                let Some(key) = key(kind, &object) else { return false };
                if let Some(listed) = &mut self.listed {
                    listed.insert(key.clone());
                }
                self.known.insert(key);
                if let Err(rejections) = store.apply(&to_value(kind, object), None) {
                    log_rejections(&rejections);
                }
                true
            }
            watcher::Event::InitDone => {
                self.succeed(kind);
                let listed = self.listed.take().unwrap_or_default();
                // Objects that the list lacks were deleted before the watch began.
                for stale in self.known.difference(&listed) {
                    store.delete(stale);
                }
                self.known = listed;
                // The first complete list counts even when it is empty.
                true
            }
            watcher::Event::Delete(object) => {
                let Some(key) = key(kind, &object) else { return false };
                self.known.remove(&key);
                store.delete(&key);
                true
            }
        }
    }

    fn succeed(&mut self, kind: Kind) {
        if self.problem.take().is_some() || !self.synced {
            info!("{kind} objects are in sync with the API server");
        }
        self.synced = true;
    }

    /// Objects stay in force: an unreachable server must not lift any policy. Returns whether the
    /// kind counts as read from now on.
    fn fail(&mut self, kind: Kind, problem: Problem) -> bool {
        let synced = self.synced;
        let known = self.problem.as_ref().is_some_and(|(known, _)| *known == problem);
        match &problem {
            Problem::NotInstalled => {
                self.synced = true;
                if !known {
                    warn!("{kind} is not installed at the API server; it will be tried again");
                }
            }
            Problem::Other(text) => {
                if !known {
                    warn!("{kind} objects can't be watched: {text}; it will be tried again");
                }
            }
        }
        self.problem = Some((problem, Instant::now()));
        self.synced != synced
    }
}

fn key(kind: Kind, object: &DynamicObject) -> Option<ObjectKey> {
    let namespace = object.metadata.namespace.clone().filter(|_| kind.is_namespaced());
    Some(ObjectKey { kind, namespace, name: object.metadata.name.clone()? })
}

/// The object as a manifest would have it. Items of a list don't say their kind themselves.
fn to_value(kind: Kind, mut object: DynamicObject) -> Value {
    object.metadata.managed_fields = None;
    let metadata = serde_json::to_value(&object.metadata).unwrap_or(Value::Null);
    let mut value = object.data;
    if !value.is_object() {
        value = Value::Object(serde_json::Map::new());
    }
    value["apiVersion"] = kind.api_version().into();
    value["kind"] = kind.name().into();
    value["metadata"] = metadata;
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str) -> DynamicObject {
        serde_json::from_value(json!({
            "metadata": {"namespace": "a", "name": name, "labels": {"app": name},
                         "managedFields": [{"manager": "kubectl"}]},
            "spec": {"containers": []},
            "status": {"podIPs": [{"ip": "10.0.0.1"}]},
        }))
        .unwrap()
    }

    fn feed(
        cluster: &mut Cluster,
        store: &mut Store,
        kind: Kind,
        events: Vec<watcher::Event<DynamicObject>>,
    ) {
        for event in events {
            cluster.apply(Event { kind, news: Ok(event) }, store);
        }
    }

    #[test]
    fn a_list_and_a_watch_fill_the_store() {
        let (mut cluster, mut store) = (Cluster::new("https://server"), Store::new());
        use watcher::Event::{Apply, Delete, Init, InitApply, InitDone};
        let events = vec![Init, InitApply(pod("x")), InitDone, Apply(pod("y")), Delete(pod("x"))];
        feed(&mut cluster, &mut store, Kind::Pod, events);
        assert!(store.pod("a", "x").is_none());
        assert!(store.pod("a", "y").is_some());
    }

    #[test]
    fn what_a_second_list_lacks_goes_when_the_list_is_complete() {
        let (mut cluster, mut store) = (Cluster::new("https://server"), Store::new());
        use watcher::Event::{Init, InitApply, InitDone};
        let first = vec![Init, InitApply(pod("x")), InitApply(pod("y")), InitDone];
        feed(&mut cluster, &mut store, Kind::Pod, first);
        feed(&mut cluster, &mut store, Kind::Pod, vec![Init, InitApply(pod("y"))]);
        assert!(store.pod("a", "x").is_some());
        feed(&mut cluster, &mut store, Kind::Pod, vec![InitDone]);
        assert!(store.pod("a", "x").is_none());
        assert!(store.pod("a", "y").is_some());
    }

    #[test]
    fn it_is_in_sync_when_every_kind_was_listed_or_does_not_exist() {
        let (mut cluster, mut store) = (Cluster::new("https://server"), Store::new());
        for kind in Kind::ALL {
            assert!(!cluster.status().synced);
            if *kind == Kind::CiliumNetworkPolicy {
                let absent = || Event { kind: *kind, news: Err(Problem::NotInstalled) };
                // Readiness hangs on it, so the agent must hear of it; but once.
                assert!(cluster.apply(absent(), &mut store));
                assert!(!cluster.apply(absent(), &mut store));
            } else {
                use watcher::Event::{Init, InitDone};
                feed(&mut cluster, &mut store, *kind, vec![Init, InitDone]);
            }
        }
        let status = cluster.status();
        assert!(status.synced);
        assert_eq!(status.problems, ["CiliumNetworkPolicy is not installed at the API server"]);
    }

    #[test]
    fn a_server_out_of_reach_takes_nothing_away_and_is_no_sync() {
        let (mut cluster, mut store) = (Cluster::new("https://server"), Store::new());
        use watcher::Event::{Init, InitApply, InitDone};
        let failed = || Event { kind: Kind::Pod, news: Err(Problem::Other("refused".into())) };
        cluster.apply(failed(), &mut store);
        assert!(!cluster.kinds[&Kind::Pod].synced);
        feed(&mut cluster, &mut store, Kind::Pod, vec![Init, InitApply(pod("x")), InitDone]);
        cluster.apply(failed(), &mut store);
        assert!(store.pod("a", "x").is_some());
        assert_eq!(cluster.status().problems, ["Pod can't be watched: refused"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_problem_that_is_not_met_again_is_over() {
        let (mut cluster, mut store) = (Cluster::new("https://server"), Store::new());
        let problem = Problem::Other("refused".into());
        cluster.apply(Event { kind: Kind::Pod, news: Err(problem) }, &mut store);
        tokio::time::advance(PROBLEM_OVER / 2).await;
        assert_eq!(cluster.status().problems.len(), 1);
        tokio::time::advance(PROBLEM_OVER / 2).await;
        assert_eq!(cluster.status().problems.len(), 0);
    }

    #[test]
    fn resources_have_the_paths_that_the_api_server_serves() {
        let path = |kind: Kind| {
            let resource = resource(kind, kind.api_version());
            (resource.group, resource.version, resource.plural)
        };
        let expect = |group: &str, version: &str, plural: &str| {
            (group.to_owned(), version.to_owned(), plural.to_owned())
        };
        assert_eq!(path(Kind::Pod), expect("", "v1", "pods"));
        assert_eq!(path(Kind::NetworkPolicy), expect("networking.k8s.io", "v1", "networkpolicies"));
        assert_eq!(
            path(Kind::CiliumClusterwideNetworkPolicy),
            expect("cilium.io", "v2", "ciliumclusterwidenetworkpolicies")
        );
        assert_eq!(
            path(Kind::ClusterNetworkPolicy),
            expect("policy.networking.k8s.io", "v1alpha2", "clusternetworkpolicies")
        );
        let versions = Kind::CiliumCidrGroup.api_versions();
        let paths = versions.iter().map(|version| resource(Kind::CiliumCidrGroup, version).version);
        assert_eq!(paths.collect::<Vec<_>>(), ["v2", "v2alpha1"]);
    }

    #[test]
    fn errors_of_the_server_are_told_apart() {
        let api = |code: u16| {
            let status = json!({"code": code, "message": "no such thing"});
            kube::Error::Api(Box::new(serde_json::from_value(status).unwrap()))
        };
        let list = |kind, code| problem(kind, &watcher::Error::InitialListFailed(api(code)));
        let other = Problem::Other("no such thing".into());
        assert!(is_expiry(&watcher::Error::WatchStartFailed(api(410))));
        assert!(!is_expiry(&watcher::Error::WatchStartFailed(api(404))));
        assert_eq!(list(Kind::CiliumNetworkPolicy, 404), Problem::NotInstalled);
        assert_eq!(list(Kind::ClusterNetworkPolicy, 404), Problem::NotInstalled);
        assert_eq!(list(Kind::CiliumNetworkPolicy, 403), other);
        assert_eq!(list(Kind::NetworkPolicy, 404), other);
    }

    #[test]
    fn a_kubeconfig_that_runs_a_program_is_rejected_where_none_may_be_run() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        let kubeconfig = |user: &str| {
            let text = format!(
                "{{apiVersion: v1, kind: Config, current-context: c, \
                 clusters: [{{name: k, cluster: {{server: 'http://127.0.0.1:1'}}}}], \
                 users: [{{name: u, user: {user}}}], \
                 contexts: [{{name: c, context: {{cluster: k, user: u}}}}]}}"
            );
            std::fs::write(&path, text).unwrap();
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let start = |may_run| {
            let (updates, _updated) = mpsc::channel(1);
            runtime.block_on(watch(&path, updates, may_run)).map(|_| ()).map_err(|e| e.to_string())
        };
        let exec = "{exec: {apiVersion: client.authentication.k8s.io/v1, command: /bin/false}}";
        kubeconfig(exec);
        let error = start(false).unwrap_err();
        assert!(error.contains("a token or a certificate"), "{error}");
        kubeconfig("{token: abc}");
        start(false).unwrap();
    }
}
