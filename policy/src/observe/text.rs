//! Records as text, one line each, as `hubble observe` prints them
//! (cilium `hubble/pkg/printer/printer.go`).

use std::fmt;
use std::net::SocketAddr;

use podgate_tables::l7::rules::kafka::api_key_name;

use super::names::PolicyName;
use super::record::{
    DecidedBy, Detail, DirectionVerdict, FlowEndpoint, FlowRecord, MatchType, Outcome,
};
use crate::rules::TrafficDirection;
use crate::terminal::escape;

impl FlowRecord {
    /// The record as `hubble observe` prints it: one line, or two when policy decided
    /// both directions. Characters that do not print are escaped.
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
            Detail::PolicyVerdict { .. } => self
                .directions()
                .into_iter()
                .map(|(side, verdict)| {
                    let direction = match side {
                        TrafficDirection::Ingress => "INGRESS",
                        TrafficDirection::Egress => "EGRESS",
                    };
                    format!("policy-verdict:{}", verdict.text(direction))
                })
                .collect(),
            Detail::Drop => {
                let reason = self.drop_reason.as_deref().unwrap_or("unknown");
                vec![format!("{} {verdict}", sentence_case(reason))]
            }
            Detail::HttpRequest { .. } => vec![format!("http-request {verdict}")],
            Detail::KafkaRequest { .. } => vec![format!("kafka-request {verdict}")],
            Detail::KafkaResponse { .. } => vec![format!("kafka-response {verdict}")],
            Detail::TlsRequest { .. } => vec![format!("tls-request {verdict}")],
            Detail::HttpResponse { .. } => vec![format!("http-response {verdict}")],
            Detail::DnsRequest { .. } => vec![format!("dns-request {verdict}")],
            Detail::DnsResponse { .. } => vec![format!("dns-response {verdict}")],
            Detail::End { .. } => vec![format!("flow-end {verdict}")],
        }
    }

    /// The directions that a policy decided; if there is none, the one at this node. Where egress
    /// denies a flow, an ingress that would have allowed it is left out. Other records than policy
    /// verdicts have no directions.
    #[must_use]
    pub fn directions(&self) -> Vec<(TrafficDirection, &DirectionVerdict)> {
        match &self.detail {
            Detail::PolicyVerdict { egress, ingress, .. } => decided_directions(egress, ingress),
            _ => Vec::new(),
        }
    }

    /// What the record is about, as `hubble observe` prints it in parentheses. Characters that do
    /// not print are not escaped.
    #[must_use]
    pub fn summary(&self) -> String {
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
            Detail::HttpRequest { version, method, path, host, .. } => {
                format!("{version} {method} {}", http_url(host, path))
            }
            Detail::KafkaRequest { api_key, correlation_id, topic, .. } => {
                let api = api_key_name(*api_key).map_or_else(|| api_key.to_string(), str::to_owned);
                format!("Kafka request {api} correlation id {correlation_id} topic '{topic}'")
            }
            Detail::KafkaResponse { error_code, latency_ns } => {
                format!("Kafka response error {error_code} {}ms", latency_ns / 1_000_000)
            }
            Detail::TlsRequest { server_name, .. } => match server_name.as_str() {
                "" => "TLS without server name".to_owned(),
                name => format!("TLS to {name}"),
            },
            Detail::HttpResponse { version, status, grpc_status, latency_ns, request } => {
                let request = request.as_ref().map_or_else(String::new, |request| {
                    format!(" ({} {})", request.method, http_url(&request.host, &request.path))
                });
                let grpc =
                    grpc_status.map(|code| format!(" grpc-status {code}")).unwrap_or_default();
                format!("{version} {status} {}ms{grpc}{request}", latency_ns / 1_000_000)
            }
            Detail::DnsRequest { query, qtype, .. } => format!("DNS Query {query} {qtype}"),
            Detail::DnsResponse { rcode, qtype, address, addresses, ttl, latency_ns } => {
                let answer = match (rcode, address) {
                    (0, Some(address)) if *addresses > 1 => format!("\"{address},…\" TTL: {ttl} "),
                    (0, Some(address)) => format!("\"{address}\" TTL: {ttl} "),
                    (0, None) => String::new(),
                    (code, _) => format!("RCode: {} ", rcode_name(*code)),
                };
                let qtype = qtype.as_deref().map(|qtype| format!("{qtype} ")).unwrap_or_default();
                format!("DNS Answer {answer}({qtype}{}ms)", latency_ns / 1_000_000)
            }
            Detail::End { packets: [out, back], bytes: [bytes_out, bytes_back] } => {
                format!("{protocol} packets {out}/{back} bytes {bytes_out}/{bytes_back}")
            }
        }
    }
}

/// Name of a response code, as Hubble prints it (gopacket `layers/dns.go`, `DNSResponseCode`).
fn rcode_name(code: u8) -> String {
    let name = match code {
        0 => "No Error",
        1 => "Format Error",
        2 => "Server Failure",
        3 => "Non-Existent Domain",
        4 => "Not Implemented",
        5 => "Query Refused",
        other => return format!("{other}"),
    };
    name.to_owned()
}

/// The URL of a request target. An absolute one (RFC 9112 §3.2.2) names the host itself.
#[must_use]
pub fn http_url(host: &str, path: &str) -> String {
    if path.contains("://") { path.to_owned() } else { format!("http://{host}{path}") }
}

/// The directions that a policy decided; if there is none, the one at this node. Where egress
/// denies a flow, an ingress that would have allowed it is left out.
fn decided_directions<'a>(
    egress: &'a DirectionVerdict,
    ingress: &'a DirectionVerdict,
) -> Vec<(TrafficDirection, &'a DirectionVerdict)> {
    let by_policy = |verdict: &DirectionVerdict| match verdict.by {
        DecidedBy::Rule { .. } | DecidedBy::Conflict { .. } | DecidedBy::DefaultDeny { .. } => true,
        DecidedBy::Unenforced | DecidedBy::Node | DecidedBy::ToSelf | DecidedBy::NotLocal => false,
    };
    let mut shown = Vec::new();
    if by_policy(egress) {
        shown.push((TrafficDirection::Egress, egress));
    }
    if by_policy(ingress) && (egress.allowed || !ingress.allowed) {
        shown.push((TrafficDirection::Ingress, ingress));
    }
    if shown.is_empty() {
        shown.push(match egress.by {
            DecidedBy::NotLocal => (TrafficDirection::Ingress, ingress),
            _ => (TrafficDirection::Egress, egress),
        });
    }
    shown
}

impl DirectionVerdict {
    fn text(&self, direction: &str) -> String {
        let verdict = if self.allowed { "ALLOWED" } else { "DENIED" };
        let (matched, by) = match &self.by {
            DecidedBy::Rule { rule, matched } => {
                (matched.as_str(), std::slice::from_ref(&rule.policy))
            }
            DecidedBy::Conflict { rule } => {
                (MatchType::L3L4.as_str(), std::slice::from_ref(&rule.policy))
            }
            DecidedBy::DefaultDeny { policies } => ("none", policies.as_slice()),
            DecidedBy::Unenforced | DecidedBy::NotLocal => (MatchType::All.as_str(), &[][..]),
            DecidedBy::Node | DecidedBy::ToSelf => (MatchType::L3Only.as_str(), &[][..]),
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

impl fmt::Display for FlowEndpoint {
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
