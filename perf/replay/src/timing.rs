//! The timed repetitions.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use podgate_tables::drop_reason::DropReason;
use podgate_tables::ids::LinkId;
use podgate_tables::time::Nanos;

use super::capture::Capture;
use super::plan::{SPAN_MAX_NS, Step};
use super::report::Performance;
use crate::latency::{self, Latency};
use crate::progress;
use crate::rig::{Rig, START};

/// Time for repetitions if their number is not given.
const DEFAULT_DURATION: Duration = Duration::from_secs(1);
/// Maximum number of repetitions if their number is not given.
const DEFAULT_REPETITIONS_MAX: u32 = 10_000;

/// Maximum number of packets in one round: as many as a worker takes from one ring at once.
const BATCH: usize = 64;
/// Maximum time span of the packets of one round, nanoseconds: shorter than every timer.
const BATCH_SPAN_NS: u64 = 10_000_000;

/// Repeats `steps`, which the rig has replayed once: `repetitions` times, or for about a second.
/// `None` if there is nothing to measure.
pub(super) fn measure(
    capture: &Capture,
    steps: &[Step],
    rig: &mut Rig,
    repetitions: Option<u32>,
) -> Option<Performance> {
    if steps.is_empty() {
        return None;
    }
    let mut meter = Meter::new();
    let first = Outcomes::of(rig);
    let most = repetitions.unwrap_or(DEFAULT_REPETITIONS_MAX);
    let packets = |repetitions: &u64| repetitions.saturating_mul(steps.len() as u64);
    let shown = |repetitions: &u64| packets(repetitions) >= progress::STEPS_MIN;
    let bar = progress::bar("measuring", repetitions.map(u64::from).filter(shown));
    let (begin, mut done, mut deviating) = (Instant::now(), 0, 0);
    // The timestamps of another repetition must not overflow the clock.
    let lasts = |rig: &Rig| rig.now().0 < SPAN_MAX_NS;
    while done < most && lasts(rig) && (repetitions.is_some() || begin.elapsed() < DEFAULT_DURATION)
    {
        rig.expire_flows();
        let before = Outcomes::of(rig);
        repeat(capture, steps, rig, &mut meter);
        deviating += u32::from(Outcomes::of(rig).since(&before) != first);
        done += 1;
        bar.inc(1);
    }
    bar.finish_and_clear();
    (done > 0).then(|| meter.result(done, deviating))
}

/// One repetition, which begins with an empty flow table.
fn repeat(capture: &Capture, steps: &[Step], rig: &mut Rig, meter: &mut Meter) {
    // The worker's clock never goes back, so all timestamps are shifted.
    let shift = rig.now().since(START) + 1;
    let mut left = steps;
    while let Some(first) = left.first() {
        rig.advance_to(Nanos(first.time.0 + shift), &mut |_| {});
        // A worker serves its links in order. So a packet on an earlier link than the one before it
        // has to wait for the next round, or the two would be reordered.
        let mut link = LinkId(0);
        let delivered = |step: &&Step| {
            let follows = step.link >= link && step.time.since(first.time) <= BATCH_SPAN_NS;
            link = step.link;
            follows && rig.deliver(step.link, capture.frame(&step.packet))
        };
        let batch = left.iter().take(BATCH).take_while(delivered).count();
        if batch > 0 {
            meter.round(rig, batch);
            rig.collect(&mut |_| {});
        }
        // Without a free frame the packet is lost, as it would be in the kernel.
        left = &left[batch.max(1)..];
    }
}

/// Numbers of packets that were forwarded, and dropped by reason.
#[derive(PartialEq, Eq)]
struct Outcomes([u64; DropReason::COUNT + 1]);

impl Outcomes {
    fn of(rig: &Rig) -> Self {
        let stats = rig.stats();
        Self(std::array::from_fn(|end| {
            stats.dropped.get(end).unwrap_or(&stats.forwarded).packets.get()
        }))
    }

    fn since(self, earlier: &Self) -> Self {
        Self(std::array::from_fn(|end| self.0[end] - earlier.0[end]))
    }
}

/// Times and counts of rounds.
struct Meter {
    histogram: Histogram<u64>,
    measured: Duration,
    packets: u64,
    rounds: u64,
}

impl Meter {
    fn new() -> Self {
        let histogram = latency::histogram();
        Self { histogram, measured: Duration::ZERO, packets: 0, rounds: 0 }
    }

    /// Measures one round of `batch` packets.
    fn round(&mut self, rig: &mut Rig, batch: usize) {
        let begin = Instant::now();
        let processed = rig.round();
        let took = begin.elapsed();
        debug_assert_eq!(processed, batch, "one round processes all delivered packets");
        self.measured += took;
        self.rounds += 1;
        self.packets += batch as u64;
        let each = took.as_nanos() as u64 / batch as u64;
        self.histogram.saturating_record_n(each.max(1), batch as u64);
    }

    fn result(&self, repetitions: u32, deviating: u32) -> Performance {
        let packets = self.packets.max(1) as f64;
        let nanos = self.measured.as_nanos() as f64;
        Performance {
            repetitions,
            deviating,
            packets: self.packets,
            packets_per_round: packets / self.rounds.max(1) as f64,
            packets_per_second: packets * 1e9 / nanos.max(1.0),
            ns_per_packet: Latency::with_mean(&self.histogram, nanos / packets),
            clock_ns: latency::clock_ns(),
            debug_build: cfg!(debug_assertions),
        }
    }
}
