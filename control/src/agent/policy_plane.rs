//! The policy plane: objects, compiled tables and their publication.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use podgate_api::{CertificateStatus, SourceStatus};
use podgate_policy::{Compiled, Compiler, PodName, ServicesLeftOut, Store, Translation};
use podgate_tables::address::Address;
use podgate_tables::ids::Epoch;
use podgate_tables::policy::Snapshot;
use podgate_tables::route::{self, NextHop, RouteTable};
use tokio::time::Instant;
use tracing::debug;

use super::debounce::Debounce;
use super::endpoints::{Endpoint, Endpoints};
use super::epochs::Epochs;
use super::rule_totals::RuleTotals;
use crate::sources::kube::Cluster;
use crate::sources::{Source, Update};

/// Objects, the tables that they compile to, and what was published.
pub(super) struct PolicyPlane {
    source: Source,
    store: Store,
    compiler: Compiler,
    epochs: Epochs,
    debounce: Debounce,
    /// Epoch of the last publication; zero before the first.
    epoch: Epoch,
    routes: Option<Arc<RouteTable>>,
    /// Why endpoints were not ready in the last publication, by link.
    not_ready: BTreeMap<String, NotReady>,
    forced: bool,
    /// Whether policies may have changed that were not reported to the source as in force.
    unreported: bool,
    rule_totals: RuleTotals,
    former_services_since: Instant,
}

/// External addresses and node ports that a service lost count as a service's for this long, and
/// at most twice as long.
const FORMER_SERVICES_PERIOD: Duration = Duration::from_secs(60);

/// Why an endpoint gets no packets.
#[derive(Debug)]
pub(super) struct NotReady {
    reason: String,
    /// Whether another object or link has one of its addresses. Else it waits for what is usual.
    is_conflict: bool,
}

/// A publication that was begun.
#[derive(Debug)]
pub(super) struct StartedPublication(Instant);

impl PolicyPlane {
    /// No objects yet.
    pub(super) fn new(source: Source, translation: Translation) -> Self {
        let compiler = Compiler::new();
        // Events before the first publication are of epoch zero, which has no names.
        let mut epochs = Epochs::default();
        epochs.push(Epoch::default(), compiler.compiled());
        let mut store = Store::new();
        store.set_translation(translation);
        Self {
            source,
            store,
            compiler,
            epochs,
            debounce: Debounce::default(),
            epoch: Epoch::default(),
            routes: None,
            not_ready: BTreeMap::new(),
            forced: false,
            unreported: false,
            rule_totals: RuleTotals::default(),
            former_services_since: Instant::now(),
        }
    }

    /// Has what services lost a while ago forgotten: the kernel's rules follow within seconds.
    pub(super) fn forget_former_services(&mut self, now: Instant) {
        if now.duration_since(self.former_services_since) >= FORMER_SERVICES_PERIOD {
            self.former_services_since = now;
            if self.store.forget_former_services() {
                self.request();
            }
        }
    }

    /// Applies a change of objects.
    pub(super) fn update(&mut self, update: Update) {
        if self.source.apply(update, &mut self.store) {
            self.request();
        }
    }

    /// Reads all objects again.
    pub(super) fn reload(&self) {
        self.source.reload();
    }

    /// Takes the addresses of the node.
    pub(super) fn set_host_addresses(&mut self, addresses: Vec<IpAddr>) {
        self.store.set_host_addresses(addresses);
        self.request();
    }

