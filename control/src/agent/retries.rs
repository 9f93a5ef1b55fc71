//! When the agent tries again to read or attach something after a failure.
//!
//! The kernel reports changes of links, but not that a read would succeed now.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

/// The first delay; each failure doubles it, up to [`DELAY_MAX`].
const DELAY_MIN: Duration = Duration::from_secs(1);
const DELAY_MAX: Duration = Duration::from_secs(60);

/// What failed, by name or number.
#[derive(Debug)]
pub(super) struct Retries<K>(BTreeMap<K, Retry>);

impl<K> Default for Retries<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

#[derive(Debug)]
struct Retry {
    delay: Duration,
    due: Instant,
    /// Whether it was due since the last failure.
    was_due: bool,
    /// Why it failed, if [`Retries::reasons`] lists it.
    reason: Option<String>,
}

impl<K: Clone + Ord> Retries<K> {
    /// Something failed, with a reason if it is to be listed. What was tried because the kernel
    /// reported a change doesn't defer the next retry. Returns whether it failed before for the
    /// same reason.
    pub(super) fn failed(&mut self, what: K, reason: Option<String>, now: Instant) -> bool {
        let (delay, due) = match self.0.get(&what) {
            Some(Retry { delay, due, was_due: false, .. }) => (*delay, *due),
            Some(Retry { delay, .. }) => {
                let delay = (2 * *delay).min(DELAY_MAX);
                (delay, now + delay)
            }
            None => (DELAY_MIN, now + DELAY_MIN),
        };
        let listed = reason.clone();
        let before = self.0.insert(what, Retry { delay, due, was_due: false, reason });
        before.is_some_and(|before| before.reason == listed)
    }

    /// Nothing is wrong, or there is nothing of this name any more.
    pub(super) fn clear<Q: Ord + ?Sized>(&mut self, what: &Q)
    where
        K: Borrow<Q>,
    {
        self.0.remove(what);
    }

    /// Clears everything else than what is `wanted`.
    pub(super) fn retain(&mut self, wanted: impl Fn(&K) -> bool) {
        self.0.retain(|what, _| wanted(what));
    }

    /// What is due. Each is due again after its delay, unless it succeeds or fails before.
    pub(super) fn due(&mut self, now: Instant) -> Vec<K> {
        let due = self.0.iter_mut().filter(|(_, retry)| now >= retry.due);
        due.map(|(what, retry)| {
            (retry.due, retry.was_due) = (now + retry.delay, true);
            what.clone()
        })
        .collect()
    }

    /// Whether nothing failed.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What failed with a reason, the reason, and after how many seconds it is tried again. The
    /// caller adds what that means, for instance that the last state stays in force.
    pub(super) fn reasons(&self) -> impl Iterator<Item = (&K, &str, u64)> {
        let retries = self.0.iter();
        retries.filter_map(|(what, r)| Some((what, r.reason.as_deref()?, r.delay.as_secs())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_fails_is_due_after_growing_delays_until_it_succeeds() {
        let (mut retries, mut now) = (Retries::default(), Instant::now());
        let mut delays = Vec::new();
        for _ in 0..8 {
            for _ in 0..5 {
                retries.failed("veth1", None, now);
            }
            let mut delay = 0;
            while retries.due(now).is_empty() {
                now += Duration::from_secs(1);
                delay += 1;
            }
            delays.push(delay);
            // The retry may end without a result.
            assert!(retries.due(now).is_empty());
        }
        assert_eq!(delays, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(retries.due(now + DELAY_MAX), ["veth1"]);
        retries.clear(&"veth1");
        assert!(retries.due(now + 2 * DELAY_MAX).is_empty());
    }

    #[tokio::test]
    async fn the_reasons_of_what_failed_are_listed_until_it_succeeds_or_is_not_wanted() {
        let mut retries = Retries::default();
        let reason = || Some("no thread is free".to_owned());
        assert!(!retries.failed("veth1", reason(), Instant::now()));
        assert!(retries.failed("veth1", reason(), Instant::now()));
        retries.failed("veth2", None, Instant::now());
        assert_eq!(Vec::from_iter(retries.reasons()), [(&"veth1", "no thread is free", 1)]);
        retries.retain(|link| *link == "veth2");
        assert_eq!(retries.reasons().count(), 0);
        assert!(!retries.is_empty());
    }
}
