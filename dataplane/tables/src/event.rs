//! Events that workers report to the control thread, of fixed size.
//!
//! Rules are ids in an event; the catalogue of the tables of [`Event::epoch`] has their names.

use crate::address::{Address, Mac};
use crate::drop_reason::{DropReason, FrameDropReason};
use crate::ids::{Epoch, LinkId, RuleId};
use crate::policy::{Cause, Verdict};
use crate::service::L4Addr;
use crate::time::Nanos;
use crate::tuple::Tuple;

/// A reported event of one flow. `R` describes an L7 request; on a ring it is `()`, as requests
/// have a ring of their own.
#[derive(Clone, Copy, Debug)]
pub struct Event<R = RequestRecord> {
    /// Time on the worker's clock.
    pub time: Nanos,
    /// Epoch of the snapshot in force.
    pub epoch: Epoch,
    /// Ingress link of the packet; the host link, if a BPF program dropped it on its way to a pod.
    pub link: LinkId,
    /// The flow, in its original direction; of a translated one, with the backend.
    pub tuple: Tuple,
    /// The service's address and port that the opener sends to, if the flow is translated.
    pub frontend: Option<L4Addr>,
    /// What happened.
    pub kind: EventKind<R>,
}

impl<R> Event<R> {
    /// The same event with its request converted by `map`.
    pub fn map_request<S>(self, map: impl FnOnce(R) -> S) -> Event<S> {
        let Self { time, epoch, link, tuple, frontend, kind } = self;
        Event { time, epoch, link, tuple, frontend, kind: kind.map_request(map) }
    }
}

/// The kinds of events. `R` as in [`Event`].
#[derive(Clone, Copy, Debug)]
pub enum EventKind<R = RequestRecord> {
    /// A flow was allowed, denied, or evaluated again in a new epoch.
    Verdict {
        /// Forwarded, inspected or dropped.
        verdict: Verdict,
        /// What decided the source's egress.
        egress: Cause,
        /// What decided the destination's ingress.
        ingress: Cause,
        /// TCP flags of the packet, or zero.
        tcp_flags: u8,
        /// ICMP type, or zero.
        icmp_type: u8,
        /// Whether this is a new verdict on an established flow after a policy change.
        reevaluated: bool,
    },
    /// A packet was dropped for a reason other than policy.
    Drop {
        /// The reason.
        reason: DropReason,
    },
    /// A packet was dropped whose headers are malformed, or not supported. Ports that are not known
    /// are zero.
    Unparsed {
        /// The reason.
        reason: DropReason,
        /// The Ethernet addresses; zeros if the frame is too short for them.
        ethernet: Ethernet,
        /// Whether the addresses and the protocol of the tuple are the packet's. If not, the source
        /// is the endpoint of the link, if it has one, and what is not known is zero.
        has_addresses: bool,
    },
    /// A BPF program dropped a frame.
    ProgramDrop {
        /// The reason.
        reason: FrameDropReason,
        /// The Ethernet addresses, as in [`Self::Unparsed`]; `None` where the program sees none.
        ethernet: Option<Ethernet>,
        /// As in [`Self::Unparsed`]; for a frame to a pod, the endpoint of the link is the
        /// destination.
        has_addresses: bool,
    },
    /// An L7 request was allowed or denied.
    Request {
        /// Whether it was forwarded to the server.
        allowed: bool,
        /// The rule that allowed it, or `None` when no rule matched.
        rule: Option<RuleId>,
        /// Why the request was denied, if not by rules.
        reason: Option<DropReason>,
        /// What was requested.
        request: R,
    },
    /// An L7 response was forwarded.
    Response {
        /// Its result.
        status: ResponseStatus,
        /// Time between forwarding the request and the response, nanoseconds.
        latency_ns: u64,
    },
    /// The flow ended or timed out.
    End {
        /// Of the original direction.
        original: Traffic,
        /// Of the reply direction.
        reply: Traffic,
        /// Epoch of the tables that decided it last. In the tables of the event's epoch, its
        /// addresses may be those of other pods.
        decided: Epoch,
    },
}

impl<R> EventKind<R> {
    /// A request was decided: it is allowed by a rule, if there are any, or denied for this reason.
    #[must_use]
    pub fn decided(verdict: Result<Option<RuleId>, DropReason>, request: R) -> Self {
        Self::Request {
            allowed: verdict.is_ok(),
            rule: verdict.ok().flatten(),
            reason: verdict.err().filter(|reason| *reason != DropReason::L7Denied),
            request,
        }
    }

    /// The same event with its request converted by `map`.
    pub fn map_request<S>(self, map: impl FnOnce(R) -> S) -> EventKind<S> {
        match self {
            Self::Verdict { verdict, egress, ingress, tcp_flags, icmp_type, reevaluated } => {
                EventKind::Verdict { verdict, egress, ingress, tcp_flags, icmp_type, reevaluated }
            }
            Self::Drop { reason } => EventKind::Drop { reason },
            Self::Unparsed { reason, ethernet, has_addresses } => {
                EventKind::Unparsed { reason, ethernet, has_addresses }
            }
            Self::ProgramDrop { reason, ethernet, has_addresses } => {
                EventKind::ProgramDrop { reason, ethernet, has_addresses }
            }
            Self::Request { allowed, rule, reason, request } => {
                EventKind::Request { allowed, rule, reason, request: map(request) }
            }
            Self::Response { status, latency_ns } => EventKind::Response { status, latency_ns },
            Self::End { original, reply, decided } => EventKind::End { original, reply, decided },
        }
    }
}

