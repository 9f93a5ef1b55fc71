//! A measurement with samples of every metric: the reference of metrics is made from it.

use std::sync::Arc;

use podgate_api::{
    CertificateStatus, EndpointCounts, Health, LinkCounts, MemoryUse, TableFill, ThreadStatus,
};
use podgate_dataplane::stats::WorkerStats;
use podgate_dataplane::worker::{RuleKey, RuleReport, RuleTally, RuleVerdict};
use podgate_dataplane::xsk::XskStatistics;
use podgate_policy::rules::TrafficDirection;
use podgate_policy::{Kind, ObjectKey, RuleOrigin};
use podgate_tables::drop_reason::{DropReason, FrameDropReason};
use podgate_tables::event::{HttpVersion, RequestRecord, ResponseStatus};
use podgate_tables::ids::{Epoch, RuleId};
use podgate_tables::time::Nanos;
use podgate_xdp_redirect::FrameDrops;

use crate::agent::{FlowCounts, RuleTotals};
use crate::metrics::{AgentCounts, Measured, SourceCounts};

fn rules() -> RuleTotals {
    let key =
        ObjectKey { kind: Kind::NetworkPolicy, namespace: Some("shop".into()), name: "web".into() };
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
    let thread =
        |name: &str| ThreadStatus { name: name.into(), alive: true, cpu_ms: 1500, load_percent: 7 };
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
        sockets: XskStatistics { rx_ring_full: 7, ..XskStatistics::default() },
        frame_drops: vec![FrameDrops { reason: FrameDropReason::NotIp, packets: 3, bytes: 180 }],
        counts,
        links,
        rules: &rules(),
        wall_s: &|time| 1000.0 + time.0 as f64 / 1e9,
        flows: flows(),
        health: health(),
    })
}
