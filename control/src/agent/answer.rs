//! Answers to the clients of the control socket.

mod fqdn;
mod inventory;
mod policy;

use std::collections::BTreeMap;
use std::time::UNIX_EPOCH;

use podgate_api::{
    ApiError, ApiServerStatus, ApiServerWrites, DropCount, EndpointCounts, EndpointState,
    EndpointStatus, FLOWS_LISTED_MAX, Family, LAST_MAX, LinkCounts, Request, Status, WorkerStatus,
};
use podgate_dataplane::stats::{LinkStatistics, WorkerStats};
use podgate_dataplane::worker::{Dataplane, FlowAction};
use podgate_dataplane::xsk::XskStatistics;
use podgate_tables::address::Address;
use podgate_tables::drop_reason::DropReason;
use podgate_tables::ids::Epoch;
use podgate_xdp_redirect::FrameDrops;
use serde::Serialize;
use tokio::time::Instant;

use self::policy::Sides;
use super::Agent;
use super::endpoints::{Endpoint, EndpointRequest};
use super::flow_thread::FlowRange;
use super::host_network::HOST_SLOT;
use super::metrics_server::MetricsServer;
use super::observer::Amount;
use super::server::{Call, Reply, ReplySender};
use crate::atomic_file;
use crate::metrics::{self, AgentCounts, Measured, SourceCounts};

impl Agent {
    /// Carries out a request.
    pub(super) fn answer(&mut self, call: Call) {
        let Call { request, reply } = call;
        let answer = match request {
            Request::PolicyWait { epoch, timeout_s } => {
                return self.wait_for_epoch(Epoch(epoch), timeout_s, reply);
            }
            Request::Flows { follow, last } => {
                let range = if follow { FlowRange::PastAndNew } else { FlowRange::Past };
                return self.flows(range, last, reply);
            }
            Request::Capture(request) => return self.start_capture(&request, reply),
            Request::TableFlowList(selector) => {
                let action = FlowAction::List(FLOWS_LISTED_MAX);
                return self.request_flows(&selector, action, reply);
            }
            Request::TableFlowFlush(selector) => {
                return self.request_flows(&selector, FlowAction::Flush, reply);
            }
            Request::EndpointAdd(spec) => {
                return self.request_endpoint(EndpointRequest::Add(spec, reply));
            }
            Request::EndpointRemove { link } => {
                return self.request_endpoint(EndpointRequest::Remove(link, reply));
            }
            Request::Status {} => to_reply(&self.status()),
            Request::EndpointList {} => to_reply(&self.endpoint_list()),
            Request::EndpointLog { endpoint } => {
                self.endpoint_changes(&endpoint).and_then(|entries| to_reply(&entries))
            }
            Request::PolicyList {} => {
                self.catch_up();
                to_reply(&self.policy_list())
            }
            Request::PolicyGet(filter) => self.policy_details(&filter).and_then(|p| to_reply(&p)),
            Request::PolicySelectors {} => {
                self.catch_up();
                self.selectors().and_then(|list| to_reply(&list))
            }
            Request::TablePolicyGet { endpoint } => {
                self.endpoint_table(&endpoint).and_then(|table| to_reply(&table))
            }
            Request::ServiceList {} => {
                self.catch_up();
                self.services().and_then(|list| to_reply(&list))
            }
            Request::PolicyExplain { query, both_sides } => {
                self.catch_up();
                let sides = if both_sides { Sides::Both } else { Sides::OfThisNode };
                self.explain(&query, sides).and_then(|explained| to_reply(&explained))
            }
            Request::FqdnList { pattern } => {
                self.fqdn_list(pattern.as_deref()).and_then(|list| to_reply(&list))
            }
            Request::FqdnClean { pattern } => {
                self.fqdn_clean(pattern.as_deref()).and_then(|removed| to_reply(&removed))
            }
            Request::IpList { address } => {
                self.catch_up();
                self.ip_list(address).and_then(|list| to_reply(&list))
            }
            Request::IdentityList {} => {
                self.catch_up();
                self.identity_list().and_then(|list| to_reply(&list))
            }
            Request::NodeList {} => to_reply(&self.node_list()),
            Request::Config {} => to_reply(&self.options),
            Request::Metrics {} => self.metrics().map(Reply::Metrics),
        };
        self.reply(reply, answer);
    }

