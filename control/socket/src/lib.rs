//! The lines of podgate's control socket, a client, and the messages of network plugins. The
//! messages of all other clients are in `podgate_api`.
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
pub mod client;
mod endpoint;
pub mod limits;
pub mod places;
mod plugin;
pub mod socket_file;

use serde::Serialize;
use serde_json::json;

pub use podgate_names::PodName;

pub use answer::{Answer, ApiError, ErrorCode};
pub use client::{Client, ClientError};
pub use endpoint::{EndpointSpec, EndpointState, EndpointStatus, MacAddress, PodMtu};
pub use plugin::{PluginRequest, PluginStatus, SourceStatus};

/// The version of the protocol.
pub const VERSION: u64 = 1;

/// Longest request that the agent reads, bytes including the newline.
pub const REQUEST_MAX: usize = 64 * 1024;

/// When a request is answered. The agent bounds how many clients wait or follow at one time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answering {
    /// By one result, as soon as the agent has it.
    AtOnce,
    /// By one result, when what the client waits for has happened, or after this many seconds.
    Waits(u32),
    /// By items: the past ones at once and, if this is `true`, new ones when they come.
    Follows(bool),
    /// By items, the first one at once, the others when they come.
    Streams,
}

impl Answering {
    /// Whether the answer may take long, even where it does not.
    #[must_use]
    pub const fn is_long_running(self) -> bool {
        !matches!(self, Self::AtOnce)
    }
}

/// A request, as JSON an object with its `command`.
pub trait Command: Serialize {
    /// When it is answered.
    fn answering(&self) -> Answering;
}

/// The line to send of a request, with its newline.
#[must_use]
pub fn to_line(request: &impl Command) -> String {
    let mut value = json!(request);
    value["version"] = json!(VERSION);
    format!("{value}\n")
}
