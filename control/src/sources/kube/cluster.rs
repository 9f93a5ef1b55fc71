//! What is known of the objects at the API server: the agent's side of the source.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use podgate_api::{CertificateStatus, SourceStatus};
use podgate_policy::{Kind, ObjectKey, Rejection, Store, Translation};
use serde_json::Value;
use tokio::time::Instant;
use tracing::{info, warn};

use super::client::ApiClient;
use super::last_good::{self, LastGood};
use super::object::Undecoded;
use super::report::{self, Author, Present};
use super::watch::Relist;
use super::writer::{WriteCounts, Writer};
use super::{Event, News, Object, Problem};
use crate::sources::log_rejections;

/// Nodes of a cluster spread their writes over this time for each node, and over [`SPREAD_MAX`] at
/// most: the first one that writes spares the others the same write.
const SPREAD_BY_NODE: Duration = Duration::from_millis(50);
const SPREAD_MAX: Duration = Duration::from_secs(30);

/// What is known of the objects at the API server.
#[derive(Debug)]
pub(crate) struct Cluster {
    /// Its address at the start.
    server: String,
    /// What the objects are read by; none in tests.
    client: Option<ApiClient>,
    kinds: BTreeMap<Kind, Watched>,
    /// Name of this node.
    node: String,
    /// None if statuses and Events are not written.
    writer: Option<Writer>,
    /// None in tests.
    last_good: Option<LastGood>,
    /// What the server reported of policies; empty without a writer.
    policies: BTreeMap<ObjectKey, Present>,
    /// Policies whose status is to be compared with what the server has.
    changed: BTreeSet<ObjectKey>,
}

/// What is known of one kind.
#[derive(Debug, Default)]
struct Watched {
    /// Objects that the store has from this watch, with their UIDs, where they have one.
    known: BTreeMap<ObjectKey, Option<Box<str>>>,
    /// Objects of the current, incomplete list.
    listed: Option<BTreeSet<ObjectKey>>,
    /// Has the kind listed again.
    relist: Relist,
    /// Whether a list was complete once, or the kind can be done without.
    synced: bool,
    /// Whether a list was complete once.
    complete: bool,
    /// Why objects can't be watched at present.
    problem: Option<Problem>,
    /// When the server last said something of the kind.
    as_of: Option<Instant>,
    /// Objects that have no name that can be read.
    unreadable: u64,
    /// How many of them came before the current list began.
    unreadable_before: u64,
    /// How many of them came before the last complete list began: it shows that they are no more.
    unreadable_settled: u64,
}

impl Cluster {
    pub(super) fn new(server: &str, node: &str, writer: Option<Writer>) -> Self {
        Self {
            server: server.to_owned(),
            client: None,
            kinds: Kind::ALL.iter().map(|kind| (*kind, Watched::default())).collect(),
            node: node.to_owned(),
            writer,
            last_good: None,
            policies: BTreeMap::new(),
            changed: BTreeSet::new(),
        }
    }

    /// What has each kind listed again.
    pub(super) fn relists(&self) -> BTreeMap<Kind, Relist> {
        self.kinds.iter().map(|(kind, watched)| (*kind, watched.relist.clone())).collect()
    }

    pub(super) fn with_client(self, client: ApiClient) -> Self {
        Self { client: Some(client), ..self }
    }

    /// With the last valid versions of policies.
    pub(super) fn with_last_good(self, last_good: LastGood) -> Self {
        Self { last_good: Some(last_good), ..self }
    }

    /// Has the configuration of the API server read again, for further requests.
    pub(crate) fn reload(&self) {
        if let Some(client) = self.client.clone() {
            tokio::spawn(async move { client.reload().await });
        }
    }

    /// The address of the server.
    fn server(&self) -> String {
        let read_again = self.client.as_ref().and_then(ApiClient::server);
        read_again.unwrap_or_else(|| self.server.clone())
    }

    /// The certificate that the client presents now, if it has one.
    pub(crate) fn certificate(&self) -> Option<CertificateStatus> {
        self.client.as_ref().and_then(ApiClient::certificate)
    }

