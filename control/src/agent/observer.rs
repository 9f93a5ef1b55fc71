//! The observer: takes events from workers and BPF programs, and passes them to the flow thread.

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use podgate_api::ApiError;
use podgate_dataplane::l7::dns::learned::DnsAnswer;
use podgate_dataplane::share::FairShare;
use podgate_hubble::AgentEvents;
use podgate_policy::Compiled;
use podgate_tables::event::{Event, EventKind};

use super::endpoints::Links;
use super::epochs::Epochs;
use super::flow_log::EventClass;
use super::flow_metrics::FlowCounts;
use super::flow_names::{Learned, LearnedAddress};
use super::flow_thread::{Batch, FlowRange, FlowThread, Message};
use super::server::ReplySender;

/// Most events of one drain that are logged, so that a flood of dropped packets leaves the flow
/// thread time for other work; the rest is counted as lost. Each link has its share of them.
const RECORDS_PER_DRAIN: usize = 2048;

/// How many of these are for drops and denials, if there are that many: the rest is for what was
/// forwarded.
const DROPS_PER_DRAIN: usize = RECORDS_PER_DRAIN / 2;

/// How many are for drops by the BPF programs, at most: the rest is for all others.
const PROGRAM_DROPS_PER_DRAIN: usize = RECORDS_PER_DRAIN / 8;
/// Events of each worker that are passed on at a time while many come, at most. Processing them may
/// take the core of a worker or of a pod, whose packets wait meanwhile.
const EVENTS_AT_A_TIME: usize = 96;

/// A drain that finds at least this many events is [`Drained::Many`].
const MANY_EVENTS: usize = 12;

/// Most DNS answers that wait for the flow thread; flows miss the names of further ones.
const LEARNED_MAX: usize = 1024;

/// Time until the next ones are passed on while many come.
pub(super) const MORE_EVENTS_AFTER: Duration = Duration::from_millis(1);

/// How many of the workers' events to pass on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Amount {
    /// Those that wait on the rings.
    All,
    /// At most [`EVENTS_AT_A_TIME`] of each worker.
    Batch,
}

/// How many events came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Drained {
    Nothing,
    Few,
    Many,
}

/// Makes the end event of a flow name the pods of its last packets, as long as the tables of their
/// epoch are stored.
fn name_end(event: &mut Event, epochs: &Epochs) {
    if let EventKind::End { decided, .. } = event.kind
        && epochs.get(decided).is_some()
    {
        event.epoch = decided;
    }
}

/// Passes events on.
pub(super) struct Observer {
    thread: FlowThread,
    /// Drops of the last drain, by link.
    drop_shares: FairShare,
    /// Drops by the BPF programs, of the last drain, by link.
    program_shares: FairShare,
    /// Other events of the last drain, by link.
    shares: FairShare,
    /// Events that were passed on.
    records: u64,
    /// Events that were not passed on: too many at one time, or of an epoch of too long ago.
    skipped: u64,
    /// Lost events that the log has gaps for.
    lost_logged: u64,
    /// DNS answers that were not passed on yet.
    learned: Vec<Learned>,
}

impl Observer {
    /// Passes events to `thread`.
    pub(super) fn new(thread: FlowThread) -> Self {
        Self {
            thread,
            drop_shares: FairShare::default(),
            program_shares: FairShare::default(),
            shares: FairShare::default(),
            records: 0,
            skipped: 0,
            lost_logged: 0,
            learned: Vec::new(),
        }
    }

    /// Takes a DNS answer, for the names of flows.
    pub(super) fn learn(&mut self, answer: &DnsAnswer, tables: Option<&Compiled>) {
        if self.learned.len() == LEARNED_MAX {
            return;
        }
        let name = String::from_utf8_lossy(answer.name.bytes()).into();
        let addresses = answer.addresses().iter().map(|it| LearnedAddress {
            address: it.address,
            ttl_s: it.ttl,
            pod: tables.and_then(|tables| tables.catalog.pod_at(it.address.ip())).cloned(),
        });
        self.learned.push(Learned { name, addresses: addresses.collect() });
    }

