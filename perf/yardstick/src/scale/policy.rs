//! `yardstick policy`.
//!
//! A synthetic cluster (`cluster`, `policies`) is added to a store as from an API server. Then
//! these are measured: compilation from nothing; changes of pods and policies, from the object to
//! the published snapshot (`changes`); decisions on new flows (`decisions`); and the batches of a
//! worker during continuous changes (`swaps`). All but the last run on one thread.

use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use clap::Args as ClapArgs;
use hdrhistogram::Histogram;
use podgate_dataplane::worker::{Shared, SharedConfig};
use podgate_policy::{Compiler, Store, compile};
use serde_json::Value;

use super::cluster::{Cluster, Labels, Size};
use super::control::{Control, rejected};
use super::decisions::{FlowEnds, Flows};
use super::report::{Bar, ClusterInfo, Measurement, Memory, Part, ScaleReport, Statistic};
use super::{Error, changes, swaps, table};
use podgate_replay::Output;
use podgate_replay::{latency, progress};

use super::resident;
use crate::alloc;

/// Bar for compilation from nothing.
const COMPILE_BAR: Duration = Duration::from_secs(2);
/// Bar for a decision with one local end, as nearly all are.
const DECISION_BAR: Duration = Duration::from_nanos(300);
/// Bar for the memory of objects and tables together, bytes.
const MEMORY_BAR: u64 = 1536 << 20;

const AFTER_HELP: &str = "\
Examples:
  yardstick policy
  yardstick policy --quick
  yardstick policy --labels unique -o json | jq '.measurements[] | {what, ns}'
  yardstick policy --check --seed 7

It needs no privileges, agent or network, and takes about a minute and 1 GiB of memory. A second
core should be idle: the worker runs on it during updates.

Exit codes:
  0  everything was measured
  1  it was not, or with --check: a bar was missed; one line on stderr says why
  2  the command line is wrong";

/// Arguments of `yardstick policy`.
#[derive(ClapArgs, Clone, Debug)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// NetworkPolicies [default: 10000, or 200 with --quick].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub policies: Option<u32>,
    /// Pods [default: 100000, or 2000 with --quick].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    pub pods: Option<u32>,
    /// Namespaces [default: 1000, or 20 with --quick].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub namespaces: Option<u32>,
    /// Which pods have the same labels.
    #[arg(long, value_enum, default_value_t)]
    pub labels: Labels,
    /// Seed of the cluster; the same seed generates the same cluster.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Small cluster and few repetitions, as a smoke test.
    #[arg(long)]
    pub quick: bool,
    /// Exit with 1 if a bar is missed. The bars are for the default size.
    #[arg(long)]
    pub check: bool,
    /// Output format.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// Repetitions and durations.
struct Effort {
    compilations: u32,
    pod_changes: u32,
    policy_changes: u32,
    flows: usize,
    passes: u32,
    rounds: u32,
    phase: Duration,
}

const FULL: Effort = Effort {
    compilations: 5,
    pod_changes: 300,
    policy_changes: 100,
    flows: 1 << 17,
    passes: 4,
    rounds: 7,
    phase: Duration::from_secs(1),
};

const QUICK: Effort = Effort {
    compilations: 2,
    pod_changes: 5,
    policy_changes: 3,
    flows: 1 << 12,
    passes: 1,
    rounds: 2,
    phase: Duration::from_millis(50),
};

impl Args {
    fn cluster(&self) -> Cluster {
        let (policies, pods, namespaces) =
            if self.quick { (200, 2000, 20) } else { (10_000, 100_000, 1000) };
        let size = Size {
            namespaces: self.namespaces.unwrap_or(namespaces),
            pods: self.pods.unwrap_or(pods),
            policies: self.policies.unwrap_or(policies),
        };
        Cluster { size, labels: self.labels, seed: self.seed }
    }
}

/// Measures as `args` say and prints the report to `out`.
///
/// # Errors
/// When it can't be measured. With [`Error::Missed`] the report was printed.
pub fn run(args: &Args, out: &mut impl Write) -> Result<(), Error> {
    let report = measure(args)?;
    args.output.write(&report, table::print, out).map_err(Error::Output)?;
    let missed = report.missed();
    if args.check && !missed.is_empty() { Err(Error::Missed(missed)) } else { Ok(()) }
}

