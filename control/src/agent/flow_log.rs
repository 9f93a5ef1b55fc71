//! The last flow records, and new ones for clients that follow.
//!
//! A record has names, and making one takes some microseconds, which at 100,000 requests per second
//! is a large part of a core. So events are logged as they are, and records are made of those that
//! a client reads, and of those whose tables are about to be forgotten.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use jiff::Timestamp;
use podgate_api::FlowItem;
use podgate_hubble::Observed;
use podgate_tables::event::{Event, EventKind, RequestLine};
use podgate_tables::ids::{Epoch, LinkId};
use podgate_tables::policy::Verdict;
use tokio::sync::broadcast;

use super::flow_names::EndNames;

/// Records that a follower may lag behind before it loses some.
const FOLLOWER_BACKLOG: usize = 4096;

/// An item of the log.
#[derive(Debug)]
enum Entry {
    /// A record, or a gap.
    Item(Arc<Observed>),
    /// An event of which no record was made yet.
    Event(Box<Logged>),
}

/// An event, and what other events said about it.
#[derive(Debug)]
pub(crate) struct Logged {
    /// The event.
    pub(crate) event: Event,
    /// Of a response the request that it answers, if that is known.
    pub(crate) request: Option<RequestLine>,
    /// DNS names.
    pub(crate) names: EndNames,
}

/// Those that share the log: each has as much of it as the others, if it needs that.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Share {
    /// The link of the items' events.
    link: Option<LinkId>,
    class: EventClass,
}

/// Classes of events: each has a share of its own.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum EventClass {
    /// Forwarded, or nothing that concerns a packet.
    Allowed,
    /// Dropped by a worker, or denied.
    Dropped,
    /// Dropped by a BPF program. On a bridge that may be every other pod's multicast.
    DroppedByProgram,
}

impl EventClass {
    /// The class of an event.
    pub(crate) fn of(event: &Event) -> Self {
        let is_dropped = match event.kind {
            EventKind::ProgramDrop { .. } => return Self::DroppedByProgram,
            EventKind::Verdict { verdict, .. } => verdict == Verdict::Deny,
            EventKind::Drop { .. } | EventKind::Unparsed { .. } => true,
            EventKind::Request { allowed, .. } => !allowed,
            EventKind::Response { .. } | EventKind::End { .. } => false,
        };
        if is_dropped { Self::Dropped } else { Self::Allowed }
    }
}

/// Makes a record of an event, with its time.
pub(crate) trait MakeRecord {
    /// The record, and when it happened.
    fn make(&self, logged: &Logged) -> (Timestamp, FlowItem);
}

/// A bounded log that links share fairly.
#[derive(Debug)]
pub(crate) struct FlowLog {
    /// By number, oldest first.
    items: BTreeMap<u64, (Share, Entry)>,
    /// Numbers of each share's items, oldest first; no list is empty.
    by_share: HashMap<Share, VecDeque<u64>>,
    next: u64,
    capacity: usize,
    live: broadcast::Sender<Arc<Observed>>,
}

impl FlowLog {
    /// An empty log of at most `capacity` items.
    #[must_use]
    pub(crate) fn new(capacity: usize) -> Self {
        let live = broadcast::Sender::new(FOLLOWER_BACKLOG);
        let (items, by_share) = Default::default();
        Self { items, by_share, next: 0, capacity, live }
    }

    /// Number of items.
    #[must_use]
    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    /// Most items.
    #[must_use]
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Adds a gap of `count` events, which was noticed at `time`.
    pub(crate) fn push_lost(&mut self, count: u64, time: Timestamp) {
        let item = FlowItem::Lost(count);
        let observed = Arc::new(Observed { number: self.next, time, item });
        let share = Share { link: None, class: EventClass::Dropped };
        self.insert(share, Entry::Item(Arc::clone(&observed)));
        // Fails without followers.
        let _ = self.live.send(observed);
    }

