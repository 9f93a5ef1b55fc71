//! Flow records: events with the names that belong to them.
//!
//! A worker's [`Event`] carries numbers. [`FlowRecord::new`] gives them the names of the tables
//! they were made under. The record is what is printed, as JSON by serde and as text by
//! [`FlowRecord::compact`], whose lines are those of `hubble observe` (cilium
//! `hubble/pkg/printer/printer.go`), so that eyes and scripts carry over. Its fields are chosen
//! to map one to one to Hubble's `Flow` (cilium `api/v1/flow/flow.proto`), except that one record
//! has the verdicts of both directions where Hubble sends two flows.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use jiff::Timestamp;
use podgate_tables::address::Address;
use podgate_tables::drop_reason::DropReason;
use podgate_tables::event::{Event, EventKind, RequestLine};
use podgate_tables::ids::RuleId;
use podgate_tables::policy::{self, Cause, Exemption, RuleTable, Subject, Verdict};
use podgate_tables::proto;
use podgate_tables::tuple::Tuple;
use serde::{Deserialize, Serialize};

use crate::terminal::escape;
use crate::{Compiled, IdentityInfo, ObjectKey};

/// What became of a flow, packet or request; the names are Hubble's.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "UPPERCASE")]
pub enum Outcome {
    /// It went on.
    Forwarded,
    /// It was refused.
    Dropped,
    /// It went on to L7 inspection, which judges each request.
    Redirected,
}

/// One event with its names.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct FlowRecord {
    /// When it happened.
    pub time: Timestamp,
    /// What became of it.
    pub verdict: Outcome,
    /// Why it was dropped: a metric label of [`DropReason`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drop_reason: Option<String>,
    /// Who opened the flow.
    pub source: Peer,
    /// Who was called.
    pub destination: Peer,
    /// `TCP`, `UDP`, `SCTP`, `ICMPv4`, `ICMPv6`, or the protocol's number.
    pub protocol: String,
    /// Whether what happened, happened to a packet from the destination to the source; absent
    /// where that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is_reply: Option<bool>,
    /// Slot of the link that the packet came in by.
    pub link: u16,
    /// Generation of the tables that judged it.
    pub epoch: u32,
    /// What happened.
    #[serde(flatten)]
    pub detail: Detail,
}

/// One end of a flow.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    /// Address.
    pub address: IpAddr,
    /// L4 port; absent for protocols without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Identity number, Cilium's for the reserved ones.
    pub identity: u32,
    /// Labels of the identity.
    pub labels: Vec<String>,
    /// Namespace of the pod that has the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name of the pod that has the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
}

/// What happened.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Detail {
    /// Policy judged a flow.
    PolicyVerdict {
        /// At the source.
        egress: Judgement,
        /// At the destination.
        ingress: Judgement,
        /// Flags of the packet that opened the flow.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        tcp_flags: Vec<String>,
        /// ICMP type.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        icmp_type: Option<u8>,
        /// Whether a live flow was judged again after a change of policy.
        reevaluated: bool,
    },
    /// A packet was dropped for another reason than policy.
    Drop,
    /// An HTTP request was allowed or refused.
    HttpRequest {
        /// Method. Control characters from the pod are escaped, here and in the next two.
        method: String,
        /// Request target, cut to [`podgate_tables::event::PATH_MAX`] bytes.
        path: String,
        /// Host header.
        host: String,
        /// The rule that allowed it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rule: Option<RuleName>,
    },
    /// An HTTP response head passed.
    HttpResponse {
        /// Status code.
        status: u16,
        /// From the request's release to the response's head, nanoseconds.
        latency_ns: u64,
    },
    /// The flow ended.
    End {
        /// Packets from the source and to it.
        packets: [u64; 2],
        /// Bytes from the source and to it.
        bytes: [u64; 2],
    },
}

/// What decided one direction of a flow.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Judgement {
    /// Whether this direction is open.
    pub allowed: bool,
    /// By what.
    #[serde(flatten)]
    pub by: By,
}

