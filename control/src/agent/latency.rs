//! How long a change at the API server takes until every worker uses it.

use std::collections::VecDeque;
use std::time::Duration;

use podgate_tables::ids::Epoch;
use tokio::time::Instant;

/// Upper bounds of the buckets, microseconds.
pub(crate) const BOUNDS_US: [u64; 12] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    5_000_000,
];

/// Most changes whose arrival is stored; further ones of the same publication are not measured.
const CHANGES_MAX: usize = 4096;

/// Changes that the percentiles are taken over.
const RECENT_MAX: usize = 1024;

/// Measured latencies.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct LatencyCounts {
    /// Changes by bucket, as [`BOUNDS_US`] has them, and a last one without a bound.
    pub(crate) buckets: [u64; BOUNDS_US.len() + 1],
    /// Sum of all, microseconds.
    pub(crate) sum_us: u64,
    /// Changes that were not measured because there were too many.
    pub(crate) skipped: u64,
}

/// Measures the time from the arrival of a change to the use of its tables by all workers.
#[derive(Debug, Default)]
pub(super) struct Latency {
    /// When changes arrived that are not published.
    arrived: Vec<Instant>,
    /// Published changes, until all workers use their epoch.
    published: VecDeque<(Epoch, Vec<Instant>)>,
    counts: LatencyCounts,
    /// The last ones, microseconds.
    recent: VecDeque<u64>,
}

impl Latency {
    /// A change arrived.
    pub(super) fn arrived(&mut self, at: Instant) {
        match self.arrived.len() < CHANGES_MAX {
            true => self.arrived.push(at),
            false => self.counts.skipped += 1,
        }
    }

    /// All changes so far are in the tables of `epoch`.
    pub(super) fn published(&mut self, epoch: Epoch) {
        if !self.arrived.is_empty() {
            self.published.push_back((epoch, std::mem::take(&mut self.arrived)));
        }
    }

    /// All changes so far make no difference to the tables.
    pub(super) fn without_effect(&mut self) {
        self.arrived.clear();
    }

    /// Whether changes are published that not every worker was seen to use.
    pub(super) fn is_pending(&self) -> bool {
        !self.published.is_empty()
    }

    /// Every worker uses `epoch` or a later one, as of `now`.
    pub(super) fn in_force(&mut self, epoch: Epoch, now: Instant) {
        while let Some((_, arrivals)) = self.published.pop_front_if(|(of, _)| *of <= epoch) {
            for arrival in arrivals {
                self.measured(now.duration_since(arrival));
            }
        }
    }

    fn measured(&mut self, took: Duration) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_US.partition_point(|bound| *bound < took);
        self.counts.buckets[bucket] += 1;
        self.counts.sum_us = self.counts.sum_us.saturating_add(took);
        if self.recent.len() == RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(took);
    }

    /// All that was measured.
    pub(super) const fn counts(&self) -> LatencyCounts {
        self.counts
    }

    /// Median, 99th percentile and maximum of the last changes, microseconds; none before the
    /// first.
    pub(super) fn recent(&self) -> Option<[u64; 3]> {
        let mut sorted: Vec<_> = self.recent.iter().copied().collect();
        sorted.sort_unstable();
        let at = |percent: usize| sorted.get((sorted.len() * percent).div_ceil(100).max(1) - 1);
        Some([*at(50)?, *at(99)?, *sorted.last()?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_counts_when_every_worker_uses_its_tables() {
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        let mut latency = Latency::default();
        latency.arrived(start);
        latency.arrived(after(2));
        latency.published(Epoch(7));
        latency.arrived(after(4));
        latency.published(Epoch(8));
        latency.in_force(Epoch(6), after(5));
        assert!(latency.is_pending());
        assert_eq!(latency.recent(), None);
        latency.in_force(Epoch(7), after(6));
        assert_eq!(latency.recent(), Some([4_000, 6_000, 6_000]));
        latency.in_force(Epoch(9), after(604));
        assert!(!latency.is_pending());
        assert_eq!(latency.recent(), Some([6_000, 600_000, 600_000]));
        let counts = latency.counts();
        assert_eq!(counts.sum_us, 610_000);
        assert_eq!(counts.buckets[3..5], [1, 1]);
        assert_eq!(counts.buckets[10], 1);
    }

    #[test]
    fn a_change_without_effect_is_not_measured_and_storms_are_bounded() {
        let mut latency = Latency::default();
        latency.arrived(Instant::now());
        latency.without_effect();
        latency.published(Epoch(1));
        assert!(!latency.is_pending());
        for _ in 0..CHANGES_MAX + 3 {
            latency.arrived(Instant::now());
        }
        assert_eq!(latency.counts().skipped, 3);
    }
}
