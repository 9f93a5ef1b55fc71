//! Records in the words of `hubble observe`.

use podgate_tables::l7::rules::kafka::api_key_name;

use super::matches::{Shown, shown};
use super::record::{DecidedBy, Detail, DirectionVerdict, FlowRecord};
use crate::rules::TrafficDirection;

impl FlowRecord {
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

    /// The summary of the record, as `hubble observe` prints it in parentheses. Characters that do
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
            Detail::PolicyVerdict { .. } | Detail::Drop { .. } => protocol.clone(),
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

fn decided_directions<'a>(
    egress: &'a DirectionVerdict,
    ingress: &'a DirectionVerdict,
) -> Vec<(TrafficDirection, &'a DirectionVerdict)> {
    let shown = shown(egress.into(), ingress.into());
    let both = [(TrafficDirection::Egress, egress), (TrafficDirection::Ingress, ingress)];
    both.into_iter().zip(shown).filter_map(|(verdict, shown)| shown.then_some(verdict)).collect()
}

impl From<&DirectionVerdict> for Shown {
    fn from(verdict: &DirectionVerdict) -> Self {
        let by_policy = match verdict.by {
            DecidedBy::Rule { .. } | DecidedBy::Conflict { .. } | DecidedBy::DefaultDeny { .. } => {
                true
            }
            DecidedBy::Unenforced | DecidedBy::Node | DecidedBy::ToSelf | DecidedBy::NotLocal => {
                false
            }
        };
        let elsewhere = verdict.by == DecidedBy::NotLocal;
        Self { by_policy, allowed: verdict.allowed, elsewhere }
    }
}
