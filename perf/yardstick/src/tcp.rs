//! TCP from pod to pod: throughput of one bulk stream, and latency of requests.

use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;
use podgate_tests::lab::{Daemon, Netns, interrupted, run, wait_for};
use serde_json::Value;
use tempfile::TempDir;

use crate::context::Context;
use crate::forwarders::{BULK_PORT, DENIED_PORT, ECHO_PORT, Filter, Kernel, Ovs, Pair, podgate};
use crate::measure::{Limit, Measurement};

pub(crate) const VS_BRIDGE: &str = "tcp.bulk.vs_bridge";
pub(crate) const VS_OVS: &str = "tcp.bulk.vs_ovs";
pub(crate) const P50: &str = "tcp.rr.p50";
pub(crate) const P99: &str = "tcp.rr.p99";

/// The ids of this suite.
pub(crate) const IDS: &[&str] = &[VS_BRIDGE, VS_OVS, P50, P99];

/// Number of rules before the one that matches.
const RULES: u32 = 10;
/// Duration of a bulk stream in seconds; iperf3 accepts whole seconds only.
const BULK_SECONDS: u32 = 3;
const BULK_SECONDS_QUICK: u32 = 2;
/// Duration of a series of requests, seconds.
const ECHO_SECONDS: u32 = 3;
const ECHO_SECONDS_QUICK: u32 = 2;
/// Size of a request and of its response, bytes.
const ECHO_BYTES: &str = "64";
/// Time that a program gets beyond its duration.
const MARGIN: Duration = Duration::from_secs(20);
/// Timeout of a connection attempt that must fail.
const DENIED_TIMEOUT: Duration = Duration::from_millis(500);

/// A client pod, a pod with servers, and the forwarder between them.
pub(crate) struct TcpTestbed<'forwarder> {
    name: &'static str,
    client: &'forwarder Netns,
    address: Ipv4Addr,
    spinning: Option<&'forwarder Daemon>,
    _servers: [Daemon; 2],
    _folder: TempDir,
}

/// Measures the wanted ids, all in the same rounds.
pub(crate) fn measure(context: &Context) -> Result<Vec<Measurement>> {
    let bulk = context.wants(VS_BRIDGE) || context.wants(VS_OVS);
    let echo = context.wants(P50) || context.wants(P99);

    context.status("podgate and its pods");
    let lab = podgate::lab(&[RULES])?;
    let agent = podgate::start(&lab)?;
    let (client, server) = (lab.host(podgate::CLIENT)?, lab.host(&podgate::server(RULES))?);
    let address = server.addresses.v4;
    let ours = TcpTestbed::new("podgate", &client.netns, (&server.netns, address), None)?;
    ours.check()?;
    context.status("kernel bridge");
    let kernel = Kernel::start("bridge", Filter::None)?;
    let bridge = TcpTestbed::between("kernel bridge", kernel.pair(), None)?;
    let ovs = context.wants(VS_OVS).then(|| Ovs::start("ovs", RULES)).transpose()?;
    let ovs =
        ovs.as_ref().map(|ovs| TcpTestbed::between("OVS afxdp", ovs.pair(), Some(ovs.daemon())));
    let ovs = ovs.transpose()?;
    if let Some(ovs) = &ovs {
        ovs.check()?;
        ovs.signal(Signal::SIGSTOP)?;
    }

    let mut rates: [Vec<f64>; 3] = Default::default();
    let mut latencies: [Vec<Percentiles>; 2] = Default::default();
    for round in 0..context.rounds {
        let mut order = [Some(&ours), Some(&bridge), ovs.as_ref()];
        let mut indices = [0, 1, 2];
        if round % 2 == 1 {
            order.reverse();
            indices.reverse();
        }
        for (index, testbed) in indices.into_iter().zip(order) {
            let Some(testbed) = testbed else { continue };
            ensure!(!interrupted(), "interrupted");
            let name = testbed.name;
            context.status(format!("tcp: round {} of {}: {name}", round + 1, context.rounds));
            testbed.signal(Signal::SIGCONT)?;
            if bulk {
                rates[index].push(testbed.bulk(context.quick)?);
            }
            if let Some(latencies) = latencies.get_mut(index).filter(|_| echo) {
                latencies.push(testbed.echo(context.quick)?);
            }
            testbed.signal(Signal::SIGSTOP)?;
        }
    }
    agent.stop()?;
    Ok(measurements(context, &rates, &latencies))
}