    /// Applies an event to the store. Returns whether it may have changed, or become complete.
    pub(crate) fn apply(&mut self, event: Event, store: &mut Store) -> bool {
        let Event { kind, at, news } = event;
        if self.writer.is_some() && kind.is_policy() {
            self.record_policy(kind, &news);
        }
        let watched = self.kinds.entry(kind).or_default();
        let changed = match news {
            Ok(news) => {
                watched.as_of = Some(at);
                let is_list = matches!(news, News::End);
                let (changed, deleted) = watched.take(kind, news, store, self.last_good.as_ref());
                if let Some(last_good) = self.last_good.as_ref().filter(|_| is_list) {
                    last_good.retain(kind, watched.known.keys().cloned().collect());
                }
                for key in deleted {
                    self.forget(&key);
                }
                changed
            }
            Err(problem) => watched.fail(kind, problem, store.translation()),
        };
        changed | self.set_unread(kind, store)
    }

    /// Records in the store whether it lacks objects of a kind that can be done without. Returns
    /// whether that affects a policy.
    fn set_unread(&mut self, kind: Kind, store: &mut Store) -> bool {
        let unread = self.kinds.get(&kind).and_then(Watched::unread);
        let concerns = can_do_without(kind, store.translation()) && store.set_unread(kind, unread);
        if concerns && self.writer.is_some() {
            self.changed.extend(self.policies.keys().cloned());
        }
        concerns
    }

    /// Records what the server has of a policy, to compare it with what it should have.
    fn record_policy(&mut self, kind: Kind, news: &Result<News, Problem>) {
        let Ok(News::Listed(object) | News::Applied(object)) = news else { return };
        let Some(key) = object.key(kind) else { return };
        let present = Present::read(object, &self.node, self.policies.get(&key));
        self.policies.insert(key.clone(), present);
        self.changed.insert(key);
    }

    fn forget(&mut self, key: &ObjectKey) {
        self.policies.remove(key);
        self.changed.remove(key);
        if let Some(writer) = &self.writer {
            writer.forget(key);
        }
        if let Some(last_good) = &self.last_good {
            last_good.forget(key.clone());
        }
    }

    /// Has the statuses of changed policies written, now that all workers use the tables of
    /// `epoch`.
    pub(crate) fn report(&mut self, store: &Store, epoch: u64) {
        let Some(writer) = &self.writer else { return };
        if self.changed.is_empty() {
            return;
        }
        let author = Author {
            node: &self.node,
            nodes: store.named_nodes().len(),
            is_node: &|name| store.has_node(name),
            now: Timestamp::now(),
        };
        let spread = SPREAD_BY_NODE * u32::try_from(author.nodes.saturating_sub(1)).unwrap_or(0);
        let spread = spread.min(SPREAD_MAX);
        for key in std::mem::take(&mut self.changed) {
            let Some(present) = self.policies.get_mut(&key) else { continue };
            let Some(policy) = store.policy(&key) else { continue };
            let writes = report::writes(&policy, present, epoch, &author);
            writer.submit(&key, writes, spread.mul_f64(fastrand::f64()));
        }
    }

    /// Counts of writes by outcome; none if nothing is written.
    pub(crate) fn writes(&self) -> Option<WriteCounts> {
        self.writer.as_ref().map(Writer::counts)
    }

    /// Objects that have no name that can be read, by kind.
    pub(crate) fn unreadable(&self) -> u64 {
        self.kinds.values().map(|watched| watched.unreadable).sum()
    }

    /// Whether every kind was listed once, or can be done without.
    pub(crate) fn is_synced(&self) -> bool {
        self.kinds.values().all(|watched| watched.synced)
    }

    /// Whether every kind was listed once, and what is wrong now.
    #[must_use]
    pub(crate) fn status(&self) -> SourceStatus {
        let mut problems = Vec::new();
        for (kind, watched) in &self.kinds {
            problems.extend(watched.problem_in_words(*kind));
            let count = watched.unreadable - watched.unreadable_settled;
            if count > 0 {
                problems.push(format!("the API server sent {count} {kind} objects without a name"));
            }
        }
        problems.extend(self.writer.iter().flat_map(Writer::problems));
        problems.extend(self.last_good.iter().flat_map(LastGood::problems));
        let given_up = self.policies.values().filter(|present| present.is_given_up()).count();
        if given_up > 0 {
            problems.push(format!(
                "the conditions of {given_up} policies are not written: others' writes remove them"
            ));
        }
        SourceStatus {
            name: format!("kubernetes {}", self.server()),
            synced: self.is_synced(),
            problems,
            current: self.kinds.values().all(Watched::is_current),
            unsaved: self.last_good.as_ref().map_or(0, LastGood::unsaved),
        }
    }
}

