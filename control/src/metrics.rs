//! Counters as metric families, and their Prometheus text.
//!
//! Names are Cilium's where the meaning is the same, so that dashboards carry over; the rest
//! begin with `podgate_`. `reference` bounds the number of series of each.

mod l7;
mod parts;
#[cfg(test)]
mod promtool;
mod reference;
mod rules;
mod sample;
mod source;

use std::sync::Arc;

use podgate_api::{EndpointCounts, Family, FamilyKind, Health, LinkCounts};
use podgate_dataplane::stats::{
    MetricKind, PacketCounter, WORKER_METRICS, WorkerMetric, WorkerStats,
};
use podgate_dataplane::xsk::XskStatistics;
use podgate_policy::ServicesLeftOut;
use podgate_tables::drop_reason::DropReason;
use podgate_tables::time::Nanos;
use podgate_xdp_redirect::FrameDrops;

pub(crate) use self::reference::{Metric, metrics};
pub(crate) use self::source::SourceCounts;
use crate::agent::{FlowCounts, NameMetrics, RuleTotals};

/// What the agent counts itself.
#[derive(Clone, Default, Debug)]
pub(crate) struct AgentCounts {
    /// Endpoints by state.
    pub(crate) endpoints: EndpointCounts,
    /// Identities of the tables: reserved ones, and those of pods.
    pub(crate) identities: [u64; 2],
    /// Policies in force.
    pub(crate) policies: u64,
    /// Objects rejected.
    pub(crate) rejected: u64,
    /// Addresses and ports of services that are not translated.
    pub(crate) services_left_out: ServicesLeftOut,
    /// Epoch of the published snapshot.
    pub(crate) epoch: u64,
    /// Least MTU of the routes out of the node, bytes; zero without routes.
    pub(crate) path_mtu: u64,
    /// Free frames outside of the workers' caches.
    pub(crate) frames_spare: u64,
    /// Warnings of `status`, without those of the source of objects.
    pub(crate) problems: u64,
    /// Links of attached endpoints that were deleted.
    pub(crate) links_gone: u64,
    /// Events of the workers that were logged as flow records.
    pub(crate) flow_records: u64,
    /// Flow records that were lost.
    pub(crate) flow_records_lost: u64,
    /// Clients that were rejected because there were too many.
    pub(crate) clients_rejected: u64,
    /// Clients that were disconnected because they didn't read.
    pub(crate) clients_disconnected: u64,
    /// DNS names.
    pub(crate) names: NameMetrics,
    /// The API server, if objects come from one.
    pub(crate) source: Option<SourceCounts>,
    /// Endpoints by the directions that policy is enforced in: none, ingress, egress, both.
    pub(crate) enforcement: [u64; 4],
    /// When the agent started, seconds since 1970.
    pub(crate) started_s: u64,
    /// Writes of the agent's files that failed.
    pub(crate) failed_writes: u64,
    /// Scrapes that were answered, connections that were rejected, scrapes that failed.
    pub(crate) scrapes: [u64; 3],
}

/// Everything that metrics are made from.
pub(crate) struct Measured<'a> {
    /// By worker.
    pub(crate) workers: &'a [&'a WorkerStats],
    /// Of all sockets.
    pub(crate) sockets: XskStatistics,
    /// Drops of the BPF programs.
    pub(crate) frame_drops: Vec<FrameDrops>,
    /// What the agent counts itself.
    pub(crate) counts: AgentCounts,
    /// By link.
    pub(crate) links: Vec<LinkCounts>,
    /// By rule.
    pub(crate) rules: &'a RuleTotals,
    /// Wall-clock time of a time of the workers' clock, seconds since 1970.
    pub(crate) wall_s: &'a dyn Fn(Nanos) -> f64,
    /// What the flow thread counted.
    pub(crate) flows: FlowCounts,
    /// The state of the agent's parts.
    pub(crate) health: Health,
}

