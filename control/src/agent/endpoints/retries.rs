//! When the agent tries again to read a pod's end, or to attach a link, which failed before.
//!
//! The kernel reports changes of links, but not that a read would succeed now.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

/// The first delay; each failure doubles it, up to [`DELAY_MAX`].
const DELAY_MIN: Duration = Duration::from_secs(1);
const DELAY_MAX: Duration = Duration::from_secs(60);

/// Endpoints with something that failed, by the names of their links.
#[derive(Debug, Default)]
pub(super) struct Retries(BTreeMap<String, Retry>);

#[derive(Debug)]
struct Retry {
    delay: Duration,
    due: Instant,
    /// Whether it was due since the last failure.
    was_due: bool,
    /// Why the pod's end could not be read, if what was read before stays in force.
    kept: Option<String>,
}

impl Retries {
    /// Something failed at an endpoint's link. What was tried because the kernel reported a change
    /// doesn't defer the next retry.
    pub(super) fn failed(&mut self, link: &str, kept: Option<String>, now: Instant) {
        let (delay, due) = match self.0.get(link) {
            Some(Retry { delay, due, was_due: false, .. }) => (*delay, *due),
            Some(Retry { delay, .. }) => {
                let delay = (2 * *delay).min(DELAY_MAX);
                (delay, now + delay)
            }
            None => (DELAY_MIN, now + DELAY_MIN),
        };
        self.0.insert(link.to_owned(), Retry { delay, due, was_due: false, kept });
    }

    /// Nothing is wrong with an endpoint's link, or there is no such endpoint any more.
    pub(super) fn clear(&mut self, link: &str) {
        self.0.remove(link);
    }

    /// The links that are due. Each is due again after its delay, unless it succeeds or fails
    /// before.
    pub(super) fn due(&mut self, now: Instant) -> Vec<String> {
        let due = self.0.iter_mut().filter(|(_, retry)| now >= retry.due);
        due.map(|(link, retry)| {
            (retry.due, retry.was_due) = (now + retry.delay, true);
            link.clone()
        })
        .collect()
    }

    /// Pods' ends that can't be read though what was read before stays in force, one line each.
    pub(super) fn problems(&self) -> impl Iterator<Item = String> {
        self.0.iter().filter_map(|(link, retry)| {
            let reason = retry.kept.as_ref()?;
            Some(format!(
                "the pod's end of link {link} can't be read: {reason}; its state before stays in \
                 force, and it is tried again every {} s",
                retry.delay.as_secs()
            ))
        })
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
            // It may be that nothing comes of it.
            assert!(retries.due(now).is_empty());
        }
        assert_eq!(delays, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(retries.due(now + DELAY_MAX), ["veth1"]);
        retries.clear("veth1");
        assert!(retries.due(now + 2 * DELAY_MAX).is_empty());
    }

    #[tokio::test]
    async fn a_state_that_is_kept_is_a_problem() {
        let mut retries = Retries::default();
        retries.failed("veth1", Some("no thread is free".to_owned()), Instant::now());
        retries.failed("veth2", None, Instant::now());
        let problems = Vec::from_iter(retries.problems());
        assert_eq!(problems.len(), 1);
        assert!(problems[0].contains("veth1 can't be read: no thread is free"), "{problems:?}");
    }
}
