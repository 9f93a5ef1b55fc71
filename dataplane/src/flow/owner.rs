//! Owners of flows: their queues and counts, and fair sharing of the table between them.
//!
//! The owner of a flow is the link of the pod that opened it. All flows from outside of the node
//! are opened by one link; they are owned by groups of sources instead: an IPv4 address or an IPv6
//! /64 belongs to one of [`SOURCES`] groups, by a keyed hash.
//!
//! # Fair sharing
//! Entries of the table are shared by the rule of [`crate::share`], as are frames and bytes that
//! inspected flows hold: a new flow must evict another flow of its owner once the owner has used up
//! its share.

use podgate_tables::address::Address;
use podgate_tables::ids::LinkId;
use podgate_tables::time::Nanos;
use podgate_tables::tuple::FlowDirection;

use crate::share::Taken;

use super::class::Class;
use super::key::HashKey;
use super::{Flow, Moment};

/// Groups of sources outside of the node. Unrelated sources may share a group.
pub const SOURCES: usize = 256;

/// Owners from this number on are groups of sources; those below are links.
const FIRST_SOURCE: u16 = u16::MAX - SOURCES as u16 + 1;

/// Each class has a queue for plain flows and one for inspected ones.
pub(super) const QUEUES: usize = 2 * Class::ALL.len();

/// End of a queue.
pub(super) const NONE: u32 = u32::MAX;

/// Owner of a flow: the number of a link, or of a group from [`FIRST_SOURCE`] on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Owner(u16);

impl Owner {
    pub(super) const fn pod(link: LinkId) -> Self {
        // No agent has that many links; they would share one owner.
        Self(if link.0 < FIRST_SOURCE { link.0 } else { FIRST_SOURCE - 1 })
    }

    /// A group of sources.
    pub(super) const fn source(group: usize) -> Self {
        Self(FIRST_SOURCE + group as u16)
    }

    /// The group that it is, less than [`SOURCES`].
    const fn source_group(self) -> Option<usize> {
        match self.0.checked_sub(FIRST_SOURCE) {
            Some(group) => Some(group as usize),
            None => None,
        }
    }
}

/// The number of the group that a source outside of the node is in, less than [`SOURCES`].
pub(crate) fn source_group(hash_key: &HashKey, source: Address) -> usize {
    let network = match source.as_v4_bits() {
        Some(bits) => u64::from(bits),
        None => (source.bits() >> 64) as u64,
    };
    (hash_key.hash_words(&[network]) >> 32) as usize % SOURCES
}

/// Opener of a flow, which determines its share of the table, and of what inspected flows hold.
#[derive(Clone, Copy, Debug)]
pub struct Opener {
    pub(super) owner: Owner,
    pub(super) link: LinkId,
}

impl Opener {
    pub(crate) const fn link(self) -> LinkId {
        self.link
    }

    /// The group of sources outside of the node that it belongs to; `None` for a pod.
    pub(crate) const fn source_group(self) -> Option<usize> {
        self.owner.source_group()
    }
}

/// Number of flows, and of the inspected ones among them.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct FlowCount {
    pub(super) all: u32,
    pub(super) inspected: u32,
}

/// Whether a flow is inspected. The number is what it adds to [`FlowCount::inspected`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum FlowKind {
    Plain = 0,
    Inspected = 1,
}

impl FlowKind {
    #[inline]
    const fn of(flow: &Flow) -> Self {
        if flow.inspector().is_some() { Self::Inspected } else { Self::Plain }
    }
}

impl FlowCount {
    const fn add(&mut self, kind: FlowKind) {
        self.all += 1;
        self.inspected += kind as u32;
    }

