//! Points in time, always passed as arguments.

/// A point in time: nanoseconds of a monotonic clock that the caller owns.
///
/// Nothing in the packet path reads a clock; time is always an argument.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord, Default)]
pub struct Nanos(pub u64);

impl Nanos {
    /// This instant, `seconds` later.
    #[must_use]
    #[inline]
    pub const fn plus_secs(self, seconds: u64) -> Self {
        Self(self.0.saturating_add(seconds.saturating_mul(1_000_000_000)))
    }

    /// This instant, `millis` milliseconds later.
    #[must_use]
    #[inline]
    pub const fn plus_millis(self, millis: u64) -> Self {
        Self(self.0.saturating_add(millis.saturating_mul(1_000_000)))
    }

    /// Nanoseconds since `earlier`; zero if `earlier` is later.
    #[must_use]
    #[inline]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}
