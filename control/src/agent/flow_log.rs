//! The last flow records, and those to come for clients that follow.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use podgate_dataplane::types::LinkId;
use tokio::sync::broadcast;

use crate::protocol::FlowItem;

/// Records that a follower may be behind before it loses some.
const FOLLOWER_BACKLOG: usize = 4096;

/// A bounded log, in which each link has its share.
#[derive(Debug)]
pub(crate) struct FlowLog {
    /// By number, oldest first, with the link that each is about.
    items: BTreeMap<u64, (Option<LinkId>, Arc<FlowItem>)>,
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
        let (items, by_link) = Default::default();
        Self { items, by_link, next: 0, capacity, live }
    }

    /// Adds an item about `link`. In a full log the oldest makes place for it of the link that has
    /// the most: so nobody's flood of records displaces those of others.
    pub(crate) fn push(&mut self, link: Option<LinkId>, item: FlowItem) {
        let item = Arc::new(item);
        if self.items.len() == self.capacity {
            self.make_place(link);
        }
        self.items.insert(self.next, (link, Arc::clone(&item)));
        self.by_link.entry(link).or_default().push_back(self.next);
        self.next += 1;
        // Fails when nobody follows.
        let _ = self.live.send(item);
    }

    fn make_place(&mut self, link: Option<LinkId>) {
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

    /// The last `count` items, oldest first.
    #[must_use]
    pub(crate) fn last(&self, count: u32) -> Vec<Arc<FlowItem>> {
        let skipped = self.items.len().saturating_sub(count as usize);
        self.items.values().skip(skipped).map(|(_, item)| Arc::clone(item)).collect()
    }

    /// All items from here on.
    #[must_use]
    pub(crate) fn follow(&self) -> broadcast::Receiver<Arc<FlowItem>> {
        self.live.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(items: &[Arc<FlowItem>]) -> Vec<u64> {
        let number = |item: &Arc<FlowItem>| match **item {
            FlowItem::Lost(number) => number,
            FlowItem::Flow(_) => panic!("a record that nobody wrote"),
        };
        items.iter().map(number).collect()
    }

    #[test]
    fn the_oldest_items_make_place() {
        let mut log = FlowLog::new(3);
        for number in 0..5 {
            log.push(None, FlowItem::Lost(number));
        }
        assert_eq!(lost(&log.last(2)), [3, 4]);
        assert_eq!(lost(&log.last(10)), [2, 3, 4]);
        assert_eq!(lost(&log.last(0)), [0; 0]);
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
        let seen = lost(&log.last(100));
        assert_eq!(seen.len(), 100);
        assert!((0..20).all(|number| seen.contains(&number)), "{seen:?}");
        // One alone has all of it.
        let mut log = FlowLog::new(100);
        push(&mut log, 2, 0..1000);
        assert_eq!(lost(&log.last(100)), (900..1000).collect::<Vec<_>>());
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
