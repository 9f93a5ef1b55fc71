//! The flow table: a slab of flows, an index by tuple, and queues that expiry and eviction walk.
//!
//! All memory is reserved at creation. The work of each call is bounded, whatever the table holds.
//!
//! # Expiry
//! Each owner ([`super::owner`]) has a queue for each class: the flows that share a timeout, in the
//! order in which they were last looked at. Packets don't touch the queues; only a change of class
//! moves a flow. A sweep visits the owners that have flows in turn. It looks at a queue's head when
//! a quarter of the timeout has passed since the last look, and either reports it or moves it to
//! the end. So a flow is gone at most a quarter of its timeout and one turn late, and a sweep reads
//! only flows that are due.
//!
//! # Eviction
//! A table refuses a new flow whose owner has its share ([`FlowTable::needs_place`]), unless
//! [`FlowTable::victim`] names another one of the same owner's that may yield. Nobody's flows are
//! ever evicted for somebody else's. In this order:
//! 1. one that has expired and wasn't swept yet;
//! 2. TCP that was reset, is in time-wait, or is half-open;
//! 3. UDP that was never answered, and ICMP;
//! 4. half-closed TCP, answered UDP and other protocols, once they were silent for ten seconds;
//! 5. inspected flows, by the same order;
//! 6. inspected connections whose client has not sent a whole request yet, once they were silent
//!    for two seconds.
//!
//! Any other established connection is never a victim.

use std::ops::Range;

use podgate_tables::address::Address;
use podgate_tables::drop_reason::DropReason;
use podgate_tables::ids::LinkId;
use podgate_tables::time::Nanos;
use podgate_tables::tuple::{FlowDirection, Tuple};

use super::class::Class;
use super::index::Index;
use super::name::{Key, Name, NameV4};
use super::owner::{NONE, Opener, Owner, Owners, QUEUES, class_of, queue_of};
use super::{Flow, Moment, tcp};
use crate::packet::View;
use crate::xsk::{prefer_huge_pages, prefetch};

/// Where a flow lies in its table. Valid until the flow is removed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FlowIx(u32);

/// What the flow of a packet is searched by, together with those of other packets.
#[derive(Clone, Copy, Debug)]
pub struct Sought {
    name: NameV4,
    /// The name's hash. This and the next are [`FlowTable::seek`]'s.
    hash: u64,
    /// The slot that the flow is in if it is in the table, [`NONE`] if it can't be.
    slot: u32,
    /// Whether the packet's source is the end that comes second.
    swapped: bool,
}

impl Default for Sought {
    /// What no flow is found by.
    fn default() -> Self {
        Self { name: NameV4::NOBODYS, hash: 0, slot: NONE, swapped: false }
    }
}

impl Sought {
    /// What the flow is found by of a packet over IPv4, once [`FlowTable::seek`] has seen it.
    /// Addresses and ports are as they lie in the packet, those of the source first, little-endian.
    #[inline]
    pub const fn be_v4(&mut self, addresses: u64, ports: u32, protocol: u8) {
        (self.name, self.swapped) = NameV4::of(addresses, ports, protocol);
    }

    /// Whether the packet has a name, and surely had no flow when [`FlowTable::seek`] looked.
    #[inline]
    pub(crate) fn is_new(&self) -> bool {
        self.slot == NONE && self.name != NameV4::NOBODYS
    }

    /// What policy looks at in the packet if it opens a flow: addresses as they lie in it,
    /// little-endian, destination port, protocol.
    #[inline]
    pub(crate) fn opening(&self) -> (u64, u16, u8) {
        self.name.opening(self.swapped)
    }

    /// What no flow is found by.
    #[inline]
    pub fn be_nothing(&mut self) {
        self.name = NameV4::NOBODYS;
    }
}

/// Flows that [`FlowTable::victim`] looks at in a queue, at most.
const VICTIM_LOOKS: usize = 4;

#[derive(Debug)]
#[repr(C)]
struct Slot {
    prev: u32,
    /// Next flow in the queue, or next free slot.
    next: u32,
    /// `None` for a free slot.
    flow: Option<Flow>,
}

// With two places of the index it makes 120 bytes for a flow.
const _: () = assert!(size_of::<Slot>() == 112);

impl Slot {
    /// Brings into the cache what usual packets need of the flow ([`Flow`]), the beginning of it
    /// and the end.
    #[inline]
    fn touch(&self) -> u32 {
        self.flow.as_ref().map_or(0, |flow| flow.name.touch() ^ u32::from(flow.opener_second))
    }

