//! The last flow records, and new ones for clients that follow.
//!
//! A record has names, and making one takes some microseconds, which at 100,000 requests per second
//! is a large part of a core. So events are logged as they are. Records are made of events that a
//! client reads, and of a bounded number of others in each drain, while the names of their epoch
//! are known.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use podgate_api::FlowItem;
use podgate_tables::event::Event;
use podgate_tables::ids::LinkId;
use tokio::sync::broadcast;

/// Records that a follower may lag behind before it loses some.
const FOLLOWER_BACKLOG: usize = 4096;

/// An item of the log.
#[derive(Debug)]
enum Entry {
    /// A record, or a gap.
    Item(Arc<FlowItem>),
    /// An event of which no record was made yet.
    Event(Box<Event>),
}

impl Entry {
    /// The item; an event is replaced by its record.
    fn item(&mut self, make: impl FnOnce(&Event) -> FlowItem) -> Arc<FlowItem> {
        let item = match self {
            Self::Item(item) => return Arc::clone(item),
            Self::Event(event) => Arc::new(make(event)),
        };
        *self = Self::Item(Arc::clone(&item));
        item
    }
}

/// A bounded log that links share fairly.
#[derive(Debug)]
pub(crate) struct FlowLog {
    /// By number, oldest first, with the link that each is about.
    items: BTreeMap<u64, (Option<LinkId>, Entry)>,
    /// Numbers of events, oldest first; some were evicted.
    events: VecDeque<u64>,
    /// Numbers of each link's items, oldest first; no list is empty.
    by_link: HashMap<Option<LinkId>, VecDeque<u64>>,
    next: u64,
    capacity: usize,
    live: broadcast::Sender<Arc<FlowItem>>,
}

impl FlowLog {
    /// An empty log of at most `capacity` items.
    #[must_use]
    pub(crate) fn new(capacity: usize) -> Self {
        let live = broadcast::Sender::new(FOLLOWER_BACKLOG);
        let (items, events, by_link) = Default::default();
        Self { items, events, by_link, next: 0, capacity, live }
    }

    /// Adds an item about `link`. A full log evicts the oldest item of the link with the most
    /// items, so a flood of records about one link doesn't evict those of others.
    pub(crate) fn push(&mut self, link: Option<LinkId>, item: FlowItem) {
        let item = Arc::new(item);
        self.insert(link, Entry::Item(Arc::clone(&item)));
        // Fails without followers.
        let _ = self.live.send(item);
    }

    /// Adds an event likewise; with followers, `make` makes its record at once.
    pub(crate) fn push_event(&mut self, event: &Event, make: impl FnOnce(&Event) -> FlowItem) {
        if self.live.receiver_count() > 0 {
            return self.push(Some(event.link), make(event));
        }
        if self.events.len() >= 2 * self.capacity {
            self.events.retain(|number| self.items.contains_key(number));
        }
        self.events.push_back(self.next);
        self.insert(Some(event.link), Entry::Event(Box::new(*event)));
    }

    /// Makes records of the `count` oldest events.
    pub(crate) fn make_records(&mut self, count: usize, mut make: impl FnMut(&Event) -> FlowItem) {
        let mut left = count;
        while left > 0
            && let Some(number) = self.events.pop_front()
        {
            if let Some((_, entry @ Entry::Event(_))) = self.items.get_mut(&number) {
                let _made = entry.item(&mut make);
                left -= 1;
            }
        }
    }

    fn insert(&mut self, link: Option<LinkId>, entry: Entry) {
        if self.items.len() == self.capacity {
            self.evict_one(link);
        }
        self.items.insert(self.next, (link, entry));
        self.by_link.entry(link).or_default().push_back(self.next);
        self.next += 1;
    }

    fn evict_one(&mut self, link: Option<LinkId>) {
        let count = |link| self.by_link.get(&link).map_or(0, VecDeque::len);
        let fair = self.capacity / self.by_link.len().max(1);
        let most = || self.by_link.iter().max_by_key(|(_, numbers)| numbers.len());
        let giver = if count(link) > fair { Some(link) } else { most().map(|(link, _)| *link) };
        let Some(giver) = giver else { return };
        if let Some(numbers) = self.by_link.get_mut(&giver) {
            if let Some(number) = numbers.pop_front() {
                self.items.remove(&number);
            }
            if numbers.is_empty() {
                self.by_link.remove(&giver);
            }
        }
    }

