//! The observer: events of the workers, as flow records with names.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use podgate_api::FlowItem;
use podgate_dataplane::worker::{Clock, Dataplane};
use podgate_policy::observe::FlowRecord;
use podgate_tables::event::Event;
use tokio::sync::broadcast;

use super::epochs::Epochs;
use super::flow_log::FlowLog;

/// Events of each worker that are logged at a time, at most: some 30 µs of work. It may run on the
/// core of a worker or of a pod, whose packets wait meanwhile.
const EVENTS_AT_A_TIME: usize = 96;

/// Time until the next ones are logged if there are more. The rings lose what is too much for that.
pub(super) const MORE_EVENTS_AFTER: Duration = Duration::from_millis(1);

/// Records that are made at a time although nobody reads them (see [`super::flow_log`]), while
/// events come faster than they are logged, and otherwise: 3,000 per second, which take less than
/// 2 % of a core.
const UNREAD_RECORDS_BUSY: usize = 3;
const UNREAD_RECORDS: usize = 64;

/// How many of the workers' events to log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Amount {
    /// Those that wait on the rings.
    All,
    /// A bounded number.
    AFew,
}

/// Flow records.
pub(super) struct Observer {
    log: FlowLog,
    /// Events that are being logged.
    events: Vec<Event>,
    /// Events that were logged.
    records: u64,
    /// Events that were not logged: of an epoch of too long ago.
    skipped: u64,
    /// Lost events that the log has gaps for.
    lost_logged: u64,
}

impl Observer {
    /// An empty log of at most `capacity` records.
    pub(super) fn new(capacity: usize) -> Self {
        let log = FlowLog::new(capacity);
        Self { log, events: Vec::new(), records: 0, skipped: 0, lost_logged: 0 }
    }

    /// Logs events of the workers. Returns whether there are more.
    pub(super) fn drain(&mut self, dataplane: &Dataplane, epochs: &Epochs, amount: Amount) -> bool {
        let clock = dataplane.clock();
        let max = if amount == Amount::All { usize::MAX } else { EVENTS_AT_A_TIME };
        let mut events = std::mem::take(&mut self.events);
        let more = dataplane.drain_events(max, |_, event| events.push(event));
        // Each worker's events are in order already.
        events.sort_by_key(|event| event.time);
        for event in events.drain(..) {
            if epochs.get(event.epoch).is_none() {
                self.skipped += 1;
                continue;
            }
            self.log.push_event(&event, |event| flow_item(event, clock, epochs));
            self.records += 1;
        }
        events.shrink_to(EVENTS_AT_A_TIME);
        self.events = events;
        let unread = if more { UNREAD_RECORDS_BUSY } else { UNREAD_RECORDS };
        self.log.make_records(unread, |event| flow_item(event, clock, epochs));
        let lost = self.lost(dataplane);
        if lost > self.lost_logged {
            self.log.push(None, FlowItem::Lost(lost - self.lost_logged));
            self.lost_logged = lost;
        }
        more
    }

    /// The last `count` records, oldest first.
    pub(super) fn last(
        &mut self,
        count: u32,
        dataplane: &Dataplane,
        epochs: &Epochs,
    ) -> Vec<Arc<FlowItem>> {
        let clock = dataplane.clock();
        self.log.last(count, |event| flow_item(event, clock, epochs))
    }

    /// All records from here on.
    pub(super) fn follow(&self) -> broadcast::Receiver<Arc<FlowItem>> {
        self.log.follow()
    }

    /// Events that were logged.
    pub(super) fn records(&self) -> u64 {
        self.records
    }

    /// Events that were not logged.
    pub(super) fn lost(&self, dataplane: &Dataplane) -> u64 {
        let workers = dataplane.shared().stats.iter();
        workers.map(|worker| worker.events_lost.get()).sum::<u64>() + self.skipped
    }
}

/// The record of an event; a gap if its epoch is of too long ago.
fn flow_item(event: &Event, clock: Clock, epochs: &Epochs) -> FlowItem {
    let Some(compiled) = epochs.get(event.epoch) else { return FlowItem::Lost(1) };
    let time = Timestamp::try_from(clock.wall(event.time)).unwrap_or_default();
    FlowItem::Flow(Box::new(FlowRecord::new(event, time, compiled)))
}
