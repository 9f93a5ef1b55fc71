//! Hubble's gRPC API over podgate's flow records, for unmodified clients: the `hubble` program,
//! its relay and its web page.
//!
//! | module | topic |
//! |---|---|
//! | `proto` | messages and services, generated from `proto/` |
//! | `flow` | from a record to the flows that clients read |
//! | `filter` | which flows a client wants |
//! | `field_mask` | which fields of them |
//! | `read` | past and new flows for one client |
//! | `observer` | the service of flows |
//! | `peers` | the services of peers and of health |
//! | `server` | sockets |
#![forbid(unsafe_code)]

mod agent_events;
mod field_mask;
mod filter;
mod flow;
mod observer;
mod peers;
pub mod proto;
mod read;
mod server;
mod source;

pub use agent_events::AgentEvents;
pub use flow::Translator;
pub use peers::Node;
pub use server::{Config, ListenError, Listeners, Tcp, TlsFiles, serve};
pub use source::{Counts, FlowSource, Observed};
