//! The flow table: a slab of flows, an index by tuple, and queues that expiry and eviction walk.
//!
//! All memory is reserved at creation. The work of each call is bounded, whatever the table holds.
//!
//! # Expiry
//! A queue for each class holds the flows that share a timeout, in the order in which they were
//! last looked at. Packets don't touch the queues; only a change of class moves a flow. A sweep
//! looks at a queue's head when a quarter of the timeout has passed since the last look, and either
//! reports it or moves it to the end. So a flow is gone at most a quarter of its timeout late, and
//! a sweep reads only flows that are due.
//!
//! # Eviction
//! A full table refuses new flows, unless [`FlowTable::victim`] names one that may yield:
//! 1. one that has expired and wasn't swept yet;
//! 2. TCP that was reset, is in time-wait, or is half-open;
//! 3. UDP that was never answered, and ICMP;
//! 4. half-closed TCP, answered UDP and other protocols, once they were silent for ten seconds;
//! 5. inspected flows, by the same order.
//!
//! An established connection is never a victim. So that no pod can fill the table with connections,
//! new flows from one link need another one's place as soon as the link's flows are as many as the
//! free places ([`FlowTable::needs_place`]): one greedy link leaves half of the table free, two leave a
//! third.

use super::class::Class;
use super::index::Index;
use super::name::{Key, Name, NameV4};
use super::{Flow, Moment};
use crate::drop_reason::DropReason;
use crate::packet::View;
use crate::types::{Direction, LinkId, Nanos, Tuple};
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

/// Ends a queue or the list of free slots.
const NONE: u32 = u32::MAX;

/// Each class has a queue for plain flows and one for inspected ones.
const QUEUES: usize = 2 * Class::ALL.len();

/// How often a flow is looked at in the time of its timeout.
const LOOKS: u32 = 4;

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
    /// Brings into the cache what usual packets need of the flow ([`Flow`]), the beginning of it and the
    /// end.
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

#[derive(Clone, Copy, Debug)]
struct Queue {
    head: u32,
    tail: u32,
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
    /// Flows by the number of their opener's link: all, and the inspected ones among them.
    opened: Vec<[u32; 2]>,
    queues: [Queue; QUEUES],
    /// The queue that the sweep looks at next.
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
            opened: Vec::new(),
            queues: [Queue { head: NONE, tail: NONE }; QUEUES],
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

    /// Whether a new flow from `link` needs another one's place.
    #[must_use]
    pub fn needs_place(&self, link: LinkId) -> bool {
        self.opened_from(link)[0] as usize >= self.capacity.saturating_sub(self.len())
    }

    /// Inspected flows from `link`.
    #[must_use]
    pub fn inspected_from(&self, link: LinkId) -> usize {
        self.opened_from(link)[1] as usize
    }

    fn opened_from(&self, link: LinkId) -> [u32; 2] {
        self.opened.get(link.index()).copied().unwrap_or_default()
    }

    /// The flow that a packet with this tuple belongs to, and the packet's direction in it.
    #[must_use]
    #[inline]
    pub fn find(&self, tuple: &Tuple) -> Option<(FlowIx, Direction)> {
        let (name, swapped) = Name::of(tuple);
        let belongs = |at| flow_at(&self.slots, at).name == name;
        let index = FlowIx(self.index.find(self.key.hash(&name), belongs)?);
        Some((index, self.get(index).direction(swapped)))
    }

    /// Does what can be done for a batch together before [`Self::find_sought`]: the hashes, and the
    /// waits for memory, of which a search in a large table has two. False if for some there is surely
    /// no flow.
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

    /// The flow of a packet that [`Self::seek`] has seen, and the packet's direction in it. `None` if
    /// there was no such flow then, or if another one is where it was, or seemed to be, which
    /// [`Self::find_again`] can tell.
    #[must_use]
    #[inline]
    pub fn find_sought(&mut self, sought: &Sought) -> Option<(&mut Flow, Direction)> {
        let flow = self.slots.get_mut(sought.slot as usize)?.flow.as_mut()?;
        let direction = flow.direction(sought.swapped);
        (flow.name == sought.name).then_some((flow, direction))
    }