    /// Replies when the kernel has the routes of the last publication, so that what the
    /// answer says is in force. If the client has disconnected, the answer is discarded.
    pub(super) fn reply(&self, to: ReplySender, answer: Result<Reply, ApiError>) {
        self.host.after_routes(move |_| _ = to.send(answer));
    }

    fn flows(&mut self, range: FlowRange, last: u32, reply: ReplySender) {
        // Records include what a client has just seen happen.
        let _busy = self.drain_events(Amount::All);
        self.observer.answer(last.min(LAST_MAX), range, reply);
    }

    pub(super) fn endpoint_list(&self) -> Vec<EndpointStatus> {
        let known = self.endpoints.iter().filter_map(|(link, _)| self.endpoint_status(link));
        known.chain(self.endpoints.unknown().status()).collect()
    }

    fn metrics(&mut self) -> Result<Vec<Family>, ApiError> {
        let now = Instant::now();
        let dataplane = self.endpoints.links().dataplane();
        self.health.take_rule_reports(&mut self.plane, dataplane, now);
        let dataplane = self.dataplane();
        // A stuck worker would delay the answer; that it is stuck is one of the metrics.
        let sockets = match self.health.dead_worker(now) {
            Some(_) => XskStatistics::default(),
            None => dataplane.socket_statistics().map_err(ApiError::failed)?,
        };
        let clock = dataplane.clock();
        let wall_s = |time| {
            let since = clock.wall(time).duration_since(UNIX_EPOCH);
            since.unwrap_or_default().as_secs_f64()
        };
        Ok(metrics::collect(&Measured {
            workers: &self.workers(),
            sockets,
            frame_drops: self.frame_drops(),
            counts: self.agent_counts(),
            links: self.link_counts(),
            rules: self.plane.rule_totals(),
            wall_s: &wall_s,
            flows: self.observer.flow_counts(),
            health: self.health(),
        }))
    }

    pub(super) fn dataplane(&self) -> &Dataplane {
        self.endpoints.links().dataplane()
    }

    pub(super) fn workers(&self) -> Vec<&WorkerStats> {
        self.dataplane().shared().stats.iter().map(|stats| &**stats).collect()
    }

