//! Why a flow is allowed or denied: the decision of the tables, and the rules that caused it.
//!
//! The verdict is the one that workers reach: by [`PolicyTables::decide`] for the flow, and by the
//! flow's L7 rules for a request. In addition, each rule in force that applies to an end is
//! compared with the flow in normal form. Listed are the rules that match, and the nearest of those
//! that would have changed the decision if they had matched, with the criteria that the flow does
//! not match.
//!
//! [`PolicyTables::decide`]: podgate_tables::policy::PolicyTables::decide

mod criteria;
mod direction;
mod query;
mod request;
mod resolve;
mod selectors;
mod services;
mod table;
mod words;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use podgate_tables::address::{Address, is_martian};
use podgate_tables::l7::{L7Request, L7Verdict};
use podgate_tables::policy::{Decision, LocalEnds, PolicyTables, Subject, Verdict};
use podgate_tables::proto;
use podgate_tables::service::L4Addr;
use podgate_tables::tuple::Tuple;
use serde::{Deserialize, Serialize};

pub use criteria::{Criterion, Failure};
pub use direction::{DirectionExplanation, Effect, Matching, Miss};
pub use query::{EndName, Query, Transport};
pub use request::{HttpSpec, KafkaSpec, RequestSpec};
pub use resolve::{QueryError, most_similar, pods_in_question};
pub use selectors::{SelectorInfo, selectors};
pub use services::{BackendVerdict, ServiceEntry, service_list};
pub use table::{TableRow, table_rows, tier_name};
pub use words::l7_words;

use self::criteria::FlowEnd;
use self::direction::Explainer;
use self::services::Callee;
use crate::catalog::ServiceName;
use crate::observe::{FlowEndpoint, NameResolver, RuleName};
use crate::rules::TrafficDirection;
use crate::{Compiled, Store};

/// Why a flow is allowed or denied.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Explanation {
    /// The outcome of the flow on the wire, and of the request if the query has one. Where workers
    /// can't inspect the flow (`no_inspector`) or don't forward it (`not_forwarded`), it is denied,
    /// whatever policy allows.
    pub verdict: Outcome,
    /// The end that opens the flow.
    pub source: End,
    /// The end that it is opened to.
    pub destination: End,
    /// The service whose cluster IP, node port or external address the destination is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<CalledService>,
    /// DNS names that resolve to the destination, at most [`NAMES_MAX`], if it is neither a pod nor
    /// a node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns_names: Vec<String>,
    /// Protocol and port, or ICMP type.
    pub port: Transport,
    /// What the source may open.
    pub egress: DirectionExplanation,
    /// What the destination may be sent.
    pub ingress: DirectionExplanation,
    /// The L7 protocol that the flow would have to speak, if workers can't inspect it yet: they
    /// drop such a flow, whatever its requests, and the verdict is `denied`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_inspector: Option<String>,
    /// Why workers drop or reject the flow's packets before they evaluate policy, if they do. Then
    /// `egress` and `ingress` say what policy would decide, and there are neither `no_inspector`
    /// nor `request`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_forwarded: Option<String>,
    /// The outcome of the request, if the query has one and the flow is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<RequestVerdict>,
}

/// The outcome of a flow.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It passes.
    Allowed,
    /// It is open, and each request on it is decided by L7 rules; the query names no request.
    Inspected,
    /// It doesn't pass.
    Denied,
}

/// One end of a flow.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct End {
    /// Its address, port and pod.
    #[serde(flatten)]
    pub peer: FlowEndpoint,
    /// What it is.
    pub kind: EndKind,
    /// Whether policy is applied to it here: whether it is an endpoint of this node.
    pub local: bool,
}

/// A service that the destination is. Workers translate it to a backend before policy decides, and
/// the explanation is of one backend. If they don't translate its cluster IP, egress policy of the
/// source sees the cluster IP, which is an address outside of the cluster; the node's kernel
/// translates it to a pod behind the service, where ingress policy sees the source's own address.
/// If they don't translate its port at an address of this node, egress policy of the source decides
/// on that address as on any other, because the node's kernel may translate it.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct CalledService {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Some of the pods behind it, as `NAMESPACE/NAME`, or addresses of its EndpointSlices.
    pub backends: Vec<String>,
    /// How many more there are.
    pub further_backends: usize,
    /// The address and port that workers translate; `None` if they don't.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub translated: Option<SocketAddr>,
    /// The verdict for each backend that workers may choose, at most [`VERDICTS_MAX`], those that
    /// deny the flow first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub verdicts: Vec<BackendVerdict>,
}