    const fn sub(&mut self, kind: FlowKind) {
        self.all -= 1;
        self.inspected -= kind as u32;
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Queue {
    pub(super) head: u32,
    pub(super) tail: u32,
    /// When the flow at the head was last checked.
    pub(super) checked_at: Moment,
}

/// Queues and counts of one owner.
#[derive(Debug)]
pub(super) struct OwnerState {
    pub(super) queues: [Queue; QUEUES],
    /// A bit per queue that is not empty.
    pub(super) nonempty: u32,
    count: FlowCount,
    /// Position in [`Owners::active`].
    active_at: u32,
}

const _: () = assert!(QUEUES <= u32::BITS as usize);

impl OwnerState {
    const NEW: Self = Self {
        queues: [Queue { head: NONE, tail: NONE, checked_at: Moment(0) }; QUEUES],
        nonempty: 0,
        count: FlowCount { all: 0, inspected: 0 },
        active_at: 0,
    };

    /// A queue whose head is due for a check.
    pub(super) fn due(&self, now: Nanos) -> Option<usize> {
        let mut rest = self.nonempty;
        while rest != 0 {
            let queue = rest.trailing_zeros() as usize;
            let waited = Moment::from(now).since(self.queues[queue].checked_at);
            if waited >= class_of(queue).check_interval() {
                return Some(queue);
            }
            rest &= rest - 1;
        }
        None
    }
}

/// The queue of its owner that a flow belongs to.
#[inline]
pub(super) fn queue_of(flow: &Flow) -> u8 {
    let inspected = if flow.inspector().is_some() { Class::ALL.len() as u8 } else { 0 };
    Class::of(flow) as u8 + inspected
}

pub(super) const fn class_of(queue: usize) -> Class {
    Class::ALL[queue % Class::ALL.len()]
}

/// Queues and counts of all owners.
#[derive(Debug)]
pub(super) struct Owners {
    /// By the number of the link.
    links: Vec<OwnerState>,
    sources: Vec<OwnerState>,
    /// Flows by the link of their opener.
    opened: Vec<FlowCount>,
    /// Owners that have flows, in no order.
    active: Vec<Owner>,
}

impl Owners {
    pub(super) fn new() -> Self {
        Self {
            links: Vec::new(),
            sources: std::iter::repeat_with(|| OwnerState::NEW).take(SOURCES).collect(),
            opened: Vec::new(),
            active: Vec::with_capacity(2 * SOURCES),
        }
    }

    /// Whether a new flow must evict another one of its owner when `free` entries are free. `of`
    /// selects the count of those entries.
    pub(super) fn must_evict(
        &self,
        opener: &Opener,
        free: usize,
        of: impl Fn(&FlowCount) -> u32,
    ) -> bool {
        let by_link = self.opened.get(opener.link.index()).map_or(0, |count| of(count) as usize);
        let is_source = opener.source_group().is_some();
        let by_group = is_source.then(|| of(&self.get(opener.owner).count) as usize);
        Taken { by_link, by_group }.is_all_of_share(free)
    }

    pub(super) fn get(&self, owner: Owner) -> &OwnerState {
        const EMPTY: &OwnerState = &OwnerState::NEW;
        match owner.source_group() {
            Some(group) => &self.sources[group],
            None => self.links.get(usize::from(owner.0)).unwrap_or(EMPTY),
        }
    }

    /// The owner's state, empty if it never had a flow.
    pub(super) fn get_mut(&mut self, owner: Owner) -> &mut OwnerState {
        let (owned, at) = match owner.source_group() {
            Some(group) => (&mut self.sources, group),
            None => (&mut self.links, usize::from(owner.0)),
        };
        if owned.len() <= at {
            owned.resize_with(at + 1, || OwnerState::NEW);
        }
        &mut owned[at]
    }

    /// Counts a flow that is new or has changed its links.
    pub(super) fn add(&mut self, flow: &Flow) {
        let kind = FlowKind::of(flow);
        of_link(&mut self.opened, flow.link(FlowDirection::Original)).add(kind);
        let position = self.active.len() as u32;
        let owned = self.get_mut(flow.owner);
        owned.count.add(kind);
        if owned.count.all == 1 {
            owned.active_at = position;
            self.active.push(flow.owner);
        }
    }

    /// Uncounts a flow that is removed or is about to change its links.
    pub(super) fn remove(&mut self, flow: &Flow) {
        let kind = FlowKind::of(flow);
        of_link(&mut self.opened, flow.link(FlowDirection::Original)).sub(kind);
        let owned = self.get_mut(flow.owner);
        owned.count.sub(kind);
        if owned.count.all == 0 {
            let position = owned.active_at;
            self.active.swap_remove(position as usize);
            if let Some(moved) = self.active.get(position as usize).copied() {
                self.get_mut(moved).active_at = position;
            }
        }
    }

    /// Number of owners that have flows.
    pub(super) fn active(&self) -> usize {
        self.active.len()
    }

    /// The owner at this position among those that have flows.
    pub(super) fn active_at(&self, position: usize) -> Option<Owner> {
        self.active.get(position).copied()
    }
}

fn of_link(counts: &mut Vec<FlowCount>, link: LinkId) -> &mut FlowCount {
    if counts.len() <= link.index() {
        counts.resize(link.index() + 1, FlowCount::default());
    }
    &mut counts[link.index()]
}

#[cfg(test)]
impl Owners {
    /// Asserts that the counts are those of `flows`.
    pub(super) fn check<'a>(&self, flows: impl Iterator<Item = &'a Flow>) {
        let mut expected = Self::new();
        flows.for_each(|flow| expected.add(flow));
        let nonzero = |counts: &[FlowCount]| {
            let counts = counts.iter().copied().enumerate();
            counts.filter(|(_, count)| *count != FlowCount::default()).collect::<Vec<_>>()
        };
        assert_eq!(nonzero(&self.opened), nonzero(&expected.opened));
        assert_eq!(self.active.len(), expected.active.len());
        for (position, owner) in self.active.iter().enumerate() {
            let owned = self.get(*owner);
            assert_eq!(owned.active_at as usize, position);
            assert_eq!(owned.count, expected.get(*owner).count);
        }
    }
}
