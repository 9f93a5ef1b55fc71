//! The protocol of podgate's control socket, and a client that speaks it.
//!
//! Messages are JSON objects, one per line, each with the protocol's version. A request names its
//! `command`; the arguments are further members of the same object:
//!
//! ```json
//! {"version":1,"command":"flows","follow":true,"last":20}
//! ```
//!
//! An answer has exactly one of `result` (the only line), `item` (any number of lines), `end`
//! (after the last item) and `error` (the last line):
//!
//! ```json
//! {"version":1,"error":{"code":"unknown-command","message":"there is no command \"flow\""}}
//! ```
//!
//! A client may send further requests on the same connection, one after another.
#![forbid(unsafe_code)]

mod answer;
mod capture;
pub mod client;
mod config;
mod endpoint;
mod flow_table;
mod fqdn;
mod health;
mod inventory;
mod metric;
mod policy;
mod request;
mod status;

pub use podgate_policy::PodName;

pub use answer::{Answer, ApiError, ErrorCode, FlowItem};
pub use capture::{
    CAPTURE_FILTERS_MAX, CAPTURE_PODS_MAX, CAPTURE_SECONDS_MAX, CaptureItem, CaptureRequest,
    CaptureSide, PacketCopy, PacketFilter, SNAP_LEN_MAX, protocol_number,
};
pub use client::{Client, ClientError};
pub use config::{ConfigOption, Origin};
pub use endpoint::{EndpointSpec, EndpointState, EndpointStatus, MacAddress, PodMtu};
pub use flow_table::{
    EndpointLogEntry, FLOWS_LISTED_MAX, FlowEnd, FlowEntry, FlowList, FlowSelector,
};
pub use fqdn::{FqdnEntry, FqdnSource};
pub use health::{
    CertificateStatus, EndpointNotReady, Health, MemoryUse, RejectedObject, ServiceStatus,
    TableFill, ThreadStatus,
};
pub use inventory::{IdentityEntry, IpEntry, NodeEntry};
pub use metric::{Family, FamilyKind, Number, Sample};
pub use policy::{
    EndpointTable, Explained, PolicyDetail, PolicyFilter, PolicyList, PolicyState, PolicyStatus,
    PolicyWaited, PortsDetail, RejectedField, RuleDetail, RuleSetDetail, Source,
};
pub use request::{Answering, ClientAccess, Request, WAIT_MAX_S};
pub use status::{
    ApiServerStatus, ApiServerWrites, DropCount, EndpointCounts, FlowsTakenOver, LinkCounts,
    SourceStatus, Status, WorkerStatus,
};

/// The version of the protocol.
pub const VERSION: u64 = 1;

/// Longest request that the agent reads, bytes including the newline.
pub const REQUEST_MAX: usize = 64 * 1024;

/// Most past flow records that one request may ask for.
pub const LAST_MAX: u32 = 1 << 20;