/// Whether policy can be enforced without having read the kind once. A policy that refers to its
/// objects then fails closed ([`Store::set_unread`]). Each verdict may depend on the other kinds:
/// pods, namespaces and nodes determine the owner of an address, services and their EndpointSlices
/// where a packet to a service goes, if podgate decides that.
fn can_do_without(kind: Kind, translation: Translation) -> bool {
    match kind {
        Kind::CiliumCidrGroup => true,
        Kind::Service | Kind::EndpointSlice => translation == Translation::Off,
        _ => false,
    }
}

impl Watched {
    /// Why objects are unknown. What was listed once stays in force, and a kind that is not
    /// installed has no objects.
    fn unread(&self) -> Option<&str> {
        match self.problem.as_ref()? {
            Problem::Forbidden(text) | Problem::Other(text) if !self.complete => Some(text),
            _ => None,
        }
    }

    /// Whether it was listed, and changes are noticed.
    fn is_current(&self) -> bool {
        self.synced && matches!(self.problem, None | Some(Problem::NotInstalled))
    }

    fn problem_in_words(&self, kind: Kind) -> Option<String> {
        Some(match self.problem.as_ref()? {
            Problem::NotInstalled => format!("{kind} is not installed at the API server"),
            problem @ (Problem::Forbidden(text) | Problem::Other(text)) => {
                let age = match self.as_of {
                    Some(at) if self.synced => {
                        format!("; its objects are as of {} s ago", at.elapsed().as_secs())
                    }
                    _ => String::new(),
                };
                let remedy = match (problem, kind) {
                    (Problem::Forbidden(_), Kind::Service | Kind::EndpointSlice)
                        if !self.synced =>
                    {
                        format!(
                            "; let podgate list and watch {}, or run it with --services off",
                            kind.plural()
                        )
                    }
                    (Problem::Forbidden(_), _) => {
                        format!("; let podgate list and watch {}", kind.plural())
                    }
                    _ => String::new(),
                };
                format!("{kind} can't be watched: {text}{age}{remedy}")
            }
        })
    }

    /// Returns whether the store may have changed, and which objects were deleted.
    fn take(
        &mut self,
        kind: Kind,
        news: News,
        store: &mut Store,
        last_good: Option<&LastGood>,
    ) -> (bool, Vec<ObjectKey>) {
        match news {
            News::Begin => {
                self.listed = Some(BTreeSet::new());
                self.unreadable_before = self.unreadable;
                (false, Vec::new())
            }
            News::Current => {
                self.succeed(kind);
                (false, Vec::new())
            }
            News::Listed(object) => (self.insert(kind, object, store, last_good), Vec::new()),
            News::Applied(object) => {
                self.succeed(kind);
                (self.insert(kind, object, store, last_good), Vec::new())
            }
            News::End => {
                self.succeed(kind);
                self.complete = true;
                self.unreadable_settled = self.unreadable_before;
                let listed = self.listed.take().unwrap_or_default();
                // Objects that the list lacks were deleted before the watch began.
                let is_stale = |key: &ObjectKey, _: &mut Option<_>| !listed.contains(key);
                let stale = self.known.extract_if(.., is_stale);
                let stale = Vec::from_iter(stale.map(|(key, _)| key));
                stale.iter().for_each(|key| store.delete(key));
                // The first complete list counts even when it is empty.
                (true, stale)
            }
            News::Deleted(object) => {
                let Some(key) = object.key(kind) else {
                    self.unreadable += 1;
                    return (false, Vec::new());
                };
                let uid = object.metadata("uid");
                if self.known.get(&key).is_some_and(|known| is_other(known.as_deref(), uid)) {
                    warn!("the server deletes another object {key} than it has sent");
                    self.relist.ask();
                    return (false, Vec::new());
                }
                self.known.remove(&key);
                if let Some(listed) = &mut self.listed {
                    listed.remove(&key);
                }
                store.delete(&key);
                (true, vec![key])
            }
        }
    }