    fn status(&self) -> Status {
        let source = self.plane.source();
        let mut not_ready = Vec::new();
        if !source.synced {
            let why: String = source.problems.iter().map(|why| format!(": {why}")).collect();
            not_ready.push(format!("{} has not been read yet{why}", source.name));
        } else if self.plane.epoch().0 == 0 {
            not_ready.push("policy has not been published yet".to_owned());
        }
        if let Some(reason) = self.host.lost() {
            not_ready.push(format!("pods reach nothing but pods of this node: {reason}"));
        }
        not_ready.extend(self.endpoints.links().detached().map(str::to_owned));
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ready: not_ready.is_empty(),
            not_ready,
            uptime_s: self.started.elapsed().as_secs(),
            epoch: self.plane.epoch().0,
            source,
            policies: self.policies_in_force(),
            rejected: self.plane.store().rejected_objects(),
            api_server: self.api_server(),
            problems: self.problems(),
            endpoints: self.endpoint_counts(),
            workers: self.workers().into_iter().enumerate().map(worker_status).collect(),
            drops: self.drops(),
            links: self.link_counts(),
            flow_records_lost: self.observer.lost(self.endpoints.links()),
            flows_taken_over: self.earlier_flows.outcome().clone(),
            health: self.health(),
        }
    }

    fn api_server(&self) -> Option<ApiServerStatus> {
        let writes = self.plane.cluster()?.writes().map(|counts| ApiServerWrites {
            statuses: counts.statuses,
            events: counts.events,
            retried: counts.retried,
            failed: counts.failed,
            dropped: counts.dropped,
            waiting: counts.waiting,
        });
        Some(ApiServerStatus {
            changes: self.latency.counts().buckets.iter().sum(),
            latency_us: self.latency.recent(),
            writes,
        })
    }

    /// Problems of the node or the agent's own files, one line each.
    fn problems(&self) -> Vec<String> {
        let unknown = self.endpoints.unknown().status();
        let cut_off = unknown.filter_map(|endpoint| {
            Some(format!("link {} is cut off: {}", endpoint.spec.link, endpoint.reason?))
        });
        let files = self.files.problems().chain(self.names.problems());
        let endpoints = cut_off.chain(self.plane.conflicts()).chain(self.endpoints.problems());
        files.chain(endpoints).chain(self.host.problems()).collect()
    }

    pub(super) fn policies_in_force(&self) -> usize {
        self.plane.store().policies_in_force()
    }

    /// Drops of the BPF programs; none if the counters can't be read.
    fn frame_drops(&self) -> Vec<FrameDrops> {
        self.endpoints.links().frame_drops().unwrap_or_else(|error| {
            tracing::warn!("{error}");
            Vec::new()
        })
    }

    fn drops(&self) -> Vec<DropCount> {
        let workers = self.workers();
        let count = |reason: &DropReason| {
            let mut count = DropCount { reason: reason.label().to_owned(), packets: 0, bytes: 0 };
            for worker in &workers {
                let tally = &worker.dropped[*reason as usize];
                count.packets += tally.packets.get();
                count.bytes += tally.bytes.get();
            }
            count
        };
        let by_workers = DropReason::ALL.iter().map(count);
        let by_programs = self.frame_drops().into_iter().map(|drops| DropCount {
            reason: drops.reason.label().to_owned(),
            packets: drops.packets,
            bytes: drops.bytes,
        });
        by_workers.chain(by_programs).filter(|count| count.packets > 0).collect()
    }

    /// Counters of the attached links; none if a worker doesn't answer.
    fn link_counts(&self) -> Vec<LinkCounts> {
        let mut names = BTreeMap::from([(HOST_SLOT, (self.host.xsk_name().to_owned(), None))]);
        for (link, endpoint) in self.endpoints.iter() {
            if let Ok(attached) = &endpoint.link {
                let pod = endpoint.spec.pod.to_string();
                names.insert(attached.slot, (link.clone(), Some(pod)));
            }
        }
        let counts = match self.health.dead_worker(Instant::now()) {
            Some(_) => Vec::new(),
            None => self.dataplane().link_statistics().unwrap_or_default(),
        };
        let named = |counts: LinkStatistics| {
            let (link, pod) = names.get(&counts.link)?.clone();
            Some(link_counts(link, pod, &counts))
        };
        counts.into_iter().filter_map(named).collect()
    }

    fn endpoint_counts(&self) -> EndpointCounts {
        let unknown = self.endpoints.unknown().count();
        let mut counts = EndpointCounts { waiting: unknown, ..EndpointCounts::default() };
        for (link, endpoint) in self.endpoints.iter() {
            match self.endpoint_state(link, endpoint) {
                EndpointState::Ready => counts.ready += 1,
                EndpointState::Waiting => counts.waiting += 1,
                EndpointState::Gone => counts.gone += 1,
            }
        }
        counts
    }

    fn endpoint_state(&self, link: &str, endpoint: &Endpoint) -> EndpointState {
        if endpoint.link.is_err() {
            EndpointState::Gone
        } else if self.why_waiting(link, endpoint).is_some() {
            EndpointState::Waiting
        } else {
            EndpointState::Ready
        }
    }

    fn why_waiting(&self, link: &str, endpoint: &Endpoint) -> Option<&str> {
        let attached = endpoint.link.as_ref().ok();
        let detached = attached.and_then(|at| self.endpoints.links().why_detached(at.link.index));
        if detached.is_some() {
            return detached;
        }
        if self.plane.epoch().0 == 0 {
            return Some("policy has not been published yet");
        }
        self.plane.not_ready(link)
    }

    pub(super) fn endpoint_status(&self, link: &str) -> Option<EndpointStatus> {
        let endpoint = self.endpoints.get(link)?;
        let state = self.endpoint_state(link, endpoint);
        let addresses = endpoint.addresses(self.plane.store()).unwrap_or_default();
        let identity = self
            .plane
            .in_force()
            .filter(|_| state == EndpointState::Ready)
            .zip(addresses.first())
            .map(|(names, address)| names.tables.resolve(Address::from(*address)).identity);
        let reason = match &endpoint.link {
            Err(gone) => Some(gone.as_str()),
            Ok(_) => self.why_waiting(link, endpoint),
        };
        Some(EndpointStatus {
            spec: endpoint.spec.clone().known(),
            state,
            reason: reason.map(str::to_owned),
            addresses: addresses.to_vec(),
            identity: identity.map(|identity| identity.number),
            ingress_enforced: identity.is_some_and(|row| row.ingress.default_deny.is_some()),
            egress_enforced: identity.is_some_and(|row| row.egress.default_deny.is_some()),
        })
    }

    /// Endpoints by the directions that policy is enforced in: none, ingress, egress, both.
    fn enforcement(&self) -> [u64; 4] {
        let mut counts = [0; 4];
        for endpoint in self.endpoint_list() {
            let directions = [endpoint.ingress_enforced, endpoint.egress_enforced];
            counts[usize::from(directions[0]) | usize::from(directions[1]) << 1] += 1;
        }
        counts
    }

    fn agent_counts(&self) -> AgentCounts {
        AgentCounts {
            endpoints: self.endpoint_counts(),
            identities: self.identity_counts(),
            policies: self.policies_in_force() as u64,
            rejected: self.plane.store().rejected_objects() as u64,
            services_left_out: self.plane.services_left_out(),
            epoch: self.plane.epoch().0,
            path_mtu: self.host.path_mtu().unwrap_or(0).into(),
            frames_spare: self.dataplane().umem().shared_free_frames() as u64,
            problems: self.problems().len() as u64,
            links_gone: self.endpoints.links_gone(),
            flow_records: self.observer.records(),
            flow_records_lost: self.observer.lost(self.endpoints.links()),
            clients_rejected: self.files.clients().rejected(),
            clients_disconnected: self.files.clients().disconnected(),
            names: self.names.metrics(),
            source: self.plane.cluster().map(|cluster| SourceCounts {
                latency: self.latency.counts(),
                writes: cluster.writes().unwrap_or_default(),
                unreadable: cluster.unreadable(),
            }),
            enforcement: self.enforcement(),
            started_s: self.started_s,
            failed_writes: atomic_file::failed_writes(),
            scrapes: self.health.metrics().map_or([0; 3], MetricsServer::numbers),
        }
    }
}

