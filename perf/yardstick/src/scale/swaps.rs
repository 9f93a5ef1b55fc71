//! Time of a worker's batches with and without table updates, to show that updates don't stall it.
//!
//! A worker on memory links, pinned to its own core, processes batches of 64 packets as fast as it
//! can: most belong to established connections, in both directions, and the others open new ones. A
//! measurement covers a whole round of the worker, without the generation of packets and the
//! kernel's part. The main thread is idle in one phase, and publishes a change of a pod every
//! millisecond in the next one.

use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use hdrhistogram::Histogram;
use podgate_tables::address::Address;
use podgate_tables::ids::LinkId;
use podgate_tables::policy::{LocalEnds, PolicyTables, Subject, Verdict};
use podgate_tables::route::RouteTable;
use podgate_tables::tuple::Tuple;
use podgate_tables::{proto, tcp_flags};

use super::Error;
use super::changes::NewPod;
use super::cluster::{Cluster, METRICS_PORT, PodSpec, Purpose};
use super::control::Control;
use super::decisions::{any_pod, service_port};
use super::report::{Measurement, Part, Statistic};
use crate::pods::{self, HOST, write_frame};
use podgate_replay::latency::{self, Latency};
use podgate_replay::progress;
use podgate_replay::rig::Rig;

/// Maximum number of endpoints of the worker.
const ENDPOINTS_MAX: usize = 31;
/// Number of established connections.
const CONNECTIONS: usize = 4096;
/// Number of packets in a batch.
const BATCH: usize = 64;
/// Number of packets in a batch that open connections.
const NEW: usize = 8;
/// Time between batches on the worker's clock, nanoseconds, so that unanswered connections time out
/// before the table is full.
const BATCH_GAP_NS: u64 = 10_000_000;
/// Time that new tables may add to a batch, whose flows are evaluated again at both ends.
const REEVALUATION: Duration = Duration::from_micros(100);
/// Time between updates.
const UPDATE_GAP: Duration = Duration::from_millis(1);

/// Routes to the first [`ENDPOINTS_MAX`] local pods.
pub(super) fn routes(local: &[PodSpec]) -> Result<RouteTable, Error> {
    Ok(pods::routes(local.iter().take(ENDPOINTS_MAX).map(PodSpec::addresses))?)
}

/// The worker and its traffic.
struct Traffic<'c> {
    cluster: &'c Cluster,
    local: &'c [PodSpec],
    rig: Rig,
    rng: Rng,
    /// By link: packets of established connections that arrive on it.
    established: Vec<Vec<Vec<u8>>>,
    /// By link: index of the next packet.
    next: Vec<usize>,
    /// The link of the last batch.
    link: usize,
    frame: Vec<u8>,
}

impl<'c> Traffic<'c> {
    /// A worker with its established connections.
    fn new(cluster: &'c Cluster, local: &'c [PodSpec], control: &Control) -> Result<Self, Error> {
        let local = &local[..local.len().min(ENDPOINTS_MAX)];
        let links = local.len() + 1;
        let rig = Rig::new(control.snapshot(), links as u16, usize::MAX).map_err(Error::Memory)?;
        let mut traffic = Self {
            cluster,
            local,
            rig,
            rng: cluster.rng(Purpose::Flow, u32::MAX),
            established: vec![Vec::new(); links],
            next: vec![0; links],
            link: 0,
            frame: Vec::new(),
        };
        traffic.connect(&control.snapshot().policy);
        Ok(traffic)
    }

