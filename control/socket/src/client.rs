//! Talking to the agent over its control socket.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{Answer, Answering, ApiError, Command, to_line};

/// Timeout for the agent to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Timeout for an answer, or for its next line. Compiling the policies of a large cluster takes the
/// agent seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest line of an answer, bytes; the agent's are shorter, also for a large cluster.
const LINE_MAX: usize = 64 << 20;
/// Interval of connection attempts while the agent's backlog is full.
const CONNECT_RETRY: Duration = Duration::from_millis(20);

/// A request that failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The socket can't be connected to.
    #[error("the agent can't be reached at {path}: {source} ({})", hint(.source))]
    Unreachable {
        /// The socket.
        path: String,
        /// The system call's error.
        source: io::Error,
    },
    /// The agent accepts no connection, or does not answer.
    #[error("the agent did not answer within {} s: it is stuck, or very busy", seconds(.0))]
    TimedOut(Duration),
    /// The connection broke.
    #[error("the agent closed the connection: it stopped, or nothing was read here for 30 s")]
    Closed,
    /// The agent's answer is not of this protocol.
    #[error("the agent's answer is malformed: {0}")]
    Protocol(String),
    /// The agent answered with an error.
    #[error(transparent)]
    Agent(#[from] ApiError),
}

impl ClientError {
    /// Whether no agent answers.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::TimedOut(_) | Self::Closed)
    }
}

/// Rounded up.
fn seconds(time: &Duration) -> u128 {
    time.as_millis().div_ceil(1000)
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "run this as root",
        _ => "is `podgate run` running? --socket names another socket",
    }
}

/// A connection to the agent.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
    /// Timeout for each answer, if it is shorter than the usual one.
    limit: Duration,
}

impl Client {
    /// Connects to the socket at `path`.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`], and [`ClientError::TimedOut`] when the agent takes no
    /// connection.
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        Self::connect_within(path, Duration::MAX)
    }

    /// Connects within `limit`; each answer has to come within `limit`, too. Usual timeouts that
    /// are shorter stay.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub fn connect_within(path: &Path, limit: Duration) -> Result<Self, ClientError> {
        let connecting = limit.min(CONNECT_TIMEOUT);
        match open(path, connecting) {
            Ok(stream) => Ok(Self { stream: BufReader::new(stream), limit }),
            Err(Errno::EAGAIN) => Err(ClientError::TimedOut(connecting)),
            Err(error) => Err(ClientError::Unreachable {
                path: path.display().to_string(),
                source: error.into(),
            }),
        }
    }

    /// Sends a request whose answer is one result.
    ///
    /// # Errors
    /// When the agent denies it, or doesn't answer as it should.
    pub fn call<T: DeserializeOwned>(&mut self, request: &impl Command) -> Result<T, ClientError> {
        self.send(request);
        let limit = answer_timeout(request);
        match self.receive(limit)? {
            Answer::Result(value) => from_value(value),
            Answer::Error(error) => Err(error.into()),
            other => Err(ClientError::Protocol(format!("{other:?} is not a result"))),
        }
    }

    /// Sends a request whose answer has items; each goes to `each`, until that breaks or the agent
    /// ends the answer.
    ///
    /// # Errors
    /// When the agent denies it, or doesn't answer as it should.
    pub fn stream<T: DeserializeOwned, E: From<ClientError>>(
        &mut self,
        request: &impl Command,
        mut each: impl FnMut(T) -> Result<(), E>,
    ) -> Result<(), E> {
        self.send(request);
        let mut limit = first_timeout(request);
        loop {
            let answer = self.receive(limit)?;
            limit = answer_timeout(request);
            match answer {
                Answer::Item(value) => each(from_value(value)?)?,
                Answer::End(_) => return Ok(()),
                Answer::Error(error) => return Err(ClientError::from(error).into()),
                Answer::Result(_) => {
                    return Err(ClientError::Protocol("a result where items are due".into()).into());
                }
            }
        }
    }

    fn send(&mut self, request: &impl Command) {
        // Errors don't matter: an agent with too many clients answers without reading, and after
        // any other error no answer will come.
        let _ = self.stream.get_ref().set_write_timeout(Some(ANSWER_TIMEOUT));
        let _ = self.stream.get_mut().write_all(to_line(request).as_bytes());
    }

    /// The next line of the answer, within `limit`.
    fn receive(&mut self, limit: Option<Duration>) -> Result<Answer, ClientError> {
        let mut line = String::new();
        let limit = limit.map(|limit| limit.min(self.limit));
        // Fails for a limit of zero only.
        let _ = self.stream.get_ref().set_read_timeout(limit);
        match self.stream.by_ref().take(LINE_MAX as u64 + 1).read_line(&mut line) {
            Ok(read) if read > LINE_MAX => {
                let reason = format!("a line is longer than {} MiB", LINE_MAX >> 20);
                Err(ClientError::Protocol(reason))
            }
            Ok(read) if read > 0 && line.ends_with('\n') => {
                Answer::parse(&line).map_err(|error| ClientError::Protocol(error.message))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Err(ClientError::TimedOut(limit.unwrap_or_default()))
            }
            _ => Err(ClientError::Closed),
        }
    }
}

