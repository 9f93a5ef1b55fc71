//! DNS names: what the workers saw them resolve to, and for how long it counts
//! ([decision 46](../../../docs/decisions/0046-dns-names.md)).
//!
//! An answer waits in a worker until the tables that admit its addresses are published; then it is
//! released. Answers that wait together are published together.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::{fs, io};

use jiff::{SignedDuration, Timestamp};
use nix::time::{ClockId, clock_gettime};
use podgate_api::{FqdnEntry, FqdnSource};
use podgate_dataplane::l7::dns::learned::DnsAnswer;
use podgate_dataplane::worker::{Destination, LinkError, LiveCheck};
use podgate_policy::{NameCounts, NameLimits, NameTable};
use podgate_tables::address::Address;
use podgate_tables::ids::LinkId;
use podgate_tables::l7::NamePattern;
use podgate_tables::time::Nanos;
use tracing::{debug, error, info, warn};

use super::Agent;
use super::endpoints::{Attached, Endpoints};
use super::names_file::NamesFile;
use super::policy_plane::PolicyPlane;
use super::state::StateDir;

/// How often flows are checked for connections to deferred addresses, seconds.
const CHECK_PERIOD_S: u64 = 60;
/// Least time between two writes of the file, seconds.
const SAVE_PERIOD_S: u64 = 10;

/// What the metrics have about names.
#[derive(Clone, Default, Debug)]
pub(crate) struct NameMetrics {
    /// The table.
    pub(crate) table: NameCounts,
    /// Pods that lost addresses at a bound, with the number.
    pub(crate) evicted: Vec<(Arc<str>, u64)>,
    /// Answers that were released.
    pub(crate) answers: u64,
    /// Publications for answers.
    pub(crate) publications: u64,
    /// Time from taking answers to their release, microseconds; for answers that were taken
    /// together it counts once.
    pub(crate) release_us: u64,
    /// The number of times in `release_us`.
    pub(crate) releases: u64,
}

/// The table of names, and the state of its maintenance.
pub(super) struct DnsNames {
    table: NameTable,
    /// Id of the kernel's boot; empty if it can't be read, and then nothing is saved.
    boot: String,
    path: PathBuf,
    /// Whether the file is outdated.
    unsaved: bool,
    save_due: Nanos,
    saving: Option<JoinHandle<io::Result<()>>>,
    /// What is wrong with the file now, and what was at the start.
    problems: [Option<String>; 2],
    check: Option<PendingCheck>,
    check_due: Nanos,
    /// Whether the table may have names that no rule matches.
    policies_changed: bool,
    /// Addresses that had been evicted when the log said so last.
    evicted_logged: u64,
    metrics: NameMetrics,
}

/// Time since the boot.
pub(super) fn now() -> Nanos {
    match clock_gettime(ClockId::CLOCK_BOOTTIME) {
        Ok(time) => Nanos(time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64),
        Err(error) => unreachable!("Linux has this clock since 2.6.39: {error}"),
    }
}

impl DnsNames {
    /// The names of the previous agent, as far as `state` has them.
    pub(super) fn load(state: &StateDir, limits: NameLimits) -> Self {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id");
        let boot = boot.unwrap_or_default().trim().to_owned();
        let (mut table, now) = (NameTable::new(limits), now());
        let path = state.names();
        let loaded = NamesFile::load(&path, &mut table, &boot, now);
        match &loaded {
            Ok(0) => {}
            Ok(count) => info!("restored {count} addresses of DNS names"),
            Err(problem) => warn!("can't restore the addresses of DNS names: {problem}"),
        }
        Self {
            table,
            boot,
            path,
            unsaved: false,
            save_due: now,
            saving: None,
            problems: [None, loaded.err()],
            check: None,
            check_due: now.plus_secs(CHECK_PERIOD_S),
            policies_changed: false,
            evicted_logged: 0,
            metrics: NameMetrics::default(),
        }
    }

    /// What is wrong, one line each.
    pub(super) fn problems(&self) -> impl Iterator<Item = String> {
        self.problems.iter().flatten().cloned()
    }

    /// Most addresses of names.
    pub(super) fn addresses_max(&self) -> usize {
        self.table.limits().addresses
    }

    /// What the metrics have.
    pub(super) fn metrics(&self) -> NameMetrics {
        let evicted = self.table.evicted().map(|(pod, count)| (Arc::clone(pod), count));
        NameMetrics { table: self.table.counts(), evicted: evicted.collect(), ..self.metrics }
    }