    /// Opens connections from any pod to local pods, if policy allows them.
    fn connect(&mut self, tables: &PolicyTables) {
        let mut opened = 0;
        for attempt in 0..CONNECTIONS * 16 {
            let pod = attempt % self.local.len();
            let peer = any_pod(self.cluster, &mut self.rng);
            if peer.node == 0 {
                continue;
            }
            let dst_port = if self.rng.bool() { METRICS_PORT } else { service_port(&mut self.rng) };
            let tuple = self.tuple(&peer, &self.local[pod], dst_port, attempt as u16);
            let subject = Subject { tuple, icmp_type: 0 };
            let local = LocalEnds { source: false, destination: true };
            if tables.decide(&subject, local).verdict != Verdict::Allow {
                continue;
            }
            for (link, tuple, flags) in [
                (HOST, tuple, tcp_flags::SYN),
                (pods::link_of(pod), tuple.reversed(), tcp_flags::SYN | tcp_flags::ACK),
            ] {
                write_frame(&mut self.frame, link, &tuple, flags, 0);
                self.rig.deliver(link, &self.frame);
                self.rig.round();
                self.rig.collect(&mut |_| {});
                let mut later = Vec::new();
                write_frame(&mut later, link, &tuple, tcp_flags::ACK, 0);
                self.established[link.index()].push(later);
            }
            opened += 1;
            if opened == CONNECTIONS {
                break;
            }
        }
    }

    fn tuple(&self, from: &PodSpec, to: &PodSpec, dst_port: u16, src_port: u16) -> Tuple {
        let [src, dst] = [from, to].map(|pod| Address::v4(pod.v4().octets()));
        Tuple { src, dst, src_port, dst_port, protocol: proto::TCP }
    }

    /// Processes batches for `duration`.
    fn run(&mut self, duration: Duration) -> Histogram<u64> {
        let mut times = latency::histogram();
        let begin = Instant::now();
        while begin.elapsed() < duration {
            self.link = self.link % self.local.len() + 1;
            for link in [0, self.link] {
                self.prepare(link);
                let begin = Instant::now();
                self.rig.round();
                times.saturating_record(begin.elapsed().as_nanos() as u64);
                self.rig.collect(&mut |_| {});
                self.rig.advance(BATCH_GAP_NS);
            }
        }
        times
    }

    /// Delivers a batch to a link.
    fn prepare(&mut self, link: usize) {
        let id = LinkId(link as u16);
        let known = self.established[link].len();
        let (new, old) = if known == 0 { (BATCH, 0) } else { (NEW, BATCH - NEW) };
        for _ in 0..old {
            self.rig.deliver(id, &self.established[link][self.next[link]]);
            self.next[link] = (self.next[link] + 1) % known;
        }
        for _ in 0..new {
            let other = any_pod(self.cluster, &mut self.rng);
            let own = if link == 0 { self.rng.usize(..self.local.len()) } else { link - 1 };
            let own = &self.local[own];
            let (from, to) = if id == HOST { (&other, own) } else { (own, &other) };
            let (dst_port, src_port) = (service_port(&mut self.rng), self.rng.u16(1024..));
            let tuple = self.tuple(from, to, dst_port, src_port);
            write_frame(&mut self.frame, id, &tuple, tcp_flags::SYN, 0);
            self.rig.deliver(id, &self.frame);
        }
    }
}

/// The results.
pub(super) struct SwapTimes {
    pub(super) measurements: Vec<Measurement>,
    pub(super) updates_per_second: f64,
}

/// Runs `rounds` pairs of a phase without updates and one with them.
///
/// # Errors
/// When an object is rejected, or there is no memory.
pub(super) fn measure(
    control: &mut Control,
    cluster: &Cluster,
    local: &[PodSpec],
    rounds: u32,
    phase: Duration,
) -> Result<SwapTimes, Error> {
    let mut traffic = Traffic::new(cluster, local, control)?;
    control.set_shared(std::sync::Arc::clone(traffic.rig.shared()));
    let mut updates = Updates::new(cluster);
    let (mut quiet, mut updating) = (Vec::new(), Vec::new());
    let bar = progress::bar("streaming updates", Some(u64::from(rounds) * 2));
    // One more round at the start, for warm-up.
    for round in 0..=rounds {
        let without = run_phase(&mut traffic, phase, None)?;
        let with = run_phase(&mut traffic, phase, Some((&mut *control, &mut updates)))?;
        if round > 0 {
            quiet.push(without);
            updating.push(with);
            bar.inc(2);
        } else {
            updates.took.reset();
        }
    }
    bar.finish_and_clear();
    let seconds = phase.as_secs_f64() * f64::from(rounds);
    let quiet = typical("batch without updates", &quiet);
    let limit = quiet.ns.max + REEVALUATION.as_nanos() as u64;
    Ok(SwapTimes {
        measurements: vec![
            quiet,
            typical("batch with updates", &updating).with_bar(Statistic::Max, limit),
            Measurement::new("update while the worker runs", &updates.took),
        ],
        updates_per_second: updates.took.len() as f64 / seconds,
    })
}

