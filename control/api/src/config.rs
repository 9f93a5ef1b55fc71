//! Options of the agent.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// An option of `podgate run`.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct ConfigOption {
    /// Its name, as in the configuration file.
    pub name: String,
    /// Its value; `None` if it has none.
    pub value: Option<String>,
    /// Where the value is from.
    pub origin: Origin,
}

/// Where an option's value is from.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// The default.
    Default,
    /// The configuration file.
    File(PathBuf),
    /// The environment variable of this name.
    Environment(String),
    /// The command line.
    Flag,
}