    /// The last `count` items, oldest first; `make` makes records of those that are events.
    pub(crate) fn last(
        &mut self,
        count: u32,
        mut make: impl FnMut(&Event) -> FlowItem,
    ) -> Vec<Arc<FlowItem>> {
        let skipped = self.items.len().saturating_sub(count as usize);
        self.items.values_mut().skip(skipped).map(|(_, entry)| entry.item(&mut make)).collect()
    }

    /// New items, from here on.
    #[must_use]
    pub(crate) fn follow(&self) -> broadcast::Receiver<Arc<FlowItem>> {
        self.live.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use podgate_tables::drop_reason::DropReason;
    use podgate_tables::event::EventKind;
    use podgate_tables::ids::Epoch;
    use podgate_tables::time::Nanos;
    use podgate_tables::tuple::Tuple;

    use super::*;

    fn event(number: u64, link: u16) -> Event {
        let any = std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED).into();
        let tuple = Tuple { src: any, dst: any, protocol: 6, src_port: 1, dst_port: 2 };
        let kind = EventKind::Drop { reason: DropReason::Malformed };
        Event { time: Nanos(number), epoch: Epoch(1), link: LinkId(link), tuple, kind }
    }

    /// Stands for making a record.
    fn made(event: &Event) -> FlowItem {
        FlowItem::Lost(event.time.0)
    }

    fn not_made(_: &Event) -> FlowItem {
        panic!("nobody asked for it")
    }

    #[test]
    fn records_are_made_of_what_is_read_and_of_the_oldest() {
        let mut log = FlowLog::new(8);
        (0..20).for_each(|number| log.push_event(&event(number, 1), not_made));
        assert_eq!(lost(&log.last(2, made)), [18, 19]);
        assert_eq!(lost(&log.last(2, not_made)), [18, 19]);
        let mut count = 0;
        log.make_records(4, |event| {
            count += 1;
            made(event)
        });
        assert_eq!(count, 4);
        log.make_records(10, made);
        assert_eq!(lost(&log.last(10, not_made)), (12..20).collect::<Vec<_>>());
        assert!(log.events.is_empty());
        (0..1000).for_each(|number| log.push_event(&event(number, 2), not_made));
        assert!(log.events.len() <= 2 * log.capacity + 1, "{}", log.events.len());
    }

    #[test]
    fn a_follower_gets_records_at_once() {
        let mut log = FlowLog::new(8);
        let mut live = log.follow();
        log.push_event(&event(7, 1), made);
        assert_eq!(lost(&[live.try_recv().unwrap()]), [7]);
        assert_eq!(lost(&log.last(1, not_made)), [7]);
    }

    fn lost(items: &[Arc<FlowItem>]) -> Vec<u64> {
        let number = |item: &Arc<FlowItem>| match **item {
            FlowItem::Lost(number) => number,
            FlowItem::Flow(_) => panic!("a record that nobody wrote"),
        };
        items.iter().map(number).collect()
    }

    #[test]
    fn the_oldest_items_evict_one() {
        let mut log = FlowLog::new(3);
        for number in 0..5 {
            log.push(None, FlowItem::Lost(number));
        }
        assert_eq!(lost(&log.last(2, not_made)), [3, 4]);
        assert_eq!(lost(&log.last(10, not_made)), [2, 3, 4]);
        assert_eq!(lost(&log.last(0, not_made)), [0; 0]);
    }

    #[test]
    fn a_flood_of_records_about_one_link_leaves_those_of_others() {
        let mut log = FlowLog::new(100);
        let push = |log: &mut FlowLog, link, numbers: std::ops::Range<u64>| {
            numbers.for_each(|number| log.push(Some(LinkId(link)), FlowItem::Lost(number)));
        };
        push(&mut log, 1, 0..10);
        push(&mut log, 2, 1000..2000);
        push(&mut log, 3, 10..20);
        push(&mut log, 4, 2000..3000);
        let seen = lost(&log.last(100, not_made));
        assert_eq!(seen.len(), 100);
        assert!((0..20).all(|number| seen.contains(&number)), "{seen:?}");
        // One alone has all of it.
        let mut log = FlowLog::new(100);
        push(&mut log, 2, 0..1000);
        assert_eq!(lost(&log.last(100, not_made)), (900..1000).collect::<Vec<_>>());
    }

    #[test]
    fn a_follower_gets_what_comes_after_it() {
        let mut log = FlowLog::new(3);
        log.push(None, FlowItem::Lost(1));
        let mut live = log.follow();
        log.push(None, FlowItem::Lost(2));
        assert_eq!(lost(&[live.try_recv().unwrap()]), [2]);
        assert!(live.try_recv().is_err());
    }
}
