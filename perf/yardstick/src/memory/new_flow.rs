//! New flows on a node of a large cluster.
//!
//! Pods of the node open TCP and UDP flows to each other. Each packet opens a flow; apart from the
//! source ports, the flows repeat. A note has the rate with far more distinct flows. Policy allows
//! most of them; only flows that were opened are counted, so denied ones only cost time. In each
//! round eight links have a full batch, all links in turn, to destinations at any link.
//!
//! The flow table has the default size of an agent's, and is full from the start: each new flow
//! evicts the oldest unanswered one, which causes an event. The worker's clock runs in real time,
//! so none of them has timed out.

use std::collections::HashSet;
use std::time::Duration;

use crate::pods::{link_of, write_frame};
use crate::scale::{Node, Size};
use anyhow::{Result, ensure};
use fastrand::Rng;
use podgate_dataplane::worker::SharedConfig;
use podgate_replay::rig::Rig;
use podgate_tables::ids::LinkId;
use podgate_tables::tcp_flags::SYN;
use podgate_tables::tuple::Tuple;

use super::stopwatch::Stopwatch;
use super::{BATCH, BUSY_LINKS, pinned};
use crate::context::Context;
use crate::measure::{Limit, Measurement};

pub(crate) const NEW_FLOW: &str = "pipeline.new_flow.10k";

/// Millions of new flows per second that one core has to open.
const BAR_MILLIONS: f64 = 2.0;

const SIZE: Size = Size { namespaces: 1000, pods: 100_000, policies: 10_000 };

/// Number of different flows, apart from source ports, of each pod. A worker caches the decisions
/// on all of them.
const OPENINGS: usize = 64;

/// Enough that most decisions are not in the cache.
const MANY_OPENINGS: usize = 1024;

/// First source port; all from here are used in turn.
const FIRST_PORT: u16 = 1024;

const DURATION: Duration = Duration::from_millis(500);
const DURATION_QUICK: Duration = Duration::from_millis(200);

/// A pod that opens flows.
struct Opener {
    link: LinkId,
    openings: Vec<Tuple>,
    next: usize,
    port: u16,
}

impl Opener {
    fn new(node: &Node, pod: usize, openings: usize, rng: &mut Rng) -> Self {
        let mut drawn = HashSet::new();
        let draws = (0..openings).map(|_| Tuple { src_port: 0, ..node.draw(pod, rng) });
        let openings = draws.filter(|tuple| drawn.insert(*tuple)).collect();
        Self { link: link_of(pod), openings, next: 0, port: FIRST_PORT }
    }

    /// Writes the first packet of a flow that is not in the table: each source port is used for all
    /// openings before the next one.
    fn write_next(&mut self, frame: &mut Vec<u8>) {
        let tuple = Tuple { src_port: self.port, ..self.openings[self.next] };
        self.next = (self.next + 1) % self.openings.len();
        if self.next == 0 {
            self.port = self.port.checked_add(1).unwrap_or(FIRST_PORT);
        }
        write_frame(frame, self.link, &tuple, SYN, 0);
    }
}

/// A worker and the pods around it.
struct Openers {
    node: Node,
    rig: Rig,
    openers: Vec<Opener>,
    /// Index of the next pod.
    turn: usize,
    frame: Vec<u8>,
}

impl Openers {
    fn new(size: Size) -> Result<Self> {
        let node = Node::new(size, 1)?;
        let flows = SharedConfig::default().flows_per_worker;
        let rig = Rig::with_flows(node.snapshot(), node.pods() as u16 + 1, flows)?;
        let mut openers = Self { node, rig, openers: Vec::new(), turn: 0, frame: Vec::new() };
        openers.draw(OPENINGS);
        Ok(openers)
    }

    /// Draws `openings` random flows for each pod.
    fn draw(&mut self, openings: usize) {
        let mut rng = Rng::with_seed(1);
        let opener = |pod| Opener::new(&self.node, pod, openings, &mut rng);
        self.openers = (0..self.node.pods()).map(opener).collect();
    }

    fn deliver(&mut self) -> Result<()> {
        for _ in 0..BUSY_LINKS {
            for _ in 0..BATCH {
                let opener = &mut self.openers[self.turn];
                opener.write_next(&mut self.frame);
                let delivered = self.rig.deliver(opener.link, &self.frame);
                ensure!(delivered, "the rings have no space for a batch");
            }
            self.turn = (self.turn + 1) % self.openers.len();
        }
        Ok(())
    }

    /// Opens flows until the table is full.
    fn fill(&mut self) -> Result<()> {
        let (mut before, mut now) = (0, 1);
        while before < now {
            // Enough rounds for a table with free entries to have fewer after them.
            for _ in 0..64 {
                self.deliver()?;
                self.rig.round();
                self.rig.collect(&mut |_| {});
            }
            (before, now) = (now, self.rig.stats().flows.get());
        }
        Ok(())
    }

    /// Opens flows for `duration`. Returns the number of opened flows.
    fn run(&mut self, duration: Duration) -> Result<(u64, Stopwatch)> {
        let opened = self.rig.stats().flows_opened.get();
        let mut watch = Stopwatch::default();
        while watch.took < duration {
            self.deliver()?;
            watch.round(&mut self.rig);
        }
        Ok((self.rig.stats().flows_opened.get() - opened, watch))
    }
}

/// Measures new flows.
///
/// # Errors
/// When flows are not opened.
pub(crate) fn measure(context: &Context) -> Result<Vec<Measurement>> {
    context.status(format!("{NEW_FLOW}: loading {} policies", SIZE.policies));
    let duration = if context.quick { DURATION_QUICK } else { DURATION };
    let (values, allowed, flows, of_many) = pinned(|| {
        let mut openers = Openers::new(SIZE)?;
        context.status(format!("{NEW_FLOW}: filling the flow table"));
        openers.fill()?;
        let (mut values, mut opened, mut packets) = (Vec::new(), 0, 0);
        for round in 0..context.rounds {
            context.status(format!("{NEW_FLOW}: round {} of {}", round + 1, context.rounds));
            let (flows, watch) = openers.run(duration)?;
            values.push(watch.millions_per_second(flows));
            opened += flows;
            packets += watch.packets;
        }
        ensure!(2 * opened > packets, "only {opened} of {packets} flows were opened");
        openers.draw(MANY_OPENINGS);
        let (of_many, watch) = openers.run(duration)?;
        let of_many = watch.millions_per_second(of_many);
        Ok((values, opened * 100 / packets, openers.rig.stats().flows.get(), of_many))
    })?;
    let measurement = Measurement::new(NEW_FLOW, "M/s", values)
        .bar(Limit::AtLeast(BAR_MILLIONS))
        .note(format!(
            "{} policies and {} pods in the cluster; the node's pods open flows to each other, of \
             which {allowed} % are allowed and count; the table of {flows} flows is full, so each new \
             flow evicts another one; each pod opens {OPENINGS} different flows, whose decisions are \
             cached, and with {MANY_OPENINGS} different ones it is {of_many:.2} M/s",
            SIZE.policies, SIZE.pods
        ));
    Ok(vec![measurement])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_flows_evict_old_ones_from_a_full_table() {
        let mut openers = Openers::new(Size { namespaces: 10, pods: 250, policies: 60 }).unwrap();
        openers.fill().unwrap();
        let full = openers.rig.stats().flows.get();
        assert!(openers.run(Duration::from_millis(1)).unwrap().0 > 0);
        assert_eq!(openers.rig.stats().flows.get(), full);
    }
}
