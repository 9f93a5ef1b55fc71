//! A client and a server with one of the compared forwarders between them.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use podgate_tests::lab::{Daemon, Netns, run, run_nginx, wait_for};
use tempfile::TempDir;

/// Port of the server.
pub(super) const PORT: u16 = 80;
/// Ports for the bodies of requests and of responses.
const UPLOAD_PORT: u16 = 81;
const DOWNLOAD_PORT: u16 = 82;
/// Connections with sequential requests, and the duration.
const CONNECTIONS: &str = "-c32";
const SECONDS: u32 = 3;
const SECONDS_QUICK: u32 = 2;
/// Size of a body, and of one chunk of it, bytes.
const BODY: usize = 512 << 20;
const BODY_QUICK: usize = 128 << 20;
const CHUNK: usize = 64 << 10;
/// Time that a program gets beyond its duration, and timeout of sockets.
const MARGIN: Duration = Duration::from_secs(20);

/// The objects of pods with these names, in namespace `bench`, each labelled with its name. More
/// documents can follow.
pub(super) fn pods(names: [&str; 3]) -> String {
    let namespace = "{apiVersion: v1, kind: Namespace, metadata: {name: bench}}\n---\n".to_owned();
    names.iter().zip(1..).fold(namespace, |objects, (name, number)| {
        format!(
            "{objects}apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: bench, labels: {{app: {name}}}}}
status: {{podIPs: [{{ip: 10.64.1.{number}}}, {{ip: \"fd64::{number}\"}}]}}
---
"
        )
    })
}

/// The objects of a client and two servers, which admit it at `ports`: `l7` by `rules`, and `l4`
/// without. Both are written as in a policy.
pub(super) fn client_and_servers(ports: &str, rules: &str) -> String {
    let policy = |server: &str, rules: &str| {
        format!(
            "apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: {server}, namespace: bench}}
spec:
  endpointSelector: {{matchLabels: {{app: {server}}}}}
  ingress:
  - fromEndpoints: [{{matchLabels: {{app: client}}}}]
    toPorts:
    - ports: {ports}
{rules}---
"
        )
    };
    let l7 = policy("l7", &format!("      rules: {rules}\n"));
    [pods(["client", "l7", "l4"]), l7, policy("l4", "")].concat()
}

/// What the requests of a run are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Load {
    /// As many as possible, all of them allowed.
    Allowed,
    /// As many as possible, all of them denied.
    Denied,
    /// The same number for every forwarder: each connection pauses for two milliseconds after each
    /// response.
    Paced,
}

impl Load {
    const fn path(self) -> &'static str {
        match self {
            Self::Allowed | Self::Paced => "/docs",
            Self::Denied => "/secret",
        }
    }
}

/// How a body is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Body {
    /// A request with a length.
    Upload,
    /// A request in chunks.
    Chunked,
    /// A response with a length.
    Download,
}

/// A client and a server with one of the compared forwarders between them.
pub(super) struct HttpTestbed<'forwarder> {
    name: &'static str,
    client: &'forwarder Netns,
    address: Ipv4Addr,
    /// Port that requests are sent to.
    port: u16,
    uploads: TcpListener,
    downloads: TcpListener,
    folder: TempDir,
    _nginx: Daemon,
}

impl<'forwarder> HttpTestbed<'forwarder> {
    pub(super) fn new(
        name: &'static str,
        client: &'forwarder Netns,
        server: &Netns,
        address: Ipv4Addr,
    ) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        fs::write(folder.path().join("paced.lua"), "function delay() return 2 end\n")?;
        let nginx = run_nginx(server, folder.path(), HTTP)?;
        let bind = |port| server.inside(|| Ok(TcpListener::bind((address, port))?));
        let (uploads, downloads) = (bind(UPLOAD_PORT)?, bind(DOWNLOAD_PORT)?);
        wait_for("nginx to listen", MARGIN, || {
            let local = || Ok(TcpStream::connect((address, PORT)).ok().map(drop));
            server.inside(local)
        })?;
        let this =
            Self { name, client, address, port: PORT, uploads, downloads, folder, _nginx: nginx };
        wait_for("requests to pass", MARGIN, || Ok(this.body_of(Body::Chunked, CHUNK).ok()))
            .with_context(|| name)?;
        Ok(this)
    }

    /// The name in the report.
    pub(super) const fn name(&self) -> &'static str {
        self.name
    }

    /// The folder of the testbed's files.
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Sends requests to another port from now on, under another name.
    pub(super) fn through(mut self, name: &'static str, port: u16) -> Self {
        (self.name, self.port) = (name, port);
        self
    }

    /// Runs sequential requests on many connections.
    pub(super) fn request(&self, load: Load, quick: bool) -> Result<RequestMeasurement> {
        let seconds = if quick { SECONDS_QUICK } else { SECONDS };
        let bound = Duration::from_secs(seconds.into()) + MARGIN;
        let mut command = self.client.bounded("wrk", bound);
        command.args(["-t1", CONNECTIONS, &format!("-d{seconds}s"), "--latency"]);
        if load == Load::Paced {
            command.arg("-s").arg(self.folder().join("paced.lua"));
        }
        command.arg(format!("http://{}:{}{}", self.address, self.port, load.path()));
        RequestMeasurement::parse(&run(&mut command)?, load).with_context(|| self.name)
    }

    /// Throughput of one body, MB/s.
    pub(super) fn body(&self, body: Body, quick: bool) -> Result<f64> {
        self.body_of(body, if quick { BODY_QUICK } else { BODY }).with_context(|| self.name)
    }

    fn body_of(&self, body: Body, len: usize) -> Result<f64> {
        let (listener, port) = match body {
            Body::Upload | Body::Chunked => (&self.uploads, UPLOAD_PORT),
            Body::Download => (&self.downloads, DOWNLOAD_PORT),
        };
        let to = (self.address, port).into();
        let mut client =
            self.client.inside(|| Ok(TcpStream::connect_timeout(&to, Duration::from_secs(2))?))?;
        client.set_read_timeout(Some(MARGIN))?;
        client.set_write_timeout(Some(MARGIN))?;
        let chunks = len.div_ceil(CHUNK);
        let head = match body {
            Body::Upload => format!(
                "POST /docs HTTP/1.1\r\nHost: bench\r\nContent-Length: {}\r\n\r\n",
                chunks * CHUNK
            ),
            Body::Chunked => {
                "POST /docs HTTP/1.1\r\nHost: bench\r\nTransfer-Encoding: chunked\r\n\r\n"
                    .to_owned()
            }
            Body::Download => "GET /docs HTTP/1.1\r\nHost: bench\r\n\r\n".to_owned(),
        };
        let (chunk, last) = match body {
            Body::Chunked => {
                let size = format!("{CHUNK:x}\r\n");
                ([size.as_bytes(), &vec![b'a'; CHUNK], b"\r\n"].concat(), &b"0\r\n\r\n"[..])
            }
            Body::Upload | Body::Download => (vec![b'a'; CHUNK], &b""[..]),
        };
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
            match body {
                Body::Download => chunks * CHUNK,
                Body::Upload | Body::Chunked => 0,
            }
        );
        let sent = Sent { chunk, chunks, last };
        thread::scope(|scope| {
            let server = scope.spawn(|| {
                let (mut stream, _) = listener.accept()?;
                stream.set_read_timeout(Some(MARGIN))?;
                stream.set_write_timeout(Some(MARGIN))?;
                match body {
                    Body::Download => {
                        receive(&mut stream, head.len())?;
                        stream.write_all(answer.as_bytes())?;
                        sent.send(&mut stream)
                    }
                    Body::Upload | Body::Chunked => {
                        receive(&mut stream, head.len() + sent.len())?;
                        Ok(stream.write_all(answer.as_bytes())?)
                    }
                }
            });
            let begin = Instant::now();
            client.write_all(head.as_bytes())?;
            let received = match body {
                Body::Download => receive(&mut client, answer.len() + sent.len()),
                Body::Upload | Body::Chunked => {
                    sent.send(&mut client)?;
                    receive(&mut client, answer.len())
                }
            };
            let took = begin.elapsed();
            server.join().map_err(|_| anyhow!("the server's thread panicked"))??;
            received.context("the body is denied")?;
            Ok((chunks * CHUNK) as f64 / took.as_secs_f64() / 1e6)
        })
    }
}

