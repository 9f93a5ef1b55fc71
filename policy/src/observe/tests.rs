//! Records of each kind of event, as text and as JSON.

use podgate_tables::address::Address;
use podgate_tables::drop_reason::DropReason;
use podgate_tables::event::{
    Event, EventKind, KafkaRecord, RequestLine, RequestRecord, ResponseStatus, Text, Traffic,
};
use podgate_tables::ids::{Epoch, LinkId};
use podgate_tables::policy::{LocalEnds, Subject};
use podgate_tables::proto;
use podgate_tables::time::Nanos;
use podgate_tables::tuple::Tuple;
use serde_json::json;

use super::*;
use crate::{Compiled, Store, compile};

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
        method: Text::new(b"GET"),
        path: Text::new(path),
        host: Text::new(b"server:80"),
    };
    let request = RequestRecord::Http(line);
    EventKind::Request { allowed, rule: None, reason: None, request }
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
    insta::assert_snapshot!(text(&decided(tuple(CLIENT, SERVER, 80, proto::TCP), 0x02, 0)), @r"
    Jan  2 03:04:05.678: shop/client:40000 (ID:1001) -> shop/server:80 (ID:1002) policy-verdict:L4-Only EGRESS ALLOWED BY client (NetworkPolicy) (TCP Flags: SYN)
    Jan  2 03:04:05.678: shop/client:40000 (ID:1001) -> shop/server:80 (ID:1002) policy-verdict:L3-L4 INGRESS ALLOWED BY server (CiliumNetworkPolicy) (TCP Flags: SYN)
    ");
}

#[test]
fn a_default_denial_names_the_policies_that_ask_for_a_rule() {
    insta::assert_snapshot!(text(&decided(tuple(SERVER, OTHER, 81, proto::UDP), 0, 0)), @"Jan  2 03:04:05.678: shop/server:40000 (ID:1001) -> shop/other:81 (ID:1002) policy-verdict:all EGRESS ALLOWED (UDP)");
    insta::assert_snapshot!(text(&decided(tuple(CLIENT, SERVER, 81, proto::TCP), 0x02, 0)), @r"
    Jan  2 03:04:05.678: shop/client:40000 (ID:1001) -> shop/server:81 (ID:1002) policy-verdict:none EGRESS DENIED BY client (NetworkPolicy) (TCP Flags: SYN)
    Jan  2 03:04:05.678: shop/client:40000 (ID:1001) -> shop/server:81 (ID:1002) policy-verdict:none INGRESS DENIED BY server (CiliumNetworkPolicy) (TCP Flags: SYN)
    ");
    let world = decided(tuple([192, 0, 2, 1], SERVER, 0, proto::ICMP), 0, 8);
    insta::assert_snapshot!(text(&world), @"Jan  2 03:04:05.678: 192.0.2.1 (world-ipv4) -> shop/server (ID:1002) policy-verdict:none INGRESS DENIED BY server (CiliumNetworkPolicy) (ICMPv4 EchoRequest)");
}

#[test]
fn a_deny_rule_is_told_from_the_lack_of_an_allowing_one() {
    let denied = decided(tuple(OTHER, SERVER, 80, proto::TCP), 0x12, 0);
    assert_eq!(denied.drop_reason.as_deref(), Some("policy_deny_rule"));
    insta::assert_snapshot!(text(&denied), @"Jan  2 03:04:05.678: shop/other:40000 (ID:1001) -> shop/server:80 (ID:1002) policy-verdict:L3-Only INGRESS DENIED BY server (CiliumNetworkPolicy) (TCP Flags: SYN, ACK)");
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
        EventKind::Response { status: ResponseStatus::Http(403), latency_ns: 7_900_000 },
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
fn a_response_names_its_request() {
    let kind = EventKind::Response { status: ResponseStatus::Http(403), latency_ns: 7_900_000 };
    let mut record = record(tuple(CLIENT, SERVER, 80, proto::TCP), kind);
    record.set_request(&RequestLine {
        method: Text::new(b"GET"),
        path: Text::new(b"/x"),
        host: Text::new(b"server:80"),
    });
    insta::assert_snapshot!(text(&record), @"Jan  2 03:04:05.678: shop/client:40000 (ID:1001) <- shop/server:80 (ID:1002) http-response FORWARDED (HTTP/1.1 403 7ms (GET http://server:80/x))");
    let json = serde_json::to_string(&record).unwrap();
    assert_eq!(serde_json::from_str::<FlowRecord>(&json).unwrap(), record, "{json}");
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
        decided(flow, 0x02, 0),
        decided(tuple(CLIENT, SERVER, 81, proto::TCP), 0x02, 0),
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
        EventKind::Response { status: ResponseStatus::Kafka(29), latency_ns: 7_900_000 },
        of(false, RequestRecord::ServerName(Text::new(b"a.example"))),
        of(false, RequestRecord::ServerName(Text::new(b""))),
    ];
    let lines: Vec<_> = kinds.into_iter().map(|kind| text(&record(flow, kind))).collect();
    insta::assert_snapshot!(lines.join("\n"), @r"
    Jan  2 03:04:05.678: shop/client:40000 (ID:1001) -> shop/server:80 (ID:1002) kafka-request FORWARDED (Kafka request produce correlation id 7 topic 'orders')
    Jan  2 03:04:05.678: shop/client:40000 (ID:1001) -> shop/server:80 (ID:1002) kafka-request DROPPED (Kafka request 99 correlation id 7 topic 'orders')
    Jan  2 03:04:05.678: shop/client:40000 (ID:1001) <- shop/server:80 (ID:1002) kafka-response FORWARDED (Kafka response error 29 7ms)
    Jan  2 03:04:05.678: shop/client:40000 (ID:1001) -> shop/server:80 (ID:1002) tls-request DROPPED (TLS to a.example)
    Jan  2 03:04:05.678: shop/client:40000 (ID:1001) -> shop/server:80 (ID:1002) tls-request DROPPED (TLS without server name)
    ");
}