/// Most backends of a service that are evaluated.
const EVALUATED_MAX: usize = 200;

/// Most backends of a service whose verdicts are listed.
pub const VERDICTS_MAX: usize = 20;

/// Most DNS names of a destination that are listed.
pub const NAMES_MAX: usize = 8;

/// Most backends of a service that are listed.
const BACKENDS_MAX: usize = 5;

/// The kind of an address's owner.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum EndKind {
    /// A pod.
    Pod,
    /// This node.
    ThisNode,
    /// Another node of the cluster.
    OtherNode,
    /// Anything else.
    World,
}

/// The outcome of a request.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct RequestVerdict {
    /// The request, in short.
    pub request: String,
    /// Whether policy lets it pass; where workers can't inspect the flow, it is dropped
    /// nevertheless.
    pub allowed: bool,
    /// Whether workers inspect the requests of the flow; if not, all pass.
    pub inspected: bool,
    /// The rule that allows it; none if no rule restricts requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleName>,
    /// What the client sees if it doesn't pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub denial: Option<String>,
}

/// The ends whose policy is applied here. That of other ends is applied on their nodes.
#[derive(Clone, Copy, Debug)]
pub enum Local<'a> {
    /// Both, as if they were endpoints of one node.
    Both,
    /// Those with one of these addresses.
    Endpoints(&'a BTreeSet<IpAddr>),
}

/// Explains what the tables say of a flow, and perhaps of a request on it.
///
/// `compiled` must be compiled from `store` as it is now.
///
/// # Errors
/// When there is no such flow.
pub fn explain(
    store: &Store,
    compiled: &Compiled,
    query: &Query,
    local: Local<'_>,
) -> Result<Explanation, QueryError> {
    if matches!(query.from, EndName::Service { .. }) {
        return Err(QueryError::FromService);
    }
    let source = resolve::addresses(&query.from, store, &compiled.catalog)?;
    let transport = resolve::transport(query, store)?;
    let flow = |subject: Subject| Flow { store, compiled, subject, local: local.of(&subject) };
    let called = match services::called(query, transport, store, compiled, &source)? {
        Some(Callee::Translated(called)) => called,
        Some(Callee::Rejected { frontend, protocol, name, reason }) => {
            let subject = services::untranslated(frontend, protocol, &source);
            let flow = flow(subject.ok_or(QueryError::NoCommonFamily)?);
            let frontend = SocketAddr::new(frontend.address.ip(), frontend.port);
            let explanation = flow.explain(None, query.misses_max);
            return Ok(Explanation {
                service: Some(CalledService::translated(&name, frontend, Vec::new(), 0)),
                ..explanation.not_forwarded_because(reason)
            });
        }
        None => {
            let flow = flow(resolve::subject(query, transport, store, &compiled.catalog)?);
            let tuple = flow.subject.tuple;
            let destination = SocketAddr::new(tuple.dst.ip(), tuple.dst_port);
            return Ok(explain_request(&flow, query, destination));
        }
    };
    let frontend = SocketAddr::new(called.frontend.address.ip(), called.frontend.port);
    let subjects = called.subjects(&source);
    let evaluated = subjects.iter().take(EVALUATED_MAX);
    let mut explained: Vec<Explanation> =
        evaluated.map(|subject| explain_request(&flow(*subject), query, frontend)).collect();
    // The nearest to a denial first.
    explained.sort_by_key(|explanation| match explanation.verdict {
        Outcome::Denied => 0,
        Outcome::Inspected => 1,
        Outcome::Allowed => 2,
    });
    let verdict =
        |of: &Explanation| BackendVerdict { backend: of.destination.clone(), verdict: of.verdict };
    let verdicts: Vec<_> = explained.iter().take(VERDICTS_MAX).map(verdict).collect();
    let further_backends = subjects.len() - verdicts.len();
    let Some(mut explanation) = explained.into_iter().next() else {
        // It has a backend, so the source has no address of the service's family.
        return Err(QueryError::NoCommonFamily);
    };
    let service = CalledService::translated(&called.name, frontend, verdicts, further_backends);
    explanation.service = Some(service);
    Ok(explanation)
}

