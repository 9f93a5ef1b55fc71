//! The messages of podgate's control socket. Its lines, and a client, are in [`podgate_socket`].
#![forbid(unsafe_code)]

mod capture;
mod config;
mod flow_item;
mod flow_table;
mod fqdn;
mod health;
mod inventory;
mod metric;
mod policy;
mod request;
mod status;

pub use podgate_socket::{
    Answer, Answering, ApiError, Client, ClientError, EndpointSpec, EndpointState, EndpointStatus,
    ErrorCode, MacAddress, PodMtu, PodName, REQUEST_MAX, SourceStatus, VERSION, client, limits,
    places, socket_file,
};

pub use capture::{
    CAPTURE_FILTERS_MAX, CAPTURE_PODS_MAX, CAPTURE_SECONDS_MAX, CaptureItem, CaptureRequest,
    CaptureSide, PacketCopy, PacketFilter, SNAP_LEN_MAX, protocol_number,
};
pub use config::{ConfigOption, Origin};
pub use flow_item::FlowItem;
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
pub use request::{ClientAccess, Request, WAIT_MAX_S};
pub use status::{
    ApiServerStatus, ApiServerWrites, DropCount, EndpointCounts, FlowsTakenOver, LinkCounts,
    Status, WorkerStatus,
};

/// Most past flow records that one request may ask for.
pub const LAST_MAX: u32 = 1 << 20;
