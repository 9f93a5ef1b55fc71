//! How long something takes: histograms, and what is shown of them.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// What takes longer counts as this long, nanoseconds.
const LONGEST_NS: u64 = 10_000_000_000;

/// Percentiles, nanoseconds.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Debug)]
pub struct Latency {
    /// The shortest.
    pub min: u64,
    /// Mean.
    pub mean: f64,
    /// Median.
    pub p50: u64,
    /// 99 of 100 took at most this.
    pub p99: u64,
    /// 999 of 1000 took at most this.
    pub p999: u64,
    /// The longest.
    pub max: u64,
}

impl Latency {
    /// Of what was recorded, with a mean that was measured by itself.
    #[must_use]
    pub fn with_mean(histogram: &Histogram<u64>, mean: f64) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile);
        let (min, max) = (histogram.min(), histogram.max());
        Self { min, mean, p50: at(0.5), p99: at(0.99), p999: at(0.999), max }
    }

    /// Of what was recorded.
    #[must_use]
    pub fn of(histogram: &Histogram<u64>) -> Self {
        Self::with_mean(histogram, histogram.mean())
    }
}

/// An empty histogram of nanoseconds, exact to three digits.
#[must_use]
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_max(LONGEST_NS, 3).expect("the bounds are in order")
}

/// What reading the clock twice shows, without anything between: the median of many.
#[must_use]
pub fn clock_ns() -> u64 {
    const SAMPLES: usize = 1001;
    let mut samples = [0; SAMPLES];
    for sample in &mut samples {
        *sample = Instant::now().elapsed().as_nanos() as u64;
    }
    samples.sort_unstable();
    samples[SAMPLES / 2]
}

/// Time that this thread has had on a processor. Zero where the kernel does not tell.
#[must_use]
pub fn on_cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from).unwrap_or_default()
}
