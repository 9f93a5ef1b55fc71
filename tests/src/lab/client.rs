//! Clients in a pod: real curl and ping.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::nginx::expected_body;
use super::process::output;
use super::{Daemon, Family, Host, Lab, wait_for};

/// Timeout of a client for an answer.
const NO_ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Time that a client gets beyond its own timeout before it is killed.
const MARGIN: Duration = Duration::from_secs(20);
/// curl's exit status for a timeout (CURLE_OPERATION_TIMEDOUT).
const CURL_TIMED_OUT: i32 = 28;
/// curl's exit status for a reset connection (CURLE_RECV_ERROR).
const CURL_RECEIVE_ERROR: i32 = 56;

/// What a client saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An HTTP answer.
    Answer(Answer),
    /// An echo reply, after this time.
    Echo(Duration),
    /// Nothing before the client's timeout.
    NoAnswer,
    /// Anything else (connection refused or reset, …), as the client printed it.
    Failure(String),
}

/// An HTTP answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status code.
    pub status: u16,
    /// Its body.
    pub body: String,
    /// From the start of the client's connection to the end of the answer.
    pub elapsed: Duration,
}

/// An HTTP request for curl.
#[derive(Clone, Debug)]
pub struct Get<'a> {
    /// Method.
    pub method: &'a str,
    /// Server's port.
    pub port: u16,
    /// Request target.
    pub path: &'a str,
    /// Time to wait for the answer.
    pub timeout: Duration,
}

impl<'a> Get<'a> {
    /// GET `path` on port 80.
    #[must_use]
    pub const fn path(path: &'a str) -> Self {
        Self { method: "GET", port: 80, path, timeout: NO_ANSWER_TIMEOUT }
    }

