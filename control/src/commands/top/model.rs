//! What was read, and the tables of it.
//!
//! Counters are shown as their rate since the sample before; flows are counted between two samples.
//! What is counted by name is bounded: what exceeds the bound is counted together.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use podgate_hubble::proto::flow::layer7::Record;
use podgate_hubble::proto::flow::{Endpoint, Flow, L7FlowType, Policy, Service, Verdict};
use podgate_hubble::proto::observer::GetFlowsResponse;
use podgate_hubble::proto::observer::get_flows_response::ResponseTypes;

use super::latency::Latencies;
use super::table::{Cell, Table};
use super::updates::{RuleCounts, Sample, Update};
use crate::cli::Tab;

/// Most names of one kind that are counted.
const NAMES_MAX: usize = 1024;

/// Types of events (cilium `pkg/monitor/api/types.go`).
const POLICY_VERDICT: i32 = 5;
const L7: i32 = 129;

/// A count since the start, and in the interval before the last sample.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    total: u64,
    since_sample: u64,
    interval: u64,
}

impl Count {
    fn add(&mut self) {
        self.total += 1;
        self.since_sample += 1;
    }

    fn end_interval(&mut self) {
        self.interval = std::mem::take(&mut self.since_sample);
    }
}

/// Counts of a pod's flows.
#[derive(Clone, Debug, Default)]
struct PodCounts {
    allowed: Count,
    denied: Count,
    requests: Count,
}

/// A rule, or the lack of one.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct RuleKey {
    policy: String,
    rule: String,
    verdict: &'static str,
}

/// Server, method and path of requests.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct RequestKey {
    server: String,
    method: String,
    path: String,
}

/// Responses to requests.
#[derive(Clone, Debug, Default)]
struct RequestCounts {
    responses: Count,
    /// With a status that is an error.
    errors: Count,
    latencies: Latencies,
}

/// Counts by name; `None` has what exceeds the bound.
type Names<K, V> = HashMap<Option<K>, V>;

fn entry<K: Eq + Hash, V: Default>(names: &mut Names<K, V>, name: K) -> &mut V {
    let name = Some(name);
    let is_full = names.len() >= NAMES_MAX && !names.contains_key(&name);
    names.entry(if is_full { None } else { name }).or_default()
}

/// All that was read.
#[derive(Debug, Default)]
pub(super) struct Model {
    samples: [Option<Box<Sample>>; 2],
    pods: Names<String, PodCounts>,
    rules: Names<RuleKey, Count>,
    requests: Names<RequestKey, RequestCounts>,
    flows: Count,
    lost: u64,
    problem: Option<String>,
}

impl Model {
    /// Takes an update. Returns whether it ended an interval.
    pub(super) fn update(&mut self, update: Update) -> bool {
        match update {
            Update::Sample(sample) => {
                self.problem = None;
                self.end_interval();
                self.samples.rotate_left(1);
                self.samples[1] = Some(sample);
                return true;
            }
            Update::Flow(response) => self.response(&response),
            Update::Problem(problem) => self.problem = Some(problem),
        }
        false
    }

    /// Whether there are two samples.
    pub(super) const fn has_rates(&self) -> bool {
        self.samples[0].is_some()
    }

    fn end_interval(&mut self) {
        self.flows.end_interval();
        self.rules.values_mut().for_each(Count::end_interval);
        for counts in self.pods.values_mut() {
            for count in [&mut counts.allowed, &mut counts.denied, &mut counts.requests] {
                count.end_interval();
            }
        }
        for counts in self.requests.values_mut() {
            counts.responses.end_interval();
            counts.errors.end_interval();
        }
    }

    fn response(&mut self, response: &GetFlowsResponse) {
        match &response.response_types {
            Some(ResponseTypes::Flow(flow)) => self.flow(flow),
            Some(ResponseTypes::LostEvents(lost)) => self.lost += lost.num_events_lost,
            _ => {}
        }
    }

