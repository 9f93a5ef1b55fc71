//! What the agent answers.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::VERSION;

/// A request that was not carried out.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// Machine-readable reason.
    pub code: ErrorCode,
    /// Human-readable reason, one line.
    pub message: String,
}

/// Reasons for which a request is not carried out.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorCode {
    /// The request is not of version [`VERSION`].
    UnsupportedVersion,
    /// The command is not known.
    UnknownCommand,
    /// The request is malformed.
    BadRequest,
    /// The request is longer than [`REQUEST_MAX`](crate::REQUEST_MAX).
    TooLong,
    /// Too many clients, or the agent is stopping.
    Busy,
    /// The command changes something, and the socket is read-only.
    ReadOnly,
    /// The command failed.
    Failed,
    /// A code of a later version.
    #[serde(other)]
    Unknown,
}

impl ApiError {
    /// An error with this code.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// The command failed for this reason.
    #[must_use]
    pub fn failed(error: impl fmt::Display) -> Self {
        Self::new(ErrorCode::Failed, error.to_string())
    }
}

/// One line of an answer.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// The whole answer.
    Result(Value),
    /// One of several results.
    Item(Value),
    /// No more items follow; always `true`.
    End(bool),
    /// The request failed; no more lines follow.
    Error(ApiError),
}

#[derive(Serialize, Deserialize)]
struct AnswerLine {
    version: u64,
    #[serde(flatten)]
    answer: Answer,
}

impl Answer {
    /// The line to send, with its newline.
    #[must_use]
    pub fn to_line(&self) -> String {
        let line = AnswerLine { version: VERSION, answer: self.clone() };
        format!("{}\n", json!(line))
    }

    /// Reads one line.
    ///
    /// # Errors
    /// When the line is no answer of this version.
    pub fn parse(line: &str) -> Result<Self, ApiError> {
        let bad = |error: serde_json::Error| {
            ApiError::new(ErrorCode::BadRequest, format!("the answer can't be read: {error}"))
        };
        let value: Value = serde_json::from_str(line).map_err(bad)?;
        if value["version"] != VERSION {
            let message = format!("the agent speaks version {}, not {VERSION}", value["version"]);
            return Err(ApiError::new(ErrorCode::UnsupportedVersion, message));
        }
        serde_json::from_value::<AnswerLine>(value).map(|line| line.answer).map_err(bad)
    }
}