    /// The addresses of names that match `pattern`.
    pub(super) fn list(&self, pattern: Option<&NamePattern>) -> Vec<FqdnEntry> {
        let (now, wall) = (now(), Timestamp::now());
        let matches = |name: &str| pattern.is_none_or(|p| p.matches(name.as_bytes()));
        let entries = self.table.iter().filter(|(name, ..)| matches(name));
        let entry = |(name, address, entry): (&str, IpAddr, podgate_policy::NameAddress)| {
            let left = entry.expires.since(now) as i64 - now.since(entry.expires) as i64;
            let expires = wall.saturating_add(SignedDuration::from_nanos(left));
            let source = match entry.deferred {
                true => FqdnSource::Connection,
                false => FqdnSource::Lookup,
            };
            let expires = expires.unwrap_or_default().to_string();
            let pods = self.table.pods_of(name, address).iter();
            let pods = pods.filter(|pod| !pod.is_empty()).map(|pod| pod.to_string()).collect();
            FqdnEntry {
                name: name.to_owned(),
                address,
                source,
                ttl_s: left.max(0) as u64 / 1_000_000_000,
                expires,
                pods,
            }
        };
        entries.map(entry).collect()
    }

    /// Removes the names that match `pattern`. Returns the number of their addresses.
    pub(super) fn clean(&mut self, pattern: Option<&NamePattern>) -> usize {
        let matches = |name: &str| pattern.is_none_or(|p| p.matches(name.as_bytes()));
        let removed = self.table.retain(|name| !matches(name));
        self.unsaved |= removed > 0;
        removed
    }

    /// Takes an answer, if a rule matches its name.
    fn learn(
        &mut self,
        answer: &DnsAnswer,
        plane: &PolicyPlane,
        endpoints: &Endpoints,
        now: Nanos,
    ) {
        self.metrics.answers += 1;
        let name = String::from_utf8_lossy(answer.name.bytes());
        if plane.is_wanted(&name) {
            let addresses = answer.addresses().iter();
            let pod = pod_of(answer.client, endpoints);
            self.table.learn(&pod, &name, addresses.map(|a| (a.address.ip(), a.ttl)), now);
            self.unsaved = true;
        }
    }

    /// Passes changes of the table on to the store. Returns whether there were any.
    pub(super) fn pass_changes(&mut self, plane: &mut PolicyPlane) -> bool {
        let changes = self.table.take_changes();
        for (name, addresses) in &changes {
            plane.learn(name, addresses);
        }
        !changes.is_empty()
    }

    /// Notes that policies changed.
    pub(super) fn policies_changed(&mut self) {
        self.policies_changed = true;
    }

    /// Maintenance: ends TTLs, removes names that no rule matches, and checks for connections to
    /// deferred addresses.
    fn maintain(&mut self, plane: &PolicyPlane, endpoints: &Endpoints, now: Nanos) {
        let before = self.table.counts();
        self.end_places(plane, endpoints, now);
        let left = self.table.counts();
        self.unsaved |= (before.places, before.evicted) != (left.places, left.evicted);
    }

    /// Ends what has expired, and has connections to deferred addresses checked.
    fn end_places(&mut self, plane: &PolicyPlane, endpoints: &Endpoints, now: Nanos) {
        self.table.expire(now);
        if let Some(result) = self.check.as_ref().and_then(PendingCheck::result) {
            self.check = None;
            let before = self.table.counts();
            self.table.end_check(&result, now);
            let left = self.table.counts();
            debug!(before.deferred, left.deferred, "checked connections to deferred addresses");
        }
        if now < self.check_due {
            return;
        }
        self.check_due = now.plus_secs(CHECK_PERIOD_S);
        if plane.in_force().is_some() && std::mem::take(&mut self.policies_changed) {
            let removed = self.table.retain(|name| plane.is_wanted(name));
            self.unsaved |= removed > 0;
        }
        let pods: BTreeSet<String> =
            endpoints.iter().map(|(_, endpoint)| endpoint.spec.pod.to_string()).collect();
        self.log_evicted();
        self.table.end_pods(|pod| pods.contains(pod), now);
        let deferred = self.table.deferred();
        if deferred.is_empty() || self.check.is_some() {
            return;
        }
        match PendingCheck::start(deferred, plane, endpoints) {
            Ok(check) => self.check = Some(check),
            Err(error) => warn!("can't check connections to deferred addresses: {error}"),
        }
    }

