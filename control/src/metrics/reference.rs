//! The reference of all metrics, `docs/operate/metrics.md`: made from the code, and compared with
//! the file by a test.

use std::collections::BTreeSet;

use crate::agent::SERIES_MAX;

/// How many series a metric has at most, by its labels; `le` is left out. Some metrics have
/// fewer than others with the same labels, and are listed by their names first.
const BOUNDS: &[(&str, &str)] = &[
    ("cilium_policy_l7_total", "3"),
    ("hubble_http_request_duration_seconds", "11 histograms of 19 samples"),
    ("hubble_kafka_request_duration_seconds", "35 histograms of 19 samples"),
    ("podgate_rule_last_hit_timestamp_seconds", "RULES"),
    ("", "1"),
    ("action,direction,match", "48"),
    ("api_key", "35"),
    ("certificate", "2: the one of Hubble's server, the one of the API client"),
    ("direction", "2"),
    ("direction,reason", "one for each reason of the program, about 60"),
    ("endpoint_state", "3"),
    ("enforcement", "4"),
    ("family,type", "11"),
    ("kind", "5"),
    ("link,pod", "one for each link: `--max-endpoints` and one"),
    ("link,pod,resource", "five for each link, from the first excess on"),
    ("map_name", "6"),
    ("method", "10"),
    ("outcome", "3"),
    ("outcome,what", "6"),
    ("policy,rule,verdict", "RULES and three for all others together"),
    ("protocol,reason", "one for each reason and protocol that occurred, about 150"),
    ("protocol,result", "33"),
    ("protocol,subtype,type,verdict", "one for each combination that occurred, at most 100"),
    ("protocol,verdict", "8"),
    ("protocol_l7,scope", "4 histograms of 19 samples"),
    ("qtypes", "11"),
    ("qtypes,rcode", "77"),
    ("source", "1"),
    ("status", "501"),
    ("table", "6"),
    ("thread", "one for each worker, and 4"),
    ("type", "2"),
    ("version", "1"),
    ("worker", "one for each worker, 64 at most"),
];

/// The bound on the number of series of a metric with these labels.
fn bound(name: &str, labels: &str) -> Option<String> {
    let of = |wanted: &str| BOUNDS.iter().find(|(key, _)| *key == wanted);
    let (_, text) = of(name).or_else(|| of(labels))?;
    Some(text.replace("RULES", &SERIES_MAX.to_string()))
}

/// The reference as Markdown.
fn reference(families: &[podgate_api::Family]) -> String {
    let mut text = HEAD.to_owned();
    for family in families {
        let samples = family.samples.iter();
        let labels: BTreeSet<_> = samples
            .flat_map(|sample| sample.labels.keys())
            .filter(|label| *label != "le")
            .map(String::as_str)
            .collect();
        let labels = labels.into_iter().collect::<Vec<_>>().join(",");
        let bound = bound(&family.name, &labels).unwrap_or_default();
        assert!(!bound.is_empty(), "{} with {labels:?} has no bound", family.name);
        let names = labels.split(',').filter(|label| !label.is_empty());
        let names = names.map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
        let podgate_api::Family { name, help, kind, .. } = family;
        text.push_str(&format!("| `{name}` | {kind} | {names} | {bound} | {help} |\n"));
    }
    text
}

const HEAD: &str = "\
# Metrics

<!-- Made from the code. To update it:
PODGATE_UPDATE_GENERATED=1 cargo test -p podgate --lib metrics::reference -->

`podgate run --metrics-listen ADDRESS:PORT` serves these metrics at `/metrics` for Prometheus; \
`podgate metrics` prints them. The endpoint is off by default. It has neither TLS nor a login, and \
its labels name pods, policies and links: listen on a loopback address, or where only the scraper \
can connect. Sixteen clients may be connected at a time, and metrics are collected at most five \
times a second.

[deploy/grafana/podgate.json](../../deploy/grafana/podgate.json) is a dashboard for Grafana, and \
[deploy/prometheus/alerts.yaml](../../deploy/prometheus/alerts.yaml) has alerts for Prometheus.

Names that begin with `cilium_` or `hubble_` mean the same as in Cilium, so that dashboards carry \
over. Counters of workers and rules are exact. Those that begin with `hubble_` count flow records, \
without the lost ones, which `hubble_lost_events_total` counts. Podgate makes one record of a flow \
that policy drops, where Cilium makes two, a verdict and a drop: `hubble_drop_total` counts it \
once. Records are made when a flow begins and ends, and of requests, responses and drops, so \
`hubble_icmp_total` counts the messages that begin a flow: not replies.

Some of Hubble's metrics are left out. `hubble_tcp_flags_total` would have the SYN of each \
connection, and none of the SYN-ACK, FIN and RST that it is compared with. \
`hubble_port_distribution_total` has a series for each port that a pod chooses to send to. \
`hubble_dns_response_types_total` needs the types of all records of an answer, which flow records \
don't have.

A rule gets series of its own at its first hit, and keeps them while it exists; when 500 rules have \
some, further ones are counted together, as the rule `others` of the policy with an empty name. Live flows' \
bytes are added every ten seconds.

| name | type | labels | most series | meaning |
|---|---|---|---|---|
";

pub(crate) use self::sample::with_sample;

/// A measurement with samples of every metric.
mod sample {
    use std::sync::Arc;

