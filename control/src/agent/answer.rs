//! Answers to the clients of the control socket.

mod policy;

use std::collections::BTreeMap;

use podgate_dataplane::drop_reason::DropReason;
use podgate_dataplane::stats::{LinkStatistics, WorkerStats};
use podgate_dataplane::types::{Address, Epoch};
use podgate_policy::PolicyState as StoreState;
use podgate_xdp_redirect::FrameDrops;
use serde_json::{Value, json};

use super::Agent;
use super::endpoint::Endpoint;
use super::links::HOST_SLOT;
use super::server::{Call, Reply};
use crate::error::describe;
use crate::metrics::{self, AgentCounts};
use crate::protocol::{
    DropCount, EndpointCounts, EndpointSpec, EndpointState, EndpointStatus, LAST_MAX, LinkCounts,
    Refused, Request, Status, WorkerStatus,
};

impl Agent {
    /// Carries out a request. A client that left meanwhile misses the answer only.
    pub(super) async fn answer(&mut self, call: Call) {
        let Call { request, reply } = call;
        let answer = match request {
            Request::PolicyWait { revision, timeout_s } => {
                return self.wait_for_revision(Epoch(revision), timeout_s, reply);
            }
            Request::Status {} => Ok(Reply::Value(json!(self.status()))),
            Request::EndpointAdd(spec) => {
                let link = spec.link.clone();
                let added = self.add_endpoint(spec).await;
                if added.is_ok() {
                    self.save();
                }
                // The answer says what is in force.
                self.publish().await;
                added
                    .map(|()| Reply::Value(json!(self.endpoint_status(&link))))
                    .map_err(|error| failed(&error))
            }
            Request::EndpointRemove { link } => self
                .remove_endpoint(&link)
                .await
                .map(|()| Reply::Value(Value::Null))
                .map_err(|error| failed(&error)),
            Request::EndpointList {} => {
                let known = self.endpoints.keys().filter_map(|link| self.endpoint_status(link));
                let unknown = self.unknown.keys().filter_map(|link| self.unknown_pod_status(link));
                let list: Vec<_> = known.chain(unknown).collect();
                Ok(Reply::Value(json!(list)))
            }
            Request::PolicyList {} => {
                self.catch_up().await;
                Ok(Reply::Value(json!(self.policy_list())))
            }
            Request::PolicyGet(filter) => {
                self.policy_details(&filter).map(|policies| Reply::Value(json!(policies)))
            }
            Request::PolicySelectors {} => {
                self.catch_up().await;
                self.selectors().map(|list| Reply::Value(json!(list)))
            }
            Request::TablePolicyGet { endpoint } => {
                self.endpoint_table(&endpoint).map(|table| Reply::Value(json!(table)))
            }
            Request::PolicyExplain { query, both_sides } => {
                self.catch_up().await;
                self.explain(&query, both_sides).map(|explained| Reply::Value(json!(explained)))
            }
            Request::Flows { follow, last } => {
                // So that what a client has just seen happen is among the records.
                self.drain_events();
                let past = self.last_flows(last.min(LAST_MAX));
                let live = follow.then(|| self.flow_log.follow());
                Ok(Reply::Flows { past, live })
            }
            Request::Metrics {} => match self.links.dataplane().port_statistics() {
                Ok(ports) => {
                    let (workers, links) = (self.workers(), self.link_counts());
                    let families = metrics::collect(
                        &workers,
                        &ports,
                        &self.frame_drops(),
                        &self.agent_counts(),
                        &links,
                    );
                    Ok(Reply::Value(json!(families)))
                }
                Err(error) => Err(Refused::failed(error)),
            },
        };
        let _ = reply.send(answer);
    }

    fn workers(&self) -> Vec<&WorkerStats> {
        self.links.dataplane().shared().stats.iter().map(|stats| &**stats).collect()
    }

