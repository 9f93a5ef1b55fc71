//! Hubble's gRPC API over podgate's flow records, for unmodified clients: the `hubble` program,
//! its relay and its web page; and a client of it.
//!
//! | module | topic |
//! |---|---|
//! | `proto` | messages and services, generated from `proto/` |
//! | `codec` | messages as protocol buffers |
//! | `flow` | from a record to the flows that clients read |
//! | `filter` | which flows a client wants |
//! | `field_mask` | which fields of them |
//! | `read` | past and new flows for one client |
//! | `observer` | the service of flows |
//! | `peers` | the services of peers and of health |
//! | `server` | sockets |
//! | `client` | a client of the service of flows |
//! | `input` | flows from a file in place of a server |
//! | `json` | responses and filters as JSON |
//! | `names` | words for the numbers in flows |
//! | `print` | flows as text |
#![forbid(unsafe_code)]

mod agent_events;
pub mod client;
mod codec;
mod field_mask;
mod filter;
mod flow;
pub mod input;
pub mod json;
pub mod names;
mod observer;
mod peers;
pub mod print;
pub mod proto;
mod read;
mod server;
mod source;

pub use agent_events::AgentEvents;
pub use flow::{Translator, timestamp};
pub use peers::Node;
pub use server::{
    Config, ListenError, Listeners, Tcp, TlsFiles, UnixSocket, serve_tcp, serve_unix,
};
pub use source::{Counts, FlowSource, Observed};
