//! The flow table: a slab of flows, an index by key, and queues for expiry and eviction.
//!
//! All memory is reserved at creation. The work of each call is bounded, however many flows there
//! are.
//!
//! # Expiry
//! Each owner ([`super::owner`]) has a queue for each class of flows with the same timeout, in the
//! order of their last check. Packets don't touch the queues; only a change of class moves a flow.
//! A sweep visits the owners that have flows round robin. It checks the head of a queue a quarter
//! of the timeout after the last check, and either reports it as expired or moves it to the tail.
//! So a flow is removed at most a quarter of its timeout and one sweep late, and a sweep reads only
//! flows that are due.
//!
//! # Eviction
//! A new flow whose owner has used up its share ([`FlowTable::must_evict`]) is denied unless
//! another flow of the same owner can be evicted ([`FlowTable::victim`]). No flow is ever evicted
//! for another owner's flow. Flows are evicted in this order:
//! 1. an expired one that was not swept yet;
//! 2. TCP that was reset, is in time-wait, or is half-open;
//! 3. UDP without a reply, and ICMP;
//! 4. half-closed TCP, UDP with a reply and other protocols, after ten seconds of idleness;
//! 5. inspected flows, in the same order;
//! 6. inspected connections whose client has not sent a complete request yet, after two seconds of
//!    idleness.
//!
//! Any other established connection is never evicted.

use std::ops::Range;

use podgate_tables::address::Address;
use podgate_tables::drop_reason::DropReason;
use podgate_tables::ids::LinkId;
use podgate_tables::l7::L7Protocol;
use podgate_tables::time::Nanos;
use podgate_tables::tuple::{FlowDirection, Tuple};

use super::class::Class;
use super::index::Index;
use super::key::{FlowKey, FlowKeyV4, HashKey, KeyEnd};
use super::owner::{NONE, Opener, Owner, Owners, QUEUES, class_of, queue_of, source_group};
use super::{Flow, FlowLinks, Moment, tcp};
use crate::mem::{prefer_huge_pages, prefetch};
use crate::packet::View;

/// Index of a flow in its table. Valid until the flow is removed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FlowIx(u32);

impl FlowIx {
    /// Its slot in the table.
    pub(super) const fn slot(self) -> u32 {
        self.0
    }

    /// The index of this slot, which may have a flow.
    pub(super) const fn of_slot(slot: u32) -> Self {
        Self(slot)
    }
}

/// The flow key of an IPv4 packet, for a lookup together with other packets.
#[derive(Clone, Copy, Debug)]
pub struct LookupKey {
    key: FlowKeyV4,
    /// Hash of the key. This and `slot` are set by [`FlowTable::lookup_batch`].
    hash: u64,
    /// The likely slot of the flow; [`NONE`] if there is no such flow.
    slot: u32,
    /// The end of the key that is the packet's source.
    source: KeyEnd,
}

impl Default for LookupKey {
    /// A key without a flow.
    fn default() -> Self {
        Self { key: FlowKeyV4::NONE, hash: 0, slot: NONE, source: KeyEnd::First }
    }
}

impl LookupKey {
    /// Sets the key of an IPv4 packet. Addresses and ports are as in the packet, source first,
    /// little-endian.
    #[inline]
    pub const fn set_v4(&mut self, addresses: u64, ports: u32, protocol: u8) {
        (self.key, self.source) = FlowKeyV4::of(addresses, ports, protocol);
    }

    /// Sets a key without a flow.
    #[inline]
    pub fn clear(&mut self) {
        self.key = FlowKeyV4::NONE;
    }

    /// Addresses and ports as in the packet, source first, little-endian.
    #[inline]
    pub(crate) const fn ends(&self) -> (u64, u32) {
        self.key.ends(self.source)
    }

