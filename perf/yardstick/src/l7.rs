//! HTTP from pod to pod: the cost of inspection, compared with an L4 policy and with the kernel's
//! bridge.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use podgate_tests::lab::{Agent, Daemon, Lab, Netns, interrupted, run, wait_for};
use tempfile::TempDir;

use crate::context::Context;
use crate::measure::{Limit, Measurement};
use crate::peers::{Filter, Kernel};

pub(crate) const P99: &str = "l7.http1.p99";
pub(crate) const SHARE: &str = "l7.plain.share";
pub(crate) const BODY: &str = "l7.body";

/// The ids of this suite.
pub(crate) const IDS: &[&str] = &[P99, SHARE, BODY];

const PORT: u16 = 80;
/// Port for uploads.
const UPLOAD_PORT: u16 = 81;
/// Connections with sequential requests, and the duration.
const CONNECTIONS: &str = "-c32";
const SECONDS: u32 = 3;
const SECONDS_QUICK: u32 = 2;
/// Size of an upload, and of one chunk of it, bytes.
const UPLOAD: usize = 512 << 20;
const UPLOAD_QUICK: usize = 128 << 20;
const CHUNK: usize = 64 << 10;
/// Time that a program gets beyond its duration, and timeout of sockets.
const MARGIN: Duration = Duration::from_secs(20);

/// A client and a server with one of the compared forwarders between them.
struct HttpTestbed<'peer> {
    name: &'static str,
    client: &'peer Netns,
    address: Ipv4Addr,
    uploads: TcpListener,
    _nginx: Daemon,
    _folder: TempDir,
}

/// Measures the wanted ids, all in the same rounds.
pub(crate) fn measure(context: &Context) -> Result<Vec<Measurement>> {
    context.status("podgate and its pods");
    let folder = tempfile::tempdir()?;
    fs::write(folder.path().join("all.yaml"), MANIFEST)?;
    let lab = Lab::new(folder.path())?;
    let agent = Agent::start_with(&lab, 1, &[])?;
    let client = &lab.host("bench/client")?.netns;
    let to = |name, pod| {
        let pod = lab.host(pod)?;
        HttpTestbed::new(name, client, &pod.netns, pod.addresses.v4)
    };
    let [l7, l4] = [to("L7 policy", "bench/l7")?, to("L4 policy", "bench/l4")?];
    let kernel = Kernel::start("bridge", Filter::None)?;
    let pair = kernel.pair();
    let server = &pair.server;
    let bridge =
        HttpTestbed::new("kernel bridge", &pair.client.netns, &server.netns, server.address)?;

    let testbeds = [&l7, &l4, &bridge];
    let requests = context.wants(P99) || context.wants(SHARE);
    let mut requested: [Vec<Requests>; 3] = Default::default();
    let mut uploaded: [Vec<f64>; 3] = Default::default();
    for round in 0..context.rounds {
        let mut order = [0, 1, 2];
        order.rotate_left(round % 3);
        for index in order {
            ensure!(!interrupted(), "interrupted");
            let testbed = testbeds[index];
            let (name, of) = (testbed.name, context.rounds);
            context.status(format!("l7: round {} of {of}: {name}", round + 1));
            if requests {
                requested[index].push(testbed.request(context.quick)?);
            }
            if context.wants(BODY) {
                uploaded[index].push(testbed.upload(context.quick)?);
            }
        }
    }
    agent.stop()?;
    Ok(measurements(context, &requested, uploaded))
}

fn measurements(
    context: &Context,
    requested: &[Vec<Requests>; 3],
    uploaded: [Vec<f64>; 3],
) -> Vec<Measurement> {
    let mut all = Vec::new();
    let of = |index: usize, value: fn(&Requests) -> f64| -> Vec<f64> {
        requested[index].iter().map(value).collect()
    };
    let bridge = |what: &str, values: &[f64], unit| {
        format!("{what} over the kernel's bridge: {:.0} {unit}", crate::measure::median(values))
    };
    if context.wants(P99) {
        let p99 = |requests: &Requests| requests.p99;
        all.push(
            Measurement::new(P99, "µs", of(0, p99))
                .compared_with("L4 policy", of(1, p99))
                .ratio_bar(Limit::AtMost(1.3))
                .note("32 keep-alive connections of wrk to nginx; one thread each")
                .note(bridge("p99", &of(2, p99), "µs")),
        );
    }
    if context.wants(SHARE) {
        let rate = |requests: &Requests| requests.rate;
        all.push(
            Measurement::new(SHARE, "requests/s", of(0, rate))
                .compared_with("L4 policy", of(1, rate))
                .note(bridge("rate", &of(2, rate), "requests/s")),
        );
    }
    if context.wants(BODY) {
        let [l7, l4, by_bridge] = uploaded;
        all.push(
            Measurement::new(BODY, "MB/s", l7)
                .compared_with("L4 policy", l4)
                .ratio_bar(Limit::AtLeast(0.9))
                .note("one upload in chunks of 64 KiB; the pods' MTU is 1,500 bytes")
                .note(bridge("rate", &by_bridge, "MB/s")),
        );
    }
    all
}