fn measurements(
    context: &Context,
    rates: &[Vec<f64>; 3],
    latencies: &[Vec<Percentiles>; 2],
) -> Vec<Measurement> {
    let mut all = Vec::new();
    let [ours, bridge, ovs] = rates;
    let large = "the MTU of podgate's pods is 65,000 bytes, that of the others 1,500; all but the pods of \
                 OVS keep their checksum offload";
    if context.wants(VS_BRIDGE) {
        let measured = Measurement::new(VS_BRIDGE, "Gb/s", ours.clone());
        let measured = measured.compared_with("kernel bridge, TSO on", bridge.clone());
        all.push(measured.ratio_bar(Limit::AtLeast(0.95)).note(large));
    }
    if context.wants(VS_OVS) {
        let measured = Measurement::new(VS_OVS, "Gb/s", ours.clone());
        let measured = measured.compared_with("OVS afxdp", ovs.clone());
        all.push(measured.ratio_bar(Limit::AtLeast(3.0)).note(large));
    }
    let [ours, bridge] = latencies;
    for (id, percent, limit) in [(P50, 50.0, 1.3), (P99, 99.0, 1.5)] {
        if !context.wants(id) {
            continue;
        }
        let at = |all: &[Percentiles]| all.iter().map(|one| one.at(percent)).collect();
        let measured =
            Measurement::new(id, "µs", at(ours)).compared_with("kernel bridge", at(bridge));
        let mut measured = measured
            .ratio_bar(Limit::AtMost(limit))
            .note("64 bytes each way, one request at a time; podgate polls adaptively");
        if all.iter().all(|one: &Measurement| one.series.is_empty()) {
            for (name, all) in [("podgate", ours), ("kernel bridge", bridge)] {
                measured = measured.curve(name, Percentiles::medians(all));
            }
        }
        all.push(measured);
    }
    all
}

impl<'forwarder> TcpTestbed<'forwarder> {
    /// A testbed of a forwarder's pods.
    pub(crate) fn between(
        name: &'static str,
        pair: &'forwarder Pair,
        spinning: Option<&'forwarder Daemon>,
    ) -> Result<Self> {
        let Pair { client, server, .. } = pair;
        Self::new(name, &client.netns, (&server.netns, server.address), spinning)
    }

    /// Starts the servers in the pod `server`.
    pub(crate) fn new(
        name: &'static str,
        client: &'forwarder Netns,
        (server, address): (&'forwarder Netns, Ipv4Addr),
        spinning: Option<&'forwarder Daemon>,
    ) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut iperf = server.daemon("iperf3".as_ref());
        iperf.args(["--server", "--port", &BULK_PORT.to_string()]);
        let mut sockperf = server.daemon("sockperf".as_ref());
        sockperf.args(["server", "--tcp", "--ip", &address.to_string()]);
        sockperf.args(["--port", &ECHO_PORT.to_string()]);
        let servers = [
            Daemon::start("iperf3", iperf, folder.path().join("iperf3.log"))?,
            Daemon::start("sockperf", sockperf, folder.path().join("sockperf.log"))?,
        ];
        for port in [BULK_PORT, ECHO_PORT] {
            wait_for("a server to listen", MARGIN, || {
                let local = || Ok(TcpStream::connect((address, port)).ok().map(drop));
                server.inside(local)
            })?;
        }
        Ok(Self { name, client, address, spinning, _servers: servers, _folder: folder })
    }

    /// Checks that an allowed port is reachable, and a denied one is not.
    fn check(&self) -> Result<()> {
        let connects = |port, timeout| {
            let to = (IpAddr::from(self.address), port).into();
            self.client.inside(|| Ok(TcpStream::connect_timeout(&to, timeout)))
        };
        connects(BULK_PORT, MARGIN)?
            .with_context(|| format!("{}: an allowed port is unreachable", self.name))?;
        match connects(DENIED_PORT, DENIED_TIMEOUT)? {
            Err(error) if error.kind() == std::io::ErrorKind::TimedOut => Ok(()),
            other => bail!("{}: a denied port answers: {other:?}", self.name),
        }
    }

    /// Throughput of one stream, Gb/s.
    pub(crate) fn bulk(&self, quick: bool) -> Result<f64> {
        self.bulk_to(self.address, None, quick)
    }

    /// The same to another address of the servers, from this port.
    pub(crate) fn bulk_to(&self, to: Ipv4Addr, from: Option<u16>, quick: bool) -> Result<f64> {
        let seconds = if quick { BULK_SECONDS_QUICK } else { BULK_SECONDS };
        let mut command =
            self.client.bounded("iperf3", Duration::from_secs(seconds.into()) + MARGIN);
        command.args(["--client", &to.to_string(), "--port", &BULK_PORT.to_string()]);
        command.args(["--time", &seconds.to_string(), "--json"]);
        command.args(from.into_iter().flat_map(|port| ["--cport".to_owned(), port.to_string()]));
        let answer: Value = serde_json::from_str(&run(&mut command)?)?;
        let received = &answer["end"]["sum_received"]["bits_per_second"];
        let rate = received.as_f64().context("iperf3 printed no rate")? / 1e9;
        ensure!(rate > 0.0, "{}: nothing arrives", self.name);
        Ok(rate)
    }