    /// The key of these addresses and ports, given as for [`Self::set_v4`], for a flow that is
    /// probably at `index`. [`FlowTable::lookup_candidate`] checks that it is.
    #[inline]
    pub(crate) const fn of_translated(
        &self,
        addresses: u64,
        ports: u32,
        FlowIx(slot): FlowIx,
    ) -> Self {
        let (key, source) = FlowKeyV4::of(addresses, ports, self.key.protocol());
        Self { key, hash: 0, slot, source }
    }

    /// Whether the packet has a key, and [`FlowTable::lookup_batch`] found no flow.
    #[inline]
    pub(crate) fn is_new(&self) -> bool {
        self.slot == NONE && self.key != FlowKeyV4::NONE
    }

    /// What policy evaluates of the packet if it opens a flow: addresses as in the packet,
    /// little-endian, destination port, protocol.
    #[inline]
    pub(crate) fn policy_fields(&self) -> (u64, u16, u8) {
        self.key.policy_fields(self.source)
    }
}

/// Flows that are checked in a queue for a victim, at most.
const VICTIM_CHECKS: usize = 4;

#[derive(Debug)]
#[repr(C)]
struct Slot {
    prev: u32,
    /// Next flow in the queue, or next free slot.
    next: u32,
    /// `None` for a free slot.
    flow: Option<Flow>,
}

// With two buckets of the index, 136 bytes per flow.
const _: () = assert!(size_of::<Slot>() == 128);

impl Slot {
    /// Loads the fields of the flow that the fast path needs into the cache: the first and the last
    /// one of them.
    #[inline]
    fn touch(&self) -> u32 {
        self.flow.as_ref().map_or(0, |flow| flow.key.touch() ^ flow.opener_end as u32)
    }

    /// Prefetches all of its cache lines.
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
    hash_key: HashKey,
    /// Slot numbers by key.
    index: Index,
    slots: Vec<Slot>,
    capacity: usize,
    free: u32,
    owners: Owners,
    /// The link to everything outside of the node: its flows are owned by their sources.
    outside: Option<LinkId>,
    /// Position of the sweep among the owners that have flows.
    sweep: usize,
}

