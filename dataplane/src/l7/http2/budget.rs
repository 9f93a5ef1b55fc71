//! How many frames that only make work a client may send.

use podgate_tables::time::Nanos;

/// Frames that may come at once.
const BURST: u32 = 1_000;
/// Time after which one more may come, nanoseconds: 200 a second.
const REFILL_NS: u64 = 5_000_000;

/// A token bucket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    tokens: u32,
    /// Until when tokens were added.
    since: Nanos,
}

impl Default for Budget {
    fn default() -> Self {
        Self { tokens: BURST, since: Nanos(0) }
    }
}

impl Budget {
    /// Takes a token. False if there is none.
    pub(super) fn take(&mut self, now: Nanos) -> bool {
        let refills = now.since(self.since) / REFILL_NS;
        self.since = Nanos(self.since.0 + refills * REFILL_NS);
        self.earn(refills.min(u64::from(BURST)) as u32);
        let has_token = self.tokens > 0;
        self.tokens -= u32::from(has_token);
        has_token
    }

    /// Adds tokens.
    pub(super) fn earn(&mut self, tokens: u32) {
        self.tokens = (self.tokens + tokens).min(BURST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_two_hundred_a_second() {
        let mut budget = Budget::default();
        let mut taken = |seconds: u64| {
            (0..2_000).filter(|_| budget.take(Nanos(seconds * 1_000_000_000))).count()
        };
        assert_eq!([100, 101, 103].map(&mut taken), [1_000, 200, 400]);
        assert_eq!(taken(1_000_000), 1_000);
    }
}
