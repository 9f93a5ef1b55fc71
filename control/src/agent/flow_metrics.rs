//! Counters of the events that the flow thread took, under Hubble's names.
//!
//! Lost events are not in them, as in Hubble; the exact counters are those of the workers.

use std::collections::BTreeMap;

use podgate_tables::event::{Event, EventKind, RequestRecord, ResponseStatus};
use podgate_tables::policy::Verdict;
use podgate_tables::proto;

/// Methods that are labels of their own.
const METHODS: [&str; 9] =
    ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

/// Types of DNS records that are labels of their own.
const DNS_TYPES: [(u16, &str); 10] = [
    (1, "A"),
    (2, "NS"),
    (5, "CNAME"),
    (6, "SOA"),
    (12, "PTR"),
    (15, "MX"),
    (16, "TXT"),
    (28, "AAAA"),
    (33, "SRV"),
    (65, "HTTPS"),
];

/// Names of response codes of DNS, by number, as Hubble writes them.
const RCODES: [&str; 6] = [
    "No Error",
    "Format Error",
    "Server Failure",
    "Non-Existent Domain",
    "Not Implemented",
    "Query Refused",
];

/// The label of what has none of its own.
const OTHER: &str = "other";

/// Labels of `hubble_flows_processed_total`: type, subtype, verdict, protocol.
pub(crate) type FlowLabels = [&'static str; 4];

/// What the flow thread counted.
#[derive(Clone, Default, Debug)]
pub(crate) struct FlowCounts {
    /// Events.
    pub(crate) flows: BTreeMap<FlowLabels, u64>,
    /// Dropped packets, by reason and protocol.
    pub(crate) drops: BTreeMap<[&'static str; 2], u64>,
    /// HTTP requests by method.
    pub(crate) http_requests: BTreeMap<&'static str, u64>,
    /// HTTP responses by status.
    pub(crate) http_responses: BTreeMap<u16, u64>,
    /// DNS queries by type.
    pub(crate) dns_queries: BTreeMap<&'static str, u64>,
    /// DNS responses by type and response code.
    pub(crate) dns_responses: BTreeMap<[&'static str; 2], u64>,
    /// Kafka requests by API key.
    pub(crate) kafka_requests: BTreeMap<i16, u64>,
}

impl FlowCounts {
    /// Counts an event.
    pub(super) fn count(&mut self, event: &Event) {
        let protocol = protocol(event.tuple.protocol);
        let verdict = |allowed| if allowed { "FORWARDED" } else { "DROPPED" };
        let labels = match &event.kind {
            EventKind::Verdict { verdict: decided, .. } => {
                let allowed = *decided != Verdict::Deny;
                ["PolicyVerdict", "", verdict(allowed), protocol]
            }
            EventKind::Drop { reason } => {
                *self.drops.entry([reason.label(), protocol]).or_default() += 1;
                ["Drop", "", "DROPPED", protocol]
            }
            EventKind::Request { allowed, request, .. } => {
                ["L7", self.request(request), verdict(*allowed), protocol]
            }
            EventKind::Response { status, .. } => {
                ["L7", self.response(*status), "FORWARDED", protocol]
            }
            EventKind::End { .. } => ["Trace", "end", "FORWARDED", protocol],
        };
        *self.flows.entry(labels).or_default() += 1;
    }

    fn request(&mut self, request: &RequestRecord) -> &'static str {
        match request {
            RequestRecord::Http(line) => {
                let method = METHODS.iter().find(|known| known.as_bytes() == line.method.bytes());
                *self.http_requests.entry(method.unwrap_or(&OTHER)).or_default() += 1;
                "HTTP"
            }
            RequestRecord::Dns(question) => {
                *self.dns_queries.entry(dns_type(question.kind)).or_default() += 1;
                "DNS"
            }
            RequestRecord::ServerName(_) => "TLS",
            RequestRecord::Kafka(record) => {
                // Of those that exist (Kafka protocol guide), and room for new ones.
                let key = record.api_key.clamp(-1, 128);
                *self.kafka_requests.entry(key).or_default() += 1;
                "Kafka"
            }
        }
    }

    fn response(&mut self, status: ResponseStatus) -> &'static str {
        match status {
            ResponseStatus::Http { status: code, .. } => {
                // Three digits (RFC 9110 §15); others are one.
                let code = if (100..600).contains(&code) { code } else { 0 };
                *self.http_responses.entry(code).or_default() += 1;
                "HTTP"
            }
            ResponseStatus::Grpc(_) => "HTTP",
            ResponseStatus::Dns(result) => {
                let code = RCODES.get(usize::from(result.rcode)).unwrap_or(&OTHER);
                *self.dns_responses.entry([dns_type(result.kind), code]).or_default() += 1;
                "DNS"
            }
            ResponseStatus::Kafka(_) => "Kafka",
        }
    }
}

fn protocol(number: u8) -> &'static str {
    match number {
        proto::TCP => "TCP",
        proto::UDP => "UDP",
        proto::SCTP => "SCTP",
        proto::ICMP => "ICMPv4",
        proto::ICMPV6 => "ICMPv6",
        _ => OTHER,
    }
}

fn dns_type(number: u16) -> &'static str {
    DNS_TYPES.iter().find(|(known, _)| *known == number).map_or(OTHER, |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use podgate_tables::event::{HttpVersion, RequestLine, Text};
    use podgate_tables::ids::{Epoch, LinkId};
    use podgate_tables::time::Nanos;
    use podgate_tables::tuple::Tuple;

    use super::*;

    fn event(kind: EventKind) -> Event {
        let any = std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED).into();
        let tuple = Tuple { src: any, dst: any, protocol: 6, src_port: 1, dst_port: 80 };
        Event { time: Nanos(1), epoch: Epoch(1), link: LinkId(1), tuple, frontend: None, kind }
    }

    #[test]
    fn labels_from_the_wire_are_bounded() {
        let mut counts = FlowCounts::default();
        for method in ["GET", "get", "EVIL-1", "EVIL-2", ""] {
            let method = Text::new(method.as_bytes());
            let request = RequestRecord::Http(RequestLine { method, ..RequestLine::default() });
            let kind = EventKind::Request { allowed: true, rule: None, reason: None, request };
            counts.count(&event(kind));
        }
        assert_eq!(counts.http_requests, BTreeMap::from([("GET", 1), ("other", 4)]));
        for code in [0, 99, 200, 600, u16::MAX] {
            let status = ResponseStatus::Http { version: HttpVersion::Http11, status: code };
            counts.count(&event(EventKind::Response { status, latency_ns: 1 }));
        }
        assert_eq!(counts.http_responses, BTreeMap::from([(0, 4), (200, 1)]));
        assert_eq!(counts.flows[&["L7", "HTTP", "FORWARDED", "TCP"]], 10);
    }
}