/// The cause of a judgement.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(tag = "by", rename_all = "kebab-case")]
pub enum By {
    /// A rule.
    Rule {
        /// Which.
        rule: RuleName,
        /// What of the flow the rule named.
        #[serde(rename = "match")]
        matched: MatchType,
    },
    /// This rule allows, but it and another that matches name different L7 protocols, so that
    /// nothing passes.
    Conflict {
        /// Which.
        rule: RuleName,
    },
    /// No rule matched, and these policies ask for one.
    DefaultDeny {
        /// Which policies.
        policies: Vec<PolicyName>,
    },
    /// No policy selects the endpoint in this direction.
    Unenforced,
    /// Traffic between the node and its own pods.
    Node,
    /// Traffic of an endpoint with itself.
    ToSelf,
    /// The endpoint is not on this node: it is judged on its own.
    NotLocal,
}

/// What of a flow a rule named; the words are Hubble's `policy_match_type`
/// (cilium `pkg/monitor/api/types.go`).
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub enum MatchType {
    /// The peer only.
    #[serde(rename = "L3-Only")]
    L3Only,
    /// Peer and port.
    #[serde(rename = "L3-L4")]
    L3L4,
    /// The port only.
    #[serde(rename = "L4-Only")]
    L4Only,
    /// Nothing: any peer, any port.
    #[serde(rename = "all")]
    All,
}

/// Name of a policy object.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct PolicyName {
    /// Kind.
    pub kind: String,
    /// Namespace; none for cluster-wide kinds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
}

/// Name of a rule: its policy, and where it stands there.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct RuleName {
    /// The policy.
    pub policy: PolicyName,
    /// Path in the object, such as `spec.ingress[0]`.
    pub path: String,
}

impl FlowRecord {
    /// The record of `event`, which happened at `time`, with the names of `compiled`: the tables
    /// that were published as the event's epoch.
    #[must_use]
    pub fn new(event: &Event, time: Timestamp, compiled: &Compiled) -> Self {
        let names = Names { compiled, tuple: &event.tuple };
        let (verdict, drop_reason) = outcome(&event.kind);
        Self {
            time,
            verdict,
            drop_reason: drop_reason.map(|reason| reason.label().to_owned()),
            source: names.peer(event.tuple.src, event.tuple.src_port),
            destination: names.peer(event.tuple.dst, event.tuple.dst_port),
            protocol: proto::name(event.tuple.protocol).into_owned(),
            is_reply: match event.kind {
                EventKind::Verdict { .. } | EventKind::HttpRequest { .. } => Some(false),
                EventKind::HttpResponse { .. } => Some(true),
                EventKind::Drop { .. } | EventKind::End { .. } => None,
            },
            link: event.link.0,
            epoch: event.epoch.0,
            detail: names.detail(&event.kind),
        }
    }
}

fn outcome(kind: &EventKind) -> (Outcome, Option<DropReason>) {
    match *kind {
        EventKind::Verdict { verdict: Verdict::Allow, .. } => (Outcome::Forwarded, None),
        EventKind::Verdict { verdict: Verdict::Inspect, .. } => (Outcome::Redirected, None),
        EventKind::Verdict { verdict: Verdict::Deny, egress, ingress, reevaluated, .. } => {
            let is_rule = |cause: &Cause| matches!(cause, Cause::Denied(_) | Cause::Conflicting(_));
            let by_rule = [egress, ingress].iter().any(is_rule);
            let reason = match (reevaluated, by_rule) {
                (true, _) => DropReason::PolicyRevoked,
                (false, true) => DropReason::PolicyDeny,
                (false, false) => DropReason::PolicyDefaultDeny,
            };
            (Outcome::Dropped, Some(reason))
        }
        EventKind::Drop { reason } => (Outcome::Dropped, Some(reason)),
        EventKind::HttpRequest { allowed: true, .. } => (Outcome::Forwarded, None),
        EventKind::HttpRequest { malformed, .. } => {
            (Outcome::Dropped, Some(malformed.unwrap_or(DropReason::L7Denied)))
        }
        EventKind::HttpResponse { .. } | EventKind::End { .. } => (Outcome::Forwarded, None),
    }
}