    /// The same for a flow that was taken for another one, or that has moved since. `None` if it is not
    /// there, and also if [`Self::seek`] had found none at all.
    #[cold]
    pub fn find_again(&mut self, sought: &Sought) -> Option<(&mut Flow, Direction)> {
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

    /// Sets the links of a flow's opener and of its other end.
    ///
    /// # Panics
    /// As [`Self::get`].
    pub fn set_links(&mut self, index: FlowIx, links: [LinkId; 2]) {
        let flow = self.get_mut(index);
        let (before, inspected) = (flow.link(Direction::Original), flow.inspector().is_some());
        flow.set_links(links);
        self.count_closed(before, inspected);
        self.count_opened(links[0], inspected);
    }

    fn count_opened(&mut self, link: LinkId, inspected: bool) {
        if self.opened.len() <= link.index() {
            self.opened.resize(link.index() + 1, [0; 2]);
        }
        let [all, of_them_inspected] = &mut self.opened[link.index()];
        *all += 1;
        *of_them_inspected += u32::from(inspected);
    }

    fn count_closed(&mut self, link: LinkId, inspected: bool) {
        let [all, of_them_inspected] = &mut self.opened[link.index()];
        *all -= 1;
        *of_them_inspected -= u32::from(inspected);
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
        self.count_opened(flow.link(Direction::Original), flow.inspector().is_some());
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
        self.count_closed(flow.link(Direction::Original), flow.inspector().is_some());
        flow
    }

    /// Counts a packet of a flow and follows its TCP state.
    ///
    /// # Errors
    /// [`DropReason::TcpNoFlow`] for a segment that can't belong to the connection
    /// ([`tcp::advance`](super::tcp::advance)); the flow is unchanged.
    ///
    /// # Panics
    /// As [`Self::get`].
    #[inline]
    pub fn note(
        &mut self,
        index: FlowIx,
        direction: Direction,
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
        let flow = self.get_mut(index);
        flow.note_reset();
        if queue_of(flow) != flow.queue {
            self.requeue(index.0, now.into());
        }
    }

    /// A flow whose time is over, or `None` if there is no more to do now. Each look at a flow or
    /// an empty queue takes one off `budget`; at zero the rest is left to the next call.
    ///
    /// The caller removes the flow.
    pub fn next_expired(&mut self, now: Nanos, budget: &mut usize) -> Option<FlowIx> {
        let mut quiet = 0;
        while *budget > 0 && quiet < QUEUES {
            *budget -= 1;
            let Some(at) = self.due(self.sweep, now) else {
                quiet += 1;
                self.sweep = (self.sweep + 1) % QUEUES;
                continue;
            };
            if flow_at(&self.slots, at).is_expired(now) {
                return Some(FlowIx(at));
            }
            self.requeue(at, now.into());
        }
        None
    }

    /// The flow that should make room for a new one, in the order that the module's documentation
    /// states, or `None` if none may. Worth asking when the table is full.
    ///
    /// The caller removes the flow, and tells its end.
    pub fn victim(&mut self, now: Nanos) -> Option<FlowIx> {
        let heads = self.queues.iter().map(|queue| queue.head).filter(|at| *at != NONE);
        let mut heads = heads.filter(|at| flow_at(&self.slots, *at).is_expired(now));
        let victim = heads.next().map(FlowIx).or_else(|| {
            let plain = (0..Class::ALL.len()).find_map(|queue| self.idle_flow(queue, now));
            plain.or_else(|| self.inspected_victim(now))
        })?;
        self.foresee(victim);
        Some(victim)
    }

    /// Fetches what the next victims behind this one will ask for: as a rule they have been silent for
    /// long, and their flows and places of the index are out of all caches.
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

    /// The inspected flow that should make room for a new one, in the same order.
    pub fn inspected_victim(&mut self, now: Nanos) -> Option<FlowIx> {
        (Class::ALL.len()..QUEUES).find_map(|queue| self.idle_flow(queue, now))
    }

    /// A flow near the head of `queue` that was silent for long enough to yield. Those that weren't
    /// go to the end, so that the next call gets further.
    fn idle_flow(&mut self, queue: usize, now: Nanos) -> Option<FlowIx> {
        let silence = class_of(queue).yields_after()?;
        for _ in 0..VICTIM_LOOKS {
            let at = self.queues[queue].head;
            if at == NONE {
                return None;
            }
            if Moment::from(now).since(flow_at(&self.slots, at).last_seen) >= silence {
                return Some(FlowIx(at));
            }
            self.requeue(at, now.into());
        }
        None
    }

    /// The head of `queue`, if it is time to look at it.
    fn due(&self, queue: usize, now: Nanos) -> Option<u32> {
        let head = self.queues[queue].head;
        let flow = self.slots.get(head as usize)?.flow.as_ref()?;
        let waited = Moment::from(now).since(flow.looked_at);
        (waited >= class_of(queue).timeout() / LOOKS).then_some(head)
    }

    /// Moves a flow to the end of the queue that it belongs to now.
    fn requeue(&mut self, at: u32, now: Moment) {
        self.unlink(at);
        let flow = flow_at_mut(&mut self.slots, at);
        flow.queue = queue_of(flow);
        self.enqueue(at, now);
    }

    fn enqueue(&mut self, at: u32, now: Moment) {
        let queue = &mut self.queues[usize::from(flow_at(&self.slots, at).queue)];
        let before = std::mem::replace(&mut queue.tail, at);
        match self.slots.get_mut(before as usize) {
            Some(slot) => slot.next = at,
            None => queue.head = at,
        }
        let slot = &mut self.slots[at as usize];
        (slot.prev, slot.next) = (before, NONE);
        flow_at_mut(&mut self.slots, at).looked_at = now;
    }

    fn unlink(&mut self, at: u32) {
        let queue = &mut self.queues[usize::from(flow_at(&self.slots, at).queue)];
        let Slot { prev, next, .. } = self.slots[at as usize];
        match self.slots.get_mut(prev as usize) {
            Some(slot) => slot.next = next,
            None => queue.head = next,
        }
        match self.slots.get_mut(next as usize) {
            Some(slot) => slot.prev = prev,
            None => queue.tail = prev,
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

#[inline]
fn queue_of(flow: &Flow) -> u8 {
    let inspected = if flow.inspector().is_some() { Class::ALL.len() as u8 } else { 0 };
    Class::of(flow) as u8 + inspected
}

const fn class_of(queue: usize) -> Class {
    Class::ALL[queue % Class::ALL.len()]
}

#[cfg(test)]
impl FlowTable {
    /// Asserts what holds between any two calls.
    pub(super) fn check(&self) {
        use super::tcp::State;
        use crate::types::proto;

        let mut queued = 0;
        for (number, queue) in self.queues.iter().enumerate() {
            let (mut before, mut looked_at, mut at) = (NONE, Moment::default(), queue.head);
            while at != NONE {
                let slot = &self.slots[at as usize];
                assert_eq!(usize::from(flow_at(&self.slots, at).queue), number);
                assert_eq!(slot.prev, before);
                let looked = flow_at(&self.slots, at).looked_at;
                assert!(looked.0 >= looked_at.0, "a queue is in the order of looks");
                queued += 1;
                (before, looked_at, at) = (at, looked, slot.next);
            }
            assert_eq!(queue.tail, before);
        }
        for (_, flow) in self.iter() {
            let open = flow.protocol != proto::TCP || flow.tcp() == State::Established;
            let plain = open && flow.inspector().is_none() && !flow.revoked();
            let answered = plain && flow.packets[1] > 0;
            let goes_on =
                [Direction::Original, Direction::Reply].map(|to| flow.goes_on(to, flow.epoch));
            assert_eq!(
                goes_on,
                [plain && !flow.hairpin, answered],
                "what follows from the rest is kept with it"
            );
        }
        let first = Some(self.free).filter(|at| *at != NONE);
        let next = |at: &u32| Some(self.slots[*at as usize].next).filter(|at| *at != NONE);
        let free = std::iter::successors(first, next).count();
        assert_eq!((queued, queued + free), (self.len(), self.slots.len()));
        assert!(self.len() <= self.capacity);
        assert_eq!(self.opened.iter().map(|[all, _]| *all as usize).sum::<usize>(), self.len());
    }

    /// Flows that there is memory for.
    pub(super) fn reserved(&self) -> usize {
        self.slots.capacity()
    }
}