/// Measures as `args` say.
///
/// # Errors
/// When it can't be measured.
pub fn measure(args: &Args) -> Result<ScaleReport, Error> {
    let cluster = args.cluster();
    let effort = if args.quick { QUICK } else { FULL };
    let counted = alloc::is_installed();
    let load_before = load_average();
    resident::reset_peak();

    let empty = alloc::live_bytes();
    let (store, mut measurements) = load(&cluster)?;
    let stored = alloc::live_bytes();
    let (mut times, mut on_cpu) = (latency::histogram(), latency::histogram());
    let mut compiler = Compiler::new();
    timed(&mut times, &mut on_cpu, || compiler.update(&store));
    let peak = resident::peak_resident();
    let memory = Memory {
        store: counted.then(|| stored - empty),
        compiled: counted.then(|| alloc::live_bytes() - stored),
        peak_resident: peak,
        bar: peak.map(|peak| Bar {
            statistic: Statistic::Max,
            limit: MEMORY_BAR,
            met: peak <= MEMORY_BAR,
        }),
    };
    measurements.push(compile_again(&store, effort.compilations, times, on_cpu));

    let local = cluster.local_pods();
    if local.is_empty() {
        return Err(Error::NoLocalPod);
    }
    let tables = compiler.compiled().tables;
    let info = ClusterInfo {
        size: cluster.size,
        labels: cluster.labels,
        seed: cluster.seed,
        identities: tables.identities.iter().filter(|(_, row)| row.number > 0).count() as u64,
        addresses: tables.addresses.iter().count() as u64,
        local_pods: local.len() as u64,
    };
    drop(tables);
    let shared = Shared::new(SharedConfig::default());
    let mut control = Control::new(store, compiler, swaps::routes(&local)?, shared);
    measurements.extend(changes::of_pods(&mut control, &cluster, effort.pod_changes)?);
    measurements.extend(changes::of_policies(&mut control, &cluster, effort.policy_changes)?);

    let tables = control.snapshot().policy;
    let mut decisions = Vec::new();
    let sorts = [
        ("decision, one end local", FlowEnds::OneLocal),
        ("decision, any two pods", FlowEnds::Any),
    ];
    for (what, ends) in sorts {
        let flows = Flows::draw(&cluster, ends, &local, effort.flows);
        let (times, outcome) = flows.measure(what, &tables, effort.passes);
        measurements.push(match ends {
            FlowEnds::OneLocal => times.with_bar(Statistic::P50, DECISION_BAR.as_nanos() as u64),
            FlowEnds::Any => times,
        });
        decisions.push(outcome);
    }
    drop(tables);
    let swaps = swaps::measure(&mut control, &cluster, &local, effort.rounds, effort.phase)?;
    measurements.extend(swaps.measurements);
    Ok(ScaleReport {
        cluster: info,
        memory,
        measurements,
        decisions,
        updates_per_second: swaps.updates_per_second,
        load: load_before,
        clock_ns: latency::clock_ns(),
        debug_build: cfg!(debug_assertions),
    })
}

/// Compiles the store until it was compiled `compilations` times; `times` and `on_cpu` are of the
/// first one.
fn compile_again(
    store: &Store,
    compilations: u32,
    mut times: Histogram<u64>,
    mut on_cpu: Histogram<u64>,
) -> Measurement {
    let bar = progress::bar("compiling", Some(u64::from(compilations)));
    for _ in 1..compilations {
        drop(timed(&mut times, &mut on_cpu, || compile(store)));
        bar.inc(1);
    }
    bar.finish_and_clear();
    let mut compilation = Measurement::new("compile from nothing", &times)
        .with_bar(Statistic::P50, COMPILE_BAR.as_nanos() as u64);
    compilation.parts = vec![Part { what: "on cpu".into(), ns: on_cpu.value_at_quantile(0.5) }];
    compilation
}

/// Load average of the last minute (proc_loadavg(5)).
fn load_average() -> Option<f64> {
    fs::read_to_string("/proc/loadavg").ok()?.split_whitespace().next()?.parse().ok()
}

/// Adds the cluster to a store, object by object.
///
/// # Errors
/// When an object is rejected.
pub(super) fn load(cluster: &Cluster) -> Result<(Store, Vec<Measurement>), Error> {
    let mut store = Store::new();
    store.set_host_addresses(Cluster::node_addresses(0).into_iter().collect::<Vec<IpAddr>>());
    let Size { namespaces, pods, policies } = cluster.size;
    let bar =
        progress::bar("loading", Some(u64::from(namespaces + cluster.nodes() + pods + policies)));
    let mut load = |objects: &mut dyn Iterator<Item = Value>| {
        let mut times = latency::histogram();
        for object in objects {
            let begin = Instant::now();
            store.apply(&object, None).map_err(|rejections| rejected(&rejections))?;
            times.saturating_record(begin.elapsed().as_nanos() as u64);
            bar.inc(1);
        }
        Ok::<_, Error>(times)
    };
    load(&mut (0..namespaces).map(|index| cluster.namespace(index)))?;
    load(&mut (1..cluster.nodes()).map(|index| cluster.node(index)))?;
    let pods = load(&mut (0..pods).map(|index| cluster.pod_object(&cluster.pod(index))))?;
    let policies = load(&mut (0..policies).map(|index| cluster.policy(index, 0)))?;
    bar.finish_and_clear();
    let measurements =
        vec![Measurement::new("read a pod", &pods), Measurement::new("read a policy", &policies)];
    Ok((store, measurements))
}

/// Runs a function and records its wall-clock time and CPU time.
fn timed<T>(
    times: &mut Histogram<u64>,
    on_cpu: &mut Histogram<u64>,
    work: impl FnOnce() -> T,
) -> T {
    let (begin, cpu) = (Instant::now(), latency::on_cpu());
    let result = work();
    times.saturating_record(begin.elapsed().as_nanos() as u64);
    on_cpu.saturating_record(latency::on_cpu().saturating_sub(cpu).as_nanos() as u64);
    result
}
