//! Latency histograms and their percentiles.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// Upper bound of histograms, nanoseconds; longer times count as this.
const MAX_NS: u64 = 10_000_000_000;

/// Percentiles, nanoseconds.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Debug)]
pub struct Latency {
    /// Minimum.
    pub min: u64,
    /// Mean.
    pub mean: f64,
    /// Median.
    pub p50: u64,
    /// 99th percentile.
    pub p99: u64,
    /// 99.9th percentile.
    pub p999: u64,
    /// Maximum.
    pub max: u64,
}

impl Latency {
    /// The percentiles of `histogram`, with a mean that was measured separately.
    #[must_use]
    pub fn with_mean(histogram: &Histogram<u64>, mean: f64) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile);
        let (min, max) = (histogram.min(), histogram.max());
        Self { min, mean, p50: at(0.5), p99: at(0.99), p999: at(0.999), max }
    }

    /// The percentiles and the mean of `histogram`.
    #[must_use]
    pub fn of(histogram: &Histogram<u64>) -> Self {
        Self::with_mean(histogram, histogram.mean())
    }
}

/// An empty histogram of nanoseconds with three significant digits.
#[must_use]
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_max(MAX_NS, 3).expect("the bounds are in order")
}

/// Cost of reading the clock, nanoseconds: the median difference of two consecutive readings.
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

/// CPU time of this thread. Zero if the kernel doesn't provide it.
#[must_use]
pub fn on_cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from).unwrap_or_default()
}