    /// Passes on events of the workers, and of frames that the BPF programs dropped. Returns how
    /// many come.
    pub(super) fn drain(&mut self, links: &mut Links, epochs: &Epochs, amount: Amount) -> Drained {
        let mut events: Vec<Event> = Vec::new();
        let max = if amount == Amount::All { usize::MAX } else { EVENTS_AT_A_TIME };
        links.dataplane().drain_events(max, |_, event| events.push(event));
        links.drain_dropped(max, |event| events.push(event));
        // Each worker's events are in order already.
        events.sort_by_key(|event| event.time);
        events.iter_mut().for_each(|event| name_end(event, epochs));
        let drained = events.len();
        self.thin(&mut events);
        let mut tables = Vec::new();
        events.retain(|event| {
            let known = tables.iter().any(|(epoch, _)| *epoch == event.epoch);
            if !known && let Some(compiled) = epochs.get(event.epoch) {
                tables.push((event.epoch, compiled.clone()));
            }
            known || epochs.get(event.epoch).is_some()
        });
        self.skipped += (drained - events.len()) as u64;
        let lost = self.lost(links);
        let drained = match drained {
            0 => Drained::Nothing,
            few if few < MANY_EVENTS => Drained::Few,
            _ => Drained::Many,
        };
        if events.is_empty() && lost == self.lost_logged {
            return drained;
        }
        let count = events.len() as u64;
        let learned = mem::take(&mut self.learned);
        let batch = Batch { events, tables, lost: lost - self.lost_logged, learned };
        match self.thread.send(Message::Events(batch)) {
            Ok(()) => {
                self.records += count;
                self.lost_logged = lost;
            }
            Err(Message::Events(batch)) => {
                self.skipped += count;
                self.learned = batch.learned;
            }
            Err(Message::Read { .. }) => {}
        }
        drained
    }

    /// If there are too many events, keeps each link's share of them; drops have shares of their
    /// own.
    fn thin(&mut self, events: &mut Vec<Event>) {
        if events.len() <= RECORDS_PER_DRAIN {
            return;
        }
        self.drop_shares.reset();
        self.program_shares.reset();
        self.shares.reset();
        let count = |class| events.iter().filter(|event| EventClass::of(event) == class).count();
        let [others, drops, by_programs] =
            [EventClass::Allowed, EventClass::Dropped, EventClass::DroppedByProgram].map(count);
        let mut left_for_programs = by_programs.min(PROGRAM_DROPS_PER_DRAIN);
        let max = RECORDS_PER_DRAIN - left_for_programs;
        let for_others = others.min(max - drops.min(DROPS_PER_DRAIN));
        let mut left_for_drops = max - for_others;
        let mut left = max - left_for_drops;
        events.retain(|event| {
            let (shares, left) = match EventClass::of(event) {
                EventClass::DroppedByProgram => (&mut self.program_shares, &mut left_for_programs),
                EventClass::Dropped => (&mut self.drop_shares, &mut left_for_drops),
                EventClass::Allowed => (&mut self.shares, &mut left),
            };
            let taken = shares.take(event.link, *left);
            *left -= usize::from(taken);
            taken
        });
    }

    /// Answers a client with the last `count` records, and new ones if it asks for them.
    pub(super) fn answer(&self, count: u32, range: FlowRange, reply: ReplySender) {
        let message = Message::Read { count: count as usize, range, reply };
        if let Err(Message::Read { reply, .. }) = self.thread.send(message) {
            let error = ApiError::failed("the flow log is busy; try again");
            // Fails if the client has left.
            let _ = reply.send(Err(error));
        }
    }

    /// Where events of the agent go.
    pub(super) fn agent_events(&self) -> &Arc<AgentEvents> {
        self.thread.agent_events()
    }

    /// What the flow thread has counted.
    pub(super) fn flow_counts(&self) -> FlowCounts {
        self.thread.counts()
    }

    /// Fails when the flow thread has ended.
    pub(super) fn check(&self) -> Result<()> {
        self.thread.check()
    }

    /// Events that were logged.
    pub(super) fn records(&self) -> u64 {
        self.records
    }

    /// Events that were not logged.
    pub(super) fn lost(&self, links: &Links) -> u64 {
        let workers = links.dataplane().shared().stats.iter();
        let by_workers = workers.map(|worker| worker.events_lost.get()).sum::<u64>();
        by_workers + links.dropped_unrecorded() + self.skipped
    }
}

#[cfg(test)]
mod tests {
    use podgate_policy::{Store, compile};
    use podgate_tables::address::Address;
    use podgate_tables::event::Traffic;
    use podgate_tables::ids::{Epoch, LinkId};
    use podgate_tables::time::Nanos;
    use podgate_tables::tuple::Tuple;

    use super::*;

    #[test]
    fn the_end_of_a_flow_is_named_by_the_tables_of_its_last_packets_while_they_are_there() {
        let mut epochs = Epochs::default();
        for epoch in 1..=257 {
            epochs.push(Epoch(epoch), compile(&Store::new()));
        }
        let named_by = |decided| {
            let address = Address::v4([10, 0, 0, 1]);
            let (src, dst) = (address, address);
            let tuple = Tuple { src, dst, src_port: 1, dst_port: 2, protocol: 6 };
            let (original, reply) = (Traffic::default(), Traffic::default());
            let kind = EventKind::End { original, reply, decided: Epoch(decided) };
            let (time, epoch, link) = (Nanos(1), Epoch(257), LinkId(1));
            let mut event = Event { time, epoch, link, tuple, frontend: None, kind };
            name_end(&mut event, &epochs);
            event.epoch.0
        };
        assert_eq!([1, 2, 256, 257].map(named_by), [257, 2, 256, 257]);
    }
}
