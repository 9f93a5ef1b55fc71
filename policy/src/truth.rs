//! Truth tables: objects, and the required outcome of flows under them.
//!
//! ```yaml
//! title: what this table is about
//! host: [192.0.2.1]          # addresses of this node, or
//! node: worker-1             # which node of the objects is this one
//! mode: default              # or always, never
//! remote: [shop/cache]       # pods of other nodes: their policy is applied there
//! learned: {a.example: [192.0.2.9]}   # addresses that DNS names resolved to
//! manifests: ../manifests    # files of Kubernetes objects, and
//! objects: […]               # further objects
//! rows:
//! - {from: shop/web, to: [shop/db, 10.0.0.9], on: [5432/TCP, icmp/8], expect: allow}
//! - from: shop/web
//!   to: shop/api
//!   on: 80/TCP
//!   http: [GET /docs]        # METHOD PATH [Header: value …]; without a Host it is "host"
//!   expect: deny-request
//!   ingress: CiliumNetworkPolicy shop/api spec.ingress[0]
//! steps:                     # one after the other, each with any of
//! - apply: […]               # objects that are new or changed
//!   reject: […]              # objects that can't be enforced: the version before stays in force
//!   delete: [NetworkPolicy shop/web]
//!   learned: {a.example: []} # no address forgets the name
//!   host: [192.0.2.2]
//!   services: off
//!   mode: always
//!   rows: […]                # what holds from then on
//! ```
//!
//! `from` and `to` are pods or addresses; `family: 6` takes the pods' IPv6 addresses. Lists stand
//! for one row each. `expect` is `allow`, `deny` (nothing comes back), `inspect` (the flow is open
//! and L7 rules decide on requests) or, of a request, `deny-request` (HTTP: answered 403). A
//! row without `expect` only says that all executors agree; it is asked again after each step.
//! `egress` and `ingress` name what decides there: a rule, `default deny`, `unenforced`, `exempt`.
//! `why` is for the reader.
//!
//! `to: service NAMESPACE/NAME` is the service's cluster IP, and `on` its port; `to: frontend
//! ADDRESS` an address of the node, a load balancer or `spec.externalIPs`, and `on` a node port or
//! a service's port there. The row is asked for each of the backends, or only for `backend`, a pod
//! or an address. All executors must know the same backends. `expect: reject` (a reset or an ICMP
//! error) is for services that have none.
//!
//! A row may ask about one or more requests of one protocol: `http` as above, `kafka` (`API
//! [TOPIC …] [version=N] [client=ID]`, such as `produce orders version=9`), `dns` (a name that is
//! queried) or `sni` (the server name of a TLS handshake; none, if it is empty). The oracle and the
//! tables decide on all of them, packets on those of HTTP and TLS.

use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;
use std::path::Path;

use podgate_tables::address::Address;
use podgate_tables::policy::{LocalEnds, Subject};
use podgate_tables::proto;
use podgate_tables::service::L4Addr;
use podgate_tables::tuple::Tuple;
use serde_json::{Map, Value};

use crate::key::{Kind, ObjectKey};
use crate::manifest;
use crate::model::Pod;
use crate::oracle::{
    HttpRequest, KafkaRequest, OracleRequest, ServiceOutcome, kafka_api, through_service,
};
use crate::store::{EnforcementMode, Store, Translation};

/// A table, at one of its steps.
#[derive(Debug)]
pub struct TruthTable {
    /// Its title.
    pub title: String,
    /// The objects.
    pub store: Store,
    /// The rows, lists taken apart.
    pub rows: Vec<Row>,
    /// Pods of other nodes, `NAMESPACE/NAME`.
    remote: Vec<String>,
    /// Rows, as written, that are asked at every step.
    lasting: Vec<Value>,
    /// Steps to come.
    steps: VecDeque<Value>,
}

/// One flow, or one request on it.
#[derive(Clone, Debug)]
pub struct Row {
    /// The row as written, for messages.
    pub text: String,
    /// The flow; of one to a service, as it is once it is translated.
    pub subject: Subject,
    /// The service that it is sent to, if it is sent to one.
    pub service: Option<ServiceCall>,
    /// Whether each end is a pod of this node.
    pub local: LocalEnds,
    /// The request, if the row has one.
    pub request: Option<OracleRequest>,
    /// The required outcome; `None` if the executors only have to agree.
    pub expect: Option<Expect>,
    /// What must decide at the source's egress.
    pub egress: Option<String>,
    /// What must decide at the destination's ingress.
    pub ingress: Option<String>,
}