/// Flags of a TCP header (RFC 9293 §3.1) by their bits, in the order that Hubble names them.
const TCP_FLAGS: [(u8, &str); 8] = [
    (0x02, "SYN"),
    (0x10, "ACK"),
    (0x04, "RST"),
    (0x01, "FIN"),
    (0x08, "PSH"),
    (0x20, "URG"),
    (0x40, "ECE"),
    (0x80, "CWR"),
];

/// Gives names to the numbers of one event, or of one decision.
pub(crate) struct Names<'a> {
    pub(crate) compiled: &'a Compiled,
    pub(crate) tuple: &'a Tuple,
}

impl Names<'_> {
    pub(crate) fn peer(&self, address: Address, port: u16) -> Peer {
        let index = self.compiled.tables.resolve(address).identity_index;
        let identity = self.compiled.catalog.identity(index);
        let pod = self.compiled.catalog.pod_at(address.ip());
        let has_ports = matches!(self.tuple.protocol, proto::TCP | proto::UDP | proto::SCTP);
        Peer {
            address: address.ip(),
            port: has_ports.then_some(port),
            identity: identity.map_or(0, |identity| identity.number),
            labels: identity.map(IdentityInfo::labels).unwrap_or_default(),
            namespace: pod.map(|pod| pod.namespace.to_string()),
            pod: pod.map(|pod| pod.name.to_string()),
        }
    }

    fn detail(&self, kind: &EventKind) -> Detail {
        match *kind {
            EventKind::Verdict { egress, ingress, tcp_flags, icmp_type, reevaluated, .. } => {
                let port = Subject { tuple: *self.tuple, icmp_type }.policy_port();
                let tables = &self.compiled.tables;
                let [source, destination] =
                    [self.tuple.src, self.tuple.dst].map(|end| tables.resolve(end).identity);
                let flags = TCP_FLAGS.iter().filter(|(bit, _)| tcp_flags & bit != 0);
                Detail::PolicyVerdict {
                    egress: self.judgement(egress, &source.egress, port),
                    ingress: self.judgement(ingress, &destination.ingress, port),
                    tcp_flags: flags.map(|(_, name)| (*name).to_owned()).collect(),
                    icmp_type: proto::is_icmp(self.tuple.protocol).then_some(icmp_type),
                    reevaluated,
                }
            }
            EventKind::Drop { .. } => Detail::Drop,
            EventKind::HttpRequest { rule, request, .. } => self.http_request(rule, &request),
            EventKind::HttpResponse { status, latency_ns } => {
                Detail::HttpResponse { status, latency_ns }
            }
            EventKind::End { original, reply } => Detail::End {
                packets: [original.packets, reply.packets],
                bytes: [original.bytes, reply.bytes],
            },
        }
    }

    fn http_request(&self, rule: Option<RuleId>, request: &RequestLine) -> Detail {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Detail::HttpRequest {
            method: text(request.method.bytes()),
            path: text(request.path.bytes()),
            host: text(request.host.bytes()),
            rule: rule.map(|rule| self.rule(rule)),
        }
    }

    pub(crate) fn judgement(&self, cause: Cause, table: &RuleTable, port: u16) -> Judgement {
        let by = match cause {
            Cause::Allowed(rule) | Cause::Denied(rule) => By::Rule {
                rule: self.rule(rule),
                matched: match_type(rule, table, self.tuple.protocol, port),
            },
            Cause::Conflicting(rule) => By::Conflict { rule: self.rule(rule) },
            Cause::DefaultDeny(set) => By::DefaultDeny {
                policies: self
                    .compiled
                    .catalog
                    .deny_set(set)
                    .iter()
                    .map(PolicyName::from)
                    .collect(),
            },
            Cause::Unenforced => By::Unenforced,
            Cause::Exempt(Exemption::FromNode | Exemption::ToNode) => By::Node,
            Cause::Exempt(Exemption::ToSelf) => By::ToSelf,
            Cause::Exempt(Exemption::NotLocal) => By::NotLocal,
        };
        Judgement { allowed: cause.allows(), by }
    }

    pub(crate) fn rule(&self, rule: RuleId) -> RuleName {
        match self.compiled.catalog.rule(rule) {
            Some(origin) => {
                RuleName { policy: PolicyName::from(&*origin.key), path: origin.field.clone() }
            }
            None => {
                let policy = PolicyName {
                    kind: "unknown".into(),
                    namespace: None,
                    name: format!("rule {}", rule.0),
                };
                RuleName { policy, path: String::new() }
            }
        }
    }
}

