//! The last flow records, and those to come for clients that follow.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::broadcast;

use crate::protocol::FlowItem;

/// Records that a follower may be behind before it loses some.
const FOLLOWER_BACKLOG: usize = 4096;

/// A bounded log.
#[derive(Debug)]
pub(crate) struct FlowLog {
    items: VecDeque<Arc<FlowItem>>,
    capacity: usize,
    live: broadcast::Sender<Arc<FlowItem>>,
}

impl FlowLog {
    /// An empty log of at most `capacity` items.
    #[must_use]
    pub(crate) fn new(capacity: usize) -> Self {
        Self { items: VecDeque::new(), capacity, live: broadcast::Sender::new(FOLLOWER_BACKLOG) }
    }

    /// Adds an item; the oldest makes place for it.
    pub(crate) fn push(&mut self, item: FlowItem) {
        let item = Arc::new(item);
        if self.items.len() == self.capacity {
            self.items.pop_front();
        }
        self.items.push_back(Arc::clone(&item));
        // Fails when nobody follows.
        let _ = self.live.send(item);
    }

    /// The last `count` items, oldest first.
    #[must_use]
    pub(crate) fn last(&self, count: u32) -> Vec<Arc<FlowItem>> {
        let skipped = self.items.len().saturating_sub(count as usize);
        self.items.iter().skip(skipped).cloned().collect()
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
            log.push(FlowItem::Lost(number));
        }
        assert_eq!(lost(&log.last(2)), [3, 4]);
        assert_eq!(lost(&log.last(10)), [2, 3, 4]);
        assert_eq!(lost(&log.last(0)), [0; 0]);
    }

    #[test]
    fn a_follower_gets_what_comes_after_it() {
        let mut log = FlowLog::new(3);
        log.push(FlowItem::Lost(1));
        let mut live = log.follow();
        log.push(FlowItem::Lost(2));
        assert_eq!(lost(&[live.try_recv().unwrap()]), [2]);
        assert!(live.try_recv().is_err());
    }
}