/// The service that a row's flow is sent to.
#[derive(Clone, Debug)]
pub struct ServiceCall {
    /// Its address and port.
    pub frontend: L4Addr,
    /// The backends that the objects give it. If there are none, the row's flow is not translated.
    pub backends: BTreeSet<L4Addr>,
    /// Whether packets are rejected, and not dropped, if there is no backend.
    pub rejected: bool,
}

impl Row {
    /// The flow as its source sends it.
    #[must_use]
    pub fn as_sent(&self) -> Subject {
        let mut subject = self.subject;
        if let Some(ServiceCall { frontend, .. }) = &self.service {
            (subject.tuple.dst, subject.tuple.dst_port) = (frontend.address, frontend.port);
        }
        subject
    }
}

/// The required outcome of a row's flow or request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expect {
    /// It passes.
    Allow,
    /// It is dropped silently.
    Deny,
    /// The flow is open and its L7 rules decide on requests.
    Inspect,
    /// The request is denied: it is answered 403.
    DenyRequest,
    /// The source gets a reset or an ICMP error at once: the service has no backend.
    Reject,
}

/// Fields of a table besides those of [`CHANGES`].
const FIELDS: &[&str] = &["title", "remote", "manifests", "objects", "steps"];
/// Fields of a step, which the table itself may have too.
const CHANGES: &[&str] =
    &["apply", "reject", "delete", "learned", "host", "node", "services", "mode", "rows"];
/// Fields of a row.
const COLUMNS: &[&str] = &[
    "from", "to", "on", "http", "kafka", "dns", "sni", "family", "backend", "expect", "egress",
    "ingress", "why",
];
/// Columns of requests, and how one is read.
const REQUESTS: &[(&str, ReadRequest)] = &[
    ("http", read_http),
    ("kafka", read_kafka),
    ("dns", |name| Ok(OracleRequest::Dns(name.to_owned()))),
    ("sni", |name| Ok(OracleRequest::ServerName(name.to_owned()))),
];

type ReadRequest = fn(&str) -> Result<OracleRequest, String>;

/// Reads a table from a file.
///
/// # Errors
/// What is wrong with the file. A rejected object is an error too.
pub fn load(path: &Path) -> Result<TruthTable, String> {
    let mut documents = manifest::load(path);
    let document = documents.pop().filter(|_| documents.is_empty());
    let document = document.ok_or("a truth table is one document")?;
    let value = document.value.map_err(|rejection| rejection.to_string())?;
    TruthTable::new(&value, path.parent().unwrap_or(path))
}

impl TruthTable {
    /// From the document; `folder` is where it lies.
    ///
    /// # Errors
    /// As [`load`].
    pub fn new(value: &Value, folder: &Path) -> Result<Self, String> {
        let document = known(value, &[FIELDS, CHANGES])?;
        let mut store = Store::new();
        if let Some(manifests) = document.get("manifests") {
            store.sync(&manifest::load(&folder.join(text(manifests)?)));
            if let Some(rejection) = store.rejections().next() {
                return Err(rejection.to_string());
            }
        }
        apply(&mut store, document.get("objects"))?;
        let remote = list(document.get("remote")).map(|pod| Ok(text(pod)?.to_owned()));
        let is_lasting = |row: &&Value| row.get("expect").is_none();
        let mut table = Self {
            title: document.get("title").and_then(Value::as_str).unwrap_or_default().to_owned(),
            store,
            rows: Vec::new(),
            remote: remote.collect::<Result<_, String>>()?,
            lasting: list(document.get("rows")).filter(is_lasting).cloned().collect(),
            steps: list(document.get("steps")).cloned().collect(),
        };
        table.change(document)?;
        Ok(table)
    }

    /// Takes the next step, if there is one left: the store and the rows are that step's then.
    ///
    /// # Errors
    /// What is wrong with the step.
    pub fn advance(&mut self) -> Result<bool, String> {
        let Some(step) = self.steps.pop_front() else { return Ok(false) };
        self.change(known(&step, &[CHANGES])?)?;
        for row in std::mem::take(&mut self.lasting) {
            self.read_rows(&row)?;
            self.lasting.push(row);
        }
        Ok(true)
    }