/// What is sent of a body.
struct Sent<'l> {
    chunk: Vec<u8>,
    chunks: usize,
    last: &'l [u8],
}

impl Sent<'_> {
    const fn len(&self) -> usize {
        self.chunk.len() * self.chunks + self.last.len()
    }

    fn send(&self, stream: &mut TcpStream) -> Result<()> {
        for _ in 0..self.chunks {
            stream.write_all(&self.chunk)?;
        }
        Ok(stream.write_all(self.last)?)
    }
}

/// Reads `expected` bytes.
fn receive(stream: &mut TcpStream, expected: usize) -> Result<()> {
    let mut buffer = vec![0; 1 << 20];
    let mut received = 0;
    while received < expected {
        let count = stream.read(&mut buffer)?;
        ensure!(count > 0, "the stream ends after {received} of {expected} bytes");
        received += count;
    }
    Ok(())
}

/// Result of a run of requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct RequestMeasurement {
    /// 99th percentile of the latency, microseconds.
    pub(super) p99: f64,
    /// Requests per second.
    pub(super) rate: f64,
}

impl RequestMeasurement {
    /// Parses the output of wrk.
    pub(super) fn parse(text: &str, load: Load) -> Result<Self> {
        let after = |start: &str| {
            let line = text.lines().find_map(|line| line.trim().strip_prefix(start));
            line.map(str::trim).with_context(|| format!("wrk printed no {start:?}: {text}"))
        };
        let are_denied = text.contains("Non-2xx");
        ensure!(are_denied == (load == Load::Denied), "denied: {are_denied}, of {load:?}: {text}");
        ensure!(!text.contains("Socket errors"), "connections end: {text}");
        let rate = after("Requests/sec:")?.parse()?;
        Ok(Self { p99: micros(after("99%")?).context("wrk printed no time")?, rate })
    }
}

