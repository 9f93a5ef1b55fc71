//! From a worker's event to a record: names in place of numbers.

use std::sync::Arc;

use jiff::Timestamp;
use podgate_tables::address::{Address, Mac};
use podgate_tables::drop_reason::{AnyDropReason, DropReason};
use podgate_tables::event::{
    Ethernet, Event, EventKind, HttpVersion, RequestLine, RequestRecord, ResponseStatus,
};
use podgate_tables::ids::RuleId;
use podgate_tables::policy::{self, Cause, Exemption, LocalEnds, RuleTable, Subject, Verdict};
use podgate_tables::proto;
use podgate_tables::service::L4Addr;
use podgate_tables::tuple::Tuple;

use super::cause::rule_name;
use super::names::{PolicyName, RuleName};
use super::record::{
    DecidedBy, Detail, DirectionVerdict, DroppedFrame, FlowEndpoint, FlowRecord, FlowService,
    HttpTarget, MatchType, Outcome, Restriction,
};
use crate::catalog::IdentityInfo;
use crate::compile::Compiled;
use crate::rules::TrafficDirection;

impl FlowRecord {
    /// The record of `event`, which happened at `time`, with the names of `compiled`: the tables
    /// that were published as the event's epoch.
    #[must_use]
    pub fn new(event: &Event, time: Timestamp, compiled: &Compiled) -> Self {
        let names = NameResolver { compiled, tuple: &event.tuple };
        let (verdict, drop_reason) = outcome(&event.kind);
        let end = |address: Address, port| {
            let peer = names.peer(address, port);
            let is_unknown = match event.kind {
                EventKind::Unparsed { has_addresses, .. }
                | EventKind::ProgramDrop { has_addresses, .. } => {
                    !has_addresses && peer.address.is_unspecified()
                }
                // Another pod had the address.
                EventKind::End { decided, .. } => compiled.catalog.is_newer(peer.address, decided),
                _ => false,
            };
            if is_unknown { unknown(&peer) } else { peer }
        };
        Self {
            time,
            verdict,
            drop_reason: drop_reason.map(|reason| reason.label().to_owned()),
            denied_by: match event.kind {
                EventKind::Request { allowed: false, .. } => names.restrictions(),
                _ => Vec::new(),
            },
            source: end(event.tuple.src, event.tuple.src_port),
            destination: end(event.tuple.dst, event.tuple.dst_port),
            service: service(event, compiled),
            protocol: match event.kind {
                EventKind::Unparsed { has_addresses: false, .. }
                | EventKind::ProgramDrop { has_addresses: false, .. } => "Ethernet".to_owned(),
                _ => proto::name(event.tuple.protocol).into_owned(),
            },
            is_reply: match event.kind {
                EventKind::Verdict { .. } | EventKind::Request { .. } => Some(false),
                EventKind::Response { .. } => Some(true),
                EventKind::Drop { .. }
                | EventKind::Unparsed { .. }
                | EventKind::ProgramDrop { .. }
                | EventKind::End { .. } => None,
            },
            link: event.link.0,
            epoch: event.epoch.0,
            detail: names.detail(&event.kind),
        }
    }
}

impl FlowRecord {
    /// Adds the DNS names of the source and of the destination.
    pub fn set_names(&mut self, [source, destination]: &[Vec<Arc<str>>; 2]) {
        for (end, names) in [(&mut self.source, source), (&mut self.destination, destination)] {
            end.names = names.iter().map(|name| name.as_ref().to_owned()).collect();
        }
    }

    /// Adds to the record of an HTTP response what was requested.
    pub fn set_request(&mut self, line: &RequestLine) {
        if let Detail::HttpResponse { request, .. } = &mut self.detail {
            let [method, path, host] =
                [line.method.bytes(), line.path.bytes(), line.host.bytes()].map(text);
            *request = Some(HttpTarget { method, path, host });
        }
    }
}

/// The service that an event's flow or packet was sent to.
fn service(event: &Event, compiled: &Compiled) -> Option<FlowService> {
    let to = L4Addr { address: event.tuple.dst, port: event.tuple.dst_port };
    let was_rejected =
        matches!(event.kind, EventKind::Drop { reason: DropReason::ServiceNoBackend, .. });
    let name = match event.frontend {
        Some(frontend) => compiled.service_at(frontend, event.tuple.protocol),
        None if was_rejected => compiled.service_at(to, event.tuple.protocol),
        // The destination of a reply may have a node port's number, too.
        None => compiled.catalog.service_at(to.address.ip()).cloned(),
    };
    let L4Addr { address, port } = event.frontend.unwrap_or(to);
    (event.frontend.is_some() || name.is_some()).then(|| FlowService {
        address: address.ip(),
        port,
        namespace: name.as_ref().map(|name| name.namespace.clone()).unwrap_or_default(),
        name: name.map(|name| name.name).unwrap_or_default(),
    })
}

