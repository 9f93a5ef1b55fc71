//! The real agent in a large cluster, whose objects it gets from an API server: memory, the time
//! until it enforces policy, and its CPU usage while pods change.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use podgate_tests::lab::{Agent, Lab, ListWatchServer};
use serde_json::Value;

use super::changes::NewPod;
use super::cluster::{Cluster, Labels, Purpose, Size};
use super::objects::{self, More, PODS};
use super::resident::{self, Resident, mebibytes};
use crate::context::Context;
use crate::measure::{Limit, Measurement};
use crate::node::cpu_time;

const MEMORY: &str = "scale.memory";
const FIRST: &str = "scale.first";
const CHURN: &str = "scale.churn";

/// The ids of this suite.
pub(crate) const IDS: &[&str] = &[MEMORY, FIRST, CHURN];

/// MiB.
const BAR_MEMORY: f64 = 600.0;
/// Seconds.
const BAR_FIRST: f64 = 15.0;
/// Percent of a core.
const BAR_CHURN: f64 = 20.0;

const SIZE: Size = Size { namespaces: 1000, pods: 100_000, policies: 10_000 };
const MORE: More = More { nodes: 5000, services: 10_000 };
const SIZE_QUICK: Size = Size { namespaces: 10, pods: 1000, policies: 100 };
const MORE_QUICK: More = More { nodes: 50, services: 100 };

/// Most rounds: each takes a minute.
const ROUNDS_MAX: usize = 3;
/// Changes of pods per second.
const RATE: u32 = 100;
/// Duration of the changes.
const CHANGES_FOR: Duration = Duration::from_secs(20);
const CHANGES_FOR_QUICK: Duration = Duration::from_secs(5);
/// Number of pods that did not change, and are compared all the same.
const SAMPLES: u32 = 300;

/// Measures the agent.
///
/// # Errors
/// When the lab can't be built, the agent doesn't become ready, or it lost a change.
pub(crate) fn measure(context: &Context) -> Result<Vec<Measurement>> {
    let (size, more) = if context.quick { (SIZE_QUICK, MORE_QUICK) } else { (SIZE, MORE) };
    let cluster = Cluster { size, labels: Labels::Shared, seed: 1 };
    let (mut memory, mut first, mut churn) = (Vec::new(), Vec::new(), Vec::new());
    let (mut peaks, mut whole, mut latencies) = (Vec::new(), Vec::new(), Vec::new());
    let mut bytes = 0;
    let lasts = if context.quick { CHANGES_FOR_QUICK } else { CHANGES_FOR };
    for round in 0..context.rounds.min(ROUNDS_MAX) {
        let status = |what: &str| context.status(format!("scale: round {}: {what}", round + 1));
        status("writing the objects");
        let lab = Lab::of(&objects::manifests(&cluster, &objects::lab_pods(&cluster, 2)))?;
        let folder = lab.file("cluster");
        fs::create_dir(&folder)?;
        bytes = objects::write(&cluster, more, &folder)?;
        let server = ListWatchServer::start_large(&lab, folder.clone())?;
        let kubeconfig = server.kubeconfig()?;
        status("starting the agent");
        let begin = Instant::now();
        let mut agent = Agent::start_for_cluster(&lab, 1, &kubeconfig)?;
        agent.wait_ready()?;
        first.push(since_last_page(&folder)?);
        whole.push(begin.elapsed().as_secs_f64());
        let Resident { now, peak } = resident::of(agent.pid())?;
        memory.push(mebibytes(now));
        peaks.push(mebibytes(peak));
        if context.wants(CHURN) {
            status("changing pods");
            let (share, changes) = change_pods(&cluster, &agent, &folder, lasts)?;
            churn.push(share);
            status("comparing");
            changes.compare(&cluster, &lab, &mut agent)?;
            latencies.push(lab.podgate_json(&["status"])?["api_server"]["latency_us"].to_string());
        }
        agent.stop()?;
    }
    let median = |values: &[f64]| Measurement::new("", "", values.to_vec()).median();
    let cluster = format!(
        "{} nodes, {} pods, {} policies, {} services with 10 endpoints each: {:.0} MB of JSON",
        more.nodes,
        size.pods,
        size.policies,
        more.services,
        bytes as f64 / 1e6
    );
    let mut results = vec![
        Measurement::new(MEMORY, "MiB", memory).bar(Limit::AtMost(BAR_MEMORY)).note(format!(
            "resident memory of the agent, packet buffers included, once it enforces policy; the \
             peak until then was {:.0} MiB; {cluster}",
            median(&peaks)
        )),
        Measurement::new(FIRST, "s", first).bar(Limit::AtMost(BAR_FIRST)).note(format!(
            "from the last page of the lists until it enforces policy; {:.1} s from the start of \
             the agent, most of which the server needs for its lists",
            median(&whole)
        )),
    ];
    if !churn.is_empty() {
        results
            .push(Measurement::new(CHURN, "% of a core", churn).bar(Limit::AtMost(BAR_CHURN)).note(
            format!(
                "{RATE} changes of pods per second, one by one, for {} s; all threads; nothing was \
                 lost; latency from API to enforcement, µs (p50, p99): {}",
                lasts.as_secs(),
                latencies.join(", ")
            ),
        ));
    }
    Ok(results)
}