    /// Adds an event. A full log evicts the oldest item of its share if that has its fair part,
    /// else of the largest share, so a flood of events about one link evicts neither those of
    /// others nor its own drops.
    pub(crate) fn push_event(&mut self, logged: Logged, records: &impl MakeRecord) {
        let event = &logged.event;
        let share = Share { link: Some(event.link), class: EventClass::of(event) };
        let mut entry = Entry::Event(Box::new(logged));
        if self.live.receiver_count() > 0 {
            // Fails if the last follower has just left.
            let _ = self.live.send(made(&mut entry, self.next, records));
        }
        self.insert(share, entry);
    }

    /// Makes records of all events of an epoch.
    pub(crate) fn make_records_of(&mut self, epoch: Epoch, records: &impl MakeRecord) {
        for (number, (_, entry)) in &mut self.items {
            if matches!(entry, Entry::Event(logged) if logged.event.epoch == epoch) {
                made(entry, *number, records);
            }
        }
    }

    fn insert(&mut self, share: Share, entry: Entry) {
        if self.items.len() == self.capacity {
            self.evict_one(share);
        }
        self.items.insert(self.next, (share, entry));
        self.by_share.entry(share).or_default().push_back(self.next);
        self.next += 1;
    }

    fn evict_one(&mut self, share: Share) {
        let count = |share| self.by_share.get(&share).map_or(0, VecDeque::len);
        let fair = (self.capacity / self.by_share.len().max(1)).max(1);
        let most = || self.by_share.iter().max_by_key(|(_, numbers)| numbers.len());
        let giver =
            if count(share) >= fair { Some(share) } else { most().map(|(share, _)| *share) };
        let Some(giver) = giver else { return };
        if let Some(numbers) = self.by_share.get_mut(&giver) {
            if let Some(number) = numbers.pop_front() {
                self.items.remove(&number);
            }
            if numbers.is_empty() {
                self.by_share.remove(&giver);
            }
        }
    }

    /// The last `count` items, oldest first.
    pub(crate) fn last(&mut self, count: usize, records: &impl MakeRecord) -> Vec<Arc<Observed>> {
        let skipped = self.items.len().saturating_sub(count);
        let last = self.items.iter_mut().skip(skipped);
        last.map(|(number, (_, entry))| made(entry, *number, records)).collect()
    }

    /// New items, from here on.
    #[must_use]
    pub(crate) fn follow(&self) -> broadcast::Receiver<Arc<Observed>> {
        self.live.subscribe()
    }
}