/// All metrics.
pub(crate) fn collect(measured: &Measured<'_>) -> Vec<Family> {
    let Measured { workers, counts, .. } = measured;
    let mut families = agent_families(counts);
    families.extend(name_families(&counts.names));
    families.extend(parts::families(&measured.health, counts.scrapes));
    families.extend(counts.source.iter().flat_map(source::families));
    families.extend(link_families(&measured.links));
    families.extend(traffic_families(workers, &measured.frame_drops));
    families.extend(socket_families(&measured.sockets));
    families.extend(rules::families(measured.rules, measured.wall_s));
    families.push(l7_family(workers));
    families.extend(l7::worker_families(workers));
    families.extend(l7::flow_families(&measured.flows));
    families.extend(WORKER_METRICS.iter().map(|metric| worker_family(metric, workers)));
    families
}

fn agent_families(counts: &AgentCounts) -> Vec<Family> {
    let endpoints = &counts.endpoints;
    let total = endpoints.ready + endpoints.waiting + endpoints.gone;
    vec![
        Family::gauge("cilium_endpoint", "Endpoints managed by this agent").with(&[], total as u64),
        Family::gauge("cilium_endpoint_state", "Endpoints by state")
            .with(&[("endpoint_state", "ready")], endpoints.ready as u64)
            .with(&[("endpoint_state", "waiting")], endpoints.waiting as u64)
            .with(&[("endpoint_state", "gone")], endpoints.gone as u64),
        Family::gauge("cilium_identity", "Identities in the tables of policy, by type")
            .with(&[("type", "reserved")], counts.identities[0])
            .with(&[("type", "cluster_local")], counts.identities[1]),
        Family::gauge("cilium_policy", "Policies in force").with(&[], counts.policies),
        Family::gauge("cilium_policy_max_revision", "Epoch of the published tables")
            .with(&[], counts.epoch),
        enforcement_family(counts.enforcement),
        Family::gauge("podgate_build_info", "1, with the version of the program")
            .with(&[("version", env!("CARGO_PKG_VERSION"))], 1),
        Family::gauge("process_start_time_seconds", "When the agent started")
            .with(&[], counts.started_s),
        Family::gauge("podgate_objects_rejected", "Objects that can't be enforced as written")
            .with(&[], counts.rejected),
        services_left_out_family(counts.services_left_out),
        Family::gauge("podgate_epoch", "Epoch of the published tables").with(&[], counts.epoch),
        Family::gauge(
            "podgate_path_mtu_bytes",
            "Least MTU of the routes out of the node, 0 without routes",
        )
        .with(&[], counts.path_mtu),
        Family::gauge("podgate_frames_spare", "Free frames outside of the workers' caches")
            .with(&[], counts.frames_spare),
        Family::gauge(
            "podgate_problems",
            "Problems of the node or the agent's own files, as in status",
        )
        .with(&[], counts.problems),
        Family::counter(
            "podgate_state_write_errors_total",
            "Writes of files in the state directory that failed",
        )
        .with(&[], counts.failed_writes),
        Family::counter(
            "podgate_links_gone_total",
            "Links of attached endpoints that were deleted",
        )
        .with(&[], counts.links_gone),
        Family::counter(
            "podgate_clients_rejected_total",
            "Requests and connections on the control socket that were rejected because there were too many",
        )
        .with(&[], counts.clients_rejected),
        Family::counter(
            "podgate_clients_disconnected_total",
            "Clients of the control socket that were disconnected because they didn't read",
        )
        .with(&[], counts.clients_disconnected),
        Family::counter(
            "podgate_flow_records_total",
            "Events of the workers that were logged as flow records",
        )
        .with(&[], counts.flow_records),
        Family::counter("hubble_lost_events_total", "Flow records lost because a ring was full")
            .with(&[("source", "EVENTS_QUEUE")], counts.flow_records_lost),
    ]
}

