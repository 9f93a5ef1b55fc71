//! What the `hubble` program prints for the same flows (cilium
//! `hubble/pkg/printer/printer_test.go`), in every form.

use super::*;
use crate::proto::flow::layer4::Protocol;
use crate::proto::flow::{
    CiliumEventType, Dns, Ethernet, Http, Ip, Kafka, Layer4, Layer7, LostEvent, LostEventSource,
    Sctp, Tcp, TrafficDirection, Udp,
};
use crate::proto::relay::{NodeState, NodeStatusEvent};

/// A denied connection.
pub(crate) fn sample() -> Flow {
    let end = |identity| Some(Endpoint { identity, ..Endpoint::default() });
    let tcp = Tcp { source_port: 31793, destination_port: 8080, flags: None };
    Flow {
        time: Some(prost_types::Timestamp { seconds: 1234, nanos: 567_800_000 }),
        r#type: crate::proto::flow::FlowType::L3L4.into(),
        node_name: "k8s1".into(),
        verdict: Verdict::Dropped.into(),
        ip: Some(Ip { source: "1.1.1.1".into(), destination: "2.2.2.2".into(), ..Ip::default() }),
        source: end(4),
        destination: end(12345),
        l4: Some(Layer4 { protocol: Some(Protocol::Tcp(tcp)) }),
        event_type: Some(CiliumEventType { r#type: event_type::DROP, sub_type: 133 }),
        summary: "TCP Flags: SYN".into(),
        is_reply: Some(false),
        ..Flow::default()
    }
}

/// A denied request whose topic has control characters.
fn hostile() -> Flow {
    let topic = "my-topic\x1b[30mblack\x1b[0m\x1b\r";
    let kafka = Kafka {
        api_key: "1234".into(),
        correlation_id: 1,
        topic: topic.into(),
        ..Kafka::default()
    };
    Flow {
        summary: format!("Kafka request 1234 correlation id 1 topic '{topic}'"),
        l7: Some(l7(L7FlowType::Request, Some(Record::Kafka(kafka)))),
        ..sample()
    }
}

fn l7(kind: L7FlowType, record: Option<Record>) -> Layer7 {
    Layer7 { r#type: kind.into(), latency_ns: 10, record }
}

fn response(flow: Flow) -> GetFlowsResponse {
    let (node_name, time) = (flow.node_name.clone(), flow.time);
    let response_types = Some(ResponseTypes::Flow(flow.into()));
    GetFlowsResponse { response_types, node_name, time }
}

/// What is printed for some flows.
fn printed(options: &Options, flows: impl IntoIterator<Item = Flow>) -> String {
    let mut printer = Printer::new(options.clone());
    let mut text = String::new();
    for flow in flows {
        let written = printer.response(&response(flow)).unwrap();
        assert_eq!(written.err, "");
        text += &written.out;
    }
    text + &printer.finish().out
}

fn form(form: Form) -> Options {
    Options { form, ..Options::default() }
}

fn compact(flow: Flow) -> String {
    printed(&Options::default(), [flow])
}

#[test]
fn compact_lines() {
    let head = "Jan  1 00:20:34.567: 1.1.1.1:31793 (health) -> 2.2.2.2:8080 (ID:12345) ";
    assert_eq!(compact(sample()), format!("{head}Policy denied DROPPED (TCP Flags: SYN)\n"));
    let with_node = Options { node_name: Shown::Yes, ..Options::default() };
    let head = "Jan  1 00:20:34.567 [k8s1]: ";
    assert_eq!(
        printed(&with_node, [sample()]),
        format!(
            "{head}1.1.1.1:31793 (health) -> 2.2.2.2:8080 (ID:12345) \
             Policy denied DROPPED (TCP Flags: SYN)\n"
        )
    );
    let reply = Flow { is_reply: Some(true), ..sample() };
    assert_eq!(
        printed(&with_node, [reply]),
        format!(
            "{head}2.2.2.2:8080 (ID:12345) <- 1.1.1.1:31793 (health) \
             Policy denied DROPPED (TCP Flags: SYN)\n"
        )
    );
    let unknown = Flow { is_reply: None, ..sample() };
    assert_eq!(
        printed(&with_node, [unknown]),
        format!(
            "{head}1.1.1.1:31793 (health) <> 2.2.2.2:8080 (ID:12345) \
             Policy denied DROPPED (TCP Flags: SYN)\n"
        )
    );
}

/// A denial by policy, with the way that is not known.
fn denied() -> Flow {
    Flow {
        event_type: Some(CiliumEventType { r#type: event_type::POLICY_VERDICT, sub_type: 0 }),
        is_reply: None,
        traffic_direction: TrafficDirection::Egress.into(),
        ..sample()
    }
}

fn policy(name: &str) -> Policy {
    let kind = "CiliumNetworkPolicy".to_owned();
    Policy { name: name.to_owned(), namespace: "my-namespace".into(), kind, ..Policy::default() }
}

#[test]
fn policies_are_named_if_that_is_asked_for() {
    let head = "Jan  1 00:20:34.567: 1.1.1.1:31793 (health) <> 2.2.2.2:8080 (ID:12345) ";
    let by = Flow { egress_denied_by: vec![policy("my-policy")], ..denied() };
    let plain = format!("{head}policy-verdict:none EGRESS DENIED (TCP Flags: SYN)\n");
    assert_eq!(compact(by.clone()), plain);
    let named = Options { policy_names: Shown::Yes, ..Options::default() };
    assert_eq!(printed(&named, [denied()]), plain);
    assert_eq!(
        printed(&named, [by.clone()]),
        format!(
            "{head}policy-verdict:none EGRESS DENIED BY my-policy (CiliumNetworkPolicy) \
             (TCP Flags: SYN)\n"
        )
    );
    let allowed = Flow {
        verdict: Verdict::Redirected.into(),
        policy_match_type: 2,
        ingress_allowed_by: vec![policy("a"), Policy { kind: String::new(), ..policy("b") }],
        ..by
    };
    assert_eq!(
        printed(&named, [allowed]),
        format!(
            "{head}policy-verdict:L3-L4 EGRESS ALLOWED BY a (CiliumNetworkPolicy), b \
             (TCP Flags: SYN)\n"
        )
    );
}

#[test]
fn what_happened_is_named_as_hubble_does() {
    let with = |r#type, sub_type| Flow {
        event_type: Some(CiliumEventType { r#type, sub_type }),
        ..sample()
    };
    let request = |record| Flow { l7: Some(l7(L7FlowType::Request, record)), ..Flow::default() };
    let dns = Dns { observation_source: "proxy".into(), ..Dns::default() };
    let http = Record::Http(Http::default());
    let response = Flow { l7: Some(l7(L7FlowType::Response, Some(http))), ..Flow::default() };
    for (flow, expected) in [
        (request(None), "l7-request"),
        (response, "http-response"),
        (request(Some(Record::Kafka(Kafka::default()))), "kafka-request"),
        (request(Some(Record::Dns(dns))), "dns-request proxy"),
        (with(event_type::TRACE, 2), "to-host"),
        (with(event_type::TRACE, 0), "to-endpoint"),
        (with(event_type::TRACE, 123), "123"),
        (with(event_type::TRACE, -1), "-1"),
        (with(event_type::DROP, 181), "Policy denied by denylist"),
        (with(event_type::DROP, 132), "Invalid source ip"),
        (with(event_type::DROP, 99), "99"),
        (
            Flow {
                policy_match_type: 2,
                traffic_direction: TrafficDirection::Ingress.into(),
                ..with(event_type::POLICY_VERDICT, 0)
            },
            "policy-verdict:L3-L4 INGRESS",
        ),
        (with(254, 0), "UNKNOWN"),
        (Flow::default(), "UNKNOWN"),
    ] {
        assert_eq!(kind(&flow), expected);
    }
}

#[test]
fn requests_and_responses_have_their_summaries() {
    let summary = "HTTP/1.1 PUT http://deathstar/v1/exhaust-port";
    let http = |kind, verdict: Verdict, is_reply, summary: &str| Flow {
        l7: Some(l7(kind, Some(Record::Http(Http::default())))),
        verdict: verdict.into(),
        is_reply: Some(is_reply),
        summary: summary.to_owned(),
        ..sample()
    };
    let line = compact(http(L7FlowType::Request, Verdict::Dropped, false, summary));
    assert!(line.ends_with(&format!(") http-request DROPPED ({summary})\n")), "{line}");
    let summary = "HTTP/1.1 403 0ms (PUT http://deathstar/v1/exhaust-port)";
    let line = compact(http(L7FlowType::Response, Verdict::Forwarded, true, summary));
    assert!(line.ends_with(&format!(") http-response FORWARDED ({summary})\n")), "{line}");
}

#[test]
fn control_characters_are_escaped_in_every_form() {
    let escaped = "Kafka request 1234 correlation id 1 topic 'my-topic^[[30mblack^[[0m^[^M'";
    let head = "Jan  1 00:20:34.567: 1.1.1.1:31793 (health) -> 2.2.2.2:8080 (ID:12345) ";
    assert_eq!(compact(hostile()), format!("{head}kafka-request DROPPED ({escaped})\n"));
    let colored = Options { colors: Colors::On, ..Options::default() };
    assert_eq!(
        printed(&colored, [hostile()]),
        format!(
            "Jan  1 00:20:34.567: \
             \x1b[36m1.1.1.1:\x1b[33m31793\x1b[0m\x1b[0m \x1b[35m(health)\x1b[0m -> \
             \x1b[36m2.2.2.2:\x1b[33m8080\x1b[0m\x1b[0m \x1b[35m(ID:12345)\x1b[0m \
             kafka-request \x1b[31mDROPPED\x1b[0m ({escaped})\n"
        )
    );
    let json = printed(&form(Form::Json), [hostile()]);
    let l7 = "\"l7\":{\"type\":\"REQUEST\",\"latency_ns\":\"10\",\"kafka\":{\"api_key\":\"1234\",\
        \"correlation_id\":1,\"topic\":\"my-topic\\u001b[30mblack\\u001b[0m\\u001b\\r\"}}";
    assert!(json.contains(l7), "{json}");
    // In names, too.
    let pod = Endpoint { pod_name: "a\x1b]0;".into(), ..Endpoint::default() };
    let named = Flow { source: Some(pod), node_name: "\x07".into(), ..hostile() };
    for form in [Form::Compact, Form::Dict, Form::Table, Form::Json] {
        let options = Options { form, node_name: Shown::Yes, ..Options::default() };
        let text = printed(&options, [named.clone()]);
        assert!(!text.contains(['\x1b', '\x07', '\r']), "{text:?}");
    }
}

#[test]
fn a_dict_has_a_line_for_each_fact() {
    let facts = "  TIMESTAMP: Jan  1 00:20:34.567\n     SOURCE: 1.1.1.1:31793\n\
                 DESTINATION: 2.2.2.2:8080\n       TYPE: Policy denied\n    VERDICT: DROPPED\n    \
                 SUMMARY: TCP Flags: SYN\n";
    assert_eq!(printed(&form(Form::Dict), [sample()]), facts);
    let with_node = Options { node_name: Shown::Yes, ..form(Form::Dict) };
    let facts = facts.replace("     SOURCE", "       NODE: k8s1\n     SOURCE");
    assert_eq!(printed(&with_node, [sample(), sample()]), format!("{facts}------------\n{facts}"));
}

#[test]
fn a_table_has_aligned_columns() {
    let table = "\
TIMESTAMP             SOURCE          DESTINATION    TYPE            VERDICT   SUMMARY
Jan  1 00:20:34.567   1.1.1.1:31793   2.2.2.2:8080   Policy denied   DROPPED   TCP Flags: SYN
";
    let colored = Options { colors: Colors::On, ..form(Form::Table) };
    assert_eq!(printed(&colored, [sample()]), table);
    let table = "\
TIMESTAMP             NODE   SOURCE          DESTINATION    TYPE            VERDICT   SUMMARY
Jan  1 00:20:34.567   k8s1   1.1.1.1:31793   2.2.2.2:8080   Policy denied   DROPPED   TCP Flags: SYN
";
    let with_node = Options { node_name: Shown::Yes, ..form(Form::Table) };
    assert_eq!(printed(&with_node, [sample()]), table);
    assert_eq!(printed(&with_node, []), "");
}

/// The ends of a flow between these addresses, endpoints and services.
fn ends(options: &Options, flow: &Flow) -> [String; 2] {
    Printer::new(options.clone()).ends(flow)
}

#[test]
fn ends_are_pods_then_services_then_names_then_addresses() {
    let ip = Some(Ip { source: "1.1.1.1".into(), destination: "2.2.2.2".into(), ..Ip::default() });
    let pod = |namespace: &str, name: &str| {
        let (namespace, pod_name) = (namespace.to_owned(), name.to_owned());
        Some(Endpoint { namespace, pod_name, ..Endpoint::default() })
    };
    let service = |namespace: &str, name: &str| {
        Some(Service { name: name.to_owned(), namespace: namespace.to_owned() })
    };
    let l4 = |protocol| Some(Layer4 { protocol: Some(protocol) });
    let tcp = |source_port, destination_port| {
        l4(Protocol::Tcp(Tcp { source_port, destination_port, flags: None }))
    };
    let plain = Flow { ip, ..Flow::default() };
    let pods = Flow {
        source: pod("srcns", "srcpod"),
        destination: pod("dstns", "dstpod"),
        ..plain.clone()
    };
    let services = Flow {
        source_service: service("default", "xwing"),
        destination_service: service("deathstar", "tiefighter"),
        l4: l4(Protocol::Udp(Udp { source_port: 55555, destination_port: 53 })),
        ..plain.clone()
    };
    let names = Flow {
        source_names: vec!["a".into(), "c".into()],
        destination_names: vec!["b".into()],
        l4: l4(Protocol::Sctp(Sctp { source_port: 5, destination_port: 6 })),
        ..plain.clone()
    };
    let frame = Ethernet { source: "00:01:02:03:04:05".into(), destination: "06:07".into() };
    let six = Ip { source: "fd00::1".into(), destination: "fd00::2".into(), ..Ip::default() };
    let named = Options::default();
    for (flow, expected) in [
        (Flow::default(), ["", ""]),
        (Flow { ethernet: Some(frame), ..Flow::default() }, ["00:01:02:03:04:05", "06:07"]),
        (plain.clone(), ["1.1.1.1", "2.2.2.2"]),
        (Flow { l4: tcp(1, 0), ..plain.clone() }, ["1.1.1.1:1", "2.2.2.2"]),
        (Flow { ip: Some(six), l4: tcp(1, 80), ..plain }, ["[fd00::1]:1", "[fd00::2]:80"]),
        (pods.clone(), ["srcns/srcpod", "dstns/dstpod"]),
        (services.clone(), ["default/xwing:55555", "deathstar/tiefighter:53"]),
        (
            Flow { source: pod("default", "pod"), ..services },
            ["default/pod:55555", "deathstar/tiefighter:53"],
        ),
        (Flow { source: pod("", "pod"), ..pods.clone() }, ["pod", "dstns/dstpod"]),
        (names, ["a,c:5", "b:6"]),
    ] {
        assert_eq!(ends(&named, &flow), expected);
    }
    let numeric = Options { ends: Ends::Numeric, ..Options::default() };
    assert_eq!(ends(&numeric, &pods), ["1.1.1.1", "2.2.2.2"]);
}

#[test]
fn a_time_that_is_none_is_not_available() {
    let printer = Printer::new(Options::default());
    let at = |seconds, nanos| printer.time(Some(&prost_types::Timestamp { seconds, nanos }));
    assert_eq!(at(0, 0), "Jan  1 00:00:00.000");
    assert_eq!(at(1_530_984_600, 123_000_000), "Jul  7 17:30:00.123");
    assert_eq!(at(i64::MAX, 0), "N/A");
    assert_eq!(printer.time(None), "N/A");
}

#[test]
fn lost_events_are_counted_where_they_were_lost() {
    let lost = LostEvent {
        source: LostEventSource::HubbleRingBuffer.into(),
        num_events_lost: 2,
        cpu: Some(5),
        ..LostEvent::default()
    };
    let time = sample().time;
    let response = GetFlowsResponse {
        response_types: Some(ResponseTypes::LostEvents(lost)),
        node_name: "k8s1".into(),
        time,
    };
    let print = |form| {
        let mut printer = Printer::new(Options { form, ..Options::default() });
        let text = printer.response(&response).unwrap().out;
        text + &printer.finish().out
    };
    assert_eq!(print(Form::Compact), "EVENTS LOST: HUBBLE_RING_BUFFER CPU(5) 2\n");
    assert!(print(Form::Dict).contains("       TYPE: EVENTS LOST\n"));
    assert!(print(Form::Table).contains("HUBBLE_RING_BUFFER"));
    assert_eq!(
        print(Form::Json),
        "{\"lost_events\":{\"source\":\"HUBBLE_RING_BUFFER\",\"num_events_lost\":\"2\",\"cpu\":5},\
         \"node_name\":\"k8s1\",\"time\":\"1970-01-01T00:20:34.567800Z\"}\n"
    );
}

#[test]
fn nodes_whose_flows_are_missing_are_reported_on_standard_error() {
    let print = |form, state: NodeState, nodes: &[&str], message: &str| {
        let status = NodeStatusEvent {
            state_change: state.into(),
            node_names: nodes.iter().map(|name| (*name).to_owned()).collect(),
            message: message.to_owned(),
        };
        let response = GetFlowsResponse {
            response_types: Some(ResponseTypes::NodeStatus(status)),
            node_name: "k8s1".into(),
            time: sample().time,
        };
        let mut printer = Printer::new(Options { form, ..Options::default() });
        let text = printer.response(&response).unwrap();
        assert_eq!(text.out, "");
        text.err
    };
    let head = "Jan  1 00:20:34.567 [k8s1]: ";
    let connected = print(Form::Compact, NodeState::NodeConnected, &["a"], "");
    assert_eq!(connected, "");
    let gone = print(Form::Compact, NodeState::NodeUnavailable, &["a", "b"], "");
    assert_eq!(gone, format!("{head}2 nodes are unavailable: a, b\n"));
    let failed = print(Form::Table, NodeState::NodeError, &["a"], "no\x1b");
    assert_eq!(failed, format!("{head}Error \"no^[\" on 1 nodes: a\n"));
    let long = "n".repeat(60);
    let many = print(Form::Compact, NodeState::NodeUnavailable, &[&long, "b", "c"], "");
    assert_eq!(many, format!("{head}3 nodes are unavailable: {long} (and 2 more)\n"));
    let dict = print(Form::Dict, NodeState::NodeUnavailable, &["a"], "");
    assert_eq!(
        dict,
        "  TIMESTAMP: Jan  1 00:20:34.567\n      STATE: NODE_UNAVAILABLE\n      NODES: a\n    \
         MESSAGE: N/A\n"
    );
}
