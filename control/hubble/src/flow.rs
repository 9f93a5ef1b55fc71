//! From a record to the flows that clients read.
//!
//! A record describes a whole event; Hubble's flows have one direction and one kind each. So a
//! policy verdict becomes a flow for each direction that a policy decided, and one more if it
//! denies: the drop, which clients filter by its type.

use jiff::Timestamp;
use podgate_policy::observe::{
    DecidedBy, Detail, DirectionVerdict, FlowEndpoint, FlowRecord, HttpProtocol, MatchType,
    Outcome, PolicyName, Restriction, RuleName, http_url,
};
use podgate_policy::rules;
use podgate_tables::drop_reason::AnyDropReason;
use podgate_tables::l7::rules::kafka::api_key_name;

use crate::proto::flow::layer4::Protocol;
use crate::proto::flow::layer7::Record;
use crate::proto::flow::{
    CiliumEventType, Dns, DropReason, Endpoint, Ethernet, Flow, FlowType, Http, IcmPv4, IcmPv6, Ip,
    IpVersion, Kafka, L7FlowType, Layer4, Layer7, Policy, Sctp, Service, Tcp, TcpFlags,
    TraceObservationPoint, TraceReason, TrafficDirection, Udp, Verdict, Workload,
};
use crate::source::Observed;

/// Types of events (cilium `pkg/monitor/api/types.go`).
pub(crate) mod event_type {
    /// A packet was dropped.
    pub(crate) const DROP: i32 = 1;
    /// A packet was forwarded.
    pub(crate) const TRACE: i32 = 4;
    /// Policy decided on a connection.
    pub(crate) const POLICY_VERDICT: i32 = 5;
    /// A request or response.
    pub(crate) const L7: i32 = 129;
}

/// The subtype of a trace event of a packet to the node's network stack; zero is to a pod.
const TO_STACK: i32 = 3;

/// The name of the cluster, where objects name none.
pub(crate) const CLUSTER: &str = "default";

/// Hubble's source of DNS messages that were inspected: Cilium inspects them in its proxy.
const DNS_SOURCE: &str = "proxy";

/// Makes flows of records.
#[derive(Clone, Debug)]
pub struct Translator {
    /// Name of this node.
    node: String,
    /// First part of every flow's id: differs between two runs of the agent.
    run: u64,
    /// Slot of the link to the node.
    host_link: u16,
}

impl Translator {
    /// Flows of the node `node`; `run` is a number that no other run of the agent has, `host_link`
    /// the slot of the link to the node.
    #[must_use]
    pub fn new(node: String, run: u64, host_link: u16) -> Self {
        Self { node, run, host_link }
    }

