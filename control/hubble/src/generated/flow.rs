//! Package `flow` of `proto/`: generated, see `tests/generated.rs`.

/// What happened to a packet, a connection or a request, seen in one direction.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct Flow {
    /// When it happened.
    #[prost(message, optional, tag = "1")]
    pub time: ::core::option::Option<::prost_types::Timestamp>,
    /// Its own id.
    #[prost(string, tag = "34")]
    pub uuid: ::prost::alloc::string::String,
    /// Its verdict.
    #[prost(enumeration = "Verdict", tag = "2")]
    pub verdict: i32,
    /// Why it was dropped, as a number of `DropReason`.
    #[prost(uint32, tag = "3")]
    pub drop_reason: u32,
    /// How the peers authenticated each other.
    #[prost(enumeration = "AuthType", tag = "35")]
    pub auth_type: i32,
    /// Link layer.
    #[prost(message, optional, tag = "4")]
    pub ethernet: ::core::option::Option<Ethernet>,
    /// Addresses.
    #[prost(message, optional, tag = "5")]
    pub ip: ::core::option::Option<Ip>,
    /// Ports and the like.
    #[prost(message, optional, tag = "6")]
    pub l4: ::core::option::Option<Layer4>,
    /// The end that sent the packet.
    #[prost(message, optional, tag = "8")]
    pub source: ::core::option::Option<Endpoint>,
    /// The end that it was sent to.
    #[prost(message, optional, tag = "9")]
    pub destination: ::core::option::Option<Endpoint>,
    /// Whether this describes packets or requests.
    #[prost(enumeration = "FlowType", tag = "10")]
    pub r#type: i32,
    /// The node that observed it.
    #[prost(string, tag = "11")]
    pub node_name: ::prost::alloc::string::String,
    /// Labels of that node, as KEY=VALUE.
    #[prost(string, repeated, tag = "37")]
    pub node_labels: ::prost::alloc::vec::Vec<::prost::alloc::string::String>,
    /// DNS names of the source.
    #[prost(string, repeated, tag = "13")]
    pub source_names: ::prost::alloc::vec::Vec<::prost::alloc::string::String>,
    /// DNS names of the destination.
    #[prost(string, repeated, tag = "14")]
    pub destination_names: ::prost::alloc::vec::Vec<::prost::alloc::string::String>,
    /// The request or response.
    #[prost(message, optional, tag = "15")]
    pub l7: ::core::option::Option<Layer7>,
    /// As `is_reply`, which has a third value.
    #[prost(bool, tag = "16")]
    pub reply: bool,
    /// The kind of event.
    #[prost(message, optional, tag = "19")]
    pub event_type: ::core::option::Option<CiliumEventType>,
    /// Service of the source.
    #[prost(message, optional, tag = "20")]
    pub source_service: ::core::option::Option<Service>,
    /// Service of the destination.
    #[prost(message, optional, tag = "21")]
    pub destination_service: ::core::option::Option<Service>,
    /// The direction, seen from the pod whose policy is meant.
    #[prost(enumeration = "TrafficDirection", tag = "22")]
    pub traffic_direction: i32,
    /// What of the flow a rule named: 0 none, 1 peer, 2 peer and port, 3 port, 4 nothing.
    #[prost(uint32, tag = "23")]
    pub policy_match_type: u32,
    /// Where a forwarded packet was observed.
    #[prost(enumeration = "TraceObservationPoint", tag = "24")]
    pub trace_observation_point: i32,
    /// Why a forwarded packet was observed.
    #[prost(enumeration = "TraceReason", tag = "36")]
    pub trace_reason: i32,
    /// Why it was dropped.
    #[prost(enumeration = "DropReason", tag = "25")]
    pub drop_reason_desc: i32,
    /// Whether it went from the server to the client; absent where that is not known.
    #[prost(message, optional, tag = "26")]
    pub is_reply: ::core::option::Option<bool>,
    /// The link that received the packet.
    #[prost(message, optional, tag = "28")]
    pub interface: ::core::option::Option<NetworkInterface>,
    /// Port of the proxy that the packet was redirected to.
    #[prost(uint32, tag = "29")]
    pub proxy_port: u32,
    /// Distributed trace that a request belongs to.
    #[prost(message, optional, tag = "30")]
    pub trace_context: ::core::option::Option<TraceContext>,
    /// Trace id in an IP option.
    #[prost(message, optional, tag = "40")]
    pub ip_trace_id: ::core::option::Option<IpTraceId>,
    /// One line for people.
    #[prost(string, tag = "100000")]
    pub summary: ::prost::alloc::string::String,
    /// What the fields above have no place for.
    #[prost(message, optional, tag = "150000")]
    pub extensions: ::core::option::Option<::prost_types::Any>,
    /// Policies that allowed it at the source.
    #[prost(message, repeated, tag = "21001")]
    pub egress_allowed_by: ::prost::alloc::vec::Vec<Policy>,
    /// Policies that allowed it at the destination.
    #[prost(message, repeated, tag = "21002")]
    pub ingress_allowed_by: ::prost::alloc::vec::Vec<Policy>,
    /// Policies that denied it at the source.
    #[prost(message, repeated, tag = "21004")]
    pub egress_denied_by: ::prost::alloc::vec::Vec<Policy>,
    /// Policies that denied it at the destination.
    #[prost(message, repeated, tag = "21005")]
    pub ingress_denied_by: ::prost::alloc::vec::Vec<Policy>,
    /// Texts that policies attach to their verdicts.
    #[prost(string, repeated, tag = "21006")]
    pub policy_log: ::prost::alloc::vec::Vec<::prost::alloc::string::String>,
}
/// Ports and the like.
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct Layer4 {
    /// By protocol.
    #[prost(oneof = "layer4::Protocol", tags = "1, 2, 3, 4, 5, 6, 7")]
    pub protocol: ::core::option::Option<layer4::Protocol>,
}
/// Nested message and enum types in `Layer4`.
pub mod layer4 {
    /// By protocol.
    #[derive(Clone, PartialEq, Eq, Hash, ::prost::Oneof)]
    pub enum Protocol {
        /// TCP.
        #[prost(message, tag = "1")]
        Tcp(super::Tcp),
        /// UDP.
        #[prost(message, tag = "2")]
        Udp(super::Udp),
        /// ICMP.
        #[prost(message, tag = "3")]
        IcmPv4(super::IcmPv4),
        /// ICMPv6.
        #[prost(message, tag = "4")]
        IcmPv6(super::IcmPv6),
        /// SCTP.
        #[prost(message, tag = "5")]
        Sctp(super::Sctp),
        /// VRRP.
        #[prost(message, tag = "6")]
        Vrrp(super::Vrrp),
        /// IGMP.
        #[prost(message, tag = "7")]
        Igmp(super::Igmp),
    }
}
/// A request or response.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct Layer7 {
    /// Which of them.
    #[prost(enumeration = "L7FlowType", tag = "1")]
    pub r#type: i32,
    /// From the request to the response, nanoseconds.
    #[prost(uint64, tag = "2")]
    pub latency_ns: u64,
    /// By protocol.
    #[prost(oneof = "layer7::Record", tags = "100, 101, 102")]
    pub record: ::core::option::Option<layer7::Record>,
}
/// Nested message and enum types in `Layer7`.
pub mod layer7 {
    /// By protocol.
    #[derive(Clone, PartialEq, ::prost::Oneof)]
    pub enum Record {
        /// DNS.
        #[prost(message, tag = "100")]
        Dns(super::Dns),
        /// HTTP.
        #[prost(message, tag = "101")]
        Http(super::Http),
        /// Kafka.
        #[prost(message, tag = "102")]
        Kafka(super::Kafka),
    }
}
/// Distributed trace that a request belongs to.
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct TraceContext {
    /// Its parent.
    #[prost(message, optional, tag = "1")]
    pub parent: ::core::option::Option<TraceParent>,
}
/// Parent of a request in a distributed trace.
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct TraceParent {
    /// Id of the trace, hexadecimal.
    #[prost(string, tag = "1")]
    pub trace_id: ::prost::alloc::string::String,
}
/// Trace id in an IP option.
#[derive(Clone, Copy, PartialEq, Eq, Hash, ::prost::Message)]
pub struct IpTraceId {
    /// The id.
    #[prost(uint64, tag = "1")]
    pub trace_id: u64,
    /// Type of the option.
    #[prost(uint32, tag = "2")]
    pub ip_option_type: u32,
}
/// One end of a flow.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct Endpoint {
    /// Number of the endpoint on its node.
    #[prost(uint32, tag = "1")]
    pub id: u32,
    /// Identity.
    #[prost(uint32, tag = "2")]
    pub identity: u32,
    /// Namespace of the pod.
    #[prost(string, tag = "3")]
    pub namespace: ::prost::alloc::string::String,
    /// Labels of the identity, as SOURCE:KEY=VALUE.
    #[prost(string, repeated, tag = "4")]
    pub labels: ::prost::alloc::vec::Vec<::prost::alloc::string::String>,
    /// Name of the pod.
    #[prost(string, tag = "5")]
    pub pod_name: ::prost::alloc::string::String,
    /// What the pod belongs to.
    #[prost(message, repeated, tag = "6")]
    pub workloads: ::prost::alloc::vec::Vec<Workload>,
    /// Cluster of the pod.
    #[prost(string, tag = "7")]
    pub cluster_name: ::prost::alloc::string::String,
}
/// What pods belong to, such as a Deployment.
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct Workload {
    /// Name.
    #[prost(string, tag = "1")]
    pub name: ::prost::alloc::string::String,
    /// Kind.
    #[prost(string, tag = "2")]
    pub kind: ::prost::alloc::string::String,
}
/// Of a TCP segment.
#[derive(Clone, Copy, PartialEq, Eq, Hash, ::prost::Message)]
pub struct Tcp {
    /// Source port.
    #[prost(uint32, tag = "1")]
    pub source_port: u32,
    /// Destination port.
    #[prost(uint32, tag = "2")]
    pub destination_port: u32,
    /// Flags.
    #[prost(message, optional, tag = "3")]
    pub flags: ::core::option::Option<TcpFlags>,
}
/// Addresses of a packet.
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct Ip {
    /// Source address.
    #[prost(string, tag = "1")]
    pub source: ::prost::alloc::string::String,
    /// Destination address.
    #[prost(string, tag = "2")]
    pub destination: ::prost::alloc::string::String,
    /// Version.
    #[prost(enumeration = "IpVersion", tag = "3")]
    pub ip_version: i32,
    /// Whether the packet was encrypted.
    #[prost(bool, tag = "4")]
    pub encrypted: bool,
    /// Source address after translation.
    #[prost(string, tag = "5")]
    pub source_xlated: ::prost::alloc::string::String,
}
/// MAC addresses.
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct Ethernet {
    /// Source.
    #[prost(string, tag = "1")]
    pub source: ::prost::alloc::string::String,
    /// Destination.
    #[prost(string, tag = "2")]
    pub destination: ::prost::alloc::string::String,
}
/// Flags of a TCP segment.
#[derive(Clone, Copy, PartialEq, Eq, Hash, ::prost::Message)]
pub struct TcpFlags {
    /// FIN.
    #[prost(bool, tag = "1")]
    pub fin: bool,
    /// SYN.
    #[prost(bool, tag = "2")]
    pub syn: bool,
    /// RST.
    #[prost(bool, tag = "3")]
    pub rst: bool,
    /// PSH.
    #[prost(bool, tag = "4")]
    pub psh: bool,
    /// ACK.
    #[prost(bool, tag = "5")]
    pub ack: bool,
    /// URG.
    #[prost(bool, tag = "6")]
    pub urg: bool,
    /// ECE.
    #[prost(bool, tag = "7")]
    pub ece: bool,
    /// CWR.
    #[prost(bool, tag = "8")]
    pub cwr: bool,
    /// NS.
    #[prost(bool, tag = "9")]
    pub ns: bool,
}
/// Of a UDP datagram.
#[derive(Clone, Copy, PartialEq, Eq, Hash, ::prost::Message)]
pub struct Udp {
    /// Source port.
    #[prost(uint32, tag = "1")]
    pub source_port: u32,
    /// Destination port.
    #[prost(uint32, tag = "2")]
    pub destination_port: u32,
}
/// Of an SCTP packet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, ::prost::Message)]
pub struct Sctp {
    /// Source port.
    #[prost(uint32, tag = "1")]
    pub source_port: u32,
    /// Destination port.
    #[prost(uint32, tag = "2")]
    pub destination_port: u32,
}
/// Of an ICMP message.
#[derive(Clone, Copy, PartialEq, Eq, Hash, ::prost::Message)]
pub struct IcmPv4 {
    /// Type.
    #[prost(uint32, tag = "1")]
    pub r#type: u32,
    /// Code.
    #[prost(uint32, tag = "2")]
    pub code: u32,
}
/// Of an ICMPv6 message.
#[derive(Clone, Copy, PartialEq, Eq, Hash, ::prost::Message)]
pub struct IcmPv6 {
    /// Type.
    #[prost(uint32, tag = "1")]
    pub r#type: u32,
    /// Code.
    #[prost(uint32, tag = "2")]
    pub code: u32,
}
/// Of a VRRP message.
#[derive(Clone, Copy, PartialEq, Eq, Hash, ::prost::Message)]
pub struct Vrrp {
    /// Type.
    #[prost(uint32, tag = "1")]
    pub r#type: u32,
    /// Virtual router.
    #[prost(uint32, tag = "2")]
    pub vrid: u32,
    /// Priority.
    #[prost(uint32, tag = "3")]
    pub priority: u32,
}
/// Of an IGMP message.
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct Igmp {
    /// Type.
    #[prost(uint32, tag = "1")]
    pub r#type: u32,
    /// Group.
    #[prost(string, tag = "2")]
    pub group_address: ::prost::alloc::string::String,
}
/// Kinds of events that a filter matches.
#[derive(Clone, Copy, PartialEq, Eq, Hash, ::prost::Message)]
pub struct EventTypeFilter {
    /// Type.
    #[prost(int32, tag = "1")]
    pub r#type: i32,
    /// Whether `sub_type` has to match.
    #[prost(bool, tag = "2")]
    pub match_sub_type: bool,
    /// Subtype.
    #[prost(int32, tag = "3")]
    pub sub_type: i32,
}
/// The kind of an event: 1 drop, 4 trace, 5 policy verdict, 129 L7.
#[derive(Clone, Copy, PartialEq, Eq, Hash, ::prost::Message)]
pub struct CiliumEventType {
    /// Type.
    #[prost(int32, tag = "1")]
    pub r#type: i32,
    /// Subtype; of drops the reason, of traces the point.
    #[prost(int32, tag = "2")]
    pub sub_type: i32,
}
/// What flows have to match: every field that is set, and of each field one value.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct FlowFilter {
    /// Ids.
    #[prost(string, repeated, tag = "29")]
    pub uuid: ::prost::alloc::vec::Vec<::prost::alloc::string::String>,
    /// Addresses and networks of the source.
    #[prost(string, repeated, tag = "1")]
    pub source_ip: ::prost::alloc::vec::Vec<::prost::alloc::string::String>,
    /// The same, after translation.
    #[prost(string, repeated, tag = "34")]
    pub source_ip_xlated: ::prost::alloc::vec::Vec<::prost::alloc::string::String>,
    /// Pods: a prefix of the name, or NAMESPACE/PREFIX.
    #[prost(string, repeated, tag = "2")]
    pub source_pod: ::prost::alloc::vec::Vec<::prost::alloc::string::String>,
    /// DNS names, with `*`.
    #[prost(string, repeated, tag = "7")]
    pub source_fqdn: ::prost::alloc::vec::Vec<::prost::alloc::string::String>,
    /// Label selectors.
    #[prost(string, repeated, tag = "10")]
    pub source_label: ::prost::alloc::vec::Vec<::prost::alloc::string::String>,
    /// Services, as pods.
    #[prost(string, repeated, tag = "16")]
    pub source_service: ::prost::alloc::vec::Vec<::prost::alloc::string::String>,
    /// Workloads.
    #[prost(message, repeated, tag = "26")]
    pub source_workload: ::prost::alloc::vec::Vec<Workload>,
    /// Names of clusters.
    #[prost(string, repeated, tag = "37")]
    pub source_cluster_name: ::prost::alloc::vec::Vec<::prost::alloc::string::String>,
    /// Addresses and networks of the destination.
    #[prost(string, repeated, tag = "3")]
    pub destination_ip: ::prost::alloc::vec::Vec<::prost::alloc::string::String>,
    /// Pods: a prefix of the name, or NAMESPACE/PREFIX.
    #[prost(string, repeated, tag = "4")]
    pub destination_pod: ::prost::alloc::vec::Vec<::prost::alloc::string::String>,
    /// DNS names, with `*`.
    #[prost(string, repeated, tag = "8")]
    pub destination_fqdn: ::prost::alloc::vec::Vec<::prost::alloc::string::String>,
    /// Label selectors.
    #[prost(string, repeated, tag = "11")]
    pub destination_label: ::prost::alloc::vec::Vec<::prost::alloc::string::String>,
    /// Services, as pods.
    #[prost(string, repeated, tag = "17")]
    pub destination_service: ::prost::alloc::vec::Vec<::prost::alloc::string::String>,
    /// Workloads.
    #[prost(message, repeated, tag = "27")]
    pub destination_workload: ::prost::alloc::vec::Vec<Workload>,
    /// Names of clusters.
    #[prost(string, repeated, tag = "38")]
    pub destination_cluster_name: ::prost::alloc::vec::Vec<
        ::prost::alloc::string::String,
    >,
    /// Directions.
    #[prost(enumeration = "TrafficDirection", repeated, tag = "30")]
    pub traffic_direction: ::prost::alloc::vec::Vec<i32>,
    /// Verdicts.
    #[prost(enumeration = "Verdict", repeated, tag = "5")]
    pub verdict: ::prost::alloc::vec::Vec<i32>,
    /// Reasons of drops.
    #[prost(enumeration = "DropReason", repeated, tag = "33")]
    pub drop_reason_desc: ::prost::alloc::vec::Vec<i32>,
    /// Links.
    #[prost(message, repeated, tag = "35")]
    pub interface: ::prost::alloc::vec::Vec<NetworkInterface>,
    /// Kinds of events.
    #[prost(message, repeated, tag = "6")]
    pub event_type: ::prost::alloc::vec::Vec<EventTypeFilter>,
    /// Status codes of HTTP responses: 404, or 4+.
    #[prost(string, repeated, tag = "9")]
    pub http_status_code: ::prost::alloc::vec::Vec<::prost::alloc::string::String>,
    /// L4 and L7 protocols.
    #[prost(string, repeated, tag = "12")]
    pub protocol: ::prost::alloc::vec::Vec<::prost::alloc::string::String>,
    /// Source ports.
    #[prost(string, repeated, tag = "13")]
    pub source_port: ::prost::alloc::vec::Vec<::prost::alloc::string::String>,
    /// Destination ports.
    #[prost(string, repeated, tag = "14")]
    pub destination_port: ::prost::alloc::vec::Vec<::prost::alloc::string::String>,
    /// Whether it is a reply.
    #[prost(bool, repeated, tag = "15")]
    pub reply: ::prost::alloc::vec::Vec<bool>,
    /// Patterns of the name in DNS queries.
    #[prost(string, repeated, tag = "18")]
    pub dns_query: ::prost::alloc::vec::Vec<::prost::alloc::string::String>,
    /// Identities of the source.
    #[prost(uint32, repeated, tag = "19")]
    pub source_identity: ::prost::alloc::vec::Vec<u32>,
    /// Identities of the destination.
    #[prost(uint32, repeated, tag = "20")]
    pub destination_identity: ::prost::alloc::vec::Vec<u32>,
    /// HTTP methods.
    #[prost(string, repeated, tag = "21")]
    pub http_method: ::prost::alloc::vec::Vec<::prost::alloc::string::String>,
    /// Patterns of the path of HTTP requests.
    #[prost(string, repeated, tag = "22")]
    pub http_path: ::prost::alloc::vec::Vec<::prost::alloc::string::String>,
    /// Patterns of the URL of HTTP requests.
    #[prost(string, repeated, tag = "31")]
    pub http_url: ::prost::alloc::vec::Vec<::prost::alloc::string::String>,
    /// Headers of HTTP requests.
    #[prost(message, repeated, tag = "32")]
    pub http_header: ::prost::alloc::vec::Vec<HttpHeader>,
    /// TCP flags: all that are set here.
    #[prost(message, repeated, tag = "23")]
    pub tcp_flags: ::prost::alloc::vec::Vec<TcpFlags>,
    /// Nodes: NODE, CLUSTER/NODE or CLUSTER/, with `*`.
    #[prost(string, repeated, tag = "24")]
    pub node_name: ::prost::alloc::vec::Vec<::prost::alloc::string::String>,
    /// Label selectors of nodes.
    #[prost(string, repeated, tag = "36")]
    pub node_labels: ::prost::alloc::vec::Vec<::prost::alloc::string::String>,
    /// Versions of IP.
    #[prost(enumeration = "IpVersion", repeated, tag = "25")]
    pub ip_version: ::prost::alloc::vec::Vec<i32>,
    /// Ids of distributed traces.
    #[prost(string, repeated, tag = "28")]
    pub trace_id: ::prost::alloc::vec::Vec<::prost::alloc::string::String>,
    /// Trace ids in IP options.
    #[prost(uint64, repeated, tag = "39")]
    pub ip_trace_id: ::prost::alloc::vec::Vec<u64>,
    /// Whether packets were encrypted.
    #[prost(bool, repeated, tag = "40")]
    pub encrypted: ::prost::alloc::vec::Vec<bool>,
    /// What may change.
    #[prost(message, optional, tag = "999")]
    pub experimental: ::core::option::Option<flow_filter::Experimental>,
}
/// Nested message and enum types in `FlowFilter`.
pub mod flow_filter {
    /// What may change.
    #[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
    pub struct Experimental {
        /// Expressions of the Common Expression Language.
        #[prost(string, repeated, tag = "1")]
        pub cel_expression: ::prost::alloc::vec::Vec<::prost::alloc::string::String>,
    }
}
/// Of a DNS query or response.
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct Dns {
    /// Name.
    #[prost(string, tag = "1")]
    pub query: ::prost::alloc::string::String,
    /// Addresses in the response.
    #[prost(string, repeated, tag = "2")]
    pub ips: ::prost::alloc::vec::Vec<::prost::alloc::string::String>,
    /// Time to live, seconds.
    #[prost(uint32, tag = "3")]
    pub ttl: u32,
    /// Canonical names in the response.
    #[prost(string, repeated, tag = "4")]
    pub cnames: ::prost::alloc::vec::Vec<::prost::alloc::string::String>,
    /// Who observed it.
    #[prost(string, tag = "5")]
    pub observation_source: ::prost::alloc::string::String,
    /// Response code.
    #[prost(uint32, tag = "6")]
    pub rcode: u32,
    /// Types that were asked for.
    #[prost(string, repeated, tag = "7")]
    pub qtypes: ::prost::alloc::vec::Vec<::prost::alloc::string::String>,
    /// Types in the response.
    #[prost(string, repeated, tag = "8")]
    pub rrtypes: ::prost::alloc::vec::Vec<::prost::alloc::string::String>,
}
/// An HTTP header.
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct HttpHeader {
    /// Name.
    #[prost(string, tag = "1")]
    pub key: ::prost::alloc::string::String,
    /// Value.
    #[prost(string, tag = "2")]
    pub value: ::prost::alloc::string::String,
}
/// Of an HTTP request or response.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct Http {
    /// Status code; zero in a request.
    #[prost(uint32, tag = "1")]
    pub code: u32,
    /// Method.
    #[prost(string, tag = "2")]
    pub method: ::prost::alloc::string::String,
    /// URL.
    #[prost(string, tag = "3")]
    pub url: ::prost::alloc::string::String,
    /// Version.
    #[prost(string, tag = "4")]
    pub protocol: ::prost::alloc::string::String,
    /// Headers.
    #[prost(message, repeated, tag = "5")]
    pub headers: ::prost::alloc::vec::Vec<HttpHeader>,
}
/// Of a Kafka request or response.
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct Kafka {
    /// Error code.
    #[prost(int32, tag = "1")]
    pub error_code: i32,
    /// Version of the request.
    #[prost(int32, tag = "2")]
    pub api_version: i32,
    /// Kind of the request.
    #[prost(string, tag = "3")]
    pub api_key: ::prost::alloc::string::String,
    /// Id that the client gave it.
    #[prost(int32, tag = "4")]
    pub correlation_id: i32,
    /// Topic.
    #[prost(string, tag = "5")]
    pub topic: ::prost::alloc::string::String,
}
/// A service.
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct Service {
    /// Name.
    #[prost(string, tag = "1")]
    pub name: ::prost::alloc::string::String,
    /// Namespace.
    #[prost(string, tag = "2")]
    pub namespace: ::prost::alloc::string::String,
}
/// A policy.
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct Policy {
    /// Name.
    #[prost(string, tag = "1")]
    pub name: ::prost::alloc::string::String,
    /// Namespace; empty for policies of the cluster.
    #[prost(string, tag = "2")]
    pub namespace: ::prost::alloc::string::String,
    /// Labels.
    #[prost(string, repeated, tag = "3")]
    pub labels: ::prost::alloc::vec::Vec<::prost::alloc::string::String>,
    /// Revision of the tables.
    #[prost(uint64, tag = "4")]
    pub revision: u64,
    /// Kind.
    #[prost(string, tag = "5")]
    pub kind: ::prost::alloc::string::String,
}
/// Events that were lost.
#[derive(Clone, Copy, PartialEq, Eq, Hash, ::prost::Message)]
pub struct LostEvent {
    /// Where.
    #[prost(enumeration = "LostEventSource", tag = "1")]
    pub source: i32,
    /// How many.
    #[prost(uint64, tag = "2")]
    pub num_events_lost: u64,
    /// On which processor.
    #[prost(message, optional, tag = "3")]
    pub cpu: ::core::option::Option<i32>,
    /// When the first was lost.
    #[prost(message, optional, tag = "4")]
    pub first: ::core::option::Option<::prost_types::Timestamp>,
    /// When the last was lost.
    #[prost(message, optional, tag = "5")]
    pub last: ::core::option::Option<::prost_types::Timestamp>,
}
/// An event of the agent.
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct AgentEvent {
    /// What it did.
    #[prost(enumeration = "AgentEventType", tag = "1")]
    pub r#type: i32,
    /// More of it.
    #[prost(oneof = "agent_event::Notification", tags = "101, 102, 104")]
    pub notification: ::core::option::Option<agent_event::Notification>,
}
/// Nested message and enum types in `AgentEvent`.
pub mod agent_event {
    /// More of it.
    #[derive(Clone, PartialEq, Eq, Hash, ::prost::Oneof)]
    pub enum Notification {
        /// Of AGENT_STARTED.
        #[prost(message, tag = "101")]
        AgentStart(super::TimeNotification),
        /// Of POLICY_UPDATED and POLICY_DELETED.
        #[prost(message, tag = "102")]
        PolicyUpdate(super::PolicyUpdateNotification),
        /// Of ENDPOINT_CREATED and ENDPOINT_DELETED.
        #[prost(message, tag = "104")]
        EndpointUpdate(super::EndpointUpdateNotification),
    }
}
/// A time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, ::prost::Message)]
pub struct TimeNotification {
    /// The time.
    #[prost(message, optional, tag = "1")]
    pub time: ::core::option::Option<::prost_types::Timestamp>,
}
/// Policy that was published.
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct PolicyUpdateNotification {
    /// Labels of the policy.
    #[prost(string, repeated, tag = "1")]
    pub labels: ::prost::alloc::vec::Vec<::prost::alloc::string::String>,
    /// Number of the publication.
    #[prost(uint64, tag = "2")]
    pub revision: u64,
    /// Number of policies.
    #[prost(int64, tag = "3")]
    pub rule_count: i64,
}
/// An endpoint that was attached or detached.
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct EndpointUpdateNotification {
    /// Its number.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Its labels.
    #[prost(string, repeated, tag = "2")]
    pub labels: ::prost::alloc::vec::Vec<::prost::alloc::string::String>,
    /// What went wrong.
    #[prost(string, tag = "3")]
    pub error: ::prost::alloc::string::String,
    /// Name of the pod.
    #[prost(string, tag = "4")]
    pub pod_name: ::prost::alloc::string::String,
    /// Namespace of the pod.
    #[prost(string, tag = "5")]
    pub namespace: ::prost::alloc::string::String,
}
/// A link.
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct NetworkInterface {
    /// Index.
    #[prost(uint32, tag = "1")]
    pub index: u32,
    /// Name.
    #[prost(string, tag = "2")]
    pub name: ::prost::alloc::string::String,
}
/// What a flow describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, ::prost::Enumeration)]
#[repr(i32)]
pub enum FlowType {
    /// Not known.
    UnknownType = 0,
    /// A packet.
    L3L4 = 1,
    /// A request or a response.
    L7 = 2,
    /// A socket call.
    Sock = 3,
}
impl FlowType {
    /// String value of the enum field names used in the ProtoBuf definition.
    ///
    /// The values are not transformed in any way and thus are considered stable
    /// (if the ProtoBuf definition does not change) and safe for programmatic use.
    pub fn as_str_name(&self) -> &'static str {
        match self {
            Self::UnknownType => "UNKNOWN_TYPE",
            Self::L3L4 => "L3_L4",
            Self::L7 => "L7",
            Self::Sock => "SOCK",
        }
    }
    /// Creates an enum from field names used in the ProtoBuf definition.
    pub fn from_str_name(value: &str) -> ::core::option::Option<Self> {
        match value {
            "UNKNOWN_TYPE" => Some(Self::UnknownType),
            "L3_L4" => Some(Self::L3L4),
            "L7" => Some(Self::L7),
            "SOCK" => Some(Self::Sock),
            _ => None,
        }
    }
}
/// How peers authenticate each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, ::prost::Enumeration)]
#[repr(i32)]
pub enum AuthType {
    /// They don't.
    Disabled = 0,
    /// By SPIFFE identities.
    Spire = 1,
    /// For tests.
    TestAlwaysFail = 2,
}
impl AuthType {
    /// String value of the enum field names used in the ProtoBuf definition.
    ///
    /// The values are not transformed in any way and thus are considered stable
    /// (if the ProtoBuf definition does not change) and safe for programmatic use.
    pub fn as_str_name(&self) -> &'static str {
        match self {
            Self::Disabled => "DISABLED",
            Self::Spire => "SPIRE",
            Self::TestAlwaysFail => "TEST_ALWAYS_FAIL",
        }
    }
    /// Creates an enum from field names used in the ProtoBuf definition.
    pub fn from_str_name(value: &str) -> ::core::option::Option<Self> {
        match value {
            "DISABLED" => Some(Self::Disabled),
            "SPIRE" => Some(Self::Spire),
            "TEST_ALWAYS_FAIL" => Some(Self::TestAlwaysFail),
            _ => None,
        }
    }
}
/// Where a forwarded packet was observed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, ::prost::Enumeration)]
#[repr(i32)]
pub enum TraceObservationPoint {
    /// Not known.
    UnknownPoint = 0,
    /// On its way to a proxy.
    ToProxy = 1,
    /// On its way to the node.
    ToHost = 2,
    /// On its way to the node's network stack.
    ToStack = 3,
    /// On its way to a tunnel.
    ToOverlay = 4,
    /// Received from a pod.
    FromEndpoint = 5,
    /// Received from a proxy.
    FromProxy = 6,
    /// Received from the node.
    FromHost = 7,
    /// Received from the node's network stack.
    FromStack = 8,
    /// Received from a tunnel.
    FromOverlay = 9,
    /// Received from the network.
    FromNetwork = 10,
    /// On its way to the network.
    ToNetwork = 11,
    /// On its way to a pod.
    ToEndpoint = 101,
}
impl TraceObservationPoint {
    /// String value of the enum field names used in the ProtoBuf definition.
    ///
    /// The values are not transformed in any way and thus are considered stable
    /// (if the ProtoBuf definition does not change) and safe for programmatic use.
    pub fn as_str_name(&self) -> &'static str {
        match self {
            Self::UnknownPoint => "UNKNOWN_POINT",
            Self::ToProxy => "TO_PROXY",
            Self::ToHost => "TO_HOST",
            Self::ToStack => "TO_STACK",
            Self::ToOverlay => "TO_OVERLAY",
            Self::FromEndpoint => "FROM_ENDPOINT",
            Self::FromProxy => "FROM_PROXY",
            Self::FromHost => "FROM_HOST",
            Self::FromStack => "FROM_STACK",
            Self::FromOverlay => "FROM_OVERLAY",
            Self::FromNetwork => "FROM_NETWORK",
            Self::ToNetwork => "TO_NETWORK",
            Self::ToEndpoint => "TO_ENDPOINT",
        }
    }
    /// Creates an enum from field names used in the ProtoBuf definition.
    pub fn from_str_name(value: &str) -> ::core::option::Option<Self> {
        match value {
            "UNKNOWN_POINT" => Some(Self::UnknownPoint),
            "TO_PROXY" => Some(Self::ToProxy),
            "TO_HOST" => Some(Self::ToHost),
            "TO_STACK" => Some(Self::ToStack),
            "TO_OVERLAY" => Some(Self::ToOverlay),
            "FROM_ENDPOINT" => Some(Self::FromEndpoint),
            "FROM_PROXY" => Some(Self::FromProxy),
            "FROM_HOST" => Some(Self::FromHost),
            "FROM_STACK" => Some(Self::FromStack),
            "FROM_OVERLAY" => Some(Self::FromOverlay),
            "FROM_NETWORK" => Some(Self::FromNetwork),
            "TO_NETWORK" => Some(Self::ToNetwork),
            "TO_ENDPOINT" => Some(Self::ToEndpoint),
            _ => None,
        }
    }
}
/// Why a forwarded packet was observed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, ::prost::Enumeration)]
#[repr(i32)]
pub enum TraceReason {
    /// Not known.
    Unknown = 0,
    /// It opened a connection.
    New = 1,
    /// It belongs to a connection.
    Established = 2,
    /// It answers in a connection.
    Reply = 3,
    /// It describes a connection.
    Related = 4,
}
impl TraceReason {
    /// String value of the enum field names used in the ProtoBuf definition.
    ///
    /// The values are not transformed in any way and thus are considered stable
    /// (if the ProtoBuf definition does not change) and safe for programmatic use.
    pub fn as_str_name(&self) -> &'static str {
        match self {
            Self::Unknown => "TRACE_REASON_UNKNOWN",
            Self::New => "NEW",
            Self::Established => "ESTABLISHED",
            Self::Reply => "REPLY",
            Self::Related => "RELATED",
        }
    }
    /// Creates an enum from field names used in the ProtoBuf definition.
    pub fn from_str_name(value: &str) -> ::core::option::Option<Self> {
        match value {
            "TRACE_REASON_UNKNOWN" => Some(Self::Unknown),
            "NEW" => Some(Self::New),
            "ESTABLISHED" => Some(Self::Established),
            "REPLY" => Some(Self::Reply),
            "RELATED" => Some(Self::Related),
            _ => None,
        }
    }
}
/// What an L7 flow is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, ::prost::Enumeration)]
#[repr(i32)]
pub enum L7FlowType {
    /// Not known.
    UnknownL7Type = 0,
    /// A request.
    Request = 1,
    /// A response.
    Response = 2,
    /// A sample.
    Sample = 3,
}
impl L7FlowType {
    /// String value of the enum field names used in the ProtoBuf definition.
    ///
    /// The values are not transformed in any way and thus are considered stable
    /// (if the ProtoBuf definition does not change) and safe for programmatic use.
    pub fn as_str_name(&self) -> &'static str {
        match self {
            Self::UnknownL7Type => "UNKNOWN_L7_TYPE",
            Self::Request => "REQUEST",
            Self::Response => "RESPONSE",
            Self::Sample => "SAMPLE",
        }
    }
    /// Creates an enum from field names used in the ProtoBuf definition.
    pub fn from_str_name(value: &str) -> ::core::option::Option<Self> {
        match value {
            "UNKNOWN_L7_TYPE" => Some(Self::UnknownL7Type),
            "REQUEST" => Some(Self::Request),
            "RESPONSE" => Some(Self::Response),
            "SAMPLE" => Some(Self::Sample),
            _ => None,
        }
    }
}
/// Version of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, ::prost::Enumeration)]
#[repr(i32)]
pub enum IpVersion {
    /// No IP.
    IpNotUsed = 0,
    /// IPv4.
    IPv4 = 1,
    /// IPv6.
    IPv6 = 2,
}
impl IpVersion {
    /// String value of the enum field names used in the ProtoBuf definition.
    ///
    /// The values are not transformed in any way and thus are considered stable
    /// (if the ProtoBuf definition does not change) and safe for programmatic use.
    pub fn as_str_name(&self) -> &'static str {
        match self {
            Self::IpNotUsed => "IP_NOT_USED",
            Self::IPv4 => "IPv4",
            Self::IPv6 => "IPv6",
        }
    }
    /// Creates an enum from field names used in the ProtoBuf definition.
    pub fn from_str_name(value: &str) -> ::core::option::Option<Self> {
        match value {
            "IP_NOT_USED" => Some(Self::IpNotUsed),
            "IPv4" => Some(Self::IPv4),
            "IPv6" => Some(Self::IPv6),
            _ => None,
        }
    }
}
/// Verdict on a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, ::prost::Enumeration)]
#[repr(i32)]
pub enum Verdict {
    /// Not known.
    Unknown = 0,
    /// Forwarded.
    Forwarded = 1,
    /// Dropped, or denied.
    Dropped = 2,
    /// An error.
    Error = 3,
    /// Policy would have denied it.
    Audit = 4,
    /// It goes to L7 inspection.
    Redirected = 5,
    /// Observed, without a verdict.
    Traced = 6,
    /// An address was translated.
    Translated = 7,
}
impl Verdict {
    /// String value of the enum field names used in the ProtoBuf definition.
    ///
    /// The values are not transformed in any way and thus are considered stable
    /// (if the ProtoBuf definition does not change) and safe for programmatic use.
    pub fn as_str_name(&self) -> &'static str {
        match self {
            Self::Unknown => "VERDICT_UNKNOWN",
            Self::Forwarded => "FORWARDED",
            Self::Dropped => "DROPPED",
            Self::Error => "ERROR",
            Self::Audit => "AUDIT",
            Self::Redirected => "REDIRECTED",
            Self::Traced => "TRACED",
            Self::Translated => "TRANSLATED",
        }
    }
    /// Creates an enum from field names used in the ProtoBuf definition.
    pub fn from_str_name(value: &str) -> ::core::option::Option<Self> {
        match value {
            "VERDICT_UNKNOWN" => Some(Self::Unknown),
            "FORWARDED" => Some(Self::Forwarded),
            "DROPPED" => Some(Self::Dropped),
            "ERROR" => Some(Self::Error),
            "AUDIT" => Some(Self::Audit),
            "REDIRECTED" => Some(Self::Redirected),
            "TRACED" => Some(Self::Traced),
            "TRANSLATED" => Some(Self::Translated),
            _ => None,
        }
    }
}
/// Why packets are dropped: the reasons that podgate has, and others of Cilium that a filter may
/// name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, ::prost::Enumeration)]
#[repr(i32)]
pub enum DropReason {
    /// Not known.
    Unknown = 0,
    /// Source MAC address.
    InvalidSourceMac = 130,
    /// Destination MAC address.
    InvalidDestinationMac = 131,
    /// Source address.
    InvalidSourceIp = 132,
    /// No rule allows it.
    PolicyDenied = 133,
    /// Malformed.
    InvalidPacketDropped = 134,
    /// A header that is incomplete or invalid.
    CtTruncatedOrInvalidHeader = 135,
    /// A TCP segment without ACK.
    CtMissingTcpAckFlag = 136,
    /// An L4 protocol that has no connections.
    CtUnknownL4Protocol = 137,
    /// No connection can be made of it.
    CtCannotCreateEntryFromPacket = 138,
    /// Neither IPv4 nor IPv6.
    UnsupportedL3Protocol = 139,
    /// A program is missing.
    MissedTailCall = 140,
    /// The packet can't be written.
    ErrorWritingToPacket = 141,
    /// L4 protocol that is not known.
    UnknownL4Protocol = 142,
    /// Code of an ICMP message.
    UnknownIcmpv4Code = 143,
    /// Type of an ICMP message.
    UnknownIcmpv4Type = 144,
    /// Code of an ICMPv6 message.
    UnknownIcmpv6Code = 145,
    /// Type of an ICMPv6 message.
    UnknownIcmpv6Type = 146,
    /// Nothing leads to the address.
    StaleOrUnroutableIp = 151,
    /// No such pod on this node.
    NoMatchingLocalContainerFound = 152,
    /// L3 checksum.
    ErrorWhileCorrectingL3Checksum = 153,
    /// L4 checksum.
    ErrorWhileCorrectingL4Checksum = 154,
    /// No place for another connection.
    CtMapInsertionFailed = 155,
    /// IPv6 extension header.
    InvalidIpv6ExtensionHeader = 156,
    /// A fragment, or a packet that can't be fragmented.
    IpFragmentationNotSupported = 157,
    /// No backend.
    ServiceBackendNotFound = 158,
    /// Neither ARP nor IP.
    UnsupportedL2Protocol = 166,
    /// No route.
    FibLookupFailed = 169,
    /// Tunnels are not allowed.
    EncapsulationTrafficIsProhibited = 170,
    /// Identity.
    InvalidIdentity = 171,
    /// Sender.
    UnknownSender = 172,
    /// Address of a service.
    IsAClusterip = 174,
    /// The first fragment is missing.
    FirstLogicalDatagramFragmentNotFound = 175,
    /// ICMPv6 message that is not allowed.
    ForbiddenIcmpv6Message = 176,
    /// Source is not in the ranges of the load balancer.
    DeniedByLbSrcRangeCheck = 177,
    /// A rule denies it.
    PolicyDeny = 181,
    /// VLAN.
    VlanFiltered = 182,
    /// Peers have to authenticate each other first.
    AuthRequired = 189,
    /// TTL or hop limit.
    TtlExceeded = 196,
    /// A limit of packets.
    DropRateLimited = 198,
    /// The node is not ready.
    DropHostNotReady = 202,
    /// The pod is not ready.
    DropEpNotReady = 203,
}
impl DropReason {
    /// String value of the enum field names used in the ProtoBuf definition.
    ///
    /// The values are not transformed in any way and thus are considered stable
    /// (if the ProtoBuf definition does not change) and safe for programmatic use.
    pub fn as_str_name(&self) -> &'static str {
        match self {
            Self::Unknown => "DROP_REASON_UNKNOWN",
            Self::InvalidSourceMac => "INVALID_SOURCE_MAC",
            Self::InvalidDestinationMac => "INVALID_DESTINATION_MAC",
            Self::InvalidSourceIp => "INVALID_SOURCE_IP",
            Self::PolicyDenied => "POLICY_DENIED",
            Self::InvalidPacketDropped => "INVALID_PACKET_DROPPED",
            Self::CtTruncatedOrInvalidHeader => "CT_TRUNCATED_OR_INVALID_HEADER",
            Self::CtMissingTcpAckFlag => "CT_MISSING_TCP_ACK_FLAG",
            Self::CtUnknownL4Protocol => "CT_UNKNOWN_L4_PROTOCOL",
            Self::CtCannotCreateEntryFromPacket => "CT_CANNOT_CREATE_ENTRY_FROM_PACKET",
            Self::UnsupportedL3Protocol => "UNSUPPORTED_L3_PROTOCOL",
            Self::MissedTailCall => "MISSED_TAIL_CALL",
            Self::ErrorWritingToPacket => "ERROR_WRITING_TO_PACKET",
            Self::UnknownL4Protocol => "UNKNOWN_L4_PROTOCOL",
            Self::UnknownIcmpv4Code => "UNKNOWN_ICMPV4_CODE",
            Self::UnknownIcmpv4Type => "UNKNOWN_ICMPV4_TYPE",
            Self::UnknownIcmpv6Code => "UNKNOWN_ICMPV6_CODE",
            Self::UnknownIcmpv6Type => "UNKNOWN_ICMPV6_TYPE",
            Self::StaleOrUnroutableIp => "STALE_OR_UNROUTABLE_IP",
            Self::NoMatchingLocalContainerFound => "NO_MATCHING_LOCAL_CONTAINER_FOUND",
            Self::ErrorWhileCorrectingL3Checksum => "ERROR_WHILE_CORRECTING_L3_CHECKSUM",
            Self::ErrorWhileCorrectingL4Checksum => "ERROR_WHILE_CORRECTING_L4_CHECKSUM",
            Self::CtMapInsertionFailed => "CT_MAP_INSERTION_FAILED",
            Self::InvalidIpv6ExtensionHeader => "INVALID_IPV6_EXTENSION_HEADER",
            Self::IpFragmentationNotSupported => "IP_FRAGMENTATION_NOT_SUPPORTED",
            Self::ServiceBackendNotFound => "SERVICE_BACKEND_NOT_FOUND",
            Self::UnsupportedL2Protocol => "UNSUPPORTED_L2_PROTOCOL",
            Self::FibLookupFailed => "FIB_LOOKUP_FAILED",
            Self::EncapsulationTrafficIsProhibited => {
                "ENCAPSULATION_TRAFFIC_IS_PROHIBITED"
            }
            Self::InvalidIdentity => "INVALID_IDENTITY",
            Self::UnknownSender => "UNKNOWN_SENDER",
            Self::IsAClusterip => "IS_A_CLUSTERIP",
            Self::FirstLogicalDatagramFragmentNotFound => {
                "FIRST_LOGICAL_DATAGRAM_FRAGMENT_NOT_FOUND"
            }
            Self::ForbiddenIcmpv6Message => "FORBIDDEN_ICMPV6_MESSAGE",
            Self::DeniedByLbSrcRangeCheck => "DENIED_BY_LB_SRC_RANGE_CHECK",
            Self::PolicyDeny => "POLICY_DENY",
            Self::VlanFiltered => "VLAN_FILTERED",
            Self::AuthRequired => "AUTH_REQUIRED",
            Self::TtlExceeded => "TTL_EXCEEDED",
            Self::DropRateLimited => "DROP_RATE_LIMITED",
            Self::DropHostNotReady => "DROP_HOST_NOT_READY",
            Self::DropEpNotReady => "DROP_EP_NOT_READY",
        }
    }
    /// Creates an enum from field names used in the ProtoBuf definition.
    pub fn from_str_name(value: &str) -> ::core::option::Option<Self> {
        match value {
            "DROP_REASON_UNKNOWN" => Some(Self::Unknown),
            "INVALID_SOURCE_MAC" => Some(Self::InvalidSourceMac),
            "INVALID_DESTINATION_MAC" => Some(Self::InvalidDestinationMac),
            "INVALID_SOURCE_IP" => Some(Self::InvalidSourceIp),
            "POLICY_DENIED" => Some(Self::PolicyDenied),
            "INVALID_PACKET_DROPPED" => Some(Self::InvalidPacketDropped),
            "CT_TRUNCATED_OR_INVALID_HEADER" => Some(Self::CtTruncatedOrInvalidHeader),
            "CT_MISSING_TCP_ACK_FLAG" => Some(Self::CtMissingTcpAckFlag),
            "CT_UNKNOWN_L4_PROTOCOL" => Some(Self::CtUnknownL4Protocol),
            "CT_CANNOT_CREATE_ENTRY_FROM_PACKET" => {
                Some(Self::CtCannotCreateEntryFromPacket)
            }
            "UNSUPPORTED_L3_PROTOCOL" => Some(Self::UnsupportedL3Protocol),
            "MISSED_TAIL_CALL" => Some(Self::MissedTailCall),
            "ERROR_WRITING_TO_PACKET" => Some(Self::ErrorWritingToPacket),
            "UNKNOWN_L4_PROTOCOL" => Some(Self::UnknownL4Protocol),
            "UNKNOWN_ICMPV4_CODE" => Some(Self::UnknownIcmpv4Code),
            "UNKNOWN_ICMPV4_TYPE" => Some(Self::UnknownIcmpv4Type),
            "UNKNOWN_ICMPV6_CODE" => Some(Self::UnknownIcmpv6Code),
            "UNKNOWN_ICMPV6_TYPE" => Some(Self::UnknownIcmpv6Type),
            "STALE_OR_UNROUTABLE_IP" => Some(Self::StaleOrUnroutableIp),
            "NO_MATCHING_LOCAL_CONTAINER_FOUND" => {
                Some(Self::NoMatchingLocalContainerFound)
            }
            "ERROR_WHILE_CORRECTING_L3_CHECKSUM" => {
                Some(Self::ErrorWhileCorrectingL3Checksum)
            }
            "ERROR_WHILE_CORRECTING_L4_CHECKSUM" => {
                Some(Self::ErrorWhileCorrectingL4Checksum)
            }
            "CT_MAP_INSERTION_FAILED" => Some(Self::CtMapInsertionFailed),
            "INVALID_IPV6_EXTENSION_HEADER" => Some(Self::InvalidIpv6ExtensionHeader),
            "IP_FRAGMENTATION_NOT_SUPPORTED" => Some(Self::IpFragmentationNotSupported),
            "SERVICE_BACKEND_NOT_FOUND" => Some(Self::ServiceBackendNotFound),
            "UNSUPPORTED_L2_PROTOCOL" => Some(Self::UnsupportedL2Protocol),
            "FIB_LOOKUP_FAILED" => Some(Self::FibLookupFailed),
            "ENCAPSULATION_TRAFFIC_IS_PROHIBITED" => {
                Some(Self::EncapsulationTrafficIsProhibited)
            }
            "INVALID_IDENTITY" => Some(Self::InvalidIdentity),
            "UNKNOWN_SENDER" => Some(Self::UnknownSender),
            "IS_A_CLUSTERIP" => Some(Self::IsAClusterip),
            "FIRST_LOGICAL_DATAGRAM_FRAGMENT_NOT_FOUND" => {
                Some(Self::FirstLogicalDatagramFragmentNotFound)
            }
            "FORBIDDEN_ICMPV6_MESSAGE" => Some(Self::ForbiddenIcmpv6Message),
            "DENIED_BY_LB_SRC_RANGE_CHECK" => Some(Self::DeniedByLbSrcRangeCheck),
            "POLICY_DENY" => Some(Self::PolicyDeny),
            "VLAN_FILTERED" => Some(Self::VlanFiltered),
            "AUTH_REQUIRED" => Some(Self::AuthRequired),
            "TTL_EXCEEDED" => Some(Self::TtlExceeded),
            "DROP_RATE_LIMITED" => Some(Self::DropRateLimited),
            "DROP_HOST_NOT_READY" => Some(Self::DropHostNotReady),
            "DROP_EP_NOT_READY" => Some(Self::DropEpNotReady),
            _ => None,
        }
    }
}
/// Direction of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, ::prost::Enumeration)]
#[repr(i32)]
pub enum TrafficDirection {
    /// Not known.
    Unknown = 0,
    /// To the pod.
    Ingress = 1,
    /// From the pod.
    Egress = 2,
}
impl TrafficDirection {
    /// String value of the enum field names used in the ProtoBuf definition.
    ///
    /// The values are not transformed in any way and thus are considered stable
    /// (if the ProtoBuf definition does not change) and safe for programmatic use.
    pub fn as_str_name(&self) -> &'static str {
        match self {
            Self::Unknown => "TRAFFIC_DIRECTION_UNKNOWN",
            Self::Ingress => "INGRESS",
            Self::Egress => "EGRESS",
        }
    }
    /// Creates an enum from field names used in the ProtoBuf definition.
    pub fn from_str_name(value: &str) -> ::core::option::Option<Self> {
        match value {
            "TRAFFIC_DIRECTION_UNKNOWN" => Some(Self::Unknown),
            "INGRESS" => Some(Self::Ingress),
            "EGRESS" => Some(Self::Egress),
            _ => None,
        }
    }
}
/// Where events were lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, ::prost::Enumeration)]
#[repr(i32)]
pub enum LostEventSource {
    /// Not known.
    UnknownLostEventSource = 0,
    /// Between the dataplane and the agent.
    PerfEventRingBuffer = 1,
    /// In the agent's queue.
    ObserverEventsQueue = 2,
    /// In the ring: the client read too slowly.
    HubbleRingBuffer = 3,
}
impl LostEventSource {
    /// String value of the enum field names used in the ProtoBuf definition.
    ///
    /// The values are not transformed in any way and thus are considered stable
    /// (if the ProtoBuf definition does not change) and safe for programmatic use.
    pub fn as_str_name(&self) -> &'static str {
        match self {
            Self::UnknownLostEventSource => "UNKNOWN_LOST_EVENT_SOURCE",
            Self::PerfEventRingBuffer => "PERF_EVENT_RING_BUFFER",
            Self::ObserverEventsQueue => "OBSERVER_EVENTS_QUEUE",
            Self::HubbleRingBuffer => "HUBBLE_RING_BUFFER",
        }
    }
    /// Creates an enum from field names used in the ProtoBuf definition.
    pub fn from_str_name(value: &str) -> ::core::option::Option<Self> {
        match value {
            "UNKNOWN_LOST_EVENT_SOURCE" => Some(Self::UnknownLostEventSource),
            "PERF_EVENT_RING_BUFFER" => Some(Self::PerfEventRingBuffer),
            "OBSERVER_EVENTS_QUEUE" => Some(Self::ObserverEventsQueue),
            "HUBBLE_RING_BUFFER" => Some(Self::HubbleRingBuffer),
            _ => None,
        }
    }
}
/// What the agent did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, ::prost::Enumeration)]
#[repr(i32)]
pub enum AgentEventType {
    /// Not known.
    AgentEventUnknown = 0,
    /// It started.
    AgentStarted = 2,
    /// It published policy.
    PolicyUpdated = 3,
    /// It removed policy.
    PolicyDeleted = 4,
    /// It applied policy to an endpoint.
    EndpointRegenerateSuccess = 5,
    /// It could not apply policy to an endpoint.
    EndpointRegenerateFailure = 6,
    /// It attached an endpoint.
    EndpointCreated = 7,
    /// It detached an endpoint.
    EndpointDeleted = 8,
    /// It learned the identity of an address.
    IpcacheUpserted = 9,
    /// It forgot the identity of an address.
    IpcacheDeleted = 10,
    /// It learned of a service.
    ServiceUpserted = 11,
    /// It forgot a service.
    ServiceDeleted = 12,
}
impl AgentEventType {
    /// String value of the enum field names used in the ProtoBuf definition.
    ///
    /// The values are not transformed in any way and thus are considered stable
    /// (if the ProtoBuf definition does not change) and safe for programmatic use.
    pub fn as_str_name(&self) -> &'static str {
        match self {
            Self::AgentEventUnknown => "AGENT_EVENT_UNKNOWN",
            Self::AgentStarted => "AGENT_STARTED",
            Self::PolicyUpdated => "POLICY_UPDATED",
            Self::PolicyDeleted => "POLICY_DELETED",
            Self::EndpointRegenerateSuccess => "ENDPOINT_REGENERATE_SUCCESS",
            Self::EndpointRegenerateFailure => "ENDPOINT_REGENERATE_FAILURE",
            Self::EndpointCreated => "ENDPOINT_CREATED",
            Self::EndpointDeleted => "ENDPOINT_DELETED",
            Self::IpcacheUpserted => "IPCACHE_UPSERTED",
            Self::IpcacheDeleted => "IPCACHE_DELETED",
            Self::ServiceUpserted => "SERVICE_UPSERTED",
            Self::ServiceDeleted => "SERVICE_DELETED",
        }
    }
    /// Creates an enum from field names used in the ProtoBuf definition.
    pub fn from_str_name(value: &str) -> ::core::option::Option<Self> {
        match value {
            "AGENT_EVENT_UNKNOWN" => Some(Self::AgentEventUnknown),
            "AGENT_STARTED" => Some(Self::AgentStarted),
            "POLICY_UPDATED" => Some(Self::PolicyUpdated),
            "POLICY_DELETED" => Some(Self::PolicyDeleted),
            "ENDPOINT_REGENERATE_SUCCESS" => Some(Self::EndpointRegenerateSuccess),
            "ENDPOINT_REGENERATE_FAILURE" => Some(Self::EndpointRegenerateFailure),
            "ENDPOINT_CREATED" => Some(Self::EndpointCreated),
            "ENDPOINT_DELETED" => Some(Self::EndpointDeleted),
            "IPCACHE_UPSERTED" => Some(Self::IpcacheUpserted),
            "IPCACHE_DELETED" => Some(Self::IpcacheDeleted),
            "SERVICE_UPSERTED" => Some(Self::ServiceUpserted),
            "SERVICE_DELETED" => Some(Self::ServiceDeleted),
            _ => None,
        }
    }
}