/// An end of which only the address is known.
fn unknown(peer: &FlowEndpoint) -> FlowEndpoint {
    FlowEndpoint {
        address: peer.address,
        port: peer.port,
        identity: 0,
        labels: Arc::default(),
        namespace: None,
        pod: None,
        workload: None,
        service: None,
        names: Vec::new(),
    }
}

/// An Ethernet address as text.
fn mac([a, b, c, d, e, f]: Mac) -> String {
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

fn frame(ethernet: Ethernet, has_addresses: bool) -> DroppedFrame {
    let [source, destination] = [ethernet.source, ethernet.destination].map(mac);
    DroppedFrame { source, destination, has_addresses }
}

/// Text of a pod: not escaped.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The outcome of an event's packet or request, and why if it was dropped.
#[must_use]
pub fn outcome(kind: &EventKind) -> (Outcome, Option<AnyDropReason>) {
    let dropped = |reason| (Outcome::Dropped, Some(AnyDropReason::Worker(reason)));
    match *kind {
        EventKind::Verdict { verdict: Verdict::Allow, .. } => (Outcome::Forwarded, None),
        EventKind::Verdict { verdict: Verdict::Inspect, .. } => (Outcome::Redirected, None),
        EventKind::Verdict { verdict: Verdict::Deny, egress, ingress, reevaluated, .. } => {
            let is_rule = |cause: &Cause| matches!(cause, Cause::Denied(_) | Cause::Conflicting(_));
            let by_rule = [egress, ingress].iter().any(is_rule);
            dropped(match (reevaluated, by_rule) {
                (true, _) => DropReason::PolicyRevoked,
                (false, true) => DropReason::PolicyDenyRule,
                (false, false) => DropReason::PolicyDenied,
            })
        }
        EventKind::Drop { reason } | EventKind::Unparsed { reason, .. } => dropped(reason),
        EventKind::ProgramDrop { reason, .. } => {
            (Outcome::Dropped, Some(AnyDropReason::Program(reason)))
        }
        EventKind::Request { allowed: true, .. } => (Outcome::Forwarded, None),
        EventKind::Request { reason, .. } => dropped(reason.unwrap_or(DropReason::L7Denied)),
        EventKind::Response { .. } | EventKind::End { .. } => (Outcome::Forwarded, None),
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

/// Name of a type of DNS records (IANA "Resource Record (RR) TYPEs"), or its number as RFC 3597 §5
/// writes it.
fn record_type(kind: u16) -> String {
    let name = match kind {
        1 => "A",
        2 => "NS",
        5 => "CNAME",
        6 => "SOA",
        12 => "PTR",
        15 => "MX",
        16 => "TXT",
        28 => "AAAA",
        33 => "SRV",
        35 => "NAPTR",
        39 => "DNAME",
        43 => "DS",
        46 => "RRSIG",
        48 => "DNSKEY",
        52 => "TLSA",
        64 => "SVCB",
        65 => "HTTPS",
        251 => "IXFR",
        252 => "AXFR",
        255 => "ANY",
        257 => "CAA",
        other => return format!("TYPE{other}"),
    };
    name.to_owned()
}

/// Gives names to the numbers of one event, or of one decision.
pub(crate) struct NameResolver<'a> {
    pub(crate) compiled: &'a Compiled,
    pub(crate) tuple: &'a Tuple,
}

impl NameResolver<'_> {
    pub(crate) fn peer(&self, address: Address, port: u16) -> FlowEndpoint {
        let index = self.compiled.tables.resolve(address).identity_index;
        let identity = self.compiled.catalog.identity(index);
        let pod = self.compiled.catalog.pod_at(address.ip());
        let has_ports = matches!(self.tuple.protocol, proto::TCP | proto::UDP | proto::SCTP);
        FlowEndpoint {
            address: address.ip(),
            port: has_ports.then_some(port),
            identity: identity.map_or(0, |identity| identity.number),
            labels: identity.map(IdentityInfo::labels).cloned().unwrap_or_default(),
            namespace: pod.map(|pod| pod.namespace.to_string()),
            pod: pod.map(|pod| pod.name.to_string()),
            workload: self.compiled.catalog.workload_at(address.ip()).cloned(),
            service: self.compiled.catalog.service_at(address.ip()).cloned(),
            names: Vec::new(),
        }
    }

    /// The rules that restrict the requests of the flow, one of each policy and end.
    fn restrictions(&self) -> Vec<Restriction> {
        let subject = Subject { tuple: *self.tuple, icmp_type: 0 };
        let l7 = self.compiled.tables.decide(&subject, LocalEnds::BOTH).l7;
        let mut found: Vec<Restriction> = Vec::new();
        let ends = [(TrafficDirection::Egress, l7.egress), (TrafficDirection::Ingress, l7.ingress)];
        for (direction, entries) in ends {
            for entry in entries.iter().filter(|entry| entry.rules.is_some()) {
                let rule = self.rule(entry.rule);
                let is_known = |known: &Restriction| {
                    known.direction == direction && known.rule.policy == rule.policy
                };
                if !found.iter().any(is_known) {
                    found.push(Restriction { direction, rule });
                }
            }
        }
        found
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
                    egress: self.verdict_of(egress, &source.egress, port),
                    ingress: self.verdict_of(ingress, &destination.ingress, port),
                    tcp_flags: flags.map(|(_, name)| (*name).to_owned()).collect(),
                    icmp_type: proto::is_icmp(self.tuple.protocol).then_some(icmp_type),
                    reevaluated,
                }
            }
            EventKind::Drop { .. } => Detail::Drop { frame: None },
            EventKind::Unparsed { ethernet, has_addresses, .. } => {
                Detail::Drop { frame: Some(frame(ethernet, has_addresses)) }
            }
            EventKind::ProgramDrop { ethernet, has_addresses, .. } => {
                Detail::Drop { frame: ethernet.map(|ethernet| frame(ethernet, has_addresses)) }
            }
            EventKind::Request { rule, request, .. } => self.request(rule, &request),
            EventKind::Response {
                status: ResponseStatus::Http { version, status },
                latency_ns,
            } => {
                let (version, grpc_status) = (version.into(), None);
                Detail::HttpResponse { version, status, grpc_status, latency_ns, request: None }
            }
            EventKind::Response { status: ResponseStatus::Grpc(status), latency_ns } => {
                Detail::HttpResponse {
                    version: HttpVersion::Http2.into(),
                    status: 200,
                    grpc_status: Some(status),
                    latency_ns,
                    request: None,
                }
            }
            EventKind::Response { status: ResponseStatus::Dns(result), latency_ns } => {
                Detail::DnsResponse {
                    rcode: result.rcode,
                    qtype: (result.kind != 0).then(|| record_type(result.kind)),
                    address: (result.addresses > 0).then(|| result.first.ip()),
                    addresses: result.addresses,
                    ttl: result.ttl,
                    latency_ns,
                }
            }
            EventKind::Response { status: ResponseStatus::Kafka(result), latency_ns } => {
                Detail::KafkaResponse { error_code: result.error_code, latency_ns }
            }
            EventKind::End { original, reply, .. } => Detail::End {
                packets: [original.packets, reply.packets],
                bytes: [original.bytes, reply.bytes],
            },
        }
    }

    fn request(&self, rule: Option<RuleId>, request: &RequestRecord) -> Detail {
        let rule = rule.map(|rule| self.rule(rule));
        match request {
            RequestRecord::Http(request) => Detail::HttpRequest {
                version: request.version.into(),
                method: text(request.method.bytes()),
                path: text(request.path.bytes()),
                host: text(request.host.bytes()),
                rule,
            },
            RequestRecord::Dns(question) => Detail::DnsRequest {
                query: text(question.name.bytes()) + ".",
                qtype: record_type(question.kind),
                rule,
            },
            RequestRecord::Kafka(request) => Detail::KafkaRequest {
                api_key: request.api_key,
                api_version: request.api_version,
                correlation_id: request.correlation_id,
                client_id: text(request.client_id.bytes()),
                topic: text(request.topic.bytes()),
                rule,
            },
            RequestRecord::ServerName(name) => {
                Detail::TlsRequest { server_name: text(name.bytes()), rule }
            }
        }
    }

    pub(crate) fn verdict_of(
        &self,
        cause: Cause,
        table: &RuleTable,
        port: u16,
    ) -> DirectionVerdict {
        let by = match cause {
            Cause::Allowed(rule) | Cause::Denied(rule) => DecidedBy::Rule {
                rule: self.rule(rule),
                matched: match_type(rule, table, self.tuple.protocol, port),
            },
            Cause::Conflicting(rule) => DecidedBy::Conflict { rule: self.rule(rule) },
            Cause::DefaultDeny(set) => DecidedBy::DefaultDeny {
                policies: self
                    .compiled
                    .catalog
                    .deny_set(set)
                    .iter()
                    .map(PolicyName::from)
                    .collect(),
            },
            Cause::Unenforced => DecidedBy::Unenforced,
            Cause::Exempt(Exemption::FromNode | Exemption::ToNode) => DecidedBy::Node,
            Cause::Exempt(Exemption::ToSelf) => DecidedBy::ToSelf,
            Cause::Exempt(Exemption::NotLocal) => DecidedBy::NotLocal,
        };
        DirectionVerdict { allowed: cause.allows(), by }
    }

    pub(crate) fn rule(&self, rule: RuleId) -> RuleName {
        rule_name(rule, self.compiled)
    }
}

/// What of the flow `rule` names, read off its entry in the table that it was found in.
pub(super) fn match_type(rule: RuleId, table: &RuleTable, protocol: u8, port: u16) -> MatchType {
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
