//! All counters of a rig's workers at one time, and their changes since another.

use std::collections::BTreeMap;

use podgate_dataplane::stats::WorkerStats;
use podgate_tables::drop_reason::DropReason;

/// A counter or gauge of [`WorkerStats`]; where there are packets and bytes, the packets.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Count {
    /// `received`.
    Received,
    /// `forwarded`.
    Forwarded,
    /// `dropped`, of this reason.
    Dropped(DropReason),
    /// `handed_off`.
    HandedOff,
    /// `originated`.
    Originated,
    /// `resets_sent`.
    ResetsSent,
    /// `held_frames`, a gauge.
    HeldFrames,
    /// `buffered_bytes`, a gauge.
    BufferedBytes,
    /// `fragments_waiting`, a gauge.
    FragmentsWaiting,
    /// `fragments_joined`.
    FragmentsJoined,
    /// `fragments_made`.
    FragmentsMade,
    /// `flows_opened`.
    FlowsOpened,
    /// `flows_evicted`.
    FlowsEvicted,
    /// `affinity_lost`.
    AffinityLost,
    /// `notices_lost`.
    NoticesLost,
    /// `flows`, a gauge.
    Flows,
    /// `l7_allowed`.
    L7Allowed,
    /// `l7_denied`.
    L7Denied,
    /// `dns_answered`.
    DnsAnswered,
    /// `dns_held`.
    DnsHeld,
    /// `dns_unreleased`.
    DnsUnreleased,
    /// `dns_replaced`.
    DnsReplaced,
    /// `events_lost`.
    EventsLost,
    /// `reevaluated`.
    Reevaluated,
    /// `checksums_completed`.
    ChecksumsCompleted,
}

/// The values of all counters, summed over workers.
///
/// Rounds and sleeps are not included, because they depend on how often a test runs a worker, nor
/// is the epoch, which is a property of the published tables.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    values: Vec<(Count, u64)>,
}

impl Counts {
    /// The counters now.
    pub fn of<'a>(workers: impl IntoIterator<Item = &'a WorkerStats>) -> Self {
        let mut sum = Self::default();
        for stats in workers {
            let one = Self::of_worker(stats);
            if sum.values.is_empty() {
                sum = one;
            } else {
                sum.values.iter_mut().zip(one.values).for_each(|(to, (_, value))| to.1 += value);
            }
        }
        sum
    }

    fn of_worker(stats: &WorkerStats) -> Self {
        // Lists every field, so that a new counter doesn't compile before it is added here.
        let WorkerStats {
            received,
            forwarded,
            dropped,
            handed_off,
            originated,
            resets_sent,
            held_frames,
            buffered_bytes,
            fragments_waiting,
            fragments_joined,
            fragments_made,
            flows_opened,
            flows_evicted,
            affinity_lost,
            notices_lost,
            flows,
            l7_allowed,
            l7_denied,
            dns_answered,
            dns_held,
            dns_unreleased,
            dns_replaced,
            events_lost,
            busy_rounds: _,
            sleeps: _,
            busy_poll_extended: _,
            epoch: _,
            reevaluated,
            checksums_completed,
            l7: _,
            inspected_flows: _,
        } = stats;
        let mut values = vec![
            (Count::Received, received.packets.get()),
            (Count::Forwarded, forwarded.packets.get()),
            (Count::HandedOff, handed_off.get()),
            (Count::Originated, originated.packets.get()),
            (Count::ResetsSent, resets_sent.get()),
            (Count::HeldFrames, held_frames.get()),
            (Count::BufferedBytes, buffered_bytes.get()),
            (Count::FragmentsWaiting, fragments_waiting.get()),
            (Count::FragmentsJoined, fragments_joined.get()),
            (Count::FragmentsMade, fragments_made.get()),
            (Count::FlowsOpened, flows_opened.get()),
            (Count::FlowsEvicted, flows_evicted.get()),
            (Count::AffinityLost, affinity_lost.get()),
            (Count::NoticesLost, notices_lost.get()),
            (Count::Flows, flows.get()),
            (Count::L7Allowed, l7_allowed.get()),
            (Count::L7Denied, l7_denied.get()),
            (Count::DnsAnswered, dns_answered.get()),
            (Count::DnsHeld, dns_held.get()),
            (Count::DnsUnreleased, dns_unreleased.get()),
            (Count::DnsReplaced, dns_replaced.get()),
            (Count::EventsLost, events_lost.get()),
            (Count::Reevaluated, reevaluated.get()),
            (Count::ChecksumsCompleted, checksums_completed.get()),
        ];
        for (reason, count) in DropReason::ALL.iter().zip(dropped.iter()) {
            values.push((Count::Dropped(*reason), count.packets.get()));
        }
        Self { values }
    }

    /// The value of one counter.
    #[must_use]
    pub fn get(&self, count: Count) -> u64 {
        self.values.iter().find(|(of, _)| *of == count).map_or(0, |(_, value)| *value)
    }

    /// Packets dropped for any reason.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        let dropped = self.values.iter().filter(|(of, _)| matches!(of, Count::Dropped(_)));
        dropped.map(|(_, value)| value).sum()
    }

    /// Changes since `earlier`, by name; those of gauges may be negative.
    #[must_use]
    pub fn changes_since(&self, earlier: &Self) -> BTreeMap<String, i64> {
        let change = |(count, now): &(Count, u64)| {
            let change = *now as i64 - earlier.get(*count) as i64;
            (change != 0).then(|| (format!("{count:?}"), change))
        };
        self.values.iter().filter_map(change).collect()
    }

    /// Checks that each received packet has exactly one outcome, or is held.
    ///
    /// A packet that is held for an L7 verdict may have several frames, so with held frames only a
    /// lower bound is checked.
    pub fn check_conservation(&self) {
        let of = |count| self.get(count);
        let arrived = of(Count::Received) + of(Count::FragmentsMade);
        let ended = of(Count::Forwarded) + self.dropped();
        let waiting = of(Count::FragmentsWaiting) + of(Count::FragmentsJoined);
        let accounted = ended + waiting;
        let held = of(Count::HeldFrames);
        assert!(
            accounted <= arrived && arrived <= accounted + held,
            "{arrived} packets arrived or were made; {ended} were forwarded or dropped, {waiting} \
             fragments wait or were joined, and {held} frames are held"
        );
    }
}
