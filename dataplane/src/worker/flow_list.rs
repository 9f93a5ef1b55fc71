//! Lists flows, or removes them: some slots of a worker's flow table between two rounds, so that
//! packets don't wait.

use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use podgate_tables::address::Address;
use podgate_tables::ids::{Epoch, LinkId, RuleId};
use podgate_tables::service::L4Addr;
use podgate_tables::tuple::Tuple;

use crate::flow::{Flow, FlowLinks, tcp};

use super::ctx::PacketCtx;
use super::pipeline::Pipeline;

/// Slots of the flow table that are read between two rounds.
const SLOTS: u32 = 256;

/// Which flows are meant: those that match all of what is set.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FlowFilter {
    /// The link of either end.
    pub link: Option<LinkId>,
    /// An address of either end, or of the service.
    pub address: Option<Address>,
    /// A port of either end, or of the service.
    pub port: Option<u16>,
    /// The protocol's number.
    pub protocol: Option<u8>,
}

/// What happens to the flows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlowAction {
    /// They are listed, at most this many.
    List(usize),
    /// They are removed, as if the agent had started without them. The next packet of a plain one
    /// is decided as that of a flow that is picked up; inspected ones are reset at both ends.
    Flush,
}

/// An entry of a flow table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListedFlow {
    /// The worker that has it.
    pub worker: u16,
    /// In the direction of the opener.
    pub tuple: Tuple,
    /// Links of its ends.
    pub links: FlowLinks,
    /// The service's address and port that the opener sends to, if the flow is translated; of a
    /// translation, the backend's.
    pub target: Option<L4Addr>,
    /// Whether it is the translation of a service's flow.
    pub is_translation: bool,
    /// TCP's state; meaningless for other protocols.
    pub tcp: tcp::State,
    /// Whether its L7 payload is inspected.
    pub inspected: bool,
    /// Whether policy allowed it and no longer does.
    pub revoked: bool,
    /// Epoch of the tables that decided it.
    pub epoch: Epoch,
    /// The rules that allowed its egress and ingress.
    pub rules: [Option<RuleId>; 2],
    /// Time until it expires without packets, milliseconds.
    pub expires_ms: u64,
    /// Packets from the opener and to it.
    pub packets: [u64; 2],
    /// Bytes of IP from the opener and to it.
    pub bytes: [u64; 2],
}

/// A request to all workers about their flows, and what they answered so far.
#[derive(Debug)]
pub struct FlowListing {
    filter: FlowFilter,
    action: FlowAction,
    listed: Mutex<Vec<ListedFlow>>,
    /// Flows that match.
    matched: AtomicU64,
    /// Workers that have not read all of their flows yet.
    waiting: AtomicU16,
}

impl FlowListing {
    pub(super) fn new(filter: FlowFilter, action: FlowAction, workers: u16) -> Self {
        let (listed, matched) = Default::default();
        Self { filter, action, listed, matched, waiting: AtomicU16::new(workers) }
    }

    /// The listed flows, and how many match; `None` until all workers have answered. Flows are
    /// given once.
    #[must_use]
    pub fn take(&self) -> Option<(Vec<ListedFlow>, u64)> {
        if self.waiting.load(Ordering::Acquire) > 0 {
            return None;
        }
        let mut listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        Some((std::mem::take(&mut *listed), self.matched.load(Ordering::Relaxed)))
    }
}

/// One worker's part of a [`FlowListing`].
#[derive(Debug)]
pub(super) struct FlowListScan {
    listing: Arc<FlowListing>,
    /// Of this worker.
    listed: Vec<ListedFlow>,
    /// The first slot that was not read yet.
    next: u32,
}

impl FlowListScan {
    pub(super) fn new(listing: Arc<FlowListing>) -> Self {
        Self { listing, listed: Vec::new(), next: 0 }
    }

    /// Reads some more flows. Returns whether that was all; then the answer is complete.
    pub(super) fn advance(&mut self, pipeline: &mut Pipeline, cx: &mut PacketCtx<'_>) -> bool {
        let FlowListing { filter, action, matched, .. } = &*self.listing;
        let slots = self.next..self.next.saturating_add(SLOTS);
        match *action {
            FlowAction::List(max) => {
                let flows = pipeline.flows.in_slots(slots.start, SLOTS);
                for flow in flows.filter(|flow| !flow.is_expired(cx.now)) {
                    let target = pipeline.targets.of(flow);
                    if !filter.matches(flow, target) {
                        continue;
                    }
                    matched.fetch_add(1, Ordering::Relaxed);
                    if self.listed.len() < max {
                        self.listed.push(listed(pipeline.index, flow, target, cx));
                    }
                }
            }
            FlowAction::Flush => {
                for index in pipeline.flows.indices_in(slots.clone()) {
                    // It may have been removed when another flow ended.
                    let Some(flow) = pipeline.flows.get_if(index) else { continue };
                    if filter.matches(flow, pipeline.targets.of(flow)) {
                        matched.fetch_add(1, Ordering::Relaxed);
                        pipeline.end_flow(cx, index);
                    }
                }
            }
        }
        self.next = slots.end;
        let is_done = self.next >= pipeline.flows.slots();
        if is_done {
            self.answer();
        }
        is_done
    }

    /// Ends without further flows.
    pub(super) fn end(mut self) {
        self.answer();
    }

    fn answer(&mut self) {
        let all = &self.listing.listed;
        all.lock().unwrap_or_else(PoisonError::into_inner).append(&mut self.listed);
        self.listing.waiting.fetch_sub(1, Ordering::Release);
    }
}

impl FlowFilter {
    fn matches(&self, flow: &Flow, target: Option<L4Addr>) -> bool {
        let tuple = flow.tuple();
        let addresses = [Some(tuple.src), Some(tuple.dst), target.map(|target| target.address)];
        let ports = [Some(tuple.src_port), Some(tuple.dst_port), target.map(|target| target.port)];
        let FlowLinks { opener, responder } = flow.links();
        self.link.is_none_or(|link| link == opener || link == responder)
            && self.address.is_none_or(|address| addresses.contains(&Some(address)))
            && self.port.is_none_or(|port| ports.contains(&Some(port)))
            && self.protocol.is_none_or(|protocol| protocol == tuple.protocol)
    }
}

fn listed(worker: u16, flow: &Flow, target: Option<L4Addr>, cx: &PacketCtx<'_>) -> ListedFlow {
    ListedFlow {
        worker,
        tuple: flow.tuple(),
        links: flow.links(),
        target,
        is_translation: flow.is_translation(),
        tcp: flow.tcp(),
        inspected: flow.inspector().is_some(),
        revoked: flow.revoked(),
        epoch: flow.epoch().nearest_to(cx.snapshot.epoch),
        rules: flow.rules(),
        expires_ms: flow.expires_ms(cx.now),
        packets: flow.packets(),
        bytes: flow.bytes(),
    }
}
