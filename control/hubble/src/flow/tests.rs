//! Records of each kind, as the flows that clients read.

use podgate_api::FlowItem;
use podgate_policy::observe::{
    DecidedBy, Detail, DirectionVerdict, DroppedFrame, FlowEndpoint, FlowRecord, FlowService,
    HttpTarget, MatchType, Outcome, PolicyName, RuleName,
};
use podgate_tables::drop_reason::{DropReason as Reason, FrameDropReason};
use podgate_tables::event::HttpVersion;

use super::*;
use crate::filter::Filters;
use crate::print::{Options, Printer};
use crate::proto::flow::FlowFilter;
use crate::proto::observer::GetFlowsResponse;
use crate::proto::observer::get_flows_response::ResponseTypes;

fn end(name: &str, last: u8, port: u16) -> FlowEndpoint {
    FlowEndpoint {
        address: [10, 0, 0, last].into(),
        port: Some(port),
        identity: 1000 + u32::from(last),
        labels: [format!("k8s:app={name}"), "k8s:io.kubernetes.pod.namespace=shop".into()].into(),
        namespace: Some("shop".into()),
        pod: Some(name.into()),
        workload: None,
        service: None,
        names: Vec::new(),
    }
}

/// A flow as `hubble observe` prints it.
fn printed(flow: Flow) -> String {
    let response = GetFlowsResponse {
        response_types: Some(ResponseTypes::Flow(flow.into())),
        ..GetFlowsResponse::default()
    };
    Printer::new(Options::default()).response(&response).unwrap().out
}

fn policy_name(name: &str) -> PolicyName {
    let kind = "CiliumNetworkPolicy".into();
    PolicyName { kind, namespace: Some("shop".into()), name: name.into() }
}

fn rule(name: &str, path: &str) -> RuleName {
    RuleName { policy: policy_name(name), path: path.into() }
}

fn record(detail: Detail, verdict: Outcome, reason: Option<Reason>) -> FlowRecord {
    FlowRecord {
        time: "2026-01-02T03:04:05.678Z".parse().unwrap(),
        verdict,
        drop_reason: reason.map(|reason| reason.label().to_owned()),
        denied_by: Vec::new(),
        source: end("cart", 1, 40000),
        destination: end("db", 2, 80),
        service: None,
        protocol: "TCP".into(),
        is_reply: match &detail {
            Detail::PolicyVerdict { .. }
            | Detail::HttpRequest { .. }
            | Detail::DnsRequest { .. } => Some(false),
            Detail::HttpResponse { .. } | Detail::DnsResponse { .. } => Some(true),
            _ => None,
        },
        link: 1,
        epoch: 7,
        detail,
    }
}

fn verdicts(egress: DirectionVerdict, ingress: DirectionVerdict) -> Detail {
    let tcp_flags = vec!["SYN".to_owned()];
    Detail::PolicyVerdict { egress, ingress, tcp_flags, icmp_type: None, reevaluated: false }
}

fn by_rule(allowed: bool, name: &str, path: &str) -> DirectionVerdict {
    let by = DecidedBy::Rule { rule: rule(name, path), matched: MatchType::L3L4 };
    DirectionVerdict { allowed, by }
}

fn default_deny(name: &str) -> DirectionVerdict {
    let by = DecidedBy::DefaultDeny { policies: vec![policy_name(name), policy_name("other")] };
    DirectionVerdict { allowed: false, by }
}

pub(crate) fn flows(record: &FlowRecord) -> Vec<Flow> {
    let item = FlowItem::Flow(Box::new(record.clone()));
    let observed = Observed { number: 5, time: record.time, item };
    Translator::new("node-1".into(), 0x1122_3344_5566_7788, 0).flows(&observed, record)
}

/// What differs between flows of one record, on a line.
fn line(flow: &Flow) -> String {
    let event = flow.event_type.unwrap();
    let names = |policies: &[Policy]| -> Vec<_> {
        policies.iter().map(|policy| policy.name.clone()).collect()
    };
    format!(
        "{}/{} {:?} {} {} match {} +e{:?} +i{:?} -e{:?} -i{:?} ({})",
        event.r#type,
        event.sub_type,
        flow.traffic_direction(),
        flow.verdict().as_str_name(),
        flow.drop_reason_desc().as_str_name(),
        flow.policy_match_type,
        names(&flow.egress_allowed_by),
        names(&flow.ingress_allowed_by),
        names(&flow.egress_denied_by),
        names(&flow.ingress_denied_by),
        flow.summary,
    )
}

