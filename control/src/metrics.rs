//! Counters as metric families, and their Prometheus text.
//!
//! Names are Cilium's where the meaning is the same, so that dashboards carry over; the rest
//! begin with `podgate_`.

use std::collections::BTreeMap;

use podgate_dataplane::stats::{Tally, WorkerStats};
use podgate_dataplane::xsk::XskStatistics;
use podgate_tables::drop_reason::DropReason;
use podgate_xdp_redirect::FrameDrops;
use serde::{Deserialize, Serialize};

use crate::protocol::{EndpointCounts, LinkCounts};

/// One metric with all its samples.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub(crate) struct Family {
    /// Name; that of a counter ends with `_total`.
    pub(crate) name: String,
    /// What it counts.
    pub(crate) help: String,
    /// Whether it only grows.
    pub(crate) kind: FamilyKind,
    /// Values.
    pub(crate) samples: Vec<Sample>,
}

/// Kinds of metrics.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "lowercase")]
pub(crate) enum FamilyKind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// One value.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub(crate) struct Sample {
    /// Labels by name.
    pub(crate) labels: BTreeMap<String, String>,
    /// Value.
    pub(crate) value: u64,
}

/// What the agent counts itself.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct AgentCounts {
    /// Endpoints by state.
    pub(crate) endpoints: EndpointCounts,
    /// Policies in force.
    pub(crate) policies: u64,
    /// Objects refused.
    pub(crate) refused: u64,
    /// Epoch of the published snapshot.
    pub(crate) epoch: u64,
    /// The largest packet that gets through by every way out of the node, bytes; zero if there is
    /// no way out.
    pub(crate) path_mtu: u64,
    /// Frames that are free and that no worker keeps at hand.
    pub(crate) frames_spare: u64,
    /// What `status` warns of beside the source of objects.
    pub(crate) problems: u64,
    /// Links that vanished under an endpoint.
    pub(crate) links_gone: u64,
    /// Flow records taken off the workers' rings.
    pub(crate) flow_records: u64,
    /// Flow records that nobody could read any more.
    pub(crate) flow_records_lost: u64,
    /// Clients that found no place.
    pub(crate) clients_refused: u64,
    /// Clients that were cut off because they didn't read.
    pub(crate) clients_cut_off: u64,
}

impl Family {
    fn new(kind: FamilyKind, name: &str, help: &str) -> Self {
        Self { name: name.into(), help: help.into(), kind, samples: Vec::new() }
    }

    fn counter(name: &str, help: &str) -> Self {
        Self::new(FamilyKind::Counter, name, help)
    }

    fn gauge(name: &str, help: &str) -> Self {
        Self::new(FamilyKind::Gauge, name, help)
    }

    fn with(mut self, labels: &[(&str, &str)], value: u64) -> Self {
        let labels = labels.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        self.samples.push(Sample { labels: labels.collect(), value });
        self
    }

    fn to_text(&self) -> String {
        let Self { name, help, samples, .. } = self;
        let kind = match self.kind {
            FamilyKind::Counter => "counter",
            FamilyKind::Gauge => "gauge",
        };
        let head = format!("# HELP {name} {help}\n# TYPE {name} {kind}\n");
        samples.iter().fold(head, |text, sample| {
            let value = sample.value;
            let labels = sample.labels.iter().map(|(name, value)| format!("{name}={value:?}"));
            match labels.collect::<Vec<_>>().join(",").as_str() {
                "" => format!("{text}{name} {value}\n"),
                labels => format!("{text}{name}{{{labels}}} {value}\n"),
            }
        })
    }
}

