//! A flow as the page needs it: less than a third of the JSON of Hubble's message.

use podgate_hubble::names;
use podgate_hubble::print::kind;
use podgate_hubble::proto::flow::layer4::Protocol;
use podgate_hubble::proto::flow::layer7::Record;
use podgate_hubble::proto::flow::{
    Endpoint, Flow, Http, Layer4, Layer7, Policy, Service, TrafficDirection,
};
use serde::Serialize;

/// A flow.
#[derive(Serialize, Debug, Default)]
pub(crate) struct Row {
    /// Milliseconds since 1970.
    time: f64,
    verdict: &'static str,
    /// What happened, as `podgate observe` prints it.
    kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply: Option<bool>,
    source: End,
    destination: End,
    /// The L4 protocol.
    protocol: &'static str,
    /// Protocol and port of the end that was called, as `policy explain` takes them.
    #[serde(skip_serializing_if = "String::is_empty")]
    port: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    direction: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
    summary: String,
    node: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    policies: Vec<PolicyName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<RequestCell>,
}

/// An end of a flow. What is not known is left out.
#[derive(Serialize, Debug, Default)]
struct End {
    ip: String,
    #[serde(skip_serializing_if = "is_zero")]
    port: u32,
    #[serde(skip_serializing_if = "String::is_empty")]
    namespace: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pod: String,
    /// Name of the pod's workload.
    #[serde(skip_serializing_if = "String::is_empty")]
    workload: String,
    /// The service as `NAMESPACE/NAME`.
    #[serde(skip_serializing_if = "String::is_empty")]
    service: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    dns: String,
    /// Name of a reserved identity, such as `world`.
    #[serde(skip_serializing_if = "str::is_empty")]
    reserved: &'static str,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
const fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// A policy that decided a flow.
#[derive(Serialize, Debug)]
struct PolicyName {
    kind: String,
    namespace: String,
    name: String,
}

/// An L7 request or response, as parameters of `explain`.
#[derive(Serialize, Debug)]
struct RequestCell {
    /// `http`, `kafka` or `dns`.
    protocol: &'static str,
    /// The request.
    text: String,
}

impl Row {
    /// Of a flow.
    pub(crate) fn of(flow: Flow) -> Self {
        let kind = kind(&flow);
        let verdict = flow.verdict().as_str_name();
        let reason = match flow.drop_reason_desc() as i32 {
            0 => String::new(),
            _ => flow.drop_reason_desc().as_str_name().to_owned(),
        };
        let direction = match flow.traffic_direction() {
            TrafficDirection::Unknown => "",
            TrafficDirection::Ingress => "ingress",
            TrafficDirection::Egress => "egress",
        };
        let transport = Transport::of(flow.l4.as_ref());
        let [source_ip, destination_ip] =
            flow.ip.map_or_else(Default::default, |ip| [ip.source, ip.destination]);
        let [source_port, destination_port] = transport.ports;
        let called = if flow.is_reply == Some(true) { source_port } else { destination_port };
        let time =
            flow.time.map_or(0.0, |time| time.seconds as f64 * 1e3 + f64::from(time.nanos) / 1e6);
        let by = [
            flow.egress_denied_by,
            flow.ingress_denied_by,
            flow.egress_allowed_by,
            flow.ingress_allowed_by,
        ];
        let names = [flow.source_names, flow.destination_names];
        let [source_dns, destination_dns] = names.map(|names| names.into_iter().next());
        Self {
            time,
            verdict,
            kind,
            reply: flow.is_reply,
            source: End::of((source_ip, source_port), flow.source, flow.source_service, source_dns),
            destination: End::of(
                (destination_ip, destination_port),
                flow.destination,
                flow.destination_service,
                destination_dns,
            ),
            protocol: transport.name,
            port: transport.called(called),
            direction,
            reason,
            summary: flow.summary,
            node: flow.node_name,
            policies: by.into_iter().flatten().map(PolicyName::of).collect(),
            request: flow.l7.and_then(request),
        }
    }
}

impl End {
    fn of(
        (ip, port): (String, u32),
        endpoint: Option<Endpoint>,
        service: Option<Service>,
        dns: Option<String>,
    ) -> Self {
        let endpoint = endpoint.unwrap_or_default();
        let service = service.filter(|service| !service.name.is_empty());
        let workload = endpoint.workloads.into_iter().next();
        Self {
            ip,
            port,
            namespace: endpoint.namespace,
            pod: endpoint.pod_name,
            workload: workload.map(|workload| workload.name).unwrap_or_default(),
            service: service.map_or_else(String::new, |service| {
                format!("{}/{}", service.namespace, service.name)
            }),
            dns: dns.unwrap_or_default(),
            reserved: names::reserved_name(endpoint.identity).unwrap_or_default(),
        }
    }
}

impl PolicyName {
    fn of(policy: Policy) -> Self {
        Self { kind: policy.kind, namespace: policy.namespace, name: policy.name }
    }
}

/// What L4 says.
#[derive(Default)]
struct Transport {
    name: &'static str,
    ports: [u32; 2],
    icmp_type: Option<u32>,
}

impl Transport {
    fn of(l4: Option<&Layer4>) -> Self {
        let ports = |name, source, destination| Self {
            name,
            ports: [source, destination],
            icmp_type: None,
        };
        let icmp = |name, number| Self { name, ports: [0; 2], icmp_type: Some(number) };
        match l4.and_then(|l4| l4.protocol.as_ref()) {
            Some(Protocol::Tcp(tcp)) => ports("TCP", tcp.source_port, tcp.destination_port),
            Some(Protocol::Udp(udp)) => ports("UDP", udp.source_port, udp.destination_port),
            Some(Protocol::Sctp(sctp)) => ports("SCTP", sctp.source_port, sctp.destination_port),
            Some(Protocol::IcmPv4(message)) => icmp("ICMPv4", message.r#type),
            Some(Protocol::IcmPv6(message)) => icmp("ICMPv6", message.r#type),
            Some(Protocol::Vrrp(_)) => Self { name: "VRRP", ..Self::default() },
            Some(Protocol::Igmp(_)) => Self { name: "IGMP", ..Self::default() },
            None => Self::default(),
        }
    }

    /// Protocol and port, as `policy explain` takes them.
    fn called(&self, port: u32) -> String {
        match (self.name, self.icmp_type) {
            ("ICMPv4", Some(number)) => format!("icmp/{number}"),
            ("ICMPv6", Some(number)) => format!("icmpv6/{number}"),
            ("TCP" | "UDP" | "SCTP", _) => format!("{port}/{}", self.name),
            _ => String::new(),
        }
    }
}

fn request(l7: Layer7) -> Option<RequestCell> {
    Some(match l7.record? {
        Record::Http(Http { method, url, .. }) => {
            RequestCell { protocol: "http", text: format!("{method} {url}") }
        }
        Record::Kafka(kafka) => RequestCell {
            protocol: "kafka",
            text: format!("topic={},api={}", kafka.topic, kafka.api_key),
        },
        Record::Dns(dns) => RequestCell {
            protocol: "dns",
            text: dns.query.strip_suffix('.').unwrap_or(&dns.query).to_owned(),
        },
    })
}

#[cfg(test)]
mod tests {
    use podgate_hubble::json::response_from_json;
    use podgate_hubble::proto::observer::get_flows_response::ResponseTypes;
    use serde_json::{Value, json};

    use super::*;

    fn row(flow: &Value) -> Value {
        let response = response_from_json(&json!({"flow": flow}).to_string()).unwrap();
        let Some(ResponseTypes::Flow(flow)) = response.response_types else { panic!("no flow") };
        serde_json::to_value(Row::of(*flow)).unwrap()
    }

    #[test]
    fn a_denied_request_has_what_its_explanation_needs() {
        let policy = json!({"kind": "NetworkPolicy", "namespace": "shop", "name": "web"});
        let row = row(&json!({
            "time": "1970-01-01T00:00:01.500Z",
            "verdict": "DROPPED", "is_reply": false, "drop_reason_desc": "POLICY_DENIED",
            "IP": {"source": "10.0.0.1", "destination": "10.0.0.2"},
            "l4": {"TCP": {"source_port": 40000, "destination_port": 80}},
            "source": {"identity": 1000, "namespace": "shop", "pod_name": "cart-0",
                       "workloads": [{"name": "cart", "kind": "StatefulSet"}]},
            "destination": {"identity": 2}, "destination_names": ["a.example", "b.example"],
            "destination_service": {"namespace": "shop", "name": "web"},
            "l7": {"type": "REQUEST", "http": {"method": "GET", "url": "http://web/secret"}},
            "traffic_direction": "INGRESS", "ingress_denied_by": [policy],
            "Summary": "HTTP/1.1 GET http://web/secret", "node_name": "node-1",
        }));
        let expected = json!({
            "time": 1500.0, "verdict": "DROPPED", "kind": "http-request", "reply": false,
            "reason": "POLICY_DENIED", "direction": "ingress", "protocol": "TCP", "port": "80/TCP",
            "source": {"ip": "10.0.0.1", "port": 40000, "namespace": "shop", "pod": "cart-0",
                       "workload": "cart"},
            "destination": {"ip": "10.0.0.2", "port": 80, "service": "shop/web",
                            "dns": "a.example", "reserved": "world"},
            "request": {"protocol": "http", "text": "GET http://web/secret"},
            "policies": [policy], "summary": "HTTP/1.1 GET http://web/secret", "node": "node-1",
        });
        assert_eq!(row, expected);
    }

    #[test]
    fn the_port_is_that_of_the_end_that_was_called() {
        let ports = json!({"source_port": 53, "destination_port": 40000});
        let reply = row(&json!({"is_reply": true, "l4": {"UDP": ports}}));
        assert_eq!(reply["port"], "53/UDP");
        let ping = row(&json!({"l4": {"ICMPv6": {"type": 128}}}));
        assert_eq!((&ping["port"], &ping["protocol"]), (&json!("icmpv6/128"), &json!("ICMPv6")));
        assert!(row(&json!({})).get("port").is_none());
    }
}
