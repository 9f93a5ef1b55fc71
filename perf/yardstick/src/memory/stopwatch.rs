//! Times and counts the rounds of a rig.

use std::time::{Duration, Instant};

use crate::alloc::Count;
use podgate_replay::rig::Rig;

/// What the rounds so far came to.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Stopwatch {
    pub(super) packets: u64,
    pub(super) took: Duration,
    pub(super) allocations: u64,
}

impl Stopwatch {
    /// One round over what was delivered, then the kernel's part, which is not timed. The rig's
    /// clock goes on by as much as the round took.
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

    /// Millions per second, of `count` things done in the time.
    pub(super) fn millions_per_second(&self, count: u64) -> f64 {
        count as f64 / self.took.as_secs_f64() / 1e6
    }

    pub(super) fn ns_per_packet(&self) -> f64 {
        self.took.as_nanos() as f64 / self.packets as f64
    }
}

/// A round by a name that a profiler can look for.
#[inline(never)]
pub(super) fn round(rig: &mut Rig) -> usize {
    rig.round()
}
