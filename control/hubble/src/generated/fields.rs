//! Fields of `flow.Flow`: generated, see `tests/generated.rs`.

use crate::field_mask::Field;

/// Of `flow.Flow`.
pub(crate) const FLOW: &[Field] = &[
    Field { name: "time", number: 1, inner: Some(TIMESTAMP) },
    Field { name: "uuid", number: 34, inner: None },
    Field { name: "verdict", number: 2, inner: None },
    Field { name: "drop_reason", number: 3, inner: None },
    Field { name: "auth_type", number: 35, inner: None },
    Field { name: "ethernet", number: 4, inner: Some(ETHERNET) },
    Field { name: "IP", number: 5, inner: Some(IP) },
    Field { name: "l4", number: 6, inner: Some(LAYER4) },
    Field { name: "source", number: 8, inner: Some(ENDPOINT) },
    Field { name: "destination", number: 9, inner: Some(ENDPOINT) },
    Field { name: "Type", number: 10, inner: None },
    Field { name: "node_name", number: 11, inner: None },
    Field { name: "node_labels", number: 37, inner: None },
    Field { name: "source_names", number: 13, inner: None },
    Field { name: "destination_names", number: 14, inner: None },
    Field { name: "l7", number: 15, inner: Some(LAYER7) },
    Field { name: "reply", number: 16, inner: None },
    Field { name: "event_type", number: 19, inner: Some(CILIUMEVENTTYPE) },
    Field { name: "source_service", number: 20, inner: Some(SERVICE) },
    Field { name: "destination_service", number: 21, inner: Some(SERVICE) },
    Field { name: "traffic_direction", number: 22, inner: None },
    Field { name: "policy_match_type", number: 23, inner: None },
    Field { name: "trace_observation_point", number: 24, inner: None },
    Field { name: "trace_reason", number: 36, inner: None },
    Field { name: "drop_reason_desc", number: 25, inner: None },
    Field { name: "is_reply", number: 26, inner: Some(BOOLVALUE) },
    Field { name: "interface", number: 28, inner: Some(NETWORKINTERFACE) },
    Field { name: "proxy_port", number: 29, inner: None },
    Field { name: "trace_context", number: 30, inner: Some(TRACECONTEXT) },
    Field { name: "ip_trace_id", number: 40, inner: Some(IPTRACEID) },
    Field { name: "Summary", number: 100000, inner: None },
    Field { name: "extensions", number: 150000, inner: Some(ANY) },
    Field { name: "egress_allowed_by", number: 21001, inner: None },
    Field { name: "ingress_allowed_by", number: 21002, inner: None },
    Field { name: "egress_denied_by", number: 21004, inner: None },
    Field { name: "ingress_denied_by", number: 21005, inner: None },
    Field { name: "policy_log", number: 21006, inner: None },
];

/// Of `google.protobuf.Any`.
pub(crate) const ANY: &[Field] = &[
    Field { name: "type_url", number: 1, inner: None },
    Field { name: "value", number: 2, inner: None },
];

/// Of `flow.IPTraceID`.
pub(crate) const IPTRACEID: &[Field] = &[
    Field { name: "trace_id", number: 1, inner: None },
    Field { name: "ip_option_type", number: 2, inner: None },
];

/// Of `flow.TraceContext`.
pub(crate) const TRACECONTEXT: &[Field] = &[
    Field { name: "parent", number: 1, inner: Some(TRACEPARENT) },
];

/// Of `flow.TraceParent`.
pub(crate) const TRACEPARENT: &[Field] = &[
    Field { name: "trace_id", number: 1, inner: None },
];

/// Of `flow.NetworkInterface`.
pub(crate) const NETWORKINTERFACE: &[Field] = &[
    Field { name: "index", number: 1, inner: None },
    Field { name: "name", number: 2, inner: None },
];

/// Of `google.protobuf.BoolValue`.
pub(crate) const BOOLVALUE: &[Field] = &[
    Field { name: "value", number: 1, inner: None },
];

/// Of `flow.Service`.
pub(crate) const SERVICE: &[Field] = &[
    Field { name: "name", number: 1, inner: None },
    Field { name: "namespace", number: 2, inner: None },
];

/// Of `flow.CiliumEventType`.
pub(crate) const CILIUMEVENTTYPE: &[Field] = &[
    Field { name: "type", number: 1, inner: None },
    Field { name: "sub_type", number: 2, inner: None },
];

/// Of `flow.Layer7`.
pub(crate) const LAYER7: &[Field] = &[
    Field { name: "type", number: 1, inner: None },
    Field { name: "latency_ns", number: 2, inner: None },
    Field { name: "dns", number: 100, inner: Some(DNS) },
    Field { name: "http", number: 101, inner: Some(HTTP) },
    Field { name: "kafka", number: 102, inner: Some(KAFKA) },
];

/// Of `flow.Kafka`.
pub(crate) const KAFKA: &[Field] = &[
    Field { name: "error_code", number: 1, inner: None },
    Field { name: "api_version", number: 2, inner: None },
    Field { name: "api_key", number: 3, inner: None },
    Field { name: "correlation_id", number: 4, inner: None },
    Field { name: "topic", number: 5, inner: None },
];

