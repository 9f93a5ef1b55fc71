//! How many frames that only make work a client may send.

use podgate_tables::time::Nanos;
use podgate_tables::token_bucket::{Rate, TokenBucket};

/// Frames a second, and at once.
const RATE: Rate = Rate::per_second(200, 1_000);

/// What a client may still send.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Budget(TokenBucket);

impl Budget {
    /// Takes a token. False if there is none.
    pub(super) fn take(&mut self, now: Nanos) -> bool {
        self.0.take(now, RATE)
    }

    /// Adds tokens.
    pub(super) fn earn(&mut self, tokens: u32) {
        self.0.put_back(tokens, RATE);
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