    /// Asks for all of its lines, and doesn't wait ([`prefetch`]).
    #[inline]
    fn prefetch(&self) {
        const LINE: usize = 64;
        let start: *const Self = self;
        prefetch(start);
        prefetch(start.wrapping_byte_add(LINE));
        prefetch(start.wrapping_byte_add(size_of::<Self>() - 1));
    }
}

/// A worker's flows.
#[derive(Debug)]
pub struct FlowTable {
    key: Key,
    /// Slot numbers by tuple.
    index: Index,
    slots: Vec<Slot>,
    capacity: usize,
    free: u32,
    owners: Owners,
    /// The link to everything outside of the node, whose flows are owned by their sources.
    outside: Option<LinkId>,
    /// The owner that the sweep visits next, among those that have flows.
    sweep: usize,
}

impl FlowTable {
    /// An empty table with room for `capacity` flows.
    #[must_use]
    pub fn new(capacity: u32) -> Self {
        let mut slots = Vec::with_capacity(capacity as usize);
        prefer_huge_pages(slots.spare_capacity_mut());
        Self {
            key: Key::random(),
            index: Index::new(capacity),
            slots,
            capacity: capacity as usize,
            free: NONE,
            owners: Owners::new(),
            outside: None,
            sweep: 0,
        }
    }