    /// Takes the addresses that the network plugin assigned to the pods of `endpoints`.
    pub(super) fn set_assigned_addresses<'e>(
        &mut self,
        endpoints: impl Iterator<Item = (&'e String, &'e Endpoint)>,
    ) {
        let assigned = endpoints.filter(|(_, endpoint)| !endpoint.spec.assigned.is_empty());
        let assigned = assigned.map(|(_, endpoint)| {
            let mut addresses = endpoint.spec.assigned.clone();
            addresses.sort_unstable();
            (endpoint.spec.pod.clone(), addresses)
        });
        self.store.set_assigned_addresses(assigned.collect());
    }

    /// Takes the addresses that a DNS name resolves to.
    pub(super) fn learn(&mut self, name: &str, addresses: &[IpAddr]) {
        self.store.learn(name, addresses.iter().copied());
    }

    /// Whether a rule in force matches the DNS name, which is in lower case without a trailing dot.
    pub(super) fn is_wanted(&self, name: &str) -> bool {
        self.compiler.is_wanted(name)
    }

    /// Addresses and ports of services that are not translated.
    pub(super) fn services_left_out(&self) -> ServicesLeftOut {
        self.compiler.services_left_out()
    }

    /// Requests a publication.
    pub(super) fn request(&mut self) {
        self.debounce.request();
    }

    /// Requests a publication even if nothing changed.
    pub(super) fn force(&mut self) {
        self.forced = true;
        self.request();
    }

    /// When the next publication is due, if one was requested.
    pub(super) fn due(&self) -> Option<Instant> {
        self.debounce.due()
    }

    /// All objects.
    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// The certificate that is presented to an API server, if there is one.
    pub(super) fn certificate(&self) -> Option<CertificateStatus> {
        self.source.certificate()
    }

    /// What was counted of policy rules.
    pub(super) fn rule_totals(&self) -> &RuleTotals {
        &self.rule_totals
    }

    /// The same, to add to it.
    pub(super) fn rule_totals_mut(&mut self) -> &mut RuleTotals {
        &mut self.rule_totals
    }

    /// The state of the objects' source.
    pub(super) fn source(&self) -> SourceStatus {
        self.source.status()
    }

    /// Tells the source what is in force, once every worker uses the last publication.
    pub(super) fn report(&mut self, in_force: Epoch) {
        if self.unreported && self.epoch.0 > 0 && in_force >= self.epoch {
            self.unreported = false;
            self.source.report(&self.store, self.epoch.0);
        }
    }

    /// The API server, if objects come from one.
    pub(super) const fn cluster(&self) -> Option<&Cluster> {
        self.source.cluster()
    }

    /// Epoch of the last publication; zero before the first.
    pub(super) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The tables of recent epochs.
    pub(super) fn epochs(&self) -> &Epochs {
        &self.epochs
    }

    /// The published tables.
    pub(super) fn in_force(&self) -> Option<&Compiled> {
        self.epochs.last().filter(|_| self.epoch.0 > 0)
    }

    /// Why the endpoint on `link` was not ready in the last publication, if it wasn't.
    pub(super) fn not_ready(&self, link: &str) -> Option<&str> {
        self.not_ready.get(link).map(|not_ready| &*not_ready.reason)
    }

    /// Endpoints of which others claim an address, one line each.
    pub(super) fn conflicts(&self) -> impl Iterator<Item = String> {
        let conflicts = self.not_ready.iter().filter(|(_, not_ready)| not_ready.is_conflict);
        conflicts.map(|(link, not_ready)| format!("link {link} is cut off: {}", not_ready.reason))
    }

    /// Begins a publication. Before every kind of object was read once, nothing is published: all
    /// packets are dropped until then.
    pub(super) fn begin(&mut self) -> Option<StartedPublication> {
        let begin = self.debounce.begin();
        self.source.is_synced().then_some(StartedPublication(begin))
    }

    /// Compiles what changed. Returns whether anything did.
    pub(super) fn compile(&mut self) -> bool {
        self.compiler.set_epoch(Epoch(self.epoch.0 + 1));
        self.compiler.update(&self.store)
    }

    /// Routes to the endpoints that are ready by the compiled tables, and why the others are not,
    /// by link.
    pub(super) fn route_table(
        &self,
        endpoints: &Endpoints,
        host: NextHop,
    ) -> (RouteTable, BTreeMap<String, NotReady>) {
        let owner = |address| self.compiler.pod_at(address);
        route_table(endpoints.iter(), &self.store, owner, host)
    }

    /// The snapshot to publish, unless nothing changed.
    pub(super) fn next_snapshot(
        &mut self,
        policy_changed: bool,
        routes: &Arc<RouteTable>,
        not_ready: BTreeMap<String, NotReady>,
    ) -> Option<Arc<Snapshot>> {
        self.not_ready = not_ready;
        let same_routes = self.routes.as_ref() == Some(routes);
        if !policy_changed && same_routes && !self.forced {
            return None;
        }
        self.forced = false;
        self.routes = Some(Arc::clone(routes));
        Some(self.snapshot(Arc::clone(routes)))
    }

    /// Compiles what changed of DNS names. Returns the snapshot to publish, unless nothing changed
    /// or nothing was published yet: the first publication has the names, too.
    pub(super) fn compile_names(&mut self) -> Option<Arc<Snapshot>> {
        let routes = self.routes.clone()?;
        self.compiler.update_names(&self.store).then(|| self.snapshot(routes))
    }

    /// The compiled tables, as the next epoch.
    fn snapshot(&mut self, routes: Arc<RouteTable>) -> Arc<Snapshot> {
        self.epoch = Epoch(self.epoch.0 + 1);
        let compiled = self.compiler.compiled();
        let catalog = Arc::clone(&compiled.catalog);
        let renamed = self.compiler.take_renamed_rules();
        let renamed = renamed.map(|rule| (rule, catalog.shared_rule(rule)));
        self.rule_totals.rename(self.epoch, renamed);
        let policy = Arc::clone(&compiled.tables);
        self.epochs.push(self.epoch, compiled);
        Arc::new(Snapshot { epoch: self.epoch, policy, routes })
    }

    /// Ends a publication.
    pub(super) fn end(&mut self, StartedPublication(begin): StartedPublication) {
        self.debounce.end(begin);
        self.unreported = true;
        debug!(epoch = self.epoch.0, took = ?begin.elapsed(), "published");
    }
}

