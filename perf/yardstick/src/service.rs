//! TCP from pod to pod through a service's cluster IP, against the pod's own address.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context as _, Result, ensure};
use podgate_tables::address::Address;
use podgate_tables::proto;
use podgate_tests::lab::{Agent, interrupted};
use podgate_xdp_redirect::{FIRST_EPHEMERAL_PORT, flow_hash, worker_of};

use crate::context::Context;
use crate::forwarders::{BULK_PORT, ECHO_PORT, podgate};
use crate::measure::{Limit, Measurement};
use crate::tcp::TcpTestbed;

pub(crate) const BULK: &str = "service.bulk.1";
pub(crate) const BULK_2: &str = "service.bulk.2";
pub(crate) const RR: &str = "service.rr.1";
pub(crate) const RR_2: &str = "service.rr.2";

pub(crate) const BULK_HANDED_OFF: &str = "service.bulk.handed_off";
pub(crate) const RR_HANDED_OFF: &str = "service.rr.handed_off";

/// The ids of this suite.
pub(crate) const IDS: &[&str] = &[BULK, RR, BULK_2, RR_2, BULK_HANDED_OFF, RR_HANDED_OFF];

/// Number of rules before the one that matches.
const RULES: u32 = 10;
/// Minimum throughput of the bulk stream, and minimum requests per second, relative to those to the
/// pod itself.
const BULK_BAR: f64 = 0.8;
const RR_BAR: f64 = 0.9;
/// The first port of clients whose packets are handed off. A connection's port is not used again
/// soon.
const FIRST_PORT: u16 = 20_000;

/// Ports of clients.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ClientPorts {
    /// Ephemeral ones, as the kernel chooses them: one worker has both tuples of a flow.
    Ephemeral,
    /// Others: one worker translates their packets and hands them off to the other.
    HandedOff,
}

/// Measures the wanted ids: cluster IP and pod in turns, with one worker and with two.
pub(crate) fn measure(context: &Context) -> Result<Vec<Measurement>> {
    let mut all = Vec::new();
    for (workers, clients, bulk, rr) in [
        (1, ClientPorts::Ephemeral, BULK, RR),
        (2, ClientPorts::Ephemeral, BULK_2, RR_2),
        (2, ClientPorts::HandedOff, BULK_HANDED_OFF, RR_HANDED_OFF),
    ] {
        if context.wants(bulk) || context.wants(rr) {
            all.extend(measure_with(context, (workers, clients), [bulk, rr])?);
        }
    }
    Ok(all)
}

fn measure_with(
    context: &Context,
    (workers, clients): (u16, ClientPorts),
    [bulk, rr]: [&'static str; 2],
) -> Result<Vec<Measurement>> {
    context.status("podgate and its pods");
    let lab = podgate::lab_with_service(RULES)?;
    let agent = match workers {
        1 => podgate::start(&lab)?,
        _ => Agent::start_with(&lab, workers, &["--pod-checksums", "leave"])?,
    };
    let (client, server) = (lab.host(podgate::CLIENT)?, lab.host(&podgate::server(RULES))?);
    let (source, direct) = (client.addresses.v4, server.addresses.v4);
    let testbed = TcpTestbed::new("podgate", &client.netns, (&server.netns, direct), None)?;
    let mut ports = match clients {
        ClientPorts::Ephemeral => FIRST_EPHEMERAL_PORT..u16::MAX,
        ClientPorts::HandedOff => FIRST_PORT..FIRST_EPHEMERAL_PORT,
    };
    // By address: the cluster IP, then the pod.
    let [mut rates, mut requests]: [[Vec<f64>; 2]; 2] = Default::default();
    for round in 0..context.rounds {
        let mut order = [0, 1];
        if round % 2 == 1 {
            order.reverse();
        }
        for at in order {
            let to = [podgate::CLUSTER_IP, direct][at];
            ensure!(!interrupted(), "interrupted");
            context.status(format!("service: round {} of {}: {to}", round + 1, context.rounds));
            let mut next = |port| {
                let hands_off = |from: &u16| is_handed_off(workers, (source, *from), direct, port);
                let mut fitting = ports
                    .by_ref()
                    .filter(|from| hands_off(from) == (clients == ClientPorts::HandedOff));
                fitting.next().context("a client's port")
            };
            if context.wants(bulk) {
                let from = next(BULK_PORT)?;
                rates[at].push(testbed.bulk_to(to, Some(from), context.quick)?);
            }
            if context.wants(rr) {
                let from = next(ECHO_PORT)?;
                requests[at].push(testbed.requests_per_second(to, Some(from), context.quick)?);
            }
        }
    }
    agent.stop()?;
    let note = match (workers, clients) {
        (1, _) => "one worker; the pod's address in the same rounds",
        (_, ClientPorts::Ephemeral) => "two workers, one of which has both tuples of a flow",
        (_, ClientPorts::HandedOff) => {
            "two workers, one of which translates the client's packets and hands them off to the \
             other, as the client's port is below 32768"
        }
    };
    let of = |id, unit, values: &[Vec<f64>; 2], bar| {
        let [service, pod] = values.clone();
        let measured = Measurement::new(id, unit, service).compared_with("the pod's address", pod);
        let measured = measured.note(note);
        match clients {
            ClientPorts::Ephemeral => measured.ratio_bar(Limit::AtLeast(bar)),
            ClientPorts::HandedOff => measured,
        }
    };
    let mut all = Vec::new();
    if context.wants(bulk) {
        all.push(of(bulk, "Gb/s", &rates, BULK_BAR));
    }
    if context.wants(rr) {
        all.push(of(rr, "requests/s", &requests, RR_BAR));
    }
    Ok(all)
}

/// Whether packets from this client to the service are steered to another worker than those to its
/// backend.
fn is_handed_off(
    workers: u16,
    (source, from): (Ipv4Addr, u16),
    backend: Ipv4Addr,
    port: u16,
) -> bool {
    let bits = |address: Ipv4Addr| Address::from(IpAddr::from(address)).bits();
    let worker = |to: Ipv4Addr| {
        worker_of(flow_hash(bits(source), bits(to), proto::TCP, from, port), workers)
    };
    worker(podgate::CLUSTER_IP) != worker(backend)
}
