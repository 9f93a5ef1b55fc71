//! Counters of the events that the flow thread took, under Hubble's names.
//!
//! Lost events are not in them, as in Hubble; the exact counters are those of the workers.

use std::collections::BTreeMap;

use podgate_dataplane::stats::l7::{LATENCY_BOUNDS, bucket};
use podgate_policy::Compiled;
use podgate_policy::observe::{
    MatchType, Outcome, PolicyMatch, outcome, policy_matches, request_direction,
};
use podgate_policy::rules::TrafficDirection;
use podgate_tables::event::{Event, EventKind, RequestLine, RequestRecord, ResponseStatus};
use podgate_tables::l7::rules::kafka::api_key_name;
use podgate_tables::proto;

use super::flow_log::Logged;

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

/// The label of values that have none of their own.
const OTHER: &str = "other";

/// The method of a response whose request is not known.
const UNKNOWN: &str = "unknown";

/// Labels of `hubble_flows_processed_total`: type, subtype, verdict, protocol.
pub(crate) type FlowLabels = [&'static str; 4];

/// How many requests took how long.
#[derive(Clone, Default, Debug)]
pub(crate) struct Durations {
    /// By bucket of [`LATENCY_BOUNDS`], not cumulative; the last one has no bound.
    pub(crate) buckets: [u64; LATENCY_BOUNDS.len() + 1],
    /// Sum of all times, nanoseconds.
    pub(crate) sum_ns: u64,
}

impl Durations {
    fn count(&mut self, latency_ns: u64) {
        self.buckets[bucket(latency_ns)] += 1;
        self.sum_ns = self.sum_ns.saturating_add(latency_ns);
    }
}

/// What the flow thread counted.
#[derive(Clone, Default, Debug)]
pub(crate) struct FlowCounts {
    /// Events.
    pub(crate) flows: BTreeMap<FlowLabels, u64>,
    /// Dropped packets and denied requests, by the number of Hubble's reason, and protocol.
    pub(crate) drops: BTreeMap<(u16, &'static str), u64>,
    /// Verdicts by direction, what was matched, and what was done.
    pub(crate) policy_verdicts: BTreeMap<[&'static str; 3], u64>,
    /// ICMP messages that policy decided, by family and type.
    pub(crate) icmp: BTreeMap<[&'static str; 2], u64>,
    /// HTTP requests by method.
    pub(crate) http_requests: BTreeMap<&'static str, u64>,
    /// HTTP responses by status.
    pub(crate) http_responses: BTreeMap<u16, u64>,
    /// Time to HTTP responses by method.
    pub(crate) http_durations: BTreeMap<&'static str, Durations>,
    /// DNS queries by type.
    pub(crate) dns_queries: BTreeMap<&'static str, u64>,
    /// DNS responses by type and response code.
    pub(crate) dns_responses: BTreeMap<[&'static str; 2], u64>,
    /// Kafka requests by API.
    pub(crate) kafka_requests: BTreeMap<&'static str, u64>,
    /// Time to Kafka responses by API.
    pub(crate) kafka_durations: BTreeMap<&'static str, Durations>,
}

impl FlowCounts {
    /// Counts an event. Without the tables of its epoch, what needs them is not counted.
    pub(super) fn count(&mut self, logged: &Logged, tables: Option<&Compiled>) {
        let event = &logged.event;
        let (outcome, reason) = outcome(&event.kind);
        let transport = protocol(event.tuple.protocol);
        let (kind, subtype, protocol) = match &event.kind {
            EventKind::Verdict { icmp_type, .. } => {
                if let Some(labels) = icmp(event.tuple.protocol, *icmp_type) {
                    *self.icmp.entry(labels).or_default() += 1;
                }
                ("PolicyVerdict", "", transport)
            }
            EventKind::Drop { .. } | EventKind::Unparsed { .. } | EventKind::ProgramDrop { .. } => {
                ("Drop", "", transport)
            }
            EventKind::Request { request, .. } => {
                let name = self.request(request);
                ("L7", name, name)
            }
            EventKind::Response { status, latency_ns } => {
                let name = self.response(*status, *latency_ns, logged.request.as_ref());
                ("L7", name, name)
            }
            EventKind::End { .. } => ("Trace", "end", transport),
        };
        if let Some(reason) = reason {
            *self.drops.entry((reason.hubble(), protocol)).or_default() += 1;
        }
        if let Some(tables) = tables {
            self.policy(event, outcome, tables);
        }
        *self.flows.entry([kind, subtype, verdict(outcome), protocol]).or_default() += 1;
    }

    /// Counts the verdicts of an event.
    fn policy(&mut self, event: &Event, outcome: Outcome, tables: &Compiled) {
        for PolicyMatch { direction, allowed, matched } in policy_matches(event, tables) {
            let action = match outcome {
                // It was dropped by the other direction.
                Outcome::Dropped if allowed => "forwarded",
                outcome => action(outcome),
            };
            let matched = matched.map_or("none", match_name);
            let labels = [direction_name(direction), matched, action];
            *self.policy_verdicts.entry(labels).or_default() += 1;
        }
        if let EventKind::Request { request, .. } = &event.kind {
            let matched = match request {
                RequestRecord::Http(_) => "l7/http",
                RequestRecord::Dns(_) => "l7/dns",
                RequestRecord::Kafka(_) => "l7/kafka",
                // Hubble has no word for it.
                RequestRecord::ServerName(_) => return,
            };
            let direction = direction_name(request_direction(event, tables));
            let labels = [direction, matched, action(outcome)];
            *self.policy_verdicts.entry(labels).or_default() += 1;
        }
    }

    fn request(&mut self, request: &RequestRecord) -> &'static str {
        match request {
            RequestRecord::Http(line) => {
                *self.http_requests.entry(method(line)).or_default() += 1;
                "HTTP"
            }
            RequestRecord::Dns(question) => {
                *self.dns_queries.entry(dns_type(question.kind)).or_default() += 1;
                "DNS"
            }
            RequestRecord::ServerName(_) => "TLS",
            RequestRecord::Kafka(record) => {
                let api = api_key_name(record.api_key).unwrap_or(OTHER);
                *self.kafka_requests.entry(api).or_default() += 1;
                "Kafka"
            }
        }
    }

    fn response(
        &mut self,
        status: ResponseStatus,
        latency_ns: u64,
        request: Option<&RequestLine>,
    ) -> &'static str {
        match status {
            ResponseStatus::Http { status: code, .. } => {
                // Three digits (RFC 9110 §15); others are one.
                let code = if (100..600).contains(&code) { code } else { 0 };
                *self.http_responses.entry(code).or_default() += 1;
                let method = request.map_or(UNKNOWN, method);
                self.http_durations.entry(method).or_default().count(latency_ns);
                "HTTP"
            }
            ResponseStatus::Grpc(_) => {
                // The method of all calls (gRPC over HTTP/2, Requests).
                self.http_durations.entry("POST").or_default().count(latency_ns);
                "HTTP"
            }
            ResponseStatus::Dns(result) => {
                let code = RCODES.get(usize::from(result.rcode)).unwrap_or(&OTHER);
                *self.dns_responses.entry([dns_type(result.kind), code]).or_default() += 1;
                "DNS"
            }
            ResponseStatus::Kafka(result) => {
                let api = api_key_name(result.api_key).unwrap_or(OTHER);
                self.kafka_durations.entry(api).or_default().count(latency_ns);
                "Kafka"
            }
        }
    }
}

fn method(line: &RequestLine) -> &'static str {
    METHODS.iter().find(|known| known.as_bytes() == line.method.bytes()).unwrap_or(&OTHER)
}

/// A verdict in Hubble's words.
fn verdict(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Forwarded => "FORWARDED",
        Outcome::Dropped => "DROPPED",
        Outcome::Redirected => "REDIRECTED",
    }
}

/// The same, as the label `action` has it.
fn action(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Forwarded => "forwarded",
        Outcome::Dropped => "dropped",
        Outcome::Redirected => "redirected",
    }
}

