//! When work that many small causes ask for is done.

use std::time::Duration;

use tokio::time::Instant;

/// Lets one cause have its work done at once, and a storm of them take half of this thread at most:
/// the next work waits as long as the last one took, and at least until `gap` after its beginning.
#[derive(Debug, Default)]
pub(super) struct Pace {
    gap: Duration,
    due: Option<Instant>,
    /// When the last work began, and how long it took.
    last: Option<(Instant, Duration)>,
}

impl Pace {
    /// As [`Self::default`], with a gap.
    pub(super) const fn with_gap(gap: Duration) -> Self {
        Self { gap, due: None, last: None }
    }

    /// Asks for the work.
    pub(super) fn request(&mut self) {
        let now = Instant::now();
        let free = self.last.map_or(now, |(begin, took)| begin + self.gap.max(2 * took));
        self.due.get_or_insert_with(|| now.max(free));
    }

    /// When the work is to be done, if it was asked for.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Notes that the work begins; what is asked for from here on is work to come.
    pub(super) fn begin(&mut self) -> Instant {
        self.due = None;
        Instant::now()
    }

    /// Notes that work was done since `begin`.
    pub(super) fn end(&mut self, begin: Instant) {
        self.last = Some((begin, begin.elapsed()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_cause_waits_for_nothing_and_a_storm_for_as_long_as_the_work_took() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let ms = Duration::from_millis;
            let mut pace = Pace::with_gap(ms(20));
            assert_eq!(pace.due(), None);
            let start = Instant::now();
            pace.request();
            assert_eq!(pace.due(), Some(start));
            let begin = pace.begin();
            pace.end(begin);
            pace.request();
            pace.request();
            assert_eq!(pace.due(), Some(start + ms(20)));
            tokio::time::advance(ms(20)).await;
            let begin = pace.begin();
            tokio::time::advance(ms(300)).await;
            pace.end(begin);
            assert_eq!(pace.due(), None);
            pace.request();
            assert_eq!(pace.due(), Some(begin + ms(600)));
        });
    }
}