    /// The node's name.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node
    }

    /// The flows of a record, in order of time.
    #[must_use]
    pub fn flows(&self, observed: &Observed, record: &FlowRecord) -> Vec<Flow> {
        let common = self.common(record);
        let mut flows = match &record.detail {
            Detail::PolicyVerdict { .. } => policy_verdicts(record, common),
            Detail::Drop { .. } => vec![self.dropped(record, common)],
            Detail::HttpRequest { rule, .. }
            | Detail::DnsRequest { rule, .. }
            | Detail::KafkaRequest { rule, .. }
            | Detail::TlsRequest { rule, .. } => {
                vec![request(record, rule.as_ref(), common)]
            }
            Detail::HttpResponse { latency_ns, .. }
            | Detail::DnsResponse { latency_ns, .. }
            | Detail::KafkaResponse { latency_ns, .. } => {
                vec![layer7(record, L7FlowType::Response, *latency_ns, common)]
            }
            Detail::End { .. } => vec![ended(record, common)],
        };
        for (index, flow) in flows.iter_mut().enumerate() {
            flow.uuid = self.uuid(observed.number, index as u64);
        }
        flows
    }

    /// A UUID of version 8 (RFC 9562 §5.8): the run, then the number of the flow.
    fn uuid(&self, number: u64, index: u64) -> String {
        let high = (self.run & !0xf000) | 0x8000;
        let low = (number << 2 | index & 3) & (u64::MAX >> 2) | 1 << 63;
        format!(
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            high >> 32,
            (high >> 16) & 0xffff,
            high & 0xffff,
            low >> 48,
            low & 0xffff_ffff_ffff
        )
    }

    /// What all flows of a record have. The source of a reply is the server.
    fn common(&self, record: &FlowRecord) -> Flow {
        let (source, destination) = match record.is_reply {
            Some(true) => (&record.destination, &record.source),
            _ => (&record.source, &record.destination),
        };
        let reason = record.drop_reason.as_deref().map_or(DropReason::Unknown, drop_reason);
        let called = record.service.as_ref().filter(|service| !service.name.is_empty());
        let called = called.map(|service| Service {
            name: service.name.clone(),
            namespace: service.namespace.clone(),
        });
        Flow {
            time: Some(timestamp(record.time)),
            node_name: self.node.clone(),
            verdict: verdict(record.verdict).into(),
            drop_reason: reason as u32,
            drop_reason_desc: reason.into(),
            ip: Some(Ip {
                source: source.address.to_string(),
                destination: destination.address.to_string(),
                ip_version: match source.address.is_ipv4() {
                    true => IpVersion::IPv4.into(),
                    false => IpVersion::IPv6.into(),
                },
                // Replies leave with the service's address.
                source_xlated: match (&record.service, record.is_reply) {
                    (Some(service), Some(true)) => service.address.to_string(),
                    _ => String::new(),
                },
                ..Ip::default()
            }),
            l4: layer4(record, source, destination),
            source: Some(endpoint(source)),
            destination: Some(endpoint(destination)),
            source_service: service(source)
                .or_else(|| called.clone().filter(|_| record.is_reply == Some(true))),
            destination_service: service(destination)
                .or_else(|| called.filter(|_| record.is_reply != Some(true))),
            source_names: source.names.clone(),
            destination_names: destination.names.clone(),
            r#type: FlowType::L3L4.into(),
            is_reply: record.is_reply,
            reply: record.is_reply == Some(true),
            summary: record.summary(),
            ..Flow::default()
        }
    }

    fn dropped(&self, record: &FlowRecord, common: Flow) -> Flow {
        // The packet came from the pod of the link, or to a pod.
        let from_node = record.link == self.host_link;
        let side = if from_node {
            rules::TrafficDirection::Ingress
        } else {
            rules::TrafficDirection::Egress
        };
        let own_words = record.drop_reason.as_deref().unwrap_or_default().replace('_', " ");
        let frame = match &record.detail {
            Detail::Drop { frame } => frame.as_ref(),
            _ => None,
        };
        Flow {
            ethernet: frame.map(|frame| Ethernet {
                source: frame.source.clone(),
                destination: frame.destination.clone(),
            }),
            ip: common.ip.filter(|_| frame.is_none_or(|frame| frame.has_addresses)),
            event_type: event(event_type::DROP, common.drop_reason_desc),
            traffic_direction: direction(side).into(),
            summary: format!("{}; {own_words}", common.summary),
            ..common
        }
    }
}

/// The flows of a policy verdict.
fn policy_verdicts(record: &FlowRecord, common: Flow) -> Vec<Flow> {
    let directions = record.directions();
    // One for each direction, and the drop.
    let mut flows = Vec::with_capacity(directions.len() + 1);
    if let Some(((last, last_by), others)) = directions.split_last() {
        for (side, by) in others {
            flows.push(policy_verdict(record, *side, by, common.clone()));
        }
        flows.push(policy_verdict(record, *last, last_by, common));
    }
    if let Some(denied) = flows.iter().find(|flow| flow.verdict == i32::from(Verdict::Dropped)) {
        let mut drop = denied.clone();
        drop.event_type = event(event_type::DROP, drop.drop_reason_desc);
        drop.policy_match_type = 0;
        // Both directions may have denied it.
        for flow in &flows {
            drop.egress_denied_by.extend(not_in(&drop.egress_denied_by, &flow.egress_denied_by));
            drop.ingress_denied_by.extend(not_in(&drop.ingress_denied_by, &flow.ingress_denied_by));
        }
        flows.push(drop);
    }
    flows
}