/// What of the flow `rule` names, read off its entry in the table that it was found in.
fn match_type(rule: RuleId, table: &RuleTable, protocol: u8, port: u16) -> MatchType {
    let entries = table.entries(protocol, port);
    let peer =
        entries.iter().any(|entry| entry.rule == rule && entry.peer != policy::PeerMatch::Any);
    // A rule without ports matches where no port is known, too.
    let other = table.other.map_or(&[][..], |class| &table.classes[class as usize]);
    let ports = !other.iter().any(|entry| entry.rule == rule);
    match (peer, ports) {
        (true, true) => MatchType::L3L4,
        (true, false) => MatchType::L3Only,
        (false, true) => MatchType::L4Only,
        (false, false) => MatchType::All,
    }
}

impl FlowRecord {
    /// The record as `hubble observe` prints it: one line, or two when policy judged both
    /// directions. What does not print is escaped.
    #[must_use]
    pub fn compact(&self) -> String {
        let time = self.time.strftime("%b %e %H:%M:%S.%3f");
        let arrow = match self.is_reply {
            Some(false) => "->",
            Some(true) => "<-",
            None => "<>",
        };
        let head = format!("{time}: {} {arrow} {}", self.source, self.destination);
        let lines: Vec<_> = self
            .events()
            .into_iter()
            .map(|event| escape(&format!("{head} {event} ({})", self.summary())))
            .collect();
        lines.join("\n")
    }

    /// Type and verdict, one for each line.
    fn events(&self) -> Vec<String> {
        let verdict = match self.verdict {
            Outcome::Forwarded => "FORWARDED",
            Outcome::Dropped => "DROPPED",
            Outcome::Redirected => "REDIRECTED",
        };
        match &self.detail {
            Detail::PolicyVerdict { egress, ingress, .. } => judged_directions(egress, ingress)
                .into_iter()
                .map(|(direction, judgement)| {
                    format!("policy-verdict:{}", judgement.text(direction))
                })
                .collect(),
            Detail::Drop => {
                let reason = self.drop_reason.as_deref().unwrap_or("unknown");
                vec![format!("{} {verdict}", sentence_case(reason))]
            }
            Detail::HttpRequest { .. } => vec![format!("http-request {verdict}")],
            Detail::HttpResponse { .. } => vec![format!("http-response {verdict}")],
            Detail::End { .. } => vec![format!("flow-end {verdict}")],
        }
    }

    fn summary(&self) -> String {
        let protocol = &self.protocol;
        match &self.detail {
            Detail::PolicyVerdict { tcp_flags, .. } if !tcp_flags.is_empty() => {
                format!("TCP Flags: {}", tcp_flags.join(", "))
            }
            Detail::PolicyVerdict { icmp_type: Some(number), .. } => {
                match (protocol.as_str(), number) {
                    ("ICMPv4", 0) | ("ICMPv6", 129) => format!("{protocol} EchoReply"),
                    ("ICMPv4", 8) | ("ICMPv6", 128) => format!("{protocol} EchoRequest"),
                    _ => format!("{protocol} type {number}"),
                }
            }
            Detail::PolicyVerdict { .. } | Detail::Drop => protocol.clone(),
            Detail::HttpRequest { method, path, host, .. } => {
                // An absolute request target (RFC 9112 §3.2.2) names the host itself.
                let absolute = path.contains("://");
                let origin = if absolute { String::new() } else { format!("http://{host}") };
                format!("HTTP/1.1 {method} {origin}{path}")
            }
            Detail::HttpResponse { status, latency_ns } => {
                format!("HTTP/1.1 {status} {}ms", latency_ns / 1_000_000)
            }
            Detail::End { packets: [out, back], bytes: [bytes_out, bytes_back] } => {
                format!("{protocol} packets {out}/{back} bytes {bytes_out}/{bytes_back}")
            }
        }
    }
}