fn from_value<T: DeserializeOwned>(value: Value) -> Result<T, ClientError> {
    serde_json::from_value(value).map_err(|error| ClientError::Protocol(error.to_string()))
}

/// Timeout for the answer to `request`; `None` if it may take any time.
fn answer_timeout(request: &impl Command) -> Option<Duration> {
    match request.answering() {
        Answering::AtOnce | Answering::Follows(false) => Some(ANSWER_TIMEOUT),
        Answering::Waits(seconds) => Some(ANSWER_TIMEOUT + Duration::from_secs(seconds.into())),
        Answering::Follows(true) | Answering::Streams => None,
    }
}

/// Timeout for the first line of the answer to `request`.
fn first_timeout(request: &impl Command) -> Option<Duration> {
    match request.answering() {
        Answering::Streams => Some(ANSWER_TIMEOUT),
        _ => answer_timeout(request),
    }
}

/// Connects to the socket at `path`.
///
/// # Errors
/// `EAGAIN` if the backlog was full for `limit`; a blocking connect would wait without a limit
/// (unix(7)).
pub fn open(path: &Path, limit: Duration) -> nix::Result<UnixStream> {
    let address = UnixAddr::new(path)?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    let begin = Instant::now();
    loop {
        match connect(socket.as_raw_fd(), &address) {
            Err(Errno::EAGAIN) if begin.elapsed() < limit => sleep(CONNECT_RETRY),
            other => break other?,
        }
    }
    fcntl(&socket, FcntlArg::F_SETFL(OFlag::empty()))?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use serde::Serialize;

    use super::*;

    /// A request that is answered so.
    #[derive(Serialize)]
    struct Answered {
        #[serde(skip)]
        answering: Answering,
    }

    impl Command for Answered {
        fn answering(&self) -> Answering {
            self.answering
        }
    }

    const AT_ONCE: Answered = Answered { answering: Answering::AtOnce };

    const SHORT: Duration = Duration::from_millis(50);

    #[test]
    fn connecting_to_an_agent_that_accepts_nothing_times_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        let _listener = UnixListener::bind(&path).unwrap();
        // Nothing accepts: at some time its backlog is full.
        let mut held = Vec::new();
        let error = loop {
            match Client::connect_within(&path, SHORT) {
                Ok(client) => held.push(client),
                Err(error) => break error,
            }
            assert!(held.len() < 100_000, "a backlog without an end");
        };
        assert!(matches!(error, ClientError::TimedOut(SHORT)), "{error}");
    }

    #[test]
    fn a_request_without_an_answer_times_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        let _listener = UnixListener::bind(&path).unwrap();
        let mut client = Client::connect(&path).unwrap();
        client.send(&AT_ONCE);
        let error = client.receive(Some(SHORT)).unwrap_err();
        assert!(matches!(error, ClientError::TimedOut(SHORT)) && error.is_unreachable());
    }

    #[test]
    fn an_answer_without_an_end_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let writer = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            // Until the client hangs up.
            while stream.write_all(&[b'x'; 1 << 16]).is_ok() {}
        });
        let mut client = Client::connect(&path).unwrap();
        let error = client.call::<Value>(&AT_ONCE).unwrap_err();
        assert!(matches!(error, ClientError::Protocol(_)), "{error}");
        assert!(error.to_string().ends_with("a line is longer than 64 MiB"), "{error}");
        drop(client);
        writer.join().unwrap();
    }

    #[test]
    fn the_start_of_a_capture_and_answers_that_may_take_less_time_are_waited_for_no_longer() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        let _listener = UnixListener::bind(&path).unwrap();
        let capture = Answered { answering: Answering::Streams };
        let mut client = Client::connect_within(&path, SHORT).unwrap();
        let ended = client.stream(&capture, |_: Value| Ok::<_, ClientError>(()));
        assert!(matches!(ended, Err(ClientError::TimedOut(_))), "{ended:?}");
        let mut client = Client::connect_within(&path, SHORT).unwrap();
        let error = client.call::<Value>(&AT_ONCE).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the agent did not answer within 1 s: it is stuck, or very busy"
        );
    }

    #[test]
    fn the_timeout_depends_on_the_request() {
        let follow = Answered { answering: Answering::Follows(true) };
        assert_eq!(answer_timeout(&follow), None);
        let past = Answered { answering: Answering::Follows(false) };
        assert_eq!(answer_timeout(&past), Some(ANSWER_TIMEOUT));
        let wait = Answered { answering: Answering::Waits(600) };
        assert_eq!(answer_timeout(&wait), Some(ANSWER_TIMEOUT + Duration::from_secs(600)));
        assert_eq!(answer_timeout(&AT_ONCE), Some(ANSWER_TIMEOUT));
    }

    #[test]
    fn a_missing_socket_is_reported_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let error = Client::connect(&dir.path().join("none")).unwrap_err();
        assert!(error.to_string().contains("is `podgate run` running?"), "{error}");
    }
}
