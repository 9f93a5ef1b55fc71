//! The observer: events of the workers, as flow records with names.

use std::sync::Arc;

use jiff::Timestamp;
use podgate_api::FlowItem;
use podgate_dataplane::share::FairShare;
use podgate_dataplane::worker::{Clock, Dataplane};
use podgate_policy::observe::FlowRecord;
use podgate_tables::event::Event;
use tokio::sync::broadcast;

use super::epochs::Epochs;
use super::flow_log::FlowLog;

/// Most events of one drain that are logged, so that a flood of dropped packets leaves this thread
/// time for other work; the rest is counted as lost. Each link has its share of them.
const RECORDS_PER_DRAIN: usize = 2048;

/// Records that are made in one drain although nobody reads them (see [`super::flow_log`]): 2,560
/// per second, which take less than 2 % of a core.
const UNREAD_RECORDS_PER_DRAIN: usize = 64;

/// Flow records.
pub(super) struct Observer {
    log: FlowLog,
    /// Events of the last drain, by link.
    shares: FairShare,
    /// Events that were logged.
    records: u64,
    /// Events that were not logged: too many at one time, or of an epoch of too long ago.
    skipped: u64,
    /// Lost events that the log has gaps for.
    lost_logged: u64,
}

impl Observer {
    /// An empty log of at most `capacity` records.
    pub(super) fn new(capacity: usize) -> Self {
        let (log, shares) = (FlowLog::new(capacity), FairShare::default());
        Self { log, shares, records: 0, skipped: 0, lost_logged: 0 }
    }

    /// Logs the workers' events.
    pub(super) fn drain(&mut self, dataplane: &Dataplane, epochs: &Epochs) {
        let clock = dataplane.clock();
        let mut events: Vec<Event> = Vec::new();
        dataplane.drain_events(|_, event| events.push(event));
        // Each worker's events are in order already.
        events.sort_by_key(|event| event.time);
        let too_many = events.len() > RECORDS_PER_DRAIN;
        let mut left = RECORDS_PER_DRAIN;
        self.shares.reset();
        for event in &events {
            if too_many && !self.shares.take(event.link, left) {
                self.skipped += 1;
                continue;
            }
            left = left.saturating_sub(1);
            if epochs.get(event.epoch).is_none() {
                self.skipped += 1;
                continue;
            }
            self.log.push_event(event, |event| flow_item(event, clock, epochs));
            self.records += 1;
        }
        let make = |event: &Event| flow_item(event, clock, epochs);
        self.log.make_records(UNREAD_RECORDS_PER_DRAIN, make);
        let lost = self.lost(dataplane);
        if lost > self.lost_logged {
            self.log.push(None, FlowItem::Lost(lost - self.lost_logged));
            self.lost_logged = lost;
        }
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
