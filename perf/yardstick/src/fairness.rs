//! What a flood between two pods leaves of the TCP throughput between two others.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use podgate_tests::lab::{Netns, interrupted};

use crate::context::Context;
use crate::measure::{Limit, Measurement};
use crate::peers::{Filter, Kernel, podgate};
use crate::tcp::Course;
use crate::traffic::syn_flood;

pub(crate) const VICTIM: &str = "fairness.victim";

/// SYNs a second of the flood.
const RATE: u32 = 100_000;
/// The least part of its throughput that the victim is to keep.
const BAR: f64 = 0.7;
/// Policies for the victim's server that don't match.
const RULES: u32 = 10;
/// The flood's ends, beside podgate's client and server.
const OTHERS: [&str; 2] = ["flooder", "target"];
/// No flood lasts for longer.
const FLOOD_MAX: Duration = Duration::from_secs(30);

/// Two pods that are to be left alone, and two others with a flood between them.
struct Street<'peer> {
    victim: Course<'peer>,
    flooder: &'peer Netns,
    /// Where the flood comes from, and where it goes.
    ends: [Ipv4Addr; 2],
}

/// Measures what podgate leaves to the victim, and what the kernel's bridge does, by turns.
pub(crate) fn measure(context: &Context) -> Result<Vec<Measurement>> {
    context.doing("podgate and its pods");
    let lab = podgate::lab_with(&[RULES], &OTHERS)?;
    let agent = podgate::start(&lab)?;
    let (client, server) = (lab.host(podgate::CLIENT)?, lab.host(&podgate::server(RULES))?);
    let [flooder, target] = OTHERS.map(|name| lab.host(&format!("bench/{name}")));
    let (flooder, target) = (flooder?, target?);
    let ours = Street {
        victim: Course::new("podgate", &client.netns, (&server.netns, server.addresses.v4), None)?,
        flooder: &flooder.netns,
        ends: [flooder.addresses.v4, target.addresses.v4],
    };
    context.doing("kernel bridge");
    let kernel = Kernel::start("fair", Filter::None)?;
    let others = kernel.plug_others("fair")?;
    let bridge = Street {
        victim: Course::between("kernel bridge", kernel.pair(), None)?,
        flooder: &others[0].netns,
        ends: [others[0].address, others[1].address],
    };
    let (mut kept, mut rates): ([Vec<f64>; 2], [Vec<f64>; 2]) = Default::default();
    for round in 0..context.rounds {
        let mut order = [(0, &ours), (1, &bridge)];
        if round % 2 == 1 {
            order.reverse();
        }
        for (index, street) in order {
            ensure!(!interrupted(), "interrupted");
            context.doing(format!("fairness: round {} of {}", round + 1, context.rounds));
            let alone = street.victim.bulk(context.quick)?;
            let (flooded, rate) = street.flooded(context.quick)?;
            kept[index].push(flooded / alone);
            rates[index].push(rate);
        }
    }
    agent.stop()?;
    let [ours, bridge] = kept;
    let [of_ours, of_bridge] = rates.map(|rates| crate::measure::median(&rates));
    let measurement = Measurement::new(VICTIM, "of its throughput", ours)
        .held_to(Limit::AtLeast(BAR))
        .against("kernel bridge", bridge)
        .note(format!(
            "one TCP stream between two pods with a flood of {RATE} SYN/s between two others, by the \
             same without it; {of_ours:.0} SYN/s were sent through podgate and {of_bridge:.0} \
             through the bridge"
        ));
    Ok(vec![measurement])
}

impl Street<'_> {
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