fn text(record: &FlowRecord) -> String {
    flows(record).iter().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn an_allowed_connection_is_a_flow_for_each_direction() {
    let detail =
        verdicts(by_rule(true, "cart", "spec.egress[0]"), by_rule(true, "db", "spec.ingress[1]"));
    insta::assert_snapshot!(text(&record(detail, Outcome::Forwarded, None)), @r#"
    5/0 Egress FORWARDED DROP_REASON_UNKNOWN match 2 +e["cart"] +i[] -e[] -i[] (TCP Flags: SYN)
    5/0 Ingress FORWARDED DROP_REASON_UNKNOWN match 2 +e[] +i["db"] -e[] -i[] (TCP Flags: SYN)
    "#);
}

#[test]
fn a_denied_connection_is_a_drop_as_well() {
    let detail = verdicts(by_rule(true, "cart", "spec.egress[0]"), default_deny("db"));
    let denied = record(detail, Outcome::Dropped, Some(Reason::PolicyDenied));
    insta::assert_snapshot!(text(&denied), @r#"
    5/0 Egress FORWARDED DROP_REASON_UNKNOWN match 2 +e["cart"] +i[] -e[] -i[] (TCP Flags: SYN)
    5/0 Ingress DROPPED POLICY_DENIED match 0 +e[] +i[] -e[] -i["db", "other"] (TCP Flags: SYN)
    1/133 Ingress DROPPED POLICY_DENIED match 0 +e[] +i[] -e[] -i["db", "other"] (TCP Flags: SYN)
    "#);
    let detail = verdicts(by_rule(false, "cart", "spec.egressDeny[0]"), default_deny("db"));
    let denied = record(detail, Outcome::Dropped, Some(Reason::PolicyDenyRule));
    insta::assert_snapshot!(text(&denied), @r#"
    5/0 Egress DROPPED POLICY_DENY match 2 +e[] +i[] -e["cart"] -i[] (TCP Flags: SYN)
    5/0 Ingress DROPPED POLICY_DENIED match 0 +e[] +i[] -e[] -i["db", "other"] (TCP Flags: SYN)
    1/181 Egress DROPPED POLICY_DENY match 0 +e[] +i[] -e["cart"] -i["db", "other"] (TCP Flags: SYN)
    "#);
    let ids: Vec<_> = flows(&denied).into_iter().map(|flow| flow.uuid).collect();
    assert_eq!(ids[0], "11223344-5566-8788-8000-000000000014");
    assert_eq!(ids[2], "11223344-5566-8788-8000-000000000016");
}

#[test]
fn drops_requests_and_ends_have_one_flow() {
    let drop = record(Detail::Drop { frame: None }, Outcome::Dropped, Some(Reason::SpoofedSource));
    let from_node = FlowRecord { link: 0, ..drop.clone() };
    let rule = Some(rule("cart", "spec.egress[0].toPorts[0].rules.http[1]"));
    let request = |rule| Detail::HttpRequest {
        version: HttpVersion::Http10.into(),
        method: "GET".into(),
        path: "/x?y".into(),
        host: "db".into(),
        rule,
    };
    let end = Detail::End { packets: [3, 2], bytes: [300, 200] };
    let all = [
        drop,
        from_node,
        record(request(rule), Outcome::Forwarded, None),
        record(request(None), Outcome::Dropped, Some(Reason::L7Denied)),
        record(end, Outcome::Forwarded, None),
    ];
    let lines: Vec<_> = all.iter().map(text).collect();
    insta::assert_snapshot!(lines.join("\n"), @r#"
    1/132 Egress DROPPED INVALID_SOURCE_IP match 0 +e[] +i[] -e[] -i[] (TCP; spoofed source)
    1/132 Ingress DROPPED INVALID_SOURCE_IP match 0 +e[] +i[] -e[] -i[] (TCP; spoofed source)
    129/0 Egress FORWARDED DROP_REASON_UNKNOWN match 0 +e["cart"] +i[] -e[] -i[] (HTTP/1.0 GET http://db/x?y)
    129/0 Ingress DROPPED POLICY_DENIED match 0 +e[] +i[] -e[] -i[] (HTTP/1.0 GET http://db/x?y)
    4/0 Ingress FORWARDED DROP_REASON_UNKNOWN match 0 +e[] +i[] -e[] -i[] (TCP packets 3/2 bytes 300/200)
    "#);
}

/// As `hubble observe` prints what it gets of Cilium for frames without an IP header.
#[test]
fn a_frame_that_could_not_be_parsed_has_what_is_known_of_it() {
    let frame = |has_addresses| {
        let [source, destination] = ["02:00:00:00:00:01", "02:00:00:00:00:02"].map(str::to_owned);
        let frame = Some(DroppedFrame { source, destination, has_addresses });
        record(Detail::Drop { frame }, Outcome::Dropped, Some(Reason::TruncatedHeader))
    };
    let protocol = "Ethernet".to_owned();
    let unknown = FlowEndpoint {
        address: [0, 0, 0, 0].into(),
        port: None,
        identity: 0,
        labels: Vec::new().into(),
        namespace: None,
        pod: None,
        ..end("", 0, 0)
    };
    let without = FlowRecord { protocol, destination: unknown, ..frame(false) };
    let flow = &flows(&without)[0];
    assert!(flow.ip.is_none() && flow.l4.is_none());
    assert_eq!(flow.source.as_ref().unwrap().pod_name, "cart", "the pod of the link");
    let lines = [&without, &frame(true)].map(|record| printed(flows(record).remove(0)));
    insta::assert_snapshot!(lines.concat(), @"
    Jan  2 03:04:05.678: 02:00:00:00:00:01 (ID:1001) <> 02:00:00:00:00:02 (unknown) CT: Truncated or invalid header DROPPED (Ethernet; truncated header)
    Jan  2 03:04:05.678: shop/cart:40000 (ID:1001) <> shop/db:80 (ID:1002) CT: Truncated or invalid header DROPPED (TCP; truncated header)
    ");
}

#[test]
fn the_source_of_a_response_is_the_server() {
    let [method, path, host] = ["PUT", "/x", "db"].map(str::to_owned);
    let request = Some(HttpTarget { method, path, host });
    let version = HttpVersion::Http2.into();
    let (status, grpc_status, latency_ns) = (403, None, 7_900_000);
    let detail = Detail::HttpResponse { version, status, grpc_status, latency_ns, request };
    let flow = &flows(&record(detail, Outcome::Forwarded, None))[0];
    assert_eq!(flow.source.as_ref().unwrap().pod_name, "db");
    assert_eq!(flow.ip.as_ref().unwrap().source, "10.0.0.2");
    assert_eq!((flow.is_reply, flow.reply), (Some(true), true));
    let l7 = flow.l7.as_ref().unwrap();
    assert_eq!((l7.r#type(), l7.latency_ns), (L7FlowType::Response, 7_900_000));
    let Some(Record::Http(http)) = &l7.record else { panic!("{l7:?}") };
    assert_eq!((http.code, http.protocol.as_str()), (403, "HTTP/2"));
    assert_eq!((http.method.as_str(), http.url.as_str()), ("PUT", "http://db/x"));
    assert_eq!(flow.summary, "HTTP/2 403 7ms (PUT http://db/x)");
    let Some(Protocol::Tcp(tcp)) = &flow.l4.as_ref().unwrap().protocol else { panic!("{flow:?}") };
    assert_eq!((tcp.source_port, tcp.destination_port), (80, 40000));
}

#[test]
fn ends_have_the_dns_names_that_were_asked_for() {
    let named = |detail| {
        let mut record = record(detail, Outcome::Forwarded, None);
        record.destination = FlowEndpoint {
            names: vec!["a.example".into(), "b.example".into()],
            pod: None,
            namespace: None,
            ..record.destination
        };
        flows(&record).remove(0)
    };
    let by = || by_rule(true, "cart", "spec.egress[0]");
    let flow = named(verdicts(by(), by()));
    assert_eq!((flow.source_names.len(), flow.destination_names.len()), (0, 2));
    let wanted = |filter: FlowFilter| Filters::new(&[filter], &[]).unwrap();
    let to = || vec!["b.*".to_owned()];
    let forth = wanted(FlowFilter { destination_fqdn: to(), ..FlowFilter::default() });
    let back = wanted(FlowFilter { source_fqdn: to(), ..FlowFilter::default() });
    assert_eq!([&forth, &back].map(|filter| filter.match_flow(&flow)), [true, false]);
    let version = HttpVersion::Http11.into();
    let (status, grpc_status, latency_ns, request) = (200, None, 1, None);
    let reply = named(Detail::HttpResponse { version, status, grpc_status, latency_ns, request });
    assert_eq!(reply.source_names, ["a.example", "b.example"]);
    assert_eq!([&forth, &back].map(|filter| filter.match_flow(&reply)), [false, true]);
    insta::assert_snapshot!(printed(flow) + &printed(reply), @"
    Jan  2 03:04:05.678: shop/cart:40000 (ID:1001) -> a.example,b.example:80 (ID:1002) policy-verdict:L3-L4 EGRESS ALLOWED (TCP Flags: SYN)
    Jan  2 03:04:05.678: shop/cart:40000 (ID:1001) <- a.example,b.example:80 (ID:1002) http-response FORWARDED (HTTP/1.1 200 0ms)
    ");
}

#[test]
fn a_denied_request_names_the_policies_that_it_does_not_match() {
    let host = "db".to_owned();
    let (version, method, path) = (HttpVersion::Http11.into(), "PUT".into(), "/x".into());
    let detail = Detail::HttpRequest { version, method, path, host, rule: None };
    let mut denied = record(detail, Outcome::Dropped, Some(Reason::L7Denied));
    let restriction = |direction, name, path| Restriction { direction, rule: rule(name, path) };
    denied.denied_by = vec![restriction(rules::TrafficDirection::Egress, "cart", "spec.egress[0]")];
    denied.destination.workload =
        Some(podgate_policy::model::Workload { kind: "StatefulSet".into(), name: "db".into() });
    denied.destination.service =
        Some(podgate_policy::ServiceName { namespace: "shop".into(), name: "db".into() });
    let flow = &flows(&denied)[0];
    assert_eq!(flow.egress_denied_by[0].name, "cart");
    assert!(flow.egress_denied_by[0].labels.contains(&"podgate:rule=spec.egress[0]".into()));
    assert_eq!(flow.traffic_direction(), TrafficDirection::Egress);
    let workload = &flow.destination.as_ref().unwrap().workloads[0];
    assert_eq!((workload.kind.as_str(), workload.name.as_str()), ("StatefulSet", "db"));
    assert_eq!(flow.destination_service.as_ref().unwrap().name, "db");
    assert_eq!(flow.source_service, None);
}

#[test]
fn dns_queries_and_responses_are_requests_too() {
    let rule = Some(rule("cart", "spec.egress[1].toPorts[0].rules.dns[0]"));
    let query = Detail::DnsRequest { query: "db.example.".into(), qtype: "A".into(), rule };
    let flow = &flows(&record(query, Outcome::Forwarded, None))[0];
    assert_eq!(
        (flow.egress_allowed_by.len(), flow.summary.as_str()),
        (1, "DNS Query db.example. A")
    );
    let Some(Record::Dns(dns)) = &flow.l7.as_ref().unwrap().record else { panic!("{flow:?}") };
    assert_eq!((dns.query.as_str(), dns.observation_source.as_str()), ("db.example.", "proxy"));
    let answer = Detail::DnsResponse {
        rcode: 0,
        qtype: Some("A".into()),
        address: Some([192, 0, 2, 1].into()),
        addresses: 1,
        ttl: 30,
        latency_ns: 5,
    };
    let flow = &flows(&record(answer, Outcome::Forwarded, None))[0];
    let l7 = flow.l7.as_ref().unwrap();
    let Some(Record::Dns(dns)) = &l7.record else { panic!("{flow:?}") };
    assert_eq!(
        (dns.ips.as_slice(), dns.ttl, dns.qtypes.as_slice()),
        (&["192.0.2.1".to_owned()][..], 30, &["A".to_owned()][..])
    );
    assert_eq!((l7.r#type(), l7.latency_ns), (L7FlowType::Response, 5));
}

/// All of a flow, as clients see it.
#[test]
fn every_field_of_a_denial() {
    let detail = verdicts(
        DirectionVerdict { allowed: true, by: DecidedBy::Unenforced },
        by_rule(false, "db", "spec.ingressDeny[0]"),
    );
    let denied = record(detail, Outcome::Dropped, Some(Reason::PolicyDenyRule));
    insta::assert_debug_snapshot!(flows(&denied)[0]);
}

#[test]
fn every_drop_reason_of_podgate_has_one_of_hubble() {
    let of_workers = Reason::ALL.iter().map(|reason| reason.label());
    for label in of_workers.chain(FrameDropReason::ALL.iter().map(|reason| reason.label())) {
        assert_ne!(drop_reason(label), DropReason::Unknown, "{label}");
    }
    assert_eq!(drop_reason("nothing"), DropReason::Unknown);
}

#[test]
fn a_flow_to_a_service_names_it_and_its_replies_come_from_it() {
    let service = FlowService {
        address: "10.96.0.1".parse().unwrap(),
        port: 80,
        namespace: "shop".into(),
        name: "db".into(),
    };
    let version = HttpVersion::Http11.into();
    let request = Detail::HttpRequest {
        version,
        method: "GET".into(),
        path: "/".into(),
        host: "db".into(),
        rule: None,
    };
    let response = Detail::HttpResponse {
        version,
        status: 200,
        grpc_status: None,
        latency_ns: 1,
        request: None,
    };
    let of = |detail| {
        let record = record(detail, Outcome::Forwarded, None);
        flows(&FlowRecord { service: Some(service.clone()), ..record }).remove(0)
    };
    let named = Some(Service { name: "db".into(), namespace: "shop".into() });
    let flow = of(request);
    assert_eq!((flow.source_service, flow.destination_service), (None, named.clone()));
    assert_eq!(flow.ip.unwrap().source_xlated, "");
    let flow = of(response);
    assert_eq!((flow.source_service, flow.destination_service), (named, None));
    assert_eq!(flow.ip.unwrap().source_xlated, "10.96.0.1");
}