    fn flow(&mut self, flow: &Flow) {
        self.flows.add();
        let kind = flow.event_type.as_ref().map_or(0, |event| event.r#type);
        let l7 = flow.l7.as_ref();
        let is_request = l7.is_some_and(|l7| l7.r#type() == L7FlowType::Request);
        // A denied connection is a drop, too, which is not counted twice.
        if kind != POLICY_VERDICT && kind != L7 {
            return;
        }
        if kind == POLICY_VERDICT || is_request {
            self.decided(flow, is_request);
        }
        if let Some(l7) = l7.filter(|l7| l7.r#type() == L7FlowType::Response) {
            let (key, is_error) = request_key(flow, l7.record.as_ref());
            let counts = entry(&mut self.requests, key);
            counts.responses.add();
            if is_error {
                counts.errors.add();
            }
            counts.latencies.add(l7.latency_ns);
        }
    }

    fn decided(&mut self, flow: &Flow, is_request: bool) {
        let denied = flow.verdict() == Verdict::Dropped;
        for pod in [&flow.source, &flow.destination].into_iter().filter_map(pod_name) {
            let counts = entry(&mut self.pods, pod);
            match (is_request, denied) {
                (_, true) => counts.denied.add(),
                (true, false) => counts.requests.add(),
                (false, false) => counts.allowed.add(),
            }
        }
        if !denied {
            return;
        }
        for (direction, policies) in
            [("egress", &flow.egress_denied_by), ("ingress", &flow.ingress_denied_by)]
        {
            for policy in policies {
                let key = RuleKey {
                    policy: policy_name(policy),
                    rule: rule_of(policy, direction),
                    verdict: "denied",
                };
                entry(&mut self.rules, key).add();
            }
        }
    }

    /// The time between the last two samples, seconds.
    fn seconds(&self) -> f64 {
        let [Some(before), Some(now)] = &self.samples else { return 1.0 };
        let between = now.at.saturating_duration_since(before.at);
        between.max(Duration::from_millis(1)).as_secs_f64()
    }

    fn rate_of(&self, count: Count) -> Cell {
        Cell::rate(count.interval as f64 / self.seconds())
    }

    /// The rate of a counter, by its values at both samples.
    fn rate(&self, before: Option<u64>, now: u64) -> Cell {
        let more = before.map_or(0, |before| now.saturating_sub(before));
        Cell::rate(more as f64 / self.seconds())
    }

    /// One line about the agent.
    pub(super) fn summary(&self) -> String {
        if let Some(problem) = &self.problem {
            return podgate_policy::terminal::escape(problem);
        }
        let Some(now) = &self.samples[1] else { return "reading …".to_owned() };
        let status = &now.status;
        let ready = if status.ready { "ready" } else { "not ready" };
        let (endpoints, seconds) = (&status.endpoints, self.seconds());
        let all = endpoints.ready + endpoints.waiting + endpoints.gone;
        format!(
            "podgate {} {ready}, {} of {all} endpoints ready, {:.0} flows/s, {} flows lost",
            status.version,
            endpoints.ready,
            self.flows.interval as f64 / seconds,
            self.lost
        )
    }

    /// One of the tables, in no order.
    pub(super) fn table(&self, tab: Tab) -> Table {
        match tab {
            Tab::Endpoints => self.endpoints(),
            Tab::Rules => self.rules(),
            Tab::Drops => self.drops(),
            Tab::Requests => self.requests(),
            Tab::Workers => self.workers(),
        }
    }

    fn endpoints(&self) -> Table {
        let heading =
            vec!["POD", "LINK", "PACKETS/s", "ALLOWED/s", "DENIED/s", "REQUESTS/s", "LOST/s"];
        let [before, now] = &self.samples;
        let links = now.iter().flat_map(|sample| &sample.status.links);
        let rows = links.map(|link| {
            let before = before.iter().flat_map(|sample| &sample.status.links);
            let before = before.into_iter().find(|former| former.link == link.link);
            let lost = link.ring_drops() + link.over_quota();
            let pod = link.pod.clone();
            let counts = pod.clone().and_then(|pod| self.pods.get(&Some(pod)));
            let counts = counts.cloned().unwrap_or_default();
            vec![
                Cell::text(pod.unwrap_or_else(|| "(node)".to_owned())),
                Cell::text(&link.link),
                self.rate(before.map(|former| former.received), link.received),
                self.rate_of(counts.allowed),
                self.rate_of(counts.denied),
                self.rate_of(counts.requests),
                self.rate(before.map(|former| former.ring_drops() + former.over_quota()), lost),
            ]
        });
        Table { heading, rows: rows.collect() }
    }

    /// Rules by their counters, and by flows what has none: which policies denied by default, and
    /// which rules a denied request did not match.
    fn rules(&self) -> Table {
        let heading = vec!["POLICY", "RULE", "VERDICT", "HITS/s", "BYTES/s", "HITS", "BYTES"];
        let [before, now] = &self.samples;
        let counted = |sample: &Option<Box<Sample>>| -> HashMap<_, _> {
            let rules = sample.iter().flat_map(|sample| sample.rules.clone());
            rules.map(|RuleCounts { name, hits, bytes }| (name, (hits, bytes))).collect()
        };
        let (before, now) = (counted(before), counted(now));
        let named = |[policy, rule, verdict]: [&str; 3]| match (policy, rule) {
            ("", _) => ["(others)", "", verdict].map(Cell::text),
            _ => [policy, rule, verdict].map(Cell::text),
        };
        let of_counters =
            now.iter().filter(|(_, (hits, bytes))| hits | bytes > 0).map(|(name, now)| {
                // A rule without hits has no sample.
                let before = before.get(name).copied().unwrap_or_default();
                let before = if self.has_rates() { before } else { *now };
                let mut row = named([&name[0], &name[1], &name[2]]).to_vec();
                row.extend([
                    self.rate(Some(before.0), now.0),
                    self.rate(Some(before.1), now.1),
                    Cell::count(now.0),
                    Cell::count(now.1),
                ]);
                row
            });
        let of_flows = self.rules.iter().filter_map(|(key, count)| {
            let name = match key {
                Some(RuleKey { policy, rule, verdict }) => [policy, rule, *verdict],
                None => ["", "", ""],
            };
            let row = || {
                let mut row = named(name).to_vec();
                let (rate, total) = (self.rate_of(*count), Cell::count(count.total));
                row.extend([rate, Cell::none(), total, Cell::none()]);
                row
            };
            (!now.contains_key(&name.map(str::to_owned))).then(row)
        });
        Table { heading, rows: of_counters.chain(of_flows).collect() }
    }

    fn drops(&self) -> Table {
        let heading = vec!["REASON", "PACKETS/s", "BYTES/s", "PACKETS", "BYTES"];
        let [before, now] = &self.samples;
        let drops = now.iter().flat_map(|sample| &sample.status.drops);
        let rows = drops.map(|drop| {
            let mut former = before.iter().flat_map(|sample| &sample.status.drops);
            let former = former.find(|former| former.reason == drop.reason);
            // Reasons without drops are left out of a sample.
            let [packets, bytes] = former.map_or([0, 0], |former| [former.packets, former.bytes]);
            let is_first = before.is_none();
            let rate = |before, now| self.rate((!is_first).then_some(before), now);
            vec![
                Cell::text(drop.reason.replace('_', " ")),
                rate(packets, drop.packets),
                rate(bytes, drop.bytes),
                Cell::count(drop.packets),
                Cell::count(drop.bytes),
            ]
        });
        Table { heading, rows: rows.collect() }
    }

    fn requests(&self) -> Table {
        let heading = vec![
            "SERVER", "METHOD", "PATH", "RATE/s", "ERRORS/s", "P50 ms", "P99 ms", "MAX ms", "TOTAL",
        ];
        let rows = self.requests.iter().map(|(key, counts)| {
            let [server, method, path] = match key {
                Some(key) => [&*key.server, &*key.method, &*key.path],
                None => ["(others)", "", ""],
            };
            let mut row: Vec<_> = [server, method, path].map(Cell::text).into();
            row.extend([
                self.rate_of(counts.responses),
                self.rate_of(counts.errors),
                Cell::milliseconds(counts.latencies.percentile_ns(50)),
                Cell::milliseconds(counts.latencies.percentile_ns(99)),
                Cell::milliseconds(counts.latencies.max_ns()),
                Cell::count(counts.responses.total),
            ]);
            row
        });
        Table { heading, rows: rows.collect() }
    }

    fn workers(&self) -> Table {
        let heading = vec![
            "WORKER",
            "RECEIVED/s",
            "FORWARDED/s",
            "DROPPED/s",
            "SLEEPS/s",
            "FLOWS",
            "HELD FRAMES",
        ];
        let [before, now] = &self.samples;
        let workers = now.iter().flat_map(|sample| &sample.status.workers);
        let rows = workers.enumerate().map(|(index, worker)| {
            let former = before.as_ref().and_then(|sample| sample.status.workers.get(index));
            let sleeps = |sample: &Option<Box<Sample>>| {
                sample.as_ref().and_then(|sample| sample.sleeps.get(index)).copied()
            };
            vec![
                Cell::text(worker.worker.to_string()),
                self.rate(former.map(|former| former.received), worker.received),
                self.rate(former.map(|former| former.forwarded), worker.forwarded),
                self.rate(former.map(|former| former.dropped), worker.dropped),
                self.rate(sleeps(before), sleeps(now).unwrap_or(0)),
                Cell::count(worker.flows),
                Cell::count(worker.held_frames),
            ]
        });
        Table { heading, rows: rows.collect() }
    }
}

fn pod_name(end: &Option<Endpoint>) -> Option<String> {
    let end = end.as_ref().filter(|end| !end.pod_name.is_empty())?;
    Some(format!("{}/{}", end.namespace, end.pod_name))
}

fn policy_name(policy: &Policy) -> String {
    match policy.namespace.as_str() {
        "" => format!("{} {}", policy.kind, policy.name),
        namespace => format!("{} {namespace}/{}", policy.kind, policy.name),
    }
}

/// The rule that a policy's label names.
fn rule_of(policy: &Policy, direction: &str) -> String {
    let label = policy.labels.iter().find_map(|label| label.strip_prefix("podgate:rule="));
    label.map_or_else(|| format!("(default deny, {direction})"), str::to_owned)
}

/// What a response answers, and whether it is an error.
fn request_key(response: &Flow, record: Option<&Record>) -> (RequestKey, bool) {
    // The source of a response is the server.
    let server = response.source.as_ref().map(|end| server_name(end, response));
    let server = server.unwrap_or_default();
    let (method, path, is_error) = match record {
        Some(Record::Http(http)) => {
            let rest = http.url.split_once("://").map_or(&*http.url, |(_, rest)| rest);
            let path = rest.find('/').map_or("/", |at| &rest[at..]);
            let path = path.split(['?', '#']).next().unwrap_or_default();
            (http.method.clone(), path.to_owned(), http.code >= 400)
        }
        Some(Record::Dns(dns)) => {
            (format!("DNS {}", dns.qtypes.join(",")), String::new(), dns.rcode != 0)
        }
        Some(Record::Kafka(kafka)) => ("Kafka".to_owned(), String::new(), kafka.error_code != 0),
        None => (String::new(), String::new(), false),
    };
    (RequestKey { server, method, path }, is_error)
}

/// The service, the workload, the pod or the address of a server.
fn server_name(end: &Endpoint, flow: &Flow) -> String {
    let service = |service: &Service| format!("{}/{}", service.namespace, service.name);
    let of_workload = || {
        let workload = end.workloads.first()?;
        Some(format!("{}/{}", end.namespace, workload.name))
    };
    flow.source_service
        .as_ref()
        .map(service)
        .or_else(of_workload)
        .or_else(|| pod_name(&Some(end.clone())))
        .or_else(|| flow.ip.as_ref().map(|ip| ip.source.clone()))
        .unwrap_or_default()
}

impl Tab {
    /// The column by which it is sorted at first.
    pub(super) const fn sorted_by(self) -> usize {
        match self {
            Self::Endpoints => 2,
            Self::Rules => 3,
            Self::Drops => 1,
            // The slowest are first.
            Self::Requests => 6,
            Self::Workers => 0,
        }
    }
}