fn services_left_out_family(left_out: ServicesLeftOut) -> Family {
    let ServicesLeftOut { no_endpoint_slice, no_ports, address_taken, table_full } = left_out;
    let by_reason = [
        ("no_endpoint_slice", no_endpoint_slice),
        ("no_ports", no_ports),
        ("address_taken", address_taken),
        ("table_full", table_full),
    ];
    let family = Family::gauge(
        "podgate_services_left_out",
        "Addresses and ports of services whose packets are left to the kernel, by reason",
    );
    by_reason
        .into_iter()
        .fold(family, |family, (reason, count)| family.with(&[("reason", reason)], count as u64))
}

fn enforcement_family(by_direction: [u64; 4]) -> Family {
    let family = Family::gauge(
        "cilium_policy_endpoint_enforcement_status",
        "Endpoints by the directions that policy is enforced in",
    );
    let directions = ["none", "ingress", "egress", "both"].into_iter().zip(by_direction);
    directions.fold(family, |family, (enforcement, count)| {
        family.with(&[("enforcement", enforcement)], count)
    })
}

/// What DNS names lost at bounds. There is always a sample without a pod.
fn evicted_names_family(pods: &[(Arc<str>, u64)]) -> Family {
    let family = Family::counter(
        "podgate_fqdn_evicted_total",
        "Addresses of DNS names that were removed, left out or expired early at a bound, by the \
         pod that had asked for them; those of clients that are no pods of the node are in the one \
         without a name",
    );
    let nobody = pods.iter().find(|(pod, _)| pod.is_empty()).map_or(0, |(_, count)| *count);
    let named = pods.iter().filter(|(pod, _)| !pod.is_empty());
    named.fold(family.with(&[("pod", "")], nobody), |family, (pod, count)| {
        family.with(&[("pod", &**pod)], *count)
    })
}

/// What is known of DNS names.
fn name_families(names: &NameMetrics) -> Vec<Family> {
    let gauge = |name, help, value: usize| Family::gauge(name, help).with(&[], value as u64);
    let counter = |name, help, value| Family::counter(name, help).with(&[], value);
    let NameMetrics { table, evicted, answers, publications, release_us, releases } = names;
    vec![
        gauge("cilium_fqdn_active_names", "DNS names that have addresses", table.names),
        gauge("cilium_fqdn_active_ips", "Addresses of DNS names", table.addresses),
        gauge(
            "cilium_fqdn_alive_zombie_connections",
            "Addresses of DNS names whose TTL is over, and that connections may use",
            table.deferred,
        ),
        evicted_names_family(evicted),
        counter("podgate_fqdn_answers_total", "DNS answers that waited for the tables", *answers),
        counter(
            "podgate_fqdn_publications_total",
            "Publications of tables because of DNS answers",
            *publications,
        ),
        counter(
            "podgate_fqdn_releases_total",
            "Times that DNS answers were released, those that waited together at once",
            *releases,
        ),
        Family::counter(
            "podgate_fqdn_release_seconds_total",
            "Time from taking DNS answers to their release; divide it by the releases",
        )
        .with(&[], *release_us as f64 / 1e6),
    ]
}

/// The direction is not counted: a packet between two local pods leaves one and enters the other.
const DIRECTION: (&str, &str) = ("direction", "UNKNOWN");