fn policy_verdict(
    record: &FlowRecord,
    side: rules::TrafficDirection,
    by: &DirectionVerdict,
    mut flow: Flow,
) -> Flow {
    flow.event_type = event(event_type::POLICY_VERDICT, 0);
    flow.traffic_direction = direction(side).into();
    flow.policy_match_type = match_type(&by.by);
    let policies = policies(&by.by, record.epoch);
    match (side, by.allowed) {
        (rules::TrafficDirection::Egress, true) => flow.egress_allowed_by = policies,
        (rules::TrafficDirection::Egress, false) => flow.egress_denied_by = policies,
        (rules::TrafficDirection::Ingress, true) => flow.ingress_allowed_by = policies,
        (rules::TrafficDirection::Ingress, false) => flow.ingress_denied_by = policies,
    }
    // The directions of a denied connection may have decided differently.
    let reason = match &by.by {
        _ if by.allowed => DropReason::Unknown,
        DecidedBy::Rule { .. } | DecidedBy::Conflict { .. } => DropReason::PolicyDeny,
        _ => DropReason::PolicyDenied,
    };
    flow.drop_reason = reason as u32;
    flow.drop_reason_desc = reason.into();
    if by.allowed && record.verdict == Outcome::Dropped {
        flow.verdict = Verdict::Forwarded.into();
    }
    flow
}

/// The policies of `all` that `known` lacks.
fn not_in(known: &[Policy], all: &[Policy]) -> Vec<Policy> {
    all.iter().filter(|policy| !known.contains(policy)).cloned().collect()
}

fn request(record: &FlowRecord, rule: Option<&RuleName>, common: Flow) -> Flow {
    let mut flow = layer7(record, L7FlowType::Request, 0, common);
    if let Some(rule) = rule {
        let policy = vec![policy_of_rule(rule, record.epoch)];
        // The side is that of the rule's field.
        match rule.path.contains("egress") {
            true => {
                flow.egress_allowed_by = policy;
                flow.traffic_direction = TrafficDirection::Egress.into();
            }
            false => flow.ingress_allowed_by = policy,
        }
    }
    for Restriction { direction: side, rule } in &record.denied_by {
        let policies = match side {
            rules::TrafficDirection::Egress => &mut flow.egress_denied_by,
            rules::TrafficDirection::Ingress => &mut flow.ingress_denied_by,
        };
        policies.push(policy_of_rule(rule, record.epoch));
        flow.traffic_direction = direction(*side).into();
    }
    flow
}

