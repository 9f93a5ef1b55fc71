//! Whose flows those in a table are: queues and counts by owner, and the rule that shares places.
//!
//! The owner of a flow is the link of the pod that opened it. All flows from outside of the node
//! come by one link; those are owned by groups of sources instead: an IPv4 address or an IPv6 /64
//! belongs to one of [`SOURCES`] groups, by a hash with a random key.
//!
//! # The rule
//! A pod's new flow needs the place of another one of the pod's as soon as the pod's flows are as
//! many as the free places: one greedy pod leaves half of the table free, two leave a third. All
//! flows from outside together leave as much. Among them, a source needs the place of one of its
//! own once its flows and all from outside together are as many as the free places: one greedy
//! source leaves two thirds free, and however many are greedy, another one gets places, whichever
//! pod it calls. When pods have left less than all from outside hold, a source still gets one in
//! [`SOURCES`] of the free places.

use podgate_tables::ids::LinkId;
use podgate_tables::time::Nanos;
use podgate_tables::tuple::FlowDirection;

use super::class::Class;
use super::{Flow, Moment};

/// Groups of sources outside of the node. Two sources share a group by chance.
pub const SOURCES: usize = 256;

/// Owners from this number on are groups of sources; those below are links.
const FIRST_SOURCE: u16 = u16::MAX - SOURCES as u16 + 1;

/// Each class has a queue for plain flows and one for inspected ones.
pub(super) const QUEUES: usize = 2 * Class::ALL.len();

/// Ends a queue.
pub(super) const NONE: u32 = u32::MAX;

/// Whose flow one is. As a number: a link's, or one from [`FIRST_SOURCE`] on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Owner(u16);

impl Owner {
    pub(super) const fn pod(link: LinkId) -> Self {
        // No agent has that many links; those would share the last one's places.
        Self(if link.0 < FIRST_SOURCE { link.0 } else { FIRST_SOURCE - 1 })
    }

    /// The group of sources that a hash belongs to.
    pub(super) const fn source(hash: u64) -> Self {
        Self(FIRST_SOURCE + (hash >> 32) as u16 % SOURCES as u16)
    }

    const fn is_source(self) -> bool {
        self.0 >= FIRST_SOURCE
    }
}

/// Who opens a flow: what its share of the table depends on.
#[derive(Clone, Copy, Debug)]
pub struct Opener {
    pub(super) owner: Owner,
    pub(super) link: LinkId,
}

/// A number of flows, and of the inspected ones among them.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Count {
    pub(super) all: u32,
    pub(super) inspected: u32,
}

impl Count {
    const fn add(&mut self, inspected: bool) {
        self.all += 1;
        self.inspected += inspected as u32;
    }

    const fn sub(&mut self, inspected: bool) {
        self.all -= 1;
        self.inspected -= inspected as u32;
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Queue {
    pub(super) head: u32,
    pub(super) tail: u32,
    /// When the flow at the head was last looked at.
    pub(super) looked_at: Moment,
}

/// One owner's flows, by class.
#[derive(Debug)]
pub(super) struct Owned {
    pub(super) queues: [Queue; QUEUES],
    /// A bit for each queue that is not empty.
    pub(super) nonempty: u32,
    count: Count,
    /// Where the owner stands in [`Owners::active`].
    active_at: u32,
}

const _: () = assert!(QUEUES <= u32::BITS as usize);

impl Owned {
    const NEW: Self = Self {
        queues: [Queue { head: NONE, tail: NONE, looked_at: Moment(0) }; QUEUES],
        nonempty: 0,
        count: Count { all: 0, inspected: 0 },
        active_at: 0,
    };

    /// A queue whose head it is time to look at.
    pub(super) fn due(&self, now: Nanos) -> Option<usize> {
        let mut rest = self.nonempty;
        while rest != 0 {
            let queue = rest.trailing_zeros() as usize;
            let waited = Moment::from(now).since(self.queues[queue].looked_at);
            if waited >= class_of(queue).look_interval() {
                return Some(queue);
            }
            rest &= rest - 1;
        }
        None
    }
}

/// The queue of its owner's that a flow belongs to.
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
    links: Vec<Owned>,
    sources: Vec<Owned>,
    /// Flows by the number of their opener's link.
    opened: Vec<Count>,
    /// Those who have flows, in no order.
    active: Vec<Owner>,
}

impl Owners {
    pub(super) fn new() -> Self {
        Self {
            links: Vec::new(),
            sources: std::iter::repeat_with(|| Owned::NEW).take(SOURCES).collect(),
            opened: Vec::new(),
            active: Vec::with_capacity(2 * SOURCES),
        }
    }