    fn insert(
        &mut self,
        kind: Kind,
        object: Object,
        store: &mut Store,
        last_good: Option<&LastGood>,
    ) -> bool {
        let Some(key) = object.key(kind) else {
            self.unreadable += 1;
            return false;
        };
        if let Some(listed) = &mut self.listed {
            listed.insert(key.clone());
        }
        let uid = object.metadata("uid");
        let former = self.known.insert(key.clone(), uid.map(Into::into));
        let replaces = former.as_ref().is_some_and(|former| is_other(former.as_deref(), uid));
        let is_new = former.is_none() || replaces;
        if replaces {
            // It was deleted meanwhile. Nothing of it stays in force if this one is rejected.
            store.delete(&key);
            last_good.inspect(|last_good| last_good.forget(key.clone()));
        }
        let Some(last_good) = last_good.filter(|_| last_good::is_stored(kind)) else {
            if let Err(rejections) = apply(kind, object, store) {
                log_rejections(&rejections);
            }
            return true;
        };
        match apply(kind, object.clone(), store) {
            Ok(manifest) => last_good.keep(key, manifest),
            Err(rejections) => {
                log_rejections(&rejections);
                // The version that was in force before the start, if there was one.
                let former = is_new.then(|| last_good.load(&key, object.metadata("uid"))).flatten();
                if let Some(former) = former
                    && store.apply(&former, None).is_ok()
                {
                    let generation = &former["metadata"]["generation"];
                    info!("the last valid version of {key} is in force: generation {generation}");
                    let _ = apply(kind, object, store);
                }
            }
        }
        true
    }

    fn succeed(&mut self, kind: Kind) {
        if self.problem.take().is_some() || !self.synced {
            info!("{kind} objects are in sync with the API server");
        }
        self.synced = true;
    }

    /// Objects stay in force: an unreachable server must not lift any policy. Returns whether the
    /// kind counts as read from now on.
    fn fail(&mut self, kind: Kind, problem: Problem, translation: Translation) -> bool {
        let synced = self.synced;
        let known = self.problem.as_ref() == Some(&problem);
        match &problem {
            Problem::NotInstalled => {
                self.synced = true;
                if !known {
                    warn!("{kind} is not installed at the API server; it will be tried again");
                }
            }
            Problem::Forbidden(text) | Problem::Other(text) => {
                self.synced |=
                    can_do_without(kind, translation) && matches!(problem, Problem::Forbidden(_));
                if !known {
                    warn!("{kind} objects can't be watched: {text}; it will be tried again");
                }
            }
        }
        self.problem = Some(problem);
        self.synced != synced
    }
}

/// Whether two UIDs are of different objects. An object without one may be any.
fn is_other(one: Option<&str>, other: Option<&str>) -> bool {
    one.zip(other).is_some_and(|(one, other)| one != other)
}

/// Applies an object to the store. Returns it as a manifest would have it.
fn apply(kind: Kind, object: Object, store: &mut Store) -> Result<Value, Vec<Rejection>> {
    let undecoded = object.undecoded().cloned();
    let manifest = object.into_manifest(kind);
    match undecoded {
        Some(Undecoded { path, reason }) => Err(store.reject(&manifest, &path, reason)),
        None => store.apply(&manifest, None).map(|_| manifest),
    }
}

#[cfg(test)]
mod tests {
    use podgate_policy::PolicyState;
    use serde_json::json;

    use super::*;

    fn cluster() -> Cluster {
        Cluster::new("https://server", "node-1", None)
    }

    fn pod(name: &str) -> Object {
        Object::from(json!({
            "metadata": {"namespace": "a", "name": name, "labels": {"app": name},
                         "managedFields": [{"manager": "kubectl"}]},
            "spec": {"containers": []},
            "status": {"podIPs": [{"ip": "10.0.0.1"}]},
        }))
    }

    fn event(kind: Kind, news: Result<News, Problem>) -> Event {
        Event { kind, at: Instant::now(), news }
    }

    fn feed(cluster: &mut Cluster, store: &mut Store, kind: Kind, all: Vec<News>) {
        for news in all {
            cluster.apply(event(kind, Ok(news)), store);
        }
    }