/// All metrics.
pub(crate) fn collect(
    workers: &[&WorkerStats],
    ports: &XskStatistics,
    frame_drops: &[FrameDrops],
    counts: &AgentCounts,
    links: &[LinkCounts],
) -> Vec<Family> {
    let mut families = agent_families(counts);
    families.extend(link_families(links));
    families.extend(traffic_families(workers, frame_drops));
    families.extend(socket_families(ports));
    families.push(l7_family(workers));
    families.extend(WORKER_METRICS.iter().map(|metric| metric.family(workers)));
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
        Family::gauge("cilium_policy", "Policies in force").with(&[], counts.policies),
        Family::gauge("podgate_objects_refused", "Objects that can't be enforced as written")
            .with(&[], counts.refused),
        Family::gauge("podgate_epoch", "Generation of the published policy snapshot")
            .with(&[], counts.epoch),
        Family::gauge(
            "podgate_path_mtu_bytes",
            "Least MTU of the node's ways out, 0 for no way out",
        )
        .with(&[], counts.path_mtu),
        Family::gauge("podgate_frames_spare", "Free frames that no worker keeps at hand")
            .with(&[], counts.frames_spare),
        Family::gauge(
            "podgate_problems",
            "Problems of the node or the agent's own files, as in status",
        )
        .with(&[], counts.problems),
        Family::counter("podgate_links_gone_total", "Links that vanished under an endpoint")
            .with(&[], counts.links_gone),
        Family::counter(
            "podgate_clients_refused_total",
            "Requests on the control socket that found no place",
        )
        .with(&[], counts.clients_refused),
        Family::counter(
            "podgate_clients_cut_off_total",
            "Clients of the control socket that were cut off because they didn't read",
        )
        .with(&[], counts.clients_cut_off),
        Family::counter("podgate_flow_records_total", "Flow records taken from the workers")
            .with(&[], counts.flow_records),
        Family::counter("hubble_lost_events_total", "Flow records lost on their way")
            .with(&[("source", "EVENTS_QUEUE")], counts.flow_records_lost),
    ]
}

/// Directions are not told apart: a packet between two local pods leaves one and enters the other.
const DIRECTION: (&str, &str) = ("direction", "UNKNOWN");