fn traffic_families(workers: &[&WorkerStats], frame_drops: &[FrameDrops]) -> [Family; 4] {
    let sum = |tally: &dyn Fn(&WorkerStats) -> &PacketCounter| {
        workers.iter().fold((0, 0), |(packets, bytes), worker| {
            let tally = tally(worker);
            (packets + tally.packets.get(), bytes + tally.bytes.get())
        })
    };
    let mut drop_count = Family::counter("cilium_drop_count_total", "Packets dropped");
    let mut drop_bytes = Family::counter("cilium_drop_bytes_total", "Bytes dropped");
    for reason in DropReason::ALL {
        let (packets, bytes) = sum(&|worker| &worker.dropped[*reason as usize]);
        let labels = [("reason", reason.label()), DIRECTION];
        drop_count = drop_count.with(&labels, packets);
        drop_bytes = drop_bytes.with(&labels, bytes);
    }
    for FrameDrops { reason, packets, bytes } in frame_drops {
        let labels = [("reason", reason.label()), DIRECTION];
        drop_count = drop_count.with(&labels, *packets);
        drop_bytes = drop_bytes.with(&labels, *bytes);
    }
    let (packets, bytes) = sum(&|worker| &worker.forwarded);
    [
        drop_count,
        drop_bytes,
        Family::counter("cilium_forward_count_total", "Packets forwarded")
            .with(&[DIRECTION], packets),
        Family::counter("cilium_forward_bytes_total", "Bytes forwarded").with(&[DIRECTION], bytes),
    ]
}

/// Counters of the AF_XDP sockets in the kernel.
fn socket_families(sockets: &XskStatistics) -> [Family; 5] {
    let family = |name, help, value| Family::counter(name, help).with(&[], value);
    [
        family(
            "podgate_xsk_rx_dropped_total",
            "Packets that the kernel dropped because it had no frame, or for other reasons",
            sockets.rx_dropped,
        ),
        family(
            "podgate_xsk_rx_ring_full_total",
            "Packets that the kernel dropped because the RX ring was full",
            sockets.rx_ring_full,
        ),
        family(
            "podgate_xsk_fill_ring_empty_total",
            "Times that the kernel found the fill ring empty",
            sockets.fill_ring_empty,
        ),
        family(
            "podgate_xsk_rx_invalid_total",
            "Invalid descriptors in the fill ring; zero unless there is a bug",
            sockets.rx_invalid,
        ),
        family(
            "podgate_xsk_tx_invalid_total",
            "Invalid descriptors in the TX ring; zero unless there is a bug",
            sockets.tx_invalid,
        ),
    ]
}

/// Counters by link, one sample for each endpoint and one for the host link. A
/// quota has a sample only for links that have exceeded it.
fn link_families(links: &[LinkCounts]) -> [Family; 5] {
    let family = |name, help, value: fn(&LinkCounts) -> u64| {
        links.iter().fold(Family::counter(name, help), |family, link| {
            family.with(&link_labels(link), value(link))
        })
    };
    let mut over_quota = Family::counter(
        "podgate_link_quota_exceeded_total",
        "Allocations from shared resources that failed because the link had used its fair share",
    );
    for link in links {
        for (of, value) in [
            ("flows", link.over_quota_flows),
            ("inspected", link.over_quota_inspected),
            ("buffers", link.over_quota_buffers),
            ("handoffs", link.over_quota_handoffs),
            ("events", link.over_quota_events),
            ("services", link.over_quota_services),
            ("affinity", link.over_quota_affinity),
            ("dns_answers", link.over_quota_dns_answers),
        ] {
            if value > 0 {
                let [name, pod] = link_labels(link);
                over_quota = over_quota.with(&[name, pod, ("resource", of)], value);
            }
        }
    }
    [
        family("podgate_link_received_packets_total", "Packets received by link", |link| {
            link.received
        }),
        family(
            "podgate_link_rx_dropped_total",
            "Packets of a link that the kernel dropped because it had no frame, or for other reasons",
            |link| link.rx_dropped,
        ),
        family(
            "podgate_link_rx_ring_full_total",
            "Packets of a link that the kernel dropped because its RX ring was full",
            |link| link.rx_ring_full,
        ),
        family(
            "podgate_link_fill_ring_empty_total",
            "Times that the kernel found the fill ring empty, by link",
            |link| link.fill_ring_empty,
        ),
        over_quota,
    ]
}

fn link_labels(link: &LinkCounts) -> [(&str, &str); 2] {
    [("link", &link.link), ("pod", link.pod.as_deref().unwrap_or(""))]
}