/// The item; an event is replaced by its record.
fn made(entry: &mut Entry, number: u64, records: &impl MakeRecord) -> Arc<Observed> {
    let observed = match entry {
        Entry::Item(observed) => return Arc::clone(observed),
        Entry::Event(logged) => {
            let (time, item) = records.make(logged);
            Arc::new(Observed { number, time, item })
        }
    };
    *entry = Entry::Item(Arc::clone(&observed));
    observed
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use podgate_tables::drop_reason::{DropReason, FrameDropReason};
    use podgate_tables::event::Traffic;
    use podgate_tables::time::Nanos;
    use podgate_tables::tuple::Tuple;

    use super::*;

    const DROP: EventKind = EventKind::Drop { reason: DropReason::Malformed };
    const END: EventKind = EventKind::End {
        original: Traffic { packets: 0, bytes: 0 },
        reply: Traffic { packets: 0, bytes: 0 },
        decided: Epoch(1),
    };

    fn event(number: u64, link: u16, kind: EventKind) -> Logged {
        let any = std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED).into();
        let tuple = Tuple { src: any, dst: any, protocol: 6, src_port: 1, dst_port: 2 };
        let (time, epoch, link) = (Nanos(number), Epoch(1), LinkId(link));
        let event = Event { time, epoch, link, tuple, frontend: None, kind };
        Logged { event, request: None, names: None }
    }

    /// In place of making records; counts them.
    #[derive(Default)]
    struct Records(Cell<u64>);

    impl MakeRecord for Records {
        fn make(&self, logged: &Logged) -> (Timestamp, FlowItem) {
            self.0.set(self.0.get() + 1);
            (Timestamp::UNIX_EPOCH, FlowItem::Lost(logged.event.time.0))
        }
    }

    /// The numbers of the last items' events.
    fn last(log: &mut FlowLog, count: usize) -> Vec<u64> {
        numbers(&log.last(count, &Records::default()))
    }

    fn numbers(items: &[Arc<Observed>]) -> Vec<u64> {
        let number = |observed: &Arc<Observed>| match observed.item {
            FlowItem::Lost(number) => number,
            FlowItem::Flow(_) => panic!("a record that nobody wrote"),
        };
        items.iter().map(number).collect()
    }

    fn push(log: &mut FlowLog, link: u16, numbers: std::ops::Range<u64>, kind: EventKind) {
        numbers.for_each(|n| log.push_event(event(n, link, kind), &Records::default()));
    }

    #[test]
    fn records_are_made_once_and_of_what_is_read_only() {
        let (mut log, records) = (FlowLog::new(8), Records::default());
        (0..20).for_each(|number| log.push_event(event(number, 1, DROP), &records));
        assert_eq!(records.0.get(), 0);
        assert_eq!(numbers(&log.last(2, &records)), [18, 19]);
        assert_eq!(numbers(&log.last(2, &records)), [18, 19]);
        assert_eq!(records.0.get(), 2);
        log.make_records_of(Epoch(2), &records);
        assert_eq!(records.0.get(), 2);
        log.make_records_of(Epoch(1), &records);
        assert_eq!(records.0.get(), 8);
    }

    #[test]
    fn a_follower_gets_what_comes_after_it_at_once() {
        let mut log = FlowLog::new(8);
        push(&mut log, 1, 6..7, DROP);
        let mut live = log.follow();
        push(&mut log, 1, 7..8, DROP);
        log.push_lost(3, Timestamp::UNIX_EPOCH);
        let (first, second) = (live.try_recv().unwrap(), live.try_recv().unwrap());
        assert_eq!([first.number, second.number], [1, 2]);
        assert_eq!(numbers(&[first, second]), [7, 3]);
        assert!(live.try_recv().is_err());
        assert_eq!(last(&mut log, 2), [7, 3]);
    }

    #[test]
    fn the_oldest_items_evict_one() {
        let mut log = FlowLog::new(3);
        push(&mut log, 1, 0..5, DROP);
        assert_eq!(last(&mut log, 2), [3, 4]);
        assert_eq!(last(&mut log, 10), [2, 3, 4]);
        assert_eq!(last(&mut log, 0), [0; 0]);
    }

    #[test]
    fn a_flood_of_events_about_one_link_leaves_those_of_others() {
        let mut log = FlowLog::new(100);
        push(&mut log, 1, 0..10, DROP);
        push(&mut log, 2, 1000..2000, DROP);
        push(&mut log, 3, 10..20, DROP);
        push(&mut log, 4, 2000..3000, DROP);
        let seen = last(&mut log, 100);
        assert_eq!(seen.len(), 100);
        assert!((0..20).all(|number| seen.contains(&number)), "{seen:?}");
        // One alone has all of it.
        let mut log = FlowLog::new(100);
        push(&mut log, 2, 0..1000, DROP);
        assert_eq!(last(&mut log, 100), (900..1000).collect::<Vec<_>>());
    }

    #[test]
    fn a_flood_of_one_kind_leaves_the_others_of_the_same_link() {
        let mut log = FlowLog::new(100);
        push(&mut log, 1, 0..40, DROP);
        push(&mut log, 1, 1000..50_000, END);
        let seen = last(&mut log, 100);
        assert!((0..40).all(|number| seen.contains(&number)), "{seen:?}");
        // And the other way round.
        push(&mut log, 1, 100..1000, DROP);
        let seen = last(&mut log, 100);
        assert_eq!(seen.iter().filter(|number| **number >= 1000).count(), 50);
        assert!((950..1000).all(|number| seen.contains(&number)), "{seen:?}");
        // A flood of frames that a program drops leaves both.
        let reason = FrameDropReason::ToPodMulticast;
        let kind = EventKind::ProgramDrop { reason, ethernet: None, has_addresses: false };
        let mut log = FlowLog::new(100);
        push(&mut log, 1, 0..30, DROP);
        push(&mut log, 1, 1000..1030, END);
        push(&mut log, 1, 2000..50_000, kind);
        let seen = last(&mut log, 100);
        assert!((0..30).chain(1000..1030).all(|number| seen.contains(&number)), "{seen:?}");
    }
}