    #[test]
    fn a_list_and_a_watch_fill_the_store() {
        let (mut cluster, mut store) = (cluster(), Store::new());
        use News::{Applied, Begin, Deleted, End, Listed};
        let events = vec![Begin, Listed(pod("x")), End, Applied(pod("y")), Deleted(pod("x"))];
        feed(&mut cluster, &mut store, Kind::Pod, events);
        assert!(store.pod("a", "x").is_none());
        assert!(store.pod("a", "y").is_some());
    }

    #[test]
    fn what_a_second_list_lacks_goes_when_the_list_is_complete() {
        let (mut cluster, mut store) = (cluster(), Store::new());
        use News::{Begin, End, Listed};
        let first = vec![Begin, Listed(pod("x")), Listed(pod("y")), End];
        feed(&mut cluster, &mut store, Kind::Pod, first);
        feed(&mut cluster, &mut store, Kind::Pod, vec![Begin, Listed(pod("y"))]);
        assert!(store.pod("a", "x").is_some());
        feed(&mut cluster, &mut store, Kind::Pod, vec![End]);
        assert!(store.pod("a", "x").is_none());
        assert!(store.pod("a", "y").is_some());
    }

    #[test]
    fn it_is_in_sync_when_every_kind_was_listed_or_does_not_exist() {
        let (mut cluster, mut store) = (cluster(), Store::new());
        for kind in Kind::ALL {
            assert!(!cluster.status().synced);
            if *kind == Kind::CiliumNetworkPolicy {
                let absent = || event(*kind, Err(Problem::NotInstalled));
                // Readiness depends on it, so the agent must be notified, but once.
                assert!(cluster.apply(absent(), &mut store));
                assert!(!cluster.apply(absent(), &mut store));
            } else {
                use News::{Begin, End};
                feed(&mut cluster, &mut store, *kind, vec![Begin, End]);
            }
        }
        let status = cluster.status();
        assert!(status.synced);
        assert_eq!(status.problems, ["CiliumNetworkPolicy is not installed at the API server"]);
    }