fn direction_name(direction: TrafficDirection) -> &'static str {
    match direction {
        TrafficDirection::Ingress => "ingress",
        TrafficDirection::Egress => "egress",
    }
}

/// What was matched (cilium `pkg/monitor/api/types.go`).
fn match_name(matched: MatchType) -> &'static str {
    match matched {
        MatchType::L3Only => "l3-only",
        MatchType::L3L4 => "l3-l4",
        MatchType::L4Only => "l4-only",
        MatchType::All => "all",
    }
}

/// Family and type of an ICMP message (RFC 792, RFC 4443 §2.1).
fn icmp(protocol: u8, icmp_type: u8) -> Option<[&'static str; 2]> {
    let labels = match (protocol, icmp_type) {
        (proto::ICMP, 0) => ["IPv4", "EchoReply"],
        (proto::ICMP, 3) => ["IPv4", "DestinationUnreachable"],
        (proto::ICMP, 8) => ["IPv4", "EchoRequest"],
        (proto::ICMP, 11) => ["IPv4", "TimeExceeded"],
        (proto::ICMP, _) => ["IPv4", OTHER],
        (proto::ICMPV6, 1) => ["IPv6", "DestinationUnreachable"],
        (proto::ICMPV6, 2) => ["IPv6", "PacketTooBig"],
        (proto::ICMPV6, 3) => ["IPv6", "TimeExceeded"],
        (proto::ICMPV6, 128) => ["IPv6", "EchoRequest"],
        (proto::ICMPV6, 129) => ["IPv6", "EchoReply"],
        (proto::ICMPV6, _) => ["IPv6", OTHER],
        _ => return None,
    };
    Some(labels)
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
    use podgate_policy::{Store, compile};
    use podgate_tables::address::Address;
    use podgate_tables::drop_reason::DropReason;
    use podgate_tables::event::{DnsQuestion, HttpVersion, KafkaResult, Text};
    use podgate_tables::ids::{Epoch, LinkId};
    use podgate_tables::policy::{LocalEnds, Subject};
    use podgate_tables::time::Nanos;
    use podgate_tables::tuple::Tuple;
    use serde_json::json;

    use super::*;

    const CLIENT: [u8; 4] = [10, 0, 0, 1];
    const SERVER: [u8; 4] = [10, 0, 0, 2];

    fn logged(tuple: Tuple, kind: EventKind) -> Logged {
        let (time, epoch, link) = (Nanos(1), Epoch(1), LinkId(1));
        let event = Event { time, epoch, link, tuple, frontend: None, kind };
        Logged { event, request: None, names: None }
    }

    fn tuple(dst_port: u16, protocol: u8) -> Tuple {
        let [src, dst] = [CLIENT, SERVER].map(Address::v4);
        Tuple { src, dst, protocol, src_port: 40_000, dst_port }
    }

    fn event(kind: EventKind) -> Logged {
        logged(tuple(80, proto::TCP), kind)
    }

    fn request(allowed: bool, request: RequestRecord) -> Logged {
        event(EventKind::Request { allowed, rule: None, reason: None, request })
    }

    fn http(method: &str) -> RequestRecord {
        let method = Text::new(method.as_bytes());
        RequestRecord::Http(RequestLine { method, ..RequestLine::default() })
    }

    /// A server that lets a client in on port 80 if its requests are GET, and on any port by ICMP.
    fn compiled() -> Compiled {
        let pod = |name: &str, ip: [u8; 4]| {
            json!({"apiVersion": "v1", "kind": "Pod",
                   "metadata": {"namespace": "shop", "name": name, "labels": {"app": name}},
                   "status": {"podIPs": [{"ip": std::net::Ipv4Addr::from(ip).to_string()}]}})
        };
        let rules = json!({"http": [{"method": "GET"}]});
        let ports = json!([{"ports": [{"port": "80", "protocol": "TCP"}], "rules": rules}]);
        let policy = json!({
            "apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy",
            "metadata": {"namespace": "shop", "name": "server"},
            "spec": {"endpointSelector": {"matchLabels": {"app": "server"}},
                     "ingress": [{"fromEndpoints": [{"matchLabels": {"app": "client"}}],
                                  "toPorts": ports},
                                 {"icmps": [{"fields": [{"type": 8, "family": "IPv4"}]}]}]},
        });
        let mut store = Store::new();
        for object in [pod("client", CLIENT), pod("server", SERVER), policy] {
            store.apply(&object, None).unwrap();
        }
        compile(&store)
    }

    /// The verdict on the first packet of a flow.
    fn verdict_on(tuple: Tuple, icmp_type: u8, tables: &Compiled) -> Logged {
        let decision = tables.tables.decide(&Subject { tuple, icmp_type }, LocalEnds::BOTH);
        let (verdict, egress, ingress) = (decision.verdict, decision.egress, decision.ingress);
        let (tcp_flags, reevaluated) = (0, false);
        logged(
            tuple,
            EventKind::Verdict { verdict, egress, ingress, tcp_flags, icmp_type, reevaluated },
        )
    }

    #[test]
    fn verdicts_have_a_direction_what_was_matched_and_an_action() {
        let tables = compiled();
        let mut counts = FlowCounts::default();
        for (port, protocol, icmp_type) in
            [(80, proto::TCP, 0), (81, proto::TCP, 0), (0, proto::ICMP, 8), (0, proto::ICMP, 13)]
        {
            let event = verdict_on(tuple(port, protocol), icmp_type, &tables);
            counts.count(&event, Some(&tables));
        }
        counts.count(&request(true, http("GET")), Some(&tables));
        counts.count(&request(false, http("PUT")), Some(&tables));
        let dns = RequestRecord::Dns(DnsQuestion::default());
        counts.count(&request(false, dns), Some(&tables));
        counts.count(&request(true, RequestRecord::ServerName(Text::default())), Some(&tables));
        let expected = [
            (["ingress", "l3-l4", "redirected"], 1),
            (["ingress", "l4-only", "forwarded"], 1),
            (["ingress", "l7/dns", "dropped"], 1),
            (["ingress", "l7/http", "dropped"], 1),
            (["ingress", "l7/http", "forwarded"], 1),
            (["ingress", "none", "dropped"], 2),
        ];
        assert_eq!(counts.policy_verdicts, BTreeMap::from(expected));
        let icmp = [(["IPv4", "EchoRequest"], 1), (["IPv4", "other"], 1)];
        assert_eq!(counts.icmp, BTreeMap::from(icmp));
    }

    #[test]
    fn what_policy_drops_is_a_drop_with_hubbles_reason() {
        let tables = compiled();
        let mut counts = FlowCounts::default();
        let denied = verdict_on(tuple(81, proto::TCP), 0, &tables);
        let dropped = event(EventKind::Drop { reason: DropReason::Malformed });
        for event in [&denied, &dropped, &dropped, &request(false, http("PUT"))] {
            counts.count(event, Some(&tables));
        }
        let expected = [((133, "HTTP"), 1), ((133, "TCP"), 1), ((134, "TCP"), 2)];
        assert_eq!(counts.drops, BTreeMap::from(expected));
        assert_eq!(counts.flows[&["PolicyVerdict", "", "DROPPED", "TCP"]], 1);
    }

    #[test]
    fn a_duration_has_the_method_or_the_api_of_its_request() {
        let mut counts = FlowCounts::default();
        let response = |status| event(EventKind::Response { status, latency_ns: 300_000 });
        let ok = ResponseStatus::Http { version: HttpVersion::Http11, status: 200 };
        counts.count(&response(ok), None);
        let RequestRecord::Http(line) = http("PUT") else { unreachable!() };
        counts.count(&Logged { request: Some(line), ..response(ok) }, None);
        counts.count(&response(ResponseStatus::Grpc(0)), None);
        let result = |api_key| ResponseStatus::Kafka(KafkaResult { api_key, error_code: 0 });
        for api_key in [1, 1, i16::MAX] {
            counts.count(&response(result(api_key)), None);
        }
        let seen = |durations: &BTreeMap<&'static str, Durations>| {
            let seen = durations.iter().map(|(label, durations)| {
                assert_eq!(durations.sum_ns, 300_000 * durations.buckets[2]);
                (*label, durations.buckets[2])
            });
            seen.collect::<Vec<_>>()
        };
        assert_eq!(seen(&counts.http_durations), [("POST", 1), ("PUT", 1), ("unknown", 1)]);
        assert_eq!(seen(&counts.kafka_durations), [("fetch", 2), ("other", 1)]);
    }

    #[test]
    fn labels_from_the_wire_are_bounded() {
        let mut counts = FlowCounts::default();
        for method in ["GET", "get", "EVIL-1", "EVIL-2", ""] {
            counts.count(&request(true, http(method)), None);
        }
        assert_eq!(counts.http_requests, BTreeMap::from([("GET", 1), ("other", 4)]));
        for code in [0, 99, 200, 600, u16::MAX] {
            let status = ResponseStatus::Http { version: HttpVersion::Http11, status: code };
            counts.count(&event(EventKind::Response { status, latency_ns: 1 }), None);
        }
        assert_eq!(counts.http_responses, BTreeMap::from([(0, 4), (200, 1)]));
        assert_eq!(counts.flows[&["L7", "HTTP", "FORWARDED", "HTTP"]], 10);
    }
}
