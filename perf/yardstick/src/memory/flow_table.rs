//! Cost of a flow: memory, and lookup time among a million.

use std::hint::black_box;
use std::time::{Duration, Instant};

use crate::alloc;
use crate::pods::write_frame;
use anyhow::{Result, anyhow, bail, ensure};
use fastrand::Rng;
use podgate_dataplane::flow::{Flow, FlowLinks, FlowTable};
use podgate_dataplane::packet::parse;
use podgate_dataplane::worker::SharedConfig;
use podgate_tables::ids::Epoch;
use podgate_tables::tcp_flags::{ACK, SYN};
use podgate_tables::time::Nanos;

use super::small_node::{self, Protocols, Sender, SmallNode, Via};
use super::stopwatch::Stopwatch;
use super::{BATCH, BUSY_LINKS, pinned};
use crate::context::Context;
use crate::measure::{Limit, Measurement};

pub(crate) const BYTES: &str = "flow.bytes";
pub(crate) const LOOKUP: &str = "flow.lookup.1m";

const BAR_BYTES: f64 = 128.0;
const BAR_RATIO: f64 = 2.0;

const MANY: usize = 1_000_000;
const FEW: usize = 1000;
/// Capacity of both flow tables: for a million flows of links with fair shares.
const CAPACITY: u32 = 1_250_000;

/// Number of packets of one value.
const PACKETS: usize = 2_000_000;
const PACKETS_QUICK: usize = 500_000;

/// Memory per flow in a full table, bytes.
///
/// # Errors
/// When allocations are not counted, or the table holds fewer flows than its capacity.
pub(crate) fn bytes(context: &Context) -> Result<Vec<Measurement>> {
    context.status(BYTES);
    if !alloc::is_installed() {
        bail!("this program doesn't count its allocations");
    }
    let agents = SharedConfig::default().flows_per_worker;
    let [of_agent, of_million] = [agents, MANY as u32].map(bytes_per_flow);
    let (of_agent, of_million) = (of_agent?, of_million?);
    let measurement = Measurement::new(BYTES, "B", vec![of_agent])
        .bar(Limit::AtMost(BAR_BYTES))
        .note(format!(
            "memory of a full table, including its index and queues, divided by the {agents} flows of \
             an agent's worker; {of_million:.1} B with a capacity of {MANY}"
        ));
    Ok(vec![measurement])
}

fn bytes_per_flow(capacity: u32) -> Result<f64> {
    let before = alloc::live_bytes();
    let mut table = FlowTable::new(capacity);
    fill(&mut table, capacity as usize)?;
    let allocated = alloc::live_bytes().saturating_sub(before);
    ensure!(allocated as usize > size_of::<Flow>(), "the table's memory was not counted");
    let flows = black_box(&table).len();
    ensure!(flows == capacity as usize, "{flows} flows in a table for {capacity}");
    Ok(allocated as f64 / f64::from(capacity))
}

/// Inserts the first `flows` flows into a table.
fn fill(table: &mut FlowTable, flows: usize) -> Result<()> {
    let mut frame = Vec::new();
    for flow in 0..flows {
        let (from, tuple) = small_node::packet_of(Protocols::TcpOnly, flow, Sender::Client);
        let (to, _) = small_node::packet_of(Protocols::TcpOnly, flow, Sender::Server);
        write_frame(&mut frame, from, &tuple, SYN, 0);
        let view = parse(&frame, frame.len() as u32).map_err(|reason| anyhow!("{reason:?}"))?;
        let flow = Flow::new(&view, Epoch(1), FlowLinks::new(from, to), Nanos(1));
        table.insert(flow).map_err(|reason| anyhow!("{reason:?}"))?;
    }
    Ok(())
}

/// Time per packet of random flows among a million, and among a thousand.
///
/// # Errors
/// When the flows can't be opened.
pub(crate) fn lookup(context: &Context) -> Result<Vec<Measurement>> {
    let packets = if context.quick { PACKETS_QUICK } else { PACKETS };
    let [values, baseline] = pinned(|| {
        context.status(format!("{LOOKUP}: opening {MANY} flows"));
        let (mut many, mut few) = (RandomOrder::new(MANY)?, RandomOrder::new(FEW)?);
        context.interleave(LOOKUP, || many.run(packets), || few.run(packets))
    })?;
    context.status(format!("{LOOKUP}: the table alone"));
    let [among_many, among_few] = pinned(|| Ok([find_alone(MANY)?, find_alone(FEW)?]))?;
    let measurement = Measurement::new(LOOKUP, "ns/packet", values)
        .compared_with("1,000 flows", baseline)
        .ratio_bar(Limit::AtMost(BAR_RATIO))
        .note(format!(
            "processing time of a packet of a random flow in the worker; FlowTable::lookup alone takes \
             {among_many:.0} ns, and {among_few:.0} ns among {FEW}"
        ));
    Ok(vec![measurement])
}

/// Packets of random flows of a worker.
struct RandomOrder {
    node: SmallNode,
    rng: Rng,
}

impl RandomOrder {
    fn new(flows: usize) -> Result<Self> {
        let node = SmallNode::new(flows, CAPACITY, Protocols::TcpOnly, Via::Pod)?;
        Ok(Self { node, rng: Rng::with_seed(1) })
    }

    /// Nanoseconds for each of `packets` packets.
    fn run(&mut self, packets: usize) -> Result<f64> {
        let mut watch = Stopwatch::default();
        let forwarded = self.node.rig.stats().forwarded.packets.get();
        while watch.packets < packets as u64 {
            // Links are chosen at random, so one may be full before the others.
            for _ in 0..BATCH * BUSY_LINKS {
                let flow = self.rng.usize(..self.node.flows());
                let sender = if self.rng.bool() { Sender::Client } else { Sender::Server };
                self.node.deliver(flow, sender, ACK);
            }
            watch.round(&mut self.node.rig);
        }
        let forwarded = self.node.rig.stats().forwarded.packets.get() - forwarded;
        ensure!(forwarded == watch.packets, "{forwarded} of {} packets", watch.packets);
        Ok(watch.ns_per_packet())
    }
}

/// Nanoseconds of [`FlowTable::lookup`] for a random flow of `flows`.
fn find_alone(flows: usize) -> Result<f64> {
    const LOOKUPS: usize = 1 << 20;
    let mut table = FlowTable::new(CAPACITY);
    fill(&mut table, flows)?;
    let mut rng = Rng::with_seed(2);
    // Batch by batch, so that the lookup keys are in the cache and only the table isn't.
    let mut batch = [small_node::packet_of(Protocols::TcpOnly, 0, Sender::Client).1; BATCH];
    let mut took = Duration::ZERO;
    for _ in 0..LOOKUPS / BATCH {
        for tuple in &mut batch {
            *tuple =
                small_node::packet_of(Protocols::TcpOnly, rng.usize(..flows), Sender::Client).1;
        }
        let begin = Instant::now();
        let found = batch.iter().filter(|tuple| black_box(table.lookup(tuple)).is_some()).count();
        took += begin.elapsed();
        ensure!(found == BATCH, "{found} of {BATCH} flows were found");
    }
    Ok(took.as_nanos() as f64 / LOOKUPS as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_random_packet_finds_its_flow() {
        let mut order = RandomOrder::new(3000).unwrap();
        assert!(order.run(5000).unwrap() > 0.0);
        assert!(find_alone(3000).unwrap() > 0.0);
    }

    #[test]
    fn without_the_counting_allocator_there_is_an_error() {
        assert!(bytes(&Context::new(true, None, Vec::new())).is_err());
    }
}