fn traffic_families(workers: &[&WorkerStats], frame_drops: &[FrameDrops]) -> [Family; 4] {
    let sum = |tally: &dyn Fn(&WorkerStats) -> &Tally| {
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
        let labels = [("reason", *reason), DIRECTION];
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

/// What happened at the AF_XDP sockets, beyond the reach of a worker's counters.
fn socket_families(ports: &XskStatistics) -> [Family; 5] {
    let family = |name, help, value| Family::counter(name, help).with(&[], value);
    [
        family(
            "podgate_xsk_rx_dropped_total",
            "Packets that the kernel had no frame for, or couldn't deliver",
            ports.rx_dropped,
        ),
        family(
            "podgate_xsk_rx_ring_full_total",
            "Packets that the kernel dropped because a worker lagged",
            ports.rx_ring_full,
        ),
        family(
            "podgate_xsk_fill_ring_empty_total",
            "Times that the kernel found no frame to receive into",
            ports.fill_ring_empty,
        ),
        family(
            "podgate_xsk_rx_invalid_total",
            "Frames to receive into that the kernel refused; zero unless something is broken",
            ports.rx_invalid,
        ),
        family(
            "podgate_xsk_tx_invalid_total",
            "Frames to transmit that the kernel refused; zero unless something is broken",
            ports.tx_invalid,
        ),
    ]
}

/// Who sends more than the node takes: a sample for each link that is served, so as many as
/// endpoints and one. Of what shares refused there are only samples that are not zero.
fn link_families(links: &[LinkCounts]) -> [Family; 5] {
    let family = |name, help, value: fn(&LinkCounts) -> u64| {
        links.iter().fold(Family::counter(name, help), |family, link| {
            family.with(&link_labels(link), value(link))
        })
    };
    let mut refused = Family::counter(
        "podgate_link_share_refused_total",
        "What a link was refused of what all links share, because it had its share",
    );
    for link in links {
        for (of, value) in [
            ("flows", link.refused_flows),
            ("inspected", link.refused_inspected),
            ("kept", link.refused_kept),
            ("handoffs", link.refused_handoffs),
            ("events", link.refused_events),
        ] {
            if value > 0 {
                let [name, pod] = link_labels(link);
                refused = refused.with(&[name, pod, ("of", of)], value);
            }
        }
    }
    [
        family("podgate_link_received_packets_total", "Packets received by link", |link| {
            link.received
        }),
        family(
            "podgate_link_rx_dropped_total",
            "Packets of a link that the kernel had no frame for, or couldn't deliver",
            |link| link.rx_dropped,
        ),
        family(
            "podgate_link_rx_ring_full_total",
            "Packets of a link that the kernel dropped because a worker lagged",
            |link| link.rx_ring_full,
        ),
        family(
            "podgate_link_fill_ring_empty_total",
            "Times that the kernel found no frame to receive into, by link",
            |link| link.fill_ring_empty,
        ),
        refused,
    ]
}

fn link_labels(link: &LinkCounts) -> [(&str, &str); 2] {
    [("link", &link.link), ("pod", link.pod.as_deref().unwrap_or(""))]
}

fn l7_family(workers: &[&WorkerStats]) -> Family {
    let allowed = workers.iter().map(|worker| worker.l7_allowed.get()).sum();
    let denied = workers.iter().map(|worker| worker.l7_denied.get()).sum();
    let outcomes = [("received", allowed + denied), ("forwarded", allowed), ("denied", denied)];
    let family = Family::counter("cilium_policy_l7_total", "HTTP requests judged");
    outcomes.into_iter().fold(family, |family, (rule, value)| {
        family.with(&[("rule", rule), ("proxy_type", "podgate")], value)
    })
}

/// A metric with one sample for each worker.
struct WorkerMetric {
    kind: FamilyKind,
    name: &'static str,
    help: &'static str,
    read: fn(&WorkerStats) -> u64,
}

impl WorkerMetric {
    const fn counter(
        name: &'static str,
        help: &'static str,
        read: fn(&WorkerStats) -> u64,
    ) -> Self {
        Self { kind: FamilyKind::Counter, name, help, read }
    }

    const fn gauge(name: &'static str, help: &'static str, read: fn(&WorkerStats) -> u64) -> Self {
        Self { kind: FamilyKind::Gauge, name, help, read }
    }

    fn family(&self, workers: &[&WorkerStats]) -> Family {
        let family = Family::new(self.kind, self.name, self.help);
        workers.iter().enumerate().fold(family, |family, (index, worker)| {
            family.with(&[("worker", &index.to_string())], (self.read)(worker))
        })
    }
}

const WORKER_METRICS: [WorkerMetric; 18] = [
    WorkerMetric::counter("podgate_worker_received_packets_total", "Packets received", |worker| {
        worker.received.packets.get()
    }),
    WorkerMetric::counter("podgate_worker_originated_packets_total", "Packets built", |worker| {
        worker.originated.packets.get()
    }),
    WorkerMetric::counter(
        "podgate_worker_resets_sent_total",
        "TCP resets in answer to segments of unknown connections",
        |worker| worker.resets_sent.get(),
    ),
    WorkerMetric::counter(
        "podgate_worker_handed_off_total",
        "Packets passed to the worker that owns their flow",
        |worker| worker.handed_off.get(),
    ),
    WorkerMetric::gauge(
        "podgate_worker_fragments_waiting",
        "Fragments that wait for the rest of their datagram",
        |worker| worker.fragments_waiting.get(),
    ),
    WorkerMetric::counter(
        "podgate_worker_fragments_joined_total",
        "Fragments put behind the first of their datagram",
        |worker| worker.fragments_joined.get(),
    ),
    WorkerMetric::counter(
        "podgate_worker_fragments_made_total",
        "Fragments that packets were cut into, beyond one for each packet",
        |worker| worker.fragments_made.get(),
    ),
    WorkerMetric::counter("podgate_worker_flows_opened_total", "Flows opened", |worker| {
        worker.flows_opened.get()
    }),
    WorkerMetric::counter(
        "podgate_worker_flows_evicted_total",
        "Flows ended before their time to make room for others",
        |worker| worker.flows_evicted.get(),
    ),
    WorkerMetric::gauge("podgate_worker_flows", "Flows in the table", |worker| worker.flows.get()),
    WorkerMetric::gauge(
        "podgate_worker_held_frames",
        "Frames of packets that wait for an L7 verdict",
        |worker| worker.held_frames.get(),
    ),
    WorkerMetric::gauge(
        "podgate_worker_kept_bytes",
        "Bytes of memory that inspected flows take for their streams, outside of frames",
        |worker| worker.kept_bytes.get(),
    ),
    WorkerMetric::gauge("podgate_worker_epoch", "Epoch that the worker judges by", |worker| {
        worker.epoch.get()
    }),
    WorkerMetric::counter(
        "podgate_worker_reevaluated_total",
        "Flows judged again after a change of policy",
        |worker| worker.reevaluated.get(),
    ),
    WorkerMetric::counter(
        "podgate_worker_checksums_completed_total",
        "Checksums completed for a sender with checksum offload",
        |worker| worker.checksums_completed.get(),
    ),
    WorkerMetric::counter("podgate_worker_busy_rounds_total", "Rounds with packets", |worker| {
        worker.busy_rounds.get()
    }),
    WorkerMetric::counter("podgate_worker_sleeps_total", "Times gone to sleep", |worker| {
        worker.sleeps.get()
    }),
    WorkerMetric::gauge(
        "podgate_worker_looks_long",
        "1 while it looks for packets for up to 100 µs before it sleeps",
        |worker| worker.looks_long.get(),
    ),
];

/// The families in the Prometheus text format, version 0.0.4.
///
/// prometheus-client writes OpenMetrics, which calls a counter by its name without `_total`:
/// readers of this older format, such as node_exporter's textfile collector, would take every
/// counter for untyped. No label value of ours needs an escape that Rust writes otherwise.
#[must_use]
pub(crate) fn to_text(families: &[Family]) -> String {
    families.iter().map(Family::to_text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_are_counted_over_all_workers_under_ciliums_name() {
        let workers = [WorkerStats::new(), WorkerStats::new()];
        for worker in &workers {
            worker.dropped[DropReason::PolicyDefaultDeny as usize].count(1, 60);
        }
        let text = to_text(&collect(
            &[&workers[0], &workers[1]],
            &XskStatistics::default(),
            &[FrameDrops { reason: "not_ip", packets: 3, bytes: 180 }],
            &AgentCounts::default(),
            &[],
        ));
        let line = "cilium_drop_count_total{direction=\"UNKNOWN\",reason=\"not_ip\"} 3\n";
        assert!(text.contains(line), "{text}");
        let line = "cilium_drop_count_total{direction=\"UNKNOWN\",reason=\"policy_denied\"} 2\n";
        assert!(text.contains(line), "{text}");
        let line = "cilium_drop_bytes_total{direction=\"UNKNOWN\",reason=\"policy_denied\"} 120\n";
        assert!(text.contains(line), "{text}");
    }

    #[test]
    fn the_text_has_one_type_line_for_each_family() {
        let families = collect(
            &[&WorkerStats::new()],
            &XskStatistics { rx_ring_full: 7, ..XskStatistics::default() },
            &[],
            &AgentCounts::default(),
            &[LinkCounts {
                link: "veth1".into(),
                pod: Some("demo/flood".into()),
                refused_inspected: 3,
                ..LinkCounts::default()
            }],
        );
        let count = families.len();
        let text = to_text(&families);
        assert_eq!(text.matches("# TYPE ").count(), count);
        assert!(text.contains("# TYPE podgate_epoch gauge\npodgate_epoch 0\n"), "{text}");
        assert!(text.contains("\npodgate_xsk_rx_ring_full_total 7\n"), "{text}");
        let line = "podgate_link_share_refused_total{link=\"veth1\",of=\"inspected\",\
                    pod=\"demo/flood\"} 3\n";
        assert!(text.contains(line), "{text}");
        assert!(!text.contains("of=\"flows\""), "{text}");
        // Samples are called as the type line says, counters too.
        let counter = "# TYPE podgate_links_gone_total counter\npodgate_links_gone_total 0\n";
        assert!(text.contains(counter), "{text}");
    }
}