impl Explanation {
    /// The same flow, whose packets workers drop or reject before they evaluate policy.
    fn not_forwarded_because(self, reason: String) -> Self {
        Self {
            verdict: Outcome::Denied,
            not_forwarded: Some(reason),
            no_inspector: None,
            request: None,
            ..self
        }
    }
}

impl CalledService {
    /// A service that workers handle packets to.
    fn translated(
        name: &str,
        frontend: SocketAddr,
        verdicts: Vec<BackendVerdict>,
        further_backends: usize,
    ) -> Self {
        let (namespace, name) = name.split_once('/').unwrap_or_default();
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            backends: Vec::new(),
            further_backends,
            translated: Some(frontend),
            verdicts,
        }
    }
}

impl Local<'_> {
    fn of(&self, subject: &Subject) -> LocalEnds {
        match self {
            Self::Both => LocalEnds::BOTH,
            Self::Endpoints(addresses) => LocalEnds {
                source: addresses.contains(&subject.tuple.src.ip()),
                destination: addresses.contains(&subject.tuple.dst.ip()),
            },
        }
    }
}

/// Explains a flow, and the request that a query asks about, which is sent to `destination`.
fn explain_request(flow: &Flow<'_>, query: &Query, destination: SocketAddr) -> Explanation {
    let Some(spec) = &query.request else { return flow.explain(None, query.misses_max) };
    request::read(spec, destination, |read| {
        let asked = ReadRequest { text: spec.to_string(), read };
        flow.explain(Some(&asked), query.misses_max)
    })
}

/// A request, and how the inspector reads it.
struct ReadRequest<'a> {
    text: String,
    /// The error is what a client sees of a request that can't be inspected.
    read: Result<L7Request<'a>, &'static str>,
}

/// A flow to explain.
struct Flow<'a> {
    store: &'a Store,
    compiled: &'a Compiled,
    subject: Subject,
    local: LocalEnds,
}