fn l7_family(workers: &[&WorkerStats]) -> Family {
    let allowed: u64 = workers.iter().map(|worker| worker.l7_allowed.get()).sum();
    let denied: u64 = workers.iter().map(|worker| worker.l7_denied.get()).sum();
    let outcomes = [("received", allowed + denied), ("forwarded", allowed), ("denied", denied)];
    let family = Family::counter("cilium_policy_l7_total", "L7 requests by verdict");
    outcomes.into_iter().fold(family, |family, (rule, value)| {
        family.with(&[("rule", rule), ("proxy_type", "podgate")], value)
    })
}

/// The family of a metric with one sample for each worker.
fn worker_family(metric: &WorkerMetric, workers: &[&WorkerStats]) -> Family {
    let kind = match metric.kind {
        MetricKind::Counter => FamilyKind::Counter,
        MetricKind::Gauge => FamilyKind::Gauge,
    };
    let family = Family::new(kind, metric.name, metric.help);
    workers.iter().enumerate().fold(family, |family, (index, worker)| {
        family.with(&[("worker", &index.to_string())], (metric.read)(worker))
    })
}

/// The families in the Prometheus text format, version 0.0.4.
///
/// prometheus-client writes OpenMetrics, which calls a counter by its name without `_total`:
/// readers of this older format, such as node_exporter's textfile collector, would treat every
/// counter as untyped.
#[must_use]
pub(crate) fn to_text(families: &[Family]) -> String {
    families.iter().map(Family::to_text).collect()
}

#[cfg(test)]
mod tests {
    use super::sample::with_sample;
    use super::*;

    #[test]
    fn drops_are_counted_over_all_workers_under_ciliums_name() {
        let text = with_sample(|measured| to_text(&collect(measured)));
        let line = "cilium_drop_count_total{direction=\"UNKNOWN\",reason=\"not_ip\"} 3\n";
        assert!(text.contains(line), "{text}");
        let line = "cilium_drop_count_total{direction=\"UNKNOWN\",reason=\"policy_denied\"} 2\n";
        assert!(text.contains(line), "{text}");
        let line = "cilium_drop_bytes_total{direction=\"UNKNOWN\",reason=\"policy_denied\"} 120\n";
        assert!(text.contains(line), "{text}");
    }

    #[test]
    fn the_text_has_one_type_line_for_each_family() {
        let families = with_sample(collect);
        let count = families.len();
        let text = to_text(&families);
        assert_eq!(text.matches("# TYPE ").count(), count);
        assert!(text.contains("# TYPE podgate_epoch gauge\npodgate_epoch 7\n"), "{text}");
        assert!(text.contains("\npodgate_xsk_rx_ring_full_total 7\n"), "{text}");
        let line = "podgate_link_quota_exceeded_total{link=\"veth1\",pod=\"demo/flood\",\
                    resource=\"inspected\"} 3\n";
        assert!(text.contains(line), "{text}");
        assert!(!text.contains("resource=\"flows\""), "{text}");
        // Samples, those of counters too, have the name in the type line.
        let counter = "# TYPE podgate_links_gone_total counter\npodgate_links_gone_total 0\n";
        assert!(text.contains(counter), "{text}");
    }

    #[test]
    fn a_rule_has_its_hits_bytes_and_last_hit() {
        let text = with_sample(|measured| to_text(&collect(measured)));
        let rule = "{policy=\"NetworkPolicy shop/web\",rule=\"spec.ingress[0]\",\
                    verdict=\"allowed\"}";
        for line in [
            format!("podgate_rule_hits_total{rule} 5\n"),
            format!("podgate_rule_bytes_total{rule} 1500\n"),
            format!("podgate_rule_last_hit_timestamp_seconds{rule} 1000.5\n"),
        ] {
            assert!(text.contains(&line), "{line}: {text}");
        }
    }
}
