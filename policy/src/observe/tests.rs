//! Records of each kind of event, as text and as JSON.

use podgate_tables::address::Address;
use podgate_tables::drop_reason::{DropReason, FrameDropReason};
use podgate_tables::event::{
    Ethernet, Event, EventKind, HttpVersion, KafkaRecord, KafkaResult, RequestLine, RequestRecord,
    ResponseStatus, Text, Traffic,
};
use podgate_tables::ids::{Epoch, LinkId};
use podgate_tables::policy::{LocalEnds, Subject};
use podgate_tables::proto;
use podgate_tables::time::Nanos;
use podgate_tables::tuple::Tuple;
use serde_json::json;

use super::*;
use crate::rules::TrafficDirection;
use crate::{Compiled, Compiler, Store, compile};

const CLIENT: [u8; 4] = [10, 0, 0, 1];
const SERVER: [u8; 4] = [10, 0, 0, 2];
const OTHER: [u8; 4] = [10, 0, 0, 3];

fn pod(name: &str, ip: [u8; 4]) -> serde_json::Value {
    json!({"apiVersion": "v1", "kind": "Pod",
           "metadata": {"namespace": "shop", "name": name, "labels": {"app": name}},
           "status": {"podIPs": [{"ip": std::net::Ipv4Addr::from(ip).to_string()}]}})
}

/// A server that lets one client in on port 80, denies another, and a client that may open
/// connections to port 80 of anybody.
fn compiled() -> Compiled {
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
    let event = {
        let (time, epoch, link) = (Nanos(0), Epoch(3), LinkId(1));
        Event { time, epoch, link, tuple, frontend: None, kind }
    };
    let time = "2026-01-02T03:04:05.678Z".parse().unwrap();
    FlowRecord::new(&event, time, &compiled())
}

/// The record of the first packet of a flow, as the tables decide it.
fn decided(tuple: Tuple, tcp_flags: u8, icmp_type: u8) -> FlowRecord {
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
    let line = RequestLine {
        version: HttpVersion::Http11,
        method: Text::new(b"GET"),
        path: Text::new(path),
        host: Text::new(b"server:80"),
    };
    let request = RequestRecord::Http(line);
    EventKind::Request { allowed, rule: None, reason: None, request }
}

/// What a record says, without its time and identities.
fn text(record: &FlowRecord) -> String {
    let names = |policies: &[PolicyName]| {
        policies.iter().map(PolicyName::to_string).collect::<Vec<_>>().join(", ")
    };
    let direction = |(side, verdict): (TrafficDirection, &DirectionVerdict)| {
        let word = if verdict.allowed { "allowed" } else { "denied" };
        match &verdict.by {
            DecidedBy::Rule { rule, matched } => {
                format!("{side:?} {word} by {} {matched:?}, ", rule.policy)
            }
            DecidedBy::DefaultDeny { policies } => {
                format!("{side:?} {word} by default of {}, ", names(policies))
            }
            other => format!("{side:?} {word} {other:?}, "),
        }
    };
    let directions: String = record.directions().into_iter().map(direction).collect();
    let reason = record.drop_reason.as_deref().unwrap_or("-");
    let reply = record.is_reply.map_or("unknown", |reply| if reply { "reply" } else { "forth" });
    let end = |end: &FlowEndpoint| end.pod.clone().unwrap_or_else(|| end.address.to_string());
    let (from, to) = (end(&record.source), end(&record.destination));
    let verdict = record.verdict;
    format!("{from} {to} {verdict:?} {reason} {reply}: {directions}{}", record.summary())
}

#[test]
fn an_allowed_flow_names_the_rules_of_both_directions() {
    insta::assert_snapshot!(text(&decided(tuple(CLIENT, SERVER, 80, proto::TCP), 0x02, 0)), @"client server Forwarded - forth: Egress allowed by client (NetworkPolicy) L4Only, Ingress allowed by server (CiliumNetworkPolicy) L3L4, TCP Flags: SYN");
}

