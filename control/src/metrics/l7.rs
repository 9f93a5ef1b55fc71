//! Metrics of requests, responses and flows.

use podgate_api::Family;
use podgate_dataplane::stats::l7::{
    LATENCY_BOUNDS, REQUEST_PROTOCOLS, RESPONSE_PROTOCOLS, RESULTS,
};
use podgate_dataplane::stats::{Counter, WorkerStats};

use crate::agent::FlowCounts;

/// Nanoseconds of a second.
const SECOND: f64 = 1e9;

fn sum<'w>(workers: &[&'w WorkerStats], of: impl Fn(&'w WorkerStats) -> &'w Counter) -> u64 {
    workers.iter().map(|worker| of(worker).get()).sum()
}

/// Exact counters of requests and responses, and the time between them.
pub(super) fn worker_families(workers: &[&WorkerStats]) -> [Family; 3] {
    let mut requests =
        Family::counter("podgate_l7_requests_total", "L7 requests by protocol and verdict");
    for (at, protocol) in REQUEST_PROTOCOLS.into_iter().enumerate() {
        let labels = |verdict| [("protocol", protocol), ("verdict", verdict)];
        requests = requests
            .with(&labels("allowed"), sum(workers, |worker| &worker.l7.allowed[at]))
            .with(&labels("denied"), sum(workers, |worker| &worker.l7.denied[at]));
    }
    let mut responses =
        Family::counter("podgate_l7_responses_total", "L7 responses by protocol and result");
    for (at, (protocol, result)) in RESULTS.into_iter().enumerate() {
        let labels = [("protocol", RESPONSE_PROTOCOLS[protocol]), ("result", result)];
        responses = responses.with(&labels, sum(workers, |worker| &worker.l7.results.0[at]));
    }
    let mut latency = Family::histogram(
        "cilium_proxy_upstream_reply_seconds",
        "Time from forwarding an L7 request to its response",
    );
    let bounds = LATENCY_BOUNDS.map(|bound| bound as f64 / SECOND);
    for (at, protocol) in RESPONSE_PROTOCOLS.into_iter().enumerate() {
        let counts: Vec<_> = (0..=bounds.len())
            .map(|bucket| sum(workers, |worker| &worker.l7.latency[at].buckets[bucket]))
            .collect();
        let total = sum(workers, |worker| &worker.l7.latency[at].sum_ns) as f64 / SECOND;
        let labels = [("protocol_l7", protocol), ("scope", "upstreamTime")];
        latency = latency.with_buckets(&labels, &bounds, &counts, total);
    }
    [requests, responses, latency]
}

/// What the flow thread counted: as in Hubble, lost events are not in these counters.
pub(super) fn flow_families(counts: &FlowCounts) -> [Family; 7] {
    let mut flows = Family::counter("hubble_flows_processed_total", "Flow records processed");
    for ([kind, subtype, verdict, protocol], count) in &counts.flows {
        let labels =
            [("type", *kind), ("subtype", subtype), ("verdict", verdict), ("protocol", protocol)];
        flows = flows.with(&labels, *count);
    }
    let mut drops = Family::counter(
        "hubble_drop_total",
        "Flow records of packets dropped for other reasons than policy",
    );
    for ([reason, protocol], count) in &counts.drops {
        drops = drops.with(&[("reason", reason), ("protocol", protocol)], *count);
    }
    let mut requests = Family::counter("hubble_http_requests_total", "HTTP requests by method");
    for (method, count) in &counts.http_requests {
        requests = requests.with(&[("method", method)], *count);
    }
    let mut responses = Family::counter(
        "hubble_http_responses_total",
        "HTTP responses by status; status 0 stands for numbers that are none",
    );
    for (status, count) in &counts.http_responses {
        responses = responses.with(&[("status", &status.to_string())], *count);
    }
    let mut queries = Family::counter("hubble_dns_queries_total", "DNS queries by type");
    for (kind, count) in &counts.dns_queries {
        queries = queries.with(&[("qtypes", kind)], *count);
    }
    let mut answers =
        Family::counter("hubble_dns_responses_total", "DNS responses by type and response code");
    for ([kind, rcode], count) in &counts.dns_responses {
        answers = answers.with(&[("qtypes", kind), ("rcode", rcode)], *count);
    }
    let mut kafka = Family::counter(
        "hubble_kafka_requests_total",
        "Kafka requests by the number of their API; -1 and 128 stand for all beyond",
    );
    for (key, count) in &counts.kafka_requests {
        kafka = kafka.with(&[("api_key", &key.to_string())], *count);
    }
    [flows, drops, requests, responses, queries, answers, kafka]
}