    #[test]
    fn a_server_out_of_reach_takes_nothing_away_and_is_no_sync() {
        let (mut cluster, mut store) = (cluster(), Store::new());
        use News::{Begin, End, Listed};
        let failed = || event(Kind::Pod, Err(Problem::Other("refused".into())));
        cluster.apply(failed(), &mut store);
        assert!(!cluster.kinds[&Kind::Pod].synced);
        feed(&mut cluster, &mut store, Kind::Pod, vec![Begin, Listed(pod("x")), End]);
        cluster.apply(failed(), &mut store);
        assert!(store.pod("a", "x").is_some());
        let age = "; its objects are as of 0 s ago";
        assert_eq!(cluster.status().problems, [format!("Pod can't be watched: refused{age}")]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_problem_lasts_until_the_watch_goes_on_and_tells_the_age_of_the_state() {
        let (mut cluster, mut store) = (cluster(), Store::new());
        feed(&mut cluster, &mut store, Kind::Pod, vec![News::Begin, News::End]);
        tokio::time::advance(Duration::from_secs(90)).await;
        cluster.apply(event(Kind::Pod, Err(Problem::Other("refused".into()))), &mut store);
        tokio::time::advance(Duration::from_secs(30)).await;
        let expected = "Pod can't be watched: refused; its objects are as of 120 s ago";
        assert_eq!(cluster.status().problems, [expected]);
        // A list that begins has not reported everything yet.
        feed(&mut cluster, &mut store, Kind::Pod, vec![News::Begin]);
        assert_eq!(cluster.status().problems.len(), 1);
        feed(&mut cluster, &mut store, Kind::Pod, vec![News::Current]);
        assert_eq!(cluster.status().problems.len(), 0);
    }

    /// A cluster of which every kind was listed but `kind`, which may not be read.
    fn cluster_without_right(kind: Kind, store: &mut Store) -> Cluster {
        let mut cluster = cluster();
        for other in Kind::ALL.iter().filter(|other| **other != kind) {
            feed(&mut cluster, store, *other, vec![News::Begin, News::End]);
        }
        let denied = Problem::Forbidden("forbidden: User \"x\"".into());
        cluster.apply(event(kind, Err(denied)), store);
        cluster
    }

    #[test]
    fn a_kind_that_may_not_be_read_degrades_alone_unless_every_verdict_depends_on_it() {
        use Translation::{Off, On};
        for (kind, translation, can_do_without) in [
            (Kind::CiliumCidrGroup, On, true),
            (Kind::Service, Off, true),
            (Kind::EndpointSlice, Off, true),
            // Packets to a service would pass without the policies about its backends.
            (Kind::Service, On, false),
            (Kind::EndpointSlice, On, false),
            // Nodes would be the world.
            (Kind::Node, Off, false),
            (Kind::Pod, On, false),
            (Kind::Namespace, On, false),
            (Kind::NetworkPolicy, On, false),
            (Kind::CiliumNetworkPolicy, On, false),
        ] {
            let mut store = Store::new();
            store.set_translation(translation);
            let status = cluster_without_right(kind, &mut store).status();
            assert_eq!(status.synced, can_do_without, "{kind}");
            let problem = &status.problems[0];
            assert!(problem.starts_with(&format!("{kind} can't be watched")), "{problem}");
            assert!(problem.contains(&format!("list and watch {}", kind.plural())), "{problem}");
        }
    }

    #[test]
    fn a_policy_that_refers_to_a_kind_that_may_not_be_read_fails_closed_until_it_is_read() {
        let policy = || {
            Object::from(json!({
                "metadata": {"namespace": "a", "name": "x", "uid": "u"},
                "spec": {
                    "endpointSelector": {},
                    "egress": [{"toCIDRSet": [{"cidrGroupRef": "g"}]}],
                    "egressDeny": [{"toCIDRSet": [{"cidrGroupRef": "g"}]}],
                },
            }))
        };
        let mut store = Store::new();
        let mut cluster = cluster_without_right(Kind::CiliumCidrGroup, &mut store);
        let applied = event(Kind::CiliumNetworkPolicy, Ok(News::Applied(policy())));
        cluster.apply(applied, &mut store);
        let peers = |store: &Store| {
            let key = policy().key(Kind::CiliumNetworkPolicy).unwrap();
            let sets = store.rule_sets(&key).unwrap();
            Vec::from_iter(sets[0].rules.iter().map(|rule| rule.peers.as_ref().map(Vec::len)))
        };
        // No peer is allowed, every peer is denied.
        assert_eq!(peers(&store), [Some(0), None]);
        let rejections = Vec::from_iter(store.rejections().map(ToString::to_string));
        assert_eq!(rejections.len(), 2);
        assert!(rejections[1].contains("spec.egressDeny[0]"), "{rejections:?}");
        assert!(rejections[1].contains("list and watch ciliumcidrgroups"), "{rejections:?}");

        let group = Object::from(json!({
            "metadata": {"name": "g"}, "spec": {"externalCIDRs": ["10.0.0.0/8"]},
        }));
        use News::{Begin, End, Listed};
        feed(&mut cluster, &mut store, Kind::CiliumCidrGroup, vec![Begin, Listed(group)]);
        assert_eq!(peers(&store), [Some(1), None]);
        assert!(cluster.apply(event(Kind::CiliumCidrGroup, Ok(End)), &mut store));
        assert_eq!(peers(&store), [Some(1), Some(1)]);
        assert_eq!(store.rejections().count(), 0);

        // What was read once stays in force.
        let denied = Problem::Forbidden("forbidden: User \"x\"".into());
        cluster.apply(event(Kind::CiliumCidrGroup, Err(denied)), &mut store);
        assert_eq!(peers(&store), [Some(1), Some(1)]);
    }

    #[test]
    fn objects_without_a_name_are_counted_and_change_nothing() {
        let (mut cluster, mut store) = (cluster(), Store::new());
        let nameless = || Object::from(json!({"metadata": {"name": 7, "namespace": "a"}}));
        let news =
            vec![News::Begin, News::Listed(nameless()), News::End, News::Applied(nameless())];
        feed(&mut cluster, &mut store, Kind::Pod, news);
        assert_eq!(cluster.unreadable(), 2);
        assert_eq!(cluster.status().problems, ["the API server sent 2 Pod objects without a name"]);
        // A complete list without them ends it; the counter goes on.
        feed(&mut cluster, &mut store, Kind::Pod, vec![News::Begin, News::End]);
        assert_eq!((cluster.unreadable(), cluster.status().problems), (2, vec![]));
    }

    const KIND: Kind = Kind::NetworkPolicy;

    /// Versions of the policy `a/x`.
    fn policy(uid: &str, spec: &Value) -> Object {
        let metadata = json!({"namespace": "a", "name": "x", "uid": uid});
        Object::from(json!({"metadata": metadata, "spec": spec}))
    }

    fn valid(uid: &str) -> Object {
        policy(uid, &json!({"podSelector": {}}))
    }

    fn rejected(uid: &str) -> Object {
        policy(uid, &json!({"podSelector": {}, "egres": []}))
    }

    fn policy_key() -> ObjectKey {
        valid("u").key(KIND).unwrap()
    }

    fn state(store: &Store) -> Option<PolicyState> {
        store.policy(&policy_key()).map(|policy| policy.state)
    }

    #[test]
    fn a_policy_that_is_rejected_at_a_start_keeps_the_version_from_before_it() {
        use News::{Applied, Begin, Deleted, End, Listed};
        let dir = tempfile::tempdir().unwrap();
        let start = || {
            (cluster().with_last_good(LastGood::start(dir.path(), BTreeMap::new())), Store::new())
        };
        let settle = |cluster: &Cluster| {
            while cluster.status().unsaved > 0 {
                std::thread::yield_now();
            }
        };
        let (mut before, mut store) = start();
        feed(&mut before, &mut store, KIND, vec![Begin, Listed(valid("u")), End]);
        feed(&mut before, &mut store, KIND, vec![Applied(rejected("u"))]);
        assert_eq!(state(&store), Some(PolicyState::Outdated));
        settle(&before);
        drop(before);

        let (mut after, mut store) = start();
        feed(&mut after, &mut store, KIND, vec![Begin, Listed(rejected("u")), End]);
        assert_eq!(state(&store), Some(PolicyState::Outdated));
        assert_eq!(store.policy(&policy_key()).unwrap().rejections.len(), 1);
        // It stays stored while it is rejected.
        settle(&after);
        let (mut after, mut store) = start();
        feed(&mut after, &mut store, KIND, vec![Begin, Listed(rejected("u"))]);
        assert_eq!(state(&store), Some(PolicyState::Outdated));

        // Another policy of the same name has no version from before.
        let (mut other, mut store) = start();
        feed(&mut other, &mut store, KIND, vec![Begin, Listed(rejected("v"))]);
        assert_eq!(state(&store), Some(PolicyState::Rejected));

        feed(&mut after, &mut store, KIND, vec![End, Deleted(rejected("u"))]);
        settle(&after);
        let (mut last, mut store) = start();
        feed(&mut last, &mut store, KIND, vec![Begin, Listed(rejected("u")), End]);
        assert_eq!(state(&store), Some(PolicyState::Rejected));
    }

    /// Whether `relist` was asked for.
    fn is_asked(relist: &Relist) -> bool {
        use futures_util::FutureExt;
        relist.asked().now_or_never().is_some()
    }

    #[test]
    fn another_object_of_the_same_name_has_nothing_of_the_former() {
        use News::{Applied, Begin, Deleted, End, Listed};
        for later in [vec![Applied(rejected("v"))], vec![Begin, Listed(rejected("v")), End]] {
            let (mut cluster, mut store) = (cluster(), Store::new());
            feed(&mut cluster, &mut store, KIND, vec![Begin, Listed(valid("u")), End]);
            feed(&mut cluster, &mut store, KIND, later);
            assert_eq!(state(&store), Some(PolicyState::Rejected));
        }
        // A deletion of another object than the known one: only a list tells what there is.
        let (mut cluster, mut store) = (cluster(), Store::new());
        let relist = cluster.relists()[&KIND].clone();
        feed(&mut cluster, &mut store, KIND, vec![Begin, Listed(valid("u")), End]);
        feed(&mut cluster, &mut store, KIND, vec![Deleted(valid("v"))]);
        assert_eq!((state(&store), is_asked(&relist)), (Some(PolicyState::Enforced), true));
        feed(&mut cluster, &mut store, KIND, vec![Deleted(valid("u"))]);
        assert_eq!((state(&store), is_asked(&relist)), (None, false));
    }
}
