//! Changes to a cluster of full size, each from the object to the published snapshot.

use std::time::Duration;

use fastrand::Rng;
use hdrhistogram::Histogram;
use serde_json::Value;

use super::Error;
use super::cluster::{APPS, Cluster, PodSpec, Purpose};
use super::control::{Control, StepTimes};
use super::policies::{broadest, clusterwide};
use super::report::{Measurement, Part, Statistic};
use podgate_replay::latency;
use podgate_replay::progress;

/// Bar for a change of one pod.
const POD_BAR: Duration = Duration::from_millis(1);
/// Bar for a change of one policy.
const POLICY_BAR: Duration = Duration::from_millis(10);

/// Times of one kind of change.
struct Series {
    what: String,
    bar: Option<Duration>,
    total: Histogram<u64>,
    parts: [Histogram<u64>; 3],
}

impl Series {
    fn new(what: impl Into<String>, bar: Option<Duration>) -> Self {
        let parts = std::array::from_fn(|_| latency::histogram());
        Self { what: what.into(), bar, total: latency::histogram(), parts }
    }

    fn record(&mut self, took: StepTimes) {
        self.total.saturating_record(took.total().as_nanos() as u64);
        for (part, step) in self.parts.iter_mut().zip([took.store, took.compile, took.publish]) {
            part.saturating_record(step.as_nanos() as u64);
        }
    }

    fn result(self) -> Measurement {
        let mut result = Measurement::new(self.what, &self.total);
        if let Some(bar) = self.bar {
            result = result.with_bar(Statistic::P99, bar.as_nanos() as u64);
        }
        let names = ["store", "compile", "publish"].into_iter().zip(&self.parts);
        let part = |(what, histogram): (&str, &Histogram<u64>)| Part {
            what: what.into(),
            ns: histogram.value_at_quantile(0.5),
        };
        result.parts = names.map(part).collect();
        result
    }
}

/// Series for adding, changing and removing one object.
fn add_change_remove(what: &str, verb: &str, bar: Option<Duration>) -> [Series; 3] {
    ["added", verb, "removed"].map(|done| Series::new(format!("{what} {done}"), bar))
}

/// A new pod: its object, and the same with other labels.
pub(super) struct NewPod {
    pub(super) added: Value,
    pub(super) relabelled: Value,
}

impl NewPod {
    /// New pod number `index`, similar to a random pod of the cluster. Its labels are those of one
    /// revision and then of another one of the same app; with `fresh`, no other pod has them.
    pub(super) fn draw(cluster: &Cluster, rng: &mut Rng, index: u32, fresh: bool) -> Self {
        let like = std::iter::repeat_with(|| cluster.pod(rng.u32(..cluster.size.pods)))
            .find(PodSpec::is_ordinary);
        let Some(like) = like else { unreachable!("most pods are ordinary") };
        let mut before = like;
        before.index = cluster.size.pods + index;
        let mut after = before;
        after.revision = u32::from(like.revision == 0);
        if fresh {
            (before.revision, after.revision) = (1000 + 2 * index, 1001 + 2 * index);
            after.app = (like.app + 1) % APPS.len();
        }
        let added = cluster.pod_object(&before);
        let mut relabelled = added.clone();
        relabelled["metadata"]["labels"] = cluster.pod_object(&after)["metadata"]["labels"].take();
        Self { added, relabelled }
    }
}

/// Adds an object, changes it and removes it.
fn record(
    control: &mut Control,
    series: &mut [Series; 3],
    added: &Value,
    changed: &Value,
) -> Result<(), Error> {
    let (key, took) = control.apply(added)?;
    series[0].record(took);
    series[1].record(control.apply(changed)?.1);
    series[2].record(control.delete(&key));
    Ok(())
}

/// Changes of pods.
///
/// # Errors
/// When an object is rejected.
pub(super) fn of_pods(
    control: &mut Control,
    cluster: &Cluster,
    repetitions: u32,
) -> Result<Vec<Measurement>, Error> {
    let mut rng = cluster.rng(Purpose::Pod, u32::MAX);
    let mut results = Vec::new();
    let bar = progress::bar("changing pods", Some(u64::from(repetitions) * 2));
    for (what, fresh) in [("pod", false), ("pod with labels of its own", true)] {
        let mut series = add_change_remove(what, "relabelled", Some(POD_BAR));
        for index in 0..repetitions {
            let NewPod { added, relabelled } = NewPod::draw(cluster, &mut rng, index, fresh);
            record(control, &mut series, &added, &relabelled)?;
            bar.inc(1);
        }
        results.extend(series.map(Series::result));
    }
    bar.finish_and_clear();
    Ok(results)
}

/// Makes two versions of a policy that is not in the cluster.
type Draw = fn(&Cluster, &mut Rng, u32) -> [Value; 2];

/// A policy like those of the cluster, of a kind that has two versions.
fn ordinary(cluster: &Cluster, rng: &mut Rng, _: u32) -> [Value; 2] {
    let versions = std::iter::repeat_with(|| {
        let index = cluster.size.policies + rng.u32(..cluster.size.namespaces * 16);
        [0, 1].map(|version| cluster.policy(index, version))
    })
    .find(|[before, after]| before != after);
    let Some(versions) = versions else { unreachable!("most sorts have ports or peers") };
    versions
}

/// Changes of policies.
///
/// # Errors
/// When an object is rejected.
pub(super) fn of_policies(
    control: &mut Control,
    cluster: &Cluster,
    repetitions: u32,
) -> Result<Vec<Measurement>, Error> {
    let mut rng = cluster.rng(Purpose::Policy, u32::MAX);
    let few = (repetitions / 10).max(1);
    let bar = progress::bar("changing policies", Some(u64::from(2 * repetitions + few)));
    // The clusterwide one is last, because it changes the whole heap.
    let sorts: [(&str, Option<Duration>, u32, Draw); 3] = [
        ("ordinary policy", Some(POLICY_BAR), repetitions, ordinary),
        ("broadest policy", Some(POLICY_BAR), repetitions, |cluster, rng, index| {
            let namespace = rng.u32(..cluster.size.namespaces);
            [0, 1].map(|version| broadest(namespace, 2 * index + version))
        }),
        ("clusterwide policy for every pod", None, few, |_, _, index| {
            [20_000, 30_000].map(|port| clusterwide(port + (index % 10_000) as u16))
        }),
    ];
    let mut results = Vec::new();
    for (what, limit, repetitions, draw) in sorts {
        let mut series = add_change_remove(what, "changed", limit);
        for index in 0..repetitions {
            let [added, changed] = draw(cluster, &mut rng, index);
            record(control, &mut series, &added, &changed)?;
            bar.inc(1);
        }
        results.extend(series.map(Series::result));
    }
    bar.finish_and_clear();
    Ok(results)
}
