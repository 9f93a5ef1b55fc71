//! How long requests took: counts in buckets, four for each doubling, so that percentiles are
//! right within 19 %.

/// Buckets: up to 2^40 ns, 18 minutes.
const BUCKETS: usize = 160;

/// Latencies.
#[derive(Clone, Debug)]
pub(super) struct Latencies {
    counts: Box<[u32; BUCKETS]>,
    total: u64,
    max_ns: u64,
}

impl Default for Latencies {
    fn default() -> Self {
        Self { counts: Box::new([0; BUCKETS]), total: 0, max_ns: 0 }
    }
}

impl Latencies {
    /// Adds one.
    pub(super) fn add(&mut self, ns: u64) {
        let bucket = &mut self.counts[bucket(ns)];
        *bucket = bucket.saturating_add(1);
        self.total += 1;
        self.max_ns = self.max_ns.max(ns);
    }

    /// The longest, nanoseconds.
    pub(super) const fn max_ns(&self) -> u64 {
        self.max_ns
    }

    /// What `percent` of all took at most, nanoseconds.
    pub(super) fn percentile_ns(&self, percent: u64) -> u64 {
        let wanted = (self.total * percent).div_ceil(100);
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += u64::from(*count);
            if seen >= wanted && seen > 0 {
                return upper_bound(index).min(self.max_ns);
            }
        }
        self.max_ns
    }
}

fn bucket(ns: u64) -> usize {
    let log = (ns.max(1) as f64).log2();
    ((log * 4.0).ceil() as usize).min(BUCKETS - 1)
}

fn upper_bound(bucket: usize) -> u64 {
    (bucket as f64 / 4.0).exp2().round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_bucket_bounds() {
        let mut latencies = Latencies::default();
        assert_eq!((latencies.percentile_ns(50), latencies.max_ns()), (0, 0));
        (0..99).for_each(|_| latencies.add(1_000_000));
        latencies.add(80_000_000);
        let half = latencies.percentile_ns(50);
        assert!((1_000_000..1_200_000).contains(&half), "{half}");
        assert!(latencies.percentile_ns(99) < 1_200_000);
        assert_eq!(latencies.percentile_ns(100), 80_000_000);
        for extreme in [0, u64::MAX] {
            latencies.add(extreme);
        }
        assert_eq!(latencies.max_ns(), u64::MAX);
    }
}