    /// Sends the request from one host to another and waits for the outcome.
    ///
    /// # Errors
    /// When curl can't be run or its output can't be parsed.
    pub fn fetch(&self, from: &Host, to: &Host, family: Family) -> Result<Outcome> {
        let mut command = from.netns.bounded("curl", self.timeout + MARGIN);
        command.args(["--silent", "--show-error", "--noproxy", "*", "--request", self.method]);
        command.args(["--max-time", &format!("{:.3}", self.timeout.as_secs_f64())]);
        command.args(["--write-out", "\n%{http_code} %{time_total}", &self.url(to, family)]);
        let output = output(&mut command)?;
        let text = String::from_utf8_lossy(&output.stdout);
        let (body, end) = text.rsplit_once('\n').context("curl wrote nothing")?;
        let (status, seconds) = end.split_once(' ').context("curl printed no --write-out line")?;
        Ok(match (output.status.code(), status.parse()?) {
            (Some(0), status) => Outcome::Answer(Answer {
                status,
                body: body.to_owned(),
                elapsed: Duration::from_secs_f64(seconds.parse()?),
            }),
            (Some(CURL_TIMED_OUT), 0) => Outcome::NoAnswer,
            _ => Outcome::Failure(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        })
    }

    /// The body with which nginx in the pod `server` answers this request.
    #[must_use]
    pub fn expected_body(&self, server: &str) -> String {
        expected_body(server, self.port, self.method, self.path)
    }

    fn url(&self, to: &Host, family: Family) -> String {
        format!("http://{}{}", SocketAddr::new(to.addresses.of(family), self.port), self.path)
    }
}

impl Host {
    /// Sends one ICMP echo request and waits for its reply.
    ///
    /// # Errors
    /// When ping can't be run.
    pub fn ping(&self, to: &Host, family: Family) -> Result<Outcome> {
        let mut command = self.netns.bounded("ping", NO_ANSWER_TIMEOUT + MARGIN);
        command.args(["-n", "-c", "1", "-W", &NO_ANSWER_TIMEOUT.as_secs().to_string()]);
        let output = output(command.arg(to.addresses.of(family).to_string()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let time = text.split_once(" time=").and_then(|(_, rest)| rest.split_once(' '));
        Ok(match (output.status.code(), time) {
            (Some(0), Some((milliseconds, _))) => {
                Outcome::Echo(Duration::from_secs_f64(milliseconds.parse::<f64>()? / 1000.0))
            }
            (Some(1), _) if !text.contains("From ") => Outcome::NoAnswer,
            _ => Outcome::Failure(format!("{text}{}", String::from_utf8_lossy(&output.stderr))),
        })
    }

    /// The output of ping for one echo request with these options.
    ///
    /// # Errors
    /// When ping can't be run.
    pub fn ping_with(&self, to: &Host, family: Family, options: &[&str]) -> Result<String> {
        let mut command = self.netns.bounded("ping", NO_ANSWER_TIMEOUT + MARGIN);
        command
            .args(["-n", "-c", "1", "-W", &NO_ANSWER_TIMEOUT.as_secs().to_string()])
            .args(options);
        let output = output(command.arg(to.addresses.of(family).to_string()))?;
        let text = [output.stdout, output.stderr].concat();
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// Opens a TCP connection whose reads and writes time out after 20 s.
    ///
    /// # Errors
    /// When the connection is refused or times out.
    pub fn connect(&self, to: &Host, port: u16, family: Family) -> Result<TcpStream> {
        let address = SocketAddr::new(to.addresses.of(family), port);
        let stream = self.netns.inside(|| Ok(TcpStream::connect_timeout(&address, MARGIN)?))?;
        stream.set_read_timeout(Some(MARGIN))?;
        stream.set_write_timeout(Some(MARGIN))?;
        Ok(stream)
    }

    /// Waits until a server of this host accepts connections at `port`, at its IPv4 address.
    ///
    /// # Errors
    /// When none does within `bound`.
    pub fn wait_for_server(&self, port: u16, bound: Duration) -> Result<()> {
        wait_for(&format!("a server at port {port}"), bound, || {
            Ok(self.connect(self, port, Family::V4).ok().map(drop))
        })
    }
}

/// A long download by curl, which gives up when nothing has arrived for 3 s.
#[derive(Debug)]
pub struct Download {
    curl: Daemon,
    file: PathBuf,
}

impl Download {
    /// Starts the download of `/download` and waits for its first bytes.
    ///
    /// # Errors
    /// When nothing arrives.
    pub fn start(lab: &Lab, from: &Host, to: &Host, port: u16, family: Family) -> Result<Self> {
        let label = format!("download-{}-{}-{port}-{family}", from.name, to.name).replace('/', ".");
        let file = lab.file(&label);
        let mut command = from.netns.daemon("curl".as_ref());
        command.args(["--silent", "--show-error", "--noproxy", "*", "--no-buffer"]);
        command.args(["--speed-limit", "1", "--speed-time", "3"]).arg("--output").arg(&file);
        command.arg(Get { port, ..Get::path("/download") }.url(to, family));
        let curl = Daemon::start("curl", command, lab.file(&format!("{label}.log")))?;
        let mut download = Self { curl, file };
        download.wait_for_more()?;
        Ok(download)
    }

    /// Bytes received so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        fs::metadata(&self.file).map_or(0, |metadata| metadata.len())
    }

    /// Waits until more bytes have arrived than now.
    ///
    /// # Errors
    /// When the download ends or stalls.
    pub fn wait_for_more(&mut self) -> Result<()> {
        let before = self.bytes();
        let file = self.file.clone();
        self.curl.wait_until("more of the download", MARGIN, |_| {
            let now = fs::metadata(&file).map_or(0, |metadata| metadata.len());
            Ok((now > before).then_some(()))
        })
    }

    /// Waits until curl gives up, and returns why.
    ///
    /// # Errors
    /// When the download continues or completes.
    pub fn wait_for_interruption(mut self) -> Result<Interruption> {
        let status = self.curl.wait_exit(MARGIN)?;
        match status.code() {
            Some(CURL_TIMED_OUT) => Ok(Interruption::Stalled),
            Some(CURL_RECEIVE_ERROR) => Ok(Interruption::Reset),
            _ => bail!("the download ended otherwise ({status}): {}", self.curl.log()),
        }
    }
}

/// How a download was interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interruption {
    /// The connection was reset.
    Reset,
    /// No more bytes came.
    Stalled,
}