impl<'peer> HttpTestbed<'peer> {
    fn new(
        name: &'static str,
        client: &'peer Netns,
        server: &Netns,
        address: Ipv4Addr,
    ) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        fs::write(folder.path().join("nginx.conf"), NGINX)?;
        let mut nginx = server.daemon("nginx".as_ref());
        nginx.arg("-p").arg(folder.path()).args(["-c", "nginx.conf", "-e", "error.log"]);
        let nginx = Daemon::start("nginx", nginx, folder.path().join("log"))?;
        let uploads = server.inside(|| Ok(TcpListener::bind((address, UPLOAD_PORT))?))?;
        wait_for("nginx to listen", MARGIN, || {
            let local = || Ok(TcpStream::connect((address, PORT)).ok().map(drop));
            server.inside(local)
        })?;
        let this = Self { name, client, address, uploads, _nginx: nginx, _folder: folder };
        wait_for("requests to pass", MARGIN, || Ok(this.upload_of(CHUNK).ok()))
            .with_context(|| name)?;
        Ok(this)
    }

    /// Runs sequential requests on many connections.
    fn request(&self, quick: bool) -> Result<Requests> {
        let seconds = if quick { SECONDS_QUICK } else { SECONDS };
        let bound = Duration::from_secs(seconds.into()) + MARGIN;
        let mut command = self.client.bounded("wrk", bound);
        command.args(["-t1", CONNECTIONS, &format!("-d{seconds}s"), "--latency"]);
        command.arg(format!("http://{}/docs", self.address));
        Requests::parse(&run(&mut command)?).with_context(|| self.name)
    }

    /// Throughput of one upload, MB/s.
    fn upload(&self, quick: bool) -> Result<f64> {
        self.upload_of(if quick { UPLOAD_QUICK } else { UPLOAD }).with_context(|| self.name)
    }

    fn upload_of(&self, bytes: usize) -> Result<f64> {
        const LAST: &[u8] = b"0\r\n\r\n";
        let chunk = [format!("{CHUNK:x}\r\n").as_bytes(), &vec![b'a'; CHUNK], b"\r\n"].concat();
        let head = b"POST /docs HTTP/1.1\r\nHost: bench\r\nTransfer-Encoding: chunked\r\n\r\n";
        let chunks = bytes.div_ceil(CHUNK);
        let expected = head.len() + chunks * chunk.len() + LAST.len();
        let to = (self.address, UPLOAD_PORT).into();
        let mut client =
            self.client.inside(|| Ok(TcpStream::connect_timeout(&to, Duration::from_secs(2))?))?;
        client.set_read_timeout(Some(MARGIN))?;
        client.set_write_timeout(Some(MARGIN))?;
        thread::scope(|scope| {
            let server = scope.spawn(|| receive(&self.uploads, expected));
            let begin = Instant::now();
            client.write_all(head)?;
            for _ in 0..chunks {
                client.write_all(&chunk)?;
            }
            client.write_all(LAST)?;
            let mut answer = [0; 12];
            client.read_exact(&mut answer)?;
            let took = begin.elapsed();
            server.join().map_err(|_| anyhow!("the receiving thread panicked"))??;
            ensure!(answer.ends_with(b" 200"), "the upload is denied");
            Ok((chunks * CHUNK) as f64 / took.as_secs_f64() / 1e6)
        })
    }
}

/// Accepts one connection, reads `expected` bytes from it, and answers.
fn receive(listener: &TcpListener, expected: usize) -> Result<()> {
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(MARGIN))?;
    let mut buffer = vec![0; 1 << 20];
    let mut received = 0;
    while received < expected {
        let count = stream.read(&mut buffer)?;
        ensure!(count > 0, "the upload ends early");
        received += count;
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
    Ok(())
}

/// Result of a run of requests.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Requests {
    /// 99th percentile of the latency, microseconds.
    p99: f64,
    /// Requests per second.
    rate: f64,
}

impl Requests {
    /// Parses the output of wrk.
    fn parse(text: &str) -> Result<Self> {
        let after = |start: &str| {
            let line = text.lines().find_map(|line| line.trim().strip_prefix(start));
            line.map(str::trim).with_context(|| format!("wrk printed no {start:?}: {text}"))
        };
        ensure!(!text.contains("Non-2xx"), "requests are denied: {text}");
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

const NGINX: &str = "\
daemon off;
master_process off;
user root;
pid nginx.pid;
events { worker_connections 256; }
http {
  access_log off;
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  keepalive_requests 1000000000;
  server { listen 80; location / { return 200 'a small answer\\n'; } }
}
";

const MANIFEST: &str = "\
{apiVersion: v1, kind: Namespace, metadata: {name: bench}}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: bench, labels: {app: client}}
status: {podIPs: [{ip: 10.64.1.1}, {ip: \"fd64::1\"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: l7, namespace: bench, labels: {app: l7}}
status: {podIPs: [{ip: 10.64.1.2}, {ip: \"fd64::2\"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: l4, namespace: bench, labels: {app: l4}}
status: {podIPs: [{ip: 10.64.1.3}, {ip: \"fd64::3\"}]}
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: l7, namespace: bench}
spec:
  endpointSelector: {matchLabels: {app: l7}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: client}}]
    toPorts:
    - ports: [{port: \"80\", protocol: TCP}, {port: \"81\", protocol: TCP}]
      rules: {http: [{method: GET|POST, path: \"/docs(/.*)?\"}]}
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: l4, namespace: bench}
spec:
  endpointSelector: {matchLabels: {app: l4}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: client}}]
    toPorts:
    - ports: [{port: \"80\", protocol: TCP}, {port: \"81\", protocol: TCP}]
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
        assert_eq!(Requests::parse(PRINTED).unwrap(), Requests { p99: 3950.0, rate: 63460.12 });
        assert_eq!(
            (micros("512.00us"), micros("1.20s"), micros("1.2")),
            (Some(512.0), Some(1.2e6), None)
        );
        assert!(Requests::parse("Running 3s test").is_err());
        assert!(Requests::parse(&format!("{PRINTED}Non-2xx or 3xx responses: 7\n")).is_err());
    }
}