    use podgate_api::{
        CertificateStatus, EndpointCounts, Health, LinkCounts, MemoryUse, TableFill, ThreadStatus,
    };
    use podgate_dataplane::stats::WorkerStats;
    use podgate_dataplane::worker::{RuleKey, RuleReport, RuleTally, RuleVerdict};
    use podgate_dataplane::xsk::XskStatistics;
    use podgate_policy::rules::TrafficDirection;
    use podgate_policy::{Kind, ObjectKey, RuleOrigin};
    use podgate_tables::drop_reason::DropReason;
    use podgate_tables::event::{HttpVersion, RequestRecord, ResponseStatus};
    use podgate_tables::ids::{Epoch, RuleId};
    use podgate_tables::time::Nanos;
    use podgate_xdp_redirect::FrameDrops;

    use crate::agent::{FlowCounts, RuleTotals};
    use crate::metrics::{AgentCounts, Measured, SourceCounts};

    fn rules() -> RuleTotals {
        let key = ObjectKey {
            kind: Kind::NetworkPolicy,
            namespace: Some("shop".into()),
            name: "web".into(),
        };
        let field = "spec.ingress[0]".to_owned();
        let direction = TrafficDirection::Ingress;
        let origin = RuleOrigin { key: Arc::new(key), direction, field };
        let mut totals = RuleTotals::default();
        totals.rename(Epoch(1), [(RuleId(1), Some(Arc::new(origin)))].into_iter());
        let verdict = RuleVerdict::Allowed;
        let key = RuleKey { epoch: Epoch(1), rule: RuleId(1), verdict };
        let tally = RuleTally { hits: 5, bytes: 1500, last: Nanos(500_000_000) };
        totals.add(&RuleReport { rules: vec![(key, tally)], ..RuleReport::default() });
        totals
    }

    fn flows() -> FlowCounts {
        let mut counts = FlowCounts::default();
        counts.flows.insert(["PolicyVerdict", "", "FORWARDED", "TCP"], 12);
        counts.drops.insert((133, "TCP"), 1);
        counts.policy_verdicts.insert(["ingress", "l3-l4", "forwarded"], 6);
        counts.icmp.insert(["IPv4", "EchoRequest"], 2);
        counts.http_requests.insert("GET", 9);
        counts.http_responses.insert(200, 8);
        counts.dns_queries.insert("A", 3);
        counts.dns_responses.insert(["A", "No Error"], 3);
        counts.kafka_requests.insert("produce", 4);
        counts.http_durations.entry("GET").or_default().buckets[3] = 8;
        counts.kafka_durations.entry("produce").or_default().buckets[2] = 4;
        counts
    }

    fn health() -> Health {
        let thread = |name: &str| ThreadStatus {
            name: name.into(),
            alive: true,
            cpu_ms: 1500,
            load_percent: 7,
        };
        let table = |name: &str, used, capacity| TableFill { name: name.into(), used, capacity };
        Health {
            threads: vec![thread("control"), thread("pg-worker-0")],
            tables: vec![table("flows", 100, 400)],
            memory: MemoryUse {
                resident: 1 << 28,
                frames: 1 << 27,
                rings: 1 << 20,
                pools: 1 << 23,
                bpf: 1 << 16,
            },
            certificates: vec![CertificateStatus {
                name: "hubble-server".into(),
                expires_s: Some(2_000_000_000),
                problem: None,
            }],
            ..Health::default()
        }
    }

    /// Calls `with` with a measurement that has samples of every metric.
    pub(crate) fn with_sample<T>(with: impl FnOnce(&Measured<'_>) -> T) -> T {
        let workers = [WorkerStats::new(), WorkerStats::new()];
        for worker in &workers {
            worker.dropped[DropReason::PolicyDenied as usize].count(1, 60);
            worker.l7.count_allowed(&RequestRecord::default());
            let status = ResponseStatus::Http { version: HttpVersion::Http11, status: 200 };
            worker.l7.count_response(status, 3_000_000);
        }
        let links = vec![LinkCounts {
            link: "veth1".into(),
            pod: Some("demo/flood".into()),
            over_quota_inspected: 3,
            ..LinkCounts::default()
        }];
        let counts = AgentCounts {
            source: Some(SourceCounts::default()),
            endpoints: EndpointCounts { ready: 1, waiting: 0, gone: 0 },
            epoch: 7,
            ..AgentCounts::default()
        };
        with(&Measured {
            workers: &[&workers[0], &workers[1]],
            ports: XskStatistics { rx_ring_full: 7, ..XskStatistics::default() },
            frame_drops: vec![FrameDrops { reason: "not_ip", packets: 3, bytes: 180 }],
            counts,
            links,
            rules: &rules(),
            wall_s: &|time| 1000.0 + time.0 as f64 / 1e9,
            flows: flows(),
            health: health(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::{env, fs};

    use super::*;
    use crate::metrics::collect;

    #[test]
    fn the_reference_is_made_from_the_code() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operate/metrics.md");
        let expected = reference(&with_sample(collect));
        if env::var_os("PODGATE_UPDATE_GENERATED").is_some() {
            fs::write(&path, &expected).unwrap();
        }
        let found = fs::read_to_string(&path).unwrap_or_default();
        assert!(found == expected, "docs/operate/metrics.md is outdated: see its first lines");
    }

    #[test]
    fn every_metric_has_samples_in_the_reference() {
        for family in with_sample(collect) {
            assert!(!family.samples.is_empty(), "{}", family.name);
        }
    }
}