/// The directions that policies judged; if they judged none, the one at this node. A flow that
/// ended at the source's egress has nothing to show of an ingress that would have let it in.
fn judged_directions<'a>(
    egress: &'a Judgement,
    ingress: &'a Judgement,
) -> Vec<(&'static str, &'a Judgement)> {
    let by_policy = |judgement: &Judgement| match judgement.by {
        By::Rule { .. } | By::Conflict { .. } | By::DefaultDeny { .. } => true,
        By::Unenforced | By::Node | By::ToSelf | By::NotLocal => false,
    };
    let mut shown = Vec::new();
    if by_policy(egress) {
        shown.push(("EGRESS", egress));
    }
    if by_policy(ingress) && (egress.allowed || !ingress.allowed) {
        shown.push(("INGRESS", ingress));
    }
    if shown.is_empty() {
        shown.push(match egress.by {
            By::NotLocal => ("INGRESS", ingress),
            _ => ("EGRESS", egress),
        });
    }
    shown
}

impl Judgement {
    fn text(&self, direction: &str) -> String {
        let verdict = if self.allowed { "ALLOWED" } else { "DENIED" };
        let (matched, by) = match &self.by {
            By::Rule { rule, matched } => (matched.as_str(), std::slice::from_ref(&rule.policy)),
            By::Conflict { rule } => (MatchType::L3L4.as_str(), std::slice::from_ref(&rule.policy)),
            By::DefaultDeny { policies } => ("none", policies.as_slice()),
            By::Unenforced | By::NotLocal => (MatchType::All.as_str(), &[][..]),
            By::Node | By::ToSelf => (MatchType::L3Only.as_str(), &[][..]),
        };
        let names: Vec<_> = by.iter().map(PolicyName::to_string).collect();
        let by = if names.is_empty() { String::new() } else { format!(" BY {}", names.join(", ")) };
        format!("{matched} {direction} {verdict}{by}")
    }
}

impl MatchType {
    const fn as_str(self) -> &'static str {
        match self {
            Self::L3Only => "L3-Only",
            Self::L3L4 => "L3-L4",
            Self::L4Only => "L4-Only",
            Self::All => "all",
        }
    }
}

impl PolicyName {
    /// `KIND NAMESPACE/NAME`.
    #[must_use]
    pub fn in_full(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("{} {namespace}/{}", self.kind, self.name),
            None => format!("{} {}", self.kind, self.name),
        }
    }
}

impl RuleName {
    /// `KIND NAMESPACE/NAME PATH`.
    #[must_use]
    pub fn in_full(&self) -> String {
        format!("{} {}", self.policy.in_full(), self.path)
    }
}

/// `NAME (KIND)`, as Hubble writes it: the namespace is that of the endpoint beside it.
impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.kind)
    }
}

impl From<&ObjectKey> for PolicyName {
    fn from(key: &ObjectKey) -> Self {
        Self {
            kind: key.kind.name().to_owned(),
            namespace: key.namespace.clone(),
            name: key.name.clone(),
        }
    }
}

impl fmt::Display for Peer {
    /// `NAMESPACE/POD:PORT (IDENTITY)`, with the address where there is no pod.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.namespace, &self.pod, self.port) {
            (Some(namespace), Some(pod), Some(port)) => write!(f, "{namespace}/{pod}:{port}")?,
            (Some(namespace), Some(pod), None) => write!(f, "{namespace}/{pod}")?,
            (_, _, Some(port)) => SocketAddr::new(self.address, port).fmt(f)?,
            (_, _, None) => self.address.fmt(f)?,
        }
        match reserved_name(self.identity) {
            Some(name) => write!(f, " ({name})"),
            None => write!(f, " (ID:{})", self.identity),
        }
    }
}

