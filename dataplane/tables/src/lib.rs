//! The compiled tables that workers look up, and the plain values in them.
//!
//! | module | what it has |
//! |---|---|
//! | [`policy`] | the snapshot that workers read, and the lookup that decides a flow |
//! | [`l7`] | the L7 rules of a flow, their matchers, and parsers of HTTP, DNS, Kafka and TLS |
//! | [`route`] | local endpoints, and the next hop of a packet |
//! | [`service`] | addresses of services, their ports and backends |
//! | [`tunnel`] | tunnel packets that a node would decapsulate |
//! | [`event`], [`drop_reason`] | what workers report |
//! | [`address`], [`ids`], [`proto`], [`tcp_flags`], [`time`], [`mod@tuple`] | plain values |
//! | [`token_bucket`] | rate limits |
//!
//! Everything here is data: no sockets, frames, threads or clock. Rules are numbers; their names
//! are in the catalogue of the compiler that built the tables.

#![forbid(unsafe_code)]

pub mod address;
pub mod drop_reason;
pub mod event;
pub mod ids;
pub mod l7;
pub mod policy;
pub mod proto;
pub mod route;
pub mod service;
pub mod tcp_flags;
pub mod time;
pub mod token_bucket;
pub mod tunnel;
pub mod tuple;
