//! Errors, with the codes of the CNI specification ("Error").

use std::io;

use podgate_hostnet::NetlinkError;
use podgate_hostnet::netns::NetnsError;
use podgate_socket::ClientError;
use serde_json::{Value, json};

use crate::version::LATEST;

/// Codes of the specification.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Code {
    /// The CNI version is not supported.
    Version = 1,
    /// The container does not exist.
    UnknownContainer = 3,
    /// An environment variable is missing or wrong.
    Environment = 4,
    /// A file or the network stack can't be read or changed.
    Io = 5,
    /// What was read is no JSON.
    Decode = 6,
    /// The network configuration is wrong.
    Config = 7,
    /// The same may succeed later.
    TryAgain = 11,
    /// STATUS: ADD would fail.
    Unavailable = 50,
    /// The agent answered with an error, or CHECK found a difference.
    Failed = 100,
}

/// An error as the runtime reads it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct CniError {
    /// Code.
    pub(crate) code: u32,
    /// What failed, in one line.
    pub(crate) message: String,
    /// More about it; may be empty.
    pub(crate) details: String,
}

impl CniError {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code: code as u32, message: message.into(), details: String::new() }
    }

    pub(crate) fn io(what: &str, error: &io::Error) -> Self {
        Self::new(Code::Io, format!("{what}: {error}"))
    }

    /// An error of another plugin, from what it printed.
    pub(crate) fn of_plugin(plugin: &str, printed: &[u8]) -> Self {
        let parsed: Value = serde_json::from_slice(printed).unwrap_or_default();
        let text = |name: &str| parsed[name].as_str().unwrap_or_default().to_owned();
        let code = parsed["code"].as_u64().and_then(|code| u32::try_from(code).ok());
        let message = match text("msg") {
            empty if empty.is_empty() => {
                format!("plugin {plugin} failed: {}", String::from_utf8_lossy(printed).trim())
            }
            message => format!("plugin {plugin}: {message}"),
        };
        Self { code: code.unwrap_or(Code::Failed as u32), message, details: text("details") }
    }

    pub(crate) fn to_json(&self) -> Value {
        json!({
            "cniVersion": LATEST,
            "code": self.code,
            "msg": self.message,
            "details": self.details,
        })
    }
}

impl From<ClientError> for CniError {
    /// While no agent answers, the runtime should try again: the agent may be starting.
    fn from(error: ClientError) -> Self {
        let code = if error.is_unreachable() { Code::TryAgain } else { Code::Failed };
        Self::new(code, error.to_string())
    }
}

impl From<NetlinkError> for CniError {
    fn from(error: NetlinkError) -> Self {
        Self::new(Code::Io, error.to_string())
    }
}

impl From<NetnsError> for CniError {
    fn from(error: NetnsError) -> Self {
        Self::new(Code::UnknownContainer, error.to_string())
    }
}
