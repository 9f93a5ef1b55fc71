//! The state of the agent's parts.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The state of the agent's parts.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
pub struct Health {
    /// Seconds since objects were last known to be up to date; zero while they are.
    pub sync_age_s: u64,
    /// The agent's threads that matter for packets, flows and clients.
    pub threads: Vec<ThreadStatus>,
    /// Bounded tables, and how full they are.
    pub tables: Vec<TableFill>,
    /// Memory by use.
    pub memory: MemoryUse,
    /// Certificates that the agent presents.
    pub certificates: Vec<CertificateStatus>,
    /// What the agent serves beside the control socket.
    pub services: Vec<ServiceStatus>,
    /// Objects that were rejected, each with its first reason; the first hundred.
    pub rejected: Vec<RejectedObject>,
    /// Endpoints that are not ready, and why.
    pub endpoints_not_ready: Vec<EndpointNotReady>,
}

/// A thread.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
pub struct ThreadStatus {
    /// Its name, such as `pg-worker-0`.
    pub name: String,
    /// Whether it makes progress.
    pub alive: bool,
    /// CPU time that it has used, milliseconds.
    pub cpu_ms: u64,
    /// Part of a core that it used between the last two checks, percent.
    pub load_percent: u64,
}

/// A bounded table.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
pub struct TableFill {
    /// Its name, as in the label `table` of metrics.
    pub name: String,
    /// Entries in use.
    pub used: u64,
    /// Most entries.
    pub capacity: u64,
}

impl TableFill {
    /// Percent of the entries that are in use, rounded up.
    #[must_use]
    pub const fn percent(&self) -> u64 {
        if self.capacity == 0 { 0 } else { (self.used * 100).div_ceil(self.capacity) }
    }
}

/// Memory by use, bytes.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MemoryUse {
    /// Resident memory of the process, frames of packets included.
    pub resident: u64,
    /// Frames of packets, which the kernel has locked.
    pub frames: u64,
    /// Rings of the AF_XDP sockets, in the kernel.
    pub rings: u64,
    /// What the kernel keeps for each frame and link, computed. Zero from older agents.
    #[serde(default)]
    pub pools: u64,
    /// BPF programs and maps, in the kernel.
    pub bpf: u64,
}

/// A certificate that the agent presents to others.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
pub struct CertificateStatus {
    /// `hubble-server` or `api-client`.
    pub name: String,
    /// When it expires, seconds since 1970; unknown if it can't be read.
    pub expires_s: Option<u64>,
    /// Why it can't be read.
    pub problem: Option<String>,
}

/// What the agent serves.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
pub struct ServiceStatus {
    /// `hubble` or `metrics`.
    pub name: String,
    /// Where it listens; nowhere if it is off.
    pub address: Option<String>,
    /// What it did, in words.
    pub detail: String,
}

/// An object that was rejected.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
pub struct RejectedObject {
    /// Kind, namespace and name.
    pub object: String,
    /// The field and why, of the first problem.
    pub reason: String,
}

impl fmt::Display for RejectedObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.object, self.reason)
    }
}

/// An endpoint that is not ready.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
pub struct EndpointNotReady {
    /// Its link.
    pub link: String,
    /// Its pod, if it is known.
    pub pod: Option<String>,
    /// Why.
    pub reason: String,
}