/// Of `flow.HTTP`.
pub(crate) const HTTP: &[Field] = &[
    Field { name: "code", number: 1, inner: None },
    Field { name: "method", number: 2, inner: None },
    Field { name: "url", number: 3, inner: None },
    Field { name: "protocol", number: 4, inner: None },
    Field { name: "headers", number: 5, inner: None },
];

/// Of `flow.DNS`.
pub(crate) const DNS: &[Field] = &[
    Field { name: "query", number: 1, inner: None },
    Field { name: "ips", number: 2, inner: None },
    Field { name: "ttl", number: 3, inner: None },
    Field { name: "cnames", number: 4, inner: None },
    Field { name: "observation_source", number: 5, inner: None },
    Field { name: "rcode", number: 6, inner: None },
    Field { name: "qtypes", number: 7, inner: None },
    Field { name: "rrtypes", number: 8, inner: None },
];

/// Of `flow.Endpoint`.
pub(crate) const ENDPOINT: &[Field] = &[
    Field { name: "ID", number: 1, inner: None },
    Field { name: "identity", number: 2, inner: None },
    Field { name: "namespace", number: 3, inner: None },
    Field { name: "labels", number: 4, inner: None },
    Field { name: "pod_name", number: 5, inner: None },
    Field { name: "workloads", number: 6, inner: None },
    Field { name: "cluster_name", number: 7, inner: None },
];

/// Of `flow.Layer4`.
pub(crate) const LAYER4: &[Field] = &[
    Field { name: "TCP", number: 1, inner: Some(TCP) },
    Field { name: "UDP", number: 2, inner: Some(UDP) },
    Field { name: "ICMPv4", number: 3, inner: Some(ICMPV4) },
    Field { name: "ICMPv6", number: 4, inner: Some(ICMPV6) },
    Field { name: "SCTP", number: 5, inner: Some(SCTP) },
    Field { name: "VRRP", number: 6, inner: Some(VRRP) },
    Field { name: "IGMP", number: 7, inner: Some(IGMP) },
];

/// Of `flow.IGMP`.
pub(crate) const IGMP: &[Field] = &[
    Field { name: "type", number: 1, inner: None },
    Field { name: "group_address", number: 2, inner: None },
];

/// Of `flow.VRRP`.
pub(crate) const VRRP: &[Field] = &[
    Field { name: "type", number: 1, inner: None },
    Field { name: "vrid", number: 2, inner: None },
    Field { name: "priority", number: 3, inner: None },
];

/// Of `flow.SCTP`.
pub(crate) const SCTP: &[Field] = &[
    Field { name: "source_port", number: 1, inner: None },
    Field { name: "destination_port", number: 2, inner: None },
];

/// Of `flow.ICMPv6`.
pub(crate) const ICMPV6: &[Field] = &[
    Field { name: "type", number: 1, inner: None },
    Field { name: "code", number: 2, inner: None },
];

/// Of `flow.ICMPv4`.
pub(crate) const ICMPV4: &[Field] = &[
    Field { name: "type", number: 1, inner: None },
    Field { name: "code", number: 2, inner: None },
];

/// Of `flow.UDP`.
pub(crate) const UDP: &[Field] = &[
    Field { name: "source_port", number: 1, inner: None },
    Field { name: "destination_port", number: 2, inner: None },
];

/// Of `flow.TCP`.
pub(crate) const TCP: &[Field] = &[
    Field { name: "source_port", number: 1, inner: None },
    Field { name: "destination_port", number: 2, inner: None },
    Field { name: "flags", number: 3, inner: Some(TCPFLAGS) },
];

/// Of `flow.TCPFlags`.
pub(crate) const TCPFLAGS: &[Field] = &[
    Field { name: "FIN", number: 1, inner: None },
    Field { name: "SYN", number: 2, inner: None },
    Field { name: "RST", number: 3, inner: None },
    Field { name: "PSH", number: 4, inner: None },
    Field { name: "ACK", number: 5, inner: None },
    Field { name: "URG", number: 6, inner: None },
    Field { name: "ECE", number: 7, inner: None },
    Field { name: "CWR", number: 8, inner: None },
    Field { name: "NS", number: 9, inner: None },
];

/// Of `flow.IP`.
pub(crate) const IP: &[Field] = &[
    Field { name: "source", number: 1, inner: None },
    Field { name: "destination", number: 2, inner: None },
    Field { name: "ipVersion", number: 3, inner: None },
    Field { name: "encrypted", number: 4, inner: None },
    Field { name: "source_xlated", number: 5, inner: None },
];

/// Of `flow.Ethernet`.
pub(crate) const ETHERNET: &[Field] = &[
    Field { name: "source", number: 1, inner: None },
    Field { name: "destination", number: 2, inner: None },
];

/// Of `google.protobuf.Timestamp`.
pub(crate) const TIMESTAMP: &[Field] = &[
    Field { name: "seconds", number: 1, inner: None },
    Field { name: "nanos", number: 2, inner: None },
];
