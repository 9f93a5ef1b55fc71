//! The state of the agent's parts, for `status` and metrics.
//!
//! Once a second the control thread checks the workers' progress and takes what they counted of
//! policy rules. The kernel's files about this process are read on request.

mod process;

use std::time::Duration;

use podgate_api::{
    CertificateStatus, EndpointNotReady, EndpointState, Health, MemoryUse, RejectedObject,
    ServiceStatus, TableFill, ThreadStatus,
};
use podgate_dataplane::worker::{Dataplane, FLOW_BYTES_PERIOD};
use podgate_policy::Rejection;
use tokio::time::Instant;
use tracing::warn;

use self::process::Threads;
use super::Agent;
use super::metrics_server::MetricsServer;
use super::policy_plane::PolicyPlane;

/// How often the workers' progress is checked.
const PERIOD: Duration = Duration::from_secs(1);

/// A worker without a round for this long is dead: an idle worker has ten rounds a second.
const WORKER_DEAD: Duration = Duration::from_secs(3);

/// Rejected objects that are named.
const REJECTED_MAX: usize = 100;

/// Size of a frame, bytes.
const FRAME: u64 = 4096;

/// What was seen at the last checks.
pub(super) struct HealthWatch {
    due: Instant,
    flow_bytes_due: Instant,
    /// Each worker's round, and when it was first seen.
    rounds: Vec<(u64, Instant)>,
    /// When objects were last known to be up to date.
    current: Instant,
    threads: Threads,
    /// The certificate of Hubble's server, if it has one.
    certificate: Option<CertificateStatus>,
    metrics: Option<MetricsServer>,
}

impl HealthWatch {
    /// Nothing was checked yet.
    pub(super) fn new(
        certificate: Option<CertificateStatus>,
        metrics: Option<MetricsServer>,
    ) -> Self {
        let now = Instant::now();
        Self {
            due: now,
            flow_bytes_due: now,
            rounds: Vec::new(),
            current: now,
            threads: Threads::default(),
            certificate,
            metrics,
        }
    }

    /// Checks what is due.
    pub(super) fn check(&mut self, plane: &mut PolicyPlane, dataplane: &Dataplane, now: Instant) {
        if now < self.due {
            return;
        }
        self.due = now + PERIOD;
        if plane.source().current {
            self.current = now;
        }
        self.rounds.resize(dataplane.rounds().count(), (0, now));
        for (known, round) in self.rounds.iter_mut().zip(dataplane.rounds()) {
            if known.0 != round {
                *known = (round, now);
            }
        }
        if now >= self.flow_bytes_due {
            self.flow_bytes_due = now + FLOW_BYTES_PERIOD;
            dataplane.count_flow_bytes();
        }
        self.take_rule_reports(plane, dataplane, now);
        // Workers that have reported have their names; threads get them once they run.
        self.threads.check();
    }

    /// Takes what the workers counted of rules, unless a worker is stuck: the control thread would
    /// wait for it.
    pub(super) fn take_rule_reports(
        &self,
        plane: &mut PolicyPlane,
        dataplane: &Dataplane,
        now: Instant,
    ) {
        if self.dead_worker(now).is_some() {
            return;
        }
        let totals = plane.rule_totals_mut();
        if let Err(error) = dataplane.rule_reports(|report| totals.add(&report)) {
            warn!("counters of policy rules are late: {error}");
        }
    }

    /// The first worker that makes no progress.
    pub(super) fn dead_worker(&self, now: Instant) -> Option<usize> {
        self.rounds.iter().position(|(_, seen)| now.duration_since(*seen) > WORKER_DEAD)
    }

    fn is_alive(&self, worker: usize, now: Instant) -> bool {
        self.rounds.get(worker).is_none_or(|(_, seen)| now.duration_since(*seen) <= WORKER_DEAD)
    }

    /// The state of the metrics endpoint, with its address.
    fn metrics_service(&self) -> ServiceStatus {
        let detail = match &self.metrics {
            Some(server) => server.counts(),
            None => "off".to_owned(),
        };
        let address = self.metrics.as_ref().map(|server| server.address().to_string());
        ServiceStatus { name: "metrics".into(), address, detail }
    }

    /// The server of metrics, if it is on.
    pub(super) fn metrics(&self) -> Option<&MetricsServer> {
        self.metrics.as_ref()
    }
}

impl Agent {
    /// The state of all parts.
    pub(super) fn health(&self) -> Health {
        let now = Instant::now();
        let watch = &self.health;
        let current = self.plane.source().current;
        Health {
            sync_age_s: if current { 0 } else { now.duration_since(watch.current).as_secs() },
            threads: self.threads(now),
            tables: self.tables(),
            memory: self.memory(),
            certificates: watch
                .certificate
                .iter()
                .cloned()
                .chain(self.plane.certificate())
                .collect(),
            services: vec![self.hubble_service(), watch.metrics_service()],
            rejected: self.rejected_objects(),
            endpoints_not_ready: self.endpoints_not_ready(),
        }
    }

