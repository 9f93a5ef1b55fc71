//! Messages about the workers' flow tables.

use std::net::IpAddr;

use podgate_policy::observe::RuleName;
use serde::{Deserialize, Serialize};

/// Which entries of the flow tables are meant: those that match all of what is set.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[serde(deny_unknown_fields)]
pub struct FlowSelector {
    /// The link of either end, or its pod as `NAMESPACE/NAME`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// An address of either end, or of the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// A port of either end, or of the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// IP protocol number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<u8>,
}

/// Entries of the workers' flow tables.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
pub struct FlowList {
    /// The entries, at most [`FLOWS_LISTED_MAX`].
    pub flows: Vec<FlowEntry>,
    /// How many match.
    pub matched: u64,
}

/// Most entries in an answer.
pub const FLOWS_LISTED_MAX: usize = 10_000;

/// An entry of a worker's flow table.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct FlowEntry {
    /// The worker.
    pub worker: u16,
    /// `TCP`, `UDP`, `SCTP`, `ICMPv4`, `ICMPv6`, or the protocol's number.
    pub protocol: String,
    /// The end that opened the flow.
    pub source: FlowEnd,
    /// The other end.
    pub destination: FlowEnd,
    /// The service's address and port that the opener sends to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Of the translation of a service's flow, the backend's address and port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// State of TCP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// `allowed`, `inspected` or `revoked`; a translation has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<String>,
    /// The rule that allowed the source's egress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<RuleName>,
    /// The rule that allowed the destination's ingress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<RuleName>,
    /// Epoch of the tables that decided it.
    pub epoch: u64,
    /// Seconds until it expires without packets.
    pub expires_s: u64,
    /// Packets from the source and to it.
    pub packets: [u64; 2],
    /// Bytes of IP from the source and to it.
    pub bytes: [u64; 2],
}

/// An end of an entry.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct FlowEnd {
    /// Address.
    pub address: IpAddr,
    /// L4 port; absent for protocols without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The pod that has the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
}

/// A change of an endpoint's state.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct EndpointLogEntry {
    /// When it was seen (RFC 3339).
    pub time: String,
    /// `OK`, `Waiting` or `Failure`.
    pub status: String,
    /// The state from then on.
    pub state: String,
    /// What happened.
    pub message: String,
}