    fn status(&self) -> Status {
        let source = self.source.status();
        let mut not_ready = Vec::new();
        if !source.synced {
            let why: String = source.problems.iter().map(|why| format!(": {why}")).collect();
            not_ready.push(format!("{} has not been read yet{why}", source.name));
        } else if self.publisher.epoch().0 == 0 {
            not_ready.push("policy has not been published yet".to_owned());
        }
        if let Some(reason) = &self.host_lost {
            not_ready.push(format!("pods reach nothing but pods of this node: {reason}"));
        }
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ready: not_ready.is_empty(),
            not_ready,
            uptime_s: self.started.elapsed().as_secs(),
            epoch: self.publisher.epoch().0,
            source,
            policies: self.policies_in_force(),
            refused: self.store.rejected_objects(),
            problems: self.problems(),
            endpoints: self.endpoint_counts(),
            workers: self.workers().into_iter().enumerate().map(worker_status).collect(),
            drops: self.drops(),
            links: self.link_counts(),
            flow_records_lost: self.flow_records_lost(),
            flows_taken_over: self.earlier_flows.outcome.clone(),
        }
    }

    /// What is wrong with the node or the agent's own files, one line each.
    fn problems(&self) -> Vec<String> {
        let unknown = self.unknown.keys().filter_map(|link| self.unknown_pod_status(link));
        let cut_off = unknown.filter_map(|endpoint| {
            Some(format!("link {} is cut off: {}", endpoint.link, endpoint.reason?))
        });
        self.upkeep.problems().chain(cut_off).chain(self.tunnels.problems()).collect()
    }

    fn policies_in_force(&self) -> usize {
        self.store.policies().filter(|policy| policy.state != StoreState::Rejected).count()
    }

    /// Events of which there is no record.
    pub(super) fn flow_records_lost(&self) -> u64 {
        let lost: u64 = self.workers().iter().map(|worker| worker.events_lost.get()).sum();
        lost + self.counts.flow_records_skipped
    }

    /// What the BPF programs dropped; nothing if the kernel doesn't tell.
    fn frame_drops(&self) -> Vec<FrameDrops> {
        self.links.frame_drops().unwrap_or_else(|error| {
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
            reason: drops.reason.to_owned(),
            packets: drops.packets,
            bytes: drops.bytes,
        });
        by_workers.chain(by_programs).filter(|count| count.packets > 0).collect()
    }

    /// What each link that is served counted; nothing if a worker doesn't answer.
    fn link_counts(&self) -> Vec<LinkCounts> {
        let mut names = BTreeMap::from([(HOST_SLOT, (self.host.xsk.name.clone(), None))]);
        for (link, endpoint) in &self.endpoints {
            if let Ok(attached) = &endpoint.link {
                let pod = endpoint.spec.pod.to_string();
                names.insert(attached.slot, (link.clone(), Some(pod)));
            }
        }
        let counts = self.links.dataplane().link_statistics().unwrap_or_default();
        let named = |counts: LinkStatistics| {
            let (link, pod) = names.get(&counts.link)?.clone();
            Some(link_counts(link, pod, &counts))
        };
        counts.into_iter().filter_map(named).collect()
    }

    fn endpoint_counts(&self) -> EndpointCounts {
        let unknown = self.unknown.len();
        let mut counts = EndpointCounts { waiting: unknown, ..EndpointCounts::default() };
        for (link, endpoint) in &self.endpoints {
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
        } else if self.why_waiting(link).is_some() {
            EndpointState::Waiting
        } else {
            EndpointState::Ready
        }
    }

    fn why_waiting(&self, link: &str) -> Option<&str> {
        if self.publisher.epoch().0 == 0 {
            return Some("policy has not been published yet");
        }
        self.publisher.not_ready(link)
    }

    fn endpoint_status(&self, link: &str) -> Option<EndpointStatus> {
        let endpoint = self.endpoints.get(link)?;
        let state = self.endpoint_state(link, endpoint);
        let addresses = endpoint.addresses(&self.store).unwrap_or_default();
        let identity = self
            .names
            .last()
            .filter(|_| state == EndpointState::Ready)
            .zip(addresses.first())
            .map(|(names, address)| names.tables.resolve(Address::from(*address)).identity);
        let reason = match &endpoint.link {
            Err(gone) => Some(gone.as_str()),
            Ok(_) => self.why_waiting(link),
        };
        let EndpointSpec { link, pod, netns, mac, mtu } = endpoint.spec.clone();
        Some(EndpointStatus {
            link,
            pod: Some(pod),
            netns,
            mac,
            mtu,
            state,
            reason: reason.map(str::to_owned),
            addresses: addresses.to_vec(),
            identity: identity.map(|identity| identity.number),
            ingress_enforced: identity.is_some_and(|row| row.ingress.default_deny.is_some()),
            egress_enforced: identity.is_some_and(|row| row.egress.default_deny.is_some()),
        })
    }

    fn agent_counts(&self) -> AgentCounts {
        AgentCounts {
            endpoints: self.endpoint_counts(),
            policies: self.policies_in_force() as u64,
            refused: self.store.rejected_objects() as u64,
            epoch: self.publisher.epoch().0.into(),
            path_mtu: self.path_mtu.unwrap_or(0).into(),
            frames_spare: self.links.dataplane().umem().spare_frames() as u64,
            problems: self.problems().len() as u64,
            links_gone: self.counts.links_gone,
            flow_records: self.counts.flow_records,
            flow_records_lost: self.flow_records_lost(),
            clients_refused: self.counts.clients.refused(),
            clients_cut_off: self.counts.clients.cut_off(),
        }
    }
}

fn failed(error: &anyhow::Error) -> Refused {
    Refused::failed(describe(error.as_ref()))
}

fn link_counts(link: String, pod: Option<String>, counts: &LinkStatistics) -> LinkCounts {
    let LinkStatistics { received, sockets, refused, .. } = counts;
    LinkCounts {
        link,
        pod,
        received: *received,
        rx_dropped: sockets.rx_dropped,
        rx_ring_full: sockets.rx_ring_full,
        fill_ring_empty: sockets.fill_ring_empty,
        refused_flows: refused.flows,
        refused_inspected: refused.inspected,
        refused_kept: refused.kept,
        refused_handoffs: refused.handoffs,
        refused_events: refused.events,
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
