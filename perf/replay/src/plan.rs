//! Which packets of a capture are replayed, and the link on which each one arrives.
//!
//! # The link of a packet
//! The link of the pod that has its source address, else the host link. Workers check a pod's MAC
//! address, which is not in the manifests: it is taken from the pod's first packet. Packets from a
//! pod's address with another MAC came through the kernel in the live run (which translates service
//! addresses), and arrive on the host link. So a replay can't detect that a pod used another pod's
//! address.
//!
//! # Vantage points
//! A packet that podgate forwards passes two interfaces, with different MAC addresses on each; a
//! capture over several interfaces, or one merged from several, has it twice. So for each pair of
//! source and destination address only the packets of one vantage point count: the interface and
//! source MAC of the pair's first packet. That is where packets enter podgate, so it has all
//! packets that podgate drops, and none that podgate itself sends (403 answers, resets). In a
//! capture on one interface these do count, as packets of the server; the replay has denied their
//! connection, too, and drops them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;

use podgate_policy::{Catalog, PodName};
use podgate_tables::address::{Address, Mac};
use podgate_tables::ids::LinkId;
use podgate_tables::route::{AddressTaken, Endpoint, NextHop, RouteTable};
use podgate_tables::time::Nanos;
use serde::{Deserialize, Serialize};

use super::capture::{Capture, Packet};
use super::steer::{Receiver, receiver_of};
use crate::rig::START;

/// Link of all that are not pods.
pub(super) const HOST: LinkId = LinkId(0);

/// Maximum number of pods in one capture: as many as an agent can attach.
const PODS_MAX: usize = 4095;

/// MTU of every link, bytes: captured packets may be as large, because offloads segment them later.
const MTU: u32 = 65_535;

/// Maximum time that a capture spans, about 146 years. Later timestamps come from a damaged file,
/// and count as this.
pub(super) const SPAN_MAX_NS: u64 = u64::MAX / 4;

/// MAC address of podgate's ends of the links. Workers don't check it in received packets.
const LINK_MAC: Mac = [0x02, 0, 0, 0, 0, 1];
/// MAC address of the host, and of pods that send nothing.
const UNKNOWN_MAC: Mac = [0x02, 0, 0, 0, 0, 2];

/// Numbers of skipped packets, by cause.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Skipped {
    /// Truncated.
    pub truncated: u64,
    /// Larger than an IP packet can be.
    pub oversized: u64,
    /// Of an interface whose frames have no Ethernet header.
    #[serde(default)]
    pub other_link_type: u64,
    /// Not IP, or neighbour discovery: frames that no worker gets from the XDP program.
    pub for_kernel: u64,
    /// Of another vantage point than the pair's first packet.
    pub seen_before: u64,
}

/// A packet to replay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Step {
    /// Time on a clock that begins at [`START`].
    pub(super) time: Nanos,
    /// Link on which it arrives.
    pub(super) link: LinkId,
    /// The packet.
    pub(super) packet: Packet,
    /// Whether it is from a local pod and came through the kernel, which marks it in the live run.
    pub(super) hairpin: bool,
}

/// The packets to replay, and the links.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
    pub(super) routes: RouteTable,
    /// Pods that have packets in the capture.
    pub(super) pods: Vec<PodName>,
    /// Number of links, including the host's.
    pub(super) links: u16,
    pub(super) skipped: Skipped,
}

/// Why there is no plan.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PlanError {
    /// More pods than links.
    #[error("the capture has packets of more than {PODS_MAX} pods; split it")]
    TooManyPods,
    /// Impossible: a catalogue has one pod for an address.
    #[error(transparent)]
    AddressTaken(#[from] AddressTaken),
}

/// A pod that has packets in the capture.
#[derive(Default)]
struct Pod {
    addresses: Vec<Address>,
    mac: Option<Mac>,
}

/// Vantage point of a pair's first packet.
type Vantage = (u32, Mac);

struct Planner<'a> {
    catalog: &'a Catalog,
    pods: Vec<Pod>,
    by_name: HashMap<&'a PodName, usize>,
    by_address: HashMap<IpAddr, Option<usize>>,
    seen: HashMap<[IpAddr; 2], Vantage>,
}

