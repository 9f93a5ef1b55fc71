//! Debouncing of work that many small causes request.

use std::time::Duration;

use tokio::time::Instant;

/// Runs requested work at once when nothing was done recently; under a storm of requests it takes
/// at most half of the time: the next run waits at least as long as the last one took, and at least
/// until `gap` after its beginning.
#[derive(Debug, Default)]
pub(super) struct Debounce {
    gap: Duration,
    due: Option<Instant>,
    /// Beginning of the last run and how long it took.
    last: Option<(Instant, Duration)>,
}

impl Debounce {
    /// As [`Self::default`], with a minimum gap.
    pub(super) const fn with_gap(gap: Duration) -> Self {
        Self { gap, due: None, last: None }
    }

    /// Requests a run.
    pub(super) fn request(&mut self) {
        let now = Instant::now();
        let free = self.last.map_or(now, |(begin, took)| begin + self.gap.max(2 * took));
        self.due.get_or_insert_with(|| now.max(free));
    }

    /// When the next run is due, if one was requested.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Begins a run: requests from here on ask for another one.
    pub(super) fn begin(&mut self) -> Instant {
        self.due = None;
        Instant::now()
    }

    /// Ends the run that began at `begin`.
    pub(super) fn end(&mut self, begin: Instant) {
        self.last = Some((begin, begin.elapsed()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_request_is_due_at_once_and_a_storm_waits_as_long_as_the_work_took() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let ms = Duration::from_millis;
            let mut debounce = Debounce::with_gap(ms(20));
            assert_eq!(debounce.due(), None);
            let start = Instant::now();
            debounce.request();
            assert_eq!(debounce.due(), Some(start));
            let begin = debounce.begin();
            debounce.end(begin);
            debounce.request();
            debounce.request();
            assert_eq!(debounce.due(), Some(start + ms(20)));
            tokio::time::advance(ms(20)).await;
            let begin = debounce.begin();
            tokio::time::advance(ms(300)).await;
            debounce.end(begin);
            assert_eq!(debounce.due(), None);
            debounce.request();
            assert_eq!(debounce.due(), Some(begin + ms(600)));
        });
    }
}
