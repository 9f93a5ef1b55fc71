//! Messages about DNS names.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// An address that a DNS name resolves to in policy.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct FqdnEntry {
    /// The name, in lower case, without a dot at the end.
    pub name: String,
    /// The address.
    pub address: IpAddr,
    /// Why it counts.
    pub source: FqdnSource,
    /// Seconds until the TTL is over; zero afterwards.
    pub ttl_s: u64,
    /// When the TTL is over (RFC 3339).
    pub expires: String,
    /// The pods whose queries brought it, as `NAMESPACE/NAME`; none if no pod of the node asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pods: Vec<String>,
}

/// Why an address of a name counts.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "lowercase")]
pub enum FqdnSource {
    /// A DNS answer had it, and its TTL is not over.
    Lookup,
    /// Its TTL is over, but a connection to it may be alive.
    Connection,
}
