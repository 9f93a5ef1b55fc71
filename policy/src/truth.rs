//! Truth tables: objects, and what must become of flows under them.
//!
//! ```yaml
//! title: what this table is about
//! host: [192.0.2.1]          # addresses of this node
//! mode: default              # or always, never
//! manifests: ../manifests    # files of Kubernetes objects, and
//! objects: […]               # further objects
//! rows:
//! - {from: shop/web, to: [shop/db, 10.0.0.9], on: [5432/TCP, icmp/8], expect: allow}
//! - from: shop/web
//!   to: shop/api
//!   on: 80/TCP
//!   http: [GET /docs]        # METHOD PATH [Header: value …]; the host is "host"
//!   expect: refuse
//!   ingress: CiliumNetworkPolicy shop/api spec.ingress[0]
//! ```
//!
//! `from` and `to` are pods or addresses; `family: 6` takes the pods' IPv6 addresses. Lists stand
//! for one row each. `expect` is `allow`, `deny` (nothing comes back), `inspect` (the flow is
//! open and requests are judged) or, with `http`, `refuse` (the request is answered 403).
//! `egress` and `ingress` name what decides there: a rule, `default deny`, `unenforced`, `exempt`.

use std::net::IpAddr;
use std::path::Path;

use podgate_dataplane::policy::Subject;
use podgate_dataplane::types::{Address, Tuple, proto};
use serde_json::{Map, Value};

use crate::manifest;
use crate::oracle::HttpRequest;
use crate::store::{EnforcementMode, Store};

/// A table.
#[derive(Debug)]
pub struct TruthTable {
    /// What it is about.
    pub title: String,
    /// The objects.
    pub store: Store,
    /// The rows, lists taken apart.
    pub rows: Vec<Row>,
}

/// One flow, or one request on it.
#[derive(Clone, Debug)]
pub struct Row {
    /// The row as written, for messages.
    pub text: String,
    /// The flow.
    pub subject: Subject,
    /// Whether each end is a pod; the other ends are outside of this node.
    pub local: [bool; 2],
    /// The request, if the row is about one.
    pub request: Option<HttpRequest>,
    /// What must become of it.
    pub expect: Expect,
    /// What must decide at the source's egress.
    pub egress: Option<String>,
    /// What must decide at the destination's ingress.
    pub ingress: Option<String>,
}

/// What must become of a row's flow or request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expect {
    /// It passes.
    Allow,
    /// It is dropped silently.
    Deny,
    /// The flow is open and its requests are judged.
    Inspect,
    /// The request is refused with an answer.
    Refuse,
}

/// Reads a table.
///
/// # Errors
/// What is wrong with the file. A refused object is an error too.
pub fn load(path: &Path) -> Result<TruthTable, String> {
    let mut documents = manifest::load(path);
    let document = documents.pop().filter(|_| documents.is_empty());
    let document = document.ok_or("a truth table is one document")?;
    let value = document.value.map_err(|refusal| refusal.to_string())?;
    let mut store = Store::new();
    if let Some(manifests) = value.get("manifests") {
        let folder = path.parent().unwrap_or(path).join(text(manifests)?);
        store.sync(&manifest::load(&folder));
        if let Some(refusal) = store.refusals().next() {
            return Err(refusal.to_string());
        }
    }
    for object in list(value.get("objects")) {
        store.apply(object, None).map_err(|refusals| format!("{refusals:?}"))?;
    }
    let hosts = list(value.get("host")).map(|host| parse_ip(text(host)?));
    store.set_host_addresses(hosts.collect::<Result<Vec<_>, _>>()?);
    store.set_mode(match value.get("mode").and_then(Value::as_str) {
        None | Some("default") => EnforcementMode::Default,
        Some("always") => EnforcementMode::Always,
        Some("never") => EnforcementMode::Never,
        Some(other) => return Err(format!("no mode {other}")),
    });
    let mut rows = Vec::new();
    for row in list(value.get("rows")) {
        read_rows(row, &store, &mut rows).map_err(|error| format!("{row}: {error}"))?;
    }
    let title = value.get("title").and_then(Value::as_str).unwrap_or_default().to_owned();
    Ok(TruthTable { title, store, rows })
}