    /// Says which pod lost the most, if any lost addresses since the last time.
    fn log_evicted(&mut self) {
        let evicted = self.table.counts().evicted;
        let most = self.table.evicted().max_by_key(|(_, evicted)| *evicted);
        if let Some((pod, of_pod)) = most.filter(|_| evicted > self.evicted_logged) {
            let count = evicted - self.evicted_logged;
            let pod = if pod.is_empty() { "clients that are not pods of this node" } else { pod };
            warn!(
                "{count} more addresses of DNS names were evicted because a table is full; \
                 {of_pod} since the start were those of {pod}, the most of all"
            );
        }
        self.evicted_logged = evicted;
    }

    /// Writes the file on a thread of its own, if it is outdated and time.
    fn save_if_due(&mut self, now: Nanos) {
        if self.saving.as_ref().is_some_and(JoinHandle::is_finished) {
            self.end_saving();
        }
        if now < self.save_due || self.saving.is_some() || self.boot.is_empty() {
            return;
        }
        self.save_due = now.plus_secs(SAVE_PERIOD_S);
        let is_removed = self.table.counts().names > 0 && !self.path.exists();
        if !self.unsaved && !is_removed {
            return;
        }
        self.unsaved = false;
        let (file, path) = (NamesFile::of(&self.table, &self.boot), self.path.clone());
        let write = move || file.write(&path);
        match thread::Builder::new().name("pg-names".into()).spawn(write) {
            Ok(thread) => self.saving = Some(thread),
            Err(error) => self.saved(Err(error)),
        }
    }

    fn end_saving(&mut self) {
        if let Some(thread) = self.saving.take() {
            let written = thread.join();
            self.saved(written.unwrap_or_else(|_| Err(io::Error::other("the thread panicked"))));
        }
    }

    fn saved(&mut self, result: io::Result<()>) {
        let problem = result.err().map(|error| {
            format!(
                "can't write {}: {error}; a restart loses the DNS names that were learned since the \
                 last write",
                self.path.display()
            )
        });
        if let Some(problem) = &problem {
            self.unsaved = true;
            if self.problems[0].as_ref() != Some(problem) {
                error!("{problem}");
            }
        }
        self.problems[0] = problem;
    }

    /// Writes the file now, at the end.
    ///
    /// # Errors
    /// When it can't be written: one line that names it.
    pub(super) fn save(&mut self) -> Result<(), String> {
        self.end_saving();
        if self.unsaved && !self.boot.is_empty() {
            let written = NamesFile::of(&self.table, &self.boot).write(&self.path);
            self.saved(written);
        }
        self.problems[0].clone().map_or(Ok(()), Err)
    }
}

/// A check of connections to deferred addresses that the workers have not answered yet.
struct PendingCheck {
    check: Arc<LiveCheck>,
    /// The addresses of each pod that are checked.
    deferred: BTreeMap<Arc<str>, BTreeSet<IpAddr>>,
    /// The pods' own addresses.
    pods: PodAddresses,
}

/// The addresses of each pod of the node, by its name.
type PodAddresses = BTreeMap<String, Vec<Address>>;

impl PendingCheck {
    /// Asks the workers for connections of each pod to addresses that it asked for: a pod must not
    /// keep an address that only another pod asked for. Of clients that are no pods of the node,
    /// any connection counts. Pods whose link or addresses are missing for a moment are left out.
    fn start(
        mut deferred: BTreeMap<Arc<str>, BTreeSet<IpAddr>>,
        plane: &PolicyPlane,
        endpoints: &Endpoints,
    ) -> Result<Self, LinkError> {
        let mut pods = PodAddresses::new();
        for (_, endpoint) in endpoints.iter() {
            let pod = endpoint.spec.pod.to_string();
            match (&endpoint.link, endpoint.addresses(plane.store())) {
                (Ok(_), Ok(addresses)) => {
                    _ = pods.insert(pod, addresses.iter().copied().map(Address::from).collect());
                }
                _ => _ = deferred.remove(pod.as_str()),
            }
        }
        let all = deferred.iter().flat_map(|(pod, addresses)| {
            addresses.iter().flat_map(|address| destinations(&pods, pod, *address))
        });
        let check = endpoints.links().dataplane().check_live(all.collect())?;
        Ok(Self { check, deferred, pods })
    }