#[test]
fn a_default_denial_names_the_policies_that_ask_for_a_rule() {
    insta::assert_snapshot!(text(&decided(tuple(SERVER, OTHER, 81, proto::UDP), 0, 0)), @"server other Forwarded - forth: Egress allowed Unenforced, UDP");
    insta::assert_snapshot!(text(&decided(tuple(CLIENT, SERVER, 81, proto::TCP), 0x02, 0)), @"client server Dropped policy_denied forth: Egress denied by default of client (NetworkPolicy), Ingress denied by default of server (CiliumNetworkPolicy), TCP Flags: SYN");
    let world = decided(tuple([192, 0, 2, 1], SERVER, 0, proto::ICMP), 0, 8);
    insta::assert_snapshot!(text(&world), @"192.0.2.1 server Dropped policy_denied forth: Ingress denied by default of server (CiliumNetworkPolicy), ICMPv4 EchoRequest");
}

#[test]
fn what_is_counted_of_a_verdict_is_what_its_record_says() {
    use podgate_tables::policy::{Cause, Exemption, Verdict};
    let compiled = compiled();
    let exempt = [Exemption::FromNode, Exemption::ToNode, Exemption::ToSelf, Exemption::NotLocal];
    let no_rule = exempt.map(Cause::Exempt).into_iter().chain([Cause::Unenforced]);
    let mut seen = 0;
    for (src, dst) in [(CLIENT, SERVER), (OTHER, SERVER), (SERVER, OTHER), (CLIENT, OTHER)] {
        for port in [80, 81] {
            let tuple = tuple(src, dst, port, proto::TCP);
            let subject = Subject { tuple, icmp_type: 0 };
            let decision = compiled.tables.decide(&subject, LocalEnds::BOTH);
            let conflict = match decision.ingress {
                Cause::Allowed(rule) => Cause::Conflicting(rule),
                other => other,
            };
            let causes: Vec<_> =
                no_rule.clone().chain([decision.egress, decision.ingress, conflict]).collect();
            for (egress, ingress) in
                causes.iter().flat_map(|egress| causes.iter().map(move |ingress| (egress, ingress)))
            {
                let (egress, ingress) = (*egress, *ingress);
                let allowed = egress.allows() && ingress.allows();
                let verdict = if allowed { Verdict::Allow } else { Verdict::Deny };
                let (tcp_flags, icmp_type, reevaluated) = (0, 0, false);
                let kind = EventKind::Verdict {
                    verdict,
                    egress,
                    ingress,
                    tcp_flags,
                    icmp_type,
                    reevaluated,
                };
                let event = {
                    let (time, epoch, link) = (Nanos(0), Epoch(3), LinkId(1));
                    Event { time, epoch, link, tuple, frontend: None, kind }
                };
                let record = record(tuple, kind);
                let of_record = record.directions().into_iter().map(|(direction, verdict)| {
                    let (allowed, matched) = (verdict.allowed, verdict.by.matched());
                    PolicyMatch { direction, allowed, matched }
                });
                let counted: Vec<_> = policy_matches(&event, &compiled).collect();
                assert_eq!(counted, of_record.collect::<Vec<_>>(), "{egress:?} {ingress:?}");
                seen += counted.len();
            }
        }
    }
    assert!(seen > 500, "{seen}");
}

#[test]
fn a_deny_rule_is_told_from_the_lack_of_an_allowing_one() {
    let denied = decided(tuple(OTHER, SERVER, 80, proto::TCP), 0x12, 0);
    assert_eq!(denied.drop_reason.as_deref(), Some("policy_deny_rule"));
    insta::assert_snapshot!(text(&denied), @"other server Dropped policy_deny_rule forth: Ingress denied by server (CiliumNetworkPolicy) L3Only, TCP Flags: SYN, ACK");
    let isolated = decided(tuple(CLIENT, SERVER, 81, proto::TCP), 0x02, 0);
    assert_eq!(isolated.drop_reason.as_deref(), Some("policy_denied"));
}