/// The elements of a list, or the one value that stands for a list of one.
fn list(value: Option<&Value>) -> impl Iterator<Item = &Value> {
    match value {
        Some(Value::Array(items)) => items.iter().collect(),
        Some(value) => vec![value],
        None => Vec::new(),
    }
    .into_iter()
}

fn text(value: &Value) -> Result<&str, String> {
    value.as_str().ok_or_else(|| format!("{value} must be text"))
}

fn parse_ip(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| format!("{text} is no address"))
}

const COLUMNS: &[&str] =
    &["from", "to", "on", "http", "family", "expect", "egress", "ingress", "why"];

fn read_rows(row: &Value, store: &Store, rows: &mut Vec<Row>) -> Result<(), String> {
    let map = row.as_object().ok_or("must be a mapping")?;
    if let Some(unknown) = map.keys().find(|key| !COLUMNS.contains(&key.as_str())) {
        return Err(format!("no column {unknown}"));
    }
    let requests: Vec<Option<&Value>> = match map.get("http") {
        None => vec![None],
        http => list(http).map(Some).collect(),
    };
    for from in list(map.get("from")) {
        for to in list(map.get("to")) {
            for on in list(map.get("on")) {
                for request in &requests {
                    rows.push(read_row(map, store, [from, to], on, *request)?);
                }
            }
        }
    }
    Ok(())
}

fn read_row(
    map: &Map<String, Value>,
    store: &Store,
    ends: [&Value; 2],
    on: &Value,
    request: Option<&Value>,
) -> Result<Row, String> {
    let v6 = map.get("family").is_some_and(|family| *family == 6);
    let (src, src_is_pod) = read_end(text(ends[0])?, store, v6)?;
    let (dst, dst_is_pod) = read_end(text(ends[1])?, store, v6)?;
    let (protocol, dst_port, icmp_type) = read_port(text(on)?)?;
    let (src, dst) = (Address::from(src), Address::from(dst));
    let tuple = Tuple { src, dst, src_port: 40_000, dst_port, protocol };
    let name = |column| map.get(column).map(|value| text(value).map(str::to_owned)).transpose();
    let expect = match map.get("expect").map(text).transpose()? {
        Some("allow") => Expect::Allow,
        Some("deny") => Expect::Deny,
        Some("inspect") => Expect::Inspect,
        Some("refuse") if request.is_some() => Expect::Refuse,
        other => return Err(format!("can't expect {other:?}")),
    };
    let shown = request.map(|request| format!(" {request}")).unwrap_or_default();
    Ok(Row {
        text: format!("{} -> {} {on}{shown}", ends[0], ends[1]),
        subject: Subject { tuple, icmp_type },
        local: [src_is_pod, dst_is_pod],
        request: request.map(|request| read_request(text(request)?)).transpose()?,
        expect,
        egress: name("egress")?,
        ingress: name("ingress")?,
    })
}

/// An address, and whether it is a pod's.
fn read_end(end: &str, store: &Store, v6: bool) -> Result<(IpAddr, bool), String> {
    let Some((namespace, name)) = end.split_once('/') else { return Ok((parse_ip(end)?, false)) };
    let pod = store.pod(namespace, name).ok_or_else(|| format!("no pod {end}"))?;
    let address = pod.ips.iter().find(|ip| ip.is_ipv6() == v6);
    Ok((*address.ok_or_else(|| format!("{end} has no such address"))?, true))
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
fn read_request(request: &str) -> Result<HttpRequest, String> {
    let mut words = request.split_whitespace();
    let (Some(method), Some(path)) = (words.next(), words.next()) else {
        return Err(format!("{request} is not METHOD PATH"));
    };
    let mut headers = Vec::new();
    while let (Some(name), Some(value)) = (words.next(), words.next()) {
        let name = name.strip_suffix(':').ok_or_else(|| format!("{name} is no header name"))?;
        headers.push((name.to_owned(), value.to_owned()));
    }
    let (method, path, host) = (method.to_owned(), path.to_owned(), "host".to_owned());
    Ok(HttpRequest { method, path, host, headers })
}
