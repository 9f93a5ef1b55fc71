//! The flow record and its parts.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use podgate_tables::event::HttpVersion;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::names::{PolicyName, RuleName};
use crate::catalog::ServiceName;
use crate::model::Workload;
use crate::rules::TrafficDirection;

/// The outcome of a flow, packet or request; the names are Hubble's.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "UPPERCASE")]
pub enum Outcome {
    /// It was forwarded.
    Forwarded,
    /// It was dropped, or denied.
    Dropped,
    /// It goes to L7 inspection, which decides on each request.
    Redirected,
}

/// One event with its names.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct FlowRecord {
    /// When it happened.
    pub time: Timestamp,
    /// Its outcome.
    pub verdict: Outcome,
    /// Why it was dropped: a label of [`podgate_tables::drop_reason::AnyDropReason`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drop_reason: Option<String>,
    /// Of a denied request, the rules that restrict the flow's requests. Where both ends have some,
    /// those of both are here, even if the request matches a rule of one end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub denied_by: Vec<Restriction>,
    /// The end that opened the flow.
    pub source: FlowEndpoint,
    /// The other end.
    pub destination: FlowEndpoint,
    /// The service that the source sends to; the destination is its backend, or the service's own
    /// address where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<FlowService>,
    /// `TCP`, `UDP`, `SCTP`, `ICMPv4`, `ICMPv6`, or the protocol's number; `Ethernet` where there
    /// is no IP header.
    pub protocol: String,
    /// Whether the packet went from the destination to the source; absent where that is not
    /// known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is_reply: Option<bool>,
    /// Slot of the link that received the packet.
    pub link: u16,
    /// Epoch of the tables that decided it.
    pub epoch: u64,
    /// What happened.
    #[serde(flatten)]
    pub detail: Detail,
}

/// One end of a flow.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct FlowEndpoint {
    /// Address.
    pub address: IpAddr,
    /// L4 port; absent for protocols without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Identity number, Cilium's for the reserved ones.
    pub identity: u32,
    /// Labels of the identity.
    #[serde(with = "shared")]
    pub labels: Arc<[String]>,
    /// Namespace of the pod that has the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name of the pod that has the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// The pod's workload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<Workload>,
    /// The service that has the address as its cluster IP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceName>,
    /// DNS names of the address that the other end asked for. Not escaped.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
}

/// A list that records share, as JSON.
mod shared {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(
        list: &Arc<[String]>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        list[..].serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Arc<[String]>, D::Error> {
        Vec::deserialize(deserializer).map(Arc::from)
    }
}

/// A rule about requests that a denied request does not match.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Restriction {
    /// The end that it restricts.
    pub direction: TrafficDirection,
    /// The rule.
    pub rule: RuleName,
}

/// The service that a flow is sent to.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct FlowService {
    /// The service's address that the source sends to.
    pub address: IpAddr,
    /// The port there.
    pub port: u16,
    /// Namespace; empty if the service is gone.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Name; likewise.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
}

/// What happened.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Detail {
    /// Policy decided on a flow.
    PolicyVerdict {
        /// At the source.
        egress: DirectionVerdict,
        /// At the destination.
        ingress: DirectionVerdict,
        /// Flags of the packet that opened the flow.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        tcp_flags: Vec<String>,
        /// ICMP type.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        icmp_type: Option<u8>,
        /// Whether an established flow was evaluated again after a change of policy.
        reevaluated: bool,
    },
    /// A packet was dropped for another reason than policy.
    Drop {
        /// What is known of one that could not be parsed, or that a BPF program dropped.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        frame: Option<DroppedFrame>,
    },
    /// An HTTP request was allowed or denied.
    HttpRequest {
        /// Version of HTTP.
        #[serde(default)]
        version: HttpProtocol,
        /// Method. Control characters from the pod are escaped, here and in the next two.
        method: String,
        /// Request target, cut to [`podgate_tables::event::PATH_MAX`] bytes.
        path: String,
        /// Host header.
        host: String,
        /// The rule that allowed it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rule: Option<RuleName>,
    },
    /// A TLS connection was allowed or denied by the server name of its ClientHello.
    TlsRequest {
        /// The server name, cut to [`podgate_tables::event::SERVER_NAME_MAX`] bytes; empty if the
        /// client named none. Control characters from the pod are escaped.
        server_name: String,
        /// The rule that allowed it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rule: Option<RuleName>,
    },
    /// A Kafka request was allowed or denied.
    KafkaRequest {
        /// API key.
        api_key: i16,
        /// API version.
        api_version: i16,
        /// Correlation id.
        correlation_id: i32,
        /// Client id, cut to [`podgate_tables::event::CLIENT_ID_MAX`] bytes. Control characters
        /// from the pod are escaped, here and in the topic.
        client_id: String,
        /// The first topic, cut to [`podgate_tables::event::TOPIC_MAX`] bytes; empty if there is
        /// none.
        topic: String,
        /// The rule that allowed it, or its first topic.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rule: Option<RuleName>,
    },
    /// A Kafka response passed.
    KafkaResponse {
        /// The first error code in it; 0 if there is none.
        error_code: i16,
        /// From the request's release to the response, nanoseconds.
        latency_ns: u64,
    },
    /// An HTTP response head passed.
    HttpResponse {
        /// Version of HTTP, of the request.
        #[serde(default)]
        version: HttpProtocol,
        /// Status code.
        status: u16,
        /// Status of a gRPC call; 0 is success.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        grpc_status: Option<u16>,
        /// From the request's release to the response's head, nanoseconds.
        latency_ns: u64,
        /// What it answers, if the event of the request is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        request: Option<HttpTarget>,
    },
    /// A DNS query was allowed or denied.
    DnsRequest {
        /// Name, cut to [`podgate_tables::event::QUERIED_NAME_MAX`] bytes, with a trailing dot.
        query: String,
        /// Type of the records that were asked for: `A`, or `TYPE65280` for one without a name.
        qtype: String,
        /// The rule that allowed it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rule: Option<RuleName>,
    },
    /// A DNS response was forwarded.
    DnsResponse {
        /// Response code.
        rcode: u8,
        /// Type of the records that were asked for, if the response says it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        qtype: Option<String>,
        /// The first address of the queried name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        address: Option<IpAddr>,
        /// How many addresses there are.
        addresses: u16,
        /// Seconds for which the first one may be used.
        ttl: u32,
        /// From the query's release to that of the response, nanoseconds.
        latency_ns: u64,
    },
    /// The flow ended.
    End {
        /// Packets from the source and to it.
        packets: [u64; 2],
        /// Bytes from the source and to it.
        bytes: [u64; 2],
    },
}