/// Medians of each percentile over the rounds, so that one round with other load on the machine has
/// little effect.
fn typical(what: &str, rounds: &[Histogram<u64>]) -> Measurement {
    let each: Vec<Latency> = rounds.iter().map(Latency::of).collect();
    let median = |field: fn(&Latency) -> u64| {
        let mut values: Vec<u64> = each.iter().map(field).collect();
        values.sort_unstable();
        values[values.len() / 2]
    };
    let mut all = latency::histogram();
    rounds.iter().for_each(|round| all.add(round).expect("the histograms have the same bounds"));
    let ns = Latency {
        min: median(|each| each.min),
        mean: all.mean(),
        p50: median(|each| each.p50),
        p99: median(|each| each.p99),
        p999: median(|each| each.p999),
        max: median(|each| each.max),
    };
    let worst = each.iter().map(|each| each.max);
    let parts = [("worst of the best round", worst.clone().min()), ("worst of all", worst.max())];
    let parts = parts.map(|(what, ns)| Part { what: what.into(), ns: ns.unwrap_or_default() });
    Measurement { ns, parts: parts.into(), ..Measurement::new(what, &all) }
}

/// Runs one phase: the worker on its own thread, and updates on this one, if any.
fn run_phase(
    traffic: &mut Traffic<'_>,
    duration: Duration,
    updates: Option<(&mut Control, &mut Updates<'_>)>,
) -> Result<Histogram<u64>, Error> {
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            if let Some(core) =
                core_affinity::get_core_ids().and_then(|cores| cores.last().copied())
            {
                core_affinity::set_for_current(core);
            }
            traffic.run(duration)
        });
        if let Some((control, updates)) = updates {
            let mut due = Instant::now();
            while !worker.is_finished() {
                updates.next(control)?;
                due += UPDATE_GAP;
                thread::sleep(due.saturating_duration_since(Instant::now()));
            }
        }
        worker.join().map_err(|_| Error::Worker)
    })
}

/// Updates: pods are added, relabelled and removed.
struct Updates<'c> {
    cluster: &'c Cluster,
    rng: Rng,
    index: u32,
    pending: Vec<Change>,
    took: Histogram<u64>,
}

enum Change {
    Apply(serde_json::Value),
    Delete(podgate_policy::ObjectKey),
}

impl<'c> Updates<'c> {
    fn new(cluster: &'c Cluster) -> Self {
        let rng = cluster.rng(Purpose::Flow, u32::MAX - 1);
        Self { cluster, rng, index: 0, pending: Vec::new(), took: latency::histogram() }
    }

    /// Publishes one change.
    fn next(&mut self, control: &mut Control) -> Result<(), Error> {
        let took = match self.pending.pop() {
            Some(Change::Apply(object)) => control.apply(&object)?.1,
            Some(Change::Delete(key)) => control.delete(&key),
            None => {
                let NewPod { added, relabelled } = NewPod::draw(
                    self.cluster,
                    &mut self.rng,
                    self.index,
                    self.index.is_multiple_of(2),
                );
                // Numbers, and so addresses, are reused late.
                self.index = (self.index + 1) % 10_000;
                let (key, took) = control.apply(&added)?;
                self.pending = vec![Change::Delete(key), Change::Apply(relabelled)];
                took
            }
        };
        self.took.saturating_record(took.total().as_nanos() as u64);
        Ok(())
    }
}
