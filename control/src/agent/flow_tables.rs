//! `podgate table flow`: what is in the workers' flow tables. Workers answer between two rounds, so
//! the client's answer waits.

use std::sync::Arc;

use podgate_api::{ApiError, FLOWS_LISTED_MAX, FlowEnd, FlowEntry, FlowList, FlowSelector};
use podgate_dataplane::flow::tcp::State;
use podgate_dataplane::worker::{FlowAction, FlowFilter, FlowListing, ListedFlow};
use podgate_policy::observe::rule_name;
use podgate_tables::address::Address;
use podgate_tables::ids::RuleId;
use podgate_tables::proto;
use podgate_tables::service::L4Addr;
use serde_json::json;
use tracing::info;

use super::Agent;
use super::server::{Reply, ReplySender};

/// Requests that wait, at most.
const WAITING_MAX: usize = 16;

/// Clients whose answer waits for the workers.
#[derive(Default)]
pub(super) struct FlowListings {
    waiting: Vec<PendingListing>,
}

impl FlowListings {
    /// Whether a client waits.
    pub(super) fn are_waited_for(&self) -> bool {
        !self.waiting.is_empty()
    }
}

struct PendingListing {
    listing: Arc<FlowListing>,
    action: FlowAction,
    reply: ReplySender,
}

impl Agent {
    /// Has the workers list or remove flows.
    pub(super) fn request_flows(
        &mut self,
        selector: &FlowSelector,
        action: FlowAction,
        reply: ReplySender,
    ) {
        // Clients that disconnected are dropped.
        self.flow_listings.waiting.retain(|waiting| !waiting.reply.is_closed());
        let begun = match self.flow_listings.waiting.len() < WAITING_MAX {
            true => self.begin_listing(selector, action),
            false => Err(ApiError::failed("too many clients wait for flows; try again")),
        };
        match begun {
            Ok(listing) => {
                self.flow_listings.waiting.push(PendingListing { listing, action, reply });
                self.answer_flow_listings();
            }
            Err(error) => self.reply(reply, Err(error)),
        }
    }

    fn begin_listing(
        &self,
        selector: &FlowSelector,
        action: FlowAction,
    ) -> Result<Arc<FlowListing>, ApiError> {
        let link = selector.endpoint.as_ref().map(|named| {
            let (_, endpoint) = self
                .endpoints
                .iter()
                .find(|(link, endpoint)| *link == named || endpoint.spec.pod.to_string() == *named)
                .ok_or_else(|| {
                    let what = "is neither the pod nor the link of an endpoint";
                    ApiError::failed(format!("{named} {what}"))
                })?;
            let attached = endpoint.link.as_ref();
            attached.map(|link| link.slot).map_err(|why| ApiError::failed(why.clone()))
        });
        let filter = FlowFilter {
            link: link.transpose()?,
            address: selector.address.map(Address::from),
            port: selector.port,
            protocol: selector.protocol,
        };
        self.dataplane().list_flows(filter, action).map_err(ApiError::failed)
    }

    /// Answers the clients whose flows are known.
    pub(super) fn answer_flow_listings(&mut self) {
        let waiting = std::mem::take(&mut self.flow_listings.waiting);
        for PendingListing { listing, action, reply } in waiting {
            match listing.take() {
                None => self.flow_listings.waiting.push(PendingListing { listing, action, reply }),
                Some((_, removed)) if action == FlowAction::Flush => {
                    info!("{removed} entries of the flow tables were removed for a client");
                    self.reply(reply, Ok(Reply::Value(json!(removed))));
                }
                Some((listed, matched)) => {
                    let mut flows: Vec<_> = listed.iter().map(|flow| self.entry(flow)).collect();
                    flows.truncate(FLOWS_LISTED_MAX);
                    let table = FlowList { flows, matched };
                    self.reply(reply, Ok(Reply::Value(json!(table))));
                }
            }
        }
    }

    fn entry(&self, flow: &ListedFlow) -> FlowEntry {
        let tables = self.plane.epochs().get(flow.epoch);
        let has_ports = matches!(flow.tuple.protocol, proto::TCP | proto::UDP | proto::SCTP);
        let end = |address: Address, port: u16| FlowEnd {
            address: address.ip(),
            port: has_ports.then_some(port),
            pod: tables
                .and_then(|tables| tables.catalog.pod_at(address.ip()))
                .map(ToString::to_string),
        };
        let rule = |rule: Option<RuleId>| Some(rule_name(rule?, tables?));
        let target = flow.target.map(|L4Addr { address, port }| match address.ip() {
            std::net::IpAddr::V4(address) => format!("{address}:{port}"),
            std::net::IpAddr::V6(address) => format!("[{address}]:{port}"),
        });
        let verdict = match () {
            () if flow.is_translation => None,
            () if flow.revoked => Some("revoked"),
            () if flow.inspected => Some("inspected"),
            () => Some("allowed"),
        };
        FlowEntry {
            worker: flow.worker,
            protocol: proto::name(flow.tuple.protocol).into_owned(),
            source: end(flow.tuple.src, flow.tuple.src_port),
            destination: end(flow.tuple.dst, flow.tuple.dst_port),
            service: target.clone().filter(|_| !flow.is_translation),
            backend: target.filter(|_| flow.is_translation),
            state: (flow.tuple.protocol == proto::TCP).then(|| state(flow.tcp).to_owned()),
            verdict: verdict.map(str::to_owned),
            egress: rule(flow.rules[0]),
            ingress: rule(flow.rules[1]),
            epoch: flow.epoch.0,
            expires_s: flow.expires_ms / 1000,
            packets: flow.packets,
            bytes: flow.bytes,
        }
    }
}

/// The state of a connection, as conntrack writes it.
const fn state(state: State) -> &'static str {
    match state {
        State::SynSent => "SYN_SENT",
        State::SynReceived => "SYN_RECV",
        State::Established => "ESTABLISHED",
        State::HalfClosed(_) => "FIN_WAIT",
        State::TimeWait => "TIME_WAIT",
        State::Reset(_) | State::Closed => "CLOSE",
    }
}