/// A frame whose headers could not be parsed, or not all of them, or that a BPF program dropped.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct DroppedFrame {
    /// Ethernet source, as `02:00:00:00:00:01`; zeros if the frame is too short for it.
    pub source: String,
    /// Ethernet destination; likewise.
    pub destination: String,
    /// Whether the addresses of the record and its protocol are those of an IP header. If not, the
    /// source is the endpoint of the link, if it has one, and what is not known is zero. If a BPF
    /// program dropped the frame on its way to a pod, the destination is the endpoint instead.
    pub has_addresses: bool,
}

/// A version of HTTP, as Hubble has it: `HTTP/1.1`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HttpProtocol(pub HttpVersion);

impl From<HttpVersion> for HttpProtocol {
    fn from(version: HttpVersion) -> Self {
        Self(version)
    }
}

impl fmt::Display for HttpProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.label())
    }
}

impl Serialize for HttpProtocol {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.label())
    }
}

impl<'de> Deserialize<'de> for HttpProtocol {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let label = String::deserialize(deserializer)?;
        let version = HttpVersion::ALL.into_iter().find(|version| version.label() == label);
        version.map(Self).ok_or_else(|| de::Error::custom(format!("no version of HTTP: {label}")))
    }
}

/// What an HTTP request asked for; the fields are those of [`Detail::HttpRequest`].
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct HttpTarget {
    /// Method.
    pub method: String,
    /// Request target.
    pub path: String,
    /// Host header.
    pub host: String,
}

/// What decided one direction of a flow.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct DirectionVerdict {
    /// Whether this direction is open.
    pub allowed: bool,
    /// By what.
    #[serde(flatten)]
    pub by: DecidedBy,
}

/// What decided a direction.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(tag = "by", rename_all = "kebab-case")]
pub enum DecidedBy {
    /// A rule.
    Rule {
        /// Which.
        rule: RuleName,
        /// What of the flow the rule named.
        #[serde(rename = "match")]
        matched: MatchType,
    },
    /// This rule allows, but it and another that matches name different L7 protocols, so that
    /// nothing passes.
    Conflict {
        /// Which.
        rule: RuleName,
    },
    /// No rule matched, and these policies isolate the endpoint.
    DefaultDeny {
        /// Which policies.
        policies: Vec<PolicyName>,
    },
    /// No policy selects the endpoint in this direction.
    Unenforced,
    /// Traffic between the node and its own pods.
    Node,
    /// Traffic of an endpoint with itself.
    ToSelf,
    /// The endpoint is on another node, which applies its policy.
    NotLocal,
}

impl DecidedBy {
    /// What of the flow was matched, as Hubble has it; `None` if nothing was. Exemptions match the
    /// peer, and where no policy is enforced everything matches.
    #[must_use]
    pub fn matched(&self) -> Option<MatchType> {
        match self {
            Self::Rule { matched, .. } => Some(*matched),
            Self::Conflict { .. } => Some(MatchType::L3L4),
            Self::Node | Self::ToSelf => Some(MatchType::L3Only),
            Self::Unenforced | Self::NotLocal => Some(MatchType::All),
            Self::DefaultDeny { .. } => None,
        }
    }
}

/// What of a flow a rule named; the words are Hubble's `policy_match_type`
/// (cilium `pkg/monitor/api/types.go`).
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub enum MatchType {
    /// The peer only.
    #[serde(rename = "L3-Only")]
    L3Only,
    /// Peer and port.
    #[serde(rename = "L3-L4")]
    L3L4,
    /// The port only.
    #[serde(rename = "L4-Only")]
    L4Only,
    /// Nothing: any peer, any port.
    #[serde(rename = "all")]
    All,
}