impl Plan {
    /// Plans the replay of `capture` among the pods of `catalog`.
    ///
    /// # Errors
    /// When there are too many pods.
    pub(super) fn new(capture: &Capture, catalog: &Catalog) -> Result<Self, PlanError> {
        let mut planner = Planner {
            catalog,
            pods: Vec::new(),
            by_name: HashMap::new(),
            by_address: HashMap::new(),
            seen: HashMap::new(),
        };
        let mut skipped = Skipped {
            truncated: capture.records.truncated,
            oversized: capture.records.oversized,
            other_link_type: capture.records.other_link_types(),
            ..Skipped::default()
        };
        let mut steps = Vec::with_capacity(capture.records.packets.len());
        for packet in &capture.records.packets {
            let frame = capture.frame(packet);
            let mut hairpin = false;
            let link = match receiver_of(frame) {
                Receiver::Kernel => {
                    skipped.for_kernel += 1;
                    continue;
                }
                Receiver::Worker(None) => HOST,
                Receiver::Worker(Some(ends)) => {
                    match planner.link(ends, packet.interface, frame)? {
                        Some(link) => {
                            hairpin = link == HOST && planner.pod(ends[0])?.is_some();
                            link
                        }
                        None => {
                            skipped.seen_before += 1;
                            continue;
                        }
                    }
                }
            };
            let since_start = (packet.time - capture.start()).min(SPAN_MAX_NS);
            let time = Nanos(START.0 + since_start);
            steps.push(Step { time, link, packet: *packet, hairpin });
        }
        let links = planner.pods.len() as u16 + 1;
        let mut pods: Vec<PodName> = planner.by_name.keys().map(|name| (*name).clone()).collect();
        pods.sort_unstable();
        Ok(Self { steps, routes: planner.routes()?, pods, links, skipped })
    }
}

impl<'a> Planner<'a> {
    /// The link of a frame from `ends[0]` to `ends[1]`; `None` if it is of another vantage point
    /// than the pair's first packet.
    fn link(
        &mut self,
        ends: [IpAddr; 2],
        interface: u32,
        frame: &[u8],
    ) -> Result<Option<LinkId>, PlanError> {
        let mut mac = UNKNOWN_MAC;
        mac.copy_from_slice(&frame[6..12]);
        let first = *self.seen.entry(ends).or_insert((interface, mac));
        let [source, _] = [self.pod(ends[0])?, self.pod(ends[1])?];
        if first != (interface, mac) {
            return Ok(None);
        }
        let Some(index) = source else { return Ok(Some(HOST)) };
        let own = *self.pods[index].mac.get_or_insert(mac) == mac;
        Ok(Some(if own { LinkId(index as u16 + 1) } else { HOST }))
    }

    /// The pod that has `address`.
    fn pod(&mut self, address: IpAddr) -> Result<Option<usize>, PlanError> {
        let slot = match self.by_address.entry(address) {
            Entry::Occupied(known) => return Ok(*known.get()),
            Entry::Vacant(slot) => slot,
        };
        let Some(name) = self.catalog.pod_at(address) else { return Ok(*slot.insert(None)) };
        let index = *self.by_name.entry(name).or_insert(self.pods.len());
        if index == PODS_MAX {
            return Err(PlanError::TooManyPods);
        }
        if index == self.pods.len() {
            self.pods.push(Pod::default());
        }
        self.pods[index].addresses.push(address.into());
        Ok(*slot.insert(Some(index)))
    }

    fn routes(self) -> Result<RouteTable, PlanError> {
        let next_hop =
            |link, mac| NextHop { link, mac, link_mac: LINK_MAC, mtu: MTU, path_mtu: MTU };
        let endpoints = self.pods.into_iter().enumerate().map(|(index, pod)| Endpoint {
            next_hop: next_hop(LinkId(index as u16 + 1), pod.mac.unwrap_or(UNKNOWN_MAC)),
            addresses: pod.addresses,
        });
        Ok(RouteTable::new(endpoints, Some(next_hop(HOST, UNKNOWN_MAC)))?)
    }
}