    /// For each address of a pod whether a connection is alive; `None` until all workers have
    /// answered.
    fn result(&self) -> Option<BTreeMap<Arc<str>, BTreeMap<IpAddr, bool>>> {
        let live: BTreeMap<Destination, bool> = self.check.result()?.collect();
        let of_pod = |(pod, addresses): (&Arc<str>, &BTreeSet<IpAddr>)| {
            let is_alive = |address| {
                let mut destinations = destinations(&self.pods, pod, address);
                destinations.any(|destination| live.get(&destination) == Some(&true))
            };
            let checked = addresses.iter().map(|address| (*address, is_alive(*address)));
            (Arc::clone(pod), checked.collect())
        };
        Some(self.deferred.iter().map(of_pod).collect())
    }
}

/// The destinations of a pod's connections to an address. A pod that is no longer there has none.
fn destinations(
    pods: &PodAddresses,
    pod: &str,
    address: IpAddr,
) -> impl Iterator<Item = Destination> {
    let to = Address::from(address);
    let of_family = move |from: &&Address| from.is_v4() == to.is_v4();
    let own = pods.get(pod).into_iter().flatten().filter(of_family);
    let any = pod.is_empty().then_some(None);
    own.map(|from| Some(*from)).chain(any).map(move |from| (to, from))
}

/// The pod behind a link, as the table names it.
fn pod_of(link: LinkId, endpoints: &Endpoints) -> String {
    let is_behind = |attached: &Attached| attached.slot == link;
    let mut endpoints = endpoints.iter().map(|(_, endpoint)| endpoint);
    let endpoint = endpoints.find(|endpoint| endpoint.link.as_ref().is_ok_and(is_behind));
    endpoint.map(|endpoint| endpoint.spec.pod.to_string()).unwrap_or_default()
}

impl Agent {
    /// Takes the workers' DNS answers, publishes the addresses that are new, and releases the
    /// answers.
    pub(super) fn admit_answers(&mut self) {
        let begin = now();
        let mut tickets = BTreeMap::new();
        let (names, plane, observer) = (&mut self.names, &self.plane, &mut self.observer);
        let endpoints = &self.endpoints;
        endpoints.links().dataplane().drain_answers(|worker, answer| {
            names.learn(&answer, plane, endpoints, begin);
            observer.learn(&answer, plane.epochs().last());
            tickets.insert(worker, answer.ticket);
        });
        if self.publish_names() {
            self.names.metrics.publications += 1;
        }
        let dataplane = self.endpoints.links().dataplane();
        for (worker, ticket) in &tickets {
            dataplane.release_answers(*worker, *ticket);
        }
        let metrics = &mut self.names.metrics;
        metrics.release_us += now().since(begin) / 1000;
        metrics.releases += 1;
    }

    /// Publishes the addresses of names, without other changes. Returns whether those changed.
    pub(super) fn publish_names(&mut self) -> bool {
        if !self.names.pass_changes(&mut self.plane) {
            return false;
        }
        let Some(snapshot) = self.plane.compile_names() else { return false };
        self.endpoints.links().dataplane().publish(snapshot);
        true
    }

    /// Maintenance of names, a few times a second.
    pub(super) fn maintain_names(&mut self) {
        let now = now();
        self.names.maintain(&self.plane, &self.endpoints, now);
        self.publish_names();
        self.names.save_if_due(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_connections_are_those_from_its_addresses_of_the_family() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let address = |text| Address::from(ip(text));
        let own = ["10.0.0.1", "fd00::1", "10.0.0.2"].map(address);
        let pods = PodAddresses::from([("shop/web".into(), own.to_vec())]);
        let of = |pod, to| destinations(&pods, pod, ip(to)).collect::<Vec<_>>();
        let (v4, v6) = ("192.0.2.1", "2001:db8::1");
        let expected = [(address(v4), Some(own[0])), (address(v4), Some(own[2]))];
        assert_eq!(of("shop/web", v4), expected);
        assert_eq!(of("shop/web", v6), [(address(v6), Some(own[1]))]);
        assert_eq!(of("", v4), [(address(v4), None)], "of clients outside, any");
        assert_eq!(of("shop/gone", v4), []);
    }
}