/// `512.00us`, `3.95ms` or `1.20s`, in microseconds.
fn micros(text: &str) -> Option<f64> {
    let units = [("us", 1.0), ("ms", 1e3), ("s", 1e6)];
    let (number, unit) =
        units.iter().find_map(|(suffix, unit)| Some((text.strip_suffix(suffix)?, unit)))?;
    Some(number.parse::<f64>().ok()? * unit)
}

const HTTP: &str = "\
  keepalive_requests 1000000000;
  server { listen 80; location / { return 200 'a small answer\\n'; } }
";

#[cfg(test)]
mod tests {
    use super::*;

    const PRINTED: &str = "\
Running 3s test @ http://10.64.1.2/docs
  1 threads and 32 connections
  Latency Distribution
     50%  345.00us
     75%  612.00us
     90%    0.98ms
     99%    3.95ms
  190380 requests in 3.00s, 32.13MB read
Requests/sec:  63460.12
Transfer/sec:     10.71MB
";

    #[test]
    fn the_output_of_wrk_is_parsed() {
        assert_eq!(
            RequestMeasurement::parse(PRINTED, Load::Allowed).unwrap(),
            RequestMeasurement { p99: 3950.0, rate: 63460.12 }
        );
        assert_eq!(
            (micros("512.00us"), micros("1.20s"), micros("1.2")),
            (Some(512.0), Some(1.2e6), None)
        );
        assert!(RequestMeasurement::parse("Running 3s test", Load::Allowed).is_err());
        let denied = format!("{PRINTED}Non-2xx or 3xx responses: 7\n");
        assert!(RequestMeasurement::parse(&denied, Load::Allowed).is_err());
        assert!(RequestMeasurement::parse(&denied, Load::Denied).is_ok());
        assert!(RequestMeasurement::parse(PRINTED, Load::Denied).is_err());
    }
}
