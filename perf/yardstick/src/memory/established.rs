//! Packets of established flows.

use std::time::Duration;

use crate::{alloc, pods};
use anyhow::{Result, ensure};
use podgate_replay::rig::Rig;
use podgate_tables::ids::LinkId;
use podgate_tables::tcp_flags::ACK;

use super::small_node::{Protocols, Sender, SmallNode, Via};
use super::stopwatch::Stopwatch;
use super::{BATCH, BUSY_LINKS, pinned};
use crate::context::Context;
use crate::measure::{Limit, Measurement};

pub(crate) const SIZE_64: &str = "pipeline.established.64";
pub(crate) const IMIX: &str = "pipeline.established.imix";
pub(crate) const ALLOCS: &str = "pipeline.established.allocs";
pub(crate) const SERVICE_64: &str = "pipeline.service.64";

/// Millions of packets per second that one core has to forward.
const BAR_MPPS: f64 = 20.0;

/// Number of flows, and a larger one that shows the cost of a larger table.
const FLOWS: usize = 64;
const MANY_FLOWS: usize = 1024;

/// Sizes of IMIX frames including the frame check sequence, bytes, and the number of each among
/// twelve packets.
const IMIX_SIZES: [(usize, usize); 3] = [(64, 7), (594, 4), (1518, 1)];
/// Size of the frame check sequence, which links don't deliver, bytes.
const CHECK_SEQUENCE: usize = 4;

/// Duration of one value.
const DURATION: Duration = Duration::from_millis(500);
const DURATION_QUICK: Duration = Duration::from_millis(200);
/// Warm-up before the first value, for caches and the CPU's frequency.
const WARM_UP: Duration = Duration::from_millis(100);

/// Established flows and the packets that arrive on each link in a loop.
pub(super) struct Traffic {
    node: SmallNode,
    incoming: Vec<Incoming>,
}

struct Incoming {
    link: LinkId,
    frames: Vec<Vec<u8>>,
    next: usize,
}

impl Traffic {
    /// The traffic of [`SIZE_64`], or of [`SERVICE_64`].
    ///
    /// # Errors
    /// When the flows can't be established.
    pub(super) fn of_64_bytes(via: Via) -> Result<Self> {
        Self::new(FLOWS, &[64 - CHECK_SEQUENCE], via)
    }

    /// Traffic of `flows` flows, TCP and UDP, in both directions, with packets of these `sizes`.
    ///
    /// # Errors
    /// When the flows can't be established.
    fn new(flows: usize, sizes: &[usize], via: Via) -> Result<Self> {
        let node = SmallNode::new(flows, 1 << 18, Protocols::TcpAndUdp, via)?;
        let mut incoming: Vec<_> = (0..BUSY_LINKS)
            .map(|pod| Incoming { link: pods::link_of(pod), frames: Vec::new(), next: 0 })
            .collect();
        let mut frame = Vec::new();
        for packet in 0..2 * flows * sizes.len() {
            let (flow, sender) =
                (packet / 2 % flows, if packet % 2 == 0 { Sender::Client } else { Sender::Server });
            let size = sizes[packet / (2 * flows)];
            let link = node.write(&mut frame, flow, sender, ACK, size);
            incoming[link.index() - 1].frames.push(frame.clone());
        }
        let mut rng = fastrand::Rng::with_seed(1);
        incoming.iter_mut().for_each(|link| rng.shuffle(&mut link.frames));
        Ok(Self { node, incoming })
    }

    /// Puts a batch on each link's ring.
    pub(super) fn deliver(&mut self) {
        for Incoming { link, frames, next } in &mut self.incoming {
            for _ in 0..BATCH {
                self.node.rig.deliver(*link, &frames[*next]);
                *next = (*next + 1) % frames.len();
            }
        }
    }

    pub(super) fn rig(&mut self) -> &mut Rig {
        &mut self.node.rig
    }

    fn run(&mut self, duration: Duration) -> Stopwatch {
        let mut watch = Stopwatch::default();
        while watch.took < duration {
            self.deliver();
            watch.round(&mut self.node.rig);
        }
        watch
    }