    /// Latency of requests.
    fn echo(&self, quick: bool) -> Result<Percentiles> {
        let printed = self.requests(self.address, None, quick)?;
        Percentiles::parse(&printed).with_context(|| self.name)
    }

    /// Requests per second to another address of the servers, from this port, one at a time.
    pub(crate) fn requests_per_second(
        &self,
        to: Ipv4Addr,
        from: Option<u16>,
        quick: bool,
    ) -> Result<f64> {
        let printed = self.requests(to, from, quick)?;
        round_trip(&printed).map(|micros| 1e6 / micros).with_context(|| self.name)
    }

    /// What sockperf prints of a series of requests.
    fn requests(&self, to: Ipv4Addr, from: Option<u16>, quick: bool) -> Result<String> {
        let seconds = if quick { ECHO_SECONDS_QUICK } else { ECHO_SECONDS };
        let mut command =
            self.client.bounded("sockperf", Duration::from_secs(seconds.into()) + MARGIN);
        command.args(["ping-pong", "--tcp", "--full-rtt", "--ip", &to.to_string()]);
        command.args(["--port", &ECHO_PORT.to_string(), "--msg-size", ECHO_BYTES]);
        command.args(["--time", &seconds.to_string()]);
        let from = from.into_iter();
        command.args(from.flat_map(|port| ["--client_port".to_owned(), port.to_string()]));
        run(&mut command)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        self.spinning.map_or(Ok(()), |daemon| daemon.signal(signal))
    }
}

/// The mean round trip that sockperf prints, microseconds.
fn round_trip(text: &str) -> Result<f64> {
    let mean = text.split_once("Summary: Round trip is ").and_then(|(_, after)| {
        after.split_whitespace().next()?.parse().ok().filter(|micros| *micros > 0.0)
    });
    mean.with_context(|| format!("sockperf printed no round trip: {text}"))
}

/// Latency percentiles of a series of requests: percent and microseconds.
#[derive(Clone, Debug, PartialEq)]
struct Percentiles(Vec<(f64, f64)>);

impl Percentiles {
    /// Parses the output of sockperf, lines such as
    /// `sockperf: ---> percentile 99.000 =   61.027`.
    fn parse(text: &str) -> Result<Self> {
        let line = |line: &str| {
            let (percent, value) = line.split_once("---> percentile ")?.1.split_once('=')?;
            Some((percent.trim().parse().ok()?, value.trim().parse().ok()?))
        };
        let mut all: Vec<(f64, f64)> = text.lines().filter_map(line).collect();
        all.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        let has = |wanted| all.iter().any(|(percent, _)| *percent == wanted);
        ensure!(has(50.0) && has(99.0), "sockperf printed no percentiles: {text}");
        Ok(Self(all))
    }

    /// The latency at a percentile; NaN if sockperf printed none.
    fn at(&self, wanted: f64) -> f64 {
        let found = self.0.iter().find(|(percent, _)| *percent == wanted);
        found.map_or(f64::NAN, |(_, value)| *value)
    }

    /// Medians of each percentile over several series.
    fn medians(all: &[Self]) -> Vec<(f64, f64)> {
        let percents = all.first().map_or(&[][..], |first| &first.0);
        let median = |percent| {
            crate::measure::median(&all.iter().map(|one| one.at(percent)).collect::<Vec<_>>())
        };
        percents.iter().map(|(percent, _)| (*percent, median(*percent))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINTED: &str = "\
sockperf: Summary: Round trip is 40.123 usec
sockperf: Total 24 observations; each percentile contains 0.24 observations
sockperf: ---> <MAX> observation =  303.456
sockperf: ---> percentile 99.000 =   61.027
sockperf: ---> percentile 50.000 =   39.500
sockperf: ---> <MIN> observation =   30.001
";

    #[test]
    fn the_output_of_sockperf_is_parsed() {
        let read = Percentiles::parse(PRINTED).unwrap();
        assert_eq!(read, Percentiles(vec![(50.0, 39.5), (99.0, 61.027)]));
        assert_eq!((read.at(99.0), read.at(75.0).is_nan()), (61.027, true));
        assert_eq!(round_trip(PRINTED).unwrap(), 40.123);
        assert!(round_trip("sockperf: No messages were received").is_err());
        let fails = Percentiles::parse("sockperf: No messages were received").unwrap_err();
        assert!(fails.to_string().contains("No messages"), "{fails}");
    }

    #[test]
    fn the_curve_has_the_median_of_each_percentile() {
        let series = [1.0, 5.0, 2.0].map(|value| Percentiles(vec![(50.0, value)]));
        assert_eq!(Percentiles::medians(&series), [(50.0, 2.0)]);
        assert_eq!(Percentiles::medians(&[]), []);
    }
}