    fn threads(&self, now: Instant) -> Vec<ThreadStatus> {
        let mut threads = self.health.threads.status();
        for thread in &mut threads {
            let worker = thread.name.strip_prefix("pg-worker-").and_then(|n| n.parse().ok());
            thread.alive = worker.is_none_or(|worker| self.health.is_alive(worker, now));
        }
        threads
    }

    /// Bounded tables.
    fn tables(&self) -> Vec<TableFill> {
        let dataplane = self.dataplane();
        let config = &dataplane.shared().config;
        let workers = self.workers();
        let sum = |of: fn(&podgate_dataplane::stats::WorkerStats) -> u64| {
            workers.iter().map(|worker| of(worker)).sum::<u64>()
        };
        let count = workers.len() as u64;
        let (events_used, events_max) =
            dataplane.shared().events.iter().fold((0, 0), |sum, ring| {
                (sum.0 + ring.len() as u64, sum.1 + ring.capacity() as u64)
            });
        let (endpoints, endpoints_max) = self.endpoints.links().slots();
        let frames = u64::from(dataplane.umem().frames());
        let spare = dataplane.umem().shared_free_frames() as u64;
        let flows = sum(|worker| worker.flows.get());
        let inspected = sum(|worker| worker.inspected_flows.get());
        let names = self.names.metrics().table;
        let rows = [
            ("flows", flows, u64::from(config.flows_per_worker) * count),
            ("inspected_flows", inspected, u64::from(config.inspected_per_worker) * count),
            ("endpoints", endpoints as u64, endpoints_max as u64),
            ("frames", frames.saturating_sub(spare), frames),
            ("events", events_used, events_max),
            ("dns_addresses", names.addresses as u64, self.names.addresses_max() as u64),
        ];
        let row = |(name, used, capacity): (&str, u64, u64)| TableFill {
            name: name.to_owned(),
            used,
            capacity,
        };
        rows.into_iter().map(row).collect()
    }

    fn memory(&self) -> MemoryUse {
        MemoryUse {
            resident: process::resident_bytes(),
            frames: u64::from(self.dataplane().umem().frames()) * FRAME,
            rings: self.endpoints.links().ring_bytes(),
            pools: self.endpoints.links().pool_bytes(),
            bpf: process::bpf_bytes(),
        }
    }

    fn hubble_service(&self) -> ServiceStatus {
        let detail = format!(
            "{} flow records, {} lost",
            self.observer.records(),
            self.observer.lost(self.endpoints.links())
        );
        let address = Some(self.peers.own_address().to_owned());
        ServiceStatus { name: "hubble".into(), address, detail }
    }

    /// Rejected objects with their first reason.
    fn rejected_objects(&self) -> Vec<RejectedObject> {
        let mut rejected: Vec<RejectedObject> = Vec::new();
        for rejection in self.plane.store().rejections() {
            let found = rejected_object(rejection);
            if rejected.iter().any(|known| known.object == found.object) {
                continue;
            }
            if rejected.len() == REJECTED_MAX {
                break;
            }
            rejected.push(found);
        }
        rejected
    }

    fn endpoints_not_ready(&self) -> Vec<EndpointNotReady> {
        let list = self.endpoint_list().into_iter();
        let waiting = list.filter(|endpoint| endpoint.state != EndpointState::Ready);
        let not_ready = waiting.map(|endpoint| EndpointNotReady {
            pod: endpoint.spec.pod.as_ref().map(ToString::to_string),
            reason: endpoint.reason.unwrap_or_else(|| endpoint.state.to_string()),
            link: endpoint.spec.link,
        });
        not_ready.collect()
    }
}

/// An object with a reason. An object without kind and name is identified by its file and line.
fn rejected_object(rejection: &Rejection) -> RejectedObject {
    let Rejection { object, source, field, reason, .. } = rejection;
    let object = match source {
        Some(source) if object.is_empty() => source.to_string(),
        _ => object.clone(),
    };
    let place = if field.is_empty() { String::new() } else { format!("{field}: ") };
    RejectedObject { object, reason: place + reason }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use podgate_policy::SourceLocation;

    use super::*;

    #[test]
    fn a_rejection_without_a_field_or_a_name_has_no_empty_part() {
        let line = |object: &str, field: &str| {
            let file = Path::new("em/a.yaml").into();
            rejected_object(&Rejection {
                object: object.to_owned(),
                source: Some(SourceLocation { file, line: 3, column: 1 }),
                field: field.to_owned(),
                reason: "is wrong".to_owned(),
                fix: None,
            })
            .to_string()
        };
        assert_eq!(line("em/a.yaml", ""), "em/a.yaml: is wrong");
        assert_eq!(line("", ""), "em/a.yaml:3: is wrong");
        assert_eq!(line("Pod a/b", "spec"), "Pod a/b: spec: is wrong");
    }
}