    /// Millions of packets per second of each round, and the totals of all rounds.
    fn measure(&mut self, context: &Context, id: &str) -> Result<(Vec<f64>, Stopwatch)> {
        let duration = if context.quick { DURATION_QUICK } else { DURATION };
        self.run(WARM_UP);
        let forwarded = self.node.rig.stats().forwarded.packets.get();
        let (mut values, mut all) = (Vec::new(), Stopwatch::default());
        for round in 0..context.rounds {
            context.status(format!("{id}: round {} of {}", round + 1, context.rounds));
            let watch = self.run(duration);
            values.push(watch.millions_per_second(watch.packets));
            all.packets += watch.packets;
            all.allocations += watch.allocations;
        }
        let forwarded = self.node.rig.stats().forwarded.packets.get() - forwarded;
        let processed = all.packets;
        ensure!(forwarded == processed, "{forwarded} of {processed} packets were forwarded");
        Ok((values, all))
    }
}

/// Frame sizes of IMIX, with repetitions.
fn imix() -> Vec<usize> {
    let sizes = IMIX_SIZES.map(|(size, times)| vec![size - CHECK_SEQUENCE; times]);
    sizes.concat()
}

/// Measures established flows.
///
/// # Errors
/// When packets are lost.
pub(crate) fn measure(context: &Context) -> Result<Vec<Measurement>> {
    let mut results = Vec::new();
    if context.wants(SIZE_64) || context.wants(ALLOCS) {
        let (values, all) = pinned(|| Traffic::of_64_bytes(Via::Pod)?.measure(context, SIZE_64))?;
        let many = || {
            Traffic::new(MANY_FLOWS, &[64 - CHECK_SEQUENCE], Via::Pod)?.measure(context, SIZE_64)
        };
        let (many, _) = pinned(many)?;
        let many = Measurement::new("", "", many).median();
        results.push(
            Measurement::new(SIZE_64, "Mpps", values).bar(Limit::AtLeast(BAR_MPPS)).note(format!(
                "{FLOWS} flows, TCP and UDP, both directions, in rounds of {} packets that were copied into \
                 their frames right before, as on the core that received them; with {MANY_FLOWS} \
                 flows: {many:.1} Mpps",
                BATCH * BUSY_LINKS
            )),
        );
        if alloc::is_installed() {
            let each = all.allocations as f64 / all.packets as f64;
            results.push(
                Measurement::new(ALLOCS, "allocations/packet", vec![each])
                    .bar(Limit::AtMost(0.0))
                    .note(format!("counted over {} packets of 64 bytes", all.packets)),
            );
        }
    }
    if context.wants(IMIX) {
        let (values, _) =
            pinned(|| Traffic::new(FLOWS, &imix(), Via::Pod)?.measure(context, IMIX))?;
        results.push(
            Measurement::new(IMIX, "Mpps", values)
                .bar(Limit::AtLeast(BAR_MPPS))
                .note("64, 594 and 1518 bytes, 7:4:1, including the frame check sequence"),
        );
    }
    Ok(results)
}

/// Measures established flows to cluster IPs, against flows to the servers themselves.
///
/// # Errors
/// When packets are lost.
pub(crate) fn measure_services(context: &Context) -> Result<Vec<Measurement>> {
    let [direct, service] = [Via::Pod, Via::Service].map(|via| {
        let measured = pinned(|| Traffic::of_64_bytes(via)?.measure(context, SERVICE_64));
        measured.map(|(values, _)| values)
    });
    let measured = Measurement::new(SERVICE_64, "Mpps", service?);
    let measured = measured.compared_with("to the pods themselves", direct?);
    Ok(vec![measured.note("as pipeline.established.64; half of the packets are replies")])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_packets_of_established_flows_are_forwarded() {
        for via in [Via::Pod, Via::Service] {
            let mut traffic = Traffic::new(FLOWS, &imix(), via).unwrap();
            assert!(
                traffic
                    .incoming
                    .iter()
                    .all(|link| link.frames.len() == 2 * FLOWS * 12 / BUSY_LINKS)
            );
            let before = traffic.node.rig.stats().forwarded.packets.get();
            let mut watch = Stopwatch::default();
            for _ in 0..20 {
                traffic.deliver();
                watch.round(&mut traffic.node.rig);
            }
            assert_eq!(watch.packets, (20 * BATCH * BUSY_LINKS) as u64);
            assert_eq!(traffic.node.rig.stats().forwarded.packets.get() - before, watch.packets);
        }
    }
}