    /// Makes the changes that a step or the table itself asks for, and reads its rows.
    fn change(&mut self, step: &Map<String, Value>) -> Result<(), String> {
        apply(&mut self.store, step.get("apply"))?;
        for object in list(step.get("reject")) {
            if self.store.apply(object, None).is_ok() {
                return Err(format!("{object} is not rejected"));
            }
        }
        for key in list(step.get("delete")) {
            let key = parse_key(text(key)?)?;
            self.store.delete(&key);
        }
        for (name, addresses) in
            step.get("learned").and_then(Value::as_object).into_iter().flatten()
        {
            self.store.learn(name, parse_ips(Some(addresses))?);
        }
        if let hosts @ Some(_) = step.get("host") {
            self.store.set_host_addresses(parse_ips(hosts)?);
        }
        if let Some(node) = step.get("node") {
            self.store.assume_node(Some(text(node)?), &[]).map_err(|error| error.to_string())?;
        }
        if let Some(services) = step.get("services") {
            self.store.set_translation(match text(services)? {
                "on" => Translation::On,
                "off" => Translation::Off,
                other => return Err(format!("services can't be {other}")),
            });
        }
        if let Some(mode) = step.get("mode") {
            self.store.set_mode(match text(mode)? {
                "default" => EnforcementMode::Default,
                "always" => EnforcementMode::Always,
                "never" => EnforcementMode::Never,
                other => return Err(format!("no mode {other}")),
            });
        }
        self.rows.clear();
        list(step.get("rows")).try_for_each(|row| self.read_rows(row))
    }

    fn read_rows(&mut self, row: &Value) -> Result<(), String> {
        let read = || {
            let map = known(row, &[COLUMNS])?;
            let mut requests = Vec::new();
            for (column, read) in REQUESTS {
                for request in list(map.get(*column)) {
                    requests.push(Some(read(text(request)?)?));
                }
            }
            if requests.is_empty() {
                requests.push(None);
            }
            let mut rows = Vec::new();
            for from in list(map.get("from")) {
                for to in list(map.get("to")) {
                    for on in list(map.get("on")) {
                        for request in &requests {
                            rows.extend(self.read_row(map, [from, to], on, request.as_ref())?);
                        }
                    }
                }
            }
            if rows.is_empty() { Err("has no rows".to_owned()) } else { Ok(rows) }
        };
        let rows = read().map_err(|error: String| format!("{row}: {error}"))?;
        self.rows.extend(rows);
        Ok(())
    }

    /// One row, or one for each backend of a service.
    fn read_row(
        &self,
        map: &Map<String, Value>,
        ends: [&Value; 2],
        on: &Value,
        request: Option<&OracleRequest>,
    ) -> Result<Vec<Row>, String> {
        let v6 = map.get("family").is_some_and(|family| *family == 6);
        let of_family = if v6 { IpAddr::is_ipv6 } else { IpAddr::is_ipv4 };
        let (source, destination) = (text(ends[0])?, text(ends[1])?);
        let src = Address::from(self.address_of(source, of_family)?);
        let (protocol, dst_port, icmp_type) = read_port(text(on)?)?;
        let name = |column| map.get(column).map(|value| text(value).map(str::to_owned)).transpose();
        let expect = match map.get("expect").map(text).transpose()? {
            None => None,
            Some("allow") => Some(Expect::Allow),
            Some("deny") => Some(Expect::Deny),
            Some("inspect") => Some(Expect::Inspect),
            Some("reject") => Some(Expect::Reject),
            Some("deny-request") if request.is_some() => Some(Expect::DenyRequest),
            Some(other) => return Err(format!("can't expect {other}")),
        };
        let shown = request.map(|request| format!(" {request:?}")).unwrap_or_default();
        let why = name("why")?.map(|why| format!(" ({why})")).unwrap_or_default();
        let called = match destination.split_once(' ') {
            Some(("service", called)) => Some(self.cluster_ip_of(called, of_family)?),
            Some(("frontend", address)) => Some(parse_ip(address)?),
            _ => None,
        };
        let (dst, service) = match called {
            None => (self.address_of(destination, of_family)?, None),
            Some(_) if !self.is_local(source) => {
                return Err(format!(
                    "only packets of this node's pods are translated, not {source}'s"
                ));
            }
            Some(address) => (address, Some(self.call(address, protocol, dst_port)?)),
        };
        let dst = Address::from(dst);
        let backend = name("backend")?;
        let backend = backend.map(|end| self.address_of(&end, of_family)).transpose()?;
        let (targets, local): (Vec<L4Addr>, _) = match &service {
            Some(call) if !call.backends.is_empty() => {
                let all = call.backends.iter().copied();
                let is_asked = |target: &L4Addr| {
                    backend.is_none_or(|wanted| target.address == Address::from(wanted))
                };
                (all.filter(is_asked).collect(), None)
            }
            _ => {
                let target = L4Addr { address: dst, port: dst_port };
                (vec![target], Some(self.is_local(destination)))
            }
        };
        if targets.is_empty() {
            return Err("there is no such backend".to_owned());
        }
        let row = |target: L4Addr| {
            let tuple = Tuple {
                src,
                dst: target.address,
                src_port: 40_000,
                dst_port: target.port,
                protocol,
            };
            let destination = local.unwrap_or_else(|| self.is_local_address(target.address.ip()));
            let by = service.as_ref().map(|_| format!(" by {}", target.address));
            Ok(Row {
                text: format!(
                    "{} -> {} {on}{}{shown}{why}",
                    ends[0],
                    ends[1],
                    by.unwrap_or_default()
                ),
                subject: Subject { tuple, icmp_type },
                service: service.clone(),
                local: LocalEnds { source: self.is_local(source), destination },
                request: request.cloned(),
                expect,
                egress: name("egress")?,
                ingress: name("ingress")?,
            })
        };
        targets.into_iter().map(row).collect()
    }