/// Routes to the endpoints that are ready, and why the others are not, by link.
///
/// Endpoints that claim the same address get no routes: which of them owns it is unknown. Nor does
/// an endpoint with an address that is another pod's for policy, by `owner`, or a node's: that
/// owner's policies would apply to it.
fn route_table<'e>(
    endpoints: impl Iterator<Item = (&'e String, &'e Endpoint)>,
    store: &Store,
    owner: impl Fn(IpAddr) -> Option<&'e PodName>,
    host: NextHop,
) -> (RouteTable, BTreeMap<String, NotReady>) {
    let mut routes: BTreeMap<&str, route::Endpoint> = BTreeMap::new();
    let mut not_ready = BTreeMap::new();
    let mut claims: HashMap<Address, BTreeSet<&str>> = HashMap::new();
    for (link, endpoint) in endpoints {
        match endpoint.route(store) {
            Ok(route) => {
                for address in &route.addresses {
                    claims.entry(*address).or_default().insert(link);
                }
                let pod = &endpoint.spec.pod;
                let of_another = |address: &&Address| owner(address.ip()) != Some(pod);
                match route.addresses.iter().find(of_another).map(|address| address.ip()) {
                    None => drop(routes.insert(link, route)),
                    Some(address) => {
                        let reason = match owner(address) {
                            Some(other) => {
                                format!(
                                    "address {address} belongs to pod {other}, which is younger"
                                )
                            }
                            None => match store.node_with(address) {
                                Some(node) => format!("address {address} belongs to node {node}"),
                                None => format!("address {address} belongs to this node"),
                            },
                        };
                        not_ready.insert(link.clone(), NotReady { reason, is_conflict: true });
                    }
                }
            }
            Err(reason) => {
                not_ready.insert(link.clone(), NotReady { reason, is_conflict: false });
            }
        }
    }
    for (address, claimants) in claims.iter().filter(|(_, claimants)| claimants.len() > 1) {
        let links: Vec<_> = claimants.iter().copied().collect();
        for link in &links {
            routes.remove(link);
            let reason = format!("address {address} is claimed on links {}", links.join(", "));
            not_ready.insert((*link).to_owned(), NotReady { reason, is_conflict: true });
        }
    }
    match RouteTable::new(routes.into_values(), Some(host)) {
        Ok(table) => (table, not_ready),
        Err(taken) => unreachable!("each address has one route: {taken}"),
    }
}