fn layer7(record: &FlowRecord, kind: L7FlowType, latency_ns: u64, common: Flow) -> Flow {
    // Without a rule that says more: requests are decided where the server is.
    let side = if record.destination.pod.is_some() {
        rules::TrafficDirection::Ingress
    } else {
        rules::TrafficDirection::Egress
    };
    Flow {
        r#type: FlowType::L7.into(),
        event_type: event(event_type::L7, 0),
        traffic_direction: direction(side).into(),
        l7: Some(Layer7 { r#type: kind.into(), latency_ns, record: l7_record(&record.detail) }),
        ..common
    }
}

fn l7_record(detail: &Detail) -> Option<Record> {
    let http = |version: &HttpProtocol| Http { protocol: version.to_string(), ..Http::default() };
    match detail {
        Detail::HttpRequest { version, method, path, host, .. } => {
            let (method, url) = (method.clone(), http_url(host, path));
            Some(Record::Http(Http { method, url, ..http(version) }))
        }
        Detail::HttpResponse { version, status, request, .. } => {
            let target = request.as_ref();
            let code = (*status).into();
            let method = target.map(|target| target.method.clone()).unwrap_or_default();
            let url = target.map(|target| http_url(&target.host, &target.path)).unwrap_or_default();
            Some(Record::Http(Http { code, method, url, ..http(version) }))
        }
        Detail::DnsRequest { query, qtype, .. } => Some(Record::Dns(Dns {
            query: query.clone(),
            qtypes: vec![qtype.clone()],
            observation_source: DNS_SOURCE.into(),
            ..Dns::default()
        })),
        Detail::DnsResponse { rcode, qtype, address, ttl, .. } => Some(Record::Dns(Dns {
            ips: address.iter().map(ToString::to_string).collect(),
            ttl: *ttl,
            rcode: (*rcode).into(),
            qtypes: qtype.iter().cloned().collect(),
            observation_source: DNS_SOURCE.into(),
            ..Dns::default()
        })),
        Detail::KafkaRequest { api_key, api_version, correlation_id, topic, .. } => {
            Some(Record::Kafka(Kafka {
                api_version: (*api_version).into(),
                api_key: api_key_name(*api_key).map_or_else(|| api_key.to_string(), str::to_owned),
                correlation_id: *correlation_id,
                topic: topic.clone(),
                ..Kafka::default()
            }))
        }
        Detail::KafkaResponse { error_code, .. } => {
            Some(Record::Kafka(Kafka { error_code: (*error_code).into(), ..Kafka::default() }))
        }
        // Hubble has no record of TLS: the summary has the name.
        Detail::TlsRequest { .. }
        | Detail::PolicyVerdict { .. }
        | Detail::Drop { .. }
        | Detail::End { .. } => None,
    }
}

/// The end of a connection, as a packet of it that was forwarded.
fn ended(record: &FlowRecord, common: Flow) -> Flow {
    let to_pod = record.destination.pod.is_some();
    let (point, sub_type) = match to_pod {
        true => (TraceObservationPoint::ToEndpoint, 0),
        false => (TraceObservationPoint::ToStack, TO_STACK),
    };
    let side =
        if to_pod { rules::TrafficDirection::Ingress } else { rules::TrafficDirection::Egress };
    Flow {
        event_type: event(event_type::TRACE, sub_type),
        trace_observation_point: point.into(),
        trace_reason: TraceReason::Established.into(),
        traffic_direction: direction(side).into(),
        is_reply: Some(false),
        ..common
    }
}

fn event(r#type: i32, sub_type: i32) -> Option<CiliumEventType> {
    Some(CiliumEventType { r#type, sub_type })
}

fn direction(side: rules::TrafficDirection) -> TrafficDirection {
    match side {
        rules::TrafficDirection::Ingress => TrafficDirection::Ingress,
        rules::TrafficDirection::Egress => TrafficDirection::Egress,
    }
}

fn verdict(outcome: Outcome) -> Verdict {
    match outcome {
        Outcome::Forwarded => Verdict::Forwarded,
        Outcome::Dropped => Verdict::Dropped,
        Outcome::Redirected => Verdict::Redirected,
    }
}

/// Hubble's reason of a drop by podgate's.
fn drop_reason(label: &str) -> DropReason {
    let number = AnyDropReason::with_label(label).map_or(0, AnyDropReason::hubble);
    DropReason::try_from(i32::from(number)).unwrap_or(DropReason::Unknown)
}

/// The number of the match type (cilium `pkg/monitor/api/types.go`).
fn match_type(by: &DecidedBy) -> u32 {
    match by.matched() {
        None => 0,
        Some(MatchType::L3Only) => 1,
        Some(MatchType::L3L4) => 2,
        Some(MatchType::L4Only) => 3,
        Some(MatchType::All) => 4,
    }
}

fn policies(by: &DecidedBy, epoch: u64) -> Vec<Policy> {
    match by {
        DecidedBy::Rule { rule, .. } | DecidedBy::Conflict { rule } => {
            vec![policy_of_rule(rule, epoch)]
        }
        DecidedBy::DefaultDeny { policies } => {
            policies.iter().map(|name| policy(name, epoch)).collect()
        }
        DecidedBy::Unenforced | DecidedBy::Node | DecidedBy::ToSelf | DecidedBy::NotLocal => {
            Vec::new()
        }
    }
}

fn policy_of_rule(rule: &RuleName, epoch: u64) -> Policy {
    let mut policy = policy(&rule.policy, epoch);
    policy.labels.push(["podgate:rule=", &rule.path].concat());
    policy
}

/// A policy with the labels that Cilium gives it (cilium `pkg/k8s/apis/cilium.io/const.go`).
fn policy(name: &PolicyName, epoch: u64) -> Policy {
    const PREFIX: &str = "k8s:io.cilium.k8s.policy";
    let label = |key, value: &str| [PREFIX, key, value].concat();
    let namespace = name.namespace.iter().map(|name| label(".namespace=", name));
    let labels = [label(".derived-from=", &name.kind), label(".name=", &name.name)];
    Policy {
        name: name.name.clone(),
        namespace: name.namespace.clone().unwrap_or_default(),
        labels: labels.into_iter().chain(namespace).collect(),
        revision: epoch,
        kind: name.kind.clone(),
    }
}

fn endpoint(end: &FlowEndpoint) -> Endpoint {
    Endpoint {
        identity: end.identity,
        namespace: end.namespace.clone().unwrap_or_default(),
        labels: end.labels.to_vec(),
        pod_name: end.pod.clone().unwrap_or_default(),
        cluster_name: end.pod.as_ref().map(|_| cluster(&end.labels)).unwrap_or_default(),
        workloads: end.workload.iter().map(workload).collect(),
        ..Endpoint::default()
    }
}

fn workload(workload: &podgate_policy::model::Workload) -> Workload {
    Workload { name: workload.name.clone(), kind: workload.kind.clone() }
}

/// The service whose cluster IP an end is.
fn service(end: &FlowEndpoint) -> Option<Service> {
    let service = end.service.as_ref()?;
    Some(Service { name: service.name.clone(), namespace: service.namespace.clone() })
}

fn cluster(labels: &[String]) -> String {
    const LABEL: &str = "k8s:io.cilium.k8s.policy.cluster=";
    let named = labels.iter().find_map(|label| label.strip_prefix(LABEL));
    named.unwrap_or(CLUSTER).to_owned()
}

fn layer4(
    record: &FlowRecord,
    source: &FlowEndpoint,
    destination: &FlowEndpoint,
) -> Option<Layer4> {
    let [source_port, destination_port] =
        [source, destination].map(|end| end.port.unwrap_or(0).into());
    let (flags, icmp) = match &record.detail {
        Detail::PolicyVerdict { tcp_flags, icmp_type, .. } => (flags(tcp_flags), *icmp_type),
        _ => (None, None),
    };
    let icmp = icmp.unwrap_or(0).into();
    let protocol = match record.protocol.as_str() {
        "TCP" => Protocol::Tcp(Tcp { source_port, destination_port, flags }),
        "UDP" => Protocol::Udp(Udp { source_port, destination_port }),
        "SCTP" => Protocol::Sctp(Sctp { source_port, destination_port }),
        "ICMPv4" => Protocol::IcmPv4(IcmPv4 { r#type: icmp, code: 0 }),
        "ICMPv6" => Protocol::IcmPv6(IcmPv6 { r#type: icmp, code: 0 }),
        _ => return None,
    };
    Some(Layer4 { protocol: Some(protocol) })
}

fn flags(names: &[String]) -> Option<TcpFlags> {
    let has = |name: &str| names.iter().any(|flag| flag == name);
    (!names.is_empty()).then(|| TcpFlags {
        fin: has("FIN"),
        syn: has("SYN"),
        rst: has("RST"),
        psh: has("PSH"),
        ack: has("ACK"),
        urg: has("URG"),
        ece: has("ECE"),
        cwr: has("CWR"),
        ns: false,
    })
}

/// A time as messages have it.
#[must_use]
pub fn timestamp(time: Timestamp) -> prost_types::Timestamp {
    // Both count nanoseconds from a whole second, and the agent runs after 1970.
    prost_types::Timestamp { seconds: time.as_second(), nanos: time.subsec_nanosecond() }
}

#[cfg(test)]
mod tests;
