//! TCP throughput between two pods during a flood between two others.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use podgate_tests::lab::{Netns, interrupted};

use crate::context::Context;
use crate::forwarders::{Filter, Kernel, podgate};
use crate::measure::{Limit, Measurement};
use crate::tcp::TcpTestbed;
use crate::traffic::syn_flood;

pub(crate) const VICTIM: &str = "fairness.victim";

/// SYNs per second of the flood.
const RATE: u32 = 100_000;
/// Minimum share of its throughput that the victim keeps.
const BAR: f64 = 0.7;
/// Policies for the victim's server that don't match.
const RULES: u32 = 10;
/// The flood's ends, in addition to podgate's client and server.
const OTHERS: [&str; 2] = ["flooder", "target"];
/// Maximum duration of a flood.
const FLOOD_MAX: Duration = Duration::from_secs(30);

/// Two pods whose throughput is measured, and two others with a flood between them.
struct FloodTestbed<'forwarder> {
    victim: TcpTestbed<'forwarder>,
    flooder: &'forwarder Netns,
    /// Source and destination of the flood.
    ends: [Ipv4Addr; 2],
}

/// Measures the victim's share with podgate and with the kernel's bridge, interleaved.
pub(crate) fn measure(context: &Context) -> Result<Vec<Measurement>> {
    context.status("podgate and its pods");
    let lab = podgate::lab_with(&[RULES], &OTHERS)?;
    let agent = podgate::start(&lab)?;
    let (client, server) = (lab.host(podgate::CLIENT)?, lab.host(&podgate::server(RULES))?);
    let [flooder, target] = OTHERS.map(|name| lab.host(&format!("bench/{name}")));
    let (flooder, target) = (flooder?, target?);
    let ours = FloodTestbed {
        victim: TcpTestbed::new(
            "podgate",
            &client.netns,
            (&server.netns, server.addresses.v4),
            None,
        )?,
        flooder: &flooder.netns,
        ends: [flooder.addresses.v4, target.addresses.v4],
    };
    context.status("kernel bridge");
    let kernel = Kernel::start("fair", Filter::None)?;
    let others = kernel.add_pods("fair")?;
    let bridge = FloodTestbed {
        victim: TcpTestbed::between("kernel bridge", kernel.pair(), None)?,
        flooder: &others[0].netns,
        ends: [others[0].address, others[1].address],
    };
    let (mut kept, mut rates): ([Vec<f64>; 2], [Vec<f64>; 2]) = Default::default();
    for round in 0..context.rounds {
        let mut order = [(0, &ours), (1, &bridge)];
        if round % 2 == 1 {
            order.reverse();
        }
        for (index, testbed) in order {
            ensure!(!interrupted(), "interrupted");
            context.status(format!("fairness: round {} of {}", round + 1, context.rounds));
            let alone = testbed.victim.bulk(context.quick)?;
            let (flooded, rate) = testbed.flooded(context.quick)?;
            kept[index].push(flooded / alone);
            rates[index].push(rate);
        }
    }
    agent.stop()?;
    let [ours, bridge] = kept;
    let [of_ours, of_bridge] = rates.map(|rates| crate::measure::median(&rates));
    let measurement = Measurement::new(VICTIM, "of its throughput", ours)
        .bar(Limit::AtLeast(BAR))
        .compared_with("kernel bridge", bridge)
        .note(format!(
            "throughput of one TCP stream between two pods with a flood of {RATE} SYN/s between two \
             others, divided by that without the flood; {of_ours:.0} SYN/s were sent through podgate \
             and {of_bridge:.0} through the bridge"
        ));
    Ok(vec![measurement])
}

impl FloodTestbed<'_> {
    /// The victim's throughput during the flood, and the flood's rate.
    fn flooded(&self, quick: bool) -> Result<(f64, f64)> {
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let flood = || self.flooder.inside(|| syn_flood(self.ends, RATE, &stop, FLOOD_MAX));
            let flood = scope.spawn(flood);
            let throughput = self.victim.bulk(quick);
            stop.store(true, Ordering::Relaxed);
            let rate = flood.join().map_err(|_| anyhow!("the flood panicked"))??;
            Ok((throughput?, rate))
        })
    }
}
