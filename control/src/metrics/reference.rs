//! The reference of all metrics: `podgate metrics list` prints it, and a test compares
//! `docs/operate/metrics.md` with it.

use std::collections::BTreeSet;

use podgate_api::{Family, FamilyKind};
use serde::Serialize;

use super::collect;
use super::sample::with_sample;
use crate::agent::SERIES_MAX;

/// How many series a metric has at most, by its labels; `le` is left out. Some metrics have
/// fewer than others with the same labels, and are listed by their names first.
const BOUNDS: &[(&str, &str)] = &[
    ("cilium_policy_l7_total", "3"),
    ("hubble_http_request_duration_seconds", "11 histograms of 19 samples"),
    ("hubble_kafka_request_duration_seconds", "35 histograms of 19 samples"),
    ("podgate_rule_last_hit_timestamp_seconds", "RULES"),
    ("podgate_services_left_out", "4"),
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
    ("link,pod,resource", "eight for each link, from the first excess on"),
    ("map_name", "6"),
    ("method", "10"),
    ("outcome", "3"),
    ("outcome,what", "6"),
    ("pod", "one for each pod of the node that lost some, and one"),
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
    ("thread", "one for each worker, and about ten"),
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

/// A metric as it is described to people.
#[derive(Serialize, Debug)]
pub(crate) struct Metric {
    /// Name.
    pub(crate) name: String,
    /// What its values do.
    pub(crate) kind: FamilyKind,
    /// Names of its labels, in order.
    pub(crate) labels: Vec<String>,
    /// The bound on the number of its series, in words.
    pub(crate) most_series: String,
    /// What it means.
    pub(crate) help: String,
}

/// All metrics of the agent.
pub(crate) fn metrics() -> Vec<Metric> {
    with_sample(collect).into_iter().map(describe).collect()
}

fn describe(family: Family) -> Metric {
    let Family { name, help, kind, samples } = family;
    let labels = samples.iter().flat_map(|sample| sample.labels.keys());
    let labels: BTreeSet<_> = labels.filter(|label| *label != "le").cloned().collect();
    let labels = Vec::from_iter(labels);
    let most_series = bound(&name, &labels.join(",")).unwrap_or_default();
    Metric { name, kind, labels, most_series, help }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::{env, fs};

    use super::*;

    const HEAD: &str = "\
# Metrics

<!-- Generated from the code. To update it:
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
without the lost ones, which `hubble_lost_events_total` counts. podgate makes one record of a flow \
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

    /// The reference as Markdown.
    fn reference() -> String {
        let mut text = HEAD.to_owned();
        for Metric { name, kind, labels, most_series, help } in metrics() {
            assert!(!most_series.is_empty(), "{name} with {labels:?} has no bound");
            let labels = labels.iter().map(|label| format!("`{label}`"));
            let labels = labels.collect::<Vec<_>>().join(", ");
            text.push_str(&format!("| `{name}` | {kind} | {labels} | {most_series} | {help} |\n"));
        }
        text
    }

    #[test]
    fn the_reference_is_made_from_the_code() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operate/metrics.md");
        let expected = reference();
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