    /// A cluster IP of a service, the first one for which `of_family` holds.
    fn cluster_ip_of(
        &self,
        called: &str,
        of_family: fn(&IpAddr) -> bool,
    ) -> Result<IpAddr, String> {
        let (namespace, name) = called.split_once('/').ok_or("a service is NAMESPACE/NAME")?;
        let service = self.store.service(&(namespace.into(), name.into()));
        let service = service.ok_or_else(|| format!("no service {called}"))?;
        let address = service.cluster_ips.iter().find(|ip| of_family(ip));
        address.copied().ok_or_else(|| format!("{called} has no such cluster IP"))
    }

    /// What the objects say of a service's port.
    fn call(&self, address: IpAddr, protocol: u8, port: u16) -> Result<ServiceCall, String> {
        let outcome = through_service(&self.store, address, protocol, port);
        let backends = match &outcome {
            ServiceOutcome::NotTranslated => {
                return Err(format!("{address} is not translated"));
            }
            ServiceOutcome::Backends(backends) => backends
                .iter()
                .map(|(address, port)| L4Addr { address: Address::from(*address), port: *port })
                .collect(),
            ServiceOutcome::Rejected | ServiceOutcome::Dropped => BTreeSet::new(),
        };
        let rejected = outcome == ServiceOutcome::Rejected;
        let frontend = L4Addr { address: Address::from(address), port };
        Ok(ServiceCall { frontend, backends, rejected })
    }

    /// The pod that an end is, if it is one.
    fn pod(&self, end: &str) -> Option<&Pod> {
        let (namespace, name) = end.split_once('/')?;
        self.store.pod(namespace, name)
    }

    /// An end's address, the first one for which `of_family` holds.
    fn address_of(&self, end: &str, of_family: fn(&IpAddr) -> bool) -> Result<IpAddr, String> {
        if !end.contains('/') {
            return parse_ip(end);
        }
        let pod = self.pod(end).ok_or_else(|| format!("no pod {end}"))?;
        let address = pod.ips.iter().find(|ip| of_family(ip));
        address.copied().ok_or_else(|| format!("{end} has no such address"))
    }

    /// Whether an end is a pod of this node with an address of its own.
    fn is_local(&self, end: &str) -> bool {
        let is_remote = || self.remote.iter().any(|remote| remote == end);
        self.pod(end).is_some_and(|pod| !pod.host_network && !is_remote())
    }

    /// The same for the pod with this address, if there is one.
    fn is_local_address(&self, address: IpAddr) -> bool {
        let mut pods = self.store.pods().filter(|(_, pod)| pod.addresses().contains(&address));
        pods.any(|(name, _)| self.is_local(&name.to_string()))
    }
}

/// A mapping that has none but these fields.
fn known<'v>(value: &'v Value, fields: &[&[&str]]) -> Result<&'v Map<String, Value>, String> {
    let map = value.as_object().ok_or_else(|| format!("{value} must be a mapping"))?;
    match map.keys().find(|key| !fields.iter().any(|list| list.contains(&key.as_str()))) {
        Some(unknown) => Err(format!("no field {unknown}")),
        None => Ok(map),
    }
}