    /// Number of flows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there are no flows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether there is no place left.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.len() >= self.capacity
    }

    /// Sets the link to everything outside of the node. From then on flows that come by it are
    /// owned by their sources; those that are in the table keep their owner.
    pub const fn set_outside(&mut self, link: Option<LinkId>) {
        self.outside = link;
    }

    /// Who opens a flow that comes by `link` from `src`.
    #[must_use]
    pub fn opener(&self, link: LinkId, src: Address) -> Opener {
        let owner = if self.outside == Some(link) {
            let network = match src.as_v4_bits() {
                Some(bits) => u64::from(bits),
                None => (src.bits() >> 64) as u64,
            };
            Owner::source(self.key.hash_words(&[network]))
        } else {
            Owner::pod(link)
        };
        Opener { owner, link }
    }

    /// Whether a new flow of `opener` needs the place of another one of the same owner's.
    #[must_use]
    pub fn needs_place(&self, opener: &Opener) -> bool {
        let free = self.capacity.saturating_sub(self.len());
        self.owners.needs_place(opener, free, |count| count.all)
    }

    /// The same for an inspected flow, when `free` more may be inspected.
    #[must_use]
    pub fn needs_inspected_place(&self, opener: &Opener, free: usize) -> bool {
        self.owners.needs_place(opener, free, |count| count.inspected)
    }

    /// The flow that a packet with this tuple belongs to, and the packet's direction in it.
    #[must_use]
    #[inline]
    pub fn find(&self, tuple: &Tuple) -> Option<(FlowIx, FlowDirection)> {
        let (name, swapped) = Name::of(tuple);
        let belongs = |at| flow_at(&self.slots, at).name == name;
        let index = FlowIx(self.index.find(self.key.hash(&name), belongs)?);
        Some((index, self.get(index).direction(swapped)))
    }

    /// Does what can be done for a batch together before [`Self::find_sought`]: the hashes, and the
    /// waits for memory, of which a search in a large table has two. False if for some there is
    /// surely no flow.
    pub fn seek(&self, sought: &mut [Sought]) -> bool {
        for sought in &mut *sought {
            sought.hash = self.key.hash_v4(&sought.name);
        }
        // Loops so short that the processor is many turns ahead with their loads.
        let entries = sought.iter().fold(0, |sum, sought| sum ^ self.index.touch(sought.hash));
        for sought in &mut *sought {
            sought.slot = self.index.candidate(sought.hash).unwrap_or(NONE);
        }
        let found = sought.iter().filter_map(|sought| self.slots.get(sought.slot as usize));
        let (flows, count) =
            found.fold((0, 0), |(sum, count), slot| (sum ^ slot.touch(), count + 1));
        std::hint::black_box((entries, flows));
        count == sought.len()
    }

    /// The flow of a packet that [`Self::seek`] has seen, and the packet's direction in it. `None`
    /// if there was no such flow then, or if another one is where it was, or seemed to be, which
    /// [`Self::find_again`] can tell.
    #[must_use]
    #[inline]
    pub fn find_sought(&mut self, sought: &Sought) -> Option<(&mut Flow, FlowDirection)> {
        let flow = self.slots.get_mut(sought.slot as usize)?.flow.as_mut()?;
        let direction = flow.direction(sought.swapped);
        (flow.name == sought.name).then_some((flow, direction))
    }

    /// The same for a flow that was taken for another one, or that has moved since. `None` if it is
    /// not there, and also if [`Self::seek`] had found none at all.
    #[cold]
    pub fn find_again(&mut self, sought: &Sought) -> Option<(&mut Flow, FlowDirection)> {
        // All but seldom there is no flow that could be it.
        if sought.slot == NONE {
            return None;
        }
        let is = |at| flow_at(&self.slots, at).name == sought.name;
        let slot = self.index.find(sought.hash, is)?;
        self.find_sought(&Sought { slot, ..*sought })
    }

    /// The flow at `index`.
    ///
    /// # Panics
    /// When the flow was removed: whoever keeps an index must drop it with the flow.
    #[must_use]
    #[inline]
    pub fn get(&self, index: FlowIx) -> &Flow {
        flow_at(&self.slots, index.0)
    }

    /// Sets the links of a flow's opener and of its other end, and so whose flow it is.
    ///
    /// # Panics
    /// As [`Self::get`].
    pub fn set_links(&mut self, index: FlowIx, links: [LinkId; 2]) {
        let FlowIx(at) = index;
        let flow = flow_at(&self.slots, at);
        if [FlowDirection::Original, FlowDirection::Reply].map(|of| flow.link(of)) == links {
            return;
        }
        let owner = self.opener(links[0], flow.tuple().src).owner;
        self.owners.discount(flow);
        let looked_at = flow.looked_at;
        self.unlink(at);
        let flow = flow_at_mut(&mut self.slots, at);
        flow.set_links(links);
        flow.owner = owner;
        self.owners.count(flow_at(&self.slots, at));
        self.enqueue(at, looked_at);
    }

    /// The flow at `index`, to change what policy says of it.
    ///
    /// # Panics
    /// As [`Self::get`].
    #[inline]
    pub fn get_mut(&mut self, index: FlowIx) -> &mut Flow {
        flow_at_mut(&mut self.slots, index.0)
    }

    /// All flows, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (FlowIx, &Flow)> {
        let numbered = (0..).map(FlowIx).zip(&self.slots);
        numbered.filter_map(|(index, slot)| Some((index, slot.flow.as_ref()?)))
    }

    /// Adds a flow whose tuple no other flow has.
    ///
    /// # Errors
    /// [`DropReason::FlowTableFull`] when there is no room; see [`Self::victim`].
    pub fn insert(&mut self, mut flow: Flow) -> Result<FlowIx, DropReason> {
        if self.is_full() {
            return Err(DropReason::FlowTableFull);
        }
        debug_assert!(self.find(&flow.tuple()).is_none(), "a flow is opened once");
        let (hash, now) = (self.key.hash(&flow.name), flow.looked_at);
        flow.owner = self.opener(flow.link(FlowDirection::Original), flow.tuple().src).owner;
        self.owners.count(&flow);
        flow.queue = queue_of(&flow);
        let slot = Slot { flow: Some(flow), prev: NONE, next: NONE };
        let at = match self.free {
            NONE => {
                self.slots.push(slot);
                self.slots.len() as u32 - 1
            }
            at => {
                let place = &mut self.slots[at as usize];
                self.free = place.next;
                *place = slot;
                at
            }
        };
        self.index.insert(hash, at);
        self.enqueue(at, now);
        Ok(FlowIx(at))
    }

    /// Takes a flow out.
    ///
    /// # Panics
    /// As [`Self::get`].
    pub fn remove(&mut self, index: FlowIx) -> Flow {
        let FlowIx(at) = index;
        self.unlink(at);
        let Self { key, index: places, slots, .. } = self;
        let hash_of = |at| key.hash(&flow_at(slots, at).name);
        places.remove(hash_of(at), at, hash_of);
        let slot = &mut self.slots[at as usize];
        slot.next = self.free;
        self.free = at;
        let flow = slot.flow.take().expect(REMOVED);
        self.owners.discount(&flow);
        flow
    }

    /// Counts a packet of a flow and follows its TCP state.
    ///
    /// # Errors
    /// [`DropReason::TcpNoFlow`] for a segment that can't belong to the connection
    /// ([`tcp::advance`]); the flow is unchanged.
    ///
    /// # Panics
    /// As [`Self::get`].
    #[inline]
    pub fn note(
        &mut self,
        index: FlowIx,
        direction: FlowDirection,
        view: &View,
        now: Nanos,
    ) -> Result<(), DropReason> {
        let flow = self.get_mut(index);
        flow.note(direction, view, now)?;
        if queue_of(flow) != flow.queue {
            self.requeue(index.0, now.into());
        }
        Ok(())
    }

    /// Notes that a TCP flow was reset at both ends by us, whose resets [`Self::note`] doesn't see.
    ///
    /// # Panics
    /// As [`Self::get`].
    pub fn note_reset(&mut self, index: FlowIx, now: Nanos) {
        self.note_change(index, now, |flow| flow.note_end(tcp::State::Closed));
    }

    /// Notes that an inspected TCP flow has nothing left to do but to wait for its client's end:
    /// its request was answered by us, whose FIN [`Self::note`] doesn't see.
    ///
    /// # Panics
    /// As [`Self::get`].
    pub fn note_answered(&mut self, index: FlowIx, now: Nanos) {
        self.note_change(index, now, |flow| flow.note_end(tcp::State::TimeWait));
    }

    /// Notes that the client of an inspected flow has sent a whole request.
    ///
    /// # Panics
    /// As [`Self::get`].
    pub fn note_request(&mut self, index: FlowIx, now: Nanos) {
        self.note_change(index, now, Flow::note_request);
    }

    fn note_change(&mut self, index: FlowIx, now: Nanos, change: impl FnOnce(&mut Flow)) {
        let flow = self.get_mut(index);
        change(flow);
        if queue_of(flow) != flow.queue {
            self.requeue(index.0, now.into());
        }
    }

    /// A flow whose time is over, or `None` if there is no more to do now. Each look at a flow or
    /// an owner takes one off `budget`; at zero the rest is left to the next call.
    ///
    /// The caller removes the flow.
    pub fn next_expired(&mut self, now: Nanos, budget: &mut usize) -> Option<FlowIx> {
        let mut quiet = 0;
        while *budget > 0 && quiet < self.owners.active() {
            *budget -= 1;
            let Some(owner) = self.owners.active_at(self.sweep) else {
                self.sweep = 0;
                continue;
            };
            let owned = self.owners.get(owner);
            let Some(queue) = owned.due(now) else {
                quiet += 1;
                self.sweep += 1;
                continue;
            };
            let at = owned.queues[queue].head;
            if flow_at(&self.slots, at).is_expired(now) {
                return Some(FlowIx(at));
            }
            self.requeue(at, now.into());
        }
        None
    }

    /// The flow that should make room for a new one of `opener`, in the order that the module's
    /// documentation states, or `None` if none may. Worth asking when [`Self::needs_place`] says
    /// so.
    ///
    /// The caller removes the flow, and tells its end.
    pub fn victim(&mut self, opener: &Opener, now: Nanos) -> Option<FlowIx> {
        let owned = self.owners.get(opener.owner);
        let heads = owned.queues.iter().map(|queue| queue.head).filter(|at| *at != NONE);
        let mut heads = heads.filter(|at| flow_at(&self.slots, *at).is_expired(now));
        let victim = match heads.next() {
            Some(at) => FlowIx(at),
            None => self.idle_flow(opener.owner, 0..QUEUES, now)?,
        };
        self.foresee(victim);
        Some(victim)
    }

    /// Fetches what the next victims behind this one will ask for: as a rule they have been silent
    /// for long, and their flows and places of the index are out of all caches.
    fn foresee(&self, FlowIx(victim): FlowIx) {
        // In a row of victims this one was fetched two victims ago; its place of the index, which
        // takes the flow to be known, one victim ago.
        let Some(next) = self.slots.get(self.slots[victim as usize].next as usize) else { return };
        if let Some(flow) = &next.flow {
            self.index.prefetch(self.key.hash(&flow.name));
        }
        if let Some(after) = self.slots.get(next.next as usize) {
            after.prefetch();
        }
    }

    /// The inspected flow that should make room for a new one of `opener`, in the same order.
    pub fn inspected_victim(&mut self, opener: &Opener, now: Nanos) -> Option<FlowIx> {
        self.idle_flow(opener.owner, Class::ALL.len()..QUEUES, now)
    }

    /// A flow near the head of one of the owner's queues that was silent for long enough to yield.
    /// Those that weren't go to the end, so that the next call gets further.
    fn idle_flow(&mut self, owner: Owner, queues: Range<usize>, now: Nanos) -> Option<FlowIx> {
        for queue in queues {
            let Some(silence) = class_of(queue).yields_after() else { continue };
            for _ in 0..VICTIM_LOOKS {
                let at = self.owners.get(owner).queues[queue].head;
                if at == NONE {
                    break;
                }
                if Moment::from(now).since(flow_at(&self.slots, at).last_seen) >= silence {
                    return Some(FlowIx(at));
                }
                self.requeue(at, now.into());
            }
        }
        None
    }

    /// Moves a flow to the end of the queue that it belongs to now.
    fn requeue(&mut self, at: u32, now: Moment) {
        self.unlink(at);
        let flow = flow_at_mut(&mut self.slots, at);
        flow.queue = queue_of(flow);
        self.enqueue(at, now);
    }

    fn enqueue(&mut self, at: u32, now: Moment) {
        let flow = flow_at_mut(&mut self.slots, at);
        flow.looked_at = now;
        let number = usize::from(flow.queue);
        let owned = self.owners.get_mut(flow.owner);
        owned.nonempty |= 1 << number;
        let queue = &mut owned.queues[number];
        let before = std::mem::replace(&mut queue.tail, at);
        match self.slots.get_mut(before as usize) {
            Some(slot) => slot.next = at,
            None => (queue.head, queue.looked_at) = (at, now),
        }
        let slot = &mut self.slots[at as usize];
        (slot.prev, slot.next) = (before, NONE);
    }

    fn unlink(&mut self, at: u32) {
        let flow = flow_at(&self.slots, at);
        let number = usize::from(flow.queue);
        let owned = self.owners.get_mut(flow.owner);
        let queue = &mut owned.queues[number];
        let Slot { prev, next, .. } = self.slots[at as usize];
        match self.slots.get_mut(next as usize) {
            Some(slot) => {
                slot.prev = prev;
                if prev == NONE
                    && let Some(flow) = &slot.flow
                {
                    queue.looked_at = flow.looked_at;
                }
            }
            None => queue.tail = prev,
        }
        match self.slots.get_mut(prev as usize) {
            Some(slot) => slot.next = next,
            None => queue.head = next,
        }
        if queue.head == NONE {
            owned.nonempty &= !(1 << number);
        }
    }
}

