//! A token bucket: how many of something may happen in a second, and how many at once.

use crate::time::Nanos;

/// What a bucket lets pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// Time in which one token comes back, nanoseconds.
    each_ns: u64,
    /// Tokens of a full bucket.
    burst: u64,
}

impl Rate {
    /// `tokens` a second, at least one, and `burst` at once after a pause.
    #[must_use]
    pub const fn per_second(tokens: u64, burst: u64) -> Self {
        Self { each_ns: 1_000_000_000 / tokens, burst }
    }
}

/// A bucket, which is full at first. Its [`Rate`] is an argument, so that it takes eight bytes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct TokenBucket {
    /// When it will be full again; it is full if this is in the past.
    full_at: Nanos,
}

impl TokenBucket {
    /// Takes a token at `now`. False if there is none.
    pub fn take(&mut self, now: Nanos, rate: Rate) -> bool {
        let mut after = *self;
        let has_token = after.reserve(now, rate) <= now;
        if has_token {
            *self = after;
        }
        has_token
    }

    /// Takes a token, in advance if there is none. Returns when it is due.
    pub fn reserve(&mut self, now: Nanos, rate: Rate) -> Nanos {
        self.full_at = Nanos(self.full_at.max(now).0.saturating_add(rate.each_ns));
        let full_ns = rate.each_ns.saturating_mul(rate.burst);
        Nanos(self.full_at.0.saturating_sub(full_ns)).max(now)
    }

    /// Puts tokens back; those that a full bucket has no room for are lost.
    pub fn put_back(&mut self, tokens: u32, rate: Rate) {
        let back = rate.each_ns.saturating_mul(tokens.into());
        self.full_at = Nanos(self.full_at.0.saturating_sub(back));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate::per_second(100, 50);

    fn taken(bucket: &mut TokenBucket, now: Nanos) -> usize {
        (0..1000).filter(|_| bucket.take(now, RATE)).count()
    }

    #[test]
    fn a_burst_passes_and_then_as_many_as_came_back() {
        let (mut bucket, begin) = (TokenBucket::default(), Nanos(5_000_000_000));
        assert_eq!(taken(&mut bucket, begin), 50);
        assert_eq!(taken(&mut bucket, begin.plus_millis(105)), 10);
        assert_eq!(taken(&mut bucket, begin.plus_millis(110)), 1, "fractions are not lost");
        assert_eq!(taken(&mut bucket, begin.plus_millis(109)), 0, "time that goes back adds none");
        assert_eq!(taken(&mut bucket, begin.plus_secs(3600)), 50, "never more than the burst");
    }

    #[test]
    fn tokens_are_put_back_up_to_the_burst() {
        let (mut bucket, begin) = (TokenBucket::default(), Nanos(5_000_000_000));
        assert_eq!(taken(&mut bucket, begin), 50);
        bucket.put_back(7, RATE);
        assert_eq!(taken(&mut bucket, begin), 7);
        bucket.put_back(70, RATE);
        assert_eq!(taken(&mut bucket, begin), 50);
    }

    #[test]
    fn what_waits_for_its_token_goes_at_the_rate() {
        let (mut bucket, begin) = (TokenBucket::default(), Nanos(5_000_000_000));
        let at: Vec<_> = (0..52).map(|_| bucket.reserve(begin, RATE).since(begin)).collect();
        assert_eq!(at[..50], [0; 50]);
        assert_eq!(at[50..], [10_000_000, 20_000_000]);
    }
}