    /// Whether a new flow needs the place of another one of its owner's when so many places are
    /// `free`, of those that `of` counts.
    pub(super) fn needs_place(
        &self,
        opener: &Opener,
        free: usize,
        of: impl Fn(&Count) -> u32,
    ) -> bool {
        let of_link = self.opened.get(opener.link.index()).map_or(0, |count| of(count) as usize);
        if !opener.owner.is_source() {
            return of_link >= free;
        }
        let own = of(&self.get(opener.owner).count) as usize;
        of_link + own >= free && own >= free / SOURCES
    }

    pub(super) fn get(&self, owner: Owner) -> &Owned {
        const EMPTY: &Owned = &Owned::NEW;
        let Owner(number) = owner;
        match number.checked_sub(FIRST_SOURCE) {
            Some(source) => &self.sources[usize::from(source)],
            None => self.links.get(usize::from(number)).unwrap_or(EMPTY),
        }
    }

    /// The owner's queues; empty ones if it never had a flow.
    pub(super) fn get_mut(&mut self, owner: Owner) -> &mut Owned {
        let Owner(number) = owner;
        let (owned, at) = match number.checked_sub(FIRST_SOURCE) {
            Some(source) => (&mut self.sources, usize::from(source)),
            None => (&mut self.links, usize::from(number)),
        };
        if owned.len() <= at {
            owned.resize_with(at + 1, || Owned::NEW);
        }
        &mut owned[at]
    }

    /// Notes a flow that is new, or has got other links.
    pub(super) fn count(&mut self, flow: &Flow) {
        let inspected = flow.inspector().is_some();
        of_link(&mut self.opened, flow.link(FlowDirection::Original)).add(inspected);
        let place = self.active.len() as u32;
        let owned = self.get_mut(flow.owner);
        owned.count.add(inspected);
        if owned.count.all == 1 {
            owned.active_at = place;
            self.active.push(flow.owner);
        }
    }

    /// Notes that a flow is gone, or is about to get other links.
    pub(super) fn discount(&mut self, flow: &Flow) {
        let inspected = flow.inspector().is_some();
        of_link(&mut self.opened, flow.link(FlowDirection::Original)).sub(inspected);
        let owned = self.get_mut(flow.owner);
        owned.count.sub(inspected);
        if owned.count.all == 0 {
            let place = owned.active_at;
            self.active.swap_remove(place as usize);
            if let Some(moved) = self.active.get(place as usize).copied() {
                self.get_mut(moved).active_at = place;
            }
        }
    }

    /// Number of owners that have flows.
    pub(super) fn active(&self) -> usize {
        self.active.len()
    }

    /// The owner at `place` of those that have flows.
    pub(super) fn active_at(&self, place: usize) -> Option<Owner> {
        self.active.get(place).copied()
    }
}

fn of_link(counts: &mut Vec<Count>, link: LinkId) -> &mut Count {
    if counts.len() <= link.index() {
        counts.resize(link.index() + 1, Count::default());
    }
    &mut counts[link.index()]
}

#[cfg(test)]
impl Owners {
    /// Asserts that counts are those of `flows`.
    pub(super) fn check<'a>(&self, flows: impl Iterator<Item = &'a Flow>) {
        let mut anew = Self::new();
        flows.for_each(|flow| anew.count(flow));
        let nonzero = |counts: &[Count]| {
            let counts = counts.iter().copied().enumerate();
            counts.filter(|(_, count)| *count != Count::default()).collect::<Vec<_>>()
        };
        assert_eq!(nonzero(&self.opened), nonzero(&anew.opened));
        assert_eq!(self.active.len(), anew.active.len());
        for (place, owner) in self.active.iter().enumerate() {
            let owned = self.get(*owner);
            assert_eq!(owned.active_at as usize, place);
            assert_eq!(owned.count, anew.get(*owner).count);
        }
    }
}