impl FlowTable {
    /// An empty table for `capacity` flows.
    #[must_use]
    pub fn new(capacity: u32) -> Self {
        let mut slots = Vec::with_capacity(capacity as usize);
        prefer_huge_pages(slots.spare_capacity_mut());
        Self {
            hash_key: HashKey::random(),
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

    /// Whether all entries are used.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.len() >= self.capacity
    }

    /// Sets the link to everything outside of the node. Flows that are opened by it from then on
    /// are owned by their sources.
    pub const fn set_outside(&mut self, link: Option<LinkId>) {
        self.outside = link;
    }

    /// The opener of a flow from `src` by `link`.
    #[must_use]
    pub fn opener(&self, link: LinkId, src: Address) -> Opener {
        let owner = if self.outside == Some(link) {
            Owner::source(source_group(&self.hash_key, src))
        } else {
            Owner::pod(link)
        };
        Opener { owner, link }
    }

    /// Whether a new flow of `opener` must evict another one of the same owner.
    #[must_use]
    pub fn must_evict(&self, opener: &Opener) -> bool {
        let free = self.capacity.saturating_sub(self.len());
        self.owners.must_evict(opener, free, |count| count.all)
    }

    /// The same for an inspected flow, when `free` more flows may be inspected.
    #[must_use]
    pub fn must_evict_inspected(&self, opener: &Opener, free: usize) -> bool {
        self.owners.must_evict(opener, free, |count| count.inspected)
    }

    /// The flow of a packet with this tuple, and the packet's direction in it.
    #[must_use]
    #[inline]
    pub fn lookup(&self, tuple: &Tuple) -> Option<(FlowIx, FlowDirection)> {
        let (key, source) = FlowKey::of(tuple);
        let matches = |at| flow_at(&self.slots, at).key == key;
        let index = FlowIx(self.index.find(self.hash_key.hash(&key), matches)?);
        Some((index, self.get(index).direction(source)))
    }

    /// Does the part of a batch's lookups that is done together before [`Self::lookup_candidate`]:
    /// computes hashes and waits for memory, twice per lookup in a large table. Returns false if
    /// some keys have no flow.
    pub fn lookup_batch(&self, keys: &mut [LookupKey]) -> bool {
        for key in &mut *keys {
            key.hash = self.hash_key.hash_v4(&key.key);
        }
        // Short loops, so that the processor issues the loads of many iterations at once.
        let entries = keys.iter().fold(0, |sum, key| sum ^ self.index.touch(key.hash));
        for key in &mut *keys {
            key.slot = self.index.candidate(key.hash).unwrap_or(NONE);
        }
        let found = keys.iter().filter_map(|key| self.slots.get(key.slot as usize));
        let (flows, count) =
            found.fold((0, 0), |(sum, count), slot| (sum ^ slot.touch(), count + 1));
        std::hint::black_box((entries, flows));
        count == keys.len()
    }

    /// The flow that [`Self::lookup_batch`] found for a key, and the packet's direction in it.
    /// `None` if it found none, or if the likely slot has another flow; then use
    /// [`Self::lookup_slow`].
    #[must_use]
    #[inline]
    pub fn lookup_candidate(&mut self, key: &LookupKey) -> Option<(&mut Flow, FlowDirection)> {
        let flow = self.slots.get_mut(key.slot as usize)?.flow.as_mut()?;
        let direction = flow.direction(key.source);
        (flow.key == key.key).then_some((flow, direction))
    }

    /// The same for a flow in another slot, because of equal tags or because it has moved since.
    /// `None` if there is no such flow, and also if [`Self::lookup_batch`] found none.
    #[cold]
    pub fn lookup_slow(&mut self, key: &LookupKey) -> Option<(&mut Flow, FlowDirection)> {
        // Nearly always there is no such flow.
        if key.slot == NONE {
            return None;
        }
        let matches = |at| flow_at(&self.slots, at).key == key.key;
        let slot = self.index.find(key.hash, matches)?;
        self.lookup_candidate(&LookupKey { slot, ..*key })
    }

    /// The flow at `index`.
    ///
    /// # Panics
    /// When the flow was removed.
    #[must_use]
    #[inline]
    pub fn get(&self, index: FlowIx) -> &Flow {
        flow_at(&self.slots, index.0)
    }

    /// Sets the links of a flow's ends, which determine its owner.
    ///
    /// # Panics
    /// As [`Self::get`].
    pub fn set_links(&mut self, index: FlowIx, links: FlowLinks) {
        let FlowIx(at) = index;
        let flow = flow_at(&self.slots, at);
        if flow.links() == links {
            return;
        }
        let owner = self.opener(links.opener, flow.tuple().src).owner;
        self.owners.remove(flow);
        let checked_at = flow.checked_at;
        self.unlink(at);
        let flow = flow_at_mut(&mut self.slots, at);
        flow.set_links(links);
        flow.owner = owner;
        self.owners.add(flow_at(&self.slots, at));
        self.enqueue(at, checked_at);
    }

    /// The flow at `index`, to change its permission.
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

    /// Number of slots in use so far, those of removed flows included.
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.slots.len() as u32
    }

    /// The flows in up to `count` slots from slot `first` on.
    pub fn in_slots(&self, first: u32, count: u32) -> impl Iterator<Item = &Flow> {
        let slots = self.slots.iter().skip(first as usize).take(count as usize);
        slots.filter_map(|slot| slot.flow.as_ref())
    }

    /// The indices of the flows in `slots`, to remove some: an index may be of a removed flow then.
    pub(crate) fn indices_in(&self, slots: Range<u32>) -> Vec<FlowIx> {
        let slots = slots.start..slots.end.min(self.slots());
        let is_used = |index: &u32| self.slots[*index as usize].flow.is_some();
        slots.filter(is_used).map(FlowIx).collect()
    }

    /// The flow at `index`, if it was not removed.
    pub(crate) fn get_if(&self, index: FlowIx) -> Option<&Flow> {
        self.slots.get(index.0 as usize)?.flow.as_ref()
    }