fn apply(store: &mut Store, objects: Option<&Value>) -> Result<(), String> {
    for object in list(objects) {
        store.apply(object, None).map_err(|reasons| format!("{object}: {reasons:?}"))?;
    }
    Ok(())
}

/// `KIND NAMESPACE/NAME`, or `KIND NAME` of what has no namespace.
fn parse_key(shown: &str) -> Result<ObjectKey, String> {
    let bad = || format!("{shown} is not KIND [NAMESPACE/]NAME");
    let (kind, name) = shown.split_once(' ').ok_or_else(bad)?;
    let kind = Kind::by_name(kind).ok_or_else(bad)?;
    let (namespace, name) = match name.split_once('/') {
        Some((namespace, name)) => (Some(namespace.to_owned()), name),
        None => (None, name),
    };
    if kind.is_namespaced() != namespace.is_some() {
        return Err(bad());
    }
    Ok(ObjectKey { kind, namespace, name: name.to_owned() })
}

/// The elements of a list, or the one value that stands for a list of one.
fn list(value: Option<&Value>) -> impl Iterator<Item = &Value> {
    match value {
        Some(Value::Array(items)) => items.as_slice(),
        Some(value) => std::slice::from_ref(value),
        None => &[],
    }
    .iter()
}

fn text(value: &Value) -> Result<&str, String> {
    value.as_str().ok_or_else(|| format!("{value} must be text"))
}

fn parse_ips(addresses: Option<&Value>) -> Result<Vec<IpAddr>, String> {
    list(addresses).map(|address| parse_ip(text(address)?)).collect()
}

fn parse_ip(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| format!("{text} is not an address"))
}

/// `80/TCP`, `icmp/8`, `icmpv6/128` or `protocol/112`: protocol, port, ICMP type.
fn read_port(on: &str) -> Result<(u8, u16, u8), String> {
    let bad = || format!("{on} is neither PORT/PROTOCOL nor icmp/TYPE nor protocol/NUMBER");
    let (left, right) = on.split_once('/').ok_or_else(bad)?;
    let small = || right.parse().map_err(|_| bad());
    match (left, right) {
        ("icmp", _) => Ok((proto::ICMP, 0, small()?)),
        ("icmpv6", _) => Ok((proto::ICMPV6, 0, small()?)),
        ("protocol", _) => Ok((small()?, 0, 0)),
        (port, "TCP") => Ok((proto::TCP, port.parse().map_err(|_| bad())?, 0)),
        (port, "UDP") => Ok((proto::UDP, port.parse().map_err(|_| bad())?, 0)),
        (port, "SCTP") => Ok((proto::SCTP, port.parse().map_err(|_| bad())?, 0)),
        _ => Err(bad()),
    }
}

/// `METHOD PATH`, then headers without blanks in their values.
fn read_http(request: &str) -> Result<OracleRequest, String> {
    let mut words = request.split_whitespace();
    let (Some(method), Some(path)) = (words.next(), words.next()) else {
        return Err(format!("{request} is not METHOD PATH"));
    };
    let (method, path, mut host) = (method.to_owned(), path.to_owned(), "host".to_owned());
    let mut headers = Vec::new();
    while let (Some(name), Some(value)) = (words.next(), words.next()) {
        match name.strip_suffix(':').ok_or_else(|| format!("{name} is not a header name"))? {
            "Host" => host = value.to_owned(),
            name => headers.push((name.to_owned(), value.to_owned())),
        }
    }
    Ok(OracleRequest::Http(HttpRequest { method, path, host, headers }))
}

/// `API [TOPIC …] [version=N] [client=ID]`.
fn read_kafka(request: &str) -> Result<OracleRequest, String> {
    let mut words = request.split_whitespace();
    let api = words.next().and_then(kafka_api);
    let api_key = api.ok_or_else(|| format!("{request} does not begin with a Kafka API"))?;
    let mut kafka = KafkaRequest { api_key, ..KafkaRequest::default() };
    for word in words {
        match word.split_once('=') {
            Some(("version", version)) => {
                kafka.api_version = version.parse().map_err(|_| format!("no version {version}"))?;
            }
            Some(("client", client)) => kafka.client_id = Some(client.to_owned()),
            Some((other, _)) => return Err(format!("no part {other} of a Kafka request")),
            None => kafka.topics.push(word.to_owned()),
        }
    }
    Ok(OracleRequest::Kafka(kafka))
}