impl Flow<'_> {
    fn explain(&self, asked: Option<&ReadRequest<'_>>, misses_max: usize) -> Explanation {
        let Self { store, compiled, subject, local } = self;
        let tuple = &subject.tuple;
        let decision = compiled.tables.decide(subject, *local);
        let names = NameResolver { compiled, tuple };
        let [source, destination] = [tuple.src, tuple.dst].map(|address| self.who(address));
        let port = subject.policy_port();
        let explainer = Explainer {
            store,
            names: &names,
            destination,
            port,
            request: asked.and_then(|asked| asked.read.as_ref().ok()),
            misses_max,
        };
        let identity = |end| compiled.tables.resolve(end).identity;
        let egress = explainer.direction(
            TrafficDirection::Egress,
            [source, destination],
            (decision.egress, &decision.l7.egress),
            &identity(tuple.src).egress,
        );
        let ingress = explainer.direction(
            TrafficDirection::Ingress,
            [destination, source],
            (decision.ingress, &decision.l7.ingress),
            &identity(tuple.dst).ingress,
        );
        let request = asked
            .filter(|_| decision.verdict != Verdict::Deny)
            .map(|asked| decide_request(asked, &decision, &names));
        let no_inspector = no_inspector(&decision, tuple.protocol);
        let explanation = Explanation {
            verdict: match (decision.verdict, &request) {
                (Verdict::Deny, _) | (_, Some(RequestVerdict { allowed: false, .. })) => {
                    Outcome::Denied
                }
                _ if no_inspector.is_some() => Outcome::Denied,
                (Verdict::Inspect, None) => Outcome::Inspected,
                (Verdict::Allow | Verdict::Inspect, _) => Outcome::Allowed,
            },
            source: End {
                peer: names.peer(tuple.src, tuple.src_port),
                kind: self.kind_of_end(tuple.src),
                local: local.source,
            },
            destination: End {
                peer: names.peer(tuple.dst, tuple.dst_port),
                kind: self.kind_of_end(tuple.dst),
                local: local.destination,
            },
            service: self.service(tuple.dst.ip()).or_else(|| self.service_of_node_port(tuple)),
            dns_names: self.dns_names(tuple.dst),
            port: transport(subject),
            egress,
            ingress,
            no_inspector,
            not_forwarded: None,
            request,
        };
        match not_forwarded(tuple) {
            Some(reason) => explanation.not_forwarded_because(reason.to_owned()),
            None => explanation,
        }
    }

    fn who(&self, address: Address) -> FlowEnd<'_> {
        let Self { store, compiled, .. } = self;
        let index = compiled.tables.resolve(address).identity_index;
        let label_context = compiled.catalog.label_context(index);
        let pod = compiled.catalog.pod_at(address.ip());
        FlowEnd {
            address: address.ip(),
            label_context,
            is_node: compiled.tables.is_node(address),
            pod: pod.and_then(|name| Some((name, store.pod(&name.namespace, &name.name)?))),
        }
    }

    fn service(&self, address: IpAddr) -> Option<CalledService> {
        let (name, service) = self.store.service_at(address)?;
        let mut backends = self.store.behind(name, service);
        let further_backends = backends.len().saturating_sub(BACKENDS_MAX);
        backends.truncate(BACKENDS_MAX);
        let (namespace, name) = (name.0.to_string(), name.1.to_string());
        Some(CalledService {
            namespace,
            name,
            backends,
            further_backends,
            translated: None,
            verdicts: Vec::new(),
        })
    }

    /// The service that has the destination's port at an address of this node, or had it until
    /// shortly before, if workers don't translate packets to it.
    fn service_of_node_port(&self, tuple: &Tuple) -> Option<CalledService> {
        let Tuple { dst: address, dst_port: port, protocol, .. } = *tuple;
        if self.kind_of_end(address) != EndKind::ThisNode {
            return None;
        }
        let (at, _) = self.compiled.tables.find_service(L4Addr { address, port }, protocol)?;
        let ServiceName { namespace, name } =
            self.compiled.catalog.service_of(at, protocol, port)?;
        let (backends, further_backends) = (Vec::new(), 0);
        let (translated, verdicts) = (None, Vec::new());
        Some(CalledService { namespace, name, backends, further_backends, translated, verdicts })
    }

    fn dns_names(&self, address: Address) -> Vec<String> {
        let index = self.compiled.tables.resolve(address).identity_index;
        if ![PolicyTables::WORLD_V4, PolicyTables::WORLD_V6].contains(&index) {
            return Vec::new();
        }
        let address = address.ip();
        let learned = self.store.learned().filter(|(_, known)| known.contains(&address));
        learned.map(|(name, _)| name.to_string()).take(NAMES_MAX).collect()
    }

    fn kind_of_end(&self, address: Address) -> EndKind {
        match self.compiled.tables.resolve(address).identity_index {
            PolicyTables::HOST => EndKind::ThisNode,
            PolicyTables::REMOTE_NODE => EndKind::OtherNode,
            PolicyTables::WORLD_V4 | PolicyTables::WORLD_V6 => EndKind::World,
            _ => EndKind::Pod,
        }
    }
}

fn transport(subject: &Subject) -> Transport {
    let protocol = subject.tuple.protocol;
    let has_number = proto::is_icmp(protocol) || query::has_ports(protocol);
    Transport { protocol, number: has_number.then(|| subject.policy_port()) }
}

/// Why workers drop packets with these addresses before they evaluate policy, if they do.
fn not_forwarded(tuple: &Tuple) -> Option<&'static str> {
    if tuple.dst.is_multicast_or_broadcast() {
        return Some("multicast and broadcast are never forwarded");
    }
    is_martian(tuple.src, tuple.dst).then_some("packets with these addresses are never forwarded")
}

fn no_inspector(decision: &Decision, protocol: u8) -> Option<String> {
    let missing = decision.verdict == Verdict::Inspect && !decision.l7.has_inspector(protocol);
    let wanted = decision.l7.protocol().ok().flatten().filter(|_| missing)?;
    Some(format!("{wanted} over {}", proto::name(protocol)))
}

fn decide_request(
    asked: &ReadRequest<'_>,
    decision: &Decision,
    names: &NameResolver<'_>,
) -> RequestVerdict {
    let inspected = decision.verdict == Verdict::Inspect;
    let (allowed, rule, denial) = match &asked.read {
        _ if !inspected => (true, None, None),
        Err(reason) => (false, None, Some(*reason)),
        Ok(read) => match decision.l7.decide(read) {
            L7Verdict::Allow { rule } => (true, rule, None),
            L7Verdict::Deny => (false, None, Some(request::denied(read))),
        },
    };
    let rule = rule.map(|rule| names.rule(rule));
    let denial = denial.map(str::to_owned);
    RequestVerdict { request: asked.text.clone(), allowed, inspected, rule, denial }
}