/// The addresses of an Ethernet frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ethernet {
    /// Source.
    pub source: Mac,
    /// Destination.
    pub destination: Mac,
}

/// Packets and bytes of one direction of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Traffic {
    /// Packets.
    pub packets: u64,
    /// Bytes of IP packets, headers included.
    pub bytes: u64,
}

/// Longest part of a request's path that an event has, bytes.
pub const PATH_MAX: usize = 128;
/// Longest part of a request's host that an event has, bytes.
pub const HOST_MAX: usize = 64;
/// Longest part of a request's method that an event has, bytes.
pub const METHOD_MAX: usize = 16;
/// Longest part of a Kafka client id that an event has, bytes.
pub const CLIENT_ID_MAX: usize = 64;
/// Longest part of a Kafka topic that an event has, bytes.
pub const TOPIC_MAX: usize = 128;
/// Longest part of a server name that an event has, bytes.
pub const SERVER_NAME_MAX: usize = 208;

/// The first `N` bytes of a string from the wire.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Text<const N: usize> {
    len: u8,
    bytes: [u8; N],
}

impl<const N: usize> Text<N> {
    /// The first `N` bytes of `bytes` (`N` is at most 255).
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        const { assert!(N <= u8::MAX as usize) };
        let len = bytes.len().min(N);
        let mut text = Self { len: len as u8, bytes: [0; N] };
        text.bytes[..len].copy_from_slice(&bytes[..len]);
        text
    }

    /// The bytes, which came from a pod: not necessarily UTF-8, and not escaped.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl<const N: usize> Default for Text<N> {
    fn default() -> Self {
        Self { len: 0, bytes: [0; N] }
    }
}

impl<const N: usize> std::fmt::Debug for Text<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.bytes().escape_ascii())
    }
}

/// What a request asks for, in the words of its protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestRecord {
    /// An HTTP request.
    Http(RequestLine),
    /// A DNS query.
    Dns(DnsQuestion),
    /// A TLS ClientHello: the server that it names, truncated; empty if it names none.
    ServerName(Text<SERVER_NAME_MAX>),
    /// A Kafka request.
    Kafka(KafkaRecord),
}

impl Default for RequestRecord {
    fn default() -> Self {
        Self::Http(RequestLine::default())
    }
}

/// The result of a request, in the words of its protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseStatus {
    /// The status code of an HTTP response.
    Http {
        /// Version of the request.
        version: HttpVersion,
        /// Status code.
        status: u16,
    },
    /// The status code of a gRPC call (gRPC over HTTP/2, Responses).
    Grpc(u16),
    /// The result of a DNS query.
    Dns(DnsResult),
    /// The result of a Kafka request.
    Kafka(KafkaResult),
}

/// Longest part of a queried name that an event has, bytes.
pub const QUERIED_NAME_MAX: usize = 192;

/// What a DNS query asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct DnsQuestion {
    /// The name in lower case, without a trailing dot, truncated.
    pub name: Text<QUERIED_NAME_MAX>,
    /// Type of the records (RFC 1035 §3.2.2).
    pub kind: u16,
}

/// What a DNS response says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DnsResult {
    /// Response code (RFC 1035 §4.1.1).
    pub rcode: u8,
    /// Type of the records that were asked for; zero if the response does not say.
    pub kind: u16,
    /// Addresses of the queried name.
    pub addresses: u16,
    /// The first one, if there is any.
    pub first: Address,
    /// Seconds for which it may be used.
    pub ttl: u32,
}

/// What a Kafka response says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KafkaResult {
    /// API key of the request.
    pub api_key: i16,
    /// The first error code; 0 is none.
    pub error_code: i16,
}

/// What identifies a Kafka request, and its first topic, truncated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct KafkaRecord {
    /// API key.
    pub api_key: i16,
    /// API version.
    pub api_version: i16,
    /// Correlation id.
    pub correlation_id: i32,
    /// Client id; empty if it has none.
    pub client_id: Text<CLIENT_ID_MAX>,
    /// The first topic; empty if it names none.
    pub topic: Text<TOPIC_MAX>,
}

/// A version of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum HttpVersion {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1, or a request that is too malformed to say.
    #[default]
    Http11,
    /// HTTP/2.
    Http2,
}

impl HttpVersion {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Http10, Self::Http11, Self::Http2];

    /// The version as Hubble has it (cilium `pkg/proxy/accesslog`, Envoy's `ProtocolStrings`).
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
        }
    }
}

/// Version, method, path and host of an HTTP request, the texts truncated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct RequestLine {
    /// Version.
    pub version: HttpVersion,
    /// Method.
    pub method: Text<METHOD_MAX>,
    /// Request target as on the wire.
    pub path: Text<PATH_MAX>,
    /// Host.
    pub host: Text<HOST_MAX>,
}
