//! Times and counts of a rig's rounds.

use std::time::{Duration, Instant};

use crate::alloc::Count;
use podgate_replay::rig::Rig;

/// Totals of the rounds so far.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Stopwatch {
    pub(super) packets: u64,
    pub(super) took: Duration,
    pub(super) allocations: u64,
}

impl Stopwatch {
    /// Runs one timed round over the delivered packets, then the kernel's part untimed. The rig's
    /// clock advances by the time of the round.
    pub(super) fn round(&mut self, rig: &mut Rig) {
        let allocated = Count::now();
        let begin = Instant::now();
        let packets = round(rig);
        let took = begin.elapsed();
        self.allocations += Count::now().since(allocated).allocations;
        self.took += took;
        self.packets += packets as u64;
        rig.advance(took.as_nanos() as u64);
        rig.collect(&mut |_| {});
    }

    /// Rate of `count` in millions per second.
    pub(super) fn millions_per_second(&self, count: u64) -> f64 {
        count as f64 / self.took.as_secs_f64() / 1e6
    }

    pub(super) fn ns_per_packet(&self) -> f64 {
        self.took.as_nanos() as f64 / self.packets as f64
    }
}

/// A round as a function that profilers can find by its name.
#[inline(never)]
pub(super) fn round(rig: &mut Rig) -> usize {
    rig.round()
}