/// Name of a reserved identity (cilium `pkg/identity/numericidentity.go`).
fn reserved_name(identity: u32) -> Option<&'static str> {
    Some(match identity {
        0 => "unknown",
        1 => "host",
        2 => "world",
        3 => "unmanaged",
        4 => "health",
        5 => "init",
        6 => "remote-node",
        7 => "kube-apiserver",
        8 => "ingress",
        9 => "world-ipv4",
        10 => "world-ipv6",
        _ => return None,
    })
}

/// `spoofed_source` as `Spoofed source`.
fn sentence_case(label: &str) -> String {
    let mut text = label.replace('_', " ");
    if let Some(first) = text.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use podgate_tables::event::{Text, Traffic};
    use podgate_tables::ids::{Epoch, LinkId};
    use podgate_tables::policy::LocalEnds;
    use podgate_tables::time::Nanos;
    use serde_json::json;

    use crate::{Store, compile};

    const CLIENT: [u8; 4] = [10, 0, 0, 1];
    const SERVER: [u8; 4] = [10, 0, 0, 2];
    const OTHER: [u8; 4] = [10, 0, 0, 3];

    /// A server that lets one client in on port 80, denies another, and a client that may open
    /// connections to port 80 of anybody.
    fn compiled() -> Compiled {
        let pod = |name: &str, ip: [u8; 4]| {
            json!({"apiVersion": "v1", "kind": "Pod",
                   "metadata": {"namespace": "shop", "name": name, "labels": {"app": name}},
                   "status": {"podIPs": [{"ip": std::net::Ipv4Addr::from(ip).to_string()}]}})
        };
        let peer = |app: &str| json!([{"matchLabels": {"app": app}}]);
        let port = json!([{"ports": [{"port": "80", "protocol": "TCP"}]}]);
        let server = json!({
            "apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy",
            "metadata": {"namespace": "shop", "name": "server"},
            "spec": {"endpointSelector": {"matchLabels": {"app": "server"}},
                     "ingress": [{"fromEndpoints": peer("client"), "toPorts": port}],
                     "ingressDeny": [{"fromEndpoints": peer("other")}]},
        });
        let client = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"namespace": "shop", "name": "client"},
            "spec": {"podSelector": {"matchLabels": {"app": "client"}}, "policyTypes": ["Egress"],
                     "egress": [{"ports": [{"port": 80}]}]},
        });
        let pods = [pod("client", CLIENT), pod("server", SERVER), pod("other", OTHER)];
        let mut store = Store::new();
        for object in pods.iter().chain([&server, &client]) {
            store.apply(object, None).unwrap();
        }
        compile(&store)
    }

    fn tuple(src: [u8; 4], dst: [u8; 4], dst_port: u16, protocol: u8) -> Tuple {
        let (src, dst) = (Address::v4(src), Address::v4(dst));
        Tuple { src, dst, src_port: 40000, dst_port, protocol }
    }

    fn record(tuple: Tuple, kind: EventKind) -> FlowRecord {
        let event = Event { time: Nanos(0), epoch: Epoch(3), link: LinkId(1), tuple, kind };
        let time = "2026-01-02T03:04:05.678Z".parse().unwrap();
        FlowRecord::new(&event, time, &compiled())
    }

    /// The record of the first packet of a flow, judged by the tables.
    fn judged(tuple: Tuple, tcp_flags: u8, icmp_type: u8) -> FlowRecord {
        let decision = compiled().tables.decide(&Subject { tuple, icmp_type }, LocalEnds::BOTH);
        let kind = EventKind::Verdict {
            verdict: decision.verdict,
            egress: decision.egress,
            ingress: decision.ingress,
            tcp_flags,
            icmp_type,
            reevaluated: false,
        };
        record(tuple, kind)
    }

    fn request(allowed: bool, path: &[u8]) -> EventKind {
        let request = RequestLine {
            method: Text::new(b"GET"),
            path: Text::new(path),
            host: Text::new(b"server:80"),
        };
        EventKind::HttpRequest { allowed, rule: None, malformed: None, request }
    }

    /// Without the time and the identity numbers, which are hashes of labels.
    fn text(record: &FlowRecord) -> String {
        let mut record = record.clone();
        for (peer, number) in [(&mut record.source, 1001), (&mut record.destination, 1002)] {
            if peer.identity > 255 {
                peer.identity = number;
            }
        }
        record.compact()
    }

    #[test]
    fn an_allowed_flow_names_the_rules_of_both_directions() {
        insta::assert_snapshot!(text(&judged(tuple(CLIENT, SERVER, 80, proto::TCP), 0x02, 0)), @r"
        Jan  2 03:04:05.678: shop/client:40000 (ID:1001) -> shop/server:80 (ID:1002) policy-verdict:L4-Only EGRESS ALLOWED BY client (NetworkPolicy) (TCP Flags: SYN)
        Jan  2 03:04:05.678: shop/client:40000 (ID:1001) -> shop/server:80 (ID:1002) policy-verdict:L3-L4 INGRESS ALLOWED BY server (CiliumNetworkPolicy) (TCP Flags: SYN)
        ");
    }

    #[test]
    fn a_default_denial_names_the_policies_that_ask_for_a_rule() {
        insta::assert_snapshot!(text(&judged(tuple(SERVER, OTHER, 81, proto::UDP), 0, 0)), @"Jan  2 03:04:05.678: shop/server:40000 (ID:1001) -> shop/other:81 (ID:1002) policy-verdict:all EGRESS ALLOWED (UDP)");
        insta::assert_snapshot!(text(&judged(tuple(CLIENT, SERVER, 81, proto::TCP), 0x02, 0)), @r"
        Jan  2 03:04:05.678: shop/client:40000 (ID:1001) -> shop/server:81 (ID:1002) policy-verdict:none EGRESS DENIED BY client (NetworkPolicy) (TCP Flags: SYN)
        Jan  2 03:04:05.678: shop/client:40000 (ID:1001) -> shop/server:81 (ID:1002) policy-verdict:none INGRESS DENIED BY server (CiliumNetworkPolicy) (TCP Flags: SYN)
        ");
        let world = judged(tuple([192, 0, 2, 1], SERVER, 0, proto::ICMP), 0, 8);
        insta::assert_snapshot!(text(&world), @"Jan  2 03:04:05.678: 192.0.2.1 (world-ipv4) -> shop/server (ID:1002) policy-verdict:none INGRESS DENIED BY server (CiliumNetworkPolicy) (ICMPv4 EchoRequest)");
    }

    #[test]
    fn a_deny_rule_is_told_from_the_lack_of_an_allowing_one() {
        let denied = judged(tuple(OTHER, SERVER, 80, proto::TCP), 0x12, 0);
        assert_eq!(denied.drop_reason.as_deref(), Some("policy_deny_rule"));
        insta::assert_snapshot!(text(&denied), @"Jan  2 03:04:05.678: shop/other:40000 (ID:1001) -> shop/server:80 (ID:1002) policy-verdict:L3-Only INGRESS DENIED BY server (CiliumNetworkPolicy) (TCP Flags: SYN, ACK)");
        let isolated = judged(tuple(CLIENT, SERVER, 81, proto::TCP), 0x02, 0);
        assert_eq!(isolated.drop_reason.as_deref(), Some("policy_denied"));
    }

    #[test]
    fn requests_responses_drops_and_ends_are_told() {
        let flow = tuple(CLIENT, SERVER, 80, proto::TCP);
        let kinds = [
            request(true, b"/docs"),
            request(false, b"/secret?key=1"),
            request(false, b"http://elsewhere/x"),
            EventKind::HttpResponse { status: 403, latency_ns: 7_900_000 },
            EventKind::Drop { reason: DropReason::SpoofedSource },
            EventKind::End {
                original: Traffic { packets: 3, bytes: 300 },
                reply: Traffic { packets: 2, bytes: 200 },
            },
        ];
        let lines: Vec<_> = kinds.into_iter().map(|kind| text(&record(flow, kind))).collect();
        insta::assert_snapshot!(lines.join("\n"), @r"
        Jan  2 03:04:05.678: shop/client:40000 (ID:1001) -> shop/server:80 (ID:1002) http-request FORWARDED (HTTP/1.1 GET http://server:80/docs)
        Jan  2 03:04:05.678: shop/client:40000 (ID:1001) -> shop/server:80 (ID:1002) http-request DROPPED (HTTP/1.1 GET http://server:80/secret?key=1)
        Jan  2 03:04:05.678: shop/client:40000 (ID:1001) -> shop/server:80 (ID:1002) http-request DROPPED (HTTP/1.1 GET http://elsewhere/x)
        Jan  2 03:04:05.678: shop/client:40000 (ID:1001) <- shop/server:80 (ID:1002) http-response FORWARDED (HTTP/1.1 403 7ms)
        Jan  2 03:04:05.678: shop/client:40000 (ID:1001) <> shop/server:80 (ID:1002) Spoofed source DROPPED (TCP)
        Jan  2 03:04:05.678: shop/client:40000 (ID:1001) <> shop/server:80 (ID:1002) flow-end FORWARDED (TCP packets 3/2 bytes 300/200)
        ");
    }

    #[test]
    fn what_a_pod_writes_can_not_steer_a_terminal() {
        let hostile = record(
            tuple(CLIENT, SERVER, 80, proto::TCP),
            request(true, b"/\x1b[2J\r\n\x7f\xc2\x9b\xff"),
        );
        let text = hostile.compact();
        assert!(text.contains("/^[[2J^M^J^?\\u{9b}\u{fffd}"), "{text}");
        assert_eq!(text.lines().count(), 1);
    }

    #[test]
    fn a_record_reads_back_from_its_json() {
        let flow = tuple(CLIENT, SERVER, 80, proto::TCP);
        for record in [
            judged(flow, 0x02, 0),
            judged(tuple(CLIENT, SERVER, 81, proto::TCP), 0x02, 0),
            record(flow, request(false, b"/\xff")),
            record(flow, EventKind::Drop { reason: DropReason::Malformed }),
            record(
                flow,
                EventKind::End {
                    original: Traffic { packets: 1, bytes: 3 },
                    reply: Traffic { packets: 2, bytes: u64::MAX },
                },
            ),
        ] {
            let json = serde_json::to_string(&record).unwrap();
            assert_eq!(serde_json::from_str::<FlowRecord>(&json).unwrap(), record, "{json}");
        }
    }

    #[test]
    fn the_json_of_a_denial_says_what_and_why() {
        let mut denied =
            serde_json::to_value(judged(tuple(OTHER, SERVER, 80, proto::TCP), 2, 0)).unwrap();
        for peer in ["source", "destination"] {
            denied[peer]
                .as_object_mut()
                .unwrap()
                .retain(|key, _| key != "identity" && key != "labels");
        }
        assert_eq!(
            denied,
            json!({
                "time": "2026-01-02T03:04:05.678Z",
                "verdict": "DROPPED",
                "drop_reason": "policy_deny_rule",
                "source": {"address": "10.0.0.3", "port": 40000, "namespace": "shop", "pod": "other"},
                "destination": {"address": "10.0.0.2", "port": 80, "namespace": "shop", "pod": "server"},
                "protocol": "TCP",
                "is_reply": false,
                "link": 1,
                "epoch": 3,
                "type": "policy-verdict",
                "egress": {"allowed": true, "by": "unenforced"},
                "ingress": {
                    "allowed": false,
                    "by": "rule",
                    "match": "L3-Only",
                    "rule": {
                        "policy": {"kind": "CiliumNetworkPolicy", "namespace": "shop", "name": "server"},
                        "path": "spec.ingressDeny[0]",
                    },
                },
                "tcp_flags": ["SYN"],
                "reevaluated": false,
            })
        );
    }
}
