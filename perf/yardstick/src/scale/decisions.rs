//! Decisions about new flows.

use std::hint::black_box;
use std::time::{Duration, Instant};

use fastrand::Rng;
use hdrhistogram::Histogram;
use podgate_tables::address::Address;
use podgate_tables::policy::{LocalEnds, PolicyTables, Subject, Verdict};
use podgate_tables::proto;
use podgate_tables::tuple::Tuple;

use super::cluster::{APPS, Cluster, METRICS_PORT, PodSpec, Purpose};
use super::report::{Decisions, Measurement};
use crate::alloc::{self, Count};
use podgate_replay::latency::{self, Latency};

/// The two ends of flows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum FlowEnds {
    /// A pod of this node and any pod: policy is evaluated at one end, or at both if both are
    /// local.
    OneLocal,
    /// Any two pods; policy is evaluated at both ends.
    Any,
}

/// Flows to decide, and whether each end is local.
pub(super) struct Flows(Vec<(Subject, LocalEnds)>);

/// A plausible destination port: mostly one that pods listen on.
pub(super) fn service_port(rng: &mut Rng) -> u16 {
    const OTHERS: [u16; 4] = [53, 80, 443, 8042];
    match rng.usize(..APPS.len() + OTHERS.len() + 1) {
        0 => METRICS_PORT,
        choice if choice <= APPS.len() => APPS[choice - 1].port,
        choice => OTHERS[choice - 1 - APPS.len()],
    }
}

/// A random pod that has its own addresses.
pub(super) fn any_pod(cluster: &Cluster, rng: &mut Rng) -> PodSpec {
    loop {
        let pod = cluster.pod(rng.u32(..cluster.size.pods));
        if pod.is_ordinary() {
            return pod;
        }
    }
}

impl Flows {
    /// Draws `count` random flows between `local` pods and any others.
    pub(super) fn draw(cluster: &Cluster, ends: FlowEnds, local: &[PodSpec], count: usize) -> Self {
        let mut rng = cluster.rng(Purpose::Flow, ends as u32);
        let draw = |_| {
            let mut ends_of_flow = [any_pod(cluster, &mut rng), any_pod(cluster, &mut rng)];
            if ends == FlowEnds::OneLocal {
                ends_of_flow[rng.usize(..2)] = local[rng.usize(..local.len())];
            }
            let is_local = |pod: &PodSpec| ends == FlowEnds::Any || pod.node == 0;
            let v4 = rng.bool();
            let address = |pod: &PodSpec| match v4 {
                true => Address::v4(pod.v4().octets()),
                false => Address::v6(pod.v6().octets()),
            };
            let [src, dst] = [&ends_of_flow[0], &ends_of_flow[1]].map(address);
            let dst_port = service_port(&mut rng);
            let protocol = if rng.u8(..8) == 0 { proto::UDP } else { proto::TCP };
            let src_port = rng.u16(32_768..61_000);
            let tuple = Tuple { src, dst, src_port, dst_port, protocol };
            let [source, destination] = ends_of_flow.map(|pod| is_local(&pod));
            (Subject { tuple, icmp_type: 0 }, LocalEnds { source, destination })
        };
        Self((0..count).map(draw).collect())
    }

    /// Decides every flow `passes` times.
    ///
    /// Each decision is timed separately, minus the cost of reading the clock; the mean is of
    /// passes without clock readings.
    pub(super) fn measure(
        &self,
        what: &str,
        tables: &PolicyTables,
        passes: u32,
    ) -> (Measurement, Decisions) {
        let mut histogram = latency::histogram();
        let clock = latency::clock_ns();
        let mut untimed = Duration::ZERO;
        let allocated = Count::now();
        for _ in 0..passes {
            self.time_each(tables, clock, &mut histogram);
            let begin = Instant::now();
            for (subject, local) in &self.0 {
                black_box(tables.decide(subject, *local));
            }
            untimed += begin.elapsed();
        }
        let allocated = Count::now().since(allocated);
        let decided = u64::from(passes) * self.0.len() as u64;
        let mean = untimed.as_nanos() as f64 / decided.max(1) as f64;
        let measurement = Measurement::new(what, &histogram);
        let measurement = Measurement { ns: Latency { mean, ..measurement.ns }, ..measurement };
        let allowed = self
            .0
            .iter()
            .filter(|(subject, local)| tables.decide(subject, *local).verdict != Verdict::Deny);
        let allowed = allowed.count() as u64;
        let decisions = Decisions {
            what: what.into(),
            allowed,
            denied: self.0.len() as u64 - allowed,
            allocations: alloc::is_installed().then_some(allocated.allocations),
        };
        (measurement, decisions)
    }

    fn time_each(&self, tables: &PolicyTables, clock: u64, histogram: &mut Histogram<u64>) {
        for (subject, local) in &self.0 {
            let begin = Instant::now();
            black_box(tables.decide(black_box(subject), *local));
            let took = begin.elapsed().as_nanos() as u64;
            histogram.saturating_record(took.saturating_sub(clock));
        }
    }
}