/// Seconds since the server sent the last page of a list.
fn since_last_page(folder: &Path) -> Result<f64> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs_f64();
    let listed = fs::read_to_string(folder.join("listed"))?;
    let times = listed.lines().filter_map(|line| line.split(' ').next()?.parse::<f64>().ok());
    let last = times.max_by(f64::total_cmp).context("no list was sent")?;
    Ok(now - last)
}

/// What pods are to be like after changes.
#[derive(Default)]
struct Changes {
    /// Objects of pods that exist, by address.
    present: BTreeMap<String, Value>,
    /// Addresses of pods that don't.
    absent: Vec<String>,
    /// Address of the pod that changed last.
    last: String,
}

/// Changes pods at [`RATE`], one by one. Returns the agent's CPU time meanwhile, percent of a core.
fn change_pods(
    cluster: &Cluster,
    agent: &Agent<'_>,
    folder: &Path,
    lasts: Duration,
) -> Result<(f64, Changes)> {
    let mut file = File::options().append(true).open(folder.join("changes"))?;
    let mut rng = cluster.rng(Purpose::Pod, u32::MAX);
    let mut changes = Changes::default();
    let count = RATE * u32::try_from(lasts.as_secs())?;
    let period = Duration::from_secs(1) / RATE;
    let (before, begin) = (cpu_time(agent.pid())?, Instant::now());
    let mut pod = None;
    for number in 0..count {
        thread::sleep((begin + period * number).saturating_duration_since(Instant::now()));
        let index = number / 3;
        let NewPod { added, relabelled } = pod
            .take()
            .unwrap_or_else(|| NewPod::draw(cluster, &mut rng, index, index.is_multiple_of(8)));
        let address = address_of(&added);
        // Added, relabelled, and two of three deleted.
        let (kind, object) = match number % 3 {
            0 => ("ADDED", &added),
            1 => ("MODIFIED", &relabelled),
            _ if index.is_multiple_of(3) => ("MODIFIED", &added),
            _ => ("DELETED", &relabelled),
        };
        // Versions of the objects at the start are 1.
        let version = number + 2;
        let line =
            format!("{version} {kind} {PODS} {}\n", objects::as_sent(object.clone(), version));
        file.write_all(line.as_bytes())?;
        changes.last.clone_from(&address);
        if kind == "DELETED" {
            changes.present.remove(&address);
            changes.absent.push(address);
        } else {
            changes.present.insert(address, object.clone());
        }
        if number % 3 != 2 {
            pod = Some(NewPod { added, relabelled });
        }
    }
    let used = cpu_time(agent.pid())? - before;
    Ok((used.as_secs_f64() / begin.elapsed().as_secs_f64() * 100.0, changes))
}

fn address_of(pod: &Value) -> String {
    pod["status"]["podIPs"][0]["ip"].as_str().unwrap_or_default().to_owned()
}

impl Changes {
    /// Compares what the agent enforces with what is to be: all pods that changed, some that did
    /// not, and the number of addresses.
    ///
    /// # Errors
    /// When it lost or invented anything.
    fn compare(mut self, cluster: &Cluster, lab: &Lab, agent: &mut Agent<'_>) -> Result<()> {
        ensure!(!self.present.is_empty() && !self.absent.is_empty(), "too few changes");
        agent.wait_until("the last change to be in force", |lab| {
            let pod = self.present.get(&self.last);
            Ok(differs(lab, &self.last, pod)?.is_none().then_some(()))
        })?;
        let step = (cluster.size.pods / SAMPLES).max(1) as usize;
        let some = (0..cluster.size.pods).step_by(step).map(|index| cluster.pod(index));
        for pod in some.filter(super::cluster::PodSpec::is_ordinary) {
            self.present.insert(pod.v4().to_string(), cluster.pod_object(&pod));
        }
        for (address, pod) in &self.present {
            if let Some(what) = differs(lab, address, Some(pod))? {
                anyhow::bail!("a change was lost: {what}");
            }
        }
        for address in &self.absent {
            if let Some(what) = differs(lab, address, None)? {
                anyhow::bail!("a deletion was lost: {what}");
            }
        }
        Ok(())
    }
}

/// How the agent's view of an address differs from what is to be, if it does.
fn differs(lab: &Lab, address: &str, pod: Option<&Value>) -> Result<Option<String>> {
    let answer = lab.podgate_json(&["ip", "get", address])?;
    let seen = if answer.is_array() { &answer[0] } else { &answer };
    let text = |field: &Value| field.as_str().unwrap_or_default().to_owned();
    let name = pod.map(|pod| {
        format!("{}/{}", text(&pod["metadata"]["namespace"]), text(&pod["metadata"]["name"]))
    });
    let labels = pod.and_then(|pod| pod["metadata"]["labels"].as_object()).into_iter().flatten();
    let has = |label: &str| {
        seen["labels"].as_array().into_iter().flatten().any(|known| known.as_str() == Some(label))
    };
    let missing =
        labels.map(|(key, value)| format!("k8s:{key}={}", text(value))).find(|label| !has(label));
    let same = seen["pod"].as_str() == name.as_deref() && missing.is_none();
    Ok((!same).then(|| format!("{address} is {seen}, not {name:?} with {missing:?}")))
}