#[test]
fn requests_responses_drops_and_ends_are_told() {
    let flow = tuple(CLIENT, SERVER, 80, proto::TCP);
    let kinds = [
        request(true, b"/docs"),
        request(false, b"/secret?key=1"),
        request(false, b"http://elsewhere/x"),
        EventKind::Response {
            status: ResponseStatus::Http { version: HttpVersion::Http11, status: 403 },
            latency_ns: 7_900_000,
        },
        EventKind::Drop { reason: DropReason::SpoofedSource },
        EventKind::End {
            original: Traffic { packets: 3, bytes: 300 },
            reply: Traffic { packets: 2, bytes: 200 },
            decided: Epoch(3),
        },
        EventKind::Unparsed {
            reason: DropReason::Malformed,
            ethernet: Ethernet::default(),
            has_addresses: true,
        },
        EventKind::ProgramDrop {
            reason: FrameDropReason::ToNodeTunnel,
            ethernet: None,
            has_addresses: true,
        },
        EventKind::ProgramDrop {
            reason: FrameDropReason::NotIp,
            ethernet: Some(Ethernet::default()),
            has_addresses: false,
        },
    ];
    let lines: Vec<_> = kinds.into_iter().map(|kind| text(&record(flow, kind))).collect();
    insta::assert_snapshot!(lines.join("\n"), @r"
    client server Forwarded - forth: HTTP/1.1 GET http://server:80/docs
    client server Dropped l7_denied forth: HTTP/1.1 GET http://server:80/secret?key=1
    client server Dropped l7_denied forth: HTTP/1.1 GET http://elsewhere/x
    client server Forwarded - reply: HTTP/1.1 403 7ms
    client server Dropped spoofed_source unknown: TCP
    client server Forwarded - unknown: TCP packets 3/2 bytes 300/200
    client server Dropped invalid_packet unknown: TCP
    client server Dropped to_node_tunnel unknown: TCP
    client server Dropped not_ip unknown: Ethernet
    ");
}

/// A pod is deleted, and another one gets its address, while a flow of the first is in the table.
#[test]
fn the_end_of_a_flow_never_names_the_pod_that_got_its_address_later() {
    let (mut store, mut compiler) = (Store::new(), Compiler::new());
    let mut publish = |epoch, changes: &dyn Fn(&mut Store)| {
        changes(&mut store);
        compiler.set_epoch(Epoch(epoch));
        compiler.update(&store);
        compiler.compiled()
    };
    let key = crate::ObjectKey {
        kind: crate::Kind::Pod,
        namespace: Some("shop".to_owned()),
        name: "client".to_owned(),
    };
    let apply = |store: &mut Store, pod: serde_json::Value| store.apply(&pod, None).unwrap();
    let first = publish(1, &|store| {
        apply(store, pod("client", CLIENT));
        apply(store, pod("server", SERVER));
    });
    let between = publish(2, &|store| store.delete(&key));
    let last = publish(3, &|store| {
        apply(store, pod("other", CLIENT));
    });
    // What changes nothing about who has the address does not make a pod newer.
    let later = publish(4, &|store| {
        let mut other = pod("other", CLIENT);
        other["metadata"]["labels"]["tier"] = json!("db");
        apply(store, other);
    });
    let ends = |tables: &Compiled, epoch, decided| {
        let (time, link) = (Nanos(0), LinkId(1));
        let (original, reply) = Default::default();
        let kind = EventKind::End { original, reply, decided: Epoch(decided) };
        let tuple = tuple(CLIENT, SERVER, 80, proto::TCP);
        let event = Event { time, epoch: Epoch(epoch), link, tuple, frontend: None, kind };
        let record = FlowRecord::new(&event, "2026-01-02T03:04:05Z".parse().unwrap(), tables);
        assert_eq!(record.destination.pod.as_deref(), Some("server"));
        (record.source.pod, record.source.identity)
    };
    let (named, identity) = ends(&first, 1, 1);
    assert_eq!(named.as_deref(), Some("client"));
    assert_eq!(ends(&between, 2, 1).0, None);
    // The tables of the flow's last packets are gone: nobody is named rather than the other pod.
    for (tables, epoch) in [(&last, 3), (&later, 4)] {
        assert_eq!(ends(tables, epoch, 1), (None, 0));
        let (named, of_other) = ends(tables, epoch, 3);
        assert_eq!(named.as_deref(), Some("other"));
        assert_ne!(of_other, identity);
    }
}

#[test]
fn a_response_names_its_request() {
    let kind = EventKind::Response {
        status: ResponseStatus::Http { version: HttpVersion::Http11, status: 403 },
        latency_ns: 7_900_000,
    };
    let mut record = record(tuple(CLIENT, SERVER, 80, proto::TCP), kind);
    record.set_request(&RequestLine {
        version: HttpVersion::Http11,
        method: Text::new(b"GET"),
        path: Text::new(b"/x"),
        host: Text::new(b"server:80"),
    });
    insta::assert_snapshot!(text(&record), @"client server Forwarded - reply: HTTP/1.1 403 7ms (GET http://server:80/x)");
    let json = serde_json::to_string(&record).unwrap();
    assert_eq!(serde_json::from_str::<FlowRecord>(&json).unwrap(), record, "{json}");
}

#[test]
fn requests_and_responses_have_their_version_of_http() {
    for (version, label) in HttpVersion::ALL.into_iter().zip(["HTTP/1.0", "HTTP/1.1", "HTTP/2"]) {
        let line = RequestLine { version, method: Text::new(b"GET"), ..RequestLine::default() };
        let request = RequestRecord::Http(line);
        let response = ResponseStatus::Http { version, status: 200 };
        for kind in [
            EventKind::Request { allowed: true, rule: None, reason: None, request },
            EventKind::Response { status: response, latency_ns: 0 },
        ] {
            let record = record(tuple(CLIENT, SERVER, 80, proto::TCP), kind);
            assert!(record.summary().starts_with(&format!("{label} ")), "{}", record.summary());
            let json = serde_json::to_value(&record).unwrap();
            assert_eq!(json["version"], label);
            assert_eq!(serde_json::from_value::<FlowRecord>(json).unwrap(), record);
        }
    }
    let grpc = EventKind::Response { status: ResponseStatus::Grpc(7), latency_ns: 0 };
    let record = record(tuple(CLIENT, SERVER, 80, proto::TCP), grpc);
    assert_eq!(record.summary(), "HTTP/2 200 0ms grpc-status 7");
}

#[test]
fn a_record_reads_back_from_its_json() {
    let flow = tuple(CLIENT, SERVER, 80, proto::TCP);
    for record in [
        decided(flow, 0x02, 0),
        decided(tuple(CLIENT, SERVER, 81, proto::TCP), 0x02, 0),
        record(flow, request(false, b"/\xff")),
        record(flow, EventKind::Drop { reason: DropReason::Malformed }),
        record(
            flow,
            EventKind::End {
                original: Traffic { packets: 1, bytes: 3 },
                reply: Traffic { packets: 2, bytes: u64::MAX },
                decided: Epoch(1),
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
        serde_json::to_value(decided(tuple(OTHER, SERVER, 80, proto::TCP), 2, 0)).unwrap();
    for peer in ["source", "destination"] {
        denied[peer].as_object_mut().unwrap().retain(|key, _| key != "identity" && key != "labels");
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

#[test]
fn requests_of_kafka_and_tls_are_told_in_their_words() {
    let flow = tuple(CLIENT, SERVER, 80, proto::TCP);
    let kafka = KafkaRecord {
        api_key: 0,
        api_version: 9,
        correlation_id: 7,
        client_id: Text::new(b"me"),
        topic: Text::new(b"orders"),
    };
    let of = |allowed, request| EventKind::Request { allowed, rule: None, reason: None, request };
    let kinds = [
        of(true, RequestRecord::Kafka(kafka)),
        of(false, RequestRecord::Kafka(KafkaRecord { api_key: 99, ..kafka })),
        EventKind::Response {
            status: ResponseStatus::Kafka(KafkaResult { api_key: 1, error_code: 29 }),
            latency_ns: 7_900_000,
        },
        of(false, RequestRecord::ServerName(Text::new(b"a.example"))),
        of(false, RequestRecord::ServerName(Text::new(b""))),
    ];
    let lines: Vec<_> = kinds.into_iter().map(|kind| text(&record(flow, kind))).collect();
    insta::assert_snapshot!(lines.join("\n"), @r"
    client server Forwarded - forth: Kafka request produce correlation id 7 topic 'orders'
    client server Dropped l7_denied forth: Kafka request 99 correlation id 7 topic 'orders'
    client server Forwarded - reply: Kafka response error 29 7ms
    client server Dropped l7_denied forth: TLS to a.example
    client server Dropped l7_denied forth: TLS without server name
    ");
}

/// A web server with rules about its requests, made by a Deployment, behind a service.
fn web() -> [serde_json::Value; 3] {
    let owner = json!({"kind": "ReplicaSet", "name": "web-7d9f", "controller": true});
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": "shop", "name": "web-7d9f-x", "ownerReferences": [owner],
                     "labels": {"app": "web", "pod-template-hash": "7d9f"}},
        "status": {"podIPs": [{"ip": "10.0.0.2"}]},
    });
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "shop", "name": "web"},
        "spec": {"selector": {"app": "web"}, "clusterIPs": ["10.96.0.1", "fd00::1"]},
    });
    let http = json!({"http": [{"method": "GET", "path": "/docs"}, {"path": "/public"}]});
    let ports = json!([{"ports": [{"port": "80", "protocol": "TCP"}], "rules": http}]);
    let policy = json!({
        "apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy",
        "metadata": {"namespace": "shop", "name": "web"},
        "spec": {"endpointSelector": {"matchLabels": {"app": "web"}},
                 "ingress": [{"toPorts": ports}]},
    });
    [pod, service, policy]
}

#[test]
fn ends_name_their_workload_and_the_service_of_a_cluster_ip() {
    let mut store = Store::new();
    let mut compiler = Compiler::new();
    let ends = |compiled: &Compiled, address: &str| {
        let tuple = tuple(CLIENT, SERVER, 80, proto::TCP);
        let names = NameResolver { compiled, tuple: &tuple };
        let address: std::net::IpAddr = address.parse().unwrap();
        let end = names.peer(address.into(), 80);
        (end.workload.map(|it| it.kind + "/" + &it.name), end.service.map(|it| it.name))
    };
    for object in &web() {
        store.apply(object, None).unwrap();
    }
    compiler.update(&store);
    let compiled = compiler.compiled();
    assert_eq!(ends(&compiled, "10.0.0.2"), (Some("Deployment/web".into()), None));
    for ip in ["10.96.0.1", "fd00::1"] {
        assert_eq!(ends(&compiled, ip), (None, Some("web".into())));
    }
    // Another address, and none.
    let [_, mut service, _] = web();
    service["spec"]["clusterIPs"] = json!(["10.96.0.2"]);
    store.apply(&service, None).unwrap();
    assert!(compiler.update(&store));
    let compiled = compiler.compiled();
    assert_eq!(ends(&compiled, "10.96.0.1"), (None, None));
    assert_eq!(ends(&compiled, "10.96.0.2"), (None, Some("web".into())));
    service["spec"]["clusterIPs"] = json!(["None"]);
    store.apply(&service, None).unwrap();
    compiler.update(&store);
    assert_eq!(ends(&compiler.compiled(), "10.96.0.2"), (None, None));
}

#[test]
fn a_denied_request_names_the_rules_that_it_does_not_match() {
    let mut store = Store::new();
    for object in &web() {
        store.apply(object, None).unwrap();
    }
    let compiled = compile(&store);
    let of = |kind| {
        let tuple = tuple(CLIENT, SERVER, 80, proto::TCP);
        let event =
            Event { time: Nanos(0), epoch: Epoch(3), link: LinkId(1), tuple, frontend: None, kind };
        FlowRecord::new(&event, "2026-01-02T03:04:05Z".parse().unwrap(), &compiled)
    };
    let denied = serde_json::to_value(of(request(false, b"/secret"))).unwrap();
    let policy = json!({"kind": "CiliumNetworkPolicy", "namespace": "shop", "name": "web"});
    let rule = json!({"policy": policy, "path": "spec.ingress[0]"});
    assert_eq!(denied["denied_by"], json!([{"direction": "ingress", "rule": rule}]));
    let allowed = serde_json::to_value(of(request(true, b"/docs"))).unwrap();
    assert_eq!(allowed.get("denied_by"), None);
}