    /// As [`Self::in_slots`], to change fields that the keys don't depend on.
    pub(crate) fn in_slots_mut(
        &mut self,
        first: u32,
        count: u32,
    ) -> impl Iterator<Item = &mut Flow> {
        let slots = self.slots.iter_mut().skip(first as usize).take(count as usize);
        slots.filter_map(|slot| slot.flow.as_mut())
    }

    /// Adds a flow; there must be none with the same tuple.
    ///
    /// # Errors
    /// [`DropReason::FlowTableFull`] when all entries are used; see [`Self::victim`].
    pub fn insert(&mut self, mut flow: Flow) -> Result<FlowIx, DropReason> {
        if self.is_full() {
            return Err(DropReason::FlowTableFull);
        }
        debug_assert!(self.lookup(&flow.tuple()).is_none(), "a flow is opened once");
        let (hash, now) = (self.hash_key.hash(&flow.key), flow.checked_at);
        flow.owner = self.opener(flow.link(FlowDirection::Original), flow.tuple().src).owner;
        self.owners.add(&flow);
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

    /// Removes a flow.
    ///
    /// # Panics
    /// As [`Self::get`].
    pub fn remove(&mut self, index: FlowIx) -> Flow {
        let FlowIx(at) = index;
        self.unlink(at);
        let Self { hash_key, index: entries, slots, .. } = self;
        let hash_of = |at| hash_key.hash(&flow_at(slots, at).key);
        entries.remove(hash_of(at), at, hash_of);
        let slot = &mut self.slots[at as usize];
        slot.next = self.free;
        self.free = at;
        let flow = slot.flow.take().expect(REMOVED);
        self.owners.remove(&flow);
        flow
    }

    /// Counts a packet of a flow and tracks its TCP state.
    ///
    /// # Errors
    /// [`DropReason::TcpNoFlow`] for a segment that is invalid in the connection's state
    /// ([`tcp::advance`]), [`DropReason::IcmpUnrelated`] for a query in place of a reply; the flow
    /// is unchanged. [`DropReason::PolicyRevoked`] if the flow is revoked.
    ///
    /// # Panics
    /// As [`Self::get`].
    #[inline]
    pub fn update(
        &mut self,
        index: FlowIx,
        direction: FlowDirection,
        view: &View,
        now: Nanos,
    ) -> Result<(), DropReason> {
        let flow = self.get_mut(index);
        flow.update(direction, view, now)?;
        if queue_of(flow) != flow.queue {
            self.requeue(index.0, now.into());
        }
        Ok(())
    }

    /// The same for a translation, of which only the opener's packets are seen.
    ///
    /// # Panics
    /// As [`Self::get`].
    pub fn update_translation(&mut self, index: FlowIx, view: &View, now: Nanos) {
        self.change(index, now, |flow| flow.update_translation(view, now));
    }

    /// Sets whether the other end of a translation's flow has answered, and the flow is open. Until
    /// then the translation may be evicted and expires soon, whatever its opener sends.
    ///
    /// # Panics
    /// As [`Self::get`].
    pub fn set_confirmed(&mut self, index: FlowIx, confirmed: bool, now: Nanos) {
        debug_assert!(self.get(index).is_translation());
        self.change(index, now, |flow| flow.set_flag(super::CONFIRMED, confirmed));
    }

    /// Marks a TCP flow as reset at both ends by us: [`Self::update`] doesn't see those resets.
    ///
    /// # Panics
    /// As [`Self::get`].
    pub fn set_reset(&mut self, index: FlowIx, now: Nanos) {
        self.change(index, now, |flow| flow.set_tcp(tcp::State::Closed));
    }

    /// Marks an inspected TCP flow as waiting for its client to close: we sent the response to its
    /// request, with a FIN that [`Self::update`] doesn't see.
    ///
    /// # Panics
    /// As [`Self::get`].
    pub fn set_answered(&mut self, index: FlowIx, now: Nanos) {
        self.change(index, now, |flow| flow.set_tcp(tcp::State::TimeWait));
    }

    /// Marks that the client of an inspected flow has sent a complete request.
    ///
    /// # Panics
    /// As [`Self::get`].
    pub fn set_requested(&mut self, index: FlowIx, now: Nanos) {
        self.change(index, now, Flow::set_requested);
    }

    /// Turns an inspected flow into a plain one: its inspector, for rules of this protocol, has
    /// nothing more to do.
    ///
    /// # Panics
    /// As [`Self::get`].
    pub fn set_detached(&mut self, index: FlowIx, protocol: L7Protocol, now: Nanos) {
        let flow = flow_at_mut(&mut self.slots, index.0);
        self.owners.remove(flow);
        flow.set_detached(protocol);
        self.owners.add(flow);
        self.change(index, now, |_| {});
    }

    fn change(&mut self, index: FlowIx, now: Nanos, change: impl FnOnce(&mut Flow)) {
        let flow = self.get_mut(index);
        change(flow);
        if queue_of(flow) != flow.queue {
            self.requeue(index.0, now.into());
        }
    }

    /// An expired flow, or `None` if no check is due. Each check of a flow or an owner takes one
    /// from `budget`; at zero the next call continues.
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

    /// The flow to evict for a new one of `opener`, in the order of the module's documentation;
    /// `None` if there is none. For when [`Self::must_evict`] holds.
    ///
    /// It is never the one that is `spared`. The caller removes the flow.
    pub fn victim(
        &mut self,
        opener: &Opener,
        now: Nanos,
        spared: Option<FlowIx>,
    ) -> Option<FlowIx> {
        let owned = self.owners.get(opener.owner);
        let heads = owned.queues.iter().map(|queue| queue.head).filter(|at| *at != NONE);
        let heads = heads.filter(|at| Some(FlowIx(*at)) != spared);
        let mut heads = heads.filter(|at| flow_at(&self.slots, *at).is_expired(now));
        let victim = match heads.next() {
            Some(at) => FlowIx(at),
            None => self.idle_flow(opener.owner, 0..QUEUES, now, spared)?,
        };
        self.prefetch_next_victims(victim);
        Some(victim)
    }

    /// Prefetches the next victims in the queue: usually they have been idle for long, and their
    /// flows and index buckets are in no cache.
    fn prefetch_next_victims(&self, FlowIx(victim): FlowIx) {
        // In a series of evictions a flow is prefetched two evictions ahead; its bucket, which
        // needs the flow's key, one eviction ahead.
        let Some(next) = self.slots.get(self.slots[victim as usize].next as usize) else { return };
        if let Some(flow) = &next.flow {
            self.index.prefetch(self.hash_key.hash(&flow.key));
        }
        if let Some(after) = self.slots.get(next.next as usize) {
            after.prefetch();
        }
    }

    /// The inspected flow to evict for a new one of `opener`, in the same order.
    pub fn inspected_victim(&mut self, opener: &Opener, now: Nanos) -> Option<FlowIx> {
        // A translation is never inspected.
        self.idle_flow(opener.owner, Class::ALL.len()..QUEUES, now, None)
    }

    /// A flow near the head of one of the owner's queues that was idle for long enough to be
    /// evicted. Others are moved to the tail, so that the next call checks further ones.
    fn idle_flow(
        &mut self,
        owner: Owner,
        queues: Range<usize>,
        now: Nanos,
        spared: Option<FlowIx>,
    ) -> Option<FlowIx> {
        for queue in queues {
            let Some(idle) = class_of(queue).evictable_after() else { continue };
            for _ in 0..VICTIM_CHECKS {
                let at = self.owners.get(owner).queues[queue].head;
                if at == NONE {
                    break;
                }
                let is_idle = Moment::from(now).since(flow_at(&self.slots, at).last_seen) >= idle;
                if is_idle && Some(FlowIx(at)) != spared {
                    return Some(FlowIx(at));
                }
                self.requeue(at, now.into());
            }
        }
        None
    }

    /// Moves a flow to the tail of the queue of its current class.
    fn requeue(&mut self, at: u32, now: Moment) {
        self.unlink(at);
        let flow = flow_at_mut(&mut self.slots, at);
        flow.queue = queue_of(flow);
        self.enqueue(at, now);
    }

    fn enqueue(&mut self, at: u32, now: Moment) {
        let flow = flow_at_mut(&mut self.slots, at);
        flow.checked_at = now;
        let number = usize::from(flow.queue);
        let owned = self.owners.get_mut(flow.owner);
        owned.nonempty |= 1 << number;
        let queue = &mut owned.queues[number];
        let before = std::mem::replace(&mut queue.tail, at);
        match self.slots.get_mut(before as usize) {
            Some(slot) => slot.next = at,
            None => (queue.head, queue.checked_at) = (at, now),
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
                    queue.checked_at = flow.checked_at;
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

const REMOVED: &str = "the flow of an index exists";

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
    /// Asserts the invariants of the table.
    pub(super) fn check(&self) {
        use podgate_tables::proto;

        use super::tcp::State;

        let mut queued = 0;
        for owner in (0..self.owners.active()).filter_map(|at| self.owners.active_at(at)) {
            queued += self.check_queues(owner);
        }
        self.owners.check(self.iter().map(|(_, flow)| flow));
        for (_, flow) in self.iter() {
            let open = flow.protocol() != proto::TCP || flow.tcp() == State::Established;
            let plain = open && flow.inspector().is_none() && !flow.revoked();
            let replied = plain && flow.packets[1] > 0;
            let directions = [FlowDirection::Original, FlowDirection::Reply];
            let seen = [
                directions.map(|to| flow.is_fast_path(to, flow.epoch)),
                directions.map(|to| flow.is_translated_fast_path(to, flow.epoch)),
                [flow.is_translation_fast_path(flow.epoch), false],
            ];
            let mut expected = [[false; 2]; 3];
            match (flow.is_translation(), flow.target()) {
                (true, _) => {
                    let chosen = flow.packets[0] > 1 || flow.is_answered();
                    expected[2][0] = plain && !flow.hairpin() && chosen;
                }
                (false, target) => {
                    expected[usize::from(target.is_some())] = [plain && !flow.hairpin(), replied];
                }
            }
            assert_eq!(seen, expected, "the derived field is up to date");
        }
        let first = Some(self.free).filter(|at| *at != NONE);
        let next = |at: &u32| Some(self.slots[*at as usize].next).filter(|at| *at != NONE);
        let free = std::iter::successors(first, next).count();
        assert_eq!((queued, queued + free), (self.len(), self.slots.len()));
        assert!(self.len() <= self.capacity);
    }

    /// Asserts that an owner's queues are in order. Returns the number of flows in them.
    fn check_queues(&self, owner: Owner) -> usize {
        let mut queued = 0;
        let owned = self.owners.get(owner);
        for (number, queue) in owned.queues.iter().enumerate() {
            assert_eq!(owned.nonempty >> number & 1 != 0, queue.head != NONE);
            let (mut before, mut checked_at, mut at) = (NONE, Moment::default(), queue.head);
            if at != NONE {
                assert_eq!(flow_at(&self.slots, at).checked_at, queue.checked_at);
            }
            while at != NONE {
                let slot = &self.slots[at as usize];
                let flow = flow_at(&self.slots, at);
                assert_eq!((usize::from(flow.queue), flow.owner), (number, owner));
                assert_eq!(slot.prev, before);
                assert!(flow.checked_at.0 >= checked_at.0, "a queue is in the order of checks");
                queued += 1;
                (before, checked_at, at) = (at, flow.checked_at, slot.next);
            }
            assert_eq!(queue.tail, before);
        }
        queued
    }

    /// Flows that memory is reserved for.
    pub(super) fn reserved(&self) -> usize {
        self.slots.capacity()
    }
}
