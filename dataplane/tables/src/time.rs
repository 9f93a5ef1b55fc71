//! Points in time. The packet path reads no clock: time is always an argument.

/// A point in time: nanoseconds on a monotonic clock of the caller.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord, Default)]
pub struct Nanos(pub u64);

impl Nanos {
    /// The instant `seconds` after this one.
    #[must_use]
    #[inline]
    pub const fn plus_secs(self, seconds: u64) -> Self {
        Self(self.0.saturating_add(seconds.saturating_mul(1_000_000_000)))
    }

    /// The instant `millis` milliseconds after this one.
    #[must_use]
    #[inline]
    pub const fn plus_millis(self, millis: u64) -> Self {
        Self(self.0.saturating_add(millis.saturating_mul(1_000_000)))
    }

    /// Nanoseconds since `earlier`; zero if `earlier` is later than this instant.
    #[must_use]
    #[inline]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}
