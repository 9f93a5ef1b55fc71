//! Metrics of requests, responses and flows.

use std::collections::BTreeMap;

use podgate_api::Family;
use podgate_dataplane::stats::l7::{
    LATENCY_BOUNDS, REQUEST_PROTOCOLS, RESPONSE_PROTOCOLS, RESULTS,
};
use podgate_dataplane::stats::{Counter, WorkerStats};
use podgate_hubble::proto::flow::DropReason;

use crate::agent::{Durations, FlowCounts};

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
    let bounds = bounds();
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
pub(super) fn flow_families(counts: &FlowCounts) -> impl Iterator<Item = Family> + use<> {
    let mut flows = Family::counter("hubble_flows_processed_total", "Flow records processed");
    for ([kind, subtype, verdict, protocol], count) in &counts.flows {
        let labels =
            [("type", *kind), ("subtype", subtype), ("verdict", verdict), ("protocol", protocol)];
        flows = flows.with(&labels, *count);
    }
    let mut drops = Family::counter(
        "hubble_drop_total",
        "Flow records of dropped packets and denied requests, by Hubble's name of the reason",
    );
    for ((reason, protocol), count) in &counts.drops {
        let reason = DropReason::try_from(i32::from(*reason)).unwrap_or(DropReason::Unknown);
        drops = drops.with(&[("reason", reason.as_str_name()), ("protocol", protocol)], *count);
    }
    let mut verdicts = Family::counter(
        "hubble_policy_verdicts_total",
        "Policy verdicts on flows and requests, by direction and what was matched",
    );
    for ([direction, matched, action], count) in &counts.policy_verdicts {
        let labels = [("direction", *direction), ("match", matched), ("action", action)];
        verdicts = verdicts.with(&labels, *count);
    }
    let mut icmp = Family::counter(
        "hubble_icmp_total",
        "ICMP messages that policy decided: those that open a flow",
    );
    for ([family, kind], count) in &counts.icmp {
        icmp = icmp.with(&[("family", family), ("type", kind)], *count);
    }
    let mut requests = Family::counter("hubble_http_requests_total", "HTTP requests by method");
    for (method, count) in &counts.http_requests {
        requests = requests.with(&[("method", method)], *count);
    }
    let mut responses = Family::counter(
        "hubble_http_responses_total",
        "HTTP responses by status; status 0 is for invalid ones",
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
    let mut kafka = Family::counter("hubble_kafka_requests_total", "Kafka requests by API");
    for (key, count) in &counts.kafka_requests {
        kafka = kafka.with(&[("api_key", key)], *count);
    }
    let http_durations = duration_family(
        "hubble_http_request_duration_seconds",
        "Time from forwarding an HTTP request to its response, of gRPC calls to their end; the \
         method is unknown if the flow record of the request was lost",
        "method",
        &counts.http_durations,
    );
    let kafka_durations = duration_family(
        "hubble_kafka_request_duration_seconds",
        "Time from forwarding a Kafka request to its response",
        "api_key",
        &counts.kafka_durations,
    );
    let l4 = [flows, drops, verdicts, icmp];
    let http = [requests, responses, http_durations];
    let others = [queries, answers, kafka, kafka_durations];
    l4.into_iter().chain(http).chain(others)
}

/// A histogram for each value of a label.
fn duration_family(
    name: &str,
    help: &str,
    label: &str,
    durations: &BTreeMap<&'static str, Durations>,
) -> Family {
    let bounds = bounds();
    durations.iter().fold(Family::histogram(name, help), |family, (value, counted)| {
        let total = counted.sum_ns as f64 / SECOND;
        family.with_buckets(&[(label, value)], &bounds, &counted.buckets, total)
    })
}

/// Bounds of the buckets of times, seconds.
fn bounds() -> [f64; LATENCY_BOUNDS.len()] {
    LATENCY_BOUNDS.map(|bound| bound as f64 / SECOND)
}
