//! New flows on a node of a large cluster.
//!
//! Pods of the node open flows to each other, TCP and UDP, each packet a new one. Fifteen of
//! sixteen are allowed; what is counted is flows that were opened, so the denied ones only cost.
//! Eight links have a full batch in each round, all links in turn, to destinations behind any link.
//!
//! The flow table has the size that an agent's has, and is full of such flows from the start: each
//! new one takes the place of the oldest that was never answered, whose end is told as an event.
//! The worker's clock runs as fast as the worker does, so none of them has timed out.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use fastrand::Rng;
use podgate_dataplane::packet::tcp_flags::SYN;
use podgate_dataplane::types::{LinkId, Tuple};
use podgate_dataplane::worker::SharedConfig;
use podgate_perf::bench::{Node, Opening, Size};
use podgate_perf::pods::{link_of, write_frame};
use podgate_perf::rig::Rig;

use super::stopwatch::Stopwatch;
use super::{BATCH, BUSY_LINKS, pinned};
use crate::context::Context;
use crate::measure::{Limit, Measurement};

pub(crate) const NEW_FLOW: &str = "pipeline.new_flow.10k";

/// Millions of new flows per second that one core has to open.
const BAR_MILLIONS: f64 = 2.0;

const SIZE: Size = Size { namespaces: 1000, pods: 100_000, policies: 10_000 };

/// One packet in so many is of a flow that is denied.
const DENIED: u64 = 16;

/// Flows that are drawn to find, for each pod, some that are allowed.
const DRAWS: usize = 100_000;

/// Source ports from here on, each used in turn.
const FIRST_PORT: u16 = 1024;

const DURATION: Duration = Duration::from_millis(500);
const DURATION_QUICK: Duration = Duration::from_millis(200);

/// A pod that opens flows.
struct Opener {
    link: LinkId,
    allowed: Vec<Tuple>,
    denied: Vec<Tuple>,
    next: usize,
    port: u16,
    packets: u64,
}

impl Opener {
    /// Writes the first packet of a flow that is not in the table any more, if it ever was: each
    /// source port serves all flows before the next one has its turn.
    fn write_next(&mut self, frame: &mut Vec<u8>) {
        self.packets += 1;
        let tuple = if self.packets.is_multiple_of(DENIED) && !self.denied.is_empty() {
            self.denied[self.next % self.denied.len()]
        } else {
            self.next += 1;
            if self.next == self.allowed.len() {
                self.next = 0;
                self.port = self.port.checked_add(1).unwrap_or(FIRST_PORT);
            }
            self.allowed[self.next]
        };
        write_frame(frame, self.link, &Tuple { src_port: self.port, ..tuple }, SYN, 0);
    }
}

/// A worker and the pods around it.
struct Openers {
    rig: Rig,
    openers: Vec<Opener>,
    /// The pod whose turn it is.
    turn: usize,
    frame: Vec<u8>,
}

impl Openers {
    fn new(size: Size) -> Result<Self> {
        let node = Node::new(size, 1)?;
        let flows = SharedConfig::default().flows_per_worker;
        let rig = Rig::with_flows(node.snapshot(), node.pods() as u16 + 1, flows)?;
        Ok(Self { rig, openers: openers(&node), turn: 0, frame: Vec::new() })
    }

    fn deliver(&mut self) -> Result<()> {
        for _ in 0..BUSY_LINKS {
            for _ in 0..BATCH {
                let opener = &mut self.openers[self.turn];
                opener.write_next(&mut self.frame);
                let delivered = self.rig.deliver(opener.link, &self.frame);
                ensure!(delivered, "the rings have no room for a batch");
            }
            self.turn = (self.turn + 1) % self.openers.len();
        }
        Ok(())
    }

    /// Opens flows until the table takes no more without letting others go.
    fn fill(&mut self) -> Result<()> {
        let (mut before, mut now) = (0, 1);
        while before < now {
            // So many rounds that a table with room would be fuller after them.
            for _ in 0..64 {
                self.deliver()?;
                self.rig.round();
                self.rig.collect(&mut |_| {});
            }
            (before, now) = (now, self.rig.stats().flows.get());
        }
        Ok(())
    }

    /// Millions of flows opened per second.
    fn run(&mut self, duration: Duration) -> Result<f64> {
        let opened = self.rig.stats().flows_opened.get();
        let mut watch = Stopwatch::default();
        while watch.took < duration {
            self.deliver()?;
            watch.round(&mut self.rig);
        }
        let opened = self.rig.stats().flows_opened.get() - opened;
        let expected = watch.packets - watch.packets / DENIED;
        ensure!(opened >= expected / 100 * 99, "{opened} flows of {} packets", watch.packets);
        Ok(watch.millions_per_second(opened))
    }
}

/// The pods that may open flows, with some that they may, and some that they may not.
fn openers(node: &Node) -> Vec<Opener> {
    let mut rng = Rng::with_seed(1);
    let mut drawn = vec![[HashSet::new(), HashSet::new()]; node.pods()];
    for _ in 0..DRAWS {
        let Opening { from, tuple, allowed } = node.draw(&mut rng);
        drawn[from][usize::from(allowed)].insert(tuple);
    }
    let mut openers = Vec::new();
    for (pod, tuples) in drawn.into_iter().enumerate() {
        let [denied, allowed] = tuples.map(|tuples| {
            let mut tuples: Vec<Tuple> = tuples.into_iter().collect();
            // A set's order is not the same in every run.
            tuples.sort_unstable_by_key(|tuple| (tuple.dst, tuple.dst_port, tuple.protocol));
            rng.shuffle(&mut tuples);
            tuples
        });
        if !allowed.is_empty() {
            let (link, next, port, packets) = (link_of(pod), 0, FIRST_PORT, 0);
            openers.push(Opener { link, allowed, denied, next, port, packets });
        }
    }
    openers
}

/// Measures new flows.
///
/// # Errors
/// When flows that policy allows are not opened.
pub(crate) fn measure(context: &Context) -> Result<Vec<Measurement>> {
    context.doing(format!("{NEW_FLOW}: loading {} policies", SIZE.policies));
    let duration = if context.quick { DURATION_QUICK } else { DURATION };
    let (values, pods, flows) = pinned(|| {
        let mut openers = Openers::new(SIZE)?;
        context.doing(format!("{NEW_FLOW}: filling the flow table"));
        openers.fill()?;
        let mut values = Vec::new();
        for round in 0..context.rounds {
            context.doing(format!("{NEW_FLOW}: round {} of {}", round + 1, context.rounds));
            values.push(openers.run(duration)?);
        }
        Ok((values, openers.openers.len(), openers.rig.stats().flows.get()))
    })?;
    let measurement = Measurement::new(NEW_FLOW, "M/s", values)
        .held_to(Limit::AtLeast(BAR_MILLIONS))
        .note(format!(
            "{} policies and {} pods in the cluster, {pods} pods of the node open flows to each \
             other; one packet in {DENIED} is denied and doesn't count; the table of {flows} flows \
             is full, so each new flow takes another's place",
            SIZE.policies, SIZE.pods
        ));
    Ok(vec![measurement])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_table_takes_new_flows_for_old_ones() {
        let mut openers = Openers::new(Size { namespaces: 10, pods: 250, policies: 60 }).unwrap();
        assert!(openers.openers.len() > 1, "some pods may open flows");
        openers.fill().unwrap();
        let full = openers.rig.stats().flows.get();
        assert!(openers.run(Duration::from_millis(1)).unwrap() > 0.0);
        assert_eq!(openers.rig.stats().flows.get(), full);
    }
}
