//! What the agent knows: addresses, identities, nodes.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// An address with its identity.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct IpEntry {
    /// The address.
    pub address: IpAddr,
    /// Number of its identity.
    pub identity: u32,
    /// The pod that it belongs to, if it is a pod's.
    pub pod: Option<String>,
    /// Labels of the identity, `source:key=value`.
    pub labels: Vec<String>,
}

/// An identity: a set of labels, or a reserved one.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct IdentityEntry {
    /// Its number, as in flow records.
    pub identity: u32,
    /// Labels, `source:key=value`.
    pub labels: Vec<String>,
}

/// A node.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct NodeEntry {
    /// Its name.
    pub name: String,
    /// Its internal addresses.
    pub addresses: Vec<IpAddr>,
}