const REMOVED: &str = "an index is dropped with its flow";

#[inline]
fn flow_at(slots: &[Slot], at: u32) -> &Flow {
    slots[at as usize].flow.as_ref().expect(REMOVED)
}

#[inline]
fn flow_at_mut(slots: &mut [Slot], at: u32) -> &mut Flow {
    slots[at as usize].flow.as_mut().expect(REMOVED)
}

#[cfg(test)]
impl FlowTable {
    /// Asserts what holds between any two calls.
    pub(super) fn check(&self) {
        use podgate_tables::proto;

        use super::tcp::State;

        let mut queued = 0;
        for owner in (0..self.owners.active()).filter_map(|place| self.owners.active_at(place)) {
            queued += self.check_queues(owner);
        }
        self.owners.check(self.iter().map(|(_, flow)| flow));
        for (_, flow) in self.iter() {
            let open = flow.protocol != proto::TCP || flow.tcp() == State::Established;
            let plain = open && flow.inspector().is_none() && !flow.revoked();
            let answered = plain && flow.packets[1] > 0;
            let goes_on = [FlowDirection::Original, FlowDirection::Reply]
                .map(|to| flow.goes_on(to, flow.epoch));
            assert_eq!(
                goes_on,
                [plain && !flow.hairpin(), answered],
                "what follows from the rest is kept with it"
            );
        }
        let first = Some(self.free).filter(|at| *at != NONE);
        let next = |at: &u32| Some(self.slots[*at as usize].next).filter(|at| *at != NONE);
        let free = std::iter::successors(first, next).count();
        assert_eq!((queued, queued + free), (self.len(), self.slots.len()));
        assert!(self.len() <= self.capacity);
    }

    /// Asserts that an owner's queues are in order. Returns how many flows are in them.
    fn check_queues(&self, owner: Owner) -> usize {
        let mut queued = 0;
        let owned = self.owners.get(owner);
        for (number, queue) in owned.queues.iter().enumerate() {
            assert_eq!(owned.nonempty >> number & 1 != 0, queue.head != NONE);
            let (mut before, mut looked_at, mut at) = (NONE, Moment::default(), queue.head);
            if at != NONE {
                assert_eq!(flow_at(&self.slots, at).looked_at, queue.looked_at);
            }
            while at != NONE {
                let slot = &self.slots[at as usize];
                let flow = flow_at(&self.slots, at);
                assert_eq!((usize::from(flow.queue), flow.owner), (number, owner));
                assert_eq!(slot.prev, before);
                assert!(flow.looked_at.0 >= looked_at.0, "a queue is in the order of looks");
                queued += 1;
                (before, looked_at, at) = (at, flow.looked_at, slot.next);
            }
            assert_eq!(queue.tail, before);
        }
        queued
    }

    /// Flows that there is memory for.
    pub(super) fn reserved(&self) -> usize {
        self.slots.capacity()
    }
}
