//! What network plugins ask the agent. Other clients send more, see `podgate_api::Request`.

use serde::{Deserialize, Serialize};

use crate::{Answering, Command, EndpointSpec};

/// A request of a network plugin.
#[derive(Serialize, Clone, PartialEq, Eq, Debug)]
#[serde(tag = "command")]
pub enum PluginRequest {
    /// Answered by a status, of which [`PluginStatus`] is a part.
    #[serde(rename = "status")]
    Status {},
    /// Attach a pod; answered by its [`EndpointStatus`](crate::EndpointStatus).
    #[serde(rename = "endpoint-add")]
    EndpointAdd(EndpointSpec),
    /// Detach a pod; answered by `null`.
    #[serde(rename = "endpoint-remove")]
    EndpointRemove {
        /// Name of the link.
        link: String,
    },
    /// Answered by a list of [`EndpointStatus`](crate::EndpointStatus).
    #[serde(rename = "endpoint-list")]
    EndpointList {},
}

impl Command for PluginRequest {
    fn answering(&self) -> Answering {
        Answering::AtOnce
    }
}

/// The part of the agent's status that network plugins read.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct PluginStatus {
    /// Where objects come from.
    pub source: SourceStatus,
}

/// Where objects come from, and whether they are complete.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct SourceStatus {
    /// `manifests DIR` or `kubernetes URL`.
    pub name: String,
    /// Whether every kind was read once.
    pub synced: bool,
    /// Current problems, one line each.
    pub problems: Vec<String>,
    /// Whether objects are up to date: all were read, and changes are noticed.
    #[serde(default)]
    pub current: bool,
    /// Manifests, or objects of an API server, whose last good state is not on disk, also because a
    /// manifest can't be read.
    #[serde(default)]
    pub unsaved: usize,
}
