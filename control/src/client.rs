//! Talking to the agent over its control socket.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::protocol::{Answer, Refused, Request};

/// Why a command of the client failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// Nobody listens at the socket, or it may not be opened.
    #[error("the agent can't be reached at {path}: {source} ({})", hint(.source))]
    Unreachable {
        /// The socket.
        path: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The connection broke.
    #[error("the agent closed the connection")]
    Closed,
    /// The agent's answer is not of this protocol.
    #[error("the agent's answer makes no sense: {0}")]
    Protocol(String),
    /// The agent refused.
    #[error(transparent)]
    Refused(#[from] Refused),
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "run this as root",
        _ => "is `podgate run` running? --socket names another socket",
    }
}

/// A connection to the agent.
#[derive(Debug)]
pub(crate) struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects to the socket at `path`.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`].
    pub(crate) fn connect(path: &Path) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(path).map_err(|source| ClientError::Unreachable {
            path: path.display().to_string(),
            source,
        })?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Sends a request that has one result.
    ///
    /// # Errors
    /// When the agent refuses it, or doesn't answer as it should.
    pub(crate) fn call<T: DeserializeOwned>(
        &mut self,
        request: &Request,
    ) -> Result<T, ClientError> {
        self.send(request);
        match self.receive()? {
            Answer::Result(value) => from_value(value),
            Answer::Error(refused) => Err(refused.into()),
            other => Err(ClientError::Protocol(format!("{other:?} is no result"))),
        }
    }

    /// Sends a request that has items; each goes to `each` until it breaks or the agent ends.
    ///
    /// # Errors
    /// When the agent refuses it, or doesn't answer as it should.
    pub(crate) fn stream<T: DeserializeOwned, E: From<ClientError>>(
        &mut self,
        request: &Request,
        mut each: impl FnMut(T) -> Result<(), E>,
    ) -> Result<(), E> {
        self.send(request);
        loop {
            match self.receive()? {
                Answer::Item(value) => each(from_value(value)?)?,
                Answer::End(_) => return Ok(()),
                Answer::Error(refused) => return Err(ClientError::from(refused).into()),
                Answer::Result(_) => {
                    return Err(ClientError::Protocol("a result where items are due".into()).into());
                }
            }
        }
    }

    fn send(&mut self, request: &Request) {
        // An agent that turns us away closes first; its answer says why.
        let _ = self.stream.get_mut().write_all(request.to_line().as_bytes());
    }

    fn receive(&mut self) -> Result<Answer, ClientError> {
        let mut line = String::new();
        match self.stream.read_line(&mut line) {
            Ok(read) if read > 0 && line.ends_with('\n') => {
                Answer::parse(&line).map_err(|refused| ClientError::Protocol(refused.message))
            }
            _ => Err(ClientError::Closed),
        }
    }
}

fn from_value<T: DeserializeOwned>(value: Value) -> Result<T, ClientError> {
    serde_json::from_value(value).map_err(|error| ClientError::Protocol(error.to_string()))
}