/// The reply with this result.
fn to_reply<T: Serialize>(result: &T) -> Result<Reply, ApiError> {
    serde_json::to_value(result).map(Reply::Value).map_err(ApiError::failed)
}

fn link_counts(link: String, pod: Option<String>, counts: &LinkStatistics) -> LinkCounts {
    let LinkStatistics { received, sockets, over_quota: over, .. } = counts;
    LinkCounts {
        link,
        pod,
        received: *received,
        rx_dropped: sockets.rx_dropped,
        rx_ring_full: sockets.rx_ring_full,
        fill_ring_empty: sockets.fill_ring_empty,
        over_quota_flows: over.flows,
        over_quota_inspected: over.inspected,
        over_quota_buffers: over.buffers,
        over_quota_handoffs: over.handoffs,
        over_quota_events: over.events,
        over_quota_services: over.services,
        over_quota_affinity: over.affinity,
        over_quota_dns_answers: over.dns_answers,
    }
}

fn worker_status((worker, stats): (usize, &WorkerStats)) -> WorkerStatus {
    WorkerStatus {
        worker,
        received: stats.received.packets.get(),
        forwarded: stats.forwarded.packets.get(),
        dropped: stats.dropped.iter().map(|tally| tally.packets.get()).sum(),
        flows: stats.flows.get(),
        held_frames: stats.held_frames.get(),
    }
}
